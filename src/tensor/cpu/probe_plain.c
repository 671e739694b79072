// The plain loop of the ceiling. Relies on probe.h.
#include "tensor/cpu/probe.h"

double probe_round_plain(void) {
    enum { LANES = 32, STEPS = 20000 };
    volatile float seed = 0.5f;
    float sums[LANES], factor = seed;
    for (int i = 0; i < LANES; i++) sums[i] = seed;
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < LANES; i++) sums[i] = sums[i] * factor + factor;
    for (int i = 0; i < LANES; i++) seed = seed + sums[i];
    return 2.0 * LANES * STEPS;
}
