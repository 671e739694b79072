// data: URIs: what is taken, what is refused, byte for byte.
#include "gateway/data_uri.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static void test_good(void **state) {
    static const struct {
        const char *text, *bytes;
    } cases[] = {
        {"data:image/png;base64,aGVsbG8=", "hello"},
        {"data:image/png;base64,aGVsbG8", "hello"}, // padding may be left out
        {"DATA:IMAGE/PNG;BASE64,aGVs\r\nbG8=", "hello"},
        {"data:image/jpeg;name=a.jpg;base64,aGVsbG8h", "hello!"},
        {"data:;base64,aGk=", "hi"},
        {"data:application/octet-stream;base64,Pz8_Pg==", "??\x3f>"},
        {"data:image/webp;base64,Pz8/Pg==", "??\x3f>"},
        {"data:image/png,a%20b%2Cc", "a b,c"},
        {"data:,", ""},
        {"data:image/png;base64,", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buffer out = {0};
        struct error error = {0};
        assert_true(buffer_add_string(&out, ">"));
        if (!data_uri_decode(cases[i].text, strlen(cases[i].text), 100, &out, &error))
            fail_msg("%s: %s", cases[i].text, error.message);
        assert_int_equal(out.length, strlen(cases[i].bytes) + 1);
        assert_memory_equal(out.data + 1, cases[i].bytes, out.length - 1);
        buffer_free(&out);
    }
}

static void test_bad(void **state) {
    static const char *const cases[] = {
        "data:image/png;base64",      "dat:image/png;base64,aGk=", "data:text/plain;base64,aGk=",
        "data:image/png;base64,aGk*", "data:image/png;base64,a",   "data:image/png;base64,aGk==",
        "data:image/png;base64,aG=k", "data:image/png;base64,=",   "data:image/png,%2",
        "data:image/png,%zz",         "data:image/png,%",          "data:image/png;base64,aGVsbG8gaGVsbG8=",
        "data:image/png,01234567890",
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buffer out = {0};
        struct error error = {0};
        if (data_uri_decode(cases[i], strlen(cases[i]), 10, &out, &error)) fail_msg("taken: %s", cases[i]);
        assert_true(error.message[0] != 0);
        assert_int_equal(out.length, 0);
        buffer_free(&out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_good), cmocka_unit_test(test_bad)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
