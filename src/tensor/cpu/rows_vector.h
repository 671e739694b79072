// Row kernels over vectors of LANES floats: the body of rows_avx2.c, rows_avx512.c and rows_avx512bf16.c, each of which
// includes a definition of the vectors first. Relies on rows.h and lanes_avx2.h or lanes_avx512.h.
#ifndef LIMN_TENSOR_CPU_ROWS_VECTOR_H
#define LIMN_TENSOR_CPU_ROWS_VECTOR_H

#include "tensor/cpu/rows.h"

#include <math.h>
#include <string.h>

// Bodies that are compiled once for each type.
#define ALWAYS static inline __attribute__((always_inline))

ALWAYS vector load(const void *from, enum dtype type, int64_t i) {
    return type == DTYPE_BF16 ? v_load_bf16((const uint16_t *)from + i) : v_load((const float *)from + i);
}

ALWAYS vector load_part(const void *from, enum dtype type, int64_t i, int64_t count) {
    return type == DTYPE_BF16 ? v_load_bf16_part((const uint16_t *)from + i, count)
                              : v_load_part((const float *)from + i, count);
}

ALWAYS void store(void *to, enum dtype type, int64_t i, vector a) {
    if (type == DTYPE_BF16)
        v_store_bf16((uint16_t *)to + i, a);
    else
        v_store((float *)to + i, a);
}

ALWAYS void store_part(void *to, enum dtype type, int64_t i, vector a, int64_t count) {
    if (type == DTYPE_BF16)
        v_store_bf16_part((uint16_t *)to + i, a, count);
    else
        v_store_part((float *)to + i, a, count);
}

// e^a: 2^n times the Taylor series of e^r to r^7, r = a - n ln 2 (relative error below 2e-7). Below -87 a is taken as
// that; from 88.4 on the result is infinite.
ALWAYS vector v_exp(vector a) {
    a = v_clamp(a, -87.0f, 89.0f);
    const vector n = v_round(v_mul(a, v_set(1.44269504f)));
    vector r = v_fma(n, v_set(-0.693359375f), a);
    r = v_fma(n, v_set(2.12194440e-4f), r);
    vector p = v_fma(v_set(1.0f / 5040), r, v_set(1.0f / 720));
    p = v_fma(p, r, v_set(1.0f / 120));
    p = v_fma(p, r, v_set(1.0f / 24));
    p = v_fma(p, r, v_set(1.0f / 6));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p, r, v_set(1.0f));
    p = v_fma(p, r, v_set(1.0f));
    return v_scale(p, n);
}

// a / (1 + e^-a); [rough]: for values that are rounded to bf16 afterwards.
ALWAYS vector v_silu(vector a, bool rough) {
    if (rough)
        return v_mul(a, v_inverse_rough(v_add(v_set(1.0f), v_exp2_rough(v_mul(a, v_set(-1.44269504f))))));
    return v_div(a, v_add(v_set(1.0f), v_exp(v_sub(v_set(0), a))));
}

