// Records: requests, attempts, idempotency keys, budgets; SQLite behind it. Relies on base, key.h, sqlite3.
//
// DESIGN. Two threads, each with a connection of its own. One writes: it takes what is queued, runs it as one batch in one
// transaction (group commit), each operation in a savepoint so that one that fails leaves the others alone, and calls
// the completions after the commit. One reads: listings, statistics, single records; in WAL mode neither waits for the other.
// A caller queues an operation and goes on; nothing here blocks the event loop. Texts that are passed in are copied.
//
//     struct store_begin begin = {.id = "req_...", .project = "default", .model = "flux.2-dev-turbo", ...};
//     if (!store_begin(store, &begin, on_begun, exchange, &error)) answer the error now (nothing will be called)
//     ...
//     static void on_begun(void *context, struct store_begun *begun)   // on the store's thread: post it and return
//
// A request is one row, written before it is dispatched. It is settled once: status, cost, attempts, the answer for whoever
// may come back for it, and the release of what was reserved, in one transaction. A second settling changes nothing.
//
// What goes wrong. A database that is locked, full, damaged or gone fails operations with an error that says so; the store
// tries again on its own and goes on as soon as it can. A settling that cannot be written is reported as deferred and
// written later; when the process dies before that, recovery treats the request as interrupted and charges nothing.
//
// Recovery. Each server that uses a database holds a slot of it (a locked file beside it, "<path>.server-<n>"). When a
// store is opened, requests in slots that nobody holds any more, and that are still pending or processing, become
// STORE_FAILED with INTERRUPTED and cost nothing.
#ifndef LIMN_STORE_STORE_H
#define LIMN_STORE_STORE_H

#include "base/error.h"
#include "base/log.h"
#include "store/key.h"
#include "store/query.h"
#include "store/rate.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORE_ID_MOST       72  // of a request, with the 0 byte
#define STORE_PICTURES_MOST 640 // likewise

struct store;

struct store_options {
    const char *path; // of the database file; made when it is not there, its folder too
    bool
        synchronous_full; // survive a loss of power, at the cost of a sync a batch; else only the process's death
    bool keep_payloads;       // keep prompts, parameters and answers of requests that allow it
    double retention_seconds; // of records; 0: for ever
    double payload_seconds;   // of payloads; 0: as long as the record
    double
        answer_seconds;  // idempotency keys, and answers kept for them and for asynchronous requests; 0: 24 h
    double busy_seconds; // how long to wait for a lock that another process holds; 0: 5
    size_t queue_most;   // operations that may wait; 0: 65536
    const struct log *log; // borrowed; may be NULL
};

// Opens the database, brings it to the present version, takes a slot and recovers. Errors name the file.
struct store *store_open(const struct store_options *options, struct error *error);

// Writes what is queued, calls every completion, ends the threads. NULL is fine.
void store_close(struct store *store);

// The keys of the database, for the event loop; changes by other processes (`limn key`) are seen within a second.
struct keys *store_keys(struct store *store);

struct store_state {
    bool good;         // the last batch was committed
    char message[512]; // why not
    size_t waiting;    // operations queued
    size_t deferred;   // settlings that are still owed
    int64_t recovered; // requests that were interrupted when the store was opened
    int64_t operations, batches, largest_batch;
    int64_t failed;     // operations that the database refused
    int64_t unrecorded; // refusals that were too many to be recorded
    double last_batch_seconds;
};
// Any thread.
void store_state(struct store *store, struct store_state *state);

// Names as GET /v1/requests uses them: "pending", "processing", "completed", "upstream_failure", "rejected", "cancelled".
enum store_status {
    STORE_PENDING,    // accepted, waits
    STORE_PROCESSING, // handed to a provider
    STORE_COMPLETED,
    STORE_FAILED,   // limn or the provider failed
    STORE_REJECTED, // the caller's own fault, a 4xx
    STORE_CANCELLED,
};
const char *store_status_name(enum store_status status);

// ------------------------------------------------------------------------------------------------------------- begin

