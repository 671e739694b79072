#include "unit.h"

#include "base/buffer.h"
#include "base/file.h"
#include "weights/checkpoint.h"
#include "weights/safetensors_header.h"
#include "weights/safetensors_write.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

// A file image: the header's length, the header, [data_size] bytes of 0, 1, 2, ...
static struct buffer image_of(const char *header, size_t data_size) {
    struct buffer image = {0};
    size_t length = strlen(header);
    uint8_t head[8];
    for (int i = 0; i < 8; i++) head[i] = (uint8_t)((uint64_t)length >> 8 * i);
    assert_true(buffer_add(&image, head, 8) && buffer_add(&image, header, length));
    for (size_t i = 0; i < data_size; i++) assert_true(buffer_add(&image, &(uint8_t){(uint8_t)i}, 1));
    return image;
}

// ----------------------------------------------------------------------------------------------------------- bad headers

static const struct {
    const char *header;
    size_t data_size;
    const char *expected; // part of the message behind "f: "
} bad_headers[] = {
    // not JSON, or not this JSON
    {"", 0, "header, byte 0: expected \"{\""},
    {" {}", 0, "header, byte 0: expected \"{\""},
    {"[]", 0, "header, byte 0: expected \"{\""},
    {"{", 0, "header, byte 1: expected the name of a tensor"},
    {"{}x", 0, "header, byte 2: expected nothing but spaces"},
    {"{\"a\"}", 0, "header, byte 4: expected \":\""},
    {"{\"a\":1}", 0, "expected an object that describes the tensor"},
    {"{\"a\":{}}", 0, "expected \"dtype\", \"shape\" or \"data_offsets\""},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}", 1, "expected \",\" or \"}\""},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},}", 1, "expected the name of a tensor"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],}}", 1, "expected \"dtype\", \"shape\""},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,],\"data_offsets\":[0,1]}}", 1, "expected a whole number"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,\"data_offsets\":[0,1]}}", 1, "expected a whole number"},
    {"{\"a", 0, "expected the end of this string"},
    {"{\"a\\", 0, "expected the end of this string"},
    {"{\"a\\x\":1}", 0, "expected a known escape"},
    {"{\"a\\u12g4\":1}", 0, "expected four hexadecimal digits"},
    {"{\"\\u0000\":1}", 0, "expected a character after \\u"},
    {"{\"\\ud800\":1}", 0, "expected the second half of a surrogate pair"},
    {"{\"\\ud800\\u0041\":1}", 0, "expected the second half of a surrogate pair"},
    {"{\"\\udc00\":1}", 0, "expected a character after \\u"},
    {"{\"a\nb\":1}", 0, "expected valid UTF-8 without control characters"},
    {"{\"\xff\":1}", 0, "expected valid UTF-8"},
    {"{\"\xc0\x80\":1}", 0, "expected valid UTF-8"},
    {"{\"\xed\xa0\x80\":1}", 0, "expected valid UTF-8"},
    {"{\"\xf4\x90\x80\x80\":1}", 0, "expected valid UTF-8"},
    {"{\"\xe2\x82\":1}", 0, "expected valid UTF-8"},
    // fields of a tensor
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", 0, "tensor \"a\": field \"data_offsets\" is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "tensor \"a\": field \"shape\" is missing"},
    {"{\"a\":{\"shape\":[],\"data_offsets\":[0,1]}}", 1, "tensor \"a\": field \"dtype\" is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1,
     "tensor \"a\": field \"dtype\", expected"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],\"data_offsets\":[0,1]}}", 1,
     "field \"data_offsets\", expected"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],\"x\":1}}", 1,
     "tensor \"a\": field \"x\", expected"},
    {"{\"a\":{\"dtype\":7,\"shape\":[],\"data_offsets\":[0,1]}}", 1, "expected the name of a type"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[],\"data_offsets\":[0,1]}}", 1,
     "tensor \"a\": type \"F4\" is not one limn reads"},
    {"{\"a\":{\"dtype\":\"u8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1,
     "tensor \"a\": type \"u8\" is not one limn reads"},
    {"{\"a\":{\"dtype\":\"\",\"shape\":[],\"data_offsets\":[0,1]}}", 1,
     "tensor \"a\": type \"\" is not one limn reads"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":{},\"data_offsets\":[0,1]}}", 1,
     "expected an array of whole numbers"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, "expected a whole number from 0"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1, "expected \",\" or \"]\""},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1e3],\"data_offsets\":[0,1]}}", 1, "expected \",\" or \"]\""},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[01],\"data_offsets\":[0,1]}}", 1, "expected a whole number"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775808],\"data_offsets\":[0,1]}}", 1,
     "expected a whole number"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[99999999999999999999999],\"data_offsets\":[0,1]}}", 1,
     "expected a whole number"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
     "tensor \"a\": 6 dimensions, expected at most 5"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1,
     "tensor \"a\": expected two data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1,
     "tensor \"a\": expected two data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[]}}", 1,
     "tensor \"a\": expected two data_offsets"},
    // claims that do not fit
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,1]}}", 1,
     "product of its shape is beyond 64 bits"},
    {"{\"a\":{\"dtype\":\"F64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}}", 0,
     "product of its shape is beyond 64 bits"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1,
     "tensor \"a\": data_offsets [0, 2] do not lie in the 1 bytes of data: the file is truncated"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1,
     "tensor \"a\": data_offsets [1, 0] do not lie"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9223372036854775806,9223372036854775807]}}", 1,
     "do not lie in the 1 bytes"},
    {"{\"a\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,4]}}", 4,
     "tensor \"a\": data_offsets [0, 4] hold 4 bytes, expected 6 for F16 of shape [3]"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,4]}}", 4,
     "hold 4 bytes, expected 0 for F32 of shape [0]"},
    // the whole
    {"{}", 3, "3 bytes of data, expected 0"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 2,
     "2 bytes of data, expected 1, the end of the last tensor"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2,
     "1 bytes of data in front of tensor \"a\" belong to no tensor"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],"
     "\"data_offsets\":[1,3]}}",
     3, "tensors \"a\" and \"b\" overlap"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],"
     "\"data_offsets\":[0,2]}}",
     2, "tensors \"a\" and \"b\" overlap"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[0],"
     "\"data_offsets\":[1,1]}}",
     2, "tensors \"a\" and \"b\" overlap"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],"
     "\"data_offsets\":[2,3]}}",
     3, "1 bytes of data in front of tensor \"b\""},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],"
     "\"data_offsets\":[1,2]}}",
     2, "tensor \"a\": is there twice"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":"
     "[1],\"data_offsets\":[1,2]}}",
     2, "tensor \"a\": is there twice"},
    // metadata
    {"{\"__metadata__\":1}", 0, "expected an object of strings as \"__metadata__\""},
    {"{\"__metadata__\":{\"k\":1}}", 0, "metadata values are strings"},
    {"{\"__metadata__\":{\"k\":\"v\"]}", 0, "expected \",\" or \"}\""},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "\"__metadata__\": is there twice"},
};

