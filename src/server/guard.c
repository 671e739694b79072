// Who may ask. Without keys the server is for programs of this machine: a browser page, a rebound name or a proxy on this
// machine would carry strangers' requests, so a foreign Host or Origin, and a forwarding header, are refused. Relies on
// exchange.h.
#include "server/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *header(struct exchange *exchange, const char *name) {
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

// Whether "host" or "host:port" or "[v6]:port" names this machine's loopback.
static bool is_loopback(const char *host) {
    char name[TARGET_MOST];
    size_t length = *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    if (length >= sizeof name) return false;
    snprintf(name, sizeof name, "%.*s", (int)length, host);
    if (!strcasecmp(name, "localhost") || !strcmp(name, "[::1]")) return true;
    int parts[4], end = 0;
    return sscanf(name, "%3d.%3d.%3d.%3d%n", &parts[0], &parts[1], &parts[2], &parts[3], &end) == 4 &&
           name[end] == 0 && parts[0] == 127;
}

// Letters that a host with a port is made of: what goes into the URLs of answers is nothing else.
static bool is_host(const char *host) {
    return *host && strlen(host) < 200 &&
           strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]") ==
               strlen(host);
}

static bool refuse(struct exchange *exchange, const char *what) {
    return api_error_set(&exchange->error, API_KEY_NOT_ALLOWED, "",
                         "%s: without keys this server answers programs of its own machine only", what);
}

static bool is_listed(const struct server *server, const char *origin) {
    for (int i = 0; i < server->origin_count; i++)
        if (!strcmp(server->origins[i], "*") || !strcasecmp(server->origins[i], origin)) return true;
    return false;
}

bool guard_check(struct exchange *exchange) {
    const struct server *server = exchange->server;
    const char *host = header(exchange, "Host"), *origin = header(exchange, "Origin");
    if (host && !is_host(host))
        return api_error_set(&exchange->error, API_INVALID_REQUEST, "", "Host: malformed");
    if (server->loopback_only) {
        static const char *const forwarding[] = {"Forwarded", "X-Forwarded-For", "X-Forwarded-Host",
                                                 "X-Real-IP"};
        if (host && !is_loopback(host)) return refuse(exchange, "Host: not this machine's own name");
        for (size_t i = 0; i < sizeof forwarding / sizeof *forwarding; i++)
            if (header(exchange, forwarding[i])) return refuse(exchange, forwarding[i]);
    }
    if (!origin) return true;
    if (is_listed(server, origin)) {
        if (strlen(origin) < sizeof exchange->origin)
            snprintf(exchange->origin, sizeof exchange->origin, "%s", origin);
        return true;
    }
    const char *at = strstr(origin, "://");
    const char *name = at ? at + 3 : "";
    bool own = (host && !strcasecmp(host, name)) || (server->loopback_only && is_loopback(name));
    if (own) return true;
    return api_error_set(
        &exchange->error, API_KEY_NOT_ALLOWED, "",
        "Origin: pages of this site may not call; start the server with --allow-origin to let them");
}

void exchange_base_url(struct exchange *exchange, char *url, size_t size) {
    const char *host = header(exchange, "Host");
    if (exchange->server->public_url)
        snprintf(url, size, "%s", exchange->server->public_url);
    else if (host)
        snprintf(url, size, "http://%s", host); // checked above
    else
        snprintf(url, size, "%s", exchange->server->url);
}
