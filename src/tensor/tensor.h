// A tensor as a file holds it: a type, a shape and a pointer to contiguous row-major values. Relies on dtype.h.
#ifndef LIMN_TENSOR_TENSOR_H
#define LIMN_TENSOR_TENSOR_H

#include "tensor/dtype.h"

enum { TENSOR_RANK_MOST = 5 };

struct tensor {
    enum dtype type;
    int rank;                        // 0 (a scalar) to TENSOR_RANK_MOST
    int64_t shape[TENSOR_RANK_MOST]; // slowest first, as PyTorch prints it
    const void *data;                // borrowed, on the host; maybe unaligned
    size_t bytes;
};

int64_t tensor_values(const struct tensor *tensor); // the product of the shape, 1 for a scalar

// "[4096, 128]" into [text]; returns text.
char *tensor_shape_text(const struct tensor *tensor, char *text, size_t size);

#endif
