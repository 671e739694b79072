// Products of rows that were packed into tiles, with AMX: 2 x 2 tiles of 16 rows and 16 lanes of sums. Relies on gemm_isa.h.
//
// Depths are taken CHUNK at a time, so that the tiles of 32 rows stay in the first-level cache while the panels stream past
// from the second. Tiles: 0 to 3 sums (row half, panel), 4 and 5 the rows, 6 and 7 the panels.
#include "tensor/cpu/gemm_isa.h"

#include <immintrin.h>

enum {
    TILE_ROWS = 16,
    ROWS = 32,
    STEP = GEMM_DEPTH_STEP,
    TILE_BYTES = TILE_ROWS * STEP * 2,
    CHUNK = 256 / STEP, // steps
    AHEAD = 4,          // lines of the next rows that a step fetches: all of them with 256 columns
    SHARES = ROWS / AHEAD,
};

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

// A block of sums at c: [steps] tiles from [rows] and [panels] on, the second half of rows and the second panel
// row_bytes and panel_bytes behind.
struct block {
    const char *rows, *panels;
    int64_t row_bytes, panel_bytes, steps;
    float *c;
    const char *next_rows; // lines to fetch, AHEAD a step; NULL: none
    const char *next_c;    // two lines to fetch in each of next_c_count steps
    int64_t next_c_count;
    const char *written; // lines to fetch for writing, written_lines a step; NULL: none
    int64_t written_lines;
};

// Its first step stores the sums of the block before ([before], NULL for none), each just before it is needed, so that the
// products do not wait for the stores; its own sums stay in the tiles.
static inline __attribute__((always_inline)) void multiply(const struct block *block, float *before,
                                                           int64_t c_stride, const bool fresh) {
    const char *a = block->rows, *a2 = a + block->row_bytes;
    const char *b = block->panels, *b2 = b + block->panel_bytes;
    const int64_t c_bytes = c_stride * 4;
    float *c = block->c, *c2 = c + TILE_ROWS * c_stride, *before2 = before + TILE_ROWS * c_stride;
#define NEXT_SUMS(tile, from, to)                                                                            \
    do {                                                                                                     \
        if (before) _tile_stored(tile, from, c_bytes);                                                       \
        if (fresh)                                                                                           \
            _tile_zero(tile);                                                                                \
        else                                                                                                 \
            _tile_loadd(tile, to, c_bytes);                                                                  \
    } while (0)
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b2, 64);
    _tile_loadd(4, a, 64);
    NEXT_SUMS(0, before, c);
    _tile_dpbf16ps(0, 4, 6);
    NEXT_SUMS(1, before + GEMM_LANES, c + GEMM_LANES);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a2, 64);
    NEXT_SUMS(2, before2, c2);
    _tile_dpbf16ps(2, 5, 6);
    NEXT_SUMS(3, before2 + GEMM_LANES, c2 + GEMM_LANES);
    _tile_dpbf16ps(3, 5, 7);
#undef NEXT_SUMS
    for (int64_t step = 0;;) {
        if (block->next_rows)
            for (int i = 0; i < AHEAD; i++)
                _mm_prefetch(block->next_rows + (step * AHEAD + i) * 64, _MM_HINT_T1);
        if (step < block->next_c_count) {
            _mm_prefetch(block->next_c + step * c_bytes, _MM_HINT_T1);
            _mm_prefetch(block->next_c + step * c_bytes + 64, _MM_HINT_T1);
        }
        for (int64_t i = 0; block->written && i < block->written_lines; i++)
            _mm_prefetch(block->written + (step * block->written_lines + i) * 64, _MM_HINT_T1);
        if (++step == block->steps) break;
        const int64_t at = step * TILE_BYTES;
        _tile_loadd(6, b + at, 64);
        _tile_loadd(7, b2 + at, 64);
        _tile_loadd(4, a + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a2 + at, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

// What the block of steps [at, at + steps) and panels from [panel] on fetches: of the next rows' same steps a share of 1/8,
// of the next sums one row a step, of what will be written one row, which counts the blocks.
static void look_ahead(const struct gemm_tiles *p, int64_t at, int64_t panel, struct block *block) {
    const int64_t share = panel / 2, steps = block->steps;
    if (p->next_rows && share < SHARES)
        block->next_rows = (const char *)p->next_rows + share / (SHARES / 2) * block->row_bytes +
                           at * TILE_BYTES + share % (SHARES / 2) * steps * AHEAD * 64;
    if (p->next_c && at < ROWS) {
        block->next_c = (const char *)(p->next_c + at * p->c_stride + panel * GEMM_LANES);
        block->next_c_count = ROWS - at < steps ? ROWS - at : steps;
    }
    const int64_t index = at / CHUNK * (p->panel_count / 2) + share;
    if (p->written && index < p->row_count) {
        block->written = (const char *)p->written + index * p->written_stride;
        block->written_lines = (p->written_bytes / 64 + steps - 1) / steps;
    }
}

void gemm_product_tiles_amx(const struct gemm_tiles *p) {
    const int64_t steps = p->depth / STEP, chunks = (steps + CHUNK - 1) / CHUNK;
    const int64_t chunk = chunks ? (steps + chunks - 1) / chunks : 0;
    float *before = NULL;
    if (steps == 0 || p->row_count == 0 || p->panel_count == 0) return;
    configure();
    for (int64_t row = 0; row < p->row_count; row += ROWS)
        for (int64_t at = 0; at < steps; at += chunk)
            for (int64_t panel = 0; panel < p->panel_count; panel += 2) {
                struct block block = {
                    .rows = (const char *)(p->rows + row / TILE_ROWS * p->row_stride) + at * TILE_BYTES,
                    .panels = (const char *)(p->panels + panel * p->panel_stride) + at * TILE_BYTES,
                    .row_bytes = p->row_stride * 2,
                    .panel_bytes = p->panel_stride * 2,
                    .steps = steps - at < chunk ? steps - at : chunk,
                    .c = p->c + row * p->c_stride + panel * GEMM_LANES,
                };
                look_ahead(p, at, panel, &block);
                if (!p->accumulate && at == 0)
                    multiply(&block, before, p->c_stride, true);
                else
                    multiply(&block, before, p->c_stride, false);
                before = block.c;
            }
    float *before2 = before + TILE_ROWS * p->c_stride;
    _tile_stored(0, before, p->c_stride * 4);
    _tile_stored(1, before + GEMM_LANES, p->c_stride * 4);
    _tile_stored(2, before2, p->c_stride * 4);
    _tile_stored(3, before2 + GEMM_LANES, p->c_stride * 4);
    _tile_release();
}
