// Conversions of the models of tests/fixtures: every tensor is read back and held against the source's.
#include "fixture.h"

#include "base/file.h"
#include "flux/convert_model.h"
#include "flux/transformer.h"
#include "tensor/encode.h"
#include "tensor/stored.h"
#include "weights/parts.h"

#include <ftw.h>
#include <unistd.h>

static char root[] = "/tmp/limn-convert-XXXXXX";

static const char *in_root(const char *name) {
    static char paths[4][200];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static struct convert_model job(const char *source, const char *target, enum dtype type) {
    return (struct convert_model){.source = source, .target = target, .type = type, .threads = 2};
}

static void convert(const struct convert_model *wanted) {
    struct error error = {0};
    assert_ok(convert_model(wanted, &error), error);
}

static struct checkpoint *open_part(const char *folder, enum model_part part, struct layout *layout) {
    struct error error = {0};
    char *path = part_find(folder, part, &error);
    assert_ok(path, error);
    struct checkpoint *checkpoint = layout_open(path, part, layout, &error);
    assert_ok(checkpoint, error);
    free(path);
    return checkpoint;
}

// Row [row] of a tensor as limn's name means it: halves in their order, heads in halves.
static void meant_row(const struct checkpoint_entry *entry, int64_t row, int64_t pairs, float *to) {
    const int64_t rows = tensor_rows(&entry->tensor);
    if (entry->halves_swapped) row = (row + rows / 2) % rows;
    if (pairs && (strstr(entry->name, "q_proj") || strstr(entry->name, "k_proj"))) {
        const int64_t head = row / pairs * pairs, at = row % pairs;
        row = head + at % (pairs / 2) * 2 + at / (pairs / 2);
    }
    assert_true(tensor_decode_row(&entry->tensor, row, to));
}

// Every tensor of the target is the source's, encoded as its own type. [prefix]: of the source's names, which the target lacks.
// [pairs]: the width of a head where the target has rows of q and k in pairs.
static void same_values(const struct checkpoint *source, const struct checkpoint *target, const char *prefix,
                        int64_t pairs) {
    assert_true(checkpoint_count(target) > 10);
    for (int64_t i = 0; i < checkpoint_count(target); i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(target, i);
        char name[200];
        // The output layer stands beside the decoder, not in it.
        const int length = strncmp(entry->name, "lm_head.", 8) == 0
                               ? (int)strlen(prefix) - (int)strlen("model.")
                               : (int)strlen(prefix);
        snprintf(name, sizeof name, "%.*s%s", length, prefix, entry->name);
        const struct checkpoint_entry *original = checkpoint_find(source, name);
        if (!original) fail_msg("%s is not in the source", name);
        const int64_t rows = tensor_rows(&entry->tensor), cols = tensor_cols(&entry->tensor);
        assert_int_equal(tensor_values(&entry->tensor), tensor_values(&original->tensor));
        if (entry->tensor.type == DTYPE_I64) {
            assert_memory_equal(entry->tensor.data, original->tensor.data, entry->tensor.bytes);
            continue;
        }
        float *a = malloc((size_t)cols * sizeof *a), *b = malloc((size_t)cols * sizeof *b);
        char *code = malloc(dtype_bytes(entry->tensor.type, cols));
        for (int64_t row = 0; row < rows; row++) {
            meant_row(original, row, 0, a);
            assert_true(dtype_encode(entry->tensor.type, a, code, cols));
            assert_true(dtype_decode(entry->tensor.type, code, a, cols));
            meant_row(entry, row, pairs, b);
            if (memcmp(a, b, (size_t)cols * sizeof *a) != 0) fail_msg("%s, row %lld", name, (long long)row);
        }
        free(a);
        free(b);
        free(code);
    }
}

static enum dtype type_in(const struct checkpoint *checkpoint, const char *name) {
    const struct checkpoint_entry *entry = checkpoint_find(checkpoint, name);
    if (!entry) fail_msg("no tensor %s", name);
    return entry->tensor.type;
}

static void every_form_holds_the_same_values(void **state) {
    static const struct {
        const char *name;
        enum dtype type;
    } forms[] = {{"f32", DTYPE_F32}, {"f16", DTYPE_F16}, {"bf16", DTYPE_BF16},
                 {"q8", DTYPE_Q8_0}, {"q4", DTYPE_Q4_0}, {"q4k", DTYPE_Q4_K}};
    static const struct {
        const char *folder, *prefix;
        int64_t head_dim;
    } models[] = {{FIXTURES "model-a", "language_model.model.", 24}, {FIXTURES "model-b", "model.", 8}};
    for (size_t m = 0; m < 2; m++)
        for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
            char name[32];
            snprintf(name, sizeof name, "%s-%zu", forms[f].name, m);
            const char *folder = in_root(name);
            const struct convert_model wanted = job(models[m].folder, folder, forms[f].type);
            convert(&wanted);
            const bool gguf = dtype_info(forms[f].type)->block_values > 1;
            for (int part = 0; part < MODEL_PARTS; part++) {
                struct layout layout;
                struct checkpoint *source = open_part(models[m].folder, (enum model_part)part, NULL);
                struct checkpoint *target = open_part(folder, (enum model_part)part, &layout);
                const bool text = part == PART_TEXT_ENCODER;
                assert_int_equal(layout.rope_interleaved, text && gguf);
                same_values(source, target, text && gguf ? models[m].prefix : "",
                            text && gguf ? models[m].head_dim : 0);
                checkpoint_close(source);
                checkpoint_close(target);
            }
        }
}

