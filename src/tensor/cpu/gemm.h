// Products of small blocks: what linear, attention and convolution are built from, one filling an instruction set.
// Relies on cpu.h.
//
// A product multiplies rows, which lie in memory as they are, with panels, which were packed before:
//
//     C[row, 16 panel + lane] (+)= sum over segments s, depth d of   rows_s[row, d] * panels_s[panel, d, lane]
//
// rows:   row-major, values contiguous along the depth, any distance between rows. A weight as it is in the file
//         (linear: C is then the transpose of the result), queries or probabilities (attention), pixels of a
//         channels-last map (convolution: one segment a tap, each with the row pointer shifted).
// panels: 16 columns side by side ("lanes"). Elements are f32: [depth][16], or bf16: [depth / 2][16][2] (pairs along
//         the depth next to each other, as dot-product instructions and tiles want them).
// C:      f32, row-major, any distance between rows; the last panel writes all its 16 lanes, so C has room for them.
//
// The element type follows from compute type and instruction set: a set without bf16 products computes bf16 with f32
// elements that were rounded to bf16 before (gemm_element below). With bf16 elements the depth of a segment is a multiple
// of GEMM_DEPTH_STEP: pack with zeros behind the end, in rows too (zeros in panels do not hide a NaN in rows).
// Sums run over the segments in order and over the depth in an order that is fixed for an instruction set.
#ifndef LIMN_TENSOR_CPU_GEMM_H
#define LIMN_TENSOR_CPU_GEMM_H

#include "tensor/cpu/cpu.h"

enum {
    GEMM_LANES = 16,
    GEMM_DEPTH_STEP = 32, // depths of bf16 products are multiples of this
};

struct gemm_segment {
    const void *rows;   // of the first row
    const void *panels; // of the first panel
};

struct gemm_product {
    const struct gemm_segment *segments;
    int segment_count;
    int64_t row_count, panel_count, depth; // depth: of each segment, in values
    int64_t row_stride;                    // values between rows
    int64_t panel_stride;                  // values between panels (16 * depth where they are dense)
    float *c;
    int64_t c_stride; // values between rows of C
    bool accumulate;  // C += ... rather than C = ...
    const void *next; // advice: panels (as many, as far apart) that the next product will read, or NULL
};

// What a row's softmax remembers between blocks of keys. Starts as {-INFINITY, {0}}.
struct softmax {
    float shift;
    float sums[GEMM_LANES]; // whose sum is the denominator
};

enum {
    SOFTMAX_SLACK = 30,
    GEMM_PROBABILITIES_DEPTH = 128,
    GEMM_PROBABILITIES_ROWS = 128,
};

typedef void gemm_function(const struct gemm_product *product);

// A product whose rows were packed, too: into tiles of 16 rows and 32 depths, [rows / 16][depth / 32][16][32] in bf16.
// Only whole pairs of tiles and of panels, padded with zeros where rows or columns end.
struct gemm_tiles {
    const uint16_t *rows, *panels;
    int64_t row_count, panel_count, depth; // multiples of 32, 2, 32
    int64_t row_stride;                    // values between 16 rows and the next 16
    int64_t panel_stride;                  // values between panels
    float *c;
    int64_t c_stride;
    bool accumulate;
    // Advice, NULL where there is none: what the next product will have for rows and c where it multiplies with the same
    // panels; and rows of memory, written soon, as many as the product has.
    const uint16_t *next_rows;
    const float *next_c;
    const void *written;
    int64_t written_bytes, written_stride; // of a row; bytes
};

struct gemm_kernels {
    const char *name;
    bool has_bf16; // whether product_bf16 is there; without it bf16 is computed in rounded f32 elements
    gemm_function *product_f32, *product_bf16;
    void (*product_tiles)(const struct gemm_tiles *product); // NULL where tiles are no faster than rows

    // Converts [count] values of F32, F16 or BF16 (one row) to elements; with [round] f32 elements are
    // rounded to bf16. `from` need not be aligned.
    void (*convert_f32)(enum dtype type, const void *from, int64_t count, bool round, float *to);
    void (*convert_bf16)(enum dtype type, const void *from, int64_t count, uint16_t *to);

    // Packs up to 16 rows of [depth] values (element type) at [row_stride] as the lanes of one panel of [padded] depth;
    // lanes from [rows] on and depths from [depth] on are zero.
    void (*pack_rows_f32)(const float *from, int64_t row_stride, int rows, int64_t depth, int64_t padded,
                          float *to);
    void (*pack_rows_bf16)(const uint16_t *from, int64_t row_stride, int rows, int64_t depth, int64_t padded,
                           uint16_t *to);
    // Packs [depth] rows of [lanes] <= 16 values as one panel whose depth runs along the rows.
    void (*pack_columns_f32)(const float *from, int64_t row_stride, int lanes, int64_t depth, int64_t padded,
                             float *to);
    void (*pack_columns_bf16)(const uint16_t *from, int64_t row_stride, int lanes, int64_t depth,
                              int64_t padded, uint16_t *to);

