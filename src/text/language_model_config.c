// config.json of a language model. Relies on base.
#include "base/json.h"
#include "text/language_model.h"

#include <string.h>

// The defaults are those of MistralConfig and Qwen3Config in transformers.
static const struct language_model_config mistral_defaults = {
    .kind = LANGUAGE_MODEL_MISTRAL,
    .vocabulary = 32000,
    .hidden = 4096,
    .mlp_hidden = 14336,
    .layers = 32,
    .heads = 32,
    .kv_heads = 8,
    .window = 4096,
    .eps = 1e-6,
    .rope_theta = 10000,
};
static const struct language_model_config qwen3_defaults = {
    .kind = LANGUAGE_MODEL_QWEN3,
    .vocabulary = 151936,
    .hidden = 4096,
    .mlp_hidden = 22016,
    .layers = 32,
    .heads = 32,
    .kv_heads = 32,
    .head_dim = 128,
    .eps = 1e-6,
    .rope_theta = 10000,
};

static bool expect_false(struct json_place place, const char *key, struct error *error) {
    bool value = false;
    if (!json_get_bool(place, key, JSON_OPTIONAL, &value, error)) return false;
    return !value ||
           error_set(error, ERROR_UNSUPPORTED, "%s: field \"%s\": true, expected false", place.name, key);
}

// An object with "rope_type" (or "type"), "rope_theta", ...: only the plain kind is known.
static bool read_rope_object(struct json_place place, const char *key, double *theta, struct error *error) {
    struct json_place inside = {NULL, key};
    const char *type = "default";
    double partial = 1;
    if (!json_get_object(place, key, JSON_OPTIONAL, &inside.object, error)) return false;
    if (!inside.object) return true;
    bool done = json_get_string(inside, "type", JSON_OPTIONAL, &type, error) &&
                json_get_string(inside, "rope_type", JSON_OPTIONAL, &type, error) &&
                json_get_number(inside, "rope_theta", JSON_OPTIONAL, 1, 1e15, theta, error) &&
                json_get_number(inside, "partial_rotary_factor", JSON_OPTIONAL, 0, 1, &partial, error);
    if (!done) return error_prefix(error, "%s", place.name);
    if (strcmp(type, "default") != 0)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: field \"%s\": rope_type \"%.40s\", expected \"default\"", place.name, key,
                         type);
    return partial == 1 ||
           error_set(error, ERROR_UNSUPPORTED, "%s: field \"%s\": partial_rotary_factor %g, expected 1",
                     place.name, key, partial);
}

// transformers 4 writes rope_theta beside the sizes, transformers 5 into rope_parameters.
static bool read_rope(struct json_place place, double *theta, struct error *error) {
    return json_get_number(place, "rope_theta", JSON_OPTIONAL, 1, 1e15, theta, error) &&
           read_rope_object(place, "rope_scaling", theta, error) &&
           read_rope_object(place, "rope_parameters", theta, error);
}

// Absent: the default. null: no window.
static bool read_window(struct json_place place, struct language_model_config *config, struct error *error) {
    const json_t *window = json_object_get(place.object, "sliding_window");
    bool used = config->kind != LANGUAGE_MODEL_QWEN3;
    if (!json_get_bool(place, "use_sliding_window", JSON_OPTIONAL, &used, error)) return false;
    if (config->kind == LANGUAGE_MODEL_QWEN3 && used)
        return error_set(error, ERROR_UNSUPPORTED, "%s: field \"use_sliding_window\": true, expected false",
                         place.name);
    if (config->kind == LANGUAGE_MODEL_QWEN3) return true;
    if (window && json_is_null(window)) config->window = 0;
    return json_get_integer(place, "sliding_window", JSON_OPTIONAL, 1, INT32_MAX, &config->window, error);
}

static bool read_sizes(struct json_place place, struct language_model_config *config, struct error *error) {
    const char *activation = "silu";
    bool kv_null = json_is_null(json_object_get(place.object, "num_key_value_heads"));
    if (!json_get_integer(place, "vocab_size", JSON_OPTIONAL, 1, 1 << 24, &config->vocabulary, error) ||
        !json_get_integer(place, "hidden_size", JSON_OPTIONAL, 1, 1 << 17, &config->hidden, error) ||
        !json_get_integer(place, "intermediate_size", JSON_OPTIONAL, 1, 1 << 20, &config->mlp_hidden,
                          error) ||
        !json_get_integer(place, "num_hidden_layers", JSON_OPTIONAL, 1, 1024, &config->layers, error) ||
        !json_get_integer(place, "num_attention_heads", JSON_OPTIONAL, 1, 1024, &config->heads, error) ||
        !json_get_integer(place, "num_key_value_heads", JSON_OPTIONAL, 1, 1024, &config->kv_heads, error) ||
        !json_get_integer(place, "head_dim", JSON_OPTIONAL, 1, 512, &config->head_dim, error) ||
        !json_get_number(place, "rms_norm_eps", JSON_OPTIONAL, 1e-12, 1, &config->eps, error) ||
        !json_get_string(place, "hidden_act", JSON_OPTIONAL, &activation, error) ||
        !expect_false(place, "attention_bias", error) || !expect_false(place, "mlp_bias", error))
        return false;
    if (kv_null) config->kv_heads = config->heads;
    if (config->head_dim == 0) config->head_dim = config->hidden / config->heads;
    if (strcmp(activation, "silu") != 0)
        return error_set(error, ERROR_UNSUPPORTED, "%s: field \"hidden_act\": \"%.40s\", expected \"silu\"",
                         place.name, activation);
    if (config->heads % config->kv_heads != 0)
        return error_set(error, ERROR_INPUT,
                         "%s: num_attention_heads is %lld, expected a multiple of num_key_value_heads, %lld",
                         place.name, (long long)config->heads, (long long)config->kv_heads);
    if (config->head_dim % 8 != 0 || config->head_dim < 8 || config->head_dim > 512)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: head_dim is %lld, expected a multiple of 8 from 8 to 512", place.name,
                         (long long)config->head_dim);
    return true;
}

static bool read_config(struct json_place place, struct language_model_config *config, struct error *error) {
    const char *type = NULL;
    if (!json_get_string(place, "model_type", JSON_REQUIRED, &type, error)) return false;
    if (strcmp(type, "mistral3") == 0) {
        const json_t *inner = NULL;
        if (!json_get_object(place, "text_config", JSON_REQUIRED, &inner, error)) return false;
        place.object = inner;
        type = "mistral";
        if (!json_get_string(place, "model_type", JSON_OPTIONAL, &type, error)) return false;
    }
    if (strcmp(type, "mistral") == 0)
        *config = mistral_defaults;
    else if (strcmp(type, "qwen3") == 0)
        *config = qwen3_defaults;
    else
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: model_type is \"%.40s\", expected mistral3, mistral or qwen3", place.name,
                         type);
    return read_sizes(place, config, error) && read_rope(place, &config->rope_theta, error) &&
           read_window(place, config, error);
}

bool language_model_config_parse(const char *name, const char *json, size_t size,
                                 struct language_model_config *config, struct error *error) {
    json_t *root = json_parse(name, json, size, error);
    if (!root) return false;
    bool done = read_config((struct json_place){root, name}, config, error);
    json_decref(root);
    return done;
}
