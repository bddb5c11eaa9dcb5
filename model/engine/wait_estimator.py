"""Estimates how long a new reply waits, from how long recent replies took."""

from __future__ import annotations

INITIAL_SECONDS = 10.0  # of a reply, before any has ended
NEWEST_SHARE = 0.2  # of the newest reply in the average


class WaitEstimator:
    """An exponential average over the replies that have ended.

    Args:
        max_running: how many run at the same time.
    """

    def __init__(self, max_running: int) -> None:
        self._max_running = max_running
        self._average: float | None = None  # seconds a reply

    def record(self, seconds: float) -> None:
        """Add a reply that has ended, `seconds` after it began to run."""
        average = seconds if self._average is None else self._average
        self._average = average + NEWEST_SHARE * (seconds - average)

    def estimate(self, ahead: int) -> float:
        """Seconds until a reply with `ahead` others before it in the queue begins, at least 1."""
        average = INITIAL_SECONDS if self._average is None else self._average
        return max(1.0, average * (ahead + 1) / self._max_running)
