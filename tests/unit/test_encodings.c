// The cache of encodings: what it finds, what it forgets, and that pictures are the same with it and without it.
#include "unit.h"

#include "flux/encodings.h"
#include "limn/limn.h"

#define MODEL LIMN_SOURCE_DIR "/tests/fixtures/model-a"

static struct encodings_key key_of(int number) {
    const int64_t numbers[] = {number};
    return encodings_key("test", numbers, 1, "data", 4);
}

static void keep(struct encodings *encodings, int number, size_t count) {
    struct encodings_key key = key_of(number);
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++) values[i] = (float)number + (float)i / 8192;
    encodings_keep(encodings, &key, values, count);
    free(values);
}

static bool has(struct encodings *encodings, int number, size_t count) {
    struct encodings_key key = key_of(number);
    const float *values = encodings_find(encodings, &key, count);
    for (size_t i = 0; values && i < count; i++)
        if (values[i] < (float)number || values[i] > (float)number + 1) fail_msg("another's value");
    return values;
}

static void test_keys(void **state) {
    const int64_t one[] = {1, 2}, other[] = {1, 3};
    struct encodings_key keys[] = {
        encodings_key("a", one, 2, "data", 4),   encodings_key("b", one, 2, "data", 4),
        encodings_key("a", other, 2, "data", 4), encodings_key("a", one, 1, "data", 4),
        encodings_key("a", one, 2, "date", 4),   encodings_key("a", one, 2, "data", 3),
        encodings_key("a", one, 2, NULL, 0),
    };
    int count = sizeof keys / sizeof *keys;
    for (int i = 0; i < count; i++)
        for (int k = i + 1; k < count; k++) assert_memory_not_equal(&keys[i], &keys[k], sizeof *keys);
    struct encodings_key again = encodings_key("a", one, 2, "data", 4);
    assert_memory_equal(&again, &keys[0], sizeof again);
}

static void test_bounded(void **state) {
    enum { COUNT = 1000 };
    size_t each = COUNT * sizeof(float) + 128; // an entry's head is smaller
    struct encodings *encodings = encodings_open(3 * each);
    assert_non_null(encodings);
    for (int i = 0; i < 3; i++) keep(encodings, i, COUNT);
    assert_true(has(encodings, 0, COUNT) && has(encodings, 1, COUNT) && has(encodings, 2, COUNT));
    assert_true(has(encodings, 0, COUNT)); // used last
    keep(encodings, 3, COUNT);             // 1 was used least lately
    assert_false(has(encodings, 1, COUNT));
    assert_true(has(encodings, 0, COUNT) && has(encodings, 2, COUNT) && has(encodings, 3, COUNT));
    assert_true(encodings_bytes(encodings) <= 3 * each);
    keep(encodings, 4, 2 * COUNT); // takes the place of two
    assert_true(has(encodings, 4, 2 * COUNT));
    assert_true(encodings_bytes(encodings) <= 3 * each);
    keep(encodings, 5, 4 * COUNT); // never fits, and drives nothing out
    assert_false(has(encodings, 5, 4 * COUNT));
    assert_true(has(encodings, 4, 2 * COUNT));
    assert_false(has(encodings, 4, COUNT)); // another number of values is not what is asked for
    keep(encodings, 4, COUNT);              // kept anew, once
    assert_true(has(encodings, 4, COUNT));
    encodings_clear(encodings);
    assert_int_equal(encodings_bytes(encodings), 0);
    assert_false(has(encodings, 4, COUNT));
    encodings_close(encodings);
}

static void test_none(void **state) {
    struct encodings *encodings = encodings_open(0);
    keep(encodings, 1, 10);
    assert_false(has(encodings, 1, 10));
    encodings_close(encodings);
    keep(NULL, 1, 10);
    assert_false(has(NULL, 1, 10));
    assert_int_equal(encodings_bytes(NULL), 0);
    encodings_clear(NULL);
    encodings_close(NULL);
}

