// Rewrites tokenizers as tokenizer.json documents. Relies on base, weights, bpe.h, utf8.h.
#include "text/tokenizer_forms.h"
#include "base/buffer.h"
#include "text/bpe.h"
#include "text/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_BYTES_MOST = 4096, TEKKEN_SPECIALS = 1000, TEKKEN_SIZE = 131072 };

// How the token types of llama.cpp are numbered.
enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER_DEFINED = 4, TOKEN_UNUSED = 5 };

// What a name in tokenizer.ggml.pre stands for. The patterns are those of Mistral's tekken.json and of Qwen's tokenizer.json.
static const struct splitting {
    const char *pre, *pattern;
    bool nfc, ignore_merges;
} splittings[] = {
    {"tekken",
     "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
     "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
     "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     false, true},
    {"qwen2",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     true, false},
};

const char *tokenizer_pre_of(const char *pattern) {
    for (size_t i = 0; i < sizeof splittings / sizeof *splittings; i++)
        if (strcmp(splittings[i].pattern, pattern) == 0) return splittings[i].pre;
    return NULL;
}

static bool no_memory(const char *name, struct error *error) {
    return error_set(error, ERROR_MEMORY, "%s: not enough memory for its tokenizer", name);
}

// The document around a vocabulary, merges and added tokens, which it takes over.
static json_t *document(const struct splitting *splitting, const char *pattern, json_t *vocabulary,
                        json_t *merges, json_t *added) {
    json_t *split = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern,
                              "behavior", "Isolated", "invert", 0);
    json_t *bytes = json_pack("{s:s, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0);
    json_t *model = json_pack("{s:s, s:o, s:o, s:b}", "type", "BPE", "vocab", vocabulary, "merges", merges,
                              "ignore_merges", splitting->ignore_merges);
    json_t *whole = json_pack("{s:o, s:o, s:{s:s, s:[o, o]}}", "model", model, "added_tokens", added,
                              "pre_tokenizer", "type", "Sequence", "pretokenizers", split, bytes);
    if (whole && splitting->nfc) json_object_set_new(whole, "normalizer", json_pack("{s:s}", "type", "NFC"));
    return whole;
}

static bool add_special(json_t *added, const char *text, int64_t id, bool special) {
    return json_array_append_new(added, json_pack("{s:s, s:I, s:b, s:b, s:b, s:b, s:b}", "content", text,
                                                  "id", (json_int_t)id, "single_word", 0, "lstrip", 0,
                                                  "rstrip", 0, "normalized", 0, "special", special)) == 0;
}

// ---------------------------------------------------------------------------------------------------------------- GGUF

// A string of an array as a 0-terminated one in [text].
static bool copy_string(const char *name, const char *key, uint64_t index, const char *bytes, size_t size,
                        struct buffer *text, struct error *error) {
    text->length = 0;
    if (size == 0 || size > TOKEN_BYTES_MOST || memchr(bytes, 0, size) || !utf8_valid(bytes, size))
        return error_set(error, ERROR_INPUT, "%s: key \"%s\": element %llu is no UTF-8 text of 1 to %d bytes",
                         name, key, (unsigned long long)index, TOKEN_BYTES_MOST);
    return buffer_add(text, bytes, size) || no_memory(name, error);
}

static const struct gguf_value *string_array(const char *name, const struct gguf *gguf, const char *key,
                                             struct error *error) {
    const struct gguf_value *value = gguf_find(gguf, key);
    if (value && value->array && value->type == GGUF_STRING) return value;
    error_set(error, ERROR_INPUT, "%s: key \"%s\": %s, expected an array of texts", name, key,
              value ? "of another type" : "missing");
    return NULL;
}

struct gguf_words {
    const char *name;
    json_t *vocabulary, *added, *merges;
    struct buffer text;
};

static bool add_word(struct gguf_words *words, int64_t id, int64_t type, struct error *error) {
    const char *text = words->text.data;
    if (type == TOKEN_UNUSED) return true;
    if (type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED || type == TOKEN_UNKNOWN)
        return add_special(words->added, text, id, type != TOKEN_USER_DEFINED) ||
               no_memory(words->name, error);
    if (type != TOKEN_NORMAL)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: key \"tokenizer.ggml.token_type\": %lld for \"%.40s\", expected 1 to 5",
                         words->name, (long long)type, text);
    if (json_object_get(words->vocabulary, text))
        return error_set(error, ERROR_INPUT,
                         "%s: key \"tokenizer.ggml.tokens\": \"%.40s\" stands there twice", words->name,
                         text);
    return json_object_set_new(words->vocabulary, text, json_integer(id)) == 0 ||
           no_memory(words->name, error);
}

