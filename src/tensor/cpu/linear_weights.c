// Linear layers with the weights as rows: the way of few tokens, which uses weights where they lie in the mapped file, and
// of the instruction sets without products of tiles. Relies on linear.h.
//
// The activations are packed once into panels of 16 tokens. A task is a block of outputs times a range of tokens: it
// brings its weights into scratch as elements, a depth at a time that leaves them in the second-level cache, with rows at a
// distance that does not crowd a few cache sets; streams the panels of its tokens past them, two at a time; and runs the
// epilogue while the sums (which are the transpose of the result) are in the first-level cache.
#include "tensor/cpu/linear.h"

#include <string.h>

enum {
    OUT_BLOCK = LINEAR_OUT_BLOCK,
    GROUP = LINEAR_GROUP,
    ROWS_AHEAD = 6, // rows whose lines are fetched before they are copied
    PAD = 32,       // values between rows in scratch, so that their distance is an odd number of cache lines
};

// -------------------------------------------------------------------------------------------------- packing the tokens

// One panel of up to 16 tokens: each row goes through scratch as elements and from there into the panel.
static void pack_task(void *context, int64_t index, int worker) {
    const struct linear_job *job = context;
    const struct gemm_kernels *kernels = job->kernels;
    const int64_t first = index * GEMM_LANES, left = job->tokens - first;
    const int rows = left < GEMM_LANES ? (int)left : GEMM_LANES;
    const size_t bytes = linear_element_bytes(job);
    char *scratch = cpu_scratch(job->device, worker);
    char *to = (char *)job->packed + (size_t)(index * job->padded * GEMM_LANES) * bytes;
    for (int64_t at = 0; at < job->padded; at += LINEAR_PACK_DEPTH) {
        const int64_t padded = job->padded - at < LINEAR_PACK_DEPTH ? job->padded - at : LINEAR_PACK_DEPTH;
        const int64_t depth = job->linear->in - at < padded ? job->linear->in - at : padded;
        for (int row = 0; row < rows; row++)
            linear_convert(job, first + row, at, depth, scratch + (size_t)(row * LINEAR_PACK_DEPTH) * bytes);
        if (job->element == DTYPE_BF16)
            kernels->pack_rows_bf16((uint16_t *)scratch, LINEAR_PACK_DEPTH, rows, depth, padded,
                                    (uint16_t *)to + at * GEMM_LANES);
        else
            kernels->pack_rows_f32((float *)scratch, LINEAR_PACK_DEPTH, rows, depth, padded,
                                   (float *)to + at * GEMM_LANES);
    }
}

bool linear_weights_pack(struct device *device, struct linear_job *job) {
    const int64_t panels = (job->tokens + GEMM_LANES - 1) / GEMM_LANES;
    job->padded = gemm_depth(job->linear->in);
    job->packed =
        workspace_alloc(device, (size_t)(panels * job->padded * GEMM_LANES) * linear_element_bytes(job));
    if (!job->packed) return false;
    pool_for(device->pool, panels, pack_task, job);
    return true;
}

// --------------------------------------------------------------------------------------------------------- weights

// Whether products can read the rows where they lie; otherwise they are converted first.
static bool is_direct(const struct linear_job *job, const struct weight_rows *rows, int64_t depth) {
    const size_t bytes = linear_element_bytes(job);
    if (job->tokens > LINEAR_TOKENS_DIRECT) return false;
    if (rows->type != job->element || rows->row_bytes % bytes || (uintptr_t)rows->data % bytes) return false;
    if (job->element == DTYPE_BF16) return depth % GEMM_DEPTH_STEP == 0;
    return job->linear->compute == COMPUTE_F32;
}

// Rows of weights as elements: [rows] points to the first.
struct elements {
    const void *rows;
    int64_t stride; // values
};

// Rows [row, row + count) and columns [at, at + depth) of a weight of [cols] columns as elements with [padded] columns: in
// place, or converted into [scratch].
static struct elements elements_of(const struct linear_job *job, const struct weight_rows *rows, int64_t cols,
                                   int64_t row, int64_t count, int64_t at, int64_t depth, int64_t padded,
                                   void *scratch) {
    const size_t bytes = linear_element_bytes(job);
    const char *from = (const char *)rows->data + (size_t)row * rows->row_bytes + dtype_bytes(rows->type, at);
    if (is_direct(job, rows, depth)) return (struct elements){from, (int64_t)(rows->row_bytes / bytes)};
    const int64_t stride = (padded + 63) / 64 * 64 + PAD;
    const size_t stored_bytes = dtype_bytes(rows->type, depth);
    struct stored_row stored = weight_row(rows, row, cols);
    for (int64_t r = 0; r < count; r++, from += rows->row_bytes, stored.index++) {
        char *to = (char *)scratch + (size_t)(r * stride) * bytes;
        if (r + ROWS_AHEAD < count) linear_fetch(from + ROWS_AHEAD * rows->row_bytes, stored_bytes);
        if (job->element == DTYPE_BF16)
            job->kernels->decode_bf16(&stored, at, depth, (uint16_t *)to);
        else
            job->kernels->decode_f32(&stored, at, depth, job->linear->compute == COMPUTE_BF16, (float *)to);
        stored.data = (const char *)stored.data + rows->row_bytes;
        memset(to + (size_t)depth * bytes, 0, (size_t)(padded - depth) * bytes);
    }
    return (struct elements){scratch, stride};
}

// ------------------------------------------------------------------------------------------------------------- a task

struct task {
    const struct linear_job *job;
    struct linear_block block;
    int64_t token, token_count; // the range of tokens
    float *sums;                // [groups][OUT_BLOCK][GROUP], the transpose of the result
    float *rows;                // [GROUP][OUT_BLOCK], results of a group as rows
    char *weights;              // converted ones
};

