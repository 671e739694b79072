// See scheduler.h. One mutex guards everything; the listener is never called with it held. Jobs that run are reported from the
// thread of their queue, those that end without having run from the scheduler's thread, which also keeps the deadlines and
// opens and closes queues. Lock order: the scheduler's, then a queue's. Relies on line.h, queue.h.
#include "queue/scheduler.h"
#include "base/clock.h"
#include "queue/line.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Jobs that a model's worker takes before one in front of them for a model that is not up.
#define PASSED_OVER_MOST 8
#define RUNS_MOST        2
#define STOPPED          "the server is being stopped"

struct slot { // a model
    struct scheduler *scheduler;
    char *name, *folder;
    struct queue *queue;      // NULL: not resident
    struct line_job *running; // given to the queue
    bool wanted;              // somebody waits for it though it has no job
    bool known;
    bool yields; // its worker is to make room for another model
    bool broken; // its worker cannot open the model: the queue is to be closed
    int users;   // threads that use the queue without the lock
    int streak;  // line.h
    int passed_over;
    double last_used, job_seconds;
    int workers_started; // of queues closed since
    struct queue_model model;
};

struct scheduler {
    struct queue_options queue;
    char *program, *spool, *isa, *compute, *loras[QUEUE_LORAS_MOST]; // behind queue's pointers
    int resident_most, depth, principal_depth;
    double time_limit;
    const struct log *log;
    queue_listener *listener;
    void *context;
    pthread_t thread;
    pthread_mutex_t lock;   // guards what follows, and the slots
    pthread_cond_t wake;    // something changed for the thread
    pthread_cond_t changed; // something changed for those who wait
    struct line line;
    struct line_job *doomed; // are to end without having run, see their failure and why
    struct slot slots[SCHEDULER_MODELS_MOST];
    int slot_count, resident, running, reruns;
    int open_jobs; // taken, and their end not reported yet
    bool no_rerun, draining, stopping;
    double due; // when the thread wakes by itself; 0: not
};

// ------------------------------------------------------------------------------------------------------- choosing

static bool at_limit(const struct scheduler *scheduler) {
    return scheduler->resident >= scheduler->resident_most;
}

// The job that an idle slot takes now. NULL: none, or the slot is to make room.
static struct line_job *choose_for(struct scheduler *scheduler, struct slot *slot) {
    bool own[SCHEDULER_MODELS_MOST] = {0}, any[SCHEDULER_MODELS_MOST] = {0};
    own[slot - scheduler->slots] = true;
    struct line_job *job = line_choose(&scheduler->line, own, slot->streak);
    if (!job || !at_limit(scheduler)) return job;
    for (int i = 0; i < scheduler->slot_count; i++) any[i] = own[i] || !scheduler->slots[i].queue;
    if (line_choose(&scheduler->line, any, slot->streak) == job) {
        slot->passed_over = 0;
        return job;
    }
    if (slot->passed_over < PASSED_OVER_MOST) {
        slot->passed_over++;
        return job;
    }
    slot->yields = true;
    pthread_cond_signal(&scheduler->wake);
    return NULL;
}

// [job], which is not in the line any more, ends as soon as the thread gets to it.
static void doom(struct scheduler *scheduler, struct line_job *job, enum queue_failure failure,
                 const struct error *why) {
    job->failure = failure;
    job->why = *why;
    job->next = scheduler->doomed;
    scheduler->doomed = job;
    pthread_cond_signal(&scheduler->wake);
}

// All that wait for a model that cannot be opened.
static void doom_jobs_of(struct scheduler *scheduler, const struct slot *slot, const struct error *why) {
    for (struct line_job *job = scheduler->line.first, *next; job; job = next) {
        next = job->next;
        if (job->model != slot - scheduler->slots) continue;
        line_remove(&scheduler->line, job);
        doom(scheduler, job, QUEUE_FAILURE_MODEL, why);
    }
}

