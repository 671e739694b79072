// A tensor as a file holds it: a type, a shape and a pointer to contiguous row-major values. Relies on dtype.h.
#ifndef LIMN_TENSOR_TENSOR_H
#define LIMN_TENSOR_TENSOR_H

#include "tensor/dtype.h"

enum { TENSOR_RANK_MOST = 5 };

// Scales that a file keeps beside a tensor's codes, in tensors of their own. All memory is borrowed and on the host.
struct tensor_scales {
    // value = decoded code * rows[row * row_stride]; NULL: 1.
    const float *rows;
    int64_t row_stride; // 0: one for the whole tensor, 1: one a row

    // The scales of blocks along a row; the tensor may be a range of rows of the one that they were made for.
    //   NVFP4: E4M3, one for 16 values, row r and block c (r counted in the whole tensor) at byte
    //          ((r / 128) * block_columns / 4 + c / 4) * 512 + (r % 32) * 16 + (r % 128) / 32 * 4 + c % 4
    //   NF4:   one for block_values values of the whole tensor row-major, f32; or, where nested is set, u8 codes c of
    //          nested_values[c] * nested_scales[block / nested_block] + nested_offset
    const void *blocks;
    int64_t first_row;     // in the whole tensor, of row 0
    int64_t block_columns; // NVFP4: blocks a row, padded to a multiple of 4
    int64_t block_values;  // NF4: values a block (64), which divide a row
    const float *codebook; // NF4: [16], what the codes stand for
    bool nested;
    const float *nested_values; // [256]
    const float *nested_scales;
    int64_t nested_block; // blocks a nested scale (256)
    float nested_offset;
};

struct tensor {
    enum dtype type;
    int rank;                        // 0 (a scalar) to TENSOR_RANK_MOST
    int64_t shape[TENSOR_RANK_MOST]; // slowest first, as PyTorch prints it
    const void *data;                // borrowed, on the host; maybe unaligned
    size_t bytes;
    const struct tensor_scales *scales; // NULL: the codes are the values
};

int64_t tensor_values(const struct tensor *tensor); // the product of the shape, 1 for a scalar

// "[4096, 128]" into [text]; returns text.
char *tensor_shape_text(const struct tensor *tensor, char *text, size_t size);

#endif
