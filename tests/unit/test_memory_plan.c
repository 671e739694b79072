#include "fixture.h"

#include "base/file.h"
#include "base/memory.h"
#include "flux/memory_plan.h"
#include "flux/pipeline_inside.h"
#include "weights/parts.h"

#include <ftw.h>
#include <unistd.h>

static struct limn_request request_of(int side) {
    struct limn_request request;
    limn_request_init(&request);
    request.prompt = "a red circle";
    request.width = request.height = side;
    request.steps = 1;
    return request;
}

struct watch {
    const struct pipeline *pipeline;
    int64_t peak;
};

static bool look(void *user, const struct limn_progress *progress) {
    struct watch *watch = user;
    const int64_t peak = (int64_t)watch->pipeline->device->workspace.peak;
    (void)progress;
    if (peak > watch->peak) watch->peak = peak;
    return true;
}

// What a run really takes of the workspace lies below the plan's bounds, and not far below.
static void bounds_hold(void **state) {
    static const char *const folders[] = {FIXTURES "model-a", FIXTURES "model-b",
                                          LIMN_SOURCE_DIR "/models/pictogram"};
    static uint8_t pixels[96 * 80 * 3];
    const struct limn_image image = {96, 80, pixels};
    for (size_t f = 0; f < sizeof folders / sizeof *folders; f++)
        for (int references = 0; references < 2; references++) {
            struct error error = {0};
            struct memory_plan plan;
            struct pipeline *pipeline = pipeline_open(folders[f], NULL, &error);
            assert_ok(pipeline, error);
            struct limn_request request = request_of(256), filled;
            request.references = &image;
            request.reference_count = references;
            assert_ok(pipeline_check(pipeline, &request, &filled, &error), error);
            pipeline_plan(pipeline, &filled, 1 << 30, &plan);
            assert_int_equal(plan.count, 3 + references);
            assert_true(plan.possible);
            int64_t most = 0;
            for (int i = 0; i < plan.count; i++)
                if (plan.stages[i].own > most) most = plan.stages[i].own;
            struct watch watch = {.pipeline = pipeline};
            request.progress = look;
            request.user = &watch;
            struct limn_result *result = pipeline_run(pipeline, &request, NULL, &error);
            assert_ok(result, error);
            const int64_t peak = watch.peak;
            assert_true(peak > 1000000);
            if (peak > most)
                fail_msg("%s: %lld bytes, planned %lld", folders[f], (long long)peak, (long long)most);
            // Beside the workspace the plan holds embeddings, latents, pixels and repacked weights, and it takes elements of
            // four bytes where there may be two: no more than four times as much.
            if (most > 4 * peak + (32 << 20))
                fail_msg("%s: %lld bytes, planned %lld", folders[f], (long long)peak, (long long)most);
            limn_result_free(result);
            pipeline_close(pipeline);
        }
}

static void too_little_memory_is_said_before_the_run(void **state) {
    struct error error = {0};
    struct memory_plan plan;
    struct limn_request request = request_of(512), filled;
    struct pipeline *pipeline = pipeline_open(LIMN_SOURCE_DIR "/models/pictogram", NULL, &error);
    assert_ok(pipeline, error);
    assert_ok(pipeline_check(pipeline, &request, &filled, &error), error);
    pipeline_plan(pipeline, &filled, 1 << 20, &plan);
    assert_false(plan.possible);
    assert_false(memory_plan_check(&plan, &filled, &error));
    assert_int_equal(error.kind, ERROR_MEMORY);
    assert_contains(error.message, "512x512 with 0 references");
    setenv("LIMN_MEMORY", "1MiB", 1);
    error = (struct error){0};
    assert_null(pipeline_run(pipeline, &request, NULL, &error));
    assert_int_equal(error.kind, ERROR_MEMORY);
    unsetenv("LIMN_MEMORY");
    // What fits only in tiles is planned in tiles.
    request.width = request.height = 1024;
    error = (struct error){0};
    assert_ok(pipeline_check(pipeline, &request, &filled, &error), error);
    pipeline_plan(pipeline, &filled, 0, &plan);
    assert_int_equal(plan.tile, 0);
    const int64_t whole = plan.stages[2].own;
    pipeline_plan(pipeline, &filled, whole * 3 / 4, &plan);
    assert_true(plan.tile > 0);
    pipeline_close(pipeline);
}

static void residence_follows_memory(void **state) {
    struct error error = {0};
    struct memory_plan plan;
    struct limn_request request = request_of(128), filled;
    struct pipeline *pipeline = pipeline_open(LIMN_SOURCE_DIR "/models/pictogram", NULL, &error);
    assert_ok(pipeline, error);
    assert_ok(pipeline_check(pipeline, &request, &filled, &error), error);
    pipeline_plan(pipeline, &filled, 1 << 30, &plan);
    assert_string_equal(plan.stages[1].name, "steps");
    assert_true(plan.stages[1].resident);
    assert_int_equal(plan.stages[1].weights.type, DTYPE_BF16);
    assert_in_range(plan.stages[1].weights.bytes, 13000000, 14000000);
    pipeline_plan(pipeline, &filled, plan.stages[1].own + 1000000, &plan);
    assert_false(plan.stages[1].resident);
    pipeline_close(pipeline);
}

