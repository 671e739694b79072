// Prompt embeddings of FLUX.2 [dev], as Flux2Pipeline of diffusers computes them:
//
//   text    <s>[SYSTEM_PROMPT]{system message}[/SYSTEM_PROMPT][INST]{prompt}[/INST], "[IMG]" deleted from the prompt first;
//           every added token that stands in it, also in the prompt, becomes its id
//   ids     the first [length] of them, <pad> in front up to [length]
//   model   positions 0 to length - 1 over all, attention causal and blind to pads
//   result  [length, taps * hidden]: the hidden states of the taps side by side
//
// A pad sees no key at all, so its attention is 0 and it passes only the feed-forward halves of the layers: all pads have
// one and the same row, whatever the prompt. So the model runs on the n real tokens, at positions length - n onwards, and on
// one pad that stands by itself. Relies on language_model.h, tokenizer.h, base, tensor.
#include "text/prompt_encoder.h"
#include "base/buffer.h"
#include "base/file.h"
#include "text/language_model.h"
#include "weights/parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT_LENGTH_MOST = 32768 };

struct prompt_encoder {
    struct prompt_settings settings;
    char *system_message;
    struct device *device;
    struct tokenizer *tokenizer;
    struct language_model *model;
    int32_t pad;
};

// ------------------------------------------------------------------------------------------------------------ opening

static bool check_settings(const char *folder, const struct prompt_settings *settings, int *deepest,
                           struct error *error) {
    if (!settings->system_message)
        return error_set(error, ERROR_INPUT,
                         "%s: there is no system message, expected \"system_message\" in limn.json", folder);
    if (settings->length < 1 || settings->length > PROMPT_LENGTH_MOST)
        return error_set(error, ERROR_INPUT, "%s: text length %d, expected 1 to %d", folder, settings->length,
                         PROMPT_LENGTH_MOST);
    if (settings->tap_count < 1 || settings->tap_count > PROMPT_TAPS_MOST)
        return error_set(error, ERROR_INPUT, "%s: %d text taps, expected 1 to %d", folder,
                         settings->tap_count, PROMPT_TAPS_MOST);
    for (int i = 0; i < settings->tap_count; i++) {
        if (settings->taps[i] < 0)
            return error_set(error, ERROR_INPUT, "%s: text tap %d, expected 0 or more", folder,
                             settings->taps[i]);
        if (settings->taps[i] > *deepest) *deepest = settings->taps[i];
    }
    return true;
}

static bool check_tokens(struct prompt_encoder *encoder, const char *folder, struct error *error) {
    static const char *const names[] = {"<s>",    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
                                        "[INST]", "[/INST]",         "<pad>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        encoder->pad = tokenizer_find(encoder->tokenizer, names[i]); // the last one stays
        if (encoder->pad < 0)
            return error_set(error, ERROR_INPUT,
                             "%s/tokenizer: there is no token \"%s\", which the chat template uses", folder,
                             names[i]);
    }
    int64_t rows = language_model_config(encoder->model)->vocabulary;
    if (tokenizer_vocabulary(encoder->tokenizer) > rows)
        return error_set(error, ERROR_INPUT,
                         "%s/tokenizer: token ids up to %d, expected below %lld, the rows of "
                         "embed_tokens in text_encoder",
                         folder, tokenizer_vocabulary(encoder->tokenizer) - 1, (long long)rows);
    return true;
}

static bool open_parts(struct prompt_encoder *encoder, const char *folder, int deepest, struct error *error) {
    char *tokenizer = part_find_tokenizer(folder, error);
    char *model = tokenizer ? part_find(folder, PART_TEXT_ENCODER, error) : NULL;
    if (model && (encoder->tokenizer = tokenizer_open(tokenizer, error))) {
        encoder->model = language_model_open(model, deepest, encoder->device, error);
        if (encoder->model && language_model_config(encoder->model)->kind != LANGUAGE_MODEL_MISTRAL) {
            error_set(error, ERROR_UNSUPPORTED,
                      "%s: a text encoder whose chat template is not known, expected mistral3 or "
                      "mistral",
                      model);
            language_model_close(encoder->model);
            encoder->model = NULL;
        }
    }
    free(tokenizer);
    free(model);
    return encoder->model && check_tokens(encoder, folder, error);
}

struct prompt_encoder *prompt_encoder_open(const char *folder, const struct prompt_settings *settings,
                                           struct device *device, struct error *error) {
    int deepest = 0;
    if (!check_settings(folder, settings, &deepest, error)) return NULL;
    struct prompt_encoder *encoder = calloc(1, sizeof *encoder);
    char *system_message = strdup(settings->system_message);
    if (!encoder || !system_message) {
        free(encoder);
        free(system_message);
        error_set(error, ERROR_MEMORY, "%s: out of memory", folder);
        return NULL;
    }
    encoder->settings = *settings;
    encoder->settings.system_message = encoder->system_message = system_message;
    encoder->device = device;
    if (open_parts(encoder, folder, deepest, error)) return encoder;
    prompt_encoder_close(encoder);
    return NULL;
}

