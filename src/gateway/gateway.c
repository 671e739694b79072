// See gateway.h.
#include "gateway/gateway.h"
#include "base/file.h"
#include "catalog/size.h"
#include "gateway/deliver.h"
#include "provider/provider.h"

#include <ctype.h>
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A request on its way. Owned by the list; its pictures are touched on the provider's thread only.
struct work {
    struct work *next;
    struct image_request *request;
    char *base_url;
    struct delivered_picture pictures[REQUEST_COUNT_MOST];
    int picture_count;
};

struct gateway {
    struct provider *provider;
    struct media *media;
    char *spool;
    const struct log *log;
    gateway_sink *sink;
    void *context;
    struct queue_model model_info;
    char model[64];
    pthread_mutex_t lock; // guards works
    struct work *works;
};

static void free_work(struct work *work) {
    if (!work) return;
    for (int i = 0; i < work->picture_count; i++) free(work->pictures[i].path);
    image_request_free(work->request);
    free(work->request);
    free(work->base_url);
    free(work);
}

static struct work *find_work(struct gateway *gateway, const char *id, bool take) {
    pthread_mutex_lock(&gateway->lock);
    struct work **link = &gateway->works;
    while (*link && strcmp((*link)->request->id, id)) link = &(*link)->next;
    struct work *work = *link;
    if (work && take) *link = work->next;
    pthread_mutex_unlock(&gateway->lock);
    return work;
}

// --------------------------------------------------------------------------------------------------------- spool

// Removes the files of the spool whose names begin with [prefix]; "" takes them all.
static void sweep(const char *spool, const char *prefix) {
    DIR *folder = opendir(spool);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") &&
            !strncmp(entry->d_name + (entry->d_name[0] == '.' && *prefix), prefix, strlen(prefix)))
            unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
}

void gateway_sweep(struct gateway *gateway, const char *id) {
    sweep(gateway->spool, id);
}

// --------------------------------------------------------------------------------------------------- what happens

// Ends a work: its files go, and its answer (NULL: nobody waits for one) is handed on.
static void finish(struct gateway *gateway, struct work *work, struct gateway_message *answer) {
    if (!work) return;
    sweep(gateway->spool, work->request->id);
    if (answer && answer->error.code != API_OK) buffer_free(&answer->body);
    if (answer) {
        answer->kind = GATEWAY_ANSWER;
        answer->status = answer->error.code == API_OK ? 200 : api_code_info(answer->error.code)->status;
        snprintf(answer->provider, sizeof answer->provider, "%s", gateway->provider->slug);
        snprintf(answer->model, sizeof answer->model, "%s", gateway->model);
        gateway->sink(gateway->context, work->request->id, answer);
    }
    free_work(work);
}

static void on_image(struct gateway *gateway, struct work *work, const struct queue_event *event) {
    struct delivered_picture *picture = &work->pictures[work->picture_count];
    if (work->picture_count == REQUEST_COUNT_MOST) return;
    *picture = (struct delivered_picture){path_join(gateway->spool, event->file), event->width, event->height,
                                          event->seed};
    if (picture->path) work->picture_count++;
}

// The run that they came from is void.
static void drop_pictures(struct work *work) {
    while (work->picture_count > 0) {
        char *path = work->pictures[--work->picture_count].path;
        unlink(path);
        free(path);
    }
}

static void on_done(struct gateway *gateway, struct work *work, const struct queue_event *event) {
    struct gateway_message answer = {0};
    struct delivery delivery = {
        work->request,           work->pictures,          work->picture_count, event,         gateway->model,
        gateway->provider->slug, gateway->provider->name, work->base_url,      gateway->media};
    struct error error = {0};
    if (work->picture_count != work->request->count)
        error_set(&error, ERROR_MEMORY, "no memory for the pictures");
    if (error.kind != ERROR_NONE || !deliver(&delivery, &answer.body, &error)) {
        log_warning(gateway->log, "%s: %s", work->request->id, error.message);
        api_error_from(&answer.error, &error);
    }
    finish(gateway, work, &answer);
}

