// The way from codes to values in vectors of 16, for files that are compiled for AVX-512. They define struct out and
//
//     put(out, at, a, b)   out[at + i] = a[i], out[at + 16 + i] = b[i]
//
// before they include this. Relies on decode_vector.h.
#ifndef LIMN_TENSOR_CPU_DECODE_AVX512_H
#define LIMN_TENSOR_CPU_DECODE_AVX512_H

#include <immintrin.h>

static inline __attribute__((always_inline)) __m512 sixteen(__m128i codes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}

static inline __attribute__((always_inline)) void emit_scaled(struct out out, int at, __m256i codes, float a0,
                                                              float a1) {
    put(out, at, _mm512_mul_ps(sixteen(_mm256_castsi256_si128(codes)), _mm512_set1_ps(a0)),
        _mm512_mul_ps(sixteen(_mm256_extracti128_si256(codes, 1)), _mm512_set1_ps(a1)));
}

static inline __attribute__((always_inline)) void emit_affine(struct out out, int at, __m256i codes, float a0,
                                                              float b0, float a1, float b1) {
    put(out, at,
        _mm512_fmadd_ps(sixteen(_mm256_castsi256_si128(codes)), _mm512_set1_ps(a0), _mm512_set1_ps(b0)),
        _mm512_fmadd_ps(sixteen(_mm256_extracti128_si256(codes, 1)), _mm512_set1_ps(a1), _mm512_set1_ps(b1)));
}

static inline __attribute__((always_inline)) void emit_halves(struct out out, int at, __m256i h0, __m256i h1,
                                                              float a0, float a1) {
    put(out, at, _mm512_mul_ps(_mm512_cvtph_ps(h0), _mm512_set1_ps(a0)),
        _mm512_mul_ps(_mm512_cvtph_ps(h1), _mm512_set1_ps(a1)));
}

#include "tensor/cpu/decode_vector.h"

#endif
