// Named tensors from files: opening, shard sets, looking up. Relies on base, tensor, safetensors_header.h, gguf.h,
// gguf_split.h.
#include "weights/checkpoint.h"
#include "base/json.h"
#include "weights/checkpoint_inside.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { INDEX_BYTES_MOST = 32 << 20, SHARDS_MOST = 4096 };

static const char suffix[] = ".safetensors";
static const char gguf_suffix[] = ".gguf";
static const char index_suffix[] = ".safetensors.index.json";

static struct checkpoint *checkpoint_new(const char *name, struct error *error) {
    struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    if (checkpoint) checkpoint->name = arena_strdup(&checkpoint->arena, name);
    if (checkpoint && checkpoint->name) return checkpoint;
    free(checkpoint);
    error_set(error, ERROR_MEMORY, "%s: no memory to open it", name);
    return NULL;
}

static bool no_memory(const struct checkpoint *checkpoint, struct error *error) {
    return error_set(error, ERROR_MEMORY, "%s: no memory to open it", checkpoint->name);
}

void checkpoint_close(struct checkpoint *checkpoint) {
    if (!checkpoint) return;
    for (int i = 0; i < checkpoint->shard_count; i++) {
        safetensors_header_free(&checkpoint->shards[i].header);
        file_unmap(&checkpoint->shards[i].map);
    }
    free(checkpoint->shards);
    free(checkpoint->entries);
    free(checkpoint->metadata);
    gguf_free(&checkpoint->gguf);
    arena_free(&checkpoint->arena);
    free(checkpoint);
}

// NULL and the checkpoint closed when it was not [done].
static struct checkpoint *finished(struct checkpoint *checkpoint, bool done) {
    if (done) return checkpoint;
    checkpoint_close(checkpoint);
    return NULL;
}

// Takes over what a header holds.
static void adopt(struct checkpoint *checkpoint, struct safetensors_header *header) {
    checkpoint->entries = header->entries;
    checkpoint->count = header->count;
    checkpoint->metadata = header->metadata;
    checkpoint->metadata_count = header->metadata_count;
    *header = (struct safetensors_header){0};
}

// Reads a whole file image as what its first bytes say it is.
static bool read_image(struct checkpoint *checkpoint, const char *file, const void *data, size_t size,
                       struct error *error) {
    struct safetensors_header header;
    if (!gguf_begins(data, size)) {
        if (!safetensors_header_read(file, data, size, &checkpoint->arena, &header, error)) return false;
        adopt(checkpoint, &header);
        return true;
    }
    return checkpoint_read_gguf(checkpoint, file, data, size, error);
}

struct checkpoint *checkpoint_parse(const char *name, const void *data, size_t size, struct error *error) {
    struct checkpoint *checkpoint = checkpoint_new(name, error);
    if (!checkpoint) return NULL;
    return finished(checkpoint, read_image(checkpoint, checkpoint->name, data, size, error));
}

static bool shard_open(struct checkpoint *checkpoint, struct shard *shard, struct error *error) {
    return file_map(shard->file, &shard->map, error) &&
           safetensors_header_read(shard->file, shard->map.data, shard->map.size, &checkpoint->arena,
                                   &shard->header, error);
}

struct checkpoint *checkpoint_parse_split(const char *const *names, const void *const *data,
                                          const size_t *sizes, int count, struct error *error) {
    struct checkpoint *checkpoint = checkpoint_new(names[0], error);
    if (!checkpoint) return NULL;
    checkpoint->shards = calloc((size_t)count, sizeof *checkpoint->shards);
    if (!checkpoint->shards) {
        no_memory(checkpoint, error);
        return finished(checkpoint, false);
    }
    checkpoint->shard_count = count;
    for (int i = 0; i < count; i++) {
        checkpoint->shards[i].file = names[i];
        checkpoint->shards[i].map = (struct file_map){data[i], sizes[i]};
    }
    bool done = checkpoint_read_split(checkpoint, error);
    checkpoint->shard_count = 0; // the images are not the checkpoint's to unmap
    return finished(checkpoint, done);
}

