// Where the parts of a model lie in its folder. Relies on layout.h, base.
//
// Each part is, in this order:
//   1. what limn.json names: {"transformer": ..., "text_encoder": ..., "vae": ..., "tokenizer": ...}, paths inside the folder; an
//      array of paths are forms of one part, finest first, of which the first is taken that stays in memory
//   2. the folder that diffusers gives it, where it holds weights or a config.json: transformer/, text_encoder/, vae/; tokenizer/
//   3. the only weight file, set of shards or folder of weights, in the folder or in a folder of it, whose tensors are that
//      part's. For the tokenizer: tokenizer.json or tekken.json in the folder, else what comes with the text encoder.
#ifndef LIMN_WEIGHTS_PARTS_H
#define LIMN_WEIGHTS_PARTS_H

#include "weights/layout.h"

// The path of a part in fresh memory (free()). NULL with an error: ERROR_NOT_FOUND where there is none, with the forms that it may
// have; else that of a file that cannot be read and may be the part, or that there are several, with two of them and the key of
// limn.json that chooses.
char *part_find(const char *folder, enum model_part part, struct error *error);

// What the weights of one part may take of [memory] bytes, so that they stay there beside everything else: seven eighths.
int64_t part_bytes_most(int64_t memory);

// The path of the tokenizer: a folder or file that tokenizer_open takes.
char *part_find_tokenizer(const char *folder, struct error *error);

// Which of [count] forms of one part, finest first, with so many bytes each, is taken where [memory] bytes are available: the first
// that stays in memory and leaves an eighth of it to the rest; else the smallest. count at least 1.
int part_choose(const int64_t *bytes, int count, int64_t memory);

// The key of a part in limn.json, which is also its folder in the diffusers layout.
const char *part_key(enum model_part part);

// "[path]/config.json" in fresh memory where [path] is a folder that has one; else NULL: the shape is then to be read off the
// tensors.
char *part_config(const char *path);

#endif
