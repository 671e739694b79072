// `limn dump`: one request with everything that lies between its stages, as a safetensors file; what the comparison with the
// reference pipeline reads. Relies on options.h, flux/pipeline.h, weights/safetensors_write.h.
//
// Tensors: tokens, prompt_embeds, reference_K, reference_latents_K, noise, sigmas, timesteps, step_I_velocity,
// step_I_latents (after step I), of the first step step_0_double_B_txt, step_0_double_B_img and step_0_single_B (text first),
// decoded, picture; with guidance by two evaluations empty_tokens, empty_prompt_embeds, step_I_empty_velocity and
// step_I_guided_velocity. Shapes and types: tests/fixtures/README.md.

#include "cli/commands.h"
#include "cli/model_path.h"
#include "cli/options.h"

#include "flux/pipeline.h"
#include "weights/safetensors_write.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dump_options {
    const char *model, *output;
    const char *images[LIMN_REFERENCES_MOST];
    struct limn_options engine;
    struct limn_request request;
    float sigmas[LIMN_STEPS_MOST];
    struct limn_lora loras[LIMN_LORAS_MOST];
};

struct dump {
    struct safetensors_writer *writer;
    struct error error; // the first failure to write
};

static const char help[] = "usage: limn dump --model DIR --prompt TEXT -o FILE.safetensors [OPTION]...\n\n"
                           "Runs one request and writes the values between its stages.\n\n"
                           "  --image FILE     a reference image, up to four times\n"
                           "  --size WxH  --seed N  --steps N  --guidance X  --sigmas A,B,...\n"
                           "  --lora FILE[:SCALE]  a LoRA, up to four times\n"
                           "  --noise f32|bf16  --compute f32|bf16|int8  --isa NAME  --threads N\n";

enum {
    OPTION_PROMPT = 256,
    OPTION_SIZE,
    OPTION_SEED,
    OPTION_STEPS,
    OPTION_GUIDANCE,
    OPTION_SIGMAS,
    OPTION_LORA,
    OPTION_NOISE,
    OPTION_COMPUTE,
    OPTION_ISA,
    OPTION_THREADS,
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},
    {"image", required_argument, NULL, 'i'},
    {"output", required_argument, NULL, 'o'},
    {"prompt", required_argument, NULL, OPTION_PROMPT},
    {"size", required_argument, NULL, OPTION_SIZE},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"steps", required_argument, NULL, OPTION_STEPS},
    {"guidance", required_argument, NULL, OPTION_GUIDANCE},
    {"sigmas", required_argument, NULL, OPTION_SIGMAS},
    {"lora", required_argument, NULL, OPTION_LORA},
    {"noise", required_argument, NULL, OPTION_NOISE},
    {"compute", required_argument, NULL, OPTION_COMPUTE},
    {"isa", required_argument, NULL, OPTION_ISA},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"help", no_argument, NULL, 'h'},
    {0},
};

static bool read_number(int option, const char *text, struct dump_options *options) {
    struct limn_request *request = &options->request;
    int64_t integer = 0;
    double number = 0;
    switch (option) {
    case OPTION_SEED:
        if (!option_integer("--seed", text, 0, INT64_MAX, &integer)) return false;
        request->seed = (uint64_t)integer;
        return true;
    case OPTION_STEPS:
        if (!option_integer("--steps", text, 1, LIMN_STEPS_MOST, &integer)) return false;
        request->steps = (int)integer;
        return true;
    case OPTION_THREADS:
        if (!option_integer("--threads", text, 1, LIMN_THREADS_MOST, &integer)) return false;
        options->engine.threads = (int)integer;
        return true;
    default:
        if (!option_number("--guidance", text, 0, LIMN_GUIDANCE_MOST, &number)) return false;
        request->guidance = (float)number;
        return true;
    }
}

static bool add_lora(char *text, struct dump_options *options) {
    struct limn_request *request = &options->request;
    if (request->lora_count == LIMN_LORAS_MOST) {
        fprintf(stderr, "limn: --lora: more than %d LoRAs\n", LIMN_LORAS_MOST);
        return false;
    }
    struct limn_lora *lora = &options->loras[request->lora_count++];
    request->loras = options->loras;
    return option_lora("--lora", text, LIMN_LORA_SCALE_MOST, &lora->file, &lora->scale);
}

