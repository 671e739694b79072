// Stored blocks as vectors of 32 bf16 values, for files that are compiled for AVX512_BF16. They define struct out,
// advanced(out, n) (decode_stretch.h) and
//
//     put_words(out, at, words)   out[at + i] = words[i]
//
// before they include this, and call unpack_row. Relies on decode_avx512.h, decode_stretch.h.
//
// Where few values can occur under one scale they are worked out and rounded once, into a table of 32 in one register,
// and codes pick from it (VPERMW looks at the low five bits of an index): about half the instructions of widening each
// code to f32. "Pair tables" hold the 16 values of a 4-bit code twice, so that bit 4 of an index does not matter.
//
// VCVTNE2PS2BF16 takes denormals for zero; no product of a half or of E4M3 with a code is one. NF4's scales are any f32.
#ifndef LIMN_TENSOR_CPU_DECODE_AVX512BF16_H
#define LIMN_TENSOR_CPU_DECODE_AVX512BF16_H

#include "tensor/cpu/vector_avx512.h"

static inline __attribute__((always_inline)) void put(struct out out, int at, __m512 a, __m512 b) {
    put_words(out, at, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

#include "tensor/cpu/decode_avx512.h"

// -------------------------------------------------------------------------------------------------------------- tables

ALWAYS __m512 count_up(void) { // 0 to 15
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

ALWAYS __m512i pair_table(__m512 values) {
    return (__m512i)_mm512_cvtne2ps_pbh(values, values);
}

ALWAYS __m512 iq4_values(void) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16((const uint8_t *)block_iq4_codes)));
}

// 32 bytes as words.
ALWAYS __m512i words_at(const uint8_t *from) {
    return _mm512_cvtepu8_epi16(load_32(from));
}

// 16 bytes as 32 words whose low nibbles are the bytes' low nibbles, then their high ones.
ALWAYS __m512i words_of_halves(const uint8_t *from) {
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    return _mm512_srlv_epi16(_mm512_cvtepu8_epi16(_mm256_broadcastsi128_si256(load_16(from))), shifts);
}

// 16 bytes as 32 words whose low nibbles are the high and the low nibble of each byte in turn.
ALWAYS __m512i words_of_pairs(const uint8_t *from) {
    const __m512i four = _mm512_set_epi32(12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0);
    const __m512i twice = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, -128, 0, -128, 1, -128, 1, -128, 2, -128, 2, -128, 3, -128, 3, -128));
    const __m512i places = _mm512_add_epi8(twice, _mm512_mullo_epi32(four, _mm512_set1_epi32(0x00010001)));
    const __m512i bytes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(load_16(from)), places);
    return _mm512_srlv_epi16(bytes, _mm512_set1_epi32(4));
}

ALWAYS __m512i look_up(__m512i table, __m512i words) {
    return _mm512_permutexvar_epi16(words, table);
}

// (a & mask) | (b & ~mask) and (a & mask) | b.
ALWAYS __m512i select_bits(__m512i mask, __m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
}

ALWAYS __m512i masked_or(__m512i a, __m512i mask, __m512i b) {
    return _mm512_ternarylogic_epi32(a, mask, b, 0xea);
}

// ------------------------------------------------------------------------------------------------- blocks by tables

// As k_scales, d times the scales and behind them -m times the minima.
ALWAYS void k_scales_together(const uint8_t *block, float (*to)[16]) {
    const __m128i head = load_16(block);
    const __m512i places = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1);
    const __m512 d_m = _mm512_permutexvar_ps(places, _mm512_castps128_ps512(_mm_cvtph_ps(head)));
    const __m512 signs = _mm512_insertf32x8(_mm512_setzero_ps(), _mm256_set1_ps(-0.0f), 1);
    _mm512_storeu_ps(*to, _mm512_mul_ps(sixteen(k_scale_bytes(head)), _mm512_xor_ps(d_m, signs)));
    IN_MEMORY(to);
}

