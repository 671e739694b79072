// How much memory this process may still take. Relies on nothing.
#ifndef LIMN_BASE_MEMORY_H
#define LIMN_BASE_MEMORY_H

#include <stdint.h>

// Bytes that can be had without swapping: what the system calls available, and less where a control group of the process (or
// one above it) has a limit; the environment variable LIMN_MEMORY ("24GB") takes the place of both. INT64_MAX when nothing says.
int64_t memory_available(void);

// "24GB", "1.5 GiB", "800MB" or a number of bytes; -1 for anything else. Powers of 1000, or of 1024 with an i.
int64_t memory_parse(const char *text);

// The same from files under [root] instead of "/", for tests: proc/meminfo, proc/self/cgroup and sys/fs/cgroup.
int64_t memory_available_under(const char *root);

#endif
