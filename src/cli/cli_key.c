// limn key create|list|revoke: the API keys of a server's database. A server that runs sees a change within a second. Relies on
// catalog (limn.yaml), store.
#include "base/clock.h"
#include "base/file.h"
#include "catalog/catalog.h"
#include "cli/commands.h"
#include "cli/key_models.h"
#include "cli/options.h"
#include "cli/state.h"
#include "store/key_table.h"
#include "store/listing.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char HELP[] =
    "limn key - make, list and revoke API keys\n"
    "\n"
    "usage: limn key create NAME [OPTION]...\n"
    "       limn key list [--all] [--json]\n"
    "       limn key revoke ID|NAME\n"
    "\n"
    "A key is shown once, when it is made; only a hash of it is kept. From the first one on the server "
    "answers no request\n"
    "without a key. A server that runs sees a change within a second.\n"
    "\n"
    "Options of create:\n"
    "  --admin                  may list keys and all records, and read the metrics\n"
    "  --project NAME           project of its requests (default: default); given again: others that it may "
    "name,\n"
    "                           * for all\n"
    "  --models LIST            models that it may use, separated by commas, with * and ? (default: all); "
    "aliases of\n"
    "                           limn.yaml become what they mean now\n"
    "  --priority LEVEL         low, normal or high: whose requests go first when several wait (default: "
    "normal)\n"
    "  --budget-day USD         dollars a day (UTC), a month, in all; a request that may cost more than is "
    "left is\n"
    "  --budget-month USD       answered with 402\n"
    "  --budget-total USD\n"
    "  --requests-per-minute N  more are answered with 429\n"
    "  --images-per-day N       the same for pictures\n"
    "  --expires WHEN           30d, 12h, 90m, or a time as 2027-01-31 or 2027-01-31T12:00:00Z\n"
    "\n"
    "  --all                    list revoked keys, too\n"
    "  --json                   print JSON\n"
    "  --database FILE          the server's database (default: store.path of limn.yaml, else "
    "STATE/limn.db)\n"
    "  --config FILE            limn.yaml (default: as limn serve finds it)\n"
    "  --help                   print this text\n"
    "\n"
    "STATE is $XDG_STATE_HOME/limn, else ~/.local/state/limn.\n"
    "\n"
    "Exit status: 0 when done, 1 when it could not be, 2 for wrong usage.\n";

struct key_command {
    const char *verb, *which; // NAME or ID
    const char *database, *config;
    struct key_info key;
    bool all, json, limits; // limits: an option of create was given
};

static bool usage(const char *option, const char *expected) {
    fprintf(stderr, "limn key: %s: expected %s; see limn key --help\n", option, expected);
    return false;
}

static bool read_money(const char *option, const char *text, int64_t *micros) {
    double value;
    if (!option_number(option, text, 0.000001, 1e9, &value)) return false;
    *micros = (int64_t)(value * 1e6 + 0.5);
    return true;
}

// "30d", "12h", "90m" from now, or a point in time.
static bool read_expiry(const char *text, int64_t *micros) {
    int64_t now = clock_unix_micros();
    char *end;
    long long number = strtoll(text, &end, 10);
    bool unit = *end && !end[1] && strchr("mhd", *end);
    if (end != text && unit && number > 0 && number < 1000000) {
        static const int64_t seconds[] = {60, 3600, 86400};
        *micros = now + number * seconds[strcspn("mhd", end)] * 1000000;
        return true;
    }
    if (!query_read_time(text, micros) || strspn(text, "0123456789") == strlen(text))
        return usage("--expires", "30d, 12h, 90m or a time as 2027-01-31");
    return *micros > now || usage("--expires", "a time to come");
}

static bool add_project(struct key_info *key, const char *text) {
    if (!*key->project) {
        if (strlen(text) >= sizeof key->project) return usage("--project", "at most 63 letters");
        memcpy(key->project, text, strlen(text) + 1);
        return true;
    }
    size_t used = strlen(key->projects);
    if (used + strlen(text) + 2 > sizeof key->projects) return usage("--project", "fewer of them");
    snprintf(key->projects + used, sizeof key->projects - used, "%s%s", used ? "," : "", text);
    return true;
}

