// See server.h: opening, the event loop, closing.
#include "server/server.h"
#include "base/clock.h"
#include "server/exchange_handler.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MOST    1000
#define IDLE_SECONDS        75         // a connection on which nothing moves
#define CONNECTION_MEMORY   (48 << 10) // headers and the piece of a body in work
#define MEDIA_SECONDS       3600.0
#define EXPIRY_EACH_SECONDS 30.0
#define CLOSING_SECONDS     5.0

// Answers on their way from the provider's thread to the loop.
struct letter {
    struct letter *next;
    char id[REQUEST_ID_MOST];
    struct gateway_message answer;
};

struct mailbox {
    pthread_mutex_t lock;
    struct letter *letters;
    int fd; // eventfd
};

// ---------------------------------------------------------------------------------------------------------- mailbox

static void post(void *context, const char *id, struct gateway_message *answer) {
    struct mailbox *mailbox = context;
    struct letter *letter = calloc(1, sizeof *letter);
    if (!letter) { // the client's time limit ends the wait: nothing can be said without memory
        buffer_free(&answer->body);
        return;
    }
    snprintf(letter->id, sizeof letter->id, "%s", id);
    letter->answer = *answer;
    pthread_mutex_lock(&mailbox->lock);
    letter->next = mailbox->letters;
    mailbox->letters = letter;
    pthread_mutex_unlock(&mailbox->lock);
    uint64_t one = 1;
    ssize_t written = write(mailbox->fd, &one, sizeof one);
    (void)written;
}

void exchange_watch(struct exchange *exchange) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data = {.ptr = exchange}};
    int how = exchange->watched < 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (info && epoll_ctl(exchange->server->epoll, how, info->connect_fd, &event) == 0)
        exchange->watched = info->connect_fd;
}

void exchange_unwatch(struct exchange *exchange) {
    if (exchange->watched >= 0) epoll_ctl(exchange->server->epoll, EPOLL_CTL_DEL, exchange->watched, NULL);
    exchange->watched = -1;
}

static void hand_out(struct server *server, struct letter *letter) {
    struct exchange *exchange = server->exchanges;
    while (exchange && strcmp(exchange->id, letter->id)) exchange = exchange->next;
    if (exchange && exchange->state == EXCHANGE_WAITING) {
        exchange->answer = letter->answer;
        exchange_unwatch(exchange);
        MHD_resume_connection(exchange->connection);
    } else {
        buffer_free(&letter->answer.body);
    }
    free(letter);
}

static void empty_mailbox(struct server *server) {
    uint64_t count;
    ssize_t got = read(server->mailbox->fd, &count, sizeof count);
    (void)got;
    pthread_mutex_lock(&server->mailbox->lock);
    struct letter *letters = server->mailbox->letters;
    server->mailbox->letters = NULL;
    pthread_mutex_unlock(&server->mailbox->lock);
    while (letters) {
        struct letter *letter = letters;
        letters = letter->next;
        hand_out(server, letter);
    }
}

enum MHD_Result exchange_suspend(struct exchange *exchange) {
    exchange->state = EXCHANGE_WAITING;
    MHD_suspend_connection(exchange->connection);
    exchange_watch(exchange);
    return MHD_YES;
}

// A client has closed its end. One that waited loses its job; the connection goes when the answer comes. One that was still
// sending: libmicrohttpd's edge-triggered set misses an end that comes together with the last bytes, so it is woken once more.
static void client_left(struct server *server, struct exchange *exchange) {
    if (exchange->state == EXCHANGE_READING) shutdown(exchange->watched, SHUT_RD);
    if (exchange->state != EXCHANGE_WAITING) return;
    exchange->gone = true;
    gateway_cancel(server->gateway, exchange->id);
}

// --------------------------------------------------------------------------------------------------------- the loop

// Runs one turn. Returns false when the server should stop.
static bool turn(struct server *server, int wait_most) {
    MHD_UNSIGNED_LONG_LONG left;
    int wait = wait_most;
    if (MHD_get_timeout(server->daemon, &left) == MHD_YES && left < (MHD_UNSIGNED_LONG_LONG)wait)
        wait = (int)left;
    struct epoll_event events[64];
    int count = epoll_wait(server->epoll, events, 64, wait);
    bool stop = false, mail = false;
    for (int i = 0; i < count; i++) {
        void *who = events[i].data.ptr;
        if (who == &server->stop_fd)
            stop = true;
        else if (who == &server->mailbox_fd)
            mail = true;
        else if (who != &server->epoll) // not libmicrohttpd's own set
            client_left(server, who);
    }
    if (mail) empty_mailbox(server);
    MHD_run(server->daemon);
    double now = clock_seconds();
    if (now >= server->next_expiry) {
        media_expire(server->media);
        server->next_expiry = now + EXPIRY_EACH_SECONDS;
    }
    return !stop;
}

static bool is_busy(const struct server *server) {
    for (const struct exchange *exchange = server->exchanges; exchange; exchange = exchange->next)
        if (exchange->state != EXCHANGE_READING) return true;
    return false;
}

