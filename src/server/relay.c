// See relay.h.
#include "server/relay.h"
#include "base/clock.h"
#include "server/chunks.h"
#include "server/head.h"
#include "server/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define FLOW_LEAST    (32u << 10)
#define ROUNDS_MOST   64          // of reading and writing before others have their turn
#define CHUNK_AROUND  32          // bytes that a chunk has beside its data
#define LEAVE_SECONDS 2.0         // for a client to read the end of an answer
#define DROPPED_MOST  (16u << 20) // bytes of a client that is leaving which are read and dropped meanwhile

// Bytes on their way in one direction; no memory is held while there are none.
struct flow {
    char *bytes; // [server's flow size]
    size_t begin, end;
};

enum stage {
    SHAKING, // the TLS handshake
    PASSING,
    LEAVING, // the last has been said; what still comes is dropped
};

enum part {
    HEAD,
    BODY,   // [left] bytes
    CHUNKS, // a body in chunks
    BLIND,  // whatever it is: the server refuses the request and closes
};

struct relay {
    struct relay *previous, *next;
    struct relay *next_entering; // of those that libmicrohttpd is being given
    struct server *server;
    struct link *link; // libmicrohttpd's connection; NULL: not yet, or not any more
    int outer, inner;  // the client's socket; ours of the pair, -1: none
    int peer;          // libmicrohttpd's of the pair, while it is being given
    gnutls_session_t session;
    struct tls_certificate *held;
    size_t sending; // bytes of a record that GnuTLS has taken and not sent
    struct address address;
    struct sockaddr_storage name;
    socklen_t name_length;
    enum stage stage;
    enum part part;
    uint64_t left;
    struct chunks chunks;
    struct flow up, ready, down;   // from the client; of that, what may be passed on; to the client
    bool admitted;                 // libmicrohttpd has, or had, the connection
    bool outer_ended, inner_ended; // nothing more comes from there
    bool outer_told, inner_told;   // that nothing more comes from here
    bool inner_hung;               // closed by libmicrohttpd; what it has said may still be read
    bool dead;
    uint64_t passed; // heads
    const char *why; // it is refused, and is told so once it may be
    int status;
    unsigned outer_events, inner_events; // asked of epoll
    double since;                        // when the stage, or the head that is being read, began
    size_t dropped;
};

static size_t flow_size(const struct server *server) {
    size_t size = server->limits.header_bytes + (4u << 10);
    return size < FLOW_LEAST ? FLOW_LEAST : size;
}

// How much more the flow takes, at its end; 0 too when memory is gone.
static size_t flow_room(const struct server *server, struct flow *flow) {
    size_t size = flow_size(server);
    if (!flow->bytes && !(flow->bytes = malloc(size))) return 0;
    if (flow->begin > 0) {
        memmove(flow->bytes, flow->bytes + flow->begin, flow->end - flow->begin);
        flow->end -= flow->begin;
        flow->begin = 0;
    }
    return size - flow->end;
}

static size_t flow_length(const struct flow *flow) {
    return flow->end - flow->begin;
}

static void flow_rest(struct flow *flow) {
    if (flow_length(flow)) return;
    free(flow->bytes);
    *flow = (struct flow){0};
}

static void flow_add(struct flow *flow, const char *bytes, size_t size) {
    memcpy(flow->bytes + flow->end, bytes, size);
    flow->end += size;
}

// ------------------------------------------------------------------------------------------------- opening, closing

static void *tagged(struct relay *relay, bool inner) {
    return (char *)relay + (inner ? 6 : 4);
}

static void enlist(struct server *server, struct relay *relay) {
    relay->previous = server->last_relay;
    *(server->last_relay ? &server->last_relay->next : &server->first_relay) = relay;
    server->last_relay = relay;
    if (!relay->link) server->loose++;
}

static struct relay *make(struct server *server, int socket, const struct address *address) {
    struct relay *relay = calloc(1, sizeof *relay);
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = relay ? tagged(relay, false) : NULL}};
    if (!relay) return NULL;
    *relay = (struct relay){.server = server,
                            .outer = socket,
                            .inner = -1,
                            .peer = -1,
                            .address = *address,
                            .stage = PASSING,
                            .outer_events = EPOLLIN,
                            .since = clock_seconds()};
    if (epoll_ctl(server->epoll, EPOLL_CTL_ADD, socket, &event) == 0) return relay;
    free(relay);
    return NULL;
}

