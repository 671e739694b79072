// Jobs to workers, and what they say back. Relies on base, media. Behind it: a local worker process (worker.c, spawned
// as `limn worker`, never only forked), later NATS JetStream.
//
// DESIGN. The queue hands a job to a worker that has credit (one job a worker) and reports what happens to it as events on
// the caller's event loop (queue_poll). Messages between queue and worker are framed: u32 little-endian length (at most 64 KiB), then that
// many bytes of JSON with "v": 1 and "type". No pictures: references, previews and results travel as spool file ids.
// A job has an id, an attempt number and a lease that heartbeats renew; a worker that dies, hangs past its lease or breaks
// the protocol is killed and replaced; its job fails with a clear error. A result of a stale attempt is refused.
#ifndef LIMN_QUEUE_QUEUE_H
#define LIMN_QUEUE_QUEUE_H

#include "base/error.h"
#include "base/log.h"

#include <stdint.h>

struct queue;

struct queue_options {
    const char *program; // path of the limn binary
    const char *model_folder;
    const char *spool_folder;  // where references come from and results go to; made by the owner
    int threads;               // of the worker, 0: all
    const char *isa, *compute; // NULL: automatic
    int depth;                 // jobs that may wait; one more is refused with ERROR_UNAVAILABLE
    double lease_seconds; // without a heartbeat for so long a worker counts as hung (it beats every second)
    const struct log *log;
};

struct queue_job {  // all strings UTF-8, copied by queue_submit
    const char *id; // [a-z0-9_-]{8,64}, unique
    const char *prompt;
    const char *reference_files[4]; // names in the spool folder (encoded pictures as they came)
    int reference_count;
    int width, height; // 0: default
    int count;
    uint64_t seed;
    int steps;      // 0: default
    float guidance; // negative: default
    const float *sigmas;
    int sigma_count;
    const char *output_format; // "png", "jpeg", "webp"
    int output_quality;        // -1: default
    int preview_count;         // evenly spaced previews, 0 to 3
};

enum queue_event_kind { QUEUE_STARTED, QUEUE_PROGRESS, QUEUE_PREVIEW, QUEUE_IMAGE, QUEUE_DONE, QUEUE_FAILED };

struct queue_event {
    enum queue_event_kind kind;
    const char *job; // id
    int image, images, step, steps;
    double seconds;   // since the worker began with it
    const char *file; // PREVIEW, IMAGE: name in the spool folder
    int width, height;
    uint64_t seed;      // IMAGE
    struct error error; // FAILED: what to tell the user
};

typedef void queue_listener(void *context, const struct queue_event *event);

// Starts the thread that owns the worker; events come on that thread, one at a time.
struct queue *queue_open(const struct queue_options *options, queue_listener *listener, void *context,
                         struct error *error);
void queue_close(struct queue *queue); // stops the worker; jobs in flight fail with ERROR_CANCELLED

bool queue_submit(struct queue *queue, const struct queue_job *job, struct error *error);
// The worker stops within one block; the job then fails with ERROR_CANCELLED. Unknown ids are fine.
void queue_cancel(struct queue *queue, const char *job);
// Whether a worker is up and has opened the model; jobs waiting and running.
bool queue_ready(struct queue *queue, int *waiting, int *running);

#endif
