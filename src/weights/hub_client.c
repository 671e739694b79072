// See hub_client.h.
#include "weights/hub_client.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { INFO_BYTES_MOST = 32 << 20, PAGE_BYTES_MOST = 32 << 20, PAGES_MOST = 200, CONNECT_SECONDS = 20 };

void hub_client_init(struct hub_client *client, const struct hub_place *place) {
    *client = (struct hub_client){.place = place, .stall_seconds = 30, .retries = 6};
}

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for a request");
}

// ------------------------------------------------------------------------------------------------------ what all share

bool hub_client_prepare(const struct hub_client *client, CURL *curl, const char *url,
                        struct curl_slist **lines, char *details) {
    const struct hub_place *place = client->place;
    if (place->token && hub_same_origin(url, place->endpoint)) {
        char *line = NULL;
        struct curl_slist *longer = NULL;
        if (asprintf(&line, "Authorization: Bearer %s", place->token) < 0) return false;
        longer = curl_slist_append(*lines, line);
        free(line);
        if (!longer) return false;
        *lines = longer;
    }
    long stall = client->stall_seconds < 1 ? 1 : (long)client->stall_seconds;
    *details = 0;
    return curl_easy_setopt(curl, CURLOPT_URL, url) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_HTTPHEADER, *lines) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, details) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           // One connection a file: several streams on one would share its window.
           curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT,
                            stall < CONNECT_SECONDS ? stall : CONNECT_SECONDS) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, stall) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_USERAGENT, "limn/" LIMN_VERSION) == CURLE_OK &&
           (!place->authorities || curl_easy_setopt(curl, CURLOPT_CAINFO, place->authorities) == CURLE_OK);
}

bool hub_may_retry(CURLcode result, long status, bool home) {
    switch (result) {
    case CURLE_OK:
        return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 ||
               status == 504 || (!home && (status == 401 || status == 403 || status == 404 || status == 410));
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_WEIRD_SERVER_REPLY:
        return true;
    default:
        return false;
    }
}

double hub_retry_seconds(int attempt, double retry_after) {
    uint16_t random = 0;
    double seconds = 0.5 * (double)(1 << (attempt > 7 ? 6 : attempt - 1));
    if (seconds > 30) seconds = 30;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random) random = 1 << 15;
    seconds *= 2.0 / 3 + random / 65536.0 / 3;
    if (retry_after > seconds) seconds = retry_after;
    return seconds > 300 ? 300 : seconds;
}

static bool is_cancelled(const struct hub_client *client) {
    return client->cancelled && client->cancelled(client->user);
}

bool hub_client_wait(const struct hub_client *client, double seconds) {
    double end = clock_seconds() + seconds;
    while (!is_cancelled(client)) {
        double left = end - clock_seconds();
        if (left <= 0) return true;
        if (left > 0.1) left = 0.1;
        struct timespec time = {0, (long)(left * 1e9)};
        nanosleep(&time, NULL);
    }
    return false;
}

// ----------------------------------------------------------------------------------------------------- what a failure is

// "https://cdn.example.org" of a URL, for messages: paths of CDNs are long and carry signatures.
static void origin_of(const char *url, char *origin, size_t size) {
    const char *host = strstr(url, "://"), *end = host ? strchr(host + 3, '/') : NULL;
    snprintf(origin, size, "%.*s", (int)(end ? (size_t)(end - url) : strcspn(url, "?")), url);
}

static bool explain_connection(const char *url, CURLcode result, const char *details, struct error *error) {
    char origin[200];
    const char *words = *details ? details : curl_easy_strerror(result);
    origin_of(url, origin, sizeof origin);
    switch (result) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return error_set(error, ERROR_UNAVAILABLE, "%s: the name is not found; is this machine online?",
                         origin);
    case CURLE_COULDNT_CONNECT:
        return error_set(error, ERROR_UNAVAILABLE, "%s: no connection (%.200s)", origin, words);
    case CURLE_OPERATION_TIMEDOUT:
        return error_set(error, ERROR_UNAVAILABLE, "%s: no answer in time (%.200s)", origin, words);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return error_set(error, ERROR_UNAVAILABLE,
                         "%s: its certificate is not trusted (%.150s); SSL_CERT_FILE names a file of other "
                         "authorities",
                         origin, words);
    case CURLE_OUT_OF_MEMORY:
        return no_memory(error);
    case CURLE_ABORTED_BY_CALLBACK:
        return error_set(error, ERROR_CANCELLED, "interrupted");
    default:
        return error_set(error, ERROR_UNAVAILABLE, "%s: the connection failed (%.200s)", origin, words);
    }
}

