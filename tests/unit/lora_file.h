// LoRA files for tests: safetensors images made in memory, and one random LoRA spelt in the ways that programs write them.
#ifndef LIMN_TESTS_LORA_FILE_H
#define LIMN_TESTS_LORA_FILE_H

#include "unit.h"

#include "base/buffer.h"
#include "tensor/dtype.h"

struct lora_file {
    struct buffer header, data;
};

// A tensor of f32 [values] stored as [type]; rank 0 to 4.
static inline void lora_file_add(struct lora_file *file, const char *name, enum dtype type, int rank,
                                 const int64_t *shape, const float *values) {
    int64_t count = 1;
    size_t begin = file->data.length;
    for (int i = 0; i < rank; i++) count *= shape[i];
    for (int64_t i = 0; i < count; i++) {
        uint16_t half = type == DTYPE_F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
        double wide = (double)values[i];
        int64_t whole = (int64_t)values[i];
        if (type == DTYPE_F32) buffer_add(&file->data, &values[i], 4);
        if (type == DTYPE_F16 || type == DTYPE_BF16) buffer_add(&file->data, &half, 2);
        if (type == DTYPE_F64) buffer_add(&file->data, &wide, 8);
        if (type == DTYPE_I64) buffer_add(&file->data, &whole, 8);
        unsigned char eighth = values[i] < 0 ? 0xb8 : values[i] > 0 ? 0x38 : 0; // -1, 1, 0
        if (type == DTYPE_F8_E4M3) buffer_add(&file->data, &eighth, 1);
    }
    buffer_printf(&file->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", file->header.length ? "," : "{",
                  name, dtype_info(type)->name);
    for (int i = 0; i < rank; i++) buffer_printf(&file->header, "%s%lld", i ? "," : "", (long long)shape[i]);
    buffer_printf(&file->header, "],\"data_offsets\":[%zu,%zu]}", begin, file->data.length);
}

// The whole file; [metadata]: what "lora_adapter_metadata" says, NULL: nothing. [file] is freed.
static inline struct buffer lora_file_finish(struct lora_file *file, const char *metadata) {
    struct buffer whole = {0};
    if (!file->header.length) buffer_add_string(&file->header, "{");
    if (metadata) {
        buffer_printf(&file->header, "%s\"__metadata__\":{\"format\":\"pt\",\"lora_adapter_metadata\":\"",
                      file->header.length > 1 ? "," : "");
        for (const char *c = metadata; *c; c++)
            buffer_printf(&file->header, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
        buffer_add_string(&file->header, "\"}");
    }
    buffer_add_string(&file->header, "}");
    uint64_t length = file->header.length;
    buffer_add(&whole, &length, 8);
    buffer_add(&whole, file->header.data, file->header.length);
    buffer_add(&whole, file->data.data, file->data.length);
    buffer_free(&file->header);
    buffer_free(&file->data);
    return whole;
}

// -------------------------------------------------------------------------------------------------- one random LoRA

// A layer of the small model (hidden 32, mlp 96, 12 channels, context 24) as diffusers and as BFL call it; layers of one BFL name
// are its rows, one below the other.
struct lora_layer {
    const char *diffusers, *bfl;
    int out, in, rank;
    double alpha;
    float *a, *b;
};

static const struct lora_layer LORA_LAYERS[] = {
    {"x_embedder", "img_in", 32, 12, 1, 1, NULL, NULL},
    {"context_embedder", "txt_in", 32, 24, 3, 1.5, NULL, NULL},
    {"time_guidance_embed.timestep_embedder.linear_1", "time_in.in_layer", 32, 256, 2, 2, NULL, NULL},
    {"time_guidance_embed.timestep_embedder.linear_2", "time_in.out_layer", 32, 32, 4, 1, NULL, NULL},
    {"double_stream_modulation_img.linear", "double_stream_modulation_img.lin", 192, 32, 5, 5, NULL, NULL},
    {"double_stream_modulation_txt.linear", "double_stream_modulation_txt.lin", 192, 32, 2, 1, NULL, NULL},
    {"single_stream_modulation.linear", "single_stream_modulation.lin", 96, 32, 3, 3, NULL, NULL},
    {"norm_out.linear", "final_layer.adaLN_modulation.1", 64, 32, 3, 2, NULL, NULL},
    {"proj_out", "final_layer.linear", 12, 32, 2, 4, NULL, NULL},
    {"transformer_blocks.0.attn.to_q", "double_blocks.0.img_attn.qkv", 32, 32, 3, 6, NULL, NULL},
    {"transformer_blocks.0.attn.to_k", "double_blocks.0.img_attn.qkv", 32, 32, 3, 6, NULL, NULL},
    {"transformer_blocks.0.attn.to_v", "double_blocks.0.img_attn.qkv", 32, 32, 3, 6, NULL, NULL},
    {"transformer_blocks.0.attn.to_out.0", "double_blocks.0.img_attn.proj", 32, 32, 4, 4, NULL, NULL},
    {"transformer_blocks.1.ff.linear_in", "double_blocks.1.img_mlp.0", 192, 32, 3, 1, NULL, NULL},
    {"transformer_blocks.1.ff.linear_out", "double_blocks.1.img_mlp.2", 32, 96, 7, 7, NULL, NULL},
    {"transformer_blocks.1.attn.add_q_proj", "double_blocks.1.txt_attn.qkv", 32, 32, 2, 2, NULL, NULL},
    {"transformer_blocks.1.attn.add_k_proj", "double_blocks.1.txt_attn.qkv", 32, 32, 2, 2, NULL, NULL},
    {"transformer_blocks.1.attn.add_v_proj", "double_blocks.1.txt_attn.qkv", 32, 32, 2, 2, NULL, NULL},
    {"transformer_blocks.1.attn.to_add_out", "double_blocks.1.txt_attn.proj", 32, 32, 1, 2, NULL, NULL},
    {"transformer_blocks.0.ff_context.linear_in", "double_blocks.0.txt_mlp.0", 192, 32, 2, 2, NULL, NULL},
    {"transformer_blocks.0.ff_context.linear_out", "double_blocks.0.txt_mlp.2", 32, 96, 2, 2, NULL, NULL},
    {"single_transformer_blocks.0.attn.to_qkv_mlp_proj", "single_blocks.0.linear1", 288, 32, 3, 3, NULL,
     NULL},
    {"single_transformer_blocks.2.attn.to_qkv_mlp_proj", "single_blocks.2.linear1", 288, 32, 5, 2, NULL,
     NULL},
    {"single_transformer_blocks.1.attn.to_out", "single_blocks.1.linear2", 32, 128, 3, 3, NULL, NULL},
};
enum { LORA_LAYER_COUNT = sizeof LORA_LAYERS / sizeof *LORA_LAYERS };

// Numbers in (-1, 1) that are the same everywhere.
static inline float lora_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((int32_t)(*state >> 32)) * 0x1p-31f;
}

// Fills [layers] with matrices of about the size that a trained LoRA has against these weights.
static inline void lora_layers_make(struct lora_layer layers[LORA_LAYER_COUNT], uint64_t seed) {
    for (int i = 0; i < LORA_LAYER_COUNT; i++) {
        struct lora_layer *l = &layers[i];
        *l = LORA_LAYERS[i];
        l->a = malloc((size_t)(l->rank * l->in) * sizeof(float));
        l->b = malloc((size_t)(l->out * l->rank) * sizeof(float));
        for (int k = 0; k < l->rank * l->in; k++) l->a[k] = 0.3f * lora_random(&seed);
        for (int k = 0; k < l->out * l->rank; k++) l->b[k] = 0.3f * lora_random(&seed);
    }
}

static inline void lora_layers_free(struct lora_layer layers[LORA_LAYER_COUNT]) {
    for (int i = 0; i < LORA_LAYER_COUNT; i++) {
        free(layers[i].a);
        free(layers[i].b);
    }
}

// How a program spells a LoRA.
struct lora_family {
    const char *prefix;
    bool bfl;         // BFL's layers: fused, the final modulation's halves swapped
    bool underscored; // points of the layer's name are underscores
    bool cut;         // "transformer_blocks" has lost "tran"
    const char *down, *up;
};

static const struct lora_family LORA_FAMILIES[] = {
    {"transformer.", false, false, false, ".lora_A.weight", ".lora_B.weight"},
    {"", false, false, false, ".lora_A.default.weight", ".lora_B.default.weight"},
    {"base_model.model.", true, false, false, ".lora_A.weight", ".lora_B.weight"},
    {"diffusion_model.", true, false, false, ".lora_A.weight", ".lora_B.weight"},
    {"diffusion_model.", true, false, false, ".lora_down.weight", ".lora_up.weight"},
    {"diffusion_model.", false, false, true, ".lora_down.weight", ".lora_up.weight"},
    {"lora_unet_", true, true, false, ".lora_down.weight", ".lora_up.weight"},
    {"lora_transformer_", false, true, false, ".lora_down.weight", ".lora_up.weight"},
};
enum { LORA_FAMILY_COUNT = sizeof LORA_FAMILIES / sizeof *LORA_FAMILIES };

// "[prefix][layer][ending]" as the family has it.
static inline void lora_family_name(const struct lora_family *family, const char *layer, const char *ending,
                                    char *name, size_t size) {
    if (family->cut && !strncmp(layer, "transformer_blocks", 18)) layer += 4;
    int used = snprintf(name, size, "%s", family->prefix);
    for (; *layer; layer++) name[used++] = *layer == '.' && family->underscored ? '_' : *layer;
    snprintf(name + used, size - (size_t)used, "%s", ending);
}

// [count] layers that are rows of one: A one below the other, B block by block. rank and alpha grow alike, so the scale stays.
static inline void lora_family_add(struct lora_file *file, const struct lora_family *family,
                                   const struct lora_layer *layers, int count, bool with_alpha,
                                   enum dtype type) {
    const char *layer = family->bfl ? layers[0].bfl : layers[0].diffusers;
    const int in = layers[0].in, out = layers[0].out, one = layers[0].rank, rank = one * count;
    const bool swap = !strcmp(layer, "final_layer.adaLN_modulation.1");
    char name[200];
    float *a = malloc((size_t)(rank * in) * sizeof *a), *b = calloc((size_t)(count * out * rank), sizeof *b);
    float alpha = (float)layers[0].alpha * (float)count;
    for (int i = 0; i < count; i++) {
        memcpy(a + i * one * in, layers[i].a, (size_t)(one * in) * sizeof *a);
        for (int row = 0; row < out; row++) {
            int from = swap ? (row + out / 2) % out : row;
            memcpy(b + (i * out + row) * rank + i * one, layers[i].b + from * one, (size_t)one * sizeof *b);
        }
    }
    lora_family_name(family, layer, family->down, name, sizeof name);
    lora_file_add(file, name, type, 2, (int64_t[]){rank, in}, a);
    lora_family_name(family, layer, family->up, name, sizeof name);
    lora_file_add(file, name, type, 2, (int64_t[]){count * out, rank}, b);
    lora_family_name(family, layer, ".alpha", name, sizeof name);
    if (with_alpha) lora_file_add(file, name, DTYPE_F32, 0, NULL, &alpha);
    free(a);
    free(b);
}

static inline struct buffer lora_family_file(const struct lora_family *family,
                                             const struct lora_layer layers[LORA_LAYER_COUNT],
                                             enum dtype type) {
    struct lora_file file = {0};
    for (int i = 0, count; i < LORA_LAYER_COUNT; i += count) {
        count = 1;
        while (family->bfl && i + count < LORA_LAYER_COUNT && !strcmp(layers[i].bfl, layers[i + count].bfl))
            count++;
        lora_family_add(&file, family, &layers[i], count, true, type);
    }
    return lora_file_finish(&file, NULL);
}

#endif
