// The tables, in the order in which they came to be; docs/records.md says what stands in them. Times are microseconds since
// 1970 UTC, money micro-dollars; 0 is "not" or "none" in both. Relies on migrations.h.
#include "store/migrations.h"

// 1: who asks, what was asked, and each try at it. requests.seq is the order of coming: newer is larger.
static const char RECORDS[] =
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO meta VALUES ('keys_version', 1);"
    "CREATE TABLE projects (id TEXT PRIMARY KEY, created_at INTEGER NOT NULL) WITHOUT ROWID;"
    "INSERT INTO projects VALUES ('default', 0);"
    "CREATE TABLE keys ("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, hash BLOB NOT NULL, name TEXT NOT NULL,"
    " last_four TEXT NOT NULL, project TEXT NOT NULL REFERENCES projects(id), projects TEXT NOT NULL,"
    " models TEXT NOT NULL, admin INTEGER NOT NULL, budget_day INTEGER NOT NULL, budget_month INTEGER NOT "
    "NULL,"
    " budget_total INTEGER NOT NULL, requests_per_minute INTEGER NOT NULL, images_per_day INTEGER NOT NULL,"
    " created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, revoked_at INTEGER NOT NULL DEFAULT 0);"
    "CREATE UNIQUE INDEX keys_name ON keys (name) WHERE revoked_at = 0;"
    // Whoever changes a key, servers that run see it by this number.
    "CREATE TRIGGER keys_inserted AFTER INSERT ON keys BEGIN"
    " UPDATE meta SET value = value + 1 WHERE name = 'keys_version'; END;"
    "CREATE TRIGGER keys_updated AFTER UPDATE ON keys BEGIN"
    " UPDATE meta SET value = value + 1 WHERE name = 'keys_version'; END;"
    "CREATE TRIGGER keys_deleted AFTER DELETE ON keys BEGIN"
    " UPDATE meta SET value = value + 1 WHERE name = 'keys_version'; END;"
    "CREATE TABLE requests ("
    " seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, project TEXT NOT NULL, key_id TEXT, model TEXT NOT "
    "NULL,"
    " mode TEXT NOT NULL, endpoint TEXT NOT NULL, provider TEXT, executed_model TEXT, user TEXT, session_id "
    "TEXT,"
    " trace_id TEXT, status INTEGER NOT NULL, http_status INTEGER NOT NULL DEFAULT 0, error_code TEXT,"
    " error_message TEXT, created_at INTEGER NOT NULL, dispatched_at INTEGER NOT NULL DEFAULT 0,"
    " ended_at INTEGER NOT NULL DEFAULT 0, request_bytes INTEGER NOT NULL,"
    " response_bytes INTEGER NOT NULL DEFAULT 0, images_asked INTEGER NOT NULL,"
    " images INTEGER NOT NULL DEFAULT 0, width INTEGER NOT NULL DEFAULT 0, height INTEGER NOT NULL DEFAULT 0,"
    " input_pixels INTEGER NOT NULL DEFAULT 0, output_pixels INTEGER NOT NULL DEFAULT 0,"
    " text_tokens INTEGER NOT NULL DEFAULT 0, input_tokens INTEGER NOT NULL DEFAULT 0,"
    " output_tokens INTEGER NOT NULL DEFAULT 0, estimate_micros INTEGER NOT NULL,"
    " cost_micros INTEGER NOT NULL DEFAULT 0, slot INTEGER NOT NULL);"
    "CREATE INDEX requests_open ON requests (slot) WHERE status < 2;"
    "CREATE INDEX requests_created ON requests (created_at);"
    "CREATE INDEX requests_key ON requests (key_id, seq);"
    "CREATE TABLE attempts ("
    " request INTEGER NOT NULL REFERENCES requests(seq) ON DELETE CASCADE, number INTEGER NOT NULL,"
    " provider TEXT NOT NULL, provider_model TEXT, status INTEGER NOT NULL, queued_at INTEGER NOT NULL,"
    " dispatched_at INTEGER NOT NULL, first_byte_at INTEGER NOT NULL, ended_at INTEGER NOT NULL,"
    " error_code TEXT, error_message TEXT, cost_micros INTEGER NOT NULL, images INTEGER NOT NULL,"
    " PRIMARY KEY (request, number)) WITHOUT ROWID;";

