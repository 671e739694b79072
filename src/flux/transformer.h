// The FLUX.2 transformer: double blocks, single blocks, shared modulation. Relies on tensor (ops.h), weights, observer.
//
//     run = transformer_begin(...);                      // once a request: text, references, positions
//     for each step: transformer_velocity(run, latents, timestep, guidance, ..., velocity, error);
//     transformer_end(run);
#ifndef LIMN_FLUX_TRANSFORMER_H
#define LIMN_FLUX_TRANSFORMER_H

#include "flux/observer.h"
#include "flux/positions.h"
#include "tensor/ops.h"
#include "weights/checkpoint.h"

struct transformer;

// Read from config.json and checked against the tensor shapes, or read off these where there is no config.json.
struct transformer_shape {
    int64_t hidden, heads, head_dim;
    int64_t double_blocks, single_blocks;
    int64_t in_channels, context; // 128 and 15360 for dev
    int64_t mlp_hidden;           // after the gate: 3 * hidden
    int64_t timestep_width;       // 256
    int axes[POSITION_AXES];      // rope dims of t, h, w, l; they sum to head_dim
    double rope_theta;            // 2000
    double eps;
    bool guidance;    // has a guidance embedder
    bool sixteen_bit; // most of the weights are stored in 16 bits or fewer
    int64_t parameters;
};

// The shape that a config.json of [size] bytes describes; [name] stands in the errors. What is absent has the value that
// diffusers gives it. sixteen_bit and parameters are left false and 0: the weights say them.
bool transformer_config_parse(const char *name, const char *json, size_t size,
                              struct transformer_shape *shape, struct error *error);

// Maps the weights of the transformer in the model folder [folder] (weights/parts.h says where it may lie). [device] must outlive it. Errors name the file and the field, or the tensor with the
// shape it has and the one expected.
struct transformer *transformer_open(const char *folder, struct device *device, struct error *error);
void transformer_close(struct transformer *transformer); // NULL is fine
const struct transformer_shape *transformer_shape(const struct transformer *transformer);

// The files that the weights lie in.
struct checkpoint_summary transformer_weights(const struct transformer *transformer);

// Tells the system that the weights' file pages are not needed for now.
void transformer_release_pages(const struct transformer *transformer);

// What stays the same over the steps of one request: positions, embedded text and references, buffers in the device's
// workspace. The sequence is text, then the tokens of grids[0], the generated picture, then those of grids[1..], the references.
// prompt_embeds: [text_length, context] f32 on the host; references: [tokens of grids[1..], in_channels] f32 on the host (NULL
// where there are none). Both are copied. [compute] COMPUTE_I8 holds for the products inside the blocks; attention, the text's
// embedding and the output layer are then in bf16, embedders and modulation in f32 as always. text_length and grid_count at least 1. NULL with an error.
struct transformer_run;
struct transformer_run *transformer_begin(struct transformer *transformer, enum compute compute,
                                          int text_length, const float *prompt_embeds, int grid_count,
                                          const struct token_grid *grids, const float *references,
                                          struct error *error);
// An upper bound of the workspace that such a run takes, in bytes; [tokens]: of all grids. Side branches take little more.
int64_t transformer_run_bytes(const struct transformer *transformer, enum compute compute, int text_length,
                              int64_t tokens);
// Gives its workspace back; last begun, first ended. NULL is fine.
void transformer_end(struct transformer_run *run);

// Another text of the same shape beside the first, copied likewise: what guidance by two evaluations a step contrasts the prompt
// with. At most one; its workspace belongs to the run. transformer_choose says which of the two the next evaluations read: the
// first (as after transformer_begin), or with [second] the other.
bool transformer_add_text(struct transformer_run *run, const float *prompt_embeds, struct error *error);
void transformer_choose(struct transformer_run *run, bool second);

// Called several times a block; returns false to stop (the run then fails with ERROR_CANCELLED). [block]: blocks done.
typedef bool transformer_progress(void *context, int block, int blocks);

// One evaluation. latents: [tokens of grids[0], in_channels] f32 host. timestep is 1000 sigma; guidance as the user gives it
// (1000 times it is embedded; without effect where the model has no guidance embedder; negative: not embedded). velocity: like latents. False when
// cancelled or out of memory. The observer (or NULL) sees the residual streams behind each block, "double_B_txt",
// "double_B_img" and "single_B" (text first), f32 [tokens, hidden].
bool transformer_velocity(struct transformer_run *run, const float *latents, float timestep, float guidance,
                          transformer_progress *progress, void *context, const struct observer *observer,
                          float *velocity, struct error *error);

#endif
