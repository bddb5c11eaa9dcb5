"""How fast this machine reads memory: what decoding can reach at the most.

Compiled loops over a buffer much larger than any cache, on as many threads as decode. Some machines
give a core more when it reads at several places at once, so each attempt tries that too.
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
PLACES = (1, 3, 6)  # 2 and 4, at distances that are powers of two, gave a fifth less than 3


class Reader:
    """A buffer of `nbytes` in as many parts as `threads`."""

    def __init__(self, threads: int, nbytes: int) -> None:
        self._parts = np.array_split(np.ones(nbytes // 8, np.int64), threads)
        self._nbytes = sum(part.nbytes for part in self._parts)
        self._pool = ThreadPoolExecutor(threads)
        self._loops = [loop(places) for places in PLACES]
        for read in self._loops:
            read(self._parts[0][:64])  # compiles it

    def attempt(self) -> float:
        """Bytes a second, of the best way."""
        return max(self._speed(read) for read in self._loops)

    def close(self) -> None:
        """Give the buffer back, and send the threads home."""
        self._parts.clear()
        self._pool.shutdown()

    def _speed(self, read: Callable[[Words], int]) -> float:
        began = time.perf_counter()
        list(self._pool.map(read, self._parts))
        return self._nbytes / (time.perf_counter() - began)


@contextmanager
def reading(threads: int, nbytes: int) -> Iterator[Reader]:
    """A reader, for as long as it is needed."""
    reader = Reader(threads, nbytes)
    try:
        yield reader
    finally:
        reader.close()


def loop(places: int) -> Callable[[Words], int]:
    """Reads words at so many places at once; what it returns depends on every one of them."""

    def read(words: Words) -> int:
        length = len(words) // places
        total = 0
        for at in range(length):
            for place in range(places):
                total ^= words[place * length + at]
        return total

    compiled: Callable[[Words], int] = numba.njit(nogil=True)(read)
    return compiled
