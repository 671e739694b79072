// Stored weight types: decoders against the reference implementations (tests/fixtures/blocks.safetensors),
// and every instruction set's decoders against the plain ones, to the bit, in memory of exactly the rows' size.
#include "tensor/cpu/gemm.h"

#include "fixture.h"
#include "stored_helper.h"

#include <math.h>

// Equal bits, or both NaN.
static void assert_same(const float *got, const float *wanted, int64_t count, const char *what) {
    for (int64_t i = 0; i < count; i++)
        if (memcmp(got + i, wanted + i, sizeof *got) != 0 && !(isnan(got[i]) && isnan(wanted[i])))
            fail_msg("%s, value %lld: got %.9g, expected %.9g", what, (long long)i, got[i], wanted[i]);
}

// Bytes of a tensor in memory of exactly their size.
static void *copied(struct tensor tensor) {
    void *memory = malloc(tensor.bytes);
    assert_non_null(memory);
    return memcpy(memory, tensor.data, tensor.bytes);
}

static const enum dtype block_types[] = {
    DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q8_0,   DTYPE_Q2_K,
    DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS,
};
enum { BLOCK_TYPES = sizeof block_types / sizeof *block_types };

static void blocks_decode_as_the_reference_does(void **state) {
    struct checkpoint *fixture = fixture_open("blocks.safetensors");
    for (int i = 0; i < BLOCK_TYPES; i++) {
        const struct dtype_info *info = dtype_info(block_types[i]);
        const struct tensor blocks = fixture_tensor(fixture, DTYPE_U8, "%s.blocks", info->name);
        const struct tensor values = fixture_tensor(fixture, DTYPE_F32, "%s.values", info->name);
        const int64_t count = tensor_values(&values);
        assert_int_equal(blocks.shape[1], info->block_bytes);
        assert_int_equal(dtype_bytes(block_types[i], count), blocks.bytes);
        float *wanted = fixture_values(values), *got = malloc((size_t)count * sizeof *got);
        void *stored = copied(blocks);
        assert_true(dtype_decode(block_types[i], stored, got, count));
        assert_same(got, wanted, count, info->name);
        free(stored);
        free(wanted);
        free(got);
    }
    checkpoint_close(fixture);
}

static void every_small_float_decodes_as_the_reference_does(void **state) {
    struct checkpoint *fixture = fixture_open("blocks.safetensors");
    const enum dtype types[] = {DTYPE_F8_E4M3, DTYPE_F8_E5M2};
    uint8_t codes[256];
    float got[256];
    for (int i = 0; i < 256; i++) codes[i] = (uint8_t)i;
    for (int i = 0; i < 2; i++) {
        const char *name = dtype_info(types[i])->name;
        float *wanted = fixture_values(fixture_tensor(fixture, DTYPE_F32, "%s.values", name));
        assert_true(dtype_decode(types[i], codes, got, 256));
        assert_same(got, wanted, 256, name);
        free(wanted);
    }
    checkpoint_close(fixture);
}

// The rows of a tensor whose scales lie beside it, as a whole and as views of some of its rows.
static void check_rows(enum dtype type, struct tensor packed, struct tensor_scales *scales,
                       struct tensor values) {
    const int64_t cols = values.shape[1];
    float *wanted = fixture_values(values), *got = malloc((size_t)cols * sizeof *got);
    const float factors[] = {2, -0.5f, 3};
    for (int64_t first = 0; first < values.shape[0]; first = 2 * first + 1) {
        scales->first_row = first;
        struct tensor tensor = {.type = type,
                                .rank = 2,
                                .shape = {values.shape[0] - first, cols},
                                .data = (const char *)packed.data + dtype_bytes(type, first * cols),
                                .scales = scales};
        for (int64_t row = 0; row < tensor.shape[0]; row++) {
            assert_true(tensor_decode_row(&tensor, row, got));
            assert_same(got, wanted + (first + row) * cols, cols, dtype_info(type)->name);
            const struct stored_row stored = tensor_row(&tensor, row);
            assert_true(stored_decode(&stored, 34, 20, got)); // neither end is one of a block
            assert_same(got, wanted + (first + row) * cols + 34, 20, dtype_info(type)->name);
        }
        scales->rows = factors;
        scales->row_stride = 1;
        assert_true(tensor_decode_row(&tensor, tensor.shape[0] > 1 ? 1 : 0, got));
        const int64_t row = tensor.shape[0] > 1 ? 1 : 0;
        for (int64_t i = 0; i < cols; i++) {
            const float want = wanted[(first + row) * cols + i] * factors[row];
            assert_same(got + i, &want, 1, "scaled rows");
        }
        scales->rows = NULL;
    }
    free(wanted);
    free(got);
}

