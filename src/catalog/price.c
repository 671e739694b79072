// See price.h.
#include "catalog/price.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#define MEGAPIXEL       1048576
#define MEGAPIXELS_MOST 4
#define PICOS_PER_MICRO 1000000
#define TOKEN_SIDE      16
#define SIDE_MOST       65536 // pixels
#define TIMES_MOST      10000

const char *price_side_name(enum price_side side) {
    return side == PRICE_INPUT ? "input" : "output";
}

const char *price_metric_name(enum price_metric metric) {
    static const char *const names[] = {"megapixel", "image", "token"};
    return names[metric];
}

static int64_t pixels_of(const struct price_picture *picture) {
    if (picture->width < 1 || picture->height < 1) return 0;
    int64_t width = picture->width < SIDE_MOST ? picture->width : SIDE_MOST;
    int64_t height = picture->height < SIDE_MOST ? picture->height : SIDE_MOST;
    return width * height;
}

// One picture in whole megapixels, as it is billed.
static int64_t megapixels(int64_t pixels) {
    int64_t whole = (pixels + MEGAPIXEL - 1) / MEGAPIXEL;
    return whole < 1 ? 1 : whole > MEGAPIXELS_MOST ? MEGAPIXELS_MOST : whole;
}

// Tokens of a reference: it is shrunk to at most [most] pixels and cut to multiples of 16, as flux/references does.
static int64_t reference_tokens(const struct price_picture *picture, int64_t most) {
    int64_t width = picture->width, height = picture->height, area = pixels_of(picture);
    if (area == 0 || width > SIDE_MOST || height > SIDE_MOST) return 0;
    if (area > most) {
        double scale = sqrt((double)most / (double)area);
        width = (int64_t)((double)width * scale);
        height = (int64_t)((double)height * scale);
    }
    return (width / TOKEN_SIDE) * (height / TOKEN_SIDE);
}

struct quantity {
    int64_t micros, billable; // millionths before rounding up; whole units
};

static struct quantity picture_quantity(enum price_metric metric, const struct price_picture *picture,
                                        int64_t tokens) {
    int64_t pixels = pixels_of(picture);
    switch (metric) {
    case PRICE_MEGAPIXEL:
        return (struct quantity){
            (int64_t)floor((double)pixels * 1e6 / MEGAPIXEL + 0.5),
            megapixels(pixels),
        };
    case PRICE_IMAGE:
        return (struct quantity){1000000, 1};
    case PRICE_TOKEN:
        return (struct quantity){tokens * 1000000, tokens};
    }
    return (struct quantity){0};
}

static struct quantity quantity_of(const struct price_component *component, const struct price_use *use) {
    struct quantity sum = {0};
    int64_t times = component->side == PRICE_INPUT ? use->calls : use->images;
    times = times < 0 ? 0 : times > TIMES_MOST ? TIMES_MOST : times;
    if (component->side == PRICE_OUTPUT) {
        const struct price_picture *rendered = pixels_of(&use->rendered) ? &use->rendered : &use->output;
        sum = picture_quantity(component->metric, &use->output,
                               pixels_of(rendered) / (TOKEN_SIDE * TOKEN_SIDE));
    } else {
        int64_t most = use->reference_token_pixels > 0 ? use->reference_token_pixels : MEGAPIXEL;
        for (int i = 0; i < use->reference_count && i < PRICE_REFERENCES_MOST; i++) {
            const struct price_picture *picture = &use->references[i];
            struct quantity one =
                picture_quantity(component->metric, picture, reference_tokens(picture, most));
            sum.micros += one.micros;
            sum.billable += one.billable;
        }
    }
    return (struct quantity){sum.micros * times, sum.billable * times};
}

bool price_of(const struct price_list *list, const struct price_use *use, struct price *price,
              struct error *error) {
    *price = (struct price){.calls = use->calls};
    __int128 total = 0;
    for (int i = 0; i < list->count && i < PRICE_COMPONENTS_MOST; i++) {
        const struct price_component *component = &list->components[i];
        struct quantity quantity = quantity_of(component, use);
        if (quantity.billable == 0) continue;
        __int128 micros =
            ((__int128)quantity.billable * component->unit_picos + PICOS_PER_MICRO / 2) / PICOS_PER_MICRO;
        total += micros;
        if (total > INT64_MAX)
            return error_set(error, ERROR_INPUT, "the price is beyond what can be counted");
        price->lines[price->count++] =
            (struct price_line){component, quantity.micros, quantity.billable, (int64_t)micros};
    }
    price->micros = (int64_t)total;
    return true;
}

