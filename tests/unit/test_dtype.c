#include "unit.h"

#include "tensor/dtype.h"
#include "tensor/tensor.h"

#include <math.h>

static void names_go_both_ways(void **state) {
    for (int type = DTYPE_NONE + 1; type <= DTYPE_BOOL; type++) {
        const struct dtype_info *info = dtype_info((enum dtype)type);
        assert_int_equal(dtype_from_name(info->name, strlen(info->name)), type);
        assert_true(info->block_bytes > 0);
    }
    assert_int_equal(dtype_from_name("BF16x", 4), DTYPE_BF16);
    assert_int_equal(dtype_from_name("BF1", 3), DTYPE_NONE);
    assert_int_equal(dtype_from_name("?", 1), DTYPE_NONE);
    assert_int_equal(dtype_from_name("", 0), DTYPE_NONE);
    assert_string_equal(dtype_info(DTYPE_NONE)->name, "?");
    assert_string_equal(dtype_info(DTYPE_COUNT)->name, "?");
    assert_int_equal(dtype_bytes(DTYPE_BF16, 10), 20);
    assert_int_equal(dtype_bytes(DTYPE_F64, 10), 80);
    assert_int_equal(dtype_bytes(DTYPE_BOOL, 10), 10);
}

// Every half converts exactly there and back; the compiler's own conversion is the oracle where it has one.
static void halves(void **state) {
    for (uint32_t bits = 0; bits < 65536; bits++) {
        float value = f16_to_f32((uint16_t)bits);
        if (isnan(value)) {
            assert_true(isnan(f16_to_f32(f32_to_f16(value))));
            continue;
        }
        assert_int_equal(f32_to_f16(value), bits);
        int exponent = (int)(bits >> 10 & 31), fraction = (int)(bits & 1023);
        double expected = exponent == 31  ? INFINITY
                          : exponent == 0 ? ldexp(fraction, -24)
                                          : ldexp(1024 + fraction, exponent - 25);
        assert_true((bits & 0x8000 ? -expected : expected) == value);
    }
}

