// The CPU's op table. Relies on cpu.h.
#include "tensor/cpu/cpu.h"

const struct ops cpu_ops = {
    .name = "cpu",
    .linear = cpu_linear,
    .layer_norm_modulate = cpu_layer_norm_modulate,
    .rms_norm = cpu_rms_norm,
    .norm_rope = cpu_norm_rope,
    .attention = cpu_attention,
    .linear_bytes = cpu_linear_bytes,
    .attention_bytes = cpu_attention_bytes,
    .embed = cpu_embed,
    .timestep_embedding = cpu_timestep_embedding,
    .silu = cpu_silu,
    .add = cpu_add,
    .copy = cpu_copy,
    .conv_pack = cpu_conv_pack,
    .conv2d = cpu_conv2d,
    .group_norm = cpu_group_norm,
    .scale_shift = cpu_scale_shift,
};
