// How often something may happen: a bucket a name, refilled evenly. Relies on base. Thread-safe.
//
//     if (!rate_take(rate, "203.0.113.7", 60, clock_seconds(), &wait)) answer 429 with retry-after: ceil(wait)
#ifndef LIMN_STORE_RATE_H
#define LIMN_STORE_RATE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

struct rate;

// Remembers at most [names_most] names (1 or more); when there are more, those that were used longest ago go first.
struct rate *rate_open(size_t names_most, struct error *error);
void rate_close(struct rate *rate); // NULL is fine

// Takes one from the bucket of [name], which holds [per_minute] (1 or more) and gets as many a minute. False when it is
// empty; then *wait is the seconds until one is there again. [now]: monotonic seconds.
bool rate_take(struct rate *rate, const char *name, double per_minute, double now, double *wait);

// The same for a bucket of [capacity] that is refilled evenly in [seconds], and [amount] (at most [capacity]) taken at once.
bool rate_take_of(struct rate *rate, const char *name, double amount, double capacity, double seconds,
                  double now, double *wait);

#endif
