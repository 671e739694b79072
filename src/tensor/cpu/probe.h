// How fast this machine can go at all: loops that only compute, in registers, and one that only reads memory.
// Relies on cpu.h. Used by the benchmarks to put figures beside a ceiling measured in the same run.
#ifndef LIMN_TENSOR_CPU_PROBE_H
#define LIMN_TENSOR_CPU_PROBE_H

#include "tensor/cpu/cpu.h"

// Floating-point operations a second of all of the device's threads together, measured for about [seconds]: products in
// bf16, f32 or 8 bits as the device's instruction set computes them, operands in registers. 8 bits are measured where there
// is an instruction for them; elsewhere the figure is that of bf16.
double probe_products(struct device *device, enum compute compute, double seconds);

// Bytes a second that all threads together read from memory (64 MiB each, beyond most caches' share).
double probe_reading(struct device *device, double seconds);

// One round of the loops of an instruction set; each returns the floating-point operations that it did.
double probe_round_plain(void);
double probe_round_avx2(void);
double probe_round_avx512(void);
double probe_round_avx512bf16(void);
double probe_round_avx512vnni(void);
double probe_round_amx(void);

#endif
