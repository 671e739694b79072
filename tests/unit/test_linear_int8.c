// Linear layers in 8 bits: every filling against the plain one and against codes and sums made here, bit for bit; epilogues and
// side branches against double precision; zeros, huge values, NaN; the same bytes for any number of threads.
#include "tensor/cpu/gemm_int8.h"
#include "tensor/cpu/linear_int8.h"

#include "linear_helper.h"

// ------------------------------------------------------------------------------------------------------- the expectation

// Codes and scale of a group, as gemm_int8.h describes them.
static float make_codes(const float *values, int64_t count, int *codes) {
    float most = 0;
    memset(codes, 0, (size_t)count * sizeof *codes);
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(values[i])) return NAN;
        if (fabsf(values[i]) > most) most = fabsf(values[i]);
    }
    if (most < INT8_LEAST) return 0;
    const float inverse = 127 / most;
    for (int64_t i = 0; i < count; i++) {
        codes[i] = (int)nearbyintf(values[i] * inverse);
        assert_in_range(codes[i] + 127, 0, 254);
    }
    return most / 127;
}

// The product of two rows of [in] values.
static float expect(const float *x, const float *w, float weight_scale, int64_t in) {
    static int x_codes[INT8_GROUP], w_codes[INT8_GROUP];
    float result = 0;
    for (int64_t at = 0; at < in; at += INT8_GROUP) {
        const int64_t depth = in - at < INT8_GROUP ? in - at : INT8_GROUP;
        const float x_scale = make_codes(x + at, depth, x_codes),
                    w_scale = make_codes(w + at, depth, w_codes);
        int64_t sum = 0;
        for (int64_t d = 0; d < depth; d++) sum += x_codes[d] * w_codes[d];
        const float value = (float)sum * x_scale * (w_scale * weight_scale);
        result = at == 0 ? value : result + value;
    }
    return result;
}

// --------------------------------------------------------------------------------------------------------------- kernels

static void fillings_give_the_same_bytes(void **state) {
    const struct int8_kernels *plain = int8_kernels_for(CPU_PLAIN);
    static const int64_t depths[] = {1, 3, 4, 15, 16, 31, 33, 63, 64, 65, 200, 511, 512};
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    enum { ROWS = 29 };
    static uint8_t codes[2][ROWS][INT8_ROW_BYTES], weights[2][ROWS][INT8_ROW_BYTES];
    static struct int8_panel panels[2][2];
    static float c[2][ROWS][32], row_scales[ROWS];
    linear_random = 3;
    for (int isa = CPU_AVX2; isa <= (int)cpu_isa_best(); isa++) {
        const struct int8_kernels *sets[2] = {plain, int8_kernels_for((enum cpu_isa)isa)};
        for (size_t i = 0; i < sizeof depths / sizeof *depths * 3; i++) {
            const enum dtype type = types[i % 3];
            const int64_t depth = depths[i / 3];
            char *values = malloc(dtype_bytes(type, depth)); // exactly as long: nothing behind it is read
            for (int row = 0; row < ROWS; row++) {
                const float size = row == 5 ? 0 : row == 6 ? 1e-40f : row == 7 ? 3e4f : ldexpf(1, row - 14);
                for (int64_t d = 0; d < depth; d++) linear_put(type, values, d, size * linear_uniform());
                if (row == 8) linear_put(type, values, depth / 2, NAN);
                if (row == 9) linear_put(type, values, depth - 1, -INFINITY);
                float scales[2];
                for (int set = 0; set < 2; set++) {
                    scales[set] = sets[set]->quantise(type, values, depth, 0, codes[set][row]);
                    assert_memory_equal(&scales[set], &scales[0], isnan(scales[0]) ? 0 : sizeof *scales);
                    assert_int_equal(isnan(scales[set]), row == 8 || row == 9);
                    const float again = sets[set]->quantise(type, values, depth, 0x80, weights[set][row]);
                    assert_true(isnan(again) || again == scales[0]);
                }
                row_scales[row] = isnan(scales[0]) ? 1 : scales[0];
                const size_t padded = (size_t)(depth + INT8_STEP - 1) / INT8_STEP * INT8_STEP;
                assert_memory_equal(codes[0][row], codes[1][row], padded);
                assert_memory_equal(weights[0][row], weights[1][row], padded);
                for (size_t d = 0; d < padded; d++)
                    assert_int_equal(codes[0][row][d] ^ 0x80, weights[0][row][d]);
            }
            free(values);
            for (int set = 0; set < 2; set++) {
                memset(panels[set], 0x55, sizeof panels[set]);
                for (int panel = 0; panel < 2; panel++) {
                    sets[set]->pack(codes[set][16 * panel], panel ? ROWS - 16 : 16, depth,
                                    &panels[set][panel]);
                    for (int lane = 0; lane < 16; lane++)
                        panels[set][panel].scales[lane] = row_scales[(16 * panel + lane) % ROWS];
                }
            }
            assert_memory_equal(panels[0], panels[1], sizeof panels[0]);
            for (int rows = 1; rows <= ROWS; rows++)
                for (int count = 1; count <= 2; count++) {
                    for (int set = 0; set < 2; set++) {
                        for (int at = 0; at < ROWS * 32; at++) (&c[set][0][0])[at] = (float)at;
                        sets[set]->product(&(struct int8_product){.rows = weights[set][0],
                                                                  .row_scales = row_scales,
                                                                  .row_count = rows,
                                                                  .panels = panels[set],
                                                                  .panel_stride = 1,
                                                                  .panel_count = count,
                                                                  .depth = depth,
                                                                  .c = &c[set][0][0],
                                                                  .c_stride = 32,
                                                                  .accumulate = rows % 2});
                    }
                    assert_memory_equal(c[0], c[1], sizeof c[0]);
                    assert_true(rows == ROWS ||
                                c[1][rows][0] == (float)(32 * rows)); // nothing behind is written
                }
        }
    }
}

