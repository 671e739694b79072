// Bytes of stored rows as vectors, and the scales that stand among them: what every file with vectors of codes has in common.
// Relies on block.h, stored.h, immintrin.h; AVX2 and F16C.
#ifndef LIMN_TENSOR_CPU_DECODE_SCALES_H
#define LIMN_TENSOR_CPU_DECODE_SCALES_H

#include "tensor/block.h"
#include "tensor/stored.h"

#include <immintrin.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))

ALWAYS float half_at(const uint8_t *from) {
    uint16_t bits;
    memcpy(&bits, from, sizeof bits);
    return _cvtsh_ss(bits);
}

ALWAYS uint32_t word_at(const uint8_t *from) {
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

// Keeps numbers in memory, from where each is spread over a vector as it is loaded; a compiler that knows them in a register
// would shuffle them there, in the units that codes need.
#define IN_MEMORY(numbers) __asm__("" : "+m"(*(numbers)))

ALWAYS __m128i load_16(const uint8_t *from) {
    return _mm_loadu_si128((const __m128i *)(const void *)from);
}

ALWAYS __m256i load_32(const uint8_t *from) {
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

// ------------------------------------------------------------------------------------------------- scales within blocks

// The first 16 bytes of a block of Q4_K or Q5_K, which hold d, m and the 12 bytes of scales, as 8 scales and 8 minima, bytes.
ALWAYS __m128i k_scale_bytes(__m128i head) {
    const __m128i low =
        _mm_shuffle_epi8(head, _mm_setr_epi8(4, 5, 6, 7, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
    const __m128i high =
        _mm_shuffle_epi8(head, _mm_setr_epi8(-1, -1, -1, -1, 4, 5, 6, 7, -1, -1, -1, -1, 8, 9, 10, 11));
    const __m128i masks = _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f);
    const __m128i bits = _mm_and_si128(_mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 0, 4)), masks);
    return _mm_or_si128(bits, _mm_and_si128(_mm_srli_epi32(high, 2), _mm_set1_epi8(0x30)));
}

// The 16 scales of Q3_K, less 32: their low nibbles, twice, and the bytes with two bits of each, four times.
ALWAYS __m128i q3_k_scales(const uint8_t *block) {
    const __m128i bytes = load_16(block + 94); // so as to end where the block does
    const __m128i low =
        _mm_srlv_epi64(_mm_shuffle_epi8(bytes, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9)),
                       _mm_set_epi64x(4, 0));
    const __m128i high =
        _mm_srlv_epi32(_mm_shuffle_epi8(bytes, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13,
                                                             10, 11, 12, 13)),
                       _mm_setr_epi32(0, 2, 4, 6));
    const __m128i two = _mm_slli_epi16(_mm_and_si128(high, _mm_set1_epi8(3)), 4);
    return _mm_sub_epi8(_mm_or_si128(_mm_and_si128(low, _mm_set1_epi8(15)), two), _mm_set1_epi8(32));
}

// 16 bytes of E5M2: the upper bytes of halves. Of E4M3: halves that are 2^-8 of the values, NaN apart.
ALWAYS __m256i e5m2_halves(__m128i bytes) {
    return _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 8);
}

ALWAYS __m256i e4m3_halves(__m128i bytes) {
    const __m256i wide =
        _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7); // the sign is in bit 15 and bit 14
    const __m256i halves = _mm256_and_si256(wide, _mm256_set1_epi16((short)0xbf80));
    const __m256i nan =
        _mm256_cmpeq_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x3f80)), _mm256_set1_epi16(0x3f80));
    return _mm256_or_si256(halves, _mm256_and_si256(nan, _mm256_set1_epi16(0x7c00)));
}

// ------------------------------------------------------------------------------------------------ scales beside rows

// The scales of an NVFP4 row: four of them, for 64 values, lie side by side, the next four 512 bytes on (tensor.h).
ALWAYS const uint8_t *nvfp4_scales(const struct stored_row *row) {
    const int64_t r = row->index, tile = r / 128 * (row->blocks->block_columns / 4);
    return (const uint8_t *)row->blocks->blocks + tile * 512 + r % 32 * 16 + r % 128 / 32 * 4;
}

// The scales of an NF4 row's blocks, one after the other.
struct nf4_scales {
    const struct tensor_scales *stored;
    int64_t block, nest,
        nest_end; // of the whole tensor: the next block, its nested scale, the block behind that one's
};

ALWAYS struct nf4_scales nf4_scales_from(const struct stored_row *row, int64_t at) {
    const struct tensor_scales *stored = row->blocks;
    struct nf4_scales scales = {stored, (row->index * row->cols + at) / stored->block_values, 0, 0};
    if (stored->nested) {
        scales.nest = scales.block / stored->nested_block;
        scales.nest_end = (scales.nest + 1) * stored->nested_block;
    }
    return scales;
}

ALWAYS float nf4_next_scale(struct nf4_scales *scales) {
    const struct tensor_scales *stored = scales->stored;
    const int64_t block = scales->block++;
    if (!stored->nested) {
        float scale;
        memcpy(&scale, (const char *)stored->blocks + 4 * block, sizeof scale);
        return scale;
    }
    if (block == scales->nest_end) {
        scales->nest++;
        scales->nest_end += stored->nested_block;
    }
    const float product =
        stored->nested_values[((const uint8_t *)stored->blocks)[block]] * stored->nested_scales[scales->nest];
    return product + stored->nested_offset;
}

#endif
