// The queue over one local worker process. One thread owns the process: it starts it, hands it jobs, reads what it says,
// watches its lease, and replaces it. Everything that other threads touch is behind one mutex; the listener is called
// without it. Relies on queue.h, frame.h, process.h.
#include "queue/queue.h"
#include "base/clock.h"
#include "base/file.h"
#include "queue/frame.h"
#include "queue/process.h"
#include "queue/names.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define DELIVERIES_MOST 3
#define CACHE_MEGABYTES 256

struct job {
    struct job *next;
    char id[NAME_ID_MOST + 1];
    int count;
    json_t *message;
    char *prompt_file; // path; NULL: the prompt stands in the message
    bool cancelled;
    bool acknowledged; // by the worker that has it now
    int deliveries;    // to workers that died before they acknowledged it, and to the present one
};

enum worker_state { WORKER_NONE, WORKER_STARTING, WORKER_READY };

struct queue {
    char *program, *model_folder, *spool_folder, *isa, *compute;
    char threads[16], cache[16];
    char *loras[QUEUE_LORAS_MOST];
    int lora_count;
    int depth;
    double lease_seconds, stall_seconds, cancel_seconds;
    const struct log *log;
    queue_listener *listener;
    void *context;
    pthread_t thread;
    int wake; // eventfd: something changed for the thread

    pthread_mutex_t lock; // guards the next block
    pthread_cond_t changed;
    struct job *waiting; // oldest first
    struct job *running;
    int waiting_count, workers_started;
    bool stopping, ready;
    struct queue_model model;
    struct error open_error; // why no worker can open the model
    double job_seconds;

    // The thread's own.
    struct process process;
    enum worker_state state;
    struct buffer in, out;
    double next_start; // when a worker may be started
    int failed_starts; // in a row
    double last_beat, last_headway, cancel_sent, job_started;
    int64_t headway;
    int64_t attempt; // of the running job; counts over all jobs
    int next_image;  // the picture that is due
};

static void free_job(struct job *job) {
    if (!job) return;
    if (job->prompt_file) unlink(job->prompt_file);
    free(job->prompt_file);
    json_decref(job->message);
    free(job);
}

static void wake(struct queue *queue) {
    uint64_t one = 1;
    ssize_t written = write(queue->wake, &one, sizeof one);
    (void)written; // full: it is awake anyway
}

// ------------------------------------------------------------------------------------------------------- submitting

bool queue_job_check(const struct queue_job *job, struct error *error) {
    if (!name_is_id(job->id))
        return error_set(error, ERROR_INTERNAL, "job id \"%s\": expected [a-z0-9_-]{8,64}", job->id);
    if (!job->prompt || !*job->prompt)
        return error_set_field(error, ERROR_INPUT, "prompt", "the prompt is empty");
    if (job->reference_count < 0 || job->reference_count > QUEUE_REFERENCES_MOST)
        return error_set_field(error, ERROR_INPUT, "image", "%d reference images, expected at most %d",
                               job->reference_count, QUEUE_REFERENCES_MOST);
    if (job->sigma_count < 0 || job->sigma_count > QUEUE_SIGMAS_MOST)
        return error_set_field(error, ERROR_INPUT, "sigmas", "%d sigmas, expected at most %d",
                               job->sigma_count, QUEUE_SIGMAS_MOST);
    for (int i = 0; i < job->reference_count; i++)
        if (!name_is_file(job->reference_files[i]))
            return error_set(error, ERROR_INTERNAL, "\"%s\" is no name of a spool file",
                             job->reference_files[i]);
    if (job->mask_file && !name_is_file(job->mask_file))
        return error_set(error, ERROR_INTERNAL, "\"%s\" is no name of a spool file", job->mask_file);
    if (job->mask_file && job->reference_count == 0)
        return error_set_field(error, ERROR_INPUT, "mask", "a mask without an image that it could belong to");
    if (job->lora_count < 0 || job->lora_count > QUEUE_LORAS_MOST)
        return error_set_field(error, ERROR_INPUT, "lora", "%d LoRAs, expected at most %d", job->lora_count,
                               QUEUE_LORAS_MOST);
    if (!job->output_format || strlen(job->output_format) > 16)
        return error_set(error, ERROR_INTERNAL, "a job without an output format");
    return true;
}

static bool set(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0;
}

