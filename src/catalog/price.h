// What a request costs, in integer micro-dollars (1/1,000,000 USD). One function makes the estimate and the bill, so that a
// dry run agrees with what is charged. Relies on base.
//
// A price is a list of components: {input or output} x {megapixel, image, token} with a price a unit.
// - megapixel: 1,048,576 pixels; each picture by itself rounded up to whole ones, 1 to 4 (larger pictures are resized to 4).
// - image: each picture is one.
// - token: one for 16 x 16 pixels of a picture as the model sees it (output pictures as rendered; references after the cap on
//   their area). Text costs nothing, so that the price is known before the prompt is encoded.
// Input is the references, once a call to the provider: once a request where it makes n pictures natively. Output is each
// picture delivered.
#ifndef LIMN_CATALOG_PRICE_H
#define LIMN_CATALOG_PRICE_H

#include "base/yaml.h"

#include <jansson.h> // defines: json_t
#include <stdint.h>

#define PRICE_COMPONENTS_MOST 6
#define PRICE_REFERENCES_MOST 16
#define PRICE_UNIT_MOST       1000.0 // USD a unit

enum price_side { PRICE_INPUT, PRICE_OUTPUT };
enum price_metric { PRICE_MEGAPIXEL, PRICE_IMAGE, PRICE_TOKEN };

const char *price_side_name(enum price_side side);       // "input"
const char *price_metric_name(enum price_metric metric); // "megapixel"

struct price_component {
    enum price_side side;
    enum price_metric metric;
    int64_t unit_picos; // 1e-12 USD a unit: prices a token are far below a micro-dollar
};

struct price_list {
    struct price_component components[PRICE_COMPONENTS_MOST]; // at most one a side and metric; none: free
    int count;
};

// What is paid for.
struct price_use {
    struct price_picture {
        int width, height; // pixels
    } references[PRICE_REFERENCES_MOST];
    int reference_count;
    int calls; // to the provider: how often the references are paid for; 1 where n is native
    struct price_picture output; // as delivered
    struct price_picture rendered;
    int images;                     // estimate: asked for; bill: delivered
    int64_t reference_token_pixels; // area that the model caps references at; 0: 1,048,576
};

struct price_line {
    const struct price_component *component;
    int64_t quantity_micros;   // before rounding up, in millionths of a unit (1920x1080: 1,977,539)
    int64_t billable_quantity; // units
    int64_t micros;
};

struct price {
    struct price_line lines[PRICE_COMPONENTS_MOST];
    int count;
    int64_t micros; // the sum
    int calls;      // as in the use
};

// Fills [price]; its lines point into [list]. Each line is rounded to the nearest micro-dollar. Values outside the documented
// ranges (negative counts) count as 0; a sum beyond int64 is an error.
bool price_of(const struct price_list *list, const struct price_use *use, struct price *price,
              struct error *error);

// The body of a dry run: {"estimated":true,"model","provider","total_cost_micros","currency":"USD","components":[{"type",
// "metric","quantity","billable_quantity","unit_price","total_cost"}]}; a component of references says by "charged" whether they
// are paid for once a "request" or once a "call" to the provider. NULL when memory is gone; the caller decref's.
json_t *price_estimate_json(const char *model, const char *provider, const struct price *price);

// The components alone, for model objects: [{"type","metric","unit_price"}].
json_t *price_list_json(const struct price_list *list);

// A map of prices in USD a unit, as cards and limn.yaml have it: {input_megapixel: 0.008, output_image: 0.04, ...}.
bool price_list_read(const struct yaml_node *map, struct price_list *list, struct error *error);

// "0.008" (USD a unit) to picos. False where it is no plain decimal in [0, PRICE_UNIT_MOST].
bool price_read_unit(const char *text, int64_t *picos);

#endif
