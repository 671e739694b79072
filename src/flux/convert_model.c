// The parts one after another, then the files beside them. Relies on convert_model.h, convert_config.h.
#include "flux/convert_model.h"

#include "base/file.h"
#include "flux/autoencoder_parts.h"
#include "flux/convert_config.h"
#include "flux/model.h"
#include "flux/model_folder.h"
#include "flux/transformer_parts.h"
#include "tensor/block.h"
#include "tensor/encode.h"
#include "tensor/encode_scaled.h"
#include "text/tokenizer_forms.h"
#include "weights/parts.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { JSON_MOST = 1 << 20, TOKENIZER_FILE_MOST = 64 << 20, TEXT_METADATA_MOST = 32, GGUF_LORAS_MOST = 16 };

struct work {
    const struct convert_model *convert;
    struct model_folder folder;
    struct pool *pool;
    enum language_model_kind text_kind;
};

static bool no_memory(const struct work *work, struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory to convert %s", work->convert->source);
}

static bool ends_with(const char *text, const char *ending) {
    const size_t length = strlen(text), tail = strlen(ending);
    return length > tail && strcmp(text + length - tail, ending) == 0;
}

// --------------------------------------------------------------------------------------------------------------- files

static bool write_json(const struct work *work, const char *folder, const char *name, json_t *json,
                       struct error *error) {
    char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL, *path = path_join(folder, name);
    bool good = (text && path) || no_memory(work, error);
    if (good) good = file_write(path, text, strlen(text), error);
    free(text);
    free(path);
    json_decref(json);
    return good;
}

static bool copy_file(const char *from, const char *to, size_t most, struct error *error) {
    char *data = NULL;
    size_t size;
    bool good = file_read(from, most, &data, &size, error) && file_write(to, data, size, error);
    free(data);
    return good;
}

static json_t *read_json(const char *path, struct error *error) {
    char *text = NULL;
    size_t size;
    json_t *json =
        file_read(path, JSON_MOST, &text, &size, error) ? json_parse(path, text, size, error) : NULL;
    free(text);
    return json;
}

// What diffusers and transformers must know of a part in NF4: that bitsandbytes reads it, and which linear layers it
// leaves alone. plain: their names. NULL when memory is gone.
static json_t *bitsandbytes_config(json_t *plain) {
    return json_pack("{s:s, s:b, s:b, s:s, s:s, s:b, s:s, s:O}", "quant_method", "bitsandbytes",
                     "load_in_4bit", 1, "load_in_8bit", 0, "bnb_4bit_quant_type", "nf4",
                     "bnb_4bit_compute_dtype", "bfloat16", "bnb_4bit_use_double_quant", 0,
                     "bnb_4bit_quant_storage", "uint8", "llm_int8_skip_modules", plain);
}

// The config.json that lies with a part, else the one made of what was read; with what it says of a quantisation changed to
// what is true of the weights that [job] wrote.
static bool write_config(const struct work *work, const char *path, const char *folder, json_t *made,
                         const struct convert_job *job, struct error *error) {
    static const char key[] = "quantization_config";
    char *config = part_config(path), *to = path_join(folder, "config.json");
    json_t *json = config ? read_json(config, error) : json_incref(made);
    const bool quantised = job->type == DTYPE_NF4;
    bool good = to ? json != NULL : no_memory(work, error);
    if (good && config && !quantised && !json_object_get(json, key)) {
        good = copy_file(config, to, JSON_MOST, error);
    } else if (good) {
        json_object_del(json, key);
        json_t *plain = quantised ? convert_plain_modules(job, error) : NULL;
        good = !quantised || plain;
        // Where the output layer shares the embedding's weights, no tensor has its name.
        if (plain && !job->lora_shape) json_array_append_new(plain, json_string("lm_head"));
        if (good && quantised)
            good = json_object_set_new(json, key, bitsandbytes_config(plain)) == 0 || no_memory(work, error);
        good = good && write_json(work, folder, "config.json", json_incref(json), error);
        json_decref(plain);
    }
    json_decref(json);
    json_decref(made);
    free(config);
    free(to);
    return good;
}

static bool is_weights(const char *name) {
    return ends_with(name, ".safetensors") || ends_with(name, ".gguf") || ends_with(name, ".index.json");
}

