// Conversions of the models of tests/fixtures: every tensor is read back and held against the source's.
#include "fixture.h"

#include "base/file.h"
#include "flux/convert_model.h"
#include "flux/transformer.h"
#include "tensor/encode.h"
#include "tensor/stored.h"
#include "weights/companions.h"
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
    } forms[] = {{"f32", DTYPE_F32},   {"f16", DTYPE_F16},  {"bf16", DTYPE_BF16}, {"q8", DTYPE_Q8_0},
                 {"q4", DTYPE_Q4_0},   {"q4k", DTYPE_Q4_K}, {"q2k", DTYPE_Q2_K},  {"q3k", DTYPE_Q3_K},
                 {"nl", DTYPE_IQ4_NL}, {"xs", DTYPE_IQ4_XS}};
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

// ------------------------------------------------------------------------------------------ scales beside the codes

static const struct scaled_form {
    const char *name;
    enum dtype type;
    bool row_scales;
    const char *scales; // as companions_text() has them
    double off;         // of a matrix, at most; measured: 0.0289, 0.0265, 0.0562, 0.0865, 0.0926
} scaled_forms[] = {{"f8", DTYPE_F8_E4M3, false, "one scale", 0.03},
                    {"f8-rows", DTYPE_F8_E4M3, true, "a scale a row", 0.028},
                    {"f8-e5m2", DTYPE_F8_E5M2, false, "one scale", 0.058},
                    {"nvfp4", DTYPE_NVFP4, false, "NVFP4 blocks", 0.09},
                    {"nf4", DTYPE_NF4, false, "nf4 blocks", 0.096}};
enum { SCALED_FORMS = sizeof scaled_forms / sizeof *scaled_forms };

static float *decoded(const struct tensor *tensor) {
    const int64_t rows = tensor_rows(tensor), cols = tensor_cols(tensor);
    float *values = malloc((size_t)(rows * cols) * sizeof *values);
    assert_non_null(values);
    for (int64_t row = 0; row < rows; row++) assert_true(tensor_decode_row(tensor, row, values + row * cols));
    return values;
}

// How many tensors have scales. off: how far they may lie from the source's, a share of all of a matrix's values; 0: they are the
// same.
static int compare_scaled(const struct checkpoint *source, const struct checkpoint *target,
                          const struct scaled_form *form, double off) {
    int scaled = 0;
    assert_int_equal(checkpoint_count(source), checkpoint_count(target));
    for (int64_t i = 0; i < checkpoint_count(target); i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(target, i);
        const struct checkpoint_entry *original = checkpoint_find(source, entry->name);
        if (!original) fail_msg("%s is not in the source", entry->name);
        const int64_t count = tensor_values(&entry->tensor);
        assert_int_equal(count, tensor_values(&original->tensor));
        if (entry->tensor.type == DTYPE_I64) continue;
        float *a = decoded(&original->tensor), *b = decoded(&entry->tensor);
        const char *text = companions_text(&entry->tensor);
        const double error = relative_error(b, a, count);
        if (text) {
            assert_string_equal(text, form->scales);
            assert_int_equal(entry->tensor.type, form->type);
        }
        if (text ? error > off : error != 0) fail_msg("%s, %s: off by %g", form->name, entry->name, error);
        scaled += text != NULL;
        free(a);
        free(b);
    }
    return scaled;
}

static struct convert_model scaled_job(const char *source, const char *target,
                                       const struct scaled_form *form) {
    struct convert_model wanted = job(source, target, form->type);
    wanted.row_scales = form->row_scales;
    return wanted;
}

// What is written opens again, close to the source; and converted once more it has the same values.
static void scaled_forms_open_again(void **state) {
    for (int f = 0; f < SCALED_FORMS; f++) {
        char first[200], second[200];
        snprintf(first, sizeof first, "%s/%s", root, scaled_forms[f].name);
        snprintf(second, sizeof second, "%s/%s-again", root, scaled_forms[f].name);
        struct convert_model wanted = scaled_job(FIXTURES "model-a", first, &scaled_forms[f]);
        convert(&wanted);
        wanted = scaled_job(first, second, &scaled_forms[f]);
        convert(&wanted);
        for (int part = 0; part < MODEL_PARTS; part++) {
            struct checkpoint *source = open_part(FIXTURES "model-a", (enum model_part)part, NULL);
            struct checkpoint *a = open_part(first, (enum model_part)part, NULL);
            struct checkpoint *b = open_part(second, (enum model_part)part, NULL);
            const int scaled = compare_scaled(source, a, &scaled_forms[f], scaled_forms[f].off);
            assert_int_equal(compare_scaled(a, b, &scaled_forms[f], 0), scaled);
            // Most of the text encoder's rows, 16, 32 and 48 values, are no whole blocks of NF4.
            const int text = scaled_forms[f].type == DTYPE_NF4 ? 1 : 38;
            assert_int_equal(scaled, part == PART_TRANSFORMER ? 16 : part == PART_TEXT_ENCODER ? text : 0);
            if (part == PART_TEXT_ENCODER)
                assert_int_equal(type_in(a, "language_model.lm_head.weight"), DTYPE_BF16);
            checkpoint_close(source);
            checkpoint_close(a);
            checkpoint_close(b);
        }
    }
}

