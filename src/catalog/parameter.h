// The parameters of a request as data: what they are called, what they take, how each is handled by each provider. Relies on
// base, jansson.
//
// catalog/parameters.yaml describes them once; a card changes what is different for its model.
#ifndef LIMN_CATALOG_PARAMETER_H
#define LIMN_CATALOG_PARAMETER_H

#include "base/arena.h"
#include "base/yaml.h"

#include <jansson.h> // defines: json_t

enum image_mode { MODE_GENERATION, MODE_EDIT };
#define MODE_COUNT 2

const char *mode_name(enum image_mode mode);  // "text-to-image", "image-edit": as the API writes them
const char *mode_title(enum image_mode mode); // "Text to Image"
bool mode_from_name(const char *name, enum image_mode *mode);

// How a parameter reaches the provider, from the weakest to the strongest.
enum parameter_handling {
    PARAMETER_IGNORED,     // has no use there: listed in metadata.ignored_parameters
    PARAMETER_PASSTHROUGH, // sent as it is
    PARAMETER_RENAMED,     // the same value under the provider's name
    PARAMETER_CONVERTED,   // rewritten to the provider's form
    PARAMETER_EMULATED,    // limn supplies it
    PARAMETER_REFUSED,     // a value other than the default is a 400: the card does not offer it
};
const char *parameter_handling_name(enum parameter_handling handling); // "passthrough"

enum parameter_type {
    PARAMETER_TEXT,
    PARAMETER_INTEGER,
    PARAMETER_NUMBER,
    PARAMETER_BOOLEAN,
    PARAMETER_FILE,
    PARAMETER_NUMBERS, // an array of numbers
    PARAMETER_OBJECT,  // an object or an array of them, described in its text
};

#define PARAMETER_PROVIDERS_MOST 8
#define PARAMETER_VALUES_MOST    16

struct card_parameter {
    const char *name;
    enum parameter_type type;
    const char *group; // "core", "layout", "media", "output", "universal", or a provider's slug
    const char *text;  // one or two sentences
    bool modes[MODE_COUNT], required[MODE_COUNT]; // by enum image_mode
    const char *values[PARAMETER_VALUES_MOST];    // of a text that is one of few words
    int value_count;
    bool has_least, has_most;
    double least, most;   // numbers: the value; text: characters; files, arrays: how many
    const char *standard; // the default, as JSON text; NULL: none
    struct {
        const char *value, *other, *other_value;
    } not_with; // [value] of this parameter cannot stand beside [other_value] of [other]; NULLs: none
    const char *same_as; // another name of that parameter; NULL
    struct parameter_use {
        const char *provider; // slug
        enum parameter_handling handling;
        const char *field; // the provider's name for it; NULL: the same
    } uses[PARAMETER_PROVIDERS_MOST];
    int use_count;
};

struct card_parameters {
    struct card_parameter *items;
    int count;
};

// Reads a list of parameters (the root of parameters.yaml) into [arena].
bool parameters_read(const struct yaml_node *root, struct arena *arena, struct card_parameters *list,
                     struct error *error);
// [list] becomes a copy of [common] with the changes of a card's map `parameters` (NULL: none).
bool parameters_change(const struct card_parameters *common, const struct yaml_node *changes,
                       struct arena *arena, struct card_parameters *list, struct error *error);

const struct card_parameter *parameter_find(const struct card_parameters *list,
                                            const char *name); // NULL: none

// How [provider] takes the parameter; IGNORED at the local engine and PASSTHROUGH elsewhere where nothing is said.
enum parameter_handling parameter_handling(const struct card_parameter *parameter, const char *provider);

// The provider's name for it, else its own.
const char *parameter_field(const struct card_parameter *parameter, const char *provider);
const char *parameter_type_name(enum parameter_type type); // "text"

// Reads a list of modes.
bool modes_read(const struct yaml_node *node, bool modes[MODE_COUNT], struct error *error);

// The JSON Schema (2020-12) of one parameter's value, as in a form. NULL when memory is gone; the caller decref's.
json_t *parameter_schema(const struct card_parameter *parameter);
// The JSON Schema of a request's body: an object with all parameters of the mode. [form]: as multipart/form-data (files are
// binary).
json_t *parameters_schema(const struct card_parameters *list, enum image_mode mode, bool form);

#endif
