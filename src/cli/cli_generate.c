// `limn generate` and `limn edit`: pictures from the command line, in this process. Relies on options.h, progress_bar.h,
// image (encoding), limn.h.

#include "cli/commands.h"
#include "cli/model_path.h"
#include "cli/options.h"
#include "cli/progress_bar.h"
#include "cli/state.h"

#include "base/file.h"
#include "image/image.h"
#include "limn/limn.h"

#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { PREVIEWS_MOST = 16, PATH_MOST = 4096 };

// Everything that the arguments say.
struct generate_options {
    const char *model, *output, *prompt;
    const char *reference_paths[LIMN_REFERENCES_MOST];
    struct limn_options engine;
    struct limn_request request;
    enum image_format format;
    int quality;
    float sigmas[LIMN_STEPS_MOST];
    struct limn_lora loras[LIMN_LORAS_MOST];
    int previews[PREVIEWS_MOST];
    bool seed_given, quiet, json, edit;
};

struct generate_job {
    struct generate_options *options;
    struct limn_model_info info;
    struct progress_bar bar;
    bool preview_failed;
};

// A signal handler can reach nothing but a global.
static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    if (interrupted) _exit(130); // a second Ctrl-C does not wait for the block
    interrupted = 1;
}

static const char help[] =
    "NAME\n"
    "  limn generate - make pictures from a prompt\n"
    "  limn edit - make a picture from a prompt and one to four reference images\n\n"
    "SYNOPSIS\n"
    "  limn generate [OPTION]... PROMPT\n"
    "  limn edit -i IMAGE [-i IMAGE]... [OPTION]... PROMPT\n\n"
    "OPTIONS\n"
    "  -m, --model MODEL     model folder, or a model that `limn pull` fetched: flux.2-klein-4b, owner/name\n"
    "                        (default: $LIMN_MODEL, else the one that comes with limn)\n"
    "  -i, --image FILE      a reference image: PNG, JPEG or WebP; \"Image 1\" is the first, up to four\n"
    "  -s, --size WxH        size in pixels, rounded down to multiples of 16 (default: the first reference's "
    "size,\n"
    "                        else the model's)\n"
    "      --seed N          the same seed gives the same picture (default: a random one, which is printed)\n"
    "      --steps N         denoising steps (default: the model's)\n"
    "      --guidance X      how closely to follow the prompt (default: the model's). FLUX.2 [klein] takes "
    "none; its base\n"
    "                        models evaluate each step twice when it is above 1\n"
    "      --sigmas A,B,...  own noise levels before the shift, falling, each above 0 and at most 1; sets "
    "the steps\n"
    "      --lora FILE[:SCALE]   apply a LoRA (safetensors), beside the model's own; may be given up to four "
    "times\n"
    "  -n, --n N             number of pictures, 1 to 10; picture k uses seed + k\n"
    "  -o, --output FILE     where to write (default: limn-SEED.png; - is standard output); with -n, FILE-0, "
    "FILE-1, ...\n"
    "      --format NAME     png, jpeg, webp, gif or avif (default: by the ending of FILE, else png)\n"
    "      --quality N       0 to 100 for jpeg, webp and avif (default: 95)\n"
    "      --preview N,...   also write the picture as it is after these steps, as FILE-stepN\n"
    "      --tiling          decode in overlapping tiles: less memory, a slightly different picture\n"
    "      --noise NAME      f32 (default), or bf16: the noise of a reference pipeline that runs in bf16\n"
    "      --compute NAME    auto (default), f32, bf16 or int8: the type in which products are computed;\n"
    "                        int8 is faster than bf16 on most processors, and less exact\n"
    "      --isa NAME        instruction set; limn --version lists those that can be used here\n"
    "      --threads N       default: one a processor\n"
    "      --json            print what was made as one JSON object on standard output\n"
    "  -q, --quiet           no progress\n"
    "  -h, --help            this text\n\n"
    "EXIT STATUS\n"
    "  0 when every picture was written, 1 after an error, 2 for wrong usage, 130 when interrupted. A file "
    "is written\n"
    "  whole or not at all.\n\n"
    "EXAMPLES\n"
    "  limn generate \"a red circle above a blue square\" -o out.png\n"
    "  limn edit -i pose.png -i character.png \"Use Image 1 as the pose reference and Image 2 as the "
    "character\n"
    "      reference\" --seed 7 -o out.webp\n";

