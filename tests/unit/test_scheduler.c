// The scheduler: turns (line.h) as plain data, and the whole of it over stand-in workers (tests/standin).
#include "unit.h"

#include "base/clock.h"
#include "base/file.h"
#include "queue/line.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

// ------------------------------------------------------------------------------------------------------------- turns

static struct scheduler_job job_of(const char *id, const char *principal, const char *prompt) {
    return (struct scheduler_job){.job = {.id = id,
                                          .prompt = prompt,
                                          .count = 1,
                                          .guidance = -1,
                                          .output_format = "png",
                                          .output_quality = -1},
                                  .principal = principal};
}

static struct line_job *enter(struct line *line, const char *id, const char *principal, int priority,
                              double cost) {
    struct scheduler_job from = job_of(id, principal, "x");
    struct error error = {0};
    from.priority = priority;
    from.cost = cost;
    struct line_job *job = line_job_make(&from, 0, &error);
    assert_ok(job, error);
    assert_true(line_enter(line, job, principal));
    return job;
}

static const bool all[SCHEDULER_MODELS_MOST] = {true, true};

// Serves the next job and forgets it; its id in [id].
static void serve(struct line *line, int *streak, char id[NAME_ID_MOST + 1]) {
    struct line_job *job = line_choose(line, all, *streak);
    assert_non_null(job);
    snprintf(id, NAME_ID_MOST + 1, "%s", job->id);
    line_take(line, job, all, streak);
    line_leave(line, job);
    line_job_free(job);
}

static void expect_order(struct line *line, const char *wanted) {
    char order[2048] = "";
    int streak = 0;
    while (line->count > 0) {
        char id[NAME_ID_MOST + 1];
        serve(line, &streak, id);
        strcat(strcat(order, id + 7), " ");
    }
    assert_string_equal(order, wanted);
    assert_null(line->principals); // nobody is remembered when nobody waits
}

static void test_first_come(void **state) {
    struct line line = {0};
    for (int i = 0; i < 5; i++) {
        char id[16];
        snprintf(id, sizeof id, "job-id-%d", i);
        struct line_job *job = enter(&line, id, "a", 0, 1);
        assert_int_equal(line_position(&line, job), i);
    }
    assert_int_equal(line_waiting_of(&line, "a"), 5);
    assert_int_equal(line_waiting_of(&line, "b"), 0);
    assert_string_equal(line_find(&line, "job-id-3")->id, "job-id-3");
    expect_order(&line, "0 1 2 3 4 ");
}

// One that has sent many jobs does not hold up one that comes later with a few.
static void test_fair_between_principals(void **state) {
    struct line line = {0};
    for (int i = 0; i < 6; i++) {
        char id[16];
        snprintf(id, sizeof id, "job-id-a%d", i);
        enter(&line, id, "a", 0, 1);
    }
    enter(&line, "job-id-b0", "b", 0, 1);
    enter(&line, "job-id-b1", "b", 0, 1);
    enter(&line, "job-id-c0", "c", 0, 1);
    expect_order(&line, "a0 b0 c0 a1 b1 a2 a3 a4 a5 ");
}

// Turns are by what the jobs cost, not by their number.
static void test_fair_by_cost(void **state) {
    struct line line = {0};
    for (int i = 0; i < 2; i++) {
        char id[16];
        snprintf(id, sizeof id, "job-id-a%d", i);
        enter(&line, id, "a", 0, 4);
    }
    for (int i = 0; i < 6; i++) {
        char id[16];
        snprintf(id, sizeof id, "job-id-b%d", i);
        enter(&line, id, "b", 0, 1);
    }
    expect_order(&line, "a0 b0 b1 b2 b3 a1 b4 b5 ");
}

// One that was away gets no credit for it: it starts where the others stand.
static void test_no_credit(void **state) {
    struct line line = {0};
    char id[NAME_ID_MOST + 1];
    int streak = 0;
    for (int i = 0; i < 8; i++) {
        snprintf(id, sizeof id, "job-id-a%d", i);
        enter(&line, id, "a", 0, 1);
    }
    for (int i = 0; i < 5; i++) serve(&line, &streak, id);
    assert_string_equal(id, "job-id-a4");
    for (int i = 0; i < 3; i++) {
        snprintf(id, sizeof id, "job-id-b%d", i);
        enter(&line, id, "b", 0, 1);
    }
    expect_order(&line, "b0 a5 b1 a6 b2 a7 ");
}

