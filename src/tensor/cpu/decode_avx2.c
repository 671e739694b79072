// Stored weights to f32 with AVX2; NF4 is left to plain C. Relies on gemm_isa.h.
#include "tensor/cpu/gemm_isa.h"

#include <immintrin.h>

struct out {
    float *to;
    bool round;
};

static inline __attribute__((always_inline)) void put(struct out out, int at, __m256 values) {
    if (out.round) {
        const __m256i bits = _mm256_castps_si256(values);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
        values = _mm256_castsi256_ps(
            _mm256_and_si256(_mm256_blendv_epi8(sum, quiet, nan), _mm256_set1_epi32((int)0xffff0000)));
    }
    _mm256_storeu_ps(out.to + at, values);
}

// 8 of the codes from byte [first] of each half on.
static inline __attribute__((always_inline)) __m256 eight(__m128i codes, int first) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(first ? _mm_srli_si128(codes, 8) : codes));
}

static inline __attribute__((always_inline)) void emit_scaled(struct out out, int at, __m256i codes, float a0,
                                                              float a1) {
    const __m128i half[2] = {_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1)};
    for (int i = 0; i < 4; i++)
        put(out, at + 8 * i, _mm256_mul_ps(eight(half[i / 2], i % 2), _mm256_set1_ps(i < 2 ? a0 : a1)));
}

static inline __attribute__((always_inline)) void emit_affine(struct out out, int at, __m256i codes, float a0,
                                                              float b0, float a1, float b1) {
    const __m128i half[2] = {_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1)};
    for (int i = 0; i < 4; i++)
        put(out, at + 8 * i,
            _mm256_fmadd_ps(eight(half[i / 2], i % 2), _mm256_set1_ps(i < 2 ? a0 : a1),
                            _mm256_set1_ps(i < 2 ? b0 : b1)));
}

static inline __attribute__((always_inline)) void emit_halves(struct out out, int at, __m256i h0, __m256i h1,
                                                              float a0, float a1) {
    const __m128i part[4] = {_mm256_castsi256_si128(h0), _mm256_extracti128_si256(h0, 1),
                             _mm256_castsi256_si128(h1), _mm256_extracti128_si256(h1, 1)};
    for (int i = 0; i < 4; i++)
        put(out, at + 8 * i, _mm256_mul_ps(_mm256_cvtph_ps(part[i]), _mm256_set1_ps(i < 2 ? a0 : a1)));
}

static inline __attribute__((always_inline)) struct out advanced(struct out out, int values) {
    out.to += values;
    return out;
}

#include "tensor/cpu/decode_stretch.h"

static inline __attribute__((always_inline)) int64_t decode(const struct stored_row *row, int64_t at,
                                                            int64_t count, const bool round, float *to) {
    const struct out out = {to, round};
    if (row->type == DTYPE_NVFP4) return unpack_nvfp4_row(row, at, count, out);
    return unpack_own(row->type, (const char *)row->data + dtype_bytes(row->type, at), count, out);
}

void gemm_decode_f32_avx2(const struct stored_row *row, int64_t at, int64_t count, bool round, float *to) {
    if (row->type == DTYPE_F32 || row->type == DTYPE_F16 || row->type == DTYPE_BF16) {
        gemm_convert_f32_avx2(row->type, (const char *)row->data + dtype_bytes(row->type, at), count, round,
                              to);
        return;
    }
    const int64_t done = round ? decode(row, at, count, true, to) : decode(row, at, count, false, to);
    if (done < count) gemm_decode_f32_plain(row, at + done, count - done, round, to + done);
}