static bool read_option(struct key_command *command, int letter, const char *text) {
    struct key_info *key = &command->key;
    switch (letter) { // of all verbs
    case 'D':
        command->database = text;
        return true;
    case 'C':
        command->config = text;
        return true;
    case 'a':
        return command->all = true;
    case 'j':
        return command->json = true;
    default:
        break;
    }
    command->limits = true;
    switch (letter) {
    case 'A':
        return key->admin = true;
    case 'p':
        return add_project(key, text);
    case 'm':
        if (strlen(text) >= sizeof key->models) return usage("--models", "at most 1023 letters");
        memcpy(key->models, text, strlen(text) + 1);
        return true;
    case 'P':
        return key_priority_from_name(text, &key->priority) || usage("--priority", "low, normal or high");
    case 'd':
        return read_money("--budget-day", text, &key->budget_day_micros);
    case 'M':
        return read_money("--budget-month", text, &key->budget_month_micros);
    case 't':
        return read_money("--budget-total", text, &key->budget_total_micros);
    case 'r':
        return option_integer("--requests-per-minute", text, 1, 1000000, &key->requests_per_minute);
    case 'i':
        return option_integer("--images-per-day", text, 1, 1000000000, &key->images_per_day);
    case 'e':
        return read_expiry(text, &key->expires_at);
    default:
        return false;
    }
}

static bool check_words(struct key_command *command, int count, char **words) {
    command->verb = count ? words[0] : "";
    bool create = !strcmp(command->verb, "create"), revoke = !strcmp(command->verb, "revoke");
    if (!create && !revoke && strcmp(command->verb, "list"))
        return usage(count ? command->verb : "COMMAND", "create, list or revoke");
    if (count != (create || revoke ? 2 : 1))
        return usage(command->verb, create ? "one NAME" : revoke ? "one ID or NAME" : "no further argument");
    if (command->limits && !create) return usage(command->verb, "no options of create");
    command->which = count > 1 ? words[1] : NULL;
    if (!create) return true;
    if (strlen(command->which) >= sizeof command->key.name) return usage("NAME", "at most 127 letters");
    memcpy(command->key.name, command->which, strlen(command->which) + 1);
    return true;
}

