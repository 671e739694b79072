// Looks at weight files and model folders. A part counts as sound when the reader that a request uses opens it: there is no
// second opinion on what is right. Relies on flux, weights, jansson.
#include "cli/inspect.h"
#include "base/file.h"
#include "base/json.h"
#include "base/pool.h"
#include "flux/autoencoder.h"
#include "flux/model.h"
#include "flux/model_folder.h"
#include "flux/pipeline.h"
#include "tensor/device.h"
#include "text/language_model.h"
#include "weights/companions.h"
#include "weights/parts.h"

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

// How many tensors have scales of which kind; NULL when none has any.
static json_t *scales_of(const struct checkpoint *checkpoint) {
    json_t *kinds = json_object();
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++) {
        const char *kind = companions_text(&checkpoint_entry(checkpoint, i)->tensor);
        if (kind)
            json_object_set_new(kinds, kind,
                                json_integer(json_integer_value(json_object_get(kinds, kind)) + 1));
    }
    if (json_object_size(kinds) > 0) return kinds;
    json_decref(kinds);
    return NULL;
}

// What the weights at [path] are as that part: its layout, and types and scales as limn uses them, into [report]. False when they
// hold no such part.
static bool put_layout(json_t *report, const char *path, enum model_part part) {
    struct layout layout;
    struct error error = {0};
    struct checkpoint *checkpoint = checkpoint_open(path, NULL);
    bool found = checkpoint && layout_find(checkpoint, part, &layout);
    if (found) {
        json_object_set_new(report, "layout", json_string(layout.name));
        if (*layout.prefix) json_object_set_new(report, "prefix", json_string(layout.prefix));
        if (layout_apply(checkpoint, &layout, &error)) {
            json_object_set_new(report, "totals", totals_of(checkpoint));
            json_t *scales = scales_of(checkpoint);
            if (scales) json_object_set_new(report, "scales", scales);
        } else {
            json_object_set_new(report, "problem", text_json(error.message));
        }
    }
    checkpoint_close(checkpoint);
    return found;
}

// The parts of FLUX.2 that a weight file holds.
static json_t *recognised_in(const char *path) {
    json_t *list = json_array();
    for (int part = 0; part < MODEL_PARTS; part++) {
        json_t *one = json_pack("{s:s}", "part", part_key((enum model_part)part));
        if (put_layout(one, path, (enum model_part)part)) json_array_append(list, one);
        json_decref(one);
    }
    return list;
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
    json_object_set_new(report, "format", json_string(checkpoint_gguf(checkpoint) ? "GGUF" : "safetensors"));
    json_object_set_new(report, "recognised", recognised_in(path));
    if (layout_stranger(checkpoint))
        json_object_set_new(report, "holds", json_string(layout_stranger(checkpoint)));
    json_object_set_new(report, "metadata", metadata);
    json_object_set_new(report, "tensors", tensors_of(checkpoint));
    checkpoint_close(checkpoint);
    return report;
}

// ----------------------------------------------------------------------------------------------------------- the parts

struct inspection {
    const char *folder;
    struct model_folder folders; // it and its bases; {0} when they could not be read
    struct device *device;
    struct transformer_shape shape; // where [has_shape]: of the weights, else of the config.json
    bool has_shape;
    const struct model_settings *settings; // NULL when they could not be read
    json_t *parts, *problems;
};

// The folder that a part comes from; the tokenizer lies beside the text encoder.
static const char *folder_of(const struct inspection *inspection, enum model_part part) {
    const struct model_folder *folders = &inspection->folders;
    return folders->folder_count ? model_folder_part(folders, part) : inspection->folder;
}

static void add_problem(struct inspection *inspection, json_t *part, const char *text) {
    if (part) json_object_set_new(part, "problem", text_json(text));
    json_array_append_new(inspection->problems, text_json(text));
}

// What the files of a part say by themselves: its folder's config.json, its sizes, its layout.
static void put_files(json_t *report, const char *path, const char *config_name, enum model_part part) {
    struct error ignored = {0}; // the part's own reader says it better
    json_t *config = folder_exists(path) ? read_json(path, config_name, &ignored) : NULL;
    if (class_in(config)) json_object_set_new(report, "class", json_string(class_in(config)));
    json_decref(config);
    json_object_set_new(report, "path", text_json(path));
    struct checkpoint *checkpoint = part < MODEL_PARTS ? checkpoint_open(path, NULL) : NULL;
    if (checkpoint) put_sizes(report, checkpoint);
    checkpoint_close(checkpoint);
    json_t *layout = json_object();
    if (checkpoint && put_layout(layout, path, part)) json_object_update(report, layout);
    json_decref(layout);
    json_object_del(report, "problem"); // of the layout: the part's own reader will find it too
}

