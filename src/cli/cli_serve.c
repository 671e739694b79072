// limn serve: the OpenAI Images API over the local engine. Relies on server, catalog, store.
#include "base/file.h"
#include "cli/commands.h"
#include "cli/model_path.h"
#include "cli/state.h"
#include "server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define SPOOLS_MOST 64

static const char HELP[] =
    "limn serve - serve models as the OpenAI Images API\n"
    "\n"
    "usage: limn serve [OPTION]...\n"
    "\n"
    "Answers POST /openai/v1/images/generations and /openai/v1/images/edits, GET /openai/v1/models (all of "
    "it also "
    "under\n"
    "/v1), records under /v1, pictures under /media, and GET /openapi.json, which describes all of it. The "
    "model runs "
    "in a\n"
    "process of its own, which is replaced when it fails. Ctrl-C or SIGTERM ends the server when what is in "
    "work is "
    "done;\n"
    "a second one at once.\n"
    "\n"
    "  --config FILE        limn.yaml (default: $LIMN_CONFIG, ./limn.yaml, ~/.config/limn, /etc/limn); `limn "
    "config "
    "print`\n"
    "                       lists what can stand there; the options below win\n"
    "  --model MODEL        model folder, or a model that `limn pull` fetched: flux.2-klein-4b, owner/name\n"
    "                       (default: $LIMN_MODEL, else the one that comes with limn)\n"
    "  --host ADDRESS       address to listen on (default: 127.0.0.1); others than loopback need a key "
    "first\n"
    "  --port N             port to listen on, 0 for any free one (default: 8080)\n"
    "  --insecure-no-auth   allow an address that other machines reach without any key\n"
    "  --allow-origin URL   let pages of this origin call from a browser; may be given several times, * for "
    "all\n"
    "  --public-url URL     what the URLs of pictures begin with (default: the address that the client "
    "used)\n"
    "  --media-dir DIR      where pictures behind URLs are kept, for 60 minutes (default: STATE/media)\n"
    "  --queue-depth N      requests that may wait; one more is answered with 429\n"
    "  --lora FILE[:SCALE]  a LoRA of every request to that model; may be given up to four times\n"
    "  --threads N          threads of the engine (default: one a processor)\n"
    "  --isa NAME           instruction set of the engine, as `limn --version` names them (default: the "
    "best)\n"
    "  --compute TYPE       auto, f32, bf16 or int8 (default: auto)\n"
    "  --quiet              no line for each request\n"
    "  --help               print this text\n"
    "\n"
    "STATE is $XDG_STATE_HOME/limn, else ~/.local/state/limn.\n"
    "\n"
    "Exit status: 0 when stopped, 1 when it cannot serve, 2 for wrong usage.\n";

struct serve_options {
    struct server_options server;
    struct config config;
    const char *loras[QUEUE_LORAS_MOST];
    int lora_count;
    const char *config_path;
    char *model_path, *state, *media, *records, *spool, *program;
    const char *worker_program; // NULL: this binary
    char bundled[PATH_MAX];     // the model that comes with limn
    struct catalog *catalog;
    int lock; // of the spool folder, -1: none
    struct log log;
};

static bool usage(const char *option, const char *expected) {
    fprintf(stderr, "limn serve: %s: expected %s; see limn serve --help\n", option, expected);
    return false;
}

static bool read_count(const char *option, const char *text, long least, long most, int *value) {
    char *end, expected[64];
    errno = 0;
    long number = strtol(text, &end, 10);
    snprintf(expected, sizeof expected, "a number from %ld to %ld", least, most);
    if (errno || end == text || *end || number < least || number > most) return usage(option, expected);
    *value = (int)number;
    return true;
}

static bool read_public_url(struct config *config, const char *text) {
    if (strncmp(text, "http://", 7) && strncmp(text, "https://", 8))
        return usage("--public-url", "a URL that begins with http:// or https://");
    if (strlen(text) > 200 || strpbrk(text, "\"\\ "))
        return usage("--public-url", "a plain URL of at most 200 letters");
    config->server.public_base_url = text;
    return true;
}

