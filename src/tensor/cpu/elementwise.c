// What works value by value or row by row: silu, add, copy, embed, timestep_embedding, scale_shift.
// Relies on gemm.h, rows.h.
#include "tensor/cpu/gemm.h"
#include "tensor/cpu/rows.h"

#include <assert.h>
#include <math.h>

enum { TASK_VALUES = 1 << 16 }; // about so many values a task

static bool is_float(enum dtype type) {
    return type == DTYPE_F32 || type == DTYPE_BF16;
}

// Whether the values of a matrix lie without gaps, so that it is one long row.
static bool is_dense(const struct matrix *matrix) {
    return (matrix->rows == 1 || matrix->row_stride == matrix->cols) &&
           (matrix->batch == 1 || matrix->batch_stride == matrix->rows * matrix->cols);
}

struct element_job {
    const struct row_kernels *kernels;
    struct matrix x, y;
    int64_t runs;   // runs a row
    int64_t length; // values a run
    float factor;
    void (*run)(const struct element_job *job, const void *x, void *y, int64_t count);
};

static void element_task(void *context, int64_t index, int worker) {
    const struct element_job *job = context;
    const int64_t row = index / job->runs, col = index % job->runs * job->length;
    const int64_t count = job->x.cols - col < job->length ? job->x.cols - col : job->length;
    job->run(job, row_place(&job->x, row, col), row_place(&job->y, row, col), count);
}

// Rows shorter than a task are handed out several at a time only where they lie side by side.
static void element_run(struct device *device, struct element_job *job) {
    assert(is_float(job->x.type) && is_float(job->y.type));
    assert(job->x.batch == job->y.batch && job->x.rows == job->y.rows && job->x.cols == job->y.cols);
    if (device->status.kind != ERROR_NONE) return;
    job->kernels = cpu_of(device)->rows;
    if (is_dense(&job->x) && is_dense(&job->y)) {
        const int64_t values = job->x.batch * job->x.rows * job->x.cols;
        job->x = matrix_dense(job->x.data, job->x.type, 1, values);
        job->y = matrix_dense(job->y.data, job->y.type, 1, values);
    }
    job->length = TASK_VALUES;
    job->runs = (job->x.cols + job->length - 1) / job->length;
    pool_for(device->pool, job->x.batch * job->x.rows * job->runs, element_task, job);
}

static void silu_run(const struct element_job *job, const void *x, void *y, int64_t count) {
    job->kernels->silu(x, job->x.type, y, job->y.type, count);
}

void cpu_silu(struct device *device, struct matrix x, struct matrix y) {
    element_run(device, &(struct element_job){.x = x, .y = y, .run = silu_run});
}

static void copy_run(const struct element_job *job, const void *x, void *y, int64_t count) {
    job->kernels->copy(x, job->x.type, y, job->y.type, count);
}

void cpu_copy(struct device *device, struct matrix x, struct matrix y) {
    element_run(device, &(struct element_job){.x = x, .y = y, .run = copy_run});
}

static void add_run(const struct element_job *job, const void *x, void *y, int64_t count) {
    job->kernels->add(x, job->factor, y, count);
}

void cpu_add(struct device *device, struct matrix x, float factor, struct matrix y) {
    assert(x.type == DTYPE_F32 && y.type == DTYPE_F32);
    element_run(device, &(struct element_job){.x = x, .y = y, .factor = factor, .run = add_run});
}

struct embed_job {
    const struct gemm_kernels *kernels;
    const struct weight_rows *table;
    const int32_t *tokens;
    struct matrix y;
};

static void embed_task(void *context, int64_t index, int worker) {
    const struct embed_job *job = context;
    const struct weight_rows *table = job->table;
    const int64_t token = job->tokens[index];
    float *y = row_place(&job->y, index, 0);
    const struct stored_row row = weight_row(table, token, job->y.cols);
    job->kernels->decode_f32(&row, 0, job->y.cols, false, y);
    if (!table->scales) return;
    const float scale = table->scales[token * table->scale_stride];
    for (int64_t i = 0; i < job->y.cols; i++) y[i] *= scale;
}

void cpu_embed(struct device *device, const struct weight_rows *table, const int32_t *tokens, int64_t count,
               struct matrix y) {
    assert(y.type == DTYPE_F32 && y.batch * y.rows == count);
    if (device->status.kind != ERROR_NONE) return;
    struct embed_job job = {cpu_of(device)->gemm, table, tokens, y};
    pool_for(device->pool, count, embed_task, &job);
}

// The exponent and the angle are rounded to f32 where the reference (diffusers, get_timestep_embedding) rounds them.
void cpu_timestep_embedding(struct device *device, float value, struct matrix e) {
    assert(e.type == DTYPE_F32 && e.batch == 1 && e.rows == 1 && e.cols % 2 == 0);
    if (device->status.kind != ERROR_NONE) return;
    const int64_t half = e.cols / 2;
    float *out = e.data;
    for (int64_t k = 0; k < half; k++) {
        const float exponent = (float)-9.210340371976184 * (float)k / (float)half; // -ln 10000
        const float angle = value * (float)exp((double)exponent);
        out[k] = (float)cos((double)angle);
        out[half + k] = (float)sin((double)angle);
    }
}

struct scale_shift_job {
    const struct row_kernels *kernels;
    const struct feature_map *x, *y;
    const float *scale, *shift;
    bool silu;
    int64_t pixels; // a task
};

static void scale_shift_task(void *context, int64_t index, int worker) {
    const struct scale_shift_job *job = context;
    const int64_t area = job->x->height * job->x->width, tasks = (area + job->pixels - 1) / job->pixels;
    const int64_t batch = index / tasks, first = index % tasks * job->pixels;
    const int64_t count = area - first < job->pixels ? area - first : job->pixels;
    const int64_t channels = job->x->channels, offset = (batch * area + first) * channels;
    job->kernels->scale_shift((const char *)job->x->data + dtype_bytes(job->x->type, offset), job->x->type,
                              count, channels, job->scale + batch * channels, job->shift + batch * channels,
                              job->silu, (char *)job->y->data + dtype_bytes(job->y->type, offset),
                              job->y->type);
}

void cpu_scale_shift(struct device *device, const struct feature_map *x, const float *scale,
                     const float *shift, bool silu, struct feature_map *y) {
    assert(is_float(x->type) && is_float(y->type));
    assert(x->batch == y->batch && x->height == y->height && x->width == y->width &&
           x->channels == y->channels);
    if (device->status.kind != ERROR_NONE) return;
    struct scale_shift_job job = {cpu_of(device)->rows,         x, y, scale, shift, silu,
                                  TASK_VALUES / x->channels + 1};
    const int64_t tasks = (x->height * x->width + job.pixels - 1) / job.pixels;
    pool_for(device->pool, x->batch * tasks, scale_shift_task, &job);
}