// The engine's names of fields are near those of the wire, but not the same.
static void name_parameter(struct error *error) {
    static const struct {
        const char *engine, *wire;
    } names[] = {{"width", "size"},
                 {"height", "size"},
                 {"count", "n"},
                 {"sigma_count", "sigmas"},
                 {"image[0]", "image"}};
    int index;
    if (sscanf(error->field, "references[%d]", &index) == 1)
        snprintf(error->field, sizeof error->field, index ? "image[%d]" : "image", index);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(error->field, names[i].engine))
            snprintf(error->field, sizeof error->field, "%s", names[i].wire);
}

static void on_failed(struct gateway *gateway, struct work *work, const struct queue_event *event) {
    struct gateway_message answer = {0};
    struct error error = event->error;
    name_parameter(&error);
    enum api_code code = API_OK;
    if (event->failure == QUEUE_FAILURE_TIME) code = API_GENERATION_TIMEOUT;
    if (event->failure == QUEUE_FAILURE_STOPPED) code = API_INTERRUPTED;
    if (event->failure == QUEUE_FAILURE_MODEL) code = API_MODEL_NOT_INSTALLED;
    if (event->failure == QUEUE_FAILURE_WORKER_DIED)
        code = error.kind == ERROR_MEMORY ? API_OUT_OF_MEMORY : API_WORKER_DIED;
    if (code != API_OK)
        api_error_set(&answer.error, code, error.field, "%s", error.message);
    else
        api_error_from(&answer.error, &error);
    if (api_code_info(answer.error.code)->status >= 500)
        log_warning(gateway->log, "%s: %s", work->request->id, error.message);
    finish(gateway, work, &answer);
}

static void listener(void *context, const struct queue_event *event) {
    struct gateway *gateway = context;
    bool last = event->kind == QUEUE_DONE || event->kind == QUEUE_FAILED;
    struct work *work = find_work(gateway, event->job, last);
    if (!work) return;
    switch (event->kind) {
    case QUEUE_IMAGE:
        on_image(gateway, work, event);
        break;
    case QUEUE_DONE:
        on_done(gateway, work, event);
        break;
    case QUEUE_FAILED:
        on_failed(gateway, work, event);
        break;
    case QUEUE_STARTED:
    case QUEUE_PROGRESS:
    case QUEUE_PREVIEW: // none is asked for
        break;
    case QUEUE_RERUN:
        drop_pictures(work);
        break;
        break;
    }
}

// ------------------------------------------------------------------------------------------------------- starting

static int edit_distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    int row[129];
    if (n > 128 || m > 128) return 1000;
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int above = row[j],
                best = diagonal + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
            if (above + 1 < best) best = above + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[m];
}

// Whether [name] means the model: by its name, or "local/" and its name.
static bool check_model(const struct gateway *gateway, const char *name, struct api_error *error) {
    if (!gateway->provider) return api_error_set(error, API_INTERRUPTED, "", "the server is being stopped");
    if (!name || !strcmp(name, gateway->model)) return true;
    size_t slug = strlen(gateway->provider->slug);
    if (!strncmp(name, gateway->provider->slug, slug) && name[slug] == '/' &&
        !strcmp(name + slug + 1, gateway->model))
        return true;
    bool near = edit_distance(name, gateway->model) <= 3 + (int)strlen(gateway->model) / 4;
    return api_error_set(error, API_MODEL_NOT_FOUND, "model",
                         near ? "Model '%.100s' not found. Did you mean '%s'?"
                              : "Model '%.100s' not found. This server has '%s'",
                         name, gateway->model);
}

static bool refuse(const struct scheduler_refusal *refusal, const struct error *cause,
                   struct api_error *error) {
    switch (refusal->reason) {
    case SCHEDULER_FULL:
    case SCHEDULER_PRINCIPAL_FULL:
        api_error_set(error, API_QUEUE_FULL, "", "%s; try again later", cause->message);
        error->retry_after = refusal->retry_after;
        return false;
    case SCHEDULER_DRAINING:
        return api_error_set(error, API_INTERRUPTED, "", "the server is being stopped");
    default:
        return api_error_from(error, cause);
    }
}

bool gateway_has_room(struct gateway *gateway, struct api_error *error) {
    struct scheduler_refusal refusal;
    struct error cause = {0};
    if (!gateway->provider) return api_error_set(error, API_INTERRUPTED, "", "the server is being stopped");
    return gateway->provider->has_room(gateway->provider, NULL, &refusal, &cause) ||
           refuse(&refusal, &cause, error);
}

