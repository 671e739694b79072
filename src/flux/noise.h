// The reference pipeline's noise: PyTorch's CPU generator (MT19937) and its normal_. Relies on tensor/dtype.h.
#ifndef LIMN_FLUX_NOISE_H
#define LIMN_FLUX_NOISE_H

#include <stddef.h>
#include <stdint.h>

enum noise_kind {
    NOISE_F32, // torch.randn(..., dtype=float32)
    NOISE_BF16, // torch.randn(..., dtype=bfloat16) on the CPU, widened: from 16 values on the f32 ones, rounded
};

// out: [count] f32 in the order of torch.randn's elements. Equal to what PyTorch 2.13 draws on x86-64 with AVX2; other
// processors and versions differ in the last place (below 2e-6).
void noise_fill(enum noise_kind kind, uint64_t seed, float *out, size_t count);

#endif
