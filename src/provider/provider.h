// One upstream that makes pictures. Relies on queue. Here: the local engine; fal and OpenAI-compatible servers come beside it.
#ifndef LIMN_PROVIDER_PROVIDER_H
#define LIMN_PROVIDER_PROVIDER_H

#include "queue/queue.h"

struct provider {
    const char *slug; // "local", as in "local/pictogram"
    const char *name; // for people
    // Hands over a job; its events come to the listener that the provider was opened with, on a thread of the provider's.
    bool (*submit)(struct provider *provider, const struct queue_job *job, struct error *error);
    void (*cancel)(struct provider *provider, const char *job);
    void (*state)(struct provider *provider, struct queue_state *state);
    // Waits until it can serve; fills in what it serves.
    bool (*wait_ready)(struct provider *provider, double seconds, struct queue_model *model,
                       struct error *error);
    void (*close)(struct provider *provider); // jobs not done fail with QUEUE_FAILURE_STOPPED
};

// The engine in a worker process of this machine.
struct provider *provider_local_open(const struct queue_options *options, queue_listener *listener,
                                     void *context, struct error *error);

#endif
