// One request through the parts: text, references, steps, decode. Relies on model.h and the other parts of flux.
// limn.c wraps it into the public limn.h.
#ifndef LIMN_FLUX_PIPELINE_H
#define LIMN_FLUX_PIPELINE_H

#include "flux/model.h"
#include "flux/observer.h"
#include "limn/limn.h"

struct pipeline;

// Opens a model folder and holds its parts against each other. options NULL: the defaults. Errors name the file and the field
// or tensor.
struct pipeline *pipeline_open(const char *folder, const struct limn_options *options, struct error *error);
void pipeline_close(struct pipeline *pipeline); // NULL is fine
const struct model_settings *pipeline_settings(const struct pipeline *pipeline);
void pipeline_info(const struct pipeline *pipeline, struct limn_model_info *info);

// Checks a request against the model and fills in its defaults: sizes, steps, guidance and sigmas of [filled] are those that
// will be used; its pointers are the request's or the model's. Errors have the field ("size", "references[1]"). Reads nothing
// that changes: any thread may call it.
bool pipeline_check(const struct pipeline *pipeline, const struct limn_request *request,
                    struct limn_request *filled, struct error *error);

// Checks and runs. Not thread-safe: one request at a time. The observer (or NULL) sees, under the names of `limn dump`, what
// lies between the stages of the first picture. Free the result with limn_result_free.
struct limn_result *pipeline_run(struct pipeline *pipeline, const struct limn_request *request,
                                 const struct observer *observer, struct error *error);

#endif
