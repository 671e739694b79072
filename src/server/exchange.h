// One request and its answer, as the server's parts share it. Relies on server.h, libmicrohttpd.
#ifndef LIMN_SERVER_EXCHANGE_H
#define LIMN_SERVER_EXCHANGE_H

#include "base/buffer.h"
#include "gateway/gateway.h"
#include "gateway/principal.h"
#include "server/address.h"
#include "server/server.h"
#include "server/upload.h"

#include <microhttpd.h>

#define TARGET_MOST     256
#define EXCHANGE_TABLES 4096 // of the table that finds an exchange by its id; a power of two

enum exchange_state {
    EXCHANGE_READING,   // its body is on its way
    EXCHANGE_WAITING,   // suspended until its answer comes
    EXCHANGE_STREAMING, // events are sent as they come
    EXCHANGE_ANSWERED
};

struct route;
struct stream;

// One connection, which may carry many exchanges, one after the other.
struct link {
    struct link *previous, *next; // of the list of those without a whole request head, oldest first
    bool listed;
    bool idle;    // it has carried a request, and nothing of the next has come
    bool watched; // for the first byte of the next request
    double since; // when it was put there, or the first byte came
    int socket;
    struct MHD_Connection *connection;
    struct relay *relay; // NULL: its bytes go to libmicrohttpd directly
    uint64_t taken;      // bytes of its requests so far
    uint64_t ended;      // requests of it that are over
    bool unsure;         // taken does not count all
    struct address address;
};

struct exchange {
    struct exchange *previous, *next; // of all, oldest first
    struct exchange *chain;           // of its place in the table
    struct server *server;
    struct MHD_Connection *connection;
    struct link *link;
    char id[REQUEST_ID_MOST];
    const struct route *route; // NULL: none fits
    char target[TARGET_MOST];  // what stands behind the route's path
    enum exchange_state state;
    double started;
    int status; // of the answer
    char method[12], path[TARGET_MOST];
    char origin[TARGET_MOST];   // an allowed one, to be told so; else ""
    struct address client;      // behind trusted proxies
    bool local;                 // from a program of this machine, not through a proxy
    bool secure;                // the client speaks TLS, with the server or with a trusted proxy
    char forwarded_host[200];   // by a trusted proxy, checked; else ""
    char trace_id[33];          // of the traceparent header; else ""
    struct principal principal; // who asks, once admitted
    bool project_named;         // by the OpenAI-Project header
    struct api_error error;     // the first thing that was wrong; the body is then read and dropped
    uint64_t received, limit;   // bytes of the body
    uint64_t buffered;          // bytes of the body that count as held in memory
    bool in_memory;             // the body is
    uint64_t sent;              // bytes of the answer's body, where known
    uint64_t picture_size;      // of a picture of which a part was asked for that it does not have
    struct upload *upload;      // reads the body of a POST
    bool wants_stream;          // the request asked for events
    struct gateway_message answer;
    struct stream *stream; // of server-sent events
    int watched;           // socket in the server's epoll set, -1: none
    bool cut;              // closed by a limit
    bool gone;             // the client left
};

enum method { METHOD_GET, METHOD_POST, METHOD_DELETE };

enum access {
    ACCESS_OPEN,    // anybody whom the guard lets through
    ACCESS_KEY,     // a key, or keyless use of this machine's programs
    ACCESS_ADMIN,   // an admin key, or keyless use
    ACCESS_METRICS, // as ADMIN, or open by the owner's choice
};

struct route {
    const char *path;   // behind the base; one that ends with "/" goes on with a target
    const char *suffix; // what follows the target: "/cancel"; NULL
    unsigned bases;     // BASE_... that it is served under
    enum method method;
    enum access access;
    // Answers, or suspends (returns MHD_YES in either case).
    enum MHD_Result (*serve)(struct exchange *exchange);
    // For a POST: which kind of body it takes.
    enum upload_kind upload;
    enum image_mode mode;
};

