// Pictures behind https URLs, fetched into files: only from public addresses, with limits. Relies on base, libcurl.
//
// DESIGN. One thread runs all transfers. Only https is spoken, also after a redirect. The address is judged when the socket is
// about to be opened, of what the name was resolved to for that very connection: a name that resolves to something else the
// second time, or a redirect, is judged like the first; where fetch_is_public judges, so is the port: 443 or 8443. Proxies of the environment, cookies and passwords are not used.
#ifndef LIMN_GATEWAY_FETCH_H
#define LIMN_GATEWAY_FETCH_H

#include "base/error.h"

#include <stdint.h>
#include <sys/socket.h>

struct fetch;

struct fetch_options {
    int64_t bytes_most; // of a file
    double seconds;     // for a whole transfer, redirects included
    int redirects_most;
    bool (*may_connect)(const struct sockaddr *address); // NULL: fetch_is_public
    const char *authorities;                             // PEM file of those to trust; NULL: the system's
};

// Whether the address is one of the public Internet: not private, loopback, link-local, shared, reserved, documentation or
// multicast; IPv4 inside IPv6 (mapped, NAT64) is judged as IPv4; tunnels (6to4, Teredo) are refused.
bool fetch_is_public(const struct sockaddr *address);

struct fetch *fetch_open(const struct fetch_options *options, struct error *error);
// Transfers in work end with ERROR_CANCELLED before this returns. NULL is fine.
void fetch_close(struct fetch *fetch);

// Called on the fetcher's thread, once a transfer. [error]: ERROR_NONE, the file [path] is whole; else there is none:
// ERROR_INPUT (the URL, the address, what came), ERROR_IO (the file), ERROR_MEMORY, ERROR_CANCELLED.
typedef void fetch_done(void *context, const char *path, const struct error *error);

// Fetches [url] into the new file [path]. False with an error: [done] will not be called.
bool fetch_start(struct fetch *fetch, const char *url, const char *path, fetch_done *done, void *context,
                 struct error *error);

#endif