static json_t *config_in(const char *folder, const char *part) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s/config.json", folder, part);
    json_t *json = json_load_file(path, 0, NULL);
    if (!json) fail_msg("%s cannot be read", path);
    return json;
}

// diffusers and transformers find nf4 by its configuration; it goes when the weights have another type again.
static void nf4_is_described(void **state) {
    static const char *const parts[] = {"transformer", "text_encoder", "vae"};
    char first[200], second[200];
    snprintf(first, sizeof first, "%s/described", root);
    snprintf(second, sizeof second, "%s/plain-again", root);
    struct convert_model wanted = job(FIXTURES "model-a", first, DTYPE_NF4);
    convert(&wanted);
    wanted = job(first, second, DTYPE_BF16);
    convert(&wanted);
    for (int part = 0; part < 3; part++) {
        json_t *json = config_in(first, parts[part]), *plain = config_in(second, parts[part]);
        const json_t *config = json_object_get(json, "quantization_config");
        assert_null(json_object_get(plain, "quantization_config"));
        if (part == 2) {
            assert_null(config);
        } else {
            const json_t *left = json_object_get(config, "llm_int8_skip_modules");
            bool has = false;
            assert_string_equal(json_string_value(json_object_get(config, "quant_method")), "bitsandbytes");
            assert_string_equal(json_string_value(json_object_get(config, "bnb_4bit_quant_type")), "nf4");
            assert_true(json_is_true(json_object_get(config, "load_in_4bit")));
            for (size_t i = 0; i < json_array_size(left); i++) {
                const char *name = json_string_value(json_array_get(left, i));
                has |= strcmp(name, part == 0 ? "x_embedder" : "lm_head") == 0;
                if (part == 0 && strstr(name, "_blocks.")) fail_msg("%s is quantised", name);
            }
            assert_true(has);
        }
        json_decref(json);
        json_decref(plain);
    }
}

// A source that has the very type keeps its codes, whatever its scales are: files of other programs to a folder and back.
static void codes_of_others_stay(void **state) {
    static const struct {
        const char *file;
        int form;
    } cases[] = {{"fp8", 0}, {"fp8-old", 0}, {"nvfp4", 3}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        char folder[200], link[300], target[200];
        struct error error = {0};
        snprintf(folder, sizeof folder, "%s/others-%s", root, cases[c].file);
        assert_ok(folder_make(folder, &error), error);
        snprintf(link, sizeof link, "%s/t.safetensors", folder);
        snprintf(target, sizeof target, "%s/kept-%s.safetensors", root, cases[c].file);
        char file[300];
        snprintf(file, sizeof file, FIXTURES "layouts/%s.safetensors", cases[c].file);
        assert_int_equal(symlink(file, link), 0);
        const struct scaled_form *form = &scaled_forms[cases[c].form];
        const struct convert_model wanted = scaled_job(folder, target, form);
        convert(&wanted);
        struct checkpoint *source = layout_open(link, PART_TRANSFORMER, NULL, &error);
        assert_ok(source, error);
        struct layout layout;
        struct checkpoint *kept = layout_open(target, PART_TRANSFORMER, &layout, &error);
        assert_ok(kept, error);
        assert_string_equal(layout.name, "BFL"); // a file by itself is for ComfyUI
        for (int64_t i = 0; i < checkpoint_count(kept); i++) {
            const struct checkpoint_entry *entry = checkpoint_entry(kept, i);
            const struct tensor *original = &checkpoint_find(source, entry->name)->tensor;
            // fp8 of single blocks has a scale a row in the source, and one for all in the target.
            const bool merged = original->scales && original->scales->row_stride;
            float *a = decoded(original), *b = decoded(&entry->tensor);
            const double off = relative_error(b, a, tensor_values(original));
            if (merged ? off == 0 || off > form->off : off != 0) fail_msg("%s: off by %g", entry->name, off);
            free(a);
            free(b);
        }
        checkpoint_close(source);
        checkpoint_close(kept);
    }
}

