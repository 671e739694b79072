// See worker.h.
#include "queue/worker.h"
#include "base/clock.h"
#include "base/file.h"
#include "queue/frame.h"
#include "queue/names.h"
#include "queue/worker_job.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct worker {
    const struct worker_options *options;
    pthread_mutex_t send_lock; // whole frames only
    atomic_llong headway;      // grows whenever the engine gets on; the queue watches it

    pthread_mutex_t lock; // guards the next block
    pthread_cond_t changed;
    json_t *next; // a job that the engine's thread has not taken yet
    bool busy, opened, failed;
    char job[NAME_ID_MOST + 1];
    long long attempt;
    atomic_bool cancelled; // of the job in work
};

bool worker_send(struct worker *worker, const char *type, json_t *message) {
    struct buffer out = {0};
    struct error error = {0};
    bool good = frame_add(&out, type, message, &error);
    if (!good) log_error(worker->options->log, "%s", error.message);
    pthread_mutex_lock(&worker->send_lock);
    for (size_t at = 0; good && at < out.length;) {
        ssize_t sent = send(worker->options->socket, out.data + at, out.length - at, MSG_NOSIGNAL);
        if (sent > 0)
            at += (size_t)sent;
        else if (errno != EINTR)
            good = false; // the queue is gone; the main thread hears of it too
    }
    pthread_mutex_unlock(&worker->send_lock);
    buffer_free(&out);
    return good;
}

bool worker_cancelled(struct worker *worker) {
    atomic_fetch_add(&worker->headway, 1);
    return atomic_load(&worker->cancelled);
}

json_t *worker_message(struct worker *worker) {
    return json_pack("{s:s, s:I}", "job", worker->job, "attempt", (json_int_t)worker->attempt);
}

const struct worker_options *worker_options_of(const struct worker *worker) {
    return worker->options;
}

static enum error_kind kind_of(enum limn_status status) {
    switch (status) {
    case LIMN_BAD_INPUT:
        return ERROR_INPUT;
    case LIMN_NOT_FOUND:
        return ERROR_NOT_FOUND;
    case LIMN_IO:
        return ERROR_IO;
    case LIMN_NO_MEMORY:
        return ERROR_MEMORY;
    case LIMN_CANCELLED:
        return ERROR_CANCELLED;
    case LIMN_UNSUPPORTED:
        return ERROR_UNSUPPORTED;
    case LIMN_UNAVAILABLE:
        return ERROR_UNAVAILABLE;
    default:
        return ERROR_INTERNAL;
    }
}

void worker_error_from(struct error *to, const struct limn_error *from) {
    error_set_field(to, kind_of(from->status), from->field, "%s", from->message);
}

// Adds what [error] says to [message]. Bytes that are no UTF-8 (a file name) must not lose the message.
static json_t *with_error(json_t *message, const struct error *error) {
    char text[sizeof error->message];
    snprintf(text, sizeof text, "%s", error->message);
    json_t *value = json_string(text);
    if (!value) {
        for (char *c = text; *c; c++)
            if ((unsigned char)*c > 0x7e) *c = '?';
        value = json_string(text);
    }
    json_object_set_new(message, "kind", json_string(error_kind_name(error->kind)));
    json_object_set_new(message, "field", json_string(error->field));
    json_object_set_new(message, "message", value);
    return message;
}

static bool say_ready(struct worker *worker, const struct limn_model *model) {
    struct limn_model_info info;
    limn_model_info(model, &info);
    json_t *message =
        json_pack("{s:s, s:i, s:i, s:i, s:f, s:i, s:b, s:b}", "name", info.name ? info.name : "model",
                  "default_width", info.default_width, "default_height", info.default_height, "default_steps",
                  info.default_steps, "default_guidance", (double)info.default_guidance, "side_multiple",
                  info.side_multiple, "has_guidance", info.has_guidance, "trained", info.trained);
    return worker_send(worker, "ready", message);
}

static json_t *wait_for_job(struct worker *worker) {
    pthread_mutex_lock(&worker->lock);
    while (!worker->next) pthread_cond_wait(&worker->changed, &worker->lock);
    json_t *job = worker->next;
    worker->next = NULL;
    pthread_mutex_unlock(&worker->lock);
    return job;
}

static void on_warning(void *user, const char *message) {
    const struct worker *worker = user;
    log_warning(worker->options->log, "%s", message);
}

// The engine's thread.
static void *run_engine(void *context) {
    struct worker *worker = context;
    struct limn_error cause = {0};
    struct limn_options engine = worker->options->engine;
    engine.warning = on_warning;
    engine.warning_user = worker;
    struct limn_model *model = limn_open(worker->options->model_folder, &engine, &cause);
    if (!model) {
        struct error error = {0};
        worker_error_from(&error, &cause);
        worker_send(worker, "fatal", with_error(json_object(), &error));
        pthread_mutex_lock(&worker->lock);
        worker->failed = true;
        pthread_mutex_unlock(&worker->lock);
        shutdown(worker->options->socket, SHUT_RDWR); // the main thread ends the process
        return NULL;
    }
    say_ready(worker, model);
    for (;;) {
        json_t *job = wait_for_job(worker);
        struct error error = {0};
        json_t *last = worker_message(worker);
        bool good = worker_job(worker, model, job, last, &error);
        json_decref(job);
        // No credit is given back before this is said: the next job may come at once.
        pthread_mutex_lock(&worker->lock);
        worker->busy = false;
        pthread_mutex_unlock(&worker->lock);
        if (good)
            worker_send(worker, "done", last);
        else
            worker_send(worker, "failed", with_error(last, &error));
    }
}