struct store_begin {
    const char *id;                           // unique; names of jobs: [a-z0-9_-]{8,64}
    const char *project;                      // NULL: "default"
    const char *key_id;                       // NULL: no key; then no limits apply
    const char *model;                        // as in the catalog
    const char *mode;                         // "text-to-image", "image-edit"
    const char *endpoint;                     // "/openai/v1/images/edits"
    const char *provider;                     // expected; NULL: not known yet
    const char *user, *session_id, *trace_id; // NULL: not given; cut at 256 bytes
    int64_t request_bytes;
    int images;              // asked for: counted against images a day
    int64_t estimate_micros; // reserved against the key's budgets
    bool asynchronous;       // its answer is kept for whoever asks for it later
    const char *payload;     // JSON, kept only where the owner keeps payloads; NULL: none (sync_mode)

    const char *idempotency_key; // 1 to 256 bytes; NULL: none
    uint8_t body_hash[32];       // of what the caller sent: two calls with one key must agree in it
};

enum store_outcome {
    STORE_NEW,       // written; run it
    STORE_ATTACH,    // another call with this idempotency key runs: wait for the end of [request_id]
    STORE_REPLAY,    // it has ended: [answer] is its answer
    STORE_CONFLICT,  // the idempotency key was used with another body
    STORE_NO_BUDGET, // [message] says which budget, a day, month or in all
    STORE_NO_IMAGES, // images a day used up; [retry_seconds] until midnight UTC
    STORE_NO_KEY,    // the key was revoked in the meantime
    STORE_KEY_OVER,  // it has expired
    STORE_UNWRITTEN, // the database refused: [error]
};

struct store_answer {
    int http_status;
    char type[64]; // content type
    char *body;    // NULL: none; a 0 byte behind it
    size_t size;
    char pictures[STORE_PICTURES_MOST]; // as store_settle gave them
};

struct store_begun {
    enum store_outcome outcome;
    char request_id[STORE_ID_MOST]; // ATTACH, REPLAY, CONFLICT: the first call's
    struct store_answer answer;     // REPLAY; the receiver may take body by setting it to NULL
    double retry_seconds;           // NO_BUDGET, NO_IMAGES: until the limit begins anew; 0: never
    char message[256];  // for the caller, one line; NO_BUDGET, NO_IMAGES, NO_KEY, KEY_OVER, CONFLICT
    struct error error; // UNWRITTEN: ERROR_IO with "No space left on device" when full, ERROR_UNAVAILABLE
                        // when locked, ERROR_IO when damaged or gone
};

typedef void store_begun_call(void *context, struct store_begun *begun);

// False with an error when it cannot even be queued (memory, too many wait, closing); then nothing is called.
bool store_begin(struct store *store, const struct store_begin *begin, store_begun_call *done, void *context,
                 struct error *error);

// ------------------------------------------------------------------------------------------- dispatch, settle, reject

// One try at one provider. Times in microseconds since 1970 UTC, 0 where it did not come to that.
struct store_attempt {
    const char *provider;       // "local"
    const char *provider_model; // the provider's name of the model; NULL: the same
    int64_t queued_at;          // when it began to wait for the provider
    int64_t dispatched_at;      // when the provider or the worker had it
    int64_t first_byte_at;
    int64_t ended_at;
    enum store_status
        status; // COMPLETED; FAILED; REJECTED and CANCELLED count neither as success nor as failure
    const char *error_code; // "WORKER_DIED"; NULL: none
    const char *error_message;
    int64_t cost_micros;
    int images; // delivered
};

typedef void store_done_call(void *context, const struct error *error); // error->kind ERROR_NONE: good

// The request is with a provider: its row becomes PROCESSING and attempt number [index] (from 0) gets a row. [done] may be
// NULL: nobody waits. It is written within a tenth of a second then, and only if the request has not been settled by that time.
bool store_dispatched(struct store *store, const char *id, int index, const struct store_attempt *attempt,
                      store_done_call *done, void *context, struct error *error);

enum store_media_kind { STORE_MEDIA_OUTPUT, STORE_MEDIA_REFERENCE, STORE_MEDIA_MASK };

// A file in media that belongs to a request.
struct store_media {
    const char *name;
    enum store_media_kind kind;
    int number; // OUTPUT: its index; REFERENCE: from 1, as prompts count
};

