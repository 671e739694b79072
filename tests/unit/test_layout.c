// The forms that FLUX.2's parts come in: each gives the same as the diffusers layout. The files of tests/fixtures/layouts are
// written from model-b and qwen3 by tests/reference/make_layouts.py; others are made here from those.
#include "autoencoder_names.h"
#include "layout_files.h"

#include "base/pool.h"
#include "flux/autoencoder.h"
#include "flux/transformer.h"
#include "text/language_model.h"
#include "weights/layout.h"

#define LAYOUTS FIXTURES "layouts/"

static const float gain = 0.37f;

static struct pool *pool;
static struct device *device;

static int open_device(void **state) {
    struct error error = {0};
    pool = pool_open(1, &error);
    assert_ok(pool, error);
    device = device_open_cpu(&(struct device_options){.pool = pool}, &error);
    assert_ok(device, error);
    return 0;
}

static int close_device(void **state) {
    device_close(device);
    pool_close(pool);
    return 0;
}

// Values that look random and are the same each time.
static void fill(float *values, int64_t count) {
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = ((float)(state >> 8) / 8388608.0f - 1.0f) * gain;
    }
}

// ---------------------------------------------------------------------------------------------------------- transformer

enum { TEXT = 5, GRID = 3, VELOCITY = GRID * GRID * 12 };

// The velocity of a model folder's transformer for fixed inputs.
static void velocity_of(const char *folder, enum compute compute, float velocity[VELOCITY]) {
    struct error error = {0};
    struct transformer *transformer = transformer_open(folder, device, &error);
    assert_ok(transformer, error);
    const struct transformer_shape *shape = transformer_shape(transformer);
    assert_int_equal(shape->in_channels, 12);
    assert_int_equal(shape->context, 24);
    assert_int_equal(shape->heads, 2);
    assert_int_equal(shape->double_blocks, 2);
    assert_int_equal(shape->single_blocks, 3);
    assert_false(shape->guidance);
    float embeds[TEXT * 24], latents[VELOCITY];
    fill(embeds, TEXT * 24);
    fill(latents, VELOCITY);
    struct token_grid grid = {GRID, GRID, 0};
    struct transformer_run *run =
        transformer_begin(transformer, compute, TEXT, embeds, 1, &grid, NULL, &error);
    assert_ok(run, error);
    assert_ok(transformer_velocity(run, latents, 700, 1, NULL, NULL, NULL, velocity, &error), error);
    transformer_end(run);
    transformer_close(transformer);
}

static const char *prefix = "";
static bool norm_weights; // "query_norm.weight" for "query_norm.scale"

static bool with_prefix(const char *name, char *to, size_t size) {
    const char *scale = norm_weights ? strstr(name, "_norm.scale") : NULL;
    if (scale)
        snprintf(to, size, "%s%.*s_norm.weight", prefix, (int)(scale - name), name);
    else
        snprintf(to, size, "%s%s", prefix, name);
    return true;
}