enum {
    OPTION_SEED = 256,
    OPTION_STEPS,
    OPTION_GUIDANCE,
    OPTION_SIGMAS,
    OPTION_LORA,
    OPTION_FORMAT,
    OPTION_QUALITY,
    OPTION_PREVIEW,
    OPTION_TILING,
    OPTION_NOISE,
    OPTION_COMPUTE,
    OPTION_ISA,
    OPTION_THREADS,
    OPTION_JSON,
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},
    {"image", required_argument, NULL, 'i'},
    {"size", required_argument, NULL, 's'},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"steps", required_argument, NULL, OPTION_STEPS},
    {"guidance", required_argument, NULL, OPTION_GUIDANCE},
    {"sigmas", required_argument, NULL, OPTION_SIGMAS},
    {"lora", required_argument, NULL, OPTION_LORA},
    {"n", required_argument, NULL, 'n'},
    {"output", required_argument, NULL, 'o'},
    {"format", required_argument, NULL, OPTION_FORMAT},
    {"quality", required_argument, NULL, OPTION_QUALITY},
    {"preview", required_argument, NULL, OPTION_PREVIEW},
    {"tiling", no_argument, NULL, OPTION_TILING},
    {"noise", required_argument, NULL, OPTION_NOISE},
    {"compute", required_argument, NULL, OPTION_COMPUTE},
    {"isa", required_argument, NULL, OPTION_ISA},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"json", no_argument, NULL, OPTION_JSON},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static bool read_format(const char *text, enum image_format *format) {
    *format = image_format_from_name(text);
    if (*format != IMAGE_UNKNOWN) return true;
    fprintf(stderr, "limn: --format: \"%s\" is none of png, jpeg, webp, gif, avif\n", text);
    return false;
}

static bool read_previews(const char *text, struct generate_options *options) {
    float steps[PREVIEWS_MOST];
    int count = 0;
    if (!option_numbers("--preview", text, 1, LIMN_STEPS_MOST, steps, PREVIEWS_MOST, &count)) return false;
    for (int i = 0; i < count; i++) options->previews[i] = (int)steps[i];
    options->request.preview_steps = options->previews;
    options->request.preview_count = count;
    return true;
}

static bool add_reference(const char *path, struct generate_options *options) {
    if (options->request.reference_count == LIMN_REFERENCES_MOST) {
        fprintf(stderr, "limn: --image: more than %d reference images\n", LIMN_REFERENCES_MOST);
        return false;
    }
    options->reference_paths[options->request.reference_count++] = path;
    return true;
}

static bool add_lora(char *text, struct generate_options *options) {
    struct limn_request *request = &options->request;
    if (request->lora_count == LIMN_LORAS_MOST) {
        fprintf(stderr, "limn: --lora: more than %d LoRAs\n", LIMN_LORAS_MOST);
        return false;
    }
    struct limn_lora *lora = &options->loras[request->lora_count++];
    request->loras = options->loras;
    return option_lora("--lora", text, LIMN_LORA_SCALE_MOST, &lora->file, &lora->scale);
}

static void on_warning(void *user, const char *message) {
    (void)user;
    fprintf(stderr, "limn: %s\n", message);
}

// The options that set numbers of the request.
static bool read_request_option(int option, const char *text, struct generate_options *options) {
    struct limn_request *request = &options->request;
    int64_t integer = 0;
    double number = 0;
    switch (option) {
    case 's':
        return option_size("--size", text, 1, LIMN_SIDE_MOST, &request->width, &request->height);
    case 'n':
        if (!option_integer("--n", text, 1, LIMN_COUNT_MOST, &integer)) return false;
        request->count = (int)integer;
        return true;
    case OPTION_SEED:
        if (!option_integer("--seed", text, 0, INT64_MAX - LIMN_COUNT_MOST, &integer)) return false;
        request->seed = (uint64_t)integer;
        options->seed_given = true;
        return true;
    case OPTION_STEPS:
        if (!option_integer("--steps", text, 1, LIMN_STEPS_MOST, &integer)) return false;
        request->steps = (int)integer;
        return true;
    case OPTION_GUIDANCE:
        if (!option_number("--guidance", text, 0, 100, &number)) return false;
        request->guidance = (float)number;
        return true;
    case OPTION_SIGMAS:
        request->sigmas = options->sigmas;
        return option_numbers("--sigmas", text, 0, 1, options->sigmas, LIMN_STEPS_MOST,
                              &request->sigma_count);
    default:
        return read_previews(text, options);
    }
}

