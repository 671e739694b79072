// Reads the weights of an autoencoder. Relies on autoencoder_parts.h.
#include "flux/autoencoder_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { NAME_BYTES = 160 };

struct loader {
    const struct checkpoint *checkpoint;
    struct device *device;
    enum compute compute;
    struct error *error;
};

// A copy of [count] f32 values in device memory, of the tensor "[name].[suffix]".
static float *load_values(const struct loader *loader, int64_t count, const char *name, const char *suffix) {
    float *values = checkpoint_get_f32(loader->checkpoint, count, loader->error, "%s.%s", name, suffix);
    if (!values) return NULL;
    const size_t bytes = (size_t)count * sizeof *values;
    float *copy = device_alloc(loader->device, bytes, loader->error);
    if (copy) device_upload(loader->device, copy, values, bytes);
    free(values);
    return copy;
}

static bool load_norm(const struct loader *loader, struct norm_part *norm, int64_t channels,
                      const char *format, ...) __attribute__((format(printf, 4, 5)));

static bool load_norm(const struct loader *loader, struct norm_part *norm, int64_t channels,
                      const char *format, ...) {
    char name[NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    norm->channels = channels;
    norm->weight = load_values(loader, channels, name, "weight");
    norm->bias = norm->weight ? load_values(loader, channels, name, "bias") : NULL;
    return norm->bias != NULL;
}

// conv: with what conv_pack needs, except weights and compute type. [rank]: 4, or 2 for a linear layer's [out, in].
static bool load_conv(const struct loader *loader, struct conv *to, struct conv conv, int rank,
                      enum compute compute, const char *format, ...) __attribute__((format(printf, 6, 7)));

static bool load_conv(const struct loader *loader, struct conv *to, struct conv conv, int rank,
                      enum compute compute, const char *format, ...) {
    char name[NAME_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    conv.compute = compute;
    if (conv.stride == 0) conv.stride = 1;
    int64_t shape[4] = {conv.out, conv.in, conv.kernel, conv.kernel};
    struct tensor weights;
    if (!checkpoint_get(loader->checkpoint, &weights, rank, shape, loader->error, "%s.weight", name))
        return false;
    if (weights.scales || weights.type > DTYPE_BOOL)
        return error_set(loader->error, ERROR_UNSUPPORTED,
                         "tensor \"%s.weight\": stored as %s%s, expected a convolution in F32, F16 or BF16",
                         name, dtype_info(weights.type)->name, weights.scales ? " with scales" : "");
    weights.rank = 4;
    weights.shape[0] = conv.out;
    weights.shape[1] = conv.in;
    weights.shape[2] = weights.shape[3] = conv.kernel;
    if (!loader->device->ops->conv_pack(loader->device, &conv, &weights, loader->error))
        return error_prefix(loader->error, "%s.weight", name);
    *to = conv;
    float *bias = load_values(loader, conv.out, name, "bias");
    to->bias = bias;
    return bias != NULL;
}

static struct conv conv3(int64_t in, int64_t out) {
    return (struct conv){.in = in, .out = out, .kernel = 3};
}

static struct conv conv1(int64_t in, int64_t out) {
    return (struct conv){.in = in, .out = out, .kernel = 1};
}

static bool load_resnet(const struct loader *loader, struct resnet_part *resnet, int64_t in, int64_t out,
                        const char *name) {
    const enum compute compute = loader->compute;
    if (!load_norm(loader, &resnet->norm1, in, "%s.norm1", name) ||
        !load_conv(loader, &resnet->conv1, conv3(in, out), 4, compute, "%s.conv1", name) ||
        !load_norm(loader, &resnet->norm2, out, "%s.norm2", name) ||
        !load_conv(loader, &resnet->conv2, conv3(out, out), 4, compute, "%s.conv2", name))
        return false;
    return in == out ||
           load_conv(loader, &resnet->shortcut, conv1(in, out), 4, compute, "%s.conv_shortcut", name);
}

static bool load_middle(const struct loader *loader, struct half_parts *parts, int64_t channels,
                        bool attention, const char *half) {
    char name[NAME_BYTES];
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.mid_block.resnets.%d", half, i);
        if (!load_resnet(loader, &parts->middle[i], channels, channels, name)) return false;
    }
    if (!attention) return true;
    snprintf(name, sizeof name, "%s.mid_block.attentions.0", half);
    struct attention_part *part = &parts->attention;
    const struct conv square = conv1(channels, channels);
    const enum compute compute = loader->compute;
    return load_norm(loader, &part->norm, channels, "%s.group_norm", name) &&
           load_conv(loader, &part->query, square, 2, compute, "%s.to_q", name) &&
           load_conv(loader, &part->key, square, 2, compute, "%s.to_k", name) &&
           load_conv(loader, &part->value, square, 2, compute, "%s.to_v", name) &&
           load_conv(loader, &part->out, square, 2, compute, "%s.to_out.0", name);
}

static bool load_level(const struct loader *loader, struct level_part *level, int64_t in, int64_t out,
                       bool decoder, int index, bool last) {
    char name[NAME_BYTES];
    const char *blocks = decoder ? "decoder.up_blocks" : "encoder.down_blocks";
    for (int i = 0; i < level->resnets; i++) {
        snprintf(name, sizeof name, "%s.%d.resnets.%d", blocks, index, i);
        if (!load_resnet(loader, &level->resnet[i], i == 0 ? in : out, out, name)) return false;
    }
    if (last) return true;
    struct conv resample = conv3(out, out);
    resample.upsample2 = decoder;
    resample.stride = decoder ? 1 : 2;
    resample.padding = decoder ? CONV_SAME : CONV_RIGHT_BOTTOM;
    return load_conv(loader, &level->resample, resample, 4, loader->compute, "%s.%d.%s.0.conv", blocks, index,
                     decoder ? "upsamplers" : "downsamplers");
}

bool half_parts_load(struct half_parts *parts, const struct checkpoint *checkpoint,
                     const struct autoencoder_config *config, bool decoder, enum compute compute,
                     struct device *device, struct error *error) {
    const struct loader loader = {checkpoint, device, compute, error};
    const char *half = decoder ? "decoder" : "encoder";
    const int last = config->levels - 1;
    const int64_t latents = config->latent_channels,
                  deepest = decoder ? config->decoder[last] : config->encoder[last];
    const int64_t first = decoder ? deepest : config->encoder[0],
                  end = decoder ? config->decoder[0] : deepest;
    *parts = (struct half_parts){.decoder = decoder, .levels = config->levels};
    // On the latents themselves products are f32: they cost little there, and what is lost there is lost for all.
    if (!load_conv(&loader, &parts->conv_in, conv3(decoder ? latents : 3, first), 4, COMPUTE_F32,
                   "%s.conv_in", half) ||
        !load_middle(&loader, parts, deepest, config->attention, half))
        return false;
    int64_t in = first;
    for (int i = 0; i <= last; i++) {
        const int64_t out = decoder ? config->decoder[last - i] : config->encoder[i];
        parts->level[i].resnets = decoder ? config->resnets + 1 : config->resnets;
        if (!load_level(&loader, &parts->level[i], in, out, decoder, i, i == last)) return false;
        in = out;
    }
    if (!load_norm(&loader, &parts->norm_out, end, "%s.conv_norm_out", half) ||
        !load_conv(&loader, &parts->conv_out, conv3(end, decoder ? 3 : 2 * latents), 4, compute,
                   "%s.conv_out", half))
        return false;
    if (decoder)
        return !config->post_quant || load_conv(&loader, &parts->quant, conv1(latents, latents), 4,
                                                COMPUTE_F32, "%s", "post_quant_conv");
    return !config->quant || load_conv(&loader, &parts->quant, conv1(2 * latents, 2 * latents), 4,
                                       COMPUTE_F32, "%s", "quant_conv");
}

static void free_conv(struct conv *conv, struct device *device) {
    if (conv->packed) device_free(device, conv->packed);
    if (conv->bias) device_free(device, (void *)(uintptr_t)conv->bias);
}

static void free_norm(struct norm_part *norm, struct device *device) {
    if (norm->weight) device_free(device, norm->weight);
    if (norm->bias) device_free(device, norm->bias);
}

static void free_resnet(struct resnet_part *resnet, struct device *device) {
    free_norm(&resnet->norm1, device);
    free_norm(&resnet->norm2, device);
    free_conv(&resnet->conv1, device);
    free_conv(&resnet->conv2, device);
    free_conv(&resnet->shortcut, device);
}

void half_parts_free(struct half_parts *parts, struct device *device) {
    for (int i = 0; i < parts->levels; i++) {
        for (int k = 0; k < parts->level[i].resnets; k++) free_resnet(&parts->level[i].resnet[k], device);
        free_conv(&parts->level[i].resample, device);
    }
    for (int i = 0; i < 2; i++) free_resnet(&parts->middle[i], device);
    free_norm(&parts->attention.norm, device);
    struct conv *convs[] = {&parts->attention.query,
                            &parts->attention.key,
                            &parts->attention.value,
                            &parts->attention.out,
                            &parts->conv_in,
                            &parts->conv_out,
                            &parts->quant};
    for (size_t i = 0; i < sizeof convs / sizeof *convs; i++) free_conv(convs[i], device);
    free_norm(&parts->norm_out, device);
    *parts = (struct half_parts){0};
}