struct store_settle {
    const char *id;
    enum store_status status; // COMPLETED, FAILED, REJECTED, CANCELLED
    int http_status;
    const char *error_code, *error_message; // NULL when COMPLETED
    const char *executed_model, *provider;
    int64_t cost_micros; // charged
    int images;          // delivered
    int width, height;   // of what was delivered
    int64_t input_pixels, output_pixels;
    int64_t text_tokens, input_tokens, output_tokens;
    int64_t response_bytes;
    const struct store_attempt *attempts; // all of them; those written by store_dispatched are replaced
    int attempt_count;
    const struct store_media *media; // files in media that belong to it
    int media_count;
    // Kept when the request is asynchronous, has an idempotency key, or its payload is kept. NULL: none is kept. Then the idempotency key of a COMPLETED
    // request stays taken (it was charged: it must not run again), and with another status it is free again, so that a retry
    // runs (what is worth a retry: 429, 5xx, CANCELLED).
    const char *answer;
    size_t answer_size;
    const char *answer_type; // NULL: "application/json"
    const char *
        answer_pictures; // what the answer leaves out: "<offset> <name of a file in media>\n" each; NULL: nothing
};

struct store_settled {
    bool changed; // false: it was settled before; nothing was charged by this call
    bool
        deferred; // the database refused for now ([error] says why); it will be written as soon as that is possible
    struct error error; // ERROR_NONE, or why; ERROR_NOT_FOUND: there is no such request
};

typedef void store_settled_call(void *context, const struct store_settled *settled);

// [done] may be NULL. Never refused for want of room in the queue.
bool store_settle(struct store *store, const struct store_settle *settle, store_settled_call *done,
                  void *context, struct error *error);

// Records a request that was refused before it was begun: one finished row, REJECTED (FAILED for a 5xx), free of
// charge. [done] may be NULL.
//
// So that a flood of refusals does not fill the disk, each key has a bucket of STORE_REFUSALS records that gets one back a minute
// (requests without a key share one), and all of them together one ten times as large. What goes beyond is counted in
// store_state.unrecorded and not written; [done] is then called at once, without an error.
#define STORE_REFUSALS 100
bool store_reject(struct store *store, const struct store_begin *begin, int http_status,
                  const char *error_code, const char *error_message, store_done_call *done, void *context,
                  struct error *error);

// ------------------------------------------------------------------------------------------------------------- purge

struct store_purged {
    bool already; // there was nothing left to purge
    char **media; // names of files to remove, [media_count]; owned by the store, gone after the call
    int media_count;
    struct error error; // ERROR_NOT_FOUND: no such request for this caller; ERROR_INPUT: it still runs
};

typedef void store_purged_call(void *context, const struct store_purged *purged);

// Removes payloads, kept answers, error texts and the list of media of a request; the record stays. [scope] limits whose
// requests can be purged.
bool store_purge(struct store *store, const char *id, const struct query_scope *scope,
                 store_purged_call *done, void *context, struct error *error);

// ----------------------------------------------------------------------------------------------------------- queries

// [json] is the receiver's to decref (NULL with an error: ERROR_NOT_FOUND, ERROR_INPUT with the parameter as its field).
typedef void store_json_call(void *context, json_t *json, const struct error *error);

// Answers for the native endpoints; query.h says what stands in each. They run on the reading thread.
bool store_get_request(struct store *store, const char *id, const struct query_scope *scope,
                       store_json_call *done, void *context, struct error *error);
bool store_list_requests(struct store *store, const struct query_requests *query, store_json_call *done,
                         void *context, struct error *error);
bool store_list_keys(struct store *store, const struct query_keys *query, store_json_call *done,
                     void *context, struct error *error);
// Statistics of the last 30 days; computed at most once a minute.
bool store_get_stats(struct store *store, const struct query_stats *query, store_json_call *done,
                     void *context, struct error *error);
// A project in [scope] (NULL: none) adds what was spent for it, by the scope's key or by everybody.
bool store_get_balance(struct store *store, const char *key_id, const struct query_scope *scope,
                       store_json_call *done, void *context, struct error *error);

// The kept answer of a finished request, as STORE_REPLAY would give it. error->kind ERROR_NOT_FOUND: none (any more).
typedef void store_answer_call(void *context, struct store_answer *answer, const struct error *error);
bool store_get_answer(struct store *store, const char *id, const struct query_scope *scope,
                      store_answer_call *done, void *context, struct error *error);

// Whether a file in media belongs to a settled request: what does not is an orphan of a crash. Blocks; for start and for
// maintenance, not for the event loop.
bool store_knows_media(struct store *store, const char *name, bool *known, struct error *error);

#endif
