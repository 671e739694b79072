// See plan.h.
#include "gateway/plan.h"
#include "gateway/image_loras.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRAWN_SEEDS (1ull << 32) // a drawn seed fits what other programs take for one

// ---------------------------------------------------------------------------------------------------------- the model

static bool find_model(struct plan *plan, const struct catalog *catalog, const struct image_request *request,
                       struct api_error *error) {
    static const enum api_code codes[] = {[CATALOG_UNKNOWN] = API_MODEL_NOT_FOUND,
                                          [CATALOG_WRONG_MODE] = API_INVALID_REQUEST,
                                          [CATALOG_NOT_INSTALLED] = API_MODEL_NOT_INSTALLED,
                                          [CATALOG_DISABLED] = API_MODEL_DISABLED,
                                          [CATALOG_NO_PROVIDER] = API_MODEL_NOT_FOUND};
    struct error cause = {0};
    enum catalog_result result = catalog_find(catalog, request->model, request->mode, &plan->choice, &cause);
    if (result != CATALOG_FOUND) return api_error_set(error, codes[result], "model", "%s", cause.message);
    return true;
}

static bool check_key(const struct plan *plan, const struct principal *principal, struct api_error *error) {
    if (!principal || principal->keyless || key_allows_model(&principal->key, plan->choice.card->id))
        return true;
    return api_error_set(error, API_KEY_NOT_ALLOWED, "model", "this key may not use model '%s'",
                         plan->choice.card->id);
}

// ----------------------------------------------------------------------------------------- parameters against the card

static bool is_default(const struct card_parameter *parameter, const json_t *value) {
    if (!parameter->standard) return false;
    json_t *standard = json_loads(parameter->standard, JSON_DECODE_ANY, NULL);
    bool same = standard && json_equal(standard, value);
    if (!same && json_is_string(value)) // of a form: everything is a text
        same = !strcmp(json_string_value(value), parameter->standard);
    json_decref(standard);
    return same;
}

// The card's own limits of numbers and lists of words; types were checked when the request was read.
static bool check_limits(const struct card_parameter *parameter, const json_t *value,
                         struct api_error *error) {
    bool number = parameter->type == PARAMETER_INTEGER || parameter->type == PARAMETER_NUMBER;
    double given = json_is_number(value)   ? json_number_value(value)
                   : json_is_string(value) ? strtod(json_string_value(value), NULL)
                                           : 0;
    if (number && ((parameter->has_least && given < parameter->least) ||
                   (parameter->has_most && given > parameter->most)))
        return api_error_set(error, API_INVALID_REQUEST, parameter->name,
                             "%s: %g given, this model takes %g to %g", parameter->name, given,
                             parameter->has_least ? parameter->least : 0, parameter->most);
    if (parameter->type != PARAMETER_TEXT || !parameter->value_count || !json_is_string(value)) return true;
    const char *word = json_string_value(value);
    if (!strcmp(word, "jpg")) word = "jpeg";
    char words[200] = "";
    for (int i = 0; i < parameter->value_count; i++) {
        if (!strcmp(parameter->values[i], word)) return true;
        size_t length = strlen(words);
        snprintf(words + length, sizeof words - length, "%s%s", i ? ", " : "", parameter->values[i]);
    }
    return api_error_set(error, API_INVALID_REQUEST, parameter->name,
                         "%s: \"%.60s\" given, this model takes: %s", parameter->name, word, words);
}

// Judged by what the card offers (check_features), not by its default.
static bool is_feature(const char *name) {
    static const char *const names[] = {"background", "prompt_enhancement", "enable_safety_checker", "lora"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], name)) return true;
    return false;
}

