// Products in 8 bits with AVX512_VNNI: four products a lane and instruction, summed in 32 bits. Relies on gemm_int8.h,
// vector_avx512.h.
#include "tensor/cpu/gemm_int8.h"
#include "tensor/cpu/vector_avx512.h"

#include <math.h>
#include <string.h>

enum { LANES = GEMM_LANES, RUN = INT8_RUN };

// -------------------------------------------------------------------------------------------------------- products

static inline __m512i quad(const uint8_t *from) { // four depths, in every lane
    int32_t bits;
    memcpy(&bits, from, sizeof bits);
    return _mm512_set1_epi32(bits);
}

// sum += a (without sign) times b. As an instruction, because gcc 12 copies every sum before and behind the intrinsic.
static inline void dot(__m512i *sum, __m512i a, __m512i b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(b));
}

// [rows] <= 12 rows times one or two panels: 24 sums in registers.
static inline __attribute__((always_inline)) void product_block(const struct int8_product *p, int64_t row,
                                                                const int rows, const int panels) {
    const struct int8_panel *left = p->panels, *right = panels > 1 ? left + p->panel_stride : left;
    const uint8_t *a = p->rows + row * INT8_ROW_BYTES;
    const int8_t *b = left->codes[0][0];
    const ptrdiff_t other = right->codes[0][0] - b;
    __m512i sums[RUN][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        sums[r][0] = _mm512_loadu_si512(left->start);
        sums[r][1] = _mm512_loadu_si512(right->start);
    }
    for (int64_t d = 0; d < p->depth; d += 4, a += 4, b += 4 * LANES) {
        const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + other);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const __m512i value = quad(a + r * INT8_ROW_BYTES);
            dot(&sums[r][0], value, b0);
            if (panels > 1) dot(&sums[r][1], value, b1);
        }
    }
    float *c = p->c + row * p->c_stride;
    const __m512 scales[2] = {_mm512_loadu_ps(left->scales), _mm512_loadu_ps(right->scales)};
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < panels; j++) {
            float *to = c + r * p->c_stride + j * LANES;
            const __m512 factor = _mm512_set1_ps(p->row_scales[row + r]);
            __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][j]), scales[j]);
            value = _mm512_mul_ps(value, factor);
            if (p->accumulate) value = _mm512_add_ps(_mm512_loadu_ps(to), value);
            _mm512_storeu_ps(to, value);
        }
}

// Asks for a share of the next panels on the way of each run of rows: they come from the third-level cache or from memory.
static inline void fetch_next(const struct int8_product *p, int64_t row) {
    const int64_t bytes = sizeof(struct int8_panel), share = bytes * RUN / p->row_count / 64 * 64 + 64;
    for (int panel = 0; panel < p->panel_count; panel++) {
        const char *from = (const char *)(p->next + panel * p->panel_stride);
        const int64_t first = row / RUN * share;
        for (int64_t i = first; i < first + share && i < bytes; i += 64) _mm_prefetch(from + i, _MM_HINT_T1);
    }
}

void int8_product_avx512vnni(const struct int8_product *p) {
#define CASE(n)                                                                                              \
    case n:                                                                                                  \
        if (p->panel_count > 1)                                                                              \
            product_block(p, row, n, 2);                                                                     \
        else                                                                                                 \
            product_block(p, row, n, 1);                                                                     \
        break
    for (int64_t row = 0; row < p->row_count; row += RUN) {
        if (p->next) fetch_next(p, row);
        switch (p->row_count - row) {
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
            if (p->panel_count > 1)
                product_block(p, row, RUN, 2);
            else
                product_block(p, row, RUN, 1);
        }
    }
#undef CASE
}

// ------------------------------------------------------------------------------------------------ codes and packing

