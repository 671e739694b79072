// Prompt tokens and embeddings against the reference pipeline's, on every instruction set and several numbers of threads;
// the language model by itself; text encoders that are broken in one place each.
#include "fixture.h"

#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "text/language_model.h"
#include "text/prompt_encoder.h"
#include "weights/safetensors_write.h"

#include <dirent.h>
#include <unistd.h>

// What limn.json of the fixture models says.
static const char system_message[] = "Name each thing,\nits colour and place.";
static const struct fixture_model {
    const char *name;
    int prompts;
    int64_t hidden, layers;
    struct prompt_settings settings;
} models[] = {
    {"model-a", 4, 32, 4, {system_message, {1, 2, 3}, 3, 64}},
    {"model-b", 4, 24, 3, {system_message, {2}, 1, 48}},
    {"model-k", 4, 24, 4, {NULL, {1, 2, 3}, 3, 40, .template = PROMPT_QWEN3}},
};
enum { MODELS = 3, KLEIN = 2 };

struct host {
    struct pool *pool;
    struct device *device;
};

static struct host host_open(const char *isa, int threads) {
    struct error error = {0};
    struct host host = {.pool = pool_open(threads, &error)};
    assert_ok(host.pool, error);
    host.device = device_open_cpu(&(struct device_options){.pool = host.pool, .isa = isa}, &error);
    assert_ok(host.device, error);
    return host;
}

static void host_close(struct host host) {
    device_close(host.device);
    pool_close(host.pool);
}

static struct prompt_encoder *open_fixture(const struct fixture_model *model, struct device *device) {
    char path[512];
    struct error error = {0};
    snprintf(path, sizeof path, FIXTURES "%s", model->name);
    struct prompt_encoder *encoder = prompt_encoder_open(path, &model->settings, device, &error);
    assert_ok(encoder, error);
    return encoder;
}

static struct checkpoint *open_expected(const struct fixture_model *model, json_t **prompts) {
    char name[64];
    struct error error = {0};
    snprintf(name, sizeof name, "%s-text.safetensors", model->name);
    struct checkpoint *expected = fixture_open(name);
    const char *text = checkpoint_metadata(expected, "prompts");
    assert_non_null(text);
    *prompts = json_parse("prompts", text, strlen(text), &error);
    assert_ok(*prompts, error);
    assert_int_equal(json_array_size(*prompts), model->prompts);
    return expected;
}

static float *run(struct prompt_encoder *encoder, const char *prompt, int length, enum compute compute) {
    struct error error = {0};
    float *embeddings = malloc((size_t)(length * prompt_encoder_width(encoder)) * sizeof *embeddings);
    assert_ok(prompt_encoder_run(encoder, prompt, compute, NULL, NULL, embeddings, &error), error);
    return embeddings;
}

// ------------------------------------------------------------------------------------------------------------- parity

static int count_pads(const struct checkpoint *expected, int k) {
    struct tensor mask = fixture_tensor(expected, DTYPE_U8, "mask_%d", k);
    int pads = 0;
    for (int64_t i = 0; i < mask.shape[0]; i++) pads += ((const uint8_t *)mask.data)[i] == 0;
    return pads;
}

static void tokens_of_the_reference(void **state) {
    struct host host = host_open("plain", 1);
    for (int m = 0; m < MODELS; m++) {
        json_t *prompts;
        struct error error = {0};
        struct checkpoint *expected = open_expected(&models[m], &prompts);
        struct prompt_encoder *encoder = open_fixture(&models[m], host.device);
        int length = models[m].settings.length, count, found[64];
        assert_int_equal(prompt_encoder_width(encoder), models[m].settings.tap_count * models[m].hidden);
        for (int k = 0; k < models[m].prompts; k++) {
            struct tensor tokens = fixture_tensor(expected, DTYPE_I32, "tokens_%d", k);
            assert_int_equal(tensor_values(&tokens), length);
            const char *prompt = json_string_value(json_array_get(prompts, (size_t)k));
            assert_ok(prompt_encoder_tokens(encoder, prompt, found, &count, &error), error);
            if (memcmp(found, tokens.data, tokens.bytes)) fail_msg("%s, prompt %d", models[m].name, k);
            int pads = count_pads(expected, k), copies = prompt_encoder_copies(encoder, count);
            assert_int_equal(count, length - pads);
            assert_int_equal(copies, m != KLEIN && pads > 1 ? pads - 1 : 0);
        }
        prompt_encoder_close(encoder);
        checkpoint_close(expected);
        json_decref(prompts);
    }
    host_close(host);
}

