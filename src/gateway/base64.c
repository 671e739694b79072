// See base64.h.
#include "gateway/base64.h"

bool base64_add(struct buffer *out, const void *data, size_t size) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *from = data;
    if (!buffer_reserve(out, (size + 2) / 3 * 4 + 1)) return false;
    char *to = out->data + out->length;
    for (; size >= 3; size -= 3, from += 3) {
        uint32_t three = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 8 | from[2];
        *to++ = letters[three >> 18];
        *to++ = letters[three >> 12 & 63];
        *to++ = letters[three >> 6 & 63];
        *to++ = letters[three & 63];
    }
    if (size) {
        uint32_t rest = (uint32_t)from[0] << 16 | (size == 2 ? (uint32_t)from[1] << 8 : 0);
        *to++ = letters[rest >> 18];
        *to++ = letters[rest >> 12 & 63];
        *to++ = size == 2 ? letters[rest >> 6 & 63] : '=';
        *to++ = '=';
    }
    *to = 0;
    out->length = (size_t)(to - out->data);
    return true;
}
