// Looks for the parts of a model. Relies on layout.h, gguf.h, gguf_split.h, base.
#include "weights/parts.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "weights/gguf.h"
#include "weights/gguf_split.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_MOST = 1 << 20, FILES_MOST = 1000, FORMS_MOST = 16, MEMORY_SHARE = 8 };

static const char index_suffix[] = ".safetensors.index.json";

const char *part_key(enum model_part part) {
    static const char *const keys[MODEL_PARTS] = {"transformer", "text_encoder", "vae"};
    return keys[part];
}

static char *no_memory(const char *folder, struct error *error) {
    error_set(error, ERROR_MEMORY, "%s: not enough memory to look for its parts", folder);
    return NULL;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), wanted = strlen(end);
    return length > wanted && strcmp(text + length - wanted, end) == 0;
}

// --------------------------------------------------------------------------------------------------------- limn.json

// A path that stays inside the folder: no step up, not absolute.
static bool stays_inside(const char *path) {
    if (!*path || *path == '/' || strchr(path, '\\')) return false;
    for (const char *at = path; *at;) {
        size_t step = strcspn(at, "/");
        if (step == 2 && strncmp(at, "..", 2) == 0) return false;
        at += step + (at[step] == '/');
    }
    return true;
}

// One path that limn.json gives for [key], of something that is there.
static bool inside_path(const char *folder, const char *file, const char *key, const json_t *value,
                        char **path, struct error *error) {
    const char *name = json_string_value(value);
    if (!name || !stays_inside(name))
        return error_set_field(error, ERROR_INPUT, key,
                               "%s: field \"%s\": %s%.80s%s, expected a path inside the folder", file, key,
                               name ? "\"" : "", name ? name : "no text", name ? "\"" : "");
    if (!(*path = path_join(folder, name))) return no_memory(folder, error) != NULL;
    if (file_exists(*path) || folder_exists(*path)) return true;
    error_set_field(error, ERROR_INPUT, key, "%s: field \"%s\": there is no %s", file, key, *path);
    free(*path);
    *path = NULL;
    return false;
}

// Bytes of a file of weights, or of all that lie in a folder.
static int64_t weight_bytes(const char *path) {
    struct checkpoint *checkpoint = checkpoint_open(path, NULL);
    const int64_t bytes = checkpoint ? checkpoint_summary(checkpoint).bytes : INT64_MAX;
    checkpoint_close(checkpoint);
    return bytes;
}

int64_t part_bytes_most(int64_t memory) {
    return memory - memory / MEMORY_SHARE;
}

int part_choose(const int64_t *bytes, int count, int64_t memory) {
    const int64_t most = part_bytes_most(memory);
    int smallest = 0;
    for (int i = 0; i < count; i++) {
        if (bytes[i] <= most) return i;
        if (bytes[i] < bytes[smallest]) smallest = i;
    }
    return smallest;
}

// The one of several forms that part_choose takes. All must be there.
static bool choose_path(const char *folder, const char *file, const char *key, const json_t *forms,
                        char **path, struct error *error) {
    int64_t bytes[FORMS_MOST];
    char *candidates[FORMS_MOST] = {0};
    const size_t count = json_array_size(forms);
    bool good = true;
    if (count == 0 || count > FORMS_MOST)
        return error_set_field(error, ERROR_INPUT, key, "%s: field \"%s\": %zu paths, expected 1 to %d", file,
                               key, count, FORMS_MOST);
    for (size_t i = 0; good && i < count; i++) {
        good = inside_path(folder, file, key, json_array_get(forms, i), &candidates[i], error);
        if (good) bytes[i] = weight_bytes(candidates[i]);
    }
    const int chosen = good ? part_choose(bytes, (int)count, memory_available()) : -1;
    for (int i = 0; i < (int)count; i++) {
        if (i == chosen)
            *path = candidates[i];
        else
            free(candidates[i]);
    }
    return good;
}

// What limn.json says of [key]: false with an error; *path NULL where it says nothing.
static bool named_path(const char *folder, const char *key, char **path, struct error *error) {
    char *file = path_join(folder, "limn.json");
    *path = NULL;
    if (!file) {
        no_memory(folder, error);
        return false;
    }
    bool done = true;
    json_t *json = file_exists(file) ? json_read_file(file, JSON_MOST, error) : NULL;
    if (!json) {
        done = !file_exists(file);
    } else {
        const json_t *value = json_is_object(json) ? json_object_get(json, key) : NULL;
        if (!json_is_object(json))
            done = error_set(error, ERROR_INPUT, "%s: expected an object", file);
        else if (json_is_array(value))
            done = choose_path(folder, file, key, value, path, error);
        else if (value && !json_is_null(value))
            done = inside_path(folder, file, key, value, path, error);
    }
    if (!done) {
        free(*path);
        *path = NULL;
    }
    json_decref(json);
    free(file);
    return done;
}

