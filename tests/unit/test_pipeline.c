#include "fixture.h"

#include "flux/pipeline_inside.h"

// Whole requests, end to end: every tensor carries the rounding of all the parts before it.
static const double PART_MOST = 2e-5, END_MOST = 1e-4, BF16_MOST = 1e-2;
// empty + 4 (prompt - empty) multiplies the error of a velocity by up to 7.
static const double BF16_GUIDED_MOST = 7e-2;

static struct pipeline *open_model(const char *model, enum limn_compute compute, int threads,
                                   const char *isa) {
    char path[256];
    struct error error = {0};
    struct limn_options options;
    limn_options_init(&options);
    options.threads = threads;
    options.compute = compute;
    options.isa = isa;
    snprintf(path, sizeof path, FIXTURES "%s", model);
    struct pipeline *pipeline = pipeline_open(path, &options, &error);
    assert_ok(pipeline, error);
    return pipeline;
}

static struct limn_request request_of(const char *prompt) {
    struct limn_request request;
    limn_request_init(&request);
    request.prompt = prompt;
    return request;
}

static struct limn_result *run(struct pipeline *pipeline, const struct limn_request *request) {
    struct error error = {0};
    struct limn_result *result = pipeline_run(pipeline, request, NULL, &error);
    assert_ok(result, error);
    return result;
}

static void assert_same_picture(const struct limn_image *a, const struct limn_image *b) {
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    assert_memory_equal(a->pixels, b->pixels, (size_t)a->width * (size_t)a->height * 3);
}

// ------------------------------------------------------------------------------------------- against the reference

struct watch {
    const struct checkpoint *fixture;
    const char *name;
    bool bf16, guided;
    int seen;
};

static void compare_bytes(const struct watch *watch, const char *name, const struct tensor *tensor,
                          const uint8_t *data) {
    int64_t unequal = 0;
    for (size_t i = 0; i < tensor->bytes; i++) {
        int off = abs((int)data[i] - (int)((const uint8_t *)tensor->data)[i]);
        int most = strcmp(name, "picture") == 0 ? 1 : 0;
        if (off > most && !watch->bf16) fail_msg("%s: %s is off by %d at %zu", watch->name, name, off, i);
        unequal += off != 0;
    }
    if (!watch->bf16) assert_true((double)unequal <= 0.01 * (double)tensor->bytes);
}

static double bound_of(const struct watch *watch, const char *name) {
    if (strcmp(name, "noise") == 0 || strcmp(name, "sigmas") == 0 || strcmp(name, "timesteps") == 0)
        return 1e-6;
    bool part = strstr(name, "prompt_embeds") || strncmp(name, "reference_latents", 17) == 0;
    bool first = strncmp(name, "step_0_", 7) == 0 && !strstr(name, "guided") && !strstr(name, "latents");
    if (watch->bf16) return watch->guided && !part && !first ? BF16_GUIDED_MOST : BF16_MOST;
    return part ? PART_MOST : END_MOST;
}

static void see(void *context, const char *name, enum dtype type, int rank, const int64_t *shape,
                const void *data) {
    struct watch *watch = context;
    struct tensor tensor = fixture_tensor(watch->fixture, type, "%s", name);
    watch->seen++;
    assert_int_equal(tensor.rank, rank);
    for (int i = 0; i < rank; i++)
        if (shape[i] != tensor.shape[i])
            fail_msg("%s: side %d of %s is %lld, expected %lld", watch->name, i, name, (long long)shape[i],
                     (long long)tensor.shape[i]);
    if (type == DTYPE_I32) {
        assert_memory_equal(data, tensor.data, tensor.bytes);
    } else if (type == DTYPE_U8) {
        compare_bytes(watch, name, &tensor, data);
    } else {
        float *expected = fixture_values(tensor);
        double off = relative_error(data, expected, tensor_values(&tensor));
        free(expected);
        if (!(off <= bound_of(watch, name)))
            fail_msg("%s: %s is off by %.3g, at most %.3g", watch->name, name, off, bound_of(watch, name));
    }
}