// f32 within 2e-5, bf16 within 1e-2 of the f32 reference, over all rows and over the pads alone.
static void check_embeddings(const struct fixture_model *model, struct device *device, enum compute compute) {
    double limit = compute == COMPUTE_F32 ? 2e-5 : 1e-2;
    json_t *prompts;
    struct checkpoint *expected = open_expected(model, &prompts);
    struct prompt_encoder *encoder = open_fixture(model, device);
    int length = model->settings.length;
    int64_t width = prompt_encoder_width(encoder);
    for (int k = 0; k < model->prompts; k++) {
        const char *prompt = json_string_value(json_array_get(prompts, (size_t)k));
        float *found = run(encoder, prompt, length, compute);
        float *wanted = fixture_values(fixture_tensor(expected, DTYPE_F32, "prompt_embeds_%d", k));
        int pads = count_pads(expected, k);
        bool behind = model->settings.template == PROMPT_QWEN3;
        int64_t first_pad = behind ? (length - pads) * width : 0, first = behind ? 0 : pads * width;
        double all = relative_error(found, wanted, length * width);
        double padding = relative_error(found + first_pad, wanted + first_pad, pads * width);
        double real = relative_error(found + first, wanted + first, (length - pads) * width);
        if (!(all < limit) || !(padding < limit) || !(real < limit))
            fail_msg(
                "%s, %s, %s, prompt %d: relative error %.2g, of pads %.2g, of tokens %.2g, expected below %g",
                device_isa(device), model->name, compute == COMPUTE_F32 ? "f32" : "bf16", k, all, padding,
                real, limit);
        for (int i = 1; i < pads; i++) { // in front all are one, behind each is its own
            bool same =
                !memcmp(found + first_pad, found + first_pad + i * width, (size_t)width * sizeof *found);
            assert_int_equal(same, !behind);
        }
        free(found);
        free(wanted);
    }
    prompt_encoder_close(encoder);
    checkpoint_close(expected);
    json_decref(prompts);
}

static void embeddings_of_the_reference(void **state) {
    const char *isas[16];
    int count = device_isa_list(isas, 16);
    assert_true(count >= 1);
    for (int i = 0; i < count; i++) {
        struct host host = host_open(isas[i], 2);
        for (int m = 0; m < MODELS; m++) {
            check_embeddings(&models[m], host.device, COMPUTE_F32);
            check_embeddings(&models[m], host.device, COMPUTE_BF16);
        }
        host_close(host);
    }
}

static void each_layer_of_the_reference(void **state) {
    struct host host = host_open(NULL, 1);
    for (int m = 0; m < MODELS; m++) {
        struct fixture_model model = models[m];
        model.settings.tap_count = (int)model.layers + 1;
        for (int i = 0; i <= model.layers; i++) model.settings.taps[i] = i;
        json_t *prompts;
        struct checkpoint *expected = open_expected(&model, &prompts);
        struct prompt_encoder *encoder = open_fixture(&model, host.device);
        int64_t width = prompt_encoder_width(encoder), rows = model.settings.length;
        float *found = run(encoder, json_string_value(json_array_get(prompts, 0)), (int)rows, COMPUTE_F32);
        float *layer = malloc((size_t)(rows * model.hidden) * sizeof *layer);
        for (int i = 0; i <= model.layers; i++) {
            float *wanted = fixture_values(fixture_tensor(expected, DTYPE_F32, "hidden_%d", i));
            for (int64_t row = 0; row < rows; row++)
                memcpy(layer + row * model.hidden, found + row * width + i * model.hidden,
                       (size_t)model.hidden * sizeof *layer);
            double difference = relative_error(layer, wanted, rows * model.hidden);
            if (!(difference < (i ? 2e-5 : 1e-12)))
                fail_msg("%s, hidden state %d: %.2g", model.name, i, difference);
            free(wanted);
        }
        free(layer);
        free(found);
        prompt_encoder_close(encoder);
        checkpoint_close(expected);
        json_decref(prompts);
    }
    host_close(host);
}

static void check_threads(const struct fixture_model *model, const char *isa, enum compute compute) {
    static const char prompt[] = "a red circle above a blue square, twice";
    int length = model->settings.length;
    float *first = NULL;
    size_t bytes = 0;
    for (int threads = 1; threads <= 3; threads++) {
        struct host host = host_open(isa, threads);
        struct prompt_encoder *encoder = open_fixture(model, host.device);
        bytes = (size_t)(length * prompt_encoder_width(encoder)) * sizeof(float);
        float *found = run(encoder, prompt, length, compute);
        float *again = run(encoder, prompt, length, compute);
        assert_memory_equal(found, again, bytes);
        if (first && memcmp(first, found, bytes)) fail_msg("%s, %s, %d threads", model->name, isa, threads);
        free(again);
        if (first)
            free(found);
        else
            first = found;
        prompt_encoder_close(encoder);
        host_close(host);
    }
    free(first);
}

static void same_bytes_on_any_number_of_threads(void **state) {
    const char *isas[16];
    int count = device_isa_list(isas, 16);
    for (int i = 0; i < count; i++) {
        for (int m = 0; m < MODELS; m += KLEIN) {
            check_threads(&models[m], isas[i], COMPUTE_F32);
            check_threads(&models[m], isas[i], COMPUTE_BF16);
        }
    }
}

