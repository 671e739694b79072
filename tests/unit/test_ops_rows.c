// The operations on rows and maps on every instruction set that this processor has, against double precision: odd sizes,
// strides, batches, both types, and the same bytes for any number of threads.
#include "tensor/device.h"
#include "tensor/ops.h"
#include "weights/checkpoint.h"

#include "unit.h"

#include <math.h>

static uint64_t random_state;

static float uniform(void) { // [-1, 1)
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(random_state >> 40) / (1 << 23) - 1);
}

struct machine {
    const char *isa;
    struct pool *pool;
    struct device *device;
};

static struct machine start(const char *isa, int threads) {
    struct error error = {0};
    struct machine m = {isa, pool_open(threads, &error), NULL};
    assert_ok(m.pool, error);
    m.device = device_open_cpu(&(struct device_options){m.pool, isa, (size_t)1 << 30}, &error);
    assert_ok(m.device, error);
    return m;
}

static void stop(struct machine *m) {
    struct error error = {0};
    assert_ok(device_status(m->device, &error), error);
    assert_int_equal(workspace_mark(m->device), 0);
    device_close(m->device);
    pool_close(m->pool);
}

// Runs [test] on every instruction set.
static void on_each(void (*test)(struct machine *m)) {
    const char *names[8];
    const int count = device_isa_list(names, 8);
    for (int i = 0; i < count; i++) {
        struct machine m = start(names[i], 1 + i % 3);
        random_state = 1;
        test(&m);
        stop(&m);
    }
}

static float *floats(int64_t count) {
    float *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = uniform();
    return values;
}

