// Attention over long sequences without a matrix of scores. Relies on gemm.h.
//
// Keys and values of a head are packed once into panels in the workspace (a group of heads at a time, so that it stays
// small). A task is a block of queries of one head: it walks the keys in blocks, and for each block and each few queries
// forms scores, turns them into probabilities with a running maximum and sum (Milakov, Gimelshein: Online normalizer
// calculation for softmax, 2018) and adds probabilities times values to its sums, all in scratch. Blocks that no query
// may see are skipped.
#include "tensor/cpu/gemm.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum {
    QUERY_BLOCK = 256,             // queries of a task
    QUERY_TILE = 64,               // queries that go through scores and softmax together
    KEY_BLOCK = 512,               // a multiple of GEMM_DEPTH_STEP
    SCORE_STRIDE = KEY_BLOCK + 16, // of rows in scratch: an odd number of cache lines, in f32 and in bf16
    PROBABILITY_STRIDE = KEY_BLOCK + 32,
    TILE_STRIDE =
        GEMM_LANES * (KEY_BLOCK + 32), // of probabilities as tiles, values between 16 rows and the next 16
    GROUP_BYTES = 64 << 20,
    HEAD_DIM_MOST = 512,
};

struct attention_job {
    const struct device *device;
    const struct gemm_kernels *kernels;
    const struct attention *attention;
    struct matrix q, k, v, out;
    enum dtype element;
    bool round;           // f32 elements stand for bf16 values
    int64_t keys, first;  // number of keys in range, the first one
    int64_t padded_keys;  // a multiple of KEY_BLOCK's step
    int64_t head_depth;   // head_dim as the depth of the scores
    int64_t head_columns; // head_dim rounded up to panels
    int64_t key_blocks, query_blocks;
    bool tiles;                         // values are multiplied with probabilities as tiles
    int64_t group_first, group_count;   // (batch, kv head) pairs that are packed now
    char *packed_keys, *packed_values;  // [group][...]
    int64_t keys_stride, values_stride; // values of one pair
};

static size_t value_bytes(enum dtype type) {
    return type == DTYPE_BF16 ? 2 : 4;
}

static char *element_at(struct matrix m, int64_t batch, int64_t row, int64_t column) {
    return (char *)m.data +
           (size_t)(batch * m.batch_stride + row * m.row_stride + column) * value_bytes(m.type);
}

// [rows, columns] of a matrix as elements with [padded] columns: in place, or converted to scratch. With [apart] they are
// copied in any case, to rows whose distance is an odd number of cache lines: rows of all heads side by side are so far
// apart that a few sets of the cache would have to hold them all.
static const void *elements_of(const struct attention_job *job, struct matrix m, int64_t batch, int64_t row,
                               int64_t rows, int64_t column, int64_t columns, int64_t padded, bool apart,
                               void *scratch, int64_t *stride) {
    const char *from = element_at(m, batch, row, column);
    const size_t bytes = value_bytes(job->element);
    if (m.type == job->element && columns == padded && !apart) {
        *stride = m.row_stride;
        return from;
    }
    *stride = apart ? (padded + 63) / 64 * 64 + 32 : padded;
    for (int64_t r = 0; r < rows; r++, from += (size_t)m.row_stride * value_bytes(m.type)) {
        char *to = (char *)scratch + (size_t)(r * *stride) * bytes;
        if (m.type == job->element)
            memcpy(to, from, (size_t)columns * bytes);
        else
            job->kernels->convert_f32(m.type, from, columns, false, (float *)to);
        memset(to + (size_t)columns * bytes, 0, (size_t)(padded - columns) * bytes);
    }
    return scratch;
}

// -------------------------------------------------------------------------------------------- packing keys and values

static void pack_keys(const struct attention_job *job, const void *from, int64_t stride, int64_t key,
                      int64_t count, char *to) {
    const int dim = job->attention->head_dim;
    const size_t bytes = value_bytes(job->element);
    for (int64_t i = 0; i < (count + GEMM_LANES - 1) / GEMM_LANES; i++) {
        const int64_t left = count - i * GEMM_LANES;
        const int rows = left < GEMM_LANES ? (int)left : GEMM_LANES;
        const char *row = (const char *)from + (size_t)(i * GEMM_LANES * stride) * bytes;
        char *panel = to + (size_t)((key + i * GEMM_LANES) * job->head_depth) * bytes;
        if (job->element == DTYPE_BF16)
            job->kernels->pack_rows_bf16((const uint16_t *)row, stride, rows, dim, job->head_depth,
                                         (uint16_t *)panel);
        else
            job->kernels->pack_rows_f32((const float *)row, stride, rows, dim, job->head_depth,
                                        (float *)panel);
    }
}

