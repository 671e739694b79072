// Pictures from bytes, as Pillow's convert("RGB") gives them. libvips decodes; which loader may run is decided by the header
// that header.c read, and every other operation of libvips that touches files is blocked. Relies on image.h, libvips.
#include "image/image.h"

#include <stdlib.h>
#include <string.h>
#include <vips/vips.h>

#define SIDE_MOST   32768
#define PIXELS_MOST (64LL * 1024 * 1024)
#define STRIP_ROWS  64 // rows taken from the loader at a time

// libvips warns about files on standard error; what matters comes back as an error.
static void drop_message(const gchar *domain, GLogLevelFlags level, const gchar *message, gpointer user) {
}

bool image_library_start(const char *program, struct error *error) {
    if (VIPS_INIT(program ? program : "limn"))
        return error_set(error, ERROR_INTERNAL, "libvips does not start: %s", vips_error_buffer());
    g_log_set_handler("VIPS", G_LOG_LEVEL_WARNING | G_LOG_LEVEL_INFO | G_LOG_LEVEL_DEBUG, drop_message, NULL);
    g_log_set_handler("libvips", G_LOG_LEVEL_MASK, drop_message, NULL);
    vips_cache_set_max(0);
    vips_concurrency_set(1);
    vips_block_untrusted_set(TRUE);
    vips_operation_block_set("VipsForeignLoad", TRUE);
    vips_operation_block_set("VipsForeignSave", TRUE);
    static const char *const needed[] = {
        "VipsForeignLoadPngBuffer",   "VipsForeignLoadJpegBuffer", "VipsForeignLoadWebpBuffer",
        "VipsForeignLoadNsgifBuffer", "VipsForeignLoadHeifBuffer", "VipsForeignSavePngBuffer",
        "VipsForeignSaveJpegBuffer",  "VipsForeignSaveWebpBuffer", "VipsForeignSaveCgifBuffer",
        "VipsForeignSaveHeifBuffer",
    };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) vips_operation_block_set(needed[i], FALSE);
    return true;
}

void image_library_stop(void) {
    vips_shutdown();
}

// Sets [error] from libvips' own, cut to its first line.
static bool vips_failed(const char *name, enum image_format format, struct error *error) {
    char line[256];
    snprintf(line, sizeof line, "%s", vips_error_buffer());
    vips_error_clear();
    line[strcspn(line, "\r\n")] = 0;
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e) *c = '?';
    return error_set(error, ERROR_INPUT, "%s: a damaged or truncated %s file (%s)", name,
                     image_format_name(format), *line ? line : "no reason given");
}

// Whether no chunk of a PNG file claims to be longer than what is left of the file: libpng allocates some as long as they
// claim to be before it reads them.
static bool png_chunks_fit(const uint8_t *bytes, size_t size) {
    for (size_t at = 8; size - at >= 12;) {
        const uint8_t *chunk = bytes + at;
        const size_t length =
            (size_t)chunk[0] << 24 | (size_t)chunk[1] << 16 | (size_t)chunk[2] << 8 | (size_t)chunk[3];
        if (length > size - at - 12) return false;
        if (!memcmp(chunk + 4, "IEND", 4)) return true;
        at += 12 + length;
    }
    return true;
}

static VipsImage *open_loader(enum image_format format, const void *data, size_t size) {
    VipsImage *image = NULL;
    void *bytes = (void *)data; // the loaders do not write to it
    int bad = -1;
    vips_error_clear();
    switch (format) {
    case IMAGE_PNG:
        if (!png_chunks_fit(data, size)) {
            vips_error("png", "a chunk is longer than the rest of the file");
            break;
        }
        bad = vips_pngload_buffer(bytes, size, &image, "access", VIPS_ACCESS_SEQUENTIAL, "fail_on",
                                  VIPS_FAIL_ON_ERROR, NULL);
        break;
    case IMAGE_JPEG:
        bad = vips_jpegload_buffer(bytes, size, &image, "access", VIPS_ACCESS_SEQUENTIAL, "fail_on",
                                   VIPS_FAIL_ON_ERROR, NULL);
        break;
    case IMAGE_WEBP:
        bad = vips_webpload_buffer(bytes, size, &image, "access", VIPS_ACCESS_SEQUENTIAL, "fail_on",
                                   VIPS_FAIL_ON_ERROR, NULL);
        break;
    case IMAGE_GIF:
        bad = vips_gifload_buffer(bytes, size, &image, "access", VIPS_ACCESS_SEQUENTIAL, "fail_on",
                                  VIPS_FAIL_ON_ERROR, NULL);
        break;
    case IMAGE_AVIF:
        bad = vips_heifload_buffer(bytes, size, &image, "access", VIPS_ACCESS_SEQUENTIAL, "fail_on",
                                   VIPS_FAIL_ON_ERROR, NULL);
        break;
    case IMAGE_UNKNOWN:
        break;
    }
    return bad ? NULL : image;
}

