// A decoder-only language model, up to the layer whose output is wanted. Relies on weights, tensor.
//
// One layer (pre-norm; Mistral and Qwen3 are configurations of it):
//     h += o(attention(rope(q x), rope(k x), v x))    x = rms(h) * w_in; Qwen3: q and k pass an RMS norm per head
//     h += down(silu(gate x) * (up x))                x = rms(h) * w_post
// Attention is causal, query head i reads key/value head i / (heads / kv_heads), scale 1/sqrt(head_dim); rope pairs (i, i +
// head_dim/2) with angle position * theta^(-2i/head_dim). Source: modeling_mistral.py, modeling_qwen3.py of transformers.
#ifndef LIMN_TEXT_LANGUAGE_MODEL_H
#define LIMN_TEXT_LANGUAGE_MODEL_H

#include "tensor/ops.h"
#include "weights/checkpoint.h"

enum language_model_kind {
    LANGUAGE_MODEL_MISTRAL,
    LANGUAGE_MODEL_QWEN3, // norms on q and k
};

struct language_model_config {
    enum language_model_kind kind;
    int64_t vocabulary, hidden, mlp_hidden;
    int64_t layers, heads, kv_heads, head_dim;
    int64_t window; // the most tokens that a query sees; 0: all
    double eps, rope_theta;
    bool pruned; // the file has no layers behind these and no final norm: the last one is none of the model's
};

// Reads a config.json: model_type mistral3 (the decoder is in text_config), mistral or qwen3. What is absent has the value
// that transformers gives it. [name] stands in messages.
bool language_model_config_parse(const char *name, const char *json, size_t size,
                                 struct language_model_config *config, struct error *error);

// The same off the tensors of a checkpoint that has no config.json, whose names begin with [prefix]: Mistral, or Qwen3 where
// there are norms on queries and keys. What tensors do not show is taken from the keys of a GGUF file, else: Mistral heads
// of 128, rope_theta 1e9, eps 1e-5; Qwen3 rope_theta 1e6, eps 1e-6.
struct checkpoint;
bool language_model_config_derive(const struct checkpoint *checkpoint, const char *prefix,
                                  struct language_model_config *config, struct error *error);

struct language_model;

// Opens [path] (a folder or a file, in any layout that weights/layout.h knows, with or without a config.json) for runs of the first [layers] layers. The weights are mapped; only those of
// these layers must be there. Tensor names may begin with "language_model.model.", "model.language_model.", "model." or
// nothing. The final norm is wanted only where [layers] is all of them. [device] must outlive the model.
struct language_model *language_model_open(const char *path, int64_t layers, struct device *device,
                                           struct error *error);
void language_model_close(struct language_model *model); // NULL is fine

const struct language_model_config *language_model_config(const struct language_model *model);

// Called after each layer, [layer] from 1 to [layers]; returns false to stop.
typedef bool language_model_progress(void *context, int layer, int layers);

struct language_model_input {
    const int32_t *tokens; // on the host, each in [0, vocabulary)
    int64_t count;         // at least 1
    int64_t
        pads; // so many of them at the end are padding: each sees the tokens before the padding, no token sees
              // them. Fewer than count.
    int64_t position; // of the first token
    int32_t
        lone_token; // -1, or a token that stands by itself: it attends to nothing, not even itself, and its attention
                    // adds 0. Its row comes first in the output.
    const int *taps; // hidden states: k = after k layers (0: the embeddings; all layers: with the final norm)
    int tap_count;
    enum compute compute;
    language_model_progress *progress; // NULL: none
    void *context;
};

// Writes the taps side by side into [output]: [count (+ 1 with a lone token), tap_count * hidden] f32 on the device. Uses
// and releases workspace. False when the progress function stopped it (ERROR_CANCELLED) or an op failed.
bool language_model_run(struct language_model *model, const struct language_model_input *input,
                        struct matrix output, struct error *error);

// An upper bound of the workspace of a run with [count] tokens and a lone one, in bytes; and the files that the weights lie in,
// of which a run reads [layers] layers.
int64_t language_model_run_bytes(const struct language_model *model, int64_t count, enum compute compute);
struct checkpoint_summary language_model_weights(const struct language_model *model);

// Drops the file pages of the weights.
void language_model_release_pages(struct language_model *model);

#endif
