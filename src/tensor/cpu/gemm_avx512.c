// Products and packing with AVX-512 in f32. Relies on gemm_isa.h, vector_avx512.h.
#include "tensor/cpu/gemm_isa.h"
#include "tensor/cpu/vector_avx512.h"

enum {
    LANES = GEMM_LANES,
    ROWS = 12,
    DEPTH = 192, // of two panels that stay in the first-level cache while the rows stream past
};

// -------------------------------------------------------------------------------------------------------- products

// [rows] <= 12 rows times one or two panels: 24 sums in registers, each value of a row read as a broadcast.
static inline __attribute__((always_inline)) void product_block(const struct gemm_product *p, int64_t row,
                                                                int64_t panel, int64_t at, int64_t end,
                                                                const int rows, const int panels) {
    __m512 sums[ROWS][2];
    float *c = p->c + row * p->c_stride + panel * LANES;
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < panels; j++)
            sums[r][j] = p->accumulate || at > 0 ? _mm512_loadu_ps(c + r * p->c_stride + j * LANES)
                                                 : _mm512_setzero_ps();
    for (int s = 0; s < p->segment_count; s++) {
        const float *a = (const float *)p->segments[s].rows + row * p->row_stride + at;
        const float *b = (const float *)p->segments[s].panels + panel * p->panel_stride + at * LANES;
        for (int64_t d = at; d < end; d++, a++, b += LANES) {
            const __m512 b0 = _mm512_loadu_ps(b);
            const __m512 b1 = panels > 1 ? _mm512_loadu_ps(b + p->panel_stride) : b0;
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                const __m512 value = _mm512_set1_ps(a[r * p->row_stride]);
                sums[r][0] = _mm512_fmadd_ps(value, b0, sums[r][0]);
                if (panels > 1) sums[r][1] = _mm512_fmadd_ps(value, b1, sums[r][1]);
            }
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < panels; j++) _mm512_storeu_ps(c + r * p->c_stride + j * LANES, sums[r][j]);
}

static void product_rows(const struct gemm_product *p, int64_t row, int64_t panel, int64_t at, int64_t end,
                         int64_t rows, int panels) {
#define CASE(n)                                                                                              \
    case n:                                                                                                  \
        if (panels > 1)                                                                                      \
            product_block(p, row, panel, at, end, n, 2);                                                     \
        else                                                                                                 \
            product_block(p, row, panel, at, end, n, 1);                                                     \
        break
    switch (rows) {
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
        CASE(7);
        CASE(8);
        CASE(9);
        CASE(10);
        CASE(11);
    default:
        if (panels > 1)
            product_block(p, row, panel, at, end, ROWS, 2);
        else
            product_block(p, row, panel, at, end, ROWS, 1);
    }
#undef CASE
}

void gemm_product_f32_avx512(const struct gemm_product *p) {
    const int64_t step = p->segment_count > 1 || p->depth == 0 ? p->depth + 1 : DEPTH;
    for (int64_t panel = 0; panel < p->panel_count; panel += 2)
        for (int64_t at = 0; at < p->depth || at == 0; at += step) {
            const int64_t end = p->depth - at < step ? p->depth : at + step;
            for (int64_t row = 0; row < p->row_count; row += ROWS)
                product_rows(p, row, panel, at, end, p->row_count - row, p->panel_count - panel > 1 ? 2 : 1);
        }
}

// ------------------------------------------------------------------------------------------- conversion and packing

void gemm_convert_f32_avx512(enum dtype type, const void *from, int64_t count, bool round, float *to) {
    const int64_t bytes = type == DTYPE_F32 ? 4 : 2;
    round = round && type != DTYPE_BF16;
    for (int64_t i = 0; i < count; i += LANES) {
        const __mmask16 mask = lanes_left(count - i);
        __m512 values = load_512(type, (const char *)from + i * bytes, mask);
        if (round) values = _mm512_castsi512_ps(_mm512_slli_epi32(round_bf16_512(values), 16));
        _mm512_mask_storeu_ps(to + i, mask, values);
    }
}

void gemm_pack_rows_f32_avx512(const float *from, int64_t row_stride, int rows, int64_t depth, int64_t padded,
                               float *to) {
    for (int64_t d = 0; d < padded; d += LANES) {
        const __mmask16 mask = lanes_left(depth - d);
        __m512i r[16];
        for (int i = 0; i < 16; i++)
            r[i] = i < rows ? _mm512_maskz_loadu_epi32(mask, from + i * row_stride + (mask ? d : 0))
                            : _mm512_setzero_si512();
        transpose_512(r);
        const int64_t left = padded - d < LANES ? padded - d : LANES;
        for (int i = 0; i < left; i++) _mm512_storeu_si512(to + (d + i) * LANES, r[i]);
    }
}

void gemm_pack_columns_f32_avx512(const float *from, int64_t row_stride, int lanes, int64_t depth,
                                  int64_t padded, float *to) {
    const __mmask16 mask = lanes_left(lanes);
    for (int64_t d = 0; d < padded; d++)
        _mm512_storeu_ps(to + d * LANES, d < depth ? _mm512_maskz_loadu_ps(mask, from + d * row_stride)
                                                   : _mm512_setzero_ps());
}

void gemm_transpose_avx512(const float *from, int64_t from_stride, int64_t rows, int64_t columns, float *to,
                           int64_t to_stride) {
    for (int64_t r = 0; r < rows; r += LANES)
        for (int64_t c = 0; c < columns; c += LANES) {
            const __mmask16 in = lanes_left(columns - c), out = lanes_left(rows - r);
            __m512i t[16];
            for (int i = 0; i < 16; i++)
                t[i] = r + i < rows ? _mm512_maskz_loadu_epi32(in, from + (r + i) * from_stride + c)
                                    : _mm512_setzero_si512();
            transpose_512(t);
            for (int i = 0; i < 16 && c + i < columns; i++)
                _mm512_mask_storeu_epi32(to + (c + i) * to_stride + r, out, t[i]);
        }
}
