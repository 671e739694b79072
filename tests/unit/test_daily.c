// What each name has had today.
#include "gateway/daily.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define DAY (86400 * (int64_t)1000000)

static void test_days(void **state) {
    struct error error = {0};
    struct daily *daily = daily_open(&error);
    int64_t noon = 20000 * DAY + DAY / 2;
    double wait = 0;
    assert_non_null(daily);
    assert_true(daily_take(daily, "a", 3, 5, noon, &wait));
    assert_false(daily_take(daily, "a", 3, 5, noon, &wait));
    assert_true(wait == 43200);
    assert_true(daily_take(daily, "b", 5, 5, noon, &wait)); // another's are his own
    assert_true(daily_take(daily, "a", 2, 5, noon, &wait));
    assert_false(daily_take(daily, "a", 1, 5, noon, &wait));
    daily_give_back(daily, "a", 1, noon);
    assert_true(daily_take(daily, "a", 1, 5, noon + 1, &wait));
    daily_give_back(daily, "nobody", 1, noon);
    assert_true(daily_take(daily, "a", 5, 5, noon + DAY / 2, &wait)); // a new day
    daily_give_back(daily, "a", 9, noon + DAY / 2);                   // never below nothing
    assert_false(daily_take(daily, "a", 6, 5, noon + DAY / 2, &wait));
    daily_close(daily);
    daily_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_days)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
