// Opening a transformer: its shape from config.json or from the tensors, then every tensor by name with its shape checked, the
// fused ones split into row views. Relies on weights, base.
#include "flux/transformer_parts.h"

#include "base/file.h"
#include "base/json.h"
#include "weights/layout.h"
#include "weights/parts.h"
#include "weights/stored_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_BYTES_MOST = 1 << 20 };

// ------------------------------------------------------------------------------------------------------- config.json

static bool check_class(struct json_place place, struct error *error) {
    const char *class_name = "Flux2Transformer2DModel";
    if (!json_get_string(place, "_class_name", JSON_OPTIONAL, &class_name, error)) return false;
    if (strcmp(class_name, "Flux2Transformer2DModel") != 0)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: _class_name is \"%.60s\", expected \"Flux2Transformer2DModel\"", place.name,
                         class_name);
    return true;
}

static bool read_axes(struct json_place place, struct transformer_shape *shape, struct error *error) {
    int64_t axes[POSITION_AXES] = {32, 32, 32, 32};
    int count = POSITION_AXES;
    if (!json_get_integers(place, "axes_dims_rope", JSON_OPTIONAL, 0, 512, axes, POSITION_AXES, &count,
                           error))
        return false;
    if (count != POSITION_AXES)
        return error_set(error, ERROR_UNSUPPORTED, "%s: axes_dims_rope has %d entries, expected %d",
                         place.name, count, POSITION_AXES);
    int64_t sum = 0;
    for (int a = 0; a < POSITION_AXES; a++) {
        if (axes[a] % 2 != 0)
            return error_set(error, ERROR_INPUT, "%s: axes_dims_rope[%d] is %lld, expected an even number",
                             place.name, a, (long long)axes[a]);
        shape->axes[a] = (int)axes[a];
        sum += axes[a];
    }
    if (sum != shape->head_dim)
        return error_set(error, ERROR_INPUT,
                         "%s: the entries of axes_dims_rope sum to %lld, expected attention_head_dim, %lld",
                         place.name, (long long)sum, (long long)shape->head_dim);
    return true;
}

// What is absent has the value that diffusers gives it.
static bool read_config(struct json_place place, struct transformer_shape *shape, struct error *error) {
    int64_t patch = 1, out_channels = 0;
    double mlp_ratio = 3.0;
    *shape = (struct transformer_shape){.heads = 48,
                                        .head_dim = 128,
                                        .double_blocks = 8,
                                        .single_blocks = 48,
                                        .in_channels = 128,
                                        .context = 15360,
                                        .timestep_width = 256,
                                        .rope_theta = 2000,
                                        .eps = 1e-6,
                                        .guidance = true};
    if (!check_class(place, error) ||
        !json_get_integer(place, "num_attention_heads", JSON_OPTIONAL, 1, 1024, &shape->heads, error) ||
        !json_get_integer(place, "attention_head_dim", JSON_OPTIONAL, 8, 512, &shape->head_dim, error) ||
        !json_get_integer(place, "num_layers", JSON_OPTIONAL, 0, 1024, &shape->double_blocks, error) ||
        !json_get_integer(place, "num_single_layers", JSON_OPTIONAL, 0, 1024, &shape->single_blocks, error) ||
        !json_get_integer(place, "in_channels", JSON_OPTIONAL, 1, 65536, &shape->in_channels, error) ||
        !json_get_integer(place, "joint_attention_dim", JSON_OPTIONAL, 1, 1 << 20, &shape->context, error) ||
        !json_get_integer(place, "timestep_guidance_channels", JSON_OPTIONAL, 2, 65536,
                          &shape->timestep_width, error) ||
        !json_get_number(place, "mlp_ratio", JSON_OPTIONAL, 0.01, 64, &mlp_ratio, error) ||
        !json_get_number(place, "rope_theta", JSON_OPTIONAL, 1, 1e12, &shape->rope_theta, error) ||
        !json_get_number(place, "eps", JSON_OPTIONAL, 1e-12, 1, &shape->eps, error) ||
        !json_get_bool(place, "guidance_embeds", JSON_OPTIONAL, &shape->guidance, error) ||
        !json_get_integer(place, "patch_size", JSON_OPTIONAL, 1, 1024, &patch, error))
        return false;
    out_channels = shape->in_channels;
    if (!json_get_integer(place, "out_channels", JSON_OPTIONAL, 1, 65536, &out_channels, error)) return false;
    if (patch != 1)
        return error_set(error, ERROR_UNSUPPORTED, "%s: patch_size is %lld, expected 1", place.name,
                         (long long)patch);
    if (out_channels != shape->in_channels)
        return error_set(error, ERROR_UNSUPPORTED, "%s: out_channels is %lld, expected in_channels, %lld",
                         place.name, (long long)out_channels, (long long)shape->in_channels);
    if (shape->head_dim % 8 != 0)
        return error_set(error, ERROR_UNSUPPORTED, "%s: attention_head_dim is %lld, expected a multiple of 8",
                         place.name, (long long)shape->head_dim);
    if (shape->timestep_width % 2 != 0)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: timestep_guidance_channels is %lld, expected an even number", place.name,
                         (long long)shape->timestep_width);
    shape->hidden = shape->heads * shape->head_dim;
    shape->mlp_hidden = (int64_t)((double)shape->hidden * mlp_ratio); // truncated, as the reference does
    if (shape->mlp_hidden < 1)
        return error_set(error, ERROR_INPUT, "%s: mlp_ratio is %g, which leaves no width", place.name,
                         mlp_ratio);
    return read_axes(place, shape, error);
}

