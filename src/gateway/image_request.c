// See image_request.h. One table says which parameters there are and how each is read.
#include "gateway/image_request.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void image_request_init(struct image_request *request, enum image_mode mode, const char *id) {
    *request = (struct image_request){
        .mode = mode, .count = 1, .format = IMAGE_PNG, .compression = -1, .guidance = -1};
    snprintf(request->id, sizeof request->id, "%s", id);
}

void image_request_free(struct image_request *request) {
    if (request) arena_free(&request->arena);
}

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
        good = real == floor(real) && fabs(real) < 9e15;
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

static bool ignore(const struct parameter *p) {
    struct image_request *request = p->request;
    if (request->ignored_count == IGNORED_MOST) return true;
    const char *name = arena_strdup(&request->arena, p->name);
    if (!name) return api_error_set(p->error, API_OUT_OF_MEMORY, "", "no memory for the request");
    request->ignored[request->ignored_count++] = name;
    return true;
}

static bool absent_feature(const struct parameter *p, const char *instead) {
    return api_error_set(p->error, API_INVALID_REQUEST, p->name, "%s: this server does not offer it%s%s",
                         p->name, *instead ? "; " : "", instead);
}

// ------------------------------------------------------------------------------------------------- each parameter

static bool keep(const struct parameter *p, const char *text, const char **to) {
    *to = arena_strdup(&p->request->arena, text);
    return *to || api_error_set(p->error, API_OUT_OF_MEMORY, "", "no memory for the request");
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
    static const char expected[] = "\"auto\" or WIDTHxHEIGHT in pixels, such as \"1024x768\"";
    const char *text;
    if (!json_is_string(p->value)) return wrong(p, expected);
    text = json_string_value(p->value);
    if (!strcmp(text, "auto")) return true;
    int sides[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        size_t digits = strspn(text, "0123456789");
        if (digits < 1 || digits > 6) return wrong(p, expected);
        sides[i] = atoi(text);
        text += digits;
        if (i == 0 && *text != 'x' && *text != 'X') return wrong(p, expected);
        if (i == 0) text++;
    }
    if (*text) return wrong(p, expected);
    if (sides[0] < 1 || sides[1] < 1 || sides[0] > SIDE_ASKED_MOST || sides[1] > SIDE_ASKED_MOST)
        return api_error_set(p->error, API_INVALID_REQUEST, p->name,
                             "size: %dx%d given, expected sides from %d to %d pixels", sides[0], sides[1],
                             SIDE_LEAST, SIDE_MOST);
    p->request->width = sides[0];
    p->request->height = sides[1];
    return true;
}

static bool take_response_format(const struct parameter *p) {
    int which;
    if (!read_word(p, "url b64_json", &which)) return false;
    p->request->base64 = which == 1;
    return true;
}

static bool take_output_format(const struct parameter *p) {
    static const enum image_format formats[] = {IMAGE_PNG, IMAGE_JPEG, IMAGE_WEBP, IMAGE_JPEG};
    int which;
    if (!read_word(p, "png jpeg webp jpg", &which)) return false;
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
    if (!read_integer(p, 0, INT64_MAX - REQUEST_COUNT_MOST, &value)) return false;
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
    if (!read_number(p, 0, 20, &value)) return false;
    if (p->request->guidance >= 0 && p->request->guidance != (float)value)
        return api_error_set(
            p->error, API_INVALID_REQUEST, p->name,
            "%s: another value than the one that the same parameter has under its other name", p->name);
    p->request->guidance = (float)value;
    return true;
}

static bool take_sigmas(const struct parameter *p) {
    char expected[80];
    snprintf(expected, sizeof expected, "an array of 1 to %d numbers above 0 and up to 1", STEPS_MOST);
    size_t count = json_array_size(p->value);
    if (!json_is_array(p->value) || count < 1 || count > STEPS_MOST) return wrong(p, expected);
    for (size_t i = 0; i < count; i++) {
        struct parameter one = *p;
        double value;
        one.value = json_array_get(p->value, i);
        if (!read_number(&one, 0, 1, &value)) return false;
        if ((float)value <= 0) return wrong(p, expected);
        p->request->sigmas[i] = (float)value;
    }
    p->request->sigma_count = (int)count;
    return true;
}

