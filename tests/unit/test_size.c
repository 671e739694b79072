#include "unit.h"

#include "catalog/size.h"
#include "flux/references.h"

#include <math.h>

#define RANGE(low, high)                                                                                     \
    { .least = (low), .most = (high) }
#define K(n) (1048576.0 * (n) * (n))

static const struct {
    const char *name;
    struct size_rules rules;
} RULES[] = {
    {"dev", {16, 64, 2048, 0, 1024, 1024, RANGE(1.0 / 8, 8), RANGE(K(0.25), K(2))}},
    {"listed",
     {16,
      64,
      4096,
      0,
      1024,
      1024,
      {7, {1.0 / 8, 1.0 / 4, 9.0 / 16, 1, 16.0 / 9, 4, 8}, 0, 0},
      {4, {K(0.5), K(1), K(2), K(4)}, 0, 0}}},
    {"mega", {16, 64, 2048, 0, 1024, 1024, RANGE(1.0 / 8, 8), {2, {262144, 1048576}, 0, 0}}},
    {"small", {16, 64, 1024, 0, 128, 128, RANGE(1.0 / 4, 4), {2, {K(0.125), K(0.25)}, 0, 0}}},
    {"capped", {16, 256, 4096, 4194304, 1360, 768, RANGE(1.0 / 8, 8), RANGE(K(0.5), K(2))}},
};

static const struct size_rules *rules_of(const char *name) {
    for (size_t i = 0; i < sizeof RULES / sizeof *RULES; i++)
        if (!strcmp(RULES[i].name, name)) return &RULES[i].rules;
    fail_msg("no rules \"%s\"", name);
    return NULL;
}

static const char *given(const char *text) {
    return strcmp(text, "-") ? text : NULL;
}

// One line of the table: what came out, in the table's own words.
static void come_to(char columns[6][40], char *found, size_t size) {
    const struct size_rules *rules = rules_of(columns[0]);
    struct size_request request;
    struct error error = {0};
    int width = 0, height = 0;
    if (given(columns[4])) assert_true(size_read_pixels(columns[4], &width, &height));
    if (!size_parse(given(columns[1]), given(columns[2]), given(columns[3]), &request, &error)) {
        assert_int_equal(error.kind, ERROR_INPUT);
        assert_contains(error.message, error.field);
        snprintf(found, size, "error:%s", error.field);
        return;
    }
    struct size_result result = size_resolve(rules, &request, width, height);
    assert_int_equal(result.render_width % rules->multiple, 0);
    assert_int_equal(result.render_height % rules->multiple, 0);
    assert_in_range(result.render_width - result.deliver_width, 0, rules->multiple - 1);
    assert_in_range(result.render_height - result.deliver_height, 0, rules->multiple - 1);
    snprintf(found, size, "%dx%d %dx%d", result.deliver_width, result.deliver_height, result.render_width,
             result.render_height);
}

static void table_holds(void **state) {
    FILE *file = fopen(LIMN_SOURCE_DIR "/tests/fixtures/sizes.txt", "r");
    assert_non_null(file);
    char line[256], columns[6][40], rendered[40], expected[100], found[100];
    int cases = 0, wrong = 0;
    while (fgets(line, sizeof line, file)) {
        if (line[0] == '#' || line[0] == '\n') continue;
        int read = sscanf(line, "%39s %39s %39s %39s %39s %39s %39s", columns[0], columns[1], columns[2],
                          columns[3], columns[4], columns[5], rendered);
        assert_in_range(read, 6, 7);
        snprintf(expected, sizeof expected, "%s%s%s", columns[5], read == 7 ? " " : "",
                 read == 7 ? rendered : "");
        come_to(columns, found, sizeof found);
        if (strcmp(expected, found)) printf("%.*s: found %s\n", (int)strcspn(line, "\n"), line, found);
        wrong += strcmp(expected, found) != 0;
        cases++;
    }
    fclose(file);
    assert_int_equal(wrong, 0);
    assert_true(cases >= 120);
}

static void what_another_overrides_is_noted(void **state) {
    struct size_request request;
    struct error error = {0};
    assert_ok(size_parse("100x50", "1:1", "2K", &request, &error), error);
    assert_true(request.ratio_unused && request.tier_unused);
    assert_ok(size_parse("16:9", "1:1", "2K", &request, &error), error);
    assert_true(request.ratio_unused && !request.tier_unused);
    assert_ok(size_parse(NULL, "1:1", "2K", &request, &error), error);
    assert_true(!request.ratio_unused && !request.tier_unused);
    assert_ok(size_parse("auto", "auto", NULL, &request, &error), error);
    assert_true(!request.ratio_unused && !request.tier_unused && request.width == 0);
}

