// The event loop: messages of other threads, clients that leave, limits of time. Relies on exchange.h.
#include "base/clock.h"
#include "server/exchange.h"
#include "server/notify.h"
#include "server/relay.h"
#include "server/tls.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLOSING_SECONDS     5.0
#define CERTIFICATE_SECONDS 5.0 // between two looks at its files
#define EVENTS              64
#define BATCHES_MOST        64

// ---------------------------------------------------------------------------------------------------------- mailbox

// A message on its way from another thread to the loop.
struct letter {
    struct letter *next;
    char id[REQUEST_ID_MOST];
    struct gateway_message message;
};

struct mailbox {
    pthread_mutex_t lock;
    struct letter *first, **end; // in the order in which they came
    int fd;                      // eventfd
};

struct mailbox *mailbox_open(void) {
    struct mailbox *mailbox = calloc(1, sizeof *mailbox);
    if (!mailbox) return NULL;
    pthread_mutex_init(&mailbox->lock, NULL);
    mailbox->end = &mailbox->first;
    mailbox->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (mailbox->fd >= 0) return mailbox;
    mailbox_close(mailbox);
    return NULL;
}

void mailbox_close(struct mailbox *mailbox) {
    if (!mailbox) return;
    if (mailbox->fd >= 0) close(mailbox->fd);
    pthread_mutex_destroy(&mailbox->lock);
    free(mailbox);
}

int mailbox_fd(const struct mailbox *mailbox) {
    return mailbox->fd;
}

void mailbox_post(void *context, const char *id, struct gateway_message *message) {
    struct mailbox *mailbox = context;
    struct letter *letter = calloc(1, sizeof *letter);
    if (!letter) { // the client's time limit ends the wait: nothing can be said without memory
        buffer_free(&message->body);
        return;
    }
    snprintf(letter->id, sizeof letter->id, "%s", id);
    letter->message = *message;
    pthread_mutex_lock(&mailbox->lock);
    bool was_empty = !mailbox->first;
    *mailbox->end = letter;
    mailbox->end = &letter->next;
    pthread_mutex_unlock(&mailbox->lock);
    if (!was_empty) return; // the loop is awake already
    uint64_t one = 1;
    ssize_t written = write(mailbox->fd, &one, sizeof one);
    (void)written;
}

static void hand_out(struct server *server, struct letter *letter) {
    struct exchange *exchange = exchange_find(server, letter->id);
    struct gateway_message *message = &letter->message;
    bool waits = exchange && exchange->state == EXCHANGE_WAITING;
    bool last = message->kind == GATEWAY_ANSWER;
    if (waits && last && !exchange->stream) {
        exchange->answer = *message;
        message->body = (struct buffer){0}; // handed on
    } else if (waits || (exchange && exchange->state == EXCHANGE_STREAMING)) {
        stream_add(exchange, message);
    }
    if (waits) {
        exchange_unwatch(exchange);
        MHD_resume_connection(exchange->connection);
    }
    buffer_free(&message->body);
    free(letter);
}

void mailbox_empty(struct server *server) {
    struct mailbox *mailbox = server->mailbox;
    uint64_t count;
    ssize_t got = read(mailbox->fd, &count, sizeof count);
    (void)got;
    pthread_mutex_lock(&mailbox->lock);
    struct letter *letters = mailbox->first;
    mailbox->first = NULL;
    mailbox->end = &mailbox->first;
    pthread_mutex_unlock(&mailbox->lock);
    while (letters) {
        struct letter *letter = letters;
        letters = letter->next;
        hand_out(server, letter);
    }
}

// -------------------------------------------------------------------------------------------------- exchanges, links

static struct exchange **place_of(struct server *server, const char *id) {
    unsigned hash = 5381;
    for (; *id; id++) hash = hash * 33 + (unsigned char)*id;
    return &server->table[hash & (EXCHANGE_TABLES - 1)];
}

struct exchange *exchange_find(struct server *server, const char *id) {
    struct exchange *exchange = *place_of(server, id);
    while (exchange && strcmp(exchange->id, id)) exchange = exchange->chain;
    return exchange;
}

void exchange_enlist(struct exchange *exchange) {
    struct server *server = exchange->server;
    struct exchange **place = place_of(server, exchange->id);
    exchange->chain = *place;
    *place = exchange;
    exchange->previous = server->last;
    if (server->last) server->last->next = exchange;
    server->last = exchange;
    if (!server->first) server->first = exchange;
}

