// Looks at weight files and model folders. A part counts as sound when the reader that a request uses opens it: there is no
// second opinion on what is right. Relies on flux, weights, jansson.
#include "cli/inspect.h"
#include "base/file.h"
#include "base/json.h"
#include "base/pool.h"
#include "flux/autoencoder.h"
#include "flux/model.h"
#include "flux/pipeline.h"
#include "tensor/device.h"
#include "text/language_model.h"
#include "weights/checkpoint.h"

#include <stdlib.h>
#include <string.h>

enum { CONFIG_MOST = 1 << 20, WORKSPACE = 1 << 20 };

// [text] as JSON: paths and messages may hold bytes that are not UTF-8, which become "?".
static json_t *text_json(const char *text) {
    json_t *value = json_string(text);
    char *copy = value ? NULL : strdup(text);
    for (char *c = copy; c && *c; c++) {
        if ((unsigned char)*c >= 0x80) *c = '?';
    }
    if (copy) value = json_string(copy);
    free(copy);
    return value ? value : json_null();
}

// ------------------------------------------------------------------------------------------------------------- weights

static void count_in(json_t *sums, int64_t values, size_t bytes) {
    static const char *const keys[] = {"tensors", "values", "bytes"};
    const json_int_t more[] = {1, values, (json_int_t)bytes};
    for (int i = 0; i < 3; i++) {
        json_object_set_new(sums, keys[i],
                            json_integer(json_integer_value(json_object_get(sums, keys[i])) + more[i]));
    }
}

static json_t *totals_of(const struct checkpoint *checkpoint) {
    json_t *totals = json_pack("{s:i, s:i, s:i}", "tensors", 0, "values", 0, "bytes", 0),
           *types = json_object();
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++) {
        const struct tensor *tensor = &checkpoint_entry(checkpoint, i)->tensor;
        const char *type = dtype_info(tensor->type)->name;
        if (!json_object_get(types, type)) json_object_set_new(types, type, json_object());
        count_in(json_object_get(types, type), tensor_values(tensor), tensor->bytes);
        count_in(totals, tensor_values(tensor), tensor->bytes);
    }
    json_object_set_new(totals, "types", types);
    return totals;
}

// The files, bytes and totals of [checkpoint] into [report].
static void put_sizes(json_t *report, const struct checkpoint *checkpoint) {
    uint64_t bytes;
    json_object_set_new(report, "files", json_integer(checkpoint_files(checkpoint, &bytes)));
    json_object_set_new(report, "bytes", json_integer((json_int_t)bytes));
    json_object_set_new(report, "totals", totals_of(checkpoint));
}

static json_t *tensors_of(const struct checkpoint *checkpoint) {
    json_t *list = json_array();
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(checkpoint, i);
        json_t *shape = json_array();
        for (int k = 0; k < entry->tensor.rank; k++)
            json_array_append_new(shape, json_integer(entry->tensor.shape[k]));
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:o, s:I, s:o}", "name", entry->name, "type",
                                        dtype_info(entry->tensor.type)->name, "shape", shape, "bytes",
                                        (json_int_t)entry->tensor.bytes, "file", text_json(entry->file)));
    }
    return list;
}

// Reads a JSON file beside the weights; NULL when it is not there, or not JSON: then [error] is set.
static json_t *read_json(const char *folder, const char *name, struct error *error) {
    char *path = path_join(folder, name);
    json_t *json = path && file_exists(path) ? json_read_file(path, CONFIG_MOST, error) : NULL;
    free(path);
    return json;
}

// What a config.json says it is: a diffusers class, or a transformers architecture.
static const char *class_in(const json_t *config) {
    const char *name = json_string_value(json_object_get(config, "_class_name"));
    if (!name) name = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    if (!name) name = json_string_value(json_object_get(config, "tokenizer_class"));
    return name ? name : json_string_value(json_object_get(config, "model_type"));
}

