// Linear layers and embeddings with weights of every stored type, on every instruction set that this processor has: the
// bytes that the decoded weights give, as views that start in the middle of a tensor, with scales of rows and side
// branches, for one row and many, and the same for any number of threads.
#include "tensor/device.h"
#include "tensor/ops.h"

#include "stored_helper.h"

#include <math.h>

enum { BEFORE = 5, RANK = 256, OUT_MOST = 96 }; // rows in front of a view; rank of a side branch

struct layer {
    struct stored_weights stored, up; // the whole tensor; `up` of a branch
    float *down;                      // [RANK, in] f32
    void *decoded, *decoded_up;       // of the view, as elements of the compute type
    float scales[OUT_MOST];
    struct linear linear, plain; // plain: the same layer with decoded weights
};

// f32, or rounded to bf16.
static void *elements(const float *values, int64_t count, enum compute compute) {
    if (compute == COMPUTE_F32) return memcpy(stored_exactly((size_t)count * 4), values, (size_t)count * 4);
    uint16_t *narrow = stored_exactly((size_t)count * 2);
    for (int64_t i = 0; i < count; i++) narrow[i] = f32_to_bf16(values[i]);
    return narrow;
}

static struct weight_rows decoded_rows(const void *data, int64_t rows, int64_t cols, enum compute compute) {
    const enum dtype type = compute_dtype(compute);
    return (struct weight_rows){
        .data = data, .type = type, .rows = rows, .row_bytes = dtype_bytes(type, cols)};
}

// Two parts: rows [BEFORE, BEFORE + out - 7) with scales of rows, and the 7 behind them.
static void make_layer(struct layer *layer, int kind, int64_t in, int64_t out, bool branch,
                       enum compute compute) {
    struct random random = {(uint64_t)(100 * kind + in + out)};
    *layer = (struct layer){
        .stored = stored_make(&random, kind, BEFORE + out, in, 123, 1, false),
        .up = stored_make(&random, kind, out - 3, RANK, 0, 1, false),
        .linear = {.in = in, .out = out, .compute = compute, .part_count = 2, .branch_count = branch},
    };
    const struct stored_weights *stored = &layer->stored;
    const int64_t counts[2] = {out - 7, 7};
    layer->decoded = elements(stored_values(&layer->stored) + BEFORE * in, out * in, compute);
    layer->decoded_up = elements(stored_values(&layer->up), (out - 3) * RANK, compute);
    layer->down = stored_exactly((size_t)(RANK * in) * sizeof *layer->down);
    for (int64_t i = 0; i < RANK * in; i++) layer->down[i] = 0.01f * random_uniform(&random);
    for (int64_t i = 0; i < out; i++) layer->scales[i] = 0.75f + 0.25f * random_uniform(&random);
    layer->plain = layer->linear;
    for (int part = 0, first = 0; part < 2; first += (int)counts[part++]) {
        layer->linear.parts[part] = (struct weight_rows){
            .data = stored->data + (size_t)(BEFORE + first) * stored->row_bytes,
            .type = stored->type,
            .rows = counts[part],
            .row_bytes = stored->row_bytes,
            .blocks = stored->has_scales ? &stored->scales : NULL,
            .first_row = BEFORE + first,
        };
        layer->plain.parts[part] =
            decoded_rows((char *)layer->decoded + dtype_bytes(compute_dtype(compute), first * in),
                         counts[part], in, compute);
    }
    struct weight_rows *scaled[] = {&layer->linear.parts[0], &layer->plain.parts[0]};
    for (int i = 0; i < 2; i++) scaled[i]->scales = layer->scales, scaled[i]->scale_stride = 1;
    struct low_rank low_rank = {
        .down = {.data = layer->down, .type = DTYPE_F32, .rows = RANK, .row_bytes = (size_t)in * 4},
        .up = {.data = layer->up.data,
               .type = layer->up.type,
               .rows = out - 3,
               .row_bytes = layer->up.row_bytes,
               .blocks = layer->up.has_scales ? &layer->up.scales : NULL},
        .first_output = 2,
        .scale = 0.5f,
    };
    layer->linear.branches[0] = layer->plain.branches[0] = low_rank;
    layer->plain.branches[0].up = decoded_rows(layer->decoded_up, out - 3, RANK, compute);
}

static void drop_layer(struct layer *layer) {
    stored_drop(&layer->stored);
    stored_drop(&layer->up);
    free(layer->down);
    free(layer->decoded);
    free(layer->decoded_up);
}

// y of a layer, [tokens, out] in fresh memory.
static float *product(const char *isa, int threads, const struct linear *linear, float *x, int64_t tokens) {
    struct error error = {0};
    struct pool *pool = pool_open(threads, &error);
    const struct device_options options = {.pool = pool, .isa = isa, .workspace_bytes = (size_t)256 << 20};
    struct device *device = device_open_cpu(&options, &error);
    assert_ok(device, error);
    const struct epilogue store = {.kind = EPILOGUE_STORE};
    float *y = stored_exactly((size_t)(tokens * linear->out) * sizeof *y);
    device->ops->linear(device, linear, matrix_dense(x, DTYPE_F32, tokens, linear->in), &store,
                        matrix_dense(y, DTYPE_F32, tokens, linear->out));
    assert_ok(device_status(device, &error), error);
    device_close(device);
    pool_close(pool);
    return y;
}