static bool submit(struct gateway *gateway, struct image_request *request, struct api_error *error) {
    struct error cause = {0};
    struct size_request asked;
    if (!size_parse(request->size, request->aspect_ratio, request->resolution, &asked, &cause))
        return api_error_from(error, &cause);
    struct size_rules rules = {.multiple = gateway->model_info.side_multiple,
                               .side_least = 64,
                               .side_most = 2048,
                               .default_width = gateway->model_info.default_width,
                               .default_height = gateway->model_info.default_height,
                               .ratios = {.least = 1.0 / 32, .most = 32},
                               .tiers = {.least = 4096, .most = 4194304}};
    const struct image_header *first = request->reference_count ? &request->references[0].header : NULL;
    struct size_result size =
        size_resolve(&rules, &asked, first ? first->width : 0, first ? first->height : 0);
    struct queue_job job = {.id = request->id,
                            .prompt = request->prompt,
                            .reference_count = request->reference_count,
                            .width = size.render_width,
                            .height = size.render_height,
                            .deliver_width = size.deliver_width,
                            .deliver_height = size.deliver_height,
                            .count = request->count,
                            .seed = request->seed,
                            .steps = request->steps,
                            .guidance = (float)request->guidance,
                            .sigmas = request->sigmas,
                            .sigma_count = request->sigma_count,
                            .output_format = image_format_name(request->format)};
    // The API's default is the best quality; PNG has an effort instead, which is the encoder's.
    job.output_quality = request->format == IMAGE_PNG ? -1
                         : request->compression >= 0  ? request->compression
                                                      : 100;
    for (int i = 0; i < request->reference_count; i++) job.reference_files[i] = request->references[i].file;
    struct scheduler_refusal refusal;
    struct scheduler_job turn = {.job = job};
    return gateway->provider->submit(gateway->provider, &turn, &refusal, &cause) ||
           refuse(&refusal, &cause, error);
}

// What no part of the engine does yet is refused, not passed over.
static bool refuse_unoffered(const struct image_request *request, struct api_error *error) {
    const char *name = NULL;
    if (request->stream) name = "stream";
    if (request->has_mask) name = "mask";
    if (request->has_lora) name = "lora";
    if (request->sync_mode) name = "sync_mode";
    if (request->prompt_enhancement) name = "prompt_enhancement";
    if (request->safety_checker) name = "enable_safety_checker";
    if (request->background == BACKGROUND_TRANSPARENT) name = "background";
    for (int i = 0; i < request->reference_count; i++)
        if (request->references[i].url) name = "image";
    return !name ||
           api_error_set(error, API_INVALID_REQUEST, name, "%s: this server does not offer it", name);
}

bool gateway_start(struct gateway *gateway, struct image_request *request, const struct gateway_call *call,
                   struct api_error *error) {
    struct work *work = calloc(1, sizeof *work);
    bool good = work && (work->base_url = strdup(call->base_url));
    if (work) work->request = request;
    if (!good) {
        if (!work) image_request_free(request), free(request);
        free_work(work);
        return api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
    }
    char id[REQUEST_ID_MOST];
    memcpy(id, request->id, sizeof id);
    if (!check_model(gateway, request->model, error)) {
        finish(gateway, work, NULL);
        return false;
    }
    if (!request->has_seed) {
        char hex[9];
        media_random_hex(hex, 4);
        request->seed = strtoul(hex, NULL, 16);
    }
    if (request->format == IMAGE_UNKNOWN) request->format = IMAGE_PNG;
    bool good_parameters = refuse_unoffered(request, error);
    if (request->guidance >= 0 && !gateway->model_info.has_guidance)
        image_request_ignore(request, "guidance", error);
    if (!good_parameters) {
        finish(gateway, work, NULL);
        return false;
    }
    pthread_mutex_lock(&gateway->lock); // before it is submitted: events may come at once
    work->next = gateway->works;
    gateway->works = work;
    pthread_mutex_unlock(&gateway->lock);
    if (submit(gateway, request, error)) return true;
    finish(gateway, find_work(gateway, id, true), NULL);
    return false;
}

void gateway_cancel(struct gateway *gateway, const char *id) {
    if (gateway->provider) gateway->provider->cancel(gateway->provider, id);
}

