// One step of the transformer at the shape of FLUX.2 [klein] 4B (hidden 3072, 24 heads, 5 double and 20 single blocks, context
// 7680) and both ways through the autoencoder, with random bf16 weights and 512 text tokens: seconds, GFLOP/s, how many times
// the floor at the machine's bf16 ceiling, which is measured before and after each figure, and the peak of anonymous memory.
//
//     bench_model [--threads N] [--isa NAME] [--rounds N] [--sizes 256,512,1024] [--references N] [--only NAME]
//                 [--blocks N] [--lora RANK] [--compute both] [FOLDER]
//
// The weights (7.8 GB) are written to FOLDER (default: "build/bench-model") once and used again by the next run; --blocks N
// divides the blocks of both kinds by N for a machine with little room, and the seconds are those of the smaller model.
// --lora: a LoRA of that rank on the layers that FLUX.2 [dev] Turbo's has (attention of double blocks, both products of single ones,
// nine shared ones); steps with and without it take turns, and their ratio is told.
// --compute both: steps in bf16 and in int8 take turns, and their ratio is told.
// --only: "transformer" or "autoencoder". --references: that many references of 1 megapixel stand beside the picture.
#include "base/clock.h"
#include "base/file.h"
#include "cli/measure.h"
#include "flux/adapters.h"
#include "flux/autoencoder.h"
#include "flux/transformer.h"
#include "tensor/cpu/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HIDDEN = 3072,
    HEAD_DIM = 128,
    MLP = 9216,
    CONTEXT = 7680,
    CHANNELS = 128,
    TEXT = 512,
    REFERENCES_MOST = 4
};

struct options {
    int threads, rounds, references, divide, lora;
    const char *isa, *sizes, *only, *folder, *compute;
};

static void check(bool done, const struct error *error) {
    if (done) return;
    fprintf(stderr, "bench_model: %s\n", error->message);
    exit(1);
}

// ------------------------------------------------------------------------------------------------- writing the weights

struct writer {
    FILE *header, *file;
    int64_t at;    // bytes of data so far
    int64_t ones;  // how many of the last values are 1
    double flops;  // of convolutions, for one latent position
    double places; // positions of the map at this point for one latent position
};

