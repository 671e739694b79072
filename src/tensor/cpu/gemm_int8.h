// Products in 8 bits: what linear_int8.c is built from, one filling an instruction set. Relies on gemm.h.
//
// A row of numbers is cut into groups of INT8_GROUP; each group has one scale, its largest magnitude over 127, and codes from
// -127 to 127: value = code * scale, the code rounded to nearest even. A group whose magnitudes all are below INT8_LEAST
// (the inverse of its scale would not be finite) is zero; one with a NaN or an infinity in it has scale NaN and codes 0, so
// that everything it takes part in is NaN.
//
// A product multiplies rows of weights with panels of 16 tokens, one group at a time:
//
//     C[row, lane] (+)= (float)(sum over depth d of code[row, d] * code[d, lane]) * token_scale[lane] * row_scale[row]
//
// each multiplication and the addition rounded by itself, in this order. The sum of a group is below 2^24, so that it is exact
// as an integer and as a float: every filling gives the same bytes. Weights lie as code + 128, since the instruction that
// multiplies 8 bits wants one operand without sign; what that adds to a sum, 128 times the sum of the lane's codes, is
// subtracted beforehand (`start`).
#ifndef LIMN_TENSOR_CPU_GEMM_INT8_H
#define LIMN_TENSOR_CPU_GEMM_INT8_H

#include "tensor/cpu/gemm.h"

enum {
    INT8_GROUP = 512, // a multiple of 64, and of the blocks of every stored type
    INT8_STEP = 64,   // codes behind the end of a group are zero up to a multiple of this
    INT8_ROW_BYTES =
        INT8_GROUP + 64, // from a group of one row to that of the next: an odd number of cache lines
    INT8_RUN = 12,       // rows that are multiplied together: make their number a multiple of it
};

#define INT8_LEAST 0x1p-119f

// A group of 16 tokens.
struct int8_panel {
    int8_t codes[INT8_GROUP / 4][GEMM_LANES][4]; // four depths of a lane next to each other
    float scales[GEMM_LANES];
    int32_t start[GEMM_LANES]; // -128 times the sum of a lane's codes
};

struct int8_product {
    const uint8_t *rows;     // codes + 128 of one group, INT8_ROW_BYTES apart
    const float *row_scales; // of that group
    int64_t row_count;
    const struct int8_panel *panels;
    int64_t panel_stride; // panels from one to the next 16 tokens
    int panel_count;      // 1 or 2
    int64_t depth;        // 1 to INT8_GROUP
    float *c;             // a panel writes all its 16 lanes
    int64_t c_stride;     // values between rows of C
    bool accumulate;
    const struct int8_panel
        *next; // advice: panels (as many, as far apart) that the next product will read, or NULL
};

struct int8_kernels {
    const char *name;
    // Codes of [count] <= INT8_GROUP values of a type (F32, F16, BF16), zeros up to a multiple of INT8_STEP, each xor
    // [flip] (0x80 makes code + 128 of them). Returns the scale.
    float (*quantise)(enum dtype type, const void *from, int64_t count, uint8_t flip, uint8_t *to);
    // Packs the codes of up to 16 tokens, INT8_ROW_BYTES apart and [depth] long, as the lanes of a panel; other lanes are
    // zero. The scales are the caller's.
    void (*pack)(const uint8_t *codes, int rows, int64_t depth, struct int8_panel *to);
    void (*product)(const struct int8_product *product);
};

// The fastest of the fillings that the processor and the instruction set offer; never NULL.
const struct int8_kernels *int8_kernels_for(enum cpu_isa isa);

float int8_quantise_plain(enum dtype, const void *, int64_t, uint8_t, uint8_t *);
void int8_pack_plain(const uint8_t *, int, int64_t, struct int8_panel *);
void int8_product_plain(const struct int8_product *);
float int8_quantise_avx2(enum dtype, const void *, int64_t, uint8_t, uint8_t *);
void int8_product_avx2(const struct int8_product *);
float int8_quantise_avx512vnni(enum dtype, const void *, int64_t, uint8_t, uint8_t *);
void int8_pack_avx512vnni(const uint8_t *, int, int64_t, struct int8_panel *);
void int8_product_avx512vnni(const struct int8_product *);

#endif
