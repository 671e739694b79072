// Log lines. Relies on nothing.
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MOST = 4096 }; // PIPE_BUF: a pipe takes a write of this size whole
enum { MESSAGE_MOST = 3072 };

static const char *const LEVELS[] = {"error", "warning", "info", "debug"};

// A line that is being put together; what does not fit is cut, the end always has its room.
struct line {
    char text[LINE_MOST];
    size_t used, most;
};

static void add(struct line *line, const char *text) {
    size_t length = strlen(text);
    if (length > line->most - line->used) length = line->most - line->used;
    memcpy(line->text + line->used, text, length);
    line->used += length;
}

static bool is_control(char letter) {
    return (unsigned char)letter < 0x20 || letter == 0x7f;
}

// One line, no terminal controls.
static void add_plain(struct line *line, const char *text) {
    for (; *text && line->used < line->most; text++)
        line->text[line->used++] = is_control(*text) ? ' ' : *text;
}

static void add_quoted(struct line *line, const char *text) {
    add(line, "\"");
    // Room is kept for the closing quote, and a backslash is never cut from what it escapes.
    for (; *text && line->used + 3 < line->most; text++) {
        if (*text == '"' || *text == '\\') line->text[line->used++] = '\\';
        line->text[line->used++] = is_control(*text) ? ' ' : *text;
    }
    add(line, "\"");
}

static void begin(struct line *line, const struct log *log, enum log_level level) {
    char stamp[32];
    struct tm parts;
    time_t now = time(NULL);
    gmtime_r(&now, &parts);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", &parts);
    line->used = 0;
    line->most = sizeof line->text - 2; // "}\n"
    const char *part = log->part ? log->part : "limn";
    if (log->json) {
        add(line, "{\"time\":\"");
        add(line, stamp);
        add(line, "\",\"level\":\"");
        add(line, LEVELS[level]);
        add(line, "\",\"part\":");
        add_quoted(line, part);
        add(line, ",\"message\":");
        return;
    }
    if (!isatty(STDERR_FILENO)) {
        add(line, stamp);
        add(line, " ");
    }
    add(line, LEVELS[level]);
    add(line, " ");
    add(line, part);
    add(line, ": ");
}

static void end(struct line *line, const struct log *log) {
    if (log->json) line->text[line->used++] = '}';
    line->text[line->used++] = '\n';
    ssize_t written = write(STDERR_FILENO, line->text, line->used);
    (void)written; // there is nobody to tell
}

void log_line(const struct log *log, enum log_level level, const char *format, ...) {
    if (!log || level > log->level) return;
    struct line line;
    char message[LINE_MOST];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (length < 0) *message = 0;
    begin(&line, log, level);
    if (log->json)
        add_quoted(&line, message);
    else
        add_plain(&line, message);
    end(&line, log);
}

static void add_field(struct line *line, bool json, const struct log_field *field) {
    char number[64];
    if (!field->is_number && (!field->text || !*field->text)) return;
    // A field is written whole or not at all.
    if (line->most - line->used < strlen(field->name) + sizeof number) return;
    add(line, json ? ",\"" : " ");
    add(line, field->name);
    add(line, json ? "\":" : "=");
    if (field->is_number) {
        snprintf(number, sizeof number, "%.*f", field->decimals, field->number);
        add(line, number);
    } else if (json || strpbrk(field->text, " \"=")) {
        add_quoted(line, field->text);
    } else {
        add_plain(line, field->text);
    }
}

void log_fields(const struct log *log, enum log_level level, const char *message,
                const struct log_field *fields, int count) {
    if (!log || level > log->level) return;
    struct line line;
    begin(&line, log, level);
    if (log->json) {
        char cut[MESSAGE_MOST];
        snprintf(cut, sizeof cut, "%s", message);
        add_quoted(&line, cut);
    } else {
        add_plain(&line, message);
    }
    for (int i = 0; i < count; i++) add_field(&line, log->json, &fields[i]);
    end(&line, log);
}
