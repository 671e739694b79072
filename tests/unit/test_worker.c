// The real worker behind the queue, on a tiny model of the fixtures: this program, executed anew as `worker`, is `limn worker`.
#include "base/clock.h"
#include "base/file.h"
#include "cli/commands.h"
#include "image/image.h"
#include "queue/queue.h"

#include <errno.h>
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

#define MODEL LIMN_SOURCE_DIR "/tests/fixtures/model-a"

struct picture {
    char file[128];
    int index, step, width, height;
    uint64_t seed;
};

struct bench {
    struct queue *queue;
    char spool[64], program[512];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int started, progress, images, previews, ended;
    struct picture pictures[16], preview[16];
    struct queue_event last, tokens; // DONE or FAILED; the last picture
};

static void keep(struct picture *picture, const struct queue_event *event) {
    *picture = (struct picture){.index = event->image,
                                .step = event->step,
                                .width = event->width,
                                .height = event->height,
                                .seed = event->seed};
    snprintf(picture->file, sizeof picture->file, "%s", event->file);
}

static void listener(void *context, const struct queue_event *event) {
    struct bench *bench = context;
    pthread_mutex_lock(&bench->lock);
    if (event->kind == QUEUE_STARTED) bench->started++;
    if (event->kind == QUEUE_PROGRESS) bench->progress++;
    if (event->kind == QUEUE_IMAGE) bench->tokens = *event;
    if (event->kind == QUEUE_IMAGE) keep(&bench->pictures[bench->images++ % 16], event);
    if (event->kind == QUEUE_PREVIEW) keep(&bench->preview[bench->previews++ % 16], event);
    if (event->kind == QUEUE_DONE || event->kind == QUEUE_FAILED) {
        bench->ended++;
        bench->last = *event;
    }
    pthread_cond_broadcast(&bench->changed);
    pthread_mutex_unlock(&bench->lock);
}

// [lora]: NULL, or of every job.
static int set_up_with(void **state, const char *model, const char *lora) {
    struct bench *bench = calloc(1, sizeof *bench);
    struct error error = {0};
    assert_non_null(bench);
    pthread_mutex_init(&bench->lock, NULL);
    pthread_cond_init(&bench->changed, NULL);
    snprintf(bench->spool, sizeof bench->spool, "/tmp/limn-test-worker-XXXXXX");
    assert_non_null(mkdtemp(bench->spool));
    assert_true(readlink("/proc/self/exe", bench->program, sizeof bench->program - 1) > 0);
    struct queue_options options = {.program = bench->program,
                                    .model_folder = model,
                                    .spool_folder = bench->spool,
                                    .threads = 2,
                                    .compute = "f32",
                                    .depth = 4,
                                    .lease_seconds = 60,
                                    .loras = {lora},
                                    .lora_count = lora != NULL};
    bench->queue = queue_open(&options, listener, bench, &error);
    assert_non_null(bench->queue);
    *state = bench;
    return 0;
}

static int set_up_model(void **state, const char *model) {
    return set_up_with(state, model, NULL);
}

static int set_up(void **state) {
    return set_up_model(state, MODEL);
}

static int tear_down(void **state) {
    struct bench *bench = *state;
    queue_close(bench->queue);
    if (rmdir(bench->spool)) fail_msg("%s: %s", bench->spool, strerror(errno)); // nothing is left behind
    free(bench);
    return 0;
}

static void wait_for(struct bench *bench, const int *counter, int wanted) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 120;
    int bad = 0;
    pthread_mutex_lock(&bench->lock);
    while (*counter < wanted && !bad) bad = pthread_cond_timedwait(&bench->changed, &bench->lock, &until);
    int got = *counter;
    pthread_mutex_unlock(&bench->lock);
    if (got < wanted) fail_msg("%d of %d events after 120 s", got, wanted);
}

static struct queue_job job_of(const char *id, const char *prompt) {
    return (struct queue_job){
        .id = id, .prompt = prompt, .count = 1, .guidance = -1, .output_format = "png", .output_quality = -1};
}

static void run(struct bench *bench, const struct queue_job *job) {
    struct error error = {0};
    if (!queue_submit(bench->queue, job, &error)) fail_msg("%s", error.message);
    wait_for(bench, &bench->ended, 1);
    bench->ended = 0;
}

static void must_be_done(struct bench *bench) {
    if (bench->last.kind != QUEUE_DONE)
        fail_msg("%s: %s", bench->last.error.field, bench->last.error.message);
}

