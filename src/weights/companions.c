// Finds the companions of quantised tensors and checks them. Relies on checkpoint_inside.h, base.
#include "weights/companions.h"
#include "base/json.h"
#include "weights/checkpoint_inside.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME_SIZE = 1200,
    JSON_MOST = 64 << 10,
    LAYERS_JSON_MOST = 32 << 20,
    NF4_CODES = 16,
    NESTED_CODES = 256
};

struct work {
    struct checkpoint *checkpoint;
    bool *used; // per entry: a companion, no entry of its own
    struct error *error;
};

// ------------------------------------------------------------------------------------------------------------ pieces

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), wanted = strlen(end);
    return length >= wanted && strcmp(text + length - wanted, end) == 0;
}

// The entry "[name of base without its last [cut] bytes][suffix]", which is thereby used. NULL when there is none.
static const struct checkpoint_entry *take(struct work *work, const char *base, size_t cut,
                                           const char *suffix) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%.*s%s", (int)(strlen(base) - cut), base, suffix);
    const struct checkpoint_entry *entry = checkpoint_find(work->checkpoint, name);
    if (entry) work->used[entry - work->checkpoint->entries] = true;
    return entry;
}

static bool wrong(struct work *work, const struct checkpoint_entry *entry, const char *expected) {
    char shape[128];
    return error_set(work->error, ERROR_INPUT, "%s: tensor \"%s\": %s of shape %s, expected %s", entry->file,
                     entry->name, dtype_info(entry->tensor.type)->name,
                     tensor_shape_text(&entry->tensor, shape, sizeof shape), expected);
}

static bool no_memory(struct work *work) {
    return error_set(work->error, ERROR_MEMORY, "%s: no memory for its scales", work->checkpoint->name);
}

// A small tensor as f32 in the arena, every value finite.
static const float *copy_floats(struct work *work, const struct checkpoint_entry *entry) {
    const struct tensor *tensor = &entry->tensor;
    int64_t count = tensor_values(tensor);
    float *values = arena_alloc(&work->checkpoint->arena, (size_t)count * sizeof *values);
    if (!values) {
        no_memory(work);
        return NULL;
    }
    bool plain = tensor->type == DTYPE_F32 || tensor->type == DTYPE_F16 || tensor->type == DTYPE_BF16;
    if (!plain || !dtype_decode(tensor->type, tensor->data, values, count)) {
        wrong(work, entry, "scales in F32, F16 or BF16");
        return NULL;
    }
    for (int64_t i = 0; i < count; i++) {
        if (isfinite(values[i])) continue;
        error_set(work->error, ERROR_INPUT, "%s: tensor \"%s\": value %lld is not a finite number",
                  entry->file, entry->name, (long long)i);
        return NULL;
    }
    return values;
}

// A large F32 tensor where it lies in the file, or copied where that is no place for floats.
static const float *map_floats(struct work *work, const struct checkpoint_entry *entry) {
    if ((uintptr_t)entry->tensor.data % sizeof(float) == 0) return entry->tensor.data;
    float *copy = arena_alloc(&work->checkpoint->arena, entry->tensor.bytes);
    if (!copy) {
        no_memory(work);
        return NULL;
    }
    memcpy(copy, entry->tensor.data, entry->tensor.bytes);
    return copy;
}

static struct tensor_scales *new_scales(struct work *work) {
    struct tensor_scales *scales = arena_alloc(&work->checkpoint->arena, sizeof *scales);
    if (!scales) no_memory(work);
    return scales;
}

static bool one_value(const struct tensor *tensor) {
    return tensor->rank <= 1 && tensor_values(tensor) == 1;
}

// ---------------------------------------------------------------------------------------------------------- scaled fp8