static bool take_quality(const struct parameter *p) {
    int which;
    return read_word(p, "auto low medium high xhigh max standard hd", &which) && ignore(p);
}

static bool take_style(const struct parameter *p) {
    int which;
    return read_word(p, "vivid natural", &which) && ignore(p);
}

static bool take_moderation(const struct parameter *p) {
    int which;
    return read_word(p, "auto low", &which) && ignore(p);
}

static bool take_input_fidelity(const struct parameter *p) {
    int which;
    return read_word(p, "low high", &which) && ignore(p);
}

static bool take_user(const struct parameter *p) {
    const char *text;
    return read_text(p, &text) && ignore(p);
}

static bool take_background(const struct parameter *p) {
    int which;
    if (!read_word(p, "auto opaque transparent", &which)) return false;
    return which < 2 ||
           api_error_set(p->error, API_INVALID_REQUEST, p->name,
                         "background: the model draws no transparent background; expected auto or opaque");
}

static bool take_stream(const struct parameter *p) {
    bool on;
    return read_bool(p, &on) && (!on || absent_feature(p, "leave stream out or set it to false"));
}

static bool take_partial_images(const struct parameter *p) {
    int64_t count;
    return read_integer(p, 0, 3, &count) && (!count || absent_feature(p, "it goes with stream"));
}

static bool take_prompt_enhancement(const struct parameter *p) {
    int which;
    return read_word(p, "off on", &which) &&
           (which == 0 || absent_feature(p, "leave it out or set it to off"));
}

static bool take_prompt_expansion(const struct parameter *p) {
    bool on;
    return read_bool(p, &on) && (!on || absent_feature(p, "leave it out or set it to false"));
}

static bool take_safety_checker(const struct parameter *p) {
    bool on;
    return read_bool(p, &on) && (!on || absent_feature(p, "leave it out or set it to false"));
}

static bool take_sync_mode(const struct parameter *p) {
    bool on;
    return read_bool(p, &on) && (!on || absent_feature(p, "set response_format to b64_json"));
}

static bool take_absent_size(const struct parameter *p) {
    return absent_feature(p, "give size as WIDTHxHEIGHT");
}

static bool take_mask(const struct parameter *p) {
    return absent_feature(p, "describe in the prompt what is to be changed");
}

static bool take_images(const struct parameter *p) {
    return absent_feature(p, "send the pictures as image parts of multipart/form-data");
}

static bool take_image_text(const struct parameter *p) {
    if (p->request->mode == MODE_GENERATION)
        return api_error_set(p->error, API_INVALID_REQUEST, p->name,
                             "%s: pictures are taken by /images/edits, as multipart/form-data", p->name);
    return api_error_set(p->error, API_INVALID_REQUEST, p->name, "%s: expected a file, not a text", p->name);
}

static bool take_webhook(const struct parameter *p) {
    return absent_feature(p, "answers come with the response");
}

static bool take_scale_factor(const struct parameter *p) {
    return absent_feature(p, "the model does not enlarge pictures");
}

static const struct {
    const char *name;
    bool (*take)(const struct parameter *p);
} PARAMETERS[] = {
    {"prompt", take_prompt},
    {"model", take_model},
    {"n", take_n},
    {"size", take_size},
    {"response_format", take_response_format},
    {"output_format", take_output_format},
    {"output_compression", take_compression},
    {"seed", take_seed},
    {"steps", take_steps},
    {"guidance", take_guidance},
    {"cfg_scale", take_guidance},
    {"guidance_scale", take_guidance},
    {"sigmas", take_sigmas},
    {"quality", take_quality},
    {"style", take_style},
    {"moderation", take_moderation},
    {"input_fidelity", take_input_fidelity},
    {"user", take_user},
    {"background", take_background},
    {"stream", take_stream},
    {"partial_images", take_partial_images},
    {"prompt_enhancement", take_prompt_enhancement},
    {"enable_prompt_expansion", take_prompt_expansion},
    {"enable_safety_checker", take_safety_checker},
    {"sync_mode", take_sync_mode},
    {"aspect_ratio", take_absent_size},
    {"resolution", take_absent_size},
    {"image_size", take_absent_size},
    {"mask", take_mask},
    {"images", take_images},
    {"image_urls", take_images},
    {"image", take_image_text},
    {"webhook_url", take_webhook},
    {"scale_factor", take_scale_factor},
};

