// See size.h.
#include "catalog/size.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// ----------------------------------------------------------------------------------------------------------- reading

// A plain decimal above 0, at most six digits before and six behind the point, read without regard to the locale.
static bool read_decimal(const char **text, double *value) {
    const char *at = *text;
    double number = 0, unit = 1;
    int before = 0, behind = 0;
    for (; isdigit((unsigned char)*at); at++, before++) number = number * 10 + (*at - '0');
    if (*at == '.') {
        for (at++; isdigit((unsigned char)*at); at++, behind++) {
            unit /= 10;
            number += (*at - '0') * unit;
        }
        if (behind == 0) return false;
    }
    if (before == 0 || before > 6 || behind > 6 || !(number > 0)) return false;
    *text = at;
    *value = number;
    return true;
}

bool size_read_ratio(const char *text, double *ratio) {
    double width, height;
    if (!read_decimal(&text, &width) || *text++ != ':' || !read_decimal(&text, &height) || *text)
        return false;
    *ratio = width / height;
    return true;
}

bool size_read_tier(const char *text, double *area) {
    double number;
    if (!read_decimal(&text, &number)) return false;
    if (!strcasecmp(text, "k")) {
        *area = 1024 * number * 1024 * number;
        return true;
    }
    if (*text && strcasecmp(text, "mp")) return false;
    *area = SIZE_MEGAPIXEL * number;
    return true;
}

bool size_read_pixels(const char *text, int *width, int *height) {
    int sides[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        size_t digits = strspn(text, "0123456789");
        if (digits < 1 || digits > 6) return false;
        sides[i] = atoi(text);
        text += digits;
        if (i == 0 && *text != 'x' && *text != 'X') return false;
        if (i == 0) text++;
    }
    if (*text) return false;
    *width = sides[0];
    *height = sides[1];
    return true;
}

static bool absent(const char *text) {
    return !text || !*text || !strcmp(text, "auto");
}

static bool refuse(const char *field, const char *text, const char *expected, struct error *error) {
    return error_set_field(error, ERROR_INPUT, field, "%s: \"%.40s\" given, expected %s", field, text,
                           expected);
}

static bool parse_size(const char *size, struct size_request *request, struct error *error) {
    double tier;
    if (absent(size) || size_read_ratio(size, &request->ratio)) return true;
    if (!size_read_pixels(size, &request->width, &request->height)) {
        bool is_tier = size_read_tier(size, &tier);
        return refuse("size", size,
                      is_tier ? "WIDTHxHEIGHT or W:H; a tier such as this one is given as resolution"
                              : "\"auto\", WIDTHxHEIGHT in pixels (\"1024x768\") or a ratio (\"16:9\")",
                      error);
    }
    if (request->width >= 1 && request->height >= 1 && request->width <= SIZE_ASKED_MOST &&
        request->height <= SIZE_ASKED_MOST)
        return true;
    return refuse("size", size, "sides from 1 to 65536 pixels", error);
}

bool size_parse(const char *size, const char *aspect_ratio, const char *resolution,
                struct size_request *request, struct error *error) {
    *request = (struct size_request){0};
    double ratio = 0, area = 0;
    if (!parse_size(size, request, error)) return false;
    if (!absent(aspect_ratio) && !size_read_ratio(aspect_ratio, &ratio))
        return refuse("aspect_ratio", aspect_ratio, "W:H, such as \"16:9\"", error);
    if (!absent(resolution) && !size_read_tier(resolution, &area))
        return refuse("resolution", resolution, "a tier such as \"1K\", or megapixels such as \"0.25\"",
                      error);
    bool pixels = request->width > 0;
    request->ratio_unused = ratio > 0 && (pixels || request->ratio > 0);
    request->tier_unused = area > 0 && pixels;
    if (!pixels && !(request->ratio > 0)) request->ratio = ratio;
    if (!pixels) request->area = area;
    return true;
}

// --------------------------------------------------------------------------------------------------------- resolving

double size_nearest(const struct size_axis *axis, double asked) {
    if (axis->count == 0) return asked < axis->least ? axis->least : asked > axis->most ? axis->most : asked;
    double best = axis->values[0], distance = INFINITY;
    for (int i = 0; i < axis->count; i++) { // rising: of two as near the later is the larger
        double here = fabs(log(asked / axis->values[i]));
        if (here > distance + 1e-12) continue;
        distance = here;
        best = axis->values[i];
    }
    return best;
}

static double within(double value, double least, double most) {
    return value < least ? least : value > most ? most : value;
}

static double area_most(const struct size_rules *rules) {
    double square = (double)rules->side_most * rules->side_most;
    return rules->area_most > 0 && rules->area_most < square ? rules->area_most : square;
}

