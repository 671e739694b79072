#include "unit.h"

#include "base/buffer.h"
#include "base/file.h"
#include "catalog/builtin.h"
#include "catalog/catalog.h"

#include <sys/stat.h>
#include <unistd.h>

static struct config config;
static struct catalog *catalog;

// The catalog with [text] as limn.yaml and no weights but those that the text names.
static void open_with(const char *text) {
    struct error error = {0};
    assert_ok(config_parse(&config, "limn.yaml", text, strlen(text), NULL, &error), error);
    catalog = catalog_open(&config, &error);
    assert_ok(catalog, error);
}

static void close_all(void) {
    catalog_close(catalog);
    config_free(&config);
    catalog = NULL;
}

static const char NO_WEIGHTS[] = "local: {model_folders: [/nonexistent]}\n";
static const char PICTOGRAM[] = "local: {model_folders: [\"" LIMN_SOURCE_DIR "/models\"]}\n";

static const struct model_card *card_of(const char *id) {
    struct error error = {0};
    const struct model_card *card = catalog_look_up(catalog, id, &error);
    assert_ok(card, error);
    return card;
}

// --------------------------------------------------------------------------------------------------------- built-in cards

#define FORMS "weights:\n  folder: x\n  get: y\n  repositories: [{repository: x/y, files: [a]}]\n  forms: "

static void the_four_cards_say_what_is_known(void **state) {
    open_with(NO_WEIGHTS);
    assert_int_equal(catalog_count(catalog), 4);
    const struct model_card *turbo = card_of("flux.2-dev-turbo");
    assert_string_equal(turbo->name, "FLUX.2 [dev] Turbo");
    assert_string_equal(turbo->creator, "fal");
    assert_string_equal(turbo->family, "flux.2");
    assert_string_equal(turbo->release, "2025-12-29");
    assert_int_equal(turbo->released, 1766966400);
    assert_false(turbo->licence.commercial);
    assert_non_null(turbo->licence.notice);
    assert_true(turbo->modes[MODE_GENERATION] && turbo->modes[MODE_EDIT]);
    assert_int_equal(turbo->references_most, 4);
    assert_int_equal(turbo->sizes.side_most, 2048);
    assert_int_equal(turbo->steps, 8);
    assert_true(turbo->guidance == 2.5);
    const struct card_weights *weights = &turbo->weights;
    assert_int_equal(weights->repository_count, 2);
    assert_string_equal(weights->repositories[0].name, "black-forest-labs/FLUX.2-dev");
    assert_true(!weights->repositories[0].lora && weights->repositories[0].files.count == 4);
    assert_string_equal(weights->repositories[1].files.items[0], "flux.2-turbo-lora.safetensors");
    assert_true(weights->repositories[1].lora && weights->repositories[1].scale == 1);
    assert_true(weights->sigma_count == 8 && weights->sigmas[7] == 0.00031);
    assert_string_equal(weights->system_message.constant, "SYSTEM_MESSAGE");
    assert_true(card_needs_folder(turbo) && !card_needs_folder(card_of("flux.2-klein-4b")));
    // The machines that the plans are for.
    static const struct {
        int64_t memory;
        const char *transformer, *text_encoder;
    } plans[] = {{8000000000, "Q4_K_M", "Q4_K_M"},
                 {24000000000, "Q4_K_M", "Q6_K"},
                 {48000000000, "Q8_0", "Q8_0"},
                 {64000000000, "Q8_0", "BF16"},
                 {128000000000, "BF16", "BF16"}};
    const struct card_form *forms[CARD_FORMS_MOST];
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        int count = card_forms_of(weights, "transformer", forms);
        assert_int_equal(count, 5);
        assert_string_equal(card_form_choose(forms, count, plans[i].memory)->type, plans[i].transformer);
        count = card_forms_of(weights, "text_encoder", forms);
        assert_string_equal(card_form_choose(forms, count, plans[i].memory)->type, plans[i].text_encoder);
    }
    const struct card_weights *dev = &card_of("flux.2-dev")->weights; // the same parts
    assert_int_equal(dev->form_count, weights->form_count);
    for (int i = 0; i < dev->form_count; i++) {
        assert_string_equal(dev->forms[i].path, weights->forms[i].path);
        assert_true(dev->forms[i].bytes == weights->forms[i].bytes);
    }
    assert_string_equal(weights->forms[0].files, "transformer/*");
    assert_ptr_equal(weights->forms[1].files, weights->forms[1].path);
    const struct card_provider *fal = card_provider(turbo, "fal");
    assert_string_equal(fal->model_ids[MODE_EDIT], "fal-ai/flux-2/turbo/edit");
    assert_string_equal(fal->config_ids[MODE_EDIT], "flux.2-dev-turbo-edit");
    assert_int_equal(fal->price.components[0].unit_picos, 8000000000);
    assert_int_equal(card_provider(turbo, "local")->price.count, 0);
    assert_int_equal(card_of("flux.2-dev")->steps, 50);
    assert_int_equal(card_of("flux.2-klein-4b")->steps, 4);
    assert_true(card_of("flux.2-klein-4b")->licence.commercial);
    assert_int_equal(card_of("pictogram")->sizes.default_width, 128);
    for (int i = 0; i < catalog_count(catalog); i++) {
        const struct model_card *card = catalog_card(catalog, i);
        assert_null(card->weights.found);
        assert_true(card->sections.count > 0 && card->faq.count > 0 && *card->weights.get);
    }
    close_all();
}