static void pack_values(const struct attention_job *job, const void *from, int64_t stride, int64_t key,
                        int64_t count, char *to) {
    const int dim = job->attention->head_dim;
    const size_t bytes = value_bytes(job->element);
    const int64_t padded = job->padded_keys - key < KEY_BLOCK ? job->padded_keys - key : KEY_BLOCK;
    for (int64_t column = 0; column < dim; column += GEMM_LANES) {
        const int lanes = dim - column < GEMM_LANES ? (int)(dim - column) : GEMM_LANES;
        const char *values = (const char *)from + (size_t)column * bytes;
        char *panel = to + (size_t)(column * job->padded_keys + key * GEMM_LANES) * bytes;
        if (job->element == DTYPE_BF16)
            job->kernels->pack_columns_bf16((const uint16_t *)values, stride, lanes, count, padded,
                                            (uint16_t *)panel);
        else
            job->kernels->pack_columns_f32((const float *)values, stride, lanes, count, padded,
                                           (float *)panel);
    }
}

// One block of keys of one (batch, kv head) pair.
static void pack_task(void *context, int64_t index, int worker) {
    const struct attention_job *job = context;
    const int dim = job->attention->head_dim;
    const int64_t slot = index / job->key_blocks, pair = job->group_first + slot;
    const int64_t key = index % job->key_blocks * KEY_BLOCK;
    const int64_t count = job->keys - key < KEY_BLOCK ? job->keys - key : KEY_BLOCK;
    const int64_t batch = pair / job->attention->kv_heads, column = pair % job->attention->kv_heads * dim;
    const size_t bytes = value_bytes(job->element);
    int64_t stride;
    const void *from = elements_of(job, job->k, batch, job->first + key, count, column, dim, dim, true,
                                   cpu_scratch(job->device, worker), &stride);
    pack_keys(job, from, stride, key, count, job->packed_keys + (size_t)(slot * job->keys_stride) * bytes);
    from = elements_of(job, job->v, batch, job->first + key, count, column, dim, dim, true,
                       cpu_scratch(job->device, worker), &stride);
    pack_values(job, from, stride, key, count,
                job->packed_values + (size_t)(slot * job->values_stride) * bytes);
}

// ------------------------------------------------------------------------------------------------------ blocks of queries

struct query_task {
    const struct attention_job *job;
    int64_t query, count;      // of the block
    const char *keys, *values; // packed, of the head
    const void *queries;       // elements of the block
    int64_t query_stride;      // values
    float *sums;               // [QUERY_BLOCK][head_columns]
    struct softmax *states;    // [QUERY_BLOCK]
    float *scores;             // [QUERY_TILE][SCORE_STRIDE]
    uint16_t *probabilities;   // [QUERY_TILE][PROBABILITY_STRIDE]
    uint16_t *tiles;           // [QUERY_TILE / 16][TILE_STRIDE]
};

// How many keys, counted from the first in range, a query row sees.
static int64_t visible_keys(const struct attention_job *job, int64_t query) {
    if (!job->attention->causal) return job->keys;
    const int64_t end = query + job->attention->query_offset + 1 - job->first;
    return end < 0 ? 0 : end < job->keys ? end : job->keys;
}

static struct gemm_segment score_segment(const struct query_task *task, int64_t tile, int64_t key) {
    const size_t bytes = value_bytes(task->job->element);
    return (struct gemm_segment){(const char *)task->queries + (size_t)(tile * task->query_stride) * bytes,
                                 task->keys + (size_t)(key * task->job->head_depth) * bytes};
}

static struct gemm_product score_product(const struct query_task *task, const struct gemm_segment *segment,
                                         int64_t rows, int64_t count) {
    return (struct gemm_product){
        .segments = segment,
        .segment_count = 1,
        .row_count = rows,
        .panel_count = (count + GEMM_LANES - 1) / GEMM_LANES,
        .depth = task->job->head_depth,
        .row_stride = task->query_stride,
        .panel_stride = task->job->head_depth * GEMM_LANES,
        .c = task->scores,
        .c_stride = SCORE_STRIDE,
    };
}

