// How many requests a second the store records: pairs of begin and settle, each settled by the completion of its begin, as
// the gateway does it. One line a case: pairs a second, CPU time of a pair (all threads), the time from asking to the completion, operations a batch.
//
//     bench_store [SECONDS [FOLDER [paced]]]    3 seconds a case; FOLDER: where the database is made ("/tmp"); paced:
//                                               only the case of 500 requests a second
#include "base/clock.h"
#include "store/database.h"
#include "store/key_table.h"
#include "store/store.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { FLIGHT_MOST = 2000, SAMPLES_MOST = 1 << 20 };

struct run {
    struct store *store;
    const char *key_id;
    int64_t number;
    bool idempotent;
    double until;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int in_flight;
    int64_t pairs, failed;
    float *begin_times; // seconds
    int64_t sample_count;
};

struct flight {
    struct run *run;
    char id[40], idempotency_key[48];
    double started;
};

static void start(struct flight *flight);

// Of all threads, in seconds.
static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void on_settled(void *context, const struct store_settled *settled) {
    struct flight *flight = context;
    struct run *run = flight->run;
    pthread_mutex_lock(&run->lock);
    if (settled->changed)
        run->pairs++;
    else
        run->failed++;
    bool more = clock_seconds() < run->until;
    if (!more && --run->in_flight == 0) pthread_cond_signal(&run->changed);
    pthread_mutex_unlock(&run->lock);
    if (more)
        start(flight);
    else
        free(flight);
}

static void on_begun(void *context, struct store_begun *begun) {
    struct flight *flight = context;
    struct run *run = flight->run;
    double took = clock_seconds() - flight->started;
    int64_t now = clock_unix_micros();
    pthread_mutex_lock(&run->lock);
    if (run->sample_count < SAMPLES_MOST) run->begin_times[run->sample_count++] = (float)took;
    pthread_mutex_unlock(&run->lock);
    struct store_attempt attempt = {.provider = "local",
                                    .queued_at = now,
                                    .dispatched_at = now,
                                    .first_byte_at = now + 1000,
                                    .ended_at = now + 2000,
                                    .status = STORE_COMPLETED,
                                    .cost_micros = 8000,
                                    .images = 1};
    const char *media[] = {flight->id};
    struct store_settle settle = {.id = flight->id,
                                  .status = STORE_COMPLETED,
                                  .http_status = 200,
                                  .executed_model = "local/pictogram",
                                  .provider = "local",
                                  .cost_micros = 8000,
                                  .images = 1,
                                  .width = 1024,
                                  .height = 1024,
                                  .attempts = &attempt,
                                  .attempt_count = 1,
                                  .media = media,
                                  .media_count = 1};
    if (run->idempotent) settle.answer = "{\"created\":1}", settle.answer_size = 13;
    struct error error = {0};
    if (begun->outcome != STORE_NEW || !store_settle(run->store, &settle, on_settled, flight, &error)) {
        fprintf(stderr, "bench_store: outcome %d: %s%s\n", begun->outcome, begun->error.message,
                error.message);
        exit(1);
    }
}