bool transformer_config_parse(const char *name, const char *json, size_t size,
                              struct transformer_shape *shape, struct error *error) {
    json_t *config = json_parse(name, json, size, error);
    if (!config) return false;
    bool read = read_config((struct json_place){config, name}, shape, error);
    json_decref(config);
    return read;
}

// ----------------------------------------------------------------------------------------------------------- tensors

// Keeps [memory] until the transformer is closed; frees it where that fails.
static bool own(struct transformer *t, void *memory, struct error *error) {
    if (t->owned_count == t->owned_capacity) {
        size_t capacity = t->owned_capacity ? t->owned_capacity * 2 : 64;
        void **owned = realloc(t->owned, capacity * sizeof(*owned));
        if (!owned) {
            free(memory);
            return error_set(error, ERROR_MEMORY, "not enough memory to open the transformer");
        }
        t->owned = owned;
        t->owned_capacity = capacity;
    }
    t->owned[t->owned_count++] = memory;
    return true;
}

// The rows of the matrix [name], [rows, in], on the device.
static bool get_rows(struct transformer *t, const char *name, int64_t rows, int64_t in,
                     struct weight_rows *view, struct error *error) {
    struct tensor tensor;
    if (!stored_matrix(t->checkpoint, name, rows, in, &tensor, error)) return false;
    const void *data = tensor.data;
    if (!stored_aligned(&tensor)) {
        void *copy = malloc(tensor.bytes);
        if (!copy) return error_set(error, ERROR_MEMORY, "%s: not enough memory for a copy", name);
        memcpy(copy, data, tensor.bytes);
        if (!own(t, copy, error)) return false;
        data = copy;
    }
    data = device_weights(t->device, data, tensor.bytes, error);
    if (!data) return error_prefix(error, "%s", name);
    *view = stored_rows(&tensor, data);
    return true;
}

static struct linear linear_of(struct weight_rows rows, int64_t in) {
    return (struct linear){.in = in, .out = rows.rows, .part_count = 1, .parts = {rows}};
}

__attribute__((format(printf, 6, 7))) static bool get_linear(struct transformer *t, struct linear *linear,
                                                             int64_t out, int64_t in, struct error *error,
                                                             const char *format, ...) {
    char name[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof(name), format, arguments);
    va_end(arguments);
    struct weight_rows rows = {0};
    if (!get_rows(t, name, out, in, &rows, error)) return false;
    *linear = linear_of(rows, in);
    if (checkpoint_find(t->checkpoint, name)->halves_swapped) {
        linear->part_count = 2;
        linear->parts[0] = stored_rows_range(rows, out / 2, out / 2);
        linear->parts[1] = stored_rows_range(rows, 0, out / 2);
    }
    return true;
}

// Three matrices one below the other.
static bool get_qkv(struct transformer *t, struct linear *linear, const char *prefix,
                    const char *const names[3], struct error *error) {
    int64_t hidden = t->shape.hidden;
    *linear = (struct linear){.in = hidden, .out = 3 * hidden, .part_count = 3};
    for (int i = 0; i < 3; i++) {
        char name[160];
        snprintf(name, sizeof(name), "%s.%s.weight", prefix, names[i]);
        if (!get_rows(t, name, hidden, hidden, &linear->parts[i], error)) return false;
    }
    return true;
}

