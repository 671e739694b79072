// A whole safetensors file. Most changes to the header make its length wrong, which would end most runs at the first check:
// the mutator puts the length right three times out of four.
#include "fuzz.h"

#include "weights/checkpoint.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed) {
    size = LLVMFuzzerMutate(data, size, most);
    if (size < 9 || seed % 4 == 0) return size;
    size_t end = size;
    while (end > 8 && data[end - 1] != '}') end--;
    for (int i = 0; i < 8; i++) data[i] = (uint8_t)((uint64_t)(end - 8) >> 8 * i);
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {0};
    struct checkpoint *checkpoint = checkpoint_parse("fuzz", data, size, &error);
    if (!checkpoint) {
        promise_explained(&error);
        return 0;
    }
    volatile unsigned sum = 0;
    size_t bytes = 0;
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(checkpoint, i);
        const struct tensor *tensor = &entry->tensor;
        promise(checkpoint_find(checkpoint, entry->name) == entry);
        promise(tensor->bytes == dtype_bytes(tensor->type, tensor_values(tensor)));
        promise(i == 0 || strcmp(checkpoint_entry(checkpoint, i - 1)->name, entry->name) < 0);
        sum += touch(tensor->data, tensor->bytes);
        bytes += tensor->bytes;
        struct tensor same;
        int64_t shape[TENSOR_RANK_MOST] = {-1, -1, -1, -1, -1};
        struct error refused = {0};
        if (!checkpoint_get(checkpoint, &same, tensor->rank, shape, &refused, "%s", entry->name))
            promise_explained(&refused);
        error_clear(&refused);
        float *values = checkpoint_get_f32(checkpoint, tensor_values(tensor), &refused, "%s", entry->name);
        if (!values) promise_explained(&refused);
        free(values);
    }
    promise(bytes < size);
    for (int64_t i = 0; i < checkpoint_metadata_count(checkpoint); i++) {
        const struct checkpoint_metadata_pair *pair = checkpoint_metadata_pair(checkpoint, i);
        promise(checkpoint_metadata(checkpoint, pair->key));
        sum += touch(pair->value, strlen(pair->value));
    }
    checkpoint_close(checkpoint);
    return 0;
}
