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

// Marks of Unicode 10 and later, which the reference's tables (Unicode 9) do not know: they stay where they are and nothing
// passes or joins them.
static const int32_t later_marks[][2] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
    {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
    {0xa82c, 0xa82c},   {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11930}, {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34},
    {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
    {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae},
    {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}};

static bool is_later_mark(int32_t point) {
    size_t low = 0, high = sizeof later_marks / sizeof *later_marks;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (point > later_marks[middle][1])
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof later_marks / sizeof *later_marks && point >= later_marks[low][0];
}

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

// The NFC of a text without later marks.
static bool add_segment(const char *text, size_t size, struct buffer *buffer) {
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

bool nfc_add(const char *text, size_t size, struct buffer *buffer) {
    size_t begin = 0;
    for (size_t at = 0; at < size;) {
        int32_t point;
        size_t length = utf8_decode(text + at, size - at, &point);
        if (is_later_mark(point)) {
            if (!add_segment(text + begin, at - begin, buffer) || !buffer_add(buffer, text + at, length))
                return false;
            begin = at + length;
        }
        at += length;
    }
    return add_segment(text + begin, size - begin, buffer);
}