static bool explain_refusal(const struct hub_client *client, const char *name, long status,
                            const struct hub_headers *headers, struct error *error) {
    const struct hub_place *place = client->place;
    if (status == 401 && !place->token)
        return error_set(
            error, ERROR_INPUT,
            "%s: its hub wants to know who asks (it is gated, private or does not exist). Make a "
            "token at %s/settings/tokens and put it into HF_TOKEN or %s; for a gated model also "
            "accept the licence at %s/%s",
            name, place->endpoint, place->token_file, place->endpoint, name);
    if (status == 401)
        return error_set(error, ERROR_INPUT,
                         "%s: %s does not accept the token of %s. Make a new one at %s/settings/tokens", name,
                         place->endpoint, place->token_given ? "HF_TOKEN" : place->token_file,
                         place->endpoint);
    const char *words = *headers->error_message ? headers->error_message : "no reason given";
    return error_set(
        error, ERROR_INPUT,
        "%s: the hub refuses its files to the account of your token (%.160s). Accept the licence "
        "at %s/%s with that account, and let the token read gated repositories; then run this "
        "again",
        name, words, place->endpoint, name);
}

bool hub_explain(const struct hub_client *client, const char *url, const char *name, const char *what,
                 CURLcode result, long status, const struct hub_headers *headers, const char *details,
                 struct error *error) {
    char origin[200];
    if (result != CURLE_OK) return explain_connection(url, result, details, error);
    origin_of(url, origin, sizeof origin);
    bool home = hub_same_origin(url, client->place->endpoint);
    if (name && home && (status == 401 || status == 403))
        return explain_refusal(client, name, status, headers, error);
    if (status == 404 && name && !strcmp(headers->error_code, "RepoNotFound"))
        return error_set(error, ERROR_NOT_FOUND, "%s: %s has no such repository", name, origin);
    if (status == 404 && name && !strcmp(headers->error_code, "RevisionNotFound"))
        return error_set(error, ERROR_NOT_FOUND, "%s: it has no such revision: %s", name, what);
    if (status == 404 || status == 410)
        return error_set(error, ERROR_NOT_FOUND, "%s%s%s: %s does not have it", name ? name : "",
                         name ? ": " : "", what, origin);
    if (status == 429)
        return error_set(error, ERROR_UNAVAILABLE,
                         "%s: too many requests from here; wait some minutes%s, then run this again", origin,
                         client->place->token ? "" : " (with a token in HF_TOKEN more are allowed)");
    return error_set(error, ERROR_UNAVAILABLE,
                     "%s: it answers with status %ld to the request for %s%s%.100s%s", origin, status, what,
                     *headers->error_message ? " (" : "", headers->error_message,
                     *headers->error_message ? ")" : "");
}

// ----------------------------------------------------------------------------------------------------------- a request

struct request {
    const struct hub_client *client;
    CURL *curl;
    struct hub_headers headers;
    struct buffer *body; // NULL: only the head is asked for
    size_t limit;
    bool too_long, no_memory;
    char details[CURL_ERROR_SIZE];
    char *url; // where it is now
    long status;
};

static size_t on_header(char *line, size_t one, size_t size, void *context) {
    struct request *request = context;
    hub_header_line(&request->headers, line, size, clock_unix_micros() / 1000000);
    return size;
}

static size_t on_body(char *data, size_t one, size_t size, void *context) {
    struct request *request = context;
    if (!request->body) return size;
    request->too_long = size > request->limit - request->body->length;
    if (request->too_long) return 0;
    request->no_memory = !buffer_add(request->body, data, size);
    return request->no_memory ? 0 : size;
}

static int on_progress(void *context, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    struct request *request = context;
    return is_cancelled(request->client);
}

// One request without redirects.
static CURLcode ask(struct request *request) {
    struct curl_slist *lines = NULL;
    CURL *curl = request->curl;
    if (request->body) request->body->length = 0;
    hub_headers_begin(&request->headers);
    request->status = 0;
    curl_easy_reset(curl);
    bool good = hub_client_prepare(request->client, curl, request->url, &lines, request->details) &&
                curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header) == CURLE_OK &&
                curl_easy_setopt(curl, CURLOPT_HEADERDATA, request) == CURLE_OK &&
                curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
                curl_easy_setopt(curl, CURLOPT_WRITEDATA, request) == CURLE_OK &&
                curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress) == CURLE_OK &&
                curl_easy_setopt(curl, CURLOPT_XFERINFODATA, request) == CURLE_OK &&
                curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L) == CURLE_OK &&
                curl_easy_setopt(curl, CURLOPT_NOBODY, request->body ? 0L : 1L) == CURLE_OK;
    CURLcode result = good ? curl_easy_perform(curl) : CURLE_OUT_OF_MEMORY;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &request->status);
    curl_slist_free_all(lines);
    return result;
}

