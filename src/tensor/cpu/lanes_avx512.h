// The vectors of rows_vector.h over AVX-512: sixteen floats. Relies on immintrin.h.
#ifndef LIMN_TENSOR_CPU_LANES_AVX512_H
#define LIMN_TENSOR_CPU_LANES_AVX512_H

#include "tensor/dtype.h"

#include <immintrin.h>

enum { LANES = 16 };
typedef __m512 vector;

static inline __mmask16 v_mask(int64_t count) {
    return count >= LANES ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1);
}

static inline vector v_set(float value) {
    return _mm512_set1_ps(value);
}

static inline vector v_add(vector a, vector b) {
    return _mm512_add_ps(a, b);
}

static inline vector v_sub(vector a, vector b) {
    return _mm512_sub_ps(a, b);
}

static inline vector v_mul(vector a, vector b) {
    return _mm512_mul_ps(a, b);
}

static inline vector v_fma(vector a, vector b, vector c) { // a b + c
    return _mm512_fmadd_ps(a, b, c);
}

static inline vector v_div(vector a, vector b) {
    return _mm512_div_ps(a, b);
}

static inline vector v_load(const float *from) {
    return _mm512_loadu_ps(from);
}

static inline void v_store(float *to, vector a) {
    _mm512_storeu_ps(to, a);
}

// The first [count] lanes, 1 to 16; the others are zero.
static inline vector v_load_part(const float *from, int64_t count) {
    return _mm512_maskz_loadu_ps(v_mask(count), from);
}

static inline void v_store_part(float *to, vector a, int64_t count) {
    _mm512_mask_storeu_ps(to, v_mask(count), a);
}

static inline vector v_widen(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// To bf16, nearest even; NaN stays NaN.
static inline __m256i v_narrow(vector a) {
#ifdef __AVX512BF16__
    return (__m256i)_mm512_cvtneps_pbh(a);
#else
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __m512i rounded = _mm512_mask_mov_epi32(sum, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), quiet);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
#endif
}

static inline vector v_load_bf16(const uint16_t *from) {
    return v_widen(_mm256_loadu_si256((const __m256i *)(const void *)from));
}

static inline void v_store_bf16(uint16_t *to, vector a) {
    _mm256_storeu_si256((__m256i *)(void *)to, v_narrow(a));
}

static inline vector v_load_bf16_part(const uint16_t *from, int64_t count) {
    return v_widen(_mm256_maskz_loadu_epi16(v_mask(count), from));
}

static inline void v_store_bf16_part(uint16_t *to, vector a, int64_t count) {
    _mm256_mask_storeu_epi16(to, v_mask(count), v_narrow(a));
}

static inline vector v_round_bf16(vector a) {
    return v_widen(v_narrow(a));
}

static inline float v_sum(vector a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Adds the lanes to [count] doubles.
static inline void v_add_to(double *to, vector a, int64_t count) {
    const __mmask8 low = (__mmask8)v_mask(count), high = (__mmask8)(v_mask(count) >> 8);
    const __m512d first = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
    _mm512_mask_storeu_pd(to, low, _mm512_add_pd(_mm512_maskz_loadu_pd(low, to), first));
    if (!high) return;
    const __m512d second = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    _mm512_mask_storeu_pd(to + 8, high, _mm512_add_pd(_mm512_maskz_loadu_pd(high, to + 8), second));
}

// Pairs (a, b) rotated by (c, s): (a c - b s, b c + a s); pairs lie side by side, cosines and sines once a pair.
static inline vector v_rotate_pairs(vector a, const float *cosines, const float *sines, int64_t count) {
    const __mmask8 mask = (__mmask8)v_mask((count + 1) / 2);
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    const __m512 c =
        _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_maskz_loadu_ps(mask, cosines)));
    const __m512 s = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_maskz_loadu_ps(mask, sines)));
    return _mm512_fmaddsub_ps(a, c, _mm512_mul_ps(_mm512_permute_ps(a, 0xb1), s));
}

static inline vector v_clamp(vector a, float least, float most) { // NaN stays NaN
    return _mm512_min_ps(_mm512_set1_ps(most), _mm512_max_ps(_mm512_set1_ps(least), a));
}

static inline vector v_round(vector a) { // to an integer
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vector v_scale(vector a, vector n) { // a 2^n for an integer n
    return _mm512_scalef_ps(a, n);
}

// 2^t within 8e-5 of itself, for values that are rounded to bf16 afterwards: 2^floor(t) times a cubic minimax polynomial
// of the fraction.
static inline vector v_exp2_rough(vector t) {
    const vector f = _mm512_reduce_ps(t, 0x09); // t - floor(t)
    vector p = _mm512_set1_ps(0x1.3f96acp-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.cefc50p-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.64444ap-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.fff634p-1f));
    return _mm512_scalef_ps(p, t);
}

// 1 / a within 6.2e-5, for values that are rounded to bf16 afterwards.
static inline vector v_inverse_rough(vector a) {
    return _mm512_rcp14_ps(a);
}

#endif
