// One request's way: route to a provider, run, deliver. Relies on image_request, provider, media.
//
// DESIGN. A request that was read and checked is handed to gateway_start and belongs to the gateway from then on. Its job
// runs at the provider; what comes back is delivered (base64, or moved into media behind a URL) on the provider's thread, and
// the answer is handed to the owner's `done`, once a request, whatever happens. Files of the request in the spool folder are
// removed before that.
#ifndef LIMN_GATEWAY_GATEWAY_H
#define LIMN_GATEWAY_GATEWAY_H

#include "base/log.h"
#include "gateway/image_request.h"
#include "media/media.h"
#include "queue/queue.h"

struct gateway;

struct gateway_answer {
    struct api_error error; // code API_OK: body is the answer
    struct buffer body;     // JSON; the receiver's to free
};

// Called on the provider's thread. [answer] is the callee's.
typedef void gateway_done(void *context, const char *id, struct gateway_answer *answer);

struct gateway_options {
    struct queue_options queue; // of the local provider; spool_folder is emptied here
    struct media *media;
    double start_seconds; // how long to wait for the first worker
    const struct log *log;
};

// Opens the local provider and waits until it can serve.
struct gateway *gateway_open(const struct gateway_options *options, gateway_done *done, void *context,
                             struct error *error);
// Stops the provider: what is in work is answered with API_INTERRUPTED before this returns, as is what comes later.
void gateway_interrupt(struct gateway *gateway);
void gateway_close(struct gateway *gateway); // interrupts; NULL is fine

// The model's name as it is asked for: lower case, "-" for what is not [a-z0-9._-].
const char *gateway_model(const struct gateway *gateway);
const struct queue_model *gateway_model_info(const struct gateway *gateway);
void gateway_state(struct gateway *gateway, struct queue_state *state);

// Whether a request that came now would be taken: asked before a large body is stored in vain.
bool gateway_has_room(struct gateway *gateway, struct api_error *error);

// Takes [request] (from malloc, read and checked) over in any case. [base_url]: "http://127.0.0.1:8080", what media URLs
// begin with. False with an error: there will be no answer. True: `done` is called with the request's id.
bool gateway_start(struct gateway *gateway, struct image_request *request, const char *base_url,
                   struct api_error *error);
// The client is gone. The answer comes nevertheless.
void gateway_cancel(struct gateway *gateway, const char *id);

// Removes every file of a request that did not get as far as gateway_start.
void gateway_sweep(struct gateway *gateway, const char *id);

// {"object":"list","data":[...]} with [id] NULL, else the model of that name.
bool gateway_models_body(struct gateway *gateway, const char *id, struct buffer *out,
                         struct api_error *error);

#endif
