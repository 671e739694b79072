#include "fixture.h"

#include "base/file.h"
#include "flux/transformer.h"
#include "weights/safetensors_write.h"

#include <unistd.h>

// f32: sums in another order than the reference's; bf16: a few roundings of 2^-9 in each block.
static const double F32_MOST = 2e-5, BF16_MOST = 1e-2;

// The cases of *-transformer.safetensors, as that file's metadata has them.
enum { CASES = 4 };
static const struct {
    int text, grid_count;
    struct token_grid grids[5];
} cases[CASES] = {
    {5, 1, {{3, 4, 0}}},
    {7, 2, {{5, 1, 0}, {2, 3, 10}}},
    {1, 3, {{1, 1, 0}, {4, 1, 10}, {1, 3, 20}}},
    {6, 5, {{3, 3, 0}, {1, 2, 10}, {2, 2, 20}, {3, 1, 30}, {2, 1, 40}}},
};

struct machine {
    struct pool *pool;
    struct device *device;
};

static struct machine machine_open(int threads, const char *isa) {
    struct machine machine;
    struct error error = {0};
    machine.pool = pool_open(threads, &error);
    assert_ok(machine.pool, error);
    machine.device = device_open_cpu(&(struct device_options){.pool = machine.pool, .isa = isa}, &error);
    assert_ok(machine.device, error);
    return machine;
}

static void machine_close(struct machine machine) {
    device_close(machine.device);
    pool_close(machine.pool);
}

// ------------------------------------------------------------------------------------------------------------- values

struct watch {
    const struct checkpoint *fixture;
    const char *model;
    int k, seen;
    double most;
    const float *velocity; // of the last look
};

static void compare(const struct watch *watch, const char *name, const float *values, int64_t count) {
    struct tensor tensor = fixture_tensor(watch->fixture, DTYPE_F32, "%s_%d", name, watch->k);
    assert_int_equal(tensor_values(&tensor), count);
    float *expected = fixture_values(tensor);
    double error = relative_error(values, expected, count);
    if (!(error <= watch->most))
        fail_msg("%s, case %d: %s is off by %.3g, at most %.3g", watch->model, watch->k, name, error,
                 watch->most);
    free(expected);
}

static void see(void *context, const char *name, enum dtype type, int rank, const int64_t *shape,
                const void *data) {
    struct watch *watch = context;
    assert_int_equal(type, DTYPE_F32);
    assert_int_equal(rank, 2);
    compare(watch, name, data, shape[0] * shape[1]);
    watch->seen++;
}

static float scalar(const struct checkpoint *fixture, const char *name, int k) {
    float value;
    memcpy(&value, fixture_tensor(fixture, DTYPE_F32, "%s_%d", name, k).data, sizeof value);
    return value;
}

// Case k; [velocity]: for at least 4096 values. With [watch] every block is held against the fixture.
static void run_case(struct transformer *transformer, const struct checkpoint *fixture, enum compute compute,
                     int k, struct watch *watch, float *velocity) {
    struct error error = {0};
    struct observer observer = {see, watch};
    int64_t channels = transformer_shape(transformer)->in_channels;
    float *tokens = fixture_values(fixture_tensor(fixture, DTYPE_F32, "tokens_%d", k));
    float *embeds = fixture_values(fixture_tensor(fixture, DTYPE_F32, "prompt_embeds_%d", k));
    float *references = tokens + token_grid_tokens(&cases[k].grids[0]) * channels;
    struct transformer_run *run =
        transformer_begin(transformer, compute, cases[k].text, embeds, cases[k].grid_count, cases[k].grids,
                          cases[k].grid_count > 1 ? references : NULL, &error);
    assert_ok(run, error);
    free(embeds); // copied
    float timestep = scalar(fixture, "sigma", k) * 1000;
    assert_ok(transformer_velocity(run, tokens, timestep, scalar(fixture, "guidance", k), NULL, NULL,
                                   watch ? &observer : NULL, velocity, &error),
              error);
    transformer_end(run);
    free(tokens);
}

