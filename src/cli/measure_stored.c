// Timing products with weights of every stored type, beside those with bf16 weights. Relies on measure.h; POSIX.
#include "cli/measure.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    IN = 3072,
    OUT = 9216,
    SINGLE_BYTES = 160 << 20, // of the weights of one-row products: more than caches hold
};

static const enum dtype types[] = {
    DTYPE_BF16, DTYPE_F16,  DTYPE_F32,  DTYPE_F8_E4M3, DTYPE_F8_E5M2, DTYPE_NVFP4, DTYPE_NF4,
    DTYPE_Q8_0, DTYPE_Q6_K, DTYPE_Q5_K, DTYPE_Q4_K,    DTYPE_IQ4_XS,  DTYPE_Q3_K,  DTYPE_Q2_K,
    DTYPE_Q5_1, DTYPE_Q5_0, DTYPE_Q4_1, DTYPE_Q4_0,    DTYPE_IQ4_NL,
};
static const enum dtype quick_types[] = {DTYPE_F8_E4M3, DTYPE_NVFP4, DTYPE_Q8_0, DTYPE_Q4_K};

// Bytes that are small numbers in every type: scales and values below 1, no NaN.
static void *filled(struct measure *measure, size_t bytes) {
    uint8_t *memory = workspace_alloc(measure->device, bytes);
    uint64_t state = 9;
    for (size_t i = 0; i < bytes && memory; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        memory[i] = state >> 40 & 0x37;
    }
    return memory;
}

static struct weight_rows weights_of(struct measure *measure, enum dtype type, int64_t rows, int64_t cols,
                                     struct tensor_scales *scales, const float *codebook) {
    const size_t row_bytes = dtype_bytes(type, cols);
    *scales = (struct tensor_scales){.block_columns = cols / 16, .block_values = 64, .codebook = codebook};
    const size_t bytes = type == DTYPE_NVFP4 ? (size_t)((rows + 127) / 128 * 128 * scales->block_columns)
                                             : (size_t)(rows * cols / 64) * sizeof(float);
    const bool beside = type == DTYPE_NVFP4 || type == DTYPE_NF4;
    if (beside) scales->blocks = filled(measure, bytes);
    return (struct weight_rows){.data = filled(measure, row_bytes * (size_t)rows + 64),
                                .type = type,
                                .rows = rows,
                                .row_bytes = row_bytes,
                                .blocks = beside ? scales : NULL};
}

// Seconds of processor time of all threads together: what waits for its turn on a busy machine does not count.
static double processor_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// Processor seconds a thread of one product.
static double seconds_of(struct measure *measure, const struct linear *linear, struct matrix x,
                         struct matrix y) {
    const struct epilogue epilogue = {.kind = EPILOGUE_STORE};
    const double start = processor_seconds();
    measure->device->ops->linear(measure->device, linear, x, &epilogue, y);
    return (processor_seconds() - start) / pool_threads(measure->device->pool);
}

static const float codebook[16] = {-1,   -0.7f, -0.5f, -0.4f, -0.3f, -0.2f, -0.1f, 0,
                                   0.1f, 0.2f,  0.25f, 0.3f,  0.4f,  0.6f,  0.7f,  1};

// Many tokens: the time of the product with bf16 weights, in turn with it, as a share of its own.
static void measure_tokens(struct measure *measure, enum dtype type, int64_t tokens) {
    struct device *device = measure->device;
    const size_t mark = workspace_mark(device);
    struct tensor_scales scales[2];
    struct linear linears[2];
    double seconds[2][MEASURE_ROUNDS_MOST], ratios[MEASURE_ROUNDS_MOST];
    for (int i = 0; i < 2; i++)
        linears[i] = (struct linear){
            .in = IN,
            .out = OUT,
            .compute = COMPUTE_BF16,
            .part_count = 1,
            .parts = {weights_of(measure, i ? type : DTYPE_BF16, OUT, IN, &scales[i], codebook)}};
    struct matrix x = workspace_matrix(device, DTYPE_BF16, tokens, IN);
    struct matrix y = workspace_matrix(device, DTYPE_BF16, tokens, OUT);
    if (x.data && y.data) memset(x.data, 0x3f, (size_t)(tokens * IN) * 2);
    for (int round = -1; round < measure->rounds; round++)
        for (int i = 0; i < 2; i++) {
            const double took = seconds_of(measure, &linears[i], x, y);
            if (round >= 0) seconds[i][round] = took;
        }
    for (int round = 0; round < measure->rounds; round++)
        ratios[round] = seconds[0][round] / seconds[1][round];
    char name[96];
    snprintf(name, sizeof name, "%s weights, %lld tokens, %d -> %d", dtype_info(type)->name,
             (long long)tokens, IN, OUT);
    const double ratio = measure_median(ratios, measure->rounds),
                 middle = measure_median(seconds[1], measure->rounds);
    printf("%-52s %10.3f ms a thread, %.2f times bf16's rate\n", name, middle * 1e3, ratio);
    fflush(stdout);
    workspace_release(device, mark);
}

