// Products, packing and softmax in bf16 with AVX512_BF16: two products a lane and instruction. Relies on gemm_isa.h,
// vector_avx512.h.
//
// VDPBF16PS treats denormals as zero and rounds each of its two sums; its order is part of this set's results.
#include "tensor/cpu/gemm_isa.h"
#include "tensor/cpu/vector_avx512.h"

#include <math.h>
#include <string.h>

enum {
    LANES = GEMM_LANES,
    ROWS = 12,
    DEPTH = 384, // of two panels that stay in the first-level cache while the rows stream past
};

// -------------------------------------------------------------------------------------------------------- products

static inline __m512bh pair(const uint16_t *from) { // two values, next to each other in depth, in every lane
    int32_t bits;
    memcpy(&bits, from, sizeof bits);
    return (__m512bh)_mm512_set1_epi32(bits);
}

static inline __m512bh pairs(const uint16_t *from) {
    return (__m512bh)_mm512_loadu_si512(from);
}

// [rows] <= 12 rows times one or two panels: 24 sums in registers.
static inline __attribute__((always_inline)) void product_block(const struct gemm_product *p, int64_t row,
                                                                int64_t panel, int64_t at, int64_t end,
                                                                const int rows, const int panels) {
    __m512 sums[ROWS][2];
    float *c = p->c + row * p->c_stride + panel * LANES;
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < panels; j++)
            sums[r][j] = p->accumulate || at > 0 ? _mm512_loadu_ps(c + r * p->c_stride + j * LANES)
                                                 : _mm512_setzero_ps();
    for (int s = 0; s < p->segment_count; s++) {
        const uint16_t *a = (const uint16_t *)p->segments[s].rows + row * p->row_stride + at;
        const uint16_t *b = (const uint16_t *)p->segments[s].panels + panel * p->panel_stride + at * LANES;
        for (int64_t d = at; d < end; d += 2, a += 2, b += 2 * LANES) {
            const __m512bh b0 = pairs(b), b1 = panels > 1 ? pairs(b + p->panel_stride) : b0;
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                const __m512bh value = pair(a + r * p->row_stride);
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], value, b0);
                if (panels > 1) sums[r][1] = _mm512_dpbf16_ps(sums[r][1], value, b1);
            }
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < panels; j++) _mm512_storeu_ps(c + r * p->c_stride + j * LANES, sums[r][j]);
}

static void product_rows(const struct gemm_product *p, int64_t row, int64_t panel, int64_t at, int64_t end,
                         int64_t rows, int panels) {
#define CASE(n)                                                                                              \
    case n:                                                                                                  \
        if (panels > 1)                                                                                      \
            product_block(p, row, panel, at, end, n, 2);                                                     \
        else                                                                                                 \
            product_block(p, row, panel, at, end, n, 1);                                                     \
        break
    switch (rows) {
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
        CASE(7);
        CASE(8);
        CASE(9);
        CASE(10);
        CASE(11);
    default:
        if (panels > 1)
            product_block(p, row, panel, at, end, ROWS, 2);
        else
            product_block(p, row, panel, at, end, ROWS, 1);
    }
#undef CASE
}

void gemm_product_bf16_avx512bf16(const struct gemm_product *p) {
    const int64_t step = p->segment_count > 1 || p->depth == 0 ? p->depth + 1 : DEPTH;
    for (int64_t panel = 0; panel < p->panel_count; panel += 2)
        for (int64_t at = 0; at < p->depth || at == 0; at += step) {
            const int64_t end = p->depth - at < step ? p->depth : at + step;
            for (int64_t row = 0; row < p->row_count; row += ROWS)
                product_rows(p, row, panel, at, end, p->row_count - row, p->panel_count - panel > 1 ? 2 : 1);
        }
}

// ------------------------------------------------------------------------------------------- conversion and packing

void gemm_convert_bf16_avx512bf16(enum dtype type, const void *from, int64_t count, uint16_t *to) {
    if (type == DTYPE_BF16) memcpy(to, from, (size_t)count * sizeof *to);
    const int64_t bytes = type == DTYPE_F32 ? 4 : 2;
    for (int64_t i = 0; i < count && type != DTYPE_BF16; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        const __m512i values = round_bf16_512(load_512(type, (const char *)from + i * bytes, mask));
        if (mask == 0xffff) // a masked store that narrows takes several times as long
            _mm256_storeu_si256((__m256i *)(void *)(to + i), _mm512_cvtepi32_epi16(values));
        else
            _mm512_mask_cvtepi32_storeu_epi16(to + i, mask, values);
    }
}