// Adds probabilities as tiles times values; behind the last row they may be anything, and so are the sums there.
static void value_tiles(const struct query_task *task, int64_t tile, int64_t rows, int64_t key,
                        int64_t depth) {
    const struct attention_job *job = task->job;
    const struct gemm_tiles product = {
        .rows = task->tiles,
        .panels = (const uint16_t *)(const void *)task->values + key * GEMM_LANES,
        .row_count = (rows + 2 * GEMM_LANES - 1) / (2 * GEMM_LANES) * (2 * GEMM_LANES),
        .panel_count = job->head_columns / GEMM_LANES,
        .depth = depth,
        .row_stride = TILE_STRIDE,
        .panel_stride = job->padded_keys * GEMM_LANES,
        .c = task->sums + tile * job->head_columns,
        .c_stride = job->head_columns,
        .accumulate = true,
    };
    job->kernels->product_tiles(&product);
}

// Probabilities that lie in rows as tiles.
static void make_tiles(const struct query_task *task, int64_t rows, int64_t depth) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < depth; d += GEMM_DEPTH_STEP)
            memcpy(task->tiles + r / GEMM_LANES * TILE_STRIDE + d * GEMM_LANES +
                       r % GEMM_LANES * GEMM_DEPTH_STEP,
                   task->probabilities + r * PROBABILITY_STRIDE + d, GEMM_DEPTH_STEP * sizeof *task->tiles);
}

// Adds probabilities times values; [depth] keys, a multiple of the step.
static void value_tile(const struct query_task *task, int64_t tile, int64_t rows, int64_t key,
                       int64_t depth) {
    const struct attention_job *job = task->job;
    const bool bf16 = job->element == DTYPE_BF16;
    const struct gemm_segment segment = {
        bf16 ? (const void *)task->probabilities : (const void *)task->scores,
        task->values + (size_t)(key * GEMM_LANES) * value_bytes(job->element),
    };
    const struct gemm_product product = {
        .segments = &segment,
        .segment_count = 1,
        .row_count = rows,
        .panel_count = job->head_columns / GEMM_LANES,
        .depth = depth,
        .row_stride = bf16 ? PROBABILITY_STRIDE : SCORE_STRIDE,
        .panel_stride = job->padded_keys * GEMM_LANES,
        .c = task->sums + tile * job->head_columns,
        .c_stride = job->head_columns,
        .accumulate = true,
    };
    gemm_run(job->kernels, job->element, &product);
}

// Probabilities of [rows] queries from [tile] on and [count] keys from [key] on, row by row; what a row summed before
// follows its shift.
static void softmax_tile(const struct query_task *task, int64_t tile, int64_t rows, int64_t key,
                         int64_t count) {
    const struct attention_job *job = task->job;
    const bool bf16 = job->element == DTYPE_BF16;
    const struct gemm_segment segment = score_segment(task, tile, key);
    const struct gemm_product product = score_product(task, &segment, rows, count);
    gemm_run(job->kernels, job->element, &product);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t sees = visible_keys(job, task->query + tile + r) - key;
        const int64_t valid = sees < 0 ? 0 : sees < count ? sees : count;
        const float factor = job->kernels->softmax_row(
            task->scores + r * SCORE_STRIDE, valid, gemm_depth(count), job->attention->scale,
            &task->states[tile + r], job->round, bf16 ? task->probabilities + r * PROBABILITY_STRIDE : NULL);
        if (factor != 1)
            job->kernels->scale_row(task->sums + (tile + r) * job->head_columns, job->head_columns, factor);
    }
}

// The shifts that a first look at 32 keys gives; sums are 0 still.
static void first_shifts(const struct query_task *task, const struct gemm_segment *segment, int64_t tile,
                         int64_t rows) {
    const struct gemm_product product = score_product(task, segment, rows, 32);
    gemm_run(task->job->kernels, task->job->element, &product);
    for (int64_t r = 0; r < rows; r++)
        task->job->kernels->softmax_shift(task->scores + r * SCORE_STRIDE, 32, task->job->attention->scale,
                                          &task->states[tile + r]);
}

