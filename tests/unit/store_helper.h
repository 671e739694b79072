// What the tests of the store share: a database in a fresh folder, and calls that wait for their completion.
#ifndef LIMN_TESTS_STORE_HELPER_H
#define LIMN_TESTS_STORE_HELPER_H

#include "unit.h"

#include "base/clock.h"
#include "store/database.h"
#include "store/key_table.h"
#include "store/store.h"

#include <dirent.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

struct shelf {
    char folder[64], path[96];
    struct store_options options;
    struct store *store;
};

static inline int shelf_set_up(void **state) {
    struct shelf *shelf = calloc(1, sizeof *shelf);
    snprintf(shelf->folder, sizeof shelf->folder, "/tmp/limn-store-XXXXXX");
    if (!mkdtemp(shelf->folder)) return -1;
    snprintf(shelf->path, sizeof shelf->path, "%s/limn.db", shelf->folder);
    shelf->options = (struct store_options){.path = shelf->path, .busy_seconds = 0.3};
    *state = shelf;
    return 0;
}

static inline void shelf_empty(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
    rmdir(path);
}

static inline int shelf_tear_down(void **state) {
    struct shelf *shelf = *state;
    store_close(shelf->store);
    shelf_empty(shelf->folder);
    free(shelf);
    return 0;
}

static inline struct store *shelf_open(struct shelf *shelf) {
    struct error error = {0};
    shelf->store = store_open(&shelf->options, &error);
    assert_ok(shelf->store, error);
    return shelf->store;
}

static inline void shelf_close(struct shelf *shelf) {
    store_close(shelf->store);
    shelf->store = NULL;
}

static inline struct database *shelf_database(struct shelf *shelf) {
    struct error error = {0};
    struct database *database = database_open(shelf->path, DATABASE_CREATE, 5, &error);
    assert_ok(database, error);
    assert_ok(database_migrate(database, DATABASE_VERSION, &error), error);
    return database;
}

// One integer of the database, by a connection of its own.
static inline int64_t shelf_integer(struct shelf *shelf, const char *sql) {
    struct error error = {0};
    struct database *database = database_open(shelf->path, 0, 5, &error);
    int64_t value = -1;
    assert_ok(database, error);
    assert_ok(database_integer(database, &error, -1, &value, sql, ""), error);
    database_close(database);
    return value;
}

// Where a completion leaves what it was given.
struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    struct store_begun begun;
    struct store_settled settled;
    struct error error;
    json_t *json;
    struct store_answer answer;
    bool already;
    int media_count;
    char media[4][64];
};

static inline struct waiter waiter_make(void) {
    return (struct waiter){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
}

static inline void waiter_end(struct waiter *waiter) {
    pthread_mutex_lock(&waiter->lock);
    waiter->done = true;
    pthread_cond_signal(&waiter->changed);
    pthread_mutex_unlock(&waiter->lock);
}

static inline void waiter_wait(struct waiter *waiter) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    int late = 0;
    pthread_mutex_lock(&waiter->lock);
    while (!waiter->done && !late) late = pthread_cond_timedwait(&waiter->changed, &waiter->lock, &until);
    pthread_mutex_unlock(&waiter->lock);
    if (!waiter->done) fail_msg("no completion after 20 s");
}

static inline void on_begun(void *context, struct store_begun *begun) {
    struct waiter *waiter = context;
    waiter->begun = *begun;
    begun->answer.body = NULL; // taken
    waiter_end(waiter);
}

static inline void on_settled(void *context, const struct store_settled *settled) {
    struct waiter *waiter = context;
    waiter->settled = *settled;
    waiter_end(waiter);
}

static inline void on_done(void *context, const struct error *error) {
    struct waiter *waiter = context;
    waiter->error = *error;
    waiter_end(waiter);
}

static inline void on_json(void *context, json_t *json, const struct error *error) {
    struct waiter *waiter = context;
    waiter->json = json;
    waiter->error = *error;
    waiter_end(waiter);
}

