// The store: the way of a request through it, idempotency, purge, retention, and what happens when the database refuses.
#include "store_helper.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void test_way_of_a_request(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_one_00001");
    begin.user = "ann";
    begin.trace_id = "0af7651916cd43dd8448eb211c80319c";
    must_begin(store, &begin);
    json_t *json = get_now(store, begin.id, &EVERYBODY, NULL);
    assert_string_equal(text_of(json, "status"), "pending");
    assert_string_equal(text_of(json, "project"), "default");
    assert_true(json_is_null(json_object_get(json, "duration_ms")));
    json_decref(json);

    struct waiter waiter = waiter_make();
    struct error error = {0};
    struct store_attempt attempt = {.provider = "local", .dispatched_at = clock_unix_micros()};
    assert_ok(store_dispatched(store, begin.id, 0, &attempt, on_done, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_ok(waiter.error.kind == ERROR_NONE, waiter.error);
    json = get_now(store, begin.id, &EVERYBODY, NULL);
    assert_string_equal(text_of(json, "status"), "processing");
    assert_int_equal(json_array_size(json_object_get(json, "attempts")), 1);
    json_decref(json);

    assert_true(complete_now(store, begin.id, 8000, NULL).changed);
    json = get_now(store, begin.id, &EVERYBODY, NULL);
    assert_string_equal(text_of(json, "status"), "completed");
    assert_string_equal(text_of(json, "size"), "64x48");
    assert_string_equal(text_of(json, "user"), "ann");
    assert_string_equal(text_of(json, "trace_id"), begin.trace_id);
    assert_string_equal(text_of(json, "executed_model"), "local/pictogram");
    assert_int_equal(number_of(json, "cost_micros"), 8000);
    assert_true(json_real_value(json_object_get(json, "cost")) == 0.008);
    const json_t *attempts = json_object_get(json, "attempts");
    assert_int_equal(json_array_size(attempts), 1); // the one of the dispatch was replaced
    const json_t *first = json_array_get(attempts, 0);
    assert_int_equal(number_of(first, "queue_ms"), 500);
    assert_int_equal(number_of(first, "first_byte_ms"), 600);
    assert_int_equal(number_of(first, "duration_ms"), 1000);
    // Nobody asked for payloads to be kept.
    assert_true(json_is_null(json_object_get(json, "payload")));
    assert_true(json_is_null(json_object_get(json, "answer")));
    json_decref(json);
}

static void test_settled_once(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_one_00001");
    must_begin(store, &begin);
    assert_true(complete_now(store, begin.id, 8000, NULL).changed);
    struct store_settled again = complete_now(store, begin.id, 5000, NULL);
    assert_false(again.changed);
    assert_int_equal(again.error.kind, ERROR_NONE);
    assert_false(fail_now(store, begin.id, "WORKER_DIED", NULL).changed);
    assert_int_equal(shelf_integer(shelf, "SELECT cost_micros FROM requests"), 8000);
    assert_int_equal(shelf_integer(shelf, "SELECT status FROM requests"), STORE_COMPLETED);
    struct store_settled none = complete_now(store, "req_nobody", 1, NULL);
    assert_int_equal(none.error.kind, ERROR_NOT_FOUND);
    assert_false(none.deferred);
    // The same id twice fails by itself.
    struct store_begun twice = begin_now(store, &begin);
    assert_int_equal(twice.outcome, STORE_UNWRITTEN);
    assert_int_equal(twice.error.kind, ERROR_INPUT);
}

struct crowd {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int good, bad;
};

static void on_crowd(void *context, struct store_begun *begun) {
    struct crowd *crowd = context;
    pthread_mutex_lock(&crowd->lock);
    *(begun->outcome == STORE_NEW ? &crowd->good : &crowd->bad) += 1;
    pthread_cond_signal(&crowd->changed);
    pthread_mutex_unlock(&crowd->lock);
}

// Many in one batch; those that fail leave the others alone.
static void test_batches(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct crowd crowd = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    enum { COUNT = 3000 };
    for (int i = 0; i < COUNT; i++) {
        char id[32];
        snprintf(id, sizeof id, "req_%06d",
                 i % 5 == 4 ? i - 1 : i); // every fifth has the id of the one before
        struct store_begin begin = begin_of(id);
        struct error error = {0};
        assert_ok(store_begin(store, &begin, on_crowd, &crowd, &error), error);
    }
    pthread_mutex_lock(&crowd.lock);
    while (crowd.good + crowd.bad < COUNT) pthread_cond_wait(&crowd.changed, &crowd.lock);
    pthread_mutex_unlock(&crowd.lock);
    assert_int_equal(crowd.good, COUNT / 5 * 4);
    assert_int_equal(crowd.bad, COUNT / 5);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM requests"), COUNT / 5 * 4);
    struct store_state now;
    store_state(store, &now);
    assert_true(now.batches < COUNT / 2 && now.largest_batch > 1);
    assert_true(now.good);
}

static void test_queue_is_bounded(void **state) {
    struct shelf *shelf = *state;
    shelf->options.queue_most = 4;
    struct store *store = shelf_open(shelf);
    struct database *other = shelf_database(shelf);
    struct error error = {0};
    assert_ok(database_run(other, &error, "BEGIN IMMEDIATE", ""), error);
    struct crowd crowd = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    int taken = 0, refused = 0;
    for (int i = 0; i < 40; i++) {
        char id[32];
        snprintf(id, sizeof id, "req_%06d", i);
        struct store_begin begin = begin_of(id);
        struct error full = {0};
        if (store_begin(store, &begin, on_crowd, &crowd, &full))
            taken++;
        else
            refused++, assert_int_equal(full.kind, ERROR_UNAVAILABLE);
    }
    assert_true(taken >= 4 && refused > 20);
    assert_ok(database_run(other, &error, "ROLLBACK", ""), error);
    database_close(other);
    shelf_close(shelf); // every completion has come when this returns
    assert_int_equal(crowd.good + crowd.bad, taken);
}

static void test_idempotency(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_first_001");
    begin.idempotency_key = "order 66";
    begin.body_hash[0] = 7;
    must_begin(store, &begin);
    begin.id = "req_second_02";
    struct store_begun begun = begin_now(store, &begin);
    assert_int_equal(begun.outcome, STORE_ATTACH);
    assert_string_equal(begun.request_id, "req_first_001");
    begin.body_hash[31] = 1;
    begun = begin_now(store, &begin);
    assert_int_equal(begun.outcome, STORE_CONFLICT);
    assert_contains(begun.message, "req_first_001");
    begin.body_hash[31] = 0;

    assert_true(complete_now(store, "req_first_001", 8000, "{\"created\":1}").changed);
    begun = begin_now(store, &begin);
    assert_int_equal(begun.outcome, STORE_REPLAY);
    assert_int_equal(begun.answer.http_status, 200);
    assert_string_equal(begun.answer.type, "application/json");
    assert_string_equal(begun.answer.body, "{\"created\":1}");
    assert_int_equal(begun.answer.size, 13);
    free(begun.answer.body);
    begin.body_hash[0] = 8;
    assert_int_equal(begin_now(store, &begin).outcome, STORE_CONFLICT);
    begin.body_hash[0] = 7;
    // Another project has keys of its own.
    begin.project = "other";
    must_begin(store, &begin);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM requests"), 2);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM projects WHERE id = 'other'"), 1);
}