// Every file of a folder but weights, not what is in folders of it.
static bool copy_folder(const struct work *work, const char *from, const char *to, struct error *error) {
    DIR *folder = opendir(from);
    if (!folder) return error_set(error, ERROR_IO, "%s: cannot be listed", from);
    bool good = true;
    for (struct dirent *entry; good && (entry = readdir(folder));) {
        char *a = path_join(from, entry->d_name), *b = path_join(to, entry->d_name);
        struct stat status;
        good = (a && b) || no_memory(work, error);
        if (good && stat(a, &status) == 0 && S_ISREG(status.st_mode) && !is_weights(entry->d_name))
            good = copy_file(a, b, TOKENIZER_FILE_MOST, error);
        free(a);
        free(b);
    }
    closedir(folder);
    return good;
}

// --------------------------------------------------------------------------------------------------------- transformer

// What GGUF files say their type is (general.file_type of llama.cpp).
static int file_type_of(enum dtype type) {
    switch (type) {
    case DTYPE_F32:
        return 0;
    case DTYPE_F16:
        return 1;
    case DTYPE_Q4_0:
        return 2;
    case DTYPE_Q4_1:
        return 3;
    case DTYPE_Q8_0:
        return 7;
    case DTYPE_Q5_0:
        return 8;
    case DTYPE_Q5_1:
        return 9;
    case DTYPE_Q2_K:
        return 10;
    case DTYPE_Q3_K:
        return 11;
    case DTYPE_Q4_K:
        return 14;
    case DTYPE_Q5_K:
        return 16;
    case DTYPE_Q6_K:
        return 18;
    case DTYPE_IQ4_NL:
        return 25;
    case DTYPE_IQ4_XS:
        return 30;
    default:
        return 32; // BF16
    }
}

struct loras {
    struct convert_lora list[GGUF_LORAS_MOST];
    int count;
};

static void loras_close(struct loras *loras) {
    for (int i = 0; i < loras->count; i++) lora_close((struct lora *)loras->list[i].lora);
}

static bool add_lora(struct loras *loras, const char *file, float scale, const struct lora_shape *shape,
                     struct error *error) {
    if (loras->count == GGUF_LORAS_MOST)
        return error_set(error, ERROR_INPUT, "%s: expected at most %d LoRAs", file, GGUF_LORAS_MOST);
    struct lora *lora = lora_open(file, shape, error);
    if (lora) loras->list[loras->count++] = (struct convert_lora){lora, scale};
    return lora != NULL;
}

// Those of the model folder, then those that were asked for.
static bool open_loras(const struct work *work, struct loras *loras, const struct lora_shape *shape,
                       struct error *error) {
    bool good = true;
    const int own = work->convert->without_loras ? 0 : work->folder.lora_count;
    for (int i = 0; i < own && good; i++)
        good = add_lora(loras, work->folder.loras[i].file, work->folder.loras[i].scale, shape, error);
    for (int i = 0; i < work->convert->lora_count && good; i++)
        good = add_lora(loras, work->convert->loras[i], work->convert->lora_scales[i], shape, error);
    return good;
}

// The shape as config.json or the tensors say it; opening the transformer checks all of them.
static bool shape_of(const struct work *work, struct transformer_shape *shape, struct error *error) {
    struct device *device = device_open_cpu(&(struct device_options){.pool = work->pool}, error);
    struct transformer *transformer =
        device ? transformer_open(model_folder_part(&work->folder, PART_TRANSFORMER), device, error) : NULL;
    if (transformer) *shape = *transformer_shape(transformer);
    transformer_close(transformer);
    device_close(device);
    return transformer != NULL;
}