static bool read_option(struct serve_options *options, int letter, const char *text) {
    struct server_options *server = &options->server;
    struct config *config = &options->config;
    switch (letter) {
    case 'C': // read before the others
        return true;
    case 'm':
        config->local.model = text;
        return true;
    case 'H':
        config->server.host = text;
        return true;
    case 'p':
        return read_count("--port", text, 0, 65535, &config->server.port);
    case 'A':
        return config->auth.insecure_no_auth = true;
    case 'o':
        if (server->origin_count == SERVER_ORIGINS_MOST) return usage("--allow-origin", "at most 16 of them");
        server->origins[server->origin_count++] = text;
        return true;
    case 'u':
        return read_public_url(config, text);
    case 'd':
        config->media.folder = text;
        return true;
    case 'q':
        return read_count("--queue-depth", text, 0, 100000, &config->queue.depth);
    case 'L':
        if (options->lora_count == QUEUE_LORAS_MOST) return usage("--lora", "at most 4 of them");
        if (!*text) return usage("--lora", "FILE or FILE:SCALE");
        options->loras[options->lora_count++] = text;
        config->local.loras = (struct config_texts){options->loras, options->lora_count};
        return true;
    case 't':
        return read_count("--threads", text, 0, 256, &config->local.threads);
    case 'i':
        config->local.isa = text;
        return true;
    case 'c':
        if (strcmp(text, "auto") && strcmp(text, "f32") && strcmp(text, "bf16") && strcmp(text, "int8"))
            return usage("--compute", "auto, f32, bf16 or int8");
        config->local.compute = text;
        return true;
    case 'Q':
        config->log.access = false;
        return true;
    case 'w':
        options->worker_program = text;
        return true;
    default:
        return false;
    }
}

// The configuration comes first: options change what it says. Returns -1 to go on, else the exit status.
static int read_config(struct serve_options *options, int count, char **arguments) {
    struct error error = {0};
    for (int i = 1; i < count; i++) {
        if (!strcmp(arguments[i], "--config") && i + 1 < count) options->config_path = arguments[i + 1];
        if (!strncmp(arguments[i], "--config=", 9)) options->config_path = arguments[i] + 9;
    }
    if (config_load(&options->config, options->config_path, &error)) return -1;
    fprintf(stderr, "limn serve: %s\n", error.message);
    return 1;
}

