// Prompt embeddings as Flux2Pipeline ([dev]) and Flux2KleinPipeline ([klein]) of diffusers compute them:
//
//   text    dev: <s>[SYSTEM_PROMPT]{system message}[/SYSTEM_PROMPT][INST]{prompt}[/INST], "[IMG]" deleted from the prompt first
//           klein: <|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n, the prompt as it is
//           every added token that stands in it, also in the prompt, becomes its id
//   ids     the first [length] of them; up to [length], dev: <pad> in front, klein: <|endoftext|> behind
//   model   positions 0 to length - 1 over all, attention causal and blind to pads
//   result  [length, taps * hidden]: the hidden states of the taps side by side
//
// A pad in front sees no key at all, so its attention is 0 and it passes only the feed-forward halves of the layers: all pads
// have one and the same row, whatever the prompt. So the model runs on the n real tokens, at positions length - n onwards, and
// on one pad that stands by itself. A pad behind sees all real tokens from a position of its own: each of its rows is another,
// for every prompt, and is computed. Relies on language_model.h, tokenizer.h, base, tensor.
#include "text/prompt_encoder.h"
#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "text/language_model.h"
#include "weights/parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT_LENGTH_MOST = 32768, TEMPLATE_BYTES_MOST = 1 << 20, PATH_BYTES = 4096 };

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
    if (settings->template == PROMPT_MISTRAL && !settings->system_message)
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
    static const char *const names[][7] = {
        [PROMPT_MISTRAL] = {"<s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "<pad>"},
        [PROMPT_QWEN3] = {"<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|endoftext|>"},
    };
    const char *const *wanted = names[encoder->settings.template];
    for (int i = 0; wanted[i]; i++) {
        encoder->pad = tokenizer_find(encoder->tokenizer, wanted[i]); // the last one stays
        if (encoder->pad < 0)
            return error_set(error, ERROR_INPUT,
                             "%s/tokenizer: there is no token \"%s\", which the chat template uses", folder,
                             wanted[i]);
    }
    int64_t rows = language_model_config(encoder->model)->vocabulary;
    if (tokenizer_vocabulary(encoder->tokenizer) > rows)
        return error_set(error, ERROR_INPUT,
                         "%s/tokenizer: token ids up to %d, expected below %lld, the rows of "
                         "embed_tokens in text_encoder",
                         folder, tokenizer_vocabulary(encoder->tokenizer) - 1, (long long)rows);
    return true;
}

static bool check_model(const struct prompt_encoder *encoder, const char *path, struct error *error) {
    bool qwen3 = language_model_config(encoder->model)->kind == LANGUAGE_MODEL_QWEN3;
    bool wanted = encoder->settings.template == PROMPT_QWEN3;
    return encoder->settings.any_model || qwen3 == wanted ||
           error_set(error, ERROR_UNSUPPORTED,
                     "%s: the text encoder is a %s model, but the pipeline's chat template is made for %s "
                     "(\"text_template\" in limn.json can name another)",
                     path, qwen3 ? "qwen3" : "mistral", wanted ? "qwen3" : "mistral3 or mistral");
}

// The text of the tokenizer's chat template in fresh memory, from chat_template.jinja or tokenizer_config.json; NULL where there
// is none, with an error where a file cannot be read. They lie in the tokenizer's folder, or beside its file. [path]: of the file
// that has it, PATH_BYTES.
static char *read_template(const char *tokenizer, char *path, struct error *error) {
    const char *slash = folder_exists(tokenizer) ? NULL : strrchr(tokenizer, '/');
    int length = slash ? (int)(slash - tokenizer) : (int)strlen(tokenizer);
    char *text = NULL;
    size_t size = 0;
    snprintf(path, PATH_BYTES, "%.*s/chat_template.jinja", length, tokenizer);
    if (file_exists(path)) return file_read(path, TEMPLATE_BYTES_MOST, &text, &size, error) ? text : NULL;
    snprintf(path, PATH_BYTES, "%.*s/tokenizer_config.json", length, tokenizer);
    json_t *config = file_exists(path) ? json_read_file(path, TEMPLATE_BYTES_MOST, error) : NULL;
    const char *inside = json_string_value(json_object_get(config, "chat_template"));
    if (inside && !(text = strdup(inside))) error_set(error, ERROR_MEMORY, "%s: out of memory", path);
    json_decref(config);
    return text;
}

