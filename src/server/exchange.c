// A request from its first line to its answer. Relies on exchange.h.
#include "base/clock.h"
#include "server/exchange_handler.h"
#include "server/relay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

// A body that is refused is read and dropped up to so many bytes, so that its sender gets to read the answer.
#define DROP_MOST (8u << 20)

const char *exchange_header(const struct exchange *exchange, const char *name) {
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

struct flag {
    const char *name, *value;
    int count;
};

static enum MHD_Result on_argument(void *context, enum MHD_ValueKind kind, const char *key,
                                   const char *value) {
    struct flag *flag = context;
    if (strcasecmp(key, flag->name)) return MHD_YES;
    flag->value = value ? value : "true"; // "?dryRun" alone asks for it
    flag->count++;
    return MHD_YES;
}

bool exchange_flag(struct exchange *exchange, const char *name, bool *value) {
    struct flag flag = {.name = name, .value = "false"};
    MHD_get_connection_values(exchange->connection, MHD_GET_ARGUMENT_KIND, on_argument, &flag);
    *value = !strcmp(flag.value, "true") || !strcmp(flag.value, "1");
    if (flag.count < 2 && (*value || !strcmp(flag.value, "false") || !strcmp(flag.value, "0"))) return true;
    return api_error_set(&exchange->error, API_INVALID_REQUEST, name, "%s: expected true or false, once",
                         name);
}

// --------------------------------------------------------------------------------------------------------- routing

// Whether [path] is the route's; then [target] is what stands at the place of its target.
static bool fits(const struct route *route, const char *path, char target[TARGET_MOST]) {
    size_t length = strlen(route->path), suffix = route->suffix ? strlen(route->suffix) : 0;
    bool prefix = length > 1 && route->path[length - 1] == '/';
    *target = 0;
    if (!prefix) return !strcmp(path, route->path);
    if (strncmp(path, route->path, length)) return false;
    size_t rest = strlen(path + length);
    if (rest <= suffix || rest - suffix >= TARGET_MOST) return false;
    if (suffix && strcmp(path + length + rest - suffix, route->suffix)) return false;
    memcpy(target, path + length, rest - suffix);
    target[rest - suffix] = 0;
    // A model's name may hold a slash (its provider's); other names do not.
    return !strchr(target, '/') || route->serve == serve_models;
}

static void find_route(struct exchange *exchange, const char *url) {
    static const struct {
        const char *path;
        unsigned bit;
    } bases[] = {{"/openai/v1", BASE_OPENAI}, {"/v1", BASE_V1}, {"", BASE_ROOT}};
    for (size_t b = 0; b < sizeof bases / sizeof *bases; b++) {
        size_t length = strlen(bases[b].path);
        if (strncmp(url, bases[b].path, length)) continue;
        for (int i = 0; i < ROUTE_COUNT; i++)
            if ((ROUTES[i].bases & bases[b].bit) && fits(&ROUTES[i], url + length, exchange->target)) {
                exchange->route = &ROUTES[i];
                return;
            }
    }
}

static bool is_method(const struct exchange *exchange, enum method method) {
    if (method == METHOD_POST) return !strcmp(exchange->method, "POST");
    if (method == METHOD_DELETE) return !strcmp(exchange->method, "DELETE");
    return !strcmp(exchange->method, "GET") || !strcmp(exchange->method, "HEAD");
}

static void check_route(struct exchange *exchange, const char *url) {
    static const char *const names[] = {[METHOD_GET] = "GET", "POST", "DELETE"};
    if (strlen(url) < TARGET_MOST) find_route(exchange, url);
    if (!exchange->route) {
        api_error_set(
            &exchange->error, API_NOT_FOUND, "",
            "%s %.150s: there is nothing here; pictures are made by POST /v1/images/generations and "
            "/v1/images/edits",
            exchange->method, url);
        return;
    }
    if (!is_method(exchange, exchange->route->method) && strcmp(exchange->method, "OPTIONS"))
        api_error_set(&exchange->error, API_METHOD_NOT_ALLOWED, "", "%s: expected %s", exchange->method,
                      names[exchange->route->method]);
}

// ----------------------------------------------------------------------------------------------------------- bodies

static void open_upload(struct exchange *exchange) {
    const struct route *route = exchange->route;
    struct server *server = exchange->server;
    struct upload_options options = {.mode = route->mode,
                                     .takes_form = route->upload == UPLOAD_FORM,
                                     .id = exchange->id,
                                     .spool_folder = server->spool_folder,
                                     .content_type = exchange_header(exchange, "Content-Type"),
                                     .file_bytes = server->limits.file_bytes,
                                     .pixels = server->limits.pixels,
                                     .room = &server->spool};
    exchange->upload = upload_open(&options, &exchange->error);
    if (!exchange->upload) return;
    exchange->in_memory = !upload_is_form(exchange->upload);
    exchange->limit = options.takes_form ? server->limits.body_bytes : server->limits.json_bytes;
}

static bool too_large(struct exchange *exchange) {
    return api_error_set(&exchange->error, API_PAYLOAD_TOO_LARGE, "",
                         "the request body: expected at most %.0f MiB", (double)exchange->limit / 1048576);
}

// Bodies of JSON lie in memory until they are read: all together they have a limit.
static bool take_memory(struct exchange *exchange, uint64_t bytes) {
    struct server *server = exchange->server;
    if (!exchange->in_memory) return true;
    server->buffered += bytes;
    exchange->buffered += bytes;
    if (server->buffered <= server->limits.buffered_bytes) return true;
    exchange->error.retry_after = 1;
    return api_error_set(&exchange->error, API_QUEUE_FULL, "",
                         "the server holds as many request bodies as it may; try again");
}

void exchange_drop_upload(struct exchange *exchange) {
    exchange->server->buffered -= exchange->buffered;
    exchange->buffered = 0;
    if (!exchange->upload) return;
    upload_close(exchange->upload);
    exchange->upload = NULL;
    gateway_sweep(exchange->server->gateway, exchange->id);
}

static enum MHD_Result take_bytes(struct exchange *exchange, const char *bytes, size_t *size) {
    exchange->received += *size;
    exchange->server->counts.bytes_in += *size;
    if (exchange->received > exchange->limit && exchange->upload) too_large(exchange);
    if (exchange->received > exchange->limit + DROP_MOST) return MHD_NO;
    if (exchange->error.code == API_OK && exchange->upload && take_memory(exchange, *size))
        upload_feed(exchange->upload, bytes, *size, &exchange->error);
    if (exchange->error.code != API_OK) exchange_drop_upload(exchange);
    *size = 0;
    return MHD_YES;
}

// ------------------------------------------------------------------------------------------------------ an exchange

// The trace id of a traceparent header (W3C Trace Context): "00-<32 hex digits>-<16>-<2>".
static void read_trace(struct exchange *exchange) {
    const char *header = exchange_header(exchange, "traceparent");
    static const char digits[] = "0123456789abcdef";
    if (!header || strlen(header) < 55 || strspn(header, digits) != 2 || !strncmp(header, "ff", 2)) return;
    if (header[2] != '-' || strspn(header + 3, digits) != 32 || header[35] != '-') return;
    if (strspn(header + 3, "0") >= 32 || strspn(header + 36, digits) != 16) return;
    memcpy(exchange->trace_id, header + 3, 32);
}

struct framing {
    int hosts, lengths, codings;
};

static enum MHD_Result on_header(void *context, enum MHD_ValueKind kind, const char *key, const char *value) {
    struct framing *framing = context;
    framing->hosts += !strcasecmp(key, "Host");
    framing->lengths += !strcasecmp(key, "Content-Length");
    framing->codings += !strcasecmp(key, "Transfer-Encoding");
    return MHD_YES;
}

// Whether everybody on the way must have understood the same request (RFC 9112, 3.2 and 6.1): else a proxy's next request could be
// part of this one's body.
static bool check_framing(struct exchange *exchange) {
    struct framing framing = {0};
    MHD_get_connection_values(exchange->connection, MHD_HEADER_KIND, on_header, &framing);
    if (framing.hosts > 1)
        return api_error_set(&exchange->error, API_INVALID_REQUEST, "", "Host: given twice");
    if (framing.lengths > 1 || framing.codings > 1 || (framing.lengths && framing.codings))
        return api_error_set(&exchange->error, API_INVALID_REQUEST, "",
                             "expected one Content-Length or one Transfer-Encoding");
    return true;
}

// Whether it will want a place in the queue: a dry run does not, nor may a call whose request ran before. The gateway tells.
static bool may_need_place(struct exchange *exchange) {
    bool dry = false;
    return !exchange_header(exchange, "Idempotency-Key") && exchange_flag(exchange, "dryRun", &dry) && !dry;
}

// The door and the relays see to most heads.
static bool is_head_too_large(const struct exchange *exchange) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return info && info->header_size > exchange->server->limits.header_bytes;
}

