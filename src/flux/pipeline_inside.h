// The pipeline from inside; private to pipeline.c and pipeline_run.c.
#ifndef LIMN_FLUX_PIPELINE_INSIDE_H
#define LIMN_FLUX_PIPELINE_INSIDE_H

#include "flux/autoencoder.h"
#include "flux/encodings.h"
#include "flux/pipeline.h"

struct pipeline {
    struct model_settings settings;
    enum compute compute;
    struct pool *pool;
    struct device *device;
    struct transformer *transformer;
    struct prompt_encoder *encoder;
    struct autoencoder *autoencoder;
    struct encodings *encodings; // of prompts and references; NULL is fine
    int64_t text_parameters;
};

// The side in pixels of the tiles that a picture is decoded in, 0 for none: some where they are asked for and the picture is
// larger than one, else the largest that fit into [available] bytes where the whole does not.
int pipeline_tile(const struct autoencoder *autoencoder, int width, int height, bool asked,
                  int64_t available);

#endif
