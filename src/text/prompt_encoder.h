// From a prompt to prompt embeddings: chat template, tokenizer, language model, taps. Relies on tokenizer.h, weights,
// tensor. What it computes is described in the header of prompt_encoder.c; source: FLUX.2 reference pipelines.
#ifndef LIMN_TEXT_PROMPT_ENCODER_H
#define LIMN_TEXT_PROMPT_ENCODER_H

#include "tensor/ops.h"
#include "text/tokenizer.h"
#include "weights/checkpoint.h"

enum { PROMPT_TAPS_MOST = 8 };

enum prompt_template {
    PROMPT_MISTRAL, // FLUX.2 [dev]: a system message; padding in front
    PROMPT_QWEN3,   // FLUX.2 [klein]: no system message; padding behind
};

// What the reference pipeline keeps in its own code; comes from limn.json or the recognised architecture.
struct prompt_settings {
    const char *system_message; // borrowed; required for PROMPT_MISTRAL, without meaning for PROMPT_QWEN3
    int taps[PROMPT_TAPS_MOST]; // hidden_states indices: k = after k decoder layers (0 = embeddings)
    int tap_count;
    int length; // text positions, 512
    enum prompt_template template;
    bool any_model; // the template goes with every text encoder, not only with one of its own kind
};

struct prompt_encoder;

// Called after each decoder layer, [layer] from 1 to [layers], those that the taps need; returns false to stop (the run
// then fails with ERROR_CANCELLED).
typedef bool prompt_progress(void *context, int layer, int layers);

// [folder]: a model folder with text_encoder/ (Mistral3 or Mistral for PROMPT_MISTRAL, Qwen3 for PROMPT_QWEN3) and tokenizer/
// with the template's special tokens (for PROMPT_QWEN3 also the template, where it has one: another than Qwen3's is refused). Maps the weights; runs nothing. [device] must outlive it.
struct prompt_encoder *prompt_encoder_open(const char *folder, const struct prompt_settings *settings,
                                           struct device *device, struct error *error);
void prompt_encoder_close(struct prompt_encoder *encoder);

int64_t prompt_encoder_width(const struct prompt_encoder *encoder); // tap_count * hidden
const struct tokenizer *prompt_encoder_tokenizer(const struct prompt_encoder *encoder);

// The padded ids of a prompt in its template, settings.length of them, cut on the right as the reference does; [count] of them
// are no padding.
bool prompt_encoder_tokens(const struct prompt_encoder *encoder, const char *prompt, int32_t *ids, int *count,
                           struct error *error);

// How many rows at the beginning of the embeddings are copies of the row that follows them, for a prompt of [count] ids that
// are no padding: pads that depend on nothing.
int prompt_encoder_copies(const struct prompt_encoder *encoder, int count);

// Writes [settings.length, width] f32 into host memory [embeddings]. [compute] as for every product. Workspace is
// used and released.
bool prompt_encoder_run(struct prompt_encoder *encoder, const char *prompt, enum compute compute,
                        prompt_progress *progress, void *context, float *embeddings, struct error *error);

// An upper bound of the workspace of a run, and the files that the weights lie in.
int64_t prompt_encoder_run_bytes(const struct prompt_encoder *encoder, enum compute compute);
struct checkpoint_summary prompt_encoder_weights(const struct prompt_encoder *encoder);

// Drops the file pages of the weights.
void prompt_encoder_release_pages(struct prompt_encoder *encoder);

#endif
