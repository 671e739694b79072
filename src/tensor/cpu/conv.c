// Convolutions as products (gemm.h) without a copy of the map. Relies on cpu.h, gemm.h, rows.h.
//
// DESIGN. The output is cut into bands of columns and rows; a task makes one. It walks down its band a few rows at a
// time and keeps the input rows that these need in a strip in its scratch memory (and so in its cache): normalised,
// activated, rounded, with the zero border in place, each input row once. The strip lies as
// [units of 32 channels][rows][columns][32]: a pixel's unit is one run of memory, and for each unit and tap of the kernel
// all pixels of the strip are the rows of one segment of a product, shifted by the tap. A product runs straight on
// from one row of the strip to the next; what it makes of the border columns between them is not looked at. Where
// there are few channels it takes some segments at a time and adds up, so that their panels stay in the first-level
// cache while the pixels pass (with more channels adding up costs as much as it saves).
//
// A doubled input is never made. The pixels of the doubled map with even and odd coordinates are four convolutions of
// the map itself with 2x2 kernels, whose weights are sums of those that meet the same value: 4/9 of the work. They are
// the four phases of such a convolution; all others have one.
//
// Few input channels would leave most of a unit empty: then the taps of a pixel are gathered side by side ("patches")
// and the kernel is one tap of 9 * in channels.
#include "tensor/cpu/gemm.h"
#include "tensor/cpu/rows.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum {
    GATHER_CHANNELS_MOST = 8, // input channels up to which taps are gathered
    BAND_COLUMNS = 64,        // a band has at most so many columns, in outputs of one phase
    BAND_ROWS = 64,
    BAND_ROWS_LEAST = 8,
    STEP_ROWS = 8, // rows at a time
    PANELS_A_CALL = 2,
    SEGMENTS_MOST = 36,      // up to so many they are taken SEGMENTS_A_CALL at a time
    SEGMENTS_A_CALL = 12,    // of 32 x 32 bf16 in two panels: 24 KB
    STRIP_BYTES = 768 << 10, // of a strip, where the least number of rows leaves a choice
};

struct layout {
    enum dtype element;
    bool round; // f32 elements that stand for bf16
    bool gather;
    int phases, taps;     // taps: of each phase
    int64_t units;        // of 32 channels
    int64_t panels;       // of 16 outputs
    int64_t panel_values; // a panel in one phase: [units][taps][32 x 16]
};

static struct layout layout_of(const struct device *device, const struct conv *conv) {
    const struct gemm_kernels *gemm = cpu_of(device)->gemm;
    struct layout layout = {.element = gemm_element(gemm, conv->compute), .phases = 1};
    layout.round = conv->compute != COMPUTE_F32 && layout.element == DTYPE_F32;
    layout.gather = conv->kernel == 3 && !conv->upsample2 && conv->in <= GATHER_CHANNELS_MOST;
    layout.taps = conv->kernel * conv->kernel;
    int64_t channels = conv->in;
    if (conv->upsample2) {
        layout.phases = layout.taps = 4;
    } else if (layout.gather) {
        channels *= layout.taps;
        layout.taps = 1;
    }
    layout.units = (channels + CONV_UNIT - 1) / CONV_UNIT;
    layout.panels = (conv->out + GEMM_LANES - 1) / GEMM_LANES;
    layout.panel_values = layout.units * layout.taps * CONV_UNIT * GEMM_LANES;
    return layout;
}

// ------------------------------------------------------------------------------------------------------- weights

struct pack_job {
    const struct device *device;
    const struct conv *conv;
    const struct tensor *weights;
    struct layout layout;
    atomic_bool bad; // a weight is not finite
};

