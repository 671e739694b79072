// See frame.h.
#include "queue/frame.h"

#include <stdlib.h>
#include <string.h>

bool frame_add(struct buffer *out, const char *type, json_t *message, struct error *error) {
    char *text = NULL;
    if (message && json_object_set_new(message, "v", json_integer(FRAME_VERSION)) == 0 &&
        json_object_set_new(message, "type", json_string(type)) == 0)
        text = json_dumps(message, JSON_COMPACT);
    json_decref(message);
    if (!text)
        return error_set(error, ERROR_MEMORY, "no memory for a \"%s\" message, or text that is not UTF-8",
                         type);
    size_t length = strlen(text);
    bool good = length <= FRAME_MOST ||
                error_set(error, ERROR_INPUT, "a \"%s\" message of %zu bytes, expected at most %d", type,
                          length, FRAME_MOST);
    if (good) {
        uint8_t head[4] = {(uint8_t)length, (uint8_t)(length >> 8), (uint8_t)(length >> 16), 0};
        good =
            (buffer_reserve(out, length + 5) && buffer_add(out, head, 4) && buffer_add(out, text, length)) ||
            error_set(error, ERROR_MEMORY, "no memory for a \"%s\" message", type);
    }
    free(text);
    return good;
}

enum frame_state frame_take(struct buffer *in, json_t **message, const char **type, struct error *error) {
    *message = NULL;
    if (in->length < 4) return FRAME_NONE;
    const uint8_t *head = (const uint8_t *)in->data;
    uint32_t length =
        (uint32_t)head[0] | (uint32_t)head[1] << 8 | (uint32_t)head[2] << 16 | (uint32_t)head[3] << 24;
    if (length > FRAME_MOST) {
        error_set(error, ERROR_INPUT, "a frame of %u bytes, expected at most %d", (unsigned)length,
                  FRAME_MOST);
        return FRAME_BAD;
    }
    if (in->length - 4 < length) return FRAME_NONE;
    json_t *object = json_parse("message", in->data + 4, length, error);
    if (!object) return FRAME_BAD;
    memmove(in->data, in->data + 4 + length, in->length - 4 - length + 1); // with the 0 byte behind
    in->length -= 4 + length;
    int64_t version = 0;
    struct json_place place = {object, "message"};
    if (!json_is_object(object)) {
        error_set(error, ERROR_INPUT, "message: expected an object");
    } else if (json_get_integer(place, "v", JSON_REQUIRED, FRAME_VERSION, FRAME_VERSION, &version, error) &&
               json_get_string(place, "type", JSON_REQUIRED, type, error)) {
        *message = object;
        return FRAME_READY;
    }
    json_decref(object);
    return FRAME_BAD;
}
