"""Queue from the engine's thread to an event loop; delivers Deltas in batches.

Each wake-up of an event loop takes a core, and a compute thread of the model waits. So the loop is
not woken for each token, but once every few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

from model.types import Delta

DeltaBatch = tuple[Delta, ...]
DeltaStream = AsyncGenerator[DeltaBatch, None]


class DeltaQueue:
    """The Deltas of one reply, on their way to the event loop that the queue was created on.

    Args:
        min_interval: seconds between two batches at least. The first batch comes at once and so
            does the last; no Delta waits longer than this.
    """

    def __init__(self, min_interval: float) -> None:
        self._min_interval = min_interval
        self._loop = asyncio.get_running_loop()
        self._deltas: deque[Delta] = deque()
        self._wakeup_requested = False
        self._ready = asyncio.Event()
        self._not_before = 0.0

    def put(self, delta: Delta) -> None:
        """Adds a Delta. Any thread may call it.

        Raises:
            RuntimeError: the event loop is closed; nothing reads the queue any more.
        """
        self._deltas.append(delta)
        if delta.finish_reason:
            self._loop.call_soon_threadsafe(self._ready.set)
        elif not self._wakeup_requested:
            self._wakeup_requested = True
            self._loop.call_soon_threadsafe(self._schedule)

    async def get(self) -> DeltaBatch:
        """Waits until the next batch is due, and returns it: at least one Delta."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            # Before the queue is emptied: a Delta that comes from now on requests a new wake-up.
            self._wakeup_requested = False
            batch = tuple(self._deltas.popleft() for _ in range(len(self._deltas)))
            if batch:
                self._not_before = self._loop.time() + self._min_interval
                return batch

    def _schedule(self) -> None:
        delay = self._not_before - self._loop.time()
        if delay > 0:
            self._loop.call_later(delay, self._ready.set)
        else:
            self._ready.set()