// One row of the result in double precision: no kernel is behind it. round: of weights to bf16.
static double expected(const struct layer *layer, const float *x, int64_t n, bool round, double *size) {
    const int64_t in = layer->linear.in, row = n - 2;
    double sum = 0, scale = n < layer->linear.out - 7 ? layer->scales[n] : 1;
    *size = 0;
    for (int64_t k = 0; k < in; k++) {
        double w = layer->stored.values[(BEFORE + n) * in + k], value = x[k];
        if (layer->linear.compute == COMPUTE_BF16) value = bf16_to_f32(f32_to_bf16((float)value));
        if (round) w = bf16_to_f32(f32_to_bf16((float)w));
        sum += w * value;
        *size += fabs(w * value);
    }
    sum *= scale;
    for (int64_t r = 0; r < RANK && layer->linear.branch_count && row >= 0 && row < layer->linear.out - 3;
         r++) {
        double inner = 0;
        for (int64_t k = 0; k < in; k++) inner += (double)layer->down[r * in + k] * x[k];
        sum += 0.5 * inner * layer->up.values[row * RANK + r];
        *size += 0.5 * fabs(inner * layer->up.values[row * RANK + r]);
    }
    return sum;
}

// Sums of f32 numbers are off by 2^-24 a step at most; a branch in bf16 rounds what is between its two products.
static void check_row(const struct layer *layer, const float *x, const float *y, bool round,
                      const char *what) {
    const bool rounds = layer->linear.compute == COMPUTE_BF16 && layer->linear.branch_count;
    for (int64_t n = 0; n < layer->linear.out; n += 5) {
        double size, want = expected(layer, x, n, round, &size);
        if (!(fabs(y[n] - want) <= (rounds ? 0.01 : 3e-5) * size + 1e-6))
            fail_msg("%s, output %d: got %.9g, expected %.9g", what, (int)n, y[n], want);
    }
}

// A single row in bf16 on the instruction sets that multiply with codes, whose weights are never rounded.
static bool multiplies_codes(const char *isa, const struct stored_weights *stored) {
    const enum dtype type = stored->type;
    if (strcmp(isa, "avx512bf16") != 0 && strcmp(isa, "amx") != 0) return false;
    if (type == DTYPE_NF4) return stored->scales.block_values % 64 == 0;
    return type == DTYPE_NVFP4 || (block_has(type) && type != DTYPE_Q8_0);
}

static void check_layer(const char *isa, int kind, int64_t in, int64_t out, int64_t tokens, bool branch,
                        enum compute compute) {
    struct layer layer;
    struct random random = {17};
    char what[96];
    make_layer(&layer, kind, in, out, branch, compute);
    float *x = stored_exactly((size_t)(tokens * in) * sizeof *x);
    for (int64_t i = 0; i < tokens * in; i++) x[i] = random_uniform(&random);
    snprintf(what, sizeof what, "%s on %s, %d tokens", dtype_info(layer.stored.type)->name, isa, (int)tokens);
    float *y = product(isa, 1, &layer.linear, x, tokens), *plain = product(isa, 1, &layer.plain, x, tokens);
    const size_t bytes = (size_t)(tokens * out) * sizeof *y;
    if (tokens > 1 && memcmp(y, plain, bytes) != 0) fail_msg("%s: not what decoded weights give", what);
    const bool round = compute == COMPUTE_BF16 && !(tokens == 1 && multiplies_codes(isa, &layer.stored));
    check_row(&layer, x, y, round, what);
    check_row(&layer, x + (tokens - 1) * in, y + (tokens - 1) * out, round, what);
    for (int threads = 2; threads <= 3; threads++) {
        float *again = product(isa, threads, &layer.linear, x, tokens);
        if (memcmp(y, again, bytes) != 0) fail_msg("%s: other bytes with %d threads", what, threads);
        free(again);
    }
    free(x);
    free(y);
    free(plain);
    drop_layer(&layer);
}

static void check_types(int64_t in, int64_t out, int64_t tokens, bool branch) {
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    for (int isa = 0; isa < count; isa++)
        for (int kind = 0; kind < STORED_TYPES; kind++) {
            check_layer(isas[isa], kind, in, out, tokens, branch, COMPUTE_F32);
            check_layer(isas[isa], kind, in, out, tokens, branch, COMPUTE_BF16);
        }
}

static void one_row(void **state) {
    check_types(768, 71, 1, false);
    check_types(256, 70, 1, true);
}

static void few_tokens(void **state) {
    check_types(512, 40, 19, true);
}

static void many_tokens(void **state) {
    check_types(256, 41, 70, true);
}

