"""Health checks for /health and /metrics: whether each part that a reply needs works.

A check runs in its own thread, at most once a second and only when a client requests it; its
result is cached. A check that hangs is not started again, and counts as failed after some seconds.
So requests are cheap, and always get an answer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from model.errors import LinlyError, NotReadyError
from model.serving.manager import ModelManager
from model.translations import LocalizedText, redact_paths

STALL_SECONDS = 60.0  # the engine has work, but has completed no step for this long
FIRST_STEP_SECONDS = 300.0  # the same before the first step, when their duration is unknown
STALL_FACTOR = 5.0  # of the slowest step so far: prefill of a 13B's chunk can take over a minute
MAX_STALL_SECONDS = 600.0

log = logging.getLogger("linly.health")


@dataclass(frozen=True)
class HealthCheck:
    """A check of one part of the program. `run` raises an error if the part does not work. `part`
    is the subject of messages, such as "The chat store does not answer"."""

    part: str
    run: Callable[[], None]


class HealthChecks:
    """Runs checks in the background.

    Args:
        checks: in the order in which their problems are reported.
        clock: seconds that never go back.
    """

    MAX_AGE_SECONDS = 1.0  # of a cached result
    TIMEOUT_SECONDS = 3.0  # of a check
    REFRESH_SECONDS = 0.5  # how long a request waits for new results if it has old ones
    POLL_SECONDS = 0.002

    def __init__(
        self, checks: Sequence[HealthCheck] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._checks = [_BackgroundCheck(check, clock) for check in checks]

    async def problem(self) -> LocalizedText | None:
        """Returns the message of the first check that fails; None if all succeed."""
        for seconds in self._refresh():
            await asyncio.sleep(seconds)
        return self._problem()

    def wait_for_problem(self) -> LocalizedText | None:
        """As `problem`, for a worker thread."""
        for seconds in self._refresh():
            time.sleep(seconds)
        return self._problem()

    def _refresh(self) -> Iterator[float]:
        """Starts the checks whose results are too old; yields pauses until they have ended or time
        is up."""
        now = self._clock()
        for check in self._checks:
            check.start(now, self.MAX_AGE_SECONDS)
        is_first = any(check.has_no_result for check in self._checks)
        end = now + (self.TIMEOUT_SECONDS if is_first else self.REFRESH_SECONDS)
        while self._clock() < end and any(
            check.is_running and not check.hangs(self.TIMEOUT_SECONDS) for check in self._checks
        ):
            yield self.POLL_SECONDS

    def _problem(self) -> LocalizedText | None:
        problems = (check.problem(self.TIMEOUT_SECONDS) for check in self._checks)
        return next((problem for problem in problems if problem), None)


class _BackgroundCheck:
    """A check with its last result; runs it in a thread."""

    def __init__(self, check: HealthCheck, clock: Callable[[], float]) -> None:
        self._check = check
        self._clock = clock
        self._lock = threading.Lock()
        self._began: float | None = None  # None while it does not run
        self._ended: float | None = None
        self._error: LocalizedText | None = None
        self._reported: LocalizedText | None = None

    @property
    def is_running(self) -> bool:
        return self._began is not None

    @property
    def has_no_result(self) -> bool:
        """Whether the check has neither ended nor timed out yet."""
        return self._ended is None and self._reported is None

    def start(self, now: float, max_age: float) -> None:
        with self._lock:
            is_fresh = self._ended is not None and now - self._ended < max_age
            if is_fresh or self._began is not None:
                return
            self._began = now
        threading.Thread(target=self._run, name="health", daemon=True).start()

    def hangs(self, timeout: float) -> bool:
        began = self._began
        return began is not None and self._clock() - began >= timeout

    def problem(self, timeout: float) -> LocalizedText | None:
        hangs = self.hangs(timeout)
        silent = LocalizedText("check_silent", {"part": self._check.part})
        problem = silent if hangs else self._error
        if (problem is None) is not (self._reported is None):
            text = "The server is not ready: %s" if problem else "The server is ready again"
            log.warning(text, *filter(None, [problem]))
        self._reported = problem
        return problem

    def _run(self) -> None:
        error = self._try()
        with self._lock:
            self._error, self._ended, self._began = error, self._clock(), None

    def _try(self) -> LocalizedText | None:
        try:
            self._check.run()
        except LinlyError as error:
            return redact_paths(error.text)
        except Exception as error:
            if self._error is None:
                log.warning("%s failed its health check", self._check.part, exc_info=True)
            facts = {"part": self._check.part, "reason": type(error).__name__}
            return LocalizedText("check_crashed", facts)
        return None


def engine_check(manager: ModelManager) -> HealthCheck:
    """Returns a check that fails while the engine has work but completes no step."""

    def run() -> None:
        status = manager.status()
        slowest = status.slowest_step
        expected = FIRST_STEP_SECONDS if slowest is None else slowest * STALL_FACTOR
        limit = min(max(STALL_SECONDS, expected), MAX_STALL_SECONDS)
        if (status.running or status.waiting) and status.step_age > limit:
            raise NotReadyError("engine_stuck", seconds=status.step_age)

    return HealthCheck("The engine", run)
