// One-row products with codes of up to 6 bits: x is brought into the order that the codes of a type are multiplied in, then
// row after row goes by. Relies on gemm_isa.h, codes_avx512bf16.h, fetch.h.
//
// VDPBF16PS treats denormals as zero and rounds each of its two sums; its order is part of this set's results.
#include "tensor/cpu/codes_avx512bf16.h"
#include "tensor/cpu/fetch.h"
#include "tensor/cpu/gemm_isa.h"

enum {
    STRETCH = 16384, // values of x that stay in the first-level cache while the rows go by
    UNIT = 256,      // values of x that are ordered together
    SUMS = 16,       // room for sums of a unit
};

// A stretch of x, padded with zeros to whole units. In 64-byte vectors of bf16, and the sums that a type wants.
struct ordered_x {
    _Alignas(64) uint16_t values[STRETCH];
    _Alignas(64) float sums[STRETCH / UNIT * SUMS];
};

// -------------------------------------------------------------------------------------------------------- x in order

// The even and the odd words of two vectors.
ALWAYS __m512i evens(__m512i a, __m512i b) {
    const __m512i count = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30,
                                           28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_epi16(a, count, b);
}

ALWAYS __m512i odds(__m512i a, __m512i b) {
    return evens(_mm512_srli_epi32(a, 16), _mm512_srli_epi32(b, 16));
}

// Groups of 32 values g and g + [distance] share 64 bytes of codes.
ALWAYS void order_pairs(const __m512i x[8], int distance, uint16_t *to) {
    for (int g = 0; g < 8; g++) {
        if (g & distance) continue;
        _mm512_store_si512(to, evens(x[g], x[g + distance]));
        _mm512_store_si512(to + 32, odds(x[g], x[g + distance]));
        to += 64;
    }
}

// Each lane of 16 bytes holds 32 values, those of low nibbles and those of high ones.
ALWAYS void order_lanes(const __m512i x[8], uint16_t *to) {
    for (int i = 0; i < 8; i += 4, to += 128) {
        const __m512i even = evens(x[i], x[i + 1]), more_even = evens(x[i + 2], x[i + 3]);
        const __m512i odd = odds(x[i], x[i + 1]), more_odd = odds(x[i + 2], x[i + 3]);
        _mm512_store_si512(to, _mm512_shuffle_i64x2(even, more_even, 0x88));
        _mm512_store_si512(to + 32, _mm512_shuffle_i64x2(odd, more_odd, 0x88));
        _mm512_store_si512(to + 64, _mm512_shuffle_i64x2(even, more_even, 0xdd));
        _mm512_store_si512(to + 96, _mm512_shuffle_i64x2(odd, more_odd, 0xdd));
    }
}

// Bytes hold two values that follow each other, the first one in the high nibble.
ALWAYS void order_nibbles(const __m512i x[8], uint16_t *to) {
    for (int i = 0; i < 8; i += 4, to += 128) {
        const __m512i high = evens(x[i], x[i + 1]), more_high = evens(x[i + 2], x[i + 3]);
        const __m512i low = odds(x[i], x[i + 1]), more_low = odds(x[i + 2], x[i + 3]);
        _mm512_store_si512(to, evens(low, more_low));
        _mm512_store_si512(to + 32, odds(low, more_low));
        _mm512_store_si512(to + 64, evens(high, more_high));
        _mm512_store_si512(to + 96, odds(high, more_high));
    }
}

// The sum of 32 values, of the first 16 of them and of the last.
ALWAYS float sum_of(__m512i x, int part) {
    const __m512 pairs =
        _mm512_dpbf16_ps(_mm512_setzero_ps(), (__m512bh)x, (__m512bh)_mm512_set1_epi16(0x3f80));
    if (part == 0) return _mm512_reduce_add_ps(pairs);
    return _mm512_mask_reduce_add_ps(part == 1 ? 0x00ff : 0xff00, pairs);
}

