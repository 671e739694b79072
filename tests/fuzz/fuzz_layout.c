// The head of a safetensors file, recognised, its companions attached and its tensors renamed; the file's name does not matter.
// Data that the head asks for and the input lacks is put behind it as zeros, so that companions are reached at all.
#include "fuzz.h"

#include "weights/companions.h"
#include "weights/layout.h"

enum { DATA_MOST = 1 << 20 };

// How many bytes of data the head of a file means to have, by its largest number after "data_offsets".
static size_t data_bytes(const char *text, size_t size) {
    size_t most = 0;
    for (size_t i = 0; i < size;) {
        if (text[i] < '0' || text[i] > '9') {
            i++;
            continue;
        }
        size_t number = 0;
        for (; i < size && text[i] >= '0' && text[i] <= '9'; i++)
            if (number < DATA_MOST) number = number * 10 + (size_t)(text[i] - '0');
        if (number > most && number < DATA_MOST) most = number;
    }
    return most;
}

static void use(const struct checkpoint *checkpoint) {
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++) {
        const struct tensor *tensor = &checkpoint_entry(checkpoint, i)->tensor;
        promise(i == 0 ||
                strcmp(checkpoint_entry(checkpoint, i - 1)->name, checkpoint_entry(checkpoint, i)->name) < 0);
        promise(tensor->bytes == dtype_bytes(tensor->type, tensor_values(tensor)));
        touch(tensor->data, tensor->bytes);
        const struct tensor_scales *scales = tensor->scales;
        if (!scales) continue;
        promise(companions_text(tensor));
        int64_t rows = tensor->rank > 0 ? tensor->shape[0] : 1;
        if (scales->rows) touch(scales->rows, sizeof(float) * (size_t)(scales->row_stride ? rows : 1));
        if (scales->codebook) touch(scales->codebook, 16 * sizeof(float));
        if (tensor->type == DTYPE_NVFP4)
            touch(scales->blocks,
                  (size_t)((rows + scales->first_row + 127) / 128 * 128 * scales->block_columns));
        if (tensor->type == DTYPE_NF4) {
            promise(tensor->shape[tensor->rank - 1] % scales->block_values == 0);
            size_t blocks = (size_t)(tensor_values(tensor) / scales->block_values);
            touch(scales->blocks, blocks * (scales->nested ? 1 : sizeof(float)));
            if (scales->nested)
                touch(scales->nested_scales, sizeof(float) * ((blocks + (size_t)scales->nested_block - 1) /
                                                              (size_t)scales->nested_block));
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t zeros = data_bytes((const char *)data, size);
    char *file = calloc(1, 8 + size + zeros);
    for (int i = 0; i < 8; i++) file[i] = (char)((uint64_t)size >> 8 * i);
    memcpy(file + 8, data, size);
    for (int part = 0; part < MODEL_PARTS; part++) {
        struct error error = {0};
        struct checkpoint *checkpoint = checkpoint_parse("fuzz", file, 8 + size + zeros, &error);
        if (!checkpoint) {
            promise_explained(&error);
            break;
        }
        struct layout layout;
        bool found = layout_find(checkpoint, (enum model_part)part, &layout);
        if (found) promise(!layout_stranger(checkpoint));
        bool done = found ? layout_apply(checkpoint, &layout, &error) : companions_attach(checkpoint, &error);
        if (done)
            use(checkpoint);
        else
            promise_explained(&error);
        checkpoint_close(checkpoint);
    }
    free(file);
    return 0;
}
