// Single rows with AVX-512: dot products, softmax, epilogues. Relies on gemm_isa.h, vector_avx512.h.
#include "tensor/cpu/gemm_isa.h"
#include "tensor/cpu/vector_avx512.h"

#include <math.h>

enum { LANES = GEMM_LANES };

static inline __m512 rounded(__m512 x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(round_bf16_512(x), 16));
}

// [rows] <= 4 rows at a time, so that x is read once for them and each row is a stream of its own.
static inline __attribute__((always_inline)) void dot_rows(const enum dtype type, const char *from,
                                                           size_t row_bytes, const int rows, const bool round,
                                                           const float *x, int64_t depth, float *y) {
    const int64_t bytes = type == DTYPE_F32 ? 4 : 2;
    __m512 sums[4][2];
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    int64_t d = 0;
    for (; d + 2 * LANES <= depth; d += 2 * LANES) {
        const __m512 x0 = _mm512_loadu_ps(x + d), x1 = _mm512_loadu_ps(x + d + LANES);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const char *row = from + (size_t)r * row_bytes + d * bytes;
            for (int64_t i = 0; i < 2 * LANES * bytes; i += 64) _mm_prefetch(row + 1024 + i, _MM_HINT_T0);
            __m512 w0 = load_512(type, row, 0xffff), w1 = load_512(type, row + LANES * bytes, 0xffff);
            if (round) w0 = rounded(w0), w1 = rounded(w1);
            sums[r][0] = _mm512_fmadd_ps(w0, x0, sums[r][0]);
            sums[r][1] = _mm512_fmadd_ps(w1, x1, sums[r][1]);
        }
    }
    for (; d < depth; d += LANES) {
        const __mmask16 mask = lanes_left(depth - d);
        const __m512 x0 = _mm512_maskz_loadu_ps(mask, x + d);
        for (int r = 0; r < rows; r++) {
            __m512 w = load_512(type, from + (size_t)r * row_bytes + d * bytes, mask);
            if (round) w = rounded(w);
            sums[r][0] = _mm512_fmadd_ps(w, x0, sums[r][0]);
        }
    }
    for (int r = 0; r < rows; r++) y[r] = _mm512_reduce_add_ps(_mm512_add_ps(sums[r][0], sums[r][1]));
}

static inline __attribute__((always_inline)) void dot_type(const enum dtype type, const void *rows,
                                                           size_t row_bytes, int64_t count, const bool round,
                                                           const float *x, int64_t depth, float *y) {
    int64_t r = 0;
    for (; r + 4 <= count; r += 4)
        dot_rows(type, (const char *)rows + (size_t)r * row_bytes, row_bytes, 4, round, x, depth, y + r);
    for (; r < count; r++)
        dot_rows(type, (const char *)rows + (size_t)r * row_bytes, row_bytes, 1, round, x, depth, y + r);
}

// Of types that must be decoded: row after row, a piece at a time.
static void decoded_products(const struct stored_row *first, size_t row_bytes, int64_t count, bool round,
                             const float *x, int64_t depth, float *y) {
    enum { PIECE = 1024 };
    _Static_assert(PIECE % STORED_STEP_MOST == 0, "a piece ends where a block does");
    float values[PIECE];
    struct stored_row row = *first;
    for (int64_t r = 0; r < count; r++, row.index++) {
        float total = 0;
        for (int64_t at = 0; at < depth; at += PIECE) {
            const int64_t some = depth - at < PIECE ? depth - at : PIECE;
            float sum;
            gemm_decode_f32_avx512(&row, at, some, round, values);
            dot_rows(DTYPE_F32, (const char *)values, 0, 1, false, x + at, some, &sum);
            total += sum;
        }
        y[r] = total;
        row.data = (const char *)row.data + row_bytes;
    }
}

void gemm_row_products_avx512(const struct stored_row *first, size_t row_bytes, int64_t count, bool round,
                              const float *x, int64_t depth, float *y) {
    if (first->type == DTYPE_BF16)
        dot_type(DTYPE_BF16, first->data, row_bytes, count, false, x, depth, y);
    else if (first->type == DTYPE_F16)
        dot_type(DTYPE_F16, first->data, row_bytes, count, round, x, depth, y);
    else if (first->type == DTYPE_F32)
        dot_type(DTYPE_F32, first->data, row_bytes, count, round, x, depth, y);
    else
        decoded_products(first, row_bytes, count, round, x, depth, y);
}

