// A model folder that stands on others: what it lacks is its base's. Relies on base, weights, limn.h.
//
//     FLUX.2-dev-Turbo/limn.json:  {"base": "../FLUX.2-dev", "loras": [{"file": "flux.2-turbo-lora.safetensors"}],
//                                   "steps": 8, "guidance": 2.5, "sigmas": [1.0, 0.6509, ...]}
//
// "base" is a folder, relative to the one whose limn.json names it. Parts (transformer, vae, text_encoder with its tokenizer,
// model_index.json) come from the first of the folders that has them. So do the fields of limn.json, but for "name", which is never a
// base's; and "steps" and "sigmas" belong together: where a folder says one of them, the base's other does not count.
// "loras" are files, relative to the folder whose limn.json names them.
#ifndef LIMN_FLUX_MODEL_FOLDER_H
#define LIMN_FLUX_MODEL_FOLDER_H

#include "base/error.h"
#include "limn/limn.h"
#include "weights/layout.h"

enum { MODEL_FOLDERS_MOST = 8 }; // a folder and its bases

struct model_lora {
    char *file; // path
    float scale;
};

struct model_folder {
    char *folders[MODEL_FOLDERS_MOST]; // the folder itself, its base, the base's base, ...
    int folder_count;
    char *settings_path; // of its own limn.json, there or not
    char *settings;      // the fields of all, JSON
    struct model_lora loras[LIMN_LORAS_MOST];
    int lora_count;
};

// Reads limn.json of the folder and its bases. A base that is missing, or a folder that is its own base, is an error that names the
// file. The caller frees in any case.
bool model_folder_open(const char *path, struct model_folder *folder, struct error *error);
void model_folder_free(struct model_folder *folder); // {0} is fine

// The first of the folders that has an entry [name]; the folder itself where none has. Borrowed.
const char *model_folder_with(const struct model_folder *folder, const char *name);
// The first of the folders in which part_find (weights/parts.h) finds the part, or in which it is wrong; the last where none has it.
// Borrowed.
const char *model_folder_part(const struct model_folder *folder, enum model_part part);

// One limn.json from memory, for tests and fuzzing: takes "base" (a path, fresh memory, NULL: none) and "loras" out of it, both
// relative to [folder]; what is left goes to *settings (fresh memory).
bool model_folder_parse(const char *name, const char *json, size_t size, const char *folder, char **base,
                        struct model_lora *loras, int *lora_count, char **settings, struct error *error);

#endif
