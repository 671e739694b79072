// A begun request: its jobs at the provider, what they say, the settling. Relies on inside.h.
#include "base/clock.h"
#include "base/file.h"
#include "gateway/deliver.h"
#include "gateway/inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// ---------------------------------------------------------------------------------------------------------- settling

static void on_settled(void *context, const struct store_settled *settled) {
    struct work *work = context;
    if (settled->error.kind != ERROR_NONE)
        log_error(work->gateway->log, "%s: %s: %s", work->id,
                  settled->deferred ? "recorded later" : "not recorded", settled->error.message);
    work_conclude(work);
}

static enum store_status status_of(enum api_code code) {
    if (code == API_OK) return STORE_COMPLETED;
    if (code == API_CANCELLED) return STORE_CANCELLED;
    return api_code_info(code)->status < 500 ? STORE_REJECTED : STORE_FAILED;
}

// What is kept for whoever comes back, or for the history; [made] and [body] have room for what is made anew. A failure that is
// worth a retry is not: the next call with that key runs.
static void keep_answer(struct work *work, struct answer *made, struct buffer *body, struct buffer *pictures,
                        struct store_settle *settle) {
    const struct buffer *answer = NULL;
    struct error ignored = {0};
    bool failed = work->error.code != API_OK;
    bool again = api_code_info(work->error.code)->retryable || work->error.code == API_CANCELLED;
    if (failed && (work->asynchronous || (work->idempotency_key && !again)) &&
        api_error_body(&work->error, body))
        answer = body;
    if (!failed && deliver_is_kept(work) && answer_list(&work->answer, pictures)) answer = &work->answer.text;
    bool history = !failed && !deliver_is_kept(work) && keep_wanted(work);
    if (history && deliver_kept(work, made, &ignored)) answer = &made->text;
    if (!answer) return;
    settle->answer = answer->data;
    settle->answer_size = answer->length;
    settle->answer_pictures = pictures->data;
    if (!failed && !history && work->request->stream) settle->answer_type = "text/event-stream";
}

#define KEPT_MOST (REQUEST_COUNT_MOST + REFERENCES_MOST + 1) // pictures of one request

static void fill_settle(const struct work *work, struct store_settle *settle,
                        struct store_media media[KEPT_MOST]) {
    const struct image_request *request = work->request;
    const struct catalog_choice *choice = &work->plan.choice;
    const struct size_result *size = &work->plan.size;
    bool failed = work->error.code != API_OK;
    struct usage usage = work_usage(work);
    *settle = (struct store_settle){.id = work->id,
                                    .status = status_of(work->error.code),
                                    .http_status = failed ? api_code_info(work->error.code)->status : 200,
                                    .error_code = failed ? api_code_info(work->error.code)->name : NULL,
                                    .error_message = failed ? work->error.message : NULL,
                                    .executed_model = choice->executed,
                                    .provider = choice->provider->slug,
                                    .cost_micros = work->cost_micros,
                                    .images = work->delivered,
                                    .text_tokens = usage.text,
                                    .input_tokens = usage.references,
                                    .output_tokens = usage.output,
                                    .response_bytes = (int64_t)answer_length(&work->answer),
                                    .attempts = work->attempts,
                                    .attempt_count = work->attempt_count,
                                    .media = media};
    for (int i = 0; i < request->reference_count; i++)
        settle->input_pixels +=
            (int64_t)request->references[i].header.width * request->references[i].header.height;
    for (int i = 0; i < request->count; i++) {
        const struct picture *picture = &work->pictures[i];
        if (*picture->media)
            media[settle->media_count++] = (struct store_media){picture->media, STORE_MEDIA_OUTPUT, i};
        if (!picture->billed) continue;
        settle->width = picture->there ? picture->width : size->deliver_width; // of some, previews were shown
        settle->height = picture->there ? picture->height : size->deliver_height;
        settle->output_pixels += (int64_t)settle->width * settle->height;
    }
    for (int i = 0; i < work->input_count; i++) media[settle->media_count++] = work->inputs[i];
}

