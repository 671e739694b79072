// See listing.h.
#include "store/listing.h"
#include "base/buffer.h"
#include "store/records.h"
#include "store/usage.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REQUEST_COLUMNS                                                                                      \
    "seq, id, created_at, model, executed_model, provider, mode, endpoint, status, http_status, "            \
    "cost_micros, "                                                                                          \
    "estimate_micros, dispatched_at, ended_at, images, width, height, key_id, project, error_code, "         \
    "error_message, session_id, trace_id, user, request_bytes, response_bytes, text_tokens, input_tokens, "  \
    "output_tokens, purged_at"

json_t *listing_text(const char *text) {
    if (!text) return json_null();
    json_t *value = json_string(text);
    if (value) return value;
    char *plain = strdup(text);
    for (char *c = plain; plain && *c; c++)
        if ((unsigned char)*c > 0x7e) *c = '?';
    value = plain ? json_string(plain) : NULL;
    free(plain);
    return value;
}

json_t *listing_time(int64_t micros) {
    if (!micros) return json_null();
    char text[40];
    struct tm parts;
    time_t seconds = (time_t)(micros / 1000000);
    gmtime_r(&seconds, &parts);
    size_t used = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + used, sizeof text - used, ".%03dZ", (int)(micros / 1000 % 1000));
    return json_string(text);
}

json_t *listing_money(int64_t micros) {
    return json_real((double)micros / 1e6);
}

static json_t *text_column(sqlite3_stmt *row, int column) {
    return listing_text((const char *)sqlite3_column_text(row, column));
}

// Milliseconds between two times, null where one is missing.
static json_t *between(int64_t from, int64_t to) {
    return from && to ? json_integer((to - from + 500) / 1000) : json_null();
}

static json_t *no_memory(struct error *error) {
    error_set(error, ERROR_MEMORY, "no memory for a listing");
    return NULL;
}

// ----------------------------------------------------------------------------------------------------------- requests

static json_t *request_from_row(sqlite3_stmt *row) {
    int64_t created = sqlite3_column_int64(row, 2), dispatched = sqlite3_column_int64(row, 12),
            ended = sqlite3_column_int64(row, 13);
    int64_t width = sqlite3_column_int64(row, 15), height = sqlite3_column_int64(row, 16);
    int64_t text = sqlite3_column_int64(row, 26), input = sqlite3_column_int64(row, 27),
            output = sqlite3_column_int64(row, 28);
    int http_status = sqlite3_column_int(row, 9);
    char size[48];
    snprintf(size, sizeof size, "%lldx%lld", (long long)width, (long long)height);
    return json_pack(
        "{s:o, s:s, s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:s, s:o, s:o, s:I, s:I, s:s, s:o, s:o, s:i, s:o, "
        "s:o, s:o, "
        "s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:{s:I,s:I,s:I,s:I}, s:b}",
        "id", text_column(row, 1), "object", "request", "created_at", listing_time(created), "model",
        sqlite3_column_bytes(row, 3) ? text_column(row, 3) : json_null(), "executed_model",
        text_column(row, 4), "provider", text_column(row, 5), "modality", "image", "mode",
        text_column(row, 6), "endpoint", text_column(row, 7), "status",
        store_status_name((enum store_status)sqlite3_column_int(row, 8)), "http_status",
        http_status ? json_integer(http_status) : json_null(), "cost",
        listing_money(sqlite3_column_int64(row, 10)), "cost_micros", sqlite3_column_int64(row, 10),
        "estimated_cost_micros", sqlite3_column_int64(row, 11), "currency", "usd", "duration_ms",
        between(created, ended), "queue_ms", between(created, dispatched), "images",
        sqlite3_column_int(row, 14), "size", width && height ? json_string(size) : json_null(), "key_id",
        text_column(row, 17), "project", text_column(row, 18), "error_code", text_column(row, 19),
        "error_message", text_column(row, 20), "session_id", text_column(row, 21), "trace_id",
        text_column(row, 22), "user", text_column(row, 23), "request_size_bytes",
        sqlite3_column_int64(row, 24), "response_size_bytes", sqlite3_column_int64(row, 25), "usage",
        "text_tokens", text, "input_image_tokens", input, "output_tokens", output, "total_tokens",
        text + input + output, "purged", sqlite3_column_int64(row, 29) != 0);
}

