// `limn plan`: what a model takes of memory, stage by stage. Relies on options.h, flux/memory_plan.h.
#include "cli/commands.h"
#include "cli/fit.h"
#include "cli/model_path.h"
#include "cli/options.h"
#include "cli/plan_card.h"

#include "base/memory.h"
#include "catalog/catalog.h"
#include "flux/memory_plan.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static const char help[] =
    "NAME\n"
    "  limn plan - what a model takes of memory, stage by stage\n\n"
    "SYNOPSIS\n"
    "  limn plan [OPTION]... MODEL\n\n"
    "DESCRIPTION\n"
    "  Weights are mapped: what does not stay in memory is read from the disk again, the transformer's in "
    "every\n"
    "  step. Each stage's weights are let go when the next begins. Of a part that limn.json gives in several "
    "forms\n"
    "  the finest that stays in memory is taken. Memory of limn's own must fit: a request for which it does "
    "not is\n"
    "  refused before it begins. Where a smaller form of a part would stay in memory and is not here, "
    "`limn convert\n"
    "  --fit` is named, which makes it. MODEL is a model folder or a model's name; of one that is not "
    "fetched yet "
    "the "
    "forms are\n"
    "  shown that `limn pull` would fetch.\n\n"
    "OPTIONS\n"
    "  -s, --size WxH       of the picture (default: the model's)\n"
    "  -r, --reference WxH  a reference image of that size; up to four times\n"
    "  -n, --n N            pictures of one request (default: 1)\n"
    "      --steps N        default: the model's\n"
    "      --memory SIZE    plan for that much instead of what is available, as \"24GB\" (default: this "
    "machine's,\n"
    "                       then 24, 48, 64 and 128 GB). LIMN_MEMORY sets the same for every command\n"
    "      --json           one JSON document\n"
    "  -h, --help           this text\n\n"
    "EXIT STATUS\n"
    "  0 when the request can run, 1 when it cannot or the model cannot be opened, 2 for wrong usage\n\n"
    "EXAMPLE\n"
    "  limn plan flux.2-dev-turbo\n"
    "  limn plan models/FLUX.2-dev --size 1024x1024 --reference 1024x1024 --memory 24GB\n";

struct plan_options {
    const char *model, *memory;
    char *path; // of the model folder; NULL: it is not here
    struct limn_request request;
    struct limn_image references[LIMN_REFERENCES_MOST];
    bool json;
};

enum { OPTION_STEPS = 256, OPTION_MEMORY, OPTION_JSON };

