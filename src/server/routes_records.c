// The native endpoints over the records: requests, keys, statistics, balance. The store answers on threads of its own, the
// answer comes through the mailbox. Relies on exchange.h, store.
#include "base/clock.h"
#include "gateway/answer.h"
#include "server/exchange.h"
#include "store/listing.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A question to the store on its way.
struct question {
    struct server *server;
    char id[REQUEST_ID_MOST];    // of the exchange
    char request[TARGET_MOST];   // that is asked about
    bool cancel;                 // a request is to be stopped when it is the caller's
    char base[TARGET_MOST + 64]; // what the URLs of its pictures begin with
};

static struct question *question_open(struct exchange *exchange) {
    struct question *question = calloc(1, sizeof *question);
    if (!question) {
        api_error_set(&exchange->error, API_OUT_OF_MEMORY, "", "no memory for the request");
        return NULL;
    }
    question->server = exchange->server;
    snprintf(question->id, sizeof question->id, "%s", exchange->id);
    snprintf(question->request, sizeof question->request, "%s", exchange->target);
    return question;
}

// Hands the answer to the loop; takes [question] and [json] (NULL with an error) over.
static void answer(struct question *question, json_t *json, const struct error *error) {
    struct gateway_message message = {.kind = GATEWAY_ANSWER, .status = 200};
    if (json) {
        message.body.data = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15));
        message.body.length = message.body.data ? strlen(message.body.data) : 0;
        message.body.capacity = message.body.length + 1;
        if (!message.body.data)
            api_error_set(&message.error, API_OUT_OF_MEMORY, "", "no memory for the answer");
    } else {
        api_error_from(&message.error, error);
    }
    json_decref(json);
    mailbox_post(question->server->mailbox, question->id, &message);
    free(question);
}

static void on_json(void *context, json_t *json, const struct error *error) {
    answer(context, json, error);
}

// The exchange waits when the question was [asked]; else its error is answered.
static enum MHD_Result wait_for(struct exchange *exchange, struct question *question, bool asked,
                                const struct error *error) {
    if (asked) return exchange_suspend(exchange);
    free(question);
    if (error->kind != ERROR_NONE) api_error_from(&exchange->error, error);
    return respond_error(exchange, &exchange->error);
}

// Whose records the caller may see: an admin, or the owner of a machine without keys, all of them.
static bool find_scope(struct exchange *exchange, struct query_scope *scope) {
    const struct principal *principal = &exchange->principal;
    memset(scope, 0, sizeof *scope);
    if (principal->keyless && !exchange->local)
        return api_error_set(&exchange->error, API_KEY_NOT_ALLOWED, "",
                             "without keys, records are for programs of the server's own machine");
    if (exchange->project_named) snprintf(scope->project, sizeof scope->project, "%s", principal->project);
    if (principal->keyless || principal->key.admin) return true;
    snprintf(scope->key_id, sizeof scope->key_id, "%s", principal->key.id);
    return true;
}

#define PARAMETERS_MOST 32 // of a query string

// Hands each parameter of the query string to [set]; stops at the first that is wrong.
struct query_reader {
    void *query;
    bool (*set)(void *query, const char *name, const char *value, struct error *error);
    const char *names[PARAMETERS_MOST]; // so far
    int count;
    struct error *error;
};

static enum MHD_Result read_parameter(void *context, enum MHD_ValueKind kind, const char *name, size_t length,
                                      const char *value, size_t size) {
    struct query_reader *reader = context;
    bool good = strlen(name) == length && (!value || strlen(value) == size);
    if (!good)
        error_set_field(reader->error, ERROR_INPUT, name, "%.60s: a 0 byte", name);
    else if (reader->count == PARAMETERS_MOST)
        good = error_set(reader->error, ERROR_INPUT, "more than %d parameters", PARAMETERS_MOST);
    for (int i = 0; good && i < reader->count; i++)
        if (!strcmp(reader->names[i], name))
            good =
                error_set_field(reader->error, ERROR_INPUT, name, "%.60s: given twice, expected once", name);
    if (good) reader->names[reader->count++] = name;
    return good && reader->set(reader->query, name, value ? value : "", reader->error) ? MHD_YES : MHD_NO;
}

