// Values of limn.yaml: from texts and nodes into the struct, and back into YAML. See config_keys.h.
#include "catalog/config_keys.h"

#include "base/buffer.h"
#include "base/yaml.h"
#include "text/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXPECTED_MOST 240

struct unit {
    const char *name;
    double factor;
};
static const struct unit TIMES[] = {{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}, {"ms", 0.001}, {"", 1}};
static const struct unit SIZES[] = {{"TiB", 1099511627776.0},
                                    {"GiB", 1073741824.0},
                                    {"MiB", 1048576.0},
                                    {"KiB", 1024.0},
                                    {"TB", 1e12},
                                    {"GB", 1e9},
                                    {"MB", 1e6},
                                    {"KB", 1e3},
                                    {"kB", 1e3},
                                    {"B", 1},
                                    {"", 1}};
enum { TIME_COUNT = sizeof TIMES / sizeof *TIMES, SIZE_COUNT = sizeof SIZES / sizeof *SIZES };

static void *at(const struct config *config, const struct config_key *key) {
    return (char *)(uintptr_t)config + key->offset;
}

// -------------------------------------------------------------------------------------------------------- from a text

// A decimal number of at most twelve digits with one of the units behind it.
static bool read_measure(const char *text, const struct unit *units, int count, double *value) {
    double number = 0, place = 1;
    int digits = 0;
    for (; isdigit((unsigned char)*text); text++, digits++) number = number * 10 + (*text - '0');
    if (digits && *text == '.' && isdigit((unsigned char)text[1]))
        for (text++; isdigit((unsigned char)*text); text++, digits++) number += (*text - '0') * (place /= 10);
    if (digits < 1 || digits > 16) return false;
    while (*text == ' ') text++;
    for (int i = 0; i < count; i++)
        if (!strcmp(text, units[i].name)) {
            *value = number * units[i].factor;
            return true;
        }
    return false;
}

static bool read_whole(const char *text, double *value) {
    char *end;
    errno = 0;
    long long number = isdigit((unsigned char)text[*text == '-']) ? strtoll(text, &end, 10) : 0;
    if (!isdigit((unsigned char)text[*text == '-']) || errno || *end) return false;
    *value = (double)number;
    return true;
}

static bool read_words(const struct config_key *key, const char *text, int *index) {
    size_t length = strlen(text);
    const char *word = key->words;
    for (int place = 0; *word; place++) {
        size_t size = strcspn(word, " ");
        if (length == size && !memcmp(word, text, size)) {
            *index = place;
            return true;
        }
        word += size + (word[size] == ' ');
    }
    return false;
}

// The shortest way to write a value with a unit.
static void show_measure(double value, const struct unit *units, int count, char *text, size_t size) {
    double best = INFINITY;
    snprintf(text, size, "%.9g%s", value, value != 0 && units == TIMES ? "s" : "");
    for (int i = 0; i < count; i++) {
        double number = value / units[i].factor;
        if (number < 1 || number != floor(number) || number >= best || !*units[i].name) continue;
        best = number;
        snprintf(text, size, "%.0f%s", number, units[i].name);
    }
}

static void describe(const struct config_key *key, char expected[EXPECTED_MOST]) {
    char least[40], most[40];
    switch (key->type) {
    case CONFIG_BOOL:
        snprintf(expected, EXPECTED_MOST, "true or false");
        return;
    case CONFIG_INTEGER:
    case CONFIG_COUNT:
        snprintf(expected, EXPECTED_MOST, "an integer from %.0f to %.0f", key->least, key->most);
        return;
    case CONFIG_SECONDS:
        show_measure(key->least, TIMES, TIME_COUNT, least, sizeof least);
        show_measure(key->most, TIMES, TIME_COUNT, most, sizeof most);
        snprintf(expected, EXPECTED_MOST, "a time such as 90s, 10m, 24h or 30d, from %s to %s", least, most);
        return;
    case CONFIG_BYTES:
        show_measure(key->least, SIZES, SIZE_COUNT, least, sizeof least);
        show_measure(key->most, SIZES, SIZE_COUNT, most, sizeof most);
        snprintf(expected, EXPECTED_MOST, "a number of bytes such as 50MiB or 10GB, from %s to %s", least,
                 most);
        return;
    case CONFIG_WORD:
        snprintf(expected, EXPECTED_MOST, "one of %s", key->words);
        for (char *c = expected + 7; *c; c++)
            if (*c == ' ') *c = '|';
        return;
    default:
        snprintf(expected, EXPECTED_MOST, "a text of at most 4000 bytes");
        return;
    }
}