// Decodes a picture of the spool and removes its file.
static void take(struct bench *bench, const struct picture *picture, struct image *image) {
    char path[256], *data;
    size_t size;
    struct error error = {0};
    snprintf(path, sizeof path, "%s/%s", bench->spool, picture->file);
    if (!file_read(path, 1 << 24, &data, &size, &error) ||
        !image_decode("x", data, size, 0, false, image, &error))
        fail_msg("%s", error.message);
    free(data);
    assert_int_equal(image->width, picture->width);
    assert_int_equal(image->height, picture->height);
    unlink(path);
}

static void write_spool(struct bench *bench, const char *name, const void *data, size_t size) {
    char path[256];
    struct error error = {0};
    snprintf(path, sizeof path, "%s/%s", bench->spool, name);
    if (!file_write(path, data, size, &error)) fail_msg("%s", error.message);
}

static void remove_spool(struct bench *bench, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", bench->spool, name);
    assert_int_equal(unlink(path), 0);
}

static void test_pictures_and_previews(void **state) {
    struct bench *bench = *state;
    struct queue_job job = job_of("job-draw", "a red circle");
    job.width = 80, job.height = 64, job.deliver_width = 70, job.deliver_height = 60;
    job.count = 2, job.seed = 41, job.preview_count = 2;
    run(bench, &job);
    must_be_done(bench);
    assert_int_equal(bench->started, 1);
    assert_true(bench->progress >= 4);
    assert_int_equal(bench->images, 2);
    assert_int_equal(bench->previews, 4); // two of each picture
    assert_true(bench->preview[0].step < bench->preview[1].step);
    struct image first, second, preview;
    take(bench, &bench->pictures[0], &first);
    take(bench, &bench->pictures[1], &second);
    assert_int_equal(first.width * 1000 + first.height, 70060);
    assert_int_equal(bench->pictures[0].seed, 41);
    assert_int_equal(bench->pictures[1].seed, 42);
    assert_memory_not_equal(first.pixels, second.pixels, 70 * 60 * 3);
    for (int i = 0; i < 4; i++) {
        take(bench, &bench->preview[i], &preview);
        assert_int_equal(preview.width * 1000 + preview.height, 70060);
        image_free(&preview);
    }
    assert_int_equal(bench->tokens.output_tokens, 5 * 4); // of one picture
    assert_int_equal(bench->tokens.reference_tokens, 0);
    assert_true(bench->tokens.text_tokens > 0 && bench->tokens.text_tokens <= 64);
    // The second picture is the one that its seed gives alone.
    job.id = "job-alone";
    job.count = 1, job.seed = 42, job.preview_count = 0;
    run(bench, &job);
    must_be_done(bench);
    struct image alone;
    take(bench, &bench->pictures[2], &alone);
    assert_memory_equal(alone.pixels, second.pixels, 70 * 60 * 3);
    image_free(&first);
    image_free(&second);
    image_free(&alone);
}

// A LoRA of the output layer (16 channels, 128 wide), or one that fits no model.
static void write_lora(const char *path, int64_t width) {
    struct error error = {0};
    char data[4096] = {0};
    int length =
        snprintf(data + 8, 2000,
                 "{\"final_layer.linear.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[1,%lld],"
                 "\"data_offsets\":[0,%lld]},\"final_layer.linear.lora_B.weight\":{\"dtype\":\"F32\","
                 "\"shape\":[16,1],\"data_offsets\":[%lld,%lld]}}",
                 (long long)width, (long long)width * 4, (long long)width * 4, (long long)width * 4 + 64);
    const uint64_t size = (uint64_t)length;
    memcpy(data, &size, sizeof size);
    for (int64_t i = 0; i < width + 16; i++) {
        const float value = 0.1f * (float)(i % 7 - 3);
        memcpy(data + 8 + length + i * 4, &value, sizeof value);
    }
    assert_true(file_write(path, data, 8 + (size_t)length + (size_t)width * 4 + 64, &error));
}

