// Reading the parameters of a query string, each with an error that names it. Relies on query.h.
#include "store/query.h"
#include "base/near.h"
#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void query_requests_init(struct query_requests *query, const struct query_scope *scope) {
    *query = (struct query_requests){.limit = 20, .status = -1};
    if (scope) query->scope = *scope;
}

void query_keys_init(struct query_keys *query) {
    *query = (struct query_keys){.limit = 20, .status = -1};
}

// 1 to [most] characters, in fewer bytes than [capacity]; [plain]: of printable ASCII, else of UTF-8.
static bool set_characters(char *to, size_t capacity, size_t most, bool plain, const char *name,
                           const char *value, struct error *error) {
    size_t count = 0;
    bool good = *value && strlen(value) < capacity;
    for (const char *at = value; *at; at++) {
        count += ((unsigned char)*at & 0xc0) != 0x80; // bytes that go on with a character do not count
        good = good && (!plain || (*at >= 0x20 && *at <= 0x7e));
    }
    json_t *text = good && !plain ? json_string(value) : NULL; // NULL for what is no UTF-8
    good = good && (plain || text);
    json_decref(text);
    if (!good || count > most)
        return error_set_field(error, ERROR_INPUT, name, "%s: expected 1 to %zu %scharacters", name, most,
                               plain ? "printable ASCII " : "UTF-8 ");
    memcpy(to, value, strlen(value) + 1);
    return true;
}

static bool set_text(char *to, size_t capacity, const char *name, const char *value, struct error *error) {
    return set_characters(to, capacity, capacity - 1, true, name, value, error);
}

// A parameter that would have no effect is told so: it was meant to have one.
static bool unknown(const char *name, const char *const *names, struct error *error) {
    char list[256] = "";
    int count = 0;
    for (; names[count]; count++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", count ? ", " : "", names[count]);
    }
    const char *meant = near_match(name, names, count);
    return error_set_field(error, ERROR_INPUT, name, "%.60s: there is no such parameter here; %s%s%s%s", name,
                           meant   ? "did you mean "
                           : count ? "expected one of "
                                   : "expected none",
                           meant ? meant : "", meant ? "?" : "", meant ? "" : list);
}

static bool set_limit(int *limit, const char *value, struct error *error) {
    char *end;
    errno = 0;
    long number = strtol(value, &end, 10);
    if (errno || end == value || *end || number < 1 || number > 100 || (*value < '0' || *value > '9'))
        return error_set_field(error, ERROR_INPUT, "limit", "limit: expected a whole number from 1 to 100");
    *limit = (int)number;
    return true;
}

// [count] digits at *text as a number; -1 for anything else.
static int digits(const char **text, int count) {
    int value = 0;
    for (int i = 0; i < count; i++, ++*text) {
        if (**text < '0' || **text > '9') return -1;
        value = value * 10 + (**text - '0');
    }
    return value;
}

static bool take(const char **text, char c) {
    if (**text != c) return false;
    ++*text;
    return true;
}

bool query_read_time(const char *text, int64_t *micros) {
    size_t length = strlen(text);
    if (length && length <= 11 && strspn(text, "0123456789") == length) {
        *micros = strtoll(text, NULL, 10) * 1000000;
        return true;
    }
    struct tm parts = {0};
    int64_t fraction = 0, offset = 0;
    parts.tm_year = digits(&text, 4) - 1900;
    if (!take(&text, '-')) return false;
    parts.tm_mon = digits(&text, 2) - 1;
    if (!take(&text, '-')) return false;
    parts.tm_mday = digits(&text, 2);
    if (*text == 'T' || *text == 't' || *text == ' ') {
        text++;
        parts.tm_hour = digits(&text, 2);
        if (!take(&text, ':')) return false;
        parts.tm_min = digits(&text, 2);
        if (!take(&text, ':')) return false;
        parts.tm_sec = digits(&text, 2);
        if (take(&text, '.')) {
            if (*text < '0' || *text > '9') return false;
            for (int64_t unit = 100000; *text >= '0' && *text <= '9'; text++, unit /= 10)
                fraction += unit * (*text - '0');
        }
        if (*text == '+' || *text == '-' || *text == ' ') { // a + that was not escaped arrives as a space
            int sign = *text++ == '-' ? -1 : 1;
            int hours = digits(&text, 2);
            if (!take(&text, ':')) return false;
            int minutes = digits(&text, 2);
            if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59) return false;
            offset = sign * (hours * 3600 + minutes * 60);
        } else if (*text == 'Z' || *text == 'z') {
            text++;
        }
    }
    if (*text || parts.tm_year < 70 || parts.tm_mon < 0 || parts.tm_mon > 11 || parts.tm_mday < 1 ||
        parts.tm_mday > 31 || parts.tm_hour < 0 || parts.tm_hour > 23 || parts.tm_min < 0 ||
        parts.tm_min > 59 || parts.tm_sec < 0 || parts.tm_sec > 60)
        return false;
    int day = parts.tm_mday, seconds = parts.tm_sec;
    int64_t whole = (int64_t)timegm(&parts);
    if (parts.tm_mday != day && seconds < 60) return false; // February has no 31st
    *micros = (whole - offset) * 1000000 + fraction;
    return true;
}

