// A LoRA file for a small transformer, and the names of its tensors. What the reader takes is multiplied into weights.
#include "fuzz.h"

#include "weights/lora.h"

#include <math.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed);

static const struct lora_shape SHAPE = {.hidden = 4,
                                        .mlp_hidden = 6,
                                        .in_channels = 2,
                                        .context = 3,
                                        .timestep_width = 2,
                                        .double_blocks = 2,
                                        .single_blocks = 2,
                                        .guidance = true};

// Keeps the header's length right three times out of four, as fuzz_safetensors does.
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed) {
    size = LLVMFuzzerMutate(data, size, most);
    if (size < 9 || seed % 4 == 0) return size;
    size_t end = size;
    while (end > 8 && data[end - 1] != '}') end--;
    for (int i = 0; i < 8; i++) data[i] = (uint8_t)((uint64_t)(end - 8) >> 8 * i);
    return size;
}

static void check_rows(const struct weight_rows *rows, int64_t count, int64_t cols) {
    volatile unsigned sum = 0;
    promise(rows->rows == count && rows->row_bytes == dtype_bytes(rows->type, cols));
    promise((uintptr_t)rows->data % dtype_bytes(rows->type, 1) == 0);
    sum += touch(rows->data, (size_t)count * rows->row_bytes);
}

static void check_branch(const struct lora_branch *branch) {
    const struct low_rank *low_rank = &branch->low_rank;
    int64_t out, in;
    promise(branch->module >= 0 && branch->module < LORA_MODULES && branch->block >= 0);
    promise(branch->block < 2 && isfinite(low_rank->scale));
    lora_module_size(&SHAPE, branch->module, &out, &in);
    promise(low_rank->down.rows > 0 && low_rank->up.rows > 0 && low_rank->first_output >= 0);
    promise(low_rank->first_output + low_rank->up.rows <= out);
    check_rows(&low_rank->down, low_rank->down.rows, in);
    check_rows(&low_rank->up, low_rank->up.rows, low_rank->down.rows);
}

static void merge_all(const struct lora *lora, const struct checkpoint *names) {
    float rows[64 * 16];
    for (int64_t i = 0; i < checkpoint_count(names); i++) {
        struct lora_place place;
        struct error error = {0};
        char module[200];
        snprintf(module, sizeof module, "%s", checkpoint_entry(names, i)->name);
        for (char *dot = module + strlen(module); dot > module;
             dot--) { // the module is some beginning of the name
            if (*dot && *dot != '.') continue;
            *dot = 0;
            if (!lora_place_find(module, &SHAPE, &place)) continue;
            promise(place.rows > 0 && place.rows * place.in <= 64 * 16);
            memset(rows, 0, sizeof rows);
            promise(lora_merge_rows(lora, &place, 0.5f, 0, place.rows / 3, rows, &error));
            promise(lora_merge_rows(lora, &place, 0.5f, place.rows / 3, place.rows - place.rows / 3,
                                    rows + place.rows / 3 * place.in, &error));
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {0};
    struct checkpoint *checkpoint = checkpoint_parse("fuzz", data, size, &error);
    if (!checkpoint) return 0; // fuzz_safetensors
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++) {
        const char *name = checkpoint_entry(checkpoint, i)->name;
        struct lora_key key;
        lora_key_read(name, &SHAPE, &key);
        promise((key.kind == LORA_KEY_REFUSED) == (key.refused != NULL));
        if (key.kind == LORA_KEY_DOWN || key.kind == LORA_KEY_UP || key.kind == LORA_KEY_ALPHA)
            promise(key.module >= name && key.module + key.module_length < name + strlen(name));
    }
    struct checkpoint *names = checkpoint_parse("fuzz", data, size, &error);
    promise(names);
    struct lora *lora = lora_read("fuzz", checkpoint, &SHAPE, &error);
    if (!lora) {
        promise_explained(&error);
        checkpoint_close(names);
        return 0;
    }
    promise(lora_branch_count(lora) > 0);
    for (int64_t i = 0; i < lora_branch_count(lora); i++) check_branch(lora_branch(lora, i));
    if (lora_warning(lora)) promise(strlen(lora_warning(lora)) > 10);
    merge_all(lora, names);
    lora_close(lora);
    checkpoint_close(names);
    return 0;
}
