// Requests in work: their list, their calls, their files. Relies on inside.h.
#include "base/clock.h"
#include "base/file.h"
#include "gateway/deliver.h"
#include "gateway/inside.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ------------------------------------------------------------------------------------------------------------ spool

void spool_sweep(const char *spool, const char *prefix) {
    DIR *folder = opendir(spool);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") &&
            !strncmp(entry->d_name + (entry->d_name[0] == '.' && *prefix), prefix, strlen(prefix)))
            unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
}

void spool_remove(const char *spool, const char *file) {
    char *path = *file ? path_join(spool, file) : NULL;
    if (path) unlink(path);
    free(path);
}

void work_remove_files(struct work *work) {
    const char *spool = work->gateway->spool;
    struct image_request *request = work->request;
    bool sweep = false; // a worker that failed may have left something
    for (int i = 0; i < request->reference_count; i++) spool_remove(spool, request->references[i].file);
    if (request->has_mask) spool_remove(spool, request->mask.file);
    for (int i = 0; work->pictures && i < request->count; i++) {
        if (work->pictures[i].path) unlink(work->pictures[i].path);
        free(work->pictures[i].path);
        work->pictures[i].path = NULL;
    }
    for (int i = 0; i < work->job_count; i++) sweep = sweep || work->jobs[i].error.code != API_OK;
    if (sweep || work->rerun) spool_sweep(spool, work->id);
}

// ------------------------------------------------------------------------------------------------ opening, closing

static const char *copy(struct work *work, const char *text, bool *good) {
    if (!text || !*text) return NULL;
    const char *copied = arena_strdup(&work->arena, text);
    if (!copied) *good = false;
    return copied;
}

static bool copy_call(struct work *work, const struct gateway_call *call) {
    bool good = true;
    const struct principal *principal = call->principal;
    work->base_url = arena_strdup(&work->arena, call->base_url ? call->base_url : "");
    work->endpoint = copy(work, call->endpoint, &good);
    work->idempotency_key = copy(work, call->idempotency_key, &good);
    work->trace_id = copy(work, call->trace_id, &good);
    if (principal) {
        work->project = copy(work, principal->project, &good);
        work->keyless = principal->keyless;
        work->key_id = principal->keyless ? NULL : copy(work, principal->key.id, &good);
        work->principal = copy(work, principal->name, &good);
        work->priority = principal->key.priority < 0   ? SCHEDULER_LOW
                         : principal->key.priority > 0 ? SCHEDULER_HIGH
                                                       : SCHEDULER_NORMAL;
    }
    work->request_bytes = call->request_bytes;
    work->dry_run = call->dry_run;
    work->asynchronous = call->asynchronous;
    return good && work->base_url;
}

struct work *work_open(struct gateway *gateway, struct image_request *request,
                       const struct gateway_call *call, struct api_error *error) {
    struct work *work = calloc(1, sizeof *work);
    struct call *first = calloc(1, sizeof *first);
    if (work) pthread_mutex_init(&work->lock, NULL);
    if (!work || !first || !copy_call(work, call)) {
        api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
        if (work) pthread_mutex_destroy(&work->lock);
        if (work) arena_free(&work->arena);
        spool_sweep(gateway->spool, request->id);
        image_request_free(request);
        free(request);
        free(work);
        free(first);
        return NULL;
    }
    memcpy(work->id, request->id, sizeof work->id);
    memcpy(first->id, request->id, sizeof first->id);
    work->gateway = gateway;
    work->request = request;
    work->calls = first;
    work->created = clock_unix_micros();
    work->progress_stage = "queued";
    return work;
}

bool work_allot(struct work *work, struct api_error *error) {
    size_t calls = (size_t)work->plan.calls, count = (size_t)work->request->count;
    work->attempt_most = 2 * work->plan.calls;
    work->jobs = arena_alloc(&work->arena, calls * sizeof *work->jobs);
    work->attempts = arena_alloc(&work->arena, 2 * calls * sizeof *work->attempts);
    work->pictures = arena_alloc(&work->arena, count * sizeof *work->pictures);
    work->partials = arena_alloc(&work->arena, count * sizeof *work->partials);
    bool good = work->jobs && work->attempts && work->pictures && work->partials;
    return good || api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
}

