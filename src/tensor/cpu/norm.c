// Normalisations over rows: layer_norm_modulate, rms_norm, norm_rope. Relies on cpu.h, rows.h.
#include "tensor/cpu/rows.h"

#include <assert.h>

enum { TASK_VALUES = 1 << 15 }; // about so many values a task

static bool is_float(enum dtype type) {
    return type == DTYPE_F32 || type == DTYPE_BF16;
}

struct norm_job {
    const struct row_kernels *kernels;
    struct matrix x, y;
    int64_t rows, rows_a_task;
    float eps;
    const float *weight;                  // rms_norm, norm_rope
    const struct modulation *modulations; // layer_norm
    int modulation_count;
    int heads; // norm_rope
    const float *cosines, *sines;
    enum rope_pairing pairing;
    void (*row)(const struct norm_job *job, int64_t row);
};

static void norm_task(void *context, int64_t index, int worker) {
    const struct norm_job *job = context;
    const int64_t first = index * job->rows_a_task;
    const int64_t end = first + job->rows_a_task < job->rows ? first + job->rows_a_task : job->rows;
    for (int64_t row = first; row < end; row++) job->row(job, row);
}

static void norm_run(struct device *device, struct norm_job *job) {
    if (device->status.kind != ERROR_NONE) return;
    job->kernels = cpu_of(device)->rows;
    job->rows = job->x.batch * job->x.rows;
    job->rows_a_task = TASK_VALUES / job->x.cols + 1;
    if (job->rows == 0) return;
    pool_for(device->pool, (job->rows + job->rows_a_task - 1) / job->rows_a_task, norm_task, job);
}

static void layer_norm_row(const struct norm_job *job, int64_t row) {
    const struct modulation *modulation = job->modulations;
    const float *scale = NULL, *shift = NULL;
    if (job->modulation_count > 0) {
        const int64_t in_batch = row % job->x.rows;
        while (in_batch >= modulation->end) modulation++;
        scale = modulation->scale;
        shift = modulation->shift;
    }
    job->kernels->layer_norm(row_place(&job->x, row, 0), job->x.cols, job->eps, scale, shift,
                             row_place(&job->y, row, 0), job->y.type);
}

void cpu_layer_norm_modulate(struct device *device, struct matrix x, float eps,
                             const struct modulation *modulations, int modulation_count, struct matrix y) {
    assert(x.type == DTYPE_F32 && is_float(y.type));
    assert(x.batch == y.batch && x.rows == y.rows && x.cols == y.cols);
    assert(modulation_count == 0 || modulations[modulation_count - 1].end >= x.rows);
    norm_run(device, &(struct norm_job){.x = x,
                                        .y = y,
                                        .eps = eps,
                                        .modulations = modulations,
                                        .modulation_count = modulation_count,
                                        .row = layer_norm_row});
}

static void rms_norm_row(const struct norm_job *job, int64_t row) {
    job->kernels->rms_norm(row_place(&job->x, row, 0), job->x.cols, job->eps, job->weight,
                           row_place(&job->y, row, 0), job->y.type);
}

void cpu_rms_norm(struct device *device, struct matrix x, const float *weight, float eps, struct matrix y) {
    assert(x.type == DTYPE_F32 && is_float(y.type));
    assert(x.batch == y.batch && x.rows == y.rows && x.cols == y.cols);
    norm_run(device, &(struct norm_job){.x = x, .y = y, .eps = eps, .weight = weight, .row = rms_norm_row});
}

// Rows of later batch entries take the same positions as those of the first.
static void norm_rope_row(const struct norm_job *job, int64_t row) {
    const int64_t head_dim = job->x.cols / job->heads, position = row % job->x.rows * (head_dim / 2);
    job->kernels->norm_rope(row_place(&job->x, row, 0), job->x.type, job->heads, head_dim, job->weight,
                            job->eps, job->cosines ? job->cosines + position : NULL,
                            job->sines ? job->sines + position : NULL, job->pairing);
}

void cpu_norm_rope(struct device *device, struct matrix x, int heads, const float *weight, float eps,
                   const float *cosines, const float *sines, enum rope_pairing pairing) {
    assert(is_float(x.type) && heads > 0 && x.cols % heads == 0 && x.cols / heads % 2 == 0);
    assert(x.cols / heads <= ROW_HEAD_DIM_MOST && !cosines == !sines);
    if (!weight && !cosines) return;
    norm_run(device, &(struct norm_job){.x = x,
                                        .y = x,
                                        .eps = eps,
                                        .weight = weight,
                                        .heads = heads,
                                        .cosines = cosines,
                                        .sines = sines,
                                        .pairing = pairing,
                                        .row = norm_rope_row});
}