static const struct option long_options[] = {
    {"size", required_argument, NULL, 's'},
    {"reference", required_argument, NULL, 'r'},
    {"n", required_argument, NULL, 'n'},
    {"steps", required_argument, NULL, OPTION_STEPS},
    {"memory", required_argument, NULL, OPTION_MEMORY},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static bool read_reference(const char *text, struct plan_options *options) {
    static uint8_t pixel; // never read: a plan looks at sizes only
    struct limn_request *request = &options->request;
    if (request->reference_count == LIMN_REFERENCES_MOST) {
        fprintf(stderr, "limn: --reference: more than %d\n", LIMN_REFERENCES_MOST);
        return false;
    }
    struct limn_image *image = &options->references[request->reference_count++];
    image->pixels = &pixel;
    return option_size("--reference", text, 64, 1 << 16, &image->width, &image->height);
}

static bool read_number(const char *option, const char *text, int most, int *to) {
    int64_t value;
    if (!option_integer(option, text, 1, most, &value)) return false;
    *to = (int)value;
    return true;
}

// -1: go on; else the exit status.
static int read_arguments(int count, char **arguments, struct plan_options *options) {
    struct limn_request *request = &options->request;
    bool good = true;
    optind = 1;
    for (int letter; good && (letter = getopt_long(count, arguments, "s:r:n:h", long_options, NULL)) != -1;) {
        switch (letter) {
        case 's':
            good = option_size("--size", optarg, LIMN_SIDE_LEAST, LIMN_SIDE_MOST, &request->width,
                               &request->height);
            break;
        case 'r':
            good = read_reference(optarg, options);
            break;
        case 'n':
            good = read_number("--n", optarg, LIMN_COUNT_MOST, &request->count);
            break;
        case OPTION_STEPS:
            good = read_number("--steps", optarg, LIMN_STEPS_MOST, &request->steps);
            break;
        case OPTION_MEMORY:
            good = option_memory("--memory", optarg, &options->memory);
            break;
        case OPTION_JSON:
            options->json = true;
            break;
        case 'h':
            fputs(help, stdout);
            return fflush(stdout) == 0 ? 0 : 1;
        default:
            good = false;
        }
    }
    if (good && count - optind != 1) {
        fputs("limn: plan: expected one MODEL\n", stderr);
        good = false;
    }
    if (!good) {
        fputs("limn: `limn plan --help` tells how it is used\n", stderr);
        return 2;
    }
    options->model = arguments[optind];
    return -1;
}

// ------------------------------------------------------------------------------------------------------------- output

// Three digits: "64.4 GB", "5.68 MB".
static const char *scaled(int64_t bytes, char text[16]) {
    const bool large = bytes >= 1000000000;
    const double shown = (double)bytes / (large ? 1e9 : 1e6);
    snprintf(text, 16, "%.*f %s", shown >= 100 ? 0 : shown >= 10 ? 1 : 2, shown, large ? "GB" : "MB");
    return text;
}

static void print_stage(const struct memory_stage *stage, const struct memory_plan *plan) {
    char text[16];
    printf("  %-11s %-13s ", stage->name, stage->part);
    if (stage->weights.bytes > 0)
        printf("%-7s %9s ", dtype_info(stage->weights.type)->name, scaled(stage->weights.bytes, text));
    else
        printf("%-7s %9s ", "", "");
    printf("%10s  ", scaled(stage->own, text));
    if (stage->own > plan->memory)
        puts("does not fit");
    else if (stage->weights.bytes == 0)
        puts("in memory");
    else if (stage->resident)
        printf("stays in memory, let go after %s\n", stage->reads > 1 ? "the last pass" : "one pass");
    else
        printf("read from the disk %d time%s\n", stage->reads, stage->reads == 1 ? "" : "s");
}

static void print_plan(const struct memory_plan *plan, const struct limn_request *filled,
                       const char *memory) {
    char text[16];
    printf("%s (%s): %dx%d, %d reference%s, %d step%s\n", memory ? memory : "available now",
           scaled(plan->memory, text), filled->width, filled->height, filled->reference_count,
           filled->reference_count == 1 ? "" : "s", filled->steps, filled->steps == 1 ? "" : "s");
    printf("  %-11s %-13s %-7s %9s %10s\n", "stage", "weights of", "type", "mapped", "own memory");
    for (int i = 0; i < plan->count; i++) print_stage(&plan->stages[i], plan);
    if (plan->tile)
        printf("  decoded in tiles of %d pixels a side, which changes the picture a little\n", plan->tile);
    if (!plan->possible) puts("  cannot run: own memory does not fit");
}

static json_t *plan_json(const struct memory_plan *plan, const struct limn_request *filled) {
    json_t *stages = json_array();
    for (int i = 0; i < plan->count; i++) {
        const struct memory_stage *stage = &plan->stages[i];
        json_array_append_new(
            stages,
            json_pack("{s:s, s:s, s:s?, s:I, s:I, s:i, s:b}", "stage", stage->name, "part", stage->part,
                      "type", stage->weights.bytes ? dtype_info(stage->weights.type)->name : NULL,
                      "mapped_bytes", (json_int_t)stage->weights.bytes, "own_bytes", (json_int_t)stage->own,
                      "reads", stage->reads, "resident", stage->resident));
    }
    return json_pack("{s:I, s:i, s:i, s:i, s:i, s:b, s:o}", "memory_bytes", (json_int_t)plan->memory, "width",
                     filled->width, "height", filled->height, "steps", filled->steps, "tile", plan->tile,
                     "possible", plan->possible, "stages", stages);
}

static bool all_there(const struct part_fit fits[FIT_PARTS]) {
    for (int i = 0; i < FIT_PARTS; i++)
        if (!fits[i].there) return false;
    return true;
}

// The forms that would stay in memory and are not there.
static void print_wanted(const struct part_fit fits[FIT_PARTS], const char *model, const char *memory) {
    if (all_there(fits)) return;
    printf("  `limn convert --fit%s%s %s` would make of it:\n", memory ? " --memory " : "",
           memory ? memory : "", model);
    fit_print(fits, "    ", stdout);
}

static json_t *wanted_json(const struct part_fit fits[FIT_PARTS]) {
    json_t *list = json_array();
    for (int i = 0; i < FIT_PARTS; i++)
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:I, s:b, s:b}", "part", model_part_name(fits[i].part), "type",
                            dtype_info(fits[i].type)->name, "bytes", (json_int_t)fits[i].bytes, "there",
                            fits[i].there, "resident", fits[i].stays));
    return list;
}

