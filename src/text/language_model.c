// The decoder described in language_model.h, written against ops.h.
#include "text/language_model.h"
#include "base/file.h"
#include "weights/layout.h"
#include "weights/parts.h"
#include "weights/stored_rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONFIG_BYTES_MOST = 1 << 20,
    WIDE_ROWS = 512, // rows of the gated layer at a time: its width is several times that of the stream
};

struct layer {
    const float *input_norm, *post_norm;      // [hidden], on the device
    const float *query_norm, *key_norm;       // [head_dim] or NULL
    struct linear qkv, output, gate_up, down; // compute is set for each run
};

struct language_model {
    struct language_model_config config;
    struct device *device;
    struct checkpoint *checkpoint;
    const char *prefix;        // of tensor names
    enum rope_pairing pairing; // in which the rows of q and k lie
    struct weight_rows embedding;
    int64_t layer_count; // opened
    struct layer *layers;
    const float *final_norm; // NULL unless all layers are opened and there is one
    void **owned;            // device memory
    size_t owned_count, owned_capacity;
};

// ------------------------------------------------------------------------------------------------------------ opening

// Device memory that lives as long as the model, filled from the host.
static void *own_copy(struct language_model *model, const void *data, size_t bytes, struct error *error) {
    if (model->owned_count == model->owned_capacity) {
        size_t capacity = model->owned_capacity ? model->owned_capacity * 2 : 64;
        void **owned = realloc(model->owned, capacity * sizeof *owned);
        if (!owned) {
            error_set(error, ERROR_MEMORY, "not enough memory to open a language model");
            return NULL;
        }
        model->owned = owned;
        model->owned_capacity = capacity;
    }
    void *memory = device_alloc(model->device, bytes, error);
    if (!memory) return NULL;
    model->owned[model->owned_count++] = memory;
    device_upload(model->device, memory, data, bytes);
    return memory;
}

static bool open_norm(struct language_model *model, int64_t values, const char *name, const float **norm,
                      struct error *error) {
    float *host = checkpoint_get_f32(model->checkpoint, values, error, "%s%s", model->prefix, name);
    if (!host) return false;
    *norm = own_copy(model, host, (size_t)values * sizeof *host, error);
    free(host);
    return *norm != NULL;
}

// The matrix [rows, in]. A file may place tensors at any byte: one that is not aligned is copied.
static bool open_rows(struct language_model *model, int64_t rows, int64_t in, const char *name,
                      struct weight_rows *view, struct error *error) {
    struct tensor tensor;
    char full[160];
    snprintf(full, sizeof full, "%s%s", model->prefix, name);
    if (!stored_matrix(model->checkpoint, full, rows, in, &tensor, error)) return false;
    const void *data = stored_aligned(&tensor)
                           ? device_weights(model->device, tensor.data, tensor.bytes, error)
                           : own_copy(model, tensor.data, tensor.bytes, error);
    if (!data) return error_prefix(error, "tensor %s", full);
    *view = stored_rows(&tensor, data);
    return true;
}

// One product over the matrices [layer].NAME.weight, one below the other.
static bool open_linear(struct language_model *model, int64_t layer, int count, const char *const *names,
                        const int64_t *rows, int64_t in, struct linear *linear, struct error *error) {
    *linear = (struct linear){.in = in, .part_count = count};
    for (int i = 0; i < count; i++) {
        char name[96];
        snprintf(name, sizeof name, "layers.%lld.%s.weight", (long long)layer, names[i]);
        if (!open_rows(model, rows[i], in, name, &linear->parts[i], error)) return false;
        linear->out += rows[i];
    }
    return true;
}

static bool open_layer_norm(struct language_model *model, int64_t layer, const char *name, int64_t values,
                            const float **norm, struct error *error) {
    char full[96];
    snprintf(full, sizeof full, "layers.%lld.%s.weight", (long long)layer, name);
    return open_norm(model, values, full, norm, error);
}

