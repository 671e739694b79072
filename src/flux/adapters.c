// See adapters.h. Relies on transformer_parts.h.
#include "flux/adapters.h"

#include "flux/transformer_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// ---------------------------------------------------------------------------------------------------- side branches

struct lora_shape transformer_lora_shape(const struct transformer *t) {
    const struct transformer_shape *s = &t->shape;
    return (struct lora_shape){.hidden = s->hidden,
                               .mlp_hidden = s->mlp_hidden,
                               .in_channels = s->in_channels,
                               .context = s->context,
                               .timestep_width = s->timestep_width,
                               .double_blocks = s->double_blocks,
                               .single_blocks = s->single_blocks,
                               .guidance = s->guidance};
}

static void clear(struct transformer *t) {
    struct linear *shared[] = {&t->latent_embedder,
                               &t->context_embedder,
                               &t->time.in,
                               &t->time.out,
                               &t->guidance.in,
                               &t->guidance.out,
                               &t->double_modulation[STREAM_TEXT],
                               &t->double_modulation[STREAM_IMAGE],
                               &t->single_modulation,
                               &t->out_modulation,
                               &t->out};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) shared[i]->branch_count = 0;
    for (int64_t b = 0; b < t->shape.double_blocks; b++)
        for (int s = 0; s < STREAM_COUNT; s++) {
            struct double_stream *stream = &t->double_blocks[b].streams[s];
            stream->qkv.branch_count = stream->out.branch_count = 0;
            stream->mlp_in.branch_count = stream->mlp_out.branch_count = 0;
        }
    for (int64_t b = 0; b < t->shape.single_blocks; b++) {
        struct single_block *block = &t->single_blocks[b];
        block->qkv.branch_count = block->mlp_in.branch_count = block->out.branch_count = 0;
    }
}

static struct linear *shared_linear(struct transformer *t, enum lora_module module) {
    switch (module) {
    case LORA_LATENT_EMBEDDER:
        return &t->latent_embedder;
    case LORA_CONTEXT_EMBEDDER:
        return &t->context_embedder;
    case LORA_TIME_IN:
        return &t->time.in;
    case LORA_TIME_OUT:
        return &t->time.out;
    case LORA_GUIDANCE_IN:
        return &t->guidance.in;
    case LORA_GUIDANCE_OUT:
        return &t->guidance.out;
    case LORA_DOUBLE_MODULATION_IMAGE:
        return &t->double_modulation[STREAM_IMAGE];
    case LORA_DOUBLE_MODULATION_TEXT:
        return &t->double_modulation[STREAM_TEXT];
    case LORA_SINGLE_MODULATION:
        return &t->single_modulation;
    case LORA_OUT_MODULATION:
        return &t->out_modulation;
    default:
        return &t->out;
    }
}

// The layers that one module is, one below the other; returns how many.
static int linears_of(struct transformer *t, enum lora_module module, int64_t block, struct linear *to[2]) {
    if (module == LORA_SINGLE_IN) {
        to[0] = &t->single_blocks[block].qkv;
        to[1] = &t->single_blocks[block].mlp_in;
        return 2;
    }
    if (module == LORA_SINGLE_OUT) {
        to[0] = &t->single_blocks[block].out;
    } else if (module >= LORA_IMAGE_QKV && module <= LORA_TEXT_MLP_OUT) {
        const bool text = module >= LORA_TEXT_QKV;
        struct double_stream *stream = &t->double_blocks[block].streams[text ? STREAM_TEXT : STREAM_IMAGE];
        struct linear *parts[] = {&stream->qkv, &stream->out, &stream->mlp_in, &stream->mlp_out};
        to[0] = parts[module - (text ? LORA_TEXT_QKV : LORA_IMAGE_QKV)];
    } else {
        to[0] = shared_linear(t, module);
    }
    return 1;
}

