// What the tensors of a LoRA file are called, and which rows of the transformer each changes. Relies on libc.
//
// DESIGN. A key is [prefix][module][ending]. The prefix and the ending say which program wrote the file, the module is the name
// of a layer as diffusers or as Black Forest Labs (BFL) spell it:
//
//     transformer.                       diffusers and PEFT; the prefix may be absent
//     base_model.model.                  PEFT as it saves a model itself
//     diffusion_model.                   ComfyUI, ai-toolkit and BFL; also with diffusers' modules, "transformer_blocks" sometimes
//                                        cut to "sformer_blocks"
//     lora_unet_, lora_transformer_      kohya and OneTrainer: the module's points are underscores
//
//     .lora_A.weight, .lora_down.weight, .lora.down.weight    [rank, in], also with ".default" behind lora_A
//     .lora_B.weight, .lora_up.weight, .lora.up.weight        [out, rank]
//     .alpha                                                  a scalar
//
// Every module name is one row of a table (lora_names.c), so the families may be mixed.
#ifndef LIMN_WEIGHTS_LORA_NAMES_H
#define LIMN_WEIGHTS_LORA_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The layers of the transformer as the engine multiplies by them. In brackets the shape of their weights, with H hidden and M
// mlp_hidden.
enum lora_module {
    LORA_LATENT_EMBEDDER,         // [H, in_channels]
    LORA_CONTEXT_EMBEDDER,        // [H, context]
    LORA_TIME_IN,                 // [H, timestep_width]
    LORA_TIME_OUT,                // [H, H]
    LORA_GUIDANCE_IN,             // [H, timestep_width]
    LORA_GUIDANCE_OUT,            // [H, H]
    LORA_DOUBLE_MODULATION_IMAGE, // [6 H, H]
    LORA_DOUBLE_MODULATION_TEXT,  // [6 H, H]
    LORA_SINGLE_MODULATION,       // [3 H, H]
    LORA_OUT_MODULATION,          // [2 H, H]: scale, then shift, as diffusers has them
    LORA_OUT,                     // [in_channels, H]
    LORA_IMAGE_QKV,               // of double blocks: [3 H, H]
    LORA_IMAGE_OUT,               // [H, H]
    LORA_IMAGE_MLP_IN,            // [2 M, H]
    LORA_IMAGE_MLP_OUT,           // [H, M]
    LORA_TEXT_QKV,                // likewise
    LORA_TEXT_OUT,
    LORA_TEXT_MLP_IN,
    LORA_TEXT_MLP_OUT,
    LORA_SINGLE_IN,  // of single blocks: [3 H + 2 M, H]: q, k, v, gate half, value half
    LORA_SINGLE_OUT, // [H, H + M]: columns attention, then gated mlp
    LORA_MODULES,
};

// What the names and shapes depend on.
struct lora_shape {
    int64_t hidden, mlp_hidden, in_channels, context, timestep_width;
    int64_t double_blocks, single_blocks;
    bool guidance; // has a guidance embedder
};

// Rows of a module. A LoRA of to_k changes rows [H, 2 H) of LORA_IMAGE_QKV.
struct lora_place {
    enum lora_module module;
    int64_t block;       // 0 where the module is in no block
    int64_t first, rows; // of the module
    int64_t in;          // columns
    // The name is BFL's of a layer whose rows stand there as (shift, scale): rows [0, H) of it are rows [H, 2 H) of the module
    // and the other way round.
    bool swapped;
};

enum lora_key_kind {
    LORA_KEY_UNKNOWN, // no name of the table, or a layer that this transformer does not have
    LORA_KEY_DOWN,    // A
    LORA_KEY_UP,      // B
    LORA_KEY_ALPHA,
    LORA_KEY_REFUSED, // of a kind that limn cannot apply; see [refused]
    LORA_KEY_BEYOND,  // of a block that this transformer does not have
};

struct lora_key {
    enum lora_key_kind kind;
    const char *refused;     // "a LoKr (LyCORIS)": what the file holds instead
    struct lora_place place; // of DOWN, UP and ALPHA
    const char *module;      // the module's name inside the key, without prefix; not terminated
    size_t module_length;
};

// [shape]: each number positive and small enough that 6 times it fits into 63 bits.
void lora_key_read(const char *key, const struct lora_shape *shape, struct lora_key *to);

// The rows that a weight tensor of the base holds, by its name without ".weight", in either spelling and with or without one of
// the prefixes above; false where a LoRA cannot change it.
bool lora_place_find(const char *module, const struct lora_shape *shape, struct lora_place *place);

// Rows and columns of a whole module.
void lora_module_size(const struct lora_shape *shape, enum lora_module module, int64_t *out, int64_t *in);
// Its name in diffusers' spelling, "transformer_blocks.#.attn.to_qkv", for messages.
const char *lora_module_name(enum lora_module module);

#endif
