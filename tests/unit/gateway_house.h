// What the tests of the gateway share: a provider that says what the test wants it to say, a real store and real media.
#ifndef LIMN_TESTS_GATEWAY_HOUSE_H
#define LIMN_TESTS_GATEWAY_HOUSE_H

#include "base/clock.h"
#include "base/file.h"
#include "catalog/catalog.h"
#include "gateway/gateway.h"

#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define MESSAGES_MOST 200
#define JOBS_MOST     16
#define WAIT_SECONDS  20.0

// --------------------------------------------------------------------------------------------- a provider for the test

struct fake_job {
    char id[64];
    int count, width, height, deliver_width, deliver_height, quality, previews, references;
    char mask[80], loras[200]; // "FILE*SCALE FILE*SCALE "
    uint64_t seed;
    enum scheduler_priority priority;
    bool streams, open, cancelled;
};

struct fake {
    struct provider provider; // first
    queue_listener *listener;
    void *context;
    pthread_mutex_t lock;
    struct fake_job jobs[JOBS_MOST];
    int count;
    bool full, closed;
};

static struct fake fake; // one at a time: the gateway opens it by a plain function

static inline bool fake_submit(struct provider *provider, const struct scheduler_job *turn,
                               struct scheduler_refusal *refusal, struct error *error) {
    struct fake *f = (struct fake *)provider;
    pthread_mutex_lock(&f->lock);
    bool good = !f->full && f->count < JOBS_MOST;
    if (good) {
        struct fake_job *job = &f->jobs[f->count++];
        const struct queue_job *from = &turn->job;
        *job = (struct fake_job){.count = from->count,
                                 .width = from->width,
                                 .height = from->height,
                                 .deliver_width = from->deliver_width,
                                 .deliver_height = from->deliver_height,
                                 .quality = from->output_quality,
                                 .previews = from->preview_count,
                                 .seed = from->seed,
                                 .priority = turn->priority,
                                 .streams = turn->streams,
                                 .open = true};
        job->references = from->reference_count;
        for (int i = 0; i < from->lora_count; i++) {
            size_t used = strlen(job->loras);
            snprintf(job->loras + used, sizeof job->loras - used, "%s*%g ", from->loras[i].file,
                     (double)from->loras[i].scale);
        }
        snprintf(job->id, sizeof job->id, "%s", from->id);
        snprintf(job->mask, sizeof job->mask, "%s", from->mask_file ? from->mask_file : "");
    }
    pthread_mutex_unlock(&f->lock);
    if (good) return true;
    *refusal = (struct scheduler_refusal){SCHEDULER_FULL, 3, 7};
    return error_set(error, ERROR_UNAVAILABLE, "7 requests wait already");
}

static inline bool fake_room(struct provider *provider, const char *principal,
                             struct scheduler_refusal *refusal, struct error *error) {
    return true; // so that submit is what refuses
}

static inline void fake_cancel(struct provider *provider, const char *id) {
    struct fake *f = (struct fake *)provider;
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < f->count; i++)
        if (!strcmp(f->jobs[i].id, id)) f->jobs[i].cancelled = true;
    pthread_mutex_unlock(&f->lock);
}

static inline int fake_position(struct provider *provider, const char *id) {
    return 2;
}

static inline void fake_state(struct provider *provider, struct scheduler_state *state) {
    *state = (struct scheduler_state){.resident = 1};
}

static inline bool fake_model_state(struct provider *provider, const char *model,
                                    struct scheduler_model_state *state) {
    *state = (struct scheduler_model_state){.resident = true, .ready = true};
    return true;
}

static inline bool fake_ready(struct provider *provider, const char *model, double seconds,
                              struct queue_model *info, struct error *error) {
    *info = (struct queue_model){"Test Model", 128, 128, 8, 2.5f, 16, true, true};
    return true;
}

static inline void fake_drain(struct provider *provider) {
}

static inline bool fake_idle(struct provider *provider, double seconds) {
    return true;
}

static inline void say(const char *id, enum queue_event_kind kind, struct queue_event event) {
    event.kind = kind;
    event.job = id;
    pthread_mutex_lock(&fake.lock);
    for (int i = 0; i < fake.count; i++)
        if (!strcmp(fake.jobs[i].id, id) && (kind == QUEUE_DONE || kind == QUEUE_FAILED))
            fake.jobs[i].open = false;
    pthread_mutex_unlock(&fake.lock);
    fake.listener(fake.context, &event);
}

