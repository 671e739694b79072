// See parameter.h: names and reading; parameter_schema.c writes them as JSON Schema.
#include "catalog/parameter.h"

#include <stdlib.h>
#include <string.h>

static const char *const MODES[] = {"text-to-image", "image-edit"};
static const char *const HANDLINGS[] = {"ignored",   "passthrough", "renamed",
                                        "converted", "emulated",    "refused"};
static const char *const TYPES[] = {"text", "integer", "number", "boolean", "file", "numbers", "object"};
enum { HANDLING_COUNT = sizeof HANDLINGS / sizeof *HANDLINGS, TYPE_COUNT = sizeof TYPES / sizeof *TYPES };

#define PARAMETERS_MOST 100

const char *mode_name(enum image_mode mode) {
    return MODES[mode];
}

const char *mode_title(enum image_mode mode) {
    return mode == MODE_GENERATION ? "Text to Image" : "Image Edit";
}

bool mode_from_name(const char *name, enum image_mode *mode) {
    for (int i = 0; i < MODE_COUNT; i++) {
        if (strcmp(name, MODES[i])) continue;
        *mode = (enum image_mode)i;
        return true;
    }
    return false;
}

const char *parameter_handling_name(enum parameter_handling handling) {
    return HANDLINGS[handling];
}

const char *parameter_type_name(enum parameter_type type) {
    return TYPES[type];
}

const struct card_parameter *parameter_find(const struct card_parameters *list, const char *name) {
    for (int i = 0; i < list->count; i++)
        if (!strcmp(list->items[i].name, name)) return &list->items[i];
    return NULL;
}

static const struct parameter_use *use_of(const struct card_parameter *parameter, const char *provider) {
    for (int i = 0; i < parameter->use_count; i++)
        if (!strcmp(parameter->uses[i].provider, provider)) return &parameter->uses[i];
    return NULL;
}

enum parameter_handling parameter_handling(const struct card_parameter *parameter, const char *provider) {
    const struct parameter_use *use = use_of(parameter, provider);
    if (use) return use->handling;
    return strcmp(provider, "local") ? PARAMETER_PASSTHROUGH : PARAMETER_IGNORED;
}

const char *parameter_field(const struct card_parameter *parameter, const char *provider) {
    const struct parameter_use *use = use_of(parameter, provider);
    return use && use->field ? use->field : parameter->name;
}

// ------------------------------------------------------------------------------------------------------------ reading

struct reader {
    struct arena *arena;
    struct error *error;
};

static bool keep(struct reader *reader, const char *text, const char **to) {
    *to = arena_strdup(reader->arena, text);
    return *to || error_set(reader->error, ERROR_MEMORY, "not enough memory for the catalog");
}

static bool keep_text(struct reader *reader, const struct yaml_node *node, const char **to) {
    const char *text;
    return yaml_text(node, &text, reader->error) && keep(reader, text, to);
}

bool modes_read(const struct yaml_node *node, bool modes[MODE_COUNT], struct error *error) {
    if (!yaml_is(node, YAML_TYPE_LIST, error)) return false;
    memset(modes, 0, MODE_COUNT * sizeof *modes);
    for (int i = 0; i < node->count; i++) {
        int mode;
        if (!yaml_word(&node->items[i], MODES, MODE_COUNT, &mode, error)) return false;
        if (modes[mode]) return yaml_fail(&node->items[i], error, "named a second time");
        modes[mode] = true;
    }
    return true;
}

static bool read_values(struct reader *reader, const struct yaml_node *node,
                        struct card_parameter *parameter) {
    if (!yaml_is(node, YAML_TYPE_LIST, reader->error)) return false;
    if (node->count > PARAMETER_VALUES_MOST)
        return yaml_fail(node, reader->error, "more than %d values", PARAMETER_VALUES_MOST);
    parameter->value_count = 0;
    for (int i = 0; i < node->count; i++)
        if (!keep_text(reader, &node->items[i], &parameter->values[parameter->value_count++])) return false;
    return true;
}

