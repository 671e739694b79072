// The CPU as a device: which instruction sets there are, the workspace, and memory that is just host memory.
// Relies on cpu.h, gemm_int8.h; Linux (mmap, arch_prctl).
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/gemm_int8.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef LIMN_X86_KERNELS
#include <cpuid.h>
#include <sys/syscall.h>
#endif

static const char *const isa_names[CPU_ISA_COUNT] = {
    [CPU_PLAIN] = "plain",           [CPU_AVX2] = "avx2", [CPU_AVX512] = "avx512",
    [CPU_AVX512BF16] = "avx512bf16", [CPU_AMX] = "amx",
};

const char *cpu_isa_name(enum cpu_isa isa) {
    return isa_names[isa];
}

// ------------------------------------------------------------------------------------------------------- detection

#ifdef LIMN_X86_KERNELS

// Bits of XCR0: what register state the system saves.
enum {
    XSTATE_AVX = 0x06,    // SSE, AVX
    XSTATE_AVX512 = 0xe6, // and opmask, ZMM
    XSTATE_TILES = 0x60000,
};

static uint64_t xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

// Linux gives tile memory to a process only after it asked (arch_prctl(2), ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
static bool tiles_allowed(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

enum cpu_isa cpu_isa_best(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return CPU_PLAIN;
    const bool osxsave = c >> 27 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1, avx = c >> 28 & 1;
    if (!osxsave || !avx || !fma || !f16c || (xcr0() & XSTATE_AVX) != XSTATE_AVX) return CPU_PLAIN;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b >> 5 & 1)) return CPU_PLAIN;
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; // F, DQ, BW, VL
    if ((b & avx512) != avx512 || (xcr0() & XSTATE_AVX512) != XSTATE_AVX512) return CPU_AVX2;
    const bool amx = (d >> 22 & 1) && (d >> 24 & 1); // bf16, tile
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return CPU_AVX512;
    if (!amx || (xcr0() & XSTATE_TILES) != XSTATE_TILES || !tiles_allowed()) return CPU_AVX512BF16;
    return CPU_AMX;
}

#else

enum cpu_isa cpu_isa_best(void) {
    return CPU_PLAIN;
}

#endif

int device_isa_list(const char **names, int capacity) {
    int count = 0;
    for (int isa = (int)cpu_isa_best(); isa >= CPU_PLAIN && count < capacity; isa--)
        names[count++] = isa_names[isa];
    return count;
}

static bool choose_isa(const char *name, enum cpu_isa *isa, struct error *error) {
    const enum cpu_isa best = cpu_isa_best();
    *isa = best;
    if (!name) return true;
    for (int i = CPU_PLAIN; i < CPU_ISA_COUNT; i++) {
        if (strcmp(name, isa_names[i]) != 0) continue;
        *isa = (enum cpu_isa)i;
        if (i <= (int)best) return true;
        return error_set_field(error, ERROR_INPUT, "isa",
                               "instruction set \"%s\" is not present here; the best one is \"%s\"", name,
                               isa_names[best]);
    }
    return error_set_field(
        error, ERROR_INPUT, "isa",
        "unknown instruction set \"%.32s\": expected amx, avx512bf16, avx512, avx2 or plain", name);
}

// ---------------------------------------------------------------------------------------------------- open and close

