#include "fixture.h"

#include "base/file.h"
#include "limn/limn.h"

#include <pthread.h>
#include <unistd.h>

static struct limn_model *open_b(void) {
    struct limn_error error;
    struct limn_model *model = limn_open(FIXTURES "model-b", NULL, &error);
    assert_ok(model, error);
    assert_int_equal(error.status, LIMN_OK);
    return model;
}

static struct limn_request request_of(const char *prompt) {
    struct limn_request request;
    limn_request_init(&request);
    request.prompt = prompt;
    return request;
}

// ----------------------------------------------------------------------------------------------------------- one thread

static void what_is_said_of_a_model(void **state) {
    struct limn_model_info info;
    struct limn_model *model = open_b();
    limn_model_info(model, &info);
    assert_string_equal(info.name, "random model-b");
    assert_int_equal(info.default_width, 64);
    assert_int_equal(info.default_height, 64);
    assert_int_equal(info.default_steps, 4);
    assert_true(info.default_guidance == 1);
    assert_int_equal(info.side_multiple, 16);
    assert_false(info.has_guidance);
    assert_int_equal(info.text_length, 48);
    assert_string_equal(info.software, "AI generated;flux2");
    assert_string_equal(info.make, "Black Forest Labs");
    assert_true(info.transformer_parameters > 10000);
    assert_true(info.text_encoder_parameters > 10000);
    assert_true(info.autoencoder_parameters > 10000);
    limn_close(model);
    limn_close(NULL);
    assert_string_equal(limn_version(), LIMN_VERSION);
    assert_contains(limn_isa_names(), "plain");
}

static void a_picture(void **state) {
    struct limn_error error = {.status = LIMN_IO, .message = "old"};
    struct limn_model *model = open_b();
    struct limn_request request = request_of("a red circle");
    request.seed = 7;
    request.count = 2;
    struct limn_result *result = limn_run(model, &request, &error);
    assert_ok(result, error);
    assert_int_equal(error.status, LIMN_OK);
    assert_string_equal(error.message, "");
    assert_int_equal(result->count, 2);
    assert_int_equal(result->seed, 7);
    assert_int_equal(result->width, 64);
    assert_int_equal(result->images[1].height, 64);
    assert_int_equal(result->steps, 4);
    assert_true(result->text_tokens > 4 && result->text_tokens <= 48);
    assert_int_equal(result->reference_tokens, 0);
    assert_true(result->text_seconds > 0 && result->step_seconds > 0 && result->decode_seconds > 0);
    limn_result_free(result);
    limn_result_free(NULL);
    limn_close(model);
}

static void wrong_requests_name_the_field(void **state) {
    static uint8_t black[300];
    static const struct limn_image tiny = {10, 10, black};
    struct limn_request requests[] = {request_of(""), request_of(NULL), request_of("x"), request_of("x")};
    static const char *const fields[] = {"prompt", "prompt", "size", "references[0]"};
    requests[2].width = 9999;
    requests[3].references = &tiny;
    requests[3].reference_count = 1;
    struct limn_model *model = open_b();
    for (int i = 0; i < 4; i++) {
        struct limn_error error;
        assert_null(limn_run(model, &requests[i], &error));
        assert_int_equal(error.status, LIMN_BAD_INPUT);
        assert_string_equal(error.field, fields[i]);
        assert_contains(error.message, "expected");
        assert_null(limn_run(model, &requests[i], NULL)); // nobody wants to know
    }
    limn_close(model);
}

