// Opens an autoencoder; pictures to latent tokens and back. Relies on autoencoder_walk.h, autoencoder_tiles.h.
#include "flux/autoencoder.h"
#include "base/file.h"
#include "flux/autoencoder_inside.h"
#include "weights/layout.h"
#include "weights/parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_BYTES_MOST = 1 << 20, SIDE_MOST = 1 << 16 };

// ---------------------------------------------------------------------------------------------------------- opening

static void fill_shape(struct autoencoder *autoencoder, const struct checkpoint *checkpoint) {
    const struct autoencoder_config *config = &autoencoder->config;
    struct autoencoder_shape *shape = &autoencoder->shape;
    shape->levels = config->levels;
    memcpy(shape->encoder_channels, config->encoder, sizeof config->encoder);
    memcpy(shape->decoder_channels, config->decoder, sizeof config->decoder);
    shape->latent_channels = config->latent_channels;
    shape->token_channels = config->latent_channels * 4;
    shape->groups = config->groups;
    shape->pixels_per_token = 2 << (config->levels - 1);
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(checkpoint, i);
        if (strncmp(entry->name, "bn.", 3) == 0) continue;
        shape->parameters += tensor_values(&entry->tensor);
        if (entry->tensor.type == DTYPE_BF16 || entry->tensor.type == DTYPE_F16) shape->sixteen_bit = true;
    }
}

// Mean and standard deviation of the tokens: the reference computes sqrt(running_var + eps) in f32.
static bool load_batch_norm(struct autoencoder *autoencoder, const struct checkpoint *checkpoint,
                            struct error *error) {
    const int64_t channels = autoencoder->config.latent_channels * 4;
    autoencoder->mean = checkpoint_get_f32(checkpoint, channels, error, "bn.running_mean");
    autoencoder->deviation = checkpoint_get_f32(checkpoint, channels, error, "bn.running_var");
    if (!autoencoder->mean || !autoencoder->deviation) return false;
    for (int64_t i = 0; i < channels; i++) {
        const float variance = autoencoder->deviation[i] + autoencoder->config.batch_norm_eps;
        if (!(variance > 0))
            return error_set(error, ERROR_INPUT, "bn.running_var[%lld] is %g, expected a positive variance",
                             (long long)i, (double)autoencoder->deviation[i]);
        autoencoder->deviation[i] = sqrtf(variance);
    }
    return true;
}

// From config.json, or off the tensors where [config] is NULL.
static bool read_config(struct autoencoder *autoencoder, const char *config,
                        const struct checkpoint *checkpoint, struct error *error) {
    char *text = NULL;
    size_t size = 0;
    if (!config) return autoencoder_derive(checkpoint, &autoencoder->config, error);
    bool ok = file_read(config, CONFIG_BYTES_MOST, &text, &size, error) &&
              autoencoder_config_parse(config, text, size, &autoencoder->config, error);
    free(text);
    return ok;
}

static bool load(struct autoencoder *autoencoder, const char *path, enum compute compute,
                 struct error *error) {
    struct checkpoint *checkpoint = layout_open(path, PART_AUTOENCODER, NULL, error);
    if (!checkpoint) return false;
    char *config = part_config(path);
    bool ok = read_config(autoencoder, config, checkpoint, error);
    free(config);
    if (ok) {
        fill_shape(autoencoder, checkpoint);
        ok = load_batch_norm(autoencoder, checkpoint, error) &&
             half_parts_load(&autoencoder->encoder, checkpoint, &autoencoder->config, false, compute,
                             autoencoder->device, error) &&
             half_parts_load(&autoencoder->decoder, checkpoint, &autoencoder->config, true, compute,
                             autoencoder->device, error);
        if (!ok) error_prefix(error, "%s", path);
    }
    checkpoint_release_pages(checkpoint);
    checkpoint_close(checkpoint); // everything was copied
    return ok;
}

struct autoencoder *autoencoder_open(const char *folder, struct device *device, enum compute compute,
                                     struct error *error) {
    char *path = part_find(folder, PART_AUTOENCODER, error);
    if (!path) return NULL;
    struct autoencoder *autoencoder = calloc(1, sizeof *autoencoder);
    bool ok = autoencoder || error_set(error, ERROR_MEMORY, "no memory for an autoencoder");
    if (ok) {
        autoencoder->device = device;
        autoencoder->type = compute_dtype(compute);
        ok = load(autoencoder, path, compute, error);
    }
    free(path);
    if (ok) return autoencoder;
    autoencoder_close(autoencoder);
    return NULL;
}

void autoencoder_close(struct autoencoder *autoencoder) {
    if (!autoencoder) return;
    half_parts_free(&autoencoder->encoder, autoencoder->device);
    half_parts_free(&autoencoder->decoder, autoencoder->device);
    free(autoencoder->mean);
    free(autoencoder->deviation);
    free(autoencoder);
}

