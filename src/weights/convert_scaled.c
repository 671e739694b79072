// The tensors of convert_scaled.h. Relies on tensor/encode_scaled.h.
#include "weights/convert_scaled.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// JSON is padded with spaces, so that what lies behind it in the file stays aligned.
enum { FORMAT_BYTES = 32, STATE_BYTES = 128 };

struct scaled_matrix {
    enum dtype type;
    bool row_scales;
    int64_t rows, cols;
    float most, scale; // of all rows
    const struct planned_tensor *tensors;
    int count;
    void *beside[SCALED_TENSORS_MOST]; // [0]: NULL
};

static const char weight[] = ".weight";

static int64_t round_up(int64_t value, int64_t step) {
    return (value + step - 1) / step * step;
}

bool scaled_fits(const struct recipe *recipe, enum dtype type) {
    static const char output[] = "lm_head.weight"; // which other programs never quantise
    const size_t length = strlen(recipe->name), tail = sizeof weight - 1, last = sizeof output - 1;
    if (length >= last && strcmp(recipe->name + length - last, output) == 0) return false;
    return recipe->rank == 2 && length > tail && strcmp(recipe->name + length - tail, weight) == 0 &&
           recipe->shape[1] % encode_scaled_step(type) == 0;
}

// ---------------------------------------------------------------------------------------------------------------- plans

struct planning {
    struct arena *arena;
    const char *name;
    struct planned_tensor *tensors;
    int count;
    bool failed;
};

// "[name without its last [cut] bytes][suffix]", of two dimensions at most: rows, or cols, below 0 are none.
static void add(struct planning *planning, size_t cut, const char *suffix, enum dtype type, int64_t rows,
                int64_t cols) {
    const int length = (int)(strlen(planning->name) - cut);
    const char *name = arena_printf(planning->arena, "%.*s%s", length, planning->name, suffix);
    planning->failed |= !name;
    planning->tensors[planning->count++] = (struct planned_tensor){
        .name = name, .type = type, .rank = (rows >= 0) + (cols >= 0), .shape = {rows >= 0 ? rows : 0, cols}};
}

int scaled_plan(const struct recipe *recipe, enum dtype type, bool row_scales, struct arena *arena,
                struct planned_tensor *tensors) {
    const int64_t rows = recipe->shape[0], cols = recipe->shape[1];
    const size_t tail = sizeof weight - 1;
    struct planning planning = {.arena = arena, .name = recipe->name, .tensors = tensors};
    if (type == DTYPE_NF4) {
        add(&planning, 0, "", DTYPE_U8, rows * cols / 2, 1);
        add(&planning, 0, ".absmax", DTYPE_F32, rows * cols / ENCODE_NF4_BLOCK, -1);
        add(&planning, 0, ".quant_map", DTYPE_F32, 16, -1);
        add(&planning, 0, ".quant_state.bitsandbytes__nf4", DTYPE_U8, STATE_BYTES, -1);
        return planning.failed ? 0 : planning.count;
    }
    if (type == DTYPE_NVFP4) {
        add(&planning, 0, "", DTYPE_U8, rows, cols / 2);
        add(&planning, tail, ".weight_scale", DTYPE_F8_E4M3, round_up(rows, 128),
            round_up(cols / STORED_NVFP4_GROUP, 4));
        add(&planning, tail, ".weight_scale_2", DTYPE_F32, -1, -1);
    } else {
        add(&planning, 0, "", type, rows, cols);
        add(&planning, tail, ".weight_scale", DTYPE_F32, row_scales ? rows : -1, row_scales ? 1 : -1);
    }
    add(&planning, tail, ".comfy_quant", DTYPE_U8, FORMAT_BYTES, -1);
    return planning.failed ? 0 : planning.count;
}

// --------------------------------------------------------------------------------------------------------------- making

// [text] with spaces behind it.
static void put_text(void *to, size_t bytes, const char *text) {
    memset(to, ' ', bytes);
    memcpy(to, text, strlen(text));
}

