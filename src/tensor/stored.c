// Stored rows in plain C: the oracle of the vector kernels. Relies on stored.h, block.h.
#include "tensor/stored.h"

#include "tensor/block.h"

const float stored_e2m1[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                               -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

// The layout of the scales is cuBLAS's for block-scaled operands: tiles of 128 rows and 4 blocks (tensor.h).
float stored_nvfp4_scale(const struct stored_row *row, int64_t at) {
    const int64_t r = row->index, c = at / STORED_NVFP4_GROUP, columns = row->blocks->block_columns;
    const int64_t byte = (r / 128 * (columns / 4) + c / 4) * 512 + r % 32 * 16 + r % 128 / 32 * 4 + c % 4;
    return f8_e4m3_to_f32(((const uint8_t *)row->blocks->blocks)[byte]);
}

float stored_nf4_scale(const struct stored_row *row, int64_t at) {
    const struct tensor_scales *scales = row->blocks;
    const int64_t block = (row->index * row->cols + at) / scales->block_values;
    if (!scales->nested) {
        float scale;
        dtype_decode(DTYPE_F32, (const char *)scales->blocks + 4 * block, &scale, 1);
        return scale;
    }
    const uint8_t code = ((const uint8_t *)scales->blocks)[block];
    const float product = scales->nested_values[code] * scales->nested_scales[block / scales->nested_block];
    return product + scales->nested_offset;
}

static int code_at(const struct stored_row *row, int64_t at) {
    return ((const uint8_t *)row->data)[at / 2] >> (at % 2 ? 0 : 4) & 15;
}

bool stored_decode(const struct stored_row *row, int64_t at, int64_t count, float *to) {
    if (row->type == DTYPE_NVFP4) {
        float scale = 0;
        for (int64_t i = 0; i < count; i++) {
            if (i == 0 || (at + i) % STORED_NVFP4_GROUP == 0) scale = stored_nvfp4_scale(row, at + i);
            to[i] = stored_e2m1[code_at(row, at + i)] * scale;
        }
        return true;
    }
    if (row->type == DTYPE_NF4) {
        float scale = 0;
        for (int64_t i = 0; i < count; i++) {
            if (i == 0 || (at + i) % row->blocks->block_values == 0) scale = stored_nf4_scale(row, at + i);
            to[i] = row->blocks->codebook[code_at(row, at + i)] * scale;
        }
        return true;
    }
    return dtype_decode(row->type, (const char *)row->data + dtype_bytes(row->type, at), to, count);
}

int64_t tensor_rows(const struct tensor *tensor) {
    return tensor->rank >= 2 ? tensor->shape[0] : 1;
}

int64_t tensor_cols(const struct tensor *tensor) {
    int64_t cols = 1;
    for (int i = tensor->rank >= 2; i < tensor->rank; i++) cols *= tensor->shape[i];
    return cols;
}

struct stored_row tensor_row(const struct tensor *tensor, int64_t row) {
    const int64_t cols = tensor_cols(tensor);
    return (struct stored_row){.type = tensor->type,
                               .data = (const char *)tensor->data + dtype_bytes(tensor->type, row * cols),
                               .blocks = tensor->scales,
                               .index = row + (tensor->scales ? tensor->scales->first_row : 0),
                               .cols = cols};
}

bool tensor_decode_row(const struct tensor *tensor, int64_t row, float *to) {
    const struct stored_row stored = tensor_row(tensor, row);
    if (!stored_decode(&stored, 0, stored.cols, to)) return false;
    if (!tensor->scales || !tensor->scales->rows) return true;
    const float scale = tensor->scales->rows[row * tensor->scales->row_stride];
    for (int64_t i = 0; i < stored.cols; i++) to[i] *= scale;
    return true;
}
