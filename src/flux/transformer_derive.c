// The shape of a transformer without a config.json, read off its tensors. Relies on transformer_parts.h, weights.
//
// What tensors do not show has the values that every FLUX.2 has: the widths of positions are equal, rope_theta is 2000,
// eps 1e-6.
#include "flux/transformer_parts.h"

#include "weights/layout.h"

#include <stdio.h>

// [rows, cols] of a matrix; -1 is filled in, another value must fit.
static bool extents(const struct checkpoint *checkpoint, const char *name, int64_t *rows, int64_t *cols,
                    struct error *error) {
    struct tensor tensor;
    int64_t shape[2] = {*rows, *cols};
    if (!checkpoint_get(checkpoint, &tensor, 2, shape, error, "%s", name)) return false;
    *rows = shape[0];
    *cols = shape[1];
    return true;
}

static bool derive_heads(const struct checkpoint *checkpoint, struct transformer_shape *shape,
                         struct error *error) {
    struct tensor tensor;
    int64_t width[1] = {-1};
    const char *name = shape->double_blocks > 0 ? "transformer_blocks.0.attn.norm_q.weight"
                                                : "single_transformer_blocks.0.attn.norm_q.weight";
    if (!checkpoint_get(checkpoint, &tensor, 1, width, error, "%s", name)) return false;
    if (width[0] < 8 || width[0] > 512 || width[0] % 8 != 0 || shape->hidden % width[0] != 0)
        return error_set(
            error, ERROR_UNSUPPORTED,
            "%s: heads of %lld values in %lld, expected a multiple of 8 from 8 to 512 that divides it",
            checkpoint_name(checkpoint), (long long)width[0], (long long)shape->hidden);
    shape->head_dim = width[0];
    shape->heads = shape->hidden / shape->head_dim;
    for (int a = 0; a < POSITION_AXES; a++) shape->axes[a] = (int)(shape->head_dim / POSITION_AXES);
    return true;
}

static bool derive_mlp(const struct checkpoint *checkpoint, struct transformer_shape *shape,
                       struct error *error) {
    int64_t rows = -1, in = shape->hidden, rest;
    if (shape->double_blocks > 0) {
        if (!extents(checkpoint, "transformer_blocks.0.ff.linear_in.weight", &rows, &in, error)) return false;
        rest = rows;
    } else {
        if (!extents(checkpoint, "single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight", &rows, &in,
                     error))
            return false;
        rest = rows - 3 * shape->hidden;
    }
    shape->mlp_hidden = rest / 2;
    return (rest > 0 && rest % 2 == 0) ||
           error_set(error, ERROR_INPUT,
                     "%s: %lld rows lead into the feed-forward part, expected an even number",
                     checkpoint_name(checkpoint), (long long)rest);
}

bool transformer_derive(const struct checkpoint *checkpoint, struct transformer_shape *shape,
                        struct error *error) {
    *shape =
        (struct transformer_shape){.hidden = -1,
                                   .in_channels = -1,
                                   .context = -1,
                                   .timestep_width = -1,
                                   .rope_theta = 2000,
                                   .eps = 1e-6,
                                   .double_blocks = layout_blocks(checkpoint, "transformer_blocks."),
                                   .single_blocks = layout_blocks(checkpoint, "single_transformer_blocks.")};
    if (shape->double_blocks + shape->single_blocks < 1 || shape->double_blocks > LAYOUT_BLOCKS_MOST ||
        shape->single_blocks > LAYOUT_BLOCKS_MOST)
        return error_set(
            error, ERROR_INPUT, "%s: %lld double and %lld single blocks, expected a transformer of FLUX.2",
            checkpoint_name(checkpoint), (long long)shape->double_blocks, (long long)shape->single_blocks);
    static const char linear_1[] = "time_guidance_embed.guidance_embedder.linear_1.weight";
    shape->guidance = checkpoint_find(checkpoint, linear_1) != NULL;
    return extents(checkpoint, "x_embedder.weight", &shape->hidden, &shape->in_channels, error) &&
           extents(checkpoint, "context_embedder.weight", &shape->hidden, &shape->context, error) &&
           extents(checkpoint, "time_guidance_embed.timestep_embedder.linear_1.weight", &shape->hidden,
                   &shape->timestep_width, error) &&
           derive_heads(checkpoint, shape, error) && derive_mlp(checkpoint, shape, error) &&
           (shape->timestep_width % 2 == 0 ||
            error_set(error, ERROR_UNSUPPORTED,
                      "%s: a timestep embedding of %lld values, expected an even number",
                      checkpoint_name(checkpoint), (long long)shape->timestep_width));
}