static void *reserve(size_t bytes) {
    void *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

// Reserves [bytes], or as much as the system's limits on address space allow, but not less than 256 MiB.
static bool workspace_open(struct workspace *workspace, size_t bytes) {
    const size_t least = (size_t)256 << 20;
    if (bytes == 0) bytes = (size_t)64 << 30;
    for (;;) {
        workspace->base = reserve(bytes);
        workspace->size = workspace->base ? bytes : 0;
        if (workspace->base || bytes / 2 < least) return workspace->base != NULL;
        bytes /= 2;
    }
}

struct device *device_open_cpu(const struct device_options *options, struct error *error) {
    enum cpu_isa isa;
    if (!choose_isa(options->isa, &isa, error)) return NULL;
    struct device *device = calloc(1, sizeof *device);
    struct cpu *cpu = calloc(1, sizeof *cpu);
    if (!device || !cpu) {
        free(device);
        free(cpu);
        error_set(error, ERROR_MEMORY, "no memory for a device");
        return NULL;
    }
    device->ops = &cpu_ops;
    device->backend = cpu;
    device->pool = options->pool;
    cpu->isa = isa;
    cpu->gemm = gemm_kernels_for(isa);
    cpu->int8 = int8_kernels_for(isa);
    cpu->rows = row_kernels_for(isa);
    cpu->threads = pool_threads(options->pool);
    cpu->scratch = reserve((size_t)cpu->threads * CPU_SCRATCH_BYTES);
    if (!cpu->scratch || !workspace_open(&device->workspace, options->workspace_bytes)) {
        device_close(device);
        error_set(error, ERROR_MEMORY, "no address space for the activations");
        return NULL;
    }
    return device;
}

void device_close(struct device *device) {
    if (!device) return;
    struct cpu *cpu = device->backend;
    if (cpu->scratch) munmap(cpu->scratch, (size_t)cpu->threads * CPU_SCRATCH_BYTES);
    if (device->workspace.base) munmap(device->workspace.base, device->workspace.size);
    free(cpu);
    free(device);
}

const char *device_isa(const struct device *device) {
    return isa_names[cpu_of(device)->isa];
}

// ----------------------------------------------------------------------------------------------------------- memory

void *device_alloc(struct device *device, size_t bytes, struct error *error) {
    const size_t rounded = (bytes + 63) / 64 * 64;
    void *memory = rounded < bytes ? NULL : aligned_alloc(64, rounded ? rounded : 64);
    if (!memory) {
        error_set(error, ERROR_MEMORY, "no memory for %zu bytes of weights", bytes);
        return NULL;
    }
    return memset(memory, 0, rounded ? rounded : 64);
}

void device_free(struct device *device, void *memory) {
    free(memory);
}

const void *device_weights(struct device *device, const void *host, size_t bytes, struct error *error) {
    return host;
}

void *workspace_alloc(struct device *device, size_t bytes) {
    struct workspace *workspace = &device->workspace;
    const size_t room = workspace->size - workspace->used;
    if (device->status.kind) return NULL;
    if (bytes > room || (bytes + 63) / 64 * 64 > room) {
        error_set(&device->status, ERROR_MEMORY,
                  "the activations need more than the %zu MiB of address space that they have",
                  workspace->size >> 20);
        return NULL;
    }
    void *memory = workspace->base + workspace->used;
    workspace->used += (bytes + 63) / 64 * 64;
    if (workspace->used > workspace->peak) workspace->peak = workspace->used;
    return memory;
}

size_t workspace_mark(const struct device *device) {
    return device->workspace.used;
}

void workspace_release(struct device *device, size_t mark) {
    if (mark < device->workspace.used) device->workspace.used = mark;
}

void workspace_trim(struct device *device) {
    struct workspace *workspace = &device->workspace;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t from = (workspace->used + page - 1) / page * page;
    if (from < workspace->size) madvise(workspace->base + from, workspace->size - from, MADV_DONTNEED);
    workspace->peak = workspace->used;
    const struct cpu *cpu = cpu_of(device);
    madvise(cpu->scratch, (size_t)cpu->threads * CPU_SCRATCH_BYTES, MADV_DONTNEED);
}

void device_upload(struct device *device, void *to, const void *from, size_t bytes) {
    if (!device->status.kind && bytes) memcpy(to, from, bytes);
}

void device_download(struct device *device, void *to, const void *from, size_t bytes) {
    if (!device->status.kind && bytes) memcpy(to, from, bytes);
}

bool device_status(struct device *device, struct error *error) {
    if (!device->status.kind) return true;
    if (error && !error->kind) *error = device->status;
    return false;
}