static bool set_time(int64_t *micros, const char *name, const char *value, struct error *error) {
    return query_read_time(value, micros) ||
           error_set_field(error, ERROR_INPUT, name,
                           "%s: expected a time as 2026-11-23T01:02:03Z, a day or unix seconds", name);
}

static bool set_status(int *status, const char *value, struct error *error) {
    for (int i = STORE_PENDING; i <= STORE_CANCELLED; i++)
        if (!strcmp(value, store_status_name((enum store_status)i))) {
            *status = i;
            return true;
        }
    return error_set_field(error, ERROR_INPUT, "status",
                           "status: expected pending, processing, completed, upstream_failure, rejected or "
                           "cancelled");
}

static bool one_cursor(const char *after, const char *before, struct error *error) {
    if (!*after || !*before) return true;
    return error_set_field(error, ERROR_INPUT, "ending_before",
                           "ending_before: cannot be given together with starting_after");
}

bool query_requests_set(struct query_requests *query, const char *name, const char *value,
                        struct error *error) {
    if (!strcmp(name, "limit")) return set_limit(&query->limit, value, error);
    if (!strcmp(name, "starting_after") || !strcmp(name, "ending_before")) {
        char *to = *name == 's' ? query->starting_after : query->ending_before;
        return set_text(to, QUERY_TEXT_MOST, name, value, error) &&
               one_cursor(query->starting_after, query->ending_before, error);
    }
    if (!strcmp(name, "created_after")) return set_time(&query->created_after, name, value, error);
    if (!strcmp(name, "created_before")) return set_time(&query->created_before, name, value, error);
    if (!strcmp(name, "key_id")) return set_text(query->key_id, sizeof query->key_id, name, value, error);
    if (!strcmp(name, "model")) return set_text(query->model, sizeof query->model, name, value, error);
    if (!strcmp(name, "user"))
        return set_characters(query->user, sizeof query->user, sizeof query->user / 4 - 1, false, name, value,
                              error);
    if (!strcmp(name, "status")) return set_status(&query->status, value, error);
    if (!strcmp(name, "project")) return set_text(query->project, sizeof query->project, name, value, error);
    if (!strcmp(name, "summary")) {
        query->summary = !strcmp(value, "true");
        return query->summary || !strcmp(value, "false") ||
               error_set_field(error, ERROR_INPUT, name, "summary: expected true or false");
    }
    static const char *const names[] = {"limit",          "starting_after", "ending_before", "created_after",
                                        "created_before", "key_id",         "model",         "user",
                                        "project",        "status",         "summary",       NULL};
    return unknown(name, names, error);
}

bool query_keys_set(struct query_keys *query, const char *name, const char *value, struct error *error) {
    if (!strcmp(name, "limit")) return set_limit(&query->limit, value, error);
    if (!strcmp(name, "starting_after") || !strcmp(name, "ending_before")) {
        char *to = *name == 's' ? query->starting_after : query->ending_before;
        return set_text(to, QUERY_TEXT_MOST, name, value, error) &&
               one_cursor(query->starting_after, query->ending_before, error);
    }
    if (!strcmp(name, "project")) return set_text(query->project, sizeof query->project, name, value, error);
    static const char *const names[] = {"limit",  "starting_after", "ending_before",
                                        "status", "project",        NULL};
    if (strcmp(name, "status")) return unknown(name, names, error);
    query->status = !strcmp(value, "active") ? 0 : !strcmp(value, "revoked") ? 1 : -1;
    return query->status >= 0 ||
           error_set_field(error, ERROR_INPUT, name, "status: expected active or revoked");
}

bool query_stats_set(struct query_stats *query, const char *name, const char *value, struct error *error) {
    if (!strcmp(name, "model")) return set_text(query->model, sizeof query->model, name, value, error);
    if (!strcmp(name, "provider"))
        return set_text(query->provider, sizeof query->provider, name, value, error);
    if (!strcmp(name, "project")) return set_text(query->project, sizeof query->project, name, value, error);
    static const char *const names[] = {"model", "provider", "mode", "project", NULL};
    if (strcmp(name, "mode")) return unknown(name, names, error);
    if (strcmp(value, "text-to-image") && strcmp(value, "image-edit"))
        return error_set_field(error, ERROR_INPUT, name, "mode: expected text-to-image or image-edit");
    return set_text(query->mode, sizeof query->mode, name, value, error);
}

bool query_nothing_set(const char *name, struct error *error) {
    static const char *const names[] = {NULL};
    return unknown(name, names, error);
}
