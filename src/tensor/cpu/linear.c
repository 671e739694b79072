// Linear layers: y = epilogue(x W^T). Relies on gemm.h.
//
// The activations are packed once into panels of 16 tokens; the weights are used as they lie in the mapped file, or, where
// their type is not the element type of the product, converted block by block into the thread's scratch. A task is a block
// of outputs times a block of tokens: it walks the depth in blocks, sums in scratch (which holds the transpose of the
// result), and runs the epilogue while that is in cache. A single row takes the path at the end of this file.
#include "tensor/cpu/gemm.h"

#include <assert.h>
#include <string.h>

enum {
    OUT_BLOCK = 256,   // outputs of a task (two times 128 for the gated epilogue)
    TOKEN_BLOCK = 256, // tokens of a task
    DEPTH_BLOCK = 1024,
    C_STRIDE = TOKEN_BLOCK + 16, // of the sums; not a multiple of 1 KiB, which would crowd a few cache sets
    SINGLE_OUT_BLOCK = 64,       // outputs of a task of the single-row path
    RUNS_MOST = 2 * LINEAR_PARTS_MOST,
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
    int64_t tokens, out_block, token_blocks;
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
    if (rows->type != job->element || rows->row_bytes % bytes || (uintptr_t)rows->data % bytes) return false;
    if (job->element == DTYPE_BF16) return depth % GEMM_DEPTH_STEP == 0;
    return job->linear->compute == COMPUTE_F32;
}

// Rows [row, row + count) and columns [at, at + depth) of a weight as elements: in place, or converted into [scratch]
// with [padded] columns. Sets *stride to the distance of rows in values.
static const void *elements_of(const struct job *job, const struct weight_rows *rows, int64_t row,
                               int64_t count, int64_t at, int64_t depth, int64_t padded, void *scratch,
                               int64_t *stride) {
    const size_t bytes = element_bytes(job->element);
    const char *from = (const char *)rows->data + (size_t)row * rows->row_bytes + dtype_bytes(rows->type, at);
    if (is_direct(job, rows, depth)) {
        *stride = (int64_t)(rows->row_bytes / bytes);
        return from;
    }
    *stride = padded;
    for (int64_t r = 0; r < count; r++, from += rows->row_bytes) {
        char *to = (char *)scratch + (size_t)(r * padded) * bytes;
        if (job->element == DTYPE_BF16)
            job->kernels->convert_bf16(rows->type, from, depth, (uint16_t *)to);
        else
            job->kernels->convert_f32(rows->type, from, depth, job->linear->compute == COMPUTE_BF16,
                                      (float *)to);
        memset(to + (size_t)depth * bytes, 0, (size_t)(padded - depth) * bytes);
    }
    return scratch;
}

// ------------------------------------------------------------------------------------------------------------- a task

struct task {
    const struct job *job;
    struct block block;
    int64_t token, token_count; // of the block of tokens
    float *sums;                // [block.rows][C_STRIDE], the transpose of the result
    float *rows;                // [16][OUT_BLOCK], results of 16 tokens as rows
    void *weights;              // converted ones
};

static void multiply_weights(const struct task *task) {
    const struct job *job = task->job;
    const int64_t in = job->linear->in;
    const char *panels =
        (const char *)job->panels + (size_t)(task->token * job->padded) * element_bytes(job->element);
    for (int64_t at = 0; at < in; at += DEPTH_BLOCK) {
        const int64_t depth = in - at < DEPTH_BLOCK ? in - at : DEPTH_BLOCK;
        const int64_t padded = job->element == DTYPE_BF16 ? gemm_depth(depth) : depth;
        for (int i = 0; i < task->block.run_count; i++) {
            const struct run *run = &task->block.runs[i];
            int64_t stride;
            const void *rows = elements_of(job, run->part, run->part_row, run->count, at, depth, padded,
                                           task->weights, &stride);
            const struct gemm_segment segment = {rows, panels + (size_t)(at * GEMM_LANES) *
                                                                    element_bytes(job->element)};
            const struct gemm_product product = {
                .segments = &segment,
                .segment_count = 1,
                .row_count = run->count,
                .panel_count = (task->token_count + GEMM_LANES - 1) / GEMM_LANES,
                .depth = padded,
                .row_stride = stride,
                .panel_stride = job->padded * GEMM_LANES,
                .c = task->sums + run->block_row * C_STRIDE,
                .c_stride = C_STRIDE,
                .accumulate = at > 0,
            };
            gemm_run(job->kernels, job->element, &product);
        }
    }
}

