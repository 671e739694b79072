// Writes small safetensors files: dumps, test models. Relies on checkpoint's format, base.
#ifndef LIMN_WEIGHTS_SAFETENSORS_WRITE_H
#define LIMN_WEIGHTS_SAFETENSORS_WRITE_H

#include "base/error.h"
#include "tensor/tensor.h"

struct safetensors_writer;

// Collects tensors (copied when added) and writes them in one go by way of file_write. NULL when memory is gone.
struct safetensors_writer *safetensors_writer_new(void);
bool safetensors_writer_add(struct safetensors_writer *writer, const char *name, enum dtype type, int rank,
                            const int64_t *shape, const void *data, struct error *error);
bool safetensors_writer_save(struct safetensors_writer *writer, const char *path, struct error *error);
void safetensors_writer_free(struct safetensors_writer *writer);

#endif