static json_t *attempts_json(struct database *database, int64_t seq, struct error *error) {
    json_t *list = json_array();
    sqlite3_stmt *row =
        database_query(database, error,
                       "SELECT provider, provider_model, status, queued_at, dispatched_at, first_byte_at, "
                       "ended_at, error_code, "
                       "error_message, cost_micros, images FROM attempts WHERE request = ?1 ORDER BY number",
                       "i", seq);
    bool more;
    while (database_next(database, row, &more, error)) {
        if (!more) return list ? list : no_memory(error);
        int64_t queued = sqlite3_column_int64(row, 3), dispatched = sqlite3_column_int64(row, 4);
        json_array_append_new(
            list, json_pack("{s:o, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:i}", "provider",
                            text_column(row, 0), "model", text_column(row, 1), "status",
                            store_status_name((enum store_status)sqlite3_column_int(row, 2)), "dispatched_at",
                            listing_time(dispatched), "queue_ms", between(queued, dispatched),
                            "first_byte_ms", between(dispatched, sqlite3_column_int64(row, 5)), "duration_ms",
                            between(dispatched, sqlite3_column_int64(row, 6)), "error_code",
                            text_column(row, 7), "error_message", text_column(row, 8), "cost",
                            listing_money(sqlite3_column_int64(row, 9)), "cost_micros",
                            sqlite3_column_int64(row, 9), "images", sqlite3_column_int(row, 10)));
    }
    json_decref(list);
    return NULL;
}

static json_t *media_json(struct database *database, int64_t seq, struct error *error) {
    static const char *const kinds[] = {"output", "reference", "mask"};
    json_t *list = json_array();
    sqlite3_stmt *row = database_query(
        database, error,
        "SELECT name, kind, number FROM media WHERE request = ?1 ORDER BY kind, number, name", "i", seq);
    bool more;
    while (database_next(database, row, &more, error)) {
        if (!more) return list ? list : no_memory(error);
        int kind = sqlite3_column_int(row, 1);
        json_array_append_new(list, json_pack("{s:o, s:s, s:i}", "name", text_column(row, 0), "kind",
                                              kinds[kind > 0 && kind < 3 ? kind : 0], "number",
                                              sqlite3_column_int(row, 2)));
    }
    json_decref(list);
    return NULL;
}

// The answer that is kept of a request: a picture that it leaves out is {"media": name} there, so that somebody else can put it in.
static json_t *answer_json(struct database *database, int64_t seq, int64_t now, struct error *error) {
    sqlite3_stmt *row = database_query(
        database, error,
        "SELECT body, pictures FROM answers WHERE request = ?1 AND expires_at > ?2 AND type LIKE "
        "'application/json%'",
        "ii", seq, now);
    bool more;
    if (!database_next(database, row, &more, error)) return NULL;
    if (!more) return json_null();
    json_t *value =
        json_loadb(sqlite3_column_blob(row, 0), (size_t)sqlite3_column_bytes(row, 0), JSON_DECODE_ANY, NULL);
    const char *at = (const char *)sqlite3_column_text(row, 1);
    json_t *data = json_object_get(value, "data");
    for (size_t i = 0; at && *at && i < json_array_size(data); i++) { // each one of the data leaves one out
        at += strcspn(at, " ") + 1;
        size_t length = strcspn(at, "\n");
        json_object_set_new(json_array_get(data, i), "b64_json",
                            json_pack("{s:o}", "media", json_stringn(at, length)));
        at += length + (at[length] == '\n');
    }
    database_end(row);
    return value ? value : json_null();
}

