// See worker_job.h.
#include "queue/worker_job.h"
#include "base/clock.h"
#include "base/file.h"
#include "image/image.h"
#include "queue/names.h"
#include "queue/queue.h"
#include "queue/worker_mask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REFERENCE_BYTES_MOST (256u << 20)
#define PROMPT_BYTES_MOST    (1u << 20)

struct job_work {
    struct worker *worker;
    struct limn_request request;
    const char *id;
    int64_t attempt;
    char *prompt; // when it came in a file
    struct image references[QUEUE_REFERENCES_MOST];
    struct limn_image borrowed[QUEUE_REFERENCES_MOST]; // views of references
    double sigmas[QUEUE_SIGMAS_MOST];
    float sigmas_f32[QUEUE_SIGMAS_MOST];
    struct limn_lora loras[QUEUE_LORAS_MOST];
    int preview_steps[QUEUE_PREVIEWS_MOST];
    int deliver_width, deliver_height; // 0: as rendered
    struct mask mask;
    enum image_format format;
    int quality;
    bool transparent;
    struct limn_model_info info;
    double last_progress; // when the last one was sent
    int last_stage, last_step, last_image;
    struct error unsent; // why a picture could not be sent
};

static bool read_int(struct json_place place, const char *key, int least, int most, int *value,
                     struct error *error) {
    int64_t wide = *value;
    if (!json_get_integer(place, key, JSON_REQUIRED, least, most, &wide, error)) return false;
    *value = (int)wide;
    return true;
}

static bool read_spool_file(struct job_work *work, const char *name, size_t limit, char **data, size_t *size,
                            struct error *error) {
    if (!name_is_file(name)) return error_set(error, ERROR_INPUT, "job: a bad file name");
    char *path = path_join(worker_options_of(work->worker)->spool_folder, name);
    if (!path) return error_set(error, ERROR_MEMORY, "no memory for a path");
    bool good = file_read(path, limit, data, size, error);
    free(path);
    return good;
}

static bool read_references(struct job_work *work, struct json_place place, struct error *error) {
    const json_t *names = NULL;
    if (!json_get_array(place, "references", JSON_OPTIONAL, &names, error)) return false;
    size_t count = names ? json_array_size(names) : 0;
    if (count > QUEUE_REFERENCES_MOST) return error_set(error, ERROR_INPUT, "job: too many references");
    for (size_t i = 0; i < count; i++) {
        const char *name = json_string_value(json_array_get(names, i));
        char field[32], *data;
        size_t size;
        snprintf(field, sizeof field, "image[%zu]", i);
        if (!read_spool_file(work, name, REFERENCE_BYTES_MOST, &data, &size, error)) return false;
        struct error cause = {0};
        bool good = image_decode(field, data, size, 0, true, &work->references[i], &cause);
        free(data);
        if (!good) return error_set_field(error, cause.kind, field, "%s", cause.message);
        work->borrowed[i] = (struct limn_image){work->references[i].width, work->references[i].height,
                                                work->references[i].pixels};
        if (worker_cancelled(work->worker))
            return error_set(error, ERROR_CANCELLED, "the request was cancelled");
    }
    work->request.references = work->borrowed;
    work->request.reference_count = (int)count;
    return true;
}

// The picture is to stand where its first reference stands, to the pixel, so that what the mask keeps fits: the reference is
// brought to the delivered size and padded to the rendered one, which the engine then leaves as it is (as far as its limit on
// a reference's area lets it).
static bool align_reference(struct job_work *work, struct error *error) {
    struct limn_request *request = &work->request;
    struct image padded;
    if (!mask_pad(&work->mask, request->width, request->height, &padded, error)) return false;
    image_free(&work->references[0]);
    work->references[0] = padded;
    work->borrowed[0] = (struct limn_image){padded.width, padded.height, padded.pixels};
    return true;
}

// Sides that nobody has chosen are the first reference's.
static void choose_sides(struct job_work *work) {
    struct limn_request *request = &work->request;
    int multiple = work->info.side_multiple;
    int *rendered[2] = {&request->width, &request->height};
    int *delivered[2] = {&work->deliver_width, &work->deliver_height};
    const int from[2] = {work->references[0].width, work->references[0].height};
    for (int i = 0; i < 2; i++) {
        int side = *delivered[i] > 0 ? *delivered[i] : *rendered[i] > 0 ? *rendered[i] : from[i];
        if (side > LIMN_SIDE_MOST / multiple * multiple) side = LIMN_SIDE_MOST / multiple * multiple;
        if (*rendered[i] < side) *rendered[i] = side;
        *rendered[i] = (*rendered[i] + multiple - 1) / multiple * multiple;
        *delivered[i] = side;
    }
}

