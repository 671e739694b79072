#include "unit.h"

#include "base/yaml.h"

#include <unistd.h>

static struct yaml *parse(const char *text) {
    struct error error = {0};
    struct yaml *yaml = yaml_parse("t.yaml", text, strlen(text), &error);
    if (!yaml) fail_msg("%s", error.message);
    return yaml;
}

// What is said of a text that is refused.
static const char *refusal(const char *text, size_t size) {
    static struct error error;
    error = (struct error){0};
    struct yaml *yaml = yaml_parse("t.yaml", text, size, &error);
    if (yaml) fail_msg("accepted: %s", text);
    assert_int_equal(error.kind, ERROR_INPUT);
    return error.message;
}

static void nodes_know_their_place(void **state) {
    struct yaml *yaml = parse("# a comment\n"
                              "server:\n"
                              "  port: 8080\n"
                              "  hosts: [a, 'b',\n"
                              "          \"c\\n\"]\n"
                              "text: |\n"
                              "  two\n"
                              "  lines\n"
                              "empty:\n"
                              "list:\n"
                              "  - x: 1\n"
                              "    y: ~\n"
                              "  - plain\n");
    const struct yaml_node *root = yaml_root(yaml), *server = yaml_get(root, "server");
    assert_int_equal(root->type, YAML_TYPE_MAP);
    assert_int_equal(root->count, 4);
    assert_int_equal(server->line, 2);
    const struct yaml_node *port = yaml_get(server, "port"), *hosts = yaml_get(server, "hosts");
    assert_int_equal(port->line, 3);
    assert_string_equal(port->file, "t.yaml");
    assert_int_equal(hosts->count, 3);
    assert_int_equal(hosts->items[2].line, 5);
    assert_string_equal(hosts->items[2].text, "c\n");
    assert_true(hosts->items[1].quoted && !hosts->items[0].quoted);
    assert_string_equal(yaml_get(root, "text")->text, "two\nlines\n");
    assert_null(yaml_get(root, "empty"));
    const struct yaml_node *list = yaml_get(root, "list"), *x = yaml_get(&list->items[0], "x");
    char path[100];
    yaml_path(x, path, sizeof path);
    assert_string_equal(path, "list[0].x");
    yaml_path(x, path, 6);
    assert_string_equal(path, "list[");
    assert_int_equal(x->line, 11);
    assert_null(yaml_get(&list->items[1], "x"));
    yaml_close(yaml);
}

static void an_empty_file_is_nothing(void **state) {
    static const char *const texts[] = {"", "# only a comment\n", "---\n", "~\n", "null"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct yaml *yaml = parse(texts[i]);
        assert_int_equal(yaml_root(yaml)->type, YAML_TYPE_NULL);
        yaml_close(yaml);
    }
}

static void paths_survive_long_lists(void **state) {
    struct yaml *yaml =
        parse("a:\n  - {k: [0, {z: 1}]}\n  - b\n  - c\n  - d\n  - e\n  - f\nb: 1\nc: 1\nd: 1\ne: 1\n");
    const struct yaml_node *a = yaml_get(yaml_root(yaml), "a");
    const struct yaml_node *z = yaml_get(&yaml_get(&a->items[0], "k")->items[1], "z");
    char path[100];
    yaml_path(z, path, sizeof path);
    assert_string_equal(path, "a[0].k[1].z");
    assert_ptr_equal(a->items[5].parent, a);
    yaml_close(yaml);
}

static void aliases_stand_for_their_anchor(void **state) {
    struct yaml *yaml =
        parse("base: &b {side: 64, list: [1, 2]}\nother: *b\nmore: {deep: *b}\nword: &w hello\nagain: *w\n");
    const struct yaml_node *root = yaml_root(yaml);
    const struct yaml_node *deep = yaml_get(yaml_get(root, "more"), "deep");
    assert_int_equal(yaml_get(yaml_get(root, "other"), "list")->count, 2);
    assert_string_equal(yaml_get(deep, "side")->text, "64");
    assert_int_equal(deep->line, 3);
    assert_int_equal(yaml_get(deep, "side")->line, 1);
    assert_string_equal(yaml_get(root, "again")->text, "hello");
    yaml_close(yaml);
}

static void what_is_no_plain_tree_is_refused(void **state) {
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"a: 1\nb: 2\na: 3\n", "t.yaml:3: a: a second time; the first is in line 1"},
        {"a: 1\n---\nb: 2\n", "t.yaml:2: a second document"},
        {"a: !!int 1\n", "t.yaml:1: a tag"},
        {"!x {a: 1}\n", "t.yaml:1: a tag"},
        {"? [a]\n: 1\n", "t.yaml:1: a key that is no plain text"},
        {"&k a: 1\n", "t.yaml:1: an anchor or a tag on a key"},
        {"a: *b\n", "t.yaml:1: *b: there is no such anchor"},
        {"a: &a [1, *a]\n", "t.yaml:1: *a: an alias inside its own anchor"},
        {"a: 1\n b: 2\n", "t.yaml:2: "},
        {"a: [1, 2\n", "t.yaml:"},
        {"a: \"b\n", "t.yaml:"},
        {"a: \"b\\0c\"\n", "t.yaml:1: a 0 byte"},
        {"\ta: 1\n", "t.yaml:1: "},
        {"a: \xff\n", "t.yaml:"},
        {"a: \x01\n", "t.yaml:"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_contains(refusal(cases[i].text, strlen(cases[i].text)), cases[i].part);
    assert_non_null(refusal("a: b\0c", 6));
}

