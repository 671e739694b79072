// The conversion of convert.h: a plan of all tensors, then each in pieces of rows that the threads share. Relies on
// convert_names.h, convert_scaled.h, tensor/stored.h, tensor/encode.h.
#include "weights/convert_names.h"
#include "weights/convert_scaled.h"

#include "base/file.h"
#include "tensor/encode.h"
#include "tensor/stored.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_VALUES = 8 << 20 }; // of one piece, about: 32 MiB in f32

// The whole plan: what is written, and from what.
struct plan {
    struct arena arena;
    struct recipe *recipes;
    int64_t count; // of recipes
    int64_t *
        firsts; // [count + 1]: of each recipe's tensors the first; one, or the codes with what lies beside them
    enum dtype *types; // [count], of each recipe
    struct planned_tensor *tensors;
    struct planned_metadata *metadata;
    struct weights_plan weights;
    uint64_t bytes;
};

// -------------------------------------------------------------------------------------------------------------- the plan

static int64_t row_values(const struct recipe *recipe) {
    int64_t values = 1;
    for (int i = recipe->rank > 1 ? 1 : 0; i < recipe->rank; i++) values *= recipe->shape[i];
    return values;
}

static int64_t row_count(const struct recipe *recipe) {
    return recipe->rank > 1 ? recipe->shape[0] : 1;
}

static int64_t last_axis(const struct recipe *recipe) {
    return recipe->rank > 0 ? recipe->shape[recipe->rank - 1] : 1;
}

static bool is_whole(const struct tensor *tensor) {
    return tensor->type >= DTYPE_I8 && tensor->type <= DTYPE_BOOL;
}

// Types in which limn keeps what must stay fine.
static enum dtype plain_type(enum dtype source, enum dtype wanted) {
    if (wanted == DTYPE_F32 || wanted == DTYPE_F16 || wanted == DTYPE_BF16) return wanted;
    return source == DTYPE_F32 || source == DTYPE_F16 ? source : DTYPE_BF16;
}

static enum dtype type_of(const struct convert_job *job, const struct recipe *recipe) {
    const enum dtype source = recipe->parts[0].entry->tensor.type;
    const bool plain = dtype_info(job->type)->block_values == 1;
    if (is_whole(&recipe->parts[0].entry->tensor)) return source;
    if (job->keep_plain && (source == DTYPE_F32 || source == DTYPE_F16 || source == DTYPE_BF16))
        return source;
    if (recipe->kind == RECIPE_VECTOR) {
        if (job->format == WEIGHTS_GGUF || source == DTYPE_F32) return DTYPE_F32;
        return plain_type(source, job->type);
    }
    if (recipe->kind == RECIPE_SENSITIVE) return plain_type(source, job->type);
    if (encode_has_scales(job->type)) // of which GGUF has none
        return recipe->kind == RECIPE_LARGE && scaled_fits(recipe, job->type) ? job->type
                                                                              : plain_type(source, job->type);
    if (plain) return job->type;
    enum dtype type = job->type;
    if (recipe->kind == RECIPE_TOKENS) type = DTYPE_Q8_0;
    if (last_axis(recipe) % dtype_info(type)->block_values != 0) type = DTYPE_Q8_0;
    if (last_axis(recipe) % dtype_info(type)->block_values != 0) type = DTYPE_BF16;
    return type;
}

// Whole numbers count something and are kept; a matrix of them is none that limn could read.
static bool check_real(const struct recipe *recipe, struct error *error) {
    for (int i = 0; i < recipe->part_count; i++) {
        const struct checkpoint_entry *entry = recipe->parts[i].entry;
        if (is_whole(&entry->tensor) && entry->tensor.rank > 1)
            return error_set(error, ERROR_UNSUPPORTED,
                             "%s: %s is stored as %s, expected a type of real numbers", entry->file,
                             entry->name, dtype_info(entry->tensor.type)->name);
    }
    return true;
}