static bool open_layer(struct language_model *model, int64_t index, struct error *error) {
    static const char *const qkv[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
    static const char *const output[] = {"self_attn.o_proj"};
    static const char *const gate_up[] = {"mlp.gate_proj", "mlp.up_proj"};
    static const char *const down[] = {"mlp.down_proj"};
    const struct language_model_config *config = &model->config;
    struct layer *layer = &model->layers[index];
    int64_t q = config->heads * config->head_dim, kv = config->kv_heads * config->head_dim;
    int64_t hidden = config->hidden, mlp = config->mlp_hidden;
    if (config->kind == LANGUAGE_MODEL_QWEN3 &&
        (!open_layer_norm(model, index, "self_attn.q_norm", config->head_dim, &layer->query_norm, error) ||
         !open_layer_norm(model, index, "self_attn.k_norm", config->head_dim, &layer->key_norm, error)))
        return false;
    return open_layer_norm(model, index, "input_layernorm", hidden, &layer->input_norm, error) &&
           open_layer_norm(model, index, "post_attention_layernorm", hidden, &layer->post_norm, error) &&
           open_linear(model, index, 3, qkv, (int64_t[]){q, kv, kv}, hidden, &layer->qkv, error) &&
           open_linear(model, index, 1, output, (int64_t[]){hidden}, q, &layer->output, error) &&
           open_linear(model, index, 2, gate_up, (int64_t[]){mlp, mlp}, hidden, &layer->gate_up, error) &&
           open_linear(model, index, 1, down, (int64_t[]){hidden}, mlp, &layer->down, error);
}

static bool find_prefix(struct language_model *model, const char *folder, struct error *error) {
    static const char *const prefixes[] = {"language_model.model.", "model.language_model.", "model.", ""};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        char name[64];
        snprintf(name, sizeof name, "%sembed_tokens.weight", prefixes[i]);
        if (!checkpoint_find(model->checkpoint, name)) continue;
        model->prefix = prefixes[i];
        return true;
    }
    return error_set(
        error, ERROR_NOT_FOUND,
        "%s: no tensor embed_tokens.weight, also not under language_model.model., model.language_model. or "
        "model.",
        folder);
}

static bool parse_config(struct language_model *model, const char *config, struct error *error) {
    char *text = NULL;
    size_t size = 0;
    bool done = file_read(config, CONFIG_BYTES_MOST, &text, &size, error) &&
                language_model_config_parse(config, text, size, &model->config, error);
    free(text);
    return done;
}

// The configuration from config.json, which is read before the weights are opened, or from the weights.
static bool open_checkpoint(struct language_model *model, const char *path, struct error *error) {
    char *config = part_config(path);
    struct layout layout;
    bool done = !config || parse_config(model, config, error);
    done = done && (model->checkpoint = layout_open(path, PART_TEXT_ENCODER, &layout, error)) &&
           find_prefix(model, path, error) &&
           (config || language_model_config_derive(model->checkpoint, model->prefix, &model->config, error));
    if (done) model->pairing = layout.rope_interleaved ? ROPE_INTERLEAVED : ROPE_HALVES;
    if (done && model->layer_count > model->config.layers)
        done = error_set(error, ERROR_INPUT, "%s: %s is %lld, expected at least %lld, which a tap asks for",
                         config ? config : path, config ? "num_hidden_layers" : "its number of layers",
                         (long long)model->config.layers, (long long)model->layer_count);
    free(config);
    return done;
}

static bool open_weights(struct language_model *model, const char *path, struct error *error) {
    const struct language_model_config *config = &model->config;
    model->layers = calloc((size_t)model->layer_count + 1, sizeof *model->layers);
    if (!model->layers) return error_set(error, ERROR_MEMORY, "%s: out of memory", path);
    bool done =
        open_rows(model, config->vocabulary, config->hidden, "embed_tokens.weight", &model->embedding, error);
    for (int64_t i = 0; done && i < model->layer_count; i++) done = open_layer(model, i, error);
    if (done && model->layer_count == config->layers && !config->pruned)
        done = open_norm(model, config->hidden, "norm.weight", &model->final_norm, error);
    return done;
}

