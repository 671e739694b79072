// Checkpoints out of GGUF files, whole or split. Relies on checkpoint_inside.h, gguf.h, gguf_split.h.
#include "weights/checkpoint_inside.h"
#include "weights/gguf_split.h"

#include <stdlib.h>
#include <string.h>

static const char shape_key[] = "comfy.gguf.orig_shape.";

static bool no_memory(const struct checkpoint *checkpoint, struct error *error) {
    return error_set(error, ERROR_MEMORY, "%s: no memory to open it", checkpoint->name);
}

// What a GGUF file says of itself, as pairs of text; tokens and merges by their number only.
static bool gguf_metadata(struct checkpoint *checkpoint, struct error *error) {
    const struct gguf *gguf = &checkpoint->gguf;
    checkpoint->metadata = calloc((size_t)gguf->value_count + 1, sizeof *checkpoint->metadata);
    if (!checkpoint->metadata) return no_memory(checkpoint, error);
    for (int64_t i = 0; i < gguf->value_count; i++) {
        const char *text = gguf_value_text(&gguf->values[i], &checkpoint->arena);
        if (!text) return no_memory(checkpoint, error);
        checkpoint->metadata[checkpoint->metadata_count++] =
            (struct checkpoint_metadata_pair){gguf->values[i].key, text};
    }
    return true;
}

// ------------------------------------------------------------------------------------------------------ shapes in keys

static struct checkpoint_entry *entry_of(struct checkpoint *checkpoint, const char *name) {
    return (struct checkpoint_entry *)(uintptr_t)checkpoint_find(checkpoint, name);
}

// Gives a tensor the shape that its key says, slowest dimension first.
static bool restore_shape(struct checkpoint_entry *entry, const struct gguf_value *value,
                          struct error *error) {
    enum { RANK_MOST = 4 };
    struct tensor *tensor = &entry->tensor;
    const struct dtype_info *info = dtype_info(tensor->type);
    struct gguf_cursor cursor = gguf_begin(value);
    int64_t shape[RANK_MOST] = {0}, values = 1;
    bool fits = value->array && value->type == GGUF_I32 && value->count >= 1 && value->count <= RANK_MOST;
    for (uint64_t i = 0; fits && i < value->count; i++)
        fits = gguf_next_integer(&cursor, &shape[i]) && shape[i] >= 0 &&
               !__builtin_mul_overflow(values, shape[i], &values);
    if (!fits || values != tensor_values(tensor))
        return error_set(error, ERROR_INPUT,
                         "%s: key \"%s\": expected an array of 1 to %d I32 whose product is the %lld values "
                         "of the tensor",
                         entry->file, value->key, RANK_MOST, (long long)tensor_values(tensor));
    if (shape[value->count - 1] % info->block_values != 0)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: key \"%s\": rows of %lld values, expected a multiple of %d, a block of %s: "
                         "blocks that cross rows are not read",
                         entry->file, value->key, (long long)shape[value->count - 1], info->block_values,
                         info->name);
    tensor->rank = (int)value->count;
    memcpy(tensor->shape, shape, sizeof shape);
    return true;
}

// "comfy.gguf.orig_shape.NAME": city96's converter cuts tensors whose rows are no whole blocks into rows of 256 and keeps their
// own shape there. A key of a tensor that is not there says nothing.
static bool restore_shapes(struct checkpoint *checkpoint, struct error *error) {
    const struct gguf *gguf = &checkpoint->gguf;
    for (int64_t i = 0; i < gguf->value_count; i++) {
        const struct gguf_value *value = &gguf->values[i];
        if (strncmp(value->key, shape_key, sizeof shape_key - 1) != 0) continue;
        struct checkpoint_entry *entry = entry_of(checkpoint, value->key + sizeof shape_key - 1);
        if (entry && !restore_shape(entry, value, error)) return false;
    }
    return true;
}

// -------------------------------------------------------------------------------------------------------------- whole

bool checkpoint_read_gguf(struct checkpoint *checkpoint, const char *file, const void *data, size_t size,
                          struct error *error) {
    checkpoint->is_gguf = true;
    if (!gguf_read(file, data, size, &checkpoint->arena, &checkpoint->gguf, error)) return false;
    checkpoint->entries = checkpoint->gguf.entries;
    checkpoint->count = checkpoint->gguf.count;
    checkpoint->gguf.entries = NULL;
    checkpoint->gguf.count = 0;
    int64_t parts = 1;
    return gguf_metadata(checkpoint, error) &&
           gguf_get_integer(&checkpoint->gguf, file, "split.count", 0, 65535, &parts, error) &&
           (parts <= 1 || error_set(error, ERROR_INPUT,
                                    "%s: is one of %lld parts of a split GGUF file, expected the name "
                                    "NAME-00001-of-%05lld.gguf, and so on, with all of them in one folder",
                                    file, (long long)parts, (long long)parts)) &&
           restore_shapes(checkpoint, error);
}

// --------------------------------------------------------------------------------------------------------------- split

