// The body of a POST on its way in: JSON into memory, a form's texts into memory and its files into the spool folder. Relies on
// multipart.h, gateway/image_request.h.
#ifndef LIMN_SERVER_UPLOAD_H
#define LIMN_SERVER_UPLOAD_H

#include "gateway/image_request.h"

#define JSON_BODY_MOST  (1u << 20)
#define FILE_BYTES_MOST (50u << 20) // of one picture
#define FORM_BODY_MOST  (REFERENCES_MOST * (uint64_t)FILE_BYTES_MOST + (4u << 20))
#define TEXT_PART_MOST  (256u << 10)
#define TEXT_PARTS_MOST (1u << 20) // all texts of a form together

enum upload_kind { UPLOAD_NONE, UPLOAD_JSON, UPLOAD_FORM };

struct upload;

// [id] is the request's: files are "<id>-ref-<k>" in [spool_folder]. [content_type] may be NULL. Whoever ends a request
// before it was handed on removes its files (gateway_sweep).
struct upload *upload_open(enum upload_kind kind, enum image_mode mode, const char *id,
                           const char *spool_folder, const char *content_type, struct api_error *error);
void upload_close(struct upload *upload); // NULL is fine

bool upload_feed(struct upload *upload, const void *bytes, size_t size, struct api_error *error);

// Reads what has arrived as a request. The caller frees it (image_request_free, free) or hands it on.
struct image_request *upload_finish(struct upload *upload, struct api_error *error);

#endif