static void parameters_follow_the_card(void **state) {
    open_with(NO_WEIGHTS);
    const struct model_card *turbo = card_of("flux.2-dev-turbo"), *klein = card_of("flux.2-klein-4b");
    const struct card_parameter *cfg = parameter_find(&turbo->parameters, "cfg_scale");
    assert_int_equal(parameter_handling(cfg, "local"), PARAMETER_RENAMED);
    assert_string_equal(parameter_field(cfg, "local"), "guidance");
    assert_string_equal(parameter_field(cfg, "fal"), "guidance_scale");
    assert_int_equal(parameter_handling(parameter_find(&klein->parameters, "cfg_scale"), "local"),
                     PARAMETER_IGNORED);
    assert_int_equal(parameter_handling(parameter_find(&klein->parameters, "cfg_scale"), "fal"),
                     PARAMETER_RENAMED);
    assert_false(card_offers(turbo, "prompt_enhancement", "local") ||
                 card_offers(turbo, "background", "fal"));
    assert_true(card_offers(turbo, "prompt_enhancement", "fal") && card_offers(turbo, "background", "local"));
    assert_null(parameter_find(&turbo->parameters, "frobnicate"));
    const struct card_parameter *unsaid = &(struct card_parameter){.name = "x"};
    assert_int_equal(parameter_handling(unsaid, "local"), PARAMETER_IGNORED);
    assert_int_equal(parameter_handling(unsaid, "fal"), PARAMETER_PASSTHROUGH);
    close_all();
}

// ----------------------------------------------------------------------------------------------------------------- names

static enum catalog_result find(const char *name, enum image_mode mode, struct catalog_choice *choice,
                                struct error *error) {
    *error = (struct error){0};
    return catalog_find(catalog, name, mode, choice, error);
}

static void a_model_is_found_by_its_names(void **state) {
    char text[600];
    snprintf(
        text, sizeof text,
        "%saliases:\n  best: pictogram\n  better: best\n  gpt-image-*: pictogram\n  chatgpt-image-latest: "
        "local/pictogram\n  dall-e-*: pictogram\n  \"*-turbo\": pictogram\n  gpt-image-mini: flux.2-dev\n",
        PICTOGRAM);
    open_with(text);
    static const struct {
        const char *name;
        bool forced, gpt_image;
    } cases[] = {{"pictogram", false, false},
                 {"local/pictogram", true, false},
                 {"best", false, false},
                 {"better", false, false},
                 {"gpt-image-1", false, true},
                 {"gpt-image-2-2026-04-21", false, true},
                 {"chatgpt-image-latest", true, true},
                 {"dall-e-3", false, false},
                 {"sdxl-turbo", false, false}};
    struct catalog_choice choice;
    struct error error;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(find(cases[i].name, MODE_EDIT, &choice, &error) == CATALOG_FOUND, error);
        assert_string_equal(choice.card->id, "pictogram");
        assert_string_equal(choice.provider->slug, "local");
        assert_string_equal(choice.executed, "local/pictogram");
        assert_int_equal(choice.forced, cases[i].forced);
        assert_int_equal(choice.gpt_image, cases[i].gpt_image);
    }
    // A model's own id is stronger than a glob, an exact alias too.
    assert_int_equal(find("flux.2-dev-turbo", MODE_EDIT, &choice, &error), CATALOG_NOT_INSTALLED);
    assert_int_equal(find("gpt-image-mini", MODE_EDIT, &choice, &error), CATALOG_NOT_INSTALLED);
    assert_string_equal(choice.card->id, "flux.2-dev");
    close_all();
}

