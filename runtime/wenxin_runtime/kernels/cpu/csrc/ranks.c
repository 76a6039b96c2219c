// Collectives between processes that share memory: each rank writes its part into its slot, publishes a round, waits for
// the others' and reads their slots.
//
// Work is cut into pieces that fit a slot. Pieces use two sets of slots in turn, so none ends with a barrier: to publish
// the first round of a piece says that the piece before the last one has been read, and nobody writes a slot before all
// have said so. A round is stored after what it announces (release) and loaded before it is read (acquire).
#define _GNU_SOURCE
#include "ranks.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include "kernels.h"
#include "waiting.h"

#define EXPORT __attribute__((visibility("default")))

enum {
    POLLS_PER_CLOCK = 32,
    SPIN_NANOSECONDS = 2000,       // no more: the rank waited for may be the next on this very core
    YIELD_NANOSECONDS = 1000000,   // with nobody else on the core, as quick as spinning
    SLEEP_NANOSECONDS = 50000000,  // a lost rank is noticed within one sleep
    ONE_SHOT_BYTES = 32768,        // above, more than two ranks each add a stripe and then exchange the sums
};

static void sleep_until_changed(atomic_uint *word, unsigned seen) {
    const struct timespec most = {0, SLEEP_NANOSECONDS};
#if defined(__linux__)
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &most, NULL, 0);
#else
    (void)word, (void)seen;
    nanosleep(&(struct timespec){0, most.tv_nsec / 500}, NULL);
#endif
}

static void wake(atomic_uint *word) {
#if defined(__linux__)
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
#else
    (void)word;
#endif
}

// The waiter counts itself before it looks at the round once more, the publisher looks for sleepers after the round is
// stored, both in the one order of sequential consistency: one of them sees the other.
static void publish(member *m) {
    rank_line *mine = &m->shared->ranks[m->rank];
    atomic_store(&mine->round, ++m->round);
    if (atomic_load(&mine->sleepers) > 0) wake(&mine->round);
}

// Whoever waits, or comes to wait, returns with OVER.
static void end_group(const member *m) {
    atomic_store(&m->shared->over, 1);
    for (int rank = 0; rank < m->size; rank++) wake(&m->shared->ranks[rank].round);
}

