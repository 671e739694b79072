// Errors are values: a function that can fail takes `struct error *` last and returns false (or NULL).
//
//     if (!file_map(path, &map, error)) return false;
//     if (size < 8) return error_set(error, ERROR_INPUT, "%s: %zu bytes, expected at least 8", path, size);
//
// Whoever handles an error prints `message`; it says what was wrong, where, and what was expected, in one line.
// Relies on nothing.
#ifndef LIMN_BASE_ERROR_H
#define LIMN_BASE_ERROR_H

#include <stdarg.h>
#include <stdbool.h>

enum error_kind {
    ERROR_NONE = 0,
    ERROR_INPUT,       // a value from outside is wrong: a file, a field, an option
    ERROR_NOT_FOUND,   // a file, a model, a tensor, a record that is not there
    ERROR_IO,          // the system refused: disk full, permission, closed pipe
    ERROR_MEMORY,      // not enough memory
    ERROR_CANCELLED,   // the caller asked to stop
    ERROR_UNSUPPORTED, // well-formed, but a kind that limn does not handle
    ERROR_UNAVAILABLE, // cannot be served now: queue full, worker gone, time limit
    ERROR_INTERNAL,    // an invariant of limn's own failed
};

struct error {
    enum error_kind kind;
    char field[64];    // the request field at fault ("size", "image[1]"), or ""
    char message[512]; // one line, no newline at the end
    const char *file;  // where in limn's source it was first set
    int line;
};

// Sets [error] (which may be NULL) and returns false. The first error stays: setting a set error keeps it,
// so that clean-up code cannot hide the cause. Start from `struct error error = {0}`.
#define error_set(error, kind, ...) error_set_at((error), (kind), "", __FILE__, __LINE__, __VA_ARGS__)

// The same, with the name of the request field at fault.
#define error_set_field(error, kind, field, ...)                                                             \
    error_set_at((error), (kind), (field), __FILE__, __LINE__, __VA_ARGS__)

bool error_set_at(struct error *error, enum error_kind kind, const char *field, const char *file, int line,
                  const char *format, ...) __attribute__((format(printf, 6, 7)));

// Puts "[context]: " in front of the message of a set [error] and returns false; used where the outer place
// (a path, a tensor) is known only to the caller.
bool error_prefix(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

void error_clear(struct error *error);

// The name of a kind, as logs and the wire use it: "input", "not_found", ...
const char *error_kind_name(enum error_kind kind);

#endif
