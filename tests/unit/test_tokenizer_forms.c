// Tokenizers in GGUF files, tekken.json and text encoder files give the ids of tokenizer.json.
#include "layout_files.h"

#include "base/buffer.h"
#include "base/json.h"
#include "text/tokenizer.h"

#define LAYOUTS FIXTURES "layouts/"

static struct tokenizer *open_tokenizer(const char *path) {
    struct error error = {0};
    struct tokenizer *tokenizer = tokenizer_open(path, &error);
    assert_ok(tokenizer, error);
    return tokenizer;
}

static void assert_same_ids(const struct tokenizer *left, const struct tokenizer *right, const char *text) {
    struct error error = {0};
    struct token_list ids[2] = {{0}};
    assert_ok(tokenizer_encode(left, text, strlen(text), &ids[0], &error), error);
    assert_ok(tokenizer_encode(right, text, strlen(text), &ids[1], &error), error);
    bool same = ids[0].count == ids[1].count &&
                (ids[0].count == 0 || !memcmp(ids[0].ids, ids[1].ids, (size_t)ids[0].count * 4));
    if (!same) fail_msg("\"%s\": other ids (%d and %d)", text, (int)ids[0].count, (int)ids[1].count);
    free(ids[0].ids);
    free(ids[1].ids);
}

// The strings of the fixture, which the two tokenizers of tests/fixtures are held against elsewhere.
static void assert_agree(const char *left_path, const char *right_path) {
    struct error error = {0};
    struct tokenizer *left = open_tokenizer(left_path), *right = open_tokenizer(right_path);
    assert_int_equal(tokenizer_vocabulary(left), tokenizer_vocabulary(right));
    json_t *json = json_read_file(FIXTURES "tokenizer.json", 1 << 24, &error);
    const json_t *strings = json_object_get(json, "strings");
    assert_true(json_array_size(strings) >= 300);
    for (size_t i = 0; i < json_array_size(strings); i++)
        assert_same_ids(left, right, json_string_value(json_array_get(strings, i)));
    assert_same_ids(left, right, "<s>[SYSTEM_PROMPT]x[/SYSTEM_PROMPT][INST]a red circle[/INST]<pad>");
    for (int32_t id = 0; id < tokenizer_vocabulary(left); id++) {
        size_t sizes[2];
        const char *a = tokenizer_token(left, id, &sizes[0]), *b = tokenizer_token(right, id, &sizes[1]);
        assert_true(a && b && sizes[0] == sizes[1] && memcmp(a, b, sizes[0]) == 0);
    }
    json_decref(json);
    tokenizer_close(left);
    tokenizer_close(right);
}

// One text in a file replaced by another.
static void replace(const char *path, const char *from, const char *to) {
    struct error error = {0};
    char *text;
    size_t size;
    assert_ok(file_read(path, 1 << 24, &text, &size, &error), error);
    char *at = strstr(text, from);
    assert_non_null(at);
    struct buffer changed = {0};
    assert_true(buffer_add(&changed, text, (size_t)(at - text)) && buffer_add_string(&changed, to) &&
                buffer_add_string(&changed, at + strlen(from)));
    write_text(path, changed.data);
    buffer_free(&changed);
    free(text);
}

static void gguf_gives_the_same_ids(void **state) {
    assert_agree(LAYOUTS "tokenizer-tekken.gguf", FIXTURES "tokenizer-tekken");
    // Qwen's splitting differs from that of the fixture in digits, which stand alone, and in normalising.
    char folder[64];
    folder_begin(folder);
    copy_fixture("tokenizer-hf/tokenizer.json", in(folder, "tokenizer.json"));
    replace(in(folder, "tokenizer.json"), "\\\\p{N}{1,3}", "\\\\p{N}");
    replace(in(folder, "tokenizer.json"), "\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\"}");
    assert_agree(LAYOUTS "tokenizer-hf.gguf", folder);
    folder_end(folder);
}

static void tekken_gives_the_same_ids(void **state) {
    assert_agree(LAYOUTS "tekken.json", FIXTURES "tokenizer-tekken");
    char folder[64];
    folder_begin(folder);
    copy_fixture("layouts/tekken.json", in(folder, "tekken.json"));
    assert_agree(folder, FIXTURES "tokenizer-tekken"); // its folder
    // The bytes of the file as a tensor.
    struct error error = {0};
    char *text;
    size_t size;
    assert_ok(file_read(LAYOUTS "tekken.json", 1 << 24, &text, &size, &error), error);
    struct safetensors_writer *writer = safetensors_writer_new();
    assert_ok(
        safetensors_writer_add(writer, "tekken_model", DTYPE_U8, 1, &(int64_t){(int64_t)size}, text, &error),
        error);
    assert_ok(safetensors_writer_save(writer, in(folder, "encoder.safetensors"), &error), error);
    safetensors_writer_free(writer);
    free(text);
    assert_agree(in(folder, "encoder.safetensors"), FIXTURES "tokenizer-tekken");
    folder_end(folder);
}

