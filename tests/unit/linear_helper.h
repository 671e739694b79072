// Linear layers with random operands of any shape: strides, batches, parts, scales, side branches, epilogues; and their runs on an
// instruction set with one thread, two and three.
#ifndef LIMN_TESTS_LINEAR_HELPER_H
#define LIMN_TESTS_LINEAR_HELPER_H

#include "tensor/device.h"
#include "tensor/ops.h"

#include "unit.h"

#include <math.h>

enum { LINEAR_BRANCHES = 3 };

struct linear_shape {
    int64_t batch, rows, in, out[3]; // out: of up to three parts, 0 behind the last
    enum dtype weights, x, y;
    enum epilogue_kind epilogue;
    bool bias, scales, padded_strides;
    int branches; // the third one shares the first one's intermediate
    int64_t rank; // of the last branch that has one of its own; others have 5
};

struct linear_setup {
    struct linear linear;
    struct matrix x, y;
    struct epilogue epilogue;
    struct modulation modulations[2];
    float *w_values, *x_values, *y_before, *bias, *scales, *gates, *down[LINEAR_BRANCHES],
        *up[LINEAR_BRANCHES];
    void *stored, *stored_down[2], *stored_up[2];
    int64_t y_count;
};

// A small generator of its own: the same numbers everywhere.
static uint64_t linear_random;

static inline float linear_uniform(void) { // [-1, 1)
    linear_random = linear_random * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(linear_random >> 40) / (1 << 23) - 1);
}

static inline float linear_normal(void) { // about, with variance 1
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += linear_uniform();
    return sum / 2;
}

