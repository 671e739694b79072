// What every unit test includes: cmocka with the headers that it wants before it.
#ifndef LIMN_TESTS_UNIT_H
#define LIMN_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> // defines: assert_true, assert_string_equal, ...

// Fails unless [text] holds [part], and shows both.
#define assert_contains(text, part)                                                                          \
    do {                                                                                                     \
        if (!strstr((text), (part))) fail_msg("\"%s\" does not contain \"%s\"", (text), (part));             \
    } while (0)

// Fails with the message of a struct error unless [condition].
#define assert_ok(condition, error)                                                                          \
    do {                                                                                                     \
        if (!(condition)) fail_msg("%s: %s", #condition, (error).message);                                   \
    } while (0)

#endif
