// A request's way through the gateway.
#include "gateway_house.h"

#include "gateway/fetch.h"
#include "https_site.h"

// ------------------------------------------------------------------------------------------------------------- tests

static void test_url(void **state) {
    struct house *h = *state;
    start(h, "req_a",
          "{\"prompt\":\"x\",\"size\":\"130x64\",\"n\":2,\"seed\":7,\"quality\":\"high\",\"what\":1}",
          (struct gateway_call){0});
    struct fake_job *job = wait_job("req_a");
    assert_int_equal(job->width, 144);
    assert_int_equal(job->deliver_width, 130);
    assert_true(job->seed == 7 && job->count == 2 && job->quality == -1);
    run(h, "req_a");
    const struct gateway_message *message = answer(h, "req_a");
    assert_int_equal(message->status, 200);
    assert_string_equal(message->provider, "local");
    assert_string_equal(message->model, "test-model");
    json_t *body = body_of(message), *metadata = json_object_get(body, "metadata");
    assert_string_equal(text(body, "id"), "req_a");
    assert_string_equal(text(body, "size"), "128x64");
    assert_string_equal(text(body, "output_format"), "png");
    assert_int_equal(number(json_object_get(body, "usage"), "total_tokens"), 5 + 7 + 2 * 11);
    assert_string_equal(text(metadata, "executed_model"), "local/test-model");
    assert_int_equal(number(metadata, "cost_micros"), 16000); // two pictures, a megapixel each
    assert_int_equal(json_array_size(json_object_get(metadata, "ignored_parameters")), 2);
    assert_int_equal(json_array_size(json_object_get(metadata, "attempts")), 1);
    for (size_t i = 0; i < 2; i++) {
        const json_t *one = json_array_get(json_object_get(body, "data"), i);
        static const char start_of[] = "http://limn.example/media/";
        struct media_item item;
        struct error error = {0};
        assert_int_equal(number(one, "seed"), 7 + (json_int_t)i);
        assert_memory_equal(text(one, "url"), start_of, strlen(start_of));
        assert_true(media_get(h->media, text(one, "url") + strlen(start_of), &item, &error));
        assert_int_equal(item.size, 7);
        close(item.file);
    }
    json_decref(body);
    assert_record(h, "req_a", "completed", NULL, 16000);
}

static void test_dry_run_agrees(void **state) {
    struct house *h = *state;
    static const char request[] = "{\"prompt\":\"x\",\"n\":3,\"size\":\"100x100\"}";
    start(h, "req_dry", request, (struct gateway_call){.dry_run = true});
    json_t *body = body_of(answer(h, "req_dry"));
    json_int_t estimate = number(body, "total_cost_micros");
    json_decref(body);
    assert_int_equal(fake.count, 0); // nothing was run
    start(h, "req_real", request, (struct gateway_call){0});
    run(h, "req_real");
    body = body_of(answer(h, "req_real"));
    assert_int_equal(number(json_object_get(body, "metadata"), "cost_micros"), estimate);
    assert_int_equal(estimate, 24000);
    json_decref(body);
}

static void test_forms_of_delivery(void **state) {
    struct house *h = *state;
    static const struct {
        const char *id, *json, *key, *begins;
    } cases[] = {
        {"req_u", "{\"prompt\":\"x\"}", "url", "http://"},
        {"req_b", "{\"prompt\":\"x\",\"response_format\":\"b64_json\"}", "b64_json", "cGljdHVyZQ=="},
        {"req_g", "{\"prompt\":\"x\",\"model\":\"gpt-image-1\"}", "b64_json", "cGljdHVyZQ=="},
        {"req_h", "{\"prompt\":\"x\",\"model\":\"gpt-image-1\",\"response_format\":\"url\"}", "url",
         "http://"},
        {"req_s", "{\"prompt\":\"x\",\"sync_mode\":true,\"output_format\":\"webp\"}", "url",
         "data:image/webp;base64,cGljdHVyZQ=="},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        start(h, cases[i].id, cases[i].json, (struct gateway_call){0});
        run(h, cases[i].id);
        json_t *body = body_of(answer(h, cases[i].id));
        const char *value = text(json_array_get(json_object_get(body, "data"), 0), cases[i].key);
        assert_non_null(value);
        assert_memory_equal(value, cases[i].begins, strlen(cases[i].begins));
        json_decref(body);
    }
}