static float value_at(const void *data, enum dtype type, int64_t i) {
    return type == DTYPE_BF16 ? bf16_to_f32(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}

// A matrix of random values with gaps between its rows and batches.
static struct matrix random_matrix(enum dtype type, int64_t batch, int64_t rows, int64_t cols, int gap) {
    struct matrix matrix = {NULL, type, batch, rows, cols, cols + gap, rows * (cols + gap) + gap};
    const int64_t count = batch * matrix.batch_stride;
    float *values = floats(count);
    matrix.data = malloc(dtype_bytes(type, count));
    for (int64_t i = 0; i < count; i++)
        if (type == DTYPE_BF16)
            ((uint16_t *)matrix.data)[i] = f32_to_bf16(values[i]);
        else
            ((float *)matrix.data)[i] = values[i];
    free(values);
    return matrix;
}

static double get(const struct matrix *matrix, int64_t batch, int64_t row, int64_t col) {
    return (double)value_at(matrix->data, matrix->type,
                            batch * matrix->batch_stride + row * matrix->row_stride + col);
}

// Within [bound] of the larger of 1 and the value, and half a unit of bf16 where the type is that.
static void check(const struct machine *m, const char *what, double got, double wanted, enum dtype type,
                  double bound) {
    const double size = fabs(wanted) > 1 ? fabs(wanted) : 1;
    const double allowed = bound * size + (type == DTYPE_BF16 ? fabs(wanted) * 0x1.02p-8 : 0);
    if (!(fabs(got - wanted) <= allowed)) fail_msg("%s, %s: %.9g, expected %.9g", m->isa, what, got, wanted);
}

struct norm_shape {
    int64_t batch, rows, cols;
    int gap;
    enum dtype y;
};

static const struct norm_shape norm_shapes[] = {
    {1, 5, 64, 0, DTYPE_F32},    {2, 7, 100, 3, DTYPE_BF16}, {1, 3, 3, 0, DTYPE_F32},
    {1, 2, 6144, 0, DTYPE_BF16}, {3, 1, 37, 5, DTYPE_F32},   {1, 200, 1000, 0, DTYPE_BF16},
};

enum { NORM_SHAPES = sizeof norm_shapes / sizeof *norm_shapes };

static void layer_norm_case(struct machine *m, const struct norm_shape *s, int ranges) {
    struct matrix x = random_matrix(DTYPE_F32, s->batch, s->rows, s->cols, s->gap);
    struct matrix y = random_matrix(s->y, s->batch, s->rows, s->cols, s->gap);
    float *scale = floats(s->cols), *shift = floats(s->cols);
    const struct modulation modulations[2] = {{s->rows / 2, NULL, scale, NULL}, {s->rows, shift, NULL, NULL}};
    m->device->ops->layer_norm_modulate(m->device, x, 1e-6f, ranges ? modulations : NULL, ranges, y);
    for (int64_t r = 0; r < s->batch * s->rows; r++) {
        const int64_t b = r / s->rows, row = r % s->rows;
        const struct modulation *range = &modulations[row < s->rows / 2 ? 0 : 1];
        double mean = 0, squares = 0;
        for (int64_t i = 0; i < s->cols; i++) mean += get(&x, b, row, i) / (double)s->cols;
        for (int64_t i = 0; i < s->cols; i++)
            squares += (get(&x, b, row, i) - mean) * (get(&x, b, row, i) - mean) / (double)s->cols;
        for (int64_t i = 0; i < s->cols; i++) {
            double wanted = (get(&x, b, row, i) - mean) / sqrt(squares + 1e-6);
            if (ranges && range->scale) wanted *= 1 + (double)range->scale[i];
            if (ranges && range->shift) wanted += (double)range->shift[i];
            check(m, "layer_norm_modulate", get(&y, b, row, i), wanted, s->y, 2e-6);
        }
    }
    free(x.data), free(y.data), free(scale), free(shift);
}

static void layer_norm(struct machine *m) {
    for (int i = 0; i < NORM_SHAPES; i++) {
        layer_norm_case(m, &norm_shapes[i], 0);
        layer_norm_case(m, &norm_shapes[i], 2);
    }
}

static void rms_norm(struct machine *m) {
    for (int i = 0; i < NORM_SHAPES; i++) {
        const struct norm_shape *s = &norm_shapes[i];
        struct matrix x = random_matrix(DTYPE_F32, s->batch, s->rows, s->cols, s->gap);
        struct matrix y = random_matrix(s->y, s->batch, s->rows, s->cols, 0);
        float *weight = floats(s->cols);
        m->device->ops->rms_norm(m->device, x, weight, 1e-5f, y);
        for (int64_t r = 0; r < s->batch * s->rows; r++) {
            const int64_t b = r / s->rows, row = r % s->rows;
            double squares = 0;
            for (int64_t c = 0; c < s->cols; c++) squares += get(&x, b, row, c) * get(&x, b, row, c);
            for (int64_t c = 0; c < s->cols; c++)
                check(m, "rms_norm", get(&y, b, row, c),
                      get(&x, b, row, c) / sqrt(squares / (double)s->cols + 1e-5) * (double)weight[c], s->y,
                      2e-6);
        }
        free(x.data), free(y.data), free(weight);
    }
}

static void norm_rope_case(struct machine *m, int heads, int64_t dim, int64_t rows, enum dtype type,
                           bool with_norm, bool with_rope, enum rope_pairing pairing) {
    struct matrix x = random_matrix(type, 2, rows, heads * dim, 8), before = x;
    const size_t bytes = dtype_bytes(type, 2 * x.batch_stride);
    before.data = malloc(bytes);
    memcpy(before.data, x.data, bytes);
    float *weight = floats(dim), *cosines = floats(rows * dim / 2), *sines = floats(rows * dim / 2);
    m->device->ops->norm_rope(m->device, x, heads, with_norm ? weight : NULL, 1e-5f,
                              with_rope ? cosines : NULL, with_rope ? sines : NULL, pairing);
    for (int64_t i = 0; i < 2 * rows * heads * (dim / 2); i++) {
        const int64_t pair = i % (dim / 2), head = i / (dim / 2) % heads, row = i / (dim / 2) / heads % rows;
        const int64_t b = i / (dim / 2) / heads / rows;
        const int64_t first = pairing == ROPE_INTERLEAVED ? 2 * pair : pair;
        const int64_t second = pairing == ROPE_INTERLEAVED ? 2 * pair + 1 : pair + dim / 2;
        double squares = 0, inverse = 1;
        for (int64_t c = 0; c < dim; c++) squares += pow(get(&before, b, row, head * dim + c), 2);
        if (with_norm) inverse = 1 / sqrt(squares / (double)dim + 1e-5);
        const double p =
            get(&before, b, row, head * dim + first) * inverse * (with_norm ? (double)weight[first] : 1);
        const double q =
            get(&before, b, row, head * dim + second) * inverse * (with_norm ? (double)weight[second] : 1);
        const double c = with_rope ? (double)cosines[row * dim / 2 + pair] : 1;
        const double s = with_rope ? (double)sines[row * dim / 2 + pair] : 0;
        check(m, "norm_rope", get(&x, b, row, head * dim + first), p * c - q * s, type, 2e-6);
        check(m, "norm_rope", get(&x, b, row, head * dim + second), q * c + p * s, type, 2e-6);
    }
    for (int64_t gap = 0; gap < 8; gap++) // what lies between rows stays
        assert_true(get(&x, 0, 0, heads * dim + gap) == get(&before, 0, 0, heads * dim + gap));
    free(x.data), free(before.data), free(weight), free(cosines), free(sines);
}

static void norm_rope(struct machine *m) {
    for (int i = 0; i < 16; i++) {
        const enum dtype type = i % 2 ? DTYPE_BF16 : DTYPE_F32;
        const enum rope_pairing pairing = i / 2 % 2 ? ROPE_HALVES : ROPE_INTERLEAVED;
        const int64_t dims[] = {128, 24, 8, 64, 16, 40, 12, 36};
        norm_rope_case(m, 1 + i % 3, dims[i % 8], 5, type, i != 3 && i != 8, i % 7 != 5, pairing);
    }
    norm_rope_case(m, 24, 128, 67, DTYPE_BF16, true, true, ROPE_INTERLEAVED);
}

static void elements(struct machine *m) {
    const struct norm_shape shapes[] = {{1, 3, 5, 0, DTYPE_F32},
                                        {2, 9, 33, 3, DTYPE_F32},
                                        {1, 1, 70001, 0, DTYPE_F32},
                                        {1, 2, 70001, 1, DTYPE_F32}};
    for (int i = 0; i < 16; i++) {
        const struct norm_shape *s = &shapes[i / 4];
        const enum dtype from = i % 2 ? DTYPE_BF16 : DTYPE_F32, to = i / 2 % 2 ? DTYPE_BF16 : DTYPE_F32;
        struct matrix x = random_matrix(from, s->batch, s->rows, s->cols, s->gap);
        struct matrix silu = random_matrix(to, s->batch, s->rows, s->cols, s->gap);
        struct matrix copy = random_matrix(to, s->batch, s->rows, s->cols, 0);
        struct matrix sum = random_matrix(DTYPE_F32, s->batch, s->rows, s->cols, s->gap), before = sum;
        const size_t bytes = dtype_bytes(DTYPE_F32, s->batch * sum.batch_stride);
        before.data = memcpy(malloc(bytes), sum.data, bytes);
        m->device->ops->silu(m->device, x, silu);
        m->device->ops->copy(m->device, x, copy);
        if (from == DTYPE_F32) m->device->ops->add(m->device, x, -1.75f, sum);
        for (int64_t k = 0; k < s->batch * s->rows * s->cols; k++) {
            const int64_t col = k % s->cols, row = k / s->cols % s->rows, b = k / s->cols / s->rows;
            const double value = get(&x, b, row, col);
            check(m, "silu", get(&silu, b, row, col), value / (1 + exp(-value)), to,
                  to == DTYPE_F32 ? 3e-7 : 1e-4);
            const double rounded = to == DTYPE_BF16 ? (double)bf16_to_f32(f32_to_bf16((float)value)) : value;
            assert_true(get(&copy, b, row, col) == rounded);
            if (from == DTYPE_F32)
                check(m, "add", get(&sum, b, row, col), get(&before, b, row, col) - 1.75 * value, DTYPE_F32,
                      2e-7);
        }
        free(x.data), free(silu.data), free(copy.data), free(sum.data), free(before.data);
    }
}

// Large, small and special values of silu; conversion of what has no bf16 neighbour.
static void special_values(struct machine *m) {
    float x[20] = {0.0f,         -0.0f,   1e-30f, -1e-30f,  20,    -20,         100,
                   -100,         3e38f,   -3e38f, INFINITY, NAN,   1.00390625f, 1.01171875f,
                   -1.00390625f, 3.4e38f, 88,     -88,      87.5f, -87.5f};
    float y[20];
    uint16_t bits[20];
    m->device->ops->silu(m->device, matrix_dense(x, DTYPE_F32, 1, 20), matrix_dense(y, DTYPE_F32, 1, 20));
    m->device->ops->copy(m->device, matrix_dense(x, DTYPE_F32, 1, 20), matrix_dense(bits, DTYPE_BF16, 1, 20));
    for (int i = 0; i < 20; i++) {
        if (isnan(x[i])) {
            assert_true(isnan(y[i]) && isnan(bf16_to_f32(bits[i])));
            continue;
        }
        const double value = (double)x[i], wanted = value / (1 + exp(-value));
        if (isinf(x[i]))
            assert_true(isinf(y[i]));
        else if (!(fabs((double)y[i] - wanted) <= 1e-6 * fabs(wanted) + 2e-37))
            fail_msg("%s, silu(%g): %g, expected %g", m->isa, value, (double)y[i], wanted);
        if (fabsf(x[i]) > 1e-37f) assert_int_equal(bits[i], f32_to_bf16(x[i]));
    }
}

static void embed(struct machine *m) {
    const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    const int32_t tokens[] = {4, 0, 4, 10, 7};
    for (int t = 0; t < 3; t++) {
        uint32_t table[11 * 19];
        float values[11 * 19], scales[11];
        for (int i = 0; i < 11; i++) scales[i] = uniform();
        for (int i = 0; i < 11 * 19; i++) {
            values[i] = (float)(i % 64) / 8; // exact in every type
            if (types[t] == DTYPE_F32)
                ((float *)(void *)table)[i] = values[i];
            else
                ((uint16_t *)(void *)table)[i] =
                    types[t] == DTYPE_F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
        }
        struct weight_rows rows = {table, types[t], 11, dtype_bytes(types[t], 19), NULL, 0};
        struct matrix y = random_matrix(DTYPE_F32, 1, 5, 19, 4);
        m->device->ops->embed(m->device, &rows, tokens, 5, y);
        for (int i = 0; i < 5 * 19; i++)
            assert_true(get(&y, 0, i / 19, i % 19) == (double)values[tokens[i / 19] * 19 + i % 19]);
        rows.scales = scales;
        rows.scale_stride = 1;
        m->device->ops->embed(m->device, &rows, tokens, 5, y);
        for (int i = 0; i < 5 * 19; i++)
            assert_true(get(&y, 0, i / 19, i % 19) ==
                        (double)(values[tokens[i / 19] * 19 + i % 19] * scales[tokens[i / 19]]));
        free(y.data);
    }
}

// An angle is a timestep times a frequency; where the reference's exponential is off by a unit in the last place (it is
// for 3 of the 128 frequencies), its angle is off by that part of itself.
static void timestep_embedding(struct machine *m) {
    struct error error = {0};
    struct checkpoint *file =
        checkpoint_open(LIMN_SOURCE_DIR "/tests/fixtures/timestep_embedding.safetensors", &error);
    assert_ok(file, error);
    const struct tensor values = checkpoint_find(file, "timesteps")->tensor;
    const struct tensor wanted = checkpoint_find(file, "embedding")->tensor;
    for (int64_t i = 0; i < values.shape[0]; i++) {
        float e[256];
        m->device->ops->timestep_embedding(m->device, ((const float *)values.data)[i],
                                           matrix_dense(e, DTYPE_F32, 1, 256));
        for (int k = 0; k < 256; k++) {
            const double angle = (double)((const float *)values.data)[i] * pow(10000, -(k % 128) / 128.0);
            check(m, "timestep_embedding", (double)e[k], (double)((const float *)wanted.data)[i * 256 + k],
                  DTYPE_F32, 1e-6 + 0x1p-23 * angle);
        }
    }
    checkpoint_close(file);
}

// A map whose mean is far from zero against its spread, where naive sums of squares fail.
static void group_norm_case(struct machine *m, int64_t batch, int64_t height, int64_t width, int64_t channels,
                            int groups, enum dtype type, double mean, double bound) {
    const int64_t area = height * width, count = batch * area * channels, size = channels / groups;
    struct matrix values = random_matrix(DTYPE_F32, 1, 1, count, 0);
    struct feature_map x = {malloc(dtype_bytes(type, count)), type, batch, height, width, channels};
    struct feature_map y = {malloc(dtype_bytes(type, count)), type, batch, height, width, channels};
    for (int64_t i = 0; i < count; i++)
        ((float *)values.data)[i] += (float)(mean * (1 + (double)(i % channels)));
    m->device->ops->copy(m->device, values, matrix_dense(x.data, type, 1, count));
    float *weight = floats(channels), *bias = floats(channels);
    float *scale = floats(batch * channels), *shift = floats(batch * channels);
    m->device->ops->group_norm(m->device, &x, groups, 1e-6f, weight, bias, scale, shift);
    m->device->ops->scale_shift(m->device, &x, scale, shift, true, &y);
    for (int64_t g = 0; g < batch * groups; g++) {
        const int64_t b = g / groups, first = g % groups * size;
        double sum = 0, squares = 0, n = (double)(area * size);
        for (int64_t i = 0; i < area * size; i++)
            sum += (double)value_at(x.data, type, (b * area + i / size) * channels + first + i % size);
        for (int64_t i = 0; i < area * size; i++)
            squares += pow(
                (double)value_at(x.data, type, (b * area + i / size) * channels + first + i % size) - sum / n,
                2);
        for (int64_t c = first; c < first + size; c++) {
            const double wanted = (double)weight[c] / sqrt(squares / n + 1e-6);
            check(m, "group_norm scale", (double)scale[b * channels + c], wanted, DTYPE_F32, bound);
            check(m, "group_norm shift", (double)shift[b * channels + c], (double)bias[c] - sum / n * wanted,
                  DTYPE_F32, bound);
        }
    }
    for (int64_t i = 0; i < count; i += 1 + count / 1000) {
        const int64_t at = i / (area * channels) * channels + i % channels;
        const double v = (double)value_at(x.data, type, i) * (double)scale[at] + (double)shift[at];
        check(m, "scale_shift", (double)value_at(y.data, type, i), v / (1 + exp(-v)), type,
              1e-4 + 1e-6 * fabs(mean));
    }
    free(values.data), free(x.data), free(y.data), free(weight), free(bias), free(scale), free(shift);
}

static void group_norm(struct machine *m) {
    group_norm_case(m, 1, 4, 6, 8, 4, DTYPE_F32, 0, 1e-6);
    group_norm_case(m, 2, 33, 21, 40, 8, DTYPE_F32, 1, 1e-6);
    group_norm_case(m, 1, 61, 67, 128, 32, DTYPE_BF16, 0.5, 1e-6);
    group_norm_case(m, 1, 120, 130, 24, 24, DTYPE_F32, 50, 1e-6);
    group_norm_case(m, 1, 1, 1, 6, 2, DTYPE_F32, 0.1, 1e-6);
}

// Everything that is cut into tasks, on 1, 2 and 3 threads.
static void test_threads(void **state) {
    const char *names[8];
    const int count = device_isa_list(names, 8);
    for (int isa = 0; isa < count; isa++) {
        enum { ROWS = 300, COLS = 1056, ALL = ROWS * COLS };
        float *results[3];
        for (int threads = 1; threads <= 3; threads++) {
            struct machine m = start(names[isa], threads);
            random_state = 7;
            struct matrix x = random_matrix(DTYPE_F32, 1, ROWS, COLS, 0);
            float *cosines = floats(ROWS * 66), *weight = floats(COLS);
            float *out = results[threads - 1] = malloc((4 * ALL + 2 * COLS) * sizeof *out);
            const struct ops *ops = m.device->ops;
            ops->layer_norm_modulate(m.device, x, 1e-6f, NULL, 0, matrix_dense(out, DTYPE_F32, ROWS, COLS));
            ops->rms_norm(m.device, x, weight, 1e-6f, matrix_dense(out + ALL, DTYPE_F32, ROWS, COLS));
            ops->silu(m.device, x, matrix_dense(out + 2 * ALL, DTYPE_F32, ROWS, COLS));
            ops->copy(m.device, x, matrix_dense(out + 3 * ALL, DTYPE_F32, ROWS, COLS));
            ops->norm_rope(m.device, matrix_dense(out + 3 * ALL, DTYPE_F32, ROWS, COLS), 8, weight, 1e-6f,
                           cosines, cosines, ROPE_HALVES);
            const struct feature_map map = {x.data, DTYPE_F32, 1, 20, 15, COLS};
            ops->group_norm(m.device, &map, 32, 1e-6f, weight, weight, out + 4 * ALL, out + 4 * ALL + COLS);
            stop(&m);
            free(x.data), free(cosines), free(weight);
            assert_memory_equal(results[0], out, (4 * ALL + 2 * COLS) * sizeof *out);
        }
        for (int i = 0; i < 3; i++) free(results[i]);
    }
}

#define EACH(name)                                                                                           \
    static void test_##name(void **state) {                                                                  \
        on_each(name);                                                                                       \
    }
EACH(layer_norm)
EACH(rms_norm)
EACH(norm_rope)
EACH(elements)
EACH(special_values)
EACH(embed)
EACH(timestep_embedding)
EACH(group_norm)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer_norm),
        cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_norm_rope),
        cmocka_unit_test(test_elements),
        cmocka_unit_test(test_special_values),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_timestep_embedding),
        cmocka_unit_test(test_group_norm),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
