// The forward pass of an autoencoder's half. Relies on autoencoder_walk.h.
#include "flux/autoencoder_walk.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const float NORM_EPS = 1e-6f;

static size_t map_bytes(const struct feature_map *map) {
    const size_t bytes = dtype_bytes(map->type, map->batch * map->height * map->width * map->channels);
    return (bytes + 63) / 64 * 64;
}

// A map in a slot.
static struct feature_map place(struct walk *walk, int slot, enum dtype type, int64_t height, int64_t width,
                                int64_t channels) {
    struct feature_map map = {NULL, type, 1, height, width, channels};
    if (walk->planning && map_bytes(&map) > walk->bytes[slot]) walk->bytes[slot] = map_bytes(&map);
    map.data = walk->slots[slot];
    return map;
}

// The type of the maps of level [index], in the order in which the levels run. Only the level of the highest resolution,
// which decides how much memory is needed, keeps its maps in the compute type: every rounding of the residual stream adds
// to the error.
static enum dtype type_at(const struct walk *walk, int index) {
    const int from_widest = walk->parts->decoder ? walk->parts->levels - 1 - index : index;
    return from_widest == 0 ? walk->type : DTYPE_F32;
}

static bool idle(const struct walk *walk) {
    return walk->planning || walk->stopped;
}

static void report(struct walk *walk) {
    if (idle(walk)) return;
    walk->part++;
    if (walk->progress && !walk->progress(walk->context, walk->part, walk->part_count)) walk->stopped = true;
}

static void normalise(struct walk *walk, const struct norm_part *norm, const struct feature_map *x) {
    if (idle(walk)) return;
    walk->device->ops->group_norm(walk->device, x, walk->groups, NORM_EPS, norm->weight, norm->bias,
                                  walk->scale, walk->shift);
}

// y = conv(x), x normalised by the last normalise() and activated where asked for.
static void convolve(struct walk *walk, const struct conv *conv, const struct feature_map *x, bool normalised,
                     bool silu, const struct feature_map *residual, struct feature_map *y) {
    if (idle(walk)) return;
    const struct conv_input input = {
        .scale = normalised ? walk->scale : NULL, .shift = normalised ? walk->shift : NULL, .silu = silu};
    walk->device->ops->conv2d(walk->device, conv, x, &input, residual, y);
}

// x' = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))). *slot: where x lies, then where x' lies.
static struct feature_map run_resnet(struct walk *walk, const struct resnet_part *resnet,
                                     struct feature_map x, int *slot) {
    struct feature_map inside = place(walk, 1, x.type, x.height, x.width, resnet->conv1.out);
    normalise(walk, &resnet->norm1, &x);
    convolve(walk, &resnet->conv1, &x, true, true, NULL, &inside);
    struct feature_map y = x;
    if (resnet->shortcut.packed) {
        *slot = 2 - *slot;
        y = place(walk, *slot, x.type, x.height, x.width, resnet->conv2.out);
        convolve(walk, &resnet->shortcut, &x, false, false, NULL, &y);
    }
    normalise(walk, &resnet->norm2, &inside);
    convolve(walk, &resnet->conv2, &inside, true, true, &y, &y);
    report(walk);
    return y;
}

static struct matrix as_matrix(const struct feature_map *map) {
    return matrix_dense(map->data, map->type, map->height * map->width, map->channels);
}

// x += out(attention(q, k, v)) over all pixels, one head as wide as the map.
static void run_attention(struct walk *walk, const struct attention_part *part, struct feature_map *x,
                          int slot) {
    const int free_slots[4] = {1, 2 - slot, 3, 4};
    struct feature_map maps[4];
    for (int i = 0; i < 4; i++)
        maps[i] = place(walk, free_slots[i], walk->type, x->height, x->width, x->channels);
    normalise(walk, &part->norm, x);
    convolve(walk, &part->query, x, true, false, NULL, &maps[0]);
    convolve(walk, &part->key, x, true, false, NULL, &maps[1]);
    convolve(walk, &part->value, x, true, false, NULL, &maps[2]);
    if (!idle(walk)) {
        const struct attention attention = {.heads = 1,
                                            .kv_heads = 1,
                                            .head_dim = (int)x->channels,
                                            .scale = 1.0f / sqrtf((float)x->channels)};
        walk->device->ops->attention(walk->device, &attention, as_matrix(&maps[0]), as_matrix(&maps[1]),
                                     as_matrix(&maps[2]), as_matrix(&maps[3]));
    }
    convolve(walk, &part->out, &maps[3], false, false, x, x);
    report(walk);
}

static struct feature_map run_middle(struct walk *walk, struct feature_map x, int *slot) {
    x = run_resnet(walk, &walk->parts->middle[0], x, slot);
    if (walk->parts->attention.query.packed) run_attention(walk, &walk->parts->attention, &x, *slot);
    return run_resnet(walk, &walk->parts->middle[1], x, slot);
}

static struct feature_map run_level(struct walk *walk, const struct level_part *level, struct feature_map x,
                                    int *slot) {
    for (int i = 0; i < level->resnets; i++) x = run_resnet(walk, &level->resnet[i], x, slot);
    if (!level->resample.packed) return x;
    const bool up = level->resample.upsample2;
    const int next = (int)(level - walk->parts->level) + 1;
    *slot = 2 - *slot;
    struct feature_map y = place(walk, *slot, type_at(walk, next), up ? x.height * 2 : x.height / 2,
                                 up ? x.width * 2 : x.width / 2, level->resample.out);
    convolve(walk, &level->resample, &x, false, false, NULL, &y);
    report(walk);
    return y;
}

