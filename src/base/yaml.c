// See yaml.h. Relies on libyaml's events, not its document tree: the limits hold while the file is read.
#include "base/yaml.h"

#include "base/arena.h"
#include "base/file.h"
#include "base/near.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h> // defines: yaml_parser_t, yaml_event_t

#define ANCHORS_MOST 64
#define KEYS_MOST    4000 // in one map
#define TEXT_SHOWN   40

struct anchor {
    const char *name;
    const struct yaml_node *node; // NULL while it is being read
    int weight;
};

struct yaml {
    struct arena arena;
    const char *name;
    struct yaml_node root;
    struct anchor anchors[ANCHORS_MOST];
    int anchor_count;
    int nodes; // as the tree would be walked: what an alias stands for counts again
};

// A file being read.
struct reader {
    struct yaml *yaml;
    yaml_parser_t parser;
    yaml_event_t event; // the current one
    struct error *error;
};

const struct yaml_node *yaml_root(const struct yaml *yaml) {
    return &yaml->root;
}

void yaml_close(struct yaml *yaml) {
    if (!yaml) return;
    arena_free(&yaml->arena);
    free(yaml);
}

// ----------------------------------------------------------------------------------------------------------- reading

static bool fail_at(struct reader *reader, size_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool fail_at(struct reader *reader, size_t line, const char *format, ...) {
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_set(reader->error, ERROR_INPUT, "%s:%zu: %s", reader->yaml->name, line + 1, text);
}

static bool no_memory(struct reader *reader) {
    return error_set(reader->error, ERROR_MEMORY, "%s: not enough memory to read it", reader->yaml->name);
}

static bool next(struct reader *reader) {
    yaml_event_delete(&reader->event);
    if (yaml_parser_parse(&reader->parser, &reader->event)) return true;
    const yaml_parser_t *parser = &reader->parser;
    if (parser->error == YAML_MEMORY_ERROR) return no_memory(reader);
    size_t line = parser->error == YAML_READER_ERROR ? parser->mark.line : parser->problem_mark.line;
    return fail_at(reader, line, "%s%s%s", parser->problem ? parser->problem : "not readable as YAML",
                   parser->context ? ", " : "", parser->context ? parser->context : "");
}

static bool count_nodes(struct reader *reader, size_t line, int weight) {
    if (weight > YAML_NODES_MOST - reader->yaml->nodes)
        return fail_at(reader, line, "more than %d values, aliases counted each time", YAML_NODES_MOST);
    reader->yaml->nodes += weight;
    return true;
}

static bool is_null(const yaml_event_t *event) {
    static const char *const words[] = {"", "~", "null", "Null", "NULL"};
    if (event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE) return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp((const char *)event->data.scalar.value, words[i])) return true;
    return false;
}

static bool read_scalar(struct reader *reader, struct yaml_node *node) {
    const yaml_event_t *event = &reader->event;
    const char *value = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    if (memchr(value, 0, length)) return fail_at(reader, event->start_mark.line, "a 0 byte in a text");
    if (is_null(event)) return true;
    node->type = YAML_TYPE_TEXT;
    node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node->text = arena_strndup(&reader->yaml->arena, value, length);
    return node->text || no_memory(reader);
}

static bool read_node(struct reader *reader, struct yaml_node *node, int depth);

// Makes room for one more item; items double, in the arena.
static struct yaml_node *add_item(struct reader *reader, struct yaml_node *node, int *capacity) {
    if (node->count == *capacity) {
        int wanted = *capacity ? 2 * *capacity : 4;
        struct yaml_node *items =
            arena_alloc(&reader->yaml->arena, (size_t)wanted * sizeof(struct yaml_node));
        if (!items) {
            no_memory(reader);
            return NULL;
        }
        if (node->count) memcpy(items, node->items, (size_t)node->count * sizeof *items);
        node->items = items;
        *capacity = wanted;
    }
    struct yaml_node *item = (struct yaml_node *)&node->items[node->count];
    *item = (struct yaml_node){.file = node->file, .parent = node, .index = node->count, .text = ""};
    node->count++;
    return item;
}

