// Encoders of the stored weight types: against the bytes and the errors of the reference implementations
// (tests/fixtures/blocks.safetensors, written by tests/reference/make_blocks.py), and against bounds.
#include "tensor/encode_scaled.h"

#include "tensor/encode.h"

#include "fixture.h"
#include "stored_helper.h"

#include <float.h>
#include <math.h>

static const enum dtype block_types[] = {
    DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q8_0,   DTYPE_Q2_K,
    DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS,
};
enum { BLOCK_TYPES = sizeof block_types / sizeof *block_types };

static void encoders_give_the_bytes_of_the_reference(void **state) {
    struct checkpoint *fixture = fixture_open("blocks.safetensors");
    const enum dtype types[] = {DTYPE_Q8_0, DTYPE_Q4_0,    DTYPE_Q4_1,   DTYPE_Q5_0,
                                DTYPE_Q5_1, DTYPE_F8_E4M3, DTYPE_F8_E5M2};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const char *name = dtype_info(types[i])->name;
        const struct tensor source = fixture_tensor(fixture, DTYPE_F32, "%s.source", name);
        const struct tensor wanted = fixture_tensor(fixture, DTYPE_U8, "%s.encoded", name);
        const int64_t count = tensor_values(&source);
        float *values = fixture_values(source);
        uint8_t *got = malloc(dtype_bytes(types[i], count));
        assert_true(dtype_encodes(types[i]) && dtype_encode(types[i], values, got, count));
        assert_int_equal(dtype_bytes(types[i], count), wanted.bytes);
        for (size_t at = 0; at < wanted.bytes; at++)
            if (got[at] != ((const uint8_t *)wanted.data)[at])
                fail_msg("%s, byte %zu: got %d, expected %d", name, at, got[at],
                         ((const uint8_t *)wanted.data)[at]);
        free(values);
        free(got);
    }
    checkpoint_close(fixture);
}

static void check_small_floats(enum dtype type, uint8_t largest, uint8_t (*encode)(float value)) {
    for (int code = 0; code < 256; code++) {
        const uint8_t codes[2] = {(uint8_t)code, (uint8_t)(code + 1)};
        float values[2];
        assert_true(dtype_decode(type, codes, values, 2));
        if (isfinite(values[0])) assert_int_equal(encode(values[0]), code);
        if ((code & 0x7f) >= largest) continue;
        const float middle = (values[0] + values[1]) / 2; // exact
        assert_int_equal(encode(middle), code & 1 ? code + 1 : code);
        assert_int_equal(encode(nextafterf(middle, values[0])), code);
        assert_int_equal(encode(nextafterf(middle, values[1])), code + 1);
    }
    assert_int_equal(encode(1e30f), largest);
    assert_int_equal(encode(-INFINITY), 0x80 | largest);
    assert_int_equal(encode(NAN) & 0x7f, 0x7f);
}

static void small_floats_come_back(void **state) {
    check_small_floats(DTYPE_F8_E4M3, 0x7e, f32_to_f8_e4m3);
    check_small_floats(DTYPE_F8_E5M2, 0x7b, f32_to_f8_e5m2);
}

// Root mean square of the error after encoding and decoding, a share of that of the values.
static double error_of(enum dtype type, const float *values, int64_t count) {
    uint8_t *stored = malloc(dtype_bytes(type, count));
    float *decoded = malloc((size_t)count * sizeof *decoded);
    assert_true(dtype_encode(type, values, stored, count));
    assert_true(dtype_decode(type, stored, decoded, count));
    const double error = relative_error(decoded, values, count);
    free(stored);
    free(decoded);
    return error;
}

// What codes from the extremes of groups give, with scales of f32: the least that a search should reach.
static double extremes_error(const float *values, int64_t count, int group, int top, bool centred) {
    double errors = 0, sizes = 0;
    for (int64_t at = 0; at < count; at += group) {
        float least = centred ? 0 : INFINITY, most = -INFINITY;
        for (int i = 0; i < group; i++) {
            least = fminf(least, values[at + i]);
            most = fmaxf(most, centred ? fabsf(values[at + i]) : values[at + i]);
        }
        const double scale = centred ? most / (top / 2) : (most - least) / top, from = centred ? 0 : least;
        for (int i = 0; i < group; i++) {
            const double code = scale > 0 ? round((values[at + i] - from) / scale) : 0;
            const double error = code * scale + from - values[at + i];
            errors += error * error;
            sizes += (double)values[at + i] * values[at + i];
        }
    }
    return sqrt(errors / sizes);
}

