// A small picture made of the input, written in each format with metadata made of it too, and read back: the metadata is put
// into finished files by hand.
// Bytes: format, quality, width, height, which fields and whether alpha; then the pixels, alpha, and the texts.
#include "fuzz.h"

#include "image/image.h"

enum { HEAD = 5, SIDE_MOST = 24, TEXT_MOST = 700 };

int LLVMFuzzerInitialize(int *count, char ***arguments);

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    struct error error = {0};
    promise(image_library_start((*arguments)[0], &error));
    return 0;
}

struct input {
    const uint8_t *data;
    size_t size;
};

// The next bytes; 0 behind the end.
static void take(struct input *input, uint8_t *to, size_t count) {
    for (size_t i = 0; i < count; i++) {
        to[i] = input->size ? *input->data : 0;
        if (input->size) input->data++, input->size--;
    }
}

static void take_text(struct input *input, size_t length, char *text) {
    take(input, (uint8_t *)text, length);
    text[length] = 0;
}

static void check(const struct buffer *out, const struct image_encode_options *options,
                  const struct image *image) {
    struct error error = {0};
    struct image_header header;
    promise(image_read_header(out->data, out->length, &header, &error));
    promise(header.format == options->format);
    promise(header.width == image->width && header.height == image->height);
    struct image back;
    promise(image_decode("back", out->data, out->length, 0, false, &back, &error));
    promise(back.width == image->width && back.height == image->height);
    if (options->format == IMAGE_PNG)
        promise(!memcmp(back.pixels, image->pixels, (size_t)image->width * (size_t)image->height * 3));
    image_free(&back);
    struct image_alpha alpha;
    if (!options->alpha || options->format == IMAGE_GIF) return; // a GIF may have no transparent pixel
    if (!image_decode_alpha("back", out->data, out->length, 0, &alpha, &error))
        return; // nor others, where all are opaque
    promise(alpha.width == image->width && alpha.height == image->height);
    image_alpha_free(&alpha);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char texts[3][TEXT_MOST + 1];
    static uint8_t alpha[SIDE_MOST * SIDE_MOST];
    uint8_t head[HEAD];
    struct input input = {data, size};
    struct error error = {0};
    struct image image;
    take(&input, head, HEAD);
    promise(image_alloc(&image, 1 + head[2] % SIDE_MOST, 1 + head[3] % SIDE_MOST, &error));
    size_t pixels = (size_t)image.width * (size_t)image.height;
    take(&input, image.pixels, pixels * 3);
    if (head[4] & 8) take(&input, alpha, pixels);
    for (int i = 0; i < 3; i++) {
        uint8_t length;
        take(&input, &length, 1);
        take_text(&input, (size_t)length * 11 % TEXT_MOST, texts[i]);
    }
    struct image_encode_options options = {.format = (enum image_format)(IMAGE_PNG + head[0] % 5),
                                           .quality = head[1] % 102 - 1,
                                           .alpha = head[4] & 8 ? alpha : NULL,
                                           .metadata = {head[4] & 1 ? texts[0] : NULL,
                                                        head[4] & 2 ? texts[1] : NULL,
                                                        head[4] & 4 ? texts[2] : NULL}};
    struct buffer out = {0};
    if (image_encode(&image, &options, &out, &error))
        check(&out, &options, &image);
    else
        promise(options.format == IMAGE_JPEG && options.alpha);
    buffer_free(&out);
    image_free(&image);
    return 0;
}
