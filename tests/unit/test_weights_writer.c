#include "unit.h"

#include "base/file.h"
#include "weights/checkpoint.h"
#include "weights/weights_writer.h"

#include <unistd.h>

static char folder[] = "/tmp/limn-writer-XXXXXX", path[64], part[72];

static const float values[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
static const uint16_t halves[5] = {1, 2, 3, 4, 5};

static const struct planned_tensor tensors[] = {
    {"b.weight", DTYPE_F32, 2, {3, 4}},
    {"a.bias", DTYPE_BF16, 1, {5}},
};

static struct weights_plan plan_of(enum weights_format format, const struct planned_metadata *metadata,
                                   int64_t count) {
    return (struct weights_plan){
        .format = format, .tensors = tensors, .count = 2, .metadata = metadata, .metadata_count = count};
}

static void write_rest(struct weights_writer *writer, struct error *error) {
    if (weights_writer_next(writer) == 0) {
        assert_ok(weights_writer_add(writer, values, 20, error), *error); // in two pieces
        assert_int_equal(weights_writer_next(writer), 0);
        assert_ok(weights_writer_add(writer, values + 5, 28, error), *error);
    }
    assert_int_equal(weights_writer_next(writer), 1);
    assert_ok(weights_writer_add(writer, halves, 10, error), *error);
    assert_ok(weights_writer_finish(writer, error), *error);
    weights_writer_close(writer);
}

static void check_safetensors(void) {
    struct error error = {0};
    struct checkpoint *checkpoint = checkpoint_open(path, &error);
    assert_ok(checkpoint, error);
    assert_int_equal(checkpoint_count(checkpoint), 2);
    const struct tensor *b = &checkpoint_find(checkpoint, "b.weight")->tensor;
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[1], 4);
    assert_memory_equal(b->data, values, sizeof values);
    assert_memory_equal(checkpoint_find(checkpoint, "a.bias")->tensor.data, halves, sizeof halves);
    assert_string_equal(checkpoint_metadata(checkpoint, "from"), "here");
    checkpoint_close(checkpoint);
    assert_false(file_exists(part));
}

static const struct planned_metadata from_here[] = {{"from", METADATA_TEXT, .text = "here"}};

static void safetensors_reads_back(void **state) {
    struct error error = {0};
    struct weights_plan plan = plan_of(WEIGHTS_SAFETENSORS, from_here, 1);
    struct weights_writer *writer = weights_writer_open(path, &plan, &error);
    assert_ok(writer, error);
    assert_int_equal(weights_writer_next(writer), 0);
    assert_null(weights_writer_open(path, &plan, &error));
    assert_contains(error.message, "another process");
    error = (struct error){0};
    write_rest(writer, &error);
    check_safetensors();
    char *data;
    size_t size;
    assert_ok(file_read(path, 10000, &data, &size, &error), error);
    assert_int_equal(weights_plan_bytes(&plan, &error), size);
    free(data);
    assert_true(weights_plan_done(&plan, path));
    static const struct planned_metadata other[] = {{"from", METADATA_TEXT, .text = "hers"}};
    struct weights_plan another = plan_of(WEIGHTS_SAFETENSORS, other, 1);
    assert_false(weights_plan_done(&another, path));
    assert_ok(file_write(path, "short", 5, &error), error);
    assert_false(weights_plan_done(&plan, path));
}

// A run that ended inside the second tensor leaves the first; one of another plan leaves nothing.
static void goes_on_behind_the_last_whole_tensor(void **state) {
    struct error error = {0};
    struct weights_plan plan = plan_of(WEIGHTS_SAFETENSORS, from_here, 1);
    struct weights_writer *writer = weights_writer_open(path, &plan, &error);
    assert_ok(writer, error);
    assert_ok(weights_writer_add(writer, values, sizeof values, &error), error);
    assert_ok(weights_writer_add(writer, halves, 4, &error), error);
    assert_false(weights_writer_finish(writer, &error));
    assert_contains(error.message, "a.bias");
    weights_writer_close(writer);
    assert_true(file_exists(part));
    error = (struct error){0};
    writer = weights_writer_open(path, &plan, &error);
    assert_ok(writer, error);
    assert_int_equal(weights_writer_next(writer), 1);
    write_rest(writer, &error);
    check_safetensors();

    writer = weights_writer_open(path, &plan, &error);
    assert_ok(weights_writer_add(writer, values, sizeof values, &error), error);
    weights_writer_close(writer);
    static const struct planned_metadata other[] = {{"from", METADATA_TEXT, .text = "else"}};
    struct weights_plan another = plan_of(WEIGHTS_SAFETENSORS, other, 1);
    writer = weights_writer_open(path, &another, &error);
    assert_ok(writer, error);
    assert_int_equal(weights_writer_next(writer), 0);
    weights_writer_close(writer);
    unlink(part);
}

