// What "lora_adapter_metadata" says of alpha. Its JSON is a PEFT LoraConfig, each key with "transformer." in front where diffusers
// wrote it. Relies on lora_inside.h.
#include "weights/lora_inside.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char KEY[] = "lora_adapter_metadata";

// The member [name], or else "transformer.[name]".
static const json_t *member(const json_t *root, const char *name) {
    char prefixed[64];
    snprintf(prefixed, sizeof prefixed, "transformer.%s", name);
    const json_t *value = json_object_get(root, prefixed);
    return value ? value : json_object_get(root, name);
}

static bool wrong(const char *name, const char *field, const char *expected, struct error *error) {
    return error_set(error, ERROR_INPUT, "%s: %s: \"%.60s\": expected %s", name, KEY, field, expected);
}

static bool read_flag(const char *name, const json_t *root, const char *field, bool *flag,
                      struct error *error) {
    const json_t *value = member(root, field);
    if (!value || json_is_null(value)) return true;
    *flag = json_is_true(value);
    return json_is_boolean(value) || wrong(name, field, "true or false", error);
}

static bool is_finite_number(const json_t *value) {
    return json_is_number(value) && isfinite(json_number_value(value));
}

// PEFT takes a pattern's key for a regular expression that ends where the module's name does. A plain one is a name, or the end
// of one behind a point; ^ and $ are ends, \. a point.
static bool is_plain(const char *pattern) {
    if (*pattern == '^') pattern++;
    for (; *pattern; pattern++) {
        if (pattern[0] == '\\' && pattern[1] == '.') continue;
        if (pattern[0] == '$' && !pattern[1]) continue;
        bool letter = (*pattern >= 'a' && *pattern <= 'z') || (*pattern >= 'A' && *pattern <= 'Z') ||
                      (*pattern >= '0' && *pattern <= '9') || *pattern == '_' || *pattern == '.';
        if (!letter) return false;
    }
    return true;
}

static bool check_patterns(const char *name, const json_t *patterns, struct error *error) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)patterns, key, value) {
        if (!is_finite_number(value)) return wrong(name, key, "a number", error);
        if (!is_plain(key))
            return error_set(error, ERROR_UNSUPPORTED,
                             "%s: %s: alpha_pattern \"%.60s\": a regular expression, expected the names of "
                             "modules",
                             name, KEY, key);
    }
    return true;
}

static bool read(const char *name, struct lora_alphas *alphas, struct error *error) {
    const json_t *root = alphas->root;
    bool dora = false, bias = false;
    if (!json_is_object(root)) return error_set(error, ERROR_INPUT, "%s: %s: expected an object", name, KEY);
    if (!read_flag(name, root, "use_rslora", &alphas->over_root, error) ||
        !read_flag(name, root, "use_dora", &dora, error) || !read_flag(name, root, "lora_bias", &bias, error))
        return false;
    if (dora || bias)
        return error_set(error, ERROR_UNSUPPORTED, "%s: %s says that it is %s, expected a plain LoRA", name,
                         KEY, dora ? "a DoRA" : "a LoRA with biases");
    const json_t *alpha = member(root, "lora_alpha"), *patterns = member(root, "alpha_pattern");
    if (alpha && !json_is_null(alpha)) {
        if (!is_finite_number(alpha)) return wrong(name, "lora_alpha", "a finite number", error);
        alphas->has_alpha = true;
        alphas->alpha = json_number_value(alpha);
    }
    if (!patterns || json_is_null(patterns)) return true;
    if (!json_is_object(patterns)) return wrong(name, "alpha_pattern", "an object", error);
    alphas->patterns = patterns;
    return check_patterns(name, patterns, error);
}

bool lora_alphas_read(const char *name, const struct checkpoint *checkpoint, struct lora_alphas *alphas,
                      struct error *error) {
    const char *text = checkpoint_metadata(checkpoint, KEY);
    *alphas = (struct lora_alphas){0};
    if (!text) return true;
    char place[300];
    snprintf(place, sizeof place, "%.200s: %s", name, KEY);
    alphas->root = json_parse(place, text, strlen(text), error);
    if (alphas->root && read(name, alphas, error)) return true;
    lora_alphas_free(alphas);
    return false;
}

void lora_alphas_free(struct lora_alphas *alphas) {
    json_decref(alphas->root);
    *alphas = (struct lora_alphas){0};
}

// Whether the plain pattern is the end of the name: all of it, or what stands behind a point. Compared from the end.
static bool ends_with(const char *pattern, const char *name, size_t length) {
    const bool from_start = *pattern == '^';
    if (from_start) pattern++;
    size_t left = strlen(pattern);
    if (left && pattern[left - 1] == '$') left--;
    while (left && length) {
        if (pattern[left - 1] != name[length - 1]) return false;
        left--;
        length--;
        if (left && pattern[left - 1] == '\\') left--;
    }
    return left == 0 && (length == 0 || (!from_start && name[length - 1] == '.'));
}

double lora_alphas_scale(const struct lora_alphas *alphas, const char *module, size_t length, int64_t rank) {
    double alpha = alphas->alpha;
    bool said = alphas->has_alpha;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)alphas->patterns, key, value) {
        if (!ends_with(key, module, length)) continue;
        alpha = json_number_value(value);
        said = true;
        break;
    }
    if (!said) return 1;
    return alpha / (alphas->over_root ? sqrt((double)rank) : (double)rank);
}
