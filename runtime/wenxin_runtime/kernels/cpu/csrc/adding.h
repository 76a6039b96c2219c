// The sum of the ranks' parts: ((part 0 + part 1) + part 2) + ... for every element, whatever computes it.
#pragma once
#include "pointwise.h"

enum { ADD_BLOCK = 1024 };  // elements whose sums stay in the first-level cache while the parts pass

static void add_f32(const add_call *call, int64_t at, int64_t n) {
    float total[ADD_BLOCK];
    memcpy(total, (const float *)call->parts[0] + at, n * 4);
    for (int64_t p = 1; p < call->count; p++) {
        const float *part = (const float *)call->parts[p] + at;
        for (int64_t i = 0; i < n; i++) total[i] += part[i];
    }
    memcpy((float *)call->out + at, total, n * 4);
}

// Added in float32, rounded once.
static void add_bf16(const add_call *call, int64_t at, int64_t n) {
    float total[ADD_BLOCK];
    widen((const uint16_t *)call->parts[0] + at, total, n);
    for (int64_t p = 1; p < call->count; p++) {
        const uint16_t *part = (const uint16_t *)call->parts[p] + at;
        for (int64_t i = 0; i < n; i++) total[i] += from_bf16(part[i]);
    }
    narrow(total, (uint16_t *)call->out + at, n);
}

// Unsigned, so that it wraps as torch's does.
static void add_i64(const add_call *call, int64_t at, int64_t n) {
    uint64_t total[ADD_BLOCK];
    memcpy(total, (const uint64_t *)call->parts[0] + at, n * 8);
    for (int64_t p = 1; p < call->count; p++) {
        const uint64_t *part = (const uint64_t *)call->parts[p] + at;
        for (int64_t i = 0; i < n; i++) total[i] += part[i];
    }
    memcpy((uint64_t *)call->out + at, total, n * 8);
}

static void add_block(const void *arg, int64_t block) {
    const add_call *call = arg;
    const int64_t at = block * ADD_BLOCK, n = least(ADD_BLOCK, call->elements - at), size = size_of(call->dtype);
    if (call->count == 1) memcpy((char *)call->out + at * size, (const char *)call->parts[0] + at * size, n * size);
    else if (call->dtype == F32) add_f32(call, at, n);
    else if (call->dtype == BF16) add_bf16(call, at, n);
    else add_i64(call, at, n);
}

static void add(const add_call *call) {
    for_rows((call->elements + ADD_BLOCK - 1) / ADD_BLOCK, ADD_BLOCK * call->count, add_block, call);
}
