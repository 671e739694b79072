// From a prompt to prompt embeddings: chat template, tokenizer, language model, taps. Relies on tokenizer.h, weights,
// tensor. What it computes is described in the header of prompt_encoder.c; source: FLUX.2 reference pipeline.
#ifndef LIMN_TEXT_PROMPT_ENCODER_H
#define LIMN_TEXT_PROMPT_ENCODER_H

#include "tensor/ops.h"
#include "text/tokenizer.h"

enum { PROMPT_TAPS_MOST = 8 };

// What the reference pipeline keeps in its own code; comes from limn.json or the recognised architecture.
struct prompt_settings {
    const char *system_message; // borrowed; required for Mistral
    int taps[PROMPT_TAPS_MOST]; // hidden_states indices: k = after k decoder layers (0 = embeddings)
    int tap_count;
    int length; // text positions, 512
};

struct prompt_encoder;

// Called after each decoder layer, [layer] from 1 to [layers], those that the taps need; returns false to stop (the run
// then fails with ERROR_CANCELLED).
typedef bool prompt_progress(void *context, int layer, int layers);

// [folder]: a model folder with text_encoder/ (Mistral3 or Mistral) and tokenizer/. Maps the weights; runs nothing.
// [device] must outlive it.
struct prompt_encoder *prompt_encoder_open(const char *folder, const struct prompt_settings *settings,
                                           struct device *device, struct error *error);
void prompt_encoder_close(struct prompt_encoder *encoder);

int64_t prompt_encoder_width(const struct prompt_encoder *encoder); // tap_count * hidden
const struct tokenizer *prompt_encoder_tokenizer(const struct prompt_encoder *encoder);

// The padded ids of a prompt, settings.length of them, left-padded, cut on the right as the reference does.
bool prompt_encoder_tokens(const struct prompt_encoder *encoder, const char *prompt, int32_t *ids,
                           struct error *error);

// Writes [settings.length, width] f32 into host memory [embeddings]. [compute] as for every product. Workspace is
// used and released.
bool prompt_encoder_run(struct prompt_encoder *encoder, const char *prompt, enum compute compute,
                        prompt_progress *progress, void *context, float *embeddings, struct error *error);

// Drops the file pages of the weights.
void prompt_encoder_release_pages(struct prompt_encoder *encoder);

#endif
