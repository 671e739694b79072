// The autoencoder against the reference's fixtures (every stage, both ways, on every instruction set that this processor
// has), its config parser, its memory, tiles, cancelling, and bad input.
#include "base/pool.h"
#include "flux/autoencoder.h"
#include "flux/autoencoder_config.h"
#include "flux/autoencoder_inside.h"
#include "weights/checkpoint.h"
#include "weights/safetensors_write.h"

#include "unit.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIXTURES LIMN_SOURCE_DIR "/tests/fixtures/"

// The bounds that limn promises: relative error, the root of the ratio of squared sums. bf16 is measured on a model
// whose weights are bf16 (model-a); that of f32 weights holds their rounding as well (model-b).
static const double F32_BOUND = 2e-5, BF16_BOUND = 1e-2, ROUNDED_BOUND = 2e-2;

struct machine {
    struct pool *pool;
    struct device *device;
    struct autoencoder *autoencoder;
};

static struct machine start(const char *folder, const char *isa, int threads, enum compute compute) {
    struct machine m = {0};
    struct error error = {0};
    m.pool = pool_open(threads, &error);
    assert_ok(m.pool, error);
    m.device = device_open_cpu(&(struct device_options){m.pool, isa, (size_t)1 << 32}, &error);
    assert_ok(m.device, error);
    m.autoencoder = autoencoder_open(folder, m.device, compute, &error);
    assert_ok(m.autoencoder, error);
    return m;
}

static void stop(struct machine *m) {
    autoencoder_close(m->autoencoder);
    device_close(m->device);
    pool_close(m->pool);
}

static double relative_error(const float *values, const float *expected, int64_t count) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        const double d = (double)values[i] - (double)expected[i];
        difference += d * d;
        size += (double)expected[i] * (double)expected[i];
    }
    return sqrt(difference / size);
}

static struct tensor fixture(const struct checkpoint *checkpoint, const char *name) {
    const struct checkpoint_entry *entry = checkpoint_find(checkpoint, name);
    if (!entry) fail_msg("no fixture %s", name);
    return entry->tensor;
}

struct watch {
    const struct checkpoint *expected;
    const char *prefix; // "decode_" or "encode_"
    double bound;
    int seen;
};

// "decoder.up.2" is held against "decode_up_2".
static void watch_stage(void *context, const char *name, enum dtype type, int rank, const int64_t *shape,
                        const void *data) {
    struct watch *watch = context;
    char key[64];
    snprintf(key, sizeof key, "%s%s", watch->prefix, strchr(name, '.') + 1);
    for (char *c = key; *c; c++)
        if (*c == '.') *c = '_';
    const struct checkpoint_entry *entry = checkpoint_find(watch->expected, key);
    if (!entry) {
        assert_string_equal(name, "decoder.conv_out"); // the picture itself
        return;
    }
    assert_int_equal(type, DTYPE_F32);
    assert_int_equal(rank, 3);
    for (int i = 0; i < 3; i++) assert_int_equal(shape[i], entry->tensor.shape[i]);
    const double error = relative_error(data, entry->tensor.data, shape[0] * shape[1] * shape[2]);
    if (!(error < watch->bound)) fail_msg("%s: relative error %g", name, error);
    watch->seen++;
}

static void check_decode(struct machine *m, const struct checkpoint *expected, double bound) {
    struct error error = {0};
    struct watch watch = {expected, "decode_", bound, 0};
    const struct observer observer = {watch_stage, &watch};
    const struct tensor tokens = fixture(expected, "decode_tokens"),
                        image = fixture(expected, "decode_image");
    const struct tensor picture = fixture(expected, "decode_picture");
    float *pixels = malloc(image.bytes);
    assert_ok(
        autoencoder_decode(m->autoencoder, tokens.data, 80, 32, 0, NULL, NULL, &observer, pixels, &error),
        error);
    const double relative = relative_error(pixels, image.data, 3 * 80 * 32);
    if (!(relative < bound)) fail_msg("decode: relative error %g", relative);
    assert_int_equal(watch.seen, 7); // post_quant, conv_in, mid, four levels
    struct image eight = {80, 32, malloc(3 * 80 * 32)};
    autoencoder_to_image(bound < 1e-4 ? pixels : image.data, &eight);
    int different = 0;
    for (int i = 0; i < 3 * 80 * 32; i++) {
        const int step = abs((int)eight.pixels[i] - (int)((const uint8_t *)picture.data)[i]);
        assert_true(step <= 1);
        different += step;
    }
    assert_true(different <= (bound < 1e-4 ? 76 : 0)); // 1 %
    free(eight.pixels);
    free(pixels);
}

