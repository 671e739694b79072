// The models that a key may use, as its maker names them. Relies on catalog.
#ifndef LIMN_CLI_KEY_MODELS_H
#define LIMN_CLI_KEY_MODELS_H

#include "catalog/catalog.h"
#include "store/key.h"

// Turns the names of [models] (separated by commas; changed in place) into ids of models, which is what a key is held against:
// an alias becomes the model that it leads to, "provider/model" the model. A glob stays one, and where it fits aliases, their
// models are added. The served folder (local.model, else $LIMN_MODEL) may be named by its last part, if no card has it. Errors
// (field "models") say which name is unknown and what was probably meant.
bool key_models_resolve(const struct catalog *catalog, const struct config *config,
                        char models[KEY_MODELS_MOST], struct error *error);

#endif
