"""The threads that share one piece of work, and how they take it.

Work is a program: regions one after another, each cut into chunks. Every thread runs the same
program. In a region a thread claims the next chunk that nobody has, until none is left; the next
region opens when all chunks are done. So a thread that comes late, or that the system has put
aside, is not waited for unless it holds a chunk, and small chunks keep that short.

The counters are two int64, each on a cache line of its own: NEXT holds the open region's number
and its next chunk; DONE the number of chunks done since the start. Region numbers never come
back, so whoever wakes up in a program that is long over claims nothing.
"""

from __future__ import annotations

from model.layers.kernels.intrinsics import load, relax, sched_yield, swap
from model.layers.kernels.options import compiled

# Bytes from the counters' address, each on a cache line of its own.
NEXT, DONE, VERSION, QUIT, HELPERS, SEMAPHORES = 0, 64, 128, 192, 256, 320
SEMAPHORE_BYTES = 64
CHUNK_BITS = 20
CHUNK_MASK = (1 << CHUNK_BITS) - 1
PATIENCE = 2000  # rounds of waiting, some tens of microseconds, before others may have the core


@compiled
def claim_chunk(counters: int, region: int, total: int) -> int:
    """A chunk of `region` for this thread, or -1 when there is none left."""
    while True:
        seen = load(counters + NEXT)
        chunk = seen & CHUNK_MASK
        if seen >> CHUNK_BITS != region or chunk >= total:
            return -1
        if swap(counters + NEXT, seen, seen + 1):
            return chunk


@compiled
def finish_region(counters: int, region: int, target: int) -> None:
    """Return when `region` is over; `target` is what DONE shows then. Opens the next one."""
    rounds = 0
    while True:
        seen = load(counters + NEXT)
        if seen >> CHUNK_BITS != region:
            return
        # The swap fails where `seen` is older than the last claim: look again.
        if load(counters + DONE) >= target and swap(
            counters + NEXT, seen, (region + 1) << CHUNK_BITS
        ):
            return
        rounds += 1
        if rounds < PATIENCE:
            relax()
        else:
            sched_yield()
