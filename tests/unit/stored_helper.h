// Random weights of any stored type in memory of exactly their size, with what the plain decoders make of them.
#ifndef LIMN_TESTS_STORED_HELPER_H
#define LIMN_TESTS_STORED_HELPER_H

#include "tensor/block.h"
#include "tensor/stored.h"

#include "unit.h"

// A small generator of its own: the same numbers everywhere.
struct random {
    uint64_t state;
};

static inline uint32_t random_bits(struct random *random) {
    random->state = random->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random->state >> 32);
}

static inline float random_uniform(struct random *random) { // [-1, 1)
    return (float)((double)(random_bits(random) >> 8) / (1 << 23) - 1);
}

static const enum dtype stored_types[] = {
    DTYPE_F32,  DTYPE_F16,   DTYPE_BF16,   DTYPE_F8_E4M3, DTYPE_F8_E5M2, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0,
    DTYPE_Q5_1, DTYPE_Q8_0,  DTYPE_Q2_K,   DTYPE_Q3_K,    DTYPE_Q4_K,    DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_NF4,
    DTYPE_NF4,  DTYPE_NVFP4, DTYPE_IQ4_NL, DTYPE_IQ4_XS,  DTYPE_NF4,     DTYPE_NF4,
};
enum {
    STORED_TYPES = sizeof stored_types / sizeof *stored_types,
    STORED_NESTED = 16, // the second NF4 is nested
    STORED_WIDE = 20,   // the third has blocks of 128 values, and is nested, too
    STORED_NARROW = 21, // the fourth has blocks of 32
};

struct stored_weights {
    enum dtype type;
    int64_t rows, cols;
    char *data; // [rows] rows, at [offset] bytes behind the start of their memory
    size_t row_bytes, offset;
    struct tensor_scales scales;
    bool has_scales;
    float *values; // [rows, cols]
};

static inline void *stored_exactly(size_t bytes) {
    void *memory = malloc(bytes);
    assert_non_null(memory);
    return memory;
}

static inline void stored_fill(struct random *random, void *to, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) ((uint8_t *)to)[i] = (uint8_t)random_bits(random);
}

// Where the halves of a block stand; -1 for none.
static inline void stored_halves(enum dtype type, int places[2]) {
    const bool two = type == DTYPE_Q4_1 || type == DTYPE_Q5_1 || type == DTYPE_Q4_K || type == DTYPE_Q5_K;
    places[0] = type == DTYPE_Q2_K ? 80 : type == DTYPE_Q3_K ? 108 : type == DTYPE_Q6_K ? 208 : 0;
    places[1] = type == DTYPE_Q2_K ? 82 : two ? 2 : -1;
}

// Values of about 1, or (wild) whatever the bytes say: infinities, NaN, denormals.
static inline void stored_row_bytes(struct random *random, const struct stored_weights *weights, bool wild,
                                    char *row) {
    const struct dtype_info *info = dtype_info(weights->type);
    stored_fill(random, row, weights->row_bytes);
    for (int64_t i = 0; i < weights->cols && !wild; i++) {
        const float value = random_uniform(random);
        const uint16_t half = f32_to_f16(value), brain = f32_to_bf16(value);
        if (weights->type == DTYPE_F32) memcpy(row + 4 * i, &value, 4);
        if (weights->type == DTYPE_F16) memcpy(row + 2 * i, &half, 2);
        if (weights->type == DTYPE_BF16) memcpy(row + 2 * i, &brain, 2);
        if (weights->type == DTYPE_F8_E4M3) row[i] &= (char)0xbf; // below 2
        if (weights->type == DTYPE_F8_E5M2) row[i] = (char)((row[i] & 0x83) | 0x30);
    }
    for (int64_t block = 0; block * info->block_values < weights->cols && block_has(weights->type) && !wild;
         block++) {
        int places[2];
        stored_halves(weights->type, places);
        for (int i = 0; i < 2 && places[i] >= 0; i++) {
            const bool groups = info->block_values == 256;
            const float size = weights->type == DTYPE_Q8_0 || weights->type == DTYPE_IQ4_NL   ? 0.008f
                               : weights->type == DTYPE_Q6_K || weights->type == DTYPE_IQ4_XS ? 0.0004f
                               : groups                                                       ? 0.002f
                                                                                              : 0.06f;
            const uint16_t half = f32_to_f16(size * (1 + 0.5f * random_uniform(random)));
            memcpy(row + block * info->block_bytes + places[i], &half, 2);
        }
    }
}