// The weight of one output that depth [d] of (phase, unit, tap) meets; w: that output's [in, kernel, kernel].
static float weight_at(const struct pack_job *job, const float *w, int phase, int64_t unit, int tap, int d) {
    const struct conv *conv = job->conv;
    int64_t channel = unit * CONV_UNIT + d;
    if (job->layout.gather) { // depths run over taps, then channels
        if (channel >= 9 * conv->in) return 0;
        return w[channel % conv->in * 9 + channel / conv->in];
    }
    if (channel >= conv->in) return 0;
    if (!conv->upsample2) return w[channel * job->layout.taps + tap];
    // Tap (0, 1) of phase 0 stands for kernel rows {0}, {1, 2}, of phase 1 for {0, 1}, {2}; the same across.
    float sum = 0;
    for (int ky = 0; ky < 3; ky++)
        for (int kx = 0; kx < 3; kx++)
            if ((ky + (phase / 2 ? 0 : 1)) / 2 == tap / 2 && (kx + (phase % 2 ? 0 : 1)) / 2 == tap % 2)
                sum += w[channel * 9 + ky * 3 + kx];
    return sum;
}

static void pack_value(const struct pack_job *job, void *block, int d, int lane, float value) {
    if (job->layout.element == DTYPE_BF16)
        ((uint16_t *)block)[(d / 2 * GEMM_LANES + lane) * 2 + d % 2] = f32_to_bf16(value);
    else
        ((float *)block)[d * GEMM_LANES + lane] = job->layout.round ? bf16_to_f32(f32_to_bf16(value)) : value;
}

// One panel of all phases. Panels whose weights do not fit into scratch at once are decoded an output at a time.
static void pack_task(void *context, int64_t panel, int worker) {
    struct pack_job *job = context;
    const struct layout *layout = &job->layout;
    const struct conv *conv = job->conv;
    const int64_t values = conv->in * conv->kernel * conv->kernel;
    float *w = cpu_scratch(job->device, worker);
    for (int lane = 0; lane < GEMM_LANES; lane++) {
        const int64_t out = panel * GEMM_LANES + lane;
        if (out >= conv->out) continue; // packed memory is zero already
        tensor_decode_row(job->weights, out, w);
        float magnitude = 0;
        for (int64_t i = 0; i < values; i++) magnitude += fabsf(w[i]) * 1e-9f;
        if (!isfinite(magnitude)) atomic_store(&job->bad, true);
        for (int phase = 0; phase < layout->phases; phase++) {
            char *to = (char *)conv->packed +
                       dtype_bytes(layout->element, (phase * layout->panels + panel) * layout->panel_values);
            for (int64_t unit = 0; unit < layout->units; unit++)
                for (int tap = 0; tap < layout->taps; tap++) {
                    for (int d = 0; d < CONV_UNIT; d++)
                        pack_value(job, to, d, lane, weight_at(job, w, phase, unit, tap, d));
                    to += dtype_bytes(layout->element, CONV_UNIT * GEMM_LANES);
                }
        }
    }
}

bool cpu_conv_pack(struct device *device, struct conv *conv, const struct tensor *weights,
                   struct error *error) {
    assert(weights->rank == 4 && weights->shape[0] == conv->out && weights->shape[1] == conv->in);
    assert(weights->shape[2] == conv->kernel && weights->shape[3] == conv->kernel);
    assert(conv->kernel == 1 || conv->kernel == 3);
    assert(!conv->upsample2 || (conv->kernel == 3 && conv->stride == 1 && conv->padding == CONV_SAME));
    assert(conv->stride == 1 || (conv->kernel == 3 && conv->padding == CONV_RIGHT_BOTTOM));
    assert(dtype_bytes(DTYPE_F32, conv->in * 9) <= CPU_SCRATCH_BYTES);
    const int64_t weights_a_row = conv->in * conv->kernel * conv->kernel;
    float none;
    const struct stored_row row = tensor_row(weights, 0);
    if (weights_a_row % stored_step(weights->type) || !stored_decode(&row, 0, 0, &none))
        return error_set(error, ERROR_INPUT,
                         "weights of a convolution are %s, %lld for an output: expected %s",
                         dtype_info(weights->type)->name, (long long)weights_a_row,
                         stored_step(weights->type) > 1 ? "whole blocks" : "real numbers");
    struct pack_job job = {device, conv, weights, layout_of(device, conv), false};
    const int64_t values = job.layout.phases * job.layout.panels * job.layout.panel_values;
    conv->packed = device_alloc(device, dtype_bytes(job.layout.element, values), error);
    if (!conv->packed) return false;
    pool_for(device->pool, job.layout.panels, pack_task, &job);
    if (!atomic_load(&job.bad)) return true;
    device_free(device, conv->packed);
    conv->packed = NULL;
    return error_set(error, ERROR_INPUT, "a weight is not a finite number");
}

