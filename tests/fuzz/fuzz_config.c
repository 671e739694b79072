// The JSON files of a model folder. The first byte says which reader gets the rest: '0' the getters themselves, '1' the
// transformer's config.json, '2' limn.json, '3' model_index.json, '4' the autoencoder's config.json, '5' the text encoder's, '6' what
// limn.json says of a base and LoRAs, '7' limn.json of a base model of [klein], '8' of a distilled one.
#include "fuzz.h"

#include "base/json.h"
#include "flux/autoencoder_config.h"
#include "flux/model.h"
#include "flux/model_folder.h"
#include "text/language_model.h"

#include <math.h>

// Every getter on every key of an object.
static void read_everything(struct json_place place) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)place.object, key, value) {
        struct error errors[8] = {0};
        int64_t integer, integers[4];
        double number, numbers[4];
        bool truth;
        const char *text;
        const json_t *inner;
        int count;
        bool done[8] = {
            json_get_integer(place, key, JSON_OPTIONAL, -5, 1 << 20, &integer, &errors[0]),
            json_get_number(place, key, JSON_OPTIONAL, 0, 1e9, &number, &errors[1]),
            json_get_bool(place, key, JSON_OPTIONAL, &truth, &errors[2]),
            json_get_string(place, key, JSON_REQUIRED, &text, &errors[3]),
            json_get_object(place, key, JSON_OPTIONAL, &inner, &errors[4]),
            json_get_array(place, key, JSON_REQUIRED, &inner, &errors[5]),
            json_get_integers(place, key, JSON_OPTIONAL, 0, 1 << 20, integers, 4, &count, &errors[6]),
            json_get_numbers(place, key, JSON_REQUIRED, 0, 1, numbers, 4, &count, &errors[7]),
        };
        for (int i = 0; i < 8; i++) {
            if (!done[i]) promise_explained(&errors[i]);
        }
        if (json_is_object(value)) read_everything((struct json_place){value, "fuzz"});
    }
}

static bool fuzz_getters(const char *text, size_t size, struct error *error) {
    json_t *json = json_parse("fuzz", text, size, error);
    if (!json) return false;
    read_everything((struct json_place){json, "fuzz"});
    json_decref(json);
    return true;
}

static bool fuzz_transformer(const char *text, size_t size, struct error *error) {
    struct transformer_shape shape;
    if (!transformer_config_parse("fuzz", text, size, &shape, error)) return false;
    int64_t sum = 0;
    for (int i = 0; i < POSITION_AXES; i++) sum += shape.axes[i];
    promise(shape.heads > 0 && shape.head_dim > 0 && shape.hidden == shape.heads * shape.head_dim);
    promise(sum == shape.head_dim && shape.in_channels > 0 && shape.context > 0 && shape.mlp_hidden > 0);
    promise(shape.double_blocks >= 0 && shape.single_blocks >= 0 && isfinite(shape.rope_theta) &&
            shape.eps > 0);
    return true;
}

static bool fuzz_settings(const char *text, size_t size, const struct model_index *index,
                          struct error *error) {
    // The rest is FLUX.2 [dev]'s; with these [klein] 9B's.
    static const char dev[] = "{\"attention_head_dim\": 128}";
    static const char klein[] =
        "{\"num_attention_heads\": 32, \"num_single_layers\": 24, \"joint_attention_dim\": 12288}";
    const char *config = index->pipeline == MODEL_KLEIN ? klein : dev;
    struct transformer_shape shape;
    struct model_settings settings = {0};
    struct error none = {0};
    promise(transformer_config_parse("config", config, strlen(config), &shape, &none));
    if (!model_settings_parse("fuzz", text, size, "folder", index, &shape, &settings, error)) return false;
    promise((settings.system_message != NULL) == (settings.text_template == PROMPT_MISTRAL));
    promise(settings.text_tap_count > 0 && settings.text_tap_count <= PROMPT_TAPS_MOST &&
            settings.text_length > 0);
    promise(settings.steps > 0 && settings.steps <= MODEL_SIGMAS_MOST && isfinite(settings.guidance));
    promise(settings.sigma_count >= 0 && settings.sigma_count <= MODEL_SIGMAS_MOST);
    promise(settings.default_width > 0 && settings.default_height > 0 && settings.reference_area > 0);
    promise(settings.size_count >= 0 && settings.size_count <= MODEL_SIZES_MOST && settings.name[0]);
    for (int i = 0; i < settings.sigma_count; i++) promise(settings.sigmas[i] > 0 && settings.sigmas[i] <= 1);
    model_settings_free(&settings);
    return true;
}