// "renamed", or {handling: renamed, field: image_urls}.
static bool read_use(struct reader *reader, const struct yaml_node *node, struct card_parameter *parameter) {
    static const char *const keys[] = {"handling", "field"};
    struct parameter_use use = {0};
    const struct yaml_node *word = node, *field = NULL;
    int handling, at = 0;
    if (node->type == YAML_TYPE_MAP) {
        if (!yaml_known_keys(node, keys, 2, reader->error)) return false;
        word = yaml_need(node, "handling", "one of ignored, passthrough, ...", reader->error);
        field = yaml_get(node, "field");
        if (!word) return false;
    }
    if (!yaml_word(word, HANDLINGS, HANDLING_COUNT, &handling, reader->error)) return false;
    if (!keep(reader, node->key, &use.provider) || (field && !keep_text(reader, field, &use.field)))
        return false;
    use.handling = (enum parameter_handling)handling;
    while (at < parameter->use_count && strcmp(parameter->uses[at].provider, use.provider)) at++;
    if (at == PARAMETER_PROVIDERS_MOST)
        return yaml_fail(node, reader->error, "more than %d providers", PARAMETER_PROVIDERS_MOST);
    parameter->uses[at] = use;
    if (at == parameter->use_count) parameter->use_count++;
    return true;
}

static bool read_uses(struct reader *reader, const struct yaml_node *node, struct card_parameter *parameter) {
    if (!yaml_is(node, YAML_TYPE_MAP, reader->error)) return false;
    for (int i = 0; i < node->count; i++)
        if (!read_use(reader, &node->items[i], parameter)) return false;
    return true;
}

static json_t *standard_value(const struct yaml_node *node, const struct card_parameter *parameter,
                              struct error *error) {
    int64_t integer;
    double number;
    bool flag;
    int index;
    switch (parameter->type) {
    case PARAMETER_INTEGER:
        return yaml_integer(node, INT64_MIN, INT64_MAX, &integer, error) ? json_integer(integer) : NULL;
    case PARAMETER_NUMBER:
        return yaml_number(node, -1e300, 1e300, &number, error) ? json_real(number) : NULL;
    case PARAMETER_BOOLEAN:
        return yaml_bool(node, &flag, error) ? json_boolean(flag) : NULL;
    case PARAMETER_TEXT:
        if (!yaml_is(node, YAML_TYPE_TEXT, error)) return NULL;
        if (parameter->value_count &&
            !yaml_word(node, parameter->values, parameter->value_count, &index, error))
            return NULL;
        return json_string(node->text);
    default:
        yaml_fail(node, error, "a %s has no default", TYPES[parameter->type]);
        return NULL;
    }
}

static bool read_standard(struct reader *reader, const struct yaml_node *node,
                          struct card_parameter *parameter) {
    json_t *value = standard_value(node, parameter, reader->error);
    if (!value) return error_set(reader->error, ERROR_MEMORY, "not enough memory for the catalog");
    double number = json_is_number(value) ? json_number_value(value) : 0;
    bool outside = json_is_number(value) && ((parameter->has_least && number < parameter->least) ||
                                             (parameter->has_most && number > parameter->most));
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    bool good = text && keep(reader, text, &parameter->standard);
    free(text);
    json_decref(value);
    if (outside) return yaml_fail(node, reader->error, "outside of least and most");
    return good || error_set(reader->error, ERROR_MEMORY, "not enough memory for the catalog");
}

// {transparent: {output_format: jpeg}}
static bool read_not_with(struct reader *reader, const struct yaml_node *node,
                          struct card_parameter *parameter) {
    const struct yaml_node *other = node->type == YAML_TYPE_MAP && node->count == 1 ? &node->items[0] : NULL;
    if (!other || other->type != YAML_TYPE_MAP || other->count != 1)
        return yaml_fail(node, reader->error, "expected {value: {other parameter: its value}}");
    return keep(reader, other->key, &parameter->not_with.value) &&
           keep(reader, other->items[0].key, &parameter->not_with.other) &&
           keep_text(reader, &other->items[0], &parameter->not_with.other_value);
}

static bool read_limit(struct reader *reader, const struct yaml_node *map, const char *key, bool *has,
                       double *value) {
    const struct yaml_node *node = yaml_get(map, key);
    if (!node) return true;
    *has = true;
    return yaml_number(node, -1e18, 1e18, value, reader->error);
}

