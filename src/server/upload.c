// See upload.h.
#include "server/upload.h"
#include "base/file.h"
#include "server/multipart.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

struct upload {
    struct upload_options options;
    struct image_request *request;
    struct buffer text; // the JSON body, or the text part in work
    // Of a form:
    struct multipart *multipart;
    json_t *fields;
    char name[64]; // of the part in work
    bool is_array; // its name ended with [] or [k]
    bool is_file, is_mask;
    int file;                      // open while a picture arrives, else -1
    crypto_generichash_state hash; // of the file so far
    char file_name[80];            // in the spool folder
    size_t part_bytes, text_bytes;
    int files;
    struct api_error *error; // of the call in work
};

// Whether [type] is [wanted], parameters apart.
static bool is_type(const char *type, const char *wanted) {
    size_t length = strlen(wanted);
    return type && !strncasecmp(type, wanted, length) && strchr("; \t", type[length]);
}

// Splits "image[]" and "image[2]" into the name and the mark of an array.
static bool split_name(struct upload *u, const char *name) {
    size_t length = strcspn(name, "[");
    u->is_array = name[length] == '[';
    if (length == 0 || length >= sizeof u->name) return false;
    if (u->is_array) {
        size_t digits = strspn(name + length + 1, "0123456789");
        if (strcmp(name + length + 1 + digits, "]")) return false;
    }
    memcpy(u->name, name, length);
    u->name[length] = 0;
    return true;
}

static bool open_spool_file(struct upload *u) {
    if (u->is_mask)
        snprintf(u->file_name, sizeof u->file_name, "%s-mask", u->request->id);
    else
        snprintf(u->file_name, sizeof u->file_name, "%s-ref-%d", u->request->id, u->files++);
    char *path = path_join(u->options.spool_folder, u->file_name);
    if (!path) return api_error_set(u->error, API_OUT_OF_MEMORY, "", "no memory for the request");
    u->file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    free(path);
    crypto_generichash_init(&u->hash, NULL, 0, sizeof u->request->mask.hash);
    return u->file >= 0 ||
           api_error_set(u->error, API_STORAGE_FULL, "", "the picture cannot be stored: %s", strerror(errno));
}

static bool on_begin(void *context, const struct multipart_part *part, struct error *error) {
    struct upload *u = context;
    u->text.length = 0;
    u->part_bytes = 0;
    if (!split_name(u, part->name))
        return api_error_set(u->error, API_INVALID_REQUEST, "", "the form has a part with a malformed name");
    bool is_image = !strcmp(u->name, "image");
    u->is_mask = !strcmp(u->name, "mask");
    // A picture sent without a file name is one nevertheless when its type says so.
    u->is_file = part->filename || ((is_image || u->is_mask) && !strncasecmp(part->type, "image/", 6));
    if (!u->is_file) return true;
    if (!is_image && !u->is_mask)
        return api_error_set(u->error, API_INVALID_REQUEST, u->name,
                             "%s: a file is not expected here; pictures are sent as image, image[] or mask",
                             u->name);
    if (u->is_mask && u->request->has_mask)
        return api_error_set(u->error, API_INVALID_REQUEST, "mask", "mask: more than one");
    if (is_image && u->files == REFERENCES_MOST)
        return api_error_set(u->error, API_INVALID_REQUEST, "image",
                             "image: more than %d pictures, the model takes at most %d", REFERENCES_MOST,
                             REFERENCES_MOST);
    return open_spool_file(u);
}

static bool write_file(struct upload *u, const char *bytes, size_t size) {
    if (u->part_bytes > u->options.file_bytes)
        return api_error_set(u->error, API_PAYLOAD_TOO_LARGE, u->name, "%s: a file of more than %.0f MiB",
                             u->name, (double)u->options.file_bytes / 1048576);
    if (!image_request_take_room(u->request, size, u->error)) return false;
    crypto_generichash_update(&u->hash, (const unsigned char *)bytes, size);
    while (size > 0) {
        ssize_t written = write(u->file, bytes, size);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0)
            return api_error_set(u->error, errno == ENOSPC ? API_STORAGE_FULL : API_INTERNAL_ERROR, "",
                                 "the picture cannot be stored: %s", strerror(errno));
        bytes += written;
        size -= (size_t)written;
    }
    return true;
}

static bool on_data(void *context, const void *bytes, size_t size, struct error *error) {
    struct upload *u = context;
    u->part_bytes += size;
    if (u->is_file) return write_file(u, bytes, size);
    u->text_bytes += size;
    if (u->part_bytes > TEXT_PART_MOST || u->text_bytes > TEXT_PARTS_MOST)
        return api_error_set(u->error, API_PAYLOAD_TOO_LARGE, u->name, "%s: a text of more than %u KiB",
                             u->name, TEXT_PART_MOST >> 10);
    return buffer_add(&u->text, bytes, size) ||
           api_error_set(u->error, API_OUT_OF_MEMORY, "", "no memory for the request");
}