static bool attach_rows(struct work *work, struct checkpoint_entry *entry,
                        const struct checkpoint_entry *scale) {
    enum dtype type = entry->tensor.type;
    if (type != DTYPE_F8_E4M3 && type != DTYPE_F8_E5M2 && type != DTYPE_F16 && type != DTYPE_BF16 &&
        type != DTYPE_F32)
        return wrong(work, entry, "F8_E4M3 or F8_E5M2 beside a scale");
    const struct tensor *shape = &scale->tensor;
    int64_t rows = entry->tensor.rank > 0 ? entry->tensor.shape[0] : 1;
    bool one = one_value(shape) || (shape->rank == 2 && tensor_values(shape) == 1);
    bool row =
        shape->rank >= 1 && shape->rank <= 2 && shape->shape[0] == rows && tensor_values(shape) == rows;
    if (!one && !row) {
        char expected[80];
        snprintf(expected, sizeof expected, "one scale, or one a row: [%lld] or [%lld, 1]", (long long)rows,
                 (long long)rows);
        return wrong(work, scale, expected);
    }
    struct tensor_scales *scales = new_scales(work);
    if (!scales || !(scales->rows = copy_floats(work, scale))) return false;
    scales->row_stride = !one;
    entry->tensor.scales = scales;
    return true;
}

// --------------------------------------------------------------------------------------------------------------- NVFP4

static int64_t round_up(int64_t value, int64_t step) {
    return (value + step - 1) / step * step;
}

static bool attach_nvfp4(struct work *work, struct checkpoint_entry *entry,
                         const struct checkpoint_entry *blocks, const struct checkpoint_entry *whole) {
    struct tensor *tensor = &entry->tensor;
    char expected[120];
    if (tensor->type != DTYPE_U8 || tensor->rank != 2 || tensor->shape[1] % 8 != 0 || tensor->bytes == 0)
        return wrong(work, entry, "U8 [out, in / 2] for NVFP4, in a multiple of 16");
    if (!blocks || !whole)
        return error_set(
            work->error, ERROR_INPUT,
            "%s: tensor \"%s\": NVFP4 without %s, expected weight_scale and weight_scale_2 beside it",
            entry->file, entry->name, blocks ? "weight_scale_2" : "weight_scale");
    int64_t columns = round_up(tensor->shape[1] / 8, 4), rows = tensor->shape[0] + 127;
    rows = rows / 128 * 128;
    const struct tensor *scale = &blocks->tensor;
    if (scale->type != DTYPE_F8_E4M3 || scale->rank != 2 || scale->shape[0] != rows ||
        scale->shape[1] != columns) {
        snprintf(expected, sizeof expected, "F8_E4M3 [%lld, %lld], the block scales of NVFP4",
                 (long long)rows, (long long)columns);
        return wrong(work, blocks, expected);
    }
    if (!one_value(&whole->tensor)) return wrong(work, whole, "one scale");
    struct tensor_scales *scales = new_scales(work);
    if (!scales || !(scales->rows = copy_floats(work, whole))) return false;
    scales->blocks = scale->data;
    scales->block_columns = columns;
    tensor->type = DTYPE_NVFP4;
    tensor->shape[1] *= 2;
    tensor->scales = scales;
    return true;
}

// ----------------------------------------------------------------------------------------------------------------- nf4

struct nf4_state {
    int64_t shape[TENSOR_RANK_MOST], block, nested_block;
    int rank;
    bool nested;
    double nested_offset;
};

static bool read_state(struct work *work, const struct checkpoint_entry *from, struct nf4_state *state) {
    const char *kind = NULL;
    struct json_place place = {NULL, from->name};
    if (from->tensor.type != DTYPE_U8 || from->tensor.bytes > JSON_MOST)
        return wrong(work, from, "JSON in a U8 tensor of at most 64 KiB");
    json_t *json = json_parse(from->name, from->tensor.data, from->tensor.bytes, work->error);
    place.object = json;
    bool done = json && json_get_string(place, "quant_type", JSON_REQUIRED, &kind, work->error);
    if (done && strcmp(kind, "nf4") != 0)
        done = error_set(work->error, ERROR_UNSUPPORTED, "%s: quant_type \"%.40s\", expected \"nf4\"",
                         from->name, kind);
    state->nested =
        done && (json_object_get(json, "nested_blocksize") || json_object_get(json, "nested_offset"));
    enum json_need need = state->nested ? JSON_REQUIRED : JSON_OPTIONAL;
    done = done &&
           json_get_integer(place, "blocksize", JSON_REQUIRED, 2, 1 << 16, &state->block, work->error) &&
           json_get_integers(place, "shape", JSON_REQUIRED, 1, INT64_MAX, state->shape, TENSOR_RANK_MOST,
                             &state->rank, work->error) &&
           json_get_integer(place, "nested_blocksize", need, 1, 1 << 20, &state->nested_block, work->error) &&
           json_get_number(place, "nested_offset", need, -1e30, 1e30, &state->nested_offset, work->error);
    json_decref(json);
    return done || error_prefix(work->error, "%s", from->file);
}

