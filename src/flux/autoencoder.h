// AutoencoderKLFlux2: pictures to normalised latent tokens and back. Relies on tensor (ops.h), weights, image.
#ifndef LIMN_FLUX_AUTOENCODER_H
#define LIMN_FLUX_AUTOENCODER_H

#include "flux/observer.h"
#include "image/image.h"
#include "tensor/ops.h"

struct autoencoder;

struct autoencoder_shape {
    int levels;                                       // of resolution: 4
    int64_t encoder_channels[8], decoder_channels[8]; // per level, widest resolution first
    int64_t latent_channels;                          // 32
    int64_t token_channels;                           // latent_channels * 4 (2x2 patches)
    int groups;
    int pixels_per_token; // 2^(levels-1) * 2 = 16
    bool sixteen_bit;
    int64_t parameters;
};

// Maps the autoencoder of the model folder [folder] (weights/parts.h says where it may lie) and repacks the convolution weights for [compute]. [device] must outlive it.
struct autoencoder *autoencoder_open(const char *folder, struct device *device, enum compute compute,
                                     struct error *error);
void autoencoder_close(struct autoencoder *autoencoder);
const struct autoencoder_shape *autoencoder_shape(const struct autoencoder *autoencoder);

typedef bool autoencoder_progress(void *context, int part, int parts);

// tokens: [(height/16) * (width/16), token_channels] f32 host: mean of the posterior, 2x2 patches, batch-norm normalised.
// image: sides multiples of pixels_per_token.
bool autoencoder_encode(struct autoencoder *autoencoder, const struct image *image,
                        autoencoder_progress *progress, void *context, float *tokens, struct error *error);

// tokens as above for a picture of width x height; pixels: [3, height, width] f32 host in about [-1, 1], not clamped.
// tile: side in pixels of overlapping tiles (a quarter, blended linearly), 0 for none.
bool autoencoder_decode(struct autoencoder *autoencoder, const float *tokens, int width, int height, int tile,
                        autoencoder_progress *progress, void *context, const struct observer *observer,
                        float *pixels, struct error *error);

// Bytes of workspace that a decode without tiles, and an encode, take at their peak; and of the weights, repacked at opening.
size_t autoencoder_decode_bytes(const struct autoencoder *autoencoder, int width, int height);
size_t autoencoder_encode_bytes(const struct autoencoder *autoencoder, int width, int height);

// round-half-even(255 * clamp(x / 2 + 0.5, 0, 1)), as the reference pipeline makes 8-bit pictures.
void autoencoder_to_image(const float *pixels, struct image *image);

#endif