void run_settle(struct work *work) {
    struct gateway *gateway = work->gateway;
    struct store_settle settle;
    struct store_media media[KEPT_MOST];
    struct answer made = {0};
    struct buffer body = {0}, pictures = {0};
    struct error cause = {0};
    pthread_mutex_lock(&gateway->lock);
    work->stage = WORK_SETTLING;
    pthread_mutex_unlock(&gateway->lock);
    if (!gateway->store) {
        work_conclude(work);
        return;
    }
    keep_inputs(work);
    fill_settle(work, &settle, media);
    keep_answer(work, &made, &body, &pictures, &settle);
    bool good = store_settle(gateway->store, &settle, on_settled, work, &cause);
    answer_free(&made);
    buffer_free(&body);
    buffer_free(&pictures);
    if (good) return;
    log_error(gateway->log, "%s: not recorded: %s", work->id, cause.message);
    work_conclude(work);
}

// The first failure by order of pictures, or that somebody cancelled: who did so before this wins, who comes later is told that
// it is too late.
static void find_error(struct work *work) {
    struct gateway *gateway = work->gateway;
    pthread_mutex_lock(&gateway->lock);
    bool cancelled = work->cancelled;
    work->stage = WORK_SETTLING;
    pthread_mutex_unlock(&gateway->lock);
    bool failed = cancelled || work->delivered < work->request->count;
    for (int i = 0; i < work->job_count; i++) failed = failed || work->jobs[i].error.code != API_OK;
    if (!failed) return;
    if (cancelled)
        api_error_set(&work->error, API_CANCELLED, "", "the request was cancelled");
    else if (work->delivered > 0)
        return; // those that failed stand in metadata.errors
    for (int i = 0; i < work->job_count && work->error.code == API_OK; i++)
        if (work->jobs[i].error.code != API_OK) work->error = work->jobs[i].error;
    if (work->error.code == API_OK)
        api_error_set(&work->error, API_INTERNAL_ERROR, "", "the engine delivered no picture");
}

// ----------------------------------------------------------------------------------------------------------- the bill

static int billed_of(const struct work *work, const struct job *job) {
    int billed = 0;
    for (int k = job->first; k < job->first + job->count; k++) billed += work->pictures[k].billed;
    return billed;
}

// What the pictures that are charged come to.
static bool price_billed(const struct work *work, int64_t *micros, struct api_error *error) {
    int images = 0, calls = 0;
    struct price bill;
    *micros = 0;
    for (int i = 0; i < work->job_count; i++) {
        int billed = billed_of(work, &work->jobs[i]);
        images += billed;
        calls += billed > 0;
    }
    if (!images) return true;
    if (!plan_price(&work->plan, work->request, images, calls, &bill, error)) return false;
    *micros = bill.micros;
    return true;
}

// What was delivered is charged. Of a stream that was cancelled that is each picture of which something was shown, be it a preview:
// who stops after the last preview has had nearly all of the work and of the picture. Failures are free.
static void make_bill(struct work *work) {
    bool cancelled = work->error.code == API_CANCELLED, stream = work->request->stream;
    work->delivered = 0;
    for (int i = 0; i < work->request->count; i++) {
        struct picture *picture = &work->pictures[i];
        picture->billed = work->error.code == API_OK ? picture->there : cancelled && stream && picture->shown;
        work->delivered += picture->billed;
    }
    struct api_error error = {0};
    if (!price_billed(work, &work->cost_micros, &error)) {
        if (work->error.code == API_OK) work->error = error;
        work->cost_micros = 0;
    }
    for (int i = 0; i < work->job_count; i++) {
        const struct job *job = &work->jobs[i];
        struct price part;
        int billed = billed_of(work, job);
        if (job->attempt < 0) continue;
        struct store_attempt *attempt = &work->attempts[job->attempt];
        attempt->images = billed;
        if (billed && plan_price(&work->plan, work->request, billed, 1, &part, &error))
            attempt->cost_micros = part.micros;
    }
    if (!cancelled || !work->delivered) return;
    work->error = (struct api_error){0};
    api_error_set(
        &work->error, API_CANCELLED, "",
        "the request was cancelled after %d of its pictures had been shown, previews counted; they are "
        "charged",
        work->delivered);
}

