// Linear layers with the tokens as rows: the way of many tokens where there are products of tiles. Relies on linear.h.
//
// The activations are copied once into tiles of 16 tokens and 32 depths. A task is a block of outputs times a range of
// tokens: it packs its weights into panels in scratch, a depth at a time that leaves them in the second-level cache, and
// takes the tokens past them, 32 at a time. Their sums lie as the results do, so the epilogue works where they are.
#include "tensor/cpu/linear.h"

#include <string.h>

enum {
    OUT_BLOCK = LINEAR_OUT_BLOCK,
    GROUP = LINEAR_GROUP,
    SUM_STRIDE = OUT_BLOCK + 16, // an odd number of cache lines
    STEP = GEMM_DEPTH_STEP,
    PIECE = 256, // depths of a panel that are packed while those of the next one are fetched
};

// -------------------------------------------------------------------------------------------------- packing the tokens

// Values [at, at + depth) of a token as elements: where they lie, or converted to scratch.
static const uint16_t *elements_of(const struct linear_job *job, int64_t token, int64_t at, int64_t depth,
                                   uint16_t *scratch) {
    if (job->x.type == DTYPE_BF16 && job->scale == 1) return (const uint16_t *)linear_row(job->x, token) + at;
    linear_convert(job, token, at, depth, scratch);
    return scratch;
}

// Up to 16 tokens as tiles; behind the last token and the last depth they are zero.
static void pack_task(void *context, int64_t index, int worker) {
    const struct linear_job *job = context;
    const int64_t first = index * GEMM_LANES, left = job->tokens - first;
    uint16_t *scratch = cpu_scratch(job->device, worker);
    uint16_t *to = (uint16_t *)job->packed + index * job->padded * GEMM_LANES;
    for (int64_t at = 0; at < job->padded; at += LINEAR_PACK_DEPTH) {
        const int64_t padded = job->padded - at < LINEAR_PACK_DEPTH ? job->padded - at : LINEAR_PACK_DEPTH;
        const int64_t depth = job->linear->in - at < padded ? job->linear->in - at : padded;
        const uint16_t *rows[GEMM_LANES];
        for (int row = 0; row < GEMM_LANES && row < left; row++)
            rows[row] = elements_of(job, first + row, at, depth, scratch + row * LINEAR_PACK_DEPTH);
        for (int64_t d = 0; d < padded; d += STEP)
            for (int row = 0; row < GEMM_LANES; row++, to += STEP) {
                const int64_t count = row >= left ? 0 : depth - d < STEP ? depth - d : STEP;
                if (count == STEP) {
                    memcpy(to, rows[row] + d, STEP * sizeof *to);
                    continue;
                }
                memset(to, 0, STEP * sizeof *to);
                if (count > 0) memcpy(to, rows[row] + d, (size_t)count * sizeof *to);
            }
    }
}

bool linear_tokens_pack(struct device *device, struct linear_job *job) {
    const int64_t groups = (job->tokens + GROUP - 1) / GROUP;
    job->padded = gemm_depth(job->linear->in);
    job->packed = workspace_alloc(device, (size_t)(groups * GROUP * job->padded) * sizeof(uint16_t));
    if (!job->packed) return false;
    pool_for(device->pool, groups * GROUP / GEMM_LANES, pack_task, job);
    return true;
}

// ------------------------------------------------------------------------------------------------- packing the weights

struct task {
    const struct linear_job *job;
    struct linear_block block;
    int64_t token, token_count;  // the range of tokens
    float *sums;                 // [tokens][SUM_STRIDE]
    float *factors;              // [OUT_BLOCK] scales of the weights; NULL: all 1
    uint16_t *weights, *scratch; // panels; 16 rows of LINEAR_PACK_DEPTH
};

// A row of a block's panels as it is stored; data NULL: zeros.
struct stored {
    const char *data; // of column [at]
    enum dtype type;
    struct stored_row row;
    int64_t at;
};

