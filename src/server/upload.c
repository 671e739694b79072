// See upload.h.
#include "server/upload.h"
#include "base/file.h"
#include "server/multipart.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

struct upload {
    enum upload_kind kind;
    const char *spool_folder;
    struct image_request *request;
    struct buffer text; // the JSON body, or the text part in work
    // Of a form:
    struct multipart *multipart;
    json_t *fields;
    char name[64]; // of the part in work
    bool is_array; // its name ended with [] or [k]
    bool is_file;
    int file;           // open while a picture arrives, else -1
    char file_name[80]; // in the spool folder
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
    snprintf(u->file_name, sizeof u->file_name, "%s-ref-%d", u->request->id, u->files++);
    char *path = path_join(u->spool_folder, u->file_name);
    if (!path) return api_error_set(u->error, API_OUT_OF_MEMORY, "", "no memory for the request");
    u->file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    free(path);
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
    // A picture sent without a file name is one nevertheless when its type says so.
    u->is_file = part->filename || (is_image && !strncasecmp(part->type, "image/", 6));
    if (!u->is_file) return true;
    if (!is_image && !strcmp(u->name, "mask"))
        return api_error_set(
            u->error, API_INVALID_REQUEST, "mask",
            "mask: this server does not offer it; describe in the prompt what is to be changed");
    if (!is_image)
        return api_error_set(u->error, API_INVALID_REQUEST, u->name,
                             "%s: a file is not expected here; pictures are "
                             "sent as image or image[]",
                             u->name);
    if (u->request->mode == MODE_GENERATION || u->files == REFERENCES_MOST)
        return api_error_set(u->error, API_INVALID_REQUEST, "image",
                             "image: more than %d pictures, the model takes at "
                             "most %d",
                             REFERENCES_MOST, REFERENCES_MOST);
    return open_spool_file(u);
}

static bool write_file(struct upload *u, const char *bytes, size_t size) {
    if (u->part_bytes > FILE_BYTES_MOST)
        return api_error_set(u->error, API_PAYLOAD_TOO_LARGE, "image", "image: a file of more than %u MiB",
                             FILE_BYTES_MOST >> 20);
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

// The header of a picture that has arrived is read from its file: it may stand far behind the beginning.
static bool end_file(struct upload *u) {
    close(u->file);
    u->file = -1;
    struct error cause = {0};
    struct file_map map = {0};
    char *path = path_join(u->spool_folder, u->file_name);
    bool good = path && file_map(path, &map, &cause);
    free(path);
    if (!good)
        return api_error_set(u->error, API_INTERNAL_ERROR, "", "the picture cannot be read back: %s",
                             cause.message);
    good = image_request_add_reference(u->request, u->file_name, map.data, map.size, u->error);
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
    json_t *there = json_object_get(u->fields, u->name);
    if (there && !(u->is_array && json_is_array(there))) {
        json_decref(value);
        return api_error_set(u->error, API_INVALID_REQUEST, u->name, "%s: given twice", u->name);
    }
    bool good;
    if (there) {
        good = json_array_append_new(there, value) == 0;
    } else if (u->is_array) {
        json_t *array = json_array();
        good = array && json_array_append_new(array, value) == 0;
        if (!array) json_decref(value);
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

static bool open_form(struct upload *u, const char *content_type, struct api_error *error) {
    static const struct multipart_events events = {on_begin, on_data, on_end};
    if (is_type(content_type, "application/json"))
        return api_error_set(error, API_INVALID_REQUEST, "",
                             "edits as JSON are not offered by this server; send "
                             "multipart/form-data with the pictures as image parts");
    if (!is_type(content_type, "multipart/form-data"))
        return api_error_set(error, API_UNSUPPORTED_MEDIA_TYPE, "",
                             "Content-Type: expected multipart/form-data");
    struct error cause = {0};
    u->fields = json_object();
    u->multipart = u->fields ? multipart_open(content_type, &events, u, &cause) : NULL;
    if (!u->fields) error_set(&cause, ERROR_MEMORY, "no memory for the request");
    return u->multipart || api_error_from(error, &cause);
}

struct upload *upload_open(enum upload_kind kind, enum image_mode mode, const char *id,
                           const char *spool_folder, const char *content_type, struct api_error *error) {
    struct upload *u = calloc(1, sizeof *u);
    if (!u || !(u->request = calloc(1, sizeof *u->request))) {
        free(u);
        api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
        return NULL;
    }
    image_request_init(u->request, mode, id);
    u->request->spool_folder = spool_folder;
    u->kind = kind;
    u->spool_folder = spool_folder;
    u->file = -1;
    bool good = kind == UPLOAD_FORM ? open_form(u, content_type, error)
                                    : is_type(content_type, "application/json") ||
                                          api_error_set(error, API_UNSUPPORTED_MEDIA_TYPE, "",
                                                        "Content-Type: expected application/json");
    if (good) return u;
    upload_close(u);
    return NULL;
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
    if (u->kind == UPLOAD_FORM) {
        struct error cause = {0};
        u->error = error;
        if (multipart_feed(u->multipart, bytes, size, &cause)) return true;
        return error->code != API_OK ? false : api_error_from(error, &cause);
    }
    if (u->text.length + size > JSON_BODY_MOST)
        return api_error_set(error, API_PAYLOAD_TOO_LARGE, "", "the request body: more than %u KiB of JSON",
                             JSON_BODY_MOST >> 10);
    return buffer_add(&u->text, bytes, size) ||
           api_error_set(error, API_OUT_OF_MEMORY, "", "no memory for the request");
}

struct image_request *upload_finish(struct upload *u, struct api_error *error) {
    struct error cause = {0};
    bool good;
    if (u->kind == UPLOAD_FORM) {
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
