// Timing the operations of a model at its sizes, beside the machine's own ceilings measured in the same run. Used by
// `limn bench` and by the programs in bench/. Relies on tensor.
#ifndef LIMN_CLI_MEASURE_H
#define LIMN_CLI_MEASURE_H

#include "tensor/device.h"
#include "tensor/ops.h"

enum { MEASURE_ROUNDS_MOST = 63 };

struct measure {
    struct device *device;
    int rounds;     // of which the median counts, 1 to MEASURE_ROUNDS_MOST
    double ceiling; // products in bf16, operations a second
};

// Opens the device on [isa] (NULL: the best one).
bool measure_open(struct measure *measure, struct pool *pool, const char *isa, int rounds,
                  struct error *error);
void measure_close(struct measure *measure);

// Prints the register-only ceilings in bf16, f32 and 8 bits and the reading rate, and keeps the first.
void measure_machine(struct measure *measure);
// Measures the bf16 ceiling again and prints it.
void measure_ceiling(struct measure *measure);

// Prints "name  seconds  GFLOP/s  share of the ceiling" for the median of [seconds] (sorted in place).
void measure_report(const struct measure *measure, const char *name, double operations, double *seconds);
double measure_median(double *values, int count);
double measure_cpu_seconds(void); // of all threads of the process

// [count] bf16 values in [-size, size), in the device's workspace; NULL when there is no room.
void *measure_values(struct measure *measure, int64_t count, float size);

// A linear layer with bf16 weights and activations in bf16 compute.
void measure_linear(struct measure *measure, int64_t tokens, int64_t in, int64_t out,
                    enum epilogue_kind kind);
// Products with weights of every stored type, in bf16 compute: [tokens] tokens beside the product with bf16 weights, and one
// row beside a loop that only reads, each pair in turn. quick: the four types that matter most.
void measure_stored(struct measure *measure, int64_t tokens, bool quick);
// The same in 8 bits beside bf16, turn by turn, and how many times as fast that is in CPU seconds. (Shares are of the bf16
// ceiling.)
void measure_int8(struct measure *measure, int64_t tokens, int64_t in, int64_t out, enum epilogue_kind kind);
void measure_attention(struct measure *measure, int64_t queries, int64_t keys, int heads, int kv_heads,
                       int head_dim, bool causal);
// A 3x3 convolution of a [side, side, channels] map, with normalisation and SiLU on its way in.
void measure_convolution(struct measure *measure, int64_t side, int64_t channels);

// All of the above at the sizes of FLUX.2 [klein] 4B and of its autoencoder. quick: only those of 512 x 512.
void measure_shapes(struct measure *measure, bool quick);
// The linear layers of that model in 8 bits beside bf16, at 512 to 4608 tokens. quick: 1536 only.
void measure_int8_shapes(struct measure *measure, bool quick);

#endif
