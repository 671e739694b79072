// The operations that a model is written in. A backend fills the table; models call `device->ops->...`.
// Relies on device.h, tensor.h.
//
// DESIGN. An op takes the device first, reads operands that lie on the device, and writes results there; it never looks
// at a value on the host and never fails by itself (a failure, out of memory say, is kept in device->status and the
// ops after it do nothing). Shapes that do not fit are a programmer's error: assert. Operands may be row views with any
// row stride. Reductions have a fixed order that does not depend on the number of threads: for one instruction set the
// same operands give the same bytes. The plain C filling (cpu/plain*.c) is the oracle of every other.
//
// Activations: the residual stream is f32; what products read ("compute type") is f32 or bf16, see enum compute. An op
// that writes compute-type values rounds once, to nearest even, at the end.
#ifndef LIMN_TENSOR_OPS_H
#define LIMN_TENSOR_OPS_H

#include "tensor/device.h"
#include "tensor/stored.h"
#include "tensor/tensor.h"

// A view of rows: [batch, rows, cols] with strides in values. type: F32 or BF16.
struct matrix {
    void *data;
    enum dtype type;
    int64_t batch, rows, cols;
    int64_t row_stride;   // values between rows, >= cols
    int64_t batch_stride; // values between batch entries; unused where batch is 1
};

// A dense [1, rows, cols] matrix over [data].
struct matrix matrix_dense(void *data, enum dtype type, int64_t rows, int64_t cols);
// Rows [first, first + count) and columns [first, first + count) of a matrix.
struct matrix matrix_rows(struct matrix matrix, int64_t first, int64_t count);
struct matrix matrix_cols(struct matrix matrix, int64_t first, int64_t count);
// A dense [1, rows, cols] matrix in fresh workspace.
struct matrix workspace_matrix(struct device *device, enum dtype type, int64_t rows, int64_t cols);

// ---------------------------------------------------------------------------------------------------------- linear

// Some rows of a stored weight matrix [rows, in], used in the type they have in the file.
struct weight_rows {
    const void *data; // device memory (device_weights); rows are contiguous in themselves
    enum dtype type;  // F32, F16, BF16, fp8, block types, NVFP4, NF4
    int64_t rows;
    size_t row_bytes;     // bytes from a row to the next
    const float *scales;  // NULL: 1. Otherwise value = stored * scales[row * scale_stride]
    int64_t scale_stride; // 0: one for all; 1: one a row
    const struct tensor_scales
        *blocks; // NVFP4 and NF4: their block scales (its rows and row_stride are not read here)
    int64_t
        first_row; // of these rows in the tensor that [blocks] belongs to (and which may begin at blocks->first_row)
};

// Row [row] of weights with [cols] columns.
struct stored_row weight_row(const struct weight_rows *weights, int64_t row, int64_t cols);

// A side branch y += scale * up (down x): a LoRA beside weights that stay as they are.
struct low_rank {
    struct weight_rows down; // [rank, in]
    struct weight_rows up;   // [out, rank]
    int64_t first_output;    // where the rows of up stand in the output
    float scale;
};

enum { LINEAR_PARTS_MOST = 4, LINEAR_BRANCHES_MOST = 24 };

// y = W x (+ bias), W the parts one below the other: to_q, to_k, to_v in one product. in, out in values.
struct linear {
    int64_t in, out;
    enum compute compute;
    int part_count;
    struct weight_rows parts[LINEAR_PARTS_MOST];
    const float *bias; // [out] f32 or NULL
    int branch_count;
    struct low_rank branches[LINEAR_BRANCHES_MOST];
};

// Modulation of a range of rows; shift, scale, gate: [cols] f32 on the device, NULL where not used.
// An array of these covers the rows from 0 on, each from where the last ended.
struct modulation {
    int64_t end; // first row behind the range; the last one's must be >= rows
    const float *shift, *scale, *gate;
};

enum epilogue_kind {
    EPILOGUE_STORE,      // y = r                       y: f32 or bf16
    EPILOGUE_ADD,        // y += r                      y: f32
    EPILOGUE_GATED_ADD,  // y += gate * r               y: f32; gate of the row's modulation
    EPILOGUE_GATED_SILU, // y = silu(r[:out/2]) * r[out/2:]   y: [rows, out/2], f32 or bf16
};

struct epilogue {
    enum epilogue_kind kind;
    const struct modulation *modulations; // GATED_ADD only
    int modulation_count;
};

// ------------------------------------------------------------------------------------------------------- attention

enum rope_pairing {
    ROPE_INTERLEAVED, // pairs (2i, 2i+1): FLUX
    ROPE_HALVES,      // pairs (i, i + head_dim/2): Mistral, Qwen
};

// softmax(scale q k^T + mask) v for each head; query head h reads key/value head h / (heads / kv_heads).
// A query row i (0-based) sees keys [key_begin, key_end); with causal set, only those <= i + query_offset.
// A query that sees no key gives zeros (as PyTorch's scaled_dot_product_attention does).
struct attention {
    int heads, kv_heads, head_dim; // head_dim 8 to 512, a multiple of 8
    float scale;
    bool causal;
    int64_t query_offset;       // position of query row 0 among the keys
    int64_t key_begin, key_end; // key_end <= rows of k; 0, 0 means all
};

// ----------------------------------------------------------------------------------------------------- convolution

// Feature maps lie channels-last: [batch, height, width, channels], dense. type: F32 or BF16.
struct feature_map {
    void *data;
    enum dtype type;
    int64_t batch, height, width, channels;
};

