// Reference images on their way to the autoencoder: the reference pipeline's cap on the area, its crop to multiples of 16 and
// Pillow's Lanczos, byte-equal. Relies on image.
#ifndef LIMN_FLUX_REFERENCES_H
#define LIMN_FLUX_REFERENCES_H

#include "image/image.h"

// Resizes with Pillow's Image.resize(size, LANCZOS) for RGB: fixed-point coefficients of 22 bits, one pass a side,
// each rounded to 8 bits; a pass that changes nothing is left out. Byte-equal to Pillow. Sides at least 1. [to] is fresh
// (image_free); on failure it is empty.
bool lanczos_resize(const struct image *from, int width, int height, struct image *to, struct error *error);

// What becomes of a picture's size before it is encoded.
struct reference_size {
    int resized_width, resized_height; // after the cap on the area
    int width, height;                 // after the crop to multiples
};

// A side below 64 pixels, sides of a ratio above 8 to 1 and a picture that the cap leaves without a whole [multiple] are
// errors; [field] names the picture in them ("image[1]"). area_most: pixels. multiple: pixels.
bool reference_size(const char *field, int from_width, int from_height, int64_t area_most, int multiple,
                    struct reference_size *size, struct error *error);

// The picture in that size: resized where it has more than [area_most] pixels, then its centre cut out. [to] is fresh.
bool reference_prepare(const char *field, const struct image *from, int64_t area_most, int multiple,
                       struct image *to, struct error *error);

#endif