static bool read_query(struct exchange *exchange, void *query,
                       bool (*set)(void *query, const char *name, const char *value, struct error *error)) {
    struct error error = {0};
    struct query_reader reader = {.query = query, .set = set, .error = &error};
    MHD_get_connection_values_n(exchange->connection, MHD_GET_ARGUMENT_KIND, read_parameter, &reader);
    return error.kind == ERROR_NONE || api_error_from(&exchange->error, &error);
}

static bool set_requests(void *query, const char *name, const char *value, struct error *error) {
    return query_requests_set(query, name, value, error);
}

static bool set_keys(void *query, const char *name, const char *value, struct error *error) {
    return query_keys_set(query, name, value, error);
}

static bool set_nothing(void *query, const char *name, const char *value, struct error *error) {
    return query_nothing_set(name, error);
}

static bool set_stats(void *query, const char *name, const char *value, struct error *error) {
    return query_stats_set(query, name, value, error);
}

enum MHD_Result serve_requests(struct exchange *exchange) {
    struct query_requests query;
    struct query_scope scope;
    struct error error = {0};
    if (!find_scope(exchange, &scope)) return respond_error(exchange, &exchange->error);
    query_requests_init(&query, &scope);
    if (!read_query(exchange, &query, set_requests)) return respond_error(exchange, &exchange->error);
    struct question *question = question_open(exchange);
    bool asked = question && store_list_requests(exchange->server->store, &query, on_json, question, &error);
    return wait_for(exchange, question, asked, &error);
}

enum MHD_Result serve_keys(struct exchange *exchange) {
    struct query_keys query;
    struct error error = {0};
    query_keys_init(&query);
    if (!read_query(exchange, &query, set_keys)) return respond_error(exchange, &exchange->error);
    struct question *question = question_open(exchange);
    bool asked = question && store_list_keys(exchange->server->store, &query, on_json, question, &error);
    return wait_for(exchange, question, asked, &error);
}

// Whose figures the caller gets: an admin, or the owner of a machine without keys, everybody's, or one project's; others those
// of a project that is theirs.
static bool find_stats_project(struct exchange *exchange, struct query_stats *query) {
    const struct principal *principal = &exchange->principal;
    bool admin = principal->keyless ? exchange->local : principal->key.admin;
    if (exchange->project_named && *query->project && strcmp(query->project, principal->project))
        return api_error_set(&exchange->error, API_INVALID_REQUEST, "project",
                             "project: \"%s\" given, and \"%s\" by OpenAI-Project", query->project,
                             principal->project);
    if (!admin && *query->project && strcmp(query->project, principal->project) &&
        (principal->keyless || !key_allows_project(&principal->key, query->project)))
        return api_error_set(&exchange->error, API_KEY_NOT_ALLOWED, "project",
                             "project: the figures of \"%s\" are not for this caller", query->project);
    if (!*query->project && (!admin || exchange->project_named))
        snprintf(query->project, sizeof query->project, "%s", principal->project);
    return true;
}

enum MHD_Result serve_stats(struct exchange *exchange) {
    struct query_stats query = {0};
    struct error error = {0};
    if (!read_query(exchange, &query, set_stats) || !find_stats_project(exchange, &query))
        return respond_error(exchange, &exchange->error);
    struct question *question = question_open(exchange);
    bool asked = question && store_get_stats(exchange->server->store, &query, on_json, question, &error);
    return wait_for(exchange, question, asked, &error);
}

