// What a client gets, when, for how much, and what is kept of it: streams of several pictures, cancelled ones, answers for whoever
// comes back.
#include "gateway_house.h"

#include "gateway/answer.h"

#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>

// The events of a stream so far, one JSON each.
static json_t *events_of(struct house *h, const char *id) {
    json_t *list = json_array();
    char *all = chunks(h, id);
    for (char *at = all; (at = strstr(at, "data: "));) {
        at += 6;
        size_t length = strcspn(at, "\n");
        struct error error = {0};
        json_t *event = json_parse("event", at, length, &error);
        if (!event) fail_msg("%s: %.*s", error.message, (int)length, at);
        json_array_append_new(list, event);
    }
    free(all);
    return list;
}

static void assert_event(const json_t *list, size_t index, int picture, int input, json_int_t micros) {
    const json_t *event = json_array_get(list, index), *usage = json_object_get(event, "usage"),
                 *metadata = json_object_get(event, "metadata");
    assert_string_equal(text(event, "type"), "image_generation.completed");
    assert_string_equal(text(event, "b64_json"), "cGljdHVyZQ==");
    assert_int_equal(number(event, "index"), picture);
    assert_int_equal(number(usage, "input_tokens"), input);
    assert_int_equal(number(usage, "output_tokens"), 11);
    assert_int_equal(number(usage, "total_tokens"), input + 11);
    assert_int_equal(number(metadata, "cost_micros"), micros);
}

static void fail_job(const char *id, enum queue_failure why, enum error_kind kind) {
    say(id, QUEUE_FAILED, failure(why, kind, "it ended"));
}

// ------------------------------------------------------------------------------------------------------------- streams

// Each picture comes when it is ready, with its own part of the usage and the price; the parts come to the whole.
static void test_pictures_come_one_by_one(void **state) {
    struct house *h = *state;
    start(h, "req_s", "{\"prompt\":\"x\",\"stream\":true,\"n\":2,\"seed\":4}", (struct gateway_call){0});
    assert_true(wait_job("req_s")->streams); // it is not run again once something was sent
    say("req_s", QUEUE_STARTED, (struct queue_event){0});
    json_t *list = events_of(h, "req_s");
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
    give_picture(h, "req_s", 0, 4);
    list = events_of(h, "req_s");
    assert_int_equal(json_array_size(list), 1);
    assert_event(list, 0, 0, 5 + 7, 8000);
    json_decref(list);
    give_picture(h, "req_s", 1, 5);
    say("req_s", QUEUE_DONE, DONE); // the last one comes with the record
    assert_int_equal(answer(h, "req_s")->error.code, API_OK);
    list = events_of(h, "req_s");
    assert_int_equal(json_array_size(list), 2);
    assert_event(list, 1, 1, 0, 8000);
    assert_int_equal(number(json_array_get(list, 1), "seed"), 5);
    json_decref(list);
    assert_record(h, "req_s", "completed", NULL, 16000);
    json_t *record = record_of(h, "req_s");
    assert_int_equal(number(json_object_get(record, "usage"), "total_tokens"), 5 + 7 + 2 * 11);
    assert_int_equal(number(record, "images"), 2);
    json_decref(record);
}

// The input of each call to the provider counts with the first picture that comes of it.
static void test_several_calls_stream(void **state) {
    struct house *h = *state;
    start(h, "req_m", "{\"prompt\":\"x\",\"stream\":true,\"n\":3}", (struct gateway_call){0});
    wait_job("req_m-1");
    give_picture(h, "req_m-1", 0, 1);
    give_picture(h, "req_m-0", 0, 1);
    give_picture(h, "req_m-0", 1, 1);
    say("req_m-0", QUEUE_DONE, DONE);
    say("req_m-1", QUEUE_DONE, DONE);
    assert_int_equal(answer(h, "req_m")->error.code, API_OK);
    json_t *list = events_of(h, "req_m");
    assert_int_equal(json_array_size(list), 3);
    assert_event(list, 0, 2, 5 + 7, 8000);
    assert_event(list, 1, 0, 5 + 7, 8000);
    assert_event(list, 2, 1, 0, 8000);
    json_decref(list);
}