// Qwen3: norms on queries and keys. Fixture by tests/reference/make_language_models.py.
static void qwen3_of_the_reference(void **state) {
    struct error error = {0};
    const char *isas[16];
    int count = device_isa_list(isas, 16), taps[] = {0, 1, 2};
    struct checkpoint *expected = fixture_open("qwen3/hidden.safetensors");
    struct tensor tokens = fixture_tensor(expected, DTYPE_I32, "tokens");
    int32_t ids[19];
    memcpy(ids, tokens.data, sizeof ids);
    for (int i = 0; i < count; i++) {
        struct host host = host_open(isas[i], 1);
        struct language_model *model = language_model_open(FIXTURES "qwen3", 2, host.device, &error);
        assert_ok(model, error);
        const struct language_model_config *config = language_model_config(model);
        assert_int_equal(config->kind, LANGUAGE_MODEL_QWEN3);
        struct matrix output = workspace_matrix(host.device, DTYPE_F32, 19, 3 * config->hidden);
        struct language_model_input input = {
            .tokens = ids, .count = 19, .lone_token = -1, .taps = taps, .tap_count = 3};
        input.pads = 19; // nothing but padding
        assert_false(language_model_run(model, &input, output, &error));
        assert_contains(error.message, "no tokens");
        error_clear(&error);
        input.pads = 0;
        assert_ok(language_model_run(model, &input, output, &error), error);
        for (int tap = 0; tap < 3; tap++) {
            float *wanted = fixture_values(fixture_tensor(expected, DTYPE_F32, "hidden_%d", tap));
            float found[19 * 24];
            for (int row = 0; row < 19; row++)
                memcpy(found + row * 24, (float *)output.data + row * output.row_stride + tap * 24,
                       24 * sizeof *found);
            double difference = relative_error(found, wanted, 19 * 24);
            if (!(difference < 2e-5)) fail_msg("%s, hidden state %d: %.2g", isas[i], tap, difference);
            free(wanted);
        }
        language_model_close(model);
        host_close(host);
    }
    checkpoint_close(expected);
}

// --------------------------------------------------------------------------------------------------- while it is running

struct progress {
    int calls, stop_at, layers;
};

static bool count_layers(void *context, int layer, int layers) {
    struct progress *progress = context;
    assert_int_equal(layer, ++progress->calls);
    progress->layers = layers;
    return layer != progress->stop_at;
}

static void progress_and_cancelling(void **state) {
    struct error error = {0};
    struct host host = host_open(NULL, 1);
    struct prompt_encoder *encoder = open_fixture(&models[0], host.device);
    float *embeddings = malloc((size_t)(64 * prompt_encoder_width(encoder)) * sizeof *embeddings);
    struct progress progress = {0};
    size_t used = workspace_mark(host.device);
    assert_ok(prompt_encoder_run(encoder, "x", COMPUTE_F32, count_layers, &progress, embeddings, &error),
              error);
    assert_int_equal(progress.calls, 3); // only as deep as the last tap
    assert_int_equal(progress.layers, 3);
    progress = (struct progress){.stop_at = 2};
    assert_false(prompt_encoder_run(encoder, "x", COMPUTE_F32, count_layers, &progress, embeddings, &error));
    assert_int_equal(error.kind, ERROR_CANCELLED);
    assert_int_equal(progress.calls, 2);
    assert_int_equal(workspace_mark(host.device), used);
    error_clear(&error);
    prompt_encoder_release_pages(encoder);
    assert_ok(prompt_encoder_run(encoder, "x", COMPUTE_F32, NULL, NULL, embeddings, &error), error);
    free(embeddings);
    prompt_encoder_close(encoder);
    host_close(host);
}

