"""Timing of the engine: heartbeat and estimated wait."""

from __future__ import annotations

from model.engine.timing import INITIAL_SECONDS, NEWEST_SHARE, Heartbeat, WaitEstimator


def test_heartbeat_does_not_count_idle_time() -> None:
    now = 0.0
    heartbeat = Heartbeat(lambda: now)
    now = 100.0
    heartbeat.wake()
    assert heartbeat.age == 0
    assert heartbeat.slowest_step is None
    now = 103.0
    assert heartbeat.age == 3
    heartbeat.beat()
    now = 104.0
    heartbeat.beat()
    assert (heartbeat.age, heartbeat.slowest_step) == (0, 3)


def test_estimate_before_any_reply_is_the_initial_one() -> None:
    assert WaitEstimator(1).estimate(0) == INITIAL_SECONDS
    assert WaitEstimator(4).estimate(7) == 2 * INITIAL_SECONDS


def test_first_reply_replaces_the_initial_estimate() -> None:
    estimator = WaitEstimator(2)
    estimator.record(30.0)
    assert estimator.estimate(0) == 15.0
    assert estimator.estimate(3) == 60.0


def test_later_replies_move_the_average_of_the_estimate() -> None:
    estimator = WaitEstimator(1)
    estimator.record(10.0)
    estimator.record(20.0)
    assert estimator.estimate(0) == 10.0 + NEWEST_SHARE * 10.0
    for _ in range(60):
        estimator.record(4.0)
    assert 4.0 <= estimator.estimate(0) < 4.01


def test_estimate_is_at_least_a_second() -> None:
    estimator = WaitEstimator(16)
    estimator.record(0.1)
    assert estimator.estimate(0) == 1.0
