// Pictures: decoded as Pillow decodes them (fixtures of tests/fixtures/image), hostile files refused with one clear line,
// encoded with metadata and read back.
#include "base/file.h"
#include "image/image.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define FIXTURES LIMN_SOURCE_DIR "/tests/fixtures/image/"

static char *read_fixture(const char *name, size_t *size) {
    char path[512];
    snprintf(path, sizeof path, FIXTURES "%s", name);
    char *data;
    struct error error = {0};
    if (!file_read(path, 1 << 24, &data, size, &error)) fail_msg("%s", error.message);
    return data;
}

static uint32_t le32(const char *bytes) {
    const uint8_t *b = (const uint8_t *)bytes;
    return (uint32_t)b[3] << 24 | (uint32_t)b[2] << 16 | (uint32_t)b[1] << 8 | b[0];
}

static void test_as_pillow(void **state) {
    DIR *folder = opendir(FIXTURES);
    assert_non_null(folder);
    int compared = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char name[256];
        size_t length = strlen(entry->d_name);
        if (length < 5 || length >= sizeof name || strcmp(entry->d_name + length - 4, ".rgb")) continue;
        snprintf(name, sizeof name, "%.*s", (int)length - 4, entry->d_name);
        size_t size, wanted_size;
        char *data = read_fixture(name, &size), *wanted = read_fixture(entry->d_name, &wanted_size);
        struct image image;
        struct error error = {0};
        if (!image_decode(name, data, size, 0, true, &image, &error)) fail_msg("%s", error.message);
        if (image.width != (int)le32(wanted) || image.height != (int)le32(wanted + 4))
            fail_msg("%s: %d x %d, expected %u x %u", name, image.width, image.height, le32(wanted),
                     le32(wanted + 4));
        assert_int_equal(wanted_size, 8 + (size_t)image.width * (size_t)image.height * 3);
        // A JPEG decoder of another version may round otherwise.
        int tolerance = strstr(name, ".jpg") ? 2 : strstr(name, "lossy.webp") ? 1 : 0, most = 0;
        for (size_t i = 8; i < wanted_size; i++) {
            int off = abs((int)(uint8_t)wanted[i] - image.pixels[i - 8]);
            if (off > most) most = off;
        }
        if (most > tolerance) fail_msg("%s: a value is off by %d", name, most);
        image_free(&image);
        free(data);
        free(wanted);
        compared++;
    }
    closedir(folder);
    assert_int_equal(compared, 29);
}

static void test_headers(void **state) {
    static const struct {
        const char *name;
        enum image_format format;
    } files[] = {{"rgb.png", IMAGE_PNG},     {"rgb.jpg", IMAGE_JPEG},       {"progressive.jpg", IMAGE_JPEG},
                 {"lossy.webp", IMAGE_WEBP}, {"lossless.webp", IMAGE_WEBP}, {"animated.webp", IMAGE_WEBP},
                 {"animated.gif", IMAGE_GIF}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        size_t size;
        char *data = read_fixture(files[i].name, &size);
        struct image_header header;
        struct error error = {0};
        assert_true(image_read_header(data, size, &header, &error));
        assert_int_equal(header.format, files[i].format);
        assert_int_equal(header.width, 19);
        assert_int_equal(header.height, 13);
        free(data);
    }
    // AVIF: ftyp, meta / iprp / ipco with two ispe, of which the larger counts.
    static const char avif[] = "\0\0\0\x14"
                               "ftypavif\0\0\0\0avif"
                               "\0\0\0\x44"
                               "meta\0\0\0\0"
                               "\0\0\0\x38"
                               "iprp"
                               "\0\0\0\x30"
                               "ipco"
                               "\0\0\0\x14"
                               "ispe\0\0\0\0\0\0\0\x40\0\0\0\x20"
                               "\0\0\0\x14"
                               "ispe\0\0\0\0\0\0\x02\0\0\0\x01\0";
    struct image_header header;
    struct error error = {0};
    assert_true(image_read_header(avif, sizeof avif - 1, &header, &error));
    assert_int_equal(header.format, IMAGE_AVIF);
    assert_int_equal(header.width, 512);
    assert_int_equal(header.height, 256);
}

