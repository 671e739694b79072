// A request from its first line to its answer. Relies on exchange.h.
#include "base/clock.h"
#include "server/exchange_handler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A body that is refused is read and dropped up to so many bytes, so that its sender gets to read the answer.
#define DROP_MOST (8u << 20)

// ---------------------------------------------------------------------------------------------------------- answers

static void add_header(struct MHD_Response *response, const char *name, const char *value) {
    MHD_add_response_header(response, name, value);
}

enum MHD_Result respond_response(struct exchange *exchange, int status, struct MHD_Response *response) {
    if (!response) return MHD_NO; // no memory: the connection is closed
    add_header(response, "x-request-id", exchange->id);
    add_header(response, "X-Content-Type-Options", "nosniff");
    if (*exchange->origin) {
        add_header(response, "Access-Control-Allow-Origin", exchange->origin);
        add_header(response, "Access-Control-Expose-Headers", "x-request-id, retry-after, retry-after-ms");
        add_header(response, "Vary", "Origin");
    }
    exchange->state = EXCHANGE_ANSWERED;
    exchange->status = status;
    enum MHD_Result result = MHD_queue_response(exchange->connection, (unsigned)status, response);
    MHD_destroy_response(response);
    return result;
}

static struct MHD_Response *json_response(struct buffer *body) {
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(body->length, body->data, free);
    if (!response) free(body->data);
    *body = (struct buffer){0};
    if (response) {
        add_header(response, "Content-Type", "application/json");
        add_header(response, "Cache-Control", "no-store");
    }
    return response;
}

enum MHD_Result respond_json(struct exchange *exchange, int status, struct buffer *body) {
    return respond_response(exchange, status, json_response(body));
}

enum MHD_Result respond_error(struct exchange *exchange, const struct api_error *error) {
    struct buffer body = {0};
    if (!api_error_body(error, &body)) {
        buffer_free(&body);
        return MHD_NO;
    }
    int status = api_code_info(error->code)->status;
    struct MHD_Response *response = json_response(&body);
    if (response && error->retry_after > 0) {
        char value[32];
        if (error->retry_after > 60) { // clients sleep for as long as they are told
            add_header(response, "x-should-retry", "false");
        } else {
            snprintf(value, sizeof value, "%.0f", ceil(error->retry_after));
            add_header(response, "retry-after", value);
            snprintf(value, sizeof value, "%.0f", ceil(error->retry_after * 1000));
            add_header(response, "retry-after-ms", value);
        }
    }
    if (response && error->code == API_METHOD_NOT_ALLOWED && exchange->route)
        add_header(response, "Allow", exchange->route->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS");
    return respond_response(exchange, status, response);
}

static enum MHD_Result respond_preflight(struct exchange *exchange) {
    struct MHD_Response *response = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    const char *allowed = exchange->route->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
    if (response) {
        add_header(response, "Allow", allowed);
        if (*exchange->origin) {
            const char *wanted = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND,
                                                             "Access-Control-Request-Headers");
            add_header(response, "Access-Control-Allow-Methods", allowed);
            if (wanted) add_header(response, "Access-Control-Allow-Headers", wanted);
            add_header(response, "Access-Control-Max-Age", "600");
        }
    }
    return respond_response(exchange, 204, response);
}

// --------------------------------------------------------------------------------------------------------- routing

static bool is_get(const struct exchange *exchange) {
    return !strcmp(exchange->method, "GET") || !strcmp(exchange->method, "HEAD");
}

static bool fits(const struct route *route, const char *path, bool api, const char **target) {
    size_t length = strlen(route->path);
    if (route->api != api || strncmp(path, route->path, length)) return false;
    *target = path + length;
    return route->prefix ? **target != 0 : **target == 0;
}

static void find_route(struct exchange *exchange, const char *url) {
    static const char *const bases[] = {"/openai/v1", "/v1", ""};
    for (size_t b = 0; b < sizeof bases / sizeof *bases; b++) {
        size_t length = strlen(bases[b]);
        if (strncmp(url, bases[b], length)) continue;
        for (int i = 0; i < ROUTE_COUNT; i++) {
            const char *target;
            if (!fits(&ROUTES[i], url + length, length > 0, &target)) continue;
            exchange->route = &ROUTES[i];
            snprintf(exchange->target, sizeof exchange->target, "%s", target);
            return;
        }
    }
}

static void check_route(struct exchange *exchange, const char *url) {
    if (strlen(url) < TARGET_MOST) find_route(exchange, url);
    if (!exchange->route) {
        api_error_set(
            &exchange->error, API_NOT_FOUND, "",
            "%s %.150s: there is nothing here; pictures are made by POST /v1/images/generations and "
            "/v1/images/edits",
            exchange->method, url);
        return;
    }
    bool right = exchange->route->post ? !strcmp(exchange->method, "POST") : is_get(exchange);
    if (!right && strcmp(exchange->method, "OPTIONS"))
        api_error_set(&exchange->error, API_METHOD_NOT_ALLOWED, "", "%s: expected %s", exchange->method,
                      exchange->route->post ? "POST" : "GET");
}

