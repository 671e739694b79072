// Reads a model card. See card.h and docs/catalog.md.
#include "catalog/card.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CARD_VERSION 1
#define TEXTS_MOST   100
#define PAIRS_MOST   100

struct reader {
    struct model_card *card;
    struct error *error;
};

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for a model card");
}

// --------------------------------------------------------------------------------------------------------- plain values

static bool keep(struct reader *reader, const struct yaml_node *node, const char **to) {
    const char *text;
    if (!yaml_text(node, &text, reader->error)) return false;
    *to = arena_strdup(&reader->card->arena, text);
    return *to || no_memory(reader->error);
}

static bool optional(struct reader *reader, const struct yaml_node *map, const char *key, const char **to) {
    const struct yaml_node *node = yaml_get(map, key);
    return !node || keep(reader, node, to);
}

static bool needed(struct reader *reader, const struct yaml_node *map, const char *key, const char *what,
                   const char **to) {
    const struct yaml_node *node = yaml_need(map, key, what, reader->error);
    return node && keep(reader, node, to);
}

static bool integer(struct reader *reader, const struct yaml_node *map, const char *key, int least, int most,
                    int *value) {
    const struct yaml_node *node = yaml_get(map, key);
    int64_t number = *value;
    if (node && !yaml_integer(node, least, most, &number, reader->error)) return false;
    *value = (int)number;
    return true;
}

static bool texts(struct reader *reader, const struct yaml_node *map, const char *key,
                  struct card_texts *list) {
    const struct yaml_node *node = yaml_get(map, key);
    if (!node) return true;
    if (!yaml_is(node, YAML_TYPE_LIST, reader->error)) return false;
    if (node->count > TEXTS_MOST) return yaml_fail(node, reader->error, "more than %d of them", TEXTS_MOST);
    const char **items = arena_alloc(&reader->card->arena, (size_t)(node->count + 1) * sizeof *items);
    if (!items) return no_memory(reader->error);
    for (int i = 0; i < node->count; i++)
        if (!keep(reader, &node->items[i], &items[i])) return false;
    *list = (struct card_texts){items, node->count};
    return true;
}

static bool pairs(struct reader *reader, const struct yaml_node *map, const char *key,
                  struct card_pairs *list) {
    static const char *const keys[] = {"name", "text"};
    const struct yaml_node *node = yaml_get(map, key);
    if (!node) return true;
    if (!yaml_is(node, YAML_TYPE_LIST, reader->error)) return false;
    if (node->count > PAIRS_MOST) return yaml_fail(node, reader->error, "more than %d of them", PAIRS_MOST);
    struct card_pair *items = arena_alloc(&reader->card->arena, (size_t)(node->count + 1) * sizeof *items);
    if (!items) return no_memory(reader->error);
    for (int i = 0; i < node->count; i++)
        if (!yaml_known_keys(&node->items[i], keys, 2, reader->error) ||
            !needed(reader, &node->items[i], "name", "a heading", &items[i].name) ||
            !needed(reader, &node->items[i], "text", "what stands under it", &items[i].text))
            return false;
    *list = (struct card_pairs){items, node->count};
    return true;
}

// ------------------------------------------------------------------------------------------------------------- identity

bool card_id_good(const char *id) {
    size_t length = strlen(id);
    return length >= 1 && length <= 80 && strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789._-") == length &&
           isalnum((unsigned char)id[0]);
}

// "2025-12" or "2025-12-29".
static bool read_release(struct reader *reader, const struct yaml_node *root) {
    int year = 0, month = 0, day = 1, used = 0, more = 0;
    const struct yaml_node *node = yaml_need(root, "release", "a date such as 2025-12-29", reader->error);
    if (!node || !keep(reader, node, &reader->card->release)) return false;
    const char *text = reader->card->release;
    bool good =
        strspn(text, "0123456789-") == strlen(text) && sscanf(text, "%4d-%2d%n", &year, &month, &used) == 2;
    if (good && text[used]) good = sscanf(text + used, "-%2d%n", &day, &more) == 1 && !text[used + more];
    struct tm date = {.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day};
    good = good && year >= 1970 && month >= 1 && month <= 12 && day >= 1;
    if (good) reader->card->released = (int64_t)timegm(&date);
    // A day that the month does not have has become one of the next.
    if (!good || date.tm_mon != month - 1 || date.tm_mday != day)
        return yaml_fail(node, reader->error, "expected a date such as 2025-12-29 or 2025-12, found %.40s",
                         text);
    return true;
}