// The largest sum that a group can have must not overflow, and must be exact as a float.
static void holds_the_largest_sums(void **state) {
    static uint8_t weights[INT8_ROW_BYTES], codes[INT8_ROW_BYTES];
    static struct int8_panel panel;
    float values[INT8_GROUP], c[16], one = 1;
    assert_true((int64_t)INT8_GROUP * 127 * 127 < 1 << 24);
    for (int isa = CPU_PLAIN; isa <= (int)cpu_isa_best(); isa++)
        for (int sign = -1; sign <= 1; sign += 2) {
            const struct int8_kernels *kernels = int8_kernels_for((enum cpu_isa)isa);
            for (int d = 0; d < INT8_GROUP; d++) values[d] = 127;
            assert_true(kernels->quantise(DTYPE_F32, values, INT8_GROUP, 0x80, weights) == 1);
            for (int d = 0; d < INT8_GROUP; d++) values[d] = (float)sign * 127;
            assert_true(kernels->quantise(DTYPE_F32, values, INT8_GROUP, 0, codes) == 1);
            kernels->pack(codes, 1, INT8_GROUP, &panel);
            panel.scales[0] = 1;
            kernels->product(&(struct int8_product){.rows = weights,
                                                    .row_scales = &one,
                                                    .row_count = 1,
                                                    .panels = &panel,
                                                    .panel_count = 1,
                                                    .depth = INT8_GROUP,
                                                    .c = c,
                                                    .c_stride = 16});
            assert_true(c[0] == (float)(sign * INT8_GROUP * 127 * 127));
        }
}

// ---------------------------------------------------------------------------------------------------------------- layers

// What stands before the epilogue: the product in 8 bits, branches in double precision, the bias.
static double result_of(const struct linear_setup *s, int64_t x_at, int64_t n) {
    const struct linear *linear = &s->linear;
    const float scale = linear_scale(linear, n), bias = linear->bias ? linear->bias[n] : 0;
    const float product = expect(s->x_values + x_at, s->w_values + n * linear->in, scale, linear->in);
    double size = 0;
    if (linear->branch_count == 0) return linear->bias ? product + bias : product;
    return product + linear_branches(s, x_at, n, &size) + bias;
}

