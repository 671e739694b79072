// Named tensors from files: one safetensors or GGUF file, or a folder of shards. Relies on base, tensor.
//
// A file is taken as what its first bytes say, whatever its name. GGUF is described in gguf.h. Safetensors: u64 little-endian
// length N of a JSON header, the header, then the data. The header maps a
// tensor's name to {"dtype", "shape", "data_offsets": [begin, end)} relative to byte 8 + N; "__metadata__" maps strings to
// strings. A shard set has an index file {"metadata": ..., "weight_map": {tensor: file}}. GGUF files are split by their names
// (gguf_split.h): any of the parts stands for all of them.
//
// Opening checks everything that the header claims: length, JSON, types, shapes against byte counts, offsets inside the
// file, no overlaps, no holes, no name twice. What passes can be read without further checks.
#ifndef LIMN_WEIGHTS_CHECKPOINT_H
#define LIMN_WEIGHTS_CHECKPOINT_H

#include "base/error.h"
#include "tensor/tensor.h"

struct checkpoint;

struct checkpoint_entry {
    const char *name;     // owned by the checkpoint
    struct tensor tensor; // data is mapped
    const char *file;     // the file's name, for messages
    const char *origin;   // its name in the file where a layout has given it another (layout.h), else NULL
    bool halves_swapped;  // the second half of the rows that the name means lies in front of the first
};

// Opens a .safetensors or GGUF file, a .safetensors.index.json, or a folder that holds "<stem>.safetensors" or
// "<stem>.safetensors.index.json" for a stem among "diffusion_pytorch_model" and "model", or else exactly one .safetensors
// or .gguf file, whole or split. The files are mapped, not read.
// Errors name the file and the tensor. The caller closes it; tensors live as long as it does.
struct checkpoint *checkpoint_open(const char *path, struct error *error);
void checkpoint_close(struct checkpoint *checkpoint); // NULL is fine

// Parses a header from memory, for tests and fuzzing: [data, data + size) is a whole file that must outlive it.
struct checkpoint *checkpoint_parse(const char *name, const void *data, size_t size, struct error *error);

// The same for the parts of a split GGUF file, in order; [names] and the images must outlive it.
struct checkpoint *checkpoint_parse_split(const char *const *names, const void *const *data,
                                          const size_t *sizes, int count, struct error *error);

// The path that it was opened by.
const char *checkpoint_name(const struct checkpoint *checkpoint);
// The keys of a GGUF file (gguf.h); NULL for other files.
struct gguf;
const struct gguf *checkpoint_gguf(const struct checkpoint *checkpoint);

int64_t checkpoint_count(const struct checkpoint *checkpoint);
// Entries in order of name, index in [0, count).
const struct checkpoint_entry *checkpoint_entry(const struct checkpoint *checkpoint, int64_t index);
// NULL when there is none of that name.
const struct checkpoint_entry *checkpoint_find(const struct checkpoint *checkpoint, const char *name);
// Value of a "__metadata__" key, NULL when absent. Of a shard set: the first shard's; of a GGUF file: its keys as text.
const char *checkpoint_metadata(const struct checkpoint *checkpoint, const char *key);

// All "__metadata__" pairs, index in [0, checkpoint_metadata_count).
struct checkpoint_metadata_pair {
    const char *key, *value; // owned by the checkpoint
};
int64_t checkpoint_metadata_count(const struct checkpoint *checkpoint);
const struct checkpoint_metadata_pair *checkpoint_metadata_pair(const struct checkpoint *checkpoint,
                                                                int64_t index);

// How many files the tensors lie in, and the bytes of all of them.
int checkpoint_files(const struct checkpoint *checkpoint, uint64_t *bytes);

// What a checkpoint is, for people and plans.
struct checkpoint_summary {
    const char *name; // the path that it was opened by
    int64_t bytes;    // of all files
    enum dtype type;  // in which most of the bytes lie
};
struct checkpoint_summary checkpoint_summary(const struct checkpoint *checkpoint);

// Finds a tensor (name by printf) and checks its rank and shape ([shape]: rank values, -1 accepts any and is filled in).
// False with an error that names file, tensor, and both shapes. Only real-number types pass, block types and tensors with scales among them: whoever reads the
// values looks at tensor->type and tensor->scales.
bool checkpoint_get(const struct checkpoint *checkpoint, struct tensor *tensor, int rank, int64_t *shape,
                    struct error *error, const char *name, ...) __attribute__((format(printf, 6, 7)));

// Reads a small tensor (norm weights, biases) as f32 into fresh memory (free()); of block types only vectors. A NaN or infinity is an
// error.
float *checkpoint_get_f32(const struct checkpoint *checkpoint, int64_t values, struct error *error,
                          const char *name, ...) __attribute__((format(printf, 4, 5)));

// Tells the system that the file pages are not needed for now; a later touch reads them again.
void checkpoint_release_pages(const struct checkpoint *checkpoint);

#endif