static void check_encode(struct machine *m, const struct checkpoint *expected, double bound) {
    struct error error = {0};
    struct watch watch = {expected, "encode_", bound, 0};
    const struct observer observer = {watch_stage, &watch};
    const struct tensor planes = fixture(expected, "encode_image"),
                        wanted = fixture(expected, "encode_tokens");
    struct image image = {48, 32, malloc(3 * 48 * 32)};
    for (int i = 0; i < 3 * 48 * 32; i++)
        image.pixels[i % (48 * 32) * 3 + i / (48 * 32)] =
            (uint8_t)lrintf((((const float *)planes.data)[i] + 1) / 2 * 255);
    float *tokens = malloc(wanted.bytes);
    assert_ok(autoencoder_encode_observed(m->autoencoder, &image, NULL, NULL, &observer, tokens, &error),
              error);
    const double relative = relative_error(tokens, wanted.data, (int64_t)wanted.bytes / 4);
    if (!(relative < bound)) fail_msg("encode: relative error %g", relative);
    assert_int_equal(watch.seen, 7); // conv_in, four levels, mid, conv_out
    free(tokens);
    free(image.pixels);
}

static void test_parity(void **state) {
    const char *names[8];
    const int count = device_isa_list(names, 8);
    for (int model = 0; model < 2; model++) {
        struct error error = {0};
        struct checkpoint *expected = checkpoint_open(
            model ? FIXTURES "model-b-vae.safetensors" : FIXTURES "model-a-vae.safetensors", &error);
        assert_ok(expected, error);
        for (int i = 0; i < 2 * count; i++) {
            const enum compute compute = i % 2 ? COMPUTE_BF16 : COMPUTE_F32;
            const double bound = compute == COMPUTE_F32 ? F32_BOUND : model ? ROUNDED_BOUND : BF16_BOUND;
            struct machine m =
                start(model ? FIXTURES "model-b" : FIXTURES "model-a", names[i / 2], 1 + i % 3, compute);
            check_decode(&m, expected, bound);
            check_encode(&m, expected, bound);
            stop(&m);
        }
        checkpoint_close(expected);
    }
}

// Tokens of a picture, the same for the same seed.
static float *random_tokens(int64_t count, uint64_t seed) {
    float *tokens = malloc((size_t)count * sizeof *tokens);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        tokens[i] = (float)((double)(seed >> 40) / (1 << 22) - 2);
    }
    return tokens;
}

// The same bytes for 1, 2 and 3 threads, with and without tiles.
static void test_threads(void **state) {
    const char *names[8];
    const int count = device_isa_list(names, 8);
    float *tokens = random_tokens(9 * 7 * 16, 3);
    for (int i = 0; i < 2 * count; i++) {
        float *first = NULL;
        for (int threads = 1; threads <= 3; threads++) {
            struct error error = {0};
            struct machine m =
                start(FIXTURES "model-a", names[i / 2], threads, i % 2 ? COMPUTE_BF16 : COMPUTE_F32);
            float *pixels = malloc(2 * 3 * 144 * 112 * sizeof *pixels);
            assert_ok(
                autoencoder_decode(m.autoencoder, tokens, 144, 112, 0, NULL, NULL, NULL, pixels, &error),
                error);
            assert_ok(autoencoder_decode(m.autoencoder, tokens, 144, 112, 64, NULL, NULL, NULL,
                                         pixels + 3 * 144 * 112, &error),
                      error);
            if (!first)
                first = pixels;
            else
                assert_memory_equal(first, pixels, 2 * 3 * 144 * 112 * sizeof *pixels);
            if (first != pixels) free(pixels);
            stop(&m);
        }
        free(first);
    }
    free(tokens);
}

// The largest use of the workspace is what autoencoder_decode_bytes says, but for what single ops take for themselves.
static void test_memory(void **state) {
    struct error error = {0};
    for (int i = 0; i < 2; i++) {
        struct machine m = start(FIXTURES "model-b", NULL, 2, i ? COMPUTE_BF16 : COMPUTE_F32);
        float *tokens = random_tokens(20 * 16 * 12, 4), *pixels = malloc(3 * 320 * 256 * sizeof *pixels);
        const size_t promised = autoencoder_decode_bytes(m.autoencoder, 320, 256);
        assert_ok(autoencoder_decode(m.autoencoder, tokens, 320, 256, 0, NULL, NULL, NULL, pixels, &error),
                  error);
        const size_t used = m.device->workspace.peak;
        assert_true(promised <= used && used <= promised + promised / 8);
        assert_int_equal(workspace_mark(m.device), 0);
        free(tokens);
        free(pixels);
        stop(&m);
    }
}