static void prompts_are_cleaned_and_cut(void **state) {
    struct error error = {0};
    struct host host = host_open("plain", 1);
    struct prompt_encoder *encoder = open_fixture(&models[0], host.device);
    const struct tokenizer *tokenizer = prompt_encoder_tokenizer(encoder);
    int32_t plain[64], found[64];
    int count;
    assert_ok(prompt_encoder_tokens(encoder, "a cat", plain, &count, &error), error);
    assert_int_equal(plain[63], tokenizer_find(tokenizer, "[/INST]"));
    assert_ok(prompt_encoder_tokens(encoder, "[IMG]a[IMG][IMG] cat[IMG]", found, &count, &error), error);
    assert_memory_equal(found, plain, sizeof found);
    assert_ok(prompt_encoder_tokens(encoder, "[I[IMG]MG]", found, &count, &error),
              error); // deleted once, not again
    assert_int_equal(found[62], tokenizer_find(tokenizer, "[IMG]"));
    char longer[4096];
    memset(longer, '!', sizeof longer);
    longer[sizeof longer - 1] = 0;
    assert_ok(prompt_encoder_tokens(encoder, longer, found, &count, &error), error);
    assert_int_equal(found[0], tokenizer_find(tokenizer, "<s>"));
    assert_int_equal(found[1], tokenizer_find(tokenizer, "[SYSTEM_PROMPT]"));
    assert_int_not_equal(found[63], tokenizer_find(tokenizer, "[/INST]"));
    float *embeddings = run(encoder, longer, 64, COMPUTE_F32); // no pad at all
    free(embeddings);
    prompt_encoder_close(encoder);

    struct prompt_settings settings = models[0].settings; // an empty system message keeps its brackets
    settings.system_message = "";
    encoder = prompt_encoder_open(FIXTURES "model-a", &settings, host.device, &error);
    assert_ok(encoder, error);
    assert_ok(prompt_encoder_tokens(encoder, "", found, &count, &error), error);
    assert_int_equal(found[58], tokenizer_find(tokenizer = prompt_encoder_tokenizer(encoder), "<pad>"));
    assert_int_equal(found[60], tokenizer_find(tokenizer, "[SYSTEM_PROMPT]"));
    assert_int_equal(found[61], tokenizer_find(tokenizer, "[/SYSTEM_PROMPT]"));
    assert_int_equal(found[62], tokenizer_find(tokenizer, "[INST]"));
    prompt_encoder_close(encoder);
    host_close(host);
}

// klein: nothing is deleted or trimmed, added tokens become their ids, and what is too long loses the template's end.
static void prompts_of_klein_are_taken_as_they_are(void **state) {
    struct error error = {0};
    struct host host = host_open("plain", 1);
    struct prompt_encoder *encoder = open_fixture(&models[KLEIN], host.device);
    const struct tokenizer *tokenizer = prompt_encoder_tokenizer(encoder);
    int32_t start = tokenizer_find(tokenizer, "<|im_start|>"), end = tokenizer_find(tokenizer, "<|im_end|>");
    int32_t think = tokenizer_find(tokenizer, "<think>"), pad = tokenizer_find(tokenizer, "<|endoftext|>");
    int32_t plain[40], found[40];
    int empty, count;
    assert_ok(prompt_encoder_tokens(encoder, "", plain, &empty, &error), error);
    assert_int_equal(plain[0], start);
    assert_int_equal(plain[39], pad);
    assert_int_not_equal(plain[empty - 1], pad);
    int at = 0;
    while (plain[at] != end) at++;
    // Five bytes, each an id unless " #" is one, and an added token.
    assert_ok(prompt_encoder_tokens(encoder, "  #<think># ", found, &count, &error), error);
    assert_memory_equal(found, plain, (size_t)at * sizeof *found);
    assert_memory_equal(found + at + count - empty, plain + at, (size_t)(empty - at) * sizeof *found);
    assert_in_range(count - empty, 5, 6);
    bool seen = false;
    for (int i = at; i < at + count - empty; i++) seen |= found[i] == think;
    assert_true(seen);
    assert_ok(prompt_encoder_tokens(encoder, "[IMG]", found, &count, &error), error);
    assert_true(count > empty);
    // A pad that is typed counts as text.
    assert_ok(prompt_encoder_tokens(encoder, "<|endoftext|>", found, &count, &error), error);
    assert_int_equal(count, empty + 1);
    assert_int_equal(found[at], pad);
    char longer[4096];
    memset(longer, '!', sizeof longer);
    longer[sizeof longer - 1] = 0;
    assert_ok(prompt_encoder_tokens(encoder, longer, found, &count, &error), error);
    assert_int_equal(count, 40);
    assert_memory_equal(found, plain, (size_t)at * sizeof *found);
    for (int i = at; i < 40; i++) assert_true(found[i] != end && found[i] != pad);
    free(run(encoder, longer, 40, COMPUTE_F32)); // no pad at all
    prompt_encoder_close(encoder);
    host_close(host);
}

// Rows of real tokens do not see the padding: with more of it they stay the same.
static void padding_behind_changes_no_token(void **state) {
    struct error error = {0};
    struct host host = host_open(NULL, 1);
    struct fixture_model longer = models[KLEIN];
    longer.settings.length = 55;
    struct prompt_encoder *encoders[] = {open_fixture(&models[KLEIN], host.device),
                                         open_fixture(&longer, host.device)};
    int64_t width = prompt_encoder_width(encoders[0]);
    float *embeddings[2];
    int32_t ids[55];
    int count;
    assert_ok(prompt_encoder_tokens(encoders[1], "a cat", ids, &count, &error), error);
    assert_true(count < 30);
    for (int i = 0; i < 2; i++) embeddings[i] = run(encoders[i], "a cat", i ? 55 : 40, COMPUTE_F32);
    assert_true(relative_error(embeddings[1], embeddings[0], 40 * width) < 1e-6);
    for (int i = 0; i < 2; i++) {
        free(embeddings[i]);
        prompt_encoder_close(encoders[i]);
    }
    host_close(host);
}

