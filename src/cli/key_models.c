// See key_models.h.
#include "cli/key_models.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct list {
    char text[KEY_MODELS_MOST];
};

static bool add(struct list *list, const char *name, struct error *error) {
    size_t used = strlen(list->text), length = strlen(name);
    for (const char *at = list->text; *at; at += strcspn(at, ","), at += *at == ',')
        if (strcspn(at, ",") == length && !strncmp(at, name, length)) return true;
    if (used + length + 2 > sizeof list->text)
        return error_set_field(error, ERROR_INPUT, "models", "--models: more than %zu letters of names",
                               sizeof list->text - 1);
    snprintf(list->text + used, sizeof list->text - used, "%s%s", used ? "," : "", name);
    return true;
}

// A folder that is served without a card has a name that only its worker knows for sure; mostly it is the folder's.
static bool is_served_folder(const struct config *config, const char *name) {
    const char *folder = *config->local.model ? config->local.model : getenv("LIMN_MODEL");
    if (!folder) return false;
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/') length--;
    size_t from = length;
    while (from > 0 && folder[from - 1] != '/') from--;
    return strlen(name) == length - from && !strncasecmp(folder + from, name, length - from);
}

static bool add_glob(const struct catalog *catalog, const struct config *config, const char *glob,
                     struct list *list, struct error *error) {
    bool fits = false;
    for (int i = 0; i < catalog_count(catalog); i++)
        fits = fits || fnmatch(glob, catalog_card(catalog, i)->id, 0) == 0;
    if (fits && !add(list, glob, error)) return false;
    // An alias may be a glob itself: "gpt-image-*" fits "gpt-image-*".
    for (int i = 0; i < config->aliases.count; i++) {
        const struct config_pair *alias = &config->aliases.items[i];
        if (fnmatch(glob, alias->name, 0) != 0) continue;
        const struct model_card *card = catalog_look_up(catalog, alias->value, error);
        if (!card || !add(list, card->id, error)) return false;
        fits = true;
    }
    for (int i = 0; i < catalog_count(catalog); i++) {
        const struct model_card *card = catalog_card(catalog, i);
        for (int k = 0; k < card->aliases.count; k++) {
            if (fnmatch(glob, card->aliases.items[k], 0) != 0) continue;
            if (!add(list, card->id, error)) return false;
            fits = true;
        }
    }
    return fits ||
           error_set_field(error, ERROR_INPUT, "models", "--models: no model's name fits \"%s\"", glob);
}

static bool add_name(const struct catalog *catalog, const struct config *config, const char *name,
                     struct list *list, struct error *error) {
    struct error cause = {0};
    if (!strcmp(name, "*")) return add(list, name, error);
    if (strpbrk(name, "*?[")) return add_glob(catalog, config, name, list, error);
    const struct model_card *card = catalog_look_up(catalog, name, &cause);
    if (card) return add(list, card->id, error);
    if (is_served_folder(config, name)) return add(list, name, error);
    return error_set_field(error, ERROR_INPUT, "models", "--models: %s%s", cause.message,
                           *config->path ? "" : " (no limn.yaml was read; --config names the server's)");
}

bool key_models_resolve(const struct catalog *catalog, const struct config *config,
                        char models[KEY_MODELS_MOST], struct error *error) {
    struct list list = {""};
    if (!*models) return true;
    if (models[strlen(models) - 1] == ',')
        return error_set_field(error, ERROR_INPUT, "models", "--models: \"%s\": an empty name", models);
    for (const char *at = models; *at; at += *at == ',') {
        char name[KEY_MODELS_MOST];
        size_t length = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        if (!length)
            return error_set_field(error, ERROR_INPUT, "models", "--models: \"%s\": an empty name", models);
        if (!add_name(catalog, config, name, &list, error)) return false;
        at += length;
    }
    memcpy(models, list.text, sizeof list.text);
    return true;
}
