"""How long one would wait, from how long replies took."""

from __future__ import annotations

from model.engine.wait_estimator import INITIAL_SECONDS, NEWEST_SHARE, WaitEstimator


def test_before_any_reply_it_is_a_guess() -> None:
    assert WaitEstimator(1).estimate(0) == INITIAL_SECONDS
    assert WaitEstimator(4).estimate(7) == 2 * INITIAL_SECONDS


def test_the_first_reply_replaces_the_guess() -> None:
    pace = WaitEstimator(2)
    pace.record(30.0)
    assert pace.estimate(0) == 15.0
    assert pace.estimate(3) == 60.0


def test_later_replies_move_the_average() -> None:
    pace = WaitEstimator(1)
    pace.record(10.0)
    pace.record(20.0)
    assert pace.estimate(0) == 10.0 + NEWEST_SHARE * 10.0
    for _ in range(60):
        pace.record(4.0)
    assert 4.0 <= pace.estimate(0) < 4.01


def test_nobody_is_told_to_come_back_at_once() -> None:
    pace = WaitEstimator(16)
    pace.record(0.1)
    assert pace.estimate(0) == 1.0
