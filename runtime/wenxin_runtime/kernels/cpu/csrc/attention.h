// Attention straight from the block table: queries of a group of heads against 64 keys at a time, softmax on the way.
//
// The work is cut into units: a few rows of one sequence times the query heads that share one kv head. A unit's keys
// are cut into parts of 1024, merged in order. Both cuts of the keys are fixed from key 0 on, so a row's result depends
// on nothing but its own sequence up to itself: not on the batch, not on the chunks its prompt came in.
#pragma once
#include "product.h"

enum { KEYS = 64, PART = 1024, MOST_QUERIES = 96 };
enum { MOST_PARTIAL_BYTES = 64 << 20 };

typedef struct {
    int64_t sequence, kv_head;
    int64_t row, rows;  // of the step
    int64_t position;   // of the first row
    int64_t parts;
    int64_t first_part;  // among all units'
} unit;

// Unnormalised results of `queries` rows: the greatest score, the sum of exponentials (by lane), and the weighted sum
// of values, [panel of columns][query][64].
typedef struct {
    float *top, *mass, *values;
} partial;

typedef struct {
    const attention_call *call;
    const unit *units;
    int64_t count, parts;
    int64_t queries, panels;  // most queries of a unit; columns of a head in 64s
    float *partials;         // [parts] where parts are spread over threads, else NULL
    atomic_int_fast64_t next, next_merge;
} attention_job;

INLINE int64_t partial_floats(const attention_job *job) {
    return job->queries * (16 + VL + job->panels * PANEL);
}

static partial partial_at(const attention_job *job, float *memory) {
    float *mass = memory + job->queries * 16;
    return (partial){memory, mass, mass + job->queries * VL};
}

INLINE int64_t group_of(const attention_call *c) { return c->heads / c->kv_heads; }

// Queries as tiles take them, scaled: block after block, [head_dim][queries of the block].
static void pack_queries(const attention_call *c, const unit *u, blocking blocks, float *to) {
    const int64_t group = group_of(c), d = c->head_dim;
    const float scale = 1.0f / sqrtf((float)d);
    float wide[d];
    for (int64_t block = 0; block < blocks.blocks; block++) {
        const int64_t start = block_start(blocks, block), n = block_start(blocks, block + 1) - start;
        for (int64_t i = 0; i < n; i++) {
            const int64_t row = u->row + (start + i) / group, head = u->kv_head * group + (start + i) % group;
            const int64_t at = row * c->q_stride + head * d;
            if (c->dtype == BF16) widen((const uint16_t *)c->q + at, wide, d);
            const float *from = c->dtype == BF16 ? wide : (const float *)c->q + at;
            for (int64_t k = 0; k < d; k++) to[start * d + k * n + i] = from[k] * scale;
        }
    }
}

// Where the keys of tokens [first, first + n) lie; their values are `values_offset` bytes further.
static void find_tokens(const attention_call *c, const unit *u, int64_t first, int64_t n, const char *tokens[KEYS]) {
    const int32_t *table = c->tables + u->sequence * c->table_stride + first / c->block_size;
    const int64_t size = c->dtype == BF16 ? 2 : 4, token_bytes = 2 * c->kv_heads * c->head_dim * size;
    int64_t offset = first % c->block_size;
    for (int64_t i = 0; i < n; table++, offset = 0) {
        const int64_t slot = *table * c->block_size + offset;
        const char *token = (const char *)c->cache + slot * token_bytes + u->kv_head * c->head_dim * size;
        for (; offset < c->block_size && i < n; offset++, i++, token += token_bytes) tokens[i] = token;
    }
}

INLINE int64_t values_offset(const attention_call *c) { return c->kv_heads * c->head_dim * (c->dtype == BF16 ? 2 : 4); }

INLINE void fetch_row(const attention_call *c, const char *row) {
    const int64_t bytes = c->head_dim * (c->dtype == BF16 ? 2 : 4);
    for (int64_t i = 0; i < bytes; i += LINE_BYTES) __builtin_prefetch(row + i, 0, 2);
}