static inline __mmask32 halves_left(int64_t left) {
    return left >= 32 ? 0xffffffffu : left <= 0 ? 0 : (1u << left) - 1;
}

void gemm_pack_rows_bf16_avx512bf16(const uint16_t *from, int64_t row_stride, int rows, int64_t depth,
                                    int64_t padded, uint16_t *to) {
    for (int64_t d = 0; d < padded; d += 2 * LANES) {
        const __mmask32 mask = halves_left(depth - d);
        __m512i r[16];
        for (int i = 0; i < 16; i++)
            r[i] = i < rows ? _mm512_maskz_loadu_epi16(mask, from + i * row_stride + (mask ? d : 0))
                            : _mm512_setzero_si512();
        transpose_512(r);
        for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + d * LANES + i * 2 * LANES, r[i]);
    }
}

void gemm_pack_columns_bf16_avx512bf16(const uint16_t *from, int64_t row_stride, int lanes, int64_t depth,
                                       int64_t padded, uint16_t *to) {
    const __mmask16 mask = lanes_left(lanes);
    for (int64_t d = 0; d < padded; d += 2) {
        const __m256i zero = _mm256_setzero_si256();
        const __m256i even = d < depth ? _mm256_maskz_loadu_epi16(mask, from + d * row_stride) : zero;
        const __m256i odd =
            d + 1 < depth ? _mm256_maskz_loadu_epi16(mask, from + (d + 1) * row_stride) : zero;
        _mm512_storeu_si512(
            to + d * LANES,
            _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16)));
    }
}

// --------------------------------------------------------------------------------------------------------- softmax

// As gemm_softmax_row_avx512, in powers of two and one pass: only where a score turns out to exceed the shift by too much
// (or nothing was summed yet) is the shift brought up to date, and the pass made again.
float gemm_softmax_row_avx512bf16(float *scores, int64_t valid, int64_t count, float scale,
                                  struct softmax *state, bool round, uint16_t *p) {
    if (!p) return gemm_softmax_row_avx512(scores, valid, count, scale, state, round, p);
    const float log2_e = 0x1.715476p+0f;
    float factor = state->shift == -INFINITY ? gemm_softmax_shift_avx512(scores, valid, scale, state) : 1;
    const int64_t whole = valid / (2 * LANES) * (2 * LANES);
    for (;;) {
        const __m512 by = _mm512_set1_ps(scale * log2_e), shift = _mm512_set1_ps(state->shift * log2_e);
        __m512 total = _mm512_loadu_ps(state->sums), total2 = _mm512_setzero_ps();
        __m512 most = _mm512_set1_ps(-INFINITY), most2 = most;
        for (int64_t i = 0; i < whole; i += 2 * LANES) {
            const __m512 t = _mm512_fmsub_ps(_mm512_loadu_ps(scores + i), by, shift);
            const __m512 t2 = _mm512_fmsub_ps(_mm512_loadu_ps(scores + i + LANES), by, shift);
            const __m512 a = exp2_512_short(t), b = exp2_512_short(t2);
            most = _mm512_max_ps(most, t);
            most2 = _mm512_max_ps(most2, t2);
            total = _mm512_add_ps(total, a);
            total2 = _mm512_add_ps(total2, b);
            _mm512_storeu_si512(p + i, (__m512i)_mm512_cvtne2ps_pbh(b, a));
        }
        for (int64_t i = whole; i < count; i += LANES) {
            const __mmask16 mask = lanes_left(valid - i);
            const __m512 t = _mm512_fmsub_ps(_mm512_maskz_loadu_ps(mask, scores + i), by, shift);
            const __m512 a = exp2_512_short(t);
            most = _mm512_mask_max_ps(most, mask, most, t);
            total = _mm512_mask_add_ps(total, mask, total, a);
            _mm256_storeu_si256((__m256i *)(p + i), (__m256i)_mm512_maskz_cvtneps_pbh(mask, a));
        }
        const __m512 limit = _mm512_set1_ps(SOFTMAX_SLACK * log2_e);
        if (!_mm512_cmp_ps_mask(_mm512_max_ps(most, most2), limit, _CMP_GT_OQ)) {
            _mm512_storeu_ps(state->sums, _mm512_add_ps(total, total2));
            return factor;
        }
        const float before = state->shift;
        factor *= gemm_softmax_shift_avx512(scores, valid, scale, state);
        if (!(state->shift > before)) state->shift = INFINITY; // an infinite score: the results are NaN
    }
}
