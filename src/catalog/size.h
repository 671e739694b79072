// What size a picture gets: the rules for size, aspect_ratio and resolution. Relies on base.
//
// DESIGN. Three parameters say two things, shape and scale. A size in pixels ("1920x1080") says both and beats the others. A
// ratio ("16:9", as aspect_ratio or as size; size wins) says the shape; a tier ("2K", "0.25", as resolution) says the scale;
// the two are independent. What is not said comes from the card (text to image) or from the first reference (edits: its
// shape with an area of at most the card's default).
//
// - Pixels: within the card's limits the picture has exactly that size (rendered at the next multiple, its centre cut out);
//   beyond them it is scaled into them, keeping the ratio as far as they allow. A shape beyond the card's ratios becomes the
//   nearest of these with the same area.
// - A tier nK is an area of (1024 n)² pixels, a tier x in megapixels 1,048,576 x pixels. A ratio keeps that area; sides are
//   rounded to the multiple.
// - A card offers a list of ratios or tiers (the nearest by abs(ln(asked / offered)) is taken, of two as near the larger) or a
//   range (exact inside, its end outside).
#ifndef LIMN_CATALOG_SIZE_H
#define LIMN_CATALOG_SIZE_H

#include "base/error.h"

#define SIZE_LIST_MOST  32
#define SIZE_ASKED_MOST 65536 // pixels a side; more is taken for a mistake
#define SIZE_MEGAPIXEL  1048576.0

// What a card offers along one axis.
struct size_axis {
    int count;                     // of the list; 0: the range
    double values[SIZE_LIST_MOST]; // rising; ratios as width / height, tiers as pixels
    double least, most;            // of the range
};

struct size_rules {
    int multiple;              // of rendered sides: 16
    int side_least, side_most; // pixels; multiples of [multiple]
    double area_most;          // pixels; 0: side_most² says it
    int default_width, default_height;
    struct size_axis ratios, tiers;
};

// What was asked for, as size_parse reads it. 0: not asked for.
struct size_request {
    int width, height; // pixels
    double ratio;      // width / height
    double area;       // pixels, from the tier
    bool ratio_unused; // aspect_ratio was given beside a size that says the shape
    bool tier_unused;  // resolution was given beside a size in pixels
};

// Reads the three parameters; NULL, "" and "auto" mean absent. A size is WIDTHxHEIGHT or W:H; a ratio W:H of positive
// decimals; a tier "nK" or megapixels ("0.25", "1MP"). Errors have the parameter's name as field. All that is given is
// checked, also what another parameter overrides.
bool size_parse(const char *size, const char *aspect_ratio, const char *resolution,
                struct size_request *request, struct error *error);

struct size_result {
    int render_width, render_height; // multiples of rules->multiple, at least the delivered sides
    int deliver_width,
        deliver_height; // what the client gets and pays for: the centre of the rendered picture
};

// Never fails. [reference_width], [reference_height]: of the first reference of an edit, 0 for text to image.
struct size_result size_resolve(const struct size_rules *rules, const struct size_request *request,
                                int reference_width, int reference_height);

// The value that the axis offers for [asked].
double size_nearest(const struct size_axis *axis, double asked);

// "W:H" as width / height, "nK" or megapixels as pixels; false where the text is neither. For cards and configuration.
bool size_read_ratio(const char *text, double *ratio);
bool size_read_tier(const char *text, double *area);
bool size_read_pixels(const char *text, int *width, int *height);

#endif