static bool read_mask(struct job_work *work, struct json_place place, struct error *error) {
    const char *name = NULL;
    char *data;
    size_t size;
    if (!json_get_string(place, "mask", JSON_OPTIONAL, &name, error)) return false;
    if (!name) return true;
    if (work->request.reference_count == 0)
        return error_set_field(error, ERROR_INPUT, "mask", "a mask without an image that it could belong to");
    if (!read_spool_file(work, name, REFERENCE_BYTES_MOST, &data, &size, error)) return false;
    struct image_alpha alpha;
    struct error cause = {0};
    bool good = image_decode_alpha("mask", data, size, 0, &alpha, &cause) ||
                error_set_field(error, cause.kind, "mask", "%s", cause.message);
    free(data);
    if (!good) return false;
    choose_sides(work);
    good = mask_make(&alpha, &work->references[0], work->deliver_width, work->deliver_height, &work->mask,
                     error) &&
           align_reference(work, error);
    image_alpha_free(&alpha);
    return good;
}

static bool read_prompt(struct job_work *work, struct json_place place, struct error *error) {
    const char *file = NULL;
    size_t size;
    if (!json_get_string(place, "prompt", JSON_OPTIONAL, &work->request.prompt, error) ||
        !json_get_string(place, "prompt_file", JSON_OPTIONAL, &file, error))
        return false;
    if (file) {
        if (!read_spool_file(work, file, PROMPT_BYTES_MOST, &work->prompt, &size, error)) return false;
        work->request.prompt = work->prompt;
    }
    return work->request.prompt || error_set_field(error, ERROR_INPUT, "prompt", "the prompt is empty");
}

// Previews are spread evenly over the steps and none comes after the last one.
static void place_previews(struct job_work *work, int wanted, int default_steps) {
    struct limn_request *request = &work->request;
    int steps = request->sigma_count ? request->sigma_count : request->steps ? request->steps : default_steps;
    int count = 0, before = 0;
    for (int i = 0; i < wanted; i++) {
        int step = (i + 1) * steps / (wanted + 1);
        if (step <= before || step >= steps) continue;
        before = work->preview_steps[count++] = step;
    }
    request->preview_steps = work->preview_steps;
    request->preview_count = count;
}

// What the pictures are written as; found out before anything is drawn.
static bool read_output(struct job_work *work, struct json_place place, struct error *error) {
    const char *name = "";
    if (!json_get_string(place, "output_format", JSON_REQUIRED, &name, error) ||
        !read_int(place, "output_quality", -1, 100, &work->quality, error) ||
        !json_get_bool(place, "transparent", JSON_OPTIONAL, &work->transparent, error))
        return false;
    work->format = image_format_from_name(name);
    if (work->format == IMAGE_JPEG && work->transparent)
        return error_set_field(
            error, ERROR_INPUT, "background",
            "a jpeg picture has no transparent background, expected png, webp, gif or avif");
    bool always = work->format == IMAGE_PNG || work->format == IMAGE_JPEG || work->format == IMAGE_WEBP;
    return always || image_can_encode(work->format, error);
}

// Files that the owner of the server has named.
static bool read_loras(struct job_work *work, struct json_place place, struct error *error) {
    const json_t *list = NULL;
    if (!json_get_array(place, "loras", JSON_OPTIONAL, &list, error)) return false;
    if (json_array_size(list) > QUEUE_LORAS_MOST)
        return error_set_field(error, ERROR_INPUT, "lora", "job: too many LoRAs");
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct json_place inner = {json_array_get(list, i), "job: loras"};
        double scale = 1;
        if (!json_is_object(inner.object))
            return error_set(error, ERROR_INPUT, "job: loras: expected objects");
        if (!json_get_string(inner, "file", JSON_REQUIRED, &work->loras[i].file, error) ||
            !json_get_number(inner, "scale", JSON_REQUIRED, -LIMN_LORA_SCALE_MOST, LIMN_LORA_SCALE_MOST,
                             &scale, error))
            return false;
        work->loras[i].scale = (float)scale;
    }
    work->request.loras = work->loras;
    work->request.lora_count = (int)json_array_size(list);
    return true;
}

