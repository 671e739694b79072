// See model_folder.h.
#include "flux/model_folder.h"

#include "base/file.h"
#include "base/json.h"
#include "weights/parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { JSON_BYTES_MOST = 1 << 20 };

// One folder's limn.json, taken apart.
struct own {
    json_t *fields; // without base and loras
    char *base;     // path; NULL: none
    bool says_loras;
    struct model_lora loras[LIMN_LORAS_MOST];
    int lora_count;
};

static bool no_memory(const char *name, struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory to open %s", name);
}

static void free_loras(struct model_lora *loras, int *count) {
    for (int i = 0; i < *count; i++) free(loras[i].file);
    *count = 0;
}

static void free_own(struct own *own) {
    json_decref(own->fields);
    free(own->base);
    free_loras(own->loras, &own->lora_count);
}

// An absolute path as it is, another one from the folder on.
static char *resolve(const char *folder, const char *path) {
    return *path == '/' ? strdup(path) : path_join(folder, path);
}

static bool read_path(struct json_place place, const char *key, enum json_need need, const char *folder,
                      char **path, struct error *error) {
    const char *text = NULL;
    if (!json_get_string(place, key, need, &text, error)) return false;
    if (!text) return true;
    if (!*text || strlen(text) > 4000)
        return error_set_field(error, ERROR_INPUT, key, "%s: field \"%s\": expected a path", place.name, key);
    *path = resolve(folder, text);
    return *path || no_memory(place.name, error);
}

static bool read_lora(const char *name, const json_t *element, int index, const char *folder,
                      struct model_lora *lora, struct error *error) {
    char inner[300];
    double scale = 1;
    snprintf(inner, sizeof inner, "%.250s: loras[%d]", name, index);
    if (!json_is_object(element))
        return error_set_field(error, ERROR_INPUT, "loras",
                               "%s: expected an object {\"file\": ..., \"scale\": ...}", inner);
    struct json_place place = {element, inner};
    if (!json_get_number(place, "scale", JSON_OPTIONAL, -LIMN_LORA_SCALE_MOST, LIMN_LORA_SCALE_MOST, &scale,
                         error) ||
        !read_path(place, "file", JSON_REQUIRED, folder, &lora->file, error))
        return false;
    lora->scale = (float)scale;
    return true;
}

static bool read_loras(struct json_place place, const char *folder, struct own *own, struct error *error) {
    const json_t *array = NULL;
    if (!json_get_array(place, "loras", JSON_OPTIONAL, &array, error)) return false;
    own->says_loras = array != NULL;
    if (json_array_size(array) > LIMN_LORAS_MOST)
        return error_set_field(error, ERROR_INPUT, "loras",
                               "%s: field \"loras\": %zu elements, expected at most %d", place.name,
                               json_array_size(array), LIMN_LORAS_MOST);
    for (size_t i = 0; i < json_array_size(array); i++) {
        if (!read_lora(place.name, json_array_get(array, i), (int)i, folder, &own->loras[i], error))
            return false;
        own->lora_count++;
    }
    return true;
}

static bool parse_own(const char *name, const char *json, size_t size, const char *folder, struct own *own,
                      struct error *error) {
    *own = (struct own){.fields = json_parse(name, json, size, error)};
    if (!own->fields) return false;
    struct json_place place = {own->fields, name};
    bool good = json_is_object(own->fields)
                    ? read_path(place, "base", JSON_OPTIONAL, folder, &own->base, error) &&
                          read_loras(place, folder, own, error)
                    : error_set(error, ERROR_INPUT, "%s: expected an object", name);
    if (good) {
        json_object_del(own->fields, "base");
        json_object_del(own->fields, "loras");
        return true;
    }
    free_own(own);
    *own = (struct own){0};
    return false;
}