static void add(struct writer *writer, const char *name, int64_t rows, int64_t cols, int kernel) {
    const int64_t values = (rows ? rows : 1) * cols * kernel * kernel, end = writer->at + 2 * values;
    fprintf(writer->header, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", writer->at ? "," : "{", name);
    if (rows) fprintf(writer->header, "%lld,", (long long)rows);
    fprintf(writer->header, "%lld", (long long)cols);
    if (kernel > 1 || strstr(name, "conv")) {
        if (rows) fprintf(writer->header, ",%d,%d", kernel, kernel);
        if (rows) writer->flops += 2 * (double)values * writer->places;
    }
    fprintf(writer->header, "],\"data_offsets\":[%lld,%lld]}", (long long)writer->at, (long long)end);
    writer->at = end;
}

// Random values of about the size that weights have, the same 32 MiB again and again.
static void write_values(FILE *file, int64_t bytes) {
    enum { BLOCK = 16 << 20 };
    uint16_t *block = malloc(BLOCK * sizeof *block);
    uint64_t state = 9;
    if (!block) exit(1);
    for (int i = 0; i < BLOCK; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        block[i] = f32_to_bf16(0.03f * ((float)((double)(state >> 40) / (1 << 23)) - 1));
    }
    for (int64_t left = bytes; left > 0; left -= BLOCK * 2)
        if (fwrite(block, 1, left < BLOCK * 2 ? (size_t)left : BLOCK * 2, file) == 0) exit(1);
    free(block);
}

static void write_text(const char *folder, const char *name, const char *text) {
    char *path = path_join(folder, name);
    struct error error = {0};
    check(path && file_write(path, text, strlen(text), &error), &error);
    free(path);
}

static struct writer begin(char **header, size_t *size) {
    return (struct writer){.header = open_memstream(header, size), .places = 1};
}

static void finish(struct writer *writer, char **header, size_t *size, const char *folder) {
    fputc('}', writer->header);
    while (ftell(writer->header) % 8) fputc(' ', writer->header);
    fclose(writer->header);
    char *path = path_join(folder, "diffusion_pytorch_model.safetensors");
    FILE *file = path ? fopen(path, "wb") : NULL;
    const uint64_t length = *size;
    if (!file || fwrite(&length, 8, 1, file) != 1 || fwrite(*header, *size, 1, file) != 1) exit(1);
    write_values(file, writer->at - 2 * writer->ones);
    const uint16_t one = f32_to_bf16(1);
    for (int64_t i = 0; i < writer->ones; i++)
        if (fwrite(&one, sizeof one, 1, file) != 1) exit(1);
    if (fclose(file) != 0) exit(1);
    free(*header);
    free(path);
}

static void add_named(struct writer *writer, int64_t rows, int64_t cols, const char *prefix,
                      const char *name) {
    char full[160];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    add(writer, full, rows, cols, 1);
}

static void write_transformer(const char *folder, int doubles, int singles) {
    static const char *const square[] = {"to_q",       "to_k",       "to_v",       "to_out.0",
                                         "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"};
    static const char *const norms[] = {"norm_q", "norm_k", "norm_added_q", "norm_added_k"};
    char *header = NULL, prefix[96];
    size_t size = 0;
    struct writer w = begin(&header, &size);
    for (int i = 0; i < doubles; i++) {
        snprintf(prefix, sizeof prefix, "transformer_blocks.%d.attn.", i);
        for (int j = 0; j < 8; j++) add_named(&w, HIDDEN, HIDDEN, prefix, square[j]);
        for (int j = 0; j < 4; j++) add_named(&w, 0, HEAD_DIM, prefix, norms[j]);
        for (int j = 0; j < 2; j++) {
            snprintf(prefix, sizeof prefix, "transformer_blocks.%d.%s.", i, j ? "ff_context" : "ff");
            add_named(&w, 2 * MLP, HIDDEN, prefix, "linear_in");
            add_named(&w, HIDDEN, MLP, prefix, "linear_out");
        }
    }
    for (int i = 0; i < singles; i++) {
        snprintf(prefix, sizeof prefix, "single_transformer_blocks.%d.attn.", i);
        add_named(&w, 3 * HIDDEN + 2 * MLP, HIDDEN, prefix, "to_qkv_mlp_proj");
        add_named(&w, HIDDEN, HIDDEN + MLP, prefix, "to_out");
        for (int j = 0; j < 2; j++) add_named(&w, 0, HEAD_DIM, prefix, norms[j]);
    }
    add_named(&w, HIDDEN, CHANNELS, "", "x_embedder");
    add_named(&w, HIDDEN, CONTEXT, "", "context_embedder");
    add_named(&w, HIDDEN, 256, "time_guidance_embed.timestep_embedder.", "linear_1");
    add_named(&w, HIDDEN, HIDDEN, "time_guidance_embed.timestep_embedder.", "linear_2");
    add_named(&w, 6 * HIDDEN, HIDDEN, "double_stream_modulation_img.", "linear");
    add_named(&w, 6 * HIDDEN, HIDDEN, "double_stream_modulation_txt.", "linear");
    add_named(&w, 3 * HIDDEN, HIDDEN, "single_stream_modulation.", "linear");
    add_named(&w, 2 * HIDDEN, HIDDEN, "norm_out.", "linear");
    add_named(&w, CHANNELS, HIDDEN, "", "proj_out");
    finish(&w, &header, &size, folder);
    char config[512];
    snprintf(
        config, sizeof config,
        "{\"_class_name\":\"Flux2Transformer2DModel\",\"num_layers\":%d,\"num_single_layers\":%d,"
        "\"num_attention_heads\":24,\"attention_head_dim\":%d,\"in_channels\":%d,\"joint_attention_dim\":%d,"
        "\"guidance_embeds\":false}\n",
        doubles, singles, HEAD_DIM, CHANNELS, CONTEXT);
    write_text(folder, "config.json", config);
}

static void add_pair(struct writer *w, int64_t out, int64_t in, int64_t rank, const char *prefix,
                     const char *name) {
    char full[160];
    snprintf(full, sizeof full, "%s%s.lora_A.weight", prefix, name);
    add(w, full, rank, in, 1);
    snprintf(full, sizeof full, "%s%s.lora_B.weight", prefix, name);
    add(w, full, out, rank, 1);
}

// [folder] must be there; the file has the name that weights have.
static void write_lora(const char *folder, int doubles, int singles, int64_t rank) {
    static const char *const square[] = {"to_q",       "to_k",       "to_v",       "to_out.0",
                                         "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"};
    char *header = NULL, prefix[96];
    size_t size = 0;
    struct writer w = begin(&header, &size);
    for (int i = 0; i < doubles; i++) {
        snprintf(prefix, sizeof prefix, "transformer_blocks.%d.attn.", i);
        for (int j = 0; j < 8; j++) add_pair(&w, HIDDEN, HIDDEN, rank, prefix, square[j]);
    }
    for (int i = 0; i < singles; i++) {
        snprintf(prefix, sizeof prefix, "single_transformer_blocks.%d.attn.", i);
        add_pair(&w, 3 * HIDDEN + 2 * MLP, HIDDEN, rank, prefix, "to_qkv_mlp_proj");
        add_pair(&w, HIDDEN, HIDDEN + MLP, rank, prefix, "to_out");
    }
    add_pair(&w, HIDDEN, CHANNELS, rank, "", "x_embedder");
    add_pair(&w, HIDDEN, CONTEXT, rank, "", "context_embedder");
    add_pair(&w, HIDDEN, 256, rank, "time_guidance_embed.timestep_embedder.", "linear_1");
    add_pair(&w, HIDDEN, HIDDEN, rank, "time_guidance_embed.timestep_embedder.", "linear_2");
    add_pair(&w, 6 * HIDDEN, HIDDEN, rank, "double_stream_modulation_img.", "linear");
    add_pair(&w, 6 * HIDDEN, HIDDEN, rank, "double_stream_modulation_txt.", "linear");
    add_pair(&w, 3 * HIDDEN, HIDDEN, rank, "single_stream_modulation.", "linear");
    add_pair(&w, CHANNELS, HIDDEN, rank, "", "proj_out");
    finish(&w, &header, &size, folder);
}

static void add_layer(struct writer *w, int64_t out, int64_t in, int kernel, const char *prefix,
                      const char *name) {
    char full[160];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    add(w, full, out, in, kernel);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    add(w, full, 0, out ? out : in, 1);
}

static void add_resnet(struct writer *w, int64_t in, int64_t out, const char *prefix) {
    add_layer(w, 0, in, 1, prefix, "norm1");
    add_layer(w, out, in, 3, prefix, "conv1");
    add_layer(w, 0, out, 1, prefix, "norm2");
    add_layer(w, out, out, 3, prefix, "conv2");
    if (in != out) add_layer(w, out, in, 1, prefix, "conv_shortcut");
}

static void add_middle(struct writer *w, const char *half) {
    static const char *const names[] = {"to_q", "to_k", "to_v", "to_out.0"};
    char prefix[96];
    for (int i = 0; i < 2; i++) {
        snprintf(prefix, sizeof prefix, "%s.mid_block.resnets.%d.", half, i);
        add_resnet(w, 512, 512, prefix);
    }
    snprintf(prefix, sizeof prefix, "%s.mid_block.attentions.0.", half);
    add_layer(w, 0, 512, 1, prefix, "group_norm");
    for (int i = 0; i < 4; i++) add_layer(w, 512, 512, 1, prefix, names[i]);
    w->flops += 4 * 2 * 512 * 512;
}

// Both halves; the operations of convolutions for one latent position (8 x 8 pixels) go to *encode and *decode.
static void write_autoencoder(const char *folder, double *encode, double *decode) {
    static const int64_t widths[4] = {128, 256, 512, 512};
    char *header = NULL, prefix[96];
    size_t size = 0;
    struct writer w = begin(&header, &size);
    w.places = 64;
    add_layer(&w, 128, 3, 3, "encoder.", "conv_in");
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 2; j++) {
            snprintf(prefix, sizeof prefix, "encoder.down_blocks.%d.resnets.%d.", i, j);
            add_resnet(&w, j || !i ? widths[i] : widths[i - 1], widths[i], prefix);
        }
        if (i == 3) continue;
        w.places /= 4;
        snprintf(prefix, sizeof prefix, "encoder.down_blocks.%d.downsamplers.0.", i);
        add_layer(&w, widths[i], widths[i], 3, prefix, "conv");
    }
    add_middle(&w, "encoder");
    add_layer(&w, 0, 512, 1, "encoder.", "conv_norm_out");
    add_layer(&w, 64, 512, 3, "encoder.", "conv_out");
    add_layer(&w, 64, 64, 1, "", "quant_conv");
    *encode = w.flops;
    add_layer(&w, 32, 32, 1, "", "post_quant_conv");
    add_layer(&w, 512, 32, 3, "decoder.", "conv_in");
    add_middle(&w, "decoder");
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 3; j++) {
            snprintf(prefix, sizeof prefix, "decoder.up_blocks.%d.resnets.%d.", i, j);
            add_resnet(&w, j || !i ? widths[3 - i] : widths[4 - i], widths[3 - i], prefix);
        }
        if (i == 3) continue;
        w.places *= 4;
        snprintf(prefix, sizeof prefix, "decoder.up_blocks.%d.upsamplers.0.", i);
        add_layer(&w, widths[3 - i], widths[3 - i], 3, prefix, "conv");
    }
    add_layer(&w, 0, 128, 1, "decoder.", "conv_norm_out");
    add_layer(&w, 3, 128, 3, "decoder.", "conv_out");
    *decode = w.flops - *encode;
    add(&w, "bn.running_mean", 0, 128, 1);
    add(&w, "bn.running_var", 0, 128, 1);
    w.ones = 128;
    finish(&w, &header, &size, folder);
    write_text(folder, "config.json",
               "{\"_class_name\":\"AutoencoderKLFlux2\",\"block_out_channels\":[128,256,512,512],"
               "\"layers_per_block\":2,\"latent_channels\":32,\"norm_num_groups\":32,\"in_channels\":3,"
               "\"out_channels\":3,\"act_fn\":\"silu\"}\n");
}

