// Products in 8 bits in plain C: the oracle of the others. Relies on gemm_int8.h.
#include "tensor/cpu/gemm_int8.h"

#include <math.h>
#include <string.h>

enum { LANES = GEMM_LANES };

static float value_at(enum dtype type, const void *from, int64_t at) {
    const char *bytes = (const char *)from + at * (type == DTYPE_F32 ? 4 : 2);
    float value;
    uint16_t bits;
    if (type == DTYPE_F32) {
        memcpy(&value, bytes, sizeof value);
        return value;
    }
    memcpy(&bits, bytes, sizeof bits);
    return type == DTYPE_BF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

float int8_quantise_plain(enum dtype type, const void *from, int64_t count, uint8_t flip, uint8_t *to) {
    float most = 0;
    bool finite = true;
    for (int64_t i = 0; i < count; i++) {
        const float size = fabsf(value_at(type, from, i));
        finite = finite && isfinite(size);
        if (size > most) most = size;
    }
    memset(to, flip, ((size_t)count + INT8_STEP - 1) / INT8_STEP * INT8_STEP);
    if (!finite) return NAN;
    if (most < INT8_LEAST) return 0;
    const float inverse = 127 / most;
    for (int64_t i = 0; i < count; i++)
        to[i] = (uint8_t)((uint8_t)lrintf(value_at(type, from, i) * inverse) ^ flip);
    return most / 127;
}

void int8_pack_plain(const uint8_t *codes, int rows, int64_t depth, struct int8_panel *to) {
    for (int lane = 0; lane < LANES; lane++) {
        int32_t sum = 0;
        for (int64_t d = 0; d < (depth + INT8_STEP - 1) / INT8_STEP * INT8_STEP; d++) {
            const int8_t code = lane < rows && d < depth ? (int8_t)codes[lane * INT8_ROW_BYTES + d] : 0;
            to->codes[d / 4][lane][d % 4] = code;
            sum += code;
        }
        to->start[lane] = -128 * sum;
    }
}

static void product_row(const struct int8_product *p, int64_t row, int64_t panel) {
    const struct int8_panel *b = p->panels + panel * p->panel_stride;
    const uint8_t *a = p->rows + row * INT8_ROW_BYTES;
    float *c = p->c + row * p->c_stride + panel * LANES;
    int32_t sums[LANES];
    memcpy(sums, b->start, sizeof sums);
    for (int64_t d = 0; d < p->depth; d++)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += a[d] * b->codes[d / 4][lane][d % 4];
    for (int lane = 0; lane < LANES; lane++) {
        const float value = (float)sums[lane] * b->scales[lane] * p->row_scales[row];
        c[lane] = p->accumulate ? c[lane] + value : value;
    }
}

void int8_product_plain(const struct int8_product *p) {
    for (int64_t row = 0; row < p->row_count; row++)
        for (int panel = 0; panel < p->panel_count; panel++) product_row(p, row, panel);
}