// What the header says of a turned file is what the decoder makes of it; cut short, it says what is left to see.
static void test_turned_headers(void **state) {
    static const struct {
        const char *name;
        int orientation;
    } files[] = {{"turned2.jpg", 2}, {"turned3.jpg", 3}, {"turned4.jpg", 4}, {"turned5.jpg", 5},
                 {"turned6.jpg", 6}, {"turned7.jpg", 7}, {"turned8.jpg", 8}, {"turned6.png", 6},
                 {"rgb.jpg", 1},     {"rgb.png", 1}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        size_t size;
        char *data = read_fixture(files[i].name, &size);
        struct image_header header;
        struct image image;
        struct error error = {0};
        assert_true(image_read_header(data, size, &header, &error));
        assert_int_equal(header.orientation, files[i].orientation);
        assert_true(image_decode("x", data, size, 0, true, &image, &error));
        assert_int_equal(header.width, image.width);
        assert_int_equal(header.height, image.height);
        assert_int_equal(image.width, files[i].orientation >= 5 ? 13 : 19);
        image_free(&image);
        for (size_t part = 0; part < size; part++) { // no byte behind the end is read
            char *copy = malloc(part ? part : 1);
            struct error cause = {0};
            assert_non_null(copy);
            memcpy(copy, data, part);
            if (image_read_header(copy, part, &header, &cause))
                assert_int_equal(header.width + header.height, 32);
            free(copy);
        }
        free(data);
    }
    // WebP has its EXIF at the end: a file of our own, whose block is replaced by one with an orientation, both ways round.
    struct image image, back;
    struct error error = {0};
    struct buffer out = {0};
    assert_true(image_alloc(&image, 30, 20, &error));
    memset(image.pixels, 99, 30 * 20 * 3);
    struct image_encode_options options = {
        .format = IMAGE_WEBP,
        .quality = 50,
        .metadata = {.comment = "a comment that makes room for the block"}};
    assert_true(image_encode(&image, &options, &out, &error));
    char *block = memmem(out.data, out.length, "II*", 4);
    assert_non_null(block);
    static const char little[] = "II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0";
    static const char big[] = "MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x08\0\0\0\0\0\0";
    for (int i = 0; i < 2; i++) {
        struct image_header header;
        memcpy(block, i ? big : little, sizeof little - 1);
        assert_true(image_read_header(out.data, out.length, &header, &error));
        assert_int_equal(header.orientation, i ? 8 : 6);
        assert_true(image_decode("x", out.data, out.length, 0, true, &back, &error));
        assert_int_equal(header.width * 100 + header.height, back.width * 100 + back.height);
        assert_int_equal(back.width, 20);
        image_free(&back);
    }
    buffer_free(&out);
    image_free(&image);
}

// Decodes what must fail; the message must be one line that begins with the name and holds [part].
static void expect_refusal(const void *data, size_t size, int64_t pixels_most, const char *part) {
    struct image image;
    struct error error = {0};
    // A copy of exactly this size: reading behind its end is found by AddressSanitizer.
    void *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, data, size);
    if (image_decode("image[1]", copy, size, pixels_most, true, &image, &error))
        fail_msg("decoded, expected a refusal with \"%s\"", part);
    free(copy);
    assert_null(image.pixels);
    assert_int_equal(strncmp(error.message, "image[1]: ", 10), 0);
    assert_null(strchr(error.message, '\n'));
    if (!strstr(error.message, part)) fail_msg("\"%s\", expected \"%s\" in it", error.message, part);
}

