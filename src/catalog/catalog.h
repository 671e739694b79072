// All model cards, and from the name that a client asks for to the card, provider and mode. Relies on card.h, config.h.
//
// DESIGN. The cards of catalog/ are part of the program (CMake embeds the files), so that they are there wherever it is
// started; a folder named in limn.yaml (catalog.folder) adds cards and replaces those of the same id. All are checked when the
// catalog is opened. The catalog does not change afterwards and may be read from any thread.
//
// A name is looked for in this order: a model's id; "provider/id" or "provider/config id"; an exact alias of limn.yaml; an
// alias of a card; the globs of limn.yaml in their order. An alias may lead to "provider/id" or to another alias once.
#ifndef LIMN_CATALOG_CATALOG_H
#define LIMN_CATALOG_CATALOG_H

#include "catalog/card.h"
#include "catalog/config.h"

struct catalog;

// A model folder that the local engine has been given, to be served whether or not a card names it.
struct catalog_folder {
    const char *id;   // as it is asked for: lower case, "-" for what is not [a-z0-9._-]
    const char *path; // of the model folder
    int default_width, default_height, side_multiple, steps;
    double guidance;
};

// Reads the built-in cards, the owner's, and looks where weights are: in config.local.models, in the folders of
// config.local.model_folders, in what `limn pull` fetched. [config] is borrowed and must outlive the catalog.
struct catalog *catalog_open(const struct config *config, struct error *error);
void catalog_close(struct catalog *catalog); // NULL is fine

// Says that [folder] is served locally. A card of that id gets its path; where there is none, a plain card is made of
// what the folder says. Only before the catalog is read by other threads.
bool catalog_add_folder(struct catalog *catalog, const struct catalog_folder *folder, struct error *error);

int catalog_count(const struct catalog *catalog);
const struct model_card *catalog_card(const struct catalog *catalog, int index); // by id, rising

enum catalog_result {
    CATALOG_FOUND,
    CATALOG_UNKNOWN,    // no such model; the message says what was probably meant
    CATALOG_WRONG_MODE, // the model is there, not in that mode; the message names the modes it has
    CATALOG_NOT_INSTALLED, // its weights are not here and no other provider is set up; the message says how to get them
    CATALOG_DISABLED,    // switched off in limn.yaml
    CATALOG_NO_PROVIDER, // "provider/model" with a provider that is not set up, or that does not have it
};

struct catalog_choice {
    const struct model_card *card;
    const struct card_provider *provider;
    bool forced;    // asked for as provider/model: no other may serve it
    bool gpt_image; // asked for under a name of OpenAI's image models: b64_json is what such programs read
    char executed[160]; // "local/pictogram", "fal/fal-ai/flux-2/turbo"
};

// [name] NULL or "": the owner's default model for the mode (config.models), else catalog_set_default's. [choice] is filled as
// far as it is known, also when the result is not FOUND. error->field is "model".
enum catalog_result catalog_find(const struct catalog *catalog, const char *name, enum image_mode mode,
                                 struct catalog_choice *choice, struct error *error);
// By name alone, for GET models/{id}: modes and weights do not matter. NULL: CATALOG_UNKNOWN with the message set.
const struct model_card *catalog_look_up(const struct catalog *catalog, const char *name,
                                         struct error *error);

// Whether aliases and default models of limn.yaml lead to models. catalog_set_default calls it: only then is it known how a
// served folder without a card is called.
bool catalog_check_names(const struct catalog *catalog, struct error *error);

// The model that is taken where neither the request nor limn.yaml names one. Before other threads read.
bool catalog_set_default(struct catalog *catalog, const char *id, struct error *error);

// The object of GET models/{id}: OpenAI's id, object, created, owned_by, and what limn adds (name, family, modes, modalities,
// licence, limits, prices, providers, installed, aliases, ...). NULL when memory is gone; the caller decref's.
json_t *catalog_model_json(const struct catalog *catalog, const struct model_card *card);
// {"object":"list","data":[...]}: the default model, then those that can be had, then the others; without sections and FAQ.
json_t *catalog_models_json(const struct catalog *catalog);
// GET models/{id}?schema=true: {"id","object":"model.schema","modes":{"text-to-image":{JSON Schema of the body},...},
// "parameters":[{name, group, type, modes, handling by provider, ...}]}.
json_t *catalog_schema_json(const struct catalog *catalog, const struct model_card *card);

// Whether a snapshot of a hub's cache has all the shards that the names of those there speak of.
bool catalog_snapshot_whole(const char *folder);

// The parameters that all cards share, for the OpenAPI document.
const struct card_parameters *catalog_parameters(const struct catalog *catalog);

#endif
