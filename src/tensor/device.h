// A device: where a model's arithmetic happens. A backend (cpu/, later cuda/) opens one and fills its op table (ops.h).
// Relies on base.
//
// A device belongs to one thread at a time. Memory on it is reached only through ops; `device_upload` and
// `device_download` cross the border. On the CPU device memory is host memory and mapped weights are used in place.
#ifndef LIMN_TENSOR_DEVICE_H
#define LIMN_TENSOR_DEVICE_H

#include "base/error.h"
#include "base/pool.h"
#include "tensor/dtype.h"

#include <stddef.h>
#include <stdint.h>

struct ops;

// In what type products are computed (sums are f32, in 8 bits integers within a group of the depth).
enum compute {
    COMPUTE_F32,  // operands f32
    COMPUTE_BF16, // operands rounded to bf16; weights of a single row may stay as they are stored
    // As COMPUTE_BF16, but linear layers round both operands to 8 bits with a scale for each row and group of the depth, where
    // the backend has such products and there are rows enough. An approximation that is chosen, layer by layer.
    COMPUTE_I8,
};

// What operations write for products to read.
static inline enum dtype compute_dtype(enum compute compute) {
    return compute == COMPUTE_F32 ? DTYPE_F32 : DTYPE_BF16;
}

// Scratch memory of the activations: one reserved range, handed out upwards and given back to a mark. Pages come into
// being when touched and return to the system at workspace_trim().
struct workspace {
    char *base;
    size_t size, used, peak; // bytes
};

struct device {
    const struct ops *ops;
    void *backend; // the backend's own state (cpu: kernels of the chosen instruction set, per-thread scratch)
    struct pool *pool; // host threads; borrowed
    struct workspace workspace;
    struct error status; // the first failure of an op (out of memory, a lost GPU); ops after it do nothing
};

struct device_options {
    struct pool *pool; // required; must outlive the device
    const char *isa;   // CPU: "amx", "avx512bf16", "avx512", "avx2", "plain"; NULL picks the best one present
    size_t
        workspace_bytes; // address space reserved for activations; 0 takes 64 GiB (pages are taken when touched)
};

// Opens the CPU. Fails when [isa] is unknown (the message lists the known ones) or not present in this processor.
struct device *device_open_cpu(const struct device_options *options, struct error *error);
void device_close(struct device *device); // NULL is fine

// The name of the instruction set in use: "amx", ...
const char *device_isa(const struct device *device);

// The instruction sets that this build and this processor offer, best first; returns how many (at most [capacity]).
int device_isa_list(const char **names, int capacity);

// Long-lived device memory (weights that had to be repacked, tables). 64-byte aligned, zeroed. NULL with an error.
void *device_alloc(struct device *device, size_t bytes, struct error *error);
void device_free(struct device *device, void *memory);

// Makes [bytes] at [host] usable as op operands; on the CPU it is [host] itself, not copied (the memory must outlive
// its use); on a GPU a copy owned by the device.
const void *device_weights(struct device *device, const void *host, size_t bytes, struct error *error);

// Takes [bytes] of scratch, 64-byte aligned, content undefined. When the range is full the device's status is set and
// NULL returned. `workspace_mark` and `workspace_release` bracket a use:
//     size_t mark = workspace_mark(device); ... workspace_alloc ...; workspace_release(device, mark);
void *workspace_alloc(struct device *device, size_t bytes);
size_t workspace_mark(const struct device *device);
void workspace_release(struct device *device, size_t mark);
// Gives the pages above what is in use back to the system; between stages and after a request.
void workspace_trim(struct device *device);

// Copies across the border; the download waits for the ops before it.
void device_upload(struct device *device, void *to, const void *from, size_t bytes);
void device_download(struct device *device, void *to, const void *from, size_t bytes);

// Waits for the ops so far; false with the first failure's error.
bool device_status(struct device *device, struct error *error);

#endif
