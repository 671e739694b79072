// See model_path.h.
#include "cli/model_path.h"

#include "base/file.h"
#include "weights/hub_cache.h"

#include <stdlib.h>
#include <string.h>

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for a path");
}

// [text]: the name as it was given.
static char *path_of_repository(const char *text, const char *name, const char *revision,
                                struct error *error) {
    char *cache = hub_cache_folder(error);
    char *folder = cache ? hub_cache_find(cache, name, revision, error) : NULL;
    bool whole = folder && catalog_snapshot_whole(folder);
    if (cache && error->kind == ERROR_NONE && !whole)
        error_set(
            error, ERROR_NOT_FOUND,
            "%s: there is no such folder, and %s of a repository of that name; `limn pull %s` fetches one",
            text, folder ? "not all" : "nothing", text);
    if (!whole) {
        free(folder);
        folder = NULL;
    }
    free(cache);
    return folder;
}

static char *path_of_card(const struct catalog *catalog, const char *name, struct error *error) {
    struct error unknown = {0};
    const struct model_card *card = catalog_look_up(catalog, name, &unknown);
    char *path = NULL;
    if (!card) {
        error_set(error, ERROR_NOT_FOUND,
                  "%s: there is no such folder, expected a model folder or a model's name (%s)", name,
                  unknown.message);
    } else if (!card->weights.found) {
        const char *missing = card->weights.missing, *get = card->weights.get;
        error_set(error, ERROR_NOT_FOUND, "%s: its weights are not here%s%s. %s", card->id,
                  missing ? ": " : "", missing ? missing : "", get ? get : "");
    } else {
        path = strdup(card->weights.found);
        if (!path) no_memory(error);
    }
    return path;
}

char *model_path(const struct catalog *catalog, const char *name, struct error *error) {
    char repository[HUB_NAME], revision[HUB_REVISION];
    char *path = NULL;
    if (folder_exists(name) || file_exists(name) || *name == '/' || *name == '.') {
        path = strdup(name);
        if (!path) no_memory(error);
        return path;
    }
    if (hub_name_read(name, repository, revision))
        return path_of_repository(name, repository, revision, error);
    if (catalog) return path_of_card(catalog, name, error);
    struct config config;
    struct catalog *own = config_load(&config, NULL, error) ? catalog_open(&config, error) : NULL;
    if (own) path = path_of_card(own, name, error);
    catalog_close(own);
    config_free(&config);
    return path;
}
