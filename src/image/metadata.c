// EXIF, text and comment blocks, written by hand into the containers: libvips would take them through libexif, which adds
// fields of its own. Relies on metadata.h.
#include "image/metadata.h"

#include <stdlib.h>
#include <string.h>

static bool given(const char *text) {
    return text && *text;
}

static bool add_number(struct buffer *out, uint32_t value, int bytes, bool big) {
    uint8_t b[4];
    for (int i = 0; i < bytes; i++) b[i] = (uint8_t)(value >> 8 * (big ? bytes - 1 - i : i));
    return buffer_add(out, b, (size_t)bytes);
}

// A TIFF block (TIFF 6.0; EXIF 2.32), little-endian: one directory of ASCII fields in the order of their tags.
static bool build_exif(const struct image_metadata *metadata, struct buffer *out) {
    const struct {
        uint32_t tag;
        const char *text;
    } fields[] = {
        {0x010e, metadata->comment}, // ImageDescription
        {0x010f, metadata->make},
        {0x0131, metadata->software},
    };
    enum { COUNT = sizeof fields / sizeof *fields };
    uint32_t count = 0;
    for (int i = 0; i < COUNT; i++) count += given(fields[i].text);
    uint32_t at = 8 + 2 + 12 * count + 4; // where the texts begin
    bool good = buffer_add(out, "II*\0\x08\0\0\0", 8) && add_number(out, count, 2, false);
    for (int i = 0; good && i < COUNT; i++) {
        if (!given(fields[i].text)) continue;
        uint32_t length = (uint32_t)strlen(fields[i].text) + 1;
        good = add_number(out, fields[i].tag, 2, false) && add_number(out, 2, 2, false) &&
               add_number(out, length, 4, false);
        if (good && length <= 4) { // fits into the entry itself
            char value[4] = {0};
            memcpy(value, fields[i].text, length);
            good = buffer_add(out, value, 4);
        } else if (good) {
            good = add_number(out, at, 4, false);
            at += length;
        }
    }
    good = good && add_number(out, 0, 4, false); // no further directory
    for (int i = 0; good && i < COUNT; i++) {
        if (!given(fields[i].text) || strlen(fields[i].text) + 1 <= 4) continue;
        good = buffer_add(out, fields[i].text, strlen(fields[i].text) + 1);
    }
    return good;
}

bool metadata_given(const struct image_metadata *metadata) {
    return given(metadata->comment) || given(metadata->make) || given(metadata->software);
}

bool metadata_exif(const struct image_metadata *metadata, struct buffer *out) {
    return buffer_add(out, "Exif\0\0", 6) && build_exif(metadata, out);
}

// The checksum of PNG chunks (PNG, annex D).
static uint32_t crc32_png(uint32_t crc, const void *data, size_t size) {
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320u ^ crc >> 1 : crc >> 1;
    }
    return crc;
}

static bool add_png_chunk(struct buffer *out, const char *type, const void *data, size_t size) {
    uint32_t crc = ~crc32_png(crc32_png(0xffffffffu, type, 4), data, size);
    return add_number(out, (uint32_t)size, 4, true) && buffer_add(out, type, 4) &&
           buffer_add(out, data, size) && add_number(out, crc, 4, true);
}

// The chunks go right behind IHDR: signature 8, length 4, type 4, data 13, checksum 4.
static bool insert_png(const uint8_t *file, size_t size, const struct buffer *exif, const char *comment,
                       struct buffer *out) {
    const size_t head = 33;
    if (size < head) return false;
    struct buffer text = {0};
    bool good = buffer_add(out, file, head) && add_png_chunk(out, "eXIf", exif->data, exif->length);
    if (good && given(comment)) // keyword, 0, not compressed, no language, no translated keyword, text
        good = buffer_add(&text, "Comment\0\0\0\0\0", 12) && buffer_add_string(&text, comment) &&
               add_png_chunk(out, "iTXt", text.data, text.length);
    buffer_free(&text);
    return good && buffer_add(out, file + head, size - head);
}

// An APP1 segment takes the place of JFIF's APP0, or comes right behind it.
static bool insert_jpeg(const uint8_t *file, size_t size, const struct buffer *exif, struct buffer *out) {
    size_t head = 2;
    if (size < 6) return false;
    if (file[2] == 0xff && file[3] == 0xe0) head = 4 + ((size_t)file[4] << 8 | file[5]);
    if (head > size || exif->length + 8 > 0xffff) return false;
    return buffer_add(out, file, head) && buffer_add(out, "\xff\xe1", 2) &&
           add_number(out, (uint32_t)exif->length + 8, 2, true) && buffer_add(out, "Exif\0\0", 6) &&
           buffer_add(out, exif->data, exif->length) && buffer_add(out, file + head, size - head);
}

