#include "unit.h"

#include "base/clock.h"
#include "base/log.h"

#include <unistd.h>

// What a call writes to standard error, into [text].
static void capture(char *text, size_t size, const struct log *log, enum log_level level,
                    const char *message) {
    int ends[2], kept = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    log_line(log, level, "%s", message);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[1]);
    ssize_t got = read(ends[0], text, size - 1);
    close(ends[0]);
    text[got > 0 ? got : 0] = 0;
}

static void lines(void **state) {
    char text[8192];
    struct log log = {LOG_INFO, "worker", false};
    capture(text, sizeof text, &log, LOG_WARNING, "two\nlines");
    assert_int_equal(strlen("2026-11-22T21:48:00Z "), strchr(text, ' ') + 1 - text);
    assert_string_equal(strchr(text, ' '), " warning worker: two lines\n");
    capture(text, sizeof text, &log, LOG_DEBUG, "not wanted");
    assert_string_equal(text, "");
    capture(text, sizeof text, NULL, LOG_ERROR, "nobody");
    assert_string_equal(text, "");
    char *long_message = calloc(1, 10001);
    memset(long_message, 'x', 10000);
    capture(text, sizeof text, &log, LOG_ERROR, long_message);
    free(long_message);
    assert_true(strlen(text) <= 4096 && strlen(text) > 4000);
    assert_int_equal(text[strlen(text) - 1], '\n');
}

static void time_goes_on(void **state) {
    double begin = clock_seconds();
    usleep(1500);
    double passed = clock_seconds() - begin;
    assert_true(passed >= 0.0015 && passed < 60);
    assert_true(clock_unix_micros() > INT64_C(1600000000000000));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(lines), cmocka_unit_test(time_goes_on)};
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