static void wrong_options(void **state) {
    static const struct {
        struct limn_options options;
        const char *message;
    } cases[] = {
        {{.threads = -1}, "threads is -1"},
        {{.threads = 1000}, "threads is 1000"},
        {{.compute = (enum limn_compute)9}, "compute is 9"},
        {{.isa = "abacus"}, "abacus"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct limn_error error;
        assert_null(limn_open(FIXTURES "model-b", &cases[i].options, &error));
        assert_int_not_equal(error.status, LIMN_OK);
        assert_contains(error.message, cases[i].message);
    }
}

// --------------------------------------------------------------------------------------------------------- wrong folders

// A fixture in links, without one file or with another in its place.
static void link_fixture(const char *folder, const char *model, const char *left_out, const char *text) {
    static const char *const files[] = {
        "model_index.json",
        "limn.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/chat_template.jinja",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    };
    static const char *const folders[] = {"scheduler", "tokenizer", "text_encoder", "transformer", "vae"};
    struct error error = {0};
    char from[512], to[512];
    for (int i = 0; i < 5; i++) {
        snprintf(to, sizeof to, "%s/%s", folder, folders[i]);
        assert_ok(folder_make(to, &error), error);
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(from, sizeof from, FIXTURES "%s/%s", model, files[i]);
        snprintf(to, sizeof to, "%s/%s", folder, files[i]);
        unlink(to);
        if (strcmp(files[i], left_out) != 0)
            assert_int_equal(symlink(from, to), 0);
        else if (text)
            assert_ok(file_write(to, text, strlen(text), &error), error);
    }
}

static void link_model(const char *folder, const char *left_out, const char *text) {
    link_fixture(folder, "model-b", left_out, text);
}

static void wrong_folders(void **state) {
    static const struct {
        const char *file, *text, *message;
        enum limn_status status;
    } cases[] = {
        {"model_index.json", "{\"_class_name\": \"Flux2KleinKVPipeline\"}", "\"Flux2KleinKVPipeline\"",
         LIMN_UNSUPPORTED},
        {"model_index.json", "{\"_class_name\": \"Flux2KleinPipeline\"}",
         "limn.json: field \"system_message\": a text, expected none", LIMN_BAD_INPUT},
        {"limn.json", NULL, "limn.json: field \"text_taps\" is missing", LIMN_BAD_INPUT},
        {"limn.json", "{\"text_taps\": [2], \"text_length\": 48}",
         "limn.json: field \"system_message\" is missing", LIMN_BAD_INPUT},
        {"limn.json", "{\"text_taps\": [1, 2], \"text_length\": 48, \"system_message\": \"x\"}",
         "48 values a token (2 taps), but the transformer's joint_attention_dim is 24", LIMN_BAD_INPUT},
        {"limn.json", "{\"text_taps\": [99], \"text_length\": 48, \"system_message\": \"x\"}", "99",
         LIMN_BAD_INPUT},
        {"transformer/config.json", "{}", "x_embedder.weight", LIMN_BAD_INPUT},
        {"transformer/diffusion_pytorch_model.safetensors", NULL, "transformer", LIMN_NOT_FOUND},
        {"transformer/diffusion_pytorch_model.safetensors", "short", "diffusion_pytorch_model.safetensors",
         LIMN_BAD_INPUT},
        {"text_encoder/config.json", NULL, "expected a config.json that says how wide heads are",
         LIMN_UNSUPPORTED},
        {"text_encoder/model.safetensors", NULL, "text_encoder", LIMN_NOT_FOUND},
        {"tokenizer/tokenizer.json", NULL, "tokenizer", LIMN_NOT_FOUND},
        {"tokenizer/tokenizer.json", "{}", "tokenizer.json", LIMN_BAD_INPUT},
        {"vae/config.json", NULL, "or a config.json that says how the channels are grouped",
         LIMN_UNSUPPORTED},
        {"vae/diffusion_pytorch_model.safetensors", NULL, "vae", LIMN_NOT_FOUND},
    };
    char folder[64] = "/tmp/limn-model-XXXXXX", command[128];
    struct limn_error error;
    assert_non_null(mkdtemp(folder));
    link_model(folder, "", NULL);
    struct limn_model *model = limn_open(folder, NULL, &error);
    assert_ok(model, error);
    limn_close(model);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        link_model(folder, cases[i].file, cases[i].text);
        model = limn_open(folder, NULL, &error);
        if (model) fail_msg("opened in spite of %s: %s", cases[i].file, cases[i].message);
        assert_contains(error.message, cases[i].message);
        if (error.status != cases[i].status) fail_msg("status %d: %s", (int)error.status, error.message);
    }
    assert_null(limn_open("/no/such/folder", NULL, &error));
    assert_int_equal(error.status, LIMN_NOT_FOUND);
    assert_null(limn_open(NULL, NULL, &error));
    assert_int_equal(error.status, LIMN_BAD_INPUT);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

// The text of a fixture's file (free()), with [to] in the place of [from].
static char *changed_file(const char *name, const char *from, const char *to) {
    char path[512], *text = NULL;
    size_t size = 0;
    struct error error = {0};
    snprintf(path, sizeof path, FIXTURES "%s", name);
    assert_ok(file_read(path, 1 << 20, &text, &size, &error), error);
    char *place = strstr(text, from), *whole = malloc(size + strlen(to) + 1);
    assert_non_null(place);
    sprintf(whole, "%.*s%s%s", (int)(place - text), text, to, place + strlen(from));
    free(text);
    return whole;
}

static void wrong_folders_of_klein(void **state) {
    static const struct {
        const char *file, *from, *to, *message;
        enum limn_status status;
    } cases[] = {
        {"model_index.json", "Flux2KleinPipeline", "Flux2KleinKVPipeline", "\"Flux2KleinKVPipeline\"",
         LIMN_UNSUPPORTED},
        {"model_index.json", "Flux2KleinPipeline", "Flux2Pipeline",
         "limn.json: field \"system_message\" is missing", LIMN_BAD_INPUT},
        {"model_index.json", "false", "0", "field \"is_distilled\": expected true or false", LIMN_BAD_INPUT},
        {"limn.json", "\"steps\"", "\"system_message\": \"x\", \"steps\"",
         "limn.json: field \"system_message\": a text, expected none", LIMN_BAD_INPUT},
        {"limn.json", "\"steps\"", "\"text_template\": \"mistral\", \"steps\"",
         "limn.json: field \"system_message\" is missing", LIMN_BAD_INPUT},
        {"limn.json", "40", "9000", "text_length", LIMN_BAD_INPUT},
        {"limn.json", "3\n  ]", "3, 4]",
         "96 values a token (4 taps), but the transformer's joint_attention_dim is 72", LIMN_BAD_INPUT},
        {"text_encoder/config.json", "\"qwen3\"", "\"mistral\"",
         "text_encoder: the text encoder is a mistral model, but the pipeline's chat template is "
         "made for "
         "qwen3",
         LIMN_UNSUPPORTED},
        {"text_encoder/config.json", "\"hidden_size\": 24", "\"hidden_size\": 32", "embed_tokens.weight",
         LIMN_BAD_INPUT},
        {"tokenizer/tokenizer.json", "<|im_start|>", "<|im_begin|>",
         "tokenizer: there is no token \"<|im_start|>\", which the chat template uses", LIMN_BAD_INPUT},
        {"tokenizer/tokenizer.json", "<|im_end|>", "<|im_stop|>", "\"<|im_end|>\"", LIMN_BAD_INPUT},
        {"tokenizer/tokenizer.json", "<think>", "<thought>", "\"<think>\"", LIMN_BAD_INPUT},
        {"tokenizer/tokenizer.json", "</think>", "</thought>", "\"</think>\"", LIMN_BAD_INPUT},
        {"tokenizer/tokenizer.json", "<|endoftext|>", "<|end|>", "\"<|endoftext|>\"", LIMN_BAD_INPUT},
        {"tokenizer/chat_template.jinja", "enable_thinking is defined and enable_thinking", "thinking",
         "chat_template.jinja: the chat template has no "
         "enable_thinking",
         LIMN_UNSUPPORTED},
        {"tokenizer/chat_template.jinja", "<think>\\n\\n</think>", "<think></think>",
         "chat_template.jinja: the chat template has no <think>\\n\\n</think>\\n\\n", LIMN_UNSUPPORTED},
        {"tokenizer/tokenizer_config.json", "{", "{\"chat_template\": \"{{ messages }}\", ",
         "tokenizer_config.json: the chat template has no <|im_start|>", LIMN_UNSUPPORTED},
        {"tokenizer/tokenizer_config.json", "{", "", "tokenizer_config.json", LIMN_BAD_INPUT},
    };
    char folder[64] = "/tmp/limn-klein-XXXXXX", command[128], name[128];
    struct limn_error error;
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(name, sizeof name, "model-k/%s", cases[i].file);
        char *text = changed_file(name, cases[i].from, cases[i].to);
        link_fixture(folder, "model-k", cases[i].file, text);
        // Of the two places of a template the first beats the second.
        snprintf(name, sizeof name, "%s/tokenizer/chat_template.jinja", folder);
        if (strcmp(cases[i].file, "tokenizer/tokenizer_config.json") == 0) unlink(name);
        struct limn_model *model = limn_open(folder, NULL, &error);
        if (model) fail_msg("opened in spite of %s: %s", cases[i].file, cases[i].message);
        assert_contains(error.message, cases[i].message);
        assert_null(strchr(error.message, '\n'));
        if (error.status != cases[i].status) fail_msg("status %d: %s", (int)error.status, error.message);
        free(text);
    }
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

// The same weights as a base model and as a distilled one, which takes no guidance.
static void guidance_of_klein(void **state) {
    char folder[64] = "/tmp/limn-klein-XXXXXX", command[128];
    assert_non_null(mkdtemp(folder));
    char *index =
        changed_file("model-k/model_index.json", "\"is_distilled\": false", "\"is_distilled\": true");
    for (int distilled = 0; distilled < 2; distilled++) {
        struct limn_error error;
        struct limn_model_info info;
        link_fixture(folder, "model-k", distilled ? "model_index.json" : "", index);
        struct limn_model *model = limn_open(folder, NULL, &error);
        assert_ok(model, error);
        limn_model_info(model, &info);
        assert_int_equal(info.has_guidance, !distilled);
        assert_true(info.default_guidance == (distilled ? 1 : 4));
        assert_int_equal(info.default_steps, 3);
        struct limn_request request = request_of("a red circle");
        struct limn_result *results[4];
        static const float guidances[] = {-1, 1, 0, 4};
        for (int i = 0; i < 4; i++) {
            request.guidance = guidances[i];
            results[i] = limn_run(model, &request, &error);
            assert_ok(results[i], error);
            assert_true(results[i]->guidance == (i ? guidances[i] : info.default_guidance));
        }
        size_t bytes = 48 * 64 * 3;
        const uint8_t *one = results[1]->images[0].pixels, *four = results[3]->images[0].pixels;
        assert_memory_equal(results[2]->images[0].pixels, one, bytes); // 0 and 1: a single evaluation
        assert_memory_equal(results[0]->images[0].pixels, four, bytes);
        assert_int_equal(memcmp(one, four, bytes) == 0, distilled);
        for (int i = 0; i < 4; i++) limn_result_free(results[i]);
        limn_close(model);
    }
    free(index);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

// limn.json can say what model_index.json would.
static void klein_without_a_model_index(void **state) {
    char folder[64] = "/tmp/limn-klein-XXXXXX", command[128], name[128];
    struct limn_error error;
    struct limn_request request = request_of("a red circle");
    struct limn_result *results[2];
    assert_non_null(mkdtemp(folder));
    char *settings = changed_file("model-k/limn.json", "\"steps\"",
                                  "\"pipeline\": \"Flux2KleinPipeline\", \"distilled\": false, \"steps\"");
    for (int i = 0; i < 2; i++) {
        link_fixture(folder, "model-k", i ? "limn.json" : "", settings);
        snprintf(name, sizeof name, "%s/model_index.json", folder);
        if (i) assert_int_equal(unlink(name), 0);
        struct limn_model *model = limn_open(folder, NULL, &error);
        assert_ok(model, error);
        results[i] = limn_run(model, &request, &error);
        assert_ok(results[i], error);
        limn_close(model);
    }
    assert_true(results[1]->guidance == 4);
    assert_memory_equal(results[0]->images[0].pixels, results[1]->images[0].pixels, 48 * 64 * 3);
    for (int i = 0; i < 2; i++) limn_result_free(results[i]);
    free(settings);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

// Puts a NaN into a tensor of a linked weight file.
static void damage(const char *folder, const char *file, const char *name) {
    char from[512], to[512], *data = NULL;
    size_t size = 0;
    struct error error = {0};
    float nan = NAN;
    link_model(folder, file, NULL);
    snprintf(from, sizeof from, FIXTURES "model-b/%s", file);
    snprintf(to, sizeof to, "%s/%s", folder, file);
    assert_ok(file_read(from, 1 << 24, &data, &size, &error), error);
    struct checkpoint *checkpoint = checkpoint_parse(file, data, size, &error);
    assert_ok(checkpoint, error);
    struct tensor tensor = fixture_tensor(checkpoint, DTYPE_F32, "%s", name);
    memcpy(data + ((const char *)tensor.data - data), &nan, sizeof nan);
    checkpoint_close(checkpoint);
    assert_ok(file_write(to, data, size, &error), error);
    free(data);
}

// Large weights are not read before they are used: damage in them is found when the request runs.
static void weights_that_are_no_numbers(void **state) {
    static const struct {
        const char *file, *tensor, *message;
    } cases[] = {
        {"text_encoder/model.safetensors", "model.layers.0.mlp.down_proj.weight", "text_encoder"},
        {"transformer/diffusion_pytorch_model.safetensors", "proj_out.weight", "transformer"},
        {"vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.weight", "vae"},
        {"vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.bias", "vae"},
    };
    char folder[64] = "/tmp/limn-nan-XXXXXX", command[128];
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct limn_error error;
        damage(folder, cases[i].file, cases[i].tensor);
        struct limn_request request = request_of("x");
        struct limn_model *model = limn_open(folder, NULL, &error);
        struct limn_result *result = model ? limn_run(model, &request, &error) : NULL;
        if (result) fail_msg("a picture in spite of a NaN in %s", cases[i].tensor);
        assert_int_equal(error.status, LIMN_BAD_INPUT);
        assert_contains(error.message, cases[i].message);
        limn_close(model);
    }
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

// -------------------------------------------------------------------------------------------------------- many threads

enum { CALLERS = 4 };

struct caller {
    struct limn_model *model;
    int index;
    struct limn_result *result;
    struct limn_error error;
    struct shared *shared;
};

// How many requests are past the queue at one time.
struct shared {
    pthread_mutex_t lock;
    int running, most;
};

static bool count_running(void *user, const struct limn_progress *progress) {
    struct caller *caller = user;
    struct shared *shared = caller->shared;
    pthread_mutex_lock(&shared->lock);
    bool first = progress->stage == LIMN_STAGE_TEXT && progress->block == 0 && progress->blocks == 0;
    bool last = progress->stage == LIMN_STAGE_STEPS && progress->step == progress->steps - 1 &&
                progress->block == progress->blocks;
    if (first) shared->running++;
    if (shared->running > shared->most) shared->most = shared->running;
    if (last && shared->running > 0) shared->running = 0;
    pthread_mutex_unlock(&shared->lock);
    return true;
}

static void *call(void *context) {
    struct caller *caller = context;
    struct limn_request request = request_of("together");
    request.seed = (uint64_t)caller->index;
    request.progress = count_running;
    request.user = caller;
    caller->result = limn_run(caller->model, &request, &caller->error);
    return NULL;
}

static void callers_share_one_queue(void **state) {
    struct limn_model *model = open_b();
    struct shared shared = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct caller callers[CALLERS];
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (struct caller){.model = model, .index = i, .shared = &shared};
        assert_int_equal(pthread_create(&threads[i], NULL, call, &callers[i]), 0);
    }
    for (int i = 0; i < CALLERS; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(shared.most, 1);
    for (int i = 0; i < CALLERS; i++) {
        assert_ok(callers[i].result, callers[i].error);
        struct limn_request request = request_of("together");
        request.seed = (uint64_t)i;
        struct limn_result *alone = limn_run(model, &request, NULL);
        assert_memory_equal(alone->images[0].pixels, callers[i].result->images[0].pixels, 64 * 64 * 3);
        limn_result_free(alone);
        limn_result_free(callers[i].result);
    }
    limn_close(model);
}

// A request that holds its place until it is told to go on.
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool entered, open;
};

static bool hold(void *user, const struct limn_progress *progress) {
    struct gate *gate = user;
    pthread_mutex_lock(&gate->lock);
    gate->entered = true;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->open) pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
    return true;
}

struct holder {
    struct limn_model *model;
    struct gate *gate;
    struct limn_result *result;
};

static void *run_held(void *context) {
    struct holder *holder = context;
    struct limn_request request = request_of("first");
    request.progress = hold;
    request.user = holder->gate;
    holder->result = limn_run(holder->model, &request, NULL);
    return NULL;
}

static bool refuse_when_queued(void *user, const struct limn_progress *progress) {
    int *calls = user;
    ++*calls;
    return progress->stage != LIMN_STAGE_QUEUED;
}

static void *close_model(void *model) {
    limn_close(model);
    return NULL;
}

static void cancelled_while_waiting(void **state) {
    struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct holder holder = {open_b(), &gate, NULL};
    pthread_t thread, closer;
    assert_int_equal(pthread_create(&thread, NULL, run_held, &holder), 0);
    pthread_mutex_lock(&gate.lock);
    while (!gate.entered) pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
    int calls = 0;
    struct limn_error error;
    struct limn_request request = request_of("second");
    request.progress = refuse_when_queued;
    request.user = &calls;
    assert_null(limn_run(holder.model, &request, &error));
    assert_int_equal(error.status, LIMN_CANCELLED);
    assert_int_equal(calls, 1);
    // Closing waits for the one in flight.
    assert_int_equal(pthread_create(&closer, NULL, close_model, holder.model), 0);
    pthread_mutex_lock(&gate.lock);
    gate.open = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(pthread_join(closer, NULL), 0);
    assert_non_null(holder.result);
    limn_result_free(holder.result);
}

// ------------------------------------------------------------------------------------------------------------- pictures

static void pictures_are_saved_and_loaded(void **state) {
    char folder[64] = "/tmp/limn-image-XXXXXX", path[128], command[128];
    uint8_t pixels[20 * 10 * 3];
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 11);
    struct limn_image image = {20, 10, pixels}, loaded;
    struct limn_error error;
    static const char *const endings[] = {"png", "jpg", "jpeg", "webp", "gif", "avif"};
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s/a.%s", folder, endings[i]);
        assert_ok(limn_image_save(&image, path, "seed 1", &error), error);
        assert_ok(limn_image_load(&loaded, path, &error), error);
        assert_int_equal(loaded.width, 20);
        assert_int_equal(loaded.height, 10);
        if (i == 0) assert_memory_equal(loaded.pixels, pixels, sizeof pixels);
        limn_image_free(&loaded);
        assert_null(loaded.pixels);
    }
    limn_image_free(NULL);
    snprintf(path, sizeof path, "%s/a.tiff", folder);
    assert_false(limn_image_save(&image, path, NULL, &error));
    assert_int_equal(error.status, LIMN_BAD_INPUT);
    assert_contains(error.message, "a.tiff");
    assert_false(file_exists(path));
    assert_false(limn_image_save(&(struct limn_image){0}, "/tmp/none.png", NULL, &error));
    assert_contains(error.message, "no picture");
    assert_false(limn_image_save(&image, "/no/such/folder/a.png", NULL, &error));
    assert_contains(error.message, "/no/such/folder/a.png");
    assert_false(limn_image_load(&loaded, "/no/such.png", &error));
    assert_int_equal(error.status, LIMN_NOT_FOUND);
    assert_false(limn_image_load(&loaded, FIXTURES "model-b/limn.json", &error));
    assert_contains(error.message, "limn.json");
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