static void test_priorities(void **state) {
    struct line line = {0};
    char id[16];
    enter(&line, "job-id-l0", "a", SCHEDULER_LOW, 1);
    enter(&line, "job-id-n0", "a", SCHEDULER_NORMAL, 1);
    for (int i = 0; i < 18; i++) {
        snprintf(id, sizeof id, "job-id-h%d", i);
        enter(&line, id, "b", SCHEDULER_HIGH, 1);
    }
    enter(&line, "job-id-n1", "c", SCHEDULER_NORMAL, 1);
    // The eighth turn goes to the next lower one, whoever of it has had least: nobody starves.
    expect_order(&line, "h0 h1 h2 h3 h4 h5 h6 n0 h7 h8 h9 h10 h11 h12 h13 n1 h14 h15 h16 h17 l0 ");
}

static void test_taken_back(void **state) {
    struct line line = {0};
    int streak = 0;
    struct line_job *first = enter(&line, "job-id-a0", "a", 0, 1);
    enter(&line, "job-id-a1", "a", 0, 1);
    struct line_job *other = enter(&line, "job-id-b0", "b", 0, 1);
    assert_ptr_equal(line_choose(&line, all, 0), first);
    line_take(&line, first, all, &streak);
    assert_ptr_equal(line_choose(&line, all, 0), other);
    line_return(&line, first); // as if it had not been served
    assert_ptr_equal(line_choose(&line, all, 0), first);
    line_remove(&line, other);
    line_leave(&line, other);
    line_job_free(other);
    expect_order(&line, "a0 a1 ");
}

static void test_copies(void **state) {
    struct scheduler_job from = job_of("job-id-0", "a", "prompt");
    struct error error = {0};
    float sigmas[2] = {1, 0.5f};
    from.job.sigmas = sigmas, from.job.sigma_count = 2;
    from.job.reference_files[0] = "ref-0", from.job.reference_count = 1;
    from.job.mask_file = "mask";
    struct line_job *job = line_job_make(&from, 0, &error);
    assert_ok(job, error);
    assert_ptr_not_equal(job->job.prompt, from.job.prompt);
    assert_string_equal(job->job.prompt, "prompt");
    assert_string_equal(job->job.reference_files[0], "ref-0");
    assert_string_equal(job->job.mask_file, "mask");
    assert_true(job->job.sigmas != sigmas && job->job.sigmas[1] > 0.49f && job->job.sigmas[1] < 0.51f);
    line_job_free(job);
    char name[200];
    memset(name, 'p', sizeof name), name[sizeof name - 1] = 0;
    from.principal = name;
    assert_null(line_job_make(&from, 0, &error));
    from.principal = "a", from.job.id = "NO";
    error_clear(&error);
    assert_null(line_job_make(&from, 0, &error));
    assert_contains(error.message, "job id");
}

// ---------------------------------------------------------------------------------------------------------- the whole

struct seen {
    char id[40];
    int started, images, previews, done, failed, reruns, voided;
    char last_file[NAME_FILE_MOST + 1];
    struct queue_event last;
};

struct bench {
    struct scheduler *scheduler;
    char spool[64];
    struct scheduler_options options;
    struct scheduler_model models[3];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct seen seen[64];
    int count, ended, started, reruns;
    bool holds_reruns; // the listener waits in a re-run until released
    bool released;
    char order[1024];
};

static struct seen *seen_of(struct bench *bench, const char *id) {
    for (int i = 0; i < bench->count; i++)
        if (!strcmp(bench->seen[i].id, id)) return &bench->seen[i];
    struct seen *seen = &bench->seen[bench->count++];
    *seen = (struct seen){0};
    snprintf(seen->id, sizeof seen->id, "%s", id);
    return seen;
}

static void remove_file(struct bench *bench, const char *name) {
    char *path = path_join(bench->spool, name);
    assert_non_null(path);
    assert_int_equal(unlink(path), 0);
    free(path);
}