static void transformers_agree(void **state) {
    static const char *const prefixes[] = {"", "model.diffusion_model.", "diffusion_model.", "transformer.",
                                           "model."};
    char folder[64], reference[64];
    float wanted[VELOCITY], found[VELOCITY];
    folder_begin(reference);
    folder_begin(folder);
    for (int compute = COMPUTE_F32; compute <= COMPUTE_BF16; compute++) {
        // What gguf-py wrote: matrices in bf16, norms in f32.
        copy_fixture("model-b/transformer/config.json", in(reference, "transformer/config.json"));
        copy_tensors(FIXTURES "model-b/transformer", in(reference, "transformer/model.safetensors"),
                     &(struct copying){.matrices = DTYPE_BF16});
        velocity_of(reference, (enum compute)compute, wanted);
        copy_fixture("layouts/transformer.gguf", in(folder, "any name.gguf"));
        velocity_of(folder, (enum compute)compute, found);
        assert_memory_equal(found, wanted, sizeof wanted);
        assert_int_equal(unlink(in(folder, "any name.gguf")), 0);
        for (int i = 0; i < 5; i++) {
            prefix = prefixes[i];
            norm_weights = i % 2;
            copy_tensors(LAYOUTS "transformer.gguf", in(folder, "x.safetensors"),
                         &(struct copying){.rename = with_prefix});
            velocity_of(folder, (enum compute)compute, found);
            assert_memory_equal(found, wanted, sizeof wanted);
        }
        // The names of diffusers, with a prefix and without a config.json.
        for (int i = 0; i < 3; i++) {
            prefix = prefixes[i];
            copy_tensors(in(reference, "transformer"), in(folder, "x.safetensors"),
                         &(struct copying){.rename = with_prefix});
            velocity_of(folder, (enum compute)compute, found);
            assert_memory_equal(found, wanted, sizeof wanted);
        }
        // In f32, which holds bf16 exactly, and from there in f16.
        for (int i = 0; i < 2; i++) {
            enum dtype type = i ? DTYPE_F16 : DTYPE_F32;
            prefix = "";
            copy_tensors(LAYOUTS "transformer.gguf", in(folder, "x.safetensors"),
                         &(struct copying){.rename = with_prefix, .matrices = type});
            copy_tensors(in(reference, "transformer"), in(reference, "transformer/model.safetensors"),
                         &(struct copying){.matrices = type});
            velocity_of(reference, (enum compute)compute, wanted);
            velocity_of(folder, (enum compute)compute, found);
            assert_memory_equal(found, wanted, sizeof wanted);
        }
        assert_int_equal(unlink(in(folder, "x.safetensors")), 0);
    }
    folder_end(folder);
    folder_end(reference);
}

// Quantised files give what the same weights give decoded. Where scales are applied behind the sums these round elsewhere, and
// in bf16 the codes are exact where the decoded weights are rounded: each is within 1e-2 of the f32 model.
static void quantised_transformers_agree(void **state) {
    static const struct {
        const char *file;
        bool equal;
    } files[] = {{"q8_0.gguf", true},
                 {"fp8.safetensors", false},
                 {"fp8-old.safetensors", false},
                 {"nvfp4.safetensors", false},
                 {"nf4.safetensors", true}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char folder[64], decoded[64], from[128], to[64];
        float wanted[VELOCITY], found[VELOCITY];
        folder_begin(folder);
        folder_begin(decoded);
        snprintf(from, sizeof from, "layouts/%s", files[i].file);
        snprintf(to, sizeof to, "%s", files[i].file);
        copy_fixture(from, in(folder, to));
        write_decoded(in(folder, to), in(decoded, "x.safetensors"));
        for (int compute = COMPUTE_F32; compute <= COMPUTE_BF16; compute++) {
            double most = compute == COMPUTE_F32 ? 2e-6 : 2e-2;
            velocity_of(decoded, (enum compute)compute, wanted);
            velocity_of(folder, (enum compute)compute, found);
            double off = relative_error(found, wanted, VELOCITY);
            if (files[i].equal ? memcmp(found, wanted, sizeof wanted) != 0 : !(off < most))
                fail_msg("%s, compute %d: off by %.2g", files[i].file, compute, off);
        }
        folder_end(folder);
        folder_end(decoded);
    }
}

// ---------------------------------------------------------------------------------------------------------- text encoder

enum { WORDS = 7, WIDTH = 24 };

// The hidden states behind [layers] layers, of [path] opened for that many.
static void hidden_of(const char *path, int layers, float hidden[WORDS * WIDTH]) {
    static const int32_t ids[WORDS] = {1, 17, 30, 5, 39, 3, 11};
    struct error error = {0};
    struct language_model *model = language_model_open(path, layers, device, &error);
    assert_ok(model, error);
    assert_int_equal(language_model_config(model)->hidden, WIDTH);
    size_t mark = workspace_mark(device);
    struct matrix output = workspace_matrix(device, DTYPE_F32, WORDS, WIDTH);
    struct language_model_input input = {
        .tokens = ids, .count = WORDS, .position = 3, .lone_token = -1, .taps = &layers, .tap_count = 1};
    assert_ok(language_model_run(model, &input, output, &error), error);
    memcpy(hidden, output.data, WORDS * WIDTH * sizeof *hidden);
    workspace_release(device, mark);
    language_model_close(model);
}

