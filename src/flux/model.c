// model_index.json and limn.json. Every field is checked for its range here, so that what follows can rely on it.
// Relies on base.
#include "flux/model.h"

#include "base/file.h"
#include "base/json.h"
#include "flux/model_folder.h"
#include "flux/schedule.h"
#include "limn/limn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_BYTES_MOST = 1 << 20, TEXT_LENGTH_MOST = 8192, TAP_MOST = 1024, MESSAGE_BYTES_MOST = 64 << 10 };

// --------------------------------------------------------------------------------------------------- model_index.json

static bool pipeline_of_class(struct json_place place, const char *key, const char *class_name,
                              enum model_pipeline *pipeline, struct error *error) {
    const char *why = "";
    *pipeline = strcmp(class_name, "Flux2Pipeline") == 0 ? MODEL_FLUX2 : MODEL_KLEIN;
    if (*pipeline == MODEL_FLUX2 || strcmp(class_name, "Flux2KleinPipeline") == 0) return true;
    if (strcmp(class_name, "Flux2KleinKVPipeline") == 0)
        why = " (which keeps the keys and values of reference images over the steps)";
    return error_set_field(error, ERROR_UNSUPPORTED, key,
                           "%s: the pipeline is of the class \"%.80s\"%s, expected \"Flux2Pipeline\" or "
                           "\"Flux2KleinPipeline\"",
                           place.name, class_name, why);
}

bool model_index_parse(const char *name, const char *json, size_t size, struct model_index *index,
                       struct error *error) {
    json_t *root = json_parse(name, json, size, error);
    if (!root) return false;
    struct json_place place = {root, name};
    const char *class_name = NULL;
    *index = (struct model_index){.given = true};
    bool good = json_get_string(place, "_class_name", JSON_REQUIRED, &class_name, error) &&
                pipeline_of_class(place, "_class_name", class_name, &index->pipeline, error) &&
                (index->pipeline != MODEL_KLEIN ||
                 json_get_bool(place, "is_distilled", JSON_OPTIONAL, &index->distilled, error));
    json_decref(root);
    return good;
}

bool model_index_read(const char *folder, struct model_index *index, struct error *error) {
    *index = (struct model_index){0};
    if (!folder_exists(folder))
        return error_set(error, ERROR_NOT_FOUND, "%s: there is no such folder, expected a model folder",
                         folder);
    struct model_folder parts;
    char *path = NULL, *json = NULL;
    size_t size = 0;
    bool good = model_folder_open(folder, &parts, error);
    if (good && !(path = path_join(model_folder_with(&parts, "model_index.json"), "model_index.json")))
        good = error_set(error, ERROR_MEMORY, "not enough memory to open %s", folder);
    good = good && (!file_exists(path) || (file_read(path, JSON_BYTES_MOST, &json, &size, error) &&
                                           model_index_parse(path, json, size, index, error)));
    free(json);
    free(path);
    model_folder_free(&parts);
    return good;
}

// ---------------------------------------------------------------------------------------------------------- limn.json

// The models whose values in the reference pipeline are known. All have heads of 128 and 128 channels a token.
static const struct architecture {
    const char *name;
    enum model_pipeline pipeline;
    bool distilled;
    int64_t heads, double_blocks, single_blocks, context;
} architectures[] = {
    {"FLUX.2 [dev]", MODEL_FLUX2, false, 48, 8, 48, 15360},
    {"FLUX.2 [klein] 4B", MODEL_KLEIN, true, 24, 5, 20, 7680},
    {"FLUX.2 [klein] 4B Base", MODEL_KLEIN, false, 24, 5, 20, 7680},
    {"FLUX.2 [klein] 9B", MODEL_KLEIN, true, 32, 8, 24, 12288},
    {"FLUX.2 [klein] 9B Base", MODEL_KLEIN, false, 32, 8, 24, 12288},
};

// NULL where it is none of them.
static const struct architecture *recognise(const struct model_index *index,
                                            const struct transformer_shape *shape) {
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        const struct architecture *one = &architectures[i];
        if (one->pipeline == index->pipeline && one->distilled == index->distilled &&
            one->heads == shape->heads && one->double_blocks == shape->double_blocks &&
            one->single_blocks == shape->single_blocks && one->context == shape->context &&
            shape->head_dim == 128 && shape->in_channels == 128)
            return one;
    }
    return NULL;
}

static bool wrong_field(struct json_place place, const char *key, const char *found, const char *expected,
                        struct error *error) {
    return error_set_field(error, ERROR_INPUT, key, "%s: field \"%s\": %s, expected %s", place.name, key,
                           found, expected);
}