// Says which source the output is made of, so that a .part of another one is not gone on with.
static const char *identity(struct plan *plan, const struct convert_job *job) {
    uint64_t hash = 1469598103934665603u; // FNV-1a over names, types, places and a few bytes of each tensor
    for (int64_t i = 0; i < checkpoint_count(job->from); i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(job->from, i);
        const uint8_t *data = entry->tensor.data;
        const size_t step = entry->tensor.bytes / 16 + 1;
        for (const char *c = entry->name; *c; c++) hash = (hash ^ (uint8_t)*c) * 1099511628211u;
        hash = (hash ^ (uint64_t)entry->tensor.type) * 1099511628211u;
        for (size_t at = 0; at < entry->tensor.bytes; at += step) hash = (hash ^ data[at]) * 1099511628211u;
    }
    for (int i = 0; i < job->lora_count; i++) {
        const struct lora *lora = job->loras[i].lora;
        for (int64_t b = 0; b < lora_branch_count(lora); b++) {
            const struct low_rank *branch = &lora_branch(lora, b)->low_rank;
            const uint8_t *data = branch->up.data;
            const size_t bytes = (size_t)branch->up.rows * branch->up.row_bytes, step = bytes / 16 + 1;
            for (size_t at = 0; at < bytes; at += step) hash = (hash ^ data[at]) * 1099511628211u;
        }
        hash = (hash ^ (uint64_t)(int64_t)lrintf(job->loras[i].scale * 65536)) * 1099511628211u;
    }
    return arena_printf(&plan->arena, "%016llx", (unsigned long long)hash);
}

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory to plan a conversion");
}

// The tensors that recipe [index] becomes.
static bool plan_tensors(struct plan *plan, const struct convert_job *job, int64_t index,
                         struct error *error) {
    const struct recipe *recipe = &plan->recipes[index];
    struct planned_tensor *tensors = &plan->tensors[plan->firsts[index]];
    int count = 1;
    if (!check_real(recipe, error)) return false;
    const enum dtype type = plan->types[index] = type_of(job, recipe);
    if (encode_has_scales(type)) {
        count = scaled_plan(recipe, type, job->row_scales, &plan->arena, tensors);
        if (count == 0) return no_memory(error);
    } else {
        *tensors = (struct planned_tensor){.name = recipe->name, .type = type, .rank = recipe->rank};
        memcpy(tensors->shape, recipe->shape, sizeof recipe->shape);
    }
    plan->firsts[index + 1] = plan->firsts[index] + count;
    return true;
}

static bool plan_make(struct plan *plan, const struct convert_job *job, struct error *error) {
    int64_t count;
    if (!recipes_make(job, &plan->arena, &plan->recipes, &count, error)) return false;
    plan->count = count;
    plan->firsts = arena_alloc(&plan->arena, (size_t)(count + 1) * sizeof *plan->firsts);
    plan->types = arena_alloc(&plan->arena, (size_t)count * sizeof *plan->types);
    plan->tensors = arena_alloc(&plan->arena, (size_t)count * SCALED_TENSORS_MOST * sizeof *plan->tensors);
    plan->metadata = arena_alloc(&plan->arena, (size_t)(job->metadata_count + 1) * sizeof *plan->metadata);
    const char *source = identity(plan, job);
    if (!plan->firsts || !plan->types || !plan->tensors || !plan->metadata || !source)
        return no_memory(error);
    plan->firsts[0] = 0;
    for (int64_t i = 0; i < count; i++)
        if (!plan_tensors(plan, job, i, error)) return false;
    for (int64_t i = 0; i < job->metadata_count; i++) plan->metadata[i] = job->metadata[i];
    plan->metadata[job->metadata_count] =
        (struct planned_metadata){.key = "limn.source", .kind = METADATA_TEXT, .text = source};
    plan->weights = (struct weights_plan){.format = job->format,
                                          .tensors = plan->tensors,
                                          .count = plan->firsts[count],
                                          .metadata = plan->metadata,
                                          .metadata_count = job->metadata_count + 1};
    plan->bytes = weights_plan_bytes(&plan->weights, error);
    return plan->bytes > 0;
}

json_t *convert_plain_modules(const struct convert_job *job, struct error *error) {
    struct plan plan = {0};
    static const char ending[] = ".weight";
    json_t *names = plan_make(&plan, job, error) ? json_array() : NULL;
    for (int64_t i = 0; names && i < plan.count; i++) {
        const struct recipe *recipe = &plan.recipes[i];
        const size_t length = strlen(recipe->name), tail = sizeof ending - 1;
        if (recipe->rank != 2 || recipe->kind == RECIPE_TOKENS || encode_has_scales(plan.types[i]) ||
            length <= tail || strcmp(recipe->name + length - tail, ending) != 0)
            continue;
        json_array_append_new(names, json_stringn(recipe->name, length - tail));
    }
    if (plan.bytes > 0 && !names) no_memory(error);
    arena_free(&plan.arena);
    return names;
}

