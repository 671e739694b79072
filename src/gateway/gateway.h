// One request's way: resolve, price, reserve, run, deliver, record. Relies on image_request, provider, media, store, catalog.
//
// DESIGN. A request that was read is handed to gateway_start and belongs to the gateway from then on. On the caller's thread,
// with CPU alone: its model is looked up in the catalog, its parameters are held against the card, the exact size and the
// price follow. Then, each on the thread of whoever is asked: pictures behind https URLs are fetched (fetch.h), the store
// claims the idempotency key, reserves the price and writes the record, the scheduler hands the job to a provider, what comes
// back is delivered (base64, a data URI, or moved into media behind a URL), the store settles, and the answer goes to the sink.
//
// Calls and requests are two things: a call is one HTTP request of one client; a call whose Idempotency-Key is known attaches
// to the request of an earlier call, whose answer both get. Every call that was started gets exactly one GATEWAY_ANSWER, and
// that is its last message. The sink may be called on any thread, also on the caller's within gateway_start; messages of one
// call come one after the other. The sink passes them on and returns: it must not call the gateway. Nothing here waits; the files of a request in the spool folder are removed before its answer.
#ifndef LIMN_GATEWAY_GATEWAY_H
#define LIMN_GATEWAY_GATEWAY_H

#include "base/log.h"
#include "gateway/image_request.h"
#include "gateway/principal.h"
#include "media/media.h"
#include "provider/provider.h"
#include "store/store.h"

struct gateway;
struct catalog;
struct config;
struct fetch_options;

enum gateway_message_kind {
    GATEWAY_CHUNK,  // of a stream: [body] is whole server-sent events ("event: ...\ndata: ...\n\n")
    GATEWAY_ANSWER, // the last message of the call
};

struct gateway_message {
    enum gateway_message_kind kind;
    struct api_error error; // ANSWER: API_OK, or what went wrong
    int status;             // ANSWER: HTTP status: 200, 202, or the error's
    struct buffer
        body; // the receiver's to free. An ANSWER after chunks has none: everything was said, a failure too
    // (as `event: error`). An ANSWER with an error that comes before any chunk has none either: the error is the answer.
    char provider[32];     // slug of who made the pictures ("local"), "" when nobody did
    char model[96];        // the model's id, "" when none was found
    char location[64];     // 202: path of the request to poll, "/v1/requests/req_..."
    bool replayed;         // the answer of an earlier call with the same Idempotency-Key
    bool should_not_retry; // a repetition is in vain: `x-should-retry: false`
};

// [id] is the call's (the id of the image_request that it was started with). [message] is the callee's to empty.
typedef void gateway_sink(void *context, const char *id, struct gateway_message *message);

struct gateway_options {
    struct queue_options
        queue; // of the local engine; spool_folder is emptied here, model_folder is the model that is served
    struct media *media;
    double start_seconds; // how long to wait for the first worker
    // Asked several times a second while that is waited for: true ends it with ERROR_CANCELLED. NULL: never.
    bool (*stopped)(void *context);
    void *stopped_context;
    const struct log *log;
    // All borrowed. Without a configuration everything is at its default; without a catalog the gateway opens one; without a
    // store nothing is recorded and there are no idempotency keys.
    const struct config *config;
    struct catalog *catalog; // the served model is added to it
    struct store *store;
    // How pictures behind URLs are fetched; NULL: as the configuration says. For tests.
    const struct fetch_options *fetch;
    // Opens what makes the pictures; NULL: provider_local_open. For tests.
    struct provider *(*open_provider)(const struct scheduler_options *options, queue_listener *listener,
                                      void *context, struct error *error);
};

// Opens the local provider and waits until it can serve the model.
struct gateway *gateway_open(const struct gateway_options *options, gateway_sink *sink, void *context,
                             struct error *error);
// No new request is begun, and what waits is answered with API_INTERRUPTED; what runs goes on. Any thread.
void gateway_drain(struct gateway *gateway);
// Stops the provider: what is in work is answered with API_INTERRUPTED and recorded before this returns, as is what comes later.
void gateway_interrupt(struct gateway *gateway);
void gateway_close(struct gateway *gateway); // interrupts; NULL is fine

// How many requests are in work, asynchronous ones included. Any thread.
int gateway_in_work(struct gateway *gateway);

// The model's name as it is asked for: lower case, "-" for what is not [a-z0-9._-].
const char *gateway_model(const struct gateway *gateway);
const struct queue_model *gateway_model_info(const struct gateway *gateway);
void gateway_state(struct gateway *gateway, struct queue_state *state);

// Whether a request that came now would be taken: asked before a large body is stored in vain. Any thread.
bool gateway_has_room(struct gateway *gateway, struct api_error *error);

// What a call brings beside its parameters. Everything is copied.
struct gateway_call {
    const struct principal *principal; // NULL: nobody in particular, no limits
    const char *base_url;              // "http://127.0.0.1:8080": what media URLs begin with
    const char *endpoint;              // "/v1/images/generations", for the record
    const char *idempotency_key;       // NULL: none
    const char *trace_id;              // 32 hex digits or ""; NULL: none
    uint64_t request_bytes;            // of the body, for the record
    bool dry_run;                      // answer with the price and run nothing
    bool asynchronous;                 // answer with 202 once the request is recorded
};

// Takes [request] (from malloc, read by image_request_read) over in any case. False with an error: there will be no message.
// True: the sink gets this call's messages.
bool gateway_start(struct gateway *gateway, struct image_request *request, const struct gateway_call *call,
                   struct api_error *error);

// The client of the call [id] is gone. Its request stops within one step, unless it has an Idempotency-Key, is asynchronous
// or others are attached to it. The answer comes nevertheless, to be dropped. Any thread; unknown ids are fine.
void gateway_cancel(struct gateway *gateway, const char *id);

// Stops the request [id] on its owner's word (POST /v1/requests/{id}/cancel): all its calls are answered with API_CANCELLED.
// False when it is not in work, or already being recorded as done. The caller has checked that it may. Any thread.
bool gateway_stop(struct gateway *gateway, const char *id);

// How far a request in work is: {"status":"queued"|"processing","progress":0..1,"stage","queue_position"}; NULL when it is not
// in work here. The caller decref's. Any thread.
json_t *gateway_progress_json(struct gateway *gateway, const char *id);

// Removes every file of a request that did not get as far as gateway_start.
void gateway_sweep(struct gateway *gateway, const char *id);

#endif
