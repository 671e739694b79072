// See openapi.h.
#include "server/openapi.h"

#include <stdio.h>
#include <string.h>

#define SIDE "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-6])"
// 1 to 6 digits, not all of them 0.
#define DIGITS                                                                                               \
    "([0-9]{0,5}[1-9]|[0-9]{0,4}[1-9]0|[0-9]{0,3}[1-9]00|[0-9]{0,2}[1-9]000|[0-9]?[1-9]0000|[1-9]00000)"
#define DECIMAL "(" DIGITS "(\\.[0-9]{1,6})?|0{1,6}\\." DIGITS ")"
#define RATIO   DECIMAL ":" DECIMAL
#define HOUR    "([01][0-9]|2[0-3])"
// Days that every year has; February the 29th is taken where there is one.
#define DATE                                                                                                 \
    "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])" \
    ")"
#define TIME                                                                                                 \
    "^([0-9]{1,11}|(19[7-9][0-9]|[2-9][0-9]{3})-" DATE "([Tt]" HOUR                                          \
    ":[0-5][0-9]:[0-5][0-9](\\.[0-9]+)?([Zz]|[+-]" HOUR ":[0-5][0-9])?)?)$"
#define ID "^[a-zA-Z0-9_-]{1,64}$"

// What a text must look like, beyond what the parameters' table says.
static const struct {
    const char *name, *pattern;
} PATTERNS[] = {
    {"size", "^(|auto|" SIDE "[xX]" SIDE "|" RATIO ")$"},
    {"aspect_ratio", "^(|auto|" RATIO ")$"},
    {"resolution", "^(|auto|" DECIMAL "([kK]|[mM][pP])?)$"},
    {"image_url", "^data:image/(png|jpeg|webp);base64,[A-Za-z0-9+/]+=*$"},
};

struct parameter_of {
    const char *name, *where, *schema, *text;
};

#define FLAG "{\"type\":\"boolean\"}"
#define PAGE                                                                                                 \
    {"limit", "query", "{\"type\":\"integer\",\"minimum\":1,\"maximum\":100,\"default\":20}", "how many"},   \
        {"starting_after", "query", "{\"type\":\"string\",\"pattern\":\"" ID "\"}",                          \
         "what comes after this id; not together with ending_before"},                                       \
    {                                                                                                        \
        "ending_before", "query", "{\"type\":\"string\",\"pattern\":\"" ID "\"}",                            \
            "what comes before this id; not together with starting_after"                                    \
    }
#define PROJECT_NAME  "{\"type\":\"string\",\"pattern\":\"^[A-Za-z0-9._-]{0,63}$\"}"
#define PROJECT_ASKED "{\"type\":\"string\",\"pattern\":\"^[A-Za-z0-9._-]{1,63}$\"}"
#define IN_PROJECT                                                                                           \
    { "OpenAI-Project", "header", PROJECT_NAME, "of this project alone; one that the key may use" }
#define NONE                                                                                                 \
    { NULL, NULL, NULL, NULL }

static const struct parameter_of CALL_PARAMETERS[] = {
    {"dryRun", "query", FLAG, "answer with the price and run nothing"},
    {"Prefer", "header", "{\"type\":\"string\"}", "respond-async: answer 202 at once; then poll"},
    {"Idempotency-Key", "header",
     "{\"type\":\"string\",\"minLength\":1,\"maxLength\":256,\"pattern\":\"^[!-~]{1,256}$\"}",
     "the same call again gets the same answer, is not run and not paid again"},
    {"OpenAI-Project", "header", PROJECT_NAME, "the project of the call"},
    NONE};
static const struct parameter_of MODEL_PARAMETERS[] = {
    {"schema", "query", FLAG, "the schema of the model's parameters instead of the model"}, NONE};
