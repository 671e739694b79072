// The objects of answers as JSON Schema. See openapi.h. What stands here is checked against a live server by the tests.
#include "server/openapi.h"

#define TEXT        "{\"type\":\"string\"}"
#define TEXT_NULL   "{\"type\":[\"string\",\"null\"]}"
#define COUNT       "{\"type\":\"integer\",\"minimum\":0}"
#define COUNT_NULL  "{\"type\":[\"integer\",\"null\"]}"
#define NUMBER      "{\"type\":\"number\"}"
#define NUMBER_NULL "{\"type\":[\"number\",\"null\"]}"
#define BOOLEAN     "{\"type\":\"boolean\"}"
#define OBJECT      "{\"type\":\"object\"}"
#define TEXTS       "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}"
#define LIST(items)                                                                                          \
    "{\"type\":\"object\",\"required\":[\"object\",\"data\"],\"properties\":{\"object\":{\"const\":"         \
    "\"list\"},"                                                                                             \
    "\"data\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/" items                         \
    "\"}},\"has_more\":" BOOLEAN ",\"next_page_url\":" TEXT_NULL ",\"previous_page_url\":" TEXT_NULL         \
    ",\"summary\":" OBJECT "}}"

static const struct {
    const char *name, *text;
} SCHEMAS[] = {
    {"Error", "{\"type\":\"object\",\"required\":[\"error\"],\"properties\":{\"error\":{\"type\":\"object\","
              "\"required\":["
              "\"message\",\"type\",\"param\",\"code\"],\"properties\":{\"message\":" TEXT ",\"type\":" TEXT
              ",\"param\":" TEXT_NULL
              ",\"code\":{\"$ref\":\"#/components/schemas/ErrorCode\"},\"openai_code\":" TEXT "}}}}"},
    {"Usage", "{\"type\":\"object\",\"required\":[\"total_tokens\",\"input_tokens\",\"output_tokens\"],"
              "\"properties\":{"
              "\"total_tokens\":" COUNT ",\"input_tokens\":" COUNT ",\"output_tokens\":" COUNT
              ",\"input_tokens_details\":" OBJECT ",\"output_tokens_details\":" OBJECT "}}"},
    {"Picture", "{\"type\":\"object\",\"properties\":{\"url\":" TEXT
                ",\"b64_json\":{\"type\":\"string\",\"contentEncoding\":\"base64\"},\"revised_prompt\":" TEXT
                ",\"seed\":" COUNT "},\"anyOf\":[{\"required\":[\"url\"]},{\"required\":[\"b64_json\"]}]}"},
    {"ImagesResponse",
     "{\"type\":\"object\",\"required\":[\"id\",\"created\",\"data\",\"size\",\"output_format\",\"metadata\"]"
     ","
     "\"properties\":{\"id\":" TEXT ",\"created\":" COUNT ",\"size\":" TEXT ",\"output_format\":" TEXT
     ",\"quality\":" TEXT ",\"background\":" TEXT
     ",\"data\":{\"type\":\"array\",\"minItems\":1,\"items\":{\"$ref\":\"#/components/schemas/"
     "Picture\"}},\"usage\":{\"$ref\":\"#/components/schemas/Usage\"},\"metadata\":{\"$ref\":\"#/components/"
     "schemas/"
     "Metadata\"}}}"},
    {"Metadata",
     "{\"type\":\"object\",\"required\":[\"model\",\"executed_model\",\"provider\"],\"properties\":{"
     "\"model\":" TEXT ",\"executed_model\":" TEXT ",\"provider\":" TEXT ",\"provider_name\":" TEXT
     ",\"cost\":" NUMBER ",\"cost_currency\":" TEXT ",\"seed\":" COUNT_NULL
     ",\"attempts\":{\"type\":\"array\"},\"ignored_parameters\":" TEXTS "}}"},
    {"Estimate", "{\"type\":\"object\",\"required\":[\"estimated\",\"model\",\"provider\",\"total_cost_"
                 "micros\",\"currency\","
                 "\"components\"],\"properties\":{\"estimated\":{\"const\":true},\"model\":" TEXT
                 ",\"provider\":" TEXT ",\"total_cost_micros\":" COUNT
                 ",\"currency\":{\"const\":\"USD\"},\"components\":{\"type\":\"array\",\"items\":{"
                 "\"type\":\"object\",\"required\":[\"type\",\"metric\",\"quantity\",\"billable_quantity\","
                 "\"unit_price\","
                 "\"total_cost\"],\"properties\":{\"type\":{\"enum\":[\"input\",\"output\"]},\"metric\":{"
                 "\"enum\":[\"megapixel\","
                 "\"image\",\"token\"]},\"quantity\":" NUMBER ",\"billable_quantity\":" NUMBER
                 ",\"unit_price\":" NUMBER ",\"total_cost\":" COUNT "}}}}}"},
    {"Event",
     "{\"type\":\"object\",\"required\":[\"event\",\"data\"],\"properties\":{\"event\":{\"enum\":["
     "\"image_generation.partial_image\",\"image_generation.completed\",\"image_edit.partial_image\","
     "\"image_edit.completed\",\"error\"]},\"data\":{\"type\":\"string\",\"contentMediaType\":"
     "\"application/json\"}}}"},
    {"Request",
     "{\"type\":\"object\",\"required\":[\"id\",\"object\",\"status\"],\"properties\":{\"id\":" TEXT
     ",\"object\":{\"const\":\"request\"},\"created_at\":{\"type\":\"string\",\"format\":\"date-time\"},"
     "\"model\":" TEXT_NULL ",\"executed_model\":" TEXT_NULL ",\"provider\":" TEXT_NULL ",\"modality\":" TEXT
     ",\"mode\":" TEXT_NULL ",\"endpoint\":" TEXT_NULL
     ",\"status\":{\"enum\":[\"pending\",\"processing\",\"completed\",\"upstream_failure\",\"rejected\","
     "\"cancelled\",\"queued\"]},\"http_status\":" COUNT_NULL ",\"cost\":" NUMBER_NULL
     ",\"cost_micros\":" COUNT_NULL ",\"estimated_cost_micros\":" COUNT_NULL
     ",\"currency\":{\"const\":\"usd\"},\"duration_ms\":" NUMBER_NULL ",\"queue_ms\":" NUMBER_NULL
     ",\"images\":" COUNT_NULL ",\"size\":" TEXT_NULL ",\"key_id\":" TEXT_NULL ",\"project\":" TEXT_NULL
     ",\"error_code\":" TEXT_NULL ",\"error_message\":" TEXT_NULL ",\"session_id\":" TEXT_NULL
     ",\"trace_id\":" TEXT_NULL ",\"user\":" TEXT_NULL ",\"request_size_bytes\":" COUNT_NULL
     ",\"response_size_bytes\":" COUNT_NULL ",\"purged\":" BOOLEAN
     ",\"media\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"required\":[\"name\",\"kind\","
     "\"number\",\"url\"],"
     "\"properties\":{\"name\":" TEXT
     ",\"kind\":{\"enum\":[\"output\",\"reference\",\"mask\"]},\"number\":" COUNT ",\"url\":" TEXT_NULL
     ",\"expires_at\":" TEXT_NULL "}}},\"payload\":{\"type\":[\"object\",\"null\"]}"
     ",\"progress\":{\"type\":\"number\",\"minimum\":0,\"maximum\":1},\"stage\":" TEXT_NULL
     ",\"queue_position\":" COUNT_NULL "}}"},
    {"RequestList", LIST("Request")},
    {"Cancellation",
     "{\"type\":\"object\",\"required\":[\"id\",\"object\",\"cancelled\",\"status\"],\"properties\":{"
     "\"id\":" TEXT ",\"object\":{\"const\":\"request\"},\"cancelled\":" BOOLEAN ",\"status\":" TEXT_NULL
     "}}"},
    {"Purge", "{\"type\":\"object\",\"required\":[\"id\",\"purged\",\"already_purged\",\"media_deleted\"],"
              "\"properties\":{"
              "\"id\":" TEXT ",\"purged\":{\"const\":true},\"already_purged\":" BOOLEAN
              ",\"media_deleted\":" COUNT "}}"},
    {"Key",
     "{\"type\":\"object\",\"required\":[\"id\",\"object\",\"name\",\"last_four\",\"created_at\",\"status\"],"
     "\"properties\":{\"id\":" TEXT ",\"object\":{\"const\":\"key\"},\"name\":" TEXT ",\"last_four\":" TEXT
     ",\"created_at\":" TEXT ",\"status\":{\"enum\":[\"active\",\"revoked\",\"expired\"]},\"project\":" TEXT
     ",\"admin\":" BOOLEAN ",\"priority\":{\"enum\":[\"low\",\"normal\",\"high\"]},\"limits\":" OBJECT
     ",\"usage\":" OBJECT "}}"},
    {"KeyList", LIST("Key")},
    {"Statistics",
     "{\"type\":\"object\",\"required\":[\"object\",\"window_days\",\"computed_at\",\"data\",\"totals\"],"
     "\"properties\":{\"object\":{\"const\":\"statistics\"},\"window_days\":" COUNT ",\"computed_at\":" TEXT
     ",\"project\":" TEXT_NULL ",\"data\":{\"type\":\"array\",\"items\":" OBJECT "},\"totals\":" OBJECT "}}"},
    {"Balance",
     "{\"type\":\"object\",\"required\":[\"object\",\"billing_type\",\"available\"],\"properties\":{"
     "\"object\":{"
     "\"const\":\"balance\"},\"billing_type\":{\"enum\":[\"prepaid\",\"postpaid\"]},\"available\":{\"type\":"
     "\"object\",\"required\":[\"amount\",\"currency\"],\"properties\":{\"amount\":" NUMBER_NULL
     ",\"currency\":{\"const\":\"usd\"}}},\"budgets\":{\"type\":\"array\"},\"project\":" OBJECT "}}"},
    {"Model", "{\"type\":\"object\",\"required\":[\"id\",\"object\",\"created\",\"owned_by\"],\"properties\":"
              "{\"id\":" TEXT ",\"object\":{\"enum\":[\"model\",\"model.schema\"]},\"created\":{\"type\":"
              "\"integer\"},\"owned_by\":" TEXT "}}"},
    {"ModelSchema",
     "{\"type\":\"object\",\"required\":[\"id\",\"object\",\"modes\",\"parameters\"],\"properties\":{"
     "\"id\":" TEXT ",\"object\":{\"const\":\"model.schema\"},\"modes\":" OBJECT
     ",\"parameters\":{\"type\":\"array\"}}}"},
    {"ModelList", LIST("Model")},
    {"Health", "{\"type\":\"object\",\"required\":[\"status\",\"ready\",\"model\",\"running\",\"waiting\"],"
               "\"properties\":{"
               "\"status\":" TEXT ",\"ready\":" BOOLEAN ",\"model\":" TEXT ",\"running\":" COUNT
               ",\"waiting\":" COUNT ",\"workers_started\":" COUNT "}}"},
};

// The codes of the table of errors.
static json_t *error_codes(void) {
    json_t *names = json_array();
    for (int i = API_OK + 1; i < API_CODES; i++)
        json_array_append_new(names, json_string(api_code_info((enum api_code)i)->name));
    return json_pack("{s:o}", "enum", names);
}

json_t *openapi_schemas(void) {
    json_t *schemas = json_object();
    for (size_t i = 0; i < sizeof SCHEMAS / sizeof *SCHEMAS; i++)
        json_object_set_new(schemas, SCHEMAS[i].name, json_loads(SCHEMAS[i].text, 0, NULL));
    json_object_set_new(schemas, "ErrorCode", error_codes());
    return schemas;
}
