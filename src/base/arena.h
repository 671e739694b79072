// Request-lifetime memory: many small allocations, freed together. Not thread-safe; one arena, one owner.
// Relies on nothing.
#ifndef LIMN_BASE_ARENA_H
#define LIMN_BASE_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *blocks; // newest first
};

// An arena starts as {0}; nothing is allocated before the first call. Alignment is 16 bytes. Memory is zeroed.
// Returns NULL when memory is gone.
void *arena_alloc(struct arena *arena, size_t bytes);
char *arena_strdup(struct arena *arena, const char *text);
char *arena_strndup(struct arena *arena, const char *text, size_t length);
char *arena_printf(struct arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Frees everything; the arena is {0} again.
void arena_free(struct arena *arena);

#endif