static void open_upload(struct exchange *exchange) {
    const struct route *route = exchange->route;
    bool form = route->upload == UPLOAD_FORM;
    exchange->limit = form ? FORM_BODY_MOST : JSON_BODY_MOST;
    exchange->upload = upload_open(
        route->upload, form ? MODE_EDIT : MODE_GENERATION, exchange->id, exchange->server->spool_folder,
        MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, "Content-Type"), &exchange->error);
}

static bool too_large(struct exchange *exchange) {
    return api_error_set(&exchange->error, API_PAYLOAD_TOO_LARGE, "",
                         "the request body: expected at most %.0f MiB", (double)exchange->limit / 1048576);
}

// The first call: everything that the headers tell. Only a body that is far too large is answered before it is read.
static enum MHD_Result begin(struct exchange *exchange, const char *url) {
    check_route(exchange, url);
    if (exchange->error.code == API_OK && guard_check(exchange) && exchange->route->post &&
        strcmp(exchange->method, "OPTIONS") && gateway_has_room(exchange->server->gateway, &exchange->error))
        open_upload(exchange);
    const char *length = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, "Content-Length");
    uint64_t announced = length ? strtoull(length, NULL, 10) : 0;
    if (announced > exchange->limit && exchange->upload) too_large(exchange);
    if (announced > exchange->limit + DROP_MOST) {
        too_large(exchange);
        return respond_error(exchange, &exchange->error);
    }
    return MHD_YES;
}

// What has arrived of a body that is not wanted any more goes at once.
static void drop_upload(struct exchange *exchange) {
    if (!exchange->upload) return;
    upload_close(exchange->upload);
    exchange->upload = NULL;
    gateway_sweep(exchange->server->gateway, exchange->id);
}

static enum MHD_Result take_bytes(struct exchange *exchange, const char *bytes, size_t *size) {
    exchange->received += *size;
    if (exchange->received > exchange->limit && exchange->upload) too_large(exchange);
    if (exchange->received > exchange->limit + DROP_MOST) return MHD_NO;
    if (exchange->error.code == API_OK && exchange->upload)
        upload_feed(exchange->upload, bytes, *size, &exchange->error);
    if (exchange->error.code != API_OK) drop_upload(exchange);
    *size = 0;
    return MHD_YES;
}

static enum MHD_Result serve(struct exchange *exchange) {
    if (exchange->error.code != API_OK) {
        drop_upload(exchange);
        return respond_error(exchange, &exchange->error);
    }
    if (!strcmp(exchange->method, "OPTIONS")) return respond_preflight(exchange);
    return exchange->route->serve(exchange);
}

static enum MHD_Result serve_answer(struct exchange *exchange) {
    if (exchange->answer.error.code != API_OK) return respond_error(exchange, &exchange->answer.error);
    return respond_json(exchange, 200, &exchange->answer.body);
}

static struct exchange *open_exchange(struct server *server, struct MHD_Connection *connection,
                                      const char *method, const char *url) {
    struct exchange *exchange = calloc(1, sizeof *exchange);
    if (!exchange) return NULL;
    char hex[25];
    media_random_hex(hex, 12);
    snprintf(exchange->id, sizeof exchange->id, "req_%s", hex);
    snprintf(exchange->method, sizeof exchange->method, "%s", method);
    snprintf(exchange->path, sizeof exchange->path, "%s", url);
    exchange->server = server;
    exchange->connection = connection;
    exchange->watched = -1;
    exchange->started = clock_seconds();
    exchange->next = server->exchanges;
    server->exchanges = exchange;
    exchange_watch(exchange);
    return exchange;
}

enum MHD_Result exchange_handle(void *context, struct MHD_Connection *connection, const char *url,
                                const char *method, const char *version, const char *bytes, size_t *size,
                                void **request) {
    struct exchange *exchange = *request;
    if (!exchange) {
        exchange = open_exchange(context, connection, method, url);
        if (!exchange) return MHD_NO;
        *request = exchange;
        return begin(exchange, url);
    }
    if (exchange->state == EXCHANGE_WAITING) return serve_answer(exchange); // resumed
    if (*size > 0) return take_bytes(exchange, bytes, size);
    return serve(exchange);
}

void exchange_ended(void *context, struct MHD_Connection *connection, void **request,
                    enum MHD_RequestTerminationCode why) {
    struct exchange *exchange = *request;
    struct server *server = context;
    if (!exchange) return;
    *request = NULL;
    exchange_unwatch(exchange);
    struct exchange **link = &server->exchanges;
    while (*link && *link != exchange) link = &(*link)->next;
    if (*link) *link = exchange->next;
    for (char *c = exchange->path; *c; c++)
        if ((unsigned char)*c < 0x21 || (unsigned char)*c > 0x7e) *c = '?';
    log_info(server->log, "%s %s %s %d %.3f s%s", exchange->id, exchange->method, exchange->path,
             exchange->status, clock_seconds() - exchange->started,
             exchange->gone || why != MHD_REQUEST_TERMINATED_COMPLETED_OK ? ", the client left" : "");
    drop_upload(exchange); // its client left while it was sending
    buffer_free(&exchange->answer.body);
    free(exchange);
}