void work_close(struct work *work) {
    if (!work) return;
    work_remove_files(work);
    image_request_free(work->request);
    free(work->request);
    answer_free(&work->answer);
    buffer_free(&work->body);
    buffer_free(&work->ending);
    pthread_mutex_destroy(&work->lock);
    arena_free(&work->arena);
    for (struct call *call = work->calls, *next; call; call = next) {
        next = call->next;
        free(call);
    }
    free(work);
}

// ------------------------------------------------------------------------------------------------------------- list

// The place of a request's id, or of the first [length] bytes of a job's.
static struct work **slot_of(struct gateway *gateway, const char *id, size_t length) {
    uint32_t hash = 2166136261u; // FNV-1a
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)id[i]) * 16777619u;
    return &gateway->works[hash % WORK_SLOTS];
}

void work_enlist(struct work *work) {
    struct gateway *gateway = work->gateway;
    struct work **slot = slot_of(gateway, work->id, strlen(work->id));
    pthread_mutex_lock(&gateway->lock);
    work->next = *slot;
    *slot = work;
    gateway->work_count++;
    pthread_mutex_unlock(&gateway->lock);
}

struct call *work_delist(struct work *work) {
    struct gateway *gateway = work->gateway;
    pthread_mutex_lock(&gateway->lock);
    struct work **link = slot_of(gateway, work->id, strlen(work->id));
    while (*link && *link != work) link = &(*link)->next;
    if (*link) *link = work->next;
    struct call *calls = work->calls;
    work->calls = NULL;
    pthread_mutex_unlock(&gateway->lock);
    return calls;
}

struct work *work_find(struct gateway *gateway, const char *id, bool job) {
    // A job's id is its request's, or begins with it and a dash.
    size_t length = job ? strcspn(id, "-") : strlen(id);
    struct work *work = *slot_of(gateway, id, length);
    while (work && (strncmp(work->id, id, length) || work->id[length])) work = work->next;
    return work;
}

bool work_attach(struct work *from, const char *id) {
    struct gateway *gateway = from->gateway;
    pthread_mutex_lock(&gateway->lock);
    struct work *to = work_find(gateway, id, false);
    bool good = to && to != from;
    if (good) {
        for (struct call *call = from->calls; call; call = call->next) call->attached = call->replayed = true;
        struct call **end = &to->calls;
        while (*end) end = &(*end)->next;
        *end = from->calls;
        from->calls = NULL;
    }
    pthread_mutex_unlock(&gateway->lock);
    return good;
}

// ---------------------------------------------------------------------------------------------------------- messages

struct usage work_usage(const struct work *work) {
    struct usage usage = {0};
    for (int i = 0; i < work->job_count; i++) {
        const struct job *job = &work->jobs[i];
        bool any = false;
        for (int k = job->first; k < job->first + job->count; k++) {
            any = any || work->pictures[k].billed;
            if (work->pictures[k].billed) usage.output += work->pictures[k].output_tokens;
        }
        if (any) usage.text += job->text_tokens, usage.references += job->reference_tokens;
    }
    return usage;
}

bool work_send_chunk(struct work *work, const struct buffer *chunk) {
    struct gateway *gateway = work->gateway;
    char ids[4][REQUEST_ID_MOST];
    int count = 0;
    pthread_mutex_lock(&gateway->lock);
    for (struct call *call = work->calls; call && count < 4; call = call->next)
        if (!call->gone && !call->attached) memcpy(ids[count++], call->id, sizeof *ids);
    pthread_mutex_unlock(&gateway->lock);
    for (int i = 0; i < count; i++) {
        struct gateway_message message = {.kind = GATEWAY_CHUNK};
        if (!buffer_add(&message.body, chunk->data, chunk->length)) continue;
        gateway->sink(gateway->context, ids[i], &message);
    }
    work->chunked = true;
    return count > 0;
}

static bool is_stream(const struct work *work) {
    return work->request->stream && !work->dry_run && !work->asynchronous;
}

