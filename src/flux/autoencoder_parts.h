// The weights of an autoencoder: what is mapped, what was repacked. Relies on autoencoder_config.h, weights, tensor.
#ifndef LIMN_FLUX_AUTOENCODER_PARTS_H
#define LIMN_FLUX_AUTOENCODER_PARTS_H

#include "flux/autoencoder_config.h"
#include "tensor/ops.h"
#include "weights/checkpoint.h"

struct norm_part {
    float *weight, *bias; // [channels]
    int64_t channels;
};

struct resnet_part {
    struct norm_part norm1, norm2;
    struct conv conv1, conv2;
    struct conv shortcut; // 1x1; packed is NULL where input and output are equally wide
};

// The projections are 1x1 convolutions: the normalisation is part of their input, the residual of their output.
struct attention_part {
    struct norm_part norm;
    struct conv query, key, value, out;
};

struct level_part {
    int resnets;
    struct resnet_part resnet[AUTOENCODER_RESNETS_MOST];
    struct conv resample; // to the next level; packed is NULL at the last
};

// An encoder or a decoder, with the 1x1 convolution at the latents.
struct half_parts {
    bool decoder;
    int levels;
    struct level_part level[AUTOENCODER_LEVELS_MOST]; // in the order in which they run
    struct resnet_part middle[2];
    struct attention_part attention; // query.packed is NULL where there is none
    struct norm_part norm_out;
    struct conv conv_in, conv_out;
    struct conv quant; // behind an encoder, before a decoder; packed is NULL where there is none
};

// The configuration that the tensors of a checkpoint in diffusers' names show; what they do not is FLUX.2's.
bool autoencoder_derive(const struct checkpoint *checkpoint, struct autoencoder_config *config,
                        struct error *error);

// Reads and packs the weights of one half for [compute]. The tensors' names are those of diffusers; every shape is
// checked against the config. What was loaded is freed by half_parts_free, also after a failure.
bool half_parts_load(struct half_parts *parts, const struct checkpoint *checkpoint,
                     const struct autoencoder_config *config, bool decoder, enum compute compute,
                     struct device *device, struct error *error);
void half_parts_free(struct half_parts *parts, struct device *device);

#endif