// A table holds the values of two groups.
ALWAYS void table_q4_k(const uint8_t *block, const float *ab, struct out out, int at) {
    const __m512i low = _mm512_set1_epi16(15), second = _mm512_set1_epi16(16);
#pragma GCC unroll 4
    for (int g = 0; g < 8; g += 2, at += 64) {
        const __m512 values = _mm512_fmadd_ps(count_up(), _mm512_set1_ps(ab[g]), _mm512_set1_ps(ab[g + 8]));
        const __m512 more = _mm512_fmadd_ps(count_up(), _mm512_set1_ps(ab[g + 1]), _mm512_set1_ps(ab[g + 9]));
        const __m512i table = (__m512i)_mm512_cvtne2ps_pbh(more, values),
                      words = words_at(block + 16 + 16 * g);
        put_words(out, at, look_up(table, _mm512_and_si512(words, low)));
        put_words(out, at + 32, look_up(table, _mm512_or_si512(_mm512_srli_epi16(words, 4), second)));
    }
}

// Tables of the 32 codes of a group; the fifth bit of a code is brought from bit g of the group's words to bit 4.
ALWAYS void table_q5_k(const uint8_t *block, const float *ab, struct out out, int at) {
    const __m512i high = words_at(block + 16), fifth = _mm512_set1_epi16(16);
    const __m512 low_codes = count_up(), high_codes = _mm512_add_ps(low_codes, _mm512_set1_ps(16));
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        const __m512 by = _mm512_set1_ps(ab[g]), less = _mm512_set1_ps(ab[g + 8]);
        const __m512i table = (__m512i)_mm512_cvtne2ps_pbh(_mm512_fmadd_ps(high_codes, by, less),
                                                           _mm512_fmadd_ps(low_codes, by, less));
        const __m512i words = _mm512_srli_epi16(words_at(block + 48 + 32 * (g / 2)), 4 * (g % 2));
        const __m512i bits =
            g < 4 ? _mm512_slli_epi16(high, g < 4 ? 4 - g : 0) : _mm512_srli_epi16(high, g < 4 ? 0 : g - 4);
        put_words(out, at + 32 * g, look_up(table, select_bits(fifth, bits, words)));
    }
}

// Groups of 16 with 4 values each: a table holds those of 8 groups, for 128 values; bits 2 to 4 of an index are the group.
ALWAYS void table_q2_k(const uint8_t *block, struct out out, int at) {
    const __m128i scales = load_16(block), low = _mm_set1_epi8(15);
    const __m512 d = _mm512_set1_ps(half_at(block + 80)), m = _mm512_set1_ps(-half_at(block + 82));
    const __m512 a = _mm512_mul_ps(d, sixteen(_mm_and_si128(scales, low)));
    const __m512 b = _mm512_mul_ps(m, sixteen(_mm_and_si128(_mm_srli_epi16(scales, 4), low)));
    const __m512 codes = _mm512_broadcast_f32x4(_mm_setr_ps(0, 1, 2, 3));
    const __m512i group = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i three = _mm512_set1_epi16(3);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        const __m512i first = _mm512_add_epi32(group, _mm512_set1_epi32(8 * half));
        const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(4));
        const __m512 values =
            _mm512_fmadd_ps(codes, _mm512_permutexvar_ps(first, a), _mm512_permutexvar_ps(first, b));
        const __m512 more =
            _mm512_fmadd_ps(codes, _mm512_permutexvar_ps(second, a), _mm512_permutexvar_ps(second, b));
        const __m512i table = (__m512i)_mm512_cvtne2ps_pbh(more, values);
        const __m512i words = words_at(block + 16 + 32 * half);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512i place = _mm512_inserti64x4(_mm512_set1_epi16((short)(8 * j)),
                                                     _mm256_set1_epi16((short)(8 * j + 4)), 1);
            const __m512i index = masked_or(_mm512_srli_epi16(words, 2 * j), three, place);
            put_words(out, at + 128 * half + 32 * j, look_up(table, index));
        }
    }
}

// Groups of 16 with 8 values each: a table holds those of 4 groups, for 64 values; bits 3 and 4 of an index are the group.
ALWAYS void table_q3_k(const uint8_t *block, struct out out, int at) {
    const __m512i high = words_at(block), four = _mm512_set1_epi16(4), three = _mm512_set1_epi16(3);
    const __m512 codes =
        _mm512_sub_ps(_mm512_broadcast_f32x8(_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7)), _mm512_set1_ps(4));
    const __m512i group = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1);
    const __m512 a = _mm512_mul_ps(_mm512_set1_ps(half_at(block + 108)), sixteen(q3_k_scales(block)));
