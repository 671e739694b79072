// Requests: every parameter's values and errors, from JSON and from forms; sizes; errors as bodies.
#include "gateway/image_request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static bool read_text(const char *text, bool from_form, struct image_request *request,
                      struct api_error *error) {
    struct error cause = {0};
    json_t *fields = json_parse("test", text, strlen(text), &cause);
    if (!fields) fail_msg("%s", cause.message);
    *error = (struct api_error){0};
    image_request_init(request, MODE_GENERATION, "req_test");
    bool good = image_request_read(request, fields, from_form, error);
    json_decref(fields);
    return good;
}

static void test_values(void **state) {
    struct image_request request;
    struct api_error error;
    assert_true(read_text("{\"prompt\":\"a\"}", false, &request, &error));
    assert_string_equal(request.prompt, "a");
    assert_null(request.model);
    assert_int_equal(request.count, 1);
    assert_int_equal(
        request.width + request.height + request.steps + request.sigma_count + request.ignored_count, 0);
    assert_true(request.guidance < 0 && !request.has_seed && !request.base64);
    assert_int_equal(request.format, IMAGE_PNG);
    image_request_free(&request);

    static const char *const json =
        "{\"prompt\":\"\\u5186\",\"model\":\"m\",\"n\":3,\"size\":\"640x480\",\"seed\":7,\"steps\":8.0,"
        "\"cfg_scale\":2.5,\"sigmas\":[1,0.5],\"response_format\":\"b64_json\","
        "\"output_format\":\"webp\",\"output_compression\":40,\"unknown\":{\"a\":1},\"mask\":null}";
    assert_true(read_text(json, false, &request, &error));
    assert_string_equal(request.prompt, "\xe5\x86\x86");
    assert_int_equal(request.count, 3);
    assert_int_equal(request.width, 640);
    assert_int_equal(request.height, 480);
    assert_true(request.has_seed && request.seed == 7 && request.base64);
    assert_int_equal(request.steps, 8);
    assert_true(request.guidance == 2.5f && request.sigma_count == 2 && request.sigmas[1] == 0.5f);
    assert_int_equal(request.format, IMAGE_WEBP);
    assert_int_equal(request.compression, 40);
    assert_int_equal(request.ignored_count, 1);
    assert_string_equal(request.ignored[0], "unknown");
    image_request_free(&request);

    static const char *const form =
        "{\"prompt\":\"a\",\"n\":\"3\",\"steps\":\"8\",\"guidance\":\"2.5\",\"seed\":\"7\","
        "\"sigmas\":[\"1\",\"0.5\"],\"stream\":\"false\"}";
    assert_true(read_text(form, true, &request, &error));
    assert_int_equal(request.count * 100 + request.steps, 308);
    assert_true(request.guidance == 2.5f && request.seed == 7 && request.sigmas[1] == 0.5f);
    image_request_free(&request);
}

static void test_errors_name_the_parameter(void **state) {
    static const struct {
        const char *text;
        bool form;
        const char *param;
    } cases[] = {
        {"{}", false, "prompt"},
        {"[]", false, ""},
        {"{\"prompt\":[]}", false, "prompt"},
        {"{\"prompt\":\"a\",\"n\":\"3\"}", false, "n"}, // only a form's numbers are texts
        {"{\"prompt\":\"a\",\"n\":3.5}", false, "n"},
        {"{\"prompt\":\"a\",\"n\":\"3x\"}", true, "n"},
        {"{\"prompt\":\"a\",\"n\":\" 3\"}", true, "n"},
        {"{\"prompt\":\"a\",\"n\":[\"3\"]}", true, "n"},
        {"{\"prompt\":\"a\",\"guidance\":\"0x1\"}", true, "guidance"},
        {"{\"prompt\":\"a\",\"guidance\":20.5}", false, "guidance"},
        {"{\"prompt\":\"a\",\"guidance\":1,\"guidance_scale\":2}", false, "guidance_scale"},
        {"{\"prompt\":\"a\",\"size\":\"64X\"}", false, "size"},
        {"{\"prompt\":\"a\",\"size\":\"1234567x1\"}", false, "size"},
        {"{\"prompt\":\"a\",\"stream\":\"yes\"}", true, "stream"},
        {"{\"prompt\":\"a\",\"seed\":9223372036854775807}", false, "seed"},
        {"{\"prompt\":\"a\",\"output_format\":\"PNG\"}", false, "output_format"},
        {"{\"prompt\":\"a\",\"image\":\"x\"}", false, "image"},
        {"{\"prompt\":\"a\",\"0123456789012345678901234567890123456789012345678901234567890123456789\":1}",
         false, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct image_request request;
        struct api_error error;
        if (read_text(cases[i].text, cases[i].form, &request, &error)) fail_msg("taken: %s", cases[i].text);
        assert_string_equal(error.param, cases[i].param);
        assert_int_equal(error.code, API_INVALID_REQUEST);
        image_request_free(&request);
    }
}

static void test_sizes(void **state) {
    static const struct {
        int width, height, deliver_width, deliver_height, render_width, render_height;
    } cases[] = {
        {0, 0, 0, 0, 0, 0},
        {1024, 768, 1024, 768, 1024, 768},
        {70, 90, 70, 90, 80, 96},
        {2048, 2048, 2048, 2048, 2048, 2048},
        {4096, 2048, 2048, 1024, 2048, 1024}, // larger than the limits: the ratio stays
        {65536, 1, 2048, 64, 2048, 64},
        {1, 65536, 64, 2048, 64, 2048},
        {1, 1, 64, 64, 64, 64},
        {32, 64, 64, 128, 64, 128},
        {3000, 2000, 2048, 1365, 2048, 1376},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct image_request request = {.width = cases[i].width, .height = cases[i].height};
        struct image_size size = image_request_size(&request, 16);
        assert_int_equal(size.deliver_width, cases[i].deliver_width);
        assert_int_equal(size.deliver_height, cases[i].deliver_height);
        assert_int_equal(size.render_width, cases[i].render_width);
        assert_int_equal(size.render_height, cases[i].render_height);
    }
}

static void test_error_bodies(void **state) {
    for (int code = API_INVALID_REQUEST; code <= API_STORAGE_FULL; code++) {
        const struct api_code_info *info = api_code_info((enum api_code)code);
        assert_int_equal(info->code, code);
        assert_in_range(info->status, 400, 599);
    }
    struct api_error error = {0};
    assert_false(api_error_set(&error, API_QUEUE_FULL, "n", "a \"quote\" and \xff"));
    assert_false(api_error_set(&error, API_NOT_FOUND, "", "the first error stays"));
    struct buffer body = {0};
    assert_true(api_error_body(&error, &body));
    assert_string_equal(
        body.data,
        "{\"error\":{\"message\":\"a \\\"quote\\\" and ?\",\"type\":\"rate_limit_error\",\"param\":\"n\","
        "\"code\":\"QUEUE_FULL\",\"openai_code\":\"rate_limit_exceeded\"}}");
    buffer_free(&body);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_errors_name_the_parameter),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_error_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
