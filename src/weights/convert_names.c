// Which tensors a converted file has: the tables of layout_maps.h, read from right to left. Relies on checkpoint.h,
// layout_maps.h.
#include "weights/convert_names.h"

#include "weights/layout_maps.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Tensors of these kinds pass everything on, or are few: they stay fine.
static const char *const sensitive[] = {
    "x_embedder.",
    "context_embedder.",
    "time_guidance_embed.",
    "double_stream_modulation_img.",
    "double_stream_modulation_txt.",
    "single_stream_modulation.",
    "norm_out.",
    "proj_out.",
};

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory to plan a conversion");
}

static enum recipe_kind kind_of(const struct checkpoint_entry *entry) {
    if (entry->tensor.rank < 2) return RECIPE_VECTOR;
    if (entry->tensor.rank > 2) return RECIPE_SENSITIVE;
    if (strstr(entry->name, "embed_tokens.weight")) return RECIPE_TOKENS;
    for (size_t i = 0; i < sizeof sensitive / sizeof *sensitive; i++)
        if (strncmp(entry->name, sensitive[i], strlen(sensitive[i])) == 0) return RECIPE_SENSITIVE;
    return RECIPE_LARGE;
}

// ---------------------------------------------------------------------------------------------------------------- names

// Whether [name] is [pattern] with a number for '#'; the number goes to *block, -1 where there is none.
static bool matches(const char *pattern, const char *name, long *block) {
    *block = -1;
    for (; *pattern; pattern++) {
        if (*pattern != '#') {
            if (*pattern != *name++) return false;
            continue;
        }
        char *end;
        if (*name < '0' || *name > '9') return false;
        *block = strtol(name, &end, 10);
        name = end;
    }
    return *name == 0;
}

// [prefix] and [pattern] with the number for '#'; NULL when memory is gone.
static char *filled(struct arena *arena, const char *prefix, const char *pattern, long block) {
    const char *at = strchr(pattern, '#');
    return at ? arena_printf(arena, "%s%.*s%ld%s", prefix, (int)(at - pattern), pattern, block, at + 1)
              : arena_printf(arena, "%s%s", prefix, pattern);
}