static void test_loras(void **state) {
    struct bench *bench = *state;
    char good[100], bad[100];
    struct image plain, changed, again;
    snprintf(good, sizeof good, "%s/good.safetensors", bench->spool);
    snprintf(bad, sizeof bad, "%s/bad.safetensors", bench->spool);
    write_lora(good, 128);
    write_lora(bad, 127);
    struct queue_job job = job_of("job-plain", "a red circle");
    run(bench, &job);
    must_be_done(bench);
    take(bench, &bench->pictures[0], &plain);
    job.id = "job-lora";
    job.lora_count = 1;
    job.loras[0] = (struct queue_lora){good, 1};
    run(bench, &job);
    must_be_done(bench);
    take(bench, &bench->pictures[1], &changed);
    job.id = "job-lora-bad";
    job.loras[0] = (struct queue_lora){bad, 1};
    run(bench, &job);
    assert_int_equal(bench->last.kind, QUEUE_FAILED);
    assert_int_equal(bench->last.failure, QUEUE_FAILURE_JOB);
    assert_string_equal(bench->last.error.field, "loras[0]");
    assert_non_null(strstr(bench->last.error.message, "shape [1, 127], expected [any, 128]"));
    job.id = "job-lora-off";
    job.loras[0] = (struct queue_lora){good, 0};
    run(bench, &job);
    must_be_done(bench);
    take(bench, &bench->pictures[2], &again);
    const size_t size = (size_t)plain.width * (size_t)plain.height * 3;
    assert_memory_not_equal(plain.pixels, changed.pixels, size);
    assert_memory_equal(plain.pixels, again.pixels, size);
    // The same LoRA, of the worker instead of the job.
    void *other = NULL;
    char option[120];
    snprintf(option, sizeof option, "%s:1", good);
    set_up_with(&other, MODEL, option);
    struct bench *with = other;
    job.lora_count = 0;
    run(with, &job);
    must_be_done(with);
    struct image same;
    take(with, &with->pictures[0], &same);
    assert_memory_equal(same.pixels, changed.pixels, size);
    image_free(&same);
    tear_down(&other);
    image_free(&plain);
    image_free(&changed);
    image_free(&again);
    unlink(good);
    unlink(bad);
}

static void test_references(void **state) {
    struct bench *bench = *state;
    struct image image;
    struct error error = {0};
    assert_true(image_alloc(&image, 96, 80, &error));
    memset(image.pixels, 100, 96 * 80 * 3);
    struct image_encode_options options = {.format = IMAGE_PNG, .quality = -1};
    struct buffer png = {0};
    assert_true(image_encode(&image, &options, &png, &error));
    write_spool(bench, "job-edit-ref-0", png.data, png.length);
    write_spool(bench, "job-edit-ref-1", png.data, png.length / 2);
    struct queue_job job = job_of("job-edit", "make it blue");
    job.reference_files[0] = "job-edit-ref-0", job.reference_count = 1, job.steps = 2,
    job.output_format = "webp";
    run(bench, &job);
    must_be_done(bench);
    assert_int_equal(bench->tokens.reference_tokens, 6 * 5);
    struct image made;
    take(bench, &bench->pictures[0], &made);
    assert_int_equal(made.width * 1000 + made.height, 96080); // the reference's shape
    image_free(&made);
    // The second one is cut short: its name stands in the error.
    job.id = "job-cut-1";
    job.reference_files[1] = "job-edit-ref-1", job.reference_count = 2;
    run(bench, &job);
    assert_int_equal(bench->last.kind, QUEUE_FAILED);
    assert_string_equal(bench->last.error.field, "image[1]");
    assert_int_equal(bench->last.error.kind, ERROR_INPUT);
    assert_int_equal(strncmp(bench->last.error.message, "image[1]: ", 10), 0);
    job.id = "job-none-1";
    job.reference_files[0] = "job-nothing-there";
    run(bench, &job);
    assert_int_equal(bench->last.kind, QUEUE_FAILED);
    remove_spool(bench, "job-edit-ref-0");
    remove_spool(bench, "job-edit-ref-1");
    image_free(&image);
    buffer_free(&png);
}

// A picture of waves as a PNG of the spool, with alpha 255 left of [split] and 0 from there on; split below 0: no alpha.
static void write_waves(struct bench *bench, const char *name, int width, int height, int split,
                        struct image *image) {
    struct error error = {0};
    struct buffer png = {0};
    assert_true(image_alloc(image, width, height, &error));
    uint8_t *alpha = malloc((size_t)(width * height));
    assert_non_null(alpha);
    for (int i = 0; i < width * height; i++) {
        alpha[i] = i % width < split ? 255 : 0;
        for (int c = 0; c < 3; c++)
            image->pixels[3 * i + c] = (uint8_t)(i % width * 3 + i / width * 2 + c * 40);
    }
    struct image_encode_options options = {
        .format = IMAGE_PNG, .quality = -1, .alpha = split < 0 ? NULL : alpha};
    assert_true(image_encode(image, &options, &png, &error));
    write_spool(bench, name, png.data, png.length);
    free(alpha);
    buffer_free(&png);
}