static const struct parameter_of RECORD_PARAMETERS[] = {IN_PROJECT, NONE};
static const struct parameter_of REQUESTS_PARAMETERS[] = {
    PAGE,
    IN_PROJECT,
    {"project", "query", PROJECT_ASKED, "of this project alone"},
    {"created_after", "query", "{\"type\":\"string\",\"pattern\":\"TIME\"}", "a time, a day or unix seconds"},
    {"created_before", "query", "{\"type\":\"string\",\"pattern\":\"TIME\"}",
     "a time, a day or unix seconds"},
    {"key_id", "query", "{\"type\":\"string\",\"pattern\":\"^[ -~]{1,79}$\"}", "of this key alone"},
    {"model", "query", "{\"type\":\"string\",\"pattern\":\"^[ -~]{1,159}$\"}", "of this model alone"},
    {"user", "query", "{\"type\":\"string\",\"minLength\":1,\"maxLength\":79}", "of this user alone"},
    {"status", "query",
     "{\"type\":\"string\",\"enum\":[\"pending\",\"processing\",\"completed\",\"upstream_failure\","
     "\"rejected\","
     "\"cancelled\"]}",
     "with this status alone"},
    {"summary", "query", FLAG, "add count and cost of all that match"},
    NONE};
static const struct parameter_of KEYS_PARAMETERS[] = {
    PAGE,
    {"project", "query", PROJECT_ASKED, "of this project alone"},
    {"status", "query", "{\"type\":\"string\",\"enum\":[\"active\",\"revoked\"]}", "with this status alone"},
    NONE};
static const struct parameter_of STATS_PARAMETERS[] = {
    IN_PROJECT,
    {"project", "query", PROJECT_ASKED,
     "of this project alone; without it an admin key gets all, another its own project"},
    {"model", "query", "{\"type\":\"string\",\"pattern\":\"^[ -~]{1,159}$\"}", "of this model alone"},
    {"provider", "query", "{\"type\":\"string\",\"pattern\":\"^[ -~]{1,79}$\"}", "of this provider alone"},
    {"mode", "query", "{\"type\":\"string\",\"enum\":[\"text-to-image\",\"image-edit\"]}",
     "in this mode alone"},
    NONE};

// What the documentation says of a route.
static const struct operation {
    const char *path, *suffix; // of the route
    const char *id, *summary;
    const char *answer; // schema of 200; NULL: see `type`
    const char *type;   // of an answer that is no JSON
    const struct parameter_of *parameters;
} OPERATIONS[] = {
    {"/images/generations", NULL, "createImage", "Make pictures from a prompt", NULL, NULL, CALL_PARAMETERS},
    {"/images/edits", NULL, "editImage", "Make pictures from a prompt and reference images", NULL, NULL,
     CALL_PARAMETERS},
    {"/models", NULL, "listModels", "All models", "ModelList", NULL, NULL},
    {"/models/", NULL, "getModel", "One model, or the schema of its parameters", NULL, NULL,
     MODEL_PARAMETERS},
    {"/requests", NULL, "listRequests", "Requests, newest first", "RequestList", NULL, REQUESTS_PARAMETERS},
    {"/requests/", NULL, "getRequest", "One request, with its answer where that is kept", "Request", NULL,
     RECORD_PARAMETERS},
    {"/requests/", "/cancel", "cancelRequest", "Stop a request that is in work", "Cancellation", NULL,
     RECORD_PARAMETERS},
    {"/requests/", "/payloads", "purgeRequest", "Remove what is kept of a request's contents", "Purge", NULL,
     RECORD_PARAMETERS},
    {"/keys", NULL, "listKeys", "API keys, newest first (needs an admin key)", "KeyList", NULL,
     KEYS_PARAMETERS},
    {"/stats", NULL, "getStatistics", "Figures of the last 30 days", "Statistics", NULL, STATS_PARAMETERS},
    {"/balance", NULL, "getBalance", "What the key may still spend", "Balance", NULL, RECORD_PARAMETERS},
    {"/media/", NULL, "getMedia", "A picture behind a URL", NULL, "image/*", NULL},
    {"/healthz", NULL, "getHealth", "Whether the server lives", "Health", NULL, NULL},
    {"/readyz", NULL, "getReadiness", "Whether the server can serve", "Health", NULL, NULL},
    {"/metrics", NULL, "getMetrics", "Figures for Prometheus", NULL, "text/plain", NULL},
    {"/openapi.json", NULL, "getDocument", "This document", NULL, "application/json", NULL},
};

