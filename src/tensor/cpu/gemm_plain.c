// The product kernels in plain C: the oracle of the others, written so that a compiler can vectorise the inner loops.
// Relies on gemm_isa.h.
#include "tensor/cpu/gemm_isa.h"

#include <math.h>
#include <string.h>

enum { LANES = GEMM_LANES };

// -------------------------------------------------------------------------------------------------------- products

// C[rows, lanes] for up to 4 rows and one panel.
static void product_4(const struct gemm_product *p, int64_t row, int rows, int64_t panel) {
    float sums[4][LANES] = {{0}};
    for (int r = 0; r < rows && p->accumulate; r++)
        memcpy(sums[r], p->c + (row + r) * p->c_stride + panel * LANES, sizeof sums[r]);
    for (int s = 0; s < p->segment_count; s++) {
        const float *a = (const float *)p->segments[s].rows + row * p->row_stride;
        const float *b = (const float *)p->segments[s].panels + panel * p->panel_stride;
        for (int64_t d = 0; d < p->depth; d++, b += LANES)
            for (int r = 0; r < rows; r++) {
                const float value = a[r * p->row_stride + d];
                for (int lane = 0; lane < LANES; lane++) sums[r][lane] += value * b[lane];
            }
    }
    for (int r = 0; r < rows; r++)
        memcpy(p->c + (row + r) * p->c_stride + panel * LANES, sums[r], sizeof sums[r]);
}

void gemm_product_f32_plain(const struct gemm_product *p) {
    for (int64_t panel = 0; panel < p->panel_count; panel++)
        for (int64_t row = 0; row < p->row_count; row += 4) {
            if (p->row_count - row >= 4)
                product_4(p, row, 4, panel);
            else
                product_4(p, row, (int)(p->row_count - row), panel);
        }
}

// ------------------------------------------------------------------------------------------- conversion and packing

void gemm_convert_f32_plain(enum dtype type, const void *from, int64_t count, bool round, float *to) {
    const char *bytes = from;
    if (type == DTYPE_F32) memcpy(to, from, (size_t)count * sizeof *to);
    for (int64_t i = 0; i < count && type != DTYPE_F32; i++) {
        uint16_t bits;
        memcpy(&bits, bytes + 2 * i, sizeof bits);
        to[i] = type == DTYPE_BF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
    }
    for (int64_t i = 0; i < count && round && type != DTYPE_BF16; i++)
        to[i] = bf16_to_f32(f32_to_bf16(to[i]));
}

void gemm_pack_rows_f32_plain(const float *from, int64_t row_stride, int rows, int64_t depth, int64_t padded,
                              float *to) {
    for (int64_t d = 0; d < padded; d++)
        for (int r = 0; r < LANES; r++)
            to[d * LANES + r] = r < rows && d < depth ? from[r * row_stride + d] : 0;
}

void gemm_pack_columns_f32_plain(const float *from, int64_t row_stride, int lanes, int64_t depth,
                                 int64_t padded, float *to) {
    for (int64_t d = 0; d < padded; d++)
        for (int r = 0; r < LANES; r++)
            to[d * LANES + r] = r < lanes && d < depth ? from[d * row_stride + r] : 0;
}

void gemm_transpose_plain(const float *from, int64_t from_stride, int64_t rows, int64_t columns, float *to,
                          int64_t to_stride) {
    for (int64_t c = 0; c < columns; c++)
        for (int64_t r = 0; r < rows; r++) to[c * to_stride + r] = from[r * from_stride + c];
}

void gemm_decode_f32_plain(const struct stored_row *row, int64_t at, int64_t count, bool round, float *to) {
    stored_decode(row, at, count, to);
    for (int64_t i = 0; i < count && round; i++) to[i] = bf16_to_f32(f32_to_bf16(to[i]));
}

// ------------------------------------------------------------------------------------------------------ single rows

void gemm_row_products_plain(const struct stored_row *first, size_t row_bytes, int64_t row_count, bool round,
                             const float *x, int64_t depth, float *y) {
    enum { CHUNK = 256 };
    _Static_assert(CHUNK % STORED_STEP_MOST == 0, "a chunk ends where a block does");
    float values[CHUNK];
    struct stored_row stored = *first;
    for (int64_t row = 0; row < row_count; row++, stored.index++) {
        float sums[LANES] = {0}, total = 0;
        for (int64_t at = 0; at < depth; at += CHUNK) {
            const int64_t count = depth - at < CHUNK ? depth - at : CHUNK;
            memset(values, 0, sizeof values);
            gemm_decode_f32_plain(&stored, at, count, round, values);
            for (int64_t i = 0; i < count; i += LANES)
                for (int lane = 0; lane < LANES; lane++)
                    sums[lane] += values[i + lane] * (i + lane < count ? x[at + i + lane] : 0);
        }
        for (int lane = 0; lane < LANES; lane++) total += sums[lane];
        y[row] = total;
        stored.data = (const char *)stored.data + row_bytes;
    }
}

float gemm_softmax_row_plain(float *scores, int64_t valid, int64_t count, float scale, struct softmax *state,
                             bool round, uint16_t *p) {
    const float before = state->shift;
    float most = -INFINITY, factor = 1;
    for (int64_t i = 0; i < valid; i++) most = fmaxf(most, scores[i] * scale);
    if (most > before + SOFTMAX_SLACK || (before == -INFINITY && valid > 0)) {
        state->shift = most;
        factor = expf(before - most);
        for (int i = 0; i < LANES; i++) state->sums[i] *= factor;
    }
    for (int64_t i = 0; i < count; i++) {
        const float value = i < valid ? expf(scores[i] * scale - state->shift) : 0;
        state->sums[i % LANES] += value;
        if (p)
            p[i] = f32_to_bf16(value);
        else
            scores[i] = round ? bf16_to_f32(f32_to_bf16(value)) : value;
    }
    return factor;
}

// -------------------------------------------------------------------------------------------------------- epilogues

void gemm_scale_row_plain(float *row, int64_t count, float factor) {
    for (int64_t i = 0; i < count; i++) row[i] *= factor;
}

void gemm_bias_row_plain(float *r, const float *bias, int64_t count) {
    for (int64_t i = 0; i < count; i++) r[i] += bias[i];
}

void gemm_multiply_row_plain(float *r, const float *factors, int64_t count) {
    for (int64_t i = 0; i < count; i++) r[i] *= factors[i];
}

void gemm_store_row_plain(const float *r, int64_t count, enum dtype type, void *y) {
    if (type == DTYPE_F32) memcpy(y, r, (size_t)count * sizeof *r);
    for (int64_t i = 0; i < count && type == DTYPE_BF16; i++) ((uint16_t *)y)[i] = f32_to_bf16(r[i]);
}

void gemm_add_row_plain(const float *r, const float *gate, int64_t count, float *y) {
    if (gate)
        for (int64_t i = 0; i < count; i++) y[i] += gate[i] * r[i];
    else
        for (int64_t i = 0; i < count; i++) y[i] += r[i];
}

void gemm_gated_silu_row_plain(const float *a, const float *b, int64_t count, enum dtype type, void *y) {
    for (int64_t i = 0; i < count; i++) {
        const float value = a[i] / (1 + expf(-a[i])) * b[i];
        if (type == DTYPE_F32)
            ((float *)y)[i] = value;
        else
            ((uint16_t *)y)[i] = f32_to_bf16(value);
    }
}
