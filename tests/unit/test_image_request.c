// Requests: every parameter's values and errors, from JSON and from forms; sizes; errors as bodies.
#include "base/file.h"
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
    assert_int_equal(request.steps + request.sigma_count + request.ignored_count, 0);
    assert_true(request.guidance < 0 && !request.has_seed && request.answer_as == ANSWER_DEFAULT);
    assert_int_equal(request.format, IMAGE_UNKNOWN);
    assert_true(!request.size && !request.stream && !request.has_safety_checker && !request.lora_count);
    image_request_free(&request);

    static const char *const json =
        "{\"prompt\":\"\\u5186\",\"model\":\"m\",\"n\":3,\"size\":\"640x480\",\"seed\":7,\"steps\":8.0,"
        "\"cfg_scale\":2.5,\"sigmas\":[1,0.5],\"response_format\":\"b64_json\","
        "\"output_format\":\"webp\",\"output_compression\":40,\"unknown\":{\"a\":1},\"mask\":null}";
    assert_true(read_text(json, false, &request, &error));
    assert_string_equal(request.prompt, "\xe5\x86\x86");
    assert_int_equal(request.count, 3);
    assert_string_equal(request.size, "640x480");
    assert_true(request.has_seed && request.seed == 7 && request.answer_as == ANSWER_BASE64);
    assert_int_equal(request.steps, 8);
    assert_true(request.guidance == 2.5 && request.sigma_count == 2 && request.sigmas[1] == 0.5f);
    assert_int_equal(request.format, IMAGE_WEBP);
    assert_int_equal(request.compression, 40);
    assert_non_null(json_object_get(request.given, "unknown")); // the card says whether it is of use
    assert_null(json_object_get(request.given, "mask"));
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
        {"{\"prompt\":\"a\",\"size\":1024}", false, "size"},
        {"{\"prompt\":\"a\",\"aspect_ratio\":1.5}", false, "aspect_ratio"},
        {"{\"prompt\":\"a\",\"resolution\":[]}", false, "resolution"},
        {"{\"prompt\":\"a\",\"response_format\":\"base64\"}", false, "response_format"},
        {"{\"prompt\":\"a\",\"n\":0}", false, "n"},
        {"{\"prompt\":\"a\",\"n\":11}", false, "n"},
        {"{\"prompt\":\"a\",\"quality\":\"best\"}", false, "quality"},
        {"{\"prompt\":\"a\",\"style\":\"\"}", false, "style"},
        {"{\"prompt\":\"a\",\"moderation\":\"high\"}", false, "moderation"},
        {"{\"prompt\":\"a\",\"input_fidelity\":1}", false, "input_fidelity"},
        {"{\"prompt\":\"a\",\"background\":\"white\"}", false, "background"},
        {"{\"prompt\":\"a\",\"background\":\"transparent\",\"output_format\":\"jpeg\"}", false, "background"},
        {"{\"prompt\":\"a\",\"partial_images\":4}", false, "partial_images"},
        {"{\"prompt\":\"a\",\"output_compression\":101}", false, "output_compression"},
        {"{\"prompt\":\"a\",\"prompt_enhancement\":true}", false, "prompt_enhancement"},
        {"{\"prompt\":\"a\",\"prompt_enhancement\":\"on\",\"enable_prompt_expansion\":false}", false,
         "enable_prompt_expansion"},
        {"{\"prompt\":\"a\",\"enable_safety_checker\":\"no\"}", false, "enable_safety_checker"},
        {"{\"prompt\":\"a\",\"sync_mode\":1}", false, "sync_mode"},
        {"{\"prompt\":\"a\",\"sigmas\":[]}", false, "sigmas"},
        {"{\"prompt\":\"a\",\"sigmas\":[1,0]}", false, "sigmas"},
        {"{\"prompt\":\"a\",\"steps\":201}", false, "steps"},
        {"{\"prompt\":\"a\",\"lora\":3}", false, "lora"},
        {"{\"prompt\":\"a\",\"lora\":\"\"}", false, "lora"},
        {"{\"prompt\":\"a\",\"lora\":{}}", false, "lora"},
        {"{\"prompt\":\"a\",\"lora\":{\"name\":3}}", false, "lora"},
        {"{\"prompt\":\"a\",\"lora\":{\"name\":\"b\",\"scale\":\"1\"}}", false, "lora"},
        {"{\"prompt\":\"a\",\"lora\":{\"name\":\"b\",\"scale\":-4.1}}", false, "lora"},
        {"{\"prompt\":\"a\",\"lora\":{\"name\":\"b\",\"weight\":1}}", false, "lora"},
        {"{\"prompt\":\"a\",\"lora\":{\"path\":\"/etc/passwd\"}}", false, "lora"},
        {"{\"prompt\":\"a\",\"lora\":[\"b\",\"b\"]}", false, "lora"},
        {"{\"prompt\":\"a\",\"lora\":[\"b\",[\"c\"]]}", false, "lora"},
        {"{\"prompt\":\"a\",\"lora\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", false, "lora"},
        {"{\"prompt\":\"a\",\"lora\":\"[\\\"b\\\"\"}", true, "lora"},
        {"{\"prompt\":\"a\",\"user\":{}}", false, "user"},
        {"{\"prompt\":\"a\",\"webhook_url\":\"https://a.example\"}", false, "webhook_url"},
        {"{\"prompt\":\"\"}", false, "prompt"},
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