static bool same(const char *a, const char *b) {
    return a && b ? !strcmp(a, b) : a == b;
}

static const struct operation *operation_of(const struct route *route) {
    for (size_t i = 0; i < sizeof OPERATIONS / sizeof *OPERATIONS; i++)
        if (!strcmp(OPERATIONS[i].path, route->path) && same(OPERATIONS[i].suffix, route->suffix))
            return &OPERATIONS[i];
    return NULL;
}

// ---------------------------------------------------------------------------------------------------------- bodies

static void set_pattern(json_t *schema, const char *name) {
    if (!json_object_get(schema, "enum")) // no text holds a NUL
        json_object_set_new(schema, "pattern", json_string("^[^\\u0000]*$"));
    for (size_t i = 0; i < sizeof PATTERNS / sizeof *PATTERNS; i++)
        if (!strcmp(PATTERNS[i].name, name))
            json_object_set_new(schema, "pattern", json_string(PATTERNS[i].pattern));
}

// Pictures within JSON are objects with an image_url.
static void refine_pictures(json_t *schema) {
    json_t *items = json_object_get(schema, "items");
    json_t *url = json_object_get(json_object_get(items ? items : schema, "properties"), "image_url");
    if (url) set_pattern(url, "image_url");
}

// A noise level must stay above 0 as a 32-bit float.
static void refine_numbers(json_t *schema, bool form) {
    if (form) { // an array of one is a number, and of nothing no part at all
        json_object_del(schema, "minItems");
        json_object_set_new(schema, "type", json_pack("[s, s]", "array", "number"));
        json_object_set_new(schema, "minimum", json_real(SIGMA_LEAST));
        json_object_set_new(schema, "maximum", json_integer(1));
    }
    json_t *items = json_object_get(schema, "items");
    json_object_del(items, "exclusiveMinimum");
    json_object_set_new(items, "minimum", json_real(SIGMA_LEAST));
}

static bool refused_everywhere(const struct card_parameter *parameter) {
    for (int i = 0; i < parameter->use_count; i++)
        if (!strcmp(parameter->uses[i].provider, "local"))
            return parameter->uses[i].handling == PARAMETER_REFUSED;
    return false;
}

// What the local engine refuses is left with the values that say "no".
static void refine_refused(json_t *schema, const struct card_parameter *parameter, bool form) {
    json_t *values = json_array();
    for (int i = 0; i < parameter->value_count; i++)
        if (strcmp(parameter->values[i], "transparent") && strcmp(parameter->values[i], "on"))
            json_array_append_new(values, json_string(parameter->values[i]));
    if (parameter->type == PARAMETER_BOOLEAN) json_array_append_new(values, json_false());
    if (parameter->type == PARAMETER_BOOLEAN && form) json_array_append_new(values, json_integer(0));
    if (!form) json_array_append_new(values, json_null());
    json_object_del(schema, "type");
    json_object_set_new(schema, "enum", values);
}

// Names of the LoRAs that requests may name, of all models.
static json_t *lora_names(const struct catalog *catalog) {
    json_t *seen = json_object(), *names = json_array(), *name;
    size_t index;
    for (int i = 0; i < catalog_count(catalog); i++) {
        json_t *model = catalog_model_json(catalog, catalog_card(catalog, i));
        json_array_foreach(json_object_get(model, "loras"), index, name) {
            if (json_object_get(seen, json_string_value(name))) continue;
            json_object_set_new(seen, json_string_value(name), json_true());
            json_array_append(names, name);
        }
        json_decref(model);
    }
    json_decref(seen);
    return names;
}

