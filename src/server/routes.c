// What the server serves, and the routes of the API itself: pictures and models. Relies on exchange.h.
#include "server/exchange.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define IDEMPOTENCY_MOST 256 // bytes of an Idempotency-Key

const struct route ROUTES[] = {
    {"/images/generations", NULL, BASE_API, METHOD_POST, ACCESS_KEY, serve_images, UPLOAD_JSON,
     MODE_GENERATION},
    {"/images/edits", NULL, BASE_API, METHOD_POST, ACCESS_KEY, serve_images, UPLOAD_FORM, MODE_EDIT},
    {"/models", NULL, BASE_API, METHOD_GET, ACCESS_KEY, serve_models, 0, 0},
    {"/models/", NULL, BASE_API, METHOD_GET, ACCESS_KEY, serve_models, 0, 0},
    {"/requests", NULL, BASE_V1, METHOD_GET, ACCESS_KEY, serve_requests, 0, 0},
    {"/requests/", "/cancel", BASE_V1, METHOD_POST, ACCESS_KEY, serve_cancel, 0, 0},
    {"/requests/", "/payloads", BASE_V1, METHOD_DELETE, ACCESS_KEY, serve_purge, 0, 0},
    {"/requests/", NULL, BASE_V1, METHOD_GET, ACCESS_KEY, serve_request, 0, 0},
    {"/keys", NULL, BASE_V1, METHOD_GET, ACCESS_ADMIN, serve_keys, 0, 0},
    {"/stats", NULL, BASE_V1, METHOD_GET, ACCESS_KEY, serve_stats, 0, 0},
    {"/balance", NULL, BASE_V1, METHOD_GET, ACCESS_KEY, serve_balance, 0, 0},
    {"/media/", NULL, BASE_ROOT, METHOD_GET, ACCESS_OPEN, serve_media, 0, 0},
    {"/healthz", NULL, BASE_ROOT, METHOD_GET, ACCESS_OPEN, serve_health, 0, 0},
    {"/readyz", NULL, BASE_ROOT, METHOD_GET, ACCESS_OPEN, serve_ready, 0, 0},
    {"/metrics", NULL, BASE_ROOT, METHOD_GET, ACCESS_METRICS, serve_metrics, 0, 0},
    {"/openapi.json", NULL, BASE_ROOT, METHOD_GET, ACCESS_OPEN, serve_openapi, 0, 0},
};
const int ROUTE_COUNT = sizeof ROUTES / sizeof *ROUTES;

// ------------------------------------------------------------------------------------------------- making pictures

// "respond-async", also as one of several preferences (RFC 7240).
static bool prefers_async(const struct exchange *exchange) {
    const char *at = exchange_header(exchange, "Prefer");
    static const char word[] = "respond-async";
    for (; at && *at; at += strcspn(at, ","), at += *at == ',') {
        at += strspn(at, " \t,");
        size_t length = strcspn(at, " \t,;");
        if (length == sizeof word - 1 && !strncasecmp(at, word, length)) return true;
    }
    return false;
}

static bool read_call(struct exchange *exchange, struct gateway_call *call) {
    call->principal = &exchange->principal;
    call->endpoint = exchange->path;
    call->trace_id = exchange->trace_id;
    call->request_bytes = exchange->received;
    call->asynchronous = prefers_async(exchange);
    call->idempotency_key = exchange_header(exchange, "Idempotency-Key");
    if (!exchange_flag(exchange, "dryRun", &call->dry_run)) return false;
    const char *at = call->idempotency_key ? call->idempotency_key : "-";
    while (*at > 0x20 && *at < 0x7f) at++;
    size_t length = call->idempotency_key ? strlen(call->idempotency_key) : 1;
    if (!*at && length >= 1 && length <= IDEMPOTENCY_MOST) return true;
    return api_error_set(&exchange->error, API_INVALID_REQUEST, "",
                         "Idempotency-Key: expected 1 to %d letters, digits and signs without spaces",
                         IDEMPOTENCY_MOST);
}

enum MHD_Result serve_images(struct exchange *exchange) {
    struct image_request *request = NULL;
    struct gateway_call call = {0};
    if (read_call(exchange, &call)) request = upload_finish(exchange->upload, &exchange->error);
    if (!request) {
        exchange_record_refusal(exchange);
        exchange_drop_upload(exchange);
        return respond_error(exchange, &exchange->error);
    }
    upload_close(exchange->upload);
    exchange->upload = NULL;
    exchange_drop_upload(exchange);
    char url[TARGET_MOST + 64];
    exchange_base_url(exchange, url, sizeof url);
    call.base_url = url;
    exchange->wants_stream = request->stream && !call.dry_run && !call.asynchronous;
    // An answer that comes before the connection is suspended waits in the mailbox, which this thread empties later.
    if (!gateway_start(exchange->server->gateway, request, &call, &exchange->error))
        return respond_error(exchange, &exchange->error);
    return exchange_suspend(exchange);
}

// ---------------------------------------------------------------------------------------------------------- models

enum MHD_Result serve_models(struct exchange *exchange) {
    const struct catalog *catalog = exchange->server->catalog;
    bool schema;
    if (!exchange_flag(exchange, "schema", &schema)) return respond_error(exchange, &exchange->error);
    if (!*exchange->target) return respond_object(exchange, 200, catalog_models_json(catalog));
    struct error error = {0};
    const struct model_card *card = catalog_look_up(catalog, exchange->target, &error);
    if (!card) {
        api_error_from(&exchange->error, &error);
        return respond_error(exchange, &exchange->error);
    }
    return respond_object(exchange, 200,
                          schema ? catalog_schema_json(catalog, card) : catalog_model_json(catalog, card));
}
