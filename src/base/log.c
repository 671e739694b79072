// Log lines. Relies on nothing.
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MOST = 4096 }; // PIPE_BUF: a pipe takes a write of this size whole

void log_line(const struct log *log, enum log_level level, const char *format, ...) {
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if (!log || level > log->level) return;
    char line[LINE_MOST];
    size_t used = 0;
    if (!isatty(STDERR_FILENO)) {
        struct tm parts;
        time_t now = time(NULL);
        gmtime_r(&now, &parts);
        used = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%SZ ", &parts);
    }
    int head =
        snprintf(line + used, sizeof line - used, "%s %s: ", names[level], log->part ? log->part : "limn");
    used += head < 0 ? 0 : (size_t)head;
    if (used > sizeof line - 2) used = sizeof line - 2;
    va_list arguments;
    va_start(arguments, format);
    int body = vsnprintf(line + used, sizeof line - used - 1, format, arguments);
    va_end(arguments);
    size_t end = used + (body < 0 ? 0 : (size_t)body);
    if (end > sizeof line - 2) end = sizeof line - 2;
    for (size_t i = used; i < end; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) line[i] = ' '; // one line, no terminal controls
    }
    line[end++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, end);
    (void)written; // there is nobody to tell
}
