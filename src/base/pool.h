// A pool of threads that share one loop at a time. Relies on error.h.
//
//     pool_for(pool, count, task, context);   // task(context, index, worker) once for each index in [0, count)
//
// Which thread takes which index is not fixed; so that results do not depend on the number of threads, a task
// must write only what its index owns and must not sum across indices.
#ifndef LIMN_BASE_POOL_H
#define LIMN_BASE_POOL_H

#include "base/error.h"

#include <stdint.h>

struct pool;

// [threads] counts the calling thread: 1 starts none. 1..256; 0 takes one a processor that the process may use.
// Threads are named "limn-<n>". On x86-64 each asks the kernel for the use of AMX tiles where there are any.
struct pool *pool_open(int threads, struct error *error);
void pool_close(struct pool *pool); // NULL is fine
int pool_threads(const struct pool *pool);

// Runs the loop and returns when every index is done. [worker] is in [0, pool_threads) and no two tasks that run
// at one time share it. Not reentrant: one loop at a time, started by one thread.
typedef void pool_task(void *context, int64_t index, int worker);
void pool_for(struct pool *pool, int64_t count, pool_task *task, void *context);

#endif