static bool read_option(int option, char *text, struct dump_options *options) {
    static const char *const types[] = {"f32", "bf16", "int8"}; // noise: the first two
    struct limn_request *request = &options->request;
    int word = 0;
    switch (option) {
    case 'm':
        options->model = text;
        return true;
    case 'o':
        options->output = text;
        return true;
    case 'i':
        if (request->reference_count == LIMN_REFERENCES_MOST) {
            fprintf(stderr, "limn: --image: more than %d reference images\n", LIMN_REFERENCES_MOST);
            return false;
        }
        options->images[request->reference_count++] = text;
        return true;
    case OPTION_PROMPT:
        request->prompt = text;
        return true;
    case OPTION_ISA:
        options->engine.isa = text;
        return true;
    case OPTION_LORA:
        return add_lora(text, options);
    case OPTION_SIZE:
        return option_size("--size", text, 1, LIMN_SIDE_MOST, &request->width, &request->height);
    case OPTION_SIGMAS:
        request->sigmas = options->sigmas;
        return option_numbers("--sigmas", text, 0, 1, options->sigmas, LIMN_STEPS_MOST,
                              &request->sigma_count);
    case OPTION_NOISE:
        if (!option_word("--noise", text, types, 2, &word)) return false;
        request->noise = word ? LIMN_NOISE_BF16 : LIMN_NOISE_F32;
        return true;
    case OPTION_COMPUTE:
        if (!option_word("--compute", text, types, 3, &word)) return false;
        options->engine.compute = (enum limn_compute)(LIMN_COMPUTE_F32 + word);
        return true;
    default:
        return read_number(option, text, options);
    }
}

// 0: go on; otherwise the exit status plus one.
static int read_arguments(int count, char **arguments, struct dump_options *options) {
    opterr = 0;
    optind = 1;
    for (int option; (option = getopt_long(count, arguments, ":m:i:o:h", long_options, NULL)) != -1;) {
        if (option == 'h') return fputs(help, stdout) >= 0 && fflush(stdout) == 0 ? 1 : 2;
        if (option == ':' || option == '?') {
            fprintf(stderr, option == ':' ? "limn: %s needs a value\n" : "limn: there is no option %s\n",
                    arguments[optind - 1]);
            return 3;
        }
        if (!read_option(option, optarg, options)) return 3;
    }
    const char *missing = !options->model            ? "--model"
                          : !options->request.prompt ? "--prompt"
                          : !options->output         ? "--output"
                                                     : NULL;
    if (missing) fprintf(stderr, "limn: dump needs %s; `limn dump --help` explains\n", missing);
    if (!missing && optind != count)
        fprintf(stderr, "limn: dump takes no argument \"%s\"\n", arguments[optind]);
    return missing || optind != count ? 3 : 0;
}

static void keep(void *context, const char *name, enum dtype type, int rank, const int64_t *shape,
                 const void *data) {
    struct dump *dump = context;
    if (dump->error.kind == ERROR_NONE)
        safetensors_writer_add(dump->writer, name, type, rank, shape, data, &dump->error);
}

static bool write_dump(const struct dump_options *options, struct error *error) {
    struct dump dump = {.writer = safetensors_writer_new()};
    struct observer observer = {keep, &dump};
    if (!dump.writer) return error_set(error, ERROR_MEMORY, "not enough memory for a dump");
    char *path = model_path(NULL, options->model, error);
    struct pipeline *pipeline = path ? pipeline_open(path, &options->engine, error) : NULL;
    free(path);
    struct limn_result *result =
        pipeline ? pipeline_run(pipeline, &options->request, &observer, error) : NULL;
    bool good = result != NULL;
    if (good && dump.error.kind != ERROR_NONE) {
        *error = dump.error;
        good = false;
    }
    good = good && safetensors_writer_save(dump.writer, options->output, error);
    limn_result_free(result);
    pipeline_close(pipeline);
    safetensors_writer_free(dump.writer);
    return good;
}

static bool load_images(const struct dump_options *options, struct limn_image *images) {
    for (int i = 0; i < options->request.reference_count; i++) {
        struct limn_error error = {0};
        if (!limn_image_load(&images[i], options->images[i], &error)) {
            fprintf(stderr, "limn: image %d: %s\n", i + 1, error.message);
            return false;
        }
    }
    return true;
}

int command_dump(int count, char **arguments) {
    struct dump_options options = {0};
    limn_options_init(&options.engine);
    limn_request_init(&options.request);
    int stop = read_arguments(count, arguments, &options);
    if (stop) return stop - 1;
    struct limn_image images[LIMN_REFERENCES_MOST] = {0};
    struct error error = {0};
    options.request.references = images;
    bool good = load_images(&options, images);
    if (good && !write_dump(&options, &error)) {
        fprintf(stderr, "limn: %s\n", error.message);
        good = false;
    }
    for (int i = 0; i < LIMN_REFERENCES_MOST; i++) limn_image_free(&images[i]);
    return good ? 0 : 1;
}
