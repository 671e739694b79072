// Products of a row's stored codes with x, block by block, for files that are compiled for AVX512_BF16. Relies on
// decode_scales.h, vector_avx512.h.
//
// A code, without its scale, is a small number that bf16 holds exactly. So the codes themselves are multiplied with x, and the
// scales are applied to sums of a group's products: no weight is ever rounded (of NF4's codebook bf16 holds the numbers in two
// parts), and nothing is done for each weight but to bring its code into the low bits of a word, to look it up (VPERMW looks
// at the low 5 bits of an index, VPERMI2W at 6) and to multiply (VDPBF16PS). Codes stay where the bytes of a block have them:
// a load of 64 bytes is 32 words of two bytes, a table lookup takes the codes of the even or of the odd bytes, and x lies in
// the order that follows from this (order_unit in gemm_codes_avx512bf16.c). What codes are shifted by (the t of d s n - m t)
// is multiplied with sums of x that were made beforehand.
#ifndef LIMN_TENSOR_CPU_CODES_AVX512BF16_H
#define LIMN_TENSOR_CPU_CODES_AVX512BF16_H

#include "tensor/cpu/decode_scales.h"
#include "tensor/cpu/vector_avx512.h"

// Of a row; several, so that an addition need not wait for the last one.
struct totals {
    __m512 a, b, m; // m: what minima make
    __m128 four;    // the same of four blocks of 32 values
};

// --------------------------------------------------------------------------------------------------- words and tables

// 64 bytes. A compiler would load them again for each shift; where they lie across two lines that is two loads.
ALWAYS __m512i load_64(const uint8_t *from) {
    __m512i bytes = _mm512_loadu_si512(from);
    __asm__("" : "+v"(bytes));
    return bytes;
}

// 32 bytes twice, the upper ones shifted right by [shift] bits (of words).
ALWAYS __m512i load_32_twice(const uint8_t *from, int shift) {
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16((short)shift), 1);
    return _mm512_srlv_epi16(_mm512_broadcast_i64x4(load_32(from)), shifts);
}

ALWAYS __m512 count_up(void) { // 0 to 15
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// 32 values as bf16.
ALWAYS __m512i table_of(__m512 first, __m512 second) {
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

// 0 to 15 less [offset], twice; and 0 to 31.
ALWAYS __m512i table_4_bits(float offset) {
    const __m512 values = _mm512_sub_ps(count_up(), _mm512_set1_ps(offset));
    return table_of(values, values);
}

ALWAYS __m512i table_5_bits(float offset) {
    const __m512 values = _mm512_sub_ps(count_up(), _mm512_set1_ps(offset));
    return table_of(values, _mm512_add_ps(values, _mm512_set1_ps(16)));
}

ALWAYS __m512i table_iq4(void) {
    const __m512 values = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16((const uint8_t *)block_iq4_codes)));
    return table_of(values, values);
}

ALWAYS __m512i look_up(__m512i table, __m512i words) {
    return _mm512_permutexvar_epi16(words, table);
}

// (a & mask) | (b & ~mask), of a mask of bytes.
ALWAYS __m512i select_bits(int mask, __m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(_mm512_set1_epi8((char)mask), a, b, 0xca);
}

ALWAYS __m512i odd_bytes(__m512i words) { // in the low halves of words
    return _mm512_srli_epi16(words, 8);
}

ALWAYS __m512 add_product(__m512 sum, __m512i values, const uint16_t *x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)values, (__m512bh)_mm512_load_si512(x));
}

// The codes at the low end of the bytes of [words] times 64 values of x: those of even bytes, those of odd ones.
ALWAYS __m512 byte_products(__m512 sum, __m512i table, __m512i words, const uint16_t *x) {
    sum = add_product(sum, look_up(table, words), x);
    return add_product(sum, look_up(table, odd_bytes(words)), x + 32);
}

// The same of codes of 6 bits, with a table of two registers.
ALWAYS __m512 wide_byte_products(const __m512i table[2], __m512i words, const uint16_t *x) {
    const __m512 sum =
        add_product(_mm512_setzero_ps(), _mm512_permutex2var_epi16(table[0], words, table[1]), x);
    return add_product(sum, _mm512_permutex2var_epi16(table[0], odd_bytes(words), table[1]), x + 32);
}

