// Linear layers on every instruction set that this processor has, against sums in double precision: odd sizes, strides,
// batches, parts, scales, side branches, epilogues, one row, and the same bytes for any number of threads.
#include "linear_helper.h"

// The product before the epilogue, in double precision; *size gets the sum of the magnitudes.
static double product(const struct linear_setup *s, int64_t row_at, int64_t n, bool round, double *size) {
    const struct linear *linear = &s->linear;
    double sum = 0;
    *size = 0;
    for (int64_t k = 0; k < linear->in; k++) {
        double w = s->w_values[n * linear->in + k], x = s->x_values[row_at + k];
        if (round) x = bf16_to_f32(f32_to_bf16((float)x)), w = bf16_to_f32(f32_to_bf16((float)w));
        sum += w * x;
        *size += fabs(w * x);
    }
    sum *= linear_scale(linear, n);
    sum += linear_branches(s, row_at, n, size);
    if (linear->bias) sum += linear->bias[n], *size += fabs(linear->bias[n]);
    return sum;
}

// Rounding of the operands is part of the expectation (unless branches round in between): what is left is the order of
// the sums, 2^-24 a step, and the rounding of the result.
static void check_row(const struct linear_setup *s, int64_t batch, int64_t row, double tolerance) {
    const int64_t x_at = batch * s->x.batch_stride + row * s->x.row_stride;
    const bool round = s->linear.compute == COMPUTE_BF16;
    const int64_t cols = linear_columns(s);
    for (int64_t n = 0; n < cols; n++) {
        const int64_t at = batch * s->y.batch_stride + row * s->y.row_stride + n;
        double size, half_size = 0, want = product(s, x_at, n, round, &size);
        if (s->epilogue.kind == EPILOGUE_GATED_SILU) {
            const double other = product(s, x_at, n + cols, round, &half_size);
            const double silu = want / (1 + exp(-want));
            size = 1.1 * size * fabs(other) + half_size * fabs(silu) + 1e-6;
            want = silu * other;
        } else if (s->epilogue.kind == EPILOGUE_GATED_ADD) {
            const float *gate = s->modulations[row >= s->modulations[0].end].gate;
            want = s->y_before[at] + gate[n] * want;
        } else if (s->epilogue.kind == EPILOGUE_ADD) {
            want += s->y_before[at];
        }
        const double rounding = s->y.type == DTYPE_BF16 ? fabs(want) / 256 : fabs(want) * 2e-7;
        const double error = fabs(linear_value(s, at) - want);
        if (!(error <= tolerance * size + rounding + 1e-6))
            fail_msg("batch %d row %d column %d: got %.9g, expected %.9g", (int)batch, (int)row, (int)n,
                     linear_value(s, at), want);
    }
}

static void check(const struct linear_setup *s, int step) {
    const bool rounds = s->linear.branch_count && s->linear.compute == COMPUTE_BF16;
    for (int64_t b = 0; b < s->x.batch; b++)
        for (int64_t r = 0; r < s->x.rows; r += step) check_row(s, b, r, rounds ? 1e-2 : 3e-7);
}

static void run_everywhere(const struct linear_shape *shape, int row_step) {
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    for (int i = 0; i < count; i++) {
        linear_run_threads(isas[i], shape, COMPUTE_F32, false, check, row_step);
        linear_run_threads(isas[i], shape, COMPUTE_BF16, false, check, row_step);
    }
}

static void stores_odd_sizes(void **state) {
    const struct linear_shape shapes[] = {
        {1, 2, 1, {1}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, false, false, false, 0, 0},
        {1, 37, 45, {19}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, true, false, true, 0, 0},
        {1, 33, 64, {48}, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, EPILOGUE_STORE, false, false, true, 0, 0},
        {2, 17, 96, {33, 1, 15}, DTYPE_BF16, DTYPE_F32, DTYPE_BF16, EPILOGUE_STORE, true, true, true, 0, 0},
        {3, 5, 70, {7, 90}, DTYPE_F16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, true, true, false, 0, 0},
        {1, 16, 32, {32}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, false, false, false, 0, 0},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i], 1);
}

static void crosses_blocks(void **state) {
    const struct linear_shape shapes[] = {
        {1, 290, 64, {300}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, true, false, false, 0, 0},
        {1, 20, 2200, {70}, DTYPE_BF16, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, false, false, false, 0, 0},
        {1, 19, 1050, {20, 260}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, false, true, true, 0, 0},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i], 13);
}