// The JSON that stands in a column of the one row of a query; null when there is none, or it is no JSON.
static json_t *stored_json(struct database *database, sqlite3_stmt *row, struct error *error) {
    bool more;
    if (!database_next(database, row, &more, error)) return NULL;
    if (!more) return json_null();
    json_t *value =
        json_loadb(sqlite3_column_blob(row, 0), (size_t)sqlite3_column_bytes(row, 0), JSON_DECODE_ANY, NULL);
    database_end(row);
    return value ? value : json_null();
}

json_t *listing_request(struct database *database, const char *id, const struct query_scope *scope,
                        int64_t now, struct error *error) {
    sqlite3_stmt *row =
        database_query(database, error,
                       "SELECT " REQUEST_COLUMNS
                       " FROM requests WHERE id = ?1 AND (?2 = '' OR project = ?2) AND (?3 = '' OR "
                       "key_id = ?3)",
                       "sss", id, scope->project, scope->key_id);
    bool more;
    if (!database_next(database, row, &more, error)) return NULL;
    if (!more) {
        error_set(error, ERROR_NOT_FOUND, "there is no request %.80s", id);
        return NULL;
    }
    int64_t seq = sqlite3_column_int64(row, 0);
    json_t *request = request_from_row(row);
    database_end(row);
    if (!request) return no_memory(error);
    json_t *attempts = attempts_json(database, seq, error), *media = media_json(database, seq, error);
    json_t *payload = stored_json(
        database,
        database_query(database, error, "SELECT body FROM payloads WHERE request = ?1 AND expires_at > ?2",
                       "ii", seq, now),
        error);
    json_t *answer = answer_json(database, seq, now, error);
    bool good = attempts && media && payload && answer;
    good = !json_object_set_new(request, "attempts", attempts) && good;
    good = !json_object_set_new(request, "media", media) && good;
    good = !json_object_set_new(request, "payload", payload) && good;
    good = !json_object_set_new(request, "answer", answer) && good;
    if (good) return request;
    json_decref(request);
    return no_memory(error);
}

// ------------------------------------------------------------------------------------------------------------ paging

// What the page's URL repeats: "?limit=20&status=completed".
struct page_url {
    struct buffer text;
};

static void url_add(struct page_url *url, const char *name, const char *value) {
    if (!*value) return;
    buffer_printf(&url->text, "%c%s=", strchr(url->text.data, '?') ? '&' : '?', name);
    for (const char *c = value; *c; c++)
        buffer_printf(&url->text, isalnum((unsigned char)*c) || strchr("-._~", *c) ? "%c" : "%%%02X",
                      (unsigned char)*c);
}

static void url_add_time(struct page_url *url, const char *name, int64_t micros) {
    json_t *time = listing_time(micros);
    if (micros && time) url_add(url, name, json_string_value(time));
    json_decref(time);
}

// A cursor's row; false with an error when there is none of that id for this caller.
static bool cursor_row(struct database *database, const char *sql, const char *name, const char *id,
                       const struct query_scope *scope, int64_t *seq, struct error *error) {
    if (!database_integer(database, error, 0, seq, sql, "sss", id, scope->project, scope->key_id))
        return false;
    return *seq || error_set_field(error, ERROR_NOT_FOUND, name, "%s: there is no \"%.80s\"", name, id);
}

struct page {
    json_t *data;
    bool backwards; // asked for by ending_before: oldest first, to be turned round
    int limit;
    bool more; // rows beyond the limit, in the direction asked for
    bool from_cursor;
};

// Takes the row's object over. False: the page is full.
static bool page_add(struct page *page, json_t *object) {
    if ((int)json_array_size(page->data) == page->limit) {
        page->more = true;
        json_decref(object);
        return false;
    }
    if (page->backwards)
        json_array_insert_new(page->data, 0, object);
    else
        json_array_append_new(page->data, object);
    return true;
}