// The key of a map's next member, which is the current event.
static bool read_key(struct reader *reader, const struct yaml_node *map, struct yaml_node *item) {
    const yaml_event_t *event = &reader->event;
    size_t line = event->start_mark.line, length = event->data.scalar.length;
    const char *key = (const char *)event->data.scalar.value;
    if (event->type != YAML_SCALAR_EVENT)
        return fail_at(reader, line, "a key that is no plain text; expected name: value");
    if (memchr(key, 0, length) || length > 200) return fail_at(reader, line, "a key longer than 200 bytes");
    if (event->data.scalar.anchor || event->data.scalar.tag)
        return fail_at(reader, line, "an anchor or a tag on a key");
    if (map->count > KEYS_MOST) return fail_at(reader, line, "more than %d keys in one map", KEYS_MOST);
    for (int i = 0; i < map->count - 1; i++)
        if (!strcmp(map->items[i].key, key))
            return fail_at(reader, line, "%.100s: a second time; the first is in line %d", key,
                           map->items[i].line);
    item->line = (int)line + 1;
    item->key = arena_strdup(&reader->yaml->arena, key);
    return item->key || no_memory(reader);
}

static bool read_items(struct reader *reader, struct yaml_node *node, int depth) {
    bool map = reader->event.type == YAML_MAPPING_START_EVENT;
    int capacity = 0;
    node->type = map ? YAML_TYPE_MAP : YAML_TYPE_LIST;
    for (;;) {
        if (!next(reader)) return false;
        if (reader->event.type == YAML_MAPPING_END_EVENT || reader->event.type == YAML_SEQUENCE_END_EVENT)
            return true;
        struct yaml_node *item = add_item(reader, node, &capacity);
        if (!item) return false;
        if (map && (!read_key(reader, node, item) || !next(reader))) return false;
        if (!read_node(reader, item, depth + 1)) return false;
    }
}

// After items have moved to their last place, their own items point to them again.
static void settle_parents(struct yaml_node *node) {
    for (int i = 0; i < node->count; i++) {
        struct yaml_node *item = (struct yaml_node *)&node->items[i];
        item->parent = node;
        for (int k = 0; k < item->count; k++) ((struct yaml_node *)&item->items[k])->parent = item;
    }
}

static struct anchor *find_anchor(struct yaml *yaml, const char *name) {
    for (int i = yaml->anchor_count - 1; i >= 0; i--)
        if (!strcmp(yaml->anchors[i].name, name)) return &yaml->anchors[i];
    return NULL;
}

static bool read_alias(struct reader *reader, struct yaml_node *node) {
    const char *name = (const char *)reader->event.data.alias.anchor;
    size_t line = reader->event.start_mark.line;
    const struct anchor *anchor = find_anchor(reader->yaml, name);
    if (!anchor) return fail_at(reader, line, "*%.60s: there is no such anchor above it", name);
    if (!anchor->node) return fail_at(reader, line, "*%.60s: an alias inside its own anchor", name);
    if (!count_nodes(reader, line, anchor->weight)) return false;
    node->type = anchor->node->type;
    node->text = anchor->node->text;
    node->quoted = anchor->node->quoted;
    node->items = anchor->node->items; // shared: their paths are those of the anchor
    node->count = anchor->node->count;
    return true;
}

static const yaml_char_t *anchor_of(const yaml_event_t *event) {
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.anchor;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.anchor;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.anchor;
    default:
        return NULL;
    }
}

static const yaml_char_t *tag_of(const yaml_event_t *event) {
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.tag;
    default:
        return NULL;
    }
}

// Where the anchor of the current event will stand; -1: it has none, -2: too many or no memory.
static int open_anchor(struct reader *reader) {
    struct yaml *yaml = reader->yaml;
    const yaml_char_t *name = anchor_of(&reader->event);
    if (!name) return -1;
    if (yaml->anchor_count == ANCHORS_MOST) {
        fail_at(reader, reader->event.start_mark.line, "more than %d anchors", ANCHORS_MOST);
        return -2;
    }
    struct anchor *anchor = &yaml->anchors[yaml->anchor_count];
    *anchor = (struct anchor){.name = arena_strdup(&yaml->arena, (const char *)name)};
    if (!anchor->name) {
        no_memory(reader);
        return -2;
    }
    return yaml->anchor_count++;
}

// Keeps a copy of a finished node for its aliases: the node itself may move as its siblings are read.
static bool close_anchor(struct reader *reader, int place, const struct yaml_node *node, int weight) {
    struct yaml_node *copy = arena_alloc(&reader->yaml->arena, sizeof *copy);
    if (!copy) return no_memory(reader);
    *copy = *node;
    reader->yaml->anchors[place].node = copy;
    reader->yaml->anchors[place].weight = weight;
    return true;
}

