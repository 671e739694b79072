// See image_request.h: a request as a whole, its pictures, its fingerprint. Each parameter: image_parameters.c.
#include "gateway/image_request.h"
#include "base/file.h"
#include "gateway/image_parameters.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPOOL_RETRY_SECONDS 5

void image_request_init(struct image_request *request, enum image_mode mode, const char *id) {
    *request = (struct image_request){
        .mode = mode, .count = 1, .compression = -1, .guidance = -1, .pixels_most = PICTURE_PIXELS_MOST};
    snprintf(request->id, sizeof request->id, "%s", id);
}

void image_request_free(struct image_request *request) {
    if (!request) return;
    arena_free(&request->arena);
    json_decref(request->given);
    request->given = NULL;
    if (request->room) atomic_fetch_sub(&request->room->used, request->room_taken);
    request->room_taken = 0;
}

bool image_request_take_room(struct image_request *request, size_t bytes, struct api_error *error) {
    struct spool_room *room = request->room;
    if (!room) return true;
    unsigned long long before = atomic_fetch_add(&room->used, bytes);
    request->room_taken += bytes; // given back with the rest, also when it is too much
    if (!room->most || before + bytes <= room->most) return true;
    error->retry_after = SPOOL_RETRY_SECONDS;
    return api_error_set(
        error, API_STORAGE_FULL, "",
        "the server holds as many pictures of waiting requests as it may (limits.spool_bytes, "
        "%.0f MiB); try again later",
        (double)room->most / 1048576);
}

bool image_request_ignore(struct image_request *request, const char *name, struct api_error *error) {
    for (int i = 0; i < request->ignored_count; i++)
        if (!strcmp(request->ignored[i], name)) return true;
    if (request->ignored_count == IGNORED_MOST) return true;
    const char *copy = arena_strdup(&request->arena, name);
    if (!copy) return api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
    request->ignored[request->ignored_count++] = copy;
    return true;
}

// --------------------------------------------------------------------------------------------------------- reading

// A parameter that says nothing in this request, known only once all were read.
static bool ignore_idle(struct image_request *request, struct api_error *error) {
    bool lossless = request->format == IMAGE_UNKNOWN || request->format == IMAGE_PNG ||
                    request->format == IMAGE_GIF; // PNG has no losses to choose, GIF a fixed palette
    if (request->compression >= 0 && lossless) {
        request->compression = -1;
        if (!image_request_ignore(request, "output_compression", error)) return false;
    }
    if (request->partial_images > 0 && !request->stream) {
        request->partial_images = 0;
        if (!image_request_ignore(request, "partial_images", error)) return false;
    }
    return true;
}

#define NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

bool image_request_read(struct image_request *request, const json_t *fields, bool from_form,
                        struct api_error *error) {
    if (!json_is_object(fields))
        return api_error_set(error, API_INVALID_REQUEST, "", "the request body: expected a JSON object");
    request->given = json_object();
    if (!request->given) return api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)fields, name, value) {
        size_t length = strlen(name);
        if (length == 0 || length >= sizeof error->param || strspn(name, NAME_LETTERS) != length)
            return api_error_set(error, API_INVALID_REQUEST, "",
                                 "a parameter's name: expected 1 to %zu letters, digits, dots, dashes and "
                                 "underscores",
                                 sizeof error->param - 1);
        if (json_is_null(value)) continue; // null means absent
        if (!image_parameter_take(request, name, value, from_form, error)) return false;
    }
    if (!request->prompt)
        return api_error_set(error, API_INVALID_REQUEST, "prompt", "prompt: missing, expected a string");
    if (request->mode == MODE_EDIT && request->reference_count == 0)
        return api_error_set(error, API_INVALID_REQUEST, "image", "image: missing, expected 1 to %d pictures",
                             REFERENCES_MOST);
    if (request->background == BACKGROUND_TRANSPARENT && request->format == IMAGE_JPEG)
        return api_error_set(
            error, API_INVALID_REQUEST, "background",
            "background: a JPEG file cannot be transparent; set output_format to png or webp");
    return ignore_idle(request, error);
}

// -------------------------------------------------------------------------------------------------------- pictures

const char *image_request_picture_name(const struct image_request *request,
                                       const struct image_reference *picture, char name[32]) {
    int index = picture == &request->mask ? 0 : (int)(picture - request->references);
    if (picture == &request->mask)
        snprintf(name, 32, "mask");
    else if (index == 0)
        snprintf(name, 32, "image");
    else
        snprintf(name, 32, "image[%d]", index);
    return name;
}

