// limn worker: the process that holds the model and draws for `limn serve`. Started by the server, not by hand. Relies on
// queue/worker.h.
#include "cli/commands.h"
#include "cli/options.h"
#include "image/image.h"
#include "queue/process.h"
#include "queue/worker.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static const char HELP[] =
    "limn worker - draw for a server (started by `limn serve`, not by hand)\n\n"
    "usage: limn worker --model DIR --spool DIR [--threads N] [--isa NAME] [--compute auto|f32|bf16|int8]\n"
    "       [--cache-megabytes N] [--lora FILE[:SCALE]]...\n\n"
    "Speaks the queue's messages on file descriptor 3 and ends when that closes.\n";

static int wrong(const char *what) {
    fprintf(stderr, "limn worker: %s\n", what);
    return 2;
}

static bool read_compute(const char *name, enum limn_compute *compute) {
    if (!strcmp(name, "auto"))
        *compute = LIMN_COMPUTE_AUTO;
    else if (!strcmp(name, "f32"))
        *compute = LIMN_COMPUTE_F32;
    else if (!strcmp(name, "bf16"))
        *compute = LIMN_COMPUTE_BF16;
    else if (!strcmp(name, "int8"))
        *compute = LIMN_COMPUTE_INT8;
    else
        return false;
    return true;
}

int command_worker(int count, char **arguments) {
    static const struct option known[] = {
        {"model", required_argument, NULL, 'm'},
        {"spool", required_argument, NULL, 's'},
        {"threads", required_argument, NULL, 't'},
        {"isa", required_argument, NULL, 'i'},
        {"compute", required_argument, NULL, 'c'},
        {"cache-megabytes", required_argument, NULL, 'C'},
        {"lora", required_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    const char *form = getenv("LIMN_LOG_FORMAT");
    struct log log = {LOG_INFO, "worker", form && !strcmp(form, "json")};
    struct worker_options options = {.socket = PROCESS_SOCKET, .log = &log};
    struct limn_lora loras[LIMN_LORAS_MOST];
    limn_options_init(&options.engine);
    options.engine.loras = loras;
    for (int letter; (letter = getopt_long(count, arguments, "h", known, NULL)) != -1;) {
        char *end;
        long number;
        switch (letter) {
        case 'm':
            options.model_folder = optarg;
            break;
        case 's':
            options.spool_folder = optarg;
            break;
        case 't':
            errno = 0;
            number = strtol(optarg, &end, 10);
            if (errno || *end || number < 0 || number > 256) return wrong("--threads: expected 0 to 256");
            options.engine.threads = (int)number;
            break;
        case 'i':
            options.engine.isa = optarg;
            break;
        case 'c':
            if (!read_compute(optarg, &options.engine.compute))
                return wrong("--compute: expected auto, f32, bf16 or int8");
            break;
        case 'C':
            errno = 0;
            number = strtol(optarg, &end, 10);
            if (errno || *end || number < 0 || number > 1 << 20)
                return wrong("--cache-megabytes: expected 0 to 1048576");
            options.engine.cache_bytes = (size_t)number << 20;
            break;
        case 'l':
            if (options.engine.lora_count == LIMN_LORAS_MOST) return wrong("--lora: more than 4 of them");
            if (!option_lora("--lora", optarg, LIMN_LORA_SCALE_MOST, &loras[options.engine.lora_count].file,
                             &loras[options.engine.lora_count].scale))
                return 2;
            options.engine.lora_count++;
            break;
        case 'h':
            fputs(HELP, stdout);
            return 0;
        default:
            return 2;
        }
    }
    int type;
    socklen_t length = sizeof type;
    if (!options.model_folder || !options.spool_folder) return wrong("--model and --spool are needed");
    if (getsockopt(options.socket, SOL_SOCKET, SO_TYPE, &type, &length))
        return wrong("file descriptor 3 is no socket: this command is started by `limn serve`");
    struct error error = {0};
    if (!image_library_start("limn", &error)) {
        fprintf(stderr, "limn worker: %s\n", error.message);
        return 1;
    }
    return worker_run(&options);
}
