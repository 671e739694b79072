// A request's way through the stages: prompt embeddings, reference tokens, steps of each picture, decode of each picture.
// With GUIDANCE_CLASSIFIER, guidance above 1 takes the empty prompt through the text encoder too, and each step through the
// transformer twice.
//
// DESIGN. All pictures pass the steps before the first is decoded (their latents are small), so that each part's weights are
// needed in one stretch: when a stage begins, the file pages of the one before are given up, and the workspace is trimmed.
// Previews are decoded between steps. Relies on pipeline_inside.h, the parts of flux.
#include "flux/memory_plan.h"
#include "flux/pipeline_inside.h"

#include "base/clock.h"
#include "base/memory.h"
#include "flux/noise.h"
#include "flux/references.h"
#include "flux/schedule.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Tiles are as large as memory allows; a request that asks for tiles gets the second.
static const int TILE_SIDES[] = {1024, 512, 384, 256, 128};
enum { TILE_COUNT = sizeof TILE_SIDES / sizeof *TILE_SIDES, TILE_ASKED = 512, FIELD_BYTES = 48 };

struct run {
    struct pipeline *pipeline;
    struct limn_request request; // filled in
    const struct observer *observer;
    struct limn_result *result;
    double began;
    struct limn_progress progress; // as last reported
    int64_t channels, tokens;      // of a picture's latents
    struct token_grid grids[1 + LIMN_REFERENCES_MOST];
    float *embeddings; // [text_length, context]
    float *empty;      // like them, of the empty prompt; NULL where a step is one evaluation
    float *references; // [tokens of grids[1..], channels]
    float *latents;    // [count][tokens, channels]
    float *velocity;   // [tokens, channels]
    float *unguided;   // [tokens, channels], what the empty prompt gives; NULL with empty
    int pass, passes;  // of the part in work over its blocks; 0 passes: one
    float *pixels;     // [3, height, width]
    float sigmas[LIMN_STEPS_MOST + 1], timesteps[LIMN_STEPS_MOST];
};

// ------------------------------------------------------------------------------------------------------------ helpers

static bool report(struct run *run) {
    if (!run->request.progress) return true;
    run->progress.seconds = clock_seconds() - run->began;
    return run->request.progress(run->request.user, &run->progress);
}

// The callback of each part: [done] of [all] in this pass.
static bool on_part(void *context, int done, int all) {
    struct run *run = context;
    run->progress.block = run->pass * all + done;
    run->progress.blocks = (run->passes > 0 ? run->passes : 1) * all;
    return report(run);
}

static bool begin_stage(struct run *run, enum limn_stage stage, struct error *error) {
    run->progress.stage = stage;
    run->progress.block = run->progress.blocks = 0;
    return report(run) || error_set(error, ERROR_CANCELLED, "cancelled");
}

static void see(const struct run *run, const char *name, enum dtype type, int rank, const int64_t *shape,
                const void *data) {
    if (run->observer) run->observer->see(run->observer->context, name, type, rank, shape, data);
}

static void see_latents(const struct run *run, const char *name, const float *data) {
    see(run, name, DTYPE_F32, 2, (int64_t[]){run->tokens, run->channels}, data);
}

static void see_step(const struct run *run, int step, const char *what, const float *data) {
    char name[FIELD_BYTES];
    snprintf(name, sizeof name, "step_%d_%s", step, what);
    see_latents(run, name, data);
}

static float *values(int64_t count, struct error *error) {
    float *memory = malloc((size_t)(count > 0 ? count : 1) * sizeof(float));
    if (!memory)
        error_set(error, ERROR_MEMORY, "not enough memory for %lld values of a request", (long long)count);
    return memory;
}

// Whether a step takes two evaluations.
static bool is_guided(const struct run *run) {
    return run->pipeline->settings.guidance_kind == GUIDANCE_CLASSIFIER && run->request.guidance > 1;
}

// Weights are mapped, not read: a NaN among them shows in what they give.
static bool check_finite(const float *data, int64_t count, const char *part, struct error *error) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(data[i]))
            return error_set(error, ERROR_INPUT,
                             "%s: it gives values that are not finite; its weights are damaged, or too large "
                             "for the type they are computed in",
                             part);
    return true;
}

