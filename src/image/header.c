// What a picture file says of itself in its first bytes: format, width, height. Every read is bounds-checked and nothing
// is decoded, so the server may ask this of bytes from anywhere. Relies on image.h.
#include "image/image.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct {
    enum image_format format;
    const char *name, *mime;
} FORMATS[] = {
    {IMAGE_PNG, "png", "image/png"}, {IMAGE_JPEG, "jpeg", "image/jpeg"}, {IMAGE_WEBP, "webp", "image/webp"},
    {IMAGE_GIF, "gif", "image/gif"}, {IMAGE_AVIF, "avif", "image/avif"},
};

const char *image_format_name(enum image_format format) {
    for (size_t i = 0; i < sizeof FORMATS / sizeof *FORMATS; i++)
        if (FORMATS[i].format == format) return FORMATS[i].name;
    return "unknown";
}

const char *image_format_mime(enum image_format format) {
    for (size_t i = 0; i < sizeof FORMATS / sizeof *FORMATS; i++)
        if (FORMATS[i].format == format) return FORMATS[i].mime;
    return "application/octet-stream";
}

enum image_format image_format_from_name(const char *name) {
    if (!name) return IMAGE_UNKNOWN;
    if (!strcasecmp(name, "jpg")) return IMAGE_JPEG;
    for (size_t i = 0; i < sizeof FORMATS / sizeof *FORMATS; i++)
        if (!strcasecmp(name, FORMATS[i].name)) return FORMATS[i].format;
    return IMAGE_UNKNOWN;
}

bool image_alloc(struct image *image, int width, int height, struct error *error) {
    *image = (struct image){0};
    if (width < 1 || height < 1)
        return error_set(error, ERROR_INTERNAL, "a picture of %d x %d pixels cannot be", width, height);
    if ((size_t)width > SIZE_MAX / 3 / (size_t)height ||
        !(image->pixels = malloc((size_t)width * (size_t)height * 3)))
        return error_set(error, ERROR_MEMORY, "no memory for a picture of %d x %d pixels", width, height);
    image->width = width;
    image->height = height;
    return true;
}

void image_free(struct image *image) {
    if (!image) return;
    free(image->pixels);
    *image = (struct image){0};
}

// The bytes in hand; every access goes through has().
struct bytes {
    const uint8_t *data;
    size_t size;
};

static bool has(struct bytes b, size_t at, size_t count) {
    return at <= b.size && count <= b.size - at;
}

static uint32_t be16(struct bytes b, size_t at) {
    return (uint32_t)b.data[at] << 8 | b.data[at + 1];
}

static uint32_t be32(struct bytes b, size_t at) {
    return be16(b, at) << 16 | be16(b, at + 2);
}

static uint32_t le16(struct bytes b, size_t at) {
    return (uint32_t)b.data[at + 1] << 8 | b.data[at];
}

static uint32_t le24(struct bytes b, size_t at) {
    return (uint32_t)b.data[at + 2] << 16 | le16(b, at);
}

static bool is(struct bytes b, size_t at, const char *text, size_t length) {
    return has(b, at, length) && !memcmp(b.data + at, text, length);
}

static uint32_t le32(struct bytes b, size_t at) {
    return le24(b, at) | (uint32_t)b.data[at + 3] << 24;
}

