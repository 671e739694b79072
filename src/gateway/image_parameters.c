// See image_parameters.h. One table says which parameters there are and how each is read.
#include "gateway/image_parameters.h"
#include "gateway/image_loras.h"
#include "gateway/image_pictures.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---------------------------------------------------------------------------------------------------- typed values

struct parameter {
    struct image_request *request;
    const char *name;
    const json_t *value;
    bool from_form;
    struct api_error *error;
};

static bool wrong(const struct parameter *p, const char *expected) {
    char *text = json_dumps(p->value, JSON_COMPACT | JSON_ENCODE_ANY);
    bool shown = text && strlen(text) <= 60;
    api_error_set(p->error, API_INVALID_REQUEST, p->name, "%s: %s%sexpected %s", p->name, shown ? text : "",
                  shown ? " given, " : "", expected);
    free(text);
    return false;
}

static bool read_text(const struct parameter *p, const char **text) {
    if (!json_is_string(p->value)) return wrong(p, "a string");
    *text = json_string_value(p->value);
    return true;
}

static bool read_number(const struct parameter *p, double least, double most, double *number) {
    char expected[80];
    snprintf(expected, sizeof expected, "a number from %g to %g", least, most);
    double value = NAN;
    if (json_is_number(p->value)) {
        value = json_number_value(p->value);
    } else if (p->from_form && json_is_string(p->value)) {
        const char *text = json_string_value(p->value);
        char *end;
        value = strtod(text, &end);
        // Only plain decimal notation: no hexadecimal, no "inf".
        if (end == text || *end || strspn(text, "+-.0123456789eE") != strlen(text)) value = NAN;
    }
    if (!(value >= least && value <= most)) return wrong(p, expected);
    *number = value;
    return true;
}

static bool read_integer(const struct parameter *p, int64_t least, int64_t most, int64_t *number) {
    char expected[80];
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)least, (long long)most);
    int64_t value = 0;
    bool good = false;
    if (json_is_integer(p->value)) {
        value = json_integer_value(p->value);
        good = true;
    } else if (json_is_real(p->value)) { // 2.0 is an integer
        double real = json_real_value(p->value);
        good = real == floor(real) && fabs(real) <= 9007199254740991.0; // exact up to here
        if (good) value = (int64_t)real;
    } else if (p->from_form && json_is_string(p->value)) {
        const char *text = json_string_value(p->value);
        char *end;
        errno = 0;
        value = strtoll(text, &end, 10);
        good = end != text && !*end && !errno && strspn(text, "+-0123456789") == strlen(text);
    }
    if (!good || value < least || value > most) return wrong(p, expected);
    *number = value;
    return true;
}

static bool read_bool(const struct parameter *p, bool *flag) {
    const char *text = p->from_form && json_is_string(p->value) ? json_string_value(p->value) : "";
    if (json_is_true(p->value) || !strcmp(text, "true") || !strcmp(text, "1"))
        *flag = true;
    else if (json_is_false(p->value) || !strcmp(text, "false") || !strcmp(text, "0"))
        *flag = false;
    else
        return wrong(p, "true or false");
    return true;
}

// One of the words, which are separated by single spaces; *which is its place.
static bool read_word(const struct parameter *p, const char *words, int *which) {
    char expected[160];
    const char *text = json_is_string(p->value) ? json_string_value(p->value) : "";
    size_t length = strlen(text);
    int place = 0;
    for (const char *word = words; *word; place++) {
        size_t size = strcspn(word, " ");
        if (size == length && !memcmp(word, text, size)) {
            *which = place;
            return true;
        }
        word += size + (word[size] == ' ');
    }
    snprintf(expected, sizeof expected, "one of: %s", words);
    return wrong(p, expected);
}

// ------------------------------------------------------------------------------------------------- each parameter

static bool out_of_memory(const struct parameter *p) {
    return api_error_set(p->error, API_OUT_OF_MEMORY, "", "no memory for the request");
}

static bool keep(const struct parameter *p, const char *text, const char **to) {
    *to = arena_strdup(&p->request->arena, text);
    return *to || out_of_memory(p);
}

static bool absent_feature(const struct parameter *p, const char *why) {
    return api_error_set(p->error, API_INVALID_REQUEST, p->name, "%s: this server does not offer it; %s",
                         p->name, why);
}

static bool take_prompt(const struct parameter *p) {
    const char *text;
    if (!read_text(p, &text)) return false;
    size_t characters = 0;
    for (const char *c = text; *c; c++) characters += ((unsigned char)*c & 0xc0) != 0x80;
    if (characters == 0) return api_error_set(p->error, API_INVALID_REQUEST, p->name, "prompt: it is empty");
    if (characters > PROMPT_MOST)
        return api_error_set(p->error, API_INVALID_REQUEST, p->name,
                             "prompt: %zu characters given, expected at most %d", characters, PROMPT_MOST);
    return keep(p, text, &p->request->prompt);
}

