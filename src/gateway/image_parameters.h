// Each parameter of a request: its type, its range, what it becomes. Relies on image_request.h.
#ifndef LIMN_GATEWAY_IMAGE_PARAMETERS_H
#define LIMN_GATEWAY_IMAGE_PARAMETERS_H

#include "gateway/image_request.h"

// Reads one parameter into [request]; [value] is not null. A name that is not known is only noted among those given.
bool image_parameter_take(struct image_request *request, const char *name, const json_t *value,
                          bool from_form, struct api_error *error);

#endif
