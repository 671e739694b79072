// Types and their conversion to f32. Relies on block.h.
#include "tensor/dtype.h"

#include "tensor/block.h"

#include <math.h>
#include <string.h>

static const struct dtype_info table[DTYPE_COUNT] = {
    [DTYPE_NONE] = {"?", 1, 0},          [DTYPE_F32] = {"F32", 1, 4},
    [DTYPE_F16] = {"F16", 1, 2},         [DTYPE_BF16] = {"BF16", 1, 2},
    [DTYPE_F8_E4M3] = {"F8_E4M3", 1, 1}, [DTYPE_F8_E5M2] = {"F8_E5M2", 1, 1},
    [DTYPE_F64] = {"F64", 1, 8},         [DTYPE_I8] = {"I8", 1, 1},
    [DTYPE_U8] = {"U8", 1, 1},           [DTYPE_I16] = {"I16", 1, 2},
    [DTYPE_U16] = {"U16", 1, 2},         [DTYPE_I32] = {"I32", 1, 4},
    [DTYPE_U32] = {"U32", 1, 4},         [DTYPE_I64] = {"I64", 1, 8},
    [DTYPE_U64] = {"U64", 1, 8},         [DTYPE_BOOL] = {"BOOL", 1, 1},
    [DTYPE_Q4_0] = {"Q4_0", 32, 18},     [DTYPE_Q4_1] = {"Q4_1", 32, 20},
    [DTYPE_Q5_0] = {"Q5_0", 32, 22},     [DTYPE_Q5_1] = {"Q5_1", 32, 24},
    [DTYPE_Q8_0] = {"Q8_0", 32, 34},     [DTYPE_Q2_K] = {"Q2_K", 256, 84},
    [DTYPE_Q3_K] = {"Q3_K", 256, 110},   [DTYPE_Q4_K] = {"Q4_K", 256, 144},
    [DTYPE_Q5_K] = {"Q5_K", 256, 176},   [DTYPE_Q6_K] = {"Q6_K", 256, 210},
    [DTYPE_IQ4_NL] = {"IQ4_NL", 32, 18}, [DTYPE_IQ4_XS] = {"IQ4_XS", 256, 136},
    [DTYPE_NVFP4] = {"NVFP4", 2, 1},     [DTYPE_NF4] = {"NF4", 2, 1},
};

const struct dtype_info *dtype_info(enum dtype type) {
    return type > DTYPE_NONE && type < DTYPE_COUNT ? &table[type] : &table[DTYPE_NONE];
}

enum dtype dtype_from_name(const char *name, size_t length) {
    for (int type = DTYPE_NONE + 1; type <= DTYPE_BOOL; type++) { // safetensors has no block types
        if (strlen(table[type].name) == length && memcmp(table[type].name, name, length) == 0)
            return (enum dtype)type;
    }
    return DTYPE_NONE;
}

size_t dtype_bytes(enum dtype type, int64_t values) {
    const struct dtype_info *info = dtype_info(type);
    return (size_t)(values / info->block_values) * (size_t)info->block_bytes;
}

static float float_from_bits(uint32_t bits) {
    union {
        uint32_t u;
        float f;
    } v = {bits};
    return v.f;
}

static uint32_t bits_from_float(float value) {
    union {
        float f;
        uint32_t u;
    } v = {value};
    return v.u;
}

float f16_to_f32(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return float_from_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) { // zero and subnormals: fraction * 2^-24, exact
        float value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    return float_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t f32_to_f16(float value) {
    uint32_t bits = bits_from_float(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    uint32_t size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (size >> 13 & 0x3ff)); // NaN stays NaN
    if (size >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); // 65520 and more round to infinity
    if (size < 0x38800000u) {                                  // below 2^-14: a multiple of 2^-24
        // Adding 0.5 puts the value's units of 2^-24 into the last fraction bits, rounded to nearest even.
        uint32_t shifted = bits_from_float(float_from_bits(size) + 0.5f);
        return (uint16_t)(sign | (shifted - 0x3f000000u));
    }
    uint32_t rounded = size + 0xfffu + (size >> 13 & 1);
    return (uint16_t)(sign | (rounded - 0x38000000u) >> 13);
}

// OCP 8-bit floating point: e4m3 "FN" (S.1111.111 is NaN, no infinities) and e5m2 (the upper byte of an IEEE half).
float f8_e4m3_to_f32(uint8_t bits) {
    int exponent = bits >> 3 & 15, fraction = bits & 7;
    float value;
    if (exponent == 15 && fraction == 7) {
        value = NAN;
    } else if (exponent == 0) {
        value = (float)fraction * 0x1p-9f;
    } else {
        value = float_from_bits((uint32_t)(exponent + 120) << 23 | (uint32_t)fraction << 20);
    }
    return bits & 0x80 ? -value : value;
}

bool dtype_decode(enum dtype type, const void *from, float *to, int64_t count) {
    const uint8_t *bytes = from; // maybe unaligned: values are copied out
    switch (type) {
    case DTYPE_F32:
        if (count > 0) memcpy(to, from, (size_t)count * sizeof *to);
        return true;
    case DTYPE_F16:
    case DTYPE_BF16:
        for (int64_t i = 0; i < count; i++) {
            uint16_t bits;
            memcpy(&bits, bytes + 2 * i, sizeof bits);
            to[i] = type == DTYPE_F16 ? f16_to_f32(bits) : bf16_to_f32(bits);
        }
        return true;
    case DTYPE_F64:
        for (int64_t i = 0; i < count; i++) {
            double value;
            memcpy(&value, bytes + 8 * i, sizeof value);
            to[i] = (float)value;
        }
        return true;
    case DTYPE_F8_E4M3:
        for (int64_t i = 0; i < count; i++) to[i] = f8_e4m3_to_f32(bytes[i]);
        return true;
    case DTYPE_F8_E5M2:
        for (int64_t i = 0; i < count; i++) to[i] = f16_to_f32((uint16_t)(bytes[i] << 8));
        return true;
    default:
        if (!block_has(type)) return false;
        block_decode(type, from, to, count);
        return true;
    }
}
