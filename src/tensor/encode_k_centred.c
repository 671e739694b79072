// Encoders of the blocks of 256 values whose codes lie around zero: Q3_K, Q6_K. Relies on encode_search.h, encode.h.
//
// As encode_k.c does it, without minima: a scale for each group of 16 by search and least squares, rounded to the block's 6 or
// 8 bits with the best of those beside it, and the block's own d by least squares.
#include "tensor/encode.h"

#include "tensor/encode_search.h"

#include <string.h>

enum { GROUP = 16, GROUPS = SEARCH_VALUES / GROUP };

struct centred_block {
    int half, scale_half; // codes are -half to half - 1, scales of groups -scale_half to scale_half - 1
    float d;
    int scales[GROUPS];
    float codes[SEARCH_VALUES];
    float error;
};

static float quantise_centred(const float *x, int half, float scale, float *codes) {
    return quantise(x, GROUP, scale, 0, (float)-half, (float)(half - 1), codes);
}

// A scale s of either sign so that x is about s * code.
static float fit_centred(const float *x, int half) {
    float extreme = x[0], codes[GROUP], best = 0, best_error = INFINITY;
    for (int i = 1; i < GROUP; i++) extreme = fabsf(x[i]) > fabsf(extreme) ? x[i] : extreme;
    if (extreme == 0) return 0;
    for (int i = 0; i < SEARCH_SCALES; i++) {
        float scale = extreme / -((float)half - 1.0f + 0.1f * (float)i);
        quantise_centred(x, half, scale, codes);
        const struct moments m = moments_of(x, codes, GROUP);
        if (m.nn > 0) scale = m.xn / m.nn;
        const float error = quantise_centred(x, half, scale, codes);
        if (!(error < best_error)) continue;
        best_error = error;
        best = scale;
    }
    return best;
}

static void round_centred(const float *x, struct centred_block *block, const float *scales) {
    const int half = block->scale_half;
    block->error = 0;
    for (int g = 0; g < GROUPS; g++) {
        const int scale =
            block->d != 0 ? (int)rounded(scales[g] / block->d, (float)-half, (float)(half - 1)) : 0;
        float codes[GROUP], best = INFINITY;
        for (int s = scale - 1; s <= scale + 1; s++) {
            if (s < -half || s > half - 1) continue;
            const float error = quantise_centred(x + g * GROUP, block->half, block->d * (float)s, codes);
            if (!(error < best)) continue;
            best = error;
            block->scales[g] = s;
            memcpy(block->codes + g * GROUP, codes, sizeof codes);
        }
        block->error += best;
    }
}

static float refit_centred(const float *x, const struct centred_block *block) {
    double aa = 0, ax = 0;
    for (int i = 0; i < SEARCH_VALUES; i++) {
        const double a = (double)block->scales[i / GROUP] * block->codes[i];
        aa += a * a;
        ax += a * x[i];
    }
    return aa > 0 ? as_half(ax / aa) : 0;
}

// Fills [block] with d, the scales and the codes. False when d is no half.
static bool encode_centred(const float *x, struct centred_block *block) {
    float scales[GROUPS], most = 0;
    if (!are_within(x, SEARCH_VALUES, SEARCH_HALF_MOST * (float)(block->scale_half * block->half)))
        return false;
    for (int g = 0; g < GROUPS; g++) {
        scales[g] = fit_centred(x + g * GROUP, block->half);
        most = fabsf(scales[g]) > fabsf(most) ? scales[g] : most;
    }
    block->d = half_for(most / (float)-block->scale_half);
    if (!isfinite(block->d)) return false;
    round_centred(x, block, scales);
    for (int i = 0; i < SEARCH_REFINEMENTS; i++) {
        struct centred_block next = *block;
        next.d = refit_centred(x, block);
        if (next.d == 0 || !isfinite(next.d)) break;
        round_centred(x, &next, scales);
        if (!(next.error < block->error)) break;
        *block = next;
    }
    return true;
}

bool encode_q6_k(const float *x, uint8_t *block) {
    struct centred_block fitted = {.half = 32, .scale_half = 128};
    if (!encode_centred(x, &fitted)) return false;
    memset(block, 0, 210);
    for (int i = 0; i < SEARCH_VALUES; i++) {
        const int code = (int)fitted.codes[i] + 32, half = i / 128, j = i % 128 / 32, l = i % 32;
        block[64 * half + l + 32 * (j % 2)] |= (uint8_t)((code & 15) << 4 * (j / 2));
        block[128 + 32 * half + l] |= (uint8_t)(code >> 4 << 2 * j);
    }
    for (int g = 0; g < GROUPS; g++) block[192 + g] = (uint8_t)(int8_t)fitted.scales[g];
    put_half(block + 208, fitted.d);
    return true;
}

bool encode_q3_k(const float *x, uint8_t *block) {
    struct centred_block fitted = {.half = 4, .scale_half = 32};
    if (!encode_centred(x, &fitted)) return false;
    memset(block, 0, 110);
    for (int i = 0; i < SEARCH_VALUES; i++) {
        const int code = (int)fitted.codes[i] + 4, half = i / 128, j = i % 128 / 32, l = i % 32;
        block[l] |= (uint8_t)(code >> 2 << (4 * half + j));
        block[32 + 32 * half + l] |= (uint8_t)((code & 3) << 2 * j);
    }
    for (int g = 0; g < GROUPS; g++) {
        const int scale = fitted.scales[g] + 32;
        block[96 + g % 8] |= (uint8_t)((scale & 15) << 4 * (g / 8));
        block[104 + g % 4] |= (uint8_t)(scale >> 4 << 2 * (g / 4));
    }
    put_half(block + 108, fitted.d);
    return true;
}