// What stands in row [row] of the block, from column [at] on: of the weights, or of a branch's `up`.
static struct stored stored_at(const struct task *task, const struct low_rank *branch, int64_t row,
                               int64_t at) {
    for (int i = 0; i < task->block.run_count; i++) {
        const struct linear_run *run = &task->block.runs[i];
        if (row < run->block_row || row >= run->block_row + run->count) continue;
        const struct weight_rows *rows = branch ? &branch->up : run->part;
        int64_t from = run->part_row, skip = 0, count = run->count;
        if (branch) count = linear_branch_overlap(branch, run, &from, &skip);
        const int64_t index = row - run->block_row - skip;
        if (index < 0 || index >= count) break;
        const struct stored_row whole =
            weight_row(rows, from + index, branch ? branch->down.rows : task->job->linear->in);
        return (struct stored){(const char *)whole.data + dtype_bytes(rows->type, at), rows->type, whole, at};
    }
    return (struct stored){0};
}

// Whether the rows can be packed where they lie: all of them bf16 at one distance.
static bool is_direct(const struct stored *rows) {
    const ptrdiff_t distance = rows[1].data - rows[0].data;
    for (int i = 0; i < GEMM_LANES; i++)
        if (!rows[i].data || rows[i].type != DTYPE_BF16 || rows[i].data - rows[0].data != i * distance)
            return false;
    return distance % 2 == 0 && (uintptr_t)rows[0].data % 2 == 0;
}

// One panel of [padded] depth. On the way the same depths of [next] are fetched, where there are any.
static void pack_panel(const struct task *task, const struct stored *rows, const struct stored *next,
                       int64_t depth, int64_t padded, uint16_t *to) {
    const struct gemm_kernels *kernels = task->job->kernels;
    const bool direct = is_direct(rows);
    int64_t stride = LINEAR_PACK_DEPTH;
    const uint16_t *from = task->scratch;
    if (direct) {
        stride = (rows[1].data - rows[0].data) / 2;
        from = (const uint16_t *)(const void *)rows[0].data;
    }
    for (int i = 0; i < GEMM_LANES && !direct; i++) {
        uint16_t *row = task->scratch + i * LINEAR_PACK_DEPTH;
        if (rows[i].data)
            kernels->decode_bf16(&rows[i].row, rows[i].at, depth, row);
        else
            memset(row, 0, (size_t)depth * sizeof *row);
    }
    for (int64_t d = 0; d < padded; d += PIECE) {
        const int64_t left = depth - d < PIECE ? depth - d : PIECE;
        for (int i = 0; i < GEMM_LANES && next; i++)
            if (next[i].data)
                linear_fetch(next[i].data + dtype_bytes(next[i].type, d), dtype_bytes(next[i].type, left));
        kernels->pack_rows_bf16(from + d, stride, GEMM_LANES, left, padded - d < PIECE ? padded - d : PIECE,
                                to + d * GEMM_LANES);
    }
}

static void stored_rows(const struct task *task, const struct low_rank *branch, int64_t panel, int64_t at,
                        struct stored *rows) {
    for (int i = 0; i < GEMM_LANES; i++) rows[i] = stored_at(task, branch, panel * GEMM_LANES + i, at);
}

static int64_t panel_count(const struct task *task) {
    return (task->block.rows + 2 * GEMM_LANES - 1) / (2 * GEMM_LANES) * 2;
}

// Depths [at, at + depth) of the block as panels.
static void pack_weights(const struct task *task, const struct low_rank *branch, int64_t at, int64_t depth) {
    const int64_t panels = panel_count(task), padded = gemm_depth(depth);
    struct stored rows[2][GEMM_LANES];
    stored_rows(task, branch, 0, at, rows[0]);
    for (int64_t panel = 0; panel < panels; panel++) {
        if (panel + 1 < panels) stored_rows(task, branch, panel + 1, at, rows[(panel + 1) % 2]);
        pack_panel(task, rows[panel % 2], panel + 1 < panels ? rows[(panel + 1) % 2] : NULL, depth, padded,
                   task->weights + panel * padded * GEMM_LANES);
    }
}

// ------------------------------------------------------------------------------------------------------------- a task

static float *sums_of(const struct task *task, int64_t at) {
    return task->sums + at * SUM_STRIDE;
}

// Says that the results of the group will be written behind the product.
static void announce(const struct task *task, int64_t at, struct gemm_tiles *product) {
    const struct matrix *y = &task->job->y;
    const size_t bytes = y->type == DTYPE_BF16 ? 2 : 4;
    product->written = (char *)linear_row(*y, task->token + at) + (size_t)task->block.first * bytes;
    product->written_bytes = task->block.half * (int64_t)bytes;
    product->written_stride = y->row_stride * (int64_t)bytes;
}

