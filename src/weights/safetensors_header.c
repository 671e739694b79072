// The strict reader of safetensors headers. Relies on base, tensor.
#include "weights/safetensors_header.h"

#include <stdlib.h>
#include <string.h>

struct reader {
    const char *file;
    const uint8_t *begin, *at, *end; // the JSON text
    const uint8_t *data;             // the bytes behind it
    size_t data_size;
    struct arena *arena;
    struct safetensors_header *header;
    struct error *error;
};

// ------------------------------------------------------------------------------------------------- pieces of JSON

static bool syntax(struct reader *reader, const char *expected) {
    return error_set(reader->error, ERROR_INPUT, "%s: header, byte %zu: expected %s", reader->file,
                     (size_t)(reader->at - reader->begin), expected);
}

static bool out_of_memory(struct reader *reader) {
    return error_set(reader->error, ERROR_MEMORY, "%s: no memory for its header", reader->file);
}

// The next byte that is no white space, 0 at the end (a 0 byte itself is nowhere accepted).
static uint8_t peek(struct reader *reader) {
    while (reader->at < reader->end && strchr(" \t\r\n", *reader->at) && *reader->at) reader->at++;
    return reader->at < reader->end ? *reader->at : 0;
}

static bool take(struct reader *reader, uint8_t wanted) {
    if (peek(reader) != wanted) return false;
    reader->at++;
    return true;
}

static bool read_hex(struct reader *reader, uint32_t *value) {
    *value = 0;
    if (reader->end - reader->at < 4) return syntax(reader, "four hexadecimal digits after \\u");
    for (int i = 0; i < 4; i++, reader->at++) {
        uint8_t c = *reader->at;
        int digit = c >= '0' && c <= '9'                 ? c - '0'
                    : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                         : -1;
        if (digit < 0) return syntax(reader, "four hexadecimal digits after \\u");
        *value = *value << 4 | (uint32_t)digit;
    }
    return true;
}

static char *put_character(char *to, uint32_t code) {
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xc0 | code >> 6);
        *to++ = (char)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        *to++ = (char)(0xe0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 63));
        *to++ = (char)(0x80 | (code & 63));
    } else {
        *to++ = (char)(0xf0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 63));
        *to++ = (char)(0x80 | (code >> 6 & 63));
        *to++ = (char)(0x80 | (code & 63));
    }
    return to;
}

// An escape, its backslash already taken. A character of 0 is refused: names are 0-terminated.
static bool read_escape(struct reader *reader, char **to) {
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    uint8_t c = reader->at < reader->end ? *reader->at++ : 0;
    const char *found = c ? strchr(from, c) : NULL;
    if (found) {
        *(*to)++ = into[found - from];
        return true;
    }
    uint32_t code, low;
    if (c != 'u') return syntax(reader, "a known escape after \\");
    if (!read_hex(reader, &code)) return false;
    if (code >= 0xd800 && code < 0xdc00) {
        if (reader->end - reader->at < 2 || reader->at[0] != '\\' || reader->at[1] != 'u') {
            return syntax(reader, "the second half of a surrogate pair");
        }
        reader->at += 2;
        if (!read_hex(reader, &low)) return false;
        if (low < 0xdc00 || low > 0xdfff) return syntax(reader, "the second half of a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code == 0 || (code >= 0xdc00 && code < 0xe000)) {
        return syntax(reader, "a character after \\u");
    }
    *to = put_character(*to, code);
    return true;
}

// Length of the well-formed UTF-8 character at the reader (Unicode 15, table 3-7), 0 when it is not one.
static size_t utf8_length(const struct reader *reader) {
    const uint8_t *at = reader->at;
    size_t left = (size_t)(reader->end - at);
    size_t length = at[0] < 0x80   ? 1
                    : at[0] < 0xc2 ? 0
                    : at[0] < 0xe0 ? 2
                    : at[0] < 0xf0 ? 3
                    : at[0] < 0xf5 ? 4
                                   : 0;
    if (length == 0 || length > left) return 0;
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80) return 0;
    }
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) ||
        (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f)) {
        return 0;
    }
    return length;
}

