// Reads a card's `weights`: the model folder's name, and what `limn pull` fetches to have it. See card.h and docs/catalog.md.
#include "catalog/card.h"
#include "base/memory.h"
#include "weights/hub.h"
#include "weights/parts.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"

struct reader {
    struct arena *arena;
    struct error *error;
};

static bool keep(struct reader *reader, const struct yaml_node *node, const char **to) {
    const char *text;
    if (!yaml_text(node, &text, reader->error)) return false;
    *to = arena_strdup(reader->arena, text);
    return *to || error_set(reader->error, ERROR_MEMORY, "not enough memory for a model card");
}

static bool needed(struct reader *reader, const struct yaml_node *map, const char *key, const char *what,
                   const char **to) {
    const struct yaml_node *node = yaml_need(map, key, what, reader->error);
    return node && keep(reader, node, to);
}

// "owner/name" and a revision, which is "main" where nothing is said.
static bool read_name(struct reader *reader, const struct yaml_node *map, const char **name,
                      const char **revision) {
    const struct yaml_node *node = yaml_get(map, "revision");
    *revision = "main";
    if (!needed(reader, map, "repository", "owner/name", name)) return false;
    if (!hub_name_good(*name))
        return yaml_fail(yaml_get(map, "repository"), reader->error, "expected owner/name, found %.60s",
                         *name);
    if (!node) return true;
    if (!keep(reader, node, revision)) return false;
    return hub_revision_good(*revision) ||
           yaml_fail(node, reader->error, "expected a branch, a tag or a commit, found %.60s", *revision);
}

static bool read_files(struct reader *reader, const struct yaml_node *map, struct card_texts *files) {
    const struct yaml_node *list = yaml_need(map, "files", "a list of paths or patterns", reader->error);
    if (!list || !yaml_is(list, YAML_TYPE_LIST, reader->error)) return false;
    if (list->count < 1 || list->count > CARD_FILES_MOST)
        return yaml_fail(list, reader->error, "expected 1 to %d paths or patterns", CARD_FILES_MOST);
    const char **items = arena_alloc(reader->arena, (size_t)list->count * sizeof *items);
    if (!items) return error_set(reader->error, ERROR_MEMORY, "not enough memory for a model card");
    for (int i = 0; i < list->count; i++) {
        if (!keep(reader, &list->items[i], &items[i])) return false;
        if (!hub_path_good(items[i]))
            return yaml_fail(&list->items[i], reader->error,
                             "expected a relative path such as \"vae/*\", found %.60s", items[i]);
    }
    *files = (struct card_texts){items, list->count};
    return true;
}

static bool read_repository(struct reader *reader, const struct yaml_node *map, bool first,
                            struct card_repository *repository) {
    static const char *const keys[] = {"repository", "revision", "files", "lora"};
    const struct yaml_node *lora = yaml_get(map, "lora");
    if (!yaml_known_keys(map, keys, 4, reader->error) ||
        !read_name(reader, map, &repository->name, &repository->revision) ||
        !read_files(reader, map, &repository->files))
        return false;
    repository->lora = lora != NULL;
    if (first && lora)
        return yaml_fail(lora, reader->error, "the first repository is the model folder itself");
    if (!first && !lora)
        return yaml_fail(map, reader->error,
                         "expected lora, the scale with which it is applied to the first");
    return !lora || yaml_number(lora, -4, 4, &repository->scale, reader->error);
}

static bool read_repositories(struct reader *reader, const struct yaml_node *list,
                              struct card_weights *weights) {
    if (!yaml_is(list, YAML_TYPE_LIST, reader->error)) return false;
    if (list->count < 1 || list->count > CARD_REPOSITORIES_MOST)
        return yaml_fail(list, reader->error, "expected 1 to %d repositories", CARD_REPOSITORIES_MOST);
    for (int i = 0; i < list->count; i++, weights->repository_count++)
        if (!read_repository(reader, &list->items[i], i == 0, &weights->repositories[i])) return false;
    return true;
}

static bool read_form(struct reader *reader, const struct yaml_node *map, struct card_form *form) {
    static const char *const keys[] = {"part", "type", "size", "repository", "revision", "path"};
    static const char *const parts[] = {"transformer", "text_encoder"};
    const struct yaml_node *part = yaml_need(map, "part", "transformer or text_encoder", reader->error);
    const char *size = NULL;
    int index;
    if (!part || !yaml_known_keys(map, keys, 6, reader->error) ||
        !yaml_word(part, parts, 2, &index, reader->error) ||
        !needed(reader, map, "type", "a name such as Q4_K_M", &form->type) ||
        !needed(reader, map, "size", "a size such as 20.1GB", &size) ||
        !read_name(reader, map, &form->repository, &form->revision) ||
        !needed(reader, map, "path", "a folder, or a .gguf or .safetensors file", &form->path))
        return false;
    form->part = parts[index];
    form->bytes = memory_parse(size);
    if (form->bytes <= 0)
        return yaml_fail(yaml_get(map, "size"), reader->error, "expected a size such as 20.1GB, found %.60s",
                         size);
    if (!*form->type || strspn(form->type, LETTERS) != strlen(form->type))
        return yaml_fail(yaml_get(map, "type"), reader->error, "expected letters, digits and _, found %.60s",
                         form->type);
    if (!hub_path_good(form->path) || strchr(form->path, '*'))
        return yaml_fail(yaml_get(map, "path"), reader->error, "expected a relative path, found %.60s",
                         form->path);
    form->files = form->path;
    if (hub_path_matches(form->path, "*.gguf") || hub_path_matches(form->path, "*.safetensors")) return true;
    const size_t length = strlen(form->path);
    char *pattern = arena_alloc(reader->arena, length + 3);
    if (!pattern) return error_set(reader->error, ERROR_MEMORY, "not enough memory for a model card");
    memcpy(pattern, form->path, length);
    memcpy(pattern + length, "/*", 3);
    form->files = pattern;
    return true;
}