static void run_fixture(struct pipeline *pipeline, const char *name, bool bf16) {
    char file[64];
    struct error error = {0};
    snprintf(file, sizeof file, "%s.safetensors", name);
    struct checkpoint *fixture = fixture_open(file);
    struct limn_image images[LIMN_REFERENCES_MOST];
    struct limn_request request = request_of(checkpoint_metadata(fixture, "prompt"));
    const char *size = checkpoint_metadata(fixture, "size");
    request.seed = strtoull(checkpoint_metadata(fixture, "seed"), NULL, 10);
    request.reference_count = atoi(checkpoint_metadata(fixture, "images"));
    request.references = images;
    if (size) assert_int_equal(sscanf(size, "%dx%d", &request.width, &request.height), 2);
    for (int i = 0; i < request.reference_count; i++) {
        struct tensor tensor = fixture_tensor(fixture, DTYPE_U8, "image_%d", i);
        images[i] = (struct limn_image){(int)tensor.shape[1], (int)tensor.shape[0], malloc(tensor.bytes)};
        memcpy(images[i].pixels, tensor.data, tensor.bytes);
    }
    struct watch watch = {fixture, name, bf16, checkpoint_find(fixture, "empty_tokens"), 0};
    struct observer observer = {see, &watch};
    struct limn_result *result = pipeline_run(pipeline, &request, &observer, &error);
    assert_ok(result, error);
    assert_int_equal(watch.seen, checkpoint_count(fixture) - request.reference_count); // each of them
    struct tensor picture = fixture_tensor(fixture, DTYPE_U8, "picture");
    assert_int_equal(result->count, 1);
    assert_int_equal(result->width, picture.shape[1]);
    assert_int_equal(result->images[0].height, picture.shape[0]);
    assert_false(result->tiled);
    limn_result_free(result);
    for (int i = 0; i < request.reference_count; i++) free(images[i].pixels);
    checkpoint_close(fixture);
}

static void run_all(const char *model, enum limn_compute compute, const char *isa) {
    char name[64];
    struct pipeline *pipeline = open_model(model, compute, 2, isa);
    static const char *const kinds[] = {"text", "edit"};
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s-run-%s", model, kinds[i]);
        run_fixture(pipeline, name, compute == LIMN_COMPUTE_BF16);
    }
    pipeline_close(pipeline);
}

static void whole_requests_f32(void **state) {
    const char *isas[8];
    int count = device_isa_list(isas, 8);
    for (int i = 0; i < count; i++) {
        run_all("model-a", LIMN_COMPUTE_F32, isas[i]);
        run_all("model-b", LIMN_COMPUTE_F32, isas[i]);
        run_all("model-k", LIMN_COMPUTE_F32, isas[i]);
    }
}

static void whole_requests_bf16(void **state) {
    run_all("model-a", LIMN_COMPUTE_BF16, NULL);
    run_all("model-b", LIMN_COMPUTE_BF16, NULL);
    run_all("model-k", LIMN_COMPUTE_BF16, NULL);
}

// ------------------------------------------------------------------------------------------------------- the same again

static void same_picture_on_any_number_of_threads(void **state) {
    struct limn_image reference = {70, 66, malloc(70 * 66 * 3)};
    for (int i = 0; i < 70 * 66 * 3; i++) reference.pixels[i] = (uint8_t)(i * 7 % 251);
    struct limn_request request = request_of("a hill");
    request.references = &reference;
    request.reference_count = 1;
    request.width = 80;
    for (int compute = LIMN_COMPUTE_F32; compute <= LIMN_COMPUTE_BF16; compute++) {
        struct limn_result *first = NULL;
        for (int threads = 1; threads <= 3; threads++) {
            struct pipeline *pipeline = open_model("model-a", (enum limn_compute)compute, threads, NULL);
            for (int twice = 0; twice < 2; twice++) {
                struct limn_result *result = run(pipeline, &request);
                assert_int_equal(result->width, 80);
                assert_int_equal(result->height, 64);
                if (first) assert_same_picture(&first->images[0], &result->images[0]);
                if (first)
                    limn_result_free(result);
                else
                    first = result;
            }
            pipeline_close(pipeline);
        }
        limn_result_free(first);
    }
    free(reference.pixels);
}