static void a_near_miss_is_suggested(void **state) {
    open_with("local: {model_folders: [/nonexistent]}\naliases: {house-model: pictogram}\n");
    static const char *const cases[][2] = {
        {"flux.2-dev-trubo", "Model 'flux.2-dev-trubo' not found. Did you mean 'flux.2-dev-turbo'?"},
        {"flux-2-dev-turbo", "Model 'flux-2-dev-turbo' not found. Did you mean 'flux.2-dev-turbo'?"},
        {"FLUX.2 [dev] Turbo", "Model 'FLUX.2 [dev] Turbo' not found. Did you mean 'flux.2-dev-turbo'?"},
        {"fal-ai/flux-2/turbo", "Model 'fal-ai/flux-2/turbo' not found. Did you mean 'flux.2-dev-turbo'?"},
        {"Pictogram", "Model 'Pictogram' not found. Did you mean 'pictogram'?"},
        {"local/pictogramm", "Model 'local/pictogramm' not found. Did you mean 'pictogram'?"},
        {"house_model", "Model 'house_model' not found. Did you mean 'house-model'?"},
        {"stable-diffusion", "Model 'stable-diffusion' not found. GET /v1/models lists those that are here"},
        {"gpt-image-1",
         "Model 'gpt-image-1' not found. The owner of this server can give OpenAI's names to a model of its "
         "own with aliases in limn.yaml"},
        {"nobody/pictogram/x", "Model 'nobody/pictogram/x' not found. Did you mean 'pictogram'?"},
    };
    struct catalog_choice choice;
    struct error error;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(find(cases[i][0], MODE_GENERATION, &choice, &error), CATALOG_UNKNOWN);
        assert_string_equal(error.message, cases[i][1]);
        assert_string_equal(error.field, "model");
        assert_null(choice.card);
    }
    close_all();
}

static void an_absent_model_says_how_to_get_it(void **state) {
    open_with(PICTOGRAM);
    struct catalog_choice choice;
    struct error error;
    assert_int_equal(find("flux.2-dev-turbo", MODE_GENERATION, &choice, &error), CATALOG_NOT_INSTALLED);
    assert_contains(error.message,
                    "Model 'flux.2-dev-turbo' is not installed on this server. Run `limn pull");
    assert_string_equal(choice.card->id, "flux.2-dev-turbo");
    assert_string_equal(choice.executed, "local/flux.2-dev-turbo");
    // fal has it, but is not set up here.
    assert_int_equal(find("fal/flux.2-dev-turbo-edit", MODE_EDIT, &choice, &error), CATALOG_NO_PROVIDER);
    assert_contains(error.message, "Provider 'fal' is not set up");
    close_all();
}

static void a_folder_without_a_card_is_served(void **state) {
    open_with(PICTOGRAM);
    struct catalog_choice choice;
    struct error error = {0};
    const struct catalog_folder folder = {"house-model", "/models/house", 256, 128, 16, 6, 3};
    assert_ok(catalog_add_folder(catalog, &folder, &error) &&
                  catalog_set_default(catalog, "house-model", &error),
              error);
    assert_ok(find(NULL, MODE_EDIT, &choice, &error) == CATALOG_FOUND, error);
    assert_string_equal(choice.executed, "local/house-model");
    assert_int_equal(choice.card->sizes.default_width, 256);
    assert_int_equal(choice.card->steps, 6);
    assert_ok(find("pictogram", MODE_EDIT, &choice, &error) == CATALOG_FOUND, error); // as before
    const struct catalog_folder known = {"pictogram", "/elsewhere/pictogram", 128, 128, 16, 8, 2.5};
    assert_ok(catalog_add_folder(catalog, &known, &error), error);
    assert_ok(find("pictogram", MODE_EDIT, &choice, &error) == CATALOG_FOUND, error);
    assert_string_equal(choice.card->weights.found, "/elsewhere/pictogram");
    assert_string_equal(choice.card->name, "Pictogram"); // the card is kept
    const struct catalog_folder small = {"tiny", LIMN_SOURCE_DIR "/models/pictogram", 64, 48, 16, 2, 0};
    assert_ok(catalog_add_folder(catalog, &small, &error), error);
    assert_int_equal(card_of("tiny")->sizes.side_least, 16);
    assert_string_equal(card_of("tiny")->licence.spdx, "Apache-2.0"); // as its limn.json says
    assert_true(card_of("tiny")->licence.commercial);
    assert_string_equal(card_of("house-model")->licence.spdx, "NOASSERTION");
    const struct catalog_folder large = {"large", "/x", 4000, 100, 16, 2, 0};
    assert_ok(catalog_add_folder(catalog, &large, &error), error);
    const struct catalog_folder bad = {"Not an id", "/x", 0, 0, 0, 0, 0};
    assert_false(catalog_add_folder(catalog, &bad, &error));
    close_all();
}