static bool read_words(struct gguf_words *words, const struct gguf *gguf, struct error *error) {
    static const char key[] = "tokenizer.ggml.tokens", type_key[] = "tokenizer.ggml.token_type";
    const struct gguf_value *tokens = string_array(words->name, gguf, key, error),
                            *types = gguf_find(gguf, type_key);
    if (!tokens) return false;
    if (tokens->count > TOKEN_ID_LIMIT || (types && types->count != tokens->count))
        return error_set(error, ERROR_INPUT,
                         "%s: key \"%s\": %llu tokens, expected at most %d, with one %s each", words->name,
                         key, (unsigned long long)tokens->count, TOKEN_ID_LIMIT, type_key);
    struct gguf_cursor cursor = gguf_begin(tokens), type_cursor = {0};
    if (types) type_cursor = gguf_begin(types);
    const char *bytes;
    size_t size;
    for (int64_t id = 0; gguf_next_string(&cursor, &bytes, &size); id++) {
        int64_t type = TOKEN_NORMAL;
        if (types && !gguf_next_integer(&type_cursor, &type))
            return error_set(error, ERROR_INPUT, "%s: key \"%s\": expected whole numbers", words->name,
                             type_key);
        if (!copy_string(words->name, key, (uint64_t)id, bytes, size, &words->text, error) ||
            !add_word(words, id, type, error))
            return false;
    }
    return true;
}

static bool read_merges(struct gguf_words *words, const struct gguf *gguf, struct error *error) {
    static const char key[] = "tokenizer.ggml.merges";
    const struct gguf_value *merges = string_array(words->name, gguf, key, error);
    if (!merges) return false;
    struct gguf_cursor cursor = gguf_begin(merges);
    const char *bytes;
    size_t size;
    for (uint64_t i = 0; gguf_next_string(&cursor, &bytes, &size); i++)
        if (!copy_string(words->name, key, i, bytes, size, &words->text, error) ||
            (json_array_append_new(words->merges, json_string(words->text.data)) &&
             !no_memory(words->name, error)))
            return false;
    return true;
}

static const struct splitting *find_splitting(const char *name, const struct gguf *gguf,
                                              struct error *error) {
    char *model = NULL, *pre = NULL;
    const struct splitting *found = NULL;
    bool done = gguf_get_string(gguf, name, "tokenizer.ggml.model", &model, error) &&
                gguf_get_string(gguf, name, "tokenizer.ggml.pre", &pre, error);
    for (size_t i = 0; done && pre && i < sizeof splittings / sizeof *splittings; i++)
        if (strcmp(splittings[i].pre, pre) == 0) found = &splittings[i];
    if (done && (!model || strcmp(model, "gpt2") != 0)) {
        found = NULL;
        error_set(error, ERROR_UNSUPPORTED, "%s: tokenizer.ggml.model is \"%.40s\", expected \"gpt2\"", name,
                  model ? model : "");
    } else if (done && !found) {
        error_set(error, ERROR_UNSUPPORTED,
                  "%s: tokenizer.ggml.pre is \"%.40s\", expected \"tekken\" or \"qwen2\"", name,
                  pre ? pre : "");
    }
    free(model);
    free(pre);
    return found;
}

json_t *tokenizer_from_gguf(const char *name, const struct gguf *gguf, struct error *error) {
    const struct splitting *splitting = find_splitting(name, gguf, error);
    if (!splitting) return NULL;
    struct gguf_words words = {
        .name = name, .vocabulary = json_object(), .added = json_array(), .merges = json_array()};
    json_t *whole = NULL;
    if (read_words(&words, gguf, error) && read_merges(&words, gguf, error)) {
        whole = document(splitting, splitting->pattern, json_incref(words.vocabulary),
                         json_incref(words.merges), json_incref(words.added));
        if (!whole) no_memory(name, error);
    }
    json_decref(words.vocabulary);
    json_decref(words.added);
    json_decref(words.merges);
    buffer_free(&words.text);
    return whole;
}

// --------------------------------------------------------------------------------------------------------- tekken.json

struct tekken {
    const char *name;
    json_t *vocabulary, *added, *merges;
    const json_t *words;
    int64_t specials, size;               // ids in front of the words, and in all
    struct buffer bytes, text;            // of the word at hand; spelt in the byte-level alphabet
    size_t borders[TOKEN_BYTES_MOST + 1]; // where in text each byte begins
    struct buffer left, right;
};

