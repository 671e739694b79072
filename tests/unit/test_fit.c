// Which types the parts of a model need to stay in memory, and making those forms.
#include "fixture.h"

#include "base/file.h"
#include "base/json.h"
#include "flux/fit.h"
#include "flux/pipeline.h"
#include "weights/parts.h"

#include <ftw.h>
#include <unistd.h>

#define GB        ((int64_t)1000000000)
#define PICTOGRAM LIMN_SOURCE_DIR "/models/pictogram"

static void test_types_for_machines(void **state) {
    // FLUX.2 [dev]: a transformer of 64.4 GB and a text encoder of 48 GB in bf16.
    static const struct {
        int64_t memory;
        enum dtype transformer, text;
        bool stays;
    } cases[] = {{16 * GB, DTYPE_Q4_K, DTYPE_Q4_K, false}, {24 * GB, DTYPE_Q4_K, DTYPE_Q6_K, true},
                 {32 * GB, DTYPE_Q6_K, DTYPE_Q8_0, true},  {48 * GB, DTYPE_Q8_0, DTYPE_Q8_0, true},
                 {64 * GB, DTYPE_Q8_0, DTYPE_BF16, true},  {128 * GB, DTYPE_BF16, DTYPE_BF16, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct part_fit transformer = part_fit(PART_TRANSFORMER, DTYPE_BF16, 644 * GB / 10, cases[i].memory);
        struct part_fit text = part_fit(PART_TEXT_ENCODER, DTYPE_BF16, 48 * GB, cases[i].memory);
        assert_int_equal(transformer.type, cases[i].transformer);
        assert_int_equal(text.type, cases[i].text);
        assert_int_equal(transformer.stays, cases[i].stays);
        assert_int_equal(transformer.there, cases[i].transformer == DTYPE_BF16);
        assert_true(transformer.bytes <= part_bytes_most(cases[i].memory) || !transformer.stays);
    }
    // What is small already is not blown up, and no type is finer than the source's.
    struct part_fit small = part_fit(PART_TRANSFORMER, DTYPE_Q6_K, 27 * GB, 24 * GB);
    assert_int_equal(small.type, DTYPE_Q4_K);
    small = part_fit(PART_TRANSFORMER, DTYPE_Q4_0, 18 * GB, 10 * GB);
    assert_int_equal(small.type, DTYPE_Q4_0);
    assert_true(small.there && !small.stays);
    small = part_fit(PART_TRANSFORMER, DTYPE_F32, 8 * GB, 6 * GB);
    assert_int_equal(small.type, DTYPE_BF16);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *ftw) {
    (void)status, (void)type, (void)ftw;
    return remove(path);
}

static int set_up(void **state) {
    static char folder[] = "/tmp/limn-fit-XXXXXX";
    strcpy(folder, "/tmp/limn-fit-XXXXXX");
    *state = folder;
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
    unsetenv("LIMN_MEMORY");
    return nftw(*state, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void fit(const char *folder, const char *target, int64_t memory, struct part_fit fits[FIT_PARTS]) {
    const struct convert_model convert = {.threads = 2};
    struct error error = {0};
    assert_ok(model_fit(folder, memory, fits, &error), error);
    assert_ok(model_fit_make(folder, target, fits, &convert, &error), error);
}

static json_t *settings(const char *folder) {
    char path[200];
    struct error error = {0};
    snprintf(path, sizeof path, "%s/limn.json", folder);
    json_t *json = json_read_file(path, 1 << 20, &error);
    assert_ok(json, error);
    return json;
}

static const char *form(const json_t *json, const char *part, size_t index) {
    const char *name = json_string_value(json_array_get(json_object_get(json, part), index));
    return name ? name : "(none)";
}

static char *part_in(const char *folder, enum model_part part, const char *memory) {
    struct error error = {0};
    setenv("LIMN_MEMORY", memory, 1);
    char *path = part_find(folder, part, &error);
    assert_ok(path, error);
    return path;
}

// A folder that stands on another gets smaller forms, is opened with the one for the memory, and draws.
static void test_folder_on_another(void **state) {
    char target[100], path[200];
    struct part_fit fits[FIT_PARTS];
    snprintf(target, sizeof target, "%s/small", (char *)*state);
    fit(PICTOGRAM, target, 4400000, fits); // the transformer has 13.4 MB in bf16, the text encoder 3.7
    assert_int_equal(fits[0].type, DTYPE_Q4_K);
    assert_false(fits[0].there);
    assert_int_equal(fits[1].type, DTYPE_BF16);
    assert_true(fits[1].there);
    json_t *json = settings(target);
    assert_string_equal(json_string_value(json_object_get(json, "base")), PICTOGRAM);
    assert_string_equal(form(json, "transformer", 0), "transformer");
    assert_string_equal(form(json, "transformer", 1), "transformer-Q4_K.gguf");
    assert_null(json_object_get(json, "text_encoder"));
    json_decref(json);

    // Again for a little more: one form more, in its place; what is there is not made again.
    snprintf(path, sizeof path, "%s/transformer-Q4_K.gguf", target);
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    fit(target, target, 9000000, fits);
    assert_int_equal(fits[0].type, DTYPE_Q8_0);
    json = settings(target);
    assert_int_equal(json_array_size(json_object_get(json, "transformer")), 3);
    assert_string_equal(form(json, "transformer", 1), "transformer-Q8_0.gguf");
    assert_string_equal(form(json, "transformer", 2), "transformer-Q4_K.gguf");
    json_decref(json);
    assert_int_equal(stat(path, &after), 0);
    assert_true(before.st_ino == after.st_ino && before.st_mtime == after.st_mtime);
    struct error error = {0};
    assert_ok(model_fit(target, 9000000, fits, &error), error);
    assert_int_equal(fits[0].type, DTYPE_Q8_0);
    assert_true(fits[0].there);

    static const struct {
        const char *memory, *name;
    } cases[] = {
        {"1GB", "/transformer"}, {"10MB", "/transformer-Q8_0.gguf"}, {"2MB", "/transformer-Q4_K.gguf"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *found = part_in(target, PART_TRANSFORMER, cases[i].memory);
        assert_string_equal(found + strlen(target), cases[i].name);
        free(found);
    }
    setenv("LIMN_MEMORY", "60MB", 1);
    struct limn_request request;
    limn_request_init(&request);
    request.prompt = "a red circle";
    request.width = request.height = 64;
    request.steps = 1;
    struct pipeline *pipeline = pipeline_open(target, NULL, &error);
    assert_ok(pipeline, error);
    struct limn_result *result = pipeline_run(pipeline, &request, NULL, &error);
    assert_ok(result, error);
    limn_result_free(result);
    pipeline_close(pipeline);
}

// Both parts, in the model's own folder; the tokenizer stays where it is.
static void test_own_folder(void **state) {
    char command[400];
    struct part_fit fits[FIT_PARTS];
    snprintf(command, sizeof command, "cp -r " PICTOGRAM "/. %s", (char *)*state);
    assert_int_equal(system(command), 0);
    fit(*state, *state, 1000000, fits);
    json_t *json = settings(*state);
    assert_string_equal(form(json, "transformer", 0), "transformer");
    assert_string_equal(form(json, "transformer", 1), "transformer-Q4_K.gguf");
    assert_string_equal(form(json, "text_encoder", 0), "text_encoder");
    assert_string_equal(form(json, "text_encoder", 1), "text_encoder-Q4_K.gguf");
    assert_int_equal(json_integer_value(json_object_get(json, "steps")), 8); // the rest is as it was
    json_decref(json);
    char *found = part_in(*state, PART_TEXT_ENCODER, "1MB");
    assert_string_equal(found + strlen(*state), "/text_encoder-Q4_K.gguf");
    free(found);
    setenv("LIMN_MEMORY", "1MB", 1);
    struct error error = {0};
    struct pipeline *pipeline = pipeline_open(*state, NULL, &error);
    assert_ok(pipeline, error);
    pipeline_close(pipeline);
}

// Where the text encoder gets forms in a folder on another, its tokenizer comes along.
static void test_tokenizer_comes_along(void **state) {
    char target[100];
    struct part_fit fits[FIT_PARTS];
    snprintf(target, sizeof target, "%s/small", (char *)*state);
    fit(PICTOGRAM, target, 1000000, fits);
    struct error error = {0};
    char *tokenizer = part_find_tokenizer(target, &error);
    assert_ok(tokenizer, error);
    assert_string_equal(tokenizer + strlen(target), "/tokenizer");
    free(tokenizer);
    setenv("LIMN_MEMORY", "1MB", 1);
    struct pipeline *pipeline = pipeline_open(target, NULL, &error);
    assert_ok(pipeline, error);
    pipeline_close(pipeline);
}

static void test_links_replace_links_only(void **state) {
    char link[120], text[200];
    struct error error = {0};
    snprintf(link, sizeof link, "%s/link", (char *)*state);
    assert_ok(file_link("/first", link, &error), error);
    assert_ok(file_link("/second", link, &error), error);
    const ssize_t length = readlink(link, text, sizeof text);
    assert_int_equal(length, 7);
    assert_memory_equal(text, "/second", 7);
    assert_int_equal(unlink(link), 0);
    assert_ok(file_write(link, "kept", 4, &error), error);
    assert_false(file_link("/third", link, &error));
    assert_contains(error.message, "is there already");
    struct stat about;
    assert_true(lstat(link, &about) == 0 && S_ISREG(about.st_mode) && about.st_size == 4);
}

static void test_wrong_folders(void **state) {
    struct part_fit fits[FIT_PARTS];
    struct error error = {0};
    assert_false(model_fit(*state, GB, fits, &error)); // nothing in it
    assert_contains(error.message, "transformer");
    char path[200];
    snprintf(path, sizeof path, "%s/limn.json", (char *)*state);
    error = (struct error){0};
    assert_ok(file_write(path, "[]", 2, &error), error);
    assert_false(model_fit(*state, GB, fits, &error));
    assert_contains(error.message, "limn.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types_for_machines),
        cmocka_unit_test_setup_teardown(test_folder_on_another, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_own_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tokenizer_comes_along, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_links_replace_links_only, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wrong_folders, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
