// Byte-pair encoding as the tokenizers library does it: the symbols of a piece are a linked list, candidate merges wait in
// a heap ordered by (rank, position), and one that a neighbour's merge has overtaken is recognised when it is taken out.
#include "text/bpe.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

struct token {
    uint32_t spelling, spelling_size; // in texts; the file's spelling
    uint32_t bytes, bytes_size;       // in texts; what it stands for
    bool used;
};

struct merge_slot {
    uint64_t pair; // left << 32 | right
    int32_t rank;
    int32_t id; // -1: a free slot
};

struct bpe {
    struct buffer texts;
    struct token *tokens; // by id
    int32_t token_count;
    size_t longest; // bytes of the longest spelling
    int32_t *slots; // ids by the hash of their spelling, -1 free
    size_t slot_mask;
    struct merge_slot *merges;
    size_t merge_mask;
    int32_t byte_ids[256]; // -1: the vocabulary has none
    char byte_spelling[256][3];
    int32_t unknown; // -1: unknown bytes are left out
    bool fuse_unknown, ignore_merges;
};

struct bpe_symbol {
    int32_t id, previous, next; // -1 at the ends; id -1: merged away
};

struct bpe_merge {
    int32_t rank, position, id;
};

bool token_list_add(struct token_list *list, int32_t id, struct error *error) {
    if (list->count == list->capacity) {
        int64_t capacity = list->capacity ? list->capacity * 2 : 64;
        int32_t *ids = realloc(list->ids, (size_t)capacity * sizeof *ids);
        if (!ids) return error_set(error, ERROR_MEMORY, "out of memory for %lld tokens", (long long)capacity);
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->count++] = id;
    return true;
}

// -------------------------------------------------------------------------------------------------------- vocabulary

static uint64_t mix(uint64_t value) { // the finaliser of splitmix64
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

static uint64_t hash_text(const char *text, size_t size) { // FNV-1a, mixed
    uint64_t value = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) value = (value ^ (unsigned char)text[i]) * 0x100000001b3u;
    return mix(value);
}

static size_t table_size(size_t count) {
    size_t size = 16;
    while (size < count * 2) size *= 2;
    return size;
}

int32_t bpe_byte_point(int byte) {
    bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    if (printable) return byte;
    if (byte <= 32) return 0x100 + byte;
    return byte == 173 ? 0x143 : 0x121 + (byte - 127);
}

// Appends the bytes that a spelling stands for; a spelling outside the byte-level alphabet stands for itself.
static bool add_bytes(struct bpe *bpe, struct token *token) {
    int16_t bytes_of[0x144];
    memset(bytes_of, 0xff, sizeof bytes_of);
    for (int byte = 0; byte < 256; byte++) bytes_of[bpe_byte_point(byte)] = (int16_t)byte;
    token->bytes = (uint32_t)bpe->texts.length;
    if (!buffer_reserve(&bpe->texts, token->spelling_size)) return false;
    const char *text = bpe->texts.data + token->spelling;
    for (size_t i = 0; i < token->spelling_size;) {
        int32_t point;
        i += utf8_decode(text + i, token->spelling_size - i, &point);
        if (point < 0 || point >= 0x144 || bytes_of[point] < 0) {
            bpe->texts.length = token->bytes;
            token->bytes = token->spelling;
            token->bytes_size = token->spelling_size;
            return true;
        }
        char byte = (char)bytes_of[point];
        buffer_add(&bpe->texts, &byte, 1);
    }
    token->bytes_size = (uint32_t)(bpe->texts.length - token->bytes);
    return true;
}