static void bombs_are_refused(void **state) {
    char text[20000] = "a: &a [x, x, x, x, x, x, x, x, x, x]\n";
    for (char name = 'b'; name <= 'j'; name++) { // ten times as many with each line
        size_t used = strlen(text);
        used += (size_t)snprintf(text + used, sizeof text - used, "%c: &%c [", name, name);
        for (int k = 0; k < 10; k++)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s*%c", k ? ", " : "", name - 1);
        snprintf(text + used, sizeof text - used, "]\n");
    }
    assert_contains(refusal(text, strlen(text)), "t.yaml:5: more than 50000 values");
    memset(text, '[', 10000);
    assert_contains(refusal(text, 10000), "nested more than 24 deep");
    size_t used = 0;
    for (int k = 0; k < 100; k++)
        used += (size_t)snprintf(text + used, sizeof text - used, "k%d: &a%d 1\n", k, k);
    assert_contains(refusal(text, used), "t.yaml:65: more than 64 anchors");
}

static void readers_read(void **state) {
    struct yaml *yaml = parse("i: 8_080\nn: -0.5e1\nt: true\nf: false\ns: 'text'\nw: full\n");
    const struct yaml_node *root = yaml_root(yaml);
    struct error error = {0};
    int64_t integer = 0;
    double number = 0;
    bool flag = false;
    const char *text = NULL;
    int index = 0;
    assert_ok(yaml_integer(yaml_get(root, "i"), 0, 65535, &integer, &error), error);
    assert_int_equal(integer, 8080);
    assert_ok(yaml_number(yaml_get(root, "n"), -5, 0, &number, &error), error);
    assert_true(number == -5);
    assert_ok(yaml_bool(yaml_get(root, "t"), &flag, &error), error);
    assert_true(flag);
    assert_ok(yaml_bool(yaml_get(root, "f"), &flag, &error), error);
    assert_false(flag);
    assert_ok(yaml_text(yaml_get(root, "s"), &text, &error), error);
    assert_string_equal(text, "text");
    assert_ok(yaml_word(yaml_get(root, "w"), (const char *const[]){"normal", "full"}, 2, &index, &error),
              error);
    assert_int_equal(index, 1);
    yaml_close(yaml);
}

static void readers_say_what_they_expected(void **state) {
    struct yaml *yaml =
        parse("a:\n  word: abc\n  quoted: '7'\n  list: [1]\n  map: {}\n  big: 99999999999999999999\n"
              "  part: 1_\n  hex: 0x10\n  none: ~\n  yes: yes\n  inf: 1e999\n");
    const struct yaml_node *a = yaml_get(yaml_root(yaml), "a");
    static const struct {
        const char *key, *message;
    } integers[] = {
        {"word", "t.yaml:2: a.word: expected an integer from 0 to 9, found abc"},
        {"quoted", "t.yaml:3: a.quoted: expected an integer from 0 to 9, found \"7\""},
        {"list", "t.yaml:4: a.list: expected an integer from 0 to 9, found a list"},
        {"map", "t.yaml:5: a.map: expected an integer from 0 to 9, found a map"},
        {"big", "t.yaml:6: a.big: expected an integer from 0 to 9, found 99999999999999999999"},
        {"part", "t.yaml:7: a.part: expected an integer from 0 to 9, found 1_"},
        {"hex", "t.yaml:8: a.hex: expected an integer from 0 to 9, found 0x10"},
    };
    int64_t integer;
    double number;
    bool flag;
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        struct error error = {0};
        assert_false(yaml_integer(yaml_get(a, integers[i].key), 0, 9, &integer, &error));
        assert_string_equal(error.message, integers[i].message);
    }
    struct error error = {0};
    assert_false(yaml_bool(yaml_get(a, "yes"), &flag, &error));
    assert_string_equal(error.message, "t.yaml:10: a.yes: expected true or false, found yes");
    error = (struct error){0};
    assert_false(yaml_number(yaml_get(a, "inf"), 0, 1, &number, &error));
    assert_contains(error.message, "t.yaml:11: a.inf: expected a number from 0 to 1");
    error = (struct error){0};
    assert_null(yaml_need(a, "none", "a name", &error));
    assert_string_equal(error.message, "t.yaml:1: a: none is missing, expected a name");
    error = (struct error){0};
    assert_false(yaml_known_keys(a, (const char *const[]){"words", "quoted"}, 2, &error));
    assert_string_equal(error.message, "t.yaml:2: a.word: there is no such key; did you mean \"words\"?");
    yaml_close(yaml);
}

static void files_are_read_up_to_the_limit(void **state) {
    char path[] = "/tmp/limn-yaml-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0 && write(file, "a: 1\n", 5) == 5);
    close(file);
    struct error error = {0};
    struct yaml *yaml = yaml_read_file(path, 5, &error);
    assert_ok(yaml, error);
    assert_string_equal(yaml_get(yaml_root(yaml), "a")->file, path);
    yaml_close(yaml);
    assert_null(yaml_read_file(path, 4, &error));
    assert_contains(error.message, path);
    unlink(path);
    error = (struct error){0};
    assert_null(yaml_read_file(path, 4, &error));
    assert_int_equal(error.kind, ERROR_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_know_their_place),
        cmocka_unit_test(an_empty_file_is_nothing),
        cmocka_unit_test(paths_survive_long_lists),
        cmocka_unit_test(aliases_stand_for_their_anchor),
        cmocka_unit_test(what_is_no_plain_tree_is_refused),
        cmocka_unit_test(bombs_are_refused),
        cmocka_unit_test(readers_read),
        cmocka_unit_test(readers_say_what_they_expected),
        cmocka_unit_test(files_are_read_up_to_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
