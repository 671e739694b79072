// See database.h.
#include "store/database.h"
#include "base/file.h"
#include "store/migrations.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define APPLICATION_ID 0x4c494d4e // "LIMN", in the file's header

// ------------------------------------------------------------------------------------------------------------- errors

bool database_failed(struct database *database, const char *doing, struct error *error) {
    int code = sqlite3_extended_errcode(database->handle);
    database->last_code = code;
    bool no_room = (code & 0xff) == SQLITE_IOERR && sqlite3_system_errno(database->handle) == ENOSPC;
    if ((code & 0xff) == SQLITE_FULL || no_room) {
        database->last_code = SQLITE_FULL;
        return error_set(error, ERROR_IO, "database: %s: %s", doing, strerror(ENOSPC));
    }
    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return error_set(error, ERROR_UNAVAILABLE,
                         "database: %s: it is locked by another process; it is tried again", doing);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return error_set(error, ERROR_IO,
                         "database: %s: the file is damaged (%s); put a copy in its place, or move it away "
                         "and start anew",
                         doing, sqlite3_errmsg(database->handle));
    case SQLITE_NOMEM:
        return error_set(error, ERROR_MEMORY, "database: %s: out of memory", doing);
    case SQLITE_CONSTRAINT:
        return error_set(error, ERROR_INPUT, "database: %s: %s", doing, sqlite3_errmsg(database->handle));
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_IOERR: {
        int system = sqlite3_system_errno(database->handle);
        return error_set(error, ERROR_IO, "database: %s: %s%s%s", doing, sqlite3_errmsg(database->handle),
                         system ? ": " : "", system ? strerror(system) : "");
    }
    default:
        return error_set(error, ERROR_INTERNAL, "database: %s: %s", doing, sqlite3_errmsg(database->handle));
    }
}

enum database_trouble database_trouble(const struct database *database) {
    switch (database->last_code & 0xff) {
    case SQLITE_OK:
    case SQLITE_CONSTRAINT:
        return DATABASE_FINE;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_FULL:
    case SQLITE_NOMEM:
    case SQLITE_TOOBIG:
        return DATABASE_BUSY;
    default:
        return DATABASE_BROKEN;
    }
}

// --------------------------------------------------------------------------------------------------------- statements

static sqlite3_stmt *prepared(struct database *database, const char *sql, struct error *error) {
    for (int i = 0; i < database->statement_count; i++)
        if (database->statements[i].sql == sql) return database->statements[i].statement;
    sqlite3_stmt *statement = NULL;
    if (database->statement_count == DATABASE_STATEMENTS_MOST) {
        error_set(error, ERROR_INTERNAL, "database: more than %d statements", DATABASE_STATEMENTS_MOST);
        return NULL;
    }
    if (sqlite3_prepare_v3(database->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL) !=
        SQLITE_OK) {
        database_failed(database, "a statement", error);
        return NULL;
    }
    database->statements[database->statement_count].sql = sql;
    database->statements[database->statement_count++].statement = statement;
    return statement;
}

static bool bind(struct database *database, sqlite3_stmt *statement, const char *types, va_list list,
                 struct error *error) {
    int code = SQLITE_OK;
    for (int i = 0; types[i] && code == SQLITE_OK; i++) {
        if (types[i] == 's') {
            const char *text = va_arg(list, const char *);
            code = sqlite3_bind_text(statement, i + 1, text, -1, SQLITE_STATIC);
        } else if (types[i] == 'i') {
            code = sqlite3_bind_int64(statement, i + 1, va_arg(list, int64_t));
        } else if (types[i] == 'd') {
            code = sqlite3_bind_double(statement, i + 1, va_arg(list, double));
        } else {
            const void *bytes = va_arg(list, const void *);
            size_t size = va_arg(list, size_t);
            code = sqlite3_bind_blob64(statement, i + 1, bytes, size, SQLITE_STATIC);
        }
    }
    return code == SQLITE_OK || database_failed(database, "a value", error);
}

