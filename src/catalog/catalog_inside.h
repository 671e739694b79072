// What the files of the catalog share. Relies on catalog.h.
#ifndef LIMN_CATALOG_CATALOG_INSIDE_H
#define LIMN_CATALOG_CATALOG_INSIDE_H

#include "catalog/catalog.h"

struct catalog {
    const struct config *config;
    struct arena arena; // what the common parameters and paths lie in
    struct card_parameters common;
    struct model_card **cards; // by id, rising
    int count, capacity;
    const char *default_model; // "" or an id
};

// Looks where the weights of all cards are. Before it, config.local.models has been held against the cards.
bool catalog_look_for_weights(struct catalog *catalog, struct error *error);

// Sets weights.found of [card] to a copy of [path] where that folder can be opened, else weights.missing to why it cannot.
bool catalog_try_folder(struct model_card *card, const char *path, struct error *error);

// The same with what `limn pull` fetched for the card, where it is not found yet.
bool catalog_try_pulled(struct model_card *card, struct error *error);

// Whether [provider] can serve [card] now.
bool catalog_can_serve(const struct catalog *catalog, const struct model_card *card,
                       const struct card_provider *provider);

#endif
