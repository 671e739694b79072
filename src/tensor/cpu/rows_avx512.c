// Row kernels for AVX-512. Relies on rows_vector.h.
#include "tensor/cpu/lanes_avx512.h"
#include "tensor/cpu/rows_vector.h"

const struct row_kernels rows_avx512 = ROWS_VECTOR_TABLE;
