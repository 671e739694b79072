#include "unit.h"

#include "base/buffer.h"
#include "base/file.h"
#include "base/log.h"
#include "catalog/config_keys.h"

#include <unistd.h>

static struct config config;

static void read_good(const char *text, const char *const *environment) {
    struct error error = {0};
    assert_ok(config_parse(&config, "limn.yaml", text, strlen(text), environment, &error), error);
}

static void refused(const char *text, const char *const *environment, const char *message) {
    struct error error = {0};
    if (config_parse(&config, "limn.yaml", text, strlen(text), environment, &error))
        fail_msg("accepted: %s", text);
    assert_int_equal(error.kind, ERROR_INPUT);
    assert_string_equal(error.message, message);
    config_free(&config);
}

static void everything_has_a_default(void **state) {
    struct error error = {0};
    assert_ok(config_init(&config, &error), error);
    assert_ok(config_check(&config, &error), error);
    assert_string_equal(config.server.host, "127.0.0.1");
    assert_int_equal(config.server.port, 8080);
    assert_string_equal(config.server.tls.key, "");
    assert_int_equal(config.limits.image_bytes, 50 << 20);
    assert_true(config.media.lifetime_seconds == 3600 && config.store.idempotency_seconds == 86400);
    assert_int_equal(config.store.synchronous, SYNCHRONOUS_NORMAL);
    assert_int_equal(config.defaults.response_format, RESPONSE_AUTO);
    assert_int_equal(config.log.level, LOG_INFO);
    assert_false(config.image_url.enabled || config.store.keep_payloads);
    assert_int_equal(config.local.model_folders.count, 1);
    assert_string_equal(config.local.model_folders.items[0], "models");
    assert_int_equal(config.aliases.count, 0);
    config_free(&config);
}

static void the_table_is_sound(void **state) {
    int count;
    const struct config_key *keys = config_keys(&count);
    for (int i = 0; i < count; i++) {
        assert_true(keys[i].name && keys[i].standard && keys[i].meaning && *keys[i].meaning);
        assert_true(keys[i].offset < sizeof(struct config));
        assert_true((keys[i].type == CONFIG_WORD) == (keys[i].words != NULL));
        for (int k = 0; k < i; k++) {
            assert_string_not_equal(keys[i].name, keys[k].name);
            assert_true(keys[i].offset != keys[k].offset);
        }
    }
}