// A string that fits [to] whole.
static bool read_text(struct json_place place, const char *key, char *to, size_t size, struct error *error) {
    const char *text = NULL;
    char expected[40];
    if (!json_get_string(place, key, JSON_OPTIONAL, &text, error)) return false;
    if (!text) return true;
    snprintf(expected, sizeof expected, "1 to %zu bytes", size - 1);
    if (!*text || strlen(text) >= size)
        return wrong_field(place, key, *text ? "a longer text" : "an empty text", expected, error);
    snprintf(to, size, "%s", text);
    return true;
}

static bool parse_size(struct json_place place, const char *key, const char *text, int size[2],
                       struct error *error) {
    char expected[80], found[60];
    int end = 0;
    bool good = sscanf(text, "%5dx%5d%n", &size[0], &size[1], &end) == 2 && text[end] == 0;
    for (int i = 0; good && i < 2; i++) good = size[i] >= LIMN_SIDE_LEAST && size[i] <= LIMN_SIDE_MOST;
    if (good) return true;
    snprintf(found, sizeof found, "\"%.40s\"", text);
    snprintf(expected, sizeof expected, "\"WIDTHxHEIGHT\", each from %d to %d", LIMN_SIDE_LEAST,
             LIMN_SIDE_MOST);
    return wrong_field(place, key, found, expected, error);
}

static bool read_sizes(struct json_place place, struct model_settings *settings, struct error *error) {
    const char *text = NULL;
    const json_t *array = NULL;
    int size[2];
    if (!json_get_string(place, "default_size", JSON_OPTIONAL, &text, error) ||
        !json_get_array(place, "sizes", JSON_OPTIONAL, &array, error))
        return false;
    if (text) {
        if (!parse_size(place, "default_size", text, size, error)) return false;
        settings->default_width = size[0];
        settings->default_height = size[1];
    }
    if (json_array_size(array) > MODEL_SIZES_MOST)
        return wrong_field(place, "sizes", "too many elements", "at most 32", error);
    for (size_t i = 0; i < json_array_size(array); i++) {
        const char *element = json_string_value(json_array_get(array, i));
        if (!element) return wrong_field(place, "sizes", "an element that is no string", "strings", error);
        if (!parse_size(place, "sizes", element, settings->sizes[i], error)) return false;
    }
    settings->size_count = (int)json_array_size(array);
    return true;
}

static bool read_taps(struct json_place place, const struct model_index *index, bool known,
                      struct model_settings *settings, struct error *error) {
    enum json_need need = known ? JSON_OPTIONAL : JSON_REQUIRED;
    int64_t step = index->pipeline == MODEL_KLEIN ? 9 : 10, length = 512;
    int64_t taps[PROMPT_TAPS_MOST] = {step, 2 * step, 3 * step};
    int count = 3;
    if (!json_get_integers(place, "text_taps", need, 0, TAP_MOST, taps, PROMPT_TAPS_MOST, &count, error) ||
        !json_get_integer(place, "text_length", need, 1, TEXT_LENGTH_MOST, &length, error))
        return false;
    if (count == 0) return wrong_field(place, "text_taps", "no element", "at least one", error);
    for (int i = 0; i < count; i++) {
        if (i > 0 && taps[i] <= taps[i - 1])
            return wrong_field(place, "text_taps", "not in rising order", "rising numbers of layers", error);
        settings->text_taps[i] = (int)taps[i];
    }
    settings->text_tap_count = count;
    settings->text_length = (int)length;
    return true;
}

static bool read_steps(struct json_place place, const struct model_index *index,
                       struct model_settings *settings, struct error *error) {
    double sigmas[MODEL_SIGMAS_MOST], guidance = index->distilled ? 1.0 : 4.0;
    int count = 0;
    int64_t steps = 0;
    if (!json_get_numbers(place, "sigmas", JSON_OPTIONAL, 0, 1, sigmas, MODEL_SIGMAS_MOST, &count, error) ||
        !json_get_integer(place, "steps", JSON_OPTIONAL, 1, LIMN_STEPS_MOST, &steps, error) ||
        !json_get_number(place, "guidance", JSON_OPTIONAL, 0, LIMN_GUIDANCE_MOST, &guidance, error))
        return false;
    for (int i = 0; i < count; i++) settings->sigmas[i] = (float)sigmas[i];
    if (!schedule_check(count, settings->sigmas, error)) return error_prefix(error, "%s", place.name);
    if (steps && count && steps != count) {
        char found[40], expected[60];
        snprintf(found, sizeof found, "%lld", (long long)steps);
        snprintf(expected, sizeof expected, "%d, the number of its sigmas", count);
        return wrong_field(place, "steps", found, expected, error);
    }
    settings->sigma_count = count;
    settings->steps = count ? count : steps ? (int)steps : index->distilled ? 4 : 50;
    settings->guidance = (float)guidance;
    return true;
}