// Gives [job] to the slot's queue. The lock is held: queue_submit calls nobody back.
static void give(struct scheduler *scheduler, struct slot *slot, struct line_job *job) {
    bool own[SCHEDULER_MODELS_MOST] = {0};
    own[slot - scheduler->slots] = true;
    line_take(&scheduler->line, job, own, &slot->streak);
    job->began = slot->last_used = clock_seconds();
    job->runs++;
    struct error error = {0};
    if (queue_submit(slot->queue, &job->job, &error)) {
        slot->running = job;
        scheduler->running++;
    } else {
        doom(scheduler, job, QUEUE_FAILURE_JOB, &error);
    }
}

// Every idle worker gets a job where there is one for it.
static void feed(struct scheduler *scheduler) {
    if (scheduler->stopping) return;
    for (int i = 0; i < scheduler->slot_count && scheduler->line.count > 0; i++) {
        struct slot *slot = &scheduler->slots[i];
        if (!slot->queue || slot->running || slot->yields || slot->broken) continue;
        struct line_job *job = choose_for(scheduler, slot);
        if (job) give(scheduler, slot, job);
    }
}

// --------------------------------------------------------------------------------------------------- what happens

// The end of a job, after the listener has heard of it.
static void settle(struct scheduler *scheduler, struct line_job *job) {
    pthread_mutex_lock(&scheduler->lock);
    line_leave(&scheduler->line, job);
    scheduler->open_jobs--;
    pthread_cond_broadcast(&scheduler->changed);
    pthread_mutex_unlock(&scheduler->lock);
    line_job_free(job);
}

static void fail(struct scheduler *scheduler, struct line_job *job, enum queue_failure failure,
                 const struct error *error) {
    struct queue_event event = {.kind = QUEUE_FAILED, .job = job->id, .failure = failure, .error = *error};
    scheduler->listener(scheduler->context, &event);
    settle(scheduler, job);
}

// The lock is held.
static bool may_run_again(const struct scheduler *scheduler, const struct line_job *job,
                          const struct queue_event *event) {
    return (event->failure == QUEUE_FAILURE_WORKER_DIED || event->failure == QUEUE_FAILURE_TIME) &&
           event->error.kind != ERROR_MEMORY && !job->delivered && !job->cancelled && !job->timed_out &&
           job->runs < RUNS_MOST && !scheduler->no_rerun && !scheduler->draining && !scheduler->stopping;
}

static void run_again(struct slot *slot, struct line_job *job, const struct queue_event *event) {
    struct scheduler *scheduler = slot->scheduler;
    struct queue_event rerun = *event;
    rerun.kind = QUEUE_RERUN;
    log_warning(scheduler->log, "%s is run again: %s", job->id, event->error.message);
    // Heard before the job is free to run: what comes of the new run comes after.
    scheduler->listener(scheduler->context, &rerun);
    pthread_mutex_lock(&scheduler->lock);
    slot->running = NULL;
    scheduler->running--;
    if (scheduler->stopping) { // the thread may have ended: nobody would look at the line again
        pthread_mutex_unlock(&scheduler->lock);
        struct error error = {0};
        error_set(&error, ERROR_CANCELLED, STOPPED);
        fail(scheduler, job, QUEUE_FAILURE_STOPPED, &error);
        return;
    }
    scheduler->reruns++;
    line_return(&scheduler->line, job);
    feed(scheduler);
    pthread_cond_signal(&scheduler->wake); // it may have been cancelled meanwhile
    pthread_mutex_unlock(&scheduler->lock);
}

// Whether a model that is not up is waited for.
static bool model_is_wanted(const struct scheduler *scheduler) {
    bool wanted = false;
    for (int i = 0; i < scheduler->slot_count; i++) {
        const struct slot *slot = &scheduler->slots[i];
        wanted = wanted || slot->wanted || (!slot->queue && scheduler->line.of_model[i] > 0);
    }
    return wanted;
}

