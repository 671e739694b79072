// Statistics and listings: percentiles against a plain count, what counts as what, the window, cursors and filters.
#include "store_helper.h"

#include "store/listing.h"
#include "store/statistics.h"
#include "store/usage.h"

struct sample {
    const char *model, *provider, *mode;
    enum store_status status;
    int64_t duration, first_byte; // milliseconds; first_byte 0: none
    int64_t age_hours;
};

static int next_number;

static void put(struct database *database, const struct sample *sample) {
    struct error error = {0};
    char id[32];
    snprintf(id, sizeof id, "req_stat_%05d", next_number++);
    int64_t end = clock_unix_micros() - sample->age_hours * INT64_C(3600000000);
    assert_ok(
        database_run(
            database, &error,
            "INSERT INTO requests (id, project, model, mode, endpoint, status, created_at, request_bytes, "
            "images_asked, estimate_micros, slot) VALUES (?1, 'default', ?2, ?3, '/', ?4, ?5, 1, 1, 0, 0)",
            "sssii", id, sample->model, sample->mode, (int64_t)sample->status, end),
        error);
    int64_t begin = end - sample->duration * 1000;
    assert_ok(
        database_run(
            database, &error,
            "INSERT INTO attempts VALUES ((SELECT seq FROM requests WHERE id = ?1), 0, ?2, NULL, ?3, ?4, ?5, "
            "?6, ?7, NULL, NULL, 100, 1)",
            "ssiiiii", id, sample->provider, (int64_t)sample->status, begin - 250000, begin,
            sample->first_byte ? begin + sample->first_byte * 1000 : (int64_t)0, end),
        error);
}

static json_t *stats_of(struct database *database, const char *model) {
    struct error error = {0};
    struct query_stats query = {0};
    if (model) assert_ok(query_stats_set(&query, "model", model, &error), error);
    struct statistics *statistics = statistics_open(&error);
    json_t *json = statistics_json(statistics, database, &query, clock_unix_micros(), 60, &error);
    assert_ok(json, error);
    statistics_close(statistics);
    return json;
}

