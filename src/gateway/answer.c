// See answer.h.
#include "gateway/answer.h"
#include "base/file.h"
#include "gateway/base64.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "no memory for the answer");
}

void answer_free(struct answer *answer) {
    buffer_free(&answer->text);
    *answer = (struct answer){0};
}

void answer_leave_out(struct answer *answer, const char *media, const char *path, size_t bytes) {
    if (answer->count == REQUEST_COUNT_MOST) return;
    struct answer_picture *picture = &answer->pictures[answer->count++];
    *picture = (struct answer_picture){.at = answer->text.length, .path = path, .bytes = bytes};
    snprintf(picture->media, sizeof picture->media, "%s", media);
}

bool answer_append(struct answer *answer, const struct answer *more) {
    size_t before = answer->text.length;
    if (!buffer_add(&answer->text, more->text.data, more->text.length)) return false;
    for (int i = 0; i < more->count && answer->count < REQUEST_COUNT_MOST; i++) {
        struct answer_picture *picture = &answer->pictures[answer->count++];
        *picture = more->pictures[i];
        picture->at += before;
    }
    return true;
}

size_t answer_length(const struct answer *answer) {
    size_t length = answer->text.length;
    for (int i = 0; i < answer->count; i++) length += (answer->pictures[i].bytes + 2) / 3 * 4;
    return length;
}

// ------------------------------------------------------------------------------------------------------------ pictures

static bool add_stored(struct media *media, const char *name, struct buffer *out, struct error *error) {
    struct media_item item;
    if (!media_get(media, name, &item, error)) return false;
    void *data = mmap(NULL, item.size, PROT_READ, MAP_SHARED, item.file, 0);
    bool good = data != MAP_FAILED || error_set(error, ERROR_IO, "%s: %s", name, strerror(errno));
    if (good) {
        good = base64_add(out, data, item.size) || no_memory(error);
        munmap(data, item.size);
    }
    close(item.file);
    return good;
}

static bool add_picture(const struct answer_picture *picture, struct media *media, struct buffer *out,
                        struct error *error) {
    struct file_map map;
    if (*picture->media) return add_stored(media, picture->media, out, error);
    if (!file_map(picture->path, &map, error)) return false;
    bool good = base64_add(out, map.data, map.size) || no_memory(error);
    file_unmap(&map);
    return good;
}

bool answer_write(const struct answer *answer, struct media *media, struct buffer *out, struct error *error) {
    size_t before = out->length, at = 0;
    bool good = true;
    for (int i = 0; good && i < answer->count; i++) {
        const struct answer_picture *picture = &answer->pictures[i];
        good = (buffer_add(out, answer->text.data + at, picture->at - at) || no_memory(error)) &&
               add_picture(picture, media, out, error);
        at = picture->at;
    }
    good = good && (buffer_add(out, answer->text.data + at, answer->text.length - at) || no_memory(error));
    if (!good) out->length = before;
    return good;
}

// ------------------------------------------------------------------------------------------------------------- records

bool answer_list(const struct answer *answer, struct buffer *out) {
    for (int i = 0; i < answer->count; i++)
        if (!*answer->pictures[i].media ||
            !buffer_printf(out, "%zu %s\n", answer->pictures[i].at, answer->pictures[i].media))
            return false;
    return true;
}

bool answer_read_list(struct answer *answer, const char *list, struct error *error) {
    size_t least = 0;
    answer->count = 0;
    while (*list) {
        char *end;
        errno = 0;
        uintmax_t at = strtoumax(list, &end, 10);
        size_t length = *end == ' ' ? strcspn(end + 1, "\n") : 0;
        struct answer_picture *picture = &answer->pictures[answer->count];
        bool good = end > list && errno == 0 && at >= least && at <= answer->text.length &&
                    length < sizeof picture->media && answer->count < REQUEST_COUNT_MOST &&
                    end[length + 1] == '\n';
        if (good) {
            *picture = (struct answer_picture){.at = (size_t)at};
            memcpy(picture->media, end + 1, length);
            good = media_name_is_valid(picture->media);
        }
        if (!good) return error_set(error, ERROR_INPUT, "a kept answer's list of pictures is damaged");
        answer->count++;
        least = (size_t)at;
        list = end + length + 2;
    }
    return true;
}

void answer_fill(json_t *body, struct media *media) {
    json_t *data = json_object_get(body, "data"), *one;
    size_t index;
    json_array_foreach(data, index, one) {
        const char *name = json_string_value(json_object_get(json_object_get(one, "b64_json"), "media"));
        struct buffer text = {0};
        struct error ignored = {0};
        if (!name) continue;
        bool good = add_stored(media, name, &text, &ignored);
        json_object_set_new(one, "b64_json", good ? json_stringn(text.data, text.length) : json_null());
        buffer_free(&text);
    }
}
