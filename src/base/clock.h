// Time. Relies on nothing.
#ifndef LIMN_BASE_CLOCK_H
#define LIMN_BASE_CLOCK_H

#include <stdint.h>

double clock_seconds(void);      // monotonic seconds, for durations
int64_t clock_unix_micros(void); // microseconds since 1970 UTC, for records

#endif