// Sums of one group of tokens, from the task's token [at] on, += or = rows times panels. packed: of token 0. last: the
// results are written next.
static void multiply(const struct task *task, int64_t at, const uint16_t *packed, int64_t packed_depth,
                     int64_t depth_at, int64_t depth, bool accumulate, bool last) {
    const uint16_t *rows = packed + (task->token + at) * packed_depth + depth_at * GEMM_LANES;
    const bool more = at + GROUP < task->token_count;
    struct gemm_tiles product = {
        .rows = rows,
        .panels = task->weights,
        .row_count = GROUP,
        .panel_count = panel_count(task),
        .depth = depth,
        .row_stride = packed_depth * GEMM_LANES,
        .panel_stride = depth * GEMM_LANES,
        .c = sums_of(task, at),
        .c_stride = SUM_STRIDE,
        .accumulate = accumulate,
        .next_rows = more ? rows + GROUP * packed_depth : NULL,
        .next_c = more ? sums_of(task, at + GROUP) : NULL,
    };
    if (last && (task->token + at) % task->job->y.rows + GROUP <= task->job->y.rows)
        announce(task, at, &product);
    task->job->kernels->product_tiles(&product);
}

static void finish(const struct task *task, int64_t at) {
    for (int64_t i = at; i < at + GROUP && i < task->token_count; i++)
        linear_finish_row(task->job, &task->block, task->token + i, sums_of(task, i));
}

static void apply_factors(const struct task *task, int64_t at) {
    for (int64_t i = at; i < at + GROUP && task->factors; i++)
        task->job->kernels->multiply_row(sums_of(task, i), task->factors, task->block.rows);
}

// All tokens of the task against one depth block of its weights; behind the last one the epilogue, unless side
// branches are still to come.
static void multiply_depth(const struct task *task, int64_t at) {
    const struct linear_job *job = task->job;
    const int64_t in = job->linear->in, depth = in - at < job->depth_block ? in - at : job->depth_block;
    const bool last = at + depth == in, finishes = last && job->linear->branch_count == 0;
    pack_weights(task, NULL, at, depth);
    for (int64_t token = 0; token < task->token_count; token += GROUP) {
        multiply(task, token, job->packed, job->padded, at, gemm_depth(depth), at > 0, finishes);
        if (last) apply_factors(task, token);
        if (finishes) finish(task, token);
    }
}

static void multiply_branch(const struct task *task, const struct linear_branch *branch) {
    const int64_t rank = branch->stored->down.rows, step = task->job->depth_block;
    for (int64_t at = 0; at < rank; at += step) {
        const int64_t depth = rank - at < step ? rank - at : step;
        pack_weights(task, branch->stored, at, depth);
        for (int64_t token = 0; token < task->token_count; token += GROUP)
            multiply(task, token, branch->packed, branch->padded, at, gemm_depth(depth), true, false);
    }
}

// The scales of the block's weights; false where there are none.
static bool factors_of(const struct task *task, float *factors) {
    bool any = false;
    for (int i = 0; i < task->block.run_count; i++) {
        const struct linear_run *run = &task->block.runs[i];
        const struct weight_rows *part = run->part;
        any = any || part->scales;
        for (int64_t r = 0; r < run->count; r++)
            factors[run->block_row + r] =
                part->scales ? part->scales[(run->part_row + r) * part->scale_stride] : 1;
    }
    return any;
}

void linear_tokens_task(void *context, int64_t index, int worker) {
    const struct linear_job *job = context;
    float factors[OUT_BLOCK];
    struct task task = {.job = job,
                        .block = linear_block_of(job, index / job->token_tasks, job->out_block),
                        .token = index % job->token_tasks * job->task_tokens,
                        .weights = cpu_scratch(job->device, worker)};
    task.scratch = task.weights + LINEAR_WEIGHT_BYTES / sizeof *task.weights;
    task.sums = (float *)(void *)(task.scratch + GEMM_LANES * LINEAR_PACK_DEPTH);
    task.token_count =
        job->tokens - task.token < job->task_tokens ? job->tokens - task.token : job->task_tokens;
    if (factors_of(&task, factors)) task.factors = factors;
    for (int64_t at = 0; at < job->linear->in; at += job->depth_block) multiply_depth(&task, at);
    for (int i = 0; i < job->linear->branch_count; i++) multiply_branch(&task, &job->branches[i]);
    for (int64_t at = 0; at < task.token_count && job->linear->branch_count; at += GROUP) finish(&task, at);
}
