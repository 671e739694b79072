// YAML as limn reads it (libyaml): a tree whose every node knows the file and the line it stands in, so that whoever reads it
// can say which key was wrong, where, and what was expected. Relies on error.h, arena.h, libyaml.
//
//     struct yaml *yaml = yaml_read_file("limn.yaml", 1 << 20, &error);
//     if (!yaml) return false;
//     const struct yaml_node *port = yaml_get(yaml_root(yaml), "port");
//     if (port && !yaml_integer(port, 0, 65535, &value, &error)) ... "limn.yaml:3: port: expected ..., found ..."
//
// One document a file, UTF-8, maps with plain text as keys. Refused, with a line: a key given twice, a second document,
// tags, nesting beyond YAML_DEPTH_MOST, an alias inside its own anchor, aliases that would make the tree larger than
// YAML_NODES_MOST nodes when it is walked.
#ifndef LIMN_BASE_YAML_H
#define LIMN_BASE_YAML_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define YAML_DEPTH_MOST 24
#define YAML_NODES_MOST 50000

struct yaml; // a parsed file; owns its nodes

enum yaml_type {
    YAML_TYPE_NULL, // empty, ~ or null
    YAML_TYPE_TEXT, // any other scalar; what it is (number, boolean) its reader says
    YAML_TYPE_LIST,
    YAML_TYPE_MAP,
};

struct yaml_node {
    enum yaml_type type;
    const char *file; // the name that yaml_parse was given
    int line;         // from 1; of a map's member: its key's line
    const struct yaml_node *parent;
    const char *key;               // in a map; NULL in a list and at the root
    int index;                     // in a list or map
    const char *text;              // TEXT: the value, UTF-8 without 0 bytes; "" otherwise
    bool quoted;                   // TEXT: written in quotes or as a block, so never a number or boolean
    const struct yaml_node *items; // LIST, MAP: [count] nodes in the order of the file
    int count;
};

// Parses [size] bytes; [name] stands in the messages. Free with yaml_close. An empty file is a root of type NULL.
struct yaml *yaml_parse(const char *name, const char *text, size_t size, struct error *error);
// Reads and parses a file of at most [limit] bytes.
struct yaml *yaml_read_file(const char *path, size_t limit, struct error *error);
void yaml_close(struct yaml *yaml); // NULL is fine
const struct yaml_node *yaml_root(const struct yaml *yaml);

// The member [key] of a map; NULL where there is none, where it is null, or where [map] is NULL or no map.
const struct yaml_node *yaml_get(const struct yaml_node *map, const char *key);

// Readers. Each fails with "file:line: path.to.key: expected ..., found ...". Numbers are plain decimals; integers may be
// grouped with underscores; booleans are true and false. Text is borrowed from the node; a quoted or unquoted scalar alike.
bool yaml_integer(const struct yaml_node *node, int64_t least, int64_t most, int64_t *value,
                  struct error *error);
bool yaml_number(const struct yaml_node *node, double least, double most, double *value, struct error *error);
bool yaml_bool(const struct yaml_node *node, bool *value, struct error *error);
bool yaml_text(const struct yaml_node *node, const char **value, struct error *error);
// One of [count] words; *index is its place.
bool yaml_word(const struct yaml_node *node, const char *const *words, int count, int *index,
               struct error *error);
bool yaml_is(const struct yaml_node *node, enum yaml_type type, struct error *error);

// The member [key] of [map], which must be there: "file:line: path: key missing, expected [what]".
const struct yaml_node *yaml_need(const struct yaml_node *map, const char *key, const char *what,
                                  struct error *error);

// Fails on a member of [map] whose key is none of [count] known ones; the message suggests the nearest.
bool yaml_known_keys(const struct yaml_node *map, const char *const *known, int count, struct error *error);

// Sets "file:line: path.to.key: ..." and returns false; for what only the caller can judge.
bool yaml_fail(const struct yaml_node *node, struct error *error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Writes the dotted path of a node ("server.tls.key", "tags[2]"), cut to [size]; "" for the root.
void yaml_path(const struct yaml_node *node, char *path, size_t size);

#endif
