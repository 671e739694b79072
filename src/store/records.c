// See records.h. Texts from outside are cut to what a record is for.
#include "store/records.h"
#include "store/usage.h"

#include <stdlib.h>
#include <string.h>

enum { TEXT_MOST = 256, MESSAGE_MOST = 1024 };

// [text] cut to [most] bytes at a character's end, in the arena; NULL stays NULL.
static const char *cut(struct arena *arena, const char *text, size_t most) {
    if (!text) return NULL;
    size_t length = strnlen(text, most + 1);
    if (length > most)
        for (length = most; length && ((unsigned char)text[length] & 0xc0) == 0x80;) length--;
    return arena_strndup(arena, text, length);
}

static void copy_column(sqlite3_stmt *row, int column, char *to, size_t capacity) {
    const char *text = (const char *)sqlite3_column_text(row, column);
    size_t length = text ? strnlen(text, capacity - 1) : 0;
    if (length) memcpy(to, text, length);
    to[length] = 0;
}

// --------------------------------------------------------------------------------------------------------------- keys

void key_from_row(sqlite3_stmt *row, struct key_record *record) {
    struct key_info *key = &record->info;
    *record = (struct key_record){0};
    copy_column(row, 0, key->id, sizeof key->id);
    if (sqlite3_column_bytes(row, 1) == KEY_HASH_BYTES)
        memcpy(record->hash, sqlite3_column_blob(row, 1), KEY_HASH_BYTES);
    copy_column(row, 2, key->name, sizeof key->name);
    copy_column(row, 3, key->last_four, sizeof key->last_four);
    copy_column(row, 4, key->project, sizeof key->project);
    copy_column(row, 5, key->projects, sizeof key->projects);
    copy_column(row, 6, key->models, sizeof key->models);
    key->admin = sqlite3_column_int(row, 7) != 0;
    key->budget_day_micros = sqlite3_column_int64(row, 8);
    key->budget_month_micros = sqlite3_column_int64(row, 9);
    key->budget_total_micros = sqlite3_column_int64(row, 10);
    key->requests_per_minute = sqlite3_column_int64(row, 11);
    key->images_per_day = sqlite3_column_int64(row, 12);
    key->created_at = sqlite3_column_int64(row, 13);
    key->expires_at = sqlite3_column_int64(row, 14);
    key->revoked_at = sqlite3_column_int64(row, 15);
    key->priority = sqlite3_column_int(row, 16);
}

bool record_key(struct database *database, const char *id, struct key_info *key, bool *found,
                struct error *error) {
    sqlite3_stmt *row =
        database_query(database, error, "SELECT " KEY_COLUMNS " FROM keys WHERE id = ?1", "s", id);
    if (!database_next(database, row, found, error)) return false;
    if (!*found) return true;
    struct key_record record;
    key_from_row(row, &record);
    *key = record.info;
    database_end(row);
    return true;
}

// -------------------------------------------------------------------------------------------------------- idempotency

bool record_answer(struct database *database, int64_t seq, int64_t now, struct store_answer *answer,
                   struct error *error) {
    *answer = (struct store_answer){0};
    sqlite3_stmt *row = database_query(
        database, error,
        "SELECT http_status, type, body, pictures FROM answers WHERE request = ?1 AND expires_at > ?2", "ii",
        seq, now);
    bool more;
    if (!database_next(database, row, &more, error)) return false;
    if (!more) return true;
    size_t size = (size_t)sqlite3_column_bytes(row, 2);
    const void *body = sqlite3_column_blob(row, 2);
    answer->http_status = sqlite3_column_int(row, 0);
    copy_column(row, 1, answer->type, sizeof answer->type);
    copy_column(row, 3, answer->pictures, sizeof answer->pictures);
    answer->body = malloc(size + 1);
    if (answer->body) {
        if (size) memcpy(answer->body, body, size);
        answer->body[size] = 0;
        answer->size = size;
    }
    database_end(row);
    return answer->body || error_set(error, ERROR_MEMORY, "no memory for an answer of %zu bytes", size);
}

