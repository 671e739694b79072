// PyTorch's CPU noise: MT19937 (Matsumoto and Nishimura 1998) and the Box-Muller fill of ATen's normal_ kernel, which
// works on blocks of 16 values, uniforms first. On x86-64 that kernel takes the logarithm, sine and cosine from the
// single-precision polynomials of Cephes (Moshier), each step fused where the compiler fuses it; they are followed here to the
// last bit, so that noise rounded to bf16 is equal too. Relies on dtype.h for bf16.
#include "flux/noise.h"

#include "tensor/dtype.h"

#include <math.h>
#include <stdbool.h>

enum { STATE = 624, SHIFT = 397, BLOCK = 16, HALF = 8 };

struct twister {
    uint32_t state[STATE];
    int next;
};

static void twister_seed(struct twister *twister, uint64_t seed) {
    twister->state[0] = (uint32_t)seed; // PyTorch keeps the low 32 bits
    for (int i = 1; i < STATE; i++) {
        uint32_t before = twister->state[i - 1];
        twister->state[i] = 1812433253u * (before ^ (before >> 30)) + (uint32_t)i;
    }
    twister->next = STATE;
}

static void twister_turn(struct twister *twister) {
    uint32_t *state = twister->state;
    for (int i = 0; i < STATE; i++) {
        uint32_t mixed = (state[i] & 0x80000000u) | (state[(i + 1) % STATE] & 0x7fffffffu);
        state[i] = state[(i + SHIFT) % STATE] ^ (mixed >> 1) ^ ((mixed & 1) ? 0x9908b0dfu : 0);
    }
    twister->next = 0;
}

static uint32_t twister_u32(struct twister *twister) {
    if (twister->next == STATE) twister_turn(twister);
    uint32_t value = twister->state[twister->next++];
    value ^= value >> 11;
    value ^= (value << 7) & 0x9d2c5680u;
    value ^= (value << 15) & 0xefc60000u;
    return value ^ (value >> 18);
}

static float to_bf16(double value) {
    return bf16_to_f32(f32_to_bf16((float)value));
}

// Horner's scheme with fused steps.
static float polynomial(const float *factors, int count, float x) {
    float y = factors[0];
    for (int i = 1; i < count; i++) y = fmaf(y, x, factors[i]);
    return y;
}

// log(x) for x in (0, 1], Cephes logf.
static float vector_log(float x) {
    static const float factors[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                                    -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                                    2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    int power;
    x = frexpf(x, &power); // in [0.5, 1)
    if (x < 0.707106781186547524f) {
        power--;
        x += x;
    }
    x -= 1;
    float square = x * x, exponent = (float)power;
    float y = polynomial(factors, 9, x) * x;
    y = fmaf(y, square, exponent * -2.12194440e-4f);
    y = fmaf(-square, 0.5f, y);
    return fmaf(exponent, 0.693359375f, x + y);
}

// sin(x) and cos(x) for x in [0, 2 pi], Cephes sinf and cosf.
static void vector_sine_cosine(float x, float *sine, float *cosine) {
    static const float cosines[] = {2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f};
    static const float sines[] = {-1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f};
    int octant = ((int)(x * 1.27323954473516f) + 1) & ~1;
    float multiple = (float)octant;
    x = fmaf(multiple, -0.78515625f, x);
    x = fmaf(multiple, -2.4187564849853515625e-4f, x);
    x = fmaf(multiple, -3.77489497744594108e-8f, x);
    float square = x * x;
    float even = 1 + fmaf(polynomial(cosines, 3, square) * square, square, -(square * 0.5f));
    float odd = fmaf(polynomial(sines, 3, square) * square, x, x);
    bool swapped = (octant & 2) != 0;
    *sine = ((octant & 4) ? -1 : 1) * (swapped ? even : odd);
    *cosine = (((octant + 2) & 4) ? -1 : 1) * (swapped ? odd : even);
}

// Uniform in [0, 1).
static float uniform(struct twister *twister) {
    return (float)(twister_u32(twister) & 0xffffffu) * 0x1p-24f;
}

// 16 uniforms become 16 normal values: pairs (j, j + 8).
static void normal_block(float *block) {
    for (int j = 0; j < HALF; j++) {
        float radius = sqrtf(-2 * vector_log(1 - block[j])), sine, cosine;
        vector_sine_cosine(6.28318530717958647692f * block[j + HALF], &sine, &cosine);
        block[j] = radius * cosine;
        block[j + HALF] = radius * sine;
    }
}

// Fewer than 16 values come one pair at a time from doubles of 53 bits.
static void fill_few(struct twister *twister, enum noise_kind kind, float *out, size_t count) {
    for (size_t i = 0; i < count; i += 2) {
        double uniforms[2];
        for (int k = 0; k < 2; k++) {
            uint64_t high = twister_u32(twister), low = twister_u32(twister);
            uniforms[k] = (double)(((high << 32) | low) & ((1ull << 53) - 1)) * 0x1p-53;
        }
        double radius = sqrt(-2 * log1p(-uniforms[1])), angle = 6.28318530717958647692 * uniforms[0];
        double pair[2] = {radius * cos(angle), radius * sin(angle)};
        for (size_t k = 0; k < 2 && i + k < count; k++)
            out[i + k] = kind == NOISE_F32 ? (float)pair[k] : to_bf16(pair[k]);
    }
}

void noise_fill(enum noise_kind kind, uint64_t seed, float *out, size_t count) {
    struct twister twister;
    twister_seed(&twister, seed);
    if (count < BLOCK) {
        fill_few(&twister, kind, out, count);
        return;
    }
    size_t whole = count - count % BLOCK;
    // In f32 the values behind the last whole block take uniforms too, before they are drawn again; in bf16 not.
    for (size_t i = 0; i < (kind == NOISE_F32 ? count : whole); i++) out[i] = uniform(&twister);
    for (size_t i = 0; i < whole; i += BLOCK) normal_block(out + i);
    if (whole != count) {
        // The last 16 values are drawn (again) as a block of their own.
        float *last = out + count - BLOCK;
        for (int j = 0; j < BLOCK; j++) last[j] = uniform(&twister);
        normal_block(last);
    }
    if (kind == NOISE_BF16)
        for (size_t i = 0; i < count; i++) out[i] = to_bf16((double)out[i]);
}
