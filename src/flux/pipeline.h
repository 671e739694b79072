// One request through the parts: text, references, steps, decode. Relies on model.h and the other parts of flux.
// limn.c wraps it into the public limn.h.
#ifndef LIMN_FLUX_PIPELINE_H
#define LIMN_FLUX_PIPELINE_H

#include "flux/model.h"
#include "flux/noise.h"
#include "limn/limn.h"

struct pipeline;

struct pipeline *pipeline_open(const char *folder, const struct limn_options *options, struct error *error);
void pipeline_close(struct pipeline *pipeline);
const struct model_settings *pipeline_settings(const struct pipeline *pipeline);
void pipeline_info(const struct pipeline *pipeline, struct limn_model_info *info);

// Checks a request against the model and fills in its defaults; errors name the field. Needs no weights: a server can ask
// before it queues.
bool pipeline_check(const struct pipeline *pipeline, const struct limn_request *request,
                    struct limn_request *filled, struct error *error);

// Not thread-safe: one request at a time. The observer may be NULL.
struct limn_result *pipeline_run(struct pipeline *pipeline, const struct limn_request *request,
                                 const struct observer *observer, struct error *error);

#endif
