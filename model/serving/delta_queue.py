"""From the engine's thread to an event loop: what a reply says, in bursts.

Each time an event loop wakes up it takes a core, and a thread of the model waits. So it is not
told of every token, but of those of a few milliseconds at once.
"""

from __future__ import annotations

import asyncio
from collections import deque

from model.types import Delta

DeltaBatch = tuple[Delta, ...]


class DeltaQueue:
    """The Deltas of one reply on their way to the event loop that it was made on.

    Args:
        seconds: the least time between two bursts. The first comes at once, so does the end, and
            nothing is held back longer than that.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._deltas: deque[Delta] = deque()
        self._told = False  # that there is something: the loop will look by itself
        self._ready = asyncio.Event()
        self._not_before = 0.0

    def put(self, delta: Delta) -> None:
        """Leave a Delta; any thread may.

        Raises:
            RuntimeError: the loop is closed, and whoever listened is gone.
        """
        self._deltas.append(delta)
        if delta.finish_reason:
            self._loop.call_soon_threadsafe(self._ready.set)
        elif not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._announce)

    async def take(self) -> DeltaBatch:
        """What has come, at least one Delta, once it is time."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            self._told = False  # before looking: what comes from now on is told again
            burst = tuple(self._deltas.popleft() for _ in range(len(self._deltas)))
            if burst:
                self._not_before = self._loop.time() + self._seconds
                return burst

    def _announce(self) -> None:
        left = self._not_before - self._loop.time()
        if left > 0:
            self._loop.call_later(left, self._ready.set)
        else:
            self._ready.set()
