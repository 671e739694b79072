// See deliver.h. Bodies are put together by hand: pictures as base64 would be copied several times by a JSON library.
#include "gateway/deliver.h"
#include "base/clock.h"
#include "base/file.h"
#include "gateway/base64.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DUMP (JSON_COMPACT | JSON_REAL_PRECISION(12))

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "no memory for the answer");
}

// ---------------------------------------------------------------------------------------------------------- pictures

bool deliver_store(struct work *work, struct error *error) {
    struct gateway *gateway = work->gateway;
    const struct image_request *request = work->request;
    bool wanted = request->stream ? request->answer_as == ANSWER_URL : !work->plan.base64;
    bool good = true;
    if (!wanted || work->plan.data_uri) return true;
    for (int i = 0; good && i < request->count; i++) {
        struct picture *picture = &work->pictures[i];
        if (!picture->there) continue;
        good = media_put_file(gateway->media, picture->path, image_format_name(request->format),
                              picture->media, error);
        if (!good) break;
        free(picture->path); // it was moved
        picture->path = NULL;
    }
    for (int i = 0; !good && i < request->count; i++) {
        struct error ignored = {0};
        if (*work->pictures[i].media) media_remove(gateway->media, work->pictures[i].media, &ignored);
        *work->pictures[i].media = 0;
    }
    return good;
}

// A picture that already lies in media, as base64.
static bool add_stored(const struct work *work, const struct picture *picture, struct buffer *out,
                       struct error *error) {
    struct media_item item;
    if (!media_get(work->gateway->media, picture->media, &item, error)) return false;
    void *data = mmap(NULL, item.size, PROT_READ, MAP_SHARED, item.file, 0);
    bool good = data != MAP_FAILED || error_set(error, ERROR_IO, "%s: %s", picture->media, strerror(errno));
    if (good) {
        good = base64_add(out, data, item.size) || no_memory(error);
        munmap(data, item.size);
    }
    close(item.file);
    return good;
}

static bool add_base64(const struct work *work, const struct picture *picture, struct buffer *out,
                       struct error *error) {
    struct file_map map;
    if (!picture->path) return add_stored(work, picture, out, error);
    if (!file_map(picture->path, &map, error)) return false;
    bool good = base64_add(out, map.data, map.size) || no_memory(error);
    file_unmap(&map);
    return good;
}

static bool add_url(const struct work *work, const struct picture *picture, struct buffer *out,
                    struct error *error) {
    return buffer_printf(out, "\"url\":\"%s/media/%s\"", work->base_url, picture->media) || no_memory(error);
}

static bool add_data_uri(const struct work *work, const struct picture *picture, struct buffer *out,
                         struct error *error) {
    bool good = buffer_printf(out, "\"url\":\"data:%s;base64,", image_format_mime(work->request->format));
    return (good || no_memory(error)) && add_base64(work, picture, out, error) &&
           (buffer_add_string(out, "\"") || no_memory(error));
}

static bool add_b64_json(const struct work *work, const struct picture *picture, struct buffer *out,
                         struct error *error) {
    return (buffer_add_string(out, "\"b64_json\":\"") || no_memory(error)) &&
           add_base64(work, picture, out, error) && (buffer_add_string(out, "\"") || no_memory(error));
}

// What a picture is answered as; of a stream it is base64 in any case, its URL besides where that was asked for.
static bool add_picture(const struct work *work, const struct picture *picture, struct buffer *out,
                        struct error *error) {
    if (work->request->stream) {
        if (!add_b64_json(work, picture, out, error)) return false;
        return !*picture->media ||
               ((buffer_add_string(out, ",") || no_memory(error)) && add_url(work, picture, out, error));
    }
    if (work->plan.base64) return add_b64_json(work, picture, out, error);
    return work->plan.data_uri ? add_data_uri(work, picture, out, error) : add_url(work, picture, out, error);
}

// ------------------------------------------------------------------------------------------------------ what is said

static json_t *usage_of(const struct work *work) {
    int text = 0, references = 0, output = 0;
    for (int i = 0; i < work->job_count; i++) {
        const struct job *job = &work->jobs[i];
        text += job->text_tokens;
        references += job->reference_tokens;
        output += job->output_tokens;
    }
    return json_pack("{s:i, s:i, s:i, s:{s:i, s:i}, s:{s:i, s:i}}", "total_tokens",
                     text + references + output, "input_tokens", text + references, "output_tokens", output,
                     "input_tokens_details", "text_tokens", text, "image_tokens", references,
                     "output_tokens_details", "text_tokens", 0, "image_tokens", output);
}