static bool hold_parameter(const struct plan *plan, struct image_request *request, const char *name,
                           const json_t *value, struct api_error *error) {
    const char *provider = plan->choice.provider->slug;
    const char *known = !strcmp(name, "guidance_scale")            ? "guidance"
                        : !strcmp(name, "enable_prompt_expansion") ? "prompt_enhancement"
                                                                   : name;
    if (is_feature(known)) return true;
    const struct card_parameter *parameter = parameter_find(&plan->choice.card->parameters, known);
    if (!parameter || !parameter->modes[request->mode])
        return strcmp(provider, "local") ? true : image_request_ignore(request, name, error);
    switch (parameter_handling(parameter, provider)) {
    case PARAMETER_IGNORED:
        return image_request_ignore(request, name, error);
    case PARAMETER_REFUSED:
        return is_default(parameter, value) ||
               api_error_set(error, API_INVALID_REQUEST, name, "%s: model '%s' does not offer it here", name,
                             plan->choice.card->id);
    default:
        return check_limits(parameter, value, error);
    }
}

static bool refuse(struct api_error *error, const char *name, const struct model_card *card,
                   const char *instead) {
    return api_error_set(error, API_INVALID_REQUEST, name, "%s: model '%s' does not offer it; %s", name,
                         card->id, instead);
}

// What only some models offer.
static bool check_features(const struct plan *plan, const struct config *config,
                           const struct image_request *request, struct api_error *error) {
    const struct model_card *card = plan->choice.card;
    const char *provider = plan->choice.provider->slug;
    if (request->background == BACKGROUND_TRANSPARENT && !card_offers(card, "background", provider))
        return refuse(error, "background", card, "expected auto or opaque");
    if (request->prompt_enhancement && !card_offers(card, "prompt_enhancement", provider))
        return refuse(error,
                      json_object_get(request->given, "prompt_enhancement") ? "prompt_enhancement"
                                                                            : "enable_prompt_expansion",
                      card, "leave it out or set it to off");
    bool checker = card_offers(card, "enable_safety_checker", provider);
    if (request->safety_checker && !checker)
        return refuse(error, "enable_safety_checker", card, "leave it out or set it to false");
    if (request->has_safety_checker && !request->safety_checker && checker &&
        !config->defaults.allow_safety_checker_off)
        return api_error_set(
            error, API_INVALID_REQUEST, "enable_safety_checker",
            "enable_safety_checker: the owner of this server does not let it be switched off");
    if (request->lora_count && !card_offers(card, "lora", provider))
        return refuse(error, "lora", card, "leave it out");
    if (request->has_mask && !card_offers(card, "mask", provider))
        return refuse(error, "mask", card, "describe in the prompt what is to be changed");
    return true;
}