// ----------------------------------------------------------------------------------------------- folders made for a test

// A copy of model-b in a temporary folder, changed on the way.
struct change {
    const char *prefix;              // instead of "model."; NULL keeps it
    const char *leave_out;           // tensors whose name holds this
    const char *tensor;              // the one that the fields below concern
    bool transpose, integers, spoil; // swap its sides; store it as I32; put a NaN in it
    const char *file, *from,
        *to; // in that file, each [from] becomes [to]; or, without [from], the whole file
};

static void copy_text(const char *folder, const char *name, const struct change *change) {
    struct error error = {0};
    char *text, to[512], from[512];
    size_t size;
    snprintf(from, sizeof from, FIXTURES "model-b/%s", name);
    snprintf(to, sizeof to, "%s/%s", folder, name);
    assert_ok(file_read(from, 1 << 20, &text, &size, &error), error);
    struct buffer out = {0};
    if (change->file && strcmp(change->file, name) == 0) {
        const char *at = text, *place;
        if (change->from && !strstr(text, change->from)) fail_msg("%s has no %s", name, change->from);
        for (; change->from && (place = strstr(at, change->from)); at = place + strlen(change->from)) {
            buffer_add(&out, at, (size_t)(place - at));
            buffer_add_string(&out, change->to);
        }
        buffer_add_string(&out, change->from ? at : change->to);
    } else {
        buffer_add(&out, text, size);
    }
    assert_ok(file_write(to, out.data, out.length, &error), error);
    buffer_free(&out);
    free(text);
}

static void copy_tensor(struct safetensors_writer *writer, const struct checkpoint_entry *entry,
                        const struct change *change) {
    struct error error = {0};
    struct tensor tensor = entry->tensor;
    char name[160], *data = malloc(tensor.bytes);
    memcpy(data, tensor.data, tensor.bytes);
    const char *stem = strncmp(entry->name, "model.", 6) == 0 ? entry->name + 6 : entry->name;
    snprintf(name, sizeof name, "%s%s", change->prefix ? change->prefix : "model.", stem);
    if (change->tensor && strcmp(change->tensor, stem) == 0) {
        if (change->integers) tensor.type = DTYPE_I32;
        if (change->transpose) {
            tensor.shape[0] = entry->tensor.shape[1];
            tensor.shape[1] = entry->tensor.shape[0];
        }
        if (change->spoil) memset(data, 0xff, 4);
    }
    assert_ok(safetensors_writer_add(writer, name, tensor.type, tensor.rank, tensor.shape, data, &error),
              error);
    free(data);
}

static void make_folder(char *folder, const struct change *change) {
    struct error error = {0};
    char path[512];
    strcpy(folder, "/tmp/limn-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
    static const char *const parts[] = {"tokenizer", "text_encoder"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, parts[i]);
        assert_ok(folder_make(path, &error), error);
    }
    copy_text(folder, "tokenizer/tokenizer.json", change);
    copy_text(folder, "text_encoder/config.json", change);
    struct checkpoint *from = checkpoint_open(FIXTURES "model-b/text_encoder", &error);
    assert_ok(from, error);
    struct safetensors_writer *writer = safetensors_writer_new();
    for (int64_t i = 0; i < checkpoint_count(from); i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(from, i);
        if (!change->leave_out || !strstr(entry->name, change->leave_out)) copy_tensor(writer, entry, change);
    }
    snprintf(path, sizeof path, "%s/text_encoder/model.safetensors", folder);
    assert_ok(safetensors_writer_save(writer, path, &error), error);
    safetensors_writer_free(writer);
    checkpoint_close(from);
}

static void remove_folder(const char *folder) {
    static const char *const names[] = {"tokenizer/tokenizer.json",
                                        "text_encoder/config.json",
                                        "text_encoder/model.safetensors",
                                        "tokenizer",
                                        "text_encoder",
                                        ""};
    for (int i = 0; i < 6; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (remove(path)) fail_msg("%s could not be removed", path);
    }
}

static void every_prefix_is_found(void **state) {
    static const char *const prefixes[] = {"language_model.model.", "model.language_model.", "model.", ""};
    struct host host = host_open(NULL, 1);
    float *first = NULL;
    for (int i = 0; i < 4; i++) {
        struct error error = {0};
        char folder[64];
        // Layers behind the last tap and the final norm need not be there.
        make_folder(folder, &(struct change){.prefix = prefixes[i],
                                             .leave_out = i % 2 ? "layers.2." : "model.norm."});
        struct prompt_encoder *encoder =
            prompt_encoder_open(folder, &models[1].settings, host.device, &error);
        assert_ok(encoder, error);
        float *found = run(encoder, "a red circle", 48, COMPUTE_F32);
        if (first) assert_memory_equal(first, found, 48 * 24 * sizeof *found);
        if (first)
            free(found);
        else
            first = found;
        prompt_encoder_close(encoder);
        remove_folder(folder);
    }
    free(first);
    host_close(host);
}