static bool convert_transformer(struct work *work, const char *folder, const char *file, bool gguf,
                                struct error *error) {
    const struct convert_model *convert = work->convert;
    char *path = part_find(model_folder_part(&work->folder, PART_TRANSFORMER), PART_TRANSFORMER, error);
    struct checkpoint *from = path ? layout_open(path, PART_TRANSFORMER, NULL, error) : NULL;
    struct transformer_shape shape;
    struct loras loras = {.count = 0};
    // A file by itself is for the programs that invented its type: fp8 and NVFP4 are ComfyUI's.
    const bool bfl = gguf || (!folder && encode_has_scales(convert->type) && convert->type != DTYPE_NF4);
    bool good = from && shape_of(work, &shape, error);
    const struct planned_metadata metadata[] = {
        {"general.architecture", METADATA_TEXT, .text = "flux"},
        {"general.quantization_version", METADATA_U32, .number = 2},
        {"general.file_type", METADATA_U32, .number = file_type_of(convert->type)},
    };
    const struct planned_metadata format[] = {{"format", METADATA_TEXT, .text = "pt"}};
    if (good) {
        const struct lora_shape lora_shape = {.hidden = shape.hidden,
                                              .mlp_hidden = shape.mlp_hidden,
                                              .in_channels = shape.in_channels,
                                              .context = shape.context,
                                              .timestep_width = shape.timestep_width,
                                              .double_blocks = shape.double_blocks,
                                              .single_blocks = shape.single_blocks,
                                              .guidance = shape.guidance};
        good = open_loras(work, &loras, &lora_shape, error);
        const struct convert_job job = {.from = from,
                                        .names = bfl ? NAMES_BFL : NAMES_KEEP,
                                        .format = gguf ? WEIGHTS_GGUF : WEIGHTS_SAFETENSORS,
                                        .type = convert->type,
                                        .row_scales = convert->row_scales,
                                        .loras = loras.list,
                                        .lora_count = loras.count,
                                        .lora_shape = &lora_shape,
                                        .metadata = gguf ? metadata : format,
                                        .metadata_count = gguf ? 3 : 1,
                                        .pool = work->pool,
                                        .progress = convert->progress,
                                        .context = convert->context};
        good = good && convert_weights(&job, file, error);
        if (good && folder)
            good = write_config(work, path, folder, config_of_transformer(&shape), &job, error);
    }
    loras_close(&loras);
    checkpoint_close(from);
    free(path);
    return good;
}

// -------------------------------------------------------------------------------------------------------- text encoder

static bool text_config(const char *path, const struct checkpoint *from, const char *prefix,
                        struct language_model_config *config, struct error *error) {
    char *file = part_config(path), *text = NULL;
    size_t size;
    bool good;
    if (file)
        good = file_read(file, JSON_MOST, &text, &size, error) &&
               language_model_config_parse(file, text, size, config, error);
    else
        good = language_model_config_derive(from, prefix, config, error);
    free(file);
    free(text);
    return good;
}

// What stands in front of the names of the decoder's tensors, to be freed; NULL with an error.
static char *prefix_of(const struct checkpoint *from, struct error *error) {
    static const char ending[] = "embed_tokens.weight";
    for (int64_t i = 0; i < checkpoint_count(from); i++) {
        const char *name = checkpoint_entry(from, i)->name;
        if (!ends_with(name, ending) && strcmp(name, ending) != 0) continue;
        char *prefix = strndup(name, strlen(name) - strlen(ending));
        if (!prefix) error_set(error, ERROR_MEMORY, "not enough memory for the name of a tensor");
        return prefix;
    }
    error_set(error, ERROR_NOT_FOUND, "%s: there is no tensor %s in it", checkpoint_name(from), ending);
    return NULL;
}

struct text_metadata {
    struct planned_metadata list[TEXT_METADATA_MOST];
    int64_t count;
    char keys[TEXT_METADATA_MOST][64];
    struct tokenizer_words words;
};

// "<architecture>.key"
static void add_number(struct text_metadata *metadata, const char *architecture, const char *key,
                       enum metadata_kind kind, double number) {
    char *name = metadata->keys[metadata->count];
    snprintf(name, sizeof metadata->keys[0], "%s.%s", architecture, key);
    metadata->list[metadata->count++] =
        (struct planned_metadata){.key = name, .kind = kind, .number = number};
}

static void describe_model(struct text_metadata *metadata, const struct language_model_config *config,
                           enum dtype type) {
    const char *name = config->kind == LANGUAGE_MODEL_QWEN3 ? "qwen3" : "llama";
    metadata->list[metadata->count++] =
        (struct planned_metadata){.key = "general.architecture", .kind = METADATA_TEXT, .text = name};
    add_number(metadata, "general", "quantization_version", METADATA_U32, 2);
    add_number(metadata, "general", "file_type", METADATA_U32, file_type_of(type));
    add_number(metadata, name, "block_count", METADATA_U32, (double)config->layers);
    add_number(metadata, name, "context_length", METADATA_U32, 131072);
    add_number(metadata, name, "embedding_length", METADATA_U32, (double)config->hidden);
    add_number(metadata, name, "feed_forward_length", METADATA_U32, (double)config->mlp_hidden);
    add_number(metadata, name, "attention.head_count", METADATA_U32, (double)config->heads);
    add_number(metadata, name, "attention.head_count_kv", METADATA_U32, (double)config->kv_heads);
    add_number(metadata, name, "attention.key_length", METADATA_U32, (double)config->head_dim);
    add_number(metadata, name, "attention.value_length", METADATA_U32, (double)config->head_dim);
    add_number(metadata, name, "attention.layer_norm_rms_epsilon", METADATA_F32, config->eps);
    add_number(metadata, name, "rope.freq_base", METADATA_F32, config->rope_theta);
    add_number(metadata, name, "rope.dimension_count", METADATA_U32, (double)config->head_dim);
    add_number(metadata, name, "vocab_size", METADATA_U32, (double)config->vocabulary);
}