static bool read_job(struct job_work *work, struct json_place place, struct error *error) {
    struct limn_request *request = &work->request;
    limn_request_init(request);
    int64_t seed = 0;
    double guidance = -1;
    int previews = 0;
    if (!json_get_string(place, "job", JSON_REQUIRED, &work->id, error) ||
        !json_get_integer(place, "attempt", JSON_REQUIRED, 1, INT64_MAX, &work->attempt, error) ||
        !read_int(place, "width", 0, LIMN_SIDE_MOST, &request->width, error) ||
        !read_int(place, "height", 0, LIMN_SIDE_MOST, &request->height, error) ||
        !read_int(place, "deliver_width", 0, LIMN_SIDE_MOST, &work->deliver_width, error) ||
        !read_int(place, "deliver_height", 0, LIMN_SIDE_MOST, &work->deliver_height, error) ||
        !read_int(place, "count", 1, LIMN_COUNT_MOST, &request->count, error) ||
        !json_get_integer(place, "seed", JSON_REQUIRED, 0, INT64_MAX, &seed, error) ||
        !read_int(place, "steps", 0, LIMN_STEPS_MOST, &request->steps, error) ||
        !json_get_number(place, "guidance", JSON_REQUIRED, -1e6, 1e6, &guidance, error) ||
        !json_get_numbers(place, "sigmas", JSON_OPTIONAL, 0, 1, work->sigmas, QUEUE_SIGMAS_MOST,
                          &request->sigma_count, error) ||
        !read_int(place, "preview_count", 0, QUEUE_PREVIEWS_MOST, &previews, error))
        return false;
    request->seed = (uint64_t)seed;
    request->guidance = (float)guidance;
    for (int i = 0; i < request->sigma_count; i++) work->sigmas_f32[i] = (float)work->sigmas[i];
    if (request->sigma_count) request->sigmas = work->sigmas_f32;
    place_previews(work, previews, work->info.default_steps);
    return read_output(work, place, error) && read_loras(work, place, error) &&
           read_prompt(work, place, error) && read_references(work, place, error) &&
           read_mask(work, place, error);
}

// Cuts [width] x [height] out of the middle, in place.
static void crop(struct limn_image *image, int width, int height) {
    if (width <= 0 || height <= 0 || width > image->width || height > image->height) return;
    size_t left = (size_t)(image->width - width) / 2, top = (size_t)(image->height - height) / 2;
    for (size_t y = 0; y < (size_t)height; y++)
        memmove(image->pixels + y * (size_t)width * 3,
                image->pixels + ((top + y) * (size_t)image->width + left) * 3, (size_t)width * 3);
    image->width = width;
    image->height = height;
}

// Brings a picture to what is delivered and encodes it into the spool folder, as "<job>-<attempt>-<tag>.<format>".
// *transparent: whether its background was cut away.
static bool write_picture(struct job_work *work, struct limn_image *picture, const char *tag,
                          const char *comment, char name[NAME_FILE_MOST], bool *transparent,
                          struct error *error) {
    crop(picture, work->deliver_width, work->deliver_height);
    struct image image = {picture->width, picture->height, picture->pixels};
    struct image_alpha alpha = {0};
    struct error cause = {0};
    if (work->mask.keep) mask_apply(&work->mask, &image);
    *transparent = work->transparent && image_cut_background(&image, &alpha, &cause);
    if (cause.kind != ERROR_NONE) return error_set(error, cause.kind, "%s", cause.message);
    struct image_encode_options options = {.format = work->format,
                                           .quality = work->quality,
                                           .alpha = alpha.values,
                                           .metadata = {work->info.software, work->info.make, comment}};
    struct buffer out = {0};
    snprintf(name, NAME_FILE_MOST, "%s-%lld-%s.%s", work->id, (long long)work->attempt, tag,
             image_format_name(work->format));
    char *path = path_join(worker_options_of(work->worker)->spool_folder, name);
    bool good = path || error_set(error, ERROR_MEMORY, "no memory for a path");
    good =
        good && image_encode(&image, &options, &out, error) && file_write(path, out.data, out.length, error);
    free(path);
    buffer_free(&out);
    image_alpha_free(&alpha);
    return good;
}

static const char *stage_name(enum limn_stage stage) {
    switch (stage) {
    case LIMN_STAGE_QUEUED:
        return "queued";
    case LIMN_STAGE_TEXT:
        return "text";
    case LIMN_STAGE_REFERENCES:
        return "references";
    case LIMN_STAGE_STEPS:
        return "steps";
    case LIMN_STAGE_DECODE:
        return "decode";
    }
    return "";
}