static void test_bad_files(void **state) {
    expect_refusal("", 0, 0, "empty");
    expect_refusal("hello, world", 12, 0, "not a picture");
    expect_refusal("<svg xmlns='http://www.w3.org/2000/svg'/>", 41, 0, "not a picture");
    expect_refusal("II*\0\x08\0\0\0", 8, 0, "not a picture"); // TIFF
    expect_refusal("\x89PNG\r\n\x1a\n", 8, 0, "ends within its header");
    expect_refusal("\xff\xd8\xff\xe0", 4, 0, "ends within its header");
    expect_refusal("\xff\xd8\xff\xda\0\x08\0\0\0\0", 10, 0, "no frame header");
    expect_refusal("\xff\xd8\xff\xe0\0\0", 6, 0, "segment of length 0");
    expect_refusal("RIFF\x04\0\0\0WEBP", 12, 0, "ends within its header");
    expect_refusal("GIF89a\0\0\0\0\0\0\0", 13, 0, "0 x 0");

    size_t size;
    char *png = read_fixture("rgb.png", &size);
    memcpy(png + 16, "\0\0\x75\x30\0\0\0\x10", 8); // 30,000 x 16 says the header, the data says otherwise
    expect_refusal(png, size, 0, "damaged");
    memcpy(png + 16, "\0\0\xff\xff\0\0\0\x10", 8);
    expect_refusal(png, size, 0, "65535 x 16 pixels, expected at most 32768 a side");
    memcpy(png + 16, "\0\0\x75\x30\0\0\x75\x30", 8);
    expect_refusal(png, size, 0, "megapixels, expected at most 64.0");
    memcpy(png + 16, "\xff\xff\xff\xff\0\0\0\x01", 8);
    expect_refusal(png, size, 0, "the png header says");
    memcpy(png + 16, "\0\0\0\0\0\0\0\x01", 8);
    expect_refusal(png, size, 0, "0 x 1");
    free(png);

    png = read_fixture("rgb.png", &size);
    expect_refusal(png, size, 100, "megapixels, expected at most 0.0");
    png[size - 20] ^= 0x55; // within the last data chunk: its checksum is wrong
    expect_refusal(png, size, 0, "damaged");
    memcpy(png + 33,
           "\x61\x61\x61\x61"
           "eXIf",
           8); // the chunk behind the header: 1.6 GB of EXIF
    expect_refusal(png, size, 0, "a chunk is longer than the rest of the file");
    free(png);
}

static void test_truncated(void **state) {
    static const char *const names[] = {"rgb.png", "rgb.jpg", "lossy.webp", "lossless.webp"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size;
        char *data = read_fixture(names[i], &size);
        for (size_t part = 0; part < 10; part++) expect_refusal(data, size * part / 10, 0, "");
        expect_refusal(data, size / 2, 0, "damaged or truncated");
        free(data);
    }
}

// Bytes changed at places and to values that depend on nothing but the loop: no crash, and an error is one line.
static void test_flipped(void **state) {
    static const char *const names[] = {"palette4.png", "rgba16.png",    "cmyk.jpg",    "turned6.jpg",
                                        "lossy.webp",   "animated.webp", "animated.gif"};
    uint32_t seed = 1;
    int refused = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size;
        char *data = read_fixture(names[i], &size);
        for (int round = 0; round < 150; round++) {
            char *copy = malloc(size);
            assert_non_null(copy);
            memcpy(copy, data, size);
            for (int flip = 0; flip < 1 + round % 4; flip++) {
                seed = seed * 1664525 + 1013904223;
                copy[(seed >> 8) % size] = (char)(seed >> 24);
            }
            struct image image;
            struct error error = {0};
            if (image_decode("x", copy, size, 1 << 20, round & 1, &image, &error)) {
                image_free(&image);
            } else {
                refused++;
                assert_int_equal(strncmp(error.message, "x: ", 3), 0);
                assert_null(strchr(error.message, '\n'));
            }
            free(copy);
        }
        free(data);
    }
    assert_true(refused > 100);
}

