// The door: connections wait here until the head of their first request is whole, and only then are handed to libmicrohttpd. So
// a head that is too large, malformed or slow is answered as everything else is, as JSON with an id, which libmicrohttpd does not
// allow; and a connection that says nothing costs next to nothing. The head is looked at, not read (MSG_PEEK); where that does not
// do, over TLS and for bodies in chunks, connections go through a relay. Relies on exchange.h, head.h, relay.h.
#include "base/clock.h"
#include "server/exchange.h"
#include "server/head.h"
#include "server/relay.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h> // more of tcp_info than the C library's
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPTED_MOST 256         // in one turn
#define PEEKED_MOST   (32u << 10) // of a head: more may not fit what the kernel keeps of a socket
#define LEAVE_SECONDS 2.0         // for a refused client to read why
#define DROPPED_MOST  (16u << 20) // bytes of a refused client that are read and dropped meanwhile

#define STATE_CLOSE_WAIT 8 // of tcp_info: the client has ended its side

struct guest {
    struct guest *previous, *next; // of all, oldest first
    struct server *server;
    int socket;
    struct address address;
    struct sockaddr_storage name;
    socklen_t name_length;
    double since;
    size_t dropped;
    bool leaving; // it was refused
};

// How many connections an address has.
struct visitor {
    struct visitor *next;
    struct address address;
    int count;
};

#define VISITOR_CHAINS 4096

struct door {
    struct guest *first, *last;
    int guests;
    bool open; // new connections are taken
    struct visitor *visitors[VISITOR_CHAINS];
    size_t peeked;
    char *bytes; // [peeked]
};

// --------------------------------------------------------------------------------------------------------- addresses

static struct visitor **chain_of(struct door *door, const struct address *address) {
    unsigned hash = 5381;
    for (size_t i = 0; i < sizeof address->bytes; i++) hash = hash * 33 + address->bytes[i];
    return &door->visitors[hash % VISITOR_CHAINS];
}

// False: the address has as many as it may, or memory is gone.
static bool count_in(struct server *server, const struct address *address) {
    struct door *door = server->door;
    struct visitor **chain = chain_of(door, address), *visitor = *chain;
    int most = server->limits.per_address;
    if (most <= 0 || address_is_loopback(address)) return true;
    while (visitor && memcmp(&visitor->address, address, sizeof *address)) visitor = visitor->next;
    if (!visitor) {
        if (!(visitor = calloc(1, sizeof *visitor))) return false;
        visitor->address = *address;
        visitor->next = *chain;
        *chain = visitor;
    }
    if (visitor->count >= most) return false;
    visitor->count++;
    return true;
}

void door_count_out(struct server *server, const struct address *address) {
    if (server->limits.per_address <= 0 || address_is_loopback(address)) return;
    struct visitor **link = chain_of(server->door, address);
    while (*link && memcmp(&(*link)->address, address, sizeof *address)) link = &(*link)->next;
    struct visitor *visitor = *link;
    if (!visitor || --visitor->count > 0) return;
    *link = visitor->next;
    free(visitor);
}

// ------------------------------------------------------------------------------------------------------------ guests

static void take_out(struct guest *guest) {
    struct door *door = guest->server->door;
    *(guest->previous ? &guest->previous->next : &door->first) = guest->next;
    *(guest->next ? &guest->next->previous : &door->last) = guest->previous;
    door->guests--;
    free(guest);
}

static void show_out(struct guest *guest) {
    door_count_out(guest->server, &guest->address);
    close(guest->socket); // which takes it out of the epoll set
    take_out(guest);
}

static void let_in(struct guest *guest) {
    struct server *server = guest->server;
    epoll_ctl(server->epoll, EPOLL_CTL_DEL, guest->socket, NULL);
    int socket = guest->socket;
    struct sockaddr_storage name = guest->name;
    socklen_t length = guest->name_length;
    struct address address = guest->address;
    take_out(guest);
    // libmicrohttpd closes the socket when it does not take it, and says nothing then.
    if (MHD_add_connection(server->daemon, socket, (const struct sockaddr *)&name, length) != MHD_YES)
        door_count_out(server, &address);
}

// Puts a relay between the guest and libmicrohttpd. False: there is none.
static bool pass_on(struct guest *guest) {
    epoll_ctl(guest->server->epoll, EPOLL_CTL_DEL, guest->socket, NULL);
    if (!relay_open(guest->server, guest->socket, &guest->address, &guest->name, guest->name_length))
        return false;
    take_out(guest);
    return true;
}

