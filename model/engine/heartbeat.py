"""Heartbeat of the engine's loop: how long ago it completed a step, and how long steps take."""

from __future__ import annotations

import time
from collections.abc import Callable


class Heartbeat:
    """Written by the engine's thread, read by any.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self.slowest_step: float | None = None  # seconds; None before the first step

    def wake(self) -> None:
        """Note that work has come to an idle loop: idle time does not count as a step."""
        self._last = self._clock()

    def beat(self) -> None:
        """Note that a step is complete."""
        now = self._clock()
        self.slowest_step = max(self.slowest_step or 0.0, now - self._last)
        self._last = now

    @property
    def age(self) -> float:
        """Seconds since the last step, or since work came to an idle loop."""
        return self._clock() - self._last
