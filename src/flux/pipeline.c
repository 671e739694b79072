// Opening a model folder as a whole, and checking requests against it. Relies on model.h, the parts of flux, text, weights.
#include "flux/pipeline_inside.h"

#include "flux/model_folder.h"
#include "flux/references.h"
#include "flux/schedule.h"
#include "weights/parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ------------------------------------------------------------------------------------------------------- open, close

static bool check_options(const struct limn_options *options, struct error *error) {
    if (options->threads < 0 || options->threads > LIMN_THREADS_MOST)
        return error_set_field(error, ERROR_INPUT, "threads", "threads is %d, expected 0 to %d",
                               options->threads, LIMN_THREADS_MOST);
    if (options->compute < LIMN_COMPUTE_AUTO || options->compute > LIMN_COMPUTE_INT8)
        return error_set_field(error, ERROR_INPUT, "compute",
                               "compute is %d, expected auto, f32, bf16 or int8", (int)options->compute);
    return true;
}

// The parts were made for each other.
static bool check_parts(const struct pipeline *pipeline, const char *folder, struct error *error) {
    const struct transformer_shape *transformer = transformer_shape(pipeline->transformer);
    const struct autoencoder_shape *autoencoder = autoencoder_shape(pipeline->autoencoder);
    int64_t width = prompt_encoder_width(pipeline->encoder);
    if (width != transformer->context)
        return error_set(error, ERROR_INPUT,
                         "%s: the text encoder gives %lld values a token (%d taps), but the transformer's "
                         "joint_attention_dim is %lld",
                         folder, (long long)width, pipeline->settings.text_tap_count,
                         (long long)transformer->context);
    if (autoencoder->token_channels != transformer->in_channels)
        return error_set(error, ERROR_INPUT,
                         "%s: the autoencoder has %lld channels a token (latent_channels 4 times), but the "
                         "transformer's in_channels is %lld",
                         folder, (long long)autoencoder->token_channels, (long long)transformer->in_channels);
    return true;
}

// Opened a second time for its header only: the text encoder keeps no count.
static int64_t count_parameters(const char *folder) {
    char *path = part_find(folder, PART_TEXT_ENCODER, NULL);
    struct checkpoint *checkpoint = path ? layout_open(path, PART_TEXT_ENCODER, NULL, NULL) : NULL;
    int64_t count = 0;
    for (int64_t i = 0; checkpoint && i < checkpoint_count(checkpoint); i++) {
        const struct tensor *tensor = &checkpoint_entry(checkpoint, i)->tensor;
        bool integers = tensor->type >= DTYPE_I8 && tensor->type <= DTYPE_BOOL; // a tokenizer's bytes, say
        if (!integers) count += tensor_values(tensor);
    }
    checkpoint_close(checkpoint);
    free(path);
    return count;
}

static bool open_parts(struct pipeline *pipeline, const char *folder, const struct model_folder *parts,
                       const struct model_index *index, const struct limn_options *options,
                       struct error *error) {
    struct model_settings *settings = &pipeline->settings;
    pipeline->pool = pool_open(options->threads, error);
    if (!pipeline->pool) return false;
    pipeline->device =
        device_open_cpu(&(struct device_options){.pool = pipeline->pool, .isa = options->isa}, error);
    if (!pipeline->device) return false;
    pipeline->transformer =
        transformer_open(model_folder_part(parts, PART_TRANSFORMER), pipeline->device, error);
    if (!pipeline->transformer) return false;
    const struct transformer_shape *shape = transformer_shape(pipeline->transformer);
    bool bf16 =
        options->compute == LIMN_COMPUTE_AUTO ? shape->sixteen_bit : options->compute != LIMN_COMPUTE_F32;
    pipeline->compute = bf16 ? COMPUTE_BF16 : COMPUTE_F32;
    pipeline->transformer_compute = options->compute == LIMN_COMPUTE_INT8 ? COMPUTE_I8 : pipeline->compute;
    if (!model_settings_read(folder, index, shape, settings, error)) return false;
    struct prompt_settings text = model_prompt_settings(settings);
    pipeline->encoder =
        prompt_encoder_open(model_folder_part(parts, PART_TEXT_ENCODER), &text, pipeline->device, error);
    if (!pipeline->encoder) return false;
    pipeline->autoencoder = autoencoder_open(model_folder_part(parts, PART_AUTOENCODER), pipeline->device,
                                             pipeline->compute, error);
    if (!pipeline->autoencoder) return false;
    pipeline->encodings = encodings_open(options->cache_bytes);
    pipeline->text_parameters = count_parameters(model_folder_part(parts, PART_TEXT_ENCODER));
    workspace_trim(pipeline->device);
    return check_parts(pipeline, folder, error) && pipeline_open_loras(pipeline, parts, options, error);
}