// Whether the idempotency key is taken: then [begun] has the outcome. An earlier request that failed and whose answer is not kept
// does not hold it.
static bool look_up(struct database *database, const struct store_begin *begin, const char *project,
                    int64_t now, struct store_begun *begun, bool *taken, struct error *error) {
    *taken = false;
    sqlite3_stmt *row = database_query(
        database, error,
        "SELECT i.body_hash, i.request_id, r.seq, r.status FROM idempotency i JOIN requests r ON r.id = "
        "i.request_id WHERE i.project = ?1 AND i.key = ?2 AND i.expires_at > ?3",
        "ssi", project, begin->idempotency_key, now);
    bool more;
    if (!database_next(database, row, &more, error)) return false;
    if (!more) return true;
    bool same = sqlite3_column_bytes(row, 0) == sizeof begin->body_hash &&
                !memcmp(sqlite3_column_blob(row, 0), begin->body_hash, sizeof begin->body_hash);
    copy_column(row, 1, begun->request_id, sizeof begun->request_id);
    int64_t seq = sqlite3_column_int64(row, 2);
    int status = sqlite3_column_int(row, 3);
    database_end(row);
    *taken = true;
    if (!same) {
        begun->outcome = STORE_CONFLICT;
        snprintf(begun->message, sizeof begun->message,
                 "This Idempotency-Key was used with another body (request %s); use a fresh key",
                 begun->request_id);
        return true;
    }
    begun->outcome = status < STORE_COMPLETED ? STORE_ATTACH : STORE_REPLAY;
    if (begun->outcome == STORE_ATTACH) return true;
    if (!record_answer(database, seq, now, &begun->answer, error)) return false;
    *taken = begun->answer.body != NULL || status == STORE_COMPLETED;
    if (begun->answer.body || !*taken) return true;
    begun->outcome = STORE_CONFLICT; // it was charged: it must not run, and be charged, again
    snprintf(
        begun->message, sizeof begun->message,
        "This Idempotency-Key was used for request %s, whose answer is not kept (it was purged, or asked for "
        "with sync_mode); use a fresh key",
        begun->request_id);
    return true;
}

// -------------------------------------------------------------------------------------------------------------- begin

// Reads the caller's key; outcome STORE_NO_KEY or STORE_KEY_OVER when it is not good any more.
static bool check_key(struct database *database, const struct store_begin *begin, int64_t now,
                      struct key_info *key, struct store_begun *begun, struct error *error) {
    bool found;
    if (!record_key(database, begin->key_id, key, &found, error)) return false;
    bool over = found && key->expires_at && key->expires_at <= now;
    if (found && !key->revoked_at && !over) return true;
    begun->outcome = over ? STORE_KEY_OVER : STORE_NO_KEY;
    snprintf(begun->message, sizeof begun->message, over ? "This API key has expired" : "Invalid API key");
    return true;
}

static bool reserve(struct database *database, const struct store_begin *begin, const struct key_info *key,
                    int64_t now, struct store_begun *begun, struct error *error) {
    enum usage_verdict verdict;
    if (!usage_reserve(database, key, now, begin->estimate_micros, begin->images, &verdict, begun->message,
                       &begun->retry_seconds, error))
        return false;
    begun->outcome = verdict == USAGE_FITS       ? STORE_NEW
                     : verdict == USAGE_NO_MONEY ? STORE_NO_BUDGET
                                                 : STORE_NO_IMAGES;
    return true;
}

