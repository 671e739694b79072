// Keys: their text, recognising one, limits and budgets, and changes that another process makes.
#include "store_helper.h"

#include "cli/commands.h"
#include "store/usage.h"

#include <fcntl.h>

static void test_text(void **state) {
    (void)state;
    char text[KEY_TEXT_MOST], other[KEY_TEXT_MOST], id[KEY_ID_MOST], read_id[KEY_ID_MOST], last_four[5];
    uint8_t hash[KEY_HASH_BYTES], read_hash[KEY_HASH_BYTES];
    struct error error = {0};
    assert_ok(key_make(text, id, last_four, hash, &error), error);
    assert_int_equal(strlen(text), 5 + 12 + 1 + 43);
    assert_int_equal(strncmp(text, "limn_", 5), 0);
    assert_string_equal(text + strlen(text) - 4, last_four);
    assert_true(key_parse(text, read_id, read_hash));
    assert_string_equal(read_id, id);
    assert_memory_equal(read_hash, hash, sizeof hash);
    assert_ok(key_make(other, read_id, last_four, read_hash, &error), error);
    assert_string_not_equal(text, other);
    assert_memory_not_equal(read_hash, hash, sizeof hash);
    // Cut anywhere, or with a letter that does not belong there, it is none.
    for (size_t i = 0; i < strlen(text); i++) {
        char bad[KEY_TEXT_MOST];
        memcpy(bad, text, i);
        bad[i] = 0;
        assert_false(key_parse(bad, read_id, read_hash));
        strcpy(bad, text);
        bad[i] = '!';
        assert_false(key_parse(bad, read_id, read_hash));
    }
    char longer[KEY_TEXT_MOST + 1];
    snprintf(longer, sizeof longer, "%sA", text);
    assert_false(key_parse(longer, read_id, read_hash));
    assert_false(key_parse("", read_id, read_hash));
}

static void test_allows(void **state) {
    (void)state;
    struct key_info key = {.project = "home"};
    assert_true(key_allows_model(&key, "anything"));
    strcpy(key.models, "flux.2-*,pictogram");
    assert_true(key_allows_model(&key, "flux.2-dev-turbo"));
    assert_true(key_allows_model(&key, "pictogram"));
    assert_false(key_allows_model(&key, "pictogram-2"));
    assert_false(key_allows_model(&key, "flux.1"));
    assert_false(key_allows_model(&key, ""));
    assert_true(key_allows_project(&key, "home"));
    assert_false(key_allows_project(&key, "work"));
    strcpy(key.projects, "work,play");
    assert_true(key_allows_project(&key, "play"));
    assert_false(key_allows_project(&key, "wor"));
    assert_false(key_allows_project(&key, "*"));
    strcpy(key.projects, "*");
    assert_true(key_allows_project(&key, "anywhere"));
    key = (struct key_info){.project = "home", .admin = true};
    assert_true(key_allows_project(&key, "anywhere"));
}