static sqlite3_stmt *start(struct database *database, struct error *error, const char *sql, const char *types,
                           va_list list) {
    sqlite3_stmt *statement = prepared(database, sql, error);
    if (!statement) return NULL;
    sqlite3_reset(statement);
    return bind(database, statement, types, list, error) ? statement : NULL;
}

// What a statement is about, for messages: "INSERT INTO requests".
static const char *subject(sqlite3_stmt *statement) {
    const char *sql = sqlite3_sql(statement);
    if (!sql) return "a statement";
    if (!strncmp(sql, "SELECT", 6)) return "reading";
    if (!strncmp(sql, "COMMIT", 6) || !strncmp(sql, "BEGIN", 5)) return "a transaction";
    return "writing";
}

void database_end(sqlite3_stmt *statement) {
    if (!statement) return;
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement); // what was bound belongs to the caller
}

bool database_next(struct database *database, sqlite3_stmt *statement, bool *more, struct error *error) {
    *more = false;
    if (!statement) return false;
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW) return *more = true;
    bool good = code == SQLITE_DONE || database_failed(database, subject(statement), error);
    database_end(statement);
    return good;
}

sqlite3_stmt *database_query(struct database *database, struct error *error, const char *sql,
                             const char *types, ...) {
    va_list list;
    va_start(list, types);
    sqlite3_stmt *statement = start(database, error, sql, types, list);
    va_end(list);
    return statement;
}

bool database_run(struct database *database, struct error *error, const char *sql, const char *types, ...) {
    va_list list;
    va_start(list, types);
    sqlite3_stmt *statement = start(database, error, sql, types, list);
    va_end(list);
    bool more;
    if (!statement || !database_next(database, statement, &more, error)) return false;
    if (more) database_end(statement);
    return true;
}

bool database_integer(struct database *database, struct error *error, int64_t otherwise, int64_t *value,
                      const char *sql, const char *types, ...) {
    va_list list;
    va_start(list, types);
    sqlite3_stmt *statement = start(database, error, sql, types, list);
    va_end(list);
    bool more;
    *value = otherwise;
    if (!statement || !database_next(database, statement, &more, error)) return false;
    if (more && sqlite3_column_type(statement, 0) != SQLITE_NULL) *value = sqlite3_column_int64(statement, 0);
    if (more) database_end(statement);
    return true;
}

void database_rollback(struct database *database) {
    if (!sqlite3_get_autocommit(database->handle))
        sqlite3_exec(database->handle, "ROLLBACK", NULL, NULL, NULL);
}

int64_t database_changes(const struct database *database) {
    return sqlite3_changes64(database->handle);
}

void database_set_busy(struct database *database, double seconds) {
    sqlite3_busy_timeout(database->handle, (int)(seconds * 1000));
}

// ------------------------------------------------------------------------------------------------------------ opening

static bool execute(struct database *database, const char *sql, struct error *error) {
    if (sqlite3_exec(database->handle, sql, NULL, NULL, NULL) == SQLITE_OK) return true;
    return database_failed(database, "opening", error);
}

// The file is made by hand so that nobody else can read it; SQLite gives its own files beside it the same mode.
static bool make_file(const char *path, struct error *error) {
    char *folder = strdup(path);
    char *slash = folder ? strrchr(folder, '/') : NULL;
    bool good = folder || error_set(error, ERROR_MEMORY, "no memory for a path");
    if (good && slash && slash > folder) {
        *slash = 0;
        good = folder_make(folder, error);
    }
    free(folder);
    if (!good) return false;
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return error_set(error, ERROR_IO, "%s: %s", path, strerror(errno));
    close(file);
    return true;
}

// An empty file becomes limn's; one with tables of another program is left alone.
static bool claim(struct database *database, int flags, struct error *error) {
    int64_t id, tables;
    if (!database_integer(database, error, 0, &id, "PRAGMA application_id", "") ||
        !database_integer(database, error, 0, &tables, "SELECT count(*) FROM sqlite_schema", ""))
        return false;
    if (id == APPLICATION_ID) return true;
    if (id != 0 || tables != 0)
        return error_set(error, ERROR_INPUT, "it is a database of another program, expected one of limn's");
    if (flags & DATABASE_READ_ONLY) return true;
    char text[64];
    snprintf(text, sizeof text, "PRAGMA application_id=%d", APPLICATION_ID);
    return execute(database, text, error);
}

