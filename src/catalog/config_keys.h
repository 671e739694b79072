// The keys of limn.yaml as data. Relies on config.h.
#ifndef LIMN_CATALOG_CONFIG_KEYS_H
#define LIMN_CATALOG_CONFIG_KEYS_H

#include "catalog/config.h"

enum config_type {
    CONFIG_BOOL,    // bool
    CONFIG_INTEGER, // int
    CONFIG_SECONDS, // double: "90", "10s", "60m", "24h", "30d", "500ms"
    CONFIG_BYTES,   // int64_t: "1048576", "50MiB", "10GB"
    CONFIG_COUNT,   // int64_t, a plain number
    CONFIG_TEXT,    // const char *
    CONFIG_WORD,    // int: the place in words
    CONFIG_TEXTS,   // struct config_texts
    CONFIG_PAIRS,   // struct config_pairs
    CONFIG_PRICES,  // struct config_prices
    CONFIG_LORAS,   // struct config_loras
};

struct config_key {
    const char *name; // "server.tls.key"
    enum config_type type;
    size_t offset;                          // in struct config
    const char *standard;                   // the default as a user would write it; lists with commas
    double least, most;                     // of numbers, seconds, bytes
    const char *words;                      // WORD: separated by spaces
    const char *(*check)(const char *text); // TEXT, TEXTS, PAIRS' values: NULL, or what was expected
    const char *meaning;                    // one line
};

const struct config_key *config_keys(int *count);

// The name of the variable that overrides a key: "LIMN_SERVER_TLS_KEY".
void config_variable(const struct config_key *key, char *name, size_t size);

struct yaml_node;
struct buffer;

// Sets a key from a text, as a default or a variable has it. Lists are separated by commas. [from] stands in errors.
bool config_set_text(struct config *config, const struct config_key *key, const char *text, const char *from,
                     struct error *error);
// Sets a key from its node in the file. Errors name file and line.
bool config_set_node(struct config *config, const struct config_key *key, const struct yaml_node *node,
                     struct error *error);
// The two of CONFIG_LORAS (config_loras.c).
bool config_set_loras(struct config *config, struct config_loras *loras, const struct yaml_node *node,
                      struct error *error);
bool config_add_loras(const struct config_loras *loras, struct buffer *out);
// Appends a text in double quotes, as YAML reads it.
bool config_add_quoted(struct buffer *out, const char *text);

// Appends the value of a key as YAML on one line, in a form that reads back to the same value.
bool config_add_value(const struct config *config, const struct config_key *key, struct buffer *out);

#endif