static void decode_part(struct machine *m, const float *tokens, int columns, int first_column, int first_row,
                        int part_columns, int part_rows, float *pixels) {
    struct error error = {0};
    float *part = malloc((size_t)(part_columns * part_rows * 16) * sizeof *part);
    for (int y = 0; y < part_rows; y++)
        memcpy(part + y * part_columns * 16, tokens + ((first_row + y) * columns + first_column) * 16,
               (size_t)part_columns * 16 * sizeof *part);
    assert_ok(autoencoder_decode(m->autoencoder, part, part_columns * 16, part_rows * 16, 0, NULL, NULL, NULL,
                                 pixels, &error),
              error);
    free(part);
}

// Two tiles of 128 pixels, the second from pixel 96 on: before it the first one, in the quarter that both cover a linear
// mix, behind it the second one. The picture is one tile high.
static void test_tiles(void **state) {
    struct error error = {0};
    struct machine m = start(FIXTURES "model-a", NULL, 2, COMPUTE_F32);
    float *tokens = random_tokens(12 * 4 * 16, 5);
    float *tiled = malloc(3 * 192 * 64 * sizeof *tiled), *left = malloc(3 * 128 * 64 * sizeof *left);
    float *right = malloc(3 * 96 * 64 * sizeof *right);
    assert_ok(autoencoder_decode(m.autoencoder, tokens, 192, 64, 128, NULL, NULL, NULL, tiled, &error),
              error);
    decode_part(&m, tokens, 12, 0, 0, 8, 4, left);
    decode_part(&m, tokens, 12, 6, 0, 6, 4, right);
    for (int i = 0; i < 3 * 64 * 192; i++) {
        const int row = i / 192, x = i % 192;
        const double share = x < 96 ? 0 : x < 128 ? (x - 96) / 32.0 : 1;
        const double a = x < 128 ? (double)left[row * 128 + x] : 0,
                     b = x < 96 ? 0 : (double)right[row * 96 + x - 96];
        const double wanted = a * (1 - share) + b * share;
        if (!(fabs((double)tiled[i] - wanted) < 1e-6 * (1 + fabs(wanted))))
            fail_msg("row %d, column %d: %g, expected %g", row, x, (double)tiled[i], wanted);
    }
    // A picture that fits into one tile is decoded as without tiles.
    decode_part(&m, tokens, 12, 0, 0, 8, 4, left);
    float *one = malloc(3 * 128 * 64 * sizeof *one), *part = malloc(8 * 4 * 16 * sizeof *part);
    for (int y = 0; y < 4; y++) memcpy(part + y * 8 * 16, tokens + y * 12 * 16, 8 * 16 * sizeof *part);
    assert_ok(autoencoder_decode(m.autoencoder, part, 128, 64, 128, NULL, NULL, NULL, one, &error), error);
    assert_memory_equal(one, left, 3 * 128 * 64 * sizeof *one);
    free(tokens), free(tiled), free(left), free(right), free(one), free(part);
    stop(&m);
}

struct counter {
    int calls, parts, stop_at;
};

static bool count_parts(void *context, int part, int parts) {
    struct counter *counter = context;
    counter->calls++;
    assert_int_equal(part, counter->calls);
    counter->parts = parts;
    return counter->calls != counter->stop_at;
}

