// What the parts of the gateway share: requests in work and the calls that wait for them. Relies on gateway.h, plan.h, store.h.
//
// DESIGN. A work is one request. It goes through the gateway by itself: gateway_start (loop thread), the fetcher's thread, the
// store's thread, the provider's threads, the store's thread again; each hands it to the next and then leaves it alone.
// Two things reach it from aside: calls that attach, leave or cancel, and questions about its progress. What they touch is
// guarded by the gateway's lock. A work of several jobs hears their events on several threads: work->lock guards those.
// Order of locks: work->lock, then gateway->lock.
#ifndef LIMN_GATEWAY_INSIDE_H
#define LIMN_GATEWAY_INSIDE_H

#include "gateway/answer.h"
#include "gateway/daily.h"
#include "gateway/fetch.h"
#include "gateway/gateway.h"
#include "gateway/plan.h"
#include "provider/provider.h"
#include "store/store.h"

#include <pthread.h>

#define JOB_ID_MOST (REQUEST_ID_MOST + 4)
#define WORK_SLOTS  1024

// An HTTP request whose client waits.
struct call {
    struct call *next;
    char id[REQUEST_ID_MOST];
    bool gone;     // its client left
    bool attached; // came later than the work: of a stream it gets the end only
    bool replayed;
};

// Tokens, as a usage report counts them.
struct usage {
    int text, references, output;
};

struct picture {
    bool there;
    bool shown;  // it, or a preview of it, went to a client that was reading
    bool billed; // it is among what is charged
    char *path;  // in the spool, NULL once it was moved
    int width, height;
    uint64_t seed;
    bool transparent;
    size_t bytes;                // of its file
    int output_tokens;           // of it, or of the preview so far
    char media[MEDIA_NAME_MOST]; // its name there, or ""
};

// What one call to the provider does: pictures [first, first + count).
struct job {
    char id[JOB_ID_MOST];
    int first, count, delivered;
    bool over;
    struct api_error error; // why it failed
    int text_tokens, reference_tokens;
    int attempt; // the present one, index of work->attempts; -1: none yet
};

enum work_stage { WORK_PREPARED, WORK_QUEUED, WORK_RUNNING, WORK_SETTLING };

struct work {
    struct work *next;
    struct gateway *gateway;
    char id[REQUEST_ID_MOST];
    struct image_request *request;
    struct plan plan;
    struct arena arena; // the strings of this struct
    const char *base_url, *endpoint, *idempotency_key, *trace_id, *project, *key_id, *principal;
    uint64_t request_bytes;
    bool dry_run, asynchronous, keyless;
    enum scheduler_priority priority; // of its key
    unsigned char fingerprint[32];
    int64_t created, queued; // unix micros
    int daily_taken;         // pictures counted against the address's day
    int begins;              // how often the store was asked to begin it

    // Guarded by gateway->lock.
    struct call *calls;
    enum work_stage stage;
    bool cancelled;
    double progress; // 0 to 1
    const char *progress_stage;

    // Guarded by lock.
    pthread_mutex_t lock;
    struct job *jobs; // plan.calls; these arrays are the arena's
    int job_count, jobs_over;
    struct picture *pictures;       // request->count
    struct store_attempt *attempts; // each job may be run again once
    int attempt_count, attempt_most;
    int *partials; // previews that were sent, by picture
    bool rerun;    // limn has itself run it again
    bool chunked;  // something of the stream was sent

    // At the end.
    struct api_error error; // API_OK: at least one picture
    int status;             // of a good answer; 0: 200
    char location[64];
    // What is kept of the pictures that came in (keep.c).
    struct store_media inputs[REFERENCES_MOST + 1];
    int input_count;
    struct answer answer;    // a good one: the body, or the events of the stream
    struct buffer body;      // the same as it is sent; made when it is needed
    struct api_error unread; // why it cannot be made
    struct buffer ending;    // of the stream: what is sent when the request is recorded
    int delivered;           // pictures that are charged
    int64_t cost_micros;     // of them; of a stream: so far
};

struct gateway {
    struct provider *provider;
    struct catalog *catalog;
    const struct config *config;
    struct store *store;
    struct media *media;
    struct fetch *fetch;  // NULL: pictures are not fetched
    struct daily *daily;  // pictures of programs without a key
    char *spool, *folder; // of the served model
    const struct log *log;
    gateway_sink *sink;
    void *context;
    char model[96];                // the served one
    struct queue_model model_info; // what its worker said of it
    pthread_mutex_t lock;          // guards what follows
    pthread_cond_t idle;
    struct work *works[WORK_SLOTS]; // by their ids
    int work_count;
    bool stopping;
    int submitting;              // works that are being handed to the provider
    struct catalog *own_catalog; // where none was given
    struct config *own_config;
};

// ----------------------------------------------------------------------------------------------------------- work.c

// Takes [request] over in any case. NULL with an error.
struct work *work_open(struct gateway *gateway, struct image_request *request,
                       const struct gateway_call *call, struct api_error *error);
// Makes room for its jobs and pictures, once plan and request say how many.
bool work_allot(struct work *work, struct api_error *error);
// Removes its files, frees everything.
void work_close(struct work *work);
void work_remove_files(struct work *work); // once is enough

void work_enlist(struct work *work); // from then on it counts as in work
// Takes it out of the list and its calls out of it, in one step: nobody attaches afterwards.
struct call *work_delist(struct work *work);
// With the lock held; NULL: none. [job]: by a job's id instead.
struct work *work_find(struct gateway *gateway, const char *id, bool job);
// Moves the only call of [from] to the work [id]; false when that is not in work any more.
bool work_attach(struct work *from, const char *id);

// Tokens of what is charged.
struct usage work_usage(const struct work *work);

// Sends [chunk] (whole events; copied) to those who read the stream from its beginning; whether there are any. With work->lock
// held.
bool work_send_chunk(struct work *work, const struct buffer *chunk);
// Answers [calls] (freed), each with the work's body or error. Several get copies.
void work_answer(struct work *work, struct call *calls);
// The end of every work that was enlisted: files, calls, the work itself go.
void work_conclude(struct work *work);
// Cancels the jobs of a work at its provider; [calls] of them. Without locks held.
void work_cancel_jobs(struct gateway *gateway, const char *id, int jobs);
void work_job_id(const char *id, int jobs, int index, char job[JOB_ID_MOST]);

void spool_sweep(const char *spool, const char *prefix); // files whose names begin with it; "": all
void spool_remove(const char *spool, const char *file);

// ------------------------------------------------------------------------------------------------------------ run.c

// Hands the jobs of a begun work to the provider. The work is not the caller's any more.
void run_start(struct work *work);
// The provider's listener; [context] is the gateway.
void run_listen(void *context, const struct queue_event *event);
// Ends a work that was begun and has no job in work: it is settled and answered.
void run_settle(struct work *work);

// ----------------------------------------------------------------------------------------------------------- keep.c

// Whether the owner wants what is in this request to be kept, and the caller has not asked for the contrary.
bool keep_wanted(const struct work *work);
// How long the media of its pictures live; [has_url]: they are answered as URLs.
double keep_life(const struct work *work, bool has_url);
// Moves the pictures that came in into media, once no job needs them any more.
void keep_inputs(struct work *work);

// Whether the card's model is the one that is served, under whatever id.
bool gateway_serves(const struct gateway *gateway, const struct model_card *card);

// Why a provider does not take a job, as the client hears it. Returns false.
bool gateway_refuse(const struct scheduler_refusal *refusal, const struct error *cause,
                    struct api_error *error);

#endif
