// Source: Flux2PosEmbed and the position ids of the FLUX.2 pipeline in diffusers. Relies on nothing.
#include "flux/positions.h"

#include <math.h>

int64_t token_grid_tokens(const struct token_grid *grid) {
    return (int64_t)grid->height * grid->width;
}

// One row of the tables; returns the next row's place.
static int64_t put_row(const int ids[POSITION_AXES], const int axes[POSITION_AXES], double theta,
                       float *cosines, float *sines, int64_t at) {
    for (int a = 0; a < POSITION_AXES; a++) {
        for (int d = 0; d < axes[a]; d += 2, at++) {
            // At position 0 and for the first pair no power is needed.
            double angle = ids[a] == 0 ? 0 : ids[a] * (1.0 / pow(theta, (double)d / axes[a]));
            cosines[at] = (float)cos(angle);
            sines[at] = (float)sin(angle);
        }
    }
    return at;
}

void positions_rope(int text_length, int grid_count, const struct token_grid *grids,
                    const int axes[POSITION_AXES], double theta, float *cosines, float *sines) {
    int64_t at = 0;
    for (int j = 0; j < text_length; j++)
        at = put_row((int[POSITION_AXES]){0, 0, 0, j}, axes, theta, cosines, sines, at);
    for (int g = 0; g < grid_count; g++)
        for (int y = 0; y < grids[g].height; y++)
            for (int x = 0; x < grids[g].width; x++)
                at = put_row((int[POSITION_AXES]){grids[g].time, y, x, 0}, axes, theta, cosines, sines, at);
}
