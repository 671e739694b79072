// A whole GGUF file: its head, its tensors, its keys, and the tokenizer that may lie in them. Where "GGUF" stands in it again, the
// parts of a split file, each beginning with it.
#include "fuzz.h"

#include "text/tokenizer_forms.h"
#include "weights/layout.h"

static void use_keys(const struct gguf *gguf, const struct checkpoint *checkpoint) {
    for (int64_t i = 0; i < gguf->value_count; i++) {
        const struct gguf_value *value = &gguf->values[i];
        promise(gguf_find(gguf, value->key) == value);
        promise(checkpoint_metadata(checkpoint, value->key));
        touch(value->bytes, value->size);
        struct gguf_cursor cursor = gguf_begin(value);
        const char *text;
        size_t size;
        int64_t whole = 0;
        uint64_t count = 0;
        while (gguf_next_string(&cursor, &text, &size)) {
            touch(text, size);
            count++;
        }
        promise(value->type != GGUF_STRING || count == value->count);
        for (cursor = gguf_begin(value); gguf_next_integer(&cursor, &whole);) {
        }
        char *copy = NULL;
        struct error refused = {0};
        if (!gguf_get_string(gguf, "fuzz", value->key, &copy, &refused)) promise_explained(&refused);
        free(copy);
        error_clear(&refused);
        double real = 0;
        if (!gguf_get_number(gguf, "fuzz", value->key, -1, 1, &real, &refused)) promise_explained(&refused);
        promise(real >= -1 && real <= 1);
    }
}

static void use(struct checkpoint *checkpoint, size_t size) {
    struct error error = {0};
    size_t bytes = 0;
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(checkpoint, i);
        promise(checkpoint_find(checkpoint, entry->name) == entry);
        promise(entry->tensor.bytes == dtype_bytes(entry->tensor.type, tensor_values(&entry->tensor)));
        touch(entry->tensor.data, entry->tensor.bytes);
        bytes += entry->tensor.bytes;
    }
    promise(bytes < size);
    use_keys(checkpoint_gguf(checkpoint), checkpoint);
    if (gguf_find(checkpoint_gguf(checkpoint), "tokenizer.ggml.tokens")) {
        json_t *document = tokenizer_from_gguf("fuzz", checkpoint_gguf(checkpoint), &error);
        if (!document) promise_explained(&error);
        json_decref(document);
    }
    checkpoint_close(checkpoint);
}

// The parts by themselves, each in memory of its own so that reads beyond it are seen.
static void use_parts(const uint8_t *data, size_t size) {
    enum { PARTS_MOST = 4 };
    static const char *const names[PARTS_MOST] = {"one", "two", "three", "four"};
    void *parts[PARTS_MOST];
    size_t sizes[PARTS_MOST];
    int count = 0;
    struct error error = {0};
    for (size_t at = 0, end; at < size && count < PARTS_MOST; at = end) {
        const uint8_t *next = memmem(data + at + 1, size - at - 1, "GGUF", 4);
        end = next && count < PARTS_MOST - 1 ? (size_t)(next - data) : size;
        sizes[count] = end - at;
        parts[count] = malloc(end - at);
        if (parts[count]) memcpy(parts[count], data + at, end - at);
        promise(parts[count]);
        count++;
    }
    struct checkpoint *checkpoint =
        checkpoint_parse_split(names, (const void *const *)parts, sizes, count, &error);
    if (checkpoint)
        use(checkpoint, size);
    else
        promise_explained(&error);
    for (int i = 0; i < count; i++) free(parts[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {0};
    if (!gguf_begins(data, size)) return -1;
    struct checkpoint *checkpoint = checkpoint_parse("fuzz", data, size, &error);
    if (checkpoint)
        use(checkpoint, size);
    else
        promise_explained(&error);
    if (memmem(data + 1, size - 1, "GGUF", 4)) use_parts(data, size);
    return 0;
}