// Keys or values of n tokens as rows of floats; the rows up to KEYS are zeros. `wide` holds converted rows. What is
// needed next, the rows of `next` at `next_offset`, is fetched meanwhile: it lies scattered over the cache.
static void widen_rows(const attention_call *c, const char *tokens[KEYS], int64_t n, int64_t offset,
                       const char *next[KEYS], int64_t next_n, int64_t next_offset, float *wide, const float *zeros,
                       const float *rows[KEYS]) {
    const int64_t d = c->head_dim;
    for (int64_t i = 0; i < next_n; i++) fetch_row(c, next[i] + next_offset);
    for (int64_t i = 0; i < n; i++) {
        rows[i] = (const float *)(tokens[i] + offset);
        if (c->dtype == BF16) {
            widen((const uint16_t *)(tokens[i] + offset), wide + i * d, d);
            rows[i] = wide + i * d;
        }
    }
    for (int64_t i = n; i < KEYS; i++) rows[i] = zeros;
}

// Keys as a panel [head_dim][64 keys].
static void panel_keys(const float *rows[KEYS], int64_t d, float *to) {
    for (int64_t key = 0; key < KEYS; key += VL) {
        int64_t k = 0;
        for (; k + VL <= d; k += VL) {
            vf square[VL];
            UNROLL for (int i = 0; i < VL; i++) square[i] = load(rows[key + i] + k);
            transpose(square);
            UNROLL for (int i = 0; i < VL; i++) store(to + (k + i) * KEYS + key, square[i]);
        }
        for (; k < d; k++) {
            for (int i = 0; i < VL; i++) to[k * KEYS + key + i] = rows[key + i][k];
        }
    }
}

// Values as panels [64 keys][64 columns]; columns beyond the head are zeros.
static void panel_values(const float *rows[KEYS], int64_t d, int64_t panels, float *to) {
    for (int64_t column = 0; column < panels * PANEL; column += PANEL, to += KEYS * PANEL) {
        if (column + PANEL <= d) {
            for (int i = 0; i < KEYS; i++) memcpy(to + i * PANEL, rows[i] + column, PANEL * 4);
            continue;
        }
        memset(to, 0, KEYS * PANEL * 4);
        for (int i = 0; i < KEYS; i++) memcpy(to + i * PANEL, rows[i] + column, (d - column) * 4);
    }
}

static void multiply(enum tile_kind kind, blocking blocks, const float *a, int64_t a_row, const float *b, int64_t k,
                     float *c, int first) {
    const int columns = STEP_OF((int)((blocks.rows + blocks.blocks - 1) / blocks.blocks)) * STRIP;
    for (int column = 0; column < PANEL; column += columns) {
        for (int64_t block = 0; block < blocks.blocks; block++) {
            const int64_t start = block_start(blocks, block), rows = block_start(blocks, block + 1) - start;
            const tile_args args = {.a = a + start * a_row, .b = b + column, .k = k,
                                    .c = c + start * PANEL + column, .first = first};
            tiles[rows][kind](&args);
        }
    }
}

// Turn 64 scores of one query into weights, of which it sees the first `visible`; returns the factor that its results
// so far shrink by.
static float soften(float *scores, int64_t visible, float *top, float *mass) {
    vf s[KEYS / VL], most = all(-INFINITY);
    for (int64_t i = visible < 0 ? 0 : visible; i < KEYS; i++) scores[i] = -INFINITY;
    UNROLL for (int i = 0; i < KEYS / VL; i++) {
        s[i] = load(scores + i * VL);
        most = choose(s[i] > most, s[i], most);
    }
    const float before = *top, block = greatest(most), now = block > before ? block : before;
    if (now == -INFINITY) {  // sees nothing yet: a NaN among the scores must still show
        UNROLL for (int i = 0; i < KEYS / VL; i++) store(scores + i * VL, choose(s[i] == s[i], all(0.0f), s[i]));
        return 1.0f;
    }
    const float shrink = before == now ? 1.0f : exponential(all(before - now))[0];
    vf total = load(mass) * all(shrink);
    UNROLL for (int i = 0; i < KEYS / VL; i++) {
        const vf p = exponential(s[i] - all(now));
        total += p;
        store(scores + i * VL, p);
    }
    store(mass, total);
    *top = now;
    return shrink;
}

typedef struct {
    float *queries, *keys, *values, *scores, *wide, *zeros;
} workspace;

