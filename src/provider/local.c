// The local engine as a provider: a queue with one worker process. Relies on provider.h.
#include "provider/provider.h"

#include <stdlib.h>

struct local {
    struct provider provider; // first: a provider is its local
    struct queue *queue;
};

static struct queue *queue_of(struct provider *provider) {
    return ((struct local *)provider)->queue;
}

static bool submit(struct provider *provider, const struct queue_job *job, struct error *error) {
    return queue_submit(queue_of(provider), job, error);
}

static void cancel(struct provider *provider, const char *job) {
    queue_cancel(queue_of(provider), job);
}

static void state(struct provider *provider, struct queue_state *to) {
    queue_state(queue_of(provider), to);
}

static bool wait_ready(struct provider *provider, double seconds, struct queue_model *model,
                       struct error *error) {
    return queue_wait_ready(queue_of(provider), seconds, model, error);
}

static void close_local(struct provider *provider) {
    queue_close(queue_of(provider));
    free(provider);
}

struct provider *provider_local_open(const struct queue_options *options, queue_listener *listener,
                                     void *context, struct error *error) {
    struct local *local = calloc(1, sizeof *local);
    if (!local) {
        error_set(error, ERROR_MEMORY, "no memory for the local provider");
        return NULL;
    }
    local->provider = (struct provider){"local", "limn", submit, cancel, state, wait_ready, close_local};
    local->queue = queue_open(options, listener, context, error);
    if (local->queue) return &local->provider;
    free(local);
    return NULL;
}