static bool add_token(struct bpe *bpe, struct json_place place, const char *text, json_int_t id,
                      struct error *error) {
    struct token *token = &bpe->tokens[id];
    if (token->used) {
        return error_set(error, ERROR_INPUT, "%s: tokens \"%.*s\" and \"%.40s\" have the same id %lld",
                         place.name, (int)(token->spelling_size < 40 ? token->spelling_size : 40),
                         bpe->texts.data + token->spelling, text, (long long)id);
    }
    size_t size = strlen(text);
    token->used = true;
    token->spelling = (uint32_t)bpe->texts.length;
    token->spelling_size = (uint32_t)size;
    if (bpe->texts.length + 2 * size > UINT32_MAX / 2)
        return error_set(error, ERROR_INPUT, "%s: a vocabulary of more than 2 GiB", place.name);
    if (!buffer_add(&bpe->texts, text, size) || !add_bytes(bpe, token))
        return error_set(error, ERROR_MEMORY, "%s: out of memory", place.name);
    if (size > bpe->longest) bpe->longest = size;
    size_t slot = hash_text(text, size) & bpe->slot_mask;
    while (bpe->slots[slot] >= 0) slot = (slot + 1) & bpe->slot_mask;
    bpe->slots[slot] = (int32_t)id;
    return true;
}

static bool read_vocabulary(struct bpe *bpe, struct json_place place, struct error *error) {
    const json_t *vocabulary = NULL;
    if (!json_get_object(place, "vocab", JSON_REQUIRED, &vocabulary, error)) return false;
    size_t count = json_object_size(vocabulary);
    if (count == 0) return error_set(error, ERROR_INPUT, "%s.vocab: empty, expected tokens", place.name);
    const char *text;
    json_t *value;
    json_int_t highest = -1;
    json_object_foreach((json_t *)vocabulary, text, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= TOKEN_ID_LIMIT)
            return error_set(error, ERROR_INPUT, "%s.vocab: the id of \"%.40s\" is not an integer in [0, %d)",
                             place.name, text, TOKEN_ID_LIMIT);
        if (id > highest) highest = id;
    }
    size_t slots = table_size(count);
    bpe->token_count = (int32_t)highest + 1;
    bpe->tokens = calloc((size_t)bpe->token_count, sizeof *bpe->tokens);
    bpe->slots = malloc(slots * sizeof *bpe->slots);
    if (!bpe->tokens || !bpe->slots) return error_set(error, ERROR_MEMORY, "%s: out of memory", place.name);
    memset(bpe->slots, 0xff, slots * sizeof *bpe->slots);
    bpe->slot_mask = slots - 1;
    json_object_foreach(
        (json_t *)vocabulary, text,
        value) if (!add_token(bpe, place, text, json_integer_value(value), error)) return false;
    for (int byte = 0; byte < 256; byte++) {
        size_t length = utf8_encode(bpe_byte_point(byte), bpe->byte_spelling[byte]);
        bpe->byte_ids[byte] = bpe_find(bpe, bpe->byte_spelling[byte], length);
    }
    return true;
}

int32_t bpe_vocabulary(const struct bpe *bpe) {
    return bpe->token_count;
}

int32_t bpe_find(const struct bpe *bpe, const char *token, size_t size) {
    size_t slot = hash_text(token, size) & bpe->slot_mask;
    for (; bpe->slots[slot] >= 0; slot = (slot + 1) & bpe->slot_mask) {
        const struct token *found = &bpe->tokens[bpe->slots[slot]];
        if (found->spelling_size == size && memcmp(bpe->texts.data + found->spelling, token, size) == 0)
            return bpe->slots[slot];
    }
    return -1;
}

const char *bpe_bytes(const struct bpe *bpe, int32_t id, size_t *size) {
    if (id < 0 || id >= bpe->token_count || !bpe->tokens[id].used) return NULL;
    *size = bpe->tokens[id].bytes_size;
    return bpe->texts.data + bpe->tokens[id].bytes;
}

// ------------------------------------------------------------------------------------------------------------ merges

static struct merge_slot *merge_slot(const struct bpe *bpe, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t slot = mix(pair) & bpe->merge_mask;
    while (bpe->merges[slot].id >= 0 && bpe->merges[slot].pair != pair) slot = (slot + 1) & bpe->merge_mask;
    return &bpe->merges[slot];
}