// Reads the value that begins with the current event.
static bool read_node(struct reader *reader, struct yaml_node *node, int depth) {
    const yaml_event_t *event = &reader->event;
    size_t line = event->start_mark.line;
    int before = reader->yaml->nodes;
    if (!node->key) node->line = (int)line + 1;
    if (event->type == YAML_ALIAS_EVENT) return read_alias(reader, node);
    if (depth > YAML_DEPTH_MOST) return fail_at(reader, line, "nested more than %d deep", YAML_DEPTH_MOST);
    if (tag_of(event)) return fail_at(reader, line, "a tag (%.40s); values have none here", tag_of(event));
    if (!count_nodes(reader, line, 1)) return false;
    int anchor = open_anchor(reader);
    if (anchor == -2) return false;
    bool good =
        event->type == YAML_SCALAR_EVENT ? read_scalar(reader, node) : read_items(reader, node, depth);
    settle_parents(node);
    return good && (anchor < 0 || close_anchor(reader, anchor, node, reader->yaml->nodes - before));
}

static bool read_document(struct reader *reader) {
    if (!next(reader) || !next(reader))
        return false; // the stream's start, then its end or a document's start
    if (reader->event.type == YAML_STREAM_END_EVENT) return true;
    if (!next(reader) || !read_node(reader, &reader->yaml->root, 0)) return false;
    if (!next(reader) || !next(reader)) return false; // the document's end, then the stream's
    return reader->event.type == YAML_STREAM_END_EVENT ||
           fail_at(reader, reader->event.start_mark.line, "a second document; expected one a file");
}

struct yaml *yaml_parse(const char *name, const char *text, size_t size, struct error *error) {
    struct yaml *yaml = calloc(1, sizeof *yaml);
    struct reader reader = {.yaml = yaml, .error = error};
    if (yaml) yaml->name = arena_strdup(&yaml->arena, name);
    if (!yaml || !yaml->name || !yaml_parser_initialize(&reader.parser)) {
        error_set(error, ERROR_MEMORY, "%s: not enough memory to read it", name);
        yaml_close(yaml);
        return NULL;
    }
    yaml->root = (struct yaml_node){.file = yaml->name, .line = 1, .text = ""};
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)(text ? text : ""), size);
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    bool good = read_document(&reader);
    yaml_event_delete(&reader.event);
    yaml_parser_delete(&reader.parser);
    if (good) return yaml;
    yaml_close(yaml);
    return NULL;
}

struct yaml *yaml_read_file(const char *path, size_t limit, struct error *error) {
    char *text;
    size_t size;
    if (!file_read(path, limit, &text, &size, error)) return NULL;
    struct yaml *yaml = yaml_parse(path, text, size, error);
    free(text);
    return yaml;
}

// ----------------------------------------------------------------------------------------------------------- walking

const struct yaml_node *yaml_get(const struct yaml_node *map, const char *key) {
    if (!map || map->type != YAML_TYPE_MAP) return NULL;
    for (int i = 0; i < map->count; i++)
        if (!strcmp(map->items[i].key, key))
            return map->items[i].type == YAML_TYPE_NULL ? NULL : &map->items[i];
    return NULL;
}

void yaml_path(const struct yaml_node *node, char *path, size_t size) {
    const struct yaml_node *chain[YAML_DEPTH_MOST + 2];
    int length = 0;
    size_t used = 0;
    if (size) path[0] = 0;
    for (; node && node->parent && length < YAML_DEPTH_MOST + 2; node = node->parent) chain[length++] = node;
    while (length-- > 0 && used + 1 < size) {
        const struct yaml_node *step = chain[length];
        int wrote = step->key ? snprintf(path + used, size - used, "%s%s", used ? "." : "", step->key)
                              : snprintf(path + used, size - used, "[%d]", step->index);
        if (wrote > 0) used += (size_t)wrote;
    }
}

bool yaml_fail(const struct yaml_node *node, struct error *error, const char *format, ...) {
    char path[160], text[320];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    yaml_path(node, path, sizeof path);
    return error_set(error, ERROR_INPUT, "%s:%d: %s%s%s", node->file, node->line, path, *path ? ": " : "",
                     text);
}

