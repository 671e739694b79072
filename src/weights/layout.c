// Recognises layouts and renames by their tables. Relies on layout_maps.h, companions.h, checkpoint_inside.h.
#include "weights/layout.h"
#include "weights/checkpoint_inside.h"
#include "weights/companions.h"
#include "weights/layout_maps.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 1200, NUMBERS_MOST = 2, PREFIXES_MOST = 6, SIGNS_MOST = 3 };

// A layout is there when, behind one of the prefixes, all of its signs are. [rules] NULL: the names stay.
static const struct known_layout {
    enum model_part part;
    const char *name;
    const char *prefixes[PREFIXES_MOST];
    const char *signs[SIGNS_MOST];
    const struct layout_rule *rules;
    bool keeps_prefix; // its reader looks for the prefix itself
} known[] = {
    {PART_TRANSFORMER,
     "BFL",
     {"", "model.diffusion_model.", "diffusion_model.", "model.", "transformer."},
     {"double_stream_modulation_img.lin.weight", "double_blocks.0.img_attn.qkv.weight"},
     layout_bfl_transformer,
     false},
    {PART_TRANSFORMER,
     "BFL",
     {"", "model.diffusion_model.", "diffusion_model.", "model.", "transformer."},
     {"single_stream_modulation.lin.weight", "single_blocks.0.linear1.weight"},
     layout_bfl_transformer,
     false},
    {PART_TRANSFORMER,
     "diffusers",
     {"", "model.diffusion_model.", "diffusion_model.", "model.", "transformer."},
     {"double_stream_modulation_img.linear.weight"},
     NULL,
     false},
    {PART_TEXT_ENCODER,
     "llama.cpp",
     {""},
     {"token_embd.weight", "blk.0.attn_q.weight"},
     layout_llama_cpp,
     false},
    {PART_TEXT_ENCODER,
     "Mistral",
     {""},
     {"tok_embeddings.weight", "layers.0.attention.wq.weight"},
     layout_mistral,
     false},
    {PART_TEXT_ENCODER,
     "Hugging Face",
     {"language_model.model.", "model.language_model.", "model.", ""},
     {"embed_tokens.weight", "layers.0.self_attn.q_proj.weight"},
     NULL,
     true},
    {PART_AUTOENCODER,
     "BFL",
     {"", "first_stage_model.", "vae."},
     {"decoder.up.0.block.0.conv1.weight", "decoder.conv_in.weight", "bn.running_mean"},
     layout_bfl_autoencoder,
     false},
    {PART_AUTOENCODER,
     "diffusers",
     {"", "vae."},
     {"decoder.up_blocks.0.resnets.0.conv1.weight", "decoder.conv_in.weight", "bn.running_mean"},
     NULL,
     false},
};

enum { KNOWN = sizeof known / sizeof *known };

const char *model_part_name(enum model_part part) {
    static const char *const names[MODEL_PARTS] = {"transformer", "text encoder", "autoencoder"};
    return names[part];
}

// ---------------------------------------------------------------------------------------------------------- recognising

static bool has(const struct checkpoint *checkpoint, const char *prefix, const char *name) {
    char full[NAME_SIZE];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return checkpoint_find(checkpoint, full) != NULL;
}

static bool has_signs(const struct checkpoint *checkpoint, const struct known_layout *layout,
                      const char *prefix) {
    for (int i = 0; i < SIGNS_MOST && layout->signs[i]; i++)
        if (!has(checkpoint, prefix, layout->signs[i])) return false;
    return true;
}

bool layout_find(const struct checkpoint *checkpoint, enum model_part part, struct layout *layout) {
    for (int i = 0; i < KNOWN; i++) {
        if (known[i].part != part) continue;
        for (int k = 0; k < PREFIXES_MOST && known[i].prefixes[k]; k++) {
            const char *prefix = known[i].prefixes[k];
            if (!has_signs(checkpoint, &known[i], prefix)) continue;
            bool pairs =
                known[i].rules == layout_mistral ||
                (known[i].rules == layout_llama_cpp && !has(checkpoint, prefix, "blk.0.attn_q_norm.weight"));
            *layout = (struct layout){part, known[i].name, prefix, pairs, i};
            return true;
        }
    }
    return false;
}

