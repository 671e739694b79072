// Rows of weights as they are stored, and their way to f32: every type of dtype.h that holds real numbers, the types whose
// block scales lie elsewhere among them. Relies on tensor.h.
#ifndef LIMN_TENSOR_STORED_H
#define LIMN_TENSOR_STORED_H

#include "tensor/tensor.h"

enum {
    STORED_NVFP4_GROUP = 16, // values that share a scale
    STORED_STEP_MOST = 256,  // the largest stored_step()
};

// One row of [cols] stored values. Nothing of it is owned.
struct stored_row {
    enum dtype type;
    const void *data;                   // of value 0; any alignment
    const struct tensor_scales *blocks; // NVFP4 and NF4, otherwise not read
    int64_t index;                      // NVFP4 and NF4: of the row in the tensor whose scales [blocks] holds
    int64_t cols;                       // NF4: values a row, a multiple of blocks->block_values
};

// Values that are decoded together: a stretch of a row may start at multiples of this, and where it does not go to the end
// of the row it ends at one. 1 for plain types, the block of a block type, 2 for NVFP4 and NF4.
static inline int64_t stored_step(enum dtype type) {
    return dtype_info(type)->block_values;
}

// Decodes values [at, at + count) of a row to f32: the code's value times the scale of its block, where NF4's nested scale
// is rounded after its product and after its sum, as bitsandbytes does it. Scales of rows (tensor_scales.rows) are not
// applied. at and count: multiples of stored_step(). Returns false for a type that holds no real numbers.
bool stored_decode(const struct stored_row *row, int64_t at, int64_t count, float *to);

// The scale of the 16 values from [at] on of an NVFP4 row, and of the block around value [at] of an NF4 row.
float stored_nvfp4_scale(const struct stored_row *row, int64_t at);
float stored_nf4_scale(const struct stored_row *row, int64_t at);

// What the codes of NVFP4 stand for (E2M1: sign, two bits of exponent, one of fraction).
extern const float stored_e2m1[16];

// A tensor as rows: [shape[0]] of them where the rank is 2 or more, else one.
int64_t tensor_rows(const struct tensor *tensor);
int64_t tensor_cols(const struct tensor *tensor);
struct stored_row tensor_row(const struct tensor *tensor, int64_t row);

// Decodes row [row] of a tensor to its values, scales of rows included. to: [tensor_cols]. False as stored_decode().
bool tensor_decode_row(const struct tensor *tensor, int64_t row, float *to);

#endif
