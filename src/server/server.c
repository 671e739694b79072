// See server.h: opening and closing.
#include "server/server.h"
#include "base/clock.h"
#include "server/exchange_handler.h"
#include "server/notify.h"
#include "server/relay.h"
#include "server/tls.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEDIA_SECONDS       3600.0
#define EXPIRY_EACH_SECONDS 30.0
#define BACKLOG             4096
#define RATED_MOST          65536       // addresses whose rate is remembered
#define SPARE_FILES         256         // beside the sockets: media, spool, database
#define BODY_PIECE          (4u << 10)  // beside a head of the largest kind; mostly a body gets more
#define CONNECTION_LEAST    (52u << 10) // room for what a head of the largest weight is kept as (head.c)

void server_limits_default(struct server_limits *limits) {
    *limits = (struct server_limits){.connections = 16000,
                                     .header_seconds = 15,
                                     .idle_seconds = 75,
                                     .body_seconds = 600,
                                     .header_bytes = 16 << 10,
                                     .json_bytes = 1u << 20,
                                     .file_bytes = 50u << 20,
                                     .body_bytes = 256u << 20,
                                     .buffered_bytes = 512u << 20,
                                     .spool_bytes = 4ull << 30,
                                     .pixels = 67108864,
                                     .heartbeat_seconds = 10,
                                     .stop_seconds = 60};
}

// ------------------------------------------------------------------------------------------------------ the address

static bool is_loopback_address(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24 == 127;
    if (address->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
    return false;
}

static bool bind_address(struct server *server, const struct addrinfo *found, const char *host, int port,
                         struct error *error) {
    int on = 1, idle = 30, pause = 10, probes = 3;
    server->listen_fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->listen_fd < 0) return error_set(error, ERROR_IO, "no socket: %s", strerror(errno));
    setsockopt(server->listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    // Connections inherit these: a client whose machine is gone without a word is noticed within a minute.
    setsockopt(server->listen_fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(server->listen_fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(server->listen_fd, IPPROTO_TCP, TCP_KEEPINTVL, &pause, sizeof pause);
    setsockopt(server->listen_fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    if (bind(server->listen_fd, found->ai_addr, found->ai_addrlen) == 0 &&
        listen(server->listen_fd, BACKLOG) == 0)
        return true;
    if (errno == EADDRINUSE)
        return error_set_field(error, ERROR_IO, "port",
                               "%s port %d is in use by another program; choose another with --port", host,
                               port);
    if (errno == EACCES)
        return error_set_field(error, ERROR_IO, "port", "port %d needs more rights; choose one above 1023",
                               port);
    return error_set_field(error, ERROR_IO, "host", "%s port %d cannot be listened on: %s", host, port,
                           strerror(errno));
}

// Binds, and writes the URL with the port that was given.
static bool open_socket(struct server *server, const struct server_options *options, struct error *error) {
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found = NULL;
    char port[16];
    snprintf(port, sizeof port, "%d", options->port);
    int bad = getaddrinfo(options->host, port, &wanted, &found);
    if (bad) return error_set_field(error, ERROR_INPUT, "host", "%s: %s", options->host, gai_strerror(bad));
    server->loopback = is_loopback_address(found->ai_addr);
    bool has_keys = server->store && keys_any(store_keys(server->store));
    bool good = server->loopback || options->no_auth || options->auth_required || has_keys ||
                error_set_field(error, ERROR_INPUT, "host",
                                "%s is not a loopback address, and there are no keys: anybody who reaches it "
                                "could use the server; make one with `limn key create`, or allow that with "
                                "--insecure-no-auth",
                                options->host);
    good = good && bind_address(server, found, options->host, options->port, error);
    freeaddrinfo(found);
    if (!good) return false;
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    char name[128] = "", service[16] = "";
    if (getsockname(server->listen_fd, (struct sockaddr *)&address, &length) ||
        getnameinfo((struct sockaddr *)&address, length, name, sizeof name, service, sizeof service,
                    NI_NUMERICHOST | NI_NUMERICSERV))
        return error_set(error, ERROR_IO, "%s: the address cannot be told", options->host);
    bool six = address.ss_family == AF_INET6;
    snprintf(server->url, sizeof server->url, "%s://%s%s%s:%s", server->tls ? "https" : "http",
             six ? "[" : "", name, six ? "]" : "", service);
    return true;
}

static bool watch(struct server *server, int fd, void *who) {
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = who}};
    return epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static void on_daemon_message(void *context, const char *format, va_list list) {
    const struct server *server = context;
    char line[256];
    vsnprintf(line, sizeof line, format, list);
    line[strcspn(line, "\r\n")] = 0;
    log_debug(server->log, "%s", line);
}

// Sockets need file descriptors: as many as the system lets this process have. Returns how many connections there can be.
static int open_files(struct server *server) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) return server->limits.connections;
    rlim_t each = server->tls ? 3 : 1; // a relay has two sockets more
    rlim_t wanted = each * (rlim_t)server->limits.connections + SPARE_FILES;
    if (files.rlim_cur < wanted) {
        files.rlim_cur = wanted < files.rlim_max ? wanted : files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
        getrlimit(RLIMIT_NOFILE, &files);
    }
    if (files.rlim_cur >= wanted) return server->limits.connections;
    int most = files.rlim_cur > 2 * SPARE_FILES ? (int)((files.rlim_cur - SPARE_FILES) / each) : SPARE_FILES;
    log_warning(server->log, "the limit of open files allows %d connections, not %d", most,
                server->limits.connections);
    return most;
}

static struct MHD_Daemon *start_daemon(struct server *server) {
    // More than a head may take: one that is too large is to be answered by us, not by libmicrohttpd. The rest is for a body's
    // pieces.
    size_t memory = 3 * server->limits.header_bytes + BODY_PIECE;
    if (memory < CONNECTION_LEAST) memory = CONNECTION_LEAST;
    server->connections_most = open_files(server);
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG,
        0, NULL, NULL, exchange_handle, server, MHD_OPTION_EXTERNAL_LOGGER, on_daemon_message, server,
        MHD_OPTION_NOTIFY_COMPLETED, exchange_ended, server, MHD_OPTION_NOTIFY_CONNECTION, connection_changed,
        server, MHD_OPTION_CONNECTION_LIMIT, (unsigned)server->connections_most,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)server->limits.idle_seconds,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, memory, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
}

