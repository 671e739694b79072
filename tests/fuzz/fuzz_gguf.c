// A whole GGUF file: its head, its tensors, its keys, and the tokenizer that may lie in them.
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {0};
    if (!gguf_begins(data, size)) return -1;
    struct checkpoint *checkpoint = checkpoint_parse("fuzz", data, size, &error);
    if (!checkpoint) {
        promise_explained(&error);
        return 0;
    }
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
    return 0;
}
