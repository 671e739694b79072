#include "fixture.h"

#include "flux/model.h"

// Shapes as their config.json files give them.
static struct transformer_shape shape_of(const char *json) {
    struct transformer_shape shape;
    struct error error = {0};
    assert_ok(transformer_config_parse("config.json", json, strlen(json), &shape, &error), error);
    return shape;
}

static struct transformer_shape dev_shape(void) {
    return shape_of("{}"); // what diffusers takes for absent fields is FLUX.2 [dev]
}

static struct transformer_shape other_shape(void) {
    return shape_of("{\"num_attention_heads\": 24, \"num_layers\": 5, \"num_single_layers\": 20, "
                    "\"joint_attention_dim\": 7680, \"guidance_embeds\": false}");
}

static bool parse_for(const char *json, enum model_pipeline pipeline, bool distilled,
                      struct transformer_shape shape, struct model_settings *settings, struct error *error) {
    struct model_index index = {pipeline, distilled, true};
    return model_settings_parse("m/limn.json", json, strlen(json), "m", &index, &shape, settings, error);
}

static bool parse(const char *json, struct transformer_shape shape, struct model_settings *settings,
                  struct error *error) {
    return parse_for(json, MODEL_FLUX2, false, shape, settings, error);
}

// ---------------------------------------------------------------------------------------------------------- limn.json

#define TEXT "\"system_message\": \"x\", \"text_taps\": [1], \"text_length\": 8"

static void values_of_the_recognised_architecture(void **state) {
    struct model_settings settings;
    struct error error = {0};
    assert_ok(parse("{\"system_message\": \"Be\\nexact.\"}", dev_shape(), &settings, &error), error);
    assert_string_equal(settings.system_message, "Be\nexact.");
    assert_string_equal(settings.name, "FLUX.2 [dev]");
    assert_string_equal(settings.software, "AI generated;flux2");
    assert_string_equal(settings.make, "Black Forest Labs");
    assert_int_equal(settings.text_tap_count, 3);
    for (int i = 0; i < 3; i++) assert_int_equal(settings.text_taps[i], 10 * (i + 1));
    assert_int_equal(settings.text_length, 512);
    assert_int_equal(settings.default_width, 1024);
    assert_int_equal(settings.default_height, 1024);
    assert_int_equal(settings.steps, 50);
    assert_int_equal(settings.sigma_count, 0);
    assert_true(settings.guidance == 4);
    assert_int_equal(settings.reference_area, 1048576);
    assert_true(settings.trained);
    assert_int_equal(settings.guidance_kind, GUIDANCE_EMBEDDED);
    assert_int_equal(settings.text_template, PROMPT_MISTRAL);
    assert_false(settings.text_template_named);
    model_settings_free(&settings);
}

