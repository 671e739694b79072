// The regular expressions of a tokenizer file. They are written for Oniguruma (Ruby syntax, Unicode 16), which the
// reference tokenizers use, and run here by PCRE2: a pattern is first rewritten where the two dialects mean different
// things. Relies on base, PCRE2.
#ifndef LIMN_TEXT_PATTERN_H
#define LIMN_TEXT_PATTERN_H

#include "base/buffer.h"
#include "base/error.h"

#include <stddef.h>

struct pattern; // immutable after compiling: may be shared by threads

// Compiles [source] (UTF-8, [size] bytes). Errors quote what is not understood: constructs whose meaning differs and
// that no rewriting covers are refused by name. [literal] takes the source as text, not as an expression.
struct pattern *pattern_compile(const char *source, size_t size, bool literal, struct error *error);
void pattern_free(struct pattern *pattern); // NULL is fine

// The source in PCRE2's dialect, for tests.
bool pattern_translate(const char *source, size_t size, struct buffer *out, struct error *error);

// A search over one text. Belongs to one thread.
struct pattern_search;

struct pattern_search *pattern_search_open(const struct pattern *pattern, struct error *error);
void pattern_search_close(struct pattern_search *search); // NULL is fine

// Finds the leftmost match in [text, text + size) that begins at [from] or behind it: 1 and its range, 0 when there is
// none, -1 with an error when the search ran out of its limits (a pattern that backtracks without end). [text] is valid
// UTF-8, [from] a boundary.
int pattern_find(struct pattern_search *search, const char *text, size_t size, size_t from, size_t *begin,
                 size_t *end, struct error *error);

#endif
