// See pool.h. A worker spins for a moment after each region, as the next one of a step follows within microseconds, and
// then sleeps on a condition variable: an idle engine burns nothing.
#define _GNU_SOURCE
#include "pool.h"
#include "waiting.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_THREADS = 256, SPIN_NANOSECONDS = 50000, POLLS_PER_CLOCK = 32, SPINS_BEFORE_YIELD = 4096 };

struct barrier {
    atomic_uint arrived;
    atomic_uint round;
};

static struct {
    pthread_mutex_t caller;  // held by whoever runs a region
    pthread_mutex_t mutex;   // guards sleeping
    pthread_cond_t awake;
    atomic_uint generation;  // of the region to run
    atomic_int sleepers;
    atomic_int running;  // workers that have not finished the region
    atomic_int size;     // threads wanted, the caller included
    int started;         // workers there are
    barrier barrier;
    region fn;
    void *arg;
    int members;
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER, .mutex = PTHREAD_MUTEX_INITIALIZER, .awake = PTHREAD_COND_INITIALIZER,
          .size = 1};

static bool spin_for_change(unsigned seen) {
    const int64_t until = now() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < POLLS_PER_CLOCK; i++) {
            if (atomic_load_explicit(&pool.generation, memory_order_acquire) != seen) return true;
            relax();
        }
    } while (now() < until);
    return false;
}

static void await_change(unsigned seen) {
    if (spin_for_change(seen)) return;
    pthread_mutex_lock(&pool.mutex);
    atomic_fetch_add(&pool.sleepers, 1);
    while (atomic_load(&pool.generation) == seen) pthread_cond_wait(&pool.awake, &pool.mutex);
    atomic_fetch_sub(&pool.sleepers, 1);
    pthread_mutex_unlock(&pool.mutex);
}

typedef struct {
    int id;
    unsigned seen;
} birth;

static void *work(void *given) {
    birth self = *(birth *)given;
    free(given);
#if defined(__linux__)
    pthread_setname_np(pthread_self(), "wenxin-kernels");
#endif
    for (;;) {
        await_change(self.seen);
        self.seen = atomic_load_explicit(&pool.generation, memory_order_acquire);
        if (self.id < pool.members) {
            const team mine = {self.id, pool.members, &pool.barrier};
            pool.fn(pool.arg, &mine);
        }
        atomic_fetch_sub_explicit(&pool.running, 1, memory_order_release);
    }
    return NULL;
}

// A child of fork has none of its parent's threads: it starts with an empty pool.
static void forget(void) {
    pthread_mutex_init(&pool.caller, NULL);
    pthread_mutex_init(&pool.mutex, NULL);
    pthread_cond_init(&pool.awake, NULL);
    atomic_store(&pool.sleepers, 0);
    atomic_store(&pool.running, 0);
    pool.started = 0;
}

// Start missing workers; with fewer than wanted, the region is run by those there are. The caller holds pool.caller.
static int start_workers(int wanted) {
    static bool registered;
    if (!registered) {
        pthread_atfork(NULL, NULL, forget);
        registered = true;
    }
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the interpreter's own threads
    while (pool.started < wanted - 1) {
        birth *self = malloc(sizeof *self);
        pthread_t thread;
        if (!self) break;
        *self = (birth){pool.started + 1, atomic_load(&pool.generation)};
        if (pthread_create(&thread, NULL, work, self) != 0) {
            free(self);
            break;
        }
        pthread_detach(thread);
        pool.started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return wanted <= pool.started + 1 ? wanted : pool.started + 1;
}

static void run_alone(region fn, void *arg) {
    barrier own = {0};
    const team mine = {0, 1, &own};
    fn(arg, &mine);
}

void pool_run(region fn, void *arg, int threads) {
    const int size = atomic_load(&pool.size);
    if (threads > size) threads = size;
    if (threads <= 1 || pthread_mutex_trylock(&pool.caller) != 0) {
        run_alone(fn, arg);
        return;
    }
    threads = start_workers(threads);
    pool.fn = fn;
    pool.arg = arg;
    pool.members = threads;
    atomic_store(&pool.running, pool.started);
    atomic_fetch_add(&pool.generation, 1);
    if (atomic_load(&pool.sleepers) > 0) {
        pthread_mutex_lock(&pool.mutex);
        pthread_cond_broadcast(&pool.awake);
        pthread_mutex_unlock(&pool.mutex);
    }
    const team mine = {0, threads, &pool.barrier};
    fn(arg, &mine);
    for (int spins = 0; atomic_load_explicit(&pool.running, memory_order_acquire) > 0; spins++) {
        if (spins < SPINS_BEFORE_YIELD) relax();
        else sched_yield();
    }
    pthread_mutex_unlock(&pool.caller);
}

int pool_size(void) { return atomic_load(&pool.size); }

void pool_resize(int threads) {
    atomic_store(&pool.size, threads < 1 ? 1 : threads > MOST_THREADS ? MOST_THREADS : threads);
}

void team_wait(const team *team) {
    if (team->size == 1) return;
    barrier *b = team->barrier;
    const unsigned round = atomic_load_explicit(&b->round, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) + 1 == (unsigned)team->size) {
        atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&b->round, 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&b->round, memory_order_acquire) == round; spins++) {
        if (spins < SPINS_BEFORE_YIELD) relax();
        else sched_yield();
    }
}

void *scratch(enum scratch_slot slot, size_t bytes) {
    static _Thread_local struct {
        void *memory;
        size_t bytes;
    } held[SCRATCH_SLOTS];
    if (held[slot].bytes >= bytes) return held[slot].memory;
    free(held[slot].memory);
    const size_t rounded = (bytes + bytes / 4 + 4095) & ~(size_t)4095;
    held[slot].memory = aligned_alloc(64, rounded);
    if (!held[slot].memory) {
        fputs("wenxin kernels: out of memory\n", stderr);
        abort();
    }
    held[slot].bytes = rounded;
    return held[slot].memory;
}
