// What lora.c and lora_alpha.c share. Private to the two.
#ifndef LIMN_WEIGHTS_LORA_INSIDE_H
#define LIMN_WEIGHTS_LORA_INSIDE_H

#include "weights/lora.h"

#include "base/json.h"

// What the metadata of a file say of its modules.
struct lora_alphas {
    json_t *root;   // NULL: nothing; freed by lora_alphas_free
    bool has_alpha; // lora_alpha
    double alpha;
    bool over_root;         // use_rslora: over sqrt(rank)
    const json_t *patterns; // alpha_pattern; NULL: none
};

// [name] of the file stands in errors. False where the metadata are no JSON, or say what limn does not apply.
bool lora_alphas_read(const char *name, const struct checkpoint *checkpoint, struct lora_alphas *alphas,
                      struct error *error);
void lora_alphas_free(struct lora_alphas *alphas);

// alpha / rank, or alpha / sqrt(rank), of a module by its name without prefix; 1 where nothing is said.
double lora_alphas_scale(const struct lora_alphas *alphas, const char *module, size_t length, int64_t rank);

#endif