static void listener(void *context, const struct queue_event *event) {
    struct bench *bench = context;
    pthread_mutex_lock(&bench->lock);
    struct seen *seen = seen_of(bench, event->job);
    if (event->file) {
        char *path = path_join(bench->spool, event->file);
        if (path) unlink(path); // it is the listener's
        free(path);
    }
    switch (event->kind) {
    case QUEUE_STARTED:
        seen->started++;
        bench->started++;
        break;
    case QUEUE_PREVIEW:
        seen->previews++;
        break;
    case QUEUE_IMAGE:
        seen->images++;
        break;
    case QUEUE_RERUN:
        seen->reruns++;
        seen->voided += seen->images;
        seen->images = 0;
        bench->reruns++;
        pthread_cond_broadcast(&bench->changed);
        while (bench->holds_reruns && !bench->released) pthread_cond_wait(&bench->changed, &bench->lock);
        break;
    case QUEUE_DONE:
    case QUEUE_FAILED:
        seen->done += event->kind == QUEUE_DONE;
        seen->failed += event->kind == QUEUE_FAILED;
        bench->ended++;
        snprintf(bench->order + strlen(bench->order), sizeof bench->order - strlen(bench->order), "%s ",
                 event->job + 4);
        break;
    case QUEUE_PROGRESS:
        break;
    }
    seen->last = *event;
    pthread_cond_broadcast(&bench->changed);
    pthread_mutex_unlock(&bench->lock);
}

static int set_up(void **state) {
    struct bench *bench = calloc(1, sizeof *bench);
    assert_non_null(bench);
    pthread_mutex_init(&bench->lock, NULL);
    pthread_cond_init(&bench->changed, NULL);
    snprintf(bench->spool, sizeof bench->spool, "/tmp/limn-test-scheduler-XXXXXX");
    assert_non_null(mkdtemp(bench->spool));
    bench->models[0] = (struct scheduler_model){"one", "models/one", true};
    bench->models[1] = (struct scheduler_model){"two", "models/two", false};
    bench->models[2] = (struct scheduler_model){"three", "models/three", false};
    bench->options = (struct scheduler_options){.queue = {.program = LIMN_STANDIN,
                                                          .spool_folder = bench->spool,
                                                          .lease_seconds = 4,
                                                          .stall_seconds = 30,
                                                          .cancel_seconds = 2},
                                                .models = bench->models,
                                                .model_count = 3,
                                                .resident_most = 1,
                                                .depth = 20};
    *state = bench;
    return 0;
}

static void start(struct bench *bench) {
    struct error error = {0};
    bench->scheduler = scheduler_open(&bench->options, listener, bench, &error);
    assert_ok(bench->scheduler, error);
}

static int tear_down(void **state) {
    struct bench *bench = *state;
    scheduler_close(bench->scheduler);
    if (rmdir(bench->spool)) fail_msg("%s: %s", bench->spool, strerror(errno)); // nothing is left behind
    pthread_mutex_destroy(&bench->lock);
    pthread_cond_destroy(&bench->changed);
    free(bench);
    return 0;
}

// Waits until *counter is at least [wanted]; fails after 30 s.
static void wait_for(struct bench *bench, const int *counter, int wanted) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    int bad = 0;
    pthread_mutex_lock(&bench->lock);
    while (*counter < wanted && !bad) bad = pthread_cond_timedwait(&bench->changed, &bench->lock, &until);
    int got = *counter;
    pthread_mutex_unlock(&bench->lock);
    if (got < wanted) fail_msg("%d of %d events after 30 s", got, wanted);
}

static void submit(struct bench *bench, const struct scheduler_job *job) {
    struct error error = {0};
    struct scheduler_refusal refusal;
    assert_ok(scheduler_submit(bench->scheduler, job, &refusal, &error), error);
    assert_int_equal(refusal.reason, SCHEDULER_TAKEN);
}

static void submit_simple(struct bench *bench, const char *id, const char *principal, const char *prompt) {
    struct scheduler_job job = job_of(id, principal, prompt);
    submit(bench, &job);
}

// Keeps the worker busy until it is cancelled, so that what comes after waits.
static void block(struct bench *bench) {
    int before = bench->started;
    submit_simple(bench, "job-block", "blocker", "@ms=100000");
    wait_for(bench, &bench->started, before + 1);
}

