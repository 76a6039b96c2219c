// x @ weight.T on packed weights: packing the rows, and walking over panels, ranges of inputs and blocks of rows.
#pragma once
#include <stdatomic.h>
#include <stdbool.h>

#include "pool.h"
#include "tile.h"

enum { RANGE = 128 };  // inputs that stay in the first-level cache; a multiple of GROUP

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t panels_of(const weight *w) { return (w->out + PANEL - 1) / PANEL; }

static enum tile_kind tile_for(const weight *w, int dtype) {
    if (w->kind == W_F32) return T_F32;
    if (w->kind == W_INT8) return T_INT8;
    return dtype == BF16 && HAS_DOT ? T_BF16_DOT : T_BF16;
}

// Inputs as packed: a multiple of what a tile takes at a time.
static int64_t padded_inputs(const weight *w) {
    const int64_t unit = w->kind == W_INT8 ? GROUP : w->kind == W_BF16 ? 2 : 1;
    return (w->in + unit - 1) / unit * unit;
}

// Rows are cut into blocks of nearly equal height, at most MOST_ROWS.
typedef struct {
    int64_t rows, blocks;
} blocking;
INLINE blocking block_rows(int64_t rows) { return (blocking){rows, (rows + MOST_ROWS - 1) / MOST_ROWS}; }
INLINE int64_t block_start(blocking b, int64_t i) { return b.rows * i / b.blocks; }

// One product with its rows packed: block i at packed + start(i) * (bytes of a row), as tile.h has it for the kind; of
// T_INT8 the scales of all rows follow.
typedef struct {
    const weight *w;
    enum tile_kind kind;
    int dtype, y_dtype;
    blocking blocks;
    int64_t inputs;  // padded
    void *packed;
    matrix x, y;
    const int64_t *row_of;  // packed row to row of x, divided by `shared`; NULL: the same
    int64_t shared;
} product;

INLINE int64_t inputs_per_word(const product *p) { return p->kind == T_BF16_DOT || p->kind == T_INT8 ? 2 : 1; }
INLINE size_t packed_values_bytes(const product *p) { return p->inputs * 4 / inputs_per_word(p); }
INLINE size_t packed_row_bytes(const product *p) {
    return packed_values_bytes(p) + (p->kind == T_INT8 ? p->inputs / GROUP * 4 : 0);
}
INLINE float *packed_scales(const product *p, int64_t start) {
    return (float *)((char *)p->packed + p->blocks.rows * packed_values_bytes(p)) + start * (p->inputs / GROUP);
}

static product product_of(const weight *w, int dtype, matrix x, matrix y) {
    return (product){w, tile_for(w, dtype), dtype, dtype, block_rows(x.rows), padded_inputs(w), NULL, x, y, NULL, 1};
}

INLINE const void *row_at(const product *p, int64_t i) {
    const int64_t row = p->row_of ? p->row_of[i] / p->shared : i;
    return (const char *)p->x.data + row * p->x.stride * (p->dtype == BF16 ? 2 : 4);
}

// Put a row of floats into column r of [inputs][rows].
INLINE void spread(const float *from, float *to, int64_t n, int64_t padded, int rows) {
    for (int64_t k = 0; k < n; k++) to[k * rows] = from[k];
    for (int64_t k = n; k < padded; k++) to[k * rows] = 0;
}

INLINE void spread_pairs(const uint16_t *from, uint32_t *to, int64_t n, int rows) {
    for (int64_t k = 0; k + 1 < n; k += 2) to[k / 2 * rows] = from[k] | (uint32_t)from[k + 1] << 16;
    if (n % 2) to[n / 2 * rows] = from[n - 1];
}

// Round a group of inputs to 16 bits beside their greatest magnitude; a NaN or an infinity makes the scale NaN.
static float quantise_group(const float *from, int32_t *to, int64_t n, int rows) {
    float x[GROUP] = {0};
    memcpy(x, from, n * 4);
    vf most = {0}, poison = {0};
    UNROLL for (int i = 0; i < GROUP; i += VL) {
        const vf part = load(x + i), size = choose(part < all(0), -part, part);
        most = choose(size > most, size, most);
        poison += part - part;
    }
    const float scale = greatest(most) / 32767, inverse = scale > 0 ? 1 / scale : 0;
    const float step = inverse < 3e38f ? inverse : 0;  // of denormal numbers nothing is left
    int32_t whole[GROUP];
    for (int i = 0; i < GROUP; i++) {
        const float scaled = x[i] * step;
        whole[i] = (int32_t)(scaled + (scaled < 0 ? -0.5f : 0.5f));
    }
    for (int i = 0; i < GROUP; i += 4, to += 2 * rows) {
        to[0] = (int32_t)((uint32_t)whole[i + 2] << 16 | (whole[i] & 0xffff));
        to[rows] = (int32_t)((uint32_t)whole[i + 3] << 16 | (whole[i + 1] & 0xffff));
    }
    return scale + sum(poison);
}