// llama.cpp's names as Mistral's own: both keep the rows of q and k in pairs.
static bool consolidated(const char *name, char *to, size_t size) {
    static const char *const names[][2] = {
        {"attn_norm", "attention_norm"}, {"attn_q", "attention.wq"},      {"attn_k", "attention.wk"},
        {"attn_v", "attention.wv"},      {"attn_output", "attention.wo"}, {"ffn_norm", "ffn_norm"},
        {"ffn_gate", "feed_forward.w1"}, {"ffn_down", "feed_forward.w2"}, {"ffn_up", "feed_forward.w3"}};
    int layer, end = 0;
    if (strcmp(name, "token_embd.weight") == 0) snprintf(to, size, "tok_embeddings.weight");
    if (strcmp(name, "output_norm.weight") == 0) snprintf(to, size, "norm.weight");
    if (sscanf(name, "blk.%d.%n", &layer, &end) != 1) return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t length = strlen(names[i][0]);
        if (strncmp(name + end, names[i][0], length) == 0 && strcmp(name + end + length, ".weight") == 0)
            snprintf(to, size, "layers.%d.%s.weight", layer, names[i][1]);
    }
    return true;
}

static void text_encoders_agree(void **state) {
    char folder[64];
    float wanted[WORDS * WIDTH], found[WORDS * WIDTH], again[WORDS * WIDTH];
    folder_begin(folder);
    copy_fixture("model-b/text_encoder/config.json", in(folder, "hf/config.json"));
    copy_tensors(FIXTURES "model-b/text_encoder", in(folder, "hf/model.safetensors"),
                 &(struct copying){.matrices = DTYPE_BF16});
    for (int layers = 1; layers <= 3; layers++) { // the last with the final norm
        hidden_of(in(folder, "hf"), layers, wanted);
        hidden_of(LAYOUTS "text_encoder.gguf", layers, found);
        // Queries and keys have the same values in another order: only sums in their products differ.
        double off = relative_error(found, wanted, WORDS * WIDTH);
        if (!(off < 2e-6)) fail_msg("behind %d layers: off by %.2g", layers, off);
        copy_fixture("model-b/text_encoder/config.json", in(folder, "own/config.json"));
        copy_tensors(LAYOUTS "text_encoder.gguf", in(folder, "own/consolidated.safetensors"),
                     &(struct copying){.rename = consolidated});
        hidden_of(in(folder, "own"), layers, again);
        assert_memory_equal(again, found, sizeof found);
    }
    folder_end(folder);
}

static void qwen3_from_gguf(void **state) {
    float wanted[WORDS * WIDTH], found[WORDS * WIDTH];
    struct error error = {0};
    for (int layers = 1; layers <= 2; layers++) {
        hidden_of(FIXTURES "qwen3", layers, wanted);
        hidden_of(LAYOUTS "qwen3.gguf", layers, found);
        assert_memory_equal(found, wanted, sizeof wanted);
    }
    struct language_model *model = language_model_open(LAYOUTS "qwen3.gguf", 1, device, &error);
    assert_ok(model, error);
    const struct language_model_config *config = language_model_config(model);
    assert_int_equal(config->kind, LANGUAGE_MODEL_QWEN3);
    assert_true(config->rope_theta == 1e6 && config->eps > 0.99e-6 && config->eps < 1.01e-6);
    assert_int_equal(config->head_dim, 16);
    assert_int_equal(config->kv_heads, 2);
    assert_int_equal(config->vocabulary, 40);
    language_model_close(model);
    // Without keys and config.json: the shape follows from the tensors alone.
    char folder[64];
    folder_begin(folder);
    copy_tensors(FIXTURES "qwen3", in(folder, "x.safetensors"), &(struct copying){0});
    hidden_of(in(folder, "x.safetensors"), 2, found);
    assert_memory_equal(found, wanted, sizeof wanted);
    folder_end(folder);
}

static bool without_last_layer(const char *name, char *to, size_t size) {
    snprintf(to, size, "%s", name);
    return !strstr(name, "layers.1.") && strcmp(name, "model.norm.weight") != 0;
}

