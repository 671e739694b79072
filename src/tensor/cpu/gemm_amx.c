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
    SHARE = 8,   // lines of the next panels that belong to a block of rows in each step
    AHEAD = 4,   // how many of them it fetches; the processor guesses the others
    DEPTH = 512, // of a panel pair that stays in the first-level cache
    TALL_ROWS = 48,
    TALL_SEGMENTS = 36, // products of more segments are made of tall blocks
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

static inline void store_sums(float *c, int64_t c_stride, bool two_halves, bool two_panels) {
    float *c2 = c + TILE_ROWS * c_stride;
    _tile_stored(0, c, c_stride * 4);
    if (two_panels) _tile_stored(1, c + GEMM_LANES, c_stride * 4);
    if (two_halves) _tile_stored(2, c2, c_stride * 4);
    if (two_halves && two_panels) _tile_stored(3, c2 + GEMM_LANES, c_stride * 4);
}

// Which sums a block of tiles forms: rows from [row], panels from [panel], depths [at, end) of all segments.
struct block {
    int64_t row, panel, at, end;
    bool fresh;        // the sums start at 0
    const char *ahead; // lines that are fetched on the way, or NULL
};

// A block at the edge: one or two halves, one or two panels.
static inline __attribute__((always_inline)) void edge_block(const struct gemm_product *p, struct block block,
                                                             const int halves, const int panels) {
    const int64_t row_bytes = p->row_stride * 2, c_bytes = p->c_stride * 4;
    float *c = p->c + block.row * p->c_stride + block.panel * GEMM_LANES, *c2 = c + TILE_ROWS * p->c_stride;
    if (block.fresh) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
    } else {
        _tile_loadd(0, c, c_bytes);
        if (panels > 1) _tile_loadd(1, c + GEMM_LANES, c_bytes);
        if (halves > 1) _tile_loadd(2, c2, c_bytes);
    }
    for (int s = 0; s < p->segment_count; s++) {
        const char *a = (const char *)p->segments[s].rows + block.row * row_bytes,
                   *a2 = a + TILE_ROWS * row_bytes;
        const char *b = (const char *)p->segments[s].panels + block.panel * p->panel_stride * 2;
        for (int64_t d = block.at; d < block.end; d += STEP) {
            _tile_loadd(6, b + d * GEMM_LANES * 2, 64);
            if (panels > 1) _tile_loadd(7, b + p->panel_stride * 2 + d * GEMM_LANES * 2, 64);
            _tile_loadd(4, a + d * 2, row_bytes);
            _tile_dpbf16ps(0, 4, 6);
            if (panels > 1) _tile_dpbf16ps(1, 4, 7);
            if (halves > 1) _tile_loadd(5, a2 + d * 2, row_bytes);
            if (halves > 1) _tile_dpbf16ps(2, 5, 6);
        }
    }
    store_sums(c, p->c_stride, halves > 1, panels > 1);
}

// A whole block. Its first step stores the sums of the block before ([before], NULL for none), each just before it is
// needed, so that the products do not wait for the stores; its own sums stay in the tiles.
static inline __attribute__((always_inline)) void
whole_block(const struct gemm_product *p, struct block block, float *before, const bool fresh) {
    const int64_t row_bytes = p->row_stride * 2, c_bytes = p->c_stride * 4;
    float *c = p->c + block.row * p->c_stride + block.panel * GEMM_LANES, *c2 = c + TILE_ROWS * p->c_stride;
    float *before2 = before + TILE_ROWS * p->c_stride;
    const int64_t rows_at = block.row * row_bytes, panels_at = block.panel * p->panel_stride * 2;
    const char *a = (const char *)p->segments[0].rows + rows_at + block.at * 2,
               *a2 = a + TILE_ROWS * row_bytes;
    const char *b = (const char *)p->segments[0].panels + panels_at + block.at * GEMM_LANES * 2;
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + p->panel_stride * 2, 64);
    _tile_loadd(4, a, row_bytes);