// ------------------------------------------------------------------------------------------------------- the example

// The program in the head of limn.h, compiled as it stands there, beside a folder models/pictogram.
static void the_example_of_the_header(void **state) {
    char folder[64] = "/tmp/limn-example-XXXXXX", path[128], command[1024];
    struct limn_error error;
    struct limn_image image;
    assert_non_null(mkdtemp(folder));
    snprintf(command, sizeof command,
             "cd '%s' && mkdir models && ln -s " FIXTURES "model-b models/pictogram && '" LIMN_EXAMPLE "'",
             folder);
    assert_int_equal(system(command), 0);
    snprintf(path, sizeof path, "%s/out.png", folder);
    assert_ok(limn_image_load(&image, path, &error), error);
    assert_int_equal(image.width, 64);
    limn_image_free(&image);
    // Without the model it says so and fails.
    snprintf(command, sizeof command, "cd '%s' && rm -r models && '" LIMN_EXAMPLE "' 2>message", folder);
    assert_int_not_equal(system(command), 0);
    snprintf(command, sizeof command, "grep -q models/pictogram '%s/message' && rm -rf '%s'", folder, folder);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_said_of_a_model),
        cmocka_unit_test(a_picture),
        cmocka_unit_test(wrong_requests_name_the_field),
        cmocka_unit_test(wrong_options),
        cmocka_unit_test(wrong_folders),
        cmocka_unit_test(wrong_folders_of_klein),
        cmocka_unit_test(guidance_of_klein),
        cmocka_unit_test(klein_without_a_model_index),
        cmocka_unit_test(weights_that_are_no_numbers),
        cmocka_unit_test(callers_share_one_queue),
        cmocka_unit_test(cancelled_while_waiting),
        cmocka_unit_test(pictures_are_saved_and_loaded),
        cmocka_unit_test(the_example_of_the_header),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