uint64_t convert_bytes(const struct convert_job *job, struct error *error) {
    struct plan plan = {0};
    plan_make(&plan, job, error);
    arena_free(&plan.arena);
    return plan.bytes;
}

// ---------------------------------------------------------------------------------------------------------------- rows

// Where a row of the output comes from.
static const struct recipe_part *source_of(const struct recipe *recipe, int64_t row, int64_t *source) {
    if (recipe->head_dim) {
        const int64_t half = recipe->head_dim / 2, at = row % recipe->head_dim;
        row += (recipe->to_pairs ? at / 2 + at % 2 * half : at % half * 2 + at / half) - at;
    }
    const struct recipe_part *part = recipe->parts;
    for (; row >= part->rows; part++) row -= part->rows;
    *source = part->first + row;
    return part;
}

struct piece {
    const struct convert_job *job;
    const struct recipe *recipe;
    enum dtype type;
    int64_t first, rows;          // of the output
    int64_t values;               // of a row
    bool copies;                  // the stored bytes are taken as they are
    struct scaled_matrix *scaled; // NULL: scales stand in the rows, or there are none
    float *decoded;               // [rows, values]
    char *encoded;
    size_t row_bytes;
    float *most; // [rows]: the largest magnitude; infinite where a value cannot be encoded
};

static void piece_row(void *context, int64_t index, int worker) {
    struct piece *piece = context;
    int64_t source;
    const struct recipe_part *part = source_of(piece->recipe, piece->first + index, &source);
    const struct tensor *tensor = &part->entry->tensor;
    char *to = piece->encoded + (size_t)index * piece->row_bytes;
    (void)worker;
    if (piece->copies) {
        memcpy(to, (const char *)tensor->data + (size_t)source * piece->row_bytes, piece->row_bytes);
        return;
    }
    tensor_decode_row(tensor, source, piece->decoded + index * piece->values);
}

static void measure_row(void *context, int64_t index, int worker) {
    struct piece *piece = context;
    const float *row = piece->decoded + index * piece->values;
    // F16: what still rounds to a finite half.
    const float limit = piece->type == DTYPE_F16 ? 65519.0f : piece->scaled ? ENCODE_SCALED_MOST : FLT_MAX;
    (void)worker;
    bool good = true;
    float most = 0;
    for (int64_t i = 0; i < piece->values; i++) {
        good &= fabsf(row[i]) <= limit;
        most = fabsf(row[i]) > most ? fabsf(row[i]) : most;
    }
    piece->most[index] = good ? most : INFINITY;
}

static bool touched(const struct convert_job *job, const struct recipe *recipe) {
    return job->lora_count > 0 && recipe->kind != RECIPE_VECTOR;
}

// The scale that a row of the source has in the very type that is wanted, so that its codes stay; 0 where there is none.
static float kept_scale(const struct piece *piece, int64_t row) {
    int64_t source;
    const struct tensor *tensor = &source_of(piece->recipe, row, &source)->entry->tensor;
    if (tensor->type != piece->type || touched(piece->job, piece->recipe)) return 0;
    const struct tensor_scales *scales = tensor->scales;
    const float scale = scales && scales->rows ? scales->rows[source * scales->row_stride] : 1;
    return scale >= FLT_MIN && scale <= ENCODE_SCALED_MOST ? scale : 0;
}

static void encode_row(void *context, int64_t index, int worker) {
    struct piece *piece = context;
    const float *row = piece->decoded + index * piece->values;
    char *to = piece->encoded + (size_t)index * piece->row_bytes;
    if (!piece->scaled) measure_row(context, index, worker);
    if (!isfinite(piece->most[index])) return;
    if (piece->scaled)
        scaled_encode_row(piece->scaled, piece->first + index, row, kept_scale(piece, piece->first + index),
                          (uint8_t *)to);
    else if (!dtype_encode(piece->type, row, to, piece->values))
        piece->most[index] = INFINITY;
}

