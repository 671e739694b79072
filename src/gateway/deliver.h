// From the pictures of a request to its answer: as a body, or as server-sent events, in the words of OpenAI's Images API.
// Relies on inside.h.
//
// The body: {"id","created","size","output_format","quality","background","data":[{"url" or "b64_json","seed"}],"usage",
// "metadata"}. An event is "event: NAME\ndata: JSON\n\n", NAME being the JSON's "type": image_generation.partial_image,
// image_generation.completed, image_edit.partial_image, image_edit.completed; and "error" with {"error":{...}}.
#ifndef LIMN_GATEWAY_DELIVER_H
#define LIMN_GATEWAY_DELIVER_H

#include "gateway/inside.h"

// Moves picture [index] into media where it is to have a URL, or belongs to an answer that is kept, or pictures are kept for the
// history.
bool deliver_store(struct work *work, int index, struct error *error);

// Appends the answer. Pictures that failed stand in metadata.errors.
bool deliver_body(struct work *work, struct answer *out, struct error *error);
// The same for the history, of a stream, too: pictures are named by the URLs of what is kept of them, null where that is nothing.
bool deliver_kept(struct work *work, struct answer *out, struct error *error);

// What a completed event says of its own picture alone.
struct picture_bill {
    struct usage usage;
    int64_t cost_micros;
};

// Appends the completed event of picture [index].
bool deliver_completed(struct work *work, int index, const struct picture_bill *bill, struct answer *out,
                       struct error *error);

// Appends the event of preview [partial] (from 0) of picture [index], which lies in [path], width x height pixels.
bool deliver_partial(const struct work *work, const char *path, int width, int height, int index, int partial,
                     struct buffer *out, struct error *error);

// Appends "event: error".
bool deliver_error(const struct api_error *error, struct buffer *out);

// Whether the answer is kept for whoever comes back for it.
bool deliver_is_kept(const struct work *work);

#endif