struct pipeline *pipeline_open(const char *folder, const struct limn_options *options, struct error *error) {
    struct limn_options defaults;
    limn_options_init(&defaults);
    if (!options) options = &defaults;
    struct model_index index;
    if (!check_options(options, error) || !model_index_read(folder, &index, error)) return NULL;
    struct pipeline *pipeline = calloc(1, sizeof *pipeline);
    if (!pipeline) {
        error_set(error, ERROR_MEMORY, "not enough memory to open %s", folder);
        return NULL;
    }
    struct model_folder parts;
    bool good = model_folder_open(folder, &parts, error) &&
                open_parts(pipeline, folder, &parts, &index, options, error);
    model_folder_free(&parts);
    if (good) return pipeline;
    pipeline_close(pipeline);
    return NULL;
}

void pipeline_close(struct pipeline *pipeline) {
    if (!pipeline) return;
    encodings_close(pipeline->encodings);
    adapters_close(pipeline->loras);
    autoencoder_close(pipeline->autoencoder);
    prompt_encoder_close(pipeline->encoder);
    transformer_close(pipeline->transformer);
    device_close(pipeline->device);
    pool_close(pipeline->pool);
    model_settings_free(&pipeline->settings);
    free(pipeline);
}

const struct model_settings *pipeline_settings(const struct pipeline *pipeline) {
    return &pipeline->settings;
}

void pipeline_info(const struct pipeline *pipeline, struct limn_model_info *info) {
    const struct model_settings *settings = &pipeline->settings;
    const struct transformer_shape *shape = transformer_shape(pipeline->transformer);
    const struct autoencoder_shape *autoencoder = autoencoder_shape(pipeline->autoencoder);
    int multiple = autoencoder->pixels_per_token;
    *info = (struct limn_model_info){
        .name = settings->name,
        .default_width = settings->default_width / multiple * multiple,
        .default_height = settings->default_height / multiple * multiple,
        .default_steps = settings->steps,
        .default_guidance = settings->guidance,
        .side_multiple = multiple,
        .has_guidance = settings->guidance_kind != GUIDANCE_NONE,
        .trained = settings->trained,
        .text_length = settings->text_length,
        .software = settings->software[0] ? settings->software : NULL,
        .make = settings->make[0] ? settings->make : NULL,
        .transformer_parameters = shape->parameters,
        .text_encoder_parameters = pipeline->text_parameters,
        .autoencoder_parameters = autoencoder->parameters,
    };
}

// ----------------------------------------------------------------------------------------------------------- requests

// A number that must lie in a range.
static bool check_range(const char *field, int64_t value, int64_t least, int64_t most, struct error *error) {
    return (value >= least && value <= most) ||
           error_set_field(error, ERROR_INPUT, field, "%s is %lld, expected %lld to %lld", field,
                           (long long)value, (long long)least, (long long)most);
}

static bool check_prompt(const char *prompt, struct error *error) {
    if (!prompt) return error_set_field(error, ERROR_INPUT, "prompt", "there is no prompt, expected a text");
    size_t length = strnlen(prompt, LIMN_PROMPT_MOST + 1);
    return length <= LIMN_PROMPT_MOST ||
           error_set_field(error, ERROR_INPUT, "prompt",
                           "prompt is longer than the %d bytes that are allowed", LIMN_PROMPT_MOST);
}

// The size of each reference; that of the first, after its preparation, in [first].
static bool check_references(const struct pipeline *pipeline, const struct limn_request *request,
                             struct reference_size *first, struct error *error) {
    if (!check_range("reference_count", request->reference_count, 0, LIMN_REFERENCES_MOST, error))
        return false;
    if (request->reference_count > 0 && !request->references)
        return error_set_field(error, ERROR_INPUT, "references", "there are no references, expected %d",
                               request->reference_count);
    for (int i = 0; i < request->reference_count; i++) {
        const struct limn_image *image = &request->references[i];
        struct reference_size size;
        char field[32];
        snprintf(field, sizeof field, "references[%d]", i);
        if (!image->pixels)
            return error_set_field(error, ERROR_INPUT, field, "%s has no pixels, expected a picture", field);
        if (!reference_size(field, image->width, image->height, pipeline->settings.reference_area,
                            autoencoder_shape(pipeline->autoencoder)->pixels_per_token, &size, error))
            return false;
        if (i == 0) *first = size;
    }
    return true;
}

