#include "unit.h"

#include "base/near.h"

static void distances(void **state) {
    assert_int_equal(near_distance("", ""), 0);
    assert_int_equal(near_distance("abc", ""), 3);
    assert_int_equal(near_distance("flux.2-dev", "flux2-dev"), 1);
    assert_int_equal(near_distance("FLUX", "flux"), 0);
    assert_int_equal(near_distance("prot", "port"), 1); // neighbours swapped
    assert_int_equal(near_distance("kitten", "sitting"), 3);
    char longer[102];
    memset(longer, 'a', 101);
    longer[101] = 0;
    assert_int_equal(near_distance(longer, "a"), 1000);
}

static void the_nearest_is_suggested(void **state) {
    const char *const names[] = {"host", NULL, "port", "public_base_url", "trusted_proxies"};
    assert_string_equal(near_match("prot", names, 5), "port");
    assert_string_equal(near_match("Host", names, 5), "host");
    assert_string_equal(near_match("trusted_proxy", names, 5), "trusted_proxies");
    assert_string_equal(near_match("trusted", names, 5), "trusted_proxies"); // its beginning
    assert_string_equal(near_match("ports_to_listen_on", names, 5), "port");
    assert_null(near_match("ho", names, 5));
    assert_null(near_match("colour", names, 5));
    assert_null(near_match("x", names, 5));
    assert_null(near_match("", names, 5));
}

static void globs(void **state) {
    assert_true(glob_match("gpt-image-*", "gpt-image-1"));
    assert_true(glob_match("gpt-image-*", "gpt-image-"));
    assert_false(glob_match("gpt-image-*", "gpt-imag"));
    assert_true(glob_match("*", ""));
    assert_true(glob_match("*b*c", "abbbcxc"));
    assert_false(glob_match("*b*c", "abbbcx"));
    assert_false(glob_match("a", "A"));
    assert_true(glob_match("a*b*", "ab"));
    assert_false(glob_match("", "a"));
    char text[2001]; // no blow-up
    memset(text, 'a', 2000);
    text[2000] = 0;
    assert_false(glob_match("*a*a*a*a*a*a*a*a*a*a*b", text));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distances),
        cmocka_unit_test(the_nearest_is_suggested),
        cmocka_unit_test(globs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