static void test_serves(void **state) {
    struct bench *bench = *state;
    start(bench);
    struct queue_model info;
    struct error error = {0};
    assert_ok(scheduler_wait_ready(bench->scheduler, NULL, 20, &info, &error), error);
    assert_string_equal(info.name, "one");
    for (int i = 0; i < 10; i++) {
        char id[20];
        snprintf(id, sizeof id, "job-000%d", i);
        struct scheduler_job job = job_of(id, "a", "a red circle");
        job.job.count = 1 + i % 3, job.job.seed = (uint64_t)i;
        submit(bench, &job);
    }
    wait_for(bench, &bench->ended, 10);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(bench->seen[i].done, 1);
        assert_int_equal(bench->seen[i].started, 1);
        assert_int_equal(bench->seen[i].images, 1 + i % 3);
    }
    struct scheduler_state now;
    struct scheduler_model_state model;
    assert_true(scheduler_wait_idle(bench->scheduler, 5));
    scheduler_state(bench->scheduler, &now);
    assert_int_equal(now.waiting + now.running, 0);
    assert_int_equal(now.workers_started, 1);
    assert_int_equal(now.resident, 1);
    assert_true(scheduler_model_state(bench->scheduler, "one", &model));
    assert_true(model.ready && model.known && model.job_seconds > 0);
    assert_true(scheduler_model_state(bench->scheduler, "two", &model));
    assert_false(model.resident || model.known);
    assert_false(scheduler_model_state(bench->scheduler, "four", &model));
}

static void test_refusals(void **state) {
    struct bench *bench = *state;
    bench->options.depth = 3;
    bench->options.principal_depth = 2;
    start(bench);
    block(bench);
    submit_simple(bench, "job-a-00", "a", "x");
    submit_simple(bench, "job-a-01", "a", "x");
    assert_int_equal(scheduler_position(bench->scheduler, "job-a-01"), 1);
    assert_int_equal(scheduler_position(bench->scheduler, "job-block"), -1);
    struct scheduler_job job = job_of("job-a-02", "a", "x");
    struct scheduler_refusal refusal;
    struct error error = {0};
    assert_false(scheduler_submit(bench->scheduler, &job, &refusal, &error));
    assert_int_equal(refusal.reason, SCHEDULER_PRINCIPAL_FULL);
    assert_contains(error.message, "2 requests of this key wait already");
    assert_false(scheduler_has_room(bench->scheduler, "a", &refusal, NULL));
    assert_true(scheduler_has_room(bench->scheduler, "b", &refusal, NULL));
    submit_simple(bench, "job-b-00", "b", "x");
    job = job_of("job-c-00", "c", "x");
    error_clear(&error);
    assert_false(scheduler_submit(bench->scheduler, &job, &refusal, &error));
    assert_int_equal(refusal.reason, SCHEDULER_FULL);
    assert_int_equal(refusal.waiting, 3);
    assert_true(refusal.retry_after >= 1);
    assert_int_equal(error.kind, ERROR_UNAVAILABLE);
    job.model = "four";
    error_clear(&error);
    assert_false(scheduler_submit(bench->scheduler, &job, &refusal, &error));
    assert_int_equal(refusal.reason, SCHEDULER_UNKNOWN_MODEL);
    assert_string_equal(error.field, "model");
    job.model = "one", job.job.prompt = "";
    error_clear(&error);
    assert_false(scheduler_submit(bench->scheduler, &job, &refusal, &error));
    assert_int_equal(refusal.reason, SCHEDULER_BAD);
    assert_string_equal(error.field, "prompt");
    scheduler_cancel(bench->scheduler, "job-block");
    wait_for(bench, &bench->ended, 4);
    assert_int_equal(seen_of(bench, "job-b-00")->done, 1);
}

static void test_turns(void **state) {
    struct bench *bench = *state;
    start(bench);
    block(bench);
    for (int i = 0; i < 4; i++) {
        char id[20];
        snprintf(id, sizeof id, "job-a-0%d", i);
        submit_simple(bench, id, "a", "x");
    }
    submit_simple(bench, "job-b-00", "b", "x");
    struct scheduler_job urgent = job_of("job-u-00", "a", "x");
    urgent.priority = SCHEDULER_HIGH;
    submit(bench, &urgent);
    scheduler_cancel(bench->scheduler, "job-block");
    wait_for(bench, &bench->ended, 7);
    assert_string_equal(bench->order, "block u-00 b-00 a-00 a-01 a-02 a-03 ");
}

