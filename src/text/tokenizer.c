// tokenizer.json read and run. Encoding goes, as in the tokenizers library: cut out the added tokens that match the raw
// text; normalise each stretch between them; cut out those that match normalised text; cut what is left by the
// pre-tokenizers one after the other; merge the bytes of each piece (bpe.h). Relies on the other files of this folder, base.
#include "text/tokenizer.h"
#include "base/json.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/nfc.h"
#include "text/pattern.h"
#include "text/tokenizer_forms.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { STEPS_MOST = 16 };

enum step_kind {
    STEP_ISOLATED, // matches and what lies between them are pieces
    STEP_REMOVED,  // matches are left out
    STEP_CONTIGUOUS,
    STEP_MERGED_WITH_PREVIOUS,
    STEP_MERGED_WITH_NEXT,
    STEP_SPACE, // no pattern: a piece that does not begin with a space gets one
};

struct step {
    enum step_kind kind;
    struct pattern *pattern;
    bool invert; // what lies between the matches counts as the match
};

struct tokenizer {
    struct bpe *bpe;
    struct added_token *added; // in file order
    int added_count;
    struct added_set raw, normalized;
    struct pattern *word; // one character of a word; only where an added token is a single word
    bool nfc;
    struct step steps[STEPS_MOST];
    int step_count;
    int32_t vocabulary;
};

// The pattern of ByteLevel with use_regex, as GPT-2 had it.
static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

// ------------------------------------------------------------------------------------------------------ pre-tokenizer

static bool add_step(struct tokenizer *tokenizer, struct step step, const char *name, struct error *error) {
    if (tokenizer->step_count == STEPS_MOST) {
        pattern_free(step.pattern);
        return error_set(error, ERROR_UNSUPPORTED, "%s: more than %d steps", name, STEPS_MOST);
    }
    tokenizer->steps[tokenizer->step_count++] = step;
    return true;
}

static bool read_split(struct tokenizer *tokenizer, struct json_place place, struct error *error) {
    static const struct {
        const char *name;
        enum step_kind kind;
    } behaviors[] = {{"Isolated", STEP_ISOLATED},
                     {"Removed", STEP_REMOVED},
                     {"Contiguous", STEP_CONTIGUOUS},
                     {"MergedWithPrevious", STEP_MERGED_WITH_PREVIOUS},
                     {"MergedWithNext", STEP_MERGED_WITH_NEXT}};
    const json_t *pattern = NULL;
    const char *behavior = NULL, *source = NULL, *literal = NULL;
    struct step step = {.kind = STEP_SPACE};
    if (!json_get_object(place, "pattern", JSON_REQUIRED, &pattern, error) ||
        !json_get_string(place, "behavior", JSON_REQUIRED, &behavior, error) ||
        !json_get_bool(place, "invert", JSON_OPTIONAL, &step.invert, error))
        return false;
    for (size_t i = 0; i < sizeof behaviors / sizeof *behaviors; i++)
        if (strcmp(behaviors[i].name, behavior) == 0) step.kind = behaviors[i].kind;
    if (step.kind == STEP_SPACE)
        return error_set(error, ERROR_UNSUPPORTED, "%s.behavior: \"%.40s\" is unknown, expected \"Isolated\"",
                         place.name, behavior);
    struct json_place inside = {pattern, place.name};
    if (!json_get_string(inside, "Regex", JSON_OPTIONAL, &source, error) ||
        !json_get_string(inside, "String", JSON_OPTIONAL, &literal, error))
        return false;
    if (!source && !literal)
        return error_set(error, ERROR_INPUT, "%s.pattern: expected {\"Regex\": ...} or {\"String\": ...}",
                         place.name);
    const char *text = source ? source : literal;
    step.pattern = pattern_compile(text, strlen(text), !source, error);
    if (!step.pattern) return error_prefix(error, "%s.pattern", place.name);
    return add_step(tokenizer, step, place.name, error);
}

static bool read_byte_level(struct tokenizer *tokenizer, struct json_place place, struct error *error) {
    bool prefix = true, regex = true;
    if (!json_get_bool(place, "add_prefix_space", JSON_OPTIONAL, &prefix, error) ||
        !json_get_bool(place, "use_regex", JSON_OPTIONAL, &regex, error))
        return false;
    if (prefix && !add_step(tokenizer, (struct step){.kind = STEP_SPACE}, place.name, error)) return false;
    if (!regex) return true;
    struct step step = {.kind = STEP_ISOLATED};
    step.pattern = pattern_compile(byte_level_pattern, sizeof byte_level_pattern - 1, false, error);
    return step.pattern && add_step(tokenizer, step, place.name, error);
}