static void test_fields(void **state) {
    (void)state;
    static const struct {
        struct key_info key;
        const char *field; // NULL: good
    } cases[] = {
        {{.name = "a", .project = "default"}, NULL},
        {{.name = "", .project = "default"}, "name"},
        {{.name = "a\nb", .project = "default"}, "name"},
        {{.name = "a", .project = ""}, "project"},
        {{.name = "a", .project = "*"}, "project"},
        {{.name = "a", .project = "b c"}, "project"},
        {{.name = "a", .project = "b", .projects = "c,"}, "projects"},
        {{.name = "a", .project = "b", .models = "c,,d"}, "models"},
        {{.name = "a", .project = "b", .models = "flux*, pictogram"}, "models"},
        {{.name = "a", .project = "b", .budget_day_micros = -1}, "budget-day"},
        {{.name = "a", .project = "b", .images_per_day = -1}, "images-per-day"},
        {{.name = "a", .project = "b", .priority = 2}, "priority"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        bool good = key_check_fields(&cases[i].key, &error);
        assert_int_equal(good, cases[i].field == NULL);
        if (cases[i].field) assert_string_equal(error.field, cases[i].field);
    }
}

static void make_key(struct shelf *shelf, struct key_info *key, char text[KEY_TEXT_MOST]) {
    struct error error = {0};
    struct database *database = shelf_database(shelf);
    assert_ok(key_create(database, key, clock_unix_micros(), text, &error), error);
    database_close(database);
}

// Waits until the running store's verdict is as wanted: a change comes within about a second.
static void expect_verdict(struct store *store, const char *text, enum key_verdict wanted,
                           struct key_info *info) {
    double deadline = clock_seconds() + 10;
    enum key_verdict verdict;
    while ((verdict = keys_check(store_keys(store), text, clock_unix_micros(), info)) != wanted &&
           clock_seconds() < deadline)
        usleep(10000);
    assert_int_equal(verdict, wanted);
}

static void test_changes_are_seen(void **state) {
    struct shelf *shelf = *state;
    struct store *store = shelf_open(shelf);
    assert_false(keys_any(store_keys(store)));
    struct key_info key = {.name = "one", .models = "pictogram", .admin = true}, seen;
    char text[KEY_TEXT_MOST];
    make_key(shelf, &key, text);
    double before = clock_seconds();
    expect_verdict(store, text, KEY_OK, &seen);
    assert_true(clock_seconds() - before < 2);
    assert_string_equal(seen.name, "one");
    assert_string_equal(seen.project, "default");
    assert_string_equal(seen.models, "pictogram");
    assert_true(seen.admin);
    assert_true(keys_any(store_keys(store)));
    // Another secret, another id.
    char wrong[KEY_TEXT_MOST];
    strcpy(wrong, text);
    wrong[20] = wrong[20] == 'A' ? 'B' : 'A';
    assert_int_equal(keys_check(store_keys(store), wrong, 0, NULL), KEY_UNKNOWN);
    strcpy(wrong, text);
    wrong[5] = wrong[5] == 'a' ? 'b' : 'a';
    assert_int_equal(keys_check(store_keys(store), wrong, 0, NULL), KEY_UNKNOWN);
    assert_int_equal(keys_check(store_keys(store), "", 0, NULL), KEY_UNKNOWN);
    assert_int_equal(keys_check(store_keys(store), "sk-abc", 0, NULL), KEY_UNKNOWN);

    struct error error = {0};
    bool already;
    struct database *database = shelf_database(shelf);
    assert_ok(key_revoke(database, "one", clock_unix_micros(), &seen, &already, &error), error);
    assert_string_equal(seen.id, key.id);
    assert_false(already);
    expect_verdict(store, text, KEY_REVOKED, NULL);
    assert_true(keys_any(store_keys(store))); // keyless use does not come back
    assert_ok(key_revoke(database, key.id, clock_unix_micros(), &seen, &already, &error), error);
    assert_true(already);
    assert_false(key_revoke(database, "nobody", 0, &seen, &already, &error));
    assert_int_equal(error.kind, ERROR_NOT_FOUND);
    database_close(database);
    struct key_info again = {.name = "one"}; // the name is free again
    make_key(shelf, &again, text);
}

static void test_names_are_unique(void **state) {
    struct shelf *shelf = *state;
    struct database *database = shelf_database(shelf);
    struct key_info key = {.name = "one"}, other = {.name = "one"};
    char text[KEY_TEXT_MOST];
    struct error error = {0};
    assert_ok(key_create(database, &key, 1, text, &error), error);
    assert_false(key_create(database, &other, 1, text, &error));
    assert_string_equal(error.field, "name");
    database_close(database);
}

static void test_only_hashes_are_kept(void **state) {
    struct shelf *shelf = *state;
    struct key_info key = {.name = "one"};
    char text[KEY_TEXT_MOST], command[200];
    make_key(shelf, &key, text);
    snprintf(command, sizeof command, "grep -q -F -e '%s' %s", text + 18, shelf->path); // the secret
    assert_int_not_equal(system(command), 0);
    snprintf(command, sizeof command, "grep -q -F -e '%s' %s", key.id, shelf->path);
    assert_int_equal(system(command), 0);
}

static void test_expiry(void **state) {
    (void)state;
    struct error error = {0};
    struct keys *keys = keys_open(&error);
    assert_ok(keys, error);
    struct key_record *record = calloc(1, sizeof *record);
    char text[KEY_TEXT_MOST];
    assert_ok(key_make(text, record->info.id, record->info.last_four, record->hash, &error), error);
    record->info.expires_at = 1000;
    keys_replace(keys, record, 1);
    assert_int_equal(keys_check(keys, text, 999, NULL), KEY_OK);
    assert_int_equal(keys_check(keys, text, 1000, NULL), KEY_EXPIRED);
    keys_replace(keys, NULL, 0);
    assert_int_equal(keys_check(keys, text, 999, NULL), KEY_UNKNOWN);
    keys_close(keys);
}

static void test_requests_per_minute(void **state) {
    (void)state;
    struct error error = {0};
    struct keys *keys = keys_open(&error);
    assert_ok(keys, error);
    for (int round = 0; round < 2; round++) { // the second list leaves what was used
        struct key_record *records = calloc(2, sizeof *records);
        strcpy(records[0].info.id, "limited");
        records[0].info.requests_per_minute = 6;
        strcpy(records[1].info.id, "free");
        keys_replace(keys, records, 2);
        double wait;
        for (int i = 0; i < 6 - round * 6; i++) assert_true(keys_take_request(keys, "limited", 100, &wait));
        assert_false(keys_take_request(keys, "limited", 100, &wait));
        assert_true(wait > 9.99 && wait < 10.01);
        for (int i = 0; i < 1000; i++) assert_true(keys_take_request(keys, "free", 100, &wait));
    }
    double wait;
    assert_true(keys_take_request(keys, "limited", 110.001, &wait));
    assert_false(keys_take_request(keys, "limited", 110.001, &wait));
    keys_close(keys);
}

static void test_rate(void **state) {
    (void)state;
    struct error error = {0};
    struct rate *rate = rate_open(3, &error);
    assert_ok(rate, error);
    double wait;
    // In any minute after the first no more than the limit goes through.
    int taken = 0;
    for (double now = 0; now < 600; now += 0.1) taken += rate_take(rate, "a", 30, now, &wait);
    assert_in_range(taken, 30 + 299 - 1, 30 + 300 + 1);
    // Of four names the one used longest ago is forgotten.
    for (int i = 0; i < 2; i++) assert_true(rate_take(rate, "b", 2, 1000, &wait));
    assert_false(rate_take(rate, "b", 2, 1000, &wait));
    assert_true(rate_take(rate, "c", 2, 1000, &wait));
    assert_true(rate_take(rate, "d", 2, 1000, &wait));
    assert_false(rate_take(rate, "b", 2, 1000, &wait)); // used again
    assert_true(rate_take(rate, "e", 2, 1000, &wait));
    assert_true(rate_take(rate, "f", 2, 1000, &wait));
    assert_false(rate_take(rate, "b", 2, 1000, &wait));
    // Several at once from a bucket of a day.
    assert_true(rate_take_of(rate, "images", 10, 10, 86400, 2000, &wait));
    assert_false(rate_take_of(rate, "images", 2, 10, 86400, 2000, &wait));
    assert_true(wait > 17279 && wait < 17281);
    assert_true(rate_take_of(rate, "images", 2, 10, 86400, 2000 + 17281, &wait));
    rate_close(rate);
}

static void test_periods(void **state) {
    (void)state;
    static const struct {
        int64_t now, day, month, next_month; // seconds
    } cases[] = {
        {1772323199, 1772236800, 1769904000, 1772323200}, // 2026-02-28 23:59:59
        {1772323200, 1772323200, 1772323200, 1775001600}, // 2026-03-01 00:00:00
        {1709164800, 1709164800, 1706745600, 1709251200}, // 2024-02-29
        {1798761599, 1798675200, 1796083200, 1798761600}, // 2026-12-31 23:59:59
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t now = cases[i].now * 1000000 + 5;
        assert_int_equal(usage_start(USAGE_DAY, now), cases[i].day * 1000000);
        assert_int_equal(usage_next(USAGE_DAY, now), (cases[i].day + 86400) * 1000000);
        assert_int_equal(usage_start(USAGE_MONTH, now), cases[i].month * 1000000);
        assert_int_equal(usage_next(USAGE_MONTH, now), cases[i].next_month * 1000000);
        assert_int_equal(usage_start(USAGE_TOTAL, now), 0);
        assert_int_equal(usage_next(USAGE_TOTAL, now), 0);
    }
}

// ------------------------------------------------------------------------------------------------------------- budgets

static struct store_begun begin_with(struct store *store, const char *id, const char *key_id,
                                     int64_t estimate, int images) {
    struct store_begin begin = begin_of(id);
    begin.key_id = key_id;
    begin.estimate_micros = estimate;
    begin.images = images;
    return begin_now(store, &begin);
}

static void test_budget(void **state) {
    struct shelf *shelf = *state;
    struct key_info key = {.name = "one", .budget_day_micros = 20000, .budget_total_micros = 30000};
    char text[KEY_TEXT_MOST];
    make_key(shelf, &key, text);
    struct store *store = shelf_open(shelf);
    assert_int_equal(begin_with(store, "req_00000001", key.id, 12000, 1).outcome, STORE_NEW);
    // What is reserved counts.
    struct store_begun begun = begin_with(store, "req_00000002", key.id, 12000, 1);
    assert_int_equal(begun.outcome, STORE_NO_BUDGET);
    assert_contains(begun.message, "$0.02 a day has $0.008 left");
    assert_true(begun.retry_seconds > 0 && begun.retry_seconds <= 86400);
    // Less was charged than reserved: the rest is free again.
    assert_true(complete_now(store, "req_00000001", 8000, NULL).changed);
    assert_int_equal(begin_with(store, "req_00000003", key.id, 12000, 1).outcome, STORE_NEW);
    assert_true(fail_now(store, "req_00000003", "WORKER_DIED", NULL).changed);
    assert_int_equal(begin_with(store, "req_00000004", key.id, 12000, 1).outcome, STORE_NEW);
    assert_true(complete_now(store, "req_00000004", 12000, NULL).changed);
    begun = begin_with(store, "req_00000005", key.id, 1, 1);
    assert_int_equal(begun.outcome, STORE_NO_BUDGET);
    // Free requests go on; what can never fit has no time at which it could.
    assert_int_equal(begin_with(store, "req_00000006", key.id, 0, 1).outcome, STORE_NEW);
    begun = begin_with(store, "req_00000007", key.id, 25000, 1);
    assert_int_equal(begun.outcome, STORE_NO_BUDGET);
    assert_true(begun.retry_seconds == 0);
    assert_int_equal(shelf_integer(shelf, "SELECT sum(spent) FROM usage WHERE period = 2"), 20000);
    assert_int_equal(shelf_integer(shelf, "SELECT sum(reserved) FROM usage"), 0);
    assert_int_equal(shelf_integer(shelf, "SELECT count(*) FROM requests"),
                     4); // refused ones are not written

    struct waiter waiter = waiter_make();
    struct error error = {0};
    assert_ok(store_get_balance(store, key.id, NULL, on_json, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_string_equal(text_of(waiter.json, "billing_type"), "prepaid");
    assert_true(json_real_value(json_object_get(json_object_get(waiter.json, "available"), "amount")) == 0);
    assert_int_equal(json_array_size(json_object_get(waiter.json, "budgets")), 2);
    json_decref(waiter.json);
    waiter = waiter_make();
    assert_ok(store_get_balance(store, NULL, NULL, on_json, &waiter, &error), error);
    waiter_wait(&waiter);
    assert_string_equal(text_of(waiter.json, "billing_type"), "postpaid");
    assert_true(json_is_null(json_object_get(json_object_get(waiter.json, "available"), "amount")));
    json_decref(waiter.json);
}

static void test_budget_after_a_crash(void **state) {
    struct shelf *shelf = *state;
    struct key_info key = {.name = "one", .budget_month_micros = 20000};
    char text[KEY_TEXT_MOST];
    make_key(shelf, &key, text);
    struct store *store = shelf_open(shelf);
    assert_int_equal(begin_with(store, "req_00000001", key.id, 20000, 1).outcome, STORE_NEW);
    shelf_close(shelf);
    store = shelf_open(shelf);
    assert_int_equal(begin_with(store, "req_00000002", key.id, 20000, 1).outcome, STORE_NEW);
    assert_int_equal(shelf_integer(shelf, "SELECT sum(spent) FROM usage"), 0);
}

// What was reserved before midnight is released and charged there.
static void test_budget_over_midnight(void **state) {
    struct shelf *shelf = *state;
    struct key_info key = {.name = "one", .budget_day_micros = 20000};
    char text[KEY_TEXT_MOST], message[256];
    make_key(shelf, &key, text);
    struct database *database = shelf_database(shelf);
    struct error error = {0};
    enum usage_verdict verdict;
    double retry;
    int64_t evening = INT64_C(1772323199000000), morning = INT64_C(1772323200000000);
    assert_ok(usage_reserve(database, &key, evening, 20000, 1, &verdict, message, &retry, &error), error);
    assert_int_equal(verdict, USAGE_FITS);
    assert_ok(usage_reserve(database, &key, evening, 1, 1, &verdict, message, &retry, &error), error);
    assert_int_equal(verdict, USAGE_NO_MONEY);
    assert_true(retry == 1);
    assert_ok(usage_reserve(database, &key, morning, 20000, 1, &verdict, message, &retry, &error), error);
    assert_int_equal(verdict, USAGE_FITS);
    assert_ok(usage_settle(database, key.id, evening, 20000, 1, 15000, 1, &error), error);
    struct usage_row rows[3];
    assert_ok(usage_read(database, key.id, evening, rows, &error), error);
    assert_int_equal(rows[USAGE_DAY].spent, 15000);
    assert_int_equal(rows[USAGE_DAY].reserved, 0);
    assert_int_equal(rows[USAGE_TOTAL].reserved, 20000);
    assert_ok(usage_read(database, key.id, morning, rows, &error), error);
    assert_int_equal(rows[USAGE_DAY].spent, 0);
    assert_int_equal(rows[USAGE_DAY].reserved, 20000);
    database_close(database);
}

static void test_images_per_day(void **state) {
    struct shelf *shelf = *state;
    struct key_info key = {.name = "one", .images_per_day = 5};
    char text[KEY_TEXT_MOST];
    make_key(shelf, &key, text);
    struct store *store = shelf_open(shelf);
    assert_int_equal(begin_with(store, "req_00000001", key.id, 0, 4).outcome, STORE_NEW);
    struct store_begun begun = begin_with(store, "req_00000002", key.id, 0, 2);
    assert_int_equal(begun.outcome, STORE_NO_IMAGES);
    assert_contains(begun.message, "5 images a day and has 1 left");
    assert_true(begun.retry_seconds > 0 && begun.retry_seconds <= 86400);
    assert_true(complete_now(store, "req_00000001", 0, NULL).changed); // one of the four came
    assert_int_equal(begin_with(store, "req_00000003", key.id, 0, 4).outcome, STORE_NEW);
    assert_int_equal(begin_with(store, "req_00000004", key.id, 0, 1).outcome, STORE_NO_IMAGES);
}

static void test_key_that_went(void **state) {
    struct shelf *shelf = *state;
    struct key_info key = {.name = "one"}, expired = {.name = "two", .expires_at = 5};
    char text[KEY_TEXT_MOST];
    make_key(shelf, &key, text);
    make_key(shelf, &expired, text);
    struct store *store = shelf_open(shelf);
    struct error error = {0};
    bool already;
    struct store_begin repeated = begin_of("req_00000000");
    repeated.key_id = key.id;
    repeated.idempotency_key = "k";
    must_begin(store, &repeated);
    assert_true(complete_now(store, repeated.id, 0, "{}").changed);
    struct database *database = shelf_database(shelf);
    assert_ok(key_revoke(database, key.id, 1, &key, &already, &error), error);
    database_close(database);
    repeated.id = "req_00000009";
    assert_int_equal(begin_now(store, &repeated).outcome, STORE_NO_KEY); // not the answer
    // The budgets are read where they are written: there a revoked key is known at once.
    struct store_begun begun = begin_with(store, "req_00000001", key.id, 0, 1);
    assert_int_equal(begun.outcome, STORE_NO_KEY);
    assert_string_equal(begun.message, "Invalid API key");
    begun = begin_with(store, "req_00000002", expired.id, 0, 1);
    assert_int_equal(begun.outcome, STORE_KEY_OVER);
    assert_contains(begun.message, "expired");
    assert_int_equal(begin_with(store, "req_00000003", "nobody", 0, 1).outcome, STORE_NO_KEY);
}

// ------------------------------------------------------------------------------------------------------- command line

// Runs `limn key ...` in this process; what it prints goes to [out] (of [capacity] bytes).
static int run_key(struct shelf *shelf, char *out, size_t capacity, const char *words) {
    char copy[400], path[128], *arguments[32], option[160];
    int count = 0;
    snprintf(copy, sizeof copy, "key %s", words);
    snprintf(option, sizeof option, "--database=%s", shelf->path);
    for (char *word = strtok(copy, " "); word && count < 30; word = strtok(NULL, " "))
        arguments[count++] = word;
    arguments[count++] = option;
    arguments[count] = NULL;
    snprintf(path, sizeof path, "%s/output", shelf->folder);
    fflush(NULL);
    int kept = dup(STDOUT_FILENO), silent = dup(STDERR_FILENO);
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600),
        none = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(file, STDOUT_FILENO);
    dup2(none, STDERR_FILENO);
    extern int optind;
    optind = 0;
    int status = command_key(count, arguments);
    fflush(NULL);
    dup2(kept, STDOUT_FILENO);
    dup2(silent, STDERR_FILENO);
    ssize_t got = pread(file, out, capacity - 1, 0);
    out[got > 0 ? got : 0] = 0;
    close(file), close(none), close(kept), close(silent);
    return status;
}

static void test_command(void **state) {
    struct shelf *shelf = *state;
    char out[4096], text[KEY_TEXT_MOST];
    struct store *store = shelf_open(shelf);
    assert_int_equal(
        run_key(shelf, out, sizeof out,
                "create laptop --budget-day 0.5 --budget-month 10 --requests-per-minute 7 --images-per-day "
                "9 --models flux*,pictogram --project a --project b --expires 2d --priority high"),
        0);
    assert_int_equal(strlen(out), 62); // the key and a newline, nothing else
    memcpy(text, out, 61);
    text[61] = 0;
    struct key_info key;
    expect_verdict(store, text, KEY_OK, &key);
    assert_int_equal(key.budget_day_micros, 500000);
    assert_int_equal(key.budget_month_micros, 10000000);
    assert_int_equal(key.requests_per_minute, 7);
    assert_int_equal(key.images_per_day, 9);
    assert_int_equal(key.priority, KEY_PRIORITY_HIGH);
    assert_string_equal(key.models, "flux*,pictogram");
    assert_string_equal(key.project, "a");
    assert_string_equal(key.projects, "b");
    assert_false(key.admin);
    int64_t days = key.expires_at - clock_unix_micros();
    assert_true(days > 47 * INT64_C(3600000000) && days <= 48 * INT64_C(3600000000));
    assert_int_equal(run_key(shelf, out, sizeof out, "list"), 0);
    assert_contains(out, "laptop");
    assert_null(strstr(out, text + 18));
    assert_int_equal(run_key(shelf, out, sizeof out, "list --json"), 0);
    json_t *list = json_loads(out, 0, NULL);
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(text_of(json_array_get(list, 0), "last_four"), text + 57);
    json_decref(list);
    assert_int_equal(run_key(shelf, out, sizeof out, "revoke laptop"), 0);
    expect_verdict(store, text, KEY_REVOKED, NULL);
    assert_int_equal(run_key(shelf, out, sizeof out, "list"), 0);
    assert_null(strstr(out, "laptop"));
    assert_int_equal(run_key(shelf, out, sizeof out, "list --all"), 0);
    assert_contains(out, "revoked");
    static const struct {
        const char *words;
        int status;
    } bad[] = {{"", 2},
               {"frob", 2},
               {"create", 2},
               {"create a b", 2},
               {"create a --budget-day nothing", 2},
               {"create a --expires yesterday", 2},
               {"create a --expires 2001-01-01", 2},
               {"create a --frob", 2},
               {"create a --priority urgent", 2},
               {"create a --models pictogram,,flux.2-dev", 1},
               {"create a --models nothing-of-this-name", 1},
               {"create a --models nothing*", 1},
               {"create a --models pictogram,", 1},
               {"list --admin", 2},
               {"revoke nobody", 1},
               {"--help", 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int status = run_key(shelf, out, sizeof out, bad[i].words);
        if (status != bad[i].status)
            fail_msg("limn key %s: %d, expected %d", bad[i].words, status, bad[i].status);
    }
}

#define WITH_SHELF(test) cmocka_unit_test_setup_teardown(test, shelf_set_up, shelf_tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_allows),
        cmocka_unit_test(test_fields),
        WITH_SHELF(test_changes_are_seen),
        WITH_SHELF(test_names_are_unique),
        WITH_SHELF(test_only_hashes_are_kept),
        cmocka_unit_test(test_expiry),
        cmocka_unit_test(test_requests_per_minute),
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_periods),
        WITH_SHELF(test_budget),
        WITH_SHELF(test_budget_after_a_crash),
        WITH_SHELF(test_budget_over_midnight),
        WITH_SHELF(test_images_per_day),
        WITH_SHELF(test_key_that_went),
        WITH_SHELF(test_command),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
