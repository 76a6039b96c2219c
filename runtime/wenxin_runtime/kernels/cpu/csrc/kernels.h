// The C ABI that library.py calls, and the table of one instruction set's implementation of it.
#pragma once
#include <stdint.h>

enum dtype { F32, BF16, I64 };  // of activations and of the KV cache the first two; sums know all
static inline int64_t size_of(int dtype) { return dtype == F32 ? 4 : dtype == BF16 ? 2 : 8; }
enum weight_kind { W_F32, W_BF16, W_INT8 };
enum { PANEL = 64, GROUP = 64, STRIP = 16 };  // outputs side by side; inputs per int8 scale; outputs a tile counts in

// One matrix [out, in] as packing.py lays it out: panels of 64 outputs, missing ones being zero.
//   W_F32   float [panel][in][64]
//   W_BF16  uint32 [panel][ceil(in / 2)][64]: inputs 2i (low half) and 2i + 1 of one output
//   W_INT8  uint32 [panel][in to a multiple of 64, / 4][64]: inputs 4i (lowest byte) to 4i + 3, and
//           scales float [panel][in to a multiple of 64, / 64][64]
typedef struct {
    int64_t out, in;
    const void *panels;
    const float *scales;
    const float *bias;  // [out] or NULL
    int32_t kind;
} weight;

typedef struct {
    int64_t rows, stride;  // elements from row to row; a row is contiguous
    void *data;
} matrix;

typedef struct {
    const weight *w;
    matrix x, y;
    int32_t dtype;
} linear_call;

typedef struct {
    const void *q;
    const void *cache;
    const int32_t *starts, *lengths, *tables;
    void *out;
    int64_t q_stride;       // elements from row to row
    int64_t sequences, table_stride, block_size, heads, kv_heads, head_dim;
    int32_t dtype;
} attention_call;

typedef struct {
    void *qkv;
    const float *turns;
    void *cache;
    const int64_t *slots;
    int64_t rows, heads, kv_heads, head_dim;
    int32_t dtype;
} rotary_call;

typedef struct {
    const weight *gate_up, *down;  // [experts]
    int64_t experts, hidden, width, rows, top_k;
    const void *x;
    const int64_t *chosen;
    const void *shares;
    void *out;
    int32_t dtype;
} experts_call;

typedef struct {
    const weight *w;
    const float *correction;
    int64_t top_k;
    float norm_min;
    matrix x;
    int64_t *chosen;
    void *shares;
    int32_t dtype;
} router_call;

typedef struct {
    void *x;         // [rows, hidden]
    void *residual;  // the same shape or NULL: x is added to it first
    const void *weight;
    void *out;
    int64_t rows, hidden;
    float eps;
    int32_t dtype;
} norm_call;

typedef struct {
    const void *gate_up;
    void *out;
    int64_t rows, width;
    int32_t dtype;
} silu_call;

typedef struct {
    const void *const *parts;  // [count][elements]
    int64_t count, elements;
    void *out;  // may be one of the parts
    int32_t dtype;
} add_call;

typedef struct {
    const char *name;
    void (*linear)(const linear_call *);
    void (*attend)(const attention_call *);
    void (*rotate_and_write)(const rotary_call *);
    void (*experts)(const experts_call *);
    void (*router)(const router_call *);
    void (*norm)(const norm_call *);
    void (*silu_and_mul)(const silu_call *);
    void (*add)(const add_call *);
} kernel_table;

const kernel_table *kernels_chosen(void);