static struct checkpoint *open_single(const char *path, struct error *error) {
    struct gguf_split_name split;
    struct checkpoint *checkpoint = checkpoint_new(path, error);
    if (!checkpoint) return NULL;
    if (gguf_split_name(path, &split))
        return finished(checkpoint, checkpoint_map_split(checkpoint, path, &split, error));
    checkpoint->shards = calloc(1, sizeof *checkpoint->shards);
    if (!checkpoint->shards) {
        no_memory(checkpoint, error);
        return finished(checkpoint, false);
    }
    checkpoint->shard_count = 1;
    struct shard *shard = &checkpoint->shards[0];
    shard->file = checkpoint->name;
    bool done = file_map(shard->file, &shard->map, error) &&
                read_image(checkpoint, shard->file, shard->map.data, shard->map.size, error);
    return finished(checkpoint, done);
}

// ---------------------------------------------------------------------------------------------------------- shard sets

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), wanted = strlen(end);
    return length > wanted && strcmp(text + length - wanted, end) == 0;
}

// A plain file name: the index comes from outside and must not lead out of its folder.
static bool check_shard_name(const char *index, const char *tensor, const json_t *value,
                             struct error *error) {
    const char *file = json_string_value(value);
    if (!file)
        return error_set(error, ERROR_INPUT, "%s: weight_map: \"%s\": expected the name of a file", index,
                         tensor);
    if (strpbrk(file, "/\\") || !ends_with(file, suffix) || strlen(file) > 255) {
        return error_set(
            error, ERROR_INPUT,
            "%s: weight_map: \"%s\": \"%s\", expected the plain name of a .safetensors file beside it", index,
            tensor, file);
    }
    return true;
}

static int by_file(const void *left, const void *right) {
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

// The distinct files of the map, as shards in order of name.
static bool list_shards(struct checkpoint *checkpoint, const char *index, const json_t *map,
                        struct error *error) {
    size_t tensors = json_object_size(map), used = 0;
    const char **files = calloc(tensors + 1, sizeof *files), *tensor;
    if (!files) return no_memory(checkpoint, error);
    json_t *value;
    bool done = true;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value) {
        done = check_shard_name(index, tensor, value, error);
        if (!done) break;
        files[used++] = json_string_value(value);
    }
    size_t distinct = 0;
    if (done) {
        qsort(files, used, sizeof *files, by_file);
        for (size_t i = 0; i < used; i++) {
            if (i == 0 || strcmp(files[i], files[i - 1]) != 0) files[distinct++] = files[i];
        }
        if (distinct > SHARDS_MOST) {
            done = error_set(error, ERROR_INPUT, "%s: %zu files, expected at most %d", index, distinct,
                             SHARDS_MOST);
        }
    }
    if (done) {
        checkpoint->shards = calloc(distinct + 1, sizeof *checkpoint->shards);
        if (!checkpoint->shards) done = no_memory(checkpoint, error);
    }
    const char *slash = strrchr(index, '/');
    for (size_t i = 0; done && i < distinct; i++) {
        struct shard *shard = &checkpoint->shards[checkpoint->shard_count];
        shard->file =
            arena_printf(&checkpoint->arena, "%.*s%s", slash ? (int)(slash - index) + 1 : 0, index, files[i]);
        checkpoint->shard_count++;
        if (!shard->file) done = no_memory(checkpoint, error);
    }
    free(files);
    return done;
}

static int entry_by_name(const void *left, const void *right) {
    return strcmp(((const struct checkpoint_entry *)left)->name,
                  ((const struct checkpoint_entry *)right)->name);
}

static const struct checkpoint_entry *find_in(const struct checkpoint_entry *entries, int64_t count,
                                              const char *name) {
    struct checkpoint_entry wanted = {.name = name};
    return count > 0 ? bsearch(&wanted, entries, (size_t)count, sizeof *entries, entry_by_name) : NULL;
}

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int shard_by_file(const void *left, const void *right) {
    return strcmp(left, file_name(((const struct shard *)right)->file));
}

// The entries that the index asks for, each out of the shard that it names.
static bool collect_entries(struct checkpoint *checkpoint, const char *index, const json_t *map,
                            struct error *error) {
    size_t tensors = json_object_size(map);
    checkpoint->entries = calloc(tensors + 1, sizeof *checkpoint->entries);
    if (!checkpoint->entries) return no_memory(checkpoint, error);
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value) {
        const struct shard *shard =
            bsearch(json_string_value(value), checkpoint->shards, (size_t)checkpoint->shard_count,
                    sizeof *checkpoint->shards, shard_by_file);
        const struct checkpoint_entry *entry =
            shard ? find_in(shard->header.entries, shard->header.count, tensor) : NULL;
        if (!entry) {
            return error_set(error, ERROR_INPUT, "%s: tensor \"%s\" should be in %s, which does not hold it",
                             index, tensor, json_string_value(value));
        }
        checkpoint->entries[checkpoint->count++] = *entry;
    }
    if (tensors > 0) qsort(checkpoint->entries, tensors, sizeof *checkpoint->entries, entry_by_name);
    return true;
}

