// Pictures to bytes: PNG, JPEG and WebP by libvips, the metadata put in by metadata.c. Relies on image.h, metadata.h,
// libvips.
#include "image/metadata.h"

#include <stdlib.h>
#include <string.h>
#include <vips/vips.h>

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

bool image_encode(const struct image *image, const struct image_encode_options *options, struct buffer *out,
                  struct error *error) {
    int quality = options->quality < 0 ? 95 : options->quality > 100 ? 100 : options->quality;
    size_t size = (size_t)image->width * (size_t)image->height * 3;
    if (options->format == IMAGE_WEBP && (image->width > 16383 || image->height > 16383))
        return error_set(error, ERROR_INPUT, "a webp file holds at most 16383 pixels a side, not %d x %d",
                         image->width, image->height);
    VipsImage *in =
        vips_image_new_from_memory(image->pixels, size, image->width, image->height, 3, VIPS_FORMAT_UCHAR);
    if (!in) return encode_failed(options->format, error);
    in->Type = VIPS_INTERPRETATION_sRGB;
    void *bytes = NULL;
    size_t length = 0;
    int bad;
    switch (options->format) {
    case IMAGE_PNG:
        bad = vips_pngsave_buffer(in, &bytes, &length, "compression", png_effort(options->quality), "filter",
                                  VIPS_FOREIGN_PNG_FILTER_ALL, "strip", TRUE, NULL);
        break;
    case IMAGE_JPEG: // libvips subsamples colour below a quality of 90
        bad = vips_jpegsave_buffer(in, &bytes, &length, "Q", quality < 1 ? 1 : quality, "optimize_coding",
                                   TRUE, "strip", TRUE, NULL);
        break;
    case IMAGE_WEBP:
        bad = vips_webpsave_buffer(in, &bytes, &length, "Q", quality, "strip", TRUE, NULL);
        break;
    default:
        g_object_unref(in);
        return error_set(error, ERROR_UNSUPPORTED, "pictures are written as png, jpeg or webp, not as %s",
                         image_format_name(options->format));
    }
    g_object_unref(in);
    bool good = !bad || encode_failed(options->format, error);
    if (good) good = metadata_insert(options->format, bytes, length, image, &options->metadata, out, error);
    g_free(bytes);
    return good;
}
