// Views of matrices and of weights. Relies on ops.h.
#include "tensor/ops.h"

#include <assert.h>

struct matrix matrix_dense(void *data, enum dtype type, int64_t rows, int64_t cols) {
    return (struct matrix){.data = data,
                           .type = type,
                           .batch = 1,
                           .rows = rows,
                           .cols = cols,
                           .row_stride = cols,
                           .batch_stride = rows * cols};
}

static struct matrix shifted(struct matrix matrix, int64_t values) {
    if (matrix.data) matrix.data = (char *)matrix.data + dtype_bytes(matrix.type, values);
    return matrix;
}

struct matrix matrix_rows(struct matrix matrix, int64_t first, int64_t count) {
    assert(first >= 0 && count >= 0 && first + count <= matrix.rows);
    matrix = shifted(matrix, first * matrix.row_stride);
    matrix.rows = count;
    return matrix;
}

struct matrix matrix_cols(struct matrix matrix, int64_t first, int64_t count) {
    assert(first >= 0 && count >= 0 && first + count <= matrix.cols);
    matrix = shifted(matrix, first);
    matrix.cols = count;
    return matrix;
}

struct matrix workspace_matrix(struct device *device, enum dtype type, int64_t rows, int64_t cols) {
    return matrix_dense(workspace_alloc(device, dtype_bytes(type, rows * cols)), type, rows, cols);
}

struct stored_row weight_row(const struct weight_rows *weights, int64_t row, int64_t cols) {
    return (struct stored_row){.type = weights->type,
                               .data = (const char *)weights->data + (size_t)row * weights->row_bytes,
                               .blocks = weights->blocks,
                               .index = row + weights->first_row +
                                        (weights->blocks ? weights->blocks->first_row : 0),
                               .cols = cols};
}
