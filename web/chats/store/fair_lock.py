"""A semaphore for worker threads: first come, first served, and no wait without end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from web.chats.store.errors import StoreBusyError


class FairLock:
    """Held by at most `count` threads. Not reentrant.

    `threading.Lock` and SQLAlchemy's pool promise no order: a thread that comes again and again, as
    one that imports or exports does, can keep others out for as long as it runs.
    """

    def __init__(self, count: int = 1) -> None:
        self._lock = threading.Lock()
        self._free = count
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        """Holds a turn for the block.

        Raises:
            BusyError: there was none within `seconds`.
        """
        self._acquire(seconds)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, seconds: float) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(seconds):
            return
        with self._lock:
            if not turn.is_set():
                self._waiting.remove(turn)
                raise StoreBusyError

    def _release(self) -> None:
        """Hands the turn to the thread that has waited longest, without letting go of it."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1
