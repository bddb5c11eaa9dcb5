"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random

JITTER = 0.5  # of a pause, more or less: not all who wait come back in the same moment


class Backoff:
    """Pauses in seconds: each twice as long as the one before, from `first` to `most`."""

    def __init__(self, first: float, most: float) -> None:
        self._first = self._next = first
        self._most = most

    def pause(self) -> float:
        """How long to wait this time."""
        seconds = self._next
        self._next = min(2 * seconds, self._most)
        return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311

    def reset(self) -> None:
        """It did not fail."""
        self._next = self._first
