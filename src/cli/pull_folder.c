// See pull_folder.h.
#include "cli/pull_folder.h"

#include "base/file.h"
#include "base/json.h"
#include "flux/fit.h"
#include "weights/python_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GITHUB_RAW "https://raw.githubusercontent.com"

enum { SOURCE_BYTES_MOST = 1 << 20, JSON_BYTES_MOST = 1 << 20 };

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for the model's limn.json");
}

// Of limn's folder of the card; NULL with an error.
static char *folder_of(const struct model_card *card, struct error *error) {
    char *parent = hub_data_folder(error), *folder = parent ? path_join(parent, card->id) : NULL;
    if (parent && !folder) no_memory(error);
    free(parent);
    return folder;
}

static bool hash_is_right(const char *text, size_t size, const char *sha256) {
    struct digest digest;
    char hash[DIGEST_TEXT];
    digest_begin(&digest, DIGEST_SHA256, size);
    digest_add(&digest, text, size);
    digest_end(&digest, hash);
    return !strcmp(hash, sha256);
}

// What an earlier pull wrote, where it is right.
static char *known_message(const struct model_card *card) {
    struct error ignored = {0};
    char *folder = folder_of(card, &ignored), *path = folder ? path_join(folder, "limn.json") : NULL,
         *text = NULL;
    json_t *json = path && file_exists(path) ? json_read_file(path, JSON_BYTES_MOST, &ignored) : NULL;
    const char *message = json_string_value(json_object_get(json, "system_message"));
    if (message && hash_is_right(message, strlen(message), card->weights.system_message.sha256))
        text = strdup(message);
    json_decref(json);
    free(path);
    free(folder);
    return text;
}

static char *fetched_message(const struct card_system_message *wanted, const struct hub_client *client,
                             struct error *error) {
    const char *host = getenv("LIMN_GITHUB_RAW");
    char url[2500];
    struct buffer source = {0}, text = {0};
    if (!host || !*host) host = GITHUB_RAW;
    int length =
        snprintf(url, sizeof url, "%s/%s/%s/%s", host, wanted->repository, wanted->revision, wanted->file);
    bool good =
        length < (int)sizeof url || error_set(error, ERROR_INPUT, "LIMN_GITHUB_RAW: expected a shorter URL");
    good = good && hub_client_text(client, url, SOURCE_BYTES_MOST, &source, error) &&
           python_text(wanted->file, source.data ? source.data : "", source.length, wanted->constant, &text,
                       error);
    if (good && !hash_is_right(text.data ? text.data : "", text.length, wanted->sha256))
        good = error_set(error, ERROR_INPUT,
                         "%.300s: %s is not the text that the model card means (SHA-256 %.12s...)", url,
                         wanted->constant, wanted->sha256);
    if (!good && error->kind != ERROR_CANCELLED) error_prefix(error, "the system message");
    buffer_free(&source);
    if (good) return text.data;
    buffer_free(&text);
    return NULL;
}

char *pull_system_message(const struct model_card *card, const struct hub_client *client, bool *none,
                          struct error *error) {
    *none = !card || !card->weights.system_message.repository;
    if (*none) return NULL;
    char *known = known_message(card);
    return known ? known : fetched_message(&card->weights.system_message, client, error);
}

// ----------------------------------------------------------------------------------------------------------- limn.json

// Adds [value], which is taken over; false without memory.
static bool put(json_t *object, const char *key, json_t *value) {
    return value && json_object_set_new(object, key, value) == 0;
}

// Every safetensors file of the repositories that are LoRAs.
static json_t *loras_of(const struct pull_plan *plan) {
    json_t *list = json_array();
    bool good = list != NULL;
    for (int i = 0; good && i < plan->repository_count; i++) {
        const struct pull_repository *repository = &plan->repositories[i];
        for (int j = 0; good && repository->lora && j < repository->file_count; j++) {
            const char *name = repository->files[j]->path;
            if (!hub_path_matches(name, "*.safetensors")) continue;
            char *path = path_join(repository->snapshot.folder, name);
            json_t *lora = path ? json_pack("{s:s, s:f}", "file", path, "scale", repository->scale) : NULL;
            good = lora && json_array_append_new(list, lora) == 0;
            free(path);
        }
    }
    if (good) return list;
    json_decref(list);
    return NULL;
}

// How a form is called in limn's folder: "transformer-Q8_0.gguf", a link to what was fetched.
static void form_name(const struct card_form *form, char *name, size_t size) {
    const char *dot = strrchr(form->path, '.');
    snprintf(name, size, "%s-%s%s", form->part, form->type, form->files == form->path && dot ? dot : "");
}

// Makes [folder]/[name] a link to [path], in place of another one.
static bool link_to(const char *folder, const char *name, const char *path, struct error *error) {
    char *link = path_join(folder, name);
    const bool good = link ? file_link(path, link, error) : no_memory(error);
    free(link);
    return good;
}

