// Added tokens: strings that are cut out of a text before anything else, each with its own id. Relies on base, utf8.h.
#ifndef LIMN_TEXT_ADDED_TOKENS_H
#define LIMN_TEXT_ADDED_TOKENS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct added_token {
    char *content; // owned, as the file has it
    char *match;   // owned, what is looked for: the content, normalised where the token asks for it
    size_t match_size;
    int32_t id;
    bool single_word; // only where no letter or digit touches it
    bool left, right; // takes the white space on that side with it
    bool normalized;  // looked for in the normalised text
};

// The tokens of one pass, in order of their match.
struct added_set {
    struct added_token **tokens; // owned array of borrowed tokens
    int count;
    int first[257]; // tokens whose match begins with byte b: [first[b], first[b + 1])
};

// Collects the tokens with that normalized flag. False when memory is gone.
bool added_set_open(struct added_set *set, struct added_token *tokens, int count, bool normalized,
                    struct error *error);
void added_set_close(struct added_set *set);

// A stretch of a text: an added token, or text between them (id -1).
struct added_piece {
    size_t begin, end;
    int32_t id;
};

struct added_pieces {
    struct added_piece *pieces; // owned
    size_t count, capacity;
};

// Appends the stretches of [text] in order. The longest token counts where several begin at one place; the search goes on
// behind a token, also one that single_word rejects. [is_word] says whether a code point belongs to a word.
bool added_set_split(const struct added_set *set, const char *text, size_t size,
                     bool (*is_word)(const void *, int32_t), const void *context, struct added_pieces *pieces,
                     struct error *error);

#endif