#define NEXT_SUMS(tile, from, to)                                                                            \
    do {                                                                                                     \
        if (before) _tile_stored(tile, from, c_bytes);                                                       \
        if (fresh)                                                                                           \
            _tile_zero(tile);                                                                                \
        else                                                                                                 \
            _tile_loadd(tile, to, c_bytes);                                                                  \
    } while (0)
    NEXT_SUMS(0, before, c);
    _tile_dpbf16ps(0, 4, 6);
    NEXT_SUMS(1, before + GEMM_LANES, c + GEMM_LANES);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a2, row_bytes);
    NEXT_SUMS(2, before2, c2);
    _tile_dpbf16ps(2, 5, 6);
    NEXT_SUMS(3, before2 + GEMM_LANES, c2 + GEMM_LANES);
    _tile_dpbf16ps(3, 5, 7);
#undef NEXT_SUMS
    int64_t d = block.at + STEP;
    for (int s = 0; s < p->segment_count; s++, d = block.at) {
        a = (const char *)p->segments[s].rows + rows_at;
        a2 = a + TILE_ROWS * row_bytes;
        b = (const char *)p->segments[s].panels + panels_at;
        for (; d < block.end; d += STEP) {
            _tile_loadd(6, b + d * GEMM_LANES * 2, 64);
            _tile_loadd(7, b + p->panel_stride * 2 + d * GEMM_LANES * 2, 64);
            _tile_loadd(4, a + d * 2, row_bytes);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, a2 + d * 2, row_bytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            for (int i = 0; block.ahead && i < AHEAD; i++)
                _mm_prefetch(block.ahead + d * GEMM_LANES * 2 + i * 64, _MM_HINT_T1);
        }
    }
}

// A tall block, three halves of rows and two panels, for products of many segments, which keep their sums in the tiles from
// the first to the last and take rows and panels from the second-level cache: 5 tiles from there for 6 products instead of 4
// for 4. Tiles: 0 to 5 sums, 6 the panel, 7 the rows; the second panel takes the rows backwards, from the last that is there.
static void tall_block(const struct gemm_product *p, int64_t row, int64_t panel) {
    const int64_t row_bytes = p->row_stride * 2, c_bytes = p->c_stride * 4, half = TILE_ROWS * row_bytes;
    float *c = p->c + row * p->c_stride + panel * GEMM_LANES, *c2 = c + TILE_ROWS * p->c_stride;
    float *c3 = c2 + TILE_ROWS * p->c_stride;
    if (p->accumulate) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c2, c_bytes);
        _tile_loadd(2, c3, c_bytes);
        _tile_loadd(3, c + GEMM_LANES, c_bytes);
        _tile_loadd(4, c2 + GEMM_LANES, c_bytes);
        _tile_loadd(5, c3 + GEMM_LANES, c_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        _tile_zero(4);
        _tile_zero(5);
    }
    for (int s = 0; s < p->segment_count; s++) {
        const char *a = (const char *)p->segments[s].rows + row * row_bytes;
        const char *b = (const char *)p->segments[s].panels + panel * p->panel_stride * 2;
        for (int64_t d = 0; d < p->depth; d += STEP, a += STEP * 2, b += STEP * GEMM_LANES * 2) {
            _tile_loadd(6, b, 64);
            _tile_loadd(7, a, row_bytes);
            _tile_dpbf16ps(0, 7, 6);
            _tile_loadd(7, a + half, row_bytes);
            _tile_dpbf16ps(1, 7, 6);
            _tile_loadd(7, a + 2 * half, row_bytes);
            _tile_dpbf16ps(2, 7, 6);
            _tile_loadd(6, b + p->panel_stride * 2, 64);
            _tile_dpbf16ps(5, 7, 6);
            _tile_loadd(7, a + half, row_bytes);
            _tile_dpbf16ps(4, 7, 6);
            _tile_loadd(7, a, row_bytes);
            _tile_dpbf16ps(3, 7, 6);
        }
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c2, c_bytes);
    _tile_stored(2, c3, c_bytes);
    _tile_stored(3, c + GEMM_LANES, c_bytes);
    _tile_stored(4, c2 + GEMM_LANES, c_bytes);
    _tile_stored(5, c3 + GEMM_LANES, c_bytes);
}