static workspace workspace_of(const attention_job *job, float **rest) {
    const int64_t d = job->call->head_dim, wide = job->panels * PANEL;
    const int64_t sizes[] = {job->queries * d, d * KEYS, wide * KEYS, job->queries * KEYS, KEYS * d, d};
    int64_t total = 2 * partial_floats(job);
    for (int i = 0; i < 6; i++) total += (sizes[i] + 15) / 16 * 16;
    float *at[6], *memory = scratch(SCRATCH_TILE, total * 4);
    for (int i = 0; i < 6; i++) {
        at[i] = memory;
        memory += (sizes[i] + 15) / 16 * 16;
    }
    memset(at[5], 0, d * 4);
    *rest = memory;
    return (workspace){at[0], at[1], at[2], at[3], at[4], at[5]};
}

// One part of a unit's keys.
static void attend_part(const attention_job *job, const unit *u, int64_t part, const workspace *w, partial to) {
    const attention_call *c = job->call;
    const int64_t group = group_of(c), d = c->head_dim, queries = u->rows * group;
    const blocking blocks = block_rows(queries);
    const int64_t end = least((part + 1) * PART, u->position + u->rows);
    for (int64_t i = 0; i < queries; i++) {
        to.top[i] = -INFINITY;
        store(to.mass + i * VL, (vf){0});
    }
    const char *here[KEYS], *next[KEYS];
    const float *rows[KEYS];
    int64_t n = least(KEYS, end - part * PART), next_n;
    if (n > 0) find_tokens(c, u, part * PART, n, here);
    for (int64_t key = part * PART; key < end; key += KEYS, n = next_n) {
        const int first = key == part * PART;
        widen_rows(c, here, n, 0, here, n, values_offset(c), w->wide, w->zeros, rows);
        panel_keys(rows, d, w->keys);
        multiply(T_F32, blocks, w->queries, d, w->keys, d, w->scores, 1);
        for (int64_t i = 0; i < queries; i++) {
            const float shrink =
                soften(w->scores + i * KEYS, u->position + i / group + 1 - key, to.top + i, to.mass + i * VL);
            if (first || shrink == 1.0f) continue;
            for (int64_t panel = 0; panel < job->panels; panel++) {
                float *values = to.values + (panel * queries + i) * PANEL;
                for (int k = 0; k < PANEL; k++) values[k] *= shrink;
            }
        }
        next_n = least(KEYS, end - key - KEYS);
        if (next_n > 0) find_tokens(c, u, key + KEYS, next_n, next);
        widen_rows(c, here, n, values_offset(c), next, next_n, 0, w->wide, w->zeros, rows);
        panel_values(rows, d, job->panels, w->values);
        for (int64_t panel = 0; panel < job->panels; panel++) {
            multiply(T_F32_ROWS, blocks, w->scores, KEYS, w->values + panel * KEYS * PANEL, KEYS,
                     to.values + panel * queries * PANEL, first);
        }
        memcpy(here, next, sizeof here);
    }
}

// Add a later part to an earlier one.
static void merge(const attention_job *job, int64_t queries, partial to, partial from) {
    for (int64_t i = 0; i < queries; i++) {
        const float top = from.top[i] > to.top[i] ? from.top[i] : to.top[i];
        const float mine = to.top[i] == top ? 1.0f : exponential(all(to.top[i] - top))[0];
        const float other = from.top[i] == top ? 1.0f : exponential(all(from.top[i] - top))[0];
        store(to.mass + i * VL, load(to.mass + i * VL) * all(mine) + load(from.mass + i * VL) * all(other));
        for (int64_t panel = 0; panel < job->panels; panel++) {
            const int64_t at = (panel * queries + i) * PANEL;
            for (int k = 0; k < PANEL; k++)
                to.values[at + k] = to.values[at + k] * mine + from.values[at + k] * other;
        }
        to.top[i] = top;
    }
}