// The length of what files of language models put in front of all names.
static size_t prefix_length(const char *name) {
    static const char *const prefixes[] = {"language_model.model.", "model.language_model.",
                                           "language_model.", "model."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return strlen(prefixes[i]);
    return 0;
}

// The first rule that gives the name of limn's.
static const struct layout_rule *rule_of(const struct layout_rule *rules, const char *name, long *block) {
    for (const struct layout_rule *rule = rules; rule->from; rule++)
        if (matches(rule->to, name, block)) return rule;
    return NULL;
}

// -------------------------------------------------------------------------------------------------------------- recipes

static struct recipe_part whole(const struct checkpoint_entry *entry) {
    return (struct recipe_part){entry, 0, entry->tensor.rank > 1 ? entry->tensor.shape[0] : 1};
}

static void swap_halves(struct recipe *recipe) {
    const struct checkpoint_entry *entry = recipe->parts[0].entry;
    const int64_t half = recipe->shape[0] / 2;
    recipe->part_count = 2;
    recipe->parts[0] = (struct recipe_part){entry, half, half};
    recipe->parts[1] = (struct recipe_part){entry, 0, half};
}

// [entry] as it is, but for an order of rows that is to change. swapped: the output has its halves the other way round than
// limn's name means.
static void begin(const struct convert_job *job, const struct checkpoint_entry *entry, bool swapped,
                  struct recipe *recipe) {
    *recipe = (struct recipe){.name = entry->name,
                              .source = entry->name,
                              .kind = kind_of(entry),
                              .rank = entry->tensor.rank,
                              .part_count = 1,
                              .parts = {whole(entry)}};
    memcpy(recipe->shape, entry->tensor.shape, sizeof recipe->shape);
    if (entry->halves_swapped != swapped) swap_halves(recipe);
    const bool rotated =
        strstr(entry->name, "self_attn.q_proj.weight") || strstr(entry->name, "self_attn.k_proj.weight");
    if (rotated && job->from_pairs != job->to_pairs) {
        recipe->head_dim = job->head_dim;
        recipe->to_pairs = job->to_pairs;
    }
}

// Puts the rows of the tensors whose rules have the same [from] below the first one's.
static bool gather(const struct convert_job *job, struct arena *arena, const struct layout_rule *first,
                   const char *prefix, long block, struct recipe *recipe, struct error *error) {
    for (const struct layout_rule *rule = first + 1; rule->from && strcmp(rule->from, first->from) == 0;
         rule++) {
        const char *name = filled(arena, prefix, rule->to, block);
        if (!name) return no_memory(error);
        const struct checkpoint_entry *entry = checkpoint_find(job->from, name);
        if (!entry)
            return error_set(error, ERROR_NOT_FOUND, "%s: there is no tensor %s, which belongs beside %s",
                             recipe->parts[0].entry->file, name, recipe->source);
        if (entry->tensor.rank != 2 || recipe->rank != 2 || entry->tensor.shape[1] != recipe->shape[1])
            return error_set(error, ERROR_INPUT, "%s: %s is not as wide as %s", entry->file, name,
                             recipe->source);
        recipe->parts[recipe->part_count++] = whole(entry);
        recipe->shape[0] += entry->tensor.shape[0];
    }
    return true;
}

// The recipe that [entry] begins; *taken is false where it begins none: it stands below another, or has no name there.
static bool make(const struct convert_job *job, struct arena *arena, const struct checkpoint_entry *entry,
                 struct recipe *recipe, bool *taken, struct error *error) {
    *taken = true;
    if (job->names == NAMES_KEEP) {
        begin(job, entry, false, recipe);
        if (job->prefix && strncmp(entry->name, "lm_head.", 8) != 0)
            recipe->name = arena_printf(arena, "%s%s", job->prefix, entry->name);
        return recipe->name || no_memory(error);
    }
    long block;
    const size_t skip = job->names == NAMES_BFL ? 0 : prefix_length(entry->name);
    const char *name = entry->name + skip, *prefix = arena_strndup(arena, entry->name, skip);
    const struct layout_rule *rule =
        rule_of(job->names == NAMES_BFL ? layout_bfl_transformer : layout_llama_cpp, name, &block);
    if (!prefix) return no_memory(error);
    if (!rule || rule->change == LAYOUT_SECOND || rule->change == LAYOUT_THIRD) {
        *taken = false;
        if (rule || job->names == NAMES_LLAMA) return true; // the vision tower is no part of a text encoder
        return error_set(error, ERROR_UNSUPPORTED, "%s: %s has no name in the layout of BFL", entry->file,
                         entry->name);
    }
    begin(job, entry, rule->change == LAYOUT_SWAPPED, recipe);
    recipe->name = filled(arena, "", rule->from, block);
    if (!recipe->name) return no_memory(error);
    return rule->change != LAYOUT_FIRST || gather(job, arena, rule, prefix, block, recipe, error);
}

bool recipes_make(const struct convert_job *job, struct arena *arena, struct recipe **recipes, int64_t *count,
                  struct error *error) {
    const int64_t entries = checkpoint_count(job->from);
    *count = 0;
    *recipes = arena_alloc(arena, (size_t)(entries + 1) * sizeof **recipes);
    if (!*recipes) return no_memory(error);
    for (int64_t i = 0; i < entries; i++) {
        bool taken;
        if (!make(job, arena, checkpoint_entry(job->from, i), &(*recipes)[*count], &taken, error))
            return false;
        if (taken) ++*count;
    }
    return *count > 0 || error_set(error, ERROR_INPUT, "there are no tensors to convert");
}