// Adds the part of a branch that falls on the rows of a layer, which begin at row [first] of the module.
static bool attach(struct transformer *t, struct linear *linear, int64_t first,
                   const struct lora_branch *branch, float scale, struct error *error) {
    struct low_rank part = branch->low_rank;
    const int64_t begin = part.first_output > first ? part.first_output : first;
    const int64_t behind = part.first_output + part.up.rows;
    const int64_t end = behind < first + linear->out ? behind : first + linear->out;
    if (begin >= end) return true;
    if (linear->branch_count == LINEAR_BRANCHES_MOST)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: the LoRAs change it in more than %d pieces, which is all that a layer takes",
                         lora_module_name(branch->module), LINEAR_BRANCHES_MOST);
    const char *up = part.up.data;
    part.up.data = up + (size_t)(begin - part.first_output) * part.up.row_bytes;
    part.up.rows = end - begin;
    part.first_output = begin - first;
    part.scale *= scale;
    part.down.data =
        device_weights(t->device, part.down.data, (size_t)part.down.rows * part.down.row_bytes, error);
    part.up.data = device_weights(t->device, part.up.data, (size_t)part.up.rows * part.up.row_bytes, error);
    if (!part.down.data || !part.up.data) return false;
    linear->branches[linear->branch_count++] = part;
    return true;
}

bool transformer_adapt(struct transformer *t, const struct adapter *adapters, int count,
                       struct error *error) {
    clear(t);
    bool good = true;
    for (int a = 0; a < count; a++) {
        const struct lora *lora = adapters[a].lora;
        for (int64_t i = 0; good && i < lora_branch_count(lora) && adapters[a].scale != 0; i++) {
            const struct lora_branch *branch = lora_branch(lora, i);
            struct linear *linears[2];
            const int parts = linears_of(t, branch->module, branch->block, linears);
            int64_t first = 0;
            for (int p = 0; good && p < parts; first += linears[p++]->out)
                good = attach(t, linears[p], first, branch, adapters[a].scale, error);
        }
    }
    if (!good) clear(t);
    return good;
}

// ----------------------------------------------------------------------------------------------------------- files

struct entry {
    struct entry *next; // the one used last stands first
    char *path;
    struct stat is; // what the file was when it was opened
    bool keep;
    struct lora *lora;
};

struct adapters {
    const struct transformer *transformer;
    struct entry *entries;
};

struct adapters *adapters_open(const struct transformer *transformer, struct error *error) {
    struct adapters *adapters = calloc(1, sizeof *adapters);
    if (adapters)
        adapters->transformer = transformer;
    else
        error_set(error, ERROR_MEMORY, "not enough memory for LoRAs");
    return adapters;
}

static void drop(struct entry **link) {
    struct entry *entry = *link;
    *link = entry->next;
    lora_close(entry->lora);
    free(entry->path);
    free(entry);
}

void adapters_close(struct adapters *adapters) {
    while (adapters && adapters->entries) drop(&adapters->entries);
    free(adapters);
}

static bool is_same_file(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

// Closes what is beyond the number of files that may stay open.
static void trim(struct adapters *adapters) {
    int count = 0;
    for (struct entry **link = &adapters->entries; *link;) {
        if (!(*link)->keep && ++count > ADAPTERS_KEPT_MOST)
            drop(link);
        else
            link = &(*link)->next;
    }
}

const struct lora *adapters_get(struct adapters *adapters, const char *path, bool keep, bool *fresh,
                                struct error *error) {
    struct stat is;
    *fresh = false;
    if (stat(path, &is) != 0) {
        error_set(error, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_IO, "%s: cannot be opened: %s", path,
                  strerror(errno));
        return NULL;
    }
    struct entry **link = &adapters->entries, *entry;
    while (*link && strcmp((*link)->path, path) != 0) link = &(*link)->next;
    // A replaced file is opened anew, but not one that every request has: what runs is what was opened with the model.
    if (*link && !(*link)->keep && !is_same_file(&(*link)->is, &is)) drop(link);
    if ((entry = *link) != NULL && strcmp(entry->path, path) == 0) {
        *link = entry->next;
    } else {
        const struct lora_shape shape = transformer_lora_shape(adapters->transformer);
        entry = calloc(1, sizeof *entry);
        if (!entry || !(entry->path = strdup(path))) {
            free(entry);
            error_set(error, ERROR_MEMORY, "%s: not enough memory for the LoRA", path);
            return NULL;
        }
        entry->lora = lora_open(path, &shape, error);
        if (!entry->lora) {
            free(entry->path);
            free(entry);
            return NULL;
        }
        entry->is = is;
        *fresh = true;
    }
    entry->keep = entry->keep || keep;
    entry->next = adapters->entries;
    adapters->entries = entry;
    trim(adapters);
    return entry->lora;
}

void adapters_release_pages(const struct adapters *adapters) {
    for (const struct entry *entry = adapters->entries; entry; entry = entry->next)
        lora_release_pages(entry->lora);
}