// [depth] counts Sequences inside Sequences; *bytes is set once ByteLevel was seen, behind which nothing may come.
static bool read_pre_tokenizer(struct tokenizer *tokenizer, struct json_place place, int depth, bool *bytes,
                               struct error *error) {
    const char *type = NULL;
    const json_t *list = NULL;
    if (!json_get_string(place, "type", JSON_REQUIRED, &type, error)) return false;
    if (*bytes)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: \"%.40s\" behind \"ByteLevel\", which is expected last", place.name, type);
    if (strcmp(type, "Split") == 0) return read_split(tokenizer, place, error);
    if (strcmp(type, "ByteLevel") == 0) {
        *bytes = true;
        return read_byte_level(tokenizer, place, error);
    }
    if (strcmp(type, "Sequence") != 0 || depth >= STEPS_MOST)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s.type: \"%.40s\", expected Split, ByteLevel or a Sequence of them", place.name,
                         type);
    if (!json_get_array(place, "pretokenizers", JSON_REQUIRED, &list, error)) return false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct json_place entry = {json_array_get(list, i), place.name};
        if (!read_pre_tokenizer(tokenizer, entry, depth + 1, bytes, error)) return false;
    }
    return true;
}

// -------------------------------------------------------------------------------------------------------- normalizer

static bool read_normalizer(struct tokenizer *tokenizer, struct json_place place, int depth,
                            struct error *error) {
    const char *type = NULL;
    const json_t *list = NULL;
    if (!json_get_string(place, "type", JSON_REQUIRED, &type, error)) return false;
    if (strcmp(type, "NFC") == 0) {
        tokenizer->nfc = true;
        return true;
    }
    if (strcmp(type, "Sequence") != 0 || depth >= STEPS_MOST)
        return error_set(error, ERROR_UNSUPPORTED, "%s.type: \"%.40s\", expected NFC or none", place.name,
                         type);
    if (!json_get_array(place, "normalizers", JSON_REQUIRED, &list, error)) return false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct json_place entry = {json_array_get(list, i), place.name};
        if (!read_normalizer(tokenizer, entry, depth + 1, error)) return false;
    }
    return true;
}

// ------------------------------------------------------------------------------------------------------ added tokens

static bool add_added(struct tokenizer *tokenizer, struct json_place place, struct error *error) {
    struct added_token token = {0};
    const char *content = NULL;
    int64_t id = 0;
    bool special = false;
    if (!json_get_string(place, "content", JSON_REQUIRED, &content, error) ||
        !json_get_integer(place, "id", JSON_REQUIRED, 0, TOKEN_ID_LIMIT - 1, &id, error) ||
        !json_get_bool(place, "single_word", JSON_REQUIRED, &token.single_word, error) ||
        !json_get_bool(place, "lstrip", JSON_REQUIRED, &token.left, error) ||
        !json_get_bool(place, "rstrip", JSON_REQUIRED, &token.right, error) ||
        !json_get_bool(place, "normalized", JSON_REQUIRED, &token.normalized, error) ||
        !json_get_bool(place, "special", JSON_REQUIRED, &special, error))
        return false;
    if (*content == 0) return error_set(error, ERROR_INPUT, "%s: field \"content\": empty", place.name);
    token.id = (int32_t)id;
    int32_t known = bpe_find(tokenizer->bpe, content, strlen(content));
    size_t size;
    if (known >= 0 ? known != id : bpe_bytes(tokenizer->bpe, token.id, &size) != NULL)
        return error_set(error, ERROR_INPUT,
                         "%s: \"%.40s\" has the id %lld, which the vocabulary contradicts", place.name,
                         content, (long long)id);
    struct buffer match = {0};
    bool normalize = token.normalized && tokenizer->nfc;
    token.content = strdup(content);
    if (!token.content ||
        !(normalize ? nfc_add(content, strlen(content), &match) : buffer_add_string(&match, content))) {
        free(token.content);
        buffer_free(&match);
        return error_set(error, ERROR_MEMORY, "%s: out of memory", place.name);
    }
    token.match = match.data;
    token.match_size = match.length;
    tokenizer->added[tokenizer->added_count++] = token;
    if (token.id >= tokenizer->vocabulary) tokenizer->vocabulary = token.id + 1;
    return true;
}

static int compare_content(const void *a, const void *b) {
    return strcmp((*(struct added_token *const *)a)->content, (*(struct added_token *const *)b)->content);
}

