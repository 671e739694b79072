// UTF-8, as described in utf8.h.
#include "text/utf8.h"

size_t utf8_decode(const char *text, size_t size, int32_t *point) {
    const unsigned char *bytes = (const unsigned char *)text;
    unsigned char lead = bytes[0];
    *point = -1;
    if (lead < 0x80) {
        *point = lead;
        return 1;
    }
    if (lead < 0xc2 || lead > 0xf4) return 1;
    size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    int32_t value = lead & (0x7f >> length);
    for (size_t i = 1; i < length; i++) {
        if (i >= size || (bytes[i] & 0xc0) != 0x80) return i;
        // The second byte alone tells overlong forms, surrogates and what lies beyond U+10FFFF.
        if (i == 1 && ((lead == 0xe0 && bytes[1] < 0xa0) || (lead == 0xed && bytes[1] > 0x9f) ||
                       (lead == 0xf0 && bytes[1] < 0x90) || (lead == 0xf4 && bytes[1] > 0x8f)))
            return 1;
        value = value << 6 | (bytes[i] & 0x3f);
    }
    *point = value;
    return length;
}

size_t utf8_encode(int32_t point, char *text) {
    if (point < 0x80) {
        text[0] = (char)point;
        return 1;
    }
    size_t length = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = length - 1; i > 0; i--, point >>= 6) text[i] = (char)(0x80 | (point & 0x3f));
    text[0] = (char)(lead[length] | point);
    return length;
}

bool utf8_valid(const char *text, size_t size) {
    for (size_t i = 0; i < size;) {
        int32_t point;
        i += utf8_decode(text + i, size - i, &point);
        if (point < 0) return false;
    }
    return true;
}

bool utf8_repair(const char *text, size_t size, struct buffer *buffer) {
    if (!buffer_reserve(buffer, size)) return false;
    size_t begin = 0;
    for (size_t i = 0; i < size;) {
        int32_t point;
        size_t length = utf8_decode(text + i, size - i, &point);
        if (point < 0) {
            if (!buffer_add(buffer, text + begin, i - begin) || !buffer_add(buffer, "\xef\xbf\xbd", 3))
                return false;
            begin = i + length;
        }
        i += length;
    }
    return buffer_add(buffer, text + begin, size - begin);
}

bool utf8_is_space(int32_t point) {
    return (point >= 0x9 && point <= 0xd) || point == 0x20 || point == 0x85 || point == 0xa0 ||
           point == 0x1680 || (point >= 0x2000 && point <= 0x200a) || point == 0x2028 || point == 0x2029 ||
           point == 0x202f || point == 0x205f || point == 0x3000;
}