static bool read_status(struct reader *reader, const struct yaml_node *root) {
    static const char *const words[] = {"active", "preview", "deprecated"};
    const struct yaml_node *node = yaml_get(root, "status");
    int index = 0;
    if (node && !yaml_word(node, words, 3, &index, reader->error)) return false;
    reader->card->status = words[index];
    return true;
}

static bool read_licence(struct reader *reader, const struct yaml_node *root) {
    static const char *const keys[] = {"name", "spdx", "url", "notice", "commercial"};
    struct model_card *card = reader->card;
    const struct yaml_node *map = yaml_need(root, "licence", "name, spdx, commercial", reader->error);
    if (!map || !yaml_known_keys(map, keys, 5, reader->error)) return false;
    const struct yaml_node *commercial = yaml_need(map, "commercial", "true or false", reader->error);
    return commercial && yaml_bool(commercial, &card->licence.commercial, reader->error) &&
           needed(reader, map, "name", "the licence's name", &card->licence.name) &&
           needed(reader, map, "spdx", "its SPDX identifier", &card->licence.spdx) &&
           optional(reader, map, "url", &card->licence.url) &&
           optional(reader, map, "notice", &card->licence.notice);
}

static bool read_identity(struct reader *reader, const struct yaml_node *root) {
    struct model_card *card = reader->card;
    const struct yaml_node *version = yaml_need(root, "card", "1", reader->error);
    int64_t number;
    if (!version || !yaml_integer(version, CARD_VERSION, CARD_VERSION, &number, reader->error)) return false;
    if (!needed(reader, root, "id", "the model's id", &card->id)) return false;
    if (!card_id_good(card->id))
        return yaml_fail(yaml_get(root, "id"), reader->error,
                         "expected at most 80 of a-z, 0-9, \".\", \"_\" and \"-\", found %.60s", card->id);
    if (!needed(reader, root, "name", "the model's name", &card->name) ||
        !needed(reader, root, "creator", "who made it", &card->creator))
        return false;
    card->creator_name = card->creator;
    card->family = card->id;
    const struct yaml_node *modes =
        yaml_need(root, "modes", "text-to-image, image-edit or both", reader->error);
    if (!modes || !modes_read(modes, card->modes, reader->error)) return false;
    if (!modes->count) return yaml_fail(modes, reader->error, "expected at least one mode");
    return optional(reader, root, "creator_name", &card->creator_name) &&
           optional(reader, root, "family", &card->family) && read_status(reader, root) &&
           read_release(reader, root) && read_licence(reader, root) &&
           texts(reader, root, "tags", &card->tags) && texts(reader, root, "aliases", &card->aliases) &&
           texts(reader, root, "alternative_names", &card->alternative_names) &&
           needed(reader, root, "summary", "one sentence", &card->summary) &&
           pairs(reader, root, "sections", &card->sections) && pairs(reader, root, "faq", &card->faq);
}

// ---------------------------------------------------------------------------------------------------------------- sizes

typedef bool read_value(const char *text, double *value);

static bool axis_value(struct reader *reader, const struct yaml_node *node, read_value *read,
                       const char *what, double *value) {
    const char *text;
    if (!yaml_text(node, &text, reader->error)) return false;
    return read(text, value) || yaml_fail(node, reader->error, "expected %s, found %.40s", what, text);
}