static inline struct queue_event failure(enum queue_failure why, enum error_kind kind, const char *message) {
    struct queue_event event = {.failure = why};
    error_set(&event.error, kind, "%s", message);
    return event;
}

static inline void fake_close(struct provider *provider) {
    for (int i = 0; i < fake.count; i++)
        if (fake.jobs[i].open)
            say(fake.jobs[i].id, QUEUE_FAILED, failure(QUEUE_FAILURE_STOPPED, ERROR_CANCELLED, "stopped"));
    fake.closed = true;
}

static inline struct provider *fake_open(const struct scheduler_options *options, queue_listener *listener,
                                         void *context, struct error *error) {
    fake = (struct fake){.listener = listener, .context = context};
    fake.provider =
        (struct provider){"local",    "limn",           fake_submit, fake_room,  fake_cancel, fake_position,
                          fake_state, fake_model_state, fake_ready,  fake_drain, fake_idle,   fake_close};
    pthread_mutex_init(&fake.lock, NULL);
    return &fake.provider;
}

// ------------------------------------------------------------------------------------------------------- everything

struct heard {
    char id[REQUEST_ID_MOST];
    struct gateway_message message;
};

struct house {
    char folder[40], spool[60];
    struct config config;
    struct catalog *catalog;
    struct store *store;
    struct media *media;
    struct gateway *gateway;
    pthread_mutex_t lock;
    pthread_cond_t change;
    struct heard heard[MESSAGES_MOST];
    int count;
};

static inline void sink(void *context, const char *id, struct gateway_message *message) {
    struct house *h = context;
    pthread_mutex_lock(&h->lock);
    if (h->count < MESSAGES_MOST) {
        snprintf(h->heard[h->count].id, sizeof h->heard[h->count].id, "%s", id);
        h->heard[h->count++].message = *message;
    } else {
        buffer_free(&message->body);
    }
    pthread_cond_broadcast(&h->change);
    pthread_mutex_unlock(&h->lock);
}

// A card of the owner's for the served model: two pictures a call, and a transparent background is offered.
static const char CARD[] =
    "card: 1\nid: test-model\nname: Test\ncreator: t\ncreator_name: T\nfamily: t\nstatus: active\n"
    "release: 2026-01-01\nsummary: A test.\n"
    "licence: {name: L, spdx: L, url: \"https://l.example/\", commercial: true}\n"
    "modes: [text-to-image]\ntags: [test]\n"
    "sizes: {default: 64x64, multiple: 16, sides: {least: 64, most: 512}, ratios: {least: \"1:4\", most: "
    "\"4:1\"}, tiers: {list: [0.125K]}}\nreferences: {most: 1, area: 16384}\n"
    "steps: {default: 8, most: 10}\nguidance: 2.5\n"
    "weights: {folder: test-model, get: nowhere}\n"
    "providers: [{slug: local, name: this machine, models: {text-to-image: test-model}, images: 2}]\n"
    "parameters: {background: {handling: {local: passthrough}}}\n";

static inline void put_card(const char *folder) {
    char path[100];
    struct error error = {0};
    snprintf(path, sizeof path, "%s/cards", folder);
    assert_true(folder_make(path, &error));
    snprintf(path, sizeof path, "%s/cards/test-model.yaml", folder);
    assert_true(file_write(path, CARD, strlen(CARD), &error));
}