// ---------------------------------------------------------------------------------------------------------- scanning

struct scan {
    const char *folder;
    enum model_part part;
    char *found, *second; // paths
    struct error failure; // the first file that could not be read
    char stranger[320];   // the first file that is something else: "NAME holds WHAT"
    int files;            // looked at
    struct error *error;
};

static bool is_weights(const char *name) {
    return ends_with(name, ".safetensors") || ends_with(name, ".gguf") || ends_with(name, index_suffix);
}

// "x-00001-of-00003.safetensors": one of several, which only their index puts together.
static bool is_shard(const char *name) {
    int index, count, end = 0;
    const char *dash = ends_with(name, ".safetensors") ? strstr(name, "-of-") : NULL;
    if (!dash || dash - name < 6) return false;
    return sscanf(dash - 6, "-%5d-of-%5d%n", &index, &count, &end) == 2 && end == 15;
}

// The names in a folder, sorted; only those that [wanted] takes. -1 when it cannot be listed.
static int list(const char *folder, int (*wanted)(const struct dirent *), struct dirent ***names) {
    return scandir(folder, names, wanted, alphasort);
}

static int visible(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

static int weights(const struct dirent *entry) {
    return visible(entry) && is_weights(entry->d_name);
}

static void free_names(struct dirent **names, int count) {
    for (int i = 0; i < count; i++) free(names[i]);
    if (count >= 0) free(names);
}

// Takes down what a candidate holds. False when memory is gone.
static bool look_at(struct scan *scan, const char *path) {
    struct error failure = {0};
    struct layout layout;
    if (++scan->files > FILES_MOST) return true;
    struct checkpoint *checkpoint = checkpoint_open(path, &failure);
    if (!checkpoint) {
        if (!scan->failure.kind) scan->failure = failure;
        return true;
    }
    bool memory = true;
    if (layout_find(checkpoint, scan->part, &layout)) {
        char **place = !scan->found ? &scan->found : !scan->second ? &scan->second : NULL;
        if (place) memory = (*place = strdup(path)) != NULL;
    } else {
        const char *stranger = layout_stranger(checkpoint);
        if (stranger && !*scan->stranger)
            snprintf(scan->stranger, sizeof scan->stranger, "%.200s holds %s", path, stranger);
    }
    checkpoint_close(checkpoint);
    return memory;
}

// The weight files of a folder, each by itself; shards by their index.
static bool look_at_files(struct scan *scan, const char *folder) {
    struct dirent **names;
    int count = list(folder, weights, &names);
    bool done = true, index = false;
    for (int i = 0; i < count; i++) index = index || ends_with(names[i]->d_name, index_suffix);
    for (int i = 0; done && i < count; i++) {
        char *path = path_join(folder, names[i]->d_name);
        done = path != NULL;
        if (done && is_shard(names[i]->d_name)) {
            if (!index && !scan->failure.kind)
                error_set(&scan->failure, ERROR_NOT_FOUND,
                          "%s: one of several shards, but there is no %s beside it", path,
                          "*.safetensors.index.json");
        } else if (done && file_exists(path) && !gguf_split_follows(path)) {
            done = look_at(scan, path);
        }
        free(path);
    }
    free_names(names, count);
    return done;
}

// A folder in the model's folder: a unit where checkpoint_open knows which file or set is meant, else file by file.
static bool look_at_folder(struct scan *scan, const char *folder) {
    struct dirent **names;
    int count = list(folder, weights, &names);
    bool unit = count == 1 && !is_shard(names[0]->d_name);
    for (int i = 0; i < count; i++) {
        const char *name = names[i]->d_name;
        unit = unit || !strncmp(name, "model.safetensors", 17) ||
               !strncmp(name, "diffusion_pytorch_model.safetensors", 35);
    }
    free_names(names, count);
    if (count <= 0) return true;
    return unit ? look_at(scan, folder) : look_at_files(scan, folder);
}

static bool scan_all(struct scan *scan) {
    struct dirent **names;
    if (!look_at_files(scan, scan->folder)) return false;
    int count = list(scan->folder, visible, &names);
    bool done = true;
    for (int i = 0; done && i < count; i++) {
        char *path = path_join(scan->folder, names[i]->d_name);
        done = path != NULL;
        if (done && folder_exists(path)) done = look_at_folder(scan, path);
        free(path);
    }
    free_names(names, count);
    return done;
}

static char *missing(struct scan *scan) {
    const char *key = part_key(scan->part);
    if (scan->failure.kind) {
        if (scan->error) *scan->error = (struct error){0};
        bool absent =
            scan->failure.kind == ERROR_NOT_FOUND; // a shard, say: then the part is damaged, not absent
        error_set(scan->error, absent ? ERROR_INPUT : scan->failure.kind, "%s", scan->failure.message);
        return NULL;
    }
    error_set(scan->error, ERROR_NOT_FOUND,
              "%s: there is no %s, expected %s/ (with model_index.json, as diffusers has it), a .safetensors "
              "or .gguf "
              "file of FLUX.2's %s, or its path as \"%s\" in limn.json%s%s",
              scan->folder, model_part_name(scan->part), key, model_part_name(scan->part), key,
              *scan->stranger ? "; " : "", scan->stranger);
    return NULL;
}

static char *scan_for(const char *folder, enum model_part part, struct error *error) {
    struct scan scan = {.folder = folder, .part = part, .error = error};
    bool done = scan_all(&scan);
    if (!done) {
        no_memory(folder, error);
    } else if (!scan.found) {
        missing(&scan);
        done = false;
    } else if (scan.second) {
        done = error_set_field(error, ERROR_INPUT, part_key(part),
                               "%s and %s both hold a %s, expected one, or \"%s\" in limn.json to choose",
                               scan.found, scan.second, model_part_name(part), part_key(part));
    }
    free(scan.second);
    if (done) return scan.found;
    free(scan.found);
    return NULL;
}

// Whether a part's own folder has anything of it: an empty one, left behind by a download say, is none.
static bool is_filled(const char *folder) {
    struct dirent **names;
    int count = list(folder, weights, &names);
    free_names(names, count);
    char *config = count <= 0 ? part_config(folder) : NULL;
    bool filled = count > 0 || config;
    free(config);
    return filled;
}

char *part_find(const char *folder, enum model_part part, struct error *error) {
    char *path;
    if (!folder_exists(folder)) {
        error_set(error, ERROR_NOT_FOUND, "%s: there is no such folder, expected a model folder", folder);
        return NULL;
    }
    if (!named_path(folder, part_key(part), &path, error) || path) return path;
    path = path_join(folder, part_key(part));
    if (!path) return no_memory(folder, error);
    if (is_filled(path)) return path;
    free(path);
    return scan_for(folder, part, error);
}

// --------------------------------------------------------------------------------------------------------- tokenizer

// [folder]/[name] if there is such a file.
static char *file_in(const char *folder, const char *name) {
    char *path = path_join(folder, name);
    if (path && file_exists(path)) return path;
    free(path);
    return NULL;
}

char *part_config(const char *path) {
    return folder_exists(path) ? file_in(path, "config.json") : NULL;
}

static char *json_in(const char *folder) {
    char *path = file_in(folder, "tokenizer.json");
    return path ? path : file_in(folder, "tekken.json");
}

// Whether weights bring their tokenizer along.
static bool embeds_tokenizer(const char *path) {
    struct checkpoint *checkpoint = checkpoint_open(path, NULL);
    const struct gguf *gguf = checkpoint ? checkpoint_gguf(checkpoint) : NULL;
    bool found = checkpoint && (gguf ? gguf_find(gguf, "tokenizer.ggml.tokens") != NULL
                                     : checkpoint_find(checkpoint, "tekken_model") != NULL);
    checkpoint_close(checkpoint);
    return found;
}

char *part_find_tokenizer(const char *folder, struct error *error) {
    char *path;
    if (!named_path(folder, "tokenizer", &path, error) || path) return path;
    path = path_join(folder, "tokenizer");
    if (!path) return no_memory(folder, error);
    if (folder_exists(path)) return path;
    free(path);
    if ((path = json_in(folder))) return path;
    char *encoder = part_find(folder, PART_TEXT_ENCODER, error);
    if (!encoder) return NULL;
    if (folder_exists(encoder)) path = json_in(encoder);
    if (!path && embeds_tokenizer(encoder)) return encoder;
    if (!path)
        error_set(error, ERROR_NOT_FOUND,
                  "%s: there is no tokenizer, expected tokenizer/ (as diffusers has it), tokenizer.json, "
                  "tekken.json, a text "
                  "encoder file that holds one, or its path as \"tokenizer\" in limn.json",
                  folder);
    free(encoder);
    return path;
}