static void check_value(const struct linear_setup *s, int64_t batch, int64_t row, int64_t n) {
    const int64_t x_at = batch * s->x.batch_stride + row * s->x.row_stride;
    const int64_t at = batch * s->y.batch_stride + row * s->y.row_stride + n;
    const bool exact = s->linear.branch_count == 0 &&
                       (s->epilogue.kind == EPILOGUE_STORE || s->epilogue.kind == EPILOGUE_ADD);
    double want = result_of(s, x_at, n);
    if (s->epilogue.kind == EPILOGUE_ADD) want = (float)want + s->y_before[at];
    if (s->epilogue.kind == EPILOGUE_GATED_ADD)
        want = s->y_before[at] + s->modulations[row >= s->modulations[0].end].gate[n] * want;
    if (s->epilogue.kind == EPILOGUE_GATED_SILU)
        want = want / (1 + exp(-want)) * result_of(s, x_at, n + linear_columns(s));
    const float rounded = s->y.type == DTYPE_BF16 ? bf16_to_f32(f32_to_bf16((float)want)) : (float)want;
    const double tolerance = (s->y.type == DTYPE_BF16 ? fabs(want) / 128 : 3e-6 * (1 + fabs(want))) +
                             (s->linear.branch_count ? 2e-2 : 0); // branches round to bf16 in between
    const double error = fabs((double)linear_value(s, at) - (exact ? rounded : want));
    if (!(exact ? linear_value(s, at) == rounded : error <= tolerance))
        fail_msg("batch %d row %d column %d: got %.9g, expected %.9g", (int)batch, (int)row, (int)n,
                 (double)linear_value(s, at), exact ? rounded : want);
}

static void check_rows(const struct linear_setup *s, int step) {
    assert_true(linear_int8_takes(&s->linear, s->x.batch * s->x.rows));
    for (int64_t b = 0; b < s->x.batch; b++)
        for (int64_t r = b % step; r < s->x.rows; r += step)
            for (int64_t n = 0; n < linear_columns(s); n++) check_value(s, b, r, n);
}

// Checks every [step]th row on every instruction set, and that threads make no difference; results that are exact are the same
// bytes on every set.
static void check(const struct linear_shape *shape, int step) {
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    for (int i = 0; i < count; i++) linear_run_threads(isas[i], shape, COMPUTE_I8, true, check_rows, step);
}

