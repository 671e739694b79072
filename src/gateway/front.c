// A request from gateway_start to its beginning in the store; calls that attach, replay, leave. Relies on inside.h.
#include "base/clock.h"
#include "base/file.h"
#include "gateway/deliver.h"
#include "gateway/inside.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEGINS_MOST 5 // asks of the store for one call

// ------------------------------------------------------------------------------------------------------------ refusals

bool gateway_refuse(const struct scheduler_refusal *refusal, const struct error *cause,
                    struct api_error *error) {
    switch (refusal->reason) {
    case SCHEDULER_FULL:
    case SCHEDULER_PRINCIPAL_FULL:
        api_error_set(error, API_QUEUE_FULL, "", "%s; try again later", cause->message);
        error->retry_after = refusal->retry_after;
        return false;
    case SCHEDULER_DRAINING:
        return api_error_set(error, API_INTERRUPTED, "", "the server is being stopped");
    default:
        return api_error_from(error, cause);
    }
}

static void fill_begin(const struct work *work, struct store_begin *begin) {
    const struct image_request *request = work->request;
    const struct catalog_choice *choice = &work->plan.choice;
    *begin = (struct store_begin){.id = work->id,
                                  .project = work->project,
                                  .key_id = work->key_id,
                                  .model = choice->card     ? choice->card->id
                                           : request->model ? request->model
                                                            : "",
                                  .mode = mode_name(request->mode),
                                  .endpoint = work->endpoint ? work->endpoint : "",
                                  .provider = choice->provider ? choice->provider->slug : NULL,
                                  .user = request->user,
                                  .trace_id = work->trace_id,
                                  .request_bytes = (int64_t)work->request_bytes,
                                  .images = request->count,
                                  .estimate_micros = work->plan.estimate.micros,
                                  .asynchronous = work->asynchronous};
}

// Records what was refused before it was begun.
static void record_refusal(struct work *work) {
    struct gateway *gateway = work->gateway;
    if (!gateway->store || work->dry_run) return;
    struct store_begin begin;
    fill_begin(work, &begin);
    const struct api_code_info *info = api_code_info(work->error.code);
    struct error ignored = {0};
    if (!store_reject(gateway->store, &begin, info->status, info->name, work->error.message, NULL, NULL,
                      &ignored))
        log_debug(gateway->log, "%s: not recorded: %s", work->id, ignored.message);
}

static void refuse(struct work *work) {
    record_refusal(work);
    work_conclude(work);
}

// -------------------------------------------------------------------------------------------------------------- dry run

static void answer_dry_run(struct work *work) {
    const struct catalog_choice *choice = &work->plan.choice;
    json_t *body = price_estimate_json(choice->card->id, choice->provider->slug, &work->plan.estimate);
    char *text = body ? json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(body);
    if (!text || !buffer_add_string(&work->body, text))
        api_error_set(&work->error, API_OUT_OF_MEMORY, "", "no memory for the answer");
    free(text);
    work_conclude(work);
}

// --------------------------------------------------------------------------------------------------- begun, or nearly

// Tells an asynchronous call where its request [id] is to be asked after, and lets it go.
static void accept_call(struct work *work, const char *id, bool replayed) {
    struct gateway *gateway = work->gateway;
    pthread_mutex_lock(&gateway->lock);
    struct call *calls = work->calls;
    work->calls = NULL;
    pthread_mutex_unlock(&gateway->lock);
    while (calls) {
        struct call *call = calls;
        calls = call->next;
        struct gateway_message message = {.kind = GATEWAY_ANSWER, .status = 202, .replayed = replayed};
        snprintf(message.location, sizeof message.location, "/v1/requests/%s", id);
        snprintf(message.provider, sizeof message.provider, "%s", work->plan.choice.provider->slug);
        snprintf(message.model, sizeof message.model, "%s", work->plan.choice.card->id);
        if (!buffer_printf(&message.body,
                           "{\"id\":\"%s\",\"object\":\"request\",\"status\":\"queued\",\"model\":\"%s\","
                           "\"created\":%lld,"
                           "\"url\":\"%s/v1/requests/%s\"}",
                           id, work->plan.choice.card->id, (long long)(work->created / 1000000),
                           work->base_url, id)) {
            api_error_set(&message.error, API_OUT_OF_MEMORY, "", "no memory for the answer");
            message.status = api_code_info(message.error.code)->status;
        }
        gateway->sink(gateway->context, call->id, &message);
        free(call);
    }
}

