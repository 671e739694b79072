// Timing the operations of a model. Relies on measure.h, tensor/cpu/probe.h, clock.h.
#include "cli/measure.h"

#include "base/clock.h"
#include "tensor/cpu/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

bool measure_open(struct measure *measure, struct pool *pool, const char *isa, int rounds,
                  struct error *error) {
    const struct device_options options = {.pool = pool, .isa = isa};
    *measure = (struct measure){.device = device_open_cpu(&options, error), .rounds = rounds};
    return measure->device != NULL;
}

void measure_close(struct measure *measure) {
    device_close(measure->device);
    measure->device = NULL;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double measure_median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

double measure_cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double median_products(struct measure *measure, enum compute compute) {
    double rates[5];
    for (int i = 0; i < 5; i++) rates[i] = probe_products(measure->device, compute, 0.1);
    return measure_median(rates, 5);
}

void measure_ceiling(struct measure *measure) {
    measure->ceiling = median_products(measure, COMPUTE_BF16);
    printf("ceiling %.0f GFLOP/s\n", measure->ceiling * 1e-9);
}

void measure_machine(struct measure *measure) {
    measure->ceiling = median_products(measure, COMPUTE_BF16);
    const double f32 = median_products(measure, COMPUTE_F32), int8 = median_products(measure, COMPUTE_I8);
    printf("instruction set %s, %d threads\n", device_isa(measure->device),
           pool_threads(measure->device->pool));
    printf("ceilings: bf16 products %.0f GFLOP/s, f32 products %.0f GFLOP/s, int8 products %.0f GOP/s, "
           "reading %.1f "
           "GB/s\n",
           measure->ceiling * 1e-9, f32 * 1e-9, int8 * 1e-9, probe_reading(measure->device, 0.3) * 1e-9);
    fflush(stdout);
}

void measure_report(const struct measure *measure, const char *name, double operations, double *seconds) {
    const double middle = measure_median(seconds, measure->rounds);
    printf("%-52s %10.3f ms %8.1f GFLOP/s %6.1f %%\n", name, middle * 1e3, operations / middle * 1e-9,
           100 * operations / middle / measure->ceiling);
    fflush(stdout);
}

void *measure_values(struct measure *measure, int64_t count, float size) {
    uint16_t *values = workspace_alloc(measure->device, (size_t)count * sizeof *values);
    uint64_t state = 9;
    for (int64_t i = 0; i < count && values; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        values[i] = f32_to_bf16(size * ((float)((double)(state >> 40) / (1 << 23)) - 1));
    }
    return values;
}

// ------------------------------------------------------------------------------------------------------ the operations

// A layer with random values in the device's workspace.
struct layer {
    struct linear linear;
    struct matrix x, y;
    struct modulation modulation;
    struct epilogue epilogue;
    double operations;
    char name[96];
};

static void make_layer(struct measure *measure, int64_t tokens, int64_t in, int64_t out,
                       enum epilogue_kind kind, struct layer *layer) {
    struct device *device = measure->device;
    const bool gated = kind == EPILOGUE_GATED_SILU, adds = kind == EPILOGUE_GATED_ADD;
    const int64_t cols = gated ? out / 2 : out;
    void *weights = measure_values(measure, in * out, 0.02f), *x = measure_values(measure, tokens * in, 1);
    struct matrix gate = workspace_matrix(device, DTYPE_F32, 1, cols);
    *layer = (struct layer){
        .linear =
            {.in = in,
             .out = out,
             .part_count = 1,
             .parts = {{.data = weights, .type = DTYPE_BF16, .rows = out, .row_bytes = (size_t)in * 2}}},
        .x = matrix_dense(x, DTYPE_BF16, tokens, in),
        .y = workspace_matrix(device, adds ? DTYPE_F32 : DTYPE_BF16, tokens, cols),
        .modulation = {.end = tokens, .gate = gate.data},
        .epilogue = {kind, &layer->modulation, 1},
        .operations = 2.0 * (double)tokens * (double)in * (double)out};
    for (int64_t i = 0; i < cols && gate.data; i++) ((float *)gate.data)[i] = 0.5f;
    for (int64_t i = 0; i < tokens * cols && adds && layer->y.data; i++) ((float *)layer->y.data)[i] = 0;
    snprintf(layer->name, sizeof layer->name, "%lld tokens, %lld -> %lld%s", (long long)tokens, (long long)in,
             (long long)out,
             gated  ? ", gated SiLU"
             : adds ? ", gated add"
                    : "");
}

static void run_layer(struct measure *measure, struct layer *layer, enum compute compute) {
    layer->linear.compute = compute;
    measure->device->ops->linear(measure->device, &layer->linear, layer->x, &layer->epilogue, layer->y);
}

void measure_linear(struct measure *measure, int64_t tokens, int64_t in, int64_t out,
                    enum epilogue_kind kind) {
    const size_t mark = workspace_mark(measure->device);
    double seconds[MEASURE_ROUNDS_MOST + 1] = {0};
    struct layer layer;
    char name[128];
    make_layer(measure, tokens, in, out, kind, &layer);
    for (int i = -1; i < measure->rounds; i++) {
        const double start = clock_seconds();
        run_layer(measure, &layer, COMPUTE_BF16);
        if (i >= 0) seconds[i] = clock_seconds() - start;
    }
    snprintf(name, sizeof name, "linear %s", layer.name);
    measure_report(measure, name, layer.operations, seconds);
    if (tokens == 1)
        printf("%-52s %10.1f GB/s of weights\n", "",
               (double)in * (double)out * 2 / measure_median(seconds, measure->rounds) * 1e-9);
    workspace_release(measure->device, mark);
}

void measure_int8(struct measure *measure, int64_t tokens, int64_t in, int64_t out, enum epilogue_kind kind) {
    static const enum compute ways[2] = {COMPUTE_BF16, COMPUTE_I8};
    const size_t mark = workspace_mark(measure->device);
    double seconds[2][MEASURE_ROUNDS_MOST + 1] = {{0}}, ratios[MEASURE_ROUNDS_MOST + 1] = {0};
    struct layer layer;
    char name[128];
    make_layer(measure, tokens, in, out, kind, &layer);
    for (int i = -1; i < measure->rounds; i++) {
        double spent[2];
        for (int way = 0; way < 2; way++) {
            const double start = clock_seconds(), cpu = measure_cpu_seconds();
            run_layer(measure, &layer, ways[way]);
            spent[way] = measure_cpu_seconds() - cpu;
            if (i >= 0) seconds[way][i] = clock_seconds() - start;
        }
        if (i >= 0) ratios[i] = spent[0] / spent[1];
    }
    snprintf(name, sizeof name, "bf16 %s", layer.name);
    measure_report(measure, name, layer.operations, seconds[0]);
    snprintf(name, sizeof name, "int8 %s", layer.name);
    measure_report(measure, name, layer.operations, seconds[1]);
    printf("%-52s %10.2f times as fast in CPU seconds, the median of %d pairs\n", "",
           measure_median(ratios, measure->rounds), measure->rounds);
    workspace_release(measure->device, mark);
}

void measure_attention(struct measure *measure, int64_t queries, int64_t keys, int heads, int kv_heads,
                       int head_dim, bool causal) {
    struct device *device = measure->device;
    const size_t mark = workspace_mark(device);
    const int64_t width = (int64_t)heads * head_dim, kv_width = (int64_t)kv_heads * head_dim;
    void *q = measure_values(measure, queries * width, 1), *k = measure_values(measure, keys * kv_width, 1);
    void *v = measure_values(measure, keys * kv_width, 1), *out = measure_values(measure, queries * width, 1);
    const struct attention attention = {
        .heads = heads, .kv_heads = kv_heads, .head_dim = head_dim, .scale = 0.088f, .causal = causal};
    double seconds[MEASURE_ROUNDS_MOST + 1] = {0};
    for (int i = -1; i < measure->rounds; i++) {
        const double start = clock_seconds();
        device->ops->attention(device, &attention, matrix_dense(q, DTYPE_BF16, queries, width),
                               matrix_dense(k, DTYPE_BF16, keys, kv_width),
                               matrix_dense(v, DTYPE_BF16, keys, kv_width),
                               matrix_dense(out, DTYPE_BF16, queries, width));
        if (i >= 0) seconds[i] = clock_seconds() - start;
    }
    char name[96];
    snprintf(name, sizeof name, "attention %lld x %lld, %d heads of %d%s", (long long)queries,
             (long long)keys, heads, head_dim, causal ? ", causal (half counted)" : "");
    const double pairs = (double)queries * (double)keys;
    measure_report(measure, name, (causal ? 2 : 4) * pairs * (double)width, seconds);
    workspace_release(device, mark);
}

void measure_convolution(struct measure *measure, int64_t side, int64_t channels) {
    struct device *device = measure->device;
    const size_t mark = workspace_mark(device);
    const struct tensor weights = {.type = DTYPE_BF16,
                                   .rank = 4,
                                   .shape = {channels, channels, 3, 3},
                                   .data = measure_values(measure, channels * channels * 9, 0.02f),
                                   .bytes = (size_t)(channels * channels * 9 * 2)};
    struct conv conv = {.in = channels, .out = channels, .kernel = 3, .stride = 1, .compute = COMPUTE_BF16};
    struct error error = {0};
    struct matrix scale = workspace_matrix(device, DTYPE_F32, 1, channels);
    for (int64_t i = 0; i < channels && scale.data; i++) ((float *)scale.data)[i] = 0.5f;
    const struct conv_input input = {.scale = scale.data, .shift = scale.data, .silu = true};
    struct feature_map x = {
        measure_values(measure, side * side * channels, 1), DTYPE_BF16, 1, side, side, channels};
    struct feature_map y = {
        measure_values(measure, side * side * channels, 1), DTYPE_BF16, 1, side, side, channels};
    if (!device_status(device, &error) || !device->ops->conv_pack(device, &conv, &weights, &error)) {
        fprintf(stderr, "limn: %s\n", error.message);
        workspace_release(device, mark);
        return;
    }
    double seconds[MEASURE_ROUNDS_MOST + 1] = {0};
    for (int i = -1; i < measure->rounds; i++) {
        const double start = clock_seconds();
        device->ops->conv2d(device, &conv, &x, &input, NULL, &y);
        if (i >= 0) seconds[i] = clock_seconds() - start;
    }
    char name[96];
    snprintf(name, sizeof name, "convolution 3x3, %lld x %lld, %lld channels", (long long)side,
             (long long)side, (long long)channels);
    measure_report(measure, name, 18.0 * (double)(side * side) * (double)(channels * channels), seconds);
    device_free(device, conv.packed);
    workspace_release(device, mark);
}

// ------------------------------------------------------------------------------------------------------------- the list

void measure_shapes(struct measure *measure, bool quick) {
    static const int64_t tokens[] = {1536, 768, 4608};
    for (int i = 0; i < (quick ? 1 : 3); i++) {
        if (i > 0) measure_ceiling(measure);
        measure_linear(measure, tokens[i], 3072, 9216, EPILOGUE_STORE);
        measure_linear(measure, tokens[i], 3072, 18432, EPILOGUE_GATED_SILU);
        measure_linear(measure, tokens[i], 9216, 3072, EPILOGUE_GATED_ADD);
        measure_linear(measure, tokens[i], 12288, 3072, EPILOGUE_GATED_ADD);
    }
    for (int64_t n = quick ? 1536 : 1024; n <= (quick ? 1536 : 8192); n *= 2)
        measure_attention(measure, n, n, 24, 24, 128, false);
    measure_attention(measure, 512, 512, 32, 8, 128, true);
    measure_ceiling(measure);
    measure_convolution(measure, 64, 512);
    measure_convolution(measure, 256, 256);
    if (!quick) measure_convolution(measure, 512, 128);
    for (int64_t n = 1; n <= (quick ? 1 : 16); n *= 4) measure_linear(measure, n, 3072, 9216, EPILOGUE_STORE);
    if (quick) measure_stored(measure, 512, true);
}

void measure_int8_shapes(struct measure *measure, bool quick) {
    static const int64_t tokens[] = {1536, 512, 1024, 4608};
    measure_ceiling(measure);
    for (int i = 0; i < (quick ? 1 : 4); i++) {
        measure_int8(measure, tokens[i], 3072, 9216, EPILOGUE_STORE);
        measure_int8(measure, tokens[i], 3072, 18432, EPILOGUE_GATED_SILU);
        measure_int8(measure, tokens[i], 9216, 3072, EPILOGUE_GATED_ADD);
        measure_int8(measure, tokens[i], 12288, 3072, EPILOGUE_GATED_ADD);
    }
}
