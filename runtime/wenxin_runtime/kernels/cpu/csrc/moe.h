// Mixture of experts: the router, and the experts' products over rows sorted by expert.
#pragma once
#include "pointwise.h"
#include "product.h"

// Softmax over a row of logits, in place.
static void softmax(float *x, int64_t n) {
    float most = -INFINITY, total = 0;
    for (int64_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    for (int64_t i = 0; i < n; i += VL) {
        float part[VL] = {0};
        const int64_t here = least(VL, n - i);
        memcpy(part, x + i, here * 4);
        store(part, exponential(load(part) - all(most)));
        memcpy(x + i, part, here * 4);
        for (int64_t j = 0; j < here; j++) total += part[j];
    }
    for (int64_t i = 0; i < n; i++) x[i] /= total;
}

// Chooses by corrected score, weighs by the uncorrected one. The first of equals wins.
static void route_row(const router_call *r, float *scores, int64_t row) {
    const int64_t experts = r->w->out;
    int64_t *chosen = r->chosen + row * r->top_k;
    softmax(scores, experts);
    float total = 0;
    for (int64_t k = 0; k < r->top_k; k++) {
        int64_t best = -1;
        for (int64_t e = 0; e < experts; e++) {
            bool taken = false;
            for (int64_t j = 0; j < k; j++) taken |= chosen[j] == e;
            if (!taken && (best < 0 || scores[e] + r->correction[e] > scores[best] + r->correction[best])) best = e;
        }
        chosen[k] = best;
        total += scores[best];
    }
    total = total < r->norm_min ? r->norm_min : total;
    for (int64_t k = 0; k < r->top_k; k++) {
        const float share = scores[chosen[k]] / total;
        if (r->dtype == BF16) ((uint16_t *)r->shares)[row * r->top_k + k] = to_bf16(share);
        else ((float *)r->shares)[row * r->top_k + k] = share;
    }
}

static void router(const router_call *call) {
    if (call->x.rows == 0) return;
    float *logits = scratch(SCRATCH_PLAN, call->x.rows * call->w->out * 4);
    linear_job job = {.product = product_of(call->w, call->dtype, call->x, (matrix){call->x.rows, call->w->out, logits}),
                      .chunk = 1};
    job.product.y_dtype = F32;
    if (call->x.rows > 1) job.product.packed = scratch(SCRATCH_SHARED, call->x.rows * packed_row_bytes(&job.product));
    pool_run(linear_region, &job, call->w->in * call->w->out * call->x.rows < WORTH_A_TEAM ? 1 : pool_size());
    for (int64_t row = 0; row < call->x.rows; row++) route_row(call, logits + row * call->w->out, row);
}

// One expert that is hit: its rows are [start, start + count) of the assignments in order.
typedef struct {
    int64_t expert, start, count;
} hit;

typedef struct {
    const experts_call *call;
    const hit *hits;
    int64_t hit_count;
    const int64_t *order;     // assignments (row * top_k + choice) sorted by expert
    const int64_t *place_of;  // [rows][top_k]: where the row's assignments stand in `order`, by expert
    char *packed_x, *widened, *active, *packed_active, *answers;
    atomic_int_fast64_t next[5];
} experts_job;

INLINE int64_t item(const experts_job *job) { return job->call->dtype == BF16 ? 2 : 4; }

static product up_product(const experts_job *job, const hit *h) {
    const experts_call *c = job->call;
    const matrix x = {h->count, c->hidden, (void *)c->x};
    const matrix y = {h->count, 2 * c->width, job->widened + h->start * 2 * c->width * item(job)};
    product p = product_of(c->gate_up + h->expert, c->dtype, x, y);
    p.row_of = job->order + h->start;
    p.shared = c->top_k;
    p.packed = job->packed_x + h->start * packed_row_bytes(&p);
    return p;
}

static product down_product(const experts_job *job, const hit *h) {
    const experts_call *c = job->call;
    const matrix x = {h->count, c->width, job->active + h->start * c->width * item(job)};
    const matrix y = {h->count, c->hidden, job->answers + h->start * c->hidden * item(job)};
    product p = product_of(c->down + h->expert, c->dtype, x, y);
    p.packed = job->packed_active + h->start * packed_row_bytes(&p);
    return p;
}

static void pack_all(const product *p) {
    for (int64_t block = 0; block < p->blocks.blocks; block++) pack_block(p, block);
}

static void compute_panels(experts_job *job, atomic_int_fast64_t *next, bool up) {
    const int64_t panels = panels_of(up ? job->call->gate_up : job->call->down);
    for (int64_t i; (i = atomic_fetch_add(next, 1)) < job->hit_count * panels;) {
        const hit *h = job->hits + i / panels;
        const product p = up ? up_product(job, h) : down_product(job, h);
        compute_panel(&p, i % panels);
    }
}

static void activate(const experts_job *job, const hit *h) {
    const int64_t width = job->call->width;
    const silu_call silu = {job->widened + h->start * 2 * width * item(job), job->active + h->start * width * item(job),
                            h->count, width, job->call->dtype};
    for (int64_t row = 0; row < h->count; row++) silu_row(&silu, row);
    const product p = down_product(job, h);
    pack_all(&p);
}

static void mix_row(const experts_job *job, int64_t row) {
    const experts_call *c = job->call;
    float *total = scratch(SCRATCH_ROWS, c->hidden * 4);
    memset(total, 0, c->hidden * 4);
    for (int64_t k = 0; k < c->top_k; k++) {
        const int64_t place = job->place_of[row * c->top_k + k];
        if (place < 0) break;  // the row's other experts are not here
        const int64_t assignment = job->order[place];
        if (c->dtype == BF16) {
            const float share = from_bf16(((const uint16_t *)c->shares)[assignment]);
            const uint16_t *answer = (const uint16_t *)job->answers + place * c->hidden;
            for (int64_t i = 0; i < c->hidden; i++) total[i] += from_bf16(answer[i]) * share;
        } else {
            const float share = ((const float *)c->shares)[assignment], *answer = (const float *)job->answers + place * c->hidden;
            for (int64_t i = 0; i < c->hidden; i++) total[i] += answer[i] * share;
        }
    }
    if (c->dtype == BF16) narrow(total, (uint16_t *)c->out + row * c->hidden, c->hidden);
    else memcpy((float *)c->out + row * c->hidden, total, c->hidden * 4);
}

static void experts_region(void *arg, const team *team) {
    experts_job *job = arg;
    for (int64_t i; (i = atomic_fetch_add(&job->next[0], 1)) < job->hit_count;) {
        const product p = up_product(job, job->hits + i);
        pack_all(&p);
    }
    team_wait(team);
    compute_panels(job, &job->next[1], true);
    team_wait(team);
    for (int64_t i; (i = atomic_fetch_add(&job->next[2], 1)) < job->hit_count;) activate(job, job->hits + i);
    team_wait(team);
    compute_panels(job, &job->next[3], false);
    team_wait(team);
    for (int64_t i; (i = atomic_fetch_add(&job->next[4], 1)) < job->call->rows;) mix_row(job, i);
}

INLINE bool is_here(const experts_call *c, int64_t i) { return (uint64_t)c->chosen[i] < (uint64_t)c->experts; }

// Sort the assignments by expert, stably, and note each row's places, -1 behind the last. `order` and `place_of` have
// rows * top_k entries, `hits` has one for each expert. Assignments to an expert outside 0 to experts are left out.
static int64_t sort_assignments(const experts_call *c, hit *hits, int64_t *order, int64_t *place_of) {
    const int64_t all_of_them = c->rows * c->top_k;
    int64_t *counts = scratch(SCRATCH_PLAN, (c->experts + 1 + c->rows) * 8), *filled = counts + c->experts + 1;
    int64_t hit_count = 0;
    memset(counts, 0, (c->experts + 1 + c->rows) * 8);
    for (int64_t i = 0; i < all_of_them; i++) {
        place_of[i] = -1;
        if (is_here(c, i)) counts[c->chosen[i] + 1]++;
    }
    for (int64_t e = 0; e < c->experts; e++) {
        if (counts[e + 1]) hits[hit_count++] = (hit){e, counts[e], counts[e + 1]};
        counts[e + 1] += counts[e];
    }
    const int64_t here = counts[c->experts];
    for (int64_t i = 0; i < all_of_them; i++)
        if (is_here(c, i)) order[counts[c->chosen[i]]++] = i;
    for (int64_t place = 0; place < here; place++) {
        const int64_t row = order[place] / c->top_k;
        place_of[row * c->top_k + filled[row]++] = place;
    }
    return hit_count;
}

INLINE int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static void experts(const experts_call *c) {
    if (c->rows == 0) return;
    const int64_t n = c->rows * c->top_k, size = c->dtype == BF16 ? 2 : 4;
    const int64_t wide = padded_inputs(c->gate_up) * 4, narrow_ = padded_inputs(c->down) * 4;
    const int64_t sizes[] = {c->experts * sizeof(hit), n * 8, n * 8, n * wide, n * 2 * c->width * size,
                             n * c->width * size, n * narrow_, n * c->hidden * size};
    int64_t total = 0;
    for (int i = 0; i < 8; i++) total += aligned(sizes[i]);
    char *at[8], *memory = scratch(SCRATCH_SHARED, total);
    for (int i = 0; i < 8; i++) {
        at[i] = memory;
        memory += aligned(sizes[i]);
    }
    experts_job job = {.call = c, .hits = (hit *)at[0], .order = (int64_t *)at[1], .place_of = (int64_t *)at[2],
                       .packed_x = at[3], .widened = at[4], .active = at[5], .packed_active = at[6], .answers = at[7]};
    job.hit_count = sort_assignments(c, (hit *)at[0], (int64_t *)at[1], (int64_t *)at[2]);
    pool_run(experts_region, &job, n * c->hidden * c->width < WORTH_A_TEAM ? 1 : pool_size());
}