// ----------------------------------------------------------------------------------------------------------- measuring

static double
peak_anonymous(void) { // MB since the last reset: the sum of anonymous pages now, as the kernel counts them
    FILE *file = fopen("/proc/self/status", "r");
    char line[128];
    long kilobytes = 0;
    while (file && fgets(line, sizeof line, file)) sscanf(line, "RssAnon: %ld", &kilobytes);
    if (file) fclose(file);
    return (double)kilobytes / 1024;
}

struct watch {
    double most; // MB
};

static bool watch_block(void *context, int block, int blocks) {
    struct watch *watch = context;
    const double now = peak_anonymous();
    if (now > watch->most) watch->most = now;
    return true;
}

static double step_operations(double text, double image, int doubles, int singles) {
    const double all = text + image, h = HIDDEN;
    const double block = 4 * h * h + 3 * h * MLP; // q, k, v, out; gate and up, down
    return 2 * all * block * (doubles + singles) + 4 * all * all * h * (doubles + singles) +
           2 * text * CONTEXT * h + 4 * image * CHANNELS * h;
}

static void report(struct measure *measure, const char *name, double operations, double *seconds,
                   double before, double memory) {
    const double middle = measure_median(seconds, measure->rounds);
    const double after = probe_products(measure->device, COMPUTE_BF16, 0.3),
                 ceiling = before > after ? before : after;
    printf("%-34s %8.3f s %8.1f GFLOP/s, %5.2f times the floor at %.0f GFLOP/s; %.0f MB anonymous\n", name,
           middle, operations / middle * 1e-9, middle * ceiling / operations, ceiling * 1e-9, memory);
    fflush(stdout);
}