static void defaults_and_switches(void **state) {
    open_with("local: {model_folders: [\"" LIMN_SOURCE_DIR "/models\"]}\nmodels: {image_edit: flux.2-dev}\n"
              "catalog: {disabled: [flux.2-klein-*]}\n");
    struct catalog_choice choice;
    struct error error;
    assert_int_equal(find("", MODE_GENERATION, &choice, &error), CATALOG_UNKNOWN);
    assert_contains(error.message, "no default model");
    assert_int_equal(find(NULL, MODE_EDIT, &choice, &error), CATALOG_NOT_INSTALLED);
    assert_string_equal(choice.card->id, "flux.2-dev");
    error = (struct error){0};
    assert_ok(catalog_set_default(catalog, "pictogram", &error), error);
    assert_ok(find(NULL, MODE_GENERATION, &choice, &error) == CATALOG_FOUND, error);
    assert_int_equal(find("flux.2-klein-4b", MODE_GENERATION, &choice, &error), CATALOG_DISABLED);
    close_all();
}

// ---------------------------------------------------------------------------------------------------- the owner's cards

static char folder[64];

static void write_card(const char *name, const char *text) {
    struct error error = {0};
    char path[200];
    if (!*folder) {
        snprintf(folder, sizeof folder, "/tmp/limn-catalog-XXXXXX");
        assert_non_null(mkdtemp(folder));
    }
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(file_write(path, text, strlen(text), &error), error);
}