static void bad_headers_are_refused(void **state) {
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        struct buffer image = image_of(bad_headers[i].header, bad_headers[i].data_size);
        struct error error = {0};
        if (checkpoint_parse("f", image.data, image.length, &error))
            fail_msg("accepted: %s", bad_headers[i].header);
        assert_memory_equal(error.message, "f: ", 3);
        assert_contains(error.message, bad_headers[i].expected);
        assert_null(strchr(error.message, '\n'));
        buffer_free(&image);
    }
}

static const struct {
    const char *bytes;
    size_t size;
    const char *expected;
} bad_files[] = {
    {"", 0, "0 bytes, expected a safetensors file"},
    {"\2\0\0\0\0\0\0", 7, "7 bytes, expected a safetensors file"},
    {"\2\0\0\0\0\0\0\0", 8, "claims a header of 2 bytes, but only 0 follow: truncated"},
    {"\3\0\0\0\0\0\0\0{}", 10, "claims a header of 3 bytes, but only 2 follow: truncated"},
    {"\0\0\0\0\x19\0\0\0{}", 10, "claims a header of 107374182400 bytes, expected at most 100000000"},
    {"\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, "claims a header of 18446744073709551615 bytes"},
    {"\2\0\0\0\0\0\0\0{\0", 10, "header, byte 1: expected the name of a tensor"},
    {"version https://git-lfs.github.com/spec/v1\n", 43, "this is a Git LFS pointer"},
    {"GGUF\3\0\0\0\0\0\0\0", 12, "the file ends inside its number of tensors: truncated or damaged"},
    {"PK\3\4\0\0\0\0\0\0\0\0", 12, "this is a zip archive, as torch.save"},
    {"<!DOCTYPE html>", 15, "this is a web page"},
};

static void bad_files_are_refused(void **state) {
    for (size_t i = 0; i < sizeof bad_files / sizeof *bad_files; i++) {
        char *exact = malloc(bad_files[i].size + 1); // so that a read behind the end is seen
        memcpy(exact, bad_files[i].bytes, bad_files[i].size);
        struct error error = {0};
        assert_null(checkpoint_parse("f", exact, bad_files[i].size, &error));
        assert_contains(error.message, bad_files[i].expected);
        free(exact);
    }
}

// Every beginning of a good file is refused, and none reads behind its end.
static void truncated_files_are_refused(void **state) {
    struct buffer image =
        image_of("{\"__metadata__\":{\"k\\n\":\"\\u20ac\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2, 1],"
                 "\"data_offsets\":[0,8]}}  ",
                 8);
    for (size_t size = 0; size < image.length; size++) {
        char *exact = malloc(size + 1);
        memcpy(exact, image.data, size);
        // The header's length lies or the data is short: both are errors.
        struct error error = {0};
        assert_null(checkpoint_parse("f", exact, size, &error));
        assert_int_equal(error.kind, ERROR_INPUT);
        if (size > 8) {
            memset(exact, 0, 8);
            exact[0] = (char)(size - 8);
            error_clear(&error);
            assert_null(checkpoint_parse("f", exact, size, &error));
        }
        free(exact);
    }
    struct error error = {0};
    struct checkpoint *checkpoint = checkpoint_parse("f", image.data, image.length, &error);
    assert_ok(checkpoint, error);
    assert_string_equal(checkpoint_metadata(checkpoint, "k\n"), "\u20ac");
    checkpoint_close(checkpoint);
    buffer_free(&image);
}

// ---------------------------------------------------------------------------------------------------------- good headers

static void good_headers_are_read(void **state) {
    struct error error = {0};
    struct buffer image = image_of(
        "{ \"b\" : "
        "{\"shape\":[3],\"dtype\":\"U8\",\"data_offsets\":[4,7]},\t\"__metadata__\":{\"format\":\"pt\",\"x\":"
        "\"\"},\n"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
        "\"empty\":{\"dtype\":\"F64\",\"shape\":[0, 7],\"data_offsets\":[4,4]},"
        "\"last\":{\"dtype\":\"I64\",\"shape\":[5,0],\"data_offsets\":[7,7]},"
        "\"\\u00e4\\/\\ud83d\\ude00\":{\"dtype\":\"BF16\",\"shape\":[1,1,1,1,1],\"data_offsets\":[7,9]}}   ",
        9);
    struct checkpoint *checkpoint = checkpoint_parse("f", image.data, image.length, &error);
    assert_ok(checkpoint, error);
    assert_int_equal(checkpoint_count(checkpoint), 5);
    static const char *const names[] = {"a", "b", "empty", "last", "\u00e4/\U0001F600"};
    for (int i = 0; i < 5; i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(checkpoint, i);
        assert_string_equal(entry->name, names[i]);
        assert_ptr_equal(checkpoint_find(checkpoint, names[i]), entry);
        assert_string_equal(entry->file, "f");
    }
    const struct tensor *b = &checkpoint_find(checkpoint, "b")->tensor;
    assert_int_equal(b->type, DTYPE_U8);
    assert_int_equal(b->rank, 1);
    assert_int_equal(b->shape[0], 3);
    assert_int_equal(b->bytes, 3);
    assert_memory_equal(b->data, "\4\5\6", 3);
    assert_int_equal(checkpoint_find(checkpoint, "a")->tensor.rank, 0);
    assert_int_equal(checkpoint_find(checkpoint, "empty")->tensor.bytes, 0);
    assert_null(checkpoint_find(checkpoint, "c"));
    assert_null(checkpoint_find(checkpoint, ""));
    assert_string_equal(checkpoint_metadata(checkpoint, "format"), "pt");
    assert_string_equal(checkpoint_metadata(checkpoint, "x"), "");
    assert_null(checkpoint_metadata(checkpoint, "y"));
    assert_int_equal(checkpoint_metadata_count(checkpoint), 2);
    checkpoint_close(checkpoint);
    buffer_free(&image);

    image = image_of("{}", 0);
    checkpoint = checkpoint_parse("f", image.data, image.length, &error);
    assert_ok(checkpoint, error);
    assert_int_equal(checkpoint_count(checkpoint), 0);
    assert_null(checkpoint_find(checkpoint, "a"));
    checkpoint_close(checkpoint);
    buffer_free(&image);
    checkpoint_close(NULL);
}

static void getting_checks_the_shape(void **state) {
    struct error error = {0};
    struct buffer image = image_of("{\"w\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
                                   "\"i\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[12,16]}}",
                                   16);
    struct checkpoint *checkpoint = checkpoint_parse("f", image.data, image.length, &error);
    assert_ok(checkpoint, error);
    struct tensor tensor;
    int64_t any[2] = {-1, -1}, right[2] = {2, 3}, wrong[2] = {-1, 4}, one[1] = {6};
    assert_ok(checkpoint_get(checkpoint, &tensor, 2, right, &error, "w"), error);
    assert_int_equal(tensor.bytes, 12);
    assert_ok(checkpoint_get(checkpoint, &tensor, 2, any, &error, "%c", 'w'), error);
    assert_int_equal(any[0], 2);
    assert_int_equal(any[1], 3);
    assert_false(checkpoint_get(checkpoint, &tensor, 2, wrong, &error, "w"));
    assert_string_equal(error.message, "f: tensor \"w\": shape [2, 3], expected [any, 4]");
    assert_int_equal(wrong[0], -1);
    error_clear(&error);
    assert_false(checkpoint_get(checkpoint, &tensor, 1, one, &error, "w"));
    assert_string_equal(error.message, "f: tensor \"w\": shape [2, 3], expected [6]");
    error_clear(&error);
    assert_false(checkpoint_get(checkpoint, &tensor, 0, NULL, &error, "w"));
    assert_string_equal(error.message, "f: tensor \"w\": shape [2, 3], expected []");
    error_clear(&error);
    assert_false(checkpoint_get(checkpoint, &tensor, 1, one, &error, "blocks.%d.w", 7));
    assert_string_equal(error.message, "f: tensor \"blocks.7.w\" is missing");
    assert_int_equal(error.kind, ERROR_NOT_FOUND);
    error_clear(&error);
    assert_false(checkpoint_get(checkpoint, &tensor, 1, one, &error, "i"));
    assert_string_equal(error.message, "f: tensor \"i\": type I32, expected real numbers (F32, F16, BF16)");
    checkpoint_close(checkpoint);
    buffer_free(&image);
}

static void small_tensors_are_decoded(void **state) {
    struct error error = {0};
    struct buffer image = image_of("{\"h\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[1,5]},"
                                   "\"pad\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                                   "\"n\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[5,13]}}",
                                   13);
    float values[2] = {1, NAN};
    memcpy(image.data + image.length - 8, values, 8);
    memcpy(image.data + image.length - 12, "\x00\x3c\x00\xc0", 4); // halves 1 and -2
    struct checkpoint *checkpoint = checkpoint_parse("f", image.data, image.length, &error);
    assert_ok(checkpoint, error);
    float *halves = checkpoint_get_f32(checkpoint, 2, &error, "%s", "h");
    assert_ok(halves, error);
    assert_true(halves[0] == 1 && halves[1] == -2);
    free(halves);
    assert_null(checkpoint_get_f32(checkpoint, 3, &error, "h"));
    assert_string_equal(error.message, "f: tensor \"h\": shape [2], expected 3 values");
    error_clear(&error);
    assert_null(checkpoint_get_f32(checkpoint, 2, &error, "n"));
    assert_string_equal(error.message, "f: tensor \"n\": value 1 is NaN, expected a finite number");
    error_clear(&error);
    values[1] = -INFINITY;
    memcpy(image.data + image.length - 8, values, 8);
    assert_null(checkpoint_get_f32(checkpoint, 2, &error, "n"));
    assert_contains(error.message, "value 1 is infinite");
    error_clear(&error);
    assert_null(checkpoint_get_f32(checkpoint, 1, &error, "pad"));
    assert_contains(error.message, "type U8");
    checkpoint_close(checkpoint);
    buffer_free(&image);
}

// ------------------------------------------------------------------------------------------------------ files and folders

static char folder[64];

static int make_folder(void **state) {
    snprintf(folder, sizeof folder, "/tmp/limn-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static const char *in_folder(const char *name) {
    static char paths[4][192];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(paths[turn], sizeof paths[turn], "%s/%s", folder, name);
    return paths[turn];
}

static void put(const char *name, const void *data, size_t size) {
    struct error error = {0};
    char path[192];
    snprintf(path, sizeof path, "%s", in_folder(name));
    *strrchr(path, '/') = 0;
    assert_ok(folder_make(path, &error), error);
    assert_ok(file_write(in_folder(name), data, size, &error), error);
}

// One U8 tensor of one value.
static void put_tensor(const char *file, const char *tensor, uint8_t value) {
    char header[256];
    snprintf(
        header, sizeof header,
        "{\"%s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},\"__metadata__\":{\"from\":\"%s\"}}",
        tensor, file);
    struct buffer image = image_of(header, 1);
    image.data[image.length - 1] = (char)value;
    put(file, image.data, image.length);
    buffer_free(&image);
}

static void put_text(const char *name, const char *text) {
    put(name, text, strlen(text));
}

static void assert_refused(const char *name, enum error_kind kind, const char *expected) {
    struct error error = {0};
    struct checkpoint *checkpoint = checkpoint_open(in_folder(name), &error);
    if (checkpoint) fail_msg("%s was accepted", name);
    assert_contains(error.message, expected);
    assert_contains(error.message, folder);
    assert_int_equal(error.kind, kind);
}

static void single_files_open(void **state) {
    static const char *const paths[] = {"one/diffusion_pytorch_model.safetensors", "two/model.safetensors",
                                        "three/odd name.safetensors"};
    for (size_t i = 0; i < 3; i++) {
        put_tensor(paths[i], "t", 9);
        char name[64];
        snprintf(name, sizeof name, "%s", paths[i]);
        for (int whole = 0; whole < 2; whole++) { // the file itself, then its folder
            struct error error = {0};
            struct checkpoint *checkpoint = checkpoint_open(in_folder(name), &error);
            assert_ok(checkpoint, error);
            assert_int_equal(*(const uint8_t *)checkpoint_find(checkpoint, "t")->tensor.data, 9);
            assert_string_equal(checkpoint_find(checkpoint, "t")->file, in_folder(paths[i]));
            uint64_t bytes;
            assert_int_equal(checkpoint_files(checkpoint, &bytes), 1);
            assert_true(bytes > 50);
            checkpoint_release_pages(checkpoint);
            assert_int_equal(*(const uint8_t *)checkpoint_find(checkpoint, "t")->tensor.data, 9);
            checkpoint_close(checkpoint);
            name[strcspn(name, "/")] = 0;
        }
    }
}

static void folders_without_weights_are_refused(void **state) {
    struct error error = {0};
    assert_ok(folder_make(in_folder("empty"), &error), error);
    assert_refused("empty", ERROR_NOT_FOUND,
                   "no weights, expected diffusion_pytorch_model.safetensors or model.safetensors");
    put_tensor("several/a.safetensors", "a", 1);
    put_tensor("several/b.safetensors", "b", 1);
    assert_refused("several", ERROR_INPUT, "2 weight files and no index, expected one");
    assert_refused("absent.safetensors", ERROR_NOT_FOUND, "cannot be opened");
    put_text("void/model.safetensors", "");
    assert_refused("void", ERROR_INPUT, "0 bytes, expected a safetensors file");
}

static void shard_sets_open(void **state) {
    struct error error = {0};
    put_tensor("set/m-1.safetensors", "first", 1);
    put_tensor("set/m-2.safetensors", "second", 2);
    put_text("set/model.safetensors.index.json",
             "{\"metadata\":{\"total_size\":2},\"weight_map\":{\"second\":\"m-2.safetensors\",\"first\":\"m-"
             "1.safetensors\"}}");
    static const char *const paths[] = {"set", "set/model.safetensors.index.json"};
    for (int i = 0; i < 2; i++) {
        struct checkpoint *checkpoint = checkpoint_open(in_folder(paths[i]), &error);
        assert_ok(checkpoint, error);
        assert_int_equal(checkpoint_count(checkpoint), 2);
        assert_string_equal(checkpoint_entry(checkpoint, 0)->name, "first");
        assert_string_equal(checkpoint_entry(checkpoint, 0)->file, in_folder("set/m-1.safetensors"));
        assert_int_equal(*(const uint8_t *)checkpoint_find(checkpoint, "second")->tensor.data, 2);
        assert_string_equal(checkpoint_metadata(checkpoint, "from"), "set/m-1.safetensors");
        uint64_t bytes;
        assert_int_equal(checkpoint_files(checkpoint, &bytes), 2);
        checkpoint_release_pages(checkpoint);
        checkpoint_close(checkpoint);
    }
}

// A tensor in a shard that the index does not name is not part of the set.
static void index_decides(void **state) {
    struct error error = {0};
    put_tensor("spare/a.safetensors", "a", 1);
    put_tensor("spare/b.safetensors", "b", 2);
    put_text("spare/model.safetensors.index.json", "{\"weight_map\":{\"b\":\"b.safetensors\"}}");
    struct checkpoint *checkpoint = checkpoint_open(in_folder("spare"), &error);
    assert_ok(checkpoint, error);
    assert_int_equal(checkpoint_count(checkpoint), 1);
    assert_null(checkpoint_find(checkpoint, "a"));
    checkpoint_close(checkpoint);
    put_text("nothing/model.safetensors.index.json", "{\"weight_map\":{}}");
    checkpoint = checkpoint_open(in_folder("nothing"), &error);
    assert_ok(checkpoint, error);
    assert_int_equal(checkpoint_count(checkpoint), 0);
    checkpoint_close(checkpoint);
}

static const struct {
    const char *index;
    enum error_kind kind;
    const char *expected;
} bad_indices[] = {
    {"", ERROR_INPUT, "not valid JSON"},
    {"[]", ERROR_INPUT, "expected an object, found an array"},
    {"{}", ERROR_INPUT, "field \"weight_map\" is missing"},
    {"{\"weight_map\":[]}", ERROR_INPUT, "field \"weight_map\": expected an object, found an array"},
    {"{\"weight_map\":{\"a\":1}}", ERROR_INPUT, "weight_map: \"a\": expected the name of a file"},
    {"{\"weight_map\":{\"a\":\"../set/a.safetensors\"}}", ERROR_INPUT,
     "\"../set/a.safetensors\", expected the plain name"},
    {"{\"weight_map\":{\"a\":\"/etc/a.safetensors\"}}", ERROR_INPUT, "expected the plain name"},
    {"{\"weight_map\":{\"a\":\"..\\\\a.safetensors\"}}", ERROR_INPUT, "expected the plain name"},
    {"{\"weight_map\":{\"a\":\"a.bin\"}}", ERROR_INPUT,
     "\"a.bin\", expected the plain name of a .safetensors file"},
    {"{\"weight_map\":{\"a\":\"\"}}", ERROR_INPUT, "expected the plain name"},
    {"{\"weight_map\":{\"a\":\".safetensors\"}}", ERROR_INPUT, "expected the plain name"},
    {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", ERROR_NOT_FOUND,
     "bad/gone.safetensors: cannot be opened: No such file"},
    {"{\"weight_map\":{\"b\":\"a.safetensors\"}}", ERROR_INPUT,
     "tensor \"b\" should be in a.safetensors, which does not hold it"},
    {"{\"weight_map\":{\"a\":\"a.safetensors\",\"a\":\"a.safetensors\"}}", ERROR_INPUT, "duplicate"},
    {"{\"weight_map\":{\"a\":\"broken.safetensors\"}}", ERROR_INPUT,
     "broken.safetensors: 3 bytes, expected a safetensors file"},
};

static void bad_indices_are_refused(void **state) {
    put_tensor("bad/a.safetensors", "a", 1);
    put_text("bad/broken.safetensors", "abc");
    for (size_t i = 0; i < sizeof bad_indices / sizeof *bad_indices; i++) {
        put_text("bad/model.safetensors.index.json", bad_indices[i].index);
        assert_refused("bad", bad_indices[i].kind, bad_indices[i].expected);
    }
}

// ------------------------------------------------------------------------------------------------------------- writing

static void written_files_read_back(void **state) {
    struct error error = {0};
    struct safetensors_writer *writer = safetensors_writer_new();
    float values[6] = {1, 2, 3, 4, 5, 6};
    int64_t shape[2] = {2, 3}, none[1] = {0}, negative[1] = {-1};
    uint16_t half = 0x3c00;
    assert_ok(safetensors_writer_add(writer, "z", DTYPE_F32, 2, shape, values, &error), error);
    assert_ok(safetensors_writer_add(writer, "a \"quoted\" \u20ac", DTYPE_F16, 0, NULL, &half, &error),
              error);
    assert_ok(safetensors_writer_add(writer, "none", DTYPE_F32, 1, none, NULL, &error), error);
    assert_false(safetensors_writer_add(writer, "z", DTYPE_F32, 2, shape, values, &error));
    assert_contains(error.message, "\"z\": this name is taken");
    error_clear(&error);
    assert_false(safetensors_writer_add(writer, "__metadata__", DTYPE_F32, 2, shape, values, &error));
    error_clear(&error);
    assert_false(safetensors_writer_add(writer, "n", DTYPE_F32, 1, negative, values, &error));
    assert_contains(error.message, "\"n\": dimension 0 is -1");
    error_clear(&error);
    assert_false(safetensors_writer_add(writer, "n", DTYPE_F32, 6, shape, values, &error));
    error_clear(&error);
    assert_false(safetensors_writer_add(writer, "\xff", DTYPE_F32, 2, shape, values, &error));
    error_clear(&error);
    const char *path = in_folder("written.safetensors");
    assert_ok(safetensors_writer_save(writer, path, &error), error);
    safetensors_writer_free(writer);
    safetensors_writer_free(NULL);

    struct checkpoint *checkpoint = checkpoint_open(path, &error);
    assert_ok(checkpoint, error);
    assert_int_equal(checkpoint_count(checkpoint), 3);
    struct tensor tensor;
    assert_ok(checkpoint_get(checkpoint, &tensor, 2, shape, &error, "z"), error);
    assert_int_equal((uintptr_t)tensor.data % 8, 0);
    assert_memory_equal(tensor.data, values, sizeof values);
    float *one = checkpoint_get_f32(checkpoint, 1, &error, "a \"quoted\" \u20ac");
    assert_ok(one, error);
    assert_true(*one == 1);
    free(one);
    checkpoint_close(checkpoint);
}

static void header_limit_is_the_reference_one(void **state) {
    // A header of spaces behind {} that is one byte too long by its own claim is refused before it is read.
    uint8_t head[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    uint64_t claim = SAFETENSORS_HEADER_MOST + 1;
    memcpy(head, &claim, 8);
    struct error error = {0};
    assert_null(checkpoint_parse("f", head, sizeof head, &error));
    assert_contains(error.message, "claims a header of 100000001 bytes, expected at most 100000000");
    error_clear(&error);
    claim--;
    memcpy(head, &claim, 8);
    assert_null(checkpoint_parse("f", head, sizeof head, &error));
    assert_contains(error.message, "claims a header of 100000000 bytes, but only 2 follow");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(truncated_files_are_refused),
        cmocka_unit_test(good_headers_are_read),
        cmocka_unit_test(getting_checks_the_shape),
        cmocka_unit_test(small_tensors_are_decoded),
        cmocka_unit_test(single_files_open),
        cmocka_unit_test(folders_without_weights_are_refused),
        cmocka_unit_test(shard_sets_open),
        cmocka_unit_test(index_decides),
        cmocka_unit_test(bad_indices_are_refused),
        cmocka_unit_test(written_files_read_back),
        cmocka_unit_test(header_limit_is_the_reference_one),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, make_folder, remove_folder);
}
