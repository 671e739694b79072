// See usage.h.
#include "store/usage.h"

#include <stdio.h>
#include <time.h>

int64_t usage_start(enum usage_period period, int64_t now) {
    if (period == USAGE_TOTAL) return 0;
    int64_t day = now - now % DAY_MICROS;
    if (period == USAGE_DAY) return day;
    struct tm parts;
    time_t seconds = (time_t)(day / 1000000);
    gmtime_r(&seconds, &parts);
    return day - (parts.tm_mday - 1) * DAY_MICROS;
}

int64_t usage_next(enum usage_period period, int64_t now) {
    if (period == USAGE_TOTAL) return 0;
    if (period == USAGE_DAY) return usage_start(USAGE_DAY, now) + DAY_MICROS;
    // The 32nd day after a month's first is in the next month.
    return usage_start(USAGE_MONTH, usage_start(USAGE_MONTH, now) + 31 * DAY_MICROS);
}

bool usage_read(struct database *database, const char *key_id, int64_t now, struct usage_row rows[3],
                struct error *error) {
    for (int period = USAGE_DAY; period <= USAGE_TOTAL; period++) {
        rows[period] = (struct usage_row){0};
        sqlite3_stmt *row =
            database_query(database, error,
                           "SELECT spent, reserved, images, images_reserved FROM usage "
                           "WHERE key_id = ?1 AND period = ?2 AND start = ?3",
                           "sii", key_id, (int64_t)period, usage_start((enum usage_period)period, now));
        bool more;
        if (!database_next(database, row, &more, error)) return false;
        if (!more) continue;
        rows[period] = (struct usage_row){sqlite3_column_int64(row, 0), sqlite3_column_int64(row, 1),
                                          sqlite3_column_int64(row, 2), sqlite3_column_int64(row, 3)};
        database_end(row);
    }
    return true;
}

// Which limit [micros] or [images] more would break.
static enum usage_verdict judge(const struct key_info *key, const struct usage_row rows[3], int64_t now,
                                int64_t micros, int64_t images, char message[256], double *retry_seconds) {
    const int64_t limits[] = {key->budget_day_micros, key->budget_month_micros, key->budget_total_micros};
    static const char *const names[] = {"a day", "a month", "in all"};
    for (int period = USAGE_TOTAL; period >= USAGE_DAY; period--) { // what lasts longest is named
        const struct usage_row *row = &rows[period];
        if (!limits[period] || row->spent + row->reserved + micros <= limits[period]) continue;
        int64_t left = limits[period] - row->spent - row->reserved;
        snprintf(message, 256,
                 "This key's budget of $%.6g %s has $%.6g left (what runs is counted); this request needs up "
                 "to $%.6g",
                 (double)limits[period] * 1e-6, names[period], (double)(left > 0 ? left : 0) * 1e-6,
                 (double)micros * 1e-6);
        int64_t next = usage_next((enum usage_period)period, now);
        // A request that is dearer than the whole budget never fits.
        *retry_seconds = next && micros <= limits[period] ? (double)(next - now) * 1e-6 : 0;
        return USAGE_NO_MONEY;
    }
    const struct usage_row *day = &rows[USAGE_DAY];
    if (key->images_per_day && day->images + day->images_reserved + images > key->images_per_day) {
        int64_t left = key->images_per_day - day->images - day->images_reserved;
        snprintf(message, 256, "This key may make %lld images a day and has %lld left (what runs is counted)",
                 (long long)key->images_per_day, (long long)(left > 0 ? left : 0));
        bool ever = images <= key->images_per_day;
        *retry_seconds = ever ? (double)(usage_next(USAGE_DAY, now) - now) * 1e-6 : 0;
        return USAGE_NO_IMAGES;
    }
    return USAGE_FITS;
}

bool usage_reserve(struct database *database, const struct key_info *key, int64_t now, int64_t micros,
                   int64_t images, enum usage_verdict *verdict, char message[256], double *retry_seconds,
                   struct error *error) {
    struct usage_row rows[3];
    if (!usage_read(database, key->id, now, rows, error)) return false;
    *verdict = judge(key, rows, now, micros, images, message, retry_seconds);
    if (*verdict != USAGE_FITS) return true;
    for (int period = USAGE_DAY; period <= USAGE_TOTAL; period++)
        if (!database_run(database, error,
                          "INSERT INTO usage (key_id, period, start, reserved, images_reserved) VALUES "
                          "(?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET reserved = reserved + ?4, "
                          "images_reserved = images_reserved + ?5",
                          "siiii", key->id, (int64_t)period, usage_start((enum usage_period)period, now),
                          micros, images))
            return false;
    return true;
}

bool usage_settle(struct database *database, const char *key_id, int64_t time, int64_t reserved_micros,
                  int64_t reserved_images, int64_t micros, int64_t images, struct error *error) {
    for (int period = USAGE_DAY; period <= USAGE_TOTAL; period++)
        if (!database_run(
                database, error,
                "INSERT INTO usage (key_id, period, start, spent, images) VALUES (?1, ?2, ?3, ?6, ?7) "
                "ON CONFLICT DO UPDATE SET reserved = reserved - ?4, images_reserved = "
                "images_reserved - ?5, spent = spent + ?6, images = images + ?7",
                "siiiiii", key_id, (int64_t)period, usage_start((enum usage_period)period, time),
                reserved_micros, reserved_images, micros, images))
            return false;
    return true;
}
