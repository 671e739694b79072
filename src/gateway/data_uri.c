// See data_uri.h.
#include "gateway/data_uri.h"

#include <string.h>
#include <strings.h>

bool data_uri_is(const char *text) {
    return !strncasecmp(text, "data:", 5);
}

// The six bits of a base64 letter; -1: none; -2: white space.
static int bits_of(unsigned char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+' || c == '-') return 62;
    if (c == '/' || c == '_') return 63;
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' ? -2 : -1;
}

static bool decode_base64(const char *text, size_t length, struct buffer *out, struct error *error) {
    signed char bits[256];
    for (int c = 0; c < 256; c++) bits[c] = (signed char)bits_of((unsigned char)c);
    if (!buffer_reserve(out, length / 4 * 3 + 3))
        return error_set(error, ERROR_MEMORY, "no memory for the picture");
    unsigned char *to = (unsigned char *)out->data + out->length;
    unsigned value = 0;
    size_t letters = 0, padding = 0;
    for (size_t i = 0; i < length; i++) {
        int six = bits[(unsigned char)text[i]];
        if (six == -2) continue;
        if (text[i] == '=') {
            padding++;
            continue;
        }
        if (six < 0 || padding)
            return error_set(error, ERROR_INPUT, "a data URI whose base64 is broken at letter %zu", i);
        value = value << 6 | (unsigned)six;
        if (++letters % 4 == 0) {
            *to++ = (unsigned char)(value >> 16);
            *to++ = (unsigned char)(value >> 8);
            *to++ = (unsigned char)value;
        }
    }
    size_t rest = letters % 4;
    if (rest == 1 || padding > 2 || (padding && rest + padding != 4))
        return error_set(error, ERROR_INPUT, "a data URI whose base64 ends in the middle of a byte");
    if (rest == 2) *to++ = (unsigned char)(value >> 4);
    if (rest == 3) {
        *to++ = (unsigned char)(value >> 10);
        *to++ = (unsigned char)(value >> 2);
    }
    out->length = (size_t)((char *)to - out->data);
    out->data[out->length] = 0;
    return true;
}

static int hex_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool decode_percent(const char *text, size_t length, struct buffer *out, struct error *error) {
    if (!buffer_reserve(out, length + 1)) return error_set(error, ERROR_MEMORY, "no memory for the picture");
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (c == '%') {
            int high = length - i > 2 ? hex_of(text[i + 1]) : -1;
            int low = length - i > 2 ? hex_of(text[i + 2]) : -1;
            if (high < 0 || low < 0)
                return error_set(error, ERROR_INPUT, "a data URI with a broken %% at letter %zu", i);
            c = (char)(high << 4 | low);
            i += 2;
        }
        out->data[out->length++] = c;
    }
    out->data[out->length] = 0;
    return true;
}

bool data_uri_decode(const char *text, size_t length, size_t most, struct buffer *out, struct error *error) {
    const char *comma = memchr(text, ',', length);
    if (!data_uri_is(text) || !comma)
        return error_set(error, ERROR_INPUT, "expected a data URI, \"data:image/png;base64,...\"");
    size_t head = (size_t)(comma - text) - 5, type = 0;
    const char *words = text + 5;
    while (type < head && words[type] != ';') type++;
    bool is_image = type > 6 && !strncasecmp(words, "image/", 6);
    if (type && !is_image && !(type == 24 && !strncasecmp(words, "application/octet-stream", 24)))
        return error_set(error, ERROR_UNSUPPORTED,
                         "a data URI of type %.*s, expected image/png, image/jpeg or image/webp",
                         type > 60 ? 60 : (int)type, words);
    bool base64 = head - type >= 7 && !strncasecmp(words + head - 7, ";base64", 7);
    size_t size = length - (size_t)(comma + 1 - text);
    // White space between base64 letters is rare: the bound is for the text, so that nothing large is allocated in vain.
    if ((base64 ? size / 4 * 3 : size / 3) > most)
        return error_set(error, ERROR_INPUT, "a data URI of more than %zu MiB", most >> 20);
    size_t before = out->length;
    bool good =
        base64 ? decode_base64(comma + 1, size, out, error) : decode_percent(comma + 1, size, out, error);
    if (good && out->length - before > most)
        good = error_set(error, ERROR_INPUT, "a data URI of more than %zu MiB", most >> 20);
    if (!good) out->length = before;
    return good;
}
