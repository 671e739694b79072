#include "unit.h"

#include "catalog/price.h"
#include "flux/references.h"

// The two components of the model page: 0.008 USD a megapixel, in and out.
static const struct price_list PAGE = {
    {{PRICE_INPUT, PRICE_MEGAPIXEL, 8000000000}, {PRICE_OUTPUT, PRICE_MEGAPIXEL, 8000000000}}, 2};

static int64_t cost(const struct price_list *list, struct price_use use) {
    struct price price;
    struct error error = {0};
    assert_ok(price_of(list, &use, &price, &error), error);
    int64_t sum = 0;
    for (int i = 0; i < price.count; i++) sum += price.lines[i].micros;
    assert_int_equal(sum, price.micros);
    return price.micros;
}

static struct price_use pictures(int width, int height, int images) {
    return (struct price_use){.calls = 1, .output = {width, height}, .images = images};
}

static void page_examples(void **state) {
    assert_int_equal(cost(&PAGE, pictures(1024, 1024, 1)), 8000);
    assert_int_equal(cost(&PAGE, pictures(1920, 1080, 1)), 16000);
    assert_int_equal(cost(&PAGE, pictures(2048, 2048, 1)), 32000);
    struct price_use edit = pictures(1024, 1024, 1);
    edit.references[0] = (struct price_picture){1024, 1024};
    edit.reference_count = 1;
    assert_int_equal(cost(&PAGE, edit), 16000);
    struct price_use four = pictures(2048, 2048, 1);
    for (int i = 0; i < 4; i++) four.references[i] = (struct price_picture){5000, 4000};
    four.reference_count = 4;
    assert_int_equal(cost(&PAGE, four), 160000);
}