static bool take(const struct parameter *p) {
    for (size_t i = 0; i < sizeof PARAMETERS / sizeof *PARAMETERS; i++)
        if (!strcmp(PARAMETERS[i].name, p->name)) return PARAMETERS[i].take(p);
    return ignore(p); // unknown: the local engine has no use for it, and the answer says so
}

bool image_request_read(struct image_request *request, const json_t *fields, bool from_form,
                        struct api_error *error) {
    if (!json_is_object(fields))
        return api_error_set(error, API_INVALID_REQUEST, "", "the request body: expected a JSON object");
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)fields, name, value) {
        struct parameter parameter = {request, name, value, from_form, error};
        if (strlen(name) >= sizeof error->param)
            return api_error_set(error, API_INVALID_REQUEST, "",
                                 "a parameter's name is longer than %zu bytes", sizeof error->param - 1);
        if (json_is_null(value)) continue; // null means absent
        if (!take(&parameter)) return false;
    }
    if (!request->prompt)
        return api_error_set(error, API_INVALID_REQUEST, "prompt", "prompt: missing, expected a string");
    if (request->mode == MODE_EDIT && request->reference_count == 0)
        return api_error_set(error, API_INVALID_REQUEST, "image", "image: missing, expected 1 to %d pictures",
                             REFERENCES_MOST);
    if (request->compression >= 0 && request->format == IMAGE_PNG) { // PNG has no losses to choose
        struct parameter parameter = {request, "output_compression", NULL, from_form, error};
        return ignore(&parameter);
    }
    return true;
}

bool image_request_add_reference(struct image_request *request, const char *file, const void *head,
                                 size_t size, struct api_error *error) {
    char name[32] = "image";
    if (request->reference_count == REFERENCES_MOST)
        return api_error_set(error, API_INVALID_REQUEST, "image",
                             "image: more than %d pictures, the model takes at most %d", REFERENCES_MOST,
                             REFERENCES_MOST);
    if (request->reference_count > 0) snprintf(name, sizeof name, "image[%d]", request->reference_count);
    struct image_reference *reference = &request->references[request->reference_count];
    struct error cause = {0};
    if (!image_read_header(head, size, &reference->header, &cause))
        return api_error_set(error, API_INVALID_REQUEST, name, "%s: %s", name, cause.message);
    enum image_format format = reference->header.format;
    if (format != IMAGE_PNG && format != IMAGE_JPEG && format != IMAGE_WEBP)
        return api_error_set(error, API_INVALID_REQUEST, name, "%s: a %s file, expected PNG, JPEG or WebP",
                             name, image_format_name(format));
    snprintf(reference->file, sizeof reference->file, "%s", file);
    request->reference_count++;
    return true;
}

static int clamp(double value, int least, int most) {
    int whole = (int)(value + 0.5);
    return whole < least ? least : whole > most ? most : whole;
}

struct image_size image_request_size(const struct image_request *request, int multiple) {
    if (!request->width) return (struct image_size){0};
    double w = request->width, h = request->height, scale = 1;
    if (fmax(w, h) > SIDE_MOST) scale = SIDE_MOST / fmax(w, h);
    if (fmin(w, h) * scale < SIDE_LEAST) scale = SIDE_LEAST / fmin(w, h);
    struct image_size size;
    size.deliver_width = clamp(w * scale, SIDE_LEAST, SIDE_MOST);
    size.deliver_height = clamp(h * scale, SIDE_LEAST, SIDE_MOST);
    size.render_width = (size.deliver_width + multiple - 1) / multiple * multiple;
    size.render_height = (size.deliver_height + multiple - 1) / multiple * multiple;
    return size;
}