// Between two neighbouring halves, a value goes to the nearer one, the middle to the even one.
static void halves_round_to_nearest_even(void **state) {
    for (uint16_t low = 0; low < 0x7bff; low++) {
        double a = f16_to_f32(low), b = f16_to_f32((uint16_t)(low + 1)), middle = (a + b) / 2;
        float exact = (float)middle;
        assert_true(exact == middle);
        assert_int_equal(f32_to_f16(exact), low & 1 ? low + 1 : low);
        assert_int_equal(f32_to_f16(nextafterf(exact, 0)), low);
        assert_int_equal(f32_to_f16(nextafterf(exact, INFINITY)), low + 1);
        assert_int_equal(f32_to_f16(-exact), (low & 1 ? low + 1 : low) | 0x8000);
    }
    assert_int_equal(f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(f32_to_f16(65520), 0x7c00);
    assert_int_equal(f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(f32_to_f16(1e-30f), 0);
    assert_int_equal(f32_to_f16(0x1p-25f), 0);
}

static void brain_floats(void **state) {
    for (uint32_t bits = 0; bits < 65536; bits++) {
        float value = bf16_to_f32((uint16_t)bits);
        if (isnan(value)) assert_true(isnan(bf16_to_f32(f32_to_bf16(value))));
        if (!isnan(value)) assert_int_equal(f32_to_bf16(value), bits);
    }
    assert_int_equal(f32_to_bf16(1.00390625f), 0x3f80); // the middle goes to even
    assert_int_equal(f32_to_bf16(1.01171875f), 0x3f82);
    assert_int_equal(f32_to_bf16(3.4e38f), 0x7f80);
}

static void small_floats(void **state) {
    static const struct {
        enum dtype type;
        uint8_t bits;
        float value;
    } cases[] = {
        {DTYPE_F8_E4M3, 0x00, 0},        {DTYPE_F8_E4M3, 0x01, 0x1p-9f}, {DTYPE_F8_E4M3, 0x08, 0x1p-6f},
        {DTYPE_F8_E4M3, 0x38, 1},        {DTYPE_F8_E4M3, 0x39, 1.125f},  {DTYPE_F8_E4M3, 0x7e, 448},
        {DTYPE_F8_E4M3, 0xfe, -448},     {DTYPE_F8_E4M3, 0x78, 256},     {DTYPE_F8_E5M2, 0x3c, 1},
        {DTYPE_F8_E5M2, 0x7b, 57344},    {DTYPE_F8_E5M2, 0xbd, -1.25f},  {DTYPE_F8_E5M2, 0x01, 0x1p-16f},
        {DTYPE_F8_E5M2, 0x7c, INFINITY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float value = 99;
        assert_true(dtype_decode(cases[i].type, &cases[i].bits, &value, 1));
        assert_true(value == cases[i].value);
    }
    uint8_t nan[2] = {0x7f, 0xff};
    float values[2];
    assert_true(dtype_decode(DTYPE_F8_E4M3, nan, values, 2));
    assert_true(isnan(values[0]) && isnan(values[1]));
}

static void unaligned_values_decode(void **state) {
    unsigned char bytes[1 + 16];
    float f32[2] = {1.5f, -2}, out[2];
    double f64[2] = {0.25, 3};
    uint16_t f16[2] = {0x3c00, 0xc000}, bf16[2] = {0x3f80, 0xc000};
    memcpy(bytes + 1, f32, 8);
    assert_true(dtype_decode(DTYPE_F32, bytes + 1, out, 2));
    assert_true(out[0] == 1.5f && out[1] == -2);
    memcpy(bytes + 1, f64, 16);
    assert_true(dtype_decode(DTYPE_F64, bytes + 1, out, 2));
    assert_true(out[0] == 0.25f && out[1] == 3);
    memcpy(bytes + 1, f16, 4);
    assert_true(dtype_decode(DTYPE_F16, bytes + 1, out, 2));
    assert_true(out[0] == 1 && out[1] == -2);
    memcpy(bytes + 1, bf16, 4);
    assert_true(dtype_decode(DTYPE_BF16, bytes + 1, out, 2));
    assert_true(out[0] == 1 && out[1] == -2);
    assert_false(dtype_decode(DTYPE_I32, bytes, out, 1));
    assert_false(dtype_decode(DTYPE_NONE, bytes, out, 1));
    assert_true(dtype_decode(DTYPE_F32, NULL, out, 0));
}

static void shapes_read_as_pytorch_prints_them(void **state) {
    char text[32];
    struct tensor tensor = {.type = DTYPE_F32, .rank = 2, .shape = {4096, 128}};
    assert_string_equal(tensor_shape_text(&tensor, text, sizeof text), "[4096, 128]");
    assert_int_equal(tensor_values(&tensor), 4096 * 128);
    tensor.rank = 0;
    assert_string_equal(tensor_shape_text(&tensor, text, sizeof text), "[]");
    assert_int_equal(tensor_values(&tensor), 1);
    tensor = (struct tensor){.rank = 1, .shape = {0}};
    assert_string_equal(tensor_shape_text(&tensor, text, sizeof text), "[0]");
    assert_int_equal(tensor_values(&tensor), 0);
    tensor = (struct tensor){.rank = 5, .shape = {1234567, 1234567, 1234567, 1234567, 1234567}};
    assert_true(strlen(tensor_shape_text(&tensor, text, 8)) < 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_go_both_ways),
        cmocka_unit_test(halves),
        cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(brain_floats),
        cmocka_unit_test(small_floats),
        cmocka_unit_test(unaligned_values_decode),
        cmocka_unit_test(shapes_read_as_pytorch_prints_them),
    };
    return cmocka_run_group_tests_name("dtype", tests, NULL, NULL);
}