static void test_stream(void **state) {
    struct house *h = *state;
    start(h, "req_s", "{\"prompt\":\"x\",\"stream\":true,\"partial_images\":2,\"seed\":1}",
          (struct gateway_call){0});
    assert_int_equal(wait_job("req_s")->previews, 2);
    say("req_s", QUEUE_STARTED, (struct queue_event){0});
    give_preview(h, "req_s", 0, 0);
    give_preview(h, "req_s", 0, 1);
    give_picture(h, "req_s", 0, 1);
    say("req_s", QUEUE_DONE, DONE);
    const struct gateway_message *message = answer(h, "req_s");
    assert_int_equal(message->error.code, API_OK);
    assert_int_equal(message->body.length, 0);
    char *all = chunks(h, "req_s"), *at = all;
    static const char *const order[] = {
        ": req_s\n\n",
        "event: image_generation.partial_image\ndata: {",
        "\"b64_json\":\"cHJldmlldw==\"",
        "\"partial_image_index\":0",
        "event: image_generation.partial_image",
        "\"partial_image_index\":1",
        "event: image_generation.completed\ndata: {\"type\":\"image_generation.completed\"",
        "\"b64_json\":\"cGljdHVyZQ==\"",
        "\"usage\":{"};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        at = strstr(at, order[i]);
        if (!at) fail_msg("not there, or not in this order: %s\nin: %s", order[i], all);
    }
    free(all);
}

static void test_stream_that_fails(void **state) {
    struct house *h = *state;
    start(h, "req_f", "{\"prompt\":\"x\",\"stream\":true}", (struct gateway_call){0});
    wait_job("req_f");
    say("req_f", QUEUE_STARTED, (struct queue_event){0});
    say("req_f", QUEUE_FAILED, failure(QUEUE_FAILURE_WORKER_DIED, ERROR_UNAVAILABLE, "the worker died"));
    assert_int_equal(answer(h, "req_f")->error.code, API_WORKER_DIED);
    char *all = chunks(h, "req_f");
    assert_non_null(strstr(all, "event: error\ndata: {\"error\":{"));
    free(all);
}

static void test_idempotency(void **state) {
    struct house *h = *state;
    struct gateway_call key = {.idempotency_key = "k"};
    static const char body[] = "{\"prompt\":\"x\"}";
    start(h, "req_1", body, key);
    wait_job("req_1");
    start(h, "req_2", body, key); // attaches
    start(h, "req_3", "{\"prompt\":\"other\"}", key);
    const struct gateway_message *conflict = answer(h, "req_3");
    assert_int_equal(conflict->error.code, API_IDEMPOTENCY_CONFLICT);
    assert_true(conflict->should_not_retry);
    run(h, "req_1");
    const struct gateway_message *first = answer(h, "req_1"), *second = answer(h, "req_2");
    assert_true(!first->replayed && second->replayed);
    start(h, "req_4", body, key); // is given what there is
    const struct gateway_message *later = answer(h, "req_4");
    assert_true(later->replayed);
    assert_string_equal(first->body.data, second->body.data);
    assert_string_equal(first->body.data, later->body.data);
    assert_int_equal(fake.count, 1); // one run
}

static void test_idempotent_stream(void **state) {
    struct house *h = *state;
    struct gateway_call key = {.idempotency_key = "k"};
    static const char body[] = "{\"prompt\":\"x\",\"stream\":true}";
    start(h, "req_1", body, key);
    run(h, "req_1");
    assert_int_equal(answer(h, "req_1")->error.code, API_OK);
    start(h, "req_2", body, key);
    assert_int_equal(answer(h, "req_2")->error.code, API_OK);
    char *all = chunks(h, "req_2");
    assert_non_null(strstr(all, "event: image_generation.completed\ndata: "));
    assert_non_null(strstr(all, "\"b64_json\":\"cGljdHVyZQ==\""));
    free(all);
    assert_int_equal(fake.count, 1);
}

