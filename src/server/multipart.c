// See multipart.h.
#include "server/multipart.h"
#include "base/buffer.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum state { PREAMBLE, AFTER_DELIMITER, HEADERS, BODY, EPILOGUE };

struct multipart {
    struct multipart_events events;
    void *context;
    char delimiter[4 + 70 + 1]; // "\r\n--" and the boundary
    size_t delimiter_length;
    enum state state;
    int parts;
    struct buffer pending; // bytes not yet understood: at most a part's headers, or the start of a delimiter
};

static const char *skip_space(const char *text) {
    return text + strspn(text, " \t");
}

// Reads a quoted string behind its opening quote; returns behind the closing one, NULL when there is none or no room.
static const char *read_quoted(const char *at, char *value, size_t size) {
    size_t length = 0;
    for (; *at && *at != '"'; at++) {
        // Browsers write a quote as %22, older clients as \"; a backslash before another letter is the letter's own (paths).
        if (at[0] == '\\' && (at[1] == '"' || at[1] == '\\')) at++;
        if (length + 1 >= size) return NULL;
        value[length++] = *at;
    }
    value[length] = 0;
    return *at == '"' ? at + 1 : NULL;
}

bool multipart_parameter(const char *header, const char *parameter, char *value, size_t size) {
    size_t wanted = strlen(parameter);
    const char *at = strchr(header, ';');
    char skipped[1024];
    while (at) {
        at = skip_space(at + 1);
        size_t length = strcspn(at, "=;");
        bool found = length == wanted && !strncasecmp(at, parameter, wanted);
        at += length;
        if (*at == '=') {
            at = skip_space(at + 1);
            if (*at == '"') {
                at = read_quoted(at + 1, found ? value : skipped, found ? size : sizeof skipped);
                if (found || !at) return found && at;
            } else {
                length = strcspn(at, "; \t");
                if (found) {
                    if (length == 0 || length >= size) return false;
                    memcpy(value, at, length);
                    value[length] = 0;
                    return true;
                }
            }
        }
        at = strchr(at, ';');
    }
    return false;
}

struct multipart *multipart_open(const char *content_type, const struct multipart_events *events,
                                 void *context, struct error *error) {
    static const char kind[] = "multipart/form-data";
    char boundary[71];
    if (!content_type || strncasecmp(content_type, kind, sizeof kind - 1)) {
        error_set(error, ERROR_INPUT, "expected a body of multipart/form-data");
        return NULL;
    }
    if (!multipart_parameter(content_type, "boundary", boundary, sizeof boundary) || !*boundary) {
        error_set(error, ERROR_INPUT, "Content-Type: expected a boundary of 1 to 70 characters");
        return NULL;
    }
    struct multipart *multipart = calloc(1, sizeof *multipart);
    // The body's first delimiter has no line before it: one is put there.
    if (!multipart || !buffer_add(&multipart->pending, "\r\n", 2)) {
        error_set(error, ERROR_MEMORY, "no memory for a request body");
        free(multipart);
        return NULL;
    }
    multipart->events = *events;
    multipart->context = context;
    memcpy(multipart->delimiter, "\r\n--", 4);
    memcpy(multipart->delimiter + 4, boundary, strlen(boundary) + 1);
    multipart->delimiter_length = 4 + strlen(boundary);
    return multipart;
}

void multipart_close(struct multipart *multipart) {
    if (!multipart) return;
    buffer_free(&multipart->pending);
    free(multipart);
}

static void drop(struct multipart *m, size_t count) {
    memmove(m->pending.data, m->pending.data + count, m->pending.length - count);
    m->pending.length -= count;
    m->pending.data[m->pending.length] = 0;
}

static char *find(struct multipart *m, const char *text, size_t length) {
    return memmem(m->pending.data, m->pending.length, text, length);
}

// One header line, without its end: keeps what is needed of the two headers that matter.
static bool read_header(char *line, char *disposition, size_t disposition_size, char *type, size_t type_size,
                        struct error *error) {
    char *colon = strchr(line, ':');
    if (!colon) return error_set(error, ERROR_INPUT, "a part of the form has a malformed header");
    *colon = 0;
    const char *value = skip_space(colon + 1);
    bool is_disposition = !strcasecmp(line, "Content-Disposition"),
         is_type = !strcasecmp(line, "Content-Type");
    if (!is_disposition && !is_type) return true;
    size_t size = is_disposition ? disposition_size : type_size;
    if (strlen(value) >= size)
        return error_set(error, ERROR_INPUT, "a part of the form has a header that is too long");
    memcpy(is_disposition ? disposition : type, value, strlen(value) + 1);
    return true;
}

