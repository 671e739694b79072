// The AVX2 loop of the ceiling: FMA on 12 independent sums. Relies on probe.h.
#include "tensor/cpu/probe.h"

#include <immintrin.h>

double probe_round_avx2(void) {
    enum { SUMS = 12, STEPS = 20000 };
    const __m256 x = _mm256_set1_ps(0.3f), zero = _mm256_setzero_ps();
    __m256 s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero, s6 = zero, s7 = zero, s8 = zero,
           s9 = zero, s10 = zero, s11 = zero;
    for (int step = 0; step < STEPS; step++) {
        s0 = _mm256_fmadd_ps(x, x, s0);
        s1 = _mm256_fmadd_ps(x, x, s1);
        s2 = _mm256_fmadd_ps(x, x, s2);
        s3 = _mm256_fmadd_ps(x, x, s3);
        s4 = _mm256_fmadd_ps(x, x, s4);
        s5 = _mm256_fmadd_ps(x, x, s5);
        s6 = _mm256_fmadd_ps(x, x, s6);
        s7 = _mm256_fmadd_ps(x, x, s7);
        s8 = _mm256_fmadd_ps(x, x, s8);
        s9 = _mm256_fmadd_ps(x, x, s9);
        s10 = _mm256_fmadd_ps(x, x, s10);
        s11 = _mm256_fmadd_ps(x, x, s11);
        __asm__ volatile("" // keeps the step
                         : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3), "+x"(s4), "+x"(s5), "+x"(s6), "+x"(s7),
                           "+x"(s8), "+x"(s9), "+x"(s10), "+x"(s11));
    }
    return 16.0 * SUMS * STEPS;
}
