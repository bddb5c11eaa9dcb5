"""Locks for worker threads that bound every wait, and share turns fairly."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from web.chats.store.errors import StoreBusyError


class FairLock:
    """Semaphore with `count` slots, granted in order of arrival. Not reentrant.

    `threading.Lock` and SQLAlchemy's pool promise no order: a thread that comes back again and
    again, such as one that imports or exports, can keep others out for as long as it runs.
    """

    def __init__(self, count: int = 1) -> None:
        self._lock = threading.Lock()
        self._free = count
        self._waiting: deque[threading.Event] = deque()

    @property
    def waiting_count(self) -> int:
        """How many threads wait."""
        return len(self._waiting)

    @contextmanager
    def hold(self, seconds: float) -> Iterator[None]:
        """Holds a slot for the block.

        Raises:
            StoreBusyError: none became free within `seconds`.
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
        """Passes the slot to the thread that has waited longest, without freeing it in between."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class OwnerSlots:
    """Semaphore with `count` slots, of which each owner holds at most one.

    So an owner who asks again and again does not take the slots of the other owners.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._owners: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, owner: str, seconds: float) -> Iterator[None]:
        """Holds the owner's slot for the block.

        Raises:
            StoreBusyError: none became free within `seconds`.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while owner in self._owners or len(self._owners) >= self._count:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise StoreBusyError
            self._owners.add(owner)
        try:
            yield
        finally:
            with self._changed:
                self._owners.remove(owner)
                self._changed.notify_all()
