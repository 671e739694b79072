// The types in which numbers lie in files and in memory. Relies on nothing.
#ifndef LIMN_TENSOR_DTYPE_H
#define LIMN_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype {
    DTYPE_NONE = 0,
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_F8_E4M3, // "FN": no infinities, bias 7
    DTYPE_F8_E5M2,
    DTYPE_F64,
    DTYPE_I8,
    DTYPE_U8,
    DTYPE_I16,
    DTYPE_U16,
    DTYPE_I32,
    DTYPE_U32,
    DTYPE_I64,
    DTYPE_U64,
    DTYPE_BOOL,
    // GGUF's block types: scales stand inside the blocks, so that a row is decoded from its own bytes.
    DTYPE_Q4_0,
    DTYPE_Q4_1,
    DTYPE_Q5_0,
    DTYPE_Q5_1,
    DTYPE_Q8_0,
    DTYPE_Q2_K,
    DTYPE_Q3_K,
    DTYPE_Q4_K,
    DTYPE_Q5_K,
    DTYPE_Q6_K,
    DTYPE_IQ4_NL,
    DTYPE_IQ4_XS,
    // 4-bit codes, two a byte, the first in the high nibble; their block scales lie elsewhere (struct tensor_scales).
    DTYPE_NVFP4,
    DTYPE_NF4,
    DTYPE_COUNT,
};

// A block type stores [block_values] values in [block_bytes] bytes; plain types have one value a block.
struct dtype_info {
    const char *name; // as safetensors spells it: "BF16"
    int block_values;
    int block_bytes;
};

const struct dtype_info *dtype_info(enum dtype type);        // never NULL; "?" for DTYPE_NONE
enum dtype dtype_from_name(const char *name, size_t length); // DTYPE_NONE for an unknown one

// Bytes of [values] values; values must be a multiple of the block.
size_t dtype_bytes(enum dtype type, int64_t values);

// bfloat16, rounded to nearest even (NaN stays NaN); exact the other way.
static inline float bf16_to_f32(uint16_t bits) {
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)bits << 16};
    return v.f;
}

static inline uint16_t f32_to_bf16(float value) {
    union {
        float f;
        uint32_t u;
    } v = {value};
    if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((v.u >> 16) | 0x40);
    return (uint16_t)((v.u + 0x7fffu + ((v.u >> 16) & 1)) >> 16);
}

float f16_to_f32(uint16_t bits);  // IEEE half, exact
uint16_t f32_to_f16(float value); // rounded to nearest even, overflow to infinity

float f8_e4m3_to_f32(uint8_t bits); // exact
// Rounded to nearest even, saturating: what is larger becomes 448 and 57344; NaN stays NaN.
uint8_t f32_to_f8_e4m3(float value);
uint8_t f32_to_f8_e5m2(float value);

// Decodes [count] values of [type] (F32, F16, BF16, F64, the fp8 types and GGUF's block types; a multiple of the block)
// into f32. Returns false for a type that holds no real numbers (the integers) or whose scales lie elsewhere (NVFP4, NF4:
// stored.h).
bool dtype_decode(enum dtype type, const void *from, float *to, int64_t count);

#endif
