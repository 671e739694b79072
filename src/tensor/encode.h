// From f32 to the stored types: what `limn convert` writes. Relies on dtype.h, block.h.
#ifndef LIMN_TENSOR_ENCODE_H
#define LIMN_TENSOR_ENCODE_H

#include "tensor/dtype.h"

// Whether there is a way to [type] that needs nothing beside the values: F32, F16, BF16, the fp8 types and every block type.
bool dtype_encodes(enum dtype type);

// Encodes [count] values, a multiple of the block, as [type]. to: dtype_bytes(type, count) bytes, any alignment.
// The same values give the same bytes on every machine.
//
// F16, BF16, F8_E4M3, F8_E5M2: each value rounded to nearest even (dtype.h says what becomes of large ones). Q8_0, Q4_0, Q4_1,
// Q5_0 and Q5_1 are those of gguf-py's quants.py to the byte: scales from the extremes. The others minimise the sum of
// squared errors by search (encode_k.c, encode_k_centred.c, encode_iq4.c). What was decoded from Q8_0, IQ4_NL or a plain type
// gives the same values again.
//
// Returns false when there is no way to [type], or when a block type cannot hold a block: a value that is not finite, or a
// scale beyond 65504 (values beyond that times the largest code). What stands in [to] then is of no use.
bool dtype_encode(enum dtype type, const float *from, void *to, int64_t count);

// One block; the values are finite. False when a scale does not fit.
bool encode_q2_k(const float *x, uint8_t *block);
bool encode_q3_k(const float *x, uint8_t *block);
bool encode_q4_k(const float *x, uint8_t *block);
bool encode_q5_k(const float *x, uint8_t *block);
bool encode_q6_k(const float *x, uint8_t *block);
bool encode_iq4_nl(const float *x, uint8_t *block);
bool encode_iq4_xs(const float *x, uint8_t *block);

#endif
