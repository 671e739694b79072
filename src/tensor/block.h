// The block types of GGUF decoded to f32, bit for bit as their reference implementation (gguf-py, quants.py) decodes them.
// Relies on dtype.h.
//
// FORMATS. All numbers are little-endian; d and m are IEEE halves; a block of 32 or 256 values starts at any byte.
// "Nibbles as halves": byte j has value j in its low nibble and value j + (number of bytes) in its high one.
//
//   Q4_0    18 bytes, 32 values   d; 16 bytes of nibbles n as halves                     d (n - 8)
//   Q4_1    20, 32                d, m; 16 bytes of nibbles as halves                    d n + m
//   Q5_0    22, 32                d; u32 h; 16 bytes as Q4_0; bit j of h is bit 4 of n   d (n - 16)
//   Q5_1    24, 32                d, m; u32 h; 16 bytes                                  d n + m
//   Q8_0    34, 32                d; 32 signed bytes n                                   d n
//   IQ4_NL  18, 32                d; 16 bytes of nibbles as halves                       d block_iq4_codes[n]
//
// In blocks of 256, groups of values have scales s (and minima t) of their own:
//
//   Q2_K    84    16 bytes, group g of 16 values: s low nibble, t high; 64 bytes of n; d, m         d s n - m t
//                 n: byte l of 32-byte half h has, in bits 2 j and 2 j + 1, value 128 h + 32 j + l
//   Q3_K    110   32 bytes b, 64 bytes of n as Q2_K, 12 bytes of scales, d                          d (s - 32) (n - 4 [b clear])
//                 b: bit 4 h + j of byte l belongs to value 128 h + 32 j + l; [..] is 1 where it is 0. Scale g of the 16:
//                 bits 0 to 3 in nibble g / 8 of byte g % 8, bits 4 and 5 in bits 2 (g / 4) of byte 8 + g % 4
//   Q4_K    144   d, m, 12 bytes of scales, 128 bytes; each 32 of them nibbles as halves            d s n - m t
//                 groups of 32. s and t of group g < 4: bits 0 to 5 of bytes g and g + 4; of group g >= 4: low and high
//                 nibble of byte g + 4, and above them bits 6 and 7 of bytes g - 4 and g
//   Q5_K    176   d, m, 12 bytes of scales, 32 bytes h, 128 bytes as Q4_K                           d s n - m t
//                 bit g of byte l of h is bit 4 of n of value l in group g
//   Q6_K    210   128 bytes, 64 bytes h, 16 signed bytes s of groups of 16, d                       d s (n - 32)
//                 half of 128 values: value l + 32 j has its low 4 bits in byte l + 32 (j % 2) of the half's 64 bytes,
//                 nibble j / 2, and bits 4 and 5 in bits 2 j of byte l of its 32 bytes of h
//   IQ4_XS  136   d; u16 h; 4 bytes; 128 bytes, each 16 of them as IQ4_NL                           d (s - 32) block_iq4_codes[n]
//                 s of group g of 32: nibble g % 2 of byte g / 2, and above it bits 2 g, 2 g + 1 of h
//
// Every product of d, s and n has at most 24 significant bits: only the sums of the types with m and t are rounded.
#ifndef LIMN_TENSOR_BLOCK_H
#define LIMN_TENSOR_BLOCK_H

#include "tensor/dtype.h"

enum { BLOCK_VALUES_MOST = 256 };

extern const int8_t block_iq4_codes[16];

// Whether [type] is one of the types above.
bool block_has(enum dtype type);

// Decodes [count] values, a multiple of the block, of a type above. from: any alignment.
void block_decode(enum dtype type, const void *from, float *to, int64_t count);

// s and t of the 8 groups of Q4_K and Q5_K from their 12 bytes.
void block_k_scales(const uint8_t bytes[12], uint8_t scales[8], uint8_t minima[8]);

#endif