// --------------------------------------------------------------------------------------------------------------- text

// A text on its way through the text encoder.
struct text {
    const char *prompt;
    int32_t *ids;      // in its template, [text_length], with padding
    int count;         // of them no padding
    int64_t copies;    // so many rows at the beginning of the embeddings are copies of the one behind them
    size_t kept_count; // values from there on, which the cache holds
    struct encodings_key key;
    bool cached;
};

// Tokenizes, and asks the cache for the embeddings: they depend on the ids and on which of them are padding.
static bool begin_text(const struct run *run, const char *prompt, struct text *text, struct error *error) {
    struct pipeline *pipeline = run->pipeline;
    int64_t length = pipeline->settings.text_length, width = prompt_encoder_width(pipeline->encoder);
    *text = (struct text){.prompt = prompt, .ids = malloc((size_t)length * sizeof *text->ids)};
    if (!text->ids) return error_set(error, ERROR_MEMORY, "not enough memory for the tokens of a prompt");
    if (!prompt_encoder_tokens(pipeline->encoder, prompt, text->ids, &text->count, error)) return false;
    text->copies = prompt_encoder_copies(pipeline->encoder, text->count);
    text->kept_count = (size_t)((length - text->copies) * width);
    const int64_t numbers[] = {length, width, (int64_t)pipeline->compute, text->count};
    text->key = encodings_key("prompt", numbers, 4, text->ids, (size_t)length * sizeof *text->ids);
    text->cached = encodings_find(pipeline->encodings, &text->key, text->kept_count);
    return true;
}

// Computes the embeddings and keeps them, or takes those that were kept.
static bool embed(struct run *run, const struct text *text, float *embeddings, struct error *error) {
    struct pipeline *pipeline = run->pipeline;
    int64_t length = pipeline->settings.text_length, width = prompt_encoder_width(pipeline->encoder);
    float *from = embeddings + text->copies * width;
    const float *kept = encodings_find(pipeline->encodings, &text->key, text->kept_count);
    if (kept) {
        memcpy(from, kept, text->kept_count * sizeof *from);
        for (int64_t i = 0; i < text->copies; i++)
            memcpy(embeddings + i * width, from, (size_t)width * sizeof *from);
        return true;
    }
    if (!prompt_encoder_run(pipeline->encoder, text->prompt, pipeline->compute, on_part, run, embeddings,
                            error) ||
        !check_finite(embeddings, length * width, "text_encoder", error))
        return false;
    encodings_keep(pipeline->encodings, &text->key, from, text->kept_count);
    run->pass++;
    return true;
}

static void see_text(const struct run *run, const struct text *text, const float *embeddings, bool empty) {
    int64_t length = run->pipeline->settings.text_length;
    int64_t shape[2] = {length, prompt_encoder_width(run->pipeline->encoder)};
    see(run, empty ? "empty_tokens" : "tokens", DTYPE_I32, 1, &length, text->ids);
    see(run, empty ? "empty_prompt_embeds" : "prompt_embeds", DTYPE_F32, 2, shape, embeddings);
}

// The prompt and, where guidance asks for it, the empty prompt. One that the cache holds goes first, before what the other
// adds to the cache can displace it.
static bool embed_texts(struct run *run, struct text *texts, int count, struct error *error) {
    float *embeddings[] = {run->embeddings, run->empty};
    int first = count > 1 && texts[1].cached && !texts[0].cached;
    run->pass = 0;
    run->passes = 0;
    for (int i = 0; i < count; i++) run->passes += !texts[i].cached;
    bool good = true;
    for (int i = 0; good && i < count; i++) {
        int which = i ^ first;
        good = embed(run, &texts[which], embeddings[which], error);
    }
    for (int i = 0; good && i < count; i++) see_text(run, &texts[i], embeddings[i], i > 0);
    if (run->pass > 0) prompt_encoder_release_pages(run->pipeline->encoder);
    run->pass = run->passes = 0;
    return good;
}