// Shows a map as [channels, height, width] f32, the reference's order.
static void observe(struct walk *walk, const struct feature_map *map, const char *format, int index) {
    if (idle(walk) || !walk->observer) return;
    const int64_t area = map->height * map->width, values = area * map->channels;
    float *planes = malloc((size_t)values * sizeof *planes);
    float *row = malloc((size_t)(map->width * map->channels) * sizeof *row);
    for (int64_t y = 0; planes && row && y < map->height; y++) {
        const int64_t count = map->width * map->channels;
        device_download(walk->device, row, (const char *)map->data + dtype_bytes(map->type, y * count),
                        dtype_bytes(map->type, count));
        if (map->type == DTYPE_BF16) // from the end, so that no value is overwritten before it is read
            for (int64_t i = count - 1; i >= 0; i--) row[i] = bf16_to_f32(((const uint16_t *)(void *)row)[i]);
        for (int64_t i = 0; i < count; i++)
            planes[i % map->channels * area + y * map->width + i / map->channels] = row[i];
    }
    char name[64];
    snprintf(name, sizeof name, format, index);
    const int64_t shape[3] = {map->channels, map->height, map->width};
    if (planes && row) walk->observer->see(walk->observer->context, name, DTYPE_F32, 3, shape, planes);
    free(planes);
    free(row);
}

// The maps of the latents (F32, behind or before the convolution of products in f32) lie in slot 3.
static struct feature_map run_half(struct walk *walk, struct feature_map x) {
    const struct half_parts *parts = walk->parts;
    int slot = 0;
    if (parts->quant.packed && parts->decoder) {
        struct feature_map latents = place(walk, 3, DTYPE_F32, x.height, x.width, parts->quant.out);
        convolve(walk, &parts->quant, &x, false, false, NULL, &latents);
        observe(walk, &latents, "decoder.post_quant", 0);
        x = latents;
    }
    struct feature_map map = place(walk, slot, type_at(walk, 0), x.height, x.width, parts->conv_in.out);
    convolve(walk, &parts->conv_in, &x, false, false, NULL, &map);
    observe(walk, &map, parts->decoder ? "decoder.conv_in" : "encoder.conv_in", 0);
    report(walk);
    if (parts->decoder) {
        map = run_middle(walk, map, &slot);
        observe(walk, &map, "decoder.mid", 0);
    }
    for (int i = 0; i < parts->levels; i++) {
        map = run_level(walk, &parts->level[i], map, &slot);
        observe(walk, &map, parts->decoder ? "decoder.up.%d" : "encoder.down.%d", i);
    }
    if (!parts->decoder) {
        map = run_middle(walk, map, &slot);
        observe(walk, &map, "encoder.mid", 0);
    }
    struct feature_map out = place(walk, 2 - slot, DTYPE_F32, map.height, map.width, parts->conv_out.out);
    normalise(walk, &parts->norm_out, &map);
    convolve(walk, &parts->conv_out, &map, true, true, NULL, &out);
    observe(walk, &out, parts->decoder ? "decoder.conv_out" : "encoder.conv_out", 0);
    report(walk);
    if (!parts->quant.packed || parts->decoder) return out;
    struct feature_map moments = place(walk, 3, DTYPE_F32, out.height, out.width, parts->quant.out);
    convolve(walk, &parts->quant, &out, false, false, NULL, &moments);
    return moments;
}

int walk_parts(const struct half_parts *parts) {
    int count = 2 + 2 + (parts->attention.query.packed ? 1 : 0); // the convolutions at the ends, the middle
    for (int i = 0; i < parts->levels; i++)
        count += parts->level[i].resnets + (parts->level[i].resample.packed ? 1 : 0);
    return count;
}

static int64_t widest(const struct half_parts *parts) {
    int64_t channels = parts->conv_in.out;
    for (int i = 0; i < parts->levels; i++)
        if (parts->level[i].resnet[0].conv1.out > channels) channels = parts->level[i].resnet[0].conv1.out;
    return channels;
}

static size_t round_up(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

size_t walk_plan(struct walk *walk, int64_t height, int64_t width) {
    for (int i = 0; i < WALK_SLOTS; i++) {
        walk->bytes[i] = 0;
        walk->slots[i] = NULL;
    }
    walk->planning = true;
    run_half(walk, (struct feature_map){NULL, DTYPE_F32, 1, height, width, walk->parts->conv_in.in});
    walk->planning = false;
    size_t bytes = 2 * round_up((size_t)widest(walk->parts) * sizeof(float));
    for (int i = 0; i < WALK_SLOTS; i++) bytes += walk->bytes[i];
    return bytes;
}

bool walk_run(struct walk *walk, const struct feature_map *x, struct feature_map *result,
              struct error *error) {
    walk_plan(walk, x->height, x->width);
    const size_t channels = round_up((size_t)widest(walk->parts) * sizeof(float));
    walk->scale = workspace_alloc(walk->device, channels);
    walk->shift = workspace_alloc(walk->device, channels);
    for (int i = 0; i < WALK_SLOTS; i++)
        walk->slots[i] = walk->bytes[i] ? workspace_alloc(walk->device, walk->bytes[i]) : NULL;
    if (!device_status(walk->device, error)) return false;
    *result = run_half(walk, *x);
    if (!device_status(walk->device, error)) return false;
    return !walk->stopped || error_set(error, ERROR_CANCELLED, "stopped at the caller's request");
}
