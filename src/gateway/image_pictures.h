// Pictures of a request that are named in JSON: data URIs, which go to the spool, and https URLs, which are fetched later.
// Relies on image_request.h.
#ifndef LIMN_GATEWAY_IMAGE_PICTURES_H
#define LIMN_GATEWAY_IMAGE_PICTURES_H

#include "gateway/image_request.h"

// Takes the references of parameter [name]: one picture or an array of them. A picture is a text (data URI or https URL) or
// {"image_url": text}, as OpenAI writes it also {"image_url": {"url": text}}; {"file_id"} is refused, for there are no stored
// files here.
bool image_pictures_take(struct image_request *request, const char *name, const json_t *value,
                         struct api_error *error);
// The same for the mask, which is one picture.
bool image_pictures_take_mask(struct image_request *request, const json_t *value, struct api_error *error);

#endif