enum conv_padding {
    CONV_SAME,         // kernel 3: one zero on every side; kernel 1: none
    CONV_RIGHT_BOTTOM, // kernel 3, stride 2: one zero right and below only
};

// A convolution whose weights [out, in, kernel, kernel] were repacked once for the backend (conv_pack).
struct conv {
    int64_t in, out;
    int kernel; // 1 or 3
    int stride; // 1 or 2 (2 with CONV_RIGHT_BOTTOM)
    enum conv_padding padding;
    bool upsample2; // nearest-neighbour doubling first: the kernel (3, stride 1) sees [2 height, 2 width]
    enum compute compute;
    void *packed;      // device_alloc'ed
    const float *bias; // [out] f32 or NULL
};

// What happens to the input on its way in: x' = silu(x * scale[c] + shift[c]), each part optional. Doubling and zero
// padding are applied behind it.
struct conv_input {
    const float *scale,
        *shift; // [batch, channels] f32 or NULL: group normalisation, already with its affine part
    bool silu;
};

// ------------------------------------------------------------------------------------------------------- the table

struct ops {
    const char *name; // "cpu"

    // y = epilogue(x W^T). x: [batch, rows, in] f32 or bf16 (rounded to the compute type where it is wider);
    // y: [batch, rows, out]. x and y do not overlap. A single row takes a path of its own (bound by the weights'
    // bandwidth).
    void (*linear)(struct device *, const struct linear *, struct matrix x, const struct epilogue *,
                   struct matrix y);

    // y = (1 + scale) * LN(x) + shift per row, LN without affine part, population variance.
    // x: f32; y: f32 or bf16, same shape. A NULL scale or shift is 0.
    void (*layer_norm_modulate)(struct device *, struct matrix x, float eps,
                                const struct modulation *modulations, int modulation_count, struct matrix y);

    // y = x / sqrt(mean(x^2) + eps) * weight per row. weight: [cols] f32. x: f32; y: f32 or bf16.
    void (*rms_norm)(struct device *, struct matrix x, const float *weight, float eps, struct matrix y);

    // In place on heads side by side, x: [rows, heads * head_dim], f32 or bf16: RMS norm of each head with weight [head_dim]
    // (NULL: none), then rotation by cosines and sines [rows, head_dim / 2] f32 (NULL: none). Computed in f32.
    void (*norm_rope)(struct device *, struct matrix x, int heads, const float *weight, float eps,
                      const float *cosines, const float *sines, enum rope_pairing pairing);

    // q: [batch, queries, heads * head_dim]; k, v: [batch, keys, kv_heads * head_dim]; out like q. All of one type, f32 or
    // bf16; scores, softmax and sums in f32 (bf16: probabilities are rounded to bf16 for the second product).
    void (*attention)(struct device *, const struct attention *, struct matrix q, struct matrix k,
                      struct matrix v, struct matrix out);

    // Upper bounds of the workspace that the two above take for themselves, in bytes, beside their operands: linear for [rows] of x
    // without side branches, attention for [keys] of k.
    int64_t (*linear_bytes)(struct device *, int64_t in, int64_t rows);
    int64_t (*attention_bytes)(struct device *, const struct attention *, int64_t keys);

    // y[i] = row tokens[i] of table. tokens: host array (copied before the call returns), each checked by the caller to be
    // < table->rows. y: [count, cols] f32.
    void (*embed)(struct device *, const struct weight_rows *table, const int32_t *tokens, int64_t count,
                  struct matrix y);

    // e[k] = cos(value w_k), e[width/2 + k] = sin(value w_k), w_k = exp(-ln(10000) k / (width/2)).
    // (flip_sin_to_cos, no downscale shift; computed in f32 as the reference does.) e: [1, width] f32.
    void (*timestep_embedding)(struct device *, float value, struct matrix e);

    void (*silu)(struct device *, struct matrix x, struct matrix y); // y = x / (1 + exp(-x)); f32 or bf16
    void (*add)(struct device *, struct matrix x, float factor, struct matrix y); // y += factor * x; both f32
    void (*copy)(struct device *, struct matrix x, struct matrix y);              // converts f32 <-> bf16

    // Weights [out, in, kernel, kernel] of any real type into the backend's own order; conv->packed is set (free it with
    // device_free). The other fields of conv must be set. False with an error when memory is gone or a weight is not finite.
    bool (*conv_pack)(struct device *, struct conv *, const struct tensor *weights, struct error *error);

    // y = conv(input(x)) + bias (+ residual). input: NULL leaves x as it is. residual: like y, or NULL; may be y itself.
    // y does not overlap x. In bf16 the operands are x' and the weights, each rounded to bf16; where the input is doubled a
    // backend may add up weights that meet the same value before it rounds them.
    void (*conv2d)(struct device *, const struct conv *, const struct feature_map *x,
                   const struct conv_input *input, const struct feature_map *residual, struct feature_map *y);

    // Group normalisation's statistics turned into scale and shift per channel: scale[c] = weight[c] / sqrt(var + eps),
    // shift[c] = bias[c] - mean * scale[c]. x: any size; weight, bias: [channels] f32; scale, shift: [batch, channels]
    // f32. The sum order is fixed; mean and variance are accurate for large maps (f64 or pairwise).
    void (*group_norm)(struct device *, const struct feature_map *x, int groups, float eps,
                       const float *weight, const float *bias, float *scale, float *shift);

    // y = x * scale[c] + shift[c] (+ silu), map to map; for what is not followed by a convolution.
    void (*scale_shift)(struct device *, const struct feature_map *x, const float *scale, const float *shift,
                        bool silu, struct feature_map *y);
};

#endif