// A failure that may pass frees the key: the next call runs.
static void test_idempotency_after_failure(void **state) {
    struct house *h = *state;
    struct gateway_call key = {.idempotency_key = "k"};
    start(h, "req_1", "{\"prompt\":\"x\"}", key);
    wait_job("req_1");
    say("req_1", QUEUE_FAILED, failure(QUEUE_FAILURE_WORKER_DIED, ERROR_UNAVAILABLE, "died"));
    assert_int_equal(answer(h, "req_1")->error.code, API_WORKER_DIED);
    start(h, "req_2", "{\"prompt\":\"x\"}", key);
    run(h, "req_2");
    assert_int_equal(answer(h, "req_2")->error.code, API_OK);
}

static void test_asynchronous(void **state) {
    struct house *h = *state;
    start(h, "req_p", "{\"prompt\":\"x\"}", (struct gateway_call){.asynchronous = true});
    const struct gateway_message *message = answer(h, "req_p");
    assert_int_equal(message->status, 202);
    assert_string_equal(message->location, "/v1/requests/req_p");
    wait_job("req_p");
    gateway_cancel(h->gateway, "req_p"); // its client is gone, as was to be expected
    assert_false(fake.jobs[0].cancelled);
    say("req_p", QUEUE_STARTED, (struct queue_event){0});
    say("req_p", QUEUE_PROGRESS, (struct queue_event){.stage = "steps", .images = 1, .step = 4, .steps = 8});
    json_t *progress = gateway_progress_json(h->gateway, "req_p");
    assert_string_equal(text(progress, "status"), "processing");
    assert_true(json_real_value(json_object_get(progress, "progress")) == 0.5);
    json_decref(progress);
    run(h, "req_p");
    for (double end = clock_seconds() + WAIT_SECONDS; gateway_in_work(h->gateway) && clock_seconds() < end;)
        usleep(1000);
    assert_null(gateway_progress_json(h->gateway, "req_p"));
    json_t *record = record_of(h, "req_p");
    assert_string_equal(text(record, "status"), "completed");
    assert_string_equal(text(json_object_get(record, "answer"), "id"), "req_p");
    json_decref(record);
}

static void test_cancelling(void **state) {
    struct house *h = *state;
    start(h, "req_c", "{\"prompt\":\"x\"}", (struct gateway_call){0});
    wait_job("req_c");
    gateway_cancel(h->gateway, "req_c");
    assert_true(fake.jobs[0].cancelled);
    say("req_c", QUEUE_FAILED, failure(QUEUE_FAILURE_JOB, ERROR_CANCELLED, "cancelled"));
    assert_int_equal(answer(h, "req_c")->error.code, API_CANCELLED);
    assert_record(h, "req_c", "cancelled", "CANCELLED", 0);

    start(h, "req_k", "{\"prompt\":\"x\"}", (struct gateway_call){.idempotency_key = "k"});
    wait_job("req_k");
    gateway_cancel(h->gateway, "req_k"); // may be claimed
    assert_false(fake.jobs[1].cancelled);
    assert_true(gateway_stop(h->gateway, "req_k")); // on its owner's word it ends
    assert_true(fake.jobs[1].cancelled);
    give_picture(h, "req_k", 0, 1);
    say("req_k", QUEUE_FAILED, failure(QUEUE_FAILURE_JOB, ERROR_CANCELLED, "cancelled"));
    assert_int_equal(answer(h, "req_k")->error.code, API_CANCELLED);
    assert_false(gateway_stop(h->gateway, "req_k"));
}

static void test_partial_failure(void **state) {
    struct house *h = *state;
    start(h, "req_n", "{\"prompt\":\"x\",\"n\":3}", (struct gateway_call){0});
    wait_job("req_n");
    say("req_n", QUEUE_STARTED, (struct queue_event){0});
    give_picture(h, "req_n", 0, 1);
    say("req_n", QUEUE_FAILED, failure(QUEUE_FAILURE_TIME, ERROR_UNAVAILABLE, "it took too long"));
    json_t *body = body_of(answer(h, "req_n")), *metadata = json_object_get(body, "metadata");
    assert_int_equal(json_array_size(json_object_get(body, "data")), 1);
    const json_t *errors = json_object_get(metadata, "errors");
    assert_int_equal(json_array_size(errors), 2);
    assert_int_equal(number(json_array_get(errors, 1), "index"), 2);
    assert_string_equal(text(json_array_get(errors, 0), "code"), "GENERATION_TIMEOUT");
    assert_int_equal(number(metadata, "cost_micros"), 8000); // what was delivered
    assert_int_equal(number(json_object_get(body, "usage"), "input_tokens"), 5 + 7);
    assert_int_equal(number(json_object_get(body, "usage"), "output_tokens"), 11);
    json_decref(body);
    json_t *record = record_of(h, "req_n"), *usage = json_object_get(record, "usage");
    assert_int_equal(number(usage, "total_tokens"), 5 + 7 + 11);
    json_decref(record);
}