// Every block and the velocity, on each instruction set that is here.
static void check_model(const char *model, enum compute compute, double most) {
    char path[256], file[256];
    const char *isas[8];
    int isa_count = device_isa_list(isas, 8);
    assert_true(isa_count > 0);
    snprintf(path, sizeof path, FIXTURES "%s", model);
    snprintf(file, sizeof file, "%s-transformer.safetensors", model);
    struct checkpoint *fixture = fixture_open(file);
    for (int i = 0; i < isa_count; i++) {
        struct error error = {0};
        struct machine machine = machine_open(2, isas[i]);
        struct transformer *transformer = transformer_open(path, machine.device, &error);
        assert_ok(transformer, error);
        const struct transformer_shape *shape = transformer_shape(transformer);
        for (int k = 0; k < CASES; k++) {
            float velocity[4096];
            struct watch watch = {.fixture = fixture, .model = model, .k = k, .most = most};
            run_case(transformer, fixture, compute, k, &watch, velocity);
            assert_int_equal(watch.seen, 2 * shape->double_blocks + shape->single_blocks);
            // The fixture has the references' velocities too, behind the generated picture's.
            struct tensor tensor = fixture_tensor(fixture, DTYPE_F32, "velocity_%d", k);
            float *expected = fixture_values(tensor);
            int64_t count = token_grid_tokens(&cases[k].grids[0]) * shape->in_channels;
            double off = relative_error(velocity, expected, count);
            if (!(off <= most))
                fail_msg("%s, %s, case %d: the velocity is off by %.3g", model, isas[i], k, off);
            free(expected);
        }
        transformer_close(transformer);
        machine_close(machine);
    }
    checkpoint_close(fixture);
}

static void blocks_and_velocity_f32(void **state) {
    check_model("model-a", COMPUTE_F32, F32_MOST);
    check_model("model-b", COMPUTE_F32, F32_MOST);
}

static void blocks_and_velocity_bf16(void **state) {
    check_model("model-a", COMPUTE_BF16, BF16_MOST);
    check_model("model-b", COMPUTE_BF16, BF16_MOST);
}

static void positions(void **state) {
    const char *models[] = {"model-a", "model-b"};
    const int axes[][POSITION_AXES] = {{32, 32, 32, 32}, {4, 4, 4, 4}};
    for (int m = 0; m < 2; m++) {
        char file[64];
        snprintf(file, sizeof file, "%s-transformer.safetensors", models[m]);
        struct checkpoint *fixture = fixture_open(file);
        int half = 2 * axes[m][0];
        for (int k = 0; k < CASES; k++) {
            struct tensor tensor = fixture_tensor(fixture, DTYPE_F32, "rope_cos_%d", k);
            float *cosines = fixture_values(tensor);
            float *sines = fixture_values(fixture_tensor(fixture, DTYPE_F32, "rope_sin_%d", k));
            int64_t rows = tensor.shape[0];
            float *mine[2] = {malloc((size_t)(rows * half) * sizeof(float)),
                              malloc((size_t)(rows * half) * sizeof(float))};
            positions_rope(cases[k].text, cases[k].grid_count, cases[k].grids, axes[m], 2000, mine[0],
                           mine[1]);
            for (int64_t i = 0; i < rows * half; i++) {
                // The reference stores each value twice, for both of a pair. Both round f64 to f32.
                assert_true(fabs((double)mine[0][i] - cosines[2 * i]) <= 6e-8);
                assert_true(fabs((double)mine[1][i] - sines[2 * i]) <= 6e-8);
            }
            free(mine[0]);
            free(mine[1]);
            free(cosines);
            free(sines);
        }
        checkpoint_close(fixture);
    }
}

// ------------------------------------------------------------------------------------------- threads, runs, cancelling