// Of all threads; what other programs do counts less here than in the time that passes.
static double lora_operations(double text, double image, int doubles, int singles, double rank) {
    const double h = HIDDEN, all = text + image;
    // Down and up of each layer; those of a single block's fused input run down twice, once for each of its two products.
    const double of_double = 4 * 2 * h, of_single = 2 * h + 3 * h + 2 * MLP + (h + MLP) + h;
    return 2 * rank * all * (of_double * doubles + of_single * singles);
}

// [lora]: NULL, or what every second step is taken with.
static void bench_step(struct measure *measure, struct transformer *transformer, const struct lora *lora,
                       const struct options *options, int side, int doubles, int singles) {
    struct error error = {0};
    struct token_grid grids[1 + REFERENCES_MOST] = {{side / 16, side / 16, 0}};
    int64_t image = token_grid_tokens(&grids[0]), all = image;
    for (int i = 0; i < options->references; i++) {
        grids[i + 1] = (struct token_grid){64, 64, 10 * (i + 1)};
        all += token_grid_tokens(&grids[i + 1]);
    }
    float *text = calloc(TEXT * CONTEXT, sizeof *text),
          *latents = calloc((size_t)all * CHANNELS, sizeof *latents);
    float *velocity = calloc((size_t)image * CHANNELS, sizeof *velocity);
    for (int64_t i = 0; i < TEXT * CONTEXT && text; i++) text[i] = (float)(i * 7919 % 1000) * 1e-3f - 0.5f;
    for (int64_t i = 0; i < all * CHANNELS && latents; i++) latents[i] = (float)(i * 7919 % 1000) * 2e-3f - 1;
    struct transformer_run *run =
        transformer_begin(transformer, COMPUTE_BF16, TEXT, text, 1 + options->references, grids,
                          options->references ? latents + image * CHANNELS : NULL, &error);
    check(run != NULL, &error);
    struct watch watch = {0};
    double seconds[MEASURE_ROUNDS_MOST + 1] = {0}, changed[MEASURE_ROUNDS_MOST + 1] = {0};
    double busy[2][MEASURE_ROUNDS_MOST + 1] = {0};
    const double before = probe_products(measure->device, COMPUTE_BF16, 0.3);
    for (int i = -1; i < measure->rounds; i++)
        for (int way = 0; way < (lora ? 2 : 1); way++) {
            check(transformer_adapt(transformer, &(struct adapter){lora, 1}, way, &error), &error);
            const double start = clock_seconds(), start_busy = measure_cpu_seconds();
            check(transformer_velocity(run, latents, 500, 1, watch_block, &watch, NULL, velocity, &error),
                  &error);
            if (i < 0) continue;
            (way ? changed : seconds)[i] = clock_seconds() - start;
            busy[way][i] = measure_cpu_seconds() - start_busy;
        }
    transformer_end(run);
    if (lora)
        printf("with the LoRA %.3f s, %.3f times the step without (%.3f in seconds of the processors); %.3f "
               "times "
               "the operations\n",
               measure_median(changed, measure->rounds),
               measure_median(changed, measure->rounds) / measure_median(seconds, measure->rounds),
               measure_median(busy[1], measure->rounds) / measure_median(busy[0], measure->rounds),
               1 + lora_operations(TEXT, (double)all, doubles, singles, options->lora) /
                       step_operations(TEXT, (double)all, doubles, singles));
    char name[64];
    snprintf(name, sizeof name, "step %dx%d%s", side, side, options->references ? " with references" : "");
    report(measure, name, step_operations(TEXT, (double)all, doubles, singles), seconds, before, watch.most);
    workspace_trim(measure->device);
    free(text);
    free(latents);
    free(velocity);
}