static bool take_model(const struct parameter *p) {
    const char *text;
    return read_text(p, &text) && keep(p, text, &p->request->model);
}

static bool take_n(const struct parameter *p) {
    int64_t n;
    if (!read_integer(p, 1, REQUEST_COUNT_MOST, &n)) return false;
    p->request->count = (int)n;
    return true;
}

static bool take_size(const struct parameter *p) {
    const char *text;
    return read_text(p, &text) && keep(p, text, &p->request->size);
}

static bool take_aspect_ratio(const struct parameter *p) {
    const char *text;
    return read_text(p, &text) && keep(p, text, &p->request->aspect_ratio);
}

// A tier in megapixels may be written as a number.
static bool take_resolution(const struct parameter *p) {
    const char *text;
    char number[32];
    if (json_is_number(p->value)) {
        snprintf(number, sizeof number, "%g", json_number_value(p->value));
        return keep(p, number, &p->request->resolution);
    }
    return read_text(p, &text) && keep(p, text, &p->request->resolution);
}

static bool take_response_format(const struct parameter *p) {
    int which;
    if (!read_word(p, "url b64_json", &which)) return false;
    p->request->answer_as = which == 0 ? ANSWER_URL : ANSWER_BASE64;
    return true;
}

static bool take_output_format(const struct parameter *p) {
    static const enum image_format formats[] = {IMAGE_PNG,  IMAGE_JPEG, IMAGE_GIF,
                                                IMAGE_WEBP, IMAGE_AVIF, IMAGE_JPEG};
    int which;
    if (!read_word(p, "png jpeg gif webp avif jpg", &which)) return false;
    p->request->format = formats[which];
    return true;
}

static bool take_compression(const struct parameter *p) {
    int64_t value;
    if (!read_integer(p, 0, 100, &value)) return false;
    p->request->compression = (int)value;
    return true;
}

static bool take_seed(const struct parameter *p) {
    int64_t value;
    // Picture k takes seed + k.
    if (!read_integer(p, 0, SEED_MOST, &value)) return false;
    p->request->seed = (uint64_t)value;
    p->request->has_seed = true;
    return true;
}

static bool take_steps(const struct parameter *p) {
    int64_t value;
    if (!read_integer(p, 1, STEPS_MOST, &value)) return false;
    p->request->steps = (int)value;
    return true;
}

static bool take_guidance(const struct parameter *p) {
    double value;
    if (!read_number(p, 0, GUIDANCE_MOST, &value)) return false;
    if (p->request->guidance >= 0 && p->request->guidance != value)
        return api_error_set(p->error, API_INVALID_REQUEST, p->name,
                             "%s: %g given, and %g as the same parameter's other name; expected one value",
                             p->name, value, p->request->guidance);
    p->request->guidance = value;
    return true;
}

// A form may hold the array as a JSON text: sigmas=[1,0.5].
static bool take_sigmas(const struct parameter *p) {
    char expected[80];
    snprintf(expected, sizeof expected, "an array of 1 to %d numbers above 0 (%g at least) and up to 1",
             STEPS_MOST, SIGMA_LEAST);
    struct parameter list = *p;
    json_t *parsed = NULL;
    if (p->from_form && json_is_string(p->value)) {
        struct error ignored = {0};
        parsed = json_parse("sigmas", json_string_value(p->value), json_string_length(p->value), &ignored);
        if (json_is_number(parsed)) { // one value alone
            json_t *only = parsed;
            parsed = json_pack("[o]", only);
        }
        list.value = parsed;
        list.from_form = false;
    }
    size_t count = json_array_size(list.value);
    bool good = (json_is_array(list.value) && count >= 1 && count <= STEPS_MOST) || wrong(p, expected);
    for (size_t i = 0; good && i < count; i++) {
        struct parameter one = list;
        double value = 0;
        one.value = json_array_get(list.value, i);
        good = read_number(&one, 0, 1, &value) && (value >= SIGMA_LEAST || wrong(p, expected));
        p->request->sigmas[i] = (float)value;
    }
    p->request->sigma_count = good ? (int)count : 0;
    json_decref(parsed);
    return good;
}

static bool take_quality(const struct parameter *p) {
    int which;
    return read_word(p, "auto low medium high standard hd", &which);
}

static bool take_style(const struct parameter *p) {
    int which;
    return read_word(p, "vivid natural", &which);
}

static bool take_moderation(const struct parameter *p) {
    int which;
    return read_word(p, "auto low", &which);
}

static bool take_input_fidelity(const struct parameter *p) {
    int which;
    return read_word(p, "low high", &which);
}

