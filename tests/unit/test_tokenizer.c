#include "fixture.h"

#include "base/buffer.h"
#include "base/clock.h"
#include "base/json.h"
#include "text/bpe.h"
#include "text/nfc.h"
#include "text/pattern.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

// ------------------------------------------------------------------------------------------------- a small tokenizer

enum { FIRST_ADDED = 263 };

// The id of a byte's token is the byte; the merges' tokens follow from 256.
static const char *const merges[][2] = {{"a", "b"},           {"b", "a"},  {"b", "b"}, {"\u0120", "a"},
                                        {"\u0120", "\u0120"}, {"ab", "c"}, {"1", "2"}};

static const char byte_level[] =
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}";

static void add_json_string(struct buffer *out, const char *text) {
    buffer_add_string(out, "\"");
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') buffer_add_string(out, "\\");
        if ((unsigned char)*text < ' ')
            buffer_printf(out, "\\u%04x", (unsigned)*text);
        else
            buffer_add(out, text, 1);
    }
    buffer_add_string(out, "\"");
}

static void add_vocabulary(struct buffer *out) {
    buffer_add_string(out, "\"vocab\":{");
    int others = 0;
    for (int byte = 0; byte < 256; byte++) {
        bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        char text[5] = "";
        utf8_encode(printable ? byte : 256 + others++, text);
        add_json_string(out, text);
        buffer_printf(out, ":%d,", byte);
    }
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++)
        buffer_printf(out, "%s\"%s%s\":%zu", i ? "," : "", merges[i][0], merges[i][1], 256 + i);
    buffer_add_string(out, "},\"merges\":[");
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++)
        buffer_printf(out, "%s[\"%s\",\"%s\"]", i ? "," : "", merges[i][0], merges[i][1]);
    buffer_add_string(out, "]");
}

// An added token; flags: s special, l lstrip, r rstrip, w single_word, n normalized.
static void add_added(struct buffer *out, int index, const char *content, const char *flags) {
    buffer_printf(out, "%s{\"id\":%d,\"content\":", index ? "," : "", FIRST_ADDED + index);
    add_json_string(out, content);
    static const struct {
        const char *name;
        char flag;
    } fields[] = {
        {"single_word", 'w'}, {"lstrip", 'l'}, {"rstrip", 'r'}, {"normalized", 'n'}, {"special", 's'}};
    for (int i = 0; i < 5; i++)
        buffer_printf(out, ",\"%s\":%s", fields[i].name, strchr(flags, fields[i].flag) ? "true" : "false");
    buffer_add_string(out, "}");
}

// [added] is a list of content, flags, ..., NULL. Each part may be NULL.
static struct tokenizer *small(const char *steps, const char *const *added, const char *normalizer,
                               const char *model, struct error *error) {
    struct buffer json = {0};
    buffer_printf(&json,
                  "{\"normalizer\":%s,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[%s%s]},",
                  normalizer ? normalizer : "null", steps ? steps : "", byte_level);
    buffer_add_string(&json, "\"added_tokens\":[");
    for (int i = 0; added && added[2 * i]; i++) add_added(&json, i, added[2 * i], added[2 * i + 1]);
    buffer_printf(&json, "],\"model\":{\"type\":\"BPE\",%s", model ? model : "");
    add_vocabulary(&json);
    buffer_add_string(&json, "}}");
    struct tokenizer *tokenizer = tokenizer_parse("small", json.data, json.length, error);
    buffer_free(&json);
    return tokenizer;
}

