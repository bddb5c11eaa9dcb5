"""A mutex for worker threads: first come, first served, and no wait without end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from web.chats.errors import BusyError


class FairLock:
    """Not reentrant. `threading.Lock` promises no order: a thread that takes its lock again and
    again, as an import does, can keep others out for as long as it runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        """Holds the lock for the block.

        Raises:
            BusyError: it was not to be had within `seconds`.
        """
        self._acquire(seconds)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, seconds: float) -> None:
        with self._lock:
            if not self._held:
                self._held = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(seconds):
            return
        with self._lock:
            if not turn.is_set():
                self._waiting.remove(turn)
                raise BusyError

    def _release(self) -> None:
        """Hands the lock to the thread that has waited longest, without letting go of it."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False
