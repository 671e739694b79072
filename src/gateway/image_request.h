// A request for pictures, from the fields of a JSON body or a form to checked values. Every error names the parameter.
// Relies on base, image, catalog.
#ifndef LIMN_GATEWAY_IMAGE_REQUEST_H
#define LIMN_GATEWAY_IMAGE_REQUEST_H

#include "base/arena.h"
#include "base/json.h"
#include "catalog/parameter.h" // defines: enum image_mode
#include "gateway/api_error.h"
#include "image/image.h"

#define REQUEST_ID_MOST    40 // with the 0 byte
#define REFERENCES_MOST    4
#define REQUEST_COUNT_MOST 10
#define STEPS_MOST         200
#define PROMPT_MOST        32000 // characters
#define SIDE_LEAST         64
#define SIDE_MOST          2048
#define SIDE_ASKED_MOST    65536 // what is larger is a mistake, what is smaller is brought within SIDE_MOST
#define IGNORED_MOST       32

struct image_reference {
    char file[80]; // name in the spool folder
    struct image_header header;
    unsigned char hash[32]; // BLAKE2b-256 of the file, where has_hash
    bool has_hash;
};

struct image_request {
    char id[REQUEST_ID_MOST]; // "req_<hex digits>"
    enum image_mode mode;
    struct arena arena; // the strings below
    const char *prompt;
    const char *model; // NULL: the default
    int count;
    int width, height;        // pixels asked for; 0: by the model or the first reference ("auto")
    bool base64;              // b64_json instead of url
    enum image_format format; // PNG, JPEG, WEBP
    int compression;          // 0 to 100, -1: not given
    bool has_seed;
    uint64_t seed;
    int steps;      // 0: the model's
    float guidance; // negative: the model's
    float sigmas[STEPS_MOST];
    int sigma_count;
    struct image_reference references[REFERENCES_MOST]; // "Image 1" is the first
    int reference_count;
    struct image_reference mask; // where has_mask
    bool has_mask;
    bool stream;
    int partial_images;                // 0 to 3 previews before each picture of a stream
    const char *ignored[IGNORED_MOST]; // parameters without an effect here, as they were named
    int ignored_count;
};

void image_request_init(struct image_request *request, enum image_mode mode, const char *id);
void image_request_free(struct image_request *request);

// Reads every member of [fields]. [from_form]: values are texts (or arrays of texts, for names that ended with []), to be
// read as what the parameter is. Then checks what must be there. References are added by the caller, before.
bool image_request_read(struct image_request *request, const json_t *fields, bool from_form,
                        struct api_error *error);

// Adds a reference that lies in the spool as [file]; [head] is its beginning (the header is read from it).
bool image_request_add_reference(struct image_request *request, const char *file, const void *head,
                                 size_t size, struct api_error *error);

// The sizes that a request comes to: rendered sides are multiples of [multiple], delivered ones lie in the middle. Asked
// sides beyond the limits are scaled into them, keeping the ratio as far as the limits allow. All 0 for "auto".
struct image_size {
    int render_width, render_height, deliver_width, deliver_height;
};
struct image_size image_request_size(const struct image_request *request, int multiple);

#endif
