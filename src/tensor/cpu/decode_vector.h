// Stored blocks as vectors: what decode_avx2.c, decode_avx512.c and decode_avx512bf16.c have in common. Relies on
// decode_scales.h; AVX2 and F16C.
//
// A block is taken apart into 32 codes a time, a byte each; what becomes of them is up to the file that includes this: it
// defines struct out (where values go, and how) and
//
//     emit_scaled(out, at, codes, a0, a1)          out[at + i] = a0 * codes[i], from i = 16 on a1 * codes[i]
//     emit_affine(out, at, codes, a0, b0, a1, b1)  out[at + i] = a * codes[i] + b, rounded once
//     emit_halves(out, at, h0, h1, a0, a1)         out[at + i] = a0 * h0[i], out[at + 16 + i] = a1 * h1[i], IEEE halves
//
// codes: signed bytes in memory order. Products of codes, scales and d are exact in f32 (block.h), so that one rounding
// of a * code + b gives the bits of the plain decoder.
#ifndef LIMN_TENSOR_CPU_DECODE_VECTOR_H
#define LIMN_TENSOR_CPU_DECODE_VECTOR_H

#include "tensor/cpu/decode_scales.h"

ALWAYS __m256i bits_of(__m256i bytes, int shift, int mask) { // bytes >> shift & mask, in each byte
    return _mm256_and_si256(_mm256_srli_epi16(bytes, shift), _mm256_set1_epi8((char)mask));
}

// 16 bytes as 32 codes: their low nibbles, then their high ones.
ALWAYS __m256i nibble_halves(__m128i bytes) {
    return bits_of(_mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes), 0, 15);
}

// 16 bytes as 32 codes: the high and the low nibble of each byte in turn.
ALWAYS __m256i nibble_pairs(__m128i bytes) {
    const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
    const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
    return _mm256_set_m128i(_mm_unpackhi_epi8(high, low), _mm_unpacklo_epi8(high, low));
}

ALWAYS __m256i iq4_codes(__m256i nibbles) {
    const __m256i table = _mm256_broadcastsi128_si256(load_16((const uint8_t *)block_iq4_codes));
    return _mm256_shuffle_epi8(table, nibbles);
}

// Bit i of [bits] as bit 4 of byte i.
ALWAYS __m256i fifth_bits(uint32_t bits) {
    const __m256i byte = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit), _mm256_set1_epi8(16));
}

// ------------------------------------------------------------------------------------------------ blocks of 32 values

ALWAYS void unpack_32(const enum dtype type, const uint8_t *block, struct out out, int at) {
    const float d = half_at(block);
    __m256i codes;
    switch (type) {
    case DTYPE_Q8_0:
        emit_scaled(out, at, load_32(block + 2), d, d);
        return;
    case DTYPE_Q4_0:
        codes = _mm256_sub_epi8(nibble_halves(load_16(block + 2)), _mm256_set1_epi8(8));
        emit_scaled(out, at, codes, d, d);
        return;
    case DTYPE_IQ4_NL:
        emit_scaled(out, at, iq4_codes(nibble_halves(load_16(block + 2))), d, d);
        return;
    case DTYPE_Q5_0:
        codes = _mm256_or_si256(nibble_halves(load_16(block + 6)), fifth_bits(word_at(block + 2)));
        emit_scaled(out, at, _mm256_sub_epi8(codes, _mm256_set1_epi8(16)), d, d);
        return;
    case DTYPE_Q4_1:
        codes = nibble_halves(load_16(block + 4));
        break;
    default: // Q5_1
        codes = _mm256_or_si256(nibble_halves(load_16(block + 8)), fifth_bits(word_at(block + 4)));
        break;
    }
    const float m = half_at(block + 2);
    emit_affine(out, at, codes, d, m, d, m);
}

// ----------------------------------------------------------------------------------------------- blocks of 256 values

// to[i] = d * scales[i] for 8 and 16 scales, a signed byte each.
ALWAYS void scales_8(float d, __m128i scales, float *to) {
    _mm256_storeu_ps(to, _mm256_mul_ps(_mm256_set1_ps(d), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(scales))));
}

ALWAYS void scales_16(float d, __m128i scales, float (*to)[16]) {
    scales_8(d, scales, *to);
    scales_8(d, _mm_srli_si128(scales, 8), *to + 8);
    IN_MEMORY(to);
}

// d times the scales and -m times the minima.
ALWAYS void k_scales(const uint8_t *block, float (*a)[8], float (*b)[8]) {
    const __m128i bytes = k_scale_bytes(load_16(block));
    scales_8(half_at(block), bytes, *a);
    scales_8(-half_at(block + 2), _mm_srli_si128(bytes, 8), *b);
    IN_MEMORY(a);
    IN_MEMORY(b);
}

ALWAYS void unpack_q4_k(const uint8_t *block, struct out out, int at) {
    float a[8], b[8];
    k_scales(block, &a, &b);
#pragma GCC unroll 4
    for (int g = 0; g < 8; g += 2, at += 64) {
        const __m256i bytes = load_32(block + 16 + 16 * g);
        emit_affine(out, at, bits_of(bytes, 0, 15), a[g], b[g], a[g], b[g]);
        emit_affine(out, at + 32, bits_of(bytes, 4, 15), a[g + 1], b[g + 1], a[g + 1], b[g + 1]);
    }
}

