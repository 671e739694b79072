// Buckets in a hash table, and in a list by the time of their last use. A bucket is kept as the moment at which it would be
// full again ("generic cell rate algorithm"), so nothing has to be refilled. Relies on rate.h.
#include "store/rate.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct bucket {
    struct bucket *next;          // in its chain
    struct bucket *newer, *older; // by last use
    double full_at;               // monotonic seconds
    char name[];
};

struct rate {
    pthread_mutex_t lock;
    struct bucket **chains;
    size_t chain_count; // a power of two
    size_t count, most;
    struct bucket *newest, *oldest;
};

struct rate *rate_open(size_t names_most, struct error *error) {
    struct rate *rate = calloc(1, sizeof *rate);
    size_t chains = 16;
    while (chains < names_most && chains < (size_t)1 << 20) chains *= 2;
    if (rate) rate->chains = calloc(chains, sizeof *rate->chains);
    if (!rate || !rate->chains) {
        free(rate);
        error_set(error, ERROR_MEMORY, "no memory for rate limits");
        return NULL;
    }
    rate->chain_count = chains;
    rate->most = names_most ? names_most : 1;
    pthread_mutex_init(&rate->lock, NULL);
    return rate;
}

void rate_close(struct rate *rate) {
    if (!rate) return;
    for (struct bucket *bucket = rate->newest, *older; bucket; bucket = older) {
        older = bucket->older;
        free(bucket);
    }
    pthread_mutex_destroy(&rate->lock);
    free(rate->chains);
    free(rate);
}

static struct bucket **chain_of(struct rate *rate, const char *name) {
    uint64_t hash = 14695981039346656037u; // FNV-1a
    for (const char *c = name; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    return &rate->chains[(hash ^ hash >> 32) & (rate->chain_count - 1)];
}

static void unlink_used(struct rate *rate, struct bucket *bucket) {
    *(bucket->newer ? &bucket->newer->older : &rate->newest) = bucket->older;
    *(bucket->older ? &bucket->older->newer : &rate->oldest) = bucket->newer;
}

static void link_newest(struct rate *rate, struct bucket *bucket) {
    bucket->newer = NULL;
    bucket->older = rate->newest;
    *(rate->newest ? &rate->newest->newer : &rate->oldest) = bucket;
    rate->newest = bucket;
}

static void forget_oldest(struct rate *rate) {
    struct bucket *bucket = rate->oldest, **link = chain_of(rate, bucket->name);
    while (*link != bucket) link = &(*link)->next;
    *link = bucket->next;
    unlink_used(rate, bucket);
    rate->count--;
    free(bucket);
}

static struct bucket *find(struct rate *rate, const char *name) {
    struct bucket **chain = chain_of(rate, name);
    for (struct bucket *bucket = *chain; bucket; bucket = bucket->next) {
        if (strcmp(bucket->name, name)) continue;
        unlink_used(rate, bucket);
        link_newest(rate, bucket);
        return bucket;
    }
    size_t length = strlen(name) + 1;
    struct bucket *bucket = calloc(1, sizeof *bucket + length);
    if (!bucket) return NULL;
    if (rate->count >= rate->most) forget_oldest(rate);
    memcpy(bucket->name, name, length);
    bucket->next = *chain;
    *chain = bucket;
    link_newest(rate, bucket);
    rate->count++;
    return bucket;
}

bool rate_take_of(struct rate *rate, const char *name, double amount, double capacity, double seconds,
                  double now, double *wait) {
    double each = seconds / capacity; // one comes back in this time
    pthread_mutex_lock(&rate->lock);
    struct bucket *bucket = find(rate, name);
    double full_at = bucket && bucket->full_at > now ? bucket->full_at : now;
    // A limit that was lowered does not hold what was taken under the old one against the caller for longer than a bucket.
    if (full_at > now + seconds) full_at = now + seconds;
    double after = full_at + amount * each;
    double late = after - (now + seconds);
    bool taken = late <= seconds * 1e-9;
    if (taken && bucket) bucket->full_at = after;
    pthread_mutex_unlock(&rate->lock);
    *wait = taken ? 0 : late;
    return taken;
}

bool rate_take(struct rate *rate, const char *name, double per_minute, double now, double *wait) {
    return rate_take_of(rate, name, 1, per_minute, 60, now, wait);
}