static double milliseconds(int64_t from, int64_t to) {
    return from && to > from ? (double)(to - from) / 1000 : 0;
}

static json_t *attempts_of(const struct work *work) {
    json_t *list = json_array();
    for (int i = 0; i < work->attempt_count; i++) {
        const struct store_attempt *attempt = &work->attempts[i];
        json_t *one = json_pack("{s:s, s:s, s:f, s:f}", "provider", attempt->provider, "status",
                                store_status_name(attempt->status), "queue_ms",
                                milliseconds(attempt->queued_at, attempt->dispatched_at), "duration_ms",
                                milliseconds(attempt->dispatched_at, attempt->ended_at));
        if (attempt->error_code) json_object_set_new(one, "error_code", json_string(attempt->error_code));
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *errors_of(const struct work *work) {
    json_t *list = json_array();
    for (int i = 0; i < work->job_count; i++) {
        const struct job *job = &work->jobs[i];
        for (int k = job->first; job->error.code != API_OK && k < job->first + job->count; k++)
            if (!work->pictures[k].there)
                json_array_append_new(list, json_pack("{s:i, s:s, s:s}", "index", k, "code",
                                                      api_code_info(job->error.code)->name, "message",
                                                      job->error.message));
    }
    return list;
}

static json_t *metadata_of(const struct work *work) {
    const struct catalog_choice *choice = &work->plan.choice;
    json_t *ignored = json_array();
    for (int i = 0; i < work->request->ignored_count; i++)
        json_array_append_new(ignored, json_string(work->request->ignored[i]));
    json_t *metadata = json_pack(
        "{s:s, s:s, s:s, s:s, s:f, s:I, s:s, s:I, s:o, s:o}", "model", choice->card->id, "executed_model",
        choice->executed, "provider", choice->provider->slug, "provider_name", choice->provider->name, "cost",
        (double)work->cost_micros / 1e6, "cost_micros", (json_int_t)work->cost_micros, "cost_currency", "USD",
        "seed", (json_int_t)work->request->seed, "attempts", attempts_of(work), "ignored_parameters",
        ignored);
    if (metadata && work->delivered < work->request->count)
        json_object_set_new(metadata, "errors", errors_of(work));
    return metadata;
}

static bool all_transparent(const struct work *work) {
    bool all = work->request->background == BACKGROUND_TRANSPARENT;
    for (int i = 0; i < work->request->count; i++)
        if (work->pictures[i].there) all = all && work->pictures[i].transparent;
    return all;
}

static json_t *picture_facts(const struct work *work, const struct picture *picture, bool transparent) {
    char size[32];
    snprintf(size, sizeof size, "%dx%d", picture->width, picture->height);
    return json_pack("{s:s, s:s, s:s, s:s}", "size", size, "quality", "auto", "background",
                     transparent ? "transparent" : "opaque", "output_format",
                     image_format_name(work->request->format));
}

// Appends the members of [object] (taken over) without its braces.
static bool add_members(struct buffer *out, json_t *object) {
    char *text = object ? json_dumps(object, DUMP) : NULL;
    json_decref(object);
    size_t length = text ? strlen(text) : 0;
    bool good = length > 2 && buffer_add(out, text + 1, length - 2);
    free(text);
    return good;
}

// ------------------------------------------------------------------------------------------------------------- body

static const struct picture *first_picture(const struct work *work) {
    const struct picture *picture = work->pictures;
    while (!picture->there) picture++;
    return picture;
}

bool deliver_body(struct work *work, struct buffer *out, struct error *error) {
    size_t before = out->length;
    json_t *head = json_pack("{s:s, s:I}", "id", work->id, "created", (json_int_t)(work->created / 1000000));
    bool good = buffer_add_string(out, "{") && add_members(out, head) && buffer_add_string(out, ",") &&
                add_members(out, picture_facts(work, first_picture(work), all_transparent(work))) &&
                buffer_add_string(out, ",\"data\":[");
    bool comma = false;
    if (!good) no_memory(error);
    for (int i = 0; good && i < work->request->count; i++) {
        const struct picture *picture = &work->pictures[i];
        if (!picture->there) continue;
        good = (buffer_add_string(out, comma ? ",{" : "{") || no_memory(error)) &&
               add_picture(work, picture, out, error) &&
               (buffer_printf(out, ",\"seed\":%llu}", (unsigned long long)picture->seed) || no_memory(error));
        comma = true;
    }
    good = good && ((buffer_add_string(out, "],") &&
                     add_members(out, json_pack("{s:o?, s:o?}", "usage", usage_of(work), "metadata",
                                                metadata_of(work))) &&
                     buffer_add_string(out, "}")) ||
                    no_memory(error));
    if (!good) out->length = before;
    return good;
}

// ----------------------------------------------------------------------------------------------------------- events

static const char *event_type(enum image_mode mode, bool completed) {
    if (mode == MODE_EDIT) return completed ? "image_edit.completed" : "image_edit.partial_image";
    return completed ? "image_generation.completed" : "image_generation.partial_image";
}

static bool begin_event(struct buffer *out, const char *type, struct error *error) {
    return buffer_printf(out, "event: %s\ndata: {\"type\":\"%s\",", type, type) || no_memory(error);
}

static bool add_completed(struct work *work, int index, struct buffer *out, struct error *error) {
    const struct picture *picture = &work->pictures[index];
    json_t *rest = picture_facts(work, picture, picture->transparent);
    if (rest) {
        json_object_set_new(rest, "created_at", json_integer((json_int_t)(clock_unix_micros() / 1000000)));
        json_object_set_new(rest, "index", json_integer(index));
        json_object_set_new(rest, "seed", json_integer((json_int_t)picture->seed));
        json_object_set_new(rest, "id", json_string(work->id));
        json_object_set_new(rest, "usage", usage_of(work));
        json_object_set_new(rest, "metadata", metadata_of(work));
    }
    bool good = begin_event(out, event_type(work->request->mode, true), error) &&
                add_picture(work, picture, out, error);
    bool said =
        good && buffer_add_string(out, ",") && add_members(out, rest) && buffer_add_string(out, "}\n\n");
    if (!good) json_decref(rest);
    return said || (good && no_memory(error));
}

bool deliver_events(struct work *work, struct buffer *out, struct error *error) {
    size_t before = out->length;
    bool good = true;
    for (int i = 0; good && i < work->request->count; i++)
        if (work->pictures[i].there) good = add_completed(work, i, out, error);
    if (!good) out->length = before;
    return good;
}

bool deliver_partial(const struct work *work, const char *path, int width, int height, int index, int partial,
                     struct buffer *out, struct error *error) {
    size_t before = out->length;
    struct file_map map;
    struct picture picture = {.width = width, .height = height};
    if (!file_map(path, &map, error)) return false;
    json_t *rest = picture_facts(work, &picture, false);
    if (rest) {
        json_object_set_new(rest, "created_at", json_integer((json_int_t)(clock_unix_micros() / 1000000)));
        json_object_set_new(rest, "partial_image_index", json_integer(partial));
        json_object_set_new(rest, "index", json_integer(index));
    }
    bool good = begin_event(out, event_type(work->request->mode, false), error) &&
                buffer_add_string(out, "\"b64_json\":\"") && base64_add(out, map.data, map.size) &&
                buffer_add_string(out, "\",");
    if (good)
        good = add_members(out, rest) && buffer_add_string(out, "}\n\n");
    else
        json_decref(rest);
    file_unmap(&map);
    if (!good) out->length = before;
    return good || no_memory(error);
}

bool deliver_error(const struct api_error *error, struct buffer *out) {
    return buffer_add_string(out, "event: error\ndata: ") && api_error_body(error, out) &&
           buffer_add_string(out, "\n\n");
}

bool deliver_replay(enum image_mode mode, const char *body, size_t size, struct buffer *out) {
    struct error ignored = {0};
    json_t *answer = json_parse("answer", body, size, &ignored);
    const char *type = event_type(mode, true);
    json_t *list = json_object_get(answer, "data"), *one;
    bool good = json_array_size(list) > 0;
    size_t index;
    json_array_foreach(list, index, one) {
        static const char *const shared[] = {"id",    "size",    "quality", "background", "output_format",
                                             "usage", "metadata"};
        json_t *event = json_pack("{s:s, s:O?, s:i}", "type", type, "created_at",
                                  json_object_get(answer, "created"), "index", (int)index);
        for (size_t i = 0; event && i < sizeof shared / sizeof *shared; i++) {
            json_t *value = json_object_get(answer, shared[i]);
            if (value) json_object_set(event, shared[i], value);
        }
        if (event) json_object_update(event, one);
        char *text = event ? json_dumps(event, DUMP) : NULL;
        good = good && text && buffer_printf(out, "event: %s\ndata: %s\n\n", type, text);
        free(text);
        json_decref(event);
    }
    json_decref(answer);
    return good;
}
