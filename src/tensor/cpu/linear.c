// Linear layers: y = epilogue(x W^T). Relies on linear_int8.h.
//
// A single row takes the path in this file. For more, the activations are packed once and the pool works on blocks of
// outputs times ranges of tokens: with the tokens as the rows of the products (linear_tokens.c) where the instruction set
// has products of tiles and there are tokens enough to pay for packing the weights, else with the weights as the rows
// (linear_weights.c). Here are the blocks and the epilogue, which both share.
#include "tensor/cpu/linear_int8.h"

#include <assert.h>

enum {
    TOKENS_LEAST = 64,     // of a task, where there are more
    TASKS_A_THREAD = 4,    // tasks are made smaller until there are so many for each thread
    SINGLE_OUT_LEAST = 64, // outputs of a task of the single-row path, and its multiples
    SINGLE_OUT_MOST = 256,
};

// --------------------------------------------------------------------------------------------------- blocks of outputs

// Adds the outputs [output, output + count) to the block, split where one part ends and the next begins.
static void block_add(const struct linear *linear, struct linear_block *block, int64_t output,
                      int64_t count) {
    int64_t part_first = 0;
    for (int i = 0; i < linear->part_count && count > 0; i++) {
        const struct weight_rows *part = &linear->parts[i];
        const int64_t part_end = part_first + part->rows;
        if (output < part_end) {
            const int64_t take = count < part_end - output ? count : part_end - output;
            block->runs[block->run_count++] = (struct linear_run){.part = part,
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

struct linear_block linear_block_of(const struct linear_job *job, int64_t index, int64_t size) {
    const struct linear *linear = job->linear;
    const int64_t columns = job->gated ? linear->out / 2 : linear->out;
    struct linear_block block = {.first = index * size};
    block.half = columns - block.first < size ? columns - block.first : size;
    block_add(linear, &block, block.first, block.half);
    if (job->gated) block_add(linear, &block, columns + block.first, block.half);
    return block;
}

int64_t linear_branch_overlap(const struct low_rank *branch, const struct linear_run *run, int64_t *row,
                              int64_t *skip) {
    const int64_t end = branch->first_output + branch->up.rows;
    const int64_t from = run->output > branch->first_output ? run->output : branch->first_output;
    const int64_t to = run->output + run->count < end ? run->output + run->count : end;
    *row = from - branch->first_output;
    *skip = from - run->output;
    return to - from;
}

// ------------------------------------------------------------------------------------------------- conversion and epilogue

void linear_convert(const struct linear_job *job, int64_t token, int64_t at, int64_t depth, void *to) {
    const struct gemm_kernels *kernels = job->kernels;
    const bool bf16 = job->element == DTYPE_BF16, round = job->linear->compute == COMPUTE_BF16;
    const char *from = (const char *)linear_row(job->x, token) + dtype_bytes(job->x.type, at);
    if (job->scale == 1) {
        if (bf16)
            kernels->convert_bf16(job->x.type, from, depth, to);
        else
            kernels->convert_f32(job->x.type, from, depth, round, to);
        return;
    }
    float values[LINEAR_PACK_DEPTH];
    kernels->convert_f32(job->x.type, from, depth, false, values);
    kernels->scale_row(values, depth, job->scale);
    if (bf16)
        kernels->convert_bf16(DTYPE_F32, values, depth, to);
    else
        kernels->convert_f32(DTYPE_F32, values, depth, round, to);
}

void linear_finish_row(const struct linear_job *job, const struct linear_block *block, int64_t token,
                       float *r) {
    const struct gemm_kernels *kernels = job->kernels;
    const struct epilogue *epilogue = job->epilogue;
    const float *bias = job->linear->bias;
    const int64_t half = block->half, first = block->first;
    char *y = (char *)linear_row(job->y, token) + (size_t)first * (job->y.type == DTYPE_BF16 ? 2 : 4);
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

// ------------------------------------------------------------------------------------------------------ a single row

struct single_job {
    struct linear_job job;
    const float *x;                              // [in], rounded to the compute type
    const float *branches[LINEAR_BRANCHES_MOST]; // scale * (down x), [rank]
};

static void single_task(void *context, int64_t index, int worker) {
    const struct single_job *single = context;
    const struct linear_job *job = &single->job;
    const struct linear *linear = job->linear;
    const struct linear_block block = linear_block_of(job, index, job->out_block);
    float *r = cpu_scratch(job->device, worker), *side = r + 2 * SINGLE_OUT_MOST;
    for (int i = 0; i < block.run_count; i++) {
        const struct linear_run *run = &block.runs[i];
        const struct weight_rows *part = run->part;
        const struct stored_row first = weight_row(part, run->part_row, linear->in);
        float *to = r + run->block_row;
        job->kernels->row_products(&first, part->row_bytes, run->count, linear->compute == COMPUTE_BF16,
                                   single->x, linear->in, to);
        for (int64_t n = 0; n < run->count && part->scales; n++)
            to[n] *= part->scales[(run->part_row + n) * part->scale_stride];
        for (int b = 0; b < linear->branch_count; b++) {
            const struct low_rank *branch = &linear->branches[b];
            int64_t row, skip;
            const int64_t count = linear_branch_overlap(branch, run, &row, &skip);
            if (count <= 0) continue;
            const struct stored_row up = weight_row(&branch->up, row, branch->down.rows);
            job->kernels->row_products(&up, branch->up.row_bytes, count, linear->compute == COMPUTE_BF16,
                                       single->branches[b], branch->down.rows, side);
            for (int64_t n = 0; n < count; n++) to[skip + n] += side[n];
        }
    }
    linear_finish_row(job, &block, 0, r);
}

static int64_t blocks_of(const struct linear_job *job, int64_t size) {
    const int64_t columns = job->gated ? job->linear->out / 2 : job->linear->out;
    return (columns + size - 1) / size;
}

// Large tasks bring x into the order of the weights' codes less often.
static int64_t single_out_block(const struct linear_job *job) {
    const int64_t tasks = (int64_t)TASKS_A_THREAD * cpu_of(job->device)->threads;
    const int64_t wanted = blocks_of(job, SINGLE_OUT_LEAST) / tasks * SINGLE_OUT_LEAST;
    if (wanted < SINGLE_OUT_LEAST) return SINGLE_OUT_LEAST;
    return wanted < SINGLE_OUT_MOST ? wanted : SINGLE_OUT_MOST;
}

static void linear_single(struct device *device, struct single_job *single) {
    struct linear_job *job = &single->job;
    float *x = workspace_alloc(device, (size_t)job->linear->in * sizeof *x);
    if (!x) return;
    job->kernels->convert_f32(job->x.type, job->x.data, job->linear->in, job->linear->compute == COMPUTE_BF16,
                              x);
    single->x = x;
    job->out_block = single_out_block(job);
    pool_for(device->pool, blocks_of(job, job->out_block), single_task, single);
}

// -------------------------------------------------------------------------------------------------------- the whole op

// Packs x into fresh workspace; false when there is none.
static bool pack(struct device *device, struct linear_job *job) {
    return job->tokens_are_rows ? linear_tokens_pack(device, job) : linear_weights_pack(device, job);
}

static void divide(struct linear_job *job);

// The product of packed activations.
static void multiply(struct device *device, struct linear_job *job) {
    divide(job);
    pool_for(device->pool, blocks_of(job, job->out_block) * job->token_tasks,
             job->tokens_are_rows ? linear_tokens_task : linear_weights_task, job);
}

// down x of a side branch, [tokens, rank] f32 in fresh workspace, one row behind the other. More than one row of x is packed
// already, and is read as it was packed for the layer itself.
static struct matrix branch_down(struct device *device, const struct linear_job *job,
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
    if (result.data && job->tokens == 1) {
        cpu_linear(device, &down, job->x, &store, rows);
    } else if (result.data) {
        struct linear_job product = *job;
        product.linear = &down;
        product.y = rows;
        product.epilogue = &store;
        product.gated = false;
        multiply(device, &product);
    }
    return result;
}

// Whether two branches have the same intermediate: parts of one LoRA on several rows of a layer.
static bool same_down(const struct low_rank *a, const struct low_rank *b) {
    return a->down.data == b->down.data && a->down.type == b->down.type && a->down.rows == b->down.rows &&
           a->down.row_bytes == b->down.row_bytes && a->down.scales == b->down.scales && a->scale == b->scale;
}

static bool prepare_branch(struct device *device, struct single_job *single, int index) {
    struct linear_job *job = &single->job;
    const struct low_rank *stored = &job->linear->branches[index];
    for (int i = 0; i < index; i++) {
        if (!same_down(&job->linear->branches[i], stored)) continue;
        single->branches[index] = single->branches[i];
        job->branches[index] = job->branches[i];
        job->branches[index].stored = stored;
        return true;
    }
    const struct matrix down = branch_down(device, job, stored);
    if (!down.data || device->status.kind) return false;
    if (job->tokens == 1) {
        job->kernels->scale_row(down.data, down.cols, stored->scale);
        single->branches[index] = down.data;
        return true;
    }
    const struct linear shape = {.in = down.cols, .compute = job->linear->compute};
    struct linear_job packing = *job;
    packing.linear = &shape;
    packing.x = down;
    packing.scale = stored->scale;
    if (!pack(device, &packing)) return false;
    job->branches[index] = (struct linear_branch){stored, packing.packed, packing.padded};
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

// Depths at whose multiples weights may be cut: where blocks of scaled values end, of the side branches' `up` too.
static int64_t depth_step(const struct linear *linear) {
    int64_t step = GEMM_DEPTH_STEP;
    for (int i = 0; i < linear->part_count + linear->branch_count; i++) {
        const struct weight_rows *rows =
            i < linear->part_count ? &linear->parts[i] : &linear->branches[i - linear->part_count].up;
        while (step % stored_step(rows->type)) step *= 2; // blocks are powers of two
    }
    return step;
}

// How the work is cut into tasks and depth blocks. Every result is summed by itself, depth after depth, so the number of
// tokens in a task does not show in it and may follow the number of threads; the depth blocks follow the shape alone.
static void divide(struct linear_job *job) {
    const int64_t step = depth_step(job->linear);
    const int64_t most = LINEAR_WEIGHT_BYTES / LINEAR_OUT_BLOCK / (int64_t)linear_element_bytes(job) / step;
    const int64_t steps = (job->padded + step - 1) / step, depth_blocks = (steps + most - 1) / most;
    job->depth_block = (steps + depth_blocks - 1) / depth_blocks * step;
    job->out_block = job->gated ? LINEAR_OUT_BLOCK / 2 : LINEAR_OUT_BLOCK;
    const int64_t blocks = blocks_of(job, job->out_block);
    const int64_t wanted = (int64_t)TASKS_A_THREAD * cpu_of(job->device)->threads;
    int64_t parts = (job->tokens + LINEAR_TOKENS_MOST - 1) / LINEAR_TOKENS_MOST;
    while (blocks * parts < wanted && job->tokens / (parts + 1) >= TOKENS_LEAST) parts++;
    job->task_tokens = ((job->tokens + parts - 1) / parts + LINEAR_GROUP - 1) / LINEAR_GROUP * LINEAR_GROUP;
    job->token_tasks = (job->tokens + job->task_tokens - 1) / job->task_tokens;
}

void cpu_linear(struct device *device, const struct linear *linear, struct matrix x,
                const struct epilogue *epilogue, struct matrix y) {
    check_shapes(linear, x, epilogue, y);
    const int64_t tokens = x.batch * x.rows;
    if (device->status.kind || tokens == 0 || linear->out == 0) return;
    const bool int8 = linear_int8_takes(linear, tokens);
    struct linear rest = *linear; // what is not in 8 bits is in bf16
    if (linear->compute == COMPUTE_I8) rest.compute = COMPUTE_BF16, linear = &rest;
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
    struct linear_job *job = &single.job;
    job->tokens_are_rows =
        !int8 && kernels->product_tiles && job->element == DTYPE_BF16 && tokens > LINEAR_TOKENS_DIRECT;
    // In 8 bits the branches alone need the tokens in bf16.
    bool ready = tokens == 1 || (int8 && linear->branch_count == 0) || pack(device, job);
    for (int i = 0; i < linear->branch_count && ready; i++) ready = prepare_branch(device, &single, i);
    if (ready && tokens == 1)
        linear_single(device, &single);
    else if (ready && int8)
        linear_int8(device, job);
    else if (ready)
        multiply(device, job);
    workspace_release(device, mark);
}

// Rows in whole groups, in the widest element there is.
int64_t cpu_linear_bytes(struct device *device, int64_t in, int64_t rows) {
    (void)device;
    const int64_t groups = (rows + LINEAR_GROUP - 1) / LINEAR_GROUP;
    return groups * LINEAR_GROUP * gemm_depth(in) * (int64_t)sizeof(float) + 64;
}
