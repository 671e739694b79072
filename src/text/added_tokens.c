// Added tokens, as described in added_tokens.h; the rules are those of AddedVocabulary in the tokenizers library.
#include "text/added_tokens.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b) {
    const struct added_token *x = *(struct added_token *const *)a, *y = *(struct added_token *const *)b;
    size_t shared = x->match_size < y->match_size ? x->match_size : y->match_size;
    int order = memcmp(x->match, y->match, shared);
    if (order) return order;
    if (x->match_size != y->match_size) return x->match_size < y->match_size ? -1 : 1;
    return x < y ? -1 : x > y; // the first in the file counts
}

bool added_set_open(struct added_set *set, struct added_token *tokens, int count, bool normalized,
                    struct error *error) {
    *set = (struct added_set){0};
    set->tokens = calloc((size_t)count + 1, sizeof *set->tokens);
    if (!set->tokens) return error_set(error, ERROR_MEMORY, "out of memory for added tokens");
    for (int i = 0; i < count; i++)
        if (tokens[i].normalized == normalized && tokens[i].match_size > 0)
            set->tokens[set->count++] = &tokens[i];
    qsort(set->tokens, (size_t)set->count, sizeof *set->tokens, compare);
    for (int i = 0; i < set->count; i++) set->first[(unsigned char)set->tokens[i]->match[0] + 1]++;
    for (int b = 0; b < 256; b++) set->first[b + 1] += set->first[b];
    return true;
}

void added_set_close(struct added_set *set) {
    free(set->tokens);
    *set = (struct added_set){0};
}

// The first token in [low, high) whose match has a byte at [depth] that is at least [byte]. All of them are that long or
// end just before.
static int lower_bound(const struct added_set *set, int low, int high, size_t depth, int byte) {
    while (low < high) {
        int middle = low + (high - low) / 2;
        const struct added_token *token = set->tokens[middle];
        int here = token->match_size > depth ? (unsigned char)token->match[depth] : -1;
        if (here < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// The longest token that begins at [text], NULL when there is none: the range of the sorted tokens that share the bytes
// read so far is narrowed byte by byte.
static const struct added_token *longest(const struct added_set *set, const char *text, size_t size) {
    int low = set->first[(unsigned char)text[0]], high = set->first[(unsigned char)text[0] + 1];
    const struct added_token *found = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (set->tokens[low]->match_size == depth) found = set->tokens[low];
        if (depth == size) break;
        int byte = (unsigned char)text[depth];
        low = lower_bound(set, low, high, depth, byte);
        high = lower_bound(set, low, high, depth, byte + 1);
    }
    return found;
}

static bool add_piece(struct added_pieces *pieces, size_t begin, size_t end, int32_t id,
                      struct error *error) {
    if (pieces->count == pieces->capacity) {
        size_t capacity = pieces->capacity ? pieces->capacity * 2 : 16;
        struct added_piece *grown = realloc(pieces->pieces, capacity * sizeof *grown);
        if (!grown) return error_set(error, ERROR_MEMORY, "out of memory for %zu pieces of text", capacity);
        pieces->pieces = grown;
        pieces->capacity = capacity;
    }
    pieces->pieces[pieces->count++] = (struct added_piece){begin, end, id};
    return true;
}

// The code point that ends at [at].
static int32_t point_before(const char *text, size_t at, size_t *begin) {
    *begin = at - 1;
    while (*begin > 0 && ((unsigned char)text[*begin] & 0xc0) == 0x80) (*begin)--;
    int32_t point;
    utf8_decode(text + *begin, at - *begin, &point);
    return point;
}

static size_t space_begin(const char *text, size_t at, size_t least) {
    while (at > least) {
        size_t begin;
        if (!utf8_is_space(point_before(text, at, &begin))) break;
        at = begin;
    }
    return at;
}

static size_t space_end(const char *text, size_t size, size_t at) {
    while (at < size) {
        int32_t point;
        size_t length = utf8_decode(text + at, size - at, &point);
        if (!utf8_is_space(point)) break;
        at += length;
    }
    return at;
}

bool added_set_split(const struct added_set *set, const char *text, size_t size,
                     bool (*is_word)(const void *, int32_t), const void *context, struct added_pieces *pieces,
                     struct error *error) {
    size_t done = 0;
    for (size_t at = 0; set->count > 0 && at < size;) {
        const struct added_token *token = longest(set, text + at, size - at);
        if (!token) {
            at++;
            continue;
        }
        size_t begin = at, end = at + token->match_size, ignored;
        at = end;
        if (token->single_word) {
            int32_t next = -1;
            if (end < size) utf8_decode(text + end, size - end, &next);
            if ((begin > 0 && is_word(context, point_before(text, begin, &ignored))) ||
                (end < size && is_word(context, next)))
                continue;
        }
        if (token->left) begin = begin < done ? done : space_begin(text, begin, done);
        if (token->right) end = space_end(text, size, end);
        if (done < begin && !add_piece(pieces, done, begin, -1, error)) return false;
        // A token whose bytes an earlier one took in as its white space is dropped, as the library drops empty pieces.
        if (begin < end && !add_piece(pieces, begin, end, token->id, error)) return false;
        done = end;
    }
    return done >= size || add_piece(pieces, done, size, -1, error);
}
