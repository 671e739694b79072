// The vectors of rows_vector.h over AVX2: eight floats. Relies on immintrin.h.
#ifndef LIMN_TENSOR_CPU_LANES_AVX2_H
#define LIMN_TENSOR_CPU_LANES_AVX2_H

#include "tensor/dtype.h"

#include <immintrin.h>
#include <string.h>

enum { LANES = 8 };
typedef __m256 vector;

static inline __m256i v_mask(int64_t count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(count < LANES ? count : LANES)), lanes);
}

static inline vector v_set(float value) {
    return _mm256_set1_ps(value);
}

static inline vector v_add(vector a, vector b) {
    return _mm256_add_ps(a, b);
}

static inline vector v_sub(vector a, vector b) {
    return _mm256_sub_ps(a, b);
}

static inline vector v_mul(vector a, vector b) {
    return _mm256_mul_ps(a, b);
}

static inline vector v_fma(vector a, vector b, vector c) { // a b + c
    return _mm256_fmadd_ps(a, b, c);
}

static inline vector v_div(vector a, vector b) {
    return _mm256_div_ps(a, b);
}

static inline vector v_load(const float *from) {
    return _mm256_loadu_ps(from);
}

static inline void v_store(float *to, vector a) {
    _mm256_storeu_ps(to, a);
}

// The first [count] lanes, 1 to 8; the others are zero.
static inline vector v_load_part(const float *from, int64_t count) {
    return _mm256_maskload_ps(from, v_mask(count));
}

static inline void v_store_part(float *to, vector a, int64_t count) {
    _mm256_maskstore_ps(to, v_mask(count), a);
}

static inline vector v_widen(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// To bf16, nearest even; NaN stays NaN.
static inline __m128i v_narrow(vector a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i rounded =
        _mm256_blendv_epi8(sum, quiet, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
    const __m256i high = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

static inline vector v_load_bf16(const uint16_t *from) {
    return v_widen(_mm_loadu_si128((const __m128i *)(const void *)from));
}

static inline void v_store_bf16(uint16_t *to, vector a) {
    _mm_storeu_si128((__m128i *)(void *)to, v_narrow(a));
}

static inline vector v_load_bf16_part(const uint16_t *from, int64_t count) {
    uint16_t all[LANES] = {0};
    memcpy(all, from, (size_t)(count < LANES ? count : LANES) * sizeof *all);
    return v_load_bf16(all);
}

static inline void v_store_bf16_part(uint16_t *to, vector a, int64_t count) {
    uint16_t all[LANES];
    v_store_bf16(all, a);
    memcpy(to, all, (size_t)(count < LANES ? count : LANES) * sizeof *all);
}

static inline vector v_round_bf16(vector a) {
    return v_widen(v_narrow(a));
}

static inline float v_sum(vector a) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Adds the lanes to [count] doubles.
static inline void v_add_to(double *to, vector a, int64_t count) {
    float all[LANES];
    v_store(all, a);
    for (int64_t i = 0; i < count && i < LANES; i++) to[i] += (double)all[i];
}

// Pairs (a, b) rotated by (c, s): (a c - b s, b c + a s); pairs lie side by side, cosines and sines once a pair.
static inline vector v_rotate_pairs(vector a, const float *cosines, const float *sines, int64_t count) {
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    const __m256 c = _mm256_permutevar8x32_ps(v_load_part(cosines, (count + 1) / 2), twice);
    const __m256 s = _mm256_permutevar8x32_ps(v_load_part(sines, (count + 1) / 2), twice);
    return _mm256_fmaddsub_ps(a, c, _mm256_mul_ps(_mm256_permute_ps(a, 0xb1), s));
}

static inline vector v_clamp(vector a, float least, float most) { // NaN stays NaN
    return _mm256_min_ps(_mm256_set1_ps(most), _mm256_max_ps(_mm256_set1_ps(least), a));
}

static inline vector v_round(vector a) { // to an integer
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vector v_scale(vector a,
                             vector n) { // a 2^n for an integer n in [-126, 128], 2^128 being infinite
    const __m256i power =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(power));
}

// 2^t within 8e-5 of itself, for values that are rounded to bf16 afterwards: 2^floor(t) times a cubic minimax polynomial
// of the fraction. Below -126 t is taken as that; from 128 on the result is infinite.
static inline vector v_exp2_rough(vector t) {
    t = v_clamp(t, -126.0f, 128.0f);
    const vector n = _mm256_floor_ps(t), f = _mm256_sub_ps(t, n);
    vector p = _mm256_set1_ps(0x1.3f96acp-4f);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.cefc50p-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.64444ap-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.fff634p-1f));
    return v_scale(p, n);
}

// 1 / a for values that are rounded to bf16 afterwards.
static inline vector v_inverse_rough(vector a) {
    return _mm256_div_ps(_mm256_set1_ps(1.0f), a);
}

#endif