// References and a mask behind URLs: fetched before anything is recorded, then as if they had come along.
static void test_fetched_pictures(void **state) {
    void *site_state, *house_state;
    open_site(&site_state);
    struct site *site = site_state;
    if (!site->daemon) {
        close_site(&site_state);
        skip();
    }
    struct fetch_options fetch = {.bytes_most = 1000,
                                  .seconds = 10,
                                  .redirects_most = 2,
                                  .may_connect = only_127_0_0_1,
                                  .authorities = site->certificate};
    assert_int_equal(open_with(&house_state, false, &fetch), 0);
    struct house *h = house_state;
    struct api_error error = {0};
    char json[600];
    snprintf(json, sizeof json,
             "{\"prompt\":\"x\",\"images\":[{\"image_url\":\"https://127.0.0.1:%d/picture\"},\"https://"
             "127.0.0.1:%d/picture\"],"
             "\"mask\":{\"image_url\":\"https://127.0.0.1:%d/picture\"}}",
             site->port, site->port, site->port);
    if (!start_with(h, "req_dry", MODE_EDIT, json, (struct gateway_call){.dry_run = true}, &error))
        fail_msg("%s", error.message);
    json_t *body = body_of(answer(h, "req_dry"));
    assert_int_equal(number(body, "total_cost_micros"), 8000 + 2 * 3000); // each reference a megapixel
    json_decref(body);
    assert_true(start_with(h, "req_f", MODE_EDIT, json, (struct gateway_call){0}, &error));
    assert_string_equal(wait_job("req_f")->mask, "req_f-url-4");
    assert_int_equal(fake.jobs[0].references, 2);
    run(h, "req_f");
    body = body_of(answer(h, "req_f"));
    assert_int_equal(number(json_object_get(body, "metadata"), "cost_micros"), 14000);
    json_decref(body);

    snprintf(
        json, sizeof json,
        "{\"prompt\":\"x\",\"images\":[\"https://127.0.0.1:%d/picture\",\"https://127.0.0.1:%d/to/inside\"]}",
        site->port, site->port);
    assert_true(start_with(h, "req_b", MODE_EDIT, json, (struct gateway_call){0}, &error));
    const struct gateway_message *refused = answer(h, "req_b");
    assert_int_equal(refused->error.code, API_INVALID_REQUEST);
    assert_string_equal(refused->error.param, "image[1]");
    assert_record(h, "req_b", "rejected", "INVALID_REQUEST", 0);
    assert_int_equal(fake.count, 1);
    close_house(&house_state);
    close_site(&site_state);
}

// Without a key an address has so many pictures a day; what was not delivered does not count.
static void test_daily(void **state) {
    struct house *h = *state;
    struct principal here = {.keyless = true, .name = "address:192.0.2.1"},
                     there = {.keyless = true, .name = "address:192.0.2.2"};
    struct api_error error = {0};
    h->config.auth.keyless_images_per_day = 3;
    start(h, "req_1", "{\"prompt\":\"x\",\"n\":2}", (struct gateway_call){.principal = &here});
    run(h, "req_1");
    answer(h, "req_1");
    start(h, "req_2", "{\"prompt\":\"x\"}", (struct gateway_call){.principal = &here});
    wait_job("req_2");
    say("req_2", QUEUE_FAILED, failure(QUEUE_FAILURE_WORKER_DIED, ERROR_UNAVAILABLE, "died"));
    answer(h, "req_2");
    assert_false(start_with(h, "req_3", MODE_GENERATION, "{\"prompt\":\"x\",\"n\":2}",
                            (struct gateway_call){.principal = &here}, &error));
    assert_int_equal(error.code, API_RATE_LIMITED);
    assert_true(error.retry_after > 0 && error.retry_after <= 86400);
    start(h, "req_4", "{\"prompt\":\"x\",\"n\":2}", (struct gateway_call){.principal = &there});
    start(h, "req_5", "{\"prompt\":\"x\"}", (struct gateway_call){.principal = &here});
    run(h, "req_4");
    run(h, "req_5");
    assert_int_equal(answer(h, "req_5")->error.code, API_OK);
    answer(h, "req_4");
}