static int64_t deep(const json_t *group, const char *outer, const char *inner) {
    const json_t *value = json_object_get(json_object_get(group, outer), inner);
    return json_is_integer(value) ? json_integer_value(value) : -1;
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void test_percentiles(void **state) {
    struct shelf *shelf = *state;
    for (int count = 1; count <= 41; count += count < 5 ? 1 : 12) {
        unlink(shelf->path);
        struct database *database = shelf_database(shelf);
        int64_t durations[64];
        srand((unsigned)count);
        for (int i = 0; i < count; i++) {
            durations[i] = 100 + rand() % 5000;
            struct sample sample = {
                "m", "local", "text-to-image", STORE_COMPLETED, durations[i], durations[i] / 2, 1};
            put(database, &sample);
            // Another group beside it must not mix in.
            struct sample other = {"m", "local", "image-edit", STORE_COMPLETED, 9, 9, 1};
            put(database, &other);
        }
        qsort(durations, (size_t)count, sizeof *durations, by_value);
        int64_t p50 = 0, p95 = 0; // the definition, by counting
        for (int i = count - 1; i >= 0; i--) {
            if ((i + 1) * 100 >= 50 * count) p50 = durations[i];
            if ((i + 1) * 100 >= 95 * count) p95 = durations[i];
        }
        json_t *json = stats_of(database, NULL);
        const json_t *data = json_object_get(json, "data");
        assert_int_equal(json_array_size(data), 2);
        const json_t *group = json_array_get(data, 1); // the slower one
        assert_string_equal(text_of(group, "mode"), "text-to-image");
        assert_int_equal(number_of(group, "ok"), count);
        assert_int_equal(deep(group, "generation_ms", "p50"), p50);
        assert_int_equal(deep(group, "generation_ms", "p95"), p95);
        assert_in_range(deep(group, "first_byte_ms", "p50"), p50 / 2, p50 / 2);
        assert_in_range(deep(group, "first_byte_ms", "p95"), p95 / 2, p95 / 2);
        assert_int_equal(deep(group, "queue_ms", "p50"), 250);
        assert_int_equal(deep(group, "queue_ms", "p95"), 250);
        json_decref(json);
        database_close(database);
    }
}

// 23 of 25, as the page shows it; the caller's own faults and cancelled requests count in neither.
static void test_what_counts(void **state) {
    struct shelf *shelf = *state;
    struct database *database = shelf_database(shelf);
    struct sample sample = {"flux", "fal", "image-edit", STORE_COMPLETED, 2476, 1887, 5};
    for (int i = 0; i < 23; i++) put(database, &sample);
    sample.status = STORE_FAILED;
    sample.duration = 90000;
    put(database, &sample), put(database, &sample);
    sample.status = STORE_REJECTED;
    put(database, &sample);
    sample.status = STORE_CANCELLED;
    put(database, &sample), put(database, &sample);
    sample.status = STORE_COMPLETED; // older than the window
    sample.age_hours = 24 * STATISTICS_DAYS + 1;
    put(database, &sample);
    struct sample cancelled = {"none", "fal", "image-edit", STORE_CANCELLED, 5, 0, 5};
    put(database, &cancelled);
    json_t *json = stats_of(database, "flux");
    assert_int_equal(number_of(json, "window_days"), 30);
    const json_t *data = json_object_get(json, "data"), *group = json_array_get(data, 0);
    assert_int_equal(json_array_size(data), 1);
    assert_int_equal(number_of(group, "requests"), 28);
    assert_int_equal(number_of(group, "ok"), 23);
    assert_int_equal(number_of(group, "failed"), 2);
    assert_int_equal(number_of(group, "not_counted"), 3);
    assert_true(json_real_value(json_object_get(group, "success_rate")) == 92.0);
    assert_int_equal(deep(group, "generation_ms", "p50"), 2476); // failures take no part in times
    assert_int_equal(deep(group, "generation_ms", "p95"), 2476);
    assert_int_equal(deep(group, "generation_ms", "mean"), 2476);
    assert_int_equal(number_of(group, "cost_micros"), 2800);
    json_decref(json);
    json = stats_of(database, "none"); // nothing to judge by
    group = json_array_get(json_object_get(json, "data"), 0);
    assert_true(json_is_null(json_object_get(group, "success_rate")));
    assert_int_equal(deep(group, "generation_ms", "p50"), -1);
    json_decref(json);
    json = stats_of(database, NULL);
    assert_int_equal(number_of(json_object_get(json, "totals"), "requests"), 29);
    // The fastest stands first, what has no time last.
    data = json_object_get(json, "data");
    assert_string_equal(text_of(json_array_get(data, 0), "model"), "flux");
    assert_string_equal(text_of(json_array_get(data, 1), "model"), "none");
    json_decref(json);
    database_close(database);
}

static void test_age(void **state) {
    struct shelf *shelf = *state;
    struct database *database = shelf_database(shelf);
    struct error error = {0};
    struct query_stats query = {0};
    struct statistics *statistics = statistics_open(&error);
    int64_t now = clock_unix_micros();
    json_t *json = statistics_json(statistics, database, &query, now, 60, &error);
    assert_int_equal(json_array_size(json_object_get(json, "data")), 0);
    json_decref(json);
    struct sample sample = {"m", "local", "text-to-image", STORE_COMPLETED, 5, 5, 0};
    put(database, &sample);
    json = statistics_json(statistics, database, &query, now + 59000000, 60, &error);
    assert_int_equal(json_array_size(json_object_get(json, "data")), 0); // not computed anew yet
    json_decref(json);
    json = statistics_json(statistics, database, &query, now + 61000000, 60, &error);
    assert_int_equal(json_array_size(json_object_get(json, "data")), 1);
    json_decref(json);
    statistics_close(statistics);
    database_close(database);
}

// ------------------------------------------------------------------------------------------------------------ listings

static json_t *list_with(struct database *database, const char *query_string) {
    struct query_requests query;
    struct error error = {0};
    char copy[400], *rest = copy;
    query_requests_init(&query, &EVERYBODY);
    snprintf(copy, sizeof copy, "%s", query_string);
    for (char *pair; (pair = strsep(&rest, "&"));) {
        char *value = strchr(pair, '=');
        if (!value) continue;
        *value++ = 0;
        assert_ok(query_requests_set(&query, pair, value, &error), error);
    }
    json_t *list = listing_requests(database, &query, &error);
    assert_ok(list, error);
    return list;
}

static void add_request(struct database *database, int number, int64_t created, const char *key,
                        const char *model, enum store_status status) {
    struct error error = {0};
    char id[32];
    snprintf(id, sizeof id, "req_%05d", number);
    assert_ok(
        database_run(
            database, &error,
            "INSERT INTO requests (id, project, key_id, model, mode, endpoint, status, created_at, "
            "request_bytes, images_asked, estimate_micros, cost_micros, slot, user) VALUES (?1, 'default', "
            "?2, ?3, 'text-to-image', '/', ?4, ?5, 1, 1, 0, 1000, 0, 'u & v')",
            "sssii", id, key, model, (int64_t)status, created),
        error);
}

static const char *id_at(const json_t *list, size_t index) {
    return text_of(json_array_get(json_object_get(list, "data"), index), "id");
}

static size_t count_of(const json_t *list) {
    return json_array_size(json_object_get(list, "data"));
}

static void test_pages(void **state) {
    struct shelf *shelf = *state;
    struct database *database = shelf_database(shelf);
    for (int i = 0; i < 25; i++)
        add_request(database, i, INT64_C(1700000000000000) + i * INT64_C(60000000), i % 5 ? "k1" : "k2", "m",
                    i % 2 ? STORE_COMPLETED : STORE_FAILED);
    json_t *list = list_with(database, "");
    assert_int_equal(count_of(list), 20);
    assert_string_equal(id_at(list, 0), "req_00024"); // newest first
    assert_true(json_is_true(json_object_get(list, "has_more")));
    assert_string_equal(text_of(list, "next_page_url"), "/v1/requests?limit=20&starting_after=req_00005");
    assert_true(json_is_null(json_object_get(list, "previous_page_url")));
    json_decref(list);

    // Forwards by the URLs, seven at a time, then back.
    int seen = 0;
    char url[400] = "limit=7";
    for (int pages = 0; *url; pages++) {
        assert_true(pages < 5);
        list = list_with(database, url);
        for (size_t i = 0; i < count_of(list); i++, seen++) {
            char id[32];
            snprintf(id, sizeof id, "req_%05d", 24 - seen);
            assert_string_equal(id_at(list, i), id);
        }
        const char *next = json_string_value(json_object_get(list, "next_page_url"));
        assert_int_equal(json_is_null(json_object_get(list, "previous_page_url")), pages == 0);
        snprintf(url, sizeof url, "%s", next ? strchr(next, '?') + 1 : "");
        json_decref(list);
    }
    assert_int_equal(seen, 25);
    list = list_with(database, "limit=7&ending_before=req_00010");
    assert_int_equal(count_of(list), 7);
    assert_string_equal(id_at(list, 0), "req_00017");
    assert_string_equal(id_at(list, 6), "req_00011");
    assert_string_equal(text_of(list, "previous_page_url"), "/v1/requests?limit=7&ending_before=req_00017");
    assert_string_equal(text_of(list, "next_page_url"), "/v1/requests?limit=7&starting_after=req_00011");
    json_decref(list);
    list = list_with(database, "ending_before=req_00022");
    assert_int_equal(count_of(list), 2);
    assert_string_equal(id_at(list, 0), "req_00024");
    assert_true(json_is_null(json_object_get(list, "previous_page_url")));
    json_decref(list);

    struct query_requests query;
    struct error error = {0};
    query_requests_init(&query, &EVERYBODY);
    assert_ok(query_requests_set(&query, "starting_after", "nobody", &error), error);
    assert_null(listing_requests(database, &query, &error));
    assert_int_equal(error.kind, ERROR_NOT_FOUND);
    assert_string_equal(error.field, "starting_after");
    database_close(database);
}

static void test_filters(void **state) {
    struct shelf *shelf = *state;
    struct database *database = shelf_database(shelf);
    for (int i = 0; i < 20; i++)
        add_request(database, i, INT64_C(1700000000000000) + i * INT64_C(60000000), i % 5 ? "k1" : "k2",
                    i % 4 ? "m" : "n", i % 2 ? STORE_COMPLETED : STORE_FAILED);
    static const struct {
        const char *query;
        size_t count;
        const char *first;
    } cases[] = {
        {"key_id=k2", 4, "req_00015"},
        {"key_id=k2&limit=3", 3, "req_00015"},
        {"model=n", 5, "req_00016"},
        {"status=completed", 10, "req_00019"},
        {"status=upstream_failure", 10, "req_00018"},
        {"status=pending", 0, NULL},
        {"created_after=2023-11-14T22:28:20Z", 5, "req_00019"}, // the first at 22:13:20, one a minute
        {"created_after=2023-11-14T22:28:20.000001Z", 4, "req_00019"},
        {"created_before=2023-11-14T22:28:20Z", 15, "req_00014"},
        {"created_after=1700000060&created_before=1700000180", 2, "req_00002"},
        {"created_after=2023-11-15T00:28:20+02:00", 5, "req_00019"},
        {"created_after=2030-01-01", 0, NULL},
        {"key_id=k1&status=completed&model=m&ending_before=req_00012", 3, "req_00019"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *list = list_with(database, cases[i].query);
        if (count_of(list) != cases[i].count)
            fail_msg("%s: %zu requests, expected %zu", cases[i].query, count_of(list), cases[i].count);
        if (cases[i].first) assert_string_equal(id_at(list, 0), cases[i].first);
        json_decref(list);
    }
    json_t *list = list_with(database, "status=completed&limit=2&summary=true");
    const json_t *summary = json_object_get(list, "summary");
    assert_int_equal(number_of(summary, "count"), 10); // over all matches
    assert_int_equal(number_of(summary, "total_cost_micros"), 10000);
    assert_string_equal(text_of(list, "next_page_url"),
                        "/v1/requests?limit=2&status=completed&summary=true&starting_after=req_00017");
    json_decref(list);
    struct query_requests query;
    struct error error = {0};
    query_requests_init(&query, &EVERYBODY);
    assert_ok(query_requests_set(&query, "user", "u & v", &error), error);
    query.limit = 1;
    list = listing_requests(database, &query, &error);
    assert_string_equal(text_of(list, "next_page_url"),
                        "/v1/requests?limit=1&user=u%20%26%20v&starting_after=req_00019");
    json_decref(list);
    // A caller sees what is his.
    query_requests_init(&query, &EVERYBODY);
    strcpy(query.scope.key_id, "k2");
    list = listing_requests(database, &query, &error);
    assert_int_equal(count_of(list), 4);
    json_decref(list);
    strcpy(query.key_id, "k1");
    list = listing_requests(database, &query, &error);
    assert_int_equal(count_of(list), 0);
    json_decref(list);
    database_close(database);
}

static void test_bad_parameters(void **state) {
    (void)state;
    static const struct {
        const char *name, *value;
    } bad[] = {
        {"limit", "0"},
        {"limit", "101"},
        {"limit", "ten"},
        {"limit", " 5"},
        {"limit", ""},
        {"status", "done"},
        {"summary", "yes"},
        {"created_after", "yesterday"},
        {"created_after", "2023-13-01"},
        {"created_after", "2023-1-1"},
        {"created_before", "2023-11-14T22:28"},
        {"created_before", "2023-11-14T22:28:20+2"},
        {"created_before", "-5"},
        {"created_after", "2026-02-29"},
        {"created_after", "2026-04-31T00:00:00Z"},
        {"starting_after", ""},
        {"ending_before", ""},
        {"user", ""},
        {"user", "\xff\xfe"},
        {"model", ""},
        {"model", "\xc3\xa9"},
        {"project", ""},
        {"limt", "5"},
        {"Limit", "5"},
        {"", "5"},
        {"starting_after",
         "req_00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct query_requests query;
        struct error error = {0};
        query_requests_init(&query, &EVERYBODY);
        if (query_requests_set(&query, bad[i].name, bad[i].value, &error))
            fail_msg("%s=%s was taken", bad[i].name, bad[i].value);
        assert_string_equal(error.field, bad[i].name);
        assert_int_equal(error.kind, ERROR_INPUT);
    }
    struct query_requests query;
    struct error error = {0};
    query_requests_init(&query, &EVERYBODY);
    assert_true(query_requests_set(&query, "starting_after", "a", &error));
    assert_false(query_requests_set(&query, "ending_before", "b", &error));
    struct query_keys keys;
    query_keys_init(&keys);
    struct error other = {0};
    assert_false(query_keys_set(&keys, "status", "gone", &other));
    assert_string_equal(other.field, "status");
    struct query_stats stats = {0};
    struct error unknown = {0}, mode = {0}, none = {0};
    assert_false(query_stats_set(&stats, "modl", "x", &unknown));
    assert_string_equal(unknown.message, "modl: there is no such parameter here; did you mean model?");
    assert_false(query_stats_set(&stats, "mode", "video", &mode));
    assert_true(query_stats_set(&stats, "mode", "image-edit", &mode));
    assert_false(query_nothing_set("x", &none));
    assert_string_equal(none.message, "x: there is no such parameter here; expected none");
    assert_true(query_requests_set(&query, "created_after", "2024-02-29", &error));
}

static void test_key_pages(void **state) {
    struct shelf *shelf = *state;
    struct database *database = shelf_database(shelf);
    struct error error = {0};
    char text[KEY_TEXT_MOST];
    for (int i = 0; i < 5; i++) {
        struct key_info key = {.budget_day_micros = i * 1000};
        bool already;
        snprintf(key.name, sizeof key.name, "key %d", i);
        assert_ok(key_create(database, &key, 1000000 + i, text, &error), error);
        if (i == 2) assert_ok(key_revoke(database, key.id, 5, &key, &already, &error), error);
    }
    struct query_keys query;
    query_keys_init(&query);
    query.limit = 2;
    json_t *list = listing_keys(database, &query, 0, &error);
    assert_int_equal(count_of(list), 2);
    const json_t *first = json_array_get(json_object_get(list, "data"), 0);
    assert_string_equal(text_of(first, "name"), "key 4");
    assert_true(json_real_value(json_object_get(json_object_get(first, "limits"), "budget_day")) == 0.004);
    assert_null(json_object_get(first, "hash"));
    assert_ok(query_keys_set(&query, "starting_after", id_at(list, 1), &error), error);
    json_decref(list);
    list = listing_keys(database, &query, 0, &error);
    assert_string_equal(text_of(json_array_get(json_object_get(list, "data"), 0), "name"), "key 2");
    assert_string_equal(text_of(json_array_get(json_object_get(list, "data"), 0), "status"), "revoked");
    json_decref(list);
    query_keys_init(&query);
    assert_ok(query_keys_set(&query, "status", "active", &error), error);
    list = listing_keys(database, &query, 0, &error);
    assert_int_equal(count_of(list), 4);
    json_decref(list);
    assert_ok(query_keys_set(&query, "status", "revoked", &error), error);
    list = listing_keys(database, &query, 0, &error);
    assert_int_equal(count_of(list), 1);
    json_decref(list);
    database_close(database);
}

// The same through the store's own thread.
static void test_through_the_store(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    struct store_begin begin = begin_of("req_one_00001");
    must_begin(store, &begin);
    assert_true(complete_now(store, begin.id, 8000, NULL).changed);
    struct error error = {0};
    struct query_stats stats = {0};
    struct waiter waiter = waiter_make();
    assert_ok(store_get_stats(store, &stats, on_json, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_int_equal(json_array_size(json_object_get(waiter.json, "data")), 1);
    json_decref(waiter.json);
    struct query_requests requests;
    query_requests_init(&requests, &EVERYBODY);
    waiter = waiter_make();
    assert_ok(store_list_requests(store, &requests, on_json, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_int_equal(count_of(waiter.json), 1);
    json_decref(waiter.json);
    struct query_keys keys;
    query_keys_init(&keys);
    waiter = waiter_make();
    assert_ok(store_list_keys(store, &keys, on_json, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_int_equal(count_of(waiter.json), 0);
    json_decref(waiter.json);
    enum error_kind kind;
    assert_null(get_now(store, "req_nobody", &EVERYBODY, &kind));
    assert_int_equal(kind, ERROR_NOT_FOUND);
}

#define WITH_SHELF(test) cmocka_unit_test_setup_teardown(test, shelf_set_up, shelf_tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_SHELF(test_percentiles), WITH_SHELF(test_what_counts),
        WITH_SHELF(test_age),         WITH_SHELF(test_pages),
        WITH_SHELF(test_filters),     cmocka_unit_test(test_bad_parameters),
        WITH_SHELF(test_key_pages),   WITH_SHELF(test_through_the_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