static inline void stored_nvfp4_scales(struct random *random, struct stored_weights *weights, bool wild) {
    struct tensor_scales *scales = &weights->scales;
    const int64_t rows = (scales->first_row + weights->rows + 127) / 128 * 128;
    scales->block_columns = (weights->cols / STORED_NVFP4_GROUP + 3) / 4 * 4;
    const size_t bytes = (size_t)(rows * scales->block_columns);
    uint8_t *codes = stored_exactly(bytes);
    stored_fill(random, codes, bytes);
    for (size_t i = 0; i < bytes && !wild; i++) codes[i] &= 0x37;
    scales->blocks = codes;
}

static inline void stored_nf4_scales(struct random *random, struct stored_weights *weights, bool wild,
                                     int kind) {
    const bool nested = kind == STORED_NESTED || kind == STORED_WIDE;
    struct tensor_scales *scales = &weights->scales;
    scales->block_values = kind == STORED_WIDE ? 128 : kind == STORED_NARROW ? 32 : 64;
    scales->nested_block = 16;
    const int64_t blocks = (scales->first_row + weights->rows) * weights->cols / scales->block_values;
    const int64_t nests = (blocks + scales->nested_block - 1) / scales->nested_block;
    float *absmax = stored_exactly((size_t)blocks * (nested ? 1 : 4)),
          *codebook = stored_exactly(16 * sizeof(float));
    for (int i = 0; i < 16; i++) codebook[i] = random_uniform(random);
    if (nested) stored_fill(random, absmax, (size_t)blocks);
    for (int64_t i = 0; i < blocks && !nested; i++)
        absmax[i] = wild && i % 2 ? 1e-39f * random_uniform(random) : 1.5f + random_uniform(random);
    scales->blocks = absmax;
    scales->codebook = codebook;
    if (!nested) return;
    float *values = stored_exactly(256 * sizeof *values),
          *second = stored_exactly((size_t)nests * sizeof *second);
    for (int i = 0; i < 256; i++) values[i] = random_uniform(random);
    for (int64_t i = 0; i < nests; i++) second[i] = 1.5f + random_uniform(random);
    scales->nested = true;
    scales->nested_values = values;
    scales->nested_scales = second;
    scales->nested_offset = 0.3f;
}

// kind: an index of stored_types. offset: how far the rows stand behind an aligned place.
static inline struct stored_weights stored_make(struct random *random, int kind, int64_t rows, int64_t cols,
                                                int64_t first_row, size_t offset, bool wild) {
    struct stored_weights weights = {
        .type = stored_types[kind], .rows = rows, .cols = cols, .offset = offset};
    weights.row_bytes = dtype_bytes(weights.type, cols);
    weights.data = (char *)stored_exactly((size_t)rows * weights.row_bytes + offset) + offset;
    weights.scales.first_row = first_row;
    weights.has_scales = weights.type == DTYPE_NVFP4 || weights.type == DTYPE_NF4;
    for (int64_t row = 0; row < rows; row++)
        stored_row_bytes(random, &weights, wild, weights.data + (size_t)row * weights.row_bytes);
    if (weights.type == DTYPE_NVFP4) stored_nvfp4_scales(random, &weights, wild);
    if (weights.type == DTYPE_NF4) stored_nf4_scales(random, &weights, wild, kind);
    return weights;
}

static inline struct tensor stored_tensor(const struct stored_weights *weights) {
    return (struct tensor){.type = weights->type,
                           .rank = 2,
                           .shape = {weights->rows, weights->cols},
                           .data = weights->data,
                           .bytes = (size_t)weights->rows * weights->row_bytes,
                           .scales = weights->has_scales ? &weights->scales : NULL};
}

// Fills and returns weights->values.
static inline const float *stored_values(struct stored_weights *weights) {
    const struct tensor tensor = stored_tensor(weights);
    weights->values = stored_exactly((size_t)(weights->rows * weights->cols) * sizeof *weights->values);
    for (int64_t row = 0; row < weights->rows; row++)
        assert_true(tensor_decode_row(&tensor, row, weights->values + row * weights->cols));
    return weights->values;
}

static inline void stored_drop(struct stored_weights *weights) {
    free(weights->data - weights->offset);
    free(weights->values);
    free((void *)weights->scales.blocks);
    free((void *)weights->scales.codebook);
    free((void *)weights->scales.nested_values);
    free((void *)weights->scales.nested_scales);
}

#endif