// A job that ran has ended. The lock is held and given back.
static void on_end(struct slot *slot, struct line_job *job, const struct queue_event *event) {
    struct scheduler *scheduler = slot->scheduler;
    struct queue_event last = *event;
    slot->running = NULL;
    scheduler->running--;
    slot->last_used = clock_seconds();
    if (event->kind == QUEUE_DONE) {
        double seconds = slot->last_used - job->began;
        slot->job_seconds = slot->job_seconds > 0 ? 0.7 * slot->job_seconds + 0.3 * seconds : seconds;
    } else if (job->timed_out && event->error.kind == ERROR_CANCELLED &&
               event->failure != QUEUE_FAILURE_STOPPED) {
        last.failure = QUEUE_FAILURE_TIME;
        error_clear(&last.error);
        error_set(&last.error, ERROR_UNAVAILABLE,
                  "the request was stopped: its time limit of %.0f s has passed",
                  job->deadline - job->submitted);
    }
    if (event->kind == QUEUE_FAILED && event->failure == QUEUE_FAILURE_MODEL) {
        slot->broken = true;
        doom_jobs_of(scheduler, slot, &event->error);
        pthread_cond_signal(&scheduler->wake);
    }
    feed(scheduler);
    if (model_is_wanted(scheduler)) pthread_cond_signal(&scheduler->wake); // room for another model, perhaps
    pthread_mutex_unlock(&scheduler->lock);
    scheduler->listener(scheduler->context, &last);
    settle(scheduler, job);
}

// On the thread of the slot's queue.
static void on_event(void *context, const struct queue_event *event) {
    struct slot *slot = context;
    struct scheduler *scheduler = slot->scheduler;
    pthread_mutex_lock(&scheduler->lock);
    struct line_job *job = slot->running;
    if (!job || strcmp(job->id, event->job)) {
        pthread_mutex_unlock(&scheduler->lock);
        return;
    }
    if (event->kind == QUEUE_DONE || (event->kind == QUEUE_FAILED && !may_run_again(scheduler, job, event))) {
        on_end(slot, job, event);
        return;
    }
    if (event->kind == QUEUE_STARTED) job->began = clock_seconds();
    if ((event->kind == QUEUE_PREVIEW || event->kind == QUEUE_IMAGE) && job->streams) job->delivered = true;
    pthread_mutex_unlock(&scheduler->lock);
    if (event->kind == QUEUE_FAILED)
        run_again(slot, job, event);
    else
        scheduler->listener(scheduler->context, event);
}

// ------------------------------------------------------------------------------------------------------- the thread

static void say_why(const struct scheduler *scheduler, const struct line_job *job,
                    enum queue_failure *failure, struct error *error) {
    *failure = QUEUE_FAILURE_JOB;
    if (job->cancelled) {
        error_set(error, ERROR_CANCELLED, "the request was cancelled");
    } else if (scheduler->draining) {
        *failure = QUEUE_FAILURE_STOPPED;
        error_set(error, ERROR_CANCELLED, STOPPED);
    } else {
        *failure = QUEUE_FAILURE_TIME;
        error_set(error, ERROR_UNAVAILABLE,
                  "the request waited for its turn until its time limit of %.0f s had passed",
                  job->deadline - job->submitted);
    }
}

// Ends one waiting job that is not to wait on. The lock is held, but not while the listener hears of it.
static bool end_one(struct scheduler *scheduler, double now) {
    struct error error = {0};
    enum queue_failure failure = QUEUE_FAILURE_JOB;
    struct line_job *job = scheduler->doomed;
    if (job) {
        scheduler->doomed = job->next;
        failure = job->failure;
        error = job->why;
    } else {
        for (job = scheduler->line.first; job; job = job->next)
            if (job->cancelled || scheduler->draining || (job->deadline > 0 && job->deadline <= now)) break;
        if (!job) return false;
        line_remove(&scheduler->line, job);
        say_why(scheduler, job, &failure, &error);
    }
    pthread_mutex_unlock(&scheduler->lock);
    fail(scheduler, job, failure, &error);
    pthread_mutex_lock(&scheduler->lock);
    return true;
}