// The values that [state] means; 0 when they overflow.
static int64_t state_values(const struct nf4_state *state) {
    int64_t values = 1;
    for (int i = 0; i < state->rank; i++)
        if (__builtin_mul_overflow(values, state->shape[i], &values)) return 0;
    return values;
}

static bool expect_floats(struct work *work, const struct checkpoint_entry *entry,
                          const struct checkpoint_entry *of, const char *suffix, enum dtype type,
                          int64_t count) {
    if (!entry)
        return error_set(work->error, ERROR_INPUT, "%s: tensor \"%s\": nf4 without \"%s%s\"", of->file,
                         of->name, of->name, suffix);
    if (entry->tensor.type == type && tensor_values(&entry->tensor) == count) return true;
    char expected[80];
    snprintf(expected, sizeof expected, "%lld values in %s", (long long)count, dtype_info(type)->name);
    return wrong(work, entry, expected);
}

static bool attach_nested(struct work *work, const struct checkpoint_entry *entry,
                          const struct nf4_state *state, int64_t blocks, struct tensor_scales *scales) {
    const struct checkpoint_entry *absmax = take(work, entry->name, 0, ".nested_absmax"),
                                  *map = take(work, entry->name, 0, ".nested_quant_map");
    int64_t count = (blocks + state->nested_block - 1) / state->nested_block;
    if (!expect_floats(work, absmax, entry, ".nested_absmax", DTYPE_F32, count) ||
        !expect_floats(work, map, entry, ".nested_quant_map", DTYPE_F32, NESTED_CODES))
        return false;
    scales->nested = true;
    scales->nested_block = state->nested_block;
    scales->nested_offset = (float)state->nested_offset;
    return (scales->nested_values = copy_floats(work, map)) &&
           (scales->nested_scales = map_floats(work, absmax));
}

static bool attach_nf4(struct work *work, struct checkpoint_entry *entry,
                       const struct checkpoint_entry *from) {
    struct nf4_state state = {0};
    if (!read_state(work, from, &state)) return false;
    struct tensor *tensor = &entry->tensor;
    int64_t values = state_values(&state), row = state.rank > 0 ? state.shape[state.rank - 1] : 0;
    if (tensor->type != DTYPE_U8 || values == 0 || values % 2 != 0 || tensor->bytes != (size_t)values / 2)
        return wrong(work, entry, "U8 codes, two a byte, for the shape in its quant_state");
    if (row % state.block != 0 || state.block % 2 != 0)
        return error_set(work->error, ERROR_UNSUPPORTED,
                         "%s: tensor \"%s\": nf4 with rows of %lld values, expected a multiple of its "
                         "blocksize, %lld, an even number",
                         entry->file, entry->name, (long long)row, (long long)state.block);
    const struct checkpoint_entry *absmax = take(work, entry->name, 0, ".absmax"),
                                  *map = take(work, entry->name, 0, ".quant_map");
    enum dtype type = state.nested ? DTYPE_U8 : DTYPE_F32;
    struct tensor_scales *scales = new_scales(work);
    if (!scales || !expect_floats(work, absmax, entry, ".absmax", type, values / state.block) ||
        !expect_floats(work, map, entry, ".quant_map", DTYPE_F32, NF4_CODES) ||
        !(scales->codebook = copy_floats(work, map)) ||
        (state.nested && !attach_nested(work, entry, &state, values / state.block, scales)))
        return false;
    scales->blocks = state.nested ? absmax->tensor.data : map_floats(work, absmax);
    if (!scales->blocks) return false;
    scales->block_values = state.block;
    tensor->type = DTYPE_NF4;
    tensor->rank = state.rank;
    memcpy(tensor->shape, state.shape, sizeof state.shape);
    tensor->scales = scales;
    return true;
}

// ------------------------------------------------------------------------------------------------------------- formats

