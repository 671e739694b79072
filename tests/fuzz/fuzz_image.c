// A picture file: its header, then the whole of it, as a reference and as a mask; what it shows is searched for a background.
// The pixel limit is small so that one run stays short.
#include "fuzz.h"

#include "image/image.h"

enum { PIXELS_MOST = 1 << 16 };

int LLVMFuzzerInitialize(int *count, char ***arguments);

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    struct error error = {0};
    promise(image_library_start((*arguments)[0], &error));
    return 0;
}

// As a mask: of the same size as the picture where both can be had.
static void try_alpha(const uint8_t *data, size_t size, bool known) {
    struct error error = {0};
    struct image_alpha alpha;
    if (!image_decode_alpha("fuzz", data, size, PIXELS_MOST, &alpha, &error)) {
        promise_explained(&error);
        promise(!alpha.values);
        return;
    }
    promise(known);
    promise(alpha.width > 0 && alpha.height > 0 && (int64_t)alpha.width * alpha.height <= PIXELS_MOST);
    volatile unsigned sum = touch(alpha.values, (size_t)alpha.width * (size_t)alpha.height);
    (void)sum;
    image_alpha_free(&alpha);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {0};
    struct image_header header;
    bool known = image_read_header(data, size, &header, &error);
    if (!known) promise_explained(&error);
    if (known) promise(header.width > 0 && header.height > 0 && header.format != IMAGE_UNKNOWN);
    try_alpha(data, size, known);
    struct image image;
    error_clear(&error);
    bool turn = size > 0 && data[size - 1] & 1;
    if (!image_decode("fuzz", data, size, PIXELS_MOST, turn, &image, &error)) {
        promise_explained(&error);
        return 0;
    }
    promise(known);
    promise(image.width > 0 && image.height > 0 && (int64_t)image.width * image.height <= PIXELS_MOST);
    volatile unsigned sum = touch(image.pixels, (size_t)image.width * (size_t)image.height * 3);
    (void)sum;
    struct image_alpha cut;
    if (image_cut_background(&image, &cut, &error)) {
        sum += touch(cut.values, (size_t)image.width * (size_t)image.height);
        promise(cut.width == image.width && cut.height == image.height);
        image_alpha_free(&cut);
    }
    image_free(&image);
    return 0;
}
