// The AMX loop of the ceiling: products of tiles onto four independent sums. Relies on probe.h.
#include "tensor/cpu/probe.h"

#include <immintrin.h>

double probe_round_amx(void) {
    enum { STEPS = 20000 };
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t column_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.column_bytes[i] = 64;
        config.rows[i] = 16;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
    uint16_t values[4][16][32]; // like real ones: the clock of some processors falls with what the tiles hold
    uint32_t state = 1;
    for (int i = 0; i < 4 * 16 * 32; i++) {
        state = state * 1664525u + 1013904223u;
        ((uint16_t *)values)[i] = (uint16_t)((state >> 31) << 15 | 0x3e00 | (state >> 12 & 0x1ff));
    }
    for (int i = 0; i < 4; i++) __asm__ volatile("" : : "m"(values[i]));
    _tile_loadd(4, values[0], 64);
    _tile_loadd(5, values[1], 64);
    _tile_loadd(6, values[2], 64);
    _tile_loadd(7, values[3], 64);
    for (int step = 0; step < STEPS; step++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 4.0 * STEPS * 2 * 16 * 16 * 32;
}
