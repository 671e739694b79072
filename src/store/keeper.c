// The keeper thread: notices changes of keys, copies the write-ahead log into the database, and says when old records are to
// go. None of it is in anybody's way: it has a connection of its own. Relies on store_inside.h.
#include "base/clock.h"
#include "store/store_inside.h"

#include <stdlib.h>
#include <time.h>

// While the log is synced, whoever appends to it waits for its last page. So checkpoints are rare: of these pages of 4 KiB the
// log has at least SOME, and then one every PAUSE seconds, or every second from MOST on (64 MiB).
enum {
    KEEP_MILLISECONDS = 250,
    LOG_FRAMES_SOME = 1000,
    LOG_FRAMES_MOST = 16384,
    LOG_PAUSE_SECONDS = 5,
    UPKEEP_SECONDS = 60,
};

bool store_load_keys(struct store *store, struct database *database, struct error *error) {
    int64_t version, count;
    if (!database_integer(database, error, 0, &version, "SELECT value FROM meta WHERE name = 'keys_version'",
                          ""))
        return false;
    if (version == store->keys_version) return true;
    if (!database_run(database, error, "BEGIN", "")) return false;
    bool good = database_integer(database, error, 0, &version,
                                 "SELECT value FROM meta WHERE name = 'keys_version'", "") &&
                database_integer(database, error, 0, &count, "SELECT count(*) FROM keys", "");
    struct key_record *records = good && count ? calloc((size_t)count, sizeof *records) : NULL;
    if (good && count && !records)
        good = error_set(error, ERROR_MEMORY, "no memory for %lld keys", (long long)count);
    int64_t got = 0;
    sqlite3_stmt *row = good ? database_query(database, error, "SELECT " KEY_COLUMNS " FROM keys", "") : NULL;
    bool more = good;
    while (good && (good = database_next(database, row, &more, error)) && more && got < count)
        key_from_row(row, &records[got++]);
    if (good && more) database_end(row);
    database_run(database, NULL, "COMMIT", "");
    if (!good) {
        free(records);
        return false;
    }
    keys_replace(store->keys, records, (size_t)got);
    store->keys_version = version;
    return true;
}

static void check_point(struct store *store, struct database *database, double *next) {
    int log = atomic_load(&store->log_frames);
    double now = clock_seconds();
    bool most = log >= LOG_FRAMES_MOST;
    if (log < LOG_FRAMES_SOME || now < *next - (most ? LOG_PAUSE_SECONDS - 1 : 0)) return;
    *next = now + LOG_PAUSE_SECONDS;
    int frames = 0, copied = 0;
    if (sqlite3_wal_checkpoint_v2(database->handle, NULL, SQLITE_CHECKPOINT_PASSIVE, &frames, &copied) !=
        SQLITE_OK)
        return;
    if (frames == copied) atomic_store(&store->log_frames, 0); // the next commit says where it stands
    if (frames < LOG_FRAMES_MOST) return;
    // Commits came in between, so the log does not begin anew by itself: the writer sees to the few pages that are left.
    pthread_mutex_lock(&store->lock);
    store->log_too_long = true;
    pthread_cond_signal(&store->write_wake);
    pthread_mutex_unlock(&store->lock);
}

static void wait_a_little(struct store *store) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += KEEP_MILLISECONDS * 1000000L;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_cond_timedwait(&store->keep_wake, &store->lock, &until);
}

void *store_keeper(void *context) {
    struct store *store = context;
    double upkeep_at = clock_seconds(), checkpoint_at = 0;
    pthread_mutex_lock(&store->lock);
    while (!store->stopping) {
        double now = clock_seconds();
        if (now >= upkeep_at) {
            upkeep_at = now + UPKEEP_SECONDS;
            store->upkeep_due = true;
            pthread_cond_signal(&store->write_wake);
        }
        pthread_mutex_unlock(&store->lock);
        struct error error = {0};
        if (line_ready(store, &store->keep_line, DATABASE_READ_ONLY, &error)) {
            struct database *database = store->keep_line.database;
            database->last_code = 0;
            if (store->keys_opening != store->keep_line.openings)
                store->keys_version = -1; // maybe another file
            store->keys_opening = store->keep_line.openings;
            if (!store_load_keys(store, database, &error)) line_failed(store, &store->keep_line, &error);
            if (store->keep_line.database) check_point(store, store->keep_line.database, &checkpoint_at);
        }
        pthread_mutex_lock(&store->lock);
        wait_a_little(store);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}