// A form whose pictures would not fit is told so before they are sent, where the sender waits for that.
static void expect_room(struct exchange *exchange, uint64_t announced) {
    struct image_request probe = {.room = &exchange->server->spool};
    image_request_take_room(&probe, announced, &exchange->error);
    image_request_free(&probe);
}

// Counts what the connection's socket was read for this request.
static void count_taken(const struct exchange *exchange) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    const char *length = exchange_header(exchange, "Content-Length");
    struct link *link = exchange->link;
    if (!info || exchange_header(exchange, "Transfer-Encoding")) link->unsure = true;
    link->taken += (info ? info->header_size : 0) + (length ? strtoull(length, NULL, 10) : 0);
}

// The first call: everything that the headers tell. Only a body that is far too large, or whose sender waits to be told, is
// answered before it is read.
static enum MHD_Result begin(struct exchange *exchange, const char *url) {
    struct server *server = exchange->server;
    bool preflight = !strcmp(exchange->method, "OPTIONS");
    count_taken(exchange);
    if (!check_framing(exchange)) return respond_error(exchange, &exchange->error); // and closes
    if (is_head_too_large(exchange)) {
        api_error_set(&exchange->error, API_PAYLOAD_TOO_LARGE, "",
                      "the headers are too large (limits.header_bytes)");
        return respond_status(exchange, 431, &exchange->error);
    }
    check_route(exchange, url);
    read_trace(exchange);
    if (guard_check(exchange) && exchange->error.code == API_OK && !preflight && guard_admit(exchange) &&
        exchange->route->upload != UPLOAD_NONE) {
        if (server->stopping)
            api_error_set(&exchange->error, API_INTERRUPTED, "", "the server is stopping; try again");
        else if (!may_need_place(exchange) || gateway_has_room(server->gateway, &exchange->error))
            open_upload(exchange);
    }
    const char *length = exchange_header(exchange, "Content-Length"),
               *expect = exchange_header(exchange, "Expect");
    uint64_t announced = length ? strtoull(length, NULL, 10) : 0;
    if (announced > exchange->limit && exchange->upload) too_large(exchange);
    if (exchange->upload && upload_is_form(exchange->upload)) expect_room(exchange, announced);
    if (announced > exchange->limit + DROP_MOST) too_large(exchange);
    bool waits = announced > 0 && expect && !strcasecmp(expect, "100-continue");
    if (exchange->error.code != API_OK && (waits || announced > exchange->limit + DROP_MOST)) {
        exchange_record_refusal(exchange);
        exchange_drop_upload(exchange);
        return respond_error(exchange, &exchange->error);
    }
    return MHD_YES;
}