static void test_progress(void **state) {
    struct machine m = start(FIXTURES "model-a", NULL, 2, COMPUTE_BF16);
    float *tokens = random_tokens(16 * 16, 6), *pixels = malloc(3 * 64 * 64 * sizeof *pixels);
    struct counter counter = {0};
    struct error error = {0};
    assert_ok(
        autoencoder_decode(m.autoencoder, tokens, 64, 64, 0, count_parts, &counter, NULL, pixels, &error),
        error);
    assert_int_equal(counter.calls, counter.parts);
    assert_true(counter.parts >= 12);
    struct image image = {64, 64, calloc(64 * 64, 3)};
    struct counter encoding = {0};
    assert_ok(autoencoder_encode(m.autoencoder, &image, count_parts, &encoding, tokens, &error), error);
    assert_int_equal(encoding.calls, encoding.parts);
    struct counter tiled = {0};
    float *wide = random_tokens(8 * 4 * 16, 7), *wide_pixels = malloc(3 * 128 * 64 * sizeof *wide_pixels);
    assert_ok(
        autoencoder_decode(m.autoencoder, wide, 128, 64, 64, count_parts, &tiled, NULL, wide_pixels, &error),
        error);
    assert_int_equal(tiled.calls, tiled.parts);
    struct counter stopping = {.stop_at = 5};
    assert_false(
        autoencoder_decode(m.autoencoder, tokens, 64, 64, 0, count_parts, &stopping, NULL, pixels, &error));
    assert_int_equal(error.kind, ERROR_CANCELLED);
    assert_int_equal(stopping.calls, 5);
    assert_int_equal(workspace_mark(m.device), 0);
    struct error later = {0}; // and the next request runs
    assert_ok(autoencoder_decode(m.autoencoder, tokens, 64, 64, 0, NULL, NULL, NULL, pixels, &later), later);
    free(tokens), free(pixels), free(image.pixels), free(wide), free(wide_pixels);
    stop(&m);
}

static void test_sizes(void **state) {
    struct machine m = start(FIXTURES "model-b", NULL, 1, COMPUTE_F32);
    const int bad[][3] = {{0, 16, 0},       {16, -16, 0}, {40, 16, 0},  {16, 24, 0},
                          {1 << 20, 16, 0}, {64, 64, 20}, {64, 64, -32}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error error = {0};
        assert_false(autoencoder_decode(m.autoencoder, NULL, bad[i][0], bad[i][1], bad[i][2], NULL, NULL,
                                        NULL, NULL, &error));
        assert_int_equal(error.kind, ERROR_INPUT);
        assert_string_equal(error.field, i < 5 ? "size" : "tile");
    }
    const struct autoencoder_shape *shape = autoencoder_shape(m.autoencoder);
    assert_int_equal(shape->levels, 4);
    assert_int_equal(shape->latent_channels, 3);
    assert_int_equal(shape->token_channels, 12);
    assert_int_equal(shape->pixels_per_token, 16);
    assert_int_equal(shape->decoder_channels[2], 8);
    assert_int_equal(shape->encoder_channels[2], 16);
    assert_false(shape->sixteen_bit);
    stop(&m);
}

static void test_to_image(void **state) {
    const float pixels[9] = {-1, 1, 0, -3, 5, NAN, 0.0039216f, -0.99609375f, 0.25f}; // three planes of three
    struct image image = {3, 1, (uint8_t[9]){0}};
    autoencoder_to_image(pixels, &image);
    const uint8_t wanted[9] = {0, 0, 128, 255, 255, 0, 128, 0, 159};
    assert_memory_equal(image.pixels, wanted, 9);
}

static const struct {
    const char *text, *message; // NULL: fine
} configs[] = {
    {"{\"block_out_channels\": [32, 64]}", NULL},
    {"{\"block_out_channels\": [32, 64], \"decoder_block_out_channels\": [64, 96], \"norm_num_groups\": 16}",
     NULL},
    {"{\"block_out_channels\": [32, 64], \"act_fn\": \"gelu\"}", "act_fn is \"gelu\", expected \"silu\""},
    {"{\"block_out_channels\": [32, 64], \"_class_name\": \"AutoencoderKL\"}", "_class_name"},
    {"{\"block_out_channels\": []}", "block_out_channels"},
    {"{}", "block_out_channels"},
    {"[]", "not a JSON object"},
    {"{\"block_out_channels\": [32, 64", "not valid JSON"},
    {"{\"block_out_channels\": [32, 40]}", "expected multiples of norm_num_groups (32)"},
    {"{\"block_out_channels\": [32, \"64\"]}", "block_out_channels"},
    {"{\"block_out_channels\": [32, 64], \"decoder_block_out_channels\": [32]}",
     "decoder_block_out_channels has 1 entries"},
    {"{\"block_out_channels\": [32, 64], \"down_block_types\": [\"DownEncoderBlock2D\"]}",
     "down_block_types has 1 entries"},
    {"{\"block_out_channels\": [32], \"up_block_types\": [\"AttnUpDecoderBlock2D\"]}", "up_block_types[0]"},
    {"{\"block_out_channels\": [32], \"up_block_types\": [7]}", "up_block_types[0]"},
    {"{\"block_out_channels\": [32], \"patch_size\": [1, 1]}", "patch_size"},
    {"{\"block_out_channels\": [32], \"patch_size\": [2]}", "patch_size"},
    {"{\"block_out_channels\": [32], \"in_channels\": 4}", "in_channels"},
    {"{\"block_out_channels\": [32], \"layers_per_block\": 0}", "layers_per_block"},
    {"{\"block_out_channels\": [32], \"batch_norm_eps\": -1}", "batch_norm_eps"},
    {"{\"block_out_channels\": [32, 1024]}", "attention over 1024"},
};

