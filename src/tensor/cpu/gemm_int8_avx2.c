// Products in 8 bits with AVX2, which has no instruction that multiplies them without saturating: codes are widened to 16 bits.
// Relies on gemm_int8.h.
#include "tensor/cpu/gemm_int8.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

enum { LANES = GEMM_LANES, HALF = 8, ROWS = 4 };

static inline __m256i load(const void *from) {
    return _mm256_loadu_si256((const __m256i *)from);
}

// [rows] <= 4 rows times one panel.
static inline __attribute__((always_inline)) void product_block(const struct int8_product *p, int64_t row,
                                                                int64_t panel, const int rows) {
    const struct int8_panel *b = p->panels + panel * p->panel_stride;
    const uint8_t *a = p->rows + row * INT8_ROW_BYTES;
    const __m256i low = _mm256_set1_epi32(0x00ff00ff);
    __m256i sums[ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < 2; j++) sums[r][j] = load(b->start + j * HALF);
    for (int64_t d = 0; d < p->depth; d += 4, a += 4) {
        __m256i even[2], odd[2];
        for (int j = 0; j < 2; j++) {
            const __m256i codes = load(b->codes[d / 4][j * HALF]);
            even[j] = _mm256_srai_epi16(_mm256_slli_epi16(codes, 8), 8);
            odd[j] = _mm256_srai_epi16(codes, 8);
        }
        for (int r = 0; r < rows; r++) {
            int32_t bits;
            memcpy(&bits, a + r * INT8_ROW_BYTES, sizeof bits);
            const __m256i value = _mm256_set1_epi32(bits);
            const __m256i even_value = _mm256_and_si256(value, low), odd_value = _mm256_srli_epi16(value, 8);
            for (int j = 0; j < 2; j++) {
                sums[r][j] = _mm256_add_epi32(sums[r][j], _mm256_madd_epi16(even_value, even[j]));
                sums[r][j] = _mm256_add_epi32(sums[r][j], _mm256_madd_epi16(odd_value, odd[j]));
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < 2; j++) {
            float *to = p->c + (row + r) * p->c_stride + panel * LANES + j * HALF;
            __m256 value =
                _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][j]), _mm256_loadu_ps(b->scales + j * HALF));
            value = _mm256_mul_ps(value, _mm256_set1_ps(p->row_scales[row + r]));
            if (p->accumulate) value = _mm256_add_ps(_mm256_loadu_ps(to), value);
            _mm256_storeu_ps(to, value);
        }
}

void int8_product_avx2(const struct int8_product *p) {
    for (int panel = 0; panel < p->panel_count; panel++)
        for (int64_t row = 0; row < p->row_count; row += ROWS) {
            if (p->row_count - row >= ROWS) {
                product_block(p, row, panel, ROWS);
                continue;
            }
            for (int64_t rest = row; rest < p->row_count; rest++) product_block(p, rest, panel, 1);
        }
}

// Eight values from [from], those of them that are left; the others are 0.
static __m256 load_values(enum dtype type, const char *from, int64_t left) {
    char bytes[32] = {0};
    const int size = type == DTYPE_F32 ? 4 : 2;
    if (left < HALF) from = memcpy(bytes, from, (size_t)(left > 0 ? left * size : 0));
    if (type == DTYPE_F32) return _mm256_loadu_ps((const float *)(const void *)from);
    const __m128i bits = _mm_loadu_si128((const __m128i *)(const void *)from);
    if (type == DTYPE_F16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

float int8_quantise_avx2(enum dtype type, const void *from, int64_t count, uint8_t flip, uint8_t *to) {
    const int64_t bytes = type == DTYPE_F32 ? 4 : 2;
    const __m256i sign = _mm256_set1_epi32(0x7fffffff);
    __m256i largest = _mm256_setzero_si256(); // bits of magnitudes compare as integers do; NaN is the largest
    for (int64_t i = 0; i < count; i += HALF) {
        const __m256 values = load_values(type, (const char *)from + i * bytes, count - i);
        largest = _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(values), sign));
    }
    uint32_t lanes[HALF], bits = 0;
    float most;
    _mm256_storeu_si256((__m256i *)(void *)lanes, largest);
    for (int i = 0; i < HALF; i++)
        if (lanes[i] > bits) bits = lanes[i];
    memcpy(&most, &bits, sizeof most);
    memset(to, flip, (size_t)(count + INT8_STEP - 1) / INT8_STEP * INT8_STEP);
    if (bits >= 0x7f800000u) return NAN;
    if (most < INT8_LEAST) return 0;
    const __m256 by = _mm256_set1_ps(127 / most);
    for (int64_t i = 0; i < count; i += HALF) {
        const __m256 values = load_values(type, (const char *)from + i * bytes, count - i);
        const __m256i codes = _mm256_cvtps_epi32(_mm256_mul_ps(values, by));
        const __m128i words =
            _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
        const __m128i eight = _mm_xor_si128(_mm_packs_epi16(words, words), _mm_set1_epi8((char)flip));
        _mm_storel_epi64((__m128i *)(void *)(to + i), eight);
    }
    return most / 127;
}