static void test_cancel(void **state) {
    struct bench *bench = *state;
    start(bench);
    block(bench);
    submit_simple(bench, "job-a-00", "a", "x");
    submit_simple(bench, "job-a-01", "a", "x");
    scheduler_cancel(bench->scheduler, "job-a-00");
    scheduler_cancel(bench->scheduler, "job-unknown");
    wait_for(bench, &bench->ended, 1);
    struct seen *seen = seen_of(bench, "job-a-00");
    assert_int_equal(seen->failed, 1);
    assert_int_equal(seen->started, 0);
    assert_int_equal(seen->last.failure, QUEUE_FAILURE_JOB);
    assert_int_equal(seen->last.error.kind, ERROR_CANCELLED);
    double before = clock_seconds();
    scheduler_cancel(bench->scheduler, "job-block");
    wait_for(bench, &bench->ended, 3);
    assert_true(clock_seconds() - before < 10); // and not 400 s
    assert_int_equal(seen_of(bench, "job-block")->last.error.kind, ERROR_CANCELLED);
    assert_int_equal(seen_of(bench, "job-block")->reruns, 0);
    assert_int_equal(seen_of(bench, "job-a-01")->done, 1);
}

static void test_time_limits(void **state) {
    struct bench *bench = *state;
    bench->options.time_limit = 1;
    start(bench);
    struct scheduler_job slow = job_of("job-slow", "a", "@ms=100000");
    submit(bench, &slow);
    wait_for(bench, &bench->started, 1);
    struct scheduler_job waits = job_of("job-wait", "a", "x");
    waits.time_limit = 0.3;
    submit(bench, &waits);
    struct scheduler_job patient = job_of("job-last", "a", "x");
    patient.time_limit = 25;
    submit(bench, &patient);
    wait_for(bench, &bench->ended, 3);
    assert_string_equal(bench->order, "wait slow last ");
    struct seen *seen = seen_of(bench, "job-wait");
    assert_int_equal(seen->last.failure, QUEUE_FAILURE_TIME);
    assert_contains(seen->last.error.message, "waited for its turn");
    seen = seen_of(bench, "job-slow");
    assert_int_equal(seen->last.failure, QUEUE_FAILURE_TIME);
    assert_int_equal(seen->reruns, 0);
    assert_contains(seen->last.error.message, "time limit of 1 s");
    assert_int_equal(seen_of(bench, "job-last")->done, 1);
}

// Lost in the first run, done in the second: the client does not notice.
static void test_runs_again(void **state) {
    struct bench *bench = *state;
    start(bench);
    static const char *const prompts[] = {"@once @crash=text",   "@once @kill=steps",   "@once @exit=decode",
                                          "@once @crash=image",  "@once @garbage=json", "@once @kill=done",
                                          "@once @garbage=early"};
    int count = sizeof prompts / sizeof *prompts;
    for (int i = 0; i < count; i++) {
        char id[20];
        snprintf(id, sizeof id, "job-a-0%d", i);
        struct scheduler_job job = job_of(id, "a", prompts[i]);
        job.job.count = 2;
        submit(bench, &job);
        wait_for(bench, &bench->ended, i + 1);
        struct seen *seen = seen_of(bench, id);
        if (!seen->done) fail_msg("%s: %s", prompts[i], seen->last.error.message);
        assert_int_equal(seen->started, 2);
        assert_int_equal(seen->reruns, 1);
        assert_int_equal(seen->images, 2);
        assert_int_equal(seen->voided, strstr(prompts[i], "=image")  ? 1
                                       : strstr(prompts[i], "=done") ? 2
                                                                     : 0);
    }
    struct scheduler_state now;
    scheduler_state(bench->scheduler, &now);
    assert_int_equal(now.reruns, count);
    assert_int_equal(now.workers_started, count + 1);
}

static void test_hung_worker(void **state) {
    struct bench *bench = *state;
    bench->options.queue.lease_seconds = 1.5;
    bench->options.queue.stall_seconds = 2;
    start(bench);
    submit_simple(bench, "job-hang", "a", "@once @hang=steps");
    submit_simple(bench, "job-stall", "b", "@once @stall=steps");
    wait_for(bench, &bench->ended, 2);
    assert_int_equal(seen_of(bench, "job-hang")->done, 1);
    assert_int_equal(seen_of(bench, "job-stall")->done, 1);
    assert_int_equal(seen_of(bench, "job-hang")->reruns, 1);
    assert_int_equal(seen_of(bench, "job-stall")->reruns, 1);
}

