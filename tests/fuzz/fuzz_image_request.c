// The body of a request for pictures: JSON, or the fields of a form. In the first byte, bit 0 says that the values came from a
// form, bit 1 that it is an edit, bit 2 that a picture came along with that.
#include "fuzz.h"

#include "gateway/image_request.h"

#include <math.h>

static const uint8_t picture[] = {0x89, 'P', 'N', 'G', 13, 10, 26, 10, 0, 0, 0, 13, 'I', 'H', 'D', 'R', 0,
                                  0,    4,   0,   0,   0,  2,  88, 8,  2, 0, 0, 0,  0,   0,   0,   0};

// What is answered is a JSON object whatever the request held.
static void promise_answer(const struct api_error *error) {
    struct buffer body = {0};
    promise(error->code != API_OK && api_code_info(error->code)->status >= 400);
    promise(api_error_body(error, &body));
    struct error ignored = {0};
    json_t *json = json_parse("answer", body.data, body.length, &ignored);
    promise(json && json_string_value(json_object_get(json_object_get(json, "error"), "message")));
    json_decref(json);
    buffer_free(&body);
}

static void promise_request(const struct image_request *request) {
    promise(request->prompt && request->prompt[0]);
    promise(request->count >= 1 && request->count <= REQUEST_COUNT_MOST);
    promise(request->steps >= 0 && request->steps <= STEPS_MOST && request->seed < INT64_MAX);
    promise(isfinite(request->guidance) && request->guidance <= GUIDANCE_MOST);
    promise(request->compression >= -1 && request->compression <= 100);
    promise(request->sigma_count >= 0 && request->sigma_count <= STEPS_MOST);
    for (int i = 0; i < request->sigma_count; i++) promise(request->sigmas[i] > 0 && request->sigmas[i] <= 1);
    volatile unsigned sum = request->model ? touch(request->model, strlen(request->model)) : 0;
    for (int i = 0; i < request->ignored_count; i++)
        sum += touch(request->ignored[i], strlen(request->ignored[i]));
    promise(request->lora_count >= 0 && request->lora_count <= LORAS_MOST);
    for (int i = 0; i < request->lora_count; i++)
        promise(request->loras[i].name[0] && fabs(request->loras[i].scale) <= LORA_SCALE_MOST);
    promise(request->partial_images >= 0 && request->partial_images <= PARTIALS_MOST);
    promise(request->reference_count <= REFERENCES_MOST &&
            (request->mode == MODE_EDIT || !request->reference_count));
    for (int i = 0; i < request->reference_count;
         i++) // no spool folder: only what is to be fetched, and what came along
        promise(request->references[i].url || request->references[i].file[0]);
    unsigned char print[32];
    struct api_error error = {0};
    struct image_request copy = *request;
    for (int i = 0; i < copy.reference_count; i++) copy.references[i].has_hash = true;
    promise(image_request_fingerprint(&copy, print, &error));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    struct error error = {0};
    json_t *fields = json_parse("fuzz", (const char *)data + 1, size - 1, &error);
    if (!fields) {
        promise_explained(&error);
        return 0;
    }
    struct image_request request;
    struct api_error refused = {0};
    image_request_init(&request, data[0] & 2 ? MODE_EDIT : MODE_GENERATION, "req_0");
    if ((data[0] & 6) == 6)
        promise(image_request_add_reference(&request, "file", picture, sizeof picture, &refused));
    if (image_request_read(&request, fields, data[0] & 1, &refused)) {
        promise_request(&request);
    } else {
        promise_answer(&refused);
    }
    image_request_free(&request);
    json_decref(fields);
    return 0;
}
