// Encoders of the blocks whose 4-bit codes stand for unevenly spaced values: IQ4_NL, IQ4_XS. Relies on encode_search.h, block.h.
//
// The value of the largest magnitude becomes each of the outer of the 16 in turn; the scale that this gives, and the one that
// least squares make of its codes, are tried, and the best is kept of those that leave that value an outer one. What
// a decoder gave is thereby found again. The scales of IQ4_XS are then
// rounded to 6 bits as encode_k_centred.c does it.
#include "tensor/encode.h"

#include "tensor/block.h"
#include "tensor/encode_search.h"

#include <stdlib.h>
#include <string.h>

enum { GROUP = 32, CODES = 16, GROUPS = SEARCH_VALUES / GROUP, SCALE_HALF = 32, OUTER = 49 };

// The nearest of the 16 to each value * by, as f32; the sum of squared errors against scale * what is chosen. Of two that are
// as near the smaller one is taken.
static float choose(const float *x, float scale, float *chosen) {
    const float inverse = 1 / scale, by = scale != 0 && isfinite(inverse) ? inverse : 0;
    float errors[SEARCH_LANES] = {0};
    for (int i = 0; i < GROUP; i++) chosen[i] = block_iq4_codes[0];
    for (int k = 1; k < CODES; k++) {
        const float step = (float)(block_iq4_codes[k] - block_iq4_codes[k - 1]);
        const float middle = (float)block_iq4_codes[k] - step / 2;
        for (int i = 0; i < GROUP; i++) chosen[i] += x[i] * by > middle ? step : 0;
    }
    for (int i = 0; i < GROUP; i += SEARCH_LANES)
        for (int j = 0; j < SEARCH_LANES; j++) {
            const float error = scale * chosen[i + j] - x[i + j];
            errors[j] += error * error;
        }
    return lanes_sum(errors);
}

static int code_of(float chosen) {
    int code = 0;
    while (code < CODES - 1 && (float)block_iq4_codes[code] < chosen) code++;
    return code;
}

// 16 bytes of nibbles as halves.
static void put_codes(const float *chosen, uint8_t *to) {
    for (int j = 0; j < GROUP / 2; j++)
        to[j] = (uint8_t)(code_of(chosen[j]) | code_of(chosen[j + GROUP / 2]) << 4);
}

// The best scale of a group, of either sign; halves: it is to be one. 0 for zeros, and for what is too small.
static float fit(const float *x, bool halves, float *chosen) {
    float tried[GROUP], best = 0, best_error = choose(x, 0, chosen);
    int at = 0;
    for (int i = 1; i < GROUP; i++) at = fabsf(x[i]) > fabsf(x[at]) ? i : at;
    for (int k = 0; k < CODES && x[at] != 0; k++) {
        float scale = x[at] / (float)block_iq4_codes[k];
        if (abs(block_iq4_codes[k]) < OUTER) continue;
        for (int refined = 0; refined < 2; refined++) {
            if (halves) scale = as_half(scale);
            if (!isfinite(scale)) break;
            const float error = choose(x, scale, tried);
            if (error < best_error && fabsf(tried[at]) >= OUTER) {
                best_error = error;
                best = scale;
                memcpy(chosen, tried, sizeof tried);
            }
            const struct moments m = moments_of(x, tried, GROUP);
            scale = m.xn / m.nn; // none of the 16 is zero
        }
    }
    return best;
}

bool encode_iq4_nl(const float *x, uint8_t *block) {
    float chosen[GROUP];
    if (!are_within(x, GROUP, SEARCH_HALF_MOST * 127)) return false;
    const float d = fit(x, true, chosen);
    put_half(block, d);
    put_codes(chosen, block + 2);
    return true;
}

struct xs_block {
    float d;
    int scales[GROUPS];
    float chosen[SEARCH_VALUES];
    float error;
};

static void round_scales(const float *x, struct xs_block *block, const float *scales) {
    block->error = 0;
    for (int g = 0; g < GROUPS; g++) {
        const int scale = block->d != 0 ? (int)rounded(scales[g] / block->d, -SCALE_HALF, SCALE_HALF - 1) : 0;
        float tried[GROUP], best = INFINITY;
        for (int s = scale - 1; s <= scale + 1; s++) {
            if (s < -SCALE_HALF || s > SCALE_HALF - 1) continue;
            const float error = choose(x + g * GROUP, block->d * (float)s, tried);
            if (!(error < best)) continue;
            best = error;
            block->scales[g] = s;
            memcpy(block->chosen + g * GROUP, tried, sizeof tried);
        }
        block->error += best;
    }
}

static float refit(const float *x, const struct xs_block *block) {
    double aa = 0, ax = 0;
    for (int i = 0; i < SEARCH_VALUES; i++) {
        const double a = (double)block->scales[i / GROUP] * block->chosen[i];
        aa += a * a;
        ax += a * x[i];
    }
    return aa > 0 ? as_half(ax / aa) : 0;
}

bool encode_iq4_xs(const float *x, uint8_t *block) {
    struct xs_block fitted = {.d = 0};
    float scales[GROUPS], most = 0, chosen[GROUP];
    int high = 0;
    if (!are_within(x, SEARCH_VALUES, SEARCH_HALF_MOST * SCALE_HALF * 127)) return false;
    for (int g = 0; g < GROUPS; g++) {
        scales[g] = fit(x + g * GROUP, false, chosen);
        most = fabsf(scales[g]) > fabsf(most) ? scales[g] : most;
    }
    fitted.d = half_for(most / -SCALE_HALF);
    if (!isfinite(fitted.d)) return false;
    round_scales(x, &fitted, scales);
    for (int i = 0; i < SEARCH_REFINEMENTS; i++) {
        struct xs_block next = fitted;
        next.d = refit(x, &fitted);
        if (next.d == 0 || !isfinite(next.d)) break;
        round_scales(x, &next, scales);
        if (!(next.error < fitted.error)) break;
        fitted = next;
    }
    memset(block, 0, 136);
    put_half(block, fitted.d);
    for (int g = 0; g < GROUPS; g++) {
        const int scale = fitted.scales[g] + SCALE_HALF;
        high |= scale >> 4 << 2 * g;
        block[4 + g / 2] |= (uint8_t)((scale & 15) << 4 * (g % 2));
        put_codes(fitted.chosen + g * GROUP, block + 8 + 16 * g);
    }
    block[2] = (uint8_t)high;
    block[3] = (uint8_t)(high >> 8);
    return true;
}