static void test_fails_in_the_end(void **state) {
    struct bench *bench = *state;
    start(bench);
    // It dies each time: one re-run, then the error.
    submit_simple(bench, "job-dies", "a", "@crash=steps");
    wait_for(bench, &bench->ended, 1);
    struct seen *seen = seen_of(bench, "job-dies");
    assert_int_equal(seen->failed, 1);
    assert_int_equal(seen->reruns, 1);
    assert_int_equal(seen->last.failure, QUEUE_FAILURE_WORKER_DIED);
    // A preview has gone out already: not again.
    struct scheduler_job streams = job_of("job-stream", "a", "@once @crash=decode");
    streams.streams = true, streams.job.preview_count = 1;
    submit(bench, &streams);
    wait_for(bench, &bench->ended, 2);
    seen = seen_of(bench, "job-stream");
    assert_int_equal(seen->failed, 1);
    assert_int_equal(seen->previews, 1);
    assert_int_equal(seen->reruns, 0);
    remove_file(bench, "job-stream-once");
    // The same without previews runs again.
    struct scheduler_job silent = job_of("job-silent", "a", "@once @crash=decode");
    silent.streams = true;
    submit(bench, &silent);
    wait_for(bench, &bench->ended, 3);
    assert_int_equal(seen_of(bench, "job-silent")->done, 1);
    // What the engine refuses is not run again, nor what lacks memory.
    submit_simple(bench, "job-refused", "a", "@refuse=size");
    submit_simple(bench, "job-memory", "b", "@memory=steps");
    wait_for(bench, &bench->ended, 5);
    seen = seen_of(bench, "job-refused");
    assert_int_equal(seen->reruns, 0);
    assert_string_equal(seen->last.error.field, "size");
    seen = seen_of(bench, "job-memory");
    assert_int_equal(seen->reruns, 0);
    assert_int_equal(seen->last.error.kind, ERROR_MEMORY);
}

static void test_no_rerun(void **state) {
    struct bench *bench = *state;
    bench->options.no_rerun = true;
    start(bench);
    submit_simple(bench, "job-dies", "a", "@crash=steps");
    wait_for(bench, &bench->ended, 1);
    assert_int_equal(seen_of(bench, "job-dies")->started, 1);
    assert_int_equal(seen_of(bench, "job-dies")->last.failure, QUEUE_FAILURE_WORKER_DIED);
}

static void test_models(void **state) {
    struct bench *bench = *state;
    start(bench);
    static const char *const models[] = {"two", "one", "three", "two", NULL};
    for (int i = 0; i < 5; i++) {
        char id[20];
        snprintf(id, sizeof id, "job-m-0%d", i);
        struct scheduler_job job = job_of(id, "a", "x");
        job.model = models[i];
        submit(bench, &job);
        wait_for(bench, &bench->ended, i + 1);
        assert_int_equal(seen_of(bench, id)->done, 1);
        struct scheduler_state now;
        scheduler_state(bench->scheduler, &now);
        assert_int_equal(now.resident, 1);
    }
    struct scheduler_model_state model;
    assert_true(scheduler_model_state(bench->scheduler, "two", &model));
    assert_int_equal(model.workers_started, 2);
    assert_false(model.resident);
}

// With room for two, none is closed; each has a worker of its own, so one that is busy holds up nobody else.
static void test_two_residents(void **state) {
    struct bench *bench = *state;
    bench->options.resident_most = 2;
    start(bench);
    block(bench);
    struct scheduler_job job = job_of("job-m-00", "a", "x");
    job.model = "two";
    submit(bench, &job);
    wait_for(bench, &bench->ended, 1);
    assert_int_equal(seen_of(bench, "job-m-00")->done, 1);
    // The third takes the idle one's place, not the busy one's.
    job = job_of("job-m-01", "a", "x");
    job.model = "three";
    submit(bench, &job);
    wait_for(bench, &bench->ended, 2);
    struct scheduler_model_state model;
    assert_true(scheduler_model_state(bench->scheduler, "one", &model));
    assert_true(model.resident);
    assert_true(scheduler_model_state(bench->scheduler, "two", &model));
    assert_false(model.resident);
    scheduler_cancel(bench->scheduler, "job-block");
    wait_for(bench, &bench->ended, 3);
}

// A model that is always asked for does not keep another one out for ever, and is not closed for each job of the other.
static void test_models_take_turns(void **state) {
    struct bench *bench = *state;
    bench->options.depth = 60;
    start(bench);
    block(bench);
    for (int i = 0; i < 20; i++) {
        char id[20];
        snprintf(id, sizeof id, "job-aa%02d", i);
        struct scheduler_job job = job_of(id, i % 2 ? "a" : "b", "x");
        job.model = i % 2 ? "one" : "two";
        submit(bench, &job);
    }
    scheduler_cancel(bench->scheduler, "job-block");
    wait_for(bench, &bench->ended, 21);
    struct scheduler_state now;
    scheduler_state(bench->scheduler, &now);
    assert_in_range(now.workers_started, 2, 6);
    const char *last_of_one = strstr(bench->order, "aa19"), *first_of_two = strstr(bench->order, "aa00");
    assert_true(first_of_two < last_of_one);
}

