// Forms as they arrive: cut at any byte the parts are the same, and malformed ones are refused.
#include "base/buffer.h"
#include "server/multipart.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// What was seen, as text: "<name|filename|type>body;" for each part.
struct seen {
    struct buffer text;
    int refuse_after; // parts; -1: none
};

static bool on_begin(void *context, const struct multipart_part *part, struct error *error) {
    struct seen *seen = context;
    if (seen->refuse_after-- == 0) return error_set(error, ERROR_INPUT, "refused");
    return buffer_printf(&seen->text, "<%s|%s|%s>", part->name, part->filename ? part->filename : "-",
                         part->type);
}

static bool on_data(void *context, const void *bytes, size_t size, struct error *error) {
    struct seen *seen = context;
    assert_true(size > 0);
    return buffer_add(&seen->text, bytes, size);
}

static bool on_end(void *context, struct error *error) {
    struct seen *seen = context;
    return buffer_add_string(&seen->text, ";");
}

static const struct multipart_events EVENTS = {on_begin, on_data, on_end};

// Parses [body] in pieces of [piece] bytes; what was seen is put into [seen]. Returns whether it was a whole form.
static bool parse(const char *type, const char *body, size_t size, size_t piece, struct seen *seen,
                  struct error *error) {
    *seen = (struct seen){.refuse_after = seen->refuse_after};
    struct multipart *multipart = multipart_open(type, &EVENTS, seen, error);
    bool good = multipart != NULL;
    for (size_t at = 0; good && at < size; at += piece) {
        size_t count = size - at < piece ? size - at : piece;
        char *copy = malloc(count); // of exactly this size: reading behind it is found
        assert_non_null(copy);
        memcpy(copy, body + at, count);
        good = multipart_feed(multipart, copy, count, error);
        free(copy);
    }
    good = good && multipart_finish(multipart, error);
    multipart_close(multipart);
    return good;
}

#define TYPE "multipart/form-data; boundary=XX"

static void expect(const char *type, const char *body, size_t size, const char *wanted) {
    for (size_t piece = 1; piece <= size; piece++) {
        struct seen seen = {.refuse_after = -1};
        struct error error = {0};
        if (!parse(type, body, size, piece, &seen, &error))
            fail_msg("pieces of %zu: %s", piece, error.message);
        const char *got = seen.text.data ? seen.text.data : "";
        if (strcmp(got, wanted)) fail_msg("pieces of %zu: \"%s\", expected \"%s\"", piece, got, wanted);
        buffer_free(&seen.text);
    }
}