static bool begin_part(struct multipart *m, char *headers, struct error *error) {
    char disposition[2048] = "", type[256] = "", name[256], filename[1024];
    while (*headers) {
        char *end = strstr(headers, "\r\n");
        char *next = end ? end + 2 : headers + strlen(headers);
        if (end) *end = 0;
        if (!read_header(headers, disposition, sizeof disposition, type, sizeof type, error)) return false;
        headers = next;
    }
    if (strncasecmp(disposition, "form-data", 9) ||
        !multipart_parameter(disposition, "name", name, sizeof name))
        return error_set(error, ERROR_INPUT,
                         "a part of the form has no Content-Disposition: form-data with a name");
    if (++m->parts > MULTIPART_PARTS_MOST)
        return error_set(error, ERROR_INPUT, "the form has more than %d parts", MULTIPART_PARTS_MOST);
    bool named = multipart_parameter(disposition, "filename", filename, sizeof filename);
    if (!named) *filename = 0; // filename*= and one too long to keep make a file without a name
    bool is_file = named || strstr(disposition, "filename");
    struct multipart_part part = {name, is_file ? filename : NULL, type};
    return m->events.begin(m->context, &part, error);
}

// Each of these takes what it can from the pending bytes; *more says whether it may be worth calling again.
static bool take_delimiter(struct multipart *m, bool *more, struct error *error) {
    char *at = find(m, m->delimiter, m->delimiter_length);
    size_t body = at ? (size_t)(at - m->pending.data) : 0;
    // Without a delimiter, all but what could be the start of one is body.
    if (!at && m->pending.length >= m->delimiter_length) body = m->pending.length - (m->delimiter_length - 1);
    if (body && m->state == BODY && !m->events.data(m->context, m->pending.data, body, error)) return false;
    drop(m, body + (at ? m->delimiter_length : 0));
    *more = at != NULL;
    if (!at) return true;
    if (m->state == BODY && !m->events.end(m->context, error)) return false;
    m->state = AFTER_DELIMITER;
    return true;
}

static bool take_line_end(struct multipart *m, bool *more, struct error *error) {
    size_t space = 0;
    while (space < m->pending.length && (m->pending.data[space] == ' ' || m->pending.data[space] == '\t'))
        space++;
    *more = m->pending.length - space >= 2;
    if (space > 64) return error_set(error, ERROR_INPUT, "the form has a malformed boundary");
    if (!*more) return true;
    const char *at = m->pending.data + space;
    if (!memcmp(at, "--", 2))
        m->state = EPILOGUE;
    else if (!memcmp(at, "\r\n", 2))
        m->state = HEADERS;
    else
        return error_set(error, ERROR_INPUT, "the form has a malformed boundary");
    // The line's end stays when headers follow: a part without any begins with an empty line.
    drop(m, space + (m->state == EPILOGUE ? 2 : 0));
    return true;
}

static bool take_headers(struct multipart *m, bool *more, struct error *error) {
    char *end = find(m, "\r\n\r\n", 4);
    *more = end != NULL;
    if (!end && m->pending.length <= MULTIPART_HEADERS_MOST) return true;
    if (!end || (size_t)(end - m->pending.data) > MULTIPART_HEADERS_MOST)
        return error_set(error, ERROR_INPUT, "a part of the form has more than %d bytes of headers",
                         MULTIPART_HEADERS_MOST);
    size_t length = (size_t)(end - m->pending.data);
    if (memchr(m->pending.data, 0, length))
        return error_set(error, ERROR_INPUT, "a part of the form has a 0 byte in a header");
    *end = 0;
    if (!begin_part(m, length > 2 ? m->pending.data + 2 : end, error)) return false;
    drop(m, length + 4);
    m->state = BODY;
    return true;
}

bool multipart_feed(struct multipart *m, const void *bytes, size_t size, struct error *error) {
    // In slices, so that what is pending stays small whatever the caller hands over.
    const char *from = bytes;
    while (size > 0) {
        size_t slice = size < 65536 ? size : 65536;
        if (m->state == EPILOGUE) return true;
        if (!buffer_add(&m->pending, from, slice))
            return error_set(error, ERROR_MEMORY, "no memory for a request body");
        from += slice;
        size -= slice;
        for (bool more = true; more;) {
            bool good = true;
            switch (m->state) {
            case PREAMBLE:
            case BODY:
                good = take_delimiter(m, &more, error);
                break;
            case AFTER_DELIMITER:
                good = take_line_end(m, &more, error);
                break;
            case HEADERS:
                good = take_headers(m, &more, error);
                break;
            case EPILOGUE:
                more = false;
                break;
            }
            if (!good) return false;
        }
    }
    return true;
}

bool multipart_finish(struct multipart *m, struct error *error) {
    return m->state == EPILOGUE || error_set(error, ERROR_INPUT, "the form ends before its closing boundary");
}