// The options that choose among words.
static bool read_choice(int option, const char *text, struct generate_options *options) {
    static const char *const computes[] = {"auto", "f32", "bf16", "int8"};
    static const char *const noises[] = {"f32", "bf16"};
    int64_t integer = 0;
    int word = 0;
    switch (option) {
    case OPTION_NOISE:
        if (!option_word("--noise", text, noises, 2, &word)) return false;
        options->request.noise = word ? LIMN_NOISE_BF16 : LIMN_NOISE_F32;
        return true;
    case OPTION_COMPUTE:
        if (!option_word("--compute", text, computes, 4, &word)) return false;
        options->engine.compute = (enum limn_compute)word;
        return true;
    case OPTION_THREADS:
        if (!option_integer("--threads", text, 1, 256, &integer)) return false;
        options->engine.threads = (int)integer;
        return true;
    case OPTION_QUALITY:
        if (!option_integer("--quality", text, 0, 100, &integer)) return false;
        options->quality = (int)integer;
        return true;
    default:
        return read_format(text, &options->format);
    }
}

// 0: go on; otherwise the exit status plus one.
static int read_arguments(int count, char **arguments, struct generate_options *options) {
    opterr = 0;
    optind = 1;
    for (int option; (option = getopt_long(count, arguments, ":m:i:s:n:o:qh", long_options, NULL)) != -1;) {
        bool good = true;
        switch (option) {
        case 'm':
            options->model = optarg;
            break;
        case 'o':
            options->output = optarg;
            break;
        case 'i':
            good = add_reference(optarg, options);
            break;
        case 'q':
            options->quiet = true;
            break;
        case OPTION_JSON:
            options->json = true;
            break;
        case OPTION_TILING:
            options->request.tiling = true;
            break;
        case OPTION_ISA:
            options->engine.isa = optarg;
            break;
        case OPTION_LORA:
            good = add_lora(optarg, options);
            break;
        case OPTION_NOISE:
        case OPTION_COMPUTE:
        case OPTION_THREADS:
        case OPTION_QUALITY:
        case OPTION_FORMAT:
            good = read_choice(option, optarg, options);
            break;
        case 'h':
            return fputs(help, stdout) >= 0 && fflush(stdout) == 0 ? 1 : 2;
        case ':':
            fprintf(stderr, "limn: %s needs a value\n", arguments[optind - 1]);
            return 3;
        case '?':
            fprintf(stderr, "limn: there is no option %s; `limn %s --help` lists them\n",
                    arguments[optind - 1], arguments[0]);
            return 3;
        default:
            good = read_request_option(option, optarg, options);
        }
        if (!good) return 3;
    }
    if (optind + 1 != count) {
        fprintf(stderr,
                optind == count
                    ? "limn: no prompt; `limn %s --help` explains\n"
                    : "limn: more than one prompt; put it in quotes (`limn %s --help` explains)\n",
                arguments[0]);
        return 3;
    }
    options->prompt = options->request.prompt = arguments[optind];
    return 0;
}

// The folder of a path exists and can be written: found out before minutes of work, not after.
static bool check_output(const char *path) {
    if (!strcmp(path, "-")) return true;
    char folder[PATH_MOST];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash == folder)
        slash[1] = 0;
    else if (slash)
        *slash = 0;
    else
        snprintf(folder, sizeof folder, ".");
    if (!access(folder, W_OK)) return true;
    fprintf(stderr, "limn: --output: the folder %s is not there or cannot be written\n", folder);
    return false;
}

// "out.png" and "-3" make "out-3.png".
static void name_with(char *to, size_t size, const char *path, const char *suffix) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    size_t stem = dot && (!slash || dot > slash + 1) && dot != path ? (size_t)(dot - path) : strlen(path);
    snprintf(to, size, "%.*s%s%s", (int)stem, path, suffix, path + stem);
}

static bool write_standard_output(const struct buffer *bytes, struct error *error) {
    for (size_t done = 0; done < bytes->length;) {
        ssize_t written = write(STDOUT_FILENO, bytes->data + done, bytes->length - done);
        if (written <= 0) return error_set(error, ERROR_IO, "standard output: %m");
        done += (size_t)written;
    }
    return true;
}

