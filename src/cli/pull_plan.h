// What a `limn pull` is going to do: the repositories that make a model, with their commits and the files that are wanted of each.
// Relies on catalog (card.h), weights/download.h.
#ifndef LIMN_CLI_PULL_PLAN_H
#define LIMN_CLI_PULL_PLAN_H

#include "catalog/card.h"
#include "weights/download.h"

#include <stdio.h>

enum {
    PULL_PATTERNS_MOST = 32,
    PULL_PARTS = 2,
    PULL_REPOSITORIES_MOST = CARD_REPOSITORIES_MOST + PULL_PARTS
};

struct pull_repository {
    const char *name, *revision;
    struct hub_info info;
    struct hub_tree tree;
    const struct hub_file **files; // of the tree, those that are wanted
    int file_count;
    struct hub_snapshot snapshot;
    bool lora;
    double scale;
};

struct pull_plan {
    const struct model_card *card; // NULL: a repository that was named
    const struct card_form
        *forms[PULL_PARTS]; // of transformer and text encoder; NULL where the card has none
    struct pull_repository repositories[PULL_REPOSITORIES_MOST];
    int repository_count;
    int64_t bytes, here; // of all files; those that are on the disk
    int files;
};

// Asks the hub what [card] needs, or, where it is NULL, what the repository [name] at [revision] has: of one in the diffusers layout
// the files of its parts, of another one all. [forms], of [PULL_PARTS]: which of the
// card's forms are wanted. [patterns]: other files of the first repository. Every pattern must match a file. The
// caller frees in any case.
bool pull_plan_make(struct pull_plan *plan, const struct hub_client *client, const struct model_card *card,
                    const struct card_form *const *forms, const char *name, const char *revision,
                    const struct card_texts *patterns, struct error *error);
void pull_plan_free(struct pull_plan *plan); // {0} is fine

// The list of files with sizes, licences and the sum.
void pull_plan_print(const struct pull_plan *plan, FILE *to);

// Whether somebody has to agree before files are fetched: the licence is not commercial or not known, or a repository is gated.
// Writes why, and where the licence stands.
bool pull_plan_needs_consent(const struct pull_plan *plan, const struct hub_place *place, char *why,
                             size_t size);

// Writes how much is free where the cache is (or is going to be), and fails where the rest does not fit.
bool pull_plan_check_space(const struct pull_plan *plan, const char *cache, int64_t *free_bytes,
                           struct error *error);

#endif
