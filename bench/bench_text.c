// The text encoder's pass at the shape of Qwen3-4B (hidden 2560, 32 query and 8 key/value heads of 128, 9728 wide) over 512
// tokens with random bf16 weights, beside the machine's bf16 ceiling, which is measured before and after. A few layers are
// run and the time of one is multiplied: each layer's weights, 202 MB, are more than any cache holds.
//
//     bench_text [threads [rounds [layers [tokens [folder]]]]]     folder: where the weights are written, then removed
#include "base/clock.h"
#include "tensor/cpu/probe.h"
#include "text/language_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HIDDEN = 2560,
    HEADS = 32,
    KV_HEADS = 8,
    HEAD_DIM = 128,
    MLP = 9728,
    VOCABULARY = 512,
    WANTED_LAYERS = 27
};

static const struct {
    const char *name;
    int64_t rows, cols; // rows 0: a vector
} tensors[] = {
    {"input_layernorm", 0, HIDDEN},
    {"post_attention_layernorm", 0, HIDDEN},
    {"self_attn.q_norm", 0, HEAD_DIM},
    {"self_attn.k_norm", 0, HEAD_DIM},
    {"self_attn.q_proj", HEADS *HEAD_DIM, HIDDEN},
    {"self_attn.k_proj", KV_HEADS *HEAD_DIM, HIDDEN},
    {"self_attn.v_proj", KV_HEADS *HEAD_DIM, HIDDEN},
    {"self_attn.o_proj", HIDDEN, HEADS *HEAD_DIM},
    {"mlp.gate_proj", MLP, HIDDEN},
    {"mlp.up_proj", MLP, HIDDEN},
    {"mlp.down_proj", HIDDEN, MLP},
};
enum { TENSORS = sizeof tensors / sizeof *tensors };

static void check(bool done, const struct error *error) {
    if (done) return;
    fprintf(stderr, "bench_text: %s\n", error->message);
    exit(1);
}

static void write_random(FILE *file, int64_t count, float size) {
    static uint64_t state = 9;
    for (int64_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint16_t bits = f32_to_bf16(size * ((float)((double)(state >> 40) / (1 << 23)) - 1));
        fwrite(&bits, sizeof bits, 1, file);
    }
}

static int64_t add_entry(FILE *header, const char *name, int64_t rows, int64_t cols, int64_t begin) {
    int64_t end = begin + 2 * (rows ? rows : 1) * cols;
    fprintf(header, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", begin ? "," : "", name);
    if (rows) fprintf(header, "%lld,", (long long)rows);
    fprintf(header, "%lld],\"data_offsets\":[%lld,%lld]}", (long long)cols, (long long)begin, (long long)end);
    return end;
}

static void write_weights(const char *path, int layers) {
    char *header = NULL;
    size_t size = 0;
    FILE *text = open_memstream(&header, &size), *file = fopen(path, "wb");
    if (!text || !file) exit(1);
    fputc('{', text);
    int64_t at = add_entry(text, "model.embed_tokens.weight", VOCABULARY, HIDDEN, 0);
    for (int layer = 0; layer < layers; layer++) {
        for (int t = 0; t < TENSORS; t++) {
            char name[96];
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, tensors[t].name);
            at = add_entry(text, name, tensors[t].rows, tensors[t].cols, at);
        }
    }
    fputc('}', text);
    while (ftell(text) % 8) fputc(' ', text);
    fclose(text);
    uint64_t length = size;
    fwrite(&length, sizeof length, 1, file);
    fwrite(header, size, 1, file);
    free(header);
    write_random(file, (int64_t)VOCABULARY * HIDDEN, 1);
    for (int layer = 0; layer < layers; layer++)
        for (int t = 0; t < TENSORS; t++)
            write_random(file, (tensors[t].rows ? tensors[t].rows : 1) * tensors[t].cols, 0.02f);
    if (fclose(file) != 0) exit(1);
}

static void write_config(const char *path, int layers) {
    FILE *file = fopen(path, "w");
    if (!file) exit(1);
    fprintf(file,
            "{\"model_type\":\"qwen3\",\"vocab_size\":%d,\"hidden_size\":%d,\"intermediate_size\":%d,"
            "\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,"
            "\"rope_theta\":1000000.0}\n",
            VOCABULARY, HIDDEN, MLP, layers + 1, HEADS, KV_HEADS, HEAD_DIM);
    fclose(file);
}

