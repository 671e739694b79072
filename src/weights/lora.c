// See lora.h. The keys are read into a list, which is sorted by what they change, so that a module's tensors stand side by side.
#include "weights/lora_inside.h"

#include "base/arena.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAMES_SHOWN = 3, NAME_SHOWN_MOST = 90 };

struct lora {
    struct checkpoint *checkpoint;
    struct lora_shape shape;
    struct lora_branch *branches;
    int64_t count;
    struct arena arena; // names, copies of tensors
    char *name;
    char warning[512];
};

// A tensor that changes something.
struct part {
    const struct checkpoint_entry *entry;
    struct lora_key key;
};

// The tensors of one module's change.
struct change {
    const struct part *down, *up, *alpha;
};

static bool no_memory(const struct lora *lora, struct error *error) {
    return error_set(error, ERROR_MEMORY, "%s: not enough memory for the LoRA", lora->name);
}

// --------------------------------------------------------------------------------------------------------- the keys

static int compare_parts(const void *a, const void *b) {
    const struct part *x = a, *y = b;
    const struct lora_place *p = &x->key.place, *q = &y->key.place;
    if (p->module != q->module) return p->module < q->module ? -1 : 1;
    if (p->block != q->block) return p->block < q->block ? -1 : 1;
    if (p->first != q->first) return p->first < q->first ? -1 : 1;
    if (p->rows != q->rows) return p->rows < q->rows ? -1 : 1;
    // Two spellings of one module are two changes, told apart by their names.
    const size_t least =
        x->key.module_length < y->key.module_length ? x->key.module_length : y->key.module_length;
    const int order = memcmp(x->key.module, y->key.module, least);
    if (order) return order;
    if (x->key.module_length != y->key.module_length)
        return x->key.module_length < y->key.module_length ? -1 : 1;
    if (x->key.kind != y->key.kind) return x->key.kind < y->key.kind ? -1 : 1;
    return strcmp(x->entry->name, y->entry->name);
}

static bool same_module(const struct part *x, const struct part *y) {
    return x->key.place.module == y->key.place.module && x->key.place.block == y->key.place.block &&
           x->key.place.first == y->key.place.first && x->key.place.rows == y->key.place.rows &&
           x->key.module_length == y->key.module_length &&
           !memcmp(x->key.module, y->key.module, x->key.module_length);
}

// Notes a tensor without effect; the first few by name.
static void note_unknown(struct lora *lora, const char *key, int64_t already) {
    if (already >= NAMES_SHOWN) return;
    const size_t used = strlen(lora->warning);
    snprintf(lora->warning + used, sizeof lora->warning - used, "%s\"%.*s\"", already ? ", " : "",
             NAME_SHOWN_MOST, key);
}

// Puts the count in front of the names and makes them printable.
static void finish_warning(struct lora *lora, int64_t unknown) {
    char names[sizeof lora->warning];
    struct error text = {0};
    if (unknown == 0) return;
    memcpy(names, lora->warning, sizeof names);
    error_set(&text, ERROR_INPUT,
              "%.100s: %lld tensor%s belong%s to no layer of this transformer and %s without effect: %s%s",
              lora->name, (long long)unknown, unknown == 1 ? "" : "s", unknown == 1 ? "s" : "",
              unknown == 1 ? "is" : "are", names, unknown > NAMES_SHOWN ? ", ..." : "");
    snprintf(lora->warning, sizeof lora->warning, "%s", text.message);
}

