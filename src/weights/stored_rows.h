// Stored matrices as the rows that products read: in the type that they have, with their scales. Relies on checkpoint.h, tensor.
#ifndef LIMN_WEIGHTS_STORED_ROWS_H
#define LIMN_WEIGHTS_STORED_ROWS_H

#include "tensor/ops.h"
#include "weights/checkpoint.h"

// Finds the matrix [name], [rows, in], of a type that products read: F32, F16, BF16, fp8, NVFP4, NF4 or a block type of GGUF.
// False with an error that names file and tensor.
bool stored_matrix(const struct checkpoint *checkpoint, const char *name, int64_t rows, int64_t in,
                   struct tensor *tensor, struct error *error);

// Whether the values of a tensor lie where products can read them: plain types on multiples of their size. A file may place
// tensors at any byte; one that does not is to be copied.
bool stored_aligned(const struct tensor *tensor);

// The rows of a matrix whose bytes lie at [data] (the tensor's own or a copy). Scales stay the tensor's.
struct weight_rows stored_rows(const struct tensor *tensor, const void *data);

// Rows [first, first + count), their scales with them.
struct weight_rows stored_rows_range(struct weight_rows rows, int64_t first, int64_t count);

#endif
