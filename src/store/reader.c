// The reading thread: listings, single records, statistics. Relies on store_inside.h.
#include "base/clock.h"
#include "store/listing.h"
#include "store/store_inside.h"

#include <stdlib.h>
#include <string.h>

static json_t *read_json(struct store *store, struct operation *operation) {
    struct database *database = store->read_line.database;
    struct error *error = &operation->error;
    int64_t now = clock_unix_micros();
    switch (operation->kind) {
    case OPERATION_GET_REQUEST:
        return listing_request(database, operation->in.one.id, &operation->in.one.scope, now, error);
    case OPERATION_LIST_REQUESTS:
        return listing_requests(database, &operation->in.requests, error);
    case OPERATION_LIST_KEYS:
        return listing_keys(database, &operation->in.keys, now, error);
    case OPERATION_STATS:
        return statistics_json(store->statistics, database, &operation->in.stats, now, STATISTICS_AGE_SECONDS,
                               error);
    case OPERATION_BALANCE:
        return listing_balance(database, operation->in.one.id, &operation->in.one.scope, now, error);
    default:
        error_set(error, ERROR_INTERNAL, "an operation of kind %d", (int)operation->kind);
        return NULL;
    }
}

static void read_answer(struct store *store, struct operation *operation, bool ready) {
    struct database *database = store->read_line.database;
    struct store_answer answer = {0};
    struct error *error = &operation->error;
    const struct query_scope *scope = &operation->in.one.scope;
    int64_t seq = 0;
    bool good = ready &&
                database_integer(
                    database, error, 0, &seq,
                    "SELECT seq FROM requests WHERE id = ?1 AND (?2 = '' OR project = ?2) AND (?3 = '' OR "
                    "key_id = ?3)",
                    "sss", operation->in.one.id, scope->project, scope->key_id) &&
                record_answer(database, seq, clock_unix_micros(), &answer, error);
    if (good && !answer.body)
        error_set(error, ERROR_NOT_FOUND, "no answer of request %.80s is kept", operation->in.one.id);
    if (operation->call.answer) operation->call.answer(operation->context, &answer, error);
    free(answer.body);
}

static void answer_one(struct store *store, struct operation *operation) {
    struct line *line = &store->read_line;
    bool ready = line_ready(store, line, DATABASE_READ_ONLY, &operation->error);
    if (ready) line->database->last_code = 0;
    if (operation->kind == OPERATION_ANSWER) {
        read_answer(store, operation, ready);
    } else {
        json_t *json = ready ? read_json(store, operation) : NULL;
        if (operation->call.json)
            operation->call.json(operation->context, json, &operation->error);
        else
            json_decref(json);
    }
    if (ready) line_failed(store, line, &operation->error);
}

void *store_reader(void *context) {
    struct store *store = context;
    pthread_mutex_lock(&store->lock);
    while (store->reads.first || !store->stopping) {
        struct operation *operation = store->reads.first;
        if (!operation) {
            pthread_cond_wait(&store->read_wake, &store->lock);
            continue;
        }
        store->reads.first = operation->next;
        if (!store->reads.first) store->reads.end = &store->reads.first;
        store->reads.count--;
        pthread_mutex_unlock(&store->lock);
        answer_one(store, operation);
        operation_free(operation);
        pthread_mutex_lock(&store->lock);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}
