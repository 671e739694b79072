// From the pictures of a finished job to the body of the answer. Relies on image_request, media.
#ifndef LIMN_GATEWAY_DELIVER_H
#define LIMN_GATEWAY_DELIVER_H

#include "gateway/image_request.h"
#include "media/media.h"
#include "queue/queue.h"

struct delivered_picture {
    char *path; // in the spool
    int width, height;
    uint64_t seed;
};

struct delivery {
    const struct image_request *request;
    const struct delivered_picture *pictures;
    int count;
    const struct queue_event *done; // token counts
    const char *model, *provider_slug, *provider_name;
    const char *base_url;
    struct media *media;
};

// Appends the answer to [out]: base64 of each file, or its URL, for which it is moved into media.
bool deliver(const struct delivery *delivery, struct buffer *out, struct error *error);

#endif