// {least, most} or {list: [...]}.
static bool read_axis(struct reader *reader, const struct yaml_node *sizes, const char *key, read_value *read,
                      const char *what, struct size_axis *axis) {
    static const char *const keys[] = {"least", "most", "list"};
    const struct yaml_node *map = yaml_need(sizes, key, "least and most, or a list", reader->error);
    if (!map || !yaml_known_keys(map, keys, 3, reader->error)) return false;
    const struct yaml_node *list = yaml_get(map, "list");
    if (!list) {
        const struct yaml_node *least = yaml_need(map, "least", what, reader->error);
        const struct yaml_node *most = least ? yaml_need(map, "most", what, reader->error) : NULL;
        if (!most || !axis_value(reader, least, read, what, &axis->least) ||
            !axis_value(reader, most, read, what, &axis->most))
            return false;
        return axis->least <= axis->most || yaml_fail(map, reader->error, "least is more than most");
    }
    if (!yaml_is(list, YAML_TYPE_LIST, reader->error)) return false;
    if (list->count < 1 || list->count > SIZE_LIST_MOST)
        return yaml_fail(list, reader->error, "expected 1 to %d values", SIZE_LIST_MOST);
    for (axis->count = 0; axis->count < list->count; axis->count++) {
        int i = axis->count;
        if (!axis_value(reader, &list->items[i], read, what, &axis->values[i])) return false;
        if (i && axis->values[i] <= axis->values[i - 1])
            return yaml_fail(&list->items[i], reader->error, "expected rising values");
    }
    return true;
}

static bool read_sides(struct reader *reader, const struct yaml_node *map) {
    static const char *const keys[] = {"least", "most"};
    struct size_rules *sizes = &reader->card->sizes;
    const struct yaml_node *sides = yaml_need(map, "sides", "least and most in pixels", reader->error);
    sizes->multiple = 16;
    if (!sides || !yaml_known_keys(sides, keys, 2, reader->error)) return false;
    if (!yaml_need(sides, "least", "pixels", reader->error) ||
        !yaml_need(sides, "most", "pixels", reader->error))
        return false;
    if (!integer(reader, map, "multiple", 1, 256, &sizes->multiple) ||
        !integer(reader, sides, "least", 1, 65536, &sizes->side_least) ||
        !integer(reader, sides, "most", 1, 65536, &sizes->side_most))
        return false;
    if (sizes->side_least > sizes->side_most)
        return yaml_fail(sides, reader->error, "least is more than most");
    if (sizes->side_least % sizes->multiple || sizes->side_most % sizes->multiple)
        return yaml_fail(sides, reader->error, "expected multiples of %d", sizes->multiple);
    return true;
}

// Whether the default is a size that the rules leave as it is.
static bool check_default(const struct size_rules *sizes) {
    struct size_request nothing = {0};
    struct size_result size = size_resolve(sizes, &nothing, 0, 0);
    return size.deliver_width == sizes->default_width && size.deliver_height == sizes->default_height;
}

static bool read_sizes(struct reader *reader, const struct yaml_node *root) {
    static const char *const keys[] = {"default", "multiple", "sides", "area", "ratios", "tiers"};
    struct size_rules *sizes = &reader->card->sizes;
    const struct yaml_node *map = yaml_need(root, "sizes", "default, sides, ratios, tiers", reader->error);
    if (!map || !yaml_known_keys(map, keys, 6, reader->error) || !read_sides(reader, map)) return false;
    const struct yaml_node *standard = yaml_need(map, "default", "WIDTHxHEIGHT", reader->error);
    const struct yaml_node *area = yaml_get(map, "area");
    const char *text;
    if (!standard || !yaml_text(standard, &text, reader->error)) return false;
    if (!size_read_pixels(text, &sizes->default_width, &sizes->default_height))
        return yaml_fail(standard, reader->error, "expected WIDTHxHEIGHT in pixels, found %.40s", text);
    double square = (double)sizes->side_least * sizes->side_least;
    if (area && !yaml_number(area, square, 4294967296.0, &sizes->area_most, reader->error)) return false;
    if (!check_default(sizes)) // their ratios are not read yet
        return yaml_fail(standard, reader->error, "expected a size within sides and area, found %.40s", text);
    if (!read_axis(reader, map, "ratios", size_read_ratio, "a ratio such as \"16:9\"", &sizes->ratios) ||
        !read_axis(reader, map, "tiers", size_read_tier, "a tier such as 1K or 0.25", &sizes->tiers))
        return false;
    return check_default(sizes) ||
           yaml_fail(standard, reader->error, "expected a size within ratios, found %.40s", text);
}