// More than 64 tokens: some instruction sets multiply tokens in another way then.
static void multiplies_many_tokens(void **state) {
    const struct linear_shape shapes[] = {
        {2, 50, 70, {33, 200}, DTYPE_F16, DTYPE_F32, DTYPE_BF16, EPILOGUE_STORE, true, true, true, 0, 0},
        {1, 97, 64, {30, 3, 46}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_ADD, false, false, true, 0, 0},
        {1,
         100,
         1600,
         {40, 25},
         DTYPE_BF16,
         DTYPE_BF16,
         DTYPE_F32,
         EPILOGUE_GATED_ADD,
         true,
         true,
         true,
         3,
         16},
        {1,
         80,
         64,
         {300, 20},
         DTYPE_BF16,
         DTYPE_BF16,
         DTYPE_BF16,
         EPILOGUE_GATED_SILU,
         true,
         true,
         true,
         3,
         16},
        {5, 430, 32, {20}, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, EPILOGUE_STORE, true, false, false, 0, 0},
        {1, 66, 3100, {272}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, false, false, false, 0, 0},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i], 11);
}

static void applies_epilogues(void **state) {
    const struct linear_shape shapes[] = {
        {1, 21, 40, {50}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_ADD, true, false, true, 0, 0},
        {2, 21, 64, {50}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_GATED_ADD, true, false, true, 0, 0},
        {1,
         18,
         64,
         {300, 20},
         DTYPE_BF16,
         DTYPE_BF16,
         DTYPE_BF16,
         EPILOGUE_GATED_SILU,
         true,
         true,
         true,
         0,
         0},
        {1, 40, 33, {46}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_GATED_SILU, false, false, false, 0, 0},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i], 1);
}

static void adds_side_branches(void **state) {
    const struct linear_shape shapes[] = {
        {2, 19, 64, {40, 25}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, true, true, true, 3, 16},
        {1, 19, 50, {40}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_GATED_SILU, false, false, false, 3, 16},
        {1, 1, 50, {40, 30}, DTYPE_F16, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, true, true, false, 3, 16},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i], 1);
}

static void multiplies_single_rows(void **state) {
    const struct linear_shape shapes[] = {
        {1, 1, 77, {150}, DTYPE_BF16, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, true, false, false, 0, 0},
        {1, 1, 512, {30, 9}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_ADD, false, true, false, 0, 0},
        {1, 1, 300, {64}, DTYPE_F16, DTYPE_BF16, DTYPE_BF16, EPILOGUE_GATED_SILU, false, false, false, 0, 0},
        {1, 1, 65, {70}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_GATED_ADD, true, false, false, 0, 0},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i], 1);
}

static void keeps_a_failure(void **state) {
    struct error error = {0};
    struct pool *pool = pool_open(1, &error);
    const struct device_options options = {.pool = pool, .workspace_bytes = 1 << 20};
    struct device *device = device_open_cpu(&options, &error);
    assert_non_null(device);
    assert_null(workspace_alloc(device, (size_t)1 << 40));
    assert_false(device_status(device, &error));
    assert_int_equal(error.kind, ERROR_MEMORY);
    float x[4] = {1, 1, 1, 1}, y = 5;
    const struct linear linear = {.in = 4,
                                  .out = 1,
                                  .part_count = 1,
                                  .parts = {{.data = x, .type = DTYPE_F32, .rows = 1, .row_bytes = 16}}};
    const struct epilogue epilogue = {.kind = EPILOGUE_STORE};
    device->ops->linear(device, &linear, matrix_dense(x, DTYPE_F32, 1, 4), &epilogue,
                        matrix_dense(&y, DTYPE_F32, 1, 1));
    assert_true(y == 5);
    device_close(device);

    struct error unknown = {0};
    const struct device_options wrong = {.pool = pool, .isa = "sse9"};
    assert_null(device_open_cpu(&wrong, &unknown));
    assert_int_equal(unknown.kind, ERROR_INPUT);
    assert_non_null(strstr(unknown.message, "avx512bf16"));
    pool_close(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stores_odd_sizes),       cmocka_unit_test(crosses_blocks),
        cmocka_unit_test(multiplies_many_tokens), cmocka_unit_test(applies_epilogues),
        cmocka_unit_test(adds_side_branches),     cmocka_unit_test(multiplies_single_rows),
        cmocka_unit_test(keeps_a_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
