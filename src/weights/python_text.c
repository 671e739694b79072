// See python_text.h.
#include "weights/python_text.h"

#include <ctype.h>
#include <stdint.h>
#include <string.h>

struct source {
    const char *file;
    const char *at, *end;
    int line;
    struct error *error;
};

static bool fail(struct source *source, const char *what) {
    return error_set(source->error, ERROR_INPUT, "%s:%d: %s", source->file, source->line, what);
}

static bool no_memory(struct source *source) {
    return error_set(source->error, ERROR_MEMORY, "%s: not enough memory to read it", source->file);
}

static int peek(const struct source *source, size_t ahead) {
    return (size_t)(source->end - source->at) > ahead ? (unsigned char)source->at[ahead] : -1;
}

static void step(struct source *source) {
    if (*source->at++ == '\n') source->line++;
}

static bool is_name_letter(int c) {
    return c >= 0 && (isalnum(c) || c == '_' || c >= 0x80);
}

// ------------------------------------------------------------------------------------------------------------- literals

// How many prefix letters stand before a quote here; -1: no literal begins here. *raw, *other: which they are.
static int literal_prefix(const struct source *source, bool *raw, bool *other) {
    int letters = 0;
    *raw = *other = false;
    while (letters < 2 && peek(source, (size_t)letters) > 0 &&
           strchr("rRuUbBfFtT", peek(source, (size_t)letters))) {
        int letter = tolower(peek(source, (size_t)letters));
        if (letter == 'r') *raw = true;
        if (letter == 'b' || letter == 'f' || letter == 't') *other = true;
        letters++;
    }
    int quote = peek(source, (size_t)letters);
    return quote == '"' || quote == '\'' ? letters : -1;
}