void prompt_encoder_close(struct prompt_encoder *encoder) {
    if (!encoder) return;
    language_model_close(encoder->model);
    tokenizer_close(encoder->tokenizer);
    free(encoder->system_message);
    free(encoder);
}

int64_t prompt_encoder_width(const struct prompt_encoder *encoder) {
    return encoder->settings.tap_count * language_model_config(encoder->model)->hidden;
}

const struct tokenizer *prompt_encoder_tokenizer(const struct prompt_encoder *encoder) {
    return encoder->tokenizer;
}

void prompt_encoder_release_pages(struct prompt_encoder *encoder) {
    language_model_release_pages(encoder->model);
}

// ------------------------------------------------------------------------------------------------------------- tokens

static bool add_prompt(struct buffer *text, const char *prompt) {
    static const char image[] = "[IMG]";
    for (const char *found; (found = strstr(prompt, image)); prompt = found + sizeof image - 1)
        if (!buffer_add(text, prompt, (size_t)(found - prompt))) return false;
    return buffer_add_string(text, prompt);
}

// The ids of the template around the prompt, cut to the text length.
static bool encode(const struct prompt_encoder *encoder, const char *prompt, struct token_list *list,
                   struct error *error) {
    struct buffer text = {0};
    bool done = buffer_add_string(&text, "<s>[SYSTEM_PROMPT]") &&
                buffer_add_string(&text, encoder->system_message) &&
                buffer_add_string(&text, "[/SYSTEM_PROMPT][INST]") && add_prompt(&text, prompt) &&
                buffer_add_string(&text, "[/INST]");
    if (!done) error_set(error, ERROR_MEMORY, "out of memory for a prompt of %zu bytes", strlen(prompt));
    done = done && tokenizer_encode(encoder->tokenizer, text.data, text.length, list, error);
    if (list->count > encoder->settings.length) list->count = encoder->settings.length;
    buffer_free(&text);
    return done;
}

bool prompt_encoder_tokens(const struct prompt_encoder *encoder, const char *prompt, int32_t *ids,
                           struct error *error) {
    struct token_list list = {0};
    bool done = encode(encoder, prompt, &list, error);
    int64_t pads = encoder->settings.length - list.count;
    for (int64_t i = 0; done && i < encoder->settings.length; i++)
        ids[i] = i < pads ? encoder->pad : list.ids[i - pads];
    free(list.ids);
    return done;
}

// --------------------------------------------------------------------------------------------------------- embeddings

// A damaged weight shows here at the latest.
static bool check_finite(const float *values, int64_t count, struct error *error) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return error_set(error, ERROR_INPUT,
                             "text_encoder: the prompt embeddings are not finite numbers; its weights "
                             "are damaged, or too large for this type of product");
    return true;
}

static bool run_model(struct prompt_encoder *encoder, const struct token_list *list,
                      struct language_model_input *input, float *embeddings, struct error *error) {
    struct device *device = encoder->device;
    int64_t width = prompt_encoder_width(encoder), pads = encoder->settings.length - list->count;
    size_t row_bytes = (size_t)width * sizeof *embeddings, mark = workspace_mark(device);
    int64_t lone = pads > 0;
    struct matrix output = workspace_matrix(device, DTYPE_F32, list->count + lone, width);
    bool done = language_model_run(encoder->model, input, output, error);
    if (done) {
        // The pad's row and the real ones lie behind one another: they land where the last pad belongs and after it.
        device_download(device, embeddings + (pads - lone) * width, output.data,
                        (size_t)(list->count + lone) * row_bytes);
        done = device_status(device, error) &&
               check_finite(embeddings + (pads - lone) * width, (list->count + lone) * width, error);
    }
    for (int64_t i = 0; done && i < pads - 1; i++)
        memcpy(embeddings + i * width, embeddings + (pads - 1) * width, row_bytes);
    workspace_release(device, mark);
    return done;
}

bool prompt_encoder_run(struct prompt_encoder *encoder, const char *prompt, enum compute compute,
                        prompt_progress *progress, void *context, float *embeddings, struct error *error) {
    struct token_list list = {0};
    bool done = encode(encoder, prompt, &list, error);
    int64_t pads = encoder->settings.length - list.count;
    struct language_model_input input = {
        .tokens = list.ids,
        .count = list.count,
        .position = pads,
        .lone_token = pads > 0 ? encoder->pad : -1,
        .taps = encoder->settings.taps,
        .tap_count = encoder->settings.tap_count,
        .compute = compute,
        .progress = progress,
        .context = context,
    };
    done = done && run_model(encoder, &list, &input, embeddings, error);
    free(list.ids);
    return done;
}