static bool fuzz_autoencoder(const char *text, size_t size, struct error *error) {
    struct autoencoder_config config;
    if (!autoencoder_config_parse("fuzz", text, size, &config, error)) return false;
    promise(config.levels > 0 && config.levels <= AUTOENCODER_LEVELS_MOST && config.groups > 0);
    promise(config.resnets > 0 && config.resnets <= AUTOENCODER_RESNETS_MOST && config.latent_channels > 0);
    for (int i = 0; i < config.levels; i++) {
        promise(config.encoder[i] > 0 && config.encoder[i] % config.groups == 0);
        promise(config.decoder[i] > 0 && config.decoder[i] % config.groups == 0);
    }
    promise(config.batch_norm_eps >= 0 && isfinite(config.batch_norm_eps));
    return true;
}

static bool fuzz_language_model(const char *text, size_t size, struct error *error) {
    struct language_model_config config;
    if (!language_model_config_parse("fuzz", text, size, &config, error)) return false;
    promise(config.vocabulary > 0 && config.hidden > 0 && config.mlp_hidden > 0 && config.layers > 0);
    promise(config.heads > 0 && config.kv_heads > 0 && config.heads % config.kv_heads == 0);
    promise(config.head_dim > 0 && config.head_dim % 2 == 0 && config.window >= 0);
    promise(config.eps >= 0 && isfinite(config.rope_theta) && config.rope_theta > 0);
    return true;
}

static bool fuzz_model_folder(const char *text, size_t size, struct error *error) {
    struct model_lora loras[LIMN_LORAS_MOST];
    char *base, *settings;
    int count;
    if (!model_folder_parse("fuzz", text, size, "folder", &base, loras, &count, &settings, error))
        return false;
    promise(count >= 0 && count <= LIMN_LORAS_MOST && settings[0] == '{' && (!base || *base));
    for (int i = 0; i < count; i++) {
        promise(loras[i].file[0] && fabs((double)loras[i].scale) <= LIMN_LORA_SCALE_MOST);
        free(loras[i].file);
    }
    free(base);
    free(settings);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    const char *text = (const char *)data + 1;
    struct error error = {0};
    struct model_index index;
    bool done = true;
    switch (data[0]) {
    case '0':
        done = fuzz_getters(text, size - 1, &error);
        break;
    case '1':
        done = fuzz_transformer(text, size - 1, &error);
        break;
    case '2':
        done = fuzz_settings(text, size - 1, &(struct model_index){.pipeline = MODEL_FLUX2}, &error);
        break;
    case '3':
        done = model_index_parse("fuzz", text, size - 1, &index, &error);
        break;
    case '4':
        done = fuzz_autoencoder(text, size - 1, &error);
        break;
    case '5':
        done = fuzz_language_model(text, size - 1, &error);
        break;
    case '6':
        done = fuzz_model_folder(text, size - 1, &error);
        break;
    case '7':
    case '8':
        index = (struct model_index){MODEL_KLEIN, data[0] == '8', true};
        done = fuzz_settings(text, size - 1, &index, &error);
        break;
    default:
        break;
    }
    if (!done) promise_explained(&error);
    return 0;
}
