// Vectors of the widest kind that the instruction set has, in the dialect that gcc and clang share.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX__)
#define VL 8
#else
#define VL 4
#endif

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef float vf_at __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef uint32_t vu_at __attribute__((vector_size(VL * 4), aligned(4), may_alias));

INLINE vf load(const float *p) { return *(const vf_at *)p; }
INLINE void store(float *p, vf v) { *(vf_at *)p = v; }
INLINE vu load_u32(const uint32_t *p) { return *(const vu_at *)p; }
INLINE vf all(float x) { return x - (vf){0}; }
INLINE vf choose(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }

// Two bfloat16 in each lane: the low halves, and the high halves, as float.
INLINE vf low_half(vu pair) { return (vf)(pair << 16); }
INLINE vf high_half(vu pair) { return (vf)(pair & 0xffff0000u); }

INLINE float from_bf16(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

// Round to nearest even; a NaN stays one.
INLINE uint16_t to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (uint16_t)rounded;
}

INLINE float as_bf16(float f) { return from_bf16(to_bf16(f)); }

// e^x within 2 units in the last place; 0 below -87.3, e^88 above 88, NaN for NaN.
INLINE vf exponential(vf x) {
    const vi none = x < all(-87.3f);
    x = choose(x > all(88.0f), all(88.0f), x);
    const vf magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const vf shifted = x * all(1.44269504f) + magic;
    const vf n = shifted - magic;
    vf r = x - n * all(0.693359375f);
    r = r - n * all(-2.12194440e-4f);
    vf p = all(1.9875691500e-4f);
    p = p * r + all(1.3981999507e-3f);
    p = p * r + all(8.3334519073e-3f);
    p = p * r + all(4.1665795894e-2f);
    p = p * r + all(1.6666665459e-1f);
    p = p * r + all(5.0000001201e-1f);
    p = p * r * r + r + all(1.0f);
    const vi scaled = (vi)p + ((vi)shifted << 23);
    return choose(none, all(0.0f), (vf)scaled);
}

// The neighbour lanes of two vectors taken in turn: the first halves, or the second.
#if VL == 16
#define LANES_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define LANES_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VL == 8
#define LANES_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define LANES_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LANES_LOW 0, 4, 1, 5
#define LANES_HIGH 2, 6, 3, 7
#endif
#if defined(__clang__)
INLINE vf interleave_low(vf a, vf b) { return __builtin_shufflevector(a, b, LANES_LOW); }
INLINE vf interleave_high(vf a, vf b) { return __builtin_shufflevector(a, b, LANES_HIGH); }
INLINE vf permute(vf v, vi from) {
    vf to;
    UNROLL for (int i = 0; i < VL; i++) to[i] = v[from[i]];
    return to;
}
#else
INLINE vf interleave_low(vf a, vf b) { return __builtin_shuffle(a, b, (vi){LANES_LOW}); }
INLINE vf interleave_high(vf a, vf b) { return __builtin_shuffle(a, b, (vi){LANES_HIGH}); }
INLINE vf permute(vf v, vi from) { return __builtin_shuffle(v, from); }
#endif

// Fold the lanes of a vector: each round folds its second half onto its first.
#define FOLD(NAME, COMBINE)                                                 \
    INLINE float NAME(vf v) {                                               \
        UNROLL for (int half = VL / 2; half > 0; half /= 2) {               \
            vi from;                                                        \
            UNROLL for (int i = 0; i < VL; i++) from[i] = (i + half) % VL;  \
            const vf other = permute(v, from);                              \
            v = COMBINE;                                                    \
        }                                                                   \
        return v[0];                                                        \
    }
FOLD(sum, v + other)
FOLD(greatest, choose(other > v, other, v))

// Transpose VL vectors of VL lanes. Each of log2(VL) rounds interleaves vector i with vector i + VL / 2.
INLINE void transpose(vf rows[VL]) {
    vf other[VL];
    UNROLL for (int round = 1; round < VL; round *= 2) {
        UNROLL for (int i = 0; i < VL / 2; i++) {
            other[2 * i] = interleave_low(rows[i], rows[i + VL / 2]);
            other[2 * i + 1] = interleave_high(rows[i], rows[i + VL / 2]);
        }
        UNROLL for (int i = 0; i < VL; i++) rows[i] = other[i];
    }
}

// Rows of either dtype as float, and back. Plain loops: the compiler vectorises them.
INLINE void widen(const uint16_t *from, float *to, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = from_bf16(from[i]);
}
INLINE void narrow(const float *from, uint16_t *to, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = to_bf16(from[i]);
}