// The error of a kept answer's body.
static void read_error(const char *body, size_t size, struct api_error *error) {
    struct error ignored = {0};
    json_t *whole = body ? json_parse("answer", body, size, &ignored) : NULL;
    const json_t *inner = json_object_get(whole, "error");
    const char *code = json_string_value(json_object_get(inner, "code"));
    const char *param = json_string_value(json_object_get(inner, "param"));
    const char *message = json_string_value(json_object_get(inner, "message"));
    const struct api_code_info *info = code ? api_code_named(code) : NULL;
    api_error_set(error, info ? info->code : API_INTERNAL_ERROR, param ? param : "", "%s",
                  message ? message : "the earlier call failed");
    json_decref(whole);
}

static void replay(struct work *work, struct store_begun *begun) {
    struct gateway *gateway = work->gateway;
    pthread_mutex_lock(&gateway->lock);
    for (struct call *call = work->calls; call; call = call->next) call->attached = call->replayed = true;
    pthread_mutex_unlock(&gateway->lock);
    if (begun->answer.http_status >= 400 || !begun->answer.body) {
        read_error(begun->answer.body, begun->answer.size, &work->error);
    } else {
        struct error cause = {0};
        work->answer.text = (struct buffer){begun->answer.body, begun->answer.size, begun->answer.size + 1};
        begun->answer.body = NULL;
        if (!answer_read_list(&work->answer, begun->answer.pictures, &cause)) {
            log_error(gateway->log, "%s: %s", begun->request_id, cause.message);
            api_error_set(&work->error, API_INTERNAL_ERROR, "",
                          "the kept answer of request %s cannot be read", begun->request_id);
        }
    }
    work_conclude(work);
}

static void begin(struct work *work);

static void attach(struct work *work, const char *id) {
    if (work->asynchronous) {
        accept_call(work, id, true);
        work_conclude(work);
        return;
    }
    if (work_attach(work, id)) {
        work_conclude(work);
        return;
    }
    // It has ended in the meantime, and the store has its answer; or another server works on it.
    if (work->begins < BEGINS_MOST) {
        begin(work);
        return;
    }
    api_error_set(
        &work->error, API_IDEMPOTENCY_CONFLICT, "",
        "the request with this Idempotency-Key is in work at another server; ask for /v1/requests/%s", id);
    work_conclude(work);
}

static void refuse_begun(struct work *work, const struct store_begun *begun) {
    struct api_error *error = &work->error;
    switch (begun->outcome) {
    case STORE_CONFLICT:
        api_error_set(error, API_IDEMPOTENCY_CONFLICT, "", "%s",
                      *begun->message ? begun->message
                                      : "this Idempotency-Key was used with another request");
        break;
    case STORE_NO_BUDGET:
        api_error_set(error, API_BUDGET_EXCEEDED, "", "%s", begun->message);
        break;
    case STORE_NO_IMAGES:
        api_error_set(error, API_RATE_LIMITED, "", "%s", begun->message);
        error->retry_after = begun->retry_seconds > 0 ? begun->retry_seconds : INFINITY;
        break;
    case STORE_KEY_OVER:
        api_error_set(error, API_EXPIRED_KEY, "", "%s", begun->message);
        break;
    case STORE_NO_KEY:
        api_error_set(error, API_AUTHENTICATION_FAILED, "", "%s", begun->message);
        break;
    default: // STORE_UNWRITTEN: nor can the refusal be
        log_error(work->gateway->log, "%s: not recorded: %s", work->id, begun->error.message);
        if (strstr(begun->error.message, strerror(ENOSPC)))
            api_error_set(error, API_STORAGE_FULL, "", "the server has no room left for its records");
        else
            api_error_set(error, API_INTERNAL_ERROR, "",
                          "the server cannot write its records now; try again");
        break;
    }
    if (begun->outcome == STORE_UNWRITTEN)
        work_conclude(work);
    else
        refuse(work);
}

