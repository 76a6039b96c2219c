// What works on one row at a time: norms, rotary embedding with the write into the cache, the gated activation.
#pragma once
#include "pool.h"
#include "product.h"

// Run work(arg, row) for all rows, on several threads where there is enough to do.
typedef void (*row_work)(const void *arg, int64_t row);
typedef struct {
    row_work work;
    const void *arg;
    int64_t rows, chunk;
    atomic_int_fast64_t next;
} rows_job;

static void rows_region(void *arg, const team *team) {
    (void)team;
    rows_job *job = arg;
    for (int64_t i; (i = atomic_fetch_add(&job->next, job->chunk)) < job->rows;) {
        for (int64_t row = i; row < least(i + job->chunk, job->rows); row++) job->work(job->arg, row);
    }
}

static void for_rows(int64_t rows, int64_t elements, row_work work, const void *arg) {
    const int64_t chunk = rows / (4 * pool_size()) + 1;
    rows_job job = {work, arg, rows, chunk, 0};
    pool_run(rows_region, &job, rows * elements < WORTH_A_TEAM / 2 ? 1 : pool_size());
}

// bfloat16 rounds where torch does: the sum with the residual, the normalised row, and its product with the weight.
static void norm_row(const void *arg, int64_t row) {
    const norm_call *n = arg;
    const int64_t at = row * n->hidden;
    float *x = scratch(SCRATCH_ROWS, n->hidden * 4);
    if (n->dtype == BF16) {
        widen((const uint16_t *)n->x + at, x, n->hidden);
        if (n->residual) {
            uint16_t *residual = (uint16_t *)n->residual + at;
            for (int64_t i = 0; i < n->hidden; i++) x[i] = as_bf16(from_bf16(residual[i]) + x[i]);
            narrow(x, residual, n->hidden);
        }
    } else if (n->residual) {
        float *residual = (float *)n->residual + at;
        const float *added = (const float *)n->x + at;
        for (int64_t i = 0; i < n->hidden; i++) x[i] = residual[i] += added[i];
    } else {
        x = (float *)n->x + at;
    }
    vf squares = {0};
    int64_t i = 0;
    for (; i + VL <= n->hidden; i += VL) squares += load(x + i) * load(x + i);
    float total = sum(squares);
    for (; i < n->hidden; i++) total += x[i] * x[i];
    const float scale = 1.0f / sqrtf(total / (float)n->hidden + n->eps);
    if (n->dtype == BF16) {
        const uint16_t *w = n->weight;
        uint16_t *out = (uint16_t *)n->out + at;
        for (i = 0; i < n->hidden; i++) out[i] = to_bf16(from_bf16(w[i]) * as_bf16(x[i] * scale));
    } else {
        const float *w = n->weight;
        float *out = (float *)n->out + at;
        for (i = 0; i < n->hidden; i++) out[i] = w[i] * (x[i] * scale);
    }
}

static void norm(const norm_call *call) { for_rows(call->rows, call->hidden, norm_row, call); }

static void turn_f32(float *x, const float *turns, int64_t n) {
    for (int64_t i = 0; i < n; i += 2) {
        const float a = x[i], b = x[i + 1], c = turns[i], s = turns[i + 1];
        x[i] = a * c - b * s;
        x[i + 1] = b * c + a * s;
    }
}

static void turn_bf16(uint16_t *x, const float *turns, int64_t n) {
    for (int64_t i = 0; i < n; i += 2) {
        const float a = from_bf16(x[i]), b = from_bf16(x[i + 1]), c = turns[i], s = turns[i + 1];
        x[i] = to_bf16(a * c - b * s);
        x[i + 1] = to_bf16(b * c + a * s);
    }
}

// In a row of qkv, keys and values follow the queries in the very order of the cache.
static void rotary_row(const void *arg, int64_t row) {
    const rotary_call *r = arg;
    const int64_t size = r->dtype == BF16 ? 2 : 4, kv = 2 * r->kv_heads * r->head_dim;
    char *heads = (char *)r->qkv + row * (r->heads * r->head_dim + kv) * size;
    const float *turns = r->turns + row * r->head_dim;
    for (int64_t h = 0; h < r->heads + r->kv_heads; h++) {
        if (r->dtype == BF16) turn_bf16((uint16_t *)heads + h * r->head_dim, turns, r->head_dim);
        else turn_f32((float *)heads + h * r->head_dim, turns, r->head_dim);
    }
    memcpy((char *)r->cache + r->slots[row] * kv * size, heads + r->heads * r->head_dim * size, kv * size);
}

static void rotate_and_write(const rotary_call *call) {
    for_rows(call->rows, (call->heads + 2 * call->kv_heads) * call->head_dim, rotary_row, call);
}

INLINE vf silu(vf x) { return x / (all(1.0f) + exponential(-x)); }

static void silu_f32(const float *gate, const float *up, float *out, int64_t n) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) store(out + i, silu(load(gate + i)) * load(up + i));
    for (; i < n; i++) out[i] = silu(all(gate[i]))[0] * up[i];
}

static void silu_row(const void *arg, int64_t row) {
    const silu_call *s = arg;
    const int64_t width = s->width;
    if (s->dtype == F32) {
        const float *gate = (const float *)s->gate_up + row * 2 * width;
        silu_f32(gate, gate + width, (float *)s->out + row * width, width);
        return;
    }
    const uint16_t *gate = (const uint16_t *)s->gate_up + row * 2 * width;
    uint16_t *out = (uint16_t *)s->out + row * width;
    float *x = scratch(SCRATCH_ROWS, width * 4);
    widen(gate, x, width);
    for (int64_t i = 0; i < width; i += VL) {
        float part[VL] = {0};
        const int64_t n = least(VL, width - i);
        memcpy(part, x + i, n * 4);
        store(part, silu(load(part)));
        for (int64_t j = 0; j < n; j++) out[i + j] = to_bf16(as_bf16(part[j]) * from_bf16(gate[width + i + j]));
    }
}

static void silu_and_mul(const silu_call *call) { for_rows(call->rows, 4 * call->width, silu_row, call); }
