// One-row products with codes of up to 6 bits: x is brought into the order that the codes of a type are multiplied in, then
// row after row goes by. Relies on gemm_isa.h, codes_avx512bf16.h.
//
// VDPBF16PS treats denormals as zero and rounds each of its two sums; its order is part of this set's results.
#include "tensor/cpu/codes_avx512bf16.h"
#include "tensor/cpu/gemm_isa.h"

enum {
    STRETCH = 16384, // values of x that stay in the first-level cache while the rows go by
    UNIT = 256,      // values of x that are ordered together
    SUMS = 16,       // room for sums of a unit
    AHEAD = 6144,    // bytes between what is fetched and what is multiplied
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

// What is fetched next: rows [row_bytes] apart, of each the bytes up to [end].
struct ahead {
    const uint8_t *at, *end;
    size_t row_bytes, skipped;
};

static struct ahead ahead_of(const uint8_t *rows, size_t row_bytes, size_t used) {
    const size_t row = AHEAD / used;
    const uint8_t *first = rows + row * row_bytes;
    return (struct ahead){first + AHEAD % used, first + used, row_bytes, row_bytes - used};
}

ALWAYS void fetch(struct ahead *ahead, int bytes) {
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)ahead->at + i, _MM_HINT_T0);
    ahead->at += bytes;
    if (ahead->at < ahead->end) return;
    ahead->at += ahead->skipped;
    ahead->end += ahead->row_bytes;
}

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
                            int64_t count, const struct ordered_x *x, struct ahead *ahead) {
    const uint16_t *at = x->values;
    const float *sums = x->sums;
    struct totals totals = nothing;
    for (; count >= values; count -= values, from += bytes, at += values, sums += SUMS * values / UNIT) {
        fetch(ahead, bytes);
        add_codes(type, from, at, sums, &totals);
    }
    if (values == UNIT || count == 0) return total(totals);
    uint8_t last[128] = {0};
    memcpy(last, from, (size_t)(count / 32 * (bytes / 4)));
    add_codes(type, last, at, sums, &totals);
    fetch(ahead, (int)(count / 32 * (bytes / 4)));
    return total(totals);
}

// The scales of 256 values, or of as many as there are left.
ALWAYS __m128i nvfp4_scale_bytes(const uint8_t *scales, int64_t left) {
    if (left >= UNIT)
        return _mm_setr_epi32((int)word_at(scales), (int)word_at(scales + 512), (int)word_at(scales + 1024),
                              (int)word_at(scales + 1536));
    uint8_t bytes[16] = {0};
    for (int i = 0; i < left / STORED_NVFP4_GROUP; i++) bytes[i] = scales[i / 4 * 512 + i % 4];
    return load_16(bytes);
}

static float nvfp4_product(const struct stored_row *row, int64_t first, int64_t count,
                           const struct ordered_x *x, struct ahead *ahead) {
    const uint8_t *codes = (const uint8_t *)row->data + first / 2;
    const uint8_t *scales = nvfp4_scales(row) + first / 64 * 512;
    const uint16_t *at = x->values;
    struct totals totals = nothing;
    for (; count >= UNIT; count -= UNIT, codes += UNIT / 2, at += UNIT, scales += 2048) {
        fetch(ahead, UNIT / 2);
        codes_nvfp4(codes, nvfp4_scale_bytes(scales, UNIT), at, &totals);
    }
    if (count) {
        uint8_t last[UNIT / 2] = {0};
        memcpy(last, codes, (size_t)count / 2);
        codes_nvfp4(last, nvfp4_scale_bytes(scales, count), at, &totals);
        fetch(ahead, (int)count / 2);
    }
    return 256 * total(totals);
}

// Of blocks of a multiple of 64 values.
static float nf4_product(const struct stored_row *row, int64_t first, int64_t count,
                         const struct ordered_x *x, struct ahead *ahead) {
    const int64_t values = row->blocks->block_values;
    const uint8_t *codes = (const uint8_t *)row->data + first / 2;
    const __m512 codebook = _mm512_loadu_ps(row->blocks->codebook);
    const __m512i near = table_of(codebook, codebook);
    const __m512 rest = _mm512_sub_ps(codebook, bf16_512(_mm512_castsi512_si256(near)));
    const __m512i table[2] = {near, table_of(rest, rest)};
    struct nf4_scales from = nf4_scales_from(row, first);
    float scales[STRETCH / 64 + 2];
    int64_t scale_count = 0;
    for (int64_t left = values - first % values; scale_count < (count + 63) / 64; left = values) {
        const float scale = nf4_next_scale(&from);
        for (; left > 0 && scale_count < (count + 63) / 64; left -= 64) scales[scale_count++] = scale;
    }
    scales[scale_count] = 0;
    const uint16_t *at = x->values;
    const float *scale = scales;
    struct totals totals = nothing;
    for (; count >= 128; count -= 128, codes += 64, at += 128, scale += 2) {
        fetch(ahead, 64);
        codes_nf4(codes, table, scale, at, &totals);
    }
    if (count) {
        uint8_t last[64] = {0};
        memcpy(last, codes, (size_t)count / 2);
        codes_nf4(last, table, scale, at, &totals);
        fetch(ahead, (int)count / 2);
    }
    return total(totals);
}

// [count] values of a row from [first] on.
ALWAYS float row_product(const enum dtype type, const int values, const int bytes,
                         const struct stored_row *row, int64_t first, int64_t count,
                         const struct ordered_x *x, struct ahead *ahead) {
    if (type == DTYPE_NVFP4) return nvfp4_product(row, first, count, x, ahead);
    if (type == DTYPE_NF4) return nf4_product(row, first, count, x, ahead);
    const uint8_t *from = (const uint8_t *)row->data + dtype_bytes(type, first);
    return blocks_product(type, values, bytes, from, count, x, ahead);
}

ALWAYS void rows_products(const enum dtype type, const int values, const int bytes, struct stored_row row,
                          size_t row_bytes, int64_t count, const float *x, int64_t depth, float *y) {
    struct ordered_x ordered;
    for (int64_t r = 0; r < count; r++) y[r] = 0;
    for (int64_t at = 0; at < depth; at += STRETCH) {
        const int64_t stretch = depth - at < STRETCH ? depth - at : STRETCH;
        const uint8_t *from = (const uint8_t *)row.data + dtype_bytes(type, at);
        struct ahead ahead = ahead_of(from, row_bytes, dtype_bytes(type, stretch));
        struct stored_row next = row;
        order_x(type, x + at, stretch, &ordered);
        for (int64_t r = 0; r < count; r++, next.index++) {
            y[r] += row_product(type, values, bytes, &next, at, stretch, &ordered, &ahead);
            next.data = (const char *)next.data + row_bytes;
        }
    }
}

bool gemm_code_products_avx512bf16(const struct stored_row *first, size_t row_bytes, int64_t count,
                                   const float *x, int64_t depth, float *y) {
#define CASE(name, values, bytes)                                                                            \
    case DTYPE_##name:                                                                                       \
        rows_products(DTYPE_##name, values, bytes, *first, row_bytes, count, x, depth, y);                   \
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
        rows_products(DTYPE_NF4, 128, 64, *first, row_bytes, count, x, depth, y);
        return true;
    default:
        return false;
    }
#undef CASE
}