#define CONFIG    .file = "text_encoder/config.json"
#define TOKENIZER .file = "tokenizer/tokenizer.json"

static void broken_models_are_named(void **state) {
    static const struct {
        struct change change;
        const char *message, *where;
    } cases[] = {
        {{.tensor = "layers.1.mlp.down_proj.weight", .transpose = true},
         "model.layers.1.mlp.down_proj.weight",
         "[24, 40]"},
        {{.tensor = "embed_tokens.weight", .transpose = true}, "model.embed_tokens.weight", "[384, 24]"},
        {{.tensor = "layers.0.self_attn.q_proj.weight", .integers = true},
         "layers.0.self_attn.q_proj.weight",
         "I32"},
        {{.tensor = "layers.0.input_layernorm.weight", .spoil = true},
         "layers.0.input_layernorm.weight",
         "model.safetensors"},
        {{.leave_out = "layers.1.self_attn.k_proj"},
         "model.layers.1.self_attn.k_proj.weight",
         "model.safetensors"},
        {{.leave_out = "layers.1."}, "model.layers.1.", "model.safetensors"},
        {{.leave_out = "embed_tokens"}, "embed_tokens.weight", "text_encoder"},
        {{.prefix = "decoder."}, "no tensor embed_tokens.weight", "text_encoder"},
        {{CONFIG, .to = "{"}, "not valid JSON", "config.json"},
        {{CONFIG, .to = "{}"}, "field \"model_type\" is missing", "config.json"},
        {{CONFIG, .from = "\"mistral\"", .to = "\"llama\""}, "model_type is \"llama\"", "config.json"},
        {{CONFIG, .from = "\"mistral\"", .to = "\"mistral3\""},
         "field \"text_config\" is missing",
         "config.json"},
        {{CONFIG, .from = "\"num_hidden_layers\": 3", .to = "\"num_hidden_layers\": 1"},
         "num_hidden_layers is 1",
         "tap"},
        {{CONFIG, .from = "\"hidden_size\": 24", .to = "\"hidden_size\": 72"},
         "embed_tokens.weight",
         "[384, 72]"},
        {{CONFIG, .from = "\"vocab_size\": 384", .to = "\"vocab_size\": 400"},
         "embed_tokens.weight",
         "[400, 24]"},
        {{TOKENIZER, .from = "\"<pad>\"", .to = "\"<gap>\""}, "<pad>", "tokenizer"},
        {{TOKENIZER, .to = "{}"}, "field \"model\" is missing", "tokenizer.json"},
    };
    struct host host = host_open(NULL, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        char folder[64];
        make_folder(folder, &cases[i].change);
        struct prompt_encoder *encoder =
            prompt_encoder_open(folder, &models[1].settings, host.device, &error);
        if (encoder) fail_msg("case %zu (%s) was accepted", i, cases[i].message);
        assert_contains(error.message, cases[i].message);
        assert_contains(error.message, cases[i].where);
        assert_null(strchr(error.message, '\n'));
        remove_folder(folder);
    }
    host_close(host);
}

static void larger_vocabulary_is_refused(void **state) {
    struct error error = {0};
    struct host host = host_open(NULL, 1);
    char folder[64];
    // A token behind the embedding's last row.
    make_folder(
        folder,
        &(struct change){TOKENIZER, .from = "\"added_tokens\":[",
                         .to = "\"added_tokens\":[{\"id\":384,\"content\":\"<extra>\",\"single_word\":false,"
                               "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true},"});
    assert_null(prompt_encoder_open(folder, &models[1].settings, host.device, &error));
    assert_contains(error.message, "token ids up to 384, expected below 384");
    remove_folder(folder);
    host_close(host);
}

static void spoiled_weights_do_not_pass_silently(void **state) {
    struct error error = {0};
    struct host host = host_open(NULL, 1);
    char folder[64];
    make_folder(folder, &(struct change){.tensor = "layers.0.mlp.up_proj.weight", .spoil = true});
    struct prompt_encoder *encoder = prompt_encoder_open(folder, &models[1].settings, host.device, &error);
    assert_ok(encoder, error);
    float embeddings[48 * 24];
    assert_false(prompt_encoder_run(encoder, "x", COMPUTE_F32, NULL, NULL, embeddings, &error));
    assert_contains(error.message, "not finite");
    prompt_encoder_close(encoder);
    remove_folder(folder);
    host_close(host);
}