// A file cut off behind the last tap has no final norm: its last layer is tapped raw.
static void pruned_encoders_open(void **state) {
    char folder[64];
    float wanted[WORDS * WIDTH], found[WORDS * WIDTH];
    struct error error = {0};
    folder_begin(folder);
    copy_tensors(FIXTURES "qwen3", in(folder, "x.safetensors"),
                 &(struct copying){.rename = without_last_layer});
    hidden_of(FIXTURES "qwen3", 1, wanted);
    hidden_of(in(folder, "x.safetensors"), 1, found);
    assert_memory_equal(found, wanted, sizeof wanted);
    assert_null(language_model_open(in(folder, "x.safetensors"), 2, device, &error));
    assert_contains(error.message, "x.safetensors: its number of layers is 1, expected at least 2");
    folder_end(folder);
}

static const char *extra; // a tensor added to those of a text encoder

static bool with_extra(const char *name, char *to, size_t size) {
    snprintf(to, size, "%s", !strcmp(name, "model.norm.weight") ? extra : name);
    return true;
}

// What is no Mistral and no Qwen3 under their names is not run as one.
static void other_decoders_are_refused(void **state) {
    static const char *const extras[] = {"model.rope_freqs.weight", "model.layers.0.self_attn.q_proj.bias"};
    char folder[64], message[200];
    folder_begin(folder);
    for (int i = 0; i < 2; i++) {
        struct error error = {0};
        extra = extras[i];
        copy_tensors(FIXTURES "qwen3", in(folder, "x.safetensors"), &(struct copying){.rename = with_extra});
        assert_null(language_model_open(in(folder, "x.safetensors"), 1, device, &error));
        snprintf(message, sizeof message, "x.safetensors: tensor \"%s\": not of a text encoder of FLUX.2",
                 extra);
        assert_contains(error.message, message);
    }
    folder_end(folder);
}

// A row of an embedding or a matrix of [rows, cols] zeros, for shapes.
static void add_zeros(struct safetensors_writer *writer, const char *name, int rank, const int64_t *shape) {
    struct error error = {0};
    int64_t values = 1;
    for (int i = 0; i < rank; i++) values *= shape[i];
    void *zeros = calloc((size_t)values + 1, 2);
    assert_ok(safetensors_writer_add(writer, name, DTYPE_BF16, rank, shape, zeros, &error), error);
    free(zeros);
}

static void mistral_is_derived(void **state) {
    static const struct {
        const char *name;
        int rank;
        int64_t shape[2];
    } tensors[] = {{"embed_tokens.weight", 2, {50, 16}},
                   {"layers.0.self_attn.q_proj.weight", 2, {512, 16}},
                   {"layers.0.self_attn.k_proj.weight", 2, {128, 16}},
                   {"layers.0.mlp.gate_proj.weight", 2, {40, 16}},
                   {"layers.29.mlp.gate_proj.weight", 2, {40, 16}}};
    char folder[64];
    folder_begin(folder);
    for (int odd = 0; odd < 2; odd++) {
        struct error error = {0};
        struct safetensors_writer *writer = safetensors_writer_new();
        for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
            int64_t shape[2] = {tensors[i].shape[0] - (odd && i == 1 ? 64 : 0), tensors[i].shape[1]};
            add_zeros(writer, tensors[i].name, tensors[i].rank, shape);
        }
        assert_ok(safetensors_writer_save(writer, in(folder, "x.safetensors"), &error), error);
        safetensors_writer_free(writer);
        struct checkpoint *checkpoint =
            layout_open(in(folder, "x.safetensors"), PART_TEXT_ENCODER, NULL, &error);
        assert_ok(checkpoint, error);
        struct language_model_config config;
        bool done = language_model_config_derive(checkpoint, "", &config, &error);
        if (odd) {
            assert_false(done);
            assert_contains(error.message, "448 rows of queries and 128 of keys are no whole heads of 128");
        } else {
            assert_ok(done, error);
            assert_int_equal(config.kind, LANGUAGE_MODEL_MISTRAL);
            assert_true(config.vocabulary == 50 && config.hidden == 16 && config.mlp_hidden == 40);
            assert_true(config.heads == 4 && config.kv_heads == 1 && config.head_dim == 128 &&
                        config.layers == 30);
            assert_true(config.rope_theta == 1e9 && config.eps == 1e-5 && config.window == 0 &&
                        config.pruned);
        }
        checkpoint_close(checkpoint);
    }
    folder_end(folder);
}

