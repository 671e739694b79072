// See statistics.h. One walk over requests and their attempts, both in the order in which they lie in the file; the times of
// each group are collected and sorted. Each attempt counts twice: in its project's group and in that of all projects.
#include "store/statistics.h"
#include "base/clock.h"
#include "store/listing.h"
#include "store/store.h"
#include "store/usage.h"

#include <stdlib.h>
#include <string.h>

enum {
    SAMPLES_MOST = 2000000, // attempts whose times are kept in memory: 12 bytes each
    QUIET_TIMES = 50,       // computing takes at most one part in so many of the reading thread's time
};

struct statistics {
    json_t *all; // what was computed last, unfiltered: groups, each with its "project" ("": of all of them)
    int64_t computed_at;
    double compute_seconds;
};

// Microseconds, at most 71 minutes.
struct times {
    uint32_t *values;
    size_t count, capacity;
};

enum { NAMES = 4 };

// One line of the figures.
struct group {
    char *names[NAMES]; // project ("": all), model, provider, mode
    int64_t attempts, good, failed, images, cost;
    double total; // microseconds of those that succeeded
    struct times generation, first_byte, queue;
    int64_t p50; // of generation; -1: none
};

struct groups {
    struct group *items;
    size_t count, capacity;
    size_t *
        slots; // by hash of the names: index + 1 of the group, 0: free; [slot_count], a power of two, at most half full
    size_t slot_count;
    int64_t stride; // the times of every so many attempts are kept
};

struct statistics *statistics_open(struct error *error) {
    struct statistics *statistics = calloc(1, sizeof *statistics);
    if (!statistics) error_set(error, ERROR_MEMORY, "no memory for statistics");
    return statistics;
}

void statistics_close(struct statistics *statistics) {
    if (!statistics) return;
    json_decref(statistics->all);
    free(statistics);
}

static void free_groups(struct groups *groups) {
    for (size_t i = 0; i < groups->count; i++) {
        struct group *group = &groups->items[i];
        for (int k = 0; k < NAMES; k++) free(group->names[k]);
        free(group->generation.values);
        free(group->first_byte.values);
        free(group->queue.values);
    }
    free(groups->items);
    free(groups->slots);
}

// The slot that holds the group of these names, or the free one where it belongs.
static size_t *find_slot(const struct groups *groups, const char *const names[NAMES]) {
    uint64_t hash = 14695981039346656037u; // FNV-1a
    for (int k = 0; k < NAMES; k++)
        for (const char *c = names[k];; c++) {
            hash = (hash ^ (unsigned char)*c) * 1099511628211u;
            if (!*c) break;
        }
    for (size_t at = (size_t)hash;; at++) {
        size_t *slot = &groups->slots[at & (groups->slot_count - 1)];
        bool same = *slot != 0;
        for (int k = 0; k < NAMES && same; k++) same = !strcmp(groups->items[*slot - 1].names[k], names[k]);
        if (!*slot || same) return slot;
    }
}

// Makes room for one more group.
static bool grow(struct groups *groups) {
    if (groups->count < groups->capacity) return true;
    size_t capacity = groups->capacity ? groups->capacity * 2 : 16;
    struct group *items = realloc(groups->items, capacity * sizeof *items);
    if (!items) return false;
    groups->items = items;
    size_t *slots = calloc(capacity * 2, sizeof *slots);
    if (!slots) return false;
    free(groups->slots);
    groups->slots = slots;
    groups->slot_count = capacity * 2;
    groups->capacity = capacity;
    for (size_t i = 0; i < groups->count; i++)
        *find_slot(groups, (const char *const *)groups->items[i].names) = i + 1;
    return true;
}

// The group of that name, made when there is none yet; NULL when memory is gone.
static struct group *find_group(struct groups *groups, const char *const names[NAMES]) {
    if (!grow(groups)) return NULL;
    size_t *slot = find_slot(groups, names);
    if (*slot) return &groups->items[*slot - 1];
    struct group *made = &groups->items[groups->count];
    *made = (struct group){.p50 = -1};
    bool good = true;
    for (int k = 0; k < NAMES; k++) good = (made->names[k] = strdup(names[k])) && good;
    groups->count++; // free_groups sees to it, whole or not
    if (!good) return NULL;
    *slot = groups->count;
    return made;
}