static void add_words(struct text_metadata *metadata) {
    const struct tokenizer_words *words = &metadata->words;
    const struct planned_metadata list[] = {
        {"tokenizer.ggml.model", METADATA_TEXT, .text = "gpt2"},
        {"tokenizer.ggml.pre", METADATA_TEXT, .text = words->pre},
        {"tokenizer.ggml.tokens", METADATA_TEXTS, .texts = words->tokens, .count = words->count},
        {"tokenizer.ggml.token_type", METADATA_I32S, .integers = words->types, .count = words->count},
        {"tokenizer.ggml.merges", METADATA_TEXTS, .texts = words->merges, .count = words->merge_count},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) metadata->list[metadata->count++] = list[i];
}

// The tokenizer goes into the file where GGUF has a name for how it splits a text; in a folder it lies beside anyway.
static bool describe_tokenizer(const struct work *work, struct text_metadata *metadata, int64_t vocabulary,
                               struct error *error) {
    char *found = part_find_tokenizer(model_folder_part(&work->folder, PART_TEXT_ENCODER), error);
    char *path = found ? tokenizer_file(found, error) : NULL;
    json_t *document = path ? tokenizer_document(path, error) : NULL;
    bool good = document && tokenizer_words_of(path, document, vocabulary, &metadata->words, error);
    if (good && metadata->words.pre) add_words(metadata);
    json_decref(document);
    free(path);
    free(found);
    return good;
}

static bool convert_text_encoder(struct work *work, const char *folder, const char *file, bool gguf,
                                 struct error *error) {
    const struct convert_model *convert = work->convert;
    const enum dtype type = folder && convert->text_type ? convert->text_type : convert->type;
    struct layout layout = {0};
    struct language_model_config config;
    struct text_metadata metadata = {.count = 0};
    char *path = part_find(model_folder_part(&work->folder, PART_TEXT_ENCODER), PART_TEXT_ENCODER, error);
    struct checkpoint *from = path ? layout_open(path, PART_TEXT_ENCODER, &layout, error) : NULL;
    char *prefix = from ? prefix_of(from, error) : NULL;
    bool good = prefix && text_config(path, from, prefix, &config, error);
    const struct planned_metadata format[] = {{"format", METADATA_TEXT, .text = "pt"}};
    if (good && gguf) {
        describe_model(&metadata, &config, type);
        good = describe_tokenizer(work, &metadata, config.vocabulary, error);
    }
    if (good) {
        const struct convert_job job = {.from = from,
                                        .names = gguf ? NAMES_LLAMA : NAMES_KEEP,
                                        .prefix = *prefix ? NULL : "model.",
                                        .format = gguf ? WEIGHTS_GGUF : WEIGHTS_SAFETENSORS,
                                        .type = type,
                                        .row_scales = convert->row_scales,
                                        .from_pairs = layout.rope_interleaved,
                                        .to_pairs = gguf && config.kind == LANGUAGE_MODEL_MISTRAL,
                                        .head_dim = config.head_dim,
                                        .metadata = gguf ? metadata.list : format,
                                        .metadata_count = gguf ? metadata.count : 1,
                                        .pool = work->pool,
                                        .progress = convert->progress,
                                        .context = convert->context};
        good = convert_weights(&job, file, error);
        work->text_kind = config.kind;
        if (good && folder)
            good = write_config(work, path, folder, config_of_text_encoder(&config), &job, error);
    }
    tokenizer_words_free(&metadata.words);
    checkpoint_close(from);
    free(prefix);
    free(path);
    return good;
}

// --------------------------------------------------------------------------------------------------------- autoencoder