static int compare_id(const void *a, const void *b) {
    int32_t x = (*(struct added_token *const *)a)->id, y = (*(struct added_token *const *)b)->id;
    return x < y ? -1 : x > y;
}

static bool check_added(const struct tokenizer *tokenizer, struct json_place place, struct error *error) {
    size_t count = (size_t)tokenizer->added_count;
    struct added_token **sorted = malloc((count + 1) * sizeof *sorted);
    if (!sorted) return error_set(error, ERROR_MEMORY, "%s: out of memory", place.name);
    for (size_t i = 0; i < count; i++) sorted[i] = &tokenizer->added[i];
    bool done = true;
    qsort(sorted, count, sizeof *sorted, compare_content);
    for (size_t i = 1; done && i < count; i++)
        if (compare_content(&sorted[i - 1], &sorted[i]) == 0)
            done = error_set(error, ERROR_INPUT, "%s: field \"added_tokens\": \"%.40s\" stands there twice",
                             place.name, sorted[i]->content);
    qsort(sorted, count, sizeof *sorted, compare_id);
    for (size_t i = 1; done && i < count; i++)
        if (sorted[i - 1]->id == sorted[i]->id)
            done = error_set(error, ERROR_INPUT,
                             "%s: field \"added_tokens\": \"%.40s\" and \"%.40s\" have the same id %d",
                             place.name, sorted[i - 1]->content, sorted[i]->content, sorted[i]->id);
    free(sorted);
    return done;
}

static bool read_added(struct tokenizer *tokenizer, struct json_place place, struct error *error) {
    const json_t *list = NULL;
    if (!json_get_array(place, "added_tokens", JSON_OPTIONAL, &list, error)) return false;
    size_t count = list ? json_array_size(list) : 0;
    if (count > TOKEN_ID_LIMIT)
        return error_set(error, ERROR_INPUT, "%s: field \"added_tokens\": %zu entries", place.name, count);
    tokenizer->added = calloc(count + 1, sizeof *tokenizer->added);
    if (!tokenizer->added) return error_set(error, ERROR_MEMORY, "%s: out of memory", place.name);
    bool words = false;
    for (size_t i = 0; i < count; i++) {
        struct json_place entry = {json_array_get(list, i), "added_tokens"};
        if (!add_added(tokenizer, entry, error)) return error_prefix(error, "%s", place.name);
        words = words || tokenizer->added[i].single_word;
    }
    if (words) {
        // \w of Rust's regular expressions, which decides here: a class's \w and the joiners.
        static const char word[] = "[\\w\\x{200c}\\x{200d}]";
        tokenizer->word = pattern_compile(word, sizeof word - 1, false, error);
        if (!tokenizer->word) return false;
    }
    return check_added(tokenizer, place, error) &&
           added_set_open(&tokenizer->raw, tokenizer->added, tokenizer->added_count, false, error) &&
           added_set_open(&tokenizer->normalized, tokenizer->added, tokenizer->added_count, true, error);
}

// ----------------------------------------------------------------------------------------------------------- opening

static bool read_tokenizer(struct tokenizer *tokenizer, struct json_place place, struct error *error) {
    const json_t *model = NULL, *pre_tokenizer = NULL, *normalizer = NULL;
    bool bytes = false;
    if (!json_get_object(place, "model", JSON_REQUIRED, &model, error) ||
        !json_get_object(place, "normalizer", JSON_OPTIONAL, &normalizer, error) ||
        !json_get_object(place, "pre_tokenizer", JSON_OPTIONAL, &pre_tokenizer, error))
        return false;
    tokenizer->bpe = bpe_open((struct json_place){model, "model"}, error);
    if (!tokenizer->bpe) return error_prefix(error, "%s", place.name);
    tokenizer->vocabulary = bpe_vocabulary(tokenizer->bpe);
    if (normalizer && !read_normalizer(tokenizer, (struct json_place){normalizer, "normalizer"}, 0, error))
        return error_prefix(error, "%s", place.name);
    if (pre_tokenizer &&
        !read_pre_tokenizer(tokenizer, (struct json_place){pre_tokenizer, "pre_tokenizer"}, 0, &bytes, error))
        return error_prefix(error, "%s", place.name);
    if (!bytes)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: no ByteLevel pre-tokenizer, expected a byte-level tokenizer", place.name);
    return read_added(tokenizer, place, error);
}