static void a_file_sets_what_it_names(void **state) {
    read_good("server:\n"
              "  host: 0.0.0.0\n"
              "  port: 443\n"
              "  tls: {certificate: /c.pem, key: /k.pem}\n"
              "  trusted_proxies: [10.0.0.0/8, '::1']\n"
              "  drain: 1m\n"
              "limits: {image_bytes: 20MB, image_pixels: 1000000}\n"
              "server.public_base_url: https://images.example.com\n"
              "store:\n  synchronous: full\n  retention: 0\n"
              "media:\n  lifetime: 1.5h\n  quota: 2GiB\n"
              "local:\n"
              "  models: {flux.2-dev: /models/dev}\n"
              "  prices:\n"
              "    flux.2-dev-turbo: {input_megapixel: 0.008, output_megapixel: 0.01}\n"
              "    '*': {output_image: 0.04}\n"
              "aliases:\n  gpt-image-*: flux.2-dev-turbo\n  best: local/flux.2-dev\n"
              "loras:\n  ink: /l/ink.safetensors\n"
              "  wash: {file: /l/wash.safetensors, models: [flux.2-dev, 'test-*'], scale: -0.75}\n"
              "local.loras: ['/l/a.safetensors:0.5', /l/b.safetensors]\n"
              "defaults: {response_format: b64_json}\n"
              "image_url: {enabled: true}\n"
              "log: {format: json, level: warning, access: false}\n"
              "auth:\n",
              NULL);
    assert_string_equal(config.server.host, "0.0.0.0");
    assert_int_equal(config.server.port, 443);
    assert_string_equal(config.server.tls.key, "/k.pem");
    assert_string_equal(config.server.public_base_url, "https://images.example.com");
    assert_int_equal(config.server.trusted_proxies.count, 2);
    assert_string_equal(config.server.trusted_proxies.items[1], "::1");
    assert_true(config.server.drain_seconds == 60 && config.media.lifetime_seconds == 5400);
    assert_int_equal(config.limits.image_bytes, 20000000);
    assert_int_equal(config.limits.image_pixels, 1000000);
    assert_int_equal(config.store.synchronous, SYNCHRONOUS_FULL);
    assert_true(config.store.retention_seconds == 0 && config.media.quota_bytes == 2147483648);
    assert_string_equal(config.local.models.items[0].name, "flux.2-dev");
    assert_string_equal(config.local.models.items[0].value, "/models/dev");
    assert_int_equal(config.local.prices.count, 2);
    assert_int_equal(config.local.prices.items[0].list.components[1].unit_picos, 10000000000);
    assert_string_equal(config.local.prices.items[1].model, "*");
    assert_int_equal(config.local.prices.items[1].list.components[0].metric, PRICE_IMAGE);
    assert_string_equal(config.aliases.items[1].value, "local/flux.2-dev");
    assert_int_equal(config.loras.count, 2);
    assert_string_equal(config.loras.items[0].file, "/l/ink.safetensors");
    assert_true(config.loras.items[0].models.count == 0 && config.loras.items[0].scale == 1);
    assert_string_equal(config.loras.items[1].name, "wash");
    assert_string_equal(config.loras.items[1].models.items[1], "test-*");
    assert_true(config.loras.items[1].scale == -0.75);
    assert_string_equal(config.local.loras.items[0], "/l/a.safetensors:0.5");
    assert_int_equal(config.defaults.response_format, RESPONSE_B64_JSON);
    assert_int_equal(config.log.format, LOG_FORMAT_JSON);
    assert_int_equal(config.log.level, LOG_WARNING);
    assert_true(config.image_url.enabled && !config.log.access);
    config_free(&config);
}

static void nothing_is_a_good_file(void **state) {
    read_good("", NULL);
    assert_int_equal(config.server.port, 8080);
    config_free(&config);
    read_good("server: {host: ~}\nlocal: {prices: }\n", NULL);
    assert_string_equal(config.server.host, "127.0.0.1");
    config_free(&config);
}