static bool open_loop(struct server *server, const struct server_options *options, struct error *error) {
    server->epoll = epoll_create1(EPOLL_CLOEXEC);
    server->daemon = start_daemon(server);
    const union MHD_DaemonInfo *info =
        server->daemon ? MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    server->stop_fd = options->stop_fd;
    server->mailbox_fd = mailbox_fd(server->mailbox);
    bool good = server->epoll >= 0 && info && watch(server, info->epoll_fd, &server->epoll) &&
                watch(server, server->mailbox_fd, &server->mailbox_fd) &&
                (server->stop_fd < 0 || watch(server, server->stop_fd, &server->stop_fd)) &&
                door_open(server);
    return good || error_set(error, ERROR_INTERNAL, "the HTTP server does not start: %s", strerror(errno));
}

// ------------------------------------------------------------------------------------------------- opening, closing

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "no memory for the server");
}

static bool copy_options(struct server *server, const struct server_options *options, struct error *error) {
    server->log = options->log;
    server->limits = options->limits;
    server->spool.most = options->limits.spool_bytes;
    server->no_auth = options->no_auth;
    server->auth_required = options->auth_required;
    server->metrics_open = options->metrics_open;
    server->access_log = options->access_log;
    server->keyless_per_minute = options->keyless_per_minute;
    server->catalog = options->catalog;
    server->proxy_count = options->proxy_count;
    memcpy(server->proxies, options->proxies, sizeof server->proxies);
    server->spool_folder = strdup(options->spool_folder);
    server->public_url = options->public_url ? strdup(options->public_url) : NULL;
    if (!server->spool_folder || (options->public_url && !server->public_url)) return no_memory(error);
    if (server->public_url) // "https://pictures.example/" and without the slash are one
        while (*server->public_url && server->public_url[strlen(server->public_url) - 1] == '/')
            server->public_url[strlen(server->public_url) - 1] = 0;
    for (int i = 0; i < options->origin_count; i++)
        if (!(server->origins[server->origin_count++] = strdup(options->origins[i]))) return no_memory(error);
    server->table = calloc(EXCHANGE_TABLES, sizeof(struct exchange *));
    server->mailbox = mailbox_open();
    return (server->table && server->mailbox) || no_memory(error);
}