static void remove_card(const char *name) {
    char path[200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

// A card that has what it must; [more] in place of the line that begins with its key, or at the end.
static void make_card(char *text, size_t size, const char *more) {
    static const char *const lines[] = {
        "card: 1",
        "id: house",
        "name: House",
        "creator: us",
        "release: 2026-01",
        "summary: Ours.",
        "licence: {name: MIT, spdx: MIT, commercial: true}",
        "modes: [text-to-image]",
        "sizes: {default: 512x512, sides: {least: 64, most: 1024}, ratios: {least: "
        "\"1:4\", most: \"4:1\"}, tiers: {list: [0.5K, 1K]}}",
        "providers: [{slug: local, models: {text-to-image: house}}]"};
    size_t key = strcspn(more, ":") + 1, used = 0;
    bool put = !*more;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        bool here = *more && !strncmp(lines[i], more, key);
        put = put || here;
        used += (size_t)snprintf(text + used, size - used, "%s\n", here ? more : lines[i]);
    }
    if (!put) snprintf(text + used, size - used, "%s\n", more);
}

static const char *own_config(void) {
    static char text[200];
    snprintf(text, sizeof text, "catalog: {folder: %s}\nlocal: {model_folders: [/nonexistent]}\n", folder);
    return text;
}

static void an_owner_adds_and_replaces_cards(void **state) {
    char text[2000];
    make_card(text, sizeof text, "aliases: [home]");
    write_card("house.yaml", text);
    make_card(text, sizeof text, "id: pictogram");
    write_card("mine.yaml", text);
    write_card("notes.txt", "no card");
    open_with(own_config());
    assert_int_equal(catalog_count(catalog), 5);
    assert_string_equal(card_of("home")->id, "house");
    assert_string_equal(card_of("pictogram")->name, "House");
    struct catalog_choice choice;
    struct error error;
    assert_int_equal(find("home", MODE_EDIT, &choice, &error), CATALOG_WRONG_MODE);
    assert_string_equal(error.message,
                        "Model 'house' does not support image editing. Supported modes: text-to-image");
    close_all();
    write_card("other.yaml", text); // two of the owner's with one id
    struct error clash = {0};
    assert_ok(config_parse(&config, "limn.yaml", own_config(), strlen(own_config()), NULL, &clash), clash);
    assert_null(catalog_open(&config, &clash));
    assert_contains(clash.message, "other.yaml: id: pictogram is there already, in ");
    config_free(&config);
    remove_card("house.yaml");
    remove_card("mine.yaml");
    remove_card("other.yaml");
    remove_card("notes.txt");
}

static void wrong_cards_are_refused_with_the_line(void **state) {
    static const char *const cases[][2] = {
        {"card: 2", ":1: card: expected an integer from 1 to 1, found 2"},
        {"id: House", ":2: id: expected at most 80 of a-z"},
        {"id: [a]", ":2: id: expected a text, found a list"},
        {"name:", ":1: name is missing, expected the model's name"},
        {"colour: red", ":11: colour: there is no such key"},
        {"crator: us", ":11: crator: there is no such key; did you mean \"creator\"?"},
        {"release: 2026-13", ":5: release: expected a date"},
        {"release: 2026-02-30",
         ":5: release: expected a date such as 2025-12-29 or 2025-12, found 2026-02-30"},
        {"release: soon", ":5: release: expected a date"},
        {"licence: {name: MIT, commercial: true}", ":7: licence: spdx is missing"},
        {"licence: {name: MIT, spdx: MIT, commercial: yes}",
         ":7: licence.commercial: expected true or false, found yes"},
        {"modes: []", ":8: modes: expected at least one mode"},
        {"modes: [upscale]", ":8: modes[0]: expected one of text-to-image, image-edit, found upscale"},
        {"modes: [image-edit, image-edit]", ":8: modes[1]: named a second time"},
        {"sizes: {default: 512x512}", ":9: sizes: sides is missing"},
        {"sizes: {default: 2048x512, sides: {least: 64, most: 1024}}",
         ":9: sizes.default: expected a size within sides and area, found 2048x512"},
        {"sizes: {default: 1024x64, sides: {least: 64, most: 1024}, ratios: {least: \"1:8\", most: \"8:1\"}, "
         "tiers: {list: [1K]}}",
         ":9: sizes.default: expected a size within ratios, found 1024x64"},
        {"sizes: {default: 512x512, sides: {least: 64, most: 1000}}",
         ":9: sizes.sides: expected multiples of 16"},
        {"sizes: {default: 512x512, sides: {least: 1024, most: 64}}",
         ":9: sizes.sides: least is more than most"},
        {"sizes: {default: big, sides: {least: 64, most: 1024}}",
         ":9: sizes.default: expected WIDTHxHEIGHT in pixels, found big"},
        {"sizes:\n  default: 512x512\n  sides: {least: 64, most: 1024}\n  ratios: {list: [\"1:1\", wide]}\n  "
         "tiers: {list: [1K]}",
         ":12: sizes.ratios.list[1]: expected a ratio such as \"16:9\", found wide"},
        {"sizes:\n  default: 512x512\n  sides: {least: 64, most: 1024}\n  ratios: {list: [\"1:1\"]}\n  "
         "tiers: {list: [2K, 1K]}",
         ":13: sizes.tiers.list[1]: expected rising values"},
        {"sizes:\n  default: 512x512\n  sides: {least: 64, most: 1024}\n  ratios: {least: \"4:1\", most: "
         "\"1:4\"}\n  tiers: {list: [1K]}",
         ":12: sizes.ratios: least is more than most"},
        {"steps: {default: 300}", ":11: steps.default: expected an integer from 1 to 200, found 300"},
        {"references: {most: 17}", ":11: references.most: expected an integer from 1 to 16, found 17"},
        {"providers: []", ":10: providers: expected 1 to 8 providers"},
        {"providers: [{slug: local, models: {image-edit: x}}]",
         ":10: providers[0].models.image-edit: not one of the card's modes"},
        {"providers:\n  - {slug: a, models: {}}\n  - {slug: a, models: {}}",
         ":12: providers[1].slug: a is there already"},
        {"providers: [{slug: local, models: {}, price: {output_megapixel: free}}]",
         ":10: providers[0].price.output_megapixel: expected USD a unit"},
        {"parameters: {sede: {most: 7}}",
         ":11: parameters.sede: there is no such key; did you mean \"seed\"?"},
        {"parameters: {seed: {most: -1}}", ":11: parameters.seed: least is more than most"},
        {"parameters: {seed: {type: text}}", ":11: parameters.seed.type: there is no such key"},
        {"parameters: {n: {default: 20}}", ":11: parameters.n.default: outside of least and most"},
        {"parameters: {background: {handling: {local: magic}}}",
         ":11: parameters.background.handling.local: expected one of ignored, passthrough"},
        {"weights: {folder: x}", ":11: weights: get is missing"},
        {"weights: {folder: x, get: y, repositories: []}",
         ":11: weights.repositories: expected 1 to 5 repositories"},
        {"weights:\n  folder: x\n  get: y\n  repositories:\n    - {repository: x, files: [a]}",
         ":15: weights.repositories[0].repository: expected owner/name, found x"},
        {"weights:\n  folder: x\n  get: y\n  repositories:\n    - {repository: x/y}",
         ":15: weights.repositories[0]: files is missing"},
        {"weights:\n  folder: x\n  get: y\n  repositories:\n    - repository: x/y\n      files: [a, ../b]",
         ":16: weights.repositories[0].files[1]: expected a relative path"},
        {"weights:\n  folder: x\n  get: y\n  repositories:\n    - {repository: x/y, files: [a], revision: "
         "..}",
         ":15: weights.repositories[0].revision: expected a branch, a tag or a commit"},
        {"weights:\n  folder: x\n  get: y\n  repositories:\n    - {repository: x/y, files: [a], lora: 1}",
         ":15: weights.repositories[0].lora: the first repository is the model folder itself"},
        {"weights:\n  folder: x\n  get: y\n  repositories:\n    - {repository: x/y, files: [a]}\n    - "
         "{repository: x/z, "
         "files: [a]}",
         ":16: weights.repositories[1]: expected lora, the scale"},
        {"weights: {folder: x, get: y, forms: [{part: vae}]}", ":11: weights.forms: only with repositories"},
        {FORMS "[]", "expected 1 to 16 forms"},
        {FORMS "[{part: vae, type: A, size: 1GB, repository: a/b, path: a}]", "transformer"},
        {FORMS "[{part: transformer, type: A, size: much, repository: a/b, path: a}]", "size such as 20.1GB"},
        {FORMS "[{part: transformer, type: ../A, size: 1GB, repository: a/b, path: a}]", "expected letters"},
        {FORMS "[{part: transformer, type: A, size: 1GB, repository: a/b, path: ../a}]", "relative path"},
        {FORMS "[{part: transformer, type: A, size: 1GB, repository: a/b, path: \"a*\"}]", "relative path"},
        {FORMS "[{part: transformer, type: A, size: 1GB, repository: a, path: a}]", "owner/name"},
        {FORMS
         "[{part: transformer, type: A, size: 2GB, repository: a/b, path: a}, {part: transformer, type: a, "
         "size: 1GB, repository: a/b, path: a}]",
         "a second form"},
        {FORMS
         "[{part: transformer, type: A, size: 1GB, repository: a/b, path: a}, {part: transformer, type: B, "
         "size: 1GB, repository: a/b, path: a}]",
         "finest first"},
        {"weights: {folder: x, get: y, sigmas: [1]}", ":11: weights.sigmas: only with repositories"},
        {"weights:\n  folder: x\n  get: y\n  repositories: [{repository: x/y, files: [a]}]\n  sigmas: [0.5, "
         "0.5]",
         ":15: weights.sigmas[1]: expected numbers above 0 that fall"},
        {"steps: {default: 3}\nweights:\n  folder: x\n  get: y\n  repositories: [{repository: x/y, files: "
         "[a]}]\n  sigmas: [1, 0.5]",
         ":16: weights.sigmas: expected as many as steps.default, found 2 and 3"},
        {"weights:\n  folder: x\n  get: y\n  repositories: [{repository: x/y, files: [a]}]\n  "
         "system_message: "
         "{repository: x/y, file: a.py, constant: a-b, sha256: x}",
         ":15: weights.system_message.constant: expected a Python name, found a-b"},
        {"weights:\n  folder: x\n  get: y\n  repositories: [{repository: x/y, files: [a]}]\n  "
         "system_message: "
         "{repository: x/y, file: a.py, constant: A, sha256: x}",
         ":15: weights.system_message.sha256: expected 64 hexadecimal digits"},
        {"aliases: [pictogram]", ": aliases: pictogram is a name of pictogram already"},
        {"sections: [{name: x}]", ":11: sections[0]: text is missing"},
        {"tags: all", ":11: tags: expected a list, found all"},
        {"summary: \"a", "/bad.yaml:9: did not find"},
    };
    char text[2000], path[200];
    write_card("bad.yaml", "");
    snprintf(path, sizeof path, "%s/bad.yaml", folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        make_card(text, sizeof text, cases[i][0]);
        write_card("bad.yaml", text);
        assert_ok(config_parse(&config, "limn.yaml", own_config(), strlen(own_config()), NULL, &error),
                  error);
        catalog = catalog_open(&config, &error);
        if (catalog) fail_msg("accepted: %s", cases[i][0]);
        assert_int_equal(error.kind, ERROR_INPUT);
        assert_int_equal(strncmp(error.message, path, strlen(path)), 0);
        assert_contains(error.message, cases[i][1]);
        config_free(&config);
    }
    remove_card("bad.yaml");
}

static void names_in_the_configuration_must_be_models(void **state) {
    static const char *const cases[][2] = {
        {"local: {prices: {flux.2-dev-trubo: {output_image: 1}}}",
         "limn.yaml:1: local.prices: there is no model flux.2-dev-trubo; did you mean \"flux.2-dev-turbo\"?"},
        {"local: {models: {nothing-like-it: /x}}",
         "limn.yaml:1: local.models: there is no model nothing-like-it"},
        {"catalog: {disabled: [pictogam]}",
         "limn.yaml:1: catalog.disabled: there is no model pictogam; did you mean \"pictogram\"?"},
        {"local: {models: {pictogram: /nonexistent/x}}",
         "local.models: pictogram: there is no folder /nonexistent/x"},
        {"catalog: {folder: /nonexistent/cards}",
         "catalog.folder: /nonexistent/cards: No such file or directory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error error = {0};
        assert_ok(config_parse(&config, "limn.yaml", cases[i][0], strlen(cases[i][0]), NULL, &error), error);
        assert_null(catalog_open(&config, &error));
        assert_string_equal(error.message, cases[i][1]);
        config_free(&config);
    }
    open_with("aliases: {x: pictogrm}");
    struct error error = {0};
    assert_false(catalog_set_default(catalog, "pictogram", &error));
    assert_string_equal(error.message,
                        "limn.yaml:1: aliases: there is no model pictogrm; did you mean \"pictogram\"?");
    close_all();
    open_with("aliases: {flux.2-dev: pictogram}");
    error = (struct error){0};
    assert_false(catalog_set_default(catalog, "pictogram", &error));
    assert_string_equal(error.message,
                        "limn.yaml:1: aliases: flux.2-dev is a model's own name, which goes before an alias");
    close_all();
}

static void prices_are_the_owners(void **state) {
    open_with(
        "local:\n  model_folders: [/nonexistent]\n  prices:\n    flux.2-dev: {output_image: 0.04}\n    '*': "
        "{output_megapixel: 0.001}\n    flux.*: {output_megapixel: 0.002}\n");
    assert_int_equal(card_provider(card_of("flux.2-dev"), "local")->price.components[0].unit_picos,
                     40000000000);
    // Of several globs the first that fits.
    assert_int_equal(card_provider(card_of("flux.2-dev-turbo"), "local")->price.components[0].unit_picos,
                     1000000000);
    assert_int_equal(card_provider(card_of("flux.2-dev-turbo"), "fal")->price.count, 2);
    close_all();
}

// --------------------------------------------------------------------------------------------------------------- weights

static void weights_are_looked_for(void **state) {
    open_with(PICTOGRAM);
    assert_string_equal(card_of("pictogram")->weights.found, LIMN_SOURCE_DIR "/models/pictogram");
    assert_null(card_of("flux.2-dev")->weights.found);
    close_all();
    open_with("local: {model_folders: [/nonexistent], models: {flux.2-dev: \"" LIMN_SOURCE_DIR
              "/models/pictogram\", flux.2-klein-4b: \"" LIMN_SOURCE_DIR "/docs\"}}");
    assert_string_equal(card_of("flux.2-dev")->weights.found, LIMN_SOURCE_DIR "/models/pictogram");
    struct catalog_choice choice;
    struct error error;
    assert_int_equal(find("flux.2-klein-4b", MODE_GENERATION, &choice, &error), CATALOG_NOT_INSTALLED);
    assert_contains(error.message, "model_index.json");
    close_all();
}

// Weights in other forms than the diffusers layout are found by what they hold.
static void weights_in_any_layout_count(void **state) {
    char folder[64] = "/tmp/limn-catalog-XXXXXX", command[700], config[300];
    assert_non_null(mkdtemp(folder));
    snprintf(command, sizeof command,
             "cd %s/tests/fixtures && cp layouts/transformer.gguf layouts/text_encoder.gguf %s && cp -r "
             "model-b/vae %s",
             LIMN_SOURCE_DIR, folder, folder);
    assert_int_equal(system(command), 0);
    snprintf(config, sizeof config, "local: {model_folders: [/nonexistent], models: {flux.2-dev: \"%s\"}}",
             folder);
    open_with(config);
    assert_string_equal(card_of("flux.2-dev")->weights.found, folder);
    close_all();
    snprintf(command, sizeof command, "rm %s/text_encoder.gguf", folder);
    assert_int_equal(system(command), 0);
    open_with(config);
    assert_null(card_of("flux.2-dev")->weights.found);
    assert_contains(card_of("flux.2-dev")->weights.missing,
                    "there is no text encoder, expected text_encoder/");
    close_all();
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

// ------------------------------------------------------------------------------------------------------------------ JSON

static const char *text_at(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    if (!text) fail_msg("no text %s", key);
    return text;
}

static void model_objects(void **state) {
    open_with(PICTOGRAM);
    json_t *list = catalog_models_json(catalog), *data = json_object_get(list, "data");
    assert_string_equal(text_at(list, "object"), "list");
    assert_int_equal(json_array_size(data), 4);
    assert_string_equal(text_at(json_array_get(data, 0), "id"), "pictogram"); // what can be had comes first
    struct error error = {0};
    assert_ok(catalog_set_default(catalog, "flux.2-klein-4b", &error), error);
    json_t *other = catalog_models_json(catalog);
    assert_string_equal(text_at(json_array_get(json_object_get(other, "data"), 0), "id"), "flux.2-klein-4b");
    json_decref(other);
    json_t *model = catalog_model_json(catalog, card_of("flux.2-dev-turbo"));
    assert_string_equal(text_at(model, "object"), "model");
    assert_int_equal(json_integer_value(json_object_get(model, "created")), 1766966400);
    assert_string_equal(text_at(model, "owned_by"), "fal");
    assert_true(json_is_false(json_object_get(model, "installed")));
    assert_true(json_is_false(json_object_get(model, "available")));
    assert_contains(text_at(model, "how_to_install"), "limn pull flux.2-dev-turbo");
    assert_true(json_is_false(json_object_get(json_object_get(model, "licence"), "commercial_use")));
    const json_t *limits = json_object_get(model, "limits");
    assert_string_equal(text_at(limits, "max_resolution"), "2048x2048");
    assert_string_equal(text_at(json_object_get(limits, "aspect_ratios"), "least"), "1:8");
    assert_string_equal(text_at(json_object_get(limits, "resolutions"), "most"), "2K");
    assert_true(json_real_value(json_object_get(model, "starting_price")) == 0.008);
    const json_t *fal = json_array_get(json_object_get(model, "providers"), 1);
    assert_string_equal(text_at(json_object_get(json_object_get(fal, "models"), "image-edit"), "id"),
                        "fal/flux.2-dev-turbo-edit");
    assert_int_equal(json_array_size(json_object_get(model, "faq")), 4);
    json_decref(model);
    json_decref(list);
    close_all();
}

static void schema_objects(void **state) {
    open_with(NO_WEIGHTS);
    json_t *schema = catalog_schema_json(catalog, card_of("pictogram"));
    assert_string_equal(text_at(schema, "object"), "model.schema");
    const json_t *modes = json_object_get(schema, "modes");
    const json_t *make = json_object_get(modes, "text-to-image"),
                 *edit = json_object_get(modes, "image-edit");
    const json_t *n = json_object_get(json_object_get(make, "properties"), "n");
    assert_int_equal(json_integer_value(json_object_get(n, "maximum")), 10);
    assert_int_equal(json_integer_value(json_object_get(n, "default")), 1);
    assert_null(json_object_get(json_object_get(make, "properties"), "image"));
    assert_non_null(json_object_get(json_object_get(edit, "properties"), "image"));
    assert_int_equal(json_array_size(json_object_get(make, "required")), 1);
    const json_t *rule = json_object_get(json_array_get(json_object_get(make, "allOf"), 0), "not");
    const json_t *jpeg = json_object_get(json_object_get(rule, "properties"), "output_format");
    assert_string_equal(text_at(jpeg, "const"), "jpeg");
    assert_int_equal(json_array_size(json_object_get(edit, "required")), 2);
    const json_t *parameters = json_object_get(schema, "parameters");
    assert_int_equal(json_array_size(parameters), catalog_parameters(catalog)->count);
    for (size_t i = 0; i < json_array_size(parameters); i++) {
        const json_t *parameter = json_array_get(parameters, i);
        if (strcmp(text_at(parameter, "name"), "cfg_scale")) continue;
        const json_t *local = json_object_get(json_object_get(parameter, "handling"), "local");
        assert_string_equal(text_at(local, "behavior"), "renamed");
        assert_string_equal(text_at(local, "field"), "guidance");
        assert_string_equal(text_at(json_object_get(parameter, "modes"), "text-to-image"), "supported");
    }
    json_decref(schema);
    // In a JSON edit the pictures are `images`, and null stands for what is left out.
    json_t *body = parameters_schema(catalog_parameters(catalog), MODE_EDIT, false);
    const json_t *properties = json_object_get(body, "properties");
    assert_non_null(json_object_get(properties, "images"));
    assert_null(json_object_get(properties, "image"));
    assert_int_equal(json_array_size(json_object_get(json_object_get(properties, "seed"), "type")), 2);
    assert_true(json_is_string(json_object_get(json_object_get(properties, "prompt"), "type")));
    json_decref(body);
    close_all();
}

static int clean_up(void **state) {
    if (*folder) rmdir(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_four_cards_say_what_is_known),
        cmocka_unit_test(parameters_follow_the_card),
        cmocka_unit_test(a_model_is_found_by_its_names),
        cmocka_unit_test(a_near_miss_is_suggested),
        cmocka_unit_test(an_absent_model_says_how_to_get_it),
        cmocka_unit_test(a_folder_without_a_card_is_served),
        cmocka_unit_test(defaults_and_switches),
        cmocka_unit_test(an_owner_adds_and_replaces_cards),
        cmocka_unit_test(wrong_cards_are_refused_with_the_line),
        cmocka_unit_test(names_in_the_configuration_must_be_models),
        cmocka_unit_test(prices_are_the_owners),
        cmocka_unit_test(weights_are_looked_for),
        cmocka_unit_test(weights_in_any_layout_count),
        cmocka_unit_test(model_objects),
        cmocka_unit_test(schema_objects),
    };
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