static bool insert(struct database *database, const struct record_rules *rules,
                   const struct store_begin *begin, const char *project, int64_t now, struct error *error) {
    struct arena arena = {0};
    bool keeps_payload = rules->keep_payloads && begin->payload;
    int64_t keep = (begin->asynchronous ? KEEP_ASYNCHRONOUS : 0) |
                   (begin->idempotency_key ? KEEP_IDEMPOTENT : 0) | (keeps_payload ? KEEP_PAYLOAD : 0);
    bool good = database_run(
        database, error,
        "INSERT INTO requests (id, project, key_id, model, mode, endpoint, provider, user, session_id, "
        "trace_id, "
        "status, created_at, request_bytes, images_asked, estimate_micros, slot, reserved_micros, "
        "reserved_images, keep, idempotency_key) VALUES "
        "(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20)",
        "ssssssssssiiiiiiiiis", begin->id, project, begin->key_id, cut(&arena, begin->model, TEXT_MOST),
        begin->mode, cut(&arena, begin->endpoint, TEXT_MOST), begin->provider,
        cut(&arena, begin->user, TEXT_MOST), cut(&arena, begin->session_id, TEXT_MOST),
        cut(&arena, begin->trace_id, TEXT_MOST), (int64_t)STORE_PENDING, now, begin->request_bytes,
        (int64_t)begin->images, begin->estimate_micros, (int64_t)rules->slot,
        begin->key_id ? begin->estimate_micros : (int64_t)0,
        begin->key_id ? (int64_t)begin->images : (int64_t)0, keep, begin->idempotency_key);
    arena_free(&arena);
    if (good && keeps_payload) {
        int64_t until = rules->payload_micros ? now + rules->payload_micros : INT64_MAX;
        good = database_run(database, error,
                            "INSERT INTO payloads VALUES ((SELECT seq FROM requests WHERE id = ?1), ?2, ?3)",
                            "ssi", begin->id, begin->payload, until);
    }
    return good;
}

bool record_begin(struct database *database, const struct record_rules *rules,
                  const struct store_begin *begin, int64_t now, struct store_begun *begun,
                  struct error *error) {
    const char *project = begin->project && *begin->project ? begin->project : "default";
    struct key_info key;
    *begun = (struct store_begun){.outcome = STORE_NEW};
    if (begin->key_id && !check_key(database, begin, now, &key, begun, error)) return false;
    if (begun->outcome != STORE_NEW) return true;
    if (begin->idempotency_key) {
        bool taken;
        if (!look_up(database, begin, project, now, begun, &taken, error)) return false;
        if (taken) return true;
        *begun = (struct store_begun){.outcome = STORE_NEW};
    }
    if (begin->key_id && !reserve(database, begin, &key, now, begun, error)) return false;
    if (begun->outcome != STORE_NEW) return true;
    if (!insert(database, rules, begin, project, now, error)) return false;
    if (strcmp(project, "default") &&
        !database_run(database, error, "INSERT OR IGNORE INTO projects VALUES (?1, ?2)", "si", project, now))
        return false;
    return !begin->idempotency_key ||
           database_run(database, error, "INSERT OR REPLACE INTO idempotency VALUES (?1, ?2, ?3, ?4, ?5)",
                        "ssbsi", project, begin->idempotency_key, begin->body_hash, sizeof begin->body_hash,
                        begin->id, now + rules->answer_micros);
}

bool record_reject(struct database *database, const struct record_rules *rules,
                   const struct store_begin *begin, int http_status, const char *error_code,
                   const char *error_message, int64_t now, struct error *error) {
    struct arena arena = {0};
    struct store_begin plain = *begin;
    plain.payload = plain.idempotency_key = NULL;
    plain.asynchronous = false;
    const char *project = begin->project && *begin->project ? begin->project : "default";
    bool good =
        insert(database, rules, &plain, project, now, error) &&
        database_run(database, error,
                     "UPDATE requests SET status = ?2, http_status = ?3, error_code = ?4, error_message "
                     "= ?5, ended_at = ?6, reserved_micros = 0, reserved_images = 0 WHERE id = ?1",
                     "siissi", begin->id, (int64_t)(http_status < 500 ? STORE_REJECTED : STORE_FAILED),
                     (int64_t)http_status, error_code, cut(&arena, error_message, MESSAGE_MOST), now);
    arena_free(&arena);
    return good;
}

// ------------------------------------------------------------------------------------------------- dispatch, settle

static bool put_attempt(struct database *database, int64_t seq, int number,
                        const struct store_attempt *attempt, struct error *error) {
    struct arena arena = {0};
    bool good = database_run(
        database, error,
        "INSERT OR REPLACE INTO attempts VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13)",
        "iissiiiiissii", seq, (int64_t)number, attempt->provider ? attempt->provider : "",
        attempt->provider_model, (int64_t)attempt->status, attempt->queued_at, attempt->dispatched_at,
        attempt->first_byte_at, attempt->ended_at, attempt->error_code,
        cut(&arena, attempt->error_message, MESSAGE_MOST), attempt->cost_micros, (int64_t)attempt->images);
    arena_free(&arena);
    return good;
}

