// See fetch.h.
#include "gateway/fetch.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECTIONS_MOST 16L
#define CONNECT_SECONDS  10.0

struct transfer {
    struct transfer *next;
    struct fetch *fetch;
    CURL *curl;
    char *url, *path;
    int file;
    int64_t bytes;
    bool refused;    // an address that is not public
    bool wrong_port; // one that no web site has
    struct error error;
    fetch_done *done;
    void *context;
};

struct fetch {
    struct fetch_options options;
    char *authorities;
    CURLM *multi;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    struct transfer *incoming; // guarded by lock
    bool stopping;             // likewise
    struct transfer *running;  // the thread's
};

// --------------------------------------------------------------------------------------------------------- addresses

// Ranges that are not globally reachable: the IANA registry of special-purpose IPv4 addresses, and multicast.
static bool is_public_v4(uint32_t address) {
    static const struct {
        uint32_t net;
        int bits;
    } special[] = {{0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},  {0xa9fe0000, 16},
                   {0xac100000, 12}, {0xc0000000, 24}, {0xc0000200, 24}, {0xc0586300, 24}, {0xc0a80000, 16},
                   {0xc6120000, 15}, {0xc6336400, 24}, {0xcb007100, 24}, {0xe0000000, 4},  {0xf0000000, 4}};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        if ((address ^ special[i].net) >> (32 - special[i].bits) == 0) return false;
    return true;
}

static uint32_t four_bytes(const uint8_t *from) {
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static bool is_public_v6(const uint8_t address[16]) {
    static const uint8_t mapped[12] = {[10] = 0xff, 0xff}, nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    if (!memcmp(address, mapped, 12) || !memcmp(address, nat64, 12))
        return is_public_v4(four_bytes(address + 12));
    if (address[0] >> 5 != 1) return false; // global unicast is 2000::/3
    uint32_t head = four_bytes(address);
    if (head >> 9 == 0x20010000u >> 9) return false; // 2001::/23: Teredo, benchmarks, ORCHID, ...
    if (head == 0x20010db8u) return false;           // documentation
    if (head >> 16 == 0x2002u) return false;         // 6to4
    return head >> 12 != 0x3fff0000u >> 12;          // documentation
}

bool fetch_is_public(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return is_public_v4(ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr));
    if (address->sa_family == AF_INET6)
        return is_public_v6(((const struct sockaddr_in6 *)(const void *)address)->sin6_addr.s6_addr);
    return false;
}

// ---------------------------------------------------------------------------------------------------------- transfers

// Other ports belong to other services, which a URL is not to reach.
static bool is_web_port(const struct sockaddr *address) {
    in_port_t port = address->sa_family == AF_INET
                         ? ((const struct sockaddr_in *)(const void *)address)->sin_port
                         : ((const struct sockaddr_in6 *)(const void *)address)->sin6_port;
    return ntohs(port) == 443 || ntohs(port) == 8443;
}

