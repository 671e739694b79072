// A connection to the database: opening, the tables' versions, statements, errors. Relies on base, sqlite3.
//
//     sqlite3_stmt *row = database_query(database, error, "SELECT a FROM t WHERE b = ?1 AND c = ?2", "si", text, number);
//     while (database_next(database, row, &more, error) && more) ... sqlite3_column_text(row, 0) ...
//
// A connection belongs to one thread. Statements are prepared once a connection and kept, so the SQL must be a constant.
#ifndef LIMN_STORE_DATABASE_H
#define LIMN_STORE_DATABASE_H

#include "base/error.h"

#include <sqlite3.h> // defines: sqlite3, sqlite3_stmt
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define DATABASE_STATEMENTS_MOST 96

struct database {
    sqlite3 *handle;
    char *path;
    dev_t device; // of the file that was opened
    ino_t inode;
    int last_code; // of the last failure, as SQLite numbers them; 0: none since database_trouble
    struct {
        const char *sql;
        sqlite3_stmt *statement;
    } statements[DATABASE_STATEMENTS_MOST];
    int statement_count;
};

enum database_open_flags {
    DATABASE_CREATE = 1,     // make the file (mode 0600) and its folder where they are missing
    DATABASE_READ_ONLY = 2,  // writes are refused
    DATABASE_FULL = 4,       // synchronous=FULL instead of NORMAL
    DATABASE_CHECKPOINT = 8, // checkpoint by itself as the log grows, for tools that have no keeper thread
};

// Opens the file in WAL mode. Errors say what is wrong with it: another program's database, damaged, no permission.
struct database *database_open(const char *path, int flags, double busy_seconds, struct error *error);
void database_close(struct database *database); // NULL is fine

// Brings the tables to version [version] (DATABASE_VERSION for the present one), one transaction a step. A database of a
// newer limn is refused.
#define DATABASE_VERSION 7
bool database_migrate(struct database *database, int version, struct error *error);

// Whether the file that was opened is still the one at the path; an error says that it is gone or was replaced.
bool database_is_current(const struct database *database, struct error *error);

void database_set_busy(struct database *database, double seconds);

// Runs [sql], which gives no rows. [types] has a letter for each parameter: s text (const char *, NULL is NULL), i int64_t,
// d double, b blob (const void *, size_t).
bool database_run(struct database *database, struct error *error, const char *sql, const char *types, ...);

// Starts [sql]; rows come by database_next. NULL with an error. The statement is the database's.
sqlite3_stmt *database_query(struct database *database, struct error *error, const char *sql,
                             const char *types, ...);

// Steps to the next row. *more false: there is none, and the statement is done.
bool database_next(struct database *database, sqlite3_stmt *statement, bool *more, struct error *error);

// Ends a query before its last row; NULL is fine.
void database_end(sqlite3_stmt *statement);

// One integer, [otherwise] when there is no row or it is NULL.
bool database_integer(struct database *database, struct error *error, int64_t otherwise, int64_t *value,
                      const char *sql, const char *types, ...);

// Takes an open transaction back; fine when there is none (SQLite ends it itself after some failures). Keeps last_code.
void database_rollback(struct database *database);

// Number of rows that the last statement changed.
int64_t database_changes(const struct database *database);

// The error of the last failed call, in words: locked (ERROR_UNAVAILABLE), full (ERROR_IO, with the system's "No space left on
// device"), damaged, gone, refused (ERROR_IO). Returns false.
bool database_failed(struct database *database, const char *doing, struct error *error);

// What the last failure means for the connection.
enum database_trouble {
    DATABASE_FINE,   // nothing, or a constraint: the operation's own fault
    DATABASE_BUSY,   // locked by another process, full, out of memory: try again later
    DATABASE_BROKEN, // damaged, unreadable: the file must be opened anew
};
enum database_trouble database_trouble(const struct database *database);

#endif