static bool add_character(struct source *source, struct buffer *value, uint32_t code) {
    char bytes[4];
    size_t count;
    if (code == 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return fail(source, "an escape that is no character of a text");
    if (code < 0x80) {
        bytes[0] = (char)code;
        count = 1;
    } else if (code < 0x800) {
        bytes[0] = (char)(0xc0 | code >> 6);
        count = 2;
    } else if (code < 0x10000) {
        bytes[0] = (char)(0xe0 | code >> 12);
        count = 3;
    } else {
        bytes[0] = (char)(0xf0 | code >> 18);
        count = 4;
    }
    for (size_t i = 1; i < count; i++) bytes[i] = (char)(0x80 | (code >> (6 * (count - 1 - i)) & 0x3f));
    return buffer_add(value, bytes, count) || no_memory(source);
}

// [digits] of base 16, or 1 to 3 of base 8.
static bool add_number(struct source *source, struct buffer *value, int base, int digits) {
    static const char hexadecimal[] = "0123456789abcdef";
    uint32_t code = 0;
    int count = 0;
    for (; count < digits; count++) {
        int c = peek(source, 0);
        const char *found = c > 0 ? strchr(hexadecimal, tolower(c)) : NULL;
        if (!found || found - hexadecimal >= base) break;
        code = code * (uint32_t)base + (uint32_t)(found - hexadecimal);
        source->at++;
    }
    if (base == 16 && count < digits) return fail(source, "an escape with too few hexadecimal digits");
    return add_character(source, value, code);
}

// Behind a backslash.
static bool add_escape(struct source *source, struct buffer *value) {
    static const char letters[] = "\\'\"abfnrtv", meanings[] = "\\'\"\a\b\f\n\r\t\v";
    int c = peek(source, 0);
    if (c < 0) return fail(source, "a backslash at the end of the file");
    if (c == '\r' && peek(source, 1) == '\n') source->at++, c = '\n';
    if (c == '\n') { // the line goes on
        step(source);
        return true;
    }
    if (c >= '0' && c <= '7') return add_number(source, value, 8, 3);
    if (c == 'N') return fail(source, "\\N{...} is not understood");
    source->at++;
    if (c == 'x') return add_number(source, value, 16, 2);
    if (c == 'u') return add_number(source, value, 16, 4);
    if (c == 'U') return add_number(source, value, 16, 8);
    const char *found = c ? strchr(letters, c) : NULL;
    if (found) return buffer_add(value, &meanings[found - letters], 1) || no_memory(source);
    char both[2] = {'\\', (char)c}; // any other stays as it is
    if (c == 0) return fail(source, "a 0 byte");
    return buffer_add(value, both, 2) || no_memory(source);
}

// One letter of a literal, not its end. Python reads any end of a line as \n.
static bool add_letter(struct source *source, struct buffer *value, bool raw) {
    char c = *source->at;
    if (c == 0) return fail(source, "a 0 byte");
    if (c == '\\' && !raw) {
        source->at++;
        return add_escape(source, value);
    }
    if (c == '\\' && source->end - source->at > 1) { // raw: the next letter ends nothing
        if (!buffer_add(value, "\\", 1)) return no_memory(source);
        source->at++;
        c = *source->at;
        if (c == 0) return fail(source, "a 0 byte");
    }
    if (c == '\r') {
        if (peek(source, 1) == '\n') source->at++;
        c = '\n';
    }
    step(source);
    return buffer_add(value, &c, 1) || no_memory(source);
}

// The literal that begins here with [letters] of a prefix. [value] NULL: it is passed over, whatever its kind.
static bool read_literal(struct source *source, int letters, bool raw, struct buffer *value) {
    struct buffer ignored = {0}, *to = value ? value : &ignored;
    int begin = source->line;
    source->at += letters;
    char quote = *source->at;
    bool triple = peek(source, 1) == quote && peek(source, 2) == quote, good = true;
    source->at += triple ? 3 : 1;
    for (;;) {
        int c = peek(source, 0);
        if (c < 0 || (!triple && (c == '\n' || c == '\r'))) {
            source->line = begin;
            good = fail(source, "a text that is not closed");
            break;
        }
        if (c == quote && (!triple || (peek(source, 1) == quote && peek(source, 2) == quote))) {
            source->at += triple ? 3 : 1;
            break;
        }
        // What is passed over is read as raw: an escape in it means nothing, but a quote behind a backslash does not end it.
        if (!add_letter(source, to, raw || !value)) {
            good = false;
            break;
        }
        ignored.length = 0;
    }
    buffer_free(&ignored);
    return good;
}

// ----------------------------------------------------------------------------------------------------------- assignments

// Blanks, comments, and with [lines] also ends of lines; a backslash joins lines.
static void skip_blanks(struct source *source, bool lines) {
    for (int c; (c = peek(source, 0)) >= 0;) {
        if (c == '#') {
            while (peek(source, 0) >= 0 && peek(source, 0) != '\n') source->at++;
        } else if (c == '\\' && peek(source, 1) == '\n') {
            source->at++;
            step(source);
        } else if (c == ' ' || c == '\t' || c == '\f' || c == '\r' || (lines && c == '\n')) {
            step(source);
        } else {
            return;
        }
    }
}

static bool take(struct source *source, const char *word) {
    size_t length = strlen(word);
    if ((size_t)(source->end - source->at) < length || memcmp(source->at, word, length) != 0) return false;
    source->at += length;
    return true;
}

// Blanks at both ends of what lies behind [begin], as .strip() removes them; of Unicode's only ASCII's.
static void strip(struct buffer *value, size_t begin) {
    static const char blanks[] = " \t\n\r\f\v\x1c\x1d\x1e\x1f";
    size_t from = begin, to = value->length;
    while (from < to && strchr(blanks, value->data[from])) from++;
    while (to > from && strchr(blanks, value->data[to - 1])) to--;
    if (!value->data) return;
    memmove(value->data + begin, value->data + from, to - from);
    value->length = begin + to - from;
    value->data[value->length] = 0;
}

// What stands behind the sign of equality, to the end of its line.
static bool read_value(struct source *source, struct buffer *value) {
    size_t begin = value->length;
    int literals = 0, open = 0;
    bool raw, other;
    skip_blanks(source, false);
    while (take(source, "(") && ++open <= 20) skip_blanks(source, true);
    for (int letters; (letters = literal_prefix(source, &raw, &other)) >= 0; literals++) {
        if (other) return fail(source, "a formatted text or bytes, expected a plain text");
        if (!read_literal(source, letters, raw, value)) return false;
        skip_blanks(source, open > 0);
    }
    if (!literals) return fail(source, "expected a text in quotes");
    for (; open > 0 && take(source, ")"); open--) skip_blanks(source, open > 1);
    if (take(source, ".strip()")) strip(value, begin);
    skip_blanks(source, false);
    if (open || (peek(source, 0) >= 0 && peek(source, 0) != '\n'))
        return fail(source, "expected nothing but texts in quotes");
    return true;
}

// Whether NAME = begins here; the place is then behind the sign.
static bool take_assignment(struct source *source, const char *name) {
    struct source before = *source;
    if (take(source, name) && !is_name_letter(peek(source, 0))) {
        skip_blanks(source, false);
        if (take(source, ":")) { // an annotation
            skip_blanks(source, false);
            while (is_name_letter(peek(source, 0)) || peek(source, 0) == '.') source->at++;
            skip_blanks(source, false);
        }
        if (take(source, "=") && peek(source, 0) != '=') return true;
    }
    *source = before;
    return false;
}

bool python_text(const char *file, const char *text, size_t size, const char *name, struct buffer *value,
                 struct error *error) {
    struct source source = {file, text, text + size, 1, error};
    bool found = false, raw, other, fresh = true; // fresh: at the beginning of a line
    take(&source, "\xef\xbb\xbf");
    while (source.at < source.end) {
        if (fresh && take_assignment(&source, name)) {
            if (found) return fail(&source, "the constant is assigned a second time");
            if (!read_value(&source, value)) return error_prefix(error, "%s", name);
            found = true;
        }
        if (source.at >= source.end) break;
        fresh = false;
        int letters = literal_prefix(&source, &raw, &other);
        if (letters >= 0) {
            if (!read_literal(&source, letters, raw, NULL)) return false;
        } else if (*source.at == '#') {
            skip_blanks(&source, false);
        } else if (is_name_letter(*source.at & 0xff)) { // whole, so that its last letters are no prefix
            while (is_name_letter(peek(&source, 0)) && literal_prefix(&source, &raw, &other) < 0) source.at++;
        } else {
            fresh = *source.at == '\n';
            step(&source);
        }
    }
    if (found) return true;
    return error_set(error, ERROR_NOT_FOUND, "%s: there is no constant %s in it", file, name);
}
