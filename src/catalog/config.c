// See config.h.
#include "catalog/config.h"

#include "base/buffer.h"
#include "base/file.h"
#include "base/near.h"
#include "base/yaml.h"
#include "catalog/config_keys.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // defines: environ

#define FILE_MOST     (1u << 20)
#define NAME_MOST     64
#define SIBLINGS_MOST 64

bool config_init(struct config *config, struct error *error) {
    int count;
    const struct config_key *keys = config_keys(&count);
    *config = (struct config){.path = ""};
    config->origins = arena_alloc(&config->arena, (size_t)count * sizeof *config->origins);
    if (!config->origins) return error_set(error, ERROR_MEMORY, "not enough memory for the configuration");
    for (int i = 0; i < count; i++)
        if (!config_set_text(config, &keys[i], keys[i].standard, keys[i].name, error)) return false;
    return true;
}

void config_free(struct config *config) {
    arena_free(&config->arena);
    *config = (struct config){0};
}

// ---------------------------------------------------------------------------------------------------------- the file

// Whether [path] is a section: "server" of "server.port".
static bool is_section(const char *path) {
    int count;
    const struct config_key *keys = config_keys(&count);
    size_t length = strlen(path);
    for (int i = 0; i < count; i++)
        if (!strncmp(keys[i].name, path, length) && keys[i].name[length] == '.') return true;
    return false;
}

// What was probably meant by a key that is unknown: one of its would-be siblings, or the same name in another section.
static bool suggest(const char *path, char *meant, size_t size) {
    int count, siblings = 0;
    const struct config_key *keys = config_keys(&count);
    const char *dot = strrchr(path, '.'), *name = dot ? dot + 1 : path;
    size_t above = (size_t)(name - path);
    static char none[1];
    char names[SIBLINGS_MOST][NAME_MOST];
    const char *candidates[SIBLINGS_MOST];
    for (int i = 0; i < count && siblings < SIBLINGS_MOST; i++) {
        if (strncmp(keys[i].name, path, above)) continue;
        snprintf(names[siblings], NAME_MOST, "%.*s", (int)strcspn(keys[i].name + above, "."),
                 keys[i].name + above);
        candidates[siblings] = names[siblings];
        siblings++;
    }
    const char *near = near_match(name, candidates, siblings);
    if (near) return snprintf(meant, size, "%.*s%s", (int)above, path, near) > 0;
    for (int i = 0; i < count; i++) {
        const char *last = strrchr(keys[i].name, '.');
        if (last && !strcmp(last + 1, name)) return snprintf(meant, size, "%s", keys[i].name) > 0;
    }
    return none[0];
}

static bool unknown_key(const struct yaml_node *node, const char *path, struct error *error) {
    char meant[2 * NAME_MOST];
    if (suggest(path, meant, sizeof meant))
        return yaml_fail(node, error, "there is no such key; did you mean \"%s\"?", meant);
    return yaml_fail(node, error, "there is no such key; `limn config print` shows all");
}

static bool read_section(struct config *config, const struct yaml_node *section, struct error *error) {
    int count;
    const struct config_key *keys = config_keys(&count);
    if (section->type == YAML_TYPE_NULL) return true;
    if (!yaml_is(section, YAML_TYPE_MAP, error)) return false;
    for (int i = 0; i < section->count; i++) {
        const struct yaml_node *node = &section->items[i];
        char path[2 * NAME_MOST];
        int k = 0;
        yaml_path(node, path, sizeof path);
        while (k < count && strcmp(keys[k].name, path)) k++;
        if (k < count) {
            if (config->origins[k].source == CONFIG_FILE)
                return yaml_fail(node, error, "a second time; the first is in line %d",
                                 config->origins[k].line);
            if (!config_set_node(config, &keys[k], node, error)) return false;
            if (node->type != YAML_TYPE_NULL)
                config->origins[k] = (struct config_origin){CONFIG_FILE, node->line};
        } else if (!is_section(path)) {
            return unknown_key(node, path, error);
        } else if (!read_section(config, node, error)) {
            return false;
        }
    }
    return true;
}

