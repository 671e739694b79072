// See image_pictures.h.
#include "gateway/image_pictures.h"
#include "base/file.h"
#include "gateway/data_uri.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define URL_MOST 2048

static bool write_spool(const struct image_request *request, const char *file, const struct buffer *bytes,
                        struct api_error *error) {
    char *path = path_join(request->spool_folder, file);
    int to = path ? open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;
    bool good = to >= 0;
    for (size_t at = 0; good && at < bytes->length;) {
        ssize_t written = write(to, bytes->data + at, bytes->length - at);
        if (written < 0 && errno == EINTR) continue;
        good = written > 0;
        if (good) at += (size_t)written;
    }
    int why = errno;
    if (to >= 0 && close(to) != 0 && good) good = false, why = errno;
    if (!good && to >= 0) unlink(path);
    free(path);
    return good ||
           api_error_set(error, why == ENOSPC || why == EDQUOT ? API_STORAGE_FULL : API_INTERNAL_ERROR, "",
                         "the picture cannot be stored: %s", strerror(why));
}

static bool take_data_uri(struct image_request *request, struct image_reference *picture, const char *name,
                          const char *text, struct api_error *error) {
    struct buffer bytes = {0};
    struct error cause = {0};
    if (!request->spool_folder)
        return api_error_set(error, API_INVALID_REQUEST, name, "%s: expected a file, not a text", name);
    bool good = data_uri_decode(text, strlen(text), PICTURE_BYTES_MOST, &bytes, &cause);
    if (!good) {
        enum api_code code = cause.kind == ERROR_MEMORY ? API_OUT_OF_MEMORY : API_INVALID_REQUEST;
        api_error_set(error, code, name, "%s: %s", name, cause.message);
    }
    good = good && image_request_fill(request, picture, bytes.data, bytes.length, error);
    if (good) {
        bool is_mask = picture == &request->mask;
        snprintf(picture->file, sizeof picture->file, "%s-%s-%d", request->id, is_mask ? "mask" : "uri",
                 is_mask ? 0 : (int)(picture - request->references));
        crypto_generichash(picture->hash, sizeof picture->hash, (unsigned char *)bytes.data, bytes.length,
                           NULL, 0);
        picture->has_hash = true;
        good = image_request_take_room(request, bytes.length, error) &&
               write_spool(request, picture->file, &bytes, error);
    }
    buffer_free(&bytes);
    return good;
}

static bool take_url(struct image_request *request, struct image_reference *picture, const char *name,
                     const char *text, struct api_error *error) {
    if (strncasecmp(text, "https://", 8))
        return api_error_set(error, API_INVALID_REQUEST, name,
                             "%s: expected a data URI (\"data:image/png;base64,...\") or an https URL", name);
    if (strlen(text) > URL_MOST)
        return api_error_set(error, API_INVALID_REQUEST, name, "%s: a URL of more than %d letters", name,
                             URL_MOST);
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c <= 0x20 || (unsigned char)*c >= 0x7f)
            return api_error_set(error, API_INVALID_REQUEST, name,
                                 "%s: a URL with a letter that must be escaped", name);
    picture->url = arena_strdup(&request->arena, text);
    return picture->url || api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
}

static bool take_text(struct image_request *request, struct image_reference *picture, const json_t *value,
                      struct api_error *error) {
    char name[32];
    image_request_picture_name(request, picture, name);
    const char *text = json_string_value(value);
    if (strlen(text) != json_string_length(value))
        return api_error_set(error, API_INVALID_REQUEST, name, "%s: a text with a 0 byte", name);
    if (data_uri_is(text)) return take_data_uri(request, picture, name, text, error);
    return take_url(request, picture, name, text, error);
}

// The text of a picture's value; NULL with an error.
static const json_t *text_of(const char *name, const json_t *value, struct api_error *error) {
    if (json_is_string(value)) return value;
    if (json_is_object(value)) {
        const json_t *url = json_object_get(value, "image_url");
        const json_t *file = json_object_get(value, "file_id");
        if (file && !json_is_null(file)) {
            api_error_set(error, API_INVALID_REQUEST, name,
                          "%s: file_id names a stored file, and this server stores none; send image_url",
                          name);
            return NULL;
        }
        if (json_is_object(url)) url = json_object_get(url, "url");
        if (json_is_string(url)) return url;
    }
    api_error_set(error, API_INVALID_REQUEST, name,
                  "%s: expected {\"image_url\": \"data:image/png;base64,...\"} or that text alone", name);
    return NULL;
}

static bool take_one(struct image_request *request, const json_t *value, struct api_error *error) {
    char name[32];
    if (request->reference_count == REFERENCES_MOST)
        return api_error_set(error, API_INVALID_REQUEST, "image",
                             "image: more than %d pictures, the model takes at most %d", REFERENCES_MOST,
                             REFERENCES_MOST);
    struct image_reference *picture = &request->references[request->reference_count];
    *picture = (struct image_reference){0};
    const json_t *text = text_of(image_request_picture_name(request, picture, name), value, error);
    if (!text || !take_text(request, picture, text, error)) return false;
    request->reference_count++;
    return true;
}

bool image_pictures_take(struct image_request *request, const char *name, const json_t *value,
                         struct api_error *error) {
    if (request->mode == MODE_GENERATION)
        return api_error_set(error, API_INVALID_REQUEST, name, "%s: pictures are taken by /images/edits",
                             name);
    if (!json_is_array(value)) return take_one(request, value, error);
    if (json_array_size(value) == 0)
        return api_error_set(error, API_INVALID_REQUEST, name,
                             "%s: an empty array, expected 1 to %d pictures", name, REFERENCES_MOST);
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!take_one(request, json_array_get(value, i), error)) return false;
    return true;
}

bool image_pictures_take_mask(struct image_request *request, const json_t *value, struct api_error *error) {
    if (request->mode == MODE_GENERATION)
        return api_error_set(error, API_INVALID_REQUEST, "mask", "mask: masks are taken by /images/edits");
    if (request->has_mask)
        return api_error_set(error, API_INVALID_REQUEST, "mask", "mask: given twice, expected one picture");
    request->mask = (struct image_reference){0};
    const json_t *text = text_of("mask", value, error);
    if (!text || !take_text(request, &request->mask, text, error)) return false;
    request->has_mask = true;
    return true;
}
