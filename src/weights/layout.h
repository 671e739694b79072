// The layouts that checkpoints of FLUX.2's parts come in, told apart by the names of their tensors and given the names that
// limn uses: those of diffusers for transformer and autoencoder, those of Hugging Face for text encoders. Relies on
// checkpoint.h.
//
//   transformer    diffusers; BFL (also ComfyUI's files and GGUF): fused q, k, v are cut into row views, and the rows of the
//                  final modulation, which BFL keeps as (shift, scale), are marked as swapped
//   text encoder   Hugging Face; llama.cpp (GGUF); Mistral's own ("consolidated"): the last two keep the rows of q and k as
//                  interleaved pairs, which the rotation must know
//   autoencoder    diffusers; BFL (also ComfyUI's files)
//
// A prefix that all names of the part share ("model.diffusion_model.", ...) is cut off. Quantised tensors have their scales
// attached (companions.h).
#ifndef LIMN_WEIGHTS_LAYOUT_H
#define LIMN_WEIGHTS_LAYOUT_H

#include "weights/checkpoint.h"

enum model_part { PART_TRANSFORMER, PART_TEXT_ENCODER, PART_AUTOENCODER, MODEL_PARTS };

// "transformer", "text encoder", "autoencoder"
const char *model_part_name(enum model_part part);

struct layout {
    enum model_part part;
    const char *name;   // "diffusers", "BFL", "Hugging Face", "llama.cpp", "Mistral"; a constant
    const char *prefix; // of the part's names in the file; a constant
    bool
        rope_interleaved; // text encoder: rows of q and k lie as pairs (2i, 2i + 1), not (i, i + head_dim / 2)
    int map;              // the rules that apply; private
};

// Whether the checkpoint holds that part of a FLUX.2 model; only names are looked at. An autoencoder is one of FLUX.2 when
// it has the statistics of a batch norm, "bn.running_mean".
bool layout_find(const struct checkpoint *checkpoint, enum model_part part, struct layout *layout);

// What a checkpoint is that layout_find does not take for a part: "a transformer of FLUX.1", "an autoencoder of Stable
// Diffusion or FLUX.1", ...; NULL when unknown.
const char *layout_stranger(const struct checkpoint *checkpoint);

// Gives the entries of the part limn's names, in place: attaches scales, cuts off the prefix, renames, cuts fused tensors.
// Other tensors are dropped, except where nothing had to be renamed. Errors name file and tensor.
bool layout_apply(struct checkpoint *checkpoint, const struct layout *layout, struct error *error);

// Opens [path] (as checkpoint_open does), finds the part and applies its layout. A checkpoint known to be of something else
// is an error that says of what; one that is not recognised is taken as it is, for its reader to say what is missing in it.
// *layout may be NULL.
struct checkpoint *layout_open(const char *path, enum model_part part, struct layout *layout,
                               struct error *error);

// How many blocks there are of names "[prefix]N.": the largest N and 1; at most LAYOUT_BLOCKS_MOST + 1.
enum { LAYOUT_BLOCKS_MOST = 1024 };
int64_t layout_blocks(const struct checkpoint *checkpoint, const char *prefix);

#endif
