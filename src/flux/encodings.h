// What prompts and reference images were encoded to, kept for the next request that has the same ones. Relies on base, libsodium.
//
// A key is a hash (BLAKE2b, 32 bytes) of everything that the values depend on beside the model itself: one store belongs to one
// opened model. What is found is what was kept, to the byte; so a result is the same with the store and without it. The entry
// used least lately goes when there is no more room. Not thread-safe.
#ifndef LIMN_FLUX_ENCODINGS_H
#define LIMN_FLUX_ENCODINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct encodings;

struct encodings_key {
    uint8_t bytes[32];
};

// bytes_most: of all values together; 0: nothing is kept. NULL when memory is gone, which every function takes for 0.
struct encodings *encodings_open(size_t bytes_most);
void encodings_close(struct encodings *encodings); // NULL is fine

// [kind] tells keys of different things apart; numbers: [count] of what the values depend on; data: [size] bytes likewise.
struct encodings_key encodings_key(const char *kind, const int64_t *numbers, size_t count, const void *data,
                                   size_t size);

// [count] values kept under [key]; NULL when there are none, or another number of them. Valid until the next encodings_keep.
const float *encodings_find(struct encodings *encodings, const struct encodings_key *key, size_t count);
// Keeps a copy. Where there is no memory, or no room for so many, nothing happens.
void encodings_keep(struct encodings *encodings, const struct encodings_key *key, const float *values,
                    size_t count);

size_t encodings_bytes(const struct encodings *encodings);
void encodings_clear(struct encodings *encodings);

#endif
