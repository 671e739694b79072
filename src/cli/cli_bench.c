// `limn bench`: how fast this machine runs the model's operations, beside its own ceilings. Relies on measure.h, options.h.
#include "cli/commands.h"
#include "cli/measure.h"
#include "cli/options.h"

#include <stdio.h>
#include <string.h>

static const char help[] =
    "limn bench - measure this machine on the model's shapes\n"
    "\n"
    "usage: limn bench [OPTION]...\n"
    "\n"
    "Prints the ceilings of this machine (products in registers, reading memory), then seconds, GFLOP/s and\n"
    "the share of the bf16 ceiling for the operations of FLUX.2 [klein] 4B and its autoencoder with random\n"
    "values: medians. Needs no model and about 1 GB of memory; takes a minute or two.\n"
    "\n"
    "options:\n"
    "  --threads N   threads to use (default: one a processor)\n"
    "  --isa NAME    instruction set: amx, avx512bf16, avx512, avx2 or plain (default: the best one here)\n"
    "  --rounds N    times that each operation is run, 1 to 63 (default 5)\n"
    "  --quick       only the sizes of a 512x512 picture\n"
    "  --help        print this text\n";

struct choices {
    int64_t threads, rounds;
    const char *isa;
    bool quick;
};

// 0 to go on, otherwise the exit status plus one.
static int parse(int count, char **arguments, struct choices *choices) {
    for (int i = 1; i < count; i++) {
        const char *option = arguments[i], *value = i + 1 < count ? arguments[i + 1] : NULL;
        if (!strcmp(option, "--help")) {
            fputs(help, stdout);
            return fflush(stdout) == 0 ? 1 : 2;
        }
        if (!strcmp(option, "--quick")) {
            choices->quick = true;
            continue;
        }
        const bool known =
            !strcmp(option, "--threads") || !strcmp(option, "--rounds") || !strcmp(option, "--isa");
        if (!known || !value) {
            fprintf(stderr,
                    known ? "limn bench: %s: a value is missing\n"
                          : "limn bench: unknown option \"%s\"; `limn bench --help` lists them\n",
                    option);
            return 3;
        }
        i++;
        if (!strcmp(option, "--isa")) choices->isa = value;
        if (!strcmp(option, "--threads") && !option_integer(option, value, 1, 256, &choices->threads))
            return 3;
        if (!strcmp(option, "--rounds") &&
            !option_integer(option, value, 1, MEASURE_ROUNDS_MOST, &choices->rounds))
            return 3;
    }
    return 0;
}

int command_bench(int count, char **arguments) {
    struct choices choices = {.rounds = 5};
    const int status = parse(count, arguments, &choices);
    if (status) return status - 1;
    struct error error = {0};
    struct measure measure = {0};
    struct pool *pool = pool_open((int)choices.threads, &error);
    if (!pool || !measure_open(&measure, pool, choices.isa, (int)choices.rounds, &error)) {
        fprintf(stderr, "limn bench: %s\n", error.message);
        pool_close(pool);
        return error.kind == ERROR_INPUT ? 2 : 1;
    }
    measure_machine(&measure);
    measure_shapes(&measure, choices.quick);
    const bool good = device_status(measure.device, &error);
    if (!good) fprintf(stderr, "limn bench: %s\n", error.message);
    measure_close(&measure);
    pool_close(pool);
    return good && fflush(stdout) == 0 ? 0 : 1;
}