enum { COUNT = 64 * 256 };

// About normal, a few outliers, sizes that change from block to block.
static float *weights_like(void) {
    float *values = malloc(COUNT * sizeof *values);
    struct random random = {3};
    assert_non_null(values);
    for (int i = 0; i < COUNT; i++) {
        values[i] = 0;
        for (int j = 0; j < 6; j++) values[i] += 0.02f * random_uniform(&random);
        values[i] *= (i % 97 == 0 ? 4.0f : 1.0f) * (1.0f + (float)(i / 256 % 5));
    }
    return values;
}

static void searched_blocks_are_closer_than_extremes(void **state) {
    float *values = weights_like();
    const double q2 = error_of(DTYPE_Q2_K, values, COUNT), q3 = error_of(DTYPE_Q3_K, values, COUNT);
    const double q4 = error_of(DTYPE_Q4_K, values, COUNT), q5 = error_of(DTYPE_Q5_K, values, COUNT);
    const double q6 = error_of(DTYPE_Q6_K, values, COUNT);
    const double nl = error_of(DTYPE_IQ4_NL, values, COUNT), xs = error_of(DTYPE_IQ4_XS, values, COUNT);
    assert_true(q2 < 0.9 * extremes_error(values, COUNT, 16, 3, false));
    assert_true(q3 < 0.8 * extremes_error(values, COUNT, 16, 7, true));
    assert_true(q4 < 0.95 * extremes_error(values, COUNT, 32, 15, false));
    assert_true(q5 < extremes_error(values, COUNT, 32, 31, false));
    assert_true(q6 < extremes_error(values, COUNT, 16, 63, true));
    assert_true(q4 < error_of(DTYPE_Q4_0, values, COUNT) && q4 < error_of(DTYPE_Q4_1, values, COUNT));
    // 4 bits without a minimum: the uneven steps are worth more than what a search finds for even ones.
    assert_true(nl < 0.85 * extremes_error(values, COUNT, 32, 15, true));
    assert_true(nl < 0.95 * error_of(DTYPE_Q4_0, values, COUNT) && xs < 1.02 * nl);
    assert_true(q5 < error_of(DTYPE_Q5_0, values, COUNT) && q5 < q4 && q6 < q5 && q4 < q3 && q3 < q2);
    assert_true(error_of(DTYPE_Q8_0, values, COUNT) < q6);
    free(values);
}

// Values of a group's neighbours, so that a step can be told: groups have 16 or 32 values, and codes lie evenly, but for IQ4's,
// whose widest gap is 24 of 127 + 113.
static void errors_are_within_steps(void **state) {
    static const struct {
        enum dtype type;
        int group;
        double steps; // over the range of a group, from its extremes and zero
    } cases[] = {{DTYPE_Q2_K, 16, 3},  {DTYPE_Q3_K, 16, 7},    {DTYPE_Q4_K, 32, 15},  {DTYPE_Q5_K, 32, 31},
                 {DTYPE_Q6_K, 16, 63}, {DTYPE_IQ4_NL, 32, 10}, {DTYPE_IQ4_XS, 32, 10}};
    float *values = weights_like(), *decoded = malloc(COUNT * sizeof *decoded);
    uint8_t *stored = malloc(2 * COUNT);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        assert_true(dtype_encode(cases[c].type, values, stored, COUNT));
        assert_true(dtype_decode(cases[c].type, stored, decoded, COUNT));
        const bool centred =
            cases[c].type != DTYPE_Q2_K && cases[c].type != DTYPE_Q4_K && cases[c].type != DTYPE_Q5_K;
        double worst = 0;
        for (int at = 0; at < COUNT; at += cases[c].group) {
            float least = 0, most = -INFINITY;
            for (int i = at; i < at + cases[c].group; i++) {
                least = fminf(least, values[i]);
                most = fmaxf(most, values[i]);
            }
            const double range = centred ? 2 * fmaxf(-least, most) : most - least;
            for (int i = at; i < at + cases[c].group; i++)
                worst = fmax(worst, fabs(decoded[i] - values[i]) / (range / cases[c].steps));
        }
        // Half a step by rounding; an extreme may lose another half for the others' sake (measured: 0.75 to 1.02).
        if (worst > 1.1) fail_msg("%s: off by %.3f steps", dtype_info(cases[c].type)->name, worst);
    }
    free(values);
    free(decoded);
    free(stored);
}

