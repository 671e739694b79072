// Linear layers in 8 bits (COMPUTE_I8). Relies on linear.h, gemm_int8.h.
//
// The tokens are cut into groups and packed once, as codes and scales, into panels of 16. A task is a block of outputs times a
// range of tokens: it makes codes of its weights from the type that they are stored in, all of their depth, and so few rows
// that they stay in the second-level cache; then it takes the tokens past them, 32 at a time, group after group, and runs the
// epilogue on the sums, which are the transpose of the result. No copy of the weights outlives a task. Side branches are
// computed in bf16 and added to the sums.
#include "tensor/cpu/linear_int8.h"

#include "tensor/cpu/gemm_int8.h"

#include <string.h>

enum {
    GROUP = LINEAR_GROUP,
    OUT_BLOCK = 26 * INT8_RUN, // outputs of a task at most
    WEIGHT_BYTES = 672 << 10,  // of a task's codes at one time
    DEPTH_GROUPS = 6,          // groups of a depth that is taken at once
    DEPTH_PART = 3,     // groups at one time of a deeper one: wider blocks, so that tokens pass less often
    TOKENS_MOST = 2048, // of a task, where their sums are kept between the groups of the depth
    UP_BYTES = 2 << 20, // rows of side branches in scratch
    RANKS_MOST = UP_BYTES / OUT_BLOCK / 4, // of a layer's side branches together
    TASKS_A_THREAD = 4,
    TOKENS_LEAST = 128, // of a task, where there are more
    ROWS_AHEAD = 2,     // rows whose lines are fetched before they are read
    PAD = 32,           // values between the rows of side branches in scratch
};

_Static_assert(WEIGHT_BYTES + UP_BYTES + (TOKENS_MOST + 2 * GROUP) * OUT_BLOCK * 4 <
                   CPU_SCRATCH_BYTES - (64 << 10),
               "a task's scratch");

static bool is_direct(enum dtype type) { // types that kernels read
    return type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16;
}

bool linear_int8_takes(const struct linear *linear, int64_t tokens) {
    int64_t ranks = 0;
    for (int i = 0; i < linear->branch_count; i++) ranks += gemm_depth(linear->branches[i].down.rows) + PAD;
    return linear->compute == COMPUTE_I8 && tokens >= LINEAR_INT8_TOKENS && ranks <= RANKS_MOST;
}

// ------------------------------------------------------------------------------------------------- packing the tokens

struct job {
    const struct linear_job *linear;
    const struct int8_kernels *kernels;
    struct int8_panel *panels; // [(tokens + 15) / 16][groups]
    int64_t groups;            // of the depth
    int64_t depth_groups;      // of those, how many at one time
    int64_t blocks;            // of outputs
};

// 16 tokens of one group: codes of each row in scratch, then as lanes.
static void pack_group(const struct job *job, int64_t panel, int64_t group, uint8_t *codes) {
    const struct linear_job *linear = job->linear;
    const int64_t first = panel * GEMM_LANES, left = linear->tokens - first, at = group * INT8_GROUP;
    const int64_t depth = linear->linear->in - at < INT8_GROUP ? linear->linear->in - at : INT8_GROUP;
    const int rows = left < GEMM_LANES ? (int)left : GEMM_LANES;
    struct int8_panel *to = &job->panels[panel * job->groups + group];
    memset(to->scales, 0, sizeof to->scales);
    for (int row = 0; row < rows; row++) {
        const char *from = (const char *)linear_row(linear->x, first + row) + dtype_bytes(linear->x.type, at);
        to->scales[row] =
            job->kernels->quantise(linear->x.type, from, depth, 0, codes + row * INT8_ROW_BYTES);
    }
    job->kernels->pack(codes, rows, depth, to);
}

static void pack_task(void *context, int64_t index, int worker) {
    const struct job *job = context;
    for (int64_t group = 0; group < job->groups; group++)
        pack_group(job, index, group, cpu_scratch(job->linear->device, worker));
}

