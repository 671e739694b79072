// Where the hub, its cache and its token are. See hub.h.
#include "weights/hub.h"

#include "base/file.h"

#include <curl/curl.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define ENDPOINT_DEFAULT "https://huggingface.co"

static bool no_memory(struct error *error) {
    return error_set(error, ERROR_MEMORY, "not enough memory for a path");
}

// The first variable that is set and not empty; NULL: none.
static const char *variable(const char *first, const char *second) {
    const char *value = getenv(first);
    if ((!value || !*value) && second) value = getenv(second);
    return value && *value ? value : NULL;
}

static const char *home_folder(struct error *error) {
    const char *home = variable("HOME", NULL);
    struct passwd *user = home ? NULL : getpwuid(getuid());
    if (!home && user) home = user->pw_dir;
    if (!home || *home != '/')
        error_set(error, ERROR_INPUT, "HOME does not name a folder, expected one for the hub's cache");
    return home && *home == '/' ? home : NULL;
}

// [text] with a ~ at its beginning replaced, in fresh memory.
static char *expanded(const char *text, struct error *error) {
    char *path = NULL;
    if (text[0] == '~' && (text[1] == '/' || !text[1])) {
        const char *home = home_folder(error);
        if (!home) return NULL;
        path = text[1] ? path_join(home, text + 2) : strdup(home);
    } else {
        path = strdup(text);
    }
    if (!path) no_memory(error);
    return path;
}

// $[name]/inner, else ~/[fallback]/inner.
static char *below(const char *name, const char *fallback, const char *inner, struct error *error) {
    const char *value = variable(name, NULL), *home = NULL;
    char *folder = NULL, *path = NULL;
    if (value && *value == '/') {
        path = path_join(value, inner);
    } else if ((home = home_folder(error))) {
        folder = path_join(home, fallback);
        path = folder ? path_join(folder, inner) : NULL;
        free(folder);
    } else {
        return NULL;
    }
    if (!path) no_memory(error);
    return path;
}

char *hub_data_folder(struct error *error) {
    return below("XDG_DATA_HOME", ".local/share", "limn/models", error);
}

static bool is_true(const char *text) {
    return text && (!strcmp(text, "1") || !strcasecmp(text, "on") || !strcasecmp(text, "yes") ||
                    !strcasecmp(text, "true"));
}

static bool read_endpoint(struct hub_place *place, struct error *error) {
    const char *text = variable("HF_ENDPOINT", NULL);
    place->endpoint = strdup(text ? text : ENDPOINT_DEFAULT);
    if (!place->endpoint) return no_memory(error);
    size_t length = strlen(place->endpoint);
    while (length && place->endpoint[length - 1] == '/') place->endpoint[--length] = 0;
    CURLU *parts = curl_url();
    char *user = NULL;
    bool good = parts && curl_url_set(parts, CURLUPART_URL, place->endpoint, 0) == CURLUE_OK &&
                (!strncmp(place->endpoint, "http://", 7) || !strncmp(place->endpoint, "https://", 8)) &&
                !strpbrk(place->endpoint, "?# \"\\") && length < 1000 &&
                curl_url_get(parts, CURLUPART_USER, &user, 0) != CURLUE_OK;
    curl_free(user);
    curl_url_cleanup(parts);
    return good ||
           error_set(error, ERROR_INPUT, "HF_ENDPOINT: \"%.100s\", expected a URL such as " ENDPOINT_DEFAULT,
                     place->endpoint);
}

static char *home_of_hub(struct error *error) {
    const char *text = variable("HF_HOME", NULL);
    return text ? expanded(text, error) : below("XDG_CACHE_HOME", ".cache", "huggingface", error);
}

char *hub_cache_folder(struct error *error) {
    const char *text = variable("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE");
    char *home = text ? NULL : home_of_hub(error), *path = NULL;
    if (!text && !home) return NULL;
    path = text ? expanded(text, error) : path_join(home, "hub");
    free(home);
    // Links and the folders of models are named in files: they have to be right from everywhere.
    if (path && *path != '/') {
        char *here = getcwd(NULL, 0), *whole = here ? path_join(here, path) : NULL;
        free(here);
        free(path);
        path = whole;
    }
    if (!path) no_memory(error);
    return path;
}

// A token is a word; blanks at its ends (the end of the file's line) do not belong to it.
static bool read_token(struct hub_place *place, const char *home, struct error *error) {
    const char *text = variable("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
               *path = variable("HF_TOKEN_PATH", NULL);
    char *content = NULL;
    size_t size;
    place->token_given = text != NULL;
    place->token_file = path ? expanded(path, error) : path_join(home, "token");
    if (!place->token_file) return no_memory(error);
    if (!text && is_true(getenv("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) return true;
    if (!text && !file_exists(place->token_file)) return true;
    if (!text && !file_read(place->token_file, 4096, &content, &size, error)) return false;
    if (!text) text = content;
    text += strspn(text, " \t\r\n");
    size_t length = strlen(text);
    while (length && strchr(" \t\r\n", text[length - 1])) length--;
    bool good = true;
    for (size_t i = 0; i < length; i++) good = good && text[i] > 0x20 && text[i] < 0x7f;
    if (good && length) place->token = strndup(text, length);
    free(content);
    if (!good)
        return error_set(error, ERROR_INPUT, "%s: expected a token, one word of plain letters",
                         place->token_given ? "HF_TOKEN" : place->token_file);
    return place->token || !length || no_memory(error);
}

bool hub_place_read(struct hub_place *place, struct error *error) {
    const char *authorities = variable("SSL_CERT_FILE", "CURL_CA_BUNDLE");
    char *home = home_of_hub(error);
    *place = (struct hub_place){0};
    if (home) place->cache = hub_cache_folder(error);
    bool good = place->cache && read_endpoint(place, error) && read_token(place, home, error);
    if (good && authorities) {
        place->authorities = strdup(authorities);
        good = place->authorities || no_memory(error);
    }
    place->offline = is_true(variable("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"));
    free(home);
    if (!good) hub_place_free(place);
    return good;
}

void hub_place_free(struct hub_place *place) {
    free(place->endpoint);
    free(place->cache);
    free(place->token);
    free(place->token_file);
    free(place->authorities);
    *place = (struct hub_place){0};
}
