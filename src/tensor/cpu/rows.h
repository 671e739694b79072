// Row kernels: the inner loops of the operations that are bound by memory, one table for each instruction set.
// rows_plain.c is the oracle of the others. Relies on cpu.h.
//
// Values are F32 or BF16 where a type is given; everything is computed in f32. Sums have a fixed order in each table,
// so a row's result depends on nothing but the row.
#ifndef LIMN_TENSOR_CPU_ROWS_H
#define LIMN_TENSOR_CPU_ROWS_H

#include "tensor/cpu/cpu.h"

enum { ROW_HEAD_DIM_MOST = 1024 };

enum { CONV_UNIT = 32 }; // channels that stand together in a convolution's input as the products read it

// What row_kernels.prepare writes: for pixel p and unit u (channels [32 u, 32 u + 32)) the 32 elements at
// to + u * plane + p * 32 elements. Channels behind the last are zero.
struct conv_prepare {
    const void *x; // [pixels, channels]
    enum dtype type;
    int64_t pixels, channels;
    const float *scale, *shift; // [channels] or both NULL: x * scale + shift
    bool silu;
    enum dtype element; // F32 or BF16
    bool round;         // f32 elements are rounded to bf16
    char *to;
    size_t plane; // bytes
};

// What row_kernels.finish does for a run of pixels: y = c + bias (+ residual), rounded once.
struct conv_finish {
    const float *c; // [pixels, c_stride]
    int64_t c_stride;
    int64_t pixels, channels;
    const float *bias;    // [channels] or NULL
    const void *residual; // like y, or NULL
    void *y;              // [pixels, y_stride]
    enum dtype type;      // of residual and y
    int64_t y_stride;
};

// Where the values from row [row], counted through all batch entries, and column [col] on lie.
static inline void *row_place(const struct matrix *matrix, int64_t row, int64_t col) {
    const int64_t batch = row / matrix->rows;
    const int64_t offset = batch * matrix->batch_stride * (matrix->batch > 1) +
                           (row - batch * matrix->rows) * matrix->row_stride + col;
    return (char *)matrix->data + dtype_bytes(matrix->type, offset);
}

struct row_kernels {
    // y = (1 + scale) * (x - mean) / sqrt(variance + eps) + shift; scale, shift: [cols] or NULL.
    void (*layer_norm)(const float *x, int64_t cols, float eps, const float *scale, const float *shift,
                       void *y, enum dtype type);
    // y = x / sqrt(mean(x^2) + eps) * weight
    void (*rms_norm)(const float *x, int64_t cols, float eps, const float *weight, void *y, enum dtype type);
    // One row of ops->norm_rope: x: [heads, head_dim], head_dim even and at most ROW_HEAD_DIM_MOST; weight, or cosines
    // and sines, may be NULL.
    void (*norm_rope)(void *x, enum dtype type, int heads, int64_t head_dim, const float *weight, float eps,
                      const float *cosines, const float *sines, enum rope_pairing pairing);
    void (*silu)(const void *x, enum dtype from, void *y, enum dtype to, int64_t count);
    void (*copy)(const void *x, enum dtype from, void *y, enum dtype to, int64_t count);
    void (*add)(const float *x, float factor, float *y, int64_t count); // y += factor * x
    // Adds to sums[c] and squares[c] those of x - pivot[c] over the pixels. x: [pixels, channels].
    void (*moments)(const void *x, enum dtype type, int64_t pixels, int64_t channels, const float *pivot,
                    double *sums, double *squares);
    // y = x * scale[c] + shift[c] (+ silu). x, y: [pixels, channels].
    void (*scale_shift)(const void *x, enum dtype from, int64_t pixels, int64_t channels, const float *scale,
                        const float *shift, bool silu, void *y, enum dtype to);
    void (*prepare)(const struct conv_prepare *job);
    void (*finish)(const struct conv_finish *job);
};

extern const struct row_kernels rows_plain;
#ifdef LIMN_X86_KERNELS
extern const struct row_kernels rows_avx2, rows_avx512, rows_avx512bf16;
#endif

#endif