// --------------------------------------------------------------------------------------------------------------- limits

static bool read_limits(struct reader *reader, const struct yaml_node *root) {
    static const char *const reference_keys[] = {"most", "area"}, *const step_keys[] = {"default", "most"};
    struct model_card *card = reader->card;
    const struct yaml_node *references = yaml_get(root, "references"), *steps = yaml_get(root, "steps"),
                           *guidance = yaml_get(root, "guidance"), *area = yaml_get(references, "area");
    card->references_most = card->modes[MODE_EDIT] ? 4 : 0;
    card->reference_area = 1048576;
    card->prompt_most = 32000;
    card->images_most = 10;
    card->steps_most = 200;
    if (references && !yaml_known_keys(references, reference_keys, 2, reader->error)) return false;
    if (steps && !yaml_known_keys(steps, step_keys, 2, reader->error)) return false;
    if (area && !yaml_integer(area, 256, 1ll << 32, &card->reference_area, reader->error)) return false;
    if (guidance && !yaml_number(guidance, 0, 100, &card->guidance, reader->error)) return false;
    return integer(reader, references, "most", 1, PRICE_REFERENCES_MOST, &card->references_most) &&
           integer(reader, root, "prompt_most", 1, 32000, &card->prompt_most) &&
           integer(reader, root, "images_most", 1, 10, &card->images_most) &&
           integer(reader, steps, "most", 1, 200, &card->steps_most) &&
           integer(reader, steps, "default", 1, card->steps_most, &card->steps);
}

// What the common parameters say follows the card's own limits.
static void limit_parameters(struct model_card *card) {
    const struct {
        const char *name;
        int most;
    } limits[] = {{"prompt", card->prompt_most},
                  {"n", card->images_most},
                  {"image", card->references_most},
                  {"images", card->references_most},
                  {"steps", card->steps_most}};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct card_parameter *parameter =
            (struct card_parameter *)parameter_find(&card->parameters, limits[i].name);
        if (!parameter) continue;
        parameter->has_most = true;
        parameter->most = limits[i].most;
    }
}

// ------------------------------------------------------------------------------------------------------------ providers

// A map from mode to a name; only the card's modes.
static bool read_by_mode(struct reader *reader, const struct yaml_node *map, const char *names[MODE_COUNT]) {
    if (!yaml_is(map, YAML_TYPE_MAP, reader->error)) return false;
    for (int i = 0; i < map->count; i++) {
        enum image_mode mode;
        if (!mode_from_name(map->items[i].key, &mode) || !reader->card->modes[mode])
            return yaml_fail(&map->items[i], reader->error, "not one of the card's modes");
        if (!keep(reader, &map->items[i], &names[mode])) return false;
    }
    return true;
}

static bool read_provider(struct reader *reader, const struct yaml_node *map,
                          struct card_provider *provider) {
    static const char *const keys[] = {"slug",   "name",  "models",       "configs",
                                       "images", "price", "price_source", "price_effective"};
    const struct yaml_node *models, *configs = yaml_get(map, "configs"), *price = yaml_get(map, "price");
    provider->native_images = 1;
    if (!yaml_known_keys(map, keys, sizeof keys / sizeof *keys, reader->error) ||
        !needed(reader, map, "slug", "the provider's slug", &provider->slug))
        return false;
    if (!card_id_good(provider->slug))
        return yaml_fail(yaml_get(map, "slug"), reader->error, "expected a-z, 0-9, \".\", \"_\" and \"-\"");
    if (card_provider(reader->card, provider->slug))
        return yaml_fail(yaml_get(map, "slug"), reader->error, "%s is there already", provider->slug);
    provider->name = provider->slug;
    models = yaml_need(map, "models", "the provider's model by mode", reader->error);
    if (!models || !read_by_mode(reader, models, provider->model_ids)) return false;
    if (configs && !read_by_mode(reader, configs, provider->config_ids)) return false;
    for (int i = 0; i < MODE_COUNT; i++)
        if (provider->model_ids[i] && !provider->config_ids[i]) provider->config_ids[i] = reader->card->id;
    return optional(reader, map, "name", &provider->name) &&
           integer(reader, map, "images", 1, 10, &provider->native_images) &&
           optional(reader, map, "price_source", &provider->price_source) &&
           optional(reader, map, "price_effective", &provider->price_effective) &&
           (!price || price_list_read(price, &provider->price, reader->error));
}