static bool unexpected(const struct yaml_node *node, const char *expected, struct error *error) {
    switch (node->type) {
    case YAML_TYPE_NULL:
        return yaml_fail(node, error, "expected %s, found nothing", expected);
    case YAML_TYPE_LIST:
        return yaml_fail(node, error, "expected %s, found a list", expected);
    case YAML_TYPE_MAP:
        return yaml_fail(node, error, "expected %s, found a map", expected);
    case YAML_TYPE_TEXT:
        break;
    }
    bool cut = strlen(node->text) > TEXT_SHOWN;
    return yaml_fail(node, error, "expected %s, found %s%.*s%s%s", expected, node->quoted ? "\"" : "",
                     TEXT_SHOWN, node->text, cut ? "..." : "", node->quoted ? "\"" : "");
}

bool yaml_is(const struct yaml_node *node, enum yaml_type type, struct error *error) {
    static const char *const names[] = {"nothing", "a text", "a list", "a map of keys and values"};
    return node->type == type || unexpected(node, names[type], error);
}

bool yaml_integer(const struct yaml_node *node, int64_t least, int64_t most, int64_t *value,
                  struct error *error) {
    char expected[80], digits[32];
    size_t length = 0;
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)least, (long long)most);
    bool good = node->type == YAML_TYPE_TEXT && !node->quoted &&
                isdigit((unsigned char)node->text[strspn(node->text, "+-")]);
    for (const char *c = node->text; good && *c; c++) {
        if (*c == '_' && c > node->text && isdigit((unsigned char)c[-1]) && isdigit((unsigned char)c[1]))
            continue;
        good = length + 1 < sizeof digits &&
               (isdigit((unsigned char)*c) || (c == node->text && strchr("+-", *c)));
        if (good) digits[length++] = *c;
    }
    digits[length] = 0;
    errno = 0;
    long long number = good ? strtoll(digits, NULL, 10) : 0;
    if (!good || errno || number < least || number > most) return unexpected(node, expected, error);
    *value = number;
    return true;
}

bool yaml_number(const struct yaml_node *node, double least, double most, double *value,
                 struct error *error) {
    char expected[80], *end = NULL;
    snprintf(expected, sizeof expected, "a number from %g to %g", least, most);
    bool good = node->type == YAML_TYPE_TEXT && !node->quoted && *node->text && strlen(node->text) < 40 &&
                strspn(node->text, "+-.0123456789eE") == strlen(node->text);
    double number = good ? strtod(node->text, &end) : 0;
    if (!good || *end || !isfinite(number) || number < least || number > most)
        return unexpected(node, expected, error);
    *value = number;
    return true;
}

bool yaml_bool(const struct yaml_node *node, bool *value, struct error *error) {
    bool text = node->type == YAML_TYPE_TEXT && !node->quoted;
    if (!text || (strcmp(node->text, "true") && strcmp(node->text, "false")))
        return unexpected(node, "true or false", error);
    *value = node->text[0] == 't';
    return true;
}

bool yaml_text(const struct yaml_node *node, const char **value, struct error *error) {
    if (!yaml_is(node, YAML_TYPE_TEXT, error)) return false;
    *value = node->text;
    return true;
}

bool yaml_word(const struct yaml_node *node, const char *const *words, int count, int *index,
               struct error *error) {
    char expected[240] = "one of ";
    size_t used = strlen(expected);
    for (int i = 0; i < count; i++) {
        if (node->type == YAML_TYPE_TEXT && !strcmp(node->text, words[i])) {
            *index = i;
            return true;
        }
        if (used < sizeof expected)
            used +=
                (size_t)snprintf(expected + used, sizeof expected - used, "%s%s", i ? ", " : "", words[i]);
    }
    return unexpected(node, expected, error);
}

const struct yaml_node *yaml_need(const struct yaml_node *map, const char *key, const char *what,
                                  struct error *error) {
    const struct yaml_node *node = yaml_get(map, key);
    if (!node) yaml_fail(map, error, "%s is missing, expected %s", key, what);
    return node;
}

bool yaml_known_keys(const struct yaml_node *map, const char *const *known, int count, struct error *error) {
    if (!yaml_is(map, YAML_TYPE_MAP, error)) return false;
    for (int i = 0; i < map->count; i++) {
        const char *key = map->items[i].key;
        bool found = false;
        for (int k = 0; k < count && !found; k++) found = !strcmp(key, known[k]);
        if (found) continue;
        const char *meant = near_match(key, known, count);
        return yaml_fail(&map->items[i], error, "there is no such key%s%s%s",
                         meant ? "; did you mean \"" : "", meant ? meant : "", meant ? "\"?" : "");
    }
    return true;
}
