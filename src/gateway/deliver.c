// See deliver.h. Bodies are put together by hand: pictures as base64 would be copied several times by a JSON library.
#include "gateway/deliver.h"
#include "base/clock.h"
#include "base/file.h"
#include "gateway/base64.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DUMP (JSON_COMPACT | JSON_REAL_PRECISION(12))

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "no memory for the answer");
}

// ---------------------------------------------------------------------------------------------------------- pictures

// sync_mode promises that nothing is.
bool deliver_is_kept(const struct work *work) {
    return (work->idempotency_key || work->asynchronous) && work->gateway->store && !work->request->sync_mode;
}

static bool has_url(const struct work *work) {
    if (work->plan.data_uri) return false;
    return work->request->stream ? work->request->answer_as == ANSWER_URL : !work->plan.base64;
}

bool deliver_store(struct work *work, int index, struct error *error) {
    struct picture *picture = &work->pictures[index];
    struct error cause = {0};
    bool needed = deliver_is_kept(work) || has_url(work);
    if (*picture->media || (!needed && !keep_wanted(work))) return true;
    if (!media_put_file(work->gateway->media, picture->path, image_format_name(work->request->format),
                        keep_life(work, has_url(work)), picture->media, &cause)) {
        *picture->media = 0;
        if (needed) {
            *error = cause;
            return false;
        }
        log_warning(work->gateway->log, "%s: a picture is not kept: %s", work->id, cause.message);
        return true;
    }
    free(picture->path); // it was moved
    picture->path = NULL;
    return true;
}

// [before], the picture's base64, and a quote.
static bool add_base64(const struct picture *picture, const char *before, struct answer *out) {
    if (!buffer_add_string(&out->text, before)) return false;
    answer_leave_out(out, picture->path ? "" : picture->media, picture->path, picture->bytes);
    return buffer_add_string(&out->text, "\"");
}

static bool add_url(const struct work *work, const struct picture *picture, struct buffer *out) {
    return buffer_printf(out, "\"url\":\"%s/media/%s\"", work->base_url, picture->media);
}

// In an answer that is kept for the history.
static bool add_kept(const struct work *work, const struct picture *picture, struct answer *out) {
    if (*picture->media) return add_url(work, picture, &out->text);
    return buffer_add_string(&out->text, "\"url\":null");
}

// What a picture is answered as; of a stream it is base64 in any case, its URL besides where that was asked for.
static bool add_picture(const struct work *work, const struct picture *picture, struct answer *out) {
    char uri[64];
    if (work->request->stream || work->plan.base64) {
        if (!add_base64(picture, "\"b64_json\":\"", out)) return false;
        return !work->request->stream || !has_url(work) ||
               (buffer_add_string(&out->text, ",") && add_url(work, picture, &out->text));
    }
    if (!work->plan.data_uri) return add_url(work, picture, &out->text);
    snprintf(uri, sizeof uri, "\"url\":\"data:%s;base64,", image_format_mime(work->request->format));
    return add_base64(picture, uri, out);
}

// ------------------------------------------------------------------------------------------------------ what is said

static json_t *usage_json(const struct usage *usage) {
    int input = usage->text + usage->references;
    return json_pack("{s:i, s:i, s:i, s:{s:i, s:i}, s:{s:i, s:i}}", "total_tokens", input + usage->output,
                     "input_tokens", input, "output_tokens", usage->output, "input_tokens_details",
                     "text_tokens", usage->text, "image_tokens", usage->references, "output_tokens_details",
                     "text_tokens", 0, "image_tokens", usage->output);
}

static double milliseconds(int64_t from, int64_t to) {
    return from && to > from ? (double)(to - from) / 1000 : 0;
}

// One that runs on, while its pictures come as they are ready, has taken until now; it is done with its last picture.
static json_t *attempt_of(const struct work *work, int index) {
    const struct store_attempt *attempt = &work->attempts[index];
    bool open = !attempt->ended_at, all = open;
    for (int i = 0; all && i < work->job_count; i++)
        for (int k = 0; work->jobs[i].attempt == index && k < work->jobs[i].count; k++)
            all = all && work->pictures[work->jobs[i].first + k].there;
    json_t *one =
        json_pack("{s:s, s:s, s:f, s:f}", "provider", attempt->provider, "status",
                  store_status_name(all ? STORE_COMPLETED : attempt->status), "queue_ms",
                  milliseconds(attempt->queued_at, attempt->dispatched_at), "duration_ms",
                  milliseconds(attempt->dispatched_at, open ? clock_unix_micros() : attempt->ended_at));
    if (attempt->error_code) json_object_set_new(one, "error_code", json_string(attempt->error_code));
    return one;
}