// Steps in bf16 and in int8, turn by turn.
static void bench_int8(struct measure *measure, struct transformer *transformer, int side, int doubles,
                       int singles) {
    static const enum compute ways[2] = {COMPUTE_BF16, COMPUTE_I8};
    const struct token_grid grid = {side / 16, side / 16, 0};
    const size_t count = (size_t)token_grid_tokens(&grid) * CHANNELS;
    struct error error = {0};
    struct watch watch[2] = {{0}};
    double seconds[2][MEASURE_ROUNDS_MOST + 1] = {{0}}, ratios[MEASURE_ROUNDS_MOST + 1] = {0};
    float *text = calloc(TEXT * CONTEXT, sizeof *text), *latents = calloc(count, sizeof *latents);
    float *velocity = calloc(count, sizeof *velocity);
    if (!text || !latents || !velocity) exit(1);
    for (int64_t i = 0; i < TEXT * CONTEXT; i++) text[i] = (float)(i * 7919 % 1000) * 1e-3f - 0.5f;
    for (size_t i = 0; i < count; i++) latents[i] = (float)(i * 7919 % 1000) * 2e-3f - 1;
    const double before = probe_products(measure->device, COMPUTE_BF16, 0.3);
    for (int i = -1; i < measure->rounds; i++) {
        double busy[2];
        for (int way = 0; way < 2; way++) {
            struct transformer_run *run =
                transformer_begin(transformer, ways[way], TEXT, text, 1, &grid, NULL, &error);
            check(run != NULL, &error);
            const double start = clock_seconds(), start_busy = measure_cpu_seconds();
            check(
                transformer_velocity(run, latents, 500, 1, watch_block, &watch[way], NULL, velocity, &error),
                &error);
            busy[way] = measure_cpu_seconds() - start_busy;
            if (i >= 0) seconds[way][i] = clock_seconds() - start;
            transformer_end(run);
        }
        if (i >= 0) ratios[i] = busy[0] / busy[1];
    }
    const double operations = step_operations(TEXT, (double)token_grid_tokens(&grid), doubles, singles);
    for (int way = 0; way < 2; way++) {
        char name[64];
        snprintf(name, sizeof name, "step %dx%d, %s", side, side, way ? "int8" : "bf16");
        report(measure, name, operations, seconds[way], before, watch[way].most);
    }
    printf("%-34s %8.2f times as fast in seconds of the processors, the median of %d pairs\n", "",
           measure_median(ratios, measure->rounds), measure->rounds);
    workspace_trim(measure->device);
    free(text);
    free(latents);
    free(velocity);
}

