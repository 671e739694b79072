#include "unit.h"

#include "base/clock.h"
#include "base/pool.h"

#include <stdatomic.h>
#include <unistd.h>

enum { MOST = 5000 };

struct loop {
    _Atomic int done[MOST];
    _Atomic int busy[256]; // by worker
    int workers;
    _Atomic bool wrong;
};

static void mark(void *context, int64_t index, int worker) {
    struct loop *loop = context;
    if (worker < 0 || worker >= loop->workers || index < 0 || index >= MOST) {
        atomic_store(&loop->wrong, true);
        return;
    }
    if (atomic_fetch_add(&loop->busy[worker], 1) != 0) atomic_store(&loop->wrong, true);
    atomic_fetch_add(&loop->done[index], 1);
    atomic_fetch_sub(&loop->busy[worker], 1);
}

static void every_index_once(void **state) {
    static const int threads[] = {1, 2, 3, 8};
    static const int64_t counts[] = {0, 1, 2, 3, 7, 100, MOST};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        struct error error = {0};
        struct pool *pool = pool_open(threads[t], &error);
        assert_ok(pool, error);
        assert_int_equal(pool_threads(pool), threads[t]);
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            static struct loop loop;
            memset(&loop, 0, sizeof loop);
            loop.workers = threads[t];
            pool_for(pool, counts[c], mark, &loop);
            assert_false(loop.wrong);
            for (int64_t i = 0; i < MOST; i++) assert_int_equal(loop.done[i], i < counts[c]);
        }
        pool_close(pool);
    }
    pool_close(NULL);
}

static void add_plain(void *context, int64_t index, int worker) {
    ((int *)context)[index]++; // not atomic: the pool itself must order loops
}

// Many short loops back to back, some with a pause in which the threads fall asleep.
static void loops_follow_each_other(void **state) {
    struct error error = {0};
    struct pool *pool = pool_open(4, &error);
    assert_ok(pool, error);
    int values[13] = {0};
    int loops = 3000;
    for (int i = 0; i < loops; i++) {
        pool_for(pool, 13, add_plain, values);
        if (i % 1000 == 0) usleep(2000);
    }
    for (int i = 0; i < 13; i++) assert_int_equal(values[i], loops);
    pool_close(pool);
}

static void meet(void *context, int64_t index, int worker) {
    _Atomic int *here = context;
    atomic_fetch_add(here, 1);
    double deadline = clock_seconds() + 20;
    while (atomic_load(here) < 3 && clock_seconds() < deadline) usleep(100);
}

// Three tasks that wait for each other end only if three threads run them at one time.
static void tasks_run_side_by_side(void **state) {
    struct error error = {0};
    struct pool *pool = pool_open(3, &error);
    assert_ok(pool, error);
    for (int i = 0; i < 3; i++) {
        _Atomic int here = 0;
        double begin = clock_seconds();
        pool_for(pool, 3, meet, &here);
        assert_int_equal(here, 3);
        assert_true(clock_seconds() - begin < 20);
        usleep(3000);
    }
    pool_close(pool);
}

static void thread_counts(void **state) {
    struct error error = {0};
    struct pool *pool = pool_open(0, &error);
    assert_ok(pool, error);
    assert_true(pool_threads(pool) >= 1);
    pool_close(pool);
    assert_null(pool_open(257, &error));
    assert_contains(error.message, "threads: 257, expected 1 to 256");
    error_clear(&error);
    assert_null(pool_open(-1, &error));
    assert_int_equal(error.kind, ERROR_INPUT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_once),
        cmocka_unit_test(loops_follow_each_other),
        cmocka_unit_test(tasks_run_side_by_side),
        cmocka_unit_test(thread_counts),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