static void test_drain(void **state) {
    struct bench *bench = *state;
    start(bench);
    submit_simple(bench, "job-runs", "a", "@ms=150");
    wait_for(bench, &bench->started, 1);
    submit_simple(bench, "job-waits", "a", "x");
    scheduler_drain(bench->scheduler);
    struct scheduler_job late = job_of("job-late", "a", "x");
    struct scheduler_refusal refusal;
    struct error error = {0};
    assert_false(scheduler_submit(bench->scheduler, &late, &refusal, &error));
    assert_int_equal(refusal.reason, SCHEDULER_DRAINING);
    assert_true(scheduler_wait_idle(bench->scheduler, 20));
    assert_int_equal(seen_of(bench, "job-runs")->done, 1);
    assert_int_equal(seen_of(bench, "job-waits")->last.failure, QUEUE_FAILURE_STOPPED);
}

static void test_close(void **state) {
    struct bench *bench = *state;
    start(bench);
    block(bench);
    submit_simple(bench, "job-waits", "a", "x");
    assert_false(scheduler_wait_idle(bench->scheduler, 0.1));
    scheduler_close(bench->scheduler);
    bench->scheduler = NULL;
    assert_int_equal(bench->ended, 2);
    assert_int_equal(seen_of(bench, "job-block")->last.failure, QUEUE_FAILURE_STOPPED);
    assert_int_equal(seen_of(bench, "job-waits")->last.failure, QUEUE_FAILURE_STOPPED);
}

static int count_threads(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/task");
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));) count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

static void *close_it(void *context) {
    struct bench *bench = context;
    scheduler_close(bench->scheduler);
    return NULL;
}

// Closed while the listener hears that a job is run again: the job ends nevertheless, once.
static void test_close_in_a_rerun(void **state) {
    struct bench *bench = *state;
    pthread_t closer;
    struct scheduler_refusal refusal;
    bench->holds_reruns = true;
    start(bench);
    submit_simple(bench, "job-dies", "a", "@crash=text");
    wait_for(bench, &bench->reruns, 1);
    int before = count_threads();
    assert_int_equal(pthread_create(&closer, NULL, close_it, bench), 0);
    double deadline = clock_seconds() + 20;
    while (scheduler_has_room(bench->scheduler, "a", &refusal, NULL) && clock_seconds() < deadline)
        usleep(1000);
    assert_int_equal(refusal.reason, SCHEDULER_DRAINING);
    while (count_threads() > before && clock_seconds() < deadline)
        usleep(1000); // the scheduler's own has ended
    pthread_mutex_lock(&bench->lock);
    bench->released = true;
    pthread_cond_broadcast(&bench->changed);
    pthread_mutex_unlock(&bench->lock);
    pthread_join(closer, NULL);
    bench->scheduler = NULL;
    assert_int_equal(bench->ended, 1);
    assert_int_equal(seen_of(bench, "job-dies")->last.failure, QUEUE_FAILURE_STOPPED);
}

static void *want_two(void *context) {
    struct bench *bench = context;
    struct error error = {0};
    return scheduler_wait_ready(bench->scheduler, "two", 20, NULL, &error) ? bench : NULL;
}

// A model that somebody waits for comes up when the busy one has ended its job, though no job waits.
static void test_wanted_without_a_job(void **state) {
    struct bench *bench = *state;
    struct scheduler_model_state model;
    pthread_t waiter;
    void *ready;
    start(bench);
    block(bench);
    assert_int_equal(pthread_create(&waiter, NULL, want_two, bench), 0);
    scheduler_cancel(bench->scheduler, "job-block");
    pthread_join(waiter, &ready);
    assert_ptr_equal(ready, bench);
    assert_true(scheduler_model_state(bench->scheduler, "two", &model));
    assert_true(model.ready && model.known);
}

