// The two headers and the file behind them; see weights_writer.h. Relies on base, jansson.
#include "weights/weights_writer.h"
#include "base/buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h> // defines: json_t
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    GGUF_VERSION = 3,
    GGUF_ALIGNMENT = 32,
    SYNC_BYTES = 64 << 20, // written between two syncs, so that dirty pages do not pile up
};

struct weights_writer {
    const struct weights_plan *plan;
    char *path, *part;
    int file;
    uint64_t data;     // where the first tensor's bytes begin
    uint64_t *offsets; // [count + 1], of each tensor from there; the end behind the last
    int64_t next;      // tensor in work
    uint64_t at;       // bytes of all tensors so far, paddings included
    uint64_t unsynced;
};

// ----------------------------------------------------------------------------------------------------- what is planned

int ggml_id_of(enum dtype type) {
    switch (type) {
    case DTYPE_F32:
        return 0;
    case DTYPE_F16:
        return 1;
    case DTYPE_Q4_0:
        return 2;
    case DTYPE_Q4_1:
        return 3;
    case DTYPE_Q5_0:
        return 6;
    case DTYPE_Q5_1:
        return 7;
    case DTYPE_Q8_0:
        return 8;
    case DTYPE_Q2_K:
        return 10;
    case DTYPE_Q3_K:
        return 11;
    case DTYPE_Q4_K:
        return 12;
    case DTYPE_Q5_K:
        return 13;
    case DTYPE_Q6_K:
        return 14;
    case DTYPE_IQ4_NL:
        return 20;
    case DTYPE_IQ4_XS:
        return 23;
    case DTYPE_I8:
        return 24;
    case DTYPE_I16:
        return 25;
    case DTYPE_I32:
        return 26;
    case DTYPE_I64:
        return 27;
    case DTYPE_F64:
        return 28;
    case DTYPE_BF16:
        return 30;
    default:
        return -1;
    }
}

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for the header of a file of weights");
}

size_t planned_tensor_bytes(const struct planned_tensor *tensor) {
    int64_t values = 1;
    for (int i = 0; i < tensor->rank; i++) values *= tensor->shape[i];
    return dtype_bytes(tensor->type, values);
}

// Bytes of a tensor, with its type and shape checked against the format.
static bool tensor_bytes_of(const struct weights_plan *plan, const struct planned_tensor *tensor,
                            uint64_t *bytes, struct error *error) {
    const struct dtype_info *info = dtype_info(tensor->type);
    bool known = plan->format == WEIGHTS_GGUF ? ggml_id_of(tensor->type) >= 0
                                              : tensor->type > DTYPE_NONE && tensor->type <= DTYPE_BOOL;
    if (!known)
        return error_set(error, ERROR_INPUT, "tensor \"%s\": %s has no type %s", tensor->name,
                         plan->format == WEIGHTS_GGUF ? "GGUF" : "safetensors", info->name);
    int64_t values = 1;
    for (int i = 0; i < tensor->rank; i++)
        if (tensor->shape[i] < 0 || __builtin_mul_overflow(values, tensor->shape[i], &values))
            return error_set(error, ERROR_INPUT, "tensor \"%s\": dimension %d is %lld", tensor->name, i,
                             (long long)tensor->shape[i]);
    int64_t row = tensor->rank > 0 ? tensor->shape[tensor->rank - 1] : 1;
    if (row % info->block_values != 0)
        return error_set(error, ERROR_INPUT,
                         "tensor \"%s\": a row of %lld values is no whole number of %s blocks (%d values)",
                         tensor->name, (long long)row, info->name, info->block_values);
    *bytes = dtype_bytes(tensor->type, values);
    return *bytes > 0 || error_set(error, ERROR_INPUT, "tensor \"%s\" has no values", tensor->name);
}

static uint64_t aligned(uint64_t at, uint64_t to) {
    return (at + to - 1) / to * to;
}

// Where each tensor lies from the first one's begin.
static bool lay_out(const struct weights_plan *plan, uint64_t *offsets, struct error *error) {
    uint64_t at = 0;
    for (int64_t i = 0; i < plan->count; i++) {
        uint64_t bytes = 0;
        if (!tensor_bytes_of(plan, &plan->tensors[i], &bytes, error)) return false;
        offsets[i] = at;
        at += bytes;
        if (plan->format == WEIGHTS_GGUF) at = aligned(at, GGUF_ALIGNMENT);
    }
    offsets[plan->count] = at;
    return true;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const struct planned_tensor *const *)a)->name,
                  (*(const struct planned_tensor *const *)b)->name);
}