// The reference runs the folder's own template: one that cannot give what fill_qwen3 gives must not pass for it.
static bool check_template(const struct prompt_encoder *encoder, const char *tokenizer, struct error *error) {
    static const char *const parts[] = {"<|im_start|>", "<|im_end|>\\n", "enable_thinking",
                                        "<think>\\n\\n</think>\\n\\n"};
    char path[PATH_BYTES];
    struct error cause = {0};
    if (encoder->settings.any_model || encoder->settings.template != PROMPT_QWEN3) return true;
    char *text = read_template(tokenizer, path, &cause);
    bool good = cause.kind == ERROR_NONE;
    if (!good) *error = cause;
    for (size_t i = 0; good && text && i < sizeof parts / sizeof *parts; i++)
        if (!strstr(text, parts[i]))
            good =
                error_set(error, ERROR_UNSUPPORTED,
                          "%s: the chat template has no %s, so it is not that of Qwen3, the only one of its "
                          "kind that limn knows (\"text_template\": \"qwen3\" in limn.json lets it stand in)",
                          path, parts[i]);
    free(text);
    return good;
}

static bool open_parts(struct prompt_encoder *encoder, const char *folder, int deepest, struct error *error) {
    char *tokenizer = part_find_tokenizer(folder, error);
    char *model = tokenizer ? part_find(folder, PART_TEXT_ENCODER, error) : NULL;
    if (model && (encoder->tokenizer = tokenizer_open(tokenizer, error)))
        encoder->model = language_model_open(model, deepest, encoder->device, error);
    bool good = encoder->model && check_model(encoder, model, error) &&
                check_tokens(encoder, folder, error) && check_template(encoder, tokenizer, error);
    free(tokenizer);
    free(model);
    return good;
}

