// Products, softmax and epilogues with AVX2 and FMA. Packing and the rest are the plain ones: they take little of the
// time. Relies on gemm_isa.h.
#include "tensor/cpu/gemm_isa.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

enum { LANES = GEMM_LANES, HALF = 8, ROWS = 6 };

// -------------------------------------------------------------------------------------------------------- products

// [rows] <= 6 rows times one panel: 12 sums in registers.
static inline __attribute__((always_inline)) void product_block(const struct gemm_product *p, int64_t row,
                                                                int64_t panel, const int rows) {
    __m256 sums[ROWS][2];
    float *c = p->c + row * p->c_stride + panel * LANES;
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        sums[r][0] = p->accumulate ? _mm256_loadu_ps(c + r * p->c_stride) : _mm256_setzero_ps();
        sums[r][1] = p->accumulate ? _mm256_loadu_ps(c + r * p->c_stride + HALF) : _mm256_setzero_ps();
    }
    for (int s = 0; s < p->segment_count; s++) {
        const float *a = (const float *)p->segments[s].rows + row * p->row_stride;
        const float *b = (const float *)p->segments[s].panels + panel * p->panel_stride;
        for (int64_t d = 0; d < p->depth; d++, a++, b += LANES) {
            const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + HALF);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const __m256 value = _mm256_broadcast_ss(a + r * p->row_stride);
                sums[r][0] = _mm256_fmadd_ps(value, b0, sums[r][0]);
                sums[r][1] = _mm256_fmadd_ps(value, b1, sums[r][1]);
            }
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        _mm256_storeu_ps(c + r * p->c_stride, sums[r][0]);
        _mm256_storeu_ps(c + r * p->c_stride + HALF, sums[r][1]);
    }
}

void gemm_product_f32_avx2(const struct gemm_product *p) {
    for (int64_t panel = 0; panel < p->panel_count; panel++)
        for (int64_t row = 0; row < p->row_count; row += ROWS) {
            switch (p->row_count - row) {
            case 1:
                product_block(p, row, panel, 1);
                break;
            case 2:
                product_block(p, row, panel, 2);
                break;
            case 3:
                product_block(p, row, panel, 3);
                break;
            case 4:
                product_block(p, row, panel, 4);
                break;
            case 5:
                product_block(p, row, panel, 5);
                break;
            default:
                product_block(p, row, panel, ROWS);
            }
        }
}

// ------------------------------------------------------------------------------------------------------- conversion

// Rounds to bf16, nearest even, NaN stays NaN; as f32 bits with an empty lower half.
static inline __m256i rounded_bits(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_and_si256(_mm256_blendv_epi8(sum, quiet, nan), _mm256_set1_epi32((int)0xffff0000));
}

static inline __m256 load(enum dtype type, const void *from) {
    if (type == DTYPE_F32) return _mm256_loadu_ps(from);
    const __m128i bits = _mm_loadu_si128(from);
    if (type == DTYPE_F16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

void gemm_convert_f32_avx2(enum dtype type, const void *from, int64_t count, bool round, float *to) {
    const int64_t whole = count / HALF * HALF, bytes = type == DTYPE_F32 ? 4 : 2;
    for (int64_t i = 0; i < whole; i += HALF) {
        const __m256 values = load(type, (const char *)from + i * bytes);
        _mm256_storeu_ps(to + i, round ? _mm256_castsi256_ps(rounded_bits(values)) : values);
    }
    if (whole < count)
        gemm_convert_f32_plain(type, (const char *)from + whole * bytes, count - whole, round, to + whole);
}

// ------------------------------------------------------------------------------------------------------ single rows

static inline float sum_of(__m256 x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline __attribute__((always_inline)) float dot(const enum dtype type, const char *row,
                                                       const bool round, const float *x, int64_t depth) {
    const int64_t bytes = type == DTYPE_F32 ? 4 : 2;
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t d = 0;
    for (; d + 4 * HALF <= depth; d += 4 * HALF) {
        _mm_prefetch(row + d * bytes + 1024, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            __m256 w = load(type, row + (d + i * HALF) * bytes);
            if (round) w = _mm256_castsi256_ps(rounded_bits(w));
            sums[i] = _mm256_fmadd_ps(w, _mm256_loadu_ps(x + d + i * HALF), sums[i]);
        }
    }
    float rest = 0;
    for (; d < depth; d++) {
        float w;
        gemm_convert_f32_plain(type, row + d * bytes, 1, round, &w);
        rest += w * x[d];
    }
    return sum_of(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]))) + rest;
}

// Of types that must be decoded: a piece at a time.
static float decoded_dot(const struct stored_row *row, bool round, const float *x, int64_t depth) {
    enum { PIECE = 1024 };
    _Static_assert(PIECE % STORED_STEP_MOST == 0, "a piece ends where a block does");
    float values[PIECE], total = 0;
    for (int64_t at = 0; at < depth; at += PIECE) {
        const int64_t some = depth - at < PIECE ? depth - at : PIECE;
        gemm_decode_f32_avx2(row, at, some, round, values);
        total += dot(DTYPE_F32, (const char *)values, false, x + at, some);
    }
    return total;
}

