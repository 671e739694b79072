// `limn convert`: a model in another type or form. Relies on options.h, flux/convert_model.h.
#include "cli/commands.h"
#include "cli/fit.h"
#include "cli/model_path.h"
#include "cli/options.h"

#include "base/clock.h"
#include "flux/convert_model.h"
#include "limn/limn.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LORAS_MOST = 8 };
static const double PLAIN_SECONDS = 10, REDRAW_SECONDS = 0.1; // between two lines of progress

struct convert_options {
    struct convert_model convert;
    const char *loras[LORAS_MOST];
    float scales[LORAS_MOST];
    const char *memory;
    bool fit, quiet;
};

struct convert_view {
    bool quiet, terminal, drawn;
    double began, shown;
    uint64_t first; // bytes that were there when this file was begun
    uint64_t total; // of the file in work
};

static volatile sig_atomic_t interrupted; // a signal handler can reach nothing but a global

static void on_interrupt(int number) {
    (void)number;
    if (interrupted) _exit(130);
    interrupted = 1;
}

static const char help[] =
    "NAME\n"
    "  limn convert - write a model in another type or form\n\n"
    "SYNOPSIS\n"
    "  limn convert [OPTION]... MODEL -o FOLDER\n"
    "  limn convert [OPTION]... MODEL -o FILE.gguf [--part PART]\n"
    "  limn convert [OPTION]... MODEL -o FILE.safetensors [--part PART]\n"
    "  limn convert --fit [--memory SIZE] [-o FOLDER] MODEL\n\n"
    "DESCRIPTION\n"
    "  MODEL is a model folder in any form that limn opens. A FOLDER gets all parts in the layout of "
    "diffusers and\n"
    "  everything else that the model needs. F32, F16, BF16, F8_E4M3, F8_E5M2, NVFP4 and NF4 are written as\n"
    "  safetensors, the other types as GGUF. The matrices of the blocks get the type; what everything "
    "passes\n"
    "  through stays at 16 bits or more, and the autoencoder stays as it is. A single FILE holds one part: "
    "GGUF\n"
    "  with the names that ComfyUI, stable-diffusion.cpp and llama.cpp know, fp8 and NVFP4 as ComfyUI has "
    "them,\n"
    "  else with the names of diffusers and Hugging Face.\n"
    "  Weights go through in pieces: little memory is taken, whatever the size. After Ctrl-C, a kill or a "
    "full disk\n"
    "  the same command goes on where it stopped. LoRAs are added in f32 and rounded once with the "
    "weights.\n\n"
    "  With --fit the transformer and the text encoder are made in the finest type of which each stays in "
    "the memory\n"
    "  of this machine, and listed as forms in the model's limn.json, or in that of a FOLDER that then "
    "stands "
    "on it.\n"
    "  limn takes the form that suits the memory there is; `limn plan` shows which.\n\n"
    "OPTIONS\n"
    "  -o, --output PATH         where to write; needed but for --fit\n"
    "      --fit                 make the forms that this machine's memory wants\n"
    "      --memory SIZE         --fit for that much, as \"24GB\" (default: what is available now)\n"
    "  -t, --type NAME           F32, F16, BF16 (default);\n"
    "                            F8_E4M3, F8_E5M2, NVFP4, NF4: safetensors with scales beside the codes;\n"
    "                            Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1, Q4_0, IQ4_NL, IQ4_XS, Q3_K, Q2_K: "
    "GGUF\n"
    "      --row-scales          fp8 with a scale for each row of a matrix, which is a little finer, rather "
    "than\n"
    "                            one for each matrix\n"
    "      --text-type NAME      the same for the text encoder in a folder (default: --type)\n"
    "      --part NAME           of a file: transformer (default), text_encoder or vae\n"
    "      --lora FILE[:SCALE]   bake a LoRA into the transformer, beside those of the model; up to eight "
    "times\n"
    "      --threads N           default: one a processor\n"
    "  -q, --quiet               no progress\n"
    "  -h, --help                this text\n\n"
    "EXIT STATUS\n"
    "  0 when everything was written, 1 after an error, 2 for wrong usage, 130 when interrupted\n\n"
    "EXAMPLES\n"
    "  limn convert FLUX.2-dev -o FLUX.2-dev-Q4_K --type Q4_K --text-type Q8_0\n"
    "  limn convert FLUX.2-dev --lora flux.2-turbo-lora.safetensors -o turbo.gguf --type Q6_K\n"
    "  limn convert --fit flux.2-dev-turbo\n";

// --------------------------------------------------------------------------------------------------------- progress

static bool show(void *context, const char *tensor, uint64_t done, uint64_t total) {
    struct convert_view *view = context;
    const double now = clock_seconds();
    if (interrupted) return false;
    if (view->total != total)
        *view = (struct convert_view){.quiet = view->quiet,
                                      .terminal = view->terminal,
                                      .drawn = view->drawn,
                                      .began = now,
                                      .first = done,
                                      .total = total};
    if (view->quiet ||
        (view->shown > 0 && now - view->shown < (view->terminal ? REDRAW_SECONDS : PLAIN_SECONDS)))
        return true;
    view->shown = now;
    const double rate = now > view->began ? (double)(done - view->first) / (now - view->began) : 0;
    fprintf(stderr, "%s%5.1f %%  %.2f of %.2f GB",
            view->terminal ? "\r\033[K" : "limn: ", 100.0 * (double)done / (double)total, (double)done / 1e9,
            (double)total / 1e9);
    if (rate > 0) fprintf(stderr, "  %.0f MB/s  %.0f s left", rate / 1e6, (double)(total - done) / rate);
    fprintf(stderr, "  %.60s%s", tensor, view->terminal ? "" : "\n");
    fflush(stderr);
    view->drawn = view->terminal;
    return true;
}