// The two halves of a merge, written as ["a", "b"] or "a b".
static bool merge_halves(const json_t *merge, const char *texts[2], size_t sizes[2]) {
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        for (size_t i = 0; i < 2; i++) {
            texts[i] = json_string_value(json_array_get(merge, i));
            if (!texts[i]) return false;
            sizes[i] = strlen(texts[i]);
        }
        return true;
    }
    const char *text = json_string_value(merge);
    const char *space = text ? strchr(text, ' ') : NULL;
    if (!space || strchr(space + 1, ' ')) return false;
    texts[0] = text;
    sizes[0] = (size_t)(space - text);
    texts[1] = space + 1;
    sizes[1] = strlen(space + 1);
    return true;
}

static bool read_merge(struct bpe *bpe, struct json_place place, size_t index, const json_t *merge,
                       struct buffer *joined, struct error *error) {
    const char *texts[2];
    size_t sizes[2];
    const char *line = json_string_value(merge);
    if (line && strncmp(line, "#version", 8) == 0) return true; // the first line of an old merges.txt
    if (!merge_halves(merge, texts, sizes))
        return error_set(error, ERROR_INPUT, "%s.merges[%zu]: expected [\"a\", \"b\"] or \"a b\"", place.name,
                         index);
    int32_t ids[3] = {-1, -1, -1};
    joined->length = 0;
    if (!buffer_add(joined, texts[0], sizes[0]) || !buffer_add(joined, texts[1], sizes[1]))
        return error_set(error, ERROR_MEMORY, "%s: out of memory", place.name);
    const char *names[3] = {texts[0], texts[1], joined->data};
    size_t lengths[3] = {sizes[0], sizes[1], joined->length};
    for (int i = 0; i < 3; i++) {
        ids[i] = bpe_find(bpe, names[i], lengths[i]);
        if (ids[i] < 0)
            return error_set(error, ERROR_INPUT, "%s.merges[%zu]: \"%.*s\" is not in the vocabulary",
                             place.name, index, (int)(lengths[i] < 80 ? lengths[i] : 80), names[i]);
    }
    struct merge_slot *slot =
        merge_slot(bpe, ids[0], ids[1]); // of a pair that stands twice the later one counts
    *slot = (struct merge_slot){(uint64_t)(uint32_t)ids[0] << 32 | (uint32_t)ids[1], (int32_t)index, ids[2]};
    return true;
}

static bool read_merges(struct bpe *bpe, struct json_place place, struct error *error) {
    const json_t *merges = NULL;
    if (!json_get_array(place, "merges", JSON_REQUIRED, &merges, error)) return false;
    size_t count = json_array_size(merges), slots = table_size(count);
    if (count > INT32_MAX / 4) return error_set(error, ERROR_INPUT, "%s.merges: too many", place.name);
    bpe->merges = malloc(slots * sizeof *bpe->merges);
    if (!bpe->merges) return error_set(error, ERROR_MEMORY, "%s: out of memory", place.name);
    for (size_t i = 0; i < slots; i++) bpe->merges[i].id = -1;
    bpe->merge_mask = slots - 1;
    struct buffer joined = {0};
    bool done = true;
    for (size_t i = 0; done && i < count; i++)
        done = read_merge(bpe, place, i, json_array_get(merges, i), &joined, error);
    buffer_free(&joined);
    return done;
}

// ----------------------------------------------------------------------------------------------------------- opening

static bool expect_empty(struct json_place place, const char *key, struct error *error) {
    const char *text = "";
    if (!json_get_string(place, key, JSON_OPTIONAL, &text, error)) return false;
    if (*text)
        return error_set(error, ERROR_UNSUPPORTED, "%s.%s: \"%.40s\", expected none", place.name, key, text);
    return true;
}