// --------------------------------------------------------------------------------------------------- convolution

struct conv_job {
    const struct device *device;
    const struct conv *conv;
    const struct feature_map *x, *residual;
    const struct conv_input *input;
    struct feature_map *y;
    struct layout layout;
    int64_t height, width;          // outputs of one phase
    int64_t columns, rows;          // of a band
    int64_t across, down;           // bands
    int64_t step;                   // rows at a time
    int64_t slots, slot_width;      // of the strip: rows, and pixels a row
    int64_t c_width;                // pixels from a row of sums to the next
    int64_t strip_units, pad;       // units of the strip (before gathering); border on the left and top
    size_t pixel_bytes, unit_bytes; // of the strip: a pixel of one unit; all of one unit
    size_t patch_bytes;             // a pixel's gathered patch
};

struct band {
    const struct conv_job *job;
    int64_t batch, top, left, rows, columns; // in outputs of one phase
    int64_t strip_first;                     // input row at the top of the strip
    int64_t prepared;                        // first input row that is not in the strip yet
    char *strip, *patches;
    float *c; // [step, c_width, PANELS_A_CALL * GEMM_LANES]
    struct gemm_segment *segments;
};

static char *strip_row(const struct band *band, int64_t unit, int64_t row) {
    const struct conv_job *job = band->job;
    return band->strip + (size_t)unit * job->unit_bytes +
           (size_t)((row - band->strip_first) * job->slot_width) * job->pixel_bytes;
}

// Moves the strip down so that input row [row] is at its top; rows that are still needed come along.
static void move_strip(struct band *band, int64_t row) {
    const struct conv_job *job = band->job;
    const int64_t kept = band->prepared > row ? band->prepared - row : 0;
    const size_t bytes = (size_t)(kept * job->slot_width) * job->pixel_bytes;
    for (int64_t unit = 0; unit < job->strip_units && kept > 0; unit++)
        memmove(strip_row(band, unit, band->strip_first), strip_row(band, unit, row), bytes);
    band->strip_first = row;
}

// Brings input row [row] of the band's columns into the strip; zeros where the map ends.
static void prepare_row(const struct band *band, int64_t row) {
    const struct conv_job *job = band->job;
    const struct feature_map *x = job->x;
    const int64_t left = band->left * job->conv->stride - job->pad;
    const int64_t first = left < 0 ? 0 : left;
    const int64_t end = left + job->slot_width < x->width ? left + job->slot_width : x->width;
    const bool inside = row >= 0 && row < x->height && first < end;
    const size_t before = inside ? (size_t)(first - left) * job->pixel_bytes : 0;
    const size_t filled = inside ? (size_t)(end - first) * job->pixel_bytes : 0;
    for (int64_t unit = 0; unit < job->strip_units; unit++) {
        char *to = strip_row(band, unit, row);
        memset(to, 0, before);
        memset(to + before + filled, 0, (size_t)job->slot_width * job->pixel_bytes - before - filled);
    }
    if (!inside) return;
    const int64_t offset = ((band->batch * x->height + row) * x->width + first) * x->channels;
    struct conv_prepare prepare = {
        .x = (const char *)x->data + dtype_bytes(x->type, offset),
        .type = x->type,
        .pixels = end - first,
        .channels = x->channels,
        .element = job->layout.element,
        .round = job->layout.round,
        .to = strip_row(band, 0, row) + before,
        .plane = job->unit_bytes,
    };
    if (job->input) {
        prepare.scale = job->input->scale ? job->input->scale + band->batch * x->channels : NULL;
        prepare.shift = job->input->shift ? job->input->shift + band->batch * x->channels : NULL;
        prepare.silu = job->input->silu;
    }
    cpu_of(job->device)->rows->prepare(&prepare);
}

