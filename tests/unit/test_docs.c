// What the documentation lists is what the tables of the program hold.
#include "unit.h"

#include "base/file.h"
#include "catalog/catalog.h"
#include "flux/model.h"
#include "flux/model_folder.h"
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

// The folder of FLUX.2 [dev] Turbo that the documentation shows is what the model's card says.
static void the_turbo_folder_agrees_with_its_card(void **state) {
    static const float sigmas[] = {1, 0.6509f, 0.4374f, 0.2932f, 0.1893f, 0.1108f, 0.0495f, 0.00031f};
    static const char config_json[] = "{}"; // a config.json that says nothing is FLUX.2 [dev]'s
    struct config config;
    struct error error = {0};
    struct transformer_shape shape;
    struct model_settings settings;
    struct model_lora loras[LIMN_LORAS_MOST];
    char *base = NULL, *rest = NULL, *text = read_docs("model-folder.md");
    int count = 0;
    char *json = strstr(text, "## A folder on another");
    assert_non_null(json);
    json = strstr(json, "```json\n");
    assert_non_null(json);
    json += 8;
    *strstr(json, "```") = 0;
    assert_ok(model_folder_parse("docs", json, strlen(json), "models/FLUX.2-dev-Turbo", &base, loras, &count,
                                 &rest, &error),
              error);
    assert_string_equal(base, "models/FLUX.2-dev-Turbo/../FLUX.2-dev");
    assert_int_equal(count, 1);
    assert_string_equal(loras[0].file, "models/FLUX.2-dev-Turbo/flux.2-turbo-lora.safetensors");
    assert_true(loras[0].scale == 1);
    // The base's system message is not limn's to have.
    char whole[1000];
    snprintf(whole, sizeof whole, "{\"system_message\":\"x\",%s", rest + 1);
    assert_true(transformer_config_parse("c", config_json, strlen(config_json), &shape, &error));
    struct model_index index = {.pipeline = MODEL_FLUX2, .given = true};
    assert_ok(model_settings_parse("docs", whole, strlen(whole), "m", &index, &shape, &settings, &error),
              error);
    assert_ok(config_init(&config, &error), error);
    struct catalog *catalog = catalog_open(&config, &error);
    assert_ok(catalog, error);
    const struct model_card *card = catalog_look_up(catalog, "flux.2-dev-turbo", &error);
    assert_non_null(card);
    assert_string_equal(settings.name, card->name);
    assert_int_equal(settings.steps, card->steps);
    assert_true((double)settings.guidance == card->guidance);
    assert_int_equal(settings.sigma_count, 8);
    assert_memory_equal(settings.sigmas, sigmas, sizeof sigmas);
    assert_string_equal(card->weights.folder, "FLUX.2-dev-Turbo");
    assert_int_equal(card->weights.sigma_count, 8);
    for (int i = 0; i < 8; i++) assert_true((float)card->weights.sigmas[i] == sigmas[i]);
    assert_string_equal(card->weights.repositories[1].files.items[0], "flux.2-turbo-lora.safetensors");
    assert_non_null(strstr(card->weights.get, "limn pull flux.2-dev-turbo"));
    free(loras[0].file);
    free(base);
    free(rest);
    model_settings_free(&settings);
    catalog_close(catalog);
    config_free(&config);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_turbo_folder_agrees_with_its_card),
        cmocka_unit_test(every_error_is_listed),
        cmocka_unit_test(every_parameter_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