static bool encode_text(struct run *run, struct error *error) {
    struct pipeline *pipeline = run->pipeline;
    int64_t count = pipeline->settings.text_length * transformer_shape(pipeline->transformer)->context;
    bool guided = is_guided(run);
    double began = clock_seconds();
    struct text texts[2] = {0};
    run->embeddings = values(count, error);
    run->empty = guided && run->embeddings ? values(count, error) : NULL;
    bool good = run->embeddings && (!guided || run->empty) && begin_stage(run, LIMN_STAGE_TEXT, error) &&
                begin_text(run, run->request.prompt, &texts[0], error) &&
                (!guided || begin_text(run, "", &texts[1], error)) &&
                embed_texts(run, texts, guided ? 2 : 1, error);
    run->result->text_tokens = texts[0].count;
    run->result->text_cached = texts[0].cached;
    for (int i = 0; i < 2; i++) free(texts[i].ids);
    if (!good) return false;
    workspace_trim(pipeline->device);
    run->result->text_seconds = clock_seconds() - began;
    return true;
}

// --------------------------------------------------------------------------------------------------------- references

// Encodes a prepared picture, or takes what it was encoded to from the cache: that depends on its pixels alone.
static bool encode_prepared(struct run *run, const struct image *image, int64_t count, float *tokens,
                            struct error *error) {
    struct pipeline *pipeline = run->pipeline;
    const int64_t numbers[] = {image->width, image->height, (int64_t)pipeline->compute};
    struct encodings_key key = encodings_key("reference", numbers, 3, image->pixels,
                                             (size_t)image->width * (size_t)image->height * 3);
    const float *kept = encodings_find(pipeline->encodings, &key, (size_t)count);
    if (kept) {
        memcpy(tokens, kept, (size_t)count * sizeof *kept);
        run->result->references_cached++;
        return true;
    }
    if (!autoencoder_encode(pipeline->autoencoder, image, on_part, run, tokens, error) ||
        !check_finite(tokens, count, "vae", error))
        return false;
    encodings_keep(pipeline->encodings, &key, tokens, (size_t)count);
    return true;
}

static bool encode_reference(struct run *run, int index, float *tokens, struct error *error) {
    const struct limn_image *from = &run->request.references[index];
    struct pipeline *pipeline = run->pipeline;
    char field[FIELD_BYTES], name[FIELD_BYTES];
    struct image image, prepared;
    snprintf(field, sizeof field, "references[%d]", index);
    image = (struct image){from->width, from->height, from->pixels};
    if (!reference_prepare(field, &image, pipeline->settings.reference_area,
                           autoencoder_shape(pipeline->autoencoder)->pixels_per_token, &prepared, error))
        return false;
    bool good = encode_prepared(run, &prepared, token_grid_tokens(&run->grids[1 + index]) * run->channels,
                                tokens, error);
    if (good && run->observer) {
        snprintf(name, sizeof name, "reference_%d", index);
        see(run, name, DTYPE_U8, 3, (int64_t[]){prepared.height, prepared.width, 3}, prepared.pixels);
        snprintf(name, sizeof name, "reference_latents_%d", index);
        see(run, name, DTYPE_F32, 2, (int64_t[]){token_grid_tokens(&run->grids[1 + index]), run->channels},
            tokens);
    }
    image_free(&prepared);
    return good;
}

static bool encode_references(struct run *run, struct error *error) {
    const struct limn_request *request = &run->request;
    struct pipeline *pipeline = run->pipeline;
    int multiple = autoencoder_shape(pipeline->autoencoder)->pixels_per_token;
    double began = clock_seconds();
    int64_t tokens = 0;
    for (int i = 0; i < request->reference_count; i++) {
        const struct limn_image *image = &request->references[i];
        struct reference_size size;
        if (!reference_size("references", image->width, image->height, pipeline->settings.reference_area,
                            multiple, &size, error))
            return false;
        run->grids[1 + i] = (struct token_grid){size.height / multiple, size.width / multiple, 10 * (i + 1)};
        tokens += token_grid_tokens(&run->grids[1 + i]);
    }
    run->result->reference_tokens = (int)tokens;
    run->references = values(tokens * run->channels, error);
    if (!run->references) return false;
    if (request->reference_count == 0) return true;
    float *at = run->references;
    for (int i = 0; i < request->reference_count; i++) {
        if (!begin_stage(run, LIMN_STAGE_REFERENCES, error) || !encode_reference(run, i, at, error))
            return false;
        at += token_grid_tokens(&run->grids[1 + i]) * run->channels;
    }
    workspace_trim(pipeline->device);
    run->result->reference_seconds = clock_seconds() - began;
    return true;
}

