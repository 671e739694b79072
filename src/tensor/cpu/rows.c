// Which row kernels an instruction set uses. Relies on rows.h.
#include "tensor/cpu/rows.h"

const struct row_kernels *row_kernels_for(enum cpu_isa isa) {
#ifdef LIMN_X86_KERNELS
    switch (isa) {
    case CPU_AMX:
    case CPU_AVX512BF16:
        return &rows_avx512bf16;
    case CPU_AVX512:
        return &rows_avx512;
    case CPU_AVX2:
        return &rows_avx2;
    default:
        break;
    }
#endif
    return &rows_plain;
}
