// A model folder that stands on another, and LoRAs in whole requests.
#include "fixture.h"
#include "lora_file.h"

#include "base/file.h"
#include "base/json.h"
#include "flux/model_folder.h"
#include "flux/pipeline.h"

#include <sys/stat.h>
#include <unistd.h>

static char root[64];

static int make_root(void **state) {
    snprintf(root, sizeof root, "/tmp/limn-folder-XXXXXX");
    return mkdtemp(root) ? 0 : 1;
}

static int remove_root(void **state) {
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

// Makes [root]/[name] with that limn.json (NULL: none); the path is the caller's (static).
static const char *put_folder(const char *name, const char *json) {
    static char path[4][200];
    static int turn;
    char *to = path[turn++ % 4], file[220];
    struct error error = {0};
    snprintf(to, sizeof path[0], "%s/%s", root, name);
    assert_ok(folder_make(to, &error), error);
    snprintf(file, sizeof file, "%s/limn.json", to);
    if (json) assert_ok(file_write(file, json, strlen(json), &error), error);
    return to;
}

static void put_lora(const char *path, int family, uint64_t seed) {
    struct lora_layer layers[LORA_LAYER_COUNT];
    struct error error = {0};
    lora_layers_make(layers, seed);
    struct buffer file = lora_family_file(&LORA_FAMILIES[family], layers, DTYPE_F32);
    assert_ok(file_write(path, file.data, file.length, &error), error);
    buffer_free(&file);
    lora_layers_free(layers);
}

// --------------------------------------------------------------------------------------------------------- limn.json

static void fields_and_parts_of_a_base(void **state) {
    struct model_folder folder;
    struct error error = {0};
    char path[300];
    put_folder("low/transformer", NULL);
    put_folder("low/vae", NULL);
    put_folder("low",
               "{\"name\":\"Low\",\"steps\":50,\"guidance\":4,\"text_length\":512,"
               "\"loras\":[{\"file\":\"a.safetensors\",\"scale\":-0.5},{\"file\":\"/b.safetensors\"}]}");
    put_folder("middle/vae", NULL);
    put_folder("middle", "{\"base\":\"../low\",\"guidance\":3}");
    const char *high = put_folder("high", "{\"base\":\"../middle\",\"sigmas\":[1,0.5],\"trained\":false}");
    assert_ok(model_folder_open(high, &folder, &error), error);
    assert_int_equal(folder.folder_count, 3);
    snprintf(path, sizeof path, "%s/../middle", high);
    assert_string_equal(model_folder_with(&folder, "vae"), path);
    snprintf(path, sizeof path, "%s/../middle/../low", high);
    assert_string_equal(model_folder_with(&folder, "transformer"), path);
    assert_string_equal(model_folder_with(&folder, "text_encoder"), high); // nowhere: the errors are its own
    json_t *fields = json_parse("x", folder.settings, strlen(folder.settings), &error);
    json_t *expected = json_pack("{s:[i,f], s:b, s:i, s:i, s:s}", "sigmas", 1, 0.5, "trained", 0, "guidance",
                                 3, "text_length", 512, "name", "high"); // not the base's name, not its steps
    assert_true(json_equal(fields, expected));
    json_decref(fields);
    json_decref(expected);
    assert_int_equal(folder.lora_count, 2); // the base's, where the folder names none
    snprintf(path, sizeof path, "%s/../middle/../low/a.safetensors", high);
    assert_string_equal(folder.loras[0].file, path);
    assert_true(folder.loras[0].scale == -0.5f && folder.loras[1].scale == 1);
    assert_string_equal(folder.loras[1].file, "/b.safetensors");
    model_folder_free(&folder);

    put_folder("middle", "{\"base\":\"../low\",\"loras\":[],\"name\":\"M\"}"); // none is none
    assert_ok(model_folder_open(put_folder("middle", NULL), &folder, &error), error);
    assert_int_equal(folder.lora_count, 0);
    assert_contains(folder.settings, "\"name\":\"M\"");
    assert_contains(folder.settings, "\"steps\":50");
    model_folder_free(&folder);

    assert_ok(model_folder_open(put_folder("bare", NULL), &folder, &error), error); // without limn.json
    assert_string_equal(folder.settings, "{}");
    assert_int_equal(folder.folder_count, 1);
    model_folder_free(&folder);
}

static void wrong_bases_and_loras(void **state) {
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{\"base\":\"../nowhere\"}", "field \"base\": there is no folder"},
        {"{\"base\":\".\"}", "stands on itself"},
        {"{\"base\":\"../wrong-b\"}", "stands on itself"},
        {"{\"base\":7}", "base"},
        {"{\"base\":\"\"}", "field \"base\": expected a path"},
        {"[]", "limn.json: expected an object"},
        {"{\"loras\":{}}", "loras"},
        {"{\"loras\":[\"a\"]}", "loras[0]: expected an object"},
        {"{\"loras\":[{\"file\":\"a\"},{\"scale\":1}]}", "loras[1]"},
        {"{\"loras\":[{\"file\":\"a\",\"scale\":4.5}]}", "scale"},
        {"{\"loras\":[{\"file\":\"a\",\"scale\":\"1\"}]}", "scale"},
        {"{\"loras\":[{\"file\":\"\"}]}", "field \"file\": expected a path"},
        {"{\"loras\":[{\"file\":\"a\"},{\"file\":\"a\"},{\"file\":\"a\"},{\"file\":\"a\"},{\"file\":\"a\"}]}",
         "5 elements, expected at most 4"},
    };
    put_folder("wrong-b", "{\"base\":\"../wrong\"}");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_folder folder;
        struct error error = {0};
        if (model_folder_open(put_folder("wrong", cases[i].json), &folder, &error))
            fail_msg("taken: %s", cases[i].json);
        assert_contains(error.message, cases[i].message);
        assert_contains(error.message, "limn.json");
        model_folder_free(&folder);
    }
    char name[20], json[60];
    for (int i = 0; i <= MODEL_FOLDERS_MOST; i++) {
        snprintf(name, sizeof name, "deep-%d", i);
        snprintf(json, sizeof json, "{\"base\":\"../deep-%d\"}", i + 1);
        put_folder(name, i < MODEL_FOLDERS_MOST ? json : "{}");
    }
    struct model_folder folder;
    struct error error = {0};
    assert_false(model_folder_open(put_folder("deep-0", NULL), &folder, &error));
    assert_contains(error.message, "more than 8 folders");
    model_folder_free(&folder);
    error = (struct error){0};
    assert_ok(model_folder_open(put_folder("deep-1", NULL), &folder, &error), error);
    assert_int_equal(folder.folder_count, MODEL_FOLDERS_MOST);
    model_folder_free(&folder);
}