// 2: budgets. A row for each key and each day, month (start: their first microsecond) and in all (start 0).
static const char BUDGETS[] =
    "CREATE TABLE usage ("
    " key_id TEXT NOT NULL, period INTEGER NOT NULL, start INTEGER NOT NULL, spent INTEGER NOT NULL DEFAULT "
    "0,"
    " reserved INTEGER NOT NULL DEFAULT 0, images INTEGER NOT NULL DEFAULT 0,"
    " images_reserved INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (key_id, period, start)) WITHOUT ROWID;"
    "ALTER TABLE requests ADD COLUMN reserved_micros INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE requests ADD COLUMN reserved_images INTEGER NOT NULL DEFAULT 0;"
    // What was spent before there were budgets counts too.
    "INSERT INTO usage (key_id, period, start, spent, images)"
    " SELECT key_id, 2, 0, sum(cost_micros), sum(images) FROM requests WHERE key_id IS NOT NULL GROUP BY "
    "key_id;";

// 3: what outlives an answer: idempotency keys, kept answers, payloads, and which file belongs to whom. requests.keep: 1 is
// asynchronous, 2 has an idempotency key, 4 may keep its payload.
static const char ANSWERS[] =
    "ALTER TABLE requests ADD COLUMN keep INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE requests ADD COLUMN idempotency_key TEXT;"
    "ALTER TABLE requests ADD COLUMN purged_at INTEGER NOT NULL DEFAULT 0;"
    "CREATE TABLE idempotency ("
    " project TEXT NOT NULL, key TEXT NOT NULL, body_hash BLOB NOT NULL, request_id TEXT NOT NULL,"
    " expires_at INTEGER NOT NULL, PRIMARY KEY (project, key)) WITHOUT ROWID;"
    "CREATE INDEX idempotency_expires ON idempotency (expires_at);"
    "CREATE TABLE answers ("
    " request INTEGER PRIMARY KEY REFERENCES requests(seq) ON DELETE CASCADE, http_status INTEGER NOT NULL,"
    " type TEXT NOT NULL, body BLOB NOT NULL, expires_at INTEGER NOT NULL);"
    "CREATE INDEX answers_expires ON answers (expires_at);"
    "CREATE TABLE payloads ("
    " request INTEGER PRIMARY KEY REFERENCES requests(seq) ON DELETE CASCADE, body TEXT NOT NULL,"
    " expires_at INTEGER NOT NULL);"
    "CREATE INDEX payloads_expires ON payloads (expires_at);"
    "CREATE TABLE media ("
    " name TEXT PRIMARY KEY, request INTEGER NOT NULL REFERENCES requests(seq) ON DELETE CASCADE) WITHOUT "
    "ROWID;"
    "CREATE INDEX media_request ON media (request);";

// 4: whose requests go first: -1 low, 0 normal, 1 high.
static const char PRIORITIES[] = "ALTER TABLE keys ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;";

// 5: kept answers leave out their pictures, which lie in media: where each belongs, "<offset> <name>" a line.
static const char PICTURES[] = "ALTER TABLE answers ADD COLUMN pictures TEXT NOT NULL DEFAULT '';";

// 6: pictures that came in are kept, too: kind is 0 for a delivered one, 1 a reference, 2 a mask.
static const char MEDIA_KINDS[] = "ALTER TABLE media ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;"
                                  "ALTER TABLE media ADD COLUMN number INTEGER NOT NULL DEFAULT 0;";

// 7: less to write a request. What is open is found from a mark instead of through an index that each request enters and leaves:
// every row below meta's settled_below has ended. Requests without a key are not listed by key.
static const char MARK[] =
    "INSERT INTO meta SELECT 'settled_below', coalesce((SELECT min(seq) FROM requests WHERE status < 2),"
    " (SELECT max(seq) + 1 FROM requests), 0);"
    "DROP INDEX requests_open;"
    "DROP INDEX requests_key;"
    "CREATE INDEX requests_key ON requests (key_id, seq) WHERE key_id IS NOT NULL;";

const char *const MIGRATIONS[] = {RECORDS, BUDGETS, ANSWERS, PRIORITIES, PICTURES, MEDIA_KINDS, MARK};