enum MHD_Result serve_balance(struct exchange *exchange) {
    const struct principal *principal = &exchange->principal;
    struct error error = {0};
    if (!read_query(exchange, NULL, set_nothing)) return respond_error(exchange, &exchange->error);
    struct question *question = question_open(exchange);
    struct query_scope scope = {0};
    if (exchange->project_named) snprintf(scope.project, sizeof scope.project, "%s", principal->project);
    if (!principal->keyless && !principal->key.admin)
        snprintf(scope.key_id, sizeof scope.key_id, "%s", principal->key.id);
    bool asked =
        question && store_get_balance(exchange->server->store, principal->keyless ? NULL : principal->key.id,
                                      &scope, on_json, question, &error);
    return wait_for(exchange, question, asked, &error);
}

// ------------------------------------------------------------------------------------------------------ one request

// What is in work is known better here than in its record.
static void add_progress(struct question *question, json_t *json) {
    json_t *progress = gateway_progress_json(question->server->gateway, question->request), *value;
    const char *name;
    json_object_foreach(progress, name, value) if (strcmp(name, "status")) json_object_set(json, name, value);
    json_decref(progress);
}

// Where its pictures are, and until when; null for one whose time is over.
static void add_urls(struct question *question, json_t *json) {
    size_t index;
    json_t *one;
    json_array_foreach(json_object_get(json, "media"), index, one) {
        struct media_item item;
        struct error gone = {0};
        const char *name = json_string_value(json_object_get(one, "name"));
        bool there = name && media_get(question->server->media, name, &item, &gone);
        if (there) close(item.file);
        int64_t until = there ? clock_unix_micros() + (int64_t)(item.seconds_left * 1e6) : 0;
        json_object_set_new(one, "url",
                            there ? json_sprintf("%s/media/%s", question->base, name) : json_null());
        json_object_set_new(one, "expires_at", listing_time(until));
    }
}

static void on_request(void *context, json_t *json, const struct error *error) {
    struct question *question = context;
    if (json) add_progress(question, json);
    if (json) add_urls(question, json);
    if (json && !question->cancel) answer_fill(json_object_get(json, "answer"), question->server->media);
    if (json && question->cancel) {
        bool stopped = gateway_stop(question->server->gateway, question->request);
        json_t *state = json_object_get(json, "status");
        json_t *reply = json_pack("{s:s, s:s, s:b, s:O?}", "id", question->request, "object", "request",
                                  "cancelled", stopped, "status", state);
        if (stopped) json_object_set_new(reply, "status", json_string("cancelled"));
        json_decref(json);
        json = reply;
    }
    answer(question, json, error);
}

static enum MHD_Result ask_request(struct exchange *exchange, bool cancel) {
    struct query_scope scope;
    struct error error = {0};
    if (!find_scope(exchange, &scope)) return respond_error(exchange, &exchange->error);
    struct question *question = question_open(exchange);
    if (question) question->cancel = cancel;
    if (question) exchange_base_url(exchange, question->base, sizeof question->base);
    bool asked = question && store_get_request(exchange->server->store, exchange->target, &scope, on_request,
                                               question, &error);
    return wait_for(exchange, question, asked, &error);
}

enum MHD_Result serve_request(struct exchange *exchange) {
    return ask_request(exchange, false);
}

enum MHD_Result serve_cancel(struct exchange *exchange) {
    return ask_request(exchange, true);
}

static void on_purged(void *context, const struct store_purged *purged) {
    struct question *question = context;
    int deleted = 0;
    for (int i = 0; i < purged->media_count; i++) {
        struct error error = {0};
        if (media_remove(question->server->media, purged->media[i], &error)) deleted++;
    }
    json_t *json = purged->error.kind == ERROR_NONE
                       ? json_pack("{s:s, s:b, s:b, s:i}", "id", question->request, "purged", true,
                                   "already_purged", purged->already, "media_deleted", deleted)
                       : NULL;
    answer(question, json, &purged->error);
}

enum MHD_Result serve_purge(struct exchange *exchange) {
    struct query_scope scope;
    struct error error = {0};
    if (!find_scope(exchange, &scope)) return respond_error(exchange, &exchange->error);
    struct question *question = question_open(exchange);
    bool asked = question &&
                 store_purge(exchange->server->store, exchange->target, &scope, on_purged, question, &error);
    return wait_for(exchange, question, asked, &error);
}
