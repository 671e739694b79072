// The HTTP server: one event loop that never waits for anything but its sockets. Relies on gateway, store, catalog, media,
// libmicrohttpd, GnuTLS.
//
// DESIGN. libmicrohttpd's epoll set hangs in an epoll set of ours, beside a mailbox (an eventfd) for what comes from other
// threads, the stop descriptor, and the sockets of clients whose request is being worked on. Such a connection is
// suspended: libmicrohttpd no longer looks at it, so limn does, and cancels the job when its client leaves. Bodies are read
// as they arrive, references straight into files of the spool folder. Pictures are never decoded here: only headers are read.
//
// A connection comes to libmicrohttpd when the head of its first request is whole (door.c); TLS, and bodies in chunks, are read
// before it (relay.c).
//
// Two lists in order of time hold what may take too long: connections without a whole request head, and bodies on their way.
// Once a second the loop closes what is over its limit.
#ifndef LIMN_SERVER_SERVER_H
#define LIMN_SERVER_SERVER_H

#include "base/log.h"
#include "catalog/catalog.h"
#include "store/store.h"
#include "gateway/gateway.h"
#include "server/address.h"

#define SERVER_ORIGINS_MOST 16

struct server;

// What one client may take. server_limits_default fills in the values behind the semicolons.
struct server_limits {
    int connections; // at once; 16000
    int per_address; // of them from one address, this machine's own apart; 0: no limit of its own
    double
        header_seconds; // from a connection's begin, or the first byte of a later request, to the end of the head; 15
    double idle_seconds;      // between two requests; or nothing moves; 75
    double body_seconds;      // from a request's head to the end of its body; 600
    size_t header_bytes;      // of a request's head; 16 KiB
    uint64_t json_bytes;      // of a JSON body without pictures; 1 MiB
    uint64_t file_bytes;      // of one picture of a form; 50 MiB
    uint64_t body_bytes;      // of a body with pictures; 256 MiB
    uint64_t buffered_bytes;  // of all JSON bodies in memory together; 512 MiB
    uint64_t spool_bytes;     // of pictures of all requests that wait or run; 0: no limit; 4 GiB
    double pixels;            // of a picture that is sent in, by its header; 64 Mi
    double heartbeat_seconds; // between two signs of life of a stream; 10
    double stop_seconds;      // how long a stopping server waits for what runs; 60
};
void server_limits_default(struct server_limits *limits);

struct server_options {
    const char *host;       // an address or a name; "127.0.0.1"
    int port;               // 0: any free one
    bool no_auth;           // serve other addresses than loopback without keys
    bool auth_required;     // a key is needed on loopback too, also before the first is made
    int keyless_per_minute; // requests an address that needs no key may make; 0: no limit
    const char *public_url; // what media URLs begin with; NULL: from the request's Host
    const char *origins[SERVER_ORIGINS_MOST]; // that browsers' pages may call from; "*" is any
    int origin_count;
    struct network proxies[NETWORKS_MOST]; // whose forwarding headers are believed
    int proxy_count;
    const char *certificate, *key; // PEM files; both: TLS
    bool metrics_open; // GET /metrics for everybody, not for admin keys and this machine's programs alone
    struct server_limits limits;
    const char *spool_folder, *media_folder;
    uint64_t media_quota;           // bytes of all pictures together; 0: none
    double media_seconds;           // how long a picture's URL lasts; 0: an hour
    struct store *store;            // taken over, also by a failing server_open; NULL: no records, no keys
    const struct catalog *catalog;  // borrowed; NULL: the gateway's one model
    struct gateway_options gateway; // media and queue.spool_folder are filled in here
    bool access_log;                // a line a request
    int stop_fd;                    // readable: the server ends, see server_run; -1: none
    const struct log *log;
};

// Binds the address, opens media and the gateway, and begins to listen once the model is ready. Errors say what to do:
// a port in use, an address that is not this machine's, a model or a certificate that cannot be opened; ERROR_CANCELLED when
// stop_fd could be read before the model was open.
struct server *server_open(const struct server_options *options, struct error *error);

// The address that it listens on, "http://127.0.0.1:8080", and its gateway.
const char *server_url(const struct server *server);
struct gateway *server_gateway(const struct server *server);

// Serves until stop_fd (a signalfd) can be read; then takes nothing new, waits for what is in work (stop_seconds at most) and
// returns. When stop_fd can be read again meanwhile, what is in work is answered with API_INTERRUPTED at once.
bool server_run(struct server *server, struct error *error);
void server_close(struct server *server); // NULL is fine

#endif
