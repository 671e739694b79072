// Opening, closing, and the queues in front of the store's threads. Relies on store_inside.h.
#include "store/store.h"
#include "base/clock.h"
#include "store/store_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLOTS_MOST = 64, REFUSERS_MOST = 4096, REFUSALS_TIMES_ALL = 10 };

const char *store_status_name(enum store_status status) {
    static const char *const names[] = {"pending",          "processing", "completed",
                                        "upstream_failure", "rejected",   "cancelled"};
    return (unsigned)status < sizeof names / sizeof *names ? names[status] : "unknown";
}

// --------------------------------------------------------------------------------------------------------- operations

void operation_list_init(struct operation_list *list) {
    list->first = NULL;
    list->end = &list->first;
    list->count = 0;
}

void operation_list_add(struct operation_list *list, struct operation *operation) {
    operation->next = NULL;
    *list->end = operation;
    list->end = &operation->next;
    list->count++;
}

void operation_free(struct operation *operation) {
    if (!operation) return;
    if (operation->kind == OPERATION_BEGIN) free(operation->out.begun.answer.body);
    arena_free(&operation->arena);
    free(operation);
}

static struct operation *operation_new(enum operation_kind kind, void *context, struct error *error) {
    struct operation *operation = calloc(1, sizeof *operation);
    if (!operation) {
        error_set(error, ERROR_MEMORY, "no memory for a record");
        return NULL;
    }
    operation->kind = kind;
    operation->context = context;
    return operation;
}

// A copy in the operation's arena. *good becomes false when memory is gone.
static const char *copy(struct operation *operation, const char *text, bool *good) {
    if (!text) return NULL;
    char *made = arena_strdup(&operation->arena, text);
    if (!made) *good = false;
    return made;
}

// Hands the operation to its thread, or frees it.
static bool queue(struct store *store, struct operation *operation, bool good, struct error *error) {
    if (!good) {
        operation_free(operation);
        return error_set(error, ERROR_MEMORY, "no memory for a record");
    }
    bool writes = operation->kind < OPERATION_GET_REQUEST;
    bool note = operation->kind == OPERATION_DISPATCHED && !operation->call.done;
    if (note) operation->due = clock_seconds() + NOTE_SECONDS;
    pthread_mutex_lock(&store->lock);
    struct operation_list *list = note ? &store->notes : writes ? &store->writes : &store->reads;
    bool full = list->count >= store->options.queue_most && operation->kind != OPERATION_SETTLE;
    bool stopping = store->stopping && operation->kind != OPERATION_SETTLE;
    if (!full && !stopping) {
        operation_list_add(list, operation);
        if (!note || store->rests) pthread_cond_signal(writes ? &store->write_wake : &store->read_wake);
    }
    pthread_mutex_unlock(&store->lock);
    if (!full && !stopping) return true;
    operation_free(operation);
    return error_set(error, ERROR_UNAVAILABLE,
                     full ? "database: too many records wait to be written" : "the server is being stopped");
}

static bool copy_begin(struct operation *operation, const struct store_begin *from) {
    bool good = true;
    struct store_begin *begin = &operation->in.begin;
    *begin = *from;
    begin->id = copy(operation, from->id, &good);
    begin->project = copy(operation, from->project, &good);
    begin->key_id = copy(operation, from->key_id, &good);
    begin->model = copy(operation, from->model ? from->model : "", &good);
    begin->mode = copy(operation, from->mode ? from->mode : "", &good);
    begin->endpoint = copy(operation, from->endpoint ? from->endpoint : "", &good);
    begin->provider = copy(operation, from->provider, &good);
    begin->user = copy(operation, from->user, &good);
    begin->session_id = copy(operation, from->session_id, &good);
    begin->trace_id = copy(operation, from->trace_id, &good);
    begin->payload = copy(operation, from->payload, &good);
    begin->idempotency_key = copy(operation, from->idempotency_key, &good);
    return good;
}

static bool copy_attempt(struct operation *operation, const struct store_attempt *from,
                         struct store_attempt *attempt) {
    bool good = true;
    *attempt = *from;
    attempt->provider = copy(operation, from->provider, &good);
    attempt->provider_model = copy(operation, from->provider_model, &good);
    attempt->error_code = copy(operation, from->error_code, &good);
    attempt->error_message = copy(operation, from->error_message, &good);
    return good;
}

