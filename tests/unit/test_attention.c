// Attention on every instruction set that this processor has, against a softmax in double precision: odd lengths, grouped
// heads, causal masks, key ranges, every kind of head width, and the same bytes for any number of threads.
#include "tensor/device.h"
#include "tensor/ops.h"

#include "unit.h"

#include <math.h>

static uint64_t random_state;

static float uniform(void) { // [-1, 1)
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(random_state >> 40) / (1 << 23) - 1);
}

struct shape {
    int64_t batch, queries, keys;
    int heads, kv_heads, head_dim;
    bool causal;
    int64_t query_offset, key_begin, key_end;
    float size;   // of the queries: a large one makes the softmax sharp
    int64_t gap;  // values between the rows
    int row_step; // every how many queries are compared
};

static struct matrix make(enum dtype type, int64_t batch, int64_t rows, int64_t cols, int64_t gap, float size,
                          float **values) {
    struct matrix m = matrix_dense(NULL, type, rows, cols);
    m.batch = batch;
    m.row_stride = cols + gap;
    m.batch_stride = rows * m.row_stride;
    const int64_t count = batch * m.batch_stride;
    m.data = malloc(dtype_bytes(type, count) + 1);
    *values = malloc((size_t)count * sizeof **values + 1);
    for (int64_t i = 0; i < count; i++) {
        const float value = size * uniform();
        (*values)[i] = type == DTYPE_F32 ? value : bf16_to_f32(f32_to_bf16(value));
        if (type == DTYPE_F32)
            ((float *)m.data)[i] = value;
        else
            ((uint16_t *)m.data)[i] = f32_to_bf16(value);
    }
    return m;
}

struct setup {
    struct attention attention;
    struct matrix q, k, v, out;
    float *q_values, *k_values, *v_values, *out_before;
};

static double out_value(const struct setup *s, int64_t at) {
    return s->out.type == DTYPE_F32 ? ((const float *)s->out.data)[at]
                                    : bf16_to_f32(((const uint16_t *)s->out.data)[at]);
}

// One query of one head, all in double precision; want: [head_dim].
static void expect(const struct setup *s, int64_t batch, int64_t query, int head, double *want) {
    const struct attention *a = &s->attention;
    const int kv = head / (a->heads / a->kv_heads), dim = a->head_dim;
    const bool all = a->key_begin == 0 && a->key_end == 0;
    const int64_t end = all ? s->k.rows : a->key_end;
    const float *q = s->q_values + batch * s->q.batch_stride + query * s->q.row_stride + head * dim;
    double *scores = malloc((size_t)(s->k.rows + 1) * sizeof *scores), most = -INFINITY, total = 0;
    for (int64_t key = a->key_begin; key < end; key++) {
        const float *k = s->k_values + batch * s->k.batch_stride + key * s->k.row_stride + kv * dim;
        double sum = 0;
        for (int d = 0; d < dim; d++) sum += (double)q[d] * k[d];
        const bool seen = !a->causal || key <= query + a->query_offset;
        scores[key] = seen ? sum * a->scale : -INFINITY;
        if (scores[key] > most) most = scores[key];
    }
    memset(want, 0, (size_t)dim * sizeof *want);
    for (int64_t key = a->key_begin; key < end && most > -INFINITY; key++) {
        const float *v = s->v_values + batch * s->v.batch_stride + key * s->v.row_stride + kv * dim;
        const double p = exp(scores[key] - most);
        total += p;
        for (int d = 0; d < dim; d++) want[d] += p * v[d];
    }
    for (int d = 0; d < dim && total > 0; d++) want[d] /= total;
    free(scores);
}

// f32: an error of a score by its rounding (2^-24 of a sum of head_dim products) becomes a relative one of its
// probability. bf16: probabilities and results are rounded to 8 bits.
static void check(const struct setup *s, int row_step, float size) {
    const struct attention *a = &s->attention;
    const bool bf16 = s->q.type == DTYPE_BF16;
    const double tolerance = bf16 ? 1.2e-2 : 2e-6 * (1 + (double)size * a->head_dim * a->scale);
    double *want = malloc((size_t)a->head_dim * sizeof *want);
    for (int64_t b = 0; b < s->q.batch; b++)
        for (int64_t r = 0; r < s->q.rows; r += row_step)
            for (int head = 0; head < a->heads; head++) {
                expect(s, b, r, head, want);
                for (int d = 0; d < a->head_dim; d++) {
                    const int64_t at =
                        b * s->out.batch_stride + r * s->out.row_stride + head * a->head_dim + d;
                    if (!(fabs(out_value(s, at) - want[d]) <= tolerance))
                        fail_msg("query %d head %d value %d: got %.9g, expected %.9g", (int)r, head, d,
                                 out_value(s, at), want[d]);
                }
            }
    free(want);
}

