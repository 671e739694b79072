// Values of command-line options that have a form of their own.
#include "unit.h"

#include "cli/options.h"

static void a_file_and_its_scale(void **state) {
    static const struct {
        const char *text, *file; // file NULL: refused
        float scale;
    } cases[] = {
        {"a.safetensors", "a.safetensors", 1},
        {"a.safetensors:0.5", "a.safetensors", 0.5f},
        {"a:-4", "a", -4},
        {"dir:x/a.safetensors", "dir:x/a.safetensors", 1}, // what follows is no number
        {"a:1:2", "a:1", 2},
        {"a:", "a:", 1},
        {"a:4.01", NULL, 0},
        {"a:nan", NULL, 0},
        {":1", NULL, 0},
        {"", NULL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[64];
        const char *file = NULL;
        float scale = 9;
        snprintf(text, sizeof text, "%s", cases[i].text);
        const bool taken = option_lora("--lora", text, 4, &file, &scale);
        if (taken != (cases[i].file != NULL)) fail_msg("%s: %s", cases[i].text, taken ? "taken" : "refused");
        if (!taken) continue;
        assert_string_equal(file, cases[i].file);
        assert_true(scale == cases[i].scale);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_file_and_its_scale)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
