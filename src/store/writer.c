// The writing thread: batches of operations, one transaction each. Relies on store_inside.h.
#include "base/clock.h"
#include "store/store_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH_MOST = 1024, RESTARTS_MOST = 4, UPKEEP_ROWS = 100 };

static bool run_operation(struct store *store, struct operation *operation, int64_t now) {
    struct database *database = store->write_line.database;
    struct error *error = &operation->error;
    switch (operation->kind) {
    case OPERATION_BEGIN:
        return record_begin(database, &store->rules, &operation->in.begin, now, &operation->out.begun, error);
    case OPERATION_DISPATCHED:
        return record_dispatched(database, operation->in.dispatched.id, operation->in.dispatched.number,
                                 &operation->in.dispatched.attempt, error);
    case OPERATION_SETTLE:
        return record_settle(database, &store->rules, &operation->in.settle, now, &operation->out.changed,
                             error);
    case OPERATION_REJECT:
        return record_reject(database, &store->rules, &operation->in.begin, operation->http_status,
                             operation->error_code, operation->error_message, now, error);
    case OPERATION_PURGE:
        return record_purge(database, operation->in.one.id, &operation->in.one.scope, now, &operation->arena,
                            &operation->out.purged, error);
    default:
        return error_set(error, ERROR_INTERNAL, "an operation of kind %d", (int)operation->kind);
    }
}

// What came out of a run that was taken back.
static void reset_output(struct operation *operation) {
    if (operation->kind == OPERATION_BEGIN) free(operation->out.begun.answer.body);
    memset(&operation->out, 0, sizeof operation->out);
}

// Whether it is the database that refuses, not the operation that is wrong.
static bool is_refusal(const struct error *error) {
    return error->kind == ERROR_IO || error->kind == ERROR_UNAVAILABLE || error->kind == ERROR_MEMORY;
}

static void fail_all(struct operation *first, const struct error *error) {
    for (struct operation *operation = first; operation; operation = operation->next) {
        if (operation->failed) continue;
        reset_output(operation);
        operation->failed = true;
        operation->error = *error;
    }
}

// One run over all operations that have not failed. False: the transaction is gone and nothing of it is written.
static bool run_once(struct store *store, struct operation *first, int64_t now, struct error *error) {
    struct database *database = store->write_line.database;
    if (!database_run(database, error, "BEGIN IMMEDIATE", "")) return false;
    for (struct operation *operation = first; operation; operation = operation->next) {
        if (operation->failed) continue;
        if (!database_run(database, error, "SAVEPOINT operation", "")) break;
        operation->failed = !run_operation(store, operation, now);
        if (operation->failed) reset_output(operation);
        if (sqlite3_get_autocommit(database->handle)) { // the failure took the transaction with it
            *error = operation->error;
            return false;
        }
        if (operation->failed && !database_run(database, error, "ROLLBACK TO operation", "")) break;
        if (!database_run(database, error, "RELEASE operation", "")) break;
    }
    if (error->kind == ERROR_NONE && database_run(database, error, "COMMIT", "")) return true;
    database_rollback(database);
    return false;
}

// Runs a batch to its end: each operation has failed or is written.
static void run_batch(struct store *store, struct operation *first) {
    struct error error = {0};
    struct line *line = &store->write_line;
    if (!line_ready(store, line, store->options.synchronous_full ? DATABASE_FULL : 0, &error)) {
        fail_all(first, &error);
        return;
    }
    line->database->last_code = 0;
    // Another file may be there now: what it holds of an earlier server ends first.
    if (store->recovered_opening != line->openings) {
        if (!store_recover(store, line->database, store->opened_at, &error)) {
            fail_all(first, &error);
            line_failed(store, line, &error);
            return;
        }
        store->recovered_opening = line->openings;
    }
    if (store->was_busy)
        database_set_busy(line->database, 0.1); // who waited in vain does not wait as long again
    bool written = false;
    for (int i = 0; i < RESTARTS_MOST && !written; i++) {
        size_t failed_before = 0, failed = 0;
        for (struct operation *o = first; o; o = o->next) failed_before += o->failed;
        error = (struct error){0};
        written = run_once(store, first, clock_unix_micros(), &error);
        for (struct operation *o = first; o; o = o->next) {
            failed += o->failed;
            if (!written && !o->failed) reset_output(o);
        }
        if (!written && failed == failed_before) break; // not one operation's fault
    }
    if (!written) fail_all(first, &error);
    bool busy = database_trouble(line->database) == DATABASE_BUSY && !written;
    if (store->was_busy && !busy) database_set_busy(line->database, store->options.busy_seconds);
    store->was_busy = busy;
    if (!written)
        line_failed(store, line, &error);
    else
        for (struct operation *o = first; o; o = o->next)
            if (o->failed && is_refusal(&o->error)) line_failed(store, line, &o->error);
}

