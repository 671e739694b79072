// Texts of Python sources, as Python reads them, and what is refused.
#include "unit.h"

#include "weights/python_text.h"

static void check(const char *source, const char *expected) {
    struct buffer value = {0};
    struct error error = {0};
    assert_ok(python_text("file.py", source, strlen(source), "NAME", &value, &error), error);
    assert_string_equal(value.data ? value.data : "", expected);
    buffer_free(&value);
}

static void refuse(const char *source, const char *message) {
    struct buffer value = {0};
    struct error error = {0};
    assert_false(python_text("file.py", source, strlen(source), "NAME", &value, &error));
    assert_contains(error.message, message);
    buffer_free(&value);
}

static void literals(void **state) {
    check("NAME = 'a'", "a");
    check("NAME=\"it's\"\n", "it's");
    check("NAME = \"\"", "");
    check("NAME = '''a\n\"b' ''c'''\n", "a\n\"b' ''c");
    check("NAME = \"\"\"a\r\nb\rc\"\"\"\r\n", "a\nb\nc"); // Python reads every end of a line as \n
    check("NAME = 'a' \"b\" '''c'''\n", "abc");
    check("NAME = ('a'  # one\n   'b'\n\n)\n", "ab");
    check("NAME = (('a')\n)\n", "a");
    check("NAME = 'a' \\\n 'b'\n", "ab");
    check("NAME: str = u'a'\n", "a");
    check("NAME : typing.Final = R'a\\n\\''\n", "a\\n\\'");
    check("NAME = '''\n a \t\n'''.strip()\n", "a");
    check("NAME = ('a ' ' b ').strip()  # end", "a  b");
    check("\xef\xbb\xbfNAME = 'a'\n", "a");
}

static void escapes(void **state) {
    check("NAME = 'a\\n\\t\\\\\\'\\\"\\a\\b\\f\\v\\r'\n", "a\n\t\\'\"\a\b\f\v\r");
    check("NAME = '\\x41\\u00fc\\u2192\\U0001F600\\101\\7z\\q'\n", "A\u00fc\u2192\U0001F600A\az\\q");
    check("NAME = 'a\\\nb'\n", "ab");
    check("NAME = 'ü→'\n", "ü→");
}

static void the_rest_of_the_file(void **state) {
    check("# NAME = 'no'\nX = 'NAME = 1'\nY = '''\nNAME = 'no'\n'''\nNAME = 'yes'\ndef f():\n    NAME = "
          "'inner'\n",
          "yes");
    check("NAMES = 'a'\nMY_NAME = 'b'\nNAME = 'c'\nif NAME == 'd':\n    pass\n", "c");
    check("X = f'{NAME!r}'\nY = b'\\''\nZ = r'\\''\nNAME = 'a'\n", "a");
    check("NAME = 'a'\nNAME == 'b'\n", "a");
    check("print(bar'x')\nNAME = 'a'", "a"); // no Python, but what is passed over is not judged
}

static void refused(void **state) {
    refuse("", "file.py: there is no constant NAME");
    refuse("NAME_2 = 'a'\n", "there is no constant NAME");
    refuse("  NAME = 'a'\n", "there is no constant NAME");
    refuse("\n\nNAME = 5\n", "NAME: file.py:3: expected a text in quotes");
    refuse("NAME = open('x').read()\n", "expected a text in quotes");
    refuse("NAME = f'a'\n", "a formatted text or bytes");
    refuse("NAME = Rb'a'\n", "a formatted text or bytes");
    refuse("NAME = 'a' + 'b'\n", "expected nothing but texts in quotes");
    refuse("NAME = 'a', 'b'\n", "expected nothing but texts in quotes");
    refuse("NAME = 'a'.upper()\n", "expected nothing but texts in quotes");
    refuse("NAME = ('a'\nX = 1\n", "expected nothing but texts in quotes");
    refuse("NAME = 'a\n", "file.py:1: a text that is not closed");
    refuse("X = 1\nNAME = '''a\n\n", "file.py:2: a text that is not closed");
    refuse("NAME = '\\N{DASH}'\n", "\\N{...} is not understood");
    refuse("NAME = '\\x4'\n", "too few hexadecimal digits");
    refuse("NAME = '\\ud800'\n", "an escape that is no character");
    refuse("NAME = '\\0'\n", "an escape that is no character");
    refuse("NAME = 'a\\", "a backslash at the end");
    refuse("NAME = 'a'\nNAME = 'b'\n", "file.py:2: the constant is assigned a second time");
    refuse("X = 'open\nNAME = 'a'\n", "file.py:1: a text that is not closed");
}

static void bytes_of_0(void **state) {
    static const char source[] = "NAME = 'a\0b'\n";
    struct buffer value = {0};
    struct error error = {0};
    assert_false(python_text("file.py", source, sizeof source - 1, "NAME", &value, &error));
    assert_contains(error.message, "a 0 byte");
    buffer_free(&value);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(literals), cmocka_unit_test(escapes),    cmocka_unit_test(the_rest_of_the_file),
        cmocka_unit_test(refused),  cmocka_unit_test(bytes_of_0),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
