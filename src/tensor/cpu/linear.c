// Linear layers: y = epilogue(x W^T). Relies on gemm.h.
//
// The activations are packed once into panels of 16 tokens. A task is a block of outputs times a range of tokens: it
// brings its weights into scratch as elements, a depth at a time that leaves them in the second-level cache, with rows at a
// distance that does not crowd a few cache sets; streams the panels of its tokens past them, two at a time; and runs the
// epilogue while the sums (which are the transpose of the result) are in the first-level cache. Few tokens use the weights
// where they lie in the mapped file, and a single row takes the path at the end of this file.
#include "tensor/cpu/gemm.h"

#include <assert.h>
#include <string.h>

enum {
    OUT_BLOCK = 256,          // outputs of a task (two times 128 for the gated epilogue)
    GROUP = 2 * GEMM_LANES,   // tokens whose sums are formed together
    TOKENS_MOST = 2048,       // of a task
    TOKENS_LEAST = 64,        // of a task, where there are more
    TASKS_WANTED = 16,        // tasks are made smaller until there are so many
    WEIGHT_BYTES = 768 << 10, // of a task's weights at one time
    TOKENS_DIRECT = 64,       // up to so many tokens weights are not copied
    SINGLE_OUT_BLOCK = 64,    // outputs of a task of the single-row path
    ROWS_AHEAD = 6,           // rows whose lines are fetched before they are copied
    RUNS_MOST = 2 * LINEAR_PARTS_MOST,
    PAD = 32, // values between rows in scratch, so that their distance is an odd number of cache lines
};

// Rows of one weight part that stand one behind the other in a task's block of outputs.
struct run {
    const struct weight_rows *part;
    int64_t part_row;  // first row within the part
    int64_t output;    // its place among the outputs of the layer
    int64_t block_row; // its place in the block
    int64_t count;
};

struct block {
    struct run runs[RUNS_MOST];
    int run_count;
    int64_t rows;  // in all
    int64_t half;  // gated: rows of each half; otherwise rows
    int64_t first; // first column of y that the block writes
};

// A packed low-rank intermediate: scale * (down x).
struct branch {
    const struct low_rank *stored;
    void *panels;
    int64_t padded; // rank as the panels hold it
};

struct job {
    const struct device *device;
    const struct gemm_kernels *kernels;
    enum dtype element;
    const struct linear *linear;
    struct matrix x, y;
    const struct epilogue *epilogue;
    int64_t tokens, out_block;
    int64_t task_tokens, token_tasks; // tokens of a task, a multiple of GROUP; tasks side by side
    int64_t depth_block;              // of the weights in scratch
    bool gated;
    int64_t padded; // depth of the panels
    void *panels;   // [tokens / 16][padded][16]
    float scale;    // of x while it is packed
    struct branch branches[LINEAR_BRANCHES_MOST];
};

static size_t element_bytes(enum dtype element) {
    return element == DTYPE_BF16 ? 2 : 4;
}

static void *row_of(struct matrix m, int64_t token) {
    const int64_t value = token / m.rows * m.batch_stride + token % m.rows * m.row_stride;
    return (char *)m.data + (size_t)value * (m.type == DTYPE_BF16 ? 2 : 4);
}

// -------------------------------------------------------------------------------------------------- packing the tokens

enum { PACK_DEPTH = 2048 };