// Adds the LoRAs to the piece's rows: they know the places in the transformer by the source's names.
static bool add_loras(const struct piece *piece, struct error *error) {
    const struct convert_job *job = piece->job;
    for (int64_t at = 0, count; at < piece->rows; at += count) {
        int64_t source;
        const struct recipe_part *part = source_of(piece->recipe, piece->first + at, &source);
        const int64_t left = part->first + part->rows - source;
        struct lora_place place;
        char name[200];
        const size_t length = strlen(part->entry->name), ending = sizeof ".weight" - 1;
        count = left < piece->rows - at ? left : piece->rows - at;
        if (length <= ending || length - ending >= sizeof name) continue;
        snprintf(name, sizeof name, "%.*s", (int)(length - ending), part->entry->name);
        if (!lora_place_find(name, job->lora_shape, &place)) continue;
        if (part->entry->halves_swapped) place.swapped = true;
        for (int i = 0; i < job->lora_count; i++)
            if (!lora_merge_rows(job->loras[i].lora, &place, job->loras[i].scale, source, count,
                                 piece->decoded + at * piece->values, error))
                return false;
    }
    return true;
}

static bool check_piece(const struct piece *piece, struct error *error) {
    for (int64_t i = 0; i < piece->rows; i++)
        if (!isfinite(piece->most[i]))
            return error_set(error, ERROR_INPUT,
                             "%s: %s has a value in row %lld that is not finite or too large for %s",
                             piece->recipe->parts[0].entry->file, piece->recipe->source,
                             (long long)(piece->first + i), dtype_info(piece->type)->name);
    return true;
}

// The values of the piece's rows, LoRAs included.
static bool load_piece(struct piece *piece, struct error *error) {
    pool_for(piece->job->pool, piece->rows, piece_row, piece);
    return piece->job->lora_count == 0 || add_loras(piece, error);
}

// Fills piece->encoded.
static bool encode_piece(struct piece *piece, struct error *error) {
    if (piece->copies) {
        pool_for(piece->job->pool, piece->rows, piece_row, piece);
        return true;
    }
    if (!load_piece(piece, error)) return false;
    if (piece->scaled) pool_for(piece->job->pool, piece->rows, measure_row, piece);
    pool_for(piece->job->pool, piece->rows, encode_row, piece);
    return check_piece(piece, error);
}

// A conversion on its way.
struct conversion {
    const struct convert_job *job;
    const struct plan *plan;
    struct weights_writer *writer;
    uint64_t done;
};

static bool go_on(const struct conversion *conversion, const struct recipe *recipe, struct error *error) {
    const struct convert_job *job = conversion->job;
    return !job->progress ||
           job->progress(job->context, recipe->name, conversion->done, conversion->plan->bytes) ||
           error_set(error, ERROR_CANCELLED, "stopped; the same command goes on from here");
}

// The largest magnitude of a whole matrix goes to its scales.
static bool measure_matrix(const struct conversion *conversion, struct piece *piece, int64_t rows,
                           int64_t together, struct error *error) {
    float most = 0, kept = kept_scale(piece, 0);
    for (piece->first = 0; piece->first < rows; piece->first += piece->rows) {
        piece->rows = rows - piece->first < together ? rows - piece->first : together;
        if (!go_on(conversion, piece->recipe, error) || !load_piece(piece, error)) return false;
        pool_for(piece->job->pool, piece->rows, measure_row, piece);
        if (!check_piece(piece, error)) return false;
        for (int64_t i = 0; i < piece->rows; i++) {
            most = piece->most[i] > most ? piece->most[i] : most;
            if (kept_scale(piece, piece->first + i) != kept) kept = 0;
        }
    }
    scaled_set_most(piece->scaled, most, kept);
    return true;
}

static bool write_beside(struct conversion *conversion, const struct scaled_matrix *scaled, int64_t first,
                         int count, struct error *error) {
    for (int i = 1; i < count; i++) {
        size_t bytes;
        const void *data = scaled_beside(scaled, i, &bytes);
        if (first + i < weights_writer_next(conversion->writer)) continue; // there since an earlier run
        if (!weights_writer_add(conversion->writer, data, bytes, error)) return false;
        conversion->done += bytes;
    }
    return true;
}

