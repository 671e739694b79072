// The plain background of a picture, for transparent output: a flood fill from the edge. Made for pictures that are drawn on one
// colour; a photograph has no such background and is left as it is. Relies on image.h.
#include "image/image.h"

#include <stdlib.h>
#include <string.h>

enum {
    CELL = 16, // levels a channel that count as one colour in the edge's histogram
    CELLS = 256 / CELL,
    NEAR = 24,       // largest difference a channel of what is background
    SOFT = 64,       // likewise of what is partly background, beside it
    SHARE_LEAST = 75 // percent of the edge that must have the background's colour
};

static int difference(const uint8_t *pixel, const uint8_t colour[3]) {
    int most = 0;
    for (int c = 0; c < 3; c++) {
        int off = abs(pixel[c] - colour[c]);
        if (off > most) most = off;
    }
    return most;
}

// The pixels of the edge, each once, by an index.
static int edge_length(const struct image *image) {
    if (image->width == 1 || image->height == 1) return image->width * image->height;
    return 2 * (image->width + image->height) - 4;
}

static size_t edge_pixel(const struct image *image, int index) {
    size_t w = (size_t)image->width, h = (size_t)image->height, i = (size_t)index;
    if (h == 1 || i < w) return i;
    i -= w;
    if (w == 1) return w + i;
    if (i < w) return (h - 1) * w + i;
    i -= w;
    return (1 + i / 2) * w + (i % 2 ? w - 1 : 0);
}

// The colour that most of the edge has: the mean of the fullest cell of its histogram. False when too little of it has that.
static bool find_colour(const struct image *image, uint8_t colour[3], struct error *error) {
    struct cell {
        int count;
        int64_t sum[3];
    } *cells = calloc((size_t)CELLS * CELLS * CELLS, sizeof *cells);
    if (!cells) return error_set(error, ERROR_MEMORY, "no memory to look for the background");
    int length = edge_length(image), best = 0, near = 0;
    for (int i = 0; i < length; i++) {
        const uint8_t *pixel = image->pixels + 3 * edge_pixel(image, i);
        int at = (pixel[0] / CELL * CELLS + pixel[1] / CELL) * CELLS + pixel[2] / CELL;
        cells[at].count++;
        for (int c = 0; c < 3; c++) cells[at].sum[c] += pixel[c];
        if (cells[at].count > cells[best].count) best = at;
    }
    for (int c = 0; c < 3; c++) colour[c] = (uint8_t)(cells[best].sum[c] / cells[best].count);
    for (int i = 0; i < length; i++)
        near += difference(image->pixels + 3 * edge_pixel(image, i), colour) <= NEAR;
    free(cells);
    return (int64_t)near * 100 >= (int64_t)length * SHARE_LEAST;
}

// Background is what is near the colour and connected to the edge, by sides. [stack] has room for every pixel.
static void flood(const struct image *image, const uint8_t colour[3], uint8_t *alpha, uint32_t *stack) {
    int w = image->width, h = image->height;
    size_t depth = 0;
    for (int i = 0; i < edge_length(image); i++) {
        size_t at = edge_pixel(image, i);
        if (alpha[at] == 0 || difference(image->pixels + 3 * at, colour) > NEAR) continue;
        alpha[at] = 0;
        stack[depth++] = (uint32_t)at;
    }
    while (depth > 0) {
        size_t at = stack[--depth];
        int x = (int)(at % (size_t)w), y = (int)(at / (size_t)w);
        const int next[4][2] = {{x - 1, y}, {x + 1, y}, {x, y - 1}, {x, y + 1}};
        for (int k = 0; k < 4; k++) {
            if (next[k][0] < 0 || next[k][0] >= w || next[k][1] < 0 || next[k][1] >= h) continue;
            size_t to = (size_t)next[k][1] * (size_t)w + (size_t)next[k][0];
            if (alpha[to] == 0 || difference(image->pixels + 3 * to, colour) > NEAR) continue;
            alpha[to] = 0;
            stack[depth++] = (uint32_t)to;
        }
    }
}

// What lies beside the background is transparent by how much it still has of its colour.
static void soften(const struct image *image, const uint8_t colour[3], uint8_t *alpha) {
    int w = image->width, h = image->height;
    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w; x++) {
            size_t at = (size_t)y * (size_t)w + (size_t)x;
            if (alpha[at] != 255) continue;
            bool beside = (x > 0 && alpha[at - 1] == 0) || (x + 1 < w && alpha[at + 1] == 0) ||
                          (y > 0 && alpha[at - (size_t)w] == 0) || (y + 1 < h && alpha[at + (size_t)w] == 0);
            int off = difference(image->pixels + 3 * at, colour);
            if (beside && off < SOFT) alpha[at] = (uint8_t)(1 + off * 253 / SOFT);
        }
    }
}

bool image_cut_background(const struct image *image, struct image_alpha *alpha, struct error *error) {
    uint8_t colour[3];
    *alpha = (struct image_alpha){0};
    if (!find_colour(image, colour, error)) return false;
    size_t count = (size_t)image->width * (size_t)image->height;
    uint32_t *stack = malloc(count * sizeof *stack);
    alpha->values = malloc(count);
    if (!stack || !alpha->values) {
        free(stack);
        image_alpha_free(alpha);
        return error_set(error, ERROR_MEMORY, "no memory to cut the background away");
    }
    alpha->width = image->width;
    alpha->height = image->height;
    memset(alpha->values, 255, count);
    flood(image, colour, alpha->values, stack);
    soften(image, colour, alpha->values);
    free(stack);
    return true;
}