// One panel of up to 16 tokens: each row goes through scratch as elements and from there into the panel.
static void pack_task(void *context, int64_t index, int worker) {
    const struct job *job = context;
    const struct gemm_kernels *kernels = job->kernels;
    const int64_t first = index * GEMM_LANES, left = job->tokens - first;
    const int rows = left < GEMM_LANES ? (int)left : GEMM_LANES;
    const bool bf16 = job->element == DTYPE_BF16, round = job->linear->compute == COMPUTE_BF16;
    const size_t value_bytes = job->x.type == DTYPE_BF16 ? 2 : 4;
    char *scratch = cpu_scratch(job->device, worker);
    char *to = (char *)job->panels + (size_t)(index * job->padded * GEMM_LANES) * element_bytes(job->element);
    for (int64_t at = 0; at < job->padded; at += PACK_DEPTH) {
        const int64_t padded = job->padded - at < PACK_DEPTH ? job->padded - at : PACK_DEPTH;
        const int64_t depth = job->linear->in - at < padded ? job->linear->in - at : padded;
        for (int row = 0; row < rows; row++) {
            const char *from = (const char *)row_of(job->x, first + row) + (size_t)at * value_bytes;
            if (bf16 && job->scale == 1) {
                kernels->convert_bf16(job->x.type, from, depth, (uint16_t *)scratch + row * PACK_DEPTH);
                continue;
            }
            float *values =
                bf16 ? (float *)(scratch + 16 * PACK_DEPTH * 2) : (float *)scratch + row * PACK_DEPTH;
            kernels->convert_f32(job->x.type, from, depth, round && job->scale == 1, values);
            if (job->scale == 1) continue;
            kernels->scale_row(values, depth, job->scale);
            if (bf16)
                kernels->convert_bf16(DTYPE_F32, values, depth, (uint16_t *)scratch + row * PACK_DEPTH);
            else
                kernels->convert_f32(DTYPE_F32, values, depth, round, values);
        }
        if (bf16)
            kernels->pack_rows_bf16((uint16_t *)scratch, PACK_DEPTH, rows, depth, padded,
                                    (uint16_t *)to + at * GEMM_LANES);
        else
            kernels->pack_rows_f32((float *)scratch, PACK_DEPTH, rows, depth, padded,
                                   (float *)to + at * GEMM_LANES);
    }
}

// Packs x into fresh workspace; false when there is none.
static bool pack(struct device *device, struct job *job) {
    const int64_t panels = (job->tokens + GEMM_LANES - 1) / GEMM_LANES;
    job->padded = gemm_depth(job->linear->in);
    job->panels =
        workspace_alloc(device, (size_t)(panels * job->padded * GEMM_LANES) * element_bytes(job->element));
    if (!job->panels) return false;
    pool_for(device->pool, panels, pack_task, job);
    return true;
}

// --------------------------------------------------------------------------------------------------- blocks of outputs

// Adds the outputs [output, output + count) to the block, split where one part ends and the next begins.
static void block_add(const struct linear *linear, struct block *block, int64_t output, int64_t count) {
    int64_t part_first = 0;
    for (int i = 0; i < linear->part_count && count > 0; i++) {
        const struct weight_rows *part = &linear->parts[i];
        const int64_t part_end = part_first + part->rows;
        if (output < part_end) {
            const int64_t take = count < part_end - output ? count : part_end - output;
            block->runs[block->run_count++] = (struct run){.part = part,
                                                           .part_row = output - part_first,
                                                           .output = output,
                                                           .block_row = block->rows,
                                                           .count = take};
            block->rows += take;
            output += take;
            count -= take;
        }
        part_first = part_end;
    }
}

// The block of the outputs of one task: [first, first + size) of y's columns.
static struct block block_of(const struct job *job, int64_t index, int64_t size) {
    const struct linear *linear = job->linear;
    const int64_t columns = job->gated ? linear->out / 2 : linear->out;
    struct block block = {.first = index * size};
    block.half = columns - block.first < size ? columns - block.first : size;
    block_add(linear, &block, block.first, block.half);
    if (job->gated) block_add(linear, &block, columns + block.first, block.half);
    return block;
}

