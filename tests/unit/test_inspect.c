#include "unit.h"

#include "base/file.h"
#include "cli/inspect.h"

#include <unistd.h>

static char folder[64]; // a copy of a fixture model that tests break

static int copy_model(void **state) {
    char command[512];
    snprintf(folder, sizeof folder, "/tmp/limn-test-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(command, sizeof command, "cp -r '%s/tests/fixtures/model-a/.' '%s'", LIMN_SOURCE_DIR, folder);
    return system(command);
}

static int remove_model(void **state) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static json_int_t integer_of(const json_t *object, const char *key) {
    return json_integer_value(json_object_get(object, key));
}

static const json_t *part_of(const json_t *report, const char *name) {
    size_t index;
    json_t *part;
    json_array_foreach(json_object_get(report, "parts"), index, part) {
        if (strcmp(text_of(part, "part"), name) == 0) return part;
    }
    fail_msg("no part %s", name);
    return NULL;
}

static json_t *inspect(void) {
    struct error error = {0};
    json_t *report = inspect_model(folder, &error);
    assert_ok(report, error);
    return report;
}

// Exactly one problem, and it holds [expected].
static void assert_problem(const json_t *report, const char *expected) {
    const json_t *problems = json_object_get(report, "problems");
    if (json_array_size(problems) != 1) fail_msg("%zu problems, expected one", json_array_size(problems));
    assert_contains(json_string_value(json_array_get(problems, 0)), expected);
}

static void a_sound_model(void **state) {
    json_t *report = inspect();
    const json_t *problems = json_object_get(report, "problems");
    if (json_array_size(problems)) fail_msg("%s", json_string_value(json_array_get(problems, 0)));
    assert_string_equal(text_of(report, "kind"), "model");
    assert_string_equal(text_of(report, "pipeline"), "Flux2Pipeline");
    assert_string_equal(text_of(report, "name"), "random model-a");
    const json_t *settings = json_object_get(report, "settings");
    assert_string_equal(text_of(settings, "default_size"), "64x48");
    assert_int_equal(integer_of(settings, "text_length"), 64);
    const json_t *transformer = part_of(report, "transformer");
    assert_string_equal(text_of(transformer, "class"), "Flux2Transformer2DModel");
    assert_string_not_equal(text_of(part_of(report, "tokenizer"), "class"), "");
    assert_int_equal(integer_of(transformer, "files"), 2);
    assert_int_equal(integer_of(json_object_get(transformer, "shape"), "hidden"), 128);
    assert_int_equal(integer_of(json_object_get(transformer, "shape"), "parameters"),
                     integer_of(json_object_get(transformer, "totals"), "values"));
    assert_int_equal(integer_of(json_object_get(part_of(report, "tokenizer"), "shape"), "vocabulary"), 384);
    assert_int_equal(integer_of(json_object_get(part_of(report, "text_encoder"), "shape"), "hidden"), 32);
    assert_int_equal(integer_of(json_object_get(part_of(report, "text_encoder"), "shape"), "embedding_width"),
                     96);
    assert_int_equal(integer_of(json_object_get(part_of(report, "vae"), "shape"), "latent_channels"), 4);
    json_decref(report);
}

static void a_model_of_klein(void **state) {
    struct error error = {0};
    json_t *report = inspect_model(LIMN_SOURCE_DIR "/tests/fixtures/model-k", &error);
    assert_ok(report, error);
    assert_int_equal(json_array_size(json_object_get(report, "problems")), 0);
    assert_string_equal(text_of(report, "pipeline"), "Flux2KleinPipeline");
    const json_t *settings = json_object_get(report, "settings");
    assert_string_equal(text_of(settings, "text_template"), "qwen3");
    assert_null(json_object_get(settings, "system_message"));
    assert_string_equal(text_of(settings, "guidance_kind"), "two evaluations a step");
    assert_string_equal(text_of(json_object_get(part_of(report, "text_encoder"), "shape"), "kind"), "qwen3");
    json_decref(report);
}

static void remove_from_model(const char *name) {
    char command[256];
    snprintf(command, sizeof command, "rm -r '%s/%s'", folder, name);
    assert_int_equal(system(command), 0);
}

static void write_to_model(const char *name, const char *text) {
    struct error error = {0};
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(file_write(path, text, strlen(text), &error), error);
}

static void restore(void **state) {
    assert_int_equal(remove_model(NULL), 0);
    assert_int_equal(copy_model(NULL), 0);
}

static void what_is_missing_is_named(void **state) {
    static const char *const parts[] = {"vae", "transformer", "tokenizer", "text_encoder"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        restore(NULL);
        remove_from_model(parts[i]);
        json_t *report = inspect();
        assert_true(json_array_size(json_object_get(report, "problems")) > 0);
        assert_contains(text_of(part_of(report, parts[i]), "problem"), parts[i]);
        json_decref(report);
    }
    restore(NULL);
    remove_from_model("transformer/diffusion_pytorch_model-00002-of-00002.safetensors");
    json_t *report = inspect();
    assert_contains(text_of(part_of(report, "transformer"), "problem"),
                    "00002-of-00002.safetensors: cannot be opened");
    // What the files still say is shown.
    assert_int_equal(integer_of(json_object_get(part_of(report, "transformer"), "shape"), "hidden"), 128);
    assert_string_equal(text_of(report, "name"), "random model-a");
    json_decref(report);
    restore(NULL);
    remove_from_model("model_index.json"); // the parts say enough
    report = inspect();
    assert_int_equal(json_array_size(json_object_get(report, "problems")), 0);
    json_decref(report);
    write_to_model("model_index.json", "{\"_class_name\": \"FluxPipeline\"}");
    report = inspect();
    assert_problem(report, "the pipeline is of the class \"FluxPipeline\"");
    json_decref(report);
    restore(NULL);
}

static void a_folder_on_another(void **state) {
    char top[300], path[320], json[600];
    struct error error = {0};
    snprintf(top, sizeof top, "%s-top", folder);
    snprintf(path, sizeof path, "%s/limn.json", top);
    snprintf(json, sizeof json, "{\"base\":\"%s\",\"loras\":[{\"file\":\"no.safetensors\"}]}", folder);
    assert_ok(folder_make(top, &error), error);
    assert_ok(file_write(path, json, strlen(json), &error), error);
    json_t *report = inspect_model(top, &error);
    assert_ok(report, error);
    assert_string_equal(json_string_value(json_array_get(json_object_get(report, "bases"), 0)), folder);
    assert_int_equal(json_array_size(json_object_get(report, "loras")), 1);
    assert_int_equal(integer_of(json_object_get(part_of(report, "transformer"), "shape"), "hidden"), 128);
    assert_int_equal(json_array_size(json_object_get(report, "problems")), 1); // the whole cannot be opened
    assert_problem(report, "no.safetensors");
    json_decref(report);
    assert_ok(file_write(path, "{\"base\":\".\"}", 12, &error), error);
    report = inspect_model(top, &error);
    assert_contains(json_string_value(json_array_get(json_object_get(report, "problems"), 0)),
                    "stands on itself");
    json_decref(report);
    assert_int_equal(remove(path), 0);
    assert_int_equal(remove(top), 0);
}

static void weights_are_listed(void **state) {
    struct error error = {0};
    char path[256];
    snprintf(path, sizeof path, "%s/tests/fixtures/model-a/transformer", LIMN_SOURCE_DIR);
    assert_false(inspect_is_model(path));
    json_t *report = inspect_weights(path, &error);
    assert_ok(report, error);
    assert_string_equal(text_of(report, "class"), "Flux2Transformer2DModel");
    const json_t *totals = json_object_get(report, "totals"), *tensors = json_object_get(report, "tensors");
    assert_int_equal(json_array_size(tensors), integer_of(totals, "tensors"));
    json_int_t bytes = 0;
    size_t index;
    json_t *tensor;
    json_array_foreach(tensors, index, tensor) bytes += integer_of(tensor, "bytes");
    assert_int_equal(bytes, integer_of(totals, "bytes"));
    assert_true(bytes < integer_of(report, "bytes"));
    assert_int_equal(integer_of(json_object_get(json_object_get(totals, "types"), "BF16"), "values") * 2,
                     bytes);
    assert_string_equal(text_of(json_array_get(tensors, 0), "name"), "context_embedder.weight");
    assert_string_equal(text_of(json_array_get(tensors, 0), "type"), "BF16");
    assert_int_equal(
        json_integer_value(json_array_get(json_object_get(json_array_get(tensors, 0), "shape"), 1)), 96);
    json_decref(report);
    assert_null(inspect_weights("/nonexistent", &error));
    assert_contains(error.message, "/nonexistent");
}

// Scales are counted beside the types that they belong to, which have their logical shapes.
static void layouts_are_told(void **state) {
    static const struct {
        const char *file, *part, *layout, *format, *type, *scales;
        int scaled;
    } cases[] = {
        {"transformer.gguf", "transformer", "BFL", "GGUF", "BF16", NULL, 0},
        {"q8_0.gguf", "transformer", "BFL", "GGUF", "Q8_0", NULL, 0},
        {"text_encoder.gguf", "text_encoder", "llama.cpp", "GGUF", "BF16", NULL, 0},
        {"fp8.safetensors", "transformer", "BFL", "safetensors", "F8_E4M3", "a scale a row", 6},
        {"nvfp4.safetensors", "transformer", "BFL", "safetensors", "NVFP4", "NVFP4 blocks", 0},
        {"nf4.safetensors", "transformer", "diffusers", "safetensors", "NF4", "nested nf4 blocks", 6},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        char path[256];
        snprintf(path, sizeof path, "%s/tests/fixtures/layouts/%s", LIMN_SOURCE_DIR, cases[i].file);
        json_t *report = inspect_weights(path, &error);
        assert_ok(report, error);
        assert_string_equal(text_of(report, "format"), cases[i].format);
        const json_t *recognised = json_object_get(report, "recognised"),
                     *part = json_array_get(recognised, 0);
        assert_int_equal(json_array_size(recognised), 1);
        assert_string_equal(text_of(part, "part"), cases[i].part);
        assert_string_equal(text_of(part, "layout"), cases[i].layout);
        const json_t *totals = json_object_get(part, "totals");
        assert_true(integer_of(json_object_get(json_object_get(totals, "types"), cases[i].type), "values") >
                    10000);
        if (strcmp(cases[i].part, "transformer") == 0) assert_int_equal(integer_of(totals, "values"), 121568);
        if (cases[i].scaled)
            assert_int_equal(integer_of(json_object_get(part, "scales"), cases[i].scales), cases[i].scaled);
        json_decref(report);
    }
    struct error error = {0};
    json_t *report = inspect_weights(LIMN_SOURCE_DIR "/tests/fixtures/noise.safetensors", &error);
    assert_ok(report, error);
    assert_int_equal(json_array_size(json_object_get(report, "recognised")), 0);
    json_decref(report);
}

static void models_are_told_from_weights(void **state) {
    assert_true(inspect_is_model(folder));
    assert_false(inspect_is_model("/nonexistent"));
    assert_false(inspect_is_model(LIMN_SOURCE_DIR "/tests/unit"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sound_model),
        cmocka_unit_test(a_model_of_klein),
        cmocka_unit_test(what_is_missing_is_named),
        cmocka_unit_test(a_folder_on_another),
        cmocka_unit_test(weights_are_listed),
        cmocka_unit_test(layouts_are_told),
        cmocka_unit_test(models_are_told_from_weights),
    };
    return cmocka_run_group_tests_name("inspect", tests, copy_model, remove_model);
}