// ------------------------------------------------------------------------------------------------------------ autoencoder

static struct autoencoder *open_autoencoder(const char *folder) {
    struct error error = {0};
    struct autoencoder *autoencoder = autoencoder_open(folder, device, COMPUTE_F32, &error);
    assert_ok(autoencoder, error);
    return autoencoder;
}

// A picture encoded and decoded by the autoencoder of each folder: equal bytes.
static void assert_same_pictures(const char *left, const char *right) {
    struct autoencoder *both[2] = {open_autoencoder(left), open_autoencoder(right)};
    const struct autoencoder_shape *shape = autoencoder_shape(both[0]);
    const int side = 2 * shape->pixels_per_token;
    const int64_t tokens = 4 * shape->token_channels, pixels = (int64_t)3 * side * side;
    uint8_t *picture = malloc((size_t)pixels);
    for (int64_t i = 0; i < pixels; i++) picture[i] = (uint8_t)(i * 37 >> 2);
    float *results[2];
    for (int i = 0; i < 2; i++) {
        struct error error = {0};
        assert_memory_equal(autoencoder_shape(both[i]), shape, sizeof *shape);
        results[i] = malloc((size_t)(tokens + pixels) * sizeof(float));
        struct image image = {.width = side, .height = side, .pixels = picture};
        assert_ok(autoencoder_encode(both[i], &image, NULL, NULL, results[i], &error), error);
        assert_ok(autoencoder_decode(both[i], results[i], side, side, 0, NULL, NULL, NULL,
                                     results[i] + tokens, &error),
                  error);
        autoencoder_close(both[i]);
    }
    assert_memory_equal(results[0], results[1], (size_t)(tokens + pixels) * sizeof(float));
    free(results[0]);
    free(results[1]);
    free(picture);
}

static void autoencoders_agree(void **state) {
    static const char *const models[] = {"model-a", "model-b"};
    vae_levels = 4;
    for (int m = 0; m < 2; m++) {
        char folder[64], from[300], config[64];
        folder_begin(folder);
        snprintf(from, sizeof from, FIXTURES "%s/vae", models[m]);
        snprintf(config, sizeof config, "%s/vae/config.json", models[m]);
        copy_fixture(config, in(folder, "vae/config.json"));
        for (int convolutions = 0; convolutions < 2; convolutions++) {
            copy_tensors(from, in(folder, "vae/ae.safetensors"),
                         &(struct copying){.rename = bfl_autoencoder, .convolutions = convolutions});
            char reference[300];
            snprintf(reference, sizeof reference, FIXTURES "%s", models[m]);
            assert_same_pictures(reference, folder);
        }
        folder_end(folder);
    }
}

// -------------------------------------------------------------------------- an autoencoder without a config.json

struct random_writer {
    struct safetensors_writer *writer;
    uint32_t state;
};

static void add_random(struct random_writer *random, const char *name, int rank, const int64_t *shape,
                       float around) {
    struct error error = {0};
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= shape[i];
    float *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) {
        random->state = random->state * 1664525u + 1013904223u;
        values[i] = around + ((float)(random->state >> 8) / 8388608.0f - 1.0f) * 0.08f;
    }
    assert_ok(safetensors_writer_add(random->writer, name, DTYPE_F32, rank, shape, values, &error), error);
    free(values);
}

static void add_layer(struct random_writer *random, const char *name, int64_t out, int64_t in_channels,
                      int kernel) {
    char full[200];
    snprintf(full, sizeof full, "%s.weight", name);
    if (kernel > 0)
        add_random(random, full, 4, (int64_t[]){out, in_channels, kernel, kernel}, 0);
    else
        add_random(random, full, kernel < 0 ? 2 : 1, (int64_t[]){out, in_channels}, kernel < 0 ? 0 : 1);
    snprintf(full, sizeof full, "%s.bias", name);
    add_random(random, full, 1, &out, 0);
}

