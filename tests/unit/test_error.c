#include "unit.h"

#include "base/error.h"

static void first_error_stays(void **state) {
    struct error error = {0};
    assert_false(error_set(&error, ERROR_INPUT, "%s: %d bytes, expected at least %d", "a.bin", 3, 8));
    assert_string_equal(error.message, "a.bin: 3 bytes, expected at least 8");
    assert_int_equal(error.kind, ERROR_INPUT);
    assert_string_equal(error.field, "");
    assert_non_null(strstr(error.file, "test_error.c"));
    assert_true(error.line > 0);
    assert_false(error_set(&error, ERROR_IO, "later"));
    assert_string_equal(error.message, "a.bin: 3 bytes, expected at least 8");
    assert_int_equal(error.kind, ERROR_INPUT);
    error_clear(&error);
    assert_int_equal(error.kind, ERROR_NONE);
    assert_string_equal(error.message, "");
}

static void no_error_wanted(void **state) {
    assert_false(error_set(NULL, ERROR_INPUT, "nobody listens"));
    assert_false(error_prefix(NULL, "x"));
    error_clear(NULL);
}

static void field_is_named(void **state) {
    struct error error = {0};
    assert_false(error_set_field(&error, ERROR_INPUT, "image[1]", "image[1]: not a picture"));
    assert_string_equal(error.field, "image[1]");
}

static void prefix_goes_in_front(void **state) {
    struct error error = {0};
    assert_false(error_prefix(&error, "nothing to prefix"));
    assert_string_equal(error.message, "");
    error_set(&error, ERROR_INPUT, "shape [2]");
    assert_false(error_prefix(&error, "tensor %s", "w"));
    assert_false(error_prefix(&error, "%s", "file.safetensors"));
    assert_string_equal(error.message, "file.safetensors: tensor w: shape [2]");
}

// Messages quote bytes from outside: they stay one line, hold no terminal controls and no half of a character.
static void message_is_one_clean_line(void **state) {
    struct error error = {0};
    error_set(&error, ERROR_INPUT, "name \"a\nb\x1b[31m\tc\x7f\"");
    assert_string_equal(error.message, "name \"a b?[31m c?\"");
    for (size_t pad = 0; pad < 4; pad++) {
        char text[sizeof error.message * 2] = {0};
        memset(text, 'x', pad);
        while (strlen(text) < sizeof error.message + 8) strcat(text, "\u20ac");
        error_clear(&error);
        error_set(&error, ERROR_INPUT, "%s", text);
        size_t length = strlen(error.message);
        assert_true(length < sizeof error.message);
        assert_true(length > sizeof error.message - 4);
        assert_int_equal((length - pad) % 3, 0);
        error_prefix(&error, "%s", "p");
        assert_int_equal((strlen(error.message) - pad) % 3, 0);
    }
}

static void kinds_have_names(void **state) {
    for (int kind = ERROR_NONE; kind <= ERROR_INTERNAL; kind++) {
        assert_true(strlen(error_kind_name((enum error_kind)kind)) > 0);
        for (int other = ERROR_NONE; other < kind; other++) {
            assert_string_not_equal(error_kind_name((enum error_kind)kind),
                                    error_kind_name((enum error_kind)other));
        }
    }
    assert_string_equal(error_kind_name(ERROR_NOT_FOUND), "not_found");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_error_stays),
        cmocka_unit_test(no_error_wanted),
        cmocka_unit_test(field_is_named),
        cmocka_unit_test(prefix_goes_in_front),
        cmocka_unit_test(message_is_one_clean_line),
        cmocka_unit_test(kinds_have_names),
    };
    return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
