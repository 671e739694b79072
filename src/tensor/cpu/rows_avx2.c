// Row kernels for AVX2. Relies on rows_vector.h.
#include "tensor/cpu/lanes_avx2.h"
#include "tensor/cpu/rows_vector.h"

const struct row_kernels rows_avx2 = ROWS_VECTOR_TABLE;