static void same_bytes_on_any_number_of_threads(void **state) {
    struct checkpoint *fixture = fixture_open("model-a-transformer.safetensors");
    const char *isas[8];
    int isa_count = device_isa_list(isas, 8);
    for (int i = 0; i < isa_count; i++) {
        for (int compute = COMPUTE_F32; compute <= COMPUTE_BF16; compute++) {
            float first[4096] = {0}, again[4096] = {0};
            for (int threads = 1; threads <= 3; threads++) {
                struct error error = {0};
                struct machine machine = machine_open(threads, isas[i]);
                struct transformer *transformer =
                    transformer_open(FIXTURES "model-a", machine.device, &error);
                assert_ok(transformer, error);
                for (int twice = 0; twice < 2; twice++) {
                    run_case(transformer, fixture, (enum compute)compute, 3, NULL,
                             threads == 1 && !twice ? first : again);
                    if (threads > 1 || twice) assert_memory_equal(first, again, sizeof first);
                }
                assert_int_equal(workspace_mark(machine.device), 0); // all of it was given back
                transformer_close(transformer);
                machine_close(machine);
            }
        }
    }
    checkpoint_close(fixture);
}

// More rows than a chunk holds give what few rows give: rows do not know of chunks. The sequence is made long by text.
static void long_sequences(void **state) {
    enum { TEXT = 1200, REFERENCES = 30 * 30, WIDTH = 24 }; // above the 2048 rows of a chunk
    struct error error = {0};
    struct machine machine = machine_open(2, NULL);
    struct transformer *transformer = transformer_open(FIXTURES "model-b", machine.device, &error);
    assert_ok(transformer, error);
    const struct transformer_shape *shape = transformer_shape(transformer);
    struct token_grid grids[2] = {{2, 2, 0}, {30, 30, 10}};
    int64_t channels = shape->in_channels;
    assert_int_equal(shape->context, WIDTH);
    float *embeds = calloc(TEXT * WIDTH, sizeof *embeds),
          *references = calloc(REFERENCES * 64, sizeof *references);
    float latents[4 * 64], once[4 * 64], swapped[4 * 64];
    for (int64_t i = 0; i < 4 * channels; i++) latents[i] = sinf((float)i);
    for (int64_t i = 0; i < TEXT * WIDTH; i++) embeds[i] = cosf((float)(i % 1009));
    for (int64_t i = 0; i < REFERENCES * channels; i++) references[i] = sinf((float)(i % 613));
    struct transformer_run *run =
        transformer_begin(transformer, COMPUTE_F32, TEXT, embeds, 2, grids, references, &error);
    assert_ok(run, error);
    assert_true(transformer_velocity(run, latents, 700, 1, NULL, NULL, NULL, once, &error));
    // A second evaluation in the same run is not disturbed by the first.
    assert_true(transformer_velocity(run, latents, 300, 1, NULL, NULL, NULL, swapped, &error));
    assert_memory_not_equal(once, swapped, (size_t)(4 * channels) * sizeof(float));
    assert_true(transformer_velocity(run, latents, 700, 1, NULL, NULL, NULL, swapped, &error));
    assert_memory_equal(once, swapped, (size_t)(4 * channels) * sizeof(float));
    transformer_end(run);
    free(embeds);
    free(references);
    transformer_close(transformer);
    machine_close(machine);
}