// Reads a tokenizer.json document, which it takes over.
static struct tokenizer *open_document(const char *name, json_t *root, struct error *error) {
    if (!root) return NULL;
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) {
        error_set(error, ERROR_MEMORY, "%s: out of memory", name);
    } else if (!read_tokenizer(tokenizer, (struct json_place){root, name}, error)) {
        tokenizer_close(tokenizer);
        tokenizer = NULL;
    }
    json_decref(root);
    return tokenizer;
}

struct tokenizer *tokenizer_parse(const char *name, const char *json, size_t size, struct error *error) {
    return open_document(name, tokenizer_document_parse(name, json, size, error), error);
}

struct tokenizer *tokenizer_open(const char *path, struct error *error) {
    char *file = tokenizer_file(path, error);
    struct tokenizer *tokenizer = file ? open_document(file, tokenizer_document(file, error), error) : NULL;
    free(file);
    return tokenizer;
}

void tokenizer_close(struct tokenizer *tokenizer) {
    if (!tokenizer) return;
    added_set_close(&tokenizer->raw);
    added_set_close(&tokenizer->normalized);
    for (int i = 0; i < tokenizer->added_count; i++) {
        free(tokenizer->added[i].content);
        free(tokenizer->added[i].match);
    }
    free(tokenizer->added);
    for (int i = 0; i < tokenizer->step_count; i++) pattern_free(tokenizer->steps[i].pattern);
    pattern_free(tokenizer->word);
    bpe_close(tokenizer->bpe);
    free(tokenizer);
}

int32_t tokenizer_vocabulary(const struct tokenizer *tokenizer) {
    return tokenizer->vocabulary;
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *token) {
    for (int i = 0; i < tokenizer->added_count; i++)
        if (strcmp(tokenizer->added[i].content, token) == 0) return tokenizer->added[i].id;
    return bpe_find(tokenizer->bpe, token, strlen(token));
}

const char *tokenizer_token(const struct tokenizer *tokenizer, int32_t id, size_t *size) {
    for (int i = 0; i < tokenizer->added_count; i++) {
        if (tokenizer->added[i].id != id) continue;
        *size = strlen(tokenizer->added[i].content);
        return tokenizer->added[i].content;
    }
    return bpe_bytes(tokenizer->bpe, id, size);
}

// ---------------------------------------------------------------------------------------------------------- encoding

// One call of tokenizer_encode.
struct encoding {
    const struct tokenizer *tokenizer;
    struct token_list *list;
    struct pattern_search *searches[STEPS_MOST]; // of the steps, opened when first needed
    struct bpe_scratch scratch;
    struct error *error;
};

static bool run_steps(struct encoding *encoding, int step, const char *text, size_t size);

// A stretch between two borders of a step's matches.
struct unit {
    size_t begin, end;
    bool match;
};

// Joins units into pieces as a step's kind says, and passes each piece on.
struct joiner {
    struct encoding *encoding;
    const char *text;
    int step;
    struct unit held; // not yet passed on
    bool holding;
};

static bool pass_on(struct joiner *joiner, struct unit unit) {
    return run_steps(joiner->encoding, joiner->step + 1, joiner->text + unit.begin, unit.end - unit.begin);
}

static bool join(struct joiner *joiner, struct unit unit) {
    const struct step *step = &joiner->encoding->tokenizer->steps[joiner->step];
    struct unit *held = &joiner->held;
    bool joins = false;
    if (step->invert) unit.match = !unit.match;
    switch (step->kind) {
    case STEP_REMOVED:
        return unit.match || pass_on(joiner, unit);
    case STEP_CONTIGUOUS:
        joins = held->match == unit.match;
        break;
    case STEP_MERGED_WITH_PREVIOUS:
        joins = unit.match && !held->match;
        break;
    case STEP_MERGED_WITH_NEXT:
        joins = held->match && !unit.match;
        break;
    default:
        return pass_on(joiner, unit);
    }
    if (joiner->holding && joins) {
        held->end = unit.end;
        held->match = unit.match;
        return true;
    }
    bool done = !joiner->holding || pass_on(joiner, *held);
    *held = unit;
    joiner->holding = true;
    return done;
}

