// Stored weights to bf16 with AVX512_BF16. Relies on gemm_isa.h, decode_avx512bf16.h.
#include "tensor/cpu/gemm_isa.h"

#include <immintrin.h>

struct out {
    uint16_t *to;
};

static inline __attribute__((always_inline)) struct out advanced(struct out out, int values) {
    out.to += values;
    return out;
}

static inline __attribute__((always_inline)) void put_words(struct out out, int at, __m512i words) {
    _mm512_storeu_si512(out.to + at, words);
}

#include "tensor/cpu/decode_avx512bf16.h"

void gemm_decode_bf16_avx512bf16(const struct stored_row *row, int64_t at, int64_t count, uint16_t *to) {
    if (row->type == DTYPE_F32 || row->type == DTYPE_BF16) {
        gemm_convert_bf16_avx512bf16(row->type, (const char *)row->data + dtype_bytes(row->type, at), count,
                                     to);
        return;
    }
    int64_t done = unpack_row(row, at, count, (struct out){to});
    while (done < count) {
        enum { PIECE = 256 };
        float values[PIECE];
        const int64_t some = count - done < PIECE ? count - done : PIECE;
        stored_decode(row, at + done, some, values);
        gemm_convert_bf16_avx512bf16(DTYPE_F32, values, some, to + done);
        done += some;
    }
}
