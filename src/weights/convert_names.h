// Which tensors a converted file has and from which rows of the source each is made. Private to convert.c and convert_names.c.
#ifndef LIMN_WEIGHTS_CONVERT_NAMES_H
#define LIMN_WEIGHTS_CONVERT_NAMES_H

#include "base/arena.h"
#include "weights/convert.h"

enum { RECIPE_PARTS_MOST = 3 };

// Rows of a tensor of the source.
struct recipe_part {
    const struct checkpoint_entry *entry;
    int64_t first, rows;
};

// How coarse a tensor may become.
enum recipe_kind {
    RECIPE_VECTOR,    // norms, statistics
    RECIPE_SENSITIVE, // embedders, modulations, the last layer, convolutions
    RECIPE_TOKENS,    // the token embedding
    RECIPE_LARGE,
};

struct recipe {
    const char *name;   // in the output
    const char *source; // the first part's, for messages
    enum recipe_kind kind;
    int rank;
    int64_t shape[TENSOR_RANK_MOST];
    int part_count;
    struct recipe_part parts[RECIPE_PARTS_MOST]; // one below the other
    // head_dim not 0: rows come in heads of that many, and their order changes: row 2 i + k of a head is row i + k head_dim / 2
    // of the source's (to_pairs), or the other way round.
    int64_t head_dim;
    bool to_pairs;
};

// All tensors of the output, in an order that does not change. Strings and recipes are in [arena]. A tensor of the source that the
// layout has no name for is an error, and so is one that the layout wants and the source lacks.
bool recipes_make(const struct convert_job *job, struct arena *arena, struct recipe **recipes, int64_t *count,
                  struct error *error);

#endif