// A string without its quotes and escapes, in the arena.
static bool read_string(struct reader *reader, const char *expected, const char **text) {
    if (!take(reader, '"')) return syntax(reader, expected);
    const uint8_t *close = reader->at;
    while (close < reader->end && *close != '"') close += *close == '\\' ? 2 : 1;
    if (close >= reader->end) return syntax(reader, "the end of this string");
    char *to = arena_alloc(reader->arena,
                           (size_t)(close - reader->at) + 1); // an escape is never shorter than what it means
    if (!to) return out_of_memory(reader);
    *text = to;
    while (reader->at < close) {
        if (*reader->at == '\\') {
            reader->at++;
            if (!read_escape(reader, &to)) return false;
            continue;
        }
        size_t length = utf8_length(reader);
        if (length == 0 || *reader->at < 0x20)
            return syntax(reader, "valid UTF-8 without control characters");
        memcpy(to, reader->at, length);
        to += length;
        reader->at += length;
    }
    *to = 0;
    reader->at++;
    return true;
}

// A whole number from 0 to 2^63 - 1.
static bool read_integer(struct reader *reader, int64_t *value) {
    uint8_t c = peek(reader);
    const char *expected = "a whole number from 0 to 9223372036854775807";
    if (c < '0' || c > '9') return syntax(reader, expected);
    *value = 0;
    const uint8_t *first = reader->at;
    for (; reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9'; reader->at++) {
        if (*first == '0' && reader->at > first) return syntax(reader, expected);
        if (__builtin_mul_overflow(*value, 10, value) ||
            __builtin_add_overflow(*value, *reader->at - '0', value)) {
            return syntax(reader, expected);
        }
    }
    return true;
}

// "[" integers "]": at most [capacity] are kept, *count counts them all.
static bool read_integers(struct reader *reader, int64_t *values, int64_t capacity, int64_t *count) {
    *count = 0;
    if (!take(reader, '[')) return syntax(reader, "an array of whole numbers");
    if (take(reader, ']')) return true;
    do {
        int64_t value = 0;
        if (!read_integer(reader, &value)) return false;
        if (*count < capacity) values[*count] = value;
        ++*count;
    } while (take(reader, ','));
    return take(reader, ']') || syntax(reader, "\",\" or \"]\"");
}

// -------------------------------------------------------------------------------------------------------- the format

// Makes room for one more element behind [count]; returns the array, moved or not, NULL when memory is gone.
static void *room_for_one(void *array, int64_t count, int64_t *capacity, size_t element) {
    if (count < *capacity) return array;
    int64_t larger = *capacity ? *capacity * 2 : 16;
    void *moved = realloc(array, (size_t)larger * element);
    if (moved) *capacity = larger;
    return moved;
}

static bool read_metadata(struct reader *reader) {
    struct safetensors_header *header = reader->header;
    if (!take(reader, '{')) return syntax(reader, "an object of strings as \"__metadata__\"");
    if (take(reader, '}')) return true;
    do {
        struct checkpoint_metadata_pair pair;
        if (!read_string(reader, "a metadata key", &pair.key)) return false;
        if (!take(reader, ':')) return syntax(reader, "\":\"");
        if (!read_string(reader, "a string: metadata values are strings", &pair.value)) return false;
        void *moved =
            room_for_one(header->metadata, header->metadata_count, &header->metadata_capacity, sizeof pair);
        if (!moved) return out_of_memory(reader);
        header->metadata = moved;
        header->metadata[header->metadata_count++] = pair;
    } while (take(reader, ','));
    return take(reader, '}') || syntax(reader, "\",\" or \"}\"");
}

static bool tensor_error(struct reader *reader, const char *name, enum error_kind kind, const char *what) {
    return error_set(reader->error, kind, "%s: tensor \"%s\": %s", reader->file, name, what);
}

// Holds the claims of one entry against each other and against the file.
static bool check_entry(struct reader *reader, const struct checkpoint_entry *entry, int64_t rank,
                        const int64_t offsets[2]) {
    const struct tensor *tensor = &entry->tensor;
    if (rank > TENSOR_RANK_MOST) {
        return error_set(reader->error, ERROR_UNSUPPORTED,
                         "%s: tensor \"%s\": %lld dimensions, expected at most %d", reader->file, entry->name,
                         (long long)rank, TENSOR_RANK_MOST);
    }
    int64_t bytes = dtype_info(tensor->type)->block_bytes;
    for (int i = 0; i < rank; i++) {
        if (__builtin_mul_overflow(bytes, tensor->shape[i], &bytes)) {
            return tensor_error(reader, entry->name, ERROR_INPUT,
                                "the product of its shape is beyond 64 bits");
        }
    }
    if (offsets[0] > offsets[1] || (uint64_t)offsets[1] > reader->data_size) {
        return error_set(
            reader->error, ERROR_INPUT,
            "%s: tensor \"%s\": data_offsets [%lld, %lld] do not lie in the %zu bytes of data: the file is "
            "truncated or damaged",
            reader->file, entry->name, (long long)offsets[0], (long long)offsets[1], reader->data_size);
    }
    if (offsets[1] - offsets[0] != bytes) {
        char shape[128];
        return error_set(
            reader->error, ERROR_INPUT,
            "%s: tensor \"%s\": data_offsets [%lld, %lld] hold %lld bytes, expected %lld for %s of shape %s",
            reader->file, entry->name, (long long)offsets[0], (long long)offsets[1],
            (long long)(offsets[1] - offsets[0]), (long long)bytes, dtype_info(tensor->type)->name,
            tensor_shape_text(tensor, shape, sizeof shape));
    }
    return true;
}