static json_t *cursor_url(const struct page_url *url, const char *name, const json_t *row) {
    const char *id = json_string_value(json_object_get(row, "id"));
    struct page_url whole = {0};
    if (!id || !buffer_add_string(&whole.text, url->text.data)) return json_null();
    url_add(&whole, name, id);
    json_t *text = json_string(whole.text.data);
    buffer_free(&whole.text);
    return text;
}

static json_t *page_json(struct page *page, struct page_url *url, struct error *error) {
    size_t count = json_array_size(page->data);
    bool older = count && (page->backwards || page->more),
         newer = count && (page->backwards ? page->more : page->from_cursor);
    json_t *next =
        older ? cursor_url(url, "starting_after", json_array_get(page->data, count - 1)) : json_null();
    json_t *previous = newer ? cursor_url(url, "ending_before", json_array_get(page->data, 0)) : json_null();
    json_t *list = json_pack("{s:s, s:o, s:b, s:o, s:o}", "object", "list", "data", page->data, "has_more",
                             older, "next_page_url", next, "previous_page_url", previous);
    buffer_free(&url->text);
    return list ? list : no_memory(error);
}

// What the caller may see and what it asks for: one of them, or both the same (listing_requests).
static const char *project_of(const struct query_requests *query) {
    return *query->scope.project ? query->scope.project : query->project;
}

// ?1 project, ?2 key of the caller; ?3 key_id, ?4 model, ?5 user, ?6 status, ?7 and ?8 times; ?9 and ?10 bounds of seq.
#define REQUEST_FILTER                                                                                       \
    " FROM requests WHERE seq > ?9 AND seq < ?10 AND (?1 = '' OR project = ?1) AND (?2 = '' OR key_id = "    \
    "?2) AND "                                                                                               \
    "(?3 = '' OR key_id = ?3) AND (?4 = '' OR model = ?4) AND (?5 = '' OR user = ?5) AND (?6 < 0 OR status " \
    "= ?6) "                                                                                                 \
    "AND (?7 = 0 OR created_at >= ?7) AND (?8 = 0 OR created_at < ?8)"
#define REQUEST_FILTER_TYPES "sssssiiiii"
#define REQUEST_FILTER_VALUES(query, low, high)                                                              \
    project_of(query), (query)->scope.key_id, (query)->key_id, (query)->model, (query)->user,                \
        (int64_t)(query)->status, (query)->created_after, (query)->created_before, (low), (high)

// The bounds of seq that times and cursors give; seq and created_at grow together.
static bool request_bounds(struct database *database, const struct query_requests *query, bool cursors,
                           int64_t *low, int64_t *high, struct error *error) {
    static const char cursor[] =
        "SELECT seq FROM requests WHERE id = ?1 AND (?2 = '' OR project = ?2) AND (?3 = '' OR key_id = ?3)";
    int64_t seq;
    *low = 0;
    *high = INT64_MAX;
    if (query->created_after) {
        if (!database_integer(database, error, INT64_MAX, &seq,
                              "SELECT seq FROM requests WHERE created_at >= ?1 ORDER BY created_at LIMIT 1",
                              "i", query->created_after))
            return false;
        *low = seq - 1;
    }
    if (query->created_before) {
        if (!database_integer(database, error, INT64_MAX, &seq,
                              "SELECT seq FROM requests WHERE created_at >= ?1 ORDER BY created_at LIMIT 1",
                              "i", query->created_before))
            return false;
        *high = seq;
    }
    if (!cursors) return true;
    if (*query->starting_after) {
        if (!cursor_row(database, cursor, "starting_after", query->starting_after, &query->scope, &seq,
                        error))
            return false;
        if (seq < *high) *high = seq;
    }
    if (*query->ending_before) {
        if (!cursor_row(database, cursor, "ending_before", query->ending_before, &query->scope, &seq, error))
            return false;
        if (seq > *low) *low = seq;
    }
    return true;
}

