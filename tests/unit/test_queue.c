// The queue against a worker that misbehaves on demand: this program, executed anew as `worker`, does what the prompt says.
#include "base/clock.h"
#include "base/file.h"
#include "queue/frame.h"
#include "queue/names.h"
#include "queue/process.h"
#include "queue/queue.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

// ------------------------------------------------------------------------------------------------ the worker's side

static void say(const char *type, json_t *message) {
    struct buffer out = {0};
    if (!frame_add(&out, type, message, NULL) || send(PROCESS_SOCKET, out.data, out.length, MSG_NOSIGNAL) < 0)
        _exit(9);
    buffer_free(&out);
}

static json_t *about(const char *job, json_int_t attempt) {
    return json_pack("{s:s, s:I}", "job", job, "attempt", attempt);
}

static void say_picture(const char *job, json_int_t attempt, int index, const char *file) {
    json_t *message = about(job, attempt);
    json_object_set_new(message, "file", json_string(file));
    json_object_set_new(message, "image", json_integer(index));
    json_object_set_new(message, "width", json_integer(64));
    json_object_set_new(message, "height", json_integer(32));
    json_object_set_new(message, "seed", json_integer(7 + index));
    json_object_set_new(message, "text_tokens", json_integer(12));
    json_object_set_new(message, "reference_tokens", json_integer(5));
    json_object_set_new(message, "output_tokens", json_integer(8));
    say("image", message);
}

static void draw(const char *job, json_int_t attempt, int count) {
    json_t *progress = about(job, attempt);
    json_object_set_new(progress, "stage", json_string("steps"));
    json_object_set_new(progress, "step", json_integer(1));
    json_object_set_new(progress, "steps", json_integer(4));
    say("progress", progress);
    for (int i = 0; i < count; i++) {
        char file[128];
        snprintf(file, sizeof file, "%s-%d.png", job, i);
        say_picture(job, attempt, i, file);
    }
    say("done", about(job, attempt));
}

static void say_failed(const char *job, json_int_t attempt, const char *kind, const char *text) {
    json_t *message = about(job, attempt);
    json_object_set_new(message, "kind", json_string(kind));
    json_object_set_new(message, "field", json_string("size"));
    json_object_set_new(message, "message", json_string(text));
    say("failed", message);
}

static void beat_forever(void) {
    for (;;) {
        say("heartbeat", json_pack("{s:i}", "headway", 1));
        struct pollfd fd = {PROCESS_SOCKET, 0, 0};
        if (poll(&fd, 1, 50) > 0 && (fd.revents & POLLHUP)) _exit(0);
    }
}

static void misbehave(const char *prompt, const char *job, json_int_t attempt, int count) {
    if (!strcmp(prompt, "early death") && attempt < 3) _exit(6); // before it is acknowledged
    if (!strcmp(prompt, "no answer")) _exit(6);
    say("started", about(job, attempt));
    if (!strcmp(prompt, "draw") || !strcmp(prompt, "early death")) draw(job, attempt, count);
    if (!strcmp(prompt, "crash")) signal(SIGSEGV, SIG_DFL), raise(SIGSEGV);
    if (!strcmp(prompt, "killed")) raise(SIGKILL);
    if (!strcmp(prompt, "exit")) _exit(5);
    if (!strcmp(prompt, "hang")) raise(SIGSTOP);
    if (!strcmp(prompt, "stall")) beat_forever();
    if (!strcmp(prompt, "refuse")) say_failed(job, attempt, "input", "a size of 1 x 1");
    if (!strcmp(prompt, "memory")) say_failed(job, attempt, "memory", "no memory for it");
    if (!strcmp(prompt, "escape")) say_picture(job, attempt, 0, "../../../etc/passwd");
    if (!strcmp(prompt, "foreign")) say_picture(job, attempt, 0, "other-job-0.png");
    if (!strcmp(prompt, "order")) say_picture(job, attempt, 1, "job-order-1.png");
    if (!strcmp(prompt, "early")) say("done", about(job, attempt));
    if (!strcmp(prompt, "type")) say("nonsense", about(job, attempt));
    if (!strcmp(prompt, "stale")) {
        say_picture(job, attempt + 1, 0, "x-0.png");
        say_picture("some-other-job", attempt, 0, "x-0.png");
        say("done", about(job, attempt - 1 > 0 ? attempt - 1 : attempt + 1));
        draw(job, attempt, count);
    }
    if (!strcmp(prompt, "garbage") && write(PROCESS_SOCKET, "\x05\0\0\0hello", 9) != 9) _exit(9);
    if (!strcmp(prompt, "version") &&
        write(PROCESS_SOCKET, "\x19\0\0\0{\"v\":2,\"type\":\"progress\"}", 29) != 29)
        _exit(9);
    if (!strcmp(prompt, "oversize") && write(PROCESS_SOCKET, "\x01\0\x01\0xxxx", 8) != 8) _exit(9);
}