static bool read_providers(struct reader *reader, const struct yaml_node *root) {
    struct model_card *card = reader->card;
    const struct yaml_node *list = yaml_need(root, "providers", "a list of providers", reader->error);
    if (!list || !yaml_is(list, YAML_TYPE_LIST, reader->error)) return false;
    if (list->count < 1 || list->count > CARD_PROVIDERS_MOST)
        return yaml_fail(list, reader->error, "expected 1 to %d providers", CARD_PROVIDERS_MOST);
    for (int i = 0; i < list->count; i++, card->provider_count++)
        if (!read_provider(reader, &list->items[i], &card->providers[i])) return false;
    return true;
}

static bool read_weights(struct reader *reader, const struct yaml_node *root) {
    struct model_card *card = reader->card;
    const struct yaml_node *map = yaml_get(root, "weights");
    return !map || card_weights_read(map, &card->arena, card->steps, &card->weights, reader->error);
}

// --------------------------------------------------------------------------------------------------------------- a card

static bool read_card(struct reader *reader, const struct yaml_node *root,
                      const struct card_parameters *common) {
    static const char *const keys[] = {
        "card",      "id",         "name",        "creator",     "creator_name",
        "family",    "status",     "release",     "licence",     "modes",
        "tags",      "aliases",    "summary",     "sizes",       "references",
        "steps",     "guidance",   "weights",     "sections",    "faq",
        "providers", "parameters", "prompt_most", "images_most", "alternative_names"};
    struct model_card *card = reader->card;
    card->file = arena_strdup(&card->arena, root->file);
    if (!card->file) return no_memory(reader->error);
    return yaml_known_keys(root, keys, sizeof keys / sizeof *keys, reader->error) &&
           read_identity(reader, root) && read_sizes(reader, root) && read_limits(reader, root) &&
           read_providers(reader, root) && read_weights(reader, root) &&
           parameters_change(common, yaml_get(root, "parameters"), &card->arena, &card->parameters,
                             reader->error);
}

struct model_card *card_read(const struct yaml_node *root, const struct card_parameters *common,
                             struct error *error) {
    struct model_card *card = calloc(1, sizeof *card);
    struct reader reader = {card, error};
    if (!card) {
        no_memory(error);
        return NULL;
    }
    if (read_card(&reader, root, common)) {
        limit_parameters(card);
        return card;
    }
    card_free(card);
    return NULL;
}

void card_free(struct model_card *card) {
    if (card) arena_free(&card->arena);
    free(card);
}

void card_mode_names(const struct model_card *card, char *text, size_t size) {
    size_t used = 0;
    if (size) *text = 0;
    for (int i = 0; i < MODE_COUNT && used < size; i++)
        if (card->modes[i])
            used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "",
                                     mode_name((enum image_mode)i));
}

const struct card_provider *card_provider(const struct model_card *card, const char *slug) {
    for (int i = 0; i < card->provider_count; i++)
        if (!strcmp(card->providers[i].slug, slug)) return &card->providers[i];
    return NULL;
}

bool card_offers(const struct model_card *card, const char *parameter, const char *provider) {
    const struct card_parameter *found = parameter_find(&card->parameters, parameter);
    return found && parameter_handling(found, provider) != PARAMETER_REFUSED;
}
