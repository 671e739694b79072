// limn: the command line. Finds the subcommand and hands it its arguments. Relies on commands.h, the public limn.h.

#include "cli/commands.h"
#include "limn/limn.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct command commands[] = {
    {"generate", "make pictures from a prompt", command_generate},
    {"edit", "make a picture from a prompt and up to four reference images", command_generate},
    {"serve", "serve the model as the OpenAI Images API", command_serve},
    {"pull", "fetch a model from its hub", command_pull},
    {"config", "check and show the configuration and the model cards", command_config},
    {"key", "make, list and revoke API keys", command_key},
    {"inspect", "show what a weight file or a model folder holds", command_inspect},
    {"convert", "write a model in another type or form", command_convert},
    {"plan", "show what a model takes of memory, stage by stage", command_plan},
    {"bench", "measure this machine on the model's shapes", command_bench},
    {"worker", NULL, command_worker},
    {"dump", NULL, command_dump},
    {"tokenize", NULL, command_tokenize},
};

enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static void print_help(FILE *to) {
    fprintf(to, "limn runs FLUX.2 [dev] Turbo on this machine and serves it as the OpenAI Images API.\n\n"
                "usage: limn COMMAND [OPTION]...\n\n");
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (commands[i].summary) fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(to, "\n  --version  print the version and the instruction sets that can be used here\n"
                "  --help     print this text; `limn COMMAND --help` is a command's manual page\n");
}

static int print_version(void) {
    printf("limn %s\nisa: %s\n", limn_version(), limn_isa_names());
    return fflush(stdout) == 0 ? 0 : 1;
}

int main(int count, char **arguments) {
    // A reader that closes its end of a pipe makes writes fail with EPIPE, which every writer checks.
    signal(SIGPIPE, SIG_IGN);
    if (count < 2) {
        print_help(stderr);
        return 2;
    }
    const char *name = arguments[1];
    if (!strcmp(name, "--version") || !strcmp(name, "-V")) return print_version();
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        print_help(stdout);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (!strcmp(name, commands[i].name)) return commands[i].run(count - 1, arguments + 1);
    fprintf(stderr, "limn: there is no command \"%s\"; `limn --help` lists them\n", name);
    return 2;
}
