// The ranks of one node: what they share, and what each knows of it. shared_memory.py makes both.
#pragma once
#include <stdatomic.h>
#include <stdint.h>

enum { MOST_RANKS = 64, LINE = 128 };  // bytes that two cores never fetch together by accident

// What one rank says to the others; nobody else writes `round`.
typedef struct {
    _Alignas(LINE) atomic_uint round;  // the last that it has published
    atomic_uint sleepers;              // ranks that sleep until it changes
} rank_line;

// The beginning of the segment; two sets of one slot per rank follow. All zero is how it begins.
typedef struct {
    _Alignas(LINE) atomic_uint over;  // a rank has given the group up
    rank_line ranks[MOST_RANKS];
} segment;

// One rank's own side.
typedef struct {
    segment *shared;
    int64_t slot_bytes;  // a multiple of LINE
    int64_t timeout_ns;  // before it gives the others up
    int32_t rank, size;
    int32_t file;    // the segment's descriptor: byte `rank` of it is locked as long as the process lives
    uint32_t round;  // the last that was published
    uint32_t began;  // the round that the last piece began with
    uint32_t piece;  // how many there have been: pieces take the two sets of slots in turn
} member;

// What a collective returns besides 1 + the number of a rank whose process has ended.
enum outcome { DONE = 0, OVER = -1, LATE = -2 };
