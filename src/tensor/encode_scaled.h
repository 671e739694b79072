// From f32 to the types whose scales lie beside the codes (tensor.h): fp8, NVFP4 and NF4, as `limn convert` writes them.
// Relies on stored.h.
//
// What was decoded is encoded to the same values again. For that the scales of fp8 and the one of a whole NVFP4 tensor have
// at most 16 significant bits, so that every product with a code is exact.
#ifndef LIMN_TENSOR_ENCODE_SCALED_H
#define LIMN_TENSOR_ENCODE_SCALED_H

#include "tensor/stored.h"

enum { ENCODE_NF4_BLOCK = 64 };

// No value may be larger: products with scales that were rounded up stay finite.
#define ENCODE_SCALED_MOST 0x1p127f

// Whether [type] is one of those above: F8_E4M3, F8_E5M2, NVFP4, NF4.
bool encode_has_scales(enum dtype type);

// Values that share a row's scales: rows must be a multiple of this. 1 for fp8.
int64_t encode_scaled_step(enum dtype type);

// The scale of values up to [most] in magnitude, 0 to ENCODE_SCALED_MOST: with it the largest fp8 number stands for [most],
// and in NVFP4 the largest code with the largest block scale. 1 where most is 0, never less than the smallest normal f32.
float encode_scale(enum dtype type, float most);

// [count] values as F8_E4M3 or F8_E5M2 times [scale], rounded to nearest even.
void encode_f8(enum dtype type, const float *from, int64_t count, float scale, uint8_t *codes);

// A row of [count] values, a multiple of 16, as NVFP4. Block scales are those with the least sum of squared errors, but for
// blocks that hold the tensor's largest magnitude [most], which keep theirs.
// whole: encode_scale() of [most]. scales: of the whole tensor, where stored_nvfp4_scale() looks for them, with
// [columns] blocks a row, a multiple of 4; the bytes of row [row] are set. codes: [count / 2].
void encode_nvfp4_row(const float *from, int64_t count, float most, float whole, uint8_t *scales,
                      int64_t columns, int64_t row, uint8_t *codes);

// What the codes of NF4 stand for (QLoRA, Dettmers et al., 2023, appendix E).
extern const float encode_nf4_codebook[16];

// [count] values, a multiple of 64, as NF4: a block's scale is its largest magnitude, each value takes the nearest code, of
// two as near the smaller one. absmax: [count / 64]; codes: [count / 2], the first value in the high nibble.
void encode_nf4(const float *from, int64_t count, float *absmax, uint8_t *codes);

#endif
