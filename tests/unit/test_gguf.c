// GGUF heads, good and bad. The files of tests/fixtures/layouts, written by gguf-py, are read in test_layout.c.
#include "unit.h"

#include "base/buffer.h"
#include "base/file.h"
#include "weights/checkpoint.h"
#include "weights/gguf.h"
#include "weights/gguf_split.h"

#include <math.h>

// ------------------------------------------------------------------------------------------------------ making a file

static void number(struct buffer *file, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) assert_true(buffer_add(file, &(uint8_t){(uint8_t)(value >> 8 * i)}, 1));
}

static void text(struct buffer *file, const char *bytes) {
    number(file, strlen(bytes), 8);
    assert_true(buffer_add_string(file, bytes));
}

static struct buffer begin(uint64_t tensors, uint64_t pairs) {
    struct buffer file = {0};
    assert_true(buffer_add_string(&file, "GGUF"));
    number(&file, 3, 4);
    number(&file, tensors, 8);
    number(&file, pairs, 8);
    return file;
}

// dimensions: fastest first, ended by -1.
static void tensor(struct buffer *file, const char *name, const int64_t *dimensions, int type,
                   uint64_t offset) {
    int rank = 0;
    while (dimensions[rank] >= 0) rank++;
    text(file, name);
    number(file, (uint64_t)rank, 4);
    for (int i = 0; i < rank; i++) number(file, (uint64_t)dimensions[i], 8);
    number(file, (uint64_t)type, 4);
    number(file, offset, 8);
}

static void data(struct buffer *file, size_t alignment, size_t bytes) {
    while (file->length % alignment) number(file, 0xee, 1);
    for (size_t i = 0; i < bytes; i++) number(file, i, 1);
}

#define DIMENSIONS(...) ((const int64_t[]){__VA_ARGS__, -1})

static struct checkpoint *parse(struct buffer *file, struct error *error) {
    char *exact = malloc(file->length + 1); // so that a read behind the end is seen
    memcpy(exact, file->data, file->length);
    *error = (struct error){0};
    struct checkpoint *checkpoint = checkpoint_parse("f", exact, file->length, error);
    buffer_free(file);
    *file = (struct buffer){.data = exact};
    return checkpoint;
}

static void refused_as(struct buffer file, enum error_kind kind, const char *expected) {
    struct error error;
    struct checkpoint *checkpoint = parse(&file, &error);
    if (checkpoint) fail_msg("accepted, expected \"%s\"", expected);
    assert_contains(error.message, expected);
    assert_int_equal(error.kind, kind);
    free(file.data);
}

static void refused(struct buffer file, const char *expected) {
    refused_as(file, ERROR_INPUT, expected);
}

// ------------------------------------------------------------------------------------------------------------- reading

