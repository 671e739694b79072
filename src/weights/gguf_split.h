// The names of split GGUF files: "PREFIX-00001-of-00003.gguf", as llama-gguf-split and gguf-py write them. Each part is a GGUF
// file of its own with some of the tensors; the first has the keys of the whole. In every part "split.no" is its number from 0,
// "split.count" how many parts there are and "split.tensors.count" how many tensors all of them hold. Source:
// tools/gguf-split and llama-model-loader.cpp of llama.cpp. Relies on base.
#ifndef LIMN_WEIGHTS_GGUF_SPLIT_H
#define LIMN_WEIGHTS_GGUF_SPLIT_H

#include <stdbool.h>

enum { GGUF_PARTS_MOST = 4096 };

struct gguf_split_name {
    int prefix;        // bytes of the path in front of "-00001-of-00003.gguf"
    int number, count; // 1 <= number <= count, 2 <= count <= GGUF_PARTS_MOST
};

// Whether [path] is called as a part of a split file is.
bool gguf_split_name(const char *path, struct gguf_split_name *name);

// Whether [path] is called so and an earlier part lies beside it: the set is known by that one.
bool gguf_split_follows(const char *path);

#endif