// Whether products can read the rows where they lie; otherwise they are converted first.
static bool is_direct(const struct job *job, const struct weight_rows *rows, int64_t depth) {
    const size_t bytes = element_bytes(job->element);
    if (job->tokens > TOKENS_DIRECT) return false;
    if (rows->type != job->element || rows->row_bytes % bytes || (uintptr_t)rows->data % bytes) return false;
    if (job->element == DTYPE_BF16) return depth % GEMM_DEPTH_STEP == 0;
    return job->linear->compute == COMPUTE_F32;
}

// Rows of weights as elements: [rows] points to the first.
struct elements {
    const void *rows;
    int64_t stride; // values
};

// Asks for the lines of a row that is copied soon: rows lie pages apart, where the processor's own prefetch stops.
static void fetch(const char *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

// Rows [row, row + count) and columns [at, at + depth) of a weight as elements with [padded] columns: in place, or
// converted into [scratch].
static struct elements elements_of(const struct job *job, const struct weight_rows *rows, int64_t row,
                                   int64_t count, int64_t at, int64_t depth, int64_t padded, void *scratch) {
    const size_t bytes = element_bytes(job->element);
    const char *from = (const char *)rows->data + (size_t)row * rows->row_bytes + dtype_bytes(rows->type, at);
    if (is_direct(job, rows, depth)) return (struct elements){from, (int64_t)(rows->row_bytes / bytes)};
    const int64_t stride = (padded + 63) / 64 * 64 + PAD;
    const size_t stored_bytes = dtype_bytes(rows->type, depth);
    for (int64_t r = 0; r < count; r++, from += rows->row_bytes) {
        char *to = (char *)scratch + (size_t)(r * stride) * bytes;
        if (r + ROWS_AHEAD < count) fetch(from + ROWS_AHEAD * rows->row_bytes, stored_bytes);
        if (job->element == DTYPE_BF16)
            job->kernels->convert_bf16(rows->type, from, depth, (uint16_t *)to);
        else
            job->kernels->convert_f32(rows->type, from, depth, job->linear->compute == COMPUTE_BF16,
                                      (float *)to);
        memset(to + (size_t)depth * bytes, 0, (size_t)(padded - depth) * bytes);
    }
    return (struct elements){scratch, stride};
}

// ------------------------------------------------------------------------------------------------------------- a task

struct task {
    const struct job *job;
    struct block block;
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
    const size_t bytes = element_bytes(task->job->element);
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
        const struct run *run = &task->block.runs[i];
        if (!run->part->scales) continue;
        for (int64_t r = 0; r < run->count; r++)
            task->job->kernels->scale_row(group_sums(task, at) + (run->block_row + r) * GROUP, GROUP,
                                          run->part->scales[(run->part_row + r) * run->part->scale_stride]);
    }
}

// The rows of the side branch's `up` that fall into a run: [*row, *row + count) of up, from *skip rows into the run.
static int64_t branch_overlap(const struct low_rank *branch, const struct run *run, int64_t *row,
                              int64_t *skip) {
    const int64_t end = branch->first_output + branch->up.rows;
    const int64_t from = run->output > branch->first_output ? run->output : branch->first_output;
    const int64_t to = run->output + run->count < end ? run->output + run->count : end;
    *row = from - branch->first_output;
    *skip = from - run->output;
    return to - from;
}

static void multiply_branch(const struct task *task, const struct branch *branch) {
    const struct job *job = task->job;
    const struct weight_rows *up = &branch->stored->up;
    const int64_t rank = branch->stored->down.rows;
    for (int i = 0; i < task->block.run_count; i++) {
        const struct run *run = &task->block.runs[i];
        int64_t row, skip;
        const int64_t count = branch_overlap(branch->stored, run, &row, &skip);
        for (int64_t at = 0; at < rank && count > 0; at += job->depth_block) {
            const int64_t depth = rank - at < job->depth_block ? rank - at : job->depth_block;
            const int64_t padded = job->element == DTYPE_BF16 ? gemm_depth(depth) : depth;
            const struct elements rows = elements_of(job, up, row, count, at, depth, padded, task->weights);
            for (int64_t token = 0; token < task->token_count; token += GROUP)
                multiply(task, token, run->block_row + skip, count, rows, branch->panels, branch->padded, at,
                         padded, true);
        }
    }
}