static bool write_picture(const struct generate_job *job, const struct limn_image *picture, uint64_t seed,
                          int steps, const char *path) {
    const struct generate_options *options = job->options;
    char comment[256];
    snprintf(comment, sizeof comment, "limn %s; model %s; seed %llu; steps %d", limn_version(),
             job->info.name, (unsigned long long)seed, steps);
    struct image_encode_options encode = {
        .format = options->format,
        .quality = options->quality,
        .metadata = {.software = job->info.software, .make = job->info.make, .comment = comment},
    };
    struct image image = {picture->width, picture->height, picture->pixels};
    struct buffer bytes = {0};
    struct error error = {0};
    bool good = image_encode(&image, &encode, &bytes, &error) &&
                (strcmp(path, "-") ? file_write(path, bytes.data, bytes.length, &error)
                                   : write_standard_output(&bytes, &error));
    if (!good) fprintf(stderr, "limn: %s\n", error.message);
    buffer_free(&bytes);
    return good;
}

static bool on_progress(void *user, const struct limn_progress *progress) {
    struct generate_job *job = user;
    progress_bar_show(&job->bar, progress);
    if (progress->preview) {
        char suffix[64], path[PATH_MOST];
        if (progress->images > 1)
            snprintf(suffix, sizeof suffix, "-%d-step%d", progress->image, progress->step + 1);
        else
            snprintf(suffix, sizeof suffix, "-step%d", progress->step + 1);
        name_with(path, sizeof path, job->options->output, suffix);
        progress_bar_end(&job->bar);
        uint64_t seed = job->options->request.seed + (uint64_t)progress->image;
        if (!write_picture(job, progress->preview, seed, progress->step + 1, path))
            job->preview_failed = true;
    }
    return !interrupted && !job->preview_failed;
}

// Says what was made: a line a picture on standard error, or one JSON object on standard output.
static void report(const struct generate_job *job, const struct limn_result *result,
                   char paths[][PATH_MOST]) {
    double seconds =
        result->text_seconds + result->reference_seconds + result->step_seconds + result->decode_seconds;
    if (job->options->json) {
        json_t *images = json_array();
        for (int i = 0; i < result->count; i++)
            json_array_append_new(images, json_pack("{s:s, s:I}", "file", paths[i], "seed",
                                                    (json_int_t)(result->seed + (uint64_t)i)));
        json_t *object =
            json_pack("{s:s, s:i, s:i, s:i, s:f, s:b, s:f, s:f, s:f, s:f, s:o}", "model", job->info.name,
                      "width", result->width, "height", result->height, "steps", result->steps, "guidance",
                      (double)result->guidance, "tiled", result->tiled, "text_seconds", result->text_seconds,
                      "reference_seconds", result->reference_seconds, "step_seconds", result->step_seconds,
                      "decode_seconds", result->decode_seconds, "images", images);
        json_dumpf(object, stdout, JSON_COMPACT);
        fputc('\n', stdout);
        json_decref(object);
        return;
    }
    if (job->options->quiet) return;
    for (int i = 0; i < result->count; i++)
        fprintf(stderr, "limn: %s: %dx%d, seed %llu\n", paths[i], result->width, result->height,
                (unsigned long long)(result->seed + (uint64_t)i));
    fprintf(stderr, "limn: %.2f s (text %.2f, references %.2f, %d steps %.2f, decoding %.2f)%s\n", seconds,
            result->text_seconds, result->reference_seconds, result->steps, result->step_seconds,
            result->decode_seconds, result->tiled ? "; decoded in tiles" : "");
}

static int write_result(const struct generate_job *job, const struct limn_result *result) {
    char(*paths)[PATH_MOST] = calloc((size_t)result->count, PATH_MOST);
    if (!paths) return 1;
    int status = 0;
    for (int i = 0; i < result->count && !status; i++) {
        char suffix[32] = "";
        if (result->count > 1) snprintf(suffix, sizeof suffix, "-%d", i);
        name_with(paths[i], PATH_MOST, job->options->output, suffix);
        if (!write_picture(job, &result->images[i], result->seed + (uint64_t)i, result->steps, paths[i]))
            status = 1;
    }
    if (!status) report(job, result, paths);
    free(paths);
    if (!status && fflush(stdout) != 0) {
        fprintf(stderr, "limn: standard output: %m\n");
        status = 1;
    }
    return status;
}