static void bench_autoencoder(struct measure *measure, struct autoencoder *autoencoder, int side,
                              double encode, double decode) {
    struct error error = {0};
    const double places = (double)side * side / 64, attention = 4 * places * places * 512;
    struct image image = {.width = side, .height = side, .pixels = calloc((size_t)side * (size_t)side, 3)};
    float *tokens = calloc((size_t)(side / 16) * (size_t)(side / 16) * CHANNELS, sizeof *tokens);
    float *pixels = calloc((size_t)side * (size_t)side * 3, sizeof *pixels);
    if (!image.pixels || !tokens || !pixels) exit(1);
    for (int64_t i = 0; i < (int64_t)side * side * 3; i++) image.pixels[i] = (uint8_t)(i * 7919 >> 3);
    for (int way = 0; way < 2; way++) {
        struct watch watch = {0};
        double seconds[MEASURE_ROUNDS_MOST + 1] = {0};
        const double before = probe_products(measure->device, COMPUTE_BF16, 0.3);
        for (int i = 0; i < measure->rounds; i++) {
            const double start = clock_seconds();
            check(way ? autoencoder_decode(autoencoder, tokens, side, side, 0, watch_block, &watch, NULL,
                                           pixels, &error)
                      : autoencoder_encode(autoencoder, &image, watch_block, &watch, tokens, &error),
                  &error);
            seconds[i] = clock_seconds() - start;
        }
        char name[64];
        snprintf(name, sizeof name, "autoencoder %s %dx%d", way ? "decode" : "encode", side, side);
        report(measure, name, places * (way ? decode : encode) + attention, seconds, before, watch.most);
        workspace_trim(measure->device);
    }
    free(image.pixels);
    free(tokens);
    free(pixels);
}

// ---------------------------------------------------------------------------------------------------------------- main