static void pack_row(const product *p, const void *row, char *to, float *scales, int rows) {
    const int64_t n = p->w->in;
    if (p->kind == T_BF16_DOT) {
        spread_pairs(row, (uint32_t *)to, n, rows);
        return;
    }
    const float *x = row;
    if (p->dtype == BF16) {
        float *wide = scratch(SCRATCH_ROWS, n * 4);
        widen(row, wide, n);
        x = wide;
    }
    if (p->kind != T_INT8) {
        spread(x, (float *)to, n, p->inputs, rows);
        return;
    }
    for (int64_t k = 0; k < p->inputs; k += GROUP)
        scales[k / GROUP * rows] = quantise_group(x + k, (int32_t *)to + k / 2 * rows, least(GROUP, n - k), rows);
}

static void pack_block(const product *p, int64_t block) {
    const int64_t start = block_start(p->blocks, block), end = block_start(p->blocks, block + 1);
    const int rows = (int)(end - start);
    char *to = (char *)p->packed + start * packed_values_bytes(p);
    for (int r = 0; r < rows; r++) pack_row(p, row_at(p, start + r), to + r * 4, packed_scales(p, start) + r, rows);
}

INLINE void store_row(const product *p, int64_t row, int64_t column, const float *c) {
    const int64_t n = least(PANEL, p->w->out - column);
    float biased[PANEL];
    if (p->w->bias) {
        for (int64_t i = 0; i < n; i++) biased[i] = c[i] + p->w->bias[column + i];
        c = biased;
    }
    const int64_t at = row * p->y.stride + column;
    if (p->y_dtype == BF16) {
        uint16_t *to = (uint16_t *)p->y.data + at;
        if (n == PANEL) narrow(c, to, PANEL);
        else narrow(c, to, n);
    } else {
        memcpy((float *)p->y.data + at, c, n * 4);
    }
}

// Compute 64 outputs of all rows.
static void compute_panel(const product *p, int64_t panel) {
    const int per_word = p->kind == T_INT8 ? 4 : p->kind == T_F32 ? 1 : 2;  // inputs in 4 bytes of weight
    const int tallest = (int)((p->blocks.rows + p->blocks.blocks - 1) / p->blocks.blocks);
    const int columns = STEP_OF(tallest) * STRIP;
    const int64_t range = p->blocks.blocks == 1 && columns == PANEL ? p->inputs : RANGE;
    const uint32_t *weights = (const uint32_t *)p->w->panels + panel * (p->inputs / per_word) * PANEL;
    const float *scales = p->w->scales ? p->w->scales + panel * (p->inputs / GROUP) * PANEL : NULL;
    float *c = scratch(SCRATCH_TILE, p->blocks.rows * PANEL * 4);
    for (int64_t k = 0; k < p->inputs; k += range) {
        for (int column = 0; column < PANEL; column += columns) {
            for (int64_t block = 0; block < p->blocks.blocks; block++) {
                const int64_t start = block_start(p->blocks, block);
                const int rows = (int)(block_start(p->blocks, block + 1) - start);
                const tile_args args = {
                    .a = (const char *)p->packed + (start * p->inputs + k * rows) * 4 / inputs_per_word(p),
                    .a_scales = packed_scales(p, start) + k / GROUP * rows,
                    .b = weights + k / per_word * PANEL + column,
                    .scales = scales ? scales + k / GROUP * PANEL + column : NULL,
                    .k = least(range, p->inputs - k),
                    .c = c + start * PANEL + column,
                    .first = k == 0,
                    .fetch = column == 0 && block == 0,
                };
                tiles[rows][p->kind](&args);
            }
        }
    }
    for (int64_t row = 0; row < p->blocks.rows; row++) store_row(p, row, panel * PANEL, c + row * PANEL);
}

// One row needs no packing where it is what the tile reads already, and else each thread makes its own copy.
static bool pack_single(product *p) {
    if (p->x.rows != 1) return false;
    const bool as_it_is = p->kind == T_BF16_DOT || (p->kind != T_INT8 && p->dtype == F32);
    if (as_it_is && p->w->in == p->inputs) {
        p->packed = (void *)row_at(p, 0);
        return true;
    }
    p->packed = scratch(SCRATCH_SHARED, packed_row_bytes(p));
    pack_block(p, 0);
    return true;
}

typedef struct {
    product product;
    atomic_int_fast64_t next_block, next_panel;
    int64_t chunk;
} linear_job;

static void linear_region(void *arg, const team *team) {
    linear_job *job = arg;
    product mine = job->product;
    if (!pack_single(&mine)) {
        for (int64_t i; (i = atomic_fetch_add(&job->next_block, 1)) < mine.blocks.blocks;) pack_block(&mine, i);
        team_wait(team);
    }
    const int64_t panels = panels_of(mine.w);
    for (int64_t i; (i = atomic_fetch_add(&job->next_panel, job->chunk)) < panels;) {
        for (int64_t panel = i; panel < least(i + job->chunk, panels); panel++) compute_panel(&mine, panel);
    }
}

// Less than this many multiplications are done sooner than a second thread wakes up.
enum { WORTH_A_TEAM = 1 << 16 };

static void linear(const linear_call *call) {
    if (call->x.rows == 0) return;
    linear_job job = {.product = product_of(call->w, call->dtype, call->x, call->y), .chunk = 1};
    if (call->x.rows > 1) job.product.packed = scratch(SCRATCH_SHARED, call->x.rows * packed_row_bytes(&job.product));
    const int threads = call->w->in * call->w->out * call->x.rows < WORTH_A_TEAM ? 1 : pool_size();
    pool_run(linear_region, &job, threads);
}
