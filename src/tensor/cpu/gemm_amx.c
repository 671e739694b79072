// Products in bf16 with AMX tiles: 2 x 2 tiles of 16 rows and 16 lanes of sums. Relies on gemm_isa.h.
//
// Tiles: 0 to 3 sums (row half, panel), 4 and 5 the rows, 6 and 7 the panels. What the rows of the next block need is
// fetched into the cache while this one is multiplied.
#include "tensor/cpu/gemm_isa.h"

#include <immintrin.h>
#include <string.h>

enum { TILE_ROWS = 16, ROWS = 32, STEP = GEMM_DEPTH_STEP };

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t column_bytes[16];
    uint8_t rows[16];
};

// Shapes the tiles for row halves of [first] and [second] rows.
static void configure(int64_t first, int64_t second) {
    struct tile_config config = {.palette = 1};
    const uint8_t rows[8] = {(uint8_t)first, (uint8_t)first,  (uint8_t)second, (uint8_t)second,
                             (uint8_t)first, (uint8_t)second, TILE_ROWS,       TILE_ROWS};
    for (int i = 0; i < 8; i++) {
        config.column_bytes[i] = 64;
        config.rows[i] = rows[i];
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

// Lines of the rows behind this block that are fetched during it: [lines] rows from [from] on, a column of 64 bytes a step.
struct ahead {
    const char *from;
    int64_t lines, stride;
};

static inline __attribute__((always_inline)) void product_block(const struct gemm_product *p, int64_t row,
                                                                int64_t panel, const int halves,
                                                                const int panels, struct ahead ahead) {
    const int64_t row_bytes = p->row_stride * 2, c_bytes = p->c_stride * 4;
    float *c = p->c + row * p->c_stride + panel * GEMM_LANES, *c2 = c + TILE_ROWS * p->c_stride;
    if (p->accumulate) {
        _tile_loadd(0, c, c_bytes);
        if (panels > 1) _tile_loadd(1, c + GEMM_LANES, c_bytes);
        if (halves > 1) _tile_loadd(2, c2, c_bytes);
        if (halves > 1 && panels > 1) _tile_loadd(3, c2 + GEMM_LANES, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int s = 0; s < p->segment_count; s++) {
        const char *a = (const char *)p->segments[s].rows + row * row_bytes, *a2 = a + TILE_ROWS * row_bytes;
        const char *b = (const char *)p->segments[s].panels + panel * p->panel_stride * 2;
        const char *b2 = b + p->panel_stride * 2;
        for (int64_t d = 0; d < p->depth; d += STEP) {
            _tile_loadd(6, b + d * GEMM_LANES * 2, 64);
            _tile_loadd(4, a + d * 2, row_bytes);
            _tile_dpbf16ps(0, 4, 6);
            if (panels > 1) _tile_loadd(7, b2 + d * GEMM_LANES * 2, 64);
            if (panels > 1) _tile_dpbf16ps(1, 4, 7);
            if (halves > 1) _tile_loadd(5, a2 + d * 2, row_bytes);
            if (halves > 1) _tile_dpbf16ps(2, 5, 6);
            if (halves > 1 && panels > 1) _tile_dpbf16ps(3, 5, 7);
            for (int64_t i = 0; i < ahead.lines; i++)
                _mm_prefetch(ahead.from + i * ahead.stride + d * 2, _MM_HINT_T1);
        }
    }
    _tile_stored(0, c, c_bytes);
    if (panels > 1) _tile_stored(1, c + GEMM_LANES, c_bytes);
    if (halves > 1) _tile_stored(2, c2, c_bytes);
    if (halves > 1 && panels > 1) _tile_stored(3, c2 + GEMM_LANES, c_bytes);
}

// One block of up to 32 rows against all panels.
static void product_rows(const struct gemm_product *p, int64_t row, int64_t rows) {
    const int64_t next = p->row_count - row - ROWS, pairs = (p->panel_count + 1) / 2;
    const int64_t next_rows = next < ROWS ? next : ROWS, share = (ROWS + pairs - 1) / pairs;
    const int64_t row_bytes = p->row_stride * 2;
    for (int64_t panel = 0; panel < p->panel_count; panel += 2) {
        const int64_t at = panel / 2 * share, left = next_rows - at;
        const struct ahead ahead = {.from = (const char *)p->segments[0].rows + (row + ROWS + at) * row_bytes,
                                    .lines = p->segment_count > 1 || left < 0 ? 0
                                             : left < share                   ? left
                                                                              : share,
                                    .stride = row_bytes};
        const bool two = p->panel_count - panel > 1;
        if (rows > TILE_ROWS && two)
            product_block(p, row, panel, 2, 2, ahead);
        else if (rows > TILE_ROWS)
            product_block(p, row, panel, 2, 1, ahead);
        else if (two)
            product_block(p, row, panel, 1, 2, ahead);
        else
            product_block(p, row, panel, 1, 1, ahead);
    }
}

void gemm_product_bf16_amx(const struct gemm_product *p) {
    if (p->row_count >= ROWS) configure(TILE_ROWS, TILE_ROWS);
    for (int64_t row = 0; row < p->row_count; row += ROWS) {
        const int64_t left = p->row_count - row, rows = left < ROWS ? left : ROWS;
        if (rows < ROWS)
            configure(rows < TILE_ROWS ? rows : TILE_ROWS, rows > TILE_ROWS ? rows - TILE_ROWS : 1);
        product_rows(p, row, rows);
    }
    _tile_release();
}