static void add_resnet(struct random_writer *random, const char *name, int64_t in_channels, int64_t out) {
    static const char *const parts[] = {"norm1", "conv1", "norm2", "conv2"};
    char full[200];
    for (int i = 0; i < 4; i++) {
        snprintf(full, sizeof full, "%s.%s", name, parts[i]);
        add_layer(random, full, i == 0 ? in_channels : out, i == 1 ? in_channels : out, i % 2 ? 3 : 0);
    }
    snprintf(full, sizeof full, "%s.conv_shortcut", name);
    if (in_channels != out) add_layer(random, full, out, in_channels, 1);
}

static void add_half(struct random_writer *random, bool decoder, const int64_t *widths, int levels,
                     int64_t latents) {
    static const char *const square[] = {"to_q", "to_k", "to_v", "to_out.0"};
    const char *half = decoder ? "decoder" : "encoder";
    char name[120];
    int64_t deepest = widths[levels - 1], at = decoder ? deepest : widths[0];
    snprintf(name, sizeof name, "%s.conv_in", half);
    add_layer(random, name, at, decoder ? latents : 3, 3);
    for (int i = 0; i < levels; i++) {
        int64_t out = widths[decoder ? levels - 1 - i : i];
        for (int k = 0; k < (decoder ? 2 : 1); k++) {
            snprintf(name, sizeof name, "%s.%s.%d.resnets.%d", half, decoder ? "up_blocks" : "down_blocks", i,
                     k);
            add_resnet(random, name, k == 0 ? at : out, out);
        }
        at = out;
        snprintf(name, sizeof name, "%s.%s.%d.%s.0.conv", half, decoder ? "up_blocks" : "down_blocks", i,
                 decoder ? "upsamplers" : "downsamplers");
        if (i < levels - 1) add_layer(random, name, out, out, 3);
    }
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.mid_block.resnets.%d", half, i);
        add_resnet(random, name, deepest, deepest);
    }
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s.mid_block.attentions.0.%s", half, square[i]);
        add_layer(random, name, deepest, deepest, -1);
    }
    snprintf(name, sizeof name, "%s.mid_block.attentions.0.group_norm", half);
    add_layer(random, name, deepest, 0, 0);
    snprintf(name, sizeof name, "%s.conv_norm_out", half);
    add_layer(random, name, at, 0, 0);
    snprintf(name, sizeof name, "%s.conv_out", half);
    add_layer(random, name, decoder ? 3 : 2 * latents, at, 3);
    add_layer(random, decoder ? "post_quant_conv" : "quant_conv", decoder ? latents : 2 * latents,
              decoder ? latents : 2 * latents, 1);
}

static void autoencoders_are_derived(void **state) {
    static const int64_t encoder[] = {32, 64}, decoder[] = {32, 32};
    struct random_writer random = {safetensors_writer_new(), 7};
    struct error error = {0};
    char folder[64];
    folder_begin(folder);
    add_half(&random, false, encoder, 2, 5);
    add_half(&random, true, decoder, 2, 5);
    add_random(&random, "bn.running_mean", 1, (int64_t[]){20}, 0);
    add_random(&random, "bn.running_var", 1, (int64_t[]){20}, 1);
    assert_int_equal(mkdir(in(folder, "vae"), 0700), 0);
    assert_ok(safetensors_writer_save(random.writer, in(folder, "vae/x.safetensors"), &error), error);
    safetensors_writer_free(random.writer);
    write_text(
        in(folder, "vae/config.json"),
        "{\"block_out_channels\":[32,64],\"decoder_block_out_channels\":[32,32],\"layers_per_block\":1,"
        "\"latent_channels\":5,\"norm_num_groups\":32}");
    char single[64];
    folder_begin(single);
    vae_levels = 2;
    copy_tensors(in(folder, "vae"), in(single, "ae.safetensors"),
                 &(struct copying){.rename = bfl_autoencoder, .convolutions = true});
    assert_same_pictures(folder, single);
    folder_end(single);
    folder_end(folder);
}

// --------------------------------------------------------------------------------------------------------------- strangers