// More than one depth block, whose borders must be those of blocks, and more than a stretch of one row.
static void deep_rows(void **state) {
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    for (int isa = 0; isa < count; isa++)
        for (int kind = 0; kind < STORED_TYPES; kind++) {
            check_layer(isas[isa], kind, 2304, 12, 3, false, COMPUTE_F32);
            check_layer(isas[isa], kind, 2304, 12, 66, false, COMPUTE_BF16);
            check_layer(isas[isa], kind, 17152, 8, 1, false, COMPUTE_BF16);
        }
}

// Rows that end in the middle of what is multiplied together: 256 values, or four blocks of 32.
static void odd_rows(void **state) {
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    const int64_t cols[] = {64, 192, 416, 448};
    for (int isa = 0; isa < count; isa++)
        for (int kind = 0; kind < STORED_TYPES; kind++)
            for (size_t i = 0; i < sizeof cols / sizeof *cols; i++) {
                const int64_t step = stored_types[kind] != DTYPE_NF4 ? stored_step(stored_types[kind])
                                     : kind == STORED_WIDE           ? 128
                                     : kind == STORED_NARROW         ? 32
                                                                     : 64;
                if (cols[i] % step == 0) check_layer(isas[isa], kind, cols[i], 70, 1, false, COMPUTE_BF16);
            }
}

// Root mean squares over the outputs of a row: how far [y] is from the exact product, how far the exact product of rounded
// weights is, and the sum of magnitudes.
static void errors_of(const struct layer *layer, const float *x, const float *y, double errors[3]) {
    const int64_t out = layer->linear.out;
    double squares[3] = {0};
    for (int64_t n = 0; n < out; n++) {
        double size, exact = expected(layer, x, n, false, &size);
        const double rounded = expected(layer, x, n, true, &size);
        const double terms[3] = {y[n] - exact, rounded - exact, size};
        for (int i = 0; i < 3; i++) squares[i] += terms[i] * terms[i];
    }
    for (int i = 0; i < 3; i++) errors[i] = sqrt(squares[i] / (double)out);
}

// One row in bf16 is as near to the exact product of the stored weights as rounding each of them once allows, and where codes
// are multiplied and nothing is rounded, much nearer: there f32 sums are all that is left. x with a mean that is not 0, so that
// what is added for all codes of a group does not vanish.
static void one_row_is_near(void **state) {
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    for (int isa = 0; isa < count; isa++)
        for (int kind = 0; kind < STORED_TYPES; kind++) {
            struct layer layer;
            struct random random = {29};
            float x[2816];
            double errors[3];
            make_layer(&layer, kind, 2816, 48, false, COMPUTE_BF16);
            for (int i = 0; i < 2816; i++) x[i] = bf16_to_f32(f32_to_bf16(0.5f + random_uniform(&random)));
            float *y = product(isas[isa], 1, &layer.linear, x, 1);
            errors_of(&layer, x, y, errors);
            const bool codes = multiplies_codes(isas[isa], &layer.stored);
            if (!(errors[0] <= errors[1] * (codes ? 0.05 : 1.02) + 1e-7 * errors[2]))
                fail_msg("%s on %s: error %.3g, of rounded weights %.3g, of magnitudes %.3g",
                         dtype_info(layer.stored.type)->name, isas[isa], errors[0], errors[1], errors[2]);
            free(y);
            drop_layer(&layer);
        }
}

static void embeds(void **state) {
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    const int32_t tokens[] = {3, 0, 6, 3};
    for (int isa = 0; isa < count; isa++)
        for (int kind = 0; kind < STORED_TYPES; kind++) {
            struct random random = {(uint64_t)kind};
            struct stored_weights stored = stored_make(&random, kind, 9, 256, 60, 1, false);
            const float scales[] = {2, 0.5f, -1, 4, 1, 1, 0.25f}, *values = stored_values(&stored);
            struct error error = {0};
            struct pool *pool = pool_open(2, &error);
            const struct device_options options = {
                .pool = pool, .isa = isas[isa], .workspace_bytes = (size_t)256 << 20};
            struct device *device = device_open_cpu(&options, &error);
            assert_ok(device, error);
            const struct weight_rows table = {.data = stored.data + 2 * stored.row_bytes,
                                              .type = stored.type,
                                              .rows = 7,
                                              .row_bytes = stored.row_bytes,
                                              .scales = scales,
                                              .scale_stride = 1,
                                              .blocks = stored.has_scales ? &stored.scales : NULL,
                                              .first_row = 2};
            float y[4 * 256];
            device->ops->embed(device, &table, tokens, 4, matrix_dense(y, DTYPE_F32, 4, 256));
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 256; j++)
                    assert_true(y[256 * i + j] == values[(2 + tokens[i]) * 256 + j] * scales[tokens[i]]);
            device_close(device);
            pool_close(pool);
            stored_drop(&stored);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_row),   cmocka_unit_test(few_tokens), cmocka_unit_test(many_tokens),
        cmocka_unit_test(deep_rows), cmocka_unit_test(odd_rows),   cmocka_unit_test(one_row_is_near),
        cmocka_unit_test(embeds),
    };
    return cmocka_run_group_tests_name("linear_stored", tests, NULL, NULL);
}