// RFC 9649: a file with EXIF begins with a VP8X chunk (flags, then the sides less one); the alpha chunk, the picture's and EXIF
// follow. The file is put together anew, because libvips writes an EXIF chunk of its own into some.
static bool insert_webp(const uint8_t *file, size_t size, const struct image *image, bool has_alpha,
                        const struct buffer *exif, struct buffer *out) {
    enum { HAS_EXIF = 0x08, HAS_ALPHA = 0x10 };
    struct buffer chunks = {0};
    bool good = size >= 12, found = false;
    for (size_t at = 12; good && !found && at + 8 <= size;) {
        size_t length = (size_t)file[at + 4] | (size_t)file[at + 5] << 8 | (size_t)file[at + 6] << 16 |
                        (size_t)file[at + 7] << 24;
        size_t chunk = 8 + length + (length & 1);
        good = chunk <= size - at;
        if (!good) break;
        found = !memcmp(file + at, "VP8 ", 4) || !memcmp(file + at, "VP8L", 4);
        if (found || !memcmp(file + at, "ALPH", 4)) good = buffer_add(&chunks, file + at, chunk);
        at += chunk;
    }
    size_t padded = exif->length + (exif->length & 1);
    good = good && found && buffer_add(out, "RIFF", 4) &&
           add_number(out, (uint32_t)(4 + 18 + chunks.length + 8 + padded), 4, false) &&
           buffer_add(out, "WEBPVP8X", 8) && add_number(out, 10, 4, false) &&
           add_number(out, has_alpha ? HAS_EXIF | HAS_ALPHA : HAS_EXIF, 4, false) &&
           add_number(out, (uint32_t)image->width - 1, 3, false) &&
           add_number(out, (uint32_t)image->height - 1, 3, false) &&
           buffer_add(out, chunks.data, chunks.length) && buffer_add(out, "EXIF", 4) &&
           add_number(out, (uint32_t)exif->length, 4, false) && buffer_add(out, exif->data, exif->length) &&
           (padded == exif->length || buffer_add(out, "", 1));
    buffer_free(&chunks);
    return good;
}

// GIF89a, section 24: a comment extension, in pieces of at most 255 bytes; behind the screen descriptor and its colour table.
static bool insert_gif(const uint8_t *file, size_t size, const struct image_metadata *metadata,
                       struct buffer *out) {
    if (size < 13) return false;
    size_t head = 13 + (file[10] & 0x80 ? (size_t)3 << ((file[10] & 7) + 1) : 0);
    const char *const lines[] = {metadata->software, metadata->make, metadata->comment};
    struct buffer text = {0};
    bool good = head <= size && buffer_add(out, file, head) && buffer_add(out, "\x21\xfe", 2);
    for (size_t i = 0; good && i < sizeof lines / sizeof *lines; i++)
        if (given(lines[i])) good = buffer_printf(&text, "%s%s", text.length ? "\n" : "", lines[i]);
    for (size_t at = 0; good && at < text.length;) {
        size_t piece = text.length - at < 255 ? text.length - at : 255;
        good = add_number(out, (uint32_t)piece, 1, false) && buffer_add(out, text.data + at, piece);
        at += piece;
    }
    buffer_free(&text);
    return good && buffer_add(out, "", 1) && buffer_add(out, file + head, size - head);
}

bool metadata_insert(enum image_format format, const void *file, size_t size, const struct image *image,
                     bool has_alpha, const struct image_metadata *metadata, struct buffer *out,
                     struct error *error) {
    if (!metadata_given(metadata))
        return buffer_add(out, file, size) ||
               error_set(error, ERROR_MEMORY, "no memory for the picture's file");
    struct buffer exif = {0};
    size_t before = out->length;
    bool good = build_exif(metadata, &exif);
    if (good) {
        switch (format) {
        case IMAGE_PNG:
            good = insert_png(file, size, &exif, metadata->comment, out);
            break;
        case IMAGE_JPEG:
            good = insert_jpeg(file, size, &exif, out);
            break;
        case IMAGE_WEBP:
            good = insert_webp(file, size, image, has_alpha, &exif, out);
            break;
        case IMAGE_GIF:
            good = insert_gif(file, size, metadata, out);
            break;
        default:
            good = false;
            break;
        }
    }
    buffer_free(&exif);
    if (good) return true;
    out->length = before;
    return error_set(error, ERROR_INTERNAL, "the metadata cannot be put into the %s file",
                     image_format_name(format));
}