// ---------------------------------------------------------------------------------------------------------- completions

static void complete(struct operation *operation, bool deferred) {
    struct error none = {0};
    const struct error *error = operation->failed ? &operation->error : &none;
    switch (operation->kind) {
    case OPERATION_BEGIN: {
        struct store_begun *begun = &operation->out.begun;
        if (operation->failed) begun->outcome = STORE_UNWRITTEN, begun->error = operation->error;
        if (operation->call.begun) operation->call.begun(operation->context, begun);
        return;
    }
    case OPERATION_SETTLE: {
        struct store_settled settled = {
            .changed = operation->out.changed, .deferred = deferred, .error = *error};
        if (operation->call.settled) operation->call.settled(operation->context, &settled);
        return;
    }
    case OPERATION_PURGE: {
        struct store_purged *purged = &operation->out.purged;
        purged->error = *error;
        if (operation->call.purged) operation->call.purged(operation->context, purged);
        return;
    }
    default:
        if (operation->call.done) operation->call.done(operation->context, error);
        return;
    }
}

// Notes how a batch went, before anybody is told.
static void count_batch(struct store *store, struct operation *first, double seconds) {
    struct store_state *state = &store->state;
    int64_t count = 0, refused = 0;
    size_t owed = store->owed.count;
    const struct error *why = NULL;
    for (struct operation *operation = first; operation; operation = operation->next) {
        count++;
        if (!operation->failed || !is_refusal(&operation->error)) continue;
        refused++;
        owed += operation->kind == OPERATION_SETTLE;
        if (!why) why = &operation->error;
    }
    pthread_mutex_lock(&store->lock);
    bool was_good = state->good;
    state->good = refused == 0;
    state->operations += count;
    state->batches++;
    state->failed += refused;
    if (count > state->largest_batch) state->largest_batch = count;
    state->last_batch_seconds = seconds;
    state->deferred = owed;
    snprintf(state->message, sizeof state->message, "%s", why ? why->message : "");
    pthread_mutex_unlock(&store->lock);
    if (why && was_good) log_error(store->log, "%s: %s", store->path, why->message);
    if (!why && !was_good) log_info(store->log, "%s: it can be written again", store->path);
    store->owed_delay = !why ? 0 : store->owed_delay ? store->owed_delay * 2 : 0.1;
    if (store->owed_delay > 2) store->owed_delay = 2;
    store->owed_at = clock_seconds() + store->owed_delay;
}

static void work_off(struct store *store, struct operation *first) {
    double start = clock_seconds();
    run_batch(store, first);
    count_batch(store, first, clock_seconds() - start);
    for (struct operation *operation = first, *next; operation; operation = next) {
        next = operation->next;
        bool owed = operation->failed && operation->kind == OPERATION_SETTLE && is_refusal(&operation->error);
        complete(operation, owed);
        if (!owed) {
            operation_free(operation);
            continue;
        }
        operation->call.settled = NULL; // it was told
        operation->failed = false;
        operation->error = (struct error){0};
        operation_list_add(&store->owed, operation);
    }
}

// --------------------------------------------------------------------------------------------------------------- upkeep

// Removes a little of what is past its time, and ends what a server beside this one left when it died. Returns whether there
// may be more.
static bool keep_up(struct store *store) {
    struct line *line = &store->write_line;
    struct error error = {0};
    int count = 0;
    if (!line_ready(store, line, store->options.synchronous_full ? DATABASE_FULL : 0, &error)) return false;
    int64_t now = clock_unix_micros();
    int64_t before =
        store->options.retention_seconds > 0 ? now - (int64_t)(store->options.retention_seconds * 1e6) : 0;
    bool good = database_run(line->database, &error, "BEGIN IMMEDIATE", "") &&
                record_expire(line->database, before, now, UPKEEP_ROWS, &count, &error) &&
                record_mark(line->database, &error) && database_run(line->database, &error, "COMMIT", "");
    good = good && store_recover(store, line->database, store->opened_at, &error);
    if (good) return count > 0;
    database_rollback(line->database);
    log_warning(store->log, "%s: old records cannot be removed: %s", store->path, error.message);
    line_failed(store, line, &error);
    return false;
}

// The keeper's checkpoints could not keep up: the log begins anew.
static void shorten_log(struct store *store) {
    if (!store->write_line.database) return;
    database_set_busy(store->write_line.database, 0); // readers are not waited for
    sqlite3_wal_checkpoint_v2(store->write_line.database->handle, NULL, SQLITE_CHECKPOINT_RESTART, NULL,
                              NULL);
    database_set_busy(store->write_line.database, store->options.busy_seconds);
}