// What must stay fine does, and a row that is no whole number of blocks takes a finer type.
static void types_go_where_they_belong(void **state) {
    const struct convert_model wanted = job(FIXTURES "model-b", in_root("types"), DTYPE_Q4_K);
    convert(&wanted);
    struct checkpoint *target = open_part(in_root("types"), PART_TRANSFORMER, NULL);
    assert_int_equal(type_in(target, "transformer_blocks.0.attn.to_k.weight"), DTYPE_Q8_0); // 32 wide
    assert_int_equal(type_in(target, "single_transformer_blocks.2.attn.to_out.weight"), DTYPE_Q8_0);
    assert_int_equal(type_in(target, "x_embedder.weight"), DTYPE_F32);
    assert_int_equal(type_in(target, "norm_out.linear.weight"), DTYPE_F32);
    assert_int_equal(type_in(target, "transformer_blocks.0.attn.norm_q.weight"), DTYPE_F32);
    checkpoint_close(target);
    target = open_part(in_root("types"), PART_TEXT_ENCODER, NULL);
    assert_int_equal(type_in(target, "layers.0.mlp.up_proj.weight"), DTYPE_BF16); // 24 wide
    checkpoint_close(target);
}

// From GGUF back to the diffusers layout: the values that a straight conversion gives.
static void there_and_back(void **state) {
    const char *straight = in_root("straight"), *gguf = in_root("there"), *back = in_root("back");
    const struct convert_model first = job(FIXTURES "model-a", straight, DTYPE_BF16);
    convert(&first);
    // F32 as GGUF: each part by itself, then a folder that names them.
    char target[300];
    struct error error = {0};
    assert_ok(folder_make(gguf, &error), error);
    for (int part = 0; part < 2; part++) {
        snprintf(target, sizeof target, "%s/%s.gguf", gguf, part_key((enum model_part)part));
        struct convert_model one = job(FIXTURES "model-a", target, DTYPE_F32);
        one.part = (enum model_part)part;
        convert(&one);
    }
    snprintf(target, sizeof target, "%s/vae", gguf);
    assert_int_equal(symlink(FIXTURES "model-a/vae", target), 0);
    snprintf(target, sizeof target, "%s/limn.json", gguf);
    static const char json[] =
        "{\"system_message\": \"x\", \"text_taps\": [1], \"text_length\": 64, \"tokenizer\": \"tokenizer\"}";
    assert_ok(file_write(target, json, sizeof json - 1, &error), error);
    snprintf(target, sizeof target, "%s/tokenizer", gguf);
    assert_int_equal(symlink(FIXTURES "model-a/tokenizer", target), 0);
    const struct convert_model second = job(gguf, back, DTYPE_BF16);
    convert(&second);
    for (int part = 0; part < 2; part++) {
        struct checkpoint *a = open_part(straight, (enum model_part)part, NULL);
        struct checkpoint *b = open_part(back, (enum model_part)part, NULL);
        for (int64_t i = 0; i < checkpoint_count(b); i++) {
            const struct checkpoint_entry *entry = checkpoint_entry(b, i);
            char name[200];
            // "model.layers..." is "language_model.model.layers..." in the source.
            snprintf(name, sizeof name, "%s%s", part == PART_TEXT_ENCODER ? "language_model." : "",
                     entry->name);
            const struct checkpoint_entry *original = checkpoint_find(a, name);
            if (!original) fail_msg("%s is not in the source", name);
            const int64_t cols = tensor_cols(&entry->tensor);
            float *x = malloc((size_t)cols * sizeof *x), *y = malloc((size_t)cols * sizeof *y);
            for (int64_t row = 0; row < tensor_rows(&entry->tensor); row++) {
                meant_row(entry, row, 0, x);
                meant_row(original, row, 0, y);
                assert_memory_equal(x, y, (size_t)cols * sizeof *x);
            }
            free(x);
            free(y);
        }
        checkpoint_close(a);
        checkpoint_close(b);
    }
}