static float *group_sums(const struct task *task, int64_t at) {
    return task->sums + at / GROUP * (OUT_BLOCK * GROUP);
}

static int64_t group_count(const struct task *task, int64_t at) {
    return task->token_count - at < GROUP ? task->token_count - at : GROUP;
}

// Sums of one group of tokens, [count] rows at block row [block_row], += or = rows times panels. panels: of token 0.
static void multiply(const struct task *task, int64_t at, int64_t block_row, int64_t count,
                     struct elements weights, const void *panels, int64_t panel_depth, int64_t depth_at,
                     int64_t depth, bool accumulate) {
    const size_t bytes = linear_element_bytes(task->job);
    const int64_t value = (task->token + at) * panel_depth + depth_at * GEMM_LANES;
    const struct gemm_segment segment = {weights.rows, (const char *)panels + (size_t)value * bytes};
    const struct gemm_product product = {
        .segments = &segment,
        .segment_count = 1,
        .row_count = count,
        .panel_count = (group_count(task, at) + GEMM_LANES - 1) / GEMM_LANES,
        .depth = depth,
        .row_stride = weights.stride,
        .panel_stride = panel_depth * GEMM_LANES,
        .c = group_sums(task, at) + block_row * GROUP,
        .c_stride = GROUP,
        .accumulate = accumulate,
        .next = at + GROUP < task->token_count
                    ? (const char *)segment.panels + (size_t)(GROUP * panel_depth) * bytes
                    : NULL,
    };
    gemm_run(task->job->kernels, task->job->element, &product);
}

static void apply_scales(const struct task *task, int64_t at) {
    for (int i = 0; i < task->block.run_count; i++) {
        const struct linear_run *run = &task->block.runs[i];
        if (!run->part->scales) continue;
        for (int64_t r = 0; r < run->count; r++)
            task->job->kernels->scale_row(group_sums(task, at) + (run->block_row + r) * GROUP, GROUP,
                                          run->part->scales[(run->part_row + r) * run->part->scale_stride]);
    }
}

static void multiply_branch(const struct task *task, const struct linear_branch *branch) {
    const struct linear_job *job = task->job;
    const struct weight_rows *up = &branch->stored->up;
    const int64_t rank = branch->stored->down.rows;
    for (int i = 0; i < task->block.run_count; i++) {
        const struct linear_run *run = &task->block.runs[i];
        int64_t row, skip;
        const int64_t count = linear_branch_overlap(branch->stored, run, &row, &skip);
        for (int64_t at = 0; at < rank && count > 0; at += job->depth_block) {
            const int64_t depth = rank - at < job->depth_block ? rank - at : job->depth_block;
            const int64_t padded = job->element == DTYPE_BF16 ? gemm_depth(depth) : depth;
            const struct elements rows =
                elements_of(job, up, rank, row, count, at, depth, padded, task->weights);
            for (int64_t token = 0; token < task->token_count; token += GROUP)
                multiply(task, token, run->block_row + skip, count, rows, branch->packed, branch->padded, at,
                         padded, true);
        }
    }
}

static void finish(const struct task *task, int64_t at) {
    const int64_t count = group_count(task, at);
    task->job->kernels->transpose(group_sums(task, at), GROUP, task->block.rows, count, task->rows,
                                  OUT_BLOCK);
    for (int64_t i = 0; i < count; i++)
        linear_finish_row(task->job, &task->block, task->token + at + i, task->rows + i * OUT_BLOCK);
}

// All tokens of the task against one depth block of its weights; behind the last one the epilogue, unless side
// branches are still to come.
static void multiply_depth(const struct task *task, int64_t at) {
    const struct linear_job *job = task->job;
    const int64_t in = job->linear->in, depth = in - at < job->depth_block ? in - at : job->depth_block;
    const int64_t padded = job->element == DTYPE_BF16 ? gemm_depth(depth) : depth;
    const bool last = at + depth == in, finishes = last && job->linear->branch_count == 0;
    struct elements weights[LINEAR_RUNS_MOST];
    char *scratch = task->weights;
    for (int i = 0; i < task->block.run_count; i++) {
        const struct linear_run *run = &task->block.runs[i];
        weights[i] = elements_of(job, run->part, in, run->part_row, run->count, at, depth, padded, scratch);
        scratch += (size_t)(run->count * weights[i].stride) * linear_element_bytes(job);
    }
    for (int64_t token = 0; token < task->token_count; token += GROUP) {
        for (int i = 0; i < task->block.run_count; i++)
            multiply(task, token, task->block.runs[i].block_row, task->block.runs[i].count, weights[i],
                     job->packed, job->padded, at, padded, at > 0);
        if (last) apply_scales(task, token);
        if (finishes) finish(task, token);
    }
}

void linear_weights_task(void *context, int64_t index, int worker) {
    const struct linear_job *job = context;
    float *scratch = cpu_scratch(job->device, worker);
    struct task task = {.job = job,
                        .block = linear_block_of(job, index / job->token_tasks, job->out_block),
                        .token = index % job->token_tasks * job->task_tokens,
                        .sums = scratch,
                        .rows = scratch + LINEAR_TOKENS_MOST * OUT_BLOCK};
    task.weights = (char *)(task.rows + GROUP * OUT_BLOCK);
    task.token_count =
        job->tokens - task.token < job->task_tokens ? job->tokens - task.token : job->task_tokens;
    for (int64_t at = 0; at < job->linear->in; at += job->depth_block) multiply_depth(&task, at);
    for (int i = 0; i < job->linear->branch_count; i++) multiply_branch(&task, &job->branches[i]);
    for (int64_t at = 0; at < task.token_count && job->linear->branch_count; at += GROUP) finish(&task, at);
}