bool record_dispatched(struct database *database, const char *id, int number,
                       const struct store_attempt *attempt, struct error *error) {
    int64_t seq;
    if (!database_integer(database, error, 0, &seq, "SELECT seq FROM requests WHERE id = ?1 AND status < 2",
                          "s", id))
        return false;
    if (!seq) return error_set(error, ERROR_NOT_FOUND, "request %.80s is not in work", id);
    struct store_attempt open = *attempt;
    open.status = STORE_PROCESSING;
    open.ended_at = 0;
    return database_run(
               database, error,
               "UPDATE requests SET status = 1, provider = ?2, dispatched_at = CASE dispatched_at WHEN 0 "
               "THEN ?3 ELSE dispatched_at END WHERE seq = ?1",
               "isi", seq, attempt->provider, attempt->dispatched_at) &&
           put_attempt(database, seq, number, &open, error);
}

struct settled_row { // what a request was when it is settled
    int64_t seq, created_at, dispatched_at, reserved_micros, reserved_images, keep;
    int status;
    char key_id[KEY_ID_MOST];
};

static bool find_row(struct database *database, const char *id, struct settled_row *found,
                     struct error *error) {
    sqlite3_stmt *row = database_query(
        database, error,
        "SELECT seq, created_at, dispatched_at, reserved_micros, reserved_images, keep, status, key_id FROM "
        "requests WHERE id = ?1",
        "s", id);
    bool more;
    if (!database_next(database, row, &more, error)) return false;
    if (!more) return error_set(error, ERROR_NOT_FOUND, "there is no request %.80s", id);
    *found = (struct settled_row){sqlite3_column_int64(row, 0), sqlite3_column_int64(row, 1),
                                  sqlite3_column_int64(row, 2), sqlite3_column_int64(row, 3),
                                  sqlite3_column_int64(row, 4), sqlite3_column_int64(row, 5),
                                  sqlite3_column_int(row, 6),   ""};
    copy_column(row, 7, found->key_id, sizeof found->key_id);
    database_end(row);
    return true;
}

static bool settle_row(struct database *database, const struct settled_row *row,
                       const struct store_settle *settle, int64_t now, struct error *error) {
    struct arena arena = {0};
    int64_t dispatched = row->dispatched_at;
    for (int i = 0; i < settle->attempt_count && !dispatched; i++)
        dispatched = settle->attempts[i].dispatched_at;
    bool good = database_run(
        database, error,
        "UPDATE requests SET status = ?2, http_status = ?3, error_code = ?4, error_message = ?5, "
        "executed_model = "
        "?6, provider = coalesce(?7, provider), ended_at = ?8, response_bytes = ?9, images = ?10, width = "
        "?11, "
        "height = ?12, input_pixels = ?13, output_pixels = ?14, text_tokens = ?15, input_tokens = ?16, "
        "output_tokens = ?17, cost_micros = ?18, dispatched_at = ?19, reserved_micros = 0, reserved_images = "
        "0 "
        "WHERE seq = ?1",
        "iiissssiiiiiiiiiiii", row->seq, (int64_t)settle->status, (int64_t)settle->http_status,
        settle->error_code, cut(&arena, settle->error_message, MESSAGE_MOST), settle->executed_model,
        settle->provider, now, settle->response_bytes, (int64_t)settle->images, (int64_t)settle->width,
        (int64_t)settle->height, settle->input_pixels, settle->output_pixels, settle->text_tokens,
        settle->input_tokens, settle->output_tokens, settle->cost_micros, dispatched);
    arena_free(&arena);
    return good;
}

// The attempts as the settling gives them; where it gives none, what is still open ends as the request does.
static bool settle_attempts(struct database *database, const struct settled_row *row,
                            const struct store_settle *settle, int64_t now, struct error *error) {
    if (!settle->attempt_count)
        return !row->dispatched_at ||
               database_run(
                   database, error,
                   "UPDATE attempts SET status = ?2, error_code = ?3, ended_at = ?4 WHERE request = ?1 "
                   "AND ended_at = 0",
                   "iisi", row->seq, (int64_t)settle->status, settle->error_code, now);
    if (row->dispatched_at &&
        !database_run(database, error, "DELETE FROM attempts WHERE request = ?1", "i", row->seq))
        return false;
    for (int i = 0; i < settle->attempt_count; i++)
        if (!put_attempt(database, row->seq, i, &settle->attempts[i], error)) return false;
    return true;
}