static json_t *attempts_of(const struct work *work) {
    json_t *list = json_array();
    for (int i = 0; i < work->attempt_count; i++) json_array_append_new(list, attempt_of(work, i));
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

static json_t *metadata_of(const struct work *work, int64_t cost_micros) {
    const struct catalog_choice *choice = &work->plan.choice;
    json_t *ignored = json_array();
    for (int i = 0; i < work->request->ignored_count; i++)
        json_array_append_new(ignored, json_string(work->request->ignored[i]));
    json_t *metadata = json_pack(
        "{s:s, s:s, s:s, s:s, s:f, s:I, s:s, s:I, s:o, s:o}", "model", choice->card->id, "executed_model",
        choice->executed, "provider", choice->provider->slug, "provider_name", choice->provider->name, "cost",
        (double)cost_micros / 1e6, "cost_micros", (json_int_t)cost_micros, "cost_currency", "USD", "seed",
        (json_int_t)work->request->seed, "attempts", attempts_of(work), "ignored_parameters", ignored);
    if (metadata && !work->request->stream && work->delivered < work->request->count)
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

static bool add_body(struct work *work, bool kept, struct answer *answer, struct error *error) {
    struct buffer *out = &answer->text;
    struct usage usage = work_usage(work);
    json_t *head = json_pack("{s:s, s:I}", "id", work->id, "created", (json_int_t)(work->created / 1000000));
    bool good = buffer_add_string(out, "{") && add_members(out, head) && buffer_add_string(out, ",") &&
                add_members(out, picture_facts(work, first_picture(work), all_transparent(work))) &&
                buffer_add_string(out, ",\"data\":[");
    bool comma = false;
    for (int i = 0; good && i < work->request->count; i++) {
        const struct picture *picture = &work->pictures[i];
        if (!picture->there) continue;
        good = buffer_add_string(out, comma ? ",{" : "{") &&
               (kept ? add_kept : add_picture)(work, picture, answer) &&
               buffer_printf(out, ",\"seed\":%llu}", (unsigned long long)picture->seed);
        comma = true;
    }
    good = good && buffer_add_string(out, "],") &&
           add_members(out, json_pack("{s:o?, s:o?}", "usage", usage_json(&usage), "metadata",
                                      metadata_of(work, work->cost_micros))) &&
           buffer_add_string(out, "}");
    return good || no_memory(error);
}

bool deliver_body(struct work *work, struct answer *answer, struct error *error) {
    return add_body(work, false, answer, error);
}

bool deliver_kept(struct work *work, struct answer *answer, struct error *error) {
    return add_body(work, true, answer, error);
}

// ----------------------------------------------------------------------------------------------------------- events

static const char *event_type(enum image_mode mode, bool completed) {
    if (mode == MODE_EDIT) return completed ? "image_edit.completed" : "image_edit.partial_image";
    return completed ? "image_generation.completed" : "image_generation.partial_image";
}

static bool begin_event(struct buffer *out, const char *type) {
    return buffer_printf(out, "event: %s\ndata: {\"type\":\"%s\",", type, type);
}

bool deliver_completed(struct work *work, int index, const struct picture_bill *bill, struct answer *out,
                       struct error *error) {
    const struct picture *picture = &work->pictures[index];
    json_t *rest = picture_facts(work, picture, picture->transparent);
    if (rest) {
        json_object_set_new(rest, "created_at", json_integer((json_int_t)(clock_unix_micros() / 1000000)));
        json_object_set_new(rest, "index", json_integer(index));
        json_object_set_new(rest, "seed", json_integer((json_int_t)picture->seed));
        json_object_set_new(rest, "id", json_string(work->id));
        json_object_set_new(rest, "usage", usage_json(&bill->usage));
        json_object_set_new(rest, "metadata", metadata_of(work, bill->cost_micros));
    }
    bool good = begin_event(&out->text, event_type(work->request->mode, true)) &&
                add_picture(work, picture, out) && buffer_add_string(&out->text, ",");
    if (good)
        good = add_members(&out->text, rest) && buffer_add_string(&out->text, "}\n\n");
    else
        json_decref(rest);
    return good || no_memory(error);
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
    bool good = begin_event(out, event_type(work->request->mode, false)) &&
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
