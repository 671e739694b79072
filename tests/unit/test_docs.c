// What the documentation lists is what the tables of the program hold.
#include "unit.h"

#include "base/file.h"
#include "catalog/catalog.h"
#include "gateway/api_error.h"

static char *read_docs(const char *name) {
    char path[300], *text;
    size_t size;
    struct error error = {0};
    snprintf(path, sizeof path, "%s/docs/%s", LIMN_SOURCE_DIR, name);
    assert_ok(file_read(path, 1 << 20, &text, &size, &error), error);
    return text;
}

static void every_error_is_listed(void **state) {
    char *text = read_docs("api.md");
    for (int code = API_OK + 1; code <= API_STORAGE_FULL; code++) {
        const struct api_code_info *info = api_code_info((enum api_code)code);
        char row[100];
        assert_int_equal(info->code, code);
        snprintf(row, sizeof row, "\n| `%s` | %d | ", info->name, info->status);
        if (!strstr(text, row)) fail_msg("docs/api.md lacks the row%s", row);
    }
    free(text);
}

static void every_parameter_is_named(void **state) {
    struct config config;
    struct error error = {0};
    char *text = read_docs("api.md");
    assert_ok(config_init(&config, &error), error);
    struct catalog *catalog = catalog_open(&config, &error);
    assert_ok(catalog, error);
    const struct card_parameters *list = catalog_parameters(catalog);
    for (int i = 0; i < list->count; i++) {
        char name[100];
        snprintf(name, sizeof name, "`%s`", list->items[i].name);
        if (!strstr(text, name)) fail_msg("docs/api.md does not name %s", name);
    }
    catalog_close(catalog);
    config_free(&config);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_is_listed),
        cmocka_unit_test(every_parameter_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
