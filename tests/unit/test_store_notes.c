// Notes that a request is with a provider, which nobody waits for: when they are written, and when they need not be.
#include "store_helper.h"

static void note(struct store *store, const char *id, int index) {
    struct error error = {0};
    struct store_attempt attempt = {.provider = "local", .dispatched_at = clock_unix_micros()};
    assert_ok(store_dispatched(store, id, index, &attempt, NULL, NULL, &error), error);
}

static void wait_for(struct shelf *shelf, const char *sql, int64_t value) {
    for (int i = 0; i < 200 && shelf_integer(shelf, sql) != value; i++)
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    assert_int_equal(shelf_integer(shelf, sql), value);
}

static void test_written_by_itself(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_note_0001");
    must_begin(store, &begin);
    note(store, begin.id, 0);
    wait_for(shelf, "SELECT count(*) FROM attempts WHERE status = 1", 1);
    json_t *json = get_now(store, begin.id, &EVERYBODY, NULL);
    assert_string_equal(text_of(json, "status"), "processing");
    json_decref(json);
    nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL); // until the writer rests
    note(store, begin.id, 1);
    wait_for(shelf, "SELECT count(*) FROM attempts", 2);
}

static void test_left_out_when_settled(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    enum { REQUESTS = 50 };
    struct store_begin other = begin_of("req_other_001");
    must_begin(store, &other);
    struct store_state before, after;
    store_state(store, &before);
    note(store, other.id, 0); // which stays in work
    for (int i = 0; i < REQUESTS; i++) {
        char id[32];
        snprintf(id, sizeof id, "req_note_%04d", i);
        struct store_begin begin = begin_of(id);
        must_begin(store, &begin);
        note(store, id, 0);
        assert_true(complete_now(store, id, 8000, NULL).changed);
    }
    wait_for(shelf, "SELECT count(*) FROM attempts WHERE status = 1", 1);
    store_state(store, &after);
    assert_int_equal(after.waiting, 0);
    // Two operations each and one for the other's note; a note may have been due on a slow machine.
    assert_in_range(after.operations - before.operations, 2 * REQUESTS + 1, 2 * REQUESTS + 1 + REQUESTS / 2);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM attempts"), REQUESTS + 1);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM attempts WHERE status = 2 AND ended_at > 0"),
                     REQUESTS);
}

// A settling that does not say what was tried ends what the notes say was.
static void test_kept_when_the_settling_needs_them(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_note_0001");
    must_begin(store, &begin);
    note(store, begin.id, 0);
    note(store, begin.id, 1);
    assert_true(fail_now(store, begin.id, "WORKER_DIED", NULL).changed);
    json_t *json = get_now(store, begin.id, &EVERYBODY, NULL);
    const json_t *attempts = json_object_get(json, "attempts");
    assert_int_equal(json_array_size(attempts), 2);
    for (size_t i = 0; i < 2; i++)
        assert_string_equal(text_of(json_array_get(attempts, i), "error_code"), "WORKER_DIED");
    json_decref(json);
}

static void test_written_before_the_end(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_note_0001");
    must_begin(store, &begin);
    note(store, begin.id, 0);
    shelf_close(shelf);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM attempts WHERE status = 1"), 1);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, shelf_set_up, shelf_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_written_by_itself),
        TEST(test_left_out_when_settled),
        TEST(test_kept_when_the_settling_needs_them),
        TEST(test_written_before_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