static bool add_summary(struct database *database, const struct query_requests *query, json_t *list,
                        struct error *error) {
    int64_t low, high;
    if (!request_bounds(database, query, false, &low, &high, error)) return false;
    sqlite3_stmt *row =
        database_query(database, error, "SELECT count(*), coalesce(sum(cost_micros), 0)" REQUEST_FILTER,
                       REQUEST_FILTER_TYPES, REQUEST_FILTER_VALUES(query, low, high));
    bool more;
    if (!database_next(database, row, &more, error) || !more) return false;
    int64_t count = sqlite3_column_int64(row, 0), cost = sqlite3_column_int64(row, 1);
    database_end(row);
    json_t *summary = json_pack("{s:I, s:o, s:I, s:s}", "count", count, "total_cost", listing_money(cost),
                                "total_cost_micros", cost, "currency", "usd");
    return json_object_set_new(list, "summary", summary) == 0 ||
           error_set(error, ERROR_MEMORY, "no memory for a listing");
}

static bool fill_requests(struct database *database, const struct query_requests *query, struct page *page,
                          struct error *error) {
    int64_t low, high;
    if (!request_bounds(database, query, true, &low, &high, error)) return false;
    static const char down[] = "SELECT " REQUEST_COLUMNS REQUEST_FILTER " ORDER BY seq DESC LIMIT ?11";
    static const char up[] = "SELECT " REQUEST_COLUMNS REQUEST_FILTER " ORDER BY seq LIMIT ?11";
    // One key's requests have an index; nothing else is asked for often enough.
    static const char key_down[] =
        "SELECT " REQUEST_COLUMNS REQUEST_FILTER " AND key_id = ?12 ORDER BY seq DESC LIMIT ?11";
    static const char key_up[] =
        "SELECT " REQUEST_COLUMNS REQUEST_FILTER " AND key_id = ?12 ORDER BY seq LIMIT ?11";
    const char *key = *query->scope.key_id ? query->scope.key_id : query->key_id;
    bool backwards = page->backwards;
    sqlite3_stmt *row =
        *key ? database_query(database, error, backwards ? key_up : key_down, REQUEST_FILTER_TYPES "is",
                              REQUEST_FILTER_VALUES(query, low, high), (int64_t)query->limit + 1, key)
             : database_query(database, error, backwards ? up : down, REQUEST_FILTER_TYPES "i",
                              REQUEST_FILTER_VALUES(query, low, high), (int64_t)query->limit + 1);
    bool more;
    while (database_next(database, row, &more, error)) {
        if (!more) return true;
        json_t *object = request_from_row(row);
        if (!object) {
            database_end(row);
            return no_memory(error) != NULL;
        }
        page_add(page, object);
    }
    return false;
}

json_t *listing_requests(struct database *database, const struct query_requests *query, struct error *error) {
    struct page page = {.data = json_array(),
                        .backwards = *query->ending_before != 0,
                        .limit = query->limit,
                        .from_cursor = *query->starting_after != 0};
    struct page_url url = {0};
    if (*query->scope.project && *query->project && strcmp(query->scope.project, query->project)) {
        json_decref(page.data);
        error_set_field(error, ERROR_INPUT, "project", "project: \"%s\" given, and \"%s\" by OpenAI-Project",
                        query->project, query->scope.project);
        return NULL;
    }
    if (!page.data || !buffer_add_string(&url.text, "/v1/requests")) return no_memory(error);
    char limit[16];
    snprintf(limit, sizeof limit, "%d", query->limit);
    url_add(&url, "limit", limit);
    url_add_time(&url, "created_after", query->created_after);
    url_add_time(&url, "created_before", query->created_before);
    url_add(&url, "key_id", query->key_id);
    url_add(&url, "model", query->model);
    url_add(&url, "user", query->user);
    url_add(&url, "project", query->project);
    if (query->status >= 0) url_add(&url, "status", store_status_name((enum store_status)query->status));
    if (query->summary) url_add(&url, "summary", "true");
    if (!fill_requests(database, query, &page, error)) {
        json_decref(page.data);
        buffer_free(&url.text);
        return NULL;
    }
    json_t *list = page_json(&page, &url, error);
    if (list && query->summary && !add_summary(database, query, list, error)) {
        json_decref(list);
        return NULL;
    }
    return list;
}