static char root[] = "/tmp/limn-plan-XXXXXX";

// Of several forms the finest that stays in memory is opened.
static void forms_are_chosen_by_memory(void **state) {
    static const char json[] =
        "{\"transformer\": [\"fine\", \"coarse.safetensors\"], \"system_message\": \"x\","
        " \"text_taps\": [2], \"text_length\": 48}";
    char path[200];
    struct error error = {0};
    assert_non_null(mkdtemp(root));
    static const char *const names[] = {"vae", "text_encoder", "tokenizer", "model_index.json"};
    for (size_t i = 0; i < 4; i++) {
        char target[300];
        snprintf(path, sizeof path, "%s/%s", root, names[i]);
        snprintf(target, sizeof target, FIXTURES "model-b/%s", names[i]);
        assert_int_equal(symlink(target, path), 0);
    }
    snprintf(path, sizeof path, "%s/fine", root); // 4 bytes a value
    assert_int_equal(symlink(FIXTURES "model-b/transformer", path), 0);
    snprintf(path, sizeof path, "%s/coarse.safetensors", root);
    assert_int_equal(symlink(FIXTURES "model-b/vae/diffusion_pytorch_model.safetensors", path), 0);
    snprintf(path, sizeof path, "%s/limn.json", root);
    assert_ok(file_write(path, json, sizeof json - 1, &error), error);
    setenv("LIMN_MEMORY", "1GB", 1);
    struct pipeline *pipeline = pipeline_open(root, NULL, &error);
    assert_ok(pipeline, error);
    pipeline_close(pipeline);
    // The other form is an autoencoder here, so that taking it shows.
    setenv("LIMN_MEMORY", "1kB", 1);
    assert_null(pipeline_open(root, NULL, &error));
    assert_contains(error.message, "coarse.safetensors");
    unsetenv("LIMN_MEMORY");
}

static void the_rule_of_choice(void **state) {
    static const int64_t bytes[] = {800, 400, 100, 200};
    assert_int_equal(part_choose(bytes, 4, 1000), 0);
    assert_int_equal(part_choose(bytes, 4, 913), 1); // an eighth is left to the rest
    assert_int_equal(part_choose(bytes, 4, 400), 2);
    assert_int_equal(part_choose(bytes, 4, 0), 2); // none stays: the smallest
    assert_int_equal(part_choose(bytes, 1, 0), 0);
}

static void sizes_are_read(void **state) {
    static const struct {
        const char *text;
        int64_t bytes;
    } cases[] = {{"24GB", 24000000000},
                 {"24 GiB", 25769803776},
                 {"1.5k", 1500},
                 {"800MB", 800000000},
                 {"17", 17},
                 {"17B", 17},
                 {"2T", 2000000000000},
                 {"", -1},
                 {"GB", -1},
                 {"-1GB", -1},
                 {"5 apples", -1},
                 {"1e30", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (memory_parse(cases[i].text) != cases[i].bytes) fail_msg("\"%s\"", cases[i].text);
    setenv("LIMN_MEMORY", "3MB", 1);
    assert_int_equal(memory_available(), 3000000);
    setenv("LIMN_MEMORY", "nonsense", 1);
    assert_true(memory_available() > 3000000);
    unsetenv("LIMN_MEMORY");
}

static int unlink_one(const char *path, const struct stat *status, int type, struct FTW *walk) {
    (void)status, (void)type, (void)walk;
    return remove(path);
}

static int tear_down(void **state) {
    return nftw(root, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
}

// A LoRA of the model is read in every step, too.
static void loras_count(void **state) {
    const struct limn_lora lora = {.file = FIXTURES "model-a-lora-diffusers.safetensors", .scale = 1};
    struct limn_options options = {.loras = &lora, .lora_count = 1};
    struct stat file;
    int64_t bytes[2];
    assert_int_equal(stat(lora.file, &file), 0);
    for (int i = 0; i < 2; i++) {
        struct error error = {0};
        struct memory_plan plan;
        struct limn_request request = request_of(64), filled;
        struct pipeline *pipeline = pipeline_open(FIXTURES "model-a", i ? &options : NULL, &error);
        assert_ok(pipeline, error);
        assert_ok(pipeline_check(pipeline, &request, &filled, &error), error);
        pipeline_plan(pipeline, &filled, 1 << 30, &plan);
        bytes[i] = plan.stages[1].weights.bytes;
        pipeline_close(pipeline);
    }
    assert_int_equal(bytes[1] - bytes[0], file.st_size);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bounds_hold),
        cmocka_unit_test(loras_count),
        cmocka_unit_test(too_little_memory_is_said_before_the_run),
        cmocka_unit_test(residence_follows_memory),
        cmocka_unit_test(forms_are_chosen_by_memory),
        cmocka_unit_test(the_rule_of_choice),
        cmocka_unit_test(sizes_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, tear_down);
}
