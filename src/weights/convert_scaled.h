// A matrix in a type whose scales lie beside its codes: which tensors it becomes in a safetensors file (companions.h), and their
// bytes. Private to convert.c and convert_scaled.c. Relies on convert_names.h, tensor/encode_scaled.h.
//
//   F8_E4M3, F8_E5M2   X.weight, X.weight_scale ([] or [rows, 1]), X.comfy_quant: as ComfyUI has them
//   NVFP4              X.weight [rows, cols / 2], X.weight_scale, X.weight_scale_2, X.comfy_quant: as ComfyUI has them
//   NF4                X.weight [rows * cols / 2, 1], X.weight.absmax, .quant_map, .quant_state.bitsandbytes__nf4: as
//                      bitsandbytes has them
#ifndef LIMN_WEIGHTS_CONVERT_SCALED_H
#define LIMN_WEIGHTS_CONVERT_SCALED_H

#include "tensor/encode_scaled.h"
#include "weights/convert_names.h"

enum { SCALED_TENSORS_MOST = 4 };

// Whether a matrix can have the type: a name that ends in ".weight", and rows that are a multiple of encode_scaled_step().
bool scaled_fits(const struct recipe *recipe, enum dtype type);

// Plans the tensors, the codes first. Returns how many there are, at most SCALED_TENSORS_MOST; 0 when memory is gone.
int scaled_plan(const struct recipe *recipe, enum dtype type, bool row_scales, struct arena *arena,
                struct planned_tensor *tensors);

struct scaled_matrix;

// tensors: what scaled_plan() gave, borrowed. NULL when memory is gone; to be closed.
struct scaled_matrix *scaled_open(const struct recipe *recipe, enum dtype type, bool row_scales,
                                  const struct planned_tensor *tensors, int count);
void scaled_close(struct scaled_matrix *matrix); // NULL is fine

// Whether the largest magnitude of the whole matrix must be known before rows are encoded.
bool scaled_wants_most(const struct scaled_matrix *matrix);
// most: that magnitude, at most ENCODE_SCALED_MOST. kept: the scale that a source of the same type has for all of it, with which
// its codes stay what they are; 0: none.
void scaled_set_most(struct scaled_matrix *matrix, float most, float kept);

// Bytes of the codes of a row.
size_t scaled_row_bytes(const struct scaled_matrix *matrix);
// Encodes row [row], whose values are at most ENCODE_SCALED_MOST, to [codes] and into what lies beside. kept: as above, of
// this row, where each has a scale of its own. From any thread, each row once.
void scaled_encode_row(struct scaled_matrix *matrix, int64_t row, const float *values, float kept,
                       uint8_t *codes);

// Bytes of tensor [index], 1 and more, when all rows are encoded.
const void *scaled_beside(const struct scaled_matrix *matrix, int index, size_t *bytes);

#endif