static int base64_digit(char c) {
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

// RFC 4648 with its padding; false for anything else or when memory is gone.
static bool decode_base64(const char *text, struct buffer *bytes) {
    size_t length = strlen(text), pad = 0;
    bytes->length = 0;
    if (length == 0 || length % 4 != 0 || !buffer_reserve(bytes, length)) return false;
    while (pad < 2 && text[length - 1 - pad] == '=') pad++;
    for (size_t i = 0; i < length; i += 4) {
        uint32_t group = 0;
        size_t missing = i + 4 == length ? pad : 0;
        for (size_t k = 0; k < 4; k++) {
            int digit = k >= 4 - missing ? 0 : base64_digit(text[i + k]);
            if (digit < 0) return false;
            group = group << 6 | (uint32_t)digit;
        }
        char three[3] = {(char)(group >> 16), (char)(group >> 8), (char)group};
        if (!buffer_add(bytes, three, 3 - missing)) return false;
    }
    return true;
}

static bool word_error(const struct tekken *tekken, size_t index, const char *what, struct error *error) {
    return error_set(error, ERROR_INPUT, "%s: field \"vocab\": element %zu: %s", tekken->name, index, what);
}

// The word of rank [index] into bytes, text and borders.
static bool spell_word(struct tekken *tekken, size_t index, struct error *error) {
    const json_t *word = json_array_get(tekken->words, index), *rank = json_object_get(word, "rank");
    const char *encoded = json_string_value(json_object_get(word, "token_bytes"));
    if (!json_is_integer(rank) || (size_t)json_integer_value(rank) != index)
        return word_error(tekken, index, "field \"rank\", expected its place in the list", error);
    if (!encoded || !decode_base64(encoded, &tekken->bytes) || tekken->bytes.length == 0 ||
        tekken->bytes.length > TOKEN_BYTES_MOST)
        return word_error(tekken, index, "field \"token_bytes\", expected base64 of 1 to 4096 bytes", error);
    tekken->text.length = 0;
    for (size_t i = 0; i < tekken->bytes.length; i++) {
        char spelling[4];
        size_t size = utf8_encode(bpe_byte_point((unsigned char)tekken->bytes.data[i]), spelling);
        tekken->borders[i] = tekken->text.length;
        if (!buffer_add(&tekken->text, spelling, size)) return no_memory(tekken->name, error);
    }
    tekken->borders[tekken->bytes.length] = tekken->text.length;
    return true;
}

static int64_t rank_of(const struct tekken *tekken, const char *text) {
    const json_t *id = json_object_get(tekken->vocabulary, text);
    return id ? json_integer_value(id) - tekken->specials : -1;
}

struct pair {
    int64_t left, right;
    size_t border;
};

static int by_ranks(const void *a, const void *b) {
    const struct pair *x = a, *y = b;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return x->right < y->right ? -1 : x->right > y->right;
}

static bool cut(struct tekken *tekken, size_t border) {
    tekken->left.length = tekken->right.length = 0;
    return buffer_add(&tekken->left, tekken->text.data, border) &&
           buffer_add(&tekken->right, tekken->text.data + border, tekken->text.length - border);
}

// Every way to put a word together from two others, in the order in which the converter of transformers lists them: what is
// merged first is the pair whose word has the lowest rank, as tiktoken has it.
static bool add_merges(struct tekken *tekken, size_t index, struct error *error) {
    if (!spell_word(tekken, index, error)) return false;
    size_t count = 0, length = tekken->bytes.length;
    struct pair *pairs = malloc(length * sizeof *pairs);
    bool done = pairs || no_memory(tekken->name, error);
    for (size_t i = 1; done && i < length; i++) {
        done = cut(tekken, tekken->borders[i]) || no_memory(tekken->name, error);
        int64_t left = done ? rank_of(tekken, tekken->left.data) : -1;
        int64_t right = left >= 0 ? rank_of(tekken, tekken->right.data) : -1;
        if (right >= 0) pairs[count++] = (struct pair){left, right, tekken->borders[i]};
    }
    if (done && count > 1) qsort(pairs, count, sizeof *pairs, by_ranks);
    for (size_t i = 0; done && i < count; i++) {
        done = cut(tekken, pairs[i].border) &&
               json_array_append_new(tekken->merges,
                                     json_pack("[s, s]", tekken->left.data, tekken->right.data)) == 0;
        if (!done) no_memory(tekken->name, error);
    }
    free(pairs);
    return done;
}

static bool add_words(struct tekken *tekken, struct error *error) {
    size_t count = (size_t)(tekken->size - tekken->specials);
    if (json_array_size(tekken->words) < count) count = json_array_size(tekken->words);
    for (size_t i = 0; i < count; i++) {
        if (!spell_word(tekken, i, error)) return false;
        if (json_object_get(tekken->vocabulary, tekken->text.data))
            return word_error(tekken, i, "bytes that an element before it has", error);
        if (json_object_set_new(tekken->vocabulary, tekken->text.data,
                                json_integer((json_int_t)i + tekken->specials)))
            return no_memory(tekken->name, error);
    }
    for (size_t i = 0; i < count; i++)
        if (!add_merges(tekken, i, error)) return false;
    return true;
}

// Files before version 7 list no special tokens: these are theirs.
static const char *const first_specials[] = {
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
};

static bool add_specials(struct tekken *tekken, const json_t *listed, struct error *error) {
    const int64_t known = sizeof first_specials / sizeof *first_specials;
    for (int64_t id = 0; id < tekken->specials; id++) {
        char numbered[40];
        snprintf(numbered, sizeof numbered, "<SPECIAL_%lld>", (long long)id);
        const char *text = !listed && id < known ? first_specials[id] : numbered;
        if (listed && id < (int64_t)json_array_size(listed)) {
            const json_t *special = json_array_get(listed, (size_t)id),
                         *rank = json_object_get(special, "rank");
            text = json_string_value(json_object_get(special, "token_str"));
            size_t length = json_string_length(json_object_get(special, "token_str"));
            if (!text || !*text || strlen(text) != length || !json_is_integer(rank) ||
                json_integer_value(rank) != id)
                return error_set(error, ERROR_INPUT,
                                 "%s: field \"special_tokens\": element %lld, expected \"token_str\" and its "
                                 "place as \"rank\"",
                                 tekken->name, (long long)id);
        }
        if (!add_special(tekken->added, text, id, true)) return no_memory(tekken->name, error);
    }
    return true;
}

bool tokenizer_is_tekken(const json_t *whole) {
    return json_is_array(json_object_get(whole, "vocab")) && json_is_object(json_object_get(whole, "config"));
}

static bool read_tekken(struct tekken *tekken, const json_t *whole, const char **pattern,
                        struct error *error) {
    struct json_place place = {whole, tekken->name}, config = {NULL, "config"};
    const json_t *listed = NULL;
    return json_get_array(place, "vocab", JSON_REQUIRED, &tekken->words, error) &&
           json_get_array(place, "special_tokens", JSON_OPTIONAL, &listed, error) &&
           json_get_object(place, "config", JSON_REQUIRED, &config.object, error) &&
           (json_get_string(config, "pattern", JSON_OPTIONAL, pattern, error) ||
            error_prefix(error, "%s", tekken->name)) &&
           json_get_integer(config, "default_num_special_tokens", JSON_OPTIONAL, 1, 1 << 16,
                            &tekken->specials, error) &&
           json_get_integer(config, "default_vocab_size", JSON_OPTIONAL, tekken->specials + 1,
                            TOKEN_ID_LIMIT - 1, &tekken->size, error) &&
           add_specials(tekken, listed, error) && add_words(tekken, error);
}

json_t *tokenizer_from_tekken(const char *name, const json_t *whole, struct error *error) {
    struct tekken *tekken = calloc(1, sizeof *tekken);
    json_t *made = NULL;
    const char *pattern = splittings[0].pattern;
    if (!tekken) {
        no_memory(name, error);
        return NULL;
    }
    *tekken = (struct tekken){.name = name,
                              .vocabulary = json_object(),
                              .added = json_array(),
                              .merges = json_array(),
                              .specials = TEKKEN_SPECIALS,
                              .size = TEKKEN_SIZE};
    if (read_tekken(tekken, whole, &pattern, error)) {
        made = document(&splittings[0], pattern, json_incref(tekken->vocabulary), json_incref(tekken->merges),
                        json_incref(tekken->added));
        if (!made) no_memory(name, error);
    }
    json_decref(tekken->vocabulary);
    json_decref(tekken->added);
    json_decref(tekken->merges);
    buffer_free(&tekken->bytes);
    buffer_free(&tekken->text);
    buffer_free(&tekken->left);
    buffer_free(&tekken->right);
    free(tekken);
    return made;
}