static bool copy_settle(struct operation *operation, const struct store_settle *from) {
    bool good = true;
    struct store_settle *settle = &operation->in.settle;
    *settle = *from;
    settle->id = copy(operation, from->id, &good);
    settle->error_code = copy(operation, from->error_code, &good);
    settle->error_message = copy(operation, from->error_message, &good);
    settle->executed_model = copy(operation, from->executed_model, &good);
    settle->provider = copy(operation, from->provider, &good);
    settle->answer_type = copy(operation, from->answer_type, &good);
    settle->answer_pictures = copy(operation, from->answer_pictures, &good);
    if (from->answer) {
        char *answer = arena_alloc(&operation->arena, from->answer_size + 1);
        if (!answer) return false;
        memcpy(answer, from->answer, from->answer_size);
        settle->answer = answer;
    }
    size_t attempts = (size_t)from->attempt_count, names = (size_t)from->media_count;
    struct store_attempt *made = arena_alloc(&operation->arena, attempts * sizeof *made);
    struct store_media *media = arena_alloc(&operation->arena, names * sizeof *media);
    if (!made || !media) return false;
    for (size_t i = 0; i < attempts; i++)
        if (!copy_attempt(operation, &from->attempts[i], &made[i])) return false;
    for (size_t i = 0; i < names; i++) {
        media[i] = from->media[i];
        media[i].name = copy(operation, from->media[i].name, &good);
    }
    settle->attempts = made;
    settle->media = media;
    return good;
}

bool store_begin(struct store *store, const struct store_begin *begin, store_begun_call *done, void *context,
                 struct error *error) {
    struct operation *operation = operation_new(OPERATION_BEGIN, context, error);
    if (!operation) return false;
    operation->call.begun = done;
    return queue(store, operation, copy_begin(operation, begin), error);
}

bool store_dispatched(struct store *store, const char *id, int index, const struct store_attempt *attempt,
                      store_done_call *done, void *context, struct error *error) {
    struct operation *operation = operation_new(OPERATION_DISPATCHED, context, error);
    if (!operation) return false;
    bool good = true;
    operation->call.done = done;
    operation->in.dispatched.id = copy(operation, id, &good);
    operation->in.dispatched.number = index;
    good = copy_attempt(operation, attempt, &operation->in.dispatched.attempt) && good;
    return queue(store, operation, good, error);
}

bool store_settle(struct store *store, const struct store_settle *settle, store_settled_call *done,
                  void *context, struct error *error) {
    struct operation *operation = operation_new(OPERATION_SETTLE, context, error);
    if (!operation) return false;
    operation->call.settled = done;
    return queue(store, operation, copy_settle(operation, settle), error);
}

static bool has_room_for_refusal(struct store *store, const char *key) {
    double now = clock_seconds(), wait, all = STORE_REFUSALS * REFUSALS_TIMES_ALL;
    if (rate_take_of(store->refusals, key, 1, STORE_REFUSALS, STORE_REFUSALS * 60.0, now, &wait) &&
        rate_take_of(store->refusals, "*", 1, all, STORE_REFUSALS * 60.0, now, &wait))
        return true;
    pthread_mutex_lock(&store->lock);
    store->state.unrecorded++;
    pthread_mutex_unlock(&store->lock);
    return false;
}

bool store_reject(struct store *store, const struct store_begin *begin, int http_status,
                  const char *error_code, const char *error_message, store_done_call *done, void *context,
                  struct error *error) {
    if (!has_room_for_refusal(store, begin->key_id ? begin->key_id : "-")) {
        struct error none = {0};
        if (done) done(context, &none);
        return true;
    }
    struct operation *operation = operation_new(OPERATION_REJECT, context, error);
    if (!operation) return false;
    operation->call.done = done;
    operation->http_status = http_status;
    bool good = copy_begin(operation, begin);
    operation->error_code = copy(operation, error_code, &good);
    operation->error_message = copy(operation, error_message, &good);
    return queue(store, operation, good, error);
}

