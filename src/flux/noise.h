// The reference pipeline's noise: PyTorch's CPU generator (MT19937) and its normal_ for 16 values and more.
// Relies on nothing.
#ifndef LIMN_FLUX_NOISE_H
#define LIMN_FLUX_NOISE_H

#include <stddef.h>
#include <stdint.h>

enum noise_kind {
    NOISE_F32,  // torch.randn(..., dtype=float32)
    NOISE_BF16, // torch.randn(..., dtype=bfloat16) on the CPU, widened
};

// out: [count] f32 in the order of torch.randn's elements; count >= 16.
void noise_fill(enum noise_kind kind, uint64_t seed, float *out, size_t count);

#endif
