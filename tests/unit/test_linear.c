// Linear layers on every instruction set that this processor has, against sums in double precision: odd sizes, strides,
// batches, parts, scales, side branches, epilogues, one row, and the same bytes for any number of threads.
#include "tensor/device.h"
#include "tensor/ops.h"

#include "unit.h"

#include <math.h>

// A small generator of its own: the same numbers everywhere.
static uint64_t random_state;

static float uniform(void) { // [-1, 1)
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(random_state >> 40) / (1 << 23) - 1);
}

static void *store(enum dtype type, int64_t count, float **values) {
    char *stored = malloc(dtype_bytes(type, count) + 1);
    *values = malloc((size_t)count * sizeof **values);
    for (int64_t i = 0; i < count; i++) {
        const float value = uniform();
        const uint16_t bits = type == DTYPE_F16 ? f32_to_f16(value) : f32_to_bf16(value);
        if (type == DTYPE_F32)
            memcpy(stored + 4 * i, &value, 4);
        else
            memcpy(stored + 2 * i, &bits, 2);
        (*values)[i] = type == DTYPE_F32 ? value : type == DTYPE_F16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
    return stored;
}

struct shape {
    int64_t batch, rows, in, out[3]; // out: of up to three parts, 0 behind the last
    enum dtype weights, x, y;
    enum epilogue_kind epilogue;
    bool bias, scales, branches, padded_strides;
};

struct setup {
    struct linear linear;
    struct matrix x, y;
    struct epilogue epilogue;
    struct modulation modulations[2];
    float *weights, *x_values, *y_before, *bias, *scales, *gates, *down[3], *up[3];
    void *stored, *stored_down[2], *stored_up[2];
    int64_t y_count;
};

static int64_t columns_of(const struct setup *s) {
    return s->epilogue.kind == EPILOGUE_GATED_SILU ? s->linear.out / 2 : s->linear.out;
}

static void make_branch(struct setup *s, const struct shape *shape, int index) {
    struct low_rank *branch = &s->linear.branches[index];
    const int64_t rank = index ? 16 : 5, first = index ? 3 : 0, rows = s->linear.out - 2 * first;
    s->stored_down[index] = store(shape->weights, rank * shape->in, &s->down[index]);
    s->stored_up[index] = store(shape->weights, rows * rank, &s->up[index]);
    *branch = (struct low_rank){.down = {.data = s->stored_down[index],
                                         .type = shape->weights,
                                         .rows = rank,
                                         .row_bytes = dtype_bytes(shape->weights, shape->in)},
                                .up = {.data = s->stored_up[index],
                                       .type = shape->weights,
                                       .rows = rows,
                                       .row_bytes = dtype_bytes(shape->weights, rank)},
                                .first_output = first,
                                .scale = 0.5f + (float)index};
    s->linear.branch_count = index + 1;
}

// A third one over the first one's intermediate, on other rows: what is computed once is used twice.
static void share_branch(struct setup *s) {
    struct low_rank *branch = &s->linear.branches[s->linear.branch_count++];
    *branch = s->linear.branches[0];
    const int64_t skip = branch->up.rows / 3;
    branch->up.data = (const char *)branch->up.data + (size_t)skip * branch->up.row_bytes;
    branch->up.rows -= skip;
    branch->first_output = skip / 2;
    s->down[2] = s->down[0];
    s->up[2] = s->up[0] + skip * branch->down.rows;
}

static struct setup make(const struct shape *shape, enum compute compute) {
    struct setup s = {.linear = {.in = shape->in, .compute = compute}, .epilogue = {.kind = shape->epilogue}};
    for (int i = 0; i < 3 && shape->out[i]; i++) s.linear.out += shape->out[i];
    s.stored = store(shape->weights, s.linear.out * shape->in, &s.weights);
    s.bias = malloc((size_t)s.linear.out * sizeof *s.bias);
    s.scales = malloc((size_t)s.linear.out * sizeof *s.scales);
    s.gates = malloc(2 * (size_t)s.linear.out * sizeof *s.gates);
    for (int64_t i = 0; i < s.linear.out; i++) s.bias[i] = uniform(), s.scales[i] = 0.5f + 0.25f * uniform();
    for (int64_t i = 0; i < 2 * s.linear.out; i++) s.gates[i] = uniform();
    int64_t first = 0;
    for (int i = 0; i < 3 && shape->out[i]; first += shape->out[i++])
        s.linear.parts[s.linear.part_count++] =
            (struct weight_rows){.data = (char *)s.stored + dtype_bytes(shape->weights, first * shape->in),
                                 .type = shape->weights,
                                 .rows = shape->out[i],
                                 .row_bytes = dtype_bytes(shape->weights, shape->in),
                                 .scales = shape->scales && i != 1 ? s.scales + first : NULL,
                                 .scale_stride = i == 0};
    if (shape->bias) s.linear.bias = s.bias;
    for (int i = 0; i < 2 && shape->branches; i++) make_branch(&s, shape, i);
    if (shape->branches) share_branch(&s);

    const int64_t pad = shape->padded_strides ? 3 : 0, cols = columns_of(&s);
    s.x = matrix_dense(NULL, shape->x, shape->rows, shape->in);
    s.x.batch = shape->batch;
    s.x.row_stride = shape->in + pad;
    s.x.batch_stride = shape->rows * s.x.row_stride + 2 * pad;
    s.x.data = store(shape->x, shape->batch * s.x.batch_stride, &s.x_values);
    s.y = matrix_dense(NULL, shape->y, shape->rows, cols);
    s.y.batch = shape->batch;
    s.y.row_stride = cols + pad;
    s.y.batch_stride = shape->rows * s.y.row_stride + pad;
    s.y_count = shape->batch * s.y.batch_stride;
    s.y.data = store(shape->y, s.y_count, &s.y_before);
    const int64_t middle = shape->rows / 3;
    s.modulations[0] = (struct modulation){.end = middle, .gate = s.gates};
    s.modulations[1] = (struct modulation){.end = shape->rows, .gate = s.gates + s.linear.out};
    return s;
}

static void drop(struct setup *s) {
    void *all[] = {s->weights,      s->x_values,    s->y_before, s->bias,           s->scales,
                   s->gates,        s->stored,      s->x.data,   s->y.data,         s->down[0],
                   s->down[1],      s->up[0],       s->up[1],    s->stored_down[0], s->stored_down[1],
                   s->stored_up[0], s->stored_up[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

// The product before the epilogue, in double precision; *size gets the sum of the magnitudes.
static double product(const struct setup *s, int64_t row_at, int64_t n, bool round, double *size) {
    const struct linear *linear = &s->linear;
    double sum = 0, scale = 1;
    *size = 0;
    for (int64_t k = 0; k < linear->in; k++) {
        double w = s->weights[n * linear->in + k], x = s->x_values[row_at + k];
        if (round) x = bf16_to_f32(f32_to_bf16((float)x)), w = bf16_to_f32(f32_to_bf16((float)w));
        sum += w * x;
        *size += fabs(w * x);
    }
    int64_t first = 0;
    for (int i = 0; i < linear->part_count; first += linear->parts[i++].rows)
        if (n >= first && n < first + linear->parts[i].rows && linear->parts[i].scales)
            scale = linear->parts[i].scales[(n - first) * linear->parts[i].scale_stride];
    sum *= scale;
    for (int b = 0; b < linear->branch_count; b++) {
        const struct low_rank *branch = &linear->branches[b];
        const int64_t rank = branch->down.rows, row = n - branch->first_output;
        for (int64_t r = 0; r < rank && row >= 0 && row < branch->up.rows; r++) {
            double inner = 0, inner_size = 0;
            for (int64_t k = 0; k < linear->in; k++) {
                const double term = (double)s->down[b][r * linear->in + k] * s->x_values[row_at + k];
                inner += term;
                inner_size += fabs(term);
            }
            sum += branch->scale * inner * s->up[b][row * rank + r];
            *size += fabs(branch->scale * inner_size * s->up[b][row * rank + r]);
        }
    }
    if (linear->bias) sum += linear->bias[n], *size += fabs(linear->bias[n]);
    return sum;
}

static double value_of(const struct setup *s, int64_t at) {
    return s->y.type == DTYPE_F32 ? ((const float *)s->y.data)[at]
                                  : bf16_to_f32(((const uint16_t *)s->y.data)[at]);
}

// Rounding of the operands is part of the expectation (unless branches round in between): what is left is the order of
// the sums, 2^-24 a step, and the rounding of the result.
static void check_row(const struct setup *s, int64_t batch, int64_t row, double tolerance) {
    const int64_t x_at = batch * s->x.batch_stride + row * s->x.row_stride;
    const bool round = s->linear.compute == COMPUTE_BF16;
    const int64_t cols = columns_of(s);
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
        const double error = fabs(value_of(s, at) - want);
        if (!(error <= tolerance * size + rounding + 1e-6))
            fail_msg("batch %d row %d column %d: got %.9g, expected %.9g", (int)batch, (int)row, (int)n,
                     value_of(s, at), want);
    }
}

// What lies between the rows of y must stay as it was.
static void check_gaps(const struct setup *s) {
    for (int64_t at = 0; at < s->y_count; at++) {
        const int64_t inside = at % s->y.batch_stride, row = inside / s->y.row_stride;
        if (row < s->y.rows && inside % s->y.row_stride < columns_of(s)) continue;
        assert_true(value_of(s, at) == (double)s->y_before[at]);
    }
}

static void run_shape(const char *isa, const struct shape *shape, enum compute compute, int row_step) {
    void *first = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        struct error error = {0};
        struct pool *pool = pool_open(threads, &error);
        assert_non_null(pool);
        const struct device_options options = {.pool = pool, .isa = isa, .workspace_bytes = 256 << 20};
        struct device *device = device_open_cpu(&options, &error);
        if (!device) fail_msg("%s", error.message);
        random_state = 7;
        struct setup s = make(shape, compute);
        s.epilogue.modulations = s.modulations;
        s.epilogue.modulation_count = 2;
        device->ops->linear(device, &s.linear, s.x, &s.epilogue, s.y);
        assert_true(device_status(device, &error));
        assert_int_equal(workspace_mark(device), 0);
        const size_t bytes = dtype_bytes(shape->y, s.y_count);
        if (threads == 1) {
            const double tolerance = shape->branches && compute == COMPUTE_BF16 ? 1e-2 : 3e-7;
            for (int64_t b = 0; b < shape->batch; b++)
                for (int64_t r = 0; r < shape->rows; r += row_step) check_row(&s, b, r, tolerance);
            check_gaps(&s);
            first = malloc(bytes);
            memcpy(first, s.y.data, bytes);
        } else {
            assert_memory_equal(first, s.y.data, bytes);
        }
        drop(&s);
        device_close(device);
        pool_close(pool);
    }
    free(first);
}

static void run_everywhere(const struct shape *shape, int row_step) {
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    for (int i = 0; i < count; i++) {
        run_shape(isas[i], shape, COMPUTE_F32, row_step);
        run_shape(isas[i], shape, COMPUTE_BF16, row_step);
    }
}

static void stores_odd_sizes(void **state) {
    const struct shape shapes[] = {
        {1, 2, 1, {1}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, false, false, false, false},
        {1, 37, 45, {19}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, true, false, false, true},
        {1, 33, 64, {48}, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, EPILOGUE_STORE, false, false, false, true},
        {2, 17, 96, {33, 1, 15}, DTYPE_BF16, DTYPE_F32, DTYPE_BF16, EPILOGUE_STORE, true, true, false, true},
        {3, 5, 70, {7, 90}, DTYPE_F16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, true, true, false, false},
        {1, 16, 32, {32}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, false, false, false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i], 1);
}

static void crosses_blocks(void **state) {
    const struct shape shapes[] = {
        {1, 290, 64, {300}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, true, false, false, false},
        {1, 20, 2200, {70}, DTYPE_BF16, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, false, false, false, false},
        {1, 19, 1050, {20, 260}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, false, true, false, true},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i], 13);
}

// More than 64 tokens: some instruction sets multiply tokens in another way then.
static void multiplies_many_tokens(void **state) {
    const struct shape shapes[] = {
        {2, 50, 70, {33, 200}, DTYPE_F16, DTYPE_F32, DTYPE_BF16, EPILOGUE_STORE, true, true, false, true},
        {1, 97, 64, {30, 3, 46}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_ADD, false, false, false, true},
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
         true},
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
         true},
        {5, 430, 32, {20}, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, EPILOGUE_STORE, true, false, false, false},
        {1, 66, 3100, {272}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, false, false, false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i], 11);
}

