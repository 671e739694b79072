// The way of linear layers through products in 8 bits. Relies on linear.h.
#ifndef LIMN_TENSOR_CPU_LINEAR_INT8_H
#define LIMN_TENSOR_CPU_LINEAR_INT8_H

#include "tensor/cpu/linear.h"

enum {
    LINEAR_INT8_TOKENS = 64
}; // fewer do not pay for making codes of the weights: they are computed in bf16

// Whether a layer is computed in 8 bits: it asks for it, there are tokens enough, and a task has room for its side branches:
// ranks of about 1600 together.
bool linear_int8_takes(const struct linear *linear, int64_t tokens);

// The whole layer, epilogue included. Its branches are packed by linear_weights_pack.
void linear_int8(struct device *device, struct linear_job *job);

#endif
