// Decoders of GGUF's block types in plain C: the oracle of the vector kernels. Relies on block.h.
//
// Products and sums stand in the reference's order, and the build contracts none (-ffp-contract=off).
#include "tensor/block.h"

#include <string.h>

const int8_t block_iq4_codes[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static float half_at(const uint8_t *from) {
    return f16_to_f32((uint16_t)(from[0] | from[1] << 8));
}

static uint32_t word_at(const uint8_t *from) {
    return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

// ------------------------------------------------------------------------------------------------ blocks of 32 values

static void decode_q4_0(const uint8_t *block, float *to) {
    const float d = half_at(block);
    for (int j = 0; j < 16; j++) {
        to[j] = d * (float)((block[2 + j] & 15) - 8);
        to[j + 16] = d * (float)((block[2 + j] >> 4) - 8);
    }
}

static void decode_q4_1(const uint8_t *block, float *to) {
    const float d = half_at(block), m = half_at(block + 2);
    for (int j = 0; j < 16; j++) {
        to[j] = d * (float)(block[4 + j] & 15) + m;
        to[j + 16] = d * (float)(block[4 + j] >> 4) + m;
    }
}

// Code j of 5 bits: a nibble of [low] and bit j of [high].
static int code_5(const uint8_t *low, uint32_t high, int j) {
    const int nibble = j < 16 ? low[j] & 15 : low[j - 16] >> 4;
    return nibble | (int)(high >> j & 1) << 4;
}

static void decode_q5_0(const uint8_t *block, float *to) {
    const float d = half_at(block);
    const uint32_t high = word_at(block + 2);
    for (int j = 0; j < 32; j++) to[j] = d * (float)(code_5(block + 6, high, j) - 16);
}

static void decode_q5_1(const uint8_t *block, float *to) {
    const float d = half_at(block), m = half_at(block + 2);
    const uint32_t high = word_at(block + 4);
    for (int j = 0; j < 32; j++) to[j] = d * (float)code_5(block + 8, high, j) + m;
}

static void decode_q8_0(const uint8_t *block, float *to) {
    const float d = half_at(block);
    for (int j = 0; j < 32; j++) to[j] = d * (float)(int8_t)block[2 + j];
}

static void decode_iq4_nl(const uint8_t *block, float *to) {
    const float d = half_at(block);
    for (int j = 0; j < 16; j++) {
        to[j] = d * (float)block_iq4_codes[block[2 + j] & 15];
        to[j + 16] = d * (float)block_iq4_codes[block[2 + j] >> 4];
    }
}

// ----------------------------------------------------------------------------------------------- blocks of 256 values

static void decode_q2_k(const uint8_t *block, float *to) {
    const uint8_t *scales = block, *codes = block + 16;
    const float d = half_at(block + 80), m = half_at(block + 82);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, j = i % 128 / 32, l = i % 32, n = codes[32 * half + l] >> 2 * j & 3;
        const float scale = d * (float)(scales[i / 16] & 15), least = m * (float)(scales[i / 16] >> 4);
        to[i] = scale * (float)n - least;
    }
}

static void decode_q3_k(const uint8_t *block, float *to) {
    const uint8_t *bits = block, *codes = block + 32, *scales = block + 96;
    const float d = half_at(block + 108);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, j = i % 128 / 32, l = i % 32, g = i / 16;
        const int s = (scales[g % 8] >> 4 * (g / 8) & 15) | (scales[8 + g % 4] >> 2 * (g / 4) & 3) << 4;
        const int n = (codes[32 * half + l] >> 2 * j & 3) - (bits[l] >> (4 * half + j) & 1 ? 0 : 4);
        to[i] = d * (float)(s - 32) * (float)n;
    }
}

void block_k_scales(const uint8_t bytes[12], uint8_t scales[8], uint8_t minima[8]) {
    for (int g = 0; g < 4; g++) {
        scales[g] = bytes[g] & 63;
        minima[g] = bytes[g + 4] & 63;
        scales[g + 4] = (uint8_t)((bytes[g + 8] & 15) | bytes[g] >> 6 << 4);
        minima[g + 4] = (uint8_t)(bytes[g + 8] >> 4 | bytes[g + 4] >> 6 << 4);
    }
}

// high: the fifth bits, NULL for Q4_K.
static void decode_k_groups(const uint8_t *block, const uint8_t *high, const uint8_t *codes, float *to) {
    const float d = half_at(block), m = half_at(block + 2);
    uint8_t scales[8], minima[8];
    block_k_scales(block + 4, scales, minima);
    for (int g = 0; g < 8; g++) {
        const float scale = d * (float)scales[g], least = m * (float)minima[g];
        for (int l = 0; l < 32; l++) {
            int n = codes[32 * (g / 2) + l] >> 4 * (g % 2) & 15;
            if (high) n |= (high[l] >> g & 1) << 4;
            to[32 * g + l] = scale * (float)n - least;
        }
    }
}

static void decode_q4_k(const uint8_t *block, float *to) {
    decode_k_groups(block, NULL, block + 16, to);
}

static void decode_q5_k(const uint8_t *block, float *to) {
    decode_k_groups(block, block + 16, block + 48, to);
}

static void decode_q6_k(const uint8_t *block, float *to) {
    const float d = half_at(block + 208);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, j = i % 128 / 32, l = i % 32;
        const int low = block[64 * half + l + 32 * (j % 2)] >> 4 * (j / 2) & 15;
        const int high = block[128 + 32 * half + l] >> 2 * j & 3;
        const float scale = d * (float)(int8_t)block[192 + i / 16];
        to[i] = scale * (float)((low | high << 4) - 32);
    }
}

static void decode_iq4_xs(const uint8_t *block, float *to) {
    const float d = half_at(block);
    const int high = block[2] | block[3] << 8;
    for (int g = 0; g < 8; g++) {
        const int s = (block[4 + g / 2] >> 4 * (g % 2) & 15) | (high >> 2 * g & 3) << 4;
        const float scale = d * (float)(s - 32);
        for (int j = 0; j < 16; j++) {
            const uint8_t byte = block[8 + 16 * g + j];
            to[32 * g + j] = scale * (float)block_iq4_codes[byte & 15];
            to[32 * g + j + 16] = scale * (float)block_iq4_codes[byte >> 4];
        }
    }
}

// ------------------------------------------------------------------------------------------------------------- the list

typedef void decoder(const uint8_t *block, float *to);

static decoder *const decoders[DTYPE_COUNT] = {
    [DTYPE_Q4_0] = decode_q4_0, [DTYPE_Q4_1] = decode_q4_1,     [DTYPE_Q5_0] = decode_q5_0,
    [DTYPE_Q5_1] = decode_q5_1, [DTYPE_Q8_0] = decode_q8_0,     [DTYPE_Q2_K] = decode_q2_k,
    [DTYPE_Q3_K] = decode_q3_k, [DTYPE_Q4_K] = decode_q4_k,     [DTYPE_Q5_K] = decode_q5_k,
    [DTYPE_Q6_K] = decode_q6_k, [DTYPE_IQ4_NL] = decode_iq4_nl, [DTYPE_IQ4_XS] = decode_iq4_xs,
};

bool block_has(enum dtype type) {
    return type > DTYPE_NONE && type < DTYPE_COUNT && decoders[type];
}

void block_decode(enum dtype type, const void *from, float *to, int64_t count) {
    const struct dtype_info *info = dtype_info(type);
    const uint8_t *block = from;
    for (int64_t at = 0; at < count; at += info->block_values, block += info->block_bytes)
        decoders[type](block, to + at);
}