// Four sums side by side, so that one addition need not wait for the last; joined in a fixed order.
ALWAYS float sum_row(const float *x, int64_t count) {
    vector sums[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (int k = 0; k < 4; k++) sums[k] = v_add(sums[k], v_load(x + i + k * LANES));
    for (; i < count; i += LANES) sums[0] = v_add(sums[0], v_load_part(x + i, count - i));
    return v_sum(v_add(v_add(sums[0], sums[1]), v_add(sums[2], sums[3])));
}

ALWAYS float sum_squares(const float *x, float mean, int64_t count) {
    vector sums[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
    const vector middle = v_set(mean);
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
        for (int k = 0; k < 4; k++) {
            const vector a = v_sub(v_load(x + i + k * LANES), middle);
            sums[k] = v_fma(a, a, sums[k]);
        }
    float tail[LANES];
    for (; i < count; i += LANES) {
        v_store(tail, middle); // lanes behind the end add nothing
        memcpy(tail, x + i, (size_t)(count - i < LANES ? count - i : LANES) * sizeof *tail);
        const vector a = v_sub(v_load(tail), middle);
        sums[0] = v_fma(a, a, sums[0]);
    }
    return v_sum(v_add(v_add(sums[0], sums[1]), v_add(sums[2], sums[3])));
}

ALWAYS void layer_norm_typed(const float *x, int64_t cols, float eps, const float *scale, const float *shift,
                             void *y, enum dtype type) {
    const float mean = sum_row(x, cols) / (float)cols;
    const vector inverse = v_set(1.0f / sqrtf(sum_squares(x, mean, cols) / (float)cols + eps));
    const vector middle = v_set(mean), one = v_set(1.0f), zero = v_set(0);
    int64_t i = 0;
    for (; i + LANES <= cols; i += LANES) {
        const vector a = v_mul(v_sub(v_load(x + i), middle), inverse);
        const vector factor = scale ? v_add(one, v_load(scale + i)) : one;
        store(y, type, i, v_fma(a, factor, shift ? v_load(shift + i) : zero));
    }
    if (i == cols) return;
    const int64_t left = cols - i;
    const vector a = v_mul(v_sub(v_load_part(x + i, left), middle), inverse);
    const vector factor = scale ? v_add(one, v_load_part(scale + i, left)) : one;
    store_part(y, type, i, v_fma(a, factor, shift ? v_load_part(shift + i, left) : zero), left);
}

static void layer_norm(const float *x, int64_t cols, float eps, const float *scale, const float *shift,
                       void *y, enum dtype type) {
    if (type == DTYPE_BF16)
        layer_norm_typed(x, cols, eps, scale, shift, y, DTYPE_BF16);
    else
        layer_norm_typed(x, cols, eps, scale, shift, y, DTYPE_F32);
}

ALWAYS void rms_norm_typed(const float *x, int64_t cols, float eps, const float *weight, void *y,
                           enum dtype type) {
    const vector inverse = v_set(1.0f / sqrtf(sum_squares(x, 0, cols) / (float)cols + eps));
    int64_t i = 0;
    for (; i + LANES <= cols; i += LANES)
        store(y, type, i, v_mul(v_mul(v_load(x + i), inverse), v_load(weight + i)));
    if (i < cols)
        store_part(y, type, i,
                   v_mul(v_mul(v_load_part(x + i, cols - i), inverse), v_load_part(weight + i, cols - i)),
                   cols - i);
}

static void rms_norm(const float *x, int64_t cols, float eps, const float *weight, void *y, enum dtype type) {
    if (type == DTYPE_BF16)
        rms_norm_typed(x, cols, eps, weight, y, DTYPE_BF16);
    else
        rms_norm_typed(x, cols, eps, weight, y, DTYPE_F32);
}

// A head is read once into [head] (normalised), then rotated into its place.
ALWAYS void read_head(const void *x, enum dtype type, int64_t base, int64_t head_dim, const float *weight,
                      float eps, float *head) {
    vector sums = v_set(0);
    for (int64_t i = 0; i < head_dim; i += LANES) {
        const vector a =
            head_dim - i >= LANES ? load(x, type, base + i) : load_part(x, type, base + i, head_dim - i);
        sums = v_fma(a, a, sums);
        v_store(head + i, a);
    }
    if (!weight) return;
    const vector inverse = v_set(1.0f / sqrtf(v_sum(sums) / (float)head_dim + eps));
    for (int64_t i = 0; i < head_dim; i += LANES)
        v_store(head + i, v_mul(v_load(head + i), v_mul(inverse, v_load_part(weight + i, head_dim - i))));
}

ALWAYS void norm_rope_typed(void *x, enum dtype type, int heads, int64_t head_dim, const float *weight,
                            float eps, const float *cosines, const float *sines, enum rope_pairing pairing) {
    float head[ROW_HEAD_DIM_MOST + LANES];
    const int64_t half = head_dim / 2;
    for (int64_t base = 0; base < heads * head_dim; base += head_dim) {
        read_head(x, type, base, head_dim, weight, eps, head);
        if (cosines && pairing == ROPE_HALVES) {
            for (int64_t i = 0; i < half; i += LANES) {
                const int64_t left = half - i;
                const vector a = v_load_part(head + i, left), b = v_load_part(head + half + i, left);
                const vector c = v_load_part(cosines + i, left), s = v_load_part(sines + i, left);
                store_part(x, type, base + i, v_sub(v_mul(a, c), v_mul(b, s)), left);
                store_part(x, type, base + half + i, v_add(v_mul(b, c), v_mul(a, s)), left);
            }
            continue;
        }
        for (int64_t i = 0; i < head_dim; i += LANES) {
            vector a = v_load(head + i);
            if (cosines) a = v_rotate_pairs(a, cosines + i / 2, sines + i / 2, head_dim - i);
            store_part(x, type, base + i, a, head_dim - i);
        }
    }
}

static void norm_rope(void *x, enum dtype type, int heads, int64_t head_dim, const float *weight, float eps,
                      const float *cosines, const float *sines, enum rope_pairing pairing) {
    if (type == DTYPE_BF16)
        norm_rope_typed(x, DTYPE_BF16, heads, head_dim, weight, eps, cosines, sines, pairing);
    else
        norm_rope_typed(x, DTYPE_F32, heads, head_dim, weight, eps, cosines, sines, pairing);
}

static void silu(const void *x, enum dtype from, void *y, enum dtype to, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(y, to, i, v_silu(load(x, from, i), to == DTYPE_BF16));
    if (i < count)
        store_part(y, to, i, v_silu(load_part(x, from, i, count - i), to == DTYPE_BF16), count - i);
}

static void copy(const void *x, enum dtype from, void *y, enum dtype to, int64_t count) {
    if (from == to) {
        memcpy(y, x, dtype_bytes(from, count));
        return;
    }
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(y, to, i, load(x, from, i));
    if (i < count) store_part(y, to, i, load_part(x, from, i, count - i), count - i);
}

static void add(const float *x, float factor, float *y, int64_t count) {
    const vector f = v_set(factor);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) v_store(y + i, v_fma(f, v_load(x + i), v_load(y + i)));
    if (i < count)
        v_store_part(y + i, v_fma(f, v_load_part(x + i, count - i), v_load_part(y + i, count - i)),
                     count - i);
}

// Runs of up to 32 pixels are summed in f32, the runs in f64; a run stays in the cache while its channels are walked.
ALWAYS void moments_typed(const void *x, enum dtype type, int64_t pixels, int64_t channels,
                          const float *pivot, double *sums, double *squares) {
    for (int64_t first = 0; first < pixels; first += 32) {
        const int64_t end = first + 32 < pixels ? first + 32 : pixels;
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t left = channels - c;
            const vector middle = v_load_part(pivot + c, left);
            vector sum = v_set(0), square = v_set(0);
            for (int64_t p = first; p < end; p++) {
                const int64_t i = p * channels + c;
                const vector value = left >= LANES ? load(x, type, i) : load_part(x, type, i, left);
                const vector a = v_sub(value, middle);
                sum = v_add(sum, a);
                square = v_fma(a, a, square);
            }
            v_add_to(sums + c, sum, left);
            v_add_to(squares + c, square, left);
        }
    }
}

