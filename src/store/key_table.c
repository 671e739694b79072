// See key_table.h.
#include "store/key_table.h"
#include "store/records.h"

#include <string.h>

static bool insert(struct database *database, const struct key_info *key, const uint8_t hash[KEY_HASH_BYTES],
                   struct error *error) {
    int64_t same;
    if (!database_integer(database, error, 0, &same, "SELECT 1 FROM keys WHERE name = ?1 AND revoked_at = 0",
                          "s", key->name))
        return false;
    if (same)
        return error_set_field(error, ERROR_INPUT, "name",
                               "there is a key named \"%s\" already; revoke it first", key->name);
    return database_run(database, error, "INSERT OR IGNORE INTO projects VALUES (?1, ?2)", "si", key->project,
                        key->created_at) &&
           database_run(
               database, error,
               "INSERT INTO keys (id, hash, name, last_four, project, projects, models, admin, budget_day, "
               "budget_month, budget_total, requests_per_minute, images_per_day, created_at, expires_at, "
               "priority) "
               "VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16)",
               "sbsssssiiiiiiiii", key->id, hash, (size_t)KEY_HASH_BYTES, key->name, key->last_four,
               key->project, key->projects, key->models, (int64_t)key->admin, key->budget_day_micros,
               key->budget_month_micros, key->budget_total_micros, key->requests_per_minute,
               key->images_per_day, key->created_at, key->expires_at, (int64_t)key->priority);
}

bool key_create(struct database *database, struct key_info *key, int64_t now, char text[KEY_TEXT_MOST],
                struct error *error) {
    uint8_t hash[KEY_HASH_BYTES];
    if (!*key->project) memcpy(key->project, "default", sizeof "default");
    key->created_at = now;
    key->revoked_at = 0;
    if (!key_check_fields(key, error) || !key_make(text, key->id, key->last_four, hash, error)) return false;
    if (!database_run(database, error, "BEGIN IMMEDIATE", "")) return false;
    if (insert(database, key, hash, error) && database_run(database, error, "COMMIT", "")) return true;
    database_rollback(database);
    return false;
}

bool key_revoke(struct database *database, const char *which, int64_t now, struct key_info *key,
                bool *already, struct error *error) {
    sqlite3_stmt *row = database_query(
        database, error,
        "SELECT " KEY_COLUMNS " FROM keys WHERE id = ?1 OR (name = ?1 AND revoked_at = 0) ORDER BY id != ?1 "
        "LIMIT 1",
        "s", which);
    bool more;
    if (!database_next(database, row, &more, error)) return false;
    if (!more)
        return error_set(error, ERROR_NOT_FOUND, "there is no key with the id or name \"%.100s\"", which);
    struct key_record record;
    key_from_row(row, &record);
    database_end(row);
    *key = record.info;
    *already = key->revoked_at != 0;
    if (*already) return true;
    key->revoked_at = now;
    return database_run(database, error, "UPDATE keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at = 0",
                        "si", key->id, now);
}