static void wrong_values_are_refused(void **state) {
    static const char *const cases[][2] = {
        {"server:\n  port: 70000\n",
         "limn.yaml:2: server.port: expected an integer from 0 to 65535, found 70000"},
        {"server: {port: [1]}\n",
         "limn.yaml:1: server.port: expected an integer from 0 to 65535, found a list"},
        {"server: {port: ''}\n", "limn.yaml:1: server.port: expected an integer from 0 to 65535, found \"\""},
        {"server: {host: 'a b'}\n",
         "limn.yaml:1: server.host: expected an address or a host name, found a b"},
        {"log:\n  access: yes\n", "limn.yaml:2: log.access: expected true or false, found yes"},
        {"log: {format: xml}\n", "limn.yaml:1: log.format: expected one of text|json, found xml"},
        {"media: {lifetime: 5 weeks}\n", "limn.yaml:1: media.lifetime: expected a time such as 90s, 10m, 24h "
                                         "or 30d, from 1s to 365d, found 5 weeks"},
        {"media: {quota: -1}\n", "limn.yaml:1: media.quota: expected a number of bytes such as 50MiB or "
                                 "10GB, from 0 to 1000TB, found -1"},
        {"server: {public_base_url: images.example.com}\n",
         "limn.yaml:1: server.public_base_url: expected a URL such as https://images.example.com, without a "
         "/ at the "
         "end, found images.example.com"},
        {"server:\n  trusted_proxies:\n    - 10.0.0.0/33\n",
         "limn.yaml:3: server.trusted_proxies[0]: expected an address or a network such as 10.0.0.0/8, found "
         "10.0.0.0/33"},
        {"server: {allowed_origins: [app.example.com]}\n",
         "limn.yaml:1: server.allowed_origins[0]: expected an origin such as https://app.example.com, or "
         "\"*\", found "
         "app.example.com"},
        {"loras: [a]\n", "limn.yaml:1: loras: expected a map of keys and values, found a list"},
        {"loras: {a b: x}\n",
         "limn.yaml:1: loras.a b: expected a name of 1 to 64 letters, digits, dots, dashes and underscores"},
        {"loras: {a: ''}\n", "limn.yaml:1: loras.a: expected the path of a file"},
        {"loras:\n  a: {models: m}\n",
         "limn.yaml:2: loras.a: without file, expected the path of a LoRA (safetensors)"},
        {"loras: {a: {file: x, scale: 5}}\n",
         "limn.yaml:1: loras.a.scale: expected a number from -4 to 4, found 5"},
        {"loras: {a: {file: x, scale: nan}}\n",
         "limn.yaml:1: loras.a.scale: expected a number from -4 to 4, found nan"},
        {"loras: {a: {file: x, weight: 1}}\n",
         "limn.yaml:1: loras.a.weight: there is no such key; expected file, models or scale"},
        {"loras: {a: {file: x, models: ['']}}\n",
         "limn.yaml:1: loras.a.models[0]: expected a model's name, such as flux.2-dev-turbo"},
        {"local: {loras: [a, b, c, d, e]}\n", "limn.yaml:1: local.loras: 5 of them, expected at most 4"},
        {"aliases: [a]\n", "limn.yaml:1: aliases: expected a map of keys and values, found a list"},
        {"aliases: {a: [b]}\n", "limn.yaml:1: aliases.a: expected a text, found a list"},
        {"local: {prices: {m: {output_megapixels: 1}}}\n",
         "limn.yaml:1: local.prices.m.output_megapixels: there is no such key; did you mean "
         "\"output_megapixel\"?"},
        {"local: {prices: {m: {output_image: -1}}}\n",
         "limn.yaml:1: local.prices.m.output_image: expected USD a unit, a plain decimal from 0 to 1000"},
        {"server: 8080\n", "limn.yaml:1: server: expected a map of keys and values, found 8080"},
        {"- a\n", "limn.yaml:1: expected a map of keys and values, found a list"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) refused(cases[i][0], NULL, cases[i][1]);
}

static void unknown_keys_are_refused_with_a_suggestion(void **state) {
    static const char *const cases[][2] = {
        {"server:\n  prot: 1\n",
         "limn.yaml:2: server.prot: there is no such key; did you mean \"server.port\"?"},
        {"sever:\n  port: 1\n", "limn.yaml:1: sever: there is no such key; did you mean \"server\"?"},
        {"port: 1\n", "limn.yaml:1: port: there is no such key; did you mean \"server.port\"?"},
        {"server: {tls: {certficate: x}}\n", "limn.yaml:1: server.tls.certficate: there is no such key; did "
                                             "you mean \"server.tls.certificate\"?"},
        {"colour: red\n", "limn.yaml:1: colour: there is no such key; `limn config print` shows all"},
        {"server: {port: 1}\nserver.port: 2\n",
         "limn.yaml:2: server.port: a second time; the first is in line 1"},
        {"server: {port: 1}\nserver: {host: a}\n",
         "limn.yaml:2: server: a second time; the first is in line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) refused(cases[i][0], NULL, cases[i][1]);
}

static void the_environment_overrides(void **state) {
    static const char *const environment[] = {"PATH=/bin",
                                              "LIMN_SERVER_PORT=9000",
                                              "LIMN_SERVER_TRUSTED_PROXIES=10.0.0.1, fd00::/8",
                                              "LIMN_SERVER_ALLOWED_ORIGINS=[\"*\"]",
                                              "LIMN_ALIASES={gpt-image-*: pictogram}",
                                              "LIMN_LOCAL_PRICES={pictogram: {output_image: 0.5}}",
                                              "LIMN_MEDIA_FOLDER=",
                                              "LIMN_MODEL=models/x",
                                              "LIMN=build/limn",
                                              "LIMN_NODE_MODULES=x",
                                              NULL};
    read_good("server: {port: 1, host: '::1'}\nmedia: {folder: /m}\n", environment);
    assert_int_equal(config.server.port, 9000);
    assert_string_equal(config.server.host, "::1");
    assert_string_equal(config.server.trusted_proxies.items[1], "fd00::/8");
    assert_string_equal(config.server.allowed_origins.items[0], "*");
    assert_string_equal(config.aliases.items[0].value, "pictogram");
    assert_int_equal(config.local.prices.items[0].list.components[0].unit_picos, 500000000000);
    assert_string_equal(config.media.folder, "/m"); // set to nothing is not set
    config_free(&config);
}

static void wrong_variables_are_refused(void **state) {
    refused("", (const char *const[]){"LIMN_SERVER_PORT=x", NULL},
            "LIMN_SERVER_PORT: expected an integer from 0 to 65535, found \"x\"");
    refused("", (const char *const[]){"LIMN_SERVER_PROT=1", NULL},
            "LIMN_SERVER_PROT: there is no such setting; did you mean LIMN_SERVER_PORT?");
    refused(
        "", (const char *const[]){"LIMN_SERVER_TRUSTED_PROXIES=10.0.0.1,nonsense", NULL},
        "LIMN_SERVER_TRUSTED_PROXIES: expected an address or a network such as 10.0.0.0/8, found nonsense");
    refused("", (const char *const[]){"LIMN_MEDIA_FOLDER=/a\xf7\x8c", NULL},
            "LIMN_MEDIA_FOLDER: expected text in UTF-8");
    refused("", (const char *const[]){"LIMN_ALIASES=a", NULL},
            "LIMN_ALIASES:1: expected a map of keys and values, found a");
}

static void keys_must_fit_together(void **state) {
    refused("log: {level: info}\nserver:\n  tls: {certificate: c.pem}\n", NULL,
            "limn.yaml:3: server.tls.certificate: without server.tls.key; expected both or none");
    refused("", (const char *const[]){"LIMN_SERVER_TLS_KEY=k.pem", NULL},
            "LIMN_SERVER_TLS_KEY: without server.tls.certificate; expected both or none");
    refused("limits: {image_bytes: 1GB}\n", NULL,
            "limn.yaml:1: limits.image_bytes: more than limits.body_bytes, expected at most as many");
    refused("auth: {required: true, insecure_no_auth: true}\n", NULL,
            "limn.yaml:1: auth.insecure_no_auth: together with auth.required; expected one of the two");
}

// What config_print writes reads back to the same values, whatever they are.
static void what_is_printed_reads_back(void **state) {
    static const char *const texts[] = {
        "",
        "server: {drain: 90s, trusted_proxies: [10.0.0.0/8, '::1']}\n"
        "media: {folder: \"a\\\"b\\\\c:\\u00e9\\u0085\\u2028\\ufeff\\t\\x7f\\U0001f600\", lifetime: 500s, "
        "quota: 1500}\nstore: {retention: 36h, "
        "synchronous: full}\nqueue: {lease: "
        "2.5s}\n"
        "local: {prices: {a: {input_token: 0.000000000001, output_image: 1000}, 'b c': {}}, models: {m: /x "
        "y}}\n"
        "loras: {ink: /l/ink, wash: {file: 'a b', models: ['x*'], scale: 0.125}}\n"
        "aliases: {'gpt-*': a, \"dall-e: 2\": 'local/a # b'}\n",
    };
    int count;
    const struct config_key *keys = config_keys(&count);
    for (size_t t = 0; t < sizeof texts / sizeof *texts; t++) {
        struct buffer printed = {0};
        struct config again;
        struct error error = {0};
        read_good(texts[t], NULL);
        assert_true(config_print(&config, &printed));
        assert_ok(config_parse(&again, "printed", printed.data, printed.length, NULL, &error), error);
        for (int i = 0; i < count; i++) {
            struct buffer a = {0}, b = {0};
            assert_true(config_add_value(&config, &keys[i], &a) && config_add_value(&again, &keys[i], &b));
            if (strcmp(a.data, b.data)) fail_msg("%s: %s became %s", keys[i].name, a.data, b.data);
            assert_int_equal(again.origins[i].source, CONFIG_FILE);
            buffer_free(&a);
            buffer_free(&b);
        }
        config_free(&again);
        config_free(&config);
        buffer_free(&printed);
    }
}

static void print_says_where_values_come_from(void **state) {
    struct buffer out = {0};
    read_good("\nserver: {port: 81}\n", (const char *const[]){"LIMN_LOG_LEVEL=debug", NULL});
    assert_true(config_print(&config, &out));
    assert_contains(
        out.data, "  # port to listen on; 0 takes any free one (default: 8080)\n  port: 81  # limn.yaml:2\n");
    assert_contains(out.data, "  level: debug  # LIMN_LOG_LEVEL\n");
    assert_contains(out.data, "\naliases: {}\n");
    assert_contains(out.data, "server:\n  # address");
    assert_contains(out.data, "  tls:\n    # PEM file");
    config_free(&config);
    buffer_free(&out);
}

// docs/configuration.md has the table as it is.
static void the_documentation_is_complete(void **state) {
    char *text;
    size_t size;
    struct error error = {0};
    int count;
    const struct config_key *keys = config_keys(&count);
    assert_ok(file_read(LIMN_SOURCE_DIR "/docs/configuration.md", 1 << 20, &text, &size, &error), error);
    for (int i = 0; i < count; i++) {
        char row[600];
        const char *tick = *keys[i].standard ? "`" : "";
        snprintf(row, sizeof row, "\n| `%s` | %s%s%s | %s |\n", keys[i].name, tick, keys[i].standard, tick,
                 keys[i].meaning);
        if (!strstr(text, row)) fail_msg("docs/configuration.md lacks the row%s", row);
    }
    free(text);
}

static void a_file_is_found_and_named(void **state) {
    char path[] = "/tmp/limn-config-XXXXXX";
    int file = mkstemp(path);
    struct error error = {0};
    assert_true(file >= 0 && write(file, "server:\n  port: 70000\n", 22) == 22);
    close(file);
    setenv("LIMN_CONFIG", path, 1);
    assert_false(config_load(&config, NULL, &error));
    assert_contains(error.message, path);
    assert_contains(error.message, ":2: server.port");
    config_free(&config);
    setenv("LIMN_CONFIG", "/nonexistent/limn.yaml", 1); // one that is named must be there
    error = (struct error){0};
    assert_false(config_load(&config, NULL, &error));
    assert_contains(error.message, "/nonexistent/limn.yaml");
    config_free(&config);
    unsetenv("LIMN_CONFIG");
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_has_a_default),
        cmocka_unit_test(the_table_is_sound),
        cmocka_unit_test(a_file_sets_what_it_names),
        cmocka_unit_test(nothing_is_a_good_file),
        cmocka_unit_test(wrong_values_are_refused),
        cmocka_unit_test(unknown_keys_are_refused_with_a_suggestion),
        cmocka_unit_test(the_environment_overrides),
        cmocka_unit_test(wrong_variables_are_refused),
        cmocka_unit_test(keys_must_fit_together),
        cmocka_unit_test(what_is_printed_reads_back),
        cmocka_unit_test(print_says_where_values_come_from),
        cmocka_unit_test(the_documentation_is_complete),
        cmocka_unit_test(a_file_is_found_and_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