// Plans for [memory] (NULL: what there is); the model is opened anew, since the forms of its parts follow the memory.
static bool plan_for(const struct plan_options *options, const char *memory, json_t *list, bool *possible,
                     struct error *error) {
    struct memory_plan plan;
    struct limn_request filled;
    if (memory) setenv("LIMN_MEMORY", memory, 1);
    struct pipeline *pipeline = pipeline_open(options->path, NULL, error);
    bool good = pipeline && pipeline_check(pipeline, &options->request, &filled, error);
    if (good) {
        pipeline_plan(pipeline, &filled, memory ? memory_parse(memory) : 0, &plan);
        *possible = plan.possible;
        struct part_fit fits[FIT_PARTS];
        struct error ignored = {0};
        const bool fitted = model_fit(options->path, plan.memory, fits, &ignored);
        if (list) {
            json_t *object = plan_json(&plan, &filled);
            if (fitted) json_object_set_new(object, "wanted", wanted_json(fits));
            json_array_append_new(list, object);
        } else {
            print_plan(&plan, &filled, memory);
            if (fitted) print_wanted(fits, options->model, memory);
        }
    }
    pipeline_close(pipeline);
    return good;
}

// The machines that are planned for: the one that was named, else this and the usual ones.
static const char *const machines[] = {NULL, "24GB", "48GB", "64GB", "128GB"};
enum { MACHINES = sizeof machines / sizeof *machines };

// Of a model that is not here but has a card that gives forms. False, and the error as it was, where there is none.
static bool plan_of_card(const struct plan_options *options, json_t *list) {
    struct error ignored = {0};
    struct config config;
    struct catalog *catalog = config_load(&config, NULL, &ignored) ? catalog_open(&config, &ignored) : NULL;
    const struct model_card *card = catalog ? catalog_look_up(catalog, options->model, &ignored) : NULL;
    const bool planned = card && !card->weights.found && card->weights.form_count > 0;
    if (planned)
        plan_card_print(card, options->memory ? &options->memory : machines, options->memory ? 1 : MACHINES,
                        options->request.steps, list);
    catalog_close(catalog);
    config_free(&config);
    return planned;
}

int command_plan(int count, char **arguments) {
    struct plan_options options = {.json = false};
    limn_request_init(&options.request);
    options.request.prompt = "a picture";
    options.request.references = options.references;
    const int status = read_arguments(count, arguments, &options);
    if (status >= 0) return status;
    struct error error = {0};
    json_t *list = options.json ? json_array() : NULL;
    bool possible = false, other;
    options.path = model_path(NULL, options.model, &error);
    bool good = options.path && plan_for(&options, options.memory, list, &possible, &error);
    for (int i = 1; i < MACHINES && good && !options.memory; i++)
        good = plan_for(&options, machines[i], list, &other, &error);
    if (!options.path) possible = good = plan_of_card(&options, list);
    free(options.path);
    if (!good) fprintf(stderr, "limn: %s\n", error.message);
    if (good && list) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(list);
    return fflush(stdout) == 0 && good && possible ? 0 : 1;
}
