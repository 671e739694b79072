// What transformer_load.c makes and transformer.c uses: the weights of each block as linears. Private to the two.
#ifndef LIMN_FLUX_TRANSFORMER_PARTS_H
#define LIMN_FLUX_TRANSFORMER_PARTS_H

#include "flux/transformer.h"
#include "weights/checkpoint.h"

enum stream { STREAM_TEXT, STREAM_IMAGE, STREAM_COUNT };

// The weights of one stream of a double block.
struct double_stream {
    struct linear qkv;                  // [3 hidden, hidden]: q, k, v one below the other
    struct linear out;                  // [hidden, hidden]
    struct linear mlp_in;               // [2 mlp_hidden, hidden]: gate half, then value half
    struct linear mlp_out;              // [hidden, mlp_hidden]
    const float *query_norm, *key_norm; // [head_dim]
};

struct double_block {
    struct double_stream streams[STREAM_COUNT];
};

// The fused input product [3 hidden + 2 mlp_hidden, hidden] is two row views.
struct single_block {
    struct linear qkv;                  // [3 hidden, hidden]
    struct linear mlp_in;               // [2 mlp_hidden, hidden]
    struct linear out;                  // [hidden, hidden + mlp_hidden]: columns attention, then gated mlp
    const float *query_norm, *key_norm; // [head_dim]
};

// An embedding of a scalar: out(silu(in(sincos))).
struct scalar_embedder {
    struct linear in, out; // [hidden, timestep_width], [hidden, hidden]
};

struct transformer {
    struct transformer_shape shape;
    struct device *device; // borrowed
    struct checkpoint *checkpoint;
    struct linear latent_embedder;  // x_embedder [hidden, in_channels]
    struct linear context_embedder; // [hidden, context]
    struct scalar_embedder time, guidance;
    // [6 hidden, hidden]: shift, scale, gate of attention, then of the mlp
    struct linear double_modulation[STREAM_COUNT];
    struct linear single_modulation; // [3 hidden, hidden]: shift, scale, gate
    struct linear out_modulation;    // [2 hidden, hidden]: scale, shift
    struct linear out;               // proj_out [in_channels, hidden]
    struct double_block *double_blocks;
    struct single_block *single_blocks;
    void **owned; // memory on the host behind small parameters, freed at close
    size_t owned_count, owned_capacity;
};

// The shape that the tensors of a checkpoint in diffusers' names show; what they do not is FLUX.2's. sixteen_bit and parameters
// are left false and 0.
bool transformer_derive(const struct checkpoint *checkpoint, struct transformer_shape *shape,
                        struct error *error);

#endif