// Sorts the tensors that change something into [parts] (fresh, free()).
static struct part *read_keys(struct lora *lora, int64_t *count, struct error *error) {
    const int64_t all = checkpoint_count(lora->checkpoint);
    struct part *parts = calloc((size_t)all + 1, sizeof *parts);
    int64_t unknown = 0;
    bool good = parts || no_memory(lora, error);
    *count = 0;
    for (int64_t i = 0; i < all && good; i++) {
        const struct checkpoint_entry *entry = checkpoint_entry(lora->checkpoint, i);
        struct part part = {.entry = entry};
        lora_key_read(entry->name, &lora->shape, &part.key);
        if (part.key.kind == LORA_KEY_REFUSED)
            good = error_set(error, ERROR_UNSUPPORTED,
                             "%s: tensor \"%.120s\": the file holds %s, expected a LoRA of the transformer",
                             lora->name, entry->name, part.key.refused);
        else if (part.key.kind == LORA_KEY_BEYOND)
            good = error_set(error, ERROR_INPUT,
                             "%s: tensor \"%.120s\": the transformer has %lld double and %lld single blocks; "
                             "the LoRA is another model's",
                             lora->name, entry->name, (long long)lora->shape.double_blocks,
                             (long long)lora->shape.single_blocks);
        else if (part.key.kind == LORA_KEY_UNKNOWN)
            note_unknown(lora, entry->name, unknown++);
        else
            parts[(*count)++] = part;
    }
    if (good && *count == 0)
        good =
            error_set(error, ERROR_INPUT,
                      "%s: none of its %lld tensors belongs to a layer of this transformer%s%s%s; expected "
                      "names such as \"transformer.transformer_blocks.0.attn.to_q.lora_A.weight\"",
                      lora->name, (long long)all, unknown ? " (" : "", lora->warning, unknown ? ")" : "");
    if (!good) {
        free(parts);
        return NULL;
    }
    qsort(parts, (size_t)*count, sizeof *parts, compare_parts);
    finish_warning(lora, unknown);
    return parts;
}

// ---------------------------------------------------------------------------------------------------------- tensors

// Whether no value is a NaN or an infinity.
static bool all_finite(enum dtype type, const void *data, int64_t count) {
    uint32_t bad = 0;
    if (type == DTYPE_F32) {
        const uint32_t *bits = data;
        for (int64_t i = 0; i < count; i++) bad |= (bits[i] & 0x7f800000u) == 0x7f800000u;
    } else {
        const uint16_t mask = type == DTYPE_BF16 ? 0x7f80 : 0x7c00, *bits = data;
        for (int64_t i = 0; i < count; i++) bad |= (bits[i] & mask) == mask;
    }
    return !bad;
}

// Decoded and stored as the type that takes it without loss: fp8 as BF16, F64 (rounded) as F32.
static bool convert(struct lora *lora, const struct tensor *from, struct weight_rows *to,
                    struct error *error) {
    const int64_t cols = from->shape[1];
    const bool wide = from->type == DTYPE_F64;
    const size_t value_bytes = wide ? sizeof(float) : sizeof(uint16_t);
    char *copy = arena_alloc(&lora->arena, (size_t)(to->rows * cols) * value_bytes);
    float *row = malloc((size_t)cols * sizeof *row);
    if (!copy || !row) {
        free(row);
        return no_memory(lora, error);
    }
    for (int64_t r = 0; r < to->rows; r++) {
        dtype_decode(from->type, (const char *)from->data + dtype_bytes(from->type, r * cols), row, cols);
        char *at = copy + (size_t)(r * cols) * value_bytes;
        if (wide)
            memcpy(at, row, (size_t)cols * sizeof *row);
        else
            for (int64_t c = 0; c < cols; c++) ((uint16_t *)(void *)at)[c] = f32_to_bf16(row[c]);
    }
    free(row);
    to->data = copy;
    to->type = wide ? DTYPE_F32 : DTYPE_BF16;
    to->row_bytes = (size_t)cols * value_bytes;
    return true;
}

// The types that a matrix may be stored in; not GGUF's block types.
static bool is_plain(enum dtype type) {
    return type == DTYPE_F32 || type == DTYPE_F16 || type == DTYPE_BF16 || type == DTYPE_F64 ||
           type == DTYPE_F8_E4M3 || type == DTYPE_F8_E5M2;
}

