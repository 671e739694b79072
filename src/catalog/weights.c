// Where the weights of the cards are. See catalog.h.
#include "catalog/catalog_inside.h"

#include "base/file.h"
#include "flux/model.h"
#include "flux/model_folder.h"
#include "weights/parts.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for the catalog");
}

static bool has_weights(const char *folder) {
    bool found = false;
    DIR *entries = opendir(folder);
    for (struct dirent *entry; entries && !found && (entry = readdir(entries));) {
        size_t length = strlen(entry->d_name);
        found = (length > 12 && !strcmp(entry->d_name + length - 12, ".safetensors")) ||
                (length > 5 && !strcmp(entry->d_name + length - 5, ".gguf"));
    }
    if (entries) closedir(entries);
    return found;
}

// Why a model folder cannot be opened, "" when it looks good. In the diffusers layout only names are looked at, else the heads of
// the weight files too; the worker reads the weights.
static bool judge_folder(const char *path, char *why, size_t size, struct error *error) {
    struct error cause = {0};
    struct model_folder folder;
    struct model_index index;
    bool good = true;
    *why = 0;
    if (!model_folder_open(path, &folder, &cause) || !model_index_read(path, &index, &cause))
        snprintf(why, size, "%s", cause.message);
    for (int i = 0; good && !*why && i < MODEL_PARTS; i++) {
        char *part = part_find(model_folder_part(&folder, (enum model_part)i), (enum model_part)i, &cause);
        if (!part && cause.kind == ERROR_MEMORY)
            good = no_memory(error);
        else if (!part)
            snprintf(why, size, "%s", cause.message);
        else if (folder_exists(part) && !has_weights(part))
            snprintf(why, size, "%s: it has no *.safetensors or *.gguf", part);
        free(part);
    }
    for (int i = 0; good && !*why && i < folder.lora_count; i++)
        if (!file_exists(folder.loras[i].file))
            snprintf(why, size, "%s: there is no file %s", folder.settings_path, folder.loras[i].file);
    model_folder_free(&folder);
    return good;
}

bool catalog_try_folder(struct model_card *card, const char *path, struct error *error) {
    char why[600];
    if (!folder_exists(path) || card->weights.found) return true;
    if (!judge_folder(path, why, sizeof why, error)) return false;
    const char *text = arena_strdup(&card->arena, *why ? why : path);
    if (!text) return no_memory(error);
    if (*why)
        card->weights.missing = text;
    else
        card->weights.found = text;
    return true;
}

static bool look_for(const struct config *config, struct model_card *card, struct error *error) {
    for (int i = 0; i < config->local.models.count; i++) {
        const struct config_pair *pair = &config->local.models.items[i];
        if (strcmp(pair->name, card->id)) continue;
        if (!folder_exists(pair->value))
            return error_set(error, ERROR_NOT_FOUND, "local.models: %s: there is no folder %s", card->id,
                             pair->value);
        if (!catalog_try_folder(card, pair->value, error)) return false;
    }
    for (int i = 0; card->weights.folder && i < config->local.model_folders.count; i++) {
        char *path = path_join(config->local.model_folders.items[i], card->weights.folder);
        bool good = path ? catalog_try_folder(card, path, error) : no_memory(error);
        free(path);
        if (!good) return false;
    }
    if (!catalog_try_pulled(card, error)) return false;
    if (card->weights.found) card->weights.missing = NULL;
    return true;
}

bool catalog_look_for_weights(struct catalog *catalog, struct error *error) {
    const struct config_loras *loras = &catalog->config->loras;
    for (int i = 0; i < loras->count; i++)
        if (!file_exists(loras->items[i].file))
            return error_set(error, ERROR_NOT_FOUND, "loras: %s: there is no file %.200s",
                             loras->items[i].name, loras->items[i].file);
    for (int i = 0; i < catalog->count; i++)
        if (!look_for(catalog->config, catalog->cards[i], error)) return false;
    return true;
}
