// Decoding in overlapping tiles: what memory allows where a whole picture does not fit. The same cut and the same blend
// as diffusers (AutoencoderKLFlux2.tiled_decode): tiles start every three quarters of a tile; the quarter in which a tile
// lies over the one above, then the one to the left, goes over linearly from that one to itself.
// Relies on autoencoder_inside.h.
#include "flux/autoencoder_inside.h"

#include <stdlib.h>

// A decoded tile, blended with those before it: [3, height, width].
struct tile {
    float *planes;
    int64_t height, width;
};

struct tiling {
    const struct autoencoder *autoencoder;
    struct walk *walk;
    const struct feature_map *latents;
    int64_t side, step, blend; // of a tile in latents; in latents; in pixels
    int64_t scale;             // pixels a latent
    int64_t down, across;      // tiles
    struct tile *above, *row;  // [across]: finished tiles of the last row, of this one
    float *pixels;             // [3, height, width] of the picture
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// Decodes the latents of tile (i, j) into fresh memory.
static bool decode_tile(const struct tiling *tiling, int64_t i, int64_t j, struct tile *tile,
                        struct error *error) {
    struct device *device = tiling->autoencoder->device;
    const struct feature_map *all = tiling->latents;
    const size_t mark = workspace_mark(device);
    struct feature_map part = *all, map;
    part.height = least(tiling->side, all->height - i * tiling->step);
    part.width = least(tiling->side, all->width - j * tiling->step);
    const size_t row_bytes = (size_t)(part.width * part.channels) * sizeof(float);
    part.data = workspace_alloc(device, (size_t)part.height * row_bytes);
    if (!part.data) return device_status(device, error);
    for (int64_t y = 0; y < part.height; y++) {
        const float *from = (const float *)all->data +
                            ((i * tiling->step + y) * all->width + j * tiling->step) * all->channels;
        const struct matrix row =
            matrix_dense((void *)(uintptr_t)from, DTYPE_F32, 1, part.width * part.channels);
        struct matrix to = row;
        to.data = (char *)part.data + (size_t)y * row_bytes;
        device->ops->copy(device, row, to);
    }
    bool ok = walk_run(tiling->walk, &part, &map, error);
    if (ok) {
        tile->height = map.height;
        tile->width = map.width;
        tile->planes = malloc((size_t)(3 * map.height * map.width) * sizeof(float));
        ok = tile->planes ? autoencoder_download_planes(tiling->autoencoder, &map, tile->planes, error)
                          : error_set(error, ERROR_MEMORY, "no memory for a tile of %lld x %lld pixels",
                                      (long long)map.width, (long long)map.height);
    }
    workspace_release(device, mark);
    return ok;
}

// The first rows of [tile] come out of the last ones of [above]. Both are equally wide.
static void blend_down(const struct tile *above, struct tile *tile, int64_t most) {
    const int64_t extent = least(least(above->height, tile->height), most);
    for (int c = 0; c < 3; c++)
        for (int64_t y = 0; y < extent; y++) {
            const float *a = above->planes + (c * above->height + above->height - extent + y) * above->width;
            float *b = tile->planes + (c * tile->height + y) * tile->width;
            const float share = (float)((double)y / (double)extent);
            const float rest = (float)(1 - (double)y / (double)extent);
            for (int64_t x = 0; x < tile->width; x++) b[x] = a[x] * rest + b[x] * share;
        }
}

static void blend_right(const struct tile *left, struct tile *tile, int64_t most) {
    const int64_t extent = least(least(left->width, tile->width), most);
    for (int64_t y = 0; y < 3 * tile->height; y++)
        for (int64_t x = 0; x < extent; x++) {
            const float a = left->planes[y * left->width + left->width - extent + x];
            float *b = tile->planes + y * tile->width + x;
            const double share = (double)x / (double)extent;
            *b = a * (float)(1 - share) + *b * (float)share;
        }
}

// The part of a tile that the next ones do not lie over goes into the picture.
static void put_tile(const struct tiling *tiling, int64_t i, int64_t j, const struct tile *tile) {
    const int64_t step = tiling->step * tiling->scale, height = tiling->latents->height * tiling->scale;
    const int64_t width = tiling->latents->width * tiling->scale;
    const int64_t rows = least(tile->height, step), columns = least(tile->width, step);
    for (int c = 0; c < 3; c++)
        for (int64_t y = 0; y < rows; y++)
            for (int64_t x = 0; x < columns; x++)
                tiling->pixels[(c * height + i * step + y) * width + j * step + x] =
                    tile->planes[(c * tile->height + y) * tile->width + x];
}

static void free_row(struct tile *row, int64_t count) {
    for (int64_t j = 0; row && j < count; j++) {
        free(row[j].planes);
        row[j] = (struct tile){0};
    }
}

static bool decode_row(struct tiling *tiling, int64_t i, struct error *error) {
    for (int64_t j = 0; j < tiling->across; j++) {
        struct tile *tile = &tiling->row[j];
        if (!decode_tile(tiling, i, j, tile, error)) return false;
        if (i > 0) blend_down(&tiling->above[j], tile, tiling->blend);
        if (j > 0) blend_right(&tiling->row[j - 1], tile, tiling->blend);
        put_tile(tiling, i, j, tile);
    }
    struct tile *finished = tiling->row;
    tiling->row = tiling->above;
    tiling->above = finished;
    free_row(tiling->row, tiling->across);
    return true;
}

bool autoencoder_decode_tiles(const struct autoencoder *autoencoder, struct walk *walk,
                              const struct feature_map *latents, int tile, float *pixels,
                              struct error *error) {
    struct tiling tiling = {.autoencoder = autoencoder, .walk = walk, .latents = latents, .pixels = pixels};
    tiling.scale = autoencoder->shape.pixels_per_token / 2;
    tiling.side = tile / tiling.scale;
    tiling.step = tiling.side * 3 / 4;
    tiling.blend = tile / 4;
    tiling.down = (latents->height + tiling.step - 1) / tiling.step;
    tiling.across = (latents->width + tiling.step - 1) / tiling.step;
    tiling.above = calloc((size_t)tiling.across, sizeof *tiling.above);
    tiling.row = calloc((size_t)tiling.across, sizeof *tiling.row);
    walk->part_count *= (int)(tiling.down * tiling.across);
    walk->observer = NULL; // stages of single tiles say nothing
    bool ok = (tiling.above && tiling.row) || error_set(error, ERROR_MEMORY, "no memory for a row of tiles");
    for (int64_t i = 0; ok && i < tiling.down; i++) ok = decode_row(&tiling, i, error);
    free_row(tiling.above, tiling.across);
    free_row(tiling.row, tiling.across);
    free(tiling.above);
    free(tiling.row);
    return ok;
}