// ------------------------------------------------------------------------------------------------------------- scales

// total + sums times scales, of which lane i takes number places[i].
ALWAYS __m512 add_scaled(__m512 total, __m512 sums, __m512 scales, __m512i places) {
    return _mm512_fmadd_ps(sums, _mm512_permutexvar_ps(places, scales), total);
}

// Lanes 0 to 7 [first], the others [second].
ALWAYS __m512i two_places(int first, int second) {
    return _mm512_inserti64x4(_mm512_set1_epi32(first), _mm256_set1_epi32(second), 1);
}

// Four lanes each.
ALWAYS __m512i four_places(int a, int b, int c, int d) {
    return _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
}

ALWAYS __m512 floats_of(__m128i bytes) { // with sign
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

// The half at [place], 0 to 7, of 16 bytes in every lane; halves: what _mm256 makes of them.
ALWAYS __m512 spread_half(__m256 halves, int place) {
    return _mm512_permutexvar_ps(_mm512_set1_epi32(place), _mm512_castps256_ps512(halves));
}

// d s in lanes 0 to 7, m t in the others, of a block of Q4_K or Q5_K.
ALWAYS __m512 k_scales(const uint8_t *block) {
    const __m128i head = load_16(block);
    const __m512 d_m = _mm512_permutexvar_ps(two_places(0, 1), _mm512_castps128_ps512(_mm_cvtph_ps(head)));
    return _mm512_mul_ps(d_m, floats_of(k_scale_bytes(head)));
}

// ------------------------------------------------------------------------------------------------ blocks of 256 values

// Low nibbles of 32 bytes are a group, high ones the next: the lower half of 64 bytes has groups 0 and 1, the upper 2 and 3.
ALWAYS void codes_q4_k(const uint8_t *block, const uint16_t *x, const float *sums, struct totals *totals) {
    const __m512i table = table_4_bits(0);
    const __m512 scales = k_scales(block), zero = _mm512_setzero_ps();
    totals->m = _mm512_fmadd_ps(scales, _mm512_load_ps(sums), totals->m);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++, x += 128) {
        const __m512i words = load_64(block + 16 + 64 * i);
        const __m512 low = byte_products(zero, table, words, x);
        const __m512 high = byte_products(zero, table, _mm512_srli_epi16(words, 4), x + 64);
        totals->a = add_scaled(totals->a, low, scales, two_places(4 * i, 4 * i + 2));
        totals->b = add_scaled(totals->b, high, scales, two_places(4 * i + 1, 4 * i + 3));
    }
}

ALWAYS void codes_q5_k(const uint8_t *block, const uint16_t *x, const float *sums, struct totals *totals) {
    const __m512i table = table_5_bits(0), fifth = load_32_twice(block + 16, 2);
    const __m512 scales = k_scales(block), zero = _mm512_setzero_ps();
    totals->m = _mm512_fmadd_ps(scales, _mm512_load_ps(sums), totals->m);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++, x += 128) { // fifth bits are bits 4 i and 4 i + 1 of bytes
        const __m512i words = load_64(block + 48 + 64 * i);
        const __m512i first = i ? fifth : _mm512_slli_epi16(fifth, 4);
        const __m512i second = i ? _mm512_srli_epi16(fifth, 1) : _mm512_slli_epi16(fifth, 3);
        const __m512 low = byte_products(zero, table, select_bits(16, first, words), x);
        const __m512 high =
            byte_products(zero, table, select_bits(16, second, _mm512_srli_epi16(words, 4)), x + 64);
        totals->a = add_scaled(totals->a, low, scales, two_places(4 * i, 4 * i + 2));
        totals->b = add_scaled(totals->b, high, scales, two_places(4 * i + 1, 4 * i + 3));
    }
}

