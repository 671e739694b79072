// Byte-level BPE tokenizers as tokenizer.json describes them, and as GGUF files, tekken.json and ComfyUI's text encoder files
// have them. Relies on base, weights, PCRE2 (PCRE2_UCP), utf8proc.
#ifndef LIMN_TEXT_TOKENIZER_H
#define LIMN_TEXT_TOKENIZER_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct tokenizer; // immutable after opening: may be shared by threads

// Token ids, in memory of their own (free(ids)).
struct token_list {
    int32_t *ids;
    int64_t count, capacity;
};

// Opens a tokenizer.json, a tekken.json, a GGUF file with "tokenizer.ggml.tokens" or a safetensors file with the tensor
// "tekken_model"; of a folder: its tokenizer.json, else its tekken.json, else its weights. Of a tokenizer.json accepted: model BPE with merges as "a b" strings or pairs;
// pre-tokenizers Split (Regex or String, every behaviour), ByteLevel at the end, and Sequences of them; normalisers none or
// NFC; added tokens with all their flags. Anything else is an error that names it.
struct tokenizer *tokenizer_open(const char *path, struct error *error);
// The same from memory, a tokenizer.json or tekken.json.
struct tokenizer *tokenizer_parse(const char *name, const char *json, size_t size, struct error *error);
void tokenizer_close(struct tokenizer *tokenizer);

int32_t tokenizer_vocabulary(const struct tokenizer *tokenizer); // highest id + 1
int32_t tokenizer_find(const struct tokenizer *tokenizer,
                       const char *token); // an exact token or added token; -1

// Appends the ids of [text] ([size] bytes; invalid UTF-8 is replaced by U+FFFD as the reference's decoding does): added
// tokens in the text are split out as the reference does, no template, no BOS. False when memory is gone, or when the file's
// pattern backtracks without end on this text.
bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size,
                      struct token_list *list, struct error *error);

// The bytes of one id (borrowed), NULL for an unknown id.
const char *tokenizer_token(const struct tokenizer *tokenizer, int32_t id, size_t *size);

#endif