// -------------------------------------------------------------------------------------------------------------- JSON

static double usd_of(int64_t picos) {
    return (double)picos / 1e12;
}

// A whole number where it is one, so that 2 images are 2 and not 2.0.
static json_t *quantity_json(int64_t micros) {
    return micros % 1000000 == 0 ? json_integer(micros / 1000000) : json_real((double)micros / 1e6);
}

json_t *price_estimate_json(const char *model, const char *provider, const struct price *price) {
    json_t *components = json_array();
    bool good = components;
    for (int i = 0; good && i < price->count; i++) {
        const struct price_line *line = &price->lines[i];
        json_t *one = json_pack(
            "{s:s, s:s, s:o, s:I, s:f, s:I}", "type", price_side_name(line->component->side), "metric",
            price_metric_name(line->component->metric), "quantity", quantity_json(line->quantity_micros),
            "billable_quantity", (json_int_t)line->billable_quantity, "unit_price",
            usd_of(line->component->unit_picos), "total_cost", (json_int_t)line->micros);
        if (one && line->component->side == PRICE_INPUT)
            json_object_set_new(one, "charged", json_string(price->calls > 1 ? "call" : "request"));
        good = one && json_array_append_new(components, one) == 0;
    }
    if (!good) {
        json_decref(components);
        return NULL;
    }
    return json_pack("{s:b, s:s, s:s, s:I, s:s, s:o}", "estimated", 1, "model", model, "provider", provider,
                     "total_cost_micros", (json_int_t)price->micros, "currency", "USD", "components",
                     components);
}

json_t *price_list_json(const struct price_list *list) {
    json_t *components = json_array();
    for (int i = 0; components && i < list->count; i++) {
        const struct price_component *component = &list->components[i];
        json_t *one =
            json_pack("{s:s, s:s, s:f}", "type", price_side_name(component->side), "metric",
                      price_metric_name(component->metric), "unit_price", usd_of(component->unit_picos));
        if (!one || json_array_append_new(components, one) != 0) {
            json_decref(components);
            return NULL;
        }
    }
    return components;
}

bool price_read_unit(const char *text, int64_t *picos) {
    int64_t value = 0;
    int before = 0, behind = 0;
    for (; isdigit((unsigned char)*text) && before < 6; text++, before++) value = value * 10 + (*text - '0');
    if (before == 0) return false;
    if (*text == '.') {
        text++;
        if (!isdigit((unsigned char)*text)) return false;
        for (; isdigit((unsigned char)*text) && behind < 12; text++, behind++)
            value = value * 10 + (*text - '0');
    }
    if (*text) return false;
    for (; behind < 12; behind++) value *= 10;
    if (value > (int64_t)PRICE_UNIT_MOST * 1000000000000) return false;
    *picos = value;
    return true;
}

static const struct {
    const char *name;
    enum price_side side;
    enum price_metric metric;
} NAMES[] = {
    {"input_megapixel", PRICE_INPUT, PRICE_MEGAPIXEL}, {"output_megapixel", PRICE_OUTPUT, PRICE_MEGAPIXEL},
    {"input_image", PRICE_INPUT, PRICE_IMAGE},         {"output_image", PRICE_OUTPUT, PRICE_IMAGE},
    {"input_token", PRICE_INPUT, PRICE_TOKEN},         {"output_token", PRICE_OUTPUT, PRICE_TOKEN},
};
enum { NAME_COUNT = sizeof NAMES / sizeof *NAMES };

bool price_list_read(const struct yaml_node *map, struct price_list *list, struct error *error) {
    const char *names[NAME_COUNT];
    for (int i = 0; i < NAME_COUNT; i++) names[i] = NAMES[i].name;
    if (!yaml_known_keys(map, names, NAME_COUNT, error)) return false;
    *list = (struct price_list){0};
    for (int i = 0; i < NAME_COUNT; i++) {
        const struct yaml_node *price = yaml_get(map, NAMES[i].name);
        struct price_component *component = &list->components[list->count];
        if (!price) continue;
        if (price->type != YAML_TYPE_TEXT || !price_read_unit(price->text, &component->unit_picos))
            return yaml_fail(price, error, "expected USD a unit, a plain decimal from 0 to %g",
                             PRICE_UNIT_MOST);
        component->side = NAMES[i].side;
        component->metric = NAMES[i].metric;
        list->count++;
    }
    return true;
}
