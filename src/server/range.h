// The Range header of a request for bytes (RFC 9110, 14), one range of a known size. Relies on nothing.
#ifndef LIMN_SERVER_RANGE_H
#define LIMN_SERVER_RANGE_H

#include <stdint.h>

enum range_kind {
    RANGE_WHOLE, // no header, one of another unit, several ranges, or a malformed one: all bytes are sent (200)
    RANGE_PART,          // [first, last] is sent (206)
    RANGE_UNSATISFIABLE, // well-formed, and nothing of it lies within the size (416)
};

struct range {
    enum range_kind kind;
    uint64_t first, last; // of RANGE_PART, both included, within [0, size)
};

// [header] is "bytes=0-99", "bytes=100-", "bytes=-100", or NULL; [size] is that of the file.
struct range range_read(const char *header, uint64_t size);

#endif