// [part]: MODEL_PARTS for the tokenizer.
static json_t *begin_part(struct inspection *inspection, enum model_part part) {
    bool tokenizer = part == MODEL_PARTS;
    json_t *report = json_pack("{s:s}", "part", tokenizer ? "tokenizer" : part_key(part));
    json_array_append_new(inspection->parts, report);
    const char *folder = folder_of(inspection, tokenizer ? PART_TEXT_ENCODER : part);
    char *path = tokenizer ? part_find_tokenizer(folder, NULL) : part_find(folder, part, NULL);
    if (path) put_files(report, path, tokenizer ? "tokenizer_config.json" : "config.json", part);
    free(path);
    return report;
}

static json_t *integers_json(const int64_t *values, int count) {
    json_t *list = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(list, json_integer(values[i]));
    return list;
}

// Hands the config.json of a part to [parse]; false without an error where it has none.
static bool parse_config(const char *folder, enum model_part part, void *config,
                         bool (*parse)(const char *, const char *, size_t, void *, struct error *),
                         struct error *error) {
    char *inner = part_find(folder, part, error), *path = inner ? part_config(inner) : NULL, *text = NULL;
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
    json_t *part = begin_part(inspection, PART_TRANSFORMER);
    struct error error = {0};
    const char *folder = folder_of(inspection, PART_TRANSFORMER);
    struct transformer *transformer = transformer_open(folder, inspection->device, &error);
    if (transformer) {
        inspection->shape = *transformer_shape(transformer);
        inspection->has_shape = true;
    } else {
        add_problem(inspection, part, error.message);
        struct error ignored = {0}; // weights that are not there still have a config.json
        inspection->has_shape =
            parse_config(folder, PART_TRANSFORMER, &inspection->shape, parse_transformer, &ignored);
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
    json_t *part = begin_part(inspection, PART_AUTOENCODER);
    struct error error = {0};
    struct autoencoder *autoencoder =
        autoencoder_open(folder_of(inspection, PART_AUTOENCODER), inspection->device, COMPUTE_F32, &error);
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
    json_t *part = begin_part(inspection, MODEL_PARTS);
    struct error error = {0};
    char *path = part_find_tokenizer(folder_of(inspection, PART_TEXT_ENCODER), &error);
    struct tokenizer *tokenizer = path ? tokenizer_open(path, &error) : NULL;
    free(path);
    if (!tokenizer) {
        add_problem(inspection, part, error.message);
        return;
    }
    json_object_set_new(part, "shape", json_pack("{s:i}", "vocabulary", tokenizer_vocabulary(tokenizer)));
    tokenizer_close(tokenizer);
}

// From the part's config.json, which may be there without weights, or off the weights.
static bool read_language(const struct inspection *inspection, struct language_model_config *config,
                          struct error *error) {
    const char *folder = folder_of(inspection, PART_TEXT_ENCODER);
    if (parse_config(folder, PART_TEXT_ENCODER, config, parse_language, error)) return true;
    char *path = error->kind ? NULL : part_find(folder, PART_TEXT_ENCODER, error);
    struct language_model *model = path ? language_model_open(path, 0, inspection->device, error) : NULL;
    if (model) *config = *language_model_config(model);
    language_model_close(model);
    free(path);
    return model != NULL;
}

static void inspect_text_encoder(struct inspection *inspection) {
    json_t *part = begin_part(inspection, PART_TEXT_ENCODER);
    struct language_model_config config;
    struct error error = {0};
    if (!read_language(inspection, &config, &error)) {
        add_problem(inspection, part, error.message);
        return;
    }
    json_object_set_new(part, "shape", language_shape(&config));
    const struct model_settings *settings = inspection->settings;
    if (!settings) return; // the problem with the settings is named already
    struct prompt_settings prompt = model_prompt_settings(settings);
    struct prompt_encoder *encoder =
        prompt_encoder_open(folder_of(inspection, PART_TEXT_ENCODER), &prompt, inspection->device, &error);
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
    static const char *const templates[] = {[PROMPT_MISTRAL] = "mistral", [PROMPT_QWEN3] = "qwen3"};
    static const char *const kinds[] = {
        [GUIDANCE_NONE] = "no effect",
        [GUIDANCE_EMBEDDED] = "embedded",
        [GUIDANCE_CLASSIFIER] = "two evaluations a step",
    };
    return json_pack("{s:s, s:s*, s:o, s:i, s:o, s:o, s:i, s:s, s:f, s:o, s:I, s:b}", "text_template",
                     templates[settings->text_template], "system_message", settings->system_message,
                     "text_taps", taps, "text_length", settings->text_length, "default_size",
                     json_sprintf("%dx%d", settings->default_width, settings->default_height), "sizes", sizes,
                     "steps", settings->steps, "guidance_kind", kinds[settings->guidance_kind], "guidance",
                     (double)settings->guidance, "sigmas", sigmas, "reference_area",
                     (json_int_t)settings->reference_area, "trained", settings->trained);
}

// ----------------------------------------------------------------------------------------------------------- the folder

// Whether two parts of a model are found in a folder, whatever they are called.
static bool holds_parts(const char *folder) {
    int found = 0;
    for (int part = 0; part < MODEL_PARTS && found < 2; part++) {
        char *path = part_find(folder, (enum model_part)part, NULL);
        found += path != NULL;
        free(path);
    }
    return found >= 2;
}

bool inspect_is_model(const char *path) {
    static const char *const signs[] = {"model_index.json", "limn.json", "transformer", "text_encoder",
                                        "vae"};
    bool found = false;
    for (size_t i = 0; !found && folder_exists(path) && i < sizeof signs / sizeof *signs; i++) {
        char *inner = path_join(path, signs[i]);
        found = inner && (i < 2 ? file_exists(inner) : folder_exists(inner));
        free(inner);
    }
    return found || (folder_exists(path) && holds_parts(path));
}

// A pipeline that is not known counts as Flux2Pipeline, for the sake of the parts.
static void inspect_index(struct inspection *inspection, struct model_index *index, json_t *report) {
    struct error error = {0};
    const struct model_folder *folders = &inspection->folders;
    const char *folder =
        folders->folder_count ? model_folder_with(folders, "model_index.json") : inspection->folder;
    json_t *json = read_json(folder, "model_index.json", &error);
    if (class_in(json)) json_object_set_new(report, "pipeline", json_string(class_in(json)));
    json_decref(json);
    error_clear(&error);
    if (model_index_read(inspection->folder, index, &error)) return;
    *index = (struct model_index){.pipeline = MODEL_FLUX2};
    add_problem(inspection, NULL, error.message);
}

// The settings are held against the transformer's shape; without one they cannot be judged.
static void inspect_settings(struct inspection *inspection, const struct model_index *index,
                             struct model_settings *settings, json_t *report) {
    struct error error = {0};
    if (!inspection->has_shape) return;
    if (model_settings_read(inspection->folder, index, &inspection->shape, settings, &error)) {
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

// The folders beneath, and the LoRAs of every request.
static void inspect_folders(struct inspection *inspection, json_t *report) {
    const struct model_folder *folders = &inspection->folders;
    struct error named = {0}; // by inspect_index, which reads the same
    if (!model_folder_open(inspection->folder, &inspection->folders, &named)) {
        model_folder_free(&inspection->folders);
        return;
    }
    json_t *bases = json_array(), *loras = json_array();
    for (int i = 1; i < folders->folder_count; i++)
        json_array_append_new(bases, text_json(folders->folders[i]));
    for (int i = 0; i < folders->lora_count; i++)
        json_array_append_new(loras, json_pack("{s:o, s:f}", "file", text_json(folders->loras[i].file),
                                               "scale", (double)folders->loras[i].scale));
    if (json_array_size(bases)) json_object_set(report, "bases", bases);
    if (json_array_size(loras)) json_object_set(report, "loras", loras);
    json_decref(bases);
    json_decref(loras);
}

static void inspect_parts(struct inspection *inspection, json_t *report) {
    struct model_settings settings = {0};
    struct model_index index;
    inspect_folders(inspection, report);
    inspect_index(inspection, &index, report);
    inspect_tokenizer(inspection);
    inspect_transformer(inspection);
    inspect_settings(inspection, &index, &settings, report);
    inspect_text_encoder(inspection);
    inspect_autoencoder(inspection);
    inspect_whole(inspection);
    inspection->settings = NULL;
    model_settings_free(&settings);
    model_folder_free(&inspection->folders);
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
