// See gateway.h: opening, closing, what is said of the whole. Relies on inside.h.
#include "gateway/inside.h"
#include "base/clock.h"
#include "base/file.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STOP_CHECK_SECONDS 0.1

// ------------------------------------------------------------------------------------------------------------ models

static void make_slug(const char *name, char *slug, size_t size) {
    size_t length = 0;
    for (; *name && length + 1 < size; name++) {
        char c = (char)tolower((unsigned char)*name);
        bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
        if (!plain) c = '-';
        if (c == '-' && (length == 0 || slug[length - 1] == '-')) continue;
        slug[length++] = c;
    }
    while (length > 0 && slug[length - 1] == '-') length--;
    slug[length] = 0;
    if (!length) snprintf(slug, size, "model");
}

static bool same_folder(const char *a, const char *b) {
    char *one = realpath(a, NULL), *other = realpath(b, NULL);
    bool same = one && other && !strcmp(one, other);
    free(one);
    free(other);
    return same;
}

bool gateway_serves(const struct gateway *gateway, const struct model_card *card) {
    return !strcmp(card->id, gateway->model) ||
           (card->weights.found && same_folder(card->weights.found, gateway->folder));
}

// The models that the local engine can run: the served one first, then the cards whose weights are here.
static int list_models(const struct gateway *gateway, const char *folder,
                       struct scheduler_model models[SCHEDULER_MODELS_MOST]) {
    int count = 1;
    models[0] = (struct scheduler_model){"served", folder, true};
    for (int i = 0; i < catalog_count(gateway->catalog) && count < SCHEDULER_MODELS_MOST; i++) {
        const struct model_card *card = catalog_card(gateway->catalog, i);
        if (card->weights.found && !same_folder(card->weights.found, folder))
            models[count++] = (struct scheduler_model){card->id, card->weights.found, false};
    }
    return count;
}

// Names the served model: by the card whose folder it is, else by what the model calls itself.
static bool name_model(struct gateway *gateway, const char *folder, struct error *error) {
    const struct queue_model *info = &gateway->model_info;
    make_slug(info->name, gateway->model, sizeof gateway->model);
    const struct model_card *same = NULL; // of several, the one that the model calls itself
    for (int i = 0; i < catalog_count(gateway->catalog); i++) {
        const struct model_card *card = catalog_card(gateway->catalog, i);
        if (card->weights.found && same_folder(card->weights.found, folder) &&
            (!same || !strcmp(card->id, gateway->model)))
            same = card;
    }
    if (same) snprintf(gateway->model, sizeof gateway->model, "%s", same->id);
    struct catalog_folder added = {.id = gateway->model,
                                   .path = folder,
                                   .default_width = info->default_width,
                                   .default_height = info->default_height,
                                   .side_multiple = info->side_multiple,
                                   .steps = info->default_steps,
                                   .guidance = info->default_guidance};
    return catalog_add_folder(gateway->catalog, &added, error) &&
           catalog_set_default(gateway->catalog, gateway->model, error);
}

// ------------------------------------------------------------------------------------------------- opening, closing

static bool open_catalog(struct gateway *gateway, const struct gateway_options *options,
                         struct error *error) {
    gateway->config = options->config;
    gateway->catalog = options->catalog;
    if (!gateway->config) {
        gateway->own_config = calloc(1, sizeof *gateway->own_config);
        if (!gateway->own_config) return error_set(error, ERROR_MEMORY, "no memory for the gateway");
        if (!config_init(gateway->own_config, error)) return false;
        gateway->config = gateway->own_config;
    }
    if (!gateway->catalog) gateway->catalog = gateway->own_catalog = catalog_open(gateway->config, error);
    return gateway->catalog != NULL;
}

// In small steps, so that whoever starts the server can change his mind.
static bool wait_ready(struct gateway *gateway, const struct gateway_options *options, struct error *error) {
    struct provider *provider = gateway->provider;
    double start = clock_seconds(), deadline = start + options->start_seconds;
    for (double now = start;; now = clock_seconds()) {
        struct error cause = {0};
        bool last = !options->stopped || deadline - now <= STOP_CHECK_SECONDS;
        double seconds = last ? fmax(0, deadline - now) : STOP_CHECK_SECONDS;
        if (provider->wait_ready(provider, NULL, seconds, &gateway->model_info, &cause)) return true;
        // What was said before the time was over is not about the time.
        if (cause.kind != ERROR_UNAVAILABLE || clock_seconds() - now < seconds * 0.9) {
            *error = cause;
            return false;
        }
        if (last)
            return error_set(error, ERROR_UNAVAILABLE, "no worker was ready within %.0f s (local.start_time)",
                             options->start_seconds);
        if (options->stopped(options->stopped_context))
            return error_set(error, ERROR_CANCELLED, "stopped before the model was open");
    }
}

static bool open_provider(struct gateway *gateway, const struct gateway_options *options,
                          struct error *error) {
    struct scheduler_model models[SCHEDULER_MODELS_MOST];
    struct scheduler_options local = {
        .queue = options->queue, .models = models, .depth = options->queue.depth};
    if (options->config) {
        const struct config *config = options->config;
        local.depth = config->queue.depth;
        local.principal_depth = config->queue.depth_per_key;
        local.time_limit = config->queue.time_limit_seconds;
        local.no_rerun = !config->queue.rerun;
        local.resident_most = config->local.resident;
        local.queue.lease_seconds = config->queue.lease_seconds;
        local.queue.stall_seconds = config->queue.stall_seconds;
        local.queue.cancel_seconds = config->queue.cancel_seconds;
    }
    local.model_count = list_models(gateway, options->queue.model_folder, models);
    struct provider *(*open)(const struct scheduler_options *, queue_listener *, void *, struct error *) =
        options->open_provider ? options->open_provider : provider_local_open;
    gateway->provider = open(&local, run_listen, gateway, error);
    return gateway->provider && wait_ready(gateway, options, error);
}

