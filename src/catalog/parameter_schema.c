// Parameters as JSON Schema (2020-12). See parameter.h.
#include "catalog/parameter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *limit(double value) {
    return value == floor(value) && fabs(value) <= 9007199254740992.0 ? json_integer((json_int_t)value)
                                                                      : json_real(value);
}

static void set_limits(json_t *schema, const struct card_parameter *parameter, const char *least,
                       const char *most) {
    if (parameter->has_least) json_object_set_new(schema, least, limit(parameter->least));
    if (parameter->has_most) json_object_set_new(schema, most, limit(parameter->most));
}

static json_t *text_schema(const struct card_parameter *parameter) {
    json_t *schema = json_pack("{s:s}", "type", "string");
    if (parameter->value_count) {
        json_t *values = json_array();
        for (int i = 0; i < parameter->value_count; i++)
            json_array_append_new(values, json_string(parameter->values[i]));
        json_object_set_new(schema, "enum", values);
    }
    set_limits(schema, parameter, "minLength", "maxLength");
    return schema;
}

// A picture in a JSON body.
static json_t *picture_schema(void) {
    return json_pack("{s:s, s:[s], s:{s:{s:s, s:s}}}", "type", "object", "required", "image_url",
                     "properties", "image_url", "type", "string", "description",
                     "a data URI, or an https URL where the owner allows it");
}

static json_t *array_schema(const struct card_parameter *parameter, json_t *items) {
    json_t *schema = json_pack("{s:s, s:o}", "type", "array", "items", items);
    if (schema) set_limits(schema, parameter, "minItems", "maxItems");
    return schema;
}

static json_t *file_schema(void) {
    return json_pack("{s:s, s:s}", "type", "string", "format", "binary");
}

static json_t *type_schema(const struct card_parameter *parameter, bool form) {
    json_t *schema = NULL;
    switch (parameter->type) {
    case PARAMETER_TEXT:
        return text_schema(parameter);
    case PARAMETER_INTEGER:
    case PARAMETER_NUMBER:
        schema = json_pack("{s:s}", "type", parameter->type == PARAMETER_INTEGER ? "integer" : "number");
        set_limits(schema, parameter, "minimum", "maximum");
        return schema;
    case PARAMETER_BOOLEAN:
        return json_pack("{s:s}", "type", "boolean");
    case PARAMETER_FILE:
        if (!form) return picture_schema();
        if (parameter->has_most && parameter->most <= 1) return file_schema();
        return json_pack("{s:[o, o]}", "anyOf", file_schema(), array_schema(parameter, file_schema()));
    case PARAMETER_NUMBERS:
        return array_schema(
            parameter, json_pack("{s:s, s:i, s:i}", "type", "number", "exclusiveMinimum", 0, "maximum", 1));
    case PARAMETER_OBJECT:
        if (parameter->has_most) return array_schema(parameter, picture_schema());
        return json_object();
    }
    return NULL;
}

// In JSON null means absent.
static void allow_null(json_t *schema) {
    json_t *type = json_object_get(schema, "type"), *values = json_object_get(schema, "enum");
    if (json_is_string(type)) json_object_set_new(schema, "type", json_pack("[O, s]", type, "null"));
    if (values) json_array_append_new(values, json_null());
}

static json_t *full_schema(const struct card_parameter *parameter, bool form) {
    json_t *schema = type_schema(parameter, form);
    if (!schema) return NULL;
    if (*parameter->text) json_object_set_new(schema, "description", json_string(parameter->text));
    if (parameter->standard)
        json_object_set_new(schema, "default", json_loads(parameter->standard, JSON_DECODE_ANY, NULL));
    return schema;
}

json_t *parameter_schema(const struct card_parameter *parameter) {
    return full_schema(parameter, true);
}

// Files go in forms; lists of objects in JSON.
static bool is_in(const struct card_parameter *parameter, bool form) {
    if (parameter->type == PARAMETER_FILE) return form || !strcmp(parameter->name, "mask");
    return parameter->type != PARAMETER_OBJECT || !form || !parameter->has_most;
}

// {"not": {"required": [a, b], "properties": {a: {"const": ...}, b: {"const": ...}}}}
static json_t *not_with_schema(const struct card_parameter *parameter) {
    return json_pack("{s:{s:[s, s], s:{s:{s:s}, s:{s:s}}}}", "not", "required", parameter->name,
                     parameter->not_with.other, "properties", parameter->name, "const",
                     parameter->not_with.value, parameter->not_with.other, "const",
                     parameter->not_with.other_value);
}

json_t *parameters_schema(const struct card_parameters *list, enum image_mode mode, bool form) {
    json_t *properties = json_object(), *required = json_array(), *rules = json_array();
    for (int i = 0; i < list->count; i++) {
        const struct card_parameter *parameter = &list->items[i];
        if (!parameter->modes[mode] || !is_in(parameter, form)) continue;
        json_t *schema = full_schema(parameter, form);
        json_object_set_new(properties, parameter->name, schema);
        if (parameter->not_with.value) json_array_append_new(rules, not_with_schema(parameter));
        bool must = parameter->required[mode];
        // In a JSON edit the pictures are `images`, the other spelling of `image`.
        if (!form && parameter->same_as && parameter->type == PARAMETER_OBJECT) {
            const struct card_parameter *file = parameter_find(list, parameter->same_as);
            must = must || (file && file->required[mode]);
        }
        if (must) json_array_append_new(required, json_string(parameter->name));
        if (!must && !form) allow_null(schema);
    }
    // Others are passed to providers that know them.
    json_t *schema = json_pack("{s:s, s:o, s:o, s:b}", "type", "object", "required", required, "properties",
                               properties, "additionalProperties", 1);
    if (schema && json_array_size(rules)) json_object_set(schema, "allOf", rules);
    json_decref(rules);
    return schema;
}
