// The body of a request: a form cut into pieces (the first byte says where), or JSON when the first byte is 0. What is read is
// held to what image_request.h promises, and to the sizes that follow from it.
#include "fuzz.h"

#include "gateway/image_request.h"
#include "server/multipart.h"

struct form {
    json_t *fields;
    char name[64];
    struct buffer text;
};

static bool on_begin(void *context, const struct multipart_part *part, struct error *error) {
    struct form *form = context;
    form->text.length = 0;
    snprintf(form->name, sizeof form->name, "%s", part->name);
    return true;
}

static bool on_data(void *context, const void *bytes, size_t size, struct error *error) {
    struct form *form = context;
    promise(size > 0);
    return buffer_add(&form->text, bytes, size);
}

static bool on_end(void *context, struct error *error) {
    struct form *form = context;
    json_t *value = form->text.length ? json_stringn(form->text.data, form->text.length) : json_string("");
    return value && json_object_set_new(form->fields, form->name, value) == 0;
}

// Parses the form in pieces of [piece] bytes, each in memory of exactly its size.
static json_t *read_form(const uint8_t *data, size_t size, size_t piece) {
    static const struct multipart_events events = {on_begin, on_data, on_end};
    struct form form = {.fields = json_object()};
    struct error error = {0};
    struct multipart *multipart = multipart_open("multipart/form-data; boundary=XX", &events, &form, &error);
    bool good = multipart != NULL;
    for (size_t at = 0; good && at < size; at += piece) {
        size_t count = size - at < piece ? size - at : piece;
        uint8_t *copy = malloc(count);
        promise(copy);
        memcpy(copy, data + at, count);
        good = multipart_feed(multipart, copy, count, &error);
        free(copy);
    }
    if (good) multipart_finish(multipart, &error);
    multipart_close(multipart);
    buffer_free(&form.text);
    return form.fields;
}

static void check(const struct image_request *request) {
    promise(request->prompt && *request->prompt);
    promise(request->count >= 1 && request->count <= REQUEST_COUNT_MOST);
    promise(request->steps >= 0 && request->steps <= STEPS_MOST && request->guidance <= 20);
    promise(request->sigma_count >= 0 && request->sigma_count <= STEPS_MOST);
    for (int i = 0; i < request->sigma_count; i++) promise(request->sigmas[i] > 0 && request->sigmas[i] <= 1);
    if (request->width == 0) return;
    struct image_size size = image_request_size(request, 16);
    promise(size.deliver_width >= SIDE_LEAST && size.deliver_width <= SIDE_MOST);
    promise(size.deliver_height >= SIDE_LEAST && size.deliver_height <= SIDE_MOST);
    promise(size.render_width % 16 == 0 && size.render_width >= size.deliver_width);
    promise(size.render_height % 16 == 0 && size.render_height >= size.deliver_height);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    bool from_form = data[0] != 0;
    struct error cause = {0};
    json_t *fields = from_form ? read_form(data + 1, size - 1, data[0])
                               : json_parse("the request body", (const char *)data + 1, size - 1, &cause);
    if (!fields) return 0;
    struct image_request *request = calloc(1, sizeof *request);
    promise(request);
    struct api_error error = {0};
    image_request_init(request, MODE_GENERATION, "req_fuzz");
    if (image_request_read(request, fields, from_form, &error)) {
        check(request);
    } else {
        struct buffer body = {0};
        promise(error.code != API_OK && *error.message);
        for (const char *c = error.message; *c; c++) promise((unsigned char)*c >= 0x20 && *c != 0x7f);
        promise(api_error_body(&error, &body));
        buffer_free(&body);
    }
    image_request_free(request);
    free(request);
    json_decref(fields);
    return 0;
}
