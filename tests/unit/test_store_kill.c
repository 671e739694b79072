// A process that writes records is killed at random moments, many times. Afterwards every request that was accepted has ended
// as completed or INTERRUPTED, what was reported as settled is, and nothing was charged twice or is still reserved.
#include "store_helper.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

enum { KILLS = 60, FLIGHTS = 16, COST = 7000, ESTIMATE = 9000 };

// ------------------------------------------------------------------------------------------------------ the process killed

struct flight {
    struct store *store;
    const char *key_id;
    int report, round, *number;
    char id[40];
};

static void next(struct flight *flight);

// "b <id>" when a request was accepted, "s <id>" when it is settled; one write each, so a line is whole or absent.
static void report(const struct flight *flight, char what) {
    char line[64];
    int length = snprintf(line, sizeof line, "%c %s\n", what, flight->id);
    if (write(flight->report, line, (size_t)length) != length) _exit(3);
}

static void when_settled(void *context, const struct store_settled *settled) {
    struct flight *flight = context;
    if (!settled->changed) _exit(4);
    report(flight, 's');
    next(flight);
}

static void when_begun(void *context, struct store_begun *begun) {
    struct flight *flight = context;
    if (begun->outcome != STORE_NEW) _exit(5);
    report(flight, 'b');
    int64_t now = clock_unix_micros();
    struct store_attempt attempt = {.provider = "local",
                                    .dispatched_at = now,
                                    .ended_at = now + 5,
                                    .status = STORE_COMPLETED,
                                    .cost_micros = COST,
                                    .images = 1};
    struct store_settle settle = {.id = flight->id,
                                  .status = STORE_COMPLETED,
                                  .http_status = 200,
                                  .cost_micros = COST,
                                  .images = 1,
                                  .attempts = &attempt,
                                  .attempt_count = 1,
                                  .answer = "{}",
                                  .answer_size = 2};
    struct error error = {0};
    if (!store_settle(flight->store, &settle, when_settled, flight, &error)) _exit(6);
    // Twice, as a confused caller might: the second must not count.
    if (!store_settle(flight->store, &settle, NULL, NULL, &error)) _exit(6);
}

static void next(struct flight *flight) {
    snprintf(flight->id, sizeof flight->id, "req_%03d_%08d", flight->round,
             __atomic_fetch_add(flight->number, 1, __ATOMIC_RELAXED));
    struct store_begin begin = begin_of(flight->id);
    begin.key_id = flight->key_id;
    begin.estimate_micros = ESTIMATE;
    begin.idempotency_key = flight->id;
    struct error error = {0};
    if (!store_begin(flight->store, &begin, when_begun, flight, &error)) _exit(7);
}

// Writes until it is killed.
static int write_for_ever(const char *path, const char *key_id, int round, int pipe) {
    static struct flight flights[FLIGHTS];
    int number = 0;
    struct error error = {0};
    struct store_options options = {.path = path};
    struct store *store = store_open(&options, &error);
    if (!store) {
        fprintf(stderr, "%s\n", error.message);
        return 2;
    }
    for (int i = 0; i < FLIGHTS; i++) {
        flights[i] = (struct flight){store, key_id, pipe, round, &number, ""};
        next(&flights[i]);
    }
    for (;;) pause();
}

// ------------------------------------------------------------------------------------------------------------ the judge

struct notes {
    char **begun, **settled;
    int begun_count, settled_count;
};

static void note(char ***list, int *count, const char *id) {
    *list = realloc(*list, (size_t)(*count + 1) * sizeof **list);
    assert_non_null(*list);
    (*list)[(*count)++] = strdup(id);
}

static void read_notes(int pipe, struct notes *notes) {
    FILE *file = fdopen(pipe, "r");
    char line[64];
    while (fgets(line, sizeof line, file)) {
        if (!strchr(line, '\n')) break;
        line[strcspn(line, "\n")] = 0;
        if (*line == 'b')
            note(&notes->begun, &notes->begun_count, line + 2);
        else
            note(&notes->settled, &notes->settled_count, line + 2);
    }
    fclose(file);
}