// A parameter's value and what becomes of it.
static void test_each_parameter(void **state) {
    struct image_request r;
    struct api_error error;
    assert_true(read_text(
        "{\"prompt\":\"a\",\"aspect_ratio\":\"16:9\",\"resolution\":\"2K\",\"output_format\":\"avif\","
        "\"background\":\"transparent\",\"prompt_enhancement\":\"on\",\"enable_safety_checker\":false,"
        "\"sync_mode\":true,\"user\":\"u1\",\"quality\":\"high\",\"style\":\"vivid\","
        "\"moderation\":\"low\",\"input_fidelity\":\"high\",\"stream\":true,\"partial_images\":3,"
        "\"lora\":{\"name\":\"x\"},\"cfg_scale\":2.5,\"guidance\":2.5}",
        false, &r, &error));
    assert_string_equal(r.aspect_ratio, "16:9");
    assert_string_equal(r.resolution, "2K");
    assert_int_equal(r.format, IMAGE_AVIF);
    assert_int_equal(r.background, BACKGROUND_TRANSPARENT);
    assert_true(r.prompt_enhancement && r.has_safety_checker && !r.safety_checker && r.sync_mode &&
                r.lora_count == 1);
    assert_string_equal(r.user, "u1");
    assert_true(r.stream && r.partial_images == 3 && r.guidance == 2.5);
    image_request_free(&r);

    // A form says the same with texts.
    assert_true(
        read_text("{\"prompt\":\"a\",\"resolution\":\"0.25\",\"enable_safety_checker\":\"true\","
                  "\"sync_mode\":\"1\",\"stream\":\"true\",\"partial_images\":\"2\",\"sigmas\":\"[1,0.25]\"}",
                  true, &r, &error));
    assert_true(r.safety_checker && r.sync_mode && r.stream && r.partial_images == 2);
    assert_true(r.sigma_count == 2 && r.sigmas[1] == 0.25f);
    image_request_free(&r);

    assert_true(
        read_text("{\"prompt\":\"a\",\"lora\":\"[\\\"b\\\",{\\\"name\\\":\\\"c\\\",\\\"scale\\\":-0.5}]\"}",
                  true, &r, &error));
    assert_int_equal(r.lora_count, 2);
    assert_true(!r.loras[0].has_scale && r.loras[1].has_scale && r.loras[1].scale == -0.5);
    assert_string_equal(r.loras[1].name, "c");
    image_request_free(&r);

    assert_true(
        read_text("{\"prompt\":\"a\",\"resolution\":0.25,\"output_compression\":50,\"partial_images\":2}",
                  false, &r, &error));
    assert_string_equal(r.resolution, "0.25");
    assert_true(r.compression == -1 && r.partial_images == 0); // PNG is lossless; there is no stream
    assert_int_equal(r.ignored_count, 2);
    image_request_free(&r);
}

