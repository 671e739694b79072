// Statistics of group normalisation. Relies on cpu.h, rows.h.
//
// A map is read once. It is cut into pieces of a fixed number of pixels; in a piece each channel's sums of x - p and
// (x - p)^2 are taken, p being the piece's first pixel, so that nothing is lost where the mean is far from zero; sums
// over more than a few pixels are f64. The pieces' means and squared deviations are then joined in order (Chan, Golub,
// LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979).
#include "tensor/cpu/rows.h"

#include <assert.h>
#include <math.h>

enum { PIECE_VALUES = 1 << 17 }; // about so many values a piece

struct spread {
    double mean, squares; // squares: sum of squared deviations from the mean
};

struct moments_job {
    const struct row_kernels *kernels;
    const struct device *device;
    const struct feature_map *x;
    int groups;
    int64_t pieces, pixels; // pieces a map, pixels a piece
    struct spread *spreads; // [batch, pieces, groups]
};

static void join(struct spread *to, double *to_count, struct spread from, double count) {
    const double all = *to_count + count, delta = from.mean - to->mean;
    to->mean += delta * (count / all);
    to->squares += from.squares + delta * delta * (*to_count * count / all);
    *to_count = all;
}

static void moments_task(void *context, int64_t index, int worker) {
    const struct moments_job *job = context;
    const struct feature_map *x = job->x;
    const int64_t batch = index / job->pieces, first = index % job->pieces * job->pixels;
    const int64_t area = x->height * x->width, channels = x->channels;
    const int64_t count = area - first < job->pixels ? area - first : job->pixels;
    const char *data = (const char *)x->data + dtype_bytes(x->type, (batch * area + first) * channels);
    double *sums = cpu_scratch(job->device, worker), *squares = sums + channels;
    float *pivot = (float *)(squares + channels);
    for (int64_t c = 0; c < channels; c++) sums[c] = squares[c] = 0;
    job->kernels->copy(data, x->type, pivot, DTYPE_F32, channels);
    job->kernels->moments(data, x->type, count, channels, pivot, sums, squares);
    const int64_t width = channels / job->groups;
    for (int g = 0; g < job->groups; g++) {
        struct spread all = {0};
        double all_count = 0;
        for (int64_t c = g * width; c < (g + 1) * width; c++) {
            const double mean = sums[c] / (double)count;
            const double rest = squares[c] - sums[c] * mean;
            join(&all, &all_count, (struct spread){(double)pivot[c] + mean, rest > 0 ? rest : 0},
                 (double)count);
        }
        job->spreads[index * job->groups + g] = all;
    }
}

// Joins the pieces of one group in one map and returns {mean, 1 / sqrt(variance + eps)}.
static struct spread finish(const struct moments_job *job, int64_t batch, int group, float eps) {
    const int64_t area = job->x->height * job->x->width, width = job->x->channels / job->groups;
    struct spread all = {0};
    double count = 0;
    for (int64_t piece = 0; piece < job->pieces; piece++) {
        const int64_t left = area - piece * job->pixels;
        join(&all, &count, job->spreads[(batch * job->pieces + piece) * job->groups + group],
             (double)((left < job->pixels ? left : job->pixels) * width));
    }
    return (struct spread){all.mean, 1.0 / sqrt(all.squares / count + (double)eps)};
}

void cpu_group_norm(struct device *device, const struct feature_map *x, int groups, float eps,
                    const float *weight, const float *bias, float *scale, float *shift) {
    assert(x->type == DTYPE_F32 || x->type == DTYPE_BF16);
    assert(groups > 0 && x->channels % groups == 0 && x->channels * 20 <= CPU_SCRATCH_BYTES);
    if (device->status.kind != ERROR_NONE) return;
    struct moments_job job = {.kernels = cpu_of(device)->rows, .device = device, .x = x, .groups = groups};
    job.pixels = PIECE_VALUES / x->channels + 1;
    job.pieces = (x->height * x->width + job.pixels - 1) / job.pixels;
    const size_t mark = workspace_mark(device);
    job.spreads = workspace_alloc(device, (size_t)(x->batch * job.pieces * groups) * sizeof *job.spreads);
    if (!job.spreads) return;
    pool_for(device->pool, x->batch * job.pieces, moments_task, &job);
    const int64_t width = x->channels / groups;
    for (int64_t b = 0; b < x->batch; b++)
        for (int g = 0; g < groups; g++) {
            const struct spread result = finish(&job, b, g, eps);
            for (int64_t c = g * width; c < (g + 1) * width; c++) {
                const double factor = (double)weight[c] * result.squares;
                scale[b * x->channels + c] = (float)factor;
                shift[b * x->channels + c] = (float)((double)bias[c] - result.mean * factor);
            }
        }
    workspace_release(device, mark);
}