// The snapshot of a repository of the plan.
static const char *snapshot_of(const struct pull_plan *plan, const char *repository) {
    for (int i = 0; i < plan->repository_count; i++)
        if (!strcmp(plan->repositories[i].name, repository)) return plan->repositories[i].snapshot.folder;
    return NULL;
}

// Links to the forms that were fetched, and to the tokenizer: that of a GGUF text encoder is not quite the model's own.
static bool link_forms(const struct pull_plan *plan, const char *folder, struct error *error) {
    bool good = true;
    for (int i = 0; good && i < PULL_PARTS; i++) {
        const struct card_form *form = plan->forms[i];
        char name[160], *path = form ? path_join(snapshot_of(plan, form->repository), form->path) : NULL;
        if (!form) continue;
        form_name(form, name, sizeof name);
        good = path ? link_to(folder, name, path, error) : no_memory(error);
        free(path);
    }
    char *tokenizer = path_join(plan->repositories[0].snapshot.folder, "tokenizer");
    good = good && (tokenizer || no_memory(error)) &&
           (!plan->forms[1] || !folder_exists(tokenizer) || link_to(folder, "tokenizer", tokenizer, error));
    free(tokenizer);
    return good;
}

// Every form of [part] that is there, of this pull or an earlier one, finest first.
static json_t *forms_of(const struct pull_plan *plan, const char *folder, const char *part) {
    const struct card_form *forms[CARD_FORMS_MOST];
    const int count = card_forms_of(&plan->card->weights, part, forms);
    json_t *list = json_array();
    bool good = list != NULL;
    for (int i = 0; good && i < count; i++) {
        char name[160];
        form_name(forms[i], name, sizeof name);
        char *path = path_join(folder, name);
        good = path && (!(file_exists(path) || folder_exists(path)) ||
                        json_array_append_new(list, json_string(name)) == 0);
        free(path);
    }
    if (good) return list;
    json_decref(list);
    return NULL;
}

static json_t *settings_of(const struct pull_plan *plan, const char *folder, const char *system_message) {
    const struct model_card *card = plan->card;
    const struct card_weights *weights = &card->weights;
    json_t *object = json_object();
    bool good = object && put(object, "limn", json_integer(1)) &&
                put(object, "name", json_string(card->name)) &&
                put(object, "licence", json_string(card->licence.spdx)) &&
                put(object, "base", json_string(plan->repositories[0].snapshot.folder));
    for (int i = 0; good && i < PULL_PARTS; i++)
        if (plan->forms[i])
            good = put(object, plan->forms[i]->part, forms_of(plan, folder, plan->forms[i]->part));
    if (good && plan->repository_count > 1) good = put(object, "loras", loras_of(plan));
    if (good && weights->sigma_count) {
        json_t *sigmas = json_array();
        for (int i = 0; sigmas && good && i < weights->sigma_count; i++)
            good = json_array_append_new(sigmas, json_real(weights->sigmas[i])) == 0;
        good = put(object, "sigmas", sigmas) && good;
    }
    if (good && card->steps) good = put(object, "steps", json_integer(card->steps));
    if (good && card->guidance > 0) good = put(object, "guidance", json_real(card->guidance));
    if (good && system_message) good = put(object, "system_message", json_string(system_message));
    if (good) return object;
    json_decref(object);
    return NULL;
}

// The forms that stood in the list before and are not this card's, of `limn convert --fit` say, stay in it.
static bool keep_forms(const char *folder, const char *path, json_t *settings) {
    static const char *const keys[] = {"transformer", "text_encoder"};
    struct error ignored = {0};
    json_t *old = file_exists(path) ? json_read_file(path, JSON_BYTES_MOST, &ignored) : NULL;
    bool good = true;
    for (size_t i = 0; i < 2 && good; i++) {
        const json_t *before = json_object_get(old, keys[i]);
        json_t *now = json_object_get(settings, keys[i]);
        if (!json_is_array(before)) continue;
        if (!now) now = json_array(), good = put(settings, keys[i], now);
        for (size_t j = 0; good && j < json_array_size(before); j++) {
            const char *name = json_string_value(json_array_get(before, j));
            char *form = name ? path_join(folder, name) : NULL;
            if (form && (file_exists(form) || folder_exists(form))) fit_list(now, folder, name, &ignored);
            free(form);
        }
    }
    json_decref(old);
    return good;
}

char *pull_folder_write(const struct pull_plan *plan, const char *system_message, struct error *error) {
    char *folder = folder_of(plan->card, error), *path = folder ? path_join(folder, "limn.json") : NULL;
    bool linked = path && folder_make(folder, error) && link_forms(plan, folder, error);
    json_t *settings = linked ? settings_of(plan, folder, system_message) : NULL;
    char *text = settings && keep_forms(folder, path, settings)
                     ? json_dumps(settings, JSON_INDENT(2) | JSON_REAL_PRECISION(9))
                     : NULL;
    bool good = text || (linked || (folder && !path) ? no_memory(error) : false);
    good = good && file_write(path, text, strlen(text), error);
    free(text);
    json_decref(settings);
    free(path);
    if (good) return folder;
    free(folder);
    return NULL;
}