// Byte for byte what the format's description says.
static void gguf_has_its_bytes(void **state) {
    static const char *const texts[] = {"x", "yz"};
    static const int32_t integers[] = {-1, 7};
    const struct planned_metadata metadata[] = {
        {"t", METADATA_TEXT, .text = "abc"},
        {"u", METADATA_U32, .number = 258},
        {"f", METADATA_F32, .number = 1.5},
        {"b", METADATA_BOOL, .number = 1},
        {"s", METADATA_TEXTS, .texts = texts, .count = 2},
        {"i", METADATA_I32S, .integers = integers, .count = 2},
    };
    struct error error = {0};
    struct weights_plan plan = plan_of(WEIGHTS_GGUF, metadata, 6);
    struct weights_writer *writer = weights_writer_open(path, &plan, &error);
    assert_ok(writer, error);
    write_rest(writer, &error);
    static const char expected[] = "GGUF\3\0\0\0"
                                   "\2\0\0\0\0\0\0\0"
                                   "\6\0\0\0\0\0\0\0"
                                   "\1\0\0\0\0\0\0\0t\10\0\0\0"
                                   "\3\0\0\0\0\0\0\0abc"
                                   "\1\0\0\0\0\0\0\0u\4\0\0\0"
                                   "\2\1\0\0"
                                   "\1\0\0\0\0\0\0\0f\6\0\0\0"
                                   "\0\0\xc0\x3f"
                                   "\1\0\0\0\0\0\0\0b\7\0\0\0"
                                   "\1"
                                   "\1\0\0\0\0\0\0\0s\11\0\0\0"
                                   "\10\0\0\0"
                                   "\2\0\0\0\0\0\0\0"
                                   "\1\0\0\0\0\0\0\0x"
                                   "\2\0\0\0\0\0\0\0yz"
                                   "\1\0\0\0\0\0\0\0i\11\0\0\0"
                                   "\5\0\0\0"
                                   "\2\0\0\0\0\0\0\0"
                                   "\xff\xff\xff\xff\7\0\0\0"
                                   "\10\0\0\0\0\0\0\0b.weight"
                                   "\2\0\0\0"
                                   "\4\0\0\0\0\0\0\0"
                                   "\3\0\0\0\0\0\0\0"
                                   "\0\0\0\0"
                                   "\0\0\0\0\0\0\0\0"
                                   "\6\0\0\0\0\0\0\0a.bias"
                                   "\1\0\0\0"
                                   "\5\0\0\0\0\0\0\0"
                                   "\36\0\0\0"
                                   "\100\0\0\0\0\0\0\0";
    const size_t head = sizeof expected - 1, data_at = (head + 31) / 32 * 32;
    char *data;
    size_t size;
    assert_ok(file_read(path, 10000, &data, &size, &error), error);
    assert_memory_equal(data, expected, head);
    assert_int_equal(size, data_at + 64 + 32);
    assert_memory_equal(data + data_at, values, sizeof values);
    assert_memory_equal(data + data_at + 64, halves, sizeof halves);
    for (size_t i = head; i < data_at; i++) assert_int_equal(data[i], 0);
    free(data);
}

static void bad_plans_are_refused(void **state) {
    const struct {
        struct planned_tensor tensors[2];
        enum weights_format format;
        const char *message;
    } cases[] = {
        {{{"a", DTYPE_F32, 1, {1}}, {"a", DTYPE_F32, 1, {2}}}, WEIGHTS_GGUF, "\"a\" is there twice"},
        {{{"a", DTYPE_Q8_0, 1, {32}}, {"b", DTYPE_F32, 1, {2}}}, WEIGHTS_SAFETENSORS, "no type Q8_0"},
        {{{"a", DTYPE_F8_E4M3, 1, {32}}, {"b", DTYPE_F32, 1, {2}}}, WEIGHTS_GGUF, "no type F8_E4M3"},
        {{{"a", DTYPE_F32, 1, {1}}, {"b", DTYPE_Q4_K, 2, {2, 128}}}, WEIGHTS_GGUF, "no whole number of Q4_K"},
        {{{"a", DTYPE_F32, 2, {INT64_MAX, 3}}, {"b", DTYPE_F32, 1, {2}}}, WEIGHTS_GGUF, "dimension 1 is 3"},
        {{{"a", DTYPE_F32, 1, {0}}, {"b", DTYPE_F32, 1, {2}}}, WEIGHTS_GGUF, "\"a\" has no values"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct weights_plan plan = {.format = cases[i].format, .tensors = cases[i].tensors, .count = 2};
        struct error error = {0};
        assert_null(weights_writer_open(path, &plan, &error));
        assert_contains(error.message, cases[i].message);
        assert_false(file_exists(part));
    }
    struct weights_plan plan = plan_of(WEIGHTS_GGUF, NULL, 0);
    struct error error = {0};
    assert_null(weights_writer_open("/no/such/folder/x", &plan, &error));
    assert_contains(error.message, "/no/such/folder/x.part");
}

static int set_up(void **state) {
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/w", folder);
    snprintf(part, sizeof part, "%s/w.part", folder);
    return 0;
}

static int tear_down(void **state) {
    unlink(path);
    unlink(part);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(safetensors_reads_back),
        cmocka_unit_test(goes_on_behind_the_last_whole_tensor),
        cmocka_unit_test(gguf_has_its_bytes),
        cmocka_unit_test(bad_plans_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
