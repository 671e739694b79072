// Cards as JSON: the model objects and the parameter schema. See catalog.h.
#include "catalog/catalog_inside.h"

#include "base/near.h"

#include <math.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

static json_t *texts_json(const struct card_texts *texts) {
    json_t *list = json_array();
    for (int i = 0; i < texts->count; i++) json_array_append_new(list, json_string(texts->items[i]));
    return list;
}

static json_t *pairs_json(const struct card_pairs *pairs, const char *name, const char *text) {
    json_t *list = json_array();
    for (int i = 0; i < pairs->count; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:s}", name, pairs->items[i].name, text, pairs->items[i].text));
    return list;
}

static json_t *modes_json(const struct model_card *card) {
    json_t *list = json_array();
    for (int i = 0; i < MODE_COUNT; i++)
        if (card->modes[i]) json_array_append_new(list, json_string(mode_name((enum image_mode)i)));
    return list;
}

static json_t *modalities_json(const struct model_card *card) {
    json_t *input = json_pack("[s]", "text");
    if (card->modes[MODE_EDIT]) json_array_append_new(input, json_string("image"));
    return json_pack("{s:o, s:[s]}", "input", input, "output", "image");
}

static json_t *size_json(int width, int height) {
    return json_sprintf("%dx%d", width, height);
}

// A tier as it is asked for: "0.5K".
static json_t *tier_json(double area) {
    return json_sprintf("%.6gK", sqrt(area) / 1024);
}

static json_t *ratio_json(double ratio) {
    // The smallest whole numbers that are that ratio; else a decimal.
    for (int side = 1; side <= 64; side++) {
        double other = ratio * side;
        if (fabs(other - floor(other + 0.5)) < 1e-9 * other && other >= 1)
            return json_sprintf("%.0f:%d", other, side);
    }
    return json_sprintf("%.6g:1", ratio);
}

static json_t *axis_json(const struct size_axis *axis, json_t *show(double)) {
    if (!axis->count) return json_pack("{s:o, s:o}", "least", show(axis->least), "most", show(axis->most));
    json_t *list = json_array();
    for (int i = 0; i < axis->count; i++) json_array_append_new(list, show(axis->values[i]));
    return json_pack("{s:o}", "list", list);
}

static json_t *limits_json(const struct model_card *card) {
    const struct size_rules *sizes = &card->sizes;
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:i, s:i}", "default_size",
                     size_json(sizes->default_width, sizes->default_height), "max_resolution",
                     size_json(sizes->side_most, sizes->side_most), "min_resolution",
                     size_json(sizes->side_least, sizes->side_least), "aspect_ratios",
                     axis_json(&sizes->ratios, ratio_json), "resolutions",
                     axis_json(&sizes->tiers, tier_json), "max_input_images",
                     card->modes[MODE_EDIT] ? card->references_most : 0, "max_images", card->images_most,
                     "max_prompt_characters", card->prompt_most, "default_steps", card->steps);
}

static json_t *licence_json(const struct model_card *card) {
    return json_pack("{s:s, s:s, s:s?, s:b, s:s?}", "name", card->licence.name, "spdx", card->licence.spdx,
                     "url", card->licence.url, "commercial_use", card->licence.commercial, "notice",
                     card->licence.notice);
}

static json_t *provider_json(const struct catalog *catalog, const struct model_card *card,
                             const struct card_provider *provider) {
    json_t *models = json_object();
    for (int i = 0; i < MODE_COUNT; i++)
        if (provider->model_ids[i])
            json_object_set_new(models, mode_name((enum image_mode)i),
                                json_pack("{s:s+++, s:s}", "id", provider->slug, "/", provider->config_ids[i],
                                          "", "provider_model", provider->model_ids[i]));
    return json_pack("{s:s, s:s, s:b, s:o, s:i, s:o, s:s, s:s?, s:s?}", "slug", provider->slug, "name",
                     provider->name, "available",
                     !card->disabled && catalog_can_serve(catalog, card, provider), "models", models,
                     "max_images_per_call", provider->native_images, "pricing",
                     price_list_json(&provider->price), "currency", "USD", "price_source",
                     provider->price_source, "price_effective", provider->price_effective);
}

// The provider that would serve the model now; NULL: none.
static const struct card_provider *serving(const struct catalog *catalog, const struct model_card *card) {
    for (int i = 0; !card->disabled && i < card->provider_count; i++)
        if (catalog_can_serve(catalog, card, &card->providers[i])) return &card->providers[i];
    return NULL;
}

// What one picture of the default size costs at least, in USD; -1: nobody serves it and no price is known.
static double starting_price(const struct catalog *catalog, const struct model_card *card) {
    const struct card_provider *provider = serving(catalog, card);
    for (int i = 0; !provider && i < card->provider_count; i++)
        if (card->providers[i].price.count) provider = &card->providers[i];
    if (!provider) return -1;
    struct size_request nothing = {0};
    struct size_result size = size_resolve(&card->sizes, &nothing, 0, 0);
    struct price_use use = {.calls = 1,
                            .images = 1,
                            .output = {size.deliver_width, size.deliver_height},
                            .rendered = {size.render_width, size.render_height}};
    struct price price;
    struct error error = {0};
    return price_of(&provider->price, &use, &price, &error) ? (double)price.micros / 1e6 : -1;
}

