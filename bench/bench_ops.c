// The operations one by one at the sizes of the klein-4B shape, beside the machine's own ceilings measured in the same
// run. Every figure is the median of [rounds]; the ceiling is measured again before each group, because machines change.
//
//     bench_ops [threads [rounds]]
#include "base/clock.h"
#include "tensor/cpu/probe.h"
#include "tensor/device.h"
#include "tensor/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef LIMN_HAVE_DNNL_PRODUCT
double dnnl_product_seconds(int64_t tokens, int64_t in, int64_t out, const void *x, const void *w, void *y,
                            int rounds);
#endif

struct bench {
    struct device *device;
    int rounds;
    double ceiling; // bf16, flop/s
};

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

static void *random_bf16(int64_t count, float size) {
    uint16_t *values = aligned_alloc(64, ((size_t)count * 2 + 63) / 64 * 64);
    if (!values) exit(1);
    uint64_t state = 9;
    for (int64_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        values[i] = f32_to_bf16(size * ((float)((double)(state >> 40) / (1 << 23)) - 1));
    }
    return values;
}

static void report(const struct bench *bench, const char *what, double flops, double *seconds) {
    const double middle = median(seconds, bench->rounds);
    printf("%-52s %9.3f ms %8.1f GFLOP/s  %5.1f %% of the ceiling\n", what, middle * 1e3,
           flops / middle * 1e-9, 100 * flops / middle / bench->ceiling);
    fflush(stdout);
}

static void measure_ceiling(struct bench *bench) {
    double rates[3];
    for (int i = 0; i < 3; i++) rates[i] = probe_products(bench->device, COMPUTE_BF16, 0.2);
    bench->ceiling = median(rates, 3);
    printf("ceiling (%s, registers): %.0f GFLOP/s\n", device_isa(bench->device), bench->ceiling * 1e-9);
}

static void bench_linear(struct bench *bench, int64_t tokens, int64_t in, int64_t out,
                         enum epilogue_kind kind) {
    struct device *device = bench->device;
    void *weights = random_bf16(in * out, 0.02f), *x = random_bf16(tokens * in, 1);
    const bool gated = kind == EPILOGUE_GATED_SILU, adds = kind == EPILOGUE_GATED_ADD;
    const int64_t cols = gated ? out / 2 : out;
    float *gate = calloc((size_t)cols, sizeof *gate);
    void *y = calloc((size_t)(tokens * cols), adds ? 4 : 2);
    const struct modulation modulation = {.end = tokens, .gate = gate};
    const struct linear linear = {
        .in = in,
        .out = out,
        .compute = COMPUTE_BF16,
        .part_count = 1,
        .parts = {{.data = weights, .type = DTYPE_BF16, .rows = out, .row_bytes = (size_t)in * 2}}};
    const struct epilogue epilogue = {kind, &modulation, 1};
    double seconds[64];
    for (int i = -1; i < bench->rounds; i++) {
        const double start = clock_seconds();
        device->ops->linear(device, &linear, matrix_dense(x, DTYPE_BF16, tokens, in), &epilogue,
                            matrix_dense(y, adds ? DTYPE_F32 : DTYPE_BF16, tokens, cols));
        if (i >= 0) seconds[i] = clock_seconds() - start;
    }
    char name[96];
    snprintf(name, sizeof name, "linear %lld x [%lld, %lld]%s", (long long)tokens, (long long)out,
             (long long)in,
             gated  ? " gated silu"
             : adds ? " gated add"
                    : "");
    report(bench, name, 2.0 * (double)tokens * (double)in * (double)out, seconds);
    if (tokens == 1)
        printf("%52s %9.1f GB/s\n", "", (double)in * (double)out * 2 / median(seconds, bench->rounds) * 1e-9);
#ifdef LIMN_HAVE_DNNL_PRODUCT
    if (kind == EPILOGUE_STORE && tokens > 1) {
        for (int i = 0; i < bench->rounds; i++)
            seconds[i] = dnnl_product_seconds(tokens, in, out, x, weights, y, 1);
        report(bench, "    oneDNN, whole matrices", 2.0 * (double)tokens * (double)in * (double)out, seconds);
    }
#endif
    free(weights);
    free(x);
    free(y);
    free(gate);
}