static bool autoencoder_config(const char *path, const struct checkpoint *from,
                               struct autoencoder_config *config, struct error *error) {
    char *file = part_config(path), *text = NULL;
    size_t size;
    bool good;
    if (file)
        good = file_read(file, JSON_MOST, &text, &size, error) &&
               autoencoder_config_parse(file, text, size, config, error);
    else
        good = autoencoder_derive(from, config, error);
    free(file);
    free(text);
    return good;
}

static bool convert_autoencoder(struct work *work, const char *folder, const char *file, bool gguf,
                                struct error *error) {
    const struct convert_model *convert = work->convert;
    const bool plain =
        convert->type == DTYPE_F32 || convert->type == DTYPE_F16 || convert->type == DTYPE_BF16;
    struct autoencoder_config config;
    if (gguf)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: an autoencoder has no GGUF form, expected .safetensors", file);
    if (!folder && !plain)
        return error_set_field(error, ERROR_INPUT, "type",
                               "an autoencoder is not quantised, expected F32, F16 or BF16");
    char *path = part_find(model_folder_part(&work->folder, PART_AUTOENCODER), PART_AUTOENCODER, error);
    struct checkpoint *from = path ? layout_open(path, PART_AUTOENCODER, NULL, error) : NULL;
    bool good = from && autoencoder_config(path, from, &config, error);
    const struct planned_metadata format[] = {{"format", METADATA_TEXT, .text = "pt"}};
    if (good) {
        const struct convert_job job = {.from = from,
                                        .names = NAMES_KEEP,
                                        .format = WEIGHTS_SAFETENSORS,
                                        .type = plain ? convert->type : DTYPE_BF16,
                                        .keep_plain = folder != NULL,
                                        .metadata = format,
                                        .metadata_count = 1,
                                        .pool = work->pool,
                                        .progress = convert->progress,
                                        .context = convert->context};
        good = convert_weights(&job, file, error);
        if (good && folder)
            good = write_config(work, path, folder, config_of_autoencoder(&config), &job, error);
    }
    checkpoint_close(from);
    free(path);
    return good;
}

// -------------------------------------------------------------------------------------------------------------- folder

typedef bool part_converter(struct work *work, const char *folder, const char *file, bool gguf,
                            struct error *error);

static part_converter *const converters[MODEL_PARTS] = {
    [PART_TRANSFORMER] = convert_transformer,
    [PART_TEXT_ENCODER] = convert_text_encoder,
    [PART_AUTOENCODER] = convert_autoencoder,
};

// A part's folder in the target, made; fresh memory.
static char *folder_in(const struct work *work, const char *name, struct error *error) {
    char *path = path_join(work->convert->target, name);
    if (!path) {
        no_memory(work, error);
        return NULL;
    }
    if (folder_make(path, error)) return path;
    free(path);
    return NULL;
}

static bool convert_part(struct work *work, enum model_part part, struct error *error) {
    static const char *const stems[MODEL_PARTS] = {"diffusion_pytorch_model", "model",
                                                   "diffusion_pytorch_model"};
    static const char *const endings[] = {".safetensors", ".gguf"};
    const struct convert_model *convert = work->convert;
    const enum dtype type =
        part == PART_TEXT_ENCODER && convert->text_type ? convert->text_type : convert->type;
    const bool gguf = block_has(type) && part != PART_AUTOENCODER;
    char *folder = folder_in(work, part_key(part), error), name[64], *file = NULL, *other = NULL;
    bool good = folder != NULL;
    for (int i = 0; i < 2 && good; i++) {
        snprintf(name, sizeof name, "%s%s", stems[part], endings[i]);
        *(i == gguf ? &file : &other) = path_join(folder, name);
    }
    good = good && ((file && other) || no_memory(work, error));
    if (good && file_exists(other))
        good = error_set(error, ERROR_INPUT, "%s: is there already, of another type; expected a new folder",
                         other);
    good = good && converters[part](work, folder, file, gguf, error);
    free(file);
    free(other);
    free(folder);
    return good;
}

static bool convert_tokenizer(struct work *work, struct error *error) {
    char *from = part_find_tokenizer(model_folder_part(&work->folder, PART_TEXT_ENCODER), error);
    char *file = from ? tokenizer_file(from, error) : NULL;
    char *to = file ? folder_in(work, "tokenizer", error) : NULL;
    bool good = to != NULL;
    if (good && folder_exists(from) && strcmp(from, file) != 0) {
        good = copy_folder(work, from, to, error);
    } else if (good) {
        json_t *document = tokenizer_document(file, error);
        good = document && write_json(work, to, "tokenizer.json", document, error);
    }
    free(from);
    free(file);
    free(to);
    return good;
}