ALWAYS void unpack_q5_k(const uint8_t *block, struct out out, int at) {
    const __m256i high = load_32(block + 16);
    float a[8], b[8];
    k_scales(block, &a, &b);
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        const __m256i low = bits_of(load_32(block + 48 + 32 * (g / 2)), 4 * (g % 2), 15);
        const __m256i fifth = _mm256_slli_epi16(bits_of(high, g, 1), 4);
        emit_affine(out, at + 32 * g, _mm256_or_si256(low, fifth), a[g], b[g], a[g], b[g]);
    }
}

ALWAYS void unpack_q6_k(const uint8_t *block, struct out out, int at) {
    float a[16];
    scales_16(half_at(block + 208), load_16(block + 192), &a);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const int half = i / 4, j = i % 4;
        const __m256i low = bits_of(load_32(block + 64 * half + 32 * (j % 2)), 4 * (j / 2), 15);
        const __m256i high = _mm256_slli_epi16(bits_of(load_32(block + 128 + 32 * half), 2 * j, 3), 4);
        const __m256i codes = _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
        emit_scaled(out, at + 32 * i, codes, a[2 * i], a[2 * i + 1]);
    }
}

ALWAYS void unpack_q2_k(const uint8_t *block, struct out out, int at) {
    const __m128i scales = load_16(block), low = _mm_set1_epi8(15);
    float a[16], b[16];
    scales_16(half_at(block + 80), _mm_and_si128(scales, low), &a);
    scales_16(-half_at(block + 82), _mm_and_si128(_mm_srli_epi16(scales, 4), low), &b);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const __m256i codes = bits_of(load_32(block + 16 + 32 * (i / 4)), 2 * (i % 4), 3);
        emit_affine(out, at + 32 * i, codes, a[2 * i], b[2 * i], a[2 * i + 1], b[2 * i + 1]);
    }
}

ALWAYS void unpack_q3_k(const uint8_t *block, struct out out, int at) {
    const __m256i bits = load_32(block), four = _mm256_set1_epi8(4);
    float a[16];
    scales_16(half_at(block + 108), q3_k_scales(block), &a);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const __m256i codes = bits_of(load_32(block + 32 + 32 * (i / 4)), 2 * (i % 4), 3);
        const __m256i set = _mm256_slli_epi16(bits_of(bits, i, 1), 2);
        emit_scaled(out, at + 32 * i, _mm256_sub_epi8(_mm256_add_epi8(codes, set), four), a[2 * i],
                    a[2 * i + 1]);
    }
}

ALWAYS void unpack_iq4_xs(const uint8_t *block, struct out out, int at) {
    const float d = half_at(block);
    const int high = block[2] | block[3] << 8;
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        const int s = (block[4 + g / 2] >> 4 * (g % 2) & 15) | (high >> 2 * g & 3) << 4;
        const float a = d * (float)(s - 32);
        emit_scaled(out, at + 32 * g, iq4_codes(nibble_halves(load_16(block + 8 + 16 * g))), a, a);
    }
}

// --------------------------------------------------------------------------------------------------- fp8 and NVFP4

ALWAYS void unpack_f8(const enum dtype type, const uint8_t *bytes, struct out out, int at) {
    const __m128i first = load_16(bytes), second = load_16(bytes + 16);
    if (type == DTYPE_F8_E5M2)
        emit_halves(out, at, e5m2_halves(first), e5m2_halves(second), 1, 1);
    else
        emit_halves(out, at, e4m3_halves(first), e4m3_halves(second), 256, 256);
}

// E2M1 is a part of E5M2: codes become bytes of it by a table.
ALWAYS void unpack_nvfp4(const uint8_t *bytes, float a0, float a1, struct out out, int at) {
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_set_epi64x((long long)0xc6c4c2c0bebcb880u, (long long)0x464442403e3c3800u));
    const __m256i small = _mm256_shuffle_epi8(table, nibble_pairs(load_16(bytes)));
    emit_halves(out, at, e5m2_halves(_mm256_castsi256_si128(small)),
                e5m2_halves(_mm256_extracti128_si256(small, 1)), a0, a1);
}

// ------------------------------------------------------------------------------------------------------------ the list

// One block of [type] (32 values of fp8).
ALWAYS void unpack_block(const enum dtype type, const uint8_t *block, struct out out, int at) {
    switch (type) {
    case DTYPE_Q4_K:
        unpack_q4_k(block, out, at);
        return;
    case DTYPE_Q5_K:
        unpack_q5_k(block, out, at);
        return;
    case DTYPE_Q6_K:
        unpack_q6_k(block, out, at);
        return;
    case DTYPE_Q2_K:
        unpack_q2_k(block, out, at);
        return;
    case DTYPE_Q3_K:
        unpack_q3_k(block, out, at);
        return;
    case DTYPE_IQ4_XS:
        unpack_iq4_xs(block, out, at);
        return;
    case DTYPE_F8_E4M3:
    case DTYPE_F8_E5M2:
        unpack_f8(type, block, out, at);
        return;
    default:
        unpack_32(type, block, out, at);
    }
}

#endif
