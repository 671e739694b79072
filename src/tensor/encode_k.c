// Encoders of the blocks of 256 values: Q4_K, Q5_K, Q6_K. Relies on encode.h, block.h.
//
// A group of values is fitted by itself first: for a row of scales around the one that the extremes give, the values are
// rounded to codes, and scale (and minimum) fitted to the codes by least squares; the best is kept. The scales are then
// rounded to the block's 6 or 8 bits; of those beside the rounded ones the best is taken again, with codes anew; and what
// the block's own d and m should be for all these follows by least squares once more. A step that does not lower the sum of
// squared errors is not taken. Sums run in eight lanes whose order is fixed.
#include "tensor/encode.h"

#include "tensor/block.h"

#include <math.h>
#include <string.h>

enum {
    VALUES = 256,
    GROUP_MOST = 32,
    LANES = 8,
    SCALES_TRIED = 20,
    REFINEMENTS = 2, // of d and m, with all codes
};

static const float HALF_MOST = 65504;

static float lanes_sum(const float lanes[LANES]) {
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// value rounded to an integer in [least, most]: adding 1.5 * 2^23 rounds to nearest even.
static inline float rounded(float value, float least, float most) {
    value = value < least ? least : value;
    value = value > most ? most : value;
    return (value + 12582912.0f) - 12582912.0f;
}

// Codes for scale and minimum: x is about scale * code - minimum. Returns the sum of squared errors.
static float quantise(const float *x, int count, float scale, float minimum, float least, float most,
                      float *codes) {
    const float inverse = 1 / scale, by = scale != 0 && isfinite(inverse) ? inverse : 0;
    float errors[LANES] = {0};
    for (int i = 0; i < count; i += LANES)
        for (int j = 0; j < LANES; j++) {
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

static struct moments moments_of(const float *x, const float *codes, int count) {
    float sums[4][LANES] = {{0}};
    for (int i = 0; i < count; i += LANES)
        for (int j = 0; j < LANES; j++) {
            sums[0][j] += x[i + j];
            sums[1][j] += codes[i + j];
            sums[2][j] += x[i + j] * codes[i + j];
            sums[3][j] += codes[i + j] * codes[i + j];
        }
    return (struct moments){lanes_sum(sums[0]), lanes_sum(sums[1]), lanes_sum(sums[2]), lanes_sum(sums[3])};
}

// ------------------------------------------------------------------------------------------------------ Q4_K and Q5_K

struct fit {
    float scale, minimum, error;
};

// The scale and the minimum, neither of them negative, that fit the codes best.
static void fit_codes(const float *x, const float *codes, int count, struct fit *fit) {
    const struct moments m = moments_of(x, codes, count);
    const double spread = (double)count * m.nn - (double)m.n * m.n;
    double scale = fit->scale, minimum = fit->minimum;
    if (spread > 0) {
        scale = ((double)count * m.xn - (double)m.n * m.x) / spread;
        minimum = -((double)m.nn * m.x - (double)m.n * m.xn) / spread;
    }
    if (minimum < 0 && m.nn > 0) {
        minimum = 0;
        scale = (double)m.xn / m.nn;
    }
    if (scale < 0 || minimum < 0) return;
    fit->scale = (float)scale;
    fit->minimum = (float)minimum;
}

// x is about scale * code - minimum with codes 0 to [top].
static struct fit fit_group(const float *x, int count, int top) {
    float least = 0, most = x[0], codes[GROUP_MOST];
    for (int i = 0; i < count; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    struct fit best = {.scale = 0, .minimum = -least, .error = INFINITY};
    const float range = most - least;
    if (!(range > 0)) return best; // all of them the same, and not above zero
    for (int i = 0; i < SCALES_TRIED; i++) {
        const float steps = (float)top - 1.0f + 0.1f * (float)i;
        struct fit fit = {.scale = range / steps, .minimum = -least};
        quantise(x, count, fit.scale, fit.minimum, 0, (float)top, codes);
        fit_codes(x, codes, count, &fit);
        fit.error = quantise(x, count, fit.scale, fit.minimum, 0, (float)top, codes);
        if (fit.error < best.error) best = fit;
    }
    return best;
}

struct affine_block {
    int count, top; // values a group, largest code
    float d, m;     // as halves
    int scales[8], minima[8];
    float codes[VALUES];
    float error;
};

static float as_half(double value) {
    return f16_to_f32(f32_to_f16((float)value));
}

// The half for d or m: where halves are so coarse that the nearest is clearly less than asked for, the next one, so that the
// scales made of it reach as far as they should.
static float half_for(float value) {
    uint16_t bits = f32_to_f16(value);
    if (fabsf(f16_to_f32(bits)) < 0.999f * fabsf(value)) bits++;
    return f16_to_f32(bits);
}

// The best of the scales and minima beside those of the fit, for the block's d and m.
static float round_group(const float *x, struct affine_block *block, int g, int scale, int minimum) {
    float codes[GROUP_MOST], best = INFINITY;
    for (int s = scale - 1; s <= scale + 1; s++)
        for (int t = minimum - 1; t <= minimum + 1; t++) {
            if (s < 0 || s > 63 || t < 0 || t > 63) continue;
            const float error = quantise(x, block->count, block->d * (float)s, block->m * (float)t, 0,
                                         (float)block->top, codes);
            if (!(error < best)) continue;
            best = error;
            block->scales[g] = s;
            block->minima[g] = t;
            memcpy(block->codes + g * block->count, codes, (size_t)block->count * sizeof *codes);
        }
    return best;
}

static int nearest(float value, float unit) {
    return unit > 0 ? (int)rounded(value / unit, 0, 63) : 0;
}

static void round_groups(const float *x, struct affine_block *block, const struct fit *fits) {
    float error = 0;
    for (int g = 0; g < VALUES / block->count; g++)
        error += round_group(x + g * block->count, block, g, nearest(fits[g].scale, block->d),
                             nearest(fits[g].minimum, block->m));
    block->error = error;
}

// d and m for the codes, scales and minima there are: x is about d (scale code) - m minimum.
static void refit_block(const float *x, struct affine_block *block) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int i = 0; i < VALUES; i++) {
        const double a = (double)block->scales[i / block->count] * block->codes[i];
        const double b = -(double)block->minima[i / block->count];
        aa += a * a;
        ab += a * b;
        bb += b * b;
        ax += a * x[i];
        bx += b * x[i];
    }
    const double spread = aa * bb - ab * ab;
    if (spread > 1e-9 * aa * bb) {
        block->d = as_half((ax * bb - bx * ab) / spread);
        block->m = as_half((bx * aa - ax * ab) / spread);
    } else if (aa > 0) {
        block->d = as_half(ax / aa);
    }
}

// Whether all values lie within [-most, most]: beyond that scales are no halves.
static bool are_within(const float *x, float most) {
    bool all = true;
    for (int i = 0; i < VALUES; i++) all &= fabsf(x[i]) <= most;
    return all;
}

// Fills [block] with d, m, the scales in 6 bits and the codes. False when d or m is no half.
static bool encode_affine(const float *x, struct affine_block *block) {
    struct fit fits[8];
    float scale = 0, minimum = 0;
    if (!are_within(x, HALF_MOST * 63 * (float)block->top)) return false;
    for (int g = 0; g < 8; g++) {
        fits[g] = fit_group(x + g * block->count, block->count, block->top);
        scale = fits[g].scale > scale ? fits[g].scale : scale;
        minimum = fits[g].minimum > minimum ? fits[g].minimum : minimum;
    }
    block->d = half_for(scale / 63);
    block->m = half_for(minimum / 63);
    if (!isfinite(block->d) || !isfinite(block->m)) return false;
    round_groups(x, block, fits);
    for (int i = 0; i < REFINEMENTS; i++) {
        struct affine_block next = *block;
        refit_block(x, &next);
        if (!(next.d > 0) || !(next.m >= 0) || !isfinite(next.d) || !isfinite(next.m)) break;
        round_groups(x, &next, fits);
        if (!(next.error < block->error)) break;
        *block = next;
    }
    return true;
}

static void put_half(uint8_t *to, float value) {
    const uint16_t bits = f32_to_f16(value);
    to[0] = (uint8_t)bits;
    to[1] = (uint8_t)(bits >> 8);
}

// d, m and the 12 bytes of scales (block.h).
static void put_k_head(const struct affine_block *from, uint8_t *to) {
    put_half(to, from->d);
    put_half(to + 2, from->m);
    for (int g = 0; g < 4; g++) {
        to[4 + g] = (uint8_t)(from->scales[g] | from->scales[g + 4] >> 4 << 6);
        to[8 + g] = (uint8_t)(from->minima[g] | from->minima[g + 4] >> 4 << 6);
        to[12 + g] = (uint8_t)((from->scales[g + 4] & 15) | (from->minima[g + 4] & 15) << 4);
    }
}

static void put_k_codes(const struct affine_block *from, uint8_t *to, uint8_t *high) {
    for (int i = 0; i < VALUES; i++) {
        const int code = (int)from->codes[i], group = i / 32, l = i % 32;
        to[32 * (group / 2) + l] |= (uint8_t)((code & 15) << 4 * (group % 2));
        if (high) high[l] |= (uint8_t)(code >> 4 << group);
    }
}

bool encode_q4_k(const float *x, uint8_t *block) {
    struct affine_block fitted = {.count = 32, .top = 15};
    if (!encode_affine(x, &fitted)) return false;
    memset(block, 0, 144);
    put_k_head(&fitted, block);
    put_k_codes(&fitted, block + 16, NULL);
    return true;
}

bool encode_q5_k(const float *x, uint8_t *block) {
    struct affine_block fitted = {.count = 32, .top = 31};
    if (!encode_affine(x, &fitted)) return false;
    memset(block, 0, 176);
    put_k_head(&fitted, block);
    put_k_codes(&fitted, block + 48, block + 16);
    return true;
}

// --------------------------------------------------------------------------------------------------------------- Q6_K

enum { Q6_GROUP = 16, Q6_GROUPS = VALUES / Q6_GROUP };

struct centred_block {
    float d;
    int scales[Q6_GROUPS];
    float codes[VALUES]; // -32 to 31
    float error;
};

// A scale s of either sign so that x is about s * code.
static float fit_centred(const float *x) {
    float extreme = x[0], codes[Q6_GROUP], best = 0, best_error = INFINITY;
    for (int i = 1; i < Q6_GROUP; i++) extreme = fabsf(x[i]) > fabsf(extreme) ? x[i] : extreme;
    if (extreme == 0) return 0;
    for (int i = 0; i < SCALES_TRIED; i++) {
        float scale = extreme / -(31.0f + 0.1f * (float)i);
        quantise(x, Q6_GROUP, scale, 0, -32, 31, codes);
        const struct moments m = moments_of(x, codes, Q6_GROUP);
        if (m.nn > 0) scale = m.xn / m.nn;
        const float error = quantise(x, Q6_GROUP, scale, 0, -32, 31, codes);
        if (!(error < best_error)) continue;
        best_error = error;
        best = scale;
    }
    return best;
}

static void round_centred(const float *x, struct centred_block *block, const float *scales) {
    block->error = 0;
    for (int g = 0; g < Q6_GROUPS; g++) {
        const int scale = block->d != 0 ? (int)rounded(scales[g] / block->d, -128, 127) : 0;
        float codes[Q6_GROUP], best = INFINITY;
        for (int s = scale - 1; s <= scale + 1; s++) {
            if (s < -128 || s > 127) continue;
            const float error = quantise(x + g * Q6_GROUP, Q6_GROUP, block->d * (float)s, 0, -32, 31, codes);
            if (!(error < best)) continue;
            best = error;
            block->scales[g] = s;
            memcpy(block->codes + g * Q6_GROUP, codes, sizeof codes);
        }
        block->error += best;
    }
}

static float refit_centred(const float *x, const struct centred_block *block) {
    double aa = 0, ax = 0;
    for (int i = 0; i < VALUES; i++) {
        const double a = (double)block->scales[i / Q6_GROUP] * block->codes[i];
        aa += a * a;
        ax += a * x[i];
    }
    return aa > 0 ? as_half(ax / aa) : 0;
}

bool encode_q6_k(const float *x, uint8_t *block) {
    struct centred_block fitted = {0};
    float scales[Q6_GROUPS], most = 0;
    if (!are_within(x, HALF_MOST * 128 * 32)) return false;
    for (int g = 0; g < Q6_GROUPS; g++) {
        scales[g] = fit_centred(x + g * Q6_GROUP);
        most = fabsf(scales[g]) > fabsf(most) ? scales[g] : most;
    }
    fitted.d = half_for(most / -128);
    if (!isfinite(fitted.d)) return false;
    round_centred(x, &fitted, scales);
    for (int i = 0; i < REFINEMENTS; i++) {
        struct centred_block next = fitted;
        next.d = refit_centred(x, &fitted);
        if (next.d == 0 || !isfinite(next.d)) break;
        round_centred(x, &next, scales);
        if (!(next.error < fitted.error)) break;
        fitted = next;
    }
    memset(block, 0, 210);
    for (int i = 0; i < VALUES; i++) {
        const int code = (int)fitted.codes[i] + 32, half = i / 128, j = i % 128 / 32, l = i % 32;
        block[64 * half + l + 32 * (j % 2)] |= (uint8_t)((code & 15) << 4 * (j / 2));
        block[128 + 32 * half + l] |= (uint8_t)(code >> 4 << 2 * j);
    }
    for (int g = 0; g < Q6_GROUPS; g++) block[192 + g] = (uint8_t)(int8_t)fitted.scales[g];
    put_half(block + 208, fitted.d);
    return true;
}
