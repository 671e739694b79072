// NFC: decompose, put marks in canonical order, compose. utf8proc does the first and the last; its ordering is quadratic
// in the length of a run of marks, which a hostile text could use, so that step is done here.
#include "text/nfc.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

struct mark {
    int combining;
    size_t position;
    int32_t point;
};

static int compare(const void *a, const void *b) {
    const struct mark *x = a, *y = b;
    if (x->combining != y->combining) return x->combining - y->combining;
    return x->position < y->position ? -1 : x->position > y->position;
}

// Sorts each run of marks by combining class, equal ones in the order they came.
static bool order_marks(int32_t *points, size_t count) {
    struct mark *marks = NULL;
    size_t capacity = 0;
    for (size_t begin = 0; begin < count;) {
        size_t end = begin;
        for (; end < count && utf8proc_get_property(points[end])->combining_class != 0; end++) {
            if (end - begin == capacity) {
                capacity = capacity ? capacity * 2 : 32;
                struct mark *grown = realloc(marks, capacity * sizeof *marks);
                if (!grown) {
                    free(marks);
                    return false;
                }
                marks = grown;
            }
            marks[end - begin] =
                (struct mark){utf8proc_get_property(points[end])->combining_class, end, points[end]};
        }
        if (end - begin > 1) qsort(marks, end - begin, sizeof *marks, compare);
        for (size_t i = begin; i < end; i++) points[i] = marks[i - begin].point;
        begin = end > begin ? end : begin + 1;
    }
    free(marks);
    return true;
}

static bool is_ascii(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)text[i] >= 0x80) return false;
    return true;
}

bool nfc_add(const char *text, size_t size, struct buffer *buffer) {
    if (is_ascii(text, size)) return buffer_add(buffer, text, size);
    enum { DECOMPOSED_MOST = 8 }; // code points that one decomposes into; Unicode has at most 4
    size_t capacity = size * 2 + DECOMPOSED_MOST, count = 0;
    int32_t *points = malloc(capacity * sizeof *points);
    bool done = points;
    for (size_t i = 0; done && i < size;) {
        int32_t point;
        i += utf8_decode(text + i, size - i, &point);
        if (capacity - count < DECOMPOSED_MOST) {
            capacity *= 2;
            int32_t *grown = realloc(points, capacity * sizeof *points);
            done = grown;
            if (done) points = grown;
        }
        if (!done) break;
        utf8proc_ssize_t written =
            utf8proc_decompose_char(point, points + count, (utf8proc_ssize_t)(capacity - count),
                                    UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, NULL);
        if (written > 0) count += (size_t)written;
    }
    done = done && order_marks(points, count);
    if (done) {
        utf8proc_ssize_t composed =
            utf8proc_normalize_utf32(points, (utf8proc_ssize_t)count, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        for (utf8proc_ssize_t i = 0; done && i < composed; i++) {
            char bytes[4];
            done = buffer_add(buffer, bytes, utf8_encode(points[i], bytes));
        }
    }
    free(points);
    return done;
}