// Names of the LoRAs that a request to the model may name.
static json_t *loras_json(const struct catalog *catalog, const struct model_card *card) {
    const struct config_loras *loras = &catalog->config->loras;
    json_t *list = json_array();
    for (int i = 0; i < loras->count && card_offers(card, "lora", "local"); i++) {
        const struct config_texts *models = &loras->items[i].models;
        bool fits = models->count == 0;
        for (int k = 0; k < models->count; k++) fits = fits || glob_match(models->items[k], card->id);
        if (fits) json_array_append_new(list, json_string(loras->items[i].name));
    }
    return list;
}

static json_t *aliases_json(const struct catalog *catalog, const struct model_card *card) {
    const struct config_pairs *aliases = &catalog->config->aliases;
    json_t *list = texts_json(&card->aliases);
    for (int i = 0; i < aliases->count; i++)
        if (!strcmp(aliases->items[i].value, card->id))
            json_array_append_new(list, json_string(aliases->items[i].name));
    return list;
}

static json_t *model_json(const struct catalog *catalog, const struct model_card *card, bool texts) {
    json_t *providers = json_array();
    for (int i = 0; i < card->provider_count; i++)
        json_array_append_new(providers, provider_json(catalog, card, &card->providers[i]));
    double start = starting_price(catalog, card);
    json_t *object = json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "id", card->id, "object",
                               "model", "created", (json_int_t)card->released, "owned_by", card->creator,
                               "name", card->name, "description", card->summary, "creator_organization",
                               card->creator_name, "family", card->family, "model_status",
                               card->disabled ? "disabled" : card->status, "release", card->release);
    json_t *more =
        json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:b, s:o}", "modes", modes_json(card),
                  "modalities", modalities_json(card), "licence", licence_json(card), "limits",
                  limits_json(card), "tags", texts_json(&card->tags), "aliases", aliases_json(catalog, card),
                  "alternative_names", texts_json(&card->alternative_names), "providers", providers,
                  "installed", card->weights.found != NULL, "available", serving(catalog, card) != NULL,
                  "starting_price", start < 0 ? json_null() : json_real(start));
    if (!object || !more || json_object_update(object, more)) {
        json_decref(object);
        object = NULL;
    }
    json_decref(more);
    if (object && catalog->config->loras.count)
        json_object_set_new(object, "loras", loras_json(catalog, card));
    if (object && !card->weights.found && card->weights.get && *card->weights.get)
        json_object_set_new(object, "how_to_install", json_string(card->weights.get));
    if (object && texts)
        json_object_set_new(object, "sections", pairs_json(&card->sections, "title", "text"));
    if (object && texts) json_object_set_new(object, "faq", pairs_json(&card->faq, "question", "answer"));
    return object;
}

json_t *catalog_model_json(const struct catalog *catalog, const struct model_card *card) {
    return model_json(catalog, card, true);
}

// The default model first, then those that can be had, then the others.
static int rank(const struct catalog *catalog, const struct model_card *card) {
    if (!strcmp(card->id, catalog->default_model)) return 0;
    return serving(catalog, card) ? 1 : 2;
}

// Without the pages' texts, which are long.
json_t *catalog_models_json(const struct catalog *catalog) {
    json_t *data = json_array();
    for (int wanted = 0; wanted < 3; wanted++)
        for (int i = 0; i < catalog->count; i++) {
            if (rank(catalog, catalog->cards[i]) != wanted) continue;
            if (json_array_append_new(data, model_json(catalog, catalog->cards[i], false)) == 0) continue;
            json_decref(data);
            return NULL;
        }
    return json_pack("{s:s, s:o}", "object", "list", "data", data);
}

// --------------------------------------------------------------------------------------------------------------- schema

static json_t *handling_json(const struct model_card *card, const struct card_parameter *parameter) {
    json_t *object = json_object();
    for (int i = 0; i < card->provider_count; i++) {
        const char *slug = card->providers[i].slug, *field = parameter_field(parameter, slug);
        enum parameter_handling handling = parameter_handling(parameter, slug);
        json_t *one = json_pack("{s:s}", "behavior", parameter_handling_name(handling));
        if (strcmp(field, parameter->name)) json_object_set_new(one, "field", json_string(field));
        json_object_set_new(object, slug, one);
    }
    return object;
}

static json_t *parameter_json(const struct model_card *card, const struct card_parameter *parameter) {
    json_t *modes = json_object();
    for (int i = 0; i < MODE_COUNT; i++)
        if (card->modes[i])
            json_object_set_new(modes, mode_name((enum image_mode)i),
                                json_string(!parameter->modes[i]     ? "not available"
                                            : parameter->required[i] ? "required"
                                                                     : "supported"));
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o}", "name", parameter->name, "group", parameter->group,
                  "type", parameter_type_name(parameter->type), "description", parameter->text, "modes",
                  modes, "handling", handling_json(card, parameter), "schema", parameter_schema(parameter));
    if (object && parameter->same_as) json_object_set_new(object, "same_as", json_string(parameter->same_as));
    return object;
}

json_t *catalog_schema_json(const struct catalog *catalog, const struct model_card *card) {
    json_t *modes = json_object(), *parameters = json_array();
    for (int i = 0; i < MODE_COUNT; i++)
        if (card->modes[i])
            json_object_set_new(modes, mode_name((enum image_mode)i),
                                parameters_schema(&card->parameters, (enum image_mode)i, i == MODE_EDIT));
    for (int i = 0; i < card->parameters.count; i++)
        json_array_append_new(parameters, parameter_json(card, &card->parameters.items[i]));
    (void)catalog;
    return json_pack("{s:s, s:s, s:o, s:o, s:o}", "id", card->id, "object", "model.schema", "modes", modes,
                     "parameters", parameters, "limits", limits_json(card));
}
