// The operations one by one at the sizes of the klein-4B shape, on every instruction set that is present (or the one named),
// beside the machine's ceilings; where oneDNN is installed its products stand beside limn's.
//
//     bench_ops [threads [rounds [isa]]]
//     bench_ops stored [threads [rounds [isa]]]     products with weights of every stored type only
//     bench_ops int8 [threads [rounds [isa]]]       linear layers in 8 bits beside bf16, turn by turn, only
#include "base/clock.h"
#include "cli/measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef LIMN_HAVE_DNNL
#include <dnnl.h>

// One product of oneDNN, y [tokens, out] = x [tokens, in] w [out, in]^T, all bf16. packed: the weights in the order that
// oneDNN likes best, made beforehand. Returns false where oneDNN cannot.
static bool dnnl_product(struct measure *measure, int64_t tokens, int64_t in, int64_t out, bool packed) {
    const size_t mark = workspace_mark(measure->device);
    void *x = measure_values(measure, tokens * in, 1), *w = measure_values(measure, in * out, 0.02f);
    void *y = measure_values(measure, tokens * out, 1);
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_memory_desc_t x_desc, w_desc, any_desc, y_desc;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_desc_t primitive_desc;
    dnnl_primitive_t product, reorder;
    dnnl_memory_t x_memory, w_memory, y_memory, packed_memory;
    const dnnl_dims_t x_dims = {tokens, in}, w_dims = {in, out}, y_dims = {tokens, out};
    dnnl_engine_create(&engine, dnnl_cpu, 0);
    dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
    dnnl_memory_desc_init_by_tag(&x_desc, 2, x_dims, dnnl_bf16, dnnl_ab);
    dnnl_memory_desc_init_by_tag(&w_desc, 2, w_dims, dnnl_bf16, dnnl_ba);
    dnnl_memory_desc_init_by_tag(&any_desc, 2, w_dims, dnnl_bf16, dnnl_format_tag_any);
    dnnl_memory_desc_init_by_tag(&y_desc, 2, y_dims, dnnl_bf16, dnnl_ab);
    dnnl_matmul_desc_init(&desc, &x_desc, packed ? &any_desc : &w_desc, NULL, &y_desc);
    if (dnnl_primitive_desc_create(&primitive_desc, &desc, NULL, engine, NULL) != dnnl_success) return false;
    dnnl_primitive_create(&product, primitive_desc);
    dnnl_memory_create(&x_memory, &x_desc, engine, x);
    dnnl_memory_create(&w_memory, &w_desc, engine, w);
    dnnl_memory_create(&y_memory, &y_desc, engine, y);
    dnnl_memory_create(&packed_memory, dnnl_primitive_desc_query_md(primitive_desc, dnnl_query_weights_md, 0),
                       engine, DNNL_MEMORY_ALLOCATE);
    dnnl_primitive_desc_t reorder_desc;
    dnnl_reorder_primitive_desc_create(&reorder_desc, &w_desc, engine,
                                       dnnl_primitive_desc_query_md(primitive_desc, dnnl_query_weights_md, 0),
                                       engine, NULL);
    dnnl_primitive_create(&reorder, reorder_desc);
    const dnnl_exec_arg_t pack[] = {{DNNL_ARG_FROM, w_memory}, {DNNL_ARG_TO, packed_memory}};
    dnnl_primitive_execute(reorder, stream, 2, pack);
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, x_memory},
                                         {DNNL_ARG_WEIGHTS, packed ? packed_memory : w_memory},
                                         {DNNL_ARG_DST, y_memory}};
    double seconds[MEASURE_ROUNDS_MOST + 1];
    for (int i = -1; i < measure->rounds; i++) {
        const double start = clock_seconds();
        dnnl_primitive_execute(product, stream, 3, arguments);
        dnnl_stream_wait(stream);
        if (i >= 0) seconds[i] = clock_seconds() - start;
    }
    char name[96], implementation[64];
    const char *info = "";
    dnnl_primitive_desc_query(primitive_desc, dnnl_query_impl_info_str, 0, (void *)&info);
    snprintf(implementation, sizeof implementation, "%s", info);
    snprintf(name, sizeof name, "  oneDNN %s, %lld: %lld -> %lld (%.20s)", packed ? "packed" : "as stored",
             (long long)tokens, (long long)in, (long long)out, implementation);
    measure_report(measure, name, 2.0 * (double)tokens * (double)in * (double)out, seconds);
    dnnl_primitive_destroy(product);
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(reorder_desc);
    dnnl_primitive_desc_destroy(primitive_desc);
    dnnl_memory_destroy(x_memory);
    dnnl_memory_destroy(w_memory);
    dnnl_memory_destroy(y_memory);
    dnnl_memory_destroy(packed_memory);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    workspace_release(measure->device, mark);
    return true;
}

// Pairs: limn's product, then oneDNN's two ways, at the same sizes.
static void compare(struct measure *measure) {
    static const int64_t sizes[][3] = {
        {768, 3072, 9216}, {1536, 3072, 9216}, {1536, 12288, 3072}, {4608, 3072, 9216}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        measure_linear(measure, sizes[i][0], sizes[i][1], sizes[i][2], EPILOGUE_STORE);
        if (!dnnl_product(measure, sizes[i][0], sizes[i][1], sizes[i][2], false) ||
            !dnnl_product(measure, sizes[i][0], sizes[i][1], sizes[i][2], true))
            puts("  oneDNN has no such product here");
    }
}
#else
static void compare(struct measure *measure) {
    puts("oneDNN is not installed: no comparison");
}
#endif

int main(int count, char **arguments) {
    struct error error = {0};
    const bool stored = count > 1 && strcmp(arguments[1], "stored") == 0;
    const bool int8 = count > 1 && strcmp(arguments[1], "int8") == 0;
    if (stored || int8) arguments++, count--;
    const int threads = count > 1 ? atoi(arguments[1]) : 2, rounds = count > 2 ? atoi(arguments[2]) : 5;
    const char *names[8] = {count > 3 ? arguments[3] : NULL};
    const int isas = count > 3 ? 1 : device_isa_list(names, 8);
    struct pool *pool =
        threads >= 1 && rounds >= 1 && rounds <= MEASURE_ROUNDS_MOST ? pool_open(threads, &error) : NULL;
    if (!pool) {
        fprintf(stderr, "usage: bench_ops [stored|int8] [threads [rounds [isa]]] %s\n", error.message);
        return 2;
    }
    for (int i = 0; i < isas; i++) {
        struct measure measure;
        if (!measure_open(&measure, pool, names[i], rounds, &error)) {
            fprintf(stderr, "%s\n", error.message);
            return 1;
        }
        measure_machine(&measure);
        const bool all = !stored && !int8;
        if (i == 0 && all) compare(&measure);
        if (all) measure_shapes(&measure, false);
        if (!int8) measure_stored(&measure, 512, false);
        if (int8 || (all && i == 0)) measure_int8_shapes(&measure, false);
        measure_close(&measure);
    }
    pool_close(pool);
    return 0;
}
