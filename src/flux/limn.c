// The engine as a library: limn.h over pipeline.h, with one queue a model. Relies on pipeline.h, image.
#include "limn/limn.h"

#include "base/file.h"
#include "flux/pipeline.h"
#include "image/image.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ASK_NANOSECONDS = 100000000, FILE_BYTES_MOST = 512 << 20 };

// One that waits for its turn or has it; on the stack of the thread that called limn_run.
struct ticket {
    struct ticket *next;
};

struct limn_model {
    struct pipeline *pipeline;
    pthread_mutex_t lock;
    pthread_cond_t changed; // of the queue
    struct ticket *first;   // has its turn
    struct ticket *last;
};

// ------------------------------------------------------------------------------------------------------------- errors

static const enum limn_status STATUSES[] = {
    [ERROR_NONE] = LIMN_OK,
    [ERROR_INPUT] = LIMN_BAD_INPUT,
    [ERROR_NOT_FOUND] = LIMN_NOT_FOUND,
    [ERROR_IO] = LIMN_IO,
    [ERROR_MEMORY] = LIMN_NO_MEMORY,
    [ERROR_CANCELLED] = LIMN_CANCELLED,
    [ERROR_UNSUPPORTED] = LIMN_UNSUPPORTED,
    [ERROR_UNAVAILABLE] = LIMN_UNAVAILABLE,
    [ERROR_INTERNAL] = LIMN_INTERNAL,
};

static void hand_out(const struct error *from, struct limn_error *to) {
    if (!to) return;
    *to = (struct limn_error){.status = STATUSES[from->kind]};
    snprintf(to->field, sizeof to->field, "%s", from->field);
    snprintf(to->message, sizeof to->message, "%s", from->message);
}

// ------------------------------------------------------------------------------------------------------------ process

static pthread_once_t isa_once = PTHREAD_ONCE_INIT, image_once = PTHREAD_ONCE_INIT;
static char isa_names[128];         // written once
static struct error image_unusable; // likewise

static void write_isa_names(void) {
    const char *names[16];
    int count = device_isa_list(names, 16);
    size_t used = 0;
    for (int i = 0; i < count && used < sizeof isa_names; i++) {
        int written = snprintf(isa_names + used, sizeof isa_names - used, "%s%s", i ? " " : "", names[i]);
        used += written > 0 ? (size_t)written : 0;
    }
}

static void start_images(void) {
    image_library_start("limn", &image_unusable);
}

const char *limn_version(void) {
    return LIMN_VERSION;
}

const char *limn_isa_names(void) {
    pthread_once(&isa_once, write_isa_names);
    return isa_names;
}

// ------------------------------------------------------------------------------------------------------------- models

void limn_options_init(struct limn_options *options) {
    *options = (struct limn_options){0};
}

void limn_request_init(struct limn_request *request) {
    *request = (struct limn_request){.count = 1, .guidance = -1};
}

struct limn_model *limn_open(const char *folder, const struct limn_options *options,
                             struct limn_error *error) {
    struct error cause = {0};
    struct limn_model *model = calloc(1, sizeof *model);
    if (!folder)
        error_set_field(&cause, ERROR_INPUT, "model", "there is no folder, expected a model folder");
    else if (!model)
        error_set(&cause, ERROR_MEMORY, "not enough memory to open %s", folder);
    else
        model->pipeline = pipeline_open(folder, options, &cause);
    hand_out(&cause, error);
    if (!model || !model->pipeline) {
        free(model);
        return NULL;
    }
    pthread_mutex_init(&model->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&model->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    return model;
}

void limn_close(struct limn_model *model) {
    if (!model) return;
    pthread_mutex_lock(&model->lock);
    while (model->first) pthread_cond_wait(&model->changed, &model->lock);
    pthread_mutex_unlock(&model->lock);
    pthread_cond_destroy(&model->changed);
    pthread_mutex_destroy(&model->lock);
    pipeline_close(model->pipeline);
    free(model);
}

void limn_model_info(const struct limn_model *model, struct limn_model_info *info) {
    pipeline_info(model->pipeline, info);
}

// -------------------------------------------------------------------------------------------------------------- queue

static void enter(struct limn_model *model, struct ticket *ticket) {
    *(model->first ? &model->last->next : &model->first) = ticket;
    model->last = ticket;
}

static void leave(struct limn_model *model, struct ticket *ticket) {
    struct ticket *before = NULL;
    for (struct ticket *at = model->first; at != ticket; at = at->next) before = at;
    *(before ? &before->next : &model->first) = ticket->next;
    if (model->last == ticket) model->last = before;
    pthread_cond_broadcast(&model->changed);
}

// The lock is held, but not while the progress function is asked.
static bool wait_for_turn(struct limn_model *model, const struct ticket *ticket,
                          const struct limn_request *request, struct error *error) {
    while (model->first != ticket) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += ASK_NANOSECONDS;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        int status = pthread_cond_timedwait(&model->changed, &model->lock, &until);
        if (status != ETIMEDOUT || !request->progress || model->first == ticket) continue;
        struct limn_progress progress = {
            .stage = LIMN_STAGE_QUEUED, .images = request->count, .steps = request->steps};
        pthread_mutex_unlock(&model->lock);
        bool go_on = request->progress(request->user, &progress);
        pthread_mutex_lock(&model->lock);
        if (!go_on) return error_set(error, ERROR_CANCELLED, "cancelled while waiting");
    }
    return true;
}

