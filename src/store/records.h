// The operations on records, each run by the writing thread inside a transaction. Relies on database.h, store.h.
//
// A function returns false with an error when the database refused or, ERROR_NOT_FOUND or ERROR_INPUT, when the operation
// itself cannot be; whoever calls takes back what was written by it (a savepoint).
#ifndef LIMN_STORE_RECORDS_H
#define LIMN_STORE_RECORDS_H

#include "base/arena.h"
#include "store/database.h"
#include "store/store.h"

struct record_rules {
    int slot; // of this server
    bool keep_payloads;
    int64_t answer_micros;  // how long
    int64_t payload_micros; // how long; 0: as long as the record
};

// requests.keep
enum { KEEP_ASYNCHRONOUS = 1, KEEP_IDEMPOTENT = 2, KEEP_PAYLOAD = 4 };

// [now]: microseconds since 1970 UTC. [begun] is filled but for error; an answer's body is from malloc.
bool record_begin(struct database *database, const struct record_rules *rules,
                  const struct store_begin *begin, int64_t now, struct store_begun *begun,
                  struct error *error);
bool record_dispatched(struct database *database, const char *id, int number,
                       const struct store_attempt *attempt, struct error *error);
bool record_settle(struct database *database, const struct record_rules *rules,
                   const struct store_settle *settle, int64_t now, bool *changed, struct error *error);
bool record_reject(struct database *database, const struct record_rules *rules,
                   const struct store_begin *begin, int http_status, const char *error_code,
                   const char *error_message, int64_t now, struct error *error);
// Names of media go into [arena].
bool record_purge(struct database *database, const char *id, const struct query_scope *scope, int64_t now,
                  struct arena *arena, struct store_purged *purged, struct error *error);

// The kept answer of the request in row [seq]; body NULL when there is none.
bool record_answer(struct database *database, int64_t seq, int64_t now, struct store_answer *answer,
                   struct error *error);

// The mark, of a query: rows of requests with a smaller seq have all ended.
#define SETTLED_BELOW "(SELECT value FROM meta WHERE name = 'settled_below')"

// Ends at most [most] requests of [slot] that came before [before] as interrupted; *count is how many there were. *from: the row
// to begin at, 0 at first; then where the next call goes on.
bool record_interrupt(struct database *database, const struct record_rules *rules, int slot, int64_t before,
                      int64_t now, int most, int64_t *from, int *count, struct error *error);

// Moves the mark up to the first row that is in work. Reads all rows from the mark on; to be called now and then, and in every
// transaction that removes requests: where none are left, their numbers begin anew.
bool record_mark(struct database *database, struct error *error);

// Removes at most [most] requests that came before [before] and have ended, and what is past its time elsewhere; *count is
// how many rows went.
bool record_expire(struct database *database, int64_t before, int64_t now, int most, int *count,
                   struct error *error);

// Reads a key's row; *found false: there is none of that id.
bool record_key(struct database *database, const char *id, struct key_info *key, bool *found,
                struct error *error);

// The columns that key_from_row reads, in its order.
#define KEY_COLUMNS                                                                                          \
    "id, hash, name, last_four, project, projects, models, admin, budget_day, budget_month, budget_total, "  \
    "requests_per_minute, images_per_day, created_at, expires_at, revoked_at, priority"
void key_from_row(sqlite3_stmt *row, struct key_record *record);

#endif