static void test_null_means_absent(void **state) {
    struct image_request r;
    struct api_error error;
    assert_true(
        read_text("{\"prompt\":\"a\",\"model\":null,\"n\":null,\"size\":null,\"image\":null,\"images\":null,"
                  "\"seed\":null,\"stream\":null,\"background\":null,\"lora\":null,\"what\":null}",
                  false, &r, &error));
    assert_int_equal(json_object_size(r.given), 1);
    image_request_free(&r);
}

// ---------------------------------------------------------------------------------------------------- pictures in JSON

static const unsigned char PNG_HEAD[] = {0x89, 'P', 'N', 'G', 13,  10, 26, 10, 0, 0, 0,
                                         13,   'I', 'H', 'D', 'R', 0,  0,  0,  4, 0, 0,
                                         0,    3,   8,   2,   0,   0,  0,  0,  0, 0, 0};
// The same as base64.
#define PNG_TEXT "iVBORw0KGgoAAAANSUhEUgAAAAQAAAADCAIAAAAAAAAA"

static bool read_edit(const char *text, const char *spool, struct image_request *request,
                      struct api_error *error) {
    struct error cause = {0};
    json_t *fields = json_parse("test", text, strlen(text), &cause);
    if (!fields) fail_msg("%s", cause.message);
    *error = (struct api_error){0};
    image_request_init(request, MODE_EDIT, "req_test");
    request->spool_folder = spool;
    bool good = image_request_read(request, fields, false, error);
    json_decref(fields);
    return good;
}