static bool set_up(struct database *database, int flags, double busy_seconds, struct error *error) {
    database_set_busy(database, busy_seconds);
    char text[256];
    snprintf(
        text, sizeof text,
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=%s; PRAGMA foreign_keys=ON; PRAGMA cache_size=-16384; "
        "PRAGMA temp_store=MEMORY; "
        "PRAGMA wal_autocheckpoint=%d",
        flags & DATABASE_FULL ? "FULL" : "NORMAL", flags & DATABASE_CHECKPOINT ? 1000 : 0);
    // Whose file it is comes first: another program's is left as it is.
    if (!claim(database, flags, error) || !execute(database, text, error)) return false;
    return !(flags & DATABASE_READ_ONLY) || execute(database, "PRAGMA query_only=ON", error);
}

struct database *database_open(const char *path, int flags, double busy_seconds, struct error *error) {
    if ((flags & DATABASE_CREATE) && !make_file(path, error)) return NULL;
    struct database *database = calloc(1, sizeof *database);
    if (!database || !(database->path = strdup(path))) {
        free(database);
        error_set(error, ERROR_MEMORY, "no memory for a database");
        return NULL;
    }
    struct stat about;
    bool there = stat(path, &about) == 0;
    if (!there || !S_ISREG(about.st_mode)) {
        bool missing = !there && errno == ENOENT;
        error_set(error, missing ? ERROR_NOT_FOUND : ERROR_IO, "%s: %s", path,
                  there ? "expected a file" : strerror(errno));
        database_close(database);
        return NULL;
    }
    database->device = about.st_dev;
    database->inode = about.st_ino;
    int code = sqlite3_open_v2(path, &database->handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    bool good = code == SQLITE_OK || database_failed(database, "opening", error);
    sqlite3_extended_result_codes(database->handle, 1);
    if (good && set_up(database, flags, busy_seconds, error)) return database;
    error_prefix(error, "%s", path);
    database_close(database);
    return NULL;
}

void database_close(struct database *database) {
    if (!database) return;
    for (int i = 0; i < database->statement_count; i++) sqlite3_finalize(database->statements[i].statement);
    sqlite3_close_v2(database->handle);
    free(database->path);
    free(database);
}

bool database_is_current(const struct database *database, struct error *error) {
    struct stat about;
    if (stat(database->path, &about) != 0)
        return error_set(error, ERROR_IO, "database: the file is gone (%s); limn goes on when it is put back",
                         strerror(errno));
    if (about.st_dev == database->device && about.st_ino == database->inode) return true;
    return error_set(error, ERROR_IO, "database: the file was replaced");
}

bool database_migrate(struct database *database, int version, struct error *error) {
    int64_t present;
    if (!database_integer(database, error, 0, &present, "PRAGMA user_version", "")) return false;
    if (present == version) return true;
    // Another process may be at it too: the version is read again under the lock.
    while (present < version) {
        if (!execute(database, "BEGIN IMMEDIATE", error)) return false;
        char text[64];
        bool good = database_integer(database, error, 0, &present, "PRAGMA user_version", "");
        if (good && present < version) {
            snprintf(text, sizeof text, "PRAGMA user_version=%d", (int)present + 1);
            good = execute(database, MIGRATIONS[present], error) && execute(database, text, error);
        }
        if (!good || !execute(database, "COMMIT", error)) {
            database_rollback(database);
            return error_prefix(error, "%s: bringing it to version %d", database->path, (int)present + 1);
        }
        if (present < version) present++;
    }
    return present == version || error_set(error, ERROR_UNSUPPORTED,
                                           "%s: its tables are of version %d, expected at most %d: it was "
                                           "used by a newer limn",
                                           database->path, (int)present, version);
}