// Writes the patches of output row [y], the [index]th of the step: for each column the taps' channels one behind the
// other.
static void gather_row(const struct band *band, int64_t y, int64_t index) {
    const struct conv_job *job = band->job;
    const size_t bytes = dtype_bytes(job->layout.element, job->conv->in);
    char *to = band->patches + (size_t)(index * job->c_width) * job->patch_bytes;
    for (int64_t column = 0; column < band->columns; column++, to += job->patch_bytes) {
        memset(to + 9 * bytes, 0, job->patch_bytes - 9 * bytes);
        for (int tap = 0; tap < 9; tap++)
            memcpy(to + (size_t)tap * bytes,
                   strip_row(band, 0, y * job->conv->stride - job->pad + tap / 3) +
                       (size_t)(column * job->conv->stride + tap % 3) * job->pixel_bytes,
                   bytes);
    }
}

// All segments of a step, the sums starting with output row [y] of one phase, the panels from [panel] on.
static int make_segments(const struct band *band, int64_t y, int64_t index, int phase, int64_t panel) {
    const struct conv_job *job = band->job;
    const struct layout *layout = &job->layout;
    const char *panels =
        (const char *)job->conv->packed +
        dtype_bytes(layout->element, (phase * layout->panels + panel) * layout->panel_values);
    const size_t step = dtype_bytes(layout->element, CONV_UNIT * GEMM_LANES);
    struct gemm_segment *to = band->segments;
    if (layout->gather) {
        *to =
            (struct gemm_segment){band->patches + (size_t)(index * job->c_width) * job->patch_bytes, panels};
        return 1;
    }
    const int side = job->conv->upsample2 ? 2 : job->conv->kernel;
    const int row_shift = job->conv->upsample2 ? phase / 2 : 0, shift = job->conv->upsample2 ? phase % 2 : 0;
    const int64_t first = y * job->conv->stride - job->pad + row_shift;
    for (int64_t unit = 0; unit < layout->units; unit++)
        for (int ky = 0; ky < side; ky++) {
            const char *row = strip_row(band, unit, first + ky) + (size_t)shift * job->pixel_bytes;
            for (int kx = 0; kx < side; kx++, panels += step)
                *to++ = (struct gemm_segment){row + (size_t)kx * job->pixel_bytes, panels};
        }
    return (int)(to - band->segments);
}

// Sums of [rows] output rows from [y] on, the [index]th of the step, for up to PANELS_A_CALL panels.
static void multiply(const struct band *band, int64_t y, int64_t index, int64_t rows, int phase,
                     int64_t panel) {
    const struct conv_job *job = band->job;
    const struct layout *layout = &job->layout;
    const int64_t panels = layout->panels - panel < PANELS_A_CALL ? layout->panels - panel : PANELS_A_CALL;
    const int count = make_segments(band, y, index, phase, panel);
    struct gemm_product product = {
        .row_count = (rows - 1) * job->c_width + band->columns,
        .panel_count = panels,
        .depth = layout->gather ? layout->units * CONV_UNIT : CONV_UNIT,
        .row_stride = layout->gather ? layout->units * CONV_UNIT : job->conv->stride * CONV_UNIT,
        .panel_stride = layout->panel_values,
        .c = band->c + index * job->c_width * PANELS_A_CALL * GEMM_LANES,
        .c_stride = PANELS_A_CALL * GEMM_LANES,
    };
    const int a_call = count <= SEGMENTS_MOST ? SEGMENTS_A_CALL : count;
    for (int first = 0; first < count; first += a_call) {
        product.segments = band->segments + first;
        product.segment_count = count - first < a_call ? count - first : a_call;
        product.accumulate = first > 0;
        gemm_run(cpu_of(job->device)->gemm, layout->element, &product);
    }
}