// ------------------------------------------------------------------------------------------------------- the pipeline

static struct limn_model *open_model(size_t cache_bytes, enum limn_compute compute) {
    struct limn_options options;
    struct limn_error error;
    limn_options_init(&options);
    options.threads = 2;
    options.cache_bytes = cache_bytes;
    options.compute = compute;
    struct limn_model *model = limn_open(MODEL, &options, &error);
    if (!model) fail_msg("%s", error.message);
    return model;
}

static struct limn_result *draw(struct limn_model *model, const char *prompt,
                                const struct limn_image *references, int count) {
    struct limn_request request;
    struct limn_error error;
    limn_request_init(&request);
    request.prompt = prompt;
    request.references = references;
    request.reference_count = count;
    request.width = request.height = 64;
    request.steps = 2;
    struct limn_result *result = limn_run(model, &request, &error);
    if (!result) fail_msg("%s", error.message);
    return result;
}

static void expect_same(struct limn_model *cached, struct limn_model *plain, const char *prompt,
                        const struct limn_image *references, int count, bool text, int from_cache) {
    struct limn_result *a = draw(cached, prompt, references, count),
                       *b = draw(plain, prompt, references, count);
    assert_int_equal(a->text_cached, text);
    assert_int_equal(a->references_cached, from_cache);
    assert_false(b->text_cached || b->references_cached);
    assert_int_equal(a->text_tokens, b->text_tokens);
    assert_int_equal(a->reference_tokens, b->reference_tokens);
    assert_memory_equal(a->images[0].pixels, b->images[0].pixels, 64 * 64 * 3);
    limn_result_free(a);
    limn_result_free(b);
}

static void test_same_pictures(void **state) {
    struct limn_image references[2];
    for (int i = 0; i < 2; i++) {
        references[i] = (struct limn_image){80, 64, malloc(80 * 64 * 3)};
        assert_non_null(references[i].pixels);
        for (int k = 0; k < 80 * 64 * 3; k++) references[i].pixels[k] = (uint8_t)(k * (7 + 4 * i) / 5);
    }
    char longest[4096]; // more tokens than the text length: no padding
    for (size_t i = 0; i + 2 < sizeof longest; i += 2) memcpy(longest + i, "a ", 3);
    for (int compute = LIMN_COMPUTE_F32; compute <= LIMN_COMPUTE_BF16; compute++) {
        struct limn_model *cached = open_model(16 << 20, (enum limn_compute)compute);
        struct limn_model *plain = open_model(0, (enum limn_compute)compute);
        expect_same(cached, plain, "a red circle", NULL, 0, false, 0);
        expect_same(cached, plain, "a red circle", NULL, 0, true, 0);
        expect_same(cached, plain, "a blue circle", references, 1, false, 0);
        expect_same(cached, plain, "a red circle", references, 2, true, 1);
        expect_same(cached, plain, "a blue circle", references, 2, true, 2);
        struct limn_image turned[2] = {references[1], references[0]};
        expect_same(cached, plain, "a blue circle", turned, 2, true, 2);
        expect_same(cached, plain, longest, NULL, 0, false, 0);
        expect_same(cached, plain, longest, NULL, 0, true, 0);
        limn_close(cached);
        limn_close(plain);
    }
    for (int i = 0; i < 2; i++) free(references[i].pixels);
}

// One that holds next to nothing forgets all the time, and gives the same.
static void test_tiny(void **state) {
    struct limn_model *cached = open_model(1000, LIMN_COMPUTE_F32), *plain = open_model(0, LIMN_COMPUTE_F32);
    expect_same(cached, plain, "a red circle", NULL, 0, false, 0);
    expect_same(cached, plain, "a red circle", NULL, 0, false, 0);
    limn_close(cached);
    limn_close(plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),          cmocka_unit_test(test_bounded), cmocka_unit_test(test_none),
        cmocka_unit_test(test_same_pictures), cmocka_unit_test(test_tiny),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
