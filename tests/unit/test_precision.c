// Whole pictures of the bundled model in f32, bf16 and int8: how far apart they are, that int8 is only taken where it is asked
// for, that threads make no difference and that every instruction set has it.
#include "flux/pipeline_inside.h"

#include "unit.h"

#define MODEL LIMN_SOURCE_DIR "/models/pictogram"

// Mean difference of a picture's values from f32, in levels of 255. Measured (bench_precision --count 8 models/pictogram): bf16
// 0.10 in the mean of 8 pictures and 0.16 at worst, int8 0.26 and 0.37.
static const double BF16_LEVELS = 0.3, INT8_LEVELS = 0.8;

static struct pipeline *open_model(enum limn_compute compute, int threads, const char *isa) {
    struct error error = {0};
    struct limn_options options;
    limn_options_init(&options);
    options.threads = threads;
    options.compute = compute;
    options.isa = isa;
    struct pipeline *pipeline = pipeline_open(MODEL, &options, &error);
    assert_ok(pipeline, error);
    return pipeline;
}

static struct limn_result *draw(enum limn_compute compute, int threads, const char *isa, int steps) {
    struct error error = {0};
    struct pipeline *pipeline = open_model(compute, threads, isa);
    struct limn_request request;
    limn_request_init(&request);
    request.prompt = "a large red circle to the left of a small blue star on a white background";
    request.seed = 5;
    request.steps = steps;
    struct limn_result *result = pipeline_run(pipeline, &request, NULL, &error);
    assert_ok(result, error);
    pipeline_close(pipeline);
    return result;
}

static int64_t values_of(const struct limn_result *result) {
    return (int64_t)result->width * result->height * 3;
}

static double levels_apart(const struct limn_result *a, const struct limn_result *b) {
    int64_t sum = 0, count = values_of(a);
    assert_int_equal(count, values_of(b));
    for (int64_t i = 0; i < count; i++) sum += abs(a->images[0].pixels[i] - b->images[0].pixels[i]);
    return (double)sum / (double)count;
}

static void errs_little(void **state) {
    struct limn_result *exact = draw(LIMN_COMPUTE_F32, 2, NULL, 0),
                       *bf16 = draw(LIMN_COMPUTE_BF16, 2, NULL, 0);
    struct limn_result *int8 = draw(LIMN_COMPUTE_INT8, 2, NULL, 0),
                       *chosen = draw(LIMN_COMPUTE_AUTO, 2, NULL, 0);
    const double bf16_levels = levels_apart(bf16, exact), int8_levels = levels_apart(int8, exact);
    print_message("levels from f32: bf16 %.3f, int8 %.3f\n", bf16_levels, int8_levels);
    assert_true(bf16_levels < BF16_LEVELS && int8_levels < INT8_LEVELS);
    assert_true(levels_apart(int8, bf16) > 0);    // it is something else
    assert_true(levels_apart(chosen, bf16) == 0); // and never chosen by itself
    limn_result_free(exact);
    limn_result_free(bf16);
    limn_result_free(int8);
    limn_result_free(chosen);
}

// The prompt and the autoencoder are computed as in bf16; only the transformer's blocks are not.
static void holds_for_the_transformer_alone(void **state) {
    struct pipeline *pipeline = open_model(LIMN_COMPUTE_INT8, 1, NULL);
    assert_int_equal(pipeline->compute, COMPUTE_BF16);
    assert_int_equal(pipeline->transformer_compute, COMPUTE_I8);
    pipeline_close(pipeline);
    pipeline = open_model(LIMN_COMPUTE_F32, 1, NULL);
    assert_int_equal(pipeline->transformer_compute, COMPUTE_F32);
    pipeline_close(pipeline);
}

static void gives_the_same_picture_on_any_number_of_threads(void **state) {
    struct limn_result *first = draw(LIMN_COMPUTE_INT8, 1, NULL, 2);
    for (int threads = 2; threads <= 3; threads++) {
        struct limn_result *again = draw(LIMN_COMPUTE_INT8, threads, NULL, 2);
        assert_memory_equal(first->images[0].pixels, again->images[0].pixels, (size_t)values_of(first));
        limn_result_free(again);
    }
    limn_result_free(first);
}

// What is left between instruction sets is the bf16 and f32 arithmetic around the products.
static void runs_on_every_instruction_set(void **state) {
    const char *isas[8];
    const int count = device_isa_list(isas, 8);
    struct limn_result *best = draw(LIMN_COMPUTE_INT8, 2, isas[0], 1);
    for (int i = 1; i < count; i++) {
        struct limn_result *other = draw(LIMN_COMPUTE_INT8, 2, isas[i], 1);
        const double apart = levels_apart(other, best);
        if (!(apart < BF16_LEVELS)) fail_msg("%s is %.3f levels from %s", isas[i], apart, isas[0]);
        limn_result_free(other);
    }
    limn_result_free(best);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errs_little),
        cmocka_unit_test(holds_for_the_transformer_alone),
        cmocka_unit_test(gives_the_same_picture_on_any_number_of_threads),
        cmocka_unit_test(runs_on_every_instruction_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
