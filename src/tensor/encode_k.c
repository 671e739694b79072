// Encoders of the blocks of 256 values with minima: Q2_K, Q4_K, Q5_K. Relies on encode_search.h, encode.h.
//
// A group of values is fitted by itself first: for a row of scales around the one that the extremes give, the values are
// rounded to codes, and scale and minimum fitted to the codes by least squares; the best is kept. The scales are then
// rounded to the block's 4 or 6 bits; of those beside the rounded ones the best is taken again, with codes anew; and what
// the block's own d and m should be for all these follows by least squares once more. A step that does not lower the sum of
// squared errors is not taken. Sums run in eight lanes whose order is fixed.
#include "tensor/encode.h"

#include "tensor/encode_search.h"

#include <string.h>

enum { GROUP_MOST = 32, GROUPS_MOST = 16 };

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
    for (int i = 0; i < SEARCH_SCALES; i++) {
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
    int count, top, scale_top; // values a group, largest code, largest scale and minimum of a group
    float d, m;                // as halves
    int scales[GROUPS_MOST], minima[GROUPS_MOST];
    float codes[SEARCH_VALUES];
    float error;
};

// The best of the scales and minima beside those of the fit, for the block's d and m.
static float round_group(const float *x, struct affine_block *block, int g, int scale, int minimum) {
    float codes[GROUP_MOST], best = INFINITY;
    for (int s = scale - 1; s <= scale + 1; s++)
        for (int t = minimum - 1; t <= minimum + 1; t++) {
            if (s < 0 || s > block->scale_top || t < 0 || t > block->scale_top) continue;
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

static int nearest(float value, float unit, int top) {
    return unit > 0 ? (int)rounded(value / unit, 0, (float)top) : 0;
}

static void round_groups(const float *x, struct affine_block *block, const struct fit *fits) {
    float error = 0;
    for (int g = 0; g < SEARCH_VALUES / block->count; g++)
        error +=
            round_group(x + g * block->count, block, g, nearest(fits[g].scale, block->d, block->scale_top),
                        nearest(fits[g].minimum, block->m, block->scale_top));
    block->error = error;
}

// d and m for the codes, scales and minima there are: x is about d (scale code) - m minimum.
static void refit_block(const float *x, struct affine_block *block) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int i = 0; i < SEARCH_VALUES; i++) {
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

// Fills [block] with d, m, the scales and the codes. False when d or m is no half.
static bool encode_affine(const float *x, struct affine_block *block) {
    struct fit fits[GROUPS_MOST];
    float scale = 0, minimum = 0;
    if (!are_within(x, SEARCH_VALUES, SEARCH_HALF_MOST * (float)(block->scale_top * block->top)))
        return false;
    for (int g = 0; g < SEARCH_VALUES / block->count; g++) {
        fits[g] = fit_group(x + g * block->count, block->count, block->top);
        scale = fits[g].scale > scale ? fits[g].scale : scale;
        minimum = fits[g].minimum > minimum ? fits[g].minimum : minimum;
    }
    block->d = half_for(scale / (float)block->scale_top);
    block->m = half_for(minimum / (float)block->scale_top);
    if (!isfinite(block->d) || !isfinite(block->m)) return false;
    round_groups(x, block, fits);
    for (int i = 0; i < SEARCH_REFINEMENTS; i++) {
        struct affine_block next = *block;
        refit_block(x, &next);
        if (!(next.d > 0) || !(next.m >= 0) || !isfinite(next.d) || !isfinite(next.m)) break;
        round_groups(x, &next, fits);
        if (!(next.error < block->error)) break;
        *block = next;
    }
    return true;
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
    for (int i = 0; i < SEARCH_VALUES; i++) {
        const int code = (int)from->codes[i], group = i / 32, l = i % 32;
        to[32 * (group / 2) + l] |= (uint8_t)((code & 15) << 4 * (group % 2));
        if (high) high[l] |= (uint8_t)(code >> 4 << group);
    }
}

bool encode_q4_k(const float *x, uint8_t *block) {
    struct affine_block fitted = {.count = 32, .top = 15, .scale_top = 63};
    if (!encode_affine(x, &fitted)) return false;
    memset(block, 0, 144);
    put_k_head(&fitted, block);
    put_k_codes(&fitted, block + 16, NULL);
    return true;
}

bool encode_q5_k(const float *x, uint8_t *block) {
    struct affine_block fitted = {.count = 32, .top = 31, .scale_top = 63};
    if (!encode_affine(x, &fitted)) return false;
    memset(block, 0, 176);
    put_k_head(&fitted, block);
    put_k_codes(&fitted, block + 48, block + 16);
    return true;
}

// d and m behind the codes, two scales of 4 bits a byte in front of them.
bool encode_q2_k(const float *x, uint8_t *block) {
    struct affine_block fitted = {.count = 16, .top = 3, .scale_top = 15};
    if (!encode_affine(x, &fitted)) return false;
    memset(block, 0, 84);
    for (int g = 0; g < GROUPS_MOST; g++) block[g] = (uint8_t)(fitted.scales[g] | fitted.minima[g] << 4);
    for (int i = 0; i < SEARCH_VALUES; i++)
        block[16 + 32 * (i / 128) + i % 32] |= (uint8_t)((int)fitted.codes[i] << 2 * (i % 128 / 32));
    put_half(block + 80, fitted.d);
    put_half(block + 82, fitted.m);
    return true;
}