static bool read_file(struct config *config, const char *path, struct error *error) {
    struct yaml *yaml = yaml_read_file(path, FILE_MOST, error);
    bool good = yaml && read_section(config, yaml_root(yaml), error);
    yaml_close(yaml);
    config->path = arena_strdup(&config->arena, path);
    return good &&
           (config->path || error_set(error, ERROR_MEMORY, "not enough memory for the configuration"));
}

// ------------------------------------------------------------------------------------------------------- environment

// Whether a variable's name begins like one of limn's keys: "LIMN_SERVER_...".
static bool is_ours(const char *name, size_t length) {
    int count;
    const struct config_key *keys = config_keys(&count);
    for (int i = 0; i < count; i++) {
        char prefix[NAME_MOST];
        int size =
            snprintf(prefix, sizeof prefix, "LIMN_%.*s", (int)strcspn(keys[i].name, "."), keys[i].name);
        for (char *c = prefix; *c; c++) *c = (char)toupper((unsigned char)*c);
        if (length > (size_t)size && !strncmp(name, prefix, (size_t)size) && name[size] == '_') return true;
    }
    return false;
}

static bool unknown_variable(const char *name, struct error *error) {
    int count;
    const struct config_key *keys = config_keys(&count);
    char meant[NAME_MOST + 8] = "", variable[NAME_MOST + 8];
    int best = 1000;
    for (int i = 0; i < count; i++) {
        config_variable(&keys[i], variable, sizeof variable);
        int distance = near_distance(name, variable);
        if (distance >= best) continue;
        best = distance;
        snprintf(meant, sizeof meant, "%s", variable);
    }
    return error_set(error, ERROR_INPUT, "%.80s: there is no such setting; did you mean %s?", name, meant);
}

static bool read_variable(struct config *config, const char *entry, struct error *error) {
    int count;
    const struct config_key *keys = config_keys(&count);
    size_t length = strcspn(entry, "=");
    if (strncmp(entry, "LIMN_", 5) || !entry[length]) return true;
    for (int i = 0; i < count; i++) {
        char variable[NAME_MOST + 8];
        config_variable(&keys[i], variable, sizeof variable);
        if (strlen(variable) != length || strncmp(entry, variable, length)) continue;
        if (!entry[length + 1]) return true; // set to nothing: not set
        config->origins[i] = (struct config_origin){CONFIG_ENVIRONMENT, 0};
        return config_set_text(config, &keys[i], entry + length + 1, variable, error);
    }
    if (!is_ours(entry, length)) return true;
    char name[120];
    snprintf(name, sizeof name, "%.*s", (int)length, entry);
    return unknown_variable(name, error);
}

static bool read_environment(struct config *config, const char *const *environment, struct error *error) {
    for (; environment && *environment; environment++)
        if (!read_variable(config, *environment, error)) return false;
    return true;
}

// ------------------------------------------------------------------------------------------------------------ loading

const char *config_place(const struct config *config, const char *name, char *text, size_t size) {
    int count;
    const struct config_key *keys = config_keys(&count);
    for (int i = 0; i < count; i++) {
        if (strcmp(keys[i].name, name)) continue;
        if (config->origins[i].source == CONFIG_FILE)
            snprintf(text, size, "%s:%d: %s", config->path, config->origins[i].line, name);
        else if (config->origins[i].source == CONFIG_ENVIRONMENT)
            config_variable(&keys[i], text, size);
        else
            snprintf(text, size, "%s", name);
    }
    return text;
}

bool config_check(const struct config *config, struct error *error) {
    char place[400];
    if (*config->server.tls.certificate && !*config->server.tls.key)
        return error_set(error, ERROR_INPUT, "%s: without server.tls.key; expected both or none",
                         config_place(config, "server.tls.certificate", place, sizeof place));
    if (!*config->server.tls.certificate && *config->server.tls.key)
        return error_set(error, ERROR_INPUT, "%s: without server.tls.certificate; expected both or none",
                         config_place(config, "server.tls.key", place, sizeof place));
    if (config->limits.image_bytes > config->limits.body_bytes)
        return error_set(error, ERROR_INPUT, "%s: more than limits.body_bytes, expected at most as many",
                         config_place(config, "limits.image_bytes", place, sizeof place));
    if (config->auth.required && config->auth.insecure_no_auth)
        return error_set(error, ERROR_INPUT, "%s: together with auth.required; expected one of the two",
                         config_place(config, "auth.insecure_no_auth", place, sizeof place));
    if (config->local.loras.count > 4)
        return error_set(error, ERROR_INPUT, "%s: %d of them, expected at most 4",
                         config_place(config, "local.loras", place, sizeof place), config->local.loras.count);
    return true;
}