// The velocities of the reference pipeline with the LoRA merged, from a transformer that has it baked in.
static void a_baked_lora_draws_as_the_reference(void **state) {
    static const char *const files[] = {FIXTURES "model-a-lora-diffusers.safetensors",
                                        FIXTURES "model-a-lora-kohya.safetensors"};
    static const float scale = 0.75f;
    for (int f = 0; f < 2; f++) {
        char name[32];
        snprintf(name, sizeof name, "baked-%d", f);
        struct convert_model wanted = job(FIXTURES "model-a", in_root(name), DTYPE_F32);
        wanted.loras = &files[f];
        wanted.lora_scales = &scale;
        wanted.lora_count = 1;
        convert(&wanted);
        struct error error = {0};
        struct pool *pool = pool_open(2, &error);
        struct device *device = device_open_cpu(&(struct device_options){.pool = pool}, &error);
        struct transformer *transformer = transformer_open(in_root(name), device, &error);
        assert_ok(transformer, error);
        struct checkpoint *given = fixture_open("model-a-transformer.safetensors");
        struct checkpoint *expected = fixture_open("model-a-lora.safetensors");
        const struct token_grid grids[] = {{5, 1, 0}, {2, 3, 10}};
        float velocity[5 * 16], sigma, guidance;
        float *tokens = fixture_values(fixture_tensor(given, DTYPE_F32, "tokens_1"));
        float *embeds = fixture_values(fixture_tensor(given, DTYPE_F32, "prompt_embeds_1"));
        float *velocities = fixture_values(fixture_tensor(expected, DTYPE_F32, "velocity_1"));
        const int64_t generated = 5 * transformer_shape(transformer)->in_channels;
        assert_true(generated <= 5 * 16);
        memcpy(&sigma, fixture_tensor(given, DTYPE_F32, "sigma_1").data, sizeof sigma);
        memcpy(&guidance, fixture_tensor(given, DTYPE_F32, "guidance_1").data, sizeof guidance);
        struct transformer_run *run =
            transformer_begin(transformer, COMPUTE_F32, 7, embeds, 2, grids, tokens + generated, &error);
        assert_ok(run, error);
        assert_ok(
            transformer_velocity(run, tokens, sigma * 1000, guidance, NULL, NULL, NULL, velocity, &error),
            error);
        // Sums in another order than the reference's, as in test_transformer.c.
        const double off = relative_error(velocity, velocities, generated);
        if (!(off <= 2e-5)) fail_msg("%s: the velocity is off by %.3g", files[f], off);
        transformer_end(run);
        free(tokens);
        free(embeds);
        free(velocities);
        checkpoint_close(given);
        checkpoint_close(expected);
        transformer_close(transformer);
        device_close(device);
        pool_close(pool);
    }
}

static bool stop_at_fifth(void *context, const char *tensor, uint64_t done, uint64_t total) {
    (void)tensor;
    assert_true(done < total);
    return ++*(int *)context < 5;
}