// --------------------------------------------------------------------------------------------------------------- keys

static json_t *limit_json(int64_t limit, bool money) {
    if (!limit) return json_null();
    return money ? listing_money(limit) : json_integer(limit);
}

static json_t *usage_json(const struct usage_row *row) {
    return json_pack("{s:o, s:I, s:I, s:I}", "spent", listing_money(row->spent), "spent_micros", row->spent,
                     "reserved_micros", row->reserved, "images", row->images);
}

static json_t *list_json(const char *list) {
    json_t *array = json_array();
    while (array && *list) {
        size_t length = strcspn(list, ",");
        json_array_append_new(array, json_stringn(list, length));
        list += length + (list[length] == ',');
    }
    return array;
}

static json_t *key_json(struct database *database, const struct key_info *key, int64_t now,
                        struct error *error) {
    struct usage_row usage[3];
    if (!usage_read(database, key->id, now, usage, error)) return NULL;
    const char *status = key->revoked_at                             ? "revoked"
                         : key->expires_at && key->expires_at <= now ? "expired"
                                                                     : "active";
    json_t *object = json_pack(
        "{s:s, s:s, s:o, s:s, s:o, s:s, s:o, s:o, s:o, s:b, s:s, s:o, s:o, s:{s:o, s:o, s:o, s:o, s:o}, "
        "s:{s:o, "
        "s:o, "
        "s:o}}",
        "id", key->id, "object", "key", "name", listing_text(key->name), "last_four", key->last_four,
        "created_at", listing_time(key->created_at), "status", status, "project", listing_text(key->project),
        "projects", list_json(key->projects), "models", list_json(key->models), "admin", key->admin,
        "priority", key_priority_name(key->priority), "expires_at", listing_time(key->expires_at),
        "revoked_at", listing_time(key->revoked_at), "limits", "budget_day",
        limit_json(key->budget_day_micros, true), "budget_month", limit_json(key->budget_month_micros, true),
        "budget_total", limit_json(key->budget_total_micros, true), "requests_per_minute",
        limit_json(key->requests_per_minute, false), "images_per_day", limit_json(key->images_per_day, false),
        "usage", "day", usage_json(&usage[USAGE_DAY]), "month", usage_json(&usage[USAGE_MONTH]), "total",
        usage_json(&usage[USAGE_TOTAL]));
    return object ? object : no_memory(error);
}

#define KEY_FILTER                                                                                           \
    " FROM keys WHERE seq > ?1 AND seq < ?2 AND (?3 < 0 OR (revoked_at != 0) = ?3) AND (?4 = '' OR project " \
    "= ?4)"

static bool fill_keys(struct database *database, const struct query_keys *query, int64_t now,
                      struct page *page, struct error *error) {
    static const char cursor[] = "SELECT seq FROM keys WHERE id = ?1 AND ?2 = '' AND ?3 = ''";
    static const char down[] = "SELECT " KEY_COLUMNS KEY_FILTER " ORDER BY seq DESC LIMIT ?5";
    static const char up[] = "SELECT " KEY_COLUMNS KEY_FILTER " ORDER BY seq LIMIT ?5";
    struct query_scope all = {0};
    int64_t low = 0, high = INT64_MAX;
    if (*query->starting_after &&
        !cursor_row(database, cursor, "starting_after", query->starting_after, &all, &high, error))
        return false;
    if (*query->ending_before &&
        !cursor_row(database, cursor, "ending_before", query->ending_before, &all, &low, error))
        return false;
    sqlite3_stmt *row = database_query(database, error, page->backwards ? up : down, "iiisi", low, high,
                                       (int64_t)query->status, query->project, (int64_t)query->limit + 1);
    bool more;
    while (database_next(database, row, &more, error)) {
        if (!more) return true;
        struct key_record record;
        key_from_row(row, &record);
        json_t *object = key_json(database, &record.info, now, error);
        if (!object) {
            database_end(row);
            return false;
        }
        page_add(page, object);
    }
    return false;
}

