// What is kept of a request where the owner asks for it (store.keep_payloads): the pictures that came in and those that were
// delivered, as media that live as long as payloads do, and an answer that names them by their URLs. Relies on inside.h.
#include "base/file.h"
#include "gateway/deliver.h"
#include "gateway/inside.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOR_GOOD_SECONDS 3155760000.0 // a hundred years
#define SPARE_SECONDS    60.0

bool keep_wanted(const struct work *work) {
    const struct gateway *gateway = work->gateway;
    return gateway->store && gateway->media && gateway->config->store.keep_payloads &&
           !work->request->sync_mode;
}

// Of pictures that are kept for the history.
static double history_seconds(const struct gateway *gateway) {
    double payload = gateway->config->store.payload_seconds,
           record = gateway->config->store.retention_seconds;
    if (payload <= 0) payload = FOR_GOOD_SECONDS;
    if (record <= 0) record = FOR_GOOD_SECONDS;
    return fmin(payload, record);
}

double keep_life(const struct work *work, bool has_url) {
    const struct config *config = work->gateway->config;
    double life = has_url ? config->media.lifetime_seconds : 0;
    // The pictures of an answer are put before the answer is: they are not to be over before it is.
    if (deliver_is_kept(work)) life = fmax(life, config->store.idempotency_seconds + SPARE_SECONDS);
    return keep_wanted(work) ? fmax(life, history_seconds(work->gateway)) : life;
}

// A picture that cannot be kept is missing in the history; the request goes on.
static bool put(struct work *work, const char *path, enum image_format format, char name[MEDIA_NAME_MOST]) {
    struct gateway *gateway = work->gateway;
    struct error error = {0};
    double life = history_seconds(gateway);
    if (media_put_file(gateway->media, path, image_format_name(format), life, name, &error)) return true;
    log_warning(gateway->log, "%s: a picture is not kept: %s", work->id, error.message);
    *name = 0;
    return false;
}

static void keep_input(struct work *work, const struct image_reference *picture, enum store_media_kind kind,
                       int number) {
    struct store_media *kept = &work->inputs[work->input_count];
    char *path = *picture->file ? path_join(work->gateway->spool, picture->file) : NULL;
    char name[MEDIA_NAME_MOST];
    if (path && file_exists(path) && put(work, path, picture->header.format, name)) {
        *kept = (struct store_media){arena_strdup(&work->arena, name), kind, number};
        if (kept->name) work->input_count++;
    }
    free(path);
}

void keep_inputs(struct work *work) {
    const struct image_request *request = work->request;
    if (!keep_wanted(work) || work->input_count) return;
    for (int i = 0; i < request->reference_count; i++)
        keep_input(work, &request->references[i], STORE_MEDIA_REFERENCE, i + 1);
    if (request->has_mask) keep_input(work, &request->mask, STORE_MEDIA_MASK, 1);
}
