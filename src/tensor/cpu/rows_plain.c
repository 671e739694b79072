// Row kernels in plain C: the oracle of the vector versions, and what runs where there is none. Sums run in sixteen
// lanes so that a compiler may use vectors. Relies on rows.h, math.h.
#include "tensor/cpu/rows.h"
#include "tensor/cpu/math.h"

#include <math.h>
#include <string.h>

enum { LANES = 16 };

static float sum_lanes(float *lanes) {
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

static float sum_row(const float *x, int64_t count) {
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += x[i + k];
    for (; i < count; i++) lanes[i % LANES] += x[i];
    return sum_lanes(lanes);
}

static float sum_squares(const float *x, float mean, int64_t count) {
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += (x[i + k] - mean) * (x[i + k] - mean);
    for (; i < count; i++) lanes[i % LANES] += (x[i] - mean) * (x[i] - mean);
    return sum_lanes(lanes);
}

static void layer_norm(const float *x, int64_t cols, float eps, const float *scale, const float *shift,
                       void *y, enum dtype type) {
    const float mean = sum_row(x, cols) / (float)cols;
    const float inverse = 1.0f / sqrtf(sum_squares(x, mean, cols) / (float)cols + eps);
    for (int64_t i = 0; i < cols; i++) {
        float value = (x[i] - mean) * inverse;
        if (scale) value *= 1.0f + scale[i];
        if (shift) value += shift[i];
        math_store(y, type, i, value);
    }
}

static void rms_norm(const float *x, int64_t cols, float eps, const float *weight, void *y, enum dtype type) {
    const float inverse = 1.0f / sqrtf(sum_squares(x, 0, cols) / (float)cols + eps);
    for (int64_t i = 0; i < cols; i++) math_store(y, type, i, x[i] * inverse * weight[i]);
}

static void norm_rope(void *x, enum dtype type, int heads, int64_t head_dim, const float *weight, float eps,
                      const float *cosines, const float *sines, enum rope_pairing pairing) {
    const int64_t half = head_dim / 2;
    for (int head = 0; head < heads; head++) {
        const int64_t base = head * head_dim;
        float inverse = 1;
        if (weight) {
            float lanes[LANES] = {0};
            for (int64_t i = 0; i < head_dim; i++) {
                const float value = math_load(x, type, base + i);
                lanes[i % LANES] += value * value;
            }
            inverse = 1.0f / sqrtf(sum_lanes(lanes) / (float)head_dim + eps);
        }
        for (int64_t i = 0; i < half; i++) {
            const int64_t first = pairing == ROPE_INTERLEAVED ? 2 * i : i;
            const int64_t second = pairing == ROPE_INTERLEAVED ? 2 * i + 1 : i + half;
            float a = math_load(x, type, base + first), b = math_load(x, type, base + second);
            if (weight) {
                a *= inverse * weight[first];
                b *= inverse * weight[second];
            }
            const float cosine = cosines ? cosines[i] : 1, sine = sines ? sines[i] : 0;
            math_store(x, type, base + first, a * cosine - b * sine);
            math_store(x, type, base + second, b * cosine + a * sine);
        }
    }
}

static void silu(const void *x, enum dtype from, void *y, enum dtype to, int64_t count) {
    for (int64_t i = 0; i < count; i++) math_store(y, to, i, math_silu(math_load(x, from, i)));
}

static void copy(const void *x, enum dtype from, void *y, enum dtype to, int64_t count) {
    if (from == to)
        memcpy(y, x, dtype_bytes(from, count));
    else
        for (int64_t i = 0; i < count; i++) math_store(y, to, i, math_load(x, from, i));
}

static void add(const float *x, float factor, float *y, int64_t count) {
    for (int64_t i = 0; i < count; i++) y[i] += factor * x[i];
}

static void moments(const void *x, enum dtype type, int64_t pixels, int64_t channels, const float *pivot,
                    double *sums, double *squares) {
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < channels; c++) {
            const double value = (double)math_load(x, type, p * channels + c) - (double)pivot[c];
            sums[c] += value;
            squares[c] += value * value;
        }
}

static void scale_shift(const void *x, enum dtype from, int64_t pixels, int64_t channels, const float *scale,
                        const float *shift, bool with_silu, void *y, enum dtype to) {
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < channels; c++) {
            const int64_t i = p * channels + c;
            const float value = math_load(x, from, i) * scale[c] + shift[c];
            math_store(y, to, i, with_silu ? math_silu(value) : value);
        }
}

static void prepare_unit(const struct conv_prepare *job, int64_t pixel, int64_t first, char *to) {
    const int count = job->channels - first < CONV_UNIT ? (int)(job->channels - first) : CONV_UNIT;
    float values[CONV_UNIT] = {0};
    for (int k = 0; k < count; k++)
        values[k] = math_load(job->x, job->type, pixel * job->channels + first + k);
    if (job->scale)
        for (int k = 0; k < count; k++) values[k] = values[k] * job->scale[first + k] + job->shift[first + k];
    if (job->silu)
        for (int k = 0; k < count; k++) values[k] = math_silu(values[k]);
    for (int k = 0; k < CONV_UNIT; k++)
        math_store(to, job->element, k, job->round ? bf16_to_f32(f32_to_bf16(values[k])) : values[k]);
}

static void prepare(const struct conv_prepare *job) {
    const size_t unit = dtype_bytes(job->element, CONV_UNIT);
    for (int64_t p = 0; p < job->pixels; p++)
        for (int64_t c = 0; c < job->channels; c += CONV_UNIT)
            prepare_unit(job, p, c, job->to + (size_t)(c / CONV_UNIT) * job->plane + (size_t)p * unit);
}

static void finish(const struct conv_finish *job) {
    for (int64_t p = 0; p < job->pixels; p++)
        for (int64_t c = 0; c < job->channels; c++) {
            float value = job->c[p * job->c_stride + c];
            if (job->bias) value += job->bias[c];
            if (job->residual) value += math_load(job->residual, job->type, p * job->y_stride + c);
            math_store(job->y, job->type, p * job->y_stride + c, value);
        }
}

const struct row_kernels rows_plain = {
    .layer_norm = layer_norm,
    .rms_norm = rms_norm,
    .norm_rope = norm_rope,
    .silu = silu,
    .copy = copy,
    .add = add,
    .moments = moments,
    .scale_shift = scale_shift,
    .prepare = prepare,
    .finish = finish,
};