// Encoding what was decoded: the same values where a block has one scale, and a small part of the first error where scales of
// groups are rounded to few bits, which a search need not find again.
static void what_was_decoded_stays(void **state) {
    float *values = weights_like(), *first = malloc(COUNT * sizeof *first),
          *second = malloc(COUNT * sizeof *second);
    uint8_t *stored = malloc(2 * COUNT);
    for (int i = 0; i < BLOCK_TYPES; i++) {
        assert_true(dtype_encode(block_types[i], values, stored, COUNT));
        assert_true(dtype_decode(block_types[i], stored, first, COUNT));
        assert_true(dtype_encode(block_types[i], first, stored, COUNT));
        assert_true(dtype_decode(block_types[i], stored, second, COUNT));
        const double once = relative_error(first, values, COUNT),
                     twice = relative_error(second, first, COUNT);
        const bool exact = dtype_info(block_types[i])->block_values == 32;
        if (exact ? twice != 0 : twice > 0.25 * once)
            fail_msg("%s: %g, then %g", dtype_info(block_types[i])->name, once, twice);
    }
    free(values);
    free(first);
    free(second);
    free(stored);
}

// Blocks that a search could stumble over: constants, zeros, ramps, tiny and large values.
static void odd_blocks_are_encoded(void **state) {
    const enum dtype types[] = {DTYPE_Q2_K, DTYPE_Q3_K,   DTYPE_Q4_K,  DTYPE_Q5_K,
                                DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS};
    const double tolerances[] = {0.3, 0.2, 0.07, 0.035, 0.02, 0.1, 0.1};
    float values[256];
    for (int i = 0; i < 7; i++)
        for (int kind = 0; kind < 8; kind++) {
            struct random random = {(uint64_t)kind};
            for (int j = 0; j < 256; j++) {
                const float uniform = random_uniform(&random);
                const float kinds[8] = {0,
                                        2.5f,
                                        -0.37f,
                                        (float)j,
                                        (float)-j,
                                        1e-4f * uniform,
                                        1e4f * uniform,
                                        j == 77 ? -3.0f : 0.0f};
                values[j] = kinds[kind];
            }
            const double error = error_of(types[i], values, 256);
            if (error > tolerances[i]) fail_msg("%s, kind %d: %g", dtype_info(types[i])->name, kind, error);
        }
}

static void what_no_block_holds_is_refused(void **state) {
    uint8_t block[256];
    float values[256];
    for (int i = 0; i < BLOCK_TYPES; i++) {
        const int count = dtype_info(block_types[i])->block_values;
        const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f};
        for (size_t j = 0; j < sizeof bad / sizeof *bad; j++) {
            for (int k = 0; k < count; k++) values[k] = 0.5f;
            assert_true(dtype_encode(block_types[i], values, block, count));
            values[count / 2] = bad[j];
            assert_false(dtype_encode(block_types[i], values, block, count));
        }
        for (int k = 0; k < count; k++) values[k] = (k % 2 ? 1 : -1) * 1e-42f; // too small for any scale
        assert_true(dtype_encode(block_types[i], values, block, count));
        assert_true(dtype_decode(block_types[i], block, values, count));
        for (int k = 0; k < count; k++) assert_true(values[k] == 0);
    }
    assert_false(dtype_encode(DTYPE_I32, values, block, 1));
    assert_false(dtype_encode(DTYPE_NF4, values, block, 2));
}

// --------------------------------------------------------------------------------------------- scales beside the codes