// Which template, and what else it says than the prompt. [beside]: what system_message.txt holds, NULL where there is none.
static bool read_template(struct json_place place, const struct model_index *index, const char *beside,
                          struct model_settings *settings, struct error *error) {
    const char *name = NULL, *text = beside;
    if (!json_get_string(place, "text_template", JSON_OPTIONAL, &name, error) ||
        !json_get_string(place, "system_message", JSON_OPTIONAL, &text, error))
        return false;
    settings->text_template = index->pipeline == MODEL_KLEIN ? PROMPT_QWEN3 : PROMPT_MISTRAL;
    settings->text_template_named = name;
    if (name) {
        settings->text_template = strcmp(name, "qwen3") == 0 ? PROMPT_QWEN3 : PROMPT_MISTRAL;
        char found[60];
        snprintf(found, sizeof found, "\"%.40s\"", name);
        if (settings->text_template == PROMPT_MISTRAL && strcmp(name, "mistral") != 0)
            return wrong_field(place, "text_template", found, "\"mistral\" or \"qwen3\"", error);
    }
    if (settings->text_template == PROMPT_QWEN3)
        return !text || wrong_field(place, "system_message", "a text",
                                    "none, as the chat template of qwen3 has no place for it", error);
    if (!text)
        return error_set_field(
            error, ERROR_INPUT, "system_message",
            "%s: field \"system_message\" is missing, expected the text that the model was trained to read "
            "before a prompt, or a file system_message.txt; `limn pull flux.2-dev` fetches that of FLUX.2 "
            "[dev]",
            place.name);
    settings->system_message = strdup(text);
    return settings->system_message || error_set(error, ERROR_MEMORY, "not enough memory for %s", place.name);
}

// What limn.json says of the pipeline beyond model_index.json, which may be missing: then the shape of a klein tells it apart.
static bool read_pipeline(struct json_place place, const struct transformer_shape *shape,
                          struct model_index *index, struct error *error) {
    const char *name = NULL;
    if (!json_get_string(place, "pipeline", JSON_OPTIONAL, &name, error)) return false;
    if (name && !pipeline_of_class(place, "pipeline", name, &index->pipeline, error)) return false;
    bool alike = recognise(&(struct model_index){.pipeline = MODEL_KLEIN}, shape);
    if (!name && !index->given && alike) index->pipeline = MODEL_KLEIN;
    if (index->pipeline != MODEL_KLEIN) {
        index->distilled = false;
        return true;
    }
    if (!index->given && !json_object_get(place.object, "distilled"))
        return error_set_field(
            error, ERROR_INPUT, "distilled",
            "%s: field \"distilled\" is missing, expected true for a distilled [klein] or false "
            "for a base model: without a model_index.json nothing else tells",
            place.name);
    return json_get_bool(place, "distilled", JSON_OPTIONAL, &index->distilled, error);
}

static enum model_guidance guidance_kind(const struct model_index *index,
                                         const struct transformer_shape *shape) {
    if (index->pipeline == MODEL_KLEIN) // whose pipeline gives an embedder of guidance nothing to read
        return index->distilled ? GUIDANCE_NONE : GUIDANCE_CLASSIFIER;
    return shape->guidance ? GUIDANCE_EMBEDDED : GUIDANCE_NONE;
}

static bool read_settings(struct json_place place, const char *fallback_name, const char *system_message,
                          const struct model_index *given, const struct transformer_shape *shape,
                          struct model_settings *settings, struct error *error) {
    struct model_index whole = *given;
    const struct model_index *index = &whole;
    int64_t version = 1;
    if (!read_pipeline(place, shape, &whole, error)) return false;
    const struct architecture *known = recognise(index, shape);
    *settings = (struct model_settings){.guidance_kind = guidance_kind(index, shape),
                                        .default_width = 1024,
                                        .default_height = 1024,
                                        .reference_area = 1024 * 1024,
                                        .trained = true};
    snprintf(settings->name, sizeof settings->name, "%.63s", known ? known->name : fallback_name);
    snprintf(settings->software, sizeof settings->software, "AI generated;flux2");
    snprintf(settings->make, sizeof settings->make, "Black Forest Labs");
    // The area is at least that of a smallest reference at its longest, so that no reference vanishes.
    return json_get_integer(place, "limn", JSON_OPTIONAL, 1, 1, &version, error) &&
           read_text(place, "name", settings->name, sizeof settings->name, error) &&
           read_text(place, "software", settings->software, sizeof settings->software, error) &&
           read_text(place, "make", settings->make, sizeof settings->make, error) &&
           read_sizes(place, settings, error) && read_taps(place, index, known, settings, error) &&
           read_steps(place, index, settings, error) &&
           json_get_integer(place, "reference_area", JSON_OPTIONAL, 1024,
                            (int64_t)LIMN_SIDE_MOST * LIMN_SIDE_MOST, &settings->reference_area, error) &&
           json_get_bool(place, "trained", JSON_OPTIONAL, &settings->trained, error) &&
           read_template(place, index, system_message, settings, error);
}