// The largest of [valid] scores.
static float largest(const float *scores, int64_t valid) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (int64_t i = 0; i < valid; i += LANES)
        most = _mm512_mask_max_ps(most, lanes_left(valid - i), most, _mm512_loadu_ps(scores + i));
    return _mm512_reduce_max_ps(most);
}

float gemm_softmax_shift_avx512(const float *scores, int64_t valid, float scale, struct softmax *state) {
    const float before = state->shift, most = valid > 0 ? largest(scores, valid) * scale : -INFINITY;
    if (!(most > before + SOFTMAX_SLACK) && !(before == -INFINITY && valid > 0)) return 1;
    state->shift = most;
    if (before == -INFINITY) return 0; // nothing was summed yet
    const float factor = _mm512_cvtss_f32(exp_512(_mm512_set1_ps(before - most)));
    gemm_scale_row_avx512(state->sums, LANES, factor);
    return factor;
}

float gemm_softmax_row_avx512(float *scores, int64_t valid, int64_t count, float scale, struct softmax *state,
                              bool round, uint16_t *p) {
    const float factor = gemm_softmax_shift_avx512(scores, valid, scale, state);
    const __m512 by = _mm512_set1_ps(scale), shift = _mm512_set1_ps(state->shift);
    __m512 total = _mm512_loadu_ps(state->sums);
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(valid - i);
        const __m512 s = _mm512_fmsub_ps(_mm512_maskz_loadu_ps(mask, scores + i), by, shift);
        __m512 value = _mm512_maskz_mov_ps(mask, exp_512(s));
        total = _mm512_add_ps(total, value);
        if (round) value = rounded(value);
        _mm512_storeu_ps(scores + i, value);
    }
    _mm512_storeu_ps(state->sums, total);
    return factor;
}

void gemm_scale_row_avx512(float *row, int64_t count, float factor) {
    const __m512 by = _mm512_set1_ps(factor);
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        _mm512_mask_storeu_ps(row + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, row + i), by));
    }
}

void gemm_bias_row_avx512(float *r, const float *bias, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        _mm512_mask_storeu_ps(
            r + i, mask,
            _mm512_add_ps(_mm512_maskz_loadu_ps(mask, r + i), _mm512_maskz_loadu_ps(mask, bias + i)));
    }
}

void gemm_multiply_row_avx512(float *r, const float *factors, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        _mm512_mask_storeu_ps(
            r + i, mask,
            _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, r + i), _mm512_maskz_loadu_ps(mask, factors + i)));
    }
}

static inline void store(__m512 value, enum dtype type, void *y, int64_t i, __mmask16 mask) {
    if (type == DTYPE_F32)
        _mm512_mask_storeu_ps((float *)y + i, mask, value);
    else if (mask == 0xffff) // a masked store that narrows takes several times as long
        _mm256_storeu_si256((__m256i *)(void *)((uint16_t *)y + i),
                            _mm512_cvtepi32_epi16(round_bf16_512(value)));
    else
        _mm512_mask_cvtepi32_storeu_epi16((uint16_t *)y + i, mask, round_bf16_512(value));
}

void gemm_store_row_avx512(const float *r, int64_t count, enum dtype type, void *y) {
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        store(_mm512_maskz_loadu_ps(mask, r + i), type, y, i, mask);
    }
}

void gemm_add_row_avx512(const float *r, const float *gate, int64_t count, float *y) {
    const __m512 one = _mm512_set1_ps(1);
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        const __m512 by = gate ? _mm512_maskz_loadu_ps(mask, gate + i) : one;
        const __m512 sum =
            _mm512_fmadd_ps(by, _mm512_maskz_loadu_ps(mask, r + i), _mm512_maskz_loadu_ps(mask, y + i));
        _mm512_mask_storeu_ps(y + i, mask, sum);
    }
}

void gemm_gated_silu_row_avx512(const float *a, const float *b, int64_t count, enum dtype type, void *y) {
    const __m512 one = _mm512_set1_ps(1);
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        const __m512 x = _mm512_maskz_loadu_ps(mask, a + i);
        const __m512 e = exp_512(_mm512_sub_ps(_mm512_setzero_ps(), x));
        const __m512 silu = _mm512_div_ps(x, _mm512_add_ps(one, e));
        store(_mm512_mul_ps(silu, _mm512_maskz_loadu_ps(mask, b + i)), type, y, i, mask);
    }
}
