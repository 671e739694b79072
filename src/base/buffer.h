// A growing run of bytes: what is read from a socket, built for a body, written to a file. Relies on nothing.
#ifndef LIMN_BASE_BUFFER_H
#define LIMN_BASE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

struct buffer {
    char *data;      // always followed by a 0 byte once anything was added; NULL before
    size_t length;   // bytes in use, the 0 byte not counted
    size_t capacity; // bytes allocated
};

// A buffer starts as {0}. Each call returns false when memory is gone; the content stays as it was.
bool buffer_reserve(struct buffer *buffer, size_t more);
bool buffer_add(struct buffer *buffer, const void *bytes, size_t length);
bool buffer_add_string(struct buffer *buffer, const char *text);
bool buffer_printf(struct buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buffer_free(struct buffer *buffer);

#endif