static void run_and_kill(const char *program, struct shelf *shelf, const char *key_id, int round, int spread,
                         struct notes *notes) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_true(fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) > 0); // what is written before the kill must fit
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        char number[16], output[16];
        close(ends[0]);
        snprintf(number, sizeof number, "%d", round);
        snprintf(output, sizeof output, "%d", ends[1]);
        execl(program, program, "write", shelf->path, key_id, number, output, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    // At first it may be killed while it still opens or recovers, later in full work.
    usleep((useconds_t)(rand() % spread));
    kill(child, SIGKILL);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFSIGNALED(status)) fail_msg("the writing process ended by itself: %d", WEXITSTATUS(status));
    read_notes(ends[0], notes);
}

static const char *program_path;

static void test_kill(void **state) {
    struct shelf *shelf = *state;
    struct database *database = shelf_database(shelf);
    struct key_info key = {.name = "one", .budget_total_micros = INT64_C(1) << 50};
    char text[KEY_TEXT_MOST];
    struct error error = {0};
    assert_ok(key_create(database, &key, clock_unix_micros(), text, &error), error);
    database_close(database);
    struct notes notes = {0};
    srand(20261123);
    // On a slow machine the times grow until it comes to some work within them.
    for (int round = 0, spread = 60000; round < KILLS; round++) {
        int before = notes.settled_count;
        run_and_kill(program_path, shelf, key.id, round, spread, &notes);
        if (notes.settled_count == before && spread < 2000000) spread += spread / 4;
    }
    shelf_open(shelf); // recovers the last one
    shelf_close(shelf);

    assert_true(notes.begun_count > 200 && notes.settled_count > 100);
    database = shelf_database(shelf);
    int64_t value;
    for (int i = 0; i < notes.begun_count; i++) {
        assert_ok(database_integer(
                      database, &error, -1, &value,
                      "SELECT status = 2 OR (status = 3 AND error_code = 'INTERRUPTED' AND cost_micros = 0) "
                      "FROM requests WHERE id = ?1",
                      "s", notes.begun[i]),
                  error);
        if (value != 1) fail_msg("%s was accepted and is neither completed nor INTERRUPTED", notes.begun[i]);
        free(notes.begun[i]);
    }
    for (int i = 0; i < notes.settled_count; i++) {
        assert_ok(database_integer(database, &error, -1, &value, "SELECT status FROM requests WHERE id = ?1",
                                   "s", notes.settled[i]),
                  error);
        if (value != STORE_COMPLETED)
            fail_msg("%s was settled and has status %d", notes.settled[i], (int)value);
        free(notes.settled[i]);
    }
    free(notes.begun);
    free(notes.settled);
    database_close(database);
    int64_t completed = shelf_integer(shelf, "SELECT count(*) FROM requests WHERE status = 2");
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM requests WHERE status < 2"), 0);
    assert_int_equal(shelf_integer(shelf, "SELECT sum(reserved) FROM usage"), 0);
    assert_int_equal(shelf_integer(shelf, "SELECT sum(images_reserved) FROM usage"), 0);
    assert_int_equal(shelf_integer(shelf, "SELECT spent FROM usage WHERE period = 2"), completed * COST);
    assert_int_equal(shelf_integer(shelf, "SELECT images FROM usage WHERE period = 2"), completed);
    assert_int_equal(shelf_integer(shelf, "SELECT sum(cost_micros) FROM requests"), completed * COST);
    assert_int_equal(shelf_integer(shelf, "SELECT sum(cost_micros) FROM attempts"), completed * COST);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM answers"), completed);
    // An interrupted request has freed its idempotency key, a completed one keeps it.
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM idempotency"), completed);
    assert_int_equal(
        shelf_integer(shelf, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'"), 1);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
}

int main(int count, char **arguments) {
    if (count == 6 && !strcmp(arguments[1], "write"))
        return write_for_ever(arguments[2], arguments[3], atoi(arguments[4]), atoi(arguments[5]));
    program_path = "/proc/self/exe";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kill, shelf_set_up, shelf_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