// Stops what runs for too long. Returns when something is due next, 0: nothing.
static double keep_time(struct scheduler *scheduler, double now) {
    double next = 0;
    for (struct line_job *job = scheduler->line.first; job; job = job->next)
        if (job->deadline > 0 && (next <= 0 || job->deadline < next)) next = job->deadline;
    for (int i = 0; i < scheduler->slot_count; i++) {
        struct slot *slot = &scheduler->slots[i];
        struct line_job *job = slot->running;
        if (!job || job->deadline <= 0 || job->timed_out) continue;
        if (job->deadline <= now) {
            job->timed_out = true;
            queue_cancel(slot->queue, job->id);
        } else if (next <= 0 || job->deadline < next) {
            next = job->deadline;
        }
    }
    return next;
}

// The model that is to come up next: one that somebody waits for, or that of the job whose turn it is. NULL: none.
static struct slot *choose_start(struct scheduler *scheduler) {
    bool absent[SCHEDULER_MODELS_MOST] = {0};
    for (int i = 0; i < scheduler->slot_count; i++) {
        struct slot *slot = &scheduler->slots[i];
        if (slot->wanted && !slot->queue) return slot;
        absent[i] = !slot->queue;
    }
    struct line_job *job = line_choose(&scheduler->line, absent, 0);
    return job ? &scheduler->slots[job->model] : NULL;
}

// An idle model that can make room: one that was told to, else the one used least lately that has no jobs of its own.
static struct slot *choose_victim(struct scheduler *scheduler) {
    struct slot *best = NULL;
    for (int i = 0; i < scheduler->slot_count; i++) {
        struct slot *slot = &scheduler->slots[i];
        if (!slot->queue || slot->running || slot->users > 0 || slot->wanted) continue;
        if (slot->yields) return slot;
        bool own[SCHEDULER_MODELS_MOST] = {0};
        own[i] = true;
        if (line_choose(&scheduler->line, own, 0)) continue;
        if (!best || slot->last_used < best->last_used) best = slot;
    }
    return best;
}

// Closes an idle queue. The lock is held, but not while the worker ends.
static void close_slot(struct scheduler *scheduler, struct slot *slot) {
    struct queue *queue = slot->queue;
    struct queue_state state;
    queue_state(queue, &state);
    slot->workers_started += state.workers_started;
    slot->queue = NULL;
    slot->yields = slot->broken = false;
    slot->passed_over = 0;
    pthread_mutex_unlock(&scheduler->lock);
    queue_close(queue);
    pthread_mutex_lock(&scheduler->lock);
    scheduler->resident--; // not before: the two would be up at one time
}

static bool open_slot(struct scheduler *scheduler, struct slot *slot, struct error *error) {
    struct queue_options options = scheduler->queue;
    options.model_folder = slot->folder;
    options.depth = 1;
    if (slot != scheduler->slots) options.lora_count = 0;
    slot->queue = queue_open(&options, on_event, slot, error);
    if (!slot->queue) return false;
    slot->last_used = clock_seconds();
    scheduler->resident++;
    pthread_cond_broadcast(&scheduler->changed);
    return true;
}

// A worker that cannot open its model is not started again and again: the next job of the model tries it anew.
static bool close_broken(struct scheduler *scheduler) {
    for (int i = 0; i < scheduler->slot_count && !scheduler->stopping; i++) {
        struct slot *slot = &scheduler->slots[i];
        if (!slot->broken || !slot->queue || slot->running || slot->users > 0) continue;
        close_slot(scheduler, slot);
        return true;
    }
    return false;
}