static inline int open_with(void **state, bool card, const struct fetch_options *fetch) {
    char yaml[900];
    static const char common[] =
        "local:\n  prices: {\"*\": {output_megapixel: 0.008, input_megapixel: 0.003}}\n"
        "aliases: {gpt-image-*: test-model}\n"
        "loras: {ink: {file: /proc/self/exe, scale: 0.5}, wash: {file: /proc/self/maps, models: test-model}, "
        "other: {file: /proc/self/exe, models: flux*}}\n";
    struct house *h = calloc(1, sizeof *h);
    struct error error = {0};
    char path[100];
    snprintf(h->folder, sizeof h->folder, "/tmp/limn-test-gateway-XXXXXX");
    assert_non_null(mkdtemp(h->folder));
    snprintf(h->spool, sizeof h->spool, "%s/spool", h->folder);
    snprintf(yaml, sizeof yaml, card ? "%scatalog: {folder: %s/cards}\n" : "%s", common, h->folder);
    if (card) put_card(h->folder);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->change, NULL);
    if (!config_parse(&h->config, "limn.yaml", yaml, strlen(yaml), NULL, &error))
        fail_msg("%s", error.message);
    h->catalog = catalog_open(&h->config, &error);
    if (!h->catalog) fail_msg("%s", error.message);
    snprintf(path, sizeof path, "%s/limn.db", h->folder);
    struct store_options store = {.path = path};
    h->store = store_open(&store, &error);
    if (!h->store) fail_msg("%s", error.message);
    snprintf(path, sizeof path, "%s/media", h->folder);
    struct media_options media = {.folder = path, .lifetime_seconds = 3600};
    h->media = media_open(&media, &error);
    struct gateway_options options = {
        .queue = {.spool_folder = h->spool, .model_folder = h->folder, .depth = 4},
        .media = h->media,
        .config = &h->config,
        .catalog = h->catalog,
        .store = h->store,
        .fetch = fetch,
        .open_provider = fake_open};
    h->gateway = gateway_open(&options, sink, h, &error);
    if (!h->gateway) fail_msg("%s", error.message);
    *state = h;
    return 0;
}

static inline int open_house(void **state) {
    return open_with(state, false, NULL);
}

static inline int open_card_house(void **state) {
    return open_with(state, true, NULL);
}

static inline int count_files(const char *folder) {
    int count = 0;
    DIR *open = opendir(folder);
    for (struct dirent *entry; open && (entry = readdir(open));) count += entry->d_name[0] != '.';
    if (open) closedir(open);
    return count;
}

static inline int close_house(void **state) {
    struct house *h = *state;
    char command[100];
    gateway_close(h->gateway);
    store_close(h->store);
    media_close(h->media);
    catalog_close(h->catalog);
    config_free(&h->config);
    for (int i = 0; i < h->count; i++) buffer_free(&h->heard[i].message.body);
    assert_int_equal(count_files(h->spool), 0); // whatever happened, nothing is left in the spool
    snprintf(command, sizeof command, "rm -rf %s", h->folder);
    assert_int_equal(system(command), 0);
    free(h);
    return 0;
}

// ------------------------------------------------------------------------------------------------------------- steps

static inline struct timespec deadline(void) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += (time_t)WAIT_SECONDS;
    return end;
}

// The call's answer; fails where none comes.
static inline const struct gateway_message *answer(struct house *h, const char *id) {
    struct timespec end = deadline();
    const struct gateway_message *found = NULL;
    pthread_mutex_lock(&h->lock);
    for (bool late = false; !found && !late;) {
        for (int i = 0; i < h->count; i++)
            if (!strcmp(h->heard[i].id, id) && h->heard[i].message.kind == GATEWAY_ANSWER)
                found = &h->heard[i].message;
        if (!found) late = pthread_cond_timedwait(&h->change, &h->lock, &end) != 0;
    }
    pthread_mutex_unlock(&h->lock);
    if (!found) fail_msg("no answer to %s", id);
    return found;
}

// What was streamed to the call so far.
static inline char *chunks(struct house *h, const char *id) {
    struct buffer all = {0};
    assert_true(buffer_add_string(&all, ""));
    pthread_mutex_lock(&h->lock);
    for (int i = 0; i < h->count; i++)
        if (!strcmp(h->heard[i].id, id) && h->heard[i].message.kind == GATEWAY_CHUNK)
            assert_true(buffer_add(&all, h->heard[i].message.body.data, h->heard[i].message.body.length));
    pthread_mutex_unlock(&h->lock);
    return all.data;
}

static inline bool start_with(struct house *h, const char *id, enum image_mode mode, const char *json,
                              struct gateway_call call, struct api_error *error) {
    struct image_request *request = calloc(1, sizeof *request);
    struct error cause = {0};
    json_t *fields = json_parse("test", json, strlen(json), &cause);
    if (!fields) fail_msg("%s", cause.message);
    image_request_init(request, mode, id);
    request->spool_folder = h->spool;
    bool good = image_request_read(request, fields, false, error);
    json_decref(fields);
    if (!good) {
        gateway_sweep(h->gateway, id);
        image_request_free(request);
        free(request);
        return false;
    }
    call.base_url = "http://limn.example";
    call.endpoint = "/v1/images/generations";
    return gateway_start(h->gateway, request, &call, error);
}