// ------------------------------------------------------------------------------------------------------------- the end

// Of a request that is no stream: all pictures at once.
static bool make_answer(struct work *work, struct error *error) {
    for (int i = 0; i < work->request->count; i++)
        if (work->pictures[i].there && !deliver_store(work, i, error)) return false;
    // What nobody waits for is put together when somebody asks.
    return deliver_body(work, &work->answer, error) &&
           (work->asynchronous || answer_write(&work->answer, work->gateway->media, &work->body, error));
}

// Of a stream: its pictures are out, what is left to say is that some are missing.
static void end_stream(struct work *work) {
    const struct api_error *why = NULL;
    int missing = 0;
    for (int i = 0; i < work->request->count; i++) missing += !work->pictures[i].there;
    for (int i = 0; i < work->job_count && !why; i++)
        if (work->jobs[i].error.code != API_OK) why = &work->jobs[i].error;
    if (!missing || !why) return;
    if (!deliver_error(why, &work->ending) ||
        !buffer_add(&work->answer.text, work->ending.data, work->ending.length))
        log_warning(work->gateway->log, "%s: no memory to say that pictures are missing", work->id);
}

static void remove_media(struct work *work) {
    for (int i = 0; i < work->request->count; i++) {
        struct picture *picture = &work->pictures[i];
        struct error ignored = {0};
        if (*picture->media) media_remove(work->gateway->media, picture->media, &ignored);
        *picture->media = 0;
    }
}

// All jobs are over.
static void finish(struct work *work) {
    struct error cause = {0};
    bool stream = work->request->stream;
    for (int i = 0; i < work->request->count; i++) work->delivered += work->pictures[i].there;
    find_error(work);
    make_bill(work);
    if (work->error.code == API_OK && !stream && !make_answer(work, &cause)) {
        api_error_from(&work->error, &cause);
        remove_media(work);
        make_bill(work); // nothing
    }
    if (work->error.code == API_OK && stream) end_stream(work);
    if (work->error.code != API_OK && !stream) {
        answer_free(&work->answer);
        buffer_free(&work->body);
    }
    if (work->error.code != API_OK && api_code_info(work->error.code)->status >= 500)
        log_warning(work->gateway->log, "%s: %s", work->id, work->error.message);
    run_settle(work);
}

// ----------------------------------------------------------------------------------------------------------- the start

static void describe_job(const struct work *work, const struct job *job, struct scheduler_job *turn) {
    const struct image_request *request = work->request;
    const struct size_result *size = &work->plan.size;
    const struct model_card *card = work->plan.choice.card;
    *turn = (struct scheduler_job){.model = gateway_serves(work->gateway, card) ? NULL
                                                                                : card->id, // NULL: the first
                                   .principal = work->principal,
                                   .priority = work->priority,
                                   .streams = request->stream};
    turn->job = (struct queue_job){.id = job->id,
                                   .prompt = request->prompt,
                                   .reference_count = request->reference_count,
                                   .mask_file = request->has_mask ? request->mask.file : NULL,
                                   .width = size->render_width,
                                   .height = size->render_height,
                                   .deliver_width = size->deliver_width,
                                   .deliver_height = size->deliver_height,
                                   .count = job->count,
                                   .seed = request->seed + (uint64_t)job->first,
                                   .steps = request->steps,
                                   .guidance = (float)request->guidance,
                                   .sigmas = request->sigma_count ? request->sigmas : NULL,
                                   .sigma_count = request->sigma_count,
                                   .lora_count = request->lora_count,
                                   .output_format = image_format_name(request->format),
                                   .output_quality = work->plan.output_quality,
                                   .transparent = request->background == BACKGROUND_TRANSPARENT,
                                   .preview_count = request->stream ? request->partial_images : 0};
    for (int i = 0; i < request->reference_count; i++)
        turn->job.reference_files[i] = request->references[i].file;
    for (int i = 0; i < request->lora_count; i++) turn->job.loras[i] = work->plan.loras[i];
}