// ---------------------------------------------------------------------------------------------------- whole requests

static char told[512];

static void tell(void *user, const char *message) {
    snprintf(told, sizeof told, "%s", message);
}

static struct pipeline *open_model(const char *folder, const struct limn_lora *loras, int count) {
    struct error error = {0};
    struct limn_options options;
    limn_options_init(&options);
    options.threads = 2;
    options.compute = LIMN_COMPUTE_F32;
    options.cache_bytes = 1 << 20;
    options.loras = loras;
    options.lora_count = count;
    options.warning = tell;
    struct pipeline *pipeline = pipeline_open(folder, &options, &error);
    assert_ok(pipeline, error);
    return pipeline;
}

static struct limn_result *draw(struct pipeline *pipeline, const struct limn_lora *loras, int count) {
    struct error error = {0};
    struct limn_request request;
    limn_request_init(&request);
    request.prompt = "a hill";
    request.seed = 3;
    request.loras = loras;
    request.lora_count = count;
    struct limn_result *result = pipeline_run(pipeline, &request, NULL, &error);
    assert_ok(result, error);
    return result;
}

static bool same(const struct limn_result *a, const struct limn_result *b) {
    size_t size = (size_t)a->width * (size_t)a->height * 3;
    return a->width == b->width && a->height == b->height &&
           !memcmp(a->images[0].pixels, b->images[0].pixels, size);
}

// A LoRA of the folder, of the options and of the request are one and the same; none stays behind, and kept encodings are not
// mixed up by them.
static void loras_of_requests(void **state) {
    char first[100], second[100], json[300];
    snprintf(first, sizeof first, "%s/first.safetensors", root);
    snprintf(second, sizeof second, "%s/second.safetensors", root);
    put_lora(first, 0, 1);
    put_lora(second, 0, 2);
    struct limn_lora loras[2] = {{first, 0.5f}, {second, -1}};
    struct pipeline *plain = open_model(FIXTURES "model-b", NULL, 0);
    struct limn_result *none = draw(plain, NULL, 0), *one = draw(plain, loras, 1),
                       *both = draw(plain, loras, 2);
    assert_true(!same(none, one) && !same(one, both) && !same(none, both));
    assert_true(one->text_cached && both->text_cached); // the text does not know of LoRAs
    struct limn_lora off = {first, 0};
    struct limn_result *again[] = {draw(plain, NULL, 0), draw(plain, &off, 1), draw(plain, loras, 1)};
    assert_true(same(again[0], none) && same(again[1], none) && same(again[2], one));
    pipeline_close(plain);
    // With the model.
    struct pipeline *with_options = open_model(FIXTURES "model-b", loras, 1);
    struct limn_result *optional[] = {draw(with_options, NULL, 0), draw(with_options, &loras[1], 1)};
    assert_true(same(optional[0], one) && same(optional[1], both));
    pipeline_close(with_options);
    // In a folder on top of the model.
    snprintf(json, sizeof json,
             "{\"base\":\"%smodel-b\",\"loras\":[{\"file\":\"../first.safetensors\",\"scale\":0.5}],"
             "\"steps\":2,\"guidance\":2.5}",
             FIXTURES);
    // A LoRA beside limn.json is not taken for a part of the model.
    put_folder("top", json);
    for (int f = 0; f < LORA_FAMILY_COUNT; f++) {
        char inside[120];
        snprintf(inside, sizeof inside, "%s/top/inside-%d.safetensors", root, f);
        put_lora(inside, f, 7);
    }
    struct pipeline *on_top = open_model(put_folder("top", NULL), &loras[1], 1);
    struct limn_model_info info;
    pipeline_info(on_top, &info);
    assert_string_equal(info.name, "top");
    assert_int_equal(info.default_steps, 2);
    assert_true(info.default_guidance == 2.5f);
    assert_true(info.text_encoder_parameters > 10000);
    struct limn_result *result = draw(on_top, NULL, 0);
    assert_int_equal(result->steps, 2);
    pipeline_close(on_top);
    struct limn_result *all[] = {none,     one,         both,        again[0], again[1],
                                 again[2], optional[0], optional[1], result};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) limn_result_free(all[i]);
}