static inline void start(struct house *h, const char *id, const char *json, struct gateway_call call) {
    struct api_error error = {0};
    if (!start_with(h, id, MODE_GENERATION, json, call, &error)) fail_msg("%s: %s", id, error.message);
}

static inline struct fake_job *wait_job(const char *id) {
    for (double end = clock_seconds() + WAIT_SECONDS; clock_seconds() < end; usleep(1000)) {
        struct fake_job *found = NULL;
        pthread_mutex_lock(&fake.lock);
        for (int i = 0; i < fake.count; i++)
            if (!strcmp(fake.jobs[i].id, id)) found = &fake.jobs[i];
        pthread_mutex_unlock(&fake.lock);
        if (found) return found;
    }
    fail_msg("the provider was not given %s", id);
    return NULL;
}

static inline void put_file(struct house *h, const char *name, const char *text) {
    struct error error = {0};
    char *path = path_join(h->spool, name);
    assert_true(file_write(path, text, strlen(text), &error));
    free(path);
}

static inline void give_picture(struct house *h, const char *id, int index, uint64_t seed) {
    char name[80];
    snprintf(name, sizeof name, "%s.%d.out", id, index);
    put_file(h, name, "picture");
    say(id, QUEUE_IMAGE,
        (struct queue_event){.file = name,
                             .image = index,
                             .images = 1,
                             .width = 128,
                             .height = 64,
                             .seed = seed,
                             .text_tokens = 5,
                             .reference_tokens = 7,
                             .output_tokens = 11});
}

static inline void give_preview(struct house *h, const char *id, int index, int number) {
    char name[80];
    snprintf(name, sizeof name, "%s.%d.pre%d", id, index, number);
    put_file(h, name, "preview");
    say(id, QUEUE_PREVIEW,
        (struct queue_event){.file = name,
                             .image = index,
                             .width = 32,
                             .height = 16,
                             .text_tokens = 5,
                             .reference_tokens = 7,
                             .output_tokens = 11});
}

static const struct queue_event DONE;

// The whole run of a job.
static inline void run(struct house *h, const char *id) {
    struct fake_job *job = wait_job(id);
    say(id, QUEUE_STARTED, (struct queue_event){0});
    for (int i = 0; i < job->count; i++) give_picture(h, id, i, job->seed + (uint64_t)i);
    say(id, QUEUE_DONE, DONE);
}

static inline json_t *body_of(const struct gateway_message *message) {
    struct error error = {0};
    assert_int_equal(message->error.code, API_OK);
    json_t *body = json_parse("answer", message->body.data, message->body.length, &error);
    if (!body) fail_msg("%s", error.message);
    return body;
}

struct record {
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool there;
    json_t *json;
};

static inline void on_record(void *context, json_t *json, const struct error *error) {
    struct record *record = context;
    pthread_mutex_lock(&record->lock);
    record->json = json;
    record->there = true;
    pthread_cond_signal(&record->change);
    pthread_mutex_unlock(&record->lock);
}

static inline json_t *record_of(struct house *h, const char *id) {
    struct record record = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, NULL};
    struct query_scope scope = {0};
    struct error error = {0};
    struct timespec end = deadline();
    assert_true(store_get_request(h->store, id, &scope, on_record, &record, &error));
    pthread_mutex_lock(&record.lock);
    while (!record.there)
        if (pthread_cond_timedwait(&record.change, &record.lock, &end) != 0) break;
    pthread_mutex_unlock(&record.lock);
    assert_true(record.there);
    return record.json;
}

static inline const char *text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static inline json_int_t number(const json_t *object, const char *key) {
    return json_integer_value(json_object_get(object, key));
}

static inline void assert_record(struct house *h, const char *id, const char *status, const char *code,
                                 json_int_t micros) {
    // A refused request is recorded beside its answer, not before it.
    const double deadline = clock_seconds() + 20;
    json_t *record = record_of(h, id);
    while (!record && clock_seconds() < deadline) {
        usleep(2000);
        record = record_of(h, id);
    }
    assert_non_null(record);
    assert_string_equal(text(record, "status"), status);
    if (code) assert_string_equal(text(record, "error_code"), code);
    if (micros >= 0) assert_int_equal(number(record, "cost_micros"), micros);
    json_decref(record);
}

#endif
