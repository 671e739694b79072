// The head of an HTTP/1 request, judged before anybody reads it: whether it is whole, too large or malformed (RFC 9112). Relies on
// nothing. What is let through here the reader takes; it may still refuse what it says.
#ifndef LIMN_SERVER_HEAD_H
#define LIMN_SERVER_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum head_verdict {
    HEAD_PARTIAL, // more is to come
    HEAD_GOOD,    // it is whole
    HEAD_BAD,     // it cannot become a good one
};

struct head_judgement {
    int status;      // HEAD_BAD: 400, 413, 414, 431 or 505
    const char *why; // for the client, one line
    // HEAD_GOOD:
    size_t length; // bytes of the head, with the empty line that ends it and those that come before it
    int framings;  // how often it says how long the body is: more than once is for the reader to refuse
    uint64_t body; // bytes of it, by Content-Length; 0: none said
    bool chunked;  // it comes in chunks
};

// [data]: what has come, from the connection's first byte on. [most]: bytes of request line and headers together.
enum head_verdict head_judge(const char *data, size_t size, size_t most, struct head_judgement *judgement);

#endif