#pragma GCC unroll 4
    for (int pair = 0; pair < 4; pair++) {
        const __m512i first = _mm512_add_epi32(group, _mm512_set1_epi32(4 * pair));
        const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(2));
        const __m512i table =
            (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(codes, _mm512_permutexvar_ps(second, a)),
                                         _mm512_mul_ps(codes, _mm512_permutexvar_ps(first, a)));
        const __m512i words = words_at(block + 32 + 32 * (pair / 2));
#pragma GCC unroll 2
        for (int i = 2 * pair; i < 2 * pair + 2; i++) {
            const __m512i place = _mm512_inserti64x4(_mm512_set1_epi16((short)(16 * (i % 2))),
                                                     _mm256_set1_epi16((short)(16 * (i % 2) + 8)), 1);
            const __m512i bit = i < 2 ? _mm512_slli_epi16(high, i < 2 ? 2 - i : 0)
                                      : _mm512_srli_epi16(high, i < 2 ? 0 : i - 2);
            const __m512i low = masked_or(_mm512_srli_epi16(words, 2 * (i % 4)), three, place);
            put_words(out, at + 32 * i, look_up(table, select_bits(four, bit, low)));
        }
    }
}

ALWAYS void table_iq4_xs(const uint8_t *block, struct out out, int at) {
    const __m512 values = iq4_values();
    const float d = half_at(block);
    const int high = block[2] | block[3] << 8;
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        const int s = (block[4 + g / 2] >> 4 * (g % 2) & 15) | (high >> 2 * g & 3) << 4;
        const __m512i table = pair_table(_mm512_mul_ps(values, _mm512_set1_ps(d * (float)(s - 32))));
        put_words(out, at + 32 * g, look_up(table, words_of_halves(block + 8 + 16 * g)));
    }
}

// A half in every lane.
ALWAYS __m512 half_wide(const uint8_t *from) {
    uint16_t bits;
    memcpy(&bits, from, sizeof bits);
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)bits));
}

// Q4_0, Q4_1 and IQ4_NL.
ALWAYS void table_32(const enum dtype type, const uint8_t *block, struct out out, int at) {
    const __m512 d = half_wide(block);
    __m512 values = iq4_values();
    if (type != DTYPE_IQ4_NL) values = _mm512_sub_ps(count_up(), _mm512_set1_ps(type == DTYPE_Q4_0 ? 8 : 0));
    values = type == DTYPE_Q4_1 ? _mm512_fmadd_ps(values, d, half_wide(block + 2)) : _mm512_mul_ps(values, d);
    put_words(out, at, look_up(pair_table(values), words_of_halves(block + (type == DTYPE_Q4_1 ? 4 : 2))));
}

// The 128 magnitudes of E4M3 as bf16, in four registers; the sign is put in afterwards.
ALWAYS void table_e4m3(const uint8_t *bytes, struct out out, int at) {
    const __m512i up = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15,
                                        14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i normal = _mm512_add_epi16(_mm512_slli_epi16(up, 4), _mm512_set1_epi16(0x3c00));
    const __m512i small = _mm512_inserti64x2(
        normal, _mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60), 0);
    const __m512i second = _mm512_add_epi16(normal, _mm512_set1_epi16(0x0200));
    const __m512i third = _mm512_add_epi16(normal, _mm512_set1_epi16(0x0400));
    const __m512i last =
        _mm512_mask_set1_epi16(_mm512_add_epi16(normal, _mm512_set1_epi16(0x0600)), 0x80000000u, 0x7fc0);
    const __m512i words = _mm512_cvtepi8_epi16(load_32(bytes));
    const __m512i below = _mm512_permutex2var_epi16(small, words, second);
    const __m512i above = _mm512_permutex2var_epi16(third, words, last);
    const __m512i magnitude =
        _mm512_mask_blend_epi16(_mm512_test_epi16_mask(words, _mm512_set1_epi16(64)), below, above);
    put_words(out, at, masked_or(words, _mm512_set1_epi16((short)0x8000), magnitude));
}

