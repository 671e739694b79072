// size, aspect_ratio and resolution, a line each; a fourth is the first reference's size. Whatever is accepted gives a picture
// within the limits of each of three cards.
#include "fuzz.h"

#include "catalog/price.h"
#include "catalog/size.h"

#include <math.h>

static const struct size_rules RULES[] = {
    {16, 64, 2048, 0, 1024, 1024, {0, {0}, 1.0 / 8, 8}, {0, {0}, 65536, 4194304}},
    {16, 64, 4096, 4194304, 1360, 768, {3, {0.25, 1, 4}, 0, 0}, {2, {262144, 1048576}, 0, 0}},
    {32, 128, 1024, 0, 128, 128, {1, {1}, 0, 0}, {0, {0}, 16384, 65536}},
};

// Whether a shape lies within the card's ratios, where these are known.
static bool is_offered(const struct size_axis *ratios, double ratio) {
    if (ratios->count > 0) return ratio >= ratios->values[0] && ratio <= ratios->values[ratios->count - 1];
    return !(ratios->most > 0) || (ratio >= ratios->least && ratio <= ratios->most);
}

static void promise_within(const struct size_rules *rules, const struct size_request *request, int width,
                           int height) {
    struct size_result size = size_resolve(rules, request, width, height);
    double area = rules->area_most > 0 ? rules->area_most : (double)rules->side_most * rules->side_most;
    promise(size.deliver_width >= rules->side_least && size.deliver_width <= rules->side_most);
    promise(size.deliver_height >= rules->side_least && size.deliver_height <= rules->side_most);
    promise((double)size.deliver_width * size.deliver_height <= area);
    promise(size.render_width % rules->multiple == 0 && size.render_height % rules->multiple == 0);
    promise(size.render_width >= size.deliver_width &&
            size.render_width < size.deliver_width + rules->multiple);
    promise(size.render_height >= size.deliver_height &&
            size.render_height < size.deliver_height + rules->multiple);
    if (request->width >= rules->side_least && request->height >= rules->side_least &&
        request->width <= rules->side_most && request->height <= rules->side_most &&
        (double)request->width * request->height <= area &&
        is_offered(&rules->ratios, (double)request->width / request->height))
        promise(size.deliver_width == request->width && size.deliver_height == request->height);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char text[400], *lines[4] = {text, NULL, NULL, NULL};
    if (size >= sizeof text) return 0;
    memcpy(text, data, size);
    text[size] = 0;
    for (int i = 1; i < 4; i++) {
        char *end = strchr(lines[i - 1], '\n');
        if (!end) break;
        *end = 0;
        lines[i] = end + 1;
    }
    int width = 0, height = 0;
    if (lines[3] && (!size_read_pixels(lines[3], &width, &height) || width > 65536 || height > 65536))
        return 0;
    struct size_request request;
    struct error error = {0};
    if (!size_parse(lines[0], lines[1], lines[2], &request, &error)) {
        promise_explained(&error);
        promise(!strcmp(error.field, "size") || !strcmp(error.field, "aspect_ratio") ||
                !strcmp(error.field, "resolution"));
        return 0;
    }
    promise(request.ratio >= 0 && isfinite(request.ratio) && request.area >= 0 && isfinite(request.area));
    for (size_t i = 0; i < sizeof RULES / sizeof *RULES; i++)
        promise_within(&RULES[i], &request, width, height);
    int64_t picos;
    if (price_read_unit(lines[0], &picos)) promise(picos >= 0 && picos <= 1000000000000000);
    return 0;
}
