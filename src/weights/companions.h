// Tensors beside tensors: what a quantised checkpoint keeps its scales in. Relies on checkpoint.h.
//
// Read here, each into the tensor's own type, logical shape and struct tensor_scales; the companions are then no entries of
// their own any more:
//   scaled fp8 (ComfyUI)  X.weight F8, F16, BF16 or F32 with X.weight_scale or X.scale_weight: one value, [out] or [out, 1]
//   NVFP4 (ComfyUI)       X.weight U8 [out, in / 2], X.weight_scale F8_E4M3 [out padded to 128, in / 16 padded to 4],
//                         X.weight_scale_2 one value
//   nf4 (bitsandbytes)    X U8 with X.quant_state.bitsandbytes__nf4 (JSON), X.absmax, X.quant_map, and X.nested_absmax,
//                         X.nested_quant_map where the block scales are codes themselves
// X.input_scale, X.scale_input and the tensor scaled_fp8 are for products with quantised activations and are left out, and so
// are X.comfy_quant (JSON) and the header's "_quantization_metadata", after their format was held against the tensor.
#ifndef LIMN_WEIGHTS_COMPANIONS_H
#define LIMN_WEIGHTS_COMPANIONS_H

#include "weights/checkpoint.h"

// Attaches the companions of every tensor, in place. Errors name file, tensor and companion: a shape or type that does not
// belong to the tensor's, a companion without a tensor, a format that limn does not read (by its name).
bool companions_attach(struct checkpoint *checkpoint, struct error *error);

// What the scales of a tensor are, in a word for people: "one scale", "a scale a row", "NVFP4 blocks", "nf4 blocks", "nested
// nf4 blocks"; NULL where it has none.
const char *companions_text(const struct tensor *tensor);

#endif