// Brings up one model that is needed. False when there is nothing to do, or no room yet.
static bool change_residents(struct scheduler *scheduler) {
    if (scheduler->stopping || scheduler->draining) return false;
    struct slot *start = choose_start(scheduler), *victim = NULL;
    if (!start) {
        for (int i = 0; i < scheduler->slot_count; i++) scheduler->slots[i].yields = false;
        return false;
    }
    if (at_limit(scheduler)) {
        victim = choose_victim(scheduler);
        if (!victim) return false;
        log_info(scheduler->log, "%s makes room for %s", victim->name, start->name);
        close_slot(scheduler, victim);
        return true; // meanwhile others may have come: look anew
    }
    struct error error = {0};
    start->wanted = false;
    if (open_slot(scheduler, start, &error)) return true;
    log_error(scheduler->log, "%s: %s", start->name, error.message);
    doom_jobs_of(scheduler, start, &error);
    return true;
}

static struct timespec time_after(double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double whole = floor(seconds);
    until.tv_sec += (time_t)whole;
    until.tv_nsec += (long)((seconds - whole) * 1e9);
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    return until;
}

static void wait_until(struct scheduler *scheduler, double due, double now) {
    scheduler->due = due;
    if (due <= 0) {
        pthread_cond_wait(&scheduler->wake, &scheduler->lock);
        return;
    }
    struct timespec until = time_after(fmin(fmax(due - now, 0) + 0.001, 3600));
    pthread_cond_timedwait(&scheduler->wake, &scheduler->lock, &until);
}

static void *run(void *context) {
    struct scheduler *scheduler = context;
    pthread_mutex_lock(&scheduler->lock);
    for (;;) {
        double now = clock_seconds();
        if (end_one(scheduler, now) || close_broken(scheduler) || change_residents(scheduler)) continue;
        feed(scheduler);
        if (scheduler->doomed) continue;
        double due = keep_time(scheduler, now);
        if (scheduler->stopping) break;
        wait_until(scheduler, due, now);
    }
    pthread_mutex_unlock(&scheduler->lock);
    return NULL;
}

// -------------------------------------------------------------------------------------------------------- submitting

static struct slot *find_slot(struct scheduler *scheduler, const char *model) {
    if (!model) return &scheduler->slots[0];
    for (int i = 0; i < scheduler->slot_count; i++)
        if (!strcmp(scheduler->slots[i].name, model)) return &scheduler->slots[i];
    return NULL;
}

// Until a tenth of those who wait, one at least, have had their turn.
static double retry_after(const struct scheduler *scheduler) {
    double seconds = 0;
    int known = 0;
    for (int i = 0; i < scheduler->slot_count; i++) {
        if (scheduler->slots[i].job_seconds <= 0) continue;
        seconds += scheduler->slots[i].job_seconds;
        known++;
    }
    if (known) seconds /= known;
    int turns = scheduler->line.count / 10, workers = scheduler->resident;
    seconds *= (double)(turns > 1 ? turns : 1) / (workers > 1 ? workers : 1);
    return fmin(fmax(ceil(seconds), 1), 3600);
}

// Jobs for which a worker is free at once do not wait.
static int idle_workers(const struct scheduler *scheduler) {
    int idle = 0;
    for (int i = 0; i < scheduler->slot_count; i++)
        idle += scheduler->slots[i].queue && !scheduler->slots[i].running;
    return idle > 0 ? idle : scheduler->resident == 0;
}

// The lock is held.
static bool check_room(struct scheduler *scheduler, const char *principal, struct scheduler_refusal *refusal,
                       struct error *error) {
    int waiting = scheduler->line.count, room = scheduler->depth + idle_workers(scheduler);
    refusal->waiting = waiting;
    if (scheduler->draining) {
        refusal->reason = SCHEDULER_DRAINING;
        return error_set(error, ERROR_UNAVAILABLE, STOPPED);
    }
    if (waiting >= room) {
        refusal->reason = SCHEDULER_FULL;
        refusal->retry_after = retry_after(scheduler);
        return error_set(error, ERROR_UNAVAILABLE, "the queue is full: %d requests wait already", waiting);
    }
    int own = line_waiting_of(&scheduler->line, principal);
    if (scheduler->principal_depth > 0 && own >= scheduler->principal_depth) {
        refusal->reason = SCHEDULER_PRINCIPAL_FULL;
        refusal->retry_after = retry_after(scheduler);
        return error_set(error, ERROR_UNAVAILABLE,
                         "%d requests of this key wait already, expected at most %d", own,
                         scheduler->principal_depth);
    }
    return true;
}

