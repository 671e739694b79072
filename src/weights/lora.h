// A LoRA file: low-rank changes W' = W + scale (alpha / rank) B A of the transformer's weights. Relies on checkpoint.h,
// lora_names.h, ops.h (struct low_rank).
//
// The file is a safetensors file; lora_names.h says how its tensors are called. Nothing is merged: what is read are side branches
// for the products (struct low_rank) whose matrices lie where the file is mapped, in the type that it has (fp8 and F64 are
// brought to BF16 and F32 once). So the base may be of any type, and a file of gigabytes costs its pages.
//
// alpha of a module: its own ".alpha" tensor; else what the "__metadata__" key "lora_adapter_metadata" (JSON, written by diffusers)
// says: alpha_pattern, then lora_alpha (with use_rslora over sqrt(rank)); else the rank.
#ifndef LIMN_WEIGHTS_LORA_H
#define LIMN_WEIGHTS_LORA_H

#include "tensor/ops.h"
#include "weights/checkpoint.h"
#include "weights/lora_names.h"

struct lora;

// A change of some rows of a module. up: [rows, rank] from row first_output of the module on, in the engine's order (a fused
// layer whose halves are swapped in the file is two branches). scale is alpha / rank.
struct lora_branch {
    enum lora_module module;
    int64_t block;
    struct low_rank low_rank;
};

// Opens a file for a transformer of that shape and checks all of it: every tensor has its partner and fits its layer, every value
// is finite (so the whole file is read once). Errors name the file and the tensor; other kinds of adapters (LoKr, LoHa, DoRA, LoRAs
// of text encoders, ...) are refused by name, and so is a file in which no tensor fits. NULL with an error.
struct lora *lora_open(const char *path, const struct lora_shape *shape, struct error *error);
void lora_close(struct lora *lora); // NULL is fine

// The same of an opened checkpoint, which is taken over in any case (closed on failure). [name] stands in messages and is copied.
struct lora *lora_read(const char *name, struct checkpoint *checkpoint, const struct lora_shape *shape,
                       struct error *error);

// One line about tensors that no layer answers to and that are therefore without effect; NULL: there are none.
const char *lora_warning(const struct lora *lora);

int64_t lora_branch_count(const struct lora *lora);
// Ordered by module, block and row; index in [0, lora_branch_count). The matrices live as long as the LoRA.
const struct lora_branch *lora_branch(const struct lora *lora, int64_t index);

// Bytes of its file, which is mapped.
int64_t lora_bytes(const struct lora *lora);

// Tells the system that the file's pages are not needed for now.
void lora_release_pages(const struct lora *lora);

// Adds scale (alpha / rank) B A to rows [first, first + count) of what [place] (lora_place_find) names: rows is [count, place->in]
// f32, row-major, and row 0 of it is row [first] of the tensor as its layout has it (BFL's order of the final modulation is taken
// care of). Sums are f32 in a fixed order; who stores the result rounds it once. Nothing happens where the LoRA does not touch these
// rows. False when memory is gone.
bool lora_merge_rows(const struct lora *lora, const struct lora_place *place, float scale, int64_t first,
                     int64_t count, float *rows, struct error *error);

#endif