// Each side by itself: the request's, else the first reference's, else the model's; rounded down to a multiple.
static bool fill_size(const struct pipeline *pipeline, const struct reference_size *first,
                      struct limn_request *filled, struct error *error) {
    const struct model_settings *settings = &pipeline->settings;
    bool from_reference = filled->reference_count > 0;
    int multiple = autoencoder_shape(pipeline->autoencoder)->pixels_per_token;
    int *sides[2] = {&filled->width, &filled->height};
    int others[2] = {from_reference ? first->width : settings->default_width,
                     from_reference ? first->height : settings->default_height};
    for (int i = 0; i < 2; i++) {
        if (*sides[i] == 0) *sides[i] = others[i];
        int least = multiple > LIMN_SIDE_LEAST ? multiple : LIMN_SIDE_LEAST;
        if (*sides[i] < least || *sides[i] > LIMN_SIDE_MOST)
            return error_set_field(error, ERROR_INPUT, "size", "%s is %d, expected %d to %d pixels",
                                   i == 0 ? "width" : "height", *sides[i], least, LIMN_SIDE_MOST);
        *sides[i] = *sides[i] / multiple * multiple;
    }
    return true;
}

static bool fill_steps(const struct model_settings *settings, struct limn_request *filled,
                       struct error *error) {
    if (filled->sigmas) {
        if (!check_range("sigma_count", filled->sigma_count, 1, LIMN_STEPS_MOST, error) ||
            !schedule_check(filled->sigma_count, filled->sigmas, error))
            return false;
        if (filled->steps != 0 && filled->steps != filled->sigma_count)
            return error_set_field(error, ERROR_INPUT, "steps", "steps is %d, but there are %d sigmas",
                                   filled->steps, filled->sigma_count);
        filled->steps = filled->sigma_count;
    } else if (filled->steps == 0) {
        filled->steps = settings->steps;
        filled->sigmas = settings->sigma_count ? settings->sigmas : NULL;
        filled->sigma_count = settings->sigma_count;
    } else {
        if (!check_range("steps", filled->steps, 1, LIMN_STEPS_MOST, error)) return false;
        filled->sigma_count = 0;
    }
    if (filled->guidance < 0) filled->guidance = settings->guidance;
    return (filled->guidance >= 0 && (double)filled->guidance <= LIMN_GUIDANCE_MOST) ||
           error_set_field(error, ERROR_INPUT, "guidance", "guidance is %g, expected 0 to %g",
                           (double)filled->guidance, LIMN_GUIDANCE_MOST);
}

static bool check_previews(const struct limn_request *filled, struct error *error) {
    if (!filled->preview_steps) return true;
    if (!check_range("preview_count", filled->preview_count, 0, LIMN_STEPS_MOST, error)) return false;
    for (int i = 0; i < filled->preview_count; i++) {
        char field[32];
        snprintf(field, sizeof field, "preview_steps[%d]", i);
        if (!check_range(field, filled->preview_steps[i], 1, filled->steps, error)) return false;
    }
    return true;
}

bool pipeline_check(const struct pipeline *pipeline, const struct limn_request *request,
                    struct limn_request *filled, struct error *error) {
    struct reference_size first = {0};
    *filled = *request;
    if (!check_prompt(request->prompt, error) || !check_references(pipeline, request, &first, error) ||
        !fill_size(pipeline, &first, filled, error) ||
        !check_range("count", request->count, 1, LIMN_COUNT_MOST, error) ||
        !fill_steps(&pipeline->settings, filled, error) || !check_previews(filled, error) ||
        !pipeline_check_loras(request->loras, request->lora_count, LIMN_LORAS_MOST, error))
        return false;
    if (request->seed > (uint64_t)INT64_MAX - (uint64_t)(request->count - 1))
        return error_set_field(error, ERROR_INPUT, "seed",
                               "seed is %llu, expected less than 2^63 for each picture",
                               (unsigned long long)request->seed);
    if (request->noise != LIMN_NOISE_F32 && request->noise != LIMN_NOISE_BF16)
        return error_set_field(error, ERROR_INPUT, "noise", "noise is %d, expected f32 or bf16",
                               (int)request->noise);
    return true;
}
