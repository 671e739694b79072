// Typed, checked reading of JSON. Relies on error.h, file.h, jansson.
#include "base/json.h"
#include "base/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MOST = 64 };

// Whether brackets outside of strings nest at most DEPTH_MOST deep: jansson recurses, its own limit is fixed when it is built.
static bool depth_fits(const char *text, size_t size) {
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\') i++;
            if (c == '"') quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            if (++depth > DEPTH_MOST) return false;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return true;
}

// What jansson says, but for what is wrong without being a fault of the syntax: there it speaks of its own options.
static void say_why(const char *name, const json_error_t *place, struct error *error) {
    enum json_error_code code = json_error_code(place);
    if (code == json_error_out_of_memory)
        error_set(error, ERROR_MEMORY, "%s: no memory for the JSON", name);
    else if (code == json_error_numeric_overflow)
        error_set(error, ERROR_INPUT, "%s: line %d, column %d: a number that is too large", name, place->line,
                  place->column);
    else if (code == json_error_null_character || code == json_error_null_byte_in_key)
        error_set(error, ERROR_INPUT, "%s: line %d, column %d: a text with \\u0000 in it", name, place->line,
                  place->column);
    else
        error_set(error, ERROR_INPUT, "%s: not valid JSON: line %d, column %d: %s", name, place->line,
                  place->column, place->text);
}

static json_t *parse(const char *name, const char *text, size_t size, size_t flags, struct error *error) {
    if (!depth_fits(text, size)) {
        error_set(error, ERROR_INPUT, "%s: JSON nested more than %d deep", name, DEPTH_MOST);
        return NULL;
    }
    json_error_t place;
    json_t *value =
        json_loadb(size ? text : "", size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | flags, &place);
    if (!value) say_why(name, &place, error);
    return value;
}

json_t *json_parse(const char *name, const char *text, size_t size, struct error *error) {
    return parse(name, text, size, 0, error);
}

json_t *json_parse_zeros(const char *name, const char *text, size_t size, struct error *error) {
    return parse(name, text, size, JSON_ALLOW_NUL, error);
}

json_t *json_read_file(const char *path, size_t limit, struct error *error) {
    char *text;
    size_t size;
    if (!file_read(path, limit, &text, &size, error)) return NULL;
    json_t *value = json_parse(path, text, size, error);
    free(text);
    return value;
}

static const char *type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

// The value of [key], NULL when there is nothing to read: then *done says whether that is fine.
static const json_t *lookup(struct json_place place, const char *key, enum json_need need, bool *done,
                            struct error *error) {
    const json_t *value = json_object_get(place.object, key);
    *done = true;
    if (value && !json_is_null(value)) return value;
    if (place.object && !json_is_object(place.object)) {
        *done = error_set(error, ERROR_INPUT, "%s: expected an object, found %s", place.name,
                          type_name(place.object));
    } else if (need == JSON_REQUIRED) {
        *done = error_set_field(error, ERROR_INPUT, key, "%s: field \"%s\" is missing", place.name, key);
    }
    return NULL;
}

static bool wrong_type(struct json_place place, const char *key, const char *expected, const json_t *found,
                       struct error *error) {
    return error_set_field(error, ERROR_INPUT, key, "%s: field \"%s\": expected %s, found %s", place.name,
                           key, expected, type_name(found));
}

static bool integer_value(struct json_place place, const char *key, const json_t *value, int64_t least,
                          int64_t most, int64_t *result, struct error *error) {
    if (!json_is_integer(value)) return wrong_type(place, key, "an integer", value, error);
    int64_t number = json_integer_value(value);
    if (number < least || number > most) {
        return error_set_field(error, ERROR_INPUT, key,
                               "%s: field \"%s\": %lld, expected an integer from %lld to %lld", place.name,
                               key, (long long)number, (long long)least, (long long)most);
    }
    *result = number;
    return true;
}

