// Asking a hub: one request after another, for what is small (the information on a repository, its list of files, a text), and
// what such requests and downloads have in common: how a connection is set up, what a failure means. Relies on hub.h, libcurl.
//
// DESIGN. Redirects are followed here, not by libcurl, so that it is in sight who gets what: the token goes to the origin
// (scheme, host and port) of HF_ENDPOINT and to no other, also not when that redirects; plain http is spoken only on this machine
// or where HF_ENDPOINT says http. The system's proxies are used.
#ifndef LIMN_WEIGHTS_HUB_CLIENT_H
#define LIMN_WEIGHTS_HUB_CLIENT_H

#include "base/buffer.h"
#include "weights/hub.h"

#include <curl/curl.h> // defines: CURL, CURLcode

enum { HUB_REDIRECTS_MOST = 8 };

struct hub_client {
    const struct hub_place *place; // borrowed
    double stall_seconds;          // without a byte for so long a connection counts as broken
    int retries; // more tries of a request after failures that may pass, none of which brought anything
    bool (*cancelled)(void *user); // asked about ten times a second; NULL: never
    // Told before a request is repeated that is no download: in how many seconds, and why; NULL: nobody.
    void (*waits)(void *user, double seconds, const char *why);
    void *user;
};

// The usual: 30 s, 6 retries.
void hub_client_init(struct hub_client *client, const struct hub_place *place);

// What the hub says of [revision] of the repository [name], and the commit's files.
bool hub_client_info(const struct hub_client *client, const char *name, const char *revision,
                     struct hub_info *info, struct error *error);
bool hub_client_tree(const struct hub_client *client, const char *name, const char *commit,
                     struct hub_tree *tree, struct error *error);
// Whether files of the repository are given to the owner of the token: asks for the head of [path].
bool hub_client_check(const struct hub_client *client, const char *name, const char *commit, const char *path,
                      struct error *error);

// A text of at most [limit] bytes from anywhere; the token is not sent unless [url] is on the endpoint.
bool hub_client_text(const struct hub_client *client, const char *url, size_t limit, struct buffer *body,
                     struct error *error);

// --------------------------------------------------------------------------------------------- shared with downloads

// Sets up [curl] for one request of [url]: what every request has. *lines: the request's own header lines, to which the token
// is added where the URL may have it; the caller frees them (curl_slist_free_all) when the request is over. [details]:
// CURL_ERROR_SIZE bytes.
bool hub_client_prepare(const struct hub_client *client, CURL *curl, const char *url,
                        struct curl_slist **lines, char *details);

// Whether a failure may pass by itself. [result] CURLE_OK: of the status. [home]: it came from the endpoint and not from a host
// that it led to, whose refusals may be due to a link that is too old.
bool hub_may_retry(CURLcode result, long status, bool home);

// Seconds before try [attempt] (1, 2, ...): doubling from half a second to 30, a third of it random, or what the hub asks for, up
// to five minutes.
double hub_retry_seconds(int attempt, double retry_after);

// Waits; false when the caller cancelled meanwhile.
bool hub_client_wait(const struct hub_client *client, double seconds);

// Sets [error] to what a failed request means and what to do. [name]: the repository, NULL for a text elsewhere. [what]: what was
// asked for, "transformer/config.json". [details]: libcurl's words.
bool hub_explain(const struct hub_client *client, const char *url, const char *name, const char *what,
                 CURLcode result, long status, const struct hub_headers *headers, const char *details,
                 struct error *error);

#endif
