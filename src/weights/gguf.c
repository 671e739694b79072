// The strict reader of GGUF heads. Relies on base, tensor.
#include "weights/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAIR_LEAST = 8 + 4 + 1,       // bytes of the shortest pair: an empty key and one byte
    TENSOR_LEAST = 8 + 4 + 4 + 8, // of the shortest tensor: an empty name, no dimensions
    NAME_MOST = 1024,
    DIMENSIONS_MOST = 4, // ggml's own limit
    ALIGNMENT_MOST = 1 << 20,
};

struct reader {
    const char *file;
    const uint8_t *begin, *at, *end;
    struct arena *arena;
    struct gguf *gguf;
    struct error *error;
};

static const struct {
    const char *name;
    int bytes; // of one value; 0: it says its own length
} value_types[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = {"U8", 1},         [GGUF_I8] = {"I8", 1},       [GGUF_U16] = {"U16", 2},
    [GGUF_I16] = {"I16", 2},       [GGUF_U32] = {"U32", 4},     [GGUF_I32] = {"I32", 4},
    [GGUF_F32] = {"F32", 4},       [GGUF_BOOL] = {"BOOL", 1},   [GGUF_U64] = {"U64", 8},
    [GGUF_STRING] = {"STRING", 0}, [GGUF_ARRAY] = {"ARRAY", 0}, [GGUF_I64] = {"I64", 8},
    [GGUF_F64] = {"F64", 8},
};

// The types of ggml by number; DTYPE_NONE for those that limn does not read.
static const struct {
    const char *name;
    enum dtype type;
} tensor_types[] = {
    [0] = {"F32", DTYPE_F32},        [1] = {"F16", DTYPE_F16},       [2] = {"Q4_0", DTYPE_Q4_0},
    [3] = {"Q4_1", DTYPE_Q4_1},      [6] = {"Q5_0", DTYPE_Q5_0},     [7] = {"Q5_1", DTYPE_Q5_1},
    [8] = {"Q8_0", DTYPE_Q8_0},      [9] = {"Q8_1", DTYPE_NONE},     [10] = {"Q2_K", DTYPE_Q2_K},
    [11] = {"Q3_K", DTYPE_Q3_K},     [12] = {"Q4_K", DTYPE_Q4_K},    [13] = {"Q5_K", DTYPE_Q5_K},
    [14] = {"Q6_K", DTYPE_Q6_K},     [15] = {"Q8_K", DTYPE_NONE},    [16] = {"IQ2_XXS", DTYPE_NONE},
    [17] = {"IQ2_XS", DTYPE_NONE},   [18] = {"IQ3_XXS", DTYPE_NONE}, [19] = {"IQ1_S", DTYPE_NONE},
    [20] = {"IQ4_NL", DTYPE_IQ4_NL}, [21] = {"IQ3_S", DTYPE_NONE},   [22] = {"IQ2_S", DTYPE_NONE},
    [23] = {"IQ4_XS", DTYPE_IQ4_XS}, [24] = {"I8", DTYPE_I8},        [25] = {"I16", DTYPE_I16},
    [26] = {"I32", DTYPE_I32},       [27] = {"I64", DTYPE_I64},      [28] = {"F64", DTYPE_F64},
    [29] = {"IQ1_M", DTYPE_NONE},    [30] = {"BF16", DTYPE_BF16},    [34] = {"TQ1_0", DTYPE_NONE},
    [35] = {"TQ2_0", DTYPE_NONE},    [39] = {"MXFP4", DTYPE_NONE},   [40] = {"NVFP4", DTYPE_NONE},
};

enum { TENSOR_TYPES = sizeof tensor_types / sizeof *tensor_types };

// ------------------------------------------------------------------------------------------------------------ pieces