static void picture_k_has_seed_plus_k(void **state) {
    struct pipeline *pipeline = open_model("model-b", LIMN_COMPUTE_F32, 2, NULL);
    struct limn_request request = request_of("three");
    request.seed = 41;
    request.count = 3;
    struct limn_result *many = run(pipeline, &request);
    assert_int_equal(many->count, 3);
    request.count = 1;
    for (int k = 0; k < 3; k++) {
        request.seed = 41 + (uint64_t)k;
        struct limn_result *one = run(pipeline, &request);
        assert_same_picture(&many->images[k], &one->images[0]);
        limn_result_free(one);
    }
    assert_memory_not_equal(many->images[0].pixels, many->images[1].pixels, 64 * 64 * 3);
    limn_result_free(many);
    pipeline_close(pipeline);
}

// What a request says reaches the picture.
static void fields_have_an_effect(void **state) {
    struct pipeline *pipeline = open_model("model-a", LIMN_COMPUTE_F32, 2, NULL);
    struct limn_request plain = request_of("a"), others[6];
    const float sigmas[] = {1, 0.3f};
    for (int i = 0; i < 6; i++) others[i] = plain;
    others[0].prompt = "b";
    others[1].seed = 1;
    others[2].guidance = 2;
    others[3].steps = 3;
    others[4].noise = LIMN_NOISE_BF16;
    others[5].sigmas = sigmas;
    others[5].sigma_count = 2;
    struct limn_result *result = run(pipeline, &plain);
    assert_int_equal(result->steps, 4);
    assert_true(result->guidance == 4);
    for (int i = 0; i < 6; i++) {
        struct limn_result *other = run(pipeline, &others[i]);
        assert_memory_not_equal(result->images[0].pixels, other->images[0].pixels, 64 * 48 * 3);
        if (i == 5) assert_int_equal(other->steps, 2);
        limn_result_free(other);
    }
    limn_result_free(result);
    pipeline_close(pipeline);
}

// ------------------------------------------------------------------------------------------------------------ progress

struct log {
    int calls, stop_at;
    int stage_calls[5];
    enum limn_stage stage;
    int step, image;
    int previews;
    int decoded;            // pictures that were shown, in order and before the next one was decoded
    struct limn_image last; // copy of the last preview
    bool wrong;
};

static bool follow(void *user, const struct limn_progress *progress) {
    struct log *log = user;
    // Stages of a request come in order, except that previews are decoded between steps.
    if (progress->stage < log->stage) log->wrong = true;
    if (progress->stage == LIMN_STAGE_STEPS && progress->image == log->image && progress->step < log->step)
        log->wrong = true;
    if (progress->block > progress->blocks || progress->seconds < 0) log->wrong = true;
    if (progress->image >= progress->images || progress->step >= progress->steps) log->wrong = true;
    if (progress->decoded) {
        const struct limn_image *image = &progress->result->images[progress->image];
        if (progress->stage != LIMN_STAGE_DECODE || progress->image != log->decoded++) log->wrong = true;
        if (!image->pixels || image->width != progress->result->width) log->wrong = true;
        if (progress->image + 1 < progress->images && image[1].pixels) log->wrong = true;
        if (progress->result->text_tokens < 1) log->wrong = true;
    }
    log->stage = progress->stage;
    log->step = progress->step;
    log->image = progress->image;
    log->stage_calls[progress->stage]++;
    if (progress->preview) {
        log->previews++;
        free(log->last.pixels);
        size_t bytes = (size_t)progress->preview->width * (size_t)progress->preview->height * 3;
        log->last = *progress->preview;
        log->last.pixels = malloc(bytes);
        memcpy(log->last.pixels, progress->preview->pixels, bytes);
    }
    return ++log->calls != log->stop_at;
}