static void settings_are_checked(void **state) {
    static const struct {
        struct prompt_settings settings;
        const char *message;
    } cases[] = {
        {{NULL, {1}, 1, 48}, "no system message"},    {{"x", {1}, 1, 0}, "text length 0"},
        {{"x", {1}, 0, 48}, "0 text taps"},           {{"x", {1}, PROMPT_TAPS_MOST + 1, 48}, "9 text taps"},
        {{"x", {-1}, 1, 48}, "text tap -1"},          {{"x", {4}, 1, 48}, "num_hidden_layers is 3"},
        {{"x", {1}, 1, 1 << 30}, "text length 1073"},
    };
    struct host host = host_open("plain", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        assert_null(prompt_encoder_open(FIXTURES "model-b", &cases[i].settings, host.device, &error));
        assert_contains(error.message, cases[i].message);
    }
    struct error error = {0};
    assert_null(prompt_encoder_open("/no/such/model", &models[1].settings, host.device, &error));
    assert_contains(error.message, "/no/such/model");
    host_close(host);
}

// A template, a text encoder and a tokenizer that do not belong together.
static void templates_and_models_belong_together(void **state) {
    static const struct {
        const char *folder;
        struct prompt_settings settings;
        const char *message;
    } cases[] = {
        {FIXTURES "model-b",
         {NULL, {1}, 1, 40, .template = PROMPT_QWEN3},
         "text_encoder: the text encoder is a mistral model, but the pipeline's chat template is "
         "made for qwen3"},
        {FIXTURES "model-k",
         {"x", {1}, 1, 40},
         "text_encoder: the text encoder is a qwen3 model, but the pipeline's chat template is "
         "made for mistral3 or mistral"},
        {FIXTURES "model-b",
         {NULL, {1}, 1, 40, .template = PROMPT_QWEN3, .any_model = true},
         "model-b/tokenizer: there is no token \"<|im_start|>\""},
        {FIXTURES "model-k", {"x", {1}, 1, 40, .any_model = true}, "there is no token \"<s>\""},
    };
    struct host host = host_open("plain", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        assert_null(prompt_encoder_open(cases[i].folder, &cases[i].settings, host.device, &error));
        assert_contains(error.message, cases[i].message);
    }
    host_close(host);
}

// ------------------------------------------------------------------------------------------------------------- config

static void configs_of_every_kind(void **state) {
    static const char nested[] =
        "{\"model_type\":\"mistral3\",\"text_config\":{\"model_type\":\"mistral\","
        "\"hidden_size\":5120,\"head_dim\":128,\"num_hidden_layers\":40,\"vocab_size\":131072,"
        "\"intermediate_size\":32768,\"rms_norm_eps\":1e-5,\"rope_theta\":1e9,"
        "\"sliding_window\":null},\"hidden_size\":7}";
    static const char flat[] = "{\"model_type\":\"mistral\",\"hidden_size\":64,\"num_attention_heads\":4,"
                               "\"num_key_value_heads\":null,\"rope_parameters\":{\"rope_type\":\"default\","
                               "\"rope_theta\":5000.0},\"rope_theta\":1.0}";
    struct error error = {0};
    struct language_model_config config;
    assert_ok(language_model_config_parse("c", nested, sizeof nested - 1, &config, &error), error);
    assert_int_equal(config.hidden, 5120);
    assert_int_equal(config.heads, 32); // absent: as transformers has it
    assert_int_equal(config.kv_heads, 8);
    assert_int_equal(config.head_dim, 128);
    assert_int_equal(config.window, 0);
    assert_true(config.rope_theta == 1e9 && config.eps == 1e-5);
    assert_ok(language_model_config_parse("c", flat, sizeof flat - 1, &config, &error), error);
    assert_int_equal(config.head_dim, 16);
    assert_int_equal(config.kv_heads, 4);
    assert_int_equal(config.window, 4096);
    assert_true(config.rope_theta == 5000 && config.eps == 1e-6);
    static const char qwen[] = "{\"model_type\":\"qwen3\",\"hidden_size\":2560,\"sliding_window\":4096}";
    assert_ok(language_model_config_parse("c", qwen, sizeof qwen - 1, &config, &error), error);
    assert_int_equal(config.kind, LANGUAGE_MODEL_QWEN3);
    assert_int_equal(config.head_dim, 128);
    assert_int_equal(config.window, 0);
}

