// A body in chunks: one byte that says in what pieces it comes, then the body. What is found does not depend on the pieces, and
// written anew as the relay does it, it is good and the same.
#include "fuzz.h"

#include "base/buffer.h"
#include "server/chunks.h"

static enum chunks_verdict read_all(const uint8_t *data, size_t size, size_t piece, struct buffer *body,
                                    size_t *read) {
    struct chunks chunks = {0};
    enum chunks_verdict verdict = CHUNKS_MORE;
    for (*read = 0; *read < size;) {
        size_t taken, found, given = size - *read < piece ? size - *read : piece;
        char *copy = malloc(given); // of exactly this size, so that a read behind it is seen
        memcpy(copy, data + *read, given);
        verdict = chunks_read(&chunks, copy, given, &taken, &found);
        promise(taken <= given && found <= taken && taken > 0);
        promise(verdict != CHUNKS_MORE || taken == given);
        promise((verdict == CHUNKS_DATA) == (found > 0));
        promise((verdict == CHUNKS_BAD) == (chunks.why != NULL));
        promise(buffer_add(body, copy + taken - found, found));
        free(copy);
        *read += taken;
        if (verdict == CHUNKS_END || verdict == CHUNKS_BAD) return verdict;
    }
    return CHUNKS_MORE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct buffer whole = {0}, pieces = {0}, anew = {0}, again = {0};
    size_t first, second, third;
    if (size < 1) return 0;
    size_t piece = 1 + data[0];
    enum chunks_verdict verdict = read_all(data + 1, size - 1, SIZE_MAX, &whole, &first);
    promise(read_all(data + 1, size - 1, piece, &pieces, &second) == verdict && first == second);
    promise(whole.length == pieces.length &&
            !memcmp(whole.data ? whole.data : "", pieces.data ? pieces.data : "", whole.length));
    if (verdict == CHUNKS_END) {
        if (whole.length) {
            promise(buffer_printf(&anew, "%zx\r\n", whole.length));
            promise(buffer_add(&anew, whole.data, whole.length) && buffer_add_string(&anew, "\r\n"));
        }
        promise(buffer_add_string(&anew, "0\r\n\r\n"));
        promise(read_all((const uint8_t *)anew.data, anew.length, piece, &again, &third) == CHUNKS_END);
        promise(third == anew.length && again.length == whole.length);
    }
    buffer_free(&whole);
    buffer_free(&pieces);
    buffer_free(&anew);
    buffer_free(&again);
    return 0;
}