static curl_socket_t on_socket(void *context, curlsocktype purpose, struct curl_sockaddr *address) {
    struct transfer *transfer = context;
    const struct fetch_options *options = &transfer->fetch->options;
    bool port = options->may_connect != fetch_is_public || is_web_port(&address->addr);
    if (purpose != CURLSOCKTYPE_IPCXN || !port || !options->may_connect(&address->addr)) {
        transfer->wrong_port = !port;
        transfer->refused = port;
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static size_t on_data(char *data, size_t one, size_t size, void *context) {
    struct transfer *transfer = context;
    transfer->bytes += (int64_t)size;
    if (transfer->bytes > transfer->fetch->options.bytes_most) {
        error_set(&transfer->error, ERROR_INPUT, "the URL gives more than %lld bytes, expected at most that",
                  (long long)transfer->fetch->options.bytes_most);
        return 0;
    }
    for (size_t at = 0; at < size;) {
        ssize_t written = write(transfer->file, data + at, size - at);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) {
            error_set(&transfer->error, ERROR_IO, "the picture cannot be stored: %s", strerror(errno));
            return 0;
        }
        at += (size_t)written;
    }
    return size;
}

static void free_transfer(struct transfer *transfer) {
    if (!transfer) return;
    if (transfer->file >= 0) close(transfer->file);
    curl_easy_cleanup(transfer->curl);
    free(transfer->url);
    free(transfer->path);
    free(transfer);
}

// Ends a transfer that is in no list.
static void end(struct transfer *transfer) {
    if (transfer->file >= 0 && close(transfer->file) != 0)
        error_set(&transfer->error, ERROR_IO, "the picture cannot be stored: %s", strerror(errno));
    if (transfer->file >= 0 && transfer->error.kind != ERROR_NONE) unlink(transfer->path);
    transfer->file = -1;
    transfer->done(transfer->context, transfer->path, &transfer->error);
    free_transfer(transfer);
}

static void explain(struct transfer *transfer, CURLcode result) {
    struct error *error = &transfer->error;
    const struct fetch_options *options = &transfer->fetch->options;
    long status = 0;
    curl_easy_getinfo(transfer->curl, CURLINFO_RESPONSE_CODE, &status);
    if (error->kind != ERROR_NONE) return; // on_data said it
    if (transfer->refused)
        error_set(error, ERROR_INPUT, "the URL leads to an address that is not public");
    else if (transfer->wrong_port)
        error_set(error, ERROR_INPUT, "the URL leads to a port other than 443 and 8443");
    else if (result == CURLE_LOGIN_DENIED)
        error_set(error, ERROR_INPUT, "the URL leads to one with a user name");
    else if (result == CURLE_OPERATION_TIMEDOUT)
        error_set(error, ERROR_INPUT, "the URL did not answer in full within %g seconds", options->seconds);
    else if (result == CURLE_TOO_MANY_REDIRECTS)
        error_set(error, ERROR_INPUT, "the URL redirects more than %d times", options->redirects_most);
    else if (result == CURLE_UNSUPPORTED_PROTOCOL)
        error_set(error, ERROR_INPUT, "the URL leads to something else than https");
    else if (result == CURLE_FILESIZE_EXCEEDED)
        error_set(error, ERROR_INPUT, "the URL gives more than %lld bytes", (long long)options->bytes_most);
    else if (result == CURLE_OUT_OF_MEMORY)
        error_set(error, ERROR_MEMORY, "no memory to fetch a picture");
    else if (result != CURLE_OK)
        error_set(error, ERROR_INPUT, "the URL cannot be fetched: %s", curl_easy_strerror(result));
    else if (status != 200)
        error_set(error, ERROR_INPUT, "the URL answers with status %ld, expected 200", status);
}

static void open_file(struct transfer *transfer) {
    transfer->file = open(transfer->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (transfer->file < 0)
        error_set(&transfer->error, ERROR_IO, "the picture cannot be stored: %s", strerror(errno));
}

static bool set_up(struct transfer *transfer) {
    const struct fetch *fetch = transfer->fetch;
    const struct fetch_options *options = &fetch->options;
    CURL *curl = transfer->curl;
    double connect = fmin(options->seconds, CONNECT_SECONDS);
    bool good =
        curl_easy_setopt(curl, CURLOPT_URL, transfer->url) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_PRIVATE, transfer) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https") == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "https") == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)options->redirects_most) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_PROXY, "") == CURLE_OK && // whatever the environment says
        curl_easy_setopt(curl, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L) == CURLE_OK && // also behind a redirect
        curl_easy_setopt(curl, CURLOPT_OPENSOCKETFUNCTION, on_socket) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_OPENSOCKETDATA, transfer) == CURLE_OK &&
        // A kept connection would have been judged for another transfer.
        curl_easy_setopt(curl, CURLOPT_FRESH_CONNECT, 1L) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_FORBID_REUSE, 1L) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_WRITEDATA, transfer) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)options->bytes_most) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)(options->seconds * 1000)) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)(connect * 1000)) == CURLE_OK &&
        curl_easy_setopt(curl, CURLOPT_USERAGENT, "limn/" LIMN_VERSION) == CURLE_OK;
    if (good && fetch->authorities)
        good = curl_easy_setopt(curl, CURLOPT_CAINFO, fetch->authorities) == CURLE_OK;
    return good;
}

// ---------------------------------------------------------------------------------------------------------- the thread

static void begin(struct fetch *fetch, struct transfer *transfer) {
    open_file(transfer);
    if (transfer->error.kind == ERROR_NONE && curl_multi_add_handle(fetch->multi, transfer->curl) != CURLM_OK)
        error_set(&transfer->error, ERROR_MEMORY, "no memory to fetch a picture");
    if (transfer->error.kind != ERROR_NONE) {
        end(transfer);
        return;
    }
    transfer->next = fetch->running;
    fetch->running = transfer;
}

static void take_out(struct fetch *fetch, struct transfer *transfer) {
    struct transfer **link = &fetch->running;
    while (*link != transfer) link = &(*link)->next;
    *link = transfer->next;
    curl_multi_remove_handle(fetch->multi, transfer->curl);
}

static void collect(struct fetch *fetch) {
    int left;
    for (CURLMsg *message; (message = curl_multi_info_read(fetch->multi, &left));) {
        if (message->msg != CURLMSG_DONE) continue;
        struct transfer *transfer;
        CURLcode result = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&transfer);
        take_out(fetch, transfer);
        explain(transfer, result);
        end(transfer);
    }
}

