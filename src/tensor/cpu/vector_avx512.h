// Small vector functions for files that are compiled for AVX-512. Relies on immintrin.h.
#ifndef LIMN_TENSOR_CPU_VECTOR_AVX512_H
#define LIMN_TENSOR_CPU_VECTOR_AVX512_H

#include "tensor/dtype.h"

#include <immintrin.h>

// A mask of the lanes that are left: all 16 for left >= 16, none for left <= 0.
static inline __mmask16 lanes_left(int64_t left) {
    return left >= 16 ? (__mmask16)0xffff : left <= 0 ? (__mmask16)0 : (__mmask16)((1u << left) - 1);
}

// 2^t for t <= 127: 2^floor(t) times a minimax polynomial of degree 3 of the fraction, relative error below 1e-4: for results that become bf16. Where t is below -125 it is
// 2^-125, because results that are denormal take a processor a hundred times as long.
static inline __m512 exp2_512_short(__m512 t) {
    t = _mm512_max_ps(_mm512_set1_ps(-125), t);
    const __m512 f = _mm512_reduce_ps(t, 0x09);
    __m512 p = _mm512_set1_ps(0x1.3f96a4p-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.cefc4cp-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.64444cp-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.fff632p-1f));
    return _mm512_scalef_ps(p, t);
}

// e^x, relative error below 2e-7 for any x: n = round(x / ln 2), r = x - n ln 2 with ln 2 in two parts, then a minimax
// polynomial of degree 6 on |r| <= ln(2) / 2.
static inline __m512 exp_512(__m512 x) {
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-150)), _mm512_set1_ps(150));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)), 0x08);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    __m512 p = _mm512_set1_ps(0.0013836835f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.008374824f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.041668225f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.1666642f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.4999999f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, n);
}

// Rounds to bf16, nearest even, NaN stays NaN; the result is in the low half of each lane.
static inline __m512i round_bf16_512(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_srli_epi32(_mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000)), 16);
}

static inline __m512 bf16_512(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// 16 stored values (F32, F16, BF16) from [from], those in [mask]; the others are 0 and not touched.
static inline __m512 load_512(enum dtype type, const void *from, __mmask16 mask) {
    if (type == DTYPE_F32) return _mm512_maskz_loadu_ps(mask, from);
    const __m256i bits = _mm256_maskz_loadu_epi16(mask, from);
    return type == DTYPE_BF16 ? bf16_512(bits) : _mm512_cvtph_ps(bits);
}

// Transposes 16 rows of 16 lanes of 32 bits in place.
static inline void transpose_512(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

#endif