json_t *inspect_weights(const char *path, struct error *error) {
    struct checkpoint *checkpoint = checkpoint_open(path, error);
    if (!checkpoint) return NULL;
    json_t *report = json_pack("{s:s, s:o}", "kind", "weights", "path", text_json(path)),
           *metadata = json_object();
    struct error ignored = {0};
    json_t *config = folder_exists(path) ? read_json(path, "config.json", &ignored) : NULL;
    if (class_in(config)) json_object_set_new(report, "class", json_string(class_in(config)));
    json_decref(config);
    for (int64_t i = 0; i < checkpoint_metadata_count(checkpoint); i++) {
        const struct checkpoint_metadata_pair *pair = checkpoint_metadata_pair(checkpoint, i);
        json_object_set_new(metadata, pair->key, json_string(pair->value));
    }
    put_sizes(report, checkpoint);
    json_object_set_new(report, "metadata", metadata);
    json_object_set_new(report, "tensors", tensors_of(checkpoint));
    checkpoint_close(checkpoint);
    return report;
}

// ----------------------------------------------------------------------------------------------------------- the parts

struct inspection {
    const char *folder;
    struct device *device;
    struct transformer_shape shape; // where [has_shape]: of the weights, else of the config.json
    bool has_shape;
    const struct model_settings *settings; // NULL when they could not be read
    json_t *parts, *problems;
};

static void add_problem(struct inspection *inspection, json_t *part, const char *text) {
    if (part) json_object_set_new(part, "problem", text_json(text));
    json_array_append_new(inspection->problems, text_json(text));
}

// A part with what its files say by themselves. [weights]: whether it has any.
static json_t *begin_part(struct inspection *inspection, const char *name, const char *config_name,
                          bool weights) {
    json_t *part = json_pack("{s:s}", "part", name);
    json_array_append_new(inspection->parts, part);
    char *folder = path_join(inspection->folder, name);
    if (!folder) return part;
    struct error error = {0};
    json_t *config = read_json(folder, config_name, &error);
    if (class_in(config)) json_object_set_new(part, "class", json_string(class_in(config)));
    json_decref(config);
    error_clear(&error); // the part's own reader says it better
    struct checkpoint *checkpoint = weights && folder_exists(folder) ? checkpoint_open(folder, &error) : NULL;
    if (checkpoint) put_sizes(part, checkpoint);
    checkpoint_close(checkpoint);
    free(folder);
    return part;
}

static json_t *integers_json(const int64_t *values, int count) {
    json_t *list = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(list, json_integer(values[i]));
    return list;
}

// Hands [folder]/[part]/config.json to [parse].
static bool parse_config(const char *folder, const char *part, void *config,
                         bool (*parse)(const char *, const char *, size_t, void *, struct error *),
                         struct error *error) {
    char *inner = path_join(folder, part), *path = inner ? path_join(inner, "config.json") : NULL,
         *text = NULL;
    size_t size;
    bool done =
        path && file_read(path, CONFIG_MOST, &text, &size, error) && parse(path, text, size, config, error);
    free(text);
    free(path);
    free(inner);
    return done;
}

static bool parse_transformer(const char *name, const char *text, size_t size, void *config,
                              struct error *error) {
    return transformer_config_parse(name, text, size, config, error);
}

static bool parse_language(const char *name, const char *text, size_t size, void *config,
                           struct error *error) {
    return language_model_config_parse(name, text, size, config, error);
}

static void inspect_transformer(struct inspection *inspection) {
    json_t *part = begin_part(inspection, "transformer", "config.json", true);
    struct error error = {0};
    struct transformer *transformer = transformer_open(inspection->folder, inspection->device, &error);
    if (transformer) {
        inspection->shape = *transformer_shape(transformer);
        inspection->has_shape = true;
    } else {
        add_problem(inspection, part, error.message);
        struct error ignored = {0}; // weights that are not there still have a config.json
        inspection->has_shape =
            parse_config(inspection->folder, "transformer", &inspection->shape, parse_transformer, &ignored);
    }
    transformer_close(transformer);
    if (!inspection->has_shape) return;
    const struct transformer_shape *shape = &inspection->shape;
    const int64_t axes[] = {shape->axes[0], shape->axes[1], shape->axes[2], shape->axes[3]};
    json_t *json = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:f, s:b}", "hidden",
                             (json_int_t)shape->hidden, "heads", (json_int_t)shape->heads, "head_dim",
                             (json_int_t)shape->head_dim, "double_blocks", (json_int_t)shape->double_blocks,
                             "single_blocks", (json_int_t)shape->single_blocks, "in_channels",
                             (json_int_t)shape->in_channels, "context", (json_int_t)shape->context,
                             "mlp_hidden", (json_int_t)shape->mlp_hidden, "rope_axes", integers_json(axes, 4),
                             "rope_theta", shape->rope_theta, "guidance", shape->guidance);
    if (shape->parameters) json_object_set_new(json, "parameters", json_integer(shape->parameters));
    json_object_set_new(part, "shape", json);
}

