// From the name of a model, as it is given to --model, to its folder. Relies on catalog.
#ifndef LIMN_CLI_MODEL_PATH_H
#define LIMN_CLI_MODEL_PATH_H

#include "catalog/catalog.h"

// The model folder that [name] means, in fresh memory (free()): the path of a folder; else owner/name[@revision], a repository in
// the hub's cache; else the id or alias of a model card whose weights are here. NULL with an error that says how to have it
// (`limn pull`). [catalog] NULL: it is opened when it is needed, with limn.yaml where that is found.
char *model_path(const struct catalog *catalog, const char *name, struct error *error);

#endif
