// Jobs to workers, and what they say back. Relies on base. Behind it: a local worker process (worker.h, executed anew as
// `limn worker`, never only forked), later NATS JetStream.
//
// DESIGN. The queue hands a job to a worker that has credit (one job a worker) and reports what happens to it as events on
// the queue's own thread. Messages between queue and worker are framed and versioned (frame.h) and carry no pictures:
// references, previews and results are files of the spool folder, named in the messages. A job has an id, an attempt number
// and a lease that heartbeats renew; a worker that dies, hangs past its lease, makes no headway or breaks the protocol is
// killed and replaced, and its job fails with a clear error; a job that it had not acknowledged yet ("started") is handed to the
// next worker instead. What a stale attempt says is refused.
//
// The spool folder belongs to the owner of the queue: it makes it, empties it before queue_open, and removes references and
// results when it has used them. A worker writes only files whose names begin with the job's id.
#ifndef LIMN_QUEUE_QUEUE_H
#define LIMN_QUEUE_QUEUE_H

#include "base/error.h"
#include "base/log.h"

#include <stdint.h>

struct queue;

#define QUEUE_REFERENCES_MOST 4
#define QUEUE_PREVIEWS_MOST   3
#define QUEUE_SIGMAS_MOST     200
#define QUEUE_LORAS_MOST      4

struct queue_options {
    const char *program; // path of the limn binary
    const char *model_folder;
    const char *spool_folder;
    int threads;                         // of the worker, 0: all
    const char *isa, *compute;           // NULL: automatic
    const char *loras[QUEUE_LORAS_MOST]; // of every job, "FILE" or "FILE:SCALE"
    int lora_count;
    int cache_megabytes; // of the worker, for encodings of prompts and references; 0: 256, negative: none
    int depth; // jobs that may wait beside the running one; one more is refused with ERROR_UNAVAILABLE
    double
        lease_seconds; // without a heartbeat for so long a worker counts as hung (it beats every second); 0: 15
    double stall_seconds;  // the same for a job that makes no headway though the worker beats; 0: 900
    double cancel_seconds; // a worker that has not ended a cancelled job after so long is killed; 0: 30
    const struct log *log; // NULL: silent
};

// A LoRA of one job. The file is the owner's, never named by a client.
struct queue_lora {
    const char *file;
    float scale;
};

struct queue_job {  // all strings UTF-8, copied by queue_submit
    const char *id; // [a-z0-9_-]{8,64}, unique
    const char *prompt;
    const char
        *reference_files[QUEUE_REFERENCES_MOST]; // names in the spool folder (encoded pictures as they came)
    int reference_count;
    // A PNG of the first reference's size; NULL: none. Where its alpha is 0 the picture is drawn anew, where it is 255 the
    // first reference's pixels (brought to the delivered size) come back as they were, between them the two are mixed.
    const char *mask_file;
    int width, height;                 // pixels to render, multiples of the model's side multiple; 0: default
    int deliver_width, deliver_height; // cut out of the middle; 0: as rendered
    int count;
    uint64_t seed;       // below 2^63
    int steps;           // 0: default
    float guidance;      // negative: default
    const float *sigmas; // NULL: default
    int sigma_count;
    struct queue_lora loras[QUEUE_LORAS_MOST];
    int lora_count;
    const char *output_format; // "png", "jpeg", "webp", "gif", "avif"; previews have it too
    int output_quality;        // 0 to 100; -1: default
    bool transparent;          // cut the plain background away (image_cut_background); not with "jpeg"
    int preview_count;         // evenly spaced previews, 0 to QUEUE_PREVIEWS_MOST
};

enum queue_event_kind {
    QUEUE_STARTED,
    QUEUE_PROGRESS,
    QUEUE_PREVIEW,
    QUEUE_IMAGE,
    QUEUE_DONE,
    QUEUE_FAILED,
    QUEUE_RERUN, // of the scheduler: the worker was lost (failure and error say how), the job waits for another one; its
    // previews and pictures so far are void, their files the listener's to remove. QUEUE_STARTED comes again
};

// Why a job failed, apart from what its error says.
enum queue_failure {
    QUEUE_FAILURE_JOB,         // the engine refused it, or it was cancelled (error.kind says which)
    QUEUE_FAILURE_WORKER_DIED, // the worker crashed, was killed or broke the protocol
    QUEUE_FAILURE_TIME,        // the worker hung or made no headway
    QUEUE_FAILURE_MODEL,       // no worker can open the model
    QUEUE_FAILURE_STOPPED,     // queue_close
};

struct queue_event {
    enum queue_event_kind kind;
    const char *job;   // id
    const char *stage; // PROGRESS: "text", "references", "steps", "decode"
    int image, images, step, steps, block, blocks;
    double seconds;   // since the worker began with it
    const char *file; // PREVIEW, IMAGE: name in the spool folder, now the listener's
    int width, height;
    uint64_t seed;    // IMAGE
    bool transparent; // IMAGE: its background was cut away (it was asked for, and the background was plain)
    // PREVIEW, IMAGE: as a usage report counts them. Of the prompt and of all references (once a job), and of this picture.
    int text_tokens, reference_tokens, output_tokens;
    enum queue_failure failure; // FAILED
    struct error error;         // FAILED: what to tell the user
};

// Called on the queue's thread, one event at a time. Every submitted job ends with exactly one DONE or FAILED.
typedef void queue_listener(void *context, const struct queue_event *event);

// Starts the thread that owns the worker, and the first worker.
struct queue *queue_open(const struct queue_options *options, queue_listener *listener, void *context,
                         struct error *error);
void queue_close(
    struct queue *queue); // stops the worker; jobs not done fail with QUEUE_FAILURE_STOPPED. NULL is fine

// Whether a job is one that queue_submit takes.
bool queue_job_check(const struct queue_job *job, struct error *error);
// ERROR_UNAVAILABLE when [depth] jobs wait already. The events of the job may begin before this returns.
bool queue_submit(struct queue *queue, const struct queue_job *job, struct error *error);
// The worker stops within one block; the job then fails with ERROR_CANCELLED. Unknown ids are fine.
void queue_cancel(struct queue *queue, const char *job);

// What the worker says of its model.
struct queue_model {
    char name[128];
    int default_width, default_height, default_steps;
    float default_guidance;
    int side_multiple;
    bool has_guidance, trained;
};

struct queue_state {
    bool ready;           // a worker is up and has opened the model
    int waiting, running; // jobs; one runs from when a worker has acknowledged it
    int workers_started;  // since queue_open
    double job_seconds;   // what a job took lately (a running mean), 0 before the first
};

void queue_state(struct queue *queue, struct queue_state *state);
// Waits until a worker is ready (true) or has said that it cannot open the model, or time is up (false).
bool queue_wait_ready(struct queue *queue, double seconds, struct queue_model *model, struct error *error);

#endif