static bool settle_answer(struct database *database, const struct record_rules *rules,
                          const struct settled_row *row, const struct store_settle *settle, int64_t now,
                          struct error *error) {
    int64_t until = now + rules->answer_micros;
    if (row->keep & KEEP_PAYLOAD) {
        int64_t payload = rules->payload_micros ? now + rules->payload_micros : INT64_MAX;
        if (payload > until || row->keep == KEEP_PAYLOAD) until = payload;
    }
    if (settle->answer && row->keep &&
        !database_run(database, error, "INSERT OR REPLACE INTO answers VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                      "iisbis", row->seq, (int64_t)settle->http_status,
                      settle->answer_type ? settle->answer_type : "application/json", settle->answer,
                      settle->answer_size, until, settle->answer_pictures ? settle->answer_pictures : ""))
        return false;
    // Nothing was charged, and there is nothing to replay: the next call with this key runs.
    return settle->answer || settle->status == STORE_COMPLETED || !(row->keep & KEEP_IDEMPOTENT) ||
           database_run(database, error,
                        "DELETE FROM idempotency WHERE request_id = ?2 AND (project, key) = "
                        "(SELECT project, idempotency_key FROM requests WHERE seq = ?1)",
                        "is", row->seq, settle->id);
}

bool record_settle(struct database *database, const struct record_rules *rules,
                   const struct store_settle *settle, int64_t now, bool *changed, struct error *error) {
    struct settled_row row;
    *changed = false;
    if (!find_row(database, settle->id, &row, error)) return false;
    if (row.status >= STORE_COMPLETED) return true;
    if (!settle_row(database, &row, settle, now, error) ||
        !settle_attempts(database, &row, settle, now, error) ||
        !settle_answer(database, rules, &row, settle, now, error))
        return false;
    if (*row.key_id && !usage_settle(database, row.key_id, row.created_at, row.reserved_micros,
                                     row.reserved_images, settle->cost_micros, settle->images, error))
        return false;
    for (int i = 0; i < settle->media_count; i++)
        if (!database_run(
                database, error,
                "INSERT OR REPLACE INTO media (name, request, kind, number) VALUES (?1, ?2, ?3, ?4)", "siii",
                settle->media[i].name, row.seq, (int64_t)settle->media[i].kind,
                (int64_t)settle->media[i].number))
            return false;
    return *changed = true;
}

// -------------------------------------------------------------------------------------------------------------- purge

static bool collect_media(struct database *database, int64_t seq, struct arena *arena,
                          struct store_purged *purged, struct error *error) {
    int64_t count;
    if (!database_integer(database, error, 0, &count, "SELECT count(*) FROM media WHERE request = ?1", "i",
                          seq))
        return false;
    purged->media = arena_alloc(arena, (size_t)count * sizeof *purged->media);
    sqlite3_stmt *row =
        database_query(database, error, "SELECT name FROM media WHERE request = ?1 ORDER BY name", "i", seq);
    bool more = true;
    while (database_next(database, row, &more, error) && more) {
        char *name = purged->media && purged->media_count < count
                         ? arena_strdup(arena, (const char *)sqlite3_column_text(row, 0))
                         : NULL;
        if (name) purged->media[purged->media_count++] = name;
    }
    if (more) return false;
    return purged->media_count == count || error_set(error, ERROR_MEMORY, "no memory for names of media");
}