// Returns -1 to go on, else the exit status.
static int read_arguments(struct serve_options *options, int count, char **arguments) {
    static const struct option known[] = {
        {"model", required_argument, NULL, 'm'},
        {"host", required_argument, NULL, 'H'},
        {"port", required_argument, NULL, 'p'},
        {"insecure-no-auth", no_argument, NULL, 'A'},
        {"allow-origin", required_argument, NULL, 'o'},
        {"public-url", required_argument, NULL, 'u'},
        {"media-dir", required_argument, NULL, 'd'},
        {"queue-depth", required_argument, NULL, 'q'},
        {"lora", required_argument, NULL, 'L'},
        {"threads", required_argument, NULL, 't'},
        {"isa", required_argument, NULL, 'i'},
        {"compute", required_argument, NULL, 'c'},
        {"quiet", no_argument, NULL, 'Q'},
        {"config", required_argument, NULL, 'C'},
        {"worker-program", required_argument, NULL, 'w'}, // for tests: another program as the worker
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    for (int letter; (letter = getopt_long(count, arguments, "h", known, NULL)) != -1;) {
        if (letter == 'h') {
            fputs(HELP, stdout);
            return fflush(stdout) == 0 ? 0 : 1;
        }
        if (letter == '?') {
            fprintf(stderr, "limn serve --help lists the options\n");
            return 2;
        }
        if (!read_option(options, letter, optarg)) return 2;
    }
    if (optind < count) {
        fprintf(stderr, "limn serve: \"%s\": no such argument; limn serve --help lists the options\n",
                arguments[optind]);
        return 2;
    }
    return -1;
}

// ----------------------------------------------------------------------------------------------------------- folders

// A spool folder that no other server uses: "spool-<k>", held by a lock on the file beside it.
static bool take_spool(struct serve_options *options, struct error *error) {
    for (int k = 0; k < SPOOLS_MOST; k++) {
        char name[32];
        snprintf(name, sizeof name, "spool-%d.lock", k);
        char *path = path_join(options->state, name);
        options->lock = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
        if (options->lock < 0) {
            error_set(error, ERROR_IO, "%s: %s", path ? path : name, strerror(errno));
            free(path);
            return false;
        }
        free(path);
        if (flock(options->lock, LOCK_EX | LOCK_NB) == 0) {
            snprintf(name, sizeof name, "spool-%d", k);
            options->spool = path_join(options->state, name);
            return options->spool || error_set(error, ERROR_MEMORY, "no memory for a path");
        }
        close(options->lock);
        options->lock = -1;
    }
    return error_set(error, ERROR_UNAVAILABLE, "%s: %d servers use it already", options->state, SPOOLS_MOST);
}

// ------------------------------------------------------------------------------------- from limn.yaml to the options

static bool take_network(struct server_options *server, const struct config *config, struct error *error) {
    const struct config_texts *proxies = &config->server.trusted_proxies,
                              *origins = &config->server.allowed_origins;
    if (proxies->count > NETWORKS_MOST)
        return error_set(error, ERROR_INPUT, "server.trusted_proxies: more than %d", NETWORKS_MOST);
    for (int i = 0; i < proxies->count; i++)
        if (!network_read(proxies->items[i], &server->proxies[server->proxy_count++], error))
            return error_prefix(error, "server.trusted_proxies");
    for (int i = 0; i < origins->count; i++) {
        if (server->origin_count == SERVER_ORIGINS_MOST)
            return error_set(error, ERROR_INPUT, "server.allowed_origins: more than %d", SERVER_ORIGINS_MOST);
        server->origins[server->origin_count++] = origins->items[i];
    }
    server->host = config->server.host;
    server->port = config->server.port;
    server->public_url = *config->server.public_base_url ? config->server.public_base_url : NULL;
    server->certificate = *config->server.tls.certificate ? config->server.tls.certificate : NULL;
    server->key = *config->server.tls.key ? config->server.tls.key : NULL;
    server->no_auth = config->auth.insecure_no_auth;
    server->auth_required = config->auth.required;
    server->keyless_per_minute = config->auth.keyless_requests_per_minute;
    server->metrics_open = config->server.metrics_public;
    return true;
}

static void take_limits(struct server_limits *limits, const struct config *config) {
    server_limits_default(limits);
    limits->connections = config->limits.connections;
    limits->per_address = config->limits.connections_per_address;
    limits->header_seconds = config->limits.header_seconds;
    limits->idle_seconds = config->limits.idle_seconds;
    limits->body_seconds = config->limits.body_seconds;
    limits->header_bytes = (size_t)config->limits.header_bytes;
    limits->json_bytes = (uint64_t)config->limits.json_bytes;
    limits->file_bytes = (uint64_t)config->limits.image_bytes;
    limits->body_bytes = (uint64_t)config->limits.body_bytes;
    limits->buffered_bytes = (uint64_t)config->limits.buffered_bytes;
    limits->spool_bytes = (uint64_t)config->limits.spool_bytes;
    limits->pixels = (double)config->limits.image_pixels;
    limits->stop_seconds = config->server.drain_seconds;
}

static void take_queue(struct queue_options *queue, const struct config *config) {
    for (int i = 0; i < config->local.loras.count; i++) queue->loras[i] = config->local.loras.items[i];
    queue->lora_count = config->local.loras.count;
    queue->depth = config->queue.depth;
    queue->threads = config->local.threads;
    queue->isa = *config->local.isa ? config->local.isa : NULL;
    queue->compute = *config->local.compute ? config->local.compute : NULL;
    queue->lease_seconds = config->queue.lease_seconds;
    queue->stall_seconds = config->queue.stall_seconds;
    queue->cancel_seconds = config->queue.cancel_seconds;
    int64_t megabytes = (config->local.cache_bytes + (1 << 20) - 1) >> 20;
    queue->cache_megabytes = megabytes < 1 ? -1 : megabytes > 1 << 20 ? 1 << 20 : (int)megabytes;
}

static bool open_records(struct serve_options *options, struct error *error) {
    const struct config *config = &options->config;
    if (!*config->store.path && !(options->records = path_join(options->state, "limn.db")))
        return error_set(error, ERROR_MEMORY, "no memory for a path");
    struct store_options store = {
        .path = options->records ? options->records : config->store.path,
        .synchronous_full = config->store.synchronous == SYNCHRONOUS_FULL,
        .keep_payloads = config->store.keep_payloads,
        .retention_seconds = config->store.retention_seconds,
        .payload_seconds = config->store.payload_seconds,
        .answer_seconds = config->store.idempotency_seconds,
        .busy_seconds = config->store.busy_seconds,
        .log = &options->log,
    };
    options->server.store = store_open(&store, error);
    return options->server.store != NULL;
}

// The folder of the model to serve, from its path or its name.
static bool take_model(struct serve_options *options, struct error *error) {
    const struct config *config = &options->config;
    const char *model = getenv("LIMN_MODEL");
    if (*config->local.model)
        model = config->local.model;
    else if (!model || !*model)
        bundled_model(options->bundled), model = options->bundled;
    char *path = model_path(options->catalog, model, error);
    if (path) options->model_path = realpath(path, NULL);
    free(path);
    if (options->model_path) return true;
    return error_set(error, ERROR_NOT_FOUND, "%s: %s; --model names the model folder", model,
                     strerror(errno));
}

static bool prepare(struct serve_options *options, struct error *error) {
    struct server_options *server = &options->server;
    const struct config *config = &options->config;
    options->catalog = catalog_open(config, error);
    if (!options->catalog || !take_model(options, error)) return false;
    // A path that stays right when the binary is replaced while the server runs is not to be had: what runs is asked.
    options->program = realpath(options->worker_program ? options->worker_program : "/proc/self/exe", NULL);
    if (!options->program)
        return error_set(error, ERROR_IO, "%s: %s",
                         options->worker_program ? options->worker_program : "/proc/self/exe",
                         strerror(errno));
    options->state = state_folder(error);
    if (!options->state || !take_spool(options, error)) return false;
    server->media_folder = *config->media.folder ? config->media.folder : NULL;
    if (!server->media_folder) server->media_folder = options->media = path_join(options->state, "media");
    if (!server->media_folder) return error_set(error, ERROR_MEMORY, "no memory for a path");
    server->media_seconds = config->media.lifetime_seconds;
    server->media_quota = (uint64_t)config->media.quota_bytes;
    server->access_log = config->log.access;
    server->spool_folder = options->spool;
    take_limits(&server->limits, config);
    take_queue(&server->gateway.queue, config);
    server->gateway.queue.program = options->program;
    server->gateway.queue.model_folder = options->model_path;
    server->gateway.start_seconds = config->local.start_seconds;
    if (!take_network(server, config, error)) return false;
    server->catalog = options->catalog;
    server->gateway.catalog = options->catalog;
    server->gateway.config = config;
    return open_records(options, error);
}

static void clean_up(struct serve_options *options) {
    if (options->spool) rmdir(options->spool); // empty unless something is wrong with it
    if (options->lock >= 0) close(options->lock);
    catalog_close(options->catalog);
    config_free(&options->config);
    free(options->model_path);
    free(options->program);
    free(options->state);
    free(options->media);
    free(options->records);
    free(options->spool);
}

// ----------------------------------------------------------------------------------------------------------- running

// Licences that do not let everybody use a model for anything are told to whoever starts the server.
static void tell_licences(const struct catalog *catalog) {
    for (int i = 0; i < catalog_count(catalog); i++) {
        const struct model_card *card = catalog_card(catalog, i);
        if (!card->weights.found || card->licence.commercial || card->disabled) continue;
        printf("The licence of %s: %s%s%s\n", card->id, card->licence.name, card->licence.notice ? ". " : "",
               card->licence.notice ? card->licence.notice : "");
    }
}

static void greet(const struct server *server, const struct catalog *catalog) {
    const struct queue_model *model = gateway_model_info(server_gateway(server));
    const char *url = server_url(server);
    printf("limn serves %s at %s/openai/v1 (Ctrl-C ends it)\n", gateway_model(server_gateway(server)), url);
    if (!model->trained)
        printf("This model is not trained to the end: do not expect its pictures to show what is asked.\n");
    tell_licences(catalog);
    printf("\nMake a picture:\n\n"
           "  curl -s %s/openai/v1/images/generations -H 'Content-Type: application/json' "
           "-d '{\"prompt\":\"a red circle above a blue square\",\"response_format\":\"b64_json\"}' "
           "| sed 's/.*\"b64_json\":\"\\([^\"]*\\)\".*/\\1/' | base64 -d > picture.png\n\n",
           url);
    fflush(stdout);
}

// SIGINT and SIGTERM as a descriptor; blocked before any thread is started.
static int open_signals(void) {
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGTERM);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    return signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
}