static bool parse_settings(const char *name, const char *json, size_t size, const char *fallback_name,
                           const char *system_message, const struct model_index *index,
                           const struct transformer_shape *shape, struct model_settings *settings,
                           struct error *error) {
    *settings = (struct model_settings){0};
    json_t *root = json_parse(name, json, size, error);
    if (!root) return false;
    bool good = json_is_object(root) ? read_settings((struct json_place){root, name}, fallback_name,
                                                     system_message, index, shape, settings, error)
                                     : error_set(error, ERROR_INPUT, "%s: expected an object", name);
    json_decref(root);
    if (!good) model_settings_free(settings);
    return good;
}

bool model_settings_parse(const char *name, const char *json, size_t size, const char *fallback_name,
                          const struct model_index *index, const struct transformer_shape *shape,
                          struct model_settings *settings, struct error *error) {
    return parse_settings(name, json, size, fallback_name, NULL, index, shape, settings, error);
}

// "a/b/" and "a/b" are "b"; of a snapshot in a hub's cache, models--OWNER--NAME/snapshots/COMMIT, it is NAME.
static void folder_name(const char *folder, char *name, size_t size) {
    static const char inner[] = "/snapshots/", outer[] = "models--";
    size_t end = strlen(folder);
    while (end > 1 && folder[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && folder[begin - 1] != '/') begin--;
    if (begin >= sizeof inner - 1 && !memcmp(folder + begin - (sizeof inner - 1), inner, sizeof inner - 1)) {
        size_t last = begin - (sizeof inner - 1), first = last;
        while (first > 0 && folder[first - 1] != '/') first--;
        const char *owner = folder + first + sizeof outer - 1, *mark = strstr(owner, "--");
        bool repository = last - first > sizeof outer && !memcmp(folder + first, outer, sizeof outer - 1);
        if (repository && mark && mark + 2 < folder + last) {
            begin = (size_t)(mark + 2 - folder);
            end = last;
        }
    }
    snprintf(name, size, "%.*s", (int)(end - begin), folder + begin);
}

static const char MESSAGE_FILE[] = "system_message.txt";

// system_message.txt as it stands, without the line's end that an editor puts behind the last line. *text: NULL where there is no
// such file.
static bool read_message_file(const char *folder, char **text, struct error *error) {
    char *path = path_join(folder, MESSAGE_FILE);
    size_t size = 0;
    *text = NULL;
    if (!path) return error_set(error, ERROR_MEMORY, "not enough memory to open %s", folder);
    bool good = !file_exists(path) || file_read(path, MESSAGE_BYTES_MOST, text, &size, error);
    if (good && size > 0 && (*text)[size - 1] == '\n') (*text)[--size] = 0;
    if (good && *text && (size == 0 || strlen(*text) != size))
        good = error_set_field(error, ERROR_INPUT, "system_message", "%s: %s, expected a text", path,
                               size == 0 ? "empty" : "a byte of 0 in it");
    free(path);
    return good;
}

bool model_settings_read(const char *folder, const struct model_index *index,
                         const struct transformer_shape *shape, struct model_settings *settings,
                         struct error *error) {
    char name[64], *message = NULL;
    struct model_folder parts;
    *settings = (struct model_settings){0};
    folder_name(folder, name, sizeof name);
    bool good = model_folder_open(folder, &parts, error) &&
                read_message_file(model_folder_with(&parts, MESSAGE_FILE), &message, error) &&
                parse_settings(parts.settings_path, parts.settings, strlen(parts.settings), name, message,
                               index, shape, settings, error);
    free(message);
    model_folder_free(&parts);
    return good;
}

struct prompt_settings model_prompt_settings(const struct model_settings *settings) {
    struct prompt_settings prompt = {.system_message = settings->system_message,
                                     .tap_count = settings->text_tap_count,
                                     .length = settings->text_length,
                                     .template = settings->text_template,
                                     .any_model = settings->text_template_named};
    memcpy(prompt.taps, settings->text_taps, sizeof prompt.taps);
    return prompt;
}

void model_settings_free(struct model_settings *settings) {
    free(settings->system_message);
    *settings = (struct model_settings){0};
}