static bool read_options(struct bpe *bpe, struct json_place place, struct error *error) {
    bool byte_fallback = false;
    double dropout = 0;
    const char *unknown = NULL;
    if (!json_get_bool(place, "byte_fallback", JSON_OPTIONAL, &byte_fallback, error) ||
        !json_get_bool(place, "fuse_unk", JSON_OPTIONAL, &bpe->fuse_unknown, error) ||
        !json_get_bool(place, "ignore_merges", JSON_OPTIONAL, &bpe->ignore_merges, error) ||
        !json_get_number(place, "dropout", JSON_OPTIONAL, 0, 1, &dropout, error) ||
        !json_get_string(place, "unk_token", JSON_OPTIONAL, &unknown, error) ||
        !expect_empty(place, "continuing_subword_prefix", error) ||
        !expect_empty(place, "end_of_word_suffix", error))
        return false;
    if (dropout != 0)
        return error_set(error, ERROR_UNSUPPORTED, "%s.dropout: %g, expected none", place.name, dropout);
    bpe->unknown = -1;
    if (unknown && (bpe->unknown = bpe_find(bpe, unknown, strlen(unknown))) < 0)
        return error_set(error, ERROR_INPUT, "%s.unk_token: \"%.40s\" is not in the vocabulary", place.name,
                         unknown);
    // Where every byte has a token there is nothing to fall back from.
    for (int byte = 0; byte_fallback && byte < 256; byte++)
        if (bpe->byte_ids[byte] < 0)
            return error_set(error, ERROR_UNSUPPORTED,
                             "%s.byte_fallback: set, with a vocabulary that has no token for byte 0x%02x",
                             place.name, (unsigned)byte);
    return true;
}

struct bpe *bpe_open(struct json_place place, struct error *error) {
    const char *type = "BPE";
    if (!json_get_string(place, "type", JSON_OPTIONAL, &type, error)) return NULL;
    if (strcmp(type, "BPE") != 0) {
        error_set(error, ERROR_UNSUPPORTED, "%s.type: \"%.40s\", expected \"BPE\"", place.name, type);
        return NULL;
    }
    struct bpe *bpe = calloc(1, sizeof *bpe);
    if (!bpe) {
        error_set(error, ERROR_MEMORY, "%s: out of memory", place.name);
        return NULL;
    }
    if (!read_vocabulary(bpe, place, error) || !read_merges(bpe, place, error) ||
        !read_options(bpe, place, error)) {
        bpe_close(bpe);
        return NULL;
    }
    return bpe;
}

void bpe_close(struct bpe *bpe) {
    if (!bpe) return;
    buffer_free(&bpe->texts);
    free(bpe->tokens);
    free(bpe->slots);
    free(bpe->merges);
    free(bpe);
}

// ---------------------------------------------------------------------------------------------------------- encoding

void bpe_scratch_free(struct bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->heap);
    buffer_free(&scratch->text);
    *scratch = (struct bpe_scratch){0};
}

