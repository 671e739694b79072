// The table of limn.yaml's keys; see config.h for how to add one.
#include "catalog/config_keys.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// -------------------------------------------------------------------------------------------- what a text must look like

static const char *check_url(const char *text) {
    static const char expected[] = "a URL such as https://images.example.com, without a / at the end";
    size_t scheme = !strncmp(text, "https://", 8) ? 8 : !strncmp(text, "http://", 7) ? 7 : 0;
    size_t length = strlen(text);
    if (!*text) return NULL;
    if (!scheme || length == scheme || length > 200 || text[length - 1] == '/') return expected;
    return strpbrk(text, "\"\\ ?#<>") ? expected : NULL;
}

static const char *check_host(const char *text) {
    bool good = *text && strlen(text) <= 255 && !strpbrk(text, " /\"\\@");
    return good ? NULL : "an address or a host name";
}

static const char *check_proxy(const char *text) {
    static const char expected[] = "an address or a network such as 10.0.0.0/8";
    unsigned char bytes[16];
    char address[64];
    size_t length = strcspn(text, "/");
    if (length >= sizeof address) return expected;
    memcpy(address, text, length);
    address[length] = 0;
    int bits = inet_pton(AF_INET, address, bytes) == 1    ? 32
               : inet_pton(AF_INET6, address, bytes) == 1 ? 128
                                                          : 0;
    if (!bits) return expected;
    if (!text[length]) return NULL;
    const char *width = text + length + 1;
    size_t digits = strspn(width, "0123456789");
    return digits >= 1 && digits <= 3 && !width[digits] && atoi(width) <= bits ? NULL : expected;
}

static const char *check_origin(const char *text) {
    static const char expected[] = "an origin such as https://app.example.com, or \"*\"";
    if (!strcmp(text, "*")) return NULL;
    size_t scheme = !strncmp(text, "https://", 8) ? 8 : !strncmp(text, "http://", 7) ? 7 : 0;
    return scheme && text[scheme] && !strpbrk(text + scheme, "/ \"\\*") ? NULL : expected;
}

static const char *check_model(const char *text) {
    return *text && strlen(text) < 100 ? NULL : "a model's name, such as flux.2-dev-turbo";
}

static const char *check_default_model(const char *text) {
    return *text ? check_model(text) : NULL;
}

static const char *check_compute(const char *text) {
    bool good =
        !strcmp(text, "auto") || !strcmp(text, "f32") || !strcmp(text, "bf16") || !strcmp(text, "int8");
    return good ? NULL : "auto, f32, bf16 or int8";
}

static const char *check_file(const char *text) {
    return *text ? NULL : "the path of a file";
}

static const char *check_path(const char *text) {
    return *text ? NULL : "the path of a folder";
}

// -------------------------------------------------------------------------------------------------------------- the table

#define AT(member) offsetof(struct config, member)
#define DAY        86400.0
#define MANY       1e9
#define LARGE      1e15

