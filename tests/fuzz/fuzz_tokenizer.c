// tokenizer.json and text. A first byte below 128 makes the rest a tokenizer.json, with which a fixed text is then encoded;
// from 128 on the rest is text for a tokenizer of the fixtures.
#include "fuzz.h"

#include "base/buffer.h"
#include "text/tokenizer.h"

int LLVMFuzzerInitialize(int *count, char ***arguments);

enum { FIXTURES = 2 };

static struct tokenizer *fixtures[FIXTURES];

int LLVMFuzzerInitialize(int *count, char ***arguments) {
    static const char *const folders[FIXTURES] = {"tokenizer-tekken", "model-a/tokenizer"};
    for (int i = 0; i < FIXTURES; i++) {
        char path[1024];
        struct error error = {0};
        snprintf(path, sizeof path, "%s/tests/fixtures/%s", LIMN_SOURCE_DIR, folders[i]);
        fixtures[i] = tokenizer_open(path, &error);
        if (!fixtures[i]) fprintf(stderr, "%s\n", error.message);
        promise(fixtures[i]);
    }
    return 0;
}

// Encodes; every id is one of the vocabulary and has bytes. The bytes of all go to [spelled].
static bool encode(const struct tokenizer *tokenizer, const char *text, size_t size, struct buffer *spelled) {
    struct token_list list = {0};
    struct error error = {0};
    bool done = tokenizer_encode(tokenizer, text, size, &list, &error);
    if (!done) promise_explained(&error);
    for (int64_t i = 0; done && i < list.count; i++) {
        size_t length = 0;
        promise(list.ids[i] >= 0 && list.ids[i] < tokenizer_vocabulary(tokenizer));
        const char *bytes = tokenizer_token(tokenizer, list.ids[i], &length);
        promise(bytes);
        promise(buffer_add(spelled, bytes, length));
    }
    free(list.ids);
    return done;
}

static void fuzz_file(const char *json, size_t size) {
    static const char *const texts[] = {"", "aab ba <s>a b</s> 123  \n\t4",
                                        "A\u0301 \u00e9\u4e2d\U0001F600 don't  x"};
    struct error error = {0};
    struct tokenizer *tokenizer = tokenizer_parse("fuzz", json, size, &error);
    if (!tokenizer) {
        promise_explained(&error);
        return;
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct buffer spelled = {0};
        encode(tokenizer, texts[i], strlen(texts[i]), &spelled);
        buffer_free(&spelled);
    }
    tokenizer_find(tokenizer, "<s>");
    for (int32_t id = -1; id < 16; id++) {
        size_t length = 0;
        const char *bytes = tokenizer_token(tokenizer, id, &length);
        volatile unsigned sum = bytes ? touch(bytes, length) : 0;
        (void)sum;
    }
    tokenizer_close(tokenizer);
}

// Text of plain ASCII that holds no added token is what its tokens spell.
static void fuzz_text(const struct tokenizer *tokenizer, const char *text, size_t size) {
    bool plain = true;
    for (size_t i = 0; i < size; i++)
        plain = plain && (unsigned char)text[i] < 0x80 && text[i] != '<' && text[i] != '[';
    struct buffer spelled = {0};
    promise(buffer_reserve(&spelled, 1));
    bool done = encode(tokenizer, text, size, &spelled);
    if (done && plain) promise(spelled.length == size && memcmp(spelled.data, text, size) == 0);
    buffer_free(&spelled);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    const char *rest = (const char *)data + 1;
    if (data[0] < 128) {
        fuzz_file(rest, size - 1);
    } else {
        fuzz_text(fixtures[data[0] % FIXTURES], rest, size - 1);
    }
    return 0;
}