// More pictures than one call makes: several calls, each with the seed of its first picture.
static void test_several_calls(void **state) {
    struct house *h = *state;
    start(h, "req_m", "{\"prompt\":\"x\",\"n\":5,\"seed\":100}", (struct gateway_call){0});
    wait_job("req_m-2");
    assert_int_equal(fake.count, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fake.jobs[i].seed, 100 + 2 * i);
        assert_int_equal(fake.jobs[i].count, i < 2 ? 2 : 1);
    }
    run(h, "req_m-2"); // in whatever order they end
    run(h, "req_m-0");
    say("req_m-1", QUEUE_FAILED, failure(QUEUE_FAILURE_WORKER_DIED, ERROR_UNAVAILABLE, "died"));
    json_t *body = body_of(answer(h, "req_m")), *data = json_object_get(body, "data");
    assert_int_equal(json_array_size(data), 3);
    static const int seeds[] = {100, 101, 104};
    for (size_t i = 0; i < 3; i++) assert_int_equal(number(json_array_get(data, i), "seed"), seeds[i]);
    assert_int_equal(json_array_size(json_object_get(json_object_get(body, "metadata"), "errors")), 2);
    assert_int_equal(number(json_object_get(body, "usage"), "total_tokens"), 2 * (5 + 7) + 3 * 11);
    json_decref(body);

    start(h, "req_c", "{\"prompt\":\"x\",\"n\":3}", (struct gateway_call){0});
    wait_job("req_c-1");
    gateway_cancel(h->gateway, "req_c");
    assert_true(fake.jobs[3].cancelled && fake.jobs[4].cancelled);
    say("req_c-0", QUEUE_FAILED, failure(QUEUE_FAILURE_JOB, ERROR_CANCELLED, "cancelled"));
    say("req_c-1", QUEUE_FAILED, failure(QUEUE_FAILURE_JOB, ERROR_CANCELLED, "cancelled"));
    assert_int_equal(answer(h, "req_c")->error.code, API_CANCELLED);
}

// What a card offers, and what it limits.
static void test_card(void **state) {
    struct house *h = *state;
    struct api_error error = {0};
    assert_true(start_with(h, "req_t", MODE_GENERATION, "{\"prompt\":\"x\",\"background\":\"transparent\"}",
                           (struct gateway_call){0}, &error));
    run(h, "req_t");
    json_t *body = body_of(answer(h, "req_t"));
    assert_string_equal(text(body, "background"), "opaque"); // the engine says that it could not
    json_decref(body);
    assert_false(start_with(h, "req_s", MODE_GENERATION, "{\"prompt\":\"x\",\"steps\":11}",
                            (struct gateway_call){0}, &error));
    assert_string_equal(error.param, "steps");
    error = (struct api_error){0};
    assert_false(start_with(h, "req_e", MODE_EDIT,
                            "{\"prompt\":\"x\",\"image\":\"data:image/png;base64,"
                            "iVBORw0KGgoAAAANSUhEUgAAAAQAAAADCAIAAAAAAAAA\"}",
                            (struct gateway_call){0}, &error));
    assert_int_equal(error.code, API_INVALID_REQUEST);
    assert_string_equal(error.param, "model"); // it has no such mode
}

