// Writes small safetensors files. Relies on base, jansson, checkpoint's format.
#include "weights/safetensors_write.h"
#include "base/buffer.h"
#include "base/file.h"

#include <jansson.h> // defines: json_t
#include <stdlib.h>
#include <string.h>

struct safetensors_writer {
    json_t *header; // in the order of adding, which is the order of the data
    struct buffer data;
};

struct safetensors_writer *safetensors_writer_new(void) {
    struct safetensors_writer *writer = calloc(1, sizeof *writer);
    if (writer) writer->header = json_object();
    if (writer && writer->header) return writer;
    free(writer);
    return NULL;
}

void safetensors_writer_free(struct safetensors_writer *writer) {
    if (!writer) return;
    json_decref(writer->header);
    buffer_free(&writer->data);
    free(writer);
}

bool safetensors_writer_add(struct safetensors_writer *writer, const char *name, enum dtype type, int rank,
                            const int64_t *shape, const void *data, struct error *error) {
    if (json_object_get(writer->header, name) || strcmp(name, "__metadata__") == 0) {
        return error_set(error, ERROR_INPUT, "tensor \"%s\": this name is taken", name);
    }
    if (dtype_info(type)->block_bytes == 0 || rank < 0 || rank > TENSOR_RANK_MOST) {
        return error_set(error, ERROR_INPUT, "tensor \"%s\": type %d of %d dimensions cannot be written",
                         name, (int)type, rank);
    }
    int64_t values = 1;
    json_t *sizes = json_array();
    for (int i = 0; i < rank; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(values, shape[i], &values)) {
            json_decref(sizes);
            return error_set(error, ERROR_INPUT, "tensor \"%s\": dimension %d is %lld", name, i,
                             (long long)shape[i]);
        }
        json_array_append_new(sizes, json_integer(shape[i]));
    }
    size_t begin = writer->data.length, bytes = dtype_bytes(type, values);
    if (!buffer_add(&writer->data, data, bytes)) {
        json_decref(sizes);
        return error_set(error, ERROR_MEMORY, "tensor \"%s\": no memory for %zu bytes", name, bytes);
    }
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_info(type)->name, "shape", sizes,
                              "data_offsets", (json_int_t)begin, (json_int_t)(begin + bytes));
    if (!entry || json_object_set_new(writer->header, name, entry) != 0) {
        writer->data.length = begin;
        return error_set(error, ERROR_INPUT, "tensor \"%s\": expected a name in UTF-8, and memory for it",
                         name);
    }
    return true;
}

bool safetensors_writer_save(struct safetensors_writer *writer, const char *path, struct error *error) {
    struct buffer file = {0};
    char *text = json_dumps(writer->header, JSON_COMPACT);
    size_t length = text ? strlen(text) : 0, padded = (length + 7) / 8 * 8; // data begins at a multiple of 8
    uint8_t head[8];
    for (int i = 0; i < 8; i++) head[i] = (uint8_t)((uint64_t)padded >> 8 * i);
    bool done = text && buffer_reserve(&file, 8 + padded + writer->data.length) &&
                buffer_add(&file, head, 8) && buffer_add(&file, text, length) &&
                buffer_add(&file, "       ", padded - length) &&
                (writer->data.length == 0 || buffer_add(&file, writer->data.data, writer->data.length));
    if (done) {
        done = file_write(path, file.data, file.length, error);
    } else {
        error_set(error, ERROR_MEMORY, "%s: no memory to write it", path);
    }
    free(text);
    buffer_free(&file);
    return done;
}