// How one row of samples becomes RGB.
struct row_kind {
    int bands; // samples a pixel: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha or CMYK
    bool wide; // 16 bits a sample
    bool clip; // Pillow's way with 16-bit grey: values above 255 become 255; else the high byte is taken
    bool cmyk; // of CMYK, 255 is full ink
};

static uint8_t sample(const void *row, size_t index, const struct row_kind *kind) {
    if (!kind->wide) return ((const uint8_t *)row)[index];
    uint16_t value = ((const uint16_t *)row)[index];
    if (kind->clip) return value > 255 ? 255 : (uint8_t)value;
    return (uint8_t)(value >> 8);
}

// a * b / 255, rounded, as Pillow's MULDIV255.
static int mul_div_255(int a, int b) {
    int t = a * b + 128;
    return ((t >> 8) + t) >> 8;
}

static void row_to_rgb(const void *row, int width, const struct row_kind *kind, uint8_t *rgb) {
    if (!kind->wide && !kind->cmyk && kind->bands == 3) {
        memcpy(rgb, row, (size_t)width * 3);
        return;
    }
    size_t bands = (size_t)kind->bands;
    for (size_t x = 0; x < (size_t)width; x++, rgb += 3) {
        if (kind->cmyk) { // Pillow: 255 - K, less the ink's share of it
            int white = 255 - sample(row, x * bands + 3, kind);
            for (size_t c = 0; c < 3; c++) {
                int value = white - mul_div_255(sample(row, x * bands + c, kind), white);
                rgb[c] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
            }
        } else {
            for (size_t c = 0; c < 3; c++) rgb[c] = sample(row, x * bands + (bands >= 3 ? c : 0), kind);
        }
    }
}

static bool row_kind_of(VipsImage *in, const uint8_t *data, size_t size, enum image_format format,
                        const char *name, struct row_kind *kind, struct error *error) {
    VipsBandFormat sample_format = vips_image_get_format(in);
    *kind = (struct row_kind){.bands = vips_image_get_bands(in), .wide = sample_format == VIPS_FORMAT_USHORT};
    kind->cmyk = kind->bands == 4 && vips_image_get_interpretation(in) == VIPS_INTERPRETATION_CMYK;
    // PNG's IHDR: bit depth and colour type; 16 and 0 is grey without alpha.
    kind->clip = format == IMAGE_PNG && size > 25 && data[24] == 16 && data[25] == 0;
    if ((sample_format == VIPS_FORMAT_UCHAR || kind->wide) && kind->bands >= 1 && kind->bands <= 4)
        return true;
    return error_set(error, ERROR_UNSUPPORTED, "%s: a %s file of %d channels of type %s is not supported",
                     name, image_format_name(format), kind->bands,
                     vips_enum_nick(VIPS_TYPE_BAND_FORMAT, (int)sample_format));
}

static bool read_rows(VipsImage *in, const struct row_kind *kind, struct image *image) {
    VipsRegion *region = vips_region_new(in);
    bool good = region != NULL;
    for (int y = 0; good && y < image->height; y += STRIP_ROWS) {
        int rows = image->height - y < STRIP_ROWS ? image->height - y : STRIP_ROWS;
        VipsRect rect = {0, y, image->width, rows};
        good = vips_region_prepare(region, &rect) == 0;
        for (int i = 0; good && i < rows; i++)
            row_to_rgb(VIPS_REGION_ADDR(region, 0, y + i), image->width, kind,
                       image->pixels + (size_t)(y + i) * (size_t)image->width * 3);
    }
    if (region) g_object_unref(region);
    return good;
}

// EXIF orientation 2 to 8 (TIFF 6.0, page 36): where the pixel (x, y) of the upright picture is in the stored one.
static bool make_upright(struct image *image, int orientation, struct error *error) {
    if (orientation < 2 || orientation > 8) return true;
    bool turned = orientation >= 5;
    int w = image->width, h = image->height;
    struct image upright;
    if (!image_alloc(&upright, turned ? h : w, turned ? w : h, error)) return false;
    for (int y = 0; y < upright.height; y++) {
        for (int x = 0; x < upright.width; x++) {
            int sx = turned ? y : x, sy = turned ? x : y;
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) sx = w - 1 - sx;
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) sy = h - 1 - sy;
            memcpy(upright.pixels + ((size_t)y * (size_t)upright.width + (size_t)x) * 3,
                   image->pixels + ((size_t)sy * (size_t)w + (size_t)sx) * 3, 3);
        }
    }
    image_free(image);
    *image = upright;
    return true;
}