static size_t characters(const char *text) {
    size_t count = 0;
    for (; *text; text++) count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

static bool check_counts(const struct model_card *card, const struct image_request *request,
                         struct api_error *error) {
    if (card->prompt_most && characters(request->prompt) > (size_t)card->prompt_most)
        return api_error_set(error, API_INVALID_REQUEST, "prompt",
                             "prompt: %zu characters given, this model takes at most %d",
                             characters(request->prompt), card->prompt_most);
    if (card->images_most && request->count > card->images_most)
        return api_error_set(error, API_INVALID_REQUEST, "n", "n: %d given, this model makes at most %d",
                             request->count, card->images_most);
    if (card->references_most && request->reference_count > card->references_most)
        return api_error_set(error, API_INVALID_REQUEST, "image",
                             "image: %d pictures given, the model takes at most %d", request->reference_count,
                             card->references_most);
    if (card->steps_most && request->steps > card->steps_most)
        return api_error_set(error, API_INVALID_REQUEST, "steps",
                             "steps: %d given, this model takes at most %d", request->steps,
                             card->steps_most);
    return true;
}

static void set_defaults(struct plan *plan, const struct config *config, struct image_request *request) {
    if (!request->has_seed) {
        uint64_t drawn;
        randombytes_buf(&drawn, sizeof drawn);
        request->seed = drawn % DRAWN_SEEDS;
    }
    if (request->format == IMAGE_UNKNOWN) request->format = IMAGE_PNG;
    // The API's default is the best quality; lossless formats have an effort instead, which is the encoder's.
    bool lossless = request->format == IMAGE_PNG || request->format == IMAGE_GIF;
    plan->output_quality = lossless ? -1 : request->compression >= 0 ? request->compression : 100;
    bool base64_default = config->defaults.response_format == RESPONSE_B64_JSON ||
                          (config->defaults.response_format == RESPONSE_AUTO && plan->choice.gpt_image);
    plan->base64 = request->answer_as == ANSWER_BASE64 ||
                   (request->answer_as == ANSWER_DEFAULT && base64_default && !request->sync_mode);
    plan->data_uri = request->sync_mode && !plan->base64;
    int native = plan->choice.provider->native_images;
    plan->call_images = native > 0 && native < request->count ? native : request->count;
    plan->calls = (request->count + plan->call_images - 1) / plan->call_images;
}

bool plan_make(struct plan *plan, const struct catalog *catalog, const struct config *config,
               const struct principal *principal, struct image_request *request, struct api_error *error) {
    *plan = (struct plan){0};
    if (!find_model(plan, catalog, request, error) || !check_key(plan, principal, error)) return false;
    if (!check_features(plan, config, request, error) || !check_counts(plan->choice.card, request, error))
        return false;
    if (!image_loras_find(request, config, plan->choice.card->id, plan->loras, error)) return false;
    const char *name;
    json_t *value;
    json_object_foreach(request->given, name,
                        value) if (!hold_parameter(plan, request, name, value, error)) return false;
    struct error cause = {0};
    if (!size_parse(request->size, request->aspect_ratio, request->resolution, &plan->asked, &cause))
        return api_error_set(error, API_INVALID_REQUEST, cause.field, "%s", cause.message);
    if (plan->asked.ratio_unused && !image_request_ignore(request, "aspect_ratio", error)) return false;
    if (plan->asked.tier_unused && !image_request_ignore(request, "resolution", error)) return false;
    if (request->sigma_count && request->steps && request->steps != request->sigma_count)
        return api_error_set(error, API_INVALID_REQUEST, "steps",
                             "steps: %d given, and %d sigmas; expected as many, or one of the two",
                             request->steps, request->sigma_count);
    set_defaults(plan, config, request);
    return true;
}

// ----------------------------------------------------------------------------------------------------- size and price

bool plan_price(const struct plan *plan, const struct image_request *request, int images, int calls,
                struct price *price, struct api_error *error) {
    struct price_use use = {.reference_count = request->reference_count,
                            .calls = calls,
                            .output = {plan->size.deliver_width, plan->size.deliver_height},
                            .rendered = {plan->size.render_width, plan->size.render_height},
                            .images = images,
                            .reference_token_pixels = plan->choice.card->reference_area};
    for (int i = 0; i < request->reference_count; i++)
        use.references[i] =
            (struct price_picture){request->references[i].header.width, request->references[i].header.height};
    struct error cause = {0};
    return price_of(&plan->choice.provider->price, &use, price, &cause) || api_error_from(error, &cause);
}

bool plan_size(struct plan *plan, const struct image_request *request, struct api_error *error) {
    if (!image_request_check_pictures(request, error)) return false;
    const struct image_header *first = request->reference_count ? &request->references[0].header : NULL;
    struct size_request asked = plan->asked;
    // What a mask keeps comes back to the pixel only in the first picture's own size.
    if (first && request->has_mask && asked.width == 0 && asked.ratio <= 0 && asked.area <= 0) {
        asked.width = first->width;
        asked.height = first->height;
    }
    plan->size =
        size_resolve(&plan->choice.card->sizes, &asked, first ? first->width : 0, first ? first->height : 0);
    return plan_price(plan, request, request->count, plan->calls, &plan->estimate, error);
}
