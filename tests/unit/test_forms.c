// Whole models from files of other forms draw what the diffusers folder draws. The GGUF files are those of
// tests/reference/make_layouts.py; the values in them are equal, so the pictures are.
#include "autoencoder_names.h"
#include "layout_files.h"

#include "flux/pipeline.h"

static char folder[64], reference[64];

static int begin(void **state) {
    folder_begin(folder);
    folder_begin(reference);
    return 0;
}

static int end(void **state) {
    folder_end(folder);
    folder_end(reference);
    return 0;
}

// Draws with the model in [path]; a guidance of -1 is the model's own.
static struct limn_result *draw(const char *path, float guidance) {
    struct error error = {0};
    struct limn_options options;
    limn_options_init(&options);
    options.threads = 1;
    options.compute = LIMN_COMPUTE_F32;
    struct pipeline *pipeline = pipeline_open(path, &options, &error);
    assert_ok(pipeline, error);
    struct limn_request request;
    limn_request_init(&request);
    request.prompt = "two stars, <|im_end|> Stra\303\237e e\314\201";
    request.seed = 5;
    if (guidance >= 0) request.guidance = guidance;
    struct limn_result *result = pipeline_run(pipeline, &request, NULL, &error);
    assert_ok(result, error);
    pipeline_close(pipeline);
    return result;
}

static bool same_picture(const struct limn_result *a, const struct limn_result *b) {
    assert_int_equal(a->images[0].width, b->images[0].width);
    assert_int_equal(a->images[0].height, b->images[0].height);
    return memcmp(a->images[0].pixels, b->images[0].pixels,
                  (size_t)a->images[0].width * (size_t)a->images[0].height * 3) == 0;
}

// [folder] and [reference] draw the same, and with klein base another picture without its second evaluation.
static void assert_same(bool distilled) {
    struct limn_result *wanted = draw(reference, -1), *found = draw(folder, -1), *unguided = draw(folder, 1);
    assert_true(same_picture(found, wanted));
    assert_int_equal(same_picture(unguided, wanted), distilled);
    limn_result_free(wanted);
    limn_result_free(found);
    limn_result_free(unguided);
}

// model-k as it is: [klein] base; or as if it were distilled.
static void put_reference(bool distilled) {
    char command[300];
    snprintf(command, sizeof command, "cp -r %smodel-k/. '%s'", FIXTURES, reference);
    assert_int_equal(system(command), 0);
    if (distilled)
        write_text(in(reference, "model_index.json"),
                   "{\"_class_name\": \"Flux2KleinPipeline\", \"is_distilled\": true}");
}

// What model_index.json says and a folder of single files has no place for. The autoencoder has narrower groups than FLUX.2's.
static void put_settings(bool distilled) {
    char text[400];
    snprintf(text, sizeof text,
             "{\"pipeline\": \"Flux2KleinPipeline\", \"distilled\": %s, \"text_taps\": [1, 2, 3], "
             "\"text_length\": 40, \"default_size\": \"48x64\", \"steps\": 3}",
             distilled ? "true" : "false");
    write_text(in(folder, "limn.json"), text);
    copy_fixture("model-k/vae/config.json", in(folder, "vae/config.json"));
}

static void put_autoencoder(void) {
    vae_levels = 4;
    copy_tensors(FIXTURES "model-k/vae", in(folder, "vae/flux2-vae.safetensors"),
                 &(struct copying){.rename = bfl_autoencoder, .convolutions = true});
}

static void put_text_parts(void) {
    for (int part = 1; part <= 3; part++) {
        char from[80], to[80];
        snprintf(from, sizeof from, "layouts/klein-text-%05d-of-00003.gguf", part);
        snprintf(to, sizeof to, "Qwen3-%05d-of-00003.gguf", part);
        copy_fixture(from, in(folder, to));
    }
}

// A GGUF transformer with BFL's names, Qwen3 of llama.cpp in three parts with its own tokenizer, BFL's autoencoder.
static void klein_from_gguf(void **state) {
    for (int distilled = 0; distilled < 2; distilled++) {
        put_reference(distilled);
        put_settings(distilled);
        copy_fixture("layouts/klein.gguf", in(folder, "flux-2-klein.gguf"));
        put_text_parts();
        put_autoencoder();
        assert_same(distilled);
    }
}

static bool prefixed(const char *name, char *to, size_t size) {
    snprintf(to, size, "model.diffusion_model.%s", name);
    return true;
}

// ComfyUI's folder: BFL's transformer in one safetensors file, with and without its prefix; Qwen3 without a config.json.
static void klein_from_single_files(void **state) {
    for (int distilled = 0; distilled < 2; distilled++) {
        put_reference(distilled);
        put_settings(distilled);
        copy_tensors(FIXTURES "layouts/klein.gguf", in(folder, "flux-2-klein.safetensors"),
                     &(struct copying){.rename = distilled ? prefixed : NULL});
        copy_tensors(FIXTURES "model-k/text_encoder", in(folder, "qwen_3.safetensors"), &(struct copying){0});
        copy_fixture("model-k/tokenizer/tokenizer.json", in(folder, "tokenizer.json"));
        put_autoencoder();
        assert_same(distilled);
    }
}

// A part of a set is no file of its own: two sets of one part are two, one set is one; what is missing is said.
static void split_parts_are_one(void **state) {
    struct error error = {0};
    struct limn_options options;
    limn_options_init(&options);
    put_settings(true);
    put_autoencoder();
    put_text_parts();
    copy_fixture("layouts/klein.gguf", in(folder, "flux-2-klein.gguf"));
    assert_int_equal(unlink(in(folder, "Qwen3-00001-of-00003.gguf")), 0);
    assert_null(pipeline_open(folder, &options, &error));
    assert_contains(error.message,
                    "Qwen3-00001-of-00003.gguf: is missing, expected all 3 parts of a split GGUF file");
    put_text_parts();
    copy_fixture("layouts/qwen3.gguf", in(folder, "other.gguf"));
    error = (struct error){0};
    assert_null(pipeline_open(folder, &options, &error));
    assert_contains(error.message, "Qwen3-00001-of-00003.gguf and ");
    assert_contains(error.message, "other.gguf both hold a text encoder");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(klein_from_gguf, begin, end),
        cmocka_unit_test_setup_teardown(klein_from_single_files, begin, end),
        cmocka_unit_test_setup_teardown(split_parts_are_one, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
