// A request's body that comes in chunks (RFC 9112, 7.1), as it arrives. Relies on nothing.
#ifndef LIMN_SERVER_CHUNKS_H
#define LIMN_SERVER_CHUNKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum chunks_verdict {
    CHUNKS_MORE, // all that came was read, more is to come
    CHUNKS_DATA, // bytes of the body were found
    CHUNKS_END,  // the body is whole
    CHUNKS_BAD,  // it cannot become a good one
};

// Starts as {0}.
struct chunks {
    int state;       // see chunks.c
    uint64_t left;   // bytes of the chunk that are to come
    size_t line;     // bytes of the line that is being read
    size_t extra;    // bytes of the lines behind the last chunk
    bool digits;     // of the chunk's size have come
    bool cr;         // the last byte was one
    const char *why; // CHUNKS_BAD: for the client, one line
};

// Reads what came of a body. *taken says how many of [data, data + size) were read; with CHUNKS_DATA the last *found of these
// are bytes of the body. Call again with the rest until CHUNKS_MORE or an end. Extensions of chunks and the headers behind the last
// one are passed over.
enum chunks_verdict chunks_read(struct chunks *chunks, const char *data, size_t size, size_t *taken,
                                size_t *found);

#endif
