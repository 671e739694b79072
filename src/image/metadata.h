// What a picture file says of its making: an EXIF block (and a PNG text chunk) put into finished PNG, JPEG and WebP files, a
// comment put into GIF files.
// Relies on image.h.
#ifndef LIMN_IMAGE_METADATA_H
#define LIMN_IMAGE_METADATA_H

#include "image/image.h"

// Appends [file] ([size] bytes of [format], without EXIF) to [out] with [metadata] in it: EXIF Software, Make and
// ImageDescription (the comment); in PNG the comment is also a "Comment" text chunk (iTXt, UTF-8). Fields that are NULL or
// empty are left out. GIF: one comment block with all fields, a line each. [image] and [has_alpha] give what WebP's extended
// header needs. Not for AVIF, whose items libvips writes.
bool metadata_insert(enum image_format format, const void *file, size_t size, const struct image *image,
                     bool has_alpha, const struct image_metadata *metadata, struct buffer *out,
                     struct error *error);

// Whether there is anything to say.
bool metadata_given(const struct image_metadata *metadata);

// Appends "Exif", two 0 bytes and the block.
bool metadata_exif(const struct image_metadata *metadata, struct buffer *out);

#endif
