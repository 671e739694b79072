// A checkpoint from inside, for the files that arrange its entries. Relies on checkpoint.h, gguf.h, base.
#ifndef LIMN_WEIGHTS_CHECKPOINT_INSIDE_H
#define LIMN_WEIGHTS_CHECKPOINT_INSIDE_H

#include "base/arena.h"
#include "base/file.h"
#include "weights/checkpoint.h"
#include "weights/gguf.h"
#include "weights/gguf_split.h"
#include "weights/safetensors_header.h"

struct shard {
    const char *file; // path; in the arena
    struct file_map map;
    struct safetensors_header header;
};

struct checkpoint {
    const char *name; // the file or folder, for messages; in the arena
    struct arena arena;
    struct checkpoint_entry *entries; // by name; malloc'ed
    int64_t count;
    struct shard *shards;
    int shard_count;
    struct checkpoint_metadata_pair *metadata;
    int64_t metadata_count;
    bool is_gguf;
    struct gguf gguf; // its values; the entries were taken over
};

// checkpoint_gguf.c. A whole GGUF file image: its entries, keys and metadata.
bool checkpoint_read_gguf(struct checkpoint *checkpoint, const char *file, const void *data, size_t size,
                          struct error *error);
// The parts of a split one, mapped in order as the checkpoint's shards.
bool checkpoint_read_split(struct checkpoint *checkpoint, struct error *error);
// Maps and reads all parts of the split file that [path] is one of.
bool checkpoint_map_split(struct checkpoint *checkpoint, const char *path, const struct gguf_split_name *name,
                          struct error *error);

// Sorts the entries by name again; a name that stands twice is an error.
bool checkpoint_sort(struct checkpoint *checkpoint, struct error *error);

// Rows [first, first + count) of a tensor of at least one dimension, its scales with it. False when memory is gone.
bool checkpoint_slice(struct checkpoint *checkpoint, struct tensor *tensor, int64_t first, int64_t count,
                      struct error *error);

#endif