bool scheduler_has_room(struct scheduler *scheduler, const char *principal, struct scheduler_refusal *refusal,
                        struct error *error) {
    struct scheduler_refusal none;
    if (!refusal) refusal = &none;
    *refusal = (struct scheduler_refusal){0};
    pthread_mutex_lock(&scheduler->lock);
    bool good = check_room(scheduler, principal, refusal, error);
    pthread_mutex_unlock(&scheduler->lock);
    return good;
}

bool scheduler_submit(struct scheduler *scheduler, const struct scheduler_job *from,
                      struct scheduler_refusal *refusal, struct error *error) {
    struct scheduler_refusal none;
    if (!refusal) refusal = &none;
    *refusal = (struct scheduler_refusal){.reason = SCHEDULER_BAD};
    struct slot *slot = find_slot(scheduler, from->model);
    if (!slot) {
        refusal->reason = SCHEDULER_UNKNOWN_MODEL;
        return error_set_field(error, ERROR_NOT_FOUND, "model", "there is no model \"%s\"", from->model);
    }
    struct line_job *job = line_job_make(from, (int)(slot - scheduler->slots), error);
    if (!job) return false;
    double limit = from->time_limit > 0 ? from->time_limit : scheduler->time_limit;
    if (limit > 0) job->deadline = job->submitted + limit;
    pthread_mutex_lock(&scheduler->lock);
    bool good = check_room(scheduler, from->principal, refusal, error) &&
                (line_enter(&scheduler->line, job, from->principal) ||
                 error_set(error, ERROR_MEMORY, "no memory for the job"));
    if (good) {
        refusal->reason = SCHEDULER_TAKEN;
        scheduler->open_jobs++;
        feed(scheduler);
        // The thread is needed where there is a deadline that comes first, or a model to be started.
        bool first = job->deadline > 0 && (scheduler->due <= 0 || job->deadline < scheduler->due);
        if (first || !slot->queue || scheduler->doomed) pthread_cond_signal(&scheduler->wake);
    }
    pthread_mutex_unlock(&scheduler->lock);
    if (!good) line_job_free(job);
    return good;
}

void scheduler_cancel(struct scheduler *scheduler, const char *id) {
    pthread_mutex_lock(&scheduler->lock);
    struct line_job *job = line_find(&scheduler->line, id);
    if (job) job->cancelled = true;
    for (int i = 0; i < scheduler->slot_count && !job; i++) {
        struct slot *slot = &scheduler->slots[i];
        if (!slot->running || strcmp(slot->running->id, id)) continue;
        slot->running->cancelled = true;
        queue_cancel(slot->queue, id);
    }
    if (job) pthread_cond_signal(&scheduler->wake);
    pthread_mutex_unlock(&scheduler->lock);
}

int scheduler_position(struct scheduler *scheduler, const char *id) {
    pthread_mutex_lock(&scheduler->lock);
    const struct line_job *job = line_find(&scheduler->line, id);
    int position = job ? line_position(&scheduler->line, job) : -1;
    pthread_mutex_unlock(&scheduler->lock);
    return position;
}

// ------------------------------------------------------------------------------------------------ draining, looking

void scheduler_drain(struct scheduler *scheduler) {
    pthread_mutex_lock(&scheduler->lock);
    scheduler->draining = true;
    pthread_cond_signal(&scheduler->wake);
    pthread_mutex_unlock(&scheduler->lock);
}