// Hands one job over; with work->lock held.
static bool submit(struct work *work, struct job *job) {
    struct gateway *gateway = work->gateway;
    struct scheduler_job turn;
    struct scheduler_refusal refusal = {0};
    struct error cause = {0};
    describe_job(work, job, &turn);
    if (gateway->provider->submit(gateway->provider, &turn, &refusal, &cause)) return true;
    gateway_refuse(&refusal, &cause, &job->error);
    job->over = true;
    work->jobs_over++;
    return false;
}

static void prepare_jobs(struct work *work) {
    work->job_count = work->plan.calls;
    for (int i = 0; i < work->job_count; i++) {
        struct job *job = &work->jobs[i];
        int left = work->request->count - i * work->plan.call_images;
        *job = (struct job){.first = i * work->plan.call_images,
                            .count = left < work->plan.call_images ? left : work->plan.call_images,
                            .attempt = -1};
        work_job_id(work->id, work->job_count, i, job->id);
    }
}

// Whether the jobs may be handed over; then submitting_ends is owed.
static bool submitting_begins(struct work *work, struct api_error *error) {
    struct gateway *gateway = work->gateway;
    pthread_mutex_lock(&gateway->lock);
    if (work->stage < WORK_QUEUED) work->stage = WORK_QUEUED;
    if (gateway->stopping)
        api_error_set(error, API_INTERRUPTED, "", "the server is being stopped");
    else if (work->cancelled)
        api_error_set(error, API_CANCELLED, "", "the request was cancelled");
    else
        gateway->submitting++;
    pthread_mutex_unlock(&gateway->lock);
    return error->code == API_OK;
}

static void submitting_ends(struct gateway *gateway) {
    pthread_mutex_lock(&gateway->lock);
    if (--gateway->submitting == 0) pthread_cond_broadcast(&gateway->idle);
    pthread_mutex_unlock(&gateway->lock);
}

// One who left while his work was handed over was not heard by the provider.
static bool was_cancelled(struct work *work) {
    pthread_mutex_lock(&work->gateway->lock);
    bool cancelled = work->cancelled;
    pthread_mutex_unlock(&work->gateway->lock);
    return cancelled;
}

// A comment: the stream is open though nothing is to be seen yet.
static void open_stream(struct work *work) {
    struct buffer comment = {0};
    if (buffer_printf(&comment, ": %s\n\n", work->id)) work_send_chunk(work, &comment);
    buffer_free(&comment);
}

void run_start(struct work *work) {
    struct gateway *gateway = work->gateway;
    struct api_error refusal = {0};
    char id[REQUEST_ID_MOST];
    int jobs = work->plan.calls;
    bool taken = false, cancelled = false, may = submitting_begins(work, &refusal);
    memcpy(id, work->id, sizeof id);
    pthread_mutex_lock(&work->lock); // what the jobs say waits until all are handed over
    prepare_jobs(work);
    work->queued = clock_unix_micros();
    for (int i = 0; may && i < jobs; i++) taken = submit(work, &work->jobs[i]) || taken;
    for (int i = 0; !may && i < jobs; i++) {
        work->jobs[i].error = refusal;
        work->jobs[i].over = true;
        work->jobs_over++;
    }
    if (taken && work->request->stream) open_stream(work);
    if (taken) cancelled = was_cancelled(work);
    bool over = work->jobs_over == work->job_count;
    pthread_mutex_unlock(&work->lock);
    if (cancelled && !over) work_cancel_jobs(gateway, id, jobs);
    if (may) submitting_ends(gateway);
    if (over) finish(work);
}

