// See range.h.
#include "server/range.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

// Reads digits (at least one) at [*at]; what is larger than 2^63 becomes that.
static bool read_number(const char **at, uint64_t *number) {
    const char *from = *at;
    for (*number = 0; **at >= '0' && **at <= '9'; (*at)++)
        *number = *number > UINT64_MAX / 20 ? UINT64_C(1) << 63 : *number * 10 + (uint64_t)(**at - '0');
    return *at > from;
}

struct range range_read(const char *header, uint64_t size) {
    struct range whole = {RANGE_WHOLE, 0, 0}, nothing = {RANGE_UNSATISFIABLE, 0, 0};
    if (!header || strncasecmp(header, "bytes=", 6)) return whole;
    const char *at = header + 6 + strspn(header + 6, " \t");
    uint64_t first = 0, last = 0;
    bool has_first = read_number(&at, &first);
    if (*at++ != '-') return whole;
    bool has_last = read_number(&at, &last);
    at += strspn(at, " \t");
    if (*at || (!has_first && !has_last) || (has_first && has_last && last < first)) return whole;
    if (!has_first) { // the last so many bytes
        if (last == 0 || size == 0) return nothing;
        return (struct range){RANGE_PART, last < size ? size - last : 0, size - 1};
    }
    if (first >= size) return nothing;
    return (struct range){RANGE_PART, first, has_last && last < size ? last : size - 1};
}
