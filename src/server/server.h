// The HTTP server: one event loop that never waits for anything but its sockets. Relies on gateway, media, libmicrohttpd.
//
// DESIGN. libmicrohttpd's epoll set hangs in an epoll set of ours, beside a mailbox (an eventfd) for answers that come from
// other threads, the stop descriptor, and the sockets of clients whose request is being worked on. Such a connection is
// suspended: libmicrohttpd no longer looks at it, so limn does, and cancels the job when its client leaves. Bodies are read
// as they arrive, references straight into files of the spool folder. Pictures are never decoded here: only headers are read.
#ifndef LIMN_SERVER_SERVER_H
#define LIMN_SERVER_SERVER_H

#include "base/log.h"
#include "gateway/gateway.h"

#define SERVER_ORIGINS_MOST 16

struct server;

struct server_options {
    const char *host;                         // an address or a name; "127.0.0.1"
    int port;                                 // 0: any free one
    bool no_auth;                             // serve other addresses than loopback without keys
    const char *public_url;                   // what media URLs begin with; NULL: from the request's Host
    const char *origins[SERVER_ORIGINS_MOST]; // that browsers' pages may call from; "*" is any
    int origin_count;
    const char *spool_folder, *media_folder;
    double media_seconds;           // how long a picture's URL lasts; 0: an hour
    struct gateway_options gateway; // media and queue.spool_folder are filled in here
    int stop_fd;                    // the server ends when this can be read; -1: none
    const struct log *log;
};

// Binds the address, opens media and the gateway, and begins to listen once the model is ready. Errors say what to do:
// a port in use, an address that is not this machine's, a model that cannot be opened.
struct server *server_open(const struct server_options *options, struct error *error);

// The address that it listens on, "http://127.0.0.1:8080", and its gateway.
const char *server_url(const struct server *server);
struct gateway *server_gateway(const struct server *server);

// Serves until stop_fd can be read; then answers what is in work with API_INTERRUPTED and returns.
bool server_run(struct server *server, struct error *error);
void server_close(struct server *server); // NULL is fine

#endif