static void put_constants(struct scaled_matrix *matrix) {
    static const char *const formats[DTYPE_COUNT] = {
        [DTYPE_F8_E4M3] = "float8_e4m3fn", [DTYPE_F8_E5M2] = "float8_e5m2", [DTYPE_NVFP4] = "nvfp4"};
    const int last = matrix->count - 1;
    char text[STATE_BYTES];
    if (matrix->type == DTYPE_NF4) {
        memcpy(matrix->beside[2], encode_nf4_codebook, sizeof encode_nf4_codebook);
        snprintf(
            text, sizeof text,
            "{\"quant_type\": \"nf4\", \"blocksize\": %d, \"dtype\": \"bfloat16\", \"shape\": [%lld, %lld]}",
            ENCODE_NF4_BLOCK, (long long)matrix->rows, (long long)matrix->cols);
        put_text(matrix->beside[last], STATE_BYTES, text);
        return;
    }
    snprintf(text, sizeof text, "{\"format\": \"%s\"}", formats[matrix->type]);
    put_text(matrix->beside[last], FORMAT_BYTES, text);
}

struct scaled_matrix *scaled_open(const struct recipe *recipe, enum dtype type, bool row_scales,
                                  const struct planned_tensor *tensors, int count) {
    struct scaled_matrix *matrix = calloc(1, sizeof *matrix);
    bool good = matrix;
    if (good)
        *matrix = (struct scaled_matrix){.type = type,
                                         .row_scales = row_scales,
                                         .rows = recipe->shape[0],
                                         .cols = recipe->shape[1],
                                         .tensors = tensors,
                                         .count = count};
    for (int i = 1; i < count && good; i++)
        good = (matrix->beside[i] = calloc(1, planned_tensor_bytes(&tensors[i])));
    if (good) {
        put_constants(matrix);
        return matrix;
    }
    scaled_close(matrix);
    return NULL;
}

void scaled_close(struct scaled_matrix *matrix) {
    for (int i = 0; matrix && i < matrix->count; i++) free(matrix->beside[i]);
    free(matrix);
}

bool scaled_wants_most(const struct scaled_matrix *matrix) {
    return matrix->type == DTYPE_NVFP4 || (matrix->type != DTYPE_NF4 && !matrix->row_scales);
}

void scaled_set_most(struct scaled_matrix *matrix, float most, float kept) {
    const float scale = kept > 0 ? kept : encode_scale(matrix->type, most);
    // The blocks that hold the largest magnitude keep the largest scale; of a kept one nothing is known.
    matrix->most = kept > 0 ? INFINITY : most;
    matrix->scale = scale;
    memcpy(matrix->beside[matrix->type == DTYPE_NVFP4 ? 2 : 1], &scale, sizeof scale);
}

size_t scaled_row_bytes(const struct scaled_matrix *matrix) {
    return dtype_bytes(matrix->type, matrix->cols);
}

static float largest(const float *values, int64_t count) {
    float most = 0;
    for (int64_t i = 0; i < count; i++) most = fabsf(values[i]) > most ? fabsf(values[i]) : most;
    return most;
}

void scaled_encode_row(struct scaled_matrix *matrix, int64_t row, const float *values, float kept,
                       uint8_t *codes) {
    const int64_t cols = matrix->cols;
    if (matrix->type == DTYPE_NF4) {
        encode_nf4(values, cols, (float *)matrix->beside[1] + row * (cols / ENCODE_NF4_BLOCK), codes);
        return;
    }
    if (matrix->type == DTYPE_NVFP4) {
        encode_nvfp4_row(values, cols, matrix->most, matrix->scale, matrix->beside[1],
                         matrix->tensors[1].shape[1], row, codes);
        return;
    }
    float scale = matrix->scale;
    if (matrix->row_scales) {
        scale = kept > 0 ? kept : encode_scale(matrix->type, largest(values, cols));
        ((float *)matrix->beside[1])[row] = scale;
    }
    encode_f8(matrix->type, values, cols, scale, codes);
}

const void *scaled_beside(const struct scaled_matrix *matrix, int index, size_t *bytes) {
    *bytes = planned_tensor_bytes(&matrix->tensors[index]);
    return matrix->beside[index];
}