// The tokens of a text with bars between them, added ones in braces, bytes beyond ASCII as %xx.
static char *encoded(const struct tokenizer *tokenizer, const char *text, size_t size) {
    struct error error = {0};
    struct token_list list = {0};
    struct buffer out = {0};
    assert_ok(tokenizer_encode(tokenizer, text, size, &list, &error), error);
    buffer_reserve(&out, 1);
    for (int64_t i = 0; i < list.count; i++) {
        size_t length;
        const char *bytes = tokenizer_token(tokenizer, list.ids[i], &length);
        assert_non_null(bytes);
        if (i) buffer_add_string(&out, "|");
        if (list.ids[i] >= FIRST_ADDED)
            buffer_printf(&out, "{%.*s}", (int)length, bytes);
        else
            for (size_t k = 0; k < length; k++)
                buffer_printf(&out, (unsigned char)bytes[k] < 0x80 ? "%c" : "%%%02x",
                              (unsigned char)bytes[k]);
    }
    free(list.ids);
    return out.data;
}

static void check(const struct tokenizer *tokenizer, const char *what, const char *text,
                  const char *expected) {
    char *found = encoded(tokenizer, text, strlen(text));
    if (strcmp(found, expected)) fail_msg("%s, \"%s\": %s, expected %s", what, text, found, expected);
    free(found);
}

// --------------------------------------------------------------------------------------------------- against fixtures

static void equal_to_the_reference(void **state) {
    struct error error = {0};
    json_t *json = json_read_file(FIXTURES "tokenizer.json", 1 << 24, &error);
    assert_ok(json, error);
    const json_t *strings = json_object_get(json, "strings");
    assert_true(json_array_size(strings) >= 300);
    static const char *const names[] = {"hf", "tekken"};
    for (int n = 0; n < 2; n++) {
        char path[512];
        snprintf(path, sizeof path, FIXTURES "tokenizer-%s", names[n]);
        struct tokenizer *tokenizer = tokenizer_open(path, &error);
        assert_ok(tokenizer, error);
        assert_int_equal(tokenizer_vocabulary(tokenizer), 1100);
        assert_int_equal(tokenizer_find(tokenizer, "[INST]"), 3);
        assert_int_equal(tokenizer_find(tokenizer, "no such token"), -1);
        for (size_t s = 0; s < json_array_size(strings); s++) {
            const json_t *text = json_array_get(strings, s),
                         *ids = json_array_get(json_object_get(json, names[n]), s);
            struct token_list list = {0};
            assert_ok(
                tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), &list, &error),
                error);
            bool equal = (size_t)list.count == json_array_size(ids);
            for (size_t i = 0; equal && i < json_array_size(ids); i++)
                equal = list.ids[i] == json_integer_value(json_array_get(ids, i));
            if (!equal) fail_msg("%s, string %zu \"%s\"", names[n], s, json_string_value(text));
            free(list.ids);
        }
        tokenizer_close(tokenizer);
    }
    json_decref(json);
}

// The expectations of the tables below were printed by tokenizers 0.23.

