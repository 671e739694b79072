// UTF-8: stepping through text that may be broken, and making it whole. Relies on base.
#ifndef LIMN_TEXT_UTF8_H
#define LIMN_TEXT_UTF8_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Decodes one code point from [text], [size] > 0 bytes. Returns the bytes it takes, 1 to 4; *point is -1 for an invalid
// sequence, which then takes its maximal valid beginning (at least one byte), as the Unicode standard recommends (section
// 3.9, table 3-8) and as Python's "replace" and WHATWG decoders do.
size_t utf8_decode(const char *text, size_t size, int32_t *point);

// Writes a code point (at most 4 bytes) and returns the bytes written.
size_t utf8_encode(int32_t point, char *text);

bool utf8_valid(const char *text, size_t size);

// Appends [text] with each invalid sequence replaced by U+FFFD. False when memory is gone.
bool utf8_repair(const char *text, size_t size, struct buffer *buffer);

// Unicode's White_Space property.
bool utf8_is_space(int32_t point);

#endif
