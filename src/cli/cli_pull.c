// `limn pull`: fetches a model from its hub. Relies on pull_plan.h, pull_folder.h, pull_progress.h, catalog.
#include "base/file.h"
#include "base/memory.h"
#include "catalog/catalog.h"
#include "cli/commands.h"
#include "cli/fit.h"
#include "cli/options.h"
#include "cli/pull_folder.h"
#include "cli/pull_plan.h"
#include "cli/pull_progress.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static const char HELP[] =
    "NAME\n"
    "  limn pull - fetch a model from its hub\n\n"
    "SYNOPSIS\n"
    "  limn pull [OPTION]... MODEL\n\n"
    "DESCRIPTION\n"
    "  MODEL is the id of a model card (flux.2-dev-turbo, flux.2-dev, flux.2-klein-4b), or a repository of "
    "the hub,\n"
    "  owner/name or owner/name@revision. Shown is what will be fetched, with sizes and licence; where the "
    "licence is not\n"
    "  for commercial use, or its owner asks for a consent, you are asked. Files come several at once and "
    "are checked by\n"
    "  their hashes. A run that was ended, by Ctrl-C, a kill or a full disk, is continued by the next one. "
    "What is there\n"
    "  already, also by the hub's own client, is not fetched again.\n\n"
    "  Then `limn generate --model MODEL` and `limn serve --model MODEL` find it.\n\n"
    "OPTIONS\n"
    "  -y, --yes             do not ask\n"
    "  -n, --dry-run         show what would be fetched, and end\n"
    "      --memory SIZE     of a card's forms of a part (types, sizes), take those for a machine with so "
    "much "
    "memory,\n"
    "                        as \"48GB\", instead of what is available here (or LIMN_MEMORY)\n"
    "      --type NAME       take the form of that type, as \"Q8_0\"; `limn plan MODEL` lists them\n"
    "      --text-type NAME  the same for the text encoder (default: --type)\n"
    "      --include PATTERN fetch these files of the (first) repository instead of the usual ones; may be "
    "given\n"
    "                        several times; * is any run of letters\n"
    "      --parallel N      files at once, 1 to 16 (default: 6)\n"
    "      --timeout SECONDS a connection that brings nothing for so long counts as broken (default: 30)\n"
    "      --retries N       tries after a failure that may pass, counted from the last byte (default: 6)\n"
    "      --config FILE     limn.yaml, which may name a folder of more model cards\n"
    "  -q, --quiet           no list and no progress\n"
    "  -h, --help            this text\n\n"
    "ENVIRONMENT\n"
    "  HF_TOKEN              the token of your account, for gated and private repositories (else the file "
    "HF_HOME/token)\n"
    "  HF_ENDPOINT           another hub that speaks the same protocol (default: https://huggingface.co)\n"
    "  HF_HOME, HF_HUB_CACHE where files are kept (default: ~/.cache/huggingface, and hub in it)\n"
    "  HF_HUB_OFFLINE        1: nothing is asked of any hub\n"
    "  SSL_CERT_FILE         other certificate authorities; https_proxy, no_proxy: a proxy\n"
    "  LIMN_GITHUB_RAW       a mirror of https://raw.githubusercontent.com, from where system messages "
    "come\n\n"
    "FILES\n"
    "  HF_HUB_CACHE/models--OWNER--NAME           the files, in the layout of the hub's own client\n"
    "  $XDG_DATA_HOME/limn/models/ID/limn.json    what makes a model of them (default: ~/.local/share)\n\n"
    "EXIT STATUS\n"
    "  0 when everything is here, 1 after an error, 2 for wrong usage, 130 when interrupted.\n";

struct pull_options {
    const char *model, *config, *type, *text_type;
    int64_t memory; // 0: what is available
    const char *patterns[PULL_PATTERNS_MOST];
    int pattern_count, parallel, retries;
    double stall_seconds;
    bool yes, dry_run, quiet;
};

// A signal handler can reach nothing but a global.
static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    if (interrupted) _exit(130); // a second Ctrl-C does not wait
    interrupted = 1;
}

static bool is_interrupted(void *user) {
    (void)user;
    return interrupted;
}

