// The AVX512_VNNI loop of the ceiling: dot products of four bytes on 12 independent sums. Relies on probe.h.
#include "tensor/cpu/probe.h"

#include <immintrin.h>

double probe_round_avx512vnni(void) {
    enum { SUMS = 12, STEPS = 20000 };
    const __m512i x = _mm512_set1_epi32(0x3e993f1b);
    const __m512i zero = _mm512_setzero_si512();
    __m512i s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero, s6 = zero, s7 = zero, s8 = zero,
            s9 = zero, s10 = zero, s11 = zero;
    for (int step = 0; step < STEPS; step++) {
        s0 = _mm512_dpbusd_epi32(s0, x, x);
        s1 = _mm512_dpbusd_epi32(s1, x, x);
        s2 = _mm512_dpbusd_epi32(s2, x, x);
        s3 = _mm512_dpbusd_epi32(s3, x, x);
        s4 = _mm512_dpbusd_epi32(s4, x, x);
        s5 = _mm512_dpbusd_epi32(s5, x, x);
        s6 = _mm512_dpbusd_epi32(s6, x, x);
        s7 = _mm512_dpbusd_epi32(s7, x, x);
        s8 = _mm512_dpbusd_epi32(s8, x, x);
        s9 = _mm512_dpbusd_epi32(s9, x, x);
        s10 = _mm512_dpbusd_epi32(s10, x, x);
        s11 = _mm512_dpbusd_epi32(s11, x, x);
        __asm__ volatile("" // keeps the step
                         : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4), "+v"(s5), "+v"(s6), "+v"(s7),
                           "+v"(s8), "+v"(s9), "+v"(s10), "+v"(s11));
    }
    return 128.0 * SUMS * STEPS;
}
