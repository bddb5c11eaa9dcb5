"""How threads share one program: atomic counters from which each takes its next chunk.

A program is a row of regions, each cut into chunks. Every thread runs the same program. In a region
a thread claims the next free chunk, until there is none; the next region opens when all chunks are
done. So a thread that starts late, or that the system has suspended, delays the others only while
it holds a chunk, and small chunks keep that short.

The counters are int64, each on a cache line of its own: NEXT holds the open region's number and
its next chunk; DONE the number of chunks done since the start. Region numbers are never used again,
so a thread that wakes up in a program that is long over claims nothing.
"""

from __future__ import annotations

from model.layers.kernels.intrinsics import (
    atomic_load,
    compare_and_swap,
    compiled,
    cpu_pause,
    sched_yield,
)

# Offsets from the counters' address, in bytes.
NEXT, DONE, VERSION, QUIT, HELPERS, SEMAPHORES = 0, 64, 128, 192, 256, 320
SEMAPHORE_BYTES = 64
CHUNK_BITS = 20
CHUNK_MASK = (1 << CHUNK_BITS) - 1
SPIN_ROUNDS = 2000  # of waiting, some tens of microseconds, before other threads may have the core


@compiled
def claim_chunk(counters: int, region: int, total: int) -> int:
    """A chunk of `region` for this thread, or -1 when none of the `total` is free."""
    while True:
        current = atomic_load(counters + NEXT)
        chunk = current & CHUNK_MASK
        if current >> CHUNK_BITS != region or chunk >= total:
            return -1
        if compare_and_swap(counters + NEXT, current, current + 1):
            return chunk


@compiled
def finish_region(counters: int, region: int, target: int) -> None:
    """Wait until DONE has reached `target`, the end of `region`; one thread opens the next one."""
    rounds = 0
    while True:
        current = atomic_load(counters + NEXT)
        if current >> CHUNK_BITS != region:
            return
        # The swap fails where `current` is older than the last claim: try again.
        if atomic_load(counters + DONE) >= target and compare_and_swap(
            counters + NEXT, current, (region + 1) << CHUNK_BITS
        ):
            return
        rounds += 1
        if rounds < SPIN_ROUNDS:
            cpu_pause()
        else:
            sched_yield()
