// The CPU backend from inside: its state, and the functions that fill its op table. Relies on device.h, ops.h, pool.h.
//
// DESIGN. One op is one file (linear.c, attention.c, ...) that divides the work into tasks for the pool and is the same
// for every instruction set; what depends on the instruction set are small kernels behind tables that are chosen
// when the device is opened: struct gemm_kernels (gemm.h: products, packing, softmax; gemm_int8.h: products in 8 bits) and
// struct row_kernels (rows.h: what works on one row or one map at a time). A task sums only within itself and in an order that the shape gives,
// never the number of threads: the same bytes for any number of threads.
#ifndef LIMN_TENSOR_CPU_CPU_H
#define LIMN_TENSOR_CPU_CPU_H

#include "tensor/device.h"
#include "tensor/ops.h"

// Instruction sets from the oldest to the newest; each can run the kernels of those before it.
enum cpu_isa {
    CPU_PLAIN,
    CPU_AVX2,       // AVX2, FMA, F16C
    CPU_AVX512,     // AVX-512 F, BW, VL, DQ
    CPU_AVX512BF16, // and AVX512_BF16
    CPU_AMX,        // and AMX tiles with bf16, allowed by the kernel
    CPU_ISA_COUNT,
};

// The newest instruction set that this build, this processor and this system offer.
enum cpu_isa cpu_isa_best(void);
const char *cpu_isa_name(enum cpu_isa isa);

struct gemm_kernels;
struct int8_kernels;
struct row_kernels;

enum { CPU_SCRATCH_BYTES = 8 << 20 }; // of each thread

struct cpu {
    enum cpu_isa isa;
    const struct gemm_kernels *gemm; // gemm.h
    const struct int8_kernels *int8; // gemm_int8.h
    const struct row_kernels *rows;  // rows.h
    int threads;
    char *scratch; // [threads][CPU_SCRATCH_BYTES], 64-byte aligned, pages taken when touched
};

static inline const struct cpu *cpu_of(const struct device *device) {
    return (const struct cpu *)device->backend;
}

// The scratch memory of one thread, for the time of one task. 64-byte aligned, content undefined.
static inline void *cpu_scratch(const struct device *device, int worker) {
    return cpu_of(device)->scratch + (size_t)worker * CPU_SCRATCH_BYTES;
}

// The kernels of an instruction set; never NULL. Defined in rows.c.
const struct row_kernels *row_kernels_for(enum cpu_isa isa);

extern const struct ops cpu_ops; // table.c

// ------------------------------------------------------------------------- the ops, as ops.h describes them, one file each

void cpu_linear(struct device *, const struct linear *, struct matrix x, const struct epilogue *,
                struct matrix y);
void cpu_attention(struct device *, const struct attention *, struct matrix q, struct matrix k,
                   struct matrix v, struct matrix out);
int64_t cpu_linear_bytes(struct device *, int64_t in, int64_t rows);
int64_t cpu_attention_bytes(struct device *, const struct attention *, int64_t keys);

void cpu_layer_norm_modulate(struct device *, struct matrix x, float eps, const struct modulation *,
                             int count, struct matrix y);
void cpu_rms_norm(struct device *, struct matrix x, const float *weight, float eps, struct matrix y);
void cpu_norm_rope(struct device *, struct matrix x, int heads, const float *weight, float eps,
                   const float *cosines, const float *sines, enum rope_pairing);
void cpu_embed(struct device *, const struct weight_rows *table, const int32_t *tokens, int64_t count,
               struct matrix y);
void cpu_timestep_embedding(struct device *, float value, struct matrix e);
void cpu_silu(struct device *, struct matrix x, struct matrix y);
void cpu_add(struct device *, struct matrix x, float factor, struct matrix y);
void cpu_copy(struct device *, struct matrix x, struct matrix y);
bool cpu_conv_pack(struct device *, struct conv *, const struct tensor *weights, struct error *error);
void cpu_conv2d(struct device *, const struct conv *, const struct feature_map *x, const struct conv_input *,
                const struct feature_map *residual, struct feature_map *y);
void cpu_group_norm(struct device *, const struct feature_map *x, int groups, float eps, const float *weight,
                    const float *bias, float *scale, float *shift);
void cpu_scale_shift(struct device *, const struct feature_map *x, const float *scale, const float *shift,
                     bool silu, struct feature_map *y);

#endif