static void a_stopped_run_is_gone_on_with(void **state) {
    struct error error = {0};
    char *whole, *again;
    size_t whole_size, again_size;
    int calls = 0;
    struct convert_model wanted = job(FIXTURES "model-a", in_root("whole.gguf"), DTYPE_Q8_0);
    convert(&wanted);
    wanted.target = in_root("again.gguf");
    wanted.progress = stop_at_fifth;
    wanted.context = &calls;
    assert_false(convert_model(&wanted, &error));
    assert_int_equal(error.kind, ERROR_CANCELLED);
    assert_false(file_exists(in_root("again.gguf")));
    assert_true(file_exists(in_root("again.gguf.part")));
    wanted.progress = NULL;
    convert(&wanted);
    assert_false(file_exists(in_root("again.gguf.part")));
    error = (struct error){0};
    assert_ok(file_read(in_root("whole.gguf"), 1 << 24, &whole, &whole_size, &error), error);
    assert_ok(file_read(in_root("again.gguf"), 1 << 24, &again, &again_size, &error), error);
    assert_int_equal(whole_size, again_size);
    assert_memory_equal(whole, again, whole_size);
    free(whole);
    free(again);
}

static void wrong_wishes_are_refused(void **state) {
    static const char *const lora[] = {FIXTURES "model-a-lora-kohya.safetensors"};
    static const float scale = 1;
    const struct {
        struct convert_model wanted;
        const char *message;
    } cases[] = {
        {{.target = "/tmp/x.safetensors", .type = DTYPE_Q8_0}, "have no type Q8_0"},
        {{.target = "/tmp/x.gguf", .type = DTYPE_Q2_K}, "Q2_K cannot be written"},
        {{.target = "/tmp/x.gguf", .type = DTYPE_BF16, .part = PART_AUTOENCODER}, "no GGUF form"},
        {{.target = "/tmp/x.gguf",
          .type = DTYPE_BF16,
          .part = PART_TEXT_ENCODER,
          .loras = lora,
          .lora_scales = &scale,
          .lora_count = 1},
         "a LoRA changes the transformer"},
        {{.target = "/no/such/folder/x.gguf", .type = DTYPE_BF16}, "/no/such/folder/x.gguf.part"},
        {{.source = "/no/such/model", .target = "/tmp/x.gguf", .type = DTYPE_BF16}, "/no/such/model"},
        {{.source = FIXTURES "model-b",
          .target = "/tmp/x.gguf",
          .type = DTYPE_BF16,
          .loras = lora,
          .lora_scales = &scale,
          .lora_count = 1},
         "model-a-lora-kohya.safetensors"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct convert_model wanted = cases[i].wanted;
        struct error error = {0};
        if (!wanted.source) wanted.source = FIXTURES "model-a";
        assert_false(convert_model(&wanted, &error));
        assert_contains(error.message, cases[i].message);
        assert_false(file_exists("/tmp/x.gguf") || file_exists("/tmp/x.gguf.part") ||
                     file_exists("/tmp/x.safetensors"));
    }
    struct error error = {0};
    const struct convert_model first = job(FIXTURES "model-b", in_root("taken"), DTYPE_BF16),
                               second = job(FIXTURES "model-b", in_root("taken"), DTYPE_Q8_0);
    convert(&first);
    assert_false(convert_model(&second, &error));
    assert_contains(error.message, "is there already, of another type");
    const struct convert_model third = job(FIXTURES "model-b", in_root("taken"), DTYPE_F16);
    error = (struct error){0};
    assert_false(convert_model(&third, &error)); // what is there stays
    assert_contains(error.message, "is there already and is not what this conversion writes");
    convert(&first); // finished parts are not made again, and nothing is wrong with that
}

static int unlink_one(const char *path, const struct stat *status, int type, struct FTW *walk) {
    (void)status, (void)type, (void)walk;
    return remove(path);
}

static int set_up(void **state) {
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state) {
    return nftw(root, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_holds_the_same_values),
        cmocka_unit_test(types_go_where_they_belong),
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(a_baked_lora_draws_as_the_reference),
        cmocka_unit_test(a_stopped_run_is_gone_on_with),
        cmocka_unit_test(wrong_wishes_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