static bool keep_time(struct times *times, int64_t from, int64_t to) {
    if (times->count == times->capacity) {
        size_t capacity = times->capacity ? times->capacity * 2 : 256;
        uint32_t *values = realloc(times->values, capacity * sizeof *values);
        if (!values) return false;
        times->values = values;
        times->capacity = capacity;
    }
    int64_t took = to > from ? to - from : 0;
    times->values[times->count++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    return true;
}

// The columns of the walk: 0 project, 1 model, 2 provider, 3 mode, 4 status, 5 queued, 6 dispatched, 7 first byte, 8 ended,
// 9 images, 10 cost.
static bool count_in(struct group *group, sqlite3_stmt *row, bool sampled) {
    if (!group) return false;
    int status = sqlite3_column_int(row, 4);
    int64_t queued = sqlite3_column_int64(row, 5), dispatched = sqlite3_column_int64(row, 6),
            first = sqlite3_column_int64(row, 7), ended = sqlite3_column_int64(row, 8);
    bool good = status == STORE_COMPLETED;
    group->attempts++;
    group->good += good;
    group->failed += status == STORE_FAILED;
    group->images += sqlite3_column_int64(row, 9);
    group->cost += sqlite3_column_int64(row, 10);
    if (good) group->total += (double)(ended - dispatched);
    if (!sampled) return true;
    if (queued && dispatched && !keep_time(&group->queue, queued, dispatched)) return false;
    if (good && !keep_time(&group->generation, dispatched, ended)) return false;
    return !good || !first || keep_time(&group->first_byte, dispatched, first);
}

static bool count_attempt(struct groups *groups, sqlite3_stmt *row, bool sampled) {
    const char *names[NAMES];
    for (int i = 0; i < NAMES; i++) {
        names[i] = (const char *)sqlite3_column_text(row, i);
        if (!names[i]) names[i] = "";
    }
    if (!count_in(find_group(groups, names), row, sampled)) return false;
    names[0] = "";
    return count_in(find_group(groups, names), row, sampled);
}

static bool walk(struct database *database, int64_t since, struct groups *groups, struct error *error) {
    // Requests that came a day before the window may have ended in it. Rows lie in the order of their coming, but for a clock
    // that was set back: so the first of the first thousand.
    int64_t from, count;
    if (!database_integer(
            database, error, INT64_MAX, &from,
            "SELECT min(seq) FROM (SELECT seq FROM requests WHERE created_at >= ?1 ORDER BY created_at "
            "LIMIT 1000)",
            "i", since - DAY_MICROS) ||
        !database_integer(database, error, 0, &count, "SELECT max(seq) - ?1 FROM requests", "i", from))
        return false;
    groups->stride = count / SAMPLES_MOST + 1;
    // CROSS JOIN keeps the order: both tables are read as they lie.
    sqlite3_stmt *row =
        database_query(database, error,
                       "SELECT r.project, r.model, a.provider, r.mode, a.status, a.queued_at, "
                       "a.dispatched_at, a.first_byte_at, a.ended_at, "
                       "a.images, a.cost_micros FROM requests r CROSS JOIN attempts a ON "
                       "a.request = r.seq WHERE r.seq >= ?1 AND "
                       "a.ended_at >= ?2 AND a.provider != ''",
                       "ii", from, since);
    bool more;
    for (int64_t number = 0; database_next(database, row, &more, error); number++) {
        if (!more) return true;
        if (count_attempt(groups, row, number % groups->stride == 0)) continue;
        database_end(row);
        return error_set(error, ERROR_MEMORY, "no memory for statistics");
    }
    return false;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void sort(struct times *times) {
    if (times->count) qsort(times->values, times->count, sizeof *times->values, by_value);
}

// By nearest rank: the smallest that at least [percent] do not exceed; -1 when there is none.
static int64_t percentile(const struct times *times, size_t percent) {
    if (!times->count) return -1;
    return times->values[(times->count * percent + 99) / 100 - 1];
}

// ---------------------------------------------------------------------------------------------------------------- JSON

static json_t *milliseconds(int64_t micros) {
    return micros < 0 ? json_null() : json_integer((micros + 500) / 1000);
}

static json_t *group_json(const struct group *group) {
    int64_t counted = group->good + group->failed;
    json_t *rate = json_null();
    // Rounded down: 100.0 means that not one failed.
    if (counted) rate = json_real((double)(group->good * 1000 / counted) / 10);
    int64_t mean = group->good ? (int64_t)(group->total / (double)group->good) : -1;
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:{s:o, s:o, s:o}, s:{s:o, s:o}, s:{s:o, s:o}, s:I, "
        "s:o, "
        "s:I}",
        "project", group->names[0], "model", group->names[1], "provider", group->names[2], "mode",
        group->names[3], "requests", group->attempts, "ok", group->good, "failed", group->failed,
        "not_counted", group->attempts - counted, "success_rate", rate, "generation_ms", "p50",
        milliseconds(group->p50), "p95", milliseconds(percentile(&group->generation, 95)), "mean",
        milliseconds(mean), "first_byte_ms", "p50", milliseconds(percentile(&group->first_byte, 50)), "p95",
        milliseconds(percentile(&group->first_byte, 95)), "queue_ms", "p50",
        milliseconds(percentile(&group->queue, 50)), "p95", milliseconds(percentile(&group->queue, 95)),
        "images", group->images, "cost", listing_money(group->cost), "cost_micros", group->cost);
}

static int by_speed(const void *a, const void *b) {
    const struct group *first = a, *second = b;
    int64_t x = first->p50 < 0 ? INT64_MAX : first->p50, y = second->p50 < 0 ? INT64_MAX : second->p50;
    if (x != y) return x < y ? -1 : 1;
    int order = 0;
    for (int k = 1; k < NAMES && !order; k++) order = strcmp(first->names[k], second->names[k]);
    return order;
}

static json_t *compute(struct database *database, int64_t since, struct error *error) {
    struct groups groups = {0};
    json_t *data = NULL;
    bool good = walk(database, since, &groups, error);
    if (good && (data = json_array())) {
        for (size_t i = 0; i < groups.count; i++) {
            struct group *group = &groups.items[i];
            sort(&group->generation);
            sort(&group->first_byte);
            sort(&group->queue);
            group->p50 = percentile(&group->generation, 50);
        }
        if (groups.count) qsort(groups.items, groups.count, sizeof *groups.items, by_speed);
        for (size_t i = 0; i < groups.count && data; i++)
            if (json_array_append_new(data, group_json(&groups.items[i])) != 0) {
                json_decref(data);
                data = NULL;
            }
    }
    free_groups(&groups);
    if (good && !data) error_set(error, ERROR_MEMORY, "no memory for statistics");
    return data;
}

static bool fits(const json_t *group, const char *name, const char *wanted) {
    return !*wanted || !strcmp(json_string_value(json_object_get(group, name)), wanted);
}

json_t *statistics_json(struct statistics *statistics, struct database *database,
                        const struct query_stats *query, int64_t now, double age_seconds,
                        struct error *error) {
    if (age_seconds < statistics->compute_seconds * QUIET_TIMES)
        age_seconds = statistics->compute_seconds * QUIET_TIMES;
    if (!statistics->all || (double)(now - statistics->computed_at) >= age_seconds * 1e6 ||
        now < statistics->computed_at) {
        double start = clock_seconds();
        json_t *fresh = compute(database, now - STATISTICS_DAYS * DAY_MICROS, error);
        if (!fresh) return NULL;
        statistics->compute_seconds = clock_seconds() - start;
        json_decref(statistics->all);
        statistics->all = fresh;
        statistics->computed_at = now;
    }
    json_t *data = json_array();
    int64_t requests = 0, images = 0, cost = 0;
    size_t index;
    json_t *group;
    json_array_foreach(statistics->all, index, group) {
        if (strcmp(json_string_value(json_object_get(group, "project")), query->project) ||
            !fits(group, "model", query->model) || !fits(group, "provider", query->provider) ||
            !fits(group, "mode", query->mode))
            continue;
        requests += json_integer_value(json_object_get(group, "requests"));
        images += json_integer_value(json_object_get(group, "images"));
        cost += json_integer_value(json_object_get(group, "cost_micros"));
        json_t *copy = json_deep_copy(group);
        json_object_del(copy, "project"); // said once for all
        json_array_append_new(data, copy);
    }
    json_t *object =
        json_pack("{s:s, s:i, s:o, s:o, s:o, s:{s:I, s:I, s:o, s:I}}", "object", "statistics", "window_days",
                  STATISTICS_DAYS, "computed_at", listing_time(statistics->computed_at), "project",
                  *query->project ? listing_text(query->project) : json_null(), "data", data, "totals",
                  "requests", requests, "images", images, "cost", listing_money(cost), "cost_micros", cost);
    if (!object) error_set(error, ERROR_MEMORY, "no memory for statistics");
    return object;
}