bool server_run(struct server *server, struct error *error) {
    while (turn(server, 1000)) continue;
    log_info(server->log, "stopping");
    MHD_socket socket = MHD_quiesce_daemon(server->daemon);
    if (socket != MHD_INVALID_SOCKET) close(socket);
    server->listen_fd = -1;
    if (server->stop_fd >= 0) epoll_ctl(server->epoll, EPOLL_CTL_DEL, server->stop_fd, NULL);
    gateway_interrupt(server->gateway); // every running request now has its answer in the mailbox
    double deadline = clock_seconds() + CLOSING_SECONDS;
    while (is_busy(server) && clock_seconds() < deadline) turn(server, 50);
    return true;
}

// ------------------------------------------------------------------------------------------------- opening, closing

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
        listen(server->listen_fd, 511) == 0)
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
    server->loopback_only = is_loopback_address(found->ai_addr);
    bool good =
        server->loopback_only || options->no_auth ||
        error_set_field(
            error, ERROR_INPUT, "host",
            "%s is not a loopback address, and there are no keys: anybody who reaches it could use the "
            "server; --insecure-no-auth allows that",
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
    snprintf(server->url, sizeof server->url, "http://%s%s%s:%s", six ? "[" : "", name, six ? "]" : "",
             service);
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

static bool open_loop(struct server *server, const struct server_options *options, struct error *error) {
    server->epoll = epoll_create1(EPOLL_CLOEXEC);
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        exchange_handle, server, MHD_OPTION_EXTERNAL_LOGGER, on_daemon_message, server,
        MHD_OPTION_LISTEN_SOCKET, server->listen_fd, MHD_OPTION_NOTIFY_COMPLETED, exchange_ended, server,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MOST, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        server->daemon ? MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    server->stop_fd = options->stop_fd;
    bool good = server->epoll >= 0 && info && watch(server, info->epoll_fd, &server->epoll) &&
                watch(server, server->mailbox_fd, &server->mailbox_fd) &&
                (server->stop_fd < 0 || watch(server, server->stop_fd, &server->stop_fd));
    return good || error_set(error, ERROR_INTERNAL, "the HTTP server does not start: %s", strerror(errno));
}

static bool open_mailbox(struct server *server) {
    server->mailbox = calloc(1, sizeof *server->mailbox);
    if (!server->mailbox) return false;
    pthread_mutex_init(&server->mailbox->lock, NULL);
    server->mailbox->fd = server->mailbox_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return server->mailbox_fd >= 0;
}

static bool copy_options(struct server *server, const struct server_options *options) {
    server->spool_folder = strdup(options->spool_folder);
    server->public_url = options->public_url ? strdup(options->public_url) : NULL;
    bool good = server->spool_folder && (!options->public_url || server->public_url);
    if (server->public_url) // "https://pictures.example/" and without the slash are one
        while (*server->public_url && server->public_url[strlen(server->public_url) - 1] == '/')
            server->public_url[strlen(server->public_url) - 1] = 0;
    for (int i = 0; good && i < options->origin_count; i++)
        good = (server->origins[server->origin_count++] = strdup(options->origins[i])) != NULL;
    return good;
}

struct server *server_open(const struct server_options *options, struct error *error) {
    struct server *server = calloc(1, sizeof *server);
    if (!server) {
        error_set(error, ERROR_MEMORY, "no memory for the server");
        return NULL;
    }
    server->epoll = server->mailbox_fd = server->listen_fd = -1;
    server->log = options->log;
    bool good = (copy_options(server, options) && open_mailbox(server)) ||
                error_set(error, ERROR_MEMORY, "no memory for the server");
    good = good && open_socket(server, options, error);
    if (good)
        server->media = media_open(&(struct media_options){.folder = options->media_folder,
                                                           .lifetime_seconds = options->media_seconds > 0
                                                                                   ? options->media_seconds
                                                                                   : MEDIA_SECONDS},
                                   error);
    good = good && server->media;
    if (good) {
        struct gateway_options gateway = options->gateway;
        gateway.media = server->media;
        gateway.queue.spool_folder = server->spool_folder;
        server->gateway = gateway_open(&gateway, post, server->mailbox, error);
        good = server->gateway && open_loop(server, options, error);
    }
    if (good) return server;
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
    if (server->gateway) gateway_interrupt(server->gateway); // no letter is posted after this
    if (server->mailbox) empty_mailbox(server);              // and no connection stays suspended
    if (server->daemon) {
        MHD_stop_daemon(server->daemon);
        // libmicrohttpd closes the socket that it was given, unless it handed it back before.
        server->listen_fd = -1;
    }
    gateway_close(server->gateway);
    if (server->listen_fd >= 0) close(server->listen_fd);
    if (server->epoll >= 0) close(server->epoll);
    if (server->mailbox_fd >= 0) close(server->mailbox_fd);
    if (server->mailbox) pthread_mutex_destroy(&server->mailbox->lock);
    free(server->mailbox);
    media_close(server->media);
    for (int i = 0; i < server->origin_count; i++) free(server->origins[i]);
    free(server->spool_folder);
    free(server->public_url);
    free(server);
}