static void beat(struct worker *worker) {
    worker_send(worker, "heartbeat",
                json_pack("{s:I}", "headway", (json_int_t)atomic_load(&worker->headway)));
}

static bool take_job(struct worker *worker, json_t *message, struct error *error) {
    const char *id = "";
    int64_t attempt = 0;
    struct json_place place = {message, "job"};
    if (!json_get_string(place, "job", JSON_REQUIRED, &id, error) ||
        !json_get_integer(place, "attempt", JSON_REQUIRED, 1, INT64_MAX, &attempt, error))
        return false;
    if (!name_is_id(id)) return error_set(error, ERROR_INPUT, "job: a bad id");
    pthread_mutex_lock(&worker->lock);
    bool free_now = !worker->busy;
    if (free_now) {
        snprintf(worker->job, sizeof worker->job, "%s", id);
        worker->attempt = attempt;
        worker->busy = true;
        atomic_store(&worker->cancelled, false);
        worker->next = json_incref(message);
        pthread_cond_signal(&worker->changed);
    }
    pthread_mutex_unlock(&worker->lock);
    if (free_now)
        worker_send(worker, "started", json_pack("{s:s, s:I}", "job", id, "attempt", (json_int_t)attempt));
    return free_now || error_set(error, ERROR_INPUT, "a job while another one is in work");
}

static bool take_cancel(struct worker *worker, const json_t *message, struct error *error) {
    const char *id = "";
    int64_t attempt = 0;
    struct json_place place = {message, "cancel"};
    if (!json_get_string(place, "job", JSON_REQUIRED, &id, error) ||
        !json_get_integer(place, "attempt", JSON_REQUIRED, 1, INT64_MAX, &attempt, error))
        return false;
    pthread_mutex_lock(&worker->lock);
    if (worker->busy && attempt == worker->attempt && !strcmp(id, worker->job))
        atomic_store(&worker->cancelled, true);
    pthread_mutex_unlock(&worker->lock);
    return true;
}

// Returns false when the worker should end; *status is then its exit status.
static bool read_messages(struct worker *worker, struct buffer *in, int *status) {
    char bytes[16384];
    ssize_t got = recv(worker->options->socket, bytes, sizeof bytes, 0);
    if (got < 0 && errno == EINTR) return true;
    *status = worker->failed ? 1 : 0;
    if (got <= 0) return false;
    struct error error = {0};
    json_t *message;
    const char *type;
    enum frame_state state = FRAME_BAD;
    if (!buffer_add(in, bytes, (size_t)got))
        error_set(&error, ERROR_MEMORY, "no memory for a message");
    else
        while ((state = frame_take(in, &message, &type, &error)) == FRAME_READY) {
            bool good = true, stop = !strcmp(type, "stop");
            if (!strcmp(type, "job"))
                good = take_job(worker, message, &error);
            else if (!strcmp(type, "cancel"))
                good = take_cancel(worker, message, &error);
            else if (!stop)
                good = error_set(&error, ERROR_INPUT, "a message of unknown type \"%.40s\"", type);
            json_decref(message);
            if (stop) return false;
            if (!good) {
                state = FRAME_BAD;
                break;
            }
        }
    if (state != FRAME_BAD) return true;
    log_error(worker->options->log, "the queue broke the protocol: %s", error.message);
    *status = 3;
    return false;
}

// The kernel should rather kill the worker than the server when memory runs out, and always when the server is gone.
static void tell_kernel(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    FILE *file = fopen("/proc/self/oom_score_adj", "we");
    if (!file) return;
    fputs("700", file);
    fclose(file);
}

int worker_run(const struct worker_options *options) {
    tell_kernel();
    // On the heap and never freed: the engine's thread uses it to the last.
    struct worker *worker = calloc(1, sizeof *worker);
    pthread_t engine;
    if (!worker) return 1;
    worker->options = options;
    pthread_mutex_init(&worker->send_lock, NULL);
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->changed, NULL);
    beat(worker);
    if (pthread_create(&engine, NULL, run_engine, worker)) return 1;
    pthread_detach(engine);
    struct buffer in = {0};
    int status = 0;
    double next_beat = clock_seconds() + 1;
    for (;;) {
        double left = next_beat - clock_seconds();
        struct pollfd fd = {options->socket, POLLIN, 0};
        int count = left > 0 ? poll(&fd, 1, (int)(left * 1000) + 1) : poll(&fd, 1, 0);
        if (count > 0 && !read_messages(worker, &in, &status)) break;
        if (clock_seconds() < next_beat) continue;
        beat(worker);
        next_beat = clock_seconds() + 1;
    }
    buffer_free(&in);
    // Whatever the engine is doing is of use to nobody now; the spool folder is the server's to clean.
    _exit(status);
}