static void test_no_worker(void **state) {
    struct bench *bench = *state;
    setenv("LIMN_STANDIN", "@fatal", 1);
    start(bench);
    struct error error = {0};
    assert_false(scheduler_wait_ready(bench->scheduler, "one", 20, NULL, &error));
    assert_contains(error.message, "there is no model");
    submit_simple(bench, "job-none", "a", "x");
    wait_for(bench, &bench->ended, 1);
    unsetenv("LIMN_STANDIN");
    assert_int_equal(seen_of(bench, "job-none")->last.failure, QUEUE_FAILURE_MODEL);
    error_clear(&error);
    assert_false(scheduler_wait_ready(bench->scheduler, "four", 1, NULL, &error));
    assert_string_equal(error.field, "model");
}

// A model that cannot be opened costs its own jobs only, all of them at once, and is tried anew by the next one.
static void test_broken_model(void **state) {
    struct bench *bench = *state;
    start(bench);
    struct error error = {0};
    struct scheduler_model_state model;
    assert_ok(scheduler_wait_ready(bench->scheduler, "one", 20, NULL, &error), error);
    setenv("LIMN_STANDIN", "@fatal", 1);
    for (int i = 0; i < 5; i++) {
        char id[20];
        snprintf(id, sizeof id, "job-two-%d", i);
        struct scheduler_job job = job_of(id, "a", "x");
        job.model = "two";
        submit(bench, &job);
    }
    double before = clock_seconds();
    wait_for(bench, &bench->ended, 5);
    assert_true(clock_seconds() - before < 10);
    unsetenv("LIMN_STANDIN");
    for (int i = 0; i < 5; i++) {
        assert_int_equal(bench->seen[i].failed, 1);
        assert_int_equal(bench->seen[i].last.failure, QUEUE_FAILURE_MODEL);
        assert_contains(bench->seen[i].last.error.message, "there is no model");
    }
    double deadline = clock_seconds() + 10; // its worker is not kept up
    do assert_true(scheduler_model_state(bench->scheduler, "two", &model));
    while (model.resident && clock_seconds() < deadline && !usleep(5000));
    assert_false(model.resident);
    submit_simple(bench, "job-one-0", "a", "x");
    struct scheduler_job again = job_of("job-two-5", "a", "x");
    again.model = "two";
    submit(bench, &again);
    wait_for(bench, &bench->ended, 7);
    assert_int_equal(seen_of(bench, "job-one-0")->done, 1);
    assert_int_equal(seen_of(bench, "job-two-5")->done, 1);
}

// Many threads submit and cancel at once; every job that was taken ends once.
struct crowd {
    struct bench *bench;
    int index, taken;
};

static void *submit_many(void *context) {
    struct crowd *crowd = context;
    for (int i = 0; i < 15; i++) {
        char id[24];
        snprintf(id, sizeof id, "job-%d-%02d", crowd->index, i);
        struct scheduler_job job = job_of(id, id + 4, "x");
        job.model = i % 5 ? "one" : "two";
        if (scheduler_submit(crowd->bench->scheduler, &job, NULL, NULL)) crowd->taken++;
        if (i % 4 == 0) scheduler_cancel(crowd->bench->scheduler, id);
    }
    return NULL;
}

static void test_crowd(void **state) {
    struct bench *bench = *state;
    start(bench);
    pthread_t threads[4];
    struct crowd crowds[4];
    int taken = 0;
    for (int i = 0; i < 4; i++) {
        crowds[i] = (struct crowd){bench, i, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, submit_many, &crowds[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        taken += crowds[i].taken;
    }
    wait_for(bench, &bench->ended, taken);
    assert_true(scheduler_wait_idle(bench->scheduler, 10));
    assert_int_equal(bench->ended, taken);
    for (int i = 0; i < bench->count; i++) assert_int_equal(bench->seen[i].done + bench->seen[i].failed, 1);
}

static void test_bad_options(void **state) {
    struct error error = {0};
    assert_null(scheduler_open(&(struct scheduler_options){0}, listener, NULL, &error));
    assert_contains(error.message, "0 models");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_come),
        cmocka_unit_test(test_fair_between_principals),
        cmocka_unit_test(test_fair_by_cost),
        cmocka_unit_test(test_no_credit),
        cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_taken_back),
        cmocka_unit_test(test_copies),
        cmocka_unit_test_setup_teardown(test_serves, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_turns, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancel, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_time_limits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_runs_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hung_worker, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_fails_in_the_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_rerun, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_models, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_two_residents, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_models_take_turns, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_drain, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_close, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_close_in_a_rerun, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wanted_without_a_job, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_worker, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_broken_model, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_crowd, set_up, tear_down),
        cmocka_unit_test(test_bad_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
