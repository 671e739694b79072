// Log lines for the person who runs limn, on standard error. Relies on nothing.
//
// A line is "2026-11-22T21:48:00Z info worker: message"; on a terminal the time is left out. A log is passed to
// whoever writes lines; a NULL log is silent.
#ifndef LIMN_BASE_LOG_H
#define LIMN_BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

struct log {
    enum log_level level; // lines above it are dropped
    const char *part;     // "server", "worker": who speaks
};

// One call writes one whole line with one write(2), so that lines of several threads and processes do not mix.
void log_line(const struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(log, ...)   log_line((log), LOG_ERROR, __VA_ARGS__)
#define log_warning(log, ...) log_line((log), LOG_WARNING, __VA_ARGS__)
#define log_info(log, ...)    log_line((log), LOG_INFO, __VA_ARGS__)
#define log_debug(log, ...)   log_line((log), LOG_DEBUG, __VA_ARGS__)

#endif