// A prompt that might not fit into a frame goes into a file of the spool folder.
enum { PROMPT_INLINE_MOST = 4096 };

static bool write_prompt(struct queue *queue, const char *prompt, struct job *job, struct error *error) {
    char name[NAME_ID_MOST + 16];
    snprintf(name, sizeof name, "%s.prompt", job->id);
    job->prompt_file = path_join(queue->spool_folder, name);
    if (!job->prompt_file) return error_set(error, ERROR_MEMORY, "no memory for the prompt");
    int file = open(job->prompt_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t length = strlen(prompt);
    bool good = file >= 0 && write(file, prompt, length) == (ssize_t)length;
    int cause = errno;
    if (file >= 0) close(file);
    if (!good)
        return error_set(error, ERROR_IO, "%s: cannot be written: %s", job->prompt_file, strerror(cause));
    return set(job->message, "prompt_file", json_string(name)) ||
           error_set(error, ERROR_MEMORY, "no memory for the prompt");
}

static struct job *make_job(struct queue *queue, const struct queue_job *from, struct error *error) {
    struct job *job = calloc(1, sizeof *job);
    json_t *references = json_array(), *sigmas = json_array(), *loras = json_array();
    bool good = job && references && sigmas && loras && (job->message = json_object());
    if (good) {
        json_t *m = job->message;
        snprintf(job->id, sizeof job->id, "%s", from->id);
        job->count = from->count;
        for (int i = 0; good && i < from->reference_count; i++)
            good = json_array_append_new(references, json_string(from->reference_files[i])) == 0;
        for (int i = 0; good && i < from->sigma_count; i++)
            good = json_array_append_new(sigmas, json_real((double)from->sigmas[i])) == 0;
        for (int i = 0; good && i < from->lora_count; i++)
            good = json_array_append_new(loras, json_pack("{s:s, s:f}", "file", from->loras[i].file, "scale",
                                                          (double)from->loras[i].scale)) == 0;
        good = good && set(m, "job", json_string(from->id)) && set(m, "width", json_integer(from->width)) &&
               set(m, "height", json_integer(from->height)) &&
               set(m, "deliver_width", json_integer(from->deliver_width)) &&
               set(m, "deliver_height", json_integer(from->deliver_height)) &&
               set(m, "count", json_integer(from->count)) &&
               set(m, "seed", json_integer((json_int_t)from->seed)) &&
               set(m, "steps", json_integer(from->steps)) &&
               set(m, "guidance", json_real((double)from->guidance)) &&
               set(m, "output_format", json_string(from->output_format)) &&
               set(m, "output_quality", json_integer(from->output_quality)) &&
               set(m, "preview_count", json_integer(from->preview_count)) &&
               set(m, "transparent", json_boolean(from->transparent)) &&
               (!from->mask_file || set(m, "mask", json_string(from->mask_file))) &&
               json_object_set(m, "references", references) == 0 &&
               json_object_set(m, "sigmas", sigmas) == 0 &&
               (!from->lora_count || json_object_set(m, "loras", loras) == 0);
    }
    json_decref(references);
    json_decref(sigmas);
    json_decref(loras);
    if (!good)
        error_set(error, ERROR_MEMORY, "no memory for the job");
    else if (strlen(from->prompt) > PROMPT_INLINE_MOST)
        good = write_prompt(queue, from->prompt, job, error);
    else
        good = set(job->message, "prompt", json_string(from->prompt)) ||
               error_set_field(error, ERROR_INPUT, "prompt", "the prompt is not valid UTF-8");
    if (good) return job;
    free_job(job);
    return NULL;
}

bool queue_submit(struct queue *queue, const struct queue_job *from, struct error *error) {
    if (!queue_job_check(from, error)) return false;
    struct job *job = make_job(queue, from, error);
    if (!job) return false;
    pthread_mutex_lock(&queue->lock);
    bool good = true;
    // A job in work does not wait; one that nobody has taken yet, while the worker is idle, waits only in name.
    int room = queue->depth + (queue->running ? 0 : 1);
    if (queue->stopping)
        good = error_set(error, ERROR_UNAVAILABLE, "the queue is being stopped");
    else if (queue->waiting_count >= room)
        good = error_set(error, ERROR_UNAVAILABLE, "the queue is full: %d requests wait already",
                         queue->waiting_count);
    if (good) {
        struct job **end = &queue->waiting;
        while (*end) end = &(*end)->next;
        *end = job;
        queue->waiting_count++;
    }
    pthread_mutex_unlock(&queue->lock);
    if (good)
        wake(queue);
    else
        free_job(job);
    return good;
}

void queue_cancel(struct queue *queue, const char *id) {
    pthread_mutex_lock(&queue->lock);
    for (struct job *job = queue->waiting; job; job = job->next)
        if (!strcmp(job->id, id)) job->cancelled = true;
    if (queue->running && !strcmp(queue->running->id, id)) queue->running->cancelled = true;
    pthread_mutex_unlock(&queue->lock);
    wake(queue);
}

// ------------------------------------------------------------------------------------------------------ job endings

static void report_failure(struct queue *queue, const char *id, enum queue_failure failure,
                           const struct error *error) {
    struct queue_event event = {.kind = QUEUE_FAILED, .job = id, .failure = failure, .error = *error};
    queue->listener(queue->context, &event);
}

static struct job *take_running(struct queue *queue) {
    pthread_mutex_lock(&queue->lock);
    struct job *job = queue->running;
    queue->running = NULL;
    pthread_mutex_unlock(&queue->lock);
    return job;
}

// A job that its worker never acknowledged was not in work: it goes back to the head of the line. Returns whether it did.
static bool redeliver(struct queue *queue) {
    pthread_mutex_lock(&queue->lock);
    struct job *job = queue->running;
    bool back = job && !job->acknowledged && !job->cancelled && job->deliveries < DELIVERIES_MOST;
    if (back) {
        job->next = queue->waiting;
        queue->waiting = job;
        queue->waiting_count++;
        queue->running = NULL;
    }
    pthread_mutex_unlock(&queue->lock);
    return back;
}

static void fail_running(struct queue *queue, enum queue_failure failure, const struct error *error) {
    struct job *job = take_running(queue);
    if (!job) return;
    report_failure(queue, job->id, failure, error);
    free_job(job);
}

// Takes jobs out of the waiting line and fails them: all of them, or the cancelled ones only.
static void fail_waiting(struct queue *queue, bool all, enum queue_failure failure,
                         const struct error *error) {
    for (;;) {
        pthread_mutex_lock(&queue->lock);
        struct job **link = &queue->waiting;
        while (*link && !all && !(*link)->cancelled) link = &(*link)->next;
        struct job *job = *link;
        if (job) {
            *link = job->next;
            queue->waiting_count--;
        }
        pthread_mutex_unlock(&queue->lock);
        if (!job) return;
        report_failure(queue, job->id, failure, error);
        free_job(job);
    }
}

// ------------------------------------------------------------------------------------------------------- the worker

static void set_ready(struct queue *queue, bool ready) {
    pthread_mutex_lock(&queue->lock);
    queue->ready = ready;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}

static void start_worker(struct queue *queue) {
    const char *arguments[16 + 2 * QUEUE_LORAS_MOST] = {
        queue->program,      "worker",    "--model",      queue->model_folder, "--spool",
        queue->spool_folder, "--threads", queue->threads, "--cache-megabytes", queue->cache};
    int count = 10;
    if (queue->isa) arguments[count++] = "--isa", arguments[count++] = queue->isa;
    if (queue->compute) arguments[count++] = "--compute", arguments[count++] = queue->compute;
    for (int i = 0; i < queue->lora_count; i++)
        arguments[count++] = "--lora", arguments[count++] = queue->loras[i];
    struct error error = {0};
    queue->in.length = queue->out.length = 0;
    if (!process_start(&queue->process, queue->program, arguments, &error)) {
        log_error(queue->log, "%s", error.message);
        queue->failed_starts++;
        queue->next_start = clock_seconds() + fmin(5, 0.1 * pow(2, queue->failed_starts));
        pthread_mutex_lock(&queue->lock);
        queue->open_error = error;
        pthread_cond_broadcast(&queue->changed);
        pthread_mutex_unlock(&queue->lock);
        return;
    }
    queue->state = WORKER_STARTING;
    queue->last_beat = clock_seconds();
    pthread_mutex_lock(&queue->lock);
    queue->workers_started++;
    pthread_mutex_unlock(&queue->lock);
    log_info(queue->log, "worker %d started", (int)queue->process.pid);
}

// Ends the worker for [reason] (NULL: it ended by itself), fails its job, and lets another one start.
static void end_worker(struct queue *queue, const char *reason, enum queue_failure failure) {
    char how[160];
    bool was_ready = queue->state == WORKER_READY;
    enum process_end end = process_end(&queue->process, reason ? 0 : 1, how, sizeof how);
    queue->state = WORKER_NONE;
    set_ready(queue, false);
    struct error error = {0};
    if (end == PROCESS_OUT_OF_MEMORY)
        error_set(&error, ERROR_MEMORY, "the worker %s; try a smaller size or fewer images", how);
    else if (reason)
        error_set(&error, ERROR_UNAVAILABLE, "the worker was stopped: %s", reason);
    else
        error_set(&error, ERROR_UNAVAILABLE, "the worker %s while it served the request", how);
    log_error(queue->log, "%s", error.message);
    pthread_mutex_lock(&queue->lock);
    bool cancelled = queue->running && queue->running->cancelled;
    pthread_mutex_unlock(&queue->lock);
    if (cancelled) {
        failure = QUEUE_FAILURE_JOB;
        error_clear(&error);
        error_set(&error, ERROR_CANCELLED, "the request was cancelled");
    }
    if (!redeliver(queue)) fail_running(queue, failure, &error);
    queue->failed_starts = was_ready ? 0 : queue->failed_starts + 1;
    queue->next_start = clock_seconds() + (was_ready ? 0 : fmin(5, 0.1 * pow(2, queue->failed_starts)));
    if (queue->failed_starts < 3) return;
    // No worker comes up: those who wait are told.
    pthread_mutex_lock(&queue->lock);
    if (!queue->open_error.kind)
        error_set(&queue->open_error, ERROR_UNAVAILABLE, "no worker comes up: %s", reason ? reason : how);
    error = queue->open_error;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
    fail_waiting(queue, true, QUEUE_FAILURE_MODEL, &error);
}

static bool send_message(struct queue *queue, const char *type, json_t *message, struct error *error) {
    return frame_add(&queue->out, type, message, error);
}

static void send_cancel(struct queue *queue, const char *id) {
    struct error error = {0};
    json_t *message = json_pack("{s:s, s:I}", "job", id, "attempt", (json_int_t)queue->attempt);
    if (!send_message(queue, "cancel", message, &error)) log_warning(queue->log, "%s", error.message);
    queue->cancel_sent = clock_seconds();
}

// Hands the oldest waiting job to a worker that has credit.
static void dispatch(struct queue *queue) {
    if (queue->state != WORKER_READY) return;
    pthread_mutex_lock(&queue->lock);
    struct job *job = queue->running ? NULL : queue->waiting;
    if (job) {
        queue->waiting = job->next;
        job->next = NULL;
        queue->waiting_count--;
        queue->running = job;
        job->acknowledged = false;
        job->deliveries++;
    }
    pthread_mutex_unlock(&queue->lock);
    if (!job) return;
    queue->attempt++;
    queue->next_image = 0;
    queue->headway = -1;
    queue->cancel_sent = 0;
    queue->job_started = queue->last_headway = clock_seconds();
    struct error error = {0};
    if (set(job->message, "attempt", json_integer((json_int_t)queue->attempt)) &&
        send_message(queue, "job", json_incref(job->message), &error))
        return;
    error_set(&error, ERROR_MEMORY, "no memory for the job");
    fail_running(queue, QUEUE_FAILURE_JOB, &error);
}

// ---------------------------------------------------------------------------------------------- what the worker says

static bool read_int(struct json_place place, const char *key, int *value, struct error *error) {
    int64_t wide = 0;
    if (!json_get_integer(place, key, JSON_OPTIONAL, 0, INT32_MAX, &wide, error)) return false;
    *value = (int)wide;
    return true;
}

static bool handle_ready(struct queue *queue, struct json_place place, struct error *error) {
    const char *name = "";
    struct queue_model model = {0};
    double guidance = 0;
    if (queue->state != WORKER_STARTING) return error_set(error, ERROR_INPUT, "\"ready\" twice");
    if (!json_get_string(place, "name", JSON_REQUIRED, &name, error) ||
        !read_int(place, "default_width", &model.default_width, error) ||
        !read_int(place, "default_height", &model.default_height, error) ||
        !read_int(place, "default_steps", &model.default_steps, error) ||
        !read_int(place, "side_multiple", &model.side_multiple, error) ||
        !json_get_number(place, "default_guidance", JSON_OPTIONAL, -1, 1e6, &guidance, error) ||
        !json_get_bool(place, "has_guidance", JSON_OPTIONAL, &model.has_guidance, error) ||
        !json_get_bool(place, "trained", JSON_OPTIONAL, &model.trained, error))
        return false;
    snprintf(model.name, sizeof model.name, "%s", name);
    model.default_guidance = (float)guidance;
    if (model.side_multiple < 1) model.side_multiple = 16;
    queue->state = WORKER_READY;
    queue->failed_starts = 0;
    pthread_mutex_lock(&queue->lock);
    queue->model = model;
    queue->ready = true;
    error_clear(&queue->open_error);
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
    log_info(queue->log, "worker %d is ready: %s", (int)queue->process.pid, model.name);
    return true;
}

static bool read_error(struct json_place place, struct error *to, struct error *error) {
    const char *kind = "", *field = "", *message = "";
    if (!json_get_string(place, "kind", JSON_REQUIRED, &kind, error) ||
        !json_get_string(place, "field", JSON_OPTIONAL, &field, error) ||
        !json_get_string(place, "message", JSON_REQUIRED, &message, error))
        return false;
    enum error_kind found = ERROR_INTERNAL;
    for (int i = ERROR_INPUT; i <= ERROR_INTERNAL; i++)
        if (!strcmp(error_kind_name((enum error_kind)i), kind)) found = (enum error_kind)i;
    error_set_field(to, found, field, "%s", message);
    return true;
}

// The model cannot be opened: the worker says so and ends.
static bool handle_fatal(struct queue *queue, struct json_place place, struct error *error) {
    struct error cause = {0};
    if (!read_error(place, &cause, error)) return false;
    pthread_mutex_lock(&queue->lock);
    queue->open_error = cause;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
    fail_waiting(queue, true, QUEUE_FAILURE_MODEL, &cause);
    return true;
}

// Whether a message is about the job in flight, in its present attempt.
static bool is_current(struct queue *queue, struct json_place place, bool *current, struct error *error) {
    const char *id = NULL;
    int64_t attempt = 0;
    if (!json_get_string(place, "job", JSON_REQUIRED, &id, error) ||
        !json_get_integer(place, "attempt", JSON_REQUIRED, 1, INT64_MAX, &attempt, error))
        return false;
    // Only this thread takes jobs out of `running`.
    *current = queue->running && !strcmp(queue->running->id, id) && attempt == queue->attempt;
    if (!*current) log_warning(queue->log, "refused what a stale attempt says (job %.64s)", id);
    return true;
}

static bool read_event(struct queue *queue, struct json_place place, struct queue_event *event,
                       struct error *error) {
    int64_t seed = 0;
    event->job = queue->running->id;
    event->stage = "";
    event->file = NULL;
    return json_get_string(place, "stage", JSON_OPTIONAL, &event->stage, error) &&
           json_get_string(place, "file", JSON_OPTIONAL, &event->file, error) &&
           json_get_number(place, "seconds", JSON_OPTIONAL, 0, 1e12, &event->seconds, error) &&
           json_get_integer(place, "seed", JSON_OPTIONAL, 0, INT64_MAX, &seed, error) &&
           json_get_bool(place, "transparent", JSON_OPTIONAL, &event->transparent, error) &&
           read_int(place, "image", &event->image, error) &&
           read_int(place, "images", &event->images, error) && read_int(place, "step", &event->step, error) &&
           read_int(place, "steps", &event->steps, error) && read_int(place, "block", &event->block, error) &&
           read_int(place, "blocks", &event->blocks, error) &&
           read_int(place, "width", &event->width, error) &&
           read_int(place, "height", &event->height, error) &&
           read_int(place, "text_tokens", &event->text_tokens, error) &&
           read_int(place, "reference_tokens", &event->reference_tokens, error) &&
           read_int(place, "output_tokens", &event->output_tokens, error) &&
           (event->seed = (uint64_t)seed, true);
}

static bool check_picture(struct queue *queue, const struct queue_event *event, struct error *error) {
    size_t length = strlen(queue->running->id);
    if (!event->file || !name_is_file(event->file) || strncmp(event->file, queue->running->id, length))
        return error_set(error, ERROR_INPUT, "a picture whose name does not begin with its job's id");
    if (event->width < 1 || event->height < 1)
        return error_set(error, ERROR_INPUT, "a picture without a size");
    if (event->kind == QUEUE_IMAGE &&
        (event->image != queue->next_image || event->image >= queue->running->count))
        return error_set(error, ERROR_INPUT, "picture %d, expected %d of %d", event->image, queue->next_image,
                         queue->running->count);
    return true;
}

static bool handle_job_event(struct queue *queue, enum queue_event_kind kind, struct json_place place,
                             struct error *error) {
    bool current;
    if (!is_current(queue, place, &current, error)) return false;
    if (!current) return true;
    if (kind == QUEUE_STARTED) {
        pthread_mutex_lock(&queue->lock);
        queue->running->acknowledged = true;
        pthread_mutex_unlock(&queue->lock);
    }
    struct queue_event event = {.kind = kind};
    if (!read_event(queue, place, &event, error)) return false;
    if (kind == QUEUE_FAILED) {
        struct error cause = {0};
        if (!read_error(place, &cause, error)) return false;
        fail_running(queue, QUEUE_FAILURE_JOB, &cause);
        return true;
    }
    if ((kind == QUEUE_IMAGE || kind == QUEUE_PREVIEW) && !check_picture(queue, &event, error)) return false;
    if (kind == QUEUE_IMAGE) queue->next_image++;
    if (kind == QUEUE_DONE && queue->next_image != queue->running->count)
        return error_set(error, ERROR_INPUT, "done after %d of %d pictures", queue->next_image,
                         queue->running->count);
    struct job *done = NULL;
    if (kind == QUEUE_DONE) {
        double seconds = clock_seconds() - queue->job_started;
        pthread_mutex_lock(&queue->lock);
        queue->job_seconds = queue->job_seconds > 0 ? 0.7 * queue->job_seconds + 0.3 * seconds : seconds;
        done = queue->running;
        queue->running = NULL;
        pthread_mutex_unlock(&queue->lock);
    }
    queue->listener(queue->context, &event);
    free_job(done);
    return true;
}

static bool handle_heartbeat(struct queue *queue, struct json_place place, struct error *error) {
    int64_t headway = 0;
    if (!json_get_integer(place, "headway", JSON_OPTIONAL, 0, INT64_MAX, &headway, error)) return false;
    if (headway != queue->headway) {
        queue->headway = headway;
        queue->last_headway = clock_seconds();
    }
    return true;
}

static bool handle_message(struct queue *queue, const char *type, const json_t *message,
                           struct error *error) {
    struct json_place place = {message, type};
    if (!strcmp(type, "heartbeat")) return handle_heartbeat(queue, place, error);
    if (!strcmp(type, "ready")) return handle_ready(queue, place, error);
    if (!strcmp(type, "fatal")) return handle_fatal(queue, place, error);
    if (!strcmp(type, "started")) return handle_job_event(queue, QUEUE_STARTED, place, error);
    if (!strcmp(type, "progress")) return handle_job_event(queue, QUEUE_PROGRESS, place, error);
    if (!strcmp(type, "preview")) return handle_job_event(queue, QUEUE_PREVIEW, place, error);
    if (!strcmp(type, "image")) return handle_job_event(queue, QUEUE_IMAGE, place, error);
    if (!strcmp(type, "done")) return handle_job_event(queue, QUEUE_DONE, place, error);
    if (!strcmp(type, "failed")) return handle_job_event(queue, QUEUE_FAILED, place, error);
    return error_set(error, ERROR_INPUT, "a message of unknown type \"%.40s\"", type);
}

// --------------------------------------------------------------------------------------------------------- the loop

// Reads what is there and handles whole messages. The worker is ended when it has closed or talks nonsense.
static void read_worker(struct queue *queue) {
    char bytes[16384];
    for (;;) {
        ssize_t got = recv(queue->process.socket, bytes, sizeof bytes, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            end_worker(queue, NULL, QUEUE_FAILURE_WORKER_DIED);
            return;
        }
        queue->last_beat = clock_seconds();
        struct error error = {0};
        enum frame_state state = FRAME_BAD;
        if (!buffer_add(&queue->in, bytes, (size_t)got)) {
            error_set(&error, ERROR_MEMORY, "no memory for its message");
        } else {
            json_t *message;
            const char *type;
            while ((state = frame_take(&queue->in, &message, &type, &error)) == FRAME_READY) {
                bool good = handle_message(queue, type, message, &error);
                json_decref(message);
                if (!good) state = FRAME_BAD;
                if (!good) break;
            }
        }
        if (state == FRAME_BAD) {
            char reason[640];
            snprintf(reason, sizeof reason, "it broke the protocol: %s", error.message);
            end_worker(queue, reason, QUEUE_FAILURE_WORKER_DIED);
            return;
        }
    }
}

static void write_worker(struct queue *queue) {
    while (queue->out.length > 0) {
        ssize_t sent = send(queue->process.socket, queue->out.data, queue->out.length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return; // full: later; closed: reading tells
        memmove(queue->out.data, queue->out.data + sent, queue->out.length - (size_t)sent);
        queue->out.length -= (size_t)sent;
    }
}

// Deadlines: the lease, headway, a cancel that is not followed. Returns seconds until the next one.
static double check_deadlines(struct queue *queue) {
    double now = clock_seconds(), wait = 3600;
    if (queue->state == WORKER_NONE) return fmax(0, queue->next_start - now);
    double lease = queue->last_beat + queue->lease_seconds - now;
    if (lease <= 0) {
        end_worker(queue, "it hung (no sign of life within its lease)", QUEUE_FAILURE_TIME);
        return 0;
    }
    wait = fmin(wait, lease);
    if (!queue->running) return wait;
    double stall = queue->last_headway + queue->stall_seconds - now;
    if (stall <= 0) {
        end_worker(queue, "the request made no headway within the time limit", QUEUE_FAILURE_TIME);
        return 0;
    }
    wait = fmin(wait, stall);
    if (queue->cancel_sent > 0) {
        double cancel = queue->cancel_sent + queue->cancel_seconds - now;
        if (cancel <= 0) {
            end_worker(queue, "it did not stop when told to", QUEUE_FAILURE_JOB);
            return 0;
        }
        wait = fmin(wait, cancel);
    }
    return wait;
}

static void cancel_jobs(struct queue *queue) {
    struct error cancelled = {0};
    error_set(&cancelled, ERROR_CANCELLED, "the request was cancelled");
    fail_waiting(queue, false, QUEUE_FAILURE_JOB, &cancelled);
    pthread_mutex_lock(&queue->lock);
    bool send_one = queue->running && queue->running->cancelled && queue->cancel_sent <= 0;
    pthread_mutex_unlock(&queue->lock);
    if (send_one) send_cancel(queue, queue->running->id);
}

static void stop(struct queue *queue) {
    struct error error = {0};
    error_set(&error, ERROR_CANCELLED, "the server is being stopped");
    bool busy = queue->running != NULL;
    if (queue->process.pid > 0) {
        char how[160];
        shutdown(queue->process.socket, SHUT_RDWR); // the worker ends by itself when the other end is gone
        process_end(&queue->process, busy ? 0.2 : 1, how, sizeof how);
    }
    fail_running(queue, QUEUE_FAILURE_STOPPED, &error);
    fail_waiting(queue, true, QUEUE_FAILURE_STOPPED, &error);
}

static void *run(void *context) {
    struct queue *queue = context;
    for (;;) {
        pthread_mutex_lock(&queue->lock);
        bool stopping = queue->stopping;
        pthread_mutex_unlock(&queue->lock);
        if (stopping) break;
        cancel_jobs(queue);
        if (queue->state == WORKER_NONE && clock_seconds() >= queue->next_start) start_worker(queue);
        dispatch(queue);
        if (queue->state != WORKER_NONE) write_worker(queue);
        double wait = check_deadlines(queue);
        bool up = queue->state != WORKER_NONE;
        struct pollfd fds[2] = {
            {queue->wake, POLLIN, 0},
            {up ? queue->process.socket : -1, (short)(POLLIN | (queue->out.length ? POLLOUT : 0)), 0}};
        int count = poll(fds, 2, (int)fmin(wait * 1000 + 1, 3600e3));
        if (count <= 0) continue;
        uint64_t value;
        if (fds[0].revents) {
            ssize_t got = read(queue->wake, &value, sizeof value);
            (void)got;
        }
        if (up && fds[1].revents) read_worker(queue);
    }
    stop(queue);
    return NULL;
}

// ------------------------------------------------------------------------------------------------- opening, closing

static void free_queue(struct queue *queue) {
    free(queue->program);
    free(queue->model_folder);
    free(queue->spool_folder);
    free(queue->isa);
    free(queue->compute);
    for (int i = 0; i < queue->lora_count; i++) free(queue->loras[i]);
    buffer_free(&queue->in);
    buffer_free(&queue->out);
    if (queue->wake >= 0) close(queue->wake);
    free(queue);
}

static double or_default(double value, double standard) {
    return value > 0 ? value : standard;
}

struct queue *queue_open(const struct queue_options *options, queue_listener *listener, void *context,
                         struct error *error) {
    struct queue *queue = calloc(1, sizeof *queue);
    if (!queue) {
        error_set(error, ERROR_MEMORY, "no memory for the queue");
        return NULL;
    }
    queue->program = strdup(options->program);
    queue->model_folder = strdup(options->model_folder);
    queue->spool_folder = strdup(options->spool_folder);
    queue->isa = options->isa ? strdup(options->isa) : NULL;
    queue->compute = options->compute ? strdup(options->compute) : NULL;
    snprintf(queue->threads, sizeof queue->threads, "%d", options->threads);
    int cache = options->cache_megabytes;
    snprintf(queue->cache, sizeof queue->cache, "%d", cache < 0 ? 0 : cache > 0 ? cache : CACHE_MEGABYTES);
    queue->depth = options->depth;
    queue->lease_seconds = or_default(options->lease_seconds, 15);
    queue->stall_seconds = or_default(options->stall_seconds, 900);
    queue->cancel_seconds = or_default(options->cancel_seconds, 30);
    queue->log = options->log;
    queue->listener = listener;
    queue->context = context;
    queue->process = PROCESS_NONE;
    queue->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bool good = queue->program && queue->model_folder && queue->spool_folder &&
                (!options->isa || queue->isa) && (!options->compute || queue->compute) && queue->wake >= 0;
    for (int i = 0; i < options->lora_count && good; i++)
        good = (queue->loras[queue->lora_count++] = strdup(options->loras[i])) != NULL;
    if (good) {
        pthread_condattr_t monotonic;
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&queue->changed, &monotonic);
        pthread_condattr_destroy(&monotonic);
        pthread_mutex_init(&queue->lock, NULL);
        // The process's signals are not for this thread.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        good = pthread_create(&queue->thread, NULL, run, queue) == 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (good) return queue;
    error_set(error, ERROR_MEMORY, "the queue cannot be set up: no memory, threads or descriptors left");
    free_queue(queue);
    return NULL;
}

void queue_close(struct queue *queue) {
    if (!queue) return;
    pthread_mutex_lock(&queue->lock);
    queue->stopping = true;
    pthread_cond_broadcast(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
    wake(queue);
    pthread_join(queue->thread, NULL);
    pthread_mutex_destroy(&queue->lock);
    pthread_cond_destroy(&queue->changed);
    free_queue(queue);
}

void queue_state(struct queue *queue, struct queue_state *state) {
    pthread_mutex_lock(&queue->lock);
    bool taken = queue->running && queue->running->acknowledged;
    *state = (struct queue_state){.ready = queue->ready,
                                  .waiting = queue->waiting_count + (queue->running && !taken),
                                  .running = taken,
                                  .workers_started = queue->workers_started,
                                  .job_seconds = queue->job_seconds};
    pthread_mutex_unlock(&queue->lock);
}

bool queue_wait_ready(struct queue *queue, double seconds, struct queue_model *model, struct error *error) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double whole = floor(seconds);
    until.tv_sec += (time_t)whole;
    until.tv_nsec += (long)((seconds - whole) * 1e9);
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&queue->lock);
    int bad = 0;
    while (!queue->ready && !queue->open_error.kind && !queue->stopping && bad == 0)
        bad = pthread_cond_timedwait(&queue->changed, &queue->lock, &until);
    bool good = queue->ready;
    if (good && model) *model = queue->model;
    if (!good && queue->open_error.kind)
        error_set_field(error, queue->open_error.kind, queue->open_error.field, "%s",
                        queue->open_error.message);
    else if (!good)
        error_set(error, ERROR_UNAVAILABLE, "no worker was ready within %.0f s", seconds);
    pthread_mutex_unlock(&queue->lock);
    return good;
}