// What came is charged, and the last event says why the rest is missing.
static void test_stream_that_fails_half_way(void **state) {
    struct house *h = *state;
    start(h, "req_h", "{\"prompt\":\"x\",\"stream\":true,\"n\":3}", (struct gateway_call){0});
    wait_job("req_h");
    say("req_h", QUEUE_STARTED, (struct queue_event){0});
    give_picture(h, "req_h", 0, 1);
    fail_job("req_h", QUEUE_FAILURE_TIME, ERROR_UNAVAILABLE);
    assert_int_equal(answer(h, "req_h")->error.code, API_OK);
    json_t *list = events_of(h, "req_h");
    assert_int_equal(json_array_size(list), 2);
    assert_event(list, 0, 0, 5 + 7, 8000);
    assert_string_equal(text(json_object_get(json_array_get(list, 1), "error"), "code"),
                        "GENERATION_TIMEOUT");
    json_decref(list);
    assert_record(h, "req_h", "completed", NULL, 8000);
}

// A stream that somebody stops pays for what was shown of it, a preview or a picture; what fails is free.
static void test_cancelled_streams(void **state) {
    struct house *h = *state;
    static const struct {
        const char *id;
        int previews, pictures; // of picture 0; from picture 0 on
        bool fails;
        json_int_t micros, images;
    } cases[] = {{"req_none", 0, 0, false, 0, 0},
                 {"req_preview", 2, 0, false, 8000, 1},
                 {"req_picture", 2, 1, false, 8000, 1},
                 {"req_two", 0, 2, false, 16000, 2},
                 {"req_fails", 2, 0, true, 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *id = cases[i].id;
        start(h, id, "{\"prompt\":\"x\",\"stream\":true,\"partial_images\":3,\"n\":3}",
              (struct gateway_call){0});
        wait_job(id);
        say(id, QUEUE_STARTED, (struct queue_event){0});
        for (int k = 0; k < cases[i].previews; k++) give_preview(h, id, 0, k);
        for (int k = 0; k < cases[i].pictures; k++) give_picture(h, id, k, 1);
        if (!cases[i].fails) gateway_cancel(h->gateway, id);
        give_preview(h, id, 2, 0); // too late: nobody reads it
        fail_job(id, cases[i].fails ? QUEUE_FAILURE_WORKER_DIED : QUEUE_FAILURE_JOB,
                 cases[i].fails ? ERROR_UNAVAILABLE : ERROR_CANCELLED);
        assert_int_equal(answer(h, id)->error.code, cases[i].fails ? API_WORKER_DIED : API_CANCELLED);
        json_t *record = record_of(h, id);
        assert_string_equal(text(record, "status"), cases[i].fails ? "upstream_failure" : "cancelled");
        assert_int_equal(number(record, "cost_micros"), cases[i].micros);
        assert_int_equal(number(record, "images"), cases[i].images);
        assert_int_equal(number(json_object_get(record, "usage"), "output_tokens"), 11 * cases[i].images);
        if (cases[i].images) assert_non_null(strstr(text(record, "error_message"), "charged"));
        json_decref(record);
    }
    // One that is no stream has shown nothing before its end.
    start(h, "req_plain", "{\"prompt\":\"x\",\"n\":2}", (struct gateway_call){0});
    wait_job("req_plain");
    give_picture(h, "req_plain", 0, 1);
    gateway_cancel(h->gateway, "req_plain");
    fail_job("req_plain", QUEUE_FAILURE_JOB, ERROR_CANCELLED);
    answer(h, "req_plain");
    assert_record(h, "req_plain", "cancelled", "CANCELLED", 0);
}

// Once the last picture is out, a client that leaves has not cancelled anything.
static void test_leaving_after_the_last_picture(void **state) {
    struct house *h = *state;
    start(h, "req_l", "{\"prompt\":\"x\",\"stream\":true}", (struct gateway_call){0});
    wait_job("req_l");
    give_picture(h, "req_l", 0, 1);
    gateway_cancel(h->gateway, "req_l");
    assert_false(gateway_stop(h->gateway, "req_l"));
    assert_false(fake.jobs[0].cancelled);
    say("req_l", QUEUE_DONE, DONE);
    assert_int_equal(answer(h, "req_l")->error.code, API_OK);
    assert_record(h, "req_l", "completed", NULL, 8000);
}

// ---------------------------------------------------------------------------------------------------------------- kept

// The one file in media.
static void media_path(struct house *h, char path[200]) {
    char folder[100];
    snprintf(folder, sizeof folder, "%s/media", h->folder);
    assert_int_equal(count_files(folder), 1);
    DIR *open = opendir(folder);
    for (struct dirent *entry; (entry = readdir(open));)
        if (entry->d_name[0] != '.') snprintf(path, 200, "%s/%.60s", folder, entry->d_name);
    closedir(open);
}

static void make_older(const char *path, int seconds) {
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    struct timespec old[2] = {{info.st_mtim.tv_sec - seconds, 0}, {info.st_mtim.tv_sec - seconds, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
}

// The pictures of a kept answer lie in media, not in the database, and come back to the byte.
static void test_kept_base64(void **state) {
    struct house *h = *state;
    static const char body[] = "{\"prompt\":\"x\",\"response_format\":\"b64_json\",\"n\":1}";
    struct gateway_call key = {.idempotency_key = "k"};
    char path[200];
    start(h, "req_1", body, key);
    run(h, "req_1");
    const struct gateway_message *first = answer(h, "req_1");
    media_path(h, path);
    make_older(path, 7200); // twice as old as pictures behind plain URLs become
    json_t *record = record_of(h, "req_1");
    json_t *kept = json_object_get(record, "answer");
    const json_t *data = json_array_get(json_object_get(kept, "data"), 0);
    assert_string_equal(text(json_object_get(data, "b64_json"), "media"), strrchr(path, '/') + 1);
    answer_fill(kept, h->media);
    assert_string_equal(text(data, "b64_json"), "cGljdHVyZQ==");
    json_decref(record);
    start(h, "req_2", body, key);
    const struct gateway_message *again = answer(h, "req_2");
    assert_int_equal(again->error.code, API_OK);
    assert_true(again->replayed);
    assert_string_equal(again->body.data, first->body.data);
    // Without its picture there is no answer to give, and none is made up.
    assert_int_equal(unlink(path), 0);
    start(h, "req_3", body, key);
    const struct gateway_message *gone = answer(h, "req_3");
    assert_int_equal(gone->error.code, API_IDEMPOTENCY_CONFLICT);
    assert_true(gone->should_not_retry);
    record = record_of(h, "req_1");
    answer_fill(json_object_get(record, "answer"), h->media);
    data = json_array_get(json_object_get(json_object_get(record, "answer"), "data"), 0);
    assert_true(json_is_null(json_object_get(data, "b64_json")));
    json_decref(record);
    assert_int_equal(fake.count, 1);
}

// A URL of a kept answer lives as long as the answer.
static void test_kept_url(void **state) {
    struct house *h = *state;
    struct gateway_call key = {.idempotency_key = "k"};
    struct media_item item;
    struct error error = {0};
    char path[200];
    start(h, "req_1", "{\"prompt\":\"x\"}", key);
    run(h, "req_1");
    const struct gateway_message *first = answer(h, "req_1");
    media_path(h, path);
    make_older(path, 7200);
    media_expire(h->media);
    start(h, "req_2", "{\"prompt\":\"x\"}", key);
    const struct gateway_message *again = answer(h, "req_2");
    assert_string_equal(again->body.data, first->body.data);
    json_t *body = body_of(again);
    const char *url = text(json_array_get(json_object_get(body, "data"), 0), "url");
    assert_true(media_get(h->media, strrchr(url, '/') + 1, &item, &error));
    close(item.file);
    json_decref(body);
}

// The same events come again, to the byte; one who comes while they are made gets all of them at the end.
static void test_kept_stream(void **state) {
    struct house *h = *state;
    static const char body[] = "{\"prompt\":\"x\",\"stream\":true,\"n\":3,\"response_format\":\"url\"}";
    struct gateway_call key = {.idempotency_key = "k"};
    start(h, "req_1", body, key);
    wait_job("req_1");
    give_picture(h, "req_1", 0, 1);
    start(h, "req_2", body, key);
    for (double end = clock_seconds() + WAIT_SECONDS;
         gateway_in_work(h->gateway) > 1 && clock_seconds() < end;)
        usleep(1000);
    give_picture(h, "req_1", 1, 2);
    fail_job("req_1", QUEUE_FAILURE_TIME, ERROR_UNAVAILABLE);
    answer(h, "req_1");
    assert_true(answer(h, "req_2")->replayed);
    start(h, "req_3", body, key);
    assert_int_equal(answer(h, "req_3")->error.code, API_OK);
    char *first = chunks(h, "req_1"), *second = chunks(h, "req_2"), *third = chunks(h, "req_3");
    assert_non_null(strstr(first, "event: error"));
    assert_non_null(strstr(first, "\"url\":\"http://limn.example/media/"));
    assert_string_equal(strstr(first, "event: "), second); // but for the comment at the beginning
    assert_string_equal(second, third);
    free(first), free(second), free(third);
    assert_int_equal(fake.count, 1);
}

// sync_mode keeps nothing: the key still keeps the request from being run and paid twice.
static void test_sync_mode_is_not_kept(void **state) {
    struct house *h = *state;
    static const char body[] = "{\"prompt\":\"x\",\"sync_mode\":true}";
    struct gateway_call key = {.idempotency_key = "k"};
    struct api_error error = {0};
    char folder[100];
    snprintf(folder, sizeof folder, "%s/media", h->folder);
    start(h, "req_1", body, key);
    wait_job("req_1");
    start(h, "req_2", body, key); // while it runs
    for (double end = clock_seconds() + WAIT_SECONDS;
         gateway_in_work(h->gateway) > 1 && clock_seconds() < end;)
        usleep(1000);
    run(h, "req_1");
    assert_string_equal(answer(h, "req_1")->body.data, answer(h, "req_2")->body.data);
    start(h, "req_3", body, key);
    assert_int_equal(answer(h, "req_3")->error.code, API_IDEMPOTENCY_CONFLICT);
    assert_int_equal(count_files(folder), 0);
    json_t *record = record_of(h, "req_1");
    assert_true(json_is_null(json_object_get(record, "answer")));
    json_decref(record);
    assert_int_equal(fake.count, 1);
    // Nobody can come back for it, so a client that leaves stops it.
    start(h, "req_4", body, (struct gateway_call){.idempotency_key = "other"});
    wait_job("req_4");
    gateway_cancel(h->gateway, "req_4");
    assert_true(fake.jobs[1].cancelled);
    fail_job("req_4", QUEUE_FAILURE_JOB, ERROR_CANCELLED);
    answer(h, "req_4");
    assert_false(
        start_with(h, "req_5", MODE_GENERATION, body, (struct gateway_call){.asynchronous = true}, &error));
    assert_int_equal(error.code, API_INVALID_REQUEST);
    assert_string_equal(error.param, "sync_mode");
}

// What was kept by an asynchronous request is there for a call that comes with its key.
static void test_kept_for_later(void **state) {
    struct house *h = *state;
    static const char body[] = "{\"prompt\":\"x\",\"response_format\":\"b64_json\"}";
    start(h, "req_1", body, (struct gateway_call){.idempotency_key = "k", .asynchronous = true});
    assert_int_equal(answer(h, "req_1")->status, 202);
    wait_job("req_1");
    start(h, "req_2", body, (struct gateway_call){.idempotency_key = "k"}); // waits for it
    for (double end = clock_seconds() + WAIT_SECONDS;
         gateway_in_work(h->gateway) > 1 && clock_seconds() < end;)
        usleep(1000);
    run(h, "req_1");
    json_t *json = body_of(answer(h, "req_2"));
    assert_string_equal(text(json_array_get(json_object_get(json, "data"), 0), "b64_json"), "cGljdHVyZQ==");
    json_decref(json);
}

// --------------------------------------------------------------------------------------------------------------- limits

// A repetition needs neither a place nor pictures of the day; what is more than a day has is never worth a retry.
static void test_repetitions_are_free(void **state) {
    struct house *h = *state;
    struct principal here = {.keyless = true, .name = "address:192.0.2.1"};
    struct gateway_call key = {.principal = &here, .idempotency_key = "k"};
    struct api_error error = {0};
    h->config.auth.keyless_images_per_day = 2;
    start(h, "req_1", "{\"prompt\":\"x\",\"n\":2}", key);
    run(h, "req_1");
    answer(h, "req_1");
    fake.full = true;
    start(h, "req_2", "{\"prompt\":\"x\",\"n\":2}", key);
    assert_int_equal(answer(h, "req_2")->error.code, API_OK);
    key.idempotency_key = "new";
    start(h, "req_3", "{\"prompt\":\"x\"}", key);
    const struct gateway_message *refused = answer(h, "req_3");
    assert_int_equal(refused->error.code, API_RATE_LIMITED);
    assert_true(refused->error.retry_after > 0 && refused->error.retry_after <= 86400);
    assert_record(h, "req_3", "rejected", "RATE_LIMITED", 0);
    assert_false(start_with(h, "req_4", MODE_GENERATION, "{\"prompt\":\"x\",\"n\":3}",
                            (struct gateway_call){.principal = &here}, &error));
    assert_true(isinf(error.retry_after));
}

static void test_priority(void **state) {
    struct house *h = *state;
    static const enum scheduler_priority levels[] = {SCHEDULER_LOW, SCHEDULER_NORMAL, SCHEDULER_HIGH};
    for (int i = 0; i < 3; i++) {
        char id[16];
        struct principal one = {.keyless = true, .key = {.priority = i - 1}, .name = "one"};
        snprintf(id, sizeof id, "req_%d", i);
        start(h, id, "{\"prompt\":\"x\"}", (struct gateway_call){.principal = &one});
        assert_int_equal(wait_job(id)->priority, levels[i]);
        run(h, id);
        answer(h, id);
    }
}

static void test_lists_of_pictures(void **state) {
    static const char name[] = "0123456789abcdef0123456789abcdef.png";
    static const char *const bad[] = {"x",
                                      "5",
                                      "5 ",
                                      "5 a.png\n",
                                      "5 %s",
                                      "11 %s\n",
                                      "-1 %s\n",
                                      "5 %s\n4 %s\n",
                                      "99999999999999999999 %s\n",
                                      "5 ../%s\n",
                                      "5 %s\n\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct answer answer = {.text = {.length = 10}};
        struct error error = {0};
        char list[200];
        const char *first = strstr(bad[i], "%s"), *second = first ? strstr(first + 1, "%s") : NULL;
        if (first)
            snprintf(list, sizeof list, "%.*s%s%.*s%s%s", (int)(first - bad[i]), bad[i], name,
                     second ? (int)(second - first - 2) : (int)strlen(first + 2), first + 2,
                     second ? name : "", second ? second + 2 : "");
        else
            snprintf(list, sizeof list, "%s", bad[i]);
        if (answer_read_list(&answer, list, &error)) fail_msg("taken: %s", list);
        assert_int_equal(error.kind, ERROR_INPUT);
    }
    struct answer answer = {.text = {.length = 10}}, many = {.text = {.length = 10}};
    struct error error = {0};
    struct buffer list = {0}, out = {0};
    for (int i = 0; i < REQUEST_COUNT_MOST; i++) assert_true(buffer_printf(&list, "%d %s\n", i, name));
    assert_true(answer_read_list(&answer, list.data, &error));
    assert_int_equal(answer.count, REQUEST_COUNT_MOST);
    assert_true(answer_list(&answer, &out));
    assert_string_equal(out.data, list.data);
    assert_true(buffer_printf(&list, "10 %s\n", name)); // one too many
    assert_false(answer_read_list(&many, list.data, &error));
    buffer_free(&list);
    buffer_free(&out);
}

int main(void) {
#define CASE(test) cmocka_unit_test_setup_teardown(test, open_house, close_house)
    const struct CMUnitTest tests[] = {
        CASE(test_pictures_come_one_by_one),
        cmocka_unit_test_setup_teardown(test_several_calls_stream, open_card_house, close_house),
        CASE(test_stream_that_fails_half_way),
        CASE(test_cancelled_streams),
        CASE(test_leaving_after_the_last_picture),
        CASE(test_kept_base64),
        CASE(test_kept_url),
        CASE(test_kept_stream),
        CASE(test_sync_mode_is_not_kept),
        CASE(test_kept_for_later),
        CASE(test_repetitions_are_free),
        CASE(test_priority),
        cmocka_unit_test(test_lists_of_pictures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