static void stand_in_worker(int count, char **arguments) {
    const char *model = "";
    for (int i = 0; i + 1 < count; i++)
        if (!strcmp(arguments[i], "--model")) model = arguments[i + 1];
    if (!strcmp(model, "no-start")) _exit(4);
    if (!strcmp(model, "bad-model")) {
        say("fatal",
            json_pack("{s:s, s:s, s:s}", "kind", "not_found", "field", "", "message", "no such model"));
        _exit(1);
    }
    say("heartbeat", json_pack("{s:i}", "headway", 0));
    say("ready", json_pack("{s:s, s:i, s:i, s:i, s:i}", "name", "stand-in", "default_width", 64,
                           "default_height", 32, "default_steps", 4, "side_multiple", 16));
    struct buffer in = {0};
    for (;;) {
        char bytes[4096];
        ssize_t got = read(PROCESS_SOCKET, bytes, sizeof bytes);
        if (got <= 0) _exit(0);
        if (!buffer_add(&in, bytes, (size_t)got)) _exit(9);
        json_t *message;
        const char *type;
        while (frame_take(&in, &message, &type, NULL) == FRAME_READY) {
            const char *job = json_string_value(json_object_get(message, "job"));
            json_int_t attempt = json_integer_value(json_object_get(message, "attempt"));
            const char *prompt = json_string_value(json_object_get(message, "prompt"));
            if (!strcmp(type, "cancel")) say_failed(job, attempt, "cancelled", "cancelled");
            if (!strcmp(type, "job"))
                misbehave(prompt ? prompt : "draw", job, attempt,
                          (int)json_integer_value(json_object_get(message, "count")));
            json_decref(message);
        }
    }
}

// ------------------------------------------------------------------------------------------------- the queue's side

struct seen {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int started, progress, images, done, failed;
    char last_file[128], last_job[80], order[512];
    struct queue_event last_failure, last_image;
};

static void listener(void *context, const struct queue_event *event) {
    struct seen *seen = context;
    pthread_mutex_lock(&seen->lock);
    switch (event->kind) {
    case QUEUE_STARTED:
        seen->started++;
        break;
    case QUEUE_PROGRESS:
        seen->progress++;
        break;
    case QUEUE_PREVIEW:
    case QUEUE_RERUN:
        break;
    case QUEUE_IMAGE:
        seen->images++;
        seen->last_image = *event;
        snprintf(seen->last_file, sizeof seen->last_file, "%s", event->file);
        break;
    case QUEUE_DONE:
        seen->done++;
        break;
    case QUEUE_FAILED:
        seen->failed++;
        seen->last_failure = *event;
        break;
    }
    if (event->kind == QUEUE_DONE || event->kind == QUEUE_FAILED) {
        snprintf(seen->last_job, sizeof seen->last_job, "%s", event->job);
        size_t length = strlen(seen->order);
        snprintf(seen->order + length, sizeof seen->order - length, "%s ", event->job);
    }
    pthread_cond_broadcast(&seen->changed);
    pthread_mutex_unlock(&seen->lock);
}

struct bench {
    struct queue *queue;
    struct seen seen;
    char spool[64], program[512];
    struct queue_options options;
};

