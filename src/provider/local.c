// The local engine as a provider: a scheduler over worker processes. Relies on provider.h.
#include "provider/provider.h"

#include <stdlib.h>

struct local {
    struct provider provider; // first: a provider is its local
    struct scheduler *scheduler;
};

static struct scheduler *of(struct provider *provider) {
    return ((struct local *)provider)->scheduler;
}

static bool submit(struct provider *provider, const struct scheduler_job *job,
                   struct scheduler_refusal *refusal, struct error *error) {
    return scheduler_submit(of(provider), job, refusal, error);
}

static bool has_room(struct provider *provider, const char *principal, struct scheduler_refusal *refusal,
                     struct error *error) {
    return scheduler_has_room(of(provider), principal, refusal, error);
}

static void cancel(struct provider *provider, const char *job) {
    scheduler_cancel(of(provider), job);
}

static int position(struct provider *provider, const char *job) {
    return scheduler_position(of(provider), job);
}

static void state(struct provider *provider, struct scheduler_state *to) {
    scheduler_state(of(provider), to);
}

static bool model_state(struct provider *provider, const char *model, struct scheduler_model_state *to) {
    return scheduler_model_state(of(provider), model, to);
}

static bool wait_ready(struct provider *provider, const char *model, double seconds, struct queue_model *info,
                       struct error *error) {
    return scheduler_wait_ready(of(provider), model, seconds, info, error);
}

static void drain(struct provider *provider) {
    scheduler_drain(of(provider));
}

static bool wait_idle(struct provider *provider, double seconds) {
    return scheduler_wait_idle(of(provider), seconds);
}

static void close_local(struct provider *provider) {
    scheduler_close(of(provider));
    free(provider);
}

struct provider *provider_local_open(const struct scheduler_options *options, queue_listener *listener,
                                     void *context, struct error *error) {
    struct local *local = calloc(1, sizeof *local);
    if (!local) {
        error_set(error, ERROR_MEMORY, "no memory for the local provider");
        return NULL;
    }
    local->provider = (struct provider){.slug = "local",
                                        .name = "limn",
                                        .submit = submit,
                                        .has_room = has_room,
                                        .cancel = cancel,
                                        .position = position,
                                        .state = state,
                                        .model_state = model_state,
                                        .wait_ready = wait_ready,
                                        .drain = drain,
                                        .wait_idle = wait_idle,
                                        .close = close_local};
    local->scheduler = scheduler_open(options, listener, context, error);
    if (local->scheduler) return &local->provider;
    free(local);
    return NULL;
}