// Sets a key of a plain type; false when [text] is none of it. *expected says what would have been.
static bool set_plain(struct config *config, const struct config_key *key, const char *text,
                      char expected[EXPECTED_MOST], struct error *error) {
    double number = 0;
    const char *copy, *other;
    describe(key, expected);
    switch (key->type) {
    case CONFIG_BOOL:
        *(bool *)at(config, key) = !strcmp(text, "true");
        return !strcmp(text, "true") || !strcmp(text, "false");
    case CONFIG_INTEGER:
        if (!read_whole(text, &number) || number < key->least || number > key->most) return false;
        *(int *)at(config, key) = (int)number;
        return true;
    case CONFIG_COUNT:
        if (!read_whole(text, &number) || number < key->least || number > key->most) return false;
        *(int64_t *)at(config, key) = (int64_t)number;
        return true;
    case CONFIG_SECONDS:
        if (!read_measure(text, TIMES, TIME_COUNT, &number) || number < key->least || number > key->most)
            return false;
        *(double *)at(config, key) = number;
        return true;
    case CONFIG_BYTES:
        if (!read_measure(text, SIZES, SIZE_COUNT, &number) || number < key->least || number > key->most)
            return false;
        *(int64_t *)at(config, key) = (int64_t)number;
        return true;
    case CONFIG_WORD:
        return read_words(key, text, at(config, key));
    default:
        break;
    }
    other = key->check ? key->check(text) : NULL;
    if (other) snprintf(expected, EXPECTED_MOST, "%s", other);
    if (other || strlen(text) > 4000) return false;
    copy = arena_strdup(&config->arena, text);
    if (!copy) return error_set(error, ERROR_MEMORY, "not enough memory for the configuration");
    *(const char **)at(config, key) = copy;
    return true;
}

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for the configuration");
}

static bool set_list_text(struct config *config, const struct config_key *key, const char *text,
                          const char *from, struct error *error) {
    struct config_texts *list = at(config, key);
    int capacity = 1;
    for (const char *c = text; *c; c++) capacity += *c == ',';
    *list = (struct config_texts){arena_alloc(&config->arena, (size_t)capacity * sizeof(char *)), 0};
    if (!list->items) return no_memory(error);
    while (*text) {
        text += strspn(text, " ");
        size_t length = strcspn(text, ","), used = length;
        while (used && text[used - 1] == ' ') used--;
        const char *item = arena_strndup(&config->arena, text, used);
        if (!item) return no_memory(error);
        const char *expected = used && key->check ? key->check(item) : NULL;
        if (expected)
            return error_set(error, ERROR_INPUT, "%s: expected %s, found %.60s", from, expected, item);
        if (used) list->items[list->count++] = item;
        text += length + (text[length] == ',');
    }
    return true;
}

// Maps and bracketed lists in a variable are YAML.
static bool set_yaml_text(struct config *config, const struct config_key *key, const char *text,
                          const char *from, struct error *error) {
    struct yaml *yaml = yaml_parse(from, text, strlen(text), error);
    bool good = yaml && config_set_node(config, key, yaml_root(yaml), error);
    yaml_close(yaml);
    return good;
}

bool config_set_text(struct config *config, const struct config_key *key, const char *text, const char *from,
                     struct error *error) {
    char expected[EXPECTED_MOST];
    if (!utf8_valid(text, strlen(text)))
        return error_set(error, ERROR_INPUT, "%s: expected text in UTF-8", from);
    bool map = key->type == CONFIG_PAIRS || key->type == CONFIG_PRICES || key->type == CONFIG_LORAS;
    if (map && !*text) return true;
    if (map || (key->type == CONFIG_TEXTS && *text == '['))
        return set_yaml_text(config, key, text, from, error);
    if (key->type == CONFIG_TEXTS) return set_list_text(config, key, text, from, error);
    if (set_plain(config, key, text, expected, error)) return true;
    return error_set(error, ERROR_INPUT, "%s: expected %s, found \"%.60s\"", from, expected, text);
}