static bool holds(const struct buffer *buffer, const char *text, size_t length) {
    return memmem(buffer->data, buffer->length, text, length) != NULL;
}

static void test_encode(void **state) {
    struct image image, back;
    struct error error = {0};
    assert_true(image_alloc(&image, 37, 23, &error));
    for (int y = 0; y < 23; y++)
        for (int x = 0; x < 37; x++) {
            uint8_t *p = image.pixels + (y * 37 + x) * 3;
            p[0] = (uint8_t)(x * 6), p[1] = (uint8_t)(y * 11), p[2] = (uint8_t)(x * 2 + y * 3);
        }
    static const struct {
        enum image_format format;
        int quality, tolerance;
    } cases[] = {{IMAGE_PNG, -1, 0},   {IMAGE_PNG, 100, 0},   {IMAGE_JPEG, 95, 16},
                 {IMAGE_JPEG, 0, 255}, {IMAGE_WEBP, 100, 24}, {IMAGE_GIF, -1, 64},
                 {IMAGE_GIF, 100, 64}, {IMAGE_AVIF, -1, 16},  {IMAGE_AVIF, 0, 255}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(image_can_encode(cases[i].format, &error));
        struct image_encode_options options = {.format = cases[i].format, .quality = cases[i].quality};
        struct buffer plain = {0}, marked = {0};
        assert_true(image_encode(&image, &options, &plain, &error));
        assert_false(holds(&plain, "flux2", 5));
        options.metadata = (struct image_metadata){"AI generated;flux2", "Maker", "model m, seed 42"};
        assert_true(image_encode(&image, &options, &marked, &error));
        assert_true(cases[i].format == IMAGE_GIF || holds(&marked, "II*\0", 4)); // EXIF
        assert_true(holds(&marked, "AI generated;flux2", 18));
        assert_true(holds(&marked, "Maker", 5));
        assert_true(holds(&marked, "model m, seed 42", 16));
        struct image_header header;
        assert_true(image_read_header(marked.data, marked.length, &header, &error));
        assert_int_equal(header.format, cases[i].format);
        assert_true(image_decode("x", marked.data, marked.length, 0, false, &back, &error));
        assert_int_equal(back.width, 37);
        assert_int_equal(back.height, 23);
        for (int k = 0; k < 37 * 23 * 3; k++)
            assert_in_range(abs(back.pixels[k] - image.pixels[k]), 0, cases[i].tolerance);
        image_free(&back);
        buffer_free(&plain);
        buffer_free(&marked);
    }
    struct buffer out = {0};
    struct image_encode_options unknown = {.format = IMAGE_UNKNOWN, .quality = -1};
    assert_false(image_encode(&image, &unknown, &out, &error));
    assert_non_null(strstr(error.message, "png, jpeg, webp, gif or avif"));
    error_clear(&error);
    assert_false(image_can_encode(IMAGE_UNKNOWN, &error));
    assert_string_equal(error.field, "output_format");
    buffer_free(&out);
    image_free(&image);
}

// The level of compression has an effect on the size of the file.
static void test_quality(void **state) {
    struct image image;
    struct error error = {0};
    assert_true(image_alloc(&image, 160, 120, &error));
    uint32_t seed = 1;
    for (int k = 0; k < 160 * 120 * 3; k++) {
        seed = seed * 1664525 + 1013904223;
        image.pixels[k] = (uint8_t)(k % 160 + (seed >> 27));
    }
    static const enum image_format formats[] = {IMAGE_JPEG, IMAGE_WEBP, IMAGE_GIF, IMAGE_AVIF};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        size_t before = 0;
        for (int quality = 0; quality <= 100; quality += 50) {
            struct image_encode_options options = {.format = formats[i], .quality = quality};
            struct buffer out = {0};
            assert_true(image_encode(&image, &options, &out, &error));
            if (out.length <= before)
                fail_msg("%s: %zu bytes at %d, %zu below it", image_format_name(formats[i]), out.length,
                         quality, before);
            before = out.length;
            buffer_free(&out);
        }
    }
    image_free(&image);
}

