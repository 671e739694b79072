// One-row products with weights that must be decoded, in products of two bf16 a lane; gemm_codes_avx512bf16.c has most types.
// Relies on gemm_isa.h, decode_avx512bf16.h, fetch.h.
//
// VDPBF16PS treats denormals as zero and rounds each of its two sums; its order is part of this set's results.
#include "tensor/cpu/fetch.h"
#include "tensor/cpu/gemm_isa.h"

#include <immintrin.h>
#include <string.h>

enum {
    STRETCH = 8192, // values of x that stay in the first-level cache as bf16 while the rows go by
    STEP = GEMM_DEPTH_STEP,
    SUMS = 4,
};

// Values go into sums as soon as they are decoded.
struct out {
    const uint16_t *x;
    __m512 *sums; // [SUMS]
    struct fetch *fetch;
    int bytes; // of STEP values
};

static inline __attribute__((always_inline)) struct out advanced(struct out out, int values) {
    out.x += values;
    fetch_next(out.fetch, values / STEP * out.bytes);
    return out;
}

static inline __attribute__((always_inline)) void put_words(struct out out, int at, __m512i words) {
    out.sums[at / STEP % SUMS] = _mm512_dpbf16_ps(out.sums[at / STEP % SUMS], (__m512bh)words,
                                                  (__m512bh)_mm512_loadu_si512(out.x + at));
}

#include "tensor/cpu/decode_avx512bf16.h"

// As many of [count] values of a row, from [at] on, as there are whole blocks: returns how many. 0 for other types.
ALWAYS int64_t add_blocks(const struct stored_row *row, int64_t at, int64_t count, const uint16_t *x,
                          __m512 *sums, struct fetch *fetch) {
    const uint8_t *from = (const uint8_t *)row->data + dtype_bytes(row->type, at);
#define CASE(name, bytes)                                                                                    \
    case DTYPE_##name:                                                                                       \
        return unpack_blocks(DTYPE_##name, STEP, bytes, from, count, (struct out){x, sums, fetch, bytes})
    switch (row->type) {
        CASE(F16, 64);
        CASE(F8_E4M3, 32);
        CASE(F8_E5M2, 32);
        CASE(Q8_0, 34);
    default:
        return 0;
    }
#undef CASE
}

// [count] values of a row from [at] on times x, which is padded with zeros to a multiple of STEP.
static float stretch_product(const struct stored_row *row, int64_t at, int64_t count, const uint16_t *x,
                             struct fetch *fetch) {
    __m512 sums[SUMS] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    int64_t done = add_blocks(row, at, count, x, sums, fetch);
    while (done < count) {
        enum { PIECE = 256 };
        uint16_t values[PIECE];
        const int64_t some = count - done < PIECE ? count - done : PIECE;
        gemm_decode_bf16_avx512bf16(row, at + done, some, values);
        for (int64_t i = some; i % STEP; i++) values[i] = 0;
        for (int64_t i = 0; i < some; i += STEP)
            put_words((struct out){.x = x + done + i, .sums = sums}, 0, _mm512_loadu_si512(values + i));
        done += some;
    }
    return _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

// x as bf16, which it mostly is already, padded with zeros to a multiple of STEP.
static void narrow_x(const float *x, int64_t count, uint16_t *to) {
    for (int64_t i = 0; i < count; i += STEP)
        _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(
                                        _mm512_maskz_loadu_ps(lanes_left(count - i - 16), x + i + 16),
                                        _mm512_maskz_loadu_ps(lanes_left(count - i), x + i)));
}

// Row after row, so that memory is read as it lies.
static void decoded_products(const struct stored_row *first, size_t row_bytes, int64_t count, const float *x,
                             int64_t depth, float *y) {
    _Alignas(64) uint16_t narrow[STRETCH];
    for (int64_t at = 0; at < depth || at == 0; at += STRETCH) {
        const int64_t stretch = depth - at < STRETCH ? depth - at : STRETCH;
        struct stored_row row = *first;
        const char *from = (const char *)row.data + dtype_bytes(row.type, at);
        struct fetch fetch = fetch_from(from, row_bytes, dtype_bytes(row.type, stretch ? stretch : STEP));
        narrow_x(x + at, stretch, narrow);
        for (int64_t r = 0; r < count; r++, row.index++) {
            y[r] = (at ? y[r] : 0) + stretch_product(&row, at, stretch, narrow, &fetch);
            row.data = (const char *)row.data + row_bytes;
        }
    }
}

void gemm_row_products_avx512bf16(const struct stored_row *first, size_t row_bytes, int64_t count, bool round,
                                  const float *x, int64_t depth, float *y) {
    if (first->type == DTYPE_F32 || first->type == DTYPE_BF16 || !round)
        gemm_row_products_avx512(first, row_bytes, count, round, x, depth, y);
    else if (!gemm_code_products_avx512bf16(first, row_bytes, count, x, depth, y))
        decoded_products(first, row_bytes, count, x, depth, y);
}
