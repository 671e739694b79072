// Pictures to bytes: PNG, JPEG, WebP, GIF and AVIF by libvips, the metadata put in by metadata.c. Relies on image.h,
// metadata.h, libvips.
#include "image/metadata.h"

#include <stdlib.h>
#include <string.h>
#include <vips/vips.h>

#define WEBP_SIDE_MOST 16383
#define GIF_SIDE_MOST  65535
#define AVIF_EFFORT    1 // of 9: more takes several times as long for a few hundredths of the bytes
#define GIF_EFFORT     3 // of 10: likewise
#define TRIAL_SIDE     16

static bool encode_failed(enum image_format format, struct error *error) {
    char line[256];
    snprintf(line, sizeof line, "%s", vips_error_buffer());
    vips_error_clear();
    line[strcspn(line, "\r\n")] = 0;
    return error_set(error, ERROR_INTERNAL, "the picture cannot be encoded as %s (%s)",
                     image_format_name(format), line);
}

// PNG effort of zlib: 6 by default; a quality of 0 to 100 asks for 1 to 9.
static int png_effort(int quality) {
    return quality < 0 ? 6 : 1 + quality * 8 / 100;
}

// Bits a pixel of a GIF: 2 to 8.
static int gif_depth(int quality) {
    return quality < 0 ? 8 : 2 + quality * 6 / 100;
}

static bool check_sides(const struct image *image, enum image_format format, struct error *error) {
    int most = format == IMAGE_WEBP ? WEBP_SIDE_MOST : format == IMAGE_GIF ? GIF_SIDE_MOST : INT32_MAX;
    return (image->width <= most && image->height <= most) ||
           error_set(error, ERROR_INPUT, "a %s file holds at most %d pixels a side, not %d x %d",
                     image_format_name(format), most, image->width, image->height);
}

// RGB, or RGBA from the two planes in fresh memory *joined (free()).
static VipsImage *open_pixels(const struct image *image, const uint8_t *alpha, uint8_t **joined) {
    size_t count = (size_t)image->width * (size_t)image->height;
    const uint8_t *pixels = image->pixels;
    *joined = NULL;
    if (alpha) {
        pixels = *joined = malloc(count * 4);
        if (!pixels) return NULL;
        for (size_t i = 0; i < count; i++) {
            memcpy(*joined + 4 * i, image->pixels + 3 * i, 3);
            (*joined)[4 * i + 3] = alpha[i];
        }
    }
    int bands = alpha ? 4 : 3;
    VipsImage *in = vips_image_new_from_memory(pixels, count * (size_t)bands, image->width, image->height,
                                               bands, VIPS_FORMAT_UCHAR);
    if (in) in->Type = VIPS_INTERPRETATION_sRGB;
    return in;
}

// AVIF keeps EXIF as an item that only the encoder can place: libvips takes it from the picture.
static int save_avif(VipsImage *in, int quality, const struct image_metadata *metadata, void **bytes,
                     size_t *length) {
    struct buffer exif = {0};
    bool marked = metadata_given(metadata);
    if (marked && metadata_exif(metadata, &exif))
        vips_image_set_blob_copy(in, VIPS_META_EXIF_NAME, exif.data, exif.length);
    buffer_free(&exif);
    return vips_heifsave_buffer(in, bytes, length, "compression", VIPS_FOREIGN_HEIF_COMPRESSION_AV1, "Q",
                                quality < 1 ? 1 : quality, "effort", AVIF_EFFORT, "strip", !marked, NULL);
}

static int save(VipsImage *in, const struct image_encode_options *options, void **bytes, size_t *length) {
    int quality = options->quality < 0 ? 95 : options->quality > 100 ? 100 : options->quality;
    switch (options->format) {
    case IMAGE_PNG:
        return vips_pngsave_buffer(in, bytes, length, "compression", png_effort(options->quality), "filter",
                                   VIPS_FOREIGN_PNG_FILTER_ALL, "strip", TRUE, NULL);
    case IMAGE_JPEG: // libvips subsamples colour below a quality of 90
        return vips_jpegsave_buffer(in, bytes, length, "Q", quality < 1 ? 1 : quality, "optimize_coding",
                                    TRUE, "strip", TRUE, NULL);
    case IMAGE_WEBP:
        return vips_webpsave_buffer(in, bytes, length, "Q", quality, "strip", TRUE, NULL);
    case IMAGE_GIF:
        return vips_gifsave_buffer(in, bytes, length, "bitdepth", gif_depth(options->quality), "effort",
                                   GIF_EFFORT, "strip", TRUE, NULL);
    case IMAGE_AVIF:
        return save_avif(in, quality, &options->metadata, bytes, length);
    case IMAGE_UNKNOWN:
        break;
    }
    return -1;
}

bool image_encode(const struct image *image, const struct image_encode_options *options, struct buffer *out,
                  struct error *error) {
    uint8_t *joined;
    void *bytes = NULL;
    size_t length = 0;
    if (options->format == IMAGE_UNKNOWN)
        return error_set(error, ERROR_UNSUPPORTED,
                         "pictures are written as png, jpeg, webp, gif or avif, expected one of these");
    if (options->format == IMAGE_JPEG && options->alpha)
        return error_set(error, ERROR_UNSUPPORTED, "a jpeg file cannot be transparent");
    if (!check_sides(image, options->format, error)) return false;
    VipsImage *in = open_pixels(image, options->alpha, &joined);
    bool good = in && save(in, options, &bytes, &length) == 0;
    if (!good) encode_failed(options->format, error);
    if (in) g_object_unref(in);
    free(joined);
    if (good && options->format == IMAGE_AVIF)
        good = buffer_add(out, bytes, length) ||
               error_set(error, ERROR_MEMORY, "no memory for the picture's file");
    else if (good)
        good = metadata_insert(options->format, bytes, length, image, options->alpha, &options->metadata, out,
                               error);
    g_free(bytes);
    return good;
}

bool image_can_encode(enum image_format format, struct error *error) {
    struct image image;
    struct buffer out = {0};
    struct error cause = {0};
    if (!image_alloc(&image, TRIAL_SIDE, TRIAL_SIDE, error)) return false;
    memset(image.pixels, 128, (size_t)TRIAL_SIDE * TRIAL_SIDE * 3);
    struct image_encode_options options = {.format = format, .quality = 50};
    bool good = image_encode(&image, &options, &out, &cause);
    buffer_free(&out);
    image_free(&image);
    return good || error_set_field(error, ERROR_UNSUPPORTED, "output_format",
                                   "this server cannot write %s pictures: %s", image_format_name(format),
                                   cause.message);
}