// ------------------------------------------------------------------------------------------------------------- decode

int pipeline_tile(const struct autoencoder *autoencoder, int width, int height, bool asked,
                  int64_t available) {
    int longer = width > height ? width : height, least = TILE_SIDES[TILE_COUNT - 1];
    if (asked) return longer > TILE_ASKED ? TILE_ASKED : 0;
    uint64_t room = available > 0 ? (uint64_t)available / 10 * 9 : 0; // a tenth is left to others
    if (autoencoder_decode_bytes(autoencoder, width, height) <= room) return 0;
    for (int i = 0; i < TILE_COUNT; i++) {
        int side = TILE_SIDES[i];
        if (side < longer && autoencoder_decode_bytes(autoencoder, side, side) <= room) return side;
    }
    return longer > least ? least : 0;
}

// Latents become a fresh picture; run->pixels stay behind.
static bool decode(struct run *run, const float *latents, struct image *image, struct error *error) {
    const struct limn_request *request = &run->request;
    struct pipeline *pipeline = run->pipeline;
    double began = clock_seconds();
    if (!image_alloc(image, request->width, request->height, error)) return false;
    int tile = pipeline_tile(pipeline->autoencoder, request->width, request->height, request->tiling,
                             memory_available());
    if (tile && !request->tiling && encodings_bytes(pipeline->encodings) > 0) {
        encodings_clear(pipeline->encodings); // what is kept must not be why the picture is another one
        tile =
            pipeline_tile(pipeline->autoencoder, request->width, request->height, false, memory_available());
    }
    bool good = autoencoder_decode(pipeline->autoencoder, latents, request->width, request->height, tile,
                                   on_part, run, NULL, run->pixels, error) &&
                check_finite(run->pixels, (int64_t)3 * request->width * request->height, "vae", error);
    if (tile) run->result->tiled = true;
    if (good)
        autoencoder_to_image(run->pixels, image);
    else
        image_free(image);
    workspace_trim(pipeline->device);
    run->result->decode_seconds += clock_seconds() - began;
    return good;
}

static bool decode_all(struct run *run, struct error *error) {
    const struct limn_request *request = &run->request;
    for (int k = 0; k < request->count; k++) {
        struct image image;
        run->progress.image = k;
        if (!begin_stage(run, LIMN_STAGE_DECODE, error) ||
            !decode(run, run->latents + k * run->tokens * run->channels, &image, error))
            return false;
        run->result->images[k] = (struct limn_image){image.width, image.height, image.pixels};
        if (k == 0) {
            see(run, "decoded", DTYPE_F32, 3, (int64_t[]){3, image.height, image.width}, run->pixels);
            see(run, "picture", DTYPE_U8, 3, (int64_t[]){image.height, image.width, 3}, image.pixels);
        }
        run->progress.decoded = true;
        bool go_on = report(run);
        run->progress.decoded = false;
        if (!go_on) return error_set(error, ERROR_CANCELLED, "cancelled");
    }
    return true;
}

// -------------------------------------------------------------------------------------------------------------- steps

// torch.randn([1, channels, height, width]) as tokens [height * width, channels].
static bool draw_noise(const struct run *run, int picture, float *latents, struct error *error) {
    int64_t count = run->tokens * run->channels;
    float *noise = values(count, error);
    if (!noise) return false;
    noise_fill(run->request.noise == LIMN_NOISE_BF16 ? NOISE_BF16 : NOISE_F32,
               run->request.seed + (uint64_t)picture, noise, (size_t)count);
    for (int64_t t = 0; t < run->tokens; t++)
        for (int64_t c = 0; c < run->channels; c++)
            latents[t * run->channels + c] = noise[c * run->tokens + t];
    free(noise);
    return true;
}