static void inspect_autoencoder(struct inspection *inspection) {
    json_t *part = begin_part(inspection, "vae", "config.json", true);
    struct error error = {0};
    struct autoencoder *autoencoder =
        autoencoder_open(inspection->folder, inspection->device, COMPUTE_F32, &error);
    if (!autoencoder) {
        add_problem(inspection, part, error.message);
        return;
    }
    const struct autoencoder_shape *shape = autoencoder_shape(autoencoder);
    json_object_set_new(part, "shape",
                        json_pack("{s:o, s:o, s:I, s:I, s:i, s:I}", "encoder_channels",
                                  integers_json(shape->encoder_channels, shape->levels), "decoder_channels",
                                  integers_json(shape->decoder_channels, shape->levels), "latent_channels",
                                  (json_int_t)shape->latent_channels, "token_channels",
                                  (json_int_t)shape->token_channels, "pixels_per_token",
                                  shape->pixels_per_token, "parameters", (json_int_t)shape->parameters));
    autoencoder_close(autoencoder);
}

static json_t *language_shape(const struct language_model_config *config) {
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "kind",
                     config->kind == LANGUAGE_MODEL_QWEN3 ? "qwen3" : "mistral", "hidden",
                     (json_int_t)config->hidden, "mlp_hidden", (json_int_t)config->mlp_hidden, "layers",
                     (json_int_t)config->layers, "heads", (json_int_t)config->heads, "kv_heads",
                     (json_int_t)config->kv_heads, "head_dim", (json_int_t)config->head_dim, "vocabulary",
                     (json_int_t)config->vocabulary, "rope_theta", config->rope_theta);
}

static void inspect_tokenizer(struct inspection *inspection) {
    json_t *part = begin_part(inspection, "tokenizer", "tokenizer_config.json", false);
    struct error error = {0};
    char *path = path_join(inspection->folder, "tokenizer");
    struct tokenizer *tokenizer = path ? tokenizer_open(path, &error) : NULL;
    free(path);
    if (!tokenizer) {
        add_problem(inspection, part, error.message);
        return;
    }
    json_object_set_new(part, "shape", json_pack("{s:i}", "vocabulary", tokenizer_vocabulary(tokenizer)));
    tokenizer_close(tokenizer);
}

static void inspect_text_encoder(struct inspection *inspection) {
    json_t *part = begin_part(inspection, "text_encoder", "config.json", true);
    struct language_model_config config;
    struct error error = {0};
    if (!parse_config(inspection->folder, "text_encoder", &config, parse_language, &error)) {
        add_problem(inspection, part, error.message);
        return;
    }
    json_object_set_new(part, "shape", language_shape(&config));
    const struct model_settings *settings = inspection->settings;
    if (!settings) return; // the problem with the settings is named already
    struct prompt_settings prompt = {
        .system_message = settings->system_message,
        .tap_count = settings->text_tap_count,
        .length = settings->text_length,
    };
    memcpy(prompt.taps, settings->text_taps, sizeof prompt.taps);
    struct prompt_encoder *encoder =
        prompt_encoder_open(inspection->folder, &prompt, inspection->device, &error);
    if (encoder) {
        json_object_set_new(json_object_get(part, "shape"), "embedding_width",
                            json_integer(prompt_encoder_width(encoder)));
    } else {
        add_problem(inspection, part, error.message);
    }
    prompt_encoder_close(encoder);
}

