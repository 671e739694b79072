// Encoders of plain types and of the evenly spaced blocks of 32 values. Relies on encode.h, block.h.
#include "tensor/encode.h"

#include "tensor/block.h"

#include <math.h>
#include <string.h>

// Rounds to a multiple of the last place, which falls with the exponent down to 2^-9: for 2^-6 and more 3 bits behind the
// first one are kept.
uint8_t f32_to_f8_e4m3(float value) {
    union {
        float f;
        uint32_t u;
    } v = {value};
    const uint8_t sign = (uint8_t)(v.u >> 24 & 0x80);
    const uint32_t size = v.u & 0x7fffffffu;
    if (size > 0x7f800000u) return sign | 0x7f;
    if (size >= 0x43e80000u) return sign | 0x7e; // 464, the middle between 448 and the next, and more
    if (size < 0x3c800000u) {                    // below 2^-6: a multiple of 2^-9
        v.u = size;
        v.f += 0x1p14f; // whose last place is 2^-9
        return (uint8_t)(sign | (v.u & 0xf));
    }
    const uint32_t rounded = size + 0x7ffffu + (size >> 20 & 1);
    return (uint8_t)(sign | (rounded - 0x3c000000u) >> 20);
}

// The upper byte of a half, rounded once.
uint8_t f32_to_f8_e5m2(float value) {
    union {
        float f;
        uint32_t u;
    } v = {value};
    const uint8_t sign = (uint8_t)(v.u >> 24 & 0x80);
    const uint32_t size = v.u & 0x7fffffffu;
    if (size > 0x7f800000u) return sign | 0x7f;
    if (size >= 0x47700000u) return sign | 0x7b; // 61440, the middle between 57344 and the next, and more
    if (size < 0x38800000u) {                    // below 2^-14: a multiple of 2^-16
        v.u = size;
        v.f += 0x1p7f; // whose last place is 2^-16
        return (uint8_t)(sign | (v.u & 0x7));
    }
    const uint32_t rounded = size + 0xfffffu + (size >> 21 & 1);
    return (uint8_t)(sign | (rounded - 0x38000000u) >> 21);
}

// --------------------------------------------------------------------------------------------- blocks of 32 values

enum { BLOCK = 32 };

static bool put_half(uint8_t *to, float value) {
    const uint16_t bits = f32_to_f16(value);
    to[0] = (uint8_t)bits;
    to[1] = (uint8_t)(bits >> 8);
    return (bits & 0x7c00) != 0x7c00;
}

// 1 / d; 0 where d is 0 or so small that it has no inverse: d is 0 as a half then, too.
static float inverse(float d) {
    const float inverted = 1 / d;
    return d == 0 || !isfinite(inverted) ? 0 : inverted;
}

// The first value of the largest magnitude.
static float largest(const float *x) {
    float most = x[0];
    for (int i = 1; i < BLOCK; i++) most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
    return most;
}

static void extremes(const float *x, float *least, float *most) {
    *least = *most = x[0];
    for (int i = 1; i < BLOCK; i++) {
        *least = x[i] < *least ? x[i] : *least;
        *most = x[i] > *most ? x[i] : *most;
    }
}

static int code_of(float value, int most) { // value: not negative but by rounding
    const int code = (int)value;
    return code > most ? most : code < 0 ? 0 : code;
}

static bool encode_q8_0(const float *x, uint8_t *block) {
    const float d = fabsf(largest(x)) / 127, by = inverse(d);
    for (int i = 0; i < BLOCK; i++) block[2 + i] = (uint8_t)(int8_t)roundf(x[i] * by);
    return put_half(block, d);
}