static void bad_configs_are_named(void **state) {
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"", "not valid JSON"},
        {"[]", "expected an object"},
        {"{\"model_type\":7}", "field \"model_type\": expected a string"},
        {"{\"model_type\":\"gpt2\"}", "model_type is \"gpt2\", expected mistral3, mistral or qwen3"},
        {"{\"model_type\":\"mistral3\",\"text_config\":{\"model_type\":\"ministral3\"}}", "\"ministral3\""},
        {"{\"model_type\":\"mistral\",\"hidden_size\":0}", "field \"hidden_size\": 0"},
        {"{\"model_type\":\"mistral\",\"hidden_size\":\"64\"}", "field \"hidden_size\": expected an integer"},
        {"{\"model_type\":\"mistral\",\"num_hidden_layers\":100000}", "field \"num_hidden_layers\": 100000"},
        {"{\"model_type\":\"mistral\",\"num_attention_heads\":12}", "num_attention_heads is 12"},
        {"{\"model_type\":\"mistral\",\"head_dim\":20}", "head_dim is 20, expected a multiple of 8"},
        {"{\"model_type\":\"mistral\",\"hidden_size\":64,\"num_attention_heads\":64}", "head_dim is 1"},
        {"{\"model_type\":\"mistral\",\"hidden_act\":\"gelu\"}", "\"gelu\", expected \"silu\""},
        {"{\"model_type\":\"mistral\",\"rms_norm_eps\":-1}", "field \"rms_norm_eps\": -1"},
        {"{\"model_type\":\"mistral\",\"rms_norm_eps\":0}", "field \"rms_norm_eps\": 0"},
        {"{\"model_type\":\"mistral\",\"rope_theta\":0}", "field \"rope_theta\": 0"},
        {"{\"model_type\":\"mistral\",\"sliding_window\":0}", "field \"sliding_window\": 0"},
        {"{\"model_type\":\"mistral\",\"rope_scaling\":{\"type\":\"yarn\"}}",
         "rope_type \"yarn\", expected \"default\""},
        {"{\"model_type\":\"mistral\",\"rope_parameters\":{\"rope_type\":\"llama3\"}}",
         "rope_type \"llama3\""},
        {"{\"model_type\":\"mistral\",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}",
         "partial_rotary_factor 0.5"},
        {"{\"model_type\":\"qwen3\",\"attention_bias\":true}", "field \"attention_bias\": true"},
        {"{\"model_type\":\"qwen3\",\"use_sliding_window\":true}", "field \"use_sliding_window\": true"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        struct language_model_config config;
        if (language_model_config_parse("c.json", cases[i].json, strlen(cases[i].json), &config, &error))
            fail_msg("%s was accepted", cases[i].json);
        assert_contains(error.message, cases[i].message);
        assert_contains(error.message, "c.json");
    }
}

static void windows_and_ids_are_checked(void **state) {
    struct error error = {0};
    struct host host = host_open("plain", 1);
    char folder[64];
    make_folder(folder,
                &(struct change){CONFIG, .from = "\"sliding_window\": null", .to = "\"sliding_window\": 20"});
    char path[128];
    snprintf(path, sizeof path, "%s/text_encoder", folder);
    struct language_model *model = language_model_open(path, 1, host.device, &error);
    assert_ok(model, error);
    int32_t ids[21] = {0};
    int taps[] = {1};
    struct language_model_input input = {
        .tokens = ids, .count = 21, .lone_token = -1, .taps = taps, .tap_count = 1};
    struct matrix output = workspace_matrix(host.device, DTYPE_F32, 21, 24);
    assert_false(language_model_run(model, &input, output, &error));
    assert_contains(error.message, "at most sliding_window, 20");
    error_clear(&error);
    input.count = 20;
    assert_ok(language_model_run(model, &input, matrix_rows(output, 0, 20), &error), error);
    ids[3] = 384;
    assert_false(language_model_run(model, &input, matrix_rows(output, 0, 20), &error));
    assert_contains(error.message, "token id 384");
    error_clear(&error);
    ids[3] = -1;
    assert_false(language_model_run(model, &input, matrix_rows(output, 0, 20), &error));
    error_clear(&error);
    ids[3] = 0;
    taps[0] = 2;
    assert_false(language_model_run(model, &input, matrix_rows(output, 0, 20), &error));
    assert_contains(error.message, "tap 2, expected one from 0 to 1");
    language_model_close(model);
    remove_folder(folder);
    host_close(host);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_of_the_reference),
        cmocka_unit_test(embeddings_of_the_reference),
        cmocka_unit_test(each_layer_of_the_reference),
        cmocka_unit_test(same_bytes_on_any_number_of_threads),
        cmocka_unit_test(qwen3_of_the_reference),
        cmocka_unit_test(progress_and_cancelling),
        cmocka_unit_test(prompts_are_cleaned_and_cut),
        cmocka_unit_test(prompts_of_klein_are_taken_as_they_are),
        cmocka_unit_test(padding_behind_changes_no_token),
        cmocka_unit_test(every_prefix_is_found),
        cmocka_unit_test(broken_models_are_named),
        cmocka_unit_test(larger_vocabulary_is_refused),
        cmocka_unit_test(spoiled_weights_do_not_pass_silently),
        cmocka_unit_test(settings_are_checked),
        cmocka_unit_test(templates_and_models_belong_together),
        cmocka_unit_test(configs_of_every_kind),
        cmocka_unit_test(bad_configs_are_named),
        cmocka_unit_test(windows_and_ids_are_checked),
    };
    return cmocka_run_group_tests_name("prompt encoder", tests, NULL, NULL);
}