bool gateway_stop(struct gateway *gateway, const char *id) {
    if (!find_work(gateway, id, false)) return false;
    gateway_cancel(gateway, id);
    return true;
}

json_t *gateway_progress_json(struct gateway *gateway, const char *id) {
    return find_work(gateway, id, false) ? json_pack("{s:s}", "status", "processing") : NULL;
}

// ------------------------------------------------------------------------------------------------- opening, closing

static void make_slug(const char *name, char *slug, size_t size) {
    size_t length = 0;
    for (; *name && length + 1 < size; name++) {
        char c = (char)tolower((unsigned char)*name);
        bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
        if (!plain) c = '-';
        if (c == '-' && (length == 0 || slug[length - 1] == '-')) continue;
        slug[length++] = c;
    }
    while (length > 0 && slug[length - 1] == '-') length--;
    slug[length] = 0;
    if (!length) snprintf(slug, size, "model");
}

struct gateway *gateway_open(const struct gateway_options *options, gateway_sink *sink, void *context,
                             struct error *error) {
    struct gateway *gateway = calloc(1, sizeof *gateway);
    if (!gateway || !(gateway->spool = strdup(options->queue.spool_folder))) {
        error_set(error, ERROR_MEMORY, "no memory for the gateway");
        free(gateway);
        return NULL;
    }
    gateway->media = options->media;
    gateway->log = options->log;
    gateway->sink = sink;
    gateway->context = context;
    pthread_mutex_init(&gateway->lock, NULL);
    bool good = folder_make(gateway->spool, error);
    if (good) {
        sweep(gateway->spool, "");
        struct scheduler_model model = {"model", options->queue.model_folder, true};
        struct scheduler_options scheduler = {
            .queue = options->queue, .models = &model, .model_count = 1, .depth = options->queue.depth};
        gateway->provider = provider_local_open(&scheduler, listener, gateway, error);
        good = gateway->provider &&
               gateway->provider->wait_ready(gateway->provider, NULL, options->start_seconds,
                                             &gateway->model_info, error);
    }
    if (good) {
        make_slug(gateway->model_info.name, gateway->model, sizeof gateway->model);
        return gateway;
    }
    gateway_close(gateway);
    return NULL;
}

void gateway_interrupt(struct gateway *gateway) {
    if (gateway->provider) gateway->provider->close(gateway->provider);
    gateway->provider = NULL;
}

void gateway_close(struct gateway *gateway) {
    if (!gateway) return;
    gateway_interrupt(gateway);
    pthread_mutex_destroy(&gateway->lock);
    free(gateway->spool);
    free(gateway);
}

const char *gateway_model(const struct gateway *gateway) {
    return gateway->model;
}

const struct queue_model *gateway_model_info(const struct gateway *gateway) {
    return &gateway->model_info;
}

void gateway_state(struct gateway *gateway, struct queue_state *state) {
    *state = (struct queue_state){0};
    struct scheduler_state all;
    struct scheduler_model_state model;
    if (!gateway->provider) return;
    gateway->provider->state(gateway->provider, &all);
    gateway->provider->model_state(gateway->provider, NULL, &model);
    *state =
        (struct queue_state){model.ready, all.waiting, all.running, all.workers_started, model.job_seconds};
}

static json_t *model_object(const struct gateway *gateway) {
    const struct queue_model *info = &gateway->model_info;
    return json_pack("{s:s, s:s, s:i, s:s, s:s, s:b, s:[s, s], s:i, s:{s:[s, s], s:[s]}}", "id",
                     gateway->model, "object", "model", "created", 0, "owned_by", "limn", "name", info->name,
                     "trained", info->trained, "modes", "text-to-image", "image-edit", "max_input_images",
                     REFERENCES_MOST, "modalities", "input", "text", "image", "output", "image");
}

bool gateway_models_body(struct gateway *gateway, const char *id, struct buffer *out,
                         struct api_error *error) {
    if (id && !check_model(gateway, id, error)) return false;
    json_t *model = model_object(gateway);
    if (!id) model = json_pack("{s:s, s:[o?]}", "object", "list", "data", model);
    char *text = model ? json_dumps(model, JSON_COMPACT) : NULL;
    json_decref(model);
    bool good = text && buffer_add_string(out, text);
    free(text);
    return good || api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the answer");
}