// {"dtype": ..., "shape": [...], "data_offsets": [begin, end]} in any order.
static bool read_entry(struct reader *reader, const char *name) {
    struct safetensors_header *header = reader->header;
    struct checkpoint_entry entry = {.name = name, .file = reader->file};
    int64_t rank = -1, offsets[2] = {0}, offset_count = -1;
    if (!take(reader, '{')) return syntax(reader, "an object that describes the tensor");
    do {
        const char *key, *type;
        if (!read_string(reader, "\"dtype\", \"shape\" or \"data_offsets\"", &key)) return false;
        if (!take(reader, ':')) return syntax(reader, "\":\"");
        if (strcmp(key, "dtype") == 0 && entry.tensor.type == DTYPE_NONE) {
            if (!read_string(reader, "the name of a type", &type)) return false;
            entry.tensor.type = dtype_from_name(type, strlen(type));
            if (entry.tensor.type == DTYPE_NONE) {
                return error_set(reader->error, ERROR_UNSUPPORTED,
                                 "%s: tensor \"%s\": type \"%s\" is not one limn reads", reader->file, name,
                                 type);
            }
        } else if (strcmp(key, "shape") == 0 && rank < 0) {
            if (!read_integers(reader, entry.tensor.shape, TENSOR_RANK_MOST, &rank)) return false;
        } else if (strcmp(key, "data_offsets") == 0 && offset_count < 0) {
            if (!read_integers(reader, offsets, 2, &offset_count)) return false;
        } else {
            return error_set(reader->error, ERROR_INPUT,
                             "%s: tensor \"%s\": field \"%s\", expected \"dtype\", \"shape\" and "
                             "\"data_offsets\" once each",
                             reader->file, name, key);
        }
    } while (take(reader, ','));
    if (!take(reader, '}')) return syntax(reader, "\",\" or \"}\"");
    if (entry.tensor.type == DTYPE_NONE)
        return tensor_error(reader, name, ERROR_INPUT, "field \"dtype\" is missing");
    if (rank < 0) return tensor_error(reader, name, ERROR_INPUT, "field \"shape\" is missing");
    if (offset_count < 0) return tensor_error(reader, name, ERROR_INPUT, "field \"data_offsets\" is missing");
    if (offset_count != 2)
        return tensor_error(reader, name, ERROR_INPUT, "expected two data_offsets, begin and end");
    entry.tensor.rank = rank <= TENSOR_RANK_MOST ? (int)rank : TENSOR_RANK_MOST;
    if (!check_entry(reader, &entry, rank, offsets)) return false;
    entry.tensor.data = reader->data + offsets[0];
    entry.tensor.bytes = (size_t)(offsets[1] - offsets[0]);
    void *moved = room_for_one(header->entries, header->count, &header->capacity, sizeof entry);
    if (!moved) return out_of_memory(reader);
    header->entries = moved;
    header->entries[header->count++] = entry;
    return true;
}

static bool read_header(struct reader *reader) {
    bool metadata = false;
    if (reader->at == reader->end || *reader->at != '{')
        return syntax(reader, "\"{\": this is no safetensors file");
    reader->at++;
    if (!take(reader, '}')) {
        do {
            const char *name;
            if (!read_string(reader, "the name of a tensor", &name)) return false;
            if (!take(reader, ':')) return syntax(reader, "\":\"");
            if (strcmp(name, "__metadata__") != 0) {
                if (!read_entry(reader, name)) return false;
                continue;
            }
            if (metadata) return tensor_error(reader, name, ERROR_INPUT, "is there twice");
            metadata = true;
            if (!read_metadata(reader)) return false;
        } while (take(reader, ','));
        if (!take(reader, '}')) return syntax(reader, "\",\" or \"}\"");
    }
    peek(reader);
    return reader->at == reader->end || syntax(reader, "nothing but spaces behind the last \"}\"");
}