static bool merge_before(const struct bpe_merge *a, const struct bpe_merge *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static void heap_push(struct bpe_scratch *scratch, struct bpe_merge merge) {
    size_t at = scratch->heap_count++;
    for (; at > 0; at = (at - 1) / 2) {
        struct bpe_merge *parent = &scratch->heap[(at - 1) / 2];
        if (!merge_before(&merge, parent)) break;
        scratch->heap[at] = *parent;
    }
    scratch->heap[at] = merge;
}

static struct bpe_merge heap_pop(struct bpe_scratch *scratch) {
    struct bpe_merge *heap = scratch->heap, top = heap[0], last = heap[--scratch->heap_count];
    size_t at = 0, count = scratch->heap_count;
    for (size_t child = 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && merge_before(&heap[child + 1], &heap[child])) child++;
        if (!merge_before(&heap[child], &last)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

// The merge of the symbols at [left] and behind it, where there is one.
static void propose(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t left) {
    const struct bpe_symbol *symbol = &scratch->symbols[left];
    if (symbol->next < 0) return;
    const struct merge_slot *slot = merge_slot(bpe, symbol->id, scratch->symbols[symbol->next].id);
    if (slot->id >= 0) heap_push(scratch, (struct bpe_merge){slot->rank, left, slot->id});
}

static void merge_all(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t count) {
    struct bpe_symbol *symbols = scratch->symbols;
    scratch->heap_count = 0;
    for (int32_t i = 0; i + 1 < count; i++) propose(bpe, scratch, i);
    while (scratch->heap_count > 0) {
        struct bpe_merge merge = heap_pop(scratch);
        struct bpe_symbol *left = &symbols[merge.position];
        if (left->id < 0 || left->next < 0) continue;
        struct bpe_symbol *right = &symbols[left->next];
        const struct merge_slot *now = merge_slot(bpe, left->id, right->id);
        if (now->id != merge.id) continue; // overtaken
        left->id = merge.id;
        left->next = right->next;
        right->id = -1;
        if (right->next >= 0) symbols[right->next].previous = merge.position;
        if (left->previous >= 0) propose(bpe, scratch, left->previous);
        propose(bpe, scratch, merge.position);
    }
}

// Each merge takes one symbol away and proposes at most two: 3 n proposals in all.
static bool reserve(struct bpe_scratch *scratch, size_t size) {
    if (size > scratch->symbol_capacity) {
        size_t capacity = size < 64 ? 64 : size + size / 2;
        struct bpe_symbol *symbols = realloc(scratch->symbols, capacity * sizeof *symbols);
        if (!symbols) return false;
        scratch->symbols = symbols;
        scratch->symbol_capacity = capacity;
        struct bpe_merge *heap = realloc(scratch->heap, 3 * capacity * sizeof *heap);
        if (!heap) return false;
        scratch->heap = heap;
        scratch->heap_capacity = 3 * capacity;
    }
    return scratch->heap_capacity >= 3 * size;
}

static int32_t find_piece(const struct bpe *bpe, const char *piece, size_t size,
                          struct bpe_scratch *scratch) {
    if (size > bpe->longest) return -1;
    scratch->text.length = 0;
    for (size_t i = 0; i < size; i++)
        if (!buffer_add_string(&scratch->text, bpe->byte_spelling[(unsigned char)piece[i]])) return -1;
    return bpe_find(bpe, scratch->text.data, scratch->text.length);
}

bool bpe_encode(const struct bpe *bpe, const char *piece, size_t size, struct bpe_scratch *scratch,
                struct token_list *list, struct error *error) {
    if (size == 0) return true;
    if (size > INT32_MAX / 8) return error_set(error, ERROR_INPUT, "a text of %zu bytes is too long", size);
    if (!reserve(scratch, size) || !buffer_reserve(&scratch->text, 2 * bpe->longest))
        return error_set(error, ERROR_MEMORY, "out of memory for a word of %zu bytes", size);
    if (bpe->ignore_merges) {
        int32_t id = find_piece(bpe, piece, size, scratch);
        if (id >= 0) return token_list_add(list, id, error);
    }
    int32_t count = 0;
    bool fusing = false; // the last symbol is an unknown one that takes in the next
    for (size_t i = 0; i < size; i++) {
        int32_t id = bpe->byte_ids[(unsigned char)piece[i]];
        bool known = id >= 0;
        if (!known && (bpe->unknown < 0 || (fusing && bpe->fuse_unknown))) continue;
        fusing = !known;
        scratch->symbols[count] = (struct bpe_symbol){known ? id : bpe->unknown, count - 1, count + 1};
        count++;
    }
    if (count == 0) return true;
    scratch->symbols[count - 1].next = -1;
    merge_all(bpe, scratch, count);
    for (int32_t i = 0; i >= 0; i = scratch->symbols[i].next)
        if (!token_list_add(list, scratch->symbols[i].id, error)) return false;
    return true;
}
