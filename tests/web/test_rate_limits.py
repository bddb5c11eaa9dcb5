"""Limits of attempts and requests, with a fake clock."""

from __future__ import annotations

import logging
import tracemalloc

import pytest

from tests.web.fake_clock import FakeClock
from web.api.errors import as_response
from web.rate_limits import (
    AttemptLimiter,
    RequestLimiter,
    TooManyAttemptsError,
    TooManyRequestsError,
)


@pytest.fixture
def limiter(clock: FakeClock) -> AttemptLimiter:
    return AttemptLimiter(clock)


def fail(limiter: AttemptLimiter, address: str, account: str | None, times: int = 1) -> None:
    for _ in range(times):
        limiter.check(address, account)
        limiter.failed(address, account)


def wait(limiter: AttemptLimiter, address: str, account: str | None) -> float:
    """Returns how long an attempt has to wait; 0 if it is allowed."""
    try:
        limiter.check(address, account)
    except TooManyAttemptsError as error:
        return error.retry_after
    return 0.0


def test_five_failures_in_a_minute_lock_an_account_for_that_address(
    limiter: AttemptLimiter, clock: FakeClock
) -> None:
    fail(limiter, "a", "mei")
    clock.now += 10
    fail(limiter, "a", "mei", 4)
    assert wait(limiter, "a", "mei") == 50  # until the first of them is a minute old
    assert wait(limiter, "a", "li") == wait(limiter, "b", "mei") == 0
    clock.now += 51
    fail(limiter, "a", "mei")
    assert wait(limiter, "a", "mei") == 9  # the window moves


def test_an_address_cannot_try_many_accounts(limiter: AttemptLimiter, clock: FakeClock) -> None:
    for number in range(30):
        fail(limiter, "a", f"user{number}")
    assert wait(limiter, "a", "another") == 600
    assert wait(limiter, "b", "another") == 0
    clock.now += 601
    assert wait(limiter, "a", "another") == 0


def test_an_own_account_does_not_hide_guesses_at_others(limiter: AttemptLimiter) -> None:
    for number in range(30):
        fail(limiter, "a", f"user{number}")
        limiter.succeeded("a", "own") if number < 29 else None
    assert wait(limiter, "a", "user99") > 0


def test_a_success_resets_the_failures(limiter: AttemptLimiter) -> None:
    fail(limiter, "a", "mei", 4)
    limiter.succeeded("a", "mei")
    fail(limiter, "a", "mei", 4)
    assert wait(limiter, "a", "mei") == 0


def test_an_attack_from_many_addresses_is_slow_and_locks_nobody_out(
    limiter: AttemptLimiter, clock: FakeClock
) -> None:
    limiter.succeeded("home", "mei")
    for number in range(20):
        fail(limiter, f"bot{number}", "mei")
    assert wait(limiter, "bot20", "mei") == 0
    assert wait(limiter, "bot21", "mei") == 10  # one in ten seconds, from all of them together
    assert wait(limiter, "home", "mei") == 0
    assert wait(limiter, "bot21", "li") == 0
    clock.now += 10
    assert wait(limiter, "cafe", "mei") == 0  # its owner has a chance from a new place, too
    fail(limiter, "home", "mei", 5)
    assert wait(limiter, "home", "mei") == 60


def test_a_repeated_guess_does_not_count(limiter: AttemptLimiter, clock: FakeClock) -> None:
    """A client with an old key retries for ever, and must not lock out others at its address."""
    for _ in range(100):
        limiter.check("office", None)
        limiter.failed("office", None, "old key")
        clock.now += 0.1
    for number in range(4):
        assert wait(limiter, "office", None) == 0
        limiter.failed("office", None, f"guess {number}")
    assert wait(limiter, "office", None) > 0


def test_keys_belong_to_no_account(limiter: AttemptLimiter) -> None:
    """Wrong keys from many addresses do not slow right keys from others."""
    for number in range(100):
        fail(limiter, f"bot{number}", None)
    assert wait(limiter, "new", None) == 0


def test_each_lock_is_logged_once(
    limiter: AttemptLimiter, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "linly.access"):
        fail(limiter, "a", "mei\nFORGED \x1b[31m" + "x" * 500, 5)
        assert wait(limiter, "a", "mei\nFORGED \x1b[31m" + "x" * 500) > 0
        (line,) = caplog.messages
        assert "from a, last for the account mei\\nFORGED \\x1b[31mxx" in line
        assert len(line) < 150
        caplog.clear()
        clock.now += 61
        fail(limiter, "a", "mei\nFORGED \x1b[31m" + "x" * 500, 5)
        assert len(caplog.messages) == 1


def test_the_refusal_says_when_to_try_again() -> None:
    answer = as_response(TooManyAttemptsError(41.3))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "42")
    assert b"Try again in 41 s." in answer.body


def test_a_hundred_thousand_addresses_and_accounts_take_bounded_memory(clock: FakeClock) -> None:
    limiter = AttemptLimiter(clock, max_keys=1000)
    sizes = []
    tracemalloc.start()
    for number in range(6000):
        limiter.failed(f"address {number} " + "x" * 1000, f"account {number} " + "y" * 1000, "g")
        if number in (2000, 5999):
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[1] < sizes[0] * 1.2


def test_requests_have_a_burst_and_a_rate(clock: FakeClock) -> None:
    limiter = RequestLimiter(per_second=2, burst=3, clock=clock)
    for _ in range(3):
        limiter.check("a")
    with pytest.raises(TooManyRequestsError) as refused:
        limiter.check("a")
    assert refused.value.retry_after == pytest.approx(0.5)
    assert (refused.value.http_status, refused.value.code) == (429, "too_many_requests")
    limiter.check("b")
    clock.now += 0.5
    limiter.check("a")
    with pytest.raises(TooManyRequestsError):
        limiter.check("a")
    clock.now += 100
    for _ in range(3):
        limiter.check("a")
    with pytest.raises(TooManyRequestsError):
        limiter.check("a")


def test_refused_requests_do_not_prolong_the_wait(clock: FakeClock) -> None:
    limiter = RequestLimiter(per_second=1, burst=1, clock=clock)
    limiter.check("a")
    for _ in range(100):
        with pytest.raises(TooManyRequestsError):
            limiter.check("a")
    clock.now += 1
    limiter.check("a")


def test_keys_of_requests_are_bounded(clock: FakeClock) -> None:
    limiter = RequestLimiter(per_second=1, burst=1, clock=clock, max_keys=10)
    for number in range(1000):
        limiter.check(number)
    for number in range(990, 1000):
        with pytest.raises(TooManyRequestsError):
            limiter.check(number)
    for number in range(990):  # forgotten
        limiter.check(number)