static json_t *settings_json(const struct model_settings *settings) {
    json_t *taps = json_array(), *sigmas = json_array(), *sizes = json_array();
    for (int i = 0; i < settings->text_tap_count; i++)
        json_array_append_new(taps, json_integer(settings->text_taps[i]));
    for (int i = 0; i < settings->sigma_count; i++)
        json_array_append_new(sigmas, json_real((double)settings->sigmas[i]));
    for (int i = 0; i < settings->size_count; i++) {
        json_array_append_new(sizes, json_sprintf("%dx%d", settings->sizes[i][0], settings->sizes[i][1]));
    }
    return json_pack("{s:s*, s:o, s:i, s:o, s:o, s:i, s:f, s:o, s:I, s:b}", "system_message",
                     settings->system_message, "text_taps", taps, "text_length", settings->text_length,
                     "default_size", json_sprintf("%dx%d", settings->default_width, settings->default_height),
                     "sizes", sizes, "steps", settings->steps, "guidance", (double)settings->guidance,
                     "sigmas", sigmas, "reference_area", (json_int_t)settings->reference_area, "trained",
                     settings->trained);
}

// ----------------------------------------------------------------------------------------------------------- the folder

bool inspect_is_model(const char *path) {
    static const char *const signs[] = {"model_index.json", "limn.json", "transformer", "text_encoder",
                                        "vae"};
    bool found = false;
    for (size_t i = 0; !found && folder_exists(path) && i < sizeof signs / sizeof *signs; i++) {
        char *inner = path_join(path, signs[i]);
        found = inner && (i < 2 ? file_exists(inner) : folder_exists(inner));
        free(inner);
    }
    return found;
}

static void inspect_index(struct inspection *inspection, json_t *report) {
    struct error error = {0};
    json_t *index = read_json(inspection->folder, "model_index.json", &error);
    if (class_in(index)) json_object_set_new(report, "pipeline", json_string(class_in(index)));
    json_decref(index);
    error_clear(&error);
    if (!model_index_check(inspection->folder, &error)) add_problem(inspection, NULL, error.message);
}

// The settings are held against the transformer's shape; without one they cannot be judged.
static void inspect_settings(struct inspection *inspection, struct model_settings *settings, json_t *report) {
    struct error error = {0};
    if (!inspection->has_shape) return;
    if (model_settings_read(inspection->folder, &inspection->shape, settings, &error)) {
        inspection->settings = settings;
        json_object_set_new(report, "name", text_json(settings->name));
        json_object_set_new(report, "settings", settings_json(settings));
    } else {
        add_problem(inspection, NULL, error.message);
    }
}

// Parts that are sound by themselves may still not belong together: the last word has what opens them for a request.
static void inspect_whole(struct inspection *inspection) {
    if (json_array_size(inspection->problems) > 0) return;
    struct limn_options options;
    limn_options_init(&options);
    options.threads = 1;
    struct error error = {0};
    struct pipeline *pipeline = pipeline_open(inspection->folder, &options, &error);
    if (!pipeline) add_problem(inspection, NULL, error.message);
    pipeline_close(pipeline);
}

static void inspect_parts(struct inspection *inspection, json_t *report) {
    struct model_settings settings = {0};
    inspect_index(inspection, report);
    inspect_tokenizer(inspection);
    inspect_transformer(inspection);
    inspect_settings(inspection, &settings, report);
    inspect_text_encoder(inspection);
    inspect_autoencoder(inspection);
    inspect_whole(inspection);
    inspection->settings = NULL;
    model_settings_free(&settings);
}

json_t *inspect_model(const char *folder, struct error *error) {
    struct inspection inspection = {.folder = folder, .parts = json_array(), .problems = json_array()};
    struct pool *pool = pool_open(1, error);
    struct device_options options = {.pool = pool, .workspace_bytes = WORKSPACE}; // nothing is computed
    inspection.device = pool ? device_open_cpu(&options, error) : NULL;
    json_t *report = NULL;
    if (inspection.device) {
        report = json_pack("{s:s, s:o}", "kind", "model", "path", text_json(folder));
        inspect_parts(&inspection, report);
        json_object_set(report, "parts", inspection.parts);
        json_object_set(report, "problems", inspection.problems);
    }
    device_close(inspection.device);
    pool_close(pool);
    json_decref(inspection.parts);
    json_decref(inspection.problems);
    return report;
}
