// The configuration files of a model folder, as JSON text.
#include "fuzz.h"

#include "base/json.h"

// Every getter on every key of an object.
static void read_everything(struct json_place place) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)place.object, key, value) {
        struct error errors[8] = {0};
        int64_t integer, integers[4];
        double number, numbers[4];
        bool truth;
        const char *text;
        const json_t *inner;
        int count;
        bool done[8] = {
            json_get_integer(place, key, JSON_OPTIONAL, -5, 1 << 20, &integer, &errors[0]),
            json_get_number(place, key, JSON_OPTIONAL, 0, 1e9, &number, &errors[1]),
            json_get_bool(place, key, JSON_OPTIONAL, &truth, &errors[2]),
            json_get_string(place, key, JSON_REQUIRED, &text, &errors[3]),
            json_get_object(place, key, JSON_OPTIONAL, &inner, &errors[4]),
            json_get_array(place, key, JSON_REQUIRED, &inner, &errors[5]),
            json_get_integers(place, key, JSON_OPTIONAL, 0, 1 << 20, integers, 4, &count, &errors[6]),
            json_get_numbers(place, key, JSON_REQUIRED, 0, 1, numbers, 4, &count, &errors[7]),
        };
        for (int i = 0; i < 8; i++) {
            if (!done[i]) promise_explained(&errors[i]);
        }
        if (json_is_object(value)) read_everything((struct json_place){value, "fuzz"});
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {0};
    json_t *json = json_parse("fuzz", (const char *)data, size, &error);
    if (!json) {
        promise_explained(&error);
        return 0;
    }
    read_everything((struct json_place){json, "fuzz"});
    json_decref(json);
    return 0;
}
