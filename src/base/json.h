// Typed, checked reading of JSON (jansson): every getter says which field of which file was wrong and what was
// expected. Relies on error.h, jansson.
#ifndef LIMN_BASE_JSON_H
#define LIMN_BASE_JSON_H

#include "base/error.h"

#include <jansson.h> // defines: json_t
#include <stdint.h>

// A JSON object and the name it has in messages: a path, "request body", or a dotted path inside one.
struct json_place {
    const json_t *object; // borrowed
    const char *name;
};

// Parses text (UTF-8, [size] bytes, nesting at most 64 deep, duplicate keys refused). The caller decref's.
json_t *json_parse(const char *name, const char *text, size_t size, struct error *error);

// The same where string values may hold U+0000, for whoever minds their lengths (json_string_length).
json_t *json_parse_zeros(const char *name, const char *text, size_t size, struct error *error);

// Reads and parses a file of at most [limit] bytes.
json_t *json_read_file(const char *path, size_t limit, struct error *error);

enum json_need { JSON_OPTIONAL, JSON_REQUIRED };

// Each getter leaves *value as it is when an optional field is absent or null, and fails when a required one is, when
// the type is another, or when the number lies outside [least, most].
bool json_get_integer(struct json_place place, const char *key, enum json_need need, int64_t least,
                      int64_t most, int64_t *value, struct error *error);
bool json_get_number(struct json_place place, const char *key, enum json_need need, double least, double most,
                     double *value, struct error *error);
bool json_get_bool(struct json_place place, const char *key, enum json_need need, bool *value,
                   struct error *error);
// *value is borrowed from the object.
bool json_get_string(struct json_place place, const char *key, enum json_need need, const char **value,
                     struct error *error);
bool json_get_object(struct json_place place, const char *key, enum json_need need, const json_t **value,
                     struct error *error);
bool json_get_array(struct json_place place, const char *key, enum json_need need, const json_t **value,
                    struct error *error);
// An array of at most [capacity] integers in [least, most].
bool json_get_integers(struct json_place place, const char *key, enum json_need need, int64_t least,
                       int64_t most, int64_t *values, int capacity, int *count, struct error *error);
bool json_get_numbers(struct json_place place, const char *key, enum json_need need, double least,
                      double most, double *values, int capacity, int *count, struct error *error);

#endif
