// How far bf16 and int8 take a whole run away from f32: the same noise, the same prompts, only the type of the products differs.
//
//     bench_precision [--threads N] [--isa NAME] [--count N] FOLDER...
//
// A FOLDER is a model (pictures are compared, too) or has only a "transformer" in it, as bench_model writes them; then latents of
// 256 x 256 are denoised in 4 steps beside random prompt embeddings. --count: that many prompts (at most 8) or noises, 4 by default.
// Relative errors are the norm of the difference over that of the f32 values; all figures are means over the runs, and the worst.
#include "base/file.h"
#include "flux/noise.h"
#include "flux/pipeline.h"
#include "flux/schedule.h"
#include "flux/transformer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WAYS = 3, TEXT = 512, SIDE = 256, STEPS = 4, COUNT_MOST = 8 };

static const char *const way_names[WAYS] = {"f32", "bf16", "int8"};

// What the bundled model knows; other models take them as well.
static const char *const prompts[COUNT_MOST] = {
    "a large red circle in the center on a white background",
    "a small blue star in the top left corner",
    "a green triangle to the left of a yellow square",
    "a person waving, with brown hair, a red shirt and blue trousers, on grass",
    "a purple heart inside a black ring",
    "an orange diamond above a pink cross on a striped background",
    "a person sitting, with black hair, a green shirt and gray trousers, on sand",
    "three shapes: a red square, a blue circle and a yellow star",
};

struct options {
    int threads, count;
    const char *isa;
};

// What one run leaves.
struct outcome {
    float *velocity, *latents; // of the first step, behind the last one
    uint8_t *picture;          // NULL where there is none
    int64_t latent_count, picture_count;
};

struct figures {
    double velocity, latents, worst_latents, levels, worst_levels, far;
};

static void check(bool done, const struct error *error) {
    if (done) return;
    fprintf(stderr, "bench_precision: %s\n", error->message);
    exit(1);
}

static void *copy(const void *from, size_t bytes) {
    void *to = malloc(bytes ? bytes : 1);
    if (!to) exit(1);
    return memcpy(to, from, bytes);
}

static void drop(struct outcome *outcome) {
    free(outcome->velocity);
    free(outcome->latents);
    free(outcome->picture);
}

// ---------------------------------------------------------------------------------------------------------- comparing

static double relative(const float *values, const float *reference, int64_t count) {
    double error = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        const double off = (double)values[i] - reference[i];
        error += off * off;
        size += (double)reference[i] * reference[i];
    }
    return sqrt(error / size);
}

static void compare(const struct outcome *outcome, const struct outcome *reference, int count,
                    struct figures *figures) {
    const double latents = relative(outcome->latents, reference->latents, reference->latent_count);
    int64_t sum = 0, far = 0;
    for (int64_t i = 0; i < reference->picture_count; i++) {
        const int off = abs(outcome->picture[i] - reference->picture[i]);
        sum += off;
        far += off > 16;
    }
    const double pixels = reference->picture_count ? (double)reference->picture_count : 1;
    figures->velocity += relative(outcome->velocity, reference->velocity, reference->latent_count) / count;
    figures->latents += latents / count;
    figures->worst_latents = fmax(figures->worst_latents, latents);
    figures->levels += (double)sum / pixels / count;
    figures->worst_levels = fmax(figures->worst_levels, (double)sum / pixels);
    figures->far += (double)far / pixels / count;
}

static void print(const char *folder, bool pictures, const struct figures *figures) {
    printf("%s\n", folder);
    for (int way = 1; way < WAYS; way++) {
        const struct figures *f = &figures[way];
        printf("  %s: first velocity %.2e, latents %.2e (worst %.2e)", way_names[way], f->velocity,
               f->latents, f->worst_latents);
        if (pictures)
            printf(", picture %.3f levels (worst %.3f), %.3f %% of values more than 16 off", f->levels,
                   f->worst_levels, 100 * f->far);
        putchar('\n');
    }
    fflush(stdout);
}

// ---------------------------------------------------------------------------------------------------------- whole models

static void see(void *context, const char *name, enum dtype type, int rank, const int64_t *shape,
                const void *data) {
    struct outcome *outcome = context;
    int step;
    char what[16] = "";
    if (sscanf(name, "step_%d_%15s", &step, what) != 2) return;
    const int64_t count = rank == 2 ? shape[0] * shape[1] : 0;
    if (!strcmp(what, "velocity") && step == 0) {
        outcome->velocity = copy(data, (size_t)count * sizeof(float));
        outcome->latent_count = count;
    } else if (!strcmp(what, "latents")) {
        free(outcome->latents);
        outcome->latents = copy(data, (size_t)count * sizeof(float));
    }
}

