// See statistics.h. Percentiles are exact: SQLite sorts (on disk when it is much), the walk picks the ranks.
#include "store/statistics.h"
#include "store/listing.h"
#include "store/store.h"
#include "store/usage.h"

#include <stdlib.h>
#include <string.h>

struct statistics {
    json_t *all; // what was computed last, unfiltered
    int64_t computed_at;
};

// One line of the figures.
struct group {
    char *model, *provider, *mode;
    int64_t attempts, good, failed, images, cost, total_micros, first_bytes;
    int64_t p50, p95, first_p50, first_p95, queue_p50, queue_p95; // microseconds, -1: none
};

struct groups {
    struct group *items;
    size_t count, capacity;
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
        free(groups->items[i].model);
        free(groups->items[i].provider);
        free(groups->items[i].mode);
    }
    free(groups->items);
}

static struct group *new_group(struct groups *groups) {
    if (groups->count == groups->capacity) {
        size_t capacity = groups->capacity ? groups->capacity * 2 : 16;
        struct group *items = realloc(groups->items, capacity * sizeof *items);
        if (!items) return NULL;
        groups->items = items;
        groups->capacity = capacity;
    }
    struct group *group = &groups->items[groups->count++];
    *group = (struct group){
        .p50 = -1, .p95 = -1, .first_p50 = -1, .first_p95 = -1, .queue_p50 = -1, .queue_p95 = -1};
    return group;
}

static char *column_copy(sqlite3_stmt *row, int column) {
    const char *text = (const char *)sqlite3_column_text(row, column);
    return strdup(text ? text : "");
}

// Status 2 is COMPLETED, 3 FAILED; the others count for neither.
#define WINDOW                                                                                               \
    " FROM attempts a JOIN requests r ON r.seq = a.request WHERE a.ended_at >= ?1 AND a.provider != ''"
#define GROUPS " r.model, a.provider, r.mode"

static bool count_groups(struct database *database, int64_t since, struct groups *groups,
                         struct error *error) {
    sqlite3_stmt *row =
        database_query(database, error,
                       "SELECT" GROUPS
                       ", count(*), sum(a.status = 2), sum(a.status = 3), sum(a.images), sum(a.cost_micros), "
                       "sum((a.ended_at - a.dispatched_at) * (a.status = 2)), sum(a.status = 2 AND "
                       "a.first_byte_at > 0)" WINDOW " GROUP BY" GROUPS " ORDER BY" GROUPS,
                       "i", since);
    bool more;
    while (database_next(database, row, &more, error)) {
        if (!more) return true;
        struct group *group = new_group(groups);
        if (group) {
            group->model = column_copy(row, 0);
            group->provider = column_copy(row, 1);
            group->mode = column_copy(row, 2);
        }
        if (!group || !group->model || !group->provider || !group->mode) {
            database_end(row);
            return error_set(error, ERROR_MEMORY, "no memory for statistics");
        }
        int64_t *const numbers[] = {&group->attempts,   &group->good, &group->failed,
                                    &group->images,     &group->cost, &group->total_micros,
                                    &group->first_bytes};
        for (int i = 0; i < 7; i++) *numbers[i] = sqlite3_column_int64(row, 3 + i);
    }
    return false;
}

// The nearest rank, from 0: the smallest that at least [percent] of [count] do not exceed.
static int64_t rank_of(int percent, int64_t count) {
    int64_t rank = (count * percent + 99) / 100;
    return rank > 0 ? rank - 1 : 0;
}

enum measure { GENERATION, FIRST_BYTE };

// Walks the sorted times of all groups; both come in the order of the groups.
static bool pick(struct database *database, int64_t since, struct groups *groups, enum measure measure,
                 struct error *error) {
    static const char generation[] =
        "SELECT" GROUPS ", a.ended_at - a.dispatched_at" WINDOW " AND a.status = 2 ORDER BY" GROUPS ", 4";
    static const char first_byte[] = "SELECT" GROUPS ", a.first_byte_at - a.dispatched_at" WINDOW
                                     " AND a.status = 2 AND a.first_byte_at > 0 ORDER BY" GROUPS ", 4";
    sqlite3_stmt *row =
        database_query(database, error, measure == GENERATION ? generation : first_byte, "i", since);
    size_t at = 0;
    int64_t seen = 0;
    bool more;
    while (database_next(database, row, &more, error)) {
        if (!more) return true;
        const char *names[3];
        for (int i = 0; i < 3; i++) names[i] = (const char *)sqlite3_column_text(row, i);
        for (; at < groups->count; at++, seen = 0) {
            const struct group *group = &groups->items[at];
            if (names[0] && names[1] && names[2] && !strcmp(group->model, names[0]) &&
                !strcmp(group->provider, names[1]) && !strcmp(group->mode, names[2]))
                break;
        }
        if (at == groups->count) {
            database_end(row);
            return true;
        }
        struct group *group = &groups->items[at];
        int64_t count = measure == GENERATION ? group->good : group->first_bytes;
        int64_t value = sqlite3_column_int64(row, 3);
        if (seen == rank_of(50, count)) *(measure == GENERATION ? &group->p50 : &group->first_p50) = value;
        if (seen == rank_of(95, count)) *(measure == GENERATION ? &group->p95 : &group->first_p95) = value;
        seen++;
    }
    return false;
}