// Holds a format's name against the type that the tensor has by now.
static bool check_format(struct work *work, const struct checkpoint_entry *entry, const char *format) {
    static const struct {
        const char *name;
        enum dtype type;
    } formats[] = {{"float8_e4m3fn", DTYPE_F8_E4M3}, {"float8_e5m2", DTYPE_F8_E5M2}, {"nvfp4", DTYPE_NVFP4}};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (strcmp(formats[i].name, format) != 0) continue;
        return entry->tensor.type == formats[i].type ||
               error_set(work->error, ERROR_INPUT,
                         "%s: tensor \"%s\": stored as %s, but its format is \"%s\"", entry->file,
                         entry->name, dtype_info(entry->tensor.type)->name, format);
    }
    return error_set(work->error, ERROR_UNSUPPORTED,
                     "%s: tensor \"%s\": the format \"%.40s\" is not one limn reads, expected float8_e4m3fn, "
                     "float8_e5m2 or nvfp4",
                     entry->file, entry->name, format);
}

// The description of a layer: {"format": NAME, ...}, or the name alone. Weights that were rotated before they were quantised
// ("convrot") would have to be turned back.
static bool check_layer(struct work *work, const struct checkpoint_entry *entry, const json_t *layer,
                        const char *name) {
    struct json_place place = {layer, name};
    const char *format = json_string_value(layer);
    bool rotated = false;
    if (!format && (!json_get_string(place, "format", JSON_REQUIRED, &format, work->error) ||
                    !json_get_bool(place, "convrot", JSON_OPTIONAL, &rotated, work->error)))
        return false;
    if (rotated)
        return error_set(work->error, ERROR_UNSUPPORTED,
                         "%s: tensor \"%s\": the format \"%.40s\" with \"convrot\" is not one limn reads",
                         entry->file, entry->name, format);
    return check_format(work, entry, format);
}

// X.comfy_quant.
static bool check_quant(struct work *work, const struct checkpoint_entry *entry,
                        const struct checkpoint_entry *quant) {
    if (quant->tensor.type != DTYPE_U8 || quant->tensor.bytes > JSON_MOST)
        return wrong(work, quant, "JSON in a U8 tensor of at most 64 KiB");
    json_t *json = json_parse(quant->name, quant->tensor.data, quant->tensor.bytes, work->error);
    bool done = json && check_layer(work, entry, json, quant->name);
    json_decref(json);
    return done || error_prefix(work->error, "%s", quant->file);
}

// The weight of a layer that the metadata names: as in the file, or without the prefix that the names have there.
static const struct checkpoint_entry *find_layer(const struct work *work, const char *layer) {
    static const char *const prefixes[] = {"", "model.diffusion_model.", "diffusion_model.", "model."};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        char name[NAME_SIZE];
        snprintf(name, sizeof name, "%s%s.weight", prefixes[i], layer);
        const struct checkpoint_entry *entry = checkpoint_find(work->checkpoint, name);
        if (entry) return entry;
    }
    return NULL;
}

// "_quantization_metadata": {"layers": {"X": {"format": ...}}}.
static bool check_metadata(struct work *work) {
    static const char key[] = "_quantization_metadata";
    const char *text = checkpoint_metadata(work->checkpoint, key);
    if (!text || work->checkpoint->is_gguf) return true;
    json_t *json = strlen(text) <= LAYERS_JSON_MOST ? json_parse(key, text, strlen(text), work->error) : NULL;
    const json_t *layers = NULL;
    bool done = json && json_get_object((struct json_place){json, key}, "layers", JSON_REQUIRED, &layers,
                                        work->error);
    const char *layer;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)layers, layer, value) {
        if (!done) break;
        const struct checkpoint_entry *entry = find_layer(work, layer);
        done = entry ? check_layer(work, entry, value, key)
                     : error_set(work->error, ERROR_INPUT,
                                 "%s: \"layers\" names \"%.80s\", but there is no tensor \"%.80s.weight\"",
                                 key, layer, layer);
    }
    json_decref(json);
    if (!json) error_set(work->error, ERROR_INPUT, "%s is no JSON object of at most 32 MB", key);
    return done || error_prefix(work->error, "%s", work->checkpoint->name);
}