// The keys that part [index] of [count] has; [total]: split.tensors.count, -1 before the first part.
static bool check_part(const struct gguf *gguf, const char *file, int index, int count, int64_t *total,
                       struct error *error) {
    int64_t number = -1, parts = -1, tensors = -1;
    if (!gguf_get_integer(gguf, file, "split.no", 0, 65535, &number, error) ||
        !gguf_get_integer(gguf, file, "split.count", 0, 65535, &parts, error) ||
        !gguf_get_integer(gguf, file, "split.tensors.count", 0, INT32_MAX, &tensors, error))
        return false;
    const char *missing = parts < 0     ? "split.count"
                          : number < 0  ? "split.no"
                          : tensors < 0 ? "split.tensors.count"
                                        : NULL;
    if (missing)
        return error_set(error, ERROR_INPUT,
                         "%s: key \"%s\" is missing, but its name is that of one of %d parts", file, missing,
                         count);
    if (parts != count)
        return error_set(error, ERROR_INPUT, "%s: key \"split.count\": %lld, expected %d as its name says",
                         file, (long long)parts, count);
    if (number != index)
        return error_set(error, ERROR_INPUT,
                         "%s: key \"split.no\": %lld, expected %d as its name says: parts are swapped or "
                         "repeated",
                         file, (long long)number, index);
    if (*total >= 0 && tensors != *total)
        return error_set(error, ERROR_INPUT,
                         "%s: key \"split.tensors.count\": %lld, expected %lld as in the first part: the "
                         "parts are not of one file",
                         file, (long long)tensors, (long long)*total);
    *total = tensors;
    return true;
}

// Puts the entries of a part behind those that are there.
static bool add_entries(struct checkpoint *checkpoint, const struct gguf *gguf, struct error *error) {
    const int64_t count = checkpoint->count + gguf->count;
    struct checkpoint_entry *moved =
        realloc(checkpoint->entries, ((size_t)count + 1) * sizeof *checkpoint->entries);
    if (!moved) return no_memory(checkpoint, error);
    checkpoint->entries = moved;
    if (gguf->count > 0)
        memcpy(moved + checkpoint->count, gguf->entries, (size_t)gguf->count * sizeof *moved);
    checkpoint->count = count;
    return true;
}

static int by_name(const void *left, const void *right) {
    return strcmp(((const struct checkpoint_entry *)left)->name,
                  ((const struct checkpoint_entry *)right)->name);
}

static bool check_whole(struct checkpoint *checkpoint, int64_t total, struct error *error) {
    struct checkpoint_entry *entries = checkpoint->entries;
    if (checkpoint->count > 1) qsort(entries, (size_t)checkpoint->count, sizeof *entries, by_name);
    for (int64_t i = 1; i < checkpoint->count; i++)
        if (by_name(&entries[i - 1], &entries[i]) == 0)
            return error_set(error, ERROR_INPUT,
                             "%s: tensor \"%s\" is in %s too: the parts are not of one file",
                             entries[i - 1].file, entries[i].name, entries[i].file);
    return checkpoint->count == total ||
           error_set(error, ERROR_INPUT,
                     "%s: key \"split.tensors.count\": %lld, but the %d parts hold %lld tensors: they are "
                     "not of one file",
                     checkpoint->shards[0].file, (long long)total, checkpoint->shard_count,
                     (long long)checkpoint->count);
}

bool checkpoint_read_split(struct checkpoint *checkpoint, struct error *error) {
    int64_t total = -1;
    checkpoint->is_gguf = true;
    for (int i = 0; i < checkpoint->shard_count; i++) {
        const struct shard *shard = &checkpoint->shards[i];
        struct gguf gguf;
        if (!gguf_read(shard->file, shard->map.data, shard->map.size, &checkpoint->arena, &gguf, error))
            return false;
        bool done = check_part(&gguf, shard->file, i, checkpoint->shard_count, &total, error) &&
                    add_entries(checkpoint, &gguf, error);
        if (done && i == 0) { // the keys of the whole
            checkpoint->gguf = gguf;
            gguf = (struct gguf){0};
            free(checkpoint->gguf.entries);
            checkpoint->gguf.entries = NULL;
            checkpoint->gguf.count = 0;
        }
        gguf_free(&gguf);
        if (!done) return false;
    }
    return check_whole(checkpoint, total, error) && gguf_metadata(checkpoint, error) &&
           restore_shapes(checkpoint, error);
}

bool checkpoint_map_split(struct checkpoint *checkpoint, const char *path, const struct gguf_split_name *name,
                          struct error *error) {
    checkpoint->shards = calloc((size_t)name->count, sizeof *checkpoint->shards);
    if (!checkpoint->shards) return no_memory(checkpoint, error);
    for (int i = 0; i < name->count; i++) {
        struct shard *shard = &checkpoint->shards[i];
        shard->file = arena_printf(&checkpoint->arena, "%.*s-%05d-of-%05d.gguf", name->prefix, path, i + 1,
                                   name->count);
        if (!shard->file) return no_memory(checkpoint, error);
        checkpoint->shard_count++;
        if (!file_exists(shard->file))
            return error_set(error, ERROR_NOT_FOUND,
                             "%s: is missing, expected all %d parts of a split GGUF file", shard->file,
                             name->count);
        if (!file_map(shard->file, &shard->map, error)) return false;
    }
    return checkpoint_read_split(checkpoint, error);
}