// The operations that name one request or key.
static struct operation *one(enum operation_kind kind, const char *id, const struct query_scope *scope,
                             void *context, bool *good, struct error *error) {
    struct operation *operation = operation_new(kind, context, error);
    if (!operation) return NULL;
    operation->in.one.id = copy(operation, id, good);
    if (scope) operation->in.one.scope = *scope;
    return operation;
}

bool store_purge(struct store *store, const char *id, const struct query_scope *scope,
                 store_purged_call *done, void *context, struct error *error) {
    bool good = true;
    struct operation *operation = one(OPERATION_PURGE, id, scope, context, &good, error);
    if (!operation) return false;
    operation->call.purged = done;
    return queue(store, operation, good, error);
}

bool store_get_request(struct store *store, const char *id, const struct query_scope *scope,
                       store_json_call *done, void *context, struct error *error) {
    bool good = true;
    struct operation *operation = one(OPERATION_GET_REQUEST, id, scope, context, &good, error);
    if (!operation) return false;
    operation->call.json = done;
    return queue(store, operation, good, error);
}

bool store_get_answer(struct store *store, const char *id, const struct query_scope *scope,
                      store_answer_call *done, void *context, struct error *error) {
    bool good = true;
    struct operation *operation = one(OPERATION_ANSWER, id, scope, context, &good, error);
    if (!operation) return false;
    operation->call.answer = done;
    return queue(store, operation, good, error);
}

bool store_get_balance(struct store *store, const char *key_id, const struct query_scope *scope,
                       store_json_call *done, void *context, struct error *error) {
    bool good = true;
    struct operation *operation = one(OPERATION_BALANCE, key_id, scope, context, &good, error);
    if (!operation) return false;
    operation->call.json = done;
    return queue(store, operation, good, error);
}

bool store_list_requests(struct store *store, const struct query_requests *query, store_json_call *done,
                         void *context, struct error *error) {
    struct operation *operation = operation_new(OPERATION_LIST_REQUESTS, context, error);
    if (!operation) return false;
    operation->in.requests = *query;
    operation->call.json = done;
    return queue(store, operation, true, error);
}

bool store_list_keys(struct store *store, const struct query_keys *query, store_json_call *done,
                     void *context, struct error *error) {
    struct operation *operation = operation_new(OPERATION_LIST_KEYS, context, error);
    if (!operation) return false;
    operation->in.keys = *query;
    operation->call.json = done;
    return queue(store, operation, true, error);
}

bool store_get_stats(struct store *store, const struct query_stats *query, store_json_call *done,
                     void *context, struct error *error) {
    struct operation *operation = operation_new(OPERATION_STATS, context, error);
    if (!operation) return false;
    operation->in.stats = *query;
    operation->call.json = done;
    return queue(store, operation, true, error);
}

// -------------------------------------------------------------------------------------------------------------- lines

void line_close(struct line *line) {
    database_close(line->database);
    line->database = NULL;
}

static bool check_damaged(struct store *store, struct line *line, struct error *error) {
    enum { CHECKED_BYTES_MOST = 256 << 20 }; // what takes longer than a few seconds is left to its use
    struct stat about;
    if (!line->was_broken || stat(store->path, &about) != 0 || about.st_size > CHECKED_BYTES_MOST)
        return true;
    sqlite3_stmt *row = database_query(line->database, error, "PRAGMA quick_check(1)", "");
    bool more;
    if (!database_next(line->database, row, &more, error)) return false;
    const char *text = more ? (const char *)sqlite3_column_text(row, 0) : NULL;
    bool good = text && !strcmp(text, "ok");
    if (!good)
        error_set(
            error, ERROR_IO,
            "database: the file is damaged (%s); put a copy in its place, or move it away and start anew",
            text ? text : "it cannot be checked");
    if (more) database_end(row);
    return good;
}

