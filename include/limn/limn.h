// limn: FLUX.2 as a library. A program that draws:
//
//     #include <limn/limn.h>
//     #include <stdio.h>
//
//     int main(void) {
//         struct limn_error error = {0};
//         struct limn_model *model = limn_open("models/pictogram", NULL, &error);
//         struct limn_request request;
//         limn_request_init(&request);
//         request.prompt = "a red circle above a blue square";
//         struct limn_result *result = model ? limn_run(model, &request, &error) : NULL;
//         bool saved = result && limn_image_save(&result->images[0], "out.png", NULL, &error);
//         if (!saved) fprintf(stderr, "%s\n", error.message);
//         limn_result_free(result);
//         limn_close(model);
//         return saved ? 0 : 1;
//     }
//
// Every function may be called from any thread. Requests of one model run one after another, in the order in which
// limn_run was called; separate models are independent of each other. A function that takes an error sets it whole, to LIMN_OK
// where nothing was wrong; NULL is fine.
#ifndef LIMN_H
#define LIMN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LIMN_THREADS_MOST    256
#define LIMN_REFERENCES_MOST 4  // reference images of one request
#define LIMN_COUNT_MOST      10 // pictures of one request
#define LIMN_STEPS_MOST      200
#define LIMN_GUIDANCE_MOST   1000.0
#define LIMN_PROMPT_MOST     1048576 // bytes
#define LIMN_SIDE_LEAST      16      // pixels
#define LIMN_SIDE_MOST       4096    // pixels
#define LIMN_LORAS_MOST      4 // of a model folder and its options together, and as many more of a request
#define LIMN_LORA_SCALE_MOST 4.0

enum limn_status {
    LIMN_OK = 0,
    LIMN_BAD_INPUT, // a field or a file is wrong; `field` names it where there is one
    LIMN_NOT_FOUND,
    LIMN_IO,
    LIMN_NO_MEMORY,
    LIMN_CANCELLED,
    LIMN_UNSUPPORTED,
    LIMN_UNAVAILABLE,
    LIMN_INTERNAL,
};

struct limn_error {
    enum limn_status status;
    char field[64];    // "size", "references[1]", or ""
    char message[512]; // one line: what was wrong, where, what was expected
};

const char *limn_version(void); // "0.1.0"

// Space-separated names of the instruction sets that this build and this processor offer, best first.
const char *limn_isa_names(void);

// ------------------------------------------------------------------------------------------------------------ models

enum limn_compute {
    LIMN_COMPUTE_AUTO, // bf16 where the transformer's weights are 16-bit, else f32
    LIMN_COMPUTE_F32,
    LIMN_COMPUTE_BF16,
    // As bf16, but the products inside the transformer's blocks round activations and weights to 8 bits (docs/precision.md says
    // how far that takes the pictures). Never chosen by itself. On a processor with AMX tiles bf16 is the faster one.
    LIMN_COMPUTE_INT8,
};

// A LoRA: a file of low-rank changes of the transformer's weights (safetensors; diffusers, PEFT, BFL, ComfyUI or kohya names).
// It works beside the weights, which stay as they are.
struct limn_lora {
    const char *file;
    float
        scale; // of the change, -LIMN_LORA_SCALE_MOST to LIMN_LORA_SCALE_MOST; 1: as it was trained, 0: without effect
};

// Told, in one line, what is odd and yet no error: tensors of a LoRA that have no effect. Called from the thread that opens the
// model or runs the request.
typedef void limn_warning_function(void *user, const char *message);

struct limn_options {
    int threads; // 0: one a processor
    enum limn_compute compute;
    const char *isa; // NULL: the best; else a name of limn_isa_names()
    // Bytes for what prompts and reference images were encoded to, kept for later requests that have the same ones. Results do
    // not depend on it. 0: nothing is kept.
    size_t cache_bytes;
    const struct limn_lora *loras; // of every request, beside those that the folder names in its limn.json
    int lora_count;
    limn_warning_function *warning; // NULL: none
    void *warning_user;
};

void limn_options_init(struct limn_options *options);

struct limn_model;

// Opens a model folder (diffusers layout). Weights are mapped, not read: this takes milliseconds. options NULL: defaults.
// NULL with an error when a file is missing, damaged or of an unknown architecture.
struct limn_model *limn_open(const char *folder, const struct limn_options *options,
                             struct limn_error *error);

// Waits for requests in flight. NULL is fine.
void limn_close(struct limn_model *model);

struct limn_model_info {
    const char *name; // the folder's own name for the model; borrowed from it
    int default_width, default_height;
    int default_steps;
    float default_guidance;
    int side_multiple;    // widths and heights are multiples of it (16)
    bool has_guidance;    // whether guidance has an effect (models distilled to go without take none)
    bool trained;         // false for weights that are random or hardly trained
    int text_length;      // text positions
    const char *software; // the marks that its pictures carry in EXIF, "AI generated;flux2" and
    const char *make;     // "Black Forest Labs" for FLUX.2; borrowed from the model
    int64_t transformer_parameters, text_encoder_parameters, autoencoder_parameters;
};

