// Records as JSON, read by a connection of its own. Relies on database.h, query.h. query.h says what stands in each.
#ifndef LIMN_STORE_LISTING_H
#define LIMN_STORE_LISTING_H

#include "store/database.h"
#include "store/query.h"

// Each returns NULL with an error: ERROR_NOT_FOUND for what is not there or not the caller's, also for a cursor that is
// none. [now]: microseconds since 1970 UTC. The caller decref's.
json_t *listing_request(struct database *database, const char *id, const struct query_scope *scope,
                        int64_t now, struct error *error);
json_t *listing_requests(struct database *database, const struct query_requests *query, struct error *error);
json_t *listing_keys(struct database *database, const struct query_keys *query, int64_t now,
                     struct error *error);
// A project in [scope] adds what was spent for it.
json_t *listing_balance(struct database *database, const char *key_id, const struct query_scope *scope,
                        int64_t now, struct error *error);

// Parts that statistics share: a text (NULL is null, bytes that are no UTF-8 become "?"), a time as ISO 8601 (0 is null), and
// micro-dollars as dollars.
json_t *listing_text(const char *text);
json_t *listing_time(int64_t micros);
json_t *listing_money(int64_t micros);

#endif