// Brings the sums of output row [y], the [index]th of the step, to where they belong.
static void finish_row(const struct band *band, int64_t y, int64_t index, int phase, int64_t panel) {
    const struct conv_job *job = band->job;
    const int64_t channel = panel * GEMM_LANES, left = job->conv->out - channel;
    const int64_t scale = job->conv->upsample2 ? 2 : 1;
    const int64_t row = (band->batch * job->height + y) * scale + phase / 2;
    const int64_t pixel = row * job->width * scale + band->left * scale + phase % 2;
    const size_t offset = dtype_bytes(job->y->type, pixel * job->conv->out + channel);
    const struct conv_finish finish = {
        .c = band->c + index * job->c_width * PANELS_A_CALL * GEMM_LANES,
        .c_stride = PANELS_A_CALL * GEMM_LANES,
        .pixels = band->columns,
        .channels = left < PANELS_A_CALL * GEMM_LANES ? left : PANELS_A_CALL * GEMM_LANES,
        .bias = job->conv->bias ? job->conv->bias + channel : NULL,
        .residual = job->residual ? (const char *)job->residual->data + offset : NULL,
        .y = (char *)job->y->data + offset,
        .type = job->y->type,
        .y_stride = job->conv->out * scale,
    };
    cpu_of(job->device)->rows->finish(&finish);
}

// Where pixels do not follow each other at one distance across rows, each row is a product of its own.
static void make_panels(const struct band *band, int64_t first, int64_t end, int phase, int64_t panel) {
    if (band->job->conv->stride == 1) {
        multiply(band, first, 0, end - first, phase, panel);
    } else {
        for (int64_t y = first; y < end; y++) multiply(band, y, y - first, 1, phase, panel);
    }
    for (int64_t y = first; y < end; y++) finish_row(band, y, y - first, phase, panel);
}

static void make_step(struct band *band, int64_t first, int64_t end) {
    const struct conv_job *job = band->job;
    const int64_t need_first = first * job->conv->stride - job->pad;
    const int64_t reach =
        job->conv->kernel; // of one output, in input rows; a doubled input has three as well
    const int64_t need_end = (end - 1) * job->conv->stride - job->pad + reach;
    move_strip(band, need_first);
    for (int64_t row = need_first > band->prepared ? need_first : band->prepared; row < need_end; row++)
        prepare_row(band, row);
    band->prepared = need_end;
    if (job->layout.gather)
        for (int64_t y = first; y < end; y++) gather_row(band, y, y - first);
    for (int phase = 0; phase < job->layout.phases; phase++)
        for (int64_t panel = 0; panel < job->layout.panels; panel += PANELS_A_CALL)
            make_panels(band, first, end, phase, panel);
}