static uint64_t little(const uint8_t *bytes, int count) {
    uint64_t value = 0;
    for (int i = count - 1; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

static bool out_of_memory(struct reader *reader) {
    return error_set(reader->error, ERROR_MEMORY, "%s: no memory for its head", reader->file);
}

static bool truncated(struct reader *reader, const char *what) {
    return error_set(reader->error, ERROR_INPUT,
                     "%s: byte %zu: the file ends inside %s: truncated or damaged", reader->file,
                     (size_t)(reader->at - reader->begin), what);
}

static size_t left(const struct reader *reader) {
    return (size_t)(reader->end - reader->at);
}

static bool read_number(struct reader *reader, int bytes, uint64_t *value, const char *what) {
    if (left(reader) < (size_t)bytes) return truncated(reader, what);
    *value = little(reader->at, bytes);
    reader->at += bytes;
    return true;
}

static bool valid_utf8(const uint8_t *at, size_t size) {
    for (size_t i = 0; i < size;) {
        size_t length = at[i] < 0x80   ? 1
                        : at[i] < 0xc2 ? 0
                        : at[i] < 0xe0 ? 2
                        : at[i] < 0xf0 ? 3
                        : at[i] < 0xf5 ? 4
                                       : 0;
        if (length == 0 || length > size - i) return false;
        for (size_t k = 1; k < length; k++)
            if ((at[i + k] & 0xc0) != 0x80) return false;
        if ((at[i] == 0xe0 && at[i + 1] < 0xa0) || (at[i] == 0xed && at[i + 1] > 0x9f) ||
            (at[i] == 0xf0 && at[i + 1] < 0x90) || (at[i] == 0xf4 && at[i + 1] > 0x8f))
            return false;
        i += length;
    }
    return true;
}

// The name of a tensor or a key, in the arena: text without control characters, at most NAME_MOST bytes.
static bool read_name(struct reader *reader, const char *what, const char **name) {
    uint64_t length;
    if (!read_number(reader, 8, &length, what)) return false;
    if (length == 0 || length > NAME_MOST)
        return error_set(reader->error, ERROR_INPUT, "%s: byte %zu: %s of %llu bytes, expected 1 to %d",
                         reader->file, (size_t)(reader->at - reader->begin) - 8, what,
                         (unsigned long long)length, NAME_MOST);
    if (length > left(reader)) return truncated(reader, what);
    bool text = valid_utf8(reader->at, (size_t)length);
    for (size_t i = 0; text && i < length; i++) text = reader->at[i] >= 0x20 && reader->at[i] != 0x7f;
    if (!text)
        return error_set(reader->error, ERROR_INPUT,
                         "%s: byte %zu: %s that is not UTF-8 without control characters", reader->file,
                         (size_t)(reader->at - reader->begin), what);
    *name = arena_strndup(reader->arena, (const char *)reader->at, (size_t)length);
    reader->at += length;
    return *name || out_of_memory(reader);
}

// ------------------------------------------------------------------------------------------------------------- pairs

static bool key_error(struct reader *reader, const char *key, const char *what) {
    return error_set(reader->error, ERROR_INPUT, "%s: key \"%s\": %s", reader->file, key, what);
}

static bool read_type(struct reader *reader, const char *key, enum gguf_type *type) {
    uint64_t number;
    if (!read_number(reader, 4, &number, "a key's type")) return false;
    if (number >= GGUF_TYPE_COUNT)
        return error_set(reader->error, ERROR_INPUT, "%s: key \"%s\": type %llu, expected 0 to %d",
                         reader->file, key, (unsigned long long)number, GGUF_TYPE_COUNT - 1);
    *type = (enum gguf_type)number;
    return true;
}

// The elements of a value, whose bytes begin at the reader.
static bool read_elements(struct reader *reader, struct gguf_value *value) {
    const int bytes = value_types[value->type].bytes;
    value->bytes = reader->at;
    if (bytes > 0) {
        if (value->count > left(reader) / (size_t)bytes) {
            error_set(reader->error, ERROR_INPUT,
                      "%s: key \"%s\": %llu values of type %s, but only %zu bytes follow", reader->file,
                      value->key, (unsigned long long)value->count, value_types[value->type].name,
                      left(reader));
            return false;
        }
        reader->at += value->count * (uint64_t)bytes;
        for (uint64_t i = 0; value->type == GGUF_BOOL && i < value->count; i++)
            if (value->bytes[i] > 1) return key_error(reader, value->key, "a boolean that is not 0 or 1");
    } else {
        for (uint64_t i = 0; i < value->count; i++) {
            uint64_t length;
            if (left(reader) < 8) return key_error(reader, value->key, "the file ends inside its strings");
            length = little(reader->at, 8);
            if (length > left(reader) - 8)
                return error_set(reader->error, ERROR_INPUT,
                                 "%s: key \"%s\": a string of %llu bytes, but only %zu follow", reader->file,
                                 value->key, (unsigned long long)length, left(reader) - 8);
            reader->at += 8 + length;
        }
    }
    value->size = (size_t)(reader->at - value->bytes);
    return true;
}

static bool read_pair(struct reader *reader, struct gguf_value *value) {
    *value = (struct gguf_value){.count = 1};
    if (!read_name(reader, "a key", &value->key) || !read_type(reader, value->key, &value->type))
        return false;
    if (value->type != GGUF_ARRAY) return read_elements(reader, value);
    value->array = true;
    if (!read_type(reader, value->key, &value->type) ||
        !read_number(reader, 8, &value->count, "an array's length"))
        return false;
    if (value->type == GGUF_ARRAY)
        return error_set(reader->error, ERROR_UNSUPPORTED,
                         "%s: key \"%s\": an array of arrays, expected numbers or strings", reader->file,
                         value->key);
    return read_elements(reader, value);
}

static int by_key(const void *left_value, const void *right_value) {
    return strcmp(((const struct gguf_value *)left_value)->key,
                  ((const struct gguf_value *)right_value)->key);
}

// A count that the file can hold, for the array that is allocated for it.
static bool check_count(struct reader *reader, uint64_t count, int least, const char *what) {
    return count <= left(reader) / (size_t)least ||
           error_set(reader->error, ERROR_INPUT, "%s: claims %llu %s, but only %zu bytes follow",
                     reader->file, (unsigned long long)count, what, left(reader));
}

static bool read_pairs(struct reader *reader, uint64_t count) {
    struct gguf *gguf = reader->gguf;
    gguf->values = calloc((size_t)count + 1, sizeof *gguf->values);
    if (!gguf->values) return out_of_memory(reader);
    for (uint64_t i = 0; i < count; i++) {
        if (!read_pair(reader, &gguf->values[i])) return false;
        gguf->value_count++;
    }
    if (count > 1) qsort(gguf->values, (size_t)count, sizeof *gguf->values, by_key);
    for (uint64_t i = 1; i < count; i++)
        if (by_key(&gguf->values[i - 1], &gguf->values[i]) == 0)
            return key_error(reader, gguf->values[i].key, "is there twice");
    return true;
}

// ----------------------------------------------------------------------------------------------------------- tensors

static bool tensor_error(struct reader *reader, const char *name, const char *what) {
    return error_set(reader->error, ERROR_INPUT, "%s: tensor \"%s\": %s", reader->file, name, what);
}

static bool read_shape(struct reader *reader, const char *name, struct tensor *tensor) {
    uint64_t rank;
    if (!read_number(reader, 4, &rank, "a tensor's dimensions")) return false;
    if (rank > DIMENSIONS_MOST)
        return error_set(reader->error, ERROR_INPUT,
                         "%s: tensor \"%s\": %llu dimensions, expected at most %d", reader->file, name,
                         (unsigned long long)rank, DIMENSIONS_MOST);
    tensor->rank = (int)rank;
    for (int i = tensor->rank - 1; i >= 0; i--) {
        uint64_t extent;
        if (!read_number(reader, 8, &extent, "a tensor's dimensions")) return false;
        if (extent > INT64_MAX) return tensor_error(reader, name, "a dimension is beyond 63 bits");
        tensor->shape[i] = (int64_t)extent;
    }
    return true;
}

static bool read_tensor_type(struct reader *reader, const char *name, struct tensor *tensor) {
    uint64_t number;
    if (!read_number(reader, 4, &number, "a tensor's type")) return false;
    const char *known = number < TENSOR_TYPES ? tensor_types[number].name : NULL;
    if (known) tensor->type = tensor_types[number].type;
    if (tensor->type != DTYPE_NONE) return true;
    if (known)
        return error_set(reader->error, ERROR_UNSUPPORTED, "%s: tensor \"%s\": type %s is not one limn reads",
                         reader->file, name, known);
    return error_set(reader->error, ERROR_UNSUPPORTED, "%s: tensor \"%s\": type %llu is not one limn knows",
                     reader->file, name, (unsigned long long)number);
}

// The bytes of a tensor: whole blocks a row, a product that does not overflow in the order in which tensor_values forms it.
static bool count_bytes(struct reader *reader, const char *name, struct tensor *tensor) {
    const struct dtype_info *info = dtype_info(tensor->type);
    int64_t row = tensor->rank > 0 ? tensor->shape[tensor->rank - 1] : 1, values = 1, bytes = 0;
    if (row % info->block_values != 0)
        return error_set(reader->error, ERROR_INPUT,
                         "%s: tensor \"%s\": rows of %lld values, expected a multiple of %d, a block of %s",
                         reader->file, name, (long long)row, info->block_values, info->name);
    bool overflow = false;
    for (int i = 0; i < tensor->rank; i++)
        overflow = overflow || __builtin_mul_overflow(values, tensor->shape[i], &values);
    if (overflow || __builtin_mul_overflow(values / info->block_values, info->block_bytes, &bytes))
        return tensor_error(reader, name, "the product of its dimensions is beyond 64 bits");
    tensor->bytes = (size_t)bytes;
    return true;
}

// Offsets are kept in [offsets] until the start of the data is known.
static bool read_tensor(struct reader *reader, struct checkpoint_entry *entry, uint64_t *offset) {
    *entry = (struct checkpoint_entry){.file = reader->file};
    return read_name(reader, "a tensor's name", &entry->name) &&
           read_shape(reader, entry->name, &entry->tensor) &&
           read_tensor_type(reader, entry->name, &entry->tensor) &&
           count_bytes(reader, entry->name, &entry->tensor) &&
           read_number(reader, 8, offset, "a tensor's offset");
}

static bool place_tensor(struct reader *reader, struct checkpoint_entry *entry, uint64_t offset, size_t start,
                         int64_t alignment) {
    size_t size = (size_t)(reader->end - reader->begin) - start; // of the data
    if (offset % (uint64_t)alignment != 0)
        return error_set(reader->error, ERROR_INPUT,
                         "%s: tensor \"%s\": offset %llu, expected a multiple of general.alignment, %lld",
                         reader->file, entry->name, (unsigned long long)offset, (long long)alignment);
    if (offset > size || entry->tensor.bytes > size - offset)
        return error_set(
            reader->error, ERROR_INPUT,
            "%s: tensor \"%s\": %zu bytes at %llu do not lie in the %zu bytes of data: the file is "
            "truncated or damaged",
            reader->file, entry->name, entry->tensor.bytes, (unsigned long long)offset, size);
    entry->tensor.data = reader->begin + start + offset;
    return true;
}

static int by_place(const void *left_entry, const void *right_entry) {
    const struct tensor *a = &((const struct checkpoint_entry *)left_entry)->tensor;
    const struct tensor *b = &((const struct checkpoint_entry *)right_entry)->tensor;
    if (a->data != b->data) return (const uint8_t *)a->data < (const uint8_t *)b->data ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static int by_name(const void *left_entry, const void *right_entry) {
    return strcmp(((const struct checkpoint_entry *)left_entry)->name,
                  ((const struct checkpoint_entry *)right_entry)->name);
}

static bool check_whole(struct reader *reader) {
    struct gguf *gguf = reader->gguf;
    struct checkpoint_entry *entries = gguf->entries;
    if (gguf->count > 1) qsort(entries, (size_t)gguf->count, sizeof *entries, by_place);
    for (int64_t i = 1; i < gguf->count; i++) {
        const struct tensor *before = &entries[i - 1].tensor;
        if ((const uint8_t *)before->data + before->bytes > (const uint8_t *)entries[i].tensor.data)
            return error_set(reader->error, ERROR_INPUT, "%s: tensors \"%s\" and \"%s\" overlap",
                             reader->file, entries[i - 1].name, entries[i].name);
    }
    if (gguf->count > 1) qsort(entries, (size_t)gguf->count, sizeof *entries, by_name);
    for (int64_t i = 1; i < gguf->count; i++)
        if (by_name(&entries[i - 1], &entries[i]) == 0)
            return tensor_error(reader, entries[i].name, "is there twice");
    return true;
}

static bool read_alignment(struct reader *reader, int64_t *alignment) {
    *alignment = 32;
    if (!gguf_get_integer(reader->gguf, reader->file, "general.alignment", 1, ALIGNMENT_MOST, alignment,
                          reader->error))
        return false;
    return (*alignment & (*alignment - 1)) == 0 ||
           error_set(reader->error, ERROR_INPUT,
                     "%s: key \"general.alignment\": %lld, expected a power of two", reader->file,
                     (long long)*alignment);
}

static bool read_tensors(struct reader *reader, uint64_t count) {
    struct gguf *gguf = reader->gguf;
    int64_t alignment;
    gguf->entries = calloc((size_t)count + 1, sizeof *gguf->entries);
    uint64_t *offsets = calloc((size_t)count + 1, sizeof *offsets);
    bool done = (gguf->entries && offsets) || out_of_memory(reader);
    for (uint64_t i = 0; done && i < count; i++) {
        done = read_tensor(reader, &gguf->entries[i], &offsets[i]);
        gguf->count += done;
    }
    done = done && read_alignment(reader, &alignment);
    if (done) {
        size_t size = (size_t)(reader->end - reader->begin), head = (size_t)(reader->at - reader->begin);
        size_t start = (head + (size_t)alignment - 1) / (size_t)alignment * (size_t)alignment;
        if (start > size) start = size; // no data: only tensors of no bytes fit
        for (uint64_t i = 0; done && i < count; i++)
            done = place_tensor(reader, &gguf->entries[i], offsets[i], start, alignment);
    }
    free(offsets);
    return done && check_whole(reader);
}

// ----------------------------------------------------------------------------------------------------------- reading

bool gguf_begins(const void *data, size_t size) {
    return size >= 4 && memcmp(data, "GGUF", 4) == 0;
}

static bool read_head(struct reader *reader) {
    uint64_t version, tensors, pairs;
    if (!gguf_begins(reader->begin, left(reader)))
        return error_set(reader->error, ERROR_INPUT, "%s: does not begin with \"GGUF\"", reader->file);
    reader->at += 4;
    if (!read_number(reader, 4, &version, "its version")) return false;
    if (version == 0x02000000 || version == 0x03000000)
        return error_set(reader->error, ERROR_UNSUPPORTED,
                         "%s: a big-endian GGUF file, expected little-endian", reader->file);
    if (version != 2 && version != 3)
        return error_set(reader->error, ERROR_UNSUPPORTED, "%s: GGUF version %llu, expected 2 or 3",
                         reader->file, (unsigned long long)version);
    return read_number(reader, 8, &tensors, "its number of tensors") &&
           read_number(reader, 8, &pairs, "its number of keys") &&
           check_count(reader, pairs, PAIR_LEAST, "keys") &&
           check_count(reader, tensors, TENSOR_LEAST, "tensors") && read_pairs(reader, pairs) &&
           check_count(reader, tensors, TENSOR_LEAST, "tensors") && read_tensors(reader, tensors);
}

bool gguf_read(const char *file, const void *data, size_t size, struct arena *arena, struct gguf *gguf,
               struct error *error) {
    *gguf = (struct gguf){0};
    struct reader reader = {.file = file,
                            .begin = data,
                            .at = data,
                            .end = (const uint8_t *)data + size,
                            .arena = arena,
                            .gguf = gguf,
                            .error = error};
    if (read_head(&reader)) return true;
    gguf_free(gguf);
    return false;
}

void gguf_free(struct gguf *gguf) {
    free(gguf->entries);
    free(gguf->values);
    *gguf = (struct gguf){0};
}

// ------------------------------------------------------------------------------------------------------------ values

const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key) {
    struct gguf_value wanted = {.key = key};
    return gguf->value_count > 0
               ? bsearch(&wanted, gguf->values, (size_t)gguf->value_count, sizeof *gguf->values, by_key)
               : NULL;
}

struct gguf_cursor gguf_begin(const struct gguf_value *value) {
    return (struct gguf_cursor){value, value->bytes, value->count};
}

bool gguf_next_string(struct gguf_cursor *cursor, const char **text, size_t *size) {
    if (cursor->left == 0 || cursor->value->type != GGUF_STRING) return false;
    *size = (size_t)little(cursor->at, 8);
    *text = (const char *)cursor->at + 8;
    cursor->at += 8 + *size;
    cursor->left--;
    return true;
}

bool gguf_next_integer(struct gguf_cursor *cursor, int64_t *value) {
    if (cursor->left == 0) return false;
    int bytes = value_types[cursor->value->type].bytes;
    uint64_t bits = bytes > 0 ? little(cursor->at, bytes) : 0;
    switch (cursor->value->type) {
    case GGUF_I8:
        *value = (int8_t)bits;
        break;
    case GGUF_I16:
        *value = (int16_t)bits;
        break;
    case GGUF_I32:
        *value = (int32_t)bits;
        break;
    case GGUF_I64:
        *value = (int64_t)bits;
        break;
    case GGUF_U64:
        if (bits > INT64_MAX) return false;
        *value = (int64_t)bits;
        break;
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_BOOL:
        *value = (int64_t)bits;
        break;
    default:
        return false;
    }
    cursor->at += bytes;
    cursor->left--;
    return true;
}

static bool next_number(struct gguf_cursor *cursor, double *value) {
    int64_t whole;
    if (cursor->value->type == GGUF_F32) {
        float single;
        memcpy(&single, cursor->at, sizeof single);
        *value = (double)single;
        return true;
    }
    if (cursor->value->type == GGUF_F64) {
        memcpy(value, cursor->at, sizeof *value);
        return true;
    }
    if (!gguf_next_integer(cursor, &whole)) return false;
    *value = (double)whole;
    return true;
}

bool gguf_get_integer(const struct gguf *gguf, const char *file, const char *key, int64_t least, int64_t most,
                      int64_t *value, struct error *error) {
    const struct gguf_value *found = gguf_find(gguf, key);
    if (!found) return true;
    struct gguf_cursor cursor = gguf_begin(found);
    int64_t number;
    if (found->array || found->type == GGUF_BOOL || !gguf_next_integer(&cursor, &number))
        return error_set(error, ERROR_INPUT, "%s: key \"%s\": %s%s, expected a whole number", file, key,
                         found->array ? "an array of " : "", value_types[found->type].name);
    if (number < least || number > most)
        return error_set(error, ERROR_INPUT, "%s: key \"%s\": %lld, expected %lld to %lld", file, key,
                         (long long)number, (long long)least, (long long)most);
    *value = number;
    return true;
}

bool gguf_get_number(const struct gguf *gguf, const char *file, const char *key, double least, double most,
                     double *value, struct error *error) {
    const struct gguf_value *found = gguf_find(gguf, key);
    if (!found) return true;
    struct gguf_cursor cursor = gguf_begin(found);
    double number;
    if (found->array || found->type == GGUF_BOOL || !next_number(&cursor, &number))
        return error_set(error, ERROR_INPUT, "%s: key \"%s\": %s%s, expected a number", file, key,
                         found->array ? "an array of " : "", value_types[found->type].name);
    if (!(number >= least && number <= most))
        return error_set(error, ERROR_INPUT, "%s: key \"%s\": %g, expected %g to %g", file, key, number,
                         least, most);
    *value = number;
    return true;
}

bool gguf_get_string(const struct gguf *gguf, const char *file, const char *key, char **text,
                     struct error *error) {
    const struct gguf_value *found = gguf_find(gguf, key);
    *text = NULL;
    if (!found) return true;
    struct gguf_cursor cursor = gguf_begin(found);
    const char *bytes;
    size_t size;
    if (found->array || !gguf_next_string(&cursor, &bytes, &size) || memchr(bytes, 0, size))
        return error_set(error, ERROR_INPUT, "%s: key \"%s\": %s%s, expected a text", file, key,
                         found->array ? "an array of " : "", value_types[found->type].name);
    *text = strndup(bytes, size);
    return *text || error_set(error, ERROR_MEMORY, "%s: no memory for the key \"%s\"", file, key);
}

const char *gguf_value_text(const struct gguf_value *value, struct arena *arena) {
    enum { TEXT_MOST = 4000 };
    struct gguf_cursor cursor = gguf_begin(value);
    const char *text;
    size_t size;
    int64_t whole;
    double number;
    if (value->array)
        return arena_printf(arena, "%llu x %s", (unsigned long long)value->count,
                            value_types[value->type].name);
    if (gguf_next_string(&cursor, &text, &size)) {
        size_t shown = size < TEXT_MOST ? size : TEXT_MOST; // and no half of a character at the end
        while (shown < size && shown > 0 && ((unsigned char)text[shown] & 0xc0) == 0x80) shown--;
        if (!valid_utf8((const uint8_t *)text, shown) || memchr(text, 0, shown))
            return arena_printf(arena, "%zu bytes", size);
        return arena_printf(arena, "%.*s%s", (int)shown, text, shown < size ? "..." : "");
    }
    if (value->type == GGUF_BOOL) return *value->bytes ? "true" : "false";
    if (gguf_next_integer(&cursor, &whole)) return arena_printf(arena, "%lld", (long long)whole);
    if (value->type == GGUF_U64)
        return arena_printf(arena, "%llu", (unsigned long long)little(value->bytes, 8));
    return next_number(&cursor, &number) ? arena_printf(arena, "%g", number) : "";
}
