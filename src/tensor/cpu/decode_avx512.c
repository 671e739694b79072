// Stored weights to f32 with AVX-512. Relies on gemm_isa.h, vector_avx512.h, decode_stretch.h.
#include "tensor/cpu/gemm_isa.h"
#include "tensor/cpu/vector_avx512.h"

struct out {
    float *to;
    bool round;
};

static inline __attribute__((always_inline)) struct out advanced(struct out out, int values) {
    out.to += values;
    return out;
}

static inline __attribute__((always_inline)) void put(struct out out, int at, __m512 a, __m512 b) {
    if (out.round) {
        a = _mm512_castsi512_ps(_mm512_slli_epi32(round_bf16_512(a), 16));
        b = _mm512_castsi512_ps(_mm512_slli_epi32(round_bf16_512(b), 16));
    }
    _mm512_storeu_ps(out.to + at, a);
    _mm512_storeu_ps(out.to + at + 16, b);
}

#include "tensor/cpu/decode_avx512.h"
#include "tensor/cpu/decode_stretch.h"

// NF4 from [at], a multiple of 32, on in blocks of a multiple of 32 values; returns how many values are done.
ALWAYS int64_t unpack_nf4_row(const struct stored_row *row, int64_t at, int64_t count, struct out out) {
    const int64_t values = row->blocks->block_values;
    const uint8_t *bytes = (const uint8_t *)row->data + at / 2;
    const __m512 codebook = _mm512_loadu_ps(row->blocks->codebook);
    struct nf4_scales scales = nf4_scales_from(row, at);
    __m512 scaled = codebook;
    int64_t done = 0, left = 0;
    if (values % 32 || at % 32) return 0;
    for (; done + 32 <= count; done += 32, bytes += 16, out = advanced(out, 32)) {
        if (left == 0) {
            scaled = _mm512_mul_ps(codebook, _mm512_set1_ps(nf4_next_scale(&scales)));
            left = done == 0 ? values - at % values : values;
        }
        left -= 32;
        const __m256i codes = nibble_pairs(load_16(bytes));
        const __m512i first = _mm512_cvtepu8_epi32(_mm256_castsi256_si128(codes));
        const __m512i second = _mm512_cvtepu8_epi32(_mm256_extracti128_si256(codes, 1));
        put(out, 0, _mm512_permutexvar_ps(first, scaled), _mm512_permutexvar_ps(second, scaled));
    }
    return done;
}

ALWAYS int64_t decode(const struct stored_row *row, int64_t at, int64_t count, const bool round, float *to) {
    const struct out out = {to, round};
    if (row->type == DTYPE_NVFP4) return unpack_nvfp4_row(row, at, count, out);
    if (row->type == DTYPE_NF4) return unpack_nf4_row(row, at, count, out);
    return unpack_own(row->type, (const char *)row->data + dtype_bytes(row->type, at), count, out);
}

void gemm_decode_f32_avx512(const struct stored_row *row, int64_t at, int64_t count, bool round, float *to) {
    if (row->type == DTYPE_F32 || row->type == DTYPE_F16 || row->type == DTYPE_BF16) {
        gemm_convert_f32_avx512(row->type, (const char *)row->data + dtype_bytes(row->type, at), count, round,
                                to);
        return;
    }
    const int64_t done = round ? decode(row, at, count, true, to) : decode(row, at, count, false, to);
    if (done < count) gemm_decode_f32_plain(row, at + done, count - done, round, to + done);
}