// A matrix as rows that products read; [rows, cols], -1 accepts any that is not 0.
static bool get_matrix(struct lora *lora, const struct checkpoint_entry *entry, int64_t rows, int64_t cols,
                       struct weight_rows *to, struct error *error) {
    struct tensor tensor;
    int64_t shape[2] = {rows, cols};
    if (entry->tensor.rank == 4)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: tensor \"%.120s\": a LoRA of a convolution, expected two sides", lora->name,
                         entry->name);
    if (!checkpoint_get(lora->checkpoint, &tensor, 2, shape, error, "%s", entry->name)) return false;
    if (!is_plain(tensor.type) || tensor.scales)
        return error_set(error, ERROR_UNSUPPORTED,
                         "%s: tensor \"%.120s\" is stored as %s%s, expected F32, F16, BF16, F64 or fp8",
                         lora->name, entry->name, dtype_info(tensor.type)->name,
                         tensor.scales ? " with scales" : "");
    if (shape[0] == 0 || shape[1] == 0)
        return error_set(error, ERROR_INPUT, "%s: tensor \"%.120s\" is empty, expected a rank of 1 or more",
                         lora->name, entry->name);
    const size_t value_bytes = dtype_bytes(tensor.type, 1);
    *to = (struct weight_rows){.data = tensor.data,
                               .type = tensor.type,
                               .rows = shape[0],
                               .row_bytes = value_bytes * (size_t)shape[1]};
    if (value_bytes == 1 || tensor.type == DTYPE_F64) {
        if (!convert(lora, &tensor, to, error)) return false;
    } else if ((uintptr_t)tensor.data % value_bytes != 0) { // a file may place tensors at any byte
        void *copy = arena_alloc(&lora->arena, tensor.bytes);
        if (!copy) return no_memory(lora, error);
        to->data = memcpy(copy, tensor.data, tensor.bytes);
    }
    return all_finite(to->type, to->data, shape[0] * shape[1]) ||
           error_set(error, ERROR_INPUT, "%s: tensor \"%.120s\": a value is NaN or infinite", lora->name,
                     entry->name);
}

// alpha: one finite number of any type.
static bool get_alpha(const struct lora *lora, const struct checkpoint_entry *entry, double *alpha,
                      struct error *error) {
    const struct tensor *tensor = &entry->tensor;
    float value = 0;
    char shape[128];
    if (tensor_values(tensor) != 1)
        return error_set(error, ERROR_INPUT, "%s: tensor \"%.120s\": shape %s, expected one number",
                         lora->name, entry->name, tensor_shape_text(tensor, shape, sizeof shape));
    if (tensor->type == DTYPE_I32 || tensor->type == DTYPE_I64) {
        int64_t wide = 0;
        int32_t narrow = 0;
        memcpy(tensor->type == DTYPE_I64 ? (void *)&wide : &narrow, tensor->data, tensor->bytes);
        *alpha = tensor->type == DTYPE_I64 ? (double)wide : narrow;
        return true;
    }
    if (!is_plain(tensor->type) || !dtype_decode(tensor->type, tensor->data, &value, 1) || !isfinite(value))
        return error_set(error, ERROR_INPUT, "%s: tensor \"%.120s\": expected a finite number", lora->name,
                         entry->name);
    *alpha = (double)value;
    return true;
}

// ---------------------------------------------------------------------------------------------------------- changes

static void add(struct lora *lora, const struct lora_place *place, struct low_rank low_rank, int64_t from,
                int64_t rows, int64_t to) {
    low_rank.up.data = (const char *)low_rank.up.data + (size_t)from * low_rank.up.row_bytes;
    low_rank.up.rows = rows;
    low_rank.first_output = to;
    lora->branches[lora->count++] = (struct lora_branch){place->module, place->block, low_rank};
}