// What the mask keeps comes back to the byte, what it gives free is drawn anew.
static void test_mask(void **state) {
    struct bench *bench = *state;
    static const int sizes[][4] = {{96, 80, 0, 0}, {96, 80, 96, 80}, {70, 90, 70, 90}};
    for (int i = 0; i < 3; i++) {
        int w = sizes[i][0], h = sizes[i][1], split = w / 2;
        struct image waves, same, made;
        char id[24];
        snprintf(id, sizeof id, "job-mask-%d", i);
        write_waves(bench, "job-mask-ref", w, h, -1, &waves);
        write_waves(bench, "job-mask-mask", w, h, split, &same);
        struct queue_job job = job_of(id, "make it blue");
        job.reference_files[0] = "job-mask-ref", job.reference_count = 1, job.mask_file = "job-mask-mask";
        job.steps = 1, job.preview_count = 1, job.steps = 2;
        job.width = (sizes[i][2] + 15) / 16 * 16, job.height = (sizes[i][3] + 15) / 16 * 16;
        job.deliver_width = sizes[i][2], job.deliver_height = sizes[i][3];
        bench->previews = bench->images = 0;
        run(bench, &job);
        must_be_done(bench);
        assert_int_equal(bench->previews, 1);
        const struct picture *both[] = {&bench->preview[0], &bench->pictures[0]};
        for (int k = 0; k < 2; k++) {
            int changed = 0;
            take(bench, both[k], &made);
            assert_int_equal(made.width * 1000 + made.height, w * 1000 + h);
            for (int y = 0; y < h; y++) {
                const uint8_t *a = made.pixels + y * w * 3, *b = waves.pixels + y * w * 3;
                assert_memory_equal(a, b, (size_t)split * 3);
                for (int x = split * 3; x < w * 3; x++) changed += a[x] != b[x];
            }
            assert_true(changed > (w - split) * h); // a third of the values, at least
            image_free(&made);
        }
        image_free(&waves);
        image_free(&same);
        remove_spool(bench, "job-mask-ref");
        remove_spool(bench, "job-mask-mask");
    }
}

static void test_bad_masks(void **state) {
    struct bench *bench = *state;
    struct image waves, other;
    write_waves(bench, "job-mask-ref", 96, 80, -1, &waves);
    write_waves(bench, "job-mask-small", 96, 64, 10, &other);
    write_spool(bench, "job-mask-junk", "hello", 5);
    static const struct {
        const char *mask, *part;
    } cases[] = {{"job-mask-ref", "no alpha channel"},
                 {"job-mask-small", "96x64 pixels, expected the first image's 96x80"},
                 {"job-mask-junk", "not a picture"}};
    for (int i = 0; i < 3; i++) {
        char id[24];
        snprintf(id, sizeof id, "job-bad-%d", i);
        struct queue_job job = job_of(id, "make it blue");
        job.reference_files[0] = "job-mask-ref", job.reference_count = 1, job.mask_file = cases[i].mask;
        run(bench, &job);
        assert_int_equal(bench->last.kind, QUEUE_FAILED);
        assert_int_equal(bench->last.error.kind, ERROR_INPUT);
        assert_string_equal(bench->last.error.field, "mask");
        if (!strstr(bench->last.error.message, cases[i].part)) fail_msg("%s", bench->last.error.message);
    }
    struct queue_job job = job_of("job-mask-alone", "make it blue");
    struct error error = {0};
    job.mask_file = "job-mask-ref";
    assert_false(queue_submit(bench->queue, &job, &error));
    assert_string_equal(error.field, "mask");
    image_free(&waves);
    image_free(&other);
    remove_spool(bench, "job-mask-ref");
    remove_spool(bench, "job-mask-small");
    remove_spool(bench, "job-mask-junk");
}