struct limn_result *limn_run(struct limn_model *model, const struct limn_request *request,
                             struct limn_error *error) {
    struct error cause = {0};
    struct limn_request filled;
    struct limn_result *result = NULL;
    // A wrong request does not wait for its turn to be told so.
    bool good = pipeline_check(model->pipeline, request, &filled, &cause);
    if (good && !*request->prompt)
        good = error_set_field(&cause, ERROR_INPUT, "prompt", "the prompt is empty, expected a text");
    if (good) {
        struct ticket ticket = {NULL};
        pthread_mutex_lock(&model->lock);
        enter(model, &ticket);
        bool turn = wait_for_turn(model, &ticket, &filled, &cause);
        pthread_mutex_unlock(&model->lock);
        if (turn) result = pipeline_run(model->pipeline, request, NULL, &cause);
        pthread_mutex_lock(&model->lock);
        leave(model, &ticket);
        pthread_mutex_unlock(&model->lock);
    }
    hand_out(&cause, error);
    return result;
}

void limn_result_free(struct limn_result *result) {
    if (!result) return;
    for (int i = 0; result->images && i < result->count; i++) limn_image_free(&result->images[i]);
    free(result->images);
    free(result);
}

// ----------------------------------------------------------------------------------------------------------- pictures

static bool images_usable(struct error *error) {
    pthread_once(&image_once, start_images);
    if (image_unusable.kind == ERROR_NONE) return true;
    if (error) *error = image_unusable;
    return false;
}

bool limn_image_load(struct limn_image *image, const char *path, struct limn_error *error) {
    struct error cause = {0};
    struct image decoded = {0};
    char *data = NULL;
    size_t size = 0;
    *image = (struct limn_image){0};
    bool good = images_usable(&cause) && file_read(path, FILE_BYTES_MOST, &data, &size, &cause) &&
                image_decode(path, data, size, 0, true, &decoded, &cause);
    free(data);
    if (good) *image = (struct limn_image){decoded.width, decoded.height, decoded.pixels};
    hand_out(&cause, error);
    return good;
}

static bool save(const struct limn_image *image, const char *path, const char *comment, struct error *error) {
    const char *dot = strrchr(path, '.');
    enum image_format format = dot ? image_format_from_name(dot + 1) : IMAGE_UNKNOWN;
    if (format == IMAGE_UNKNOWN)
        return error_set(error, ERROR_INPUT,
                         "%s: expected a name that ends in .png, .jpg, .jpeg, .webp, .gif or .avif", path);
    if (!image->pixels || image->width < 1 || image->height < 1)
        return error_set(error, ERROR_INPUT, "%s: there is no picture to save", path);
    struct image_encode_options options = {
        .format = format, .quality = -1, .metadata = {.software = "AI generated;limn", .comment = comment}};
    struct image pixels = {image->width, image->height, image->pixels};
    struct buffer bytes = {0};
    bool good = images_usable(error) && image_encode(&pixels, &options, &bytes, error) &&
                file_write(path, bytes.data, bytes.length, error);
    buffer_free(&bytes);
    return good;
}

bool limn_image_save(const struct limn_image *image, const char *path, const char *comment,
                     struct limn_error *error) {
    struct error cause = {0};
    bool good = save(image, path, comment, &cause);
    hand_out(&cause, error);
    return good;
}

void limn_image_free(struct limn_image *image) {
    if (!image) return;
    struct image pixels = {image->width, image->height, image->pixels};
    image_free(&pixels);
    *image = (struct limn_image){0};
}
