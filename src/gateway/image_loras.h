// The parameter `lora`: names of LoRAs that the owner has set up, with scales. A client never names a file. Relies on
// image_request.h, catalog (config.h), queue.h.
#ifndef LIMN_GATEWAY_IMAGE_LORAS_H
#define LIMN_GATEWAY_IMAGE_LORAS_H

#include "catalog/config.h"
#include "gateway/image_request.h"
#include "queue/queue.h"

// Takes the parameter: a name, {"name": text, "scale": number}, or an array of these; in a form also as JSON text.
bool image_loras_take(struct image_request *request, const json_t *value, bool from_form,
                      struct api_error *error);

// The files of the request's LoRAs for the model [id], in order; they are the configuration's. An unknown name, or one of another
// model, is a 400 that says which there are and what was probably meant.
bool image_loras_find(const struct image_request *request, const struct config *config, const char *id,
                      struct queue_lora files[LORAS_MOST], struct api_error *error);

#endif