// The same in one pass, where there is a kernel for it and the block is whole; false otherwise.
static bool probability_tile(const struct query_task *task, int64_t tile, int64_t rows, int64_t key,
                             int64_t count) {
    const struct attention_job *job = task->job;
    if (!job->kernels->probabilities || !job->tiles) return false;
    if (job->head_depth != GEMM_PROBABILITIES_DEPTH || rows % 32 || count % 32) return false;
    if (visible_keys(job, task->query + tile) - key < count) return false;
    const struct gemm_segment segment = score_segment(task, tile, key);
    const struct gemm_product product = score_product(task, &segment, rows, count);
    if (key == 0) first_shifts(task, &segment, tile, rows);
    return job->kernels->probabilities(&product, job->attention->scale, task->states + tile, task->tiles,
                                       TILE_STRIDE);
}

// Scores, softmax and sums of [rows] queries from [tile] on against the block of keys at [key].
static void attend_tile(const struct query_task *task, int64_t tile, int64_t rows, int64_t key) {
    const int64_t seen = visible_keys(task->job, task->query + tile + rows - 1) - key;
    if (seen <= 0) return;
    const int64_t count = seen < KEY_BLOCK ? seen : KEY_BLOCK;
    if (!probability_tile(task, tile, rows, key, count)) {
        softmax_tile(task, tile, rows, key, count);
        if (task->job->tiles) make_tiles(task, rows, gemm_depth(count));
    }
    if (task->job->tiles)
        value_tiles(task, tile, rows, key, gemm_depth(count));
    else
        value_tile(task, tile, rows, key, gemm_depth(count));
}

static void attend_block(const struct query_task *task) {
    const struct attention_job *job = task->job;
    memset(task->sums, 0, (size_t)(task->count * job->head_columns) * sizeof *task->sums);
    for (int64_t i = 0; i < task->count; i++) task->states[i] = (struct softmax){.shift = -INFINITY};
    const int64_t end = visible_keys(job, task->query + task->count - 1);
    for (int64_t key = 0; key < end; key += KEY_BLOCK)
        for (int64_t tile = 0; tile < task->count; tile += QUERY_TILE) {
            const int64_t rows = task->count - tile < QUERY_TILE ? task->count - tile : QUERY_TILE;
            attend_tile(task, tile, rows, key);
        }
}

static void attend_task(void *context, int64_t index, int worker) {
    const struct attention_job *job = context;
    const struct attention *attention = job->attention;
    const size_t bytes = value_bytes(job->element);
    const int64_t shared = attention->heads / attention->kv_heads;
    const int64_t slot = index / job->query_blocks / shared, pair = job->group_first + slot;
    const int64_t head = pair % attention->kv_heads * shared + index / job->query_blocks % shared;
    const int64_t batch = pair / attention->kv_heads;
    char *scratch = cpu_scratch(job->device, worker);
    struct query_task task = {.job = job, .query = index % job->query_blocks * QUERY_BLOCK};
    task.count = job->q.rows - task.query < QUERY_BLOCK ? job->q.rows - task.query : QUERY_BLOCK;
    task.keys = job->packed_keys + (size_t)(slot * job->keys_stride) * bytes;
    task.values = job->packed_values + (size_t)(slot * job->values_stride) * bytes;
    task.sums = (float *)scratch;
    task.scores = task.sums + QUERY_BLOCK * HEAD_DIM_MOST;
    task.probabilities = (uint16_t *)(task.scores + QUERY_TILE * PROBABILITY_STRIDE);
    task.tiles = task.probabilities + QUERY_TILE * PROBABILITY_STRIDE;
    task.states = (struct softmax *)(task.tiles + QUERY_TILE / GEMM_LANES * TILE_STRIDE);
    task.queries = elements_of(job, job->q, batch, task.query, task.count, head * attention->head_dim,
                               attention->head_dim, job->head_depth, true, task.states + QUERY_BLOCK,
                               &task.query_stride);
    attend_block(&task);
    for (int64_t i = 0; i < task.count; i++) {
        float *row = task.sums + i * job->head_columns;
        float total = 0;
        for (int lane = 0; lane < GEMM_LANES; lane++) total += task.states[i].sums[lane];
        if (total != 0) job->kernels->scale_row(row, job->head_columns, 1 / total);
        job->kernels->store_row(row, attention->head_dim, job->out.type,
                                element_at(job->out, batch, task.query + i, head * attention->head_dim));
    }
}

// -------------------------------------------------------------------------------------------------------- the whole op