static bool read_certificate(struct server *server, const struct server_options *options,
                             struct error *error) {
    if (!options->certificate && !options->key) return true;
    if (!options->certificate || !options->key)
        return error_set(error, ERROR_INPUT, "TLS needs both a certificate and its key");
    server->tls = tls_open(options->certificate, options->key, error);
    return server->tls != NULL;
}

static bool is_stopped(void *context) {
    const struct server_options *options = context;
    struct pollfd wanted = {.fd = options->stop_fd, .events = POLLIN};
    return options->stop_fd >= 0 && poll(&wanted, 1, 0) > 0;
}

static bool open_parts(struct server *server, const struct server_options *options, struct error *error) {
    if (!copy_options(server, options, error) || !read_certificate(server, options, error)) return false;
    server->addresses = rate_open(RATED_MOST, error);
    if (!server->addresses || !open_socket(server, options, error)) return false;
    struct media_options media = {.folder = options->media_folder,
                                  .lifetime_seconds =
                                      options->media_seconds > 0 ? options->media_seconds : MEDIA_SECONDS,
                                  .quota_bytes = options->media_quota,
                                  .expire_each_seconds = EXPIRY_EACH_SECONDS};
    server->media = media_open(&media, error);
    if (!server->media) return false;
    struct gateway_options gateway = options->gateway;
    gateway.media = server->media;
    gateway.store = server->store;
    gateway.queue.spool_folder = server->spool_folder;
    gateway.stopped = is_stopped;
    gateway.stopped_context = (void *)options;
    server->gateway = gateway_open(&gateway, mailbox_post, server->mailbox, error);
    return server->gateway && open_loop(server, options, error);
}

struct server *server_open(const struct server_options *options, struct error *error) {
    struct server *server = calloc(1, sizeof *server);
    if (!server) {
        no_memory(error);
        store_close(options->store);
        return NULL;
    }
    server->epoll = server->mailbox_fd = server->listen_fd = -1;
    server->started = clock_seconds();
    server->watchdog_seconds = notify_watchdog_seconds();
    server->store = options->store;
    if (open_parts(server, options, error)) return server;
    server_close(server);
    return NULL;
}

const char *server_url(const struct server *server) {
    return server->url;
}

struct gateway *server_gateway(const struct server *server) {
    return server->gateway;
}

void server_close(struct server *server) {
    if (!server) return;
    if (server->gateway) gateway_interrupt(server->gateway);
    store_close(server->store);                 // calls what waits for it: no letter is posted after this
    if (server->mailbox) mailbox_empty(server); // and no connection stays suspended
    if (server->daemon) MHD_stop_daemon(server->daemon);
    relays_close(server);
    door_close(server);
    gateway_close(server->gateway);
    if (server->listen_fd >= 0) close(server->listen_fd);
    if (server->epoll >= 0) close(server->epoll);
    mailbox_close(server->mailbox);
    media_close(server->media);
    rate_close(server->addresses);
    for (int i = 0; i < server->origin_count; i++) free(server->origins[i]);
    tls_close(server->tls);
    free(server->table);
    free(server->spool_folder);
    free(server->public_url);
    free(server);
}
