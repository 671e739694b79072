// Reference images on their way to the autoencoder. The resampling follows Pillow's for 8-bit channels to the byte: weights in
// double, normalised, rounded to 22 fractional bits; sums in integers; a horizontal and a vertical pass, each rounded to 8
// bits. The horizontal one comes first, except where the height falls by more than twice what the width does (Pillow 13).
// Relies on image.
#include "flux/references.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WEIGHT_BITS = 22, SIDE_LEAST = 64, RATIO_MOST = 8 };

static double sinc(double x) {
    if (x == 0) return 1;
    x *= 3.14159265358979323846;
    return sin(x) / x;
}

static double lanczos(double x) {
    return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

// The taps of one pass: output i is the sum of weights[i * stride + k] * input[first[i] + k] for k in [0, count[i]).
struct taps {
    int stride;
    int *first, *count;
    int32_t *weights;
};

static void taps_free(struct taps *taps) {
    free(taps->first);
    free(taps->count);
    free(taps->weights);
}

static bool taps_make(struct taps *taps, int from, int to, struct error *error) {
    double scale = (double)from / to, filter = scale < 1 ? 1 : scale, support = 3 * filter;
    *taps = (struct taps){.stride = (int)ceil(support) * 2 + 1};
    taps->first = malloc(sizeof(int) * (size_t)to);
    taps->count = malloc(sizeof(int) * (size_t)to);
    taps->weights = malloc(sizeof(int32_t) * (size_t)to * (size_t)taps->stride);
    double *row = malloc(sizeof(double) * (size_t)taps->stride);
    if (!taps->first || !taps->count || !taps->weights || !row) {
        free(row);
        taps_free(taps);
        return error_set(error, ERROR_MEMORY, "not enough memory to resize a picture to %d pixels", to);
    }
    for (int i = 0; i < to; i++) {
        double centre = (i + 0.5) * scale, sum = 0, step = 1 / filter;
        int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
        if (first < 0) first = 0;
        if (end > from) end = from;
        for (int k = 0; k < end - first; k++) {
            row[k] = lanczos((k + first - centre + 0.5) * step);
            sum += row[k];
        }
        int32_t *weights = taps->weights + (size_t)i * (size_t)taps->stride;
        for (int k = 0; k < end - first; k++) {
            double weight = (sum != 0 ? row[k] / sum : row[k]) * (1 << WEIGHT_BITS);
            weights[k] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        taps->first[i] = first;
        taps->count[i] = end - first;
    }
    free(row);
    return true;
}

static uint8_t to_byte(int32_t sum) {
    int32_t value = sum >> WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void pass_horizontal(const struct image *from, const struct taps *taps, struct image *to) {
    for (int y = 0; y < to->height; y++) {
        const uint8_t *row = from->pixels + (size_t)y * (size_t)from->width * 3;
        uint8_t *out = to->pixels + (size_t)y * (size_t)to->width * 3;
        for (int x = 0; x < to->width; x++, out += 3) {
            const int32_t *weights = taps->weights + (size_t)x * (size_t)taps->stride;
            const uint8_t *in = row + (size_t)taps->first[x] * 3;
            int32_t sums[3] = {1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1)};
            for (int k = 0; k < taps->count[x]; k++)
                for (int c = 0; c < 3; c++) sums[c] += weights[k] * in[k * 3 + c];
            for (int c = 0; c < 3; c++) out[c] = to_byte(sums[c]);
        }
    }
}

static bool pass_vertical(const struct image *from, const struct taps *taps, struct image *to,
                          struct error *error) {
    size_t width = (size_t)to->width * 3;
    int32_t *sums = malloc(width * sizeof(int32_t));
    if (!sums) return error_set(error, ERROR_MEMORY, "not enough memory to resize a picture");
    for (int y = 0; y < to->height; y++) {
        const int32_t *weights = taps->weights + (size_t)y * (size_t)taps->stride;
        for (size_t x = 0; x < width; x++) sums[x] = 1 << (WEIGHT_BITS - 1);
        for (int k = 0; k < taps->count[y]; k++) {
            const uint8_t *in = from->pixels + (size_t)(taps->first[y] + k) * width;
            for (size_t x = 0; x < width; x++) sums[x] += weights[k] * in[x];
        }
        uint8_t *out = to->pixels + (size_t)y * width;
        for (size_t x = 0; x < width; x++) out[x] = to_byte(sums[x]);
    }
    free(sums);
    return true;
}

// One pass into a fresh picture; [to] is one side longer or shorter than [from].
static bool pass_make(const struct image *from, int width, int height, struct image *to,
                      struct error *error) {
    struct taps taps;
    bool across = width != from->width;
    if (!taps_make(&taps, across ? from->width : from->height, across ? width : height, error)) return false;
    bool done = image_alloc(to, width, height, error);
    if (done && across) pass_horizontal(from, &taps, to);
    if (done && !across && !pass_vertical(from, &taps, to, error)) {
        image_free(to);
        done = false;
    }
    taps_free(&taps);
    return done;
}

bool lanczos_resize(const struct image *from, int width, int height, struct image *to, struct error *error) {
    bool across = width != from->width, down = height != from->height;
    *to = (struct image){0};
    if (across && down) {
        struct image between = {0};
        bool tall = height < from->height && from->height - height > 2 * (from->width - width);
        bool done = tall ? pass_make(from, from->width, height, &between, error)
                         : pass_make(from, width, from->height, &between, error);
        if (!done) return false;
        done = pass_make(&between, width, height, to, error);
        image_free(&between);
        return done;
    }
    if (across || down) return pass_make(from, width, height, to, error);
    if (!image_alloc(to, width, height, error)) return false;
    memcpy(to->pixels, from->pixels, (size_t)width * (size_t)height * 3);
    return true;
}

bool reference_size(const char *field, int from_width, int from_height, int64_t area_most, int multiple,
                    struct reference_size *size, struct error *error) {
    int width = from_width, height = from_height;
    if (width < SIDE_LEAST || height < SIDE_LEAST)
        return error_set_field(error, ERROR_INPUT, field, "%s is %dx%d pixels, expected at least %d a side",
                               field, width, height, SIDE_LEAST);
    int longer = width > height ? width : height, shorter = width > height ? height : width;
    if ((double)longer / shorter > RATIO_MOST)
        return error_set_field(error, ERROR_INPUT, field,
                               "%s is %dx%d pixels, expected sides of a ratio of at most %d to 1", field,
                               width, height, RATIO_MOST);
    int64_t area = (int64_t)width * height;
    if (area > area_most) {
        double scale = sqrt((double)area_most / (double)area);
        width = (int)(width * scale);
        height = (int)(height * scale);
    }
    *size = (struct reference_size){width, height, width / multiple * multiple, height / multiple * multiple};
    if (size->width == 0 || size->height == 0)
        return error_set_field(
            error, ERROR_INPUT, field,
            "%s is %dx%d pixels after it was reduced to %lld pixels, expected at least %d a side", field,
            width, height, (long long)area_most, multiple);
    return true;
}

bool reference_prepare(const char *field, const struct image *from, int64_t area_most, int multiple,
                       struct image *to, struct error *error) {
    struct reference_size size;
    struct image resized;
    *to = (struct image){0};
    if (!reference_size(field, from->width, from->height, area_most, multiple, &size, error)) return false;
    if (!lanczos_resize(from, size.resized_width, size.resized_height, &resized, error)) return false;
    bool done = image_alloc(to, size.width, size.height, error);
    if (done) {
        int left = (resized.width - to->width) / 2, top = (resized.height - to->height) / 2;
        for (int y = 0; y < to->height; y++)
            memcpy(to->pixels + (size_t)y * (size_t)to->width * 3,
                   resized.pixels + ((size_t)(y + top) * (size_t)resized.width + (size_t)left) * 3,
                   (size_t)to->width * 3);
    }
    image_free(&resized);
    return done;
}
