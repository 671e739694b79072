// See pull_plan.h.
#include "cli/pull_plan.h"

#include "base/file.h"
#include "cli/pull_progress.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

// Besides the files: folders, links, and what the file system itself takes.
#define SPACE_MARGIN ((int64_t)8 << 20)

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for a list of files");
}

// ------------------------------------------------------------------------------------------------------ which files

static bool matches(const char *path, const struct card_texts *patterns) {
    for (int i = 0; i < patterns->count; i++)
        if (hub_path_matches(path, patterns->items[i])) return true;
    return false;
}

static bool select_files(struct pull_repository *repository, const struct card_texts *patterns,
                         struct error *error) {
    const struct hub_tree *tree = &repository->tree;
    repository->files = calloc((size_t)tree->count + 1, sizeof(struct hub_file *));
    if (!repository->files) return no_memory(error);
    for (int i = 0; i < tree->count; i++)
        if (matches(tree->files[i].path, patterns))
            repository->files[repository->file_count++] = &tree->files[i];
    for (int i = 0; i < patterns->count; i++) {
        bool used = false;
        for (int j = 0; j < repository->file_count; j++)
            used = used || hub_path_matches(repository->files[j]->path, patterns->items[i]);
        if (!used)
            return error_set(error, ERROR_NOT_FOUND, "%s: it has no file that matches \"%s\"",
                             repository->name, patterns->items[i]);
    }
    return true;
}

// A repository that no card describes: in the diffusers layout the parts, without the same weights in one file beside them.
static bool select_usual(struct pull_repository *repository, struct error *error) {
    static const char *const parts[] = {"model_index.json", "limn.json"}, *const all[] = {"*"};
    const struct hub_tree *tree = &repository->tree;
    bool diffusers = false;
    for (int i = 0; i < tree->count; i++) diffusers = diffusers || !strcmp(tree->files[i].path, parts[0]);
    if (!diffusers) return select_files(repository, &(struct card_texts){all, 1}, error);
    repository->files = calloc((size_t)tree->count + 1, sizeof(struct hub_file *));
    if (!repository->files) return no_memory(error);
    for (int i = 0; i < tree->count; i++) {
        const char *path = tree->files[i].path;
        static const char *const endings[] = {"*/*.json", "*/*.safetensors", "*/*.txt", "*/*.jinja",
                                              "*/*.model"};
        bool wanted =
            matches(path, &(struct card_texts){parts, 2}) || matches(path, &(struct card_texts){endings, 5});
        if (wanted) repository->files[repository->file_count++] = &tree->files[i];
    }
    return true;
}

// ----------------------------------------------------------------------------------------------------------- the hub

static bool ask(struct pull_plan *plan, const struct hub_client *client, const char *name,
                const char *revision, const struct card_texts *patterns, struct error *error) {
    struct pull_repository *repository = &plan->repositories[plan->repository_count++];
    repository->name = name;
    repository->revision = revision;
    if (!hub_client_info(client, name, revision, &repository->info, error) ||
        !hub_client_tree(client, name, repository->info.commit, &repository->tree, error) ||
        !hub_snapshot_of(client->place->cache, name, repository->info.commit, &repository->snapshot, error))
        return false;
    if (!(patterns ? select_files(repository, patterns, error) : select_usual(repository, error)))
        return false;
    if (!repository->file_count) return error_set(error, ERROR_NOT_FOUND, "%s: it has no files", name);
    for (int i = 0; i < repository->file_count; i++) {
        const struct hub_file *file = repository->files[i];
        const struct hub_snapshot *snapshot = &repository->snapshot;
        bool there = hub_snapshot_has(snapshot, file) || hub_snapshot_has_blob(snapshot, file);
        plan->files++;
        plan->bytes += file->size;
        plan->here += there ? file->size : hub_snapshot_begun(snapshot, file);
    }
    // The list of a gated repository is open to all, its files are not: better known now than later.
    if (repository->info.gated && plan->here < plan->bytes)
        return hub_client_check(client, name, repository->info.commit, repository->files[0]->path, error);
    return true;
}

// The patterns of a card's repository, and of the forms that lie there too.
static bool ask_with_forms(struct pull_plan *plan, const struct hub_client *client,
                           const struct card_repository *from, struct error *error) {
    const char *items[CARD_FILES_MOST + PULL_PARTS];
    struct card_texts all = {items, from->files.count};
    memcpy(items, from->files.items, (size_t)from->files.count * sizeof *items);
    for (int i = 0; i < PULL_PARTS; i++)
        if (plan->forms[i] && !strcmp(plan->forms[i]->repository, from->name))
            items[all.count++] = plan->forms[i]->files;
    return ask(plan, client, from->name, from->revision, &all, error);
}

// The forms that lie in repositories of their own.
static bool ask_for_forms(struct pull_plan *plan, const struct hub_client *client, struct error *error) {
    for (int i = 0; i < PULL_PARTS; i++) {
        const struct card_form *form = plan->forms[i];
        bool asked = !form;
        for (int j = 0; form && j < plan->repository_count; j++)
            asked = asked || !strcmp(plan->repositories[j].name, form->repository);
        if (asked) continue;
        if (!ask(plan, client, form->repository, form->revision, &(struct card_texts){&form->files, 1},
                 error))
            return false;
    }
    return true;
}