// klein needs no limn.json.
static void values_of_klein(void **state) {
    static const struct {
        const char *config, *name;
        bool distilled;
    } cases[] = {
        {"\"num_attention_heads\": 24, \"num_layers\": 5, \"num_single_layers\": 20, "
         "\"joint_attention_dim\": 7680",
         "FLUX.2 [klein] 4B", true},
        {"\"num_attention_heads\": 24, \"num_layers\": 5, \"num_single_layers\": 20, "
         "\"joint_attention_dim\": 7680",
         "FLUX.2 [klein] 4B Base", false},
        {"\"num_attention_heads\": 32, \"num_single_layers\": 24, \"joint_attention_dim\": 12288",
         "FLUX.2 [klein] 9B", true},
        {"\"num_attention_heads\": 32, \"num_single_layers\": 24, \"joint_attention_dim\": 12288",
         "FLUX.2 [klein] 9B Base", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char config[256];
        struct model_settings settings;
        struct error error = {0};
        snprintf(config, sizeof config, "{%s, \"guidance_embeds\": false}", cases[i].config);
        struct transformer_shape shape = shape_of(config);
        assert_ok(parse_for("{}", MODEL_KLEIN, cases[i].distilled, shape, &settings, &error), error);
        assert_string_equal(settings.name, cases[i].name);
        assert_null(settings.system_message);
        assert_int_equal(settings.text_template, PROMPT_QWEN3);
        assert_int_equal(settings.text_tap_count, 3);
        for (int k = 0; k < 3; k++) assert_int_equal(settings.text_taps[k], 9 * (k + 1));
        assert_int_equal(settings.text_length, 512);
        assert_int_equal(settings.default_width, 1024);
        assert_int_equal(settings.default_height, 1024);
        assert_int_equal(settings.steps, cases[i].distilled ? 4 : 50);
        assert_true(settings.guidance == (cases[i].distilled ? 1 : 4));
        assert_int_equal(settings.guidance_kind, cases[i].distilled ? GUIDANCE_NONE : GUIDANCE_CLASSIFIER);
        model_settings_free(&settings);
        // The file overrides them.
        const char *json =
            "{\"steps\": 7, \"guidance\": 2, \"text_taps\": [3, 8], \"text_length\": 77, \"name\": \"K\"}";
        assert_ok(parse_for(json, MODEL_KLEIN, cases[i].distilled, shape, &settings, &error), error);
        assert_string_equal(settings.name, "K");
        assert_int_equal(settings.steps, 7);
        assert_true(settings.guidance == 2);
        assert_int_equal(settings.text_taps[1], 8);
        assert_int_equal(settings.text_length, 77);
        model_settings_free(&settings);
    }
    // Of the same shape, but for another pipeline: not recognised.
    struct model_settings settings;
    struct error error = {0};
    assert_false(parse("{\"system_message\": \"x\"}", other_shape(), &settings, &error));
    assert_string_equal(error.field, "text_taps");
    error = (struct error){0};
    assert_false(parse_for("{}", MODEL_KLEIN, true, dev_shape(), &settings, &error));
    assert_string_equal(error.field, "text_taps");
}

// A folder of files without model_index.json: limn.json says what it would, where the transformer's shape does not.
static void without_a_model_index(void **state) {
    static const char klein[] = "{\"num_attention_heads\": 24, \"num_layers\": 5, \"num_single_layers\": 20, "
                                "\"joint_attention_dim\": 7680, \"guidance_embeds\": false}";
    static const char other[] = "{\"num_attention_heads\": 4}";
    static const struct {
        const char *config, *json, *name, *field; // name: NULL where [field] is wrong
        enum model_guidance kind;
        int steps;
    } cases[] = {
        {klein, "{\"distilled\": true}", "FLUX.2 [klein] 4B", NULL, GUIDANCE_NONE, 4},
        {klein, "{\"distilled\": false}", "FLUX.2 [klein] 4B Base", NULL, GUIDANCE_CLASSIFIER, 50},
        {klein, "{}", NULL, "distilled", 0, 0},
        {klein, "{\"distilled\": 1}", NULL, "distilled", 0, 0},
        {klein, "{\"pipeline\": \"Flux2Pipeline\", " TEXT "}", "m", NULL, GUIDANCE_NONE, 50},
        {"{}", "{\"system_message\": \"x\"}", "FLUX.2 [dev]", NULL, GUIDANCE_EMBEDDED, 50},
        {other, "{" TEXT "}", "m", NULL, GUIDANCE_EMBEDDED, 50},
        {other,
         "{\"pipeline\": \"Flux2KleinPipeline\", \"distilled\": true, \"text_taps\": [1], \"text_length\": "
         "8}",
         "m", NULL, GUIDANCE_NONE, 4},
        {other, "{\"pipeline\": \"Flux2KleinPipeline\", \"text_taps\": [1], \"text_length\": 8}", NULL,
         "distilled", 0, 0},
        {other, "{\"pipeline\": \"Flux2KleinKVPipeline\"}", NULL, "pipeline", 0, 0},
        {other, "{\"pipeline\": 1}", NULL, "pipeline", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct transformer_shape shape = shape_of(cases[i].config);
        struct model_index none = {0};
        struct model_settings settings;
        struct error error = {0};
        bool good = model_settings_parse("m/limn.json", cases[i].json, strlen(cases[i].json), "m", &none,
                                         &shape, &settings, &error);
        if (good != (cases[i].name != NULL)) fail_msg("case %zu: %s", i, error.message);
        if (!good) {
            assert_string_equal(error.field, cases[i].field);
            assert_contains(error.message, "m/limn.json: ");
            continue;
        }
        assert_string_equal(settings.name, cases[i].name);
        assert_int_equal(settings.guidance_kind, cases[i].kind);
        assert_int_equal(settings.steps, cases[i].steps);
        model_settings_free(&settings);
    }
}

// An embedder of guidance is used by Flux2Pipeline alone.
static void kinds_of_guidance(void **state) {
    static const struct {
        const char *config;
        enum model_pipeline pipeline;
        bool distilled;
        enum model_guidance kind;
    } cases[] = {
        {"{\"guidance_embeds\": true}", MODEL_FLUX2, false, GUIDANCE_EMBEDDED},
        {"{\"guidance_embeds\": false}", MODEL_FLUX2, false, GUIDANCE_NONE},
        {"{\"guidance_embeds\": true}", MODEL_KLEIN, false, GUIDANCE_CLASSIFIER},
        {"{\"guidance_embeds\": false}", MODEL_KLEIN, false, GUIDANCE_CLASSIFIER},
        {"{\"guidance_embeds\": true}", MODEL_KLEIN, true, GUIDANCE_NONE},
        {"{\"guidance_embeds\": false}", MODEL_KLEIN, true, GUIDANCE_NONE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_settings settings;
        struct error error = {0};
        const char *json = "{\"text_template\": \"qwen3\", \"text_taps\": [1], \"text_length\": 8}";
        assert_ok(parse_for(json, cases[i].pipeline, cases[i].distilled, shape_of(cases[i].config), &settings,
                            &error),
                  error);
        assert_int_equal(settings.guidance_kind, cases[i].kind);
        assert_true(settings.text_template_named);
        assert_int_equal(model_prompt_settings(&settings).template, PROMPT_QWEN3);
        assert_true(model_prompt_settings(&settings).any_model);
        model_settings_free(&settings);
    }
}

static void every_field_is_read(void **state) {
    struct model_settings settings;
    struct error error = {0};
    const char *json =
        "{\"limn\": 1, \"name\": \"Tiny\", \"system_message\": \"\", \"text_taps\": [0, 7], "
        "\"text_length\": 64, \"default_size\": \"192x256\", \"sizes\": [\"192x256\", \"64x64\"], "
        "\"sigmas\": [1, 0.5, 0.25], \"guidance\": 2.5, \"reference_area\": 9216, "
        "\"trained\": false, \"software\": \"S\", \"make\": \"M\", \"licence\": \"Apache-2.0\"}";
    assert_ok(parse(json, other_shape(), &settings, &error), error);
    assert_string_equal(settings.name, "Tiny");
    assert_string_equal(settings.system_message, "");
    assert_string_equal(settings.software, "S");
    assert_string_equal(settings.make, "M");
    assert_int_equal(settings.text_tap_count, 2);
    assert_int_equal(settings.text_taps[1], 7);
    assert_int_equal(settings.text_length, 64);
    assert_int_equal(settings.default_width, 192);
    assert_int_equal(settings.default_height, 256);
    assert_int_equal(settings.size_count, 2);
    assert_int_equal(settings.sizes[0][1], 256);
    assert_int_equal(settings.steps, 3); // as many as sigmas
    assert_int_equal(settings.sigma_count, 3);
    assert_true(settings.sigmas[2] == 0.25f);
    assert_true(settings.guidance == 2.5f);
    assert_int_equal(settings.reference_area, 9216);
    assert_false(settings.trained);
    model_settings_free(&settings);
}

static void wrong_settings(void **state) {
    static const struct {
        const char *json, *field, *message;
    } cases[] = {
        {"{\"text_taps\": [1], \"text_length\": 8}", "system_message",
         "m/limn.json: field \"system_message\" is missing"},
        {"{\"system_message\": null, \"text_taps\": [1], \"text_length\": 8}", "system_message",
         "is missing"},
        {"{\"system_message\": 5, \"text_taps\": [1], \"text_length\": 8}", "system_message",
         "expected a string, found an integer"},
        {"{\"system_message\": \"x\", \"text_length\": 8}", "text_taps", "field \"text_taps\" is missing"},
        {"{\"system_message\": \"x\", \"text_taps\": [1]}", "text_length",
         "field \"text_length\" is missing"},
        {"{" TEXT ", \"text_template\": \"llama\"}", "text_template",
         "\"llama\", expected \"mistral\" or \"qwen3\""},
        {"{" TEXT ", \"text_template\": \"\"}", "text_template", "\"\", expected"},
        {"{" TEXT ", \"text_template\": 3}", "text_template", "expected a string"},
        {"{" TEXT ", \"text_template\": \"qwen3\"}", "system_message", "expected none"},
        {"{" TEXT ", \"limn\": 2}", "limn", "2, expected an integer from 1 to 1"},
        {"{" TEXT ", \"name\": \"\"}", "name", "an empty text, expected 1 to 63 bytes"},
        {"{" TEXT ", \"name\": \"0123456789012345678901234567890123456789012345678901234567890123\"}", "name",
         "a longer text"},
        {"{" TEXT ", \"default_size\": \"64\"}", "default_size", "\"64\", expected \"WIDTHxHEIGHT\""},
        {"{" TEXT ", \"default_size\": \"64x64 \"}", "default_size", "expected \"WIDTHxHEIGHT\""},
        {"{" TEXT ", \"default_size\": \"8x64\"}", "default_size", "each from 16 to 4096"},
        {"{" TEXT ", \"default_size\": \"64x99999\"}", "default_size", "each from 16 to 4096"},
        {"{" TEXT ", \"sizes\": [\"64x64\", 3]}", "sizes", "an element that is no string"},
        {"{" TEXT ", \"sizes\": [\"64x64\", \"0x0\"]}", "sizes", "\"0x0\""},
        {"{" TEXT ", \"sizes\": \"64x64\"}", "sizes", "expected an array"},
        {"{" TEXT ", \"steps\": 0}", "steps", "0, expected an integer from 1 to 200"},
        {"{" TEXT ", \"steps\": 4.5}", "steps", "expected an integer, found a number"},
        {"{" TEXT ", \"steps\": 4, \"sigmas\": [1, 0.5]}", "steps",
         "4, expected 2, the number of its sigmas"},
        {"{" TEXT ", \"sigmas\": [1, 2]}", "sigmas", "2, expected a number from 0 to 1"},
        {"{" TEXT ", \"sigmas\": [0.5, 0.75]}", "sigmas", "m/limn.json: sigmas[1] is 0.75, expected less"},
        {"{" TEXT ", \"sigmas\": [0.5, 0]}", "sigmas", "sigmas[1] is 0, expected a number in (0, 1]"},
        {"{" TEXT ", \"guidance\": -1}", "guidance", "-1, expected a number from 0 to 1000"},
        {"{" TEXT ", \"guidance\": \"4\"}", "guidance", "expected a number, found a string"},
        {"{" TEXT ", \"reference_area\": 100}", "reference_area", "100, expected an integer from 1024"},
        {"{" TEXT ", \"trained\": 1}", "trained", "expected true or false"},
        {"{\"system_message\": \"x\", \"text_taps\": [], \"text_length\": 8}", "text_taps", "at least one"},
        {"{\"system_message\": \"x\", \"text_taps\": [3, 2], \"text_length\": 8}", "text_taps", "rising"},
        {"{\"system_message\": \"x\", \"text_taps\": [1, 2, 3, 4, 5, 6, 7, 8, 9], \"text_length\": 8}",
         "text_taps", "9 elements, expected at most 8"},
        {"{\"system_message\": \"x\", \"text_taps\": [-1], \"text_length\": 8}", "text_taps", "-1, expected"},
        {"{\"system_message\": \"x\", \"text_taps\": [1], \"text_length\": 0}", "text_length", "0, expected"},
        {"{\"system_message\": \"x\", \"text_taps\": [1], \"text_length\": 9999}", "text_length",
         "9999, expected"},
        {"[]", "", "expected an object"},
        {"{", "", "m/limn.json"},
        {"", "", "m/limn.json"},
    };
    struct transformer_shape shape = other_shape();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_settings settings;
        struct error error = {0};
        if (parse(cases[i].json, shape, &settings, &error)) fail_msg("accepted: %s", cases[i].json);
        assert_true(error.kind == ERROR_INPUT);
        assert_string_equal(error.field, cases[i].field);
        assert_contains(error.message, cases[i].message);
        assert_contains(error.message, "m/limn.json");
        model_settings_free(&settings); // nothing is left, and freeing it is fine
    }
}

static void settings_of_the_fixtures(void **state) {
    struct model_settings settings;
    struct error error = {0};
    struct transformer_shape shape = other_shape();
    struct model_index index = {.pipeline = MODEL_FLUX2, .given = true};
    assert_ok(model_settings_read(FIXTURES "model-b", &index, &shape, &settings, &error), error);
    assert_string_equal(settings.name, "random model-b");
    assert_int_equal(settings.sigma_count, 4);
    assert_int_equal(settings.reference_area, 6400);
    model_settings_free(&settings);
    // A folder without the file.
    assert_false(model_settings_read(FIXTURES "image", &index, &shape, &settings, &error));
    assert_contains(error.message, "image/limn.json: field \"text_taps\" is missing");
}

// --------------------------------------------------------------------------------------------------- model_index.json

static void pipeline_classes(void **state) {
    static const struct {
        const char *json;
        enum error_kind kind;
        const char *message;
    } cases[] = {
        {"{\"_class_name\": \"Flux2Pipeline\"}", ERROR_NONE, ""},
        {"{\"_class_name\": \"Flux2KleinPipeline\"}", ERROR_NONE, ""},
        {"{\"_class_name\": \"Flux2KleinKVPipeline\", \"is_distilled\": true}", ERROR_UNSUPPORTED,
         "index.json: the pipeline is of the class \"Flux2KleinKVPipeline\" (which keeps the keys and values "
         "of "
         "reference images over the steps), expected \"Flux2Pipeline\" or \"Flux2KleinPipeline\""},
        {"{\"_class_name\": \"Flux2KleinInpaintPipeline\"}", ERROR_UNSUPPORTED,
         "\"Flux2KleinInpaintPipeline\", expected"},
        {"{\"_class_name\": \"Flux2KleinPipeline\", \"is_distilled\": \"yes\"}", ERROR_INPUT,
         "field \"is_distilled\": expected true or false"},
        {"{\"_class_name\": \"StableDiffusionXLPipeline\"}", ERROR_UNSUPPORTED,
         "the pipeline is of the class \"StableDiffusionXLPipeline\", expected \"Flux2Pipeline\""},
        {"{\"_class_name\": 3}", ERROR_INPUT, "expected a string"},
        {"{}", ERROR_INPUT, "field \"_class_name\" is missing"},
        {"7", ERROR_INPUT, "index.json"},
        {"{\"_class_name\": ", ERROR_INPUT, "index.json"},
    };
    struct model_index index;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        bool good = model_index_parse("index.json", cases[i].json, strlen(cases[i].json), &index, &error);
        assert_int_equal(good, cases[i].kind == ERROR_NONE);
        assert_int_equal(error.kind, cases[i].kind);
        assert_contains(error.message, cases[i].message);
    }
    struct error error = {0};
    assert_false(model_index_read("/no/such/folder", &index, &error));
    assert_int_equal(error.kind, ERROR_NOT_FOUND);
    assert_contains(error.message, "/no/such/folder");
    error = (struct error){0};
    assert_ok(model_index_read(FIXTURES, &index, &error),
              error); // folders without one are judged by their parts
    assert_false(index.given);
    assert_ok(model_index_read(FIXTURES "model-a", &index, &error), error);
    assert_true(index.given && index.pipeline == MODEL_FLUX2 && !index.distilled);
    assert_ok(model_index_read(FIXTURES "model-k", &index, &error), error);
    assert_true(index.given && index.pipeline == MODEL_KLEIN && !index.distilled);
    const char *distilled = "{\"_class_name\": \"Flux2KleinPipeline\", \"is_distilled\": true}";
    assert_ok(model_index_parse("index.json", distilled, strlen(distilled), &index, &error), error);
    assert_true(index.pipeline == MODEL_KLEIN && index.distilled);
}

// -------------------------------------------------------------------------------------------- transformer/config.json

static void shapes_of_configs(void **state) {
    struct transformer_shape dev = dev_shape();
    assert_int_equal(dev.hidden, 6144);
    assert_int_equal(dev.mlp_hidden, 18432);
    assert_int_equal(dev.in_channels, 128);
    assert_true(dev.guidance);
    struct transformer_shape odd = shape_of(
        "{\"num_attention_heads\": 3, \"attention_head_dim\": 24, \"axes_dims_rope\": [2, 10, 12, 0], "
        "\"mlp_ratio\": 2.5, \"num_single_layers\": 0, \"eps\": 1e-5, \"out_channels\": null, "
        "\"in_channels\": 20}");
    assert_int_equal(odd.hidden, 72);
    assert_int_equal(odd.mlp_hidden, 180);
    assert_int_equal(odd.single_blocks, 0);
    assert_int_equal(odd.axes[1], 10);
    assert_true(odd.eps == 1e-5);
}

static void wrong_configs(void **state) {
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{\"_class_name\": \"FluxTransformer2DModel\"}",
         "c.json: _class_name is \"FluxTransformer2DModel\", expected \"Flux2Transformer2DModel\""},
        {"{\"num_attention_heads\": 0}", "num_attention_heads"},
        {"{\"num_attention_heads\": \"48\"}", "expected an integer, found a string"},
        {"{\"attention_head_dim\": 100, \"axes_dims_rope\": [25, 25, 25, 25]}", "expected a multiple of 8"},
        {"{\"attention_head_dim\": 64}", "sum to 128, expected attention_head_dim, 64"},
        {"{\"axes_dims_rope\": [31, 33, 32, 32]}", "axes_dims_rope[0] is 31, expected an even number"},
        {"{\"axes_dims_rope\": [64, 64]}", "has 2 entries, expected 4"},
        {"{\"axes_dims_rope\": [32, 32, 32, 16, 16]}", "axes_dims_rope"},
        {"{\"axes_dims_rope\": [-32, 64, 64, 32]}", "axes_dims_rope"},
        {"{\"num_layers\": 99999999999}", "num_layers"},
        {"{\"mlp_ratio\": 0}", "mlp_ratio"},
        {"{\"patch_size\": 2}", "patch_size is 2, expected 1"},
        {"{\"out_channels\": 64}", "out_channels is 64, expected in_channels, 128"},
        {"{\"timestep_guidance_channels\": 255}", "expected an even number"},
        {"{\"rope_theta\": -1}", "rope_theta"},
        {"{\"eps\": 0}", "eps"},
        {"{\"guidance_embeds\": \"yes\"}", "expected true or false"},
        {"[1]", "c.json"},
        {"nonsense", "c.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct transformer_shape shape;
        struct error error = {0};
        if (transformer_config_parse("c.json", cases[i].json, strlen(cases[i].json), &shape, &error))
            fail_msg("accepted: %s", cases[i].json);
        assert_contains(error.message, "c.json");
        assert_contains(error.message, cases[i].message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_the_recognised_architecture),
        cmocka_unit_test(values_of_klein),
        cmocka_unit_test(kinds_of_guidance),
        cmocka_unit_test(without_a_model_index),
        cmocka_unit_test(every_field_is_read),
        cmocka_unit_test(wrong_settings),
        cmocka_unit_test(settings_of_the_fixtures),
        cmocka_unit_test(pipeline_classes),
        cmocka_unit_test(shapes_of_configs),
        cmocka_unit_test(wrong_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