static void finish(const attention_job *job, const unit *u, partial from) {
    const attention_call *c = job->call;
    const int64_t group = group_of(c), d = c->head_dim, queries = u->rows * group;
    for (int64_t i = 0; i < queries; i++) {
        const float scale = 1.0f / sum(load(from.mass + i * VL));
        const int64_t row = u->row + i / group, head = u->kv_head * group + i % group;
        for (int64_t k = 0; k < d; k++) {
            const float x = from.values[(k / PANEL * queries + i) * PANEL + k % PANEL] * scale;
            const int64_t at = (row * c->heads + head) * d + k;
            if (c->dtype == BF16) ((uint16_t *)c->out)[at] = to_bf16(x);
            else ((float *)c->out)[at] = x;
        }
    }
}

static const unit *unit_of_part(const attention_job *job, int64_t part) {
    int64_t low = 0, high = job->count - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (job->units[middle].first_part <= part) low = middle;
        else high = middle - 1;
    }
    return job->units + low;
}

static void attend_unit(const attention_job *job, const unit *u, const workspace *w, float *memory) {
    const partial all_parts = partial_at(job, memory), next = partial_at(job, memory + partial_floats(job));
    pack_queries(job->call, u, block_rows(u->rows * group_of(job->call)), w->queries);
    attend_part(job, u, 0, w, all_parts);
    for (int64_t part = 1; part < u->parts; part++) {
        attend_part(job, u, part, w, next);
        merge(job, u->rows * group_of(job->call), all_parts, next);
    }
    finish(job, u, all_parts);
}

static void attention_region(void *arg, const team *team) {
    attention_job *job = arg;
    const int64_t group = group_of(job->call);
    float *rest;
    const workspace w = workspace_of(job, &rest);
    if (!job->partials) {
        for (int64_t i; (i = atomic_fetch_add(&job->next, 1)) < job->count;) attend_unit(job, job->units + i, &w, rest);
        return;
    }
    for (int64_t i; (i = atomic_fetch_add(&job->next, 1)) < job->parts;) {
        const unit *u = unit_of_part(job, i);
        pack_queries(job->call, u, block_rows(u->rows * group), w.queries);
        attend_part(job, u, i - u->first_part, &w, partial_at(job, job->partials + i * partial_floats(job)));
    }
    team_wait(team);
    for (int64_t i; (i = atomic_fetch_add(&job->next_merge, 1)) < job->count;) {
        const unit *u = job->units + i;
        float *first = job->partials + u->first_part * partial_floats(job);
        for (int64_t part = 1; part < u->parts; part++)
            merge(job, u->rows * group, partial_at(job, first), partial_at(job, first + part * partial_floats(job)));
        finish(job, u, partial_at(job, first));
    }
}

// List the units of a step; with `units` NULL, only count them.
static int64_t list_units(const attention_call *c, unit *units) {
    const int64_t most = MOST_QUERIES / group_of(c) > 0 ? MOST_QUERIES / group_of(c) : 1;
    int64_t count = 0, parts = 0;
    for (int64_t s = 0; s < c->sequences; s++) {
        for (int64_t row = c->starts[s]; row < c->starts[s + 1]; row += most) {
            const int64_t rows = least(most, c->starts[s + 1] - row);
            const int64_t position = c->lengths[s] - (c->starts[s + 1] - row);
            for (int64_t head = 0; head < c->kv_heads; head++, count++) {
                if (!units) continue;
                units[count] = (unit){s, head, row, rows, position, (position + rows + PART - 1) / PART, parts};
                parts += units[count].parts;
            }
        }
    }
    return count;
}

static void attend(const attention_call *call) {
    const int64_t count = list_units(call, NULL);
    if (count == 0) return;
    unit *units = scratch(SCRATCH_PLAN, count * sizeof(unit));
    list_units(call, units);
    attention_job job = {.call = call, .units = units, .count = count};
    job.parts = units[count - 1].first_part + units[count - 1].parts;
    job.panels = (call->head_dim + PANEL - 1) / PANEL;
    int64_t work = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t queries = units[i].rows * group_of(call);
        if (queries > job.queries) job.queries = queries;
        work += queries * (units[i].position + units[i].rows) * call->head_dim;
    }
    const int64_t bytes = job.parts * partial_floats(&job) * 4;
    if (count < 2 * pool_size() && job.parts > count && bytes <= MOST_PARTIAL_BYTES)
        job.partials = scratch(SCRATCH_SHARED, bytes);
    pool_run(attention_region, &job, work < WORTH_A_TEAM ? 1 : pool_size());
}