static void splits_like_the_reference(void **state) {
    static const struct {
        const char *pattern, *behavior;
        bool invert;
        const char *text, *expected;
    } cases[] = {
        {"b", "Isolated", false, "ababb", "a|b|a|b|b"},
        {"b", "Removed", false, "ababb", "a|a"},
        {"b", "Contiguous", false, "ababb", "a|b|a|bb"},
        {"b", "MergedWithPrevious", false, "ababb", "ab|ab|b"},
        {"b", "MergedWithNext", false, "ababba", "a|ba|b|ba"},
        {"b", "Removed", true, "ababb", "b|b|b"},
        {"b", "MergedWithNext", true, "ababb", "ab|ab|b"},
        {"b", "MergedWithPrevious", true, "ababb", "a|ba|b|b"},
        {"x*", "Isolated", false, "abab", "a|b|a|b"},
        {"(?=b)", "Isolated", false, "abab", "a|ba|b"},
        {"[b]", "Contiguous", true, "aabba", "a|a|bb|a"},
        {"\\s+(?!\\S)|\\s+", "Isolated", false, "ab   ab", "ab|  | |ab"},
        {"\\w+", "Isolated", false, "ab ab", "ab| |ab"},
        {"(?i:AB)", "Isolated", false, "abcabc", "ab|c|ab|c"},
        {"\\h+", "Isolated", false, "gab1x", "g|ab|1|x"},
        {"a{,1}b", "Isolated", false, "aab", "a|ab"},
        {"\\S", "Isolated", false, "ab", "a|b"},
        {"\\p{^Ll}", "Isolated", false, "ab1", "ab|1"},
        {"^a|b$", "Isolated", false, "ab\nab", "a|b|\n|a|b"},
        {"\\x62", "Isolated", false, "ab", "a|b"},
        {"\\u0062", "Isolated", false, "ab", "a|b"},
        {"a{b", "Isolated", false, "a{bab", "a|{|b|ab"},
        {"[^\\S ]", "Removed", false, "a\t\nb", "a|b"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        struct buffer steps = {0};
        buffer_add_string(&steps, "{\"type\":\"Split\",\"pattern\":{\"Regex\":");
        add_json_string(&steps, cases[i].pattern);
        buffer_printf(&steps, "},\"behavior\":\"%s\",\"invert\":%s},", cases[i].behavior,
                      cases[i].invert ? "true" : "false");
        struct tokenizer *tokenizer = small(steps.data, NULL, NULL, NULL, &error);
        assert_ok(tokenizer, error);
        check(tokenizer, cases[i].pattern, cases[i].text, cases[i].expected);
        tokenizer_close(tokenizer);
        buffer_free(&steps);
    }
}

static void added_tokens_are_cut_out(void **state) {
    static const struct {
        const char *added[7];
        const char *text, *expected;
    } cases[] = {
        {{"[X]", "s"}, "a[X]b", "a|{[X]}|b"},
        {{"[X]", "s"}, " [X] b[X]", " |{[X]}| |b|{[X]}"},
        {{"[X]", "sl"}, "a  [X]  b", "a|{[X]}|  |b"},
        {{"[X]", "sr"}, "a  [X]  b[X]", "a|  |{[X]}|b|{[X]}"},
        {{"[X]", "slr"}, "a \t\n[X]\u3000b", "a|{[X]}|b"},
        {{"[X]", "sw"}, "a[X]b [X] [X]", "a|[|X|]|b| |{[X]}| |{[X]}"},
        {{"[X]", "sw"},
         "\u00e9[X] \u24d0[X] _[X] -[X]",
         "%c3|%a9|[|X|]| |%e2|%93|%90|[|X|]| |_|[|X|]| |-|{[X]}"},
        {{"[X]", "n"}, "a[X]b", "a|{[X]}|b"},
        {{"[X]", "nl"}, " a [X]", " a|{[X]}"},
        {{"[X]", "s"}, "[X][X", "{[X]}|[|X"},
        {{"[X]", "s"}, "[[X]X]", "[|{[X]}|X|]"},
        {{"[X]", "s"}, "", ""},
        {{"[X]", "s", "[X]y", "s", "]]", "s"}, "[X]y[X]]]]", "{[X]y}|{[X]}|{]]}|]"},
        {{"acb", "n", "cb", ""}, "acb acb", "a|{cb}| a|{cb}"}, // what matches raw text comes first
        {{"[X]", "r", "  ", "lr", " ", ""}, "[X]    b  c", "{[X]}|b|{  }|c"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        struct tokenizer *tokenizer = small(NULL, cases[i].added, NULL, NULL, &error);
        assert_ok(tokenizer, error);
        check(tokenizer, cases[i].added[1], cases[i].text, cases[i].expected);
        tokenizer_close(tokenizer);
    }
}

static void byte_level_adds_spaces_and_splits(void **state) {
    static const struct {
        const char *step, *expected;
    } cases[] = {{"\"add_prefix_space\":false,\"use_regex\":true", "a|'|s|ab| | |ab"},
                 {"\"add_prefix_space\":true,\"use_regex\":false", " a|'|s|ab|  |ab"},
                 {"\"add_prefix_space\":true", " a|'|s|ab| | |ab"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        struct buffer json = {0};
        buffer_printf(&json, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",%s},\"model\":{", cases[i].step);
        add_vocabulary(&json);
        buffer_add_string(&json, "}}");
        struct tokenizer *tokenizer = tokenizer_parse("small", json.data, json.length, &error);
        assert_ok(tokenizer, error);
        check(tokenizer, cases[i].step, "a'sab  ab", cases[i].expected);
        tokenizer_close(tokenizer);
        buffer_free(&json);
    }
}

static void normal_form(void **state) {
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"abc", "abc"},
        {"e\u0301", "\u00e9"},
        {"a\u0323\u0307\u0301", "\u1ea1\u0307\u0301"},
        {"a\u0301\u0323", "\u1ea1\u0301"},
        {"\u1112\u1161\u11ab", "\ud55c"},
        {"\u2126 \u212b", "\u03a9 \u00c5"},
        {"\u0958", "\u0915\u093c"}, // excluded from composition
        {"\u0301", "\u0301"},
        {"a\u0c3c\u0323", "a\u0c3c\u0323"}, // U+0C3C is a mark since Unicode 14 only
        {"a\u0301\u1ac0\u0323", "\u00e1\u1ac0\u0323"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buffer out = {0};
        assert_true(nfc_add(cases[i].text, strlen(cases[i].text), &out));
        assert_string_equal(out.data, cases[i].expected);
        buffer_free(&out);
    }
    struct error error = {0};
    static const char *const added[] = {"e\u0301", "n", NULL};
    struct tokenizer *tokenizer = small(NULL, added, "{\"type\":\"NFC\"}", NULL, &error);
    assert_ok(tokenizer, error);
    check(tokenizer, "NFC", "e\u0301 \u00e9", "{e\u0301}| |{e\u0301}");
    tokenizer_close(tokenizer);
}

static void invalid_utf8_is_replaced(void **state) {
    static const struct {
        const char *text, *expected; // R for U+FFFD
    } cases[] = {{"a\xff"
                  "b",
                  "aRb"},
                 {"\xc3", "R"},
                 {"\xe2\x82", "R"},
                 {"\xe2\x82"
                  "a",
                  "Ra"},
                 {"\xf0\x9f\x98", "R"},
                 {"\xed\xa0\x80", "RRR"},
                 {"\xc0\xaf", "RR"},
                 {"\xf4\x90\x80\x80", "RRRR"},
                 {"\xe0\x80\x80", "RRR"},
                 {"\xf0\x9f\x98\xf0\x9f\x98\x80", "R\xf0\x9f\x98\x80"},
                 {"\x80\xc3\xa9", "R\xc3\xa9"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buffer found = {0}, expected = {0};
        for (const char *c = cases[i].expected; *c; c++) {
            if (*c == 'R')
                buffer_add_string(&expected, "\ufffd");
            else
                buffer_add(&expected, c, 1);
        }
        assert_true(utf8_repair(cases[i].text, strlen(cases[i].text), &found));
        assert_string_equal(found.data, expected.data);
        buffer_free(&found);
        buffer_free(&expected);
    }
    struct error error = {0};
    struct tokenizer *tokenizer = small(NULL, NULL, NULL, NULL, &error);
    assert_ok(tokenizer, error);
    check(tokenizer, "invalid",
          "a\xff"
          "b",
          "a|%ef|%bf|%bd|b");
    char *found = encoded(tokenizer, "a\0b", 3); // a 0 byte is text like any other
    assert_int_equal(strlen(found), 2);          // "a|", then the byte itself
    free(found);
    tokenizer_close(tokenizer);
}

// ------------------------------------------------------------------------------------------------------------ patterns

static int matches(const char *pattern, const char *text) {
    struct error error = {0};
    struct pattern *compiled = pattern_compile(pattern, strlen(pattern), false, &error);
    assert_ok(compiled, error);
    struct pattern_search *search = pattern_search_open(compiled, &error);
    assert_ok(search, error);
    size_t begin, end;
    int found = pattern_find(search, text, strlen(text), 0, &begin, &end, &error);
    pattern_search_close(search);
    pattern_free(compiled);
    return found == 1 && begin == 0 && end == strlen(text);
}

static void patterns_mean_what_the_reference_means(void **state) {
    assert_false(matches("\\s", "\u180e")); // no white space in Unicode today
    assert_true(matches("\\S", "\u180e"));
    assert_true(matches("[^\\s\\p{L}\\p{N}]", "\u180e"));
    assert_true(matches("\\s+", "\t\n\v\f\r \xc2\x85\u00a0\u1680\u2003\u2028\u202f\u205f\u3000"));
    assert_true(matches("\\p{L}", "\U0002ebf0")); // of Unicode 15.1
    assert_true(matches("\\p{Lo}", "\U00031350"));
    assert_false(matches("\\P{L}", "\U00031350"));
    assert_true(matches("\\w+", "a\u0301_\u24d0\u2160\u00bd"));
    assert_false(matches("[\\w]", "\u00bd"));
    assert_true(matches("\\p{Han}", "\u732b"));
    assert_false(matches("\\p{Han}", "\u3001")); // a script extension only
    assert_true(matches("(?i:'s)", "'\u017f"));
    assert_true(matches(".", "\r")); // lines end with \n alone
    assert_false(matches(".", "\n"));
    assert_true(matches("\\v", "\v"));
    assert_false(matches("\\v", "\n"));
    assert_true(matches("[\\-\\]\\[]+", "-]["));
    struct error error = {0};
    struct pattern *literal = pattern_compile("a.b(", 4, true, &error);
    assert_ok(literal, error);
    pattern_free(literal);
}

static void patterns_refused(void **state) {
    static const struct {
        const char *pattern, *message;
    } cases[] = {
        {"(a", "does not compile"},
        {"a)", "does not compile"},
        {"[a", "class without an end"},
        {"[]a]", "begins with ]"},
        {"[a[b]]", "class inside a class"},
        {"[[:alpha:]]", "class inside a class"},
        {"[a-z&&b]", "intersection"},
        {"[\\s-z]", "begins with a class"},
        {"[a-\\s]", "ends in a class"},
        {"\\bword", "the escape \\b"},
        {"(a)\\1", "the escape \\1"},
        {"\\Qa", "the escape \\Q"},
        {"[\\W]", "the escape \\W"},
        {"a\\", "backslash at the end"},
        {"\\p{Greek", "property without braces"},
        {"\\pL", "property without braces"},
        {"\\p{Nothing Such}", "property of unknown name"},
        {"\\p{Klingon}", "does not compile"},
        {"(*UTF)a", "a verb"},
        {"(?P<n>a)", "a group of a kind"},
        {"(?m:a)", "a group of a kind"},
        {"(?i)a", "a group of a kind"},
        {"(?i:\\p{Lu})", "one case"},
        {"a{2,3}+", "repetition"},
        {"a{2}?", "repetition"},
        {"\\x{110000}", "does not exist"},
        {"\\x{d800}", "does not exist"},
        {"\\xff", "a byte beyond"},
        {"\\u12", "incomplete code point"},
        {"*a", "does not compile"},
        {"\xff", "UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        struct pattern *pattern = pattern_compile(cases[i].pattern, strlen(cases[i].pattern), false, &error);
        if (pattern) fail_msg("%s was accepted", cases[i].pattern);
        assert_contains(error.message, cases[i].message);
    }
}

static void hostile_patterns_run_into_a_limit(void **state) {
    struct error error = {0};
    struct tokenizer *tokenizer =
        small("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:a|a|aa)+c\"},\"behavior\":\"Isolated\"},",
              NULL, NULL, NULL, &error);
    assert_ok(tokenizer, error);
    struct token_list list = {0};
    char text[400];
    memset(text, 'a', sizeof text);
    memcpy(text + sizeof text - 2, "bc", 2); // a pattern whose last letter never comes is given up at once
    assert_false(tokenizer_encode(tokenizer, text, sizeof text, &list, &error));
    assert_contains(error.message, "could not be matched");
    free(list.ids);
    tokenizer_close(tokenizer);
}

// A megabyte of one word, of spaces, of marks: a few seconds even under sanitizers, where n squared would take hours.
static void long_texts_stay_fast(void **state) {
    static const char *const units[] = {"ab",     "A",  " ", "a\u0301\u0323", "\u0301\u0323", "[",
                                        "\u732b", "\n", "12"};
    struct error error = {0};
    struct tokenizer *tokenizers[] = {tokenizer_open(FIXTURES "tokenizer-hf", &error),
                                      tokenizer_open(FIXTURES "tokenizer-tekken/tokenizer.json", &error),
                                      small(NULL, NULL, "{\"type\":\"NFC\"}", NULL, &error)};
    for (size_t t = 0; t < 3; t++) {
        assert_ok(tokenizers[t], error);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            struct buffer text = {0};
            while (text.length < 1 << 20) buffer_add_string(&text, units[u]);
            struct token_list list = {0};
            double begin = clock_seconds();
            assert_ok(tokenizer_encode(tokenizers[t], text.data, text.length, &list, &error), error);
            double seconds = clock_seconds() - begin;
            if (seconds > 60) fail_msg("tokenizer %zu, \"%s\": %.0f s", t, units[u], seconds);
            int64_t bytes = 0;
            for (int64_t i = 0; i < list.count; i++) {
                size_t size;
                assert_non_null(tokenizer_token(tokenizers[t], list.ids[i], &size));
                bytes += (int64_t)size;
            }
            if (t < 2) assert_int_equal(bytes, text.length);
            free(list.ids);
            buffer_free(&text);
        }
        tokenizer_close(tokenizers[t]);
    }
}

// ----------------------------------------------------------------------------------------------------------- bad input

#define BYTES         "\"pre_tokenizer\":{\"type\":\"ByteLevel\"}"
#define MODEL(inside) "{" BYTES ",\"model\":{\"type\":\"BPE\"," inside "}}"
#define ADDED(inside)                                                                                        \
    "{" BYTES ",\"model\":{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]},\"added_tokens\":[" inside "]}"
#define FLAGS                                                                                                \
    ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}"
#define PRE(inside) "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":" inside "}"

static void bad_files_are_named(void **state) {
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"", "not valid JSON"},
        {"[]", "expected an object"},
        {"{}", "field \"model\" is missing"},
        {"{\"model\":3}", "expected an object, found an integer"},
        {"{" BYTES ",\"model\":{\"type\":\"WordPiece\"}}", "model.type: \"WordPiece\", expected \"BPE\""},
        {"{" BYTES ",\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "model.type: \"Unigram\""},
        {MODEL("\"merges\":[]"), "field \"vocab\" is missing"},
        {MODEL("\"vocab\":{},\"merges\":[]"), "model.vocab: empty"},
        {MODEL("\"vocab\":{\"a\":0}"), "field \"merges\" is missing"},
        {MODEL("\"vocab\":{\"a\":-1},\"merges\":[]"), "the id of \"a\" is not an integer in [0,"},
        {MODEL("\"vocab\":{\"a\":99999999},\"merges\":[]"), "the id of \"a\""},
        {MODEL("\"vocab\":{\"a\":\"0\"},\"merges\":[]"), "the id of \"a\""},
        {MODEL("\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]"), "tokens \"a\" and \"b\" have the same id 0"},
        {MODEL("\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]"), "not valid JSON"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"a b\"]"), "merges[0]: \"b\" is not in the vocabulary"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"a\"]]"),
         "merges[0]: \"aa\" is not in the vocabulary"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]"), "merges[0]: expected"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"aa\"]"), "merges[0]: expected"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]"), "merges[0]: expected"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[7]"), "merges[0]: expected"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":{}"), "expected an array"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1"), "model.dropout: 0.1"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"?\""),
         "unk_token: \"?\" is not in the vocabulary"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":true"), "no token for byte 0x00"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\""),
         "end_of_word_suffix: \"</w>\""},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[],\"continuing_subword_prefix\":\"##\""),
         "continuing_subword_prefix"},
        {ADDED("{\"content\":\"x\"}"), "added_tokens: field \"id\" is missing"},
        {ADDED("{\"id\":5,\"content\":\"x\"}"), "field \"single_word\" is missing"},
        {ADDED("{\"id\":5,\"content\":\"\"" FLAGS), "field \"content\": empty"},
        {ADDED("{\"id\":99999999,\"content\":\"x\"" FLAGS), "field \"id\": 99999999"},
        {ADDED("{\"id\":1,\"content\":\"a\"" FLAGS), "\"a\" has the id 1, which the vocabulary contradicts"},
        {ADDED("{\"id\":1,\"content\":\"x\"" FLAGS), "\"x\" has the id 1, which the vocabulary contradicts"},
        {ADDED("{\"id\":5,\"content\":\"x\"" FLAGS ",{\"id\":5,\"content\":\"y\"" FLAGS),
         "have the same id 5"},
        {ADDED("{\"id\":5,\"content\":\"x\"" FLAGS ",{\"id\":6,\"content\":\"x\"" FLAGS),
         "\"x\" stands there twice"},
        {ADDED("3"), "expected an object"},
        {PRE("null"), "no ByteLevel pre-tokenizer"},
        {PRE("{\"type\":\"Metaspace\"}"), "pre_tokenizer.type: \"Metaspace\", expected Split, ByteLevel"},
        {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[]}"), "no ByteLevel pre-tokenizer"},
        {PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]}"),
         "\"Digits\" behind \"ByteLevel\""},
        {PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}"),
         "pre_tokenizer.pattern: a pattern"},
        {PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Shuffled\"}"),
         "\"Shuffled\" is unknown"},
        {PRE("{\"type\":\"Split\",\"pattern\":{},\"behavior\":\"Isolated\"}"), "expected {\"Regex\": ...}"},
        {"{" BYTES ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"Lowercase\"}}",
         "normalizer.type: \"Lowercase\", expected NFC or none"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        struct tokenizer *tokenizer =
            tokenizer_parse("bad.json", cases[i].json, strlen(cases[i].json), &error);
        if (tokenizer) fail_msg("%s was accepted", cases[i].json);
        assert_contains(error.message, cases[i].message);
        assert_contains(error.message, "bad.json");
        assert_null(strchr(error.message, '\n'));
    }
    struct error error = {0};
    assert_null(tokenizer_open(FIXTURES "no-such-folder", &error));
    assert_contains(error.message, "no-such-folder");
}