struct language_model *language_model_open(const char *path, int64_t layers, struct device *device,
                                           struct error *error) {
    struct language_model *model = calloc(1, sizeof *model);
    if (!model) {
        error_set(error, ERROR_MEMORY, "%s: out of memory", path);
        return NULL;
    }
    model->device = device;
    model->layer_count = layers;
    if (open_checkpoint(model, path, error) && open_weights(model, path, error)) return model;
    language_model_close(model);
    return NULL;
}

void language_model_close(struct language_model *model) {
    if (!model) return;
    for (size_t i = 0; i < model->owned_count; i++) device_free(model->device, model->owned[i]);
    free(model->owned);
    free(model->layers);
    checkpoint_close(model->checkpoint);
    free(model);
}

const struct language_model_config *language_model_config(const struct language_model *model) {
    return &model->config;
}

void language_model_release_pages(struct language_model *model) {
    checkpoint_release_pages(model->checkpoint);
}

// ------------------------------------------------------------------------------------------------------------ running

// The matrices of one run; rows of [attending] are those of [stream] without the lone token's.
struct run {
    struct language_model *model;
    struct device *device;
    enum compute compute;
    int64_t pads;                    // the last of [attending]
    struct matrix stream, attending; // [rows, hidden] f32
    struct matrix normed;            // [rows, hidden], here and below in the compute type
    struct matrix qkv;               // [attending rows, (heads + 2 kv_heads) * head_dim]
    struct matrix mixed;             // [attending rows, heads * head_dim]
    struct matrix wide;              // [at most WIDE_ROWS, mlp_hidden]
    float *cosines, *sines;          // [attending rows, head_dim / 2], on the device
};

// Angles as the reference computes them: theta^(2i/d), its reciprocal and the product with the position each rounded to
// f32. Positions count from the beginning of the padded text, so that the same roundings happen.
static bool make_angles(struct run *run, int64_t position, struct error *error) {
    const struct language_model_config *config = &run->model->config;
    int64_t rows = run->attending.rows, half = config->head_dim / 2;
    size_t bytes = (size_t)(rows * half) * sizeof(float);
    float *host = malloc(2 * bytes);
    run->cosines = workspace_alloc(run->device, bytes);
    run->sines = workspace_alloc(run->device, bytes);
    if (!host) return error_set(error, ERROR_MEMORY, "not enough memory for %lld positions", (long long)rows);
    float *cosines = host, *sines = host + rows * half;
    for (int64_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)config->head_dim;
        float frequency = 1.0f / (float)pow(config->rope_theta, (double)exponent);
        for (int64_t row = 0; row < rows; row++) {
            float angle = (float)(position + row) * frequency;
            cosines[row * half + i] = (float)cos((double)angle);
            sines[row * half + i] = (float)sin((double)angle);
        }
    }
    if (run->cosines) device_upload(run->device, run->cosines, cosines, bytes);
    if (run->sines) device_upload(run->device, run->sines, sines, bytes);
    free(host);
    return true;
}

static void multiply(const struct run *run, const struct linear *stored, struct matrix x,
                     enum epilogue_kind kind, struct matrix y) {
    struct linear linear = *stored;
    struct epilogue epilogue = {.kind = kind};
    linear.compute = run->compute;
    run->device->ops->linear(run->device, &linear, x, &epilogue, y);
}

