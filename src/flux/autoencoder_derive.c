// The configuration of an autoencoder without a config.json, read off its tensors. Relies on autoencoder_parts.h, weights.
//
// What tensors do not show is as in FLUX.2's: groups of 32 channels, an eps of 1e-4 in the batch norm.
#include "flux/autoencoder_parts.h"
#include "weights/layout.h"

#include <stdarg.h>
#include <stdio.h>

enum { GROUPS = 32 };

// The extents of a convolution's weights; false with an error when there is none of that name.
__attribute__((format(printf, 4, 5))) static bool conv_shape(const struct checkpoint *checkpoint,
                                                             int64_t shape[4], struct error *error,
                                                             const char *format, ...) {
    char name[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    struct tensor tensor;
    for (int i = 0; i < 4; i++) shape[i] = -1;
    return checkpoint_get(checkpoint, &tensor, 4, shape, error, "%s", name);
}

static bool has(const struct checkpoint *checkpoint, const char *name) {
    return checkpoint_find(checkpoint, name) != NULL;
}

// Widths of the levels, and how many residual blocks the encoder's have.
static bool derive_levels(const struct checkpoint *checkpoint, struct autoencoder_config *config,
                          struct error *error) {
    int64_t shape[4];
    const int64_t levels = layout_blocks(checkpoint, "encoder.down_blocks."),
                  resnets = layout_blocks(checkpoint, "encoder.down_blocks.0.resnets.");
    if (levels < 1 || levels > AUTOENCODER_LEVELS_MOST || resnets < 1 ||
        resnets > AUTOENCODER_RESNETS_MOST - 1)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: %lld levels of %lld residual blocks, expected 1 to %d of 1 to %d",
                         checkpoint_name(checkpoint), (long long)levels, (long long)resnets,
                         AUTOENCODER_LEVELS_MOST, AUTOENCODER_RESNETS_MOST - 1);
    config->levels = (int)levels;
    config->resnets = (int)resnets;
    for (int i = 0; i < config->levels; i++) {
        if (!conv_shape(checkpoint, shape, error, "encoder.down_blocks.%d.resnets.0.conv1.weight", i))
            return false;
        config->encoder[i] = shape[0];
        if (!conv_shape(checkpoint, shape, error, "decoder.up_blocks.%d.resnets.0.conv1.weight", i))
            return false;
        config->decoder[config->levels - 1 - i] = shape[0];
    }
    for (int i = 0; i < config->levels; i++)
        if (config->encoder[i] % GROUPS != 0 || config->decoder[i] % GROUPS != 0 || config->encoder[i] < 1 ||
            config->decoder[i] < 1)
            return error_set(
                error, ERROR_UNSUPPORTED,
                "%s: widths %lld and %lld of level %d, expected multiples of %d, or a config.json that says "
                "how the channels are grouped",
                checkpoint_name(checkpoint), (long long)config->encoder[i], (long long)config->decoder[i], i,
                GROUPS);
    return true;
}

bool autoencoder_derive(const struct checkpoint *checkpoint, struct autoencoder_config *config,
                        struct error *error) {
    int64_t shape[4];
    *config = (struct autoencoder_config){
        .groups = GROUPS,
        .quant = has(checkpoint, "quant_conv.weight"),
        .post_quant = has(checkpoint, "post_quant_conv.weight"),
        .attention = has(checkpoint, "encoder.mid_block.attentions.0.to_q.weight"),
        .batch_norm_eps = 1e-4f,
    };
    if (!conv_shape(checkpoint, shape, error, "decoder.conv_in.weight")) return false;
    config->latent_channels = shape[1];
    if (shape[1] < 1 || shape[1] > 1024)
        return error_set(error, ERROR_UNSUPPORTED, "%s: %lld latent channels, expected 1 to 1024",
                         checkpoint_name(checkpoint), (long long)shape[1]);
    if (!derive_levels(checkpoint, config, error)) return false;
    const int64_t encoder = config->encoder[config->levels - 1],
                  decoder = config->decoder[config->levels - 1];
    return !config->attention || (encoder <= 512 && decoder <= 512) ||
           error_set(error, ERROR_UNSUPPORTED,
                     "%s: attention over %lld and %lld channels, expected at most 512",
                     checkpoint_name(checkpoint), (long long)encoder, (long long)decoder);
}