static bool add_change(struct lora *lora, const struct change *change, const struct lora_alphas *alphas,
                       struct error *error) {
    const struct part *any = change->down ? change->down : change->up ? change->up : change->alpha;
    if (!change->down || !change->up)
        return error_set(error, ERROR_INPUT, "%s: tensor \"%.120s\": its partner %s (%s) is missing",
                         lora->name, any->entry->name, change->down ? "lora_B" : "lora_A",
                         change->down ? "lora_up" : "lora_down");
    const struct lora_place *place = &any->key.place;
    struct low_rank low_rank = {0};
    if (!get_matrix(lora, change->down->entry, -1, place->in, &low_rank.down, error) ||
        !get_matrix(lora, change->up->entry, place->rows, low_rank.down.rows, &low_rank.up, error))
        return false;
    const int64_t rank = low_rank.down.rows;
    double scale = lora_alphas_scale(alphas, any->key.module, any->key.module_length, rank), alpha = 0;
    if (change->alpha) {
        if (!get_alpha(lora, change->alpha->entry, &alpha, error)) return false;
        scale = alpha / (double)rank;
    }
    low_rank.scale = (float)scale;
    if (!isfinite(low_rank.scale))
        return error_set(error, ERROR_INPUT, "%s: the alpha of \"%.120s\" is %g, expected a smaller number",
                         lora->name, any->entry->name, scale * (double)rank);
    const int64_t half = place->rows / 2;
    if (!place->swapped) {
        add(lora, place, low_rank, 0, place->rows, place->first);
        return true;
    }
    add(lora, place, low_rank, half, half, 0);
    add(lora, place, low_rank, 0, half, half);
    return true;
}

// Two changes of the same rows are two spellings of one, of which one is too many.
static bool check_overlap(const struct lora *lora, const struct part *before, const struct part *part,
                          struct error *error) {
    const struct lora_place *a = &before->key.place, *b = &part->key.place;
    if (a->module != b->module || a->block != b->block || b->first >= a->first + a->rows) return true;
    return error_set(error, ERROR_INPUT,
                     "%s: \"%.120s\" and \"%.120s\" change the same rows, expected one of them", lora->name,
                     before->entry->name, part->entry->name);
}

// Takes the tensors of one module from [part] on; *end is where the next one's begin.
static bool take_change(const struct lora *lora, const struct part *part, const struct part *behind,
                        struct change *change, const struct part **end, struct error *error) {
    *change = (struct change){0};
    const struct part *at = part;
    for (; at < behind && same_module(part, at); at++) {
        const struct part **to = at->key.kind == LORA_KEY_DOWN ? &change->down
                                 : at->key.kind == LORA_KEY_UP ? &change->up
                                                               : &change->alpha;
        if (*to)
            return error_set(error, ERROR_INPUT,
                             "%s: \"%.120s\" and \"%.120s\" are the same, expected one of them", lora->name,
                             (*to)->entry->name, at->entry->name);
        *to = at;
    }
    *end = at;
    return true;
}

static bool read_changes(struct lora *lora, const struct part *parts, int64_t count, struct error *error) {
    struct lora_alphas alphas;
    if (!lora_alphas_read(lora->name, lora->checkpoint, &alphas, error)) return false;
    lora->branches = calloc((size_t)count * 2, sizeof *lora->branches);
    bool good = lora->branches || no_memory(lora, error);
    const struct part *behind = parts + count, *before = NULL;
    for (const struct part *at = parts, *next = parts; good && at < behind; before = at, at = next) {
        struct change change;
        good = take_change(lora, at, behind, &change, &next, error) &&
               (!before || check_overlap(lora, before, at, error)) &&
               add_change(lora, &change, &alphas, error);
        if (!good) break;
    }
    lora_alphas_free(&alphas);
    return good;
}

// ------------------------------------------------------------------------------------------------------ open, close

struct lora *lora_read(const char *name, struct checkpoint *checkpoint, const struct lora_shape *shape,
                       struct error *error) {
    struct lora *lora = calloc(1, sizeof *lora);
    if (!lora) {
        error_set(error, ERROR_MEMORY, "%s: not enough memory for the LoRA", name);
        checkpoint_close(checkpoint);
        return NULL;
    }
    int64_t count = 0;
    lora->checkpoint = checkpoint;
    lora->shape = *shape;
    lora->name = arena_strdup(&lora->arena, name);
    struct part *parts = NULL;
    bool good = lora->name || error_set(error, ERROR_MEMORY, "%s: not enough memory for the LoRA", name);
    good = good && (parts = read_keys(lora, &count, error)) && read_changes(lora, parts, count, error);
    free(parts);
    if (good) return lora;
    lora_close(lora);
    return NULL;
}

