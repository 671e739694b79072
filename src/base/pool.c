// A pool of threads that share one loop at a time. Relies on error.h, Linux futexes.
//
// The caller publishes a loop by storing its count in [remaining]; every thread, the caller too, takes indices by
// lowering it with compare-and-swap. A successful swap proves that the loop is the current one (it cannot end while an index
// is taken and not done), so a thread that wakes late needs no generation number: it finds work or it finds none.
// Between loops a thread spins for some tens of microseconds, the usual gap between two ops, and then sleeps.
#include "base/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h> // defines: _mm_pause
#endif

enum { THREADS_MOST = 256, SPINS = 1000, LINE = 64 };

struct pool_thread {
    struct pool *pool;
    pthread_t thread;
    int worker;
};

struct pool {
    int threads;
    int started; // threads to join
    struct pool_thread *members;

    // The loop; stable from the store to [remaining] until [done] reaches count.
    pool_task *task;
    void *context;
    int64_t count;

    _Alignas(LINE) _Atomic int64_t remaining; // indices not taken yet
    _Alignas(LINE) _Atomic int64_t done;      // indices finished
    _Alignas(LINE) _Atomic uint32_t loops;    // futex of idle threads, changes with each loop
    _Atomic int sleepers;
    _Atomic bool stopping;
    _Alignas(LINE) _Atomic uint32_t finished; // futex of the caller, changes when a loop ends
    _Atomic bool caller_sleeps;
};

static void relax(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int threads) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0);
}

// Linux gives the use of AMX tile registers to a process only on request; refused where there are none.
static void ask_for_tiles(void) {
#if defined(__x86_64__) && defined(SYS_arch_prctl)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
#endif
}

// Takes indices of the current loop until none is left; returns how many it did. *count is the loop's, set when any.
static int64_t work(struct pool *pool, int worker, int64_t *count) {
    int64_t finished = 0;
    int64_t left = atomic_load_explicit(&pool->remaining, memory_order_acquire);
    while (left > 0) {
        if (!atomic_compare_exchange_weak(&pool->remaining, &left, left - 1)) continue;
        *count = pool->count;
        pool->task(pool->context, pool->count - left, worker);
        finished++;
        left = atomic_load_explicit(&pool->remaining, memory_order_acquire);
    }
    return finished;
}

static void wait_for_work(struct pool *pool) {
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load(&pool->remaining) > 0 || atomic_load(&pool->stopping)) return;
        relax();
    }
    atomic_fetch_add(&pool->sleepers, 1);
    uint32_t loops =
        atomic_load(&pool->loops); // before the check, so that a loop begun after it refuses the wait
    if (atomic_load(&pool->remaining) == 0 && !atomic_load(&pool->stopping)) futex_wait(&pool->loops, loops);
    atomic_fetch_sub(&pool->sleepers, 1);
}

static void *thread_main(void *argument) {
    struct pool_thread *member = argument;
    struct pool *pool = member->pool;
    ask_for_tiles();
    while (!atomic_load(&pool->stopping)) {
        int64_t count = 0;
        int64_t finished = work(pool, member->worker, &count);
        if (finished == 0) {
            wait_for_work(pool);
        } else if (atomic_fetch_add(&pool->done, finished) + finished == count) {
            // From here on the caller may return and begin another loop: nothing of this one is touched any more.
            if (atomic_load(&pool->caller_sleeps)) {
                atomic_fetch_add(&pool->finished, 1);
                futex_wake(&pool->finished, 1);
            }
        }
    }
    return NULL;
}

static int processors(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

struct pool *pool_open(int threads, struct error *error) {
    if (threads < 0 || threads > THREADS_MOST) {
        error_set(error, ERROR_INPUT, "threads: %d, expected 1 to %d, or 0 for one a processor", threads,
                  THREADS_MOST);
        return NULL;
    }
    if (threads == 0) threads = processors() < THREADS_MOST ? processors() : THREADS_MOST;
    struct pool *pool = aligned_alloc(LINE, sizeof *pool);
    if (pool) {
        memset(pool, 0, sizeof *pool);
        pool->members = calloc((size_t)threads, sizeof *pool->members);
    }
    if (!pool || !pool->members) {
        free(pool);
        error_set(error, ERROR_MEMORY, "threads: no memory for %d", threads);
        return NULL;
    }
    pool->threads = threads;
    ask_for_tiles();
    for (int worker = 1; worker < threads; worker++) {
        struct pool_thread *member = &pool->members[worker];
        *member = (struct pool_thread){.pool = pool, .worker = worker};
        int failure = pthread_create(&member->thread, NULL, thread_main, member);
        if (failure) {
            error_set(error, ERROR_UNAVAILABLE, "threads: number %d of %d cannot be started: %s", worker + 1,
                      threads, strerror(failure));
            pool_close(pool);
            return NULL;
        }
        pool->started++;
        char name[24]; // the kernel takes 15 characters, "limn-255" has 8
        snprintf(name, sizeof name, "limn-%d", worker);
        pthread_setname_np(member->thread, name);
    }
    return pool;
}

void pool_close(struct pool *pool) {
    if (!pool) return;
    atomic_store(&pool->stopping, true);
    atomic_fetch_add(&pool->loops, 1);
    futex_wake(&pool->loops, THREADS_MOST);
    for (int worker = 1; worker <= pool->started; worker++) pthread_join(pool->members[worker].thread, NULL);
    free(pool->members);
    free(pool);
}

int pool_threads(const struct pool *pool) {
    return pool->threads;
}

static void wait_for_end(struct pool *pool, int64_t count) {
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load(&pool->done) == count) return;
        relax();
    }
    atomic_store(&pool->caller_sleeps, true);
    for (;;) {
        uint32_t finished = atomic_load(&pool->finished);
        if (atomic_load(&pool->done) == count) break;
        futex_wait(&pool->finished, finished);
    }
    atomic_store(&pool->caller_sleeps, false);
}

void pool_for(struct pool *pool, int64_t count, pool_task *task, void *context) {
    if (count <= 0) return;
    if (pool->threads == 1 || count == 1) {
        for (int64_t index = 0; index < count; index++) task(context, index, 0);
        return;
    }
    pool->task = task;
    pool->context = context;
    pool->count = count;
    atomic_store(&pool->done, 0);
    atomic_store(&pool->remaining, count);
    atomic_fetch_add(&pool->loops, 1);
    int sleepers = atomic_load(&pool->sleepers);
    if (sleepers > 0) futex_wake(&pool->loops, count - 1 < sleepers ? (int)(count - 1) : sleepers);
    int64_t ignored = 0;
    int64_t finished = work(pool, 0, &ignored);
    if (atomic_fetch_add(&pool->done, finished) + finished != count) wait_for_end(pool, count);
}
