// A multipart body: one byte that says how it is cut, the Content-Type up to the end of the line, the body. However it is cut,
// the same parts come out of it.
#include "fuzz.h"

#include "server/multipart.h"

struct seen {
    bool inside;
    int parts;
    size_t bytes;
    uint64_t digest; // of the parts' names and bytes, whatever the pieces
    bool refuse;     // the listener has had enough
};

static void digest(struct seen *seen, const void *bytes, size_t size) {
    for (size_t i = 0; i < size; i++)
        seen->digest = (seen->digest ^ ((const uint8_t *)bytes)[i]) * 1099511628211u;
}

static bool on_begin(void *context, const struct multipart_part *part, struct error *error) {
    struct seen *seen = context;
    promise(!seen->inside && part->name && part->type);
    seen->inside = true;
    seen->parts++;
    promise(seen->parts <= MULTIPART_PARTS_MOST);
    digest(seen, part->name, strlen(part->name) + 1);
    digest(seen, part->type, strlen(part->type) + 1);
    if (part->filename) digest(seen, part->filename, strlen(part->filename) + 1);
    if (seen->refuse && seen->parts == 3)
        return error_set(error, ERROR_INPUT, "too many parts for the listener");
    return true;
}

static bool on_data(void *context, const void *bytes, size_t size, struct error *error) {
    struct seen *seen = context;
    promise(seen->inside);
    seen->bytes += size;
    digest(seen, bytes, size);
    return true;
}

static bool on_end(void *context, struct error *error) {
    struct seen *seen = context;
    promise(seen->inside);
    seen->inside = false;
    digest(seen, "end", 3);
    return true;
}

static bool parse(const char *type, const uint8_t *body, size_t size, size_t piece, struct seen *seen) {
    static const struct multipart_events events = {on_begin, on_data, on_end};
    struct error error = {0};
    struct multipart *multipart = multipart_open(type, &events, seen, &error);
    bool good = multipart != NULL;
    for (size_t at = 0; good && at < size; at += piece) {
        size_t length = size - at < piece ? size - at : piece;
        uint8_t *copy = malloc(length); // of exactly this size, so that a read behind it is seen
        memcpy(copy, body + at, length);
        good = multipart_feed(multipart, copy, length, &error);
        free(copy);
    }
    good = good && multipart_finish(multipart, &error);
    if (!good) promise_explained(&error);
    if (good) promise(!seen->inside);
    promise(seen->bytes <= size);
    multipart_close(multipart);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    char type[256];
    size_t line = 0;
    while (1 + line < size && data[1 + line] != '\n' && line + 1 < sizeof type) line++;
    memcpy(type, data + 1, line);
    type[line] = 0;
    size_t skip = 1 + line < size ? 2 + line : size;
    struct seen whole = {.refuse = data[0] & 1}, pieces = {.refuse = data[0] & 1};
    bool first = parse(type, data + skip, size - skip, size + 1, &whole);
    bool second = parse(type, data + skip, size - skip, (size_t)(data[0] >> 1) + 1, &pieces);
    promise(first == second);
    if (first)
        promise(whole.digest == pieces.digest && whole.parts == pieces.parts && whole.bytes == pieces.bytes);
    return 0;
}