// ------------------------------------------------------------------------------------------------------------- a task

struct task {
    const struct job *job;
    struct linear_block block;
    int64_t token, token_end;
    int64_t group, group_end; // of the depth, whose codes are in scratch
    uint8_t *codes;           // [groups][block rows][INT8_ROW_BYTES], code + 128
    float *scales;            // [groups][block rows]
    float *sums;   // [tokens / GROUP][block rows][GROUP]; of one GROUP where the depth is taken at once
    float *rows;   // [GROUP][OUT_BLOCK], sums of a GROUP transposed
    float *values; // [INT8_GROUP] of a row whose type is converted first
    char *up;      // rows of side branches as elements, one branch behind the other
    size_t element_bytes;
};

static struct task task_of(const struct job *job, int64_t index, int worker) {
    const struct linear_job *linear = job->linear;
    struct task task = {.job = job,
                        .block = linear_block_of(linear, index / linear->token_tasks, linear->out_block),
                        .token = index % linear->token_tasks * linear->task_tokens,
                        .element_bytes = linear_element_bytes(linear)};
    char *scratch = cpu_scratch(linear->device, worker);
    task.token_end =
        task.token + linear->task_tokens < linear->tokens ? task.token + linear->task_tokens : linear->tokens;
    task.codes = (uint8_t *)scratch, scratch += WEIGHT_BYTES;
    task.scales = (float *)(void *)scratch, scratch += DEPTH_GROUPS * OUT_BLOCK * sizeof(float);
    task.values = (float *)(void *)scratch, scratch += INT8_GROUP * sizeof(float);
    task.rows = (float *)(void *)scratch, scratch += OUT_BLOCK * GROUP * sizeof(float);
    task.up = scratch, scratch += UP_BYTES;
    task.sums = (float *)(void *)scratch;
    return task;
}

static int64_t depth_of(const struct job *job, int64_t group) {
    const int64_t left = job->linear->linear->in - group * INT8_GROUP;
    return left < INT8_GROUP ? left : INT8_GROUP;
}

// Codes and scales of row [row] of a weight as row [to] of the block.
static void quantise_row(const struct task *task, const struct weight_rows *part, int64_t row, int64_t to) {
    const struct job *job = task->job;
    const char *from = (const char *)part->data + (size_t)row * part->row_bytes;
    const bool direct = is_direct(part->type);
    const struct stored_row stored = weight_row(part, row, job->linear->linear->in);
    const float scale = part->scales ? part->scales[row * part->scale_stride] : 1;
    for (int64_t group = task->group; group < task->group_end; group++) {
        const int64_t depth = depth_of(job, group), place = (group - task->group) * task->block.rows + to;
        const void *values = from + dtype_bytes(part->type, group * INT8_GROUP);
        if (!direct) {
            job->linear->kernels->decode_f32(&stored, group * INT8_GROUP, depth, false, task->values);
            values = task->values;
        }
        task->scales[place] = scale * job->kernels->quantise(direct ? part->type : DTYPE_F32, values, depth,
                                                             0x80, task->codes + place * INT8_ROW_BYTES);
    }
}

// Codes of the block's rows for the groups of the depth from [group] on.
static void quantise_weights(struct task *task, int64_t group) {
    const struct job *job = task->job;
    task->group = group;
    task->group_end = group + job->depth_groups < job->groups ? group + job->depth_groups : job->groups;
    const int64_t depth = (task->group_end - 1 - group) * INT8_GROUP + depth_of(job, task->group_end - 1);
    for (int i = 0; i < task->block.run_count; i++) {
        const struct linear_run *run = &task->block.runs[i];
        const struct weight_rows *part = run->part;
        const char *from = (const char *)part->data + dtype_bytes(part->type, group * INT8_GROUP);
        for (int64_t r = 0; r < run->count; r++) {
            if (r + ROWS_AHEAD < run->count)
                linear_fetch(from + (size_t)(run->part_row + r + ROWS_AHEAD) * part->row_bytes,
                             dtype_bytes(part->type, depth));
            quantise_row(task, part, run->part_row + r, run->block_row + r);
        }
    }
}