// Of two texts in a run the chosen one is read, as if the run had been begun with it.
static void two_texts(void **state) {
    enum { TEXT = 9, TOKENS = 12 };
    struct error error = {0};
    struct machine machine = machine_open(2, NULL);
    struct transformer *transformer = transformer_open(FIXTURES "model-k", machine.device, &error);
    assert_ok(transformer, error);
    int64_t width = transformer_shape(transformer)->context,
            channels = transformer_shape(transformer)->in_channels;
    struct token_grid grid = {3, 4, 0};
    size_t bytes = (size_t)(TOKENS * channels) * sizeof(float);
    float *texts[2], *expected[2], *latents = malloc(bytes), *velocity = malloc(bytes);
    for (int64_t i = 0; i < TOKENS * channels; i++) latents[i] = sinf((float)i);
    for (int k = 0; k < 2; k++) {
        texts[k] = malloc((size_t)(TEXT * width) * sizeof(float));
        expected[k] = malloc(bytes);
        for (int64_t i = 0; i < TEXT * width; i++) texts[k][i] = cosf((float)(i * (k + 1)));
        struct transformer_run *run =
            transformer_begin(transformer, COMPUTE_F32, TEXT, texts[k], 1, &grid, NULL, &error);
        assert_ok(run, error);
        assert_true(transformer_velocity(run, latents, 700, -1, NULL, NULL, NULL, expected[k], &error));
        transformer_end(run);
    }
    assert_memory_not_equal(expected[0], expected[1], bytes);
    struct transformer_run *run =
        transformer_begin(transformer, COMPUTE_F32, TEXT, texts[0], 1, &grid, NULL, &error);
    assert_ok(run, error);
    assert_ok(transformer_add_text(run, texts[1], &error), error);
    for (int i = 0; i < 5; i++) { // the first is chosen to begin with
        int k = i & 1;
        if (i > 0) transformer_choose(run, k);
        assert_true(transformer_velocity(run, latents, 700, -1, NULL, NULL, NULL, velocity, &error));
        assert_memory_equal(velocity, expected[k], bytes);
    }
    transformer_end(run);
    assert_int_equal(workspace_mark(machine.device), 0);
    for (int k = 0; k < 2; k++) {
        free(texts[k]);
        free(expected[k]);
    }
    free(latents);
    free(velocity);
    transformer_close(transformer);
    machine_close(machine);
}

// Guidance that is negative is not embedded; what is embedded changes the velocity.
static void guidance_may_be_left_out(void **state) {
    struct error error = {0};
    struct machine machine = machine_open(1, NULL);
    struct transformer *transformer = transformer_open(FIXTURES "model-a", machine.device, &error);
    assert_ok(transformer, error);
    assert_true(transformer_shape(transformer)->guidance);
    struct token_grid grid = {1, 2, 0};
    float embeds[96] = {0}, latents[2 * 16] = {1}, velocities[3][2 * 16];
    static const float guidances[] = {-1, 0, -4};
    assert_int_equal(transformer_shape(transformer)->context, 96);
    assert_int_equal(transformer_shape(transformer)->in_channels, 16);
    struct transformer_run *run =
        transformer_begin(transformer, COMPUTE_F32, 1, embeds, 1, &grid, NULL, &error);
    assert_ok(run, error);
    for (int i = 0; i < 3; i++)
        assert_true(
            transformer_velocity(run, latents, 700, guidances[i], NULL, NULL, NULL, velocities[i], &error));
    assert_memory_not_equal(velocities[0], velocities[1], sizeof velocities[0]); // 0 is embedded
    assert_memory_equal(velocities[0], velocities[2], sizeof velocities[0]);
    transformer_end(run);
    transformer_close(transformer);
    machine_close(machine);
}

struct stopper {
    int calls, stop_at, block, blocks;
};

static bool count_calls(void *context, int block, int blocks) {
    struct stopper *stopper = context;
    assert_true(block >= stopper->block && block <= blocks);
    stopper->block = block;
    stopper->blocks = blocks;
    return ++stopper->calls != stopper->stop_at;
}