// Whether another call may have run it already: what a run needs is then asked for when the store has said that it is new.
static bool claims(const struct work *work) {
    return work->idempotency_key && work->gateway->store;
}

// Pictures a day of one address, for programs without a key. What is not delivered is given back (work_conclude).
static bool check_daily(struct work *work, struct api_error *error) {
    struct gateway *gateway = work->gateway;
    int64_t most = gateway->config->auth.keyless_images_per_day;
    double wait = 0;
    if (!work->keyless || !work->principal || most <= 0 || work->dry_run) return true;
    if (daily_take(gateway->daily, work->principal, work->request->count, most, work->created, &wait)) {
        work->daily_taken = work->request->count;
        return true;
    }
    api_error_set(error, API_RATE_LIMITED, "",
                  "without a key an address has %lld pictures a day; the day ends at midnight UTC",
                  (long long)most);
    error->retry_after = work->request->count > most ? INFINITY : wait;
    return false;
}

static void on_begun(void *context, struct store_begun *begun) {
    struct work *work = context;
    switch (begun->outcome) {
    case STORE_NEW:
        if (claims(work) && !check_daily(work, &work->error)) {
            run_settle(work);
            break;
        }
        if (work->asynchronous) accept_call(work, work->id, false);
        run_start(work);
        break;
    case STORE_ATTACH:
        attach(work, begun->request_id);
        break;
    case STORE_REPLAY:
        if (work->asynchronous) {
            accept_call(work, begun->request_id, true);
            work_conclude(work);
        } else {
            replay(work, begun);
        }
        break;
    default:
        refuse_begun(work, begun);
        break;
    }
}

// Reserves the price, claims the idempotency key, writes the record: one operation of the store.
static void begin(struct work *work) {
    struct gateway *gateway = work->gateway;
    struct store_begun without = {.outcome = STORE_NEW};
    if (!gateway->store) {
        on_begun(work, &without);
        return;
    }
    struct store_begin operation;
    struct error cause = {0};
    fill_begin(work, &operation);
    work->begins++;
    operation.idempotency_key = work->idempotency_key;
    memcpy(operation.body_hash, work->fingerprint, sizeof operation.body_hash);
    char *payload = NULL;
    if (gateway->config->store.keep_payloads && !work->request->sync_mode)
        payload = json_dumps(work->request->given, JSON_COMPACT);
    operation.payload = payload;
    bool good = store_begin(gateway->store, &operation, on_begun, work, &cause);
    free(payload);
    if (good) return;
    without = (struct store_begun){.outcome = STORE_UNWRITTEN, .error = cause};
    on_begun(work, &without);
}

// All pictures are there.
static void proceed(struct work *work) {
    struct gateway *gateway = work->gateway;
    if (!plan_size(&work->plan, work->request, &work->error)) {
        refuse(work);
    } else if (work->dry_run) {
        answer_dry_run(work);
    } else if (work->idempotency_key && gateway->store &&
               !image_request_fingerprint(work->request, work->fingerprint, &work->error)) {
        refuse(work);
    } else {
        begin(work);
    }
}

// ------------------------------------------------------------------------------------------------ pictures behind URLs