static double flops_of_layer(double tokens) {
    double weights = 0;
    for (int t = 0; t < TENSORS; t++) weights += (double)tensors[t].rows * (double)tensors[t].cols;
    return 2 * tokens * weights +
           2.0 * tokens * (tokens + 1) * HEADS * HEAD_DIM; // causal: half of the scores
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double ceiling_of(struct device *device) {
    double best = 0;
    for (int i = 0; i < 3; i++) {
        double rate = probe_products(device, COMPUTE_BF16, 0.2);
        if (rate > best) best = rate;
    }
    return best;
}

static double run_seconds(struct language_model *model, struct device *device, int layers, int tokens) {
    struct error error = {0};
    int32_t *ids = malloc((size_t)tokens * sizeof *ids);
    for (int i = 0; i < tokens; i++) ids[i] = (i * 37) % VOCABULARY;
    struct language_model_input input = {.tokens = ids,
                                         .count = tokens,
                                         .lone_token = -1,
                                         .taps = &layers,
                                         .tap_count = 1,
                                         .compute = COMPUTE_BF16};
    size_t mark = workspace_mark(device);
    struct matrix output = workspace_matrix(device, DTYPE_F32, tokens, HIDDEN);
    double begin = clock_seconds();
    check(language_model_run(model, &input, output, &error), &error);
    double seconds = clock_seconds() - begin;
    workspace_release(device, mark);
    free(ids);
    return seconds;
}

static void measure(struct device *device, const char *folder, int rounds, int layers, int tokens) {
    struct error error = {0};
    struct language_model *model = language_model_open(folder, layers, device, &error);
    check(model != NULL, &error);
    double seconds[32], ceiling = ceiling_of(device);
    run_seconds(model, device, layers, tokens);
    for (int i = 0; i < rounds; i++) seconds[i] = run_seconds(model, device, layers, tokens) / layers;
    double after = ceiling_of(device);
    qsort(seconds, (size_t)rounds, sizeof *seconds, by_value);
    if (after > ceiling) ceiling = after;
    double flops = flops_of_layer(tokens), layer = seconds[rounds / 2], floor = flops / ceiling;
    printf("%s, ceiling %.0f GFLOP/s\n", device_isa(device), ceiling * 1e-9);
    printf("one layer, %d tokens: %.1f ms, %.1f GFLOP/s, %.2f times the floor\n", tokens, layer * 1e3,
           flops / layer * 1e-9, layer / floor);
    printf("%d layers: %.2f s, floor %.2f s; workspace %.1f MB\n", WANTED_LAYERS, layer * WANTED_LAYERS,
           floor * WANTED_LAYERS, (double)device->workspace.peak * 1e-6);
    language_model_close(model);
}

static int argument(int count, char **arguments, int index, int otherwise, int most) {
    int value = count > index ? atoi(arguments[index]) : otherwise;
    return value < 1 ? 1 : value > most ? most : value;
}

int main(int count, char **arguments) {
    int threads = argument(count, arguments, 1, 2, 256), rounds = argument(count, arguments, 2, 5, 32);
    int layers = argument(count, arguments, 3, 4, 36), tokens = argument(count, arguments, 4, 512, 32768);
    const char *parent = count > 5 ? arguments[5] : "/tmp";
    struct error error = {0};
    char folder[256], weights[300], config[300];
    snprintf(folder, sizeof folder, "%s/limn-bench-XXXXXX", parent);
    if (!mkdtemp(folder)) return 1;
    snprintf(weights, sizeof weights, "%s/model.safetensors", folder);
    snprintf(config, sizeof config, "%s/config.json", folder);
    write_weights(weights, layers);
    write_config(config, layers);
    struct pool *pool = pool_open(threads, &error);
    check(pool != NULL, &error);
    struct device *device = device_open_cpu(&(struct device_options){.pool = pool}, &error);
    check(device != NULL, &error);
    measure(device, folder, rounds, layers, tokens);
    device_close(device);
    pool_close(pool);
    remove(weights);
    remove(config);
    remove(folder);
    return 0;
}