void exchange_record_refusal(struct exchange *exchange) {
    struct server *server = exchange->server;
    const struct principal *principal = &exchange->principal;
    const struct route *route = exchange->route;
    const struct api_code_info *info = api_code_info(exchange->error.code);
    bool dry_run, known = principal->keyless || *principal->key.id;
    if (!server->store || !route || route->upload == UPLOAD_NONE || !known) return;
    if (strcmp(exchange->method, "POST")) return;
    if (exchange_flag(exchange, "dryRun", &dry_run) && dry_run) return;
    struct store_begin begin = {.id = exchange->id,
                                .project = principal->project,
                                .key_id = principal->keyless ? NULL : principal->key.id,
                                .mode = mode_name(route->mode),
                                .endpoint = exchange->path,
                                .trace_id = *exchange->trace_id ? exchange->trace_id : NULL,
                                .request_bytes = (int64_t)exchange->received};
    struct error ignored = {0};
    if (!store_reject(server->store, &begin, info->status, info->name, exchange->error.message, NULL, NULL,
                      &ignored))
        log_debug(server->log, "%s: not recorded: %s", exchange->id, ignored.message);
}

static enum MHD_Result serve(struct exchange *exchange) {
    if (exchange->error.code != API_OK) {
        exchange_record_refusal(exchange);
        exchange_drop_upload(exchange);
        return respond_error(exchange, &exchange->error);
    }
    if (!strcmp(exchange->method, "OPTIONS")) return respond_preflight(exchange);
    return exchange->route->serve(exchange);
}

void exchange_make_id(char id[REQUEST_ID_MOST]) {
    char hex[25];
    media_timed_hex(hex, 6, 1000, 6); // milliseconds, and 48 bits of chance
    snprintf(id, REQUEST_ID_MOST, "req_%s", hex);
}