static int set_up(void **state) {
    struct bench *bench = calloc(1, sizeof *bench);
    assert_non_null(bench);
    pthread_mutex_init(&bench->seen.lock, NULL);
    pthread_cond_init(&bench->seen.changed, NULL);
    snprintf(bench->spool, sizeof bench->spool, "/tmp/limn-test-queue-XXXXXX");
    assert_non_null(mkdtemp(bench->spool));
    ssize_t length = readlink("/proc/self/exe", bench->program, sizeof bench->program - 1);
    assert_true(length > 0);
    bench->options = (struct queue_options){.program = bench->program,
                                            .model_folder = "good-model",
                                            .spool_folder = bench->spool,
                                            .depth = 2,
                                            .lease_seconds = 5,
                                            .stall_seconds = 60,
                                            .cancel_seconds = 5};
    *state = bench;
    return 0;
}

static void start(struct bench *bench) {
    struct error error = {0};
    bench->queue = queue_open(&bench->options, listener, &bench->seen, &error);
    if (!bench->queue) fail_msg("%s", error.message);
}

static int tear_down(void **state) {
    struct bench *bench = *state;
    queue_close(bench->queue);
    if (rmdir(bench->spool)) fail_msg("%s: %s", bench->spool, strerror(errno)); // nothing is left behind
    free(bench);
    return 0;
}

static bool submit(struct bench *bench, const char *id, const char *prompt, int count, struct error *error) {
    struct queue_job job = {.id = id,
                            .prompt = prompt,
                            .count = count,
                            .guidance = -1,
                            .output_format = "png",
                            .output_quality = -1};
    return queue_submit(bench->queue, &job, error);
}

static void must_submit(struct bench *bench, const char *id, const char *prompt, int count) {
    struct error error = {0};
    if (!submit(bench, id, prompt, count, &error)) fail_msg("%s", error.message);
}

// Waits until *counter is at least [wanted]; fails after 20 s.
static void wait_for(struct bench *bench, const int *counter, int wanted) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    int bad = 0;
    pthread_mutex_lock(&bench->seen.lock);
    while (*counter < wanted && !bad)
        bad = pthread_cond_timedwait(&bench->seen.changed, &bench->seen.lock, &until);
    int got = *counter;
    pthread_mutex_unlock(&bench->seen.lock);
    if (got < wanted) fail_msg("%d of %d events after 20 s", got, wanted);
}

static void test_draws(void **state) {
    struct bench *bench = *state;
    start(bench);
    struct queue_model model;
    struct error error = {0};
    if (!queue_wait_ready(bench->queue, 20, &model, &error)) fail_msg("%s", error.message);
    assert_string_equal(model.name, "stand-in");
    assert_int_equal(model.default_width, 64);
    assert_int_equal(model.side_multiple, 16);
    must_submit(bench, "job-draw", "draw", 3);
    wait_for(bench, &bench->seen.done, 1);
    assert_int_equal(bench->seen.started, 1);
    assert_int_equal(bench->seen.progress, 1);
    assert_int_equal(bench->seen.images, 3);
    assert_int_equal(bench->seen.failed, 0);
    assert_int_equal(bench->seen.last_image.text_tokens, 12);
    assert_int_equal(bench->seen.last_image.reference_tokens, 5);
    assert_int_equal(bench->seen.last_image.output_tokens, 8);
    assert_string_equal(bench->seen.last_file, "job-draw-2.png");
    struct queue_state now;
    queue_state(bench->queue, &now);
    assert_true(now.ready);
    assert_int_equal(now.waiting + now.running, 0);
    assert_int_equal(now.workers_started, 1);
    assert_true(now.job_seconds > 0);
}