// What the minima of a unit are multiplied with: -t for those that are taken off.
static void make_sums(enum dtype type, const __m512i x[8], float *to) {
    for (int i = 0; i < SUMS; i++) to[i] = 0;
    for (int g = 0; g < 8; g++) {
        if (type == DTYPE_Q2_K) {
            to[2 * g] = -sum_of(x[g], 1);
            to[2 * g + 1] = -sum_of(x[g], 2);
        } else if (type == DTYPE_Q4_K || type == DTYPE_Q5_K) {
            to[8 + g] = -sum_of(x[g], 0); // behind d s, by which nothing is multiplied here
        } else if (type == DTYPE_Q4_1 || type == DTYPE_Q5_1) {
            to[g / 4 * 8 + g % 4] = sum_of(x[g], 0); // four for 128 values
        }
    }
}

static void order_unit(enum dtype type, const __m512i x[8], uint16_t *to) {
    switch (type) {
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        order_pairs(x, 2, to);
        return;
    case DTYPE_Q6_K:
        order_pairs(x, 1, to);
        return;
    case DTYPE_Q2_K:
    case DTYPE_Q3_K:
        order_pairs(x, 4, to);
        return;
    case DTYPE_NVFP4:
    case DTYPE_NF4:
        order_nibbles(x, to);
        return;
    default:
        order_lanes(x, to);
    }
}

// x, which is bf16 already.
static void order_x(enum dtype type, const float *x, int64_t count, struct ordered_x *to) {
    for (int64_t at = 0; at < count; at += UNIT) {
        __m512i unit[8];
        for (int g = 0; g < 8; g++) {
            const int64_t first = at + 32 * g, left = count - first;
            unit[g] = table_of(_mm512_maskz_loadu_ps(lanes_left(left), x + first),
                               _mm512_maskz_loadu_ps(lanes_left(left - 16), x + first + 16));
        }
        order_unit(type, unit, to->values + at);
        make_sums(type, unit, to->sums + at / UNIT * SUMS);
    }
}

// ----------------------------------------------------------------------------------------------------------- the rows

static const struct totals nothing;

ALWAYS float total(struct totals totals) {
    const __m512 sum = _mm512_add_ps(_mm512_add_ps(totals.a, totals.b), totals.m);
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, _mm512_zextps128_ps512(totals.four)));
}

ALWAYS void add_codes(const enum dtype type, const uint8_t *from, const uint16_t *x, const float *sums,
                      struct totals *totals) {
    switch (type) {
    case DTYPE_Q4_K:
        codes_q4_k(from, x, sums, totals);
        return;
    case DTYPE_Q5_K:
        codes_q5_k(from, x, sums, totals);
        return;
    case DTYPE_Q6_K:
        codes_q6_k(from, x, totals);
        return;
    case DTYPE_Q2_K:
        codes_q2_k(from, x, sums, totals);
        return;
    case DTYPE_Q3_K:
        codes_q3_k(from, x, totals);
        return;
    case DTYPE_IQ4_XS:
        codes_iq4_xs(from, x, totals);
        return;
    default:
        codes_32(type, from, x, sums, totals);
    }
}

// [count] values from [from] on, [values] in [bytes] at a time; of the last blocks of 32 values there may be fewer than four.
ALWAYS float blocks_product(const enum dtype type, const int values, const int bytes, const uint8_t *from,
                            int64_t count, const struct ordered_x *x, struct fetch *fetch) {
    const uint16_t *at = x->values;
    const float *sums = x->sums;
    struct totals totals = nothing;
    for (; count >= values; count -= values, from += bytes, at += values, sums += SUMS * values / UNIT) {
        fetch_next(fetch, bytes);
        add_codes(type, from, at, sums, &totals);
    }
    if (values == UNIT || count == 0) return total(totals);
    uint8_t last[128] = {0};
    memcpy(last, from, (size_t)(count / 32 * (bytes / 4)));
    add_codes(type, last, at, sums, &totals);
    fetch_next(fetch, (int)(count / 32 * (bytes / 4)));
    return total(totals);
}

// NVFP4's scales of a row lie 512 bytes apart, those of four rows in one line: they are copied for so many rows at a time.
enum { TOGETHER = 4, NVFP4_TILE = 64 /* values */, NVFP4_TILE_BYTES = 512 };

struct scale_rows {
    _Alignas(16) uint8_t bytes[TOGETHER][STRETCH / STORED_NVFP4_GROUP];
};

