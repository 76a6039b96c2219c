// A team of threads that wait for the next parallel region, and scratch memory that lives as long as its thread.
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef struct barrier barrier;

// What a thread knows inside a region: which one it is, and whom it works with.
typedef struct {
    int id;
    int size;
    barrier *barrier;
} team;

typedef void (*region)(void *arg, const team *team);

// Run fn on every thread of the pool, the caller included, and return when all are done. `threads` caps the team.
// Where the pool is busy with another caller's region, the caller works alone.
void pool_run(region fn, void *arg, int threads);
int pool_size(void);
void pool_resize(int threads);

// Wait until the whole team is here. What was written before is visible after.
void team_wait(const team *team);

// Memory of this thread, aligned to 64 bytes; the same slot's earlier content is lost when it grows.
enum scratch_slot { SCRATCH_TILE, SCRATCH_ROWS, SCRATCH_SHARED, SCRATCH_PLAN, SCRATCH_SLOTS };
void *scratch(enum scratch_slot slot, size_t bytes);