static void stops_within_a_block(void **state) {
    struct error error = {0};
    struct machine machine = machine_open(2, NULL);
    struct transformer *transformer = transformer_open(FIXTURES "model-b", machine.device, &error);
    assert_ok(transformer, error);
    const struct transformer_shape *shape = transformer_shape(transformer);
    struct token_grid grid = {2, 3, 0};
    float embeds[3 * 64] = {0}, latents[6 * 64] = {0}, velocity[6 * 64];
    struct transformer_run *run =
        transformer_begin(transformer, COMPUTE_F32, 3, embeds, 1, &grid, NULL, &error);
    assert_ok(run, error);
    struct stopper all = {0};
    assert_true(transformer_velocity(run, latents, 500, 1, count_calls, &all, NULL, velocity, &error));
    int blocks = (int)(shape->double_blocks + shape->single_blocks);
    assert_int_equal(all.blocks, blocks);
    assert_int_equal(all.block, blocks);
    assert_true(all.calls >= 2 * blocks);
    for (int at = 1; at <= all.calls; at++) {
        struct stopper stopper = {.stop_at = at};
        error = (struct error){0};
        assert_false(
            transformer_velocity(run, latents, 500, 1, count_calls, &stopper, NULL, velocity, &error));
        assert_int_equal(error.kind, ERROR_CANCELLED);
        assert_int_equal(stopper.calls, at);
    }
    transformer_end(run);
    transformer_close(transformer);
    machine_close(machine);
}

// A run that does not fit says so and leaves the rest usable.
static void too_large(void **state) {
    struct error error = {0};
    struct machine machine;
    machine.pool = pool_open(1, &error);
    machine.device =
        device_open_cpu(&(struct device_options){.pool = machine.pool, .workspace_bytes = 1 << 20}, &error);
    assert_ok(machine.device, error);
    struct transformer *transformer = transformer_open(FIXTURES "model-b", machine.device, &error);
    assert_ok(transformer, error);
    struct token_grid grid = {100, 100, 0};
    float embeds[64] = {0};
    assert_null(transformer_begin(transformer, COMPUTE_F32, 1, embeds, 1, &grid, NULL, &error));
    assert_int_equal(error.kind, ERROR_MEMORY);
    assert_int_equal(workspace_mark(machine.device), 0);
    transformer_close(transformer);
    machine_close(machine);
}

// ------------------------------------------------------------------------------------------------------ wrong weights

// A copy of model-b's transformer with one thing changed, in a folder of its own.
struct damage {
    const char *name;                    // of the tensor
    const char *instead;                 // its new name; NULL leaves it out
    enum dtype type;                     // DTYPE_NONE: as it is
    int rank;                            // 0: as it is
    int64_t shape[2];                    // where rank is not 0
    bool nan;                            // its first value
    const char *config_from, *config_to; // replaced in config.json
    const char *message;                 // wanted in the error
};

static void add_tensor(struct safetensors_writer *writer, const struct checkpoint_entry *entry,
                       const struct damage *damage) {
    struct error error = {0};
    struct tensor tensor = entry->tensor;
    const char *name = entry->name;
    char *data = malloc(2 * tensor.bytes + 64);
    memset(data, 0, 2 * tensor.bytes + 64);
    memcpy(data, tensor.data, tensor.bytes);
    if (damage->name && strcmp(name, damage->name) == 0) {
        name = damage->instead;
        if (damage->type) tensor.type = damage->type;
        if (damage->rank) {
            tensor.rank = damage->rank;
            memcpy(tensor.shape, damage->shape, sizeof damage->shape);
        }
        if (damage->nan) memcpy(data, &(float){NAN}, sizeof(float));
    }
    if (name)
        assert_ok(safetensors_writer_add(writer, name, tensor.type, tensor.rank, tensor.shape, data, &error),
                  error);
    free(data);
}

static void write_damaged(const char *folder, const struct damage *damage) {
    char path[256];
    struct error error = {0};
    struct checkpoint *checkpoint = checkpoint_open(FIXTURES "model-b/transformer", &error);
    assert_ok(checkpoint, error);
    struct safetensors_writer *writer = safetensors_writer_new();
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++)
        add_tensor(writer, checkpoint_entry(checkpoint, i), damage);
    snprintf(path, sizeof path, "%s/transformer", folder);
    assert_ok(folder_make(path, &error), error);
    snprintf(path, sizeof path, "%s/transformer/diffusion_pytorch_model.safetensors", folder);
    assert_ok(safetensors_writer_save(writer, path, &error), error);
    safetensors_writer_free(writer);
    checkpoint_close(checkpoint);
    char *config = NULL, changed[4096];
    size_t size = 0;
    assert_ok(file_read(FIXTURES "model-b/transformer/config.json", 1 << 16, &config, &size, &error), error);
    char *at = damage->config_from ? strstr(config, damage->config_from) : NULL;
    assert_true(!damage->config_from || at);
    snprintf(changed, sizeof changed, "%.*s%s%s", at ? (int)(at - config) : (int)size, config,
             at ? damage->config_to : "", at ? at + strlen(damage->config_from) : "");
    snprintf(path, sizeof path, "%s/transformer/config.json", folder);
    assert_ok(file_write(path, changed, strlen(changed), &error), error);
    free(config);
}

