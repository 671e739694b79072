// See encodings.h. A list, the entry used last in front: there are a few hundred entries at most, each of many kilobytes.
#include "flux/encodings.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    struct entry *next;
    struct encodings_key key;
    size_t count;
    float values[];
};

struct encodings {
    struct entry *entries;
    size_t bytes, bytes_most;
};

static size_t bytes_of(size_t count) {
    return sizeof(struct entry) + count * sizeof(float);
}

struct encodings *encodings_open(size_t bytes_most) {
    struct encodings *encodings = sodium_init() < 0 ? NULL : calloc(1, sizeof *encodings);
    if (encodings) encodings->bytes_most = bytes_most;
    return encodings;
}

void encodings_clear(struct encodings *encodings) {
    if (!encodings) return;
    for (struct entry *at = encodings->entries, *next; at; at = next) {
        next = at->next;
        free(at);
    }
    encodings->entries = NULL;
    encodings->bytes = 0;
}

void encodings_close(struct encodings *encodings) {
    encodings_clear(encodings);
    free(encodings);
}

size_t encodings_bytes(const struct encodings *encodings) {
    return encodings ? encodings->bytes : 0;
}

struct encodings_key encodings_key(const char *kind, const int64_t *numbers, size_t count, const void *data,
                                   size_t size) {
    struct encodings_key key;
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, sizeof key.bytes);
    crypto_generichash_update(&state, (const unsigned char *)kind, strlen(kind) + 1);
    crypto_generichash_update(&state, (const unsigned char *)&count, sizeof count);
    crypto_generichash_update(&state, (const unsigned char *)numbers, count * sizeof *numbers);
    crypto_generichash_update(&state, data, size);
    crypto_generichash_final(&state, key.bytes, sizeof key.bytes);
    return key;
}

// The link to an entry, or to the end.
static struct entry **find(struct encodings *encodings, const struct encodings_key *key) {
    struct entry **link = &encodings->entries;
    while (*link && memcmp((*link)->key.bytes, key->bytes, sizeof key->bytes)) link = &(*link)->next;
    return link;
}

static void drop(struct encodings *encodings, struct entry **link) {
    struct entry *entry = *link;
    *link = entry->next;
    encodings->bytes -= bytes_of(entry->count);
    free(entry);
}

const float *encodings_find(struct encodings *encodings, const struct encodings_key *key, size_t count) {
    struct entry **link = encodings ? find(encodings, key) : NULL, *entry = link ? *link : NULL;
    if (!entry || entry->count != count) return NULL;
    *link = entry->next;
    entry->next = encodings->entries;
    encodings->entries = entry;
    return entry->values;
}

void encodings_keep(struct encodings *encodings, const struct encodings_key *key, const float *values,
                    size_t count) {
    if (!encodings || count > SIZE_MAX / 8 || bytes_of(count) > encodings->bytes_most) return;
    struct entry **link = find(encodings, key);
    if (*link) drop(encodings, link);
    while (encodings->bytes + bytes_of(count) > encodings->bytes_most) {
        struct entry **last = &encodings->entries;
        while ((*last)->next) last = &(*last)->next;
        drop(encodings, last);
    }
    struct entry *entry = malloc(bytes_of(count));
    if (!entry) return;
    entry->key = *key;
    entry->count = count;
    memcpy(entry->values, values, count * sizeof *values);
    entry->next = encodings->entries;
    encodings->entries = entry;
    encodings->bytes += bytes_of(count);
}