// The orientation in a TIFF block (TIFF 6.0; EXIF 2.32): tag 0x0112, a SHORT of the first directory. 1 where there is none.
static int read_orientation(struct bytes b, size_t from, size_t to) {
    struct bytes tiff = {b.data + from, to - from};
    bool little = is(tiff, 0, "II*\0", 4);
    if ((!little && !is(tiff, 0, "MM\0*", 4)) || !has(tiff, 0, 8)) return 1;
    size_t at = little ? le32(tiff, 4) : be32(tiff, 4);
    if (!has(tiff, at, 2)) return 1;
    size_t count = little ? le16(tiff, at) : be16(tiff, at);
    for (size_t i = 0; i < count; i++) {
        size_t entry = at + 2 + 12 * i;
        if (!has(tiff, entry, 12)) return 1;
        uint32_t tag = little ? le16(tiff, entry) : be16(tiff, entry);
        uint32_t type = little ? le16(tiff, entry + 2) : be16(tiff, entry + 2);
        uint32_t value = little ? le16(tiff, entry + 8) : be16(tiff, entry + 8);
        if (tag == 0x0112 && type == 3) return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}

static bool set_size(struct image_header *header, uint32_t width, uint32_t height, struct error *error) {
    if (width == 0 || height == 0 || width > INT32_MAX || height > INT32_MAX)
        return error_set(error, ERROR_INPUT, "the %s header says %u x %u pixels",
                         image_format_name(header->format), (unsigned)width, (unsigned)height);
    header->width = (int)width;
    header->height = (int)height;
    return true;
}

static bool cut_short(const struct image_header *header, struct error *error) {
    return error_set(error, ERROR_INPUT, "the %s file ends within its header",
                     image_format_name(header->format));
}

// PNG, third edition, 11.2.1: the signature, then the IHDR chunk.
static bool read_png(struct bytes b, struct image_header *header, struct error *error) {
    if (!has(b, 0, 24)) return cut_short(header, error);
    if (!is(b, 12, "IHDR", 4) || be32(b, 8) != 13)
        return error_set(error, ERROR_INPUT, "the png file does not begin with an IHDR chunk");
    for (size_t at = 8; has(b, at, 12);) { // length, type, data, checksum
        size_t length = be32(b, at);
        if (!has(b, at + 12, length)) break;
        if (is(b, at + 4, "eXIf", 4)) header->orientation = read_orientation(b, at + 8, at + 8 + length);
        at += 12 + length;
    }
    return set_size(header, be32(b, 16), be32(b, 20), error);
}

// Gives the next marker behind *at and steps over it; 0 at the end. Stray bytes between segments are skipped, as decoders do.
static uint8_t next_marker(struct bytes b, size_t *at) {
    for (;;) {
        while (has(b, *at, 1) && b.data[*at] != 0xff) ++*at;
        while (has(b, *at, 1) && b.data[*at] == 0xff) ++*at;
        if (!has(b, *at, 1)) return 0;
        uint8_t marker = b.data[(*at)++];
        if (marker != 0x00 && marker != 0x01 && (marker < 0xd0 || marker > 0xd8)) return marker;
    }
}

// ITU-T T.81 B.1.1: segments up to the data; the frame header is one of SOF0 to SOF15 (without DHT, JPG, DAC), EXIF an
// APP1 segment.
static bool read_jpeg(struct bytes b, struct image_header *header, struct error *error) {
    size_t at = 2, frame = 0;
    bool oriented = false;
    for (;;) {
        uint8_t marker = next_marker(b, &at);
        bool last = marker == 0xd9 || marker == 0xda; // end of the picture, beginning of its data
        if (last && !frame)
            return error_set(error, ERROR_INPUT, "the jpeg file has no frame header before its data");
        size_t length = !marker || last || !has(b, at, 2) ? 0 : be16(b, at);
        if (marker && !last && has(b, at, 2) && length < 2 && !frame)
            return error_set(error, ERROR_INPUT, "the jpeg file has a segment of length %zu", length);
        if (length < 2) break;
        bool is_frame =
            marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
        if (is_frame && !frame) {
            if (!has(b, at, 7)) return cut_short(header, error);
            frame = at;
        }
        if (!has(b, at, length)) break;
        if (marker == 0xe1 && !oriented && length >= 8 && is(b, at + 2, "Exif\0\0", 6)) {
            header->orientation = read_orientation(b, at + 8, at + length);
            oriented = true;
        }
        at += length;
    }
    if (!frame) return cut_short(header, error);
    return set_size(header, be16(b, frame + 5), be16(b, frame + 3), error);
}

// RFC 9649: RIFF, WEBP, then a VP8, VP8L or VP8X chunk.
static bool read_webp(struct bytes b, struct image_header *header, struct error *error) {
    bool lossless = is(b, 12, "VP8L", 4);
    if (!has(b, 0, lossless ? 25 : 30)) return cut_short(header, error);
    if (is(b, 12, "VP8X", 4)) {
        for (size_t at = 12; has(b, at, 8);) {
            size_t length = le32(b, at + 4), from = at + 8;
            if (!has(b, from, length)) break;
            size_t skip = length >= 6 && is(b, from, "Exif\0\0", 6) ? 6 : 0; // some writers put it there too
            if (is(b, at, "EXIF", 4)) header->orientation = read_orientation(b, from + skip, from + length);
            at = from + length + (length & 1);
        }
        return set_size(header, le24(b, 24) + 1, le24(b, 27) + 1, error);
    }
    if (lossless) {
        if (b.data[20] != 0x2f)
            return error_set(error, ERROR_INPUT, "the webp file has a bad VP8L signature");
        uint32_t bits = le24(b, 21) | (uint32_t)b.data[24] << 24;
        return set_size(header, (bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1, error);
    }
    if (is(b, 12, "VP8 ", 4)) {
        if (!is(b, 23, "\x9d\x01\x2a", 3))
            return error_set(error, ERROR_INPUT, "the webp file does not begin with a key frame");
        return set_size(header, le16(b, 26) & 0x3fff, le16(b, 28) & 0x3fff, error);
    }
    return error_set(error, ERROR_INPUT, "the webp file has no VP8, VP8L or VP8X chunk in front");
}

// GIF89a, section 18: the logical screen descriptor.
static bool read_gif(struct bytes b, struct image_header *header, struct error *error) {
    if (!has(b, 0, 10)) return cut_short(header, error);
    return set_size(header, le16(b, 6), le16(b, 8), error);
}

// Boxes (ISO/IEC 14496-12) within [at, end): finds the first one of a type and gives its content; false: none, or one whose
// size does not fit.
static bool find_box(struct bytes b, size_t at, size_t end, const char *type, size_t *from, size_t *to) {
    while (at <= end && end - at >= 8) {
        uint64_t size = be32(b, at);
        size_t head = 8;
        if (size == 1) {
            if (end - at < 16) return false;
            size = (uint64_t)be32(b, at + 8) << 32 | be32(b, at + 12);
            head = 16;
        } else if (size == 0) {
            size = end - at;
        }
        if (size < head || size > end - at) return false;
        if (is(b, at + 4, type, 4)) {
            *from = at + head;
            *to = at + (size_t)size;
            return true;
        }
        at += (size_t)size;
    }
    return false;
}

// AVIF (ISO/IEC 23000-22): ftyp, then meta / iprp / ipco / ispe. Where there are several (tiles, alpha) the largest counts.
static bool read_avif(struct bytes b, struct image_header *header, struct error *error) {
    size_t from, to;
    if (!find_box(b, 0, b.size, "meta", &from, &to) || to - from < 4 ||
        !find_box(b, from + 4, to, "iprp", &from, &to) || !find_box(b, from, to, "ipco", &from, &to))
        return error_set(error, ERROR_INPUT, "the avif file has no item properties (meta, iprp, ipco)");
    uint32_t width = 0, height = 0;
    size_t at = from, end = to;
    while (find_box(b, at, end, "ispe", &from, &to)) {
        if (to - from < 12) break;
        uint32_t w = be32(b, from + 4), h = be32(b, from + 8);
        if ((uint64_t)w * h > (uint64_t)width * height) width = w, height = h;
        at = to;
    }
    return set_size(header, width, height, error);
}

static bool is_avif(struct bytes b) {
    if (!is(b, 4, "ftyp", 4) || !has(b, 0, 16)) return false;
    size_t end = be32(b, 0);
    if (end > b.size) end = b.size;
    for (size_t at = 8; at + 4 <= end;
         at += at == 8 ? 8 : 4) // the major brand, its version, compatible brands
        if (is(b, at, "avif", 4) || is(b, at, "avis", 4)) return true;
    return false;
}

static bool read_header(struct bytes b, struct image_header *header, struct error *error) {
    *header = (struct image_header){.orientation = 1};
    if (b.size == 0) return error_set(error, ERROR_INPUT, "the picture is empty");
    if (is(b, 0, "\x89PNG\r\n\x1a\n", 8)) {
        header->format = IMAGE_PNG;
        return read_png(b, header, error);
    }
    if (is(b, 0, "\xff\xd8\xff", 3)) {
        header->format = IMAGE_JPEG;
        return read_jpeg(b, header, error);
    }
    if (is(b, 0, "RIFF", 4) && is(b, 8, "WEBP", 4)) {
        header->format = IMAGE_WEBP;
        return read_webp(b, header, error);
    }
    if (is(b, 0, "GIF87a", 6) || is(b, 0, "GIF89a", 6)) {
        header->format = IMAGE_GIF;
        return read_gif(b, header, error);
    }
    if (is_avif(b)) {
        header->format = IMAGE_AVIF;
        return read_avif(b, header, error);
    }
    return error_set(error, ERROR_INPUT, "not a picture in a known format (expected PNG, JPEG or WebP)");
}

bool image_read_header(const void *data, size_t size, struct image_header *header, struct error *error) {
    if (!read_header((struct bytes){data, data ? size : 0}, header, error)) return false;
    if (header->orientation >= 5) {
        int width = header->width;
        header->width = header->height;
        header->height = width;
    }
    return true;
}