static void every_kind_of_value(void **state) {
    struct error error;
    struct buffer file = begin(0, 14);
    static const struct {
        int type, bytes;
        uint64_t bits;
        const char *shown;
    } values[] = {{0, 1, 200, "200"},
                  {1, 1, 0xff, "-1"},
                  {2, 2, 60000, "60000"},
                  {3, 2, 0xfffe, "-2"},
                  {4, 4, 4000000000, "4000000000"},
                  {5, 4, 0xfffffffd, "-3"},
                  {6, 4, 0x3fc00000, "1.5"},
                  {7, 1, 1, "true"},
                  {10, 8, UINT64_MAX, "18446744073709551615"},
                  {11, 8, UINT64_MAX, "-1"},
                  {12, 8, 0xbfe0000000000000, "-0.5"}};
    for (int i = 0; i < 11; i++) {
        char key[8];
        snprintf(key, sizeof key, "k%02d", i);
        text(&file, key);
        number(&file, (uint64_t)values[i].type, 4);
        number(&file, values[i].bits, values[i].bytes);
    }
    text(&file, "text");
    number(&file, 8, 4);
    text(&file, "w\303\266rd");
    text(&file, "words");
    number(&file, 9, 4);
    number(&file, 8, 4);
    number(&file, 2, 8);
    text(&file, "");
    text(&file, "two");
    text(&file, "halves");
    number(&file, 9, 4);
    number(&file, 6, 4);
    number(&file, 1, 8);
    number(&file, 0x3f000000, 4);
    struct checkpoint *checkpoint = parse(&file, &error);
    assert_ok(checkpoint, error);
    const struct gguf *gguf = checkpoint_gguf(checkpoint);
    assert_non_null(gguf);
    for (int i = 0; i < 11; i++) {
        char key[8];
        snprintf(key, sizeof key, "k%02d", i);
        assert_string_equal(checkpoint_metadata(checkpoint, key), values[i].shown);
    }
    assert_string_equal(checkpoint_metadata(checkpoint, "text"), "w\303\266rd");
    assert_string_equal(checkpoint_metadata(checkpoint, "words"), "2 x STRING");
    struct gguf_cursor cursor = gguf_begin(gguf_find(gguf, "words"));
    const char *word;
    size_t size;
    assert_true(gguf_next_string(&cursor, &word, &size));
    assert_int_equal(size, 0);
    assert_true(gguf_next_string(&cursor, &word, &size));
    assert_int_equal(size, 3);
    assert_memory_equal(word, "two", 3);
    assert_false(gguf_next_string(&cursor, &word, &size));
    int64_t whole = 7;
    double real = 7;
    char *string;
    assert_ok(gguf_get_integer(gguf, "f", "k05", -3, 9, &whole, &error), error);
    assert_int_equal(whole, -3);
    assert_ok(gguf_get_integer(gguf, "f", "absent", 0, 9, &whole, &error), error);
    assert_int_equal(whole, -3);
    assert_ok(gguf_get_number(gguf, "f", "k12", 0, 9, &real, &error) && real == 7, error);
    assert_ok(gguf_get_number(gguf, "f", "k06", 0, 9, &real, &error) && real == 1.5, error);
    assert_false(gguf_get_integer(gguf, "f", "k05", 0, 9, &whole, &error));
    assert_string_equal(error.message, "f: key \"k05\": -3, expected 0 to 9");
    static const char *const no_integers[] = {"k06", "k07", "k08", "text", "words"};
    for (int i = 0; i < 5; i++) {
        error = (struct error){0};
        assert_false(gguf_get_integer(gguf, "f", no_integers[i], INT64_MIN, INT64_MAX, &whole, &error));
        assert_contains(error.message, "expected a whole number");
    }
    error = (struct error){0};
    assert_false(gguf_get_string(gguf, "f", "words", &string, &error));
    assert_contains(error.message, "f: key \"words\": an array of STRING, expected a text");
    checkpoint_close(checkpoint);
    free(file.data);
}

// Dimensions are turned round, types mapped, data found behind the alignment that the file asks for.
static void tensors_are_read(void **state) {
    for (int own = 0; own < 2; own++) {
        struct error error;
        size_t alignment = own ? 64 : 32;
        struct buffer file = begin(4, (uint64_t)own);
        if (own) {
            text(&file, "general.alignment");
            number(&file, 4, 4);
            number(&file, 64, 4);
        }
        tensor(&file, "w", DIMENSIONS(64, 3), 8, 0); // Q8_0: 3 rows of 68 bytes
        tensor(&file, "v", DIMENSIONS(5), 0, 256);
        tensor(&file, "none", DIMENSIONS(0, 4), 30, 256 + 64);
        tensor(&file, "k", DIMENSIONS(3, 1, 2, 2), 1, 256 + 64);
        data(&file, alignment, 256 + 64 + 24);
        struct checkpoint *checkpoint = parse(&file, &error);
        assert_ok(checkpoint, error);
        assert_int_equal(checkpoint_count(checkpoint), 4);
        const struct tensor *w = &checkpoint_find(checkpoint, "w")->tensor;
        assert_int_equal(w->type, DTYPE_Q8_0);
        assert_int_equal(w->rank, 2);
        assert_int_equal(w->shape[0], 3);
        assert_int_equal(w->shape[1], 64);
        assert_int_equal(w->bytes, 3 * 68);
        assert_int_equal(*(const uint8_t *)w->data, 0);
        const struct tensor *k = &checkpoint_find(checkpoint, "k")->tensor;
        assert_int_equal(k->type, DTYPE_F16);
        assert_int_equal(k->rank, 4);
        assert_true(k->shape[0] == 2 && k->shape[1] == 2 && k->shape[2] == 1 && k->shape[3] == 3);
        assert_int_equal(*(const uint8_t *)k->data, 64); // byte 320
        assert_int_equal(checkpoint_find(checkpoint, "none")->tensor.bytes, 0);
        checkpoint_close(checkpoint);
        free(file.data);
    }
}