static void moments(const void *x, enum dtype type, int64_t pixels, int64_t channels, const float *pivot,
                    double *sums, double *squares) {
    if (type == DTYPE_BF16)
        moments_typed(x, DTYPE_BF16, pixels, channels, pivot, sums, squares);
    else
        moments_typed(x, DTYPE_F32, pixels, channels, pivot, sums, squares);
}

static void scale_shift(const void *x, enum dtype from, int64_t pixels, int64_t channels, const float *scale,
                        const float *shift, bool with_silu, void *y, enum dtype to) {
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < channels; c += LANES) {
            const int64_t i = p * channels + c, left = channels - c;
            vector a = v_fma(load_part(x, from, i, left), v_load_part(scale + c, left),
                             v_load_part(shift + c, left));
            if (with_silu) a = v_silu(a, to == DTYPE_BF16);
            store_part(y, to, i, a, left);
        }
}

// What happens to a vector on its way into the strip.
ALWAYS vector prepare_vector(vector a, vector scale, vector shift, enum dtype element, bool round,
                             bool affine, bool with_silu) {
    if (affine) a = v_fma(a, scale, shift);
    if (with_silu) a = v_silu(a, round || element == DTYPE_BF16);
    return round && element == DTYPE_F32 ? v_round_bf16(a) : a;
}

