// The ceilings of a machine. Relies on probe.h, gemm_int8.h, clock.h.
#include "tensor/cpu/probe.h"

#include "base/clock.h"
#include "tensor/cpu/gemm_int8.h"

#include <string.h>

typedef double probe_round(void);

struct probe {
    probe_round *round;
    const uint64_t *memory; // [threads][READ_WORDS]; NULL where round is used
    double seconds;
    double rates[256]; // of each thread
    uint64_t sums[256];
};

enum { READ_WORDS = 8 << 20 };

static void compute_task(void *context, int64_t index, int worker) {
    struct probe *probe = context;
    double done = 0, now;
    const double start = clock_seconds();
    do {
        for (int i = 0; i < 10; i++) done += probe->round();
        now = clock_seconds();
    } while (now - start < probe->seconds);
    probe->rates[index] = done / (now - start);
}

static void read_task(void *context, int64_t index, int worker) {
    struct probe *probe = context;
    const uint64_t *memory = probe->memory + index * READ_WORDS;
    uint64_t sums[8] = {0};
    double done = 0, now;
    const double start = clock_seconds();
    do {
        for (int64_t i = 0; i < READ_WORDS; i += 8)
            for (int j = 0; j < 8; j++) sums[j] += memory[i + j];
        done += (double)READ_WORDS * 8;
        now = clock_seconds();
    } while (now - start < probe->seconds);
    for (int j = 0; j < 8; j++) probe->sums[index] += sums[j];
    probe->rates[index] = done / (now - start);
}

// Each thread runs for the same time; a thread that began late counts in full.
static double run(struct device *device, struct probe *probe, pool_task *task) {
    const int threads = pool_threads(device->pool);
    double sum = 0;
    pool_for(device->pool, threads, task, probe);
    for (int i = 0; i < threads && i < 256; i++) sum += probe->rates[i];
    return sum;
}

double probe_products(struct device *device, enum compute compute, double seconds) {
    enum cpu_isa isa = cpu_of(device)->isa;
    if (compute == COMPUTE_F32 && isa > CPU_AVX512) isa = CPU_AVX512;
    probe_round *const rounds[CPU_ISA_COUNT] = {
        [CPU_PLAIN] = probe_round_plain,
#ifdef LIMN_X86_KERNELS
        [CPU_AVX2] = probe_round_avx2,
        [CPU_AVX512] = probe_round_avx512,
        [CPU_AVX512BF16] = probe_round_avx512bf16,
        [CPU_AMX] = probe_round_amx,
#endif
    };
    struct probe probe = {.round = rounds[isa], .seconds = seconds};
#ifdef LIMN_X86_KERNELS
    if (compute == COMPUTE_I8 && !strcmp(cpu_of(device)->int8->name, "avx512vnni"))
        probe.round = probe_round_avx512vnni;
#endif
    return run(device, &probe, compute_task);
}

double probe_reading(struct device *device, double seconds) {
    const size_t mark = workspace_mark(device);
    const int64_t words = (int64_t)pool_threads(device->pool) * READ_WORDS;
    uint64_t *memory = workspace_alloc(device, (size_t)words * sizeof *memory);
    if (!memory) return 0;
    for (int64_t i = 0; i < words; i++) memory[i] = (uint64_t)i;
    struct probe probe = {.memory = memory, .seconds = seconds};
    const double rate = run(device, &probe, read_task);
    workspace_release(device, mark);
    workspace_trim(device);
    return rate;
}