// -------------------------------------------------------------------------------------------------------- from a node

static bool set_list_node(struct config *config, const struct config_key *key, const struct yaml_node *node,
                          struct error *error) {
    struct config_texts *list = at(config, key);
    const struct yaml_node *items = node->type == YAML_TYPE_TEXT ? node : node->items;
    int count = node->type == YAML_TYPE_TEXT ? 1 : node->count;
    if (node->type != YAML_TYPE_TEXT && !yaml_is(node, YAML_TYPE_LIST, error)) return false;
    *list = (struct config_texts){arena_alloc(&config->arena, (size_t)(count + 1) * sizeof(char *)), 0};
    if (!list->items) return no_memory(error);
    for (int i = 0; i < count; i++) {
        const char *text;
        if (!yaml_text(&items[i], &text, error)) return false;
        const char *expected = key->check ? key->check(text) : NULL;
        if (expected) return yaml_fail(&items[i], error, "expected %s, found %.60s", expected, text);
        list->items[i] = arena_strdup(&config->arena, text);
        if (!list->items[i]) return no_memory(error);
        list->count++;
    }
    return true;
}

static bool set_pairs_node(struct config *config, const struct config_key *key, const struct yaml_node *node,
                           struct error *error) {
    struct config_pairs *pairs = at(config, key);
    if (!yaml_is(node, YAML_TYPE_MAP, error)) return false;
    *pairs = (struct config_pairs){
        arena_alloc(&config->arena, (size_t)(node->count + 1) * sizeof(struct config_pair)), 0};
    if (!pairs->items) return no_memory(error);
    for (int i = 0; i < node->count; i++) {
        const struct yaml_node *item = &node->items[i];
        const char *text;
        if (!yaml_text(item, &text, error)) return false;
        const char *expected = key->check ? key->check(text) : NULL;
        if (expected) return yaml_fail(item, error, "expected %s, found %.60s", expected, text);
        struct config_pair *pair = &pairs->items[pairs->count++];
        pair->name = arena_strdup(&config->arena, item->key);
        pair->value = arena_strdup(&config->arena, text);
        if (!pair->name || !pair->value) return no_memory(error);
    }
    return true;
}

static bool set_prices_node(struct config *config, const struct config_key *key, const struct yaml_node *node,
                            struct error *error) {
    struct config_prices *prices = at(config, key);
    if (!yaml_is(node, YAML_TYPE_MAP, error)) return false;
    *prices = (struct config_prices){
        arena_alloc(&config->arena, (size_t)(node->count + 1) * sizeof(struct config_price)), 0};
    if (!prices->items) return no_memory(error);
    for (int i = 0; i < node->count; i++) {
        struct config_price *price = &prices->items[prices->count];
        if (!price_list_read(&node->items[i], &price->list, error)) return false;
        price->model = arena_strdup(&config->arena, node->items[i].key);
        if (!price->model) return no_memory(error);
        prices->count++;
    }
    return true;
}

bool config_set_node(struct config *config, const struct config_key *key, const struct yaml_node *node,
                     struct error *error) {
    char expected[EXPECTED_MOST];
    if (node->type == YAML_TYPE_NULL) return true; // as if it were not there
    if (key->type == CONFIG_TEXTS) return set_list_node(config, key, node, error);
    if (key->type == CONFIG_PAIRS) return set_pairs_node(config, key, node, error);
    if (key->type == CONFIG_PRICES) return set_prices_node(config, key, node, error);
    if (key->type == CONFIG_LORAS) return config_set_loras(config, at(config, key), node, error);
    describe(key, expected);
    if (node->type != YAML_TYPE_TEXT)
        return yaml_fail(node, error, "expected %s, found a %s", expected,
                         node->type == YAML_TYPE_LIST ? "list" : "map");
    if (set_plain(config, key, node->text, expected, error)) return true;
    return yaml_fail(node, error, "expected %s, found %.60s", expected, *node->text ? node->text : "\"\"");
}

// --------------------------------------------------------------------------------------------------------- to a text