static bool get_norm(struct transformer *t, const float **norm, const char *prefix, const char *name,
                     struct error *error) {
    int64_t count = t->shape.head_dim;
    float *values = checkpoint_get_f32(t->checkpoint, count, error, "%s.%s.weight", prefix, name);
    if (!values || !own(t, values, error)) return false;
    *norm = device_weights(t->device, values, (size_t)count * sizeof(float), error);
    return *norm != NULL;
}

static bool get_embedder(struct transformer *t, struct scalar_embedder *embedder, const char *name,
                         struct error *error) {
    const struct transformer_shape *s = &t->shape;
    return get_linear(t, &embedder->in, s->hidden, s->timestep_width, error,
                      "time_guidance_embed.%s.linear_1.weight", name) &&
           get_linear(t, &embedder->out, s->hidden, s->hidden, error,
                      "time_guidance_embed.%s.linear_2.weight", name);
}

static bool get_double_block(struct transformer *t, int64_t index, struct error *error) {
    // The names of the two streams' tensors.
    static const struct {
        const char *qkv[3], *out, *query_norm, *key_norm, *mlp;
    } names[STREAM_COUNT] = {
        [STREAM_TEXT] = {{"add_q_proj", "add_k_proj", "add_v_proj"},
                         "to_add_out",
                         "norm_added_q",
                         "norm_added_k",
                         "ff_context"},
        [STREAM_IMAGE] = {{"to_q", "to_k", "to_v"}, "to_out.0", "norm_q", "norm_k", "ff"},
    };
    const struct transformer_shape *s = &t->shape;
    char block[64], attention[80];
    snprintf(block, sizeof(block), "transformer_blocks.%lld", (long long)index);
    snprintf(attention, sizeof(attention), "%s.attn", block);
    for (int i = 0; i < STREAM_COUNT; i++) {
        struct double_stream *stream = &t->double_blocks[index].streams[i];
        if (!get_qkv(t, &stream->qkv, attention, names[i].qkv, error) ||
            !get_linear(t, &stream->out, s->hidden, s->hidden, error, "%s.%s.weight", attention,
                        names[i].out) ||
            !get_linear(t, &stream->mlp_in, 2 * s->mlp_hidden, s->hidden, error, "%s.%s.linear_in.weight",
                        block, names[i].mlp) ||
            !get_linear(t, &stream->mlp_out, s->hidden, s->mlp_hidden, error, "%s.%s.linear_out.weight",
                        block, names[i].mlp) ||
            !get_norm(t, &stream->query_norm, attention, names[i].query_norm, error) ||
            !get_norm(t, &stream->key_norm, attention, names[i].key_norm, error))
            return false;
    }
    return true;
}

static bool get_single_block(struct transformer *t, int64_t index, struct error *error) {
    const struct transformer_shape *s = &t->shape;
    struct single_block *block = &t->single_blocks[index];
    char prefix[80], name[120];
    snprintf(prefix, sizeof(prefix), "single_transformer_blocks.%lld.attn", (long long)index);
    snprintf(name, sizeof(name), "%s.to_qkv_mlp_proj.weight", prefix);
    struct weight_rows fused = {0};
    if (!get_rows(t, name, 3 * s->hidden + 2 * s->mlp_hidden, s->hidden, &fused, error)) return false;
    block->qkv = linear_of(stored_rows_range(fused, 0, 3 * s->hidden), s->hidden);
    block->mlp_in = linear_of(stored_rows_range(fused, 3 * s->hidden, 2 * s->mlp_hidden), s->hidden);
    return get_linear(t, &block->out, s->hidden, s->hidden + s->mlp_hidden, error, "%s.to_out.weight",
                      prefix) &&
           get_norm(t, &block->query_norm, prefix, "norm_q", error) &&
           get_norm(t, &block->key_norm, prefix, "norm_k", error);
}

static bool get_shared(struct transformer *t, struct error *error) {
    const struct transformer_shape *s = &t->shape;
    int64_t hidden = s->hidden;
    return get_linear(t, &t->latent_embedder, hidden, s->in_channels, error, "x_embedder.weight") &&
           get_linear(t, &t->context_embedder, hidden, s->context, error, "context_embedder.weight") &&
           get_embedder(t, &t->time, "timestep_embedder", error) &&
           (!s->guidance || get_embedder(t, &t->guidance, "guidance_embedder", error)) &&
           get_linear(t, &t->double_modulation[STREAM_IMAGE], 6 * hidden, hidden, error,
                      "double_stream_modulation_img.linear.weight") &&
           get_linear(t, &t->double_modulation[STREAM_TEXT], 6 * hidden, hidden, error,
                      "double_stream_modulation_txt.linear.weight") &&
           get_linear(t, &t->single_modulation, 3 * hidden, hidden, error,
                      "single_stream_modulation.linear.weight") &&
           get_linear(t, &t->out_modulation, 2 * hidden, hidden, error, "norm_out.linear.weight") &&
           get_linear(t, &t->out, s->in_channels, hidden, error, "proj_out.weight");
}

