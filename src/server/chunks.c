// See chunks.h.
#include "server/chunks.h"

#define LINE_MOST                                                                                            \
    4096 // of a chunk's size with its extensions, and of all lines behind the last chunk together
#define CHUNK_MOST (1ull << 40)

enum state {
    SIZE,      // the chunk's size, in hexadecimal digits
    EXTENSION, // what follows it, to the line's end
    DATA,
    DATA_END, // the line's end behind the chunk
    TRAILER,  // lines behind the last chunk, to an empty one
    OVER,
};

static enum chunks_verdict bad(struct chunks *chunks, const char *why) {
    chunks->why = why;
    return CHUNKS_BAD;
}

static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

// Whether [c] ends a line; false with *wrong where a carriage return is not followed by that.
static bool ends_line(struct chunks *chunks, char c, bool *wrong) {
    *wrong = chunks->cr && c != '\n';
    chunks->cr = c == '\r';
    return c == '\n';
}

static enum chunks_verdict read_size(struct chunks *chunks, char c) {
    static const char expected[] = "the body: expected a chunk's size in hexadecimal digits";
    bool wrong, end;
    if (++chunks->line > LINE_MOST) return bad(chunks, "the body: a chunk's first line is too long");
    if (chunks->state == SIZE && digit(c) >= 0 && !chunks->cr) {
        chunks->left = chunks->left * 16 + (uint64_t)digit(c);
        chunks->digits = true;
        return chunks->left < CHUNK_MOST ? CHUNKS_MORE : bad(chunks, "the body: a chunk is too large");
    }
    end = ends_line(chunks, c, &wrong);
    if (wrong || !chunks->digits) return bad(chunks, expected);
    if (end) {
        chunks->state = chunks->left ? DATA : TRAILER;
        chunks->line = 0;
    } else if (chunks->state == SIZE && !chunks->cr) {
        if (c != ';' && c != ' ' && c != '\t') return bad(chunks, expected);
        chunks->state = EXTENSION;
    }
    return CHUNKS_MORE;
}

static enum chunks_verdict read_end(struct chunks *chunks, char c) {
    bool wrong, end = ends_line(chunks, c, &wrong);
    if (!end && (wrong || !chunks->cr)) return bad(chunks, "the body: expected a line's end behind a chunk");
    if (!end) return CHUNKS_MORE;
    chunks->state = SIZE;
    chunks->digits = false;
    return CHUNKS_MORE;
}

static enum chunks_verdict read_trailer(struct chunks *chunks, char c) {
    bool wrong, end = ends_line(chunks, c, &wrong);
    if (++chunks->extra > LINE_MOST) return bad(chunks, "the body: too much behind the last chunk");
    if (wrong) return bad(chunks, "the body: expected an empty line behind the last chunk");
    if (!end) {
        chunks->line += !chunks->cr;
        return CHUNKS_MORE;
    }
    if (!chunks->line) {
        chunks->state = OVER;
        return CHUNKS_END;
    }
    chunks->line = 0;
    return CHUNKS_MORE;
}

enum chunks_verdict chunks_read(struct chunks *chunks, const char *data, size_t size, size_t *taken,
                                size_t *found) {
    *found = 0;
    for (*taken = 0; *taken < size && chunks->state != DATA;) {
        char c = data[(*taken)++];
        enum chunks_verdict verdict = chunks->state == TRAILER    ? read_trailer(chunks, c)
                                      : chunks->state == DATA_END ? read_end(chunks, c)
                                      : chunks->state == OVER     ? CHUNKS_END
                                                                  : read_size(chunks, c);
        if (verdict != CHUNKS_MORE) return verdict;
    }
    if (*taken == size) return CHUNKS_MORE;
    *found = size - *taken < chunks->left ? size - *taken : (size_t)chunks->left;
    *taken += *found;
    chunks->left -= *found;
    if (!chunks->left) chunks->state = DATA_END;
    return CHUNKS_DATA;
}