// Of rows [first, first + rows), up to TOGETHER; behind the last scale there are zeros up to the end of a unit.
static void copy_scales(const struct stored_row *first, int64_t rows, int64_t at, int64_t count,
                        struct scale_rows *to) {
    const uint8_t *from[TOGETHER];
    const int64_t whole = count / NVFP4_TILE, groups = count / STORED_NVFP4_GROUP;
    struct stored_row row = *first;
    for (int64_t r = 0; r < TOGETHER; r++) {
        from[r] = nvfp4_scales(&row) + at / NVFP4_TILE * NVFP4_TILE_BYTES;
        if (r + 1 < rows) row.index++;
    }
    for (int64_t i = 0; i < whole; i++)
        for (int64_t r = 0; r < TOGETHER; r++)
            memcpy(to->bytes[r] + 4 * i, from[r] + i * NVFP4_TILE_BYTES, 4);
    for (int64_t r = 0; r < TOGETHER; r++)
        for (int64_t i = 4 * whole; i < groups || i % 16; i++)
            to->bytes[r][i] = i < groups ? from[r][whole * NVFP4_TILE_BYTES + i % 4] : 0;
}

// next: scales of the rows that come after the four; of each row a quarter is fetched.
static float nvfp4_product(const uint8_t *codes, int64_t count, const uint8_t *scales, const uint8_t *next,
                           const struct ordered_x *x, struct fetch *fetch) {
    const uint16_t *at = x->values;
    struct totals totals = nothing;
    for (; count >= UNIT; count -= UNIT, codes += UNIT / 2, at += UNIT, scales += 16) {
        fetch_next(fetch, UNIT / 2);
        _mm_prefetch((const char *)next, _MM_HINT_T1);
        next += UNIT / NVFP4_TILE * NVFP4_TILE_BYTES;
        codes_nvfp4(codes, load_16(scales), at, &totals);
    }
    if (count) {
        uint8_t last[UNIT / 2] = {0};
        memcpy(last, codes, (size_t)count / 2);
        codes_nvfp4(last, load_16(scales), at, &totals);
        fetch_next(fetch, (int)count / 2);
    }
    return 256 * total(totals);
}

static void nvfp4_rows(struct stored_row row, size_t row_bytes, int64_t count, int64_t at, int64_t stretch,
                       const struct ordered_x *x, struct fetch *fetch, float *y) {
    struct scale_rows scales;
    for (int64_t r = 0; r < count; r++, row.index++) {
        struct stored_row after = row;
        after.index += TOGETHER - r % TOGETHER;
        if (r % TOGETHER == 0) copy_scales(&row, count - r, at, stretch, &scales);
        const uint8_t *next = nvfp4_scales(&after) + (at / NVFP4_TILE + r % TOGETHER) * NVFP4_TILE_BYTES;
        y[r] += nvfp4_product((const uint8_t *)row.data + at / 2, stretch, scales.bytes[r % TOGETHER], next,
                              x, fetch);
        row.data = (const char *)row.data + row_bytes;
    }
}

// The scales of [count] blocks of an NF4 tensor.
static void nf4_block_scales(const struct tensor_scales *stored, int64_t block, int64_t count, float *to) {
    if (!stored->nested) {
        memcpy(to, (const char *)stored->blocks + 4 * block, (size_t)count * sizeof *to);
        return;
    }
    const uint8_t *codes = (const uint8_t *)stored->blocks + block;
    for (int64_t done = 0; done < count;) {
        const int64_t nest = (block + done) / stored->nested_block;
        const int64_t end = (nest + 1) * stored->nested_block - block;
        const float scale = stored->nested_scales[nest];
        for (; done < count && done < end; done++) {
            const float product = stored->nested_values[codes[done]] * scale;
            to[done] = product + stored->nested_offset;
        }
    }
}

// The scales of 64 values each, from value [first] of a row on, and a 0 behind them.
static void nf4_row_scales(const struct stored_row *row, int64_t first, int64_t count, float *to) {
    const int64_t values = row->blocks->block_values, skipped = first % values / 64;
    const int64_t block = (row->index * row->cols + first) / values, wanted = (count + 63) / 64;
    if (values == 64) {
        nf4_block_scales(row->blocks, block, wanted, to);
    } else {
        float scales[STRETCH / 64 + 1];
        nf4_block_scales(row->blocks, block, (skipped + wanted + values / 64 - 1) / (values / 64), scales);
        for (int64_t i = 0; i < wanted; i++) to[i] = scales[(skipped + i) / (values / 64)];
    }
    to[wanted] = 0;
}

