// What the files of the store share: the threads' state and the operations that wait for them. Relies on store.h, records.h.
#ifndef LIMN_STORE_STORE_INSIDE_H
#define LIMN_STORE_STORE_INSIDE_H

#include "base/arena.h"
#include "store/database.h"
#include "store/records.h"
#include "store/statistics.h"
#include "store/store.h"

#include <pthread.h>
#include <stdatomic.h>

enum operation_kind {
    OPERATION_BEGIN, // the writing thread's
    OPERATION_DISPATCHED,
    OPERATION_SETTLE,
    OPERATION_REJECT,
    OPERATION_PURGE,
    OPERATION_GET_REQUEST, // the reading thread's
    OPERATION_LIST_REQUESTS,
    OPERATION_LIST_KEYS,
    OPERATION_STATS,
    OPERATION_BALANCE,
    OPERATION_ANSWER,
};

// One thing to do; owns copies of what it was given. Freed by operation_free.
struct operation {
    struct operation *next;
    struct arena arena;
    enum operation_kind kind;
    union {
        struct store_begin begin; // also of REJECT
        struct store_settle settle;
        struct {
            const char *id;
            int number;
            struct store_attempt attempt;
        } dispatched;
        struct {
            const char *id; // of a request, a key
            struct query_scope scope;
        } one;
        struct query_requests requests;
        struct query_keys keys;
        struct query_stats stats;
    } in;
    int http_status; // REJECT
    const char *error_code, *error_message;
    union {
        store_begun_call *begun;
        store_done_call *done;
        store_settled_call *settled;
        store_purged_call *purged;
        store_json_call *json;
        store_answer_call *answer;
    } call;
    void *context;

    // What came out.
    union {
        struct store_begun begun;
        struct store_purged purged;
        bool changed;
    } out;
    struct error error;
    bool failed;
    double due; // a note's: when it is written at the latest, monotonic seconds
};

// A DISPATCHED that nobody waits for is a note: it is written with what comes next, after NOTE_SECONDS at the latest, and not
// at all where the request is settled before, since the settling has all of it. Most requests so take two transactions.
#define NOTE_SECONDS 0.1

struct operation_list {
    struct operation *first, **end;
    size_t count;
};

void operation_list_init(struct operation_list *list);
void operation_list_add(struct operation_list *list, struct operation *operation);
void operation_free(struct operation *operation);

// A connection that is opened anew when it has gone bad.
struct line {
    struct database *database; // NULL: closed
    double check_at;           // when to look whether the file is still the one; monotonic seconds
    double open_at;            // not to be opened before
    struct error error;        // why it is closed
    bool was_broken;           // a damaged file is checked before it is used again
    int openings;              // how often it was opened
};

struct store {
    char *path;
    struct store_options options; // path and log apart, plain values
    const struct log *log;
    struct record_rules rules;
    int slot_file; // locked
    int64_t opened_at;
    struct keys *keys;
    struct rate *refusals; // records of refused requests, by key

    pthread_mutex_t lock; // guards the next block
    pthread_cond_t write_wake, read_wake, keep_wake;
    struct operation_list writes, notes, reads;
    bool rests; // the writing thread looks at its notes again only when it is woken
    bool stopping, upkeep_due, log_too_long;
    struct store_state state;

    pthread_t writer, reader, keeper;
    int threads;           // that were started
    atomic_int log_frames; // pages in the write-ahead log

    struct line write_line;     // the writing thread's own
    struct operation_list owed; // settlings that could not be written
    double owed_at, owed_delay; // when they are tried again
    bool was_busy;
    int recovered_opening, hooked_opening; // of write_line, that recovery and the log's hook were done for

    struct line read_line; // the reading thread's own
    struct statistics *statistics;

    struct line keep_line; // the keeper's own
    int64_t keys_version;  // that was loaded, and at which of keep_line's openings
    int keys_opening;

    pthread_mutex_t media_lock;
    struct line media_line;
};

// An open connection, or false with why there is none; opens it when that is due. [flags] as for database_open.
bool line_ready(struct store *store, struct line *line, int flags, struct error *error);
// To be called after a failure: closes the connection when it is broken.
void line_failed(struct store *store, struct line *line, const struct error *error);
void line_close(struct line *line);

// Ends what servers that are gone left: requests of slots that nobody holds, and of this store's own slot what came before
// [before] (microseconds since 1970 UTC). Adds to state.recovered.
bool store_recover(struct store *store, struct database *database, int64_t before, struct error *error);

// Loads the keys when they have changed since *version.
bool store_load_keys(struct store *store, struct database *database, struct error *error);

void *store_writer(void *store);
void *store_reader(void *store);
void *store_keeper(void *store);

#endif
