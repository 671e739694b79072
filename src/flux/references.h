// Reference images on their way to the autoencoder: the reference pipeline's cap on the area, its crop to multiples of 16 and
// Pillow's Lanczos, byte-equal. Relies on image.
#ifndef LIMN_FLUX_REFERENCES_H
#define LIMN_FLUX_REFERENCES_H

#include "image/image.h"

// Resizes with Pillow's Image.resize(size, LANCZOS) for RGB: fixed-point coefficients of 22 bits, horizontal pass first,
// each pass rounded to 8 bits. Byte-equal to Pillow.
bool lanczos_resize(const struct image *from, int width, int height, struct image *to, struct error *error);

// What the pipeline does with a picture before it is encoded: sizes capped to [area_most] pixels, sides to multiples of
// [multiple]. [field] names the picture in errors ("image[1]"): too small, too narrow.
bool reference_prepare(const char *field, const struct image *from, int64_t area_most, int multiple,
                       struct image *to, struct error *error);

#endif
