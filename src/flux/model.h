// A model folder opened as a whole: parts, settings from limn.json or the recognised architecture. Relies on text, the parts
// of flux, weights.
#ifndef LIMN_FLUX_MODEL_H
#define LIMN_FLUX_MODEL_H

#include "flux/autoencoder.h"
#include "flux/transformer.h"
#include "text/prompt_encoder.h"

enum { MODEL_SIGMAS_MOST = 200, MODEL_SIZES_MOST = 32 };

// What the reference pipeline keeps in its own code. limn.json overrides; absent fields take the values of a recognised
// architecture (FLUX.2 [dev]); a folder of no known architecture must state text_taps and text_length.
struct model_settings {
    char name[64];
    char *system_message;
    int text_taps[PROMPT_TAPS_MOST];
    int text_tap_count;
    int text_length;
    int default_width, default_height;
    int steps;
    float guidance;
    float sigmas[MODEL_SIGMAS_MOST]; // before the shift
    int sigma_count;                 // 0: linspace(1, 1/steps)
    int64_t reference_area;          // pixels
    bool trained;
};

bool model_settings_read(const char *folder, struct model_settings *settings, struct error *error);
void model_settings_free(struct model_settings *settings);

#endif
