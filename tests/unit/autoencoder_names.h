// The names of an autoencoder's tensors in BFL's layout, for the tests that write such files.
#ifndef LIMN_TESTS_AUTOENCODER_NAMES_H
#define LIMN_TESTS_AUTOENCODER_NAMES_H

#include "unit.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int vae_levels = 4; // of the autoencoder at hand

// diffusers' names as BFL's; for copy_tensors.
static inline bool bfl_autoencoder(const char *name, char *to, size_t size) {
    static const char *const plain[][2] = {
        {"encoder.conv_norm_out.", "encoder.norm_out."},
        {"decoder.conv_norm_out.", "decoder.norm_out."},
        {"quant_conv.", "encoder.quant_conv."},
        {"post_quant_conv.", "decoder.post_quant_conv."},
        {"encoder.mid_block.resnets.0.", "encoder.mid.block_1."},
        {"encoder.mid_block.resnets.1.", "encoder.mid.block_2."},
        {"decoder.mid_block.resnets.0.", "decoder.mid.block_1."},
        {"decoder.mid_block.resnets.1.", "decoder.mid.block_2."},
        {"encoder.mid_block.attentions.0.group_norm.", "encoder.mid.attn_1.norm."},
        {"encoder.mid_block.attentions.0.to_q.", "encoder.mid.attn_1.q."},
        {"encoder.mid_block.attentions.0.to_k.", "encoder.mid.attn_1.k."},
        {"encoder.mid_block.attentions.0.to_v.", "encoder.mid.attn_1.v."},
        {"encoder.mid_block.attentions.0.to_out.0.", "encoder.mid.attn_1.proj_out."},
        {"decoder.mid_block.attentions.0.group_norm.", "decoder.mid.attn_1.norm."},
        {"decoder.mid_block.attentions.0.to_q.", "decoder.mid.attn_1.q."},
        {"decoder.mid_block.attentions.0.to_k.", "decoder.mid.attn_1.k."},
        {"decoder.mid_block.attentions.0.to_v.", "decoder.mid.attn_1.v."},
        {"decoder.mid_block.attentions.0.to_out.0.", "decoder.mid.attn_1.proj_out."}};
    int level, block, end = 0;
    const char *rest;
    snprintf(to, size, "%s", name);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        size_t length = strlen(plain[i][0]);
        if (strncmp(name, plain[i][0], length) == 0) snprintf(to, size, "%s%s", plain[i][1], name + length);
    }
    bool down = sscanf(name, "encoder.down_blocks.%d.resnets.%d.%n", &level, &block, &end) == 2 && end;
    bool up = !down && sscanf(name, "decoder.up_blocks.%d.resnets.%d.%n", &level, &block, &end) == 2 && end;
    rest = name + end;
    bool shortcut = strncmp(rest, "conv_shortcut.", 14) == 0;
    if (down || up)
        snprintf(to, size, "%s.%d.block.%d.%s%s", down ? "encoder.down" : "decoder.up",
                 down ? level : vae_levels - 1 - level, block, shortcut ? "nin_shortcut." : "",
                 rest + (shortcut ? 14 : 0));
    end = 0;
    if (sscanf(name, "encoder.down_blocks.%d.downsamplers.0.conv.%n", &level, &end) == 1 && end)
        snprintf(to, size, "encoder.down.%d.downsample.conv.%s", level, name + end);
    end = 0;
    if (sscanf(name, "decoder.up_blocks.%d.upsamplers.0.conv.%n", &level, &end) == 1 && end)
        snprintf(to, size, "decoder.up.%d.upsample.conv.%s", vae_levels - 1 - level, name + end);
    return true;
}

#endif
