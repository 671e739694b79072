#include "unit.h"

#include "base/json.h"

static const char good[] =
    "{\"n\": 7, \"r\": 0.5, \"b\": true, \"s\": \"text\", \"o\": {\"x\": 1}, \"a\": [1, 2, 3],"
    " \"f\": [1, 2.5], \"nothing\": null}";

struct fixture {
    json_t *json;
    struct json_place place;
};

static int open_json(void **state) {
    static struct fixture fixture;
    struct error error = {0};
    fixture.json = json_parse("c.json", good, sizeof good - 1, &error);
    fixture.place = (struct json_place){fixture.json, "c.json"};
    *state = &fixture;
    return fixture.json ? 0 : -1;
}

static int close_json(void **state) {
    json_decref(((struct fixture *)*state)->json);
    return 0;
}

static void getters_read(void **state) {
    struct json_place place = ((struct fixture *)*state)->place;
    struct error error = {0};
    int64_t integer = 0, integers[3];
    double number = 0, numbers[4];
    bool truth = false;
    const char *text = NULL;
    const json_t *inner = NULL;
    int count = 0;
    assert_ok(json_get_integer(place, "n", JSON_REQUIRED, 0, 7, &integer, &error), error);
    assert_int_equal(integer, 7);
    assert_ok(json_get_number(place, "r", JSON_REQUIRED, 0, 1, &number, &error), error);
    assert_true(number == 0.5);
    assert_ok(json_get_number(place, "n", JSON_REQUIRED, 0, 10, &number, &error), error);
    assert_true(number == 7);
    assert_ok(json_get_bool(place, "b", JSON_REQUIRED, &truth, &error), error);
    assert_true(truth);
    assert_ok(json_get_string(place, "s", JSON_REQUIRED, &text, &error), error);
    assert_string_equal(text, "text");
    assert_ok(json_get_object(place, "o", JSON_REQUIRED, &inner, &error), error);
    assert_int_equal(json_object_size(inner), 1);
    assert_ok(json_get_array(place, "a", JSON_REQUIRED, &inner, &error), error);
    assert_int_equal(json_array_size(inner), 3);
    assert_ok(json_get_integers(place, "a", JSON_REQUIRED, 1, 3, integers, 3, &count, &error), error);
    assert_int_equal(count, 3);
    assert_int_equal(integers[2], 3);
    assert_ok(json_get_numbers(place, "f", JSON_REQUIRED, 0, 3, numbers, 4, &count, &error), error);
    assert_int_equal(count, 2);
    assert_true(numbers[1] == 2.5);
}

static void absent_and_null_are_left_alone(void **state) {
    struct json_place place = ((struct fixture *)*state)->place;
    struct error error = {0};
    int64_t integer = 42;
    int count = 5;
    assert_true(json_get_integer(place, "absent", JSON_OPTIONAL, 0, 1, &integer, &error));
    assert_true(json_get_integer(place, "nothing", JSON_OPTIONAL, 0, 1, &integer, &error));
    assert_int_equal(integer, 42);
    assert_true(json_get_integers(place, "absent", JSON_OPTIONAL, 0, 1, &integer, 1, &count, &error));
    assert_int_equal(count, 5);
    assert_false(json_get_integer(place, "nothing", JSON_REQUIRED, 0, 1, &integer, &error));
    assert_string_equal(error.message, "c.json: field \"nothing\" is missing");
    assert_string_equal(error.field, "nothing");
}

#define assert_refused(call, expected)                                                                       \
    do {                                                                                                     \
        struct error error = {0};                                                                            \
        assert_false(call);                                                                                  \
        assert_string_equal(error.message, (expected));                                                      \
        assert_int_equal(error.kind, ERROR_INPUT);                                                           \
    } while (0)

