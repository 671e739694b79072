// Addresses: who a client is, seen through the proxies that the owner trusts. Relies on base.
#ifndef LIMN_SERVER_ADDRESS_H
#define LIMN_SERVER_ADDRESS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define ADDRESS_TEXT_MOST 46 // with the 0 byte
#define NETWORKS_MOST     32

// An IPv4 address is kept as ::ffff:a.b.c.d.
struct address {
    uint8_t bytes[16];
};

// "192.0.2.7", "2001:db8::7", "[2001:db8::7]", each with or without ":port" ("192.0.2.7:80").
bool address_read(const char *text, struct address *address);
bool address_of_socket(const struct sockaddr *from, struct address *address); // false: neither IPv4 nor IPv6
void address_write(const struct address *address, char text[ADDRESS_TEXT_MOST]);
bool address_is_loopback(const struct address *address);

// Addresses that share their first [bits] bits (of 128).
struct network {
    struct address address;
    int bits;
};

// "10.0.0.0/8", "2001:db8::/32", or one address. The error says what was expected.
bool network_read(const char *text, struct network *network, struct error *error);
bool network_has(const struct network *networks, int count, const struct address *address);

// The client behind trusted proxies: [peer] is whom the socket is connected with, [forwarded_for] the X-Forwarded-For header
// (NULL: none). From the right, addresses of trusted proxies are passed over; the first other one is the client. What is not
// an address ends the search: the last good one stands.
struct address address_of_client(const struct address *peer, const char *forwarded_for,
                                 const struct network *trusted, int count);

#endif
