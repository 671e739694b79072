// Forms of a model's parts that stay in a machine's memory: which type each part needs, and making what is not there. Relies on
// convert_model.h, weights/parts.h.
//
// Weights that do not stay in memory are read from the disk again in every step. So the large parts, the transformer and the text
// encoder, are wanted in the finest type of which a part stays: BF16, Q8_0, Q6_K, Q5_K or Q4_K. A model folder lists the forms in
// its limn.json, finest first; opening the model takes the one for the memory that there is (docs/model-folder.md).
#ifndef LIMN_FLUX_FIT_H
#define LIMN_FLUX_FIT_H

#include "flux/convert_model.h"

#include <jansson.h>

enum { FIT_PARTS = 2 }; // PART_TRANSFORMER, PART_TEXT_ENCODER

struct part_fit {
    enum model_part part;
    enum dtype now; // the finest form that is there
    int64_t now_bytes;
    enum dtype type; // the type to have: [now] where that stays, or where nothing smaller can be made
    int64_t bytes;   // of that; an estimate (a little too large) where it is not there
    bool there;      // a form of that type is there
    bool stays;      // that form stays in memory
};

// The type for a part of which [now_bytes] lie there in type [now], in [memory] bytes.
struct part_fit part_fit(enum model_part part, enum dtype now, int64_t now_bytes, int64_t memory);

// Both large parts of the model folder [folder] in [memory] bytes (0: what there is now).
bool model_fit(const char *folder, int64_t memory, struct part_fit fits[FIT_PARTS], struct error *error);

// Makes the forms of [fits] that are not there, files such as transformer-Q4_K.gguf in [target], and lists them in its limn.json with
// what was there before (by a link, where that lies elsewhere). [target] is [folder] itself, or a folder that stands on it: then it is
// made where it is missing. LoRAs of the folder are not baked in: they go on applying. From convert the threads and the progress
// are taken. What an earlier call left unfinished is gone on with.
bool model_fit_make(const char *folder, const char *target, const struct part_fit fits[FIT_PARTS],
                    const struct convert_model *convert, struct error *error);

// Puts the form [name] of [target] into the list [names] (borrowed), behind all that are larger, unless it is there.
bool fit_list(json_t *names, const char *target, const char *name, struct error *error);

#endif