const char *layout_stranger(const struct checkpoint *checkpoint) {
    static const struct {
        const char *sign, *what;
    } strangers[] = {
        {"double_blocks.0.img_mod.lin.weight", "a transformer of FLUX.1"},
        {"transformer_blocks.0.norm1_context.linear.weight", "a transformer of FLUX.1 or Stable Diffusion 3"},
        {"joint_blocks.0.x_block.attn.qkv.weight", "a transformer of Stable Diffusion 3"},
        {"input_blocks.0.0.weight", "a UNet of Stable Diffusion"},
        {"down_blocks.0.resnets.0.conv1.weight", "a UNet of Stable Diffusion"},
        {"decoder.up.0.block.0.conv1.weight", "an autoencoder without \"bn.running_mean\": not FLUX.2's"},
        {"decoder.up_blocks.0.resnets.0.conv1.weight",
         "an autoencoder without \"bn.running_mean\": not FLUX.2's"},
        {"encoder.block.0.layer.0.SelfAttention.q.weight", "a T5 text encoder"},
        {"text_model.embeddings.token_embedding.weight", "a CLIP text encoder"},
        {"v.blk.0.attn_q.weight", "a vision tower (mmproj)"},
    };
    static const char *const prefixes[] = {"", "model.diffusion_model.", "diffusion_model.",
                                           "first_stage_model."};
    struct layout ignored;
    for (int part = 0; part < MODEL_PARTS; part++)
        if (layout_find(checkpoint, (enum model_part)part, &ignored)) return NULL;
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++)
        for (size_t k = 0; k < sizeof prefixes / sizeof *prefixes; k++)
            if (has(checkpoint, prefixes[k], strangers[i].sign)) return strangers[i].what;
    for (int64_t i = 0; i < checkpoint_count(checkpoint); i++) {
        const char *name = checkpoint_entry(checkpoint, i)->name;
        if (strstr(name, ".lora_A.") || strstr(name, ".lora_down.")) return "a LoRA";
    }
    return NULL;
}

// -------------------------------------------------------------------------------------------------------------- renaming

struct match {
    int64_t numbers[NUMBERS_MOST];
    const char *rest; // what "*" stands for
};

static bool matches(const char *pattern, const char *name, struct match *match) {
    int count = 0;
    for (; *pattern; pattern++) {
        if (*pattern == '*') {
            match->rest = name;
            return true;
        }
        if (*pattern != '#') {
            if (*pattern != *name++) return false;
            continue;
        }
        int digits = 0;
        int64_t number = 0;
        for (; *name >= '0' && *name <= '9' && digits < 9; name++, digits++)
            number = number * 10 + (*name - '0');
        if (digits == 0 || count == NUMBERS_MOST) return false;
        match->numbers[count++] = number;
    }
    return *name == 0;
}

// [last]: the largest first number, for "~".
static void expand(const char *pattern, const struct match *match, int64_t last, char *text, size_t size) {
    size_t used = 0;
    int count = 0;
    for (; *pattern && used + 24 < size; pattern++) {
        if (*pattern == '#')
            used += (size_t)sprintf(text + used, "%lld", (long long)match->numbers[count++]);
        else if (*pattern == '~')
            used += (size_t)sprintf(text + used, "%lld", (long long)(last - match->numbers[count++]));
        else if (*pattern == '*')
            used += (size_t)snprintf(text + used, size - used, "%s", match->rest);
        else
            text[used++] = *pattern;
        if (used >= size) used = size - 1;
    }
    text[used] = 0;
}

struct arranging {
    struct checkpoint *checkpoint;
    const struct known_layout *layout;
    const char *prefix;
    struct checkpoint_entry *entries;
    int64_t count, capacity;
    struct error *error;
};

static bool no_memory(struct arranging *work) {
    return error_set(work->error, ERROR_MEMORY, "%s: no memory to arrange its tensors",
                     work->checkpoint->name);
}

static bool put(struct arranging *work, struct checkpoint_entry entry) {
    if (work->count == work->capacity) {
        int64_t capacity = work->capacity ? work->capacity * 2 : 256;
        struct checkpoint_entry *moved = realloc(work->entries, (size_t)capacity * sizeof *moved);
        if (!moved) return no_memory(work);
        work->entries = moved;
        work->capacity = capacity;
    }
    work->entries[work->count++] = entry;
    return true;
}

static bool change(struct arranging *work, struct checkpoint_entry *entry, enum layout_change change) {
    struct tensor *tensor = &entry->tensor;
    int parts = change == LAYOUT_SWAPPED ? 2 : 3;
    if (change == LAYOUT_SAME) return true;
    if (change == LAYOUT_MATRIX) {
        if (tensor->rank == 4 && tensor->shape[2] == 1 && tensor->shape[3] == 1) tensor->rank = 2;
        return true;
    }
    if (tensor->rank != 2 || tensor->shape[0] % parts != 0) {
        char shape[128];
        return error_set(work->error, ERROR_INPUT,
                         "%s: tensor \"%s\": shape %s, expected a matrix of %d times as many rows",
                         entry->file, entry->origin, tensor_shape_text(tensor, shape, sizeof shape), parts);
    }
    if (change == LAYOUT_SWAPPED) {
        entry->halves_swapped = true;
        return true;
    }
    int64_t rows = tensor->shape[0] / 3;
    return checkpoint_slice(work->checkpoint, tensor, (change - LAYOUT_FIRST) * rows, rows, work->error);
}

