// Fetching the rows of a one-row product some way ahead of where they are read: a processor's own prefetch loses its way in
// blocks whose parts are not read in order, and stops at pages. Relies on nothing.
#ifndef LIMN_TENSOR_CPU_FETCH_H
#define LIMN_TENSOR_CPU_FETCH_H

#include <stddef.h>
#include <stdint.h>

enum { FETCH_AHEAD = 6144 }; // bytes: about 200 ns of reading, and an eighth of a first-level cache

// What is fetched next: rows [row_bytes] apart, of each the bytes up to [end].
struct fetch {
    const char *at, *end;
    size_t row_bytes, skipped;
};

// For rows of which [used] > 0 bytes are read one after the other. Addresses go beyond the last row, which does no harm.
static inline struct fetch fetch_from(const void *rows, size_t row_bytes, size_t used) {
    const char *first = (const char *)((uintptr_t)rows + FETCH_AHEAD / used * row_bytes);
    return (struct fetch){first + FETCH_AHEAD % used, first + used, row_bytes, row_bytes - used};
}

// To be called for each [bytes] that are read.
static inline __attribute__((always_inline)) void fetch_next(struct fetch *fetch, int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(fetch->at + i, 0, 3);
    fetch->at += bytes;
    if (fetch->at < fetch->end) return;
    fetch->at += fetch->skipped;
    fetch->end += fetch->row_bytes;
}

#endif
