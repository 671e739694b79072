// Weight files made from others: the same tensors under other names, in another type or order. For the tests of layouts.
#ifndef LIMN_TESTS_LAYOUT_FILES_H
#define LIMN_TESTS_LAYOUT_FILES_H

#include "fixture.h"

#include "base/file.h"
#include "tensor/stored.h"
#include "weights/layout.h"
#include "weights/safetensors_write.h"

#include <sys/stat.h>
#include <unistd.h>

// A fresh folder under /tmp, and its end.
static inline void folder_begin(char folder[64]) {
    snprintf(folder, 64, "/tmp/limn-layout-XXXXXX");
    assert_non_null(mkdtemp(folder));
}

static inline void folder_end(const char *folder) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

// [folder]/[name] as one of a few strings that stay until they are used again.
static inline const char *in(const char *folder, const char *name) {
    static char paths[6][320];
    static int turn;
    turn = (turn + 1) % 6;
    snprintf(paths[turn], sizeof paths[turn], "%s/%s", folder, name);
    return paths[turn];
}

// Copies a file of the fixtures; the folders above [to] are made.
static inline void copy_fixture(const char *from, const char *to) {
    char command[900];
    snprintf(command, sizeof command, "mkdir -p \"$(dirname '%s')\" && cp '%s%s' '%s'", to, FIXTURES, from,
             to);
    assert_int_equal(system(command), 0);
}

static inline void write_text(const char *path, const char *text) {
    struct error error = {0};
    assert_ok(file_write(path, text, strlen(text), &error), error);
}

// How copy_tensors changes what it copies.
struct copying {
    // The new name into [to], false to leave the tensor out; NULL keeps all names.
    bool (*rename)(const char *name, char *to, size_t size);
    enum dtype matrices; // the type of tensors of two and more dimensions; DTYPE_NONE keeps it
    bool convolutions;   // matrices [out, in] become [out, in, 1, 1]
};

// The value of an f32 in another type.
static inline void convert(const float *values, int64_t count, enum dtype type, void *to) {
    for (int64_t i = 0; i < count; i++) {
        if (type == DTYPE_BF16)
            ((uint16_t *)to)[i] = f32_to_bf16(values[i]);
        else if (type == DTYPE_F16)
            ((uint16_t *)to)[i] = f32_to_f16(values[i]);
        else
            ((float *)to)[i] = values[i];
    }
}

static inline void copy_tensor(struct safetensors_writer *writer, const struct checkpoint_entry *entry,
                               const struct copying *copying) {
    struct error error = {0};
    char name[300];
    snprintf(name, sizeof name, "%s", entry->name);
    if (copying->rename && !copying->rename(entry->name, name, sizeof name)) return;
    struct tensor tensor = entry->tensor;
    int64_t count = tensor_values(&tensor);
    float *values = malloc((size_t)count * sizeof *values + 1);
    void *changed = malloc((size_t)count * sizeof *values + 1);
    if (copying->matrices && tensor.rank >= 2 && tensor.type != copying->matrices) {
        assert_true(dtype_decode(tensor.type, tensor.data, values, count));
        convert(values, count, copying->matrices, changed);
        tensor.type = copying->matrices;
        tensor.data = changed;
    }
    if (copying->convolutions && tensor.rank == 2) {
        tensor.rank = 4;
        tensor.shape[2] = tensor.shape[3] = 1;
    }
    assert_ok(
        safetensors_writer_add(writer, name, tensor.type, tensor.rank, tensor.shape, tensor.data, &error),
        error);
    free(values);
    free(changed);
}

// All tensors of the weights at [from] into the safetensors file [to].
static inline void copy_tensors(const char *from, const char *to, const struct copying *copying) {
    struct error error = {0};
    struct checkpoint *checkpoint = checkpoint_open(from, &error);
    assert_ok(checkpoint, error);
    struct safetensors_writer *writer = safetensors_writer_new();
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++)
        copy_tensor(writer, checkpoint_entry(checkpoint, i), copying);
    assert_ok(safetensors_writer_save(writer, to, &error), error);
    safetensors_writer_free(writer);
    checkpoint_close(checkpoint);
}

// A matrix as f32, row by row in the order that its name means.
static inline void add_decoded(struct safetensors_writer *writer, const struct checkpoint_entry *entry) {
    struct error error = {0};
    const struct tensor *tensor = &entry->tensor;
    int64_t rows = tensor_rows(tensor), cols = tensor_cols(tensor);
    float *values = malloc((size_t)(rows * cols) * sizeof *values);
    for (int64_t row = 0; row < rows; row++) {
        int64_t from = entry->halves_swapped ? (row + rows / 2) % rows : row;
        assert_true(tensor_decode_row(tensor, from, values + row * cols));
    }
    assert_ok(
        safetensors_writer_add(writer, entry->name, DTYPE_F32, tensor->rank, tensor->shape, values, &error),
        error);
    free(values);
}

// A transformer in any layout and type as f32 with diffusers' names.
static inline void write_decoded(const char *from, const char *to) {
    struct error error = {0};
    struct checkpoint *checkpoint = layout_open(from, PART_TRANSFORMER, NULL, &error);
    assert_ok(checkpoint, error);
    struct safetensors_writer *writer = safetensors_writer_new();
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++)
        add_decoded(writer, checkpoint_entry(checkpoint, i));
    assert_ok(safetensors_writer_save(writer, to, &error), error);
    safetensors_writer_free(writer);
    checkpoint_close(checkpoint);
}

#endif