// Each of these loses its worker; the next job is served by a new one.
static void test_worker_dies(void **state) {
    struct bench *bench = *state;
    start(bench);
    static const struct {
        const char *prompt, *part;
    } cases[] = {
        {"crash", "was killed by signal 11"},
        {"killed", "signal 9"},
        {"exit", "ended with status 5"},
        {"garbage", "broke the protocol"},
        {"version", "broke the protocol"},
        {"oversize", "a frame of 65537 bytes"},
        {"type", "unknown type \"nonsense\""},
        {"escape", "does not begin with its job's id"},
        {"foreign", "does not begin with its job's id"},
        {"order", "expected 0 of 1"},
        {"early", "done after 0 of 1"},
    };
    int count = sizeof cases / sizeof *cases;
    for (int i = 0; i < count; i++) {
        char id[32];
        snprintf(id, sizeof id, "job-%s", cases[i].prompt);
        if (strlen(id) < 8) snprintf(id, sizeof id, "job-%s-job", cases[i].prompt);
        must_submit(bench, id, cases[i].prompt, 1);
        wait_for(bench, &bench->seen.failed, i + 1);
        const struct queue_event *failure = &bench->seen.last_failure;
        if (!strstr(failure->error.message, cases[i].part))
            fail_msg("%s: \"%s\", expected \"%s\" in it", cases[i].prompt, failure->error.message,
                     cases[i].part);
        assert_int_equal(failure->failure, QUEUE_FAILURE_WORKER_DIED);
        assert_int_equal(failure->error.kind, ERROR_UNAVAILABLE);
        double before = clock_seconds();
        must_submit(bench, "job-after", "draw", 1);
        wait_for(bench, &bench->seen.done, i + 1);
        assert_true(clock_seconds() - before < 10);
    }
    struct queue_state now;
    queue_state(bench->queue, &now);
    assert_int_equal(now.workers_started, count + 1);
}

// A job that no worker has acknowledged goes to the next one, but not for ever.
static void test_redelivery(void **state) {
    struct bench *bench = *state;
    start(bench);
    must_submit(bench, "job-early", "early death", 2);
    wait_for(bench, &bench->seen.done, 1);
    assert_int_equal(bench->seen.images, 2);
    assert_int_equal(bench->seen.started, 1);
    assert_int_equal(bench->seen.failed, 0);
    must_submit(bench, "job-lethal", "no answer", 1);
    wait_for(bench, &bench->seen.failed, 1);
    assert_int_equal(bench->seen.last_failure.failure, QUEUE_FAILURE_WORKER_DIED);
    struct queue_state now;
    queue_state(bench->queue, &now);
    assert_true(now.workers_started >= 5);
}

static void test_engine_refuses(void **state) {
    struct bench *bench = *state;
    start(bench);
    must_submit(bench, "job-refuse", "refuse", 1);
    wait_for(bench, &bench->seen.failed, 1);
    assert_int_equal(bench->seen.last_failure.failure, QUEUE_FAILURE_JOB);
    assert_int_equal(bench->seen.last_failure.error.kind, ERROR_INPUT);
    assert_string_equal(bench->seen.last_failure.error.field, "size");
    assert_string_equal(bench->seen.last_failure.error.message, "a size of 1 x 1");
    must_submit(bench, "job-memory", "memory", 1);
    wait_for(bench, &bench->seen.failed, 2);
    assert_int_equal(bench->seen.last_failure.error.kind, ERROR_MEMORY);
    struct queue_state now;
    queue_state(bench->queue, &now);
    assert_int_equal(now.workers_started, 1);
}

static void test_stale_is_refused(void **state) {
    struct bench *bench = *state;
    start(bench);
    must_submit(bench, "job-stale", "stale", 2);
    wait_for(bench, &bench->seen.done, 1);
    assert_int_equal(bench->seen.images, 2);
    assert_string_equal(bench->seen.last_file, "job-stale-1.png");
    assert_int_equal(bench->seen.failed, 0);
}

static void test_hang(void **state) {
    struct bench *bench = *state;
    bench->options.lease_seconds = 0.5;
    start(bench);
    must_submit(bench, "job-hang", "hang", 1);
    wait_for(bench, &bench->seen.failed, 1);
    assert_int_equal(bench->seen.last_failure.failure, QUEUE_FAILURE_TIME);
    assert_non_null(strstr(bench->seen.last_failure.error.message, "lease"));
}

static void test_stall(void **state) {
    struct bench *bench = *state;
    bench->options.stall_seconds = 0.5;
    start(bench);
    must_submit(bench, "job-stall", "stall", 1);
    wait_for(bench, &bench->seen.failed, 1);
    assert_int_equal(bench->seen.last_failure.failure, QUEUE_FAILURE_TIME);
    assert_non_null(strstr(bench->seen.last_failure.error.message, "headway"));
}