static bool read_forms(struct reader *reader, const struct yaml_node *list, struct card_weights *weights) {
    if (!yaml_is(list, YAML_TYPE_LIST, reader->error)) return false;
    if (list->count < 1 || list->count > CARD_FORMS_MOST)
        return yaml_fail(list, reader->error, "expected 1 to %d forms", CARD_FORMS_MOST);
    for (int i = 0; i < list->count; i++) {
        struct card_form *form = &weights->forms[i];
        if (!read_form(reader, &list->items[i], form)) return false;
        for (int j = 0; j < i; j++) {
            const struct card_form *before = &weights->forms[j];
            if (strcmp(before->part, form->part)) continue;
            if (!strcasecmp(before->type, form->type))
                return yaml_fail(&list->items[i], reader->error, "a second form of that part of type %.60s",
                                 form->type);
            if (before->bytes <= form->bytes)
                return yaml_fail(
                    &list->items[i], reader->error,
                    "expected the forms of a part finest first, each smaller than the one before");
        }
        weights->form_count++;
    }
    return true;
}

int card_forms_of(const struct card_weights *weights, const char *part,
                  const struct card_form *forms[CARD_FORMS_MOST]) {
    int count = 0;
    for (int i = 0; i < weights->form_count; i++)
        if (!strcmp(weights->forms[i].part, part)) forms[count++] = &weights->forms[i];
    return count;
}

const struct card_form *card_form_choose(const struct card_form *const *forms, int count, int64_t memory) {
    int64_t bytes[CARD_FORMS_MOST];
    for (int i = 0; i < count; i++) bytes[i] = forms[i]->bytes;
    return forms[part_choose(bytes, count, memory)];
}

// Falling, each above 0 and at most 1, as many as the card's steps.
static bool read_sigmas(struct reader *reader, const struct yaml_node *list, int steps,
                        struct card_weights *weights) {
    if (!yaml_is(list, YAML_TYPE_LIST, reader->error)) return false;
    if (list->count < 1 || list->count > CARD_SIGMAS_MOST)
        return yaml_fail(list, reader->error, "expected 1 to %d numbers", CARD_SIGMAS_MOST);
    for (int i = 0; i < list->count; i++) {
        double *sigma = &weights->sigmas[i];
        if (!yaml_number(&list->items[i], 0, 1, sigma, reader->error)) return false;
        if (*sigma <= 0 || (i && *sigma >= sigma[-1]))
            return yaml_fail(&list->items[i], reader->error, "expected numbers above 0 that fall");
    }
    weights->sigma_count = list->count;
    return list->count == steps ||
           yaml_fail(list, reader->error, "expected as many as steps.default, found %d and %d", list->count,
                     steps);
}

static bool read_system_message(struct reader *reader, const struct yaml_node *map,
                                struct card_system_message *message) {
    static const char *const keys[] = {"repository", "revision", "file", "constant", "sha256"};
    if (!yaml_known_keys(map, keys, 5, reader->error) ||
        !read_name(reader, map, &message->repository, &message->revision) ||
        !needed(reader, map, "file", "the path of a Python file", &message->file) ||
        !needed(reader, map, "constant", "the name of the text in it", &message->constant) ||
        !needed(reader, map, "sha256", "the text's hash", &message->sha256))
        return false;
    if (!hub_path_good(message->file))
        return yaml_fail(yaml_get(map, "file"), reader->error, "expected a relative path, found %.60s",
                         message->file);
    bool name = isalpha((unsigned char)message->constant[0]) || message->constant[0] == '_';
    for (const char *c = message->constant; *c; c++) name = name && (isalnum((unsigned char)*c) || *c == '_');
    if (!name)
        return yaml_fail(yaml_get(map, "constant"), reader->error, "expected a Python name, found %.60s",
                         message->constant);
    return digest_is(DIGEST_SHA256, message->sha256) ||
           yaml_fail(yaml_get(map, "sha256"), reader->error, "expected 64 hexadecimal digits");
}

bool card_weights_read(const struct yaml_node *map, struct arena *arena, int steps,
                       struct card_weights *weights, struct error *error) {
    static const char *const keys[] = {"folder", "get", "repositories", "forms", "sigmas", "system_message"};
    struct reader reader = {arena, error};
    const struct yaml_node *repositories = yaml_get(map, "repositories"), *sigmas = yaml_get(map, "sigmas"),
                           *message = yaml_get(map, "system_message"), *forms = yaml_get(map, "forms");
    if (!yaml_known_keys(map, keys, 6, error) ||
        !needed(&reader, map, "folder", "the model folder's name", &weights->folder) ||
        !needed(&reader, map, "get", "what to do to have the weights", &weights->get))
        return false;
    if (repositories && !read_repositories(&reader, repositories, weights)) return false;
    if (forms && !repositories) return yaml_fail(forms, error, "only with repositories");
    if (forms && !read_forms(&reader, forms, weights)) return false;
    if (sigmas && !repositories) return yaml_fail(sigmas, error, "only with repositories");
    if (message && !repositories) return yaml_fail(message, error, "only with repositories");
    return (!sigmas || read_sigmas(&reader, sigmas, steps, weights)) &&
           (!message || read_system_message(&reader, message, &weights->system_message));
}

bool card_needs_folder(const struct model_card *card) {
    const struct card_weights *weights = &card->weights;
    return weights->repository_count > 1 || weights->form_count || weights->sigma_count ||
           weights->system_message.repository;
}