static void test_config(void **state) {
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct autoencoder_config config;
        struct error error = {0};
        const bool ok = autoencoder_config_parse("vae/config.json", configs[i].text, strlen(configs[i].text),
                                                 &config, &error);
        if (!configs[i].message) {
            assert_ok(ok, error);
            assert_int_equal(config.levels, 2);
            assert_int_equal(config.latent_channels, 32);
            continue;
        }
        assert_false(ok);
        assert_contains(error.message, configs[i].message);
        assert_contains(error.message, "vae/config.json");
    }
}

// A copy of model-b's autoencoder with one tensor left out, reshaped or spoiled.
static void write_spoiled(const char *folder, const char *name, int how) {
    struct error error = {0};
    char path[512];
    struct checkpoint *from = checkpoint_open(FIXTURES "model-b/vae", &error);
    struct safetensors_writer *to = safetensors_writer_new();
    for (int64_t i = 0; i < checkpoint_count(from); i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(from, i);
        struct tensor tensor = entry->tensor;
        void *data = malloc(tensor.bytes + 1);
        memcpy(data, tensor.data, tensor.bytes);
        if (strcmp(entry->name, name) == 0) {
            if (how == 0) {
                free(data);
                continue;
            }
            if (how == 1) ((float *)data)[tensor.bytes / 8] = NAN;
            if (how == 2) tensor.shape[0] /= 2;
            if (how == 3) ((float *)data)[0] = -5;
        }
        assert_ok(
            safetensors_writer_add(to, entry->name, tensor.type, tensor.rank, tensor.shape, data, &error),
            error);
        free(data);
    }
    snprintf(path, sizeof path, "%s/vae/diffusion_pytorch_model.safetensors", folder);
    assert_ok(safetensors_writer_save(to, path, &error), error);
    safetensors_writer_free(to);
    checkpoint_close(from);
}

static void test_bad_weights(void **state) {
    static const struct {
        const char *name;
        int how;
        const char *message;
    } cases[] = {
        {"decoder.up_blocks.1.resnets.1.conv2.weight", 0, "decoder.up_blocks.1.resnets.1.conv2.weight"},
        {"encoder.mid_block.attentions.0.to_q.weight", 2, "encoder.mid_block.attentions.0.to_q.weight"},
        {"encoder.conv_in.weight", 1, "encoder.conv_in.weight"},
        {"decoder.conv_norm_out.bias", 1, "decoder.conv_norm_out.bias"},
        {"quant_conv.bias", 0, "quant_conv.bias"},
        {"bn.running_var", 3, "bn.running_var[0]"},
        {"bn.running_mean", 2, "bn.running_mean"},
    };
    char folder[] = "/tmp/limn-autoencoder-XXXXXX", path[512];
    assert_non_null(mkdtemp(folder));
    struct error error = {0};
    snprintf(path, sizeof path, "%s/vae", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    struct pool *pool = pool_open(1, &error);
    struct device *device = device_open_cpu(&(struct device_options){pool, NULL, (size_t)1 << 30}, &error);
    assert_ok(device, error);
    struct error missing = {0};
    assert_null(autoencoder_open(folder, device, COMPUTE_F32, &missing));
    assert_contains(missing.message, "there is no autoencoder, expected vae/");
    snprintf(path, sizeof path, "cp %s %s/vae/config.json", FIXTURES "model-b/vae/config.json", folder);
    assert_int_equal(system(path), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error failure = {0};
        write_spoiled(folder, cases[i].name, cases[i].how);
        assert_null(autoencoder_open(folder, device, COMPUTE_F32, &failure));
        assert_contains(failure.message, cases[i].message);
        assert_contains(failure.message, "vae");
    }
    device_close(device);
    pool_close(pool);
    snprintf(path, sizeof path, "rm -r %s", folder);
    assert_int_equal(system(path), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parity),   cmocka_unit_test(test_threads),  cmocka_unit_test(test_memory),
        cmocka_unit_test(test_tiles),    cmocka_unit_test(test_progress), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_to_image), cmocka_unit_test(test_config),   cmocka_unit_test(test_bad_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