static void wrong_values_are_named(void **state) {
    struct json_place place = ((struct fixture *)*state)->place,
                      odd = {json_object_get(place.object, "a"), "c.json: a"};
    int64_t n, list[3];
    double r;
    bool b;
    const char *s;
    const json_t *o;
    int count;
    assert_refused(json_get_integer(place, "n", JSON_REQUIRED, 8, 9, &n, &error),
                   "c.json: field \"n\": 7, expected an integer from 8 to 9");
    assert_refused(json_get_integer(place, "r", JSON_REQUIRED, 0, 9, &n, &error),
                   "c.json: field \"r\": expected an integer, found a number");
    assert_refused(json_get_integer(place, "s", JSON_OPTIONAL, 0, 9, &n, &error),
                   "c.json: field \"s\": expected an integer, found a string");
    assert_refused(json_get_number(place, "r", JSON_REQUIRED, 1, 2, &r, &error),
                   "c.json: field \"r\": 0.5, expected a number from 1 to 2");
    assert_refused(json_get_number(place, "a", JSON_REQUIRED, 1, 2, &r, &error),
                   "c.json: field \"a\": expected a number, found an array");
    assert_refused(json_get_bool(place, "n", JSON_REQUIRED, &b, &error),
                   "c.json: field \"n\": expected true or false, found an integer");
    assert_refused(json_get_string(place, "b", JSON_REQUIRED, &s, &error),
                   "c.json: field \"b\": expected a string, found true");
    assert_refused(json_get_object(place, "a", JSON_REQUIRED, &o, &error),
                   "c.json: field \"a\": expected an object, found an array");
    assert_refused(json_get_array(place, "o", JSON_REQUIRED, &o, &error),
                   "c.json: field \"o\": expected an array, found an object");
    assert_refused(json_get_integers(place, "a", JSON_REQUIRED, 0, 9, list, 2, &count, &error),
                   "c.json: field \"a\": 3 elements, expected at most 2");
    assert_refused(json_get_integers(place, "f", JSON_REQUIRED, 0, 9, list, 3, &count, &error),
                   "c.json: field \"f\": expected an integer, found a number");
    assert_refused(json_get_integer(odd, "n", JSON_OPTIONAL, 0, 9, &n, &error),
                   "c.json: a: expected an object, found an array");
}

static void bad_texts_are_refused(void **state) {
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"", "x.json: not valid JSON: line 1"},
        {"{", "not valid JSON"},
        {"{\"a\": 18446744073709551615}", "x.json: line 1, column 26: a number that is too large"},
        {"{\"a\": 1e999}", "a number that is too large"},
        {"{\"a\": \"b\\u0000c\"}", "a text with \\u0000 in it"},
        {"{\"a\\u0000\": 1}", "a text with \\u0000 in it"},
        {"{\"a\": 1,}", "not valid JSON"},
        {"{\"a\": 1} {", "not valid JSON"},
        {"{\"a\": 1, \"a\": 2}", "duplicate"},
        {"{\"a\": \"\xff\"}", "not valid JSON"},
        {"{\"a\": NaN}", "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        assert_null(json_parse("x.json", cases[i].text, strlen(cases[i].text), &error));
        assert_contains(error.message, cases[i].expected);
    }
}

static void nesting_is_limited(void **state) {
    char text[200];
    for (int depth = 63; depth <= 66; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        struct error error = {0};
        json_t *json = json_parse("deep", text, (size_t)depth * 2, &error);
        assert_int_equal(json != NULL, depth <= 64);
        if (!json) assert_string_equal(error.message, "deep: JSON nested more than 64 deep");
        json_decref(json);
    }
    // Brackets inside strings are no nesting.
    memset(text, '[', sizeof text);
    memcpy(text, "[\"\\\"", 4);
    memcpy(text + sizeof text - 2, "\"]", 2);
    struct error error = {0};
    json_t *json = json_parse("quoted", text, sizeof text, &error);
    assert_ok(json, error);
    json_decref(json);
}

static void files_are_read(void **state) {
    struct error error = {0};
    assert_null(json_read_file("/nonexistent/config.json", 100, &error));
    assert_int_equal(error.kind, ERROR_NOT_FOUND);
    assert_contains(error.message, "/nonexistent/config.json");
    error_clear(&error);
    assert_null(json_read_file("/proc/self/status", 1 << 20, &error));
    assert_contains(error.message, "/proc/self/status: not valid JSON");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(getters_read),           cmocka_unit_test(absent_and_null_are_left_alone),
        cmocka_unit_test(wrong_values_are_named), cmocka_unit_test(bad_texts_are_refused),
        cmocka_unit_test(nesting_is_limited),     cmocka_unit_test(files_are_read),
    };
    return cmocka_run_group_tests_name("json", tests, open_json, close_json);
}