bool line_ready(struct store *store, struct line *line, int flags, struct error *error) {
    double now = clock_seconds();
    if (line->database && now >= line->check_at) {
        line->check_at = now + 0.25;
        struct error gone = {0};
        if (!database_is_current(line->database, &gone)) {
            line_close(line);
            line->error = gone;
            line->open_at = now;
        }
    }
    if (line->database) return true;
    if (now < line->open_at) {
        *error = line->error;
        return false;
    }
    line->open_at = now + 0.5;
    struct error cause = {0};
    line->database = database_open(store->path, flags, store->options.busy_seconds, &cause);
    bool good = line->database && check_damaged(store, line, &cause) &&
                ((flags & DATABASE_READ_ONLY) || database_migrate(line->database, DATABASE_VERSION, &cause));
    if (good) {
        line->was_broken = false;
        line->openings++;
        line->check_at = now + 0.25;
        return true;
    }
    line_close(line);
    if (line->openings && cause.kind == ERROR_NOT_FOUND) cause.kind = ERROR_IO; // it was there
    line->error = *error = cause;
    return false;
}

void line_failed(struct store *store, struct line *line, const struct error *error) {
    if (!line->database || database_trouble(line->database) != DATABASE_BROKEN) return;
    line->error = *error;
    line->was_broken = true;
    line->open_at = clock_seconds() + 0.2;
    line_close(line);
    (void)store;
}

// ---------------------------------------------------------------------------------------------------- opening, closing

// Takes the slot file number [slot], -1 when another process has it or it cannot be made.
static int take_slot(const char *path, int slot, struct error *error) {
    char name[4096];
    if ((size_t)snprintf(name, sizeof name, "%s.server-%d", path, slot) >= sizeof name) {
        error_set(error, ERROR_INPUT, "%.200s...: the path is too long", path);
        return -1;
    }
    int file = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) {
        error_set(error, ERROR_IO, "%s: %s", name, strerror(errno));
        return -1;
    }
    if (flock(file, LOCK_EX | LOCK_NB) == 0) return file;
    close(file);
    return -1;
}

static bool take_any_slot(struct store *store, struct error *error) {
    for (int slot = 0; slot < SLOTS_MOST; slot++) {
        store->slot_file = take_slot(store->path, slot, error);
        store->rules.slot = slot;
        if (store->slot_file >= 0) return true;
        if (error->kind != ERROR_NONE) return false;
    }
    return error_set(error, ERROR_UNAVAILABLE, "%s: %d servers use it already", store->path, SLOTS_MOST);
}

static bool recover_slot(struct store *store, struct database *database, int slot, int64_t before,
                         struct error *error) {
    enum { CHUNK = 500 };
    int64_t from = 0;
    for (int count = CHUNK; count == CHUNK;) {
        if (!database_run(database, error, "BEGIN IMMEDIATE", "")) return false;
        bool good = record_interrupt(database, &store->rules, slot, before, clock_unix_micros(), CHUNK, &from,
                                     &count, error) &&
                    database_run(database, error, "COMMIT", "");
        if (!good) {
            database_rollback(database);
            return false;
        }
        pthread_mutex_lock(&store->lock);
        store->state.recovered += count;
        pthread_mutex_unlock(&store->lock);
    }
    return true;
}

bool store_recover(struct store *store, struct database *database, int64_t before, struct error *error) {
    for (int64_t slot = 0, next = -1; slot >= 0; slot = next) {
        if (!database_integer(
                database, error, -1, &next,
                "SELECT min(slot) FROM requests WHERE slot >= ?1 AND status < 2 AND seq >= " SETTLED_BELOW,
                "i", slot))
            return false;
        if (next < 0) break;
        struct error ignored = {0};
        bool own = next == store->rules.slot;
        int file = own ? -1 : take_slot(store->path, (int)next, &ignored);
        bool good = (!own && file < 0) || // its server lives
                    recover_slot(store, database, (int)next, own ? before : INT64_MAX, error);
        if (file >= 0) close(file);
        if (!good) return false;
        next++;
    }
    return true;
}

static bool open_threads(struct store *store, struct error *error) {
    void *(*const work[])(void *) = {store_writer, store_reader, store_keeper};
    pthread_t *const threads[] = {&store->writer, &store->reader, &store->keeper};
    for (; store->threads < 3; store->threads++)
        if (pthread_create(threads[store->threads], NULL, work[store->threads], store) != 0)
            return error_set(error, ERROR_MEMORY, "the store's threads cannot be started");
    return true;
}