static void test_cancel(void **state) {
    struct bench *bench = *state;
    start(bench);
    must_submit(bench, "job-one-1", "wait", 1); // says nothing until it is cancelled
    wait_for(bench, &bench->seen.started, 1);
    must_submit(bench, "job-two-2", "wait", 1);
    queue_cancel(bench->queue, "job-two-2");
    wait_for(bench, &bench->seen.failed, 1);
    assert_string_equal(bench->seen.last_job, "job-two-2");
    assert_int_equal(bench->seen.last_failure.error.kind, ERROR_CANCELLED);
    queue_cancel(bench->queue, "no-such-job");
    queue_cancel(bench->queue, "job-one-1");
    wait_for(bench, &bench->seen.failed, 2);
    assert_string_equal(bench->seen.last_job, "job-one-1");
    assert_int_equal(bench->seen.last_failure.error.kind, ERROR_CANCELLED);
    must_submit(bench, "job-three", "draw", 1);
    wait_for(bench, &bench->seen.done, 1);
}

static void test_cancel_not_followed(void **state) {
    struct bench *bench = *state;
    bench->options.cancel_seconds = 0.3;
    start(bench);
    must_submit(bench, "job-deaf-1", "stall", 1);
    wait_for(bench, &bench->seen.started, 1);
    queue_cancel(bench->queue, "job-deaf-1");
    wait_for(bench, &bench->seen.failed, 1);
    assert_int_equal(bench->seen.last_failure.error.kind, ERROR_CANCELLED);
    must_submit(bench, "job-after", "draw", 1);
    wait_for(bench, &bench->seen.done, 1);
}

static void test_full(void **state) {
    struct bench *bench = *state;
    start(bench);
    struct error error = {0};
    must_submit(bench, "job-one-1", "wait", 1);
    wait_for(bench, &bench->seen.started, 1);
    must_submit(bench, "job-two-2", "draw", 1);
    must_submit(bench, "job-three", "draw", 1);
    assert_false(submit(bench, "job-four-4", "draw", 1, &error));
    assert_int_equal(error.kind, ERROR_UNAVAILABLE);
    assert_non_null(strstr(error.message, "2 requests wait"));
    queue_cancel(bench->queue, "job-one-1");
    wait_for(bench, &bench->seen.done, 2);
    assert_string_equal(bench->seen.order, "job-one-1 job-two-2 job-three "); // first come, first served
}

static void test_bad_jobs(void **state) {
    struct bench *bench = *state;
    start(bench);
    struct error error = {0};
    assert_false(submit(bench, "job-ok-ok", "", 1, &error));
    assert_string_equal(error.field, "prompt");
    error_clear(&error);
    assert_false(submit(bench, "BAD ID", "draw", 1, &error));
    error_clear(&error);
    assert_false(submit(bench, "job-utf-8", "\xff\xfe", 1, &error));
    assert_string_equal(error.field, "prompt");
    error_clear(&error);
    struct queue_job job = {.id = "job-references",
                            .prompt = "draw",
                            .count = 1,
                            .output_format = "png",
                            .reference_files = {"../secret"},
                            .reference_count = 1};
    assert_false(queue_submit(bench->queue, &job, &error));
}

// A prompt too long for a frame travels in a file, which is removed with the job.
static void test_long_prompt(void **state) {
    struct bench *bench = *state;
    start(bench);
    char *prompt = malloc(128001);
    assert_non_null(prompt);
    memset(prompt, 'a', 128000);
    prompt[128000] = 0;
    must_submit(bench, "job-long-1", prompt, 1);
    free(prompt);
    wait_for(bench, &bench->seen.done, 1);
}

static void test_model_that_cannot_be_opened(void **state) {
    struct bench *bench = *state;
    bench->options.model_folder = "bad-model";
    start(bench);
    struct error error = {0};
    assert_false(queue_wait_ready(bench->queue, 20, NULL, &error));
    assert_int_equal(error.kind, ERROR_NOT_FOUND);
    assert_string_equal(error.message, "no such model");
    must_submit(bench, "job-in-vain", "draw", 1);
    wait_for(bench, &bench->seen.failed, 1);
    assert_int_equal(bench->seen.last_failure.failure, QUEUE_FAILURE_MODEL);
}