static bool check_names(const struct weights_plan *plan, struct error *error) {
    if (plan->count == 0) return error_set(error, ERROR_INPUT, "there are no tensors to write");
    const struct planned_tensor **sorted = malloc((size_t)plan->count * sizeof *sorted);
    if (!sorted) return no_memory(error);
    for (int64_t i = 0; i < plan->count; i++) sorted[i] = &plan->tensors[i];
    qsort(sorted, (size_t)plan->count, sizeof *sorted, by_name);
    bool good = true;
    for (int64_t i = 1; i < plan->count && good; i++)
        if (strcmp(sorted[i]->name, sorted[i - 1]->name) == 0)
            good = error_set(error, ERROR_INPUT, "tensor \"%s\" is there twice", sorted[i]->name);
    free(sorted);
    return good;
}

// ------------------------------------------------------------------------------------------------------------ headers

static bool safetensors_metadata(const struct weights_plan *plan, json_t *header, struct error *error) {
    json_t *pairs = json_object();
    if (!pairs) return no_memory(error);
    for (int64_t i = 0; i < plan->metadata_count; i++) {
        const struct planned_metadata *pair = &plan->metadata[i];
        if (pair->kind == METADATA_TEXT &&
            json_object_set_new(pairs, pair->key, json_string(pair->text)) != 0) {
            json_decref(pairs);
            return error_set(error, ERROR_INPUT, "metadata \"%s\": expected text in UTF-8", pair->key);
        }
    }
    return json_object_set_new(header, "__metadata__", pairs) == 0 || no_memory(error);
}

static bool safetensors_entry(const struct planned_tensor *tensor, const uint64_t *offset, uint64_t bytes,
                              json_t *header, struct error *error) {
    json_t *sizes = json_array();
    for (int i = 0; i < tensor->rank; i++) json_array_append_new(sizes, json_integer(tensor->shape[i]));
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_info(tensor->type)->name, "shape", sizes,
                              "data_offsets", (json_int_t)*offset, (json_int_t)(*offset + bytes));
    return (entry && json_object_set_new(header, tensor->name, entry) == 0) ||
           error_set(error, ERROR_INPUT, "tensor \"%s\": expected a name in UTF-8, and memory for it",
                     tensor->name);
}

static bool add_number(struct buffer *out, uint64_t value, int bytes) {
    uint8_t text[8];
    for (int i = 0; i < bytes; i++) text[i] = (uint8_t)(value >> 8 * i);
    return buffer_add(out, text, (size_t)bytes);
}

static bool safetensors_header(const struct weights_plan *plan, const uint64_t *offsets, struct buffer *out,
                               struct error *error) {
    json_t *header = json_object();
    bool good = header || no_memory(error);
    if (good && plan->metadata_count > 0) good = safetensors_metadata(plan, header, error);
    for (int64_t i = 0; i < plan->count && good; i++)
        good = safetensors_entry(&plan->tensors[i], &offsets[i], offsets[i + 1] - offsets[i], header, error);
    char *text = good ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!good) return false;
    size_t length = text ? strlen(text) : 0, padded = (length + 7) / 8 * 8;
    good = text && add_number(out, padded, 8) && buffer_add(out, text, length) &&
           buffer_add(out, "       ", padded - length);
    free(text);
    return good || no_memory(error);
}

static bool add_text(struct buffer *out, const char *text) {
    size_t length = strlen(text);
    return add_number(out, length, 8) && buffer_add(out, text, length);
}

// The value types of GGUF.
enum { GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };

static bool gguf_metadata(const struct planned_metadata *pair, struct buffer *out) {
    union {
        float f;
        uint32_t u;
    } bits = {.f = (float)pair->number};
    bool good = add_text(out, pair->key);
    switch (pair->kind) {
    case METADATA_TEXT:
        return good && add_number(out, GGUF_STRING, 4) && add_text(out, pair->text);
    case METADATA_U32:
        return good && add_number(out, GGUF_U32, 4) && add_number(out, (uint32_t)pair->number, 4);
    case METADATA_F32:
        return good && add_number(out, GGUF_F32, 4) && add_number(out, bits.u, 4);
    case METADATA_BOOL:
        return good && add_number(out, GGUF_BOOL, 4) && add_number(out, pair->number != 0, 1);
    case METADATA_TEXTS:
        good = good && add_number(out, GGUF_ARRAY, 4) && add_number(out, GGUF_STRING, 4) &&
               add_number(out, (uint64_t)pair->count, 8);
        for (int64_t i = 0; i < pair->count && good; i++) good = add_text(out, pair->texts[i]);
        return good;
    case METADATA_I32S:
        good = good && add_number(out, GGUF_ARRAY, 4) && add_number(out, GGUF_I32, 4) &&
               add_number(out, (uint64_t)pair->count, 8);
        for (int64_t i = 0; i < pair->count && good; i++)
            good = add_number(out, (uint32_t)pair->integers[i], 4);
        return good;
    }
    return false;
}

static bool gguf_header(const struct weights_plan *plan, const uint64_t *offsets, struct buffer *out,
                        struct error *error) {
    bool good = buffer_add(out, "GGUF", 4) && add_number(out, GGUF_VERSION, 4) &&
                add_number(out, (uint64_t)plan->count, 8) &&
                add_number(out, (uint64_t)plan->metadata_count, 8);
    for (int64_t i = 0; i < plan->metadata_count && good; i++) good = gguf_metadata(&plan->metadata[i], out);
    for (int64_t i = 0; i < plan->count && good; i++) {
        const struct planned_tensor *tensor = &plan->tensors[i];
        good = add_text(out, tensor->name) && add_number(out, (uint64_t)tensor->rank, 4);
        for (int axis = tensor->rank - 1; axis >= 0 && good; axis--)
            good = add_number(out, (uint64_t)tensor->shape[axis], 8);
        good =
            good && add_number(out, (uint64_t)ggml_id_of(tensor->type), 4) && add_number(out, offsets[i], 8);
    }
    while (good && out->length % GGUF_ALIGNMENT) good = buffer_add(out, "", 1);
    return good || no_memory(error);
}

static bool make_header(const struct weights_plan *plan, const uint64_t *offsets, struct buffer *out,
                        struct error *error) {
    return plan->format == WEIGHTS_GGUF ? gguf_header(plan, offsets, out, error)
                                        : safetensors_header(plan, offsets, out, error);
}

// The header, and where the tensors end behind it.
static bool lay_all(const struct weights_plan *plan, struct buffer *header, uint64_t *bytes,
                    struct error *error) {
    uint64_t *offsets = malloc((size_t)(plan->count + 1) * sizeof *offsets);
    bool good = (offsets || no_memory(error)) && check_names(plan, error) && lay_out(plan, offsets, error) &&
                make_header(plan, offsets, header, error);
    *bytes = good ? header->length + offsets[plan->count] : 0;
    free(offsets);
    return good;
}

uint64_t weights_plan_bytes(const struct weights_plan *plan, struct error *error) {
    struct buffer header = {0};
    uint64_t bytes;
    lay_all(plan, &header, &bytes, error);
    buffer_free(&header);
    return bytes;
}

// ----------------------------------------------------------------------------------------------------------- the file

static bool put(struct weights_writer *writer, const void *data, size_t size, struct error *error) {
    const char *from = data;
    while (size > 0) {
        ssize_t wrote = write(writer->file, from, size);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0)
            return error_set(error, ERROR_IO,
                             "%s: %s; what is written so far stays, and the same command goes on from there",
                             writer->part, strerror(errno));
        from += wrote;
        size -= (size_t)wrote;
        writer->unsynced += (uint64_t)wrote;
    }
    if (writer->unsynced < SYNC_BYTES) return true;
    writer->unsynced = 0;
    return fdatasync(writer->file) == 0 ||
           error_set(error, ERROR_IO, "%s: %s", writer->part, strerror(errno));
}

// Whether the file begins with [header].
static bool begins_with(int file, const struct buffer *header) {
    char block[65536];
    for (size_t at = 0; at < header->length;) {
        size_t want = header->length - at < sizeof block ? header->length - at : sizeof block;
        ssize_t got = pread(file, block, want, (off_t)at);
        if (got <= 0 || memcmp(block, header->data + at, (size_t)got) != 0) return false;
        at += (size_t)got;
    }
    return true;
}