static void test_rerun(void **state) {
    struct house *h = *state;
    start(h, "req_r", "{\"prompt\":\"x\"}", (struct gateway_call){0});
    wait_job("req_r");
    say("req_r", QUEUE_STARTED, (struct queue_event){0});
    give_picture(h, "req_r", 0, 1);
    say("req_r", QUEUE_RERUN, failure(QUEUE_FAILURE_WORKER_DIED, ERROR_UNAVAILABLE, "died"));
    run(h, "req_r");
    json_t *body = body_of(answer(h, "req_r"));
    const json_t *attempts = json_object_get(json_object_get(body, "metadata"), "attempts");
    assert_int_equal(json_array_size(attempts), 2);
    assert_string_equal(text(json_array_get(attempts, 0), "error_code"), "WORKER_DIED");
    json_decref(body);

    start(h, "req_q", "{\"prompt\":\"x\"}", (struct gateway_call){0});
    wait_job("req_q");
    say("req_q", QUEUE_STARTED, (struct queue_event){0});
    say("req_q", QUEUE_RERUN, failure(QUEUE_FAILURE_WORKER_DIED, ERROR_UNAVAILABLE, "died"));
    say("req_q", QUEUE_STARTED, (struct queue_event){0});
    say("req_q", QUEUE_FAILED, failure(QUEUE_FAILURE_WORKER_DIED, ERROR_UNAVAILABLE, "died again"));
    assert_true(answer(h, "req_q")->should_not_retry); // limn has tried it twice
}

static void test_full_queue(void **state) {
    struct house *h = *state;
    fake.full = true;
    start(h, "req_1", "{\"prompt\":\"x\"}", (struct gateway_call){0});
    const struct gateway_message *message = answer(h, "req_1");
    assert_int_equal(message->error.code, API_QUEUE_FULL);
    assert_true(message->error.retry_after == 3);
    assert_record(h, "req_1", "rejected", "QUEUE_FULL", 0);
}

static void test_interrupted(void **state) {
    struct house *h = *state;
    struct api_error error = {0};
    start(h, "req_i", "{\"prompt\":\"x\"}", (struct gateway_call){0});
    start(h, "req_j", "{\"prompt\":\"x\"}", (struct gateway_call){.asynchronous = true});
    wait_job("req_i");
    gateway_interrupt(h->gateway);
    assert_true(fake.closed);
    assert_int_equal(gateway_in_work(h->gateway), 0);
    assert_int_equal(answer(h, "req_i")->error.code, API_INTERRUPTED);
    assert_record(h, "req_i", "upstream_failure", "INTERRUPTED", 0);
    assert_record(h, "req_j", "upstream_failure", "INTERRUPTED", 0);
    assert_false(
        start_with(h, "req_l", MODE_GENERATION, "{\"prompt\":\"x\"}", (struct gateway_call){0}, &error));
    assert_int_equal(error.code, API_INTERRUPTED);
}

// Names become the owner's files; a client's scale wins over the owner's.
static void test_loras(void **state) {
    struct house *h = *state;
    struct api_error error = {0};
    start(h, "req_l1", "{\"prompt\":\"x\",\"lora\":\"ink\"}", (struct gateway_call){0});
    start(h, "req_l2", "{\"prompt\":\"x\",\"lora\":[{\"name\":\"wash\",\"scale\":-2},\"ink\"]}",
          (struct gateway_call){0});
    assert_string_equal(wait_job("req_l1")->loras, "/proc/self/exe*0.5 ");
    assert_string_equal(wait_job("req_l2")->loras, "/proc/self/maps*-2 /proc/self/exe*0.5 ");
    say("req_l1", QUEUE_DONE, (struct queue_event){0});
    // What is wrong with the file is the owner's to know.
    struct queue_event event = {.failure = QUEUE_FAILURE_JOB};
    error_set_field(&event.error, ERROR_INPUT, "loras[0]", "/proc/self/maps: it is no LoRA");
    say("req_l2", QUEUE_FAILED, event);
    const struct api_error *refused = &answer(h, "req_l2")->error;
    assert_int_equal(refused->code, API_INVALID_REQUEST);
    assert_string_equal(refused->param, "lora");
    assert_non_null(strstr(refused->message, "\"wash\" cannot be applied"));
    assert_null(strstr(refused->message, "/proc"));
    assert_false(start_with(h, "req_l3", MODE_GENERATION, "{\"prompt\":\"x\",\"lora\":\"inc\"}",
                            (struct gateway_call){0}, &error));
    assert_non_null(strstr(error.message, "there is no \"inc\" for model 'test-model'"));
    assert_non_null(strstr(error.message, "did you mean \"ink\"?"));
    assert_non_null(strstr(error.message, "for it: ink, wash"));
}

