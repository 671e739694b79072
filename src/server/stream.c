// Server-sent events: what the gateway says of a request while it runs, sent as it comes (see the HTML standard's "Server-sent
// events"). A client that reads slowly is waited for; previews that it cannot take are left out. Relies on exchange.h.
#include "base/clock.h"
#include "server/exchange.h"

#include <stdlib.h>
#include <string.h>

#define BACKLOG_MOST (16u << 20) // bytes that wait for a slow client; beyond it previews are dropped

static const char BEAT[] = ": still at work\n\n";

struct chunk {
    struct chunk *next;
    struct buffer bytes;
};

struct stream {
    struct chunk *first, **end;
    size_t offset;  // of what is sent of the first chunk
    size_t backlog; // bytes of all chunks
    bool parked;    // suspended: nothing is there to send
    bool last;      // nothing follows
    double moved;   // when something was sent
};

static struct stream *stream_of(struct exchange *exchange) {
    struct stream *stream = exchange->stream;
    if (stream || !(stream = calloc(1, sizeof *stream))) return stream;
    stream->end = &stream->first;
    stream->moved = clock_seconds();
    return exchange->stream = stream;
}

void stream_close(struct stream *stream) {
    while (stream && stream->first) {
        struct chunk *chunk = stream->first;
        stream->first = chunk->next;
        buffer_free(&chunk->bytes);
        free(chunk);
    }
    free(stream);
}

static void wake(struct exchange *exchange) {
    struct stream *stream = exchange->stream;
    if (!stream->parked) return;
    stream->parked = false;
    exchange_unwatch(exchange);
    MHD_resume_connection(exchange->connection);
}

static bool is_preview(const struct buffer *events) {
    return events->data && strstr(events->data, ".partial_image\n") &&
           strstr(events->data, ".partial_image\n") < events->data + 64;
}

// Takes the bytes over.
static bool append(struct stream *stream, struct buffer *bytes) {
    struct chunk *chunk = bytes->length ? calloc(1, sizeof *chunk) : NULL;
    if (!chunk || (stream->backlog > BACKLOG_MOST && is_preview(bytes))) {
        bool whole = !bytes->length;
        free(chunk);
        buffer_free(bytes);
        return whole;
    }
    chunk->bytes = *bytes;
    *bytes = (struct buffer){0};
    stream->backlog += chunk->bytes.length;
    *stream->end = chunk;
    stream->end = &chunk->next;
    return true;
}

static bool add_error(struct stream *stream, const struct api_error *error) {
    struct buffer body = {0}, event = {0};
    bool good = api_error_body(error, &body) &&
                buffer_printf(&event, "event: error\ndata: %s\n\n", body.data) && append(stream, &event);
    buffer_free(&body);
    buffer_free(&event);
    return good;
}

void stream_add(struct exchange *exchange, struct gateway_message *message) {
    struct stream *stream = stream_of(exchange);
    bool last = message->kind == GATEWAY_ANSWER;
    if (!stream) {
        buffer_free(&message->body);
        return;
    }
    bool silent = !stream->first && !exchange->answer.status; // nothing but heartbeats was said
    if (message->kind == GATEWAY_CHUNK) exchange->answer.status = 200;
    append(stream, &message->body);
    // A failure before the first event, of a stream that heartbeats have begun: its answer can only be an event.
    if (last && silent && message->error.code != API_OK) add_error(stream, &message->error);
    stream->last = stream->last || last;
    wake(exchange);
}

void stream_beat(struct exchange *exchange, double now, double heartbeat) {
    struct stream *stream = exchange->stream;
    bool waits = exchange->state == EXCHANGE_WAITING;
    if (waits && (!exchange->wants_stream || stream || now - exchange->started < heartbeat)) return;
    if (!waits && (!stream->parked || now - stream->moved < heartbeat)) return;
    struct buffer beat = {0};
    if (!(stream = stream_of(exchange)) || !buffer_add_string(&beat, BEAT) || !append(stream, &beat)) {
        buffer_free(&beat);
        return;
    }
    if (waits) {
        exchange_unwatch(exchange);
        MHD_resume_connection(exchange->connection);
    } else {
        wake(exchange);
    }
}

static void drop_sent(struct stream *stream) {
    struct chunk *chunk = stream->first;
    stream->first = chunk->next;
    if (!stream->first) stream->end = &stream->first;
    stream->backlog -= chunk->bytes.length;
    stream->offset = 0;
    buffer_free(&chunk->bytes);
    free(chunk);
}

// libmicrohttpd asks for the next bytes when the socket takes some.
static ssize_t next_bytes(void *context, uint64_t position, char *to, size_t most) {
    struct exchange *exchange = context;
    struct stream *stream = exchange->stream;
    size_t taken = 0;
    while (stream->first && taken < most) {
        const struct buffer *bytes = &stream->first->bytes;
        size_t count = bytes->length - stream->offset;
        if (count > most - taken) count = most - taken;
        memcpy(to + taken, bytes->data + stream->offset, count);
        taken += count;
        stream->offset += count;
        if (stream->offset == bytes->length) drop_sent(stream);
    }
    if (taken > 0) {
        stream->moved = clock_seconds();
        exchange->sent += taken;
        return (ssize_t)taken;
    }
    if (stream->last) return MHD_CONTENT_READER_END_OF_STREAM;
    stream->parked = true;
    MHD_suspend_connection(exchange->connection);
    exchange_watch(exchange);
    return 0;
}

enum MHD_Result stream_respond(struct exchange *exchange) {
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 32 << 10, next_bytes, exchange, NULL);
    if (response) {
        MHD_add_response_header(response, "Content-Type", "text/event-stream; charset=utf-8");
        MHD_add_response_header(response, "Cache-Control", "no-store");
        MHD_add_response_header(response, "X-Accel-Buffering",
                                "no"); // proxies are to pass each event on at once
    }
    enum MHD_Result result = respond_response(exchange, 200, response);
    if (result == MHD_YES) exchange->state = EXCHANGE_STREAMING;
    return result;
}