// Tokens see those before them and themselves; pads see all tokens and no pad.
static void mix(const struct run *run, struct matrix queries, struct matrix keys, struct matrix values) {
    const struct language_model_config *config = &run->model->config;
    int64_t tokens = run->attending.rows - run->pads;
    struct attention attention = {.heads = (int)config->heads,
                                  .kv_heads = (int)config->kv_heads,
                                  .head_dim = (int)config->head_dim,
                                  .scale = (float)(1 / sqrt((double)config->head_dim)),
                                  .causal = true};
    keys = matrix_rows(keys, 0, tokens);
    values = matrix_rows(values, 0, tokens);
    run->device->ops->attention(run->device, &attention, matrix_rows(queries, 0, tokens), keys, values,
                                matrix_rows(run->mixed, 0, tokens));
    if (run->pads == 0) return;
    attention.causal = false;
    run->device->ops->attention(run->device, &attention, matrix_rows(queries, tokens, run->pads), keys,
                                values, matrix_rows(run->mixed, tokens, run->pads));
}

static void attend(const struct run *run, const struct layer *layer) {
    const struct language_model_config *config = &run->model->config;
    const struct ops *ops = run->device->ops;
    int64_t q = config->heads * config->head_dim, kv = config->kv_heads * config->head_dim;
    struct matrix normed = matrix_rows(run->normed, 0, run->attending.rows);
    struct matrix queries = matrix_cols(run->qkv, 0, q), keys = matrix_cols(run->qkv, q, kv);
    struct matrix values = matrix_cols(run->qkv, q + kv, kv);
    float eps = (float)config->eps;
    ops->rms_norm(run->device, run->attending, layer->input_norm, eps, normed);
    multiply(run, &layer->qkv, normed, EPILOGUE_STORE, run->qkv);
    ops->norm_rope(run->device, queries, (int)config->heads, layer->query_norm, eps, run->cosines, run->sines,
                   run->model->pairing);
    ops->norm_rope(run->device, keys, (int)config->kv_heads, layer->key_norm, eps, run->cosines, run->sines,
                   run->model->pairing);
    mix(run, queries, keys, values);
    multiply(run, &layer->output, run->mixed, EPILOGUE_ADD, run->attending);
}

static void feed_forward(const struct run *run, const struct layer *layer) {
    run->device->ops->rms_norm(run->device, run->stream, layer->post_norm, (float)run->model->config.eps,
                               run->normed);
    for (int64_t first = 0; first < run->stream.rows; first += WIDE_ROWS) {
        int64_t left = run->stream.rows - first, count = left < WIDE_ROWS ? left : WIDE_ROWS;
        struct matrix wide = matrix_rows(run->wide, 0, count);
        multiply(run, &layer->gate_up, matrix_rows(run->normed, first, count), EPILOGUE_GATED_SILU, wide);
        multiply(run, &layer->down, wide, EPILOGUE_ADD, matrix_rows(run->stream, first, count));
    }
}

// The stream after [depth] layers into the columns of each tap that wants it.
static void tap(const struct run *run, const struct language_model_input *input, int64_t depth,
                struct matrix output) {
    const struct language_model *model = run->model;
    for (int i = 0; i < input->tap_count; i++) {
        if (input->taps[i] != depth) continue;
        struct matrix to = matrix_cols(output, i * model->config.hidden, model->config.hidden);
        if (depth == model->config.layers && model->final_norm)
            run->device->ops->rms_norm(run->device, run->stream, model->final_norm, (float)model->config.eps,
                                       to);
        else
            run->device->ops->copy(run->device, run->stream, to);
    }
}

static bool check_input(const struct language_model *model, const struct language_model_input *input,
                        struct error *error) {
    const struct language_model_config *config = &model->config;
    if (input->pads < 0 || input->count <= input->pads)
        return error_set(error, ERROR_INPUT, "a text of no tokens, expected at least one");
    if (config->window > 0 && input->count > config->window)
        return error_set(error, ERROR_UNSUPPORTED,
                         "a text of %lld tokens, expected at most sliding_window, %lld",
                         (long long)input->count, (long long)config->window);
    for (int64_t i = -1; i < input->count; i++) {
        int32_t token = i < 0 ? input->lone_token : input->tokens[i];
        if (token >= config->vocabulary || (token < 0 && i >= 0))
            return error_set(error, ERROR_INPUT, "token id %d, expected one below the vocabulary of %lld",
                             token, (long long)config->vocabulary);
    }
    for (int i = 0; i < input->tap_count; i++)
        if (input->taps[i] < 0 || input->taps[i] > model->layer_count)
            return error_set(error, ERROR_INPUT, "tap %d, expected one from 0 to %lld", input->taps[i],
                             (long long)model->layer_count);
    return true;
}