static void scales_beside_the_codes_are_found(void **state) {
    struct checkpoint *fixture = fixture_open("blocks.safetensors");
    const struct tensor nvfp4 = fixture_tensor(fixture, DTYPE_F32, "NVFP4.values");
    struct tensor_scales scales = {
        .blocks = fixture_tensor(fixture, DTYPE_U8, "NVFP4.scales").data,
        .block_columns = (nvfp4.shape[1] / STORED_NVFP4_GROUP + 3) / 4 * 4,
    };
    check_rows(DTYPE_NVFP4, fixture_tensor(fixture, DTYPE_U8, "NVFP4.packed"), &scales, nvfp4);

    float *codebook = fixture_values(fixture_tensor(fixture, DTYPE_F32, "NF4.codebook"));
    float *nested_values = fixture_values(fixture_tensor(fixture, DTYPE_F32, "NF4.nested.values"));
    float *nested_scales = fixture_values(fixture_tensor(fixture, DTYPE_F32, "NF4.nested.scales"));
    float *offset = fixture_values(fixture_tensor(fixture, DTYPE_F32, "NF4.nested.offset"));
    const struct tensor packed = fixture_tensor(fixture, DTYPE_U8, "NF4.packed");
    scales = (struct tensor_scales){.blocks = fixture_tensor(fixture, DTYPE_F32, "NF4.absmax").data,
                                    .block_values = 64,
                                    .codebook = codebook};
    check_rows(DTYPE_NF4, packed, &scales, fixture_tensor(fixture, DTYPE_F32, "NF4.values"));
    scales.nested = true;
    scales.blocks = fixture_tensor(fixture, DTYPE_U8, "NF4.nested.codes").data;
    scales.nested_values = nested_values;
    scales.nested_scales = nested_scales;
    scales.nested_block = 16;
    scales.nested_offset = offset[0];
    check_rows(DTYPE_NF4, packed, &scales, fixture_tensor(fixture, DTYPE_F32, "NF4.nested_values"));
    free(codebook);
    free(nested_values);
    free(nested_scales);
    free(offset);
    checkpoint_close(fixture);
}

// ------------------------------------------------------------------------------------------------------ vector kernels

static void check_stretch(const struct gemm_kernels *kernels, const struct stored_row *row, int64_t at,
                          int64_t count) {
    float *wanted = malloc((size_t)count * sizeof *wanted), *got = malloc((size_t)count * sizeof *got);
    uint16_t *narrow = malloc((size_t)count * sizeof *narrow);
    char what[64];
    snprintf(what, sizeof what, "%s on %s", dtype_info(row->type)->name, kernels->name);
    assert_true(stored_decode(row, at, count, wanted));
    kernels->decode_f32(row, at, count, false, got);
    assert_same(got, wanted, count, what);
    for (int64_t i = 0; i < count; i++) wanted[i] = bf16_to_f32(f32_to_bf16(wanted[i]));
    kernels->decode_f32(row, at, count, true, got);
    assert_same(got, wanted, count, what);
    if (kernels->has_bf16) {
        kernels->decode_bf16(row, at, count, narrow);
        for (int64_t i = 0; i < count; i++) got[i] = bf16_to_f32(narrow[i]);
        assert_same(got, wanted, count, what);
    }
    free(wanted);
    free(got);
    free(narrow);
}

// The last row ends where its memory does, and so does every stretch in memory of its own: a reader that goes beyond is
// caught by the address sanitizer.
static void check_kernels(const struct gemm_kernels *kernels, int kind, int64_t cols, size_t offset,
                          bool wild) {
    struct random random = {(uint64_t)(kind + 7 * cols)};
    struct stored_weights weights = stored_make(&random, kind, 3, cols, 129, offset, wild);
    const struct tensor tensor = stored_tensor(&weights);
    const int64_t step = stored_step(weights.type), group = step < 16 ? 16 : step;
    for (int64_t r = 0; r < 3; r++) {
        struct stored_row row = tensor_row(&tensor, r);
        check_stretch(kernels, &row, 0, cols);
        for (int64_t at = group; at < cols; at += group) check_stretch(kernels, &row, at, cols - at);
        for (int64_t count = step; count < cols && r == 2; count += group) {
            const size_t bytes = dtype_bytes(weights.type, count);
            char *part = (char *)stored_exactly(bytes + offset) + offset;
            memcpy(part, row.data, bytes);
            struct stored_row shorter = row;
            shorter.data = part;
            check_stretch(kernels, &shorter, 0, count);
            free(part - offset);
        }
    }
    stored_drop(&weights);
}

static void every_instruction_set_decodes_the_same(void **state) {
    for (int isa = CPU_PLAIN; isa <= (int)cpu_isa_best(); isa++) {
        const struct gemm_kernels *kernels = gemm_kernels_for((enum cpu_isa)isa);
        for (int kind = 0; kind < STORED_TYPES; kind++) {
            const int step = dtype_info(stored_types[kind])->block_values;
            const int64_t nf4 = kind == STORED_WIDE ? 384 : 192; // of whole blocks
            const int64_t cols = step == 256 ? 768 : stored_types[kind] == DTYPE_NF4 ? nf4 : 160;
            for (size_t offset = 0; offset < 4; offset++) {
                check_kernels(kernels, kind, cols, offset, false);
                check_kernels(kernels, kind, cols, offset, true);
            }
            if (stored_types[kind] == DTYPE_NVFP4) check_kernels(kernels, kind, 48, 1, false);
            if (step == 1) check_kernels(kernels, kind, 83, 1, true);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_decode_as_the_reference_does),
        cmocka_unit_test(every_small_float_decodes_as_the_reference_does),
        cmocka_unit_test(scales_beside_the_codes_are_found),
        cmocka_unit_test(every_instruction_set_decodes_the_same),
    };
    return cmocka_run_group_tests_name("stored", tests, NULL, NULL);
}
