// How the server does: for load balancers, and for Prometheus (text format 0.0.4). Relies on exchange.h.
#include "base/clock.h"
#include "server/exchange.h"

#include <string.h>

static const double BUCKETS[METRICS_BUCKETS] = {0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300};

void metrics_count(struct server *server, const struct exchange *exchange, double seconds) {
    struct server_counts *counts = &server->counts;
    int class = exchange->status / 100;
    counts->requests[class >= 0 && class < STATUS_CLASSES ? class : 0]++;
    counts->seconds += seconds;
    int bucket = 0;
    while (bucket < METRICS_BUCKETS && seconds > BUCKETS[bucket]) bucket++;
    counts->buckets[bucket]++;
}

static bool add(struct buffer *out, const char *name, const char *type, const char *help, double value) {
    return buffer_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", name, help, name, type, name, value);
}

static bool write_requests(const struct server *server, struct buffer *out) {
    const struct server_counts *counts = &server->counts;
    static const char *const names[STATUS_CLASSES] = {"none", "1xx", "2xx", "3xx", "4xx", "5xx"};
    bool good = buffer_add_string(
        out, "# HELP limn_http_requests_total Requests that ended, by class of the status.\n"
             "# TYPE limn_http_requests_total counter\n");
    uint64_t below = 0;
    for (int i = 0; i < STATUS_CLASSES; i++)
        good = good && buffer_printf(out, "limn_http_requests_total{status=\"%s\"} %llu\n", names[i],
                                     (unsigned long long)counts->requests[i]);
    good = good && buffer_add_string(
                       out, "# HELP limn_http_request_seconds From a request's head to its answer's end.\n"
                            "# TYPE limn_http_request_seconds histogram\n");
    for (int i = 0; i < METRICS_BUCKETS; i++) {
        below += counts->buckets[i];
        good = good && buffer_printf(out, "limn_http_request_seconds_bucket{le=\"%g\"} %llu\n", BUCKETS[i],
                                     (unsigned long long)below);
    }
    below += counts->buckets[METRICS_BUCKETS];
    return good && buffer_printf(out,
                                 "limn_http_request_seconds_bucket{le=\"+Inf\"} %llu\n"
                                 "limn_http_request_seconds_sum %.6f\nlimn_http_request_seconds_count %llu\n",
                                 (unsigned long long)below, counts->seconds, (unsigned long long)below);
}

static bool write_store(struct server *server, struct buffer *out) {
    struct store_state state;
    if (!server->store) return true;
    store_state(server->store, &state);
    return add(out, "limn_store_up", "gauge", "Whether the last batch of records was written.", state.good) &&
           add(out, "limn_store_waiting", "gauge", "Operations that wait for the database.",
               (double)state.waiting) &&
           add(out, "limn_store_deferred", "gauge", "Requests whose end is still to be written.",
               (double)state.deferred) &&
           add(out, "limn_store_operations_total", "counter", "Operations on the database.",
               (double)state.operations) &&
           add(out, "limn_store_failed_total", "counter", "Operations that the database refused.",
               (double)state.failed) &&
           add(out, "limn_refusals_unrecorded_total", "counter",
               "Refused requests that were too many to be recorded.", (double)state.unrecorded) &&
           add(out, "limn_requests_interrupted", "gauge", "Requests that the last stop had interrupted.",
               (double)state.recovered);
}

bool metrics_write(struct server *server, struct buffer *out) {
    struct queue_state queue;
    struct media_state media;
    int open = 0;
    for (const struct exchange *exchange = server->first; exchange; exchange = exchange->next) open++;
    gateway_state(server->gateway, &queue);
    media_state(server->media, &media);
    return buffer_printf(out,
                         "# HELP limn_info What runs.\n# TYPE limn_info gauge\nlimn_info{version=\"%s\"} 1\n",
                         LIMN_VERSION) &&
           add(out, "limn_uptime_seconds", "gauge", "Since the server was started.",
               clock_seconds() - server->started) &&
           write_requests(server, out) &&
           add(out, "limn_http_requests_open", "gauge", "Requests that have no answer yet.", open) &&
           add(out, "limn_http_connections", "gauge", "Connections of clients.", door_count(server)) &&
           add(out, "limn_http_timeouts_total", "counter", "Connections that were closed for being slow.",
               (double)server->counts.timeouts) &&
           add(out, "limn_http_received_bytes_total", "counter", "Bytes of requests' bodies.",
               (double)server->counts.bytes_in) &&
           add(out, "limn_http_sent_bytes_total", "counter", "Bytes of answers' bodies.",
               (double)server->counts.bytes_out) &&
           add(out, "limn_http_buffered_bytes", "gauge", "Bytes of bodies that are held in memory.",
               (double)server->buffered) &&
           add(out, "limn_spool_bytes", "gauge",
               "Bytes of pictures that came in, of requests that wait or run.",
               (double)atomic_load(&server->spool.used)) &&
           add(out, "limn_worker_ready", "gauge", "Whether a worker has opened the model.", queue.ready) &&
           add(out, "limn_jobs_running", "gauge", "Jobs that workers run.", queue.running) &&
           add(out, "limn_jobs_waiting", "gauge", "Jobs that wait for a worker.", queue.waiting) &&
           add(out, "limn_workers_started_total", "counter", "Worker processes since the start.",
               queue.workers_started) &&
           add(out, "limn_media_bytes", "gauge", "Bytes of pictures behind URLs.", (double)media.bytes) &&
           add(out, "limn_media_files", "gauge", "Pictures behind URLs.", (double)media.files) &&
           write_store(server, out);
}

static enum MHD_Result no_memory(struct exchange *exchange, struct buffer *body) {
    buffer_free(body);
    api_error_set(&exchange->error, API_OUT_OF_MEMORY, "", "no memory for the answer");
    return respond_error(exchange, &exchange->error);
}

enum MHD_Result serve_metrics(struct exchange *exchange) {
    struct buffer body = {0};
    if (!metrics_write(exchange->server, &body)) return no_memory(exchange, &body);
    return respond_text(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}

static enum MHD_Result respond_health(struct exchange *exchange, bool of_readiness) {
    struct server *server = exchange->server;
    struct queue_state state;
    gateway_state(server->gateway, &state);
    bool records = true;
    if (server->store) {
        struct store_state store;
        store_state(server->store, &store);
        records = store.good;
    }
    bool ready = state.ready && records && !server->stopping;
    const char *status = server->stopping ? "stopping"
                         : !state.ready   ? "starting"
                         : !records       ? "records cannot be written"
                                          : "ok";
    return respond_object(exchange, of_readiness && !ready ? 503 : 200,
                          json_pack("{s:s, s:b, s:s, s:i, s:i, s:i}", "status", status, "ready", ready,
                                    "model", gateway_model(server->gateway), "running", state.running,
                                    "waiting", state.waiting, "workers_started", state.workers_started));
}

enum MHD_Result serve_health(struct exchange *exchange) {
    return respond_health(exchange, false);
}

enum MHD_Result serve_ready(struct exchange *exchange) {
    return respond_health(exchange, true);
}