#define BASE_OPENAI 1u // /openai/v1
#define BASE_V1     2u // /v1
#define BASE_ROOT   4u
#define BASE_API    (BASE_OPENAI | BASE_V1)

extern const struct route ROUTES[];
extern const int ROUTE_COUNT;

// What /metrics tells of the server itself.
#define STATUS_CLASSES  6
#define METRICS_BUCKETS 9
struct server_counts {
    uint64_t requests[STATUS_CLASSES]; // by first digit of the status; [0]: without an answer
    uint64_t timeouts;
    uint64_t bytes_in, bytes_out;
    double seconds; // of all of them
    uint64_t buckets[METRICS_BUCKETS + 1];
};

struct server {
    struct MHD_Daemon *daemon;
    int epoll, mailbox_fd, stop_fd, listen_fd;
    char url[300];
    char *public_url, *spool_folder;
    char *origins[SERVER_ORIGINS_MOST];
    int origin_count;
    struct network proxies[NETWORKS_MOST];
    int proxy_count;
    struct tls *tls; // NULL: plain HTTP
    struct server_limits limits;
    bool loopback; // bound to a loopback address
    bool no_auth, auth_required, metrics_open;
    bool stopping;
    struct media *media;
    struct gateway *gateway;
    struct store *store;           // NULL: no records, no keys
    const struct catalog *catalog; // NULL: the gateway's one model
    struct rate *addresses;        // requests a minute of keyless use, by address
    const struct log *log;
    bool access_log;
    int keyless_per_minute;
    uint64_t buffered;             // bytes of bodies that are held in memory
    struct spool_room spool;       // of pictures that came in
    struct exchange *first, *last; // oldest first
    struct exchange **table;       // by id
    struct link *first_link, *last_link;
    struct relay *first_relay, *last_relay, *entering, *dead_relays; // see relay.c
    int loose;            // relays without a connection of libmicrohttpd
    int refusing;         // relays that have yet to say so
    struct door *door;    // NULL before it was opened
    int connections;      // that libmicrohttpd has
    int connections_most; // with those at the door
    struct server_counts counts;
    struct mailbox *mailbox;
    double started, next_second, next_watchdog, watchdog_seconds, next_certificate;
};

// ---- respond.c: each returns what the handler must return.
enum MHD_Result respond_error(struct exchange *exchange, const struct api_error *error);
// The same with a status that is not the code's own.
enum MHD_Result respond_status(struct exchange *exchange, int status, const struct api_error *error);
// Takes the bytes over.
enum MHD_Result respond_json(struct exchange *exchange, int status, struct buffer *body);
enum MHD_Result respond_text(struct exchange *exchange, int status, const char *type, struct buffer *body);
// Takes the object over (NULL: no memory).
enum MHD_Result respond_object(struct exchange *exchange, int status, json_t *object);
enum MHD_Result respond_response(struct exchange *exchange, int status,
                                 struct MHD_Response *response); // takes it over
enum MHD_Result respond_preflight(struct exchange *exchange);
// The gateway's last word on a call.
enum MHD_Result respond_answer(struct exchange *exchange);

// ---- loop.c
// Parks the connection until the answer of [exchange]->id comes.
enum MHD_Result exchange_suspend(struct exchange *exchange);
// Asks to be told when the client closes its end of the socket; again after it was told.
void exchange_watch(struct exchange *exchange);
void exchange_unwatch(struct exchange *exchange);
struct exchange *exchange_find(struct server *server, const char *id);
void exchange_enlist(struct exchange *exchange); // in the list and the table
void exchange_delist(struct exchange *exchange);
void link_enlist(struct server *server, struct link *link); // at the end, from now on
// Asks to be told when the next request of an idle connection begins.
void link_watch(struct server *server, struct link *link);
void link_unwatch(struct server *server, struct link *link);
void link_delist(struct server *server, struct link *link);