// ------------------------------------------------------------------------------------------------------ what is heard

// The engine's names of fields are near those of the wire, but not the same.
static void name_parameter(struct error *error) {
    static const struct {
        const char *engine, *wire;
    } names[] = {{"width", "size"},
                 {"height", "size"},
                 {"count", "n"},
                 {"sigma_count", "sigmas"},
                 {"image[0]", "image"}};
    int index;
    if (sscanf(error->field, "references[%d]", &index) == 1)
        snprintf(error->field, sizeof error->field, index ? "image[%d]" : "image", index);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(error->field, names[i].engine))
            snprintf(error->field, sizeof error->field, "%s", names[i].wire);
}

// A LoRA that the engine refuses is the owner's matter: its file's name and what is wrong with it go to the log.
static bool hide_lora(const struct work *work, const struct error *cause, struct api_error *error) {
    int index;
    if (sscanf(cause->field, "loras[%d]", &index) != 1 || index < 0 || index >= work->request->lora_count)
        return false;
    const char *name = work->request->loras[index].name;
    log_error(work->gateway->log, "%s: LoRA %s: %s", work->id, name, cause->message);
    return !api_error_set(error, API_INVALID_REQUEST, "lora",
                          "lora: \"%.60s\" cannot be applied to this model; the server's log says why", name);
}

static void read_failure(const struct work *work, const struct queue_event *event, struct api_error *error) {
    struct error cause = event->error;
    if (event->failure == QUEUE_FAILURE_JOB && hide_lora(work, &cause, error)) return;
    name_parameter(&cause);
    enum api_code code = API_OK;
    if (event->failure == QUEUE_FAILURE_TIME) code = API_GENERATION_TIMEOUT;
    if (event->failure == QUEUE_FAILURE_STOPPED) code = API_INTERRUPTED;
    if (event->failure == QUEUE_FAILURE_MODEL) code = API_MODEL_NOT_INSTALLED;
    if (event->failure == QUEUE_FAILURE_WORKER_DIED)
        code = cause.kind == ERROR_MEMORY ? API_OUT_OF_MEMORY : API_WORKER_DIED;
    if (code == API_OK)
        api_error_from(error, &cause);
    else
        api_error_set(error, code, cause.field, "%s", cause.message);
}

static void end_attempt(struct work *work, struct job *job, enum store_status status,
                        const struct api_error *error) {
    if (job->attempt < 0) return;
    struct store_attempt *attempt = &work->attempts[job->attempt];
    attempt->ended_at = clock_unix_micros();
    attempt->status = status;
    if (!error) return;
    attempt->error_code = api_code_info(error->code)->name;
    attempt->error_message = arena_strdup(&work->arena, error->message);
}

static void on_started(struct work *work, struct job *job) {
    struct gateway *gateway = work->gateway;
    if (work->attempt_count == work->attempt_most) return;
    job->attempt = work->attempt_count++;
    struct store_attempt *attempt = &work->attempts[job->attempt];
    *attempt =
        (struct store_attempt){.provider = work->plan.choice.provider->slug,
                               .provider_model = work->plan.choice.provider->model_ids[work->request->mode],
                               .queued_at = work->queued,
                               .dispatched_at = clock_unix_micros(),
                               .status = STORE_PROCESSING};
    struct error ignored = {0};
    if (gateway->store &&
        !store_dispatched(gateway->store, work->id, job->attempt, attempt, NULL, NULL, &ignored))
        log_debug(gateway->log, "%s: %s", work->id, ignored.message);
}

static void note_first_byte(struct work *work, const struct job *job) {
    if (job->attempt < 0) return;
    struct store_attempt *attempt = &work->attempts[job->attempt];
    if (!attempt->first_byte_at) attempt->first_byte_at = clock_unix_micros();
}