// Returns -1 to go on, else the exit status.
static int read_arguments(struct key_command *command, int count, char **arguments) {
    static const struct option known[] = {
        {"admin", no_argument, NULL, 'A'},
        {"project", required_argument, NULL, 'p'},
        {"models", required_argument, NULL, 'm'},
        {"priority", required_argument, NULL, 'P'},
        {"budget-day", required_argument, NULL, 'd'},
        {"budget-month", required_argument, NULL, 'M'},
        {"budget-total", required_argument, NULL, 't'},
        {"requests-per-minute", required_argument, NULL, 'r'},
        {"images-per-day", required_argument, NULL, 'i'},
        {"expires", required_argument, NULL, 'e'},
        {"all", no_argument, NULL, 'a'},
        {"json", no_argument, NULL, 'j'},
        {"database", required_argument, NULL, 'D'},
        {"config", required_argument, NULL, 'C'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    for (int letter; (letter = getopt_long(count, arguments, "h", known, NULL)) != -1;) {
        if (letter == 'h') {
            fputs(HELP, stdout);
            return fflush(stdout) == 0 ? 0 : 1;
        }
        if (letter == '?' || !read_option(command, letter, optarg)) return 2;
    }
    return check_words(command, count - optind, arguments + optind) ? -1 : 2;
}

// ------------------------------------------------------------------------------------------------------------ database

static struct database *open_at(const char *path, struct error *error) {
    struct database *database = database_open(path, DATABASE_CREATE | DATABASE_CHECKPOINT, 5, error);
    if (database && database_migrate(database, DATABASE_VERSION, error)) return database;
    database_close(database);
    return NULL;
}

static struct database *open_database(const struct key_command *command, struct error *error) {
    if (command->database) return open_at(command->database, error);
    struct config config = {0};
    struct database *database = NULL;
    if (config_load(&config, command->config, error)) {
        if (*config.store.path) {
            database = open_at(config.store.path, error);
        } else {
            char *state = state_folder(error);
            char *path = state ? path_join(state, "limn.db") : NULL;
            if (path) database = open_at(path, error);
            free(path);
            free(state);
        }
    }
    config_free(&config);
    return database;
}

// --------------------------------------------------------------------------------------------------------------- verbs

static bool print_json(json_t *value, struct error *error) {
    char *text = value ? json_dumps(value, JSON_INDENT(2)) : NULL;
    json_decref(value);
    if (!text) return error_set(error, ERROR_MEMORY, "no memory for the output");
    puts(text);
    free(text);
    return true;
}

// A key is held against the ids of models: what its maker calls them is found out now.
static bool resolve_models(struct key_command *command, struct error *error) {
    char given[KEY_MODELS_MOST];
    struct config config = {0};
    memcpy(given, command->key.models, sizeof given);
    struct catalog *catalog =
        config_load(&config, command->config, error) ? catalog_open(&config, error) : NULL;
    bool good = catalog && key_models_resolve(catalog, &config, command->key.models, error);
    catalog_close(catalog);
    config_free(&config);
    if (good && strcmp(given, command->key.models))
        fprintf(stderr, "--models %s: the key may use %s\n", given, command->key.models);
    return good;
}

static bool create(struct database *database, struct key_command *command, struct error *error) {
    char text[KEY_TEXT_MOST];
    if (*command->key.models && !resolve_models(command, error)) return false;
    if (!key_create(database, &command->key, clock_unix_micros(), text, error)) return false;
    if (command->json)
        return print_json(json_pack("{s:s, s:o, s:s}", "id", command->key.id, "name",
                                    listing_text(command->key.name), "key", text),
                          error);
    printf("%s\n", text);
    fflush(stdout);
    fprintf(stderr, "This is the key \"%s\" (id %s). It is not shown again.\n", command->key.name,
            command->key.id);
    return true;
}

static const char *day_of(const json_t *time) {
    return json_is_string(time) ? json_string_value(time) : "-";
}

static void print_line(const json_t *key) {
    const json_t *total = json_object_get(json_object_get(key, "usage"), "total");
    printf("%-12s  %-7s  %-5s  %-8s  %-24.24s  %-10.10s  %-10.10s  %12.6f  %8" JSON_INTEGER_FORMAT "  %s\n",
           json_string_value(json_object_get(key, "id")), json_string_value(json_object_get(key, "status")),
           json_is_true(json_object_get(key, "admin")) ? "yes" : "no",
           json_string_value(json_object_get(key, "priority")),
           json_string_value(json_object_get(key, "name")), day_of(json_object_get(key, "created_at")),
           day_of(json_object_get(key, "expires_at")), json_real_value(json_object_get(total, "spent")),
           json_integer_value(json_object_get(total, "images")),
           json_string_value(json_object_get(key, "project")));
}

// All pages in one list, newest first.
static json_t *all_keys(struct database *database, bool revoked, struct error *error) {
    json_t *all = json_array();
    struct query_keys query;
    query_keys_init(&query);
    query.limit = 100;
    query.status = revoked ? -1 : 0;
    for (bool more = true; all && more;) {
        json_t *page = listing_keys(database, &query, clock_unix_micros(), error);
        json_t *data = json_object_get(page, "data");
        size_t count = json_array_size(data);
        more = page && json_is_true(json_object_get(page, "has_more"));
        if (!page || json_array_extend(all, data) != 0) {
            json_decref(page);
            json_decref(all);
            error_set(error, ERROR_MEMORY, "no memory for the keys");
            return NULL;
        }
        if (more)
            snprintf(query.starting_after, sizeof query.starting_after, "%s",
                     json_string_value(json_object_get(json_array_get(data, count - 1), "id")));
        json_decref(page);
    }
    return all;
}

static bool list(struct database *database, const struct key_command *command, struct error *error) {
    json_t *keys = all_keys(database, command->all, error);
    if (!keys) return false;
    if (command->json) return print_json(keys, error);
    printf("%-12s  %-7s  %-5s  %-8s  %-24s  %-10s  %-10s  %12s  %8s  %s\n", "id", "status", "admin",
           "priority", "name", "created", "expires", "spent USD", "images", "project");
    size_t index;
    json_t *key;
    json_array_foreach(keys, index, key) print_line(key);
    json_decref(keys);
    return true;
}

static bool revoke(struct database *database, const struct key_command *command, struct error *error) {
    struct key_info key;
    bool already;
    if (!key_revoke(database, command->which, clock_unix_micros(), &key, &already, error)) return false;
    if (command->json)
        return print_json(
            json_pack("{s:s, s:o, s:s}", "id", key.id, "name", listing_text(key.name), "status", "revoked"),
            error);
    printf("The key \"%s\" (id %s) %s.\n", key.name, key.id, already ? "was revoked before" : "is revoked");
    return true;
}

int command_key(int count, char **arguments) {
    struct key_command command = {0};
    int status = read_arguments(&command, count, arguments);
    if (status >= 0) return status;
    struct error error = {0};
    struct database *database = open_database(&command, &error);
    bool done = database && (!strcmp(command.verb, "create") ? create(database, &command, &error)
                             : !strcmp(command.verb, "list") ? list(database, &command, &error)
                                                             : revoke(database, &command, &error));
    database_close(database);
    if (done && fflush(stdout) == 0) return 0;
    fprintf(stderr, "limn key: %s\n", done ? "standard output cannot be written" : error.message);
    return 1;
}