struct mailbox *mailbox_open(void);
void mailbox_close(struct mailbox *mailbox); // NULL is fine
int mailbox_fd(const struct mailbox *mailbox);
// A gateway_sink: hands [message] to the loop. Any thread; [context] is the mailbox.
void mailbox_post(void *context, const char *id, struct gateway_message *message);
void mailbox_empty(struct server *server);

// ---- stream.c
// Adds what a message says to the exchange's stream (takes the bytes over); begins one where there is none. An ANSWER ends it.
void stream_add(struct exchange *exchange, struct gateway_message *message);
enum MHD_Result stream_respond(struct exchange *exchange);
void stream_close(struct stream *stream); // NULL is fine
// Sends a comment when nothing was sent for [heartbeat] seconds; a stream that waits for its first event so long begins with
// one. Called each second for every exchange that waits or streams.
void stream_beat(struct exchange *exchange, double now, double heartbeat);

// ---- door.c
struct guest;
bool door_open(struct server *server); // once libmicrohttpd runs; false: no memory
void door_shut(struct server *server); // nobody is let in any more, those who wait are sent away
void door_close(struct server *server);
void door_knocked(struct server *server); // there is somebody at the socket
void door_heard(struct guest *guest);     // who waits has said something, or left
void door_each_second(struct server *server, double now);
int door_count(const struct server *server); // of all connections
// One of the address's connections is gone.
void door_count_out(struct server *server, const struct address *address);
// Looks at what has come of an idle connection's next request, without reading it: whether libmicrohttpd may read it.
bool door_may_pass(struct server *server, struct link *link);
// Adds a whole answer that says why a request is refused, after which the connection ends. Returns the bytes of its body, 0: no
// memory.
size_t door_write_refusal(struct buffer *answer, int status, const char *why, const char *id);
// Counts and logs such an answer.
void door_note(struct server *server, const struct address *address, const char *id, int status,
               double seconds, size_t sent);

// ---- exchange.c
// A fresh id of a request.
void exchange_make_id(char id[REQUEST_ID_MOST]);
// Removes what has arrived of a body that is not wanted any more.
void exchange_drop_upload(struct exchange *exchange);
// Records that the caller, who is known, was refused to make pictures, where that did not come as far as the gateway.
void exchange_record_refusal(struct exchange *exchange);
// A parameter of the query string that says yes or no; false with the error set when it says something else.
bool exchange_flag(struct exchange *exchange, const char *name, bool *value);

// ---- the routes
enum MHD_Result serve_images(struct exchange *exchange);
enum MHD_Result serve_models(struct exchange *exchange);
enum MHD_Result serve_requests(struct exchange *exchange);
enum MHD_Result serve_request(struct exchange *exchange);
enum MHD_Result serve_cancel(struct exchange *exchange);
enum MHD_Result serve_purge(struct exchange *exchange);
enum MHD_Result serve_keys(struct exchange *exchange);
enum MHD_Result serve_stats(struct exchange *exchange);
enum MHD_Result serve_balance(struct exchange *exchange);
enum MHD_Result serve_media(struct exchange *exchange);
enum MHD_Result serve_health(struct exchange *exchange);
enum MHD_Result serve_ready(struct exchange *exchange);
enum MHD_Result serve_metrics(struct exchange *exchange);
enum MHD_Result serve_openapi(struct exchange *exchange);

// ---- guard.c
// The checks of a request's head before anything is read: Host, Origin, forwarding. False with exchange->error set.
bool guard_check(struct exchange *exchange);
// Who asks, and whether they may use the route. False with exchange->error set.
bool guard_admit(struct exchange *exchange);
// Whether this server does without keys for now.
bool guard_keyless(const struct server *server);
// Writes "http://host:port" as the client named it (or public_url).
void exchange_base_url(struct exchange *exchange, char *url, size_t size);
// The value of a request's header, NULL: none.
const char *exchange_header(const struct exchange *exchange, const char *name);

// ---- metrics.c
void metrics_count(struct server *server, const struct exchange *exchange, double seconds);
bool metrics_write(struct server *server, struct buffer *out);

#endif