static void note_tokens(struct job *job, const struct queue_event *event) {
    job->text_tokens = event->text_tokens;
    job->reference_tokens = event->reference_tokens;
}

static void on_preview(struct work *work, struct job *job, const struct queue_event *event) {
    struct gateway *gateway = work->gateway;
    int index = job->first + event->image;
    char *path = path_join(gateway->spool, event->file);
    struct buffer chunk = {0};
    struct error cause = {0};
    note_first_byte(work, job);
    note_tokens(job, event);
    bool wanted = path && work->request->stream && index < work->request->count &&
                  work->partials[index] < work->request->partial_images;
    if (wanted && deliver_partial(work, path, event->width, event->height, index, work->partials[index],
                                  &chunk, &cause)) {
        struct picture *picture = &work->pictures[index];
        work->partials[index]++;
        picture->output_tokens = event->output_tokens;
        picture->shown = work_send_chunk(work, &chunk) || picture->shown;
    }
    buffer_free(&chunk);
    free(path);
    spool_remove(gateway->spool, event->file);
}

static void drop_picture(struct work *work, struct picture *picture) {
    struct error ignored = {0};
    if (picture->path) remove(picture->path);
    free(picture->path);
    if (*picture->media) media_remove(work->gateway->media, picture->media, &ignored);
    *picture = (struct picture){.shown = picture->shown};
}

// Whether all pictures of a stream are there. Then it is done: it is too late to cancel it.
static bool is_complete(struct work *work) {
    for (int i = 0; i < work->request->count; i++)
        if (!work->pictures[i].there) return false;
    pthread_mutex_lock(&work->gateway->lock);
    bool cancelled = work->cancelled;
    if (!cancelled) work->stage = WORK_SETTLING;
    pthread_mutex_unlock(&work->gateway->lock);
    return !cancelled;
}

// Sends a picture of a stream as soon as it is there; the last one when the request is recorded as done, so that nobody has heard of
// the end of a request whose record says otherwise. Its event has its own part of usage and cost; what a call takes in counts
// with the call's first picture, so that the parts come to the whole.
static bool send_completed(struct work *work, const struct job *job, int index, struct error *error) {
    struct picture *picture = &work->pictures[index];
    struct picture_bill bill = {.usage = {.output = picture->output_tokens}};
    struct answer event = {0};
    struct buffer chunk = {0};
    struct api_error refusal = {0};
    int64_t before = work->cost_micros;
    if (billed_of(work, job) == 0)
        bill.usage.text = job->text_tokens, bill.usage.references = job->reference_tokens;
    picture->billed = true;
    bool good = price_billed(work, &work->cost_micros, &refusal) ||
                error_set(error, ERROR_INTERNAL, "%s", refusal.message);
    bill.cost_micros = work->cost_micros - before;
    good =
        good && deliver_store(work, index, error) && deliver_completed(work, index, &bill, &event, error) &&
        answer_write(&event, work->gateway->media, &chunk, error) &&
        (answer_append(&work->answer, &event) || error_set(error, ERROR_MEMORY, "no memory for the answer"));
    if (good && is_complete(work))
        good = buffer_add(&work->ending, chunk.data, chunk.length) ||
               error_set(error, ERROR_MEMORY, "no memory for the answer");
    else if (good)
        picture->shown = work_send_chunk(work, &chunk) || picture->shown;
    if (!good) work->cost_micros = before;
    answer_free(&event);
    buffer_free(&chunk);
    return good;
}