static void check_shapes(const struct attention *attention, struct matrix q, struct matrix k, struct matrix v,
                         struct matrix out) {
    assert(attention->head_dim % 8 == 0 && attention->head_dim <= HEAD_DIM_MOST);
    assert(attention->heads % attention->kv_heads == 0);
    assert(q.cols == attention->heads * attention->head_dim && out.cols == q.cols && out.rows == q.rows);
    assert(k.cols == attention->kv_heads * attention->head_dim && v.cols == k.cols && v.rows == k.rows);
    assert(k.batch == q.batch && v.batch == q.batch && out.batch == q.batch);
    assert(q.type == k.type && k.type == v.type && v.type == out.type && attention->key_end <= k.rows);
}

// How many (batch, kv head) pairs are packed at one time.
static int64_t group_size(const struct attention_job *job) {
    const int64_t pairs = job->k.batch * job->attention->kv_heads;
    const int64_t bytes = (job->keys_stride + job->values_stride) * (int64_t)value_bytes(job->element);
    const int64_t most = bytes ? GROUP_BYTES / bytes : pairs;
    return most < 1 ? 1 : most < pairs ? most : pairs;
}

void cpu_attention(struct device *device, const struct attention *attention, struct matrix q, struct matrix k,
                   struct matrix v, struct matrix out) {
    check_shapes(attention, q, k, v, out);
    if (device->status.kind || q.rows == 0 || q.batch == 0) return;
    const bool all = attention->key_begin == 0 && attention->key_end == 0;
    struct attention_job job = {.device = device,
                                .kernels = cpu_of(device)->gemm,
                                .attention = attention,
                                .q = q,
                                .k = k,
                                .v = v,
                                .out = out,
                                .round = q.type == DTYPE_BF16,
                                .first = attention->key_begin,
                                .keys = (all ? k.rows : attention->key_end) - attention->key_begin};
    if (job.keys < 0) job.keys = 0;
    job.element = gemm_element(job.kernels, q.type == DTYPE_BF16 ? COMPUTE_BF16 : COMPUTE_F32);
    job.padded_keys = gemm_depth(job.keys);
    job.head_depth = job.element == DTYPE_BF16 ? gemm_depth(attention->head_dim) : attention->head_dim;
    job.head_columns = (attention->head_dim + GEMM_LANES - 1) / GEMM_LANES * GEMM_LANES;
    job.tiles =
        job.kernels->product_tiles && job.element == DTYPE_BF16 && job.head_columns % (2 * GEMM_LANES) == 0;
    job.key_blocks = (job.keys + KEY_BLOCK - 1) / KEY_BLOCK;
    job.query_blocks = (q.rows + QUERY_BLOCK - 1) / QUERY_BLOCK;
    job.keys_stride = job.padded_keys * job.head_depth;
    job.values_stride = job.padded_keys * job.head_columns;
    const size_t mark = workspace_mark(device), bytes = value_bytes(job.element);
    const int64_t group = group_size(&job), pairs = k.batch * attention->kv_heads;
    job.packed_keys = workspace_alloc(device, (size_t)(group * job.keys_stride) * bytes);
    job.packed_values = workspace_alloc(device, (size_t)(group * job.values_stride) * bytes);
    for (int64_t first = 0; first < pairs && job.packed_keys && job.packed_values; first += group) {
        job.group_first = first;
        job.group_count = pairs - first < group ? pairs - first : group;
        pool_for(device->pool, job.group_count * job.key_blocks, pack_task, &job);
        pool_for(device->pool, job.group_count * (attention->heads / attention->kv_heads) * job.query_blocks,
                 attend_task, &job);
    }
    workspace_release(device, mark);
}

// As many heads' keys and values as fit into GROUP_BYTES, at least one head's.
int64_t cpu_attention_bytes(struct device *device, const struct attention *attention, int64_t keys) {
    (void)device;
    const int64_t depth = gemm_depth(attention->head_dim);
    const int64_t columns = (attention->head_dim + GEMM_LANES - 1) / GEMM_LANES * GEMM_LANES;
    const int64_t head = gemm_depth(keys) * (depth + columns) * (int64_t)sizeof(float);
    const int64_t all = head * attention->kv_heads;
    const int64_t most = all < GROUP_BYTES ? all : GROUP_BYTES;
    return (head > most ? head : most) + 128;
}
