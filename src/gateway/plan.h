// A request held against its model's card: what exactly will be done, how large, for how much. Pure CPU. Relies on
// image_request.h, principal.h, catalog.
#ifndef LIMN_GATEWAY_PLAN_H
#define LIMN_GATEWAY_PLAN_H

#include "catalog/catalog.h"
#include "gateway/image_request.h"
#include "gateway/principal.h"
#include "queue/queue.h"

struct plan {
    struct catalog_choice choice;
    struct size_request asked;
    struct size_result size;             // filled in by plan_size
    int output_quality;                  // 0 to 100; -1: the encoder's default
    bool base64;                         // b64_json, else a URL
    bool data_uri;                       // the URL is a data URI
    int call_images;                     // pictures that one call to the provider makes at most
    int calls;                           // to the provider
    struct queue_lora loras[LORAS_MOST]; // of the request, as many as it names; files of the configuration
    struct price estimate;               // filled in by plan_size; its lines point into the card
};

// Finds the model and holds the parameters against its card: what it does not offer, or only within other limits, is a 400 with
// the parameter's name; what has no use there is listed in request->ignored. Sets the defaults that depend on neither size
// nor pictures (format, seed: drawn where none was given). [principal] NULL: any model may be used.
bool plan_make(struct plan *plan, const struct catalog *catalog, const struct config *config,
               const struct principal *principal, struct image_request *request, struct api_error *error);

// Once all pictures are there: the mask, the exact size, the price.
bool plan_size(struct plan *plan, const struct image_request *request, struct api_error *error);

// What [images] delivered pictures that came of [calls] calls cost: the estimate with what was asked for, the bill with what
// was delivered.
bool plan_price(const struct plan *plan, const struct image_request *request, int images, int calls,
                struct price *price, struct api_error *error);

#endif