static void test_worker_that_never_starts(void **state) {
    struct bench *bench = *state;
    bench->options.model_folder = "no-start";
    start(bench);
    struct error error = {0};
    assert_false(queue_wait_ready(bench->queue, 20, NULL, &error));
    assert_non_null(strstr(error.message, "ended with status 4"));
}

static void test_no_program(void **state) {
    struct bench *bench = *state;
    bench->options.program = "/nowhere/limn";
    start(bench);
    struct error error = {0};
    assert_false(queue_wait_ready(bench->queue, 20, NULL, &error));
    assert_non_null(strstr(error.message, "/nowhere/limn cannot be started"));
}

static void test_close_with_jobs(void **state) {
    struct bench *bench = *state;
    start(bench);
    must_submit(bench, "job-one-1", "stall", 1);
    wait_for(bench, &bench->seen.started, 1);
    must_submit(bench, "job-two-2", "draw", 1);
    double before = clock_seconds();
    queue_close(bench->queue);
    bench->queue = NULL;
    assert_true(clock_seconds() - before < 5);
    assert_int_equal(bench->seen.failed, 2);
    assert_int_equal(bench->seen.last_failure.failure, QUEUE_FAILURE_STOPPED);
}

static void test_frames(void **state) {
    struct buffer buffer = {0};
    struct error error = {0};
    json_t *message;
    const char *type;
    assert_int_equal(frame_take(&buffer, &message, &type, &error), FRAME_NONE);
    assert_true(frame_add(&buffer, "one", json_pack("{s:i}", "x", 1), &error));
    assert_true(frame_add(&buffer, "two", json_object(), &error));
    size_t whole = buffer.length;
    for (size_t part = 0; part < whole; part++) { // cut anywhere, the rest comes later
        struct buffer piece = {0};
        assert_true(buffer_add(&piece, buffer.data, part));
        int frames = 0;
        while (frame_take(&piece, &message, &type, &error) == FRAME_READY) frames++, json_decref(message);
        assert_true(buffer_add(&piece, buffer.data + part, whole - part));
        while (frame_take(&piece, &message, &type, &error) == FRAME_READY) frames++, json_decref(message);
        assert_int_equal(frames, 2);
        assert_int_equal(piece.length, 0);
        buffer_free(&piece);
    }
    buffer_free(&buffer);
    char *long_text = calloc(1, 70000);
    assert_non_null(long_text);
    memset(long_text, 'x', 69999);
    assert_false(frame_add(&buffer, "long", json_pack("{s:s}", "text", long_text), &error));
    free(long_text);
    assert_int_equal(buffer.length, 0);
    static const char *const bad[] = {
        "[1]", "{}", "{\"v\":1}", "{\"v\":\"1\",\"type\":\"x\"}", "{\"v\":1,\"type\":5}", "", "\xff\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t head[4] = {(uint8_t)strlen(bad[i]), 0, 0, 0};
        struct buffer piece = {0};
        assert_true(buffer_add(&piece, head, 4) && buffer_add_string(&piece, bad[i]));
        assert_int_equal(frame_take(&piece, &message, &type, NULL), FRAME_BAD);
        assert_null(message);
        buffer_free(&piece);
    }
    buffer_free(&buffer);
}

static void test_names(void **state) {
    assert_true(name_is_id("req_0123456789abcdef"));
    assert_false(name_is_id("short"));
    assert_false(name_is_id("UPPERCASE"));
    assert_false(name_is_id(NULL));
    assert_true(name_is_file("req_1-2-0.png"));
    assert_false(name_is_file(".hidden"));
    assert_false(name_is_file("a/b"));
    assert_false(name_is_file(""));
}

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "worker")) stand_in_worker(count, arguments);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_draws, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_worker_dies, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_redelivery, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_engine_refuses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stale_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hang, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stall, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancel, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancel_not_followed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_jobs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_long_prompt, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_model_that_cannot_be_opened, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_worker_that_never_starts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_program, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_close_with_jobs, set_up, tear_down),
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