// A LoRA goes into the values before scales are measured: the same as by way of F32.
static void loras_go_in_before_scales(void **state) {
    static const char *const file = FIXTURES "model-a-lora-kohya.safetensors";
    static const float scale = 0.75f;
    const char *baked = in_root("baked-f32");
    struct convert_model wanted = job(FIXTURES "model-a", baked, DTYPE_F32);
    wanted.loras = &file;
    wanted.lora_scales = &scale;
    wanted.lora_count = 1;
    convert(&wanted);
    for (int f = 0; f < SCALED_FORMS; f++) {
        char straight[200], by_way[200];
        snprintf(straight, sizeof straight, "%s/straight-%s", root, scaled_forms[f].name);
        snprintf(by_way, sizeof by_way, "%s/by-way-%s", root, scaled_forms[f].name);
        wanted.target = straight;
        wanted.type = scaled_forms[f].type;
        wanted.row_scales = scaled_forms[f].row_scales;
        convert(&wanted);
        const struct convert_model second = scaled_job(baked, by_way, &scaled_forms[f]);
        convert(&second);
        struct checkpoint *a = open_part(straight, PART_TRANSFORMER, NULL);
        struct checkpoint *b = open_part(by_way, PART_TRANSFORMER, NULL);
        int scaled = 0;
        for (int64_t i = 0; i < checkpoint_count(a); i++) {
            const struct checkpoint_entry *entry = checkpoint_entry(a, i);
            const struct tensor *other = &checkpoint_find(b, entry->name)->tensor;
            if (!companions_text(&entry->tensor)) continue; // BF16 here, F32 there
            float *x = decoded(&entry->tensor), *y = decoded(other);
            assert_memory_equal(x, y, (size_t)tensor_values(other) * sizeof *x);
            free(x);
            free(y);
            scaled++;
        }
        assert_int_equal(scaled, 16);
        checkpoint_close(a);
        checkpoint_close(b);
    }
}