void limn_model_info(const struct limn_model *model, struct limn_model_info *info);

// ---------------------------------------------------------------------------------------------------------- pictures

// 8-bit sRGB, rows top-down, no padding: width * height * 3 bytes.
struct limn_image {
    int width, height;
    uint8_t *pixels;
};

// Reads PNG, JPEG or WebP. The pixels are freed by limn_image_free.
bool limn_image_load(struct limn_image *image, const char *path, struct limn_error *error);
// Writes by the ending of [path] (.png, .jpg, .jpeg, .webp, .gif, .avif), whole or not at all. [comment] goes into the metadata.
bool limn_image_save(const struct limn_image *image, const char *path, const char *comment,
                     struct limn_error *error);
void limn_image_free(struct limn_image *image);

// ---------------------------------------------------------------------------------------------------------- requests

enum limn_noise {
    LIMN_NOISE_F32,  // the reference pipeline's CPU generator in f32
    LIMN_NOISE_BF16, // what it draws when it runs in bf16
};

enum limn_stage {
    LIMN_STAGE_QUEUED,
    LIMN_STAGE_TEXT,
    LIMN_STAGE_REFERENCES,
    LIMN_STAGE_STEPS,
    LIMN_STAGE_DECODE
};

struct limn_result;

struct limn_progress {
    enum limn_stage stage;
    int image, images; // picture in work, from 0; pictures in all. All pass the steps before one is decoded
    int step, steps;   // denoising step in work, from 0
    // Transformer blocks done in this step; text layers; parts of the autoencoder. Where guidance takes a second evaluation,
    // both count.
    int block, blocks;
    double seconds; // since the request began to run
    // What the picture would be after a step of preview_steps; else NULL. Borrowed for the call.
    const struct limn_image *preview;
    // Picture [image] is decoded: result->images[image], as soon as that is so. The callee may change its pixels, and free it by
    // limn_image_free when the result need not have it.
    bool decoded;
    struct limn_result
        *result; // so far; tokens are counted when their stage is over. NULL while the request waits
};

// Called at least once a block, from the thread that runs the request. Return false to cancel.
typedef bool limn_progress_function(void *user, const struct limn_progress *progress);

struct limn_request {
    const char *prompt;                  // UTF-8, required, not empty, at most LIMN_PROMPT_MOST bytes
    const struct limn_image *references; // "Image 1" is the first
    int reference_count;                 // 0 to LIMN_REFERENCES_MOST
    // Rounded down to multiples of side_multiple. 0, each by itself: the first reference's side after its
    // preparation, else the model's default.
    int width, height;
    int count;     // 1 to LIMN_COUNT_MOST; picture k uses seed + k
    uint64_t seed; // below 2^63
    int steps;     // 0: the model's, with its own sigmas where it has any
    // Negative: the model's. FLUX.2 [dev] reads it; the base models of [klein] evaluate each step twice when it is above 1.
    float guidance;
    const float *sigmas; // own sigmas before the shift, each in (0, 1], falling; NULL: evenly spaced
    int sigma_count;     // then also the step count
    enum limn_noise noise;
    const struct limn_lora *loras; // beside the model's own; files stay open for later requests
    int lora_count;                // 0 to LIMN_LORAS_MOST
    bool tiling;                   // decode in tiles (changes the picture); false decides by memory
    const int *preview_steps;      // after which steps a preview is wanted, from 1; NULL: none
    int preview_count;
    limn_progress_function *progress; // NULL: none
    void *user;
};

// The defaults: one picture, seed 0, everything else the model's.
void limn_request_init(struct limn_request *request);

struct limn_result {
    int count;
    struct limn_image *images;
    uint64_t seed; // of the first picture
    int width, height, steps;
    float guidance;
    bool tiled;            // memory left no other way, or it was asked for
    int text_tokens;       // of the prompt in its template, padding not counted
    int reference_tokens;  // of all reference images
    bool text_cached;      // the prompt's encoding came from the cache
    int references_cached; // so many of the references' did
    double text_seconds, reference_seconds, step_seconds, decode_seconds; // in all
};

// Runs a request and returns when it is done. NULL with an error; LIMN_CANCELLED when the progress function said so
// (also while it waits for its turn: it is called with LIMN_STAGE_QUEUED about ten times a second).
struct limn_result *limn_run(struct limn_model *model, const struct limn_request *request,
                             struct limn_error *error);
void limn_result_free(struct limn_result *result);

#ifdef __cplusplus
}
#endif
#endif
