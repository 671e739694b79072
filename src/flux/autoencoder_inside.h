// The autoencoder from inside, for its own files and their tests. Relies on autoencoder.h, autoencoder_walk.h.
#ifndef LIMN_FLUX_AUTOENCODER_INSIDE_H
#define LIMN_FLUX_AUTOENCODER_INSIDE_H

#include "flux/autoencoder.h"
#include "flux/autoencoder_walk.h"

struct autoencoder {
    struct device *device; // borrowed
    enum dtype type;       // of feature maps: the compute type
    struct autoencoder_config config;
    struct autoencoder_shape shape;
    struct half_parts encoder, decoder;
    float *mean, *deviation; // [token_channels], owned
};

// A walk through one half with nothing to report.
struct walk autoencoder_walk(const struct autoencoder *autoencoder, bool decoder);

// Tokens of a picture of width x height, de-normalised and un-patched, as a map in fresh workspace.
bool autoencoder_upload_latents(const struct autoencoder *autoencoder, const float *tokens, int width,
                                int height, struct feature_map *map, struct error *error);

// An F32 map [height, width, channels] as planes [channels, height, width] on the host.
bool autoencoder_download_planes(const struct autoencoder *autoencoder, const struct feature_map *map,
                                 float *planes, struct error *error);

// autoencoder_encode with the stages shown: "encoder.conv_in", "encoder.down.I", "encoder.mid", "encoder.conv_out".
bool autoencoder_encode_observed(struct autoencoder *autoencoder, const struct image *image,
                                 autoencoder_progress *progress, void *context,
                                 const struct observer *observer, float *tokens, struct error *error);

// Decodes latents in overlapping tiles of [tile] pixels a side. walk: of the decoder; its part_count is that of one
// tile. pixels: as autoencoder_decode.
bool autoencoder_decode_tiles(const struct autoencoder *autoencoder, struct walk *walk,
                              const struct feature_map *latents, int tile, float *pixels,
                              struct error *error);

#endif
