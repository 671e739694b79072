// Writes a file of weights, safetensors or GGUF, tensor by tensor in bounded memory. A run that was killed goes on behind the
// last whole tensor. Relies on base, tensor.
//
//     writer = weights_writer_open(path, &plan, &error);
//     for (i = weights_writer_next(writer); i < plan.count; i++)
//         for each piece of tensor i, in order: weights_writer_add(writer, bytes, size, &error);
//     weights_writer_finish(writer, &error);       // synced and renamed to path
//     weights_writer_close(writer);
//
// The types, shapes and metadata of all tensors are known beforehand, so the header comes first and everything behind it has its
// place. Until it is finished the file is called "<path>.part". A .part whose header is the very one of this plan is gone
// on with; any other is written over: put into the plan's metadata whatever tells one run from another.
#ifndef LIMN_WEIGHTS_WEIGHTS_WRITER_H
#define LIMN_WEIGHTS_WEIGHTS_WRITER_H

#include "base/error.h"
#include "tensor/tensor.h"

enum weights_format {
    WEIGHTS_SAFETENSORS,
    WEIGHTS_GGUF, // version 3
};

struct planned_tensor {
    const char *name;
    enum dtype type;
    int rank;
    int64_t shape[TENSOR_RANK_MOST]; // slowest first, also for GGUF, which writes them fastest first
};

// Bytes of its values, for a type and a shape that the writer takes.
size_t planned_tensor_bytes(const struct planned_tensor *tensor);

enum metadata_kind {
    METADATA_TEXT,
    METADATA_U32, // GGUF only, as the others below
    METADATA_F32,
    METADATA_BOOL,
    METADATA_TEXTS, // an array of strings
    METADATA_I32S,  // an array of i32
};

struct planned_metadata {
    const char *key;
    enum metadata_kind kind;
    const char *text;
    double number;
    const char *const *texts; // [count]
    const int32_t *integers;  // [count]
    int64_t count;
};

// Everything is borrowed until the writer is closed.
struct weights_plan {
    enum weights_format format;
    const struct planned_tensor *tensors;
    int64_t count;
    const struct planned_metadata *metadata;
    int64_t metadata_count;
};

// The ggml id of a type; -1 for a type that GGUF does not have. The other way: DTYPE_NONE.
int ggml_id_of(enum dtype type);

// Whether [path] is the finished file of this plan, by its header and size.
bool weights_plan_done(const struct weights_plan *plan, const char *path);

struct weights_writer;

// NULL with an error that names the path or the tensor: a name twice, a shape that is no whole number of blocks, a type that
// the format does not have, a file that cannot be made or that another writer is at.
struct weights_writer *weights_writer_open(const char *path, const struct weights_plan *plan,
                                           struct error *error);
// The tensor that comes next; plan->count behind the last.
int64_t weights_writer_next(const struct weights_writer *writer);
// The next bytes of the tensor in work; a tensor ends with its last byte, and no call goes over that.
bool weights_writer_add(struct weights_writer *writer, const void *data, size_t size, struct error *error);
// All tensors must be there. On failure the .part stays.
bool weights_writer_finish(struct weights_writer *writer, struct error *error);
// Without weights_writer_finish the .part stays, to be gone on with. NULL is fine.
void weights_writer_close(struct weights_writer *writer);

// Bytes of the whole file.
uint64_t weights_plan_bytes(const struct weights_plan *plan, struct error *error);

#endif
