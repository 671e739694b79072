#include "fixture.h"

#include "flux/schedule.h"

static const float TURBO[] = {1.0f, 0.6509f, 0.4374f, 0.2932f, 0.1893f, 0.1108f, 0.0495f, 0.00031f};

static void check(const struct checkpoint *fixture, int tokens, int steps, const float *custom,
                  const char *key) {
    struct error error = {0};
    float sigmas[64], timesteps[64];
    assert_ok(schedule_make(tokens, steps, custom, sigmas, timesteps, &error), error);
    struct tensor tensor = fixture_tensor(fixture, DTYPE_F32, "sigmas_%s", key);
    assert_int_equal(tensor_values(&tensor), steps + 1);
    float *expected = fixture_values(tensor);
    for (int i = 0; i <= steps; i++)
        if (!(fabs((double)sigmas[i] - expected[i]) <= 1e-6))
            fail_msg("%s: sigma %d is %.9g, expected %.9g", key, i, (double)sigmas[i], (double)expected[i]);
    free(expected);
    expected = fixture_values(fixture_tensor(fixture, DTYPE_F32, "timesteps_%s", key));
    for (int i = 0; i < steps; i++)
        if (!(fabs((double)timesteps[i] - expected[i]) <= 1e-6 * 1000))
            fail_msg("%s: timestep %d is %.9g, expected %.9g", key, i, (double)timesteps[i],
                     (double)expected[i]);
    free(expected);
}

static void sigmas_of_the_reference(void **state) {
    static const int tokens[] = {12, 256, 1024, 4080, 4096, 4300, 4301, 8160};
    static const int steps[] = {4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 25, 28, 30, 40, 50};
    static const float halves[] = {1.0f, 0.5f};
    struct checkpoint *fixture = fixture_open("schedule.safetensors");
    char key[64];
    for (size_t t = 0; t < sizeof(tokens) / sizeof(*tokens); t++) {
        for (size_t s = 0; s < sizeof(steps) / sizeof(*steps); s++) {
            snprintf(key, sizeof(key), "L%d_N%d", tokens[t], steps[s]);
            check(fixture, tokens[t], steps[s], NULL, key);
        }
        snprintf(key, sizeof(key), "L%d_turbo", tokens[t]);
        check(fixture, tokens[t], 8, TURBO, key);
        snprintf(key, sizeof(key), "L%d_short", tokens[t]);
        check(fixture, tokens[t], 2, halves, key);
    }
    checkpoint_close(fixture);
}

// The published list of FLUX.2 [dev] Turbo at 1024 x 1024 gives back the schedule it was trained on: the static shift by 3 of
// linspace(1, 0.001, 8).
static void turbo_is_the_training_schedule(void **state) {
    struct error error = {0};
    float sigmas[9], timesteps[8];
    assert_ok(schedule_make(4096, 8, TURBO, sigmas, timesteps, &error), error);
    for (int i = 0; i < 8; i++) {
        double u = 1 + i * (0.001 - 1) / 7;
        assert_true(fabs((double)sigmas[i] - 3 * u / (1 + 2 * u)) < 3e-4); // the list has few digits
    }
}

static void one_step(void **state) {
    struct error error = {0};
    float sigmas[2], timesteps[1];
    assert_ok(schedule_make(64, 1, NULL, sigmas, timesteps, &error), error);
    assert_true(sigmas[0] == 1 && sigmas[1] == 0 && timesteps[0] == 1000);
}

static void wrong_lists(void **state) {
    static const struct {
        float list[3];
        const char *message;
    } cases[] = {
        {{0.2f, 0.9f, 0.4f}, "sigmas[1] is 0.9, expected less than the one before it (0.2)"},
        {{1.0f, 0.5f, 0.5f}, "sigmas[2] is 0.5, expected less"},
        {{1.5f, 0.5f, 0.4f}, "sigmas[0] is 1.5, expected a number in (0, 1]"},
        {{1.0f, 0.5f, 0.0f}, "sigmas[2] is 0, expected a number in (0, 1]"},
        {{1.0f, -0.5f, -0.6f}, "sigmas[1] is -0.5, expected a number in (0, 1]"},
        {{1.0f, NAN, 0.1f}, "sigmas[1] is nan, expected a number in (0, 1]"},
        {{INFINITY, 0.5f, 0.1f}, "sigmas[0] is inf, expected a number in (0, 1]"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct error error = {0};
        float sigmas[4], timesteps[3];
        assert_false(schedule_make(64, 3, cases[i].list, sigmas, timesteps, &error));
        assert_int_equal(error.kind, ERROR_INPUT);
        assert_string_equal(error.field, "sigmas");
        assert_contains(error.message, cases[i].message);
    }
    struct error error = {0};
    float sigmas[1], timesteps[1];
    assert_false(schedule_make(64, 0, NULL, sigmas, timesteps, &error));
    assert_string_equal(error.field, "steps");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sigmas_of_the_reference),
        cmocka_unit_test(turbo_is_the_training_schedule),
        cmocka_unit_test(one_step),
        cmocka_unit_test(wrong_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
