#include "fixture.h"

#include "base/json.h"
#include "flux/references.h"

// The picture that the cases of references.json are made of.
static struct image formula_picture(int width, int height) {
    struct image image;
    struct error error = {0};
    assert_ok(image_alloc(&image, width, height, &error), error);
    uint8_t *at = image.pixels;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++) *at++ = (uint8_t)(7 * x + 13 * y + 29 * c + ((x * y) >> 3));
    return image;
}

static uint64_t fnv1a64(const uint8_t *data, size_t size) {
    uint64_t value = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) value = (value ^ data[i]) * 0x100000001b3u;
    return value;
}

static size_t image_bytes(const struct image *image) {
    return (size_t)image->width * (size_t)image->height * 3;
}

static void resize_equals_pillow(void **state) {
    struct checkpoint *fixture = fixture_open("resize.safetensors");
    for (int k = 0; k <= 10; k++) {
        struct error error = {0};
        struct tensor in = fixture_tensor(fixture, DTYPE_U8, "in_%d", k);
        struct tensor out = fixture_tensor(fixture, DTYPE_U8, "out_%d", k);
        struct image from, to;
        assert_ok(image_alloc(&from, (int)in.shape[1], (int)in.shape[0], &error), error);
        memcpy(from.pixels, in.data, in.bytes);
        assert_ok(lanczos_resize(&from, (int)out.shape[1], (int)out.shape[0], &to, &error), error);
        assert_int_equal(image_bytes(&to), out.bytes);
        assert_memory_equal(to.pixels, out.data, out.bytes);
        image_free(&from);
        image_free(&to);
    }
    checkpoint_close(fixture);
}

static void check_case(struct json_place place) {
    struct error error = {0};
    int64_t width = 0, height = 0, area = 0, cropped[2];
    int count = 0;
    const char *expected_error = NULL, *hash = NULL;
    assert_ok(json_get_integer(place, "width", JSON_REQUIRED, 1, 1 << 20, &width, &error), error);
    assert_ok(json_get_integer(place, "height", JSON_REQUIRED, 1, 1 << 20, &height, &error), error);
    assert_ok(json_get_integer(place, "area", JSON_REQUIRED, 1, 1 << 30, &area, &error), error);
    assert_ok(json_get_string(place, "error", JSON_OPTIONAL, &expected_error, &error), error);
    struct image from = formula_picture((int)width, (int)height), to;
    bool prepared = reference_prepare("image[1]", &from, area, 16, &to, &error);
    image_free(&from);
    if (expected_error) {
        assert_false(prepared);
        assert_string_equal(error.field, "image[1]");
        assert_int_equal(error.kind, ERROR_INPUT);
        char wanted[160];
        snprintf(wanted, sizeof(wanted), "image[1] is %dx%d pixels, expected %s", (int)width, (int)height,
                 strstr(expected_error, "small") ? "at least 64 a side"
                                                 : "sides of a ratio of at most 8 to 1");
        assert_string_equal(error.message, wanted);
        return;
    }
    assert_ok(prepared, error);
    assert_ok(json_get_integers(place, "cropped", JSON_REQUIRED, 1, 1 << 20, cropped, 2, &count, &error),
              error);
    assert_ok(json_get_string(place, "fnv1a64", JSON_REQUIRED, &hash, &error), error);
    assert_int_equal(to.width, cropped[0]);
    assert_int_equal(to.height, cropped[1]);
    char actual[17];
    snprintf(actual, sizeof(actual), "%016llx", (unsigned long long)fnv1a64(to.pixels, image_bytes(&to)));
    assert_string_equal(actual, hash);
    image_free(&to);
}

static void preparation_equals_the_reference(void **state) {
    struct error error = {0};
    json_t *root = json_read_file(FIXTURES "references.json", 1 << 20, &error);
    assert_ok(root, error);
    const json_t *cases = NULL;
    assert_ok(
        json_get_array((struct json_place){root, "references.json"}, "cases", JSON_REQUIRED, &cases, &error),
        error);
    assert_true(json_array_size(cases) > 20);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case((struct json_place){json_array_get(cases, i), "case"});
    json_decref(root);
}

// A cap so small that no whole token is left.
static void cap_below_a_token(void **state) {
    struct error error = {0};
    struct image from = formula_picture(64, 512), to;
    assert_false(reference_prepare("references[0]", &from, 16 * 16, 16, &to, &error));
    assert_string_equal(error.field, "references[0]");
    assert_contains(error.message, "expected at least 16 a side");
    assert_null(to.pixels);
    image_free(&from);
}

// Shrinking and enlarging one constant colour changes nothing: the weights of each output sum to 1 within rounding.
static void constant_pictures_stay(void **state) {
    static const int sizes[][4] = {
        {1, 1, 500, 3}, {3, 5, 1, 1}, {1000, 2, 7, 2}, {64, 64, 63, 65}, {17, 300, 301, 299}};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        struct error error = {0};
        struct image from, to;
        assert_ok(image_alloc(&from, sizes[i][0], sizes[i][1], &error), error);
        memset(from.pixels, 173, image_bytes(&from));
        assert_ok(lanczos_resize(&from, sizes[i][2], sizes[i][3], &to, &error), error);
        assert_int_equal(to.width, sizes[i][2]);
        assert_int_equal(to.height, sizes[i][3]);
        for (size_t k = 0; k < image_bytes(&to); k++) assert_int_equal(to.pixels[k], 173);
        image_free(&from);
        image_free(&to);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resize_equals_pillow),
        cmocka_unit_test(preparation_equals_the_reference),
        cmocka_unit_test(cap_below_a_token),
        cmocka_unit_test(constant_pictures_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