bool pull_plan_make(struct pull_plan *plan, const struct hub_client *client, const struct model_card *card,
                    const struct card_form *const *forms, const char *name, const char *revision,
                    const struct card_texts *patterns, struct error *error) {
    *plan = (struct pull_plan){.card = card};
    if (patterns && !patterns->count) patterns = NULL;
    if (!card) return ask(plan, client, name, revision, patterns, error);
    for (int i = 0; i < PULL_PARTS && !patterns; i++) plan->forms[i] = forms[i];
    for (int i = 0; i < card->weights.repository_count; i++) {
        const struct card_repository *from = &card->weights.repositories[i];
        struct pull_repository *to = &plan->repositories[i];
        to->lora = from->lora;
        to->scale = from->scale;
        if (!(i == 0 && patterns ? ask(plan, client, from->name, from->revision, patterns, error)
                                 : ask_with_forms(plan, client, from, error)))
            return false;
    }
    return ask_for_forms(plan, client, error);
}

void pull_plan_free(struct pull_plan *plan) {
    for (int i = 0; i < plan->repository_count; i++) {
        struct pull_repository *repository = &plan->repositories[i];
        free(repository->files);
        hub_tree_free(&repository->tree);
        hub_snapshot_free(&repository->snapshot);
    }
    *plan = (struct pull_plan){0};
}

// ----------------------------------------------------------------------------------------------------- what is shown

void pull_plan_print(const struct pull_plan *plan, FILE *to) {
    char size[SIZE_TEXT], here[SIZE_TEXT];
    if (plan->card)
        fprintf(to, "%s: %s. %s%s\n", plan->card->id, plan->card->name, plan->card->licence.name,
                plan->card->licence.commercial ? "" : " (not for commercial use)");
    for (int i = 0; i < plan->repository_count; i++) {
        const struct pull_repository *repository = &plan->repositories[i];
        fprintf(to, "%s@%s, commit %.8s, licence %s%s\n", repository->name, repository->revision,
                repository->info.commit, *repository->info.licence ? repository->info.licence : "not said",
                repository->info.gated ? ", gated" : "");
        for (int j = 0; j < repository->file_count; j++) {
            const struct hub_file *file = repository->files[j];
            bool there = hub_snapshot_has(&repository->snapshot, file);
            fprintf(to, "  %9s  %s%s\n", size_text(file->size, size), file->path, there ? " (here)" : "");
        }
    }
    fprintf(to, "%d files, %s, of which %s are here\n", plan->files, size_text(plan->bytes, size),
            size_text(plan->here, here));
}

// Licences by the hub's identifiers that let everybody use a model for anything.
static bool is_permissive(const char *licence) {
    static const char *const known[] = {"apache-2.0",   "mit",       "bsd-2-clause", "bsd-3-clause",
                                        "cc0-1.0",      "cc-by-4.0", "unlicense",    "isc",
                                        "cc-by-sa-4.0", "cc-by-3.0"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(licence, known[i])) return true;
    return false;
}

bool pull_plan_needs_consent(const struct pull_plan *plan, const struct hub_place *place, char *why,
                             size_t size) {
    const struct model_card *card = plan->card;
    if (card && !card->licence.commercial) {
        snprintf(why, size, "The %s is not for commercial use%s%s (%s)", card->licence.name,
                 card->licence.notice ? ". " : "", card->licence.notice ? card->licence.notice : "",
                 card->licence.url ? card->licence.url : card->licence.spdx);
        return true;
    }
    for (int i = 0; i < plan->repository_count; i++) {
        const struct pull_repository *repository = &plan->repositories[i];
        if (repository->info.gated) {
            snprintf(why, size, "%s is gated: its licence binds whoever uses it (%s/%s)", repository->name,
                     place->endpoint, repository->name);
            return true;
        }
        if (!card && !is_permissive(repository->info.licence)) {
            const char *licence = *repository->info.licence ? repository->info.licence : "not said";
            snprintf(
                why, size,
                "The licence of %s is %s: whether it lets you do what you want is yours to judge (%s/%s)",
                repository->name, licence, place->endpoint, repository->name);
            return true;
        }
    }
    return false;
}

// ------------------------------------------------------------------------------------------------------------- space

bool pull_plan_check_space(const struct pull_plan *plan, const char *cache, int64_t *free_bytes,
                           struct error *error) {
    struct statvfs disk;
    char *path = strdup(cache), need[SIZE_TEXT], room[SIZE_TEXT];
    if (!path) return no_memory(error);
    // The cache may not be there yet: its first parent that is.
    for (char *slash; !folder_exists(path) && (slash = strrchr(path, '/'));) slash[slash == path] = 0;
    bool good =
        statvfs(path, &disk) == 0 ||
        error_set(error, ERROR_IO, "%s: how much is free cannot be found out: %s", path, strerror(errno));
    free(path);
    if (!good) return false;
    int64_t left = plan->bytes - plan->here;
    *free_bytes = (int64_t)disk.f_bavail * (int64_t)disk.f_frsize;
    return !left || left + SPACE_MARGIN <= *free_bytes ||
           error_set(
               error, ERROR_IO,
               "%s: %s are to be fetched and %s are free; make room, or name another disk in HF_HUB_CACHE",
               cache, size_text(left, need), size_text(*free_bytes, room));
}