static bool load_references(const struct generate_options *options, struct limn_image *images) {
    for (int i = 0; i < options->request.reference_count; i++) {
        struct limn_error error = {0};
        if (!limn_image_load(&images[i], options->reference_paths[i], &error)) {
            fprintf(stderr, "limn: image %d: %s\n", i + 1, error.message);
            return false;
        }
    }
    return true;
}

static int run_job(struct generate_job *job, struct limn_image *references) {
    struct generate_options *options = job->options;
    if (!load_references(options, references)) return 1;
    struct limn_error error = {0};
    struct error cause = {0};
    char *path = model_path(NULL, options->model, &cause);
    if (!path) {
        fprintf(stderr, "limn: %s\n", cause.message);
        return 1;
    }
    struct limn_model *model = limn_open(path, &options->engine, &error);
    free(path);
    if (!model) {
        fprintf(stderr, "limn: %s\n", error.message);
        return 1;
    }
    limn_model_info(model, &job->info);
    if (!job->info.trained)
        fprintf(stderr,
                "limn: the model %s is not trained to the end: do not expect its pictures to show what is "
                "asked\n",
                job->info.name);
    if (options->request.guidance >= 0 && !job->info.has_guidance)
        fprintf(stderr, "limn: --guidance has no effect on the model %s\n", job->info.name);
    options->request.references = references;
    options->request.progress = on_progress;
    options->request.user = job;
    progress_bar_begin(&job->bar, options->quiet);
    struct limn_result *result = limn_run(model, &options->request, &error);
    progress_bar_end(&job->bar);
    int status = 1;
    if (result)
        status = write_result(job, result);
    else if (interrupted) {
        fprintf(stderr, "limn: interrupted\n");
        status = 130;
    } else if (!job->preview_failed) {
        bool named = !error.field[0] || !strncmp(error.message, error.field, strlen(error.field));
        fprintf(stderr, "limn: %s%s%s\n", named ? "" : error.field, named ? "" : ": ", error.message);
    }
    limn_result_free(result);
    limn_close(model);
    return status;
}

int command_generate(int count, char **arguments) {
    struct generate_options options = {.quality = -1, .edit = !strcmp(arguments[0], "edit")};
    limn_options_init(&options.engine);
    limn_request_init(&options.request);
    options.engine.warning = on_warning;
    int stop = read_arguments(count, arguments, &options);
    if (stop) return stop - 1;
    if (options.edit && !options.request.reference_count) {
        fprintf(stderr, "limn: edit needs a reference image: -i FILE\n");
        return 2;
    }
    if (!options.model) options.model = getenv("LIMN_MODEL");
    char bundled[PATH_MAX];
    if (!options.model) bundled_model(bundled), options.model = bundled;
    if (!options.seed_given) {
        uint64_t random = 0;
        if (getrandom(&random, sizeof random, 0) != sizeof random) random = 0;
        options.request.seed = random & 0x7fffffff;
    }
    char output[64];
    if (!options.output) {
        const char *ending = options.format == IMAGE_UNKNOWN ? "png" : image_format_name(options.format);
        snprintf(output, sizeof output, "limn-%llu.%s", (unsigned long long)options.request.seed, ending);
        options.output = output;
    }
    if (options.format == IMAGE_UNKNOWN) {
        const char *dot = strrchr(options.output, '.');
        options.format = dot && !strchr(dot, '/') ? image_format_from_name(dot + 1) : IMAGE_PNG;
        if (options.format == IMAGE_UNKNOWN) {
            fprintf(
                stderr,
                "limn: --output: \"%s\" does not end in .png, .jpg, .jpeg, .webp, .gif or .avif; say which "
                "with --format\n",
                options.output);
            return 2;
        }
    }
    if (!strcmp(options.output, "-") &&
        (options.request.count > 1 || options.json || options.request.preview_count)) {
        fprintf(stderr, "limn: --output: standard output takes one picture and nothing else\n");
        return 2;
    }
    if (!check_output(options.output)) return 1;
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    struct generate_job job = {.options = &options};
    struct limn_image references[LIMN_REFERENCES_MOST] = {0};
    int status = run_job(&job, references);
    for (int i = 0; i < LIMN_REFERENCES_MOST; i++) limn_image_free(&references[i]);
    return status;
}