    // to[c * to_stride + r] = from[r * from_stride + c] for a [rows, columns] block of f32.
    void (*transpose)(const float *from, int64_t from_stride, int64_t rows, int64_t columns, float *to,
                      int64_t to_stride);

    // Values [at, at + count) of a stored row of any type as elements: decoded to f32 as stored_decode() does, to the bit,
    // and rounded once where the element is bf16 (or [round] says so). at and count as there, NVFP4's at a multiple of 16.
    void (*decode_f32)(const struct stored_row *row, int64_t at, int64_t count, bool round, float *to);
    void (*decode_bf16)(const struct stored_row *row, int64_t at, int64_t count, uint16_t *to);

    // y[n] = sum over k of stored[n, k] * x[k] for [row_count] rows [row_bytes] apart, each read once; with [round] the
    // stored values are rounded to bf16, or, where a set multiplies with the codes of a type, not at all, and those of x are
    // bf16 already. x: [depth] f32.
    void (*row_products)(const struct stored_row *first, size_t row_bytes, int64_t row_count, bool round,
                         const float *x, int64_t depth, float *y);

    // One step of attention's running softmax: turns a row of scores [count] (a multiple of 16) into
    // exp(scale * score - state->shift), adds them to the state's sums, and returns the factor by which what was summed
    // before must be multiplied (so are the sums already). Scores from [valid] on get 0. The results go to [p] as bf16,
    // or, where p is NULL, in place of the scores, rounded to bf16 with [round]. The shift need not be the maximum: it
    // follows when a score exceeds it by more than SOFTMAX_SLACK, which keeps every result in range. exp: relative error
    // below 1e-6 in f32, below 2e-4 (a twentieth of its rounding) where the result is bf16.
    float (*softmax_row)(float *scores, int64_t valid, int64_t count, float scale, struct softmax *state,
                         bool round, uint16_t *p);
    // Beside `probabilities`: brings a state's shift up to date with [valid] scores, as softmax_row does first.
    float (*softmax_shift)(const float *scores, int64_t valid, float scale, struct softmax *state);
    // Scores and softmax together, where a set can overlap them; NULL otherwise. For a product of queries and keys with a
    // depth of GEMM_PROBABILITIES_DEPTH, rows a multiple of 32 and at most GEMM_PROBABILITIES_ROWS, an even number of
    // panels, every key seen by every query, and states that have a shift: writes the probabilities to p as the rows of
    // product_tiles (p_stride: values between 16 rows and the next 16) and adds them to the states, as softmax_row would;
    // or returns false, with the states as they were, when scores exceed their row's shift by so much that the shift must
    // follow. A set that has this has product_tiles.
    bool (*probabilities)(const struct gemm_product *scores, float scale, struct softmax *states, uint16_t *p,
                          int64_t p_stride);
    void (*scale_row)(float *row, int64_t count, float factor); // row *= factor

    // Epilogues of one row of [count] outputs: r is the product, scaled and biased already.
    void (*bias_row)(float *r, const float *bias, int64_t count);               // r += bias
    void (*multiply_row)(float *r, const float *factors, int64_t count);        // r *= factors
    void (*store_row)(const float *r, int64_t count, enum dtype type, void *y); // y = r
    void (*add_row)(const float *r, const float *gate, int64_t count,
                    float *y); // y += gate * r; gate NULL: 1
    void (*gated_silu_row)(const float *a, const float *b, int64_t count, enum dtype type,
                           void *y); // silu(a) b
};

// The kernels of an instruction set; one that lacks a function has the next older set's.
const struct gemm_kernels *gemm_kernels_for(enum cpu_isa isa);

// The element type of rows and panels for a compute type: DTYPE_F32 or DTYPE_BF16.
static inline enum dtype gemm_element(const struct gemm_kernels *kernels, enum compute compute) {
    return compute != COMPUTE_F32 && kernels->has_bf16 ? DTYPE_BF16 : DTYPE_F32;
}

// Depth as panels hold it: rounded up to GEMM_DEPTH_STEP.
static inline int64_t gemm_depth(int64_t depth) {
    return (depth + GEMM_DEPTH_STEP - 1) / GEMM_DEPTH_STEP * GEMM_DEPTH_STEP;
}

// Runs a product with the element type's kernel.
static inline void gemm_run(const struct gemm_kernels *kernels, enum dtype element,
                            const struct gemm_product *product) {
    (element == DTYPE_BF16 ? kernels->product_bf16 : kernels->product_f32)(product);
}

#endif
