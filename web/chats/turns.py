"""Turns for long work: so much of it at a time, and one piece for each owner."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from web.chats.store.errors import StoreBusyError


class Turns:
    """Lets `count` owners do something at the same time, each once: the others' requests wait. An
    owner who asks for it again and again does not take the turns of the others."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._owners: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def of(self, owner: str, seconds: float) -> Iterator[None]:
        """Holds a turn for the block.

        Raises:
            BusyError: none came within `seconds`.
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