// --------------------------------------------------------------------------------------------------------------- thread

static int on_log(void *context, sqlite3 *handle, const char *name, int pages) {
    struct store *store = context;
    (void)handle, (void)name;
    atomic_store(&store->log_frames, pages);
    return SQLITE_OK;
}

static struct timespec after(double seconds) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += (time_t)seconds;
    time.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (time.tv_nsec >= 1000000000) time.tv_sec++, time.tv_nsec -= 1000000000;
    return time;
}

// Takes at most BATCH_MOST operations from the front. The lock is held.
static struct operation *take(struct operation_list *list) {
    struct operation *first = list->first, *last = first;
    size_t count = 1;
    if (!first) return NULL;
    for (; last->next && count < BATCH_MOST; count++) last = last->next;
    list->first = last->next;
    if (!list->first) list->end = &list->first;
    list->count -= count;
    last->next = NULL;
    return first;
}

// Takes the notes of request [id] out of the list; those before the first go to *end, which is moved behind them, unless
// [drop]. The lock is held.
static void take_notes(struct operation_list *notes, const char *id, bool drop, struct operation ***end) {
    struct operation **place = &notes->first;
    while (*place) {
        struct operation *note = *place;
        if (strcmp(note->in.dispatched.id, id)) {
            place = &note->next;
            continue;
        }
        *place = note->next;
        notes->count--;
        if (drop) {
            operation_free(note);
            continue;
        }
        note->next = **end;
        **end = note;
        *end = &note->next;
    }
    notes->end = place;
}

// The next batch: at most BATCH_MOST operations, and the notes that are due. A note of a request that the batch settles is left
// out, or comes before the settling where that does not say what was tried. The lock is held.
static struct operation *take_batch(struct store *store, double now) {
    struct operation *first = take(&store->writes);
    struct operation_list *notes = &store->notes;
    for (struct operation **place = &first; *place && notes->first; place = &(*place)->next) {
        const struct store_settle *settle = &(*place)->in.settle;
        if ((*place)->kind == OPERATION_SETTLE)
            take_notes(notes, settle->id, settle->attempt_count > 0, &place);
    }
    struct operation **end = &first;
    while (*end) end = &(*end)->next;
    while (notes->first && (now >= notes->first->due || store->stopping)) {
        *end = notes->first;
        end = &notes->first->next;
        notes->first = *end;
        notes->count--;
        *end = NULL;
    }
    if (!notes->first) notes->end = &notes->first;
    return first;
}

static void work_off_owed(struct store *store) {
    struct operation *first = take(&store->owed);
    if (first) work_off(store, first);
}

void *store_writer(void *context) {
    struct store *store = context;
    double worked = 0;
    pthread_mutex_lock(&store->lock);
    for (;;) {
        double now = clock_seconds();
        bool owed = store->owed.first && now >= store->owed_at;
        bool note = store->notes.first && (now >= store->notes.first->due || store->stopping);
        if (!store->writes.first && !note && !owed && !store->upkeep_due && !store->log_too_long) {
            if (store->stopping) break;
            // Notes do not wake it while it is at work, but it does not go to rest before the last of them.
            store->rests = !store->notes.first && now > worked + 2 * NOTE_SECONDS;
            struct timespec until = after(store->owed.first ? 0.05 : store->rests ? 1 : NOTE_SECONDS);
            pthread_cond_timedwait(&store->write_wake, &store->lock, &until);
            store->rests = false;
            continue;
        }
        struct operation *first = take_batch(store, now);
        if (first) worked = now;
        bool upkeep = store->upkeep_due, shorten = store->log_too_long;
        store->log_too_long = false;
        pthread_mutex_unlock(&store->lock);
        if (owed) work_off_owed(store);
        if (first) work_off(store, first);
        if (store->write_line.database && store->write_line.openings != store->hooked_opening) {
            sqlite3_wal_hook(store->write_line.database->handle, on_log, store);
            store->hooked_opening = store->write_line.openings;
        }
        if (shorten) shorten_log(store);
        bool more = upkeep && keep_up(store);
        pthread_mutex_lock(&store->lock);
        if (upkeep) store->upkeep_due = more && !store->stopping;
    }
    pthread_mutex_unlock(&store->lock);
    for (int i = 0; i < 5 && store->owed.first; i++) {
        if (i)
            nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL); // until the file may be opened again
        work_off_owed(store);
    }
    for (struct operation *owed = store->owed.first, *next; owed; owed = next) {
        next = owed->next;
        log_error(store->log, "%s: request %s cannot be settled; it will be recorded as INTERRUPTED",
                  store->path, owed->in.settle.id);
        operation_free(owed);
    }
    operation_list_init(&store->owed);
    return NULL;
}