// Scales both sides into the limits. Where no scale is within them (a ratio beyond side_most : side_least) the sides are
// limited one by one.
static void scale_into(const struct size_rules *rules, double *width, double *height) {
    double longer = fmax(*width, *height), shorter = fmin(*width, *height), scale = 1;
    if (longer > rules->side_most) scale = rules->side_most / longer;
    double area = *width * *height * scale * scale;
    if (area > area_most(rules)) scale *= sqrt(area_most(rules) / area);
    if (shorter * scale < rules->side_least) scale = rules->side_least / shorter;
    *width = within(*width * scale, rules->side_least, rules->side_most);
    *height = within(*height * scale, rules->side_least, rules->side_most);
}

// Takes from the longer side what rounding put on top of the largest area.
static void trim_area(const struct size_rules *rules, int *width, int *height, int multiple) {
    int *longer = *width >= *height ? width : height, shorter = *width >= *height ? *height : *width;
    double most = area_most(rules);
    if ((double)*width * *height <= most) return;
    int side = (int)(most / shorter) / multiple * multiple;
    if (side >= rules->side_least) *longer = side;
}

static int round_to(double value, int multiple) {
    return (int)floor(value / multiple + 0.5) * multiple;
}

static int next_multiple(int value, int multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// The nearest ratio within the card's (when these are known), be they a range or a list from end to end.
static double ratio_within(const struct size_axis *ratios, double ratio) {
    if (ratios->count == 0 && ratios->most <= 0) return ratio; // not known
    return ratios->count ? within(ratio, ratios->values[0], ratios->values[ratios->count - 1])
                         : within(ratio, ratios->least, ratios->most);
}

static struct size_result exact(const struct size_rules *rules, double width, double height) {
    struct size_result size;
    double ratio = width / height, offered = ratio_within(&rules->ratios, ratio), area = width * height;
    if (ratio < offered || ratio > offered) { // the area stays
        width = sqrt(area * offered);
        height = sqrt(area / offered);
    }
    scale_into(rules, &width, &height);
    size.deliver_width = round_to(width, 1);
    size.deliver_height = round_to(height, 1);
    trim_area(rules, &size.deliver_width, &size.deliver_height, 1);
    size.render_width = next_multiple(size.deliver_width, rules->multiple);
    size.render_height = next_multiple(size.deliver_height, rules->multiple);
    return size;
}

static struct size_result shaped(const struct size_rules *rules, double ratio, double area) {
    double width = sqrt(area * ratio), height = sqrt(area / ratio);
    scale_into(rules, &width, &height);
    int w = round_to(width, rules->multiple), h = round_to(height, rules->multiple);
    trim_area(rules, &w, &h, rules->multiple);
    return (struct size_result){w, h, w, h};
}

// What the reference pipeline draws when an edit does not say a size: the first reference as the model sees it, shrunk to the
// default area and cut to multiples.
static struct size_result like_reference(const struct size_rules *rules, int width, int height, double most) {
    double area = (double)width * height, ratio = (double)width / height,
           offered = ratio_within(&rules->ratios, ratio);
    if (ratio < offered || ratio > offered) return shaped(rules, offered, fmin(area, most));
    if (area > most) {
        double scale = sqrt(most / area);
        width = (int)(width * scale);
        height = (int)(height * scale);
    }
    double least = rules->side_least;
    if (width < least || height < least || width > rules->side_most || height > rules->side_most)
        return shaped(rules, ratio, fmin(area, most));
    int w = width / rules->multiple * rules->multiple, h = height / rules->multiple * rules->multiple;
    trim_area(rules, &w, &h, rules->multiple);
    return (struct size_result){w, h, w, h};
}

struct size_result size_resolve(const struct size_rules *rules, const struct size_request *request,
                                int reference_width, int reference_height) {
    bool reference = reference_width > 0 && reference_height > 0;
    double standard_area = (double)rules->default_width * rules->default_height;
    double standard_ratio = (double)rules->default_width / rules->default_height;
    if (request->width > 0) return exact(rules, request->width, request->height);
    if (!(request->ratio > 0) && !(request->area > 0)) {
        if (!reference) return exact(rules, rules->default_width, rules->default_height);
        if (rules->ratios.count == 0)
            return like_reference(rules, reference_width, reference_height, standard_area);
        standard_area = fmin(standard_area, (double)reference_width * reference_height);
    }
    if (reference) standard_ratio = (double)reference_width / reference_height;
    double ratio = size_nearest(&rules->ratios, request->ratio > 0 ? request->ratio : standard_ratio);
    double area = request->area > 0 ? size_nearest(&rules->tiers, request->area) : standard_area;
    return shaped(rules, ratio, area);
}