static void nf4_is_that_of_bitsandbytes(void **state) {
    struct checkpoint *fixture = fixture_open("blocks.safetensors");
    const struct tensor source = fixture_tensor(fixture, DTYPE_F32, "NF4.source");
    const struct tensor packed = fixture_tensor(fixture, DTYPE_U8, "NF4.source.packed");
    const struct tensor absmax = fixture_tensor(fixture, DTYPE_F32, "NF4.source.absmax");
    const int64_t count = tensor_values(&source);
    float *values = fixture_values(source), *scales = malloc(absmax.bytes);
    uint8_t *codes = malloc(packed.bytes);
    assert_int_equal(packed.bytes, count / 2);
    assert_int_equal(absmax.bytes, count / ENCODE_NF4_BLOCK * 4);
    encode_nf4(values, count, scales, codes);
    assert_memory_equal(scales, absmax.data, absmax.bytes);
    assert_memory_equal(codes, packed.data, packed.bytes);
    free(values);
    free(scales);
    free(codes);
    checkpoint_close(fixture);
}

// A matrix in a scaled type, and the way back.
struct scaled {
    enum dtype type;
    int64_t rows, cols;
    float most, whole;
    struct tensor_scales scales;
    uint8_t *codes;
    void *blocks; // exactly as large as it must be
};

static struct scaled scaled_make(enum dtype type, const float *values, int64_t rows, int64_t cols) {
    struct scaled made = {.type = type, .rows = rows, .cols = cols};
    const size_t row_bytes = dtype_bytes(type, cols);
    made.codes = stored_exactly((size_t)rows * row_bytes);
    for (int64_t i = 0; i < rows * cols; i++) made.most = fmaxf(made.most, fabsf(values[i]));
    made.whole = type == DTYPE_NF4 ? 1 : encode_scale(type, made.most);
    made.scales = (struct tensor_scales){.rows = &made.whole,
                                         .block_columns = (cols / STORED_NVFP4_GROUP + 3) / 4 * 4,
                                         .block_values = ENCODE_NF4_BLOCK,
                                         .codebook = encode_nf4_codebook};
    if (type == DTYPE_NVFP4)
        made.blocks = calloc(1, (size_t)((rows + 127) / 128 * 128 * made.scales.block_columns));
    if (type == DTYPE_NF4) made.blocks = stored_exactly((size_t)(rows * cols / ENCODE_NF4_BLOCK) * 4);
    for (int64_t row = 0; row < rows; row++) {
        const float *from = values + row * cols;
        uint8_t *codes = made.codes + (size_t)row * row_bytes;
        if (type == DTYPE_NVFP4)
            encode_nvfp4_row(from, cols, made.most, made.whole, made.blocks, made.scales.block_columns, row,
                             codes);
        else if (type == DTYPE_NF4)
            encode_nf4(from, cols, (float *)made.blocks + row * (cols / ENCODE_NF4_BLOCK), codes);
        else
            encode_f8(type, from, cols, made.whole, codes);
    }
    made.scales.blocks = made.blocks;
    return made;
}

static void scaled_decode(struct scaled *made, float *to) {
    made->scales.rows = &made->whole;
    const struct tensor tensor = {.type = made->type,
                                  .rank = 2,
                                  .shape = {made->rows, made->cols},
                                  .data = made->codes,
                                  .scales = &made->scales};
    for (int64_t row = 0; row < made->rows; row++)
        assert_true(tensor_decode_row(&tensor, row, to + row * made->cols));
}

static void scaled_drop(struct scaled *made) {
    free(made->codes);
    free(made->blocks);
}

static void nvfp4_is_closer_than_the_reference(void **state) {
    struct checkpoint *fixture = fixture_open("blocks.safetensors");
    const struct tensor source = fixture_tensor(fixture, DTYPE_F32, "NVFP4.source");
    float *values = fixture_values(source), *decoded = malloc(source.bytes);
    float *reference = fixture_values(fixture_tensor(fixture, DTYPE_F32, "NVFP4.source.reference"));
    struct scaled made = scaled_make(DTYPE_NVFP4, values, source.shape[0], source.shape[1]);
    scaled_decode(&made, decoded);
    const double ours = relative_error(decoded, values, tensor_values(&source));
    const double theirs = relative_error(reference, values, tensor_values(&source));
    assert_true(theirs > 0.05 && theirs < 0.15); // it is what it should be
    if (ours > 0.9 * theirs) fail_msg("%g, and the reference %g", ours, theirs);
    scaled_drop(&made);
    free(values);
    free(decoded);
    free(reference);
    checkpoint_close(fixture);
}