bool relay_open(struct server *server, int socket, const struct address *address,
                const struct sockaddr_storage *name, socklen_t name_length) {
    struct relay *relay = make(server, socket, address);
    if (!relay) return false;
    relay->name = *name;
    relay->name_length = name_length;
    if (server->tls) {
        relay->stage = SHAKING;
        relay->session = tls_session(server->tls, socket, &relay->held);
        if (!relay->session) {
            epoll_ctl(server->epoll, EPOLL_CTL_DEL, socket, NULL);
            free(relay);
            return false;
        }
    }
    enlist(server, relay);
    return true;
}

static bool watch_inner(struct relay *relay) {
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = tagged(relay, true)}};
    relay->inner_events = EPOLLIN;
    return epoll_ctl(relay->server->epoll, EPOLL_CTL_ADD, relay->inner, &event) == 0;
}

static bool open_pair(int pair[2]) {
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0;
}

bool relay_insert(struct server *server, struct link *link) {
    int pair[2], outer = fcntl(link->socket, F_DUPFD_CLOEXEC, 0);
    struct relay *relay = NULL;
    if (outer < 0) return false;
    if (!open_pair(pair)) {
        close(outer);
        return false;
    }
    relay = make(server, outer, &link->address);
    if (relay) relay->inner = pair[0];
    if (!relay || !watch_inner(relay)) {
        free(relay);
        close(outer); // which takes it out of the epoll set
        close(pair[0]);
        close(pair[1]);
        return false;
    }
    // libmicrohttpd's socket becomes the pair's other end under the same number: while it is suspended it is in no epoll set.
    MHD_suspend_connection(link->connection);
    link_unwatch(server, link);
    bool good = dup3(pair[1], link->socket, O_CLOEXEC) >= 0;
    close(pair[1]);
    MHD_resume_connection(link->connection);
    if (!good) {
        free(relay);
        close(outer);
        close(pair[0]);
        link_watch(server, link);
        return false;
    }
    relay->admitted = true;
    relay->link = link;
    relay->passed = link->ended;
    link->relay = relay;
    enlist(server, relay);
    return true;
}

static void close_inner(struct relay *relay) {
    if (relay->inner >= 0) close(relay->inner);
    relay->inner = -1;
    relay->inner_ended = true;
}

// The memory goes at the end of the turn: epoll may have more to say of it.
static void end(struct relay *relay) {
    struct server *server = relay->server;
    if (relay->dead) return;
    relay->dead = true;
    close_inner(relay);
    if (relay->why && relay->stage != LEAVING) server->refusing--;
    if (relay->session) gnutls_deinit(relay->session);
    tls_release(relay->held);
    close(relay->outer);
    free(relay->up.bytes);
    free(relay->ready.bytes);
    free(relay->down.bytes);
    if (relay->link) {
        relay->link->relay = NULL;
    } else {
        server->loose--;
        door_count_out(server, &relay->address);
    }
    *(relay->previous ? &relay->previous->next : &server->first_relay) = relay->next;
    *(relay->next ? &relay->next->previous : &server->last_relay) = relay->previous;
    relay->next = server->dead_relays;
    server->dead_relays = relay;
}

void relay_link_began(struct server *server, struct link *link) {
    for (struct relay **at = &server->entering; *at; at = &(*at)->next_entering) {
        struct relay *relay = *at;
        if (relay->peer != link->socket) continue;
        *at = relay->next_entering;
        relay->peer = -1;
        relay->link = link;
        link->relay = relay;
        server->loose--;
        return;
    }
}

void relay_link_ended(struct server *server, struct link *link) {
    link->relay->link = NULL;
    link->relay = NULL;
    server->loose++;
}