void door_note(struct server *server, const struct address *address, const char *id, int status,
               double seconds, size_t sent) {
    char client[ADDRESS_TEXT_MOST];
    address_write(address, client);
    const struct log_field fields[] = {{"request_id", id, 0, false, 0},
                                       {"status", NULL, status, true, 0},
                                       {"seconds", NULL, seconds, true, 3},
                                       {"sent", NULL, (double)sent, true, 0},
                                       {"client", client, 0, false, 0}};
    server->counts.requests[status / 100]++;
    server->counts.bytes_out += sent;
    if (server->access_log)
        log_fields(server->log, LOG_INFO, "request refused at its head", fields,
                   sizeof fields / sizeof *fields);
}

static enum api_code code_of(int status) {
    if (status == 408) return API_REQUEST_TIMEOUT;
    return status == 400 || status == 505 ? API_INVALID_REQUEST : API_PAYLOAD_TOO_LARGE;
}

size_t door_write_refusal(struct buffer *answer, int status, const char *why, const char *id) {
    struct buffer body = {0};
    struct api_error error = {0};
    size_t length = 0;
    api_error_set(&error, code_of(status), "", "%s", why);
    if (api_error_body(&error, &body) &&
        buffer_printf(answer,
                      "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
                      "Connection: close\r\nx-request-id: %s\r\nX-Content-Type-Options: nosniff\r\n"
                      "Content-Length: %zu\r\n\r\n%s",
                      status, MHD_get_reason_phrase_for((unsigned)status), id, body.length, body.data))
        length = body.length;
    buffer_free(&body);
    return length;
}

// Says why, and gives the client a moment to read it: a socket that is closed with bytes unread takes back what was sent.
static void refuse(struct guest *guest, int status, const char *why) {
    struct buffer answer = {0};
    char id[REQUEST_ID_MOST];
    exchange_make_id(id);
    size_t body = door_write_refusal(&answer, status, why, id);
    if (body) {
        ssize_t sent = send(guest->socket, answer.data, answer.length, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)sent; // a client that takes nothing is not told
    }
    door_note(guest->server, &guest->address, id, status, clock_seconds() - guest->since, body);
    buffer_free(&answer);
    shutdown(guest->socket, SHUT_WR);
    guest->leaving = true;
    guest->since = clock_seconds();
}

static void drop_bytes(struct guest *guest) {
    char nowhere[16 << 10];
    for (;;) {
        ssize_t got = recv(guest->socket, nowhere, sizeof nowhere, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (got > 0 && (guest->dropped += (size_t)got) < DROPPED_MOST) continue;
        show_out(guest);
        return;
    }
}

// Whether libmicrohttpd may read what has come: no more than one request, whose body is not in chunks.
static bool is_one(const struct head_judgement *judgement, size_t got) {
    return !judgement->chunked && got - judgement->length <= judgement->body;
}

void door_heard(struct guest *guest) {
    struct server *server = guest->server;
    struct door *door = server->door;
    struct head_judgement judgement = {0};
    if (guest->leaving) {
        drop_bytes(guest);
        return;
    }
    ssize_t got = recv(guest->socket, door->bytes, door->peeked, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (got <= 0) {
        show_out(guest);
        return;
    }
    size_t most = server->limits.header_bytes;
    switch (head_judge(door->bytes, (size_t)got, most, &judgement)) {
    case HEAD_GOOD:
        if (is_one(&judgement, (size_t)got) || !pass_on(guest)) let_in(guest);
        break;
    case HEAD_BAD:
        refuse(guest, judgement.status, judgement.why);
        drop_bytes(guest);
        break;
    case HEAD_PARTIAL:
        if ((size_t)got == door->peeked && !pass_on(guest)) let_in(guest); // more than can be looked at
        break;
    }
}

// Whether libmicrohttpd has read whole requests of the connection and nothing behind them: the kernel counts what it has read.
static bool is_between(const struct link *link) {
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    int waiting = 0;
    // In this order: what comes meanwhile makes the sum too large, never right by chance.
    if (link->unsure || ioctl(link->socket, SIOCINQ, &waiting) ||
        getsockopt(link->socket, IPPROTO_TCP, TCP_INFO, &info, &length))
        return false;
    uint64_t ends = info.tcpi_state == STATE_CLOSE_WAIT; // which counts as a byte
    return info.tcpi_bytes_received == link->taken + (uint64_t)waiting + ends;
}

bool door_may_pass(struct server *server, struct link *link) {
    struct door *door = server->door;
    struct head_judgement judgement = {0};
    if (link->relay || !door) return true;
    ssize_t got = recv(link->socket, door->bytes, door->peeked, MSG_PEEK | MSG_DONTWAIT);
    if (got <= 0) return true;
    enum head_verdict verdict = head_judge(door->bytes, (size_t)got, server->limits.header_bytes, &judgement);
    return (verdict == HEAD_GOOD && is_one(&judgement, (size_t)got)) || !is_between(link);
}

// ------------------------------------------------------------------------------------------------------- connections

static void set_open(struct server *server, bool open) {
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = &server->listen_fd}};
    if (server->door->open == open || server->listen_fd < 0) return;
    int how = open ? EPOLL_CTL_ADD : EPOLL_CTL_DEL;
    if (epoll_ctl(server->epoll, how, server->listen_fd, &event) == 0) server->door->open = open;
}