static void on_image(struct work *work, struct job *job, const struct queue_event *event) {
    int index = job->first + event->image;
    struct stat info;
    note_first_byte(work, job);
    note_tokens(job, event);
    if (event->image < 0 || event->image >= job->count || work->pictures[index].there) {
        spool_remove(work->gateway->spool, event->file);
        return;
    }
    struct picture *picture = &work->pictures[index];
    *picture = (struct picture){.path = path_join(work->gateway->spool, event->file),
                                .width = event->width,
                                .height = event->height,
                                .seed = event->seed,
                                .output_tokens = event->output_tokens,
                                .shown = picture->shown,
                                .transparent = event->transparent};
    picture->there = picture->path != NULL;
    if (picture->there && stat(picture->path, &info) == 0) picture->bytes = (size_t)info.st_size;
    if (!picture->there || !work->request->stream) return;
    struct error cause = {0};
    if (send_completed(work, job, index, &cause)) return;
    drop_picture(work, picture);
    api_error_from(&job->error, &cause);
}

static void on_rerun(struct work *work, struct job *job, const struct queue_event *event) {
    struct api_error error = {0};
    read_failure(work, event, &error);
    end_attempt(work, job, status_of(error.code), &error);
    work->rerun = true;
    work->queued = clock_unix_micros();
    for (int i = job->first; i < job->first + job->count; i++) drop_picture(work, &work->pictures[i]);
}

static void on_over(struct work *work, struct job *job, const struct queue_event *event) {
    if (event->kind == QUEUE_FAILED) {
        read_failure(work, event, &job->error);
        end_attempt(work, job, status_of(job->error.code), &job->error);
    } else {
        end_attempt(work, job, STORE_COMPLETED, NULL);
    }
    job->over = true;
    work->jobs_over++;
}

// How far a work is, for those who ask. With the gateway's lock held.
static void note_progress(struct work *work, const struct queue_event *event) {
    if (event->kind == QUEUE_STARTED) work->stage = WORK_RUNNING;
    if (event->kind == QUEUE_RERUN) {
        work->stage = WORK_QUEUED;
        work->progress = 0;
        work->progress_stage = "queued";
    }
    if (event->kind != QUEUE_PROGRESS || !event->stage) return;
    static const char *const stages[] = {"text", "references", "steps", "decode"};
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        if (!strcmp(stages[i], event->stage)) work->progress_stage = stages[i];
    double images = event->images > 0 ? event->images : 1;
    double inside = event->steps > 0 ? (double)event->step / event->steps : 0;
    double progress = (event->image + (inside < 1 ? inside : 1)) / images;
    if (progress > work->progress && progress <= 1) work->progress = progress;
}

static struct job *find_job(struct work *work, const char *id) {
    for (int i = 0; i < work->job_count; i++)
        if (!strcmp(work->jobs[i].id, id)) return work->jobs[i].over ? NULL : &work->jobs[i];
    return NULL;
}

static void handle(struct work *work, struct job *job, const struct queue_event *event) {
    switch (event->kind) {
    case QUEUE_STARTED:
        on_started(work, job);
        break;
    case QUEUE_PREVIEW:
        on_preview(work, job, event);
        break;
    case QUEUE_IMAGE:
        on_image(work, job, event);
        break;
    case QUEUE_RERUN:
        on_rerun(work, job, event);
        break;
    case QUEUE_DONE:
    case QUEUE_FAILED:
        on_over(work, job, event);
        break;
    case QUEUE_PROGRESS:
        break;
    }
}

// A work stays while one of its jobs is not over, and this event's is not.
void run_listen(void *context, const struct queue_event *event) {
    struct gateway *gateway = context;
    pthread_mutex_lock(&gateway->lock);
    struct work *work = work_find(gateway, event->job, true);
    if (work) note_progress(work, event);
    pthread_mutex_unlock(&gateway->lock);
    if (!work) {
        if (event->file && *event->file) spool_remove(gateway->spool, event->file);
        return;
    }
    if (event->kind == QUEUE_PROGRESS) return;
    pthread_mutex_lock(&work->lock);
    struct job *job = find_job(work, event->job);
    if (job) handle(work, job, event);
    bool over = job && work->jobs_over == work->job_count;
    pthread_mutex_unlock(&work->lock);
    if (over) finish(work);
}