static void run_model(const char *folder, const struct options *options, int way, struct outcome *outcomes) {
    struct error error = {0};
    struct limn_options engine;
    limn_options_init(&engine);
    engine.threads = options->threads;
    engine.isa = options->isa;
    engine.compute = (enum limn_compute)(LIMN_COMPUTE_F32 + way);
    struct pipeline *pipeline = pipeline_open(folder, &engine, &error);
    check(pipeline != NULL, &error);
    for (int i = 0; i < options->count; i++) {
        struct limn_request request;
        limn_request_init(&request);
        request.prompt = prompts[i];
        request.seed = (uint64_t)i;
        struct outcome *outcome = &outcomes[i];
        const struct observer observer = {see, outcome};
        struct limn_result *result = pipeline_run(pipeline, &request, &observer, &error);
        check(result != NULL, &error);
        outcome->picture_count = (int64_t)result->width * result->height * 3;
        outcome->picture = copy(result->images[0].pixels, (size_t)outcome->picture_count);
        limn_result_free(result);
    }
    pipeline_close(pipeline);
}

// --------------------------------------------------------------------------------------------------- transformers alone

static void denoise(struct transformer *transformer, enum compute compute, int seed,
                    struct outcome *outcome) {
    const struct transformer_shape *shape = transformer_shape(transformer);
    const struct token_grid grid = {SIDE / 16, SIDE / 16, 0};
    const int tokens = (int)token_grid_tokens(&grid);
    struct error error = {0};
    float *text = malloc((size_t)(TEXT * shape->context) * sizeof *text), sigmas[STEPS + 1], timesteps[STEPS];
    outcome->latent_count = tokens * shape->in_channels;
    const size_t bytes = (size_t)outcome->latent_count * sizeof(float);
    outcome->latents = malloc(bytes);
    outcome->velocity = malloc(bytes);
    float *velocity = malloc(bytes);
    if (!text || !outcome->latents || !outcome->velocity || !velocity) exit(1);
    noise_fill(NOISE_F32, (uint64_t)seed, outcome->latents, (size_t)outcome->latent_count);
    noise_fill(NOISE_F32, (uint64_t)seed + 1000, text, (size_t)(TEXT * shape->context));
    check(schedule_make(tokens, STEPS, NULL, sigmas, timesteps, &error), &error);
    struct transformer_run *run = transformer_begin(transformer, compute, TEXT, text, 1, &grid, NULL, &error);
    check(run != NULL, &error);
    for (int step = 0; step < STEPS; step++) {
        check(transformer_velocity(run, outcome->latents, timesteps[step], 1, NULL, NULL, NULL, velocity,
                                   &error),
              &error);
        if (step == 0) memcpy(outcome->velocity, velocity, bytes);
        for (int64_t i = 0; i < outcome->latent_count; i++)
            outcome->latents[i] += (sigmas[step + 1] - sigmas[step]) * velocity[i];
    }
    transformer_end(run);
    free(velocity);
    free(text);
}

static void run_transformer(const char *folder, const struct options *options, int way,
                            struct outcome *outcomes) {
    struct error error = {0};
    struct pool *pool = pool_open(options->threads, &error);
    check(pool != NULL, &error);
    struct device *device =
        device_open_cpu(&(struct device_options){.pool = pool, .isa = options->isa}, &error);
    check(device != NULL, &error);
    struct transformer *transformer = transformer_open(folder, device, &error);
    check(transformer != NULL, &error);
    for (int i = 0; i < options->count; i++)
        denoise(transformer, (enum compute)(COMPUTE_F32 + way), i, &outcomes[i]);
    transformer_close(transformer);
    device_close(device);
    pool_close(pool);
}

// ---------------------------------------------------------------------------------------------------------------- main

static void measure(const char *folder, const struct options *options) {
    struct outcome outcomes[WAYS][COUNT_MOST] = {{{0}}};
    struct figures figures[WAYS] = {{0}};
    char *index = path_join(folder, "model_index.json");
    const bool model = index && file_exists(index);
    for (int way = 0; way < WAYS; way++) {
        (model ? run_model : run_transformer)(folder, options, way, outcomes[way]);
        for (int i = 0; i < options->count; i++)
            compare(&outcomes[way][i], &outcomes[0][i], options->count, &figures[way]);
    }
    print(folder, model, figures);
    for (int way = 0; way < WAYS; way++)
        for (int i = 0; i < options->count; i++) drop(&outcomes[way][i]);
    free(index);
}

int main(int count, char **arguments) {
    struct options options = {.threads = 2, .count = 4};
    int folders = 0;
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i], *value = i + 1 < count ? arguments[i + 1] : "";
        if (strncmp(name, "--", 2) != 0) {
            measure(name, &options);
            folders++;
            continue;
        }
        const int number = atoi(value);
        i++;
        if (!strcmp(name, "--threads") && number > 0) options.threads = number;
        if (!strcmp(name, "--count") && number > 0 && number <= COUNT_MOST) options.count = number;
        if (!strcmp(name, "--isa")) options.isa = value;
    }
    if (folders) return 0;
    fprintf(stderr, "usage: bench_precision [--threads N] [--isa NAME] [--count N] FOLDER...\n");
    return 2;
}