// What a block of rows fetches of the panels that come next: of the 2 x 16 lines of a step each of the first four blocks
// takes SHARE.
static const char *lines_ahead(const struct gemm_product *p, int64_t row, int64_t panel) {
    const char *next = p->panel_count - panel > 2
                           ? (const char *)p->segments[0].panels + (panel + 2) * p->panel_stride * 2
                           : (const char *)p->next;
    const int64_t share = row / ROWS;
    if (!next || p->segment_count > 1 || share >= 4 || p->row_count < 4 * ROWS || p->panel_count % 2)
        return NULL;
    return next + share / 2 * p->panel_stride * 2 + share % 2 * SHARE * 64;
}

// Whole blocks of rows from [first] on, depth block by depth block, so that the panels of one stay in the first-level cache while the
// rows stream past.
static void product_whole(const struct gemm_product *p, int64_t first, int64_t rows, int64_t panels) {
    const int64_t step = p->segment_count > 1 || rows <= ROWS ? p->depth : DEPTH;
    float *before = NULL;
    for (int64_t panel = 0; panel < panels; panel += 2)
        for (int64_t at = 0; at < p->depth; at += step)
            for (int64_t row = first; row < rows; row += ROWS) {
                struct block block = {row,   panel,
                                      at,    p->depth - at < step ? p->depth : at + step,
                                      false, lines_ahead(p, row, panel)};
                block.fresh = !p->accumulate && at == 0;
                if (block.fresh)
                    whole_block(p, block, before, true);
                else
                    whole_block(p, block, before, false);
                before = p->c + row * p->c_stride + panel * GEMM_LANES;
            }
    if (before) store_sums(before, p->c_stride, true, true);
}

void gemm_product_bf16_amx(const struct gemm_product *p) {
    const int64_t tall = p->segment_count > TALL_SEGMENTS ? p->row_count / TALL_ROWS * TALL_ROWS : 0;
    const int64_t rows = tall + (p->row_count - tall) / ROWS * ROWS, rows_left = p->row_count - rows;
    const int64_t panels = p->panel_count / 2 * 2;
    if (p->depth == 0) return;
    if (rows > 0) configure(TILE_ROWS, TILE_ROWS);
    for (int64_t panel = 0; panel < panels; panel += 2)
        for (int64_t row = 0; row < tall; row += TALL_ROWS) tall_block(p, row, panel);
    if (rows > tall && panels > 0) product_whole(p, tall, rows, panels);
    for (int64_t row = 0; row < rows && panels < p->panel_count; row += ROWS) {
        const struct block block = {row, panels, 0, p->depth, !p->accumulate, NULL};
        if (rows - row >= ROWS)
            edge_block(p, block, 2, 1);
        else
            edge_block(p, block, 1, 1);
    }
    if (rows_left > 0)
        configure(rows_left < TILE_ROWS ? rows_left : TILE_ROWS,
                  rows_left > TILE_ROWS ? rows_left - TILE_ROWS : 1);
    for (int64_t panel = 0; panel < p->panel_count && rows_left > 0; panel += 1) {
        const struct block block = {rows, panel, 0, p->depth, !p->accumulate, NULL};
        if (rows_left > TILE_ROWS)
            edge_block(p, block, 2, 1);
        else if (p->panel_count - panel > 1)
            edge_block(p, block, 1, 2), panel++;
        else
            edge_block(p, block, 1, 1);
    }
    _tile_release();
}
