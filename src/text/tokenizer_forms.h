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

// Whether a JSON document is a tekken.json.
bool tokenizer_is_tekken(const json_t *document);

#endif
