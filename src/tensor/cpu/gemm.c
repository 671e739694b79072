// Which kernels an instruction set has. Relies on gemm_isa.h.
#include "tensor/cpu/gemm_isa.h"

#define GEMM_F32_SIDE(isa)                                                                                   \
    .product_f32 = gemm_product_f32_##isa, .convert_f32 = gemm_convert_f32_##isa,                            \
    .pack_rows_f32 = gemm_pack_rows_f32_##isa, .pack_columns_f32 = gemm_pack_columns_f32_##isa,              \
    .transpose = gemm_transpose_##isa, .decode_f32 = gemm_decode_f32_##isa,                                  \
    .scale_row = gemm_scale_row_##isa, .bias_row = gemm_bias_row_##isa, .store_row = gemm_store_row_##isa,   \
    .multiply_row = gemm_multiply_row_##isa, .add_row = gemm_add_row_##isa,                                  \
    .gated_silu_row = gemm_gated_silu_row_##isa

#define GEMM_BF16_SIDE                                                                                       \
    .has_bf16 = true, .convert_bf16 = gemm_convert_bf16_avx512bf16,                                          \
    .decode_bf16 = gemm_decode_bf16_avx512bf16, .row_products = gemm_row_products_avx512bf16,                \
    .pack_rows_bf16 = gemm_pack_rows_bf16_avx512bf16,                                                        \
    .pack_columns_bf16 = gemm_pack_columns_bf16_avx512bf16, .softmax_row = gemm_softmax_row_avx512bf16

static const struct gemm_kernels tables[CPU_ISA_COUNT] = {
    [CPU_PLAIN] = {.name = "plain",
                   GEMM_F32_SIDE(plain),
                   .row_products = gemm_row_products_plain,
                   .softmax_row = gemm_softmax_row_plain},
#ifdef LIMN_X86_KERNELS
    [CPU_AVX2] = {.name = "avx2",
                  .product_f32 = gemm_product_f32_avx2,
                  .convert_f32 = gemm_convert_f32_avx2,
                  .pack_rows_f32 = gemm_pack_rows_f32_plain,
                  .pack_columns_f32 = gemm_pack_columns_f32_plain,
                  .transpose = gemm_transpose_plain,
                  .decode_f32 = gemm_decode_f32_avx2,
                  .row_products = gemm_row_products_avx2,
                  .softmax_row = gemm_softmax_row_avx2,
                  .scale_row = gemm_scale_row_avx2,
                  .bias_row = gemm_bias_row_plain,
                  .multiply_row = gemm_multiply_row_plain,
                  .store_row = gemm_store_row_avx2,
                  .add_row = gemm_add_row_plain,
                  .gated_silu_row = gemm_gated_silu_row_avx2},
    [CPU_AVX512] = {.name = "avx512",
                    GEMM_F32_SIDE(avx512),
                    .row_products = gemm_row_products_avx512,
                    .softmax_row = gemm_softmax_row_avx512},
    [CPU_AVX512BF16] = {.name = "avx512bf16",
                        GEMM_F32_SIDE(avx512),
                        GEMM_BF16_SIDE,
                        .product_bf16 = gemm_product_bf16_avx512bf16},
    [CPU_AMX] = {.name = "amx",
                 GEMM_F32_SIDE(avx512),
                 GEMM_BF16_SIDE,
                 .product_bf16 = gemm_product_bf16_amx,
                 .product_tiles = gemm_product_tiles_amx,
                 .softmax_shift = gemm_softmax_shift_avx512,
                 .probabilities = gemm_probabilities_amx},
#endif
};

const struct gemm_kernels *gemm_kernels_for(enum cpu_isa isa) {
    return &tables[tables[isa].name ? isa : CPU_PLAIN];
}