bool scheduler_wait_idle(struct scheduler *scheduler, double seconds) {
    struct timespec until = time_after(seconds);
    int bad = 0;
    pthread_mutex_lock(&scheduler->lock);
    while (scheduler->open_jobs > 0 && !bad)
        bad = pthread_cond_timedwait(&scheduler->changed, &scheduler->lock, &until);
    bool idle = scheduler->open_jobs == 0;
    pthread_mutex_unlock(&scheduler->lock);
    return idle;
}

static int workers_started(const struct slot *slot) {
    struct queue_state state = {0};
    if (slot->queue) queue_state(slot->queue, &state);
    return slot->workers_started + state.workers_started;
}

void scheduler_state(struct scheduler *scheduler, struct scheduler_state *state) {
    pthread_mutex_lock(&scheduler->lock);
    *state = (struct scheduler_state){.waiting = scheduler->line.count,
                                      .running = scheduler->running,
                                      .resident = scheduler->resident,
                                      .reruns = scheduler->reruns,
                                      .draining = scheduler->draining};
    for (int i = 0; i < scheduler->slot_count; i++)
        state->workers_started += workers_started(&scheduler->slots[i]);
    pthread_mutex_unlock(&scheduler->lock);
}

bool scheduler_model_state(struct scheduler *scheduler, const char *model,
                           struct scheduler_model_state *state) {
    *state = (struct scheduler_model_state){0};
    pthread_mutex_lock(&scheduler->lock);
    struct slot *slot = find_slot(scheduler, model);
    if (slot) {
        struct queue_state queue = {0};
        if (slot->queue) queue_state(slot->queue, &queue);
        if (queue.ready && queue_wait_ready(slot->queue, 0, &slot->model, NULL)) slot->known = true;
        for (const struct line_job *job = scheduler->line.first; job; job = job->next)
            state->waiting += job->model == slot - scheduler->slots;
        state->resident = slot->queue;
        state->ready = queue.ready;
        state->running = slot->running ? 1 : 0;
        state->workers_started = workers_started(slot);
        state->job_seconds = slot->job_seconds;
        state->known = slot->known;
        state->model = slot->model;
    }
    pthread_mutex_unlock(&scheduler->lock);
    return slot;
}

bool scheduler_wait_ready(struct scheduler *scheduler, const char *model, double seconds,
                          struct queue_model *info, struct error *error) {
    double deadline = clock_seconds() + seconds;
    struct timespec until = time_after(seconds);
    struct queue_model said;
    int bad = 0;
    pthread_mutex_lock(&scheduler->lock);
    struct slot *slot = find_slot(scheduler, model);
    while (slot && !slot->queue && !scheduler->draining && !bad) {
        slot->wanted = true;
        pthread_cond_signal(&scheduler->wake);
        bad = pthread_cond_timedwait(&scheduler->changed, &scheduler->lock, &until);
    }
    bool up = slot && slot->queue;
    if (up) slot->users++; // it stays
    pthread_mutex_unlock(&scheduler->lock);
    if (!slot) return error_set_field(error, ERROR_NOT_FOUND, "model", "there is no model \"%s\"", model);
    if (!up)
        return error_set(error, ERROR_UNAVAILABLE, "no worker for %s could be started within %.0f s",
                         slot->name, seconds);
    bool good = queue_wait_ready(slot->queue, fmax(0, deadline - clock_seconds()), &said, error);
    pthread_mutex_lock(&scheduler->lock);
    slot->users--;
    if (good) slot->known = true, slot->model = said;
    pthread_cond_signal(&scheduler->wake);
    pthread_mutex_unlock(&scheduler->lock);
    if (good && info) *info = said;
    return good;
}

// ------------------------------------------------------------------------------------------------- opening, closing

