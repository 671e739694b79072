// What the encoders of the blocks with searched scales share: rounding to codes, least squares, halves. Private to encode_k.c,
// encode_k_centred.c and encode_iq4.c. Relies on dtype.h.
#ifndef LIMN_TENSOR_ENCODE_SEARCH_H
#define LIMN_TENSOR_ENCODE_SEARCH_H

#include "tensor/dtype.h"

#include <math.h>

enum {
    SEARCH_VALUES = 256, // of a large block
    SEARCH_LANES = 8,
    SEARCH_SCALES = 20,     // tried for a group
    SEARCH_REFINEMENTS = 2, // of what a block's groups have in common, with all codes
};

#define SEARCH_HALF_MOST 65504.0f

static inline float lanes_sum(const float lanes[SEARCH_LANES]) {
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// value rounded to an integer in [least, most]: adding 1.5 * 2^23 rounds to nearest even.
static inline float rounded(float value, float least, float most) {
    value = value < least ? least : value;
    value = value > most ? most : value;
    return (value + 12582912.0f) - 12582912.0f;
}

// Codes for scale and minimum: x is about scale * code - minimum. Returns the sum of squared errors.
static inline float quantise(const float *x, int count, float scale, float minimum, float least, float most,
                             float *codes) {
    const float inverse = 1 / scale, by = scale != 0 && isfinite(inverse) ? inverse : 0;
    float errors[SEARCH_LANES] = {0};
    for (int i = 0; i < count; i += SEARCH_LANES)
        for (int j = 0; j < SEARCH_LANES; j++) {
            const float code = rounded((x[i + j] + minimum) * by, least, most);
            const float error = scale * code - minimum - x[i + j];
            codes[i + j] = code;
            errors[j] += error * error;
        }
    return lanes_sum(errors);
}

// What least squares need to know of values and codes.
struct moments {
    float x, n, xn, nn; // sums of x, code, x code, code^2
};

static inline struct moments moments_of(const float *x, const float *codes, int count) {
    float sums[4][SEARCH_LANES] = {{0}};
    for (int i = 0; i < count; i += SEARCH_LANES)
        for (int j = 0; j < SEARCH_LANES; j++) {
            sums[0][j] += x[i + j];
            sums[1][j] += codes[i + j];
            sums[2][j] += x[i + j] * codes[i + j];
            sums[3][j] += codes[i + j] * codes[i + j];
        }
    return (struct moments){lanes_sum(sums[0]), lanes_sum(sums[1]), lanes_sum(sums[2]), lanes_sum(sums[3])};
}

static inline float as_half(double value) {
    return f16_to_f32(f32_to_f16((float)value));
}

// The half for d or m: where halves are so coarse that the nearest is clearly less than asked for, the next one, so that the
// scales made of it reach as far as they should.
static inline float half_for(float value) {
    uint16_t bits = f32_to_f16(value);
    if (fabsf(f16_to_f32(bits)) < 0.999f * fabsf(value)) bits++;
    return f16_to_f32(bits);
}

// Whether all values lie within [-most, most]: beyond that scales are no halves.
static inline bool are_within(const float *x, int count, float most) {
    bool all = true;
    for (int i = 0; i < count; i++) all &= fabsf(x[i]) <= most;
    return all;
}

static inline void put_half(uint8_t *to, float value) {
    const uint16_t bits = f32_to_f16(value);
    to[0] = (uint8_t)bits;
    to[1] = (uint8_t)(bits >> 8);
}

#endif
