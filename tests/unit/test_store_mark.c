// The mark below which every request has ended, by which those that a dead server left are found.
#include "store_helper.h"

#include "store/records.h"

static int64_t mark_of(struct shelf *shelf) {
    return shelf_integer(shelf, "SELECT " SETTLED_BELOW);
}

static void move_mark(struct shelf *shelf) {
    struct error error = {0};
    struct database *database = shelf_database(shelf);
    assert_ok(record_mark(database, &error), error);
    database_close(database);
}

static void run_sql(struct shelf *shelf, const char *sql) {
    struct error error = {0};
    struct database *database = shelf_database(shelf);
    assert_ok(database_run(database, &error, sql, ""), error);
    database_close(database);
}

static void begin_numbered(struct store *store, int number) {
    char id[32];
    snprintf(id, sizeof id, "req_mark_%05d", number);
    struct store_begin begin = begin_of(id);
    must_begin(store, &begin);
}

static void end_numbered(struct store *store, int number) {
    char id[32];
    snprintf(id, sizeof id, "req_mark_%05d", number);
    assert_true(complete_now(store, id, 1, NULL).changed);
}

static void test_moves_to_what_is_open(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    for (int i = 1; i <= 5; i++) begin_numbered(store, i);
    end_numbered(store, 1);
    end_numbered(store, 2);
    end_numbered(store, 4);
    move_mark(shelf);
    assert_int_equal(mark_of(shelf), 3);
    move_mark(shelf); // it does not pass what is open
    assert_int_equal(mark_of(shelf), 3);
    shelf_close(shelf);
    store = shelf_open(shelf); // 3 and 5 were left
    struct store_state now;
    store_state(store, &now);
    assert_int_equal(now.recovered, 2);
    move_mark(shelf);
    assert_int_equal(mark_of(shelf), 6);
    begin_numbered(store, 6);
    shelf_close(shelf);
    store = shelf_open(shelf);
    store_state(store, &now);
    assert_int_equal(now.recovered, 1);
}

static void test_upkeep_moves_it(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    begin_numbered(store, 1);
    end_numbered(store, 1);
    shelf_close(shelf);
    shelf_open(shelf); // upkeep comes first thing
    for (int i = 0; i < 100 && mark_of(shelf) != 2; i++)
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    assert_int_equal(mark_of(shelf), 2);
}

// Without rows SQLite numbers from 1 again: a mark that stayed would hide what comes.
static void test_begins_anew_with_the_numbers(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    for (int i = 1; i <= 3; i++) begin_numbered(store, i);
    for (int i = 1; i <= 3; i++) end_numbered(store, i);
    shelf_close(shelf);
    move_mark(shelf);
    assert_int_equal(mark_of(shelf), 4);

    struct error error = {0};
    int count;
    struct database *database = shelf_database(shelf);
    assert_ok(record_expire(database, INT64_MAX, INT64_MAX, 100, &count, &error), error);
    assert_ok(record_mark(database, &error), error);
    database_close(database);
    assert_int_equal(count, 3);
    assert_int_equal(mark_of(shelf), 0);

    store = shelf_open(shelf);
    begin_numbered(store, 4);
    assert_int_equal(shelf_integer(shelf, "SELECT seq FROM requests"), 1);
    shelf_close(shelf);
    store = shelf_open(shelf);
    struct store_state now;
    store_state(store, &now);
    assert_int_equal(now.recovered, 1);
}

static void test_rows_removed_by_hand(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    for (int i = 1; i <= 9; i++) begin_numbered(store, i);
    for (int i = 1; i <= 9; i++) end_numbered(store, i);
    shelf_close(shelf);
    move_mark(shelf);
    run_sql(shelf, "DELETE FROM requests WHERE seq > 2");
    run_sql(shelf, "UPDATE requests SET status = 0, slot = 0 WHERE seq = 2");
    move_mark(shelf); // 10 is beyond the end
    assert_int_equal(mark_of(shelf), 0);
    move_mark(shelf);
    assert_int_equal(mark_of(shelf), 2);
}

// More than one chunk of them, with others between.
static void test_many_are_found_in_one_go(void **state) {
    enum { MANY = 1300 };
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    begin_numbered(store, 0);
    shelf_close(shelf);
    run_sql(shelf, "DELETE FROM requests");
    run_sql(shelf,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1300) "
            "INSERT INTO requests (id, project, model, mode, endpoint, status, created_at, request_bytes, "
            "images_asked, estimate_micros, slot) SELECT 'req_many_' || i, 'default', 'm', 'text-to-image', "
            "'/', CASE i % 4 WHEN 0 THEN 2 ELSE i % 2 END, i, 5, 1, 0, i % 3 FROM n");
    run_sql(shelf, "UPDATE meta SET value = 0 WHERE name = 'settled_below'");
    store = shelf_open(shelf);
    struct store_state now;
    store_state(store, &now);
    assert_int_equal(now.recovered, MANY - MANY / 4);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM requests WHERE status < 2"), 0);
    move_mark(shelf);
    assert_int_equal(mark_of(shelf), MANY + 1);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, shelf_set_up, shelf_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_moves_to_what_is_open),        TEST(test_upkeep_moves_it),
        TEST(test_begins_anew_with_the_numbers), TEST(test_rows_removed_by_hand),
        TEST(test_many_are_found_in_one_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
