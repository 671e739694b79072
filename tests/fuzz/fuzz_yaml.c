// YAML: the reader itself ('0'), limn.yaml ('1', its first line as variables), a model card ('2'), the list of parameters ('3').
#include "fuzz.h"

#include "base/buffer.h"
#include "base/yaml.h"
#include "catalog/builtin.h"
#include "catalog/card.h"
#include "catalog/config.h"

static void promise_placed(const struct yaml_node *node, int depth, int *nodes) {
    char path[64];
    promise(depth <= 2 * YAML_DEPTH_MOST && ++*nodes <= YAML_NODES_MOST + 1);
    promise(node->line >= 1 && node->text && node->file && (node->items || node->count == 0));
    yaml_path(node, path, sizeof path);
    promise(strlen(path) < sizeof path);
    int64_t integer;
    double number;
    bool flag;
    struct error errors[3] = {0};
    if (!yaml_integer(node, -5, 1000, &integer, &errors[0])) promise_explained(&errors[0]);
    if (!yaml_number(node, -1, 1, &number, &errors[1])) promise_explained(&errors[1]);
    if (!yaml_bool(node, &flag, &errors[2])) promise_explained(&errors[2]);
    promise(errors[0].kind || (integer >= -5 && integer <= 1000));
    promise(errors[1].kind || (number >= -1 && number <= 1));
    for (int i = 0; i < node->count; i++) {
        const struct yaml_node *item = &node->items[i];
        promise((item->key != NULL) == (node->type == YAML_TYPE_MAP));
        if (item->key) promise(yaml_get(node, item->key) == (item->type == YAML_TYPE_NULL ? NULL : item));
        promise_placed(item, depth + 1, nodes);
    }
}

static bool fuzz_config(const char *text, size_t size, struct error *error) {
    char variable[300] = "LIMN_ALIASES=";
    const char *const environment[] = {variable, "LIMN_SERVER_PORT=1", NULL};
    const char *end = memchr(text, '\n', size);
    size_t length = end ? (size_t)(end - text) : 0;
    if (length && length < sizeof variable) {
        memcpy(variable, text, length);
        variable[length] = 0;
    }
    size_t skip = end ? length + 1 : 0;
    struct config config = {0}, again = {0};
    struct buffer printed = {0};
    bool good = config_parse(&config, "fuzz", text + skip, size - skip, environment, error);
    if (good) { // what is printed reads back
        struct error none = {0};
        promise(config_print(&config, &printed));
        promise(config_parse(&again, "printed", printed.data, printed.length, NULL, &none));
        promise(again.server.port == config.server.port && again.aliases.count == config.aliases.count);
        promise(again.loras.count == config.loras.count);
        for (int i = 0; i < config.loras.count; i++)
            promise(!strcmp(again.loras.items[i].file, config.loras.items[i].file) &&
                    again.loras.items[i].models.count == config.loras.items[i].models.count);
        promise(!strcmp(again.media.folder, config.media.folder));
    }
    buffer_free(&printed);
    config_free(&again);
    config_free(&config);
    return good;
}

static const struct builtin_file *common_file(void) {
    int count;
    const struct builtin_file *files = catalog_builtin(&count);
    while (count-- > 0)
        if (strstr(files[count].name, "parameters")) return &files[count];
    abort();
}

static bool fuzz_card(const struct yaml_node *root, struct error *error) {
    struct arena arena = {0};
    struct card_parameters common;
    struct error none = {0};
    const struct builtin_file *file = common_file();
    struct yaml *yaml = yaml_parse(file->name, file->text, file->size, &none);
    promise(yaml && parameters_read(yaml_root(yaml), &arena, &common, &none));
    yaml_close(yaml);
    struct model_card *card = card_read(root, &common, error);
    if (card) {
        promise(card->id && card->name && card->summary && card->licence.spdx && card->provider_count > 0);
        promise(card->sizes.side_least > 0 && card->sizes.side_least <= card->sizes.side_most);
        struct size_request request = {.ratio = 1.5, .area = 123456};
        struct size_result size = size_resolve(&card->sizes, &request, 0, 0);
        promise(size.deliver_width >= card->sizes.side_least && size.deliver_width <= card->sizes.side_most);
    }
    bool good = card;
    card_free(card);
    arena_free(&arena);
    return good;
}

static bool fuzz_parameters(const struct yaml_node *root, struct error *error) {
    struct arena arena = {0};
    struct card_parameters list;
    bool good = parameters_read(root, &arena, &list, error);
    for (int mode = 0; good && mode < MODE_COUNT; mode++) {
        json_decref(parameters_schema(&list, (enum image_mode)mode, false));
        json_decref(parameters_schema(&list, (enum image_mode)mode, true));
    }
    arena_free(&arena);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    const char *text = (const char *)data + 1;
    struct error error = {0};
    int nodes = 0;
    if (data[0] == '1') {
        if (!fuzz_config(text, size - 1, &error)) promise_explained(&error);
        return 0;
    }
    struct yaml *yaml = yaml_parse("fuzz", text, size - 1, &error);
    bool good = yaml;
    if (yaml && data[0] == '0') promise_placed(yaml_root(yaml), 0, &nodes);
    if (yaml && data[0] == '2') good = fuzz_card(yaml_root(yaml), &error);
    if (yaml && data[0] == '3') good = fuzz_parameters(yaml_root(yaml), &error);
    if (!good) promise_explained(&error);
    yaml_close(yaml);
    return 0;
}