static bool wants_preview(const struct limn_request *request, int step) {
    if (!request->progress || !request->preview_steps) return false;
    for (int i = 0; i < request->preview_count; i++)
        if (request->preview_steps[i] == step + 1) return true;
    return false;
}

// What the picture would be if the velocity stayed as it is: latents - sigma * velocity.
static bool show_preview(struct run *run, const float *latents, int step, struct error *error) {
    int64_t count = run->tokens * run->channels;
    float *guess = values(count, error);
    struct image image;
    if (!guess) return false;
    for (int64_t i = 0; i < count; i++) guess[i] = latents[i] - run->sigmas[step] * run->velocity[i];
    bool good = decode(run, guess, &image, error);
    free(guess);
    if (!good) return false;
    struct limn_image preview = {image.width, image.height, image.pixels};
    run->progress.stage = LIMN_STAGE_STEPS;
    run->progress.preview = &preview;
    good = report(run) || error_set(error, ERROR_CANCELLED, "cancelled");
    run->progress.preview = NULL;
    image_free(&image);
    return good;
}

// Hands on what the transformer shows of the first step, with the step's name in front.
static void see_block(void *context, const char *name, enum dtype type, int rank, const int64_t *shape,
                      const void *data) {
    char whole[2 * FIELD_BYTES];
    snprintf(whole, sizeof whole, "step_0_%s", name);
    see(context, whole, type, rank, shape, data);
}

// Away from what the empty prompt gives, in the reference's order of roundings.
static void guide(struct run *run, int64_t count) {
    float guidance = run->request.guidance;
    for (int64_t i = 0; i < count; i++)
        run->velocity[i] = run->unguided[i] + guidance * (run->velocity[i] - run->unguided[i]);
}

// The velocity of a step. observer: for the blocks of the first evaluation, or NULL.
static bool evaluate(struct run *run, struct transformer_run *transformer, const float *latents, int step,
                     const struct observer *observer, struct error *error) {
    int64_t count = run->tokens * run->channels;
    float guidance = run->pipeline->settings.guidance_kind == GUIDANCE_EMBEDDED ? run->request.guidance : -1;
    float *velocities[] = {run->velocity, run->unguided};
    bool good = true;
    run->passes = run->empty ? 2 : 1;
    for (run->pass = 0; good && run->pass < run->passes; run->pass++) {
        bool second = run->pass > 0;
        transformer_choose(transformer, second);
        good = transformer_velocity(transformer, latents, run->timesteps[step], guidance, on_part, run,
                                    second ? NULL : observer, velocities[run->pass], error) &&
               check_finite(velocities[run->pass], count, "transformer", error);
    }
    run->pass = run->passes = 0;
    return good;
}

static bool take_step(struct run *run, struct transformer_run *transformer, float *latents, int picture,
                      int step, struct error *error) {
    int64_t count = run->tokens * run->channels;
    struct observer observer = {see_block, run};
    bool watched = run->observer && picture == 0;
    run->progress.step = step;
    run->progress.block = 0;
    if (!evaluate(run, transformer, latents, step, watched && step == 0 ? &observer : NULL, error))
        return false;
    if (watched) see_step(run, step, "velocity", run->velocity);
    if (run->empty) guide(run, count);
    if (wants_preview(&run->request, step) && !show_preview(run, latents, step, error)) return false;
    float change = run->sigmas[step + 1] - run->sigmas[step];
    for (int64_t i = 0; i < count; i++) latents[i] += change * run->velocity[i];
    if (watched && run->empty) {
        see_step(run, step, "empty_velocity", run->unguided);
        see_step(run, step, "guided_velocity", run->velocity);
    }
    if (watched) see_step(run, step, "latents", latents);
    return true;
}

static bool run_steps(struct run *run, struct transformer_run *transformer, struct error *error) {
    const struct limn_request *request = &run->request;
    for (int k = 0; k < request->count; k++) {
        float *latents = run->latents + k * run->tokens * run->channels;
        run->progress.image = k;
        run->progress.step = 0;
        if (!begin_stage(run, LIMN_STAGE_STEPS, error) || !draw_noise(run, k, latents, error)) return false;
        if (k == 0) see_latents(run, "noise", latents);
        for (int i = 0; i < request->steps; i++)
            if (!take_step(run, transformer, latents, k, i, error)) return false;
    }
    return true;
}