// Stores a value and gives back what was stored. Eight bits take the value's place by any code that is a number.
static inline float linear_put(enum dtype type, void *to, int64_t at, float value) {
    if (type == DTYPE_F32) return ((float *)to)[at] = value;
    if (type == DTYPE_F8_E4M3) {
        float stored;
        ((uint8_t *)to)[at] = (uint8_t)((value < 0 ? 0x80 : 0) | ((int)(fabsf(value) * 1000) % 0x60));
        dtype_decode(type, (uint8_t *)to + at, &stored, 1);
        return stored;
    }
    const uint16_t bits = type == DTYPE_F16 ? f32_to_f16(value) : f32_to_bf16(value);
    ((uint16_t *)to)[at] = bits;
    return type == DTYPE_F16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

// Normal numbers times [deviation], or uniform ones where that is 0.
static inline void *linear_store(enum dtype type, int64_t count, float deviation, float **values) {
    void *stored = malloc(dtype_bytes(type, count) + 1);
    *values = malloc((size_t)count * sizeof **values);
    for (int64_t i = 0; i < count; i++)
        (*values)[i] =
            linear_put(type, stored, i, deviation > 0 ? deviation * linear_normal() : linear_uniform());
    return stored;
}

static inline void linear_make_branch(struct linear_setup *s, const struct linear_shape *shape, int index,
                                      float deviation) {
    const bool last = index == 1 || index == shape->branches - 1;
    const int64_t rank = last && shape->rank ? shape->rank : 5;
    const int64_t first = index ? 3 : 0, rows = s->linear.out - 2 * first;
    s->stored_down[index] = linear_store(shape->weights, rank * shape->in, deviation, &s->down[index]);
    s->stored_up[index] = linear_store(shape->weights, rows * rank, deviation, &s->up[index]);
    s->linear.branches[index] = (struct low_rank){
        .down = {s->stored_down[index], shape->weights, rank, dtype_bytes(shape->weights, shape->in)},
        .up = {s->stored_up[index], shape->weights, rows, dtype_bytes(shape->weights, rank)},
        .first_output = first,
        .scale = 0.5f + (float)index};
    s->linear.branch_count = index + 1;
}

// The third branch: over the first one's intermediate, on other rows; what is computed once is used twice.
static inline void linear_share_branch(struct linear_setup *s) {
    struct low_rank *branch = &s->linear.branches[s->linear.branch_count++];
    *branch = s->linear.branches[0];
    const int64_t skip = branch->up.rows / 3;
    branch->up.data = (const char *)branch->up.data + (size_t)skip * branch->up.row_bytes;
    branch->up.rows -= skip;
    branch->first_output = skip / 2;
    s->down[2] = s->down[0];
    s->up[2] = s->up[0] + skip * branch->down.rows;
}

static inline int64_t linear_columns(const struct linear_setup *s) {
    return s->epilogue.kind == EPILOGUE_GATED_SILU ? s->linear.out / 2 : s->linear.out;
}

static inline void linear_make_rows(const struct linear_shape *shape, bool normal, struct linear_setup *s) {
    const int64_t pad = shape->padded_strides ? 3 : 0, cols = linear_columns(s);
    s->x = (struct matrix){NULL, shape->x, shape->batch, shape->rows, shape->in, shape->in + pad, 0};
    s->x.batch_stride = shape->rows * s->x.row_stride + 2 * pad;
    s->x.data = linear_store(shape->x, shape->batch * s->x.batch_stride, normal, &s->x_values);
    s->y = (struct matrix){NULL, shape->y, shape->batch, shape->rows, cols, cols + pad, 0};
    s->y.batch_stride = shape->rows * s->y.row_stride + pad;
    s->y_count = shape->batch * s->y.batch_stride;
    s->y.data = linear_store(shape->y, s->y_count, normal, &s->y_before);
}

// normal: operands as they are in models, about; otherwise uniform in [-1, 1).
static inline void linear_make(const struct linear_shape *shape, enum compute compute, bool normal,
                               struct linear_setup *s) {
    *s = (struct linear_setup){.linear = {.in = shape->in, .compute = compute},
                               .epilogue = {shape->epilogue, s->modulations, 2}};
    linear_random = 7;
    for (int i = 0; i < 3 && shape->out[i]; i++) s->linear.out += shape->out[i];
    const size_t out = (size_t)s->linear.out;
    s->stored = linear_store(shape->weights, s->linear.out * shape->in, normal ? 0.05f : 0, &s->w_values);
    s->bias = malloc(out * sizeof(float));
    s->scales = malloc(out * sizeof(float));
    s->gates = malloc(2 * out * sizeof(float));
    for (size_t i = 0; i < out; i++)
        s->bias[i] = linear_uniform(), s->scales[i] = 0.5f + 0.25f * linear_uniform();
    for (size_t i = 0; i < 2 * out; i++) s->gates[i] = linear_uniform();
    int64_t first = 0;
    for (int i = 0; i < 3 && shape->out[i]; first += shape->out[i++])
        s->linear.parts[s->linear.part_count++] =
            (struct weight_rows){.data = (char *)s->stored + dtype_bytes(shape->weights, first * shape->in),
                                 .type = shape->weights,
                                 .rows = shape->out[i],
                                 .row_bytes = dtype_bytes(shape->weights, shape->in),
                                 .scales = shape->scales && i != 1 ? s->scales + first : NULL,
                                 .scale_stride = i == 0};
    if (shape->bias) s->linear.bias = s->bias;
    for (int i = 0; i < shape->branches && i < 2; i++) linear_make_branch(s, shape, i, normal ? 0.1f : 0);
    if (shape->branches > 2) linear_share_branch(s);
    linear_make_rows(shape, normal, s);
    s->modulations[0] = (struct modulation){.end = shape->rows / 3, .gate = s->gates};
    s->modulations[1] = (struct modulation){.end = shape->rows, .gate = s->gates + out};
}

static inline void linear_drop(struct linear_setup *s) {
    void *all[] = {s->w_values,     s->x_values,    s->y_before, s->bias,           s->scales,
                   s->gates,        s->stored,      s->x.data,   s->y.data,         s->down[0],
                   s->down[1],      s->up[0],       s->up[1],    s->stored_down[0], s->stored_down[1],
                   s->stored_up[0], s->stored_up[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

// Value [at] of y's memory.
static inline double linear_value(const struct linear_setup *s, int64_t at) {
    return s->y.type == DTYPE_F32 ? ((const float *)s->y.data)[at]
                                  : bf16_to_f32(((const uint16_t *)s->y.data)[at]);
}

// What output [n] of the layer is multiplied with.
static inline float linear_scale(const struct linear *linear, int64_t n) {
    int64_t first = 0;
    for (int i = 0; i < linear->part_count; first += linear->parts[i++].rows)
        if (n >= first && n < first + linear->parts[i].rows && linear->parts[i].scales)
            return linear->parts[i].scales[(n - first) * linear->parts[i].scale_stride];
    return 1;
}

// What the side branches add to output [n] for the row of x at [x_at]; *size grows by the sum of the magnitudes.
static inline double linear_branches(const struct linear_setup *s, int64_t x_at, int64_t n, double *size) {
    double sum = 0;
    for (int b = 0; b < s->linear.branch_count; b++) {
        const struct low_rank *branch = &s->linear.branches[b];
        const int64_t in = s->linear.in, rank = branch->down.rows, row = n - branch->first_output;
        for (int64_t r = 0; r < rank && row >= 0 && row < branch->up.rows; r++) {
            double inner = 0, inner_size = 0;
            for (int64_t k = 0; k < in; k++) {
                const double term = (double)s->down[b][r * in + k] * s->x_values[x_at + k];
                inner += term;
                inner_size += fabs(term);
            }
            sum += branch->scale * inner * s->up[b][row * rank + r];
            *size += fabs(branch->scale * inner_size * s->up[b][row * rank + r]);
        }
    }
    return sum;
}

// What lies between the rows of y must stay as it was.
static inline void linear_check_gaps(const struct linear_setup *s) {
    for (int64_t at = 0; at < s->y_count; at++) {
        const int64_t inside = at % s->y.batch_stride, row = inside / s->y.row_stride;
        if (row < s->y.rows && inside % s->y.row_stride < linear_columns(s)) continue;
        assert_true(linear_value(s, at) == (double)s->y_before[at]);
    }
}

// isa: NULL for the best one.
static inline void linear_run(struct linear_setup *s, const char *isa, int threads) {
    struct error error = {0};
    struct pool *pool = pool_open(threads, &error);
    assert_non_null(pool);
    const struct device_options options = {.pool = pool, .isa = isa, .workspace_bytes = 256 << 20};
    struct device *device = device_open_cpu(&options, &error);
    assert_ok(device, error);
    device->ops->linear(device, &s->linear, s->x, &s->epilogue, s->y);
    assert_ok(device_status(device, &error), error);
    assert_int_equal(workspace_mark(device), 0);
    device_close(device);
    pool_close(pool);
}

// Runs a layer with one thread, has [check] look at the result (at every [step]th row), and then with two and three, which must
// give the same bytes.
static inline void linear_run_threads(const char *isa, const struct linear_shape *shape, enum compute compute,
                                      bool normal, void (*check)(const struct linear_setup *, int step),
                                      int step) {
    void *first = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        struct linear_setup s;
        linear_make(shape, compute, normal, &s);
        linear_run(&s, isa, threads);
        const size_t bytes = dtype_bytes(shape->y, s.y_count);
        if (threads == 1) {
            check(&s, step);
            linear_check_gaps(&s);
            first = malloc(bytes);
            memcpy(first, s.y.data, bytes);
        } else {
            assert_memory_equal(first, s.y.data, bytes);
        }
        linear_drop(&s);
    }
    free(first);
}

#endif
