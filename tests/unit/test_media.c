// Media: names, lifetimes, the quota, sweeping, what a range request needs.
#include "unit.h"

#include "base/file.h"
#include "media/media.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct bench {
    char folder[64], source[128];
    struct media *media;
};

static void open_media(struct bench *bench, uint64_t quota) {
    struct error error = {0};
    struct media_options options = {.folder = bench->folder, .lifetime_seconds = 100, .quota_bytes = quota};
    bench->media = media_open(&options, &error);
    assert_ok(bench->media, error);
}

static int set_up(void **state) {
    struct bench *bench = calloc(1, sizeof *bench);
    assert_non_null(bench);
    snprintf(bench->folder, sizeof bench->folder, "/tmp/limn-test-media-XXXXXX");
    assert_non_null(mkdtemp(bench->folder));
    snprintf(bench->source, sizeof bench->source, "%s/source", bench->folder);
    open_media(bench, 0);
    *state = bench;
    return 0;
}

static int tear_down(void **state) {
    struct bench *bench = *state;
    struct media_state sums;
    media_expire(bench->media);
    media_state(bench->media, &sums);
    media_close(bench->media);
    if (rmdir(bench->folder)) fail_msg("%s: %s", bench->folder, strerror(errno)); // nothing is left behind
    assert_int_equal(sums.files, 0);
    assert_int_equal(sums.bytes, 0);
    free(bench);
    return 0;
}

static bool put(struct bench *bench, size_t size, const char *extension, char name[MEDIA_NAME_MOST],
                struct error *error) {
    char *bytes = malloc(size);
    assert_non_null(bytes);
    memset(bytes, 'x', size);
    bool good = file_write(bench->source, bytes, size, error) &&
                media_put_file(bench->media, bench->source, extension, 0, name, error);
    free(bytes);
    return good;
}

static void must_put(struct bench *bench, size_t size, const char *extension, char name[MEDIA_NAME_MOST]) {
    struct error error = {0};
    assert_ok(put(bench, size, extension, name, &error), error);
    assert_false(file_exists(bench->source));
}