// The log's form is the worker's, too: it reads it from its environment.
static void open_log(struct serve_options *options) {
    const struct config *config = &options->config;
    options->log.level = (enum log_level)config->log.level;
    options->log.json = config->log.format == LOG_FORMAT_JSON;
    if (options->log.json) setenv("LIMN_LOG_FORMAT", "json", 1);
    options->server.log = options->server.gateway.log = options->server.gateway.queue.log = &options->log;
}

static bool serve(struct serve_options *options, struct error *error) {
    options->server.stop_fd = open_signals();
    if (!prepare(options, error)) {
        store_close(options->server.store);
        return false;
    }
    struct server *server = server_open(&options->server, error);
    if (!server && error->kind == ERROR_CANCELLED) {
        log_info(&options->log, "%s", error->message);
        return true;
    }
    if (!server) return false;
    greet(server, options->catalog);
    bool good = server_run(server, error);
    server_close(server);
    return good;
}

int command_serve(int count, char **arguments) {
    struct serve_options options = {.lock = -1, .log = {.level = LOG_INFO, .part = "server"}};
    options.server.stop_fd = -1;
    int status = read_config(&options, count, arguments);
    if (status < 0) status = read_arguments(&options, count, arguments);
    struct error error = {0};
    bool good = false;
    if (status < 0) {
        open_log(&options);
        good = serve(&options, &error);
    }
    clean_up(&options);
    if (options.server.stop_fd >= 0) close(options.server.stop_fd);
    if (status >= 0) return status;
    if (!good) fprintf(stderr, "limn serve: %s\n", error.message);
    return good ? 0 : 1;
}