static struct setup make_setup(const struct shape *shape, enum dtype type) {
    struct setup s = {.attention = {.heads = shape->heads,
                                    .kv_heads = shape->kv_heads,
                                    .head_dim = shape->head_dim,
                                    .scale = 1 / sqrtf((float)shape->head_dim),
                                    .causal = shape->causal,
                                    .query_offset = shape->query_offset,
                                    .key_begin = shape->key_begin,
                                    .key_end = shape->key_end}};
    const int64_t q_cols = shape->heads * shape->head_dim, k_cols = shape->kv_heads * shape->head_dim;
    s.q = make(type, shape->batch, shape->queries, q_cols, shape->gap, shape->size, &s.q_values);
    s.k = make(type, shape->batch, shape->keys, k_cols, shape->gap, 1, &s.k_values);
    s.v = make(type, shape->batch, shape->keys, k_cols, 2 * shape->gap, 1, &s.v_values);
    s.out = make(type, shape->batch, shape->queries, q_cols, 3 * shape->gap, 1, &s.out_before);
    return s;
}

static void drop(struct setup *s) {
    void *all[] = {s->q.data,   s->k.data,   s->v.data,   s->out.data,
                   s->q_values, s->k_values, s->v_values, s->out_before};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void run_shape(const char *isa, const struct shape *shape, enum dtype type) {
    void *first = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        struct error error = {0};
        struct pool *pool = pool_open(threads, &error);
        const struct device_options options = {.pool = pool, .isa = isa, .workspace_bytes = 256 << 20};
        struct device *device = device_open_cpu(&options, &error);
        if (!device) fail_msg("%s", error.message);
        random_state = 11;
        struct setup s = make_setup(shape, type);
        device->ops->attention(device, &s.attention, s.q, s.k, s.v, s.out);
        assert_true(device_status(device, &error));
        assert_int_equal(workspace_mark(device), 0);
        const size_t bytes = dtype_bytes(type, s.out.batch * s.out.batch_stride);
        if (threads == 1) {
            check(&s, shape->row_step, shape->size);
            first = malloc(bytes);
            memcpy(first, s.out.data, bytes);
        } else {
            assert_memory_equal(first, s.out.data, bytes);
        }
        drop(&s);
        device_close(device);
        pool_close(pool);
    }
    free(first);
}

static void run_everywhere(const struct shape *shape) {
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    for (int i = 0; i < count; i++) {
        run_shape(isas[i], shape, DTYPE_F32);
        run_shape(isas[i], shape, DTYPE_BF16);
    }
}

static void attends_odd_lengths(void **state) {
    const struct shape shapes[] = {
        {1, 1, 1, 1, 1, 8, false, 0, 0, 0, 1, 0, 1},      {1, 1, 300, 2, 1, 64, false, 0, 0, 0, 1, 0, 1},
        {2, 37, 45, 3, 3, 32, false, 0, 0, 0, 1, 8, 1},   {1, 300, 290, 2, 2, 128, false, 0, 0, 0, 1, 0, 7},
        {1, 33, 600, 2, 1, 40, false, 0, 0, 0, 30, 3, 1}, {1, 20, 70, 1, 1, 512, false, 0, 0, 0, 1, 0, 1},
        {1, 65, 257, 2, 2, 24, false, 0, 0, 0, 200, 0, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i]);
}

static void masks_the_future(void **state) {
    const struct shape shapes[] = {{1, 70, 70, 4, 2, 64, true, 0, 0, 0, 1, 0, 1},
                                   {1, 300, 300, 2, 1, 32, true, 0, 0, 0, 1, 0, 3},
                                   {1, 10, 280, 2, 2, 32, true, 270, 0, 0, 1, 0, 1},
                                   {2, 20, 40, 2, 1, 16, true, 5, 0, 0, 1, 0, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i]);
}

// Whole blocks take a path of their own on some instruction sets, with a shift that follows only large scores.
static void walks_whole_blocks(void **state) {
    const struct shape shapes[] = {{1, 96, 1184, 2, 1, 128, false, 0, 0, 0, 1, 0, 5},
                                   {1, 160, 1100, 1, 1, 128, false, 0, 0, 0, 40, 0, 5},
                                   {1, 64, 1600, 1, 1, 128, false, 0, 0, 0, 400, 0, 3},
                                   {1, 1100, 1100, 1, 1, 128, true, 0, 0, 0, 20, 8, 41}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i]);
}

// Keys outside the range may hold anything; queries that see nothing give zeros.
static void keeps_to_the_range(void **state) {
    const struct shape shapes[] = {{1, 50, 400, 2, 1, 64, false, 0, 17, 333, 1, 0, 1},
                                   {2, 60, 60, 2, 2, 32, true, 0, 21, 60, 1, 0, 1},
                                   {1, 40, 64, 1, 1, 8, true, -4, 0, 0, 1, 0, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) run_everywhere(&shapes[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attends_odd_lengths),
        cmocka_unit_test(masks_the_future),
        cmocka_unit_test(walks_whole_blocks),
        cmocka_unit_test(keeps_to_the_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
