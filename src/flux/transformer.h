// The FLUX.2 transformer: double blocks, single blocks, shared modulation. Relies on tensor (ops.h), weights, observer.
#ifndef LIMN_FLUX_TRANSFORMER_H
#define LIMN_FLUX_TRANSFORMER_H

#include "flux/observer.h"
#include "tensor/ops.h"

struct transformer;

// Read from config.json and checked against the tensor shapes.
struct transformer_shape {
    int64_t hidden, heads, head_dim;
    int64_t double_blocks, single_blocks;
    int64_t in_channels, context; // 128 and 15360 for dev
    int64_t mlp_hidden;           // after the gate: 3 * hidden
    int64_t timestep_width;       // 256
    int axes[4];                  // rope dims of t, h, w, l; they sum to head_dim
    double rope_theta;            // 2000
    double eps;
    bool guidance;    // has a guidance embedder
    bool sixteen_bit; // the large weights are 16-bit
    int64_t parameters;
};

// Maps the weights of [folder]/transformer. [device] must outlive it.
struct transformer *transformer_open(const char *folder, struct device *device, struct error *error);
void transformer_close(struct transformer *transformer);
const struct transformer_shape *transformer_shape(const struct transformer *transformer);
void transformer_release_pages(struct transformer *transformer);

// A sequence: text first, then the generated picture's tokens, then each reference's.
struct token_grid {
    int height, width; // in tokens (16 pixels a side)
    int time;          // position id t: 0 for the generated picture, 10 (r + 1) for reference r
};

// What stays the same over the steps of one request: positions, tables, embedded text, buffers. Grids[0] is the generated
// picture. prompt_embeds: [text_length, context] f32 on the host, copied. NULL with an error.
struct transformer_run;
struct transformer_run *transformer_begin(struct transformer *transformer, enum compute compute,
                                          int text_length, const float *prompt_embeds, int grid_count,
                                          const struct token_grid *grids, struct error *error);
void transformer_end(struct transformer_run *run); // gives its workspace back; last begun, first ended

typedef bool transformer_progress(void *context, int block, int blocks);

// One evaluation. latents: [tokens of grids[0], in_channels] f32 host; references: the tokens of grids[1..], one below the
// other, f32 host (NULL when there are none). timestep is 1000 sigma; guidance as the user gives it (1000 times it is
// embedded). velocity: like latents. False when cancelled or out of memory.
bool transformer_velocity(struct transformer_run *run, const float *latents, const float *references,
                          float timestep, float guidance, transformer_progress *progress, void *context,
                          const struct observer *observer, float *velocity, struct error *error);

#endif