json_t *listing_keys(struct database *database, const struct query_keys *query, int64_t now,
                     struct error *error) {
    struct page page = {.data = json_array(),
                        .backwards = *query->ending_before != 0,
                        .limit = query->limit,
                        .from_cursor = *query->starting_after != 0};
    struct page_url url = {0};
    if (!page.data || !buffer_add_string(&url.text, "/v1/keys")) return no_memory(error);
    char limit[16];
    snprintf(limit, sizeof limit, "%d", query->limit);
    url_add(&url, "limit", limit);
    if (query->status >= 0) url_add(&url, "status", query->status ? "revoked" : "active");
    url_add(&url, "project", query->project);
    if (fill_keys(database, query, now, &page, error)) return page_json(&page, &url, error);
    json_decref(page.data);
    buffer_free(&url.text);
    return NULL;
}

// ------------------------------------------------------------------------------------------------------------ balance

// What was spent this month and in all of the records for the scope's project.
static json_t *project_spending(struct database *database, const struct query_scope *scope, int64_t now,
                                struct error *error) {
    static const char sum[] = "SELECT sum(cost_micros) FROM requests WHERE created_at >= ?1 AND project = ?2 "
                              "AND (?3 = '' OR key_id = ?3)";
    int64_t month = 0, total = 0;
    if (!database_integer(database, error, 0, &month, sum, "iss", usage_start(USAGE_MONTH, now),
                          scope->project, scope->key_id) ||
        !database_integer(database, error, 0, &total, sum, "iss", (int64_t)0, scope->project, scope->key_id))
        return NULL;
    json_t *object = json_pack("{s:o, s:{s:o, s:I}, s:{s:o, s:I}}", "id", listing_text(scope->project),
                               "month", "spent", listing_money(month), "spent_micros", month, "recorded",
                               "spent", listing_money(total), "spent_micros", total);
    return object ? object : no_memory(error);
}

json_t *listing_balance(struct database *database, const char *key_id, const struct query_scope *scope,
                        int64_t now, struct error *error) {
    struct key_info key = {0};
    bool found = false;
    json_t *spending = NULL;
    if (*scope->project && !(spending = project_spending(database, scope, now, error))) return NULL;
    struct usage_row usage[3] = {{0}};
    if ((key_id && *key_id && !record_key(database, key_id, &key, &found, error)) ||
        (found && !usage_read(database, key.id, now, usage, error))) {
        json_decref(spending);
        return NULL;
    }
    static const char *const names[] = {"day", "month", "total"};
    const int64_t limits[] = {key.budget_day_micros, key.budget_month_micros, key.budget_total_micros};
    json_t *budgets = json_array();
    int64_t available = INT64_MAX;
    for (int period = USAGE_DAY; period <= USAGE_TOTAL; period++) {
        if (!limits[period]) continue;
        int64_t left = limits[period] - usage[period].spent - usage[period].reserved;
        if (left < 0) left = 0;
        if (left < available) available = left;
        json_array_append_new(budgets, json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "period", names[period],
                                                 "limit", listing_money(limits[period]), "spent",
                                                 listing_money(usage[period].spent), "reserved",
                                                 listing_money(usage[period].reserved), "available",
                                                 listing_money(left), "resets_at",
                                                 listing_time(usage_next((enum usage_period)period, now))));
    }
    bool limited = available != INT64_MAX;
    json_t *object = json_pack("{s:s, s:s, s:{s:o, s:s}, s:o, s:o*}", "object", "balance", "billing_type",
                               limited ? "prepaid" : "postpaid", "available", "amount",
                               limited ? listing_money(available) : json_null(), "currency", "usd", "budgets",
                               budgets, "project", spending);
    return object ? object : no_memory(error);
}
