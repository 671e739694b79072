// What the two ways through a linear layer share: weights as rows (linear_weights.c), tokens as rows (linear_tokens.c).
// Defined in linear.c. Relies on gemm.h.
#ifndef LIMN_TENSOR_CPU_LINEAR_H
#define LIMN_TENSOR_CPU_LINEAR_H

#include "tensor/cpu/gemm.h"

enum {
    LINEAR_OUT_BLOCK = 256,          // outputs of a task (two times 128 for the gated epilogue)
    LINEAR_GROUP = 2 * GEMM_LANES,   // tokens whose sums are formed together
    LINEAR_TOKENS_MOST = 2048,       // of a task
    LINEAR_TOKENS_DIRECT = 64,       // up to so many tokens weights are used where they lie
    LINEAR_WEIGHT_BYTES = 768 << 10, // of a task's weights at one time
    LINEAR_PACK_DEPTH = 2048,        // of activations that go through scratch at one time
    LINEAR_RUNS_MOST = 2 * LINEAR_PARTS_MOST,
};

// Rows of one weight part that stand one behind the other in a task's block of outputs.
struct linear_run {
    const struct weight_rows *part;
    int64_t part_row;  // first row within the part
    int64_t output;    // its place among the outputs of the layer
    int64_t block_row; // its place in the block
    int64_t count;
};

struct linear_block {
    struct linear_run runs[LINEAR_RUNS_MOST];
    int run_count;
    int64_t rows;  // in all
    int64_t half;  // gated: rows of each half; otherwise rows
    int64_t first; // first column of y that the block writes
};

// A packed low-rank intermediate: scale * (down x).
struct linear_branch {
    const struct low_rank *stored;
    void *packed;
    int64_t padded; // rank as it is packed
};

struct linear_job {
    const struct device *device;
    const struct gemm_kernels *kernels;
    enum dtype element;
    const struct linear *linear;
    struct matrix x, y;
    const struct epilogue *epilogue;
    int64_t tokens, out_block;
    int64_t task_tokens, token_tasks; // tokens of a task, a multiple of LINEAR_GROUP; tasks side by side
    int64_t depth_block;              // of the weights in scratch
    bool gated;
    bool tokens_are_rows; // which of the two ways
    int64_t padded;       // in, as x is packed
    void *packed;         // x; how, says the file of the way
    float scale;          // of x while it is packed
    struct linear_branch branches[LINEAR_BRANCHES_MOST];
};

static inline size_t linear_element_bytes(const struct linear_job *job) {
    return job->element == DTYPE_BF16 ? 2 : 4;
}

// The first value of a token's row.
static inline void *linear_row(struct matrix m, int64_t token) {
    const int64_t value = token / m.rows * m.batch_stride + token % m.rows * m.row_stride;
    return (char *)m.data + (size_t)value * (m.type == DTYPE_BF16 ? 2 : 4);
}

// The block of the outputs of one task: [index * size, (index + 1) * size) of y's columns.
struct linear_block linear_block_of(const struct linear_job *job, int64_t index, int64_t size);

// The rows of a branch's `up` that fall into a run: returns how many (0 or less: none), from *row of up and *skip rows
// into the run.
int64_t linear_branch_overlap(const struct low_rank *branch, const struct linear_run *run, int64_t *row,
                              int64_t *skip);

// Values [at, at + depth) of a token as elements: converted, and scaled where the job says so.
void linear_convert(const struct linear_job *job, int64_t token, int64_t at, int64_t depth, void *to);

// Asks for the lines of a row that is read soon: rows lie pages apart, where the processor's own prefetch stops.
static inline void linear_fetch(const char *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

// Bias and epilogue of one row of results r, [block->rows] wide, into y; r is overwritten.
void linear_finish_row(const struct linear_job *job, const struct linear_block *block, int64_t token,
                       float *r);

// The two ways: packing of x into fresh workspace (false when there is none), and a task. Contexts are the job.
bool linear_weights_pack(struct device *device, struct linear_job *job);
void linear_weights_task(void *context, int64_t index, int worker);
bool linear_tokens_pack(struct device *device, struct linear_job *job);
void linear_tokens_task(void *context, int64_t index, int worker);

#endif