// With redirects, from [url] on. False with an error: where they lead must not be followed.
static bool ask_around(struct request *request, const char *url, CURLcode *result, struct error *error) {
    for (int hop = 0;; hop++) {
        char *next = NULL;
        if (hop == 0) {
            free(request->url);
            request->url = strdup(url);
        }
        if (!request->url) return no_memory(error);
        *result = ask(request);
        if (*result != CURLE_OK || request->status < 300 || request->status >= 400) return true;
        curl_easy_getinfo(request->curl, CURLINFO_REDIRECT_URL, &next);
        if (!next || hop == HUB_REDIRECTS_MOST || !hub_may_follow(request->client->place->endpoint, next))
            return error_set(error, ERROR_UNAVAILABLE, "%.200s: it redirects %s", request->url,
                             !next                       ? "to nowhere"
                             : hop == HUB_REDIRECTS_MOST ? "in a circle"
                                                         : "to an address that is not https");
        // Asked is whether the hub gives the file; the host that has it may not answer for heads.
        if (!request->body && !hub_same_origin(next, request->client->place->endpoint)) {
            request->status = 200;
            return true;
        }
        next = strdup(next);
        free(request->url);
        request->url = next;
    }
}

// Asks until there is an answer of status 200 or a failure that stays. [headers] (may be NULL): of the last answer.
static bool get(const struct hub_client *client, const char *url, const char *name, const char *what,
                size_t limit, struct buffer *body, struct hub_headers *headers, struct error *error) {
    struct request request = {.client = client, .body = body, .limit = limit, .curl = curl_easy_init()};
    bool good = request.curl != NULL || no_memory(error), done = false;
    for (int attempt = 1; good && !done; attempt++) {
        CURLcode result = CURLE_OK;
        good = ask_around(&request, url, &result, error);
        if (!good) break;
        if (request.too_long)
            good =
                error_set(error, ERROR_INPUT, "%s: more than %zu bytes, the most accepted here", what, limit);
        else if (request.no_memory)
            good = no_memory(error);
        else
            done = result == CURLE_OK && request.status == 200;
        if (!good || done) break;
        bool home = hub_same_origin(request.url, client->place->endpoint);
        // Who is not online should not wait for being told so.
        bool away = result == CURLE_COULDNT_RESOLVE_HOST || result == CURLE_COULDNT_CONNECT;
        struct error cause = {0};
        hub_explain(client, request.url, name, what, result, request.status, &request.headers,
                    request.details, &cause);
        double seconds = hub_retry_seconds(attempt, request.headers.retry_after);
        good =
            hub_may_retry(result, request.status, home || !name) && attempt <= (away ? 2 : client->retries);
        if (!good) {
            *error = cause;
            break;
        }
        if (client->waits) client->waits(client->user, seconds, cause.message);
        if (!hub_client_wait(client, seconds)) good = error_set(error, ERROR_CANCELLED, "interrupted");
    }
    if (headers) *headers = request.headers;
    curl_easy_cleanup(request.curl);
    free(request.url);
    return good;
}

// -------------------------------------------------------------------------------------------------------- what is asked

bool hub_client_info(const struct hub_client *client, const char *name, const char *revision,
                     struct hub_info *info, struct error *error) {
    struct buffer body = {0};
    char *url = hub_info_url(client->place, name, revision);
    bool good = url || no_memory(error);
    good = good && get(client, url, name, revision, INFO_BYTES_MOST, &body, NULL, error) &&
           hub_info_parse(name, body.data ? body.data : "", body.length, info, error);
    buffer_free(&body);
    free(url);
    return good;
}

bool hub_client_tree(const struct hub_client *client, const char *name, const char *commit,
                     struct hub_tree *tree, struct error *error) {
    struct hub_headers headers;
    char *url = hub_tree_url(client->place, name, commit);
    bool good = url || no_memory(error);
    for (int page = 1; good; page++) {
        struct buffer body = {0};
        good = get(client, url, name, commit, PAGE_BYTES_MOST, &body, &headers, error) &&
               hub_tree_add(name, body.data ? body.data : "", body.length, tree, error);
        buffer_free(&body);
        if (!good || !*headers.next) break;
        // The next page gets the token: it must be the hub's own.
        if (page == PAGES_MOST || !hub_same_origin(headers.next, client->place->endpoint)) {
            good = error_set(error, ERROR_INPUT, "%s: the list of files goes on %s", name,
                             page == PAGES_MOST ? "without an end" : "on another host");
            break;
        }
        free(url);
        url = strdup(headers.next);
        good = url || no_memory(error);
    }
    free(url);
    return good && hub_tree_end(name, tree, error);
}

bool hub_client_check(const struct hub_client *client, const char *name, const char *commit, const char *path,
                      struct error *error) {
    char *url = hub_file_url(client->place, name, commit, path);
    bool good = url || no_memory(error);
    good = good && get(client, url, name, path, 0, NULL, NULL, error);
    free(url);
    return good;
}

bool hub_client_text(const struct hub_client *client, const char *url, size_t limit, struct buffer *body,
                     struct error *error) {
    if (!hub_may_follow(client->place->endpoint, url))
        return error_set(error, ERROR_INPUT, "%.200s: expected an https URL", url);
    return get(client, url, NULL, url, limit, body, NULL, error);
}
