// Views of stored matrices. Relies on stored_rows.h.
#include "weights/stored_rows.h"

bool stored_matrix(const struct checkpoint *checkpoint, const char *name, int64_t rows, int64_t in,
                   struct tensor *tensor, struct error *error) {
    int64_t shape[2] = {rows, in};
    if (!checkpoint_get(checkpoint, tensor, 2, shape, error, "%s", name)) return false;
    return tensor->type != DTYPE_F64 ||
           error_set(error, ERROR_UNSUPPORTED,
                     "%s: tensor \"%s\": stored as F64, expected F32, F16, BF16 or a quantised type",
                     checkpoint_find(checkpoint, name)->file, name);
}

bool stored_aligned(const struct tensor *tensor) {
    const bool plain = tensor->type == DTYPE_F32 || tensor->type == DTYPE_F16 || tensor->type == DTYPE_BF16;
    return !plain || (uintptr_t)tensor->data % dtype_bytes(tensor->type, 1) == 0;
}

struct weight_rows stored_rows(const struct tensor *tensor, const void *data) {
    const struct tensor_scales *scales = tensor->scales;
    const bool blocks = tensor->type == DTYPE_NVFP4 || tensor->type == DTYPE_NF4;
    return (struct weight_rows){.data = data,
                                .type = tensor->type,
                                .rows = tensor->shape[0],
                                .row_bytes = dtype_bytes(tensor->type, tensor->shape[1]),
                                .scales = scales ? scales->rows : NULL,
                                .scale_stride = scales ? scales->row_stride : 0,
                                .blocks = blocks ? scales : NULL};
}

struct weight_rows stored_rows_range(struct weight_rows rows, int64_t first, int64_t count) {
    rows.data = (const char *)rows.data + (size_t)first * rows.row_bytes;
    if (rows.scales) rows.scales += first * rows.scale_stride;
    rows.first_row += first;
    rows.rows = count;
    return rows;
}
