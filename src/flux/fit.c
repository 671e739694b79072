// See fit.h.
#include "flux/fit.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "flux/model_folder.h"
#include "weights/parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_BYTES_MOST = 1 << 20, FORMS_MOST = 16, SPARE = 25 };

static bool no_memory(const char *path, struct error *error) {
    return error_set(error, ERROR_MEMORY, "%s: not enough memory to look for its forms", path);
}

static double bits_of(enum dtype type) {
    const struct dtype_info *info = dtype_info(type);
    return 8.0 * info->block_bytes / info->block_values;
}

// Embedders, modulations and norms stay at 16 bits: 2 to 4 % of the weights, so a 25th more.
static int64_t estimate(enum dtype now, int64_t now_bytes, enum dtype type) {
    const double bytes = (double)now_bytes * bits_of(type) / bits_of(now);
    return (int64_t)(type == DTYPE_BF16 ? bytes : bytes + bytes / SPARE);
}

struct part_fit part_fit(enum model_part part, enum dtype now, int64_t now_bytes, int64_t memory) {
    static const enum dtype types[] = {DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q6_K, DTYPE_Q5_K, DTYPE_Q4_K};
    const int64_t most = part_bytes_most(memory);
    struct part_fit fit = {part, now, now_bytes, now, now_bytes, true, now_bytes <= most};
    for (size_t i = 0; i < sizeof types / sizeof *types && !fit.stays; i++) {
        const int64_t bytes = estimate(now, now_bytes, types[i]);
        if (bits_of(types[i]) >= bits_of(now) || bytes >= fit.bytes) continue;
        fit.type = types[i];
        fit.bytes = bytes;
        fit.there = false;
        fit.stays = bytes <= most;
    }
    return fit;
}

// ------------------------------------------------------------------------------------------------------ what is there

static json_t *settings_of(const char *folder, struct error *error) {
    char *path = path_join(folder, "limn.json");
    json_t *json = !path               ? NULL
                   : file_exists(path) ? json_read_file(path, JSON_BYTES_MOST, error)
                                       : json_object();
    if (json && !json_is_object(json)) {
        error_set(error, ERROR_INPUT, "%s: expected an object", path);
        json_decref(json);
        json = NULL;
    }
    if (!json && error->kind == ERROR_NONE) no_memory(folder, error);
    free(path);
    return json;
}

// The paths of the part's forms, finest first, as limn.json of the folder names them, or the one that is found. In fresh memory.
static bool forms_of(const char *folder, enum model_part part, char *paths[FORMS_MOST], int *count,
                     struct error *error) {
    struct model_folder stack;
    *count = 0;
    if (!model_folder_open(folder, &stack, error)) {
        model_folder_free(&stack);
        return false;
    }
    const char *owner = model_folder_part(&stack, part);
    json_t *json = settings_of(owner, error);
    const json_t *named = json_object_get(json, part_key(part));
    bool good = json != NULL;
    for (size_t i = 0; good && i < json_array_size(named) && *count < FORMS_MOST; i++) {
        const char *name = json_string_value(json_array_get(named, i));
        paths[*count] = name ? path_join(owner, name) : NULL;
        good = paths[*count] != NULL ||
               error_set(error, ERROR_INPUT, "%s/limn.json: field \"%s\": expected paths", owner,
                         part_key(part));
        *count += good;
    }
    if (good && !*count) {
        paths[0] = part_find(owner, part, error);
        good = paths[0] != NULL;
        *count = good;
    }
    json_decref(json);
    model_folder_free(&stack);
    return good;
}

static void free_forms(char **paths, int count) {
    for (int i = 0; i < count; i++) free(paths[i]);
}

static bool summary_of(const char *path, struct checkpoint_summary *summary, struct error *error) {
    struct checkpoint *checkpoint = checkpoint_open(path, error);
    if (checkpoint) *summary = checkpoint_summary(checkpoint);
    checkpoint_close(checkpoint);
    return checkpoint != NULL;
}

static bool fit_one(const char *folder, enum model_part part, int64_t memory, struct part_fit *fit,
                    struct error *error) {
    char *paths[FORMS_MOST];
    int count;
    bool good = forms_of(folder, part, paths, &count, error);
    for (int i = 0; good && i < count; i++) {
        struct checkpoint_summary summary;
        good = summary_of(paths[i], &summary, error);
        if (good && i == 0) *fit = part_fit(part, summary.type, summary.bytes, memory);
        // A form that is there already and is what would be made, or no smaller.
        const bool stays = good && summary.bytes <= part_bytes_most(memory);
        if (!good || i == 0 || fit->there) continue;
        if (summary.type == fit->type || (stays && summary.bytes >= fit->bytes)) {
            fit->type = summary.type;
            fit->bytes = summary.bytes;
            fit->there = true;
            fit->stays = stays;
        }
    }
    free_forms(paths, count);
    return good;
}

bool model_fit(const char *folder, int64_t memory, struct part_fit fits[FIT_PARTS], struct error *error) {
    static const enum model_part parts[FIT_PARTS] = {PART_TRANSFORMER, PART_TEXT_ENCODER};
    if (memory <= 0) memory = memory_available();
    for (int i = 0; i < FIT_PARTS; i++)
        if (!fit_one(folder, parts[i], memory, &fits[i], error)) return false;
    return true;
}

// ------------------------------------------------------------------------------------------------------------- making