static const struct config_key KEYS[] = {
    {"server.host", CONFIG_TEXT, AT(server.host), "127.0.0.1", 0, 0, NULL, check_host,
     "address to listen on; any but a loopback address needs a key first"},
    {"server.port", CONFIG_INTEGER, AT(server.port), "8080", 0, 65535, NULL, NULL,
     "port to listen on; 0 takes any free one"},
    {"server.tls.certificate", CONFIG_TEXT, AT(server.tls.certificate), "", 0, 0, NULL, NULL,
     "PEM file with the certificate and those between it and the root; with it limn serves https"},
    {"server.tls.key", CONFIG_TEXT, AT(server.tls.key), "", 0, 0, NULL, NULL,
     "PEM file with the certificate's private key"},
    {"server.public_base_url", CONFIG_TEXT, AT(server.public_base_url), "", 0, 0, NULL, check_url,
     "what the URLs of pictures begin with; empty: the address that the client used"},
    {"server.trusted_proxies", CONFIG_TEXTS, AT(server.trusted_proxies), "", 0, 0, NULL, check_proxy,
     "addresses and networks of proxies whose forwarding headers are believed"},
    {"server.allowed_origins", CONFIG_TEXTS, AT(server.allowed_origins), "", 0, 0, NULL, check_origin,
     "origins of web pages that may call from a browser; \"*\" is any"},
    {"server.drain", CONFIG_SECONDS, AT(server.drain_seconds), "60s", 0, DAY, NULL, NULL,
     "how long a stop waits for requests in work before it ends them"},
    {"server.metrics_public", CONFIG_BOOL, AT(server.metrics_public), "false", 0, 0, NULL, NULL,
     "whether /metrics answers without an admin key from other addresses than loopback"},

    {"limits.json_bytes", CONFIG_BYTES, AT(limits.json_bytes), "1MiB", 1024, 1e9, NULL, NULL,
     "largest JSON body that carries no pictures"},
    {"limits.image_bytes", CONFIG_BYTES, AT(limits.image_bytes), "50MiB", 1024, 1e10, NULL, NULL,
     "largest picture that comes in"},
    {"limits.body_bytes", CONFIG_BYTES, AT(limits.body_bytes), "256MiB", 1024, 1e11, NULL, NULL,
     "largest body with pictures"},
    {"limits.header_bytes", CONFIG_BYTES, AT(limits.header_bytes), "16KiB", 1024, 1048576, NULL, NULL,
     "largest request line and header together"},
    {"limits.image_pixels", CONFIG_COUNT, AT(limits.image_pixels), "67108864", 4096, 1e10, NULL, NULL,
     "most pixels of a picture that comes in, by its header"},
    {"limits.buffered_bytes", CONFIG_BYTES, AT(limits.buffered_bytes), "512MiB", 1048576, 1e12, NULL, NULL,
     "most bytes of bodies that are held in memory together; beyond them requests are answered with 429"},
    {"limits.spool_bytes", CONFIG_BYTES, AT(limits.spool_bytes), "4GiB", 0, 1e15, NULL, NULL,
     "most bytes of pictures that came in, of all requests that wait or run; beyond them requests are "
     "answered with 507; 0: no "
     "limit"},
    {"limits.connections", CONFIG_INTEGER, AT(limits.connections), "16000", 1, 1000000, NULL, NULL,
     "most open connections"},
    {"limits.connections_per_address", CONFIG_INTEGER, AT(limits.connections_per_address), "0", 0, 1000000,
     NULL, NULL, "most open connections of one address; 0: no limit"},
    {"limits.header_time", CONFIG_SECONDS, AT(limits.header_seconds), "15s", 1, DAY, NULL, NULL,
     "how long a client may take to send a request's header, from its first byte (of a fresh connection: "
     "from the connection)"},
    {"limits.body_time", CONFIG_SECONDS, AT(limits.body_seconds), "10m", 1, DAY, NULL, NULL,
     "how long a client may take to send a body"},
    {"limits.idle_time", CONFIG_SECONDS, AT(limits.idle_seconds), "75s", 1, DAY, NULL, NULL,
     "how long a connection may lie idle between requests"},

    {"auth.required", CONFIG_BOOL, AT(auth.required), "false", 0, 0, NULL, NULL,
     "whether a key is needed on loopback even before the first one is made"},
    {"auth.insecure_no_auth", CONFIG_BOOL, AT(auth.insecure_no_auth), "false", 0, 0, NULL, NULL,
     "serve addresses that other machines reach though no key was made"},
    {"auth.keyless_requests_per_minute", CONFIG_INTEGER, AT(auth.keyless_requests_per_minute), "0", 0, MANY,
     NULL, NULL, "requests a minute of one address without a key; 0: no limit"},
    {"auth.keyless_images_per_day", CONFIG_INTEGER, AT(auth.keyless_images_per_day), "0", 0, MANY, NULL, NULL,
     "pictures a day of one address without a key; 0: no limit"},

    {"store.path", CONFIG_TEXT, AT(store.path), "", 0, 0, NULL, NULL,
     "SQLite file of keys and records; empty: limn.db in the state folder"},
    {"store.synchronous", CONFIG_WORD, AT(store.synchronous), "normal", 0, 0, "normal full", NULL,
     "normal: the last records may be lost when the machine loses power, not when limn is killed; full: "
     "none"},
    {"store.retention", CONFIG_SECONDS, AT(store.retention_seconds), "90d", 0, 36500 * DAY, NULL, NULL,
     "how long records are kept; 0: for good"},
    {"store.idempotency_lifetime", CONFIG_SECONDS, AT(store.idempotency_seconds), "24h", 60, 365 * DAY, NULL,
     NULL, "how long an Idempotency-Key is remembered, and answers and their pictures are kept"},
    {"store.keep_payloads", CONFIG_BOOL, AT(store.keep_payloads), "false", 0, 0, NULL, NULL,
     "keep prompts, answers and pictures with the records"},
    {"store.payload_retention", CONFIG_SECONDS, AT(store.payload_seconds), "30d", 0, 36500 * DAY, NULL, NULL,
     "how long kept prompts, answers and pictures stay; 0: as long as their records"},
    {"store.busy_time", CONFIG_SECONDS, AT(store.busy_seconds), "5s", 0, 3600, NULL, NULL,
     "how long to wait for a database that another program has locked"},

    {"media.folder", CONFIG_TEXT, AT(media.folder), "", 0, 0, NULL, NULL,
     "where pictures behind URLs are kept; empty: media in the state folder"},
    {"media.lifetime", CONFIG_SECONDS, AT(media.lifetime_seconds), "60m", 1, 365 * DAY, NULL, NULL,
     "how long a picture's URL lasts, unless its answer is kept longer"},
    {"media.quota", CONFIG_BYTES, AT(media.quota_bytes), "0", 0, LARGE, NULL, NULL,
     "most bytes of pictures behind URLs; 0: no limit"},

    {"queue.depth", CONFIG_INTEGER, AT(queue.depth), "4096", 0, 1000000, NULL, NULL,
     "requests that may wait; one more is answered with 429"},
    {"queue.depth_per_key", CONFIG_INTEGER, AT(queue.depth_per_key), "0", 0, 1000000, NULL, NULL,
     "requests of one key that may wait; 0: no limit of its own"},
    {"queue.time_limit", CONFIG_SECONDS, AT(queue.time_limit_seconds), "30m", 1, 7 * DAY, NULL, NULL,
     "how long a request may take from its coming to its end, waiting for its turn included"},
    {"queue.lease", CONFIG_SECONDS, AT(queue.lease_seconds), "15s", 2, 3600, NULL, NULL,
     "without a sign of life for so long the worker counts as hung"},
    {"queue.stall", CONFIG_SECONDS, AT(queue.stall_seconds), "15m", 2, 7 * DAY, NULL, NULL,
     "without headway for so long the worker counts as hung"},
    {"queue.cancel", CONFIG_SECONDS, AT(queue.cancel_seconds), "30s", 1, 3600, NULL, NULL,
     "a worker that has not ended a cancelled request after so long is replaced"},
    {"queue.rerun", CONFIG_BOOL, AT(queue.rerun), "true", 0, 0, NULL, NULL,
     "run a request once more when its worker died before anything was delivered"},

    {"local.model", CONFIG_TEXT, AT(local.model), "", 0, 0, NULL, NULL,
     "the model to serve, its folder or its name; empty: $LIMN_MODEL, else the one that comes with limn"},
    {"local.model_folders", CONFIG_TEXTS, AT(local.model_folders), "models", 0, 0, NULL, check_path,
     "folders in which model folders are looked for, by the name that the model's card gives"},
    {"local.models", CONFIG_PAIRS, AT(local.models), "", 0, 0, NULL, check_path,
     "model folders that lie elsewhere: model id to folder"},
    {"local.prices", CONFIG_PRICES, AT(local.prices), "", 0, 0, NULL, NULL,
     "what local models cost: model id or glob to prices in USD (input_megapixel, output_megapixel, "
     "input_image, output_image, input_token, output_token)"},
    {"local.threads", CONFIG_INTEGER, AT(local.threads), "0", 0, 256, NULL, NULL,
     "threads of the engine; 0: one a processor"},
    {"local.isa", CONFIG_TEXT, AT(local.isa), "", 0, 0, NULL, NULL,
     "instruction set of the engine as `limn --version` names them; empty: the best"},
    {"local.compute", CONFIG_TEXT, AT(local.compute), "auto", 0, 0, NULL, check_compute,
     "type that the engine computes in: auto, f32, bf16 or int8"},
    {"local.loras", CONFIG_TEXTS, AT(local.loras), "", 0, 0, NULL, check_file,
     "LoRAs of every request to the served model: FILE or FILE:SCALE, at most four"},
    {"local.cache", CONFIG_BYTES, AT(local.cache_bytes), "256MiB", 0, 1e12, NULL, NULL,
     "most bytes of encoded prompts and references that the worker keeps; 0: none"},
    {"local.resident", CONFIG_INTEGER, AT(local.resident), "1", 1, 64, NULL, NULL,
     "models that are open at one time, each in a worker of its own; others wait until one is idle"},
    {"local.start_time", CONFIG_SECONDS, AT(local.start_seconds), "2m", 1, DAY, NULL, NULL,
     "how long opening the model may take"},

    {"catalog.folder", CONFIG_TEXT, AT(catalog.folder), "", 0, 0, NULL, NULL,
     "folder with model cards of your own (*.yaml)"},
    {"catalog.disabled", CONFIG_TEXTS, AT(catalog.disabled), "", 0, 0, NULL, check_model,
     "models that are not to be had: ids or globs"},

    {"models.text_to_image", CONFIG_TEXT, AT(models.text_to_image), "", 0, 0, NULL, check_default_model,
     "model of requests that name none, text to image; empty: the served one"},
    {"models.image_edit", CONFIG_TEXT, AT(models.image_edit), "", 0, 0, NULL, check_default_model,
     "the same for edits"},

    {"aliases", CONFIG_PAIRS, AT(aliases), "", 0, 0, NULL, check_model,
     "other names: name or glob (gpt-image-*) to model or provider/model"},

    {"loras", CONFIG_LORAS, AT(loras), "", 0, 0, NULL, NULL,
     "LoRAs that requests may name: name to file, models (ids or globs; none: all local ones) and scale"},

    {"defaults.response_format", CONFIG_WORD, AT(defaults.response_format), "auto", 0, 0, "auto url b64_json",
     NULL,
     "answer where a request does not say: auto is url, or b64_json under a name of OpenAI's image models"},
    {"defaults.allow_safety_checker_off", CONFIG_BOOL, AT(defaults.allow_safety_checker_off), "true", 0, 0,
     NULL, NULL, "whether a request may turn the safety checker off"},

    {"image_url.enabled", CONFIG_BOOL, AT(image_url.enabled), "false", 0, 0, NULL, NULL,
     "fetch pictures from https URLs that requests name: public addresses, ports 443 and 8443"},
    {"image_url.max_bytes", CONFIG_BYTES, AT(image_url.bytes), "50MiB", 1024, 1e10, NULL, NULL,
     "largest picture that is fetched"},
    {"image_url.time_limit", CONFIG_SECONDS, AT(image_url.seconds), "20s", 1, 3600, NULL, NULL,
     "how long a fetch may take"},
    {"image_url.redirects", CONFIG_INTEGER, AT(image_url.redirects), "3", 0, 10, NULL, NULL,
     "redirects that are followed, each checked like the first address"},

    {"log.format", CONFIG_WORD, AT(log.format), "text", 0, 0, "text json", NULL, "form of log lines"},
    {"log.level", CONFIG_WORD, AT(log.level), "info", 0, 0, "error warning info debug", NULL,
     "lines above it are dropped"},
    {"log.access", CONFIG_BOOL, AT(log.access), "true", 0, 0, NULL, NULL, "a line for each request"},
};

const struct config_key *config_keys(int *count) {
    *count = sizeof KEYS / sizeof *KEYS;
    return KEYS;
}

void config_variable(const struct config_key *key, char *name, size_t size) {
    snprintf(name, size, "LIMN_%s", key->name);
    for (char *c = name; *c; c++) *c = *c == '.' ? '_' : (char)toupper((unsigned char)*c);
}