static void wrong_weights(void **state) {
    static const struct damage damages[] = {
        {.name = "proj_out.weight", .message = "proj_out.weight"},
        {.name = "x_embedder.weight",
         .instead = "x_embedder.weight",
         .rank = 2,
         .shape = {24, 16},
         .message = "x_embedder.weight"},
        {.name = "x_embedder.weight",
         .instead = "x_embedder.weight",
         .rank = 2,
         .shape = {24, 16},
         .message = "[24, 16]"},
        {.name = "x_embedder.weight",
         .instead = "x_embedder.weight",
         .rank = 2,
         .shape = {24, 16},
         .message = "[32, 12]"},
        {.name = "transformer_blocks.1.attn.norm_q.weight",
         .instead = "transformer_blocks.1.attn.norm_q.weight",
         .nan = true,
         .message = "transformer_blocks.1.attn.norm_q.weight"},
        {.name = "context_embedder.weight",
         .instead = "context_embedder.weight",
         .type = DTYPE_I32,
         .message = "context_embedder.weight"},
        {.config_from = "\"num_single_layers\": 3",
         .config_to = "\"num_single_layers\": 2",
         .message =
             "diffusion_pytorch_model.safetensors holds single_transformer_blocks.2.attn.to_out.weight"},
        {.config_from = "\"num_layers\": 2",
         .config_to = "\"num_layers\": 3",
         .message = "transformer_blocks.2.attn.add_q_proj.weight"},
        {.config_from = "\"guidance_embeds\": false",
         .config_to = "\"guidance_embeds\": true",
         .message = "time_guidance_embed.guidance_embedder.linear_1.weight"},
        {.config_from = "\"in_channels\": 12",
         .config_to = "\"in_channels\": 13",
         .message = "x_embedder.weight"},
        {.config_from = "{", .config_to = "[", .message = "transformer/config.json"},
    };
    char folder[64] = "/tmp/limn-transformer-XXXXXX", command[128];
    assert_non_null(mkdtemp(folder));
    struct machine machine = machine_open(1, NULL);
    struct error error = {0};
    struct damage none = {0};
    write_damaged(folder, &none);
    struct transformer *transformer = transformer_open(folder, machine.device, &error);
    assert_ok(transformer, error);
    transformer_close(transformer);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        error = (struct error){0};
        write_damaged(folder, &damages[i]);
        transformer = transformer_open(folder, machine.device, &error);
        if (transformer) fail_msg("damage %zu was not seen: %s", i, damages[i].message);
        assert_contains(error.message, damages[i].message);
    }
    error = (struct error){0};
    assert_null(transformer_open("/no/such", machine.device, &error));
    assert_contains(error.message, "/no/such: there is no such folder");
    machine_close(machine);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(positions),
        cmocka_unit_test(blocks_and_velocity_f32),
        cmocka_unit_test(blocks_and_velocity_bf16),
        cmocka_unit_test(same_bytes_on_any_number_of_threads),
        cmocka_unit_test(long_sequences),
        cmocka_unit_test(two_texts),
        cmocka_unit_test(guidance_may_be_left_out),
        cmocka_unit_test(stops_within_a_block),
        cmocka_unit_test(too_large),
        cmocka_unit_test(wrong_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