const struct autoencoder_shape *autoencoder_shape(const struct autoencoder *autoencoder) {
    return &autoencoder->shape;
}

// ---------------------------------------------------------------------------------------------------------- the ends

static bool check_size(const struct autoencoder *autoencoder, int width, int height, struct error *error) {
    const int step = autoencoder->shape.pixels_per_token;
    if (width >= step && height >= step && width % step == 0 && height % step == 0 && width <= SIDE_MOST &&
        height <= SIDE_MOST)
        return true;
    return error_set_field(error, ERROR_INPUT, "size",
                           "size %dx%d, expected sides that are multiples of %d up to %d", width, height,
                           step, SIDE_MOST);
}

struct walk autoencoder_walk(const struct autoencoder *autoencoder, bool decoder) {
    return (struct walk){.device = autoencoder->device,
                         .parts = decoder ? &autoencoder->decoder : &autoencoder->encoder,
                         .groups = autoencoder->config.groups,
                         .type = autoencoder->type};
}

// Writes the rows of a map as they are made on the host, [make]: one row of [width * channels] f32.
static bool upload_rows(struct device *device, struct feature_map *map, const void *source,
                        void (*make)(const void *source, int64_t row, float *to), struct error *error) {
    const size_t bytes = (size_t)(map->width * map->channels) * sizeof(float);
    map->data = workspace_alloc(device, (size_t)map->height * bytes);
    float *row = malloc(bytes);
    if (!row) error_set(error, ERROR_MEMORY, "no memory for a row of a picture");
    if (row && map->data)
        for (int64_t y = 0; y < map->height; y++) {
            make(source, y, row);
            device_upload(device, (char *)map->data + (size_t)y * bytes, row, bytes);
        }
    const bool ok = row != NULL;
    free(row);
    return ok && device_status(device, error);
}

// u8 / 255, then 2 x - 1, both rounded to f32 as the reference does.
static void picture_row(const void *source, int64_t row, float *to) {
    const struct image *image = source;
    const uint8_t *from = image->pixels + row * image->width * 3;
    for (int64_t i = 0; i < (int64_t)image->width * 3; i++) to[i] = 2.0f * ((float)from[i] / 255.0f) - 1.0f;
}

struct latents {
    const struct autoencoder *autoencoder;
    const float *tokens;
    int64_t tokens_across;
};

// Latent (c, y, x) is channel 4 c + 2 (y % 2) + x % 2 of token (y / 2, x / 2), times its deviation plus its mean.
static void latent_row(const void *source, int64_t row, float *to) {
    const struct latents *latents = source;
    const struct autoencoder *autoencoder = latents->autoencoder;
    const int64_t channels = autoencoder->config.latent_channels;
    for (int64_t x = 0; x < 2 * latents->tokens_across; x++) {
        const float *token =
            latents->tokens + (row / 2 * latents->tokens_across + x / 2) * autoencoder->shape.token_channels;
        for (int64_t c = 0; c < channels; c++) {
            const int64_t k = 4 * c + 2 * (row % 2) + x % 2;
            to[x * channels + c] = token[k] * autoencoder->deviation[k] + autoencoder->mean[k];
        }
    }
}

bool autoencoder_upload_latents(const struct autoencoder *autoencoder, const float *tokens, int width,
                                int height, struct feature_map *map, struct error *error) {
    const int scale = autoencoder->shape.pixels_per_token / 2;
    const struct latents latents = {autoencoder, tokens, width / autoencoder->shape.pixels_per_token};
    *map = (struct feature_map){NULL,           DTYPE_F32,     1,
                                height / scale, width / scale, autoencoder->config.latent_channels};
    return upload_rows(autoencoder->device, map, &latents, latent_row, error);
}

bool autoencoder_download_planes(const struct autoencoder *autoencoder, const struct feature_map *map,
                                 float *planes, struct error *error) {
    const int64_t area = map->height * map->width, count = map->width * map->channels;
    float *row = malloc((size_t)count * sizeof *row);
    if (!row) return error_set(error, ERROR_MEMORY, "no memory for a row of a picture");
    for (int64_t y = 0; y < map->height; y++) {
        device_download(autoencoder->device, row, (const float *)map->data + y * count,
                        (size_t)count * sizeof *row);
        for (int64_t c = 0; c < map->channels; c++)
            for (int64_t x = 0; x < map->width; x++)
                planes[c * area + y * map->width + x] = row[x * map->channels + c];
    }
    free(row);
    return device_status(autoencoder->device, error);
}

// ------------------------------------------------------------------------------------------------ encode and decode