// Gives libmicrohttpd its end of a pair.
static bool admit(struct relay *relay) {
    struct server *server = relay->server;
    int pair[2];
    if (!open_pair(pair)) return false;
    relay->inner = pair[0];
    if (!watch_inner(relay)) {
        close(pair[1]);
        return false;
    }
    relay->peer = pair[1];
    relay->next_entering = server->entering;
    server->entering = relay;
    relay->admitted = MHD_add_connection(server->daemon, pair[1], (const struct sockaddr *)&relay->name,
                                         relay->name_length) == MHD_YES;
    if (!relay->admitted) server->entering = relay->next_entering;
    return relay->admitted;
}

// ------------------------------------------------------------------------------------------------- reading, writing

enum { AGAIN = -1, BROKEN = -2 };

static ssize_t of_errno(ssize_t got) {
    if (got >= 0) return got;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? AGAIN : BROKEN;
}

static ssize_t of_tls(ssize_t got) {
    if (got >= 0) return got;
    if (got == GNUTLS_E_PREMATURE_TERMINATION) return 0;
    return gnutls_error_is_fatal((int)got) ? BROKEN : AGAIN;
}

static ssize_t outer_read(struct relay *relay, char *to, size_t most) {
    return relay->session ? of_tls(gnutls_record_recv(relay->session, to, most))
                          : of_errno(recv(relay->outer, to, most, MSG_DONTWAIT));
}

static ssize_t outer_write(struct relay *relay, const char *bytes, size_t size) {
    if (!relay->session) return of_errno(send(relay->outer, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL));
    // A record that could not be sent as a whole is asked for again without its bytes.
    ssize_t sent = relay->sending ? gnutls_record_send(relay->session, NULL, 0)
                                  : gnutls_record_send(relay->session, bytes, size);
    if (sent < 0 && !relay->sending) relay->sending = size;
    if (sent >= 0) relay->sending = 0;
    return of_tls(sent);
}

// True: bytes have come.
static bool read_outer(struct relay *relay) {
    size_t room = relay->outer_ended || relay->why ? 0 : flow_room(relay->server, &relay->up);
    if (!room) return false;
    bool begins = relay->part == HEAD && !flow_length(&relay->up);
    ssize_t got = outer_read(relay, relay->up.bytes + relay->up.end, room);
    if (got == AGAIN) return false;
    if (got > 0) {
        relay->up.end += (size_t)got;
        if (begins && relay->admitted) relay->since = clock_seconds();
        return true;
    }
    relay->outer_ended = true;
    if (got == BROKEN) end(relay);
    return false;
}

static bool write_inner(struct relay *relay) {
    struct flow *flow = &relay->ready;
    if (relay->inner < 0 || !flow_length(flow)) return false;
    ssize_t sent = of_errno(
        send(relay->inner, flow->bytes + flow->begin, flow_length(flow), MSG_DONTWAIT | MSG_NOSIGNAL));
    if (sent == BROKEN) flow->begin = flow->end; // it has closed: what it said last is still to be read
    if (sent <= 0) return false;
    flow->begin += (size_t)sent;
    return true;
}

static bool read_inner(struct relay *relay) {
    size_t room = relay->inner < 0 || relay->inner_ended ? 0 : flow_room(relay->server, &relay->down);
    if (!room) return false;
    ssize_t got = of_errno(recv(relay->inner, relay->down.bytes + relay->down.end, room, MSG_DONTWAIT));
    if (got == AGAIN) return false;
    if (got > 0) {
        relay->down.end += (size_t)got;
        return true;
    }
    close_inner(relay);
    relay->since = clock_seconds();
    return false;
}

static bool write_outer(struct relay *relay) {
    struct flow *flow = &relay->down;
    if (!flow_length(flow)) return false;
    ssize_t sent = outer_write(relay, flow->bytes + flow->begin, flow_length(flow));
    if (sent == BROKEN) end(relay);
    if (sent <= 0) return false;
    flow->begin += (size_t)sent;
    if (relay->stage == LEAVING) relay->since = clock_seconds();
    return true;
}

// ---------------------------------------------------------------------------------------------------------- judging

static void refuse(struct relay *relay, int status, const char *why) {
    relay->status = status;
    relay->why = why;
    relay->server->refusing++;
}

