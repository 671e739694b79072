// Names that are nearly another: "did you mean". Relies on nothing.
#ifndef LIMN_BASE_NEAR_H
#define LIMN_BASE_NEAR_H

#include <stdbool.h>

// How many letters have to be inserted, removed, replaced or swapped with their neighbour to make [a] of [b], without regard to
// case; 1000 where either is longer than 100 bytes.
int near_distance(const char *a, const char *b);

// The one of [count] names (NULLs are passed over) that [name] was probably meant to be: the nearest, the first of several as
// near; where none is near enough (a third of the longer name's length at most, at least one letter) the first of which one is
// the beginning of the other, three letters or more; else NULL. Borrowed.
const char *near_match(const char *name, const char *const *names, int count);

// Whether [name] matches [pattern], in which * stands for any run of letters. Case counts.
bool glob_match(const char *pattern, const char *name);

#endif