// moments: [2 h, 2 w, 2 latents]; the mean is the first half of the channels.
static bool download_tokens(const struct autoencoder *autoencoder, const struct feature_map *moments,
                            float *tokens, struct error *error) {
    const int64_t channels = autoencoder->config.latent_channels, token_channels = 4 * channels;
    const int64_t count = moments->width * moments->channels;
    float *row = malloc((size_t)count * sizeof *row);
    if (!row) return error_set(error, ERROR_MEMORY, "no memory for a row of latents");
    for (int64_t y = 0; y < moments->height; y++) {
        device_download(autoencoder->device, row, (const float *)moments->data + y * count,
                        (size_t)count * sizeof *row);
        for (int64_t x = 0; x < moments->width; x++)
            for (int64_t c = 0; c < channels; c++) {
                const int64_t k = 4 * c + 2 * (y % 2) + x % 2;
                tokens[(y / 2 * (moments->width / 2) + x / 2) * token_channels + k] =
                    (row[x * moments->channels + c] - autoencoder->mean[k]) / autoencoder->deviation[k];
            }
    }
    free(row);
    return device_status(autoencoder->device, error);
}

bool autoencoder_encode_observed(struct autoencoder *autoencoder, const struct image *image,
                                 autoencoder_progress *progress, void *context,
                                 const struct observer *observer, float *tokens, struct error *error) {
    if (!check_size(autoencoder, image->width, image->height, error)) return false;
    struct device *device = autoencoder->device;
    const size_t mark = workspace_mark(device);
    struct walk walk = autoencoder_walk(autoencoder, false);
    walk.progress = progress;
    walk.context = context;
    walk.observer = observer;
    walk.part_count = walk_parts(walk.parts);
    struct feature_map x = {NULL, DTYPE_F32, 1, image->height, image->width, 3}, moments;
    const bool ok = upload_rows(device, &x, image, picture_row, error) &&
                    walk_run(&walk, &x, &moments, error) &&
                    download_tokens(autoencoder, &moments, tokens, error);
    workspace_release(device, mark);
    return ok;
}

bool autoencoder_encode(struct autoencoder *autoencoder, const struct image *image,
                        autoencoder_progress *progress, void *context, float *tokens, struct error *error) {
    return autoencoder_encode_observed(autoencoder, image, progress, context, NULL, tokens, error);
}

bool autoencoder_decode(struct autoencoder *autoencoder, const float *tokens, int width, int height, int tile,
                        autoencoder_progress *progress, void *context, const struct observer *observer,
                        float *pixels, struct error *error) {
    if (!check_size(autoencoder, width, height, error)) return false;
    const int least = 2 * autoencoder->shape.pixels_per_token;
    if (tile != 0 && (tile < least || tile % least != 0 || tile > SIDE_MOST))
        return error_set_field(error, ERROR_INPUT, "tile",
                               "tile of %d pixels, expected 0 or a multiple of %d", tile, least);
    struct device *device = autoencoder->device;
    const size_t mark = workspace_mark(device);
    struct walk walk = autoencoder_walk(autoencoder, true);
    walk.progress = progress;
    walk.context = context;
    walk.observer = observer;
    walk.part_count = walk_parts(walk.parts);
    struct feature_map latents, map;
    bool ok = autoencoder_upload_latents(autoencoder, tokens, width, height, &latents, error);
    if (ok && tile > 0 && (width > tile || height > tile))
        ok = autoencoder_decode_tiles(autoencoder, &walk, &latents, tile, pixels, error);
    else
        ok = ok && walk_run(&walk, &latents, &map, error) &&
             autoencoder_download_planes(autoencoder, &map, pixels, error);
    workspace_release(device, mark);
    return ok;
}

size_t autoencoder_decode_bytes(const struct autoencoder *autoencoder, int width, int height) {
    const int64_t scale = autoencoder->shape.pixels_per_token / 2;
    const int64_t latents = height / scale * (width / scale) * autoencoder->config.latent_channels;
    struct walk walk = autoencoder_walk(autoencoder, true);
    return walk_plan(&walk, height / scale, width / scale) + (size_t)latents * sizeof(float);
}

// The picture lies beside the walk, as f32 [height, width, 3].
size_t autoencoder_encode_bytes(const struct autoencoder *autoencoder, int width, int height) {
    struct walk walk = autoencoder_walk(autoencoder, false);
    return walk_plan(&walk, height, width) + (size_t)height * (size_t)width * 3 * sizeof(float);
}

void autoencoder_to_image(const float *pixels, struct image *image) {
    const int64_t area = (int64_t)image->width * image->height;
    for (int64_t i = 0; i < area; i++)
        for (int c = 0; c < 3; c++) {
            const float value = pixels[c * area + i] / 2.0f + 0.5f;
            // A NaN becomes 0.
            const float clamped = value > 0.0f ? (value < 1.0f ? value : 1.0f) : 0.0f;
            image->pixels[i * 3 + c] = (uint8_t)lrintf(clamped * 255.0f);
        }
}
