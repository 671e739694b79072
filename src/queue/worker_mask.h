// The mask of an edit: which pixels of the first reference come back as they were. Relies on image, flux/references.h.
#ifndef LIMN_QUEUE_WORKER_MASK_H
#define LIMN_QUEUE_WORKER_MASK_H

#include "image/image.h"

struct mask {
    struct image original; // the first reference, cut and resized to the delivered size
    uint8_t *keep; // of each pixel: 255 as in original, 0 as drawn, between mixed; NULL: there is no mask
};

// Makes a mask from the [alpha] of its file and the first [reference] (upright), which must be of one size: else an error with
// the field "mask". Both are cut to the shape of deliver_width x deliver_height around their middle and resized to it: a picture of
// that size already stays as it is to the byte.
bool mask_make(const struct image_alpha *alpha, const struct image *reference, int deliver_width,
               int deliver_height, struct mask *mask, struct error *error);
void mask_free(struct mask *mask); // {0} again

// The original with its edge pixels repeated outwards, so that it stands in [width] x [height] where the delivered picture will
// stand in the rendered one: in the middle. [to] is fresh.
bool mask_pad(const struct mask *mask, int width, int height, struct image *to, struct error *error);

// Puts the kept pixels into [image], which has the delivered size.
void mask_apply(const struct mask *mask, struct image *image);

#endif