// Vectors may be in blocks too; a matrix is no vector.
static void vectors_of_blocks_are_decoded(void **state) {
    struct error error;
    struct buffer file = begin(2, 0);
    tensor(&file, "norm", DIMENSIONS(64), 8, 0);
    tensor(&file, "matrix", DIMENSIONS(32, 2), 8, 96);
    data(&file, 32, 0);
    for (int i = 0; i < 2; i++) { // Q8_0: a scale of 0.5, codes 0 to 31; padding
        for (int block = 0; block < 2; block++) {
            number(&file, 0x3800, 2);
            for (int k = 0; k < 32; k++) number(&file, (uint64_t)k, 1);
        }
        while (file.length % 32) number(&file, 0, 1);
    }
    struct checkpoint *checkpoint = parse(&file, &error);
    assert_ok(checkpoint, error);
    float *values = checkpoint_get_f32(checkpoint, 64, &error, "norm");
    assert_ok(values, error);
    for (int i = 0; i < 64; i++) assert_true(values[i] == 0.5f * (float)(i % 32));
    free(values);
    assert_null(checkpoint_get_f32(checkpoint, 64, &error, "matrix"));
    assert_contains(error.message, "tensor \"matrix\": stored as Q8_0, expected F32, F16 or BF16");
    checkpoint_close(checkpoint);
    free(file.data);
}

// -------------------------------------------------------------------------------------------------------------- bad heads

static void every_truncation_is_refused(void **state) {
    struct buffer file = begin(1, 2);
    text(&file, "a");
    number(&file, 8, 4);
    text(&file, "b");
    text(&file, "c");
    number(&file, 9, 4);
    number(&file, 8, 4);
    number(&file, 1, 8);
    text(&file, "d");
    tensor(&file, "t", DIMENSIONS(2), 0, 0);
    data(&file, 32, 8);
    for (size_t size = 4; size < file.length; size++) {
        struct error error = {0};
        char *cut = malloc(size);
        memcpy(cut, file.data, size);
        if (checkpoint_parse("f", cut, size, &error)) fail_msg("%zu bytes were accepted", size);
        assert_contains(error.message, "f: ");
        assert_int_equal(error.kind, ERROR_INPUT);
        free(cut);
    }
    struct error error;
    struct checkpoint *checkpoint = parse(&file, &error);
    assert_ok(checkpoint, error);
    checkpoint_close(checkpoint);
    free(file.data);
}

static void claims_beyond_the_file_are_refused(void **state) {
    struct buffer file;
    refused(begin(0, (uint64_t)1 << 60), "claims 1152921504606846976 keys, but only 0 bytes follow");
    refused(begin((uint64_t)1 << 60, 0), "claims 1152921504606846976 tensors, but only 0 bytes follow");
    file = begin(0, 1);
    number(&file, UINT64_MAX, 8);
    number(&file, 0, 8);
    refused(file, "a key of 18446744073709551615 bytes, expected 1 to 1024");
    file = begin(0, 1);
    text(&file, "k");
    number(&file, 8, 4);
    number(&file, UINT64_MAX, 8);
    refused(file, "key \"k\": a string of 18446744073709551615 bytes, but only 0 follow");
    file = begin(0, 1);
    text(&file, "k");
    number(&file, 9, 4);
    number(&file, 12, 4);
    number(&file, (uint64_t)1 << 61, 8);
    refused(file, "key \"k\": 2305843009213693952 values of type F64, but only 0 bytes follow");
    file = begin(0, 1);
    text(&file, "k");
    number(&file, 9, 4);
    number(&file, 8, 4);
    number(&file, (uint64_t)1 << 61, 8);
    refused(file, "key \"k\": the file ends inside its strings");
}

