"""Timing of the engine: the heartbeat of its loop, and the estimated wait of a new reply."""

from __future__ import annotations

import time
from collections.abc import Callable

INITIAL_SECONDS = 10.0  # of a reply, before any has ended
NEWEST_SHARE = 0.2  # of the newest reply in the average


class Heartbeat:
    """When the loop last completed a step, and its slowest step. Written by the engine's thread,
    read by any.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self.slowest_step: float | None = None  # seconds; None before the first step

    def wake(self) -> None:
        """Notes that an idle loop got work: idle time does not count as a step."""
        self._last = self._clock()

    def beat(self) -> None:
        """Notes that a step is complete."""
        now = self._clock()
        self.slowest_step = max(self.slowest_step or 0.0, now - self._last)
        self._last = now

    @property
    def age(self) -> float:
        """Seconds since the last step, or since an idle loop got work."""
        return self._clock() - self._last


class WaitEstimator:
    """Estimates the wait from an exponential average over the replies that have ended.

    Args:
        max_running: replies that run at the same time.
    """

    def __init__(self, max_running: int) -> None:
        self._max_running = max_running
        self._average: float | None = None  # seconds a reply

    def record(self, seconds: float) -> None:
        """Adds a reply that has ended, `seconds` after it began to run."""
        average = seconds if self._average is None else self._average
        self._average = average + NEWEST_SHARE * (seconds - average)

    def estimate(self, ahead: int) -> float:
        """Returns the seconds until a reply with `ahead` others before it starts; at least 1."""
        average = INITIAL_SECONDS if self._average is None else self._average
        return max(1.0, average * (ahead + 1) / self._max_running)