static struct image_reference *to_fetch(struct image_request *request) {
    for (int i = 0; i < request->reference_count; i++)
        if (request->references[i].url && !*request->references[i].file) return &request->references[i];
    return request->has_mask && request->mask.url && !*request->mask.file ? &request->mask : NULL;
}

static void fetch_next(struct work *work);

static void on_fetched(void *context, const char *path, const struct error *why) {
    struct work *work = context;
    struct image_request *request = work->request;
    struct image_reference *picture = to_fetch(request);
    struct error cause = {0};
    struct file_map map = {0};
    char name[32];
    image_request_picture_name(request, picture, name);
    snprintf(picture->file, sizeof picture->file, "%s", strrchr(path, '/') + 1);
    pthread_mutex_lock(&work->gateway->lock);
    bool cancelled = work->cancelled;
    pthread_mutex_unlock(&work->gateway->lock);
    if (cancelled) {
        api_error_set(&work->error, API_CANCELLED, "", "the request was cancelled");
    } else if (why->kind == ERROR_CANCELLED) {
        api_error_set(&work->error, API_INTERRUPTED, "", "the server is being stopped");
    } else if (why->kind != ERROR_NONE) {
        enum api_code code = why->kind == ERROR_MEMORY ? API_OUT_OF_MEMORY
                             : why->kind == ERROR_IO   ? API_INTERNAL_ERROR
                                                       : API_INVALID_REQUEST;
        api_error_set(&work->error, code, name, "%s: %s", name, why->message);
    } else if (!file_map(path, &map, &cause)) {
        api_error_from(&work->error, &cause);
    } else {
        if (image_request_take_room(request, map.size, &work->error))
            image_request_fill(request, picture, map.data, map.size, &work->error);
        file_unmap(&map);
    }
    if (work->error.code != API_OK)
        refuse(work);
    else
        fetch_next(work);
}

static void fetch_next(struct work *work) {
    struct gateway *gateway = work->gateway;
    struct image_reference *picture = to_fetch(work->request);
    if (!picture) {
        proceed(work);
        return;
    }
    char file[REQUEST_ID_MOST + 16];
    bool is_mask = picture == &work->request->mask;
    snprintf(file, sizeof file, "%s-url-%d", work->id,
             is_mask ? REFERENCES_MOST : (int)(picture - work->request->references));
    char *path = path_join(gateway->spool, file);
    struct error cause = {0};
    if (!path) error_set(&cause, ERROR_MEMORY, "no memory for the request");
    if (!path || !fetch_start(gateway->fetch, picture->url, path, on_fetched, work, &cause)) {
        api_error_from(&work->error, &cause);
        refuse(work);
    }
    free(path);
}

static bool check_fetch(const struct gateway *gateway, struct image_request *request,
                        struct api_error *error) {
    struct image_reference *picture = to_fetch(request);
    if (!picture || gateway->fetch) return true;
    char name[32];
    image_request_picture_name(request, picture, name);
    return api_error_set(
        error, API_INVALID_REQUEST, name,
        "%s: this server does not fetch pictures; send it as a data URI (\"data:image/png;base64,...\"), "
        "or the owner sets image_url.enabled in limn.yaml",
        name);
}

// --------------------------------------------------------------------------------------------------------------- start

static bool check_running(struct gateway *gateway, const char *principal, struct api_error *error) {
    struct scheduler_refusal refusal = {0};
    struct error cause = {0};
    pthread_mutex_lock(&gateway->lock);
    bool stopping = gateway->stopping;
    pthread_mutex_unlock(&gateway->lock);
    if (stopping) return api_error_set(error, API_INTERRUPTED, "", "the server is being stopped");
    return gateway->provider->has_room(gateway->provider, principal, &refusal, &cause) ||
           gateway_refuse(&refusal, &cause, error);
}