static bool denoise(struct run *run, struct error *error) {
    const struct limn_request *request = &run->request;
    struct pipeline *pipeline = run->pipeline;
    double began = clock_seconds();
    int64_t steps = request->steps, points = steps + 1;
    if (!schedule_make((int)run->tokens, request->steps, request->sigmas, run->sigmas, run->timesteps, error))
        return false;
    see(run, "sigmas", DTYPE_F32, 1, &points, run->sigmas);
    see(run, "timesteps", DTYPE_F32, 1, &steps, run->timesteps);
    struct transformer_run *transformer = transformer_begin(
        pipeline->transformer, pipeline->transformer_compute, pipeline->settings.text_length, run->embeddings,
        1 + request->reference_count, run->grids, run->references, error);
    if (!transformer) return false;
    bool good = (!run->empty || transformer_add_text(transformer, run->empty, error)) &&
                run_steps(run, transformer, error);
    transformer_end(transformer);
    transformer_release_pages(pipeline->transformer);
    adapters_release_pages(pipeline->loras);
    workspace_trim(pipeline->device);
    run->result->step_seconds = clock_seconds() - began - run->result->decode_seconds; // of previews
    return good;
}

// ---------------------------------------------------------------------------------------------------------- the whole

static bool allocate(struct run *run, struct error *error) {
    const struct limn_request *request = &run->request;
    run->latents = values(request->count * run->tokens * run->channels, error);
    run->velocity = values(run->tokens * run->channels, error);
    if (run->velocity && is_guided(run)) run->unguided = values(run->tokens * run->channels, error);
    run->pixels = values((int64_t)3 * request->width * request->height, error);
    run->result->images = calloc((size_t)request->count, sizeof *run->result->images);
    if (!run->result->images) error_set(error, ERROR_MEMORY, "not enough memory for the result");
    return run->latents && run->velocity && run->pixels && run->result->images &&
           (run->unguided || !is_guided(run));
}

static bool run_stages(struct run *run, struct error *error) {
    const struct limn_request *request = &run->request;
    struct pipeline *pipeline = run->pipeline;
    int multiple = autoencoder_shape(pipeline->autoencoder)->pixels_per_token;
    run->channels = transformer_shape(pipeline->transformer)->in_channels;
    run->grids[0] = (struct token_grid){request->height / multiple, request->width / multiple, 0};
    run->tokens = token_grid_tokens(&run->grids[0]);
    run->began = clock_seconds();
    run->progress =
        (struct limn_progress){.images = request->count, .steps = request->steps, .result = run->result};
    *run->result = (struct limn_result){.count = request->count,
                                        .seed = request->seed,
                                        .width = request->width,
                                        .height = request->height,
                                        .steps = request->steps,
                                        .guidance = request->guidance};
    return allocate(run, error) && pipeline_adapt(pipeline, request, error) && encode_text(run, error) &&
           encode_references(run, error) && denoise(run, error) && decode_all(run, error);
}

struct limn_result *pipeline_run(struct pipeline *pipeline, const struct limn_request *request,
                                 const struct observer *observer, struct error *error) {
    struct run run = {.pipeline = pipeline, .observer = observer};
    struct memory_plan plan;
    if (!pipeline_check(pipeline, request, &run.request, error)) return NULL;
    pipeline_plan(pipeline, &run.request, 0, &plan);
    if (!memory_plan_check(&plan, &run.request, error)) return NULL;
    run.result = calloc(1, sizeof *run.result);
    if (!run.result) {
        error_set(error, ERROR_MEMORY, "not enough memory for the result");
        return NULL;
    }
    // A request before this one may have failed half-way.
    error_clear(&pipeline->device->status);
    workspace_release(pipeline->device, 0);
    bool good = run_stages(&run, error);
    if (!good) {
        workspace_release(pipeline->device, 0);
        workspace_trim(pipeline->device);
        limn_result_free(run.result);
    }
    free(run.embeddings);
    free(run.empty);
    free(run.references);
    free(run.latents);
    free(run.velocity);
    free(run.unguided);
    free(run.pixels);
    return good ? run.result : NULL;
}