#define WORD(rank, bytes)               "{\"rank\":" rank ",\"token_bytes\":\"" bytes "\"}"
#define TEKKEN(config, words, specials) "{\"config\":{" config "},\"vocab\":[" words "]" specials "}"
#define SMALL                           "\"default_num_special_tokens\":2,\"default_vocab_size\":9"

static void wrong_tekkens_are_refused(void **state) {
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {TEKKEN(SMALL, WORD("1", "YQ=="), ""),
         "t: field \"vocab\": element 0: field \"rank\", expected its place"},
        {TEKKEN(SMALL, WORD("0", "YQ="), ""), "element 0: field \"token_bytes\", expected base64"},
        {TEKKEN(SMALL, WORD("0", ""), ""), "expected base64"},
        {TEKKEN(SMALL, WORD("0", "Y!=="), ""), "expected base64"},
        {TEKKEN(SMALL, WORD("0", "===="), ""), "expected base64"},
        {TEKKEN(SMALL, WORD("0", "YQ==") "," WORD("1", "YQ=="), ""),
         "element 1: bytes that an element before it has"},
        {TEKKEN(SMALL, "7", ""), "element 0: field \"rank\""},
        {TEKKEN(SMALL, "", ""), "vocab: empty, expected tokens"},
        {TEKKEN("\"default_vocab_size\":9", WORD("0", "YQ=="), ""), "default_vocab_size"},
        {TEKKEN("\"pattern\":\"(\",\"default_num_special_tokens\":2", WORD("0", "YQ=="), ""),
         "t: pre_tokenizer"},
        {TEKKEN(SMALL, WORD("0", "YQ=="), ",\"special_tokens\":[{\"rank\":1,\"token_str\":\"x\"}]"),
         "field \"special_tokens\": element 0"},
        {TEKKEN(SMALL, WORD("0", "YQ=="),
                ",\"special_tokens\":[{\"rank\":0,\"token_str\":\"x\"},{\"rank\":1,\"token_str\":\"x\"}]"),
         "\"x\" stands there twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        if (tokenizer_parse("t", cases[i].text, strlen(cases[i].text), &error))
            fail_msg("case %zu was accepted: %s", i, cases[i].expected);
        assert_contains(error.message, cases[i].expected);
        assert_contains(error.message, "t");
    }
    // Special tokens that no list names have the names of the first files, then numbers.
    static const char good[] =
        TEKKEN("\"default_num_special_tokens\":25",
               WORD("0", "YQ==") ",{\"rank\":1,\"token_bytes\":\"AA==\",\"token_str\":\"\\u0000\"}", "");
    struct error error = {0};
    struct tokenizer *tokenizer = tokenizer_parse("t", good, strlen(good), &error);
    assert_ok(tokenizer, error);
    assert_int_equal(tokenizer_find(tokenizer, "[INST]"), 3);
    assert_int_equal(tokenizer_find(tokenizer, "<SPECIAL_24>"), 24);
    assert_int_equal(tokenizer_find(tokenizer, "a"), 25);
    size_t size;
    assert_memory_equal(tokenizer_token(tokenizer, 26, &size), "", 1);
    assert_int_equal(size, 1);
    tokenizer_close(tokenizer);
}

static void files_without_a_tokenizer_are_refused(void **state) {
    static const struct {
        const char *path, *expected;
    } cases[] = {{LAYOUTS "qwen3.gguf", "qwen3.gguf: tokenizer.ggml.model is \"\", expected \"gpt2\""},
                 {LAYOUTS "fp8.safetensors", "fp8.safetensors: there is no tokenizer in it"},
                 {FIXTURES "model-b/vae",
                  "model-b/vae: there is no tokenizer in it, expected tokenizer.json, tekken.json"},
                 {FIXTURES "image/one_bit.png", "one_bit.png"},
                 {"/no/such/file", "/no/such/file"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        assert_null(tokenizer_open(cases[i].path, &error));
        assert_contains(error.message, cases[i].expected);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_gives_the_same_ids),
        cmocka_unit_test(tekken_gives_the_same_ids),
        cmocka_unit_test(wrong_tekkens_are_refused),
        cmocka_unit_test(files_without_a_tokenizer_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
