// One request and its answer, as the server's parts share it. Relies on server.h, libmicrohttpd.
#ifndef LIMN_SERVER_EXCHANGE_H
#define LIMN_SERVER_EXCHANGE_H

#include "base/buffer.h"
#include "gateway/gateway.h"
#include "server/server.h"
#include "server/upload.h"

#include <microhttpd.h>

#define TARGET_MOST 256

enum exchange_state { EXCHANGE_READING, EXCHANGE_WAITING, EXCHANGE_ANSWERED };

struct route;

struct exchange {
    struct exchange *next; // of the server's list
    struct server *server;
    struct MHD_Connection *connection;
    char id[REQUEST_ID_MOST];
    const struct route *route; // NULL: none fits
    char target[TARGET_MOST];  // what stands behind the route's path
    enum exchange_state state;
    double started;
    int status; // of the answer
    char method[12], path[TARGET_MOST];
    char origin[TARGET_MOST]; // an allowed one, to be told so; else ""
    struct api_error error;   // the first thing that was wrong; the body is then read and dropped
    uint64_t received, limit; // bytes of the body
    struct upload *upload;    // reads the body of a POST
    struct gateway_message answer;
    int watched; // socket in the server's epoll set, -1: none
    bool gone;   // the client left
};

struct route {
    const char *path; // behind /openai/v1 or /v1 where [api]; the whole path else
    bool api;
    bool prefix; // the path goes on with a target
    bool post;
    // Answers, or suspends (returns MHD_YES in either case).
    enum MHD_Result (*serve)(struct exchange *exchange);
    // For a POST: which kind of body it takes.
    enum upload_kind upload;
};

extern const struct route ROUTES[];
extern const int ROUTE_COUNT;

struct server {
    struct MHD_Daemon *daemon;
    int epoll, mailbox_fd, stop_fd, listen_fd;
    char url[300];
    char *public_url, *spool_folder;
    char *origins[SERVER_ORIGINS_MOST];
    int origin_count;
    bool loopback_only; // keyless: what does not come from this machine's own programs is refused
    struct media *media;
    struct gateway *gateway;
    const struct log *log;
    struct exchange *exchanges;
    struct mailbox *mailbox;
    double next_expiry;
};

// Answers; each returns what the handler must return.
enum MHD_Result respond_error(struct exchange *exchange, const struct api_error *error);
enum MHD_Result respond_json(struct exchange *exchange, int status,
                             struct buffer *body); // takes the bytes over
enum MHD_Result respond_response(struct exchange *exchange, int status,
                                 struct MHD_Response *response); // takes it over

// Parks the connection until the answer of [exchange]->id comes.
enum MHD_Result exchange_suspend(struct exchange *exchange);

// Asks to be told when the client closes its end of the socket; again after it was told.
void exchange_watch(struct exchange *exchange);
void exchange_unwatch(struct exchange *exchange);

// Writes "http://host:port" as the client named it (or public_url).
void exchange_base_url(struct exchange *exchange, char *url, size_t size);

// Checks of a request's headers: Host, Origin, forwarding. False with exchange->error set.
bool guard_check(struct exchange *exchange);

#endif