static void other_models_are_named(void **state) {
    static const struct {
        enum model_part part;
        const char *tensors[3], *message;
    } cases[] = {
        {PART_TRANSFORMER,
         {"double_blocks.0.img_mod.lin.weight", "img_in.weight"},
         "holds a transformer of FLUX.1, expected the transformer of FLUX.2"},
        {PART_TRANSFORMER,
         {"model.diffusion_model.double_blocks.0.img_mod.lin.weight"},
         "a transformer of FLUX.1"},
        {PART_TRANSFORMER, {"model.diffusion_model.input_blocks.0.0.weight"}, "a UNet of Stable Diffusion"},
        {PART_AUTOENCODER,
         {"decoder.conv_in.weight", "decoder.up.0.block.0.conv1.weight"},
         "an autoencoder without \"bn.running_mean\": not FLUX.2's"},
        {PART_TEXT_ENCODER,
         {"encoder.block.0.layer.0.SelfAttention.q.weight"},
         "a T5 text encoder, expected the text encoder of FLUX.2"},
        {PART_TEXT_ENCODER,
         {"v.blk.0.attn_q.weight", "mm.1.weight"},
         "a vision tower (mmproj), expected the text encoder of FLUX.2"},
        {PART_TRANSFORMER,
         {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight"},
         "a LoRA, expected the transformer"},
    };
    char folder[64];
    folder_begin(folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        struct safetensors_writer *writer = safetensors_writer_new();
        for (int k = 0; k < 3 && cases[i].tensors[k]; k++)
            add_zeros(writer, cases[i].tensors[k], 2, (int64_t[]){3, 3});
        assert_ok(safetensors_writer_save(writer, in(folder, "x.safetensors"), &error), error);
        safetensors_writer_free(writer);
        assert_null(layout_open(in(folder, "x.safetensors"), cases[i].part, NULL, &error));
        assert_contains(error.message, cases[i].message);
        assert_contains(error.message, "x.safetensors");
        assert_int_equal(error.kind, ERROR_UNSUPPORTED);
    }
    folder_end(folder);
}

static bool one_name_for_two(const char *name, char *to, size_t size) {
    snprintf(to, size, "%s", name);
    return true;
}

static void damaged_layouts_are_refused(void **state) {
    struct error error = {0};
    char folder[64];
    folder_begin(folder);
    // A norm in both spellings.
    struct checkpoint *from = checkpoint_open(LAYOUTS "transformer.gguf", &error);
    assert_ok(from, error);
    struct safetensors_writer *writer = safetensors_writer_new();
    for (int64_t i = 0; i < checkpoint_count(from); i++)
        copy_tensor(writer, checkpoint_entry(from, i), &(struct copying){.rename = one_name_for_two});
    checkpoint_close(from);
    add_zeros(writer, "single_blocks.1.norm.key_norm.weight", 1, (int64_t[]){16});
    assert_ok(safetensors_writer_save(writer, in(folder, "x.safetensors"), &error), error);
    safetensors_writer_free(writer);
    assert_null(transformer_open(folder, device, &error));
    assert_contains(error.message, "\"single_blocks.1.norm.key_norm.scale\"");
    assert_contains(error.message, "\"single_blocks.1.norm.key_norm.weight\"");
    assert_contains(error.message, "stand for the same \"single_transformer_blocks.1.attn.norm_k.weight\"");
    // A fused matrix that is no three of equal height.
    writer = safetensors_writer_new();
    add_zeros(writer, "double_stream_modulation_img.lin.weight", 2, (int64_t[]){12, 2});
    add_zeros(writer, "double_blocks.0.img_attn.qkv.weight", 2, (int64_t[]){7, 2});
    error = (struct error){0};
    assert_ok(safetensors_writer_save(writer, in(folder, "x.safetensors"), &error), error);
    safetensors_writer_free(writer);
    assert_null(transformer_open(folder, device, &error));
    assert_contains(
        error.message,
        "tensor \"double_blocks.0.img_attn.qkv.weight\": shape [7, 2], expected a matrix of 3 times");
    folder_end(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transformers_agree),          cmocka_unit_test(quantised_transformers_agree),
        cmocka_unit_test(text_encoders_agree),         cmocka_unit_test(qwen3_from_gguf),
        cmocka_unit_test(pruned_encoders_open),        cmocka_unit_test(other_decoders_are_refused),
        cmocka_unit_test(mistral_is_derived),          cmocka_unit_test(autoencoders_agree),
        cmocka_unit_test(autoencoders_are_derived),    cmocka_unit_test(other_models_are_named),
        cmocka_unit_test(damaged_layouts_are_refused),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