static void fill(const struct work *work, const struct call *call, const struct api_error *error,
                 struct gateway_message *message) {
    const struct api_code_info *info = api_code_info(error->code);
    message->kind = GATEWAY_ANSWER;
    message->error = *error;
    message->status = error->code != API_OK ? info->status : work->status ? work->status : 200;
    message->replayed = call->replayed;
    snprintf(message->location, sizeof message->location, "%s", work->location);
    if (error->code != API_OK)
        message->should_not_retry =
            info->status == 402 || info->status == 409 || (work->rerun && info->status >= 500);
    if (work->plan.choice.provider)
        snprintf(message->provider, sizeof message->provider, "%s", work->plan.choice.provider->slug);
    if (work->plan.choice.card)
        snprintf(message->model, sizeof message->model, "%s", work->plan.choice.card->id);
}

// Whether the call gets the whole text at the end: the others have read it as it came.
static bool gets_all(const struct work *work, const struct call *call) {
    return !is_stream(work) || call->attached;
}

// The text for those who get all of it, unless it is made already. The request is recorded by now: where it cannot be made, they
// are told so.
static void make_body(struct work *work, const struct call *calls) {
    struct error cause = {0};
    bool wanted = false;
    for (const struct call *call = calls; call; call = call->next) wanted = wanted || gets_all(work, call);
    if (!wanted || work->error.code != API_OK || work->body.length || !work->answer.text.length) return;
    if (answer_write(&work->answer, work->gateway->media, &work->body, &cause)) return;
    if (cause.kind == ERROR_NOT_FOUND)
        api_error_set(&work->unread, API_IDEMPOTENCY_CONFLICT, "",
                      "the pictures of the request that used this Idempotency-Key are gone; use a fresh key");
    else
        api_error_from(&work->unread, &cause);
}

// One more copy of [bytes], or with [take] they themselves.
static void give(struct buffer *bytes, bool take, struct gateway_message *message) {
    if (take) {
        message->body = *bytes;
        *bytes = (struct buffer){0};
    } else if (!buffer_add(&message->body, bytes->data, bytes->length)) {
        api_error_set(&message->error, API_OUT_OF_MEMORY, "", "no memory for the answer");
        message->status = api_code_info(message->error.code)->status;
    }
}

static void answer_one(struct work *work, const struct call *call, bool last) {
    struct gateway *gateway = work->gateway;
    struct gateway_message message = {0}, chunk = {.kind = GATEWAY_CHUNK};
    bool all = gets_all(work, call);
    const struct api_error *error = work->error.code == API_OK && all ? &work->unread : &work->error;
    fill(work, call, error, &message);
    if (!is_stream(work)) {
        if (error->code == API_OK) give(&work->body, last, &message);
    } else if (!call->gone) {
        if (error->code == API_OK && all) give(&work->body, last, &chunk);
        if (error->code != API_OK && !all && work->chunked && !deliver_error(error, &chunk.body))
            buffer_free(&chunk.body);
        if (chunk.body.length) gateway->sink(gateway->context, call->id, &chunk);
    }
    gateway->sink(gateway->context, call->id, &message);
}

void work_answer(struct work *work, struct call *calls) {
    while (calls) {
        struct call *call = calls;
        calls = call->next;
        answer_one(work, call, !calls);
        free(call);
    }
}

void work_conclude(struct work *work) {
    struct gateway *gateway = work->gateway;
    if (work->ending.length) {
        pthread_mutex_lock(&work->lock);
        work_send_chunk(work, &work->ending);
        pthread_mutex_unlock(&work->lock);
    }
    if (work->daily_taken > work->delivered)
        daily_give_back(gateway->daily, work->principal, work->daily_taken - work->delivered, work->created);
    struct call *calls = work_delist(work);
    make_body(work, calls);
    work_remove_files(work);
    work_answer(work, calls);
    work_close(work);
    pthread_mutex_lock(&gateway->lock);
    if (--gateway->work_count == 0) pthread_cond_broadcast(&gateway->idle);
    pthread_mutex_unlock(&gateway->lock);
}

// -------------------------------------------------------------------------------------------------------------- jobs

void work_job_id(const char *id, int jobs, int index, char job[JOB_ID_MOST]) {
    if (jobs == 1)
        snprintf(job, JOB_ID_MOST, "%s", id);
    else
        snprintf(job, JOB_ID_MOST, "%s-%d", id, index);
}

void work_cancel_jobs(struct gateway *gateway, const char *id, int jobs) {
    char job[JOB_ID_MOST];
    for (int i = 0; i < jobs; i++) {
        work_job_id(id, jobs, i, job);
        gateway->provider->cancel(gateway->provider, job);
    }
}
