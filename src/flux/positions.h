// Position ids of the joint sequence and the tables of its rotary embedding. Relies on nothing.
#ifndef LIMN_FLUX_POSITIONS_H
#define LIMN_FLUX_POSITIONS_H

#include <stdint.h>

// A picture in the sequence.
struct token_grid {
    int height, width; // in tokens (16 pixels a side)
    int time;          // position id t: 0 for the generated picture, 10 (r + 1) for reference r (from 0)
};

enum { POSITION_AXES = 4 }; // t, h, w, l

int64_t token_grid_tokens(const struct token_grid *grid);

// Text row j has the ids (0, 0, 0, j); the token of a grid at row y, column x has (time, y, x, 0). Texts first, then the grids
// one behind the other, each row by row. cosines, sines: [text_length + all tokens, (sum of axes) / 2] f32; the angle of pair
// j of axis a is id * theta^(-2j / axes[a]), computed in double as the reference does. axes: even, or 0.
void positions_rope(int text_length, int grid_count, const struct token_grid *grids,
                    const int axes[POSITION_AXES], double theta, float *cosines, float *sines);

#endif
