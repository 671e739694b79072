// Answers and the headers that all of them have. Relies on exchange.h.
#include "server/exchange.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_WORTH_SECONDS 60 // clients sleep for as long as they are told; longer waits are theirs to plan

static void add_header(struct MHD_Response *response, const char *name, const char *value) {
    MHD_add_response_header(response, name, value);
}

enum MHD_Result respond_response(struct exchange *exchange, int status, struct MHD_Response *response) {
    if (!response) return MHD_NO; // no memory: the connection is closed
    add_header(response, "x-request-id", exchange->id);
    add_header(response, "X-Content-Type-Options", "nosniff");
    if (*exchange->origin) {
        add_header(response, "Access-Control-Allow-Origin", exchange->origin);
        add_header(response, "Access-Control-Expose-Headers",
                   "x-request-id, retry-after, retry-after-ms, x-should-retry, location, x-limn-provider, "
                   "x-limn-model");
    }
    if (exchange->server->origin_count) add_header(response, "Vary", "Origin");
    if (exchange->server->stopping) add_header(response, "Connection", "close");
    exchange->state = EXCHANGE_ANSWERED;
    exchange->status = status;
    enum MHD_Result result = MHD_queue_response(exchange->connection, (unsigned)status, response);
    MHD_destroy_response(response);
    return result;
}

static struct MHD_Response *body_response(struct exchange *exchange, const char *type, struct buffer *body) {
    exchange->sent = body->length;
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(body->length, body->data, free);
    if (!response) free(body->data);
    *body = (struct buffer){0};
    if (response) {
        add_header(response, "Content-Type", type);
        add_header(response, "Cache-Control", "no-store");
    }
    return response;
}

enum MHD_Result respond_text(struct exchange *exchange, int status, const char *type, struct buffer *body) {
    return respond_response(exchange, status, body_response(exchange, type, body));
}

enum MHD_Result respond_json(struct exchange *exchange, int status, struct buffer *body) {
    return respond_text(exchange, status, "application/json", body);
}

enum MHD_Result respond_object(struct exchange *exchange, int status, json_t *object) {
    struct buffer body = {.data = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL};
    json_decref(object);
    if (body.data) {
        body.length = strlen(body.data);
        return respond_json(exchange, status, &body);
    }
    api_error_set(&exchange->error, API_OUT_OF_MEMORY, "", "no memory for the answer");
    return respond_error(exchange, &exchange->error);
}

// What a client should do next, in the headers that the SDKs read.
static void add_retry(struct MHD_Response *response, const struct api_error *error, bool in_vain) {
    const struct api_code_info *info = api_code_info(error->code);
    char value[32];
    bool waits = error->retry_after > 0 && error->retry_after <= RETRY_WORTH_SECONDS;
    bool never = in_vain || info->status == 402 || info->status == 409 ||
                 (info->status == 429 && error->retry_after > RETRY_WORTH_SECONDS);
    if (never) {
        add_header(response, "x-should-retry", "false");
    } else if (waits) {
        snprintf(value, sizeof value, "%.0f", ceil(error->retry_after));
        add_header(response, "retry-after", value);
        snprintf(value, sizeof value, "%.0f", ceil(error->retry_after * 1000));
        add_header(response, "retry-after-ms", value);
    }
}

// The methods of the routes that the path fits: "GET, HEAD, OPTIONS".
static void write_allowed(const struct exchange *exchange, char *text, size_t size) {
    static const char *const names[] = {[METHOD_GET] = "GET, HEAD", "POST", "DELETE"};
    snprintf(text, size, "%s, OPTIONS", exchange->route ? names[exchange->route->method] : "GET, HEAD");
}

static enum MHD_Result respond_failure(struct exchange *exchange, int status, const struct api_error *error,
                                       bool in_vain) {
    struct buffer body = {0};
    if (!api_error_body(error, &body)) {
        buffer_free(&body);
        return MHD_NO;
    }
    struct MHD_Response *response = body_response(exchange, "application/json", &body);
    char allowed[64];
    if (response) add_retry(response, error, in_vain);
    if (response && error->code == API_METHOD_NOT_ALLOWED) {
        write_allowed(exchange, allowed, sizeof allowed);
        add_header(response, "Allow", allowed);
    }
    if (response && status == 416) {
        char range[40];
        snprintf(range, sizeof range, "bytes */%llu", (unsigned long long)exchange->picture_size);
        add_header(response, "Content-Range", range);
    }
    if (response && api_code_info(error->code)->status == 401)
        add_header(response, "WWW-Authenticate", "Bearer");
    return respond_response(exchange, status, response);
}

enum MHD_Result respond_status(struct exchange *exchange, int status, const struct api_error *error) {
    return respond_failure(exchange, status, error, false);
}

enum MHD_Result respond_error(struct exchange *exchange, const struct api_error *error) {
    return respond_failure(exchange, api_code_info(error->code)->status, error, false);
}

enum MHD_Result respond_answer(struct exchange *exchange) {
    struct gateway_message *answer = &exchange->answer;
    if (answer->error.code != API_OK)
        return respond_failure(exchange, api_code_info(answer->error.code)->status, &answer->error,
                               answer->should_not_retry);
    struct MHD_Response *response = body_response(exchange, "application/json", &answer->body);
    if (response && *answer->provider) add_header(response, "x-limn-provider", answer->provider);
    if (response && *answer->model) add_header(response, "x-limn-model", answer->model);
    if (response && *answer->location) add_header(response, "Location", answer->location);
    if (response && answer->status == 202) add_header(response, "Preference-Applied", "respond-async");
    if (response && answer->replayed) add_header(response, "Idempotency-Replayed", "true");
    return respond_response(exchange, answer->status ? answer->status : 200, response);
}

enum MHD_Result respond_preflight(struct exchange *exchange) {
    struct MHD_Response *response = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    char allowed[64];
    write_allowed(exchange, allowed, sizeof allowed);
    if (response) {
        add_header(response, "Allow", allowed);
        if (*exchange->origin) {
            const char *wanted = exchange_header(exchange, "Access-Control-Request-Headers");
            add_header(response, "Access-Control-Allow-Methods", allowed);
            if (wanted) add_header(response, "Access-Control-Allow-Headers", wanted);
            add_header(response, "Access-Control-Max-Age", "600");
        }
    }
    return respond_response(exchange, 204, response);
}
