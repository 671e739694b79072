// The key "loras" of limn.yaml: name: {file: FILE, models: [MODEL, ...], scale: NUMBER}, or name: FILE. See config_keys.h.
#include "catalog/config_keys.h"

#include "base/buffer.h"
#include "base/yaml.h"
#include "limn/limn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
#define NAME_MOST    64

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for the configuration");
}

static bool read_file(struct config *config, const struct yaml_node *node, struct config_lora *lora,
                      struct error *error) {
    const char *text;
    if (!yaml_text(node, &text, error)) return false;
    if (!*text || strlen(text) > 4000) return yaml_fail(node, error, "expected the path of a file");
    lora->file = arena_strdup(&config->arena, text);
    return lora->file || no_memory(error);
}

static bool read_models(struct config *config, const struct yaml_node *node, struct config_texts *models,
                        struct error *error) {
    const struct yaml_node *items = node->type == YAML_TYPE_TEXT ? node : node->items;
    int count = node->type == YAML_TYPE_TEXT ? 1 : node->count;
    if (node->type != YAML_TYPE_TEXT && !yaml_is(node, YAML_TYPE_LIST, error)) return false;
    models->items = arena_alloc(&config->arena, (size_t)(count + 1) * sizeof(char *));
    if (!models->items) return no_memory(error);
    for (int i = 0; i < count; i++) {
        const char *text;
        if (!yaml_text(&items[i], &text, error)) return false;
        if (!*text || strlen(text) >= 100)
            return yaml_fail(&items[i], error, "expected a model's name, such as flux.2-dev-turbo");
        models->items[i] = arena_strdup(&config->arena, text);
        if (!models->items[i]) return no_memory(error);
        models->count++;
    }
    return true;
}

static bool read_scale(const struct yaml_node *node, double *scale, struct error *error) {
    const char *text;
    char *end;
    if (!yaml_text(node, &text, error)) return false;
    *scale = strtod(text, &end);
    bool plain = end != text && !*end && strspn(text, "+-.0123456789") == strlen(text);
    return (plain && fabs(*scale) <= LIMN_LORA_SCALE_MOST) ||
           yaml_fail(node, error, "expected a number from %g to %g, found %.40s", -LIMN_LORA_SCALE_MOST,
                     LIMN_LORA_SCALE_MOST, *text ? text : "\"\"");
}

static bool read_lora(struct config *config, const struct yaml_node *node, struct config_lora *lora,
                      struct error *error) {
    const size_t length = strlen(node->key);
    lora->scale = 1;
    if (!length || length > NAME_MOST || strspn(node->key, NAME_LETTERS) != length)
        return yaml_fail(node, error,
                         "expected a name of 1 to %d letters, digits, dots, dashes and underscores",
                         NAME_MOST);
    lora->name = arena_strdup(&config->arena, node->key);
    if (!lora->name) return no_memory(error);
    if (node->type == YAML_TYPE_TEXT) return read_file(config, node, lora, error);
    if (!yaml_is(node, YAML_TYPE_MAP, error)) return false;
    for (int i = 0; i < node->count; i++) {
        const struct yaml_node *item = &node->items[i];
        bool good = !strcmp(item->key, "file")     ? read_file(config, item, lora, error)
                    : !strcmp(item->key, "models") ? read_models(config, item, &lora->models, error)
                    : !strcmp(item->key, "scale")
                        ? read_scale(item, &lora->scale, error)
                        : yaml_fail(item, error, "there is no such key; expected file, models or scale");
        if (!good) return false;
    }
    return lora->file || yaml_fail(node, error, "without file, expected the path of a LoRA (safetensors)");
}

bool config_set_loras(struct config *config, struct config_loras *loras, const struct yaml_node *node,
                      struct error *error) {
    if (!yaml_is(node, YAML_TYPE_MAP, error)) return false;
    *loras = (struct config_loras){
        arena_alloc(&config->arena, (size_t)(node->count + 1) * sizeof(struct config_lora)), 0};
    if (!loras->items) return no_memory(error);
    for (int i = 0; i < node->count; i++)
        if (!read_lora(config, &node->items[i], &loras->items[loras->count++], error)) return false;
    return true;
}

bool config_add_loras(const struct config_loras *loras, struct buffer *out) {
    bool good = buffer_add_string(out, "{");
    for (int i = 0; good && i < loras->count; i++) {
        const struct config_lora *lora = &loras->items[i];
        good = buffer_add_string(out, i ? ", " : "") && config_add_quoted(out, lora->name) &&
               buffer_add_string(out, ": {file: ") && config_add_quoted(out, lora->file) &&
               buffer_add_string(out, ", models: [");
        for (int k = 0; good && k < lora->models.count; k++)
            good = buffer_add_string(out, k ? ", " : "") && config_add_quoted(out, lora->models.items[k]);
        good = good && buffer_printf(out, "], scale: %.9f}", lora->scale);
    }
    return good && buffer_add_string(out, "}");
}
