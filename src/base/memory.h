// How much memory this process may still take. Relies on nothing.
#ifndef LIMN_BASE_MEMORY_H
#define LIMN_BASE_MEMORY_H

#include <stdint.h>

// Bytes that can be had without swapping: what the system calls available, and less where a control group of the process (or
// one above it) has a limit. INT64_MAX when nothing says.
int64_t memory_available(void);

// The same from files under [root] instead of "/", for tests: proc/meminfo, proc/self/cgroup and sys/fs/cgroup.
int64_t memory_available_under(const char *root);

#endif