static void put_nibbles(const int *codes, uint8_t *to) {
    for (int j = 0; j < BLOCK / 2; j++) to[j] = (uint8_t)((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}

static void put_fifth_bits(const int *codes, uint8_t *to) {
    memset(to, 0, 4);
    for (int j = 0; j < BLOCK; j++) to[j / 8] |= (uint8_t)((codes[j] >> 4) << j % 8);
}

// d (n - half): the value of the largest magnitude becomes code 0. bits: 4 or 5.
static bool encode_centred(const float *x, int bits, uint8_t *block) {
    const int half = 1 << (bits - 1);
    const float d = largest(x) / (float)-half, by = inverse(d);
    int codes[BLOCK];
    for (int i = 0; i < BLOCK; i++) codes[i] = code_of(x[i] * by + ((float)half + 0.5f), 2 * half - 1);
    if (bits == 5) put_fifth_bits(codes, block + 2);
    put_nibbles(codes, block + (bits == 5 ? 6 : 2));
    return put_half(block, d);
}

// d n + m: from the least value to the largest.
static bool encode_affine(const float *x, int bits, uint8_t *block) {
    const int top = (1 << bits) - 1;
    float least, most;
    extremes(x, &least, &most);
    const float d = (most - least) / (float)top, by = inverse(d);
    int codes[BLOCK];
    if (!isfinite(d)) return false;
    for (int i = 0; i < BLOCK; i++) codes[i] = code_of((x[i] - least) * by + 0.5f, top);
    if (bits == 5) put_fifth_bits(codes, block + 4);
    put_nibbles(codes, block + (bits == 5 ? 8 : 4));
    return put_half(block, d) & put_half(block + 2, least);
}

// ------------------------------------------------------------------------------------------------------------ the list

static bool encode_block(enum dtype type, const float *x, uint8_t *block) {
    switch (type) {
    case DTYPE_Q8_0:
        return encode_q8_0(x, block);
    case DTYPE_Q4_0:
        return encode_centred(x, 4, block);
    case DTYPE_Q5_0:
        return encode_centred(x, 5, block);
    case DTYPE_Q4_1:
        return encode_affine(x, 4, block);
    case DTYPE_Q5_1:
        return encode_affine(x, 5, block);
    case DTYPE_Q2_K:
        return encode_q2_k(x, block);
    case DTYPE_Q3_K:
        return encode_q3_k(x, block);
    case DTYPE_Q4_K:
        return encode_q4_k(x, block);
    case DTYPE_Q5_K:
        return encode_q5_k(x, block);
    case DTYPE_Q6_K:
        return encode_q6_k(x, block);
    case DTYPE_IQ4_NL:
        return encode_iq4_nl(x, block);
    case DTYPE_IQ4_XS:
        return encode_iq4_xs(x, block);
    default:
        return false;
    }
}

static bool are_finite(const float *x, int count) {
    bool all = true;
    for (int i = 0; i < count; i++) all &= isfinite(x[i]) != 0;
    return all;
}

bool dtype_encodes(enum dtype type) {
    return type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16 || type == DTYPE_F8_E4M3 ||
           type == DTYPE_F8_E5M2 || block_has(type);
}

bool dtype_encode(enum dtype type, const float *from, void *to, int64_t count) {
    const struct dtype_info *info = dtype_info(type);
    uint8_t *bytes = to;
    if (!dtype_encodes(type)) return false;
    if (type == DTYPE_F32 && count > 0) memcpy(to, from, (size_t)count * sizeof *from);
    if (type == DTYPE_F16 || type == DTYPE_BF16)
        for (int64_t i = 0; i < count; i++) {
            const uint16_t bits = type == DTYPE_F16 ? f32_to_f16(from[i]) : f32_to_bf16(from[i]);
            memcpy(bytes + 2 * i, &bits, sizeof bits);
        }
    for (int64_t i = 0; i < count && type == DTYPE_F8_E4M3; i++) bytes[i] = f32_to_f8_e4m3(from[i]);
    for (int64_t i = 0; i < count && type == DTYPE_F8_E5M2; i++) bytes[i] = f32_to_f8_e5m2(from[i]);
    for (int64_t at = 0; at < count && info->block_values > 1; at += info->block_values) {
        if (!are_finite(from + at, info->block_values) || !encode_block(type, from + at, bytes)) return false;
        bytes += info->block_bytes;
    }
    return true;
}