// A value that nothing can stand for, in a matrix far from the first rows: file, tensor and row are named, and no file appears.
static void bad_values_are_named(void **state) {
    static const uint16_t bad[] = {0x7fc0, 0x7f80, 0xff80}; // of BF16: NaN, infinities
    struct error error = {0};
    char *data, source[200], path[300], target[200];
    size_t size;
    snprintf(source, sizeof source, "%s/bad", root);
    snprintf(path, sizeof path, "%s/transformer", source);
    snprintf(target, sizeof target, "%s/bad.safetensors", root);
    assert_ok(folder_make(source, &error) && folder_make(path, &error), error);
    const struct convert_model plain = job(FIXTURES "model-a", in_root("plain.safetensors"), DTYPE_BF16);
    convert(&plain);
    assert_ok(file_read(in_root("plain.safetensors"), 1 << 24, &data, &size, &error), error);
    struct checkpoint *parsed = checkpoint_parse("plain", data, size, &error);
    assert_ok(parsed, error);
    const struct tensor matrix =
        checkpoint_find(parsed, "single_transformer_blocks.1.attn.to_out.weight")->tensor;
    snprintf(path, sizeof path, "%s/transformer/model.safetensors", source);
    for (int f = 0; f < SCALED_FORMS; f++) {
        memcpy((char *)(uintptr_t)matrix.data + 2 * (77 * 256 + 200), &bad[f % 3], 2);
        assert_ok(file_write(path, data, size, &error), error);
        const struct convert_model wanted = scaled_job(source, target, &scaled_forms[f]);
        assert_false(convert_model(&wanted, &error));
        assert_contains(
            error.message,
            "model.safetensors: single_transformer_blocks.1.attn.to_out.weight has a value in row 77");
        assert_false(file_exists(target));
        error = (struct error){0};
    }
    checkpoint_close(parsed);
    free(data);
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

struct stopping {
    int calls, most;
};

static bool stop_after(void *context, const char *tensor, uint64_t done, uint64_t total) {
    struct stopping *stopping = context;
    (void)tensor;
    assert_true(done < total);
    return ++stopping->calls <= stopping->most;
}

static void same_files(const char *a, const char *b) {
    struct error error = {0};
    char *first, *second;
    size_t first_size, second_size;
    assert_ok(file_read(a, 1 << 24, &first, &first_size, &error), error);
    assert_ok(file_read(b, 1 << 24, &second, &second_size, &error), error);
    assert_int_equal(first_size, second_size);
    assert_memory_equal(first, second, first_size);
    free(first);
    free(second);
}

static void a_stopped_run_is_gone_on_with(void **state) {
    struct error error = {0};
    struct convert_model wanted = job(FIXTURES "model-a", in_root("whole.gguf"), DTYPE_Q8_0);
    struct stopping stopping = {0, 4};
    convert(&wanted);
    wanted.target = in_root("again.gguf");
    wanted.progress = stop_after;
    wanted.context = &stopping;
    assert_false(convert_model(&wanted, &error));
    assert_int_equal(error.kind, ERROR_CANCELLED);
    assert_false(file_exists(in_root("again.gguf")));
    assert_true(file_exists(in_root("again.gguf.part")));
    wanted.progress = NULL;
    convert(&wanted);
    assert_false(file_exists(in_root("again.gguf.part")));
    same_files(in_root("whole.gguf"), in_root("again.gguf"));
}

// Killed wherever: the .part is cut off at every end of a tensor, and a byte before and behind it, the codes and their
// companions among them.
static void a_cut_file_is_gone_on_with(void **state) {
    struct error error = {0};
    for (int f = 0; f < SCALED_FORMS; f++) {
        char whole[200], again[200], part[240];
        snprintf(whole, sizeof whole, "%s/cut-%s.safetensors", root, scaled_forms[f].name);
        snprintf(again, sizeof again, "%s/cut-%s-again.safetensors", root, scaled_forms[f].name);
        snprintf(part, sizeof part, "%s.part", again);
        struct convert_model wanted = scaled_job(FIXTURES "model-a", whole, &scaled_forms[f]);
        convert(&wanted);
        char *data;
        size_t size;
        assert_ok(file_read(whole, 1 << 24, &data, &size, &error), error);
        struct checkpoint *parsed = checkpoint_parse("whole", data, size, &error);
        assert_ok(parsed, error);
        wanted.target = again;
        for (int64_t i = 0; i < checkpoint_count(parsed); i++) {
            const struct checkpoint_entry *entry = checkpoint_entry(parsed, i);
            // One matrix with its companions: the others are like it.
            if (!strstr(entry->name, "single_transformer_blocks.0.attn.to_out") &&
                !strstr(entry->name, "single_blocks.0.linear2"))
                continue;
            const size_t end = (size_t)((const char *)entry->tensor.data - data) + entry->tensor.bytes;
            for (size_t cut = end - 1; cut <= end + 1 && cut < size; cut++) {
                assert_ok(file_write(part, data, cut, &error), error);
                convert(&wanted);
                same_files(whole, again);
                assert_int_equal(unlink(again), 0);
            }
        }
        checkpoint_close(parsed);
        free(data);
    }
}

static void wrong_wishes_are_refused(void **state) {
    static const char *const lora[] = {FIXTURES "model-a-lora-kohya.safetensors"};
    static const float scale = 1;
    const struct {
        struct convert_model wanted;
        const char *message;
    } cases[] = {
        {{.target = "/tmp/x.safetensors", .type = DTYPE_Q8_0}, "have no type Q8_0"},
        {{.target = "/tmp/x.gguf", .type = DTYPE_I32}, "I32 cannot be written"},
        {{.target = "/tmp/x", .type = DTYPE_BF16, .text_type = DTYPE_U8}, "U8 cannot be written"},
        {{.target = "/tmp/x.gguf", .type = DTYPE_NVFP4}, "GGUF files have no type NVFP4"},
        {{.target = "/tmp/x.safetensors", .type = DTYPE_F8_E4M3, .part = PART_AUTOENCODER},
         "an autoencoder is not quantised"},
        {{.target = "/tmp/x.safetensors", .type = DTYPE_NF4, .row_scales = true},
         "scales of rows are for F8_E4M3 and F8_E5M2"},
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
        cmocka_unit_test(scaled_forms_open_again),
        cmocka_unit_test(nf4_is_described),
        cmocka_unit_test(codes_of_others_stay),
        cmocka_unit_test(loras_go_in_before_scales),
        cmocka_unit_test(bad_values_are_named),
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(a_baked_lora_draws_as_the_reference),
        cmocka_unit_test(a_stopped_run_is_gone_on_with),
        cmocka_unit_test(a_cut_file_is_gone_on_with),
        cmocka_unit_test(wrong_wishes_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