static void refuse(struct pipeline *pipeline, const struct limn_lora *loras, int count, const char *field,
                   const char *message) {
    struct error error = {0};
    struct limn_request request;
    limn_request_init(&request);
    request.prompt = "x";
    request.loras = loras;
    request.lora_count = count;
    assert_null(pipeline_run(pipeline, &request, NULL, &error));
    assert_string_equal(error.field, field);
    assert_contains(error.message, message);
}

static void wrong_loras_of_requests(void **state) {
    char good[100], bad[100];
    struct error error = {0};
    snprintf(good, sizeof good, "%s/good.safetensors", root);
    snprintf(bad, sizeof bad, "%s/bad.safetensors", root);
    put_lora(good, 0, 1);
    assert_ok(file_write(bad, "no", 2, &error), error);
    struct limn_lora loras[5] = {{good, 1}, {good, 1}, {good, 1}, {good, 1}, {good, 1}};
    struct pipeline *pipeline = open_model(FIXTURES "model-b", NULL, 0);
    struct limn_result *plain = draw(pipeline, NULL, 0);
    refuse(pipeline, loras, 5, "loras", "5 LoRAs, expected at most 4");
    refuse(pipeline, loras, -1, "loras", "expected at most 4");
    refuse(pipeline, NULL, 1, "loras", "there are no LoRAs");
    loras[1] = (struct limn_lora){NULL, 1};
    refuse(pipeline, loras, 2, "loras[1]", "has no file");
    loras[1] = (struct limn_lora){good, 4.5f};
    refuse(pipeline, loras, 2, "loras[1]", "the scale is 4.5, expected -4 to 4");
    loras[1] = (struct limn_lora){good, NAN};
    refuse(pipeline, loras, 2, "loras[1]", "the scale is nan");
    loras[1] = (struct limn_lora){bad, 1};
    refuse(pipeline, loras, 2, "loras[1]", "bad.safetensors");
    loras[1] = (struct limn_lora){"/no/such", 1};
    refuse(pipeline, loras, 2, "loras[1]", "/no/such");
    struct limn_result *after = draw(pipeline, NULL, 0);
    assert_true(same(plain, after));
    limn_result_free(plain);
    limn_result_free(after);
    pipeline_close(pipeline);

    struct limn_options options;
    limn_options_init(&options);
    options.loras = loras;
    options.lora_count = 2;
    assert_null(pipeline_open(FIXTURES "model-b", &options, &error));
    assert_contains(error.message, "/no/such");
    error = (struct error){0};
    options.lora_count = 5;
    assert_null(pipeline_open(FIXTURES "model-b", &options, &error));
    assert_contains(error.message, "5 LoRAs, expected at most 4");
}

// What has no effect is told, once.
static void warnings(void **state) {
    char path[100];
    struct lora_file file = {0};
    struct error error = {0};
    float values[64] = {0.1f};
    snprintf(path, sizeof path, "%s/odd.safetensors", root);
    lora_file_add(&file, "x_embedder.lora_A.weight", DTYPE_F32, 2, (int64_t[]){1, 12}, values);
    lora_file_add(&file, "x_embedder.lora_B.weight", DTYPE_F32, 2, (int64_t[]){32, 1}, values);
    lora_file_add(&file, "nothing.lora_B.weight", DTYPE_F32, 2, (int64_t[]){32, 1}, values);
    struct buffer whole = lora_file_finish(&file, NULL);
    assert_ok(file_write(path, whole.data, whole.length, &error), error);
    buffer_free(&whole);
    struct limn_lora lora = {path, 1};
    struct pipeline *pipeline = open_model(FIXTURES "model-b", NULL, 0);
    told[0] = 0;
    limn_result_free(draw(pipeline, &lora, 1));
    assert_contains(
        told, "odd.safetensors: 1 tensor belongs to no layer of this transformer and is without effect: "
              "\"nothing.lora_B.weight\"");
    told[0] = 0;
    limn_result_free(draw(pipeline, &lora, 1));
    assert_string_equal(told, "");
    pipeline_close(pipeline);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_and_parts_of_a_base),
        cmocka_unit_test(wrong_bases_and_loras),
        cmocka_unit_test(loras_of_requests),
        cmocka_unit_test(wrong_loras_of_requests),
        cmocka_unit_test(warnings),
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
