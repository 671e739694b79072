// The pipeline from inside; private to pipeline.c, pipeline_lora.c and pipeline_run.c.
#ifndef LIMN_FLUX_PIPELINE_INSIDE_H
#define LIMN_FLUX_PIPELINE_INSIDE_H

#include "flux/adapters.h"
#include "flux/autoencoder.h"
#include "flux/encodings.h"
#include "flux/pipeline.h"

struct pipeline {
    struct model_settings settings;
    enum compute compute;             // of the text encoder and the autoencoder
    enum compute transformer_compute; // the same, or COMPUTE_I8
    struct pool *pool;
    struct device *device;
    struct transformer *transformer;
    struct prompt_encoder *encoder;
    struct autoencoder *autoencoder;
    struct encodings *encodings; // of prompts and references; NULL is fine
    int64_t text_parameters;
    struct adapters *loras;                    // files of LoRAs
    struct adapter own_loras[LIMN_LORAS_MOST]; // of every request
    int own_lora_count;
    limn_warning_function *warning; // NULL: none
    void *warning_user;
};

// The side in pixels of the tiles that a picture is decoded in, 0 for none: some where they are asked for and the picture is
// larger than one, else the largest that fit into [available] bytes where the whole does not.
int pipeline_tile(const struct autoencoder *autoencoder, int width, int height, bool asked,
                  int64_t available);

// The two checks of a list of LoRAs that need no file: how many, and each one's scale. [field]: "loras".
bool pipeline_check_loras(const struct limn_lora *loras, int count, int most, struct error *error);
// Opens those of the model folder and of the options.
struct model_folder;
bool pipeline_open_loras(struct pipeline *pipeline, const struct model_folder *folder,
                         const struct limn_options *options, struct error *error);
// Sets the model's own and the request's for the runs that follow.
bool pipeline_adapt(struct pipeline *pipeline, const struct limn_request *request, struct error *error);

#endif