static bool open_database(struct store *store, struct error *error) {
    int flags = DATABASE_CREATE | (store->options.synchronous_full ? DATABASE_FULL : 0);
    if (!line_ready(store, &store->write_line, flags, error) || !take_any_slot(store, error)) return false;
    struct database *database = store->write_line.database;
    if (!store_recover(store, database, INT64_MAX, error) || !store_load_keys(store, database, error))
        return error_prefix(error, "%s", store->path);
    store->recovered_opening = store->write_line.openings;
    if (store->state.recovered)
        log_warning(store->log,
                    "%lld requests were in work when the server ended: they are recorded as INTERRUPTED",
                    (long long)store->state.recovered);
    return true;
}

static void init_plain(struct store *store, const struct store_options *options) {
    store->options = *options;
    store->log = options->log;
    if (store->options.busy_seconds <= 0) store->options.busy_seconds = 5;
    if (!store->options.queue_most) store->options.queue_most = 65536;
    double answer = options->answer_seconds > 0 ? options->answer_seconds : 86400;
    store->rules = (struct record_rules){.keep_payloads = options->keep_payloads,
                                         .answer_micros = (int64_t)(answer * 1e6),
                                         .payload_micros = (int64_t)(options->payload_seconds * 1e6)};
    store->slot_file = -1;
    store->opened_at = clock_unix_micros();
    store->state.good = true;
    operation_list_init(&store->writes);
    operation_list_init(&store->notes);
    operation_list_init(&store->reads);
    operation_list_init(&store->owed);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&store->write_wake, &monotonic);
    pthread_cond_init(&store->read_wake, &monotonic);
    pthread_cond_init(&store->keep_wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&store->lock, NULL);
    pthread_mutex_init(&store->media_lock, NULL);
}

struct store *store_open(const struct store_options *options, struct error *error) {
    struct store *store = calloc(1, sizeof *store);
    if (!store) {
        error_set(error, ERROR_MEMORY, "no memory for the store");
        return NULL;
    }
    init_plain(store, options);
    store->path = strdup(options->path);
    store->options.path = store->path;
    bool good = (store->path || error_set(error, ERROR_MEMORY, "no memory for a path")) &&
                (store->keys = keys_open(error)) && (store->refusals = rate_open(REFUSERS_MOST, error)) &&
                (store->statistics = statistics_open(error)) && open_database(store, error) &&
                open_threads(store, error);
    if (good) return store;
    store_close(store);
    return NULL;
}

void store_close(struct store *store) {
    if (!store) return;
    pthread_mutex_lock(&store->lock);
    store->stopping = true;
    pthread_cond_broadcast(&store->write_wake);
    pthread_cond_broadcast(&store->read_wake);
    pthread_cond_broadcast(&store->keep_wake);
    pthread_mutex_unlock(&store->lock);
    const pthread_t threads[] = {store->writer, store->reader, store->keeper};
    for (int i = store->threads - 1; i >= 0; i--) pthread_join(threads[i], NULL); // the writer last
    line_close(&store->keep_line);
    line_close(&store->read_line);
    line_close(&store->media_line);
    line_close(&store->write_line);
    if (store->slot_file >= 0) close(store->slot_file);
    statistics_close(store->statistics);
    keys_close(store->keys);
    rate_close(store->refusals);
    pthread_cond_destroy(&store->write_wake);
    pthread_cond_destroy(&store->read_wake);
    pthread_cond_destroy(&store->keep_wake);
    pthread_mutex_destroy(&store->lock);
    pthread_mutex_destroy(&store->media_lock);
    free(store->path);
    free(store);
}

struct keys *store_keys(struct store *store) {
    return store->keys;
}

void store_state(struct store *store, struct store_state *state) {
    pthread_mutex_lock(&store->lock);
    *state = store->state;
    state->waiting = store->writes.count + store->notes.count + store->reads.count;
    pthread_mutex_unlock(&store->lock);
}

bool store_knows_media(struct store *store, const char *name, bool *known, struct error *error) {
    pthread_mutex_lock(&store->media_lock);
    struct line *line = &store->media_line;
    int64_t found = 0;
    bool good = line_ready(store, line, DATABASE_READ_ONLY, error);
    if (good && !database_integer(line->database, error, 0, &found, "SELECT 1 FROM media WHERE name = ?1",
                                  "s", name)) {
        good = false;
        line_failed(store, line, error);
    }
    pthread_mutex_unlock(&store->media_lock);
    *known = found != 0;
    return good;
}
