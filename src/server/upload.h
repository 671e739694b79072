// The body of a POST on its way in: JSON into memory, a form's texts into memory and its files into the spool folder. Relies on
// multipart.h, gateway/image_request.h.
#ifndef LIMN_SERVER_UPLOAD_H
#define LIMN_SERVER_UPLOAD_H

#include "gateway/image_request.h"

#define TEXT_PART_MOST  (256u << 10)
#define TEXT_PARTS_MOST (1u << 20) // all texts of a form together

enum upload_kind {
    UPLOAD_NONE, // a body is of no use
    UPLOAD_JSON,
    UPLOAD_FORM, // or JSON, whose pictures are data URIs
};

struct upload;

// All borrowed until upload_close.
struct upload_options {
    enum image_mode mode;
    bool takes_form; // multipart/form-data is taken beside JSON
    const char *id;  // the request's: files are "<id>-ref-<k>" and "<id>-mask" in [spool_folder]
    const char *spool_folder;
    const char *content_type; // the header; NULL: none
    uint64_t file_bytes;      // of one picture
    double pixels;            // likewise, by its header
    struct spool_room *room;  // NULL: no limit of the spool
};

// Whoever ends a request before it was handed on removes its files (gateway_sweep).
struct upload *upload_open(const struct upload_options *options, struct api_error *error);
void upload_close(struct upload *upload); // NULL is fine
bool upload_is_form(const struct upload *upload);

bool upload_feed(struct upload *upload, const void *bytes, size_t size, struct api_error *error);

// Reads what has arrived as a request. The caller frees it (image_request_free, free) or hands it on.
struct image_request *upload_finish(struct upload *upload, struct api_error *error);

#endif