static void each_picture_is_rounded_up_by_itself(void **state) {
    static const struct {
        int width, height, megapixels;
    } cases[] = {{1, 1, 1},         {64, 64, 1},     {1024, 1023, 1}, {1024, 1024, 1}, {1024, 1025, 2},
                 {1025, 1024, 2},   {1568, 672, 2},  {1448, 1448, 2}, {1449, 1448, 3}, {2048, 1024, 2},
                 {2048, 1536, 3},   {2048, 1537, 4}, {2048, 2048, 4}, {2049, 2048, 4}, {8192, 8192, 4},
                 {65536, 65536, 4}, {2000000, 1, 1}, {0, 100, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t found = cost(&PAGE, pictures(cases[i].width, cases[i].height, 1)) / 8000;
        if (found != cases[i].megapixels)
            fail_msg("%dx%d: %lld megapixels", cases[i].width, cases[i].height, (long long)found);
        struct price_use use = {.calls = 1, .reference_count = 1}; // as a reference beside no picture
        use.references[0] = (struct price_picture){cases[i].width, cases[i].height};
        assert_int_equal(cost(&PAGE, use), 8000 * cases[i].megapixels);
    }
    struct price_use two = {.calls = 1, .reference_count = 2}; // 0.5 + 0.5 megapixels are two, not one
    two.references[0] = two.references[1] = (struct price_picture){1024, 512};
    assert_int_equal(cost(&PAGE, two), 16000);
}

static void references_are_paid_for_once_a_call(void **state) {
    struct price_use use = pictures(1024, 1024, 10);
    use.references[0] = (struct price_picture){1024, 1024};
    use.reference_count = 1;
    assert_int_equal(cost(&PAGE, use), 8000 * 11);
    use.calls = 3;
    assert_int_equal(cost(&PAGE, use), 8000 * 13);
    use.images = 4; // partial failure: what was delivered is billed
    assert_int_equal(cost(&PAGE, use), 8000 * 7);
}

static void images_and_tokens(void **state) {
    const struct price_list images = {
        {{PRICE_OUTPUT, PRICE_IMAGE, 40000000000}, {PRICE_INPUT, PRICE_IMAGE, 1000000000}}, 2};
    struct price_use use = pictures(512, 512, 2);
    use.references[0] = use.references[1] = (struct price_picture){3000, 2000};
    use.reference_count = 2;
    assert_int_equal(cost(&images, use), 80000 + 2000);
    // 0.4 micro-dollars a token; a reference is shrunk to a megapixel: 1254x836 -> 78 x 52 tokens.
    const struct price_list tokens = {
        {{PRICE_OUTPUT, PRICE_TOKEN, 400000}, {PRICE_INPUT, PRICE_TOKEN, 400000}}, 2};
    use = pictures(500, 500, 2);
    use.rendered = (struct price_picture){512, 512};
    assert_int_equal(cost(&tokens, use), 819); // 2 x 32 x 32 x 0.4 = 819.2
    use.references[0] = (struct price_picture){3000, 2000};
    use.reference_count = 1;
    assert_int_equal(cost(&tokens, use), 819 + 1622); // 4056 x 0.4 = 1622.4
    use.reference_token_pixels = 16384;               // 156x104 -> 9 x 6
    assert_int_equal(cost(&tokens, use), 819 + 22);
}

// Tokens are billed as the engine counts them.
static void reference_tokens_are_the_engines(void **state) {
    static const int sides[] = {64,   65,   79,   100,  500,  777,  1000, 1023,
                                1024, 1025, 1919, 2048, 3001, 4096, 5000};
    enum { COUNT = sizeof sides / sizeof *sides };
    const struct price_list list = {{{PRICE_INPUT, PRICE_TOKEN, 1000000}}, 1}; // a micro-dollar each
    for (int i = 0; i < COUNT * COUNT; i++) {
        struct reference_size size;
        struct error error = {0};
        int width = sides[i % COUNT], height = sides[i / COUNT];
        if (!reference_size("image", width, height, 1048576, 16, &size, &error))
            continue; // its shape is refused
        struct price_use use = {.calls = 1, .reference_count = 1};
        use.references[0] = (struct price_picture){width, height};
        assert_int_equal(cost(&list, use), size.width / 16 * (size.height / 16));
    }
}

static void nothing_costs_nothing(void **state) {
    const struct price_list free_of_charge = {{{0}}, 0};
    assert_int_equal(cost(&free_of_charge, pictures(1024, 1024, 10)), 0);
    assert_int_equal(cost(&PAGE, pictures(1024, 1024, 0)), 0);
    assert_int_equal(cost(&PAGE, pictures(1024, 1024, -3)), 0);
}

static void the_dearest_request_can_be_counted(void **state) {
    struct price_list dear = {{{PRICE_OUTPUT, PRICE_TOKEN, 1000000000000000}}, 1};
    struct price_use use = pictures(65536, 65536, 10000);
    struct price price;
    struct error error = {0};
    assert_false(
        price_of(&dear, &use, &price, &error)); // 1.7e11 tokens at 1000 USD: refused, not wrapped round
    assert_contains(error.message, "price");
}

static void estimate_body(void **state) {
    struct price_use use = pictures(1920, 1080, 2);
    struct price price;
    struct error error = {0};
    use.references[0] = (struct price_picture){1024, 512};
    use.reference_count = 1;
    assert_ok(price_of(&PAGE, &use, &price, &error), error);
    json_t *body = price_estimate_json("flux.2-dev-turbo", "fal", &price);
    json_t *expected = json_loads(
        "{\"estimated\": true, \"model\": \"flux.2-dev-turbo\", \"provider\": \"fal\", "
        "\"total_cost_micros\": 40000,"
        " \"currency\": \"USD\", \"components\": ["
        "{\"type\": \"input\", \"metric\": \"megapixel\", \"quantity\": 0.5, \"billable_quantity\": 1,"
        " \"unit_price\": 0.008, \"total_cost\": 8000, \"charged\": \"request\"},"
        "{\"type\": \"output\", \"metric\": \"megapixel\", \"quantity\": 3.955078, \"billable_quantity\": 4,"
        " \"unit_price\": 0.008, \"total_cost\": 32000}]}",
        0, NULL);
    char *text = json_dumps(body, JSON_COMPACT);
    if (!json_equal(body, expected)) fail_msg("%s", text);
    free(text);
    json_decref(expected);
    json_decref(body);
}

static void unit_prices_are_plain_decimals(void **state) {
    static const struct {
        const char *text;
        int64_t picos;
    } good[] = {{"0", 0},
                {"0.008", 8000000000},
                {"1", 1000000000000},
                {"1000", 1000000000000000},
                {"0.0000004", 400000},
                {"0.000000000001", 1},
                {"12.5", 12500000000000}};
    static const char *const bad[] = {"",     "-1",  "+1",   "1e-3", ".5",   "1.",      "1000.1",
                                      "1001", "nan", "0x10", "1,5",  "0.0 ", "9999999", "0.0000000000001"};
    int64_t picos;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(price_read_unit(good[i].text, &picos));
        assert_int_equal(picos, good[i].picos);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (price_read_unit(bad[i], &picos)) fail_msg("\"%s\" was read", bad[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page_examples),
        cmocka_unit_test(each_picture_is_rounded_up_by_itself),
        cmocka_unit_test(references_are_paid_for_once_a_call),
        cmocka_unit_test(images_and_tokens),
        cmocka_unit_test(reference_tokens_are_the_engines),
        cmocka_unit_test(nothing_costs_nothing),
        cmocka_unit_test(the_dearest_request_can_be_counted),
        cmocka_unit_test(estimate_body),
        cmocka_unit_test(unit_prices_are_plain_decimals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