// --------------------------------------------------------------------------------------------------------- arguments

static bool read_type(const char *option, const char *text, enum dtype *type) {
    for (int t = DTYPE_NONE + 1; t < DTYPE_COUNT; t++)
        if (strcasecmp(dtype_info((enum dtype)t)->name, text) == 0 && convert_model_has((enum dtype)t)) {
            *type = (enum dtype)t;
            return true;
        }
    fprintf(stderr, "limn: %s: \"%s\", expected " CONVERT_MODEL_TYPES "\n", option, text);
    return false;
}

static bool read_part(const char *text, enum model_part *part) {
    static const char *const words[] = {"transformer", "text_encoder", "vae"};
    int index;
    if (!option_word("--part", text, words, 3, &index)) return false;
    *part = (enum model_part)index;
    return true;
}

static bool read_lora(char *text, struct convert_options *options) {
    struct convert_model *convert = &options->convert;
    if (convert->lora_count == LORAS_MOST) {
        fprintf(stderr, "limn: --lora: more than %d LoRAs\n", LORAS_MOST);
        return false;
    }
    const int index = convert->lora_count++;
    return option_lora("--lora", text, LIMN_LORA_SCALE_MOST, &options->loras[index], &options->scales[index]);
}

enum {
    OPTION_TEXT_TYPE = 256,
    OPTION_PART,
    OPTION_LORA,
    OPTION_THREADS,
    OPTION_FIT,
    OPTION_MEMORY,
    OPTION_ROW_SCALES
};

static const struct option long_options[] = {
    {"output", required_argument, NULL, 'o'},
    {"type", required_argument, NULL, 't'},
    {"row-scales", no_argument, NULL, OPTION_ROW_SCALES},
    {"text-type", required_argument, NULL, OPTION_TEXT_TYPE},
    {"part", required_argument, NULL, OPTION_PART},
    {"lora", required_argument, NULL, OPTION_LORA},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"fit", no_argument, NULL, OPTION_FIT},
    {"memory", required_argument, NULL, OPTION_MEMORY},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

// -1: go on; else the exit status.
static int read_arguments(int count, char **arguments, struct convert_options *options) {
    struct convert_model *convert = &options->convert;
    int64_t threads;
    bool good = true;
    optind = 1;
    for (int letter; good && (letter = getopt_long(count, arguments, "o:t:qh", long_options, NULL)) != -1;) {
        switch (letter) {
        case 'o':
            convert->target = optarg;
            break;
        case 't':
            good = read_type("--type", optarg, &convert->type);
            break;
        case OPTION_ROW_SCALES:
            convert->row_scales = true;
            break;
        case OPTION_TEXT_TYPE:
            good = read_type("--text-type", optarg, &convert->text_type);
            break;
        case OPTION_PART:
            good = read_part(optarg, &convert->part);
            break;
        case OPTION_LORA:
            good = read_lora(optarg, options);
            break;
        case OPTION_THREADS:
            good = option_integer("--threads", optarg, 1, LIMN_THREADS_MOST, &threads);
            if (good) convert->threads = (int)threads;
            break;
        case OPTION_FIT:
            options->fit = true;
            break;
        case OPTION_MEMORY:
            good = option_memory("--memory", optarg, &options->memory);
            break;
        case 'q':
            options->quiet = true;
            break;
        case 'h':
            fputs(help, stdout);
            return fflush(stdout) == 0 ? 0 : 1;
        default:
            good = false;
        }
    }
    if (!good) {
        fputs("limn: `limn convert --help` tells how it is used\n", stderr);
        return 2;
    }
    if (options->memory && !options->fit) {
        fputs("limn: convert: --memory goes with --fit\n", stderr);
        return 2;
    }
    if (count - optind != 1 || !(convert->target || options->fit)) {
        fprintf(stderr, "limn: convert: expected %s; `limn convert --help` tells more\n",
                count - optind != 1 ? "one MODEL"
                                    : "-o with a folder, or a file that ends in .gguf or .safetensors");
        return 2;
    }
    convert->source = arguments[optind];
    return -1;
}

int command_convert(int count, char **arguments) {
    struct convert_options options = {.convert = {.type = DTYPE_BF16, .part = PART_TRANSFORMER}};
    struct convert_view view = {.terminal = isatty(STDERR_FILENO)};
    struct error error = {0};
    const int status = read_arguments(count, arguments, &options);
    if (status >= 0) return status;
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    view.quiet = options.quiet;
    options.convert.loras = options.loras;
    options.convert.lora_scales = options.scales;
    options.convert.progress = show;
    options.convert.context = &view;
    char *path = model_path(NULL, options.convert.source, &error);
    options.convert.source = path;
    const bool done =
        path && (options.fit ? fit_convert(&options.convert, options.memory, options.quiet, &error)
                             : convert_model(&options.convert, &error));
    if (view.drawn) fputs("\r\033[K", stderr);
    if (done && !options.quiet && !options.fit) fprintf(stderr, "limn: wrote %s\n", options.convert.target);
    if (!done) fprintf(stderr, "limn: %s\n", error.message);
    free(path);
    return done ? 0 : error.kind == ERROR_CANCELLED ? 130 : 1;
}