static void test_forms(void **state) {
    static const struct {
        const char *body, *wanted;
    } cases[] = {
        {"--XX--", ""},
        {"preamble\r\n--XX--\r\nepilogue", ""},
        {"--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nbody\r\n--XX--\r\n", "<a|-|>body;"},
        {"--XX\r\ncontent-disposition: FORM-DATA; NAME=a\r\n\r\n\r\n--XX--", "<a|-|>;"},
        {"--XX \t\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n--XX\r\n--X\r\n-\r\n--XX--",
         "<a|-|>--XX\r\n--X\r\n-;"},
        {"--XX\r\nContent-Type: image/png\r\nContent-Disposition: form-data; filename=\"a;\\\"b.png\"; "
         "name=\"image[]\"\r\n"
         "\r\nPNG\r\n\r\n\r\n--XX\r\nContent-Disposition: form-data; name=\"n\"\r\nX-Other: "
         "y\r\n\r\n2\r\n--XX--",
         "<image[]|a;\"b.png|image/png>PNG\r\n\r\n;<n|-|>2;"},
        {"--XX\r\nContent-Disposition: form-data; name=\"f\"; filename=\"\"\r\n\r\nx\r\n--XX--", "<f||>x;"},
        {"--XX\r\nContent-Disposition: form-data; name=\"f\"; filename*=UTF-8''a\r\n\r\nx\r\n--XX--",
         "<f||>x;"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect(TYPE, cases[i].body, strlen(cases[i].body), cases[i].wanted);
    expect("multipart/form-data; charset=x; boundary=\"a b:c\"", "--a b:c--", 9, "");
}

// Bytes of every value come through, in a part larger than any piece.
static void test_binary(void **state) {
    struct buffer body = {0};
    assert_true(buffer_add_string(
        &body, "--XX\r\nContent-Disposition: form-data; name=\"i\"; filename=\"i\"\r\n\r\n"));
    size_t from = body.length;
    for (int i = 0; i < 200000; i++) {
        uint8_t byte = (uint8_t)((i * 7 + i / 256) & 255);
        assert_true(buffer_add(&body, &byte, 1));
    }
    size_t size = body.length - from;
    assert_true(buffer_add_string(&body, "\r\n--XX--\r\n"));
    static const size_t pieces[] = {333, 4096, 65536, 65537, 1000000};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct seen seen = {.refuse_after = -1};
        struct error error = {0};
        assert_true(parse(TYPE, body.data, body.length, pieces[i], &seen, &error));
        assert_int_equal(seen.text.length, 7 + size); // "<i|i|>" and ";"
        buffer_free(&seen.text);
    }
    buffer_free(&body);
}

static void expect_refusal(const char *type, const char *body, size_t size, const char *part) {
    for (size_t piece = 1; piece <= size; piece += 1 + size / 50) {
        struct seen seen = {.refuse_after = -1};
        struct error error = {0};
        if (parse(type, body, size, piece, &seen, &error)) fail_msg("taken, expected \"%s\"", part);
        if (!strstr(error.message, part)) fail_msg("\"%s\", expected \"%s\" in it", error.message, part);
        buffer_free(&seen.text);
    }
}

static void test_malformed(void **state) {
    static const struct {
        const char *body, *part;
    } cases[] = {
        {"x", "closing boundary"},
        {"--XX", "closing boundary"},
        {"--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nbody", "closing boundary"},
        {"--XXjunk\r\n\r\n", "malformed boundary"},
        {"--XX\r\n\r\nbody\r\n--XX--", "no Content-Disposition"},
        {"--XX\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\nb\r\n--XX--", "no Content-Disposition"},
        {"--XX\r\nContent-Disposition: form-data; name=\"a\r\n\r\nb\r\n--XX--", "no Content-Disposition"},
        {"--XX\r\nContent-Disposition: form-data\r\n\r\nb\r\n--XX--", "no Content-Disposition"},
        {"--XX\r\nno colon\r\n\r\nb\r\n--XX--", "malformed header"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refusal(TYPE, cases[i].body, strlen(cases[i].body), cases[i].part);
    static const char zero[] = "--XX\r\na: \0b\r\n\r\nb\r\n--XX--";
    expect_refusal(TYPE, zero, sizeof zero - 1, "0 byte");
    expect_refusal("multipart/form-data", "x", 1, "boundary");
    expect_refusal("multipart/form-data; boundary=", "x", 1, "boundary");
    expect_refusal("multipart/form-data; boundary=\"x", "x", 1, "boundary");
    expect_refusal("text/plain; boundary=x", "x", 1, "multipart/form-data");
    expect_refusal(NULL, "x", 1, "multipart/form-data");
    char type[200] = "multipart/form-data; boundary=";
    memset(type + strlen(type), 'b', 71);
    expect_refusal(type, "x", 1, "boundary");
    char *large = malloc(20000);
    assert_non_null(large);
    memset(large, 'h', 20000);
    memcpy(large, "--XX\r\nX: ", 9);
    expect_refusal(TYPE, large, 20000, "headers");
    free(large);
}

static void test_many_parts_and_refusals(void **state) {
    struct buffer body = {0};
    for (int i = 0; i <= MULTIPART_PARTS_MOST; i++)
        assert_true(
            buffer_add_string(&body, "--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n"));
    assert_true(buffer_add_string(&body, "--XX--"));
    expect_refusal(TYPE, body.data, body.length, "more than 256 parts");
    struct seen seen = {.refuse_after = 2};
    struct error error = {0};
    assert_false(parse(TYPE, body.data, body.length, 100, &seen, &error));
    assert_string_equal(error.message, "refused");
    assert_string_equal(seen.text.data, "<a|-|>b;<a|-|>b;");
    buffer_free(&seen.text);
    buffer_free(&body);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_binary),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_many_parts_and_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