static bool add_picture(struct upload *u, const struct file_map *map) {
    struct image_request *request = u->request;
    bool good = u->is_mask
                    ? image_request_add_mask(request, u->file_name, map->data, map->size, u->error)
                    : image_request_add_reference(request, u->file_name, map->data, map->size, u->error);
    if (!good) return false;
    struct image_reference *picture =
        u->is_mask ? &request->mask : &request->references[request->reference_count - 1];
    crypto_generichash_final(&u->hash, picture->hash, sizeof picture->hash);
    return picture->has_hash = true;
}

// The header of a picture that has arrived is read from its file: it may stand far behind the beginning.
static bool end_file(struct upload *u) {
    close(u->file);
    u->file = -1;
    struct error cause = {0};
    struct file_map map = {0};
    char *path = path_join(u->options.spool_folder, u->file_name);
    bool good = path && file_map(path, &map, &cause);
    free(path);
    if (!good)
        return api_error_set(u->error, API_INTERNAL_ERROR, "", "the picture cannot be read back: %s",
                             cause.message);
    good = add_picture(u, &map);
    file_unmap(&map);
    return good;
}

static bool end_text(struct upload *u) {
    const char *text = u->text.length ? u->text.data : "";
    json_t *value = json_stringn(text, u->text.length); // NULL: not UTF-8
    if (!value || memchr(text, 0, u->text.length)) {
        json_decref(value);
        return api_error_set(u->error, API_INVALID_REQUEST, u->name, "%s: not a UTF-8 text", u->name);
    }
    json_t *there = json_object_get(u->fields, u->name), *array = NULL;
    bool good;
    if (json_is_array(there)) {
        good = json_array_append_new(there, value) == 0;
    } else if (there || u->is_array) { // repeated, or marked as one of several: an array
        array = json_array();
        good = array && (!there || json_array_append(array, there) == 0);
        good = json_array_append_new(array, value) == 0 && good;
        good = json_object_set_new(u->fields, u->name, array) == 0 && good;
    } else {
        good = json_object_set_new(u->fields, u->name, value) == 0;
    }
    return good || api_error_set(u->error, API_OUT_OF_MEMORY, "", "no memory for the request");
}

static bool on_end(void *context, struct error *error) {
    struct upload *u = context;
    return u->is_file ? end_file(u) : end_text(u);
}

static bool open_form(struct upload *u, struct api_error *error) {
    static const struct multipart_events events = {on_begin, on_data, on_end};
    struct error cause = {0};
    u->fields = json_object();
    u->multipart = u->fields ? multipart_open(u->options.content_type, &events, u, &cause) : NULL;
    if (!u->fields) error_set(&cause, ERROR_MEMORY, "no memory for the request");
    return u->multipart || api_error_from(error, &cause);
}

static bool open_kind(struct upload *u, struct api_error *error) {
    const char *type = u->options.content_type;
    if (is_type(type, "application/json")) return true;
    if (u->options.takes_form && is_type(type, "multipart/form-data")) return open_form(u, error);
    return api_error_set(error, API_UNSUPPORTED_MEDIA_TYPE, "", "Content-Type: expected %sapplication/json",
                         u->options.takes_form ? "multipart/form-data or " : "");
}

struct upload *upload_open(const struct upload_options *options, struct api_error *error) {
    struct upload *u = calloc(1, sizeof *u);
    if (!u || !(u->request = calloc(1, sizeof *u->request))) {
        free(u);
        api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
        return NULL;
    }
    image_request_init(u->request, options->mode, options->id);
    u->request->spool_folder = options->spool_folder;
    u->request->pixels_most = (int64_t)options->pixels;
    u->request->room = options->room;
    u->options = *options;
    u->file = -1;
    if (open_kind(u, error)) {
        u->options.content_type = NULL; // the header is gone by the time that the body ends
        return u;
    }
    upload_close(u);
    return NULL;
}

bool upload_is_form(const struct upload *u) {
    return u->multipart != NULL;
}

void upload_close(struct upload *u) {
    if (!u) return;
    if (u->file >= 0) close(u->file);
    multipart_close(u->multipart);
    json_decref(u->fields);
    buffer_free(&u->text);
    image_request_free(u->request);
    free(u->request);
    free(u);
}

bool upload_feed(struct upload *u, const void *bytes, size_t size, struct api_error *error) {
    if (u->multipart) {
        struct error cause = {0};
        u->error = error;
        if (multipart_feed(u->multipart, bytes, size, &cause)) return true;
        return error->code != API_OK ? false : api_error_from(error, &cause);
    }
    return buffer_add(&u->text, bytes, size) ||
           api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
}

struct image_request *upload_finish(struct upload *u, struct api_error *error) {
    struct error cause = {0};
    bool good;
    if (u->multipart) {
        good = multipart_finish(u->multipart, &cause) || api_error_from(error, &cause);
        good = good && image_request_read(u->request, u->fields, true, error);
    } else {
        json_t *body = json_parse("the request body", u->text.data, u->text.length, &cause);
        good = body ? image_request_read(u->request, body, false, error) : api_error_from(error, &cause);
        json_decref(body);
    }
    if (!good) return NULL;
    struct image_request *request = u->request;
    u->request = NULL;
    return request;
}
