// Errors as values. Relies on nothing.
#include "base/error.h"

#include <stdio.h>
#include <string.h>

// Keeps a message one printable line of whole UTF-8 characters: it may quote bytes of a hostile file.
static void tidy(char *text) {
    for (char *at = text; *at; at++) {
        unsigned char byte = (unsigned char)*at;
        if (byte < 0x20 || byte == 0x7f) *at = byte == '\n' || byte == '\t' ? ' ' : '?';
    }
    size_t length = strlen(text), back = 0;
    while (back < 3 && back < length && ((unsigned char)text[length - 1 - back] & 0xc0) == 0x80) back++;
    if (back == length) return;
    unsigned char lead = (unsigned char)text[length - 1 - back];
    size_t wanted = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
    if (wanted > back) text[length - 1 - back] = 0; // a character cut by the end of the field
}

bool error_set_at(struct error *error, enum error_kind kind, const char *field, const char *file, int line,
                  const char *format, ...) {
    if (!error || error->kind != ERROR_NONE) return false;
    error->kind = kind;
    snprintf(error->field, sizeof error->field, "%s", field ? field : "");
    tidy(error->field);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    tidy(error->message);
    error->file = file;
    error->line = line;
    return false;
}

bool error_prefix(struct error *error, const char *format, ...) {
    if (!error || error->kind == ERROR_NONE) return false;
    char rest[sizeof error->message];
    memcpy(rest, error->message, sizeof rest);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    size_t used = strlen(error->message);
    snprintf(error->message + used, sizeof error->message - used, ": %s", rest);
    tidy(error->message);
    return false;
}

void error_clear(struct error *error) {
    if (error) memset(error, 0, sizeof *error);
}

const char *error_kind_name(enum error_kind kind) {
    switch (kind) {
    case ERROR_NONE:
        return "none";
    case ERROR_INPUT:
        return "input";
    case ERROR_NOT_FOUND:
        return "not_found";
    case ERROR_IO:
        return "io";
    case ERROR_MEMORY:
        return "memory";
    case ERROR_CANCELLED:
        return "cancelled";
    case ERROR_UNSUPPORTED:
        return "unsupported";
    case ERROR_UNAVAILABLE:
        return "unavailable";
    case ERROR_INTERNAL:
        return "internal";
    }
    return "internal";
}