static void test_formats(void **state) {
    struct bench *bench = *state;
    static const char *const names[] = {"png", "jpeg", "webp", "gif", "avif"};
    for (int i = 0; i < 5; i++) {
        char id[24], path[256], *data;
        size_t size;
        struct error error = {0};
        struct image_header header;
        snprintf(id, sizeof id, "job-form-%d", i);
        struct queue_job job = job_of(id, "a");
        job.width = job.height = 64, job.steps = 2, job.preview_count = 1;
        job.output_format = names[i], job.output_quality = 80, job.seed = 77;
        bench->previews = bench->images = 0;
        run(bench, &job);
        must_be_done(bench);
        const struct picture *both[] = {&bench->preview[0], &bench->pictures[0]};
        for (int k = 0; k < 2; k++) {
            snprintf(path, sizeof path, "%s/%s", bench->spool, both[k]->file);
            assert_true(file_read(path, 1 << 24, &data, &size, &error));
            assert_true(image_read_header(data, size, &header, &error));
            assert_string_equal(image_format_name(header.format), names[i]);
            assert_non_null(memmem(data, size, "AI generated", 12));
            if (k == 1) assert_non_null(memmem(data, size, "seed 77", 7));
            free(data);
            unlink(path);
        }
    }
    struct queue_job job = job_of("job-form-x", "a");
    job.output_format = "tiff";
    run(bench, &job);
    assert_string_equal(bench->last.error.field, "output_format");
    job = job_of("job-form-y", "a");
    job.output_format = "jpeg", job.transparent = true;
    run(bench, &job);
    assert_string_equal(bench->last.error.field, "background");
    // The picture of a model that knows nothing has no plain background: it stays opaque, and is said to.
    job = job_of("job-form-z", "a");
    job.transparent = true, job.steps = 1, job.width = job.height = 64;
    bench->images = 0;
    run(bench, &job);
    must_be_done(bench);
    struct image made;
    take(bench, &bench->pictures[0], &made);
    image_free(&made);
}

static void test_refusals_leave_the_worker(void **state) {
    struct bench *bench = *state;
    const float rising[] = {0.5f, 2.0f};
    struct queue_job bad[] = {job_of("job-width", "a"), job_of("job-sigma", "a"), job_of("job-count", "a"),
                              job_of("job-steps", "a")};
    bad[0].width = 5000, bad[0].height = 64;
    bad[1].sigmas = rising, bad[1].sigma_count = 2;
    bad[2].count = 11;
    bad[3].steps = 201;
    for (int i = 0; i < 4; i++) {
        run(bench, &bad[i]);
        assert_int_equal(bench->last.kind, QUEUE_FAILED);
        assert_int_equal(bench->last.failure, QUEUE_FAILURE_JOB);
        assert_int_equal(bench->last.error.kind, ERROR_INPUT);
    }
    struct queue_state now;
    queue_state(bench->queue, &now);
    assert_int_equal(now.workers_started, 1);
}

static void test_cancel(void **state) {
    struct bench *bench = *state;
    struct queue_job job = job_of("job-long", "a");
    struct error error = {0};
    job.width = job.height = 256, job.steps = 200, job.count = 10;
    assert_true(queue_submit(bench->queue, &job, &error));
    wait_for(bench, &bench->progress, 1);
    double before = clock_seconds();
    queue_cancel(bench->queue, "job-long");
    wait_for(bench, &bench->ended, 1);
    assert_true(clock_seconds() - before < 20); // 10 pictures of 200 steps take far longer
    assert_int_equal(bench->last.error.kind, ERROR_CANCELLED);
    bench->ended = 0;
    struct queue_job next = job_of("job-next", "a");
    next.width = next.height = 64, next.steps = 1;
    run(bench, &next);
    must_be_done(bench);
    struct image image;
    take(bench, &bench->pictures[0], &image);
    image_free(&image);
    struct queue_state now;
    queue_state(bench->queue, &now);
    assert_int_equal(now.workers_started, 1); // it stopped by itself
}

static int set_up_no_model(void **state) {
    return set_up_model(state, LIMN_SOURCE_DIR "/tests/fixtures");
}

static void test_no_model(void **state) {
    struct bench *bench = *state;
    struct error error = {0};
    assert_false(queue_wait_ready(bench->queue, 60, NULL, &error));
    if (!strstr(error.message, "tests/fixtures")) fail_msg("\"%s\" does not name the folder", error.message);
}

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "worker")) return command_worker(count - 1, arguments + 1);
    struct error error = {0};
    if (!image_library_start("test_worker", &error)) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pictures_and_previews, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_loras, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_references, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mask, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_masks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_formats, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals_leave_the_worker, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancel, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_model, set_up_no_model, tear_down),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    image_library_stop();
    return failed;
}
