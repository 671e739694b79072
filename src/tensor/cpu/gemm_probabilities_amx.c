// Scores and softmax of attention in one pass with AMX: while the tiles multiply one block of 32 queries and 32 keys, the
// scores of the block before leave them and the vector units turn those of the block before that, which have arrived in
// memory, into probabilities. Relies on gemm_isa.h, vector_avx512.h.
#include "tensor/cpu/gemm_isa.h"
#include "tensor/cpu/vector_avx512.h"

enum {
    TILE_ROWS = 16,
    BLOCK = 32, // queries and keys of a block: 2 x 2 tiles of scores
    DEPTH = GEMM_PROBABILITIES_DEPTH,
    STEPS = DEPTH / GEMM_DEPTH_STEP,
    ROWS_A_STEP = BLOCK / STEPS,
};

struct pass {
    float shifts[GEMM_PROBABILITIES_ROWS]; // in powers of two
    __m512 sums[GEMM_PROBABILITIES_ROWS];  // of each row's probabilities in this pass
    float scores[2][BLOCK * BLOCK] __attribute__((aligned(64)));
};

// A block of scores and where its probabilities go.
struct target {
    const float *scores;
    int64_t row;
    uint16_t *p;
};

// As exp2_512_short for any t; what would be denormal is 0 where the caller has the processor flush it.
static inline __m512 exp2_flushed(__m512 t) {
    const __m512 f = _mm512_reduce_ps(t, 0x09);
    __m512 p = _mm512_set1_ps(0x1.3f96a4p-4f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.cefc4cp-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.64444cp-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.fff632p-1f));
    return _mm512_scalef_ps(p, t);
}

static inline __attribute__((always_inline)) void
softmax_rows(struct pass *pass, __m512 by, const struct target *target, int64_t p_stride, const int first) {
    const float *shifts = pass->shifts + target->row + first, *scores = target->scores + first * BLOCK;
    __m512 *sums = pass->sums + target->row + first;
    uint16_t *p = target->p + first / TILE_ROWS * p_stride + first % TILE_ROWS * BLOCK;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS_A_STEP; r++) {
        const __m512 shift = _mm512_set1_ps(shifts[r]);
        const __m512 t = _mm512_fmsub_ps(_mm512_load_ps(scores + r * BLOCK), by, shift);
        const __m512 u = _mm512_fmsub_ps(_mm512_load_ps(scores + r * BLOCK + 16), by, shift);
        const __m512 a = exp2_flushed(t), b = exp2_flushed(u);
        sums[r] = _mm512_add_ps(sums[r], _mm512_add_ps(a, b));
        _mm512_storeu_si512(p + r * BLOCK, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
}

// Multiplies the block of [a] (queries) and [b] (keys). On the way the scores of the block before leave the tiles for
// [scores] and those of [ready] become probabilities; NULL where there was no such block.
static inline __attribute__((always_inline)) void block(struct pass *pass, __m512 by, const char *a,
                                                        int64_t row_bytes, const char *b, int64_t panel_bytes,
                                                        float *scores, const struct target *ready,
                                                        int64_t p_stride) {
    const char *a2 = a + TILE_ROWS * row_bytes, *b2 = b + panel_bytes;
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b2, 64);
    _tile_loadd(4, a, row_bytes);
    if (scores) _tile_stored(0, scores, BLOCK * 4);
    _tile_zero(0);
    _tile_dpbf16ps(0, 4, 6);
    if (scores) _tile_stored(1, scores + 16, BLOCK * 4);
    _tile_zero(1);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a2, row_bytes);
    if (scores) _tile_stored(2, scores + TILE_ROWS * BLOCK, BLOCK * 4);
    _tile_zero(2);
    _tile_dpbf16ps(2, 5, 6);
    if (scores) _tile_stored(3, scores + TILE_ROWS * BLOCK + 16, BLOCK * 4);
    _tile_zero(3);
    _tile_dpbf16ps(3, 5, 7);
    if (ready) softmax_rows(pass, by, ready, p_stride, 0);
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
        if (ready) softmax_rows(pass, by, ready, p_stride, step * ROWS_A_STEP);
    }
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

static void softmax_block(struct pass *pass, __m512 by, const struct target *target, int64_t p_stride) {
    for (int first = 0; first < BLOCK; first += ROWS_A_STEP) softmax_rows(pass, by, target, p_stride, first);
}

// All blocks of the product.
static void make_pass(struct pass *pass, const struct gemm_product *product, __m512 by, uint16_t *p,
                      int64_t p_stride) {
    const char *rows = product->segments[0].rows, *panels = product->segments[0].panels;
    const int64_t row_bytes = product->row_stride * 2, panel_bytes = product->panel_stride * 2;
    struct target before = {0}, ready = {0};
    int count = 0;
    for (int64_t panel = 0; panel < product->panel_count; panel += 2)
        for (int64_t row = 0; row < product->row_count; row += BLOCK, count++) {
            const char *a = rows + row * row_bytes, *b = panels + panel * panel_bytes;
            float *scores = (float *)(uintptr_t)before.scores;
            if (count > 1)
                block(pass, by, a, row_bytes, b, panel_bytes, scores, &ready, p_stride);
            else if (count == 1)
                block(pass, by, a, row_bytes, b, panel_bytes, scores, NULL, p_stride);
            else
                block(pass, by, a, row_bytes, b, panel_bytes, NULL, NULL, p_stride);
            ready = before;
            before = (struct target){pass->scores[count % 2], row,
                                     p + row / TILE_ROWS * p_stride + panel * GEMM_LANES * TILE_ROWS};
        }
    float *last = (float *)(uintptr_t)before.scores;
    _tile_stored(0, last, BLOCK * 4);
    _tile_stored(1, last + 16, BLOCK * 4);
    _tile_stored(2, last + TILE_ROWS * BLOCK, BLOCK * 4);
    _tile_stored(3, last + TILE_ROWS * BLOCK + 16, BLOCK * 4);
    if (count > 1) softmax_block(pass, by, &ready, p_stride);
    softmax_block(pass, by, &before, p_stride);
}

bool gemm_probabilities_amx(const struct gemm_product *scores, float scale, struct softmax *states,
                            uint16_t *p, int64_t p_stride) {
    const float log2_e = 0x1.715476p+0f;
    struct pass pass;
    for (int64_t r = 0; r < scores->row_count; r++) {
        pass.shifts[r] = states[r].shift * log2_e;
        pass.sums[r] = _mm512_setzero_ps();
    }
    const unsigned int control = _mm_getcsr();
    _mm_setcsr(control | 0x8000); // denormal results, which take a hundred times as long, are flushed to 0
    configure();
    make_pass(&pass, scores, _mm512_set1_ps(scale * log2_e), p, p_stride);
    _tile_release();
    _mm_setcsr(control);
    // A sum is at least as large as each of its probabilities.
    const __m512 limit = _mm512_set1_ps(0x1p43f); // e^SOFTMAX_SLACK
    __mmask16 beyond = 0;
    for (int64_t r = 0; r < scores->row_count; r++)
        beyond |= _mm512_cmp_ps_mask(pass.sums[r], limit, _CMP_NLE_UQ);
    if (beyond) return false;
    for (int64_t r = 0; r < scores->row_count; r++)
        _mm512_storeu_ps(states[r].sums, _mm512_add_ps(_mm512_loadu_ps(states[r].sums), pass.sums[r]));
    return true;
}