// Parts of quantisations that limn does not read.
static bool check_strangers(struct work *work) {
    static const struct {
        const char *suffix, *what;
    } kinds[] = {
        {".SCB", "LLM.int8 of bitsandbytes"},
        {".quant_state.bitsandbytes__fp4", "fp4 of bitsandbytes"},
        {".qweight", "GPTQ, AWQ or SVDQuant"},
        {".qzeros", "GPTQ or AWQ"},
        {".weight_packed", "compressed-tensors"},
        {".weight_scale_inv", "fp8 with scales of 128x128 blocks"},
        {".weight_zero_point", "integers with zero points"},
    };
    for (int64_t i = 0; i < work->checkpoint->count; i++) {
        const struct checkpoint_entry *entry = &work->checkpoint->entries[i];
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
            if (ends_with(entry->name, kinds[k].suffix))
                return error_set(
                    work->error, ERROR_UNSUPPORTED,
                    "%s: tensor \"%s\": quantised as %s, expected scaled fp8, NVFP4, nf4 or GGUF",
                    entry->file, entry->name, kinds[k].what);
    }
    return true;
}

// ----------------------------------------------------------------------------------------------------------- attaching

static bool attach(struct work *work, struct checkpoint_entry *entry) {
    static const char weight[] = ".weight";
    const char *name = entry->name;
    if (strlen(name) >= NAME_SIZE - 64) return true;
    const struct checkpoint_entry *state = take(work, name, 0, ".quant_state.bitsandbytes__nf4");
    if (state) return attach_nf4(work, entry, state);
    if (!ends_with(name, weight)) return true;
    const size_t cut = sizeof weight - 1;
    const struct checkpoint_entry *scale = take(work, name, cut, ".weight_scale"),
                                  *old = take(work, name, cut, ".scale_weight"),
                                  *whole = take(work, name, cut, ".weight_scale_2"),
                                  *quant = take(work, name, cut, ".comfy_quant");
    take(work, name, cut, ".input_scale");
    take(work, name, cut, ".scale_input");
    if (scale && old)
        return error_set(work->error, ERROR_INPUT,
                         "%s: tensor \"%s\": has both weight_scale and scale_weight", entry->file, name);
    if (!scale) scale = old;
    bool done = true;
    if (whole || (scale && entry->tensor.type == DTYPE_U8))
        done = attach_nvfp4(work, entry, scale, whole);
    else if (scale)
        done = attach_rows(work, entry, scale);
    return done && (!quant || check_quant(work, entry, quant));
}

// Companions that no tensor asked for.
static bool check_orphans(struct work *work) {
    static const char *const suffixes[] = {
        ".weight_scale",  ".scale_weight",     ".weight_scale_2",
        ".comfy_quant",   ".weight.absmax",    ".weight.quant_map",
        ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4"};
    for (int64_t i = 0; i < work->checkpoint->count; i++) {
        const struct checkpoint_entry *entry = &work->checkpoint->entries[i];
        for (size_t k = 0; !work->used[i] && k < sizeof suffixes / sizeof *suffixes; k++)
            if (ends_with(entry->name, suffixes[k]))
                return error_set(work->error, ERROR_INPUT,
                                 "%s: tensor \"%s\" belongs to a tensor that is not there", entry->file,
                                 entry->name);
    }
    return true;
}

static bool is_sentinel(const char *name) {
    return strcmp(name, "scaled_fp8") == 0 || ends_with(name, ".scaled_fp8");
}

bool companions_attach(struct checkpoint *checkpoint, struct error *error) {
    struct work work = {checkpoint, calloc((size_t)checkpoint->count + 1, sizeof(bool)), error};
    if (!work.used) return no_memory(&work);
    bool done = check_strangers(&work);
    for (int64_t i = 0; done && i < checkpoint->count; i++) {
        if (is_sentinel(checkpoint->entries[i].name)) work.used[i] = true;
        done = attach(&work, &checkpoint->entries[i]);
    }
    done = done && check_orphans(&work) && check_metadata(&work);
    int64_t kept = 0;
    for (int64_t i = 0; done && i < checkpoint->count; i++)
        if (!work.used[i]) checkpoint->entries[kept++] = checkpoint->entries[i];
    if (done) checkpoint->count = kept;
    free(work.used);
    return done;
}

const char *companions_text(const struct tensor *tensor) {
    const struct tensor_scales *scales = tensor->scales;
    if (!scales) return NULL;
    if (tensor->type == DTYPE_NVFP4) return "NVFP4 blocks";
    if (tensor->type == DTYPE_NF4) return scales->nested ? "nested nf4 blocks" : "nf4 blocks";
    return scales->row_stride ? "a scale a row" : "one scale";
}
