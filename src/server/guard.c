// Who may ask. Without keys the server is for programs of this machine: a browser page, a rebound name or a proxy on this
// machine would carry strangers' requests, so a foreign Host or Origin, and a forwarding header, are refused. With keys, the
// key decides; pages may call where their origin is listed. Relies on exchange.h, store/key.h.
#include "base/clock.h"
#include "server/exchange.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// What proxies and content networks add to a request that they pass on.
static const char *const FORWARDING[] = {
    "Forwarded",           "Via",
    "X-Forwarded-For",     "X-Forwarded-Host",
    "X-Forwarded-Proto",   "X-Forwarded-Port",
    "X-Forwarded-Server",  "X-Forwarded-Prefix",
    "X-Real-IP",           "X-Client-IP",
    "X-Cluster-Client-IP", "CF-Connecting-IP",
    "True-Client-IP",      "Fly-Client-IP",
    "X-Original-Host",
};

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

static bool has_keys(const struct server *server) {
    return server->store && keys_any(store_keys(server->store));
}

// Whether this server does without keys for now.
bool guard_keyless(const struct server *server) {
    return !server->auth_required && !has_keys(server);
}

// Who is at the other end, through the proxies that are trusted.
static void find_client(struct exchange *exchange) {
    const struct server *server = exchange->server;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    struct address peer;
    address_of_socket(info ? info->client_addr : NULL, &peer);
    bool forwarded = false;
    for (size_t i = 0; i < sizeof FORWARDING / sizeof *FORWARDING; i++)
        forwarded = forwarded || exchange_header(exchange, FORWARDING[i]);
    exchange->client = address_of_client(&peer, exchange_header(exchange, "X-Forwarded-For"), server->proxies,
                                         server->proxy_count);
    exchange->local = !forwarded && address_is_loopback(&peer);
    exchange->secure = server->tls != NULL;
    if (!network_has(server->proxies, server->proxy_count, &peer)) return;
    const char *scheme = exchange_header(exchange, "X-Forwarded-Proto"),
               *host = exchange_header(exchange, "X-Forwarded-Host");
    if (scheme) exchange->secure = !strcasecmp(scheme, "https");
    if (host && is_host(host))
        snprintf(exchange->forwarded_host, sizeof exchange->forwarded_host, "%s", host);
}

static bool check_origin(struct exchange *exchange, const char *host, bool keyless) {
    const struct server *server = exchange->server;
    const char *origin = exchange_header(exchange, "Origin");
    if (!origin) return true;
    if (is_listed(server, origin)) {
        if (strlen(origin) < sizeof exchange->origin)
            snprintf(exchange->origin, sizeof exchange->origin, "%s", origin);
        return true;
    }
    if (!keyless) return true; // a page has no key that its user did not give it; nothing is told to others
    const char *at = strstr(origin, "://");
    const char *name = at ? at + 3 : "";
    // The page's own server, port and all: another port of this machine may show anybody's page.
    bool own = host && at && (exchange->secure ? at - origin == 5 : at - origin == 4) &&
               !strncasecmp(origin, "https", (size_t)(at - origin)) && !strcasecmp(host, name);
    return own || api_error_set(&exchange->error, API_KEY_NOT_ALLOWED, "",
                                "Origin: pages of this site may not call; start the server with "
                                "--allow-origin to let them");
}

bool guard_check(struct exchange *exchange) {
    const struct server *server = exchange->server;
    const char *host = exchange_header(exchange, "Host");
    bool keyless = guard_keyless(server);
    find_client(exchange);
    if (host && !is_host(host))
        return api_error_set(&exchange->error, API_INVALID_REQUEST, "", "Host: malformed");
    if (keyless && server->loopback) {
        if (host && !is_loopback(host)) return refuse(exchange, "Host: not this machine's own name");
        for (size_t i = 0; i < sizeof FORWARDING / sizeof *FORWARDING; i++)
            if (exchange_header(exchange, FORWARDING[i])) return refuse(exchange, FORWARDING[i]);
    }
    return check_origin(exchange, host, keyless);
}

// ------------------------------------------------------------------------------------------------------------- keys

// The token of "Authorization: Bearer <token>"; NULL: none.
static const char *bearer(const struct exchange *exchange) {
    const char *header = exchange_header(exchange, "Authorization");
    if (!header || strncasecmp(header, "Bearer", 6) || !isspace((unsigned char)header[6])) return NULL;
    header += 6 + strspn(header + 6, " \t");
    return *header ? header : NULL;
}

