// See head.h.
#include "server/head.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#define LENGTH_DIGITS_MOST 18 // of a Content-Length: what 64 bits hold for sure

// A reader keeps an entry for each header, parameter of the query and cookie, and the cookies a second time: so a head has a
// weight beside its length, and a limit of that.
#define PART_WEIGHT 64
#define WEIGHT_MOST 16384

static enum head_verdict bad(struct head_judgement *judgement, int status, const char *why) {
    judgement->status = status;
    judgement->why = why;
    return HEAD_BAD;
}

// RFC 9110, 5.6.2: what methods and names of headers are made of.
static bool is_token(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static size_t token(const char *line, size_t length) {
    size_t at = 0;
    while (at < length && is_token(line[at])) at++;
    return at;
}

// "GET /v1/models HTTP/1.1", as far as it has come.
static enum head_verdict judge_first(const char *line, size_t length, bool whole,
                                     struct head_judgement *judgement) {
    static const char expected[] = "the request line: expected METHOD TARGET HTTP/1.1";
    size_t method = token(line, length);
    if (length && (unsigned char)*line == 0x16)
        return bad(judgement, 400, "this port speaks HTTP, not TLS: expected a URL that begins with http://");
    if ((!method && length) || (method < length && line[method] != ' ')) return bad(judgement, 400, expected);
    if (!whole) return HEAD_PARTIAL;
    const char *target = line + method + 1, *end = line + length;
    if (method == length || target == end || *target == ' ') return bad(judgement, 400, expected);
    const char *space = memchr(target, ' ', (size_t)(end - target));
    if (!space) return bad(judgement, 400, expected);
    const char *version = space + 1;
    for (const char *c = target; c < space; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) return bad(judgement, 400, expected);
    size_t rest = (size_t)(end - version);
    if (rest != 8 || memcmp(version, "HTTP/", 5) || version[6] != '.') return bad(judgement, 400, expected);
    if (version[5] != '1' || (version[7] != '0' && version[7] != '1'))
        return bad(judgement, 505, "the request line: HTTP/1.1 and HTTP/1.0 are spoken here");
    return HEAD_GOOD;
}

static size_t count_of(const char *text, size_t length, char c) {
    size_t count = 0;
    for (const char *at = text, *end = text + length; at < end && (at = memchr(at, c, (size_t)(end - at)));
         at++)
        count++;
    return count;
}

static bool is_digits(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (text[i] < '0' || text[i] > '9') return false;
    return length > 0;
}

// A Content-Length's value.
static enum head_verdict judge_length(const char *value, size_t digits, struct head_judgement *judgement) {
    if (!is_digits(value, digits)) return bad(judgement, 400, "Content-Length: expected a whole number");
    if (digits > LENGTH_DIGITS_MOST)
        return bad(judgement, 413, "Content-Length: a body of no such size is taken");
    judgement->framings++;
    judgement->body = 0;
    for (size_t i = 0; i < digits; i++) judgement->body = judgement->body * 10 + (uint64_t)(value[i] - '0');
    return HEAD_GOOD;
}

static bool is_name(const char *line, size_t length, const char *name) {
    return length == strlen(name) && !strncasecmp(line, name, length);
}

static enum head_verdict judge_header(const char *line, size_t length, size_t *weight,
                                      struct head_judgement *judgement) {
    size_t name = token(line, length);
    *weight += PART_WEIGHT;
    if (memchr(line, 0, length)) return bad(judgement, 400, "a header with a 0 byte");
    if (*line == ' ' || *line == '\t') // RFC 9112, 5.2
        return bad(judgement, 400, "a header that goes on in the next line: expected it in one");
    if (!name || name == length || line[name] != ':')
        return bad(judgement, 400, "a header: expected NAME: VALUE");
    const char *value = line + name + 1, *end = line + length;
    while (value < end && (*value == ' ' || *value == '\t')) value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) end--;
    size_t size = (size_t)(end - value);
    if (is_name(line, name, "Content-Length")) return judge_length(value, size, judgement);
    if (is_name(line, name, "Cookie")) *weight += size + PART_WEIGHT * (1 + count_of(value, size, ';'));
    if (!is_name(line, name, "Transfer-Encoding")) return HEAD_GOOD;
    if (!is_name(value, size, "chunked")) return bad(judgement, 400, "Transfer-Encoding: expected chunked");
    judgement->framings++;
    judgement->chunked = true;
    return HEAD_GOOD;
}

enum head_verdict head_judge(const char *data, size_t size, size_t most, struct head_judgement *judgement) {
    const char *at = data, *end = data + (size < most ? size : most);
    bool first = true;
    size_t weight = 0;
    judgement->body = 0;
    judgement->framings = 0;
    judgement->chunked = false;
    // Empty lines before the request line are passed over (RFC 9112, 2.2).
    while (at < end && (*at == '\n' || (*at == '\r' && (at + 1 == end || at[1] == '\n')))) at++;
    while (at < end) {
        const char *line = at, *stop = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((stop ? stop : end) - line);
        if (stop && length && line[length - 1] == '\r') length--;
        if (stop && !length && !first) { // the empty line
            judgement->length = (size_t)(stop + 1 - data);
            return HEAD_GOOD;
        }
        enum head_verdict verdict = HEAD_GOOD;
        if (first) {
            verdict = judge_first(line, length, stop != NULL, judgement);
            weight += PART_WEIGHT * count_of(line, length, '&');
        } else if (stop) {
            verdict = judge_header(line, length, &weight, judgement);
        }
        if (verdict == HEAD_BAD) return HEAD_BAD;
        if (stop && weight > WEIGHT_MOST)
            return first ? bad(judgement, 414, "the request line has too many parameters")
                         : bad(judgement, 431, "too many headers or cookies");
        if (!stop) break;
        first = false;
        at = stop + 1;
    }
    if (size < most) return HEAD_PARTIAL;
    return first ? bad(judgement, 414, "the request line is too long (limits.header_bytes)")
                 : bad(judgement, 431, "the headers are too large (limits.header_bytes)");
}