static bool link_to(const char *from, const char *folder, const char *name, struct error *error) {
    char *to = path_join(folder, name), *real = realpath(from, NULL);
    bool good = real != NULL || error_set(error, ERROR_IO, "%s: %s", from, strerror(errno));
    good = good && (to || no_memory(folder, error)) && file_link(real, to, error);
    free(real);
    free(to);
    return good;
}

// The names in [target] of the forms that are there, linked where they lie elsewhere.
static json_t *names_of(const char *folder, const char *target, enum model_part part, struct error *error) {
    char *paths[FORMS_MOST], *home = realpath(target, NULL);
    int count = 0;
    json_t *names = json_array();
    bool good = (home && names) || no_memory(target, error);
    good = good && forms_of(folder, part, paths, &count, error);
    for (int i = 0; good && i < count; i++) {
        const size_t length = strlen(folder);
        const bool inside = !strncmp(paths[i], folder, length) && paths[i][length] == '/';
        char *real = realpath(folder, NULL);
        const bool here = real && inside && !strcmp(real, home);
        free(real);
        if (here) {
            good = json_array_append_new(names, json_string(paths[i] + length + 1)) == 0;
            continue;
        }
        // A folder has the part's name, a file its own ending.
        const char *dot = folder_exists(paths[i]) ? NULL : strrchr(paths[i], '.');
        char name[80];
        char number[16] = "";
        if (i) snprintf(number, sizeof number, "-%d", i);
        snprintf(name, sizeof name, "%s%s%.20s", part_key(part), number, dot ? dot : "");
        good = link_to(paths[i], target, name, error) && json_array_append_new(names, json_string(name)) == 0;
    }
    free_forms(paths, count);
    free(home);
    if (good) return names;
    json_decref(names);
    return NULL;
}

// Where a text encoder is listed the tokenizer is looked for beside it.
static bool link_tokenizer(const char *folder, const char *target, struct error *error) {
    struct model_folder stack;
    struct error none = {0};
    char *there = part_find_tokenizer(target, &none), *from = NULL;
    bool good = model_folder_open(folder, &stack, error);
    if (good && !there) {
        from = part_find_tokenizer(model_folder_part(&stack, PART_TEXT_ENCODER), error);
        good = from && link_to(from, target, folder_exists(from) ? "tokenizer" : "tokenizer.json", error);
    }
    model_folder_free(&stack);
    free(there);
    free(from);
    return good;
}

// limn.json of the target with [names] as the forms of a part.
static bool write_forms(const char *target, const char *base, enum model_part part, json_t *names,
                        struct error *error) {
    json_t *json = settings_of(target, error);
    char *path = path_join(target, "limn.json"), *text = NULL;
    bool good = json && path && json_object_set(json, part_key(part), names) == 0;
    if (good && !json_object_get(json, "limn"))
        good = json_object_set_new(json, "limn", json_integer(1)) == 0;
    if (good && base) {
        char *real = realpath(base, NULL);
        good = real && json_object_set_new(json, "base", json_string(real)) == 0;
        free(real);
    }
    text = good ? json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    good = text && file_write(path, text, strlen(text), error);
    if (!good && error->kind == ERROR_NONE) no_memory(target, error);
    free(text);
    free(path);
    json_decref(json);
    return good;
}

bool fit_list(json_t *names, const char *target, const char *name, struct error *error) {
    struct checkpoint_summary added, summary;
    char *file = path_join(target, name);
    const bool there = file && summary_of(file, &added, error);
    free(file);
    if (!there) return false;
    size_t at = json_array_size(names);
    for (size_t i = json_array_size(names); i-- > 0;) {
        const char *other = json_string_value(json_array_get(names, i));
        if (!strcmp(other, name)) return true;
        char *path = path_join(target, other);
        const bool good = path && summary_of(path, &summary, error);
        free(path);
        if (!good) return false;
        if (summary.bytes < added.bytes) at = i;
    }
    return json_array_insert_new(names, at, json_string(name)) == 0 || no_memory(target, error);
}

static bool make_one(const char *folder, const char *target, const struct part_fit *fit,
                     const struct convert_model *convert, struct error *error) {
    char name[80];
    snprintf(name, sizeof name, "%s-%s.gguf", part_key(fit->part), dtype_info(fit->type)->name);
    char *file = path_join(target, name), *real = realpath(folder, NULL), *home = realpath(target, NULL);
    struct convert_model job = {.source = folder,
                                .target = file,
                                .part = fit->part,
                                .type = fit->type,
                                .without_loras = true,
                                .threads = convert->threads,
                                .progress = convert->progress,
                                .context = convert->context};
    bool good = (file && real && home) || no_memory(target, error);
    json_t *names = good ? names_of(folder, target, fit->part, error) : NULL;
    good = names && (fit->part != PART_TEXT_ENCODER || link_tokenizer(folder, target, error)) &&
           (file_exists(file) || convert_model(&job, error)) && fit_list(names, target, name, error) &&
           write_forms(target, strcmp(real, home) ? folder : NULL, fit->part, names, error);
    json_decref(names);
    free(file);
    free(real);
    free(home);
    return good;
}

bool model_fit_make(const char *folder, const char *target, const struct part_fit fits[FIT_PARTS],
                    const struct convert_model *convert, struct error *error) {
    if (!folder_make(target, error)) return false;
    for (int i = 0; i < FIT_PARTS; i++)
        if (!fits[i].there && !make_one(folder, target, &fits[i], convert, error)) return false;
    return true;
}
