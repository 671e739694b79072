// Reads a card's `weights`: the model folder's name, and what `limn pull` fetches to have it. See card.h and docs/catalog.md.
#include "catalog/card.h"
#include "weights/hub.h"

#include <ctype.h>
#include <string.h>

enum { FILES_MOST = 100 };

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
    if (list->count < 1 || list->count > FILES_MOST)
        return yaml_fail(list, reader->error, "expected 1 to %d paths or patterns", FILES_MOST);
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

// {transformer: 64.4, text_encoder: 48.0}: GB in bf16.
static bool read_gigabytes(struct reader *reader, const struct yaml_node *map, struct card_weights *weights) {
    static const char *const keys[] = {"transformer", "text_encoder"};
    int64_t *const to[] = {&weights->transformer_bytes, &weights->text_encoder_bytes};
    if (!yaml_known_keys(map, keys, 2, reader->error)) return false;
    for (int i = 0; i < 2; i++) {
        const struct yaml_node *node = yaml_need(map, keys[i], "GB of its weights", reader->error);
        double value;
        if (!node || !yaml_number(node, 0.001, 10000, &value, reader->error)) return false;
        *to[i] = (int64_t)(value * 1e9);
    }
    return true;
}

bool card_weights_read(const struct yaml_node *map, struct arena *arena, int steps,
                       struct card_weights *weights, struct error *error) {
    static const char *const keys[] = {"folder",         "get",      "repositories", "sigmas",
                                       "system_message", "gigabytes"};
    struct reader reader = {arena, error};
    const struct yaml_node *repositories = yaml_get(map, "repositories"), *sigmas = yaml_get(map, "sigmas"),
                           *message = yaml_get(map, "system_message"),
                           *gigabytes = yaml_get(map, "gigabytes");
    if (!yaml_known_keys(map, keys, 6, error) ||
        !needed(&reader, map, "folder", "the model folder's name", &weights->folder) ||
        !needed(&reader, map, "get", "what to do to have the weights", &weights->get))
        return false;
    if (repositories && !read_repositories(&reader, repositories, weights)) return false;
    if (sigmas && !repositories) return yaml_fail(sigmas, error, "only with repositories");
    if (message && !repositories) return yaml_fail(message, error, "only with repositories");
    return (!gigabytes || read_gigabytes(&reader, gigabytes, weights)) &&
           (!sigmas || read_sigmas(&reader, sigmas, steps, weights)) &&
           (!message || read_system_message(&reader, message, &weights->system_message));
}

bool card_needs_folder(const struct model_card *card) {
    const struct card_weights *weights = &card->weights;
    return weights->repository_count > 1 || weights->sigma_count || weights->system_message.repository;
}
