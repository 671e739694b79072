// limn config: checks and shows limn.yaml. Relies on catalog.
#include "base/buffer.h"
#include "catalog/catalog.h"
#include "cli/commands.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char HELP[] =
    "limn config - check and show the configuration\n"
    "\n"
    "usage: limn config check [FILE]\n"
    "       limn config print [FILE]\n"
    "\n"
    "check  reads limn.yaml, the environment and all model cards; an error names the file and the line\n"
    "print  writes every setting with its value, what it means and where it comes from, as a limn.yaml\n"
    "\n"
    "FILE is the configuration; without one it is $LIMN_CONFIG, else the first of ./limn.yaml,\n"
    "$XDG_CONFIG_HOME/limn/limn.yaml (~/.config) and /etc/limn/limn.yaml that is there, else none. Every "
    "setting has a\n"
    "variable that overrides it: server.tls.key is LIMN_SERVER_TLS_KEY.\n"
    "\n"
    "Exit status: 0 when all is well, 1 when something is wrong with a file or variable, 2 for wrong "
    "usage.\n";

static int fail(const struct error *error) {
    fprintf(stderr, "limn config: %s\n", error->message);
    return 1;
}

static int check(const struct config *config) {
    struct error error = {0};
    struct catalog *catalog = catalog_open(config, &error);
    if (!catalog) return fail(&error);
    // A folder that is served may have a name of its own, which only its worker knows.
    const char *model = getenv("LIMN_MODEL");
    if (!*config->local.model && !(model && *model) && !catalog_check_names(catalog, &error)) {
        catalog_close(catalog);
        return fail(&error);
    }
    int count = catalog_count(catalog), installed = 0;
    for (int i = 0; i < count; i++) installed += catalog_card(catalog, i)->weights.found != NULL;
    printf("%s: good; %d model cards, %d with weights on this machine\n",
           *config->path ? config->path : "no limn.yaml, all settings at their defaults", count, installed);
    catalog_close(catalog);
    return fflush(stdout) == 0 ? 0 : 1;
}

static int print(const struct config *config) {
    struct buffer text = {0};
    struct error error = {0};
    bool good = config_print(config, &text);
    if (!good) error_set(&error, ERROR_MEMORY, "not enough memory");
    if (good && (fwrite(text.data, 1, text.length, stdout) != text.length || fflush(stdout) != 0))
        good = error_set(&error, ERROR_IO, "standard output cannot be written");
    buffer_free(&text);
    return good ? 0 : fail(&error);
}

int command_config(int count, char **arguments) {
    static const struct option known[] = {{"help", no_argument, NULL, 'h'}, {0}};
    for (int letter; (letter = getopt_long(count, arguments, "h", known, NULL)) != -1;) {
        if (letter == 'h') {
            fputs(HELP, stdout);
            return fflush(stdout) == 0 ? 0 : 1;
        }
        fprintf(stderr, "limn config --help shows the usage\n");
        return 2;
    }
    const char *what = optind < count ? arguments[optind] : "";
    bool checking = !strcmp(what, "check");
    if ((!checking && strcmp(what, "print")) || optind + 2 < count) {
        fprintf(stderr,
                "limn config: expected check or print, and at most one file; see limn config --help\n");
        return 2;
    }
    struct config config;
    struct error error = {0};
    const char *path = optind + 1 < count ? arguments[optind + 1] : NULL;
    int status =
        config_load(&config, path, &error) ? checking ? check(&config) : print(&config) : fail(&error);
    config_free(&config);
    return status;
}
