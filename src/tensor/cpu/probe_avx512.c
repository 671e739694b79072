// The AVX-512 loop of the ceiling: FMA on 12 independent sums. Relies on probe.h.
#include "tensor/cpu/probe.h"

#include <immintrin.h>

double probe_round_avx512(void) {
    enum { SUMS = 12, STEPS = 20000 };
    const __m512 x = _mm512_set1_ps(0.3f), zero = _mm512_setzero_ps();
    __m512 s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero, s6 = zero, s7 = zero, s8 = zero,
           s9 = zero, s10 = zero, s11 = zero;
    for (int step = 0; step < STEPS; step++) {
        s0 = _mm512_fmadd_ps(x, x, s0);
        s1 = _mm512_fmadd_ps(x, x, s1);
        s2 = _mm512_fmadd_ps(x, x, s2);
        s3 = _mm512_fmadd_ps(x, x, s3);
        s4 = _mm512_fmadd_ps(x, x, s4);
        s5 = _mm512_fmadd_ps(x, x, s5);
        s6 = _mm512_fmadd_ps(x, x, s6);
        s7 = _mm512_fmadd_ps(x, x, s7);
        s8 = _mm512_fmadd_ps(x, x, s8);
        s9 = _mm512_fmadd_ps(x, x, s9);
        s10 = _mm512_fmadd_ps(x, x, s10);
        s11 = _mm512_fmadd_ps(x, x, s11);
        __asm__ volatile("" // keeps the step
                         : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4), "+v"(s5), "+v"(s6), "+v"(s7),
                           "+v"(s8), "+v"(s9), "+v"(s10), "+v"(s11));
    }
    return 32.0 * SUMS * STEPS;
}