ALWAYS void table_nvfp4(const uint8_t *bytes, float a0, float a1, struct out out, int at) {
    const __m512 values = _mm512_loadu_ps(stored_e2m1);
    const __m512i table = (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(values, _mm512_set1_ps(a1)),
                                                       _mm512_mul_ps(values, _mm512_set1_ps(a0)));
    const __m512i second = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
    put_words(out, at, look_up(table, masked_or(words_of_pairs(bytes), _mm512_set1_epi16(15), second)));
}

ALWAYS void table_block(const enum dtype type, const uint8_t *block, struct out out, int at) {
    switch (type) {
    case DTYPE_Q2_K:
        table_q2_k(block, out, at);
        return;
    case DTYPE_Q3_K:
        table_q3_k(block, out, at);
        return;
    case DTYPE_IQ4_XS:
        table_iq4_xs(block, out, at);
        return;
    case DTYPE_Q4_0:
    case DTYPE_Q4_1:
    case DTYPE_IQ4_NL:
        table_32(type, block, out, at);
        return;
    case DTYPE_F8_E4M3:
        table_e4m3(block, out, at);
        return;
    case DTYPE_F16:
        put(out, at, _mm512_cvtph_ps(load_32(block)), _mm512_cvtph_ps(load_32(block + 32)));
        return;
    default:
        unpack_block(type, block, out, at);
    }
}

#define UNPACK_BLOCK table_block
#define UNPACK_NVFP4 table_nvfp4
#define UNPACK_F16

#include "tensor/cpu/decode_stretch.h"

// NF4 from [at], a multiple of 32, on in blocks of a multiple of 32 values; returns how many values are done.
ALWAYS int64_t unpack_nf4_row(const struct stored_row *row, int64_t at, int64_t count, struct out out) {
    const int64_t values = row->blocks->block_values;
    const uint8_t *bytes = (const uint8_t *)row->data + at / 2;
    const __m512 codebook = _mm512_loadu_ps(row->blocks->codebook);
    struct nf4_scales scales = nf4_scales_from(row, at);
    int64_t done = 0, left = values - at % values;
    if (values % 32 || at % 32) return 0;
    for (; done + 32 <= count; left = values) {
        const __m512 scaled = _mm512_mul_ps(codebook, _mm512_set1_ps(nf4_next_scale(&scales)));
        const __m512i table = _mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(round_bf16_512(scaled)));
        for (; left > 0 && done + 32 <= count; left -= 32, done += 32, bytes += 16, out = advanced(out, 32))
            put_words(out, 0, look_up(table, words_of_pairs(bytes)));
    }
    return done;
}

// Q4_K and Q5_K. A block's scales are worked out while the one before is decoded: what was just written to memory takes
// long to be read again.
ALWAYS int64_t unpack_k_blocks(const enum dtype type, const int bytes, const uint8_t *from, int64_t count,
                               struct out out) {
    float scales[2][16];
    int64_t done = 0;
    if (count >= 256) k_scales_together(from, &scales[0]);
    for (int i = 0; done + 256 <= count; i ^= 1, done += 256, from += bytes, out = advanced(out, 256)) {
        if (done + 512 <= count) k_scales_together(from + bytes, &scales[i ^ 1]);
        if (type == DTYPE_Q4_K)
            table_q4_k(from, scales[i], out, 0);
        else
            table_q5_k(from, scales[i], out, 0);
    }
    return done;
}

ALWAYS int64_t unpack_row(const struct stored_row *row, int64_t at, int64_t count, struct out out) {
    if (row->type == DTYPE_NVFP4) return unpack_nvfp4_row(row, at, count, out);
    if (row->type == DTYPE_NF4) return unpack_nf4_row(row, at, count, out);
    const uint8_t *from = (const uint8_t *)row->data + dtype_bytes(row->type, at);
    if (row->type == DTYPE_Q4_K) return unpack_k_blocks(DTYPE_Q4_K, 144, from, count, out);
    if (row->type == DTYPE_Q5_K) return unpack_k_blocks(DTYPE_Q5_K, 176, from, count, out);
    return unpack_own(row->type, from, count, out);
}

#endif
