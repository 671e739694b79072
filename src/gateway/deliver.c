// See deliver.h. The body is put together by hand: pictures as base64 would be copied several times by a JSON library.
#include "gateway/deliver.h"
#include "base/clock.h"
#include "base/file.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define DELIVERED_BYTES_MOST (256u << 20)

static bool add_base64(const char *path, struct buffer *out, struct error *error) {
    char *data;
    size_t size;
    if (!file_read(path, DELIVERED_BYTES_MOST, &data, &size, error)) return false;
    size_t room = sodium_base64_ENCODED_LEN(size, sodium_base64_VARIANT_ORIGINAL); // with the 0 byte
    bool good = buffer_reserve(out, room);
    if (good) {
        sodium_bin2base64(out->data + out->length, room, (const unsigned char *)data, size,
                          sodium_base64_VARIANT_ORIGINAL);
        out->length += room - 1;
    }
    free(data);
    return good || error_set(error, ERROR_MEMORY, "no memory for the answer");
}

static bool add_picture(const struct delivery *d, int index, struct buffer *out, struct error *error) {
    const struct delivered_picture *picture = &d->pictures[index];
    bool good = buffer_add_string(out, index ? ",{" : "{");
    if (d->request->answer_as == ANSWER_BASE64) {
        good = good && buffer_add_string(out, "\"b64_json\":\"") && add_base64(picture->path, out, error);
    } else {
        char name[MEDIA_NAME_MOST];
        if (!media_put_file(d->media, picture->path, image_format_name(d->request->format), name, error))
            return false;
        good = good && buffer_printf(out, "\"url\":\"%s/media/%s", d->base_url, name);
    }
    return good && buffer_printf(out, "\",\"seed\":%llu}", (unsigned long long)picture->seed);
}

static json_t *usage_of(const struct queue_event *done) {
    int input = done->text_tokens + done->reference_tokens;
    return json_pack("{s:i, s:i, s:i, s:{s:i, s:i}, s:{s:i, s:i}}", "total_tokens",
                     input + done->output_tokens, "input_tokens", input, "output_tokens", done->output_tokens,
                     "input_tokens_details", "text_tokens", done->text_tokens, "image_tokens",
                     done->reference_tokens, "output_tokens_details", "text_tokens", 0, "image_tokens",
                     done->output_tokens);
}

static json_t *metadata_of(const struct delivery *d) {
    json_t *ignored = json_array();
    for (int i = 0; i < d->request->ignored_count; i++)
        json_array_append_new(ignored, json_string(d->request->ignored[i]));
    return json_pack("{s:s, s:s++, s:s, s:s, s:o}", "model", d->model, "executed_model", d->provider_slug,
                     "/", d->model, "provider", d->provider_slug, "provider_name", d->provider_name,
                     "ignored_parameters", ignored);
}

// Appends the members of [object] (taken over) without its braces.
static bool add_members(struct buffer *out, json_t *object) {
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    size_t length = text ? strlen(text) : 0;
    bool good = length > 2 && buffer_add(out, text + 1, length - 2);
    free(text);
    return good;
}

bool deliver(const struct delivery *d, struct buffer *out, struct error *error) {
    char size[32];
    snprintf(size, sizeof size, "%dx%d", d->pictures[0].width, d->pictures[0].height);
    json_t *head =
        json_pack("{s:s, s:I, s:s, s:s, s:s, s:s}", "id", d->request->id, "created",
                  (json_int_t)(clock_unix_micros() / 1000000), "size", size, "output_format",
                  image_format_name(d->request->format), "quality", "auto", "background", "opaque");
    bool good =
        buffer_add_string(out, "{") && add_members(out, head) && buffer_add_string(out, ",\"data\":[");
    for (int i = 0; good && i < d->count; i++) good = add_picture(d, i, out, error);
    good =
        good && buffer_add_string(out, "],") &&
        add_members(out, json_pack("{s:o?, s:o?}", "usage", usage_of(d->done), "metadata", metadata_of(d))) &&
        buffer_add_string(out, "}");
    return good || error_set(error, ERROR_MEMORY, "no memory for the answer");
}
