// Encoders of fp8, NVFP4 and NF4. Relies on encode_scaled.h, encode.h.
#include "tensor/encode_scaled.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { E4M3_LARGEST = 0x7e, SCALE_BITS_CUT = 8 };

static const float E2M1_LARGEST = 6;

const float encode_nf4_codebook[16] = {-1.0f,
                                       -0.6961928009986877f,
                                       -0.5250730514526367f,
                                       -0.39491748809814453f,
                                       -0.28444138169288635f,
                                       -0.18477343022823334f,
                                       -0.09105003625154495f,
                                       0.0f,
                                       0.07958029955625534f,
                                       0.16093020141124725f,
                                       0.24611230194568634f,
                                       0.33791524171829224f,
                                       0.44070982933044434f,
                                       0.5626170039176941f,
                                       0.7229568362236023f,
                                       1.0f};

bool encode_has_scales(enum dtype type) {
    return type == DTYPE_F8_E4M3 || type == DTYPE_F8_E5M2 || type == DTYPE_NVFP4 || type == DTYPE_NF4;
}

int64_t encode_scaled_step(enum dtype type) {
    return type == DTYPE_NVFP4 ? STORED_NVFP4_GROUP : type == DTYPE_NF4 ? ENCODE_NF4_BLOCK : 1;
}

float encode_scale(enum dtype type, float most) {
    const float largest = type == DTYPE_F8_E5M2 ? 57344 : type == DTYPE_F8_E4M3 ? 448 : 448 * E2M1_LARGEST;
    union {
        float f;
        uint32_t u;
    } scale = {most / largest};
    if (most == 0) return 1;
    if (scale.f < FLT_MIN) return FLT_MIN;
    // Up to 16 significant bits.
    scale.u = (scale.u + (1u << SCALE_BITS_CUT) - 1) >> SCALE_BITS_CUT << SCALE_BITS_CUT;
    return scale.f;
}

void encode_f8(enum dtype type, const float *from, int64_t count, float scale, uint8_t *codes) {
    for (int64_t i = 0; i < count; i++)
        codes[i] = type == DTYPE_F8_E4M3 ? f32_to_f8_e4m3(from[i] / scale) : f32_to_f8_e5m2(from[i] / scale);
}

// --------------------------------------------------------------------------------------------------------------- NVFP4

// The nearest of stored_e2m1, to nearest even.
static uint8_t e2m1_of(float value) {
    const float size = fabsf(value);
    const int code = (size > 0.25f) + (size >= 0.75f) + (size > 1.25f) + (size >= 1.75f) + (size > 2.5f) +
                     (size >= 3.5f) + (size > 5.0f);
    return (uint8_t)(code | (value < 0 && code ? 8 : 0));
}

// Codes of 16 values for a scale, which may be 0; returns the sum of squared errors.
static float choose(const float *x, float scale, uint8_t *codes) {
    const float by = scale > 0 ? 1 / scale : 0;
    float sum = 0;
    for (int i = 0; i < STORED_NVFP4_GROUP; i++) {
        codes[i] = e2m1_of(x[i] * by);
        const float error = stored_e2m1[codes[i]] * scale - x[i];
        sum += error * error;
    }
    return sum;
}

// The block scale, E4M3, and the codes of values in units of the tensor's scale. Scales are tried that make the largest value
// 3.5 to 7 times as large, so that it becomes 4 or 6, beside the smallest of all scales and zero: among them is the one that a
// decoded block had.
static uint8_t fit_block(const float *x, bool holds_most, uint8_t *codes) {
    uint8_t tried[STORED_NVFP4_GROUP], best = 0;
    float largest = 0;
    if (holds_most) {
        choose(x, f8_e4m3_to_f32(E4M3_LARGEST), codes);
        return E4M3_LARGEST;
    }
    for (int i = 0; i < STORED_NVFP4_GROUP; i++) largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    float best_error = choose(x, 0, codes);
    const int first = f32_to_f8_e4m3(largest / 8); // none below makes it small enough
    for (int code = first > 1 ? first : 1; code <= E4M3_LARGEST; code++) {
        const float scale = f8_e4m3_to_f32((uint8_t)code);
        if (largest > 7 * scale) continue;
        if (code > 1 && largest < 3.5f * scale) break;
        const float error = choose(x, scale, tried);
        if (!(error < best_error)) continue;
        best_error = error;
        best = (uint8_t)code;
        memcpy(codes, tried, sizeof tried);
    }
    return best;
}

void encode_nvfp4_row(const float *from, int64_t count, float most, float whole, uint8_t *scales,
                      int64_t columns, int64_t row, uint8_t *codes) {
    uint8_t *tile = scales + row / 128 * (columns / 4) * 512 + row % 32 * 16 + row % 128 / 32 * 4;
    const bool scaled_to_most = most > 2687 * whole; // of 2688; not where that would be too small a scale
    for (int64_t block = 0; block * STORED_NVFP4_GROUP < count; block++) {
        uint8_t chosen[STORED_NVFP4_GROUP];
        float x[STORED_NVFP4_GROUP];
        bool holds_most = false;
        for (int i = 0; i < STORED_NVFP4_GROUP; i++) {
            const float value = from[block * STORED_NVFP4_GROUP + i];
            x[i] = value / whole;
            holds_most |= scaled_to_most && fabsf(value) == most;
        }
        tile[block / 4 * 512 + block % 4] = fit_block(x, holds_most, chosen);
        for (int i = 0; i < STORED_NVFP4_GROUP; i += 2) *codes++ = (uint8_t)(chosen[i] << 4 | chosen[i + 1]);
    }
}

// ----------------------------------------------------------------------------------------------------------------- NF4

static uint8_t nf4_of(float value) {
    int code = 0;
    for (int i = 0; i < 15; i++) code += value > (encode_nf4_codebook[i] + encode_nf4_codebook[i + 1]) / 2;
    return (uint8_t)code;
}

void encode_nf4(const float *from, int64_t count, float *absmax, uint8_t *codes) {
    for (int64_t at = 0; at < count; at += ENCODE_NF4_BLOCK) {
        const float *x = from + at;
        float most = 0;
        for (int i = 0; i < ENCODE_NF4_BLOCK; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        absmax[at / ENCODE_NF4_BLOCK] = most;
        for (int i = 0; i < ENCODE_NF4_BLOCK; i += 2) {
            const float a = most > 0 ? x[i] / most : 0, b = most > 0 ? x[i + 1] / most : 0;
            codes[(at + i) / 2] = (uint8_t)(nf4_of(a) << 4 | nf4_of(b));
        }
    }
}
