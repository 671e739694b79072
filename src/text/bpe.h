// Byte-level byte-pair encoding: a vocabulary, merges, and the encoding of one piece of text. Relies on base.
//
// A vocabulary spells each byte as one character (the byte-level alphabet): the printable characters of Latin-1 stand for
// themselves, the other 68 byte values for U+0100 onwards, in ascending order.
#ifndef LIMN_TEXT_BPE_H
#define LIMN_TEXT_BPE_H

#include "base/buffer.h"
#include "base/json.h"
#include "text/tokenizer.h" // defines: struct token_list

enum { TOKEN_ID_LIMIT = 1 << 22 }; // ids are below it

struct bpe; // immutable after opening

// Reads the "model" object of a tokenizer.json. [place] names it in messages.
struct bpe *bpe_open(struct json_place place, struct error *error);
void bpe_close(struct bpe *bpe); // NULL is fine

int32_t bpe_byte_point(int byte); // the code point that spells a byte

int32_t bpe_vocabulary(const struct bpe *bpe);                           // highest id + 1
int32_t bpe_find(const struct bpe *bpe, const char *token, size_t size); // in the file's spelling; -1
// The bytes that a token stands for (borrowed); NULL for an id without a token.
const char *bpe_bytes(const struct bpe *bpe, int32_t id, size_t *size);

// Memory that encoding reuses from piece to piece; starts as {0}.
struct bpe_scratch {
    struct bpe_symbol *symbols;
    struct bpe_merge *heap;
    size_t symbol_capacity, heap_capacity, heap_count;
    struct buffer text;
};
void bpe_scratch_free(struct bpe_scratch *scratch);

// Appends the ids of [piece], [size] bytes. Merges by rank, the leftmost first among equals; n log n in [size]. False
// when memory is gone or a byte has no token.
bool bpe_encode(const struct bpe *bpe, const char *piece, size_t size, struct bpe_scratch *scratch,
                struct token_list *list, struct error *error);

bool token_list_add(struct token_list *list, int32_t id, struct error *error);

#endif
