// Connections whose bytes limn reads before libmicrohttpd does. Relies on exchange.h, head.h, chunks.h, tls.h.
//
// DESIGN. libmicrohttpd answers what it finds malformed itself, with HTML and without an id, and offers no way to change that.
// So it must never see such bytes. The head of a plain connection's request is looked at in the socket (door.c, loop.c), which
// costs next to nothing; but bytes that are encrypted, in chunks or behind another request can only be read once. Such a
// connection goes through a relay: libmicrohttpd gets one end of a pair of sockets, the relay holds the other and the client's
// socket. It passes heads on when they are whole and good, bodies as they come and chunks written anew; what is malformed it
// answers itself, after the answers to what came before. A plain connection is put behind a relay at the first request that needs it and stays there.
#ifndef LIMN_SERVER_RELAY_H
#define LIMN_SERVER_RELAY_H

#include "server/exchange.h"

struct relay;

// Takes a client's socket over, whose connection is counted at its address. With the server's TLS the client is to begin
// that. False: no memory or no more sockets; the socket is still the caller's.
bool relay_open(struct server *server, int socket, const struct address *address,
                const struct sockaddr_storage *name, socklen_t name_length);
// Puts an idle plain connection, of which libmicrohttpd has read nothing but whole requests, behind a relay. False: as it was.
bool relay_insert(struct server *server, struct link *link);

// What epoll says of one of the two sockets.
void relay_heard(struct relay *relay, bool inner, unsigned events);
// A connection that libmicrohttpd has begun, which may have a relay in front of it, and one with a relay that it has ended.
void relay_link_began(struct server *server, struct link *link);
void relay_link_ended(struct server *server, struct link *link);

void relays_each_turn(struct server *server); // after libmicrohttpd has run
void relays_each_second(struct server *server, double now);
void relays_shut(struct server *server);  // those that nothing was passed on of end
void relays_close(struct server *server); // all; those with an answer on its way get a moment for it

#endif
