// Reads and checks the head of one GGUF file. Relies on base, tensor.
//
// File format (GGUF 2 and 3, little-endian): "GGUF", u32 version, u64 number of tensors, u64 number of pairs; the pairs: key
// (string), u32 type, value; the tensors: name (string), u32 number of dimensions, u64 dimensions, fastest first, u32 type of
// ggml, u64 offset from the start of the data. A string is a u64 length and its bytes; an array u32 element type, u64 count,
// elements. The data begins behind the tensors at the next multiple of "general.alignment" (32 where there is none), and so
// does every tensor. Source: docs/gguf.md of ggml.
//
// Reading checks everything that the head claims: counts and lengths against the size of the file, types, keys and names that
// stand twice, shapes whose product overflows, rows that are no whole blocks, offsets out of the file, out of step or inside
// another tensor. What passes can be read without further checks. Memory stays within a small multiple of the head's size.
#ifndef LIMN_WEIGHTS_GGUF_H
#define LIMN_WEIGHTS_GGUF_H

#include "base/arena.h"
#include "weights/checkpoint.h"

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT,
};

// The value of a key. An array of strings or numbers is read with a cursor.
struct gguf_value {
    const char *key;      // owned by the arena
    enum gguf_type type;  // of the value, or of an array's elements
    bool array;           // arrays of arrays are refused
    uint64_t count;       // elements; 1 where it is no array
    const uint8_t *bytes; // mapped: the elements one behind the other
    size_t size;          // bytes of all of them
};

struct gguf {
    struct checkpoint_entry *entries; // sorted by name, shapes slowest first; free()
    int64_t count;
    struct gguf_value *values; // sorted by key; free()
    int64_t value_count;
};

// Whether a file begins as a GGUF file does.
bool gguf_begins(const void *data, size_t size);

// Reads the file image [data, data + size), named [file] in messages and in the entries (both are kept, not copied). Strings
// go into [arena]. On failure *gguf is {0}.
bool gguf_read(const char *file, const void *data, size_t size, struct arena *arena, struct gguf *gguf,
               struct error *error);
void gguf_free(struct gguf *gguf); // {0} again; the arena is the caller's

// NULL when there is none of that key.
const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key);

// Getters that leave the result alone where the key is absent, and fail where the value is of another kind or out of range.
bool gguf_get_integer(const struct gguf *gguf, const char *file, const char *key, int64_t least, int64_t most,
                      int64_t *value, struct error *error);
bool gguf_get_number(const struct gguf *gguf, const char *file, const char *key, double least, double most,
                     double *value, struct error *error);
// *text: in fresh memory (free()), NULL where the key is absent. A text with a 0 byte inside is refused.
bool gguf_get_string(const struct gguf *gguf, const char *file, const char *key, char **text,
                     struct error *error);

// Goes through the elements of a value.
struct gguf_cursor {
    const struct gguf_value *value;
    const uint8_t *at;
    uint64_t left;
};
struct gguf_cursor gguf_begin(const struct gguf_value *value);
// The next string (its bytes are mapped, no 0 behind them); false at the end or where the elements are no strings.
bool gguf_next_string(struct gguf_cursor *cursor, const char **text, size_t *size);
// The next whole number or boolean; false at the end, for other elements, and for a number beyond int64_t.
bool gguf_next_integer(struct gguf_cursor *cursor, int64_t *value);

// What a pair says, in one short line for people: numbers and short strings as they are, arrays by their length. The text is
// in [arena]; NULL when memory is gone.
const char *gguf_value_text(const struct gguf_value *value, struct arena *arena);

#endif