struct prompt_encoder *prompt_encoder_open(const char *folder, const struct prompt_settings *settings,
                                           struct device *device, struct error *error) {
    int deepest = 0;
    if (!check_settings(folder, settings, &deepest, error)) return NULL;
    struct prompt_encoder *encoder = calloc(1, sizeof *encoder);
    char *system_message = strdup(settings->system_message ? settings->system_message : "");
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

// The chat templates. The reference runs the one in the tokenizer's folder; these are what the published ones give for a
// single message of the user, Qwen3's with enable_thinking=False.
static bool fill_mistral(const struct prompt_encoder *encoder, const char *prompt, struct buffer *text) {
    static const char image[] = "[IMG]";
    if (!buffer_add_string(text, "<s>[SYSTEM_PROMPT]") || !buffer_add_string(text, encoder->system_message) ||
        !buffer_add_string(text, "[/SYSTEM_PROMPT][INST]"))
        return false;
    for (const char *found; (found = strstr(prompt, image)); prompt = found + sizeof image - 1)
        if (!buffer_add(text, prompt, (size_t)(found - prompt))) return false;
    return buffer_add_string(text, prompt) && buffer_add_string(text, "[/INST]");
}

static bool fill_qwen3(const char *prompt, struct buffer *text) {
    return buffer_add_string(text, "<|im_start|>user\n") && buffer_add_string(text, prompt) &&
           buffer_add_string(text, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
}

// The ids of the template around the prompt, cut to the text length.
static bool encode(const struct prompt_encoder *encoder, const char *prompt, struct token_list *list,
                   struct error *error) {
    struct buffer text = {0};
    bool done = encoder->settings.template == PROMPT_QWEN3 ? fill_qwen3(prompt, &text)
                                                           : fill_mistral(encoder, prompt, &text);
    if (!done) error_set(error, ERROR_MEMORY, "out of memory for a prompt of %zu bytes", strlen(prompt));
    done = done && tokenizer_encode(encoder->tokenizer, text.data, text.length, list, error);
    if (list->count > encoder->settings.length) list->count = encoder->settings.length;
    buffer_free(&text);
    return done;
}

// [count] ids and the padding, [length] in all.
static void pad(const struct prompt_encoder *encoder, const int32_t *list, int64_t count, int32_t *ids) {
    int64_t length = encoder->settings.length;
    int64_t first = encoder->settings.template == PROMPT_QWEN3 ? 0 : length - count;
    for (int64_t i = 0; i < length; i++)
        ids[i] = i >= first && i < first + count ? list[i - first] : encoder->pad;
}

bool prompt_encoder_tokens(const struct prompt_encoder *encoder, const char *prompt, int32_t *ids, int *count,
                           struct error *error) {
    struct token_list list = {0};
    bool done = encode(encoder, prompt, &list, error);
    if (done) pad(encoder, list.ids, list.count, ids);
    *count = (int)list.count;
    free(list.ids);
    return done;
}

int prompt_encoder_copies(const struct prompt_encoder *encoder, int count) {
    int pads = encoder->settings.length - count;
    return encoder->settings.template == PROMPT_MISTRAL && pads > 1 ? pads - 1 : 0;
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

// Writes the rows that the model gives, a lone pad's first.
static bool run_model(struct prompt_encoder *encoder, const struct language_model_input *input, float *rows,
                      struct error *error) {
    struct device *device = encoder->device;
    int64_t width = prompt_encoder_width(encoder), count = input->count + (input->lone_token >= 0);
    size_t mark = workspace_mark(device);
    struct matrix output = workspace_matrix(device, DTYPE_F32, count, width);
    bool done = language_model_run(encoder->model, input, output, error);
    if (done) {
        device_download(device, rows, output.data, (size_t)(count * width) * sizeof *rows);
        done = device_status(device, error) && check_finite(rows, count * width, error);
    }
    workspace_release(device, mark);
    return done;
}

// Padding in front: the pad's row and the real ones lie behind one another; they land where the last pad belongs and after
// it, and the pad's is copied to the others.
static bool run_padded_in_front(struct prompt_encoder *encoder, const struct token_list *list,
                                struct language_model_input *input, float *embeddings, struct error *error) {
    int64_t width = prompt_encoder_width(encoder), copies = prompt_encoder_copies(encoder, (int)list->count);
    input->tokens = list->ids;
    input->count = list->count;
    input->position = encoder->settings.length - list->count;
    if (input->position > 0) input->lone_token = encoder->pad;
    if (!run_model(encoder, input, embeddings + copies * width, error)) return false;
    for (int64_t i = 0; i < copies; i++)
        memcpy(embeddings + i * width, embeddings + copies * width, (size_t)width * sizeof *embeddings);
    return true;
}

static bool run_padded_behind(struct prompt_encoder *encoder, const struct token_list *list,
                              struct language_model_input *input, float *embeddings, struct error *error) {
    int64_t length = encoder->settings.length;
    int32_t *ids = malloc((size_t)length * sizeof *ids);
    if (!ids) return error_set(error, ERROR_MEMORY, "not enough memory for %lld tokens", (long long)length);
    pad(encoder, list->ids, list->count, ids);
    input->tokens = ids;
    input->count = length;
    input->pads = length - list->count;
    bool done = run_model(encoder, input, embeddings, error);
    free(ids);
    return done;
}

bool prompt_encoder_run(struct prompt_encoder *encoder, const char *prompt, enum compute compute,
                        prompt_progress *progress, void *context, float *embeddings, struct error *error) {
    struct token_list list = {0};
    struct language_model_input input = {
        .lone_token = -1,
        .taps = encoder->settings.taps,
        .tap_count = encoder->settings.tap_count,
        .compute = compute,
        .progress = progress,
        .context = context,
    };
    bool done = encode(encoder, prompt, &list, error);
    if (done && encoder->settings.template == PROMPT_QWEN3)
        done = run_padded_behind(encoder, &list, &input, embeddings, error);
    else if (done)
        done = run_padded_in_front(encoder, &list, &input, embeddings, error);
    free(list.ids);
    return done;
}

int64_t prompt_encoder_run_bytes(const struct prompt_encoder *encoder, enum compute compute) {
    const int64_t rows = encoder->settings.length;
    return language_model_run_bytes(encoder->model, rows, compute) +
           (rows + 1) * prompt_encoder_width(encoder) * (int64_t)sizeof(float) + 64;
}

struct checkpoint_summary prompt_encoder_weights(const struct prompt_encoder *encoder) {
    return language_model_weights(encoder->model);
}
