// Scores and softmax of attention in one pass with AMX: while the tiles multiply one block of 32 queries and 32 keys, the
// vector units turn the block before into probabilities. Relies on gemm_isa.h, vector_avx512.h.
#include "tensor/cpu/gemm_isa.h"
#include "tensor/cpu/vector_avx512.h"

#include <string.h>

enum {
    TILE_ROWS = 16,
    BLOCK = 32, // queries and keys of a block: 2 x 2 tiles of scores
    DEPTH = GEMM_PROBABILITIES_DEPTH,
    STEPS = DEPTH / GEMM_DEPTH_STEP,
    ROWS_A_STEP = BLOCK / STEPS,
};

struct pass {
    float shifts[GEMM_PROBABILITIES_ROWS]; // in powers of two
    __m512 sums[GEMM_PROBABILITIES_ROWS];  // of each row's probabilities
    float scores[2][BLOCK * BLOCK]
        __attribute__((aligned(64))); // of the block before and of the one before that
};

// Where the probabilities of a block of scores go.
struct target {
    const float *scores;
    int64_t row;
    uint16_t *p;
};

static inline __attribute__((always_inline)) void softmax_rows(struct pass *pass, __m512 by, __m512 *most,
                                                               const struct target *target, int64_t p_stride,
                                                               int first) {
#pragma GCC unroll 8
    for (int r = first; r < first + ROWS_A_STEP; r++) {
        const __m512 shift = _mm512_set1_ps(pass->shifts[target->row + r]);
        const __m512 t = _mm512_fmsub_ps(_mm512_load_ps(target->scores + r * BLOCK), by, shift);
        const __m512 u = _mm512_fmsub_ps(_mm512_load_ps(target->scores + r * BLOCK + 16), by, shift);
        const __m512 a = exp2_512_short(t), b = exp2_512_short(u);
        *most = _mm512_max_ps(*most, _mm512_max_ps(t, u));
        pass->sums[target->row + r] = _mm512_add_ps(pass->sums[target->row + r], _mm512_add_ps(a, b));
        _mm512_storeu_si512(target->p + r * p_stride, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
}

// Multiplies the block of [a] (queries) and [b] (keys). On the way the scores of the block before leave the tiles for
// before->scores (where there was one) and become probabilities.
static inline __attribute__((always_inline)) void block(struct pass *pass, __m512 by, __m512 *most,
                                                        const char *a, int64_t row_bytes, const char *b,
                                                        int64_t panel_bytes, const struct target *before,
                                                        int64_t p_stride) {
    const char *a2 = a + TILE_ROWS * row_bytes, *b2 = b + panel_bytes;
    float *scores = before ? (float *)(uintptr_t)before->scores : NULL;
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b2, 64);
    _tile_loadd(4, a, row_bytes);
    if (before) _tile_stored(0, scores, BLOCK * 4);
    _tile_zero(0);
    _tile_dpbf16ps(0, 4, 6);
    if (before) _tile_stored(1, scores + 16, BLOCK * 4);
    _tile_zero(1);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a2, row_bytes);
    if (before) _tile_stored(2, scores + TILE_ROWS * BLOCK, BLOCK * 4);
    _tile_zero(2);
    _tile_dpbf16ps(2, 5, 6);
    if (before) _tile_stored(3, scores + TILE_ROWS * BLOCK + 16, BLOCK * 4);
    _tile_zero(3);
    _tile_dpbf16ps(3, 5, 7);
#pragma GCC unroll 4
    for (int step = 1; step < STEPS; step++) {
        _tile_loadd(6, b + step * 1024, 64);
        _tile_loadd(7, b2 + step * 1024, 64);
        _tile_loadd(4, a + step * 64, row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a2 + step * 64, row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        if (before) softmax_rows(pass, by, most, before, p_stride, (step - 1) * ROWS_A_STEP);
    }
    if (before) softmax_rows(pass, by, most, before, p_stride, (STEPS - 1) * ROWS_A_STEP);
}

static void configure(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t column_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.column_bytes[i] = 64;
        config.rows[i] = TILE_ROWS;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

bool gemm_probabilities_amx(const struct gemm_product *scores, float scale, struct softmax *states,
                            uint16_t *p, int64_t p_stride) {
    const float log2_e = 0x1.715476p+0f;
    struct pass pass;
    const __m512 by = _mm512_set1_ps(scale * log2_e);
    __m512 most = _mm512_set1_ps(-SOFTMAX_SLACK); // the largest exponent so far, in powers of two
    for (int64_t r = 0; r < scores->row_count; r++) {
        pass.shifts[r] = states[r].shift * log2_e;
        pass.sums[r] = _mm512_loadu_ps(states[r].sums);
    }
    const char *rows = scores->segments[0].rows, *panels = scores->segments[0].panels;
    const int64_t row_bytes = scores->row_stride * 2, panel_bytes = scores->panel_stride * 2;
    struct target before = {0};
    int count = 0;
    configure();
    for (int64_t panel = 0; panel < scores->panel_count; panel += 2)
        for (int64_t row = 0; row < scores->row_count; row += BLOCK, count++) {
            const char *a = rows + row * row_bytes, *b = panels + panel * panel_bytes;
            if (count)
                block(&pass, by, &most, a, row_bytes, b, panel_bytes, &before, p_stride);
            else
                block(&pass, by, &most, a, row_bytes, b, panel_bytes, NULL, p_stride);
            before = (struct target){pass.scores[count % 2], row, p + row * p_stride + panel * GEMM_LANES};
        }
    float *last = pass.scores[(count - 1) % 2];
    _tile_stored(0, last, BLOCK * 4);
    _tile_stored(1, last + 16, BLOCK * 4);
    _tile_stored(2, last + TILE_ROWS * BLOCK, BLOCK * 4);
    _tile_stored(3, last + TILE_ROWS * BLOCK + 16, BLOCK * 4);
    _tile_release();
    for (int first = 0; first < BLOCK; first += ROWS_A_STEP)
        softmax_rows(&pass, by, &most, &before, p_stride, first);
    if (_mm512_cmp_ps_mask(most, _mm512_set1_ps(SOFTMAX_SLACK * log2_e), _CMP_NLE_UQ)) return false;
    for (int64_t r = 0; r < scores->row_count; r++) _mm512_storeu_ps(states[r].sums, pass.sums[r]);
    return true;
}
