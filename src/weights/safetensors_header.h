// Reads and checks the header of one safetensors file; the format stands in checkpoint.h. Relies on base, tensor.
//
// The header comes from outside and may be 100 MB long, so it is not turned into a JSON tree: a strict reader takes the
// few shapes that the format allows, and memory stays within a small multiple of the header's own length.
#ifndef LIMN_WEIGHTS_SAFETENSORS_HEADER_H
#define LIMN_WEIGHTS_SAFETENSORS_HEADER_H

#include "base/arena.h"
#include "weights/checkpoint.h"

enum { SAFETENSORS_HEADER_MOST = 100 * 1000 * 1000 }; // bytes

struct safetensors_header {
    struct checkpoint_entry *entries; // sorted by name; free()
    int64_t count, capacity;
    struct checkpoint_metadata_pair *metadata; // in the file's order; free()
    int64_t metadata_count, metadata_capacity;
};

// Reads the file image [data, data + size), named [file] in messages and in the entries (both are kept, not copied). Strings
// go into [arena]. On failure the header is {0}.
bool safetensors_header_read(const char *file, const void *data, size_t size, struct arena *arena,
                             struct safetensors_header *header, struct error *error);

void safetensors_header_free(struct safetensors_header *header); // {0} again; the arena is the caller's

#endif
