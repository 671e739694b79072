// A request for pictures, from the fields of a JSON body or a form to checked values. Every error names the parameter. What
// depends on the model is judged later, against its card (hold.h). Relies on base, image, catalog.
//
// JSON null means absent. A value of the wrong type or range is a 400; a name that is not known is kept in [given] and listed in
// metadata.ignored_parameters. In a form every value is a text and is read as what the parameter is.
#ifndef LIMN_GATEWAY_IMAGE_REQUEST_H
#define LIMN_GATEWAY_IMAGE_REQUEST_H

#include "base/arena.h"
#include "base/json.h"
#include "catalog/parameter.h" // defines: enum image_mode
#include "gateway/api_error.h"
#include "image/image.h"

#include <stdatomic.h>

#define REQUEST_ID_MOST     40 // with the 0 byte
#define REFERENCES_MOST     4
#define REQUEST_COUNT_MOST  10
#define STEPS_MOST          200
#define SIGMA_LEAST         0.00001
#define SEED_MOST           9007199254740991 // whole numbers that every JSON reader keeps
#define PROMPT_MOST         32000            // characters
#define PARTIALS_MOST       3
#define IGNORED_MOST        64
#define USER_MOST           512         // bytes
#define PICTURE_BYTES_MOST  (50u << 20) // of an encoded picture that comes in
#define PICTURE_PIXELS_MOST 100000000   // by its header, where the owner says nothing else
#define GUIDANCE_MOST       20
#define LORAS_MOST          4
#define LORA_SCALE_MOST     4.0

// Bytes of pictures that lie in the spool folder for requests that wait or run, all together. Any thread.
struct spool_room {
    atomic_ullong used;
    unsigned long long most; // 0: no limit
};

// A picture that came with the request.
struct image_reference {
    char file[80];              // name in the spool folder, "" while it has to be fetched from [url]
    const char *url;            // https; NULL: it came with the body
    struct image_header header; // {0} while it has to be fetched
    unsigned char hash[32];     // BLAKE2b-256 of the file, where has_hash
    bool has_hash;
};

struct image_lora {
    const char *name; // of one that the owner has set up
    double scale;     // where has_scale; else the owner's
    bool has_scale;
};

enum answer_as { ANSWER_DEFAULT, ANSWER_URL, ANSWER_BASE64 };
enum background { BACKGROUND_AUTO, BACKGROUND_OPAQUE, BACKGROUND_TRANSPARENT };

struct image_request {
    char id[REQUEST_ID_MOST]; // "req_<hex digits>"
    enum image_mode mode;
    const char *spool_folder; // borrowed; where pictures of data URIs are put; NULL: such are refused
    int64_t pixels_most;      // of a picture that comes in, by its header
    struct spool_room *room;  // borrowed; NULL: nobody counts
    unsigned long long room_taken;
    struct arena arena; // the strings below
    json_t *given; // every parameter that was given, but the pictures; for the record and the fingerprint

    const char *prompt;
    const char *model;                            // NULL: the default
    const char *user;                             // the end user, for the record; NULL
    int count;                                    // n, 1 to REQUEST_COUNT_MOST
    const char *size, *aspect_ratio, *resolution; // as given; NULL
    enum answer_as answer_as;                     // response_format
    bool sync_mode;                               // a data URI, nothing kept
    enum image_format format;                     // IMAGE_UNKNOWN: not given
    int compression;                              // 0 to 100, -1: not given
    enum background background;
    bool has_seed;
    uint64_t seed;            // at most SEED_MOST
    int steps;                // 0: the model's
    double guidance;          // negative: the model's
    float sigmas[STEPS_MOST]; // rising towards noise: each above 0, at most 1
    int sigma_count;
    bool prompt_enhancement;                 // asked to be on
    bool has_safety_checker, safety_checker; // given; on
    struct image_lora loras[LORAS_MOST];
    int lora_count;
    bool stream;
    int partial_images; // 0 to PARTIALS_MOST previews before each picture of a stream

    struct image_reference references[REFERENCES_MOST]; // "Image 1" is the first
    int reference_count;
    struct image_reference mask; // where has_mask; alpha 0 = edit here
    bool has_mask;

    const char *ignored[IGNORED_MOST]; // parameters without an effect, as they were named
    int ignored_count;
};

void image_request_init(struct image_request *request, enum image_mode mode, const char *id);
// What it holds, its room in the spool, too; files there stay. NULL is fine.
void image_request_free(struct image_request *request);

// Counts bytes that are to be written into the spool; API_STORAGE_FULL when there is no room for them.
bool image_request_take_room(struct image_request *request, size_t bytes, struct api_error *error);

// Reads every member of [fields] (borrowed). [from_form]: values are texts (or arrays of texts, for names that ended with []).
// Then checks what must be there whatever the model. Files of a form are added by the caller, before.
bool image_request_read(struct image_request *request, const json_t *fields, bool from_form,
                        struct api_error *error);

// Adds a reference that lies in the spool as [file]; its header is read from [data], the whole file or its beginning.
bool image_request_add_reference(struct image_request *request, const char *file, const void *data,
                                 size_t size, struct api_error *error);
// The same for the mask: a PNG. Whether it has the first reference's size is checked by image_request_check_pictures.
bool image_request_add_mask(struct image_request *request, const char *file, const void *data, size_t size,
                            struct api_error *error);

// Gives a picture that was fetched its header.
bool image_request_fill(struct image_request *request, struct image_reference *picture, const void *data,
                        size_t size, struct api_error *error);

// Once all pictures are there: the mask fits the first.
bool image_request_check_pictures(const struct image_request *request, struct api_error *error);

// What the parameter of a picture is called in messages: "image", "image[1]", "mask".
const char *image_request_picture_name(const struct image_request *request,
                                       const struct image_reference *picture, char name[32]);

// Lists [name] (copied) among the ignored, once.
bool image_request_ignore(struct image_request *request, const char *name, struct api_error *error);

// What makes two bodies the same one: BLAKE2b-256 over mode, parameters in canonical form and the pictures' bytes (those
// without a hash are read from the spool; URLs count as what they are).
bool image_request_fingerprint(struct image_request *request, unsigned char fingerprint[32],
                               struct api_error *error);

#endif