static void test_transparent(void **state) {
    struct image image, back;
    struct image_alpha alpha;
    struct error error = {0};
    assert_true(image_alloc(&image, 40, 30, &error));
    uint8_t *values = malloc(40 * 30);
    assert_non_null(values);
    for (int k = 0; k < 40 * 30; k++) {
        values[k] = k % 40 < 20 ? 0 : 255;
        memset(image.pixels + 3 * k, 90, 3);
    }
    static const enum image_format formats[] = {IMAGE_PNG, IMAGE_WEBP, IMAGE_GIF, IMAGE_AVIF};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        struct image_encode_options options = {.format = formats[i],
                                               .quality = -1,
                                               .alpha = values,
                                               .metadata = {"AI generated;x", NULL, "seed 1"}};
        struct buffer out = {0};
        assert_true(image_encode(&image, &options, &out, &error));
        assert_true(holds(&out, "AI generated;x", 14));
        assert_true(holds(&out, "seed 1", 6));
        assert_true(image_decode_alpha("x", out.data, out.length, 0, &alpha, &error));
        assert_int_equal(alpha.width * 1000 + alpha.height, 40030);
        assert_memory_equal(alpha.values, values, 40 * 30);
        image_alpha_free(&alpha);
        assert_true(
            image_decode("x", out.data, out.length, 0, false, &back, &error)); // and it is a good file
        image_free(&back);
        // Without its transparency it is opaque.
        options.alpha = NULL;
        buffer_free(&out);
        assert_true(image_encode(&image, &options, &out, &error));
        struct error cause = {0};
        if (formats[i] != IMAGE_GIF) { // whose palette may have a transparent colour nobody uses
            assert_false(image_decode_alpha("mask", out.data, out.length, 0, &alpha, &cause));
            assert_non_null(strstr(cause.message, "mask: the picture has no alpha channel"));
        }
        buffer_free(&out);
    }
    struct image_encode_options jpeg = {.format = IMAGE_JPEG, .alpha = values};
    struct buffer out = {0};
    assert_false(image_encode(&image, &jpeg, &out, &error));
    assert_non_null(strstr(error.message, "jpeg"));
    buffer_free(&out);
    free(values);
    image_free(&image);
}

static void test_alpha_of_files(void **state) {
    static const char *const with[] = {"rgba16.png", "rgba.png"};
    static const char *const without[] = {"rgb.png", "rgb.jpg", "cmyk.jpg", "lossy.webp"};
    for (size_t i = 0; i < sizeof with / sizeof *with; i++) {
        char path[512];
        snprintf(path, sizeof path, FIXTURES "%s", with[i]);
        if (!file_exists(path)) continue;
        size_t size;
        char *data = read_fixture(with[i], &size);
        struct image_alpha alpha;
        struct error error = {0};
        if (!image_decode_alpha("x", data, size, 0, &alpha, &error)) fail_msg("%s", error.message);
        assert_int_equal(alpha.width * 100 + alpha.height, 1913);
        image_alpha_free(&alpha);
        for (size_t part = 0; part < 10; part++) {
            struct error cause = {0};
            assert_false(image_decode_alpha("x", data, size * part / 10, 0, &alpha, &cause));
            assert_null(alpha.values);
        }
        struct error cause = {0};
        assert_false(image_decode_alpha("x", data, size, 100, &alpha, &cause));
        assert_non_null(strstr(cause.message, "megapixels"));
        free(data);
    }
    for (size_t i = 0; i < sizeof without / sizeof *without; i++) {
        size_t size;
        char *data = read_fixture(without[i], &size);
        struct image_alpha alpha;
        struct error error = {0};
        assert_false(image_decode_alpha("x", data, size, 0, &alpha, &error));
        assert_non_null(strstr(error.message, "alpha channel"));
        free(data);
    }
}

