// LoRA files that are open, and their way into the transformer. Relies on weights/lora.h, transformer.h.
//
// A request's LoRAs are set with transformer_adapt before transformer_begin; what was set before is gone. Files stay open for later
// requests; the one used least lately is closed when there are too many. One that was replaced since is opened anew.
#ifndef LIMN_FLUX_ADAPTERS_H
#define LIMN_FLUX_ADAPTERS_H

#include "flux/transformer.h"
#include "weights/lora.h"

enum { ADAPTERS_KEPT_MOST = 8 }; // files of requests

// Changes of the transformer's weights, with the scale that they are applied with.
struct adapter {
    const struct lora *lora;
    float scale; // 0: as if it were not there
};

// What LoRAs must fit.
struct lora_shape transformer_lora_shape(const struct transformer *transformer);

// Sets the side branches of the runs that begin from now on: those of [count] adapters one behind the other, which must live as long
// as the runs. False, with none set, where a layer would get more than LINEAR_BRANCHES_MOST.
bool transformer_adapt(struct transformer *transformer, const struct adapter *adapters, int count,
                       struct error *error);

struct adapters;

// NULL with an error. The transformer is borrowed.
struct adapters *adapters_open(const struct transformer *transformer, struct error *error);
void adapters_close(struct adapters *adapters); // NULL is fine

// The LoRA in the file [path], opened or found. It stays open until ADAPTERS_KEPT_MOST other files were asked for; with [keep], until
// adapters_close. *fresh: it was opened just now. NULL with an error that names the file.
const struct lora *adapters_get(struct adapters *adapters, const char *path, bool keep, bool *fresh,
                                struct error *error);

// Tells the system that the files' pages are not needed for now.
void adapters_release_pages(const struct adapters *adapters);

#endif