static int by_place(const void *left, const void *right) {
    const struct tensor *a = &((const struct checkpoint_entry *)left)->tensor;
    const struct tensor *b = &((const struct checkpoint_entry *)right)->tensor;
    if (a->data != b->data) return (const uint8_t *)a->data < (const uint8_t *)b->data ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static int by_name(const void *left, const void *right) {
    return strcmp(((const struct checkpoint_entry *)left)->name,
                  ((const struct checkpoint_entry *)right)->name);
}

// Every byte of the data belongs to exactly one tensor, and every name to one.
static bool check_whole(struct reader *reader) {
    struct safetensors_header *header = reader->header;
    size_t at = 0;
    if (header->count > 0) qsort(header->entries, (size_t)header->count, sizeof *header->entries, by_place);
    for (int64_t i = 0; i < header->count; i++) {
        const struct checkpoint_entry *entry = &header->entries[i];
        size_t begin = (size_t)((const uint8_t *)entry->tensor.data - reader->data);
        if (begin < at) {
            return error_set(reader->error, ERROR_INPUT, "%s: tensors \"%s\" and \"%s\" overlap",
                             reader->file, header->entries[i - 1].name, entry->name);
        }
        if (begin > at) {
            return error_set(reader->error, ERROR_INPUT,
                             "%s: %zu bytes of data in front of tensor \"%s\" belong to no tensor",
                             reader->file, begin - at, entry->name);
        }
        at = begin + entry->tensor.bytes;
    }
    if (at != reader->data_size) {
        return error_set(reader->error, ERROR_INPUT,
                         "%s: %zu bytes of data, expected %zu, the end of the last tensor", reader->file,
                         reader->data_size, at);
    }
    if (header->count > 0) qsort(header->entries, (size_t)header->count, sizeof *header->entries, by_name);
    for (int64_t i = 1; i < header->count; i++) {
        if (strcmp(header->entries[i - 1].name, header->entries[i].name) == 0) {
            return tensor_error(reader, header->entries[i].name, ERROR_INPUT, "is there twice");
        }
    }
    return true;
}

// What is often mistaken for weights, by its first bytes.
static const char *mistaken_for(const uint8_t *data, size_t size) {
    static const struct {
        const char *begins, *what;
    } kinds[] = {
        {"version https://git-lfs", "a Git LFS pointer: the weights themselves were not downloaded"},
        {"PK\003\004", "a zip archive, as torch.save writes it"},
        {"GGUF", "a GGUF file"},
        {"<!DOCTYPE", "a web page"},
        {"<html", "a web page"},
        {"\200\002", "a Python pickle"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t length = strlen(kinds[i].begins);
        if (size >= length && memcmp(data, kinds[i].begins, length) == 0) return kinds[i].what;
    }
    return NULL;
}

bool safetensors_header_read(const char *file, const void *data, size_t size, struct arena *arena,
                             struct safetensors_header *header, struct error *error) {
    *header = (struct safetensors_header){0};
    const uint8_t *bytes = data;
    const char *mistaken = mistaken_for(bytes, size);
    if (mistaken)
        return error_set(error, ERROR_INPUT, "%s: expected a safetensors file, this is %s", file, mistaken);
    if (size < 8) {
        return error_set(error, ERROR_INPUT, "%s: %zu bytes, expected a safetensors file (8 bytes or more)",
                         file, size);
    }
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--) length = length << 8 | bytes[i];
    if (length > SAFETENSORS_HEADER_MOST) {
        return error_set(error, ERROR_INPUT,
                         "%s: claims a header of %llu bytes, expected at most %d: no safetensors file", file,
                         (unsigned long long)length, SAFETENSORS_HEADER_MOST);
    }
    if (length > size - 8) {
        return error_set(error, ERROR_INPUT,
                         "%s: claims a header of %llu bytes, but only %zu follow: truncated", file,
                         (unsigned long long)length, size - 8);
    }
    struct reader reader = {
        .file = file,
        .begin = bytes + 8,
        .at = bytes + 8,
        .end = bytes + 8 + length,
        .data = bytes + 8 + length,
        .data_size = size - 8 - (size_t)length,
        .arena = arena,
        .header = header,
        .error = error,
    };
    if (read_header(&reader) && check_whole(&reader)) return true;
    safetensors_header_free(header);
    return false;
}

void safetensors_header_free(struct safetensors_header *header) {
    free(header->entries);
    free(header->metadata);
    *header = (struct safetensors_header){0};
}
