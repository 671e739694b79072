// The keys in memory, sorted by id. Relies on key.h, rate.h, libsodium.
#include "store/key.h"
#include "store/rate.h"

#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS_MOST = 1 << 16 };

struct keys {
    pthread_mutex_t lock; // guards records and count; held for a search and a copy only
    struct key_record *records;
    size_t count;
    struct rate *rate;
};

struct keys *keys_open(struct error *error) {
    struct keys *keys = calloc(1, sizeof *keys);
    if (!keys || sodium_init() < 0 || !(keys->rate = rate_open(BUCKETS_MOST, error))) {
        error_set(error, keys ? ERROR_INTERNAL : ERROR_MEMORY,
                  keys ? "no source of random numbers" : "no memory");
        free(keys);
        return NULL;
    }
    pthread_mutex_init(&keys->lock, NULL);
    return keys;
}

void keys_close(struct keys *keys) {
    if (!keys) return;
    rate_close(keys->rate);
    pthread_mutex_destroy(&keys->lock);
    free(keys->records);
    free(keys);
}

static int by_id(const void *a, const void *b) {
    return strcmp(((const struct key_record *)a)->info.id, ((const struct key_record *)b)->info.id);
}

void keys_replace(struct keys *keys, struct key_record *records, size_t count) {
    if (count > 1) qsort(records, count, sizeof *records, by_id);
    pthread_mutex_lock(&keys->lock);
    struct key_record *old = keys->records;
    keys->records = records;
    keys->count = count;
    pthread_mutex_unlock(&keys->lock);
    free(old);
}

enum key_verdict keys_check(struct keys *keys, const char *text, int64_t now, struct key_info *info) {
    struct key_record wanted = {0}, found = {0};
    uint8_t hash[KEY_HASH_BYTES] = {0};
    if (!key_parse(text, wanted.info.id, hash)) return KEY_UNKNOWN;
    pthread_mutex_lock(&keys->lock);
    const struct key_record *record =
        keys->count ? bsearch(&wanted, keys->records, keys->count, sizeof wanted, by_id) : NULL;
    if (record) found = *record;
    pthread_mutex_unlock(&keys->lock);
    // An id that is not there is compared as well, with a hash that nothing has.
    bool same = sodium_memcmp(found.hash, hash, sizeof hash) == 0;
    if (!record || !same) return KEY_UNKNOWN;
    if (info) *info = found.info;
    if (found.info.revoked_at) return KEY_REVOKED;
    return found.info.expires_at && found.info.expires_at <= now ? KEY_EXPIRED : KEY_OK;
}

bool keys_any(struct keys *keys) {
    pthread_mutex_lock(&keys->lock);
    bool any = keys->count > 0;
    pthread_mutex_unlock(&keys->lock);
    return any;
}

bool keys_take_request(struct keys *keys, const char *id, double now, double *wait) {
    struct key_record wanted = {0};
    size_t length = strlen(id);
    *wait = 0;
    if (length >= sizeof wanted.info.id) return true;
    memcpy(wanted.info.id, id, length);
    pthread_mutex_lock(&keys->lock);
    const struct key_record *record =
        keys->count ? bsearch(&wanted, keys->records, keys->count, sizeof wanted, by_id) : NULL;
    int64_t limit = record ? record->info.requests_per_minute : 0;
    pthread_mutex_unlock(&keys->lock);
    return !limit || rate_take(keys->rate, id, (double)limit, now, wait);
}
