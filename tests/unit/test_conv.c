// Convolutions on every instruction set that this processor has, against sums in double precision: kernels, strides,
// paddings, doubled input, normalised and activated input, residuals, odd sizes and channel counts, both types, and the
// same bytes for any number of threads.
#include "tensor/device.h"
#include "tensor/ops.h"

#include "stored_helper.h"

#include <math.h>

static uint64_t random_state;

static float uniform(void) { // [-1, 1)
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(random_state >> 40) / (1 << 23) - 1);
}

struct shape {
    int64_t batch, height, width, in, out; // height, width: of x
    int kernel, stride;
    enum conv_padding padding;
    bool upsample2, normalised, silu, bias, residual;
    enum dtype weights, x, y;
};

static const struct shape shapes[] = {
    {1, 5, 7, 16, 20, 3, 1, CONV_SAME, false, false, false, true, false, DTYPE_F32, DTYPE_F32, DTYPE_F32},
    {2, 9, 70, 40, 33, 3, 1, CONV_SAME, false, true, true, true, true, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16},
    {1, 18, 130, 32, 16, 3, 1, CONV_SAME, false, true, true, true, true, DTYPE_F16, DTYPE_F32, DTYPE_F32},
    {1, 70, 3, 3, 24, 3, 1, CONV_SAME, false, false, false, true, false, DTYPE_BF16, DTYPE_F32, DTYPE_BF16},
    {1, 33, 65, 8, 3, 3, 1, CONV_SAME, false, true, true, true, false, DTYPE_F32, DTYPE_BF16, DTYPE_F32},
    {1, 7, 9, 96, 3, 3, 1, CONV_SAME, false, true, true, true, false, DTYPE_BF16, DTYPE_BF16, DTYPE_F32},
    {2, 6, 11, 24, 40, 3, 1, CONV_SAME, true, false, false, true, false, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16},
    {1, 17, 66, 64, 48, 3, 1, CONV_SAME, true, true, true, false, true, DTYPE_F32, DTYPE_F32, DTYPE_F32},
    {1, 1, 1, 5, 2, 3, 1, CONV_SAME, true, false, true, true, false, DTYPE_F32, DTYPE_F32, DTYPE_BF16},
    {1, 16, 18, 32, 32, 3, 2, CONV_RIGHT_BOTTOM, false, false, false, true, false, DTYPE_BF16, DTYPE_BF16,
     DTYPE_BF16},
    {2, 21, 35, 20, 17, 3, 2, CONV_RIGHT_BOTTOM, false, true, true, true, true, DTYPE_F32, DTYPE_F32,
     DTYPE_BF16},
    {1, 11, 139, 7, 6, 3, 2, CONV_RIGHT_BOTTOM, false, false, false, false, false, DTYPE_F32, DTYPE_BF16,
     DTYPE_F32},
    {1, 13, 67, 48, 80, 1, 1, CONV_SAME, false, true, false, true, true, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16},
    {3, 4, 5, 3, 3, 1, 1, CONV_SAME, false, false, false, true, false, DTYPE_F32, DTYPE_F32, DTYPE_F32},
    {1, 1, 1, 33, 1, 3, 1, CONV_SAME, false, false, true, false, false, DTYPE_BF16, DTYPE_BF16, DTYPE_BF16},
};

enum { SHAPES = sizeof shapes / sizeof *shapes };

struct setup {
    struct conv conv;
    struct tensor weights;
    struct feature_map x, y;
    struct conv_input input;
    float *w, *x_values, *residual_values, *bias, *scale, *shift;
    int64_t y_count;
};