static void tell_wait(void *user, double seconds, const char *why) {
    (void)user;
    fprintf(stderr, "limn: %s; trying again in %.0f s\n", why, seconds + 0.5);
}

enum {
    OPTION_INCLUDE = 256,
    OPTION_PARALLEL,
    OPTION_TIMEOUT,
    OPTION_RETRIES,
    OPTION_CONFIG,
    OPTION_MEMORY,
    OPTION_TYPE,
    OPTION_TEXT_TYPE
};

static const struct option long_options[] = {
    {"yes", no_argument, NULL, 'y'},
    {"dry-run", no_argument, NULL, 'n'},
    {"include", required_argument, NULL, OPTION_INCLUDE},
    {"parallel", required_argument, NULL, OPTION_PARALLEL},
    {"timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"retries", required_argument, NULL, OPTION_RETRIES},
    {"memory", required_argument, NULL, OPTION_MEMORY},
    {"type", required_argument, NULL, OPTION_TYPE},
    {"text-type", required_argument, NULL, OPTION_TEXT_TYPE},
    {"config", required_argument, NULL, OPTION_CONFIG},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static bool read_include(struct pull_options *options, const char *text) {
    if (!hub_path_good(text)) {
        fprintf(stderr, "limn: --include: \"%s\" is not a relative path or pattern\n", text);
        return false;
    }
    if (options->pattern_count == PULL_PATTERNS_MOST) {
        fprintf(stderr, "limn: --include: more than %d of them\n", PULL_PATTERNS_MOST);
        return false;
    }
    options->patterns[options->pattern_count++] = text;
    return true;
}

static bool read_option(struct pull_options *options, int option, const char *text) {
    int64_t number = 0;
    switch (option) {
    case 'y':
        return options->yes = true;
    case 'n':
        return options->dry_run = true;
    case 'q':
        return options->quiet = true;
    case OPTION_INCLUDE:
        return read_include(options, text);
    case OPTION_MEMORY:
        options->memory = memory_parse(text);
        if (options->memory > 0) return true;
        fprintf(stderr, "limn: --memory: \"%s\", expected a size such as 24GB\n", text);
        return false;
    case OPTION_TYPE:
        options->type = text;
        return true;
    case OPTION_TEXT_TYPE:
        options->text_type = text;
        return true;
    case OPTION_PARALLEL:
        if (!option_integer("--parallel", text, 1, 16, &number)) return false;
        options->parallel = (int)number;
        return true;
    case OPTION_RETRIES:
        if (!option_integer("--retries", text, 0, 100, &number)) return false;
        options->retries = (int)number;
        return true;
    case OPTION_TIMEOUT:
        return option_number("--timeout", text, 1, 3600, &options->stall_seconds);
    default:
        options->config = text;
        return true;
    }
}

// 0: go on; otherwise the exit status plus one.
static int read_arguments(int count, char **arguments, struct pull_options *options) {
    opterr = 0;
    optind = 1;
    for (int option; (option = getopt_long(count, arguments, ":ynqh", long_options, NULL)) != -1;) {
        if (option == 'h') return fputs(HELP, stdout) >= 0 && fflush(stdout) == 0 ? 1 : 2;
        if (option == ':' || option == '?') {
            fprintf(stderr,
                    option == ':' ? "limn: %s needs a value\n"
                                  : "limn: there is no option %s; `limn pull --help` lists them\n",
                    arguments[optind - 1]);
            return 3;
        }
        if (!read_option(options, option, optarg)) return 3;
    }
    if (optind + 1 != count) {
        fprintf(stderr, "limn: expected one MODEL; `limn pull --help` explains\n");
        return 3;
    }
    options->model = arguments[optind];
    return 0;
}

// ---------------------------------------------------------------------------------------------------------------- steps

// What all steps of a pull work on.
struct pull {
    const struct pull_options *options;
    struct hub_place place;
    struct hub_client client;
    struct config config;
    struct catalog *catalog;
    struct pull_plan plan;
    struct download download;
    char *system_message;
    char *folder; // the model folder, when all is here
    char name[HUB_NAME], revision[HUB_REVISION];
};

// The card that the name means, or NULL where it is a repository.
static bool find_model(struct pull *pull, const struct model_card **card, struct error *error) {
    const char *model = pull->options->model;
    *card = NULL;
    if (strchr(model, '/'))
        return hub_name_read(model, pull->name, pull->revision) ||
               error_set(error, ERROR_INPUT, "\"%.100s\": expected owner/name or owner/name@revision", model);
    if (!config_load(&pull->config, pull->options->config, error)) return false;
    pull->catalog = catalog_open(&pull->config, error);
    if (!pull->catalog) return false;
    *card = catalog_look_up(pull->catalog, model, error);
    if (!*card) return false;
    return (*card)->weights.repository_count > 0 ||
           error_set(error, ERROR_NOT_FOUND, "%s: its model card names no repository to fetch it from",
                     (*card)->id);
}

// Which form of a part is fetched: the one that was asked for, else the one that fits the memory; NULL where the card has none.
static bool choose_form(const struct pull_options *options, const struct model_card *card, const char *part,
                        const char *type, const struct card_form **chosen, struct error *error) {
    const struct card_form *forms[CARD_FORMS_MOST];
    char names[300] = "";
    const int count = card ? card_forms_of(&card->weights, part, forms) : 0;
    *chosen = NULL;
    if (!count)
        return !(type || (options->memory && !(card && card->weights.form_count))) ||
               error_set(error, ERROR_INPUT,
                         "%s is to be had in one form only: --memory, --type and --text-type choose nothing",
                         options->model);
    if (!type) {
        *chosen = card_form_choose(forms, count, options->memory ? options->memory : memory_available());
        return true;
    }
    for (int i = 0; i < count; i++) {
        const size_t length = strlen(names);
        if (!strcasecmp(forms[i]->type, type)) *chosen = forms[i];
        snprintf(names + length, sizeof names - length, "%s%s", i ? ", " : "", forms[i]->type);
    }
    return *chosen || error_set(error, ERROR_INPUT, "%s: its %s is not to be had as \"%.40s\", expected %s",
                                card->id, part, type, names);
}

static bool make_plan(struct pull *pull, struct error *error) {
    const struct pull_options *options = pull->options;
    const struct model_card *card = NULL;
    bool none;
    if (!find_model(pull, &card, error) || !hub_place_read(&pull->place, error)) return false;
    if (pull->place.offline)
        return error_set(error, ERROR_UNAVAILABLE, "HF_HUB_OFFLINE is set: nothing is fetched");
    hub_client_init(&pull->client, &pull->place);
    pull->client.stall_seconds = options->stall_seconds;
    pull->client.retries = options->retries;
    pull->client.cancelled = is_interrupted;
    pull->client.waits = tell_wait;
    struct card_texts patterns = {options->patterns, options->pattern_count};
    const struct card_form *forms[CARD_FORMS_MOST];
    const char *text_type = options->text_type;
    if (!text_type && card && card_forms_of(&card->weights, "text_encoder", forms)) text_type = options->type;
    if (!choose_form(options, card, "transformer", options->type, &forms[0], error) ||
        !choose_form(options, card, "text_encoder", text_type, &forms[1], error))
        return false;
    if (!pull_plan_make(&pull->plan, &pull->client, card, forms, pull->name, pull->revision, &patterns,
                        error))
        return false;
    // Before the long part: without it the model cannot be used.
    pull->system_message = pull_system_message(card, &pull->client, &none, error);
    return pull->system_message || none;
}

// Asks on the terminal. False with an error: nobody agreed.
static bool consent(const struct pull *pull, struct error *error) {
    char why[700], answer[20] = "";
    if (pull->options->yes || pull->plan.here == pull->plan.bytes ||
        !pull_plan_needs_consent(&pull->plan, &pull->place, why, sizeof why))
        return true;
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
        return error_set(error, ERROR_INPUT, "%.400s. --yes agrees to that", why);
    fprintf(stderr, "%s\nFetch it? [y/N] ", why);
    fflush(stderr);
    if (!fgets(answer, sizeof answer, stdin)) *answer = 0;
    if (interrupted) return error_set(error, ERROR_CANCELLED, "interrupted");
    return *answer == 'y' || *answer == 'Y' ||
           error_set(error, ERROR_INPUT, "not fetched: the answer was no");
}

static bool show(const struct pull *pull, struct error *error) {
    int64_t room = 0;
    char text[SIZE_TEXT];
    bool fits = pull_plan_check_space(&pull->plan, pull->place.cache, &room, error);
    if (!pull->options->quiet || pull->options->dry_run) {
        pull_plan_print(&pull->plan, stdout);
        printf("into %s (%s free)\n", pull->place.cache, size_text(room, text));
        fflush(stdout);
    }
    return fits;
}

static bool fetch(struct pull *pull, struct error *error) {
    struct pull_progress progress;
    download_init(&pull->download, &pull->client);
    for (int i = 0; i < pull->plan.repository_count; i++) {
        const struct pull_repository *repository = &pull->plan.repositories[i];
        for (int j = 0; j < repository->file_count; j++)
            if (!download_add(&pull->download, &repository->snapshot, repository->name,
                              repository->info.commit, repository->files[j], error))
                return false;
    }
    pull->download.parallel = pull->options->parallel;
    pull->download.changed = pull_progress_changed;
    pull->download.user = &progress;
    pull_progress_begin(&progress, pull->options->quiet);
    bool good = download_run(&pull->download, error);
    pull_progress_end(&progress);
    return good;
}

// All files are here: refs, and limn's own folder where one is needed and the files were those of the card.
static bool finish(struct pull *pull, struct error *error) {
    const struct pull_plan *plan = &pull->plan;
    for (int i = 0; i < plan->repository_count; i++) {
        const struct pull_repository *repository = &plan->repositories[i];
        if (!hub_snapshot_note(&repository->snapshot, repository->revision, repository->info.commit, error))
            return false;
    }
    if (plan->card && card_needs_folder(plan->card) && !pull->options->pattern_count)
        pull->folder = pull_folder_write(plan, pull->system_message, error);
    else if (!(pull->folder = strdup(plan->repositories[0].snapshot.folder)))
        error_set(error, ERROR_MEMORY, "not enough memory for a path");
    return pull->folder != NULL;
}

static bool run(struct pull *pull, struct error *error) {
    if (!make_plan(pull, error) || !show(pull, error)) return false;
    if (pull->options->dry_run) return true;
    return consent(pull, error) && fetch(pull, error) && finish(pull, error);
}

// Says how it went and how to go on; returns the exit status.
static int report(const struct pull *pull, bool good, const struct error *error) {
    char here[SIZE_TEXT], total[SIZE_TEXT];
    int64_t here_bytes, total_bytes;
    int done;
    download_sum(&pull->download, &here_bytes, &total_bytes, &done);
    if (good && pull->folder) {
        printf("%s%s is here: %s\n", pull->options->pattern_count ? "What was asked for of " : "",
               pull->options->model, pull->folder);
        if (!pull->options->quiet && !pull->options->pattern_count)
            fit_advise(pull->folder, pull->options->model, stdout);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    if (good) return fflush(stdout) == 0 ? 0 : 1;
    bool cancelled = error->kind == ERROR_CANCELLED;
    fprintf(stderr, "limn: %s\n", error->message);
    if (here_bytes > 0)
        fprintf(stderr, "limn: %s of %s are here; `limn pull %s` goes on from there\n",
                size_text(here_bytes, here), size_text(total_bytes, total), pull->options->model);
    return cancelled ? 130 : 1;
}

int command_pull(int count, char **arguments) {
    struct pull_options options = {.parallel = 6, .retries = 6, .stall_seconds = 30};
    int stop = read_arguments(count, arguments, &options);
    if (stop) return stop - 1;
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); // a file that may not grow is an error of the write
    struct pull pull = {.options = &options};
    struct error error = {0};
    bool good = run(&pull, &error);
    int status = report(&pull, good, &error);
    free(pull.folder);
    free(pull.system_message);
    download_free(&pull.download);
    pull_plan_free(&pull.plan);
    catalog_close(pull.catalog);
    config_free(&pull.config);
    hub_place_free(&pull.place);
    return status;
}