void exchange_delist(struct exchange *exchange) {
    struct server *server = exchange->server;
    struct exchange **at = place_of(server, exchange->id);
    while (*at && *at != exchange) at = &(*at)->chain;
    if (*at) *at = exchange->chain;
    if (exchange->previous) exchange->previous->next = exchange->next;
    if (exchange->next) exchange->next->previous = exchange->previous;
    if (server->first == exchange) server->first = exchange->next;
    if (server->last == exchange) server->last = exchange->previous;
}

void link_enlist(struct server *server, struct link *link) {
    link_delist(server, link);
    link->listed = true;
    link->since = clock_seconds();
    link->previous = server->last_link;
    if (server->last_link) server->last_link->next = link;
    server->last_link = link;
    if (!server->first_link) server->first_link = link;
}

void link_delist(struct server *server, struct link *link) {
    if (!link->listed) return;
    if (link->previous) link->previous->next = link->next;
    if (link->next) link->next->previous = link->previous;
    if (server->first_link == link) server->first_link = link->next;
    if (server->last_link == link) server->last_link = link->previous;
    link->previous = link->next = NULL;
    link->listed = false;
}

void exchange_watch(struct exchange *exchange) {
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLONESHOT, .data = {.ptr = exchange}};
    int how = exchange->watched < 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (exchange->link && epoll_ctl(exchange->server->epoll, how, exchange->link->socket, &event) == 0)
        exchange->watched = exchange->link->socket;
}

void exchange_unwatch(struct exchange *exchange) {
    if (exchange->watched >= 0) epoll_ctl(exchange->server->epoll, EPOLL_CTL_DEL, exchange->watched, NULL);
    exchange->watched = -1;
}

enum MHD_Result exchange_suspend(struct exchange *exchange) {
    exchange->state = EXCHANGE_WAITING;
    MHD_suspend_connection(exchange->connection);
    exchange_watch(exchange);
    return MHD_YES;
}

// Links (1), guests at the door (2), relays (4, 6) and exchanges are told apart by the lowest bits of what epoll gives back.
void link_watch(struct server *server, struct link *link) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data = {.ptr = (char *)link + 1}};
    link->watched = epoll_ctl(server->epoll, EPOLL_CTL_ADD, link->socket, &event) == 0;
}

void link_unwatch(struct server *server, struct link *link) {
    if (link->watched) epoll_ctl(server->epoll, EPOLL_CTL_DEL, link->socket, NULL);
    link->watched = false;
}

// The next request of an idle connection begins: its head has as long as a first one's. One that libmicrohttpd must not read
// as it is goes through a relay.
static void head_begins(struct server *server, struct link *link) {
    if (!link->listed) return;
    if (!door_may_pass(server, link) && relay_insert(server, link)) return;
    link->idle = false;
    link_enlist(server, link);
}

// A client has closed its end. One that waited loses its job; the connection goes when the answer comes. One that was still
// sending: libmicrohttpd's edge-triggered set misses an end that comes together with the last bytes, so it is woken once more.
static void client_left(struct server *server, struct exchange *exchange) {
    if (exchange->state == EXCHANGE_READING) shutdown(exchange->watched, SHUT_RD);
    if (exchange->state != EXCHANGE_WAITING && exchange->state != EXCHANGE_STREAMING) return;
    exchange->gone = true;
    gateway_cancel(server->gateway, exchange->id);
}

// --------------------------------------------------------------------------------------------------- limits of time

// A body that does not come to its end gets an answer by hand: libmicrohttpd takes none while it reads.
static void cut_body(struct exchange *exchange) {
    static const char text[] =
        "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
        "x-request-id: %s\r\nContent-Length: %zu\r\n\r\n%s";
    struct buffer body = {0}, answer = {0};
    struct api_error error = {0};
    api_error_set(&error, API_REQUEST_TIMEOUT, "", "the request's body did not come within %.0f s",
                  exchange->server->limits.body_seconds);
    if (api_error_body(&error, &body) && buffer_printf(&answer, text, exchange->id, body.length, body.data)) {
        ssize_t sent = send(exchange->link->socket, answer.data, answer.length, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)sent; // a client that takes nothing is not told
    }
    buffer_free(&body);
    buffer_free(&answer);
    exchange->cut = true;
    exchange->status = 408;
    shutdown(exchange->link->socket, SHUT_RDWR);
}