// The first shard speaks for the set; the others repeat it.
static void adopt_metadata(struct checkpoint *checkpoint) {
    if (checkpoint->shard_count == 0) return;
    struct safetensors_header *header = &checkpoint->shards[0].header;
    checkpoint->metadata = header->metadata;
    checkpoint->metadata_count = header->metadata_count;
    header->metadata = NULL;
    header->metadata_count = 0;
}

static struct checkpoint *open_index(const char *path, const char *index, struct error *error) {
    json_t *json = json_read_file(index, INDEX_BYTES_MOST, error);
    struct checkpoint *checkpoint = json ? checkpoint_new(path, error) : NULL;
    const json_t *map = NULL;
    struct json_place place = {json, index};
    bool done = checkpoint && json_get_object(place, "weight_map", JSON_REQUIRED, &map, error) &&
                list_shards(checkpoint, index, map, error);
    for (int i = 0; done && i < checkpoint->shard_count; i++) {
        done = shard_open(checkpoint, &checkpoint->shards[i], error) ||
               error_prefix(error, "%s", index); // why this file was looked for
    }
    done = done && collect_entries(checkpoint, index, map, error);
    if (done) adopt_metadata(checkpoint);
    for (int i = 0; done && i < checkpoint->shard_count; i++)
        safetensors_header_free(&checkpoint->shards[i].header);
    json_decref(json);
    return finished(checkpoint, done);
}

// ------------------------------------------------------------------------------------------------------------- opening

// The only weight file in a folder, in fresh memory. NULL with an error for none or several.
static char *only_file(const char *folder, struct error *error) {
    DIR *open = opendir(folder);
    if (!open) {
        error_set(error, ERROR_IO, "%s: cannot be listed: %s", folder, strerror(errno));
        return NULL;
    }
    char *found = NULL;
    int count = 0;
    bool memory = true;
    for (struct dirent *entry; memory && (entry = readdir(open));) {
        bool weights = ends_with(entry->d_name, suffix) || ends_with(entry->d_name, gguf_suffix);
        if (!weights || entry->d_name[0] == '.') continue;
        char *path = path_join(folder, entry->d_name);
        memory = path != NULL;
        if (memory && !gguf_split_follows(path) && count++ == 0)
            found = path;
        else
            free(path);
    }
    closedir(open);
    if (count == 1 && memory) return found;
    free(found);
    if (!memory) {
        error_set(error, ERROR_MEMORY, "%s: no memory to list it", folder);
    } else if (count == 0) {
        error_set(error, ERROR_NOT_FOUND,
                  "%s: no weights, expected diffusion_pytorch_model.safetensors or model.safetensors, whole "
                  "or as shards with "
                  "an .index.json, or one other .safetensors or .gguf file",
                  folder);
    } else {
        error_set(error, ERROR_INPUT, "%s: %d weight files and no index, expected one", folder, count);
    }
    return NULL;
}

static struct checkpoint *open_folder(const char *folder, struct error *error) {
    static const char *const stems[] = {"diffusion_pytorch_model", "model"};
    for (size_t i = 0; i < 2 * (sizeof stems / sizeof *stems); i++) {
        char name[64];
        bool index = i % 2;
        snprintf(name, sizeof name, "%s%s", stems[i / 2], index ? index_suffix : suffix);
        char *path = path_join(folder, name);
        if (!path) {
            error_set(error, ERROR_MEMORY, "%s: no memory to open it", folder);
            return NULL;
        }
        if (file_exists(path)) {
            struct checkpoint *checkpoint =
                index ? open_index(folder, path, error) : open_single(path, error);
            free(path);
            return checkpoint;
        }
        free(path);
    }
    char *path = only_file(folder, error);
    struct checkpoint *checkpoint = path ? open_single(path, error) : NULL;
    free(path);
    return checkpoint;
}

struct checkpoint *checkpoint_open(const char *path, struct error *error) {
    if (folder_exists(path)) return open_folder(path, error);
    if (ends_with(path, index_suffix)) return open_index(path, path, error);
    return open_single(path, error);
}

// ---------------------------------------------------------------------------------------------------------- looking up