// What the parameter lora may be here: nothing where there are none; else a name, a name with its scale, or several of these. A
// form says one name. Returns whether anything is left to say.
static bool refine_lora(const struct catalog *catalog, json_t *schema, bool form) {
    json_t *names = lora_names(catalog);
    bool any = json_array_size(names) > 0;
    json_object_del(schema, "type");
    if (form) {
        json_object_set_new(schema, "enum", names);
        return any;
    }
    if (any) {
        json_t *one =
            json_pack("{s:[{s:O}, {s:s, s:[s], s:b, s:{s:{s:O}, s:{s:[s, s], s:i, s:i}}}]}", "anyOf", "enum",
                      names, "type", "object", "required", "name", "additionalProperties", 0, "properties",
                      "name", "enum", names, "scale", "type", "number", "null", "minimum", -4, "maximum", 4);
        json_object_set_new(schema, "anyOf",
                            json_pack("[{s:s}, O, {s:s, s:i, s:O}]", "type", "null", one, "type", "array",
                                      "maxItems", 4, "items", one));
        json_decref(one);
    } else {
        json_object_set_new(schema, "type", json_pack("[s, s]", "array", "null"));
        json_object_set_new(schema, "maxItems", json_integer(0));
    }
    json_decref(names);
    return true;
}

static json_t *body_schema(const struct catalog *catalog, enum image_mode mode, bool form) {
    const struct card_parameters *list = catalog_parameters(catalog);
    json_t *schema = parameters_schema(list, mode, form), *properties = json_object_get(schema, "properties");
    // Which values go together is said for JSON alone: tools stumble over conditions on a schema with files.
    if (form) json_object_del(schema, "allOf");
    json_object_set_new(schema, "propertyNames", json_pack("{s:s}", "pattern", "^[A-Za-z0-9_.-]{1,63}$"));
    for (int i = 0; i < list->count; i++) {
        json_t *property = json_object_get(properties, list->items[i].name);
        if (!property) continue;
        if (list->items[i].type == PARAMETER_TEXT) set_pattern(property, list->items[i].name);
        refine_pictures(property);
        if (list->items[i].type == PARAMETER_NUMBERS) refine_numbers(property, form);
        if (form && list->items[i].type == PARAMETER_BOOLEAN) { // a text, which may also be a digit
            json_object_del(property, "type");
            json_object_set_new(property, "enum", json_pack("[b, b, i, i]", 1, 0, 1, 0));
        }
        if (!strcmp(list->items[i].name, "lora") && !refine_lora(catalog, property, form)) {
            json_object_del(properties, "lora");
            continue;
        }
        if (!refused_everywhere(&list->items[i])) continue;
        refine_refused(property, &list->items[i], form);
        if (json_array_size(json_object_get(property, "enum")) == 0) // there is nothing that a form could say
            json_object_del(properties, list->items[i].name);
    }
    return schema;
}

static json_t *request_body(const struct catalog *catalog, const struct route *route) {
    json_t *content = json_object();
    if (route->upload == UPLOAD_FORM)
        json_object_set_new(content, "multipart/form-data",
                            json_pack("{s:o, s:{s:{s:s}, s:{s:s}}}", "schema",
                                      body_schema(catalog, route->mode, true), "encoding", "image",
                                      "contentType", "image/png", "mask", "contentType", "image/png"));
    json_object_set_new(content, "application/json",
                        json_pack("{s:o}", "schema", body_schema(catalog, route->mode, false)));
    return json_pack("{s:b, s:o}", "required", 1, "content", content);
}

// --------------------------------------------------------------------------------------------------------- answers

static json_t *reference(const char *schema) {
    char text[96];
    snprintf(text, sizeof text, "#/components/schemas/%s", schema);
    return json_pack("{s:s}", "$ref", text);
}

static json_t *json_content(json_t *schema) {
    return json_pack("{s:{s:o}}", "application/json", "schema", schema);
}