// One row of results, [block.rows] wide, into y.
static void finish_row(const struct job *job, const struct block *block, int64_t token, float *r) {
    const struct gemm_kernels *kernels = job->kernels;
    const struct epilogue *epilogue = job->epilogue;
    const float *bias = job->linear->bias;
    const int64_t half = block->half, first = block->first;
    char *y = (char *)row_of(job->y, token) + (size_t)first * (job->y.type == DTYPE_BF16 ? 2 : 4);
    if (bias) kernels->bias_row(r, bias + first, half);
    if (bias && job->gated) kernels->bias_row(r + half, bias + job->linear->out / 2 + first, half);
    switch (epilogue->kind) {
    case EPILOGUE_STORE:
        kernels->store_row(r, half, job->y.type, y);
        break;
    case EPILOGUE_ADD:
        kernels->add_row(r, NULL, half, (float *)y);
        break;
    case EPILOGUE_GATED_ADD: {
        const struct modulation *modulation = epilogue->modulations;
        while (token % job->y.rows >= modulation->end) modulation++;
        assert(modulation < epilogue->modulations + epilogue->modulation_count);
        kernels->add_row(r, modulation->gate ? modulation->gate + first : NULL, half, (float *)y);
        break;
    }
    case EPILOGUE_GATED_SILU:
        kernels->gated_silu_row(r, r + half, half, job->y.type, y);
        break;
    }
}

static void finish(const struct task *task, int64_t at) {
    const int64_t count = group_count(task, at);
    task->job->kernels->transpose(group_sums(task, at), GROUP, task->block.rows, count, task->rows,
                                  OUT_BLOCK);
    for (int64_t i = 0; i < count; i++)
        finish_row(task->job, &task->block, task->token + at + i, task->rows + i * OUT_BLOCK);
}

// All tokens of the task against one depth block of its weights; behind the last one the epilogue, unless side
// branches are still to come.
static void multiply_depth(const struct task *task, int64_t at) {
    const struct job *job = task->job;
    const int64_t in = job->linear->in, depth = in - at < job->depth_block ? in - at : job->depth_block;
    const int64_t padded = job->element == DTYPE_BF16 ? gemm_depth(depth) : depth;
    const bool last = at + depth == in, finishes = last && job->linear->branch_count == 0;
    struct elements weights[RUNS_MOST];
    char *scratch = task->weights;
    for (int i = 0; i < task->block.run_count; i++) {
        const struct run *run = &task->block.runs[i];
        weights[i] = elements_of(job, run->part, run->part_row, run->count, at, depth, padded, scratch);
        scratch += (size_t)(run->count * weights[i].stride) * element_bytes(job->element);
    }
    for (int64_t token = 0; token < task->token_count; token += GROUP) {
        for (int i = 0; i < task->block.run_count; i++)
            multiply(task, token, task->block.runs[i].block_row, task->block.runs[i].count, weights[i],
                     job->panels, job->padded, at, padded, at > 0);
        if (last) apply_scales(task, token);
        if (finishes) finish(task, token);
    }
}

static void multiply_task(void *context, int64_t index, int worker) {
    const struct job *job = context;
    float *scratch = cpu_scratch(job->device, worker);
    struct task task = {.job = job,
                        .block = block_of(job, index / job->token_tasks, job->out_block),
                        .token = index % job->token_tasks * job->task_tokens,
                        .sums = scratch,
                        .rows = scratch + TOKENS_MOST * OUT_BLOCK};
    task.weights = (char *)(task.rows + GROUP * OUT_BLOCK);
    task.token_count =
        job->tokens - task.token < job->task_tokens ? job->tokens - task.token : job->task_tokens;
    for (int64_t at = 0; at < job->linear->in; at += job->depth_block) multiply_depth(&task, at);
    for (int i = 0; i < job->linear->branch_count; i++) multiply_branch(&task, &job->branches[i]);
    for (int64_t at = 0; at < task.token_count && job->linear->branch_count; at += GROUP) finish(&task, at);
}

