// Products in bf16 with AMX tiles: 2 x 2 tiles of 16 rows and 16 lanes of sums. Relies on gemm_isa.h.
//
// Tiles: 0 to 3 sums (row half, panel), 4 and 5 the rows, 6 and 7 the panels.
#include "tensor/cpu/gemm_isa.h"

#include <immintrin.h>
#include <string.h>

enum {
    TILE_ROWS = 16,
    ROWS = 32,
    STEP = GEMM_DEPTH_STEP,
    AHEAD = 8,   // lines of the next panels that a step fetches
    DEPTH = 256, // of a panel pair that stays in the first-level cache
};

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

// Depths [at, end) of all segments for one block of tiles; sums start at 0 with [fresh].
static inline __attribute__((always_inline)) void product_block(const struct gemm_product *p, int64_t row,
                                                                int64_t panel, int64_t at, int64_t end,
                                                                bool fresh, const char *ahead,
                                                                const int halves, const int panels) {
    const int64_t row_bytes = p->row_stride * 2, c_bytes = p->c_stride * 4;
    float *c = p->c + row * p->c_stride + panel * GEMM_LANES, *c2 = c + TILE_ROWS * p->c_stride;
    if (fresh) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, c, c_bytes);
        if (panels > 1) _tile_loadd(1, c + GEMM_LANES, c_bytes);
        if (halves > 1) _tile_loadd(2, c2, c_bytes);
        if (halves > 1 && panels > 1) _tile_loadd(3, c2 + GEMM_LANES, c_bytes);
    }
    for (int s = 0; s < p->segment_count; s++) {
        const char *a = (const char *)p->segments[s].rows + row * row_bytes, *a2 = a + TILE_ROWS * row_bytes;
        const char *b = (const char *)p->segments[s].panels + panel * p->panel_stride * 2;
        const char *b2 = b + p->panel_stride * 2;
        for (int64_t d = at; d < end; d += STEP) {
            _tile_loadd(6, b + d * GEMM_LANES * 2, 64);
            if (panels > 1) _tile_loadd(7, b2 + d * GEMM_LANES * 2, 64);
            _tile_loadd(4, a + d * 2, row_bytes);
            _tile_dpbf16ps(0, 4, 6);
            if (panels > 1) _tile_dpbf16ps(1, 4, 7);
            if (halves > 1) _tile_loadd(5, a2 + d * 2, row_bytes);
            if (halves > 1) _tile_dpbf16ps(2, 5, 6);
            if (halves > 1 && panels > 1) _tile_dpbf16ps(3, 5, 7);
            for (int i = 0; ahead && i < AHEAD; i++)
                _mm_prefetch(ahead + d * GEMM_LANES * 2 + i * 64, _MM_HINT_T1);
        }
    }
    _tile_stored(0, c, c_bytes);
    if (panels > 1) _tile_stored(1, c + GEMM_LANES, c_bytes);
    if (halves > 1) _tile_stored(2, c2, c_bytes);
    if (halves > 1 && panels > 1) _tile_stored(3, c2 + GEMM_LANES, c_bytes);
}

// What a block of rows fetches of the panels that come next: of the 2 x 16 lines of a step each of the first four blocks
// takes eight.
static const char *lines_ahead(const struct gemm_product *p, int64_t row, int64_t panel) {
    const char *next = p->panel_count - panel > 2
                           ? (const char *)p->segments[0].panels + (panel + 2) * p->panel_stride * 2
                           : (const char *)p->next;
    const int64_t share = row / ROWS;
    if (!next || p->segment_count > 1 || share >= 4 || p->panel_count % 2) return NULL;
    return next + share / 2 * p->panel_stride * 2 + share % 2 * AHEAD * 64;
}

static void product_rows(const struct gemm_product *p, int64_t row, int64_t rows, int64_t panel, int64_t at,
                         int64_t end) {
    const char *ahead = lines_ahead(p, row, panel);
    const bool two = p->panel_count - panel > 1, fresh = !p->accumulate && at == 0;
    if (rows > TILE_ROWS && two)
        product_block(p, row, panel, at, end, fresh, ahead, 2, 2);
    else if (rows > TILE_ROWS)
        product_block(p, row, panel, at, end, fresh, NULL, 2, 1);
    else if (two)
        product_block(p, row, panel, at, end, fresh, NULL, 1, 2);
    else
        product_block(p, row, panel, at, end, fresh, NULL, 1, 1);
}

// Whole blocks of rows, depth block by depth block, so that the panels of one stay in the first-level cache while the
// rows stream past; then the rows that are left.
void gemm_product_bf16_amx(const struct gemm_product *p) {
    const int64_t whole = p->row_count / ROWS * ROWS, left = p->row_count - whole;
    const int64_t step = p->segment_count > 1 || whole <= ROWS ? p->depth : DEPTH;
    if (whole > 0) configure(TILE_ROWS, TILE_ROWS);
    for (int64_t panel = 0; panel < p->panel_count; panel += 2)
        for (int64_t at = 0; at < p->depth; at += step)
            for (int64_t row = 0; row < whole; row += ROWS)
                product_rows(p, row, ROWS, panel, at, p->depth - at < step ? p->depth : at + step);
    if (left > 0) configure(left < TILE_ROWS ? left : TILE_ROWS, left > TILE_ROWS ? left - TILE_ROWS : 1);
    for (int64_t panel = 0; panel < p->panel_count && left > 0; panel += 2)
        product_rows(p, whole, left, panel, 0, p->depth);
    _tile_release();
}