static bool check_size(const char *name, int64_t width, int64_t height, int64_t pixels_most,
                       struct error *error) {
    if (width > SIDE_MOST || height > SIDE_MOST)
        return error_set(error, ERROR_INPUT, "%s: %lld x %lld pixels, expected at most %d a side", name,
                         (long long)width, (long long)height, SIDE_MOST);
    if (width * height > pixels_most)
        return error_set(error, ERROR_INPUT,
                         "%s: %lld x %lld pixels are %.1f megapixels, expected at most %.1f", name,
                         (long long)width, (long long)height, (double)(width * height) / 1048576,
                         (double)pixels_most / 1048576);
    return true;
}

// Opens what the header says it is, and holds its size against the limits.
static VipsImage *open_checked(const char *name, const void *data, size_t size, int64_t pixels_most,
                               struct image_header *header, struct error *error) {
    struct error cause = {0};
    if (pixels_most <= 0) pixels_most = PIXELS_MOST;
    if (!image_read_header(data, size, header, &cause)) {
        error_set(error, cause.kind, "%s: %s", name, cause.message);
        return NULL;
    }
    if (!check_size(name, header->width, header->height, pixels_most, error)) return NULL;
    VipsImage *in = open_loader(header->format, data, size);
    if (!in) {
        vips_failed(name, header->format, error);
        return NULL;
    }
    // The size is asked again: a file may have a header for limn and another one for the loader.
    if (check_size(name, vips_image_get_width(in), vips_image_get_height(in), pixels_most, error)) return in;
    g_object_unref(in);
    return NULL;
}

bool image_decode(const char *name, const void *data, size_t size, int64_t pixels_most,
                  bool apply_orientation, struct image *image, struct error *error) {
    *image = (struct image){0};
    struct image_header header;
    VipsImage *in = open_checked(name, data, size, pixels_most, &header, error);
    if (!in) return false;
    int width = vips_image_get_width(in), height = vips_image_get_height(in);
    int orientation = apply_orientation ? vips_image_get_orientation(in) : 1;
    struct row_kind kind;
    bool good = row_kind_of(in, data, size, header.format, name, &kind, error) &&
                (image_alloc(image, width, height, error) || error_prefix(error, "%s", name)) &&
                (read_rows(in, &kind, image) || vips_failed(name, header.format, error)) &&
                make_upright(image, orientation, error);
    g_object_unref(in);
    vips_error_clear();
    if (!good) image_free(image);
    return good;
}

void image_alpha_free(struct image_alpha *alpha) {
    if (!alpha) return;
    free(alpha->values);
    *alpha = (struct image_alpha){0};
}

static bool read_alpha(VipsImage *in, const struct row_kind *kind, struct image_alpha *alpha) {
    VipsRegion *region = vips_region_new(in);
    bool good = region != NULL;
    size_t bands = (size_t)kind->bands;
    for (int y = 0; good && y < alpha->height; y += STRIP_ROWS) {
        int rows = alpha->height - y < STRIP_ROWS ? alpha->height - y : STRIP_ROWS;
        VipsRect rect = {0, y, alpha->width, rows};
        good = vips_region_prepare(region, &rect) == 0;
        for (int i = 0; good && i < rows; i++) {
            const void *row = VIPS_REGION_ADDR(region, 0, y + i);
            uint8_t *to = alpha->values + (size_t)(y + i) * (size_t)alpha->width;
            for (size_t x = 0; x < (size_t)alpha->width; x++)
                to[x] = sample(row, x * bands + bands - 1, kind);
        }
    }
    if (region) g_object_unref(region);
    return good;
}

bool image_decode_alpha(const char *name, const void *data, size_t size, int64_t pixels_most,
                        struct image_alpha *alpha, struct error *error) {
    *alpha = (struct image_alpha){0};
    struct image_header header;
    VipsImage *in = open_checked(name, data, size, pixels_most, &header, error);
    if (!in) return false;
    struct row_kind kind;
    bool good = row_kind_of(in, data, size, header.format, name, &kind, error);
    if (good && (kind.cmyk || (kind.bands != 2 && kind.bands != 4)))
        good = error_set(error, ERROR_INPUT,
                         "%s: the picture has no alpha channel, expected transparent pixels in it", name);
    kind.clip = false;
    if (good) {
        *alpha = (struct image_alpha){vips_image_get_width(in), vips_image_get_height(in), NULL};
        alpha->values = malloc((size_t)alpha->width * (size_t)alpha->height);
        good = alpha->values || error_set(error, ERROR_MEMORY, "%s: no memory for its pixels", name);
    }
    good = good && (read_alpha(in, &kind, alpha) || vips_failed(name, header.format, error));
    g_object_unref(in);
    vips_error_clear();
    if (!good) image_alpha_free(alpha);
    return good;
}
