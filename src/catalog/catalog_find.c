// From the name that is asked for to card and provider. See catalog.h.
#include "catalog/catalog_inside.h"

#include "base/near.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_SHOWN 100

static struct model_card *by_id(const struct catalog *catalog, const char *id) {
    int low = 0, high = catalog->count - 1;
    while (low <= high) {
        int middle = (low + high) / 2, order = strcmp(catalog->cards[middle]->id, id);
        if (order == 0) return catalog->cards[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle - 1;
    }
    return NULL;
}

static struct model_card *by_alias(const struct catalog *catalog, const char *name) {
    for (int i = 0; i < catalog->count; i++)
        for (int k = 0; k < catalog->cards[i]->aliases.count; k++)
            if (!strcmp(catalog->cards[i]->aliases.items[k], name)) return catalog->cards[i];
    return NULL;
}

// "fal/flux.2-dev-turbo" and "fal/flux.2-dev-turbo-edit": [*provider] is the one that is forced.
static struct model_card *by_provider(const struct catalog *catalog, const char *name,
                                      const char **provider) {
    const char *slash = strchr(name, '/'), *rest = slash ? slash + 1 : NULL;
    for (int i = 0; slash && i < catalog->count; i++)
        for (int k = 0; k < catalog->cards[i]->provider_count; k++) {
            const struct card_provider *one = &catalog->cards[i]->providers[k];
            size_t length = (size_t)(slash - name);
            if (strlen(one->slug) != length || strncmp(one->slug, name, length)) continue;
            bool found = !strcmp(catalog->cards[i]->id, rest);
            for (int mode = 0; mode < MODE_COUNT; mode++)
                found = found || (one->config_ids[mode] && !strcmp(one->config_ids[mode], rest));
            if (!found) continue;
            *provider = one->slug;
            return catalog->cards[i];
        }
    return NULL;
}

static const char *alias_of(const struct config_pairs *aliases, const char *name, bool globs) {
    for (int i = 0; i < aliases->count; i++) {
        bool glob = strchr(aliases->items[i].name, '*');
        if (glob != globs) continue;
        if (glob ? glob_match(aliases->items[i].name, name) : !strcmp(aliases->items[i].name, name))
            return aliases->items[i].value;
    }
    return NULL;
}

// [hops]: how many aliases of limn.yaml may still be followed.
static struct model_card *resolve(const struct catalog *catalog, const char *name, int hops,
                                  const char **provider) {
    struct model_card *card = by_id(catalog, name);
    if (!card) card = by_provider(catalog, name, provider);
    const char *other = card || !hops ? NULL : alias_of(&catalog->config->aliases, name, false);
    if (other) return resolve(catalog, other, hops - 1, provider);
    if (!card) card = by_alias(catalog, name);
    other = card || !hops ? NULL : alias_of(&catalog->config->aliases, name, true);
    return other ? resolve(catalog, other, hops - 1, provider) : card;
}

// Programs written for OpenAI's image models cannot say how the picture is to come and read b64_json.
static bool is_gpt_image(const char *name) {
    return !strncmp(name, "gpt-image", 9) || !strncmp(name, "chatgpt-image", 13);
}

// Says that there is no such model, and which was probably meant: of ids, aliases, names for people and provider's names.
static void say_unknown(const struct catalog *catalog, const char *name, struct error *error) {
    const struct config_pairs *aliases = &catalog->config->aliases;
    const char *best = NULL;
    int best_distance = 1000;
    const char *slash = strchr(name, '/'), *rest = slash ? slash + 1 : name;
    for (int i = 0; i < catalog->count; i++) {
        const struct model_card *card = catalog->cards[i];
        const char *names[80] = {card->id, card->name};
        int count = 2;
        for (int k = 0; k < card->aliases.count && count < 40; k++) names[count++] = card->aliases.items[k];
        for (int k = 0; k < card->alternative_names.count && count < 72; k++)
            names[count++] = card->alternative_names.items[k];
        for (int k = 0; k < card->provider_count && count < 80; k++)
            names[count++] = card->providers[k].model_ids[MODE_GENERATION];
        const char *near = near_match(name, names, count);
        const char *by = near ? name : rest;
        if (!near) near = near_match(rest, names, count);
        if (!near || near_distance(by, near) >= best_distance) continue;
        best = card->id;
        best_distance = near_distance(by, near);
    }
    for (int i = 0; i < aliases->count; i++) {
        const char *alias = strchr(aliases->items[i].name, '*') ? NULL : aliases->items[i].name;
        if (!near_match(name, &alias, 1) || near_distance(name, alias) >= best_distance) continue;
        best = alias;
        best_distance = near_distance(name, alias);
    }
    if (!best && (is_gpt_image(name) || !strncmp(name, "dall-e", 6)))
        error_set_field(
            error, ERROR_NOT_FOUND, "model",
            "Model '%.*s' not found. The owner of this server can give OpenAI's names to a model of its own "
            "with aliases in limn.yaml",
            NAME_SHOWN, name);
    else if (best)
        error_set_field(error, ERROR_NOT_FOUND, "model", "Model '%.*s' not found. Did you mean '%s'?",
                        NAME_SHOWN, name, best);
    else
        error_set_field(error, ERROR_NOT_FOUND, "model",
                        "Model '%.*s' not found. GET /v1/models lists those that are here", NAME_SHOWN, name);
}

const struct model_card *catalog_look_up(const struct catalog *catalog, const char *name,
                                         struct error *error) {
    const char *provider = NULL;
    const struct model_card *card = resolve(catalog, name, 2, &provider);
    if (!card) say_unknown(catalog, name, error);
    return card;
}

// ------------------------------------------------------------------------------------------------------------ providers

bool catalog_can_serve(const struct catalog *catalog, const struct model_card *card,
                       const struct card_provider *provider) {
    if (strcmp(provider->slug, "local")) return false; // no other is set up
    return card->weights.found != NULL;
}

static enum catalog_result say_not_installed(const struct model_card *card, struct error *error) {
    const struct card_weights *weights = &card->weights;
    if (weights->missing)
        error_set_field(error, ERROR_NOT_FOUND, "model", "Model '%s' is not installed: %s. %s", card->id,
                        weights->missing, weights->get ? weights->get : "");
    else
        error_set_field(error, ERROR_NOT_FOUND, "model", "Model '%s' is not installed on this server. %s",
                        card->id, weights->get ? weights->get : "");
    return CATALOG_NOT_INSTALLED;
}

static enum catalog_result say_wrong_mode(const struct model_card *card, enum image_mode mode,
                                          struct error *error) {
    char modes[60];
    card_mode_names(card, modes, sizeof modes);
    error_set_field(error, ERROR_INPUT, "model", "Model '%s' does not support %s. Supported modes: %s",
                    card->id, mode == MODE_EDIT ? "image editing" : "text-to-image", modes);
    return CATALOG_WRONG_MODE;
}

static enum catalog_result say_no_provider(const struct model_card *card, const char *slug,
                                           struct error *error) {
    error_set_field(error, ERROR_NOT_FOUND, "model",
                    "Provider '%s' is not set up on this server. Ask for '%s' to have any that is", slug,
                    card->id);
    return CATALOG_NO_PROVIDER;
}

static void choose(struct catalog_choice *choice, const struct card_provider *provider,
                   enum image_mode mode) {
    choice->provider = provider;
    snprintf(choice->executed, sizeof choice->executed, "%s/%s", provider->slug, provider->model_ids[mode]);
}

static enum catalog_result find_provider(const struct catalog *catalog, struct catalog_choice *choice,
                                         const char *forced, enum image_mode mode, struct error *error) {
    const struct model_card *card = choice->card;
    const struct card_provider *local = NULL;
    for (int i = 0; i < card->provider_count; i++) {
        const struct card_provider *provider = &card->providers[i];
        if (forced && strcmp(provider->slug, forced)) continue;
        if (!provider->model_ids[mode]) continue;
        if (!strcmp(provider->slug, "local")) local = provider;
        if (!catalog_can_serve(catalog, card, provider)) continue;
        choose(choice, provider, mode);
        return CATALOG_FOUND;
    }
    if (local) choose(choice, local, mode);
    if (!local && forced) return say_no_provider(card, forced, error);
    return say_not_installed(card, error);
}

enum catalog_result catalog_find(const struct catalog *catalog, const char *name, enum image_mode mode,
                                 struct catalog_choice *choice, struct error *error) {
    const struct config *config = catalog->config;
    const char *forced = NULL;
    bool named = name && *name;
    *choice = (struct catalog_choice){0};
    if (!named) name = mode == MODE_EDIT ? config->models.image_edit : config->models.text_to_image;
    if (!*name) name = catalog->default_model;
    if (!*name) {
        error_set_field(error, ERROR_INPUT, "model", "model: missing, and this server has no default model");
        return CATALOG_UNKNOWN;
    }
    struct model_card *card = resolve(catalog, name, 2, &forced);
    if (!card) {
        say_unknown(catalog, name, error);
        return CATALOG_UNKNOWN;
    }
    choice->card = card;
    choice->forced = forced != NULL;
    choice->gpt_image = named && is_gpt_image(name) && !is_gpt_image(card->id);
    if (card->disabled) {
        error_set_field(error, ERROR_NOT_FOUND, "model", "Model '%s' is switched off on this server",
                        card->id);
        return CATALOG_DISABLED;
    }
    if (!card->modes[mode]) return say_wrong_mode(card, mode, error);
    return find_provider(catalog, choice, forced, mode, error);
}