static bool pass(struct relay *relay, size_t size) {
    struct flow *up = &relay->up;
    size_t room = flow_room(relay->server, &relay->ready);
    if (size > room) size = room;
    if (!size) return false;
    flow_add(&relay->ready, up->bytes + up->begin, size);
    up->begin += size;
    return true;
}

static bool judge_head(struct relay *relay) {
    struct flow *up = &relay->up;
    struct head_judgement judgement = {0};
    switch (
        head_judge(up->bytes + up->begin, flow_length(up), relay->server->limits.header_bytes, &judgement)) {
    case HEAD_PARTIAL:
        return false;
    case HEAD_BAD:
        refuse(relay, judgement.status, judgement.why);
        return false;
    case HEAD_GOOD:
        break;
    }
    if (judgement.length > flow_room(relay->server, &relay->ready)) return false;
    if (!relay->admitted && !admit(relay)) {
        end(relay);
        return false;
    }
    pass(relay, judgement.length);
    relay->passed++;
    relay->left = judgement.body;
    relay->chunks = (struct chunks){0};
    relay->part = judgement.framings > 1 ? BLIND : judgement.chunked ? CHUNKS : judgement.body ? BODY : HEAD;
    relay->since = clock_seconds();
    return true;
}

// A chunk is written anew: libmicrohttpd sees no extensions, and nothing behind the last one.
static bool judge_chunks(struct relay *relay) {
    struct flow *up = &relay->up, *ready = &relay->ready;
    size_t room = flow_room(relay->server, ready), taken, found;
    if (room <= CHUNK_AROUND) return false;
    size_t size = flow_length(up) < room - CHUNK_AROUND ? flow_length(up) : room - CHUNK_AROUND;
    const char *bytes = up->bytes + up->begin;
    enum chunks_verdict verdict = chunks_read(&relay->chunks, bytes, size, &taken, &found);
    up->begin += taken;
    if (verdict == CHUNKS_BAD) {
        refuse(relay, 400, relay->chunks.why);
        return false;
    }
    if (verdict == CHUNKS_DATA) {
        ready->end += (size_t)snprintf(ready->bytes + ready->end, CHUNK_AROUND, "%zx\r\n", found);
        flow_add(ready, bytes + taken - found, found);
        flow_add(ready, "\r\n", 2);
    } else if (verdict == CHUNKS_END) {
        flow_add(ready, "0\r\n\r\n", 5);
        relay->part = HEAD;
        relay->since = clock_seconds();
    }
    return true;
}

static bool judge(struct relay *relay) {
    size_t size = flow_length(&relay->up);
    if (!size || relay->why || (relay->admitted && relay->inner < 0)) return false;
    if (relay->part == HEAD) return judge_head(relay);
    if (relay->part == CHUNKS) return judge_chunks(relay);
    if (relay->part == BLIND) return pass(relay, size);
    uint64_t before = size < relay->left ? size : relay->left;
    size_t begin = relay->up.begin;
    bool moved = pass(relay, (size_t)before);
    relay->left -= relay->up.begin - begin;
    if (!relay->left) relay->part = HEAD;
    return moved;
}

// ---------------------------------------------------------------------------------------------------------- leaving

// The last was said: libmicrohttpd's end is closed, the client's once it has read that.
static void leave(struct relay *relay) {
    close_inner(relay);
    if (relay->why) relay->server->refusing--;
    relay->up.begin = relay->up.end;
    relay->ready.begin = relay->ready.end;
    relay->stage = LEAVING;
    relay->since = clock_seconds();
}

static struct exchange *exchange_of(const struct relay *relay) {
    struct exchange *exchange = relay->server->first;
    while (exchange && exchange->link != relay->link) exchange = exchange->next;
    return exchange;
}

static void say(struct relay *relay, struct exchange *exchange) {
    struct buffer answer = {0};
    char id[REQUEST_ID_MOST];
    exchange_make_id(id);
    size_t body = door_write_refusal(&answer, relay->status, relay->why, exchange ? exchange->id : id);
    if (body && answer.length <= flow_room(relay->server, &relay->down))
        flow_add(&relay->down, answer.data, answer.length);
    buffer_free(&answer);
    if (exchange) {
        exchange->cut = true;
        exchange->status = relay->status;
        exchange->sent = body;
    } else {
        door_note(relay->server, &relay->address, id, relay->status, clock_seconds() - relay->since, body);
    }
    leave(relay);
}