static bool take_user(const struct parameter *p) {
    const char *text;
    if (!read_text(p, &text)) return false;
    if (strlen(text) > USER_MOST)
        return api_error_set(p->error, API_INVALID_REQUEST, p->name,
                             "user: %zu bytes given, expected at most %d", strlen(text), USER_MOST);
    return keep(p, text, &p->request->user);
}

static bool take_background(const struct parameter *p) {
    int which;
    if (!read_word(p, "auto opaque transparent", &which)) return false;
    p->request->background = (enum background)which;
    return true;
}

static bool take_stream(const struct parameter *p) {
    return read_bool(p, &p->request->stream);
}

static bool take_partial_images(const struct parameter *p) {
    int64_t count;
    if (!read_integer(p, 0, PARTIALS_MOST, &count)) return false;
    p->request->partial_images = (int)count;
    return true;
}

static bool set_enhancement(const struct parameter *p, bool on) {
    bool given = json_object_get(p->request->given, "prompt_enhancement") ||
                 json_object_get(p->request->given, "enable_prompt_expansion");
    if (given && p->request->prompt_enhancement != on)
        return api_error_set(p->error, API_INVALID_REQUEST, p->name,
                             "%s: another value than the same parameter has under its other name", p->name);
    p->request->prompt_enhancement = on;
    return true;
}

static bool take_prompt_enhancement(const struct parameter *p) {
    int which;
    return read_word(p, "off on", &which) && set_enhancement(p, which == 1);
}

static bool take_prompt_expansion(const struct parameter *p) {
    bool on;
    return read_bool(p, &on) && set_enhancement(p, on);
}

static bool take_safety_checker(const struct parameter *p) {
    p->request->has_safety_checker = true;
    return read_bool(p, &p->request->safety_checker);
}

static bool take_sync_mode(const struct parameter *p) {
    return read_bool(p, &p->request->sync_mode);
}

// What it names is judged against the configuration (plan.c).
static bool take_lora(const struct parameter *p) {
    return image_loras_take(p->request, p->value, p->from_form, p->error);
}

static bool take_images(const struct parameter *p) {
    return image_pictures_take(p->request, p->name, p->value, p->error);
}

static bool take_mask(const struct parameter *p) {
    return image_pictures_take_mask(p->request, p->value, p->error);
}

static bool take_webhook(const struct parameter *p) {
    return absent_feature(p, "send \"Prefer: respond-async\" and ask for the request's state");
}

static bool take_scale_factor(const struct parameter *p) {
    return absent_feature(p, "no model here enlarges pictures");
}

static const struct {
    const char *name;
    bool (*take)(const struct parameter *p);
    bool is_picture; // not kept among what was given: it is large, and no text
} PARAMETERS[] = {
    {"prompt", take_prompt, false},
    {"model", take_model, false},
    {"n", take_n, false},
    {"size", take_size, false},
    {"aspect_ratio", take_aspect_ratio, false},
    {"resolution", take_resolution, false},
    {"response_format", take_response_format, false},
    {"output_format", take_output_format, false},
    {"output_compression", take_compression, false},
    {"seed", take_seed, false},
    {"steps", take_steps, false},
    {"guidance", take_guidance, false},
    {"cfg_scale", take_guidance, false},
    {"guidance_scale", take_guidance, false},
    {"sigmas", take_sigmas, false},
    {"lora", take_lora, false},
    {"quality", take_quality, false},
    {"style", take_style, false},
    {"moderation", take_moderation, false},
    {"input_fidelity", take_input_fidelity, false},
    {"user", take_user, false},
    {"background", take_background, false},
    {"stream", take_stream, false},
    {"partial_images", take_partial_images, false},
    {"prompt_enhancement", take_prompt_enhancement, false},
    {"enable_prompt_expansion", take_prompt_expansion, false},
    {"enable_safety_checker", take_safety_checker, false},
    {"sync_mode", take_sync_mode, false},
    {"image", take_images, true},
    {"images", take_images, true},
    {"image_urls", take_images, true},
    {"mask", take_mask, true},
    {"webhook_url", take_webhook, false},
    {"scale_factor", take_scale_factor, false},
};

bool image_parameter_take(struct image_request *request, const char *name, const json_t *value,
                          bool from_form, struct api_error *error) {
    struct parameter parameter = {request, name, value, from_form, error};
    for (size_t i = 0; i < sizeof PARAMETERS / sizeof *PARAMETERS; i++) {
        if (strcmp(PARAMETERS[i].name, name)) continue;
        if (!PARAMETERS[i].take(&parameter)) return false;
        if (PARAMETERS[i].is_picture) return true;
        break;
    }
    // Unknown ones are noted too: whether a provider takes them is the card's to say.
    return json_object_set(request->given, name, (json_t *)value) == 0 || out_of_memory(&parameter);
}