static void each_second(struct server *server, double now) {
    door_each_second(server, now);
    relays_each_second(server, now);
    if (server->tls && now >= server->next_certificate) {
        tls_refresh(server->tls, server->log);
        server->next_certificate = now + CERTIFICATE_SECONDS;
    }
    for (struct link *link = server->first_link; link; link = link->next) {
        double most = link->idle ? server->limits.idle_seconds : server->limits.header_seconds;
        if (now - link->since < most) continue;
        shutdown(link->socket, SHUT_RDWR);
        server->counts.timeouts++;
    }
    for (struct exchange *exchange = server->first, *next; exchange; exchange = next) {
        next = exchange->next;
        if (exchange->state == EXCHANGE_READING && !exchange->cut &&
            now - exchange->started >= server->limits.body_seconds) {
            cut_body(exchange);
            server->counts.timeouts++;
        }
        if (exchange->state == EXCHANGE_STREAMING || exchange->state == EXCHANGE_WAITING)
            stream_beat(exchange, now, server->limits.heartbeat_seconds);
    }
    if (server->watchdog_seconds > 0 && now >= server->next_watchdog) {
        notify_manager("WATCHDOG=1");
        server->next_watchdog = now + server->watchdog_seconds / 3;
    }
}

// --------------------------------------------------------------------------------------------------------- the loop

struct signs {
    bool stop, mail;
};

static void hear(struct server *server, const struct epoll_event *event, struct signs *signs) {
    char *who = event->data.ptr;
    if (who == (char *)&server->stop_fd) {
        signs->stop = true;
    } else if (who == (char *)&server->listen_fd) {
        door_knocked(server);
    } else if (who == (char *)&server->mailbox_fd) {
        signs->mail = true;
    } else if (who != (char *)&server->epoll) { // libmicrohttpd's own set
        switch ((uintptr_t)who & 7) {
        case 0:
            client_left(server, (struct exchange *)(void *)who);
            break;
        case 1:
            head_begins(server, (struct link *)(void *)(who - 1));
            break;
        case 2:
            door_heard((struct guest *)(void *)(who - 2));
            break;
        case 4:
            relay_heard((struct relay *)(void *)(who - 4), false, event->events);
            break;
        case 6:
            relay_heard((struct relay *)(void *)(who - 6), true, event->events);
            break;
        }
    }
}

// Runs one turn. Returns false when the stop descriptor can be read.
static bool turn(struct server *server, int wait_most) {
    MHD_UNSIGNED_LONG_LONG left;
    int wait = wait_most, count = EVENTS;
    if (MHD_get_timeout(server->daemon, &left) == MHD_YES && left < (MHD_UNSIGNED_LONG_LONG)wait)
        wait = (int)left;
    struct epoll_event events[EVENTS];
    struct signs signs = {false, false};
    // All that there is: what libmicrohttpd reads next was to be looked at before.
    for (int batch = 0; batch < BATCHES_MOST && count == EVENTS; batch++) {
        count = epoll_wait(server->epoll, events, EVENTS, batch ? 0 : wait);
        for (int i = 0; i < count; i++) hear(server, &events[i], &signs);
    }
    if (signs.mail) mailbox_empty(server);
    MHD_run(server->daemon);
    relays_each_turn(server);
    double now = clock_seconds();
    if (now >= server->next_second) {
        each_second(server, now);
        server->next_second = now + 1;
    }
    return !signs.stop;
}

static bool is_busy(const struct server *server) {
    for (const struct exchange *exchange = server->first; exchange; exchange = exchange->next)
        if (exchange->state != EXCHANGE_READING) return true;
    return gateway_in_work(server->gateway) > 0; // also what runs without a client
}

// Takes the signal in, so that the next one is seen.
static void read_signal(const struct server *server) {
    struct signalfd_siginfo info;
    ssize_t got = server->stop_fd >= 0 ? read(server->stop_fd, &info, sizeof info) : 0;
    (void)got;
}

bool server_run(struct server *server, struct error *error) {
    notify_manager("READY=1\nSTATUS=serving");
    while (turn(server, 1000)) continue;
    read_signal(server);
    notify_manager("STOPPING=1\nSTATUS=finishing what runs");
    log_info(server->log, "stopping: what runs is finished; a second signal ends it at once");
    server->stopping = true;
    gateway_drain(server->gateway);
    door_shut(server);
    close(server->listen_fd);
    server->listen_fd = -1;
    double deadline = clock_seconds() + server->limits.stop_seconds;
    while (is_busy(server) && clock_seconds() < deadline)
        if (!turn(server, 50)) break; // asked again
    if (server->stop_fd >= 0) epoll_ctl(server->epoll, EPOLL_CTL_DEL, server->stop_fd, NULL);
    gateway_interrupt(server->gateway); // every request still in work now has its answer in the mailbox
    deadline = clock_seconds() + CLOSING_SECONDS;
    while (is_busy(server) && clock_seconds() < deadline) turn(server, 50);
    return true;
}