static void previews(void **state) {
    struct pipeline *pipeline = open_model("model-b", LIMN_COMPUTE_F32, 2, NULL);
    struct limn_request request = request_of("a star");
    struct log log = {0};
    struct limn_result *without = run(pipeline, &request);
    request.preview_steps = (const int[]){1, 4};
    request.preview_count = 2;
    request.progress = follow;
    request.user = &log;
    struct limn_result *with = run(pipeline, &request);
    assert_int_equal(log.previews, 2);
    assert_same_picture(&without->images[0], &with->images[0]);
    // The one after the last step is the picture.
    assert_same_picture(&log.last, &with->images[0]);
    free(log.last.pixels);
    limn_result_free(without);
    limn_result_free(with);
    pipeline_close(pipeline);
}

struct blocks {
    int text_calls, text_most, step_most; // calls of the stage; the largest number of blocks it spoke of
    int last[2];                          // block and blocks of the last call of a step
    bool wrong;
};

static bool count_blocks(void *user, const struct limn_progress *progress) {
    struct blocks *blocks = user;
    bool text = progress->stage == LIMN_STAGE_TEXT, steps = progress->stage == LIMN_STAGE_STEPS;
    if (progress->block > progress->blocks) blocks->wrong = true;
    if (text) blocks->text_calls++;
    if (text && progress->blocks > blocks->text_most) blocks->text_most = progress->blocks;
    if (steps && progress->blocks > blocks->step_most) blocks->step_most = progress->blocks;
    if (steps) memcpy(blocks->last, (int[]){progress->block, progress->blocks}, sizeof blocks->last);
    return true;
}