static json_t *answer_with(const char *text, json_t *content) {
    return json_pack("{s:s, s:{s:{s:s}}, s:o*}", "description", text, "headers", "x-request-id", "$ref",
                     "#/components/headers/RequestId", "content", content);
}

static void add_images_answers(json_t *answers) {
    json_t *content =
        json_content(json_pack("{s:[o, o]}", "anyOf", reference("ImagesResponse"), reference("Estimate")));
    json_object_set_new(content, "text/event-stream", json_pack("{s:o}", "schema", reference("Event")));
    json_object_set_new(answers, "200",
                        answer_with("The pictures; with stream, events; with dryRun, the price", content));
    json_object_set_new(
        answers, "202",
        answer_with("Accepted; Location says where to poll", json_content(reference("Request"))));
}

static void add_media_answers(json_t *answers) {
    static const enum image_format formats[] = {IMAGE_PNG, IMAGE_JPEG, IMAGE_WEBP, IMAGE_GIF, IMAGE_AVIF};
    static const char *const whole[][2] = {{"200", "The picture"}, {"206", "A part of it"}};
    for (size_t k = 0; k < 2; k++) {
        json_t *content = json_object();
        for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
            json_object_set_new(content, image_format_mime(formats[i]),
                                json_pack("{s:{s:s, s:s}}", "schema", "type", "string", "format", "binary"));
        json_object_set_new(answers, whole[k][0], answer_with(whole[k][1], content));
    }
    json_object_set_new(answers, "304", answer_with("It is as it was", NULL));
    json_object_set_new(answers, "416",
                        answer_with("The range lies outside", json_content(reference("Error"))));
}

// The errors of the table that the route may answer with, by status.
static void add_errors(json_t *answers, const struct route *route) {
    static const enum api_code plain[] = {API_INVALID_REQUEST, API_KEY_NOT_ALLOWED, API_INTERNAL_ERROR,
                                          API_OUT_OF_MEMORY};
    bool images = route->upload != UPLOAD_NONE, target = route->path[strlen(route->path) - 1] == '/';
    for (int code = API_OK + 1; code < API_CODES; code++) {
        const struct api_code_info *info = api_code_info((enum api_code)code);
        bool may = images && code != API_METHOD_NOT_ALLOWED;
        for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
            may = may || plain[i] == (enum api_code)code;
        if (target || same(route->path, "/requests") || same(route->path, "/keys"))
            may = may || info->status == 404;
        if (route->access != ACCESS_OPEN) may = may || info->status == 401 || info->status == 507;
        char status[8];
        snprintf(status, sizeof status, "%d", info->status);
        if (!may || json_object_get(answers, status)) continue;
        json_t *content = json_content(reference("Error"));
        json_object_set_new(answers, status, answer_with(info->name, content));
    }
}

static json_t *answers_of(const struct route *route, const struct operation *operation) {
    json_t *answers = json_object();
    if (route->upload != UPLOAD_NONE)
        add_images_answers(answers);
    else if (same(operation->type, "image/*"))
        add_media_answers(answers);
    else if (operation->type)
        json_object_set_new(
            answers, "200",
            answer_with(operation->summary, json_pack("{s:{s:{}}}", operation->type, "schema")));
    else if (operation->answer)
        json_object_set_new(answers, "200",
                            answer_with(operation->summary, json_content(reference(operation->answer))));
    else
        json_object_set_new(
            answers, "200",
            answer_with(operation->summary, json_content(json_pack("{s:[o, o]}", "anyOf", reference("Model"),
                                                                   reference("ModelSchema")))));
    add_errors(answers, route);
    if (!strcmp(route->path, "/readyz"))
        json_object_set_new(answers, "503", answer_with("It cannot", json_content(reference("Health"))));
    return answers;
}

// ------------------------------------------------------------------------------------------------------- operations