// ------------------------------------------------------------------------------------------------------ a single row

struct single_job {
    struct job job;
    const float *x;                              // [in], rounded to the compute type
    const float *branches[LINEAR_BRANCHES_MOST]; // scale * (down x), [rank]
};

static void single_task(void *context, int64_t index, int worker) {
    const struct single_job *single = context;
    const struct job *job = &single->job;
    const struct linear *linear = job->linear;
    const struct block block = block_of(job, index, job->out_block);
    float *r = cpu_scratch(job->device, worker), *side = r + 2 * SINGLE_OUT_BLOCK;
    for (int i = 0; i < block.run_count; i++) {
        const struct run *run = &block.runs[i];
        const struct weight_rows *part = run->part;
        float *to = r + run->block_row;
        job->kernels->row_products(
            part->type, (const char *)part->data + (size_t)run->part_row * part->row_bytes, part->row_bytes,
            run->count, linear->compute == COMPUTE_BF16, single->x, linear->in, to);
        for (int64_t n = 0; n < run->count && part->scales; n++)
            to[n] *= part->scales[(run->part_row + n) * part->scale_stride];
        for (int b = 0; b < linear->branch_count; b++) {
            const struct low_rank *branch = &linear->branches[b];
            int64_t row, skip;
            const int64_t count = branch_overlap(branch, run, &row, &skip);
            if (count <= 0) continue;
            job->kernels->row_products(branch->up.type,
                                       (const char *)branch->up.data + (size_t)row * branch->up.row_bytes,
                                       branch->up.row_bytes, count, linear->compute == COMPUTE_BF16,
                                       single->branches[b], branch->down.rows, side);
            for (int64_t n = 0; n < count; n++) to[skip + n] += side[n];
        }
    }
    finish_row(job, &block, 0, r);
}

static int64_t blocks_of(const struct job *job, int64_t size) {
    const int64_t columns = job->gated ? job->linear->out / 2 : job->linear->out;
    return (columns + size - 1) / size;
}

static void linear_single(struct device *device, struct single_job *single) {
    struct job *job = &single->job;
    float *x = workspace_alloc(device, (size_t)job->linear->in * sizeof *x);
    if (!x) return;
    job->kernels->convert_f32(job->x.type, job->x.data, job->linear->in, job->linear->compute == COMPUTE_BF16,
                              x);
    single->x = x;
    job->out_block = SINGLE_OUT_BLOCK;
    pool_for(device->pool, blocks_of(job, SINGLE_OUT_BLOCK), single_task, single);
}

// -------------------------------------------------------------------------------------------------------- the whole op

// scale * (down x) of a side branch, [tokens, rank] f32 in fresh workspace, one row behind the other.
static struct matrix branch_down(struct device *device, const struct job *job,
                                 const struct low_rank *branch) {
    const struct linear down = {.in = job->linear->in,
                                .out = branch->down.rows,
                                .compute = job->linear->compute,
                                .part_count = 1,
                                .parts = {branch->down}};
    const struct epilogue store = {.kind = EPILOGUE_STORE};
    struct matrix result = workspace_matrix(device, DTYPE_F32, job->tokens, down.out);
    struct matrix rows = result;
    rows.batch = job->x.batch;
    rows.rows = job->x.rows;
    rows.batch_stride = rows.rows * rows.cols;
    if (result.data) cpu_linear(device, &down, job->x, &store, rows);
    return result;
}

