// The kernels of each instruction set by name, for the tables in gemm.c. Relies on gemm.h.
#ifndef LIMN_TENSOR_CPU_GEMM_ISA_H
#define LIMN_TENSOR_CPU_GEMM_ISA_H

#include "tensor/cpu/gemm.h"

// The f32 side, which every instruction set from AVX-512 down has in full.
#define GEMM_DECLARE_F32(isa)                                                                                \
    void gemm_product_f32_##isa(const struct gemm_product *);                                                \
    void gemm_convert_f32_##isa(enum dtype, const void *, int64_t, bool, float *);                           \
    void gemm_pack_rows_f32_##isa(const float *, int64_t, int, int64_t, int64_t, float *);                   \
    void gemm_pack_columns_f32_##isa(const float *, int64_t, int, int64_t, int64_t, float *);                \
    void gemm_transpose_##isa(const float *, int64_t, int64_t, int64_t, float *, int64_t);                   \
    void gemm_decode_f32_##isa(const struct stored_row *, int64_t, int64_t, bool, float *);                  \
    void gemm_row_products_##isa(const struct stored_row *, size_t, int64_t, bool, const float *, int64_t,   \
                                 float *);                                                                   \
    float gemm_softmax_row_##isa(float *, int64_t, int64_t, float, struct softmax *, bool, uint16_t *);      \
    void gemm_scale_row_##isa(float *, int64_t, float);                                                      \
    void gemm_bias_row_##isa(float *, const float *, int64_t);                                               \
    void gemm_multiply_row_##isa(float *, const float *, int64_t);                                           \
    void gemm_store_row_##isa(const float *, int64_t, enum dtype, void *);                                   \
    void gemm_add_row_##isa(const float *, const float *, int64_t, float *);                                 \
    void gemm_gated_silu_row_##isa(const float *, const float *, int64_t, enum dtype, void *)

GEMM_DECLARE_F32(plain);
GEMM_DECLARE_F32(avx512);

// AVX2 has these of its own and takes the others from the plain ones.
void gemm_product_f32_avx2(const struct gemm_product *);
void gemm_convert_f32_avx2(enum dtype, const void *, int64_t, bool, float *);
void gemm_decode_f32_avx2(const struct stored_row *, int64_t, int64_t, bool, float *);
void gemm_row_products_avx2(const struct stored_row *, size_t, int64_t, bool, const float *, int64_t,
                            float *);
float gemm_softmax_row_avx2(float *, int64_t, int64_t, float, struct softmax *, bool, uint16_t *);
void gemm_scale_row_avx2(float *, int64_t, float);
void gemm_store_row_avx2(const float *, int64_t, enum dtype, void *);
void gemm_gated_silu_row_avx2(const float *, const float *, int64_t, enum dtype, void *);

// Brings the shift up to date with a row of scores; returns the factor for what was summed before.
float gemm_softmax_shift_avx512(const float *scores, int64_t valid, float scale, struct softmax *state);

void gemm_product_bf16_avx512bf16(const struct gemm_product *);
void gemm_convert_bf16_avx512bf16(enum dtype, const void *, int64_t, uint16_t *);
void gemm_decode_bf16_avx512bf16(const struct stored_row *, int64_t, int64_t, uint16_t *);
void gemm_row_products_avx512bf16(const struct stored_row *, size_t, int64_t, bool, const float *, int64_t,
                                  float *);
// Of types that it has, with [round]; false where the type is another.
bool gemm_code_products_avx512bf16(const struct stored_row *, size_t, int64_t, const float *, int64_t,
                                   float *);
void gemm_pack_rows_bf16_avx512bf16(const uint16_t *, int64_t, int, int64_t, int64_t, uint16_t *);
void gemm_pack_columns_bf16_avx512bf16(const uint16_t *, int64_t, int, int64_t, int64_t, uint16_t *);
float gemm_softmax_row_avx512bf16(float *, int64_t, int64_t, float, struct softmax *, bool, uint16_t *);

void gemm_product_bf16_amx(const struct gemm_product *);
void gemm_product_tiles_amx(const struct gemm_tiles *);
bool gemm_probabilities_amx(const struct gemm_product *, float, struct softmax *, uint16_t *, int64_t);

#endif
