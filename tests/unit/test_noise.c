#include "fixture.h"

#include "flux/noise.h"

static void check(const struct checkpoint *fixture, enum noise_kind kind, unsigned long long seed,
                  int count) {
    const char *name = kind == NOISE_F32 ? "f32" : "bf16";
    struct tensor tensor = fixture_tensor(fixture, DTYPE_F32, "%s_seed%llu_n%d", name, seed, count);
    float *expected = fixture_values(tensor), *noise = malloc(sizeof(float) * (size_t)count);
    assert_int_equal(tensor_values(&tensor), count);
    noise_fill(kind, seed, noise, (size_t)count);
    for (int i = 0; i < count; i++) {
        // f32: the reference's vector functions differ in the last place between processors.
        double most = kind == NOISE_F32 ? 2e-6 : 0;
        if (!(fabs((double)noise[i] - expected[i]) <= most))
            fail_msg("%s, seed %llu, %d values: value %d is %.9g, expected %.9g", name, seed, count, i,
                     (double)noise[i], (double)expected[i]);
    }
    free(noise);
    free(expected);
}

static void values_of_the_reference(void **state) {
    struct checkpoint *fixture = fixture_open("noise.safetensors");
    static const int counts[] = {5, 15, 16, 17, 100, 108};
    for (unsigned long long seed = 0; seed < 10; seed++) {
        check(fixture, NOISE_F32, seed, 768);
        check(fixture, NOISE_BF16, seed, 768);
        for (int i = 0; seed < 4 && i < 6; i++) {
            check(fixture, NOISE_F32, seed, counts[i]);
            check(fixture, NOISE_BF16, seed, counts[i]);
        }
    }
    checkpoint_close(fixture);
}

// The latents of a 1024 x 1024 picture, and seeds beyond 32 bits.
static void large_draws(void **state) {
    enum { COUNT = 524288, EVERY = 1021 };
    struct checkpoint *fixture = fixture_open("noise.safetensors");
    static const unsigned long long seeds[] = {7, (1ull << 32) + 5, (1ull << 63) + 11};
    float *noise = malloc(sizeof(float) * COUNT);
    for (int s = 0; s < 3; s++) {
        for (int kind = NOISE_F32; kind <= NOISE_BF16; kind++) {
            float *expected =
                fixture_values(fixture_tensor(fixture, DTYPE_F32, "%s_seed%llu_n524288_every1021",
                                              kind == NOISE_F32 ? "f32" : "bf16", seeds[s]));
            noise_fill((enum noise_kind)kind, seeds[s], noise, COUNT);
            for (int i = 0; i * EVERY < COUNT; i++)
                assert_true(fabs((double)noise[i * EVERY] - expected[i]) <= (kind == NOISE_F32 ? 2e-6 : 0));
            free(expected);
        }
    }
    free(noise);
    checkpoint_close(fixture);
}

static void only_the_low_32_bits_of_a_seed_count(void **state) {
    float a[64], b[64], c[64];
    noise_fill(NOISE_F32, 5, a, 64);
    noise_fill(NOISE_F32, (1ull << 32) + 5, b, 64);
    noise_fill(NOISE_F32, 6, c, 64);
    assert_memory_equal(a, b, sizeof(a));
    assert_memory_not_equal(a, c, sizeof(a));
}

static void bf16_is_f32_rounded(void **state) {
    enum { COUNT = 4096 };
    float exact[COUNT], rounded[COUNT];
    noise_fill(NOISE_F32, 1, exact, COUNT);
    noise_fill(NOISE_BF16, 1, rounded, COUNT);
    double mean = 0, square = 0;
    for (int i = 0; i < COUNT; i++) {
        assert_true(rounded[i] == bf16_to_f32(f32_to_bf16(exact[i])));
        mean += exact[i] / COUNT;
        square += (double)exact[i] * exact[i] / COUNT;
    }
    assert_true(fabs(mean) < 0.06 && fabs(square - 1) < 0.09); // four standard errors
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_the_reference),
        cmocka_unit_test(large_draws),
        cmocka_unit_test(only_the_low_32_bits_of_a_seed_count),
        cmocka_unit_test(bf16_is_f32_rounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