static inline void on_answer(void *context, struct store_answer *answer, const struct error *error) {
    struct waiter *waiter = context;
    waiter->answer = *answer;
    answer->body = NULL;
    waiter->error = *error;
    waiter_end(waiter);
}

static inline void on_purged(void *context, const struct store_purged *purged) {
    struct waiter *waiter = context;
    waiter->already = purged->already;
    waiter->error = purged->error;
    waiter->media_count = purged->media_count;
    for (int i = 0; i < purged->media_count && i < 4; i++)
        snprintf(waiter->media[i], sizeof waiter->media[i], "%s", purged->media[i]);
    waiter_end(waiter);
}

static inline struct store_begin begin_of(const char *id) {
    return (struct store_begin){.id = id,
                                .model = "pictogram",
                                .mode = "text-to-image",
                                .endpoint = "/v1/images/generations",
                                .images = 1,
                                .request_bytes = 120,
                                .estimate_micros = 8000};
}

static inline struct store_begun begin_now(struct store *store, const struct store_begin *begin) {
    struct waiter waiter = waiter_make();
    struct error error = {0};
    assert_ok(store_begin(store, begin, on_begun, &waiter, &error), error);
    waiter_wait(&waiter);
    return waiter.begun;
}

static inline void must_begin(struct store *store, const struct store_begin *begin) {
    struct store_begun begun = begin_now(store, begin);
    if (begun.outcome != STORE_NEW)
        fail_msg("%s: outcome %d %s%s", begin->id, begun.outcome, begun.message, begun.error.message);
}

static inline struct store_settled settle_now(struct store *store, const struct store_settle *settle) {
    struct waiter waiter = waiter_make();
    struct error error = {0};
    assert_ok(store_settle(store, settle, on_settled, &waiter, &error), error);
    waiter_wait(&waiter);
    return waiter.settled;
}

// Settles as completed for [cost] with one attempt that took a second.
static inline struct store_settled complete_now(struct store *store, const char *id, int64_t cost,
                                                const char *answer) {
    int64_t now = clock_unix_micros();
    struct store_attempt attempt = {.provider = "local",
                                    .queued_at = now - 1500000,
                                    .dispatched_at = now - 1000000,
                                    .first_byte_at = now - 400000,
                                    .ended_at = now,
                                    .status = STORE_COMPLETED,
                                    .cost_micros = cost,
                                    .images = 1};
    struct store_settle settle = {.id = id,
                                  .status = STORE_COMPLETED,
                                  .http_status = 200,
                                  .executed_model = "local/pictogram",
                                  .provider = "local",
                                  .cost_micros = cost,
                                  .images = 1,
                                  .width = 64,
                                  .height = 48,
                                  .attempts = &attempt,
                                  .attempt_count = 1,
                                  .answer = answer,
                                  .answer_size = answer ? strlen(answer) : 0};
    return settle_now(store, &settle);
}

static inline struct store_settled fail_now(struct store *store, const char *id, const char *code,
                                            const char *answer) {
    struct store_settle settle = {.id = id,
                                  .status = STORE_FAILED,
                                  .http_status = 503,
                                  .error_code = code,
                                  .error_message = "it went wrong",
                                  .answer = answer,
                                  .answer_size = answer ? strlen(answer) : 0};
    return settle_now(store, &settle);
}

static const struct query_scope EVERYBODY = {"", ""};

// The request as JSON, to be decref'd; NULL and *kind when there is none.
static inline json_t *get_now(struct store *store, const char *id, const struct query_scope *scope,
                              enum error_kind *kind) {
    struct waiter waiter = waiter_make();
    struct error error = {0};
    assert_ok(store_get_request(store, id, scope, on_json, &waiter, &error), error);
    waiter_wait(&waiter);
    if (kind) *kind = waiter.error.kind;
    if (!waiter.json && !kind) fail_msg("%s: %s", id, waiter.error.message);
    return waiter.json;
}

static inline const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "(none)";
}

static inline int64_t number_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value)) fail_msg("%s is no integer", key);
    return json_integer_value(value);
}

#endif