static void empty_folder(const char *folder) {
    char command[200];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

static void test_pictures_in_json(void **state) {
    char folder[] = "/tmp/limn-test-request-XXXXXX", path[200];
    assert_non_null(mkdtemp(folder));
    struct image_request r;
    struct api_error error;
    assert_true(
        read_edit("{\"prompt\":\"a\",\"images\":[{\"image_url\":\"data:image/png;base64," PNG_TEXT "\"},"
                  "{\"image_url\":\"https://pictures.example/a.png\"},\"data:;base64," PNG_TEXT "\"]}",
                  folder, &r, &error));
    assert_int_equal(r.reference_count, 3);
    assert_int_equal(r.references[0].header.width, 4);
    assert_int_equal(r.references[2].header.height, 3);
    assert_string_equal(r.references[1].url, "https://pictures.example/a.png");
    assert_string_equal(r.references[1].file, "");
    assert_null(json_object_get(r.given, "images")); // it is large
    char *data;
    size_t size;
    struct error cause = {0};
    snprintf(path, sizeof path, "%s/%s", folder, r.references[0].file);
    assert_true(file_read(path, 1000, &data, &size, &cause));
    assert_int_equal(size, sizeof PNG_HEAD);
    assert_memory_equal(data, PNG_HEAD, sizeof PNG_HEAD);
    free(data);
    image_request_free(&r);
    empty_folder(folder);

    static const struct {
        const char *value, *param, *word;
    } bad[] = {
        {"\"images\":[{\"file_id\":\"file-1\"}]", "image", "file_id"},
        {"\"images\":[]", "images", "empty"},
        {"\"images\":[3]", "image", "expected"},
        {"\"images\":[{\"image_url\":\"http://pictures.example/a.png\"}]", "image", "https"},
        {"\"images\":[{\"image_url\":\"https://pictures.example/a b\"}]", "image", "escaped"},
        {"\"images\":[{\"image_url\":\"data:image/png;base64,AAAA\"}]", "image", "image"},
        {"\"images\":[{\"image_url\":\"data:image/png;base64,A*AA\"}]", "image", "base64"},
        {"\"images\":[{\"image_url\":\"data:text/html,a\"}]", "image", "text/html"},
        {"\"image\":[\"https://a.example/1\",\"https://a.example/2\",\"https://a.example/3\",\"https://"
         "a.example/4\","
         "\"https://a.example/5\"]",
         "image", "at most 4"},
        {"\"image\":\"https://a.example/1\",\"mask\":{\"file_id\":\"f\"}", "mask", "file_id"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[600];
        snprintf(text, sizeof text, "{\"prompt\":\"a\",%s}", bad[i].value);
        if (read_edit(text, folder, &r, &error)) fail_msg("taken: %s", text);
        assert_string_equal(error.param, bad[i].param);
        if (!strstr(error.message, bad[i].word))
            fail_msg("%s: no \"%s\" in: %s", text, bad[i].word, error.message);
        image_request_free(&r);
    }
}

static void test_masks(void **state) {
    struct image_request r;
    struct api_error error = {0};
    unsigned char other[sizeof PNG_HEAD];
    memcpy(other, PNG_HEAD, sizeof other);
    other[19] = 5; // wider
    image_request_init(&r, MODE_EDIT, "req_test");
    assert_true(image_request_add_mask(&r, "m", PNG_HEAD, sizeof PNG_HEAD, &error));
    assert_true(image_request_add_reference(&r, "a", PNG_HEAD, sizeof PNG_HEAD, &error));
    assert_true(image_request_check_pictures(&r, &error));
    assert_false(image_request_add_mask(&r, "m", PNG_HEAD, sizeof PNG_HEAD, &error));
    assert_string_equal(error.param, "mask");
    error = (struct api_error){0};
    assert_true(image_request_fill(&r, &r.mask, other, sizeof other, &error));
    assert_false(image_request_check_pictures(&r, &error));
    assert_string_equal(error.param, "mask");
    assert_non_null(strstr(error.message, "5x3"));
    error = (struct api_error){0};
    r.pixels_most = 11;
    assert_false(image_request_add_reference(&r, "b", PNG_HEAD, sizeof PNG_HEAD, &error));
    assert_string_equal(error.param, "image[1]");
    image_request_free(&r);
}

// Two bodies are one when they ask for the same, in whatever order.
static void test_fingerprints(void **state) {
    static const char *const bodies[] = {"{\"prompt\":\"a\",\"n\":2}",
                                         "{\"n\":2,\"prompt\":\"a\",\"size\":null}",
                                         "{\"prompt\":\"a\",\"n\":3}", "{\"prompt\":\"a\",\"n\":2,\"x\":1}"};
    unsigned char prints[4][32], edit[2][32];
    struct image_request r;
    struct api_error error;
    for (int i = 0; i < 4; i++) {
        assert_true(read_text(bodies[i], false, &r, &error));
        assert_true(image_request_fingerprint(&r, prints[i], &error));
        image_request_free(&r);
    }
    assert_memory_equal(prints[0], prints[1], 32);
    assert_memory_not_equal(prints[0], prints[2], 32);
    assert_memory_not_equal(prints[0], prints[3], 32);
    for (int i = 0; i < 2; i++) { // the bytes of a picture count
        image_request_init(&r, MODE_EDIT, "req_test");
        r.given = json_object();
        assert_true(image_request_add_reference(&r, "a", PNG_HEAD, sizeof PNG_HEAD, &error));
        r.references[0].has_hash = true;
        r.references[0].hash[0] = (unsigned char)i;
        assert_true(image_request_fingerprint(&r, edit[i], &error));
        image_request_free(&r);
    }
    assert_memory_not_equal(edit[0], edit[1], 32);
}

static void test_error_bodies(void **state) {
    for (int code = API_INVALID_REQUEST; code < API_CODES; code++) {
        const struct api_code_info *info = api_code_info((enum api_code)code);
        assert_int_equal(info->code, code);
        assert_in_range(info->status, 400, 599);
        assert_ptr_equal(api_code_named(info->name), info);
    }
    assert_null(api_code_named("NO_SUCH_CODE"));
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
        cmocka_unit_test(test_values),           cmocka_unit_test(test_errors_name_the_parameter),
        cmocka_unit_test(test_each_parameter),   cmocka_unit_test(test_null_means_absent),
        cmocka_unit_test(test_pictures_in_json), cmocka_unit_test(test_masks),
        cmocka_unit_test(test_fingerprints),     cmocka_unit_test(test_error_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