// The sums of the tokens [token, token + GROUP).
static float *sums_of(const struct task *task, int64_t token) {
    if (task->job->depth_groups >= task->job->groups) return task->sums;
    return task->sums + (token - task->token) * task->block.rows;
}

// The panels behind those of a group: the next group's, or the next tokens' first.
static const struct int8_panel *next_panels(const struct task *task, int64_t token, int64_t group) {
    const struct job *job = task->job;
    if (group + 1 < task->group_end) return &job->panels[token / GEMM_LANES * job->groups + group + 1];
    if (token + 2 * GROUP > task->token_end) return NULL;
    return &job->panels[(token + GROUP) / GEMM_LANES * job->groups + task->group];
}

static void multiply(const struct task *task, int64_t token) {
    const struct job *job = task->job;
    const int64_t rows = task->block.rows;
    for (int64_t group = task->group; group < task->group_end; group++) {
        const struct int8_product product = {
            .rows = task->codes + (group - task->group) * rows * INT8_ROW_BYTES,
            .row_scales = task->scales + (group - task->group) * rows,
            .row_count = rows,
            .panels = &job->panels[token / GEMM_LANES * job->groups + group],
            .panel_stride = job->groups,
            .panel_count = task->token_end - token > GEMM_LANES ? 2 : 1,
            .depth = depth_of(job, group),
            .c = sums_of(task, token),
            .c_stride = GROUP,
            .accumulate = group > 0,
            .next = next_panels(task, token, group),
        };
        job->kernels->product(&product);
    }
}

static void finish(const struct task *task, int64_t token) {
    const struct linear_job *linear = task->job->linear;
    const int64_t count = task->token_end - token < GROUP ? task->token_end - token : GROUP;
    linear->kernels->transpose(sums_of(task, token), GROUP, task->block.rows, count, task->rows, OUT_BLOCK);
    for (int64_t i = 0; i < count; i++)
        linear_finish_row(linear, &task->block, token + i, task->rows + i * OUT_BLOCK);
}

// ----------------------------------------------------------------------------------------------------- side branches

static int64_t up_stride(const struct low_rank *branch) {
    return gemm_depth(branch->down.rows) + PAD;
}

// The rows of `up` that belong to the block as elements, at their block rows.
static void convert_up(const struct task *task) {
    const struct linear_job *linear = task->job->linear;
    char *to = task->up;
    for (int b = 0; b < linear->linear->branch_count; b++) {
        const struct low_rank *branch = &linear->linear->branches[b];
        const int64_t rank = branch->down.rows, stride = up_stride(branch);
        for (int i = 0; i < task->block.run_count; i++) {
            int64_t row, skip;
            const int64_t count = linear_branch_overlap(branch, &task->block.runs[i], &row, &skip);
            for (int64_t r = 0; r < count; r++) {
                char *place =
                    to + (size_t)((task->block.runs[i].block_row + skip + r) * stride) * task->element_bytes;
                const struct stored_row from = weight_row(&branch->up, row + r, rank);
                memset(place, 0, (size_t)stride * task->element_bytes);
                if (linear->element == DTYPE_BF16)
                    linear->kernels->decode_bf16(&from, 0, rank, (uint16_t *)(void *)place);
                else
                    linear->kernels->decode_f32(&from, 0, rank, true, (float *)(void *)place);
            }
        }
        to += (size_t)(task->block.rows * stride) * task->element_bytes;
    }
}

