// From the pictures of a request to its answer: as a body, or as server-sent events, in the words of OpenAI's Images API.
// Relies on inside.h.
//
// The body: {"id","created","size","output_format","quality","background","data":[{"url" or "b64_json","seed"}],"usage",
// "metadata"}. An event is "event: NAME\ndata: JSON\n\n", NAME being the JSON's "type": image_generation.partial_image,
// image_generation.completed, image_edit.partial_image, image_edit.completed; and "error" with {"error":{...}}.
#ifndef LIMN_GATEWAY_DELIVER_H
#define LIMN_GATEWAY_DELIVER_H

#include "gateway/inside.h"

// Moves the pictures that are to have a URL into media. On failure none stays there.
bool deliver_store(struct work *work, struct error *error);

// Appends the answer. Pictures that failed stand in metadata.errors.
bool deliver_body(struct work *work, struct buffer *out, struct error *error);

// Appends one completed event a picture.
bool deliver_events(struct work *work, struct buffer *out, struct error *error);
// The same from an answer's body (text, as deliver_body made it for this stream), for one who attached late or comes back.
bool deliver_replay(enum image_mode mode, const char *body, size_t size, struct buffer *out);

// Appends the event of preview [partial] (from 0) of picture [index], which lies in [path], width x height pixels.
bool deliver_partial(const struct work *work, const char *path, int width, int height, int index, int partial,
                     struct buffer *out, struct error *error);

// Appends "event: error".
bool deliver_error(const struct api_error *error, struct buffer *out);

#endif
