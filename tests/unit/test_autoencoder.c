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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