static void wrong_keys_are_refused(void **state) {
    struct buffer file = begin(0, 1);
    text(&file, "k");
    number(&file, 13, 4);
    number(&file, 0, 8);
    refused(file, "key \"k\": type 13, expected 0 to 12");
    file = begin(0, 1);
    text(&file, "k");
    number(&file, 9, 4);
    number(&file, 9, 4);
    number(&file, 0, 8);
    refused_as(file, ERROR_UNSUPPORTED, "key \"k\": an array of arrays");
    file = begin(0, 1);
    text(&file, "k");
    number(&file, 7, 4);
    number(&file, 2, 1);
    refused(file, "key \"k\": a boolean that is not 0 or 1");
    file = begin(0, 2);
    for (int i = 0; i < 2; i++) {
        text(&file, "k");
        number(&file, 0, 4);
        number(&file, 1, 1);
    }
    refused(file, "key \"k\": is there twice");
    file = begin(0, 1);
    text(&file, "k\n");
    number(&file, 0, 4);
    number(&file, 1, 1);
    refused(file, "a key that is not UTF-8 without control characters");
    static const uint64_t alignments[] = {0, 3, 1 << 21};
    for (int i = 0; i < 3; i++) {
        file = begin(0, 1);
        text(&file, "general.alignment");
        number(&file, 4, 4);
        number(&file, alignments[i], 4);
        refused(file, "key \"general.alignment\": ");
    }
    file = begin(0, 1);
    text(&file, "split.count");
    number(&file, 2, 4);
    number(&file, 3, 2);
    refused(file, "is one of 3 parts of a split GGUF file, expected the name NAME-00001-of-00003.gguf");
}