// Of blocks of a multiple of 64 values.
static float nf4_product(const struct stored_row *row, int64_t first, int64_t count,
                         const struct ordered_x *x, struct fetch *fetch) {
    const uint8_t *codes = (const uint8_t *)row->data + first / 2;
    const __m512 codebook = _mm512_loadu_ps(row->blocks->codebook);
    const __m512i near = table_of(codebook, codebook);
    const __m512 rest = _mm512_sub_ps(codebook, bf16_512(_mm512_castsi512_si256(near)));
    const __m512i table[2] = {near, table_of(rest, rest)};
    float scales[STRETCH / 64 + 1];
    nf4_row_scales(row, first, count, scales);
    const uint16_t *at = x->values;
    const float *scale = scales;
    struct totals totals = nothing;
    for (; count >= 128; count -= 128, codes += 64, at += 128, scale += 2) {
        fetch_next(fetch, 64);
        codes_nf4(codes, table, scale, at, &totals);
    }
    if (count) {
        uint8_t last[64] = {0};
        memcpy(last, codes, (size_t)count / 2);
        codes_nf4(last, table, scale, at, &totals);
        fetch_next(fetch, (int)count / 2);
    }
    return total(totals);
}

// [count] values of a row from [first] on.
ALWAYS float row_product(const enum dtype type, const int values, const int bytes,
                         const struct stored_row *row, int64_t first, int64_t count,
                         const struct ordered_x *x, struct fetch *fetch) {
    if (type == DTYPE_NF4) return nf4_product(row, first, count, x, fetch);
    const uint8_t *from = (const uint8_t *)row->data + dtype_bytes(type, first);
    return blocks_product(type, values, bytes, from, count, x, fetch);
}

ALWAYS void rows_products(const enum dtype type, const int values, const int bytes, struct stored_row row,
                          size_t row_bytes, int64_t count, const float *x, int64_t depth,
                          struct ordered_x *ordered, float *y) {
    for (int64_t r = 0; r < count; r++) y[r] = 0;
    for (int64_t at = 0; at < depth; at += STRETCH) {
        const int64_t stretch = depth - at < STRETCH ? depth - at : STRETCH;
        const uint8_t *from = (const uint8_t *)row.data + dtype_bytes(type, at);
        struct fetch fetch = fetch_from(from, row_bytes, dtype_bytes(type, stretch));
        struct stored_row next = row;
        order_x(type, x + at, stretch, ordered);
        if (type == DTYPE_NVFP4) nvfp4_rows(row, row_bytes, count, at, stretch, ordered, &fetch, y);
        for (int64_t r = 0; r < count && type != DTYPE_NVFP4; r++, next.index++) {
            y[r] += row_product(type, values, bytes, &next, at, stretch, ordered, &fetch);
            next.data = (const char *)next.data + row_bytes;
        }
    }
}

bool gemm_code_products_avx512bf16(const struct stored_row *first, size_t row_bytes, int64_t count,
                                   const float *x, int64_t depth, float *y) {
    struct ordered_x ordered;
#define CASE(name, values, bytes)                                                                            \
    case DTYPE_##name:                                                                                       \
        rows_products(DTYPE_##name, values, bytes, *first, row_bytes, count, x, depth, &ordered, y);         \
        return true
    switch (first->type) {
        CASE(Q4_0, 128, 72);
        CASE(Q4_1, 128, 80);
        CASE(Q5_0, 128, 88);
        CASE(Q5_1, 128, 96);
        CASE(IQ4_NL, 128, 72);
        CASE(Q2_K, 256, 84);
        CASE(Q3_K, 256, 110);
        CASE(Q4_K, 256, 144);
        CASE(Q5_K, 256, 176);
        CASE(Q6_K, 256, 210);
        CASE(IQ4_XS, 256, 136);
        CASE(NVFP4, 256, 128);
    case DTYPE_NF4:
        if (first->blocks->block_values % 64) return false;
        rows_products(DTYPE_NF4, 128, 64, *first, row_bytes, count, x, depth, &ordered, y);
        return true;
    default:
        return false;
    }
#undef CASE
}
