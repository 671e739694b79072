// Pictures behind URLs: whole, in part, or only asked about (RFC 9110). Relies on exchange.h, range.h, media.
#include "server/exchange.h"
#include "server/range.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CACHE_SECONDS_MOST 31536000.0 // a year

// Whether [list] ("*", or entity tags with commas between) holds [etag]; weak and strong tags of one text are the same here.
static bool names(const char *list, const char *etag) {
    for (const char *at = list; at && *at; at += strcspn(at, ","), at += *at == ',') {
        at += strspn(at, " \t,");
        if (*at == '*') return true;
        if (!strncmp(at, "W/", 2)) at += 2;
        if (!strncmp(at, etag, strlen(etag))) return true;
    }
    return false;
}

static void write_date(int64_t seconds, char text[64]) {
    struct tm parts;
    time_t when = (time_t)seconds;
    gmtime_r(&when, &parts);
    strftime(text, 64, "%a, %d %b %Y %H:%M:%S GMT", &parts);
}

static struct range asked_range(struct exchange *exchange, const struct media_item *item) {
    const char *condition = exchange_header(exchange, "If-Range");
    char date[64];
    write_date(item->modified, date);
    bool same = !condition || !strcmp(condition, item->etag) || !strcmp(condition, date);
    return range_read(same ? exchange_header(exchange, "Range") : NULL, item->size);
}

static void add_headers(struct MHD_Response *response, const struct media_item *item) {
    char text[64];
    double age = item->seconds_left < CACHE_SECONDS_MOST ? item->seconds_left : CACHE_SECONDS_MOST;
    snprintf(text, sizeof text, "private, max-age=%d, immutable", (int)age);
    MHD_add_response_header(response, "Cache-Control", text);
    MHD_add_response_header(response, "ETag", item->etag);
    write_date(item->modified, text);
    MHD_add_response_header(response, "Last-Modified", text);
    MHD_add_response_header(response, "Accept-Ranges", "bytes");
}

static enum MHD_Result respond_unchanged(struct exchange *exchange, const struct media_item *item) {
    struct MHD_Response *response = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    close(item->file);
    if (response) add_headers(response, item);
    return respond_response(exchange, 304, response);
}

static enum MHD_Result respond_out_of_range(struct exchange *exchange, const struct media_item *item) {
    close(item->file);
    exchange->picture_size = item->size;
    api_error_set(&exchange->error, API_INVALID_REQUEST, "", "Range: the picture has %llu bytes",
                  (unsigned long long)item->size);
    return respond_status(exchange, 416, &exchange->error);
}

enum MHD_Result serve_media(struct exchange *exchange) {
    struct media_item item;
    struct error error = {0};
    if (!media_get(exchange->server->media, exchange->target, &item, &error)) {
        api_error_from(&exchange->error, &error);
        return respond_error(exchange, &exchange->error);
    }
    if (names(exchange_header(exchange, "If-None-Match"), item.etag))
        return respond_unchanged(exchange, &item);
    struct range range = asked_range(exchange, &item);
    if (range.kind == RANGE_UNSATISFIABLE) return respond_out_of_range(exchange, &item);
    bool part = range.kind == RANGE_PART;
    uint64_t count = part ? range.last - range.first + 1 : item.size;
    struct MHD_Response *response = // closes the file
        MHD_create_response_from_fd_at_offset64(count, item.file, part ? range.first : 0);
    if (!response) {
        close(item.file);
        return MHD_NO;
    }
    char text[96];
    snprintf(text, sizeof text, "bytes %llu-%llu/%llu", (unsigned long long)range.first,
             (unsigned long long)range.last, (unsigned long long)item.size);
    if (part) MHD_add_response_header(response, "Content-Range", text);
    MHD_add_response_header(response, "Content-Type", item.mime);
    add_headers(response, &item);
    exchange->sent = strcmp(exchange->method, "HEAD") ? count : 0;
    return respond_response(exchange, part ? 206 : 200, response);
}