static void applies_epilogues(void **state) {
    const struct shape shapes[] = {
        {1, 21, 40, {50}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_ADD, true, false, false, true},
        {2, 21, 64, {50}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_GATED_ADD, true, false, false, true},
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
         false,
         true},
        {1, 40, 33, {46}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_GATED_SILU, false, false, false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i], 1);
}

static void adds_side_branches(void **state) {
    const struct shape shapes[] = {
        {2, 19, 64, {40, 25}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_STORE, true, true, true, true},
        {1, 19, 50, {40}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_GATED_SILU, false, false, true, false},
        {1, 1, 50, {40, 30}, DTYPE_F16, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, true, true, true, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i], 1);
}

static void multiplies_single_rows(void **state) {
    const struct shape shapes[] = {
        {1, 1, 77, {150}, DTYPE_BF16, DTYPE_F32, DTYPE_F32, EPILOGUE_STORE, true, false, false, false},
        {1, 1, 512, {30, 9}, DTYPE_F32, DTYPE_F32, DTYPE_F32, EPILOGUE_ADD, false, true, false, false},
        {1, 1, 300, {64}, DTYPE_F16, DTYPE_BF16, DTYPE_BF16, EPILOGUE_GATED_SILU, false, false, false, false},
        {1, 1, 65, {70}, DTYPE_BF16, DTYPE_BF16, DTYPE_F32, EPILOGUE_GATED_ADD, true, false, false, false},
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