// The last unit, where it is not full.
ALWAYS void prepare_part(const struct conv_prepare *job, enum dtype type, enum dtype element, bool affine,
                         bool with_silu, int64_t pixel, int64_t first, char *to) {
    const vector zero = v_set(0);
    for (int64_t c = 0; c < CONV_UNIT; c += LANES) {
        const int64_t left = job->channels - first - c;
        if (left <= 0) {
            store(to, element, c, zero);
            continue;
        }
        const vector a = load_part(job->x, type, pixel * job->channels + first + c, left);
        const vector scale = affine ? v_load_part(job->scale + first + c, left) : zero;
        const vector shift = affine ? v_load_part(job->shift + first + c, left) : zero;
        store(to, element, c, prepare_vector(a, scale, shift, element, job->round, affine, with_silu));
    }
}

ALWAYS void prepare_typed(const struct conv_prepare *job, enum dtype type, enum dtype element, bool affine,
                          bool with_silu) {
    const int64_t whole = job->channels / CONV_UNIT * CONV_UNIT;
    const vector zero = v_set(0);
    for (int64_t p = 0; p < job->pixels; p++) {
        char *to = job->to + (size_t)p * dtype_bytes(element, CONV_UNIT);
        for (int64_t first = 0; first < whole; first += CONV_UNIT, to += job->plane)
            for (int64_t c = 0; c < CONV_UNIT; c += LANES) {
                const vector a = load(job->x, type, p * job->channels + first + c);
                const vector scale = affine ? v_load(job->scale + first + c) : zero;
                const vector shift = affine ? v_load(job->shift + first + c) : zero;
                store(to, element, c,
                      prepare_vector(a, scale, shift, element, job->round, affine, with_silu));
            }
        if (whole < job->channels) prepare_part(job, type, element, affine, with_silu, p, whole, to);
    }
}

// The ways of the autoencoder's convolutions are compiled each by itself.
ALWAYS void prepare_way(const struct conv_prepare *job, enum dtype type, enum dtype element) {
    if (job->scale && job->silu)
        prepare_typed(job, type, element, true, true);
    else if (!job->scale && !job->silu)
        prepare_typed(job, type, element, false, false);
    else
        prepare_typed(job, type, element, job->scale != NULL, job->silu);
}

static void prepare(const struct conv_prepare *job) {
    if (job->type == DTYPE_BF16 && job->element == DTYPE_BF16)
        prepare_way(job, DTYPE_BF16, DTYPE_BF16);
    else if (job->type == DTYPE_F32 && job->element == DTYPE_BF16)
        prepare_way(job, DTYPE_F32, DTYPE_BF16);
    else if (job->type == DTYPE_F32)
        prepare_way(job, DTYPE_F32, DTYPE_F32);
    else
        prepare_way(job, DTYPE_BF16, DTYPE_F32);
}

ALWAYS void finish_typed(const struct conv_finish *job, enum dtype type, bool with_residual) {
    const int64_t whole = job->channels / LANES * LANES, left = job->channels - whole;
    const vector zero = v_set(0);
    for (int64_t p = 0; p < job->pixels; p++) {
        const float *from = job->c + p * job->c_stride;
        const int64_t at = p * job->y_stride;
        for (int64_t c = 0; c < whole; c += LANES) {
            vector a = v_add(v_load(from + c), job->bias ? v_load(job->bias + c) : zero);
            if (with_residual) a = v_add(a, load(job->residual, type, at + c));
            store(job->y, type, at + c, a);
        }
        if (left == 0) continue;
        vector a =
            v_add(v_load_part(from + whole, left), job->bias ? v_load_part(job->bias + whole, left) : zero);
        if (with_residual) a = v_add(a, load_part(job->residual, type, at + whole, left));
        store_part(job->y, type, at + whole, a, left);
    }
}

static void finish(const struct conv_finish *job) {
    if (job->type == DTYPE_BF16 && job->residual)
        finish_typed(job, DTYPE_BF16, true);
    else if (job->type == DTYPE_BF16)
        finish_typed(job, DTYPE_BF16, false);
    else
        finish_typed(job, DTYPE_F32, job->residual != NULL);
}

// The table of the file that includes this one.
#define ROWS_VECTOR_TABLE                                                                                    \
    {                                                                                                        \
        .layer_norm = layer_norm, .rms_norm = rms_norm, .norm_rope = norm_rope, .silu = silu, .copy = copy,  \
        .add = add, .moments = moments, .scale_shift = scale_shift, .prepare = prepare, .finish = finish,    \
    }

#endif