const struct gguf *checkpoint_gguf(const struct checkpoint *checkpoint) {
    return checkpoint->is_gguf ? &checkpoint->gguf : NULL;
}

const char *checkpoint_name(const struct checkpoint *checkpoint) {
    return checkpoint->name;
}

int64_t checkpoint_count(const struct checkpoint *checkpoint) {
    return checkpoint->count;
}

const struct checkpoint_entry *checkpoint_entry(const struct checkpoint *checkpoint, int64_t index) {
    return &checkpoint->entries[index];
}

const struct checkpoint_entry *checkpoint_find(const struct checkpoint *checkpoint, const char *name) {
    return find_in(checkpoint->entries, checkpoint->count, name);
}

const char *checkpoint_metadata(const struct checkpoint *checkpoint, const char *key) {
    for (int64_t i = 0; i < checkpoint->metadata_count; i++) {
        if (strcmp(checkpoint->metadata[i].key, key) == 0) return checkpoint->metadata[i].value;
    }
    return NULL;
}

int64_t checkpoint_metadata_count(const struct checkpoint *checkpoint) {
    return checkpoint->metadata_count;
}

const struct checkpoint_metadata_pair *checkpoint_metadata_pair(const struct checkpoint *checkpoint,
                                                                int64_t index) {
    return &checkpoint->metadata[index];
}

int checkpoint_files(const struct checkpoint *checkpoint, uint64_t *bytes) {
    *bytes = 0;
    for (int i = 0; i < checkpoint->shard_count; i++) *bytes += checkpoint->shards[i].map.size;
    return checkpoint->shard_count;
}

static bool is_real(enum dtype type) {
    return type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16 || type == DTYPE_F64 ||
           type == DTYPE_F8_E4M3 || type == DTYPE_F8_E5M2 || type > DTYPE_BOOL;
}

// The entry of that name if it holds real numbers.
static const struct checkpoint_entry *find_real(const struct checkpoint *checkpoint, const char *name,
                                                struct error *error) {
    const struct checkpoint_entry *entry = checkpoint_find(checkpoint, name);
    if (!entry) {
        error_set(error, ERROR_NOT_FOUND, "%s: tensor \"%s\" is missing", checkpoint->name, name);
        return NULL;
    }
    if (is_real(entry->tensor.type)) return entry;
    error_set(error, ERROR_INPUT, "%s: tensor \"%s\": type %s, expected real numbers (F32, F16, BF16)",
              entry->file, name, dtype_info(entry->tensor.type)->name);
    return NULL;
}

// The name of an entry in messages: behind it the one that it has in the file, where that is another.
static const char *full_name(const struct checkpoint_entry *entry, char *text, size_t size) {
    if (entry->origin)
        snprintf(text, size, "\"%s\" (\"%s\" in the file)", entry->name, entry->origin);
    else
        snprintf(text, size, "\"%s\"", entry->name);
    return text;
}

// A shape as tensor_shape_text writes it, with "any" for -1.
static void wanted_text(int rank, const int64_t *shape, char *text, size_t size) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < rank && used < size; i++) {
        used += (size_t)(shape[i] < 0 ? snprintf(text + used, size - used, "%sany", i ? ", " : "")
                                      : snprintf(text + used, size - used, "%s%lld", i ? ", " : "",
                                                 (long long)shape[i]));
    }
    if (used < size) snprintf(text + used, size - used, "]");
}

bool checkpoint_get(const struct checkpoint *checkpoint, struct tensor *tensor, int rank, int64_t *shape,
                    struct error *error, const char *name, ...) {
    char full[512];
    va_list arguments;
    va_start(arguments, name);
    vsnprintf(full, sizeof full, name, arguments);
    va_end(arguments);
    const struct checkpoint_entry *entry = find_real(checkpoint, full, error);
    if (!entry) return false;
    bool fits = entry->tensor.rank == rank;
    for (int i = 0; fits && i < rank; i++) fits = shape[i] < 0 || shape[i] == entry->tensor.shape[i];
    if (!fits) {
        char found[128], wanted[128], called[600];
        wanted_text(rank, shape, wanted, sizeof wanted);
        return error_set(error, ERROR_INPUT, "%s: tensor %s: shape %s, expected %s", entry->file,
                         full_name(entry, called, sizeof called),
                         tensor_shape_text(&entry->tensor, found, sizeof found), wanted);
    }
    for (int i = 0; i < rank; i++) shape[i] = entry->tensor.shape[i];
    *tensor = entry->tensor;
    return true;
}