static void wrong_tensors_are_refused(void **state) {
    static const struct {
        int64_t dimensions[6];
        int type;
        uint64_t offset;
        enum error_kind kind;
        const char *expected;
    } cases[] = {
        {{33, 1, -1},
         8,
         0,
         ERROR_INPUT,
         "tensor \"t\": rows of 33 values, expected a multiple of 32, a block of Q8_0"},
        {{128, -1}, 12, 0, ERROR_INPUT, "expected a multiple of 256, a block of Q4_K"},
        {{32, -1}, 16, 0, ERROR_UNSUPPORTED, "tensor \"t\": type IQ2_XXS is not one limn reads"},
        {{32, -1}, 4, 0, ERROR_UNSUPPORTED, "tensor \"t\": type 4 is not one limn knows"},
        {{32, -1}, 1 << 20, 0, ERROR_UNSUPPORTED, "tensor \"t\": type 1048576 is not one limn knows"},
        {{2, -1}, 0, 4, ERROR_INPUT, "tensor \"t\": offset 4, expected a multiple of general.alignment, 32"},
        {{9, -1}, 0, 32, ERROR_INPUT, "tensor \"t\": 36 bytes at 32 do not lie in the 64 bytes of data"},
        {{2, -1}, 0, 96, ERROR_INPUT, "tensor \"t\": 8 bytes at 96 do not lie"},
        {{2, -1}, 0, (uint64_t)-32, ERROR_INPUT, "do not lie in the 64 bytes of data"},
        {{(int64_t)1 << 40, (int64_t)1 << 40, -1}, 0, 0, ERROR_INPUT, "beyond 64 bits"},
        {{0, (int64_t)1 << 40, (int64_t)1 << 40, -1}, 0, 0, ERROR_INPUT, "beyond 64 bits"},
        {{(int64_t)1 << 62, -1}, 0, 0, ERROR_INPUT, "beyond 64 bits"},
        {{1, 1, 1, 1, 1, -1}, 0, 0, ERROR_INPUT, "tensor \"t\": 5 dimensions, expected at most 4"},
        {{2, -1}, 0, 0, ERROR_INPUT, "tensors \"a\" and \"t\" overlap"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buffer file = begin(2, 0);
        tensor(&file, "a", DIMENSIONS(1), 0, 0);
        tensor(&file, "t", cases[i].dimensions, cases[i].type, cases[i].offset);
        data(&file, 32, 64);
        refused_as(file, cases[i].kind, cases[i].expected);
    }
    struct buffer file = begin(2, 0);
    tensor(&file, "t", DIMENSIONS(1), 0, 0);
    tensor(&file, "t", DIMENSIONS(1), 0, 32);
    data(&file, 32, 64);
    refused(file, "tensor \"t\": is there twice");
}

static void other_versions_are_refused(void **state) {
    static const struct {
        uint32_t version;
        const char *expected;
    } cases[] = {{1, "GGUF version 1, expected 2 or 3"},
                 {4, "GGUF version 4"},
                 {0x03000000, "a big-endian GGUF file"}};
    for (size_t i = 0; i < 3; i++) {
        struct buffer file = begin(0, 0);
        for (int k = 0; k < 4; k++) file.data[4 + k] = (char)(cases[i].version >> 8 * k);
        refused_as(file, ERROR_UNSUPPORTED, cases[i].expected);
    }
    struct buffer file = begin(0, 0);
    file.data[4] = 2;
    struct error error;
    struct checkpoint *checkpoint = parse(&file, &error);
    assert_ok(checkpoint, error);
    checkpoint_close(checkpoint);
    free(file.data);
}

// ---------------------------------------------------------------------------------------------------- shapes in keys

static void shape_key(struct buffer *file, const char *tensor_name, int type, const int64_t *shape) {
    char key[80];
    int rank = 0;
    while (shape[rank] >= 0) rank++;
    snprintf(key, sizeof key, "comfy.gguf.orig_shape.%s", tensor_name);
    text(file, key);
    number(file, 9, 4);
    number(file, (uint64_t)type, 4);
    number(file, (uint64_t)rank, 8);
    for (int i = 0; i < rank; i++) number(file, (uint64_t)shape[i], type == 5 ? 4 : 8);
}

// A tensor of 64 x 3 values in Q8_0 that says to be of another shape.
static struct buffer reshaped(const char *name, int type, const int64_t *shape) {
    struct buffer file = begin(1, 1);
    shape_key(&file, name, type, shape);
    tensor(&file, "w", DIMENSIONS(64, 3), 8, 0);
    data(&file, 32, 3 * 68);
    return file;
}

static void shapes_come_from_keys(void **state) {
    struct error error;
    struct buffer file = reshaped("w", 5, DIMENSIONS(2, 3, 32)); // slowest first
    struct checkpoint *checkpoint = parse(&file, &error);
    assert_ok(checkpoint, error);
    const struct tensor *w = &checkpoint_find(checkpoint, "w")->tensor;
    assert_int_equal(w->rank, 3);
    assert_true(w->shape[0] == 2 && w->shape[1] == 3 && w->shape[2] == 32);
    assert_int_equal(w->bytes, 3 * 68);
    checkpoint_close(checkpoint);
    free(file.data);
    file = reshaped("absent", 5, DIMENSIONS(7));
    checkpoint = parse(&file, &error);
    assert_ok(checkpoint, error);
    assert_int_equal(checkpoint_find(checkpoint, "w")->tensor.shape[1], 64);
    checkpoint_close(checkpoint);
    free(file.data);
    const char *product = "key \"comfy.gguf.orig_shape.w\": expected an array of 1 to 4 I32 whose product is "
                          "the 192 values";
    refused(reshaped("w", 5, DIMENSIONS(3, 63)), product);
    refused(reshaped("w", 11, DIMENSIONS(3, 64)), product);
    refused(reshaped("w", 5, DIMENSIONS(1, 1, 1, 3, 64)), product);
    refused(reshaped("w", 5, (const int64_t[]){-1}), product);
    refused(reshaped("w", 5, DIMENSIONS(0x7fffffff, 0x7fffffff, 0x7fffffff, 64)), product);
    refused_as(reshaped("w", 5, DIMENSIONS(12, 16)), ERROR_UNSUPPORTED,
               "rows of 16 values, expected a multiple of 32, a block of Q8_0");
}

// -------------------------------------------------------------------------------------------------------- split files

// Part [number] of [count] in all [total] tensors; holds [names], of one f32 each.
struct part {
    int number, count, total;
    const char *names[3];
};

static void put_part(const char *folder, const char *name, const struct part *part) {
    int tensors = 0;
    while (tensors < 3 && part->names[tensors]) tensors++;
    struct buffer file = begin((uint64_t)tensors, part->number == 0 ? 4 : 3);
    if (part->number == 0) {
        text(&file, "general.architecture");
        number(&file, 8, 4);
        text(&file, "flux");
    }
    text(&file, "split.no");
    number(&file, 2, 4);
    number(&file, (uint64_t)part->number, 2);
    text(&file, "split.count");
    number(&file, 2, 4);
    number(&file, (uint64_t)part->count, 2);
    text(&file, "split.tensors.count");
    number(&file, 5, 4);
    number(&file, (uint64_t)part->total, 4);
    for (int i = 0; i < tensors; i++) tensor(&file, part->names[i], DIMENSIONS(1), 0, (uint64_t)i * 32);
    while (file.length % 32) number(&file, 0, 1);
    for (int i = 0; i < tensors; i++) {
        float value = (float)part->names[i][0];
        assert_true(buffer_add(&file, &value, sizeof value));
        while (file.length % 32) number(&file, 0, 1);
    }
    char path[200];
    struct error error = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(file_write(path, file.data, file.length, &error), error);
    buffer_free(&file);
}

static void assert_split(const char *path) {
    struct error error = {0};
    struct checkpoint *checkpoint = checkpoint_open(path, &error);
    assert_ok(checkpoint, error);
    uint64_t bytes;
    assert_int_equal(checkpoint_files(checkpoint, &bytes), 3);
    assert_int_equal(checkpoint_count(checkpoint), 4);
    assert_string_equal(checkpoint_metadata(checkpoint, "general.architecture"), "flux");
    for (const char *name = "abcd"; *name; name++) {
        const struct checkpoint_entry *entry = checkpoint_find(checkpoint, (const char[]){*name, 0});
        assert_non_null(entry);
        assert_true(*(const float *)entry->tensor.data == (float)*name);
    }
    checkpoint_close(checkpoint);
}

static void refused_split(const char *path, enum error_kind kind, const char *expected) {
    struct error error = {0};
    if (checkpoint_open(path, &error)) fail_msg("accepted, expected \"%s\"", expected);
    assert_contains(error.message, expected);
    assert_null(strchr(error.message, '\n'));
    assert_int_equal(error.kind, kind);
}

static const char *const PART_NAMES[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                         "m-00003-of-00003.gguf"};

static void split_files_are_whole(void **state) {
    static const struct part parts[] = {{0, 3, 4, {"d"}}, {1, 3, 4, {"a", "c"}}, {2, 3, 4, {"b"}}};
    char folder[] = "/tmp/limn-gguf-XXXXXX", path[200];
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 3; i++) put_part(folder, PART_NAMES[i], &parts[i]);
    assert_split(folder); // the only weights in it
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, PART_NAMES[i]);
        assert_split(path);
    }
    // Under another name it is one of three files.
    char other[200];
    snprintf(other, sizeof other, "%s/one.gguf", folder);
    assert_int_equal(rename(path, other), 0);
    refused_split(other, ERROR_INPUT, "one.gguf: is one of 3 parts of a split GGUF file");
    snprintf(path, sizeof path, "rm -rf '%s'", folder);
    assert_int_equal(system(path), 0);
}