// Every beginning of a file is refused, and none of them is read beyond its end.
static void truncated_files_are_refused(void **state) {
    static const char json[] = ADDED("{\"id\":5,\"content\":\"x\"" FLAGS);
    for (size_t size = 0; size + 1 < sizeof json; size++) {
        struct error error = {0};
        char *copy = malloc(size + 1);
        memcpy(copy, json, size);
        assert_null(tokenizer_parse("short", copy, size, &error));
        assert_true(error.kind != ERROR_NONE);
        free(copy);
    }
    struct error error = {0};
    struct tokenizer *tokenizer = tokenizer_parse("whole", json, sizeof json - 1, &error);
    assert_ok(tokenizer, error);
    tokenizer_close(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_to_the_reference),
        cmocka_unit_test(splits_like_the_reference),
        cmocka_unit_test(added_tokens_are_cut_out),
        cmocka_unit_test(byte_level_adds_spaces_and_splits),
        cmocka_unit_test(normal_form),
        cmocka_unit_test(invalid_utf8_is_replaced),
        cmocka_unit_test(patterns_mean_what_the_reference_means),
        cmocka_unit_test(patterns_refused),
        cmocka_unit_test(hostile_patterns_run_into_a_limit),
        cmocka_unit_test(long_texts_stay_fast),
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(truncated_files_are_refused),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
