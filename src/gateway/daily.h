// How much of something each name may have a day (UTC): pictures of programs without a key, by address. In memory: a restart
// begins anew. Relies on base. Thread-safe.
#ifndef LIMN_GATEWAY_DAILY_H
#define LIMN_GATEWAY_DAILY_H

#include "base/error.h"

#include <stdint.h>

struct daily;

struct daily *daily_open(struct error *error);
void daily_close(struct daily *daily); // NULL is fine

// Takes [count] for [name] where it has had at most [most] then. False when not; then *wait is the seconds until midnight UTC.
// [now]: microseconds since 1970. True, uncounted, when memory is gone or more names came today than are kept.
bool daily_take(struct daily *daily, const char *name, int count, int64_t most, int64_t now, double *wait);

// Gives back what was taken on the same day and not used.
void daily_give_back(struct daily *daily, const char *name, int count, int64_t now);

#endif
