// The tables of names behind layout.h: one file a family of layouts. Private to layout.c.
#ifndef LIMN_WEIGHTS_LAYOUT_MAPS_H
#define LIMN_WEIGHTS_LAYOUT_MAPS_H

enum layout_change {
    LAYOUT_SAME,  // the whole tensor
    LAYOUT_FIRST, // the first, second, last third of its rows
    LAYOUT_SECOND,
    LAYOUT_THIRD,
    LAYOUT_SWAPPED, // the two halves of its rows in the other order
    LAYOUT_MATRIX,  // a 1x1 convolution [out, in, 1, 1] as [out, in]; a matrix stays one
};

// Names with "#" for a whole number and "*" at the end for whatever follows. In [to], "#" takes the numbers of [from] in
// order, "~" does so counting down from the largest that stands there in this checkpoint. Rules with one and the same [from]
// follow one another and apply together; of different ones the first that fits does.
struct layout_rule {
    const char *from, *to;
    enum layout_change change;
};

// Each ends with {0}.
extern const struct layout_rule layout_bfl_transformer[];
extern const struct layout_rule layout_bfl_autoencoder[];
extern const struct layout_rule layout_llama_cpp[];
extern const struct layout_rule layout_mistral[];

#endif
