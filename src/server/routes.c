// What the server serves, a function each. Relies on exchange.h.
#include "server/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// ------------------------------------------------------------------------------------------------- making pictures

static bool asks(struct exchange *exchange, enum MHD_ValueKind kind, const char *name, const char *word) {
    const char *value = MHD_lookup_connection_value(exchange->connection, kind, name);
    return value && (!word || strcasestr(value, word));
}

// What the wire knows but this server does not do is refused, not passed over.
static bool check_offered(struct exchange *exchange) {
    const char *what = NULL;
    if (asks(exchange, MHD_GET_ARGUMENT_KIND, "dryRun", "true") ||
        asks(exchange, MHD_GET_ARGUMENT_KIND, "dryRun", "1"))
        what = "dryRun";
    if (asks(exchange, MHD_HEADER_KIND, "Prefer", "respond-async")) what = "Prefer: respond-async";
    if (asks(exchange, MHD_HEADER_KIND, "Idempotency-Key", NULL)) what = "Idempotency-Key";
    return !what || api_error_set(&exchange->error, API_INVALID_REQUEST, what,
                                  "%s: this server does not offer it", what);
}

static enum MHD_Result serve_images(struct exchange *exchange) {
    struct image_request *request = NULL;
    if (check_offered(exchange)) request = upload_finish(exchange->upload, &exchange->error);
    upload_close(exchange->upload);
    exchange->upload = NULL;
    if (!request) {
        gateway_sweep(exchange->server->gateway, exchange->id);
        return respond_error(exchange, &exchange->error);
    }
    char url[TARGET_MOST];
    exchange_base_url(exchange, url, sizeof url);
    // An answer that comes before the connection is suspended waits in the mailbox, which this thread empties later.
    struct gateway_call call = {.base_url = url, .endpoint = exchange->path};
    if (!gateway_start(exchange->server->gateway, request, &call, &exchange->error))
        return respond_error(exchange, &exchange->error);
    return exchange_suspend(exchange);
}

// ------------------------------------------------------------------------------------------------------- the others

static enum MHD_Result serve_models(struct exchange *exchange) {
    struct buffer body = {0};
    const char *id = exchange->route->prefix ? exchange->target : NULL;
    if (asks(exchange, MHD_GET_ARGUMENT_KIND, "schema", NULL)) {
        api_error_set(&exchange->error, API_INVALID_REQUEST, "schema",
                      "schema: this server does not offer it");
        return respond_error(exchange, &exchange->error);
    }
    if (gateway_models_body(exchange->server->gateway, id, &body, &exchange->error))
        return respond_json(exchange, 200, &body);
    buffer_free(&body);
    return respond_error(exchange, &exchange->error);
}

static enum MHD_Result serve_health(struct exchange *exchange) {
    struct queue_state state;
    gateway_state(exchange->server->gateway, &state);
    struct buffer body = {0};
    if (!buffer_printf(&body,
                       "{\"status\":\"%s\",\"ready\":%s,\"model\":\"%s\",\"running\":%d,\"waiting\":%d,"
                       "\"workers_started\":%d}",
                       state.ready ? "ok" : "starting", state.ready ? "true" : "false",
                       gateway_model(exchange->server->gateway), state.running, state.waiting,
                       state.workers_started)) {
        buffer_free(&body);
        api_error_set(&exchange->error, API_OUT_OF_MEMORY, "", "no memory for the answer");
        return respond_error(exchange, &exchange->error);
    }
    return respond_json(exchange, state.ready ? 200 : 503, &body);
}

static enum MHD_Result serve_media(struct exchange *exchange) {
    struct media_item item;
    struct error error = {0};
    if (!media_get(exchange->server->media, exchange->target, &item, &error)) {
        api_error_set(&exchange->error, API_NOT_FOUND, "", "%s", error.message);
        return respond_error(exchange, &exchange->error);
    }
    struct MHD_Response *response = MHD_create_response_from_fd64(item.size, item.file); // closes the file
    char cache[64];
    snprintf(cache, sizeof cache, "private, max-age=%d, immutable", (int)item.seconds_left);
    if (response) {
        MHD_add_response_header(response, "Content-Type", item.mime);
        MHD_add_response_header(response, "Cache-Control", cache);
    }
    return respond_response(exchange, 200, response);
}

const struct route ROUTES[] = {
    {"/images/generations", true, false, true, serve_images, UPLOAD_JSON},
    {"/images/edits", true, false, true, serve_images, UPLOAD_FORM},
    {"/models", true, false, false, serve_models, UPLOAD_NONE},
    {"/models/", true, true, false, serve_models, UPLOAD_NONE},
    {"/media/", false, true, false, serve_media, UPLOAD_NONE},
    {"/healthz", false, false, false, serve_health, UPLOAD_NONE},
};
const int ROUTE_COUNT = sizeof ROUTES / sizeof *ROUTES;
