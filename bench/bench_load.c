// Load on a server from a process of its own: requests at a fixed rate, or many at once. Relies on libmicrohttpd for the bare
// handler that a server is compared with. bench/load.py drives it.
//
// usage: bench_load bare PORT                            a handler that answers every POST with a small JSON body
//        bench_load rate PORT RATE SECONDS FILE          RATE requests a second; FILE holds one whole HTTP request
//        bench_load parked PORT COUNT SECONDS FILE       COUNT requests at once, each on a connection of its own
//
// Latency is counted from when a request was due, not from when it was sent, so that a server that stalls is not spared. Prints
// one JSON line: requests, answered with 200, failed, bytes, and milliseconds: p50, p95, p99, most.
#include "base/clock.h"
#include "base/file.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <microhttpd.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_MOST 4096

struct connection {
    int socket; // -1: none
    double due; // of the request in flight
    size_t sent;
    char head[HEAD_MOST];
    size_t head_length;
    bool has_head, busy;
    int status;
    int64_t body_left;
    struct connection *next_idle;
};

struct load {
    int port, epoll;
    char *request;
    size_t request_size;
    struct connection *connections, *idle;
    int connection_count, connection_most;
    double *latencies;
    int64_t answered, good, failed, bytes, limit;
};

// ------------------------------------------------------------------------------------------------------------- bare

static enum MHD_Result serve_bare(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data, size_t *size,
                                  void **request) {
    static char body[] = "{\"created\":0,\"data\":[{\"url\":\"http://127.0.0.1/media/0.png\"}]}";
    static int seen;
    if (!*request) {
        *request = &seen;
        return MHD_YES;
    }
    if (*size) {
        *size = 0;
        return MHD_YES;
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(sizeof body - 1, body, MHD_RESPMEM_PERSISTENT);
    enum MHD_Result result = MHD_queue_response(connection, 200, response);
    MHD_destroy_response(response);
    return result;
}

static int run_bare(int port) {
    struct MHD_Daemon *daemon =
        MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, (uint16_t)port, NULL, NULL, serve_bare, NULL,
                         MHD_OPTION_CONNECTION_LIMIT, 4000u, MHD_OPTION_END);
    if (!daemon) {
        fprintf(stderr, "bench_load: port %d cannot be listened on\n", port);
        return 1;
    }
    pause();
    MHD_stop_daemon(daemon);
    return 0;
}

// -------------------------------------------------------------------------------------------------------- connections

static bool open_connection(struct load *load, struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)load->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    c->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->socket < 0) return false;
    setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->socket, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS)
        return false;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP, .data = {.ptr = c}};
    return epoll_ctl(load->epoll, EPOLL_CTL_ADD, c->socket, &event) == 0;
}

static void close_connection(struct connection *c) {
    if (c->socket >= 0) close(c->socket);
    c->socket = -1;
}

static void end(struct load *load, struct connection *c, bool good) {
    if (load->answered < load->limit) load->latencies[load->answered] = clock_seconds() - c->due;
    load->answered++;
    load->good += good && c->status == 200;
    load->failed += !(good && c->status == 200);
    c->busy = false;
    if (!good) close_connection(c);
    c->next_idle = load->idle;
    load->idle = c;
}

static void push(struct load *load, struct connection *c) {
    while (c->sent < load->request_size) {
        ssize_t sent = send(c->socket, load->request + c->sent, load->request_size - c->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && (errno == EAGAIN || errno == ENOTCONN)) return;
        if (sent < 0) {
            end(load, c, false);
            return;
        }
        c->sent += (size_t)sent;
    }
}

static void begin(struct load *load, double due) {
    struct connection *c = load->idle;
    if (c)
        load->idle = c->next_idle;
    else if (load->connection_count < load->connection_most)
        *(c = &load->connections[load->connection_count++]) = (struct connection){.socket = -1};
    if (!c) { // more in flight than there are connections: the server does not keep up
        load->failed++;
        load->answered++;
        return;
    }
    c->due = due;
    c->sent = c->head_length = 0;
    c->has_head = false;
    c->busy = true;
    if (c->socket < 0 && !open_connection(load, c)) {
        end(load, c, false);
        return;
    }
    push(load, c);
}

// The head is whole: reads status and length.
static bool read_head(struct connection *c, size_t *body) {
    c->head[c->head_length] = 0;
    char *blank = strstr(c->head, "\r\n\r\n");
    if (!blank) return false;
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->status = atoi(c->head + 9);
    c->body_left = length && length < blank ? atoll(length + 17) : 0;
    *body = c->head_length - (size_t)(blank + 4 - c->head);
    c->has_head = true;
    return true;
}

