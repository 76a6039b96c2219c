// The innermost product: a few rows of activations times a panel (64 outputs), over a range of inputs.
//
// Every output is one chain of fused multiply-adds over the inputs (of int8 weights: groups of inputs) in order,
// whatever the number of rows and however the inputs are cut into ranges. So a row's result does not depend on the rows beside it, bit for bit.
#pragma once
#include "kernels.h"
#include "vec.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PV (STRIP / VL)  // vectors per strip of 16 outputs
enum { MOST_STEP = 4 };

// Most rows that a tile's accumulators leave room for in the vector registers, and the strips side by side.
#if VL == 16
enum { MOST_ROWS = 12 };
#define STEP_OF(rows) ((rows) <= 5 ? 4 : 2)
#elif VL == 8
enum { MOST_ROWS = 6 };
#define STEP_OF(rows) ((rows) == 1 ? 4 : (rows) == 2 ? 2 : 1)
#elif defined(__aarch64__)
enum { MOST_ROWS = 6 };
#define STEP_OF(rows) ((rows) == 1 ? 4 : (rows) == 2 ? 2 : 1)
#else
enum { MOST_ROWS = 3 };
#define STEP_OF(rows) ((rows) == 1 ? 2 : 1)
#endif

// The blocks of one product differ in height by one at most, and are walked with one step.
_Static_assert(STEP_OF((MOST_ROWS + 1) / 2) == STEP_OF(MOST_ROWS), "blocks of rows need one step");

// How the activations are packed for each kind of tile.
enum tile_kind { T_F32, T_F32_ROWS, T_BF16, T_BF16_DOT, T_INT8, TILE_KINDS };

// Columns [column, column + STEP * 16) of c [rows][64] gain (or, with `first`, become) a * b.
//   a       [k][rows] floats; T_BF16_DOT: uint32, a pair of inputs each; T_F32_ROWS: [rows][64];
//           T_INT8: [k / 4][2][rows] words of two 16-bit numbers, inputs 0 and 2, then 1 and 3
//   b       the first input's words of the first column
//   k       inputs, a multiple of the kind's packing
//   scales  T_INT8: the weights', as b; a_scales: the activations', [k / 64][rows]
typedef struct {
    const void *a, *b;
    const float *scales, *a_scales;
    int64_t k;
    float *c;
    int first, fetch;
} tile_args;
typedef void tile_function(const tile_args *);

INLINE void take(const int rows, const int vectors, vf acc[MOST_ROWS][MOST_STEP * PV], const tile_args *t) {
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            if (t->first) acc[r][v] = (vf){0};
            else acc[r][v] = load(t->c + r * PANEL + v * VL);
        }
    }
}

INLINE void give(const int rows, const int vectors, vf acc[MOST_ROWS][MOST_STEP * PV], const tile_args *t) {
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < vectors; v++) store(t->c + r * PANEL + v * VL, acc[r][v]);
    }
}

// One input of every row, `apart` floats from row to row, times the panel.
INLINE void multiply_add(const int rows, const int vectors, vf acc[MOST_ROWS][MOST_STEP * PV], const float *a,
                         const int apart, const vf *b) {
    UNROLL for (int r = 0; r < rows; r++) {
        const vf x = all(a[r * apart]);
        UNROLL for (int v = 0; v < vectors; v++) acc[r][v] += x * b[v];
    }
}

// The first to read a panel asks for what comes a few hundred nanoseconds later, in all of its columns.
enum { AHEAD_BYTES = 2048, LINE_BYTES = 64 };
INLINE void fetch_ahead(const tile_args *t, const void *w) {
    if (!t->fetch) return;
    UNROLL for (int i = 0; i < PANEL * 4 / LINE_BYTES; i++)
        __builtin_prefetch((const char *)w + AHEAD_BYTES + i * LINE_BYTES, 0, 2);
}

INLINE void tile_f32(const int rows, const int step, const int by_rows, const tile_args *t) {
    const int vectors = step * PV;
    vf acc[MOST_ROWS][MOST_STEP * PV];
    take(rows, vectors, acc, t);
    const float *a = t->a, *w = t->b;
    for (int64_t k = 0; k < t->k; k++, a += by_rows ? 1 : rows, w += PANEL) {
        vf b[MOST_STEP * PV];
        UNROLL for (int v = 0; v < vectors; v++) b[v] = load(w + v * VL);
        fetch_ahead(t, w);
        multiply_add(rows, vectors, acc, a, by_rows ? PANEL : 1, b);
    }
    give(rows, vectors, acc, t);
}

INLINE void tile_bf16(const int rows, const int step, const tile_args *t) {
    const int vectors = step * PV;
    vf acc[MOST_ROWS][MOST_STEP * PV];
    take(rows, vectors, acc, t);
    const float *a = t->a;
    const uint32_t *w = t->b;
    for (int64_t k = 0; k < t->k; k += 2, a += 2 * rows, w += PANEL) {
        vu pair[MOST_STEP * PV];
        vf b[MOST_STEP * PV];
        UNROLL for (int v = 0; v < vectors; v++) pair[v] = load_u32(w + v * VL);
        fetch_ahead(t, w);
        UNROLL for (int v = 0; v < vectors; v++) b[v] = low_half(pair[v]);
        multiply_add(rows, vectors, acc, a, 1, b);
        UNROLL for (int v = 0; v < vectors; v++) b[v] = high_half(pair[v]);
        multiply_add(rows, vectors, acc, a + rows, 1, b);
    }
    give(rows, vectors, acc, t);
}