// "a/b/" and "a/b" are "b"; 63 bytes at most.
static void name_of(const char *folder, char name[64]) {
    size_t end = strlen(folder);
    while (end > 1 && folder[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && folder[begin - 1] != '/') begin--;
    size_t length = end - begin < 63 ? end - begin : 63;
    memcpy(name, folder + begin, length);
    name[length] = 0;
}

// What the base says and the folder does not.
static bool inherit(json_t *fields, json_t *base) {
    bool own_steps = json_object_get(fields, "steps") || json_object_get(fields, "sigmas");
    json_object_del(base, "name");
    if (own_steps) {
        json_object_del(base, "steps");
        json_object_del(base, "sigmas");
    }
    return json_object_update_missing(fields, base) == 0;
}

static bool read_own(const char *path, struct own *own, struct error *error) {
    char *file = path_join(path, "limn.json"), *json = NULL;
    size_t size = 2;
    if (!file) return no_memory(path, error);
    bool good = (!file_exists(file) || file_read(file, JSON_BYTES_MOST, &json, &size, error)) &&
                parse_own(file, json ? json : "{}", size, path, own, error);
    free(json);
    free(file);
    return good;
}

// Adds a folder to the list unless it stands there. [from]: the limn.json that names it as its base; NULL: none.
static bool enter(struct model_folder *folder, const char *path, const char *from, struct error *error) {
    struct stat wanted, had;
    if (stat(path, &wanted) != 0 || !S_ISDIR(wanted.st_mode)) {
        if (!from) // the caller says what is missing
            return (folder->folders[folder->folder_count++] = strdup(path)) || no_memory(path, error);
        return error_set_field(error, ERROR_NOT_FOUND, "base",
                               "%s/limn.json: field \"base\": there is no folder %s", from, path);
    }
    for (int i = 0; i < folder->folder_count; i++)
        if (stat(folder->folders[i], &had) == 0 && had.st_dev == wanted.st_dev && had.st_ino == wanted.st_ino)
            return error_set_field(error, ERROR_INPUT, "base",
                                   "%s/limn.json: field \"base\": %s stands on itself", from, path);
    if (folder->folder_count == MODEL_FOLDERS_MOST)
        return error_set_field(error, ERROR_INPUT, "base",
                               "%s/limn.json: field \"base\": more than %d folders that stand on each other",
                               from, MODEL_FOLDERS_MOST);
    return (folder->folders[folder->folder_count++] = strdup(path)) || no_memory(path, error);
}

// Joins what one folder says to what those before it said; [fields] are theirs.
static bool join(struct model_folder *folder, struct own *own, json_t **fields, bool *has_loras,
                 struct error *error) {
    if (own->says_loras && !*has_loras) {
        memcpy(folder->loras, own->loras, sizeof folder->loras);
        folder->lora_count = own->lora_count;
        own->lora_count = 0;
        *has_loras = true;
    }
    if (*fields) return inherit(*fields, own->fields) || no_memory(folder->folders[0], error);
    *fields = json_incref(own->fields);
    if (!own->base || json_object_get(*fields, "name")) return true;
    char name[64];
    name_of(folder->folders[0], name);
    json_t *text = json_string(name);
    if (text) json_object_set_new(*fields, "name", text); // a name that is no UTF-8 is none
    return true;
}

static bool read_all(struct model_folder *folder, const char *path, json_t **fields, struct error *error) {
    bool has_loras = false;
    char *next = strdup(path);
    if (!next) return no_memory(path, error);
    while (next) {
        struct own own = {0};
        const int count = folder->folder_count;
        bool good = enter(folder, next, count ? folder->folders[count - 1] : NULL, error);
        free(next);
        next = NULL;
        good = good && read_own(folder->folders[count], &own, error) &&
               join(folder, &own, fields, &has_loras, error);
        if (good) {
            next = own.base;
            own.base = NULL;
        }
        free_own(&own);
        if (!good) return false;
    }
    return true;
}

bool model_folder_open(const char *path, struct model_folder *folder, struct error *error) {
    json_t *fields = NULL;
    *folder = (struct model_folder){.settings_path = path_join(path, "limn.json")};
    bool good = (folder->settings_path || no_memory(path, error)) && read_all(folder, path, &fields, error);
    if (good) {
        folder->settings = json_dumps(fields, JSON_COMPACT);
        good = folder->settings || no_memory(path, error);
    }
    json_decref(fields);
    return good;
}

void model_folder_free(struct model_folder *folder) {
    for (int i = 0; i < folder->folder_count; i++) free(folder->folders[i]);
    free_loras(folder->loras, &folder->lora_count);
    free(folder->settings_path);
    free(folder->settings);
    *folder = (struct model_folder){0};
}

const char *model_folder_with(const struct model_folder *folder, const char *name) {
    for (int i = 0; i < folder->folder_count; i++) {
        char *path = path_join(folder->folders[i], name);
        bool there = path && (file_exists(path) || folder_exists(path));
        free(path);
        if (there) return folder->folders[i];
    }
    return folder->folders[0];
}

const char *model_folder_part(const struct model_folder *folder, enum model_part part) {
    for (int i = 0; i < folder->folder_count - 1; i++) {
        struct error error = {0};
        char *path = part_find(folder->folders[i], part, &error);
        free(path);
        if (path || error.kind != ERROR_NOT_FOUND) return folder->folders[i];
    }
    return folder->folders[folder->folder_count - 1];
}

bool model_folder_parse(const char *name, const char *json, size_t size, const char *folder, char **base,
                        struct model_lora *loras, int *lora_count, char **settings, struct error *error) {
    struct own own;
    if (!parse_own(name, json, size, folder, &own, error)) return false;
    *settings = json_dumps(own.fields, JSON_COMPACT);
    if (!*settings) {
        free_own(&own);
        return no_memory(name, error);
    }
    *base = own.base;
    memcpy(loras, own.loras, sizeof own.loras);
    *lora_count = own.lora_count;
    own.base = NULL;
    own.lora_count = 0;
    free_own(&own);
    return true;
}
