// The forward pass of an autoencoder's half, and the memory that it needs. Relies on autoencoder_parts.h, observer.h.
//
// DESIGN. Feature maps live in a few slots, each as large as the largest map that ever lies in it, so that nothing is
// moved and nothing is kept that is not read again: the map at hand is in slot 0 or 2, the inside of a residual block in
// slot 1. A block that keeps its width adds its result in place; one that changes it puts the shortcut into the other
// of 0 and 2 and adds there. A walk without memory (walk_plan) goes the same way and only takes down the sizes.
#ifndef LIMN_FLUX_AUTOENCODER_WALK_H
#define LIMN_FLUX_AUTOENCODER_WALK_H

#include "flux/autoencoder_parts.h"
#include "flux/observer.h"

enum { WALK_SLOTS = 5 };

struct walk {
    struct device *device;
    const struct half_parts *parts;
    int groups;
    enum dtype type; // of the feature maps
    const struct observer *observer;
    bool (*progress)(void *context, int part, int parts); // between parts; NULL: none; false stops
    void *context;
    int part, part_count; // finished, and in all (the caller may count several walks as one)

    bool planning;
    size_t bytes[WALK_SLOTS];
    char *slots[WALK_SLOTS];
    float *scale, *shift; // of the normalisation at hand
    bool stopped;
};

// How often one walk through [parts] reports progress.
int walk_parts(const struct half_parts *parts);

// Bytes of workspace of a walk that starts from a [height, width] map, 64-byte steps included.
size_t walk_plan(struct walk *walk, int64_t height, int64_t width);

// Takes the workspace (walk_plan's bytes; released by the caller), then runs. x: a [height, width, 3] picture
// or [height, width, latents] map in F32 on the device. The result, in workspace: an encoder's moments
// [height / 2^(levels - 1), ..., 2 latents], a decoder's pixels [height * 2^(levels - 1), ..., 3], F32.
// False when the device failed or progress said to stop (ERROR_CANCELLED).
bool walk_run(struct walk *walk, const struct feature_map *x, struct feature_map *result,
              struct error *error);

#endif