// Of 64 bytes the lower half has values 0 to 31 and 64 to 95, the upper those between and behind them.
ALWAYS void codes_q6_k(const uint8_t *block, const uint16_t *x, struct totals *totals) {
    const __m512i table[2] = {table_5_bits(32), table_5_bits(0)};
    const __m512 d = spread_half(_mm256_cvtph_ps(load_16(block + 194)), 7);
    const __m512 scales = _mm512_mul_ps(d, floats_of(load_16(block + 192)));
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++, x += 128) {
        const __m512i words = load_64(block + 64 * i), above = load_32_twice(block + 128 + 32 * i, 2);
        const __m512 low =
            wide_byte_products(table, select_bits(0x30, _mm512_slli_epi16(above, 4), words), x);
        const __m512 high =
            wide_byte_products(table, select_bits(0x30, above, _mm512_srli_epi16(words, 4)), x + 64);
        const int g = 8 * i;
        totals->a = add_scaled(totals->a, low, scales, four_places(g, g + 1, g + 2, g + 3));
        totals->b = add_scaled(totals->b, high, scales, four_places(g + 4, g + 5, g + 6, g + 7));
    }
}

// Bits 2 j of the lower 32 bytes are values 32 j on, those of the upper ones 128 + 32 j on: groups 2 j, 2 j + 1 and 8 more.
ALWAYS __m512i q2_k_places(int j) {
    return four_places(2 * j, 2 * j + 1, 2 * j + 8, 2 * j + 9);
}

// The second table looks at bits 2 and 3. Scales are picked from the 16 that d and m allow.
ALWAYS void codes_q2_k(const uint8_t *block, const uint16_t *x, const float *sums, struct totals *totals) {
    const __m512 codes = _mm512_broadcast_f32x4(_mm_setr_ps(0, 1, 2, 3));
    const __m512 fours = _mm512_setr_ps(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i first = table_of(codes, codes), second = table_of(fours, fours);
    const __m256 halves = _mm256_cvtph_ps(load_16(block + 68));
    const __m512i nibbles = _mm512_cvtepu8_epi32(load_16(block));
    const __m512 scales = _mm512_permutexvar_ps(nibbles, _mm512_mul_ps(count_up(), spread_half(halves, 6)));
    const __m512 minima = _mm512_permutexvar_ps(_mm512_srli_epi32(nibbles, 4),
                                                _mm512_mul_ps(count_up(), spread_half(halves, 7)));
    const __m512i words = load_64(block + 16), above = _mm512_srli_epi16(words, 4);
    const __m512 zero = _mm512_setzero_ps();
    totals->m = _mm512_fmadd_ps(minima, _mm512_load_ps(sums), totals->m);
    totals->a = add_scaled(totals->a, byte_products(zero, first, words, x), scales, q2_k_places(0));
    totals->b = add_scaled(totals->b, byte_products(zero, second, words, x + 64), scales, q2_k_places(1));
    totals->a = add_scaled(totals->a, byte_products(zero, first, above, x + 128), scales, q2_k_places(2));
    totals->b = add_scaled(totals->b, byte_products(zero, second, above, x + 192), scales, q2_k_places(3));
}

// As Q2_K, with a bit above two of a code: put into bit 3 for the first table, into bit 4 for the second.
ALWAYS void codes_q3_k(const uint8_t *block, const uint16_t *x, struct totals *totals) {
    const __m512 four = _mm512_set1_ps(4);
    const __m512 codes = _mm512_setr_ps(-4, -3, -2, -1, -4, -3, -2, -1, 0, 1, 2, 3, 0, 1, 2, 3);
    const __m512 fours = _mm512_setr_ps(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m512i first = table_of(codes, codes), second = table_of(_mm512_sub_ps(fours, four), fours);
    const __m512 d = spread_half(_mm256_cvtph_ps(load_16(block + 94)), 7);
    const __m512 scales = _mm512_mul_ps(d, floats_of(q3_k_scales(block)));
    const __m512i words = load_64(block + 32), above = _mm512_srli_epi16(words, 4);
    // Bit j of a lower byte and bit 4 + j of an upper one by 3 to the left of j, and by 1.
    const __m512i bits = _mm512_broadcast_i64x4(load_32(block));
    const __m512i low = _mm512_rolv_epi32(bits, two_places(3, 31));
    const __m512i high = _mm512_rolv_epi32(bits, two_places(1, 29));
    const __m512 zero = _mm512_setzero_ps();
    const __m512 a = byte_products(zero, first, select_bits(8, low, words), x);
    const __m512 b = byte_products(zero, second, select_bits(16, low, words), x + 64);
    const __m512 c = byte_products(zero, first, select_bits(8, high, above), x + 128);
    const __m512 e = byte_products(zero, second, select_bits(16, high, above), x + 192);
    totals->a = add_scaled(totals->a, a, scales, q2_k_places(0));
    totals->b = add_scaled(totals->b, b, scales, q2_k_places(1));
    totals->a = add_scaled(totals->a, c, scales, q2_k_places(2));
    totals->b = add_scaled(totals->b, e, scales, q2_k_places(3));
}

// 64 bytes of nibbles that have one scale for four lanes or more.
ALWAYS __m512 nibble_products(__m512i table, __m512i words, const uint16_t *x) {
    const __m512 low = byte_products(_mm512_setzero_ps(), table, words, x);
    return byte_products(low, table, _mm512_srli_epi16(words, 4), x + 64);
}

ALWAYS void codes_iq4_xs(const uint8_t *block, const uint16_t *x, struct totals *totals) {
    const __m512i table = table_iq4();
    const __m256i nibble = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i two_bits = _mm256_setr_epi32(12, 14, 16, 18, 20, 22, 24, 26); // brought to bit 4
    const __m256i head = _mm256_set1_epi32((int)word_at(block));
    const __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32((int)word_at(block + 4)), nibble);
    const __m256i codes = _mm256_and_si256(
        _mm256_ternarylogic_epi32(_mm256_set1_epi32(0x30), _mm256_srlv_epi32(head, two_bits), low, 0xca),
        _mm256_set1_epi32(0x3f));
    const __m256 numbers = _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, _mm256_set1_epi32(32)));
    const __m256 d = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm256_castsi256_si128(head)));
    const __m512 scales = _mm512_castps256_ps512(_mm256_mul_ps(numbers, d));
    totals->a =
        add_scaled(totals->a, nibble_products(table, load_64(block + 8), x), scales, four_places(0, 1, 2, 3));
    totals->b = add_scaled(totals->b, nibble_products(table, load_64(block + 72), x + 128), scales,
                           four_places(4, 5, 6, 7));
}