// The kernel drops a process's locks when it ends, however it ends.
static bool is_gone(const member *m, int rank) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = rank, .l_len = 1};
    return fcntl(m->file, F_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

static bool has_reached(const rank_line *peer, unsigned round) {
    return (int)(atomic_load_explicit(&peer->round, memory_order_acquire) - round) >= 0;  // rounds wrap
}

static int wait_asleep(const member *m, int rank, unsigned round, int64_t until) {
    rank_line *peer = &m->shared->ranks[rank];
    for (;;) {
        const bool gone = is_gone(m, rank);  // before the last look: it may have published and ended well
        const unsigned seen = atomic_load(&peer->round);
        if ((int)(seen - round) >= 0) return DONE;
        if (atomic_load(&m->shared->over)) return OVER;
        if (gone) return 1 + rank;
        if (now() >= until) return LATE;
        atomic_fetch_add(&peer->sleepers, 1);
        sleep_until_changed(&peer->round, seen);
        atomic_fetch_sub(&peer->sleepers, 1);
    }
}

static int wait_for(const member *m, int rank, unsigned round) {
    const rank_line *peer = &m->shared->ranks[rank];
    if (has_reached(peer, round)) return DONE;
    const int64_t began = now();
    do {
        for (int i = 0; i < POLLS_PER_CLOCK; i++) {
            if (has_reached(peer, round)) return DONE;
            relax();
        }
    } while (now() < began + SPIN_NANOSECONDS);
    while (now() < began + YIELD_NANOSECONDS) {
        sched_yield();
        if (has_reached(peer, round)) return DONE;
    }
    const int outcome = wait_asleep(m, rank, round, began + m->timeout_ns);
    if (outcome != DONE) end_group(m);
    return outcome;
}

static int wait_for_all(const member *m, unsigned round) {
    for (int rank = 0; rank < m->size; rank++) {
        const int outcome = rank == m->rank ? DONE : wait_for(m, rank, round);
        if (outcome != DONE) return outcome;
    }
    return DONE;
}

static char *slot(const member *m, int rank) {
    const int64_t index = (int64_t)(m->piece % 2) * m->size + rank;
    return (char *)m->shared + sizeof(segment) + index * m->slot_bytes;
}

// Go on to the next piece; a rank that will write waits until its slot has been read.
static int begin(member *m, bool writes) {
    const int outcome = writes ? wait_for_all(m, m->began) : DONE;
    m->piece++;
    m->began = m->round + 1;
    return outcome;
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static void copy(int dtype, void *to, const void *from, int64_t elements) {
    if (to != from) kernels_chosen()->add(&(add_call){&from, 1, elements, to, dtype});
}

// Add the ranks' elements from `at` on; this rank's own are still in x.
static void add_slots(const member *m, int dtype, char *x, int64_t at, int64_t elements, void *out) {
    const void *parts[MOST_RANKS];
    for (int rank = 0; rank < m->size; rank++) {
        parts[rank] = (rank == m->rank ? x : slot(m, rank)) + at * size_of(dtype);
    }
    kernels_chosen()->add(&(add_call){parts, m->size, elements, out, dtype});
}

static int sum_in_one_shot(member *m, int dtype, char *x, int64_t elements) {
    int outcome = begin(m, true);
    if (outcome != DONE) return outcome;
    copy(dtype, slot(m, m->rank), x, elements);
    publish(m);
    outcome = wait_for_all(m, m->round);
    if (outcome == DONE) add_slots(m, dtype, x, 0, elements, x);
    return outcome;
}

// Each rank adds one stripe of the piece, into the part of its own slot that nobody else reads before.
static int sum_in_two_shots(member *m, int dtype, char *x, int64_t elements) {
    int outcome = begin(m, true);
    if (outcome != DONE) return outcome;
    copy(dtype, slot(m, m->rank), x, elements);
    publish(m);
    outcome = wait_for_all(m, m->round);
    if (outcome != DONE) return outcome;
    const int64_t at = elements * m->rank / m->size, end = elements * (m->rank + 1) / m->size;
    add_slots(m, dtype, x, at, end - at, slot(m, m->rank) + at * size_of(dtype));
    publish(m);
    for (int rank = 0; rank < m->size; rank++) {
        const int64_t from = elements * rank / m->size, to = elements * (rank + 1) / m->size;
        outcome = rank == m->rank ? DONE : wait_for(m, rank, m->round);
        if (outcome != DONE) return outcome;
        copy(dtype, x + from * size_of(dtype), slot(m, rank) + from * size_of(dtype), to - from);
    }
    return DONE;
}

// x[i] = rank 0's x[i] + rank 1's + ..., in this order, the same bits on all ranks.
EXPORT int wx_sum(member *m, int dtype, void *x, int64_t elements) {
    const int64_t size = size_of(dtype), most = m->slot_bytes / size;
    int outcome = DONE;
    for (int64_t at = 0; at < elements && outcome == DONE; at += most) {
        const int64_t n = smaller(most, elements - at);
        const bool small = m->size == 2 || n * size <= ONE_SHOT_BYTES;
        outcome = (small ? sum_in_one_shot : sum_in_two_shots)(m, dtype, (char *)x + at * size, n);
    }
    return outcome;
}

// Put bytes [at, at + n) of a rank's rows where they belong in the whole's.
static void place(const char *from, char *whole, int rank, int size, int64_t at, int64_t n, int64_t row_bytes) {
    for (const int64_t end = at + n; at < end;) {
        const int64_t row = at / row_bytes, column = at % row_bytes, run = smaller(row_bytes - column, end - at);
        memcpy(whole + (row * size + rank) * row_bytes + column, from, run);
        from += run;
        at += run;
    }
}

// The ranks' rows side by side: whole[row][rank][...] = the rank's part[row][...].
EXPORT int wx_join(member *m, const void *part, void *whole, int64_t rows, int64_t row_bytes) {
    for (int64_t at = 0; at < rows * row_bytes; at += m->slot_bytes) {
        const int64_t n = smaller(m->slot_bytes, rows * row_bytes - at);
        int outcome = begin(m, true);
        if (outcome != DONE) return outcome;
        memcpy(slot(m, m->rank), (const char *)part + at, n);
        publish(m);
        for (int rank = 0; rank < m->size; rank++) {
            outcome = rank == m->rank ? DONE : wait_for(m, rank, m->round);
            if (outcome != DONE) return outcome;
            place(slot(m, rank), whole, rank, m->size, at, n, row_bytes);
        }
    }
    return DONE;
}

// x = rank 0's x. Rank 0 does not wait for the others, but for those that are two pieces behind.
EXPORT int wx_spread(member *m, void *x, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += m->slot_bytes) {
        const int64_t n = smaller(m->slot_bytes, bytes - at);
        int outcome = begin(m, m->rank == 0);
        if (outcome != DONE) return outcome;
        if (m->rank == 0) memcpy(slot(m, 0), (const char *)x + at, n);
        publish(m);
        if (m->rank == 0) continue;
        outcome = wait_for(m, 0, m->round);
        if (outcome != DONE) return outcome;
        memcpy((char *)x + at, slot(m, 0), n);
    }
    return DONE;
}

// What a slot of an exchange begins with: where in the rank's bytes those for each rank begin, and where they end.
typedef struct {
    _Alignas(LINE) int64_t starts[MOST_RANKS + 1];
} cuts;

// Send sends[r] rows of x to rank r, take receives[r] rows from it into out; both in the order of the ranks. A rank
// cannot know how many pieces the others need before it has seen their first one.
EXPORT int wx_exchange(member *m, const void *x, const int64_t *sends, void *out, const int64_t *receives,
                       int64_t row_bytes) {
    cuts mine = {.starts = {0}};
    for (int rank = 0; rank < m->size; rank++) mine.starts[rank + 1] = mine.starts[rank] + sends[rank] * row_bytes;
    const int64_t room = m->slot_bytes - (int64_t)sizeof(cuts);
    int64_t most = 1;
    for (int64_t at = 0; at < most; at += room) {
        int outcome = begin(m, true);
        if (outcome != DONE) return outcome;
        char *to = slot(m, m->rank);
        memcpy(to, &mine, sizeof mine);
        const int64_t n = smaller(room, mine.starts[m->size] - at);
        if (n > 0) memcpy(to + sizeof mine, (const char *)x + at, n);
        publish(m);
        char *place = out;
        for (int rank = 0; rank < m->size; rank++) {
            outcome = rank == m->rank ? DONE : wait_for(m, rank, m->round);
            if (outcome != DONE) return outcome;
            const cuts *theirs = (const cuts *)slot(m, rank);
            const int64_t start = theirs->starts[m->rank], end = start + receives[rank] * row_bytes;
            const int64_t from = larger(start, at), until = smaller(end, at + room);
            if (from < until) memcpy(place + from - start, (const char *)(theirs + 1) + from - at, until - from);
            place += end - start;
            most = larger(most, theirs->starts[m->size]);
        }
    }
    return DONE;
}

EXPORT int64_t wx_segment_bytes(int64_t ranks, int64_t slot_bytes) {
    return ranks > MOST_RANKS ? 0 : (int64_t)sizeof(segment) + 2 * ranks * slot_bytes;
}