// Says what was malformed as soon as everything before it is answered; a request whose body is malformed has no answer yet.
static void say_if_due(struct relay *relay) {
    struct exchange *exchange = relay->link ? exchange_of(relay) : NULL;
    bool in_body = relay->part == CHUNKS;
    uint64_t ended = relay->link ? relay->link->ended : 0;
    if (flow_length(&relay->down) || flow_length(&relay->ready)) return;
    if (relay->admitted && !relay->link) { // it was answered, and closed
        leave(relay);
    } else if (in_body && ended + 1 == relay->passed) {
        if (exchange && exchange->state == EXCHANGE_READING) say(relay, exchange);
    } else if (ended == relay->passed) {
        if (in_body)
            leave(relay);
        else
            say(relay, NULL);
    }
}

static void drop_bytes(struct relay *relay) {
    char nowhere[16 << 10];
    ssize_t got;
    while ((got = outer_read(relay, nowhere, sizeof nowhere)) > 0)
        if ((relay->dropped += (size_t)got) > DROPPED_MOST) break;
    if (got != AGAIN) end(relay);
}

// Everything was said: the client's socket is closed when it has read that.
static void part_from(struct relay *relay) {
    if (relay->stage != LEAVING) leave(relay);
    if (flow_length(&relay->down) || relay->sending) return;
    if (!relay->outer_told) {
        if (relay->session) gnutls_bye(relay->session, GNUTLS_SHUT_WR);
        shutdown(relay->outer, SHUT_WR);
        relay->outer_told = true;
        relay->since = clock_seconds();
    }
    drop_bytes(relay);
}

// ------------------------------------------------------------------------------------------------------------ turns

static void ask(struct relay *relay, bool inner, unsigned events) {
    unsigned *asked = inner ? &relay->inner_events : &relay->outer_events;
    struct epoll_event event = {.events = events, .data = {.ptr = tagged(relay, inner)}};
    int socket = inner ? relay->inner : relay->outer;
    if (socket < 0 || *asked == events) return;
    *asked = events;
    epoll_ctl(relay->server->epoll, EPOLL_CTL_MOD, socket, &event);
}

static bool has_room(const struct relay *relay, const struct flow *flow) {
    return !flow->bytes || flow_length(flow) < flow_size(relay->server);
}

static void ask_for_more(struct relay *relay, bool again) {
    bool reads =
        relay->stage == LEAVING || (!relay->outer_ended && !relay->why && has_room(relay, &relay->up));
    bool writes = flow_length(&relay->down) || relay->sending || again;
    if (relay->stage == SHAKING) {
        writes = gnutls_record_get_direction(relay->session) == 1;
        reads = !writes;
    }
    ask(relay, false, (reads ? EPOLLIN : 0u) | (writes ? EPOLLOUT : 0u));
    if (!relay->inner_hung)
        ask(relay, true,
            (has_room(relay, &relay->down) ? EPOLLIN : 0u) | (flow_length(&relay->ready) ? EPOLLOUT : 0u));
    flow_rest(&relay->up);
    flow_rest(&relay->ready);
    flow_rest(&relay->down);
}

// False: not yet, or it has failed.
static bool shake(struct relay *relay) {
    int done = gnutls_handshake(relay->session);
    if (done == GNUTLS_E_SUCCESS) {
        relay->stage = PASSING;
        return true;
    }
    if (!gnutls_error_is_fatal(done)) return false;
    log_debug(relay->server->log, "a TLS handshake failed: %s", gnutls_strerror(done));
    gnutls_alert_send_appropriate(relay->session, done);
    end(relay);
    return false;
}