// A disc on a plain ground with a hole in it, and a line that keeps the hole's inside from the edge.
static void test_cut_background(void **state) {
    struct image image;
    struct image_alpha alpha;
    struct error error = {0};
    enum { SIDE = 64 };
    assert_true(image_alloc(&image, SIDE, SIDE, &error));
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            int r = (x - 32) * (x - 32) + (y - 32) * (y - 32);
            uint8_t *p = image.pixels + (y * SIDE + x) * 3;
            p[0] = p[1] = p[2] = (uint8_t)(240 + (x + y) % 5);
            if (r < 400 && r > 100) p[0] = 200, p[1] = 20, p[2] = 30;
        }
    assert_true(image_cut_background(&image, &alpha, &error));
    assert_int_equal(alpha.values[0], 0);
    assert_int_equal(alpha.values[SIDE * SIDE - 1], 0);
    assert_int_equal(alpha.values[32 * SIDE + 17], 255); // the ring
    assert_int_equal(alpha.values[32 * SIDE + 32], 255); // the hole is not connected to the edge
    image_alpha_free(&alpha);
    // Half of the edge has another colour: that is no background.
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE / 2; x++) memset(image.pixels + (y * SIDE + x) * 3, 10, 3);
    assert_false(image_cut_background(&image, &alpha, &error));
    assert_int_equal(error.kind, ERROR_NONE);
    assert_null(alpha.values);
    image_free(&image);
    static const int sizes[][2] = {{1, 1}, {1, 7}, {7, 1}, {2, 2}, {3, 5}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int w = sizes[i][0], h = sizes[i][1];
        assert_true(image_alloc(&image, w, h, &error));
        memset(image.pixels, 77, (size_t)(w * h * 3));
        assert_true(image_cut_background(&image, &alpha, &error));
        for (int k = 0; k < w * h; k++) assert_int_equal(alpha.values[k], 0);
        image_alpha_free(&alpha);
        image_free(&image);
    }
}

static void test_one_pixel(void **state) {
    struct image image, back;
    struct error error = {0};
    assert_true(image_alloc(&image, 1, 1, &error));
    memcpy(image.pixels, "\x10\x80\xf0", 3);
    struct image_encode_options options = {.format = IMAGE_PNG, .quality = -1};
    struct buffer out = {0};
    assert_true(image_encode(&image, &options, &out, &error));
    assert_true(image_decode("x", out.data, out.length, 0, true, &back, &error));
    assert_memory_equal(back.pixels, image.pixels, 3);
    image_free(&image);
    image_free(&back);
    buffer_free(&out);
    assert_false(image_alloc(&image, 0, 5, &error));
}

static void test_names(void **state) {
    assert_int_equal(image_format_from_name("jpg"), IMAGE_JPEG);
    assert_int_equal(image_format_from_name("PNG"), IMAGE_PNG);
    assert_int_equal(image_format_from_name("tiff"), IMAGE_UNKNOWN);
    assert_string_equal(image_format_mime(IMAGE_WEBP), "image/webp");
    assert_string_equal(image_format_name(IMAGE_JPEG), "jpeg");
}

int main(void) {
    struct error error = {0};
    if (!image_library_start("test_image", &error)) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_pillow),      cmocka_unit_test(test_headers),
        cmocka_unit_test(test_turned_headers), cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_truncated),      cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_encode),         cmocka_unit_test(test_quality),
        cmocka_unit_test(test_transparent),    cmocka_unit_test(test_alpha_of_files),
        cmocka_unit_test(test_cut_background), cmocka_unit_test(test_one_pixel),
        cmocka_unit_test(test_names),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    image_library_stop();
    return failed;
}