// The largest first number of the names that fit [pattern] up to their first "#".
static int64_t largest_number(const struct arranging *work, const char *pattern) {
    const size_t fixed = strcspn(pattern, "#"), prefix = strlen(work->prefix);
    int64_t largest = 0;
    for (int64_t i = 0; i < work->checkpoint->count; i++) {
        const char *name = work->checkpoint->entries[i].name;
        if (strncmp(name, work->prefix, prefix) != 0 || strncmp(name + prefix, pattern, fixed) != 0) continue;
        int64_t number = strtol(name + prefix + fixed, NULL, 10);
        if (number > largest && number < 1 << 20) largest = number;
    }
    return largest;
}

static bool rename_by_rules(struct arranging *work, const struct checkpoint_entry *entry) {
    const char *name = entry->name + strlen(work->prefix);
    const char *matched = NULL;
    for (const struct layout_rule *rule = work->layout->rules; rule->from; rule++) {
        struct match match = {.rest = ""};
        if (matched ? strcmp(matched, rule->from) != 0 : !matches(rule->from, name, &match)) {
            if (matched) break;
            continue;
        }
        matches(rule->from, name, &match);
        matched = rule->from;
        char text[NAME_SIZE];
        int64_t last = strchr(rule->to, '~') ? largest_number(work, rule->from) : 0;
        expand(rule->to, &match, last, text, sizeof text);
        struct checkpoint_entry renamed = *entry;
        renamed.origin = entry->name;
        renamed.name = arena_strdup(&work->checkpoint->arena, text);
        if (!renamed.name) return no_memory(work);
        if (!change(work, &renamed, rule->change) || !put(work, renamed)) return false;
    }
    return true;
}

static bool arrange(struct arranging *work) {
    const size_t prefix = strlen(work->prefix);
    for (int64_t i = 0; i < work->checkpoint->count; i++) {
        struct checkpoint_entry entry = work->checkpoint->entries[i];
        if (strncmp(entry.name, work->prefix, prefix) != 0) continue;
        if (work->layout->rules) {
            if (!rename_by_rules(work, &entry)) return false;
            continue;
        }
        entry.origin = entry.name;
        entry.name += prefix;
        if (!put(work, entry)) return false;
    }
    return true;
}

bool layout_apply(struct checkpoint *checkpoint, const struct layout *layout, struct error *error) {
    if (!companions_attach(checkpoint, error)) return false;
    struct arranging work = {
        .checkpoint = checkpoint, .layout = &known[layout->map], .prefix = layout->prefix, .error = error};
    if (!work.layout->rules && (work.layout->keeps_prefix || !*layout->prefix)) return true;
    if (!arrange(&work)) {
        free(work.entries);
        return false;
    }
    free(checkpoint->entries);
    checkpoint->entries = work.entries;
    checkpoint->count = work.count;
    return checkpoint_sort(checkpoint, error);
}

struct checkpoint *layout_open(const char *path, enum model_part part, struct layout *layout,
                               struct error *error) {
    struct layout found = {.part = part, .name = "unknown", .prefix = ""};
    struct checkpoint *checkpoint = checkpoint_open(path, error);
    if (!checkpoint) return NULL;
    bool done;
    if (layout_find(checkpoint, part, &found)) {
        done = layout_apply(checkpoint, &found, error);
    } else {
        const char *stranger = layout_stranger(checkpoint);
        done = !stranger && companions_attach(checkpoint, error);
        if (stranger)
            error_set(error, ERROR_UNSUPPORTED, "%s: holds %s, expected the %s of FLUX.2", path, stranger,
                      model_part_name(part));
    }
    if (layout) *layout = found;
    if (done) return checkpoint;
    checkpoint_close(checkpoint);
    return NULL;
}

int64_t layout_blocks(const struct checkpoint *checkpoint, const char *prefix) {
    const size_t length = strlen(prefix);
    int64_t count = 0;
    for (int64_t i = 0; i < checkpoint->count; i++) {
        const char *name = checkpoint->entries[i].name;
        if (strncmp(name, prefix, length) != 0) continue;
        char *end;
        long number = strtol(name + length, &end, 10);
        if (end == name + length || *end != '.' || number < 0) continue;
        if (number > LAYOUT_BLOCKS_MOST) number = LAYOUT_BLOCKS_MOST;
        if (number >= count) count = number + 1;
    }
    return count;
}
