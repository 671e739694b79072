// The configuration of a language model without a config.json, read off its tensors and the keys of a GGUF file. Relies on
// weights.
#include "text/language_model.h"
#include "weights/gguf.h"
#include "weights/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What is looked into, and what begins its names or keys.
struct source {
    const struct checkpoint *checkpoint;
    const char *prefix;
    const struct gguf *gguf; // NULL: none
    const char *file;
    char *architecture; // the prefix of a GGUF file's keys
};

static bool shape_of(const struct source *source, const char *name, int64_t *rows, int64_t *cols,
                     struct error *error) {
    struct tensor tensor;
    int64_t shape[2] = {*rows, *cols};
    if (!checkpoint_get(source->checkpoint, &tensor, 2, shape, error, "%s%s", source->prefix, name))
        return false;
    *rows = shape[0];
    *cols = shape[1];
    return true;
}

static const struct checkpoint_entry *find(const struct source *source, const char *name) {
    char full[160];
    snprintf(full, sizeof full, "%s%s", source->prefix, name);
    return checkpoint_find(source->checkpoint, full);
}

static const char *key_of(const struct source *source, const char *name, char *text, size_t size) {
    snprintf(text, size, "%s.%s", source->architecture, name);
    return text;
}

static bool key_integer(const struct source *source, const char *name, int64_t most, int64_t *value,
                        struct error *error) {
    char key[120];
    return gguf_get_integer(source->gguf, source->file, key_of(source, name, key, sizeof key), 1, most, value,
                            error);
}

static bool key_number(const struct source *source, const char *name, double most, double *value,
                       struct error *error) {
    char key[120];
    return gguf_get_number(source->gguf, source->file, key_of(source, name, key, sizeof key), 0, most, value,
                           error);
}

// Other architectures have other layers under the same names. stable-diffusion.cpp's converter writes no keys: then the tensors say
// what they say in a safetensors file.
static bool check_architecture(struct source *source, const struct language_model_config *config,
                               struct error *error) {
    if (!gguf_get_string(source->gguf, source->file, "general.architecture", &source->architecture, error))
        return false;
    if (!source->architecture) return true;
    bool qwen3 = config->kind == LANGUAGE_MODEL_QWEN3;
    bool known = qwen3 ? !strcmp(source->architecture, "qwen3")
                       : !strcmp(source->architecture, "llama") || !strcmp(source->architecture, "mistral3");
    return known || error_set(error, ERROR_UNSUPPORTED, "%s: general.architecture is \"%.40s\", expected %s",
                              source->file, source->architecture, qwen3 ? "qwen3" : "llama or mistral3");
}

static bool check_scaling(struct source *source, struct error *error) {
    char key[120], *kind = NULL;
    if (!gguf_get_string(source->gguf, source->file, key_of(source, "rope.scaling.type", key, sizeof key),
                         &kind, error))
        return false;
    bool plain = !kind || !strcmp(kind, "none");
    if (!plain)
        error_set(error, ERROR_UNSUPPORTED, "%s: key \"%s\": \"%.40s\", expected none", source->file, key,
                  kind);
    free(kind);
    return plain;
}

static bool read_keys(struct source *source, struct language_model_config *config, int64_t query_rows,
                      struct error *error) {
    int64_t heads = 0, kv_heads = 0, layers = config->layers;
    if (!check_architecture(source, config, error)) return false;
    if (!source->architecture) return true;
    if (!check_scaling(source, error) || !key_integer(source, "attention.head_count", 1024, &heads, error) ||
        !key_integer(source, "attention.head_count_kv", 1024, &kv_heads, error) ||
        !key_integer(source, "block_count", 1024, &layers, error) ||
        !key_number(source, "rope.freq_base", 1e15, &config->rope_theta, error) ||
        !key_number(source, "attention.layer_norm_rms_epsilon", 1, &config->eps, error))
        return false;
    if (heads > 0) config->head_dim = query_rows / heads;
    if (!key_integer(source, "attention.key_length", 512, &config->head_dim, error)) return false;
    if (layers < config->layers)
        return error_set(error, ERROR_INPUT, "%s: block_count is %lld, but there are %lld blocks",
                         source->file, (long long)layers, (long long)config->layers);
    return true;
}

// Tensors that neither Mistral nor Qwen3 has and that a run would leave out: scaled rotations, biases.
static bool check_extras(const struct source *source, struct error *error) {
    static const char *const names[] = {"rope_freqs.weight", "layers.0.self_attn.q_proj.bias"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct checkpoint_entry *entry = find(source, names[i]);
        if (entry)
            return error_set(error, ERROR_UNSUPPORTED,
                             "%s: tensor \"%s\": not of a text encoder of FLUX.2 (Mistral or Qwen3)",
                             entry->file, entry->origin ? entry->origin : entry->name);
    }
    return true;
}

static bool derive_heads(struct language_model_config *config, const struct source *source,
                         int64_t query_rows, int64_t key_rows, struct error *error) {
    int64_t width = config->head_dim;
    if (width < 8 || width > 512 || width % 8 != 0 || query_rows % width != 0 || key_rows % width != 0 ||
        key_rows == 0 || query_rows % key_rows != 0)
        return error_set(
            error, ERROR_UNSUPPORTED,
            "%s: %lld rows of queries and %lld of keys are no whole heads of %lld, expected a config.json "
            "that says how wide heads are",
            source->file, (long long)query_rows, (long long)key_rows, (long long)width);
    config->heads = query_rows / width;
    config->kv_heads = key_rows / width;
    return true;
}

static bool derive(struct source *source, struct language_model_config *config, struct error *error) {
    char blocks[80];
    int64_t query_rows = -1, key_rows = -1, hidden = -1;
    const struct checkpoint_entry *norm = find(source, "layers.0.self_attn.q_norm.weight");
    snprintf(blocks, sizeof blocks, "%slayers.", source->prefix);
    *config = (struct language_model_config){
        .kind = norm ? LANGUAGE_MODEL_QWEN3 : LANGUAGE_MODEL_MISTRAL,
        .vocabulary = -1,
        .mlp_hidden = -1,
        .layers = layout_blocks(source->checkpoint, blocks),
        .head_dim = norm ? tensor_values(&norm->tensor) : 128,
        .eps = norm ? 1e-6 : 1e-5,
        .rope_theta = norm ? 1e6 : 1e9,
        .pruned = find(source, "norm.weight") == NULL,
    };
    if (config->layers > LAYOUT_BLOCKS_MOST)
        return error_set(error, ERROR_INPUT, "%s: more than %d layers", source->file, LAYOUT_BLOCKS_MOST);
    if (!shape_of(source, "embed_tokens.weight", &config->vocabulary, &hidden, error)) return false;
    config->hidden = hidden;
    return check_extras(source, error) &&
           shape_of(source, "layers.0.self_attn.q_proj.weight", &query_rows, &hidden, error) &&
           shape_of(source, "layers.0.self_attn.k_proj.weight", &key_rows, &hidden, error) &&
           shape_of(source, "layers.0.mlp.gate_proj.weight", &config->mlp_hidden, &hidden, error) &&
           (!source->gguf || read_keys(source, config, query_rows, error)) &&
           derive_heads(config, source, query_rows, key_rows, error);
}

bool language_model_config_derive(const struct checkpoint *checkpoint, const char *prefix,
                                  struct language_model_config *config, struct error *error) {
    struct source source = {checkpoint, prefix, checkpoint_gguf(checkpoint), checkpoint_name(checkpoint),
                            NULL};
    bool done = derive(&source, config, error);
    free(source.architecture);
    return done;
}