void gemm_row_products_avx2(const struct stored_row *first, size_t row_bytes, int64_t count, bool round,
                            const float *x, int64_t depth, float *y) {
    struct stored_row row = *first;
    for (int64_t r = 0; r < count; r++, row.index++) {
        if (row.type == DTYPE_BF16)
            y[r] = dot(DTYPE_BF16, row.data, false, x, depth);
        else if (row.type == DTYPE_F16)
            y[r] = dot(DTYPE_F16, row.data, round, x, depth);
        else if (row.type == DTYPE_F32)
            y[r] = dot(DTYPE_F32, row.data, round, x, depth);
        else
            y[r] = decoded_dot(&row, round, x, depth);
        row.data = (const char *)row.data + row_bytes;
    }
}

// e^x, relative error below 2e-7 where the result is normal; below -87 it is 0. n = round(x / ln 2), r = x - n ln 2, a
// minimax polynomial of degree 6 of r, and n added to the exponent.
static inline __m256 exp_256(__m256 x) {
    const __m256 low = _mm256_set1_ps(-87.3f), high = _mm256_set1_ps(88);
    const __m256 zero = _mm256_cmp_ps(x, low, _CMP_LT_OQ),
                 inside = _mm256_min_ps(_mm256_max_ps(low, x), high);
    const __m256 y = _mm256_blendv_ps(inside, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(y, _mm256_set1_ps(0x1.715476p+0f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), y);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    __m256 p = _mm256_set1_ps(0.0013836835f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.008374824f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.041668225f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.1666642f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.4999999f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1));
    const __m256i power =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_andnot_ps(zero, _mm256_mul_ps(p, _mm256_castsi256_ps(power)));
}

// Brings the shift up to date; returns the factor for what was summed before.
static float softmax_shift(const float *scores, int64_t valid, float scale, struct softmax *state) {
    const float before = state->shift;
    float most = -INFINITY;
    for (int64_t i = 0; i < valid; i++) most = scores[i] > most ? scores[i] : most;
    most *= scale;
    if (!(most > before + SOFTMAX_SLACK) && !(before == -INFINITY && valid > 0)) return 1;
    const float factor = expf(before - most);
    for (int i = 0; i < LANES; i++) state->sums[i] *= factor;
    state->shift = most;
    return factor;
}

float gemm_softmax_row_avx2(float *scores, int64_t valid, int64_t count, float scale, struct softmax *state,
                            bool round, uint16_t *p) {
    if (p) return gemm_softmax_row_plain(scores, valid, count, scale, state, round, p);
    const float factor = softmax_shift(scores, valid, scale, state);
    const __m256 by = _mm256_set1_ps(scale), shift = _mm256_set1_ps(state->shift);
    __m256 sums[2] = {_mm256_loadu_ps(state->sums), _mm256_loadu_ps(state->sums + HALF)};
    for (int64_t i = valid; i < count; i++) scores[i] = -INFINITY;
    for (int64_t i = 0; i < count && valid > 0; i += HALF) {
        const __m256 value = exp_256(_mm256_fmsub_ps(_mm256_loadu_ps(scores + i), by, shift));
        sums[i / HALF % 2] = _mm256_add_ps(sums[i / HALF % 2], value);
        _mm256_storeu_ps(scores + i, round ? _mm256_castsi256_ps(rounded_bits(value)) : value);
    }
    if (valid <= 0) memset(scores, 0, (size_t)count * sizeof *scores);
    _mm256_storeu_ps(state->sums, sums[0]);
    _mm256_storeu_ps(state->sums + HALF, sums[1]);
    return factor;
}

// -------------------------------------------------------------------------------------------------------- epilogues

void gemm_scale_row_avx2(float *row, int64_t count, float factor) {
    const __m256 by = _mm256_set1_ps(factor);
    int64_t i = 0;
    for (; i + HALF <= count; i += HALF)
        _mm256_storeu_ps(row + i, _mm256_mul_ps(_mm256_loadu_ps(row + i), by));
    for (; i < count; i++) row[i] *= factor;
}

static inline void store(__m256 value, enum dtype type, void *y, int64_t i) {
    if (type == DTYPE_F32) {
        _mm256_storeu_ps((float *)y + i, value);
        return;
    }
    const __m256i high = _mm256_srli_epi32(rounded_bits(value), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    _mm_storeu_si128((__m128i *)(void *)((uint16_t *)y + i), _mm256_castsi256_si128(packed));
}

void gemm_store_row_avx2(const float *r, int64_t count, enum dtype type, void *y) {
    const int64_t whole = count / HALF * HALF;
    for (int64_t i = 0; i < whole; i += HALF) store(_mm256_loadu_ps(r + i), type, y, i);
    gemm_store_row_plain(r + whole, count - whole, type, (char *)y + dtype_bytes(type, whole));
}

void gemm_gated_silu_row_avx2(const float *a, const float *b, int64_t count, enum dtype type, void *y) {
    const __m256 one = _mm256_set1_ps(1);
    const int64_t whole = count / HALF * HALF;
    for (int64_t i = 0; i < whole; i += HALF) {
        const __m256 x = _mm256_loadu_ps(a + i), e = exp_256(_mm256_sub_ps(_mm256_setzero_ps(), x));
        const __m256 silu = _mm256_div_ps(x, _mm256_add_ps(one, e));
        store(_mm256_mul_ps(silu, _mm256_loadu_ps(b + i)), type, y, i);
    }
    gemm_gated_silu_row_plain(a + whole, b + whole, count - whole, type,
                              (char *)y + dtype_bytes(type, whole));
}
