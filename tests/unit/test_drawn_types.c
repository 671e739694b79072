// Models with weights of every type that `limn convert` writes, drawn with: pictures of the bundled model lie as near to those of
// its own weights as the type allows, and those of a small random one are what its decoded weights give.
#include "unit.h"

#include "flux/convert_model.h"
#include "limn/limn.h"
#include "tensor/block.h"

#include <ftw.h>
#include <unistd.h>

#define PICTOGRAM LIMN_SOURCE_DIR "/models/pictogram"
#define RANDOM    LIMN_SOURCE_DIR "/tests/fixtures/model-a"

static char root[] = "/tmp/limn-drawn-XXXXXX";

// levels: mean difference of a picture's values, of 255, from one with the model's own weights, at most. That is two to four times
// the mean of 24 pictures (docs/precision.md).
static const struct form {
    enum dtype type;
    bool row_scales;
    double levels;
} forms[] = {
    {DTYPE_F32, false, 0},       {DTYPE_F16, false, 0.3},    {DTYPE_BF16, false, 0},
    {DTYPE_F8_E4M3, false, 1.5}, {DTYPE_F8_E4M3, true, 1.5}, {DTYPE_F8_E5M2, false, 3},
    {DTYPE_NVFP4, false, 4},     {DTYPE_NF4, false, 4},      {DTYPE_Q8_0, false, 0.5},
    {DTYPE_Q6_K, false, 1},      {DTYPE_Q5_K, false, 1.8},   {DTYPE_Q5_1, false, 2},
    {DTYPE_Q5_0, false, 3.5},    {DTYPE_Q4_K, false, 3.3},   {DTYPE_Q4_1, false, 3.6},
    {DTYPE_Q4_0, false, 4.5},    {DTYPE_IQ4_NL, false, 4},   {DTYPE_IQ4_XS, false, 4},
    {DTYPE_Q3_K, false, 6},      {DTYPE_Q2_K, false, 12},
};
enum { FORMS = sizeof forms / sizeof *forms };

static const char *in_root(const char *name) {
    static char paths[2][100];
    static int next;
    char *path = paths[next++ % 2];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static int unlink_one(const char *path, const struct stat *status, int type, struct FTW *walk) {
    (void)status, (void)type, (void)walk;
    return remove(path);
}

static void drop(const char *folder) {
    assert_int_equal(nftw(folder, unlink_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

// text: the type of the text encoder; DTYPE_NONE: the same.
static void convert(const char *source, const char *target, enum dtype type, bool row_scales,
                    enum dtype text) {
    struct error error = {0};
    const struct convert_model wanted = {.source = source,
                                         .target = target,
                                         .type = type,
                                         .row_scales = row_scales,
                                         .text_type = text,
                                         .threads = 2};
    assert_ok(convert_model(&wanted, &error), error);
}

static struct limn_result *draw(const char *folder, enum limn_compute compute, int side, int steps) {
    struct limn_options options;
    struct limn_request request;
    struct limn_error error = {0};
    limn_options_init(&options);
    options.threads = 2;
    options.compute = compute;
    struct limn_model *model = limn_open(folder, &options, &error);
    assert_ok(model, error);
    limn_request_init(&request);
    request.prompt = "a large red circle to the left of a small blue star on a white background";
    request.seed = 5;
    request.steps = steps;
    request.width = request.height = side;
    struct limn_result *result = limn_run(model, &request, &error);
    assert_ok(result, error);
    limn_close(model);
    return result;
}

// The mean difference; *most: the largest.
static double levels_apart(const struct limn_result *a, const struct limn_result *b, int *most) {
    const int64_t count = (int64_t)a->width * a->height * 3;
    int64_t sum = 0;
    assert_true(a->width == b->width && a->height == b->height);
    *most = 0;
    for (int64_t i = 0; i < count; i++) {
        const int off = abs(a->images[0].pixels[i] - b->images[0].pixels[i]);
        *most = off > *most ? off : *most;
        sum += off;
    }
    return (double)sum / (double)count;
}

#ifdef __SANITIZE_ADDRESS__
static bool is_searched(enum dtype type) {
    return dtype_info(type)->block_values == 256 || type == DTYPE_IQ4_NL;
}
#endif

static void every_type_draws_as_the_model_does(void **state) {
    struct limn_result *own = draw(PICTOGRAM, LIMN_COMPUTE_BF16, 128, 0);
    for (int i = 0; i < FORMS; i++) {
        const char *folder = in_root("pictogram");
        int most;
#ifdef __SANITIZE_ADDRESS__
        if (is_searched(forms[i].type)) continue; // minutes with sanitizers, which test_encode.c is run with
#endif
        convert(PICTOGRAM, folder, forms[i].type, forms[i].row_scales, DTYPE_NONE);
        struct limn_result *result = draw(folder, LIMN_COMPUTE_BF16, 128, 0);
        const double levels = levels_apart(result, own, &most);
        print_message("%-7s %.3f levels, at most %d\n", dtype_info(forms[i].type)->name, levels, most);
        if (levels > forms[i].levels) fail_msg("%s: %.3f levels", dtype_info(forms[i].type)->name, levels);
        // F32 holds all of these bf16 weights, and F16 nearly all; a coarser type must show.
        if (forms[i].levels > 0.3) assert_true(levels > 0);
        limn_result_free(result);
        drop(folder);
    }
    limn_result_free(own);
}

// The same picture from stored weights and from what they decode to in f32. A scale of a whole row or matrix is applied to the
// sums, which rounds otherwise than scaled weights do: in f32 by no whole level, in bf16 by what bf16 is coarse. A Mistral in
// GGUF has the rows of its heads in another order, which changes sums too, and stays in F32 here.
static void stored_weights_are_what_they_decode_to(void **state) {
    for (int i = 0; i < FORMS; i++) {
        char stored[100], decoded[100];
        snprintf(stored, sizeof stored, "%s/stored", root);
        snprintf(decoded, sizeof decoded, "%s/decoded", root);
        convert(RANDOM, stored, forms[i].type, forms[i].row_scales,
                block_has(forms[i].type) ? DTYPE_F32 : DTYPE_NONE);
        convert(stored, decoded, DTYPE_F32, false, DTYPE_NONE);
        const bool scaled =
            forms[i].type == DTYPE_F8_E4M3 || forms[i].type == DTYPE_F8_E5M2 || forms[i].type == DTYPE_NVFP4;
        for (int compute = LIMN_COMPUTE_F32; compute <= LIMN_COMPUTE_BF16; compute++) {
            int most;
            struct limn_result *a = draw(stored, (enum limn_compute)compute, 64, 2);
            struct limn_result *b = draw(decoded, (enum limn_compute)compute, 64, 2);
            levels_apart(a, b, &most);
            if (scaled ? most > (compute == LIMN_COMPUTE_F32 ? 1 : 4) : most > 0)
                fail_msg("%s: off by %d", dtype_info(forms[i].type)->name, most);
            limn_result_free(a);
            limn_result_free(b);
        }
        drop(stored);
        drop(decoded);
    }
}

static int set_up(void **state) {
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state) {
    return nftw(root, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_draws_as_the_model_does),
        cmocka_unit_test(stored_weights_are_what_they_decode_to),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
