// Log lines for the person who runs limn, on standard error. Relies on nothing.
//
// A line is "2026-11-22T21:48:00Z info worker: message"; on a terminal the time is left out. With [json] it is an object:
// {"time":"...","level":"info","part":"worker","message":"...", fields...}. A log is passed to whoever writes lines; a NULL log
// is silent.
#ifndef LIMN_BASE_LOG_H
#define LIMN_BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

struct log {
    enum log_level level; // lines above it are dropped
    const char *part;     // "server", "worker": who speaks
    bool json;            // a JSON object a line
};

// One call writes one whole line with one write(2), so that lines of several threads and processes do not mix.
void log_line(const struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// A named value of a line. Text that is NULL or empty is left out; a number is written when [text] is NULL and [is_number].
struct log_field {
    const char *name; // [a-z_]
    const char *text;
    double number;
    bool is_number;
    int decimals; // of the number
};

// A message with fields behind it: "message name=value ..." as text (values with spaces in quotes), members in JSON.
void log_fields(const struct log *log, enum log_level level, const char *message,
                const struct log_field *fields, int count);

#define log_error(log, ...)   log_line((log), LOG_ERROR, __VA_ARGS__)
#define log_warning(log, ...) log_line((log), LOG_WARNING, __VA_ARGS__)
#define log_info(log, ...)    log_line((log), LOG_INFO, __VA_ARGS__)
#define log_debug(log, ...)   log_line((log), LOG_DEBUG, __VA_ARGS__)

#endif