static void start(struct flight *flight) {
    struct run *run = flight->run;
    pthread_mutex_lock(&run->lock);
    int64_t number = run->number++;
    pthread_mutex_unlock(&run->lock);
    // Ids look random, as real ones are.
    snprintf(flight->id, sizeof flight->id, "req_%016llx%04x",
             (unsigned long long)number * 0x9e3779b97f4a7c15ull, (unsigned)(number & 0xffff));
    snprintf(flight->idempotency_key, sizeof flight->idempotency_key, "key-%s", flight->id);
    struct store_begin begin = {.id = flight->id,
                                .key_id = run->key_id,
                                .model = "pictogram",
                                .mode = "text-to-image",
                                .endpoint = "/openai/v1/images/generations",
                                .provider = "local",
                                .request_bytes = 500,
                                .images = 1,
                                .estimate_micros = 8000};
    if (run->idempotent) begin.idempotency_key = flight->idempotency_key;
    flight->started = clock_seconds();
    struct error error = {0};
    if (!store_begin(run->store, &begin, on_begun, flight, &error)) {
        fprintf(stderr, "bench_store: %s\n", error.message);
        exit(1);
    }
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void measure(struct run *run, const char *name, int flights, double seconds) {
    struct store_state before, after;
    store_state(run->store, &before);
    run->pairs = run->failed = run->sample_count = 0;
    run->in_flight = flights;
    double begin = clock_seconds(), cpu = cpu_seconds();
    run->until = begin + seconds;
    for (int i = 0; i < flights; i++) {
        struct flight *flight = calloc(1, sizeof *flight);
        if (!flight) exit(1);
        flight->run = run;
        start(flight);
    }
    pthread_mutex_lock(&run->lock);
    while (run->in_flight) pthread_cond_wait(&run->changed, &run->lock);
    pthread_mutex_unlock(&run->lock);
    double took = clock_seconds() - begin;
    cpu = cpu_seconds() - cpu;
    store_state(run->store, &after);
    qsort(run->begin_times, (size_t)run->sample_count, sizeof(float), by_size);
    float p50 = run->begin_times[run->sample_count / 2], p99 = run->begin_times[run->sample_count * 99 / 100];
    printf("%-44s %8.0f pairs/s  %4.0f us CPU each  begin p50 %7.3f ms  p99 %7.3f ms  %6.1f a batch\n", name,
           (double)run->pairs / took, cpu * 1e6 / (double)run->pairs, p50 * 1e3, p99 * 1e3,
           (double)(after.operations - before.operations) / (double)(after.batches - before.batches));
}

// A paced case: [rate] pairs a second, whatever the store does.
static void pace(struct run *run, const char *name, double rate, double seconds) {
    run->pairs = run->failed = run->sample_count = 0;
    run->in_flight = 1;
    double begin = clock_seconds(), cpu = cpu_seconds();
    run->until = 0; // each flight is one pair
    int64_t count = (int64_t)(rate * seconds);
    for (int64_t i = 0; i < count; i++) {
        double due = begin + (double)i / rate, now = clock_seconds();
        if (due > now) usleep((useconds_t)((due - now) * 1e6));
        struct flight *flight = calloc(1, sizeof *flight);
        if (!flight) exit(1);
        flight->run = run;
        pthread_mutex_lock(&run->lock);
        run->in_flight++;
        pthread_mutex_unlock(&run->lock);
        start(flight);
    }
    pthread_mutex_lock(&run->lock);
    run->in_flight--;
    while (run->in_flight) pthread_cond_wait(&run->changed, &run->lock);
    pthread_mutex_unlock(&run->lock);
    double took = clock_seconds() - begin;
    cpu = cpu_seconds() - cpu;
    qsort(run->begin_times, (size_t)run->sample_count, sizeof(float), by_size);
    printf("%-44s %8.0f pairs/s  %4.0f us CPU each  begin p50 %7.3f ms  p99 %7.3f ms\n", name,
           (double)run->pairs / took, cpu * 1e6 / (double)run->pairs,
           run->begin_times[run->sample_count / 2] * 1e3,
           run->begin_times[run->sample_count * 99 / 100] * 1e3);
}

int main(int count, char **arguments) {
    double seconds = count > 1 ? atof(arguments[1]) : 3;
    char folder[256], path[300], text[KEY_TEXT_MOST];
    snprintf(folder, sizeof folder, "%s/bench-store-XXXXXX", count > 2 ? arguments[2] : "/tmp");
    if (!mkdtemp(folder)) return perror(folder), 1;
    snprintf(path, sizeof path, "%s/limn.db", folder);
    struct error error = {0};
    for (int full = 0; full < 2; full++) {
        struct store_options options = {.path = path, .synchronous_full = full};
        struct run run = {.store = store_open(&options, &error), .number = 1 + full * 100000000};
        run.begin_times = malloc(SAMPLES_MOST * sizeof(float));
        pthread_mutex_init(&run.lock, NULL);
        pthread_cond_init(&run.changed, NULL);
        struct database *database = run.store ? database_open(path, 0, 5, &error) : NULL;
        struct key_info key = {.budget_total_micros = INT64_MAX / 4, .images_per_day = INT64_MAX / 4};
        snprintf(key.name, sizeof key.name, "bench %d", full);
        if (!run.begin_times || !database || !database_migrate(database, DATABASE_VERSION, &error) ||
            !key_create(database, &key, clock_unix_micros(), text, &error)) {
            fprintf(stderr, "bench_store: %s\n", error.message);
            return 1;
        }
        database_close(database);
        fflush(stdout);
        printf("synchronous=%s\n", full ? "FULL" : "NORMAL");
        bool paced = count > 3;
        if (!paced) measure(&run, "no key, 1 in flight", 1, seconds);
        if (!paced) measure(&run, "no key, 64 in flight", 64, seconds);
        run.key_id = key.id;
        if (!paced) measure(&run, "key with budgets, 64 in flight", 64, seconds);
        run.idempotent = true;
        if (!paced) measure(&run, "the same and idempotency keys, 64 in flight", 64, seconds);
        if (!paced) measure(&run, "the same, 2000 in flight", FLIGHT_MOST, seconds);
        run.idempotent = false;
        pace(&run, "key with budgets, 500 a second", 500, seconds);
        store_close(run.store);
        free(run.begin_times);
    }
    printf("the database is in %s\n", folder);
    return 0;
}
