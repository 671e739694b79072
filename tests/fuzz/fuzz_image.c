// A picture file: its header, then the whole of it. The pixel limit is small so that one run stays short.
#include "fuzz.h"

#include "image/image.h"

enum { PIXELS_MOST = 1 << 16 };

int LLVMFuzzerInitialize(int *count, char ***arguments);

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    struct error error = {0};
    promise(image_library_start((*arguments)[0], &error));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {0};
    struct image_header header;
    bool known = image_read_header(data, size, &header, &error);
    if (!known) promise_explained(&error);
    if (known) promise(header.width > 0 && header.height > 0 && header.format != IMAGE_UNKNOWN);
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
    image_free(&image);
    return 0;
}