// limn.json with all that the source says but where its parts lie.
static bool write_settings(const struct work *work, struct error *error) {
    static const char *const places[] = {"transformer", "text_encoder", "vae", "tokenizer", "base", "loras"};
    const struct model_folder *folder = &work->folder;
    json_t *json = folder->settings
                       ? json_parse(folder->settings_path, folder->settings, strlen(folder->settings), error)
                       : json_object();
    if (!json) return false;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) json_object_del(json, places[i]);
    return write_json(work, work->convert->target, "limn.json", json, error);
}

// model_index.json is the source's; where it has none the text encoder tells [dev] from [klein].
static bool write_index(const struct work *work, struct error *error) {
    static const char name[] = "model_index.json";
    char *from = path_join(model_folder_with(&work->folder, name), name),
         *to = path_join(work->convert->target, name);
    char *scheduler = folder_in(work, "scheduler", error);
    const bool qwen = work->text_kind == LANGUAGE_MODEL_QWEN3;
    bool good = scheduler && ((from && to) || no_memory(work, error)) &&
                write_json(work, scheduler, "scheduler_config.json", config_of_scheduler(), error);
    if (good && file_exists(from))
        good = copy_file(from, to, JSON_MOST, error);
    else if (good)
        good = write_json(work, work->convert->target, name, config_of_pipeline(qwen, qwen, work->text_kind),
                          error);
    free(from);
    free(to);
    free(scheduler);
    return good;
}

static bool convert_folder(struct work *work, struct error *error) {
    if (!folder_make(work->convert->target, error)) return false;
    for (int part = 0; part < MODEL_PARTS; part++)
        if (!convert_part(work, (enum model_part)part, error)) return false;
    return convert_tokenizer(work, error) && write_settings(work, error) && write_index(work, error);
}

bool convert_model_has(enum dtype type) {
    return dtype_encodes(type) || encode_has_scales(type);
}

static bool is_fp8(enum dtype type) {
    return type == DTYPE_F8_E4M3 || type == DTYPE_F8_E5M2;
}

static bool check_type(enum dtype type, const char *field, struct error *error) {
    return convert_model_has(type) ||
           error_set_field(error, ERROR_INPUT, field, "%s cannot be written, expected " CONVERT_MODEL_TYPES,
                           dtype_info(type)->name);
}

static bool check(const struct convert_model *convert, bool gguf, bool file, struct error *error) {
    const enum dtype type = convert->type;
    if (!check_type(type, "type", error) ||
        (convert->text_type && !check_type(convert->text_type, "text_type", error)))
        return false;
    if (file && !gguf && block_has(type))
        return error_set_field(
            error, ERROR_INPUT, "type",
            "safetensors files have no type %s, expected F32, F16, BF16, F8_E4M3, F8_E5M2, NVFP4 or "
            "NF4, or a target that ends in .gguf",
            dtype_info(type)->name);
    if (gguf && encode_has_scales(type))
        return error_set_field(
            error, ERROR_INPUT, "type",
            "GGUF files have no type %s, expected another, or a target that ends in .safetensors",
            dtype_info(type)->name);
    if (convert->row_scales && !is_fp8(type) && !is_fp8(convert->text_type))
        return error_set_field(error, ERROR_INPUT, "row_scales",
                               "scales of rows are for F8_E4M3 and F8_E5M2, not %s", dtype_info(type)->name);
    if (convert->lora_count > 0 && file && convert->part != PART_TRANSFORMER)
        return error_set_field(error, ERROR_INPUT, "lora", "a LoRA changes the transformer, not the %s",
                               model_part_name(convert->part));
    return true;
}

bool convert_model(const struct convert_model *convert, struct error *error) {
    struct work work = {.convert = convert};
    const bool gguf = ends_with(convert->target, ".gguf");
    const bool file = gguf || ends_with(convert->target, ".safetensors");
    bool good = check(convert, gguf, file, error) &&
                model_folder_open(convert->source, &work.folder, error) &&
                (work.pool = pool_open(convert->threads, error));
    if (good)
        good = file ? converters[convert->part](&work, NULL, convert->target, gguf, error)
                    : convert_folder(&work, error);
    pool_close(work.pool);
    model_folder_free(&work.folder);
    return good;
}