// What is worth a retry frees its key; what is not is answered again.
static void test_idempotency_of_failures(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_first_001");
    begin.idempotency_key = "a";
    must_begin(store, &begin);
    assert_true(fail_now(store, begin.id, "WORKER_DIED", NULL).changed);
    begin.id = "req_second_02";
    must_begin(store, &begin);
    assert_true(fail_now(store, begin.id, "CONTENT_POLICY_VIOLATION", "{\"error\":{}}").changed);
    begin.id = "req_third_003";
    struct store_begun begun = begin_now(store, &begin);
    assert_int_equal(begun.outcome, STORE_REPLAY);
    assert_int_equal(begun.answer.http_status, 503);
    assert_string_equal(begun.request_id, "req_second_02");
    free(begun.answer.body);
}

static void test_idempotency_ends(void **state) {
    struct shelf *shelf = *state;
    shelf->options.answer_seconds = 0.2;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_first_001");
    begin.idempotency_key = "a";
    must_begin(store, &begin);
    assert_true(complete_now(store, begin.id, 0, "{}").changed);
    begin.id = "req_second_02";
    double deadline = clock_seconds() + 10;
    struct store_begun begun;
    while ((begun = begin_now(store, &begin)).outcome == STORE_REPLAY && clock_seconds() < deadline) {
        free(begun.answer.body);
        usleep(20000);
    }
    assert_int_equal(begun.outcome, STORE_NEW);
}

// A kept answer may leave its pictures out: what was said of them comes back with it, and stands in the record.
static void test_answers_without_their_pictures(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    static const char answer[] = "{\"data\":[{\"b64_json\":\"\"},{\"b64_json\":\"\"}]}",
                      pictures[] = "22 kaa.png\n38 kbb.png\n";
    struct store_begin begin = begin_of("req_picture_1");
    begin.idempotency_key = "k";
    must_begin(store, &begin);
    struct store_settle settle = {.id = begin.id,
                                  .status = STORE_COMPLETED,
                                  .http_status = 200,
                                  .answer = answer,
                                  .answer_size = strlen(answer),
                                  .answer_pictures = pictures};
    assert_true(settle_now(store, &settle).changed);
    begin.id = "req_picture_2";
    struct store_begun begun = begin_now(store, &begin);
    assert_int_equal(begun.outcome, STORE_REPLAY);
    assert_string_equal(begun.answer.body, answer);
    assert_string_equal(begun.answer.pictures, pictures);
    free(begun.answer.body);
    json_t *json = get_now(store, "req_picture_1", &EVERYBODY, NULL);
    const json_t *data = json_object_get(json_object_get(json, "answer"), "data");
    for (size_t i = 0; i < 2; i++)
        assert_string_equal(text_of(json_object_get(json_array_get(data, i), "b64_json"), "media"),
                            i ? "kbb.png" : "kaa.png");
    json_decref(json);
}