static void bench_attention(struct bench *bench, int64_t queries, int64_t keys, int heads, int kv_heads,
                            int dim, bool causal) {
    struct device *device = bench->device;
    void *q = random_bf16(queries * heads * dim, 1), *k = random_bf16(keys * kv_heads * dim, 1);
    void *v = random_bf16(keys * kv_heads * dim, 1), *out = random_bf16(queries * heads * dim, 1);
    const struct attention attention = {
        .heads = heads, .kv_heads = kv_heads, .head_dim = dim, .scale = 0.088f, .causal = causal};
    double seconds[64];
    for (int i = -1; i < bench->rounds; i++) {
        const double start = clock_seconds();
        device->ops->attention(device, &attention, matrix_dense(q, DTYPE_BF16, queries, (int64_t)heads * dim),
                               matrix_dense(k, DTYPE_BF16, keys, (int64_t)kv_heads * dim),
                               matrix_dense(v, DTYPE_BF16, keys, (int64_t)kv_heads * dim),
                               matrix_dense(out, DTYPE_BF16, queries, (int64_t)heads * dim));
        if (i >= 0) seconds[i] = clock_seconds() - start;
    }
    char name[96];
    snprintf(name, sizeof name, "attention %lld x %lld, %d/%d x %d%s", (long long)queries, (long long)keys,
             heads, kv_heads, dim, causal ? ", causal (half counted)" : "");
    report(bench, name, (causal ? 2.0 : 4.0) * (double)queries * (double)keys * heads * dim, seconds);
    free(q);
    free(k);
    free(v);
    free(out);
}

static void bench_all(struct bench *bench) {
    static const int64_t tokens[] = {768, 1536, 4608};
    measure_ceiling(bench);
    for (int i = 0; i < 3; i++) {
        bench_linear(bench, tokens[i], 3072, 9216, EPILOGUE_STORE);
        bench_linear(bench, tokens[i], 3072, 18432, EPILOGUE_GATED_SILU);
        bench_linear(bench, tokens[i], 12288, 3072, EPILOGUE_GATED_ADD);
        bench_linear(bench, tokens[i], 3072, 27648, EPILOGUE_STORE);
    }
    measure_ceiling(bench);
    for (int64_t n = 1024; n <= 8192; n *= 2) bench_attention(bench, n, n, 24, 24, 128, false);
    bench_attention(bench, 512, 512, 32, 8, 128, true);
    measure_ceiling(bench);
    for (int64_t n = 1; n <= 16; n *= 2) bench_linear(bench, n, 3072, 9216, EPILOGUE_STORE);
}

int main(int count, char **arguments) {
    struct error error = {0};
    struct pool *pool = pool_open(count > 1 ? atoi(arguments[1]) : 2, &error);
    struct bench bench = {.rounds = count > 2 ? atoi(arguments[2]) : 5};
    if (!pool || bench.rounds < 1 || bench.rounds > 64) return 1;
    const char *names[8];
    const int isas = count > 3 ? 1 : device_isa_list(names, 8);
    if (count > 3) names[0] = arguments[3];
    for (int i = 0; i < isas; i++) {
        const struct device_options options = {.pool = pool, .isa = names[i]};
        bench.device = device_open_cpu(&options, &error);
        if (!bench.device) {
            fprintf(stderr, "%s\n", error.message);
            return 1;
        }
        printf("f32 ceiling %.0f GFLOP/s, reading %.1f GB/s\n",
               probe_products(bench.device, COMPUTE_F32, 0.3) * 1e-9,
               probe_reading(bench.device, 0.5) * 1e-9);
        bench_all(&bench);
        device_close(bench.device);
    }
    pool_close(pool);
    return 0;
}