static const enum dtype scaled_types[] = {DTYPE_F8_E4M3, DTYPE_F8_E5M2, DTYPE_NVFP4, DTYPE_NF4};

// The errors lie within the codes' steps; what was decoded is encoded to the same values; the largest value stays.
static void scaled_types_hold_their_values(void **state) {
    // A share of the values, of which some are outliers; measured: 0.0267, 0.0528, 0.0818, 0.1049.
    static const double bounds[] = {0.028, 0.054, 0.084, 0.107};
    enum { ROWS = 128, COLS = COUNT / ROWS };
    float *values = weights_like(), *first = malloc(COUNT * sizeof *first),
          *second = malloc(COUNT * sizeof *second);
    for (int i = 0; i < 4; i++) {
        const enum dtype type = scaled_types[i];
        assert_true(encode_has_scales(type) && COLS % encode_scaled_step(type) == 0);
        struct scaled made = scaled_make(type, values, ROWS, COLS);
        scaled_decode(&made, first);
        const double error = relative_error(first, values, COUNT);
        if (error > bounds[i]) fail_msg("%s: %g", dtype_info(type)->name, error);
        float most = 0;
        for (int v = 0; v < COUNT; v++) most = fmaxf(most, fabsf(first[v]));
        assert_true(most >= made.most && most <= made.most * (1 + 0x1p-14f));
        struct scaled again = scaled_make(type, first, ROWS, COLS);
        scaled_decode(&again, second);
        assert_memory_equal(first, second, COUNT * sizeof *first);
        scaled_drop(&made);
        scaled_drop(&again);
    }
    free(values);
    free(first);
    free(second);
}

// Zeros, the smallest and the largest numbers, single values.
static void scaled_edges(void **state) {
    enum { ROWS = 3, COLS = 64, ALL = ROWS * COLS };
    float values[ALL], decoded[ALL], again[ALL];
    for (int i = 0; i < 4; i++)
        for (int kind = 0; kind < 7; kind++) {
            struct random random = {(uint64_t)kind};
            for (int v = 0; v < ALL; v++) {
                const float uniform = random_uniform(&random);
                const float kinds[7] = {0,
                                        1e-42f * uniform,
                                        1e-37f * uniform,
                                        v == 70 ? ENCODE_SCALED_MOST : 0.0f,
                                        -ENCODE_SCALED_MOST,
                                        v == 0 ? -3.0f : 0.0f,
                                        v < COLS ? 1e30f * uniform : uniform};
                values[v] = kinds[kind];
            }
            struct scaled made = scaled_make(scaled_types[i], values, ROWS, COLS);
            assert_true(made.whole >= FLT_MIN && isfinite(made.whole));
            scaled_decode(&made, decoded);
            for (int v = 0; v < ALL; v++) {
                assert_true(isfinite(decoded[v]));
                // Zero stays, and no value loses more than its share of the largest or its own size.
                if (values[v] == 0) assert_true(decoded[v] == 0);
                const float off = fabsf(decoded[v] - values[v]);
                if (!(off <= 0.2f * made.most || off <= FLT_MIN))
                    fail_msg("%s, kind %d: %g for %g", dtype_info(made.type)->name, kind, decoded[v],
                             values[v]);
            }
            struct scaled twice = scaled_make(scaled_types[i], decoded, ROWS, COLS);
            scaled_decode(&twice, again);
            for (int v = 0; v < ALL; v++) assert_true(again[v] == decoded[v]);
            scaled_drop(&made);
            scaled_drop(&twice);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encoders_give_the_bytes_of_the_reference),
        cmocka_unit_test(small_floats_come_back),
        cmocka_unit_test(searched_blocks_are_closer_than_extremes),
        cmocka_unit_test(errors_are_within_steps),
        cmocka_unit_test(what_was_decoded_stays),
        cmocka_unit_test(odd_blocks_are_encoded),
        cmocka_unit_test(what_no_block_holds_is_refused),
        cmocka_unit_test(nf4_is_that_of_bitsandbytes),
        cmocka_unit_test(nvfp4_is_closer_than_the_reference),
        cmocka_unit_test(scaled_types_hold_their_values),
        cmocka_unit_test(scaled_edges),
    };
    return cmocka_run_group_tests_name("encode", tests, NULL, NULL);
}
