"""How long replies take lately, and so how long one that comes now would wait."""

from __future__ import annotations

FIRST_GUESS = 10.0  # seconds a reply, before any has ended
NEWEST = 0.2  # share of the newest reply in the average


class WaitEstimator:
    """An exponential average over the replies that have ended.

    Args:
        at_once: how many run at the same time.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._seconds: float | None = None

    def record(self, seconds: float) -> None:
        """A reply has ended, `seconds` after it began to run."""
        before = seconds if self._seconds is None else self._seconds
        self._seconds = before + NEWEST * (seconds - before)

    def estimate(self, ahead: int) -> float:
        """Seconds until a reply with `ahead` others before it in the queue begins, at least 1."""
        each = FIRST_GUESS if self._seconds is None else self._seconds
        return max(1.0, each * (ahead + 1) / self._at_once)