static bool find_key(struct exchange *exchange) {
    struct principal *principal = &exchange->principal;
    struct server *server = exchange->server;
    const char *token = bearer(exchange);
    if (!token)
        return api_error_set(
            &exchange->error, API_AUTHENTICATION_FAILED, "",
            "no API key was sent: expected the header \"Authorization: Bearer limn_...\"; the owner "
            "of the server makes keys with `limn key create`");
    enum key_verdict verdict =
        server->store ? keys_check(store_keys(server->store), token, clock_unix_micros(), &principal->key)
                      : KEY_UNKNOWN;
    if (verdict == KEY_EXPIRED || verdict == KEY_OK)
        snprintf(principal->project, sizeof principal->project, "%s", principal->key.project);
    if (verdict == KEY_EXPIRED)
        return api_error_set(&exchange->error, API_EXPIRED_KEY, "", "the API key %s has expired",
                             principal->key.id);
    if (verdict != KEY_OK) {
        memset(&principal->key, 0,
               sizeof principal->key); // a revoked one is told from an unknown one by nobody
        return api_error_set(&exchange->error, API_AUTHENTICATION_FAILED, "", "the API key is not valid");
    }
    snprintf(principal->name, sizeof principal->name, "%s", principal->key.id);
    return true;
}

static bool is_project_name(const char *name) {
    size_t length = strlen(name);
    return length > 0 && length < KEY_PROJECT_MOST &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == length;
}

// OpenAI's clients name a project in a header.
static bool take_project(struct exchange *exchange) {
    struct principal *principal = &exchange->principal;
    const char *wanted = exchange_header(exchange, "OpenAI-Project");
    if (!wanted || !*wanted) return true;
    if (!is_project_name(wanted))
        return api_error_set(&exchange->error, API_INVALID_REQUEST, "",
                             "OpenAI-Project: expected 1 to %d letters, digits, dots, dashes and underscores",
                             KEY_PROJECT_MOST - 1);
    if (!principal->keyless && strcmp(wanted, principal->project) &&
        !key_allows_project(&principal->key, wanted))
        return api_error_set(&exchange->error, API_KEY_NOT_ALLOWED, "",
                             "the API key %s may not be used for the project %s", principal->key.id, wanted);
    snprintf(principal->project, sizeof principal->project, "%s", wanted);
    return exchange->project_named = true;
}

static bool take_rate(struct exchange *exchange) {
    struct principal *principal = &exchange->principal;
    struct server *server = exchange->server;
    double wait = 0, now = clock_seconds();
    bool there = true;
    if (!principal->keyless)
        there = keys_take_request(store_keys(server->store), principal->key.id, now, &wait);
    else if (server->addresses && principal->key.requests_per_minute > 0)
        there = rate_take(server->addresses, principal->client, (double)principal->key.requests_per_minute,
                          now, &wait);
    if (there) return true;
    exchange->error.retry_after = wait > 0.001 ? wait : 0.001;
    return api_error_set(&exchange->error, API_RATE_LIMITED, "", "%s: at most %lld requests a minute",
                         principal->keyless ? "calls without a key" : principal->key.id,
                         (long long)principal->key.requests_per_minute);
}

bool guard_admit(struct exchange *exchange) {
    struct principal *principal = &exchange->principal;
    const struct server *server = exchange->server;
    enum access access = exchange->route->access;
    address_write(&exchange->client, principal->client);
    if (access == ACCESS_OPEN || (access == ACCESS_METRICS && (server->metrics_open || exchange->local)))
        return true;
    principal->keyless = guard_keyless(server);
    if (principal->keyless) {
        principal->key.requests_per_minute = server->keyless_per_minute;
        snprintf(principal->project, sizeof principal->project, "default");
        snprintf(principal->name, sizeof principal->name, "address:%s", principal->client);
    } else if (!find_key(exchange)) {
        return false;
    }
    // Without keys, who sits at this machine is its owner; with --insecure-no-auth others come, too.
    bool admin = principal->keyless ? exchange->local : principal->key.admin;
    if ((access == ACCESS_ADMIN || access == ACCESS_METRICS) && !admin)
        return api_error_set(&exchange->error, API_KEY_NOT_ALLOWED, "",
                             principal->keyless ? "%s is for programs of the server's own machine"
                                                : "%s needs an admin key (limn key create --admin)",
                             exchange->path);
    return take_project(exchange) && (exchange->route->upload == UPLOAD_NONE || take_rate(exchange));
}

void exchange_base_url(struct exchange *exchange, char *url, size_t size) {
    const char *host =
        *exchange->forwarded_host ? exchange->forwarded_host : exchange_header(exchange, "Host");
    if (exchange->server->public_url)
        snprintf(url, size, "%s", exchange->server->public_url);
    else if (host)
        snprintf(url, size, "%s://%s", exchange->secure ? "https" : "http", host); // checked above
    else
        snprintf(url, size, "%s", exchange->server->url);
}