static void a_tier_as_size_is_pointed_to_resolution(void **state) {
    struct size_request request;
    struct error error = {0};
    assert_false(size_parse("2K", NULL, NULL, &request, &error));
    assert_contains(error.message, "resolution");
}

// Whatever is asked, the picture lies within the limits.
static void every_size_lies_within_the_limits(void **state) {
    static const int sides[] = {1,   2,    15,   16,   63,   64,   65,   100,   255,
                                256, 1000, 1024, 2047, 2048, 2049, 4096, 30000, 65536};
    enum { COUNT = sizeof sides / sizeof *sides };
    for (size_t r = 0; r < sizeof RULES / sizeof *RULES; r++) {
        const struct size_rules *rules = &RULES[r].rules;
        double area = rules->area_most > 0 ? rules->area_most : (double)rules->side_most * rules->side_most;
        for (int i = 0; i < COUNT * COUNT * 3; i++) {
            int w = sides[i % COUNT], h = sides[i / COUNT % COUNT], how = i / (COUNT * COUNT);
            struct size_request request = {0};
            if (how == 0) request = (struct size_request){.width = w, .height = h};
            if (how == 1) request = (struct size_request){.ratio = (double)w / h, .area = (double)w * h};
            struct size_result size = size_resolve(rules, &request, how == 2 ? w : 0, how == 2 ? h : 0);
            assert_in_range(size.deliver_width, rules->side_least, rules->side_most);
            assert_in_range(size.deliver_height, rules->side_least, rules->side_most);
            assert_in_range(size.render_width, rules->side_least, rules->side_most);
            assert_in_range(size.render_height, rules->side_least, rules->side_most);
            assert_true((double)size.deliver_width * size.deliver_height <= area);
            const struct size_axis *ratios = &rules->ratios;
            double most = ratios->count ? ratios->values[ratios->count - 1] : ratios->most;
            int longer = size.deliver_width > size.deliver_height ? size.deliver_width : size.deliver_height;
            int shorter = size.deliver_width + size.deliver_height - longer;
            // A side is rounded to whole pixels, or to the multiple where a ratio was asked for or comes of a reference.
            int step = how == 0 ? 1 : rules->multiple;
            if (shorter > rules->side_least) assert_true(longer - step <= most * (shorter + step));
        }
    }
}

// An edit that says nothing gets the size that the reference pipeline gives it: the first reference's, as the engine prepares it.
static void an_edits_default_is_the_engines(void **state) {
    const struct size_rules *rules = rules_of("dev");
    const struct size_request nothing = {0};
    for (int width = 64; width <= 2048; width += 61)
        for (int height = 64; height <= 2048; height += 67) {
            struct reference_size expected;
            struct error error = {0};
            if (!reference_size("image", width, height, 1048576, 16, &expected, &error)) continue;
            struct size_result size = size_resolve(rules, &nothing, width, height);
            assert_int_equal(size.render_width, expected.width);
            assert_int_equal(size.render_height, expected.height);
        }
}

static void nearest_is_by_logarithm(void **state) {
    struct size_axis list = {2, {4, 8}, 0, 0}, range = RANGE(2, 3);
    assert_true(size_nearest(&list, 7) == 8);        // the page's example
    assert_true(size_nearest(&list, 5.6) == 4);      // nearer to 4 by logarithm, not by difference
    assert_true(size_nearest(&list, sqrt(32)) == 8); // as near: the larger
    assert_true(size_nearest(&list, 1e9) == 8 && size_nearest(&list, 1e-9) == 4);
    assert_true(size_nearest(&range, 2.5) == 2.5);
    assert_true(size_nearest(&range, 1) == 2 && size_nearest(&range, 9) == 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_holds),
        cmocka_unit_test(what_another_overrides_is_noted),
        cmocka_unit_test(a_tier_as_size_is_pointed_to_resolution),
        cmocka_unit_test(every_size_lies_within_the_limits),
        cmocka_unit_test(an_edits_default_is_the_engines),
        cmocka_unit_test(nearest_is_by_logarithm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
