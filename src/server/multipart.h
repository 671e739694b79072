// multipart/form-data (RFC 7578, RFC 2046 5.1) as it arrives, piece by piece: parts are handed on without being kept. Relies on
// base.
#ifndef LIMN_SERVER_MULTIPART_H
#define LIMN_SERVER_MULTIPART_H

#include "base/error.h"

#include <stddef.h>

#define MULTIPART_HEADERS_MOST 8192 // bytes of one part's headers
#define MULTIPART_PARTS_MOST   256

struct multipart_part {
    const char *name;     // of the form's field
    const char *filename; // NULL: a text field
    const char *type;     // Content-Type, "" where none is given
};

// A false from any of them ends the parsing; it has set the error.
struct multipart_events {
    bool (*begin)(void *context, const struct multipart_part *part, struct error *error);
    bool (*data)(void *context, const void *bytes, size_t size, struct error *error);
    bool (*end)(void *context, struct error *error);
};

struct multipart;

// [content_type] is the request's header: "multipart/form-data; boundary=...".
struct multipart *multipart_open(const char *content_type, const struct multipart_events *events,
                                 void *context, struct error *error);
void multipart_close(struct multipart *multipart); // NULL is fine

bool multipart_feed(struct multipart *multipart, const void *bytes, size_t size, struct error *error);
// Whether the body has come to its proper end.
bool multipart_finish(struct multipart *multipart, struct error *error);

// The value of a parameter (boundary, name, filename) of a header value like `form-data; name="x"`; quoted or not. Returns
// false when it is not there or longer than [size] - 1.
bool multipart_parameter(const char *header, const char *parameter, char *value, size_t size);

#endif