// ------------------------------------------------------------------------------------------- four blocks of 32 values

// Four blocks of up to 16 words each: 64 bytes from the start, which the first two lie in, and 64 up to the end.
struct four_blocks {
    __m512i first, last;
    int words; // of a block
};

ALWAYS struct four_blocks load_four(const uint8_t *blocks, int bytes) {
    return (struct four_blocks){load_64(blocks), load_64(blocks + 4 * bytes - 64), bytes / 2};
}

// The places of a word of each block, as VPERMI2W counts them, 2^(3 - log) times each.
ALWAYS __m512i word_places(int words, int word) {
    const int64_t ones = 0x0001000100010001, first = ones * word, second = ones * (words + word);
    const int64_t third = ones * (64 - 2 * words + word), fourth = ones * (64 - words + word);
    return _mm512_setr_epi64(first, first, second, second, third, third, fourth, fourth);
}

// 8 words of each block from [word] on, or twice 2 words four times.
ALWAYS __m512i words_of_four(struct four_blocks blocks, int word, bool two) {
    const __m128i up = two ? _mm_set1_epi32(0x00010000) : _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i places = _mm512_add_epi16(word_places(blocks.words, word), _mm512_broadcast_i32x4(up));
    return _mm512_permutex2var_epi16(blocks.first, places, blocks.last);
}

// A half of each block in four lanes, and in one.
ALWAYS __m512 halves_of_four(struct four_blocks blocks, int word) {
    const __m512i all = word_places(blocks.words, word);
    const __m512i places = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 0, 2, 4, 6), all);
    const __m512i words = _mm512_permutex2var_epi16(blocks.first, places, blocks.last);
    return _mm512_cvtph_ps(_mm512_castsi512_si256(words));
}

ALWAYS __m128 four_halves(struct four_blocks blocks, int word) {
    const __m512i all = word_places(blocks.words, word);
    const __m512i places = _mm512_permutexvar_epi16(_mm512_set1_epi64(0x0018001000080000), all);
    const __m512i words = _mm512_permutex2var_epi16(blocks.first, places, blocks.last);
    return _mm_cvtph_ps(_mm512_castsi512_si128(words));
}