static void add_branch(const struct task *task, const struct linear_branch *branch, const char *up,
                       int64_t token) {
    const struct linear_job *linear = task->job->linear;
    const int64_t stride = up_stride(branch->stored);
    for (int i = 0; i < task->block.run_count; i++) {
        const struct linear_run *run = &task->block.runs[i];
        int64_t row, skip;
        const int64_t count = linear_branch_overlap(branch->stored, run, &row, &skip);
        if (count <= 0) continue;
        const int64_t first = run->block_row + skip;
        const struct gemm_segment segment = {up + (size_t)(first * stride) * task->element_bytes,
                                             (const char *)branch->packed +
                                                 (size_t)(token * branch->padded) * task->element_bytes};
        const struct gemm_product product = {.segments = &segment,
                                             .segment_count = 1,
                                             .row_count = count,
                                             .panel_count = task->token_end - token > GEMM_LANES ? 2 : 1,
                                             .depth = branch->padded,
                                             .row_stride = stride,
                                             .panel_stride = branch->padded * GEMM_LANES,
                                             .c = sums_of(task, token) + first * GROUP,
                                             .c_stride = GROUP,
                                             .accumulate = true};
        gemm_run(linear->kernels, linear->element, &product);
    }
}

static void add_branches(const struct task *task, int64_t token) {
    const struct linear_job *linear = task->job->linear;
    const char *up = task->up;
    for (int b = 0; b < linear->linear->branch_count; b++) {
        add_branch(task, &linear->branches[b], up, token);
        up += (size_t)(task->block.rows * up_stride(linear->branches[b].stored)) * task->element_bytes;
    }
}

// ------------------------------------------------------------------------------------------------------ the whole layer

static void multiply_task(void *context, int64_t index, int worker) {
    const struct job *job = context;
    struct task task = task_of(job, index, worker);
    convert_up(&task);
    for (int64_t group = 0; group < job->groups; group += job->depth_groups) {
        quantise_weights(&task, group);
        for (int64_t token = task.token; token < task.token_end; token += GROUP) {
            multiply(&task, token);
            if (task.group_end < job->groups) continue;
            add_branches(&task, token);
            finish(&task, token);
        }
    }
}

// Every result is summed by itself, group after group: neither the outputs and tokens of a task nor how many groups are taken
// at a time show in it, and they may follow the sizes of caches and the number of threads.
static void divide(struct linear_job *linear, struct job *job) {
    const int64_t columns = linear->gated ? linear->linear->out / 2 : linear->linear->out;
    job->depth_groups = job->groups <= DEPTH_GROUPS ? job->groups : DEPTH_PART;
    int64_t runs = WEIGHT_BYTES / (job->depth_groups * INT8_ROW_BYTES) / INT8_RUN;
    if (runs > OUT_BLOCK / INT8_RUN) runs = OUT_BLOCK / INT8_RUN;
    linear->out_block = (linear->gated ? runs / 2 : runs) * INT8_RUN;
    job->blocks = (columns + linear->out_block - 1) / linear->out_block;
    const int64_t wanted = (int64_t)TASKS_A_THREAD * cpu_of(linear->device)->threads;
    int64_t parts = (linear->tokens + TOKENS_MOST - 1) / TOKENS_MOST;
    while (job->blocks * parts < wanted && linear->tokens / (parts + 1) >= TOKENS_LEAST) parts++;
    linear->task_tokens = ((linear->tokens + parts - 1) / parts + GROUP - 1) / GROUP * GROUP;
    linear->token_tasks = (linear->tokens + linear->task_tokens - 1) / linear->task_tokens;
}

void linear_int8(struct device *device, struct linear_job *linear) {
    struct job job = {.linear = linear,
                      .kernels = cpu_of(device)->int8,
                      .groups = (linear->linear->in + INT8_GROUP - 1) / INT8_GROUP};
    const int64_t panels = (linear->tokens + GEMM_LANES - 1) / GEMM_LANES;
    job.panels = workspace_alloc(device, (size_t)(panels * job.groups) * sizeof *job.panels);
    if (!job.panels) return;
    pool_for(device->pool, panels, pack_task, &job);
    divide(linear, &job);
    pool_for(device->pool, job.blocks * linear->token_tasks, multiply_task, &job);
}