bool config_parse(struct config *config, const char *name, const char *text, size_t size,
                  const char *const *environment, struct error *error) {
    if (!config_init(config, error)) return false;
    struct yaml *yaml = yaml_parse(name, text, size, error);
    bool good = yaml && read_section(config, yaml_root(yaml), error);
    yaml_close(yaml);
    config->path = good ? arena_strdup(&config->arena, name) : "";
    if (!config->path) return error_set(error, ERROR_MEMORY, "not enough memory for the configuration");
    return good && read_environment(config, environment, error) && config_check(config, error);
}

// The first limn.yaml that is there, or NULL. *memory is to be freed.
static const char *find_file(char **memory) {
    const char *home = getenv("XDG_CONFIG_HOME"), *under = "limn/limn.yaml";
    *memory = NULL;
    if (file_exists("limn.yaml")) return "limn.yaml";
    if (!home || *home != '/') {
        home = getenv("HOME");
        under = ".config/limn/limn.yaml";
    }
    if (home && *home == '/') *memory = path_join(home, under);
    if (*memory && file_exists(*memory)) return *memory;
    return file_exists("/etc/limn/limn.yaml") ? "/etc/limn/limn.yaml" : NULL;
}

bool config_load(struct config *config, const char *path, struct error *error) {
    char *memory = NULL;
    const char *variable = getenv("LIMN_CONFIG");
    if (!config_init(config, error)) return false;
    if (!path && variable && *variable) path = variable;
    if (!path) path = find_file(&memory);
    bool good = !path || read_file(config, path, error);
    free(memory);
    return good && read_environment(config, (const char *const *)environ, error) &&
           config_check(config, error);
}

// ----------------------------------------------------------------------------------------------------------- printing

static bool add_origin(const struct config *config, int index, const struct config_key *key,
                       struct buffer *out) {
    char variable[NAME_MOST + 8];
    switch (config->origins[index].source) {
    case CONFIG_FILE:
        return buffer_printf(out, "  # %s:%d", config->path, config->origins[index].line);
    case CONFIG_ENVIRONMENT:
        config_variable(key, variable, sizeof variable);
        return buffer_printf(out, "  # %s", variable);
    case CONFIG_DEFAULT:
        break;
    }
    return true;
}

// Opens the sections that [name] stands in and [before] does not. Returns how deep the key stands, -1 without memory.
static int add_sections(const char *name, const char *before, struct buffer *out) {
    int depth = 0;
    size_t from = 0;
    bool same = true;
    for (const char *dot; (dot = strchr(name + from, '.')); depth++) {
        size_t to = (size_t)(dot - name) + 1;
        same = same && !strncmp(name, before, to);
        if (!same && !buffer_printf(out, "%s%*s%.*s:\n", depth || !*before ? "" : "\n", 2 * depth, "",
                                    (int)(to - 1 - from), name + from))
            return -1;
        from = to;
    }
    if (depth == 0 && !buffer_add_string(out, "\n")) return -1;
    return depth;
}

bool config_print(const struct config *config, struct buffer *out) {
    int count;
    const struct config_key *keys = config_keys(&count);
    const char *before = "";
    for (int i = 0; i < count; i++) {
        const struct config_key *key = &keys[i];
        int depth = add_sections(key->name, before, out);
        const char *dot = strrchr(key->name, '.');
        bool standard = config->origins[i].source != CONFIG_DEFAULT && *key->standard;
        if (depth < 0 ||
            !buffer_printf(out, "%*s# %s%s%s%s\n", 2 * depth, "", key->meaning, standard ? " (default: " : "",
                           standard ? key->standard : "", standard ? ")" : "") ||
            !buffer_printf(out, "%*s%s: ", 2 * depth, "", dot ? dot + 1 : key->name) ||
            !config_add_value(config, key, out) || !add_origin(config, i, key, out) ||
            !buffer_add_string(out, "\n"))
            return false;
        before = key->name;
    }
    return true;
}
