// Stretches of stored rows block by block: the end of decode_avx2.c, decode_avx512.c and the like, behind their unpack_block
// (decode_vector.h, or functions of their own under the names UNPACK_BLOCK and UNPACK_NVFP4; UNPACK_F16
// says that it takes halves, too). They define advanced(out, n): [out], [n] values on.
// Relies on decode_vector.h.
#ifndef LIMN_TENSOR_CPU_DECODE_STRETCH_H
#define LIMN_TENSOR_CPU_DECODE_STRETCH_H

#include "tensor/cpu/decode_vector.h"

#ifndef UNPACK_BLOCK
#define UNPACK_BLOCK unpack_block
#endif
#ifndef UNPACK_NVFP4
#define UNPACK_NVFP4 unpack_nvfp4
#endif

// [count] values in blocks of [values] values and [bytes] bytes, small ones four at a time, so that places in [out] are
// constants; returns how many values are done.
ALWAYS int64_t unpack_blocks(const enum dtype type, const int values, const int bytes, const uint8_t *from,
                             int64_t count, struct out out) {
    const int together = values < 128 ? 4 : 1;
    int64_t done = 0;
    for (; done + together * values <= count; done += together * values) {
#pragma GCC unroll 4
        for (int i = 0; i < together; i++) UNPACK_BLOCK(type, from + i * bytes, out, i * values);
        from += together * bytes;
        out = advanced(out, together * values);
    }
    for (; done + values <= count; done += values, from += bytes, out = advanced(out, values))
        UNPACK_BLOCK(type, from, out, 0);
    return done;
}

// Values of the types that stand in their own bytes; returns how many are done: 0 for another type.
ALWAYS int64_t unpack_own(enum dtype type, const void *from, int64_t count, struct out out) {
#define CASE(name, values, bytes)                                                                            \
    case DTYPE_##name:                                                                                       \
        return unpack_blocks(DTYPE_##name, values, bytes, from, count, out)
    switch (type) {
#ifdef UNPACK_F16
        CASE(F16, 32, 64);
#endif
        CASE(F8_E4M3, 32, 32);
        CASE(F8_E5M2, 32, 32);
        CASE(Q4_0, 32, 18);
        CASE(Q4_1, 32, 20);
        CASE(Q5_0, 32, 22);
        CASE(Q5_1, 32, 24);
        CASE(Q8_0, 32, 34);
        CASE(IQ4_NL, 32, 18);
        CASE(Q2_K, 256, 84);
        CASE(Q3_K, 256, 110);
        CASE(Q4_K, 256, 144);
        CASE(Q5_K, 256, 176);
        CASE(Q6_K, 256, 210);
        CASE(IQ4_XS, 256, 136);
    default:
        return 0;
    }
#undef CASE
}

// NVFP4 from [at] on where that is a multiple of 64; returns how many values are done, in steps of 64.
ALWAYS int64_t unpack_nvfp4_row(const struct stored_row *row, int64_t at, int64_t count, struct out out) {
    const uint8_t *codes = (const uint8_t *)row->data + at / 2, *scales = nvfp4_scales(row) + at / 64 * 512;
    int64_t done = 0;
    if (at % 64) return 0;
    while (done + 64 <= count) { // the scales of 256 values at a time, where there are so many
        const int fours = count - done >= 256 ? 4 : 1;
        __m128i bytes = _mm_cvtsi32_si128((int)word_at(scales));
        float a[16];
        if (fours == 4)
            bytes = _mm_set_epi32((int)word_at(scales + 1536), (int)word_at(scales + 1024),
                                  (int)word_at(scales + 512), (int)word_at(scales));
        const __m256i halves = e4m3_halves(bytes);
        const __m256 by = _mm256_set1_ps(256);
        _mm256_storeu_ps(a, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), by));
        _mm256_storeu_ps(a + 8, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)), by));
        IN_MEMORY(&a);
#pragma GCC unroll 4
        for (int i = 0; i < fours; i++) {
            UNPACK_NVFP4(codes, a[4 * i], a[4 * i + 1], out, 0);
            UNPACK_NVFP4(codes + 16, a[4 * i + 2], a[4 * i + 3], out, 32);
            codes += 32;
            out = advanced(out, 64);
        }
        scales += 512 * fours;
        done += 64 * fours;
    }
    return done;
}

#endif