static void cancel(struct transfer *transfer) {
    error_set(&transfer->error, ERROR_CANCELLED, "the server is being stopped");
    end(transfer);
}

static void *run(void *context) {
    struct fetch *fetch = context;
    bool stopping = false;
    while (!stopping) {
        pthread_mutex_lock(&fetch->lock);
        struct transfer *incoming = fetch->incoming;
        fetch->incoming = NULL;
        stopping = fetch->stopping;
        pthread_mutex_unlock(&fetch->lock);
        while (incoming) {
            struct transfer *transfer = incoming;
            incoming = transfer->next;
            if (stopping)
                cancel(transfer);
            else
                begin(fetch, transfer);
        }
        int running;
        if (!stopping) {
            curl_multi_perform(fetch->multi, &running);
            collect(fetch);
            curl_multi_poll(fetch->multi, NULL, 0, 1000, NULL);
        }
    }
    while (fetch->running) {
        struct transfer *transfer = fetch->running;
        take_out(fetch, transfer);
        cancel(transfer);
    }
    return NULL;
}

// ------------------------------------------------------------------------------------------------------ from outside

// A user name in a URL is a way to make it look like another.
static bool check_url(const char *url, struct error *error) {
    CURLU *parts = curl_url();
    char *user = NULL, *password = NULL, *scheme = NULL;
    bool good = parts && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK &&
                curl_url_get(parts, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK && !strcmp(scheme, "https");
    bool named = good && (curl_url_get(parts, CURLUPART_USER, &user, 0) == CURLUE_OK ||
                          curl_url_get(parts, CURLUPART_PASSWORD, &password, 0) == CURLUE_OK);
    curl_free(user);
    curl_free(password);
    curl_free(scheme);
    curl_url_cleanup(parts);
    if (!good) return error_set(error, ERROR_INPUT, "expected an https URL");
    return !named || error_set(error, ERROR_INPUT, "expected an https URL without a user name");
}

bool fetch_start(struct fetch *fetch, const char *url, const char *path, fetch_done *done, void *context,
                 struct error *error) {
    if (!check_url(url, error)) return false;
    struct transfer *transfer = calloc(1, sizeof *transfer);
    bool good = transfer != NULL;
    if (good) {
        *transfer = (struct transfer){.fetch = fetch, .file = -1, .done = done, .context = context};
        transfer->url = strdup(url);
        transfer->path = strdup(path);
        transfer->curl = curl_easy_init();
        good = transfer->url && transfer->path && transfer->curl && set_up(transfer);
    }
    if (!good) {
        free_transfer(transfer);
        return error_set(error, ERROR_MEMORY, "no memory to fetch a picture");
    }
    pthread_mutex_lock(&fetch->lock);
    good = !fetch->stopping;
    if (good) {
        transfer->next = fetch->incoming;
        fetch->incoming = transfer;
    }
    pthread_mutex_unlock(&fetch->lock);
    if (!good) {
        free_transfer(transfer);
        return error_set(error, ERROR_CANCELLED, "the server is being stopped");
    }
    curl_multi_wakeup(fetch->multi);
    return true;
}

struct fetch *fetch_open(const struct fetch_options *options, struct error *error) {
    struct fetch *fetch = calloc(1, sizeof *fetch);
    if (!fetch || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(fetch);
        error_set(error, ERROR_MEMORY, "no memory to fetch pictures");
        return NULL;
    }
    pthread_mutex_init(&fetch->lock, NULL);
    fetch->options = *options;
    if (!fetch->options.may_connect) fetch->options.may_connect = fetch_is_public;
    fetch->authorities = options->authorities ? strdup(options->authorities) : NULL;
    fetch->multi = curl_multi_init();
    bool good = fetch->multi && (!options->authorities || fetch->authorities);
    if (good) curl_multi_setopt(fetch->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, CONNECTIONS_MOST);
    fetch->started = good && pthread_create(&fetch->thread, NULL, run, fetch) == 0;
    if (fetch->started) return fetch;
    error_set(error, ERROR_MEMORY, "pictures cannot be fetched: no memory or no thread");
    fetch_close(fetch);
    return NULL;
}

void fetch_close(struct fetch *fetch) {
    if (!fetch) return;
    if (fetch->started) {
        pthread_mutex_lock(&fetch->lock);
        fetch->stopping = true;
        pthread_mutex_unlock(&fetch->lock);
        curl_multi_wakeup(fetch->multi);
        pthread_join(fetch->thread, NULL);
    }
    curl_multi_cleanup(fetch->multi);
    pthread_mutex_destroy(&fetch->lock);
    free(fetch->authorities);
    free(fetch);
    curl_global_cleanup();
}
