// Elementary functions of the plain C kernels, written so that a compiler turns loops over them into vector code.
// Relies on tensor/dtype.h.
#ifndef LIMN_TENSOR_CPU_MATH_H
#define LIMN_TENSOR_CPU_MATH_H

#include "tensor/dtype.h"

#include <stdint.h>

// e^x, relative error below 2e-7 for x in [-87.3, 88.3]; below, x is taken as -87.3; above, the result is infinite.
// NaN stays NaN.
// x = n ln 2 + r, |r| <= ln 2 / 2, with ln 2 in two parts; e^r by its Taylor series to r^7.
static inline float math_exp(float x) {
    x = x < -87.3f ? -87.3f : x;
    x = x > 89.0f ? 89.0f : x;
    const float rounder = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer
    const float n = (x * 1.44269504f + rounder) - rounder;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    union {
        uint32_t u;
        float f;
    } power = {(uint32_t)((n == n ? (int32_t)n : 0) + 127) << 23};
    return p * power.f;
}

static inline float math_silu(float x) {
    return x / (1.0f + math_exp(-x));
}

// The value of index i of a run of F32 or BF16 values, and its way back (rounded to nearest even).
static inline float math_load(const void *from, enum dtype type, int64_t i) {
    return type == DTYPE_BF16 ? bf16_to_f32(((const uint16_t *)from)[i]) : ((const float *)from)[i];
}

static inline void math_store(void *to, enum dtype type, int64_t i, float value) {
    if (type == DTYPE_BF16)
        ((uint16_t *)to)[i] = f32_to_bf16(value);
    else
        ((float *)to)[i] = value;
}

#endif