static bool pick_queue(struct database *database, int64_t since, struct groups *groups, struct error *error) {
    static const char count_sql[] =
        "SELECT count(*)" WINDOW
        " AND a.queued_at > 0 AND a.dispatched_at > 0 AND r.model = ?2 AND a.provider = ?3 "
        "AND r.mode = ?4";
    static const char rank_sql[] =
        "SELECT a.dispatched_at - a.queued_at" WINDOW
        " AND a.queued_at > 0 AND a.dispatched_at > 0 AND r.model = ?2 AND a.provider = ?3 "
        "AND r.mode = ?4 ORDER BY 1 LIMIT 1 OFFSET ?5";
    for (size_t i = 0; i < groups->count; i++) {
        struct group *group = &groups->items[i];
        int64_t count;
        if (!database_integer(database, error, 0, &count, count_sql, "isss", since, group->model,
                              group->provider, group->mode))
            return false;
        if (!count) continue;
        if (!database_integer(database, error, -1, &group->queue_p50, rank_sql, "isssi", since, group->model,
                              group->provider, group->mode, rank_of(50, count)) ||
            !database_integer(database, error, -1, &group->queue_p95, rank_sql, "isssi", since, group->model,
                              group->provider, group->mode, rank_of(95, count)))
            return false;
    }
    return true;
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
    return json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:o, s:{s:o, s:o, s:o}, s:{s:o, s:o}, s:{s:o, s:o}, s:I, s:o, "
        "s:I}",
        "model", group->model, "provider", group->provider, "mode", group->mode, "requests", group->attempts,
        "ok", group->good, "failed", group->failed, "not_counted", group->attempts - counted, "success_rate",
        rate, "generation_ms", "p50", milliseconds(group->p50), "p95", milliseconds(group->p95), "mean",
        milliseconds(group->good ? group->total_micros / group->good : -1), "first_byte_ms", "p50",
        milliseconds(group->first_p50), "p95", milliseconds(group->first_p95), "queue_ms", "p50",
        milliseconds(group->queue_p50), "p95", milliseconds(group->queue_p95), "images", group->images,
        "cost", listing_money(group->cost), "cost_micros", group->cost);
}

static int by_speed(const void *a, const void *b) {
    const struct group *first = a, *second = b;
    int64_t x = first->p50 < 0 ? INT64_MAX : first->p50, y = second->p50 < 0 ? INT64_MAX : second->p50;
    if (x != y) return x < y ? -1 : 1;
    int order = strcmp(first->model, second->model);
    return order ? order : strcmp(first->provider, second->provider);
}

static json_t *compute(struct database *database, int64_t since, struct error *error) {
    struct groups groups = {0};
    json_t *data = NULL;
    // One transaction, so that the walks see the same rows.
    bool good = database_run(database, error, "BEGIN", "");
    bool open = good;
    good = good && count_groups(database, since, &groups, error) &&
           pick(database, since, &groups, GENERATION, error) &&
           pick(database, since, &groups, FIRST_BYTE, error) && pick_queue(database, since, &groups, error);
    if (open) database_run(database, NULL, "COMMIT", "");
    if (good && (data = json_array())) {
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
    if (!statistics->all || (double)(now - statistics->computed_at) >= age_seconds * 1e6 ||
        now < statistics->computed_at) {
        json_t *fresh = compute(database, now - STATISTICS_DAYS * DAY_MICROS, error);
        if (!fresh) return NULL;
        json_decref(statistics->all);
        statistics->all = fresh;
        statistics->computed_at = now;
    }
    json_t *data = json_array();
    int64_t requests = 0, images = 0, cost = 0;
    size_t index;
    json_t *group;
    json_array_foreach(statistics->all, index, group) {
        if (!fits(group, "model", query->model) || !fits(group, "provider", query->provider) ||
            !fits(group, "mode", query->mode))
            continue;
        requests += json_integer_value(json_object_get(group, "requests"));
        images += json_integer_value(json_object_get(group, "images"));
        cost += json_integer_value(json_object_get(group, "cost_micros"));
        json_array_append_new(data, json_deep_copy(group));
    }
    json_t *object = json_pack("{s:s, s:i, s:o, s:o, s:{s:I, s:I, s:o, s:I}}", "object", "statistics",
                               "window_days", STATISTICS_DAYS, "computed_at",
                               listing_time(statistics->computed_at), "data", data, "totals", "requests",
                               requests, "images", images, "cost", listing_money(cost), "cost_micros", cost);
    if (!object) error_set(error, ERROR_MEMORY, "no memory for statistics");
    return object;
}
