// See daily.h: a table of hashed names that is emptied each midnight.
#include "gateway/daily.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS      16384
#define NAMES_MOST 100000 // an address book no larger than some MB
#define DAY_MICROS (86400 * (int64_t)1000000)

struct name {
    struct name *next;
    int64_t count;
    char text[];
};

struct daily {
    pthread_mutex_t lock;
    int64_t day; // since 1970
    int names;
    struct name *slots[SLOTS];
};

struct daily *daily_open(struct error *error) {
    struct daily *daily = calloc(1, sizeof *daily);
    if (daily)
        pthread_mutex_init(&daily->lock, NULL);
    else
        error_set(error, ERROR_MEMORY, "no memory to count pictures by address");
    return daily;
}

static void forget(struct daily *daily) {
    for (int i = 0; i < SLOTS; i++)
        for (struct name *name = daily->slots[i], *next; name; name = next) {
            next = name->next;
            free(name);
        }
    memset(daily->slots, 0, sizeof daily->slots);
    daily->names = 0;
}

void daily_close(struct daily *daily) {
    if (!daily) return;
    forget(daily);
    pthread_mutex_destroy(&daily->lock);
    free(daily);
}

// The entry of [text] today; NULL: there is none, and none was or could be made.
static struct name *find(struct daily *daily, const char *text, int64_t day, bool make) {
    if (daily->day != day) {
        forget(daily);
        daily->day = day;
    }
    uint64_t hash = 14695981039346656037u; // FNV-1a
    for (const char *c = text; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    struct name **slot = &daily->slots[hash % SLOTS];
    for (struct name *name = *slot; name; name = name->next)
        if (!strcmp(name->text, text)) return name;
    if (!make || daily->names == NAMES_MOST) return NULL;
    size_t size = strlen(text) + 1;
    struct name *name = calloc(1, sizeof *name + size);
    if (!name) return NULL;
    memcpy(name->text, text, size);
    name->next = *slot;
    *slot = name;
    daily->names++;
    return name;
}

bool daily_take(struct daily *daily, const char *name, int count, int64_t most, int64_t now, double *wait) {
    int64_t day = now / DAY_MICROS;
    pthread_mutex_lock(&daily->lock);
    struct name *entry = find(daily, name, day, true);
    bool good = !entry || entry->count + count <= most;
    if (good && entry) entry->count += count;
    pthread_mutex_unlock(&daily->lock);
    if (!good) *wait = (double)((day + 1) * DAY_MICROS - now) / 1e6;
    return good;
}

void daily_give_back(struct daily *daily, const char *name, int count, int64_t now) {
    pthread_mutex_lock(&daily->lock);
    struct name *entry = find(daily, name, now / DAY_MICROS, false);
    if (entry) entry->count = entry->count > count ? entry->count - count : 0;
    pthread_mutex_unlock(&daily->lock);
}