struct lora *lora_open(const char *path, const struct lora_shape *shape, struct error *error) {
    struct checkpoint *checkpoint = checkpoint_open(path, error);
    return checkpoint ? lora_read(path, checkpoint, shape, error) : NULL;
}

void lora_close(struct lora *lora) {
    if (!lora) return;
    checkpoint_close(lora->checkpoint);
    free(lora->branches);
    arena_free(&lora->arena);
    free(lora);
}

const char *lora_warning(const struct lora *lora) {
    return lora->warning[0] ? lora->warning : NULL;
}

int64_t lora_branch_count(const struct lora *lora) {
    return lora->count;
}

const struct lora_branch *lora_branch(const struct lora *lora, int64_t index) {
    return &lora->branches[index];
}

int64_t lora_bytes(const struct lora *lora) {
    return checkpoint_summary(lora->checkpoint).bytes;
}

void lora_release_pages(const struct lora *lora) {
    checkpoint_release_pages(lora->checkpoint);
}

// ----------------------------------------------------------------------------------------------------------- merging

// rows [from, from + count) of up times down, added to [to].
static bool add_product(const struct low_rank *low_rank, float scale, int64_t in, int64_t from, int64_t count,
                        float *to) {
    const int64_t rank = low_rank->down.rows;
    float *down = malloc((size_t)(rank * in) * sizeof *down), *sum = malloc((size_t)in * sizeof *sum),
          *up = malloc((size_t)rank * sizeof *up);
    bool good = down && sum && up;
    for (int64_t k = 0; good && k < rank; k++)
        dtype_decode(low_rank->down.type,
                     (const char *)low_rank->down.data + (size_t)k * low_rank->down.row_bytes, down + k * in,
                     in);
    for (int64_t r = 0; good && r < count; r++) {
        dtype_decode(low_rank->up.type,
                     (const char *)low_rank->up.data + (size_t)(from + r) * low_rank->up.row_bytes, up, rank);
        memset(sum, 0, (size_t)in * sizeof *sum);
        for (int64_t k = 0; k < rank; k++)
            for (int64_t c = 0; c < in; c++) sum[c] += up[k] * down[k * in + c];
        for (int64_t c = 0; c < in; c++) to[r * in + c] += scale * sum[c];
    }
    free(down);
    free(sum);
    free(up);
    return good;
}

// Rows [begin, end) of the module stand in [rows] from row 0 on.
static bool merge_range(const struct lora *lora, const struct lora_place *place, float scale, int64_t begin,
                        int64_t end, float *rows) {
    for (int64_t i = 0; i < lora->count; i++) {
        const struct lora_branch *branch = &lora->branches[i];
        const struct low_rank *low_rank = &branch->low_rank;
        if (branch->module != place->module || branch->block != place->block) continue;
        const int64_t first = low_rank->first_output, behind = first + low_rank->up.rows;
        const int64_t from = begin > first ? begin : first, to = end < behind ? end : behind;
        if (from < to && !add_product(low_rank, scale * low_rank->scale, place->in, from - first, to - from,
                                      rows + (from - begin) * place->in))
            return false;
    }
    return true;
}

bool lora_merge_rows(const struct lora *lora, const struct lora_place *place, float scale, int64_t first,
                     int64_t count, float *rows, struct error *error) {
    if (scale == 0) return true;
    const int64_t half = place->rows / 2;
    bool good;
    if (!place->swapped) {
        good = merge_range(lora, place, scale, place->first + first, place->first + first + count, rows);
    } else { // each half stands where the other does
        const int64_t upper = first < half ? (first + count < half ? count : half - first) : 0;
        good = merge_range(lora, place, scale, half + first, half + first + upper, rows) &&
               merge_range(lora, place, scale, first + upper - half, first + count - half,
                           rows + upper * place->in);
    }
    return good || no_memory(lora, error);
}