static void wrong_parts_are_refused(void **state) {
    static const struct {
        struct part parts[3]; // a count of 0: no such file
        enum error_kind kind;
        const char *expected;
    } cases[] = {
        {{{0, 3, 3, {"a"}}, {1, 3, 3, {"b"}}, {0}},
         ERROR_NOT_FOUND,
         "m-00003-of-00003.gguf: is missing, expected all 3 parts"},
        {{{0}, {1, 3, 3, {"b"}}, {2, 3, 3, {"c"}}}, ERROR_NOT_FOUND, "m-00001-of-00003.gguf: is missing"},
        {{{0, 3, 3, {"a"}}, {2, 3, 3, {"c"}}, {1, 3, 3, {"b"}}},
         ERROR_INPUT,
         "m-00002-of-00003.gguf: key \"split.no\": 2, expected 1 as its name says: parts are swapped or "
         "repeated"},
        {{{0, 3, 3, {"a"}}, {1, 3, 3, {"b"}}, {1, 3, 3, {"b"}}},
         ERROR_INPUT,
         "m-00003-of-00003.gguf: key \"split.no\": 1, expected 2"},
        {{{0, 3, 3, {"a"}}, {1, 2, 3, {"b"}}, {2, 3, 3, {"c"}}},
         ERROR_INPUT,
         "m-00002-of-00003.gguf: key \"split.count\": 2, expected 3 as its name says"},
        {{{0, 3, 3, {"a"}}, {1, 3, 5, {"b"}}, {2, 3, 3, {"c"}}},
         ERROR_INPUT,
         "m-00002-of-00003.gguf: key \"split.tensors.count\": 5, expected 3 as in the first part"},
        {{{0, 3, 3, {"a"}}, {1, 3, 3, {"b"}}, {2, 3, 3, {"a"}}}, ERROR_INPUT, "tensor \"a\" is in "},
        {{{0, 3, 3, {"a"}}, {1, 3, 3, {"b"}}, {2, 3, 3, {NULL}}},
         ERROR_INPUT,
         "m-00001-of-00003.gguf: key \"split.tensors.count\": 3, but the 3 parts hold 2 tensors"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[] = "/tmp/limn-gguf-XXXXXX", command[80];
        assert_non_null(mkdtemp(folder));
        for (int k = 0; k < 3; k++)
            if (cases[i].parts[k].count) put_part(folder, PART_NAMES[k], &cases[i].parts[k]);
        refused_split(folder, cases[i].kind, cases[i].expected);
        snprintf(command, sizeof command, "rm -rf '%s'", folder);
        assert_int_equal(system(command), 0);
    }
    // A whole file under the name of a part.
    char folder[] = "/tmp/limn-gguf-XXXXXX", path[200];
    struct error error = {0};
    assert_non_null(mkdtemp(folder));
    struct buffer whole = begin(0, 0);
    for (int k = 0; k < 3; k++) {
        snprintf(path, sizeof path, "%s/%s", folder, PART_NAMES[k]);
        assert_ok(file_write(path, whole.data, whole.length, &error), error);
    }
    buffer_free(&whole);
    refused_split(
        path, ERROR_INPUT,
        "m-00001-of-00003.gguf: key \"split.count\" is missing, but its name is that of one of 3 parts");
    snprintf(path, sizeof path, "rm -rf '%s'", folder);
    assert_int_equal(system(path), 0);
}

static void names_of_parts(void **state) {
    static const struct {
        const char *path;
        int number, count; // 0: no part
    } cases[] = {{"a/b-00001-of-00002.gguf", 1, 2},      {"b-04096-of-04096.gguf", 4096, 4096},
                 {"b-00001-of-04097.gguf", 0, 0},        {"b-00001-of-00001.gguf", 0, 0},
                 {"b-00003-of-00002.gguf", 0, 0},        {"b-00000-of-00002.gguf", 0, 0},
                 {"b-0001-of-00002.gguf", 0, 0},         {"b-00001-of-0000x.gguf", 0, 0},
                 {"b-00001-of-00002.safetensors", 0, 0}, {"a/-00001-of-00002.gguf", 0, 0},
                 {"-00001-of-00002.gguf", 0, 0},         {"b_00001-of-00002.gguf", 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gguf_split_name name;
        const bool part = gguf_split_name(cases[i].path, &name);
        if (part != (cases[i].count > 0)) fail_msg("%s", cases[i].path);
        if (part) assert_true(name.number == cases[i].number && name.count == cases[i].count);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_value),
        cmocka_unit_test(tensors_are_read),
        cmocka_unit_test(vectors_of_blocks_are_decoded),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(claims_beyond_the_file_are_refused),
        cmocka_unit_test(wrong_keys_are_refused),
        cmocka_unit_test(wrong_tensors_are_refused),
        cmocka_unit_test(other_versions_are_refused),
        cmocka_unit_test(shapes_come_from_keys),
        cmocka_unit_test(split_files_are_whole),
        cmocka_unit_test(wrong_parts_are_refused),
        cmocka_unit_test(names_of_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
