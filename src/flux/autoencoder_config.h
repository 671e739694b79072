// config.json of an AutoencoderKLFlux2 (diffusers). Relies on base.
#ifndef LIMN_FLUX_AUTOENCODER_CONFIG_H
#define LIMN_FLUX_AUTOENCODER_CONFIG_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

enum { AUTOENCODER_LEVELS_MOST = 8, AUTOENCODER_RESNETS_MOST = 8 };

struct autoencoder_config {
    int levels; // of resolution
    int64_t encoder[AUTOENCODER_LEVELS_MOST],
        decoder[AUTOENCODER_LEVELS_MOST]; // channels, widest resolution first
    int resnets;                          // of each level of the encoder; the decoder's levels have one more
    int64_t latent_channels;              // of a posterior's mean
    int groups;                           // of group normalisation; every width is a multiple
    bool quant, post_quant;               // whether there are the 1x1 convolutions around the latents
    bool attention;                       // whether the middle has an attention block
    float batch_norm_eps;
};

// Parses the text of a config.json; [name] begins every message. Fields that are absent take the values that diffusers gives
// them; a field with a value that limn does not handle is an error that names it.
bool autoencoder_config_parse(const char *name, const char *text, size_t size,
                              struct autoencoder_config *config, struct error *error);

#endif