static json_t *parameter_object(const struct parameter_of *parameter) {
    json_t *schema = json_loads(parameter->schema, 0, NULL);
    if (same(json_string_value(json_object_get(schema, "pattern")), "TIME"))
        json_object_set_new(schema, "pattern", json_string(TIME));
    return json_pack("{s:s, s:s, s:b, s:s, s:o}", "name", parameter->name, "in", parameter->where, "required",
                     0, "description", parameter->text, "schema", schema);
}

static json_t *parameters_of(const struct route *route, const struct operation *operation) {
    json_t *list = json_array();
    if (route->path[strlen(route->path) - 1] == '/')
        json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:{s:s, s:i}}", "name",
                                              operation->type ? "name" : "id", "in", "path", "required", 1,
                                              "schema", "type", "string", "minLength", 1));
    for (const struct parameter_of *parameter = operation->parameters; parameter && parameter->name;
         parameter++)
        json_array_append_new(list, parameter_object(parameter));
    return list;
}

static json_t *operation_object(const struct catalog *catalog, const struct route *route,
                                const struct operation *operation, bool needs_key, const char *mark) {
    char id[64];
    snprintf(id, sizeof id, "%s%s", operation->id, mark);
    json_t *object =
        json_pack("{s:s, s:s, s:o, s:o}", "operationId", id, "summary", operation->summary, "parameters",
                  parameters_of(route, operation), "responses", answers_of(route, operation));
    if (route->upload != UPLOAD_NONE)
        json_object_set_new(object, "requestBody", request_body(catalog, route));
    bool keyed = needs_key && (route->access == ACCESS_KEY || route->access == ACCESS_ADMIN);
    json_object_set_new(object, "security", keyed ? json_pack("[{s:[]}]", "key") : json_array());
    return object;
}

static void add_route(json_t *paths, const struct catalog *catalog, const struct route *route,
                      bool needs_key) {
    static const struct {
        const char *path, *mark;
        unsigned bit;
    } bases[] = {{"/openai/v1", "OpenAI", BASE_OPENAI}, {"/v1", "", BASE_V1}, {"", "", BASE_ROOT}};
    static const char *const methods[] = {[METHOD_GET] = "get", "post", "delete"};
    const struct operation *operation = operation_of(route);
    for (size_t b = 0; operation && b < sizeof bases / sizeof *bases; b++) {
        if (!(route->bases & bases[b].bit)) continue;
        char path[96];
        bool target = route->path[strlen(route->path) - 1] == '/';
        snprintf(path, sizeof path, "%s%s%s%s", bases[b].path, route->path,
                 !target           ? ""
                 : operation->type ? "{name}"
                                   : "{id}",
                 route->suffix ? route->suffix : "");
        json_object_set_new(paths, path,
                            json_pack("{s:o}", methods[route->method],
                                      operation_object(catalog, route, operation, needs_key, bases[b].mark)));
    }
}

json_t *openapi_document(const struct catalog *catalog, bool needs_key, const char *url) {
    json_t *paths = json_object();
    for (int i = 0; i < ROUTE_COUNT; i++) add_route(paths, catalog, &ROUTES[i], needs_key);
    return json_pack(
        "{s:s, s:{s:s, s:s, s:s}, s:[{s:s}], s:o, s:{s:o, s:{s:{s:s, s:{s:s}}}, s:{s:{s:s, s:s}}}}",
        "openapi", "3.1.0", "info", "title", "limn", "version", LIMN_VERSION, "description",
        "OpenAI's Images API over models of this machine, with keys, prices, records and figures.", "servers",
        "url", url, "paths", paths, "components", "schemas", openapi_schemas(), "headers", "RequestId",
        "description", "names the request in logs and records", "schema", "type", "string", "securitySchemes",
        "key", "type", "http", "scheme", "bearer");
}

enum MHD_Result serve_openapi(struct exchange *exchange) {
    char url[TARGET_MOST + 64];
    exchange_base_url(exchange, url, sizeof url);
    return respond_object(exchange, 200,
                          openapi_document(exchange->server->catalog, !guard_keyless(exchange->server), url));
}