// A checkpoint that is deeper than its config.json says belongs to another config.json.
static bool check_depth(const struct transformer *t, const char *config, struct error *error) {
    const struct {
        const char *field, *blocks, *tensor;
        int64_t count;
    } kinds[] = {
        {"num_layers", "transformer_blocks", "attn.to_q.weight", t->shape.double_blocks},
        {"num_single_layers", "single_transformer_blocks", "attn.to_out.weight", t->shape.single_blocks},
    };
    for (int i = 0; i < 2; i++) {
        char name[120];
        snprintf(name, sizeof(name), "%s.%lld.%s", kinds[i].blocks, (long long)kinds[i].count,
                 kinds[i].tensor);
        const struct checkpoint_entry *entry = checkpoint_find(t->checkpoint, name);
        if (entry)
            return error_set(error, ERROR_INPUT, "%s: %s is %lld, but %s holds %s", config, kinds[i].field,
                             (long long)kinds[i].count, entry->file, name);
    }
    return true;
}

static bool read_shape(struct transformer *t, const char *config, struct error *error) {
    char *json = NULL;
    size_t size = 0;
    bool read = file_read(config, CONFIG_BYTES_MOST, &json, &size, error) &&
                transformer_config_parse(config, json, size, &t->shape, error);
    free(json);
    return read;
}

static void count_parameters(struct transformer *t) {
    int64_t wide = 0;
    for (int64_t i = 0; i < checkpoint_count(t->checkpoint); i++) {
        const struct tensor *tensor = &checkpoint_entry(t->checkpoint, i)->tensor;
        t->shape.parameters += tensor_values(tensor);
        if (tensor->type == DTYPE_F32) wide += tensor_values(tensor);
    }
    t->shape.sixteen_bit = wide <= t->shape.parameters / 2;
}

static bool load(struct transformer *t, const char *path, struct error *error) {
    char *config = part_config(path);
    bool read = !config || read_shape(t, config, error);
    if (read) t->checkpoint = layout_open(path, PART_TRANSFORMER, NULL, error);
    read = t->checkpoint &&
           (config ? check_depth(t, config, error) : transformer_derive(t->checkpoint, &t->shape, error));
    free(config);
    if (!read) return false;
    t->double_blocks = calloc((size_t)t->shape.double_blocks + 1, sizeof(*t->double_blocks));
    t->single_blocks = calloc((size_t)t->shape.single_blocks + 1, sizeof(*t->single_blocks));
    if (!t->double_blocks || !t->single_blocks)
        return error_set(error, ERROR_MEMORY, "not enough memory to open %s", path);
    if (!get_shared(t, error)) return false;
    for (int64_t i = 0; i < t->shape.double_blocks; i++)
        if (!get_double_block(t, i, error)) return false;
    for (int64_t i = 0; i < t->shape.single_blocks; i++)
        if (!get_single_block(t, i, error)) return false;
    count_parameters(t);
    return true;
}

struct transformer *transformer_open(const char *folder, struct device *device, struct error *error) {
    char *path = part_find(folder, PART_TRANSFORMER, error);
    if (!path) return NULL;
    struct transformer *t = calloc(1, sizeof(*t));
    bool loaded = false;
    if (t) {
        t->device = device;
        loaded = load(t, path, error);
    } else {
        error_set(error, ERROR_MEMORY, "not enough memory to open %s", folder);
    }
    free(path);
    if (loaded) return t;
    transformer_close(t);
    return NULL;
}

void transformer_close(struct transformer *t) {
    if (!t) return;
    checkpoint_close(t->checkpoint);
    for (size_t i = 0; i < t->owned_count; i++) free(t->owned[i]);
    free(t->owned);
    free(t->double_blocks);
    free(t->single_blocks);
    free(t);
}

const struct transformer_shape *transformer_shape(const struct transformer *t) {
    return &t->shape;
}

struct checkpoint_summary transformer_weights(const struct transformer *t) {
    return checkpoint_summary(t->checkpoint);
}

void transformer_release_pages(const struct transformer *t) {
    checkpoint_release_pages(t->checkpoint);
}