// What was done and charged is not done again though its answer is not kept.
static void test_completed_without_an_answer(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_nothing_1");
    begin.idempotency_key = "k";
    must_begin(store, &begin);
    assert_true(complete_now(store, begin.id, 8000, NULL).changed);
    begin.id = "req_nothing_2";
    struct store_begun begun = begin_now(store, &begin);
    assert_int_equal(begun.outcome, STORE_CONFLICT);
    assert_contains(begun.message, "req_nothing_1");
    assert_contains(begun.message, "not kept");
}

static void test_answers_of_asynchronous_requests(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_async_001");
    begin.asynchronous = true;
    must_begin(store, &begin);
    struct error error = {0};
    struct waiter waiter = waiter_make();
    assert_ok(store_get_answer(store, begin.id, &EVERYBODY, on_answer, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_int_equal(waiter.error.kind, ERROR_NOT_FOUND);
    assert_true(complete_now(store, begin.id, 0, "{\"created\":7}").changed);
    waiter = waiter_make();
    assert_ok(store_get_answer(store, begin.id, &EVERYBODY, on_answer, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_ok(waiter.error.kind == ERROR_NONE, waiter.error);
    assert_string_equal(waiter.answer.body, "{\"created\":7}");
    free(waiter.answer.body);
    json_t *json = get_now(store, begin.id, &EVERYBODY, NULL);
    assert_int_equal(number_of(json_object_get(json, "answer"), "created"), 7);
    json_decref(json);
    // A request that nobody will come back for keeps none.
    begin = begin_of("req_plain_001");
    must_begin(store, &begin);
    assert_true(complete_now(store, begin.id, 0, "{\"created\":7}").changed);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM answers"), 1);
}

static void test_payloads_and_purge(void **state) {
    struct shelf *shelf = *state;
    shelf->options.keep_payloads = true;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_payload_1");
    begin.payload = "{\"prompt\":\"a secret garden\"}";
    begin.idempotency_key = "k";
    must_begin(store, &begin);
    struct error error = {0};
    struct waiter waiter = waiter_make();
    assert_ok(store_purge(store, begin.id, &EVERYBODY, on_purged, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_int_equal(waiter.error.kind, ERROR_INPUT); // it runs
    const struct store_media media[] = {{"bb.png", STORE_MEDIA_REFERENCE, 1},
                                        {"aa.png", STORE_MEDIA_OUTPUT, 0}};
    struct store_settle settle = {.id = begin.id,
                                  .status = STORE_COMPLETED,
                                  .http_status = 200,
                                  .images = 2,
                                  .media = media,
                                  .media_count = 2,
                                  .answer = "{\"created\":3}",
                                  .answer_size = 13};
    assert_true(settle_now(store, &settle).changed);
    bool known;
    assert_ok(store_knows_media(store, "aa.png", &known, &error), error);
    assert_true(known);
    assert_ok(store_knows_media(store, "cc.png", &known, &error), error);
    assert_false(known);
    json_t *json = get_now(store, begin.id, &EVERYBODY, NULL);
    assert_string_equal(text_of(json_object_get(json, "payload"), "prompt"), "a secret garden");
    assert_int_equal(number_of(json_object_get(json, "answer"), "created"), 3);
    json_t *listed = json_object_get(json, "media");
    assert_int_equal(json_array_size(listed), 2);
    assert_string_equal(text_of(json_array_get(listed, 0), "name"), "aa.png");
    assert_string_equal(text_of(json_array_get(listed, 1), "kind"), "reference");
    json_decref(json);

    struct query_scope stranger = {"", "somebodyelse"};
    waiter = waiter_make();
    assert_ok(store_purge(store, begin.id, &stranger, on_purged, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_int_equal(waiter.error.kind, ERROR_NOT_FOUND);
    waiter = waiter_make();
    assert_ok(store_purge(store, begin.id, &EVERYBODY, on_purged, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_ok(waiter.error.kind == ERROR_NONE, waiter.error);
    assert_false(waiter.already);
    assert_int_equal(waiter.media_count, 2);
    assert_string_equal(waiter.media[1], "bb.png");
    json = get_now(store, begin.id, &EVERYBODY, NULL);
    assert_true(json_is_null(json_object_get(json, "payload")));
    assert_true(json_is_null(json_object_get(json, "answer")));
    assert_true(json_is_true(json_object_get(json, "purged")));
    json_decref(json);
    waiter = waiter_make();
    assert_ok(store_purge(store, begin.id, &EVERYBODY, on_purged, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_true(waiter.already);
    assert_int_equal(waiter.media_count, 0);
    // The key stays taken: what was charged once does not run again.
    struct store_begin again = begin_of("req_payload_2");
    again.idempotency_key = "k";
    assert_int_equal(begin_now(store, &again).outcome, STORE_CONFLICT);
}

static void test_prompts_are_not_kept(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_payload_1");
    begin.payload = "{\"prompt\":\"a secret garden\"}";
    must_begin(store, &begin);
    assert_true(complete_now(store, begin.id, 0, "{\"revised_prompt\":\"a secret garden\"}").changed);
    shelf_close(shelf); // everything is in the one file then
    char command[160];
    snprintf(command, sizeof command, "grep -q 'secret garden' %s", shelf->path);
    assert_int_not_equal(system(command), 0);
}

static void test_rejects(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_reject_01");
    struct waiter waiter = waiter_make();
    struct error error = {0};
    assert_ok(
        store_reject(store, &begin, 400, "INVALID_REQUEST", "n: expected 1 to 10", on_done, &waiter, &error),
        error);
    waiter_wait(&waiter);
    assert_ok(waiter.error.kind == ERROR_NONE, waiter.error);
    json_t *json = get_now(store, begin.id, &EVERYBODY, NULL);
    assert_string_equal(text_of(json, "status"), "rejected");
    assert_string_equal(text_of(json, "error_code"), "INVALID_REQUEST");
    assert_int_equal(number_of(json, "cost_micros"), 0);
    json_decref(json);
}

static void test_texts_from_outside(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    char user[2004];
    for (size_t i = 0; i < 1998; i += 3) memcpy(user + i, "\xe2\x82\xac", 3); // euro signs
    user[1998] = 0;
    struct store_begin begin = begin_of("req_texts_001");
    begin.user = user;
    begin.session_id = "\xff\xfe broken";
    must_begin(store, &begin);
    json_t *json = get_now(store, begin.id, &EVERYBODY, NULL);
    assert_int_equal(strlen(text_of(json, "user")), 255); // whole characters
    assert_string_equal(text_of(json, "session_id"), "?? broken");
    json_decref(json);
}

static void test_scope(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_scope_001");
    begin.project = "inner";
    must_begin(store, &begin);
    enum error_kind kind;
    struct query_scope outside = {"outer", ""}, inside = {"inner", ""};
    assert_null(get_now(store, begin.id, &outside, &kind));
    assert_int_equal(kind, ERROR_NOT_FOUND);
    json_decref(get_now(store, begin.id, &inside, NULL));
}

static void test_retention(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    for (int i = 0; i < 250; i++) {
        char id[32];
        snprintf(id, sizeof id, "req_old_%05d", i);
        struct store_begin begin = begin_of(id);
        must_begin(store, &begin);
        if (i) assert_true(complete_now(store, id, 1, NULL).changed); // the first one runs on
    }
    shelf_close(shelf);
    struct database *database = shelf_database(shelf);
    struct error error = {0};
    assert_ok(database_run(database, &error, "UPDATE requests SET created_at = created_at - 7200000000", ""),
              error);
    database_close(database);
    shelf->options.retention_seconds = 3600;
    store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_new_00001");
    must_begin(store, &begin);
    double deadline = clock_seconds() + 20;
    int64_t left = -1;
    // What was interrupted at the opening has ended as well and goes with the others.
    while ((left = shelf_integer(shelf, "SELECT count(*) FROM requests")) != 1 && clock_seconds() < deadline)
        usleep(50000);
    assert_int_equal(left, 1);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM attempts"), 0);
}

static void test_recovery(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_lost_0001");
    begin.idempotency_key = "again";
    must_begin(store, &begin);
    struct error error = {0};
    struct store_attempt attempt = {.provider = "local", .dispatched_at = clock_unix_micros()};
    assert_ok(store_dispatched(store, begin.id, 0, &attempt, NULL, NULL, &error), error);
    shelf_close(shelf);
    store = shelf_open(shelf);
    struct store_state now;
    store_state(store, &now);
    assert_int_equal(now.recovered, 1);
    json_t *json = get_now(store, begin.id, &EVERYBODY, NULL);
    assert_string_equal(text_of(json, "status"), "upstream_failure");
    assert_string_equal(text_of(json, "error_code"), "INTERRUPTED");
    assert_int_equal(number_of(json, "cost_micros"), 0);
    const json_t *tried = json_array_get(json_object_get(json, "attempts"), 0);
    assert_string_equal(text_of(tried, "error_code"), "INTERRUPTED");
    json_decref(json);
    begin.id = "req_again_001"; // its key is free again
    must_begin(store, &begin);
}

// Two servers on one database: one that starts leaves what the other has in work.
static void test_two_servers(void **state) {
    struct shelf *shelf = *state;
    struct store *first = shelf_open(shelf);
    struct store_begin begin = begin_of("req_first_001");
    must_begin(first, &begin);
    struct error error = {0};
    struct store *second = store_open(&shelf->options, &error);
    assert_ok(second, error);
    struct store_state now;
    store_state(second, &now);
    assert_int_equal(now.recovered, 0);
    begin.id = "req_second_02";
    must_begin(second, &begin);
    assert_true(complete_now(first, "req_first_001", 1, NULL).changed);
    store_close(second); // with a request in work
    second = store_open(&shelf->options, &error);
    assert_ok(second, error);
    store_state(second, &now);
    int64_t recovered = now.recovered;
    store_state(first, &now); // whose upkeep may have come first
    assert_int_equal(recovered + now.recovered, 1);
    store_close(second);
}

// --------------------------------------------------------------------------------------------------- when it goes wrong

static void wait_until_owed(struct store *store, size_t wanted) {
    struct store_state now;
    double deadline = clock_seconds() + 20;
    do {
        store_state(store, &now);
        if (now.deferred == wanted) return;
        usleep(10000);
    } while (clock_seconds() < deadline);
    fail_msg("%zu settlings are owed, expected %zu: %s", now.deferred, wanted, now.message);
}

// The database refuses for a while: begins fail, settlings are owed, and later it goes on by itself.
static void expect_trouble(struct store *store, const char *id, enum error_kind kind, const char *part) {
    struct store_begin begin = begin_of("req_refused_1");
    struct store_begun begun = begin_now(store, &begin);
    assert_int_equal(begun.outcome, STORE_UNWRITTEN);
    if (begun.error.kind != kind) fail_msg("kind %d: %s", begun.error.kind, begun.error.message);
    assert_contains(begun.error.message, part);
    struct store_settled settled = complete_now(store, id, 8000, NULL);
    assert_true(settled.deferred);
    assert_false(settled.changed);
    assert_int_equal(settled.error.kind, kind);
    struct store_state now;
    store_state(store, &now);
    assert_false(now.good);
    assert_true(now.deferred >= 1);
}

static void expect_recovery(struct shelf *shelf, const char *id) {
    wait_until_owed(shelf->store, 0);
    json_t *json = get_now(shelf->store, id, &EVERYBODY, NULL);
    assert_string_equal(text_of(json, "status"), "completed");
    json_decref(json);
    struct store_begin begin = begin_of("req_afterwards");
    must_begin(shelf->store, &begin);
    struct store_state now;
    store_state(shelf->store, &now);
    assert_true(now.good);
}

static void test_locked(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_before_01");
    must_begin(store, &begin);
    struct database *other = shelf_database(shelf);
    struct error error = {0};
    assert_ok(database_run(other, &error, "BEGIN IMMEDIATE", ""), error);
    expect_trouble(store, begin.id, ERROR_UNAVAILABLE, "locked by another process");
    json_decref(get_now(store, begin.id, &EVERYBODY, NULL)); // reading goes on
    assert_ok(database_run(other, &error, "ROLLBACK", ""), error);
    database_close(other);
    expect_recovery(shelf, begin.id);
}

// What is owed when the server stops is tried once more.
static void test_owed_at_the_end(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_before_01");
    must_begin(store, &begin);
    struct database *other = shelf_database(shelf);
    struct error error = {0};
    assert_ok(database_run(other, &error, "BEGIN IMMEDIATE", ""), error);
    assert_true(complete_now(store, begin.id, 8000, NULL).deferred);
    assert_ok(database_run(other, &error, "ROLLBACK", ""), error);
    database_close(other);
    shelf_close(shelf);
    assert_int_equal(shelf_integer(shelf, "SELECT status FROM requests"), STORE_COMPLETED);
}

static void copy_file(const char *from, const char *to) {
    char command[300];
    snprintf(command, sizeof command, "cp %s %s", from, to);
    assert_int_equal(system(command), 0);
}

static void test_file_gone(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_before_01");
    must_begin(store, &begin);
    char away[128], log[128], log_away[140];
    snprintf(away, sizeof away, "%s/away.db", shelf->folder);
    snprintf(log, sizeof log, "%s-wal", shelf->path);
    snprintf(log_away, sizeof log_away, "%s-wal", away);
    // Both files go, as a person would move them; put back, they are whole.
    assert_int_equal(rename(shelf->path, away), 0);
    assert_int_equal(rename(log, log_away), 0);
    double deadline = clock_seconds() + 10; // it looks several times a second
    struct store_begun begun;
    int number = 0;
    do {
        char id[32];
        snprintf(id, sizeof id, "req_gone_%04d", number++);
        struct store_begin next = begin_of(id);
        begun = begin_now(store, &next);
    } while (begun.outcome == STORE_NEW && clock_seconds() < deadline);
    expect_trouble(store, begin.id, ERROR_IO, "No such file or directory");
    assert_int_not_equal(access(shelf->path, F_OK), 0); // no empty one was made in its place
    assert_int_equal(rename(log_away, log), 0);
    assert_int_equal(rename(away, shelf->path), 0);
    expect_recovery(shelf, begin.id);
}

static void test_damaged(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_before_01");
    must_begin(store, &begin);
    shelf_close(shelf); // everything is in the one file
    char copy[128];
    snprintf(copy, sizeof copy, "%s/copy.db", shelf->folder);
    copy_file(shelf->path, copy);
    // The request is in work again, as if the server ran on.
    struct database *database = shelf_database(shelf);
    database_close(database);
    store = shelf_open(shelf);
    struct store_begin in_work = begin_of("req_in_work_1");
    must_begin(store, &in_work);
    int file = open(shelf->path, O_RDWR | O_CLOEXEC);
    assert_true(file >= 0);
    struct stat about;
    assert_int_equal(fstat(file, &about), 0);
    char *noise = malloc((size_t)about.st_size);
    assert_non_null(noise);
    memset(noise, 0x5a, (size_t)about.st_size);
    assert_int_equal(pwrite(file, noise, (size_t)about.st_size, 0), about.st_size);
    free(noise);
    close(file);
    char log[128], index[128];
    snprintf(log, sizeof log, "%s-wal", shelf->path);
    snprintf(index, sizeof index, "%s-shm", shelf->path);
    assert_int_equal(truncate(log, 0), 0);
    // Pages in memory may serve for a while; a new connection sees the damage at once.
    struct error error = {0};
    assert_null(database_open(shelf->path, 0, 0.2, &error));
    assert_int_equal(error.kind, ERROR_IO);
    assert_contains(error.message, "damaged");
    // The owner puts the copy in its place.
    char fresh[128];
    snprintf(fresh, sizeof fresh, "%s/fresh.db", shelf->folder);
    copy_file(copy, fresh);
    assert_int_equal(unlink(log), 0);
    assert_int_equal(unlink(index), 0);
    assert_int_equal(rename(fresh, shelf->path), 0);
    double deadline = clock_seconds() + 20;
    enum error_kind kind = ERROR_NONE;
    json_t *json = NULL;
    while (!(json = get_now(store, begin.id, &EVERYBODY, &kind)) && clock_seconds() < deadline) usleep(20000);
    assert_non_null(json);
    json_decref(json);
    struct store_begun begun;
    bool written;
    int number = 0;
    do {
        char id[32];
        snprintf(id, sizeof id, "req_later_%04d", number++);
        struct store_begin next = begin_of(id);
        begun = begin_now(store, &next);
        char sql[100]; // until it notices, the file that was there may still be written
        snprintf(sql, sizeof sql, "SELECT count(*) FROM requests WHERE id = '%s'", id);
        written = begun.outcome == STORE_NEW && shelf_integer(shelf, sql) == 1;
    } while (!written && clock_seconds() < deadline);
    assert_true(written);
    // What the copy does not know cannot be settled, and is not owed for ever.
    struct store_settled settled = complete_now(store, in_work.id, 1, NULL);
    assert_int_equal(settled.error.kind, ERROR_NOT_FOUND);
    wait_until_owed(store, 0);
    // What the copy held of an earlier server has ended.
    assert_int_equal(shelf_integer(shelf, "SELECT status FROM requests WHERE id = 'req_before_01'"),
                     STORE_FAILED);
}

// Another file is put in the place of the database while the store runs: a damaged one, then the good one again.
static void test_damaged_while_running(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    char id[32];
    for (int i = 0; i < 300; i++) {
        snprintf(id, sizeof id, "req_many_%05d", i);
        struct store_begin begin = begin_of(id);
        must_begin(store, &begin);
        assert_true(complete_now(store, id, 1, NULL).changed);
    }
    shelf_close(shelf);
    char good[128], bad[128], log[128], log_good[140], index[128], index_good[140];
    snprintf(good, sizeof good, "%s/good.db", shelf->folder);
    snprintf(bad, sizeof bad, "%s/bad.db", shelf->folder);
    snprintf(log, sizeof log, "%s-wal", shelf->path);
    snprintf(log_good, sizeof log_good, "%s-wal", good);
    snprintf(index, sizeof index, "%s-shm", shelf->path);
    snprintf(index_good, sizeof index_good, "%s-shm", good);
    copy_file(shelf->path, bad);
    // The head of the file and its schema are whole; most of what follows is not.
    int file = open(bad, O_RDWR | O_CLOEXEC);
    struct stat about;
    assert_int_equal(fstat(file, &about), 0);
    char page[4096];
    memset(page, 0x5a, sizeof page);
    for (off_t at = 16384; at < about.st_size; at += 4096)
        assert_int_equal(pwrite(file, page, 4096, at), 4096);
    close(file);
    store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_before_01");
    must_begin(store, &begin);
    // SQLite's files go first: who opens another database under this name begins its index anew, under connections that still
    // use it.
    assert_int_equal(rename(index, index_good), 0);
    assert_int_equal(rename(log, log_good), 0);
    assert_int_equal(rename(shelf->path, good), 0);
    assert_int_equal(rename(bad, shelf->path), 0);
    double deadline = clock_seconds() + 10;
    struct store_begun begun;
    int number = 0;
    do {
        snprintf(id, sizeof id, "req_gone_%05d", number++);
        struct store_begin next = begin_of(id);
        begun = begin_now(store, &next);
    } while (begun.outcome == STORE_NEW && clock_seconds() < deadline);
    expect_trouble(store, begin.id, ERROR_IO, "damaged");
    usleep(700000); // it tries again in between, and finds the same
    struct store_begin later = begin_of("req_still_001");
    begun = begin_now(store, &later);
    assert_int_equal(begun.outcome, STORE_UNWRITTEN);
    assert_contains(begun.error.message, "damaged");
    unlink(log);
    assert_int_equal(rename(index_good, index), 0);
    assert_int_equal(rename(log_good, log), 0);
    assert_int_equal(rename(good, shelf->path), 0);
    expect_recovery(shelf, begin.id);
}

// A server beside this one dies: what it had in work is ended by the one that lives.
static void test_other_server_dies(void **state) {
    struct shelf *shelf = *state;
    struct error error = {0};
    struct store *other = store_open(&shelf->options, &error);
    assert_ok(other, error);
    struct store_begin begin = begin_of("req_other_001");
    must_begin(other, &begin);
    store_close(other); // as if killed: the request is left
    // Its slot is taken by the next one, which ends it; a slot further on is looked at, too.
    struct database *database = shelf_database(shelf);
    assert_ok(database_run(database, &error, "UPDATE requests SET slot = 7", ""), error);
    database_close(database);
    shelf_open(shelf);
    assert_int_equal(shelf_integer(shelf, "SELECT status FROM requests"), STORE_FAILED);
}

static void test_no_database(void **state) {
    struct shelf *shelf = *state;
    static const struct {
        const char *content, *part;
    } cases[] = {
        {"this is no database, only a text that is long enough to be read as a header, is it not? It is!!!!!",
         "damaged"}};
    struct error error = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        FILE *file = fopen(shelf->path, "w");
        assert_non_null(file);
        for (int k = 0; k < 100; k++) fputs(cases[i].content, file);
        fclose(file);
        error = (struct error){0};
        assert_null(store_open(&shelf->options, &error));
        assert_contains(error.message, cases[i].part);
        assert_contains(error.message, shelf->path);
        unlink(shelf->path);
    }
    // Another program's.
    char command[200];
    sqlite3 *foreign;
    assert_int_equal(sqlite3_open(shelf->path, &foreign), SQLITE_OK);
    assert_int_equal(sqlite3_exec(foreign, "CREATE TABLE bookmarks (url TEXT)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(foreign);
    error = (struct error){0};
    assert_null(store_open(&shelf->options, &error));
    assert_contains(error.message, "another program");
    assert_int_equal(sqlite3_open(shelf->path, &foreign), SQLITE_OK);
    sqlite3_stmt *mode;
    assert_int_equal(sqlite3_prepare_v2(foreign, "PRAGMA journal_mode", -1, &mode, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(mode), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(mode, 0), "delete"); // it was left as it was
    sqlite3_finalize(mode);
    sqlite3_close(foreign);
    unlink(shelf->path);
    // A folder, and a folder that cannot be made.
    struct store_options options = shelf->options;
    options.path = shelf->folder;
    error = (struct error){0};
    assert_null(store_open(&options, &error));
    snprintf(command, sizeof command, "/proc/nowhere/limn.db");
    options.path = command;
    error = (struct error){0};
    assert_null(store_open(&options, &error));
    assert_contains(error.message, "/proc/nowhere");
}

// In a process of its own: a small file system is mounted where only it sees it.
static void full_disk_child(void) {
    char folder[] = "/tmp/limn-full-XXXXXX", path[64], ballast[64];
    uid_t user = getuid();
    gid_t group = getgid();
    if (!mkdtemp(folder) || unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) _exit(77);
    char text[64];
    FILE *file = fopen("/proc/self/setgroups", "w");
    if (file) fputs("deny", file), fclose(file);
    snprintf(text, sizeof text, "0 %d 1", (int)user);
    if (!(file = fopen("/proc/self/uid_map", "w"))) _exit(77);
    fputs(text, file), fclose(file);
    snprintf(text, sizeof text, "0 %d 1", (int)group);
    if (!(file = fopen("/proc/self/gid_map", "w"))) _exit(77);
    fputs(text, file), fclose(file);
    if (mount("limn", folder, "tmpfs", 0, "size=4m") != 0) _exit(77);
    snprintf(path, sizeof path, "%s/limn.db", folder);
    snprintf(ballast, sizeof ballast, "%s/ballast", folder);

    struct shelf shelf = {.options = {.path = path, .busy_seconds = 0.3}};
    snprintf(shelf.path, sizeof shelf.path, "%s", path);
    struct store *store = shelf_open(&shelf);
    struct store_begin begin = begin_of("req_before_01");
    must_begin(store, &begin);
    int heavy = open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    char block[4096] = {0};
    while (write(heavy, block, sizeof block) > 0) continue;
    close(heavy);
    struct store_begun begun;
    int number = 0; // pages that are there already take some
    do {
        char id[32];
        snprintf(id, sizeof id, "req_fill_%05d", number++);
        struct store_begin next = begin_of(id);
        begun = begin_now(store, &next);
    } while (begun.outcome == STORE_NEW && number < 10000);
    expect_trouble(store, begin.id, ERROR_IO, "No space left on device");
    unlink(ballast);
    expect_recovery(&shelf, begin.id);
    shelf_close(&shelf);
    umount(folder);
    rmdir(folder);
    _exit(0);
}

static void test_full(void **state) {
    (void)state;
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) full_disk_child();
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) skip(); // no file system can be mounted here
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

// ----------------------------------------------------------------------------------------------------------- migrations

static void test_migrations(void **state) {
    struct shelf *shelf = *state;
    for (int version = 0; version < DATABASE_VERSION; version++) {
        unlink(shelf->path);
        struct error error = {0};
        struct database *database = database_open(shelf->path, DATABASE_CREATE, 5, &error);
        assert_ok(database, error);
        assert_ok(database_migrate(database, version, &error), error);
        if (version >= 1) {
            assert_ok(
                database_run(
                    database, &error,
                    "INSERT INTO requests (id, project, key_id, model, mode, endpoint, status, created_at, "
                    "request_bytes, images_asked, images, estimate_micros, cost_micros, slot) VALUES "
                    "('req_old_00001', 'default', 'abcdefghijkl', 'm', 'text-to-image', '/', 2, 1000000, 5, "
                    "1, 1, 9000, 8000, 0)",
                    ""),
                error);
            assert_ok(
                database_run(
                    database, &error,
                    "INSERT INTO requests (id, project, model, mode, endpoint, status, created_at, "
                    "request_bytes, images_asked, estimate_micros, slot) VALUES "
                    "('req_old_00002', 'default', 'm', 'text-to-image', '/', 1, 1000000, 5, 1, 9000, 0)",
                    ""),
                error);
        }
        database_close(database);
        struct store *store = shelf_open(shelf);
        if (version >= 1) {
            json_t *json = get_now(store, "req_old_00001", &EVERYBODY, NULL);
            assert_int_equal(number_of(json, "cost_micros"), 8000);
            json_decref(json);
            json = get_now(store, "req_old_00002", &EVERYBODY, NULL);
            assert_string_equal(text_of(json, "error_code"), "INTERRUPTED");
            json_decref(json);
        }
        struct store_begin begin = begin_of("req_new_00001");
        begin.idempotency_key = "k";
        must_begin(store, &begin);
        assert_true(complete_now(store, begin.id, 8000, "{}").changed);
        shelf_close(shelf);
        assert_int_equal(shelf_integer(shelf, "PRAGMA user_version"), DATABASE_VERSION);
        if (version == 1) // what was spent before there were budgets counts
            assert_int_equal(
                shelf_integer(shelf, "SELECT spent FROM usage WHERE key_id = 'abcdefghijkl' AND period = 2"),
                8000);
    }
    struct error error = {0};
    struct database *database = shelf_database(shelf);
    assert_ok(database_run(database, &error, "PRAGMA user_version=99", ""), error);
    database_close(database);
    assert_null(store_open(&shelf->options, &error));
    assert_contains(error.message, "newer limn");
}

static void test_files_are_private(void **state) {
    struct shelf *shelf = *state;
    shelf_open(shelf);
    struct store_begin begin = begin_of("req_one_00001");
    must_begin(shelf->store, &begin);
    static const char *const tails[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        char path[140];
        struct stat about;
        snprintf(path, sizeof path, "%s%s", shelf->path, tails[i]);
        assert_int_equal(stat(path, &about), 0);
        assert_int_equal(about.st_mode & 077, 0);
    }
}

#define WITH_SHELF(test) cmocka_unit_test_setup_teardown(test, shelf_set_up, shelf_tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_SHELF(test_way_of_a_request),
        WITH_SHELF(test_settled_once),
        WITH_SHELF(test_batches),
        WITH_SHELF(test_queue_is_bounded),
        WITH_SHELF(test_idempotency),
        WITH_SHELF(test_idempotency_of_failures),
        WITH_SHELF(test_idempotency_ends),
        WITH_SHELF(test_answers_without_their_pictures),
        WITH_SHELF(test_completed_without_an_answer),
        WITH_SHELF(test_answers_of_asynchronous_requests),
        WITH_SHELF(test_payloads_and_purge),
        WITH_SHELF(test_prompts_are_not_kept),
        WITH_SHELF(test_rejects),
        WITH_SHELF(test_texts_from_outside),
        WITH_SHELF(test_scope),
        WITH_SHELF(test_retention),
        WITH_SHELF(test_recovery),
        WITH_SHELF(test_two_servers),
        WITH_SHELF(test_locked),
        WITH_SHELF(test_owed_at_the_end),
        WITH_SHELF(test_file_gone),
        WITH_SHELF(test_damaged),
        WITH_SHELF(test_damaged_while_running),
        WITH_SHELF(test_other_server_dies),
        WITH_SHELF(test_no_database),
        cmocka_unit_test(test_full),
        WITH_SHELF(test_migrations),
        WITH_SHELF(test_files_are_private),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
