// A mask and its picture in any sizes: what is kept comes back, what lies outside is not touched.
// Bytes: sides of picture and mask, delivered sides, padding; then alpha values and pixels, repeated.
#include "fuzz.h"

#include "queue/worker_mask.h"

enum { HEAD = 8, SIDE_MOST = 40 };

static int side(uint8_t byte) {
    return 1 + byte % SIDE_MOST;
}

// A pixel that is kept whole must be the original's, one that is not must be the drawn one's.
static void check(const struct mask *mask, const struct image *image) {
    for (int i = 0; i < image->width * image->height; i++) {
        const uint8_t *pixel = image->pixels + 3 * i, *original = mask->original.pixels + 3 * i;
        for (int c = 0; c < 3; c++) {
            if (mask->keep[i] == 255) promise(pixel[c] == original[c]);
            if (mask->keep[i] == 0) promise(pixel[c] == 77);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size <= HEAD) return 0;
    const uint8_t *values = data + HEAD;
    size_t count = size - HEAD;
    struct image_alpha alpha = {side(data[0]), side(data[1]), NULL};
    struct image picture, drawn, padded;
    struct error error = {0};
    bool equal = data[7] & 1;
    promise(image_alloc(&picture, equal ? alpha.width : side(data[2]), equal ? alpha.height : side(data[3]),
                        &error));
    for (int i = 0; i < picture.width * picture.height * 3; i++)
        picture.pixels[i] = values[(size_t)i * 5 % count];
    alpha.values = malloc((size_t)(alpha.width * alpha.height));
    promise(alpha.values);
    for (int i = 0; i < alpha.width * alpha.height; i++) alpha.values[i] = values[(size_t)i % count];
    struct mask mask;
    int width = data[7] & 2 ? picture.width : side(data[4]),
        height = data[7] & 2 ? picture.height : side(data[5]);
    if (mask_make(&alpha, &picture, width, height, &mask, &error)) {
        promise(alpha.width == picture.width && alpha.height == picture.height);
        promise(mask.original.width == width && mask.original.height == height);
        if (data[7] & 2) // nothing is cut or resized: both stay as they were
            promise(!memcmp(mask.keep, alpha.values, (size_t)(width * height)) &&
                    !memcmp(mask.original.pixels, picture.pixels, (size_t)(width * height) * 3));
        promise(image_alloc(&drawn, width, height, &error));
        memset(drawn.pixels, 77, (size_t)(width * height) * 3);
        mask_apply(&mask, &drawn);
        check(&mask, &drawn);
        promise(mask_pad(&mask, width + data[6] % 16, height + data[6] / 16, &padded, &error));
        image_free(&padded);
        image_free(&drawn);
        mask_free(&mask);
    } else {
        promise_explained(&error);
        promise(!strcmp(error.field, "mask"));
    }
    free(alpha.values);
    image_free(&picture);
    return 0;
}
