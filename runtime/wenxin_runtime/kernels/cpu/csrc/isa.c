// Everything that depends on the instruction set; compiled once for each, with ISA naming it.
#include <stdbool.h>

#include "adding.h"
#include "attention.h"
#include "moe.h"
#include "pointwise.h"
#include "product.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

extern const kernel_table JOIN(kernels_, ISA);
const kernel_table JOIN(kernels_, ISA) = {
    .name = TEXT(ISA),
    .linear = linear,
    .attend = attend,
    .rotate_and_write = rotate_and_write,
    .experts = experts,
    .router = router,
    .norm = norm,
    .silu_and_mul = silu_and_mul,
    .add = add,
};