// The message [type] about a picture; [more] (taken over) is what it says besides.
static void send_file(struct job_work *work, const char *type, const char *file,
                      const struct limn_image *image, const struct limn_progress *progress, json_t *more) {
    const struct limn_result *result = progress->result;
    int multiple = work->info.side_multiple;
    int cells = result->width / multiple * (result->height / multiple);
    json_t *message = worker_message(work->worker);
    json_t *common =
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "file", file, "image", progress->image,
                  "images", progress->images, "width", image->width, "height", image->height, "text_tokens",
                  result->text_tokens, "reference_tokens", result->reference_tokens, "output_tokens", cells);
    json_object_update(message, common);
    json_object_update(message, more);
    json_decref(common);
    json_decref(more);
    worker_send(work->worker, type, message);
}

static void send_preview(struct job_work *work, const struct limn_progress *progress) {
    char tag[48], name[NAME_FILE_MOST];
    struct error error = {0};
    snprintf(tag, sizeof tag, "preview-%d-%d", progress->image, progress->step);
    struct limn_image copy = *progress->preview;
    size_t size = (size_t)copy.width * (size_t)copy.height * 3;
    copy.pixels = malloc(size);
    if (!copy.pixels) return; // a preview is no reason to fail
    memcpy(copy.pixels, progress->preview->pixels, size);
    bool transparent;
    if (write_picture(work, &copy, tag, NULL, name, &transparent, &error))
        send_file(work, "preview", name, &copy, progress,
                  json_pack("{s:i, s:i}", "step", progress->step, "steps", progress->steps));
    else
        log_warning(worker_options_of(work->worker)->log, "preview: %s", error.message);
    free(copy.pixels);
}

// A picture goes out as soon as it is decoded; its pixels are not needed any more.
static bool send_picture(struct job_work *work, const struct limn_progress *progress, struct error *error) {
    struct limn_result *result = progress->result;
    struct limn_image *image = &result->images[progress->image];
    char tag[16], comment[400], name[NAME_FILE_MOST];
    uint64_t seed = result->seed + (uint64_t)progress->image;
    bool transparent;
    snprintf(tag, sizeof tag, "%d", progress->image);
    snprintf(comment, sizeof comment, "limn %s, model %s, seed %llu, steps %d, guidance %g, size %dx%d",
             limn_version(), work->info.name, (unsigned long long)seed, result->steps,
             (double)result->guidance, result->width, result->height);
    if (!write_picture(work, image, tag, comment, name, &transparent, error)) return false;
    send_file(work, "image", name, image, progress,
              json_pack("{s:I, s:b}", "seed", (json_int_t)seed, "transparent", transparent));
    limn_image_free(image);
    return true;
}

static bool on_progress(void *user, const struct limn_progress *progress) {
    struct job_work *work = user;
    if (worker_cancelled(work->worker)) return false;
    if (progress->preview) send_preview(work, progress);
    if (progress->decoded && !send_picture(work, progress, &work->unsent)) return false;
    double now = clock_seconds();
    bool turn = (int)progress->stage != work->last_stage || progress->step != work->last_step ||
                progress->image != work->last_image;
    if (!turn && now < work->last_progress + 0.2) return true;
    work->last_progress = now;
    work->last_stage = (int)progress->stage;
    work->last_step = progress->step;
    work->last_image = progress->image;
    json_t *message = worker_message(work->worker);
    json_t *more = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:f}", "stage", stage_name(progress->stage),
                             "image", progress->image, "images", progress->images, "step", progress->step,
                             "steps", progress->steps, "block", progress->block, "blocks", progress->blocks,
                             "seconds", progress->seconds);
    json_object_update(message, more);
    json_decref(more);
    worker_send(work->worker, "progress", message);
    return !worker_cancelled(work->worker);
}

bool worker_job(struct worker *worker, struct limn_model *model, const json_t *job, json_t *done,
                struct error *error) {
    struct job_work *work = calloc(1, sizeof *work);
    if (!work) return error_set(error, ERROR_MEMORY, "no memory for the job");
    work->worker = worker;
    work->last_stage = work->last_step = work->last_image = -1;
    limn_model_info(model, &work->info);
    double started = clock_seconds();
    struct limn_result *result = NULL;
    bool good = read_job(work, (struct json_place){job, "job"}, error);
    if (good) {
        struct limn_error cause = {0};
        work->request.progress = on_progress;
        work->request.user = work;
        result = limn_run(model, &work->request, &cause);
        good = result;
        if (!good && work->unsent.kind != ERROR_NONE)
            *error = work->unsent;
        else if (!good)
            worker_error_from(error, &cause);
    }
    if (good) json_object_set_new(done, "seconds", json_real(clock_seconds() - started));
    limn_result_free(result);
    for (int i = 0; i < QUEUE_REFERENCES_MOST; i++) image_free(&work->references[i]);
    mask_free(&work->mask);
    free(work->prompt);
    free(work);
    return good;
}
