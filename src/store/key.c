// The text of a key, what it allows, and its fields. Relies on key.h, libsodium.
#include "store/key.h"

#include <fnmatch.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

enum { ID_LENGTH = 12, SECRET_BYTES = 32, SECRET_LENGTH = 43 };
static const char PREFIX[] = "limn_";

// Whether an entry of a list ("a,b,c") fits [name], as a glob or only letter by letter.
static bool list_has(const char *list, const char *name, bool globs) {
    char entry[KEY_MODELS_MOST];
    while (*list) {
        size_t length = strcspn(list, ",");
        if (length < sizeof entry) {
            memcpy(entry, list, length);
            entry[length] = 0;
            if (globs ? fnmatch(entry, name, 0) == 0 : !strcmp(entry, name)) return true;
        }
        list += length + (list[length] == ',');
    }
    return false;
}

static const char *const PRIORITIES[] = {"low", "normal", "high"};

const char *key_priority_name(int priority) {
    return PRIORITIES[priority < 0 ? 0 : priority > 0 ? 2 : 1];
}

bool key_priority_from_name(const char *name, int *priority) {
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, PRIORITIES[i])) continue;
        *priority = i + KEY_PRIORITY_LOW;
        return true;
    }
    return false;
}

bool key_allows_model(const struct key_info *key, const char *model) {
    return !*key->models || list_has(key->models, model, true);
}

bool key_allows_project(const struct key_info *key, const char *project) {
    return key->admin || !strcmp(key->project, project) || !strcmp(key->projects, "*") ||
           list_has(key->projects, project, false);
}

static bool hash_secret(const uint8_t *secret, uint8_t hash[KEY_HASH_BYTES]) {
    return crypto_generichash(hash, KEY_HASH_BYTES, secret, SECRET_BYTES, NULL, 0) == 0;
}

bool key_make(char text[KEY_TEXT_MOST], char id[KEY_ID_MOST], char last_four[5], uint8_t hash[KEY_HASH_BYTES],
              struct error *error) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz234567";
    if (sodium_init() < 0) return error_set(error, ERROR_INTERNAL, "no source of random numbers");
    uint8_t bytes[ID_LENGTH], secret[SECRET_BYTES];
    char encoded[SECRET_LENGTH + 1];
    randombytes_buf(bytes, sizeof bytes);
    randombytes_buf(secret, sizeof secret);
    for (int i = 0; i < ID_LENGTH; i++) id[i] = letters[bytes[i] & 31];
    id[ID_LENGTH] = 0;
    sodium_bin2base64(encoded, sizeof encoded, secret, sizeof secret,
                      sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    snprintf(text, KEY_TEXT_MOST, "%s%s.%s", PREFIX, id, encoded);
    memcpy(last_four, encoded + SECRET_LENGTH - 4, 5);
    bool good = hash_secret(secret, hash);
    sodium_memzero(secret, sizeof secret);
    sodium_memzero(encoded, sizeof encoded);
    return good || error_set(error, ERROR_INTERNAL, "a secret cannot be hashed");
}

bool key_parse(const char *text, char id[KEY_ID_MOST], uint8_t hash[KEY_HASH_BYTES]) {
    size_t prefix = sizeof PREFIX - 1;
    if (strlen(text) != prefix + ID_LENGTH + 1 + SECRET_LENGTH || strncmp(text, PREFIX, prefix) ||
        text[prefix + ID_LENGTH] != '.')
        return false;
    if (strspn(text + prefix, "abcdefghijklmnopqrstuvwxyz234567") < ID_LENGTH) return false;
    memcpy(id, text + prefix, ID_LENGTH);
    id[ID_LENGTH] = 0;
    uint8_t secret[SECRET_BYTES];
    size_t size;
    const char *end, *encoded = text + prefix + ID_LENGTH + 1;
    if (sodium_base642bin(secret, sizeof secret, encoded, SECRET_LENGTH, NULL, &size, &end,
                          sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0 ||
        size != SECRET_BYTES || end != encoded + SECRET_LENGTH)
        return false;
    bool good = hash_secret(secret, hash);
    sodium_memzero(secret, sizeof secret);
    return good;
}

// "a,b": no empty entry, no spaces or controls.
static bool check_list(const char *field, const char *list, struct error *error) {
    for (const char *c = list; *c; c++)
        if ((unsigned char)*c <= ' ' || *c == 0x7f)
            return error_set_field(error, ERROR_INPUT, field,
                                   "%s: \"%s\": expected names separated by commas", field, list);
    size_t length = strlen(list);
    if (length && (list[0] == ',' || list[length - 1] == ',' || strstr(list, ",,")))
        return error_set_field(error, ERROR_INPUT, field, "%s: \"%s\": an empty name", field, list);
    return true;
}

bool key_check_fields(const struct key_info *key, struct error *error) {
    if (!*key->name) return error_set_field(error, ERROR_INPUT, "name", "name: expected 1 to 127 characters");
    for (const char *c = key->name; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return error_set_field(error, ERROR_INPUT, "name", "name: expected printable characters only");
    if (!*key->project || strpbrk(key->project, ",*"))
        return error_set_field(error, ERROR_INPUT, "project", "project: \"%s\": expected one name",
                               key->project);
    const struct {
        const char *field;
        int64_t value;
    } numbers[] = {
        {"budget-day", key->budget_day_micros},     {"budget-month", key->budget_month_micros},
        {"budget-total", key->budget_total_micros}, {"requests-per-minute", key->requests_per_minute},
        {"images-per-day", key->images_per_day},    {"expires", key->expires_at}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value < 0)
            return error_set_field(error, ERROR_INPUT, numbers[i].field, "%s: expected 0 or more",
                                   numbers[i].field);
    if (key->priority < KEY_PRIORITY_LOW || key->priority > KEY_PRIORITY_HIGH)
        return error_set_field(error, ERROR_INPUT, "priority", "priority: expected low, normal or high");
    return check_list("project", key->project, error) && check_list("projects", key->projects, error) &&
           check_list("models", key->models, error);
}
