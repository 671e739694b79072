// The plan of a model that has not been fetched: which form of each part is taken for a memory. Relies on catalog.
#ifndef LIMN_CLI_PLAN_CARD_H
#define LIMN_CLI_PLAN_CARD_H

#include "catalog/catalog.h"

// Prints for each of [count] memories ("24GB"; NULL: what is available here) which forms of [card] are taken, by the rule by which
// `limn pull` and the opening of a model folder choose, what stays in memory, and the command that fetches them. steps: of a request, 0 for the card's. Into [list], where it
// is not NULL, as JSON instead.
void plan_card_print(const struct model_card *card, const char *const *memories, int count, int steps,
                     json_t *list);

#endif
