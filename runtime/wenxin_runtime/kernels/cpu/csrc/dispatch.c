// The exported functions: choose an instruction set once, then pass every call on to its table.
// build.py defines HAS_<ISA> for each set that the compiler knew.
#define _GNU_SOURCE
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels.h"
#include "pool.h"

#define EXPORT __attribute__((visibility("default")))

extern const kernel_table kernels_baseline;

#if defined(__x86_64__)
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool has_avx512bf16(void) {
    return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

#define OFFER(ISA)                                                                      \
    do {                                                                                \
        extern const kernel_table kernels_##ISA;                                        \
        if (has_##ISA() && (!name || !strcmp(name, #ISA))) return &kernels_##ISA;       \
    } while (0)
#endif

// The best table this CPU can run, or with a name that very one; NULL where there is none.
static const kernel_table *find(const char *name) {
#ifdef HAS_AVX512BF16
    OFFER(avx512bf16);
#endif
#ifdef HAS_AVX512
    OFFER(avx512);
#endif
#ifdef HAS_AVX2
    OFFER(avx2);
#endif
    return !name || !strcmp(name, "baseline") ? &kernels_baseline : NULL;
}

static const kernel_table *chosen = &kernels_baseline;
const kernel_table *kernels_chosen(void) { return chosen; }

// Take an instruction set by name, or with an empty name the best. Returns its name, or NULL where this CPU lacks it.
EXPORT const char *wx_choose(const char *name) {
    const kernel_table *found = find(*name ? name : NULL);
    if (found) chosen = found;
    return found ? found->name : NULL;
}

// Ask for large pages under memory that has not been touched: weights are read end to end in every step, and a walk
// through the page table for every 4 KiB costs a tenth of the bandwidth. It is only advice.
EXPORT void wx_large_pages(void *memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    const uintptr_t page = 2 << 20, start = ((uintptr_t)memory + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)memory + (uintptr_t)bytes) / page * page;
    if (start < end) madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

// Threads of a region, the caller included.
EXPORT void wx_threads(int threads) { pool_resize(threads); }

EXPORT void wx_linear(const weight *w, int dtype, int64_t rows, void *x, int64_t x_stride, void *y, int64_t y_stride) {
    chosen->linear(&(linear_call){w, {rows, x_stride, x}, {rows, y_stride, y}, dtype});
}

EXPORT void wx_norm(int dtype, void *x, void *residual, const void *scale, void *out, int64_t rows, int64_t hidden,
                    float eps) {
    chosen->norm(&(norm_call){x, residual, scale, out, rows, hidden, eps, dtype});
}

EXPORT void wx_rotate_and_write(int dtype, void *qkv, const float *turns, void *cache, const int64_t *slots,
                                int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim) {
    chosen->rotate_and_write(&(rotary_call){qkv, turns, cache, slots, rows, heads, kv_heads, head_dim, dtype});
}

EXPORT void wx_attend(int dtype, const void *q, int64_t q_stride, const void *cache, const int32_t *starts,
                      const int32_t *lengths, const int32_t *tables, int64_t sequences, int64_t table_stride,
                      int64_t block_size, int64_t heads, int64_t kv_heads, int64_t head_dim, void *out) {
    chosen->attend(&(attention_call){q, cache, starts, lengths, tables, out, q_stride, sequences, table_stride,
                                     block_size, heads, kv_heads, head_dim, dtype});
}

EXPORT void wx_silu_and_mul(int dtype, const void *gate_up, void *out, int64_t rows, int64_t width) {
    chosen->silu_and_mul(&(silu_call){gate_up, out, rows, width, dtype});
}

EXPORT void wx_router(const weight *w, const float *correction, int64_t top_k, float norm_min, int dtype, int64_t rows,
                      void *x, int64_t x_stride, int64_t *chosen_experts, void *shares) {
    chosen->router(&(router_call){w, correction, top_k, norm_min, {rows, x_stride, x}, chosen_experts, shares, dtype});
}

EXPORT void wx_experts(const weight *gate_up, const weight *down, int64_t experts, int dtype, int64_t rows, void *x,
                       int64_t top_k, const int64_t *chosen_experts, const void *shares, void *out) {
    const int64_t hidden = gate_up->in, width = down->in;
    chosen->experts(&(experts_call){gate_up, down, experts, hidden, width, rows, top_k, x, chosen_experts, shares, out,
                                    dtype});
}
