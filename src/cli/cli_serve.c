// limn serve: the OpenAI Images API over the local engine. Relies on server.
#include "base/file.h"
#include "cli/commands.h"
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

#define MODEL_DEFAULT "models/pictogram"
#define SPOOLS_MOST   64

static const char HELP[] =
    "limn serve - serve a model as the OpenAI Images API\n"
    "\n"
    "usage: limn serve [OPTION]...\n"
    "\n"
    "Answers POST /openai/v1/images/generations and /openai/v1/images/edits, GET /openai/v1/models (all of "
    "it also under\n"
    "/v1), GET /media/NAME and GET /healthz. The model runs in a process of its own, which is replaced when "
    "it fails. One\n"
    "request is worked on at a time; others wait. Ctrl-C or SIGTERM ends the server: what is in work is "
    "answered with an\n"
    "error, and nothing is left behind.\n"
    "\n"
    "  --model DIR          model folder (default: $LIMN_MODEL, else " MODEL_DEFAULT ")\n"
    "  --host ADDRESS       address to listen on (default: 127.0.0.1)\n"
    "  --port N             port to listen on, 0 for any free one (default: 8080)\n"
    "  --insecure-no-auth   allow an address that other machines reach, though there are no keys yet\n"
    "  --allow-origin URL   let pages of this origin call from a browser; may be given several times, * for "
    "all\n"
    "  --public-url URL     what the URLs of pictures begin with (default: the address that the client "
    "used)\n"
    "  --media-dir DIR      where pictures behind URLs are kept, for 60 minutes (default: STATE/media)\n"
    "  --queue-depth N      requests that may wait; one more is answered with 429 (default: 16)\n"
    "  --threads N          threads of the engine (default: one a processor)\n"
    "  --isa NAME           instruction set of the engine, as `limn --version` names them (default: the "
    "best)\n"
    "  --compute TYPE       auto, f32 or bf16 (default: auto)\n"
    "  --quiet              no line for each request\n"
    "  --help               print this text\n"
    "\n"
    "STATE is $XDG_STATE_HOME/limn, else ~/.local/state/limn.\n"
    "\n"
    "Exit status: 0 when stopped, 1 when it cannot serve, 2 for wrong usage.\n";

struct serve_options {
    struct server_options server;
    const char *model;
    char *model_path, *state, *media, *spool, *program;
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

static bool read_option(struct serve_options *options, int letter, const char *text) {
    struct server_options *server = &options->server;
    struct queue_options *queue = &server->gateway.queue;
    switch (letter) {
    case 'm':
        options->model = text;
        return true;
    case 'H':
        server->host = text;
        return true;
    case 'p':
        return read_count("--port", text, 0, 65535, &server->port);
    case 'A':
        server->no_auth = true;
        return true;
    case 'o':
        if (server->origin_count == SERVER_ORIGINS_MOST) return usage("--allow-origin", "at most 16 of them");
        server->origins[server->origin_count++] = text;
        return true;
    case 'u':
        if (strncmp(text, "http://", 7) && strncmp(text, "https://", 8))
            return usage("--public-url", "a URL that begins with http:// or https://");
        if (strlen(text) > 200 || strpbrk(text, "\"\\ "))
            return usage("--public-url", "a plain URL of at most 200 letters");
        server->public_url = text;
        return true;
    case 'd':
        server->media_folder = text;
        return true;
    case 'q':
        return read_count("--queue-depth", text, 0, 100000, &queue->depth);
    case 't':
        return read_count("--threads", text, 0, 256, &queue->threads);
    case 'i':
        queue->isa = text;
        return true;
    case 'c':
        if (strcmp(text, "auto") && strcmp(text, "f32") && strcmp(text, "bf16"))
            return usage("--compute", "auto, f32 or bf16");
        queue->compute = text;
        return true;
    case 'Q':
        options->log.level = LOG_WARNING;
        return true;
    default:
        return false;
    }
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
        {"threads", required_argument, NULL, 't'},
        {"isa", required_argument, NULL, 'i'},
        {"compute", required_argument, NULL, 'c'},
        {"quiet", no_argument, NULL, 'Q'},
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

static char *state_folder(struct error *error) {
    const char *home = getenv("XDG_STATE_HOME");
    char *path = NULL, *inner = NULL;
    if (home && *home == '/') {
        path = path_join(home, "limn");
    } else {
        home = getenv("HOME");
        if (!home || *home != '/') {
            error_set(error, ERROR_INPUT, "neither XDG_STATE_HOME nor HOME names a folder for limn's state");
            return NULL;
        }
        inner = path_join(home, ".local/state");
        path = inner ? path_join(inner, "limn") : NULL;
        free(inner);
    }
    if (!path) error_set(error, ERROR_MEMORY, "no memory for a path");
    if (path && folder_make(path, error)) return path;
    free(path);
    return NULL;
}

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

static bool prepare(struct serve_options *options, struct error *error) {
    struct server_options *server = &options->server;
    options->model_path = realpath(options->model, NULL);
    if (!options->model_path)
        return error_set(error, ERROR_NOT_FOUND, "%s: %s; --model names the model folder", options->model,
                         strerror(errno));
    // A path that stays right when the binary is replaced while the server runs is not to be had: what runs is asked.
    options->program = realpath("/proc/self/exe", NULL);
    if (!options->program) return error_set(error, ERROR_IO, "/proc/self/exe: %s", strerror(errno));
    options->state = state_folder(error);
    if (!options->state || !take_spool(options, error)) return false;
    if (!server->media_folder) server->media_folder = options->media = path_join(options->state, "media");
    if (!server->media_folder) return error_set(error, ERROR_MEMORY, "no memory for a path");
    server->spool_folder = options->spool;
    server->gateway.queue.program = options->program;
    server->gateway.queue.model_folder = options->model_path;
    return true;
}

static void clean_up(struct serve_options *options) {
    if (options->spool) rmdir(options->spool); // empty unless something is wrong with it
    if (options->lock >= 0) close(options->lock);
    free(options->model_path);
    free(options->program);
    free(options->state);
    free(options->media);
    free(options->spool);
}

// ----------------------------------------------------------------------------------------------------------- running

static void greet(const struct server *server) {
    const struct queue_model *model = gateway_model_info(server_gateway(server));
    const char *url = server_url(server);
    printf("limn serves %s at %s/openai/v1 (Ctrl-C ends it)\n", gateway_model(server_gateway(server)), url);
    if (!model->trained)
        printf("This model is not trained to the end: do not expect its pictures to show what is asked.\n");
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

int command_serve(int count, char **arguments) {
    struct serve_options options = {.lock = -1, .log = {LOG_INFO, "server"}};
    const char *model = getenv("LIMN_MODEL");
    options.model = model && *model ? model : MODEL_DEFAULT;
    options.server = (struct server_options){.host = "127.0.0.1", .port = 8080, .stop_fd = -1};
    options.server.gateway.queue.depth = 16;
    options.server.gateway.start_seconds = 120;
    int status = read_arguments(&options, count, arguments);
    if (status >= 0) return status;
    options.server.log = options.server.gateway.log = options.server.gateway.queue.log = &options.log;
    options.server.stop_fd = open_signals();
    struct error error = {0};
    struct server *server = NULL;
    bool good = prepare(&options, &error) && (server = server_open(&options.server, &error));
    if (good) {
        greet(server);
        good = server_run(server, &error);
    }
    server_close(server);
    clean_up(&options);
    if (options.server.stop_fd >= 0) close(options.server.stop_fd);
    if (!good) fprintf(stderr, "limn serve: %s\n", error.message);
    return good ? 0 : 1;
}