struct reading {
    const uint64_t *words;
    int64_t count; // of each task
    uint64_t sums[256];
};

static void read_task(void *context, int64_t index, int worker) {
    struct reading *reading = context;
    const uint64_t *words = reading->words + index * reading->count;
    uint64_t sums[8] = {0};
    for (int64_t i = 0; i + 8 <= reading->count; i += 8)
        for (int j = 0; j < 8; j++) sums[j] += words[i + j];
    for (int j = 0; j < 8; j++) reading->sums[index] += sums[j];
}

// Bytes of a row of weights with its scales that lie elsewhere.
static size_t all_row_bytes(enum dtype type) {
    const size_t scales = type == DTYPE_NVFP4 ? IN / 16 : type == DTYPE_NF4 ? IN / 64 * sizeof(float) : 0;
    return dtype_bytes(type, IN) + scales;
}

// One row: bytes of stored weights a second and thread, in turn with a loop that only reads the rows.
static void measure_single(struct measure *measure, enum dtype type) {
    enum { TASKS = 256 };
    struct device *device = measure->device;
    const size_t mark = workspace_mark(device), row_bytes = dtype_bytes(type, IN);
    const int64_t out = (int64_t)(SINGLE_BYTES / row_bytes);
    struct tensor_scales scales;
    const struct linear linear = {.in = IN,
                                  .out = out,
                                  .compute = COMPUTE_BF16,
                                  .part_count = 1,
                                  .parts = {weights_of(measure, type, out, IN, &scales, codebook)}};
    struct matrix x = workspace_matrix(device, DTYPE_BF16, 1, IN),
                  y = workspace_matrix(device, DTYPE_F32, 1, out);
    double rates[MEASURE_ROUNDS_MOST], shares[MEASURE_ROUNDS_MOST];
    if (!x.data || !y.data) return;
    memset(x.data, 0x3f, IN * 2);
    struct reading reading = {.words = linear.parts[0].data,
                              .count = (int64_t)(row_bytes * (size_t)out / 8 / TASKS)};
    for (int round = -1; round < measure->rounds; round++) {
        const int threads = pool_threads(device->pool);
        const double took = seconds_of(measure, &linear, x, y), start = processor_seconds();
        pool_for(device->pool, TASKS, read_task, &reading);
        const double read = (processor_seconds() - start) / threads;
        if (round < 0) continue;
        const double bytes = (double)all_row_bytes(type) * (double)out;
        rates[round] = bytes / took / threads;
        shares[round] = bytes / took * read / ((double)reading.count * 8 * TASKS);
    }
    char name[96];
    snprintf(name, sizeof name, "%s weights, 1 token, %d -> %lld", dtype_info(type)->name, IN,
             (long long)out);
    const double share = measure_median(shares, measure->rounds);
    printf("%-52s %10.1f GB/s of weights a thread, %.0f %% of reading\n", name,
           measure_median(rates, measure->rounds) * 1e-9, 100 * share);
    fflush(stdout);
    workspace_release(device, mark);
}

void measure_stored(struct measure *measure, int64_t tokens, bool quick) {
    const enum dtype *list = quick ? quick_types : types;
    const size_t count = quick ? sizeof quick_types / sizeof *quick_types : sizeof types / sizeof *types;
    for (size_t i = 0; i < count; i++) measure_tokens(measure, list[i], tokens);
    for (size_t i = 0; i < count; i++) measure_single(measure, list[i]);
}