static bool prepare_branch(struct device *device, struct single_job *single, int index) {
    struct job *job = &single->job;
    const struct low_rank *stored = &job->linear->branches[index];
    const struct matrix down = branch_down(device, job, stored);
    if (!down.data || device->status.kind) return false;
    if (job->tokens == 1) {
        job->kernels->scale_row(down.data, down.cols, stored->scale);
        single->branches[index] = down.data;
        return true;
    }
    const struct linear shape = {.in = down.cols, .compute = job->linear->compute};
    struct job packing = *job;
    packing.linear = &shape;
    packing.x = down;
    packing.scale = stored->scale;
    if (!pack(device, &packing)) return false;
    job->branches[index] = (struct branch){stored, packing.panels, packing.padded};
    return true;
}

static void check_shapes(const struct linear *linear, struct matrix x, const struct epilogue *epilogue,
                         struct matrix y) {
    int64_t rows = 0;
    for (int i = 0; i < linear->part_count; i++) rows += linear->parts[i].rows;
    assert(linear->part_count <= LINEAR_PARTS_MOST && linear->branch_count <= LINEAR_BRANCHES_MOST);
    assert(rows == linear->out && x.cols == linear->in && x.rows == y.rows && x.batch == y.batch);
    assert(y.cols == (epilogue->kind == EPILOGUE_GATED_SILU ? linear->out / 2 : linear->out));
    for (int i = 0; i < linear->branch_count; i++) assert(!linear->branches[i].up.scales);
    assert(y.type == DTYPE_F32 || epilogue->kind == EPILOGUE_STORE || epilogue->kind == EPILOGUE_GATED_SILU);
    (void)rows;
}

// How the work is cut into tasks and depth blocks; from the shape alone.
static void divide(struct job *job) {
    const int64_t most = WEIGHT_BYTES / OUT_BLOCK / (int64_t)element_bytes(job->element) / GEMM_DEPTH_STEP;
    const int64_t steps = job->padded / GEMM_DEPTH_STEP, depth_blocks = (steps + most - 1) / most;
    job->depth_block = (steps + depth_blocks - 1) / depth_blocks * GEMM_DEPTH_STEP;
    job->out_block = job->gated ? OUT_BLOCK / 2 : OUT_BLOCK;
    const int64_t blocks = blocks_of(job, job->out_block);
    int64_t parts = (job->tokens + TOKENS_MOST - 1) / TOKENS_MOST;
    while (blocks * parts < TASKS_WANTED && job->tokens / (parts + 1) >= TOKENS_LEAST) parts++;
    job->task_tokens = ((job->tokens + parts - 1) / parts + GROUP - 1) / GROUP * GROUP;
    job->token_tasks = (job->tokens + job->task_tokens - 1) / job->task_tokens;
}

void cpu_linear(struct device *device, const struct linear *linear, struct matrix x,
                const struct epilogue *epilogue, struct matrix y) {
    check_shapes(linear, x, epilogue, y);
    const int64_t tokens = x.batch * x.rows;
    if (device->status.kind || tokens == 0 || linear->out == 0) return;
    const size_t mark = workspace_mark(device);
    const struct gemm_kernels *kernels = cpu_of(device)->gemm;
    struct single_job single = {.job = {.device = device,
                                        .kernels = kernels,
                                        .element = gemm_element(kernels, linear->compute),
                                        .linear = linear,
                                        .x = x,
                                        .y = y,
                                        .epilogue = epilogue,
                                        .tokens = tokens,
                                        .gated = epilogue->kind == EPILOGUE_GATED_SILU,
                                        .scale = 1}};
    struct job *job = &single.job;
    bool ready = true;
    for (int i = 0; i < linear->branch_count && ready; i++) ready = prepare_branch(device, &single, i);
    if (ready && tokens == 1)
        linear_single(device, &single);
    else if (ready && pack(device, job)) {
        divide(job);
        pool_for(device->pool, blocks_of(job, job->out_block) * job->token_tasks, multiply_task, job);
    }
    workspace_release(device, mark);
}