static struct options parse(int count, char **arguments) {
    struct options options = {.threads = 2,
                              .rounds = 3,
                              .divide = 1,
                              .sizes = "256,512,1024",
                              .only = "",
                              .compute = "",
                              .compute = "bf16",
                              .folder = "build/bench-model"};
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i], *value = i + 1 < count ? arguments[i + 1] : "";
        const int number = atoi(value);
        if (strncmp(name, "--", 2) != 0) {
            options.folder = name;
            continue;
        }
        i++;
        if (!strcmp(name, "--threads") && number > 0) options.threads = number;
        if (!strcmp(name, "--rounds") && number > 0 && number <= MEASURE_ROUNDS_MOST) options.rounds = number;
        if (!strcmp(name, "--references") && number >= 0 && number <= REFERENCES_MOST)
            options.references = number;
        if (!strcmp(name, "--blocks") && number > 0) options.divide = number;
        if (!strcmp(name, "--lora") && number > 0 && number <= HIDDEN) options.lora = number;
        if (!strcmp(name, "--isa")) options.isa = value;
        if (!strcmp(name, "--sizes")) options.sizes = value;
        if (!strcmp(name, "--only")) options.only = value;
        if (!strcmp(name, "--compute")) options.compute = value;
        if (!strcmp(name, "--compute")) options.compute = value;
    }
    return options;
}

// The LoRA that the options ask for, written anew; NULL: none.
static struct lora *open_lora(const struct options *options, const struct transformer *transformer,
                              int doubles, int singles) {
    struct error error = {0};
    char folder[480];
    if (!options->lora) return NULL;
    snprintf(folder, sizeof folder, "%.400s/lora", options->folder);
    check(folder_make(folder, &error), &error);
    write_lora(folder, doubles, singles, options->lora);
    const struct lora_shape shape = transformer_lora_shape(transformer);
    const double start = clock_seconds();
    struct lora *lora = lora_open(folder, &shape, &error);
    check(lora != NULL, &error);
    printf("LoRA of rank %d read and checked in %.3f s\n", options->lora, clock_seconds() - start);
    return lora;
}

int main(int count, char **arguments) {
    const struct options options = parse(count, arguments);
    const int doubles = 5 / options.divide > 0 ? 5 / options.divide : 1, singles = 20 / options.divide;
    struct error error = {0};
    char vae[512], transformer_folder[512], model[480];
    snprintf(model, sizeof model, "%.400s/klein-%d-%d", options.folder, doubles, singles);
    snprintf(vae, sizeof vae, "%s/vae", model);
    snprintf(transformer_folder, sizeof transformer_folder, "%s/transformer", model);
    check(folder_make(vae, &error) && folder_make(transformer_folder, &error), &error);
    double encode = 0, decode = 0;
    write_autoencoder(vae, &encode, &decode);
    char *config =
        path_join(transformer_folder, "config.json"); // written last: the weights are whole where it is there
    if (!strcmp(options.only, "autoencoder") || (config && file_exists(config)))
        printf("weights in %s\n", model);
    else
        write_transformer(transformer_folder, doubles, singles);
    free(config);
    struct pool *pool = pool_open(options.threads, &error);
    struct measure measure = {0};
    check(pool && measure_open(&measure, pool, options.isa, options.rounds, &error), &error);
    measure_machine(&measure);
    for (int part = 0; part < 2; part++) {
        if (*options.only && strcmp(options.only, part ? "autoencoder" : "transformer") != 0) continue;
        struct transformer *transformer = part ? NULL : transformer_open(model, measure.device, &error);
        struct autoencoder *autoencoder =
            part ? autoencoder_open(model, measure.device, COMPUTE_BF16, &error) : NULL;
        check(transformer || autoencoder, &error);
        struct lora *lora = transformer ? open_lora(&options, transformer, doubles, singles) : NULL;
        char sizes[128];
        snprintf(sizes, sizeof sizes, "%s", options.sizes);
        for (char *at = strtok(sizes, ","); at; at = strtok(NULL, ",")) {
            const int side = atoi(at) / 16 * 16;
            if (side < 64 || side > 4096) continue;
            if (transformer && !strcmp(options.compute, "both")) {
                bench_int8(&measure, transformer, side, doubles, singles);
                continue;
            }
            if (transformer) bench_step(&measure, transformer, lora, &options, side, doubles, singles);
            if (autoencoder) bench_autoencoder(&measure, autoencoder, side, encode, decode);
        }
        lora_close(lora);
        transformer_close(transformer);
        autoencoder_close(autoencoder);
    }
    measure_close(&measure);
    pool_close(pool);
    return 0;
}
