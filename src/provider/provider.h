// One upstream that makes pictures. Relies on scheduler.h. Here: the local engine; fal and OpenAI-compatible servers come beside
// it.
#ifndef LIMN_PROVIDER_PROVIDER_H
#define LIMN_PROVIDER_PROVIDER_H

#include "queue/scheduler.h"

struct provider {
    const char *slug; // "local", as in "local/pictogram"
    const char *name; // for people
    // Hands over a job; its events come to the listener that the provider was opened with, on threads of the provider's.
    // [refusal] may be NULL.
    bool (*submit)(struct provider *provider, const struct scheduler_job *job,
                   struct scheduler_refusal *refusal, struct error *error);
    bool (*has_room)(struct provider *provider, const char *principal, struct scheduler_refusal *refusal,
                     struct error *error);
    void (*cancel)(struct provider *provider, const char *job);
    int (*position)(struct provider *provider, const char *job); // as scheduler_position
    void (*state)(struct provider *provider, struct scheduler_state *state);
    // [model] NULL: the first. False when it is not one of the provider's.
    bool (*model_state)(struct provider *provider, const char *model, struct scheduler_model_state *state);
    // Waits until it can serve the model; fills in what it serves.
    bool (*wait_ready)(struct provider *provider, const char *model, double seconds, struct queue_model *info,
                       struct error *error);
    void (*drain)(struct provider *provider);                     // refuses what is new, fails what waits
    bool (*wait_idle)(struct provider *provider, double seconds); // until no job is left
    void (*close)(struct provider *provider); // jobs not done fail with QUEUE_FAILURE_STOPPED
};

// The engine in worker processes of this machine.
struct provider *provider_local_open(const struct scheduler_options *options, queue_listener *listener,
                                     void *context, struct error *error);

#endif
