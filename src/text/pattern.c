// Patterns, as described in pattern.h. What differs between the dialects and is rewritten: \s (PCRE2's includes U+180E),
// \w (PCRE2's lacks marks, connectors and circled letters), \h (hexadecimal digits here), \v (one character here), \u,
// scripts (PCRE2 takes script extensions), lines that end with \n alone. Source: the manuals of Oniguruma 6.9 (doc/RE) and
// pcre2pattern(3), checked by running every code point through both.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pattern.h"
#include "text/pattern_unicode.h"
#include "text/utf8.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    PATTERN_SIZE_MOST = 32768,
    JIT_STACK_MOST = 4 << 20,    // bytes; a search that needs more is run again without JIT
    MATCH_STEPS_LEAST = 1000000, // of one search, whatever the text
    MATCH_STEPS_PER_BYTE = 32,   // more for a longer text
    MATCH_HEAP_MOST = 256 << 10, // KiB
};

// White_Space and what is not, as ranges for the inside of a class.
#define SPACE                                                                                                \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{" \
    "3000}"
#define NOT_SPACE                                                                                            \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}" \
    "-\\x{2027}"                                                                                             \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

struct pattern {
    pcre2_code *code;
};

struct pattern_search {
    const struct pattern *pattern;
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

// --------------------------------------------------------------------------------------------------------- rewriting

struct rewriter {
    const char *source;
    size_t size, at;
    struct buffer *out;
    struct error *error;
    int depth;       // of open groups
    int insensitive; // the depth of the outermost group that ignores case, 0 outside
    bool in_class;
};

static bool refuse(struct rewriter *r, const char *what) {
    return error_set(r->error, ERROR_UNSUPPORTED, "%s in a pattern, at byte %zu", what, r->at);
}

static bool put(struct rewriter *r, const char *text) {
    if (!buffer_add_string(r->out, text)) return error_set(r->error, ERROR_MEMORY, "out of memory");
    return true;
}

static bool put_point(struct rewriter *r, int32_t point) {
    if (point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
        return refuse(r, "a code point that does not exist");
    if (!buffer_printf(r->out, "\\x{%x}", (unsigned)point))
        return error_set(r->error, ERROR_MEMORY, "out of memory");
    return true;
}

// A class of [inside]: bare within a class, in brackets outside.
static bool put_class(struct rewriter *r, const char *inside, bool negated) {
    if (r->in_class) return put(r, inside);
    return put(r, negated ? "[^" : "[") && put(r, inside) && put(r, "]");
}

// The class of some general categories, one or two letters each, separated by spaces, and of the ranges in [more].
static bool put_categories(struct rewriter *r, const char *names, const char *more, bool negated) {
    struct buffer inside = {0};
    bool done = buffer_add_string(&inside, more);
    for (const char *name = names; done && *name; name += strspn(name, " ")) {
        size_t length = strcspn(name, " ");
        done = buffer_printf(&inside, "\\p{%.*s}", (int)length, name);
        for (size_t i = 0; done && i < sizeof unicode_new / sizeof *unicode_new; i++)
            if (strncmp(unicode_new[i].category, name, length) == 0)
                done = buffer_printf(&inside, "\\x{%x}-\\x{%x}", unicode_new[i].first, unicode_new[i].last);
        name += length;
    }
    if (!done) error_set(r->error, ERROR_MEMORY, "out of memory");
    done = done && put_class(r, inside.data, negated);
    buffer_free(&inside);
    return done;
}

// \w: letters, marks, digits, letter-like numbers and symbols, connectors; outside of a class also the numbers of Latin-1.
static bool put_word(struct rewriter *r, bool negated) {
    static const char circled[] =
        "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}";
    char more[sizeof circled + 40];
    snprintf(more, sizeof more, "%s%s", r->in_class ? "" : "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}", circled);
    return put_categories(r, "L M Nd Nl Pc", more, negated);
}

// \p{Name}, \P{Name}; at is behind the p.
static bool rewrite_property(struct rewriter *r, bool negated) {
    const char *open = r->source + r->at;
    const char *close = r->at < r->size ? memchr(open, '}', r->size - r->at) : NULL;
    if (!close || *open != '{') return refuse(r, "a property without braces");
    const char *begin = open + 1;
    if (begin < close && *begin == '^') {
        negated = !negated;
        begin++;
    }
    char name[40] = "";
    size_t length = (size_t)(close - begin);
    if (length == 0 || length >= sizeof name) return refuse(r, "a property of unknown name");
    for (size_t i = 0; i < length; i++) {
        name[i] = begin[i];
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_", name[i]) || !name[i])
            return refuse(r, "a property of unknown name");
    }
    bool category = length <= 2 && strchr("CLMNPSZ", name[0]);
    if (r->insensitive && category && strlen(name) == 2 && strchr("ult", name[1]) && name[0] == 'L')
        return refuse(r, "a property of one case where case is ignored");
    r->at = (size_t)(close - r->source) + 1;
    if (category && !(negated && r->in_class)) return put_categories(r, name, "", negated);
    // In a class a negated property keeps PCRE2's own table: ranges cannot be taken away there. Of the scripts only Han
    // gets what Unicode 15 and 15.1 added to it.
    static const char new_han[] = "\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}";
    char inside[sizeof new_han + 64];
    bool han = strcasecmp(name, "Han") == 0 && !(negated && r->in_class);
    snprintf(inside, sizeof inside, "\\%c{%s%s}%s", negated && r->in_class ? 'P' : 'p',
             category ? "" : "sc:", name, han ? new_han : "");
    return put_class(r, inside, negated);
}

// \xHH, \x{H..}, \uHHHH; at is behind the letter.
static bool rewrite_hex(struct rewriter *r, size_t most, bool braces) {
    int32_t point = 0;
    size_t digits = 0;
    bool open = braces && r->at < r->size && r->source[r->at] == '{';
    if (open) {
        r->at++;
        most = 6;
    }
    for (; r->at < r->size && digits < most; r->at++, digits++) {
        char c = r->source[r->at];
        int digit = c >= '0' && c <= '9'                 ? c - '0'
                    : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                         : -1;
        if (digit < 0) break;
        point = point * 16 + digit;
    }
    if (digits == 0 || (!open && digits < most)) return refuse(r, "an incomplete code point");
    if (open && (r->at >= r->size || r->source[r->at++] != '}')) return refuse(r, "an incomplete code point");
    // \x80 to \xff are bytes in the source dialect, not code points.
    if (most == 2 && point > 0x7f) return refuse(r, "a byte beyond \\x7f");
    return put_point(r, point);
}

// What follows a backslash; at is on the letter.
static bool rewrite_escape(struct rewriter *r) {
    if (r->at >= r->size) return refuse(r, "a backslash at the end");
    char c = r->source[r->at++];
    switch (c) {
    case 's':
        return put_class(r, SPACE, false);
    case 'S':
        return put_class(r, NOT_SPACE, false);
    case 'd':
        return put_categories(r, "Nd", "", false);
    case 'w':
        return put_word(r, false);
    case 'h':
        return put_class(r, "0-9a-fA-F", false);
    case 'p':
        return rewrite_property(r, false);
    case 'P':
        return rewrite_property(r, true);
    case 'x':
        return rewrite_hex(r, 2, true);
    case 'u':
        return rewrite_hex(r, 4, false);
    case 't':
        return put_point(r, '\t');
    case 'n':
        return put_point(r, '\n');
    case 'r':
        return put_point(r, '\r');
    case 'f':
        return put_point(r, '\f');
    case 'v':
        return put_point(r, '\v');
    case 'a':
        return put_point(r, '\a');
    case 'e':
        return put_point(r, 27);
    default:
        break;
    }
    if (!strchr("DWHPS0123456789", c) && (unsigned char)c < 0x80 && !((c | 32) >= 'a' && (c | 32) <= 'z'))
        return put_point(r, c);
    if (!r->in_class && c == 'D') return put_categories(r, "Nd", "", true);
    if (!r->in_class && c == 'W') return put_word(r, true);
    char what[] = "the escape \\?";
    what[sizeof what - 2] = (unsigned char)c < 0x80 && c >= ' ' ? c : '?';
    r->at--;
    return refuse(r, what);
}

// [...]; at is behind the bracket.
static bool rewrite_class(struct rewriter *r) {
    r->in_class = true;
    if (!put(r, "[")) return false;
    if (r->at < r->size && r->source[r->at] == '^') {
        r->at++;
        if (!put(r, "^")) return false;
    }
    if (r->at < r->size && r->source[r->at] == ']') return refuse(r, "a class that begins with ]");
    size_t first = r->at;
    while (r->at < r->size && r->source[r->at] != ']') {
        const char *here = r->source + r->at;
        size_t left = r->size - r->at;
        if (*here == '[') return refuse(r, "a class inside a class");
        if (left > 1 && here[0] == '&' && here[1] == '&') return refuse(r, "an intersection of classes");
        if (*here == '\\') {
            // A shorthand that becomes several ranges must not stand at the end of a range.
            bool several = left > 1 && strchr("sSdwhpP", here[1]);
            if (several && r->at > first && here[-1] == '-') return refuse(r, "a range that ends in a class");
            r->at++;
            if (!rewrite_escape(r)) return false;
            if (several && r->size - r->at > 1 && r->source[r->at] == '-' && r->source[r->at + 1] != ']')
                return refuse(r, "a range that begins with a class");
            continue;
        }
        if (!buffer_add(r->out, here, 1)) return error_set(r->error, ERROR_MEMORY, "out of memory");
        r->at++;
    }
    if (r->at >= r->size) return refuse(r, "a class without an end");
    r->at++;
    r->in_class = false;
    return put(r, "]");
}

// ( and what follows it up to the group's content; at is behind the parenthesis.
static bool rewrite_group(struct rewriter *r) {
    static const char *const openings[] = {"?:", "?=", "?!", "?>", "?<=", "?<!", "?i:"};
    r->depth++;
    if (r->at < r->size && r->source[r->at] == '*') return refuse(r, "a verb");
    if (r->at >= r->size || r->source[r->at] != '?') return put(r, "(");
    for (size_t i = 0; i < sizeof openings / sizeof *openings; i++) {
        size_t length = strlen(openings[i]);
        if (r->size - r->at < length || memcmp(r->source + r->at, openings[i], length) != 0) continue;
        if (openings[i][1] == 'i' && !r->insensitive) r->insensitive = r->depth;
        r->at += length;
        return put(r, "(") && put(r, openings[i]);
    }
    return refuse(r, "a group of a kind that is not (, (?:, (?=, (?!, (?<=, (?<!, (?> or (?i:");
}

// {n}, {n,}, {n,m}, {,m}, else a literal brace; at is behind the brace.
static bool rewrite_brace(struct rewriter *r) {
    size_t at = r->at, digits = 0, comma = 0;
    for (;
         at < r->size && ((r->source[at] >= '0' && r->source[at] <= '9') || (r->source[at] == ',' && !comma));
         at++) {
        if (r->source[at] == ',')
            comma = 1;
        else
            digits++;
    }
    if (digits == 0 || at >= r->size || r->source[at] != '}') return put(r, "\\x{7b}");
    char next = at + 1 < r->size ? r->source[at + 1] : 0;
    if (next == '+' || (next == '?' && !comma)) return refuse(r, "a {n,m}+ or {n}? repetition");
    bool done =
        put(r, r->source[r->at] == ',' ? "{0" : "{") && buffer_add(r->out, r->source + r->at, at + 1 - r->at);
    if (!done) return error_set(r->error, ERROR_MEMORY, "out of memory");
    r->at = at + 1;
    return true;
}

bool pattern_translate(const char *source, size_t size, struct buffer *out, struct error *error) {
    struct rewriter r = {.source = source, .size = size, .out = out, .error = error};
    while (r.at < size) {
        char c = source[r.at++];
        bool done;
        switch (c) {
        case '\\':
            done = rewrite_escape(&r);
            break;
        case '[':
            done = rewrite_class(&r);
            break;
        case '(':
            done = rewrite_group(&r);
            break;
        case '{':
            done = rewrite_brace(&r);
            break;
        case ')':
            if (r.insensitive == r.depth) r.insensitive = 0;
            r.depth--;
            // fall through
        default:
            done = buffer_add(out, &c, 1);
            if (!done) error_set(error, ERROR_MEMORY, "out of memory");
        }
        if (!done) return false;
    }
    return true;
}

// --------------------------------------------------------------------------------------------------------- searching

static struct pattern *compile(const char *text, size_t size, struct error *error) {
    struct pattern *pattern = calloc(1, sizeof *pattern);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!pattern || !context) {
        free(pattern);
        pcre2_compile_context_free(context);
        error_set(error, ERROR_MEMORY, "out of memory");
        return NULL;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    size_t offset = 0;
    pattern->code = pcre2_compile((PCRE2_SPTR)text, size,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE |
                                      PCRE2_NEVER_BACKSLASH_C,
                                  &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!pattern->code) {
        PCRE2_UCHAR message[160];
        pcre2_get_error_message(code, message, sizeof message);
        error_set(error, ERROR_INPUT, "a pattern that does not compile: %s", (const char *)message);
        free(pattern);
        return NULL;
    }
    pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE); // where there is none, the interpreter runs
    return pattern;
}

struct pattern *pattern_compile(const char *source, size_t size, bool literal, struct error *error) {
    if (size > PATTERN_SIZE_MOST || !utf8_valid(source, size)) {
        error_set(error, ERROR_INPUT, "a pattern of %zu bytes, expected at most %d bytes of UTF-8", size,
                  PATTERN_SIZE_MOST);
        return NULL;
    }
    struct buffer text = {0};
    bool done = true;
    if (literal) {
        for (size_t i = 0; done && i < size;) {
            int32_t point;
            i += utf8_decode(source + i, size - i, &point);
            done = buffer_printf(&text, "\\x{%x}", (unsigned)point);
        }
        if (!done) error_set(error, ERROR_MEMORY, "out of memory");
    } else {
        done = pattern_translate(source, size, &text, error);
    }
    struct pattern *pattern = done ? compile(text.data ? text.data : "", text.length, error) : NULL;
    buffer_free(&text);
    return pattern;
}

void pattern_free(struct pattern *pattern) {
    if (!pattern) return;
    pcre2_code_free(pattern->code);
    free(pattern);
}

struct pattern_search *pattern_search_open(const struct pattern *pattern, struct error *error) {
    struct pattern_search *search = calloc(1, sizeof *search);
    if (search) {
        search->pattern = pattern;
        search->data = pcre2_match_data_create(1, NULL);
        search->context = pcre2_match_context_create(NULL);
        if (search->data && search->context) {
            search->stack = pcre2_jit_stack_create(64 << 10, JIT_STACK_MOST, NULL);
            if (search->stack) pcre2_jit_stack_assign(search->context, NULL, search->stack);
            pcre2_set_heap_limit(search->context, MATCH_HEAP_MOST);
            return search;
        }
    }
    pattern_search_close(search);
    error_set(error, ERROR_MEMORY, "out of memory");
    return NULL;
}

void pattern_search_close(struct pattern_search *search) {
    if (!search) return;
    pcre2_match_data_free(search->data);
    pcre2_match_context_free(search->context);
    pcre2_jit_stack_free(search->stack);
    free(search);
}

int pattern_find(struct pattern_search *search, const char *text, size_t size, size_t from, size_t *begin,
                 size_t *end, struct error *error) {
    size_t steps = MATCH_STEPS_LEAST + MATCH_STEPS_PER_BYTE * (size < (1u << 25) ? size : 1u << 25);
    pcre2_set_match_limit(search->context, (uint32_t)steps);
    int found = pcre2_match(search->pattern->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK,
                            search->data, search->context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(search->pattern->code, (PCRE2_SPTR)text, size, from,
                            PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, search->data, search->context);
    if (found == PCRE2_ERROR_NOMATCH) return 0;
    if (found < 0) {
        PCRE2_UCHAR message[160];
        pcre2_get_error_message(found, message, sizeof message);
        error_set(error, ERROR_INPUT, "a pattern could not be matched: %s", (const char *)message);
        return -1;
    }
    const size_t *range = pcre2_get_ovector_pointer(search->data);
    *begin = range[0];
    *end = range[1];
    return 1;
}