static bool open_fetch(struct gateway *gateway, const struct gateway_options *given, struct error *error) {
    const struct config *config = gateway->config;
    if (!given->fetch && !config->image_url.enabled) return true;
    struct fetch_options options = {.bytes_most = config->image_url.bytes,
                                    .seconds = config->image_url.seconds,
                                    .redirects_most = config->image_url.redirects};
    gateway->fetch = fetch_open(given->fetch ? given->fetch : &options, error);
    return gateway->fetch != NULL;
}

// A picture whose record is not there is of a request that a crash cut short: nobody was told its name.
static bool keep_media(void *context, const char *name) {
    struct gateway *gateway = context;
    struct error error = {0};
    bool known = true;
    return !store_knows_media(gateway->store, name, &known, &error) || known;
}

static void sweep_media(struct gateway *gateway) {
    if (!gateway->store || !gateway->media) return;
    int gone = media_sweep(gateway->media, 0, keep_media, gateway);
    if (gone > 0) log_info(gateway->log, "%d pictures of requests that were cut short are removed", gone);
}

struct gateway *gateway_open(const struct gateway_options *options, gateway_sink *sink, void *context,
                             struct error *error) {
    struct gateway *gateway = calloc(1, sizeof *gateway);
    bool copied = gateway && (gateway->spool = strdup(options->queue.spool_folder)) &&
                  (gateway->folder = strdup(options->queue.model_folder));
    if (!copied) {
        error_set(error, ERROR_MEMORY, "no memory for the gateway");
        if (gateway) free(gateway->spool);
        free(gateway);
        return NULL;
    }
    gateway->media = options->media;
    gateway->store = options->store;
    gateway->log = options->log;
    gateway->sink = sink;
    gateway->context = context;
    pthread_mutex_init(&gateway->lock, NULL);
    pthread_cond_init(&gateway->idle, NULL);
    gateway->daily = daily_open(error);
    bool good = gateway->daily && folder_make(gateway->spool, error) && open_catalog(gateway, options, error);
    if (good) {
        spool_sweep(gateway->spool, "");
        sweep_media(gateway);
        good = open_provider(gateway, options, error) &&
               name_model(gateway, options->queue.model_folder, error) && open_fetch(gateway, options, error);
    }
    if (good) return gateway;
    gateway_close(gateway);
    return NULL;
}

void gateway_drain(struct gateway *gateway) {
    pthread_mutex_lock(&gateway->lock);
    gateway->stopping = true;
    pthread_mutex_unlock(&gateway->lock);
    gateway->provider->drain(gateway->provider);
}

int gateway_in_work(struct gateway *gateway) {
    pthread_mutex_lock(&gateway->lock);
    int count = gateway->work_count;
    pthread_mutex_unlock(&gateway->lock);
    return count;
}

void gateway_interrupt(struct gateway *gateway) {
    if (!gateway->provider) return;
    gateway_drain(gateway);
    fetch_close(gateway->fetch); // what it ends is refused: the gateway is stopping
    gateway->fetch = NULL;
    pthread_mutex_lock(&gateway->lock);
    while (gateway->submitting > 0) pthread_cond_wait(&gateway->idle, &gateway->lock);
    pthread_mutex_unlock(&gateway->lock);
    // From here to the end of each work others act: the provider fails its job, the store records it.
    gateway->provider->close(gateway->provider);
    pthread_mutex_lock(&gateway->lock);
    while (gateway->work_count > 0) pthread_cond_wait(&gateway->idle, &gateway->lock);
    pthread_mutex_unlock(&gateway->lock);
    gateway->provider = NULL;
}

void gateway_close(struct gateway *gateway) {
    if (!gateway) return;
    gateway_interrupt(gateway);
    fetch_close(gateway->fetch);
    daily_close(gateway->daily);
    catalog_close(gateway->own_catalog);
    if (gateway->own_config) config_free(gateway->own_config);
    free(gateway->own_config);
    pthread_cond_destroy(&gateway->idle);
    pthread_mutex_destroy(&gateway->lock);
    free(gateway->spool);
    free(gateway->folder);
    free(gateway);
}

// ----------------------------------------------------------------------------------------------------------- the whole

void gateway_sweep(struct gateway *gateway, const char *id) {
    spool_sweep(gateway->spool, id);
}

const char *gateway_model(const struct gateway *gateway) {
    return gateway->model;
}

const struct queue_model *gateway_model_info(const struct gateway *gateway) {
    return &gateway->model_info;
}

void gateway_state(struct gateway *gateway, struct queue_state *state) {
    struct scheduler_state all;
    struct scheduler_model_state served = {0};
    *state = (struct queue_state){0};
    if (!gateway->provider) return;
    gateway->provider->state(gateway->provider, &all);
    gateway->provider->model_state(gateway->provider, NULL, &served);
    *state = (struct queue_state){.ready = served.ready,
                                  .waiting = all.waiting,
                                  .running = all.running,
                                  .workers_started = all.workers_started,
                                  .job_seconds = served.job_seconds};
}
