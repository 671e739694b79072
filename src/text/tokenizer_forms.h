// Tokenizers in other forms than tokenizer.json, rewritten as one, so that all of them are read and run by the same code.
// Relies on base, weights.
//
//   GGUF         tokenizer.ggml.model "gpt2" with tokens, token_type and merges; how text is split follows from
//                tokenizer.ggml.pre: "tekken" or "qwen2"
//   tekken.json  Mistral's own: the bytes of each token in order of rank; what is merged first follows from the ranks. ComfyUI
//                keeps the same bytes in its text encoder files as the tensor "tekken_model"
#ifndef LIMN_TEXT_TOKENIZER_FORMS_H
#define LIMN_TEXT_TOKENIZER_FORMS_H

#include "base/json.h"
#include "weights/gguf.h"

// Each gives the document in fresh memory (decref), NULL with an error. [name] stands in messages.
json_t *tokenizer_from_gguf(const char *name, const struct gguf *gguf, struct error *error);
json_t *tokenizer_from_tekken(const char *name, const json_t *tekken, struct error *error);

// The name in tokenizer.ggml.pre for a pattern; NULL: there is none.
const char *tokenizer_pre_of(const char *pattern);

// Whether a JSON document is a tekken.json.
bool tokenizer_is_tekken(const json_t *document);

// The file that stands for a tokenizer: of a folder its tokenizer.json, else its tekken.json, else the folder (its weights); of a
// file itself. Fresh memory; NULL with an error.
char *tokenizer_file(const char *path, struct error *error);
// The tokenizer.json document of what tokenizer_file gives, or of the content of a tokenizer.json or tekken.json, in fresh
// memory (decref). NULL with an error.
json_t *tokenizer_document(const char *path, struct error *error);
json_t *tokenizer_document_parse(const char *name, const char *json, size_t size, struct error *error);

// A document as the keys of a GGUF file have it.
struct tokenizer_words {
    json_t *document;    // holds the texts
    const char *pre;     // tokenizer.ggml.pre; NULL where GGUF has no name for how it splits a text
    const char **tokens; // [count], in order of their ids; "[PADn]" where there is none
    int32_t *types;      // [count]
    int64_t count;
    const char **merges; // [merge_count], "a b"
    int64_t merge_count;
    char **made; // [made_count], texts of its own
    int64_t made_count;
};

// [vocabulary]: rows of the model's embedding, which is at least how many tokens there are. The document is shared. False with
// an error; tokenizer_words_free in any case.
bool tokenizer_words_of(const char *name, json_t *document, int64_t vocabulary, struct tokenizer_words *words,
                        struct error *error);
void tokenizer_words_free(struct tokenizer_words *words); // {0} is fine

#endif
