// Finds what `limn pull` (or the hub's own client) has fetched: limn's model folder of a card, else the snapshot of its repository in
// the hub's cache. Relies on catalog_inside.h, weights/hub_cache.h.
#include "catalog/catalog_inside.h"

#include "base/file.h"
#include "weights/hub_cache.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// "model-00002-of-00007.safetensors" says 7; 0 where it says nothing.
static int shards_said(const char *name) {
    size_t length = strlen(name);
    const char *ending = length > 21 ? name + length - 21 : "";
    int shards = 0;
    if (strncmp(ending, "-of-", 4) || strcmp(ending + 9, ".safetensors") ||
        strspn(ending + 4, "0123456789") != 5)
        return 0;
    sscanf(ending + 4, "%5d", &shards);
    return shards;
}

// Whether all [count] shards are there that [name], one of them, speaks of.
static bool has_shards(const char *folder, const char *name, int count) {
    bool all = true;
    for (int i = 1; all && i <= count; i++) {
        char other[300];
        int stem = (int)strlen(name) - 26; // without "00002-of-00007.safetensors"
        snprintf(other, sizeof other, "%.*s%05d-of-%05d.safetensors", stem < 0 ? 0 : stem, name, i, count);
        char *path = path_join(folder, other);
        all = path && file_exists(path); // a link may lead nowhere
        free(path);
    }
    return all;
}

// A snapshot that another client is still filling, or has given up, has some of its shards.
static bool part_is_whole(const char *folder) {
    bool whole = true;
    DIR *entries = opendir(folder);
    for (struct dirent *entry; entries && whole && (entry = readdir(entries));) {
        int shards = shards_said(entry->d_name);
        if (shards) whole = has_shards(folder, entry->d_name, shards);
    }
    if (entries) closedir(entries);
    return whole;
}

bool catalog_snapshot_whole(const char *folder) {
    static const char *const parts[] = {"transformer", "text_encoder"};
    bool whole = true;
    for (int i = 0; i < 2; i++) {
        char *path = path_join(folder, parts[i]);
        whole = whole && path && part_is_whole(path);
        free(path);
    }
    return whole;
}

bool catalog_try_pulled(struct model_card *card, struct error *error) {
    const struct card_repository *first = &card->weights.repositories[0];
    struct error ignored = {0}; // who has no home has nothing there
    if (card->weights.found || !card->weights.repository_count) return true;
    bool own = card_needs_folder(card), good = true;
    char *parent = own ? hub_data_folder(&ignored) : hub_cache_folder(&ignored), *folder = NULL;
    if (parent)
        folder = own ? path_join(parent, card->id)
                     : hub_cache_find(parent, first->name, first->revision, &ignored);
    if (folder && !own && !catalog_snapshot_whole(folder)) {
        char why[600];
        snprintf(why, sizeof why, "%.500s: some of its files are missing", folder);
        card->weights.missing = arena_strdup(&card->arena, why);
    } else if (folder) {
        good = catalog_try_folder(card, folder, error);
    }
    free(folder);
    free(parent);
    return good;
}