// With guidance by two evaluations both count, and the empty prompt is encoded once for all requests.
static void both_evaluations_count(void **state) {
    struct error error = {0};
    struct limn_options options;
    limn_options_init(&options);
    options.cache_bytes = 1 << 20;
    struct pipeline *pipeline = pipeline_open(FIXTURES "model-k", &options, &error);
    assert_ok(pipeline, error);
    static const struct {
        const char *prompt;
        float guidance;
        int text_layers, step_blocks;
        bool cached;
    } cases[] = {
        {"a hill", 4, 6, 6, false}, {"a hill", 4, 0, 6, true}, {"a lake", 4, 3, 6, false},
        {"a sea", 1, 3, 3, false},  {"", 2, 0, 6, true},       {"a sea", 1.5f, 0, 6, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct blocks blocks = {0};
        struct limn_request request = request_of(cases[i].prompt);
        request.guidance = cases[i].guidance;
        request.progress = count_blocks;
        request.user = &blocks;
        struct limn_result *result = run(pipeline, &request);
        assert_false(blocks.wrong);
        assert_int_equal(blocks.text_most, cases[i].text_layers);
        assert_int_equal(blocks.text_calls, cases[i].text_layers + 1); // the first says that the stage begins
        assert_int_equal(blocks.step_most, cases[i].step_blocks);
        assert_int_equal(blocks.last[0], cases[i].step_blocks);
        assert_int_equal(result->text_cached, cases[i].cached);
        limn_result_free(result);
    }
    // A cache that holds one of the two gives the same picture as none.
    struct limn_request request = request_of("a hill");
    struct limn_result *results[2];
    pipeline_close(pipeline);
    for (int i = 0; i < 2; i++) {
        options.cache_bytes = i ? 40 * 72 * sizeof(float) + 200 : 0;
        pipeline = pipeline_open(FIXTURES "model-k", &options, &error);
        assert_ok(pipeline, error);
        for (int twice = 0; twice < 2; twice++) {
            if (twice) limn_result_free(results[i]);
            results[i] = run(pipeline, &request);
        }
        pipeline_close(pipeline);
    }
    assert_same_picture(&results[0]->images[0], &results[1]->images[0]);
    for (int i = 0; i < 2; i++) limn_result_free(results[i]);
}

static void progress_and_cancelling_of(const char *model, int evaluations) {
    struct pipeline *pipeline = open_model(model, LIMN_COMPUTE_F32, 2, NULL);
    struct limn_image reference = {64, 64, calloc(64 * 64, 3)};
    struct limn_request request = request_of("stop");
    struct log whole = {0};
    request.references = &reference;
    request.reference_count = 1;
    request.count = 2;
    request.progress = follow;
    request.user = &whole;
    struct limn_result *expected = run(pipeline, &request);
    assert_false(whole.wrong);
    assert_true(whole.stage_calls[LIMN_STAGE_TEXT] >= 2); // layers
    assert_true(whole.stage_calls[LIMN_STAGE_REFERENCES] >= 2);
    assert_true(whole.stage_calls[LIMN_STAGE_STEPS] >= 2 * 3 * 3 * evaluations); // pictures, steps, blocks
    assert_true(whole.stage_calls[LIMN_STAGE_DECODE] >= 4);
    assert_int_equal(whole.decoded, 2);
    // At any call; no other call follows, and the next request is not disturbed.
    for (int at = 1; at <= whole.calls; at += at < 20 ? 1 : 7) {
        struct error error = {0};
        struct log log = {.stop_at = at};
        request.user = &log;
        assert_null(pipeline_run(pipeline, &request, NULL, &error));
        assert_int_equal(error.kind, ERROR_CANCELLED);
        assert_int_equal(log.calls, at);
    }
    whole = (struct log){0};
    request.user = &whole;
    struct limn_result *again = run(pipeline, &request);
    for (int k = 0; k < 2; k++) assert_same_picture(&expected->images[k], &again->images[k]);
    limn_result_free(expected);
    limn_result_free(again);
    free(reference.pixels);
    pipeline_close(pipeline);
}

static void progress_and_cancelling(void **state) {
    progress_and_cancelling_of("model-b", 1);
    progress_and_cancelling_of("model-k", 2);
}

// ------------------------------------------------------------------------------------------------------------- requests

static uint8_t pixels[1100 * 200 * 3];

static void wrong_requests(void **state) {
    static const float rising[] = {0.5f, 0.75f}, falling[] = {1, 0.5f};
    static const int preview[] = {1, 5};
    static const struct limn_image small = {63, 100, pixels}, thin = {1024, 100, pixels},
                                   bare = {64, 64, NULL};
    static const struct limn_image good = {64, 64, pixels};
    static const struct limn_image pair[] = {{64, 64, pixels}, {100, 63, pixels}};
    static const struct {
        struct limn_request request;
        const char *field, *message;
    } cases[] = {
        {{.prompt = NULL, .count = 1}, "prompt", "there is no prompt"},
        {{.prompt = "x", .count = 0}, "count", "count is 0, expected 1 to 10"},
        {{.prompt = "x", .count = 11}, "count", "count is 11, expected 1 to 10"},
        {{.prompt = "x", .count = 1, .width = 15}, "size", "width is 15, expected 16 to 4096 pixels"},
        {{.prompt = "x", .count = 1, .width = 64, .height = 4097}, "size", "height is 4097"},
        {{.prompt = "x", .count = 1, .height = -64}, "size", "height is -64"},
        {{.prompt = "x", .count = 1, .seed = 1ull << 63}, "seed", "expected less than 2^63"},
        {{.prompt = "x", .count = 2, .seed = (1ull << 63) - 1}, "seed", "expected less than 2^63"},
        {{.prompt = "x", .count = 1, .steps = -1}, "steps", "steps is -1, expected 1 to 200"},
        {{.prompt = "x", .count = 1, .steps = 201}, "steps", "steps is 201, expected 1 to 200"},
        {{.prompt = "x", .count = 1, .guidance = 1001}, "guidance", "guidance is 1001, expected 0 to 1000"},
        {{.prompt = "x", .count = 1, .guidance = NAN}, "guidance", "guidance is nan"},
        {{.prompt = "x", .count = 1, .sigmas = rising, .sigma_count = 2}, "sigmas", "sigmas[1] is 0.75"},
        {{.prompt = "x", .count = 1, .sigmas = falling, .sigma_count = 0}, "sigma_count", "sigma_count is 0"},
        {{.prompt = "x", .count = 1, .sigmas = falling, .sigma_count = 2, .steps = 3},
         "steps",
         "steps is 3, but there are 2 sigmas"},
        {{.prompt = "x", .count = 1, .noise = (enum limn_noise)7}, "noise", "noise is 7"},
        {{.prompt = "x", .count = 1, .preview_steps = preview, .preview_count = 2},
         "preview_steps[1]",
         "preview_steps[1] is 5, expected 1 to 4"},
        {{.prompt = "x", .count = 1, .preview_steps = preview, .preview_count = -1}, "preview_count", "-1"},
        {{.prompt = "x", .count = 1, .reference_count = 1},
         "references",
         "there are no references, expected 1"},
        {{.prompt = "x", .count = 1, .references = &good, .reference_count = 5},
         "reference_count",
         "reference_count is 5, expected 0 to 4"},
        {{.prompt = "x", .count = 1, .references = &small, .reference_count = 1},
         "references[0]",
         "references[0] is 63x100 pixels, expected at least 64 a side"},
        {{.prompt = "x", .count = 1, .references = pair, .reference_count = 2},
         "references[1]",
         "references[1] is 100x63 pixels"},
        {{.prompt = "x", .count = 1, .references = &thin, .reference_count = 1}, "references[0]", "8 to 1"},
        {{.prompt = "x", .count = 1, .references = &bare, .reference_count = 1},
         "references[0]",
         "references[0] has no pixels"},
    };
    struct pipeline *pipeline = open_model("model-b", LIMN_COMPUTE_AUTO, 1, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct limn_request filled;
        struct error error = {0};
        if (pipeline_check(pipeline, &cases[i].request, &filled, &error))
            fail_msg("accepted, expected: %s", cases[i].message);
        assert_int_equal(error.kind, ERROR_INPUT);
        assert_string_equal(error.field, cases[i].field);
        assert_contains(error.message, cases[i].message);
        error = (struct error){0};
        assert_null(pipeline_run(pipeline, &cases[i].request, NULL, &error));
        assert_contains(error.message, cases[i].message);
    }
    char *prompt = malloc(LIMN_PROMPT_MOST + 2);
    memset(prompt, 'a', LIMN_PROMPT_MOST + 1);
    prompt[LIMN_PROMPT_MOST + 1] = 0;
    struct limn_request request = request_of(prompt), filled;
    struct error error = {0};
    assert_false(pipeline_check(pipeline, &request, &filled, &error));
    assert_string_equal(error.field, "prompt");
    free(prompt);
    pipeline_close(pipeline);
}

// The rules of the reference pipeline; model-b's default is 64x64 and its references are cut to 6400 pixels.
static void sizes_and_defaults(void **state) {
    static const struct {
        int width, height, reference_width, reference_height, filled_width, filled_height;
    } cases[] = {
        {0, 0, 0, 0, 64, 64},      {100, 79, 0, 0, 96, 64},  {0, 31, 0, 0, 64, 16},
        {0, 0, 66, 80, 64, 80},    {48, 0, 66, 80, 48, 80},  {0, 0, 160, 160, 80, 80},
        {0, 0, 200, 100, 112, 48}, {17, 16, 90, 64, 16, 16}, {4096, 4096, 0, 0, 4096, 4096},
    };
    struct pipeline *pipeline = open_model("model-b", LIMN_COMPUTE_AUTO, 1, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct limn_image reference = {cases[i].reference_width, cases[i].reference_height, pixels};
        struct limn_request request = request_of("x"), filled;
        struct error error = {0};
        request.width = cases[i].width;
        request.height = cases[i].height;
        request.references = &reference;
        request.reference_count = cases[i].reference_width > 0;
        assert_ok(pipeline_check(pipeline, &request, &filled, &error), error);
        assert_int_equal(filled.width, cases[i].filled_width);
        assert_int_equal(filled.height, cases[i].filled_height);
        assert_int_equal(filled.steps, 4);
        assert_int_equal(filled.sigma_count, 4);
        assert_true(filled.guidance == 1);
    }
    // Steps of one's own replace the model's sigmas.
    struct limn_request request = request_of("x"), filled;
    struct error error = {0};
    request.steps = 9;
    assert_ok(pipeline_check(pipeline, &request, &filled, &error), error);
    assert_null(filled.sigmas);
    assert_int_equal(filled.steps, 9);
    pipeline_close(pipeline);
}

// A tile smaller than the picture is used when it is asked for, and said.
static void tiling(void **state) {
    struct pipeline *pipeline = open_model("model-b", LIMN_COMPUTE_F32, 2, NULL);
    struct limn_request request = request_of("wide");
    request.width = 640;
    request.height = 32;
    request.steps = 1;
    struct limn_result *whole = run(pipeline, &request);
    assert_false(whole->tiled);
    request.tiling = true;
    struct limn_result *tiled = run(pipeline, &request);
    assert_true(tiled->tiled);
    assert_int_equal(tiled->images[0].width, 640);
    request.width = 64;
    struct limn_result *small = run(pipeline, &request);
    assert_false(small->tiled); // one tile holds it
    limn_result_free(whole);
    limn_result_free(tiled);
    limn_result_free(small);
    pipeline_close(pipeline);
}

// Without being asked for, tiles come only where the whole does not fit, and then the largest that do.
static void tiles_by_memory(void **state) {
    struct pipeline *pipeline = open_model("model-b", LIMN_COMPUTE_F32, 1, NULL);
    const struct autoencoder *autoencoder = pipeline->autoencoder;
    int64_t whole = (int64_t)autoencoder_decode_bytes(autoencoder, 1536, 1024);
    int64_t tile = (int64_t)autoencoder_decode_bytes(autoencoder, 512, 512);
    assert_true(tile < whole);
    assert_int_equal(pipeline_tile(autoencoder, 1536, 1024, false, INT64_MAX), 0);
    assert_int_equal(pipeline_tile(autoencoder, 1536, 1024, false, whole / 9 * 10 + 100), 0);
    assert_int_equal(pipeline_tile(autoencoder, 1536, 1024, false, whole / 9 * 10 - 1000), 1024);
    assert_int_equal(pipeline_tile(autoencoder, 1536, 1024, false, tile / 9 * 10 + 100), 512);
    assert_int_equal(pipeline_tile(autoencoder, 1536, 1024, false, 0), 128);
    assert_int_equal(pipeline_tile(autoencoder, 128, 64, false, 0), 0); // no smaller tile would help
    assert_int_equal(pipeline_tile(autoencoder, 1536, 1024, true, INT64_MAX), 512);
    assert_int_equal(pipeline_tile(autoencoder, 512, 512, true, INT64_MAX), 0);
    pipeline_close(pipeline);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_requests_f32),
        cmocka_unit_test(whole_requests_bf16),
        cmocka_unit_test(same_picture_on_any_number_of_threads),
        cmocka_unit_test(picture_k_has_seed_plus_k),
        cmocka_unit_test(fields_have_an_effect),
        cmocka_unit_test(previews),
        cmocka_unit_test(both_evaluations_count),
        cmocka_unit_test(progress_and_cancelling),
        cmocka_unit_test(wrong_requests),
        cmocka_unit_test(sizes_and_defaults),
        cmocka_unit_test(tiling),
        cmocka_unit_test(tiles_by_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