static void apply_scales(const struct task *task) {
    for (int i = 0; i < task->block.run_count; i++) {
        const struct run *run = &task->block.runs[i];
        if (!run->part->scales) continue;
        for (int64_t r = 0; r < run->count; r++)
            task->job->kernels->scale_row(task->sums + (run->block_row + r) * C_STRIDE, task->token_count,
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
        int64_t row, skip, stride;
        const int64_t count = branch_overlap(branch->stored, run, &row, &skip);
        for (int64_t at = 0; at < rank && count > 0; at += DEPTH_BLOCK) {
            const int64_t depth = rank - at < DEPTH_BLOCK ? rank - at : DEPTH_BLOCK;
            const int64_t padded = job->element == DTYPE_BF16 ? gemm_depth(depth) : depth;
            const void *rows = elements_of(job, up, row, count, at, depth, padded, task->weights, &stride);
            const struct gemm_segment segment = {
                rows,
                (const char *)branch->panels +
                    (size_t)(task->token * branch->padded + at * GEMM_LANES) * element_bytes(job->element)};
            const struct gemm_product product = {
                .segments = &segment,
                .segment_count = 1,
                .row_count = count,
                .panel_count = (task->token_count + GEMM_LANES - 1) / GEMM_LANES,
                .depth = padded,
                .row_stride = stride,
                .panel_stride = branch->padded * GEMM_LANES,
                .c = task->sums + (run->block_row + skip) * C_STRIDE,
                .c_stride = C_STRIDE,
                .accumulate = true,
            };
            gemm_run(job->kernels, job->element, &product);
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

static void finish(const struct task *task) {
    for (int64_t at = 0; at < task->token_count; at += GEMM_LANES) {
        const int64_t left = task->token_count - at, count = left < GEMM_LANES ? left : GEMM_LANES;
        task->job->kernels->transpose(task->sums + at, C_STRIDE, task->block.rows, count, task->rows,
                                      OUT_BLOCK);
        for (int64_t i = 0; i < count; i++)
            finish_row(task->job, &task->block, task->token + at + i, task->rows + i * OUT_BLOCK);
    }
}

static void multiply_task(void *context, int64_t index, int worker) {
    const struct job *job = context;
    float *scratch = cpu_scratch(job->device, worker);
    struct task task = {.job = job,
                        .block = block_of(job, index / job->token_blocks, job->out_block),
                        .token = index % job->token_blocks * TOKEN_BLOCK,
                        .sums = scratch,
                        .rows = scratch + OUT_BLOCK * C_STRIDE};
    task.weights = task.rows + 16 * OUT_BLOCK;
    task.token_count = job->tokens - task.token < TOKEN_BLOCK ? job->tokens - task.token : TOKEN_BLOCK;
    multiply_weights(&task);
    apply_scales(&task);
    for (int i = 0; i < job->linear->branch_count; i++) multiply_branch(&task, &job->branches[i]);
    finish(&task);
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
        job->out_block = job->gated ? OUT_BLOCK / 2 : OUT_BLOCK;
        job->token_blocks = (tokens + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
        pool_for(device->pool, blocks_of(job, job->out_block) * job->token_blocks, multiply_task, job);
    }
    workspace_release(device, mark);
}
