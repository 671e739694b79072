// Stored rows of every type, decoded: the kernels of every instruction set that this machine has against the plain decoders, to
// the bit, in memory of exactly the rows' size. Types whose scales lie beside the codes come by way of a safetensors file made
// of the input, whose companions may have a wrong type or shape, or be missing. F32 is encoded as every type, too.
// Bytes: kind, rows, steps a row, alignment, the way a tensor is wrong, and which one, which is also where the second stretch
// begins; JSON of nf4 up to a NUL where that is the way; then everything's data, over and over.
#include "fuzz.h"

#include "tensor/block.h"
#include "tensor/cpu/gemm_isa.h"
#include "tensor/encode.h"
#include "tensor/encode_scaled.h"
#include "weights/checkpoint.h"
#include "weights/companions.h"

#include <float.h>
#include <math.h>

enum { HEAD = 6, ROWS_MOST = 140, VALUES_MOST = 4096, PIECES_MOST = 8 };

enum companions { NONE, SCALE, ROW_SCALES, NVFP4_SCALES, NF4_SCALES, NF4_NESTED };

static const struct kind {
    enum dtype type;
    enum companions companions;
} kinds[] = {
    {DTYPE_F32, NONE},        {DTYPE_F16, NONE},           {DTYPE_BF16, NONE},
    {DTYPE_F8_E4M3, NONE},    {DTYPE_F8_E5M2, NONE},       {DTYPE_Q4_0, NONE},
    {DTYPE_Q4_1, NONE},       {DTYPE_Q5_0, NONE},          {DTYPE_Q5_1, NONE},
    {DTYPE_Q8_0, NONE},       {DTYPE_Q2_K, NONE},          {DTYPE_Q3_K, NONE},
    {DTYPE_Q4_K, NONE},       {DTYPE_Q5_K, NONE},          {DTYPE_Q6_K, NONE},
    {DTYPE_IQ4_NL, NONE},     {DTYPE_IQ4_XS, NONE},        {DTYPE_F8_E4M3, SCALE},
    {DTYPE_F8_E5M2, SCALE},   {DTYPE_F8_E4M3, ROW_SCALES}, {DTYPE_F8_E5M2, ROW_SCALES},
    {DTYPE_BF16, ROW_SCALES}, {DTYPE_F16, SCALE},          {DTYPE_NVFP4, NVFP4_SCALES},
    {DTYPE_NF4, NF4_SCALES},  {DTYPE_NF4, NF4_NESTED},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

struct input {
    const uint8_t *data;
    size_t size, at;
};

// The next bytes, from the start again behind the end; zeros where there are none.
static void fill(struct input *input, uint8_t *to, size_t count) {
    for (size_t i = 0; i < count; i++) {
        to[i] = input->size ? input->data[input->at] : 0;
        if (input->size) input->at = (input->at + 1) % input->size;
    }
}

// ------------------------------------------------------------------------------------------------------------- encoding

static void promise_finite(const float *values, int count) {
    for (int i = 0; i < count; i++) promise(isfinite(values[i]));
}

// Any values at all: what an encoder takes is decoded to finite ones, not far from them where the scale is free.
static void check_encoders(const float *values) {
    uint8_t codes[4 * BLOCK_VALUES_MOST], scales[128 * BLOCK_VALUES_MOST / 16] = {0};
    float decoded[BLOCK_VALUES_MOST], absmax[BLOCK_VALUES_MOST / ENCODE_NF4_BLOCK], most = 0;
    bool within = true;
    for (int i = 0; i < BLOCK_VALUES_MOST; i++) {
        within &= fabsf(values[i]) <= ENCODE_SCALED_MOST;
        most = fabsf(values[i]) > most ? fabsf(values[i]) : most;
    }
    for (int type = DTYPE_NONE; type < DTYPE_COUNT; type++) {
        if (!dtype_encode((enum dtype)type, values, codes, BLOCK_VALUES_MOST)) continue;
        promise(dtype_decode((enum dtype)type, codes, decoded, BLOCK_VALUES_MOST));
        if (block_has((enum dtype)type)) promise_finite(decoded, BLOCK_VALUES_MOST);
    }
    static const enum dtype scaled[] = {DTYPE_F8_E4M3, DTYPE_F8_E5M2, DTYPE_NVFP4, DTYPE_NF4};
    for (int i = 0; i < 4 && within; i++) {
        const float scale = scaled[i] == DTYPE_NF4 ? 1 : encode_scale(scaled[i], most);
        const bool nf4 = scaled[i] == DTYPE_NF4, nvfp4 = scaled[i] == DTYPE_NVFP4;
        if (nf4) encode_nf4(values, BLOCK_VALUES_MOST, absmax, codes);
        if (nvfp4)
            encode_nvfp4_row(values, BLOCK_VALUES_MOST, most, scale, scales, BLOCK_VALUES_MOST / 16, 0,
                             codes);
        if (!nf4 && !nvfp4) encode_f8(scaled[i], values, BLOCK_VALUES_MOST, scale, codes);
        const struct tensor_scales beside = {.rows = &scale,
                                             .blocks = nf4 ? (const void *)absmax : scales,
                                             .block_columns = BLOCK_VALUES_MOST / 16,
                                             .block_values = ENCODE_NF4_BLOCK,
                                             .codebook = encode_nf4_codebook};
        const struct tensor tensor = {
            .type = scaled[i], .rank = 2, .shape = {1, BLOCK_VALUES_MOST}, .data = codes, .scales = &beside};
        promise(tensor_decode_row(&tensor, 0, decoded));
        for (int v = 0; v < BLOCK_VALUES_MOST; v++)
            promise(fabsf(decoded[v] - values[v]) <= 0.2f * most + FLT_MIN);
    }
}

// ------------------------------------------------------------------------------------------------------------- decoding

// Equal bits, or both NaN.
static void promise_same(const float *a, const float *b, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        promise(memcmp(a + i, b + i, sizeof *a) == 0 || (isnan(a[i]) && isnan(b[i])));
}

struct decoder {
    bool (*is_here)(void);
    void (*f32)(const struct stored_row *row, int64_t at, int64_t count, bool round, float *to);
    void (*bf16)(const struct stored_row *row, int64_t at, int64_t count, uint16_t *to);
};

#ifdef FUZZ_X86_DECODERS
// What the decoders call for plain types, whose conversion is no matter here: that of the products' files, which are not built.
static void convert_plainly(enum dtype type, const void *from, int64_t count, bool round, float *to) {
    promise(dtype_decode(type, from, to, count));
    for (int64_t i = 0; i < count && round; i++) to[i] = bf16_to_f32(f32_to_bf16(to[i]));
}

void gemm_convert_f32_avx2(enum dtype type, const void *from, int64_t count, bool round, float *to) {
    convert_plainly(type, from, count, round, to);
}

void gemm_convert_f32_avx512(enum dtype type, const void *from, int64_t count, bool round, float *to) {
    convert_plainly(type, from, count, round, to);
}

void gemm_convert_bf16_avx512bf16(enum dtype type, const void *from, int64_t count, uint16_t *to) {
    for (int64_t i = 0; i < count; i++) {
        float value;
        promise(dtype_decode(type, (const char *)from + dtype_bytes(type, i), &value, 1));
        to[i] = f32_to_bf16(value);
    }
}

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

static bool has_bf16(void) {
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif

static bool has_c(void) {
    return true;
}

static const struct decoder decoders[] = {
    {has_c, gemm_decode_f32_plain, NULL},
#ifdef FUZZ_X86_DECODERS
    {has_avx2, gemm_decode_f32_avx2, NULL},
    {has_avx512, gemm_decode_f32_avx512, NULL},
    {has_bf16, NULL, gemm_decode_bf16_avx512bf16},
#endif
};

static void check_stretch(const struct stored_row *row, int64_t at, int64_t count) {
    float *wanted = malloc((size_t)count * sizeof *wanted), *got = malloc((size_t)count * sizeof *got),
          *narrow = malloc((size_t)count * sizeof *narrow);
    uint16_t *elements = malloc((size_t)count * sizeof *elements);
    promise(wanted && got && narrow && elements);
    promise(stored_decode(row, at, count, wanted));
    for (int64_t i = 0; i < count; i++) narrow[i] = bf16_to_f32(f32_to_bf16(wanted[i]));
    for (size_t d = 0; d < sizeof decoders / sizeof *decoders; d++) {
        if (!decoders[d].is_here()) continue;
        if (decoders[d].f32) {
            decoders[d].f32(row, at, count, false, got);
            promise_same(got, wanted, count);
            decoders[d].f32(row, at, count, true, got);
            promise_same(got, narrow, count);
        }
        if (decoders[d].bf16) {
            decoders[d].bf16(row, at, count, elements);
            for (int64_t i = 0; i < count; i++) got[i] = bf16_to_f32(elements[i]);
            promise_same(got, narrow, count);
        }
    }
    free(wanted);
    free(got);
    free(narrow);
    free(elements);
}

// Some rows, whole and in two stretches. skip: steps that the second one begins behind the start.
static void check_tensor(const struct tensor *tensor, int skip) {
    const int64_t rows = tensor_rows(tensor), cols = tensor_cols(tensor), step = stored_step(tensor->type);
    const int64_t group = step < STORED_NVFP4_GROUP ? STORED_NVFP4_GROUP : step;
    for (int64_t r = 0; r < rows; r += r < 2 || r > rows - 3 ? 1 : 7) {
        const struct stored_row row = tensor_row(tensor, r);
        check_stretch(&row, 0, cols);
        const int64_t at = skip * group % cols / group * group;
        check_stretch(&row, at, cols - at);
        if (at > 0) check_stretch(&row, 0, at);
    }
}

// -------------------------------------------------------------------------------------------------------------- files

struct piece {
    char name[64];
    const char *type;
    int64_t rows, cols; // below 0: none
    size_t bytes;
    const char *text; // instead of data; NULL: data
};

struct file {
    struct piece pieces[PIECES_MOST];
    int count;
    uint8_t wrong, which; // what is wrong with piece [which]; 0: nothing
};

static void add(struct file *file, const char *name, enum dtype type, int64_t rows, int64_t cols,
                const char *text) {
    struct piece *piece = &file->pieces[file->count];
    const bool is_wrong = file->wrong && file->which % 8 == file->count++;
    *piece = (struct piece){.type = dtype_info(type)->name, .rows = rows, .cols = cols, .text = text};
    snprintf(piece->name, sizeof piece->name, "%s", name);
    if (is_wrong && file->wrong % 6 == 1) piece->name[0] = 'y'; // it is missing, and a stranger there
    if (is_wrong && file->wrong % 6 == 2) type = type == DTYPE_F32 ? DTYPE_F16 : DTYPE_F32;
    if (is_wrong && file->wrong % 6 == 3) piece->rows = rows < 0 ? 3 : rows + 1;
    if (is_wrong && file->wrong % 6 == 4) piece->cols = cols < 0 ? 1 : cols - 1;
    piece->type = dtype_info(type)->name;
    piece->bytes =
        dtype_bytes(type, (piece->rows < 0 ? 1 : piece->rows) * (piece->cols < 0 ? 1 : piece->cols));
}

static void plan(struct file *file, const struct kind *kind, int64_t rows, int64_t cols, const char *state) {
    const int64_t blocks = rows * cols / 64;
    switch (kind->companions) {
    case NVFP4_SCALES:
        add(file, "x.weight", DTYPE_U8, rows, cols / 2, NULL);
        add(file, "x.weight_scale", DTYPE_F8_E4M3, (rows + 127) / 128 * 128, (cols / 16 + 3) / 4 * 4, NULL);
        add(file, "x.weight_scale_2", DTYPE_F32, -1, -1, NULL);
        break;
    case NF4_SCALES:
    case NF4_NESTED:
        add(file, "x.weight", DTYPE_U8, rows * cols / 2, 1, NULL);
        add(file, "x.weight.quant_state.bitsandbytes__nf4", DTYPE_U8, (int64_t)strlen(state), -1, state);
        add(file, "x.weight.quant_map", DTYPE_F32, 16, -1, NULL);
        add(file, "x.weight.absmax", kind->companions == NF4_NESTED ? DTYPE_U8 : DTYPE_F32, blocks, -1, NULL);
        if (kind->companions == NF4_SCALES) break;
        add(file, "x.weight.nested_absmax", DTYPE_F32, (blocks + 7) / 8, -1, NULL);
        add(file, "x.weight.nested_quant_map", DTYPE_F32, 256, -1, NULL);
        break;
    default:
        add(file, "x.weight", kind->type, rows, cols, NULL);
        add(file, "x.weight_scale", DTYPE_F32, kind->companions == ROW_SCALES ? rows : -1, -1, NULL);
    }
}

// The file's bytes in fresh memory of exactly their size.
static uint8_t *build(const struct file *file, struct input *input, size_t *size) {
    char header[4096];
    size_t used = (size_t)snprintf(header, sizeof header, "{"), at = 0;
    for (int i = 0; i < file->count; i++) {
        const struct piece *piece = &file->pieces[i];
        char shape[64] = "";
        if (piece->rows >= 0 && piece->cols >= 0)
            snprintf(shape, sizeof shape, "%lld,%lld", (long long)piece->rows, (long long)piece->cols);
        else if (piece->rows >= 0 || piece->cols >= 0)
            snprintf(shape, sizeof shape, "%lld", (long long)(piece->rows >= 0 ? piece->rows : piece->cols));
        used += (size_t)snprintf(header + used, sizeof header - used,
                                 "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                                 i ? "," : "", piece->name, piece->type, shape, at, at + piece->bytes);
        at += piece->bytes;
    }
    used += (size_t)snprintf(header + used, sizeof header - used, "}");
    *size = 8 + used + at;
    uint8_t *bytes = malloc(*size), *to = bytes + 8 + used;
    promise(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)used >> 8 * i);
    memcpy(bytes + 8, header, used);
    for (int i = 0; i < file->count; i++) {
        const struct piece *piece = &file->pieces[i];
        fill(input, to, piece->bytes);
        if (piece->text)
            memcpy(to, piece->text, strlen(piece->text) < piece->bytes ? strlen(piece->text) : piece->bytes);
        to += piece->bytes;
    }
    return bytes;
}

static void run_file(struct file *file, struct input *input, int skip) {
    struct error error = {0};
    size_t size;
    uint8_t *bytes = build(file, input, &size);
    struct checkpoint *checkpoint = checkpoint_parse("fuzz", bytes, size, &error);
    if (checkpoint && companions_attach(checkpoint, &error)) {
        for (int64_t i = 0; i < checkpoint_count(checkpoint); i++) {
            const struct tensor *tensor = &checkpoint_entry(checkpoint, i)->tensor;
            if (tensor_values(tensor) == 0) continue;
            float *values = malloc((size_t)tensor_cols(tensor) * sizeof *values);
            promise(values);
            const bool whole = tensor->type >= DTYPE_F64 && tensor->type <= DTYPE_BOOL;
            for (int64_t row = 0; row < tensor_rows(tensor) && !whole; row++)
                promise(tensor_decode_row(tensor, row, values));
            if (!whole) check_tensor(tensor, skip);
            free(values);
        }
    } else {
        promise_explained(&error);
    }
    checkpoint_close(checkpoint);
    free(bytes);
}

static void run_blocks(enum dtype type, int64_t rows, int64_t cols, size_t offset, struct input *input,
                       int skip) {
    const size_t bytes = (size_t)rows * dtype_bytes(type, cols);
    uint8_t *memory = malloc(bytes + offset);
    promise(memory);
    fill(input, memory + offset, bytes);
    const struct tensor tensor = {
        .type = type, .rank = 2, .shape = {rows, cols}, .data = memory + offset, .bytes = bytes};
    check_tensor(&tensor, skip);
    free(memory);
    if (type != DTYPE_F32) return;
    float values[BLOCK_VALUES_MOST];
    fill(input, (uint8_t *)values, sizeof values);
    check_encoders(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t head[HEAD] = {0};
    char state[256];
    memcpy(head, data, size < HEAD ? size : HEAD);
    struct input input = {data + (size < HEAD ? size : HEAD), size < HEAD ? 0 : size - HEAD, 0};
    const struct kind *kind = &kinds[head[0] % KINDS];
    // Steps of a row: whole blocks; whole groups of NVFP4 and blocks of NF4; for plain types any number of values.
    const int64_t step = kind->type == DTYPE_NVFP4 ? STORED_NVFP4_GROUP
                         : kind->type == DTYPE_NF4 ? 64
                                                   : stored_step(kind->type);
    const int64_t cols = step * (1 + head[2] % (VALUES_MOST / 16 / step > 0 ? VALUES_MOST / 16 / step : 1));
    int64_t rows = 1 + head[1] % ROWS_MOST;
    if (kind->companions == NONE) {
        run_blocks(kind->type, 1 + rows % 3, cols, head[3] % 8, &input, head[5]);
        return 0;
    }
    snprintf(state, sizeof state, "{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[%lld,%lld]%s}",
             (long long)rows, (long long)cols,
             kind->companions == NF4_NESTED ? ",\"nested_blocksize\":8,\"nested_offset\":0.25" : "");
    if (head[4] && head[4] % 6 == 5) { // the input's own JSON
        const size_t most = input.size < sizeof state - 1 ? input.size : sizeof state - 1;
        const uint8_t *end = most ? memchr(input.data, 0, most) : NULL;
        const size_t length = end ? (size_t)(end - input.data) : most;
        if (length) memcpy(state, input.data, length);
        state[length] = 0;
        input.data += length;
        input.size -= length;
    }
    struct file file = {.wrong = head[4], .which = head[5]};
    // What stands in front shifts where the floats lie in memory.
    if (head[3] % 8) add(&file, "w", DTYPE_U8, head[3] % 8, -1, NULL);
    plan(&file, kind, rows, cols, state);
    run_file(&file, &input, head[5]);
    return 0;
}
