// What a request takes of this machine's memory, stage by stage. Relies on pipeline.h.
//
// Weights are mapped: they count as page cache, which the system takes back when it needs memory, and each stage's are let go when
// the next begins. So a model that does not fit still runs, only slower: what does not stay in memory is read from the disk again,
// the transformer's in every step. What must fit is memory of limn's own, the activations.
#ifndef LIMN_FLUX_MEMORY_PLAN_H
#define LIMN_FLUX_MEMORY_PLAN_H

#include "flux/pipeline.h"

enum { MEMORY_STAGES = 4 };

struct memory_stage {
    const char *name; // "text", "references", "steps", "decode"
    const char *part; // whose weights it reads
    // Mapped files, the transformer's with the model's own LoRAs; of the autoencoder nothing: it was repacked when it was opened.
    struct checkpoint_summary weights;
    int64_t own;   // bytes of memory, an upper bound: activations, and what is kept over all stages
    int reads;     // how often it goes through the weights
    bool resident; // weights and own memory fit together
};

struct memory_plan {
    int64_t memory; // bytes that may be taken
    int count;
    struct memory_stage stages[MEMORY_STAGES];
    int tile;      // decoding goes in tiles of so many pixels a side; 0: whole
    bool possible; // the own memory of every stage fits
};

// The plan of a request that pipeline_check has filled. memory: bytes, 0 for what the system says is available now.
void pipeline_plan(const struct pipeline *pipeline, const struct limn_request *filled, int64_t memory,
                   struct memory_plan *plan);

// False with ERROR_MEMORY, a text that names the stage with what it takes and what there is, where the plan is impossible.
bool memory_plan_check(const struct memory_plan *plan, const struct limn_request *filled,
                       struct error *error);

#endif