static void test_refusals(void **state) {
    struct house *h = *state;
    static const struct {
        const char *json;
        enum api_code code;
        const char *param;
    } cases[] = {
        {"{\"prompt\":\"x\",\"model\":\"test-modle\"}", API_MODEL_NOT_FOUND, "model"},
        {"{\"prompt\":\"x\",\"model\":\"flux.2-dev\"}", API_MODEL_NOT_INSTALLED, "model"},
        {"{\"prompt\":\"x\",\"lora\":\"a\"}", API_INVALID_REQUEST, "lora"},
        {"{\"prompt\":\"x\",\"lora\":\"other\"}", API_INVALID_REQUEST, "lora"},
        {"{\"prompt\":\"x\",\"prompt_enhancement\":\"on\"}", API_INVALID_REQUEST, "prompt_enhancement"},
        {"{\"prompt\":\"x\",\"enable_prompt_expansion\":true}", API_INVALID_REQUEST,
         "enable_prompt_expansion"},
        {"{\"prompt\":\"x\",\"enable_safety_checker\":true}", API_INVALID_REQUEST, "enable_safety_checker"},
        {"{\"prompt\":\"x\",\"size\":\"12\"}", API_INVALID_REQUEST, "size"},
        {"{\"prompt\":\"x\",\"aspect_ratio\":\"wide\"}", API_INVALID_REQUEST, "aspect_ratio"},
        {"{\"prompt\":\"x\",\"resolution\":\"big\"}", API_INVALID_REQUEST, "resolution"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct api_error error = {0};
        if (start_with(h, "req_x", MODE_GENERATION, cases[i].json, (struct gateway_call){0}, &error))
            fail_msg("taken: %s", cases[i].json);
        if (error.code != cases[i].code) fail_msg("%s: %s", cases[i].json, error.message);
        assert_string_equal(error.param, cases[i].param);
    }
    // What is the default is no wish: these are taken.
    struct api_error error = {0};
    assert_true(start_with(h, "req_y", MODE_GENERATION,
                           "{\"prompt\":\"x\",\"prompt_enhancement\":\"off\",\"enable_safety_checker\":false,"
                           "\"background\":\"opaque\",\"n\":null}",
                           (struct gateway_call){.dry_run = true}, &error));
    // Pictures behind URLs are the owner's to allow.
    assert_false(start_with(h, "req_z", MODE_EDIT,
                            "{\"prompt\":\"x\",\"images\":[{\"image_url\":\"https://a.example/\"}]}",
                            (struct gateway_call){0}, &error));
    assert_string_equal(error.param, "image");
    assert_non_null(strstr(error.message, "image_url.enabled"));
    struct principal principal = {.key = {.id = "abc", .models = "flux*"}};
    error = (struct api_error){0};
    assert_false(start_with(h, "req_w", MODE_GENERATION, "{\"prompt\":\"x\"}",
                            (struct gateway_call){.principal = &principal}, &error));
    assert_int_equal(error.code, API_KEY_NOT_ALLOWED);
}

int main(void) {
#define CASE(test) cmocka_unit_test_setup_teardown(test, open_house, close_house)
    const struct CMUnitTest tests[] = {
        CASE(test_url),
        CASE(test_dry_run_agrees),
        CASE(test_forms_of_delivery),
        CASE(test_stream),
        CASE(test_stream_that_fails),
        CASE(test_idempotency),
        CASE(test_idempotent_stream),
        CASE(test_idempotency_after_failure),
        CASE(test_asynchronous),
        CASE(test_cancelling),
        CASE(test_partial_failure),
        CASE(test_rerun),
        CASE(test_full_queue),
        CASE(test_interrupted),
        CASE(test_loras),
        CASE(test_refusals),
        cmocka_unit_test(test_fetched_pictures),
        CASE(test_daily),
        cmocka_unit_test_setup_teardown(test_several_calls, open_card_house, close_house),
        cmocka_unit_test_setup_teardown(test_card, open_card_house, close_house),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
