"""How fast this machine reads memory, which bounds the speed of decoding.

Compiled loops over a buffer much larger than any cache, on as many threads as decode. On some
machines a core reads faster at several places at once, so each attempt tries that, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numba
import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.int64]

BUFFER_BYTES = 1 << 30
PLACES = (1, 3, 6)  # 2 and 4, at distances that are powers of two, were a fifth slower than 3


class MemoryReader:
    """Reads a buffer of `nbytes`, which is divided among so many `threads`."""

    def __init__(self, threads: int, nbytes: int) -> None:
        self._parts = np.array_split(np.ones(nbytes // 8, np.int64), threads)
        self._nbytes = sum(part.nbytes for part in self._parts)
        self._pool = ThreadPoolExecutor(threads)
        self._loops = [read_loop(places) for places in PLACES]
        for read in self._loops:
            read(self._parts[0][:64])  # compiles it

    def bytes_per_second(self) -> float:
        """The speed of the fastest loop, now."""
        return max(self._measure(read) for read in self._loops)

    def close(self) -> None:
        """Free the buffer and end the threads."""
        self._parts.clear()
        self._pool.shutdown()

    def _measure(self, read: Callable[[Words], int]) -> float:
        began = time.perf_counter()
        list(self._pool.map(read, self._parts))
        return self._nbytes / (time.perf_counter() - began)


@contextmanager
def memory_reader(threads: int, nbytes: int | None = None) -> Iterator[MemoryReader]:
    """A reader of a buffer of BUFFER_BYTES, or of `nbytes`, that is closed at the end."""
    reader = MemoryReader(threads, nbytes or BUFFER_BYTES)
    try:
        yield reader
    finally:
        reader.close()


def read_loop(places: int) -> Callable[[Words], int]:
    """A function that reads words at so many places at once, and returns the xor of all words."""

    def read(words: Words) -> int:
        length = len(words) // places
        total = 0
        for at in range(length):
            for place in range(places):
                total ^= words[place * length + at]
        return total

    compiled: Callable[[Words], int] = numba.njit(nogil=True)(read)
    return compiled