static size_t round_up(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

// Scratch memory of a band in order: segments, C, patches, strip.
static size_t scratch_bytes(const struct conv_job *job, struct band *band, char *scratch) {
    const size_t segments = round_up((size_t)(job->layout.units * job->layout.taps) * sizeof *band->segments);
    const size_t c =
        round_up((size_t)(job->step * job->c_width) * PANELS_A_CALL * GEMM_LANES * sizeof(float));
    const size_t patches = round_up((size_t)(job->step * job->c_width) * job->patch_bytes);
    if (band) {
        band->segments = (struct gemm_segment *)(void *)scratch;
        band->c = (float *)(void *)(scratch + segments);
        band->patches = scratch + segments + c;
        band->strip = band->patches + patches;
    }
    return segments + c + patches + (size_t)job->strip_units * job->unit_bytes;
}

static void band_task(void *context, int64_t index, int worker) {
    const struct conv_job *job = context;
    struct band band = {.job = job};
    scratch_bytes(job, &band, cpu_scratch(job->device, worker));
    band.batch = index / (job->across * job->down);
    band.top = index / job->across % job->down * job->rows;
    band.left = index % job->across * job->columns;
    band.rows = job->height - band.top < job->rows ? job->height - band.top : job->rows;
    band.columns = job->width - band.left < job->columns ? job->width - band.left : job->columns;
    band.strip_first = band.prepared = band.top * job->conv->stride - job->pad;
    for (int64_t y = 0; y < band.rows; y += job->step)
        make_step(&band, band.top + y, band.top + (band.rows - y < job->step ? band.rows : y + job->step));
}

static void set_step(struct conv_job *job, int64_t step) {
    job->step = step;
    job->slots = (step - 1) * job->conv->stride + job->conv->kernel;
    job->slot_width = (job->columns - 1) * job->conv->stride + job->conv->kernel;
    job->unit_bytes = (size_t)(job->slots * job->slot_width) * job->pixel_bytes;
    job->c_width = job->layout.gather || job->conv->stride > 1 ? job->columns : job->slot_width;
}

// How a map is cut. Every output value is summed by itself, so the cut does not show in the result and may follow the
// number of threads: bands are long, which saves border rows, unless that leaves threads without work.
static void plan_bands(struct conv_job *job) {
    const int threads = cpu_of(job->device)->threads;
    job->columns = job->width < BAND_COLUMNS ? job->width : BAND_COLUMNS;
    job->rows = BAND_ROWS;
    job->across = (job->width + job->columns - 1) / job->columns;
    while (job->rows > BAND_ROWS_LEAST &&
           job->x->batch * job->across * ((job->height + job->rows - 1) / job->rows) < 4 * threads)
        job->rows /= 2;
    job->down = (job->height + job->rows - 1) / job->rows;
    set_step(job, 1);
    while (job->step < job->rows && job->step < STEP_ROWS) {
        set_step(job, job->step * 2);
        if ((size_t)job->strip_units * job->unit_bytes <= STRIP_BYTES) continue;
        set_step(job, job->step / 2);
        break;
    }
}

void cpu_conv2d(struct device *device, const struct conv *conv, const struct feature_map *x,
                const struct conv_input *input, const struct feature_map *residual, struct feature_map *y) {
    const int64_t scale = conv->upsample2 ? 2 : 1;
    assert(x->channels == conv->in && y->channels == conv->out && x->batch == y->batch);
    assert(y->height == (x->height * scale) / conv->stride && y->width == (x->width * scale) / conv->stride);
    assert(!residual || residual->type == y->type);
    assert(!input || !input->scale == !input->shift);
    if (device->status.kind != ERROR_NONE || y->height == 0 || y->width == 0) return;
    struct conv_job job = {
        .device = device, .conv = conv, .x = x, .residual = residual, .input = input, .y = y};
    job.layout = layout_of(device, conv);
    job.height = conv->upsample2 ? x->height : y->height;
    job.width = conv->upsample2 ? x->width : y->width;
    job.pad = conv->kernel == 3 && conv->padding == CONV_SAME ? 1 : 0;
    job.strip_units = (conv->in + CONV_UNIT - 1) / CONV_UNIT;
    job.pixel_bytes = dtype_bytes(job.layout.element, CONV_UNIT);
    job.patch_bytes = job.layout.gather ? job.pixel_bytes * (size_t)job.layout.units : 0;
    plan_bands(&job);
    assert(scratch_bytes(&job, NULL, NULL) <= CPU_SCRATCH_BYTES);
    pool_for(device->pool, x->batch * job.across * job.down, band_task, &job);
}