// Of a matrix with scales beside it all tensors from the writer's next one on: where the codes are there since an earlier run
// they are made again for the scales' sake, and dropped.
static bool convert_rows(struct conversion *conversion, struct piece *piece, int64_t index,
                         struct error *error) {
    const struct plan *plan = conversion->plan;
    const int64_t first = plan->firsts[index], rows = row_count(piece->recipe);
    const int64_t together = piece->values < PIECE_VALUES ? PIECE_VALUES / piece->values : 1;
    const bool writes = weights_writer_next(conversion->writer) == first;
    if (piece->scaled && scaled_wants_most(piece->scaled) &&
        !measure_matrix(conversion, piece, rows, together, error))
        return false;
    for (piece->first = 0; piece->first < rows; piece->first += piece->rows) {
        piece->rows = rows - piece->first < together ? rows - piece->first : together;
        const size_t bytes = (size_t)piece->rows * piece->row_bytes;
        if (!go_on(conversion, piece->recipe, error) || !encode_piece(piece, error) ||
            (writes && !weights_writer_add(conversion->writer, piece->encoded, bytes, error)))
            return false;
        if (writes) conversion->done += bytes;
    }
    return !piece->scaled ||
           write_beside(conversion, piece->scaled, first, (int)(plan->firsts[index + 1] - first), error);
}

static bool convert_recipe(struct conversion *conversion, int64_t index, struct error *error) {
    const struct convert_job *job = conversion->job;
    const struct plan *plan = conversion->plan;
    const struct recipe *recipe = &plan->recipes[index];
    const int64_t values = row_values(recipe), first = plan->firsts[index];
    int64_t most = values < PIECE_VALUES ? PIECE_VALUES / values : 1;
    if (most > row_count(recipe)) most = row_count(recipe);
    struct piece piece = {.job = job, .recipe = recipe, .type = plan->types[index], .values = values};
    const bool scaled = encode_has_scales(piece.type);
    piece.copies = !scaled && !touched(job, recipe);
    for (int i = 0; i < recipe->part_count; i++)
        piece.copies &=
            recipe->parts[i].entry->tensor.type == piece.type && !recipe->parts[i].entry->tensor.scales;
    piece.row_bytes = dtype_bytes(piece.type, values);
    piece.encoded = malloc((size_t)most * piece.row_bytes + 1);
    piece.decoded = piece.copies ? NULL : malloc((size_t)(most * values) * sizeof(float) + 1);
    piece.most = malloc((size_t)most * sizeof *piece.most + 1);
    if (scaled)
        piece.scaled = scaled_open(recipe, piece.type, job->row_scales, &plan->tensors[first],
                                   (int)(plan->firsts[index + 1] - first));
    bool good =
        (piece.encoded && piece.most && (piece.copies || piece.decoded) && (piece.scaled || !scaled)) ||
        error_set(error, ERROR_MEMORY, "not enough memory to convert %s", recipe->source);
    good = good && convert_rows(conversion, &piece, index, error);
    scaled_close(piece.scaled);
    free(piece.encoded);
    free(piece.decoded);
    free(piece.most);
    return good;
}

bool convert_weights(const struct convert_job *job, const char *path, struct error *error) {
    struct plan plan = {0};
    if (!plan_make(&plan, job, error) || weights_plan_done(&plan.weights, path)) {
        const bool done = plan.bytes > 0;
        arena_free(&plan.arena);
        return done;
    }
    if (file_exists(path)) {
        arena_free(&plan.arena);
        return error_set(error, ERROR_INPUT,
                         "%s: is there already and is not what this conversion writes; expected a new path",
                         path);
    }
    struct conversion conversion = {
        .job = job, .plan = &plan, .writer = weights_writer_open(path, &plan.weights, error)};
    bool good = conversion.writer != NULL;
    for (int64_t i = 0; good && i < weights_writer_next(conversion.writer); i++)
        conversion.done += planned_tensor_bytes(&plan.tensors[i]);
    for (int64_t i = 0; good && i < plan.count; i++)
        if (weights_writer_next(conversion.writer) < plan.firsts[i + 1])
            good = convert_recipe(&conversion, i, error);
    good = good && weights_writer_finish(conversion.writer, error);
    weights_writer_close(conversion.writer);
    checkpoint_release_pages(job->from);
    arena_free(&plan.arena);
    return good;
}