static bool check_asynchronous(const struct work *work, struct api_error *error) {
    if (!work->asynchronous || !work->request->sync_mode || work->dry_run) return true;
    return api_error_set(
        error, API_INVALID_REQUEST, "sync_mode",
        "sync_mode: nothing of the picture is kept, so nobody could fetch it later; leave it out, "
        "or leave out Prefer: respond-async");
}

bool gateway_has_room(struct gateway *gateway, struct api_error *error) {
    return check_running(gateway, NULL, error);
}

bool gateway_start(struct gateway *gateway, struct image_request *request, const struct gateway_call *call,
                   struct api_error *error) {
    struct work *work = work_open(gateway, request, call, error);
    if (!work) return false;
    if (work->asynchronous) request->stream = false;
    bool good = plan_make(&work->plan, gateway->catalog, gateway->config, call->principal, request, error) &&
                check_fetch(gateway, request, error) && check_asynchronous(work, error) &&
                work_allot(work, error);
    // A call whose request runs already, or has ended, needs no room.
    good = good && (work->dry_run || claims(work) || check_running(gateway, work->principal, error));
    good = good && (claims(work) || check_daily(work, error));
    if (!good) {
        work->error = *error;
        record_refusal(work);
        work_close(work);
        return false;
    }
    work_enlist(work);
    fetch_next(work);
    return true;
}

// ------------------------------------------------------------------------------------------------------ from aside

// With the lock held: whether the work goes on without its calls.
static bool is_wanted(const struct work *work) {
    if (deliver_is_kept(work) || work->stage >= WORK_SETTLING) return true;
    for (const struct call *call = work->calls; call; call = call->next)
        if (!call->gone) return true;
    return false;
}

static struct call *find_call(const struct work *work, const char *id) {
    struct call *call = work->calls;
    while (call && strcmp(call->id, id)) call = call->next;
    return call;
}

void gateway_cancel(struct gateway *gateway, const char *id) {
    char work_id[REQUEST_ID_MOST] = "";
    int jobs = 0;
    pthread_mutex_lock(&gateway->lock);
    struct work *work = work_find(gateway, id, false); // mostly it is the call that began it
    struct call *call = work ? find_call(work, id) : NULL;
    for (int i = 0; i < WORK_SLOTS && !call; i++)
        for (work = gateway->works[i]; work && !(call = find_call(work, id));) work = work->next;
    if (call) call->gone = true;
    if (call && !is_wanted(work)) {
        work->cancelled = true;
        memcpy(work_id, work->id, sizeof work_id);
        jobs = work->plan.calls;
    }
    pthread_mutex_unlock(&gateway->lock);
    if (*work_id) work_cancel_jobs(gateway, work_id, jobs);
}

bool gateway_stop(struct gateway *gateway, const char *id) {
    int jobs = 0;
    pthread_mutex_lock(&gateway->lock);
    struct work *work = work_find(gateway, id, false);
    bool stops = work && work->stage < WORK_SETTLING; // what is being recorded as done stays done
    if (stops) {
        work->cancelled = true;
        jobs = work->plan.calls;
    }
    pthread_mutex_unlock(&gateway->lock);
    if (stops) work_cancel_jobs(gateway, id, jobs);
    return stops;
}

json_t *gateway_progress_json(struct gateway *gateway, const char *id) {
    json_t *body = NULL;
    bool waits = false;
    char job[JOB_ID_MOST];
    pthread_mutex_lock(&gateway->lock);
    const struct work *work = work_find(gateway, id, false);
    if (work) {
        waits = work->stage <= WORK_QUEUED;
        work_job_id(work->id, work->plan.calls, 0, job);
        body = json_pack("{s:s, s:f, s:s}", "status", waits ? "queued" : "processing", "progress",
                         work->progress, "stage", work->progress_stage);
    }
    pthread_mutex_unlock(&gateway->lock);
    if (body && waits) {
        int position = gateway->provider->position(gateway->provider, job);
        if (position >= 0) json_object_set_new(body, "queue_position", json_integer(position));
    }
    return body;
}
