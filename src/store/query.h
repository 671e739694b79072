// What can be asked about records, and the JSON that answers it. Relies on base, jansson.
//
// All lists are {"object":"list","data":[...],"has_more":bool,"next_page_url":str|null,"previous_page_url":str|null}, newest
// first; the URLs keep the filters. Money is USD as a number, and the same in micro-dollars where the name ends in _micros.
#ifndef LIMN_STORE_QUERY_H
#define LIMN_STORE_QUERY_H

#include "base/error.h"

#include <jansson.h> // defines: json_t
#include <stdbool.h>
#include <stdint.h>

#define QUERY_TEXT_MOST 80

// Whose requests a caller may see. "" means no limit: an admin key has both empty.
struct query_scope {
    char project[64];
    char key_id[16];
};

// "2026-11-23", "2026-11-23T01:02:03[.123456][Z|+01:00]" (without a zone it is UTC), or whole unix seconds; *micros is since
// 1970 UTC. False for anything else.
bool query_read_time(const char *text, int64_t *micros);

// GET /v1/requests. Start from query_requests_init, then hand it each parameter of the query string.
struct query_requests {
    struct query_scope scope;
    int limit;                                                            // 1 to 100
    char starting_after[QUERY_TEXT_MOST], ending_before[QUERY_TEXT_MOST]; // ids; at most one of them
    int64_t created_after, created_before;                                // unix micros; 0: open
    char project[64];                                                     // "": any that [scope] allows
    char key_id[QUERY_TEXT_MOST], model[QUERY_TEXT_MOST * 2], user[QUERY_TEXT_MOST * 4];
    int status;   // enum store_status, -1: any
    bool summary; // add {"summary":{"count","total_cost","total_cost_micros","currency"}} over all matches
};

void query_requests_init(struct query_requests *query, const struct query_scope *scope);

// One parameter: limit, starting_after, ending_before, created_after, created_before (ISO 8601 or unix seconds), key_id,
// model, user, project, status, summary (true, false). Other names are errors. The error's field is the name.
bool query_requests_set(struct query_requests *query, const char *name, const char *value,
                        struct error *error);

// GET /v1/keys.
struct query_keys {
    int limit;
    char starting_after[QUERY_TEXT_MOST], ending_before[QUERY_TEXT_MOST];
    int status;       // 0: active, 1: revoked, -1: any
    char project[64]; // "": any
};

void query_keys_init(struct query_keys *query);
// limit, starting_after, ending_before, status (active, revoked), project.
bool query_keys_set(struct query_keys *query, const char *name, const char *value, struct error *error);

// GET /v1/stats. "" means all; [project]: of this one's requests alone.
struct query_stats {
    char project[64], model[QUERY_TEXT_MOST * 2], provider[QUERY_TEXT_MOST], mode[QUERY_TEXT_MOST];
};
bool query_stats_set(struct query_stats *query, const char *name, const char *value, struct error *error);

// What takes no parameters: false, with the error.
bool query_nothing_set(const char *name, struct error *error);

// A request:
//   id, object "request", created_at (ISO 8601), model, executed_model, provider, modality "image", mode, endpoint,
//   status, http_status, cost, cost_micros, estimated_cost_micros, currency "usd", duration_ms, queue_ms, images,
//   size ("1024x1024" or null), key_id, project, error_code, error_message, session_id, trace_id, user,
//   request_size_bytes, response_size_bytes, usage, purged; for a single one also
//   attempts [{provider, model, status, dispatched_at, queue_ms, first_byte_ms, duration_ms, error_code, error_message,
//   cost, cost_micros, images}], media [{name, kind ("output",
//   "reference", "mask"), number}], payload (or null) and answer (JSON, or null; the base64 of a
//   picture that lies in media is {"media": name} there).
// A key:
//   id, object "key", name, last_four, created_at, status, project, projects, models, admin, priority, expires_at,
//   revoked_at,
//   limits {budget_day, budget_month, budget_total, requests_per_minute, images_per_day} (null: none),
//   usage {day, month, total: {spent, spent_micros, reserved_micros, images}}.
// Statistics:
//   object "statistics", window_days 30, computed_at, project (null: all of them), data [{model, provider, mode, requests, ok, failed, not_counted,
//   success_rate (percent, one decimal; null without any), generation_ms {p50, p95, mean}, first_byte_ms {p50, p95},
//   queue_ms {p50, p95}, images, cost, cost_micros}], fastest first; totals {requests, images, cost, cost_micros}.
// A balance:
//   object "balance", billing_type ("prepaid" with a budget, else "postpaid"), available {amount (USD or null), currency},
//   budgets [{period, limit, spent, reserved, available, resets_at}]; where a project is asked about also
//   project {id, month {spent, spent_micros}, recorded {spent, spent_micros}}: of the key's requests for it.

#endif