// Passes the matches and what lies between them to the joiner. An empty match right behind the last match does not count.
static bool split(struct encoding *encoding, int step, const char *text, size_t size) {
    struct pattern_search **search = &encoding->searches[step];
    if (!*search &&
        !(*search = pattern_search_open(encoding->tokenizer->steps[step].pattern, encoding->error)))
        return false;
    struct joiner joiner = {.encoding = encoding, .text = text, .step = step};
    size_t previous = 0, from = 0, begin = 0, end = 0;
    bool matched = false;
    while (from <= size) {
        int found = pattern_find(*search, text, size, from, &begin, &end, encoding->error);
        if (found < 0) return false;
        if (found == 0) break;
        if (begin == end && matched && end == previous) {
            int32_t point;
            from += from < size ? utf8_decode(text + from, size - from, &point) : 1;
            continue;
        }
        if (previous < begin && !join(&joiner, (struct unit){previous, begin, false})) return false;
        if (!join(&joiner, (struct unit){begin, end, true})) return false;
        previous = from = end;
        matched = true;
    }
    if (previous < size && !join(&joiner, (struct unit){previous, size, false})) return false;
    return !joiner.holding || pass_on(&joiner, joiner.held);
}

static bool run_steps(struct encoding *encoding, int step, const char *text, size_t size) {
    const struct tokenizer *tokenizer = encoding->tokenizer;
    if (size == 0) return true;
    if (step == tokenizer->step_count)
        return bpe_encode(tokenizer->bpe, text, size, &encoding->scratch, encoding->list, encoding->error);
    if (tokenizer->steps[step].kind != STEP_SPACE) return split(encoding, step, text, size);
    if (text[0] == ' ') return run_steps(encoding, step + 1, text, size);
    struct buffer spaced = {0};
    bool done = buffer_add(&spaced, " ", 1) && buffer_add(&spaced, text, size);
    if (!done) error_set(encoding->error, ERROR_MEMORY, "out of memory for a text of %zu bytes", size);
    done = done && run_steps(encoding, step + 1, spaced.data, spaced.length);
    buffer_free(&spaced);
    return done;
}

// Whether a code point belongs to a word; [context] is the search for one.
struct word_test {
    struct pattern_search *search;
};

static bool is_word(const void *context, int32_t point) {
    const struct word_test *test = context;
    char text[4];
    size_t begin, end;
    if (point < 0 || !test->search) return false;
    struct error ignored = {0};
    return pattern_find(test->search, text, utf8_encode(point, text), 0, &begin, &end, &ignored) == 1;
}

typedef bool stretch_function(struct encoding *, const struct word_test *, const char *text, size_t size);

// Cuts out the added tokens of [set]; stretches between them go to [next].
static bool cut_added(struct encoding *encoding, const struct word_test *test, const struct added_set *set,
                      const char *text, size_t size, stretch_function *next) {
    struct added_pieces pieces = {0};
    bool done = added_set_split(set, text, size, is_word, test, &pieces, encoding->error);
    for (size_t i = 0; done && i < pieces.count; i++) {
        const struct added_piece *piece = &pieces.pieces[i];
        done = piece->id >= 0 ? token_list_add(encoding->list, piece->id, encoding->error)
                              : next(encoding, test, text + piece->begin, piece->end - piece->begin);
    }
    free(pieces.pieces);
    return done;
}

static bool encode_plain(struct encoding *encoding, const struct word_test *test, const char *text,
                         size_t size) {
    (void)test;
    return run_steps(encoding, 0, text, size);
}

static bool encode_raw(struct encoding *encoding, const struct word_test *test, const char *text,
                       size_t size) {
    const struct added_set *set = &encoding->tokenizer->normalized;
    if (!encoding->tokenizer->nfc) return cut_added(encoding, test, set, text, size, encode_plain);
    struct buffer normal = {0};
    bool done = nfc_add(text, size, &normal);
    if (!done) error_set(encoding->error, ERROR_MEMORY, "out of memory for a text of %zu bytes", size);
    done = done && cut_added(encoding, test, set, normal.data, normal.length, encode_plain);
    buffer_free(&normal);
    return done;
}

bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t size,
                      struct token_list *list, struct error *error) {
    struct encoding encoding = {.tokenizer = tokenizer, .list = list, .error = error};
    struct word_test test = {0};
    struct buffer repaired = {0};
    bool done = true;
    if (!utf8_valid(text, size)) {
        done = utf8_repair(text, size, &repaired);
        if (!done) error_set(error, ERROR_MEMORY, "out of memory for a text of %zu bytes", size);
        text = repaired.data;
        size = repaired.length;
    }
    if (done && tokenizer->word) done = (test.search = pattern_search_open(tokenizer->word, error)) != NULL;
    if (done) done = cut_added(&encoding, &test, &tokenizer->raw, text, size, encode_raw);
    for (int i = 0; i < tokenizer->step_count; i++) pattern_search_close(encoding.searches[i]);
    pattern_search_close(test.search);
    bpe_scratch_free(&encoding.scratch);
    buffer_free(&repaired);
    return done;
}