// Byte [byte] of a lane in the upper halves of its words 0 to 3, the next in those of the others.
ALWAYS __m512i upper_bytes(__m512i lanes, int byte) {
    const __m512i places = _mm512_broadcast_i32x4(
        _mm_setr_epi8(-1, (char)byte, -1, (char)byte, -1, (char)byte, -1, (char)byte, -1, (char)(byte + 1),
                      -1, (char)(byte + 1), -1, (char)(byte + 1), -1, (char)(byte + 1)));
    return _mm512_shuffle_epi8(lanes, places);
}

// Q5_0 and Q5_1: bit 2 i of 16 becomes bit 4 of word i's low byte, bit 2 i + 1 that of its upper one, as they are looked up.
ALWAYS __m512 fifth_products(__m512 sum, __m512i table, __m512i words, __m512i bits, const uint16_t *x) {
    const __m512i even = _mm512_set1_epi64(0x000a000800060004), odd = _mm512_set1_epi64(0x000b000900070005);
    const __m512i first = select_bits(16, _mm512_srlv_epi16(bits, even), words);
    const __m512i second = select_bits(16, _mm512_srlv_epi16(bits, odd), odd_bytes(words));
    sum = add_product(sum, look_up(table, first), x);
    return add_product(sum, look_up(table, second), x + 32);
}

ALWAYS void codes_32(const enum dtype type, const uint8_t *from, const uint16_t *x, const float *sums,
                     struct totals *totals) {
    const bool minima = type == DTYPE_Q4_1 || type == DTYPE_Q5_1;
    const bool fifth = type == DTYPE_Q5_0 || type == DTYPE_Q5_1;
    const int first = (minima ? 2 : 1) + (fifth ? 2 : 0); // word of the codes
    const struct four_blocks blocks = load_four(from, 2 * (first + 8));
    const __m512i words = words_of_four(blocks, first, false);
    const __m512 d = halves_of_four(blocks, 0);
    __m512 products = _mm512_setzero_ps();
    if (fifth) {
        const __m512i table = table_5_bits(minima ? 0 : 16), bits = words_of_four(blocks, first - 2, true);
        products = fifth_products(products, table, words, upper_bytes(bits, 0), x);
        products = fifth_products(products, table, _mm512_srli_epi16(words, 4), upper_bytes(bits, 2), x + 64);
    } else {
        const __m512i table = type == DTYPE_IQ4_NL ? table_iq4() : table_4_bits(minima ? 0 : 8);
        products = nibble_products(table, words, x);
    }
    totals->a = _mm512_fmadd_ps(products, d, totals->a);
    if (minima) totals->four = _mm_fmadd_ps(four_halves(blocks, 1), _mm_load_ps(sums), totals->four);
}

// ------------------------------------------------------------------------------------- scales that lie beside the codes

// 256 values, 128 bytes, with the E4M3 scales of their 16 groups: products are 2^-8 of what they should be.
ALWAYS void codes_nvfp4(const uint8_t *codes, __m128i scale_bytes, const uint16_t *x, struct totals *totals) {
    const __m512 values = _mm512_loadu_ps(stored_e2m1);
    const __m512i table = table_of(values, values);
    const __m512i groups = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512 scales = _mm512_cvtph_ps(e4m3_halves(scale_bytes));
    totals->a = add_scaled(totals->a, nibble_products(table, load_64(codes), x), scales, groups);
    totals->b = add_scaled(totals->b, nibble_products(table, load_64(codes + 64), x + 128), scales,
                           _mm512_add_epi32(groups, _mm512_set1_epi32(8)));
}

// 128 values with scales of 64 each. The codebook's numbers are any: those nearest in bf16, and what they miss.
ALWAYS void codes_nf4(const uint8_t *codes, const __m512i table[2], const float *scales, const uint16_t *x,
                      struct totals *totals) {
    const __m512i words = load_64(codes), above = _mm512_srli_epi16(words, 4);
    const __m512 by = _mm512_mask_broadcastss_ps(_mm512_set1_ps(scales[0]), 0xff00, _mm_load_ss(scales + 1));
    __m512 near = _mm512_setzero_ps(), rest = near;
    near = byte_products(byte_products(near, table[0], words, x), table[0], above, x + 64);
    rest = byte_products(byte_products(rest, table[1], words, x), table[1], above, x + 64);
    totals->a = _mm512_fmadd_ps(_mm512_add_ps(near, rest), by, totals->a);
}

#endif
