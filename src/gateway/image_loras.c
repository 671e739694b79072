// See image_loras.h.
#include "gateway/image_loras.h"

#include "base/near.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define EXPECTED "expected a LoRA's name, {\"name\": ..., \"scale\": ...}, or an array of at most 4 of them"

enum { NAMES_MOST = 200 };

static bool wrong(struct api_error *error, const char *what) {
    return api_error_set(error, API_INVALID_REQUEST, "lora", "lora: %s", what);
}

static bool take_name(struct image_request *request, const char *name, struct api_error *error) {
    struct image_lora *lora = &request->loras[request->lora_count];
    if (!*name || strlen(name) > 100) return wrong(error, "expected a name of 1 to 100 bytes");
    for (int i = 0; i < request->lora_count; i++)
        if (!strcmp(request->loras[i].name, name))
            return api_error_set(error, API_INVALID_REQUEST, "lora", "lora: \"%.60s\" given twice", name);
    lora->name = arena_strdup(&request->arena, name);
    return lora->name || api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
}

static bool take_object(struct image_request *request, const json_t *object, struct api_error *error) {
    struct image_lora *lora = &request->loras[request->lora_count];
    const json_t *name = json_object_get(object, "name");
    const char *key;
    json_t *value;
    if (json_object_get(object, "path") || json_object_get(object, "url"))
        return wrong(error,
                     "files cannot be sent or named; expected the name of a LoRA that this server has");
    if (!json_is_string(name)) return wrong(error, EXPECTED);
    json_object_foreach((json_t *)object, key, value) {
        if (!strcmp(key, "name")) continue;
        if (strcmp(key, "scale") != 0)
            return api_error_set(error, API_INVALID_REQUEST, "lora",
                                 "lora: there is no member \"%.40s\", expected name and scale", key);
        if (json_is_null(value)) continue;
        double scale = json_is_number(value) ? json_number_value(value) : NAN;
        if (!(fabs(scale) <= LORA_SCALE_MOST))
            return api_error_set(error, API_INVALID_REQUEST, "lora",
                                 "lora: scale: expected a number from %g to %g", -LORA_SCALE_MOST,
                                 LORA_SCALE_MOST);
        lora->scale = scale;
        lora->has_scale = true;
    }
    return take_name(request, json_string_value(name), error);
}

static bool take_one(struct image_request *request, const json_t *value, struct api_error *error) {
    if (request->lora_count == LORAS_MOST) return wrong(error, EXPECTED);
    request->loras[request->lora_count] = (struct image_lora){0};
    bool good = json_is_string(value)   ? take_name(request, json_string_value(value), error)
                : json_is_object(value) ? take_object(request, value, error)
                                        : wrong(error, EXPECTED);
    if (good) request->lora_count++;
    return good;
}

bool image_loras_take(struct image_request *request, const json_t *value, bool from_form,
                      struct api_error *error) {
    const char *text = from_form ? json_string_value(value) : NULL;
    if (text && (*text == '{' || *text == '[')) {
        struct error cause = {0};
        json_t *parsed = json_parse("lora", text, strlen(text), &cause);
        if (!parsed) return wrong(error, EXPECTED);
        bool good = image_loras_take(request, parsed, false, error);
        json_decref(parsed);
        return good;
    }
    if (!json_is_array(value)) return take_one(request, value, error);
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!take_one(request, json_array_get(value, i), error)) return false;
    return true;
}

// ---------------------------------------------------------------------------------------------------------- the files

static bool fits(const struct config_lora *lora, const char *id) {
    for (int i = 0; i < lora->models.count; i++)
        if (glob_match(lora->models.items[i], id)) return true;
    return lora->models.count == 0;
}

static bool refuse(const struct config *config, const char *name, const char *id, struct api_error *error) {
    const char *names[NAMES_MOST] = {0}, *meant;
    char list[240] = "";
    int count = 0;
    for (int i = 0; i < config->loras.count && count < NAMES_MOST; i++) {
        if (!fits(&config->loras.items[i], id)) continue;
        size_t used = strlen(list);
        names[count++] = config->loras.items[i].name;
        snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", names[count - 1]);
    }
    meant = near_match(name, names, count);
    return api_error_set(error, API_INVALID_REQUEST, "lora",
                         "lora: there is no \"%.60s\" for model '%s'%s%s%s; this server has %s%s", name, id,
                         meant ? " (did you mean \"" : "", meant ? meant : "", meant ? "\"?)" : "",
                         count ? "for it: " : "none for it", list);
}

bool image_loras_find(const struct image_request *request, const struct config *config, const char *id,
                      struct queue_lora files[LORAS_MOST], struct api_error *error) {
    for (int i = 0; i < request->lora_count; i++) {
        const struct image_lora *wanted = &request->loras[i];
        const struct config_lora *found = NULL;
        for (int k = 0; k < config->loras.count && !found; k++)
            if (!strcmp(config->loras.items[k].name, wanted->name) && fits(&config->loras.items[k], id))
                found = &config->loras.items[k];
        if (!found) return refuse(config, wanted->name, id, error);
        files[i] =
            (struct queue_lora){found->file, (float)(wanted->has_scale ? wanted->scale : found->scale)};
    }
    return true;
}