static bool number_value(struct json_place place, const char *key, const json_t *value, double least,
                         double most, double *result, struct error *error) {
    if (!json_is_number(value)) return wrong_type(place, key, "a number", value, error);
    double number = json_number_value(value);
    if (!(number >= least && number <= most)) {
        return error_set_field(error, ERROR_INPUT, key,
                               "%s: field \"%s\": %g, expected a number from %g to %g", place.name, key,
                               number, least, most);
    }
    *result = number;
    return true;
}

bool json_get_integer(struct json_place place, const char *key, enum json_need need, int64_t least,
                      int64_t most, int64_t *value, struct error *error) {
    bool done;
    const json_t *found = lookup(place, key, need, &done, error);
    return found ? integer_value(place, key, found, least, most, value, error) : done;
}

bool json_get_number(struct json_place place, const char *key, enum json_need need, double least, double most,
                     double *value, struct error *error) {
    bool done;
    const json_t *found = lookup(place, key, need, &done, error);
    return found ? number_value(place, key, found, least, most, value, error) : done;
}

bool json_get_bool(struct json_place place, const char *key, enum json_need need, bool *value,
                   struct error *error) {
    bool done;
    const json_t *found = lookup(place, key, need, &done, error);
    if (!found) return done;
    if (!json_is_boolean(found)) return wrong_type(place, key, "true or false", found, error);
    *value = json_is_true(found);
    return true;
}

bool json_get_string(struct json_place place, const char *key, enum json_need need, const char **value,
                     struct error *error) {
    bool done;
    const json_t *found = lookup(place, key, need, &done, error);
    if (!found) return done;
    if (!json_is_string(found)) return wrong_type(place, key, "a string", found, error);
    *value = json_string_value(found);
    return true;
}

bool json_get_object(struct json_place place, const char *key, enum json_need need, const json_t **value,
                     struct error *error) {
    bool done;
    const json_t *found = lookup(place, key, need, &done, error);
    if (!found) return done;
    if (!json_is_object(found)) return wrong_type(place, key, "an object", found, error);
    *value = found;
    return true;
}

bool json_get_array(struct json_place place, const char *key, enum json_need need, const json_t **value,
                    struct error *error) {
    bool done;
    const json_t *found = lookup(place, key, need, &done, error);
    if (!found) return done;
    if (!json_is_array(found)) return wrong_type(place, key, "an array", found, error);
    *value = found;
    return true;
}

// The array of [key] with at most [capacity] elements; NULL as lookup does.
static const json_t *short_array(struct json_place place, const char *key, enum json_need need, int capacity,
                                 bool *done, struct error *error) {
    const json_t *array = NULL;
    *done = json_get_array(place, key, need, &array, error);
    if (!*done || !array) return NULL;
    if (json_array_size(array) > (size_t)capacity) {
        *done =
            error_set_field(error, ERROR_INPUT, key, "%s: field \"%s\": %zu elements, expected at most %d",
                            place.name, key, json_array_size(array), capacity);
        return NULL;
    }
    return array;
}

bool json_get_integers(struct json_place place, const char *key, enum json_need need, int64_t least,
                       int64_t most, int64_t *values, int capacity, int *count, struct error *error) {
    bool done;
    const json_t *array = short_array(place, key, need, capacity, &done, error);
    if (!array) return done;
    int size = (int)json_array_size(array);
    for (int i = 0; i < size; i++) {
        if (!integer_value(place, key, json_array_get(array, (size_t)i), least, most, &values[i], error))
            return false;
    }
    *count = size;
    return true;
}

bool json_get_numbers(struct json_place place, const char *key, enum json_need need, double least,
                      double most, double *values, int capacity, int *count, struct error *error) {
    bool done;
    const json_t *array = short_array(place, key, need, capacity, &done, error);
    if (!array) return done;
    int size = (int)json_array_size(array);
    for (int i = 0; i < size; i++) {
        if (!number_value(place, key, json_array_get(array, (size_t)i), least, most, &values[i], error))
            return false;
    }
    *count = size;
    return true;
}