static void welcome(struct server *server, int socket, const struct sockaddr_storage *name,
                    socklen_t length) {
    struct door *door = server->door;
    struct guest *guest = calloc(1, sizeof *guest);
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data = {.ptr = (char *)guest + 2}};
    struct address address;
    address_of_socket((const struct sockaddr *)name, &address);
    if (!guest || !count_in(server, &address)) {
        free(guest);
        close(socket);
        return;
    }
    *guest = (struct guest){.server = server,
                            .socket = socket,
                            .address = address,
                            .name = *name,
                            .name_length = length,
                            .since = clock_seconds(),
                            .previous = door->last};
    *(door->last ? &door->last->next : &door->first) = guest;
    door->last = guest;
    door->guests++;
    if (server->tls) {
        if (!pass_on(guest)) show_out(guest);
    } else if (epoll_ctl(server->epoll, EPOLL_CTL_ADD, socket, &event) != 0) {
        show_out(guest);
    }
}

void door_knocked(struct server *server) {
    for (int i = 0; i < ACCEPTED_MOST; i++) {
        struct sockaddr_storage name;
        socklen_t length = sizeof name;
        if (door_count(server) >= server->connections_most) {
            set_open(server, false); // until somebody leaves
            return;
        }
        int socket =
            accept4(server->listen_fd, (struct sockaddr *)&name, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (socket >= 0) {
            welcome(server, socket, &name, length);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED || errno == EPROTO) continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            set_open(server, false); // no file or memory left: a little later
        return;
    }
}

int door_count(const struct server *server) {
    return server->connections + server->loose + (server->door ? server->door->guests : 0);
}

void door_each_second(struct server *server, double now) {
    struct door *door = server->door;
    for (struct guest *guest = door->first, *next; guest; guest = next) {
        next = guest->next;
        if (guest->leaving && now - guest->since >= LEAVE_SECONDS) {
            show_out(guest);
        } else if (!guest->leaving && now - guest->since >= server->limits.header_seconds) {
            server->counts.timeouts++;
            char byte;
            if (recv(guest->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 1) {
                show_out(guest); // it has said nothing: nor is anything said to it
                continue;
            }
            refuse(guest, 408, "the request's head did not come in time (limits.header_time)");
        }
    }
    if (door_count(server) < server->connections_most) set_open(server, true);
}

// ------------------------------------------------------------------------------------------------- opening, closing

bool door_open(struct server *server) {
    struct door *door = calloc(1, sizeof *door);
    if (!door) return false;
    server->door = door;
    door->peeked = server->limits.header_bytes < PEEKED_MOST ? server->limits.header_bytes : PEEKED_MOST;
    door->bytes = malloc(door->peeked);
    if (!door->bytes) return false;
    set_open(server, true);
    return door->open;
}

void door_shut(struct server *server) {
    if (!server->door) return;
    set_open(server, false);
    while (server->door->first) show_out(server->door->first);
    relays_shut(server);
}

void door_close(struct server *server) {
    struct door *door = server->door;
    if (!door) return;
    door_shut(server);
    for (size_t i = 0; i < VISITOR_CHAINS; i++)
        for (struct visitor *visitor = door->visitors[i], *next; visitor; visitor = next) {
            next = visitor->next;
            free(visitor);
        }
    free(door->bytes);
    free(door);
    server->door = NULL;
}