// The largest magnitude as bits of a float: these compare as integers do, and NaN is the largest of all.
static uint32_t largest(enum dtype type, const char *from, int64_t count) {
    const __m512i sign = _mm512_set1_epi32(0x7fffffff);
    __m512i most = _mm512_setzero_si512();
    int64_t i = 0;
    if (type == DTYPE_BF16) {
        const __m512i half_sign = _mm512_set1_epi16(0x7fff);
        for (; i + 2 * LANES <= count; i += 2 * LANES)
            most = _mm512_max_epu16(most, _mm512_and_si512(_mm512_loadu_si512(from + 2 * i), half_sign));
        const __m512i high = _mm512_and_si512(most, _mm512_set1_epi32((int)0xffff0000));
        most = _mm512_max_epu32(high, _mm512_slli_epi32(most, 16));
    }
    const int64_t bytes = type == DTYPE_F32 ? 4 : 2;
    for (; i < count; i += LANES) {
        const __m512 values = load_512(type, from + i * bytes, lanes_left(count - i));
        most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(values), sign));
    }
    return _mm512_reduce_max_epu32(most);
}

static inline __m512i round_512(enum dtype type, const char *from, __mmask16 mask, __m512 by) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(load_512(type, from, mask), by));
}

// 64 values at a time: packing leaves the four vectors' 32-bit pieces interleaved, which the permutation puts in order.
static inline __attribute__((always_inline)) void
encode(const enum dtype type, const char *from, int64_t count, float inverse, uint8_t flip, uint8_t *to) {
    const __m512 by = _mm512_set1_ps(inverse);
    const __m512i sign = _mm512_set1_epi8((char)flip);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const int64_t step = LANES * (type == DTYPE_F32 ? 4 : 2);
    for (int64_t left = count; left > 0; left -= INT8_STEP, from += 4 * step, to += INT8_STEP) {
        __m512i r[4];
        if (left >= INT8_STEP)
            for (int i = 0; i < 4; i++) r[i] = round_512(type, from + i * step, 0xffff, by);
        else
            for (int i = 0; i < 4; i++) {
                const __mmask16 mask = lanes_left(left - i * LANES);
                r[i] = round_512(type, mask ? from + i * step : from, mask, by);
            }
        const __m512i words = _mm512_packs_epi32(r[0], r[1]), others = _mm512_packs_epi32(r[2], r[3]);
        const __m512i codes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(words, others));
        _mm512_storeu_si512(to, _mm512_xor_si512(codes, sign));
    }
}

float int8_quantise_avx512vnni(enum dtype type, const void *from, int64_t count, uint8_t flip, uint8_t *to) {
    const uint32_t bits = largest(type, from, count);
    float most;
    memcpy(&most, &bits, sizeof most);
    if (bits >= 0x7f800000u || most < INT8_LEAST) {
        memset(to, flip, (size_t)(count + INT8_STEP - 1) / INT8_STEP * INT8_STEP);
        return bits >= 0x7f800000u ? NAN : 0;
    }
    if (type == DTYPE_BF16)
        encode(DTYPE_BF16, from, count, 127 / most, flip, to);
    else if (type == DTYPE_F32)
        encode(DTYPE_F32, from, count, 127 / most, flip, to);
    else
        encode(DTYPE_F16, from, count, 127 / most, flip, to);
    return most / 127;
}

void int8_pack_avx512vnni(const uint8_t *codes, int rows, int64_t depth, struct int8_panel *to) {
    const __m512i one = _mm512_set1_epi8(1);
    __m512i sums = _mm512_setzero_si512();
    for (int64_t d = 0; d < depth; d += 4 * LANES) {
        const int64_t left = depth - d;
        const __mmask64 mask = left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
        __m512i r[LANES];
        for (int i = 0; i < LANES; i++)
            r[i] = i < rows ? _mm512_maskz_loadu_epi8(mask, codes + i * INT8_ROW_BYTES + d)
                            : _mm512_setzero_si512();
        transpose_512(r);
        for (int i = 0; i < LANES; i++) {
            _mm512_storeu_si512(to->codes[d / 4 + i], r[i]);
            sums = _mm512_dpbusd_epi32(sums, one, r[i]);
        }
    }
    _mm512_storeu_si512(to->start, _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), sums), 7));
}