// Bytes to pairs of 16-bit numbers within each word: bytes 0 and 2, and bytes 1 and 3, with their signs.
typedef int16_t vs __attribute__((vector_size(VL * 4)));
INLINE vi even_bytes(vu four) { return (vi)((vs)((vu)four << 8) >> 8); }
INLINE vi odd_bytes(vu four) { return (vi)((vs)four >> 8); }

// sum + a.low * b.low + a.high * b.high in each word.
INLINE vi add_pair_products(vi sum, vi a, vi b) {
#if defined(__AVX512VNNI__)
    return (vi)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return sum + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return sum + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return sum + (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return sum + (a >> 16) * (b >> 16) + ((vi)((vu)a << 16) >> 16) * ((vi)((vu)b << 16) >> 16);
#endif
}

// 8-bit weights times 16-bit activations. A group's sum is exact: at most 64 * 127 * 32767 < 2^28.
INLINE void tile_int8(const int rows, const int step, const tile_args *t) {
    const int vectors = step * PV;
    vf acc[MOST_ROWS][MOST_STEP * PV];
    take(rows, vectors, acc, t);
    const int32_t *a = t->a;
    const float *scales = t->scales, *a_scales = t->a_scales;
    const uint32_t *w = t->b;
    for (int64_t k = 0; k < t->k; k += GROUP, scales += PANEL, a_scales += rows) {
        vi group[MOST_ROWS][MOST_STEP * PV];
        UNROLL for (int r = 0; r < rows; r++) {
            UNROLL for (int v = 0; v < vectors; v++) group[r][v] = (vi){0};
        }
        for (int i = 0; i < GROUP; i += 4, a += 2 * rows, w += PANEL) {
            vi even[MOST_STEP * PV], odd[MOST_STEP * PV];
            fetch_ahead(t, w);
            UNROLL for (int v = 0; v < vectors; v++) {
                const vu four = load_u32(w + v * VL);
                even[v] = even_bytes(four);
                odd[v] = odd_bytes(four);
            }
            UNROLL for (int r = 0; r < rows; r++) {
                const vi x = a[r] - (vi){0}, y = a[rows + r] - (vi){0};
                UNROLL for (int v = 0; v < vectors; v++) {
                    group[r][v] = add_pair_products(group[r][v], x, even[v]);
                    group[r][v] = add_pair_products(group[r][v], y, odd[v]);
                }
            }
        }
        UNROLL for (int v = 0; v < vectors; v++) {
            const vf scale = load(scales + v * VL);
            UNROLL for (int r = 0; r < rows; r++)
                acc[r][v] += __builtin_convertvector(group[r][v], vf) * (scale * all(a_scales[r]));
        }
    }
    give(rows, vectors, acc, t);
}

#if defined(__AVX512BF16__)
INLINE void tile_bf16_dot(const int rows, const int step, const tile_args *t) {
    vf acc[MOST_ROWS][MOST_STEP * PV];
    take(rows, step, acc, t);
    const uint32_t *a = t->a, *w = t->b;
    for (int64_t k = 0; k < t->k; k += 2, a += rows, w += PANEL) {
        vu b[MOST_STEP];
        UNROLL for (int v = 0; v < step; v++) b[v] = load_u32(w + v * VL);
        fetch_ahead(t, w);
        UNROLL for (int r = 0; r < rows; r++) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[r]);
            UNROLL for (int v = 0; v < step; v++)
                acc[r][v] = (vf)_mm512_dpbf16_ps((__m512)acc[r][v], x, (__m512bh)b[v]);
        }
    }
    give(rows, step, acc, t);
}
#define HAS_DOT 1
#else
#define HAS_DOT 0
#define tile_bf16_dot tile_bf16
#endif

#define DEFINE_TILES(rows)                                                                                       \
    static void tile_f32_##rows(const tile_args *t) { tile_f32(rows, STEP_OF(rows), 0, t); }                    \
    static void tile_f32_rows_##rows(const tile_args *t) { tile_f32(rows, STEP_OF(rows), 1, t); }               \
    static void tile_bf16_##rows(const tile_args *t) { tile_bf16(rows, STEP_OF(rows), t); }                     \
    static void tile_bf16_dot_##rows(const tile_args *t) { tile_bf16_dot(rows, STEP_OF(rows), t); }             \
    static void tile_int8_##rows(const tile_args *t) { tile_int8(rows, STEP_OF(rows), t); }
#define LIST_TILES(rows) [rows] = {tile_f32_##rows, tile_f32_rows_##rows, tile_bf16_##rows, tile_bf16_dot_##rows, tile_int8_##rows},

#if VL == 16
#define FOR_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#elif VL == 8 || defined(__aarch64__)
#define FOR_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define FOR_ROWS(X) X(1) X(2) X(3)
#endif
FOR_ROWS(DEFINE_TILES)
static tile_function *const tiles[MOST_ROWS + 1][TILE_KINDS] = {FOR_ROWS(LIST_TILES)};