static void set_age(struct bench *bench, const char *name, int seconds) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", bench->folder, name);
    struct timespec old[2] = {{time(NULL) - seconds, 0}, {time(NULL) - seconds, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
}

static void test_kinds(void **state) {
    struct bench *bench = *state;
    static const struct {
        const char *extension, *mime;
    } kinds[] = {{"png", "image/png"},
                 {"jpeg", "image/jpeg"},
                 {"webp", "image/webp"},
                 {"gif", "image/gif"},
                 {"avif", "image/avif"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char name[MEDIA_NAME_MOST];
        struct media_item item;
        struct error error = {0};
        must_put(bench, 5 + i, kinds[i].extension, name);
        assert_int_equal(strspn(name, "0123456789abcdef"), 32);
        assert_string_equal(name + 33, kinds[i].extension);
        assert_true(media_name_is_valid(name));
        assert_ok(media_get(bench->media, name, &item, &error), error);
        assert_int_equal(item.size, 5 + i);
        assert_string_equal(item.mime, kinds[i].mime);
        assert_true(item.seconds_left > 90 && item.seconds_left <= 100);
        assert_true(llabs((long long)item.modified - (long long)time(NULL)) < 10);
        assert_true(item.etag[0] == '"' && item.etag[strlen(item.etag) - 1] == '"');
        char etag[MEDIA_ETAG_MOST];
        snprintf(etag, sizeof etag, "%s", item.etag);
        close(item.file);
        assert_true(media_get(bench->media, name, &item, &error)); // it stays the same
        assert_string_equal(item.etag, etag);
        close(item.file);
        assert_true(media_remove(bench->media, name, &error));
        assert_false(media_remove(bench->media, name, &error));
        assert_int_equal(error.kind, ERROR_NOT_FOUND);
    }
}

// A folder that looks after itself removes what is over without being asked.
static void test_thread(void **state) {
    struct bench *bench = *state;
    char folder[160], name[MEDIA_NAME_MOST];
    struct error error = {0};
    snprintf(folder, sizeof folder, "%s/own", bench->folder);
    struct media_options options = {.folder = folder, .lifetime_seconds = 0.01, .expire_each_seconds = 0.1};
    struct media *media = media_open(&options, &error);
    assert_ok(media, error);
    assert_true(file_write(bench->source, "x", 1, &error));
    assert_ok(media_put_file(media, bench->source, "png", false, name, &error), error);
    struct media_state sums = {.files = 1};
    for (int i = 0; i < 20000 && sums.files; i++) {
        usleep(1000);
        media_state(media, &sums);
    }
    assert_int_equal(sums.files, 0);
    media_close(media);
    assert_int_equal(rmdir(folder), 0);
}

static void test_other_names(void **state) {
    struct bench *bench = *state;
    static const char *const wrong[] = {"",
                                        "x.png",
                                        "../etc/passwd",
                                        "00000000000000000000000000000000.png",
                                        "00000000000000000000000000000000.exe",
                                        "00000000000000000000000000000000.png/../../x",
                                        "0000000000000000000000000000000G.png"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct error error = {0};
        struct media_item item;
        assert_false(media_get(bench->media, wrong[i], &item, &error));
        assert_int_equal(error.kind, ERROR_NOT_FOUND);
        assert_int_equal(item.file, -1);
    }
    char name[MEDIA_NAME_MOST];
    struct error error = {0};
    assert_false(put(bench, 5, "exe", name, &error));
    assert_int_equal(error.kind, ERROR_INTERNAL);
    assert_int_equal(unlink(bench->source), 0);
}

// A link under a name of ours is not followed, and what is no file is not served.
static void test_links(void **state) {
    struct bench *bench = *state;
    char path[160];
    const char *name = "0123456789abcdef0123456789abcdef.png";
    struct media_item item;
    snprintf(path, sizeof path, "%s/%s", bench->folder, name);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    assert_false(media_get(bench->media, name, &item, NULL));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_false(media_get(bench->media, name, &item, NULL));
    assert_int_equal(unlink(path), 0);
}

static void test_expiry(void **state) {
    struct bench *bench = *state;
    char old[MEDIA_NAME_MOST], young[MEDIA_NAME_MOST];
    struct media_item item;
    struct error error = {0};
    must_put(bench, 5, "png", old);
    must_put(bench, 6, "png", young);
    assert_int_equal(media_expire(bench->media), 0);
    set_age(bench, old, 101);
    assert_false(media_get(bench->media, old, &item, &error));
    assert_int_equal(media_expire(bench->media), 1);
    assert_true(media_get(bench->media, young, &item, NULL));
    close(item.file);
    struct media_state sums;
    media_state(bench->media, &sums);
    assert_int_equal(sums.files, 1);
    assert_int_equal(sums.bytes, 6);
    // What was there before is counted anew, what is over goes at once.
    char third[MEDIA_NAME_MOST];
    must_put(bench, 7, "gif", third);
    set_age(bench, young, 200);
    media_close(bench->media);
    open_media(bench, 0);
    media_state(bench->media, &sums);
    assert_int_equal(sums.files, 1);
    assert_int_equal(sums.bytes, 7);
    set_age(bench, third, 200);
}

static void test_quota(void **state) {
    struct bench *bench = *state;
    media_close(bench->media);
    open_media(bench, 1000);
    char names[3][MEDIA_NAME_MOST];
    struct error error = {0};
    must_put(bench, 600, "png", names[0]);
    assert_false(put(bench, 500, "png", names[1], &error));
    assert_int_equal(error.kind, ERROR_IO);
    assert_contains(error.message, strerror(ENOSPC));
    assert_true(file_exists(bench->source)); // the caller's still
    must_put(bench, 400, "png", names[1]);   // to the byte
    error_clear(&error);
    assert_false(put(bench, 1, "png", names[2], &error));
    set_age(bench, names[0], 101); // what is over makes room
    must_put(bench, 550, "png", names[2]);
    struct media_state sums;
    media_state(bench->media, &sums);
    assert_int_equal(sums.bytes, 950);
    assert_int_equal(sums.files, 2);
    error_clear(&error);
    assert_false(put(bench, 2000, "png", names[0], &error));
    assert_int_equal(unlink(bench->source), 0);
    set_age(bench, names[1], 101);
    set_age(bench, names[2], 101);
}

static bool keep_one(void *context, const char *name) {
    return !strcmp(context, name);
}

static void test_sweep(void **state) {
    struct bench *bench = *state;
    char kept[MEDIA_NAME_MOST], orphan[MEDIA_NAME_MOST], fresh[MEDIA_NAME_MOST], path[160];
    struct media_item item;
    must_put(bench, 5, "png", kept);
    must_put(bench, 5, "png", orphan);
    must_put(bench, 5, "png", fresh);
    set_age(bench, kept, 50);
    set_age(bench, orphan, 50);
    snprintf(path, sizeof path, "%s/notes.txt", bench->folder); // not media's
    assert_true(file_write(path, "x", 1, NULL));
    assert_int_equal(media_sweep(bench->media, 10, keep_one, kept), 1);
    assert_false(media_get(bench->media, orphan, &item, NULL));
    assert_true(media_get(bench->media, kept, &item, NULL));
    close(item.file);
    assert_true(media_get(bench->media, fresh, &item, NULL));
    close(item.file);
    assert_true(file_exists(path));
    assert_int_equal(unlink(path), 0);
    set_age(bench, kept, 101);
    set_age(bench, fresh, 101);
}

static bool keep_none(void *context, const char *name) {
    return false;
}

// A file may be kept for longer than others, or for less: over a restart, too, and orphans of either kind go.
static void test_own_lifetimes(void **state) {
    struct bench *bench = *state;
    struct error error = {0};
    struct media_item item;
    char shorter[MEDIA_NAME_MOST], longer[MEDIA_NAME_MOST];
    assert_ok(file_write(bench->source, "x", 1, &error), error);
    assert_ok(media_put_file(bench->media, bench->source, "png", 5, shorter, &error), error);
    assert_ok(file_write(bench->source, "x", 1, &error), error);
    assert_ok(media_put_file(bench->media, bench->source, "png", 3155760000.0, longer, &error), error);
    assert_ok(media_get(bench->media, shorter, &item, &error), error);
    assert_true(item.seconds_left > 3 && item.seconds_left <= 5);
    close(item.file);
    assert_ok(media_get(bench->media, longer, &item, &error), error);
    assert_true(item.seconds_left > 3155750000.0 && item.modified <= time(NULL) + 1);
    close(item.file);
    assert_int_equal(media_expire(bench->media), 0);
    assert_int_equal(media_sweep(bench->media, 0, keep_none, NULL), 2);
}

// Many threads put and remove at once: the sum stays right.
static void *churn(void *context) { // NULL, or the thread failed
    struct bench *bench = context;
    char source[160], name[MEDIA_NAME_MOST];
    snprintf(source, sizeof source, "%s/source-%llx", bench->folder, (unsigned long long)pthread_self());
    for (int i = 0; i < 50; i++) {
        struct error error = {0};
        if (!file_write(source, "0123456789", 10, &error) ||
            !media_put_file(bench->media, source, "webp", 0, name, &error) ||
            !media_remove(bench->media, name, &error))
            return context;
    }
    return NULL;
}

static void test_threads(void **state) {
    struct bench *bench = *state;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, churn, bench), 0);
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
}

static void test_bad_folder(void **state) {
    struct error error = {0};
    assert_null(media_open(&(struct media_options){.folder = "/proc/nowhere"}, &error));
    assert_contains(error.message, "/proc/nowhere");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kinds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_thread, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_other_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_links, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_expiry, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_quota, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sweep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_own_lifetimes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_threads, set_up, tear_down),
        cmocka_unit_test(test_bad_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