static void *store(enum dtype type, int64_t count, float **values) {
    char *stored = malloc(dtype_bytes(type, count) + 1);
    *values = malloc((size_t)count * sizeof **values);
    for (int64_t i = 0; i < count; i++) {
        const float value = uniform();
        const uint16_t bits = type == DTYPE_F16 ? f32_to_f16(value) : f32_to_bf16(value);
        memcpy(stored + dtype_bytes(type, i), type == DTYPE_F32 ? (const void *)&value : &bits,
               dtype_bytes(type, 1));
        (*values)[i] = type == DTYPE_F32 ? value : type == DTYPE_F16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
    return stored;
}

static struct setup make(const struct shape *s, enum compute compute) {
    struct setup setup = {0};
    const int64_t scale = s->upsample2 ? 2 : 1, area = s->kernel * s->kernel;
    setup.conv = (struct conv){.in = s->in,
                               .out = s->out,
                               .kernel = s->kernel,
                               .stride = s->stride,
                               .padding = s->padding,
                               .upsample2 = s->upsample2,
                               .compute = compute};
    setup.weights = (struct tensor){s->weights,
                                    4,
                                    {s->out, s->in, s->kernel, s->kernel},
                                    NULL,
                                    dtype_bytes(s->weights, s->out * s->in * area)};
    setup.weights.data = store(s->weights, s->out * s->in * area, &setup.w);
    setup.x = (struct feature_map){NULL, s->x, s->batch, s->height, s->width, s->in};
    setup.x.data = store(s->x, s->batch * s->height * s->width * s->in, &setup.x_values);
    setup.y = (struct feature_map){
        NULL, s->y, s->batch, s->height * scale / s->stride, s->width * scale / s->stride, s->out};
    setup.y_count = s->batch * setup.y.height * setup.y.width * s->out;
    setup.y.data = store(s->y, setup.y_count, &setup.residual_values);
    free(store(DTYPE_F32, s->out, &setup.bias));
    free(store(DTYPE_F32, s->batch * s->in, &setup.scale));
    free(store(DTYPE_F32, s->batch * s->in, &setup.shift));
    if (s->bias) setup.conv.bias = setup.bias;
    if (s->normalised) setup.input.scale = setup.scale, setup.input.shift = setup.shift;
    setup.input.silu = s->silu;
    return setup;
}

static void drop(struct setup *setup) {
    void *all[] = {(void *)(uintptr_t)setup->weights.data,
                   setup->x.data,
                   setup->y.data,
                   setup->w,
                   setup->x_values,
                   setup->residual_values,
                   setup->bias,
                   setup->scale,
                   setup->shift};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

// x' of every value of x.
static double *make_inputs(const struct shape *s, const struct setup *setup) {
    const int64_t count = s->batch * s->height * s->width * s->in;
    double *inputs = malloc((size_t)count * sizeof *inputs);
    for (int64_t i = 0; i < count; i++) {
        const int64_t at = i / (s->height * s->width * s->in) * s->in + i % s->in;
        double value = (double)setup->x_values[i];
        if (s->normalised) value = value * (double)setup->scale[at] + (double)setup->shift[at];
        inputs[i] = s->silu ? value / (1 + exp(-value)) : value;
    }
    return inputs;
}

static double expected_at(const struct shape *s, const struct setup *setup, const double *inputs, int64_t b,
                          int64_t y, int64_t x, int64_t o, double *size) {
    const int pad = s->kernel == 3 && s->padding == CONV_SAME ? 1 : 0, scale = s->upsample2 ? 2 : 1;
    double sum = 0;
    *size = 1e-3;
    for (int tap = 0; tap < s->kernel * s->kernel; tap++) {
        const int64_t in_y = y * s->stride + tap / s->kernel - pad,
                      in_x = x * s->stride + tap % s->kernel - pad;
        if (in_y < 0 || in_x < 0 || in_y >= s->height * scale || in_x >= s->width * scale) continue;
        const double *input = inputs + ((b * s->height + in_y / scale) * s->width + in_x / scale) * s->in;
        for (int64_t c = 0; c < s->in; c++) {
            const double product = (double)setup->w[(o * s->in + c) * s->kernel * s->kernel + tap] * input[c];
            sum += product;
            *size += fabs(product);
        }
    }
    if (s->bias) sum += (double)setup->bias[o];
    if (s->residual)
        sum += (double)setup->residual_values[((b * setup->y.height + y) * setup->y.width + x) * s->out + o];
    return sum;
}

static void run(const struct shape *s, struct setup *setup, const char *isa, int threads) {
    struct error error = {0};
    struct pool *pool = pool_open(threads, &error);
    assert_ok(pool, error);
    struct device *device = device_open_cpu(&(struct device_options){pool, isa, (size_t)1 << 28}, &error);
    assert_ok(device, error);
    assert_ok(device->ops->conv_pack(device, &setup->conv, &setup->weights, &error), error);
    device->ops->conv2d(device, &setup->conv, &setup->x, &setup->input, s->residual ? &setup->y : NULL,
                        &setup->y);
    assert_ok(device_status(device, &error), error);
    assert_int_equal(workspace_mark(device), 0);
    device_free(device, setup->conv.packed);
    device_close(device);
    pool_close(pool);
}

// What every value of y should be, and the sum of the magnitudes of its products.
static void make_expected(const struct shape *s, const struct setup *setup, double *wanted, double *sizes) {
    double *inputs = make_inputs(s, setup);
    for (int64_t i = 0; i < setup->y_count; i++) {
        const int64_t o = i % s->out, x = i / s->out % setup->y.width;
        const int64_t y = i / s->out / setup->y.width % setup->y.height;
        const int64_t b = i / s->out / setup->y.width / setup->y.height;
        wanted[i] = expected_at(s, setup, inputs, b, y, x, o, &sizes[i]);
    }
    free(inputs);
}

// Every value: f32 sums err by a few units of the sum of magnitudes, bf16 operands by 2^-8 each, of which most cancels;
// a bf16 result by 2^-8 of itself.
static void check(const struct shape *s, const struct setup *setup, enum compute compute, const char *isa,
                  const double *wanted, const double *sizes) {
    const double operand = compute == COMPUTE_F32 ? 1e-6 : 0x1.01p-7;
    const double result = s->y == DTYPE_BF16 ? 0x1p-8 : 1e-6;
    for (int64_t i = 0; i < setup->y_count; i++) {
        const double got = s->y == DTYPE_BF16 ? (double)bf16_to_f32(((const uint16_t *)setup->y.data)[i])
                                              : (double)((const float *)setup->y.data)[i];
        if (!(fabs(got - wanted[i]) <= operand * sizes[i] + result * fabs(wanted[i])))
            fail_msg("%s, shape %d, compute %d: value %lld is %.8g, expected %.8g (size %g)", isa,
                     (int)(s - shapes), (int)compute, (long long)i, got, wanted[i], sizes[i]);
    }
}

static void test_values(void **state) {
    const char *names[8];
    const int count = device_isa_list(names, 8);
    for (int i = 0; i < SHAPES; i++) {
        double *wanted = NULL, *sizes = NULL;
        for (int run_index = 0; run_index < 2 * count; run_index++) {
            const enum compute compute = run_index % 2 ? COMPUTE_BF16 : COMPUTE_F32;
            random_state = (uint64_t)i;
            struct setup setup = make(&shapes[i], compute);
            if (!wanted) {
                wanted = malloc((size_t)setup.y_count * sizeof *wanted);
                sizes = malloc((size_t)setup.y_count * sizeof *sizes);
                make_expected(&shapes[i], &setup, wanted, sizes);
            }
            run(&shapes[i], &setup, names[run_index / 2], 1);
            check(&shapes[i], &setup, compute, names[run_index / 2], wanted, sizes);
            drop(&setup);
        }
        free(wanted);
        free(sizes);
    }
}

static void test_threads(void **state) {
    const char *names[8];
    const int count = device_isa_list(names, 8);
    for (int isa = 0; isa < count; isa++)
        for (int i = 0; i < 2 * SHAPES; i++) {
            void *first = NULL;
            for (int threads = 1; threads <= 3; threads++) {
                random_state = (uint64_t)i;
                struct setup setup = make(&shapes[i / 2], i % 2 ? COMPUTE_BF16 : COMPUTE_F32);
                run(&shapes[i / 2], &setup, names[isa], threads);
                const size_t bytes = dtype_bytes(setup.y.type, setup.y_count);
                if (threads == 1) {
                    first = malloc(bytes);
                    memcpy(first, setup.y.data, bytes);
                }
                assert_memory_equal(first, setup.y.data, bytes);
                drop(&setup);
            }
            free(first);
        }
}

// A weight that is not a number is found when the weights are packed.
static void test_bad_weights(void **state) {
    struct error error = {0};
    struct pool *pool = pool_open(2, &error);
    struct device *device = device_open_cpu(&(struct device_options){pool, NULL, (size_t)1 << 28}, &error);
    assert_ok(device, error);
    for (int bad = 0; bad < 2; bad++) {
        float weights[40 * 4] = {0};
        weights[133] = bad ? NAN : INFINITY;
        const struct tensor tensor = {DTYPE_F32, 4, {40, 4, 1, 1}, weights, sizeof weights};
        struct conv conv = {.in = 4, .out = 40, .kernel = 1, .stride = 1};
        struct error failure = {0};
        assert_false(device->ops->conv_pack(device, &conv, &tensor, &failure));
        assert_int_equal(failure.kind, ERROR_INPUT);
        assert_null(conv.packed);
    }
    device_close(device);
    pool_close(pool);
}

// A 1x1 convolution of a map of one pixel, [out] values to [to].
static void convolve(struct device *device, const struct tensor *weights, float *x, float *to) {
    const int64_t in = weights->shape[1], out = weights->shape[0];
    struct conv conv = {.in = in, .out = out, .kernel = 1, .stride = 1};
    struct feature_map from = {x, DTYPE_F32, 1, 1, 1, in}, y = {to, DTYPE_F32, 1, 1, 1, out};
    struct error error = {0};
    assert_ok(device->ops->conv_pack(device, &conv, weights, &error), error);
    device->ops->conv2d(device, &conv, &from, NULL, NULL, &y);
    assert_ok(device_status(device, &error), error);
    device_free(device, conv.packed);
}

// Weights of any stored type, with scales of rows, give what their decoded values give; half a block is refused.
static void test_stored_weights(void **state) {
    enum { OUT = 20, IN = 256 };
    struct error error = {0};
    struct pool *pool = pool_open(2, &error);
    struct device *device = device_open_cpu(&(struct device_options){pool, NULL, (size_t)1 << 28}, &error);
    assert_ok(device, error);
    for (int kind = 0; kind < STORED_TYPES; kind++) {
        struct random random = {(uint64_t)kind};
        struct stored_weights stored = stored_make(&random, kind, OUT, IN, 3, 1, false);
        float scales[OUT], x[IN], y[OUT], wanted[OUT];
        for (int i = 0; i < OUT; i++) scales[i] = random_uniform(&random);
        for (int i = 0; i < IN; i++) x[i] = random_uniform(&random);
        stored.scales.rows = scales;
        stored.scales.row_stride = 1;
        stored.has_scales = true;
        stored_values(&stored);
        const struct tensor whole = {stored.type,   4, {OUT, IN, 1, 1}, stored.data, OUT * stored.row_bytes,
                                     &stored.scales};
        const struct tensor plain = {DTYPE_F32, 4, {OUT, IN, 1, 1}, stored.values, sizeof(float) * OUT * IN,
                                     NULL};
        convolve(device, &whole, x, y);
        convolve(device, &plain, x, wanted);
        assert_memory_equal(y, wanted, sizeof y);
        const struct tensor halves = {stored.type, 4, {OUT, 15, 1, 1}, stored.data, 0, &stored.scales};
        struct conv conv = {.in = 15, .out = OUT, .kernel = 1, .stride = 1};
        struct error failure = {0};
        if (stored_step(stored.type) > 1) {
            assert_false(device->ops->conv_pack(device, &conv, &halves, &failure));
            assert_int_equal(failure.kind, ERROR_INPUT);
        }
        stored_drop(&stored);
    }
    const struct tensor integers = {DTYPE_I32, 4, {1, 1, 1, 1}, &error, 4, NULL};
    struct conv conv = {.in = 1, .out = 1, .kernel = 1, .stride = 1};
    struct error failure = {0};
    assert_false(device->ops->conv_pack(device, &conv, &integers, &failure));
    assert_int_equal(failure.kind, ERROR_INPUT);
    device_close(device);
    pool_close(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_bad_weights),
        cmocka_unit_test(test_stored_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