// What libyaml reads raw and does not take for a line break.
static bool is_plain(int32_t point) {
    if (point < 0x80) return point >= 0x20 && point < 0x7f && point != '"' && point != '\\';
    return point >= 0xa0 && point != 0x2028 && point != 0x2029 && point != 0xfeff && point != 0xfffe &&
           point != 0xffff;
}

// A text in double quotes, as YAML reads it.
bool config_add_quoted(struct buffer *out, const char *text) {
    bool good = buffer_add_string(out, "\"");
    for (size_t left = strlen(text); good && left;) {
        int32_t point;
        size_t size = utf8_decode(text, left, &point);
        if (is_plain(point))
            good = buffer_add(out, text, size);
        else
            good = buffer_printf(out, "\\U%08x", (unsigned)point);
        text += size;
        left -= size;
    }
    return good && buffer_add_string(out, "\"");
}

static bool add_prices(struct buffer *out, const struct config_prices *prices) {
    bool good = buffer_add_string(out, "{");
    for (int i = 0; good && i < prices->count; i++) {
        const struct price_list *list = &prices->items[i].list;
        good = buffer_add_string(out, i ? ", " : "") && config_add_quoted(out, prices->items[i].model) &&
               buffer_add_string(out, ": {");
        for (int k = 0; good && k < list->count; k++) {
            const struct price_component *component = &list->components[k];
            char number[40];
            snprintf(number, sizeof number, "%lld.%012lld",
                     (long long)(component->unit_picos / 1000000000000),
                     (long long)(component->unit_picos % 1000000000000));
            for (size_t end = strlen(number) - 1; number[end] == '0' && number[end - 1] != '.'; end--)
                number[end] = 0;
            good = buffer_printf(out, "%s%s_%s: %s", k ? ", " : "", price_side_name(component->side),
                                 price_metric_name(component->metric), number);
        }
        good = good && buffer_add_string(out, "}");
    }
    return good && buffer_add_string(out, "}");
}

static bool add_texts(struct buffer *out, const struct config_texts *list) {
    bool good = buffer_add_string(out, "[");
    for (int i = 0; good && i < list->count; i++)
        good = buffer_add_string(out, i ? ", " : "") && config_add_quoted(out, list->items[i]);
    return good && buffer_add_string(out, "]");
}

static bool add_pairs(struct buffer *out, const struct config_pairs *pairs) {
    bool good = buffer_add_string(out, "{");
    for (int i = 0; good && i < pairs->count; i++)
        good = buffer_add_string(out, i ? ", " : "") && config_add_quoted(out, pairs->items[i].name) &&
               buffer_add_string(out, ": ") && config_add_quoted(out, pairs->items[i].value);
    return good && buffer_add_string(out, "}");
}

bool config_add_value(const struct config *config, const struct config_key *key, struct buffer *out) {
    const void *value = at(config, key);
    const char *word = key->words;
    char text[60];
    switch (key->type) {
    case CONFIG_BOOL:
        return buffer_add_string(out, *(const bool *)value ? "true" : "false");
    case CONFIG_INTEGER:
        return buffer_printf(out, "%d", *(const int *)value);
    case CONFIG_COUNT:
        return buffer_printf(out, "%lld", (long long)*(const int64_t *)value);
    case CONFIG_SECONDS:
        show_measure(*(const double *)value, TIMES, TIME_COUNT, text, sizeof text);
        return buffer_add_string(out, text);
    case CONFIG_BYTES:
        show_measure((double)*(const int64_t *)value, SIZES, SIZE_COUNT, text, sizeof text);
        return buffer_add_string(out, text);
    case CONFIG_TEXT:
        return config_add_quoted(out, *(const char *const *)value);
    case CONFIG_WORD:
        for (int i = *(const int *)value; i > 0; i--) word += strcspn(word, " ") + 1;
        return buffer_add(out, word, strcspn(word, " "));
    case CONFIG_TEXTS:
        return add_texts(out, value);
    case CONFIG_PAIRS:
        return add_pairs(out, value);
    case CONFIG_PRICES:
        return add_prices(out, value);
    case CONFIG_LORAS:
        return config_add_loras(value, out);
    }
    return false;
}
