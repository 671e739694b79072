// The sigmas of FlowMatchEulerDiscreteScheduler with dynamic shifting of the exponential kind; the exponent is the FLUX.2
// pipeline's empirical one. Relies on base.
#include "flux/schedule.h"

#include <math.h>

// Source: compute_empirical_mu of the reference pipeline: two lines fitted for 10 and 200 steps, between which the number of
// steps interpolates; above 4300 tokens the second alone.
double schedule_mu(int tokens, int steps) {
    double mu_200 = 0.00016927 * tokens + 0.45666666;
    if (tokens > 4300) return mu_200;
    double mu_10 = 8.73809524e-05 * tokens + 1.89833333;
    double slope = (mu_200 - mu_10) / 190.0;
    double base = mu_200 - 200.0 * slope;
    return slope * steps + base;
}

bool schedule_check(int steps, const float *custom, struct error *error) {
    for (int i = 0; i < steps; i++) {
        if (!(custom[i] > 0 && custom[i] <= 1))
            return error_set_field(error, ERROR_INPUT, "sigmas",
                                   "sigmas[%d] is %g, expected a number in (0, 1]", i, (double)custom[i]);
        if (i > 0 && !(custom[i] < custom[i - 1]))
            return error_set_field(
                error, ERROR_INPUT, "sigmas",
                "sigmas[%d] is %g, expected less than the one before it (%g): sigmas must fall", i,
                (double)custom[i], (double)custom[i - 1]);
    }
    return true;
}

bool schedule_make(int tokens, int steps, const float *custom, float *sigmas, float *timesteps,
                   struct error *error) {
    if (steps < 1)
        return error_set_field(error, ERROR_INPUT, "steps", "steps is %d, expected at least 1", steps);
    if (custom && !schedule_check(steps, custom, error)) return false;
    // The reference computes the exponential in double and the rest in f32.
    float factor = (float)exp(schedule_mu(tokens, steps));
    double spacing = steps > 1 ? (1.0 / steps - 1.0) / (steps - 1) : 0;
    for (int i = 0; i < steps; i++) {
        float sigma = custom ? custom[i] : (float)(i == steps - 1 ? 1.0 / steps : 1.0 + i * spacing);
        sigma = factor / (factor + (1 / sigma - 1));
        sigmas[i] = sigma;
        timesteps[i] = sigma * 1000;
    }
    sigmas[steps] = 0;
    return true;
}
