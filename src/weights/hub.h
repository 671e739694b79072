// A model hub that speaks the Hugging Face Hub's protocol: where it is, what a repository's name may be, and the reading of what
// it answers. Nothing here opens a connection; all of it is checked as bytes of a stranger. Relies on base, digest.h.
//
// The answers (huggingface.co/docs/hub/api):
//   GET ENDPOINT/api/models/OWNER/NAME/revision/REVISION     {"sha": commit, "gated": false | "auto" | "manual",
//                                                             "cardData": {"license": ..., "license_name": ...}, ...}
//   GET ENDPOINT/api/models/OWNER/NAME/tree/COMMIT?recursive=true
//       [{"type": "file", "path", "size", "oid", "lfs": {"oid", "size"}}, ...]; a header Link names the next page
//   GET ENDPOINT/OWNER/NAME/resolve/COMMIT/PATH              the file, mostly by a redirect to another host
#ifndef LIMN_WEIGHTS_HUB_H
#define LIMN_WEIGHTS_HUB_H

#include "base/arena.h"
#include "base/error.h"
#include "weights/digest.h"

#include <stdint.h>

enum {
    HUB_NAME = 200,        // bytes of "owner/name", with the 0
    HUB_REVISION = 200,    // bytes of a branch, a tag or a commit
    HUB_COMMIT = 41,       // bytes of a commit: 40 hexadecimal digits
    HUB_PATH_MOST = 1000,  // bytes of a file's path
    HUB_FILES_MOST = 50000 // of a repository
};

// ---------------------------------------------------------------------------------------------------------- where it is

// What the environment says, by the names that the official client has. Texts belong to the struct.
struct hub_place {
    char *endpoint; // HF_ENDPOINT, else https://huggingface.co; without a / at the end
    char *cache;    // HF_HUB_CACHE (HUGGINGFACE_HUB_CACHE), else HF_HOME/hub; HF_HOME: else
                    // XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface
    char *
        token; // HF_TOKEN (HUGGING_FACE_HUB_TOKEN), else the file HF_TOKEN_PATH, else HF_HOME/token; NULL: none
    char *token_file;  // where a token is looked for
    char *authorities; // PEM file of those to trust: SSL_CERT_FILE, CURL_CA_BUNDLE; NULL: the system's
    bool token_given;  // by a variable, not by the file
    bool offline;      // HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE
};

// Reads the environment. An endpoint that is no http or https URL, and a token with blanks or control characters, are errors.
bool hub_place_read(struct hub_place *place, struct error *error);
void hub_place_free(struct hub_place *place); // {0} is fine

// The cache alone, for those that only look for what is there. In fresh memory.
char *hub_cache_folder(struct error *error);

// $XDG_DATA_HOME/limn/models, else ~/.local/share/limn/models: what limn itself says of models that were fetched. In fresh
// memory; not made.
char *hub_data_folder(struct error *error);

// ---------------------------------------------------------------------------------------------------------------- names

// "owner/name" or "owner/name@revision" (a branch, a tag, a commit; "main" where nothing is said). False without an error where
// [text] is not of that form.
bool hub_name_read(const char *text, char name[HUB_NAME], char revision[HUB_REVISION]);
bool hub_name_good(const char *name);         // owner/name: letters, digits, "-", "_", "."; never ".."
bool hub_revision_good(const char *revision); // what a git branch may be called, without ".." and blanks

// Whether a file's path may be used below a folder: relative, UTF-8, no empty part, no "." or "..", no backslash, no control
// character, parts of at most 255 bytes.
bool hub_path_good(const char *path);

// Whether a path matches [pattern], in which * is any run of letters, "/" among them ("transformer/*").
bool hub_path_matches(const char *path, const char *pattern);

// -------------------------------------------------------------------------------------------------------------- answers

struct hub_info {
    char commit[HUB_COMMIT];
    char licence[100]; // "apache-2.0", or the own name of one that is "other"; "" where nothing is said
    bool gated;        // its owner asks for a consent before files are given
};

struct hub_file {
    const char *path; // hub_path_good
    int64_t size;
    enum digest_kind kind; // SHA256 for those in large file storage, else GIT_BLOB
    const char *hash;      // the name of the blob in the cache, too
};

// The files of a repository, by path, rising. Texts lie in the arena.
struct hub_tree {
    struct hub_file *files;
    int count, capacity;
    struct arena arena;
};

// [name] stands in the messages.
bool hub_info_parse(const char *name, const char *json, size_t size, struct hub_info *info,
                    struct error *error);
// Adds the files of one page; other entries are passed over. A path that is not hub_path_good is an error.
bool hub_tree_add(const char *name, const char *json, size_t size, struct hub_tree *tree,
                  struct error *error);
// When all pages are in: sorts; a path that is there twice is an error.
bool hub_tree_end(const char *name, struct hub_tree *tree, struct error *error);
void hub_tree_free(struct hub_tree *tree); // {0} is fine

// What limn reads of the headers of one answer; texts are cut where they are longer than any that is right.
struct hub_headers {
    char etag[140];                          // with its quotes; "" where there is none or a weak one
    char linked_etag[140];                   // X-Linked-ETag without quotes
    char error_code[60], error_message[300]; // X-Error-Code, X-Error-Message: printable ASCII
    char next[2000];                 // URL of the next page of a list, of Link; "" where this is the last
    double retry_after;              // seconds; -1: not said
    int64_t range_first, range_size; // of Content-Range "bytes FIRST-LAST/SIZE"; -1: not said
};

void hub_headers_begin(struct hub_headers *headers);
// One line of a header as it comes, [size] bytes with its end. A status line begins anew. [now]: seconds since 1970, for a
// Retry-After that is a date.
void hub_header_line(struct hub_headers *headers, const char *line, size_t size, int64_t now);

// ----------------------------------------------------------------------------------------------------------------- URLs

// Whether two URLs have the same scheme, host and port: only then does one get the token that is meant for the other.
bool hub_same_origin(const char *a, const char *b);

// Whether an answer of [from] may lead to [to]: https, or http where that is on this machine or [endpoint] itself is http. No user
// name in it.
bool hub_may_follow(const char *endpoint, const char *to);

// URLs in fresh memory, NULL without memory: of the information, of the tree's first page, of a file.
char *hub_info_url(const struct hub_place *place, const char *name, const char *revision);
char *hub_tree_url(const struct hub_place *place, const char *name, const char *commit);
char *hub_file_url(const struct hub_place *place, const char *name, const char *commit, const char *path);

#endif
