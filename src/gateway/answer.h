// The text of an answer with its pictures left out, and where they belong: what is kept for somebody who comes back is small, and
// base64 is made when it is sent. Relies on base, media.
#ifndef LIMN_GATEWAY_ANSWER_H
#define LIMN_GATEWAY_ANSWER_H

#include "base/buffer.h"
#include "base/error.h"
#include "gateway/image_request.h"
#include "media/media.h"

#include <jansson.h> // defines: json_t

// The base64 of a file stands before byte [at] of the text.
struct answer_picture {
    size_t at;
    char media[MEDIA_NAME_MOST]; // its name in media, or ""
    const char *path;            // else where it lies; borrowed
    size_t bytes;                // of the file; 0 in an answer that was read from a record
};

// Starts as {0}.
struct answer {
    struct buffer text;
    struct answer_picture pictures[REQUEST_COUNT_MOST];
    int count;
};

void answer_free(struct answer *answer); // {0} again

// Leaves a picture of [bytes] bytes out at the end of what is there so far: it lies in media as [media], or where that is "" in
// [path]. At most REQUEST_COUNT_MOST in one answer.
void answer_leave_out(struct answer *answer, const char *media, const char *path, size_t bytes);

// Appends all of [more]. False when memory is gone.
bool answer_append(struct answer *answer, const struct answer *more);

// Bytes of the whole text, pictures included.
size_t answer_length(const struct answer *answer);

// Appends the whole text with its pictures. ERROR_NOT_FOUND: one of them is not in media any more.
bool answer_write(const struct answer *answer, struct media *media, struct buffer *out, struct error *error);

// The pictures as records keep them: "<at> <name>\n" each. False when one does not lie in media, or memory is gone.
bool answer_list(const struct answer *answer, struct buffer *out);
// The other way round, beside the text. ERROR_INPUT when the list is none of this text's.
bool answer_read_list(struct answer *answer, const char *list, struct error *error);

// Puts the pictures into the JSON of a kept answer: {"media": name} as b64_json of one of its data becomes base64, or null when
// the picture is not there any more. Any JSON, NULL too, is fine.
void answer_fill(json_t *body, struct media *media);

#endif