float *checkpoint_get_f32(const struct checkpoint *checkpoint, int64_t values, struct error *error,
                          const char *name, ...) {
    char full[512];
    va_list arguments;
    va_start(arguments, name);
    vsnprintf(full, sizeof full, name, arguments);
    va_end(arguments);
    const struct checkpoint_entry *entry = find_real(checkpoint, full, error);
    if (!entry) return NULL;
    if (tensor_values(&entry->tensor) != values) {
        char found[128], called[600];
        error_set(error, ERROR_INPUT, "%s: tensor %s: shape %s, expected %lld values", entry->file,
                  full_name(entry, called, sizeof called),
                  tensor_shape_text(&entry->tensor, found, sizeof found), (long long)values);
        return NULL;
    }
    const bool block = entry->tensor.type > DTYPE_BOOL; // vectors too, by stable-diffusion.cpp's converter
    if (entry->tensor.scales || (block && entry->tensor.rank != 1)) {
        error_set(error, ERROR_UNSUPPORTED, "%s: tensor \"%s\": stored as %s%s, expected F32, F16 or BF16",
                  entry->file, full, dtype_info(entry->tensor.type)->name,
                  entry->tensor.scales ? " with scales" : "");
        return NULL;
    }
    float *decoded = malloc(((size_t)values + 1) * sizeof *decoded);
    if (!decoded) {
        error_set(error, ERROR_MEMORY, "%s: tensor \"%s\": no memory for %lld values", entry->file, full,
                  (long long)values);
        return NULL;
    }
    dtype_decode(entry->tensor.type, entry->tensor.data, decoded, values);
    for (int64_t i = 0; i < values; i++) {
        if (isfinite(decoded[i])) continue;
        error_set(error, ERROR_INPUT, "%s: tensor \"%s\": value %lld is %s, expected a finite number",
                  entry->file, full, (long long)i, isnan(decoded[i]) ? "NaN" : "infinite");
        free(decoded);
        return NULL;
    }
    return decoded;
}

void checkpoint_release_pages(const struct checkpoint *checkpoint) {
    for (int i = 0; i < checkpoint->shard_count; i++) {
        file_release_pages(checkpoint->shards[i].map.data, checkpoint->shards[i].map.size);
    }
}

// --------------------------------------------------------------------------------------------------------- arranging

bool checkpoint_sort(struct checkpoint *checkpoint, struct error *error) {
    if (checkpoint->count > 1)
        qsort(checkpoint->entries, (size_t)checkpoint->count, sizeof *checkpoint->entries, entry_by_name);
    for (int64_t i = 1; i < checkpoint->count; i++) {
        const struct checkpoint_entry *a = &checkpoint->entries[i - 1], *b = &checkpoint->entries[i];
        if (strcmp(a->name, b->name) == 0)
            return error_set(error, ERROR_INPUT, "%s: tensors \"%s\" and \"%s\" stand for the same \"%s\"",
                             b->file, a->origin ? a->origin : a->name, b->origin ? b->origin : b->name,
                             b->name);
    }
    return true;
}

bool checkpoint_slice(struct checkpoint *checkpoint, struct tensor *tensor, int64_t first, int64_t count,
                      struct error *error) {
    size_t row = tensor->shape[0] > 0 ? tensor->bytes / (size_t)tensor->shape[0] : 0;
    if (tensor->scales) {
        struct tensor_scales *scales = arena_alloc(&checkpoint->arena, sizeof *scales);
        if (!scales) return no_memory(checkpoint, error);
        *scales = *tensor->scales;
        if (scales->rows) scales->rows += first * scales->row_stride;
        scales->first_row += first;
        tensor->scales = scales;
    }
    tensor->data = (const char *)tensor->data + (size_t)first * row;
    tensor->bytes = (size_t)count * row;
    tensor->shape[0] = count;
    return true;
}

struct checkpoint_summary checkpoint_summary(const struct checkpoint *checkpoint) {
    uint64_t bytes, sums[DTYPE_COUNT] = {0};
    checkpoint_files(checkpoint, &bytes);
    struct checkpoint_summary summary = {.name = checkpoint->name, .bytes = (int64_t)bytes};
    for (int64_t i = 0; i < checkpoint->count; i++) {
        const struct tensor *tensor = &checkpoint->entries[i].tensor;
        sums[tensor->type] += tensor->bytes;
        if (sums[tensor->type] > sums[summary.type]) summary.type = tensor->type;
    }
    return summary;
}
