// Which products in 8 bits an instruction set has. Relies on gemm_int8.h.
#include "tensor/cpu/gemm_int8.h"

#ifdef LIMN_X86_KERNELS
#include <cpuid.h>

// AVX512_VNNI is older than AVX512_BF16 and younger than AVX-512: asked for by itself.
static bool has_vnni(void) {
    uint32_t a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && c >> 11 & 1;
}
#endif

const struct int8_kernels *int8_kernels_for(enum cpu_isa isa) {
    static const struct int8_kernels plain = {"plain", int8_quantise_plain, int8_pack_plain,
                                              int8_product_plain};
#ifdef LIMN_X86_KERNELS
    static const struct int8_kernels avx2 = {"avx2", int8_quantise_avx2, int8_pack_plain, int8_product_avx2};
    static const struct int8_kernels vnni = {"avx512vnni", int8_quantise_avx512vnni, int8_pack_avx512vnni,
                                             int8_product_avx512vnni};
    if (isa >= CPU_AVX512 && has_vnni()) return &vnni;
    if (isa >= CPU_AVX2) return &avx2;
#endif
    return &plain;
}
