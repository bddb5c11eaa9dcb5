"""Health checks: results, caching, and checks that hang."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from model.errors import LinlyError, NotReadyError
from model.translations import verbatim
from model.types import EngineStatus
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.fake_clock import FakeClock
from web.health_checks import (
    FIRST_STEP_SECONDS,
    MAX_STALL_SECONDS,
    STALL_SECONDS,
    HealthCheck,
    HealthChecks,
    engine_check,
)


class Part:
    """A check that succeeds, fails, or hangs until it is released."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.runs = 0
        self.hangs = False
        self.released = threading.Event()
        self.threads: set[int] = set()

    def __call__(self) -> None:
        self.runs += 1
        self.threads.add(threading.get_ident())
        if self.hangs:
            self.released.wait()
        if self.error:
            raise self.error


@pytest.fixture
def part() -> Iterator[Part]:
    found = Part()
    yield found
    found.released.set()


def problem(checks: HealthChecks) -> str | None:
    found = asyncio.run(checks.problem())
    return str(found) if found else None


def checked(part: Callable[[], None], clock: FakeClock | None = None) -> HealthChecks:
    checks = [HealthCheck("The chat store", part)]
    return HealthChecks(checks, clock) if clock else HealthChecks(checks)


def test_without_checks_there_is_no_problem() -> None:
    assert problem(HealthChecks()) is None


def test_the_first_problem_is_reported(part: Part) -> None:
    part.error = LinlyError(verbatim("The disk with /data/chats is full", "Make room."))
    other = Part()
    other.error = KeyError("secret")
    checks = HealthChecks(
        [HealthCheck("A", Part()), HealthCheck("B", part), HealthCheck("C", other)]
    )
    assert problem(checks) == "The disk with chats is full. Make room."  # and no path
    assert str(checks.wait_for_problem()) == "The disk with chats is full. Make room."
    assert problem(checked(other)) == "The chat store failed: KeyError"


def test_results_are_cached_for_a_second(part: Part, clock: FakeClock) -> None:
    checks = checked(part, clock)
    for _ in range(100):
        assert problem(checks) is None
    assert part.runs == 1
    part.error = LinlyError(verbatim("torn"))
    clock.now += 1
    assert problem(checks) == "torn"
    assert part.runs == 2


def test_checks_run_on_request_and_in_a_thread(part: Part) -> None:
    checks = checked(part)
    assert part.runs == 0
    assert problem(checks) is None
    assert threading.get_ident() not in part.threads


def test_a_check_that_hangs_counts_as_failed(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HealthChecks, "TIMEOUT_SECONDS", 0.2)
    part.hangs = True
    checks = checked(part)
    for _ in range(3):
        assert problem(checks) == "The chat store does not answer"
    assert part.runs == 1  # it is not started again
    part.hangs = False
    part.released.set()
    while problem(checks):
        pass
    assert problem(checks) is None


def test_requests_do_not_wait_for_a_check_that_hangs(
    part: Part, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HealthChecks, "REFRESH_SECONDS", 0.0)
    checks = checked(part, clock)
    assert problem(checks) is None
    part.hangs = True
    clock.now += 2
    assert problem(checks) is None  # the last result, until the check times out
    clock.now += HealthChecks.TIMEOUT_SECONDS
    assert problem(checks) == "The chat store does not answer"


def test_changes_are_logged(part: Part, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    checks = checked(part, clock)
    with caplog.at_level(logging.WARNING, "linly.health"):
        for error in (None, None, LinlyError(verbatim("torn")), LinlyError(verbatim("torn")), None):
            part.error = error
            clock.now += 1
            problem(checks)
    assert caplog.messages == ["The server is not ready: torn", "The server is ready again"]


@dataclass
class Stalling(FakeEngine):
    work: EngineStatus = field(default_factory=EngineStatus)

    def status(self) -> EngineStatus:
        return self.work


@pytest.mark.parametrize(
    ("work", "stalled"),
    [
        (EngineStatus(running=1, step_age=STALL_SECONDS + 1, slowest_step=1.0), True),
        (EngineStatus(waiting=1, step_age=STALL_SECONDS + 1, slowest_step=1.0), True),
        (EngineStatus(step_age=STALL_SECONDS + 1, slowest_step=1.0), False),  # it is idle
        (EngineStatus(running=1, step_age=STALL_SECONDS - 1, slowest_step=1.0), False),
        # Before the first step, and with slow steps.
        (EngineStatus(running=1, step_age=STALL_SECONDS + 1), False),
        (EngineStatus(running=1, step_age=FIRST_STEP_SECONDS + 1), True),
        (EngineStatus(running=1, step_age=149.0, slowest_step=30.0), False),
        (EngineStatus(running=1, step_age=151.0, slowest_step=30.0), True),
        (EngineStatus(running=1, step_age=MAX_STALL_SECONDS + 1, slowest_step=1e4), True),
    ],
)
def test_engine_check_fails_if_the_engine_stalls(work: EngineStatus, stalled: bool) -> None:
    manager = fake_manager(Stalling(echo, work=work))
    manager.wait()
    check = engine_check(manager)
    if stalled:
        with pytest.raises(NotReadyError, match=r"made no progress for \d+ s"):
            check.run()
    else:
        check.run()