// The parts that a card may change too.
static bool read_changeable(struct reader *reader, const struct yaml_node *map,
                            struct card_parameter *parameter) {
    const struct yaml_node *text = yaml_get(map, "text"), *modes = yaml_get(map, "modes"),
                           *required = yaml_get(map, "required"), *values = yaml_get(map, "values"),
                           *standard = yaml_get(map, "default"), *uses = yaml_get(map, "handling");
    if (text && !keep_text(reader, text, &parameter->text)) return false;
    if (modes && !modes_read(modes, parameter->modes, reader->error)) return false;
    if (required && !modes_read(required, parameter->required, reader->error)) return false;
    if (values && !read_values(reader, values, parameter)) return false;
    if (!read_limit(reader, map, "least", &parameter->has_least, &parameter->least) ||
        !read_limit(reader, map, "most", &parameter->has_most, &parameter->most))
        return false;
    if (parameter->has_least && parameter->has_most && parameter->least > parameter->most)
        return yaml_fail(map, reader->error, "least is more than most");
    if (standard && !read_standard(reader, standard, parameter)) return false;
    return !uses || read_uses(reader, uses, parameter);
}

static bool read_parameter(struct reader *reader, const struct yaml_node *map,
                           struct card_parameter *parameter) {
    static const char *const keys[] = {"name",     "type",     "group",   "text", "modes",
                                       "required", "values",   "least",   "most", "default",
                                       "same_as",  "handling", "not_with"};
    int type;
    *parameter = (struct card_parameter){.modes = {true, true}, .text = ""};
    if (!yaml_known_keys(map, keys, sizeof keys / sizeof *keys, reader->error)) return false;
    const struct yaml_node *name = yaml_need(map, "name", "what the parameter is called", reader->error);
    const struct yaml_node *kind = name ? yaml_need(map, "type", "text, integer, ...", reader->error) : NULL;
    const struct yaml_node *group = kind ? yaml_need(map, "group", "core, layout, ...", reader->error) : NULL;
    if (!group || !keep_text(reader, name, &parameter->name) || !keep_text(reader, group, &parameter->group))
        return false;
    if (!yaml_word(kind, TYPES, TYPE_COUNT, &type, reader->error)) return false;
    parameter->type = (enum parameter_type)type;
    const struct yaml_node *same = yaml_get(map, "same_as");
    if (same && !keep_text(reader, same, &parameter->same_as)) return false;
    const struct yaml_node *not_with = yaml_get(map, "not_with");
    if (not_with && !read_not_with(reader, not_with, parameter)) return false;
    return read_changeable(reader, map, parameter);
}

bool parameters_read(const struct yaml_node *root, struct arena *arena, struct card_parameters *list,
                     struct error *error) {
    struct reader reader = {arena, error};
    if (!yaml_is(root, YAML_TYPE_LIST, error)) return false;
    if (root->count > PARAMETERS_MOST)
        return yaml_fail(root, error, "more than %d parameters", PARAMETERS_MOST);
    *list = (struct card_parameters){
        arena_alloc(arena, (size_t)(root->count + 1) * sizeof(struct card_parameter)), 0};
    if (!list->items) return error_set(error, ERROR_MEMORY, "not enough memory for the catalog");
    for (int i = 0; i < root->count; i++) {
        struct card_parameter *parameter = &list->items[list->count];
        if (!read_parameter(&reader, &root->items[i], parameter)) return false;
        if (parameter_find(list, parameter->name))
            return yaml_fail(&root->items[i], error, "%s is there already", parameter->name);
        list->count++;
    }
    return true;
}

// Copies are flat: what they point to stays in the common list's arena, which lives as long as the catalog.
bool parameters_change(const struct card_parameters *common, const struct yaml_node *changes,
                       struct arena *arena, struct card_parameters *list, struct error *error) {
    static const char *const keys[] = {"text",  "modes", "required", "values",
                                       "least", "most",  "default",  "handling"};
    struct reader reader = {arena, error};
    size_t size = (size_t)(common->count + 1) * sizeof(struct card_parameter);
    *list = (struct card_parameters){arena_alloc(arena, size), common->count};
    if (!list->items) return error_set(error, ERROR_MEMORY, "not enough memory for the catalog");
    if (common->count) memcpy(list->items, common->items, (size_t)common->count * sizeof *common->items);
    if (!changes) return true;
    const char *names[PARAMETERS_MOST];
    for (int i = 0; i < common->count; i++) names[i] = common->items[i].name;
    if (!yaml_known_keys(changes, names, common->count, error)) return false;
    for (int i = 0; i < changes->count; i++) {
        const struct yaml_node *change = &changes->items[i];
        struct card_parameter *parameter = (struct card_parameter *)parameter_find(list, change->key);
        if (!yaml_known_keys(change, keys, sizeof keys / sizeof *keys, error) ||
            !read_changeable(&reader, change, parameter))
            return false;
    }
    return true;
}
