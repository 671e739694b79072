// What the queue and a worker send each other: frames, and the job in a "job" message. The input is cut into pieces as a
// socket would cut it (the first byte says where). The engine is replaced by one that checks what reaches it, and so is the
// worker around the job.
#include "fuzz.h"

#include "image/image.h"
#include "queue/frame.h"
#include "queue/queue.h"
#include "queue/worker_job.h"

#include <math.h>

int LLVMFuzzerInitialize(int *count, char ***arguments);

// A job in a format that depends on the library tries it.
int LLVMFuzzerInitialize(int *count, char ***arguments) {
    struct error error = {0};
    promise(image_library_start((*arguments)[0], &error));
    return 0;
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed);

// Most changes make the length of the first frame wrong: three times out of four it is put right.
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed) {
    size = LLVMFuzzerMutate(data, size, most);
    if (size < 6 || seed % 4 == 0) return size;
    size_t end = size;
    while (end > 5 && data[end - 1] != '}') end--;
    for (int i = 0; i < 4; i++) data[1 + i] = (uint8_t)((end - 5) >> 8 * i);
    return size;
}

static const struct worker_options options = {
    .socket = -1, .model_folder = "none", .spool_folder = "/nonexistent"};

bool worker_send(struct worker *worker, const char *type, json_t *message) {
    struct buffer out = {0};
    struct error error = {0};
    bool good = frame_add(&out, type, message, &error);
    buffer_free(&out);
    return good;
}

bool worker_cancelled(struct worker *worker) {
    return false;
}

json_t *worker_message(struct worker *worker) {
    return json_object();
}

const struct worker_options *worker_options_of(const struct worker *worker) {
    return &options;
}

void worker_error_from(struct error *to, const struct limn_error *from) {
    error_set_field(to, ERROR_INPUT, from->field, "%s", from->message);
}

void limn_request_init(struct limn_request *request) {
    *request = (struct limn_request){.count = 1, .guidance = -1};
}

void limn_model_info(const struct limn_model *model, struct limn_model_info *info) {
    *info = (struct limn_model_info){.name = "fuzz", .default_steps = 8, .side_multiple = 16};
}

// Holds a request to what the message format promises and refuses it.
struct limn_result *limn_run(struct limn_model *model, const struct limn_request *request,
                             struct limn_error *error) {
    promise(request->prompt);
    volatile unsigned sum = touch(request->prompt, strlen(request->prompt));
    promise(request->width >= 0 && request->width <= LIMN_SIDE_MOST);
    promise(request->height >= 0 && request->height <= LIMN_SIDE_MOST);
    promise(request->count >= 1 && request->count <= LIMN_COUNT_MOST);
    promise(request->steps >= 0 && request->steps <= LIMN_STEPS_MOST);
    promise(request->seed <= INT64_MAX && isfinite(request->guidance));
    promise(request->sigma_count >= 0 && request->sigma_count <= LIMN_STEPS_MOST);
    for (int i = 0; i < request->sigma_count; i++)
        promise(request->sigmas[i] >= 0 && request->sigmas[i] <= 1);
    promise(request->preview_count >= 0 && request->preview_count <= QUEUE_PREVIEWS_MOST);
    for (int i = 1; i < request->preview_count; i++)
        promise(request->preview_steps[i] > request->preview_steps[i - 1]);
    promise(request->lora_count >= 0 && request->lora_count <= QUEUE_LORAS_MOST);
    for (int i = 0; i < request->lora_count; i++) {
        promise(fabsf(request->loras[i].scale) <= 4);
        sum += touch(request->loras[i].file, strlen(request->loras[i].file));
    }
    promise(request->reference_count == 0); // there is no file in the spool folder
    sum += 1;
    *error = (struct limn_error){.status = LIMN_BAD_INPUT, .field = "prompt", .message = "refused"};
    return NULL;
}

void limn_result_free(struct limn_result *result) {
    promise(!result);
}

void limn_image_free(struct limn_image *image) {
    promise(!image || !image->pixels); // no picture was ever handed out
}

const char *limn_version(void) {
    return "0";
}

// Takes every whole frame out of [in]; false when the stream is broken.
static bool take_frames(struct buffer *in) {
    for (;;) {
        struct error error = {0};
        json_t *message;
        const char *type;
        size_t before = in->length;
        enum frame_state state = frame_take(in, &message, &type, &error);
        if (state == FRAME_NONE) return true;
        if (state == FRAME_BAD) {
            promise_explained(&error);
            return false;
        }
        promise(in->length < before && json_is_object(message));
        if (strcmp(type, "job") == 0) {
            json_t *done = json_object();
            promise(!worker_job(NULL, NULL, message, done, &error));
            promise_explained(&error);
            json_decref(done);
        }
        // What was understood can be said again.
        struct buffer out = {0};
        error_clear(&error);
        if (!frame_add(&out, "again", json_incref(message), &error)) promise_explained(&error);
        buffer_free(&out);
        json_decref(message);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    size_t piece = (size_t)data[0] * 16 + 1;
    struct buffer in = {0};
    for (size_t at = 1; at < size; at += piece) {
        promise(buffer_add(&in, data + at, size - at < piece ? size - at : piece));
        if (!take_frames(&in)) break;
    }
    buffer_free(&in);
    return 0;
}
