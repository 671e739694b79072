// Pictures as limn passes them around, and their way from and to files (libvips). Relies on base, libvips.
#ifndef LIMN_IMAGE_IMAGE_H
#define LIMN_IMAGE_IMAGE_H

#include "base/buffer.h"
#include "base/error.h"

#include <stdint.h>

// 8-bit sRGB, rows top-down, three bytes a pixel, no padding. pixels is owned by the image (image_free).
struct image {
    int width, height;
    uint8_t *pixels;
};

bool image_alloc(struct image *image, int width, int height, struct error *error);
void image_free(struct image *image); // {0} again

enum image_format { IMAGE_UNKNOWN, IMAGE_PNG, IMAGE_JPEG, IMAGE_WEBP, IMAGE_GIF, IMAGE_AVIF };

const char *image_format_name(enum image_format format);    // "png"
const char *image_format_mime(enum image_format format);    // "image/png"
enum image_format image_format_from_name(const char *name); // also "jpg"; IMAGE_UNKNOWN otherwise

// What a file says of itself in its first bytes; nothing is decoded, no library is called: safe in the server.
struct image_header {
    enum image_format format;
    int width,
        height; // upright: an EXIF orientation (JPEG, PNG, WebP) is followed where the bytes at hand hold it
    int orientation; // EXIF's, 1 to 8; 1 where nothing is said. 5 to 8 are turned by a quarter
};
bool image_read_header(const void *data, size_t size, struct image_header *header, struct error *error);

// Starts and stops libvips; once a process, before the first decode.
bool image_library_start(const char *program, struct error *error);
void image_library_stop(void);

// Decodes PNG, JPEG, WebP, GIF or AVIF as the reference pipeline sees them (Pillow's convert("RGB")): the first frame,
// orientation NOT applied unless [apply_orientation], grey and palette expanded, CMYK converted, the high byte of 16 bits
// taken (except 16-bit grey, whose values above 255 become 255, as Pillow does), alpha dropped without blending. PNG, JPEG and
// WebP are byte-equal to Pillow's with the same decoder library; transparent pixels of a GIF are black, and AVIF may differ.
// At most [pixels_most] pixels by header (checked before decoding; 0: 64 Mi) and 32,768 a side.
// A truncated or corrupt file is an error. Errors begin with "[name]: ".
bool image_decode(const char *name, const void *data, size_t size, int64_t pixels_most,
                  bool apply_orientation, struct image *image, struct error *error);

// One byte a pixel, rows top-down: 0 is transparent, 255 opaque. values is owned (image_alpha_free).
struct image_alpha {
    int width, height;
    uint8_t *values;
};
void image_alpha_free(struct image_alpha *alpha); // {0} again

// The alpha channel of a PNG, WebP, GIF or AVIF, the high byte of 16 bits; limits and errors as for image_decode. A picture
// without an alpha channel is an error.
bool image_decode_alpha(const char *name, const void *data, size_t size, int64_t pixels_most,
                        struct image_alpha *alpha, struct error *error);

// Finds the plain background of a picture: what is connected to its edge and has the colour that most of the edge has, up to
// small differences. [alpha] is fresh: 0 there, 255 elsewhere, between at the border. False and an empty [alpha] where less
// than three quarters of the edge have one colour; an error only when memory is gone.
bool image_cut_background(const struct image *image, struct image_alpha *alpha, struct error *error);

struct image_metadata {
    const char *software; // EXIF Software: the mark of a generated picture, "AI generated;flux2"
    const char *make;     // EXIF Make
    const char *comment;  // prompt-free line: model, seed, steps, guidance
};

struct image_encode_options {
    enum image_format format;
    // 0 to 100: JPEG, WebP and AVIF quality; for PNG the compression effort, for GIF the number of colours, 4 to 256. -1 takes
    // 95 (PNG: effort 6 of 9; GIF: 256 colours).
    int quality;
    const uint8_t *alpha; // width * height values; NULL: opaque. Not with JPEG
    struct image_metadata metadata;
};

// Whether the installed libvips writes [format] (GIF and AVIF depend on what it was built with): a small picture is tried. Else
// an ERROR_UNSUPPORTED that says so, with the field "output_format".
bool image_can_encode(enum image_format format, struct error *error);

// Encodes into [out] (appended). The comment becomes EXIF ImageDescription, and in PNG a text chunk besides; GIF has no EXIF and
// gets all fields as a comment block.
bool image_encode(const struct image *image, const struct image_encode_options *options, struct buffer *out,
                  struct error *error);

#endif