bool record_purge(struct database *database, const char *id, const struct query_scope *scope, int64_t now,
                  struct arena *arena, struct store_purged *purged, struct error *error) {
    sqlite3_stmt *row = database_query(
        database, error,
        "SELECT seq, status, purged_at FROM requests WHERE id = ?1 AND (?2 = '' OR project = ?2) AND "
        "(?3 = '' OR key_id = ?3)",
        "sss", id, scope->project, scope->key_id);
    bool more;
    if (!database_next(database, row, &more, error)) return false;
    if (!more) return error_set(error, ERROR_NOT_FOUND, "there is no request %.80s", id);
    int64_t seq = sqlite3_column_int64(row, 0);
    int status = sqlite3_column_int(row, 1);
    purged->already = sqlite3_column_int64(row, 2) != 0;
    database_end(row);
    if (status < STORE_COMPLETED)
        return error_set(error, ERROR_INPUT, "request %.80s still runs; cancel it first", id);
    if (purged->already) return true;
    return collect_media(database, seq, arena, purged, error) &&
           database_run(database, error, "DELETE FROM media WHERE request = ?1", "i", seq) &&
           database_run(database, error, "DELETE FROM payloads WHERE request = ?1", "i", seq) &&
           database_run(database, error, "DELETE FROM answers WHERE request = ?1", "i", seq) &&
           database_run(database, error, "UPDATE attempts SET error_message = NULL WHERE request = ?1", "i",
                        seq) &&
           database_run(database, error,
                        "UPDATE requests SET purged_at = ?2, error_message = NULL WHERE seq = ?1", "ii", seq,
                        now);
}

// ------------------------------------------------------------------------------------------------------------- upkeep

bool record_interrupt(struct database *database, const struct record_rules *rules, int slot, int64_t before,
                      int64_t now, int most, int64_t *from, int *count, struct error *error) {
    *count = 0;
    while (*count < most) {
        sqlite3_stmt *row =
            database_query(database, error,
                           "SELECT id, seq FROM requests WHERE slot = ?1 AND created_at < ?2 AND "
                           "status < 2 AND seq >= max(?3, " SETTLED_BELOW ") ORDER BY seq LIMIT 1",
                           "iii", (int64_t)slot, before, *from);
        bool more, changed;
        if (!database_next(database, row, &more, error)) return false;
        if (!more) return true;
        char id[STORE_ID_MOST];
        copy_column(row, 0, id, sizeof id);
        *from = sqlite3_column_int64(row, 1) + 1;
        database_end(row);
        struct store_settle settle = {
            .id = id,
            .status = STORE_FAILED,
            .http_status = 503,
            .error_code = "INTERRUPTED",
            .error_message = "The server ended while this request was in work; nothing was charged"};
        if (!record_settle(database, rules, &settle, now, &changed, error)) return false;
        ++*count;
    }
    return true;
}

bool record_mark(struct database *database, struct error *error) {
    // A mark beyond the end is of rows that somebody removed by hand: all are looked at again.
    return database_run(
        database, error,
        "UPDATE meta SET value = CASE WHEN value > (SELECT coalesce(max(seq), 0) + 1 FROM "
        "requests) THEN 0 ELSE coalesce((SELECT min(seq) FROM requests WHERE seq >= meta.value "
        "AND status < 2), (SELECT max(seq) + 1 FROM requests), 0) END WHERE name = "
        "'settled_below'",
        "");
}

bool record_expire(struct database *database, int64_t before, int64_t now, int most, int *count,
                   struct error *error) {
    int64_t limit = most;
    *count = 0;
    if (before > 0) {
        if (!database_run(
                database, error,
                "DELETE FROM requests WHERE seq IN (SELECT seq FROM requests WHERE created_at < ?1 AND "
                "status >= 2 ORDER BY created_at LIMIT ?2)",
                "ii", before, limit))
            return false;
        *count += (int)database_changes(database);
    }
    static const char *const expiring[] = {
        "DELETE FROM answers WHERE request IN (SELECT request FROM answers WHERE expires_at <= ?1 LIMIT ?2)",
        "DELETE FROM payloads WHERE request IN (SELECT request FROM payloads WHERE expires_at <= ?1 LIMIT "
        "?2)",
        "DELETE FROM idempotency WHERE (project, key) IN (SELECT project, key FROM idempotency WHERE "
        "expires_at "
        "<= ?1 LIMIT ?2)"};
    for (size_t i = 0; i < sizeof expiring / sizeof *expiring; i++) {
        if (!database_run(database, error, expiring[i], "ii", now, limit)) return false;
        *count += (int)database_changes(database);
    }
    return true;
}
