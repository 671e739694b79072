// limn.yaml: what the owner of a server may set. All of it is optional. Relies on base, price.h.
//
// DESIGN. One table (config_keys.c) lists every key with its type, range, default and a sentence; reading, checking,
// environment overrides, `limn config print` and the table of docs/configuration.md follow from it. To add a key: a member
// here and a row there. Values come from, later ones winning: the default, limn.yaml, the environment
// (server.tls.key is LIMN_SERVER_TLS_KEY), the command line (written into the struct by the command).
#ifndef LIMN_CATALOG_CONFIG_H
#define LIMN_CATALOG_CONFIG_H

#include "base/arena.h"
#include "base/error.h"
#include "catalog/price.h"

#include <stdbool.h>
#include <stdint.h>

struct config_texts { // borrowed from the configuration
    const char **items;
    int count;
};

struct config_pair {
    const char *name, *value;
};
struct config_pairs { // in the order of the file
    struct config_pair *items;
    int count;
};

struct config_price {
    const char *model; // an id or a glob
    struct price_list list;
};
struct config_prices {
    struct config_price *items;
    int count;
};

// A LoRA that requests may name.
struct config_lora {
    const char *name, *file;
    struct config_texts models; // ids and globs of local models that it fits; none: all
    double scale;               // where a request says none
};
struct config_loras {
    struct config_lora *items;
    int count;
};

enum config_synchronous { SYNCHRONOUS_NORMAL, SYNCHRONOUS_FULL };
// AUTO: url, or b64_json under a name of OpenAI's image models.
enum config_response_format { RESPONSE_AUTO, RESPONSE_URL, RESPONSE_B64_JSON };
enum config_log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

// Texts are never NULL unless said: "" means not set. Times are seconds, sizes bytes.
struct config {
    struct {
        const char *host;
        int port; // 0: any free one
        struct {
            const char *certificate, *key; // PEM files; both or none
        } tls;
        const char *public_base_url; // without a / at the end
        struct config_texts
            trusted_proxies; // addresses or networks ("10.0.0.0/8") whose forwarding headers count
        struct config_texts allowed_origins; // of browsers' pages; "*" is any
        double drain_seconds;                // how long a stop waits for what runs
        bool metrics_public;                 // /metrics without an admin key
    } server;
    struct {
        int64_t json_bytes, image_bytes, body_bytes, header_bytes;
        int64_t image_pixels; // of one picture that comes in
        int connections, connections_per_address;
        double header_seconds, body_seconds, idle_seconds;
        int64_t buffered_bytes; // all bodies in memory together
        int64_t spool_bytes;    // all pictures of requests that wait or run; 0: no limit
    } limits;
    struct {
        bool required; // also on loopback, also before the first key is made
        bool insecure_no_auth;
        int keyless_requests_per_minute, keyless_images_per_day; // an address; 0: no limit
    } auth;
    struct {
        const char *path; // of the SQLite file; "": STATE/limn.db
        int synchronous;  // enum config_synchronous
        double retention_seconds, idempotency_seconds;
        bool keep_payloads;     // prompts and answers in the records
        double payload_seconds; // how long those are kept
        double busy_seconds;
    } store;
    struct {
        const char *folder; // "": STATE/media
        double lifetime_seconds;
        int64_t quota_bytes; // 0: no limit
    } media;
    struct {
        int depth, depth_per_key;  // requests that may wait; per_key 0: no own limit
        double time_limit_seconds; // of one request, from when it is taken up
        double lease_seconds, stall_seconds, cancel_seconds;
        bool rerun; // once, after a dead worker that had delivered nothing
    } queue;
    struct {
        const char *model; // folder to serve; "": $LIMN_MODEL, else the one that comes with limn
        struct config_texts model_folders;
        struct config_pairs models; // model id -> folder
        struct config_prices prices;
        int threads; // 0: all
        const char *isa, *compute;
        struct config_texts loras; // of every request to the served model: FILE or FILE:SCALE
        int64_t cache_bytes;       // of prompt and reference encodings
        int resident;              // models whose workers are up at once
        double start_seconds;
    } local;
    struct {
        const char *folder;           // more cards
        struct config_texts disabled; // model ids and globs
    } catalog;
    struct {
        const char *text_to_image, *image_edit; // default model by mode; "": the served one
    } models;
    struct config_pairs aliases; // name or glob -> model
    struct config_loras loras;
    struct {
        int response_format; // enum config_response_format
        bool allow_safety_checker_off;
    } defaults;
    struct {
        bool enabled;
        int64_t bytes;
        double seconds;
        int redirects;
    } image_url;
    struct {
        int format;  // enum config_log_format
        int level;   // enum log_level
        bool access; // a line a request
    } log;

    struct config_origin { // where each key's value comes from, by its place in the table
        enum config_source { CONFIG_DEFAULT, CONFIG_FILE, CONFIG_ENVIRONMENT } source;
        int line;
    } * origins;
    const char *path; // of the file read; "": none
    struct arena arena;
};

// Everything at its default.
bool config_init(struct config *config, struct error *error);
void config_free(struct config *config); // {0} again

// config_init, then the file, then the environment. [path]: the file; NULL: $LIMN_CONFIG, else the first of ./limn.yaml,
// $XDG_CONFIG_HOME/limn/limn.yaml (~/.config), /etc/limn/limn.yaml that is there, else none. Errors name the file and line, or
// the variable; an unknown key is refused with what was probably meant. The caller frees in any case.
bool config_load(struct config *config, const char *path, struct error *error);

// From memory, for tests and fuzzing: [text] as the file [name], [environment] as environ (NULL: none).
bool config_parse(struct config *config, const char *name, const char *text, size_t size,
                  const char *const *environment, struct error *error);

// What the keys must be together (a certificate needs its key, ...); config_load has called it.
bool config_check(const struct config *config, struct error *error);

// Writes where the value of the key [name] comes from, for messages: "limn.yaml:3: server.port", "LIMN_SERVER_PORT", or its name
// alone. Returns [text].
const char *config_place(const struct config *config, const char *name, char *text, size_t size);

struct buffer;
// The whole configuration as YAML, each key with its sentence, its default and where the value comes from.
bool config_print(const struct config *config, struct buffer *out);

#endif