static void free_scheduler(struct scheduler *scheduler) {
    for (int i = 0; i < scheduler->slot_count; i++) {
        free(scheduler->slots[i].name);
        free(scheduler->slots[i].folder);
    }
    free(scheduler->program);
    free(scheduler->spool);
    free(scheduler->isa);
    free(scheduler->compute);
    for (int i = 0; i < QUEUE_LORAS_MOST; i++) free(scheduler->loras[i]);
    pthread_mutex_destroy(&scheduler->lock);
    pthread_cond_destroy(&scheduler->wake);
    pthread_cond_destroy(&scheduler->changed);
    free(scheduler);
}

static bool copy_text(char **to, const char *from) {
    *to = from ? strdup(from) : NULL;
    return !from || *to;
}

static bool copy_options(struct scheduler *scheduler, const struct scheduler_options *options) {
    const struct queue_options *queue = &options->queue;
    scheduler->queue = *queue;
    scheduler->resident_most = options->resident_most > 0 ? options->resident_most : 1;
    scheduler->depth = options->depth;
    scheduler->principal_depth = options->principal_depth;
    scheduler->time_limit = options->time_limit;
    scheduler->no_rerun = options->no_rerun;
    scheduler->log = queue->log;
    for (int i = 0; i < options->model_count; i++) {
        struct slot *slot = &scheduler->slots[scheduler->slot_count++];
        slot->scheduler = scheduler;
        slot->wanted = options->models[i].start;
        if (!copy_text(&slot->name, options->models[i].name) ||
            !copy_text(&slot->folder, options->models[i].folder))
            return false;
    }
    bool good = copy_text(&scheduler->program, queue->program) &&
                copy_text(&scheduler->spool, queue->spool_folder) && copy_text(&scheduler->isa, queue->isa) &&
                copy_text(&scheduler->compute, queue->compute);
    scheduler->queue.program = scheduler->program;
    scheduler->queue.spool_folder = scheduler->spool;
    scheduler->queue.isa = scheduler->isa;
    scheduler->queue.compute = scheduler->compute;
    for (int i = 0; i < queue->lora_count; i++) {
        good = good && copy_text(&scheduler->loras[i], queue->loras[i]);
        scheduler->queue.loras[i] = scheduler->loras[i];
    }
    return good;
}

static void start_conditions(struct scheduler *scheduler) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&scheduler->wake, &monotonic);
    pthread_cond_init(&scheduler->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&scheduler->lock, NULL);
}

struct scheduler *scheduler_open(const struct scheduler_options *options, queue_listener *listener,
                                 void *context, struct error *error) {
    if (options->model_count < 1 || options->model_count > SCHEDULER_MODELS_MOST) {
        error_set(error, ERROR_INPUT, "%d models, expected 1 to %d", options->model_count,
                  SCHEDULER_MODELS_MOST);
        return NULL;
    }
    struct scheduler *scheduler = calloc(1, sizeof *scheduler);
    if (!scheduler) {
        error_set(error, ERROR_MEMORY, "no memory for the scheduler");
        return NULL;
    }
    scheduler->listener = listener;
    scheduler->context = context;
    start_conditions(scheduler);
    bool good = copy_options(scheduler, options);
    if (good) {
        // The process's signals are not for this thread.
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        good = pthread_create(&scheduler->thread, NULL, run, scheduler) == 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (good) return scheduler;
    error_set(error, ERROR_MEMORY, "the scheduler cannot be set up: no memory or threads left");
    free_scheduler(scheduler);
    return NULL;
}

void scheduler_close(struct scheduler *scheduler) {
    if (!scheduler) return;
    pthread_mutex_lock(&scheduler->lock);
    scheduler->draining = scheduler->stopping = true;
    pthread_cond_signal(&scheduler->wake);
    pthread_cond_broadcast(&scheduler->changed);
    pthread_mutex_unlock(&scheduler->lock);
    pthread_join(scheduler->thread, NULL);
    for (int i = 0; i < scheduler->slot_count; i++) queue_close(scheduler->slots[i].queue);
    for (struct line_principal *at = scheduler->line.principals, *next; at; at = next) {
        next = at->next;
        free(at);
    }
    free_scheduler(scheduler);
}
