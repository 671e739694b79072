// Reads config.json of an AutoencoderKLFlux2. Relies on autoencoder_config.h, base/json.h.
#include "flux/autoencoder_config.h"
#include "base/json.h"

#include <string.h>

enum { CHANNELS_MOST = 8192, GROUPS_MOST = 1024 };

// A string field that must be absent or [expected].
static bool check_string(struct json_place place, const char *key, const char *expected,
                         struct error *error) {
    const char *value = expected;
    if (!json_get_string(place, key, JSON_OPTIONAL, &value, error)) return false;
    if (strcmp(value, expected) == 0) return true;
    return error_set(error, ERROR_UNSUPPORTED, "%s: %s is \"%.60s\", expected \"%s\"", place.name, key, value,
                     expected);
}

static bool check_integer(struct json_place place, const char *key, int64_t expected, struct error *error) {
    int64_t value = expected;
    return json_get_integer(place, key, JSON_OPTIONAL, expected, expected, &value, error);
}

// The block types must all be the one that the model is made of, as many as there are levels.
static bool check_blocks(struct json_place place, const char *key, const char *expected, int levels,
                         struct error *error) {
    const json_t *blocks = NULL;
    if (!json_get_array(place, key, JSON_OPTIONAL, &blocks, error)) return false;
    if (!blocks) return true;
    if (json_array_size(blocks) != (size_t)levels)
        return error_set(error, ERROR_INPUT, "%s: %s has %zu entries, expected %d as block_out_channels has",
                         place.name, key, json_array_size(blocks), levels);
    for (int i = 0; i < levels; i++) {
        const char *block = json_string_value(json_array_get(blocks, (size_t)i));
        if (!block || strcmp(block, expected) != 0)
            return error_set(error, ERROR_UNSUPPORTED, "%s: %s[%d] is \"%.60s\", expected \"%s\"", place.name,
                             key, i, block ? block : "not a string", expected);
    }
    return true;
}

static bool read_widths(struct json_place place, struct autoencoder_config *config, struct error *error) {
    int decoder_levels = 0;
    if (!json_get_integers(place, "block_out_channels", JSON_REQUIRED, 1, CHANNELS_MOST, config->encoder,
                           AUTOENCODER_LEVELS_MOST, &config->levels, error))
        return false;
    if (config->levels < 1)
        return error_set(error, ERROR_INPUT, "%s: block_out_channels is empty, expected 1 to %d widths",
                         place.name, AUTOENCODER_LEVELS_MOST);
    memcpy(config->decoder, config->encoder, sizeof config->decoder);
    if (!json_get_integers(place, "decoder_block_out_channels", JSON_OPTIONAL, 1, CHANNELS_MOST,
                           config->decoder, AUTOENCODER_LEVELS_MOST, &decoder_levels, error))
        return false;
    if (decoder_levels != 0 && decoder_levels != config->levels)
        return error_set(
            error, ERROR_INPUT,
            "%s: decoder_block_out_channels has %d entries, expected %d as block_out_channels has",
            place.name, decoder_levels, config->levels);
    for (int i = 0; i < config->levels; i++)
        if (config->encoder[i] % config->groups != 0 || config->decoder[i] % config->groups != 0)
            return error_set(
                error, ERROR_INPUT,
                "%s: widths %lld and %lld of level %d, expected multiples of norm_num_groups (%d)",
                place.name, (long long)config->encoder[i], (long long)config->decoder[i], i, config->groups);
    return true;
}

static bool read_numbers(struct json_place place, struct autoencoder_config *config, struct error *error) {
    int64_t groups = 32, resnets = 2, patch[2] = {2, 2};
    int patch_count = 2;
    double eps = 1e-4;
    if (!json_get_integer(place, "norm_num_groups", JSON_OPTIONAL, 1, GROUPS_MOST, &groups, error) ||
        !json_get_integer(place, "layers_per_block", JSON_OPTIONAL, 1, AUTOENCODER_RESNETS_MOST - 1, &resnets,
                          error) ||
        !json_get_integer(place, "latent_channels", JSON_OPTIONAL, 1, GROUPS_MOST, &config->latent_channels,
                          error) ||
        !json_get_number(place, "batch_norm_eps", JSON_OPTIONAL, 0, 1, &eps, error) ||
        !json_get_integers(place, "patch_size", JSON_OPTIONAL, 2, 2, patch, 2, &patch_count, error) ||
        !check_integer(place, "in_channels", 3, error) || !check_integer(place, "out_channels", 3, error))
        return false;
    if (patch_count != 2)
        return error_set(error, ERROR_INPUT, "%s: patch_size has %d entries, expected [2, 2]", place.name,
                         patch_count);
    config->groups = (int)groups;
    config->resnets = (int)resnets;
    config->batch_norm_eps = (float)eps;
    return true;
}

static bool read_object(struct json_place place, struct autoencoder_config *config, struct error *error) {
    *config = (struct autoencoder_config){
        .latent_channels = 32, .quant = true, .post_quant = true, .attention = true};
    if (!check_string(place, "_class_name", "AutoencoderKLFlux2", error) ||
        !check_string(place, "act_fn", "silu", error) || !read_numbers(place, config, error) ||
        !read_widths(place, config, error) ||
        !check_blocks(place, "down_block_types", "DownEncoderBlock2D", config->levels, error) ||
        !check_blocks(place, "up_block_types", "UpDecoderBlock2D", config->levels, error) ||
        !json_get_bool(place, "use_quant_conv", JSON_OPTIONAL, &config->quant, error) ||
        !json_get_bool(place, "use_post_quant_conv", JSON_OPTIONAL, &config->post_quant, error) ||
        !json_get_bool(place, "mid_block_add_attention", JSON_OPTIONAL, &config->attention, error))
        return false;
    const int64_t encoder = config->encoder[config->levels - 1],
                  decoder = config->decoder[config->levels - 1];
    if (config->attention && (encoder % 8 != 0 || encoder > 512 || decoder % 8 != 0 || decoder > 512))
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: attention over %lld and %lld channels, expected multiples of 8 up to 512",
                         place.name, (long long)encoder, (long long)decoder);
    return true;
}

bool autoencoder_config_parse(const char *name, const char *text, size_t size,
                              struct autoencoder_config *config, struct error *error) {
    json_t *root = json_parse(name, text, size, error);
    if (!root) return false;
    bool ok = json_is_object(root);
    if (!ok) error_set(error, ERROR_INPUT, "%s: not a JSON object", name);
    ok = ok && read_object((struct json_place){root, name}, config, error);
    json_decref(root);
    return ok;
}