static void turn(struct relay *relay) {
    int rounds = 0;
    bool moved = relay->stage != SHAKING || shake(relay);
    for (; moved && !relay->dead && rounds < ROUNDS_MOST; rounds++) {
        moved = false;
        if (relay->stage == PASSING) {
            moved = read_outer(relay);
            while (!relay->dead && judge(relay)) moved = true;
            if (!relay->dead) moved = write_inner(relay) || moved;
            if (!relay->dead) moved = read_inner(relay) || moved;
        }
        if (!relay->dead) moved = write_outer(relay) || moved;
    }
    if (relay->dead) return;
    if (relay->stage == PASSING) {
        // A client that ends its side has nothing more to ask: libmicrohttpd is told when it has all that came before.
        bool over = relay->outer_ended && !flow_length(&relay->ready) && !relay->why;
        if (over && !relay->admitted) {
            end(relay);
            return;
        }
        if (over && relay->inner >= 0 && !relay->inner_told) {
            shutdown(relay->inner, SHUT_WR);
            relay->inner_told = true;
        }
        if (relay->why) say_if_due(relay);
    }
    if (relay->stage == LEAVING || (relay->stage == PASSING && relay->admitted && relay->inner < 0)) {
        write_outer(relay);
        if (!relay->dead) part_from(relay);
    }
    if (!relay->dead) ask_for_more(relay, rounds == ROUNDS_MOST);
}

void relay_heard(struct relay *relay, bool inner, unsigned events) {
    if (relay->dead) return;
    if (inner && (events & (EPOLLHUP | EPOLLERR)) && relay->inner >= 0 && !relay->inner_hung) {
        // All that it has said is there to be read, when there is room: epoll would only repeat itself.
        epoll_ctl(relay->server->epoll, EPOLL_CTL_DEL, relay->inner, NULL);
        relay->inner_hung = true;
    }
    if (!inner && (events & EPOLLERR)) {
        end(relay);
        return;
    }
    turn(relay);
    // A client that is gone in both directions while nothing is read of it.
    if (!relay->dead && !inner && (events & EPOLLHUP) && !(relay->outer_events & EPOLLIN)) end(relay);
}

void relays_each_turn(struct server *server) {
    for (struct relay *relay = server->first_relay, *next; relay && server->refusing > 0; relay = next) {
        next = relay->next;
        if (relay->why && relay->stage == PASSING) turn(relay);
    }
    while (server->dead_relays) {
        struct relay *relay = server->dead_relays;
        server->dead_relays = relay->next;
        free(relay);
    }
}

static void look_at_time(struct relay *relay, double now) {
    struct server *server = relay->server;
    double passed = now - relay->since;
    bool in_head =
        relay->stage == SHAKING || !relay->admitted || (relay->part == HEAD && flow_length(&relay->up));
    if (relay->stage == LEAVING || (relay->admitted && relay->inner < 0)) {
        bool says = flow_length(&relay->down) > 0;
        if (passed >= (says ? server->limits.idle_seconds : LEAVE_SECONDS)) end(relay);
    } else if (in_head && !relay->why && passed >= server->limits.header_seconds) {
        server->counts.timeouts++;
        if (!flow_length(&relay->up)) {
            end(relay); // it has said nothing: nor is anything said to it
            return;
        }
        refuse(relay, 408, "the request's head did not come in time (limits.header_time)");
        turn(relay);
    }
}

void relays_each_second(struct server *server, double now) {
    for (struct relay *relay = server->first_relay, *next; relay; relay = next) {
        next = relay->next;
        look_at_time(relay, now);
    }
}

void relays_shut(struct server *server) {
    for (struct relay *relay = server->first_relay, *next; relay; relay = next) {
        next = relay->next;
        if (!relay->admitted) end(relay);
    }
}

void relays_close(struct server *server) {
    double deadline = clock_seconds() + LEAVE_SECONDS;
    for (struct relay *relay = server->first_relay, *next; relay; relay = next) {
        next = relay->next;
        turn(relay);
        while (!relay->dead && flow_length(&relay->down) && clock_seconds() < deadline) {
            struct pollfd wanted = {.fd = relay->outer, .events = POLLOUT};
            poll(&wanted, 1, 50);
            turn(relay);
        }
        end(relay);
    }
    relays_each_turn(server);
}
