// A tokenizer.json document as the lists that a GGUF file keeps. Relies on tokenizer_forms.h, base.
#include "text/bpe.h"
#include "text/tokenizer_forms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_NORMAL = 1, WORD_CONTROL = 3, WORD_USER_DEFINED = 4, WORD_UNUSED = 5 };

static bool no_memory(const char *name, struct error *error) {
    return error_set(error, ERROR_MEMORY, "%s: not enough memory for its tokenizer", name);
}

// The pattern of the first pre-tokenizer that splits by one.
static const char *pattern_of(const json_t *document) {
    const json_t *first = json_object_get(document, "pre_tokenizer");
    const json_t *list = json_object_get(first, "pretokenizers");
    if (json_array_size(list) > 0) first = json_array_get(list, 0);
    return json_string_value(json_object_get(json_object_get(first, "pattern"), "Regex"));
}

static bool place(const char *name, struct tokenizer_words *words, const char *text, json_int_t id,
                  int32_t type, struct error *error) {
    if (id < 0 || id >= words->count)
        return error_set(error, ERROR_INPUT,
                         "%s: \"%.40s\" has the id %lld, expected less than the %lld of the model", name,
                         text, (long long)id, (long long)words->count);
    words->tokens[id] = text;
    words->types[id] = type;
    return true;
}

static bool place_all(const char *name, struct tokenizer_words *words, struct error *error) {
    json_t *vocabulary = json_object_get(json_object_get(words->document, "model"), "vocab"), *id, *token;
    const char *text;
    size_t index;
    json_object_foreach(vocabulary, text, id) {
        if (!place(name, words, text, json_integer_value(id), WORD_NORMAL, error)) return false;
    }
    json_array_foreach(json_object_get(words->document, "added_tokens"), index, token) {
        text = json_string_value(json_object_get(token, "content"));
        const int32_t type =
            json_is_true(json_object_get(token, "special")) ? WORD_CONTROL : WORD_USER_DEFINED;
        if (text && !place(name, words, text, json_integer_value(json_object_get(token, "id")), type, error))
            return false;
    }
    return true;
}

// A text of its own, kept until the words are freed; NULL when memory is gone.
static const char *keep(struct tokenizer_words *words, char *text) {
    if (text) words->made[words->made_count++] = text;
    return text;
}

static bool fill_gaps(const char *name, struct tokenizer_words *words, struct error *error) {
    for (int64_t id = 0; id < words->count; id++) {
        char *text = NULL;
        if (words->tokens[id]) continue;
        if (asprintf(&text, "[PAD%lld]", (long long)id) < 0) text = NULL;
        words->tokens[id] = keep(words, text);
        words->types[id] = WORD_UNUSED;
        if (!text) return no_memory(name, error);
    }
    return true;
}

// Merges stand as "a b" or as pairs.
static bool list_merges(const char *name, struct tokenizer_words *words, const json_t *merges,
                        struct error *error) {
    size_t index;
    json_t *merge;
    json_array_foreach((json_t *)merges, index, merge) {
        const char *text = json_string_value(merge);
        if (!text) {
            const char *a = json_string_value(json_array_get(merge, 0)),
                       *b = json_string_value(json_array_get(merge, 1));
            char *joined = NULL;
            if (!a || !b)
                return error_set(error, ERROR_INPUT, "%s: merge %zu is no pair of texts", name, index);
            if (asprintf(&joined, "%s %s", a, b) < 0) joined = NULL;
            text = keep(words, joined);
        }
        if (!text) return no_memory(name, error);
        words->merges[words->merge_count++] = text;
    }
    return true;
}

bool tokenizer_words_of(const char *name, json_t *document, int64_t vocabulary, struct tokenizer_words *words,
                        struct error *error) {
    const json_t *merges = json_object_get(json_object_get(document, "model"), "merges");
    const size_t merge_count = json_array_size(merges);
    const char *pattern = pattern_of(document);
    *words = (struct tokenizer_words){.document = json_incref(document), .count = vocabulary};
    words->pre = pattern ? tokenizer_pre_of(pattern) : NULL;
    if (vocabulary < 1 || vocabulary > TOKEN_ID_LIMIT)
        return error_set(error, ERROR_INPUT, "%s: a vocabulary of %lld", name, (long long)vocabulary);
    words->tokens = calloc((size_t)vocabulary, sizeof *words->tokens);
    words->types = calloc((size_t)vocabulary, sizeof *words->types);
    words->merges = calloc(merge_count + 1, sizeof *words->merges);
    words->made = calloc((size_t)vocabulary + merge_count, sizeof *words->made);
    if (!words->tokens || !words->types || !words->merges || !words->made) return no_memory(name, error);
    return place_all(name, words, error) && fill_gaps(name, words, error) &&
           list_merges(name, words, merges, error);
}

void tokenizer_words_free(struct tokenizer_words *words) {
    for (int64_t i = 0; i < words->made_count; i++) free(words->made[i]);
    free(words->made);
    free(words->tokens);
    free(words->types);
    free(words->merges);
    json_decref(words->document);
    *words = (struct tokenizer_words){.document = NULL};
}