static struct exchange *open_exchange(struct server *server, struct MHD_Connection *connection,
                                      const char *method, const char *url) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct link *link = info ? info->socket_context : NULL;
    struct exchange *exchange = link ? calloc(1, sizeof *exchange) : NULL;
    if (!exchange) return NULL;
    exchange_make_id(exchange->id);
    snprintf(exchange->method, sizeof exchange->method, "%s", method);
    snprintf(exchange->path, sizeof exchange->path, "%s", url);
    exchange->server = server;
    exchange->connection = connection;
    exchange->link = link;
    exchange->watched = -1;
    exchange->started = clock_seconds();
    link_delist(server, link);
    link_unwatch(server, link);
    exchange_enlist(exchange);
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
    if (exchange->state == EXCHANGE_WAITING) // resumed
        return exchange->stream ? stream_respond(exchange) : respond_answer(exchange);
    if (*size > 0) return take_bytes(exchange, bytes, size);
    return serve(exchange);
}

static void write_log(const struct exchange *exchange, double seconds) {
    char client[ADDRESS_TEXT_MOST];
    address_write(&exchange->client, client);
    const struct log_field fields[] = {
        {"request_id", exchange->id, 0, false, 0},
        {"method", exchange->method, 0, false, 0},
        {"path", exchange->path, 0, false, 0},
        {"status", NULL, exchange->status, true, 0},
        {"seconds", NULL, seconds, true, 3},
        {"received", NULL, (double)exchange->received, true, 0},
        {"sent", NULL, (double)exchange->sent, true, 0},
        {"client", client, 0, false, 0},
        {"key", exchange->principal.key.id, 0, false, 0},
        {"trace_id", exchange->trace_id, 0, false, 0},
    };
    log_fields(exchange->server->log, LOG_INFO, exchange->gone ? "request, the client left" : "request",
               fields, sizeof fields / sizeof *fields);
}

// libmicrohttpd's edge-triggered set misses an end of the client's side that came together with the request: it is woken again.
static void wake_at_end(const struct link *link) {
    char byte;
    if (recv(link->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) shutdown(link->socket, SHUT_RD);
}

void exchange_ended(void *context, struct MHD_Connection *connection, void **request,
                    enum MHD_RequestTerminationCode why) {
    struct exchange *exchange = *request;
    struct server *server = context;
    if (!exchange) return;
    *request = NULL;
    exchange_unwatch(exchange);
    exchange_delist(exchange);
    exchange->link->idle = true;
    exchange->link->ended++;
    link_enlist(server, exchange->link); // until the next request's head is there
    link_watch(server, exchange->link);
    wake_at_end(exchange->link);
    for (char *c = exchange->path; *c; c++)
        if ((unsigned char)*c < 0x21 || (unsigned char)*c > 0x7e) *c = '?';
    bool whole = why == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    if (!whole && !exchange->cut) {
        exchange->gone = true;
        // One that was reading events, or that a stopping server did not wait for.
        if (exchange->state == EXCHANGE_STREAMING || exchange->state == EXCHANGE_WAITING)
            gateway_cancel(server->gateway, exchange->id);
    }
    double seconds = clock_seconds() - exchange->started;
    server->counts.bytes_out += exchange->sent;
    metrics_count(server, exchange, seconds);
    if (server->access_log) write_log(exchange, seconds);
    exchange_drop_upload(exchange); // its client left while it was sending
    stream_close(exchange->stream);
    buffer_free(&exchange->answer.body);
    free(exchange);
}

void connection_changed(void *context, struct MHD_Connection *connection, void **kept,
                        enum MHD_ConnectionNotificationCode what) {
    struct server *server = context;
    struct link *link = *kept;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        *kept = link = info ? calloc(1, sizeof *link) : NULL;
        if (!link) return; // its requests are refused
        link->socket = info->connect_fd;
        link->connection = connection;
        info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
        address_of_socket(info ? info->client_addr : NULL, &link->address);
        link_enlist(server, link);
        relay_link_began(server, link);
        server->connections++;
    } else if (link) {
        link_delist(server, link);
        link_unwatch(server, link);
        if (link->relay)
            relay_link_ended(server, link); // which still has the client's socket
        else
            door_count_out(server, &link->address);
        server->connections--;
        *kept = NULL;
        free(link);
    }
}