static void pull(struct load *load, struct connection *c) {
    static char bytes[1 << 18];
    for (;;) {
        ssize_t got = c->has_head
                          ? recv(c->socket, bytes, sizeof bytes, 0)
                          : recv(c->socket, c->head + c->head_length, HEAD_MOST - 1 - c->head_length, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            if (c->busy) {
                end(load, c, false);
            } else {
                close_connection(c); // the server closed an idle one
            }
            return;
        }
        load->bytes += got;
        size_t body = (size_t)got;
        if (!c->has_head) {
            c->head_length += (size_t)got;
            if (!read_head(c, &body)) continue;
        }
        c->body_left -= (int64_t)body;
        if (c->body_left <= 0 && c->busy) end(load, c, true);
    }
}

static void turn(struct load *load, double wait) {
    struct epoll_event events[256];
    if (wait < 0) wait = 0;
    const struct timespec most = {.tv_sec = (time_t)wait, .tv_nsec = (long)((wait - floor(wait)) * 1e9)};
    int count = epoll_pwait2(load->epoll, events, 256, &most, NULL);
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (c->socket >= 0 && c->busy && (events[i].events & EPOLLOUT)) push(load, c);
        if (c->socket >= 0) pull(load, c);
    }
}

// ------------------------------------------------------------------------------------------------------------- runs

static void run_rate(struct load *load, double rate, double seconds) {
    int64_t total = (int64_t)(rate * seconds), begun = 0;
    double start = clock_seconds() + 0.05, stop = start + seconds + 30;
    prctl(PR_SET_TIMERSLACK, 1UL); // nanosecond: wake on time
    while (load->answered < total && clock_seconds() < stop) {
        double now = clock_seconds();
        while (begun < total && start + (double)begun / rate <= now) {
            begin(load, start + (double)begun / rate);
            begun++;
        }
        double next = begun < total ? start + (double)begun / rate - clock_seconds() : 0.1;
        turn(load,
             next); // asleep: a generator that waits awake takes one of two processors from what it measures
    }
}

static void run_parked(struct load *load, int count, double seconds) {
    double start = clock_seconds();
    for (int i = 0; i < count; i++) {
        begin(load, clock_seconds());
        if (i % 50 == 49) turn(load, 0.005); // connections come as fast as they are taken
    }
    while (load->answered < count && clock_seconds() < start + seconds) turn(load, 0.1);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(struct load *load, int64_t asked) {
    int64_t count = load->answered < load->limit ? load->answered : load->limit;
    qsort(load->latencies, (size_t)count, sizeof *load->latencies, by_value);
    double at[4] = {0.5, 0.95, 0.99, 1}, values[4] = {0};
    for (int i = 0; i < 4 && count > 0; i++) {
        int64_t place = (int64_t)(at[i] * (double)count);
        values[i] = load->latencies[place < count ? place : count - 1] * 1000;
    }
    printf("{\"requests\":%lld,\"good\":%lld,\"failed\":%lld,\"bytes\":%lld,\"p50\":%.3f,\"p95\":%.3f,"
           "\"p99\":%.3f,"
           "\"most\":%.3f}\n",
           (long long)asked, (long long)load->good, (long long)(load->failed + asked - load->answered),
           (long long)load->bytes, values[0], values[1], values[2], values[3]);
}

int main(int count, char **arguments) {
    if (count == 3 && !strcmp(arguments[1], "bare")) return run_bare(atoi(arguments[2]));
    bool rate = count == 6 && !strcmp(arguments[1], "rate"),
         parked = count == 6 && !strcmp(arguments[1], "parked");
    if (!rate && !parked) {
        fprintf(
            stderr,
            "usage: bench_load bare PORT | rate PORT RATE SECONDS FILE | parked PORT COUNT SECONDS FILE\n");
        return 2;
    }
    struct load load = {
        .port = atoi(arguments[2]), .epoll = epoll_create1(EPOLL_CLOEXEC), .connection_most = 4000};
    struct error error = {0};
    double amount = atof(arguments[3]), seconds = atof(arguments[4]);
    load.limit = rate ? (int64_t)(amount * seconds) : (int64_t)amount;
    load.connections = calloc((size_t)load.connection_most, sizeof *load.connections);
    load.latencies = calloc((size_t)load.limit + 1, sizeof *load.latencies);
    if (!load.connections || !load.latencies ||
        !file_read(arguments[5], 1u << 30, &load.request, &load.request_size, &error)) {
        fprintf(stderr, "bench_load: %s\n", error.kind == ERROR_NONE ? "no memory" : error.message);
        return 1;
    }
    if (rate)
        run_rate(&load, amount, seconds);
    else
        run_parked(&load, (int)amount, seconds);
    report(&load, load.limit);
    free(load.request);
    free(load.connections);
    free(load.latencies);
    close(load.epoll);
    return 0;
}
