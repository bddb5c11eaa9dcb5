"""Health checks: whether each part that a reply needs does its work, for /health and /metrics.

A check runs in a thread of its own, at most once a second and only when asked for; its result
is kept. One that hangs is never started a second time, and counts as failed after some seconds. So
asking is cheap, and always answered.
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
from model.translations import LocalizedText, without_folders

STALL_SECONDS = 60.0  # without a step of the engine, while it has work
FIRST_STEP_SECONDS = 300.0  # the same before any step has shown how long they take here
STALL_FACTOR = 5.0  # times the slowest step so far: a chunk of a 13B can take longer than a minute
MAX_STALL_SECONDS = 600.0

log = logging.getLogger("linly.health")


@dataclass(frozen=True)
class HealthCheck:
    """`run` returns if all is well, and else raises. `part` begins the sentence of an error that is
    not one of ours, and of a check that hangs: "The chat store does not answer"."""

    part: str
    run: Callable[[], None]


class HealthChecks:
    """Runs checks in the background.

    Args:
        checks: in the order in which their problems are reported.
        clock: seconds that never go back.
    """

    MAX_AGE_SECONDS = 1.0  # of a result
    TIMEOUT_SECONDS = 3.0  # of a check
    PATIENCE_SECONDS = 0.5  # that an answer waits for results, if there are earlier ones
    POLL_SECONDS = 0.002

    def __init__(
        self, checks: Sequence[HealthCheck] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._checks = [_Running(check, clock) for check in checks]

    async def problem(self) -> LocalizedText | None:
        """The sentence of the first check that fails; None if all is well."""
        for seconds in self._refresh():
            await asyncio.sleep(seconds)
        return self._problem()

    def wait_for_problem(self) -> LocalizedText | None:
        """The same, for a thread."""
        for seconds in self._refresh():
            time.sleep(seconds)
        return self._problem()

    def _refresh(self) -> Iterator[float]:
        """Start the checks whose results are too old; pauses, until there are new ones or it takes
        too long."""
        now = self._clock()
        for check in self._checks:
            check.start(now, self.MAX_AGE_SECONDS)
        first = any(check.is_new for check in self._checks)
        end = now + (self.TIMEOUT_SECONDS if first else self.PATIENCE_SECONDS)
        while self._clock() < end and any(
            check.is_running and not check.hangs(self.TIMEOUT_SECONDS) for check in self._checks
        ):
            yield self.POLL_SECONDS

    def _problem(self) -> LocalizedText | None:
        found = (check.problem(self.TIMEOUT_SECONDS) for check in self._checks)
        return next((problem for problem in found if problem), None)


class _Running:
    """A check, its last result, and whether it runs at present."""

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
    def is_new(self) -> bool:
        """Whether it has never ended, well or not."""
        return self._ended is None and self._reported is None

    def start(self, now: float, max_age: float) -> None:
        with self._lock:
            fresh = self._ended is not None and now - self._ended < max_age
            if fresh or self._began is not None:
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
            return without_folders(error.text)
        except Exception as error:
            if self._error is None:
                log.warning("%s failed its health check", self._check.part, exc_info=True)
            facts = {"part": self._check.part, "reason": type(error).__name__}
            return LocalizedText("check_crashed", facts)
        return None


def engine_check(manager: ModelManager) -> HealthCheck:
    """Fails while the engine has work and completes no step."""

    def run() -> None:
        status = manager.status()
        slowest = status.slowest_step
        usual = FIRST_STEP_SECONDS if slowest is None else slowest * STALL_FACTOR
        limit = min(max(STALL_SECONDS, usual), MAX_STALL_SECONDS)
        if (status.running or status.waiting) and status.step_age > limit:
            raise NotReadyError("engine_stuck", seconds=status.step_age)

    return HealthCheck("The engine", run)
