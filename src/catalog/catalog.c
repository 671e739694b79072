// Opens the catalog: the built-in cards, the owner's, prices and folders from limn.yaml. See catalog.h; catalog_find.c looks
// names up, catalog_json.c shows the cards.
#include "catalog/catalog_inside.h"

#include "base/file.h"
#include "base/json.h"
#include "base/near.h"
#include "catalog/builtin.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CARD_BYTES_MOST (256u << 10)
#define CARDS_MOST      1000
#define SIDE_LEAST      64 // pixels, of a folder without a card
#define SIDE_MOST       2048
#define PARAMETERS_FILE "catalog/parameters.yaml"

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for the catalog");
}

// ------------------------------------------------------------------------------------------------------------ the cards

static int place_of(const struct catalog *catalog, const char *id) {
    int low = 0, high = catalog->count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (strcmp(catalog->cards[middle]->id, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// Takes [card] over, in place of one of the same id when [replace].
static bool put_card(struct catalog *catalog, struct model_card *card, bool replace, struct error *error) {
    int place = place_of(catalog, card->id);
    bool there = place < catalog->count && !strcmp(catalog->cards[place]->id, card->id);
    if (there && replace) {
        card_free(catalog->cards[place]);
        catalog->cards[place] = card;
        return true;
    }
    bool good = !there && catalog->count < CARDS_MOST;
    if (there)
        error_set(error, ERROR_INPUT, "%s: id: %s is there already, in %s", card->file, card->id,
                  catalog->cards[place]->file);
    else if (!good)
        error_set(error, ERROR_INPUT, "%s: more than %d model cards", card->file, CARDS_MOST);
    if (good && catalog->count == catalog->capacity) {
        int capacity = catalog->capacity ? 2 * catalog->capacity : 16;
        struct model_card **cards = realloc(catalog->cards, (size_t)capacity * sizeof(struct model_card *));
        good = cards || no_memory(error);
        if (good) catalog->cards = cards, catalog->capacity = capacity;
    }
    if (!good) {
        card_free(card);
        return false;
    }
    memmove(&catalog->cards[place + 1], &catalog->cards[place],
            (size_t)(catalog->count - place) * sizeof(struct model_card *));
    catalog->cards[place] = card;
    catalog->count++;
    return true;
}

static bool read_parameters(struct catalog *catalog, struct error *error) {
    int count;
    const struct builtin_file *files = catalog_builtin(&count);
    for (int i = 0; i < count; i++) {
        if (strcmp(files[i].name, PARAMETERS_FILE)) continue;
        struct yaml *yaml = yaml_parse(files[i].name, files[i].text, files[i].size, error);
        bool good = yaml && parameters_read(yaml_root(yaml), &catalog->arena, &catalog->common, error);
        yaml_close(yaml);
        return good;
    }
    return error_set(error, ERROR_INTERNAL, "%s is not part of the program", PARAMETERS_FILE);
}

static bool read_builtin(struct catalog *catalog, struct error *error) {
    int count;
    const struct builtin_file *files = catalog_builtin(&count);
    for (int i = 0; i < count; i++) {
        if (!strcmp(files[i].name, PARAMETERS_FILE)) continue;
        struct yaml *yaml = yaml_parse(files[i].name, files[i].text, files[i].size, error);
        struct model_card *card = yaml ? card_read(yaml_root(yaml), &catalog->common, error) : NULL;
        yaml_close(yaml);
        if (!card || !put_card(catalog, card, false, error)) return false;
    }
    return true;
}

static bool read_own_card(struct catalog *catalog, const char *path, struct error *error) {
    struct yaml *yaml = yaml_read_file(path, CARD_BYTES_MOST, error);
    struct model_card *card = yaml ? card_read(yaml_root(yaml), &catalog->common, error) : NULL;
    yaml_close(yaml);
    if (!card) return false;
    card->own = true;
    int place = place_of(catalog, card->id);
    bool there = place < catalog->count && !strcmp(catalog->cards[place]->id, card->id);
    // Of two cards of the owner's with one id neither is the right one.
    bool replace = there && !catalog->cards[place]->own;
    return put_card(catalog, card, replace, error);
}

static int is_card(const struct dirent *entry) {
    size_t length = strlen(entry->d_name);
    return length > 5 && entry->d_name[0] != '.' && !strcmp(entry->d_name + length - 5, ".yaml");
}

static bool read_own(struct catalog *catalog, struct error *error) {
    const char *folder = catalog->config->catalog.folder;
    struct dirent **entries = NULL;
    bool good = true;
    if (!*folder) return true;
    int count = scandir(folder, &entries, is_card, alphasort);
    if (count < 0)
        return error_set(error, ERROR_NOT_FOUND, "catalog.folder: %s: %s", folder, strerror(errno));
    for (int i = 0; i < count; i++) {
        char *path = good ? path_join(folder, entries[i]->d_name) : NULL;
        good = good && (path || no_memory(error)) && read_own_card(catalog, path, error);
        free(path);
        free(entries[i]);
    }
    free(entries);
    return good;
}

// ------------------------------------------------------------------------------------------------------------ limn.yaml

// Two cards may not answer to one name.
static bool check_aliases(const struct catalog *catalog, struct error *error) {
    for (int i = 0; i < catalog->count; i++) {
        const struct model_card *card = catalog->cards[i];
        for (int k = 0; k < card->aliases.count; k++) {
            const char *alias = card->aliases.items[k];
            for (int j = 0; j < catalog->count; j++) {
                const struct model_card *other = catalog->cards[j];
                bool clash = !strcmp(other->id, alias);
                for (int m = 0; m < other->aliases.count && j < i; m++)
                    clash = clash || !strcmp(other->aliases.items[m], alias);
                if (clash)
                    return error_set(error, ERROR_INPUT, "%s: aliases: %.60s is a name of %s already",
                                     card->file, alias, other->id);
            }
        }
    }
    return true;
}

static const char *near_id(const struct catalog *catalog, const char *name) {
    const char *ids[CARDS_MOST];
    for (int i = 0; i < catalog->count; i++) ids[i] = catalog->cards[i]->id;
    return near_match(name, ids, catalog->count);
}

// A setting that names no model is a mistake: [key] of limn.yaml, [name] what it says.
static bool check_name(const struct catalog *catalog, const char *key, const char *name,
                       struct error *error) {
    struct error cause = {0};
    if (strchr(name, '*') || catalog_look_up(catalog, name, &cause)) return true;
    const char *meant = near_id(catalog, name);
    char place[400];
    return error_set(error, ERROR_INPUT, "%s: there is no model %.80s%s%s%s",
                     config_place(catalog->config, key, place, sizeof place), name,
                     meant ? "; did you mean \"" : "", meant ? meant : "", meant ? "\"?" : "");
}

static bool check_names(const struct catalog *catalog, struct error *error) {
    const struct config *config = catalog->config;
    for (int i = 0; i < config->local.prices.count; i++)
        if (!check_name(catalog, "local.prices", config->local.prices.items[i].model, error)) return false;
    for (int i = 0; i < config->local.models.count; i++)
        if (!check_name(catalog, "local.models", config->local.models.items[i].name, error)) return false;
    for (int i = 0; i < config->catalog.disabled.count; i++)
        if (!check_name(catalog, "catalog.disabled", config->catalog.disabled.items[i], error)) return false;
    return true;
}

// An alias with a model's own name would never be used: ids go first.
static bool check_alias(const struct catalog *catalog, const char *alias, struct error *error) {
    char place[400];
    for (int i = 0; i < catalog->count; i++)
        if (!strcmp(catalog->cards[i]->id, alias))
            return error_set(error, ERROR_INPUT,
                             "%s: %.80s is a model's own name, which goes before an alias",
                             config_place(catalog->config, "aliases", place, sizeof place), alias);
    return true;
}

bool catalog_check_names(const struct catalog *catalog, struct error *error) {
    const struct config *config = catalog->config;
    for (int i = 0; i < config->loras.count; i++)
        for (int k = 0; k < config->loras.items[i].models.count; k++)
            if (!check_name(catalog, "loras", config->loras.items[i].models.items[k], error)) return false;
    for (int i = 0; i < config->aliases.count; i++)
        if (!check_alias(catalog, config->aliases.items[i].name, error) ||
            !check_name(catalog, "aliases", config->aliases.items[i].value, error))
            return false;
    return (!*config->models.text_to_image ||
            check_name(catalog, "models.text_to_image", config->models.text_to_image, error)) &&
           (!*config->models.image_edit ||
            check_name(catalog, "models.image_edit", config->models.image_edit, error));
}

// Local prices, the exact name before a glob, and what is switched off.
static void apply_config(const struct config *config, struct model_card *card) {
    struct card_provider *local = (struct card_provider *)card_provider(card, "local");
    for (int exact = 0; local && exact < 2; exact++)
        for (int i = config->local.prices.count - 1; i >= 0; i--) {
            const struct config_price *price = &config->local.prices.items[i];
            bool same = !strcmp(price->model, card->id);
            if (exact ? same : !same && glob_match(price->model, card->id)) local->price = price->list;
        }
    for (int i = 0; i < config->catalog.disabled.count; i++)
        if (glob_match(config->catalog.disabled.items[i], card->id)) card->disabled = true;
}

// -------------------------------------------------------------------------------------------------------------- opening

struct catalog *catalog_open(const struct config *config, struct error *error) {
    struct catalog *catalog = calloc(1, sizeof *catalog);
    if (!catalog) {
        no_memory(error);
        return NULL;
    }
    catalog->config = config;
    catalog->default_model = "";
    bool good = read_parameters(catalog, error) && read_builtin(catalog, error) && read_own(catalog, error) &&
                check_aliases(catalog, error) && check_names(catalog, error);
    for (int i = 0; good && i < catalog->count; i++) apply_config(config, catalog->cards[i]);
    good = good && catalog_look_for_weights(catalog, error);
    if (good) return catalog;
    catalog_close(catalog);
    return NULL;
}

void catalog_close(struct catalog *catalog) {
    if (!catalog) return;
    for (int i = 0; i < catalog->count; i++) card_free(catalog->cards[i]);
    free(catalog->cards);
    arena_free(&catalog->arena);
    free(catalog);
}

int catalog_count(const struct catalog *catalog) {
    return catalog->count;
}

const struct model_card *catalog_card(const struct catalog *catalog, int index) {
    return catalog->cards[index];
}

const struct card_parameters *catalog_parameters(const struct catalog *catalog) {
    return &catalog->common;
}

bool catalog_set_default(struct catalog *catalog, const char *id, struct error *error) {
    catalog->default_model = arena_strdup(&catalog->arena, id);
    if (catalog->default_model) return catalog_check_names(catalog, error);
    catalog->default_model = "";
    return no_memory(error);
}

// ------------------------------------------------------------------------------------------------------ a folder's card

// Licences under which anybody may use a model for anything.
static bool is_free(const char *spdx) {
    static const char *const known[] = {"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i], spdx)) return true;
    return false;
}

// The licence that the folder's limn.json names; "NOASSERTION" where it names none that can be written down.
static void read_licence(const char *path, char *spdx, size_t size) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-";
    struct error ignored = {0};
    char *file = path_join(path, "limn.json");
    json_t *json = file ? json_read_file(file, CARD_BYTES_MOST, &ignored) : NULL;
    const char *text = json_string_value(json_object_get(json, "licence"));
    bool good = text && *text && strlen(text) < size && strspn(text, letters) == strlen(text);
    snprintf(spdx, size, "%s", good ? text : "NOASSERTION");
    json_decref(json);
    free(file);
}

// A card for a folder that none names: what the engine can do, and nothing that is not known.
static struct model_card *make_card(const struct catalog *catalog, const struct catalog_folder *folder,
                                    struct error *error) {
    char text[1800], spdx[64];
    int multiple = folder->side_multiple > 0 ? folder->side_multiple : 16;
    int width = folder->default_width > 0 ? folder->default_width : 1024;
    int height = folder->default_height > 0 ? folder->default_height : 1024;
    int shorter = width < height ? width : height, longer = width < height ? height : width;
    int least = shorter < SIDE_LEAST ? multiple : (SIDE_LEAST + multiple - 1) / multiple * multiple;
    int shape = longer > 8 * shorter ? (longer + shorter - 1) / shorter : 8; // the longest is shape:1
    int most = ((longer > SIDE_MOST ? longer : SIDE_MOST) + multiple - 1) / multiple * multiple;
    read_licence(folder->path, spdx, sizeof spdx);
    bool known = strcmp(spdx, "NOASSERTION");
    int size = snprintf(
        text, sizeof text,
        "{card: 1, id: \"%s\", name: \"%s\", creator: owner, creator_name: \"the owner of this server\", "
        "family: \"%s\", release: 1970-01-01, summary: \"A model that the owner of this server has "
        "installed.\", licence: {name: \"%s\", spdx: \"%s\", commercial: %s, "
        "notice: \"%s\"}, "
        "modes: [text-to-image, image-edit], sizes: {default: %dx%d, multiple: %d, sides: {least: %d, "
        "most: %d}, ratios: {least: \"1:%d\", most: \"%d:1\"}, tiers: {least: 0.0625K, most: 2K}}, "
        "references: {most: 4}, steps: {default: %d}, guidance: %g, "
        "weights: {folder: \"%s\", get: \"\"}, "
        "providers: [{slug: local, name: this machine, models: {text-to-image: \"%s\", image-edit: "
        "\"%s\"}, images: 10}]}",
        folder->id, folder->id, folder->id, known ? spdx : "not known to limn", spdx,
        is_free(spdx) ? "true" : "false",
        known ? "Read it before the model is used" : "Ask whoever made the model", width, height, multiple,
        least, most, shape, shape, folder->steps > 0 ? folder->steps : 1,
        folder->guidance > 0 ? folder->guidance : 0.0, folder->id, folder->id, folder->id);
    if (size < 0 || size >= (int)sizeof text) {
        error_set(error, ERROR_INPUT, "the model's name is too long");
        return NULL;
    }
    struct yaml *yaml = yaml_parse("the served model", text, (size_t)size, error);
    struct model_card *card = yaml ? card_read(yaml_root(yaml), &catalog->common, error) : NULL;
    yaml_close(yaml);
    return card;
}

bool catalog_add_folder(struct catalog *catalog, const struct catalog_folder *folder, struct error *error) {
    if (!card_id_good(folder->id))
        return error_set(error, ERROR_INPUT, "%s: the model's name (%.60s) cannot be asked for", folder->path,
                         folder->id);
    int place = place_of(catalog, folder->id);
    bool there = place < catalog->count && !strcmp(catalog->cards[place]->id, folder->id);
    if (!there) {
        struct model_card *made = make_card(catalog, folder, error);
        if (!made || !put_card(catalog, made, false, error)) return false;
        apply_config(catalog->config, made);
    }
    struct model_card *card = catalog->cards[place];
    card->weights.found = arena_strdup(&card->arena, folder->path);
    card->weights.missing = NULL;
    card->weights.served = true;
    return card->weights.found || no_memory(error);
}
