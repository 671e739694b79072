// Framed messages between queue and worker: u32 little-endian length, then that many bytes of JSON, an object with
// "v" (FRAME_VERSION) and "type". Relies on base.
#ifndef LIMN_QUEUE_FRAME_H
#define LIMN_QUEUE_FRAME_H

#include "base/buffer.h"
#include "base/json.h"

#define FRAME_VERSION 1
#define FRAME_MOST    65536 // bytes of JSON

// Appends a frame with [message] (an object; "v" and "type" are set here) to [out]. Takes the reference to [message], also
// when it fails: no memory, or more than FRAME_MOST bytes. A NULL message counts as no memory.
bool frame_add(struct buffer *out, const char *type, json_t *message, struct error *error);

enum frame_state { FRAME_NONE, FRAME_READY, FRAME_BAD };

// Takes the first frame out of [in]. FRAME_READY: *message is the caller's (json_decref) and has the right version;
// *type is borrowed from it. FRAME_NONE: more bytes are needed. FRAME_BAD: what stands there is no frame of ours.
enum frame_state frame_take(struct buffer *in, json_t **message, const char **type, struct error *error);

#endif