static void make_matrices(struct run *run, const struct language_model_input *input) {
    const struct language_model_config *config = &run->model->config;
    struct device *device = run->device;
    enum dtype type = compute_dtype(run->compute);
    int64_t lone = input->lone_token >= 0, rows = input->count + lone;
    run->stream = workspace_matrix(device, DTYPE_F32, rows, config->hidden);
    run->attending = matrix_rows(run->stream, lone, input->count);
    run->normed = workspace_matrix(device, type, rows, config->hidden);
    run->qkv = workspace_matrix(device, type, input->count,
                                (config->heads + 2 * config->kv_heads) * config->head_dim);
    run->mixed = workspace_matrix(device, type, input->count, config->heads * config->head_dim);
    run->wide = workspace_matrix(device, type, rows < WIDE_ROWS ? rows : WIDE_ROWS, config->mlp_hidden);
    if (lone)
        device->ops->embed(device, &run->model->embedding, &input->lone_token, 1,
                           matrix_rows(run->stream, 0, 1));
    device->ops->embed(device, &run->model->embedding, input->tokens, input->count, run->attending);
}

bool language_model_run(struct language_model *model, const struct language_model_input *input,
                        struct matrix output, struct error *error) {
    if (!check_input(model, input, error)) return false;
    struct run run = {
        .model = model, .device = model->device, .compute = input->compute, .pads = input->pads};
    size_t mark = workspace_mark(model->device);
    int deepest = 0;
    for (int i = 0; i < input->tap_count; i++)
        if (input->taps[i] > deepest) deepest = input->taps[i];
    make_matrices(&run, input);
    bool done = make_angles(&run, input->position, error);
    if (done) tap(&run, input, 0, output);
    for (int i = 0; done && i < deepest; i++) {
        attend(&run, &model->layers[i]);
        feed_forward(&run, &model->layers[i]);
        tap(&run, input, i + 1, output);
        if (!input->progress) continue;
        done = device_status(model->device, error);
        if (done && !input->progress(input->context, i + 1, deepest))
            done = error_set(error, ERROR_CANCELLED, "cancelled in the text encoder");
    }
    workspace_release(model->device, mark);
    return done && device_status(model->device, error);
}

// What make_matrices() takes, and on top of it the most that an op takes.
int64_t language_model_run_bytes(const struct language_model *model, int64_t count, enum compute compute) {
    const struct language_model_config *config = &model->config;
    const struct ops *ops = model->device->ops;
    const int64_t rows = count + 1, wide = rows < WIDE_ROWS ? rows : WIDE_ROWS;
    const int64_t element = (int64_t)dtype_bytes(compute_dtype(compute), 1), f32 = sizeof(float);
    const int64_t queries = config->heads * config->head_dim, keys = config->kv_heads * config->head_dim;
    const struct attention attention = {
        .heads = (int)config->heads, .kv_heads = (int)config->kv_heads, .head_dim = (int)config->head_dim};
    const int64_t stays = rows * config->hidden * (f32 + element) +
                          rows * (2 * queries + 2 * keys) * element + wide * config->mlp_hidden * element +
                          rows * config->head_dim * f32;
    const int64_t products[] = {ops->linear_bytes(model->device, config->hidden, rows),
                                ops->linear_bytes(model->device, queries, rows),
                                ops->linear_bytes(model->device, config->mlp_hidden, wide),
                                ops->attention_bytes(model->device, &attention, rows)};
    int64_t passing = 0;
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        if (products[i] > passing) passing = products[i];
    return stays + passing + 16 * 64;
}

struct checkpoint_summary language_model_weights(const struct language_model *model) {
    return checkpoint_summary(model->checkpoint);
}
