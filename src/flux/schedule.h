// Sigmas and timesteps: FlowMatchEulerDiscreteScheduler with dynamic shifting, as the FLUX.2 pipeline calls it.
// Relies on base.
#ifndef LIMN_FLUX_SCHEDULE_H
#define LIMN_FLUX_SCHEDULE_H

#include "base/error.h"

// The empirical shift exponent for [tokens] image tokens (references not counted) and [steps] steps.
double schedule_mu(int tokens, int steps);

// Whether [custom] may be handed to schedule_make: [steps] sigmas in (0, 1], each less than the one before. Errors have the
// field "sigmas".
bool schedule_check(int steps, const float *custom, struct error *error);

// sigmas: [steps + 1] f32, the last one 0; timesteps: [steps] f32, 1000 sigma. custom: [steps] sigmas before the shift, in
// (0, 1] and falling, or NULL for linspace(1, 1/steps, steps). The shift e^mu / (e^mu + 1/s - 1) applies to both.
bool schedule_make(int tokens, int steps, const float *custom, float *sigmas, float *timesteps,
                   struct error *error);

#endif