static void multiplies_exactly(void **state) {
    static const struct linear_shape shapes[] = {
        {1, 64, 1, {1}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, false, false, false, 0, 0},
        {1, 65, 45, {19}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, true, false, true, 0, 0},
        {1, 97, 512, {13, 30}, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, EPILOGUE_STORE, false, true, true, 0, 0},
        {3, 37, 515, {7, 1, 33}, DTYPE_F16, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, true, true, true, 0, 0},
        {1, 80, 64, {300}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_ADD, true, true, true, 0, 0},
        {1,
         70,
         3100,
         {250},
         DTYPE_BF16,
         DTYPE_BF16,
         DTYPE_F32,
         EPILOGUE_ADD,
         false,
         true,
         false,
         0,
         0}, // two depths
        {1, 70, 600, {20, 8}, DTYPE_F8_E4M3, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, true, true, false, 0, 0},
        {2, 1100, 40, {5}, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, EPILOGUE_STORE, true, false, false, 0, 0},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check(&shapes[i], i < 4 ? 3 : 19);
}

static void applies_epilogues(void **state) {
    static const struct linear_shape shapes[] = {
        {2, 41, 600, {50}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_GATED_ADD, true, true, true, 0, 0},
        {1,
         70,
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
        {1, 66, 33, {46}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_GATED_SILU, false, false, false, 0, 0},
        {1, 64, 3600, {260}, DTYPE_BF16, DTYPE_F32, DTYPE_F32, EPILOGUE_GATED_SILU, true, false, false, 0, 0},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check(&shapes[i], 7);
}

static void adds_side_branches(void **state) {
    static const struct linear_shape shapes[] = {
        {2, 35, 64, {40, 25}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, true, true, true, 2, 16},
        {1, 70, 50, {300}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_GATED_SILU, false, false, false, 1, 40},
        {1,
         65,
         3100,
         {31, 240},
         DTYPE_BF16,
         DTYPE_BF16,
         DTYPE_F32,
         EPILOGUE_GATED_ADD,
         true,
         true,
         false,
         2,
         7},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check(&shapes[i], 7);
}

// What is too small, or has too much beside it, is computed in bf16.
static void leaves_the_rest_to_bf16(void **state) {
    static const struct linear_shape shapes[] = {
        {1, 1, 100, {50}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, true, false, false, 0, 0},
        {1, 1, 77, {40}, DTYPE_BF16, DTYPE_F32, DTYPE_F32, EPILOGUE_GATED_SILU, true, false, false, 1, 3},
        {1,
         LINEAR_INT8_TOKENS - 1,
         100,
         {50},
         DTYPE_BF16,
         DTYPE_BF16,
         DTYPE_F32,
         EPILOGUE_ADD,
         true,
         false,
         false,
         0,
         0},
        {1,
         70,
         20,
         {30},
         DTYPE_BF16,
         DTYPE_BF16,
         DTYPE_F32,
         EPILOGUE_STORE,
         true,
         false,
         false,
         2,
         3000}, // ranks
    };
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    for (size_t i = 0; i < (size_t)count * (sizeof shapes / sizeof *shapes); i++) {
        const struct linear_shape *shape = &shapes[i / (size_t)count];
        struct linear_setup ways[2];
        for (int way = 0; way < 2; way++) {
            linear_make(shape, COMPUTE_I8, true, &ways[way]);
            assert_false(linear_int8_takes(&ways[way].linear, shape->rows));
            if (way) ways[way].linear.compute = COMPUTE_BF16;
            linear_run(&ways[way], isas[i % (size_t)count], 2);
        }
        assert_memory_equal(ways[0].y.data, ways[1].y.data, dtype_bytes(shape->y, ways[0].y_count));
        for (int way = 0; way < 2; way++) linear_drop(&ways[way]);
    }
}

// ---------------------------------------------------------------------------------------------------- values out of line

// Rows of x: zeros; one huge value among ones; tiny ones; NaN; an infinity in the second group; and one row of weights each.
static void takes_strange_values(void **state) {
    static const struct linear_shape shape = {1,         64,        1200,      {40},
                                              DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE};
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    for (int i = 0; i < count; i++) {
        struct linear_setup s;
        linear_make(&shape, COMPUTE_I8, true, &s);
        float *x = s.x.data, *w = s.stored;
        for (int k = 0; k < 1200; k++) {
            x[k] = w[k] = 0;
            x[1200 + k] = k == 700 ? 1e30f : 1;
            x[2 * 1200 + k] = k % 2 ? 1e-39f : -1e-39f;
        }
        x[3 * 1200 + 5] = NAN;
        x[4 * 1200 + 1000] = -INFINITY;
        w[2 * 1200 + 1199] = NAN;
        w[3 * 1200] = INFINITY;
        memcpy(s.x_values, x, 64 * 1200 * sizeof *x);
        memcpy(s.w_values, w, 40 * 1200 * sizeof *w);
        linear_run(&s, isas[i], 2);
        const float *y = s.y.data;
        for (int row = 0; row < 64; row++)
            for (int n = 0; n < 40; n++) {
                const float got = y[row * 40 + n];
                if (row == 3 || row == 4 || n == 2 || n == 3)
                    assert_true(isnan(got));
                else
                    check_value(&s, 0, row, n);
                if ((row == 0 || row == 2 || n == 0) && !isnan(got)) assert_true(got == 0);
            }
        assert_true(y[40 + 5] != 0 &&
                    isfinite(y[40 + 5])); // the huge one's group; the others keep their own scales
        linear_drop(&s);
    }
}

// How far 8 bits are from f32, relative, with normal numbers: a code is off by at most half a scale and that is the largest of
// 512 magnitudes (about 3.2 deviations) over 127, so by 3.2 / 127 / sqrt(12) = 0.0073 in the mean of squares; two operands: 0.0103.
static void errs_as_its_step_says(void **state) {
    static const struct linear_shape shape = {1,         128,       1536,      {96},
                                              DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE};
    struct linear_setup s;
    linear_make(&shape, COMPUTE_I8, true, &s);
    linear_run(&s, NULL, 2);
    double error = 0, size = 0;
    for (int row = 0; row < 128; row++)
        for (int n = 0; n < 96; n++) {
            double sum = 0;
            for (int k = 0; k < 1536; k++)
                sum += (double)s.x_values[row * 1536 + k] * s.w_values[n * 1536 + k];
            const double off = ((const float *)s.y.data)[row * 96 + n] - sum;
            error += off * off;
            size += sum * sum;
        }
    print_message("relative error of a product in 8 bits, normal numbers: %.4f\n", sqrt(error / size));
    assert_true(sqrt(error / size) < 0.012);
    assert_true(sqrt(error / size) > 0.004);
    linear_drop(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fillings_give_the_same_bytes), cmocka_unit_test(holds_the_largest_sums),
        cmocka_unit_test(multiplies_exactly),           cmocka_unit_test(applies_epilogues),
        cmocka_unit_test(adds_side_branches),           cmocka_unit_test(leaves_the_rest_to_bf16),
        cmocka_unit_test(takes_strange_values),         cmocka_unit_test(errs_as_its_step_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