bool weights_plan_done(const struct weights_plan *plan, const char *path) {
    struct buffer header = {0};
    struct stat status;
    uint64_t bytes;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    const bool done = file >= 0 && fstat(file, &status) == 0 && lay_all(plan, &header, &bytes, NULL) &&
                      (uint64_t)status.st_size == bytes && begins_with(file, &header);
    if (file >= 0) close(file);
    buffer_free(&header);
    return done;
}

// Goes on behind the last whole tensor of a .part with this header, or begins a new one.
static bool begin(struct weights_writer *writer, const struct buffer *header, struct error *error) {
    struct stat status;
    const int64_t count = writer->plan->count;
    writer->file = open(writer->part, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (writer->file < 0 || fstat(writer->file, &status) != 0)
        return error_set(error, ERROR_IO, "%s: %s", writer->part, strerror(errno));
    if (flock(writer->file, LOCK_EX | LOCK_NB) != 0)
        return error_set(error, ERROR_UNAVAILABLE, "%s: is being written by another process", writer->part);
    writer->data = header->length;
    uint64_t size = (uint64_t)status.st_size;
    bool goes_on = size >= header->length && begins_with(writer->file, header);
    while (goes_on && writer->next < count && header->length + writer->offsets[writer->next + 1] <= size)
        writer->next++;
    if (!goes_on) writer->next = 0;
    writer->at = writer->offsets[writer->next];
    uint64_t keep = goes_on ? header->length + writer->at : 0;
    if (ftruncate(writer->file, (off_t)keep) != 0 || lseek(writer->file, (off_t)keep, SEEK_SET) < 0)
        return error_set(error, ERROR_IO, "%s: %s", writer->part, strerror(errno));
    return goes_on || put(writer, header->data, header->length, error);
}

struct weights_writer *weights_writer_open(const char *path, const struct weights_plan *plan,
                                           struct error *error) {
    struct weights_writer *writer = calloc(1, sizeof *writer);
    struct buffer header = {0};
    size_t length = strlen(path) + sizeof ".part";
    if (!writer) {
        no_memory(error);
        return NULL;
    }
    *writer = (struct weights_writer){.plan = plan, .file = -1, .path = strdup(path), .part = malloc(length)};
    writer->offsets = malloc((size_t)(plan->count + 1) * sizeof *writer->offsets);
    bool good = (writer->path && writer->part && writer->offsets) || no_memory(error);
    if (good) snprintf(writer->part, length, "%s.part", path);
    good = good && check_names(plan, error) && lay_out(plan, writer->offsets, error) &&
           make_header(plan, writer->offsets, &header, error) && begin(writer, &header, error);
    buffer_free(&header);
    if (good) return writer;
    weights_writer_close(writer);
    return NULL;
}

int64_t weights_writer_next(const struct weights_writer *writer) {
    return writer->next;
}

bool weights_writer_add(struct weights_writer *writer, const void *data, size_t size, struct error *error) {
    static const char zeros[GGUF_ALIGNMENT];
    const struct planned_tensor *tensor = &writer->plan->tensors[writer->next];
    uint64_t bytes = 0, end;
    if (!tensor_bytes_of(writer->plan, tensor, &bytes, error)) return false;
    end = writer->offsets[writer->next] + bytes;
    if (writer->at + size > end)
        return error_set(error, ERROR_INTERNAL, "tensor \"%s\" has more than its %llu bytes", tensor->name,
                         (unsigned long long)bytes);
    if (!put(writer, data, size, error)) return false;
    writer->at += size;
    if (writer->at < end) return true;
    uint64_t next = writer->offsets[writer->next + 1];
    if (next > end && !put(writer, zeros, next - end, error)) return false;
    writer->at = next;
    writer->next++;
    return true;
}

bool weights_writer_finish(struct weights_writer *writer, struct error *error) {
    if (writer->next < writer->plan->count)
        return error_set(error, ERROR_INTERNAL, "%s: tensor \"%s\" is still to come", writer->part,
                         writer->plan->tensors[writer->next].name);
    if (fsync(writer->file) != 0 || rename(writer->part, writer->path) != 0)
        return error_set(error, ERROR_IO, "%s: %s", writer->path, strerror(errno));
    return true;
}

void weights_writer_close(struct weights_writer *writer) {
    if (!writer) return;
    if (writer->file >= 0) close(writer->file);
    free(writer->path);
    free(writer->part);
    free(writer->offsets);
    free(writer);
}
