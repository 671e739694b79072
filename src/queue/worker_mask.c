// See worker_mask.h.
#include "queue/worker_mask.h"
#include "flux/references.h"

#include <stdlib.h>
#include <string.h>

// The largest part of from_width x from_height around its middle that has the shape of [width] x [height].
struct part {
    int left, top, width, height;
};

static struct part part_of(int from_width, int from_height, int width, int height) {
    struct part part = {0, 0, from_width, from_height};
    if ((int64_t)from_width * height > (int64_t)from_height * width)
        part.width = (int)(((int64_t)from_height * width + height / 2) / height);
    else
        part.height = (int)(((int64_t)from_width * height + width / 2) / width);
    if (part.width < 1) part.width = 1;
    if (part.height < 1) part.height = 1;
    part.left = (from_width - part.width) / 2;
    part.top = (from_height - part.height) / 2;
    return part;
}

static bool fit_image(const struct image *from, const struct part *part, int width, int height,
                      struct image *to, struct error *error) {
    struct image cut;
    if (!image_alloc(&cut, part->width, part->height, error)) return false;
    for (int y = 0; y < cut.height; y++)
        memcpy(cut.pixels + (size_t)y * (size_t)cut.width * 3,
               from->pixels + ((size_t)(part->top + y) * (size_t)from->width + (size_t)part->left) * 3,
               (size_t)cut.width * 3);
    bool good = lanczos_resize(&cut, width, height, to, error);
    image_free(&cut);
    return good;
}

// The mean of [from, to) of a row of values; the ends count by how much of them lies within.
static double mean_of(const float *values, double from, double to) {
    double sum = 0;
    for (int i = (int)from; (double)i < to; i++) {
        double begin = (double)i > from ? (double)i : from, end = (double)(i + 1) < to ? (double)(i + 1) : to;
        sum += (end - begin) * (double)values[i];
    }
    return sum / (to - from);
}

// By the mean of the area that a pixel covers: a value between 0 and 255 comes only where both meet.
static bool fit_alpha(const struct image_alpha *from, const struct part *part, int width, int height,
                      uint8_t *to) {
    float *across = malloc((size_t)part->height * (size_t)width * sizeof *across); // column after column
    float *row = malloc((size_t)part->width * sizeof *row);
    bool good = across && row;
    for (int y = 0; good && y < part->height; y++) {
        const uint8_t *values =
            from->values + (size_t)(part->top + y) * (size_t)from->width + (size_t)part->left;
        for (int x = 0; x < part->width; x++) row[x] = values[x];
        for (int x = 0; x < width; x++)
            across[(size_t)x * (size_t)part->height + (size_t)y] =
                (float)mean_of(row, (double)x * part->width / width, (double)(x + 1) * part->width / width);
    }
    for (int x = 0; good && x < width; x++)
        for (int y = 0; y < height; y++)
            to[(size_t)y * (size_t)width + (size_t)x] =
                (uint8_t)(mean_of(across + (size_t)x * (size_t)part->height,
                                  (double)y * part->height / height,
                                  (double)(y + 1) * part->height / height) +
                          0.5);
    free(across);
    free(row);
    return good;
}

bool mask_make(const struct image_alpha *alpha, const struct image *reference, int deliver_width,
               int deliver_height, struct mask *mask, struct error *error) {
    *mask = (struct mask){0};
    if (alpha->width != reference->width || alpha->height != reference->height)
        return error_set_field(error, ERROR_INPUT, "mask",
                               "the mask is %dx%d pixels, expected the first image's %dx%d", alpha->width,
                               alpha->height, reference->width, reference->height);
    struct part part = part_of(reference->width, reference->height, deliver_width, deliver_height);
    if (!fit_image(reference, &part, deliver_width, deliver_height, &mask->original, error)) return false;
    mask->keep = malloc((size_t)deliver_width * (size_t)deliver_height);
    if (mask->keep && fit_alpha(alpha, &part, deliver_width, deliver_height, mask->keep)) return true;
    mask_free(mask);
    return error_set(error, ERROR_MEMORY, "no memory for the mask");
}

void mask_free(struct mask *mask) {
    image_free(&mask->original);
    free(mask->keep);
    *mask = (struct mask){0};
}

static int within(int value, int most) {
    return value < 0 ? 0 : value > most ? most : value;
}

bool mask_pad(const struct mask *mask, int width, int height, struct image *to, struct error *error) {
    const struct image *from = &mask->original;
    if (!image_alloc(to, width, height, error)) return false;
    int left = (width - from->width) / 2, top = (height - from->height) / 2;
    for (int y = 0; y < height; y++) {
        const uint8_t *row =
            from->pixels + (size_t)within(y - top, from->height - 1) * (size_t)from->width * 3;
        uint8_t *out = to->pixels + (size_t)y * (size_t)width * 3;
        for (int x = 0; x < width; x++) memcpy(out + 3 * x, row + 3 * within(x - left, from->width - 1), 3);
    }
    return true;
}

void mask_apply(const struct mask *mask, struct image *image) {
    size_t count = (size_t)image->width * (size_t)image->height;
    for (size_t i = 0; i < count; i++) {
        int keep = mask->keep[i];
        for (size_t c = 0; c < 3; c++) {
            uint8_t *drawn = image->pixels + 3 * i + c;
            int mixed = keep * mask->original.pixels[3 * i + c] + (255 - keep) * *drawn;
            *drawn = (uint8_t)((mixed + 127) / 255);
        }
    }
}