bool image_request_fill(struct image_request *request, struct image_reference *picture, const void *data,
                        size_t size, struct api_error *error) {
    char name[32];
    image_request_picture_name(request, picture, name);
    struct error cause = {0};
    struct image_header header;
    if (!image_read_header(data, size, &header, &cause))
        return api_error_set(error, API_INVALID_REQUEST, name, "%s: %s", name, cause.message);
    bool is_mask = picture == &request->mask;
    bool good = header.format == IMAGE_PNG ||
                (!is_mask && (header.format == IMAGE_JPEG || header.format == IMAGE_WEBP));
    if (!good)
        return api_error_set(error, API_INVALID_REQUEST, name, "%s: a %s file, expected %s", name,
                             image_format_name(header.format), is_mask ? "PNG" : "PNG, JPEG or WebP");
    if ((int64_t)header.width * header.height > request->pixels_most)
        return api_error_set(error, API_INVALID_REQUEST, name,
                             "%s: %dx%d pixels, expected at most %lld in all", name, header.width,
                             header.height, (long long)request->pixels_most);
    picture->header = header;
    return true;
}

bool image_request_add_reference(struct image_request *request, const char *file, const void *data,
                                 size_t size, struct api_error *error) {
    if (request->mode == MODE_GENERATION)
        return api_error_set(error, API_INVALID_REQUEST, "image",
                             "image: pictures are taken by /images/edits");
    if (request->reference_count == REFERENCES_MOST)
        return api_error_set(error, API_INVALID_REQUEST, "image",
                             "image: more than %d pictures, the model takes at most %d", REFERENCES_MOST,
                             REFERENCES_MOST);
    struct image_reference *reference = &request->references[request->reference_count];
    *reference = (struct image_reference){0};
    if (!image_request_fill(request, reference, data, size, error)) return false;
    snprintf(reference->file, sizeof reference->file, "%s", file);
    request->reference_count++;
    return true;
}

bool image_request_add_mask(struct image_request *request, const char *file, const void *data, size_t size,
                            struct api_error *error) {
    if (request->has_mask)
        return api_error_set(error, API_INVALID_REQUEST, "mask", "mask: given twice, expected one picture");
    request->mask = (struct image_reference){0};
    if (!image_request_fill(request, &request->mask, data, size, error)) return false;
    snprintf(request->mask.file, sizeof request->mask.file, "%s", file);
    request->has_mask = true;
    return true;
}

bool image_request_check_pictures(const struct image_request *request, struct api_error *error) {
    if (!request->has_mask) return true;
    const struct image_header *mask = &request->mask.header, *first = &request->references[0].header;
    // A header does not say how a camera was turned: the worker, which decodes, judges that.
    return (mask->width == first->width && mask->height == first->height) ||
           (mask->width == first->height && mask->height == first->width) ||
           api_error_set(error, API_INVALID_REQUEST, "mask",
                         "mask: %dx%d pixels, expected the size of the first picture, %dx%d", mask->width,
                         mask->height, first->width, first->height);
}

// ------------------------------------------------------------------------------------------------------ fingerprint

static bool hash_file(const struct image_request *request, struct image_reference *picture,
                      struct api_error *error) {
    struct file_map map = {0};
    struct error cause = {0};
    char *path = request->spool_folder ? path_join(request->spool_folder, picture->file) : NULL;
    bool good = path && file_map(path, &map, &cause);
    free(path);
    if (!good)
        return api_error_set(error, API_INTERNAL_ERROR, "", "a picture of the request cannot be read back");
    crypto_generichash(picture->hash, sizeof picture->hash, map.data, map.size, NULL, 0);
    picture->has_hash = true;
    file_unmap(&map);
    return true;
}

static bool add_picture(crypto_generichash_state *state, struct image_request *request,
                        struct image_reference *picture, struct api_error *error) {
    if (picture->url) {
        crypto_generichash_update(state, (const unsigned char *)picture->url, strlen(picture->url) + 1);
        return true;
    }
    if (!picture->has_hash && !hash_file(request, picture, error)) return false;
    crypto_generichash_update(state, picture->hash, sizeof picture->hash);
    return true;
}

bool image_request_fingerprint(struct image_request *request, unsigned char fingerprint[32],
                               struct api_error *error) {
    char *text = json_dumps(request->given, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text) return api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, 32);
    unsigned char head[3] = {(unsigned char)request->mode, (unsigned char)request->reference_count,
                             (unsigned char)request->has_mask};
    crypto_generichash_update(&state, head, sizeof head);
    crypto_generichash_update(&state, (const unsigned char *)text, strlen(text) + 1);
    free(text);
    for (int i = 0; i < request->reference_count; i++)
        if (!add_picture(&state, request, &request->references[i], error)) return false;
    if (request->has_mask && !add_picture(&state, request, &request->mask, error)) return false;
    crypto_generichash_final(&state, fingerprint, 32);
    return true;
}
